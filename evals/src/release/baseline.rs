//! What a gate compares: the scores of a run's checkpoints.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use probes::item::Item;
use probes::response::{Form, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::policy::Difference;
use crate::board::{counts, score};
use crate::error::{Error, Result};
use crate::stats::calibration::Forecast;
use crate::store::StoreKey;

/// Format version of `baseline.json`.
pub const BASELINE_VERSION: u32 = 1;

/// The forms that are compared: those in which a subject has only its own knowledge to go by.
const FORMS: [Form; 5] = crate::board::CLOSED_BOOK;

/// The scores of a run's checkpoints, as `phasetrace bless` writes them: the same run gives the same bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Blessed {
    /// Format version, [`BASELINE_VERSION`].
    #[schemars(extend("const" = BASELINE_VERSION))]
    pub version: u32,
    /// Name of the run.
    pub run: String,
    /// SHA-256 of the item bank.
    pub bank_hash: String,
    /// Version of the probes: how items are asked, decoded and scored.
    pub probe_version: u32,
    /// The chains of checkpoints, by name, each with its phases in order.
    pub lineages: BTreeMap<String, Vec<String>>,
    /// What each phase's checkpoint answered.
    pub phases: BTreeMap<String, BlessedPhase>,
}

/// One checkpoint's scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlessedPhase {
    /// Fingerprint of the checkpoint.
    pub checkpoint: String,
    /// SHA-256 of its tokenizer.
    pub tokenizer: String,
    /// SHA-256 of its chat template.
    pub template: String,
    /// By the form of asking.
    #[schemars(schema_with = "crate::schema::keyed::<Form, BlessedForm>")]
    pub forms: BTreeMap<Form, BlessedForm>,
}

/// The scores in one form of asking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlessedForm {
    /// SHA-256 of all prompts, by item.
    pub prompts: String,
    /// By item.
    pub answers: BTreeMap<String, Scored>,
}

/// One answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scored {
    /// Score in [0, 1], 1 is right; of calibration `1 - |p - ideal|`. An answer that cannot be scored (incoherent, not knowing where that says nothing)
    /// is not right: 0, or a model could pass by not answering.
    pub score: f64,
    /// Probability given to the chosen answer, and whether that is the right one, where it was chosen from a closed set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Chosen>,
}

/// A choice and how sure it was.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Chosen {
    /// Probability given to it.
    pub confidence: f64,
    /// 1 where it is right, 0 where not; the known odds where only those are known.
    pub outcome: f64,
}

/// A checkpoint that answered, with what else makes its answers comparable.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// Name of the phase.
    pub phase: String,
    /// Fingerprint of the checkpoint.
    pub checkpoint: String,
    /// Text of its tokenizer's file.
    pub tokenizer: String,
    /// Text of its chat template.
    pub template: String,
}

impl Blessed {
    /// The scores of the answers that `asked` gave to `items`; controls are left out, as they count towards nothing.
    pub fn of(
        run: &str,
        key: &StoreKey,
        lineages: BTreeMap<String, Vec<String>>,
        asked: &[Asked],
        items: &[Item],
        responses: &[Response],
    ) -> Self {
        let items: BTreeMap<&str, &Item> =
            items.iter().filter(|item| counts(item)).map(|item| (item.id.as_str(), item)).collect();
        let mut answered = BTreeMap::<(&str, Form), Vec<(&Item, &Response)>>::new();
        for response in responses {
            if let Some(&item) = items.get(response.item.as_str()) {
                answered.entry((response.subject.as_str(), response.form)).or_default().push((item, response));
            }
        }
        let phases = asked.iter().map(|asked| {
            let forms = FORMS
                .into_iter()
                .filter_map(|form| Some((form, BlessedForm::of(answered.get(&(asked.checkpoint.as_str(), form))?))));
            let phase = BlessedPhase {
                checkpoint: asked.checkpoint.clone(),
                tokenizer: hash(&[&asked.tokenizer]),
                template: hash(&[&asked.template]),
                forms: forms.collect(),
            };
            (asked.phase.clone(), phase)
        });
        Self {
            version: BASELINE_VERSION,
            run: run.to_owned(),
            bank_hash: key.bank_hash.clone(),
            probe_version: key.probe_version,
            lineages,
            phases: phases.collect(),
        }
    }

    /// Reads a baseline file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::CorruptBaseline`] with line or key, [`Error::Version`].
    pub fn load(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })?;
        let corrupt = |reason: String| Error::CorruptBaseline { path: path.to_owned(), reason };
        let baseline: Self = serde_json::from_str(&text).map_err(|error| corrupt(error.to_string()))?;
        if baseline.version != BASELINE_VERSION {
            let (found, expected) = (baseline.version, BASELINE_VERSION);
            return Err(Error::Version { path: path.to_owned(), found, expected });
        }
        for (lineage, phases) in &baseline.lineages {
            if let Some(unknown) = phases.iter().find(|phase| !baseline.phases.contains_key(*phase)) {
                return Err(corrupt(format!("lineages.{lineage}: `{unknown}` is none of the phases")));
            }
        }
        for (name, phase) in &baseline.phases {
            let mut answers = phase.forms.values().flat_map(|form| &form.answers);
            let is_share = |value: f64| (0.0..=1.0).contains(&value);
            let is_sound = |scored: &Scored| {
                is_share(scored.score) && scored.chosen.is_none_or(|it| is_share(it.confidence) && is_share(it.outcome))
            };
            if let Some((item, scored)) = answers.find(|(_, scored)| !is_sound(scored)) {
                return Err(corrupt(format!(
                    "phases.{name}: answer to {item} = {scored:?}, expected shares in 0 to 1"
                )));
            }
        }
        Ok(baseline)
    }

    /// As indented JSON with sorted keys.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data with finite numbers") + "\n"
    }

    /// What makes the answers of two sides incomparable, each in words; those that the policy allows are left out.
    pub fn differences(&self, other: &Self, allowed: &[Difference]) -> Vec<String> {
        let mut found = Vec::new();
        if self.bank_hash != other.bank_hash {
            found.push(format!(
                "the item bank differs (SHA-256 {} and {})",
                short(&self.bank_hash),
                short(&other.bank_hash)
            ));
        }
        if self.probe_version != other.probe_version {
            found.push(format!(
                "items are asked, decoded and scored differently (probes of version {} and {})",
                self.probe_version, other.probe_version
            ));
        }
        let shared = || self.phases.iter().filter_map(|(name, phase)| Some((name, phase, other.phases.get(name)?)));
        let prompts = |phase: &BlessedPhase, theirs: &BlessedPhase| {
            phase.forms.iter().all(|(form, of)| theirs.forms.get(form).is_none_or(|other| other.prompts == of.prompts))
        };
        for difference in [Difference::Tokenizer, Difference::Template, Difference::Prompts] {
            let is_same = |phase: &BlessedPhase, theirs: &BlessedPhase| match difference {
                Difference::Tokenizer => phase.tokenizer == theirs.tokenizer,
                Difference::Template => phase.template == theirs.template,
                Difference::Prompts => prompts(phase, theirs),
            };
            let phases: Vec<&str> =
                shared().filter(|(_, ours, theirs)| !is_same(ours, theirs)).map(|(name, ..)| name.as_str()).collect();
            if !phases.is_empty() && !allowed.contains(&difference) {
                found.push(format!(
                    "the {} differ in {} (`allow-different = [\"{}\"]` in the policy compares all the same)",
                    difference.name(),
                    phases.join(", "),
                    difference.key()
                ));
            }
        }
        found
    }
}

impl Scored {
    /// The choice as a forecast, where there was one.
    pub(super) fn forecast(&self) -> Option<Forecast> {
        self.chosen.map(|it| Forecast { confidence: it.confidence, outcome: it.outcome })
    }
}

impl BlessedForm {
    fn of(answers: &[(&Item, &Response)]) -> Self {
        let prompts: BTreeMap<&str, &str> =
            answers.iter().map(|(item, response)| (item.id.as_str(), response.prompt.as_str())).collect();
        let scored = |(item, response): &(&Item, &Response)| {
            let chosen = response.score.zip(response.confidence).map(|(right, confidence)| {
                let ideal = crate::board::ideal(item).unwrap_or(1.0);
                Chosen { confidence: rounded(confidence), outcome: if right > 0.5 { ideal } else { 1.0 - ideal } }
            });
            (item.id.clone(), Scored { score: rounded(score(item, response).unwrap_or(0.0)), chosen })
        };
        Self {
            prompts: hash(&prompts.into_iter().flat_map(|(item, prompt)| [item, prompt]).collect::<Vec<_>>()),
            answers: answers.iter().map(scored).collect(),
        }
    }
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// Six digits: the file is read by people, and compared by them.
fn rounded(share: f64) -> f64 {
    (share * 1e6).round() / 1e6
}

/// SHA-256 of texts, each ended by a zero byte.
fn hash(texts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update(text.as_bytes());
        hasher.update([0]);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
