//! A summary of a comparison in Markdown.

use std::fmt::Write as _;

use evals::comparison::{Axis, Comparison};

use super::setting::standing;
use super::{Roster, is_explored};
use crate::markdown::escape;
use crate::number::{count, decimal, measure, measure_interval, plural};
use crate::words;

/// Writes the summary.
pub(crate) fn render(comparison: &Comparison) -> String {
    let roster = Roster::over(comparison);
    let mut out = String::new();
    let _ = writeln!(out, "# Alignment settings compared: {}\n", escape(&comparison.name));
    list(&mut out, comparison.sentences.iter());
    settings(&mut out, comparison, &roster);
    if !comparison.choices.is_empty() {
        let _ = writeln!(out, "\n## Choose this if you care most about …\n");
    }
    for choice in &comparison.choices {
        let ties: Vec<String> = choice.ties.iter().map(|name| escape(&roster.numbered(name))).collect();
        let ties = if ties.is_empty() { String::new() } else { format!(" (not told apart from {})", ties.join("; ")) };
        let _ = writeln!(
            out,
            "- {}: **{}**{ties}. {}",
            escape(&choice.care),
            escape(&roster.numbered(&choice.setting)),
            escape(&choice.reason)
        );
    }
    part(&mut out, "What each key does", comparison.effects.iter().map(|e| &e.sentence));
    part(&mut out, "Settings explored, not trained", comparison.trust.iter().map(|t| &t.sentence));
    if !comparison.over_optimisation.is_empty() {
        let _ = writeln!(out, "\n## Over-optimisation\n");
    }
    for entry in &comparison.over_optimisation {
        let name = escape(&roster.numbered(&entry.setting));
        let _ = writeln!(out, "- {name}, seed {}: {}", entry.seed, escape(&entry.sentence));
    }
    part(&mut out, "Principles", comparison.principles.iter().flat_map(|table| &table.sentences));
    let provenance = &comparison.provenance;
    let _ = writeln!(
        out,
        "\n{} items, bank {} · phasetrace {}",
        count(provenance.n_items),
        escape(&provenance.bank_hash.chars().take(12).collect::<String>()),
        escape(&provenance.phasetrace_version)
    );
    out
}

fn settings(out: &mut String, comparison: &Comparison, roster: &Roster) {
    if comparison.settings.is_empty() {
        return;
    }
    let heads: Vec<String> = Axis::ALL
        .iter()
        .map(|&axis| format!("{} ({})", words::capital(axis.title()), words::axis_direction(axis)))
        .collect();
    let _ = writeln!(out, "\n## Settings (95% intervals in brackets)\n");
    let _ = writeln!(out, "| Setting | {} | Seeds | Training | Standing |", heads.join(" | "));
    let _ = writeln!(out, "|--|{}--:|--:|--|", "--:|".repeat(heads.len()));
    for (i, setting) in roster.settings().filter(|(_, s)| !is_explored(s)) {
        let cells: Vec<String> = Axis::ALL
            .iter()
            .map(|&axis| match setting.axes.get(&axis) {
                Some(e) => format!("{} ({})", measure(axis, e.value), measure_interval(axis, e)),
                None => "not measured".to_owned(),
            })
            .collect();
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            escape(&roster.title(i)),
            cells.join(" | "),
            count(setting.seeds.len()),
            setting.train_s.map_or_else(|| "–".to_owned(), |s| format!("{} s", decimal(s, 0))),
            escape(&standing(roster, setting))
        );
    }
    let explored = super::n_explored(comparison);
    if explored > 0 {
        let _ =
            writeln!(out, "\n{} explored without training; the report lists them.", plural(explored, "more setting"));
    }
}

fn part<'a>(out: &mut String, title: &str, lines: impl Iterator<Item = &'a String>) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        let _ = writeln!(out, "\n## {title}\n");
        list(out, lines);
    }
}

fn list<'a>(out: &mut String, lines: impl Iterator<Item = &'a String>) {
    for line in lines {
        let _ = writeln!(out, "- {}", escape(line));
    }
}
