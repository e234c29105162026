//! Where the shortfall against healthy runs arose, as answers show it.
//!
//! What it cannot see: that a bad phase makes the next one gain less, through no fault of that one; and what a form of asking hides.

use std::collections::BTreeMap;

use super::{Evidence, Reading, bounded};
use crate::attribution::Case;
use crate::contribution::{Part, take_apart};
use crate::diagnosis::Stage;
use crate::path::Path;
use crate::wording::stage;

/// Reads the parts of the shortfall per stage: their share, how far they stand out, and the same in the best form of asking.
pub(super) fn read(case: &Case, path: &Path, parts: &[Part], evidence: &mut Evidence) {
    let total: f64 = parts.iter().map(|part| part.contribution.shortfall.value.max(0.0)).sum();
    if total <= 0.0 {
        return;
    }
    let shares = by_stage(case, parts, |part| part.contribution.shortfall.value / total);
    evidence.add(
        "shortfall_share",
        Reading {
            stream: "shortfall".to_owned(),
            what: "part of the shortfall that arose in the stage, share of all positive parts".to_owned(),
            blind_to: "a bad phase that makes the next one gain less".to_owned(),
            parts: shares,
        },
    );
    let standing_out = by_stage(case, parts, |part| {
        let estimate = &part.contribution.shortfall;
        let error = (estimate.high - estimate.low) / (2.0 * 1.96);
        if error > 0.0 { (estimate.value / error).clamp(-10.0, 10.0) } else { 0.0 }
    });
    evidence.put("e_z", &standing_out);
    let other = if std::ptr::eq(path, &raw const case.elicited) { &case.chat } else { &case.elicited };
    let other_parts = take_apart(other, case.names, &format!("{}/other", case.stream));
    evidence.put(
        "other_route_share",
        &by_stage(case, &other_parts, |part| bounded(part.contribution.shortfall.value / total)),
    );
    let n = |part: &Part| part.moves.as_ref().map_or(1.0, |(_, moves)| moves.n().max(1) as f64);
    let broken = |part: &Part| part.moves.as_ref().map_or(0.0, |(_, moves)| moves.broken as f64);
    let repaired = |part: &Part| part.moves.as_ref().map_or(0.0, |(_, moves)| moves.repaired as f64);
    evidence.put("nfr", &by_stage(case, parts, |part| broken(part) / n(part)));
    evidence.put("pfr", &by_stage(case, parts, |part| repaired(part) / n(part)));
    evidence.put("is_first_shortfall", &first_shortfall(case, path));
}

/// Adds up a number of the phases of each stage.
fn by_stage(case: &Case, parts: &[Part], value: impl Fn(&Part) -> f64) -> BTreeMap<Stage, f64> {
    let mut sums = BTreeMap::new();
    for part in parts {
        if let Some(phase) = part.phase {
            *sums.entry(stage(&case.names[phase], case.names)).or_insert(0.0) += value(part);
        }
    }
    sums
}

/// 1 for the stage of the first phase after which the value is beyond healthy variation, 0 for the others.
fn first_shortfall(case: &Case, path: &Path) -> BTreeMap<Stage, f64> {
    let is_beyond =
        |phase: &usize| path.shortfall_at(*phase).is_some_and(|shortfall| shortfall.value >= shortfall.gate);
    let first = path.measured().into_iter().find(is_beyond).map(|phase| stage(&case.names[phase], case.names));
    let stages = path.measured().into_iter().map(|phase| stage(&case.names[phase], case.names));
    stages.map(|stage| (stage, f64::from(u8::from(Some(stage) == first)))).collect()
}
