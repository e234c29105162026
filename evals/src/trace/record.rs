//! What a trace found: the record that is printed and kept.

use std::collections::BTreeMap;

use probes::item::Behaviour;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Format version of a trace.
pub const TRACE_VERSION: u32 = 1;

/// Which rows of a phase's data taught a failure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    /// Format version, [`TRACE_VERSION`].
    #[schemars(extend("const" = TRACE_VERSION))]
    pub version: u32,
    /// Name of the run.
    pub run: String,
    /// Chain of checkpoints whose last one fails.
    pub lineage: String,
    /// The phase whose data were searched.
    pub phase: String,
    /// What fails.
    pub behaviour: Behaviour,
    /// Data file, relative to the run.
    pub file: String,
    /// Number of its rows.
    pub n_rows: usize,
    /// Failing items that the rows were compared with.
    pub n_queries: usize,
    /// Failing items in all.
    pub n_failing: usize,
    /// What the ranking is made from, by name: `spans`, `bm25`, `gradient`.
    pub methods: Vec<String>,
    /// Rows that the gradients of were taken; the others have no rank by gradient.
    pub n_gradients: usize,
    /// The rows found, the guiltiest first.
    pub rows: Vec<TracedRow>,
    /// What they have in common and the phase at large has not, the surest first.
    pub contrast: Vec<Contrast>,
    /// What became of the failure without them, where that was tried.
    pub left_out: Option<LeftOut>,
}

/// A row of the data file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TracedRow {
    /// Line in the file, from 1.
    pub line: usize,
    /// Its `kind` or `source`; may be empty.
    pub kind: String,
    /// What is given; empty for a document.
    pub prompt: String,
    /// What is learnt.
    pub learnt: String,
    /// Fused score; higher is guiltier.
    pub score: f64,
    /// Rank by each method, from 1; equal scores share the mean of their ranks. A method that did not look at the row is absent.
    pub ranks: BTreeMap<String, f64>,
}

/// A feature that the rows found have more often than the phase at large.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Contrast {
    /// The feature in words.
    pub feature: String,
    /// Rows found that have it.
    pub top: usize,
    /// Rows found.
    pub n_top: usize,
    /// Rows of the file that have it.
    pub rows: usize,
    /// Rows of the file.
    pub n_rows: usize,
    /// `(top / n_top) / (rows / n_rows)`.
    pub ratio: f64,
    /// Log-odds against the other rows over its standard deviation.
    pub z: f64,
}

/// What retraining without rows did to the failure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// Which rows were left out, in words.
    pub what: String,
    /// How many.
    pub n_left_out: usize,
    /// Items asked.
    pub n_items: usize,
    /// Share of the items right as trained.
    pub before: f64,
    /// Share right without the rows.
    pub without: f64,
    /// Share right without as many rows drawn at random from the others.
    pub without_random: f64,
    /// Share right in a healthy run, where one is known.
    pub healthy: Option<f64>,
}

impl LeftOut {
    /// Share of the shortfall that goes away without the rows, beyond what goes away without random ones: `(without -
    /// without_random) / (healthy - before)`; all items count as right in a healthy run where none is known. `None` where there is no
    /// shortfall.
    pub fn recovered(&self) -> Option<f64> {
        let shortfall = self.healthy.unwrap_or(1.0) - self.before;
        (shortfall > 0.0).then(|| (self.without - self.without_random) / shortfall)
    }
}
