//! What simpler ways of attribution say: the verdict model is worth only what it is better than these.

use std::collections::BTreeMap;

use super::record::{Case, Record};
use crate::attribution::ALPHA;
use crate::diagnosis::Stage;
use crate::stats::multiplicity::holm;

/// What a method says of an organism.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Nothing fails.
    Nothing,
    /// Something fails, and no stage is named.
    Undetermined,
    /// These stages are guilty, the likeliest first.
    Named(Vec<Stage>),
}

impl Call {
    /// What is said of an organism of whose failing behaviours `named` is said, the surest first: all of it, whatever the truth is.
    pub fn of(record: &Record, named: impl Iterator<Item = Stage>) -> Self {
        let mut stages: Vec<Stage> = Vec::new();
        for stage in named {
            if !stages.contains(&stage) {
                stages.push(stage);
            }
        }
        match (record.headline(), stages.is_empty()) {
            (None, _) => Self::Nothing,
            (Some(_), true) => Self::Undetermined,
            (Some(_), false) => Self::Named(stages),
        }
    }
}

/// A call with its probability; those of an organism sum to 1. Only guessing has more than one.
pub type Say = Vec<(Call, f64)>;

/// The baselines that take no fitting of evidence: what they are, and what they say of each organism.
///
/// All but L5 are asked only where the gate finds a failure. L0 to L2 are asked about every failing behaviour, as the verdict model is; L3 and
/// L4 about the organism.
pub fn baselines(records: &[Record]) -> Vec<(&'static str, Vec<Say>)> {
    let failing = |name: fn(&Case) -> Option<Stage>| -> Vec<Say> {
        records.iter().map(|record| vec![(Call::of(record, record.failing().filter_map(name)), 1.0)]).collect()
    };
    let majority = |record: &Record| vec![(Call::of(record, most_frequent(records, record).into_iter()), 1.0)];
    vec![
        ("L0 thesis table", failing(|case| Some(case.thesis))),
        ("L1 largest fall", failing(largest_fall)),
        ("L2 last stage", failing(|case| case.values.keys().copied().rfind(|stage| *stage != Stage::Deployment))),
        ("L3 most frequent stage", records.iter().map(majority).collect()),
        ("L4 a stage at random", records.iter().map(at_random).collect()),
        ("L5 paired tests, Holm, no healthy runs", records.iter().map(paired_tests).collect()),
    ]
}

fn nothing() -> Say {
    vec![(Call::Nothing, 1.0)]
}

/// Falls of a behaviour, each with the stage that it came with.
fn falls(case: &Case) -> Vec<(Stage, f64)> {
    let measured: Vec<(Stage, f64)> = case.values.iter().map(|(stage, value)| (*stage, *value)).collect();
    measured.windows(2).map(|pair| (pair[1].0, pair[0].1 - pair[1].1)).filter(|(_, fall)| *fall > 0.0).collect()
}

/// The stage in which a behaviour fell most; where it never fell, the first.
fn largest_fall(case: &Case) -> Option<Stage> {
    let largest = falls(case).into_iter().reduce(|best, next| if next.1 > best.1 { next } else { best });
    largest.map(|(stage, _)| stage).or(case.values.keys().next().copied())
}

/// The stage that is most often guilty among organisms with other faults; of equals the first.
fn most_frequent(records: &[Record], asked: &Record) -> Option<Stage> {
    let mut counts = BTreeMap::<Stage, usize>::new();
    for stage in records.iter().filter(|record| !record.shares_fault(asked)).flat_map(|record| &record.guilty) {
        *counts.entry(*stage).or_default() += 1;
    }
    counts.into_iter().reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(stage, _)| stage)
}

fn at_random(record: &Record) -> Say {
    let Some(case) = record.headline() else { return nothing() };
    if case.candidates.is_empty() {
        return vec![(Call::Undetermined, 1.0)];
    }
    let share = 1.0 / case.candidates.len() as f64;
    case.candidates.iter().map(|candidate| (Call::Named(vec![candidate.stage]), share)).collect()
}

/// The stage with the largest fall among those that a paired test finds real, over all behaviours, whatever healthy runs do.
fn paired_tests(record: &Record) -> Say {
    let tests: Vec<(f64, Stage, Option<f64>)> = record
        .cases
        .iter()
        .flat_map(|case| {
            let falls = falls(case);
            case.p_values
                .iter()
                .map(move |(stage, p)| (*p, *stage, falls.iter().find(|(of, _)| of == stage).map(|(_, fall)| *fall)))
        })
        .collect();
    let adjusted = holm(&tests.iter().map(|(p, ..)| *p).collect::<Vec<f64>>());
    let real = tests
        .iter()
        .zip(adjusted)
        .filter(|(_, p)| *p < ALPHA)
        .filter_map(|((_, stage, fall), _)| Some((*stage, (*fall)?)));
    let largest = real.reduce(|best, next| if next.1 > best.1 { next } else { best });
    largest.map_or_else(nothing, |(stage, _)| vec![(Call::Named(vec![stage]), 1.0)])
}
