//! The command line: what may be typed, nothing of what it does.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

/// Which training phase produced a language model's failure, how sure that is, and what fixes it.
///
/// Without a run, `diagnose` trains the embedded small world through pretraining, SFT, RLHF and Constitutional AI (a few
/// minutes on two cores), asks every checkpoint the same questions and writes a report.
#[derive(Debug, Parser)]
#[command(name = "phasetrace", version, after_help = EXIT_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Number of threads; the result does not depend on it.
    #[arg(long, global = true, env = "PHASETRACE_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,

    /// No progress on standard error.
    #[arg(long, short, global = true, env = "PHASETRACE_QUIET")]
    pub(crate) quiet: bool,
}

const EXIT_HELP: &str = "Exit codes: 0 success, 1 error, 2 usage, 4 nothing evaluated.
Results go to standard output, progress and errors to standard error.";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a model through its phases and keep a checkpoint after each.
    Train(TrainArgs),
    /// Ask checkpoints the questions of an item bank and keep every answer.
    Probe(ProbeArgs),
    /// Say which phase produced each failure, and write the report; trains and probes what is missing.
    Diagnose(DiagnoseArgs),
    /// Write the report of a diagnosed run again, in any format.
    Report(ReportArgs),
    /// List runs and their checkpoints.
    Ls(LsArgs),
    /// Measure the verdicts on planted faults, where the truth is known.
    Bench(BenchArgs),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Where a recipe comes from.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RecipeArgs {
    /// Recipe file (TOML); the embedded small world where none is given.
    #[arg(long, value_name = "FILE", env = "PHASETRACE_RECIPE")]
    pub(crate) recipe: Option<PathBuf>,

    /// Set a key of the recipe, e.g. `--set rlhf.kl_coefficient=0.1`; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,

    /// Seed of the run.
    #[arg(long, value_name = "N", env = "PHASETRACE_SEED")]
    pub(crate) seed: Option<u64>,
}

/// Which questions are asked.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ItemArgs {
    /// Item bank (JSON lines); the run's own where none is given.
    #[arg(long, value_name = "FILE")]
    pub(crate) bank: Option<PathBuf>,

    /// Only these behaviours, separated by commas (e.g. `over_refusal,harmful_compliance`).
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) tasks: Vec<String>,

    /// At most this many items per behaviour.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
}

/// Arguments of `train`.
#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// Folder of the run; an unfinished run there is resumed.
    #[arg(default_value = "runs/small")]
    pub(crate) run: PathBuf,
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    /// Print the resolved plan and stop.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Arguments of `probe`.
#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// A run folder, or a checkpoint folder in Hugging Face layout (then `--bank` and `-o` are needed).
    #[arg(default_value = "runs/small")]
    pub(crate) subject: PathBuf,
    #[command(flatten)]
    pub(crate) items: ItemArgs,
    /// Folder to keep the answers in; the run itself where none is given.
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Show the first item of each behaviour as each form puts it, with its tokens, and stop.
    #[arg(long)]
    pub(crate) preview: bool,
}

/// Arguments of `diagnose`.
#[derive(Debug, Args)]
pub(crate) struct DiagnoseArgs {
    /// Folder of the run; trained if absent, resumed if unfinished.
    #[arg(default_value = "runs/small")]
    pub(crate) run: PathBuf,
    /// A checkpoint trained elsewhere, in order: `--phase pretrain=DIR --phase sft=DIR --phase rlhf=DIR`.
    #[arg(long = "phase", value_name = "NAME=DIR")]
    pub(crate) phases: Vec<String>,
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    #[command(flatten)]
    pub(crate) items: ItemArgs,
    /// Statistics of healthy lineages to compare with; `none` for no reference. The embedded small world has its own.
    #[arg(long, value_name = "FILE|none")]
    pub(crate) reference: Option<String>,
    /// First month the corpus no longer tells of, as declared by whoever trained the checkpoints.
    #[arg(long, value_name = "MONTH")]
    pub(crate) declared_cutoff: Option<u32>,
    /// Output file, repeatable; the extension decides: `.html`, `.json`, `.md`. `RUN/report.html` where none is given.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Vec<PathBuf>,
    /// Print the resolved plan and stop.
    #[arg(long)]
    pub(crate) dry_run: bool,
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

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) bench: Bench,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Train planted faults and healthy twins, diagnose each without its label, and compare with the truth.
    Attribution(AttributionArgs),
    /// Train healthy lineages and write their statistics: the reference that `diagnose` compares with.
    Reference(ReferenceArgs),
}

/// Arguments of `bench attribution`.
#[derive(Debug, Args)]
pub(crate) struct AttributionArgs {
    /// Folder for the lineages; finished ones are kept and resumed.
    #[arg(default_value = "runs/attribution")]
    pub(crate) dir: PathBuf,
    /// Training seeds, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    pub(crate) seeds: Vec<u64>,
    /// Only these faults, separated by commas (`healthy` for the twin).
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) faults: Vec<String>,
    /// Statistics of healthy lineages to compare with; the embedded ones where none are given.
    #[arg(long, value_name = "FILE")]
    pub(crate) reference: Option<PathBuf>,
    /// Where to write the table (Markdown); standard output where none is given.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// Arguments of `bench reference`.
#[derive(Debug, Args)]
pub(crate) struct ReferenceArgs {
    /// Folder for the lineages; finished ones are kept and resumed.
    #[arg(default_value = "runs/reference")]
    pub(crate) dir: PathBuf,
    /// Training seeds, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "101,102,103,104,105")]
    pub(crate) seeds: Vec<u64>,
    /// Where to write the statistics.
    #[arg(long, short, value_name = "FILE", default_value = "fixtures/reference.json")]
    pub(crate) output: PathBuf,
}
