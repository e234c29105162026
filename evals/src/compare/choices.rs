//! "Choose this if you care most about ...".

use super::pairs::{Judgement, is_resolved};
use super::words;
use crate::comparison::{Axis, Choice, Setting, SettingKind};

/// A recommendation for each axis, and one for all together.
///
/// All together is the smallest sum of what falls short on the five axes that users meet (shares as they are, calibration error as it
/// is): one point of any counts as much as one of another.
pub(super) fn choose(settings: &[Setting], judgement: &Judgement) -> Vec<Choice> {
    let trained: Vec<&Setting> = settings.iter().filter(|setting| setting.kind == SettingKind::Trained).collect();
    let mut choices = Vec::new();
    if let Some(best) = lowest(&trained, total_shortfall) {
        let ties = trained
            .iter()
            .filter(|other| other.name != best.name && !is_told_apart(judgement, &best.name, &other.name))
            .map(|other| other.name.clone())
            .collect::<Vec<_>>();
        let reason = words::explain_overall(best, &ties);
        choices.push(Choice { care: "everything at once".to_owned(), setting: best.name.clone(), ties, reason });
    }
    for axis in Axis::ALL.into_iter().filter(|axis| *axis != Axis::Kl) {
        let Some(best) = lowest(&trained, |setting| shortfall(setting, axis)) else { continue };
        let is_tied = |other: &&&Setting| {
            let lead = judgement.lead(&best.name, &other.name, axis);
            other.name != best.name && lead.is_some_and(|(_, difference)| !is_resolved(difference))
        };
        let ties: Vec<String> = trained.iter().filter(is_tied).map(|other| other.name.clone()).collect();
        let care = words::care(axis).to_owned();
        let reason = words::explain(best, axis, &ties, judgement);
        choices.push(Choice { care, setting: best.name.clone(), ties, reason });
    }
    choices
}

/// How far a setting is from the best there could be; `None` where the axis was not measured.
fn shortfall(setting: &Setting, axis: Axis) -> Option<f64> {
    let value = setting.axes.get(&axis)?.value;
    Some(if axis.is_gain() { 1.0 - value } else { value })
}

fn total_shortfall(setting: &Setting) -> Option<f64> {
    Axis::ALL.into_iter().filter(|axis| *axis != Axis::Kl).map(|axis| shortfall(setting, axis)).sum()
}

/// The setting with the smallest cost; of equals the one nearest to the start, then the first.
fn lowest<'a>(settings: &[&'a Setting], cost: impl Fn(&Setting) -> Option<f64>) -> Option<&'a Setting> {
    let kl = |setting: &Setting| setting.axes.get(&Axis::Kl).map_or(f64::INFINITY, |estimate| estimate.value);
    let costed = settings.iter().filter_map(|setting| Some((cost(setting)?, *setting)));
    costed
        .reduce(|best, next| {
            let is_less = next.0 < best.0 - 1e-12 || ((next.0 - best.0).abs() <= 1e-12 && kl(next.1) < kl(best.1));
            if is_less { next } else { best }
        })
        .map(|(_, setting)| setting)
}

fn is_told_apart(judgement: &Judgement, one: &str, other: &str) -> bool {
    Axis::ALL
        .into_iter()
        .filter(|axis| *axis != Axis::Kl)
        .any(|axis| judgement.lead(one, other, axis).is_some_and(|(_, difference)| is_resolved(difference)))
}
