//! The command line of phasetrace: flags to plan to library call, no numerics.

mod bench;
mod cli;
mod diagnose;
mod exit;
mod ls;
mod probe;
mod progress;
mod recipe;
mod report;
mod run;
mod store;
mod train;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::cli::{Bench, Cli, Command};
use crate::progress::Bars;

fn main() -> ExitCode {
    kernels::keep_freed_pages();
    let cli = Cli::parse();
    if let Some(threads) = cli.threads {
        kernels::set_threads(usize::from(threads));
    }
    let bars = Bars::new(cli.quiet);
    match run(cli.command, &bars) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // The chain once, outermost first.
            eprintln!("error: {error:#}");
            ExitCode::from(exit::ERROR)
        }
    }
}

fn run(command: Command, bars: &Bars) -> anyhow::Result<u8> {
    match command {
        Command::Train(args) => train::run(&args, bars),
        Command::Probe(args) => probe::run(&args, bars),
        Command::Diagnose(args) => diagnose::run(&args, bars),
        Command::Report(args) => report::run(&args),
        Command::Ls(args) => ls::run(&args),
        Command::Bench(args) => match args.bench {
            Bench::Attribution(args) => bench::attribution::run(&args, bars),
            Bench::Reference(args) => bench::reference::run(&args, bars),
        },
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "phasetrace", &mut std::io::stdout());
            Ok(exit::SUCCESS)
        }
    }
}
