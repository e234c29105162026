//! What a comparison of alignment settings says: the record that its report is rendered from.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::diagnosis::{Estimate, Provenance};

/// Format version of `comparison.json`.
pub const COMPARISON_VERSION: u32 = 1;

/// Everything that a report over several settings shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// Format version, [`COMPARISON_VERSION`].
    #[schemars(extend("const" = COMPARISON_VERSION))]
    pub version: u32,
    /// Name of the sweep, or of the folder that holds the runs.
    pub name: String,
    /// Three plain sentences: what to choose, what it costs, what is not settled.
    pub sentences: Vec<String>,
    /// The settings in the order in which they were given; those that were trained, then those that were explored.
    pub settings: Vec<Setting>,
    /// Every two trained settings, axis by axis; the start (no alignment) among them.
    pub pairs: Vec<Pair>,
    /// What changing one key does on its own, everything else equal.
    pub effects: Vec<Effect>,
    /// "Choose this if you care most about ...", one per axis, and one for all together.
    pub choices: Vec<Choice>,
    /// How far the explored settings can be trusted, by the trained ones that they stand for.
    pub trust: Vec<Trust>,
    /// Reward against divergence, for each trained setting that has a reward.
    pub over_optimisation: Vec<OverOptimisation>,
    /// What training warned of, setting by setting.
    pub alarms: Vec<Alarm>,
    /// How well each reward model judges answers whose right one is known.
    pub reward_checks: Vec<RewardCheck>,
    /// How the principles of constitutions judged, for each way in which settings judged.
    #[serde(default)]
    pub principles: Vec<PrincipleTable>,
    /// What was run.
    pub provenance: Provenance,
}

/// A direction in which settings differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// Share of harmless requests that are refused.
    OverRefusal,
    /// Share of harmful requests that are answered.
    HarmfulCompliance,
    /// Share of instructions that are followed, system prompts included.
    InstructionFollowing,
    /// Expected calibration error of the closed-set choices.
    Calibration,
    /// Share of the facts known before alignment that are still known, in the best form of asking.
    KnowledgeKept,
    /// Divergence from the checkpoint before alignment, nats per answer.
    Kl,
}

impl Axis {
    /// All axes, in the order of tables.
    pub const ALL: [Self; 6] = [
        Self::OverRefusal,
        Self::HarmfulCompliance,
        Self::InstructionFollowing,
        Self::Calibration,
        Self::KnowledgeKept,
        Self::Kl,
    ];

    /// Whether more is better.
    pub fn is_gain(self) -> bool {
        matches!(self, Self::InstructionFollowing | Self::KnowledgeKept)
    }

    /// Whether it is a share, shown in percent; the others are shown as they are.
    pub fn is_share(self) -> bool {
        !matches!(self, Self::Calibration | Self::Kl)
    }

    /// What is counted, in plain words, within a sentence: `harmless requests refused`.
    pub fn title(self) -> &'static str {
        match self {
            Self::OverRefusal => "harmless requests refused",
            Self::HarmfulCompliance => "harmful requests answered",
            Self::InstructionFollowing => "instructions followed",
            Self::Calibration => "error of stated confidence",
            Self::KnowledgeKept => "known facts kept",
            Self::Kl => "distance from the start",
        }
    }
}

/// One setting and what it showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// Short name, unique: `rloo, kl 0.1`.
    pub name: String,
    /// How it came to be.
    pub kind: SettingKind,
    /// The recipe keys in which the settings differ, with this setting's values.
    pub values: BTreeMap<String, String>,
    /// Seeds it was trained with.
    pub seeds: Vec<u64>,
    /// What it showed; an axis that was not measured is absent. Intervals are over seeds and items where there are several seeds,
    /// over items alone (and say so in `method`) where there is one.
    #[schemars(schema_with = "crate::schema::keyed::<Axis, Estimate>")]
    pub axes: BTreeMap<Axis, Estimate>,
    /// The value of each seed, in the order of `seeds`; the spread that a single run would hide. An axis that was not measured
    /// with every seed is absent.
    #[schemars(schema_with = "crate::schema::keyed::<Axis, Vec<f64>>")]
    pub by_seed: BTreeMap<Axis, Vec<f64>>,
    /// Whether no other setting, trained or the start, dominates it; `false` for explored settings, which are not judged.
    pub is_non_dominated: bool,
    /// The settings that dominate it: shown to be better on one axis and not to be worse on any other. Nearness to the start counts
    /// for a setting, but its want not against it: divergence is what an outcome costs.
    pub dominated_by: Vec<String>,
    /// Share of right answers sampled at temperature 1, where right answers are known.
    pub gold_reward: Option<Estimate>,
    /// Seconds of training the alignment phases, from the logs, mean over seeds; `None` where the logs do not say.
    pub train_s: Option<f64>,
}

/// How a setting came to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SettingKind {
    /// The checkpoint that alignment starts from.
    Start,
    /// Trained.
    Trained,
    /// Explored between the start and a trained setting, without training.
    Explored {
        /// How.
        by: Exploration,
        /// The trained setting at lambda 1.
        base: String,
        /// Position between the start (0) and the base (1).
        lambda: f64,
        /// The trained setting that it should be like, if there is one.
        stands_for: Option<String>,
    },
}

/// A way to look at settings that were not trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Exploration {
    /// Decoding-time realignment: logits mixed (Liu et al. 2024, arXiv 2402.02992).
    Realigned,
    /// Weights mixed (Wortsman et al. 2022, arXiv 2109.01903).
    Interpolated,
}

/// The difference between two settings on every axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// Name of the first setting.
    pub first: String,
    /// Name of the second.
    pub second: String,
    /// Second minus first, axis by axis.
    #[schemars(schema_with = "crate::schema::keyed::<Axis, Difference>")]
    pub differences: BTreeMap<Axis, Difference>,
}

/// A paired difference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// Second minus first, with its interval, paired by seed and item.
    pub change: Estimate,
    /// Two-sided, unadjusted; `None` where it cannot be computed.
    pub p_value: Option<f64>,
    /// The same after Holm over all pairs and axes.
    pub p_holm: Option<f64>,
    /// Smallest difference that this much data shows with 80 % power.
    pub detectable: Option<f64>,
    /// Items per seed that would show a difference of the size seen with 80 % power in a test of this pair alone; at least as many as
    /// there are. `None` where it is resolved already, or where no number of items would do because the seeds themselves differ by
    /// more.
    pub n_needed: Option<usize>,
    /// Seeds that would show it with the items that there are; as `n_needed`. `None` with one seed, which does not tell how much
    /// seeds differ.
    pub seeds_needed: Option<usize>,
}

/// What changing one key from one value to another does, averaged over all pairs of settings that differ in nothing else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Effect {
    /// The recipe key.
    pub key: String,
    /// Its value before.
    pub from: String,
    /// Its value after.
    pub to: String,
    /// Number of pairs of settings.
    pub n_pairs: usize,
    /// The change on each axis.
    #[schemars(schema_with = "crate::schema::keyed::<Axis, Estimate>")]
    pub changes: BTreeMap<Axis, Estimate>,
    /// What it does, in a sentence.
    pub sentence: String,
}

/// A recommendation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// What the reader cares about, as the end of "if you care most about ...": `harmless requests being answered`.
    pub care: String,
    /// The setting.
    pub setting: String,
    /// Other settings that cannot be told from it on this.
    pub ties: Vec<String>,
    /// Why, what it costs elsewhere, and what would settle a tie; plain words.
    pub reason: String,
}

/// How well an exploration agrees with the settings that it stands for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Trust {
    /// How it was explored.
    pub by: Exploration,
    /// Explored minus trained, axis by axis: mean over the explored settings that stand for a trained one.
    #[schemars(schema_with = "crate::schema::keyed::<Axis, Estimate>")]
    pub bias: BTreeMap<Axis, Estimate>,
    /// Root mean square of the same differences.
    #[schemars(schema_with = "crate::schema::keyed::<Axis, f64>")]
    pub error: BTreeMap<Axis, f64>,
    /// Number of explored settings with a trained counterpart.
    pub n: usize,
    /// Whether every axis is within its stated tolerance.
    pub is_trusted: bool,
    /// What that means, in a sentence.
    pub sentence: String,
}

/// Reward over the divergence from the start, in training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OverOptimisation {
    /// The setting.
    pub setting: String,
    /// The seed.
    pub seed: u64,
    /// The points, in the order of training.
    pub points: Vec<TrajectoryPoint>,
    /// Fit of the reward that is optimised.
    pub proxy: Option<RewardFit>,
    /// Fit of the share of right answers.
    pub gold: Option<RewardFit>,
    /// Whether the gold reward has passed its peak while the proxy still climbs.
    pub is_over_optimised: bool,
    /// What the curves say, in a sentence.
    pub sentence: String,
}

/// Means over some successive rounds of training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrajectoryPoint {
    /// Last step of those rounds.
    pub step: u64,
    /// Divergence from the start, nats per answer.
    pub kl_nats: f64,
    /// The reward that is optimised, without the penalty; in deviations of the reward model's training answers.
    pub proxy: f64,
    /// Share of right answers, where known.
    pub gold: Option<f64>,
    /// Number of answers.
    pub n: usize,
}

/// `reward gain = d (alpha - beta ln d)` over `d = sqrt(KL)`.
///
/// # Reference
/// Gao et al. 2022, arXiv 2210.10760, equation 1 (RL).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RewardFit {
    /// Reward at no divergence.
    pub start: f64,
    /// Coefficient of `d`.
    pub alpha: f64,
    /// Coefficient of `-d ln d`.
    pub beta: f64,
    /// Standard errors of `alpha` and `beta`.
    pub se: (f64, f64),
    /// Where the fitted curve peaks, in `d`: `exp(alpha / beta - 1)`; `None` where it has no peak.
    pub peak_d: Option<f64>,
    /// Share of the points' variance that the curve explains.
    pub r_squared: f64,
}

/// Something that training warned of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Alarm {
    /// The setting.
    pub setting: String,
    /// The seed.
    pub seed: u64,
    /// Step of training.
    pub step: u64,
    /// What was seen, in a sentence.
    pub message: String,
}

/// How well the reward models behind some settings judge answers whose right one is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RewardCheck {
    /// The settings whose policies were optimised against them.
    pub settings: Vec<String>,
    /// Share of the pairs held out of their training in which the preferred answer has the higher reward.
    pub held_out: Option<Estimate>,
    /// Expected calibration error of the stated probability that one answer is better, on the bank's pairs.
    pub calibration: Option<Estimate>,
    /// Kind of question by kind of question.
    pub slices: Vec<RewardSlice>,
    /// What that means, in a sentence.
    pub sentence: String,
}

/// What reward models say of one kind of question of the bank, each with a right and a wrong answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RewardSlice {
    /// The kind, in plain words: `harmless look-alikes`.
    pub name: String,
    /// Share in which the right answer has the higher reward. Of twins, a harmful and a harmless request with the same dangerous word:
    /// share in which refusing is favoured more for the harmful one.
    pub accuracy: Estimate,
    /// By how much, in deviations of the rewards of training answers.
    pub margin: Estimate,
}

/// How the principles of a constitution judged, all seeds together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrincipleTable {
    /// The settings that were trained on these judgements.
    pub settings: Vec<String>,
    /// The principles, by name.
    pub principles: Vec<Principle>,
    /// What stands out, in sentences; one that says so where nothing does.
    pub sentences: Vec<String>,
}

/// How one principle judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Principle {
    /// Its name in the constitution.
    pub name: String,
    /// Share of its labels that go against the right answer, of those where exactly one answer is right; `None` without any.
    pub flips: Option<Estimate>,
    /// The same share over all other principles.
    pub flips_of_others: Option<f64>,
    /// That it flips more than the others: Fisher's exact test, one-sided.
    pub p_value: Option<f64>,
    /// The same after Holm over the principles.
    pub p_holm: Option<f64>,
    /// Whether it flips more than the others beyond chance, and by at least five points.
    pub stands_out: bool,
    /// What was counted, by kind of prompt.
    pub kinds: BTreeMap<String, PrincipleCounts>,
}

/// What was judged and revised under a principle.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrincipleCounts {
    /// Pairs of answers that were compared.
    pub pairs: usize,
    /// Those of which exactly one answer is right, and for which one was preferred.
    pub decided: usize,
    /// Of these, the ones where the wrong answer was preferred.
    pub against: usize,
    /// Of these, the ones where the wrong answer refuses and the right one does not.
    pub refusing: usize,
    /// Right answers that were revised.
    pub right: usize,
    /// Of these, the ones that were wrong afterwards.
    pub broken: usize,
    /// Wrong answers that were revised.
    pub wrong: usize,
    /// Of these, the ones that were right afterwards.
    pub mended: usize,
}

impl PrincipleCounts {
    /// Adds the counts of others.
    pub fn add(&mut self, other: &Self) {
        self.pairs += other.pairs;
        self.decided += other.decided;
        self.against += other.against;
        self.refusing += other.refusing;
        self.right += other.right;
        self.broken += other.broken;
        self.wrong += other.wrong;
        self.mended += other.mended;
    }

    /// All kinds of prompt together.
    pub fn sum(kinds: &BTreeMap<String, Self>) -> Self {
        let mut sum = Self::default();
        for counts in kinds.values() {
            sum.add(counts);
        }
        sum
    }
}

/// What a comparison is made from.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Short name, unique.
    pub name: String,
    /// How it came to be.
    pub kind: SettingKind,
    /// The recipe keys in which the settings differ, with this setting's values.
    pub values: BTreeMap<String, String>,
    /// One for each seed.
    pub runs: Vec<EntryRun>,
}

/// One seed of a setting.
#[derive(Debug, Clone, Default)]
pub struct EntryRun {
    /// The seed.
    pub seed: u64,
    /// Fingerprint of the checkpoint whose answers count.
    pub checkpoint: String,
    /// Fingerprint of the checkpoint that alignment started from.
    pub start: String,
    /// Divergence from the start, one number per sampled answer, in nats; the same prompts in the same order for all settings.
    pub kl_nats: Vec<f64>,
    /// Whether each sampled answer is right, where known; in the order of `kl_nats`.
    pub gold: Vec<Option<f64>>,
    /// How training went, where it has a reward.
    pub trajectory: Vec<TrajectoryPoint>,
    /// What training warned of: step and message.
    pub alarms: Vec<(u64, String)>,
    /// Seconds of training the alignment phases.
    pub train_s: Option<f64>,
    /// What its reward model says of the bank's questions, where it has one.
    pub reward: Option<RewardEvidence>,
    /// What was judged, by principle and kind of prompt; empty without a constitution.
    pub principles: BTreeMap<String, BTreeMap<String, PrincipleCounts>>,
}

/// What one reward model says of answers whose right one is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardEvidence {
    /// Identifies the reward model, whatever policy was optimised against it.
    pub model: String,
    /// Share of pairs held out of its training that it judges as they were labelled, and their number.
    pub held_out: Option<(f64, usize)>,
    /// For each item that was put to it: the reward of the right answer less that of the wrong one, in deviations, and the stated
    /// probability that the right one is better.
    pub ratings: BTreeMap<String, (f64, f64)>,
}
