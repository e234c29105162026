//! What can go wrong between a bank file and the last answer.

use std::path::PathBuf;

/// `Result` of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a bank could not be used or a run had to end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bank file could not be read.
    #[error("could not read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line of the bank is not UTF-8 text.
    #[error("{path}:{line}: not UTF-8 text")]
    NotText {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// The bank holds no item.
    #[error("{path} holds no items")]
    EmptyBank {
        /// The file.
        path: PathBuf,
    },
    /// A line of the bank is not an item.
    #[error("{path}:{line}:{column}: {reason}")]
    BadLine {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The column, counted from 1.
        column: usize,
        /// What is wrong; names the key.
        reason: String,
    },
    /// An item has a value that cannot be asked or scored.
    #[error("{path}:{line}: item `{id}`: `{key}` {reason}")]
    BadItem {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// Name of the item.
        id: String,
        /// The key.
        key: &'static str,
        /// What is wrong with its value, with the value.
        reason: String,
    },
    /// Two items have one name.
    #[error("{path}:{line}: `id`: `{id}` is already the name of the item at line {first_line}")]
    DuplicateId {
        /// The file.
        path: PathBuf,
        /// The second line, counted from 1.
        line: usize,
        /// The name.
        id: String,
        /// The first line, counted from 1.
        first_line: usize,
    },
    /// No benchmark has this name.
    #[error("there is no benchmark `{name}`; there are {known}")]
    UnknownBenchmark {
        /// The name.
        name: String,
        /// The names that there are, with commas between.
        known: String,
    },
    /// A benchmark is given twice.
    #[error("the benchmark `{name}` is given twice")]
    RepeatedBenchmark {
        /// Its name.
        name: String,
    },
    /// A benchmark with a file that it does not need, or without one that it does.
    #[error("the benchmark `{name}` {reason}")]
    BenchmarkFile {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The subject failed in a way that no item is to blame for.
    #[error("the subject {subject} failed")]
    Subject {
        /// Content hash of its weights.
        subject: String,
        /// What it said.
        source: lm::Error,
    },
}
