//! One chain of checkpoints as the page shows it.

pub(crate) mod confidence;
pub(crate) mod cost;
mod failures;
mod panels;

use std::collections::BTreeMap;

use evals::diagnosis::{BehaviourHistory, Instrument, LineageDiagnosis, Outcome, SelfKnowledge, Transition};
use minijinja::Value;
use serde::Serialize;

use crate::chart::{Chart, interval};
use crate::number::{count, decimal, p_value, percent, percent_interval, signed_points};
use crate::text::{TEXT_LIMIT, clean_line, clean_name};
use crate::verdict::{Card, anchor, card, failing, is_failing, outcome};
use crate::{number, words};
use confidence::Confidence;
use cost::Costs;
use failures::Failures;

/// Holm-adjusted p below which a change between two phases counts as resolved.
pub(crate) const ALPHA: f64 = 0.05;
/// How much better another form must be to be worth a line in the table.
const BEST_FORM_MARGIN: f64 = 0.05;
/// Phases that fit beside each other on a common screen.
const LONG: usize = 5;

/// A chain of checkpoints with everything that was found on it.
#[derive(Debug, Serialize)]
pub(crate) struct Lineage {
    /// Anchor, `main` for the first.
    pub(crate) id: String,
    /// Name in words.
    pub(crate) name: String,
    /// Its phases.
    pub(crate) phases: Vec<Phase>,
    /// Rows of the phase x behaviour table.
    pub(crate) rows: Vec<Row>,
    /// Failing behaviours.
    pub(crate) cards: Vec<Card>,
    /// Reliability diagrams with measures of confidence.
    pub(crate) calibration: Vec<Confidence>,
    /// The refusal plane.
    pub(crate) trade_off: Option<Panel>,
    /// Knowledge by month.
    pub(crate) cutoffs: Vec<Panel>,
    /// What the checkpoints say of themselves: instrument, phases, what it gave.
    pub(crate) about_itself: Vec<[String; 3]>,
    /// What became of the items of each failing behaviour from phase to phase.
    pub(crate) flows: Vec<Panel>,
    /// The same of the other behaviours.
    pub(crate) other_flows: Vec<Panel>,
    /// Failing items by behaviour.
    pub(crate) failures: Failures,
    /// What training took; `None` where no log tells of any phase.
    pub(crate) costs: Option<Costs>,
    /// Whether it has one checkpoint only, so that no phase can be compared with another.
    pub(crate) is_single: bool,
    /// Whether its phases are so many that their columns need room.
    pub(crate) is_long: bool,
    /// Number of behaviours that were measured.
    pub(crate) n_measured: usize,
    /// How the questions of the table were put, where it is the same in all rows.
    pub(crate) form: Option<&'static str>,
}

/// A checkpoint.
#[derive(Debug, Serialize)]
pub(crate) struct Phase {
    /// Name in words.
    pub(crate) name: String,
    /// What the phase does.
    pub(crate) gloss: &'static str,
    /// Content hash of the weights.
    pub(crate) checkpoint: String,
    /// Training metrics in words.
    pub(crate) metrics: Vec<(String, String)>,
    /// Indices of the cards that blame it.
    pub(crate) blamed_by: Vec<usize>,
}

/// A behaviour over the phases.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    name: &'static str,
    term: &'static str,
    form: &'static str,
    n: Option<String>,
    cells: Vec<Cell>,
    mark: &'static str,
    tone: &'static str,
    outcome: String,
    note: Option<String>,
    card: Option<String>,
    confidence: Option<&'static str>,
    detectable: Option<String>,
    transitions: Vec<Vec<String>>,
}

/// A behaviour after one phase.
#[derive(Debug, Serialize)]
pub(crate) struct Cell {
    phase: String,
    value: Option<String>,
    interval: String,
    n: Option<String>,
    method: String,
    bar: Option<Value>,
    reference: Option<String>,
    best: Option<String>,
    change: Option<Change>,
    blame: Option<&'static str>,
    missing: String,
}

/// What changed since the phase before.
#[derive(Debug, Serialize)]
pub(crate) struct Change {
    mark: &'static str,
    text: String,
    tone: &'static str,
}

/// A chart with what it says.
#[derive(Debug, Serialize)]
pub(crate) struct Panel {
    pub(crate) heading: String,
    pub(crate) chart: Chart,
    pub(crate) lines: Vec<String>,
}

/// Builds the view of a lineage; `id` prefixes its anchors.
pub(crate) fn view(id: &str, lineage: &LineageDiagnosis) -> Lineage {
    let cards: Vec<Card> = failing(&lineage.behaviours).into_iter().map(|h| card(id, h, &lineage.phases)).collect();
    let (flows, other_flows) = panels::flows(id, lineage);
    let phases = lineage
        .phases
        .iter()
        .map(|info| Phase {
            name: words::phase(&info.name),
            gloss: words::phase_gloss(&info.name),
            checkpoint: clean_name(&info.checkpoint),
            metrics: info.metrics.iter().map(|(name, value)| (metric_name(name), number::metric(*value))).collect(),
            blamed_by: (0..cards.len()).filter(|&i| cards[i].blamed.as_ref() == Some(&info.name)).collect(),
        })
        .collect();
    Lineage {
        name: words::lineage(&lineage.name),
        phases,
        rows: lineage.behaviours.iter().map(|h| row(id, lineage, h)).collect(),
        calibration: (0..lineage.calibration.len()).map(|i| confidence::view(id, i, &lineage.calibration)).collect(),
        trade_off: panels::trade_off(id, lineage),
        cutoffs: lineage
            .cutoffs
            .iter()
            .enumerate()
            .map(|(i, c)| panels::cutoff(id, i, c, &lineage.self_knowledge))
            .collect(),
        about_itself: about_itself(&lineage.self_knowledge),
        flows,
        other_flows,
        failures: failures::failures(id, lineage),
        costs: cost::costs(&lineage.phases),
        is_single: lineage.phases.len() < 2,
        is_long: lineage.phases.len() > LONG,
        n_measured: lineage
            .behaviours
            .iter()
            .filter(|h| !matches!(h.verdict.outcome, Outcome::NotMeasured { .. }))
            .count(),
        form: same(lineage.behaviours.iter().map(|h| h.form)).map(words::form),
        id: id.to_owned(),
        cards,
    }
}

// Instrument by instrument; phases of which it tells the same share a row.
fn about_itself(checkpoints: &[SelfKnowledge]) -> Vec<[String; 3]> {
    let mut rows: BTreeMap<Instrument, Vec<(Vec<String>, String)>> = BTreeMap::new();
    for checkpoint in checkpoints {
        for (what, text) in checkpoint.found() {
            let of_instrument = rows.entry(what).or_default();
            let phase = words::phase(&checkpoint.phase);
            match of_instrument.iter_mut().find(|(_, other)| *other == text) {
                Some((phases, _)) => phases.push(phase),
                None => of_instrument.push((vec![phase], text)),
            }
        }
    }
    let row = |what: Instrument, (phases, text): (Vec<String>, String)| {
        [what.name().to_owned(), phases.join(", "), clean_line(&text, TEXT_LIMIT)]
    };
    rows.into_iter().flat_map(|(what, found)| found.into_iter().map(move |one| row(what, one))).collect()
}

// What all entries agree on; it is then said once.
fn same<T: PartialEq>(mut entries: impl Iterator<Item = T>) -> Option<T> {
    let first = entries.next()?;
    entries.all(|entry| entry == first).then_some(first)
}

fn row(id: &str, lineage: &LineageDiagnosis, history: &BehaviourHistory) -> Row {
    let found = &history.verdict.outcome;
    let note = match found {
        Outcome::Undetermined { reason } | Outcome::NotMeasured { reason } => Some(reason.clone()),
        Outcome::Latent { .. } => history.verdict.evidence.last().cloned(),
        Outcome::Healthy | Outcome::Attributed { .. } => None,
    };
    let n = same(history.values.iter().flatten().map(|value| value.n));
    Row {
        name: words::behaviour(history.behaviour),
        term: words::behaviour_term(history.behaviour),
        form: words::form(history.form),
        n: n.map(count),
        cells: (0..lineage.phases.len()).map(|p| cell(lineage, history, p, n.is_none())).collect(),
        mark: words::mark(found),
        tone: words::tone(found),
        outcome: outcome(found, &lineage.phases),
        note,
        card: is_failing(found).then(|| anchor(id, history.behaviour)),
        confidence: (is_failing(found) && lineage.phases.len() > 1)
            .then(|| words::confidence(history.verdict.confidence)),
        detectable: history.detectable_effect.map(number::points),
        transitions: history.transitions.iter().map(transition_row).collect(),
    }
}

fn cell(lineage: &LineageDiagnosis, history: &BehaviourHistory, p: usize, has_own_n: bool) -> Cell {
    let name = &lineage.phases[p].name;
    let value = history.values[p].as_ref();
    let reference = history.reference[p];
    let best = history.elicited[p].as_ref().filter(|e| value.is_none_or(|v| e.value > v.value + BEST_FORM_MARGIN));
    let blame = match &history.verdict.outcome {
        Outcome::Attributed { phase, kind } if phase == name && lineage.phases.len() > 1 => Some(words::kind(*kind)),
        _ => None,
    };
    let transition = history.transitions.iter().find(|t| &t.phase == name);
    let change = match (p.checked_sub(1).and_then(|before| history.values[before].as_ref()), value) {
        (Some(before), Some(after)) => Some(change(after.value - before.value, transition)),
        _ => None,
    };
    Cell {
        phase: words::phase(name),
        value: value.map(|v| percent(v.value)),
        interval: value.map(percent_interval).unwrap_or_default(),
        n: value.filter(|_| has_own_n).map(|v| count(v.n)),
        method: value.map(|v| v.method.clone()).unwrap_or_default(),
        bar: value.and_then(|v| interval::draw(v, reference)),
        reference: reference.map(percent),
        best: best.map(|e| percent(e.value)),
        change,
        blame,
        missing: history.not_measured.clone().unwrap_or_else(|| "no answers in this form".to_owned()),
    }
}

// A change counts only where the paired test over the same items says so.
fn change(difference: f64, transition: Option<&Transition>) -> Change {
    match transition.and_then(|t| t.p_holm) {
        None => Change { mark: "·", text: format!("{}, not tested", signed_points(difference)), tone: "quiet" },
        Some(p) if p < ALPHA && difference > 0.0 => {
            Change { mark: "▲", text: signed_points(difference), tone: "good" }
        }
        Some(p) if p < ALPHA && difference < 0.0 => {
            Change { mark: "▼", text: signed_points(difference), tone: "bad" }
        }
        Some(_) => Change { mark: "≈", text: "not resolved".to_owned(), tone: "quiet" },
    }
}

fn transition_row(transition: &Transition) -> Vec<String> {
    let missing = || number::MISSING.to_owned();
    vec![
        words::phase(&transition.phase),
        count(transition.broken),
        count(transition.repaired),
        count(transition.kept),
        count(transition.still_failing),
        transition.p_value.map_or_else(missing, p_value),
        transition.p_holm.map_or_else(missing, p_value),
        transition.margin_change_nats.map_or_else(missing, |m| decimal(m, 2)),
    ]
}

fn metric_name(name: &str) -> String {
    let name = clean_name(name);
    match name.strip_suffix("_nats") {
        Some(rest) => format!("{} (nats)", rest.replace('_', " ")),
        None => name.replace('_', " "),
    }
}
