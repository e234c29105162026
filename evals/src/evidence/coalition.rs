//! What alignment does without SFT and SFT without alignment, from the checkpoints alone: exact Shapley values of the shortfall.
//!
//! What it cannot see: what a phase destroyed that the next one would have needed; and off the path of training a mixture of logits or
//! weights may be no model at all.

use std::collections::BTreeMap;

use super::strength::has_barrier;
use super::{Evidence, Reading, bounded};
use crate::attribution::Case;
use crate::diagnosis::{Stage, View};
use crate::path::{MIN_EFFECT, Path};
use crate::reference::spread;

/// Shapley values of the shortfall over SFT and alignment, on the ground of pretraining.
///
/// With the shortfalls `u(0)` after pretraining, `u(S)` after SFT, `u(A)` of pretraining with what alignment added put on it, and `u(SA)` at the
/// end, `phi_S = 1/2 [(u(S) - u(0)) + (u(SA) - u(A))]`, `phi_A = 1/2 [(u(A) - u(0)) + (u(SA) - u(S))]`, and pretraining answers for `u(0)`: the
/// three add up to `u(SA)`.
///
/// # Reference
/// Shapley 1953; what alignment adds in logits as in Mitchell et al. 2023, arXiv 2310.12962, in weights as in Ilharco et al. 2023, arXiv
/// 2212.04089.
pub fn shapley(base: f64, tuned: f64, aligned_alone: f64, end: f64) -> BTreeMap<Stage, f64> {
    let tuning = 0.5 * ((tuned - base) + (end - aligned_alone));
    let alignment = 0.5 * ((aligned_alone - base) + (end - tuned));
    BTreeMap::from([(Stage::Pretraining, base), (Stage::Tuning, tuning), (Stage::Alignment, alignment)])
}

/// Reads both kinds of coalition.
pub(super) fn read(case: &Case, path: &Path, evidence: &mut Evidence) {
    let (Some(base), Some(tuned), Some(end)) =
        (case.last_of(Stage::Pretraining), case.last_of(Stage::Tuning), case.last_of(Stage::Alignment))
    else {
        return;
    };
    let shortfall = |phase: usize| Some(spread(path.healthy[phase]?).0 - path.value(phase)?);
    let (Some(at_base), Some(at_tuned), Some(at_end)) = (shortfall(base), shortfall(tuned), shortfall(end)) else {
        return;
    };
    // A share of next to nothing is noise: so it is where the failure only appears as the checkpoint is deployed.
    if at_end < MIN_EFFECT {
        return;
    }
    let is_elicited = std::ptr::eq(path, &raw const case.elicited);
    for (view, feature, how) in [
        (View::LogitAlignmentAlone, "logit_shapley", "predictions"),
        (View::WeightAlignmentAlone, "weight_shapley", "weights"),
    ] {
        let is_of_use = feature != "weight_shapley" || !has_barrier(case);
        let Some(alone) = case.view_shortfall(view, is_elicited).filter(|_| is_of_use) else { continue };
        let parts = shapley(at_base, at_tuned, alone, at_end);
        evidence.add(
            feature,
            Reading {
                stream: format!("coalitions of {how}"),
                what: "Shapley value of the stage, share of the shortfall".to_owned(),
                blind_to: "what a phase destroyed that the next one would have needed".to_owned(),
                parts: parts.into_iter().map(|(stage, part)| (stage, bounded(part / at_end))).collect(),
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::shapley;
    use crate::diagnosis::Stage;

    #[test]
    fn parts_add_up_and_a_single_culprit_has_all() {
        let parts = shapley(0.0, 0.5, 0.0, 0.5);
        assert_eq!((parts[&Stage::Pretraining], parts[&Stage::Tuning], parts[&Stage::Alignment]), (0.0, 0.5, 0.0));
        let parts = shapley(0.1, 0.3, 0.2, 0.7);
        assert!((parts.values().sum::<f64>() - 0.7).abs() < 1e-12);
        // Two that do nothing alone and everything together share it evenly.
        let parts = shapley(0.0, 0.0, 0.0, 0.4);
        assert_eq!((parts[&Stage::Tuning], parts[&Stage::Alignment]), (0.2, 0.2));
    }
}
