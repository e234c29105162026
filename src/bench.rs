//! `phasetrace bench attribution`: plants faults whose phase is known, diagnoses each lineage without its label, and measures how
//! far the verdicts can be trusted.

mod confirm;
pub(crate) mod fixes;
pub(crate) mod organism;
mod queue;
mod record;
mod tracing;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use evals::diagnosis::Diagnosis;
use evals::reference::Reference;
use evals::store::RESULTS_FILE;
use evals::verdict::record::to_lines;
use lm::random::stream;
use probes::bank::Bank;
use probes::item::{Behaviour, Task as Question};
use rand::Rng;
use trainer::recipe::{ModelRecipe, Positive};

use crate::bench::organism::{Organism, read_organisms};
use crate::bench::queue::{Task, work_off};
use crate::bench::record::{Subject, record};
use crate::cli::{AttributionArgs, BenchCommand, Stop};
use crate::diagnose::{Wanted, diagnose_run};
use crate::exit;
use crate::output;
use crate::progress::Bars;
use crate::recipe::{Alignment, Recipe};
use crate::reference::jittered_rate;
use crate::report::read_diagnosis;
use crate::run::{Run, chains};
use crate::store::PhaseStore;
use crate::train::{Extent, train};
use crate::verdict;

/// The recipe of the bench's lineages.
const RECIPE: &str = include_str!("../recipes/bench.toml");

/// The twin without a fault.
pub(crate) const CLEAN: &str = "clean";

pub(crate) fn run(command: &BenchCommand, bars: &Bars) -> Result<u8> {
    match command {
        BenchCommand::Attribution(args) => attribution(args, bars),
        BenchCommand::Fit(args) => verdict::fit(args),
        BenchCommand::Score(args) => verdict::score(args),
        BenchCommand::Confirm(args) => confirm::run(args, bars),
        BenchCommand::Fixes(args) => fixes::run(args),
        BenchCommand::Tracing(args) => tracing::run(args, bars),
    }
}

fn attribution(args: &AttributionArgs, bars: &Bars) -> Result<u8> {
    let base = match &args.recipe {
        Some(path) => Recipe::read_with(&fs::read_to_string(path)?, path, false, &[])?.1,
        None => Recipe::parse(RECIPE, Path::new("recipes/bench.toml"))?,
    };
    if !base.world.faults.is_empty() {
        bail!("bench plants the faults itself: the recipe has `world.faults`");
    }
    let bench = Bench { dir: &args.dir, base: &base, bars };
    let organisms = read_organisms(&args.faults, &args.only)?;
    let tasks = bench.tasks(args, &organisms)?;
    let helpers = start_helpers(args.jobs - 1)?;
    work_off(&tasks, |work| bench.work(work))?;
    for mut helper in helpers {
        // What it could not do was done here, or has failed here too.
        helper.wait().context("cannot wait for a process of the bench")?;
    }
    bench.collect(args, &organisms)?;
    Ok(exit::SUCCESS)
}

/// Starts this very command in further processes, which take the tasks that nobody is at work on.
fn start_helpers(n: u16) -> Result<Vec<Child>> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let arguments = own_arguments(std::env::args().skip(1));
    (0..n)
        .map(|_| {
            let mut command = Command::new(&program);
            command.args(&arguments).args(["--threads", "1", "--quiet"]).stdout(Stdio::null());
            command.spawn().with_context(|| format!("cannot start {}", program.display()))
        })
        .collect()
}

/// The arguments of this command without those that a further process gets its own of.
fn own_arguments(given: impl Iterator<Item = String>) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut given = given;
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--jobs" | "--threads" => {
                given.next();
            }
            "--quiet" | "-q" => {}
            other if other.starts_with("--jobs=") || other.starts_with("--threads=") => {}
            _ => arguments.push(argument),
        }
    }
    arguments
}

/// What there is to do.
enum Work<'a> {
    /// Train and ask a healthy lineage of the reference.
    Healthy(Group),
    /// Collect them.
    Reference(Vec<PathBuf>),
    /// Take those that were collected elsewhere.
    Copy(PathBuf),
    /// Train, ask and diagnose a lineage, one with a fault or the healthy twin, and record what was found.
    Measure(Group, Option<&'a Organism>),
}

struct Bench<'a> {
    dir: &'a Path,
    base: &'a Recipe,
    bars: &'a Bars,
}

impl Bench<'_> {
    fn reference(&self) -> PathBuf {
        self.dir.join("reference.json")
    }

    fn tasks<'o>(&self, args: &AttributionArgs, organisms: &'o [Organism]) -> Result<Vec<Task<Work<'o>>>> {
        let group = |seeds: &Seeds| Group::new(self.dir, self.base, *seeds);
        let mut tasks = Vec::new();
        let mut healthy = Vec::new();
        for seeds in args.healthy.iter().filter(|_| args.reference.is_none()) {
            let group = group(seeds)?;
            healthy.push(group.run(None).diagnosis());
            tasks.push(Task { outcome: group.run(None).diagnosis(), work: Work::Healthy(group), after: Vec::new() });
        }
        let reference = self.reference();
        let work = args.reference.clone().map_or_else(|| Work::Reference(healthy.clone()), Work::Copy);
        tasks.push(Task { work, outcome: reference.clone(), after: healthy });
        for seeds in args.lineages.iter().chain(&args.clean) {
            let group = group(seeds)?;
            let outcome = group.record(None);
            tasks.push(Task { work: Work::Measure(group, None), outcome, after: vec![reference.clone()] });
        }
        for seeds in &args.lineages {
            for organism in organisms {
                let group = group(seeds)?;
                let after = vec![group.record(None)];
                let outcome = group.record(Some(organism));
                tasks.push(Task { work: Work::Measure(group, Some(organism)), outcome, after });
            }
        }
        Ok(tasks)
    }

    /// Puts all records into one file.
    fn collect(&self, args: &AttributionArgs, organisms: &[Organism]) -> Result<()> {
        let mut text = String::new();
        for seeds in args.lineages.iter().chain(&args.clean) {
            let group = Group::new(self.dir, self.base, *seeds)?;
            let faulty = organisms.iter().filter(|_| args.lineages.contains(seeds)).map(Some);
            for organism in std::iter::once(None).chain(faulty) {
                let path = group.record(organism);
                text += &fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            }
        }
        let path = self.dir.join("records.jsonl");
        reports::write(&path, &text)?;
        output::print_line(&path.display().to_string())
    }

    fn work(&self, work: &Work<'_>) -> Result<()> {
        match work {
            Work::Healthy(group) => group.measure(None, None, self.bars).map(|_| ()),
            Work::Reference(healthy) => {
                let diagnoses = healthy.iter().map(|path| read_diagnosis(path)).collect::<Result<Vec<_>>>()?;
                let plan = serde_json::from_str(&self.base.to_plan()?)?;
                let reference = Reference { recipe: Some(plan), ..Reference::from_diagnoses(&diagnoses)? };
                Ok(reference.save(&self.reference())?)
            }
            Work::Copy(path) => Ok(Reference::load(path)?.save(&self.reference())?),
            Work::Measure(group, organism) => {
                let reference = Reference::load(&self.reference())?;
                let diagnosis = group.measure(*organism, Some(&reference), self.bars)?;
                group.keep_record(*organism, &diagnosis)
            }
        }
    }
}

/// World and training seed of lineages that share what their faults do not touch, written `WORLD:SEED`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seeds {
    world: u64,
    training: u64,
}

impl Seeds {
    /// A world and a training seed of the same number.
    pub(crate) fn both(seed: u64) -> Self {
        Self { world: seed, training: seed }
    }
}

impl std::fmt::Display for Seeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.world, self.training)
    }
}

impl std::str::FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once(':')
            .and_then(|(world, training)| Some(Self { world: world.parse().ok()?, training: training.parse().ok()? }));
        parsed.ok_or_else(|| format!("expected WORLD:SEED, two numbers, found {text:?}"))
    }
}

/// Lineages of the same seeds: the healthy twin and those with a fault.
struct Group {
    dir: PathBuf,
    name: String,
    base: Recipe,
}

impl Group {
    fn new(dir: &Path, base: &Recipe, Seeds { world, training }: Seeds) -> Result<Self> {
        let mut base = base.clone();
        base.seed = training;
        base.world.seed = world;
        jitter(&mut base)?;
        let name = format!("world-{world}-seed-{training}");
        Ok(Self { dir: dir.join(&name), name, base })
    }

    fn run(&self, organism: Option<&Organism>) -> Run {
        Run::at(&self.dir.join(organism.map_or(CLEAN, |organism| &organism.name)))
    }

    fn record(&self, organism: Option<&Organism>) -> PathBuf {
        self.run(organism).root().join("record.json")
    }

    fn keep_record(&self, organism: Option<&Organism>, diagnosis: &Diagnosis) -> Result<()> {
        let ModelRecipe { layers, hidden, .. } = &self.base.model;
        let subject = Subject {
            name: organism.map_or(CLEAN, |organism| &organism.name),
            card: organism.map(|organism| &organism.card),
            seeds: (self.base.world.seed, self.base.seed),
            shape: format!("{layers} layers of width {hidden}"),
        };
        let twin = organism.map(|_| read_diagnosis(&self.run(None).diagnosis())).transpose()?;
        let record = record(&subject, diagnosis, twin.as_ref())?;
        reports::write(&self.record(organism), &to_lines(&[record]))?;
        Ok(())
    }

    /// Trains a lineage, or what is missing of it, asks it and diagnoses it without its label.
    fn measure(&self, organism: Option<&Organism>, reference: Option<&Reference>, bars: &Bars) -> Result<Diagnosis> {
        let run = self.run(organism);
        bars.say(&run.root().display().to_string());
        let (text, recipe) = match organism {
            Some(organism) => organism.plant(&Recipe { alignment: vec![Alignment::Rlhf], ..self.base.clone() })?,
            None => (toml::to_string(&self.base)?, self.base.clone()),
        };
        let twin = self.run(None);
        let shares = organism.is_some_and(|organism| organism.shares_pretraining(&recipe, &self.base));
        let store = PhaseStore::at(&self.dir.join("phases"));
        let extent = Extent { until: Stop::RlCai, store: Some(&store), tokenizer_of: shares.then_some(&twin) };
        train(&run, &text, &recipe, extent, bars)?;
        let share = organism.map_or(0.0, |organism| organism.card.wrong_labels);
        let bank = (share > 0.0).then(|| anyhow::Ok(mislabel(&Bank::load(&run.bank())?, share))).transpose()?;
        if bank.is_none() {
            take_answers(&twin, &run)?;
        }
        let wanted = Wanted {
            // The label stays out of the diagnosis.
            name: self.name.clone(),
            chains: &chains(&recipe.alignment),
            answers: run.root(),
            reference,
            model: None,
            fixes: None,
            traces: false,
            bank: bank.as_ref(),
        };
        diagnose_run(&run, &recipe, &wanted, bars)
    }
}

/// Draws the learning rates of the lineages of one seed, as healthy runs of a reference have theirs.
fn jitter(recipe: &mut Recipe) -> Result<()> {
    let seed = recipe.seed;
    let rates = [
        ("pretrain.lr", &mut recipe.pretrain.lr),
        ("sft.lr", &mut recipe.sft.lr),
        ("reward.lr", &mut recipe.reward.lr),
        ("rlhf.lr", &mut recipe.rlhf.lr),
    ];
    for (key, rate) in rates {
        *rate = Positive::new(jittered_rate(seed, key, *rate).parse()?).map_err(anyhow::Error::msg)?;
    }
    Ok(())
}

/// Takes the answers of another run, where there are none yet: checkpoints that both have are not asked again.
fn take_answers(from: &Run, to: &Run) -> Result<()> {
    let (source, place) = (from.root().join(RESULTS_FILE), to.root().join(RESULTS_FILE));
    if !source.exists() || place.exists() {
        return Ok(());
    }
    let partial = place.with_extension("partial");
    fs::copy(&source, &partial).with_context(|| format!("cannot copy {}", source.display()))?;
    fs::rename(&partial, &place).with_context(|| format!("cannot write {}", place.display()))
}

/// A bank in which this share of the questions on people has a wrong answer for right: a fault of who asks.
fn mislabel(bank: &Bank, share: f64) -> Bank {
    let mut bank = bank.clone();
    let mut rng = stream(0, "wrong labels", 0);
    for item in bank.items.iter_mut().filter(|item| item.behaviour == Behaviour::Knowledge) {
        if let Question::Choice { options, answer, .. } = &mut item.task
            && rng.random_bool(share)
        {
            *answer = (*answer + 1) % options.len();
        }
    }
    bank.hash = trainer::data::hash(format!("{} mislabelled {share}", bank.hash).as_bytes());
    bank
}

#[cfg(test)]
mod tests {
    use super::own_arguments;

    #[test]
    fn a_further_process_starts_none_of_its_own() {
        let given =
            "-q --threads 4 bench attribution runs/b --jobs 3 --lineages 7:1 --threads=2".split(' ').map(str::to_owned);
        assert_eq!(own_arguments(given), ["bench", "attribution", "runs/b", "--lineages", "7:1"]);
    }
}
