//! Whether the failure goes when the last checkpoint learns a few right answers to other questions of the kind.
//!
//! What it cannot see: which of the phases after pretraining took the expression away.

use std::collections::BTreeMap;

use super::{Evidence, Reading, bounded};
use crate::attribution::Case;
use crate::diagnosis::{Stage, View};
use crate::path::MIN_EFFECT;

/// Reads which share of the shortfall stays, which speaks against pretraining, and which goes, which speaks against what followed.
///
/// # Reference
/// Spurious forgetting: Zheng et al. 2025, arXiv 2501.13453; the same fine-tuning before a comparison: Dominguez-Olmedo et al. 2024, arXiv
/// 2407.07890.
pub(super) fn read(case: &Case, evidence: &mut Evidence) {
    let Some(trained) = case.last_trained().and_then(|phase| case.chat.shortfall_at(phase)) else { return };
    let end = trained.value;
    // What only appears as the checkpoint is deployed is nothing to be learnt again, and a share of next to nothing is noise.
    if end < MIN_EFFECT {
        return;
    }
    let Some(left) = case.view_shortfall(View::Relearnt, false) else { return };
    let stays = bounded(left / end);
    let parts = [(Stage::Pretraining, stays), (Stage::Tuning, 1.0 - stays), (Stage::Alignment, 1.0 - stays)];
    evidence.add(
        "relearn_share",
        Reading {
            stream: "relearning".to_owned(),
            what: "share of the shortfall that stays (pretraining) or goes (the others) when the last checkpoint learns a few right \
                   answers to other questions of the kind"
                .to_owned(),
            blind_to: "which of the phases after pretraining it was".to_owned(),
            parts: BTreeMap::from(parts),
        },
    );
}
