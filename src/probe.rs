//! `phasetrace probe`: asks checkpoints the questions of a bank; what was asked is not asked again.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use evals::diagnosis::{Estimate, PhaseInfo, SelfKnowledge};
use evals::measured::{Confidence, Measured, measure, measure_confidence};
use evals::self_knowledge;
use evals::store::{RESULTS_FILE, Store, StoreKey};
use lm::Subject;
use probes::bank::Bank;
use probes::item::{Behaviour, Item};
use probes::response::{Form, Response};
use probes::{PROBE_VERSION, PROBES, ask};

use crate::also::Also;
use crate::cli::ProbeArgs;
use crate::exit::{self, NothingToAsk, Usage};
use crate::judged::{Judge, judge_all};
use crate::lock;
use crate::output;
use crate::preview;
use crate::progress::Bars;
use crate::run::{ASKED, Run};
use crate::subject::Place;

pub(crate) fn run(args: &ProbeArgs, bars: &Bars) -> Result<u8> {
    let own_bank = args.questions.load()?;
    let path = Path::new(&args.subject);
    let (subjects, bank, folder) = if path.is_dir() && !path.join("config.json").exists() {
        let run = Run::at(path);
        let checkpoints = checkpoints_of(&run, &ASKED);
        if checkpoints.is_empty() {
            bail!("{}: no run with a checkpoint; `phasetrace train` makes one", run.root().display());
        }
        let bank = own_bank.map_or_else(|| Bank::load(&run.bank()), Ok)?;
        (checkpoints, bank, args.output.clone().unwrap_or_else(|| path.to_owned()))
    } else {
        let place = Place::parse(&args.subject, &args.servers)?;
        let (Some(bank), Some(folder)) = (own_bank, &args.output) else {
            let questions = "--bank FILE or --benchmark NAME=FILE, and -o DIR are needed";
            bail!(Usage(format!("{} is no run: {questions}", args.subject)));
        };
        (vec![(place.name(), place)], bank, folder.clone())
    };
    let items = select(&bank.items, &args.tasks, args.limit)?;
    if args.preview {
        let (name, place) = subjects.last().expect("there is one, checked above");
        output::print(&preview::render(name, place.open(&items, &folder)?.as_ref(), &items)?)?;
        return Ok(exit::SUCCESS);
    }
    let _lock = lock::take(&folder)?;
    let questions = Questions { also: Also::of(&args.also, &items), ..Questions::of_bank(&bank.hash, &items) };
    // Before any work: a judge that is not there is found at once.
    let judge = Judge::open((&args.questions, &args.servers), &items, &folder)?;
    let mut answered = ask_all(&folder, &questions, &subjects, bars)?;
    if let Some(judge) = &judge {
        judge_all(judge, &folder, &questions, &mut answered, bars)?;
    }
    let Answered { phases, responses } = answered;
    output::print(&table(&measure(&phases, &items, &responses)))?;
    output::print(&confidence_table(&measure_confidence(&phases, &items, &responses)?))?;
    output::print(&told(&self_knowledge::measure(&phases, &items, &responses)?))?;
    output::print_line(&folder.join(RESULTS_FILE).display().to_string())?;
    Ok(exit::SUCCESS)
}

/// What was measured, a line for each checkpoint, behaviour and form.
fn table(cells: &[Measured]) -> String {
    let name = |cell: &Measured| format!("{}  {}  {}", cell.phase, cell.behaviour.name(), cell.form.name());
    let width = cells.iter().map(|cell| name(cell).chars().count()).max().unwrap_or(0);
    let line = |cell: &Measured| {
        let value = cell.value.as_ref().map_or_else(
            || "not measured".to_owned(),
            |Estimate { value, low, high, n, method }| {
                let visible = cell.detectable.map_or_else(
                    || "no change would show".to_owned(),
                    |change| format!("changes from {change:.3} on would show"),
                );
                format!("{value:.3}  95 % interval {low:.3} to {high:.3} ({method}), n = {n}; {visible}")
            },
        );
        let unscored = match (&cell.reason, cell.unscored) {
            (_, 0) => String::new(),
            (reason, n) => format!("; {n} without a score ({})", reason.as_deref().unwrap_or("no reason is given")),
        };
        format!("{:<width$}  {value}{unscored}\n", name(cell))
    };
    cells.iter().map(line).collect()
}

/// How far confidence is off, a line for each checkpoint and form in which choices were scored.
fn confidence_table(cells: &[Confidence]) -> String {
    let line = |Confidence { phase, form, measured }: &Confidence| {
        let Estimate { value, low, high, n, method } = &measured.error;
        let visible = measured
            .detectable
            .map_or_else(|| "no error would show".to_owned(), |error| format!("errors from {error:.3} on would show"));
        let name = format!("{phase}  calibration error, debiased  {}", form.name());
        format!("{name}  {value:.3}  95 % interval {low:.3} to {high:.3} ({method}), n = {n}; {visible}\n")
    };
    cells.iter().map(line).collect()
}

/// What checkpoints say of themselves, a line for each and each way of asking.
fn told(checkpoints: &[SelfKnowledge]) -> String {
    let lines = checkpoints.iter().flat_map(|checkpoint| {
        checkpoint.found().into_iter().map(|(what, text)| format!("{}  {}  {text}\n", checkpoint.phase, what.name()))
    });
    lines.collect()
}

/// What is asked of every checkpoint.
pub(crate) struct Questions<'a> {
    /// Hash of the bank that the items are from.
    pub(crate) bank_hash: &'a str,
    /// The items.
    pub(crate) items: &'a [Item],
    /// What is asked beside them.
    pub(crate) also: Also,
}

impl<'a> Questions<'a> {
    /// The items of a bank, and nothing beside them.
    pub(crate) fn of_bank(bank_hash: &'a str, items: &'a [Item]) -> Self {
        Self { bank_hash, items, also: Also::default() }
    }

    /// The key under which their answers are kept.
    pub(crate) fn key(&self) -> StoreKey {
        StoreKey { bank_hash: self.bank_hash.to_owned(), probe_version: PROBE_VERSION }
    }
}

/// Who was asked, and all that was answered.
pub(crate) struct Answered {
    /// The checkpoints, in the order in which they were given.
    pub(crate) phases: Vec<PhaseInfo>,
    /// The answers of all checkpoints ever asked in this folder.
    pub(crate) responses: Vec<Response>,
}

/// Asks every checkpoint every item in every form that it was not asked in yet, and keeps the answers in `folder`.
pub(crate) fn ask_all(
    folder: &Path,
    questions: &Questions<'_>,
    subjects: &[(String, Place)],
    bars: &Bars,
) -> Result<Answered> {
    let mut store = Store::open(folder, questions.key())?;
    let mut phases = Vec::new();
    for (name, place) in subjects {
        let subject = place.open(questions.items, folder)?;
        ask_one(&mut store, name, subject.as_ref(), questions.items, &Form::STANDARD, bars)?;
        questions.also.ask(&mut store, name, subject.as_ref(), questions.items, bars)?;
        phases.push(place.phase(name, subject.as_ref())?);
    }
    store.finish()?;
    Ok(Answered { phases, responses: store.responses() })
}

/// Asks a subject, whatever it is, what it was not asked yet, and keeps the answers in an open store.
pub(crate) fn ask_one(
    store: &mut Store,
    name: &str,
    model: &dyn Subject,
    items: &[Item],
    forms: &[Form],
    bars: &Bars,
) -> Result<()> {
    let known = store.known(model.fingerprint());
    let n_open = ask::count_open(model, items, forms, &known) as u64;
    bars.say(&format!("ask {name}: {n_open} open, {} kept", known.len()));
    if n_open == 0 {
        return Ok(());
    }
    bars.start(name, n_open);
    let mut n_answered = 0;
    let summary = ask::ask(model, items, forms, &known, &mut |responses| -> Result<()> {
        let n = responses.len() as u64;
        store.append(responses)?;
        n_answered += n;
        bars.advance(n_answered, n, "answers", "");
        Ok(())
    })
    .with_context(|| format!("cannot ask {name}"))?;
    bars.finish(&format!("{} asked, {} without a score", summary.asked, summary.unscored));
    Ok(())
}

/// Those of the phases that the run holds a checkpoint of.
pub(crate) fn checkpoints_of(run: &Run, phases: &[&str]) -> Vec<(String, Place)> {
    let held = phases.iter().filter(|&phase| run.checkpoint(phase).exists());
    held.map(|&phase| (phase.to_owned(), Place::Folder(run.checkpoint(phase)))).collect()
}

/// Items of the tasks, all where none is named, at most `limit` of each behaviour.
fn select(items: &[Item], tasks: &[String], limit: Option<u32>) -> Result<Vec<Item>> {
    let mut wanted: Vec<Behaviour> = Vec::new();
    for task in tasks {
        wanted.extend(behaviours_of(task)?);
    }
    let mut counts: BTreeMap<Behaviour, u32> = BTreeMap::new();
    let selected: Vec<Item> = items
        .iter()
        .filter(|item| tasks.is_empty() || wanted.contains(&item.behaviour))
        .filter(|item| {
            let count = counts.entry(item.behaviour).or_default();
            *count += 1;
            limit.is_none_or(|limit| *count <= limit)
        })
        .cloned()
        .collect();
    if selected.is_empty() {
        bail!(NothingToAsk(format!("the bank has no item of --tasks {}", tasks.join(","))));
    }
    Ok(selected)
}

/// The behaviours that a name stands for: a behaviour's own, or all of a probe's.
fn behaviours_of(name: &str) -> Result<Vec<Behaviour>> {
    if let Some(probe) = PROBES.iter().find(|probe| probe.name == name) {
        return Ok(probe.behaviours.to_vec());
    }
    let behaviour = Behaviour::named(name).map_err(|reason| Usage(format!("--tasks {name}: {reason}")))?;
    Ok(vec![behaviour])
}
