//! Whether the failure grows with the strength of alignment: decoding-time realignment, and weights along the path of alignment.
//!
//! What it cannot see: anything that pretraining or SFT did; and mixtures sharpen or blur probabilities, which moves calibration by itself.

use std::collections::BTreeMap;

use super::{Evidence, Reading, bounded};
use crate::attribution::Case;
use crate::diagnosis::{Stage, View};

/// Reads how the shortfall in chat changes from half to one and a half times the strength of alignment, over the shortfall at the end.
///
/// # Reference
/// Liu et al. 2024, arXiv 2402.02992 (logits); Ramé et al. 2024, arXiv 2406.16768 (weights).
pub(super) fn read(case: &Case, evidence: &mut Evidence) {
    let Some(end) = case.chat.shortfall().map(|shortfall| shortfall.value).filter(|value| *value > 0.0) else { return };
    for (half, more, feature, how) in [
        (View::LogitHalf, View::LogitMore, "dera_slope", "predictions"),
        (View::WeightHalf, View::WeightMore, "weight_path_slope", "weights"),
    ] {
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
