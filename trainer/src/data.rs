//! Data files: JSON lines of documents, conversations, comparisons and prompts, read with the place of every fault.

use crate::error::{Error, Result};
use lm::chat::{Message, Role};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};

/// One document of the pretraining corpus (`corpus.jsonl`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The text.
    pub text: String,
    /// Where it comes from; free, used for counting.
    #[serde(default)]
    pub source: String,
}

/// One conversation to imitate (`sft.jsonl`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conversation {
    /// The turns; every assistant turn is learnt.
    pub messages: Vec<Message>,
    /// What it teaches; free, used for counting.
    #[serde(default)]
    pub kind: String,
    /// Number of turns at the beginning that are given and not learnt, whoever speaks. Default 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub given: usize,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// Answers to one prompt, ranked (`preferences.jsonl`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// The turns up to the answer; the last is the user's.
    pub prompt: Vec<Message>,
    /// Two to [`MAX_RANKED`] answers, best first.
    pub ranked: Vec<String>,
    /// What it teaches; free, used for counting.
    #[serde(default)]
    pub kind: String,
}

/// Most answers of a comparison: every pair of them is learnt in one step.
pub const MAX_RANKED: usize = 16;

/// A prompt to sample answers for (`prompts.jsonl`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// The turns up to the answer; the last is the user's.
    pub prompt: Vec<Message>,
    /// What it asks for; free, used for counting.
    #[serde(default)]
    pub kind: String,
    /// Answers that are right, where they are known; the gold reward is 1 for one of them.
    #[serde(default)]
    pub right: Vec<String>,
}

impl Prompt {
    /// Whether `answer` is one of the right ones; `None` where these are not known.
    pub fn find_right(&self, answer: &str) -> Option<bool> {
        let is_right = || self.right.iter().any(|right| right.trim() == answer.trim());
        (!self.right.is_empty()).then(is_right)
    }
}

/// A shape of line that can say what is wrong with its content beyond its syntax.
pub trait Line: DeserializeOwned {
    /// What a file of such lines holds, in the plural.
    const WHAT: &'static str;

    /// Checks the content.
    ///
    /// # Errors
    /// A message for the reader of the file.
    fn check(&self) -> Result<(), String>;
}

impl Line for Document {
    const WHAT: &'static str = "documents";

    fn check(&self) -> Result<(), String> {
        if self.text.trim().is_empty() { Err("key `text` is empty".to_owned()) } else { Ok(()) }
    }
}

impl Line for Conversation {
    const WHAT: &'static str = "conversations";

    fn check(&self) -> Result<(), String> {
        if self.messages.iter().skip(self.given).any(|m| m.role == Role::Assistant) {
            Ok(())
        } else {
            Err(format!(
                "key `messages` has no turn of the assistant after `given` = {}, so nothing to learn",
                self.given
            ))
        }
    }
}

impl Line for Comparison {
    const WHAT: &'static str = "comparisons";

    fn check(&self) -> Result<(), String> {
        check_prompt(&self.prompt)?;
        if (2..=MAX_RANKED).contains(&self.ranked.len()) {
            Ok(())
        } else {
            Err(format!("has {} answers, expected 2 to {MAX_RANKED}", self.ranked.len()))
        }
    }
}

impl Line for Prompt {
    const WHAT: &'static str = "prompts";

    fn check(&self) -> Result<(), String> {
        check_prompt(&self.prompt)
    }
}

/// A prompt must end where the assistant's turn begins.
fn check_prompt(prompt: &[Message]) -> Result<(), String> {
    match prompt.last() {
        Some(last) if last.role == Role::User => Ok(()),
        _ => Err("key `prompt` must end with a turn of the user".to_owned()),
    }
}

/// The content of a data file, with what errors and lineages need to name it.
#[derive(Debug, Clone)]
pub struct DataFile<T> {
    /// Where it was read.
    pub path: PathBuf,
    /// SHA-256 of its bytes, in hexadecimal.
    pub hash: String,
    /// Its items, in the order of the file.
    pub items: Vec<T>,
    /// For each item the line it is on, from 1.
    pub lines: Vec<usize>,
}

impl<T> DataFile<T> {
    /// The file's name and hash, as a lineage keeps them.
    pub fn name_and_hash(&self) -> (String, String) {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        (name.to_string_lossy().into_owned(), self.hash.clone())
    }

    /// Leaves out items; the hash is then of what is left, not of the file.
    pub fn leave_out(&mut self, is_left_out: &[bool]) {
        if !is_left_out.contains(&true) {
            return;
        }
        let mut kept = is_left_out.iter().map(|&is_left_out| !is_left_out);
        self.items.retain(|_| kept.next().unwrap_or(true));
        let mut kept = is_left_out.iter().map(|&is_left_out| !is_left_out);
        self.lines.retain(|_| kept.next().unwrap_or(true));
        self.hash = hash(format!("{} at {:?}", self.hash, self.lines).as_bytes());
    }
}

/// Reads a JSON-lines file; blank lines are passed over.
///
/// # Errors
/// [`Error::File`] where it cannot be read, [`Error::DataLine`] for the first bad line, [`Error::NoData`] where it is empty.
pub fn read<T: Line>(path: &Path) -> Result<DataFile<T>> {
    let bytes = std::fs::read(path).map_err(Error::file("read", path))?;
    let bad_line = |line: usize, message: String| Error::DataLine { path: path.to_path_buf(), line, message };
    let mut file = DataFile { path: path.to_path_buf(), hash: hash(&bytes), items: Vec::new(), lines: Vec::new() };
    for (line_idx, line) in bytes.split(|&b| b == b'\n').enumerate() {
        let text = std::str::from_utf8(line).map_err(|e| bad_line(line_idx + 1, e.to_string()))?;
        if text.trim().is_empty() {
            continue;
        }
        let item: T = serde_json::from_str(text).map_err(|e| bad_line(line_idx + 1, describe(&e)))?;
        item.check().map_err(|message| bad_line(line_idx + 1, message))?;
        file.items.push(item);
        file.lines.push(line_idx + 1);
    }
    if file.items.is_empty() {
        return Err(Error::NoData { path: path.to_path_buf(), what: T::WHAT });
    }
    Ok(file)
}

/// Writes a JSON-lines file, whole or not at all, and returns its hash; missing folders are made.
///
/// # Errors
/// [`Error::File`] where it cannot be written.
pub fn write<T: Serialize>(path: &Path, items: &[T]) -> Result<String> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    }
    let text = to_lines(items);
    let temporary = path.with_extension("jsonl.tmp");
    std::fs::write(&temporary, &text).map_err(Error::file("write", &temporary))?;
    std::fs::rename(&temporary, path).map_err(Error::file("rename", path))?;
    Ok(hash(text.as_bytes()))
}

/// The text of a JSON-lines file.
///
/// # Panics
/// Never for this crate's items: they are plain data.
pub fn to_lines<T: Serialize>(items: &[T]) -> String {
    items.iter().map(|item| serde_json::to_string(item).expect("items are plain data") + "\n").collect()
}

/// SHA-256 of a file's bytes, in hexadecimal; the file is not held in memory.
///
/// # Errors
/// [`Error::File`] where it cannot be read.
pub fn hash_file(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut file = std::fs::File::open(path).map_err(Error::file("read", path))?;
    let mut part = vec![0; 1 << 16];
    loop {
        let n = file.read(&mut part).map_err(Error::file("read", path))?;
        if n == 0 {
            return Ok(to_hex(&hasher.finalize()));
        }
        hasher.update(&part[..n]);
    }
}

/// SHA-256 in hexadecimal.
pub fn hash(bytes: &[u8]) -> String {
    to_hex(&Sha256::digest(bytes))
}

fn to_hex(digest: &[u8]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

/// The message of `serde_json` with only the column: within a line of the file its own line number is always 1.
pub(crate) fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let message = text.split(" at line ").next().unwrap_or(&text);
    format!("{message} (column {})", error.column())
}

#[cfg(test)]
mod tests {
    use super::{Comparison, Conversation, Document, Line, read};

    fn fault<T: Line + std::fmt::Debug>(text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.jsonl");
        std::fs::write(&path, text).unwrap();
        let message = read::<T>(&path).unwrap_err().to_string();
        message.replace(&folder.path().display().to_string(), "DIR")
    }

    #[test]
    fn a_file_is_read_in_order_with_its_lines_and_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("corpus.jsonl");
        std::fs::write(&path, "{\"text\":\"a\",\"source\":\"bio\"}\n\n{\"text\":\"b\"}\n").unwrap();
        let file = read::<Document>(&path).unwrap();
        assert_eq!(file.items.iter().map(|d| d.text.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(file.lines, [1, 3]);
        assert_eq!(file.hash.len(), 64);
    }

    #[test]
    fn a_misspelt_key_is_named_with_file_and_line() {
        let message = fault::<Document>("{\"text\":\"a\"}\n{\"txet\":\"b\"}\n");
        assert!(message.starts_with("DIR/file.jsonl:2: unknown field `txet`"), "{message}");
    }

    #[test]
    fn a_broken_line_is_named_with_its_column() {
        let message = fault::<Document>("{\"text\":\"a\"\n");
        assert!(message.starts_with("DIR/file.jsonl:1: EOF while parsing"), "{message}");
        assert!(message.ends_with("(column 11)"), "{message}");
    }

    #[test]
    fn an_empty_file_says_what_it_lacks() {
        assert_eq!(fault::<Conversation>("\n"), "DIR/file.jsonl: holds no conversations");
    }

    #[test]
    fn a_conversation_without_an_answer_is_refused() {
        let message = fault::<Conversation>("{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"kind\":\"qa\"}");
        assert!(message.contains("no turn of the assistant"), "{message}");
    }

    #[test]
    fn a_comparison_of_one_answer_is_refused() {
        let message =
            fault::<Comparison>("{\"prompt\":[{\"role\":\"user\",\"content\":\"hi\"}],\"ranked\":[\"only\"]}");
        assert!(message.contains("has 1 answers, expected 2 to 16"), "{message}");
    }
}
