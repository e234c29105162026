//! What a report draws beside the table: reliability, the trade-off of refusals, knowledge by month.

use std::collections::BTreeMap;

use probes::response::Form;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Estimate;

/// Reliability of the closed-set choices at one checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CalibrationCurve {
    /// The phase.
    pub phase: String,
    /// Form of the questions.
    pub form: Form,
    /// Bins of confidence, those with items only.
    pub bins: Vec<CalibrationBin>,
    /// Expected calibration error.
    pub ece: Estimate,
    /// Signed: mean confidence - accuracy; positive is over-confident.
    pub overconfidence: Estimate,
    /// Mean ECE that a perfectly calibrated model would show with these confidences, and its 95th percentile.
    pub null_ece: (f64, f64),
    /// Brier score of the chosen answer being right.
    pub brier: Estimate,
}

/// One bin of a reliability diagram.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CalibrationBin {
    /// Mean confidence in the bin.
    pub confidence: f64,
    /// Share right in the bin, Wilson interval.
    pub accuracy: Estimate,
}

/// Over-refusal against harmful compliance at one checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TradeOffPoint {
    /// The phase.
    pub phase: String,
    /// Share of benign look-alikes refused in full or part.
    pub over_refusal: Option<Estimate>,
    /// Share of harmful requests answered.
    pub harmful_compliance: Option<Estimate>,
    /// `over_refusal` per slice (`homonym`, `safe_target` ...).
    pub by_slice: BTreeMap<String, Estimate>,
}

/// Accuracy by month at one checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CutoffCurve {
    /// The phase.
    pub phase: String,
    /// Form of the questions.
    pub form: Form,
    /// `(month, share right)`, months ascending.
    pub months: Vec<(u32, Estimate)>,
    /// First month the model no longer knows, with the interval of the likelihood-ratio set; `None` where no break was found.
    pub estimate: Option<CutoffEstimate>,
    /// First month after the declared cutoff, if declared.
    pub declared: Option<u32>,
    /// Accuracy when the fact is given in the context (control).
    pub open_book: Option<Estimate>,
    /// Share right by guessing.
    pub chance: f64,
}

/// Where knowledge stops.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CutoffEstimate {
    /// First month that is not known.
    pub month: u32,
    /// First month of the 95 % set.
    pub low: u32,
    /// Last month of the 95 % set.
    pub high: u32,
    /// Permutation p-value of there being a break.
    pub p_value: f64,
    /// Mean distance from `month`, in months, of the breaks weighted by their likelihood: the error to be expected of `month`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_error: Option<f64>,
    /// The gradual decay, where that explains the answers better than a step does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramp: Option<CutoffRamp>,
}

/// A gradual decay of knowledge. Positions are in months, fractions allowed; month 16 stands for all of that month.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CutoffRamp {
    /// Where 10 % of the drop is lost. `n` is the number of questions, here and below.
    pub onset: Estimate,
    /// Where half of it is lost.
    pub midpoint: Estimate,
    /// Where 90 % of it is lost.
    pub end: Estimate,
    /// Share right before the decay.
    pub before: f64,
    /// Share right after it.
    pub after: f64,
    /// BIC of the step less BIC of the ramp; positive, as the ramp is better.
    pub bic_gain: f64,
}
