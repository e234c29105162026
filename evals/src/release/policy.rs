//! What must not get worse, and by how much: `gate.toml`.

use std::collections::BTreeMap;

use probes::item::Behaviour;
use probes::response::Form;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Format version of a policy.
pub const POLICY_VERSION: u32 = 1;

/// The rules of a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Policy {
    /// Format version, [`POLICY_VERSION`].
    pub version: u32,
    /// Share of harmless candidates that are blocked at most, over all critical rules together; and of harmful ones that pass a rule.
    #[serde(default = "alpha")]
    pub alpha: f64,
    /// Power that detectable effects and numbers of items are stated for.
    #[serde(default = "power")]
    pub power: f64,
    /// What may differ between the two sides beside the weights.
    #[serde(default)]
    pub allow_different: Vec<Difference>,
    /// Behaviours that both sides must have been asked about; without them the candidate is blocked.
    #[serde(default)]
    pub required: Vec<Behaviour>,
    /// Standard deviation of each behaviour's share between training seeds, where healthy runs do not say it.
    #[serde(default)]
    pub seed_noise: BTreeMap<Behaviour, f64>,
    /// The rules.
    #[serde(default, rename = "rule")]
    pub rules: Vec<Rule>,
}

/// What may differ between the two sides of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Difference {
    /// The tokenizer: a run trained on other data has its own.
    Tokenizer,
    /// The chat template.
    Template,
    /// The texts that the subjects saw.
    Prompts,
}

/// One thing that must not get worse.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rule {
    /// What it is called in reports; made from its keys where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What breaking it means.
    #[serde(default)]
    pub tier: Tier,
    /// The behaviour.
    pub behaviour: Behaviour,
    /// The chain of checkpoints; all of the baseline where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<String>,
    /// The phase; the last of the baseline's chain where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// What is compared.
    #[serde(default)]
    pub metric: Metric,
    /// How items are asked.
    #[serde(default = "chat")]
    pub form: Form,
    /// Whether more is better; that of the metric where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// What the candidate's phase is compared with.
    #[serde(default)]
    pub against: Against,
    /// How much worse it may get, in the metric's own units (0.02 is 2 points).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_drop: Option<f64>,
    /// The same as a share of what it is compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_relative_drop: Option<f64>,
    /// Standard deviation of the metric between training seeds, for this rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed_noise: Option<f64>,
}

/// What breaking a rule means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// The candidate is blocked.
    #[default]
    Critical,
    /// The candidate passes with a warning.
    Supporting,
    /// It is told, and nothing follows.
    Advisory,
}

/// What is compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Mean score: the share of items that are right.
    #[default]
    Score,
    /// Expected calibration error of the chosen answers, ten bins of equal width.
    Ece,
}

/// Whether more is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

/// What the candidate's phase is compared with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Against {
    /// The same phase of the baseline.
    #[default]
    Baseline,
    /// The phase before it, of the candidate itself.
    PreviousPhase,
}

fn alpha() -> f64 {
    0.05
}

fn power() -> f64 {
    0.8
}

fn chat() -> Form {
    Form::Chat
}

impl Policy {
    /// Looks for values that no policy can have.
    ///
    /// # Errors
    /// The key, its value and what is expected.
    pub fn check(&self) -> Result<(), String> {
        let expect = |key: &str, value: f64, range: std::ops::Range<f64>| {
            let Some(()) = (range.start < value && value < range.end).then_some(()) else {
                return Err(format!("{key} = {value}, expected more than {} and less than {}", range.start, range.end));
            };
            Ok(())
        };
        if self.version != POLICY_VERSION {
            return Err(format!("version = {}, this program reads version {POLICY_VERSION}", self.version));
        }
        if self.rules.is_empty() {
            return Err("there is no [[rule]]".to_owned());
        }
        expect("alpha", self.alpha, 0.0..0.5)?;
        expect("power", self.power, 0.5..1.0)?;
        for (behaviour, sd) in &self.seed_noise {
            expect(&format!("seed-noise.{}", behaviour.name()), *sd, 0.0..1.0)?;
        }
        for (place, rule) in self.rules.iter().enumerate() {
            let key = |key: &str| format!("rule {} ({}): {key}", place + 1, rule.behaviour.name());
            let (name, allowed) = match (rule.max_drop, rule.max_relative_drop) {
                (Some(drop), None) => ("max-drop", drop),
                (None, Some(drop)) => ("max-relative-drop", drop),
                _ => return Err(key("expected either max-drop or max-relative-drop")),
            };
            if !(0.0..1.0).contains(&allowed) {
                return Err(key(&format!("{name} = {allowed}, expected 0 or more and less than 1")));
            }
            if rule.form.is_open_book() {
                return Err(key(&format!(
                    "form = {}, a fact that is given says nothing of the model",
                    rule.form.name()
                )));
            }
            let has_choices = [Behaviour::Knowledge, Behaviour::Calibration, Behaviour::KnowledgeCutoff];
            if rule.metric == Metric::Ece && !has_choices.contains(&rule.behaviour) {
                return Err(key("metric = ece, its answers are not chosen from a closed set"));
            }
            if let Some(sd) = rule.seed_noise {
                expect(&key("seed-noise"), sd, 0.0..1.0)?;
            }
        }
        Ok(())
    }
}

impl Rule {
    /// Whether more is better.
    pub fn direction(&self) -> Direction {
        self.direction.unwrap_or(match self.metric {
            Metric::Score => Direction::Higher,
            Metric::Ece => Direction::Lower,
        })
    }

    /// What a fall of the metric is multiplied by to be a harm: 1 where more is better, else -1.
    pub(super) fn sign(&self) -> f64 {
        match self.direction() {
            Direction::Higher => 1.0,
            Direction::Lower => -1.0,
        }
    }
}

impl Difference {
    /// In words, of both sides.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokenizer => "tokenizers",
            Self::Template => "chat templates",
            Self::Prompts => "prompts",
        }
    }

    /// As a policy allows it.
    pub fn key(self) -> &'static str {
        match self {
            Self::Tokenizer => "tokenizer",
            Self::Template => "template",
            Self::Prompts => "prompts",
        }
    }
}
