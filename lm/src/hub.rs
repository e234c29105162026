//! Models by their names on the Hugging Face Hub: found in its local cache, or downloaded into it.
//!
//! The cache is the one of Hugging Face's own libraries (`models--ORG--NAME/{refs,blobs,snapshots}`), so what one of them has
//! downloaded is found, and the other way round.

use crate::tensors::{self, hexadecimal};
use crate::{Error, Result};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;
use ureq::config::RedirectAuthHeaders;
use ureq::http::StatusCode;
use ureq::{Agent, Body, http::Response};

/// Where models are looked for, and how patiently.
#[derive(Debug, Clone, PartialEq)]
pub struct HubConfig {
    /// Address of the Hub or of a mirror of it.
    pub endpoint: String,
    /// Folder of the cache.
    pub cache: PathBuf,
    /// Sent to the Hub alone, as a bearer token; it stands in no message.
    pub token: Option<String>,
    /// Whether only the cache is asked.
    pub offline: bool,
    /// Longest time without an answer.
    pub timeout: Duration,
    /// Attempts at one question or file, at least one; a file goes on where the last attempt left it.
    pub attempts: usize,
    /// Pause after the first failed attempt; it doubles with each.
    pub pause: Duration,
}

impl HubConfig {
    /// Takes what Hugging Face's libraries take from the environment: `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `HF_TOKEN`,
    /// `HF_HUB_OFFLINE`; `variable` looks one up.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let user_cache = || {
            let below_home = || Some(PathBuf::from(set("HOME").or_else(|| set("USERPROFILE"))?).join(".cache"));
            set("XDG_CACHE_HOME").map(PathBuf::from).or_else(below_home).unwrap_or_default().join("huggingface")
        };
        let home = set("HF_HOME").map_or_else(user_cache, PathBuf::from);
        let stored_token = || fs::read_to_string(home.join("token")).ok().map(|token| token.trim().to_owned());
        Self {
            endpoint: set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
            token: set("HF_TOKEN").or_else(stored_token).filter(|token| !token.is_empty()),
            offline: set("HF_HUB_OFFLINE")
                .is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())),
            cache: set("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            timeout: Duration::from_secs(60),
            attempts: 5,
            pause: Duration::from_secs(1),
        }
    }
}

/// A model's name on the Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubName {
    /// Organisation and name, `org/name`.
    pub repository: String,
    /// A branch, a tag, or a commit.
    pub revision: String,
}

impl HubName {
    /// Parses `org/name` or `org/name@revision`, of which the revision is `main` where none is given; none where the text is no
    /// such name. Whoever takes paths as well looks for a folder of that name first.
    pub fn parse(text: &str) -> Option<Self> {
        let (repository, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (organisation, name) = repository.split_once('/')?;
        let fits = is_plain(organisation) && is_plain(name) && revision.split('/').all(is_plain);
        fits.then(|| Self { repository: repository.to_owned(), revision: revision.to_owned() })
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}@{}", self.repository, self.revision)
    }
}

/// Whether a text can be one part of a path and leads nowhere else.
fn is_plain(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c);
    part.chars().all(allowed) && part.chars().next().is_some_and(|c| c != '.' && c != '-') && !part.contains("--")
}

/// A model at one commit, on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder, in Hugging Face's layout.
    pub folder: PathBuf,
    /// The commit, in hexadecimal: what the name stood for, to be written down beside whatever is measured.
    pub commit: String,
}

/// Files without which no model can be read, and those that are taken where there are any. Nothing else is downloaded.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
const OPTIONAL: [&str; 3] = ["generation_config.json", "tokenizer_config.json", "chat_template.jinja"];

/// Finds a model: a commit that is in the cache is taken from there without asking anyone; else the Hub says which commit the
/// revision stands for, and what is missing of it is downloaded. Where the Hub cannot be reached, what the cache knows counts.
///
/// `downloading` is told each file that is downloaded and its size in bytes.
///
/// # Errors
/// [`Error::Hub`] names the model and what is wrong: the status, a file that is missing, truncated or not what the Hub says.
pub fn resolve(config: &HubConfig, name: &HubName, downloading: &mut dyn FnMut(&str, u64)) -> Result<Snapshot> {
    let hub = Hub::new(config, name);
    if is_commit(&name.revision)
        && let Some(found) = hub.cached(&name.revision)
    {
        return Ok(found);
    }
    let known = fs::read_to_string(hub.folder.join("refs").join(&name.revision)).ok();
    let known = || hub.cached(known.as_deref()?.trim());
    if config.offline {
        return known()
            .ok_or_else(|| hub.error(format!("not in {}, and HF_HUB_OFFLINE is set", config.cache.display())));
    }
    let listing = match hub.listing() {
        Ok(listing) => listing,
        Err(Failure::Unreachable(message)) => return known().ok_or_else(|| hub.error(message)),
        Err(Failure::Refused(message)) => return Err(hub.error(message)),
    };
    hub.fetch(&listing, downloading)?;
    if !is_commit(&name.revision) {
        write_whole(&hub.folder.join("refs").join(&name.revision), listing.sha.as_bytes())?;
    }
    hub.cached(&listing.sha).ok_or_else(|| hub.error("what was downloaded is not complete".to_owned()))
}

/// What the Hub says of a revision.
#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Stored>,
}

/// One file there.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    sha256: String,
}

enum Failure {
    /// Nobody answered.
    Unreachable(String),
    /// Somebody did.
    Refused(String),
}

struct Hub<'a> {
    config: &'a HubConfig,
    name: &'a HubName,
    /// The model's folder in the cache.
    folder: PathBuf,
    agent: Agent,
}

impl<'a> Hub<'a> {
    fn new(config: &'a HubConfig, name: &'a HubName) -> Self {
        let folder = config.cache.join(format!("models--{}", name.repository.replace('/', "--")));
        let agent = Agent::config_builder()
            .timeout_connect(Some(config.timeout))
            .timeout_recv_response(Some(config.timeout))
            .timeout_per_read(Some(config.timeout))
            // Large files lie elsewhere, and a renamed model on the same host.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .http_status_as_error(false)
            .build()
            .into();
        Self { config, name, folder, agent }
    }

    fn error(&self, message: String) -> Error {
        Error::Hub { name: self.name.to_string(), message }
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// A commit of which the cache has all that is needed.
    fn cached(&self, commit: &str) -> Option<Snapshot> {
        let folder = self.snapshot(commit);
        let has = |file: &str| folder.join(file).is_file();
        let has_weights = || match fs::read_to_string(folder.join(tensors::INDEX_FILE)) {
            Ok(index) => shards(&index).is_ok_and(|shards| shards.iter().all(|shard| has(shard))),
            Err(_) => has(tensors::FILE),
        };
        (is_commit(commit) && NEEDED.into_iter().all(has) && has_weights())
            .then(|| Snapshot { folder, commit: commit.to_owned() })
    }

    fn listing(&self) -> std::result::Result<Listing, Failure> {
        let HubName { repository, revision } = self.name;
        let revision = revision.replace('/', "%2F");
        let url = format!("{}/api/models/{repository}/revision/{revision}?blobs=true", self.endpoint());
        let mut response = self.ask(&url, 0)?;
        let text = response.body_mut().read_to_string().map_err(|error| Failure::Unreachable(error.to_string()))?;
        let listing: Listing = serde_json::from_str(&text)
            .map_err(|error| Failure::Refused(format!("{url}: the answer is not a model's: {error}")))?;
        if !is_commit(&listing.sha) {
            return Err(Failure::Refused(format!("{url}: the answer names no commit")));
        }
        Ok(listing)
    }

    fn endpoint(&self) -> &str {
        self.config.endpoint.trim_end_matches('/')
    }

    /// An answer of status 2xx, from byte `start` on if there is anything before it.
    fn ask(&self, url: &str, start: u64) -> std::result::Result<Response<Body>, Failure> {
        let mut pause = self.config.pause;
        for attempt in 1.. {
            let mut call = self.agent.get(url);
            if let Some(token) = &self.config.token {
                call = call.header("Authorization", format!("Bearer {token}"));
            }
            if start > 0 {
                call = call.header("Range", format!("bytes={start}-"));
            }
            let failure = match call.call() {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    let status = response.status();
                    let message = format!("{url}: status {}{}", status.as_u16(), hint(status));
                    if status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
                        return Err(Failure::Refused(message));
                    }
                    Failure::Refused(message)
                }
                Err(error) => Failure::Unreachable(format!("{url}: {error}")),
            };
            if attempt >= self.config.attempts {
                return Err(failure);
            }
            sleep(pause);
            pause *= 2;
        }
        unreachable!("the last attempt returns")
    }

    /// Downloads what the cache lacks of a commit.
    fn fetch(&self, listing: &Listing, downloading: &mut dyn FnMut(&str, u64)) -> Result<()> {
        let files: BTreeMap<&str, &Stored> = listing.siblings.iter().map(|it| (it.rfilename.as_str(), it)).collect();
        let mut wanted: Vec<&str> = NEEDED.to_vec();
        wanted.extend(OPTIONAL.into_iter().filter(|file| files.contains_key(file)));
        let is_sharded = !files.contains_key(tensors::FILE);
        wanted.push(if is_sharded { tensors::INDEX_FILE } else { tensors::FILE });
        let mut fetch = |file: &str| {
            let stored = files.get(file).ok_or_else(|| self.error(format!("commit {} has no {file}", listing.sha)))?;
            self.fetch_file(&listing.sha, stored, downloading)
        };
        for file in wanted {
            fetch(file)?;
        }
        if is_sharded {
            let path = self.snapshot(&listing.sha).join(tensors::INDEX_FILE);
            let index = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
            for shard in shards(&index).map_err(|reason| self.error(format!("{}: {reason}", tensors::INDEX_FILE)))? {
                fetch(&shard)?;
            }
        }
        Ok(())
    }

    /// Downloads one file, checks it, and links it into the snapshot.
    fn fetch_file(&self, commit: &str, stored: &Stored, downloading: &mut dyn FnMut(&str, u64)) -> Result<()> {
        let file = stored.rfilename.as_str();
        let link = self.snapshot(commit).join(file);
        if link.is_file() {
            return Ok(());
        }
        let sha256 = stored.lfs.as_ref().map(|large| large.sha256.as_str());
        let (Some(size), Some(blob)) = (stored.size, sha256.or(stored.blob_id.as_deref())) else {
            return Err(self.error(format!("the Hub does not say how large {file} is and what is in it")));
        };
        if !is_hexadecimal(blob) {
            return Err(self.error(format!("the Hub names the content of {file} {blob:?}")));
        }
        let path = self.folder.join("blobs").join(blob);
        if !path.is_file() {
            downloading(file, size);
            let url = format!("{}/{}/resolve/{commit}/{file}", self.endpoint(), self.name.repository);
            self.download(&url, &path, size, sha256)?;
        }
        link_blob(&path, &link)
    }

    fn download(&self, url: &str, path: &Path, size: u64, sha256: Option<&str>) -> Result<()> {
        create_parent(path)?;
        let partial = path.with_extension("incomplete");
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&partial);
        let mut file = open.map_err(Error::io("write", &partial))?;
        // Whoever downloads the same content waits; a file system without locks is worked on without.
        file.lock().ok();
        if path.is_file() {
            return Ok(());
        }
        for attempt in 1.. {
            let outcome = self.append(url, &mut file, &partial, size)?;
            let Err(message) = outcome else { break };
            if attempt >= self.config.attempts {
                return Err(self.error(message));
            }
            sleep(self.config.pause);
        }
        if let Some(expected) = sha256 {
            let found = hash(&mut file, &partial)?;
            if found != expected {
                fs::remove_file(&partial).map_err(Error::io("remove", &partial))?;
                return Err(self.error(format!("{url}: SHA-256 is {found}, the Hub says {expected}")));
            }
        }
        fs::rename(&partial, path).map_err(Error::io("rename to", path))
    }

    /// Goes on where the file ends; the inner error is one that another attempt may not meet.
    fn append(&self, url: &str, file: &mut File, partial: &Path, size: u64) -> Result<std::result::Result<(), String>> {
        let mut n_bytes = file.seek(SeekFrom::End(0)).map_err(Error::io("read", partial))?;
        if n_bytes < size {
            let response = match self.ask(url, n_bytes) {
                Ok(response) => response,
                Err(Failure::Unreachable(message) | Failure::Refused(message)) => return Err(self.error(message)),
            };
            if response.status() != StatusCode::PARTIAL_CONTENT {
                file.set_len(0).and_then(|()| file.rewind()).map_err(Error::io("write", partial))?;
                n_bytes = 0;
            }
            let mut body = response.into_body().into_reader().take(size + 1 - n_bytes);
            let mut buffer = vec![0; 1 << 16];
            loop {
                match body.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(n) => file.write_all(&buffer[..n]).map_err(Error::io("write", partial))?,
                    Err(error) => return Ok(Err(format!("{url}: {error}"))),
                }
            }
            n_bytes = file.stream_position().map_err(Error::io("read", partial))?;
        }
        if n_bytes > size {
            fs::remove_file(partial).map_err(Error::io("remove", partial))?;
            return Err(self.error(format!("{url}: it is longer than the {size} bytes that the Hub says")));
        }
        let message = || format!("{url}: it is truncated, {n_bytes} of {size} bytes came");
        Ok(if n_bytes == size { Ok(()) } else { Err(message()) })
    }
}

/// What a status may mean.
fn hint(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 | 403 => ": it is private or gated or not there; HF_TOKEN says who asks",
        404 => ": there is no such model, revision or file",
        _ => "",
    }
}

fn is_hexadecimal(text: &str) -> bool {
    (40..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_hexadecimal(text)
}

/// The files that an index names, each of which lies beside it.
fn shards(index: &str) -> std::result::Result<BTreeSet<String>, String> {
    let index: tensors::ShardIndex = serde_json::from_str(index).map_err(|error| error.to_string())?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    match shards.iter().find(|shard| !is_plain(shard) || !shard.ends_with(".safetensors")) {
        Some(shard) => Err(format!("it names the shard {shard:?}, which leads elsewhere")),
        None => Ok(shards),
    }
}

fn hash(file: &mut File, path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    file.rewind().map_err(Error::io("read", path))?;
    loop {
        match file.read(&mut buffer).map_err(Error::io("read", path))? {
            0 => return Ok(hexadecimal(&hasher.finalize())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

fn create_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), |folder| fs::create_dir_all(folder).map_err(Error::io("create", folder)))
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    create_parent(path)?;
    let partial = path.with_extension("incomplete");
    fs::write(&partial, bytes).map_err(Error::io("write", &partial))?;
    fs::rename(&partial, path).map_err(Error::io("rename to", path))
}

/// Makes a file of a snapshot out of a blob: a relative link, as Hugging Face's libraries make it.
#[cfg(unix)]
fn link_blob(blob: &Path, link: &Path) -> Result<()> {
    create_parent(link)?;
    let target = Path::new("../../blobs").join(blob.file_name().unwrap_or_default());
    // A link that leads nowhere is what is left of a blob that was removed.
    fs::remove_file(link).ok();
    match std::os::unix::fs::symlink(target, link) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::io("write", link)(error)),
        _ => Ok(()),
    }
}

/// Where links need rights of their own, the file is copied.
#[cfg(not(unix))]
fn link_blob(blob: &Path, link: &Path) -> Result<()> {
    write_whole(link, &fs::read(blob).map_err(Error::io("read", blob))?)
}

#[cfg(test)]
mod tests;
