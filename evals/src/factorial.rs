//! The phase-swap factorial: every stage as observed or with the healthy recipe, and what each stage alone and together did.

use std::collections::{BTreeMap, BTreeSet};

use probes::item::Behaviour;
use serde::{Deserialize, Serialize};

use crate::diagnosis::{Diagnosis, Estimate, Stage};

/// What eight lineages say of each behaviour of each chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Factorial {
    /// One entry per chain and behaviour that was measured in all lineages.
    pub games: Vec<Game>,
}

/// The shortfall of one behaviour as a game between stages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Game {
    /// The chain of checkpoints.
    pub lineage: String,
    /// The behaviour.
    pub behaviour: Behaviour,
    /// Shortfall in chat against the wholly healthy lineage, in share of items, by the stages that are as observed.
    pub shortfall: Vec<(BTreeSet<Stage>, f64)>,
    /// Moebius dividends: what the stages of a set do together beyond what its parts do.
    pub dividends: Vec<(BTreeSet<Stage>, f64)>,
    /// Shapley value of each stage; they add up to the shortfall of the observed lineage.
    pub shapley: BTreeMap<Stage, f64>,
}

/// Computes the games from the diagnoses of the eight lineages, by the stages that are as observed.
pub fn of(lineages: &BTreeMap<BTreeSet<Stage>, Diagnosis>) -> Factorial {
    let Some(healthy) = lineages.get(&BTreeSet::new()) else { return Factorial { games: Vec::new() } };
    let mut games = Vec::new();
    for lineage in &healthy.lineages {
        for row in &lineage.behaviours {
            let value = |diagnosis: &Diagnosis| {
                let of_name = diagnosis.lineages.iter().find(|other| other.name == lineage.name)?;
                let of_behaviour = of_name.behaviours.iter().find(|other| other.behaviour == row.behaviour)?;
                Some(of_behaviour.values.last()?.as_ref()?.value)
            };
            let Some(best) = value(healthy) else { continue };
            let shortfall: Option<BTreeMap<BTreeSet<Stage>, f64>> =
                lineages.iter().map(|(stages, diagnosis)| Some((stages.clone(), best - value(diagnosis)?))).collect();
            let Some(shortfall) = shortfall else { continue };
            let dividends = dividends(&shortfall);
            games.push(Game {
                lineage: lineage.name.clone(),
                behaviour: row.behaviour,
                shapley: shapley(&dividends),
                shortfall: shortfall.into_iter().collect(),
                dividends: dividends.into_iter().collect(),
            });
        }
    }
    Factorial { games }
}

/// `m(S) = sum over T in S of (-1)^(|S| - |T|) u(T)`.
///
/// # Reference
/// Harsanyi 1963, A simplified bargaining model for the n-person cooperative game.
pub fn dividends(game: &BTreeMap<BTreeSet<Stage>, f64>) -> BTreeMap<BTreeSet<Stage>, f64> {
    game.keys()
        .map(|set| {
            let parts = game.iter().filter(|(part, _)| part.is_subset(set));
            let sum = parts.map(|(part, u)| if (set.len() - part.len()) % 2 == 0 { *u } else { -*u }).sum();
            (set.clone(), sum)
        })
        .collect()
}

/// `phi_p = sum over S with p of m(S) / |S|`.
pub fn shapley(dividends: &BTreeMap<BTreeSet<Stage>, f64>) -> BTreeMap<Stage, f64> {
    let mut values = BTreeMap::new();
    for (set, dividend) in dividends {
        for stage in set {
            *values.entry(*stage).or_insert(0.0) += dividend / set.len() as f64;
        }
    }
    values
}

/// Which share of a shortfall went: `(after - before) / (healthy - before)`; `None` where nothing fell short.
///
/// # Interval
/// Delta method over the items of both values, taken as independent; the healthy value as known.
pub fn recovered(before: &Estimate, after: &Estimate, healthy: f64) -> Option<Estimate> {
    let missing = healthy - before.value;
    if missing <= 0.0 {
        return None;
    }
    let value = (after.value - before.value) / missing;
    let error = |estimate: &Estimate| (estimate.high - estimate.low) / (2.0 * 1.96);
    let spread = (error(after).powi(2) + ((1.0 - value) * error(before)).powi(2)).sqrt() / missing;
    Some(Estimate {
        value,
        low: value - 1.96 * spread,
        high: value + 1.96 * spread,
        n: before.n.min(after.n),
        method: "delta method".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::{dividends, recovered, shapley};
    use crate::diagnosis::{Estimate, Stage};
    use std::collections::{BTreeMap, BTreeSet};

    const STAGES: [Stage; 3] = [Stage::Pretraining, Stage::Tuning, Stage::Alignment];

    fn game(u: impl Fn(&BTreeSet<Stage>) -> f64) -> BTreeMap<BTreeSet<Stage>, f64> {
        (0..8_usize)
            .map(|bits| STAGES.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1).map(|(_, s)| *s).collect())
            .map(|set: BTreeSet<Stage>| (set.clone(), u(&set)))
            .collect()
    }

    #[test]
    fn a_single_fault_is_one_dividend_and_has_the_whole_value() {
        let dividends = dividends(&game(|set| if set.contains(&Stage::Tuning) { 0.4 } else { 0.0 }));
        for (set, dividend) in &dividends {
            let expected = if *set == BTreeSet::from([Stage::Tuning]) { 0.4 } else { 0.0 };
            assert!((dividend - expected).abs() < 1e-12, "{set:?} {dividend}");
        }
        let values = shapley(&dividends);
        assert!((values[&Stage::Tuning] - 0.4).abs() < 1e-12 && values[&Stage::Alignment].abs() < 1e-12);
    }

    #[test]
    fn a_fault_that_a_later_phase_hides_has_a_negative_interaction_and_values_add_up() {
        let (fault, mask) = (Stage::Pretraining, Stage::Alignment);
        let u = game(|set| match (set.contains(&fault), set.contains(&mask)) {
            (true, false) => 0.5,
            (true, true) => 0.1,
            (false, _) => 0.0,
        });
        let parts = dividends(&u);
        assert!((parts[&BTreeSet::from([fault])] - 0.5).abs() < 1e-12);
        assert!((parts[&BTreeSet::from([fault, mask])] + 0.4).abs() < 1e-12);
        assert!((shapley(&parts).values().sum::<f64>() - u[&BTreeSet::from(STAGES)]).abs() < 1e-12);
    }

    #[test]
    fn what_came_back_is_a_share_of_what_was_missing() {
        let estimate =
            |value: f64| Estimate { value, low: value - 0.05, high: value + 0.05, n: 100, method: String::new() };
        let back = recovered(&estimate(0.4), &estimate(0.85), 0.9).unwrap();
        assert!((back.value - 0.9).abs() < 1e-12 && back.low < 0.9 && back.high > 0.9);
        assert_eq!(recovered(&estimate(0.9), &estimate(0.9), 0.9), None);
    }
}
