//! `phasetrace probe`: asks checkpoints the questions of a bank; what was asked is not asked again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use evals::diagnosis::PhaseInfo;
use evals::store::{RESULTS_FILE, Store, StoreKey};
use lm::lineage::Lineage;
use lm::{LoadedModel, Subject};
use probes::bank::Bank;
use probes::item::{Behaviour, Item};
use probes::response::{Form, Response};
use probes::{PROBE_VERSION, PROBES, ask};

use crate::cli::ProbeArgs;
use crate::exit::{self, NothingToAsk, Usage};
use crate::lock;
use crate::output;
use crate::preview;
use crate::progress::Bars;
use crate::run::{ASKED, Run};

pub(crate) fn run(args: &ProbeArgs, bars: &Bars) -> Result<u8> {
    let (checkpoints, bank, folder) = if args.subject.join("config.json").exists() {
        let (Some(bank), Some(folder)) = (&args.bank, &args.output) else {
            bail!(Usage(format!(
                "{} is a checkpoint, not a run: --bank FILE and -o DIR are needed",
                args.subject.display()
            )));
        };
        let name =
            args.subject.file_name().map_or_else(|| "checkpoint".into(), |name| name.to_string_lossy().into_owned());
        (vec![(name, args.subject.clone())], bank.clone(), folder.clone())
    } else {
        let run = Run::at(&args.subject);
        let checkpoints = checkpoints_of(&run, &ASKED);
        if checkpoints.is_empty() {
            bail!("{}: no run with a checkpoint; `phasetrace train` makes one", run.root().display());
        }
        let bank = args.bank.clone().unwrap_or_else(|| run.bank());
        (checkpoints, bank, args.output.clone().unwrap_or_else(|| args.subject.clone()))
    };
    let bank = Bank::load(&bank)?;
    let items = select(&bank.items, &args.tasks, args.limit)?;
    if args.preview {
        let (name, path) = checkpoints.last().expect("there is one, checked above");
        output::print(&preview::render(name, &load(path)?, &items)?)?;
        return Ok(exit::SUCCESS);
    }
    let _lock = lock::take(&folder)?;
    ask_all(&folder, &Questions { bank_hash: &bank.hash, items: &items }, &checkpoints, bars)?;
    output::print_line(&folder.join(RESULTS_FILE).display().to_string())?;
    Ok(exit::SUCCESS)
}

/// What is asked of every checkpoint.
pub(crate) struct Questions<'a> {
    /// Hash of the bank that the items are from.
    pub(crate) bank_hash: &'a str,
    /// The items.
    pub(crate) items: &'a [Item],
}

impl Questions<'_> {
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
    checkpoints: &[(String, PathBuf)],
    bars: &Bars,
) -> Result<Answered> {
    let mut store = Store::open(folder, questions.key())?;
    let mut phases = Vec::new();
    for (name, path) in checkpoints {
        let model = load(path)?;
        ask_one(&mut store, name, &model, questions.items, &Form::ALL, bars)?;
        let metrics = Lineage::load(path)?.map_or_else(BTreeMap::new, |lineage| lineage.metrics);
        phases.push(PhaseInfo { name: name.clone(), checkpoint: model.fingerprint().to_owned(), metrics, cost: None });
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
pub(crate) fn checkpoints_of(run: &Run, phases: &[&str]) -> Vec<(String, PathBuf)> {
    let all = phases.iter().map(|&phase| (phase.to_owned(), run.checkpoint(phase)));
    all.filter(|(_, path)| path.exists()).collect()
}

fn load(path: &Path) -> Result<LoadedModel> {
    LoadedModel::load(path).with_context(|| format!("cannot load checkpoint {}", path.display()))
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
    let known = Behaviour::ALL.into_iter().find(|behaviour| behaviour.name() == name);
    known.map(|behaviour| vec![behaviour]).ok_or_else(|| {
        let names: Vec<&str> = Behaviour::ALL.iter().map(|behaviour| behaviour.name()).collect();
        anyhow!(Usage(format!("--tasks {name}: no such behaviour; known are {}", names.join(", "))))
    })
}
