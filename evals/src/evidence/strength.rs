//! Whether the failure grows with the strength of alignment: decoding-time realignment, and weights along the path of alignment.
//!
//! What it cannot see: anything that pretraining or SFT did; and mixtures sharpen or blur probabilities, which moves calibration by itself.

use std::collections::BTreeMap;

use super::{Evidence, Reading, bounded};
use crate::attribution::Case;
use crate::diagnosis::{Stage, View};
use crate::path::MIN_EFFECT;

/// Whether the weights half-way between SFT and the last checkpoint do worse in chat than either by 10 points or more: such a path leads
/// through no models, and weights that are mixed say nothing.
///
/// # Reference
/// Frankle et al. 2020, arXiv 1912.05671 (linear mode connectivity).
pub(super) fn has_barrier(case: &Case) -> bool {
    let at = case.view_names.iter().position(|name| *name == View::WeightHalf.name());
    let value = |stage: Stage| case.chat.value(case.last_of(stage)?);
    let values = || Some([value(Stage::Tuning)?, case.chat_views.value(at?)?, value(Stage::Alignment)?]);
    values().is_some_and(|[tuned, half, end]| is_barrier(tuned, half, end))
}

fn is_barrier(one_end: f64, half_way: f64, other_end: f64) -> bool {
    half_way <= one_end.min(other_end) - MIN_EFFECT
}

/// Reads how the shortfall in chat changes from half to one and a half times the strength of alignment, over the shortfall after alignment.
///
/// # Reference
/// Liu et al. 2024, arXiv 2402.02992 (logits); Ramé et al. 2024, arXiv 2406.16768 (weights).
pub(super) fn read(case: &Case, evidence: &mut Evidence) {
    let Some(aligned) = case.last_of(Stage::Alignment).and_then(|phase| case.chat.shortfall_at(phase)) else { return };
    let end = aligned.value;
    // A share of next to nothing is noise: so it is where the failure only appears as the checkpoint is deployed.
    if end < MIN_EFFECT {
        return;
    }
    for (half, more, feature, how) in [
        (View::LogitHalf, View::LogitMore, "dera_slope", "predictions"),
        (View::WeightHalf, View::WeightMore, "weight_path_slope", "weights"),
    ] {
        if feature == "weight_path_slope" && has_barrier(case) {
            continue;
        }
        let (Some(half), Some(more)) = (case.view_shortfall(half, false), case.view_shortfall(more, false)) else {
            continue;
        };
        evidence.add(
            feature,
            Reading {
                stream: format!("strength of alignment, mixed {how}"),
                what: "growth of the shortfall from half to one and a half times the strength, share of the shortfall"
                    .to_owned(),
                blind_to: "pretraining and SFT".to_owned(),
                parts: BTreeMap::from([(Stage::Alignment, bounded((more - half) / end))]),
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::is_barrier;

    #[test]
    fn a_dip_between_the_ends_is_a_barrier_and_a_slope_is_none() {
        assert!(is_barrier(0.9, 0.6, 0.75));
        assert!(!is_barrier(0.9, 0.7, 0.5) && !is_barrier(0.9, 0.7, 0.75));
    }
}
