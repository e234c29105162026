//! The whole page: the first screen, the lineages, what to do, and what was run.

use std::fmt::Write as _;

use evals::diagnosis::{Diagnosis, LineageDiagnosis, Outcome, Provenance};
use serde::Serialize;

use crate::lineage::{Lineage, view};
use crate::number::{count, points};
use crate::text::clean_name;
use crate::verdict::{Card, failing, is_failing, is_latent};
use crate::words;

/// Everything the template prints.
#[derive(Debug, Serialize)]
pub(crate) struct Page {
    run: String,
    verdict: Headline,
    sentences: Vec<(&'static str, String)>,
    facts: Vec<Fact>,
    main: Option<Lineage>,
    branches: Vec<Lineage>,
    steps: Vec<Step>,
    healthy_advice: String,
    provenance: Vec<(String, String)>,
    glossary: Vec<(&'static str, &'static str)>,
}

/// The verdict in one line.
#[derive(Debug, Serialize)]
pub(crate) struct Headline {
    pub(crate) mark: &'static str,
    pub(crate) tone: &'static str,
    pub(crate) label: String,
    pub(crate) title: String,
}

/// A figure of the first screen.
#[derive(Debug, Serialize)]
pub(crate) struct Fact {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) note: String,
}

/// Something to do.
#[derive(Debug, Serialize)]
struct Step {
    phase: String,
    failure: &'static str,
    remedy: String,
    would_change: Option<String>,
    confidence: &'static str,
    lineages: Vec<String>,
    card: String,
}

impl Page {
    /// Builds the page of a diagnosis.
    pub(crate) fn build(diagnosis: &Diagnosis) -> Self {
        let mut lineages = diagnosis
            .lineages
            .iter()
            .enumerate()
            .map(|(i, lineage)| view(&if i == 0 { "main".to_owned() } else { format!("branch-{i}") }, lineage));
        let main = lineages.next();
        let branches: Vec<Lineage> = lineages.collect();
        Self {
            run: clean_name(&diagnosis.run),
            verdict: headline(diagnosis),
            sentences: sentences(diagnosis),
            facts: facts(diagnosis, main.as_ref()),
            steps: steps(main.iter().chain(&branches)),
            healthy_advice: healthy_advice(diagnosis),
            provenance: provenance(
                &diagnosis.provenance,
                ("Run", &diagnosis.run),
                ("Diagnosis format", diagnosis.version),
            ),
            glossary: words::GLOSSARY.to_vec(),
            main,
            branches,
        }
    }
}

/// The verdict on the deployed lineage.
pub(crate) fn headline(diagnosis: &Diagnosis) -> Headline {
    let lineage = diagnosis.lineages.first();
    let name = lineage.map_or("", |l| &l.name);
    let histories = lineage.map_or(&[][..], |l| &l.behaviours);
    let (blamed, unsettled): (Vec<_>, Vec<_>) =
        failing(histories).into_iter().partition(|h| matches!(h.verdict.outcome, Outcome::Attributed { .. }));
    let failing: Vec<&str> = blamed.into_iter().map(|h| words::failure(h.behaviour)).collect();
    let unsettled = unsettled.len();
    let measured = histories.iter().filter(|h| !matches!(h.verdict.outcome, Outcome::NotMeasured { .. })).count();
    let hidden = histories.iter().filter(|h| is_latent(&h.verdict.outcome)).count();
    let title = match failing[..] {
        [] if measured == 0 => "Nothing could be measured.".to_owned(),
        [] if unsettled > 0 => "The model falls short, and no phase can be blamed yet.".to_owned(),
        [] if hidden > 0 => "The model passes, and hides a fault.".to_owned(),
        [] if diagnosis.lineages.len() > 1 => format!("No failure found in the {} model.", words::lineage(name)),
        [] => "No failure found.".to_owned(),
        [one] => format!("The model {one}."),
        [one, two] => format!("The model {one} and {two}."),
        _ => format!("The model fails in {} of {measured} behaviours.", failing.len()),
    };
    let (mark, tone, mut label) = match failing.len() {
        0 if measured == 0 => ("–", "quiet", "No verdict".to_owned()),
        0 if unsettled > 0 => ("?", "unsure", format!("{} of {measured} behaviours healthy", measured - unsettled)),
        0 if hidden > 0 => ("◐", "unsure", format!("{measured} of {measured} behaviours pass")),
        0 => ("✓", "good", format!("{measured} of {measured} behaviours healthy")),
        1 => ("✕", "bad", format!("1 of {measured} behaviours fails")),
        n => ("✕", "bad", format!("{n} of {measured} behaviours fail")),
    };
    if unsettled > 0 {
        let _ = write!(label, ", {unsettled} not settled");
    }
    if hidden > 0 {
        let _ = write!(label, ", {hidden} with a hidden fault");
    }
    Headline { mark, tone, label, title }
}

/// The three sentences under their labels; other numbers of sentences stand without.
fn sentences(diagnosis: &Diagnosis) -> Vec<(&'static str, String)> {
    let has_cause = |l: &LineageDiagnosis| {
        l.behaviours.iter().any(|h| is_failing(&h.verdict.outcome) || is_latent(&h.verdict.outcome))
    };
    let labels = match diagnosis.sentences.len() {
        3 if diagnosis.lineages.iter().any(has_cause) => ["Finding", "Cause", "Next step"],
        3 => ["Finding", "Lowest", "Next step"],
        _ => [""; 3],
    };
    diagnosis
        .sentences
        .iter()
        .enumerate()
        .map(|(i, text)| (labels.get(i).copied().unwrap_or(""), text.clone()))
        .collect()
}

fn facts(diagnosis: &Diagnosis, main: Option<&Lineage>) -> Vec<Fact> {
    let mut facts = Vec::new();
    if let Some(surest) = main.and_then(|m| m.cards.iter().max_by_key(|c| c.confidence.rungs)) {
        let weakest = main.and_then(|m| m.cards.iter().min_by_key(|c| c.confidence.rungs)).unwrap_or(surest);
        let (value, note) = if surest.confidence.rungs == weakest.confidence.rungs {
            (surest.confidence.word.to_owned(), sentence(surest.confidence.meaning))
        } else {
            let value = format!("{} to {}", weakest.confidence.word, surest.confidence.word.to_lowercase());
            (value, "It differs between the failures; each says its own.".to_owned())
        };
        facts.push(Fact { name: "How sure", value, note });
    }
    let n_checkpoints = main.map_or(0, |m| m.phases.len());
    facts.push(Fact {
        name: "Asked",
        value: format!("{} items", count(diagnosis.provenance.n_items)),
        note: format!("The same questions to each of {n_checkpoints} checkpoints."),
    });
    facts.push(detectable(diagnosis.lineages.first()));
    facts.push(match &diagnosis.provenance.reference {
        Some(reference) => Fact {
            name: "Compared with",
            value: format!("{} healthy runs", count(reference.n_lineages)),
            note: "They show what a phase does by chance alone.".to_owned(),
        },
        None => Fact {
            name: "Compared with",
            value: "no healthy runs".to_owned(),
            note: "Without them no verdict is surer than \"observed\".".to_owned(),
        },
    });
    facts
}

fn detectable(lineage: Option<&LineageDiagnosis>) -> Fact {
    let effects: Vec<f64> = lineage
        .map_or(&[][..], |l| &l.behaviours)
        .iter()
        .filter_map(|h| h.detectable_effect)
        .filter(|e| e.is_finite())
        .collect();
    let low = effects.iter().copied().fold(f64::INFINITY, f64::min);
    let high = effects.iter().copied().fold(0.0, f64::max);
    let value = if effects.is_empty() {
        "not computed".to_owned()
    } else if (100.0 * low).round() == (100.0 * high).round() {
        points(high)
    } else {
        format!("{:.0}–{}", 100.0 * low, points(high))
    };
    Fact {
        name: "Detectable difference",
        value,
        note: "Between two phases, in 4 of 5 cases; it differs between behaviours.".to_owned(),
    }
}

// The same fault in a shared phase shows in every lineage behind it: one step, naming all of them.
fn steps<'a>(lineages: impl Iterator<Item = &'a Lineage>) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for lineage in lineages {
        for card in &lineage.cards {
            let step = step(lineage, card);
            match steps
                .iter_mut()
                .find(|s| s.failure == step.failure && s.phase == step.phase && s.remedy == step.remedy)
            {
                Some(known) => known.lineages.extend(step.lineages),
                None => steps.push(step),
            }
        }
    }
    steps
}

fn step(lineage: &Lineage, card: &Card) -> Step {
    let fallback = match &card.blamed_name {
        Some(phase) => format!("No remedy is on record. Look at the data and settings of {phase} first."),
        None => "Settle the phase first: see what would change the verdict.".to_owned(),
    };
    Step {
        phase: card.blamed_name.clone().unwrap_or_else(|| "Phase not settled".to_owned()),
        failure: card.failure,
        remedy: card.remedy.clone().unwrap_or(fallback),
        would_change: card.would_change.clone(),
        confidence: card.confidence.word,
        lineages: vec![lineage.name.clone()],
        card: card.id.clone(),
    }
}

fn healthy_advice(diagnosis: &Diagnosis) -> String {
    if headline(diagnosis).tone == "quiet" {
        return "Nothing was measured, so nothing can be advised. The reasons stand in the table above.".to_owned();
    }
    if diagnosis.lineages.iter().any(|l| l.behaviours.iter().any(|h| is_latent(&h.verdict.outcome))) {
        return "Nothing fails at the end. The hidden fault is mended where it was made; the first lines of this page say how.".to_owned();
    }
    "No phase needs a fix. A failure smaller than the detectable difference could still be there; more items would show it."
        .to_owned()
}

/// What was run, by name: `name` and `format` are those of the record.
pub(crate) fn provenance(
    provenance: &Provenance,
    name: (&'static str, &str),
    format: (&'static str, u32),
) -> Vec<(String, String)> {
    let reference = match &provenance.reference {
        Some(reference) => format!("{} healthy lineages, SHA-256 {}", reference.n_lineages, reference.hash),
        None => "none: unreferenced".to_owned(),
    };
    let fixed = [
        (name.0, clean_name(name.1)),
        ("Seed", provenance.seed.map_or_else(|| "not known".to_owned(), |seed| seed.to_string())),
        ("Item bank", format!("{} items, SHA-256 {}", count(provenance.n_items), provenance.bank_hash)),
        ("Healthy reference", reference),
        ("Probe version", provenance.probe_version.to_string()),
        ("phasetrace version", provenance.phasetrace_version.clone()),
        (format.0, format.1.to_string()),
    ];
    let mut rows: Vec<(String, String)> = fixed.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    rows.extend(provenance.notes.iter().map(|(name, value)| (clean_name(name).replace('_', " "), value.clone())));
    rows
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), chars.as_str()))
}
