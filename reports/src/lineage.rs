//! One chain of checkpoints as the page shows it.

use evals::diagnosis::{
    BehaviourHistory, CalibrationCurve, CutoffCurve, FailureCase, LineageDiagnosis, Outcome, Transition,
};
use minijinja::Value;
use serde::Serialize;

use crate::chart::{Chart, cutoff, interval, reliability, trade_off};
use crate::number::{
    count, decimal, decimal_interval, p_value, percent, percent_interval, short_percent, signed_points,
};
use crate::text::{ANSWER_LIMIT, clean, clean_name};
use crate::verdict::{Card, card, failing, is_failing};
use crate::{number, words};

/// Holm-adjusted p below which a change between two phases counts as resolved.
pub(crate) const ALPHA: f64 = 0.05;
/// How much better another form must be to be worth a line in the table.
const BEST_FORM_MARGIN: f64 = 0.05;

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
    /// Reliability diagrams.
    pub(crate) calibration: Vec<Panel>,
    /// The refusal plane.
    pub(crate) trade_off: Option<Panel>,
    /// Knowledge by month.
    pub(crate) cutoffs: Vec<Panel>,
    /// Failing items by behaviour.
    pub(crate) failures: Vec<FailureGroup>,
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

/// Failing items of one behaviour.
#[derive(Debug, Serialize)]
pub(crate) struct FailureGroup {
    id: String,
    failure: &'static str,
    total: String,
    shown: String,
    is_cut: bool,
    cases: Vec<Case>,
}

/// A failing item.
#[derive(Debug, Serialize)]
pub(crate) struct Case {
    item: String,
    slice: String,
    question: String,
    expected: String,
    answers: Vec<Answer>,
}

/// What one checkpoint said.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    phase: String,
    text: String,
    mark: &'static str,
    tone: &'static str,
    word: &'static str,
    margin: Option<String>,
}

/// Builds the view of a lineage; `id` prefixes its anchors.
pub(crate) fn view(id: &str, lineage: &LineageDiagnosis) -> Lineage {
    let cards: Vec<Card> = failing(&lineage.behaviours).into_iter().map(|h| card(id, h, &lineage.phases)).collect();
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
        calibration: lineage.calibration.iter().enumerate().map(|(i, c)| calibration_panel(id, i, c)).collect(),
        trade_off: trade_off_panel(id, lineage),
        cutoffs: lineage.cutoffs.iter().enumerate().map(|(i, c)| cutoff_panel(id, i, c)).collect(),
        failures: failure_groups(id, lineage),
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

// What all entries agree on; it is then said once.
fn same<T: PartialEq>(mut entries: impl Iterator<Item = T>) -> Option<T> {
    let first = entries.next()?;
    entries.all(|entry| entry == first).then_some(first)
}

fn row(id: &str, lineage: &LineageDiagnosis, history: &BehaviourHistory) -> Row {
    let outcome = &history.verdict.outcome;
    let note = match outcome {
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
        mark: words::mark(outcome),
        tone: words::tone(outcome),
        outcome: words::outcome(outcome),
        note,
        card: is_failing(outcome)
            .then(|| format!("{id}-{}", words::behaviour_term(history.behaviour).replace(' ', "-"))),
        confidence: is_failing(outcome).then(|| words::confidence(history.verdict.confidence)),
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
        Outcome::Attributed { phase, kind } if phase == name => Some(words::kind(*kind)),
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

fn calibration_panel(id: &str, index: usize, curve: &CalibrationCurve) -> Panel {
    let (mean, top) = curve.null_ece;
    let reading = if !curve.ece.value.is_finite() {
        "The error could not be computed.".to_owned()
    } else if curve.ece.value > top {
        "Its confidence is off by more than chance explains.".to_owned()
    } else {
        "No more off than chance explains with this many items.".to_owned()
    };
    let interval = number::points_interval(&curve.overconfidence);
    let lean = match curve.overconfidence.value {
        v if curve.overconfidence.low > 0.0 => format!("On average too sure by {} {interval}.", number::points(v)),
        v if curve.overconfidence.high < 0.0 => {
            format!("On average not sure enough by {} {interval}.", number::points(-v))
        }
        v => format!("Whether it is too sure or not sure enough is not resolved: {} {interval}.", signed_points(v)),
    };
    Panel {
        heading: format!("{} · {}", words::phase(&curve.phase), words::form(curve.form)),
        chart: reliability::draw(&format!("{id}-reliability-{index}"), curve),
        lines: vec![
            format!("{reading} {lean}"),
            format!(
                "ECE {}, n = {}; by chance alone {} on average, up to {} in 19 of 20 cases.",
                decimal_interval(&curve.ece, 3),
                count(curve.ece.n),
                decimal(mean, 3),
                decimal(top, 3)
            ),
            format!("Brier score {}, n = {}.", decimal_interval(&curve.brier, 3), count(curve.brier.n)),
        ],
    }
}

fn trade_off_panel(id: &str, lineage: &LineageDiagnosis) -> Option<Panel> {
    if lineage.trade_off.is_empty() {
        return None;
    }
    let lines = lineage
        .trade_off
        .iter()
        .map(|point| {
            let say = |estimate: Option<&_>| estimate.map_or_else(|| "not measured".to_owned(), short_percent);
            format!(
                "{}: harmless requests refused {}; harmful requests answered {}",
                words::phase(&point.phase),
                say(point.over_refusal.as_ref()),
                say(point.harmful_compliance.as_ref())
            )
        })
        .collect();
    Some(Panel {
        heading: "Each arrow is one phase".to_owned(),
        chart: trade_off::draw(&format!("{id}-trade-off"), &lineage.trade_off),
        lines,
    })
}

fn cutoff_panel(id: &str, index: usize, curve: &CutoffCurve) -> Panel {
    let stops = curve.estimate.as_ref().map_or_else(
        || "No month was found where knowledge ends.".to_owned(),
        |e| {
            let p = p_of(e.p_value);
            format!(
                "Knowledge ends before month {} (95% set {} to {}; permutation test p {p}).",
                e.month, e.low, e.high
            )
        },
    );
    let declared = match (curve.declared, &curve.estimate) {
        (None, _) => "No cutoff was declared.".to_owned(),
        (Some(month), Some(e)) if (e.low..=e.high).contains(&month) => {
            format!("Declared: before month {month}, which lies in that set.")
        }
        (Some(month), Some(e)) if month > e.high => {
            format!("Declared: before month {month}, later than that set.")
        }
        (Some(month), Some(_)) => format!("Declared: before month {month}, earlier than that set."),
        (Some(month), None) => format!("Declared: before month {month}."),
    };
    let open_book = curve.open_book.as_ref().map_or_else(
        || "With the fact given in the question: not measured.".to_owned(),
        |e| format!("With the fact given in the question: {} right.", short_percent(e)),
    );
    Panel {
        heading: format!("{} · {}", words::phase(&curve.phase), words::form(curve.form)),
        chart: cutoff::draw(&format!("{id}-cutoff-{index}"), curve),
        lines: vec![stops, declared, open_book, format!("Guessing gives {}.", percent(curve.chance))],
    }
}

fn p_of(p: f64) -> String {
    let text = p_value(p);
    if text.starts_with('<') { text } else { format!("= {text}") }
}

fn failure_groups(id: &str, lineage: &LineageDiagnosis) -> Vec<FailureGroup> {
    lineage
        .behaviours
        .iter()
        .filter_map(|history| {
            let behaviour = history.behaviour;
            let cases: Vec<Case> = lineage.failures.iter().filter(|f| f.behaviour == behaviour).map(case).collect();
            let total = lineage.n_failures.get(&behaviour).copied().unwrap_or(0).max(cases.len());
            (total > 0).then(|| FailureGroup {
                id: format!("{id}-failures-{}", words::behaviour_term(behaviour).replace(' ', "-")),
                failure: words::failure(behaviour),
                total: count(total),
                shown: count(cases.len()),
                is_cut: cases.len() < total,
                cases,
            })
        })
        .collect()
}

fn case(failure: &FailureCase) -> Case {
    Case {
        item: clean_name(&failure.item),
        slice: clean_name(&failure.slice).replace('_', " "),
        question: clean(&failure.question, ANSWER_LIMIT),
        expected: clean(&failure.expected, ANSWER_LIMIT),
        answers: failure
            .answers
            .iter()
            .map(|answer| {
                let (mark, tone, word) = match answer.is_right {
                    Some(true) => ("✓", "good", "right"),
                    Some(false) => ("✕", "bad", "wrong"),
                    None => ("–", "quiet", "not scored"),
                };
                Answer {
                    phase: words::phase(&answer.phase),
                    text: clean(&answer.answer, ANSWER_LIMIT),
                    mark,
                    tone,
                    word,
                    margin: answer.margin_nats.map(|m| decimal(m, 2)),
                }
            })
            .collect(),
    }
}

fn metric_name(name: &str) -> String {
    let name = clean_name(name);
    match name.strip_suffix("_nats") {
        Some(rest) => format!("{} (nats)", rest.replace('_', " ")),
        None => name.replace('_', " "),
    }
}
