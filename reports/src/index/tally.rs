//! Which phase was blamed how often.

use std::fmt::Write as _;

use evals::index::{Index, PhaseTally};
use serde::Serialize;

use crate::number::{count, plural};
use crate::words;

/// The table of phases.
#[derive(Debug, Serialize)]
pub(crate) struct Tally {
    lead: String,
    rows: Vec<Row>,
}

/// A phase.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    gloss: &'static str,
    failures: String,
    runs: String,
    confirmed: String,
    hidden: String,
    behaviours: String,
}

/// Builds the table: a row for each phase, also those that are never blamed.
pub(crate) fn tally(index: &Index) -> Tally {
    let n_failures = index.n_failures();
    let phases = index.phases();
    let n_unsettled = index.n_unsettled();
    let has_any = n_failures > 0 || phases.iter().any(|phase| phase.n_hidden > 0);
    let rows: Vec<Row> = phases.iter().filter(|_| has_any).map(|phase| row(phase, n_failures)).collect();
    let mut lead = match n_failures {
        0 => "No behaviour fails, so no phase is blamed.".to_owned(),
        n => format!(
            "{} in {}. Counts of these runs: they tell of no others, so they stand without intervals.",
            plural(n, "failure"),
            plural(index.n_failing(), "run")
        ),
    };
    if n_unsettled > 0 {
        let _ = write!(lead, " No phase is settled for {}.", plural(n_unsettled, "shortfall"));
    }
    Tally { lead, rows }
}

fn row(phase: &PhaseTally, n_failures: usize) -> Row {
    let behaviours: Vec<String> = phase
        .behaviours
        .iter()
        .map(|(&behaviour, &n)| format!("{} ({})", words::behaviour_term(behaviour), count(n)))
        .collect();
    Row {
        name: words::phase(&phase.phase),
        gloss: words::phase_gloss(&phase.phase),
        failures: match n_failures {
            0 => "none".to_owned(),
            n => format!("{} of {}", count(phase.n_failures), count(n)),
        },
        runs: format!("{} of {}", count(phase.n_blamed_runs), count(phase.n_runs)),
        confirmed: if phase.n_failures == 0 {
            "–".to_owned()
        } else {
            format!("{} of {}", count(phase.n_confirmed), count(phase.n_failures))
        },
        hidden: count(phase.n_hidden),
        behaviours: if behaviours.is_empty() { "none".to_owned() } else { behaviours.join(", ") },
    }
}
