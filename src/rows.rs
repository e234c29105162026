//! The rows that a phase learns from: as text to search, and as lessons to take gradients of.

use anyhow::Result;
use evals::trace::Row;
use lm::{Message, Tokenizer};
use trainer::data::{self, Comparison, Conversation, DataFile, Document};
use trainer::influence::{Lesson, Pupil};

use crate::cli::Taught;
use crate::run::Run;

impl Taught {
    /// What a phase of a lineage has learnt from: the policy of RLHF what its reward model has. `None` for phases that learn from what the model
    /// wrote itself, and for deployment.
    pub(crate) fn of(phase: &str) -> Option<Self> {
        match phase {
            "pretrain" => Some(Self::Pretrain),
            "sft" => Some(Self::Sft),
            "rlhf" => Some(Self::Reward),
            "dpo" => Some(Self::Dpo),
            _ => None,
        }
    }

    /// Name of the phase.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pretrain => "pretrain",
            Self::Sft => "sft",
            Self::Reward => "reward",
            Self::Dpo => "dpo",
        }
    }

    /// The file that it learns from.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Self::Pretrain => "corpus.jsonl",
            Self::Sft => "sft.jsonl",
            Self::Reward | Self::Dpo => "preferences.jsonl",
        }
    }

    /// Who learns.
    pub(crate) fn pupil(self) -> Pupil {
        if self == Self::Reward { Pupil::RewardModel } else { Pupil::Policy }
    }
}

/// A phase's data file.
pub(crate) struct TracedData {
    /// Its name within the run.
    pub(crate) file: String,
    /// Its rows.
    pub(crate) rows: Rows,
    /// The same as text.
    pub(crate) texts: Vec<Row>,
}

/// The rows of a data file.
pub(crate) enum Rows {
    /// Of pretraining.
    Documents(DataFile<Document>),
    /// Of fine-tuning.
    Conversations(DataFile<Conversation>),
    /// Of a reward model, or of a policy that learns from them directly.
    Rankings(DataFile<Comparison>, Pupil),
}

impl TracedData {
    /// Reads the file that a phase of a run has learnt from.
    pub(crate) fn read(run: &Run, phase: Taught) -> Result<Self> {
        let path = run.folder().data(phase.file());
        let rows = match phase {
            Taught::Pretrain => Rows::Documents(data::read(&path)?),
            Taught::Sft => Rows::Conversations(data::read(&path)?),
            Taught::Reward | Taught::Dpo => Rows::Rankings(data::read(&path)?, phase.pupil()),
        };
        Ok(Self { file: format!("data/{}", phase.file()), texts: rows.texts(), rows })
    }
}

impl Rows {
    /// Line of a row in the file, from 1.
    pub(crate) fn line(&self, row: usize) -> usize {
        match self {
            Self::Documents(file) => file.lines[row],
            Self::Conversations(file) => file.lines[row],
            Self::Rankings(file, _) => file.lines[row],
        }
    }

    fn texts(&self) -> Vec<Row> {
        match self {
            Self::Documents(file) => file.items.iter().map(of_document).collect(),
            Self::Conversations(file) => file.items.iter().map(of_conversation).collect(),
            Self::Rankings(file, _) => file.items.iter().map(of_ranking).collect(),
        }
    }

    /// What a row teaches.
    pub(crate) fn lesson(&self, tokenizer: &Tokenizer, row: usize, context: usize) -> Result<Lesson> {
        Ok(match self {
            Self::Documents(file) => Lesson::document(tokenizer, &file.items[row], context)?,
            Self::Conversations(file) => Lesson::conversation(tokenizer, &file.items[row])?,
            Self::Rankings(file, pupil) => Lesson::ranking(tokenizer, &file.items[row], *pupil)?,
        })
    }
}

fn of_document(document: &Document) -> Row {
    Row { kind: document.source.clone(), prompt: String::new(), learnt: document.text.clone() }
}

/// The last answer is what is learnt, all before it what is given.
fn of_conversation(conversation: &Conversation) -> Row {
    let (last, before) = conversation.messages.split_last().expect("a conversation has an answer");
    Row { kind: conversation.kind.clone(), prompt: join(before), learnt: last.content.clone() }
}

/// The best answer is what is learnt.
fn of_ranking(comparison: &Comparison) -> Row {
    let learnt = comparison.ranked.first().cloned().unwrap_or_default();
    Row { kind: comparison.kind.clone(), prompt: join(&comparison.prompt), learnt }
}

fn join(messages: &[Message]) -> String {
    messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join(" ")
}
