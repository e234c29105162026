//! The runs side by side: one row for each, one column for each behaviour.

use std::fmt::Write as _;

use evals::diagnosis::{Outcome, Rung};
use evals::index::{Index, IndexRun, LastValue};
use probes::item::Behaviour;
use serde::Serialize;

use super::{Standing, shown, standing};
use crate::number::{count, percent, percent_interval};
use crate::text::{TEXT_LIMIT, percent_encoded};
use crate::words;

/// Heads and rows.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    heads: Vec<Head>,
    rows: Vec<Row>,
}

/// A behaviour as the head of a column.
#[derive(Debug, Serialize)]
struct Head {
    name: &'static str,
    term: &'static str,
    n: Option<String>,
    tally: String,
}

/// A run.
#[derive(Debug, Serialize)]
struct Row {
    anchor: String,
    number: String,
    name: String,
    path: String,
    link: Option<String>,
    details: String,
    standing: Standing,
    cells: Vec<Cell>,
}

/// A behaviour after the last phase of a run.
#[derive(Debug, Serialize)]
struct Cell {
    tone: &'static str,
    mark: &'static str,
    word: String,
    is_quiet: bool,
    value: Option<String>,
    interval: String,
    n: Option<String>,
    missing: String,
}

/// Anchor of the row of the run at this position.
pub(crate) fn anchor(position: usize) -> String {
    format!("run-{}", position + 1)
}

/// Builds the table.
pub(crate) fn table(index: &Index) -> Table {
    let common: Vec<Option<usize>> = Behaviour::ALL.iter().map(|&behaviour| common_n(index, behaviour)).collect();
    let heads = index.behaviours().into_iter().zip(&common).map(|(tally, n)| Head {
        name: words::behaviour(tally.behaviour),
        term: words::behaviour_term(tally.behaviour),
        n: n.map(count),
        tally: match tally.n_measured {
            0 => "measured in no run".to_owned(),
            measured => {
                let unsettled = match tally.n_unsettled {
                    0 => String::new(),
                    n => format!(", {} not settled", count(n)),
                };
                format!("fails in {} of {}{unsettled}", count(tally.n_failing), count(measured))
            }
        },
    });
    Table {
        heads: heads.collect(),
        rows: index.runs.iter().enumerate().map(|(at, run)| row(index, at, run, &common)).collect(),
    }
}

/// Number of items of a behaviour, where it is the same in all runs that measured it.
fn common_n(index: &Index, behaviour: Behaviour) -> Option<usize> {
    let mut all = index.runs.iter().filter_map(|run| Some(run.of_behaviour(behaviour)?.value.as_ref()?.n));
    let first = all.next()?;
    all.all(|n| n == first).then_some(first)
}

fn row(index: &Index, at: usize, run: &IndexRun, common: &[Option<usize>]) -> Row {
    let cell = |(&behaviour, n): (&Behaviour, &Option<usize>)| cell(run.of_behaviour(behaviour), n.is_some());
    Row {
        anchor: anchor(at),
        number: count(at + 1),
        name: shown(run),
        path: run.path.clone(),
        link: link(run),
        details: details(index, at, run),
        standing: standing(run),
        cells: Behaviour::ALL.iter().zip(common).map(cell).collect(),
    }
}

/// Seed, lineage and, where there are several, the item bank.
fn details(index: &Index, at: usize, run: &IndexRun) -> String {
    let seed = run.seed.map_or_else(|| "seed not known".to_owned(), |seed| format!("seed {seed}"));
    let mut details = match &run.lineage {
        Some(lineage) => format!("{}, {seed}", words::lineage(lineage)),
        None => seed,
    };
    if index.series.len() > 1
        && let Some(bank) = index.series.iter().position(|series| series.runs.contains(&at))
    {
        let _ = write!(details, ", item bank {}", bank + 1);
    }
    details
}

fn cell(value: Option<&LastValue>, has_common_n: bool) -> Cell {
    let Some(value) = value else {
        return Cell {
            tone: "quiet",
            mark: "–",
            word: "not measured".to_owned(),
            is_quiet: false,
            value: None,
            interval: String::new(),
            n: None,
            missing: "the diagnosis does not mention it".to_owned(),
        };
    };
    let estimate = value.value.as_ref();
    Cell {
        tone: words::tone(&value.outcome),
        mark: words::mark(&value.outcome),
        word: word(value),
        is_quiet: value.outcome == Outcome::Healthy,
        value: estimate.map(|e| percent(e.value)),
        interval: estimate.map_or_else(String::new, percent_interval),
        n: estimate.filter(|_| !has_common_n).map(|e| count(e.n)),
        missing: value.not_measured.clone().unwrap_or_default(),
    }
}

/// The verdict in words: which phase is blamed, and how sure that is.
fn word(value: &LastValue) -> String {
    let said = words::outcome(&value.outcome);
    match &value.outcome {
        Outcome::Attributed { .. } if value.rung == Some(Rung::Confirmed) => format!("{said}; confirmed"),
        Outcome::Attributed { .. } => {
            format!("{said}; {}", words::confidence(value.confidence).to_lowercase())
        }
        _ => said,
    }
}

/// Link to a run's report. Every byte that means something in an address is percent-encoded and empty parts are left out: whatever
/// a folder is called, the link is a relative one, with no scheme and no host of its own.
pub(crate) fn link(run: &IndexRun) -> Option<String> {
    let path = run.report.as_deref()?;
    let parts: Vec<String> =
        path.split('/').filter(|part| !part.is_empty()).map(|part| percent_encoded(part, b"")).collect();
    let link = parts.join("/");
    // What would be cut where it is printed is no link.
    (!link.is_empty() && link.len() < TEXT_LIMIT).then_some(link)
}
