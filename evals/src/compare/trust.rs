//! How far explored settings can be trusted: by the trained ones that they stand for.

use std::collections::BTreeMap;

use super::Member;
use super::sample::Scores;
use super::words;
use crate::comparison::{Axis, Exploration, SettingKind, Trust};

/// Largest root mean square error at which an exploration is trusted: five points of a share, 0.05 of calibration error.
const TOLERANCE: f64 = 0.05;

/// Compares every explored setting that stands for a trained one with it.
pub(super) fn examine(members: &[Member<'_>]) -> Vec<Trust> {
    [Exploration::Realigned, Exploration::Interpolated].into_iter().filter_map(|by| examine_one(members, by)).collect()
}

fn examine_one(members: &[Member<'_>], wanted: Exploration) -> Option<Trust> {
    let mut pairs = Vec::new();
    for explored in members {
        let SettingKind::Explored { by, stands_for: Some(trained), .. } = &explored.entry.kind else { continue };
        if *by == wanted {
            pairs.extend(members.iter().find(|member| member.name() == trained).map(|trained| (trained, explored)));
        }
    }
    if pairs.is_empty() {
        return None;
    }
    let (mut bias, mut error) = (BTreeMap::new(), BTreeMap::new());
    // The divergence of a mixture that was never sampled is not measured.
    for axis in Axis::ALL.into_iter().filter(|axis| *axis != Axis::Kl) {
        let changes: Option<Vec<Scores>> =
            pairs.iter().map(|(trained, explored)| trained.change_to(explored, axis)).collect();
        let Some(changes) = changes else { continue };
        let Some(crossed) = Scores::average(&changes).filter(|mean| !mean.means().is_empty()).and_then(|m| m.crossed())
        else {
            continue;
        };
        bias.insert(axis, crossed.number());
        let means: Vec<f64> = changes.iter().filter_map(|change| change.crossed().map(|c| c.mean)).collect();
        error.insert(axis, (means.iter().map(|m| m * m).sum::<f64>() / means.len() as f64).sqrt());
    }
    let is_trusted = !error.is_empty() && error.values().all(|error| *error <= TOLERANCE);
    let sentence = words::tell_trust(wanted, &error, pairs.len(), is_trusted, TOLERANCE);
    Some(Trust { by: wanted, bias, error, n: pairs.len(), is_trusted, sentence })
}
