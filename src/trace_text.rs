//! A trace as Markdown.

use std::fmt::Write as _;

use evals::trace::record::{LeftOut, Trace};

use crate::trace::CONTRASTED;

/// Longest part of a row that is shown, in characters.
const SHOWN: usize = 160;

/// The rows found, what they have in common, and what became of the failure without them.
pub(crate) fn markdown(trace: &Trace) -> String {
    let mut out = String::new();
    let gradients = match trace.n_gradients {
        0 => String::new(),
        n => format!(" Gradients were taken of {n} rows."),
    };
    let _ = writeln!(out, "# {} of {}: rows of {} behind it\n", trace.behaviour.name(), trace.run, trace.file);
    let _ = writeln!(
        out,
        "{} of {} failing items at the end of `{}`; {} rows that `{}` learns from, ranked by {}.{gradients}\n",
        trace.n_queries,
        trace.n_failing,
        trace.lineage,
        trace.n_rows,
        trace.phase,
        trace.methods.join(" + ")
    );
    let n_contrasted = trace.rows.len().max(CONTRASTED).min(trace.n_rows);
    let _ = writeln!(out, "## What the first {n_contrasted} rows have in common\n");
    if trace.contrast.is_empty() {
        let _ = writeln!(out, "Nothing that sets them apart from the rest.");
    }
    for contrast in &trace.contrast {
        let _ = writeln!(
            out,
            "- {}: {:.1} x over-represented ({} of {} here, {} of {} in the file; z = {:.1})",
            cell(&contrast.feature),
            contrast.ratio,
            contrast.top,
            contrast.n_top,
            contrast.rows,
            contrast.n_rows,
            contrast.z
        );
    }
    if let Some(left_out) = &trace.left_out {
        leave_out_section(&mut out, left_out);
    }
    let names: Vec<&str> =
        trace.rows.first().map_or_else(Vec::new, |row| row.ranks.keys().map(String::as_str).collect());
    let _ = writeln!(out, "\n## Rows\n\n| {} | kind | given | learnt | {} |", trace.file, names.join(" | "));
    let _ = writeln!(out, "|--:|--|--|--|{}", "--:|".repeat(names.len()));
    for row in &trace.rows {
        let rank = |name: &&str| row.ranks.get(*name).map_or_else(|| "–".to_owned(), |rank| format!("{rank:.0}"));
        let ranks: Vec<String> = names.iter().map(rank).collect();
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            row.line,
            cell(&row.kind),
            cell(&row.prompt),
            cell(&row.learnt),
            ranks.join(" | ")
        );
    }
    out
}

fn leave_out_section(out: &mut String, left_out: &LeftOut) {
    let LeftOut { what, n_left_out, n_items, before, without, without_random, .. } = left_out;
    let _ = writeln!(
        out,
        "\n## Without them\n\nRetrained without {n_left_out} rows ({}): {:.1} % of {n_items} items right, {:.1} % as trained, {:.1} % without as many \
         rows drawn at random.",
        cell(what),
        100.0 * without,
        100.0 * before,
        100.0 * without_random
    );
    if let Some(recovered) = left_out.recovered() {
        let _ = writeln!(
            out,
            "Of the shortfall {:.0} % goes away with these rows and not with random ones.",
            100.0 * recovered
        );
    }
}

/// Text that a table's cell can hold, cut to a readable length.
fn cell(text: &str) -> String {
    let line = text.replace('|', "\\|").replace(['\n', '\r'], " ");
    if line.chars().count() <= SHOWN { line } else { line.chars().take(SHOWN - 1).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use evals::trace::record::TRACE_VERSION;
    use probes::item::Behaviour;

    use super::*;

    #[test]
    fn the_heading_says_of_how_many_rows_it_tells() {
        let trace = |n_rows: usize| Trace {
            version: TRACE_VERSION,
            run: "small".to_owned(),
            lineage: "rlhf".to_owned(),
            phase: "sft".to_owned(),
            behaviour: Behaviour::OverRefusal,
            file: "data/sft.jsonl".to_owned(),
            n_rows,
            n_queries: 1,
            n_failing: 1,
            methods: Vec::new(),
            n_gradients: 0,
            rows: Vec::new(),
            contrast: Vec::new(),
            left_out: None,
        };
        assert!(markdown(&trace(900)).contains("What the first 50 rows have in common"));
        assert!(markdown(&trace(20)).contains("What the first 20 rows have in common"));
    }
}
