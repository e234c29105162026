//! Exit codes: part of the command line's contract. 2, usage, is clap's own.

/// All went well.
pub(crate) const SUCCESS: u8 = 0;
/// Something went wrong; standard error says what and where.
pub(crate) const ERROR: u8 = 1;
