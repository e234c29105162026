//! The whole page: the first screen, the lineages, what to do, and what was run.

mod first_screen;

use evals::diagnosis::{Diagnosis, LineageDiagnosis, Provenance};
use serde::Serialize;

use crate::lineage::{Lineage, view};
use crate::number::{count, points};
use crate::text::clean_name;
use crate::verdict::{Card, is_latent};
use crate::words;
use first_screen::FirstScreen;
pub(crate) use first_screen::{Fact, Standing, headline, standing};

/// Everything the template prints.
#[derive(Debug, Serialize)]
pub(crate) struct Page {
    run: String,
    first: FirstScreen,
    main: Option<Lineage>,
    branches: Vec<Lineage>,
    steps: Vec<Step>,
    healthy_advice: String,
    provenance: Vec<(String, String)>,
    glossary: Vec<(&'static str, &'static str)>,
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
        let mut lineages = diagnosis.lineages.iter().enumerate().map(|(i, lineage)| view(&lineage_id(i), lineage));
        let main = lineages.next();
        let branches: Vec<Lineage> = lineages.collect();
        Self {
            run: clean_name(&diagnosis.run),
            first: FirstScreen::of(diagnosis),
            steps: steps(main.iter().chain(&branches)),
            healthy_advice: healthy_advice(diagnosis),
            provenance: what_was_run(diagnosis),
            glossary: words::GLOSSARY.to_vec(),
            main,
            branches,
        }
    }
}

/// Anchor of a lineage by its place in the diagnosis.
pub(crate) fn lineage_id(at: usize) -> String {
    if at == 0 { "main".to_owned() } else { format!("branch-{at}") }
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
        phase: match &card.blamed_name {
            Some(phase) => phase.clone(),
            None if lineage.is_single => "The checkpoint".to_owned(),
            None => "Phase not settled".to_owned(),
        },
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

// What every figure of the report depends on: also how answers were decoded and which differences would have shown.
fn what_was_run(diagnosis: &Diagnosis) -> Vec<(String, String)> {
    let mut rows = provenance(&diagnosis.provenance, ("Run", &diagnosis.run), ("Diagnosis format", diagnosis.version));
    if !diagnosis.provenance.notes.contains_key("decoding") {
        rows.push(("decoding".to_owned(), "not on record".to_owned()));
    }
    rows.extend(
        diagnosis
            .lineages
            .iter()
            .map(|lineage| (format!("Detectable differences, {}", words::lineage(&lineage.name)), detectable(lineage))),
    );
    rows
}

fn detectable(lineage: &LineageDiagnosis) -> String {
    let of: Vec<String> = lineage
        .behaviours
        .iter()
        .filter_map(|h| Some(format!("{} {}", words::behaviour_term(h.behaviour), points(h.detectable_effect?))))
        .collect();
    if of.is_empty() { "not computed".to_owned() } else { of.join(", ") }
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
