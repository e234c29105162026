//! The Hub as a server on this machine that answers as it is told, its cache as Hugging Face's libraries lay it out.

use super::{HubConfig, HubName, Snapshot, resolve};
use crate::tensors::hexadecimal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::spawn;
use std::time::Duration;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const WEIGHTS: &[u8] = b"weights of the model, quite a few of them";

/// One answer: a status, what its length is said to be, and the body.
#[derive(Clone)]
struct Answer(u16, usize, Vec<u8>);

impl Answer {
    fn of(body: impl AsRef<[u8]>) -> Self {
        Self(200, body.as_ref().len(), body.as_ref().to_vec())
    }
}

struct Server {
    url: String,
    answers: Arc<Mutex<BTreeMap<String, Vec<Answer>>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Serves a model of these files; each path's answers are given one after the other, the last one again and again.
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { url, answers: Arc::default(), asked: Arc::default() };
        let (answers, asked) = (Arc::clone(&server.answers), Arc::clone(&server.asked));
        spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = String::new();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while !head.ends_with("\r\n\r\n") {
                    if reader.read_line(&mut head).unwrap() == 0 {
                        break;
                    }
                }
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                let start = head
                    .to_lowercase()
                    .split_once("range: bytes=")
                    .map(|(_, rest)| rest.split('-').next().unwrap().parse::<usize>().unwrap());
                asked.lock().unwrap().push(head);
                let mut answers = answers.lock().unwrap();
                let Answer(status, length, body) = match answers.get_mut(&path) {
                    None => Answer(404, 0, Vec::new()),
                    Some(list) if list.len() > 1 => list.remove(0),
                    Some(list) => list[0].clone(),
                };
                let (status, from) = start.map_or((status, 0), |start| (206, start));
                let length = length - from;
                let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[from..])).ok();
            }
        });
        server
            .answer(&format!("/api/models/org/tiny/revision/{}?blobs=true", "main"), Answer::of(listing().to_string()));
        server.answer(&path_of("config.json"), Answer::of("{}"));
        server.answer(&path_of("tokenizer.json"), Answer::of("[]"));
        server.answer(&path_of("model.safetensors"), Answer::of(WEIGHTS));
        server
    }

    fn answer(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(path.to_owned(), vec![answer]);
    }

    fn answer_first(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().get_mut(path).unwrap().insert(0, answer);
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn config(&self, cache: &Path) -> HubConfig {
        HubConfig {
            endpoint: self.url.clone(),
            cache: cache.to_owned(),
            token: Some("secret".to_owned()),
            offline: false,
            timeout: Duration::from_secs(5),
            attempts: 2,
            pause: Duration::from_millis(1),
        }
    }
}

fn path_of(file: &str) -> String {
    format!("/org/tiny/resolve/{COMMIT}/{file}")
}

fn plain(name: &str, size: usize, blob: char) -> Value {
    json!({ "rfilename": name, "size": size, "blobId": blob.to_string().repeat(40) })
}

fn large(name: &str, content: &[u8]) -> Value {
    let sha256 = hexadecimal(&Sha256::digest(content));
    json!({ "rfilename": name, "size": content.len(), "blobId": "e".repeat(40), "lfs": { "sha256": sha256, "size": content.len() } })
}

fn listing() -> Value {
    let files = [
        plain("README.md", 9, 'a'),
        plain("config.json", 2, 'b'),
        plain("tokenizer.json", 2, 'c'),
        large("model.safetensors", WEIGHTS),
    ];
    json!({ "sha": COMMIT, "siblings": files })
}

fn name() -> HubName {
    HubName::parse("org/tiny").unwrap()
}

fn ask(config: &HubConfig) -> Result<Snapshot, String> {
    resolve(config, &name(), &mut |_, _| {}).map_err(|error| {
        let message = error.to_string();
        assert!(message.starts_with("org/tiny@main on the Hub: ") && !message.contains("secret"), "{message}");
        message
    })
}

#[test]
fn a_model_is_downloaded_once_and_then_found() {
    let (server, cache) = (Server::new(), tempfile::tempdir().unwrap());
    let config = server.config(cache.path());
    let mut told = Vec::new();
    let found = resolve(&config, &name(), &mut |file, size| told.push((file.to_owned(), size))).unwrap();
    assert_eq!(found.commit, COMMIT);
    assert_eq!(fs::read(found.folder.join("model.safetensors")).unwrap(), WEIGHTS);
    let expected = [("config.json", 2), ("tokenizer.json", 2), ("model.safetensors", WEIGHTS.len() as u64)];
    assert_eq!(told, expected.map(|(file, size)| (file.to_owned(), size)));
    let asked = server.asked();
    assert_eq!(asked.len(), 4);
    assert!(asked.iter().all(|head| head.to_lowercase().contains("authorization: bearer secret")));
    // As Hugging Face's libraries lay it out.
    let model = cache.path().join("models--org--tiny");
    assert_eq!(fs::read_to_string(model.join("refs/main")).unwrap(), COMMIT);
    assert!(model.join("blobs").join(hexadecimal(&Sha256::digest(WEIGHTS))).is_file());
    #[cfg(unix)]
    assert_eq!(fs::read_link(found.folder.join("config.json")).unwrap(), Path::new("../../blobs").join("b".repeat(40)));

    // The branch may have moved, so it is asked for; a commit cannot.
    assert_eq!(ask(&config).unwrap(), found);
    assert_eq!(server.asked().len(), 1);
    let by_commit = HubName::parse(&format!("org/tiny@{COMMIT}")).unwrap();
    assert_eq!(resolve(&config, &by_commit, &mut |_, _| panic!("nothing is downloaded")).unwrap(), found);
    assert!(server.asked().is_empty());
    // Without a network, or without leave to use it, the cache's word counts.
    assert_eq!(ask(&HubConfig { offline: true, ..config.clone() }).unwrap(), found);
    assert_eq!(ask(&HubConfig { endpoint: "http://127.0.0.1:1".to_owned(), ..config }).unwrap(), found);
    assert!(server.asked().is_empty());
}

#[test]
fn what_is_not_in_the_cache_offline_is_named() {
    let cache = tempfile::tempdir().unwrap();
    let config = HubConfig { offline: true, ..Server::new().config(cache.path()) };
    assert!(ask(&config).unwrap_err().ends_with(", and HF_HUB_OFFLINE is set"));
}

#[test]
fn a_model_of_which_a_part_is_missing_is_not_taken_for_whole() {
    let (server, cache) = (Server::new(), tempfile::tempdir().unwrap());
    let config = server.config(cache.path());
    let found = ask(&config).unwrap();
    fs::remove_file(found.folder.join("model.safetensors")).unwrap();
    assert!(ask(&HubConfig { offline: true, ..config.clone() }).is_err());
    server.asked();
    assert_eq!(ask(&config).unwrap(), found);
    // The content is still there: it is only linked again.
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn a_shard_is_downloaded_with_its_index_and_none_that_leads_elsewhere() {
    let resolve_with = |shard: &str| {
        let (server, cache) = (Server::new(), tempfile::tempdir().unwrap());
        let index = json!({ "weight_map": { "a.weight": shard } }).to_string();
        let mut listing = listing();
        let files = listing["siblings"].as_array_mut().unwrap();
        files.pop();
        files.extend([large(shard, WEIGHTS), plain("model.safetensors.index.json", index.len(), 'd')]);
        server.answer("/api/models/org/tiny/revision/main?blobs=true", Answer::of(listing.to_string()));
        server.answer(&path_of("model.safetensors.index.json"), Answer::of(index));
        server.answer(&path_of(shard), Answer::of(WEIGHTS));
        ask(&server.config(cache.path())).map(|found| fs::read(found.folder.join(shard)).unwrap())
    };
    assert_eq!(resolve_with("model-00001-of-00001.safetensors").unwrap(), WEIGHTS);
    for shard in
        ["../../evil.safetensors", "/etc/evil.safetensors", "sub/a.safetensors", "..", "a.pkl", "c:evil.safetensors"]
    {
        let message = resolve_with(shard).unwrap_err();
        assert!(message.contains("leads elsewhere"), "{shard}: {message}");
    }
}

#[test]
fn a_cut_download_goes_on_where_it_ended() {
    let (server, cache) = (Server::new(), tempfile::tempdir().unwrap());
    let cut = Answer(200, WEIGHTS.len(), WEIGHTS[..10].to_vec());
    server.answer_first(&path_of("model.safetensors"), cut.clone());
    let found = ask(&server.config(cache.path())).unwrap();
    assert_eq!(fs::read(found.folder.join("model.safetensors")).unwrap(), WEIGHTS);
    assert!(server.asked().last().unwrap().to_lowercase().contains("range: bytes=10-"));

    // The last attempt's failure is told, what came is kept, and the next call goes on from there.
    let cache = tempfile::tempdir().unwrap();
    server.answer_first(&path_of("model.safetensors"), cut);
    let config = server.config(cache.path());
    let message = ask(&HubConfig { attempts: 1, ..config.clone() }).unwrap_err();
    assert!(message.contains(&path_of("model.safetensors")), "{message}");
    let blob = cache.path().join("models--org--tiny/blobs").join(hexadecimal(&Sha256::digest(WEIGHTS)));
    assert_eq!(fs::read(blob.with_extension("incomplete")).unwrap(), &WEIGHTS[..10]);
    assert!(!blob.exists() && ask(&HubConfig { offline: true, ..config.clone() }).is_err());
    assert_eq!(fs::read(ask(&config).unwrap().folder.join("model.safetensors")).unwrap(), WEIGHTS);
}

#[test]
fn a_file_that_is_shorter_longer_or_other_than_the_hub_says_is_refused() {
    let told = |content: &[u8]| {
        let (server, cache) = (Server::new(), tempfile::tempdir().unwrap());
        // Longer than a body that goes on where the last one ended.
        server.answer(&path_of("model.safetensors"), Answer::of(content));
        let message = ask(&HubConfig { attempts: 1, ..server.config(cache.path()) }).unwrap_err();
        let blobs = cache.path().join("models--org--tiny/blobs");
        assert!(!blobs.join(hexadecimal(&Sha256::digest(WEIGHTS))).exists(), "{message}");
        message
    };
    let n = WEIGHTS.len();
    assert!(told(&WEIGHTS[..10]).ends_with(&format!("it is truncated, 10 of {n} bytes came")));
    assert!(told(&[WEIGHTS, b"!"].concat()).ends_with(&format!("it is longer than the {n} bytes that the Hub says")));
    let message = told(&vec![b'x'; n]);
    assert!(message.contains("SHA-256 is ") && message.contains(", the Hub says "), "{message}");
}

#[test]
fn statuses_are_told_with_the_model_and_those_that_pass_are_asked_again() {
    let api = "/api/models/org/tiny/revision/main?blobs=true";
    for (status, said) in [(404, "there is no such model"), (401, "HF_TOKEN"), (403, "HF_TOKEN"), (503, "status 503")] {
        let (server, cache) = (Server::new(), tempfile::tempdir().unwrap());
        server.answer(api, Answer(status, 0, Vec::new()));
        let message = ask(&server.config(cache.path())).unwrap_err();
        assert!(message.contains(said) && message.contains(&format!("status {status}")), "{message}");
        assert_eq!(server.asked().len(), if status == 503 { 2 } else { 1 });
    }
    let (server, cache) = (Server::new(), tempfile::tempdir().unwrap());
    server.answer_first(api, Answer(429, 0, Vec::new()));
    assert!(ask(&server.config(cache.path())).is_ok());
}

#[test]
fn an_answer_that_is_malformed_or_names_other_places_is_refused() {
    let with = |key: &str, value: Value| {
        let mut listing = listing();
        listing["siblings"][3]["lfs"][key] = value;
        listing.to_string()
    };
    for (answer, said) in [
        ("<html>".to_owned(), "the answer is not a model's"),
        (json!({ "sha": "../../x", "siblings": [] }).to_string(), "the answer names no commit"),
        (json!({ "sha": COMMIT, "siblings": [] }).to_string(), "has no config.json"),
        (with("sha256", json!("../../../evil")), "the Hub names the content of model.safetensors"),
        (json!({ "sha": COMMIT, "siblings": [{ "rfilename": "config.json" }] }).to_string(), "does not say how large"),
    ] {
        let (server, cache) = (Server::new(), tempfile::tempdir().unwrap());
        server.answer("/api/models/org/tiny/revision/main?blobs=true", Answer::of(&answer));
        let message = ask(&server.config(cache.path())).unwrap_err();
        assert!(message.contains(said), "{answer}: {message}");
    }
}

#[test]
fn names_are_parsed_and_paths_are_no_names() {
    let name = HubName::parse("HuggingFaceTB/SmolLM2-135M@v1.0").unwrap();
    assert_eq!((name.repository.as_str(), name.revision.as_str()), ("HuggingFaceTB/SmolLM2-135M", "v1.0"));
    assert_eq!(HubName::parse("a/b@refs/pr/1").unwrap().revision, "refs/pr/1");
    assert_eq!(HubName::parse("a/b").unwrap().to_string(), "a/b@main");
    for no_name in [
        "a", "a/b/c", "/a", "a/", "../b", "a/..", "./b", "a/b@", "a/b@../x", "a/b@/x", "a/b c", "a--b/c", "a/-b",
        "a\\b/c", "",
    ] {
        assert_eq!(HubName::parse(no_name), None, "{no_name}");
    }
}

#[test]
fn the_environment_is_read_as_hugging_face_reads_it() {
    let config = |set: &[(&str, &str)]| {
        HubConfig::from_variables(|name| set.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned()))
    };
    let plain = config(&[("HOME", "/h")]);
    assert_eq!((plain.endpoint.as_str(), plain.token, plain.offline), ("https://huggingface.co", None, false));
    assert_eq!(plain.cache, Path::new("/h/.cache/huggingface/hub"));
    assert_eq!(config(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")]).cache, Path::new("/x/huggingface/hub"));
    assert_eq!(config(&[("HF_HOME", "/f"), ("HOME", "/h")]).cache, Path::new("/f/hub"));
    let set = [
        ("HF_HUB_CACHE", "/c"),
        ("HF_HOME", "/f"),
        ("HF_TOKEN", "t"),
        ("HF_HUB_OFFLINE", "YES"),
        ("HF_ENDPOINT", "http://m"),
    ];
    let all = config(&set);
    assert_eq!((all.cache.as_path(), all.token.as_deref(), all.offline), (Path::new("/c"), Some("t"), true));
    assert_eq!(all.endpoint, "http://m");
    assert!(!config(&[("HF_HUB_OFFLINE", "0"), ("HF_TOKEN", "")]).offline);
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("token"), "kept\n").unwrap();
    assert_eq!(config(&[("HF_HOME", home.path().to_str().unwrap())]).token.as_deref(), Some("kept"));
}
