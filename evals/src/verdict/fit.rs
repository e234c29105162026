//! Fitting the verdict model on organisms whose fault is known.

use std::collections::{BTreeMap, BTreeSet};

use probes::item::Behaviour;

use super::beta::BetaCalibration;
use super::features::{FEATURES, Feature, Tier};
use super::logistic::Logistic;
use super::model::{MODEL_VERSION, TierModel, VerdictModel, Weight};
use super::record::{Candidate, Case, Record, Set};
use crate::diagnosis::Stage;
use crate::reference::spread;

/// Penalty on squared weights per standard deviation, and on squared slopes of the calibration; fixed in advance.
pub const RIDGE: f64 = 1.0;

/// Share right among named stages that the threshold is chosen for.
pub const ACCURACY: f64 = 0.95;

/// No stage is named that is more likely innocent.
const LEAST_THRESHOLD: f64 = 0.5;

/// Fits every tier on the failing behaviours of all organisms whose plant took and of which it is known which stages made each failure.
pub fn fit(records: &[Record]) -> VerdictModel {
    let taught = taught(records);
    let fault_types: BTreeSet<String> = taught.iter().map(|record| record.fault_type()).collect();
    VerdictModel {
        version: MODEL_VERSION,
        n_records: taught.len(),
        fault_types: fault_types.into_iter().collect(),
        tiers: tiers(records).filter_map(|tier| fit_tier(&taught, tier, &up_to(tier))).collect(),
    }
}

/// A model of these `names` of features: weights from all organisms, calibration and threshold from predictions for each by a model that has
/// not seen what it shares with others.
fn fit_tier(taught: &[&Record], tier: Tier, names: &[&str]) -> Option<TierModel> {
    let mut model = fit_features(taught, tier, names)?;
    let apart = Apart::of(taught);
    let mut known = BTreeMap::<(String, u64), Option<TierModel>>::new();
    let mut held_out = Vec::new();
    for record in taught {
        let fit = || fit_features(&apart.from(record, taught), tier, names);
        if let Some(model) = known.entry(key(record)).or_insert_with(fit) {
            held_out.extend(held_by(record, model));
        }
    }
    let stages: Vec<(f64, bool)> = held_out.iter().flat_map(Held::stages).collect();
    model.calibration = BetaCalibration::fit(&stages, RIDGE);
    let tops: Vec<Top> = held_out.iter().filter_map(|held| held.top(&model.calibration)).collect();
    model.threshold = threshold(&tops);
    let kept: Vec<&Top> =
        tops.iter().filter(|top| model.threshold.is_some_and(|least| top.probability >= least)).collect();
    model.coverage = kept.len() as f64 / tops.len().max(1) as f64;
    model.accuracy = share_right(&kept);
    Some(model)
}

/// What organisms have in common that are held out together.
fn key(record: &Record) -> (String, u64) {
    (record.fault_type(), record.world)
}

fn taught(records: &[Record]) -> Vec<&Record> {
    records.iter().filter(|record| teaches(record)).collect()
}

/// What the model says of a failing behaviour of an organism whose fault types it has not seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Probability of guilt per stage.
    pub probabilities: Vec<(Stage, f64)>,
    /// Stages that are named; empty is "undetermined".
    pub named: Vec<Stage>,
}

impl Prediction {
    /// The likeliest stage with its probability; of equals the first.
    pub fn top(&self) -> Option<(Stage, f64)> {
        self.probabilities.iter().copied().reduce(|best, next| if next.1 > best.1 { next } else { best })
    }
}

/// Predictions for `records`, from models of these `names` of features fitted without any organism that shares a fault type or, where
/// there are several, a world.
///
/// All of the fit is done again without them, calibration and threshold too (nested cross-validation; Varma and Simon 2006, *BMC
/// Bioinformatics* 7:91). One prediction per failing behaviour, in their order; none where the other organisms do not suffice for a model.
pub fn predict_held_out(records: &[Record], tier: Tier, names: &[&str]) -> Vec<Vec<Prediction>> {
    let taught = taught(records);
    let apart = Apart::of(&taught);
    let mut known = BTreeMap::<(String, u64), Option<TierModel>>::new();
    let of_record = |record: &Record| {
        let fit = || fit_tier(&apart.from(record, &taught), tier, names);
        let Some(model) = known.entry(key(record)).or_insert_with(fit) else { return Vec::new() };
        let of_case = |case: &Case| {
            let probabilities = model.predict(&case.candidates);
            Prediction { named: model.name(&probabilities), probabilities }
        };
        record.failing().map(of_case).collect()
    };
    records.iter().map(of_record).collect()
}

/// The tiers that add evidence to those before.
pub fn tiers(records: &[Record]) -> impl Iterator<Item = Tier> {
    let adds = |tier: &Tier| FEATURES.iter().any(|feature| feature.tier == *tier && is_measured(feature, records));
    Tier::ALL.into_iter().filter(adds)
}

/// Whether any record has the feature.
pub fn is_measured(feature: &Feature, records: &[Record]) -> bool {
    let has = |case: &Case| case.candidates.iter().any(|of| of.features.contains_key(feature.name));
    records.iter().any(|record| record.cases.iter().any(has))
}

/// Names of the features of a tier and those before.
pub fn up_to(tier: Tier) -> Vec<&'static str> {
    FEATURES.iter().filter(|feature| feature.tier <= tier).map(|feature| feature.name).collect()
}

/// Whether an organism is one to learn from: it fails, not for another reason than its plant, and it is known which stages made each of its
/// failures. Of two guilty stages that is known where a single behaviour fails.
fn teaches(record: &Record) -> bool {
    let failing: BTreeSet<Behaviour> = record.failing().map(|case| case.behaviour).collect();
    let is_known = record.guilty.len() == 1 || record.guilty.len() > 1 && failing.len() == 1;
    !failing.is_empty() && record.has_taken() && is_known && record.set != Set::Masked
}

/// Log-odds for a failing behaviour from a model that has not seen the organism's fault types.
struct Held {
    log_odds: Vec<(Stage, f64)>,
    guilty: Vec<Stage>,
}

/// The likeliest stage of a failing behaviour.
struct Top {
    probability: f64,
    is_right: bool,
}

impl Held {
    fn top(&self, calibration: &BetaCalibration) -> Option<Top> {
        let (stage, z) = self.log_odds.iter().reduce(|best, next| if next.1 > best.1 { next } else { best })?;
        Some(Top { probability: calibration.probability(*z), is_right: self.guilty.contains(stage) })
    }

    /// Each stage's log-odds, and whether it is guilty.
    fn stages(&self) -> impl Iterator<Item = (f64, bool)> {
        self.log_odds.iter().map(|(stage, z)| (*z, self.guilty.contains(stage)))
    }
}

/// Which organisms a model may learn from before it is asked about one: those that share no fault type with it and, where organisms with
/// faults are of several worlds, no world.
struct Apart {
    has_worlds: bool,
}

impl Apart {
    fn of(taught: &[&Record]) -> Self {
        let worlds: BTreeSet<u64> = taught.iter().map(|record| record.world).collect();
        Self { has_worlds: worlds.len() > 1 }
    }

    fn are(&self, one: &Record, other: &Record) -> bool {
        !(one.shares_fault(other) || self.has_worlds && one.world == other.world)
    }

    fn from<'r>(&self, asked: &Record, records: &[&'r Record]) -> Vec<&'r Record> {
        records.iter().copied().filter(|other| self.are(asked, other)).collect()
    }
}

fn held_by(record: &Record, model: &TierModel) -> Vec<Held> {
    let of_case = |case: &Case| Held { log_odds: model.log_odds(&case.candidates), guilty: record.guilty.clone() };
    record.failing().map(of_case).collect()
}

/// Weights of the features of these names, pooled over stages; neither calibration nor threshold yet.
fn fit_features(records: &[&Record], tier: Tier, names: &[&str]) -> Option<TierModel> {
    let candidates: Vec<(&Candidate, bool)> = records
        .iter()
        .flat_map(|record| record.failing().map(move |case| (record, case)))
        .flat_map(|(record, case)| case.candidates.iter().map(|of| (of, record.guilty.contains(&of.stage))))
        .collect();
    let mut features: Vec<Weight> = names
        .iter()
        .filter_map(|name| {
            let values: Vec<f64> = candidates.iter().filter_map(|(of, _)| of.features.get(*name).copied()).collect();
            let (mean, sd) = spread(&values);
            sd.filter(|sd| *sd > 1e-9).map(|sd| Weight { name: (*name).to_owned(), mean, sd, weight: 0.0 })
        })
        .collect();
    let rows: Vec<Vec<f64>> = candidates
        .iter()
        .map(|(of, _)| {
            features.iter().map(|f| of.features.get(&f.name).map_or(0.0, |value| (value - f.mean) / f.sd)).collect()
        })
        .collect();
    let labels: Vec<bool> = candidates.iter().map(|(_, is_guilty)| *is_guilty).collect();
    let Logistic { weights, intercept } = Logistic::fit(&rows, &labels, RIDGE).filter(|_| !features.is_empty())?;
    for (feature, weight) in features.iter_mut().zip(weights) {
        feature.weight = weight;
    }
    Some(TierModel {
        tier,
        features,
        intercept,
        calibration: BetaCalibration::IDENTITY,
        threshold: None,
        coverage: 0.0,
        accuracy: None,
    })
}

/// The smallest probability, of at least one half, at which 95 % of the likeliest stages are guilty; `None` where there is none.
fn threshold(tops: &[Top]) -> Option<f64> {
    let mut at: Vec<f64> = tops.iter().map(|top| top.probability.max(LEAST_THRESHOLD)).collect();
    at.sort_by(f64::total_cmp);
    at.into_iter().find(|least| {
        let kept: Vec<&Top> = tops.iter().filter(|top| top.probability >= *least).collect();
        share_right(&kept).is_some_and(|share| share >= ACCURACY)
    })
}

fn share_right(tops: &[&Top]) -> Option<f64> {
    (!tops.is_empty()).then(|| tops.iter().filter(|top| top.is_right).count() as f64 / tops.len() as f64)
}
