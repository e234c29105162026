//! Fitting the verdict model on organisms whose fault is known.

use std::collections::BTreeSet;

use super::features::{FEATURES, Tier};
use super::logistic::{Logistic, sigmoid};
use super::model::{MODEL_VERSION, TierModel, VerdictModel, Weight, above};
use super::record::{Candidate, Record};
use crate::diagnosis::Stage;
use crate::reference::spread;

/// Penalty on squared weights per standard deviation; fixed in advance.
pub const RIDGE: f64 = 1.0;

/// Share right among named stages that the threshold is chosen for.
pub const ACCURACY: f64 = 0.95;

/// No stage is named that is more likely innocent.
const LEAST_THRESHOLD: f64 = 0.5;

/// Fits every tier on all organisms that fail and whose plant took.
pub fn fit(records: &[Record]) -> VerdictModel {
    let taught: Vec<&Record> = records.iter().filter(|record| teaches(record)).collect();
    let fault_types: BTreeSet<String> = taught.iter().map(|record| record.fault_type()).collect();
    let fit_tier = |tier: Tier| {
        let names = up_to(tier);
        let mut model = fit_features(&taught, tier, &names)?;
        let held_out: Vec<Held> = taught.iter().filter_map(|record| hold_out(record, records, tier, &names)).collect();
        model.temperature = temperature(&held_out);
        let tops: Vec<Top> = held_out.iter().filter_map(|held| held.top(model.temperature)).collect();
        model.threshold = threshold(&tops);
        let kept: Vec<&Top> =
            tops.iter().filter(|top| model.threshold.is_some_and(|least| top.probability >= least)).collect();
        model.coverage = kept.len() as f64 / tops.len().max(1) as f64;
        model.accuracy = share_right(&kept);
        Some(model)
    };
    VerdictModel {
        version: MODEL_VERSION,
        n_records: taught.len(),
        fault_types: fault_types.into_iter().collect(),
        tiers: Tier::ALL.into_iter().filter_map(fit_tier).collect(),
    }
}

/// What the model says of an organism whose fault types it has not seen.
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

/// Predictions for `records`, from models of these `names` of features fitted without any organism that shares a fault type.
///
/// Temperature and threshold too come from other fault types' held-out predictions. `None` for an organism that does not fail, which
/// the model is not asked about, and where the other organisms do not suffice for a model.
pub fn predict_held_out(records: &[Record], tier: Tier, names: &[&str]) -> Vec<Option<Prediction>> {
    let held_out: Vec<Option<Held>> =
        records.iter().map(|record| record.headline().and_then(|_| hold_out(record, records, tier, names))).collect();
    let of_record = |record: &Record, held: &Held| {
        let others: Vec<Held> = records
            .iter()
            .zip(&held_out)
            .filter(|(other, _)| teaches(other) && !other.shares_fault(record))
            .filter_map(|(_, held)| held.clone())
            .collect();
        let temperature = temperature(&others);
        let tops: Vec<Top> = others.iter().filter_map(|held| held.top(temperature)).collect();
        let probabilities: Vec<(Stage, f64)> =
            held.log_odds.iter().map(|(stage, z)| (*stage, sigmoid(z / temperature))).collect();
        let named = threshold(&tops).map_or_else(Vec::new, |least| above(&probabilities, least));
        Prediction { probabilities, named }
    };
    records.iter().zip(&held_out).map(|(record, held)| held.as_ref().map(|held| of_record(record, held))).collect()
}

/// Names of the features of a tier and those before.
pub fn up_to(tier: Tier) -> Vec<&'static str> {
    FEATURES.iter().filter(|feature| feature.tier <= tier).map(|feature| feature.name).collect()
}

/// Whether an organism is one to learn from: it fails, and not for another reason than its plant.
fn teaches(record: &Record) -> bool {
    record.headline().is_some() && record.has_taken() && !record.candidates.is_empty()
}

/// Log-odds for an organism from a model that has not seen its fault types.
#[derive(Debug, Clone)]
struct Held {
    log_odds: Vec<(Stage, f64)>,
    guilty: Vec<Stage>,
}

/// The likeliest stage of an organism.
struct Top {
    probability: f64,
    is_right: bool,
}

impl Held {
    fn top(&self, temperature: f64) -> Option<Top> {
        let (stage, z) = self.log_odds.iter().reduce(|best, next| if next.1 > best.1 { next } else { best })?;
        Some(Top { probability: sigmoid(z / temperature), is_right: self.guilty.contains(stage) })
    }
}

fn hold_out(record: &Record, records: &[Record], tier: Tier, names: &[&str]) -> Option<Held> {
    let others: Vec<&Record> = records.iter().filter(|other| teaches(other) && !other.shares_fault(record)).collect();
    let model = fit_features(&others, tier, names)?;
    Some(Held { log_odds: model.log_odds(&record.candidates), guilty: record.guilty.clone() })
}

/// Weights of the features of these names, pooled over stages; no temperature and no threshold yet.
fn fit_features(records: &[&Record], tier: Tier, names: &[&str]) -> Option<TierModel> {
    let candidates: Vec<(&Candidate, bool)> = records
        .iter()
        .flat_map(|record| record.candidates.iter().map(|of| (of, record.guilty.contains(&of.stage))))
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
    Some(TierModel { tier, features, intercept, temperature: 1.0, threshold: None, coverage: 0.0, accuracy: None })
}

/// The temperature with the least cross-entropy on held-out stages, within 1/20 to 20.
///
/// Labels are smoothed as Platt's, `(n1 + 1) / (n1 + 2)` and `1 / (n0 + 2)`: held-out stages that are all told apart do not make the
/// model certain.
///
/// # Reference
/// Guo et al. 2017, arXiv 1706.04599, section 4.2; Platt 1999, *Probabilistic Outputs for Support Vector Machines*.
fn temperature(held_out: &[Held]) -> f64 {
    let stages: Vec<(f64, bool)> = held_out
        .iter()
        .flat_map(|held| held.log_odds.iter().map(|(stage, z)| (*z, held.guilty.contains(stage))))
        .collect();
    let guilty = stages.iter().filter(|(_, is_guilty)| *is_guilty).count() as f64;
    let innocent = stages.len() as f64 - guilty;
    let target = |is_guilty: bool| if is_guilty { (guilty + 1.0) / (guilty + 2.0) } else { 1.0 / (innocent + 2.0) };
    // The cross-entropy is convex in the inverse temperature: bisection of its slope.
    let slope = |inverse: f64| stages.iter().map(|(z, is)| (sigmoid(inverse * z) - target(*is)) * z).sum::<f64>();
    let (mut low, mut high) = (0.05_f64, 20.0_f64);
    if stages.is_empty() {
        return 1.0;
    }
    for _ in 0..60 {
        let middle = (low * high).sqrt();
        if slope(middle) < 0.0 { low = middle } else { high = middle }
    }
    1.0 / (low * high).sqrt()
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
