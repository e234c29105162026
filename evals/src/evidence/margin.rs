//! Contrast margins: how much likelier the right answer is than the best wrong one, and which phase changed that.
//!
//! What it cannot see: answers that no item lists; and loss of a margin that still leaves the answer right is seen before it matters.

use std::collections::BTreeMap;

use super::{Evidence, Reading};
use crate::attribution::Case;
use crate::reference::spread;
use crate::wording::stage;

/// Healthy runs whose margins agree to less than this, in nats, have agreed by luck.
const LEAST_SD_NATS: f64 = 0.25;

/// `M(x) = ln p(right) - ln p(best wrong)` telescopes over phases; a stage's number is the change that healthy runs show less the change
/// here, in standard deviations of healthy runs.
///
/// # Reference
/// Rafailov et al. 2023, arXiv 2305.18290, equation 5, and Mitchell et al. 2023, arXiv 2310.12962: the change of the margin in a phase of
/// KL-regularised alignment is the reward's gap over beta.
pub(super) fn read(case: &Case, evidence: &mut Evidence) {
    let mut parts = BTreeMap::new();
    let mut before: Option<(f64, Vec<f64>)> = None;
    for (phase, name) in case.names.iter().enumerate() {
        let (Some(margin), Some(healthy)) = (case.margins[phase], case.healthy_margins[phase]) else { continue };
        let (start, starts) = before.unwrap_or_else(|| (0.0, vec![0.0; healthy.len()]));
        let changes: Vec<f64> = healthy.iter().zip(&starts).map(|(after, before)| after - before).collect();
        let (mean, sd) = spread(&changes);
        let scale = sd.unwrap_or(0.0).max(LEAST_SD_NATS) * (1.0 + 1.0 / healthy.len() as f64).sqrt();
        *parts.entry(stage(name, case.names)).or_insert(0.0) += (mean - (margin - start)) / scale;
        before = Some((margin, healthy.to_vec()));
    }
    if parts.len() < 2 {
        return;
    }
    for value in parts.values_mut() {
        *value = f64::clamp(*value, -10.0, 10.0);
    }
    evidence.add(
        "margin_change_z",
        Reading {
            stream: "margins".to_owned(),
            what: "loss of the contrast margin in the stage, in standard deviations of healthy runs".to_owned(),
            blind_to: "answers that no item lists".to_owned(),
            parts,
        },
    );
}
