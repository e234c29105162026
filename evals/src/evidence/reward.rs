//! Whether the reward model itself prefers the failing answers.
//!
//! What it cannot see: a policy that goes wrong under a sound reward, and faults before alignment.

use std::collections::BTreeMap;

use super::{Evidence, Reading};
use crate::attribution::Case;
use crate::diagnosis::Stage;
use crate::reference::spread;

/// Healthy reward models that agree to less than this have agreed by luck.
const LEAST_SD: f64 = 0.02;

/// Reads in how many items of the behaviour the reward model rates the right answer higher, beside the reward models of healthy runs.
pub(super) fn read(case: &Case, evidence: &mut Evidence) {
    let (Some(share), Some(healthy)) = (case.reward_right, case.healthy_reward_right) else { return };
    let (mean, sd) = spread(healthy);
    let deviation = (mean - share) / (sd.unwrap_or(0.0).max(LEAST_SD) * (1.0 + 1.0 / healthy.len() as f64).sqrt());
    evidence.add(
        "reward_gap_z",
        Reading {
            stream: "reward model".to_owned(),
            what: "items in which it rates the wrong answer higher than healthy ones do, in standard deviations of healthy runs".to_owned(),
            blind_to: "a policy that goes wrong under a sound reward, and faults before alignment".to_owned(),
            parts: BTreeMap::from([(Stage::Alignment, deviation.clamp(-10.0, 10.0))]),
        },
    );
}
