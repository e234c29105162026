//! The evidence about a stage that the verdict model weighs.

use serde::{Deserialize, Serialize};

/// What must be at hand for a piece of evidence; each tier has all of those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// Answers of the checkpoints.
    T1,
    /// And their logits.
    T2,
    /// And their weights.
    T3,
    /// And the data and the reward model.
    T4,
    /// And training a phase again.
    T5,
}

impl Tier {
    /// All tiers.
    pub const ALL: [Self; 5] = [Self::T1, Self::T2, Self::T3, Self::T4, Self::T5];

    /// What is at hand.
    pub fn access(self) -> &'static str {
        match self {
            Self::T1 => "answers",
            Self::T2 => "answers and logits",
            Self::T3 => "answers, logits and weights",
            Self::T4 => "answers, logits, weights and data",
            Self::T5 => "answers, logits, weights, data and retraining",
        }
    }
}

/// A number that says something about the guilt of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// The name in records.
    pub name: &'static str,
    /// What must be at hand.
    pub tier: Tier,
    /// What it is.
    pub meaning: &'static str,
}

/// All features. A record that has another is refused; one that a record lacks was not measured.
pub const FEATURES: [Feature; 16] = [
    feature("shortfall_share", Tier::T1, "part of the shortfall that arose in the stage, over all positive parts"),
    feature("e_z", Tier::T1, "the same part over its standard error"),
    feature(
        "other_route_share",
        Tier::T1,
        "what arose in the stage on the other route (the best form of asking, or chat), over the same shortfall",
    ),
    feature("nfr", Tier::T1, "negative flip rate: share of items that the stage broke"),
    feature("pfr", Tier::T1, "positive flip rate: share of items that the stage repaired"),
    feature(
        "is_first_shortfall",
        Tier::T1,
        "1 for the first stage after which the value is beyond healthy variation, else 0",
    ),
    feature(
        "all_failures_share",
        Tier::T1,
        "part of the shortfalls of all failing behaviours of the lineage that arose in the stage",
    ),
    feature(
        "margin_change_z",
        Tier::T2,
        "loss of the contrast margin in the stage, in standard deviations of healthy runs",
    ),
    feature("logit_shapley", Tier::T2, "Shapley value of the stage's logit difference, over the shortfall"),
    feature(
        "dera_slope",
        Tier::T2,
        "growth of the shortfall with the strength of alignment, logits mixed at each token",
    ),
    feature("weight_shapley", Tier::T3, "Shapley value of the stage's weight difference, over the shortfall"),
    feature("weight_path_slope", Tier::T3, "growth of the shortfall with the strength of alignment, weights mixed"),
    feature(
        "relearn_share",
        Tier::T3,
        "share of the shortfall that stays (pretraining) or goes (the others) when the last checkpoint learns a few right answers",
    ),
    feature("data_anomaly", Tier::T4, "largest deviation of the stage's data, as the logarithm of a usual healthy one"),
    feature("reward_gap_z", Tier::T4, "items that the reward model gets wrong, in standard deviations of healthy ones"),
    feature(
        "swap_recovered",
        Tier::T5,
        "share of the shortfall that goes when the stage is trained again with the healthy recipe",
    ),
];

const fn feature(name: &'static str, tier: Tier, meaning: &'static str) -> Feature {
    Feature { name, tier, meaning }
}

/// The feature of that name.
pub fn find(name: &str) -> Option<&'static Feature> {
    FEATURES.iter().find(|feature| feature.name == name)
}
