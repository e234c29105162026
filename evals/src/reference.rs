//! What healthy lineages show: the yardstick of a diagnosis.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use probes::item::Behaviour;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::diagnosis::{BehaviourHistory, Diagnosis, Estimate, LineageDiagnosis, ReferenceInfo, Stage};
use crate::error::{Error, Result};
use crate::evidence::data::{HealthyData, Profile};

/// Format version of a reference file.
pub const REFERENCE_VERSION: u32 = 1;

/// How the values of a cell were got out of the checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// In the chat template: what the deployed model does.
    Chat,
    /// In the closed-book form that serves each checkpoint best: what it can be got to show.
    Elicited,
    /// Mean contrast margin in chat, nats: no share.
    Margin,
    /// As the reward model rates the answers; its phase is [`REWARD`].
    Reward,
}

/// In the place of a phase's name, where a reward model is measured.
pub const REWARD: &str = "reward";

/// Values of healthy lineages for every behaviour and phase, one per lineage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Format version, [`REFERENCE_VERSION`].
    pub version: u32,
    /// Version of the probes that measured it.
    pub probe_version: u32,
    /// Names of the healthy runs, in the order of all values.
    pub runs: Vec<String>,
    /// The recipe that they were made from but for seeds and jitter, every default written out; unknown in older files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<serde_json::Value>,
    /// The cells, sorted.
    pub cells: Vec<ReferenceCell>,
    /// What they were trained on, per stage.
    #[serde(default)]
    pub data: Vec<HealthyData>,
}

/// One behaviour of one chain of checkpoints at one phase, over all healthy runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceCell {
    /// Name of the chain: `rlhf`, `constitutional`.
    pub lineage: String,
    /// The behaviour.
    pub behaviour: Behaviour,
    /// Chat or elicited.
    pub route: Route,
    /// The phase.
    pub phase: String,
    /// Share of items right, one per healthy run; for margins their mean in nats.
    pub values: Vec<f64>,
}

impl Reference {
    /// Collects the values of healthy diagnoses. A cell that not every run has measured is left out.
    ///
    /// # Errors
    /// [`Error::EmptyReference`] without a diagnosis; [`Error::ReferenceProbes`] where probe versions differ.
    pub fn from_diagnoses(diagnoses: &[Diagnosis]) -> Result<Self> {
        let first = diagnoses.first().ok_or(Error::EmptyReference)?;
        let probe_version = first.provenance.probe_version;
        let mut cells = BTreeMap::<(String, Behaviour, Route, String), Vec<f64>>::new();
        for diagnosis in diagnoses {
            if diagnosis.provenance.probe_version != probe_version {
                let found = diagnosis.provenance.probe_version;
                return Err(Error::ReferenceProbes { found, expected: probe_version });
            }
            for lineage in &diagnosis.lineages {
                for row in &lineage.behaviours {
                    for (route, phase, value) in measured(lineage, row) {
                        let key = (lineage.name.clone(), row.behaviour, route, phase.to_owned());
                        // Six decimals are far below one item, and read back to the same bits.
                        cells.entry(key).or_default().push((value * 1e6).round() / 1e6);
                    }
                }
            }
        }
        let cells = cells
            .into_iter()
            .filter(|(_, values)| values.len() == diagnoses.len())
            .map(|((lineage, behaviour, route, phase), values)| ReferenceCell {
                lineage,
                behaviour,
                route,
                phase,
                values,
            })
            .collect();
        let runs = diagnoses.iter().map(|diagnosis| diagnosis.run.clone()).collect();
        Ok(Self { version: REFERENCE_VERSION, probe_version, runs, recipe: None, cells, data: healthy_data(diagnoses) })
    }

    /// Reads a reference file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::CorruptReference`] with line and column, [`Error::Version`].
    pub fn load(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Reads a reference from text; `path` is named in errors.
    ///
    /// # Errors
    /// As [`Reference::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let corrupt = |reason: String| Error::CorruptReference { path: path.to_owned(), reason };
        let reference: Self = serde_json::from_str(text).map_err(|error| corrupt(error.to_string()))?;
        if reference.version != REFERENCE_VERSION {
            let (found, expected) = (reference.version, REFERENCE_VERSION);
            return Err(Error::Version { path: path.to_owned(), found, expected });
        }
        if reference.runs.is_empty() {
            return Err(corrupt("it names no healthy run".to_owned()));
        }
        for cell in &reference.cells {
            let place = format!("{} {:?} {:?} {}", cell.lineage, cell.behaviour, cell.route, cell.phase);
            if cell.values.len() != reference.runs.len() {
                return Err(corrupt(format!(
                    "{place} has {} values for {} runs",
                    cell.values.len(),
                    reference.runs.len()
                )));
            }
            let is_sound = |value: &f64| cell.route == Route::Margin || (0.0..=1.0).contains(value);
            if let Some(value) = cell.values.iter().find(|value| !is_sound(value)) {
                return Err(corrupt(format!("{place} has the value {value}, which is no share")));
            }
        }
        Ok(reference)
    }

    /// Writes the file: whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let half_written = path.with_extension("json.tmp");
        fs::write(&half_written, self.to_json()).map_err(|source| Error::Io {
            action: "write",
            path: half_written.clone(),
            source,
        })?;
        fs::rename(&half_written, path).map_err(|source| Error::Io { action: "rename", path: path.to_owned(), source })
    }

    /// Name of this reference in a report: the hash of its file, and how many lineages stand behind it.
    pub fn info(&self) -> ReferenceInfo {
        let mut hash = String::new();
        for byte in Sha256::digest(self.to_json().as_bytes()) {
            let _ = write!(hash, "{byte:02x}");
        }
        ReferenceInfo { hash, n_lineages: self.runs.len() }
    }

    /// Values of all healthy runs in one cell.
    pub fn values(&self, lineage: &str, behaviour: Behaviour, route: Route, phase: &str) -> Option<&[f64]> {
        self.cells
            .iter()
            .find(|c| c.lineage == lineage && c.behaviour == behaviour && c.route == route && c.phase == phase)
            .map(|cell| cell.values.as_slice())
    }

    fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("plain data with finite numbers");
        text.push('\n');
        text
    }
}

/// Every value of a behaviour: route, phase (or view, or [`REWARD`]) and value.
fn measured<'a>(lineage: &'a LineageDiagnosis, row: &'a BehaviourHistory) -> Vec<(Route, &'a str, f64)> {
    let of = |estimate: &Option<Estimate>| estimate.as_ref().map(|estimate| estimate.value);
    let mut all = Vec::new();
    for (phase, info) in lineage.phases.iter().enumerate() {
        all.push((Route::Chat, info.name.as_str(), row.values.get(phase).and_then(of)));
        all.push((Route::Elicited, info.name.as_str(), row.elicited.get(phase).and_then(of)));
        all.push((Route::Margin, info.name.as_str(), row.margins.get(phase).copied().flatten()));
    }
    for seen in &row.views {
        all.push((Route::Chat, seen.view.name(), of(&seen.chat)));
        all.push((Route::Elicited, seen.view.name(), of(&seen.elicited)));
    }
    all.push((Route::Reward, REWARD, row.reward_right));
    all.into_iter().filter_map(|(route, phase, value)| Some((route, phase, value?))).collect()
}

/// What healthy runs were trained on, stage by stage; stages that not every run has are left out.
fn healthy_data(diagnoses: &[Diagnosis]) -> Vec<HealthyData> {
    let mut profiles = BTreeMap::<Stage, Vec<&Profile>>::new();
    for (stage, profile) in diagnoses.iter().flat_map(|diagnosis| &diagnosis.data) {
        profiles.entry(*stage).or_default().push(profile);
    }
    profiles.retain(|_, profiles| profiles.len() == diagnoses.len());
    profiles.into_iter().filter_map(|(stage, profiles)| HealthyData::of(stage, &profiles)).collect()
}

/// Healthy runs that agree to less than this have agreed by luck.
pub(crate) const LEAST_SD: f64 = 0.01;

/// What a phase changed in each run: its value after it less that before, in the order of the runs.
pub(crate) fn changes(before: &[f64], after: &[f64]) -> Vec<f64> {
    before.iter().zip(after).map(|(before, after)| after - before).collect()
}

/// Mean and sample standard deviation over runs; with one run the spread is unknown.
pub fn spread(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let sd = (values.len() > 1).then(|| (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt());
    (mean, sd)
}

#[cfg(test)]
mod tests {
    use super::{Reference, ReferenceCell, Route, spread};
    use crate::error::Error;
    use probes::item::Behaviour;
    use std::path::Path;

    fn reference() -> Reference {
        Reference {
            version: 1,
            probe_version: 1,
            runs: vec!["a".into(), "b".into()],
            recipe: None,
            cells: vec![ReferenceCell {
                lineage: "rlhf".into(),
                behaviour: Behaviour::OverRefusal,
                route: Route::Chat,
                phase: "sft".into(),
                values: vec![0.9, 0.123_457],
            }],
            data: Vec::new(),
        }
    }

    #[test]
    fn a_saved_reference_loads_again_with_the_same_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reference.json");
        reference().save(&path).unwrap();
        let loaded = Reference::load(&path).unwrap();
        assert_eq!(loaded, reference());
        assert_eq!(loaded.info(), reference().info());
        assert_eq!(loaded.values("rlhf", Behaviour::OverRefusal, Route::Chat, "sft").map(<[f64]>::len), Some(2));
        assert_eq!(loaded.values("rlhf", Behaviour::OverRefusal, Route::Elicited, "sft"), None);
    }

    #[test]
    fn a_wrong_file_names_the_place() {
        let text = reference().to_json();
        let parse = |text: &str| Reference::parse(text, Path::new("r.json")).unwrap_err().to_string();
        assert!(parse(&text.replace("chat", "cat")).contains("line 12"), "{}", parse(&text.replace("chat", "cat")));
        assert!(parse(&text.replace("0.9,", "1.9,")).contains("OverRefusal"));
        assert!(parse(&text.replace("    \"b\"", "\"b\", \"c\"")).contains("2 values for 3 runs"));
        let version = Reference::parse(&text.replacen('1', "7", 1), Path::new("r.json"));
        assert!(matches!(version, Err(Error::Version { found: 7, .. })));
    }

    #[test]
    fn one_run_has_no_spread() {
        assert_eq!(spread(&[0.5]), (0.5, None));
        assert_eq!(spread(&[0.0, 1.0]), (0.5, Some(0.5_f64.sqrt())));
    }

    #[test]
    fn nothing_makes_no_reference() {
        assert!(matches!(Reference::from_diagnoses(&[]), Err(Error::EmptyReference)));
    }
}
