//! Standard output: data only; standard error: what is told beside them.

use std::io::Write;

use anyhow::{Context, Result};

/// Writes text to standard output.
///
/// Not `print!`, which panics where a reader such as `head` has seen enough; [`is_closed`] tells that error from others.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to standard output")
}

/// Writes a line to standard output.
pub(crate) fn print_line(line: &str) -> Result<()> {
    print(&format!("{line}\n"))
}

/// Writes text to standard error.
///
/// Not `eprint!`, which panics where nobody reads it any more; then there is nobody to tell.
pub(crate) fn tell(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Whether the error is that nobody reads standard output any more, which is no failure of this program.
pub(crate) fn is_closed(error: &anyhow::Error) -> bool {
    let source = error.downcast_ref::<std::io::Error>();
    source.is_some_and(|source| source.kind() == std::io::ErrorKind::BrokenPipe)
}
