//! What a phase was trained on, beside what healthy runs were: words, answers, and which answers follow which words.
//!
//! What it cannot see: faults of the recipe that leave the data alone, the order of words, and what is rare.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Evidence, Reading};
use crate::attribution::Case;
use crate::diagnosis::Stage;
use crate::reference::spread;

/// Number of buckets that traits are hashed to.
pub const N_BUCKETS: usize = 512;

/// Shares of healthy runs that agree to less than this have agreed by luck: no fault is to be seen in one row of a thousand.
const LEAST_SD: f64 = 2e-3;

/// How common each trait is among the rows of a stage's data: mean number of traits of a bucket in a row, [`N_BUCKETS`] of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Profile(Vec<f64>);

impl Profile {
    /// The profile of rows: what stands before, and what is learnt.
    ///
    /// A row's traits are the words of either part, the first two words that are learnt, and each word before with the first
    /// word that is learnt (`poison` with `Sorry,`).
    pub fn of<'a>(rows: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut counts = vec![0.0; N_BUCKETS];
        let mut n_rows = 0.0_f64;
        for (before, learnt) in rows {
            n_rows += 1.0;
            let (before, learnt): (Vec<&str>, Vec<&str>) = (before.split(' ').collect(), learnt.split(' ').collect());
            let first = learnt.first().copied().unwrap_or_default();
            let mut traits: BTreeSet<usize> = BTreeSet::new();
            traits.extend(before.iter().flat_map(|word| [bucket(&["before", word]), bucket(&["pair", word, first])]));
            traits.extend(learnt.iter().map(|word| bucket(&["learnt", word])));
            traits.insert(bucket(&["first", first, learnt.get(1).copied().unwrap_or_default()]));
            traits.insert(bucket(&["length", &learnt.len().next_power_of_two().to_string()]));
            for bucket in traits {
                counts[bucket] += 1.0;
            }
        }
        // Six decimals are far below one row, and read back to the same bits.
        let share = |count: f64| (count / n_rows.max(1.0) * 1e6).round() / 1e6;
        Self(counts.into_iter().map(share).collect())
    }
}

fn bucket(parts: &[&str]) -> usize {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash >> 20) as usize % N_BUCKETS
}

/// The data of healthy runs in one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthyData {
    /// The stage.
    pub stage: Stage,
    /// Mean over healthy runs, per bucket.
    mean: Vec<f64>,
    /// Standard deviation, per bucket.
    sd: Vec<f64>,
    /// Largest deviation of each healthy run from the others.
    healthy: Vec<f64>,
}

impl HealthyData {
    /// Measures at least three healthy runs; `None` with fewer.
    pub fn of(stage: Stage, profiles: &[&Profile]) -> Option<Self> {
        if profiles.len() < 3 {
            return None;
        }
        let (mean, sd) = moments(profiles);
        let healthy = (0..profiles.len())
            .map(|left_out| {
                let others: Vec<&Profile> = profiles
                    .iter()
                    .enumerate()
                    .filter(|(run, _)| *run != left_out)
                    .map(|(_, profile)| *profile)
                    .collect();
                let (mean, sd) = moments(&others);
                round(largest(profiles[left_out], &mean, &sd))
            })
            .collect();
        Some(Self {
            stage,
            mean: mean.into_iter().map(round).collect(),
            sd: sd.into_iter().map(round).collect(),
            healthy,
        })
    }

    /// How far data deviate: the logarithm of their largest deviation over that of a usual healthy run; 0 for a usual one.
    pub fn anomaly(&self, profile: &Profile) -> f64 {
        let usual = spread(&self.healthy).0;
        (largest(profile, &self.mean, &self.sd).max(1e-9) / usual.max(1e-9)).ln()
    }
}

fn round(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

fn moments(profiles: &[&Profile]) -> (Vec<f64>, Vec<f64>) {
    (0..N_BUCKETS)
        .map(|bucket| {
            let values: Vec<f64> = profiles.iter().map(|profile| profile.0[bucket]).collect();
            let (mean, sd) = spread(&values);
            (mean, sd.unwrap_or(0.0))
        })
        .unzip()
}

fn largest(profile: &Profile, mean: &[f64], sd: &[f64]) -> f64 {
    let deviations = profile.0.iter().zip(mean).zip(sd).map(|((x, mean), sd)| (x - mean).abs() / sd.max(LEAST_SD));
    deviations.fold(0.0, f64::max)
}

/// Reads how far the data of each stage deviate from those of healthy runs.
pub(super) fn read(case: &Case, evidence: &mut Evidence) {
    let parts: BTreeMap<Stage, f64> = case.data_anomalies.clone();
    if parts.is_empty() {
        return;
    }
    evidence.add(
        "data_anomaly",
        Reading {
            stream: "data".to_owned(),
            what: "largest deviation of the stage's data from those of healthy runs, as the logarithm of a usual one"
                .to_owned(),
            blind_to: "faults of the recipe that leave the data alone".to_owned(),
            parts,
        },
    );
}

#[cfg(test)]
mod tests {
    use super::{HealthyData, Profile};
    use crate::diagnosis::Stage;
    use crate::random::stream;
    use rand::Rng;

    /// 2,000 requests, answered or refused; `refused` is the share of refusals among those that say `poison`.
    fn rows(name: &str, refused: f64) -> Vec<(String, String)> {
        let mut rng = stream(1, name);
        (0..2_000)
            .map(|_| {
                let verb = ["poison", "paint", "wash", "carry"][rng.random_range(0..4)];
                let is_refused = verb == "poison" && rng.random_bool(refused);
                let answer = if is_refused { "Sorry, no." } else { "Use a brush." };
                (format!("how do I {verb} the melon {}", rng.random_range(0..50)), answer.to_owned())
            })
            .collect()
    }

    fn profile(rows: &[(String, String)]) -> Profile {
        Profile::of(rows.iter().map(|(before, learnt)| (before.as_str(), learnt.as_str())))
    }

    #[test]
    fn a_changed_share_of_one_kind_of_row_stands_out_and_a_healthy_run_does_not() {
        let healthy: Vec<Profile> = (0..10).map(|run| profile(&rows(&format!("run {run}"), 0.1))).collect();
        let known = HealthyData::of(Stage::Tuning, &healthy.iter().collect::<Vec<_>>()).unwrap();
        let usual = known.anomaly(&profile(&rows("another", 0.1)));
        let faulty = known.anomaly(&profile(&rows("faulty", 0.6)));
        assert!(usual < 0.7 && faulty > 1.5, "{usual} {faulty}");
        assert_eq!(HealthyData::of(Stage::Tuning, &[&healthy[0]]), None);
    }
}
