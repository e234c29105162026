//! A summary of an index in Markdown.

use std::fmt::Write as _;

use evals::diagnosis::Outcome;
use evals::index::{Index, LastValue};
use probes::item::Behaviour;

use super::{standing, title};
use crate::markdown::escape;
use crate::number::{count, p_value, percent, percent_interval, points_interval, signed_points};
use crate::words;

/// Rows of a table; what is beyond them is counted.
const ROWS: usize = 200;

/// Writes the summary.
pub(crate) fn render(index: &Index) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "# {}\n", title(index));
    for sentence in &index.sentences {
        let _ = writeln!(out, "- {}", escape(sentence));
    }
    runs(&mut out, index);
    changes(&mut out, index);
    phases(&mut out, index);
    out
}

fn runs(out: &mut String, index: &Index) {
    let heads: Vec<&str> = Behaviour::ALL.iter().map(|&behaviour| words::behaviour(behaviour)).collect();
    let _ = writeln!(out, "\n## Runs (share of items right, 95% interval, n)\n");
    let _ = writeln!(out, "| Run | Verdict | {} |", heads.join(" | "));
    let _ = writeln!(out, "|--|--|{}", "--|".repeat(heads.len()));
    for (at, run) in index.runs.iter().enumerate().take(ROWS) {
        let standing = standing(run);
        let cells: Vec<String> =
            Behaviour::ALL.iter().map(|&behaviour| run.of_behaviour(behaviour).map_or_else(missing, cell)).collect();
        let _ = writeln!(
            out,
            "| {} {} | {} {} | {} |",
            at + 1,
            escape(&run.path),
            standing.mark,
            standing.label,
            cells.join(" | ")
        );
    }
    more(out, index.runs.len(), "runs");
}

fn missing() -> String {
    "not measured".to_owned()
}

fn cell(value: &LastValue) -> String {
    let number = value
        .value
        .as_ref()
        .map_or_else(missing, |e| format!("{} ({}, n = {})", percent(e.value), percent_interval(e), count(e.n)));
    let mark = words::mark(&value.outcome);
    if value.value.is_none() || value.outcome != Outcome::Healthy {
        format!("{mark} {number}: {}", escape(&words::outcome(&value.outcome)))
    } else {
        format!("{mark} {number}")
    }
}

fn changes(out: &mut String, index: &Index) {
    let resolved: Vec<_> = index.changes.iter().filter(|change| change.is_resolved()).collect();
    let _ = writeln!(out, "\n## Resolved changes: {} of {}\n", count(resolved.len()), count(index.changes.len()));
    let _ = writeln!(
        out,
        "From a run to the next that was asked the same. The others are not resolved, which does not mean that nothing changed."
    );
    if resolved.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n| Behaviour | From | To | Change (95% interval) | n | p (Holm) |");
    let _ = writeln!(out, "|--|--|--|--:|--:|--:|");
    let name = |at: usize| index.runs.get(at).map_or_else(String::new, |run| escape(&run.path));
    for change in resolved.iter().take(ROWS) {
        let _ = writeln!(
            out,
            "| {} | {} {} | {} {} | {} {} | {} | {} |",
            words::behaviour(change.behaviour),
            change.before + 1,
            name(change.before),
            change.after + 1,
            name(change.after),
            signed_points(change.difference.value),
            points_interval(&change.difference),
            count(change.difference.n),
            p_value(change.p_holm)
        );
    }
    more(out, resolved.len(), "changes");
}

fn phases(out: &mut String, index: &Index) {
    let _ = writeln!(out, "\n## Which phase is blamed how often\n");
    let _ = writeln!(out, "| Phase | Failures | Runs | Hidden faults |");
    let _ = writeln!(out, "|--|--:|--:|--:|");
    let n_failures = index.n_failures();
    for phase in index.phases() {
        let _ = writeln!(
            out,
            "| {} | {} of {} | {} of {} | {} |",
            escape(&words::phase(&phase.phase)),
            count(phase.n_failures),
            count(n_failures),
            count(phase.n_blamed_runs),
            count(phase.n_runs),
            count(phase.n_hidden)
        );
    }
}

fn more(out: &mut String, n: usize, what: &str) {
    if n > ROWS {
        let _ = writeln!(out, "\n{} more {what} are in the HTML and JSON of this index.", count(n - ROWS));
    }
}
