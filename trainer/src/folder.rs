//! Where a run keeps what it makes.

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFolder {
    root: PathBuf,
}

impl RunFolder {
    /// The run at `root`; nothing is read or created.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
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
