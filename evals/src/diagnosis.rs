//! What a diagnosis says: the record that reports are rendered from.

mod curve;
mod self_knowledge;

use std::collections::BTreeMap;
use std::iter::Sum;

use probes::item::Behaviour;
use probes::response::Form;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bisection::Bisection;
use crate::evidence::data::Profile;
use crate::evidence::{Candidates, Reading};
use crate::fixes::MeasuredFix;
use crate::reference::Route;
use crate::trace::record::Trace;
use crate::tried::TriedRemedy;

pub use curve::{CalibrationBin, CalibrationCurve, CutoffCurve, CutoffEstimate, CutoffFall, CutoffRamp, TradeOffPoint};
pub use self_knowledge::{AskedConfidence, Beside, Instrument, SelfKnowledge, StatedAnswer, StatedCutoff};

/// Name of the last checkpoint as it is deployed, in the place of a phase's name.
pub const DEPLOYED: &str = "deployed";

/// Format version of `diagnosis.json`.
pub const DIAGNOSIS_VERSION: u32 = 1;

/// Everything a report shows; rebuilt from a run folder alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Diagnosis {
    /// Format version, [`DIAGNOSIS_VERSION`].
    #[schemars(extend("const" = DIAGNOSIS_VERSION))]
    pub version: u32,
    /// Name of the run.
    pub run: String,
    /// Three plain sentences: what fails, which phase produced it, what to do.
    pub sentences: Vec<String>,
    /// One entry per chain of checkpoints, the deployed one first.
    pub lineages: Vec<LineageDiagnosis>,
    /// What each stage was trained on, as shares of traits; none where the data are not at hand.
    #[serde(default)]
    #[schemars(schema_with = "crate::schema::keyed::<Stage, Profile>")]
    pub data: BTreeMap<Stage, Profile>,
    /// What was run: seeds, hashes, versions.
    pub provenance: Provenance,
}

/// What was run, as shown at the foot of a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Seed of the run; `None` where nobody has said which.
    pub seed: Option<u64>,
    /// SHA-256 of the item bank.
    pub bank_hash: String,
    /// Number of items in the bank.
    pub n_items: usize,
    /// Version of the probes.
    pub probe_version: u32,
    /// Version of phasetrace.
    pub phasetrace_version: String,
    /// Reference the lineages were compared with, or `None`: unreferenced.
    pub reference: Option<ReferenceInfo>,
    /// Anything else worth printing, by name.
    pub notes: BTreeMap<String, String>,
}

/// Which healthy lineages a diagnosis was compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReferenceInfo {
    /// SHA-256 of the reference file.
    pub hash: String,
    /// Number of healthy lineages.
    pub n_lineages: usize,
}

/// One chain of checkpoints and what is wrong with its last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LineageDiagnosis {
    /// Name of the chain: `rlhf`, `constitutional`.
    pub name: String,
    /// Its checkpoints in order.
    pub phases: Vec<PhaseInfo>,
    /// All values of the lineage beside all of healthy runs; `None` without healthy runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<FamilyGate>,
    /// One row of the phase x behaviour table each.
    pub behaviours: Vec<BehaviourHistory>,
    /// Reliability of the closed-set choices per phase, by likelihood; then of confidence that was asked for, where it was. The form tells
    /// which it is.
    pub calibration: Vec<CalibrationCurve>,
    /// Over-refusal against harmful compliance, one point per phase.
    pub trade_off: Vec<TradeOffPoint>,
    /// Accuracy by month, one per phase.
    pub cutoffs: Vec<CutoffCurve>,
    /// What each phase says of itself and shows of what it does not know; none where nothing of the kind was asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub self_knowledge: Vec<SelfKnowledge>,
    /// Failing items with every phase's answer (at most some tens per behaviour; `n_failures` counts all).
    pub failures: Vec<FailureCase>,
    /// Total number of failing items per behaviour.
    #[schemars(schema_with = "crate::schema::keyed::<Behaviour, usize>")]
    pub n_failures: BTreeMap<Behaviour, usize>,
}

/// Whether a lineage deviates from healthy runs anywhere by more than healthy runs do somewhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FamilyGate {
    /// Conformal p-value of the last checkpoint's largest deviation; `None` with fewer than 19 healthy runs.
    pub p_value: Option<f64>,
    /// Number of healthy runs.
    pub n_healthy: usize,
    /// Number of the last checkpoint's cells: behaviours on two routes.
    pub n_cells: usize,
    /// The cells whose own family-wise p-value is at most 0.05; those of earlier checkpoints are a family of their own.
    pub exceeding: Vec<DeviatingCell>,
}

/// A cell in which a lineage is worse than healthy runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviatingCell {
    /// The behaviour.
    pub behaviour: Behaviour,
    /// Chat or elicited.
    pub route: Route,
    /// The phase.
    pub phase: String,
    /// Shortfall in standard deviations of a new healthy run.
    pub deviation: f64,
}

impl LineageDiagnosis {
    /// What it takes to train the phase `name` and those after it again, going by what they took; `None` where a log does not tell, or
    /// there is no such phase.
    pub fn cost_from(&self, name: &str) -> Option<Cost> {
        let first = self.phases.iter().position(|phase| phase.name == name)?;
        let trained = self.phases[first..].iter().filter(|phase| phase.name != DEPLOYED);
        trained.map(|phase| phase.cost).sum()
    }
}

/// A checkpoint as shown in a table head.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PhaseInfo {
    /// Phase name: `pretrain`, `sft`, `rlhf`, `sl-cai`, `rl-cai`.
    pub name: String,
    /// Fingerprint of the checkpoint: SHA-256 over weights, config, tokenizer and chat template.
    pub checkpoint: String,
    /// Final training metrics (`loss_nats`, `reward`, `kl_nats`, `tokens` ...).
    pub metrics: BTreeMap<String, f64>,
    /// What its training took; `None` where no log tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
}

/// What training a phase took, by its log: with the reward or preference model that it learns from, without pauses between two starts.
/// The same recipe trained again takes another time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Seconds.
    pub seconds: f64,
    /// Tokens that the weights learnt from, each time that they did.
    pub tokens: f64,
}

impl Cost {
    /// Tokens per second; `None` where no time went by.
    pub fn tokens_per_s(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.tokens / self.seconds)
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), |sum, cost| Self {
            seconds: sum.seconds + cost.seconds,
            tokens: sum.tokens + cost.tokens,
        })
    }
}

/// A number with its unit, count and interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    /// Point estimate.
    pub value: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end of the 95 % interval.
    pub high: f64,
    /// Number of items.
    pub n: usize,
    /// How the interval was made: `Wilson`, `clustered`, `bootstrap`, `likelihood ratio`.
    pub method: String,
}

/// How one behaviour went over the phases. All values are shares of items that are right, in [0, 1].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BehaviourHistory {
    /// Which behaviour.
    pub behaviour: Behaviour,
    /// Form whose answers count for the deployed model (chat).
    pub form: Form,
    /// Value per phase in that form; `None` where not measured, with the reason in `not_measured`.
    pub values: Vec<Option<Estimate>>,
    /// Best value over all forms per phase: what the checkpoint can be got to show.
    pub elicited: Vec<Option<Estimate>>,
    /// Mean over healthy reference lineages per phase, in the form of `values`.
    pub reference: Vec<Option<f64>>,
    /// Share that was to be expected where there is no reference, as the user said; by default [`EXPECTED_SHARE`](crate::attribution::EXPECTED_SHARE).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stated: Option<f64>,
    /// Mean contrast margin in chat per phase, nats.
    #[serde(default)]
    pub margins: Vec<Option<f64>>,
    /// What models between and beyond the checkpoints showed.
    #[serde(default)]
    pub views: Vec<ViewValue>,
    /// Share of items in which the reward model rates the right answer higher than the wrong one.
    #[serde(default)]
    pub reward_right: Option<f64>,
    /// Item transitions into each phase after the first.
    pub transitions: Vec<Transition>,
    /// Smallest change of the share between two phases that this many items show with 80 % power.
    pub detectable_effect: Option<f64>,
    /// Why a value is missing.
    pub not_measured: Option<String>,
    /// What remedies without training did to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<TriedRemedy>,
    /// The verdict.
    pub verdict: Verdict,
}

impl BehaviourHistory {
    /// Whether something is wrong with it, whoever is to blame.
    pub fn fails(&self) -> bool {
        matches!(self.verdict.outcome, Outcome::Attributed { .. } | Outcome::Undetermined { .. })
    }
}

/// Items that changed between two checkpoints, with the paired test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Transition {
    /// Phase that made the change.
    pub phase: String,
    /// Items that passed before and fail after.
    pub broken: usize,
    /// Items that failed before and pass after.
    pub repaired: usize,
    /// Items that pass both times.
    pub kept: usize,
    /// Items that fail both times.
    pub still_failing: usize,
    /// Two-sided mid-p McNemar, unadjusted.
    pub p_value: Option<f64>,
    /// The same after Holm over all tests of the lineage.
    pub p_holm: Option<f64>,
    /// Mean change of the contrast margin, nats (telescopes over phases).
    pub margin_change_nats: Option<f64>,
}

/// Which phase produced a failure, on what evidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// The outcome.
    pub outcome: Outcome,
    /// Shortfall of the last checkpoint against the reference (or the stated expectation), in share of items.
    pub shortfall: Option<f64>,
    /// Part of the shortfall that each phase produced; sums to `shortfall` (telescoping).
    pub contributions: Vec<Contribution>,
    /// How sure, as a word of the ladder.
    pub confidence: Confidence,
    /// Family-wise conformal p-value of the shortfall, over all cells of the lineage; `None` with fewer than 19 healthy runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family_p: Option<f64>,
    /// Probability of guilt per stage, from the verdict model; empty where it was not asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probabilities: Vec<StageProbability>,
    /// How far the evidence against the named phase was carried; `None` where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rung: Option<Rung>,
    /// One line per piece of evidence, in plain words.
    pub evidence: Vec<String>,
    /// Whether the content itself is missing, and not only its expression in chat.
    #[serde(default)]
    pub is_content: bool,
    /// Rows of the accused phase's data that taught it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
    /// What training the accused phase again showed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmation: Option<Confirmation>,
    /// How it went over the steps of the accused phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bisection: Option<Bisection>,
    /// What each stream of evidence says of each stage.
    #[serde(default)]
    pub readings: Vec<Reading>,
    /// The same as the verdict model takes it.
    #[serde(default)]
    #[schemars(schema_with = "crate::schema::keyed::<Stage, BTreeMap<String, f64>>")]
    pub candidates: Candidates,
    /// Evidence that points elsewhere.
    pub dissent: Vec<String>,
    /// What the table "factual -> pretraining, format -> SFT, refusal -> alignment" would have said; printed, never used.
    pub thesis_baseline: String,
    /// What to do next.
    pub remedy: Option<String>,
    /// What fixes did to planted faults of this kind, the most effective first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fixes: Vec<MeasuredFix>,
    /// What would change this verdict.
    pub would_change: Option<String>,
}

impl Verdict {
    /// Probability that a stage is guilty, where the verdict model was asked about it.
    pub fn probability(&self, stage: Stage) -> Option<f64> {
        self.probabilities.iter().find(|of| of.stage == stage).map(|of| of.probability)
    }
}

/// How likely a stage is guilty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StageProbability {
    /// The stage.
    pub stage: Stage,
    /// From 0 to 1; those of a verdict need not sum to 1.
    pub probability: f64,
}

/// Rungs of evidence, each standing on the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// The shortfall arises at this phase's transition.
    Observed,
    /// The verdict model, fitted on planted faults, names it too.
    Attributed,
    /// Trained again with the healthy recipe, the phase takes the failure away, and another phase does not.
    Confirmed,
}

/// What a phase does, whatever its folder is called: the candidates for guilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Learns from documents.
    Pretraining,
    /// Learns from shown answers.
    #[serde(rename = "sft")]
    Tuning,
    /// Learns from preferences, including the supervised half of Constitutional AI.
    Alignment,
    /// Learns nothing: how the last checkpoint is asked (template, system prompt).
    Deployment,
}

/// What became of a shortfall when phases were trained again with the healthy recipe, and what follows them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    /// Share of it that went with the accused phase.
    pub recovered: Estimate,
    /// An innocent stage, and the share that went with it; `None` where none was trained again.
    pub innocent: Option<(Stage, Estimate)>,
}

/// A model made from the checkpoints of a lineage, and asked like one of them: what a phase adds, alone or in another strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// Pretraining with what alignment added, in logits: the last model without SFT.
    LogitAlignmentAlone,
    /// The same in weights.
    WeightAlignmentAlone,
    /// Half the strength of alignment, in logits.
    LogitHalf,
    /// One and a half times the strength, in logits.
    LogitMore,
    /// Half the strength, in weights.
    WeightHalf,
    /// One and a half times the strength, in weights.
    WeightMore,
    /// The last model after a few steps on right answers to other questions.
    Relearnt,
}

impl View {
    /// All views.
    pub const ALL: [Self; 7] = [
        Self::LogitAlignmentAlone,
        Self::WeightAlignmentAlone,
        Self::LogitHalf,
        Self::LogitMore,
        Self::WeightHalf,
        Self::WeightMore,
        Self::Relearnt,
    ];

    /// The name in files, in the place of a phase's.
    pub fn name(self) -> &'static str {
        match self {
            Self::LogitAlignmentAlone => "logits: alignment alone",
            Self::WeightAlignmentAlone => "weights: alignment alone",
            Self::LogitHalf => "logits: alignment x 0.5",
            Self::LogitMore => "logits: alignment x 1.5",
            Self::WeightHalf => "weights: alignment x 0.5",
            Self::WeightMore => "weights: alignment x 1.5",
            Self::Relearnt => "relearnt",
        }
    }
}

/// What a view showed of one behaviour, in share of items that are right.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ViewValue {
    /// The view.
    pub view: View,
    /// In chat.
    pub chat: Option<Estimate>,
    /// In the form that gets most out of it.
    pub elicited: Option<Estimate>,
}

impl Stage {
    /// The name in files: `sft`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pretraining => "pretraining",
            Self::Tuning => "sft",
            Self::Alignment => "alignment",
            Self::Deployment => "deployment",
        }
    }

    /// The stage of the phase `name`; a foreign name counts as alignment, unless it comes first of `phases`.
    pub fn of(name: &str, phases: &[String]) -> Self {
        crate::wording::stage(name, phases)
    }
}

/// What a phase added to a shortfall.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Contribution {
    /// The phase.
    pub phase: String,
    /// `gain of the reference - gain observed`, in share of items, with its interval.
    pub shortfall: Estimate,
    /// How it came about.
    pub kind: ContributionKind,
}

/// How a phase contributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ContributionKind {
    /// It broke what worked.
    Commission,
    /// It did not teach what a healthy phase teaches.
    Omission,
    /// It received the failure and left it.
    Inheritance,
    /// It repaired part of it.
    Repair,
    /// It had no part.
    None,
}

/// Outcome of attributing one behaviour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// Nothing fails beyond healthy variation.
    Healthy,
    /// A failure, produced by this phase.
    Attributed {
        /// The phase.
        phase: String,
        /// How.
        kind: ContributionKind,
    },
    /// No failure at the end, but one on the way that a later phase hides.
    Latent {
        /// The phase that produced it.
        phase: String,
        /// The phase after which it is no longer seen.
        masked_by: String,
    },
    /// A failure whose phase the evidence does not settle.
    Undetermined {
        /// Why not.
        reason: String,
    },
    /// Too few items, or not measurable on this subject.
    NotMeasured {
        /// Why not.
        reason: String,
    },
}

/// Words for how far the evidence reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// No claim.
    None,
    /// Seen at a phase's transition; not compared with healthy runs.
    Observed,
    /// Transition and reference agree.
    Probable,
    /// Transition, reference and margins agree, nothing dissents.
    Strong,
}

/// A failing item with every phase's answer side by side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FailureCase {
    /// Item name.
    pub item: String,
    /// Behaviour.
    pub behaviour: Behaviour,
    /// Slice.
    pub slice: String,
    /// What was asked, in plain text.
    pub question: String,
    /// What would have been right.
    pub expected: String,
    /// Answer per phase, in order of the lineage.
    pub answers: Vec<PhaseAnswer>,
    /// History code, one letter per phase: `1` pass, `0` fail, `-` not scored.
    pub history: String,
}

/// One phase's answer to an item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PhaseAnswer {
    /// The phase.
    pub phase: String,
    /// The answer.
    pub answer: String,
    /// Whether it was right; `None` where unscored.
    pub is_right: Option<bool>,
    /// Contrast margin, nats.
    pub margin_nats: Option<f64>,
}
