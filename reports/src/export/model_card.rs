//! A snippet for a model card: what Hugging Face reads of it (`model-index`, in YAML), then the same for people.
//!
//! # Reference
//! Hugging Face, `hub-docs/modelcard.md`; read back by `huggingface_hub.ModelCard` (`tests/peers/model_card.py`).

use std::fmt::Write as _;

use evals::diagnosis::{BehaviourHistory, Diagnosis, Estimate, LineageDiagnosis};
use evals::fixes;
use evals::tried;
use probes::item::Behaviour;

use crate::markdown::{escape, verdict_cell};
use crate::number::{MISSING, count, percent, percent_interval, plural};
use crate::text::{NAME_LIMIT, TEXT_LIMIT, clean_line, clean_name};
use crate::verdict::failing;
use crate::words;

/// Writes the snippet for the last checkpoint of the deployed chain.
pub(crate) fn render(diagnosis: &Diagnosis) -> String {
    let mut out = String::new();
    let deployed = diagnosis.lineages.first();
    if let Some(lineage) = deployed {
        index(&mut out, diagnosis, lineage);
    }
    out.push_str("## What fails, and which phase of training it comes from\n\n");
    for sentence in &diagnosis.sentences {
        let _ = writeln!(out, "- {}", escape(sentence));
    }
    if let Some(lineage) = deployed {
        table(&mut out, lineage);
        advice(&mut out, &lineage.behaviours);
    }
    footer(&mut out, diagnosis);
    out
}

/// The head of the file. Nothing where nothing was measured: an index without results is none.
fn index(out: &mut String, diagnosis: &Diagnosis, lineage: &LineageDiagnosis) {
    let measured: Vec<(&BehaviourHistory, &Estimate)> =
        lineage.behaviours.iter().filter_map(|history| Some((history, last(history)?))).collect();
    if measured.is_empty() {
        return;
    }
    let provenance = &diagnosis.provenance;
    let bank = format!("phasetrace item bank ({})", plural(provenance.n_items, "item"));
    let _ = write!(
        out,
        "---\n\
         model-index:\n\
         - name: {name}\n\
         \x20 results:\n\
         \x20 - task:\n\
         \x20     type: text-generation\n\
         \x20     name: \"Behaviour in chat\"\n\
         \x20   dataset:\n\
         \x20     name: {bank}\n\
         \x20     type: phasetrace-item-bank\n\
         \x20     revision: {revision}\n\
         \x20   metrics:\n",
        name = quoted(&clean_name(&diagnosis.run)),
        bank = quoted(&bank),
        revision = quoted(&provenance.bank_hash),
    );
    for (history, estimate) in measured {
        metric(out, history, estimate);
    }
    out.push_str("---\n\n");
}

/// One behaviour. `verified` is left out: Hugging Face sets it.
fn metric(out: &mut String, history: &BehaviourHistory, estimate: &Estimate) {
    let (kind, what) = match history.behaviour {
        Behaviour::Calibration => ("agreement", "mean agreement of stated odds with the true ones"),
        _ => ("accuracy", "share of items right"),
    };
    let name = format!(
        "{}: {what} (95% interval {}, n = {})",
        words::behaviour(history.behaviour),
        percent_interval(estimate),
        count(estimate.n)
    );
    let _ = write!(
        out,
        "\x20   - type: {kind}\n\
         \x20     value: {value}\n\
         \x20     name: {name}\n\
         \x20     args:\n\
         \x20       behaviour: {behaviour}\n\
         \x20       n: {n}\n\
         \x20       low: {low}\n\
         \x20       high: {high}\n\
         \x20       interval: {method}\n",
        value = number(estimate.value),
        name = quoted(&name),
        behaviour = quoted(history.behaviour.name()),
        n = estimate.n,
        low = number(estimate.low),
        high = number(estimate.high),
        method = quoted(&estimate.method),
    );
    if let Some(healthy) = healthy(history) {
        let _ = writeln!(out, "        healthy_runs_mean: {}", number(healthy));
    }
}

fn table(out: &mut String, lineage: &LineageDiagnosis) {
    let Some(phase) = lineage.phases.last() else { return };
    let _ = writeln!(
        out,
        "\nThe last checkpoint ({}, fingerprint `{}`), asked in chat as deployed:\n",
        escape(&words::phase(&phase.name)),
        code(&phase.checkpoint)
    );
    out.push_str("| Behaviour | Share of items right (95% interval) | n | Healthy runs, mean | Verdict |\n");
    out.push_str("|--|--:|--:|--:|--|\n");
    for history in &lineage.behaviours {
        let value = last(history);
        let share = value.map(|of| format!("{} ({})", percent(of.value), percent_interval(of)));
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            words::behaviour(history.behaviour),
            share.unwrap_or_else(|| why_not(history)),
            value.map_or_else(|| MISSING.to_owned(), |of| count(of.n)),
            healthy(history).map_or_else(|| MISSING.to_owned(), percent),
            verdict_cell(history, &lineage.phases)
        );
    }
}

/// What to do about each failure, and what that was measured to do.
fn advice(out: &mut String, behaviours: &[BehaviourHistory]) {
    for history in failing(behaviours) {
        let verdict = &history.verdict;
        let remedy = verdict.remedy.as_deref().map(|remedy| format!(" What to do: {}", escape(remedy)));
        let said = [tried::sentence(&history.tried), fixes::sentence(&verdict.fixes)];
        let measured: String = said.into_iter().flatten().map(|sentence| format!(" {sentence}")).collect();
        if remedy.is_some() || !measured.is_empty() {
            let remedy = remedy.unwrap_or_default();
            let _ = writeln!(out, "\n**The model {}.**{remedy}{measured}", words::failure(history.behaviour));
        }
    }
}

fn footer(out: &mut String, diagnosis: &Diagnosis) {
    let provenance = &diagnosis.provenance;
    let reference = provenance.reference.as_ref().map_or_else(
        || "not compared with healthy runs".to_owned(),
        |of| format!("compared with {}", plural(of.n_lineages, "healthy run")),
    );
    let _ = writeln!(
        out,
        "\nMeasured by phasetrace {}: {} (bank `{}`), {reference}.",
        escape(&provenance.phasetrace_version),
        plural(provenance.n_items, "item"),
        code(&provenance.bank_hash)
    );
}

/// The value at the end of the chain, where it is a number.
fn last(history: &BehaviourHistory) -> Option<&Estimate> {
    let estimate = history.values.last()?.as_ref()?;
    [estimate.value, estimate.low, estimate.high].into_iter().all(f64::is_finite).then_some(estimate)
}

fn healthy(history: &BehaviourHistory) -> Option<f64> {
    history.reference.last().copied().flatten().filter(|mean| mean.is_finite())
}

fn why_not(history: &BehaviourHistory) -> String {
    match &history.not_measured {
        Some(reason) => format!("not measured: {}", escape(reason)),
        None => "not measured".to_owned(),
    }
}

/// Six decimals are far below one item, and a YAML reader of any version takes them for a number.
fn number(value: f64) -> String {
    format!("{value:.6}")
}

/// A fingerprint for a code span, in which nothing can be escaped.
fn code(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).take(NAME_LIMIT).collect()
}

/// A text as a double-quoted YAML scalar on one line.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in clean_line(text, TEXT_LIMIT).chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            // The two that YAML readers refuse, of those that are left when text is cleaned.
            '\u{fffe}' | '\u{ffff}' => {
                let _ = write!(out, "\\u{:04X}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::{code, quoted};

    #[test]
    fn a_text_reads_back_from_its_quotes() {
        for text in ["plain", "a \"quoted\" word", "back\\slash", "- x: {y} # z", "---", "naïve 日本 😀", "\u{ffff}"]
        {
            let read: String = serde_json::from_str(&quoted(text)).unwrap();
            assert_eq!(read, text);
        }
        assert_eq!(quoted("two\nlines"), "\"two lines\"");
        assert_eq!(quoted("\u{85}\u{1b}"), "\"[U+0085]␛\"");
    }

    #[test]
    fn nothing_ends_a_code_span() {
        assert_eq!(code("ab12`<b>|\n"), "ab12b");
    }
}
