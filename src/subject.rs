//! What can be asked, as it is named on the command line: a model as a folder, a GGUF file or a name on the Hub, a server, stored answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use evals::diagnosis::PhaseInfo;
use lm::hub::{self, HubConfig, HubName};
use lm::lineage::Lineage;
use lm::server::{Server, ServerConfig};
use lm::{LoadedModel, Subject, gguf};
use probes::answers::StoredAnswers;
use probes::item::Item;

use crate::cli::ServerArgs;
use crate::device;
use crate::exit::Usage;
use crate::output;

/// Where a subject is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A checkpoint folder in Hugging Face's layout.
    Folder(PathBuf),
    /// A GGUF file.
    Gguf(PathBuf),
    /// A model on the Hub: `hub:ORG/NAME@REVISION`.
    Hub(HubName),
    /// A file of stored answers.
    Answers(PathBuf),
    /// A model behind a server with `OpenAI`'s interface: `http://HOST/v1#MODEL`.
    Server(Address),
}

/// Where a server is, and how it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    url: String,
    /// Empty for the only one that the server has.
    model: String,
    in_flight: usize,
}

/// The environment variable that holds the key of a server; never an argument, which other users of a machine can see.
const API_KEY: &str = "PHASETRACE_API_KEY";

impl Place {
    /// Reads what stands on the command line.
    ///
    /// # Errors
    /// Where nothing is there, or a name on the Hub is none.
    pub(crate) fn parse(text: &str, servers: &ServerArgs) -> Result<Self> {
        if text.starts_with("http://") || text.starts_with("https://") {
            let (url, model) = text.split_once('#').unwrap_or((text, ""));
            let in_flight = usize::from(servers.in_flight);
            return Ok(Self::Server(Address { url: url.to_owned(), model: model.to_owned(), in_flight }));
        }
        if let Some(name) = text.strip_prefix("hub:") {
            let name = HubName::parse(name);
            return Ok(Self::Hub(name.ok_or_else(|| Usage(format!("{text}: expected hub:ORG/NAME@REVISION")))?));
        }
        let path = PathBuf::from(text);
        if path.is_dir() {
            return Ok(Self::Folder(path));
        }
        let kind = path.extension().map(std::ffi::OsStr::to_ascii_lowercase);
        match kind.as_ref().and_then(|kind| kind.to_str()) {
            Some("gguf") if path.is_file() => Ok(Self::Gguf(path)),
            Some("jsonl") if path.is_file() => Ok(Self::Answers(path)),
            Some("gguf" | "jsonl") => bail!("{text} is no file"),
            _ => bail!("{text} is no folder"),
        }
    }

    /// A name for it: its own without folders.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Folder(path) | Self::Gguf(path) | Self::Answers(path) => {
                path.file_stem().map_or_else(|| "checkpoint".to_owned(), |name| name.to_string_lossy().into_owned())
            }
            Self::Hub(name) => name.to_string(),
            Self::Server(Address { model, .. }) if model.is_empty() => "server".to_owned(),
            Self::Server(Address { model, .. }) => model.clone(),
        }
    }

    /// Opens it; `items` are what it will be asked, and `folder` keeps the answers.
    pub(crate) fn open(&self, items: &[Item], folder: &Path) -> Result<Box<dyn Subject>> {
        match self {
            Self::Folder(path) => Ok(Box::new(load(path)?)),
            Self::Gguf(path) => {
                let model = gguf::read(path).and_then(LoadedModel::from_parts);
                let model = model.with_context(|| format!("cannot load {}", path.display()))?;
                Ok(Box::new(device::ask_there(model)?))
            }
            Self::Hub(name) => {
                let config = HubConfig::from_variables(|name| std::env::var(name).ok());
                let snapshot = hub::resolve(&config, name, &mut |file, n_bytes| {
                    output::tell(&format!("downloading {file} of {name}, {} MB\n", n_bytes.div_ceil(1_000_000)));
                })?;
                // What a branch stands for today is to be seen in whatever is kept of the output.
                output::tell(&format!("{name} is commit {}\n", snapshot.commit));
                Ok(Box::new(load(&snapshot.folder)?))
            }
            Self::Answers(path) => {
                let answers = StoredAnswers::load(path, items)?;
                for note in answers.notes() {
                    output::tell(&format!("note: {note}\n"));
                }
                Ok(Box::new(answers))
            }
            Self::Server(Address { url, model, in_flight }) => {
                // One journal for each model: two of them may be asked for one report.
                let name: String =
                    format!("{url} {model}").chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
                std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
                let config = ServerConfig {
                    api_key: std::env::var(API_KEY).ok().filter(|key| !key.is_empty()),
                    in_flight: *in_flight,
                    journal: Some(folder.join(format!("{name}.journal.jsonl"))),
                    ..ServerConfig::new(url, model)
                };
                Ok(Box::new(Server::connect(config)?))
            }
        }
    }

    /// How a report names the phase that this is the checkpoint of.
    pub(crate) fn phase(&self, name: &str, subject: &dyn Subject) -> Result<PhaseInfo> {
        let lineage = match self {
            Self::Folder(path) => Lineage::load(path)?,
            Self::Gguf(_) | Self::Hub(_) | Self::Answers(_) | Self::Server(_) => None,
        };
        let metrics = lineage.map_or_else(BTreeMap::new, |lineage| lineage.metrics);
        Ok(PhaseInfo { name: name.to_owned(), checkpoint: subject.fingerprint().to_owned(), metrics, cost: None })
    }
}

/// Loads a checkpoint folder, to be asked on the chosen device.
pub(crate) fn load(path: &Path) -> Result<LoadedModel> {
    let model = LoadedModel::load(path).with_context(|| format!("cannot load checkpoint {}", path.display()))?;
    device::ask_there(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_known_by_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(at("model.GGUF"), "GGUF").unwrap();
        std::fs::write(at("answers.jsonl"), "{}").unwrap();
        let parse = |text: &str| Place::parse(text, &ServerArgs { in_flight: 4 });
        assert_eq!(parse(&at("")).unwrap(), Place::Folder(at("").into()));
        assert_eq!(parse(&at("model.GGUF")).unwrap(), Place::Gguf(at("model.GGUF").into()));
        assert_eq!(parse(&at("answers.jsonl")).unwrap(), Place::Answers(at("answers.jsonl").into()));
        assert_eq!(parse("hub:org/name@v1").unwrap().name(), "org/name@v1");
        let server = Address { url: "http://127.0.0.1:8000/v1".to_owned(), model: "org/m".to_owned(), in_flight: 4 };
        assert_eq!(parse("http://127.0.0.1:8000/v1#org/m").unwrap(), Place::Server(server));
        assert_eq!(parse("https://localhost/v1").unwrap().name(), "server");
        let error = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(error("hub:../name"), "hub:../name: expected hub:ORG/NAME@REVISION");
        assert_eq!(error("nowhere/sft"), "nowhere/sft is no folder");
        assert_eq!(error("nowhere.gguf"), "nowhere.gguf is no file");
    }
}
