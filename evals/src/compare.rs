//! Settings of alignment side by side: from answers to a [`Comparison`].

mod axes;
mod choices;
mod effects;
mod pairs;
mod principles;
mod reward;
mod reward_check;
mod sample;
mod trust;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use probes::item::Item;
use probes::response::Response;

use crate::comparison::{Alarm, Axis, COMPARISON_VERSION, Comparison, Entry, Setting, SettingKind};
use crate::diagnosis::{Estimate, Provenance};
use crate::error::Error;
use axes::AxisScores;
use pairs::Judgement;
use sample::Scores;

/// What is compared.
#[derive(Debug, Clone)]
pub struct Findings<'a> {
    /// Name of the sweep.
    pub name: &'a str,
    /// The settings: the start, those trained, those explored.
    pub entries: &'a [Entry],
    /// The items that were asked.
    pub items: &'a [Item],
    /// The answers of every checkpoint.
    pub responses: &'a [Response],
    /// What was run.
    pub provenance: Provenance,
}

/// Puts settings side by side.
///
/// Every axis is a mean over items, seeds crossed with items (Miller 2024, arXiv 2411.00640, for the items; a random effect for the
/// seeds). Settings are compared pair by pair on the same seeds and items. A setting dominates another if it is shown to be better
/// on one axis and not to be worse on any other; divergence from the start takes no part in that: it is what an outcome costs,
/// not something that users meet.
///
/// # Errors
/// [`Error::NothingToCompare`] without a trained setting, [`Error::DuplicateSetting`] where a name or a seed is given twice.
pub fn compare(findings: Findings<'_>) -> Result<Comparison, Error> {
    let Findings { name, entries, items, responses, provenance } = findings;
    check(entries)?;
    let scores = axes::measure(entries, items, responses);
    let members: Vec<Member<'_>> =
        entries.iter().zip(&scores).map(|(entry, scores)| Member { entry, scores }).collect();
    let judged: Vec<&Member<'_>> = members.iter().filter(|member| !member.is_explored()).collect();
    let judgement = Judgement::of(&judged);
    let settings: Vec<Setting> = members.iter().map(|member| describe(member, &judgement)).collect();
    let over_optimisation = reward::examine(entries);
    let alarms = alarms(entries);
    let principles = principles::examine(entries);
    let trust = trust::examine(&members);
    let choices = choices::choose(&settings, &judgement);
    let sentences = words::summarise(&settings, &choices, &judgement, &over_optimisation, &alarms, &principles);
    Ok(Comparison {
        version: COMPARISON_VERSION,
        name: name.to_owned(),
        sentences,
        effects: effects::examine(&members),
        pairs: judgement.pairs,
        settings,
        choices,
        trust,
        over_optimisation,
        alarms,
        reward_checks: reward_check::examine(entries, items),
        principles,
        provenance,
    })
}

/// A setting with its scores.
struct Member<'a> {
    entry: &'a Entry,
    scores: &'a AxisScores,
}

impl Member<'_> {
    fn name(&self) -> &str {
        &self.entry.name
    }

    fn is_explored(&self) -> bool {
        matches!(self.entry.kind, SettingKind::Explored { .. })
    }

    fn is_trained(&self) -> bool {
        self.entry.kind == SettingKind::Trained
    }

    /// Scores of another less this one's, on an axis that both have.
    fn change_to(&self, other: &Self, axis: Axis) -> Option<Scores> {
        Some(other.scores.get(&axis)?.minus(self.scores.get(&axis)?))
    }
}

fn check(entries: &[Entry]) -> Result<(), Error> {
    if !entries.iter().any(|entry| entry.kind == SettingKind::Trained) {
        return Err(Error::NothingToCompare { what: "no trained setting".to_owned() });
    }
    let mut names = BTreeSet::new();
    for entry in entries {
        let setting = || entry.name.clone();
        if entry.runs.is_empty() {
            return Err(Error::NothingToCompare { what: format!("setting `{}` has no run", entry.name) });
        }
        if !names.insert(&entry.name) {
            return Err(Error::DuplicateSetting { setting: setting(), seed: None });
        }
        let mut seeds = BTreeSet::new();
        for run in &entry.runs {
            if !seeds.insert(run.seed) {
                return Err(Error::DuplicateSetting { setting: setting(), seed: Some(run.seed) });
            }
        }
    }
    Ok(())
}

fn describe(member: &Member<'_>, judgement: &Judgement) -> Setting {
    let entry = member.entry;
    let mut seeds: Vec<u64> = entry.runs.iter().map(|run| run.seed).collect();
    seeds.sort_unstable();
    let mut axes = BTreeMap::new();
    let mut by_seed = BTreeMap::new();
    for (axis, scores) in member.scores {
        let Some(crossed) = scores.crossed() else { continue };
        axes.insert(*axis, if axis.is_share() { crossed.share() } else { above_zero(crossed.number()) });
        let means = scores.means();
        if let Some(values) = seeds.iter().map(|seed| means.get(seed).copied()).collect::<Option<Vec<f64>>>() {
            by_seed.insert(*axis, values);
        }
    }
    let n_audited = entry.runs.iter().map(|run| run.gold.len()).max().unwrap_or(0);
    let gold = Scores {
        clusters: (0..n_audited).collect::<Vec<_>>().into(),
        by_seed: entry
            .runs
            .iter()
            .map(|run| (run.seed, (0..n_audited).map(|i| run.gold.get(i).copied().flatten()).collect()))
            .collect(),
    };
    let seconds: Option<Vec<f64>> = entry.runs.iter().map(|run| run.train_s).collect();
    let dominated_by = judgement.dominators(&entry.name);
    Setting {
        name: entry.name.clone(),
        kind: entry.kind.clone(),
        values: entry.values.clone(),
        seeds,
        axes,
        by_seed,
        is_non_dominated: !member.is_explored() && dominated_by.is_empty(),
        dominated_by,
        gold_reward: (!gold.means().is_empty()).then(|| gold.crossed()).flatten().map(|crossed| crossed.share()),
        train_s: seconds.map(|seconds| seconds.iter().sum::<f64>() / seconds.len() as f64),
    }
}

/// Errors and divergences are never negative.
fn above_zero(estimate: Estimate) -> Estimate {
    Estimate { low: estimate.low.max(0.0), ..estimate }
}

fn alarms(entries: &[Entry]) -> Vec<Alarm> {
    let of_run = |entry: &Entry| -> Vec<Alarm> {
        let all = entry.runs.iter().flat_map(|run| run.alarms.iter().map(|alarm| (run.seed, alarm)));
        all.map(|(seed, (step, message))| Alarm {
            setting: entry.name.clone(),
            seed,
            step: *step,
            message: message.clone(),
        })
        .collect()
    };
    entries.iter().flat_map(of_run).collect()
}
