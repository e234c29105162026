//! What a gate says: the record that its table, test report, SARIF and Markdown are rendered from.

use probes::item::Behaviour;
use probes::response::Form;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::policy::{Against, Metric, Tier};
use crate::diagnosis::{Estimate, Rung};
use crate::reference::Route;

/// Format version of a gate's JSON.
pub const JUDGEMENT_VERSION: u32 = 1;

/// Whether a candidate may be released, rule by rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Judgement {
    /// Format version, [`JUDGEMENT_VERSION`].
    #[schemars(extend("const" = JUDGEMENT_VERSION))]
    pub version: u32,
    /// Version of phasetrace.
    pub phasetrace_version: String,
    /// All rules together.
    pub decision: Decision,
    /// What is released.
    pub baseline: Side,
    /// What is to take its place.
    pub candidate: Side,
    /// SHA-256 of the item bank.
    pub bank_hash: String,
    /// Share of harmless candidates that are blocked at most.
    pub alpha: f64,
    /// Power of the detectable effects.
    pub power: f64,
    /// What was allowed to differ between the sides, in words.
    pub allowed: Vec<String>,
    /// The candidate's report: its address (http or https), or its path; `None` where there is none of these checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
    /// The rules in the order of the policy, one for each chain that a rule speaks of; then required behaviours that were not measured, of no
    /// chain and no phase.
    pub rulings: Vec<Ruling>,
}

/// All rules together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Decision {
    /// Every critical and supporting rule is shown to hold.
    Pass,
    /// Every critical rule is shown to hold; a supporting one is not.
    Warn,
    /// A critical rule is not shown to hold, nor to be broken.
    Inconclusive,
    /// A critical rule is broken or could not be measured.
    Block,
}

/// One of the two sides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Side {
    /// Name of the run.
    pub run: String,
    /// File or folder it was read from, as typed; empty until the caller says.
    pub path: String,
}

/// What became of one rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ruling {
    /// What the rule is called.
    pub name: String,
    /// What breaking it means.
    pub tier: Tier,
    /// The behaviour.
    pub behaviour: Behaviour,
    /// The chain of checkpoints.
    pub lineage: String,
    /// The phase.
    pub phase: String,
    /// What is compared.
    pub metric: Metric,
    /// How items are asked.
    pub form: Form,
    /// What the phase is compared with.
    pub against: Against,
    /// What became of it.
    pub outcome: Outcome,
    /// The numbers; `None` where a side was not measured.
    pub measured: Option<Measured>,
    /// Where the candidate's report speaks of the behaviour: what stands behind its `#`. `None` where the report is not known to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<String>,
}

/// What became of a rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Shown to hold: the interval lies within what is allowed.
    Held,
    /// Shown to be broken: the interval lies beyond what is allowed.
    Broken,
    /// The interval straddles what is allowed.
    Undecided,
    /// It could not be measured, and why.
    NotMeasured(String),
}

/// The numbers behind a ruling. What got worse is positive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// The metric of what the candidate is compared with.
    pub before: Estimate,
    /// The metric of the candidate.
    pub after: Estimate,
    /// How much worse, in the metric's units.
    pub harm: f64,
    /// One-sided lower limit of the harm, at the rule's level after Holm: beyond `allowed` is broken.
    pub low: f64,
    /// One-sided upper limit at `alpha`: within `allowed` is held.
    pub high: f64,
    /// Harm that the rule allows.
    pub allowed: f64,
    /// p-value of the harm being no more than allowed, before Holm.
    pub p_broken: f64,
    /// Number of items that both sides answered.
    pub n: usize,
    /// Number of clusters of items.
    pub n_clusters: usize,
    /// How the interval was made.
    pub method: String,
    /// Standard deviation between training seeds that the interval includes; `None` where it is unknown.
    pub seed_noise: Option<f64>,
    /// Smallest harm that would be found broken with the policy's power.
    pub detectable: Option<f64>,
    /// Number of items with which an undecided rule would be decided in a share `power` of cases; `None` where it is decided, or no number
    /// would: the harm is what is allowed, or within the noise of a seed.
    pub n_to_decide: Option<usize>,
    /// Items that were right and are wrong.
    pub broken: Vec<Flip>,
    /// Number of items that were wrong and are right.
    pub n_repaired: usize,
    /// Where the candidate fell behind, of a broken rule.
    pub blame: Option<Blame>,
}

/// An item that was right and is wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Flip {
    /// The item.
    pub item: String,
    /// Its line in the bank, from 1.
    pub line: usize,
    /// What was asked.
    pub question: String,
}

/// The phase in which a candidate fell behind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Blame {
    /// The phase.
    pub phase: String,
    /// Its part of all that was lost against the baseline.
    pub share: f64,
    /// Whether the answers are lost in every form of asking (elicited), or in the rule's own (chat); of a calibration error no other is looked at.
    pub route: Route,
    /// What the candidate's own diagnosis says of this behaviour, where there is one.
    pub diagnosed: Option<Diagnosed>,
}

/// A verdict of the candidate's own diagnosis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Diagnosed {
    /// The phase.
    pub phase: String,
    /// How likely; `None` where the verdict has no probability.
    pub probability: Option<f64>,
    /// How far the verdict has got.
    pub rung: Option<Rung>,
}
