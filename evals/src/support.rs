//! What speaks for and against the accused phase, in sentences: evidence, dissent, remedy, and the word for confidence.

use probes::item::Behaviour;
use probes::month::show;

use crate::attribution::{ALPHA, Case};
use crate::contribution::Part;
use crate::diagnosis::{Confidence, ContributionKind, CutoffEstimate, Rung, Verdict};
use crate::history::margin_change;
use crate::path::Path;
use crate::remedy::{Finding, remedy};
use crate::wording::{capital, count, p_text, percent, phase_name, points, stage};

/// Share of a shortfall from which a coalition clearly raises or lowers it.
const CLEAR_PART: f64 = 0.1;

impl Case<'_> {
    /// Adds evidence, dissent, remedy and confidence for the accused phase.
    pub(crate) fn support(&self, verdict: &mut Verdict, path: &Path, parts: &[Part], part: &Part) {
        let Some(phase) = part.phase else { return };
        let name = capital(&phase_name(&self.names[phase]));
        let total: f64 = parts.iter().map(|p| p.contribution.shortfall.value.max(0.0)).sum();
        let shortfall = &part.contribution.shortfall;
        verdict.evidence.push(change_line(&name, path, part));
        verdict.evidence.push(format!(
            "{} of the {} lost arise there (95% interval {} to {}).",
            whole(shortfall.value),
            points(total),
            whole(shortfall.low),
            whole(shortfall.high)
        ));
        if let Some((_, moves)) = &part.moves {
            let test = part.p_value.map_or_else(String::new, |p| format!(" (paired test {})", p_text(p)));
            verdict.evidence.push(format!(
                "Item by item, it broke {} and repaired {}{test}; {} failed before and after.",
                count(moves.broken, "item"),
                moves.repaired,
                moves.still_failing
            ));
        }
        let margins_agree = weigh_margins(verdict, path, part, phase);
        self.weigh_controls(verdict, phase);
        for other in parts.iter().filter(|p| p.phase.is_some() && p.phase != part.phase) {
            let also = &other.contribution.shortfall;
            if also.low > 0.0 && also.value >= 0.2 * total {
                let other = phase_name(&other.contribution.phase);
                verdict.dissent.push(format!("{} holds {} of it too.", capital(&other), points(also.value)));
            }
        }
        if part.contribution.kind == ContributionKind::Commission && !part.p_value.is_some_and(|p| p < ALPHA) {
            verdict.dissent.push("The paired test alone does not show that items were broken.".to_owned());
        }
        let coalition = |name: &str| verdict.candidates.get(&stage(&self.names[phase], self.names))?.get(name).copied();
        if let (Some(logits), Some(weights)) = (coalition("logit_shapley"), coalition("weight_shapley"))
            && logits.abs().min(weights.abs()) >= CLEAR_PART
            && logits * weights < 0.0
        {
            verdict.dissent.push(format!(
                "Mixed predictions and mixed weights disagree whether {} raised the shortfall or lowered it.",
                phase_name(&self.names[phase])
            ));
        }
        if path.n_healthy() == 1 {
            verdict.dissent.push("Only one healthy run is known, so how much healthy runs differ is not.".to_owned());
        }
        verdict.rung = Some(Rung::Observed);
        verdict.confidence = if !path.is_referenced() {
            Confidence::Observed
        } else if margins_agree && verdict.dissent.is_empty() {
            Confidence::Strong
        } else {
            Confidence::Probable
        };
        verdict.remedy = Some(remedy(&Finding {
            behaviour: self.behaviour,
            stage: stage(&self.names[phase], self.names),
            kind: part.contribution.kind,
            open_book: self.open_book,
            cutoff: self.cutoffs.last().and_then(|curve| curve.estimate.as_ref()).map(|estimate| estimate.month),
        }));
        let start = phase.checked_sub(1).map_or_else(
            || "from new weights".to_owned(),
            |before| format!("from the {} checkpoint", self.names[before]),
        );
        verdict.would_change = Some(format!(
            "Train {} again {start} with the healthy recipe: if the failure stays, another phase made it.",
            phase_name(&self.names[phase])
        ));
    }

    /// Open-book control and month curve.
    fn weigh_controls(&self, verdict: &mut Verdict, phase: usize) {
        if let Some(share) = self.open_book {
            verdict.evidence.push(if share >= 0.8 {
                format!("With the fact given in the question {} are right: it can use what it is told.", percent(share))
            } else {
                format!("Even with the fact given in the question only {} are right.", percent(share))
            });
        }
        if self.behaviour != Behaviour::KnowledgeCutoff {
            return;
        }
        let Some(curve) = self.cutoffs.iter().find(|curve| curve.phase == self.names[phase]) else { return };
        let stops = |of: &CutoffEstimate| {
            let [month, low, high] = [of.month, of.low, of.high].map(show);
            format!("Its knowledge stops before month {month} (95% set {low} to {high})")
        };
        match (&curve.estimate, curve.declared) {
            (Some(estimate), Some(declared)) if estimate.high < declared => {
                let declared = show(declared);
                verdict.evidence.push(format!("{}, not before month {declared} as declared.", stops(estimate)));
            }
            (Some(estimate), Some(declared)) => verdict.dissent.push(format!(
                "{}, which agrees with the declared {}: the failing items are spread over earlier months.",
                stops(estimate),
                show(declared)
            )),
            (Some(estimate), None) => {
                verdict.evidence.push(format!("Its knowledge stops before month {}.", show(estimate.month)));
            }
            (None, _) => verdict.dissent.push("No month is found at which its knowledge stops.".to_owned()),
        }
    }
}

/// Compares the change of the contrast margin with the accusation; `true` where it agrees.
fn weigh_margins(verdict: &mut Verdict, path: &Path, part: &Part, phase: usize) -> bool {
    let board = path.board;
    // Margins of two forms are not comparable: the form of the accused phase is used on both sides.
    let Some(form) = path.forms[phase] else { return false };
    let margins = board.margins(form, phase);
    if let (ContributionKind::Commission, Some((before, _))) = (part.contribution.kind, &part.moves) {
        return match margin_change(&board.margins(form, *before), &margins) {
            Some(change) if change < 0.0 => {
                verdict.evidence.push(format!(
                    "The preference for the right answer over the best wrong one fell by {:.1} nats in that phase.",
                    -change
                ));
                true
            }
            Some(change) => {
                verdict.dissent.push(format!(
                    "The preference for the right answer over the best wrong one rose by {change:.1} nats in that phase."
                ));
                false
            }
            None => false,
        };
    }
    // Omission: items that still fail after the phase should prefer a wrong answer.
    let failing: Vec<f64> = path
        .passing(phase)
        .iter()
        .zip(&margins)
        .filter_map(|(passes, margin)| if *passes == Some(false) { *margin } else { None })
        .collect();
    if failing.is_empty() {
        return false;
    }
    let mean = failing.iter().sum::<f64>() / failing.len() as f64;
    if mean < 0.0 {
        verdict.evidence.push(format!(
            "On the items that fail after it, the model prefers a wrong answer by {:.1} nats on average.",
            -mean
        ));
    } else {
        verdict.dissent.push(format!(
            "On the items that fail after it, the model still prefers the right answer by {mean:.1} nats on average: it may \
             know better than it says."
        ));
    }
    mean < 0.0
}

fn change_line(name: &str, path: &Path, part: &Part) -> String {
    let did = match part.gain {
        gain if gain.abs() < 0.005 => "it did not change".to_owned(),
        gain if gain > 0.0 => format!("it gained {}", points(gain)),
        gain => format!("it lost {}", points(gain)),
    };
    let usual = match part.gain_expected {
        gain if gain.abs() < 0.005 => "nothing changes".to_owned(),
        gain if gain > 0.0 => format!("the gain is {}", points(gain)),
        gain => format!("the loss is {}", points(gain)),
    };
    if !path.is_referenced() {
        return format!("{name}: {did}.");
    }
    format!("{name}: {did}, where in healthy runs {usual}.")
}

/// Points without their unit: `−3`, `12`.
fn whole(difference: f64) -> String {
    let rounded = (difference * 100.0).round();
    format!("{}{:.0}", if rounded < 0.0 { "−" } else { "" }, rounded.abs())
}
