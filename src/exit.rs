//! Exit codes: part of the command line's contract.

use std::fmt;

use crate::output;

/// All went well.
pub(crate) const SUCCESS: u8 = 0;
/// Something went wrong; standard error says what and where.
pub(crate) const ERROR: u8 = 1;
/// The command line could not be understood (clap's own code).
pub(crate) const USAGE: u8 = 2;
/// There was nothing to evaluate: an empty bank, or no item left by `--limit` or `--tasks`.
pub(crate) const NOTHING_EVALUATED: u8 = 4;

/// A gate found a critical rule broken.
pub(crate) const BLOCKED: u8 = 100;
/// A gate could not decide a critical rule.
pub(crate) const INCONCLUSIVE: u8 = 101;

/// A command line that clap accepts and the command does not.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Nothing was left to ask.
#[derive(Debug)]
pub(crate) struct NothingToAsk(pub(crate) String);

impl fmt::Display for NothingToAsk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for NothingToAsk {}

/// The code for an error that ends the program.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    let is_nothing = error.downcast_ref::<NothingToAsk>().is_some()
        || matches!(error.downcast_ref::<probes::Error>(), Some(probes::Error::EmptyBank { .. }))
        || matches!(error.downcast_ref::<evals::Error>(), Some(evals::Error::Nothing { .. }));
    if error.downcast_ref::<Usage>().is_some() {
        USAGE
    } else if is_nothing {
        NOTHING_EVALUATED
    } else {
        ERROR
    }
}

/// Says on standard error what went wrong: the chain once, outermost first, after `who`; and what its reader can do about it.
pub(crate) fn tell(error: &anyhow::Error, who: &str) {
    output::tell(&format!("error: {who}{error:#}\n"));
    if let Some(hint) = hint(error) {
        output::tell(&format!("hint: {hint}\n"));
    }
}

/// What its reader can do about an error, where that is known and the error does not say it.
fn hint(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(|cause| {
        if let Some(trainer::Error::Recipe { .. }) = cause.downcast_ref() {
            return Some("`phasetrace train --dry-run` prints every key with its default");
        }
        if let Some(lm) = cause.downcast_ref::<lm::Error>().or(match cause.downcast_ref() {
            Some(trainer::Error::Lm(inner)) => Some(inner),
            _ => None,
        }) {
            return hint_for_model(lm);
        }
        match cause.downcast_ref::<std::io::Error>()?.kind() {
            std::io::ErrorKind::StorageFull => Some("the disk is full; what is finished is kept and resumed"),
            std::io::ErrorKind::NotADirectory | std::io::ErrorKind::AlreadyExists => {
                Some("a file lies where a folder is needed; move it away or choose another place")
            }
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                Some("choose a place that may be written")
            }
            _ => None,
        }
    })
}

fn hint_for_model(error: &lm::Error) -> Option<&'static str> {
    match error {
        lm::Error::MissingShard { .. } => Some("copy all files that the index names into the folder"),
        lm::Error::TruncatedFile { .. } => Some("copy the file again: it is shorter than its header says"),
        lm::Error::TokenizerMismatch { .. } => Some("take tokenizer.json from where the weights come from"),
        lm::Error::MissingFile { .. } => Some("a checkpoint is a folder in Hugging Face layout"),
        _ => None,
    }
}
