//! Where a run keeps what it makes.

use crate::ranks::Ranks;
use std::path::{Path, PathBuf};

/// The folder of a run.
///
/// ```text
/// recipe.toml  plan.json         what was asked, as typed and resolved
/// data/                          corpus, conversations, comparisons, prompts, constitution, items
/// tokenizer/tokenizer.json
/// checkpoints/PHASE/             the outcome of a phase; appears whole or not at all
/// steps/PHASE/000500/            an intermediate checkpoint; the newest also holds the state to resume from
/// generated/sl-cai.jsonl         critiques, revisions and comparisons that the model wrote itself
/// logs/PHASE.jsonl  logs/tb/     one record per step
/// ```
/// Several ranks may work on a run together; then rank 0 writes, and all read.
#[derive(Debug, Clone)]
pub struct RunFolder {
    root: PathBuf,
    ranks: Ranks,
}

impl RunFolder {
    /// The run at `root`; nothing is read or created.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self::among(root, Ranks::default())
    }

    /// The run at `root`, on which these ranks work together.
    pub fn among(root: impl Into<PathBuf>, ranks: Ranks) -> Self {
        Self { root: root.into(), ranks }
    }

    /// Who works on the run.
    pub fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A data file, such as `corpus.jsonl`.
    pub fn data(&self, name: &str) -> PathBuf {
        self.root.join("data").join(name)
    }

    /// The outcome of a phase.
    pub fn checkpoint(&self, phase: &str) -> PathBuf {
        self.root.join("checkpoints").join(phase)
    }

    /// The intermediate checkpoints of a phase.
    pub fn steps(&self, phase: &str) -> PathBuf {
        self.root.join("steps").join(phase)
    }

    /// What a phase had the model write, such as `sl-cai.jsonl`.
    pub fn generated(&self, name: &str) -> PathBuf {
        self.root.join("generated").join(name)
    }

    /// The logs of all phases.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }
}
