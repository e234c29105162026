//! What can go wrong between answers and a diagnosis.

use std::path::PathBuf;

/// An error of this crate; each variant is something its reader can act on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {path}")]
    Io {
        /// `read`, `write`, `create`, `rename`, `delete`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A results file is not the Parquet file that phasetrace writes.
    #[error("{path} is not a readable results file: {reason}; move it away to ask its questions again")]
    CorruptResults {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A Parquet file cannot be read.
    #[error("{path} is not a readable Parquet file: {reason}")]
    CorruptTable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Results could not be turned into Parquet.
    #[error("cannot write {path} as Parquet: {reason}")]
    WriteResults {
        /// The file.
        path: PathBuf,
        /// What the Parquet writer said.
        reason: String,
    },
    /// A reference file does not parse.
    #[error("{path} is not a reference file: {reason}")]
    CorruptReference {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// A line of a file of records does not parse.
    #[error("{path}:{line}: {reason}")]
    CorruptRecord {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Which key, and what is wrong with it.
        reason: String,
    },
    /// A model file does not parse.
    #[error("{path} is not a verdict model: {reason}")]
    CorruptModel {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// Forecasts that no calibration can be measured of.
    #[error("{reason}")]
    BadForecasts {
        /// Which forecast, and what is wrong with it.
        reason: String,
    },
    /// A baseline file does not parse.
    #[error("{path} is not a baseline file: {reason}")]
    CorruptBaseline {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// A rule names what neither side has.
    #[error("rule {rule}: {key} = `{value}`, known are {known}")]
    UnknownName {
        /// Number of the rule in the policy, from 1.
        rule: usize,
        /// `lineage` or `phase`.
        key: &'static str,
        /// What it names.
        value: String,
        /// What there is.
        known: String,
    },
    /// Two runs were not asked the same.
    #[error("{baseline} and {candidate} cannot be compared: {}", differences.join("; "))]
    Incomparable {
        /// What is released.
        baseline: String,
        /// What is to take its place.
        candidate: String,
        /// What differs, each in words.
        differences: Vec<String>,
    },
    /// A file was written by another version of the format.
    #[error("{path} has format version {found}, this program reads version {expected}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Version in the file.
        found: u32,
        /// Version this program reads.
        expected: u32,
    },
    /// A reference was measured with other probes than the lineage it is compared with.
    #[error(
        "the reference was measured with probe version {found}, this lineage with {expected}; make the reference again"
    )]
    ReferenceProbes {
        /// Probe version of the reference.
        found: u32,
        /// Probe version of the lineage.
        expected: u32,
    },
    /// A reference was to be made from nothing.
    #[error("a reference needs at least one healthy diagnosis")]
    EmptyReference,
    /// There is nothing to diagnose.
    #[error("nothing to diagnose: {what}")]
    Nothing {
        /// What is missing.
        what: String,
    },
    /// There is nothing to compare.
    #[error("nothing to compare: {what}")]
    NothingToCompare {
        /// What is missing.
        what: String,
    },
    /// Two settings have the same name, or one setting has a seed twice: which is meant cannot be told.
    #[error("setting `{setting}` is given twice{}", seed.map_or_else(String::new, |seed| format!(" with seed {seed}")))]
    DuplicateSetting {
        /// The name.
        setting: String,
        /// The seed, where the name is unique.
        seed: Option<u64>,
    },
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
