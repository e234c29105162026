//! Streams of evidence about which stage produced a failure.
//!
//! Each stream gives numbers for the stages of a lineage, all in the same direction: the larger, the guiltier. What a stream cannot
//! see stands at the head of its module; the verdict weighs them together, with weights learnt on planted faults.

pub mod coalition;
pub mod data;
mod margin;
mod relearn;
pub mod reward;
mod shortfall;
mod strength;
pub(crate) mod together;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::attribution::Case;
use crate::contribution::Part;
use crate::diagnosis::Stage;
use crate::path::Path;

/// Numbers by name, for each stage; what was not measured is left out.
pub type Candidates = BTreeMap<Stage, BTreeMap<String, f64>>;

/// What one stream says of one failure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    /// The stream.
    pub stream: String,
    /// What its numbers are, with their unit.
    pub what: String,
    /// What it cannot see.
    pub blind_to: String,
    /// One number per stage that it speaks of.
    #[schemars(schema_with = "crate::schema::keyed::<Stage, f64>")]
    pub parts: BTreeMap<Stage, f64>,
}

/// What the streams say together.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Evidence {
    /// For the verdict model.
    pub(crate) candidates: Candidates,
    /// For readers.
    pub(crate) readings: Vec<Reading>,
}

impl Evidence {
    /// Takes in what a stream says: its reading, and under which name the model knows it.
    fn add(&mut self, feature: &str, reading: Reading) {
        self.put(feature, &reading.parts);
        self.readings.push(reading);
    }

    fn put(&mut self, feature: &str, parts: &BTreeMap<Stage, f64>) {
        for (stage, value) in parts.iter().filter(|(_, value)| value.is_finite()) {
            self.candidates.entry(*stage).or_default().insert(feature.to_owned(), *value);
        }
    }
}

/// Collects what all streams say of a case whose shortfall is taken apart along `path` into `parts`.
pub(crate) fn collect(case: &Case, path: &Path, parts: &[Part]) -> Evidence {
    let mut evidence = Evidence::default();
    shortfall::read(case, path, parts, &mut evidence);
    margin::read(case, &mut evidence);
    coalition::read(case, path, &mut evidence);
    strength::read(case, &mut evidence);
    relearn::read(case, &mut evidence);
    data::read(case, &mut evidence);
    reward::read(case, &mut evidence);
    evidence
}

/// Ratios are bounded: a small shortfall makes them large and says little.
fn bounded(value: f64) -> f64 {
    value.clamp(-3.0, 3.0)
}
