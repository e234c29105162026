//! The command line: what may be typed, nothing of what it does.

mod bench;

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use probes::item::Behaviour;

pub(crate) use self::bench::{AttributionArgs, BenchCommand, ConfirmArgs, FitArgs, FixesArgs, ScoreArgs, TracingArgs};

/// Which training phase produced a language model's failure, how sure that is, and what fixes it.
///
/// Without arguments, `diagnose` trains the embedded small world through pretraining, SFT, RLHF and Constitutional AI (some
/// minutes on two cores), asks every checkpoint the same questions and writes a report.
#[derive(Debug, Parser)]
#[command(name = "phasetrace", version, after_help = EXIT_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Number of threads; no result depends on it. All cores where it is not given.
    #[arg(long, global = true, env = "PHASETRACE_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,

    /// Where models are trained and asked: `cpu`, `cuda` or `cuda:N`. On a GPU phases compute in bf16, with f32 weights.
    #[arg(long, global = true, env = "PHASETRACE_DEVICE", value_name = "DEVICE", default_value = "cpu", value_parser = parse_device)]
    pub(crate) device: String,

    /// Train in less memory and more time: compute activations again where they are needed; no result depends on it.
    #[arg(long, global = true, env = "PHASETRACE_RECOMPUTE")]
    pub(crate) recompute: bool,

    /// No progress on standard error.
    #[arg(long, short, global = true, env = "PHASETRACE_QUIET")]
    pub(crate) quiet: bool,
}

impl Cli {
    /// What was typed; a command line that cannot be understood ends the program with its own message.
    pub(crate) fn from_args() -> Self {
        let matches = Self::command().get_matches();
        if let Some(("diagnose", diagnose)) = matches.subcommand() {
            // Clap would refuse what the environment says as well, which is meant for other commands.
            let is_typed = |id: &str| diagnose.value_source(id) == Some(ValueSource::CommandLine);
            let of_training = [("recipe", "--recipe"), ("skip_bad", "--skip-bad"), ("seed", "--seed")];
            if let Some((_, flag)) = of_training.into_iter().find(|(id, _)| is_typed("phases") && is_typed(id)) {
                let reason = format!("the argument '{flag}' cannot be used with '--phase <NAME=SUBJECT>'");
                Self::command().error(ErrorKind::ArgumentConflict, reason).exit();
            }
        }
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

const EXIT_HELP: &str =
    "Exit codes: 0 success, 1 error, 2 usage, 4 nothing evaluated, 100 gate blocked, 101 gate inconclusive.
Results go to standard output, progress and errors to standard error.";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a model through its phases and keep a checkpoint after each.
    Train(TrainArgs),
    /// Ask checkpoints the questions of an item bank and keep every answer.
    Probe(ProbeArgs),
    /// Score answers that were produced elsewhere, as a benchmark's official scorer does.
    Score(StoredArgs),
    /// Say which phase produced each failure, and write the report; trains and probes what is missing.
    Diagnose(DiagnoseArgs),
    /// Find the rows of a phase's data that taught a failure.
    Trace(TraceArgs),
    /// Put settings of alignment side by side: several runs, or a sweep written in one recipe.
    Compare(CompareArgs),
    /// Write the report of a diagnosed run again, in any format.
    Report(ReportArgs),
    /// Show a run in the browser: its report, or how far its training is.
    View(ViewArgs),
    /// Put many diagnosed runs on one page: what each fails at, how behaviours went from run to run, which phases are blamed.
    Index(IndexArgs),
    /// Decide whether a candidate may take the place of what is released, by the rules of a policy.
    Gate(GateArgs),
    /// Keep what a run's checkpoints scored as the baseline of later gates.
    Bless(BlessArgs),
    /// List runs and their checkpoints.
    Ls(LsArgs),
    /// Measure healthy runs: the statistics that `diagnose` compares with.
    Reference(ReferenceArgs),
    /// Measure the verdicts on planted faults, where the truth is known.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Print the JSON Schema of a record, e.g. of `diagnosis.json`.
    Schema {
        /// The record.
        #[arg(value_enum)]
        record: RecordName,
    },
    /// Print the rows of a Parquet file as JSON lines.
    #[command(hide = true)]
    Rows {
        /// The file.
        file: PathBuf,
    },
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

impl Command {
    /// Whether models are trained or asked, for which a device is opened.
    pub(crate) fn computes(&self) -> bool {
        match self {
            Self::Train(_)
            | Self::Probe(_)
            | Self::Diagnose(_)
            | Self::Trace(_)
            | Self::Compare(_)
            | Self::Gate(_)
            | Self::Bless(_)
            | Self::Reference(_)
            | Self::Bench(_) => true,
            Self::Score(_)
            | Self::Report(_)
            | Self::View(_)
            | Self::Index(_)
            | Self::Ls(_)
            | Self::Schema { .. }
            | Self::Rows { .. }
            | Self::Completions { .. } => false,
        }
    }
}

/// Where a recipe comes from.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RecipeArgs {
    /// Recipe file (TOML). Where none is given: that of the run; for a new run, and with `--set` or `--seed`, that of the embedded small world.
    #[arg(long, value_name = "FILE", env = "PHASETRACE_RECIPE")]
    pub(crate) recipe: Option<PathBuf>,

    /// Set a key of the recipe, e.g. `--set pretrain.steps=1000`; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,

    /// Leave out lines of the recipe's data files that do not fit, and list them; otherwise the first of them is an error.
    #[arg(long, env = "PHASETRACE_SKIP_BAD")]
    pub(crate) skip_bad: bool,
}

/// Arguments of `train`.
#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// Folder of the run; an unfinished run there is resumed.
    #[arg(default_value = "runs/small")]
    pub(crate) run: PathBuf,
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    /// Seed of the run.
    #[arg(long, value_name = "N", env = "PHASETRACE_SEED")]
    pub(crate) seed: Option<u64>,
    /// Stop after this phase.
    #[arg(long, value_enum, value_name = "PHASE", default_value = "rl-cai")]
    pub(crate) until: Stop,
    /// Print the resolved plan and stop.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Of several processes (`mpirun`): seconds after which one gives up that waits for another.
    #[arg(long, value_name = "S", env = "PHASETRACE_RANK_TIMEOUT", default_value = "1800", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rank_timeout: u32,
}

/// Phases that training can stop after, in the order in which they are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Stop {
    /// The next token of documents.
    Pretrain,
    /// Conversations to imitate.
    Sft,
    /// The reward model.
    Reward,
    /// The policy, trained on the reward model.
    Rlhf,
    /// The policy, trained on the ranked answers themselves.
    Dpo,
    /// Constitutional AI: revisions to imitate.
    SlCai,
    /// Constitutional AI: the policy, trained on the model's own preferences.
    RlCai,
}

/// Arguments of `probe`.
#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// A run folder; or, with questions and `-o`, a model: a folder in Hugging Face layout, a `.gguf` file, `hub:ORG/NAME@REVISION`, a
    /// server (`http://HOST/v1#MODEL`; its key in `PHASETRACE_API_KEY`), or stored answers (`.jsonl`).
    #[arg(default_value = "runs/small")]
    pub(crate) subject: String,
    #[command(flatten)]
    pub(crate) questions: QuestionArgs,
    #[command(flatten)]
    pub(crate) servers: ServerArgs,
    /// Only these probes or behaviours, separated by commas, e.g. `over_refusal,harmful_compliance`.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) tasks: Vec<String>,
    /// At most this many items per behaviour.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    /// Ask this beside the questions, and tell what came of it; it counts for no behaviour.
    #[arg(long, value_enum, value_name = "WHAT", value_delimiter = ',')]
    pub(crate) also: Vec<AlsoWhat>,
    /// Folder to keep the answers in; the run itself where none is given.
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Show the first item of each behaviour in each form, with its tokens, and stop.
    #[arg(long)]
    pub(crate) preview: bool,
}

/// What is asked, in place of a run's own bank.
#[derive(Debug, Args)]
pub(crate) struct QuestionArgs {
    /// Item bank (JSON lines).
    #[arg(long, value_name = "FILE", conflicts_with = "benchmarks")]
    pub(crate) bank: Option<PathBuf>,
    /// A benchmark of the field, repeatable, with its items as they are published, e.g. `--benchmark xstest=xstest_prompts.csv`.
    #[arg(long = "benchmark", value_name = "NAME=FILE")]
    pub(crate) benchmarks: Vec<String>,
    /// A model that labels free answers to requests by XSTest's rubric, in place of the rules; any subject that can answer.
    #[arg(long, value_name = "SUBJECT")]
    pub(crate) judge: Option<String>,
}

/// What may be asked of a checkpoint beside the bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AlsoWhat {
    /// What it says of itself: until when its knowledge reaches, and how sure it is of each answer, in words and as P(True).
    Stated,
    /// What it answers where a text before the question contradicts the fact.
    Conflict,
}

/// How servers are asked.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// Most requests that a server is sent at the same time.
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) in_flight: u16,
}

/// Arguments of `score`.
#[derive(Debug, Args)]
pub(crate) struct StoredArgs {
    /// The benchmark.
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(probes::benchmark::all().iter().map(|benchmark| benchmark.name())))]
    pub(crate) benchmark: String,
    /// Its items, as they are published.
    #[arg(long, value_name = "FILE")]
    pub(crate) items: PathBuf,
    /// The answers: JSON lines with `response`, and `key` or `prompt`.
    #[arg(long, value_name = "FILE")]
    pub(crate) responses: PathBuf,
    /// Where to write the results: a JSON line per item.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

/// Arguments of `diagnose`.
#[derive(Debug, Args)]
pub(crate) struct DiagnoseArgs {
    /// Folder of the run; trained if absent, resumed if unfinished.
    #[arg(default_value = "runs/small", conflicts_with = "phases")]
    pub(crate) run: PathBuf,
    /// A checkpoint trained elsewhere, in order, e.g. `--phase pretrain=DIR --phase sft=DIR --phase rlhf=DIR`, or answers that are stored;
    /// needs `-o`.
    #[arg(
        long = "phase",
        value_name = "NAME=SUBJECT",
        requires = "output",
        conflicts_with_all = ["overrides", "dry_run"]
    )]
    pub(crate) phases: Vec<String>,
    /// What is asked of each `--phase`; the embedded small world's bank where nothing is given.
    #[command(flatten)]
    pub(crate) questions: QuestionArgs,
    #[command(flatten)]
    pub(crate) servers: ServerArgs,
    /// First month that the corpus behind `--phase` no longer tells of, as declared: `2023-10`, or a number in a world with a calendar of its
    /// own.
    #[arg(long, value_name = "MONTH", requires = "phases", value_parser = parse_month)]
    pub(crate) declared_cutoff: Option<u32>,
    /// Share of the items of a behaviour that `--phase` models are to get right where no healthy runs are there to compare with,
    /// repeatable, e.g. `--expect instruction_following=0.6`; 0.9 where nothing is said.
    #[arg(long = "expect", value_name = "BEHAVIOUR=SHARE", requires = "phases", value_parser = parse_expectation)]
    pub(crate) expected: Vec<(Behaviour, f64)>,
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    /// Seed of the run.
    #[arg(long, value_name = "N", env = "PHASETRACE_SEED")]
    pub(crate) seed: Option<u64>,
    /// Healthy runs to compare with, from `phasetrace reference`; `none` for none. The embedded small world has its own.
    #[arg(long, value_name = "FILE|none")]
    pub(crate) reference: Option<String>,
    /// Output file, repeatable; the extension decides: `.html`, `.json`, `.md`, `.csv`, `.parquet`, `.card.md` (for a model card).
    /// `RUN/report.html` where none is given.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Vec<PathBuf>,
    /// Ask this beside the questions, and tell what came of it; no verdict depends on it.
    #[arg(long, value_enum, value_name = "WHAT", value_delimiter = ',')]
    pub(crate) also: Vec<AlsoWhat>,
    /// Put the verdicts to the test: train each accused phase again with the healthy recipe, and an innocent one as a control.
    #[arg(long, conflicts_with = "phases")]
    pub(crate) confirm: bool,
    /// For research: train all eight lineages of observed and healthy phases, and write what each phase does alone and together to
    /// `RUN/factorial.json`.
    #[arg(long, conflicts_with = "phases")]
    pub(crate) factorial: bool,
    /// Print the resolved plan and stop.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Arguments of `gate`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct GateArgs {
    #[command(subcommand)]
    pub(crate) command: Option<GateCommand>,
    #[command(flatten)]
    pub(crate) sides: Option<GateSides>,
}

/// Other things than judging.
#[derive(Debug, Subcommand)]
pub(crate) enum GateCommand {
    /// Write a commented policy for a run: one rule for each behaviour, at limits that its bank can tell.
    Init {
        /// Folder of a trained run.
        #[arg(default_value = "runs/small")]
        run: PathBuf,
        /// Healthy runs that say how far training seeds differ, from `phasetrace reference`; `none` for none. The embedded small world has its own.
        #[arg(long, value_name = "FILE|none")]
        reference: Option<String>,
        /// Where to write it.
        #[arg(long, short, value_name = "FILE", default_value = "gate.toml")]
        output: PathBuf,
    },
}

/// What is judged, and by what.
#[derive(Debug, Args)]
pub(crate) struct GateSides {
    /// What is released: a run, or a file that `bless` wrote.
    pub(crate) baseline: PathBuf,
    /// What is to take its place: a trained run; what it was not asked yet is asked.
    pub(crate) candidate: PathBuf,
    /// The rules.
    #[arg(long, value_name = "FILE", default_value = "gate.toml")]
    pub(crate) policy: PathBuf,
    /// Healthy runs that say how far training seeds differ, from `phasetrace reference`; `none` for none. The embedded small world has its own.
    #[arg(long, value_name = "FILE|none")]
    pub(crate) reference: Option<String>,
    /// What an undecided critical rule means for the exit code; 101 where it is not given.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) inconclusive: Option<Inconclusive>,
    /// List the items that were right and are wrong.
    #[arg(long)]
    pub(crate) show_flips: bool,
    /// Address (http or https) at which the candidate's report.html will be found, for links into it; its path is shown where none is given.
    #[arg(long, value_name = "URL")]
    pub(crate) report_url: Option<String>,
    /// Output file, repeatable; the extension decides: `.json`, `.md`, `.xml` (JUnit), `.sarif`.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Vec<PathBuf>,
}

/// What an undecided critical rule means for the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Inconclusive {
    /// 0.
    Pass,
    /// 100.
    Fail,
}

/// Arguments of `bless`.
#[derive(Debug, Args)]
pub(crate) struct BlessArgs {
    /// Folder of a trained run; what it was not asked yet is asked.
    #[arg(default_value = "runs/small")]
    pub(crate) run: PathBuf,
    /// Where to write the baseline (JSON), to be committed; one that is there is replaced.
    #[arg(long, short, value_name = "FILE", default_value = "baseline.json")]
    pub(crate) output: PathBuf,
}

/// Arguments of `trace`.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// Folder of a trained run.
    #[arg(default_value = "runs/small")]
    pub(crate) run: PathBuf,
    /// What fails, e.g. `over_refusal`.
    #[arg(long, value_name = "NAME")]
    pub(crate) behaviour: String,
    /// The phase whose data are searched.
    #[arg(long, value_enum, value_name = "PHASE")]
    pub(crate) phase: Taught,
    /// The chain of checkpoints whose last one fails: `rlhf`, `dpo`, `constitutional`; the first of the run where none is given.
    #[arg(long, value_name = "NAME")]
    pub(crate) lineage: Option<String>,
    /// Rows to tell.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) top: usize,
    /// Tell the ranks by gradient as well, which takes minutes.
    #[arg(long)]
    pub(crate) gradients: bool,
    /// Train the phase and what follows again, without the rows that stand out and without as many others, and ask again.
    #[arg(long)]
    pub(crate) leave_out: bool,
    /// Output file, repeatable; the extension decides: `.json`, `.md`. Standard output, as Markdown, where none is given.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Vec<PathBuf>,
}

/// Phases whose data can be searched for what taught a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Taught {
    /// The documents of pretraining.
    Pretrain,
    /// The conversations of fine-tuning.
    Sft,
    /// The ranked answers, for the reward model that RLHF optimises.
    Reward,
    /// The ranked answers, for a policy that learns from them directly.
    Dpo,
}

/// Records that are written as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RecordName {
    /// What `diagnose` says of a run.
    Diagnosis,
    /// What `compare` says of several settings.
    Comparison,
    /// What `gate` decided.
    Judgement,
    /// What `bless` keeps.
    Baseline,
    /// What `index` says of many runs.
    Index,
}

/// Arguments of `compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Trained runs to compare; or, with `--recipe`, one folder for the runs of its `[sweep]` (runs/compare where none is given):
    /// finished ones are kept, unfinished ones resumed.
    #[arg(value_name = "RUN")]
    pub(crate) runs: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    /// Training seeds, separated by commas, each for every setting; the recipe's own where none are given.
    #[arg(long, value_delimiter = ',', value_name = "NS", requires = "recipe")]
    pub(crate) seeds: Vec<u64>,
    /// Do not explore settings between the trained ones.
    #[arg(long)]
    pub(crate) no_explore: bool,
    /// Output file, repeatable; the extension decides: `.html`, `.json`, `.md`. `DIR/compare.html` where none is given.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Vec<PathBuf>,
    /// Print the settings and stop.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Arguments of `report`.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Folder of a diagnosed run.
    #[arg(default_value = "runs/small")]
    pub(crate) run: PathBuf,
    /// Output file, repeatable; the extension decides: `.html`, `.json`, `.md`, `.csv`, `.parquet`, `.card.md` (for a model card).
    /// `RUN/report.html` where none is given.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Vec<PathBuf>,
}

/// Arguments of `view`.
#[derive(Debug, Args)]
pub(crate) struct ViewArgs {
    /// Folder of a run, in training or diagnosed, or of a comparison.
    #[arg(default_value = "runs/small")]
    pub(crate) run: PathBuf,
    /// Port on 127.0.0.1; a free one where none is given. The address is printed.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) port: u16,
}

/// Arguments of `index`.
#[derive(Debug, Args)]
pub(crate) struct IndexArgs {
    /// Diagnosed runs, and folders that hold some; folders below those are not looked at. Runs stand in the order given here, those of
    /// one folder in the order of their names.
    #[arg(value_name = "DIR", default_value = "runs")]
    pub(crate) dirs: Vec<PathBuf>,
    /// Output file, repeatable; the extension decides: `.html`, `.json`, `.md`. `index.html` in the first DIR where none is given.
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

/// Arguments of `reference`.
#[derive(Debug, Args)]
pub(crate) struct ReferenceArgs {
    /// Folder for the runs; finished ones are kept, unfinished ones resumed.
    #[arg(default_value = "runs/reference")]
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    /// Number of healthy runs, with the seeds from 101 on. 19 are the fewest that tell a failure from chance at 5 %, over all
    /// behaviours and phases together.
    #[arg(long, value_name = "K", default_value = "19", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) runs: u16,
    /// Training seeds, separated by commas, in place of those: one healthy run each.
    #[arg(long, value_delimiter = ',', value_name = "NS", conflicts_with = "runs")]
    pub(crate) seeds: Vec<u64>,
    /// Where to write the statistics (JSON).
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

/// A behaviour and the share expected of it.
fn parse_expectation(text: &str) -> Result<(Behaviour, f64), String> {
    let (name, share) = text.split_once('=').ok_or("expected BEHAVIOUR=SHARE, e.g. over_refusal=0.95")?;
    let share = share.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    Ok((Behaviour::named(name)?, share.ok_or("the share has to be a number from 0 to 1")?))
}

/// The name of a device; whether it is there is found out when it is opened.
fn parse_device(text: &str) -> Result<String, String> {
    if lm::device::is_name(text) { Ok(text.to_owned()) } else { Err("expected cpu, cuda or cuda:N".to_owned()) }
}

/// A month, of the calendar or of a world.
fn parse_month(text: &str) -> Result<u32, String> {
    probes::month::parse(text).ok_or_else(|| "expected YYYY-MM, or the number of a month".to_owned())
}
