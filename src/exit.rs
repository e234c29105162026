//! Exit codes: part of the command line's contract.

/// All went well.
pub(crate) const SUCCESS: u8 = 0;
/// Something went wrong; standard error says what and where.
pub(crate) const ERROR: u8 = 1;
/// The command line could not be understood (clap's own code).
pub(crate) const USAGE: u8 = 2;
/// There was nothing to evaluate: an empty bank, or no item left by `--limit` or `--tasks`.
pub(crate) const NOTHING_EVALUATED: u8 = 4;
