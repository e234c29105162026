//! A summary in Markdown, for pull requests and job pages.

use std::fmt::Write as _;

use evals::calibration::Calibration;
use evals::diagnosis::{BehaviourHistory, Diagnosis, Estimate, LineageDiagnosis, Outcome, PhaseInfo};
use evals::fixes;
use evals::tried;
use probes::response::Form;

use crate::number::{count, decimal, percent, percent_interval, points, signed_points};
use crate::page::headline;
use crate::text::{TEXT_LIMIT, clean_line};
use crate::verdict::{failing, probability};
use crate::words;

/// Writes the summary.
pub(crate) fn render(diagnosis: &Diagnosis) -> String {
    let mut out = String::new();
    let verdict = headline(diagnosis);
    let _ = writeln!(out, "# {} {}\n", verdict.mark, escape(&verdict.title));
    let _ = writeln!(out, "Run {} · {}\n", escape(&diagnosis.run), verdict.label);
    for sentence in &diagnosis.sentences {
        let _ = writeln!(out, "- {}", escape(sentence));
    }
    for lineage in &diagnosis.lineages {
        lineage_section(&mut out, lineage);
    }
    let provenance = &diagnosis.provenance;
    let seed = provenance.seed.map_or_else(|| "not known".to_owned(), |seed| seed.to_string());
    let reference = provenance
        .reference
        .as_ref()
        .map_or_else(|| "no healthy runs".to_owned(), |r| format!("{} healthy runs", count(r.n_lineages)));
    let _ = writeln!(
        out,
        "\nSeed {seed} · {} items, bank {} · compared with {reference} · phasetrace {}",
        count(provenance.n_items),
        escape(&provenance.bank_hash.chars().take(12).collect::<String>()),
        escape(&provenance.phasetrace_version)
    );
    out
}

fn lineage_section(out: &mut String, lineage: &LineageDiagnosis) {
    let _ = writeln!(out, "\n## {}\n", escape(&words::lineage(&lineage.name)));
    let phases: Vec<String> = lineage.phases.iter().map(|p| escape(&words::phase(&p.name))).collect();
    let _ = writeln!(out, "| Share of items right (95% interval) | {} | n | Verdict |", phases.join(" | "));
    let _ = writeln!(out, "|--|{}--:|--|", "--:|".repeat(phases.len()));
    for history in &lineage.behaviours {
        let cells: Vec<String> = history
            .values
            .iter()
            .map(|value| {
                value
                    .as_ref()
                    .map_or_else(|| "–".to_owned(), |v| format!("{} ({})", percent(v.value), percent_interval(v)))
            })
            .collect();
        let n = history.values.iter().flatten().last().map_or_else(|| "–".to_owned(), |v| count(v.n));
        let _ = writeln!(
            out,
            "| {} | {} | {n} | {} |",
            words::behaviour(history.behaviour),
            cells.join(" | "),
            verdict_cell(history, &lineage.phases)
        );
    }
    confidence_table(out, lineage);
    for knowledge in &lineage.self_knowledge {
        for (what, text) in knowledge.found() {
            let _ = writeln!(out, "\n{}, {}: {}", escape(&words::phase(&knowledge.phase)), what.name(), escape(&text));
        }
    }
    for history in failing(&lineage.behaviours) {
        let _ = writeln!(
            out,
            "\n**The model {}**: {}.",
            words::failure(history.behaviour),
            verdict_cell(history, &lineage.phases)
        );
        if let Some(remedy) = &history.verdict.remedy {
            let _ = writeln!(out, "What to do: {}", escape(remedy));
        }
        let said = [tried::sentence(&history.tried), fixes::sentence(&history.verdict.fixes)];
        for sentence in said.into_iter().flatten() {
            let _ = writeln!(out, "{sentence}");
        }
    }
}

/// Whether each checkpoint is as sure as it should be; nothing where no confidence was measured.
fn confidence_table(out: &mut String, lineage: &LineageDiagnosis) {
    // What it says when it is asked stands in lines of its own.
    let by_likelihood = lineage.calibration.iter().filter(|curve| !Form::CONFIDENCE.contains(&curve.form));
    let curves: Vec<(&str, &Calibration)> =
        by_likelihood.filter_map(|curve| Some((curve.phase.as_str(), curve.measures.as_ref()?))).collect();
    if curves.is_empty() {
        return;
    }
    let phases: Vec<String> = curves.iter().map(|(phase, _)| escape(&words::phase(phase))).collect();
    let _ = writeln!(out, "\n| Confidence (95% interval) | {} |", phases.join(" | "));
    let _ = writeln!(out, "|--|{}", "--:|".repeat(phases.len()));
    let mut row = |name: &str, cell: &dyn Fn(&Calibration) -> String| {
        let cells: Vec<String> = curves.iter().map(|(_, of)| cell(of)).collect();
        let _ = writeln!(out, "| {name} | {} |", cells.join(" | "));
    };
    let range = |of: &Estimate, low: String, high: String| {
        if of.low.is_finite() && of.high.is_finite() { format!("{low} to {high}") } else { "no interval".to_owned() }
    };
    row("Off by, less what chance adds (debiased calibration error)", &|of| {
        let e = &of.debiased.estimate;
        format!("{} ({})", points(e.value), range(e, points(e.low), points(e.high)))
    });
    row("Too sure by; below 0, not sure enough", &|of| {
        let e = &of.overconfidence.estimate;
        format!("{} ({})", signed_points(e.value), range(e, signed_points(e.low), signed_points(e.high)))
    });
    row("ECE (10 bins); a calibrated model's", &|of| {
        let e = &of.ece_equal_width_10;
        let interval = range(&e.estimate, decimal(e.estimate.low, 3), decimal(e.estimate.high, 3));
        format!("{} ({interval}); {}", decimal(e.estimate.value, 3), decimal(e.null.mean, 3))
    });
    row("Right of the surest half; of all", &|of| {
        let share = |of: Option<&Estimate>| {
            of.map_or_else(|| "–".to_owned(), |e| format!("{} ({})", percent(e.value), percent_interval(e)))
        };
        format!("{}; {}", share(of.surest_half.as_ref().map(|half| &half.estimate)), share(of.known_accuracy.as_ref()))
    });
    row("n", &|of| count(of.n));
}

pub(crate) fn verdict_cell(history: &BehaviourHistory, phases: &[PhaseInfo]) -> String {
    let outcome = &history.verdict.outcome;
    let line = format!("{} {}", words::mark(outcome), escape(&words::outcome(outcome)));
    match outcome {
        Outcome::Healthy | Outcome::Latent { .. } => line,
        Outcome::Attributed { .. } => {
            let number =
                probability(history, phases).map_or_else(String::new, |p| format!(", probability {}", percent(p)));
            format!("{line} ({}{number})", words::confidence(history.verdict.confidence).to_lowercase())
        }
        Outcome::Undetermined { reason } | Outcome::NotMeasured { reason } => format!("{line}: {}", escape(reason)),
    }
}

/// Escapes, on one line, everything that Markdown or the HTML inside it could read as markup.
pub(crate) fn escape(text: &str) -> String {
    let line = clean_line(text, TEXT_LIMIT);
    // Where a text begins a list item, spaces before it would make it code.
    let line = line.trim_start();
    let n_digits = line.bytes().take_while(u8::is_ascii_digit).count();
    let mut out = String::with_capacity(line.len());
    for (at, c) in line.char_indices() {
        // The mark of a list inside the list item.
        let begins_list = match c {
            '-' | '+' => at == 0,
            '.' | ')' => at > 0 && at == n_digits && line[at + 1..].starts_with(' '),
            _ => false,
        };
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '!' | '$' | '@' => {
                out.push('\\');
                out.push(c);
            }
            c if begins_list => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn markup_of_either_kind_is_shown_not_read() {
        assert_eq!(escape("  - no list"), "\\- no list");
        assert_eq!(escape("1. none, 2.5 either"), "1\\. none, 2.5 either");
        assert_eq!(escape("a|b\n<img> [x](y) `c`"), "a\\|b &lt;img&gt; \\[x\\](y) \\`c\\`");
    }
}
