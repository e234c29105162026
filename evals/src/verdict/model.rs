//! The verdict model as it is shipped: a readable file.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::beta::BetaCalibration;
use super::features::{self, Tier};
use super::record::Candidate;
use crate::diagnosis::Stage;
use crate::error::{Error, Result};

/// Format version of a model file.
pub const MODEL_VERSION: u32 = 2;

/// How likely each stage is guilty, for each tier of access.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerdictModel {
    /// Format version, [`MODEL_VERSION`].
    pub version: u32,
    /// Number of organisms it was fitted on.
    pub n_records: usize,
    /// Their fault types.
    pub fault_types: Vec<String>,
    /// One model per tier that had evidence.
    pub tiers: Vec<TierModel>,
}

/// The model of one tier: the log-odds of a stage being guilty are `intercept + sum_k weight_k (x_k - mean_k) / sd_k`, its probability is
/// what `calibration` makes of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierModel {
    /// The tier; features of those before are used too.
    pub tier: Tier,
    /// Its features, those that vary.
    pub features: Vec<Weight>,
    /// Log-odds of a stage about which all evidence is average.
    pub intercept: f64,
    /// Fitted on held-out stages.
    pub calibration: BetaCalibration,
    /// Smallest probability of the likeliest stage with which a stage is named; `None` where nothing is ever named.
    pub threshold: Option<f64>,
    /// Share of held-out failing behaviours for which a stage is named.
    pub coverage: f64,
    /// Share of those in which the likeliest stage is guilty; `None` where there are none. The threshold was chosen on them.
    pub accuracy: Option<f64>,
}

/// A feature's place in a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weight {
    /// The feature.
    pub name: String,
    /// Its mean where it was measured.
    pub mean: f64,
    /// Its standard deviation.
    pub sd: f64,
    /// Change of the log-odds per standard deviation.
    pub weight: f64,
}

impl TierModel {
    /// Log-odds of each stage, before they are calibrated.
    ///
    /// A feature that was not measured takes its mean: it then speaks neither for nor against the stage. To drop such stages or
    /// organisms would lose the cases in which a method fails, which are not the easy ones.
    pub fn log_odds(&self, candidates: &[Candidate]) -> Vec<(Stage, f64)> {
        let of_candidate = |candidate: &Candidate| {
            let parts = self.features.iter().map(|feature| {
                let value = candidate.features.get(&feature.name).copied().unwrap_or(feature.mean);
                feature.weight * (value - feature.mean) / feature.sd
            });
            (candidate.stage, self.intercept + parts.sum::<f64>())
        };
        candidates.iter().map(of_candidate).collect()
    }

    /// Probability of guilt of each stage. They need not sum to 1: two stages may be guilty, or none.
    pub fn predict(&self, candidates: &[Candidate]) -> Vec<(Stage, f64)> {
        self.log_odds(candidates).into_iter().map(|(stage, z)| (stage, self.calibration.probability(z))).collect()
    }

    /// The stages that are named: all at or above the threshold, the likeliest first; empty is "undetermined".
    pub fn name(&self, probabilities: &[(Stage, f64)]) -> Vec<Stage> {
        self.threshold.map_or_else(Vec::new, |threshold| above(probabilities, threshold))
    }
}

/// The stages at or above a threshold, the likeliest first.
fn above(probabilities: &[(Stage, f64)], threshold: f64) -> Vec<Stage> {
    let mut named: Vec<(Stage, f64)> = probabilities.iter().copied().filter(|(_, p)| *p >= threshold).collect();
    named.sort_by(|a, b| b.1.total_cmp(&a.1));
    named.into_iter().map(|(stage, _)| stage).collect()
}

impl VerdictModel {
    /// The model for what is at hand: that tier's, or the nearest below.
    pub fn at(&self, tier: Tier) -> Option<&TierModel> {
        self.tiers.iter().rev().find(|model| model.tier <= tier)
    }

    /// Reads a model file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::CorruptModel`] with line or key, [`Error::Version`].
    pub fn load(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Reads a model from text; `path` is named in errors.
    ///
    /// # Errors
    /// As [`VerdictModel::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let corrupt = |reason: String| Error::CorruptModel { path: path.to_owned(), reason };
        let model: Self = serde_json::from_str(text).map_err(|error| corrupt(error.to_string()))?;
        if model.version != MODEL_VERSION {
            let (found, expected) = (model.version, MODEL_VERSION);
            return Err(Error::Version { path: path.to_owned(), found, expected });
        }
        for tier in &model.tiers {
            let place = format!("tier {:?}", tier.tier);
            if !tier.calibration.is_monotone() {
                let BetaCalibration { a, b, .. } = tier.calibration;
                return Err(corrupt(format!("{place}: calibration a = {a}, b = {b}, expected at least 0")));
            }
            for feature in &tier.features {
                if features::find(&feature.name).is_none_or(|known| known.tier > tier.tier) {
                    return Err(corrupt(format!("{place}: `{}` is no feature of it", feature.name)));
                }
                if !(feature.sd > 0.0 && feature.sd.is_finite()) {
                    return Err(corrupt(format!(
                        "{place}: sd of `{}` = {}, expected more than 0",
                        feature.name, feature.sd
                    )));
                }
            }
        }
        if !model.tiers.is_sorted_by(|a, b| a.tier < b.tier) {
            return Err(corrupt("tiers are not in order".to_owned()));
        }
        Ok(model)
    }

    /// The model as indented JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data with finite numbers") + "\n"
    }
}
