//! `--jobs N`: one command in several processes, which share its tasks.

use std::ffi::OsString;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};

use crate::exit;

/// Starts this very command in `n` processes, each with one thread, and waits for all of them. The first speaks and prints; its exit code
/// is that of all, since it has tried whatever the others could not do.
///
/// This process only waits: how many threads it works with cannot be changed any more.
pub(crate) fn share(n: u16) -> Result<u8> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let arguments = own_arguments(std::env::args_os().skip(1));
    let start = |is_first: bool| {
        let mut command = Command::new(&program);
        command.args(["--threads", "1"]).args(&arguments);
        if !is_first {
            command.env("PHASETRACE_QUIET", "true").stdout(Stdio::null()).stderr(Stdio::null());
        }
        command.spawn().with_context(|| format!("cannot start {}", program.display()))
    };
    // All are started and all have ended before any error is passed on.
    let started: Vec<Result<Child>> = (0..n).map(|job| start(job == 0)).collect();
    let ended: Vec<Result<ExitStatus>> = started
        .into_iter()
        .map(|job| job.and_then(|mut job| job.wait().context("cannot wait for a process of the bench")))
        .collect();
    let ended = ended.into_iter().collect::<Result<Vec<ExitStatus>>>()?;
    let code = ended.first().and_then(ExitStatus::code).context("the first process of the bench was killed")?;
    Ok(u8::try_from(code).unwrap_or(exit::ERROR))
}

/// The arguments of this command without those that each process gets its own of.
fn own_arguments(mut given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments = Vec::new();
    while let Some(argument) = given.next() {
        match argument.to_str() {
            Some("--jobs" | "--threads") => {
                given.next();
            }
            Some(text) if text.starts_with("--jobs=") || text.starts_with("--threads=") => {}
            _ => arguments.push(argument),
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_further_process_starts_none_of_its_own() {
        let given = arguments("-q --threads 4 bench attribution runs/b --jobs 3 --lineages 7:1 --threads=2");
        assert_eq!(own_arguments(given.into_iter()), arguments("-q bench attribution runs/b --lineages 7:1"));
    }

    #[cfg(unix)]
    #[test]
    fn an_argument_that_is_no_text_is_passed_on_as_it_is() {
        use std::os::unix::ffi::OsStringExt;

        let folder = OsString::from_vec(vec![b'r', 0xff]);
        assert_eq!(own_arguments([folder.clone(), "--jobs=2".into()].into_iter()), [folder]);
    }
}
