//! The charts of a lineage, each with what it says.

use evals::diagnosis::{BehaviourHistory, CutoffCurve, LineageDiagnosis, SelfKnowledge, StatedCutoff, Transition};
use probes::month::show;

use super::{ALPHA, Panel};
use crate::chart::cutoff::place;
use crate::chart::flow::{self, total};
use crate::number::{count, p_value, percent, short_percent};
use crate::verdict::{anchor, failing, is_failing};
use crate::{chart, words};

/// What became of the items from phase to phase, of the failing behaviours and of the others; those of which no item was scored
/// after two phases are left out.
pub(super) fn flows(id: &str, lineage: &LineageDiagnosis) -> (Vec<Panel>, Vec<Panel>) {
    let others = lineage.behaviours.iter().filter(|history| !is_failing(&history.verdict.outcome)).collect();
    let draw = |histories: Vec<&BehaviourHistory>| -> Vec<Panel> {
        histories.into_iter().filter_map(|history| flow_of(id, lineage, history)).collect()
    };
    (draw(failing(&lineage.behaviours)), draw(others))
}

fn flow_of(id: &str, lineage: &LineageDiagnosis, history: &BehaviourHistory) -> Option<Panel> {
    let step = |name: &str| history.transitions.iter().find(|step| step.phase == name).filter(|step| total(step) > 0);
    let steps: Vec<Option<&Transition>> = lineage.phases.iter().skip(1).map(|phase| step(&phase.name)).collect();
    if steps.iter().all(Option::is_none) {
        return None;
    }
    let names: Vec<String> = lineage.phases.iter().map(|phase| words::phase(&phase.name)).collect();
    let behaviour = words::behaviour(history.behaviour);
    Some(Panel {
        heading: behaviour.to_owned(),
        chart: flow::draw(&anchor(&format!("{id}-flow"), history.behaviour), behaviour, &names, &steps),
        lines: steps.iter().flatten().map(|step| moved(step)).chain(uneven(&steps)).collect(),
    })
}

// An item counts in a step where it was scored on both sides of it.
fn uneven(steps: &[Option<&Transition>]) -> Option<String> {
    let totals: Vec<usize> = steps.iter().map(|step| step.map_or(0, total)).collect();
    let is_even = totals.windows(2).all(|pair| pair[0] == pair[1]);
    (!is_even)
        .then(|| "Only items scored before and after a phase are counted, so n differs between phases.".to_owned())
}

// More broken than repaired, or the other way: only where the paired test says so.
fn moved(step: &Transition) -> String {
    let ((right, wrong), phase) = (flow::before(step), words::phase(&step.phase));
    let reading = match step.p_holm {
        None => "not tested".to_owned(),
        Some(p) if p < ALPHA && step.broken > step.repaired => format!("more broken than repaired (p {})", p_of(p)),
        Some(p) if p < ALPHA => format!("more repaired than broken (p {})", p_of(p)),
        Some(_) => "which of the two is more is not resolved".to_owned(),
    };
    let broke = (right > 0).then(|| format!("broke {} of {} right answers", count(step.broken), count(right)));
    let mended = (wrong > 0).then(|| format!("repaired {} of {} wrong ones", count(step.repaired), count(wrong)));
    let did: Vec<String> = broke.into_iter().chain(mended).collect();
    format!("{phase} {}: {reading}.", did.join(" and "))
}

/// Both errors of a refusal, an arrow per phase.
pub(super) fn trade_off(id: &str, lineage: &LineageDiagnosis) -> Option<Panel> {
    if lineage.trade_off.iter().all(|point| point.over_refusal.is_none() && point.harmful_compliance.is_none()) {
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
        heading: if lineage.phases.len() > 1 { "Each arrow is one phase" } else { "One checkpoint" }.to_owned(),
        chart: chart::trade_off::draw(&format!("{id}-trade-off"), &lineage.trade_off),
        lines,
    })
}

/// What one checkpoint knows by month, beside what it says of that itself.
pub(super) fn cutoff(id: &str, index: usize, curve: &CutoffCurve, about_itself: &[SelfKnowledge]) -> Panel {
    let stated = about_itself
        .iter()
        .find(|knowledge| knowledge.phase == curve.phase)
        .and_then(|knowledge| knowledge.stated_cutoff.as_ref());
    let stops = curve.estimate.as_ref().map_or_else(
        || "No month was found where knowledge ends.".to_owned(),
        |e| {
            let p = p_of(e.p_value);
            format!(
                "Knowledge ends before month {} (95% set {} to {}; permutation test p {p}).",
                show(e.month),
                show(e.low),
                show(e.high)
            )
        },
    );
    let shown = curve.declared.map(show).unwrap_or_default();
    let declared = match (curve.declared, &curve.estimate) {
        (None, _) => "No cutoff was declared.".to_owned(),
        (Some(month), Some(e)) if (e.low..=e.high).contains(&month) => {
            format!("Declared: before month {shown}, which lies in that set.")
        }
        (Some(month), Some(e)) if month > e.high => {
            format!("Declared: before month {shown}, later than that set.")
        }
        (Some(_), Some(_)) => format!("Declared: before month {shown}, earlier than that set."),
        (Some(_), None) => format!("Declared: before month {shown}."),
    };
    let open_book = curve.open_book.as_ref().map_or_else(
        || "With the fact given in the question: not measured.".to_owned(),
        |e| format!("With the fact given in the question: {} right.", short_percent(e)),
    );
    Panel {
        heading: format!("{} · {}", words::phase(&curve.phase), words::form(curve.form)),
        chart: chart::cutoff::draw(&format!("{id}-cutoff-{index}"), curve, stated),
        lines: std::iter::once(stops)
            .chain(shape(curve))
            .chain([declared])
            .chain(stated.map(StatedCutoff::sentence))
            .chain([open_book, format!("Guessing gives {}.", percent(curve.chance))])
            .collect(),
    }
}

// How knowledge ends, where it is not at once.
fn shape(curve: &CutoffCurve) -> Option<String> {
    if !curve.falls.is_empty() {
        let falls: Vec<String> = curve
            .falls
            .iter()
            .map(|fall| {
                format!("before month {} from {} to {}", show(fall.month), percent(fall.before), percent(fall.after))
            })
            .collect();
        return Some(format!("It falls more than once: {}.", falls.join(", ")));
    }
    let ramp = curve.estimate.as_ref()?.ramp.as_ref()?;
    Some(format!(
        "It fades rather than stops, from {} to {} right: 10% of the drop is lost by month {}, half by {}, 90% by {} (brackets hold 95% \
         intervals; n = {} questions).",
        percent(ramp.before),
        percent(ramp.after),
        place(&ramp.onset),
        place(&ramp.midpoint),
        place(&ramp.end),
        count(ramp.midpoint.n)
    ))
}

fn p_of(p: f64) -> String {
    let text = p_value(p);
    if text.starts_with('<') { text } else { format!("= {text}") }
}
