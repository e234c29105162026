//! The command line of phasetrace: flags to plan to library call, no numerics.

mod cli;
mod exit;
mod ls;
mod report;
mod run;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // The chain once, outermost first.
            eprintln!("error: {error:#}");
            ExitCode::from(exit::ERROR)
        }
    }
}

fn run(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Report(args) => report::run(&args),
        Command::Ls(args) => ls::run(&args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "phasetrace", &mut std::io::stdout());
            Ok(exit::SUCCESS)
        }
    }
}
