//! The command line of phasetrace: flags to plan to library call, no numerics.

mod also;
mod bench;
mod bisect;
mod bless;
mod cli;
mod compare;
mod confirm;
mod device;
mod diagnose;
mod evidence;
mod exit;
mod explore;
mod fit;
mod foreign;
mod gate;
mod gate_init;
mod import;
mod index;
mod judged;
mod leave_out;
mod lock;
mod ls;
mod output;
mod preview;
mod probe;
mod progress;
mod questions;
mod ranks;
mod recipe;
mod reference;
mod relearn;
mod report;
mod reward_check;
mod rows;
mod run;
mod schema;
mod score;
mod setting;
mod store;
mod subject;
mod swap;
mod sweep;
mod trace;
mod trace_text;
mod train;
mod tried;
mod verdict;
mod view;

use std::process::ExitCode;
use std::thread::available_parallelism;

use clap::CommandFactory;
use trainer::ranks::launch::Launch;

use crate::cli::{Cli, Command};
use crate::progress::Bars;

fn main() -> ExitCode {
    kernels::keep_freed_pages();
    let cli = Cli::from_args();
    let launch = match ranks::launch() {
        Ok(launch) => launch,
        Err(error) => return ExitCode::from(ranks::tell(&error, None)),
    };
    match run(cli, launch.as_ref()) {
        Ok(code) => ExitCode::from(code),
        Err(error) if output::is_closed(&error) => ExitCode::from(exit::SUCCESS),
        Err(error) => ExitCode::from(ranks::tell(&error, launch.as_ref())),
    }
}

fn run(cli: Cli, launch: Option<&Launch>) -> anyhow::Result<u8> {
    let n_here = launch.and_then(|launch| launch.local_size).unwrap_or(1).max(1);
    let of_machine = || available_parallelism().map_or(1, usize::from) / n_here;
    kernels::set_threads(cli.threads.map_or_else(of_machine, usize::from))?;
    let bars = Bars::new(cli.quiet || launch.is_some_and(|launch| launch.rank > 0));
    if let Some(launch) = launch
        && !matches!(cli.command, Command::Train(_))
    {
        return ranks::refuse(launch);
    }
    if cli.command.computes() {
        device::choose(&cli, launch, &bars)?;
    }
    match cli.command {
        Command::Train(args) => train::run(&args, launch, &bars),
        Command::Probe(args) => probe::run(&args, &bars),
        Command::Score(args) => score::run(&args),
        Command::Diagnose(args) => diagnose::run(&args, &bars),
        Command::Trace(args) => trace::run(&args, &bars),
        Command::Compare(args) => compare::run(&args, &bars),
        Command::Report(args) => report::run(&args),
        Command::Index(args) => index::run(&args),
        Command::View(args) => view::run(&args),
        Command::Gate(args) => gate::run(&args, &bars),
        Command::Bless(args) => bless::run(&args, &bars),
        Command::Ls(args) => ls::run(&args),
        Command::Reference(args) => reference::run(&args, &bars),
        Command::Bench(args) => bench::run(&args, &bars),
        Command::Schema { record } => schema::run(record),
        Command::Rows { file } => import::print_rows(&file),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "phasetrace", &mut script);
            output::print(&String::from_utf8_lossy(&script))?;
            Ok(exit::SUCCESS)
        }
    }
}
