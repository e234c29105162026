//! Where all failures of a lineage arose, taken together: one fault has several symptoms, and what it does to the phases after it looks like
//! their own doing.
//!
//! What it cannot see: that two faults are at work.

use std::collections::BTreeMap;

use super::{Evidence, Reading};
use crate::diagnosis::Stage;

/// Reads which part of the shortfalls of all failing behaviours arose in each stage; one shortfall and its evidence each.
pub(crate) fn read(failures: &mut [(f64, &mut Evidence)]) {
    let mut parts = BTreeMap::<Stage, f64>::new();
    for (shortfall, evidence) in failures.iter() {
        for (stage, features) in &evidence.candidates {
            let share = features.get("shortfall_share").copied().unwrap_or(0.0);
            *parts.entry(*stage).or_default() += share.max(0.0) * shortfall.max(0.0);
        }
    }
    let total: f64 = parts.values().sum();
    if total <= 0.0 {
        return;
    }
    for part in parts.values_mut() {
        *part /= total;
    }
    for (_, evidence) in failures {
        evidence.add(
            "all_failures_share",
            Reading {
                stream: "all failures together".to_owned(),
                what: "part of the shortfalls of all failing behaviours that arose in the stage".to_owned(),
                blind_to: "two faults of which each makes something else fail".to_owned(),
                parts: parts.clone(),
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::read;
    use crate::diagnosis::Stage;
    use crate::evidence::Evidence;

    #[test]
    fn a_small_failure_weighs_as_much_as_it_lacks() {
        let evidence = |pretraining: f64, tuning: f64| {
            let of = |share| BTreeMap::from([("shortfall_share".to_owned(), share)]);
            let candidates = BTreeMap::from([
                (Stage::Pretraining, of(pretraining)),
                (Stage::Tuning, of(tuning)),
                (Stage::Alignment, BTreeMap::new()),
            ]);
            Evidence { candidates, readings: Vec::new() }
        };
        let (mut large, mut small) = (evidence(1.0, -0.2), evidence(0.0, 1.0));
        read(&mut [(0.6, &mut large), (0.2, &mut small)]);
        for evidence in [&large, &small] {
            let share = |stage: Stage| evidence.candidates[&stage]["all_failures_share"];
            assert!((share(Stage::Pretraining) - 0.75).abs() < 1e-12 && (share(Stage::Tuning) - 0.25).abs() < 1e-12);
            assert_eq!(share(Stage::Alignment), 0.0);
        }
        let mut nothing = evidence(-0.1, 0.0);
        read(&mut [(0.3, &mut nothing)]);
        assert!(nothing.readings.is_empty());
    }
}
