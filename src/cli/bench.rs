//! Arguments of `bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::bench::Seeds;

/// What is measured.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Train lineages with planted faults, diagnose each without its label, and compare with the truth.
    Attribution(AttributionArgs),
    /// Fit the verdict model on what `bench attribution` has recorded.
    Fit(FitArgs),
    /// Say how often verdicts on what it has recorded are right, each from a model that has not seen the fault.
    Score(ScoreArgs),
    /// Put the verdicts on such lineages to the test, and say how often confirmed ones are right.
    Confirm(ConfirmArgs),
    /// Say what fixes did to such lineages: how much of each failure they took back, and what they cost.
    Fixes(FixesArgs),
    /// Measure how well tracing finds the planted rows of such lineages, by method.
    Tracing(TracingArgs),
}

/// Arguments of `bench fit`.
#[derive(Debug, Args)]
pub(crate) struct FitArgs {
    /// Files of records (JSON lines).
    #[arg(required = true, value_name = "RECORDS")]
    pub(crate) records: Vec<PathBuf>,
    /// Where to write the model (JSON).
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

/// Arguments of `bench score`.
#[derive(Debug, Args)]
pub(crate) struct ScoreArgs {
    /// Files of records (JSON lines).
    #[arg(required = true, value_name = "RECORDS")]
    pub(crate) records: Vec<PathBuf>,
    /// Where to write the tables (Markdown), and their numbers beside them (JSON).
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

/// Arguments of `bench confirm`.
#[derive(Debug, Args)]
pub(crate) struct ConfirmArgs {
    /// Folders of lineages of one seed, as `bench attribution` makes them, or of single lineages.
    #[arg(required = true, value_name = "DIR")]
    pub(crate) dirs: Vec<PathBuf>,
    /// Only these lineages, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) only: Vec<String>,
    /// The healthy runs that these are compared with (JSON).
    #[arg(long, value_name = "FILE")]
    pub(crate) reference: PathBuf,
    /// Where to write the table (Markdown).
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

/// Arguments of `bench fixes`.
#[derive(Debug, Args)]
pub(crate) struct FixesArgs {
    /// Folders of lineages of one seed, as `bench attribution` makes them: `clean` and its twins with faults.
    #[arg(required = true, value_name = "DIR")]
    pub(crate) dirs: Vec<PathBuf>,
    /// The healthy runs that these were compared with (JSON).
    #[arg(long, value_name = "FILE")]
    pub(crate) reference: PathBuf,
    /// Where to write what was measured (JSON).
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

/// Arguments of `bench tracing`.
#[derive(Debug, Args)]
pub(crate) struct TracingArgs {
    /// Folders of lineages of one seed, as `bench attribution` makes them: `clean` and its twins with faults.
    #[arg(required = true, value_name = "DIR")]
    pub(crate) dirs: Vec<PathBuf>,
    /// Only these lineages, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) only: Vec<String>,
    /// Rank by what rows teach, too: minutes for each lineage.
    #[arg(long)]
    pub(crate) gradients: bool,
    /// Where to write the table (Markdown); standard output where none is given.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// Arguments of `bench attribution`.
#[derive(Debug, Args)]
pub(crate) struct AttributionArgs {
    /// Folder for the lineages; finished ones are kept, unfinished ones resumed.
    #[arg(default_value = "runs/bench")]
    pub(crate) dir: PathBuf,
    /// Recipe that faults are planted in; recipes/bench.toml where none is given.
    #[arg(long, value_name = "FILE")]
    pub(crate) recipe: Option<PathBuf>,
    /// World and training seed of the healthy lineages to compare with, separated by commas. Several processes may share DIR: each takes what
    /// nobody is at work on.
    #[arg(long, value_delimiter = ',', value_name = "WORLD:SEED", default_values_t = (21..=59).map(Seeds::both))]
    pub(crate) healthy: Vec<Seeds>,
    /// Statistics of healthy lineages of the same recipe, in place of training them (`DIR/reference.json` of another bench).
    #[arg(long, value_name = "FILE", conflicts_with = "healthy")]
    pub(crate) reference: Option<PathBuf>,
    /// World and training seed of the lineages in which faults are planted.
    #[arg(long, value_delimiter = ',', value_name = "WORLD:SEED", default_value = "7:1,8:2")]
    pub(crate) lineages: Vec<Seeds>,
    /// Number of processes that work on it; of several, each trains with one thread.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) jobs: u16,
    /// World and training seed of further healthy lineages, as controls.
    #[arg(long, value_delimiter = ',', value_name = "WORLD:SEED")]
    pub(crate) clean: Vec<Seeds>,
    /// Another fault, repeatable; fixtures/README.md describes the file.
    #[arg(long = "fault", value_name = "FILE")]
    pub(crate) faults: Vec<PathBuf>,
    /// Only these faults, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) only: Vec<String>,
}
