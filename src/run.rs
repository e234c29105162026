//! The layout of a run folder: the trainer's, and what diagnosing adds to it.

use std::path::{Path, PathBuf};

use trainer::folder::RunFolder;

/// Phases in the order in which they are trained.
pub(crate) const PHASES: [&str; 7] = ["pretrain", "sft", "reward", "rlhf", "sl-cai", "preference", "rl-cai"];

/// A run folder: where each artifact of a run lies.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    folder: RunFolder,
}

impl Run {
    pub(crate) fn at(root: &Path) -> Self {
        Self { folder: RunFolder::new(root) }
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.root()
    }

    /// The recipe as typed, overrides applied.
    pub(crate) fn recipe(&self) -> PathBuf {
        self.root().join("recipe.toml")
    }

    pub(crate) fn checkpoint(&self, phase: &str) -> PathBuf {
        self.folder.checkpoint(phase)
    }

    pub(crate) fn diagnosis(&self) -> PathBuf {
        self.root().join("diagnosis.json")
    }

    pub(crate) fn report(&self) -> PathBuf {
        self.root().join("report.html")
    }
}
