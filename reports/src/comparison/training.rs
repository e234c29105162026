//! How training went: reward models, over-optimisation and alarms; and how far explored settings stand for trained ones.

use evals::comparison::{Comparison, OverOptimisation};
use evals::diagnosis::Estimate;
use serde::Serialize;

use super::Roster;
use crate::chart::{Chart, over_optimisation};
use crate::number::{MISSING, count, decimal_interval, percent, percent_interval, signed_interval, signed_measure};
use crate::words;

/// Most alarms that are listed; a training gone wrong can warn at every step.
const ALARM_LIMIT: usize = 200;
/// Most alarms that stand unfolded.
const ALARMS_UNFOLDED: usize = 8;

/// Reward over distance for all seeds of one setting.
#[derive(Debug, Serialize)]
pub(crate) struct Trajectory {
    heading: String,
    /// Whether any seed is over-optimised.
    pub(crate) is_over_optimised: bool,
    verdict: String,
    chart: Option<Chart>,
    lines: Vec<String>,
    fits: Vec<String>,
}

/// What training warned of.
#[derive(Debug, Serialize)]
pub(crate) struct Alarms {
    total: String,
    is_folded: bool,
    rows: Vec<Vec<String>>,
    left_off: Option<String>,
}

/// What the reward models behind some settings get right.
#[derive(Debug, Serialize)]
pub(crate) struct RewardCheck {
    settings: Vec<String>,
    sentence: String,
    rows: Vec<Vec<String>>,
}

/// How far one way of exploring can be trusted.
#[derive(Debug, Serialize)]
pub(crate) struct Trust {
    name: String,
    mark: &'static str,
    tone: &'static str,
    word: &'static str,
    sentence: String,
    n: String,
    rows: Vec<Vec<String>>,
}

/// One entry per setting, in the order of the record.
pub(crate) fn trajectories(comparison: &Comparison, roster: &Roster) -> Vec<Trajectory> {
    let mut groups: Vec<(&str, Vec<&OverOptimisation>)> = Vec::new();
    for entry in &comparison.over_optimisation {
        match groups.iter_mut().find(|(name, _)| *name == entry.setting) {
            Some((_, seeds)) => seeds.push(entry),
            None => groups.push((&entry.setting, vec![entry])),
        }
    }
    groups.iter().enumerate().map(|(i, (name, seeds))| trajectory(i, &roster.numbered(name), seeds)).collect()
}

/// The alarms as a table.
pub(crate) fn alarms(comparison: &Comparison, roster: &Roster) -> Alarms {
    let alarms = &comparison.alarms;
    Alarms {
        total: count(alarms.len()),
        is_folded: alarms.len() > ALARMS_UNFOLDED,
        rows: alarms
            .iter()
            .take(ALARM_LIMIT)
            .map(|a| vec![roster.numbered(&a.setting), a.seed.to_string(), a.step.to_string(), a.message.clone()])
            .collect(),
        left_off: alarms.len().checked_sub(ALARM_LIMIT).filter(|&n| n > 0).map(count),
    }
}

/// One entry per set of reward models.
pub(crate) fn reward_checks(comparison: &Comparison, roster: &Roster) -> Vec<RewardCheck> {
    let share = |estimate: &Estimate| vec![percent(estimate.value), percent_interval(estimate)];
    let nothing = || vec![MISSING.to_owned()];
    comparison
        .reward_checks
        .iter()
        .map(|check| {
            let mut rows: Vec<Vec<String>> = Vec::new();
            for slice in &check.slices {
                let margin = vec![decimal_interval(&slice.margin, 2)];
                let name = vec![words::capital(&slice.name)];
                rows.push([name, share(&slice.accuracy), margin, vec![count(slice.accuracy.n)]].concat());
            }
            if let Some(held_out) = &check.held_out {
                let name = vec!["Pairs held out of its training".to_owned()];
                rows.push([name, share(held_out), nothing(), vec![count(held_out.n)]].concat());
            }
            if let Some(error) = &check.calibration {
                let name = vec!["Error of its stated probability (ECE)".to_owned()];
                rows.push([name, share(error), nothing(), vec![count(error.n)]].concat());
            }
            RewardCheck {
                settings: check.settings.iter().map(|name| roster.numbered(name)).collect(),
                sentence: check.sentence.clone(),
                rows,
            }
        })
        .collect()
}

/// One entry per way of exploring.
pub(crate) fn trust(comparison: &Comparison) -> Vec<Trust> {
    comparison
        .trust
        .iter()
        .map(|trust| {
            let (mark, tone, word) = match (trust.n, trust.is_trusted) {
                (0, _) => ("?", "unsure", "not checked"),
                (_, true) => ("✓", "good", "can be trusted here"),
                (_, false) => ("✕", "bad", "cannot be trusted here"),
            };
            Trust {
                name: words::capital(words::exploration(trust.by)),
                mark,
                tone,
                word,
                sentence: trust.sentence.clone(),
                n: count(trust.n),
                rows: trust
                    .bias
                    .iter()
                    .map(|(&axis, bias)| {
                        let error = trust.error.get(&axis);
                        vec![
                            words::capital(axis.title()),
                            signed_measure(axis, bias.value),
                            signed_interval(axis, bias),
                            // A typical size, in the unit of a difference.
                            error.map_or_else(
                                || MISSING.to_owned(),
                                |&e| signed_measure(axis, e).trim_start_matches('+').to_owned(),
                            ),
                        ]
                    })
                    .collect(),
            }
        })
        .collect()
}

fn trajectory(index: usize, name: &str, seeds: &[&OverOptimisation]) -> Trajectory {
    let n_over = seeds.iter().filter(|s| s.is_over_optimised).count();
    let prefix = |i: usize| match seeds.len() {
        1 => String::new(),
        _ => format!("Seed {} ({}): ", seeds[i].seed, over_optimisation::shape(i)),
    };
    let prefix = &prefix;
    let fits = seeds.iter().enumerate().flat_map(|(i, s)| {
        [("proxy", s.proxy), ("gold", s.gold)].into_iter().filter_map(move |(what, fit)| {
            Some(format!("{}{what} {}.", prefix(i), over_optimisation::fit_words(&fit?)))
        })
    });
    Trajectory {
        heading: name.to_owned(),
        is_over_optimised: n_over > 0,
        verdict: match (n_over, seeds.len()) {
            (0, _) => "not over-optimised".to_owned(),
            (1, 1) => "over-optimised".to_owned(),
            (n, all) => format!("over-optimised with {n} of {all} seeds"),
        },
        chart: over_optimisation::draw(&format!("trajectory-{index}"), name, seeds),
        lines: seeds.iter().enumerate().map(|(i, s)| format!("{}{}", prefix(i), s.sentence)).collect(),
        fits: fits.collect(),
    }
}
