//! Every two settings, axis by axis, and which settings are beaten by others.

use std::collections::BTreeMap;

use super::Member;
use super::sample::{Crossed, Scores};
use crate::comparison::{Axis, Difference, Pair};
use crate::stats::mcnemar::mid_p;
use crate::stats::multiplicity::holm;

/// Level at which a difference counts as shown, after Holm.
const LEVEL: f64 = 0.05;
/// A setting is no worse than another where it is shown to be less than this worse: two points of a share, 0.02 of calibration error.
const MARGIN: f64 = 0.02;

/// What the pairs say.
pub(super) struct Judgement {
    pub(super) pairs: Vec<Pair>,
    dominators: BTreeMap<String, Vec<String>>,
}

impl Judgement {
    /// Compares every two members and finds those that others dominate.
    pub(super) fn of(members: &[&Member<'_>]) -> Self {
        let mut pairs = Vec::new();
        for (i, first) in members.iter().enumerate() {
            for second in &members[i + 1..] {
                let difference = |axis: Axis| Some((axis, differ(axis, &first.change_to(second, axis)?)?));
                pairs.push(Pair {
                    first: first.name().to_owned(),
                    second: second.name().to_owned(),
                    differences: Axis::ALL.into_iter().filter_map(difference).collect(),
                });
            }
        }
        adjust(&mut pairs);
        let mut dominators: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in &pairs {
            for (better, worse) in [(&pair.first, &pair.second), (&pair.second, &pair.first)] {
                if dominates(pair, better) {
                    dominators.entry(worse.clone()).or_default().push(better.clone());
                }
            }
        }
        Self { pairs, dominators }
    }

    /// The settings that dominate one.
    pub(super) fn dominators(&self, name: &str) -> Vec<String> {
        self.dominators.get(name).cloned().unwrap_or_default()
    }

    /// How much better the first setting is than the second on an axis; positive is better, whichever way the axis counts.
    pub(super) fn lead(&self, one: &str, other: &str, axis: Axis) -> Option<(f64, &Difference)> {
        self.pairs.iter().find_map(|pair| {
            let sign = match () {
                () if pair.first == other && pair.second == one => 1.0,
                () if pair.first == one && pair.second == other => -1.0,
                () => return None,
            };
            let difference = pair.differences.get(&axis)?;
            Some((sign * gain(axis, difference.change.value), difference))
        })
    }
}

/// Whether a difference is shown.
pub(super) fn is_resolved(difference: &Difference) -> bool {
    difference.p_holm.is_some_and(|p| p < LEVEL)
}

/// A change as a gain: more of what is good.
fn gain(axis: Axis, change: f64) -> f64 {
    if axis.is_gain() { change } else { -change }
}

fn differ(axis: Axis, scores: &Scores) -> Option<Difference> {
    if scores.means().is_empty() {
        return None;
    }
    let crossed: Crossed = scores.crossed()?;
    let mut p = crossed.p_value();
    if axis.is_share() {
        // Few changed items look surer to a t-test than they are.
        let changed = |sign: f64| scores.by_seed.values().flatten().flatten().filter(|d| *d * sign > 0.5).count();
        p = mid_p(changed(-1.0), changed(1.0)).unwrap_or(1.0).max(p);
    }
    Some(Difference {
        change: crossed.number(),
        p_value: Some(p),
        p_holm: None,
        detectable: Some(crossed.detectable()),
        n_needed: crossed.items_needed(),
        seeds_needed: crossed.seeds_needed(),
    })
}

/// Holm over all pairs and axes; what is resolved needs no more data.
fn adjust(pairs: &mut [Pair]) {
    let raw: Vec<f64> = pairs.iter().flat_map(|pair| pair.differences.values()).filter_map(|d| d.p_value).collect();
    let mut adjusted = holm(&raw).into_iter();
    for difference in pairs.iter_mut().flat_map(|pair| pair.differences.values_mut()) {
        difference.p_holm = adjusted.next();
        if is_resolved(difference) {
            (difference.n_needed, difference.seeds_needed) = (None, None);
        }
    }
}

/// Whether one of the two is better on an axis and no worse on the others.
fn dominates(pair: &Pair, better: &str) -> bool {
    let sign = if pair.second == better { 1.0 } else { -1.0 };
    let mut is_better = false;
    for (axis, difference) in pair.differences.iter().filter(|(axis, _)| **axis != Axis::Kl) {
        let lead = sign * gain(*axis, difference.change.value);
        let half = 0.5 * (difference.change.high - difference.change.low);
        is_better |= lead > 0.0 && is_resolved(difference);
        // Not worse: by the look of it, or surely by less than the margin.
        if lead < 0.0 && lead - half < -MARGIN {
            return false;
        }
        if lead < 0.0 && is_resolved(difference) {
            return false;
        }
    }
    is_better
}
