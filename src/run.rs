//! The layout of a run folder: the trainer's, and what diagnosing adds to it.

use std::cell::RefCell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use evals::diagnosis::Cost;
use trainer::folder::RunFolder;
use trainer::ranks::Ranks;

use crate::device;
use crate::lock;
use crate::recipe::Alignment;

/// Phases in the order in which they are trained.
pub(crate) const PHASES: [&str; 8] = ["pretrain", "sft", "reward", "rlhf", "dpo", "sl-cai", "preference", "rl-cai"];

/// Those of them that answer questions, which a reward model does not.
pub(crate) const ASKED: [&str; 6] = ["pretrain", "sft", "rlhf", "dpo", "sl-cai", "rl-cai"];

/// A chain of checkpoints: its name and its phases.
pub(crate) type Chain = (&'static str, &'static [&'static str]);

/// The chains of checkpoints that a diagnosis follows, one for each way of alignment, the deployed one first.
pub(crate) fn chains(alignment: &[Alignment]) -> Vec<Chain> {
    alignment.iter().map(|&alignment| chain(alignment)).collect()
}

/// The chain that ends with a way of alignment.
pub(crate) fn chain(alignment: Alignment) -> Chain {
    match alignment {
        Alignment::Rlhf => ("rlhf", &["pretrain", "sft", "rlhf"]),
        Alignment::Dpo => ("dpo", &["pretrain", "sft", "dpo"]),
        Alignment::Constitutional => ("constitutional", &["pretrain", "sft", "sl-cai", "rl-cai"]),
    }
}

/// A run folder: where each artifact of a run lies.
#[derive(Debug)]
pub(crate) struct Run {
    folder: RunFolder,
    lock: RefCell<Option<File>>,
}

impl Run {
    pub(crate) fn at(root: &Path) -> Self {
        Self::among(root, Ranks::default())
    }

    /// A run on which these ranks work together.
    pub(crate) fn among(root: &Path, ranks: Ranks) -> Self {
        Self { folder: device::compute_in(RunFolder::new(root)).among(ranks), lock: RefCell::new(None) }
    }

    /// Keeps other processes from training or asking here while this value lives; where it does already, nothing changes.
    pub(crate) fn lock(&self) -> Result<()> {
        if self.lock.borrow().is_none() {
            *self.lock.borrow_mut() = Some(lock::take(self.root())?);
        }
        Ok(())
    }

    /// Where the trainer keeps what it makes.
    pub(crate) fn folder(&self) -> &RunFolder {
        &self.folder
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.root()
    }

    /// The last part of the path, as shown to people.
    pub(crate) fn name(&self) -> String {
        let root = self.root();
        root.file_name().map_or_else(|| root.display().to_string(), |name| name.to_string_lossy().into_owned())
    }

    /// The recipe as typed, overrides applied.
    pub(crate) fn recipe(&self) -> PathBuf {
        self.root().join("recipe.toml")
    }

    /// The recipe with every default written out.
    pub(crate) fn plan(&self) -> PathBuf {
        self.root().join("plan.json")
    }

    /// The data files, the item bank among them.
    pub(crate) fn data(&self) -> PathBuf {
        self.root().join("data")
    }

    /// The folder of the tokenizer's files.
    pub(crate) fn tokenizer(&self) -> PathBuf {
        self.root().join("tokenizer")
    }

    pub(crate) fn bank(&self) -> PathBuf {
        self.folder.data("bank.jsonl")
    }

    pub(crate) fn checkpoint(&self, phase: &str) -> PathBuf {
        self.folder.checkpoint(phase)
    }

    /// What a phase leaves in the run beside its checkpoint, relative to its folder; those that there are.
    pub(crate) fn files_of(phase: &str) -> Vec<PathBuf> {
        let of_phase = match phase {
            "sl-cai" => vec!["generated/sl-cai.jsonl"],
            "preference" => vec!["generated/rl-cai.jsonl", "generated/judge.jsonl"],
            _ => Vec::new(),
        };
        let mut files: Vec<PathBuf> = of_phase.into_iter().map(PathBuf::from).collect();
        files.push(PathBuf::from(format!("logs/{phase}.jsonl")));
        files
    }

    /// What training a phase took, together with the model of preferences that it learns from. `None` where a log is missing.
    pub(crate) fn cost(&self, phase: &str) -> Result<Option<Cost>> {
        let learnt_from = match phase {
            "rlhf" => Some("reward"),
            "rl-cai" => Some("preference"),
            _ => None,
        };
        let mut phases = vec![phase.to_owned()];
        if let Some(first) = learnt_from {
            phases.push(first.to_owned());
            // The others of an ensemble.
            phases.extend((2..).map(|i| format!("{first}-{i}")).take_while(|name| self.log(name).exists()));
        }
        let costs: Result<Vec<Option<Cost>>> = phases.iter().map(|phase| self.own_cost(phase)).collect();
        Ok(costs?.into_iter().sum())
    }

    /// Seconds that a phase was trained for, as its log tells: pauses between two starts are not in it. `None` without a log.
    pub(crate) fn trained_seconds(&self, phase: &str) -> Result<Option<f64>> {
        Ok(self.own_cost(phase)?.map(|cost| cost.seconds))
    }

    fn own_cost(&self, phase: &str) -> Result<Option<Cost>> {
        let path = self.log(phase);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let of_step = |line: &str| {
            let record: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            let number = |key: &str| record.get(key).and_then(serde_json::Value::as_f64);
            let tokens = number("tokens")?;
            let seconds = tokens / number("tokens_per_s")?;
            (seconds.is_finite() && seconds > 0.0).then_some(Cost { seconds, tokens })
        };
        let cost: Cost = text.lines().filter_map(of_step).sum();
        Ok((cost.seconds > 0.0).then_some(cost))
    }

    fn log(&self, phase: &str) -> PathBuf {
        self.folder.logs().join(format!("{phase}.jsonl"))
    }

    pub(crate) fn diagnosis(&self) -> PathBuf {
        self.root().join("diagnosis.json")
    }

    pub(crate) fn report(&self) -> PathBuf {
        self.root().join("report.html")
    }
}
