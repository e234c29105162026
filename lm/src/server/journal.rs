//! What a server has answered, as it comes: after a kill nothing is asked twice.
//!
//! A file of JSON lines. The first is [`HEADER`]; each other one is an answer under the key of its request. A line is written and synced as a whole before
//! the answer is used; what a kill left of the last one is cut off. Failures are not kept: the next run tries again.

use crate::subject::{Generation, Score};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The first line of a journal.
const HEADER: &str = r#"{"format":"phasetrace server journal","version":1}"#;

/// An open journal; no other process has it meanwhile.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    known: BTreeMap<String, Kept>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kept {
    Score(Score),
    Generation(Generation),
}

/// A line. Numbers are strings, which keep their last bit.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    score: Option<ScoreEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generation: Option<GenerationEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScoreEntry {
    log_prob_nats: String,
    n_tokens: usize,
    is_greedy: Option<bool>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GenerationEntry {
    text: String,
    is_complete: bool,
    n_tokens: Option<usize>,
}

impl Journal {
    /// Opens or begins a journal.
    ///
    /// # Errors
    /// Where another process has it, the file is no journal of this version, or a line before the last is damaged.
    pub(super) fn open(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
        let mut file = options.open(path).map_err(Error::io("open", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(bad(path, 0, "another process writes to it".to_owned())),
            // A file system without locks is worked on without.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::io("read", path))?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        if whole == 0 && !HEADER.as_bytes().starts_with(&bytes) {
            return Err(bad(path, 1, "this is no journal of a server's answers".to_owned()));
        }
        let known = read_lines(path, &bytes[..whole])?;
        file.set_len(whole as u64).map_err(Error::io("cut", path))?;
        file.seek(SeekFrom::End(0)).map_err(Error::io("read", path))?;
        let mut journal = Self { path: path.to_owned(), file, known };
        if whole == 0 {
            journal.write(HEADER)?;
        }
        Ok(journal)
    }

    /// What was answered to the request of this key.
    pub(super) fn get(&self, key: &str) -> Option<&Kept> {
        self.known.get(key)
    }

    /// Keeps an answer; it is on disk when this returns.
    pub(super) fn add(&mut self, key: &str, kept: &Kept) -> Result<()> {
        let entry = match kept.clone() {
            Kept::Score(Score { log_prob_nats, n_tokens, is_greedy }) => {
                let score = ScoreEntry { log_prob_nats: log_prob_nats.to_string(), n_tokens, is_greedy };
                Entry { key: key.to_owned(), score: Some(score), generation: None }
            }
            Kept::Generation(Generation { text, is_complete, n_tokens }) => {
                let generation = GenerationEntry { text, is_complete, n_tokens };
                Entry { key: key.to_owned(), score: None, generation: Some(generation) }
            }
        };
        self.write(&serde_json::to_string(&entry).expect("an entry is plain data"))?;
        self.known.insert(key.to_owned(), kept.clone());
        Ok(())
    }

    fn write(&mut self, line: &str) -> Result<()> {
        self.file
            .write_all(format!("{line}\n").as_bytes())
            .and_then(|()| self.file.sync_data())
            .map_err(Error::io("write", &self.path))
    }
}

fn read_lines(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, Kept>> {
    let mut known = BTreeMap::new();
    for (idx, line) in bytes.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        if idx == 0 {
            if line != HEADER.as_bytes() {
                return Err(bad(path, 1, format!("the first line of a journal is {HEADER}")));
            }
            continue;
        }
        let damaged = |reason: String| bad(path, idx + 1, reason);
        let Entry { key, score, generation } =
            serde_json::from_slice(line).map_err(|error| damaged(error.to_string()))?;
        let kept = match (score, generation) {
            (Some(ScoreEntry { log_prob_nats, n_tokens, is_greedy }), None) => {
                let log_prob_nats = log_prob_nats.parse().ok().filter(|x: &f64| x.is_finite());
                let log_prob_nats = log_prob_nats.ok_or_else(|| damaged("`log_prob_nats` is no number".to_owned()))?;
                Kept::Score(Score { log_prob_nats, n_tokens, is_greedy })
            }
            (None, Some(GenerationEntry { text, is_complete, n_tokens })) => {
                Kept::Generation(Generation { text, is_complete, n_tokens })
            }
            _ => return Err(damaged("a line has either `score` or `generation`".to_owned())),
        };
        known.insert(key, kept);
    }
    Ok(known)
}

fn bad(path: &Path, line: usize, reason: String) -> Error {
    Error::BadJournal { path: path.to_owned(), line, reason }
}

#[cfg(test)]
mod tests {
    use super::{HEADER, Journal, Kept};
    use crate::subject::{Generation, Score};

    fn answers() -> [(&'static str, Kept); 2] {
        // A number whose last bit a careless reader of decimals loses.
        let score = Score { log_prob_nats: -0.1 - 0.2, n_tokens: 2, is_greedy: None };
        let generation = Generation { text: "a\n\"b\" 🌊".into(), is_complete: true, n_tokens: Some(3) };
        [("k1", Kept::Score(score)), ("k2", Kept::Generation(generation))]
    }

    #[test]
    fn a_journal_that_was_cut_anywhere_keeps_what_was_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/journal.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        for (key, kept) in &answers() {
            journal.add(key, kept).unwrap();
        }
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        let ends: Vec<usize> = (0..whole.len()).filter(|&at| whole[at] == b'\n').map(|at| at + 1).collect();
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let mut journal = Journal::open(&path).unwrap();
            for (i, (key, kept)) in answers().iter().enumerate() {
                let is_whole = length >= ends[i + 1];
                assert_eq!(journal.get(key), is_whole.then_some(kept), "{length}");
                if !is_whole {
                    journal.add(key, kept).unwrap();
                }
            }
            drop(journal);
            assert_eq!(std::fs::read(&path).unwrap(), whole, "{length}");
        }
    }

    #[test]
    fn two_do_not_share_a_journal_and_other_files_are_left_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let first = Journal::open(&path).unwrap();
        let refused = Journal::open(&path).unwrap_err().to_string();
        assert!(refused.ends_with("another process writes to it"), "{refused}");
        drop(first);
        assert!(Journal::open(&path).is_ok());
        for (text, reason) in [
            ("my notes", ":1: this is no journal"),
            ("my notes\n", ":1: the first line of a journal is"),
            (&format!("{HEADER}\n{{\"key\":\"a\"}}\n"), ":2: a line has either"),
            (&format!("{HEADER}\n\n{{\"key\":\"a\",\"no\":1}}\n"), ":3: unknown field `no`"),
            (
                &format!(
                    "{HEADER}\n{{\"key\":\"a\",\"score\":{{\"log_prob_nats\":\"NaN\",\"n_tokens\":1,\"is_greedy\":null}}}}\n"
                ),
                ":2: `log_prob_nats` is no number",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let refused = Journal::open(&path).unwrap_err().to_string();
            assert!(refused.contains(reason), "{refused}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), *text);
        }
    }
}
