//! What a report draws beside the table: reliability, the trade-off of refusals, knowledge by month.

use std::collections::BTreeMap;

use probes::response::Form;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Estimate;
use crate::calibration::Calibration;

/// Reliability of one kind of confidence at one checkpoint: that of likelihoods, or one of [`Form::CONFIDENCE`].
///
/// What was measured stands in `measures`. Records of before it was have the fields after it in its place, which are no longer written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CalibrationCurve {
    /// The phase.
    pub phase: String,
    /// Form of the questions.
    pub form: Form,
    /// Every measure, each with its interval and with what a calibrated model would show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measures: Option<Calibration>,
    /// Older records: bins of confidence, those with items only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bins: Vec<CalibrationBin>,
    /// Older records: expected calibration error, with a percentile interval that is too high where the error is small.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ece: Option<Estimate>,
    /// Older records: mean confidence - accuracy; positive is over-confident.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overconfidence: Option<Estimate>,
    /// Older records: mean ECE that a calibrated model would show with these confidences, and its 95th percentile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null_ece: Option<(f64, f64)>,
    /// Older records: Brier score of the chosen answer being right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brier: Option<Estimate>,
}

impl CalibrationCurve {
    /// What was measured after a phase.
    pub fn new(phase: &str, form: Form, measures: Calibration) -> Self {
        Self {
            phase: phase.to_owned(),
            form,
            measures: Some(measures),
            bins: Vec::new(),
            ece: None,
            overconfidence: None,
            null_ece: None,
            brier: None,
        }
    }
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
    /// The falls, where one step does not explain the answers and several do; else none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub falls: Vec<CutoffFall>,
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

impl CutoffRamp {
    /// Share right in a month: `after + (before - after) / (1 + exp((t - midpoint) / scale))`, where 10 to 90 % of the drop take
    /// `2 ln 9` scales. An end of the decay that lies beyond the months asked about was moved to them, so the other one tells the scale.
    pub fn share(&self, month: f64) -> f64 {
        let half = (self.end.value - self.midpoint.value).max(self.midpoint.value - self.onset.value);
        let kept = 1.0 / (1.0 + (9.0_f64.ln() * (month - self.midpoint.value) / half).exp());
        self.after + (self.before - self.after) * if kept.is_nan() { 0.5 } else { kept }
    }
}

/// One of several falls of knowledge: data of a later phase often end later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CutoffFall {
    /// First month after it.
    pub month: u32,
    /// Share right in the stretch of months before it.
    pub before: f64,
    /// Share right in the stretch after it.
    pub after: f64,
}
