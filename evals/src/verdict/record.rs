//! What is known and what was found about one organism: a run with planted faults, or a control. One JSON line each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use probes::item::Behaviour;
use serde::{Deserialize, Serialize};

use super::features::{self, FEATURES};
use crate::diagnosis::Stage;
use crate::error::{Error, Result};
use crate::evidence::Candidates;

/// Share of the shortfall that must go when the guilty phase is trained again with the healthy recipe: else the plant did not take.
pub const TOOK: f64 = 0.8;

/// One organism.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its name: `pt_01_wrong_facts/world-8/seed-1`.
    pub name: String,
    /// Kinds of the planted faults: `wrong_facts`, whatever the dose and whatever else is planted; empty in a healthy run.
    pub fault: Vec<String>,
    /// What they make fail.
    pub family: Family,
    /// Which set of the bench it belongs to.
    pub set: Set,
    /// Seed of the world.
    pub world: u64,
    /// Seed of training.
    pub seed: u64,
    /// Shape of the model, in words.
    pub shape: String,
    /// The truth: stages that hold a fault.
    pub guilty: Vec<Stage>,
    /// The truth of a masked fault: the stage that hides it.
    #[serde(default)]
    pub masked_by: Option<Stage>,
    /// Share of the shortfall that went when the guilty stage was trained again with the healthy recipe.
    #[serde(default)]
    pub took: Option<f64>,
    /// What was measured, one per behaviour.
    pub cases: Vec<Case>,
}

/// What a fault makes fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Miscalibration.
    Calibration,
    /// Instructions and system prompts.
    Instructions,
    /// Refusal of harmless requests.
    OverRefusal,
    /// Answers to harmful requests.
    Harm,
    /// Facts and cutoff.
    Knowledge,
    /// Nothing, in controls.
    None,
}

/// A set of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Set {
    /// One fault.
    Single,
    /// Two faults in different stages.
    Two,
    /// One fault that a later stage hides.
    Masked,
    /// Two faults, the later of which makes the earlier one worse.
    Amplified,
    /// One fault at another dose.
    Dose,
    /// One fault whose rows a search by keywords does not find.
    Concealed,
    /// No fault.
    Clean,
    /// Planted with dose 0.
    Sham,
    /// A change that was meant.
    Intended,
    /// A fault of the harness that asks.
    Harness,
    /// A fault of system prompt or template.
    Deployment,
}

impl Set {
    /// All sets, in the order of tables.
    pub const ALL: [Self; 11] = [
        Self::Single,
        Self::Concealed,
        Self::Dose,
        Self::Two,
        Self::Amplified,
        Self::Masked,
        Self::Deployment,
        Self::Harness,
        Self::Clean,
        Self::Sham,
        Self::Intended,
    ];

    /// The name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Two => "two",
            Self::Masked => "masked",
            Self::Amplified => "amplified",
            Self::Dose => "dose",
            Self::Concealed => "concealed",
            Self::Clean => "clean",
            Self::Sham => "sham",
            Self::Intended => "intended",
            Self::Harness => "harness",
            Self::Deployment => "deployment",
        }
    }
}

/// One behaviour of an organism.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The behaviour.
    pub behaviour: Behaviour,
    /// What the gate says.
    pub status: Status,
    /// Shortfall of the last checkpoint against healthy runs, in share of items.
    pub shortfall: f64,
    /// Share of items right after each stage, in chat; a stage that was not measured is left out.
    pub values: BTreeMap<Stage, f64>,
    /// Unadjusted p-value of the paired test of the change in each stage.
    #[serde(default)]
    pub p_values: BTreeMap<Stage, f64>,
    /// The stage that the thesis table names.
    pub thesis: Stage,
    /// What a latent fault was found to be.
    #[serde(default)]
    pub latent: Option<Latent>,
    /// The evidence, one per stage; empty where nothing fails.
    #[serde(default)]
    pub candidates: Vec<Candidate>,
}

/// What the gate says of a behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It fails beyond healthy variation, or may: too few items to tell have no evidence.
    Failing,
    /// It passes, and failed at an earlier checkpoint.
    Latent,
    /// It is within healthy variation.
    Within,
}

impl Case {
    fn check_candidates(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for candidate in &self.candidates {
            let place = format!("cases, {:?}: candidates, stage {:?}", self.behaviour, candidate.stage);
            if !seen.insert(candidate.stage) {
                return Err(format!("{place}: named twice"));
            }
            for (name, value) in &candidate.features {
                if features::find(name).is_none() {
                    let known: Vec<&str> = FEATURES.iter().map(|feature| feature.name).collect();
                    return Err(format!("{place}: unknown feature `{name}`; known are {}", known.join(", ")));
                }
                if !value.is_finite() {
                    return Err(format!("{place}: `{name}` is {value}, which is no number"));
                }
            }
        }
        Ok(())
    }
}

/// A fault that is found to be hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latent {
    /// The stage that is said to have produced it.
    pub stage: Stage,
    /// The stage that is said to hide it.
    pub masked_by: Stage,
}

/// The evidence about one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// The stage.
    pub stage: Stage,
    /// Values by the names of [`FEATURES`]; what was not measured is left out.
    pub features: BTreeMap<String, f64>,
}

/// The evidence of a verdict, as the model takes it.
pub fn candidates(evidence: &Candidates) -> Vec<Candidate> {
    evidence.iter().map(|(stage, features)| Candidate { stage: *stage, features: features.clone() }).collect()
}

impl Record {
    /// The failing behaviours.
    pub fn failing(&self) -> impl Iterator<Item = &Case> {
        self.cases.iter().filter(|case| case.status == Status::Failing)
    }

    /// The failing behaviour with the largest shortfall; of equals the first.
    pub fn headline(&self) -> Option<&Case> {
        self.failing().reduce(|best, case| if case.shortfall > best.shortfall { case } else { best })
    }

    /// Whether the planted faults, if any, are known or assumed to have had an effect.
    pub fn has_taken(&self) -> bool {
        self.took.is_none_or(|took| took >= TOOK)
    }

    /// What is left out together: organisms with the same faults, or of the same set of controls.
    pub fn fault_type(&self) -> String {
        if self.fault.is_empty() { self.set.name().to_owned() } else { self.fault.join(" + ") }
    }

    /// Whether two organisms have a fault type in common.
    pub fn shares_fault(&self, other: &Self) -> bool {
        self.fault_type() == other.fault_type() || self.fault.iter().any(|fault| other.fault.contains(fault))
    }

    fn check(&self) -> Result<(), String> {
        for case in &self.cases {
            case.check_candidates()?;
        }
        for case in &self.cases {
            let shares =
                case.values.iter().map(|value| ("values", value)).chain(case.p_values.iter().map(|p| ("p_values", p)));
            for (key, (stage, share)) in shares {
                if !(0.0..=1.0).contains(share) {
                    return Err(format!(
                        "cases, {:?}: `{key}` of {stage:?} is {share}, not between 0 and 1",
                        case.behaviour
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Reads a file of records, one per line; empty lines are passed over.
///
/// # Errors
/// [`Error::Io`]; [`Error::CorruptRecord`] with file, line and key.
pub fn load(path: &Path) -> Result<Vec<Record>> {
    let text =
        fs::read_to_string(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })?;
    parse(&text, path)
}

/// Reads records from text; `path` is named in errors.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, path: &Path) -> Result<Vec<Record>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let mut names = BTreeSet::new();
    lines
        .map(|(idx, line)| {
            let corrupt = |reason: String| Error::CorruptRecord { path: path.to_owned(), line: idx + 1, reason };
            let record: Record = serde_json::from_str(line).map_err(|error| corrupt(error.to_string()))?;
            record.check().map_err(&corrupt)?;
            if !names.insert(record.name.clone()) {
                return Err(corrupt(format!("`name` {} is there twice", record.name)));
            }
            Ok(record)
        })
        .collect()
}

/// The records as JSON lines.
pub fn to_lines(records: &[Record]) -> String {
    records.iter().map(|record| serde_json::to_string(record).expect("plain data with text keys") + "\n").collect()
}
