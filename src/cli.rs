//! The command line: what may be typed, nothing of what it does.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

/// Which training phase produced a language model's failure, how sure that is, and what fixes it.
#[derive(Debug, Parser)]
#[command(name = "phasetrace", version, after_help = "Exit codes: 0 success, 1 error, 2 usage.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write the report of a diagnosed run, in any format.
    Report(ReportArgs),
    /// List runs and their checkpoints.
    Ls(LsArgs),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Arguments of `report`.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Folder of a diagnosed run.
    #[arg(default_value = "runs/small")]
    pub(crate) run: PathBuf,
    /// Output file, repeatable; the extension decides: `.html`, `.json`, `.md`. `RUN/report.html` where none is given.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Vec<PathBuf>,
}

/// Arguments of `ls`.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Folder that holds runs, or one run.
    #[arg(default_value = "runs")]
    pub(crate) dir: PathBuf,
}
