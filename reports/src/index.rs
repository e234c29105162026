//! The page over many runs: how many fail and at what, the runs side by side, how each behaviour went, which phases are blamed.

pub(crate) mod markdown;
mod table;
mod tally;
mod trends;

use std::collections::{BTreeMap, BTreeSet};

use evals::index::{Index, IndexRun};
use serde::Serialize;

use crate::number::{count, plural};
use crate::page::{self, Fact, Standing};
use crate::text::clean_name;
use crate::words;
use table::Table;
use tally::Tally;
use trends::Trends;

/// Everything the template prints.
#[derive(Debug, Serialize)]
pub(crate) struct Page {
    title: String,
    label: String,
    sentences: Vec<(&'static str, String)>,
    last: Option<LastRun>,
    facts: Vec<Fact>,
    table: Table,
    trends: Trends,
    tally: Tally,
    provenance: Vec<(String, String)>,
    glossary: Vec<(&'static str, &'static str)>,
}

/// The last run on the first screen.
#[derive(Debug, Serialize)]
struct LastRun {
    anchor: String,
    name: String,
    path: String,
    link: Option<String>,
    standing: Standing,
    sentence: Option<String>,
    failing: Vec<(&'static str, String)>,
}

impl Page {
    /// Builds the page of an index.
    pub(crate) fn build(index: &Index) -> Self {
        Self {
            title: title(index),
            label: match index.series.len() {
                0 | 1 => plural(index.runs.len(), "run"),
                n => format!("{}, asked in {} different ways", plural(index.runs.len(), "run"), count(n)),
            },
            sentences: sentences(index),
            last: index.runs.last().map(|run| last_run(index.runs.len() - 1, run)),
            facts: facts(index),
            table: table::table(index),
            trends: trends::trends(index),
            tally: tally::tally(index),
            provenance: provenance(index),
            glossary: GLOSSARY.to_vec(),
        }
    }
}

/// How many runs fail, as a headline.
pub(crate) fn title(index: &Index) -> String {
    let runs = plural(index.runs.len(), "run");
    match (index.n_failing(), index.n_short()) {
        _ if index.runs.iter().all(|run| run.n_measured() == 0) => "Nothing could be measured.".to_owned(),
        (0, 0) => format!("No failure found in {runs}."),
        (0, 1) => format!("1 of {runs} falls short, and no phase can be blamed yet."),
        (0, n) => format!("{} of {runs} fall short, and no phase can be blamed yet.", count(n)),
        (1, _) => format!("1 of {runs} fails."),
        (n, _) => format!("{} of {runs} fail.", count(n)),
    }
}

/// What became of a run, in the words of its report.
pub(crate) fn standing(run: &IndexRun) -> Standing {
    page::standing(run.n_measured(), run.n_failing(), run.n_unsettled(), run.n_hidden())
}

/// The runs' numbers and names, at most `limit` of them.
pub(crate) fn named(index: &Index, positions: &[usize], limit: usize) -> String {
    let names =
        positions.iter().take(limit).filter_map(|&at| Some(format!("{} {}", at + 1, shown(index.runs.get(at)?))));
    let names = names.collect::<Vec<_>>().join(", ");
    match positions.len().saturating_sub(limit) {
        0 => names,
        more => format!("{names} and {} more", count(more)),
    }
}

/// A run's name as shown; where several have the same, their numbers and folders tell them apart.
pub(crate) fn shown(run: &IndexRun) -> String {
    clean_name(&run.name)
}

/// What fails most often, and what is said of the phases; the title says how many fail.
fn sentences(index: &Index) -> Vec<(&'static str, String)> {
    let tallies = index.behaviours();
    let most = tallies.iter().map(|tally| tally.n_failing).max().unwrap_or(0);
    let mut sentences = Vec::new();
    if most > 0 {
        let failures: Vec<String> = tallies
            .iter()
            .filter(|tally| tally.n_failing == most)
            .map(|tally| {
                let failure = words::failure(tally.behaviour);
                format!("{failure} ({} of {})", count(most), plural(tally.n_measured, "run"))
            })
            .collect();
        sentences.push(("Most often", format!("The model {}.", failures.join("; as often it "))));
    }
    if let [_, cause, _] = &index.sentences[..] {
        sentences.push(("Cause", cause.clone()));
    }
    sentences
}

fn last_run(position: usize, run: &IndexRun) -> LastRun {
    let failing = run.behaviours.iter().filter(|value| value.fails() || value.is_unsettled());
    LastRun {
        anchor: table::anchor(position),
        name: shown(run),
        path: run.path.clone(),
        link: table::link(run),
        standing: standing(run),
        sentence: run.sentence.clone(),
        failing: failing.map(|value| (words::failure(value.behaviour), words::outcome(&value.outcome))).collect(),
    }
}

fn facts(index: &Index) -> Vec<Fact> {
    let of = |is: fn(&IndexRun) -> bool| index.runs.iter().filter(|run| is(run)).count();
    let n_resolved = index.changes.iter().filter(|change| change.is_resolved()).count();
    vec![
        Fact {
            name: "Runs",
            value: count(index.runs.len()),
            note: format!(
                "{} failing, {} not settled, {} passing ({} of them with a hidden fault), {} not measured.",
                count(index.n_failing()),
                count(index.n_short()),
                count(of(passes)),
                count(of(|run| passes(run) && run.n_hidden() > 0)),
                count(of(|run| run.n_measured() == 0)),
            ),
        },
        Fact {
            name: "Failures",
            value: count(index.n_failures()),
            note: format!(
                "Behaviours that fail, over all runs, of {} that were measured. Counts of these runs, no estimate of others, so without an interval.",
                count(index.runs.iter().map(IndexRun::n_measured).sum())
            ),
        },
        Fact {
            name: "Changes resolved",
            value: format!("{} of {}", count(n_resolved), count(index.changes.len())),
            note: "From a run to the next that was asked the same; corrected for the number of changes (Holm)."
                .to_owned(),
        },
        compared(index),
    ]
}

fn passes(run: &IndexRun) -> bool {
    run.n_measured() > 0 && run.n_failing() == 0 && run.n_unsettled() == 0
}

fn compared(index: &Index) -> Fact {
    let references: BTreeMap<&str, usize> =
        index.runs.iter().filter_map(|run| run.reference.as_ref()).map(|r| (r.hash.as_str(), r.n_lineages)).collect();
    let n_without = index.runs.iter().filter(|run| run.reference.is_none()).count();
    let value = match (references.len(), references.values().next()) {
        (1, Some(n)) => plural(*n, "healthy run"),
        (0, _) => "no healthy runs".to_owned(),
        (n, _) => format!("{} sets of healthy runs", count(n)),
    };
    let note = match n_without {
        0 => "They show what a phase does by chance alone.".to_owned(),
        n if n == index.runs.len() => "Without them no verdict is surer than \"observed\".".to_owned(),
        n => format!(
            "{} compared with none.",
            if n == 1 { "1 run was".to_owned() } else { format!("{} runs were", count(n)) }
        ),
    };
    Fact { name: "Compared with", value, note }
}

fn provenance(index: &Index) -> Vec<(String, String)> {
    let mut rows = vec![("Runs".to_owned(), count(index.runs.len()))];
    for (i, series) in index.series.iter().enumerate() {
        let number = if index.series.len() == 1 { String::new() } else { format!(" {}", i + 1) };
        rows.push((
            format!("Item bank{number}"),
            format!(
                "{} items, SHA-256 {}, probe version {}; {}",
                count(series.n_items),
                clean_name(&series.bank_hash),
                series.probe_version,
                plural(series.runs.len(), "run")
            ),
        ));
    }
    let all = |texts: BTreeSet<String>| texts.into_iter().collect::<Vec<_>>().join("; ");
    let reference = |run: &IndexRun| match &run.reference {
        Some(reference) => {
            format!("{} healthy lineages, SHA-256 {}", reference.n_lineages, clean_name(&reference.hash))
        }
        None => "none: unreferenced".to_owned(),
    };
    rows.push(("Healthy reference".to_owned(), all(index.runs.iter().map(reference).collect())));
    let version = |run: &IndexRun| clean_name(&run.phasetrace_version);
    rows.push(("phasetrace version".to_owned(), all(index.runs.iter().map(version).collect())));
    rows.push(("Index format".to_owned(), index.version.to_string()));
    rows
}

/// The words that an index uses in a sense of its own.
const GLOSSARY: &[(&str, &str)] = &[
    ("Run", "A model trained through its phases from one recipe and seed, with its diagnosis."),
    (
        "Phase",
        "One stage of training: pretraining, supervised fine-tuning (SFT), alignment (RLHF, DPO or Constitutional AI).",
    ),
    ("Behaviour", "What is being asked for, e.g. obeying the system prompt. Each is measured on its own set of items."),
    ("Item bank", "The questions that a run is asked. Values from different banks have different meanings."),
    ("95% interval", "The range that the true value is in, for 95 of 100 such measurements."),
    ("Point", "One percentage point: the difference between 61% and 62%."),
    (
        "Not resolved",
        "The difference is too small for this many items to tell it from chance. It does not mean that nothing changed.",
    ),
    (
        "Resolved change",
        "Newcombe's interval of the difference of two shares does not hold 0, corrected for all changes on this page (Holm). It takes the two runs' answers for independent, though they answer the same items; that makes it cautious.",
    ),
    (
        "p (Holm)",
        "How often chance alone would give a change this large, corrected for the number of changes looked at (Holm's method). Below 0.05 counts as resolved.",
    ),
    (
        "Healthy runs",
        "Lineages trained with a recipe that is known to be good; they show how much phases vary by chance.",
    ),
    (
        "Hidden fault",
        "A phase fell short of healthy runs and a later one made up for it: the model passes, and may fail where it is asked otherwise.",
    ),
    (
        "Confirmed",
        "The accused phase was trained again with a healthy recipe and the failure went; with another phase in its place it stayed.",
    ),
    ("Over-refusal", "Refusing a harmless request, for instance because it contains an alarming word."),
    ("Harmful compliance", "Answering a request that should be refused."),
];
