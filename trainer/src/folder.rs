//! Where a run keeps what it makes, and where that is computed.

use crate::data::{self, DataFile, Line};
use crate::error::Result;
use crate::ranks::Ranks;
use lm::checkpoint::Checkpoint;
use lm::decoder::Decoder;
use lm::device::{Device, training_dtype};
use serde::Serialize;
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
/// Phases are computed on the CPU unless the folder says otherwise; checkpoints lie on disk in f32 and in memory on the CPU either way.
/// Several ranks may work on a run together; then rank 0 writes, and all read.
#[derive(Debug, Clone)]
pub struct RunFolder {
    root: PathBuf,
    device: Device,
    recomputes: bool,
    ranks: Ranks,
}

impl RunFolder {
    /// The run at `root`; nothing is read or created.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), device: Device::Cpu, recomputes: false, ranks: Ranks::default() }
    }

    /// The same run, its phases computed on a device.
    #[must_use]
    pub fn on(self, device: Device) -> Self {
        Self { device, ..self }
    }

    /// The same run, whose phases compute activations again in the backward pass where `recomputes`, rather than keep them for it.
    #[must_use]
    pub fn recomputing(self, recomputes: bool) -> Self {
        Self { recomputes, ..self }
    }

    /// The same run, on which these ranks work together.
    #[must_use]
    pub fn among(self, ranks: Ranks) -> Self {
        Self { ranks, ..self }
    }

    /// A decoder over a checkpoint as the phases of the run compute with it, without gradients.
    ///
    /// # Errors
    /// Where memory for it lacks on the device.
    pub(crate) fn decoder(&self, checkpoint: &Checkpoint) -> Result<Decoder> {
        Ok(checkpoint.decoder(&self.device)?.computing_in(training_dtype(&self.device)))
    }

    /// Where phases are computed.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether activations are computed again in the backward pass.
    pub fn recomputes(&self) -> bool {
        self.recomputes
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

    /// What a phase has the model write, kept under a name: rank 0 has it made and writes it, and the others read it.
    ///
    /// # Errors
    /// What `make` returned, or where the file cannot be written or read.
    pub(crate) fn generate<T: Line + Serialize>(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<Vec<T>>,
    ) -> Result<DataFile<T>> {
        let path = self.generated(name);
        let made = self.ranks.on_first(|| -> Result<_> {
            let items = make()?;
            Ok(DataFile {
                path: path.clone(),
                hash: data::write(&path, &items)?,
                lines: (1..=items.len()).collect(),
                items,
            })
        })?;
        made.map_or_else(|| data::read(&path), Ok)
    }

    /// The logs of all phases.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }
}
