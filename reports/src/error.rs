//! Why a report could not be made.

use std::path::PathBuf;

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The record was written by another version of the format.
    #[error("{record} has format version {found}, this program reads version {supported}")]
    UnsupportedVersion {
        /// What was to be rendered: `diagnosis`, `comparison`, `judgement`.
        record: &'static str,
        /// Version in the record.
        found: u32,
        /// Version that is read.
        supported: u32,
    },
    /// A list that should have one entry per phase has another length.
    #[error("{lineage}: {what} has {found} entries for {expected} phases")]
    PhaseCount {
        /// Lineage it stands in.
        lineage: String,
        /// The list.
        what: String,
        /// Number of phases.
        expected: usize,
        /// Number of entries.
        found: usize,
    },
    /// The page could not be rendered from its template.
    #[error("cannot render the report page")]
    Template(#[from] minijinja::Error),
    /// The record cannot be written as JSON that reads back, e.g. because a number is not finite.
    #[error("cannot write the record as JSON")]
    Json(#[from] serde_json::Error),
    /// The table of a diagnosis cannot be written as CSV.
    #[error("cannot write the table as CSV")]
    Csv(#[from] csv::Error),
    /// The file could not be written; nothing half-written was left.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}
