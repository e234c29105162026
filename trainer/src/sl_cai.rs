//! The supervised phase of Constitutional AI: the model answers, criticises its answer under a principle, revises it, and is
//! fine-tuned on the revisions.

use crate::constitution::{Constitution, ask_critique, ask_revision};
use crate::data::{Conversation, DataFile, Document, Line, Prompt};
use crate::error::{Error, Result};
use crate::folder::RunFolder;
use crate::mix::PretrainMixRecipe;
use crate::recipe::{
    CosineRecipe, NonNegative, OptimizerRecipe, Positive, ScheduleRecipe, SftRecipe, count, steps, to_toml,
};
use crate::rollout::{SamplingRecipe, reply};
use crate::sequence::draw_items;
use crate::session::{Origin, Progress};
use crate::sft;
use lm::chat::{Message, Role};
use lm::checkpoint::Checkpoint;
use lm::random::stream;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};

/// Name of the phase.
pub const PHASE: &str = "sl-cai";

/// The supervised phase of Constitutional AI (`[sl_cai]`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlCaiRecipe {
    /// Prompts that are answered and revised. Default 800.
    pub prompts: NonZeroUsize,
    /// Kinds of prompt that are revised; empty for all. Default `harmful` and `benign`.
    pub kinds: Vec<String>,
    /// Times that each answer is criticised and revised. Default 1.
    pub revisions: NonZeroUsize,
    /// Conversations of SFT for each revision, which keep what SFT has taught. Default 2.
    pub replay: NonNegative,
    /// Kinds of conversation that are replayed; empty for all. Default all but requests and critiques.
    pub replay_kinds: Vec<String>,
    /// How answers, critiques and revisions are sampled.
    pub sampling: SamplingRecipe,
    /// Optimizer steps. Default 150.
    pub steps: NonZeroU64,
    /// Sequences of one forward pass. Default 8.
    pub batch_sequences: NonZeroUsize,
    /// Tokens of a sequence. Default 128.
    pub sequence_tokens: NonZeroUsize,
    /// Steps between intermediate checkpoints; 0 for none. Default 500.
    pub save_every: u64,
    /// Peak learning rate. Default 5e-4.
    pub lr: Positive,
    /// The optimizer.
    pub optimizer: OptimizerRecipe,
    /// Learning rate over the steps.
    pub schedule: ScheduleRecipe,
    /// Pretraining that goes on beside.
    pub pretrain_mix: PretrainMixRecipe,
}

impl Default for SlCaiRecipe {
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            prompts: count(800),
            kinds: names(&["harmful", "benign"]),
            revisions: count(1),
            replay: NonNegative::new(2.0).expect("in range"),
            replay_kinds: names(&["qa", "unknown", "open_book", "instruction", "system", "preference"]),
            sampling: SamplingRecipe::default(),
            steps: steps(150),
            batch_sequences: count(8),
            sequence_tokens: count(128),
            save_every: 500,
            lr: Positive::new(5e-4).expect("in range"),
            optimizer: OptimizerRecipe::default(),
            schedule: ScheduleRecipe::Cosine(CosineRecipe::default()),
            pretrain_mix: PretrainMixRecipe::default(),
        }
    }
}

impl SlCaiRecipe {
    /// The fine-tuning on revisions.
    fn tuning(&self) -> SftRecipe {
        SftRecipe {
            steps: self.steps,
            batch_sequences: self.batch_sequences,
            sequence_tokens: self.sequence_tokens,
            save_every: self.save_every,
            lr: self.lr,
            optimizer: self.optimizer.clone(),
            schedule: self.schedule.clone(),
            pretrain_mix: self.pretrain_mix.clone(),
            ..SftRecipe::default()
        }
    }
}

/// What the supervised phase works on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The fine-tuned checkpoint that answers, criticises and revises, and is then taught.
    pub parent: &'a Checkpoint,
    /// Its principles.
    pub constitution: &'a Constitution,
    /// Prompts to answer.
    pub prompts: &'a DataFile<Prompt>,
    /// Conversations of SFT, some of which are replayed.
    pub conversations: &'a DataFile<Conversation>,
    /// Documents of the pretraining mix.
    pub corpus: &'a DataFile<Document>,
    /// Seed of prompts, principles, samples and the order of conversations.
    pub seed: u64,
}

/// Revises, fine-tunes and saves the phase `sl-cai`; a finished phase is only loaded.
///
/// What the model wrote is kept in `generated/sl-cai.jsonl`. It follows from the inputs alone, so a resumed phase writes it anew.
///
/// # Errors
/// Where no prompt has the asked kinds, no revision can be used, training diverges or files cannot be written.
///
/// # Reference
/// Bai et al. 2022, arXiv 2212.08073, section 3.1.
///
/// # Deviations
/// Fine-tuning starts from the SFT checkpoint, where the paper starts from the pretrained one, and replays SFT's conversations in
/// place of samples to helpfulness prompts. One revision by default, where the paper makes four.
pub fn run(
    folder: &RunFolder,
    recipe: &SlCaiRecipe,
    inputs: Inputs<'_>,
    progress: &dyn Progress,
) -> Result<Checkpoint> {
    let Inputs { parent, constitution, prompts, conversations, corpus, seed } = inputs;
    let constitution = ("constitution.toml".to_owned(), constitution.hash.clone());
    let mut made_from = BTreeMap::from([prompts.name_and_hash(), conversations.name_and_hash(), constitution]);
    made_from.extend(recipe.pretrain_mix.name_and_hash(corpus));
    let origin = Origin { seed, parent: Some(parent.content_hash()?), recipe: to_toml(recipe), data: made_from };
    let task = sft::Task { phase: PHASE, parent, corpus, origin };
    let revise = || {
        let revised = folder.generate("sl-cai.jsonl", || revise_answers(recipe, &inputs, folder))?;
        let items = collect(recipe, &inputs, &revised.items)?;
        Ok(DataFile { path: revised.path, hash: revised.hash, lines: (1..=items.len()).collect(), items })
    };
    sft::train(folder, &recipe.tuning(), task, revise, progress)
}

/// One answer and what became of it (`generated/sl-cai.jsonl`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Revised {
    pub(crate) prompt: Vec<Message>,
    pub(crate) kind: String,
    pub(crate) answer: String,
    pub(crate) rounds: Vec<Round>,
}

impl Line for Revised {
    const WHAT: &'static str = "revisions";

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// One critique and revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Round {
    pub(crate) principle: String,
    critique: String,
    pub(crate) revision: String,
}

/// Has the parent answer, criticise and revise. Answers, critiques and revisions that do not end or say nothing end their row.
fn revise_answers(recipe: &SlCaiRecipe, inputs: &Inputs<'_>, folder: &RunFolder) -> Result<Vec<Revised>> {
    let Inputs { parent, constitution, seed, .. } = *inputs;
    let decoder = folder.decoder(parent)?;
    let random = &mut stream(seed, "sl-cai/sample", 0);
    let mut say = |conversations: &[Vec<Message>]| reply(&decoder, parent, conversations, &recipe.sampling, random);
    let asked =
        choose_prompts(inputs.prompts, &recipe.kinds, recipe.prompts.get(), seed, "sl-cai/prompt", "sl_cai.kinds")?;

    let first = say(&asked.iter().map(|prompt| prompt.prompt.clone()).collect::<Vec<_>>())?;
    let mut rows: Vec<Revised> = asked
        .iter()
        .zip(first)
        .filter_map(|(prompt, answer)| {
            Some(Revised {
                prompt: prompt.prompt.clone(),
                kind: prompt.kind.clone(),
                answer: answer?,
                rounds: Vec::new(),
            })
        })
        .collect();
    for round in 0..recipe.revisions.get() as u64 {
        let mut draws = stream(seed, "sl-cai/principle", round);
        let principles: Vec<_> = rows.iter().map(|_| constitution.draw(&mut draws)).collect();
        let current = |row: &Revised| row.rounds.last().map_or(row.answer.clone(), |round| round.revision.clone());
        let questions: Vec<Vec<Message>> = rows
            .iter()
            .zip(&principles)
            .map(|(row, principle)| ask_critique(&row.prompt, &current(row), principle))
            .collect();
        let critiques = say(&questions)?;
        let follow_ups: Vec<Vec<Message>> = questions
            .into_iter()
            .zip(&critiques)
            .zip(&principles)
            .map(|((question, critique), principle)| {
                ask_revision(question, critique.as_deref().unwrap_or_default(), principle)
            })
            .collect();
        let revisions = say(&follow_ups)?;
        rows = rows
            .into_iter()
            .zip(critiques.into_iter().zip(revisions))
            .zip(principles)
            .filter_map(|((mut row, (critique, revision)), principle)| {
                let principle = principle.name.clone();
                row.rounds.push(Round { principle, critique: critique?, revision: revision? });
                Some(row)
            })
            .collect();
    }
    Ok(rows)
}

/// Draws `n` prompts of the given kinds, or all of them where there are fewer.
///
/// # Errors
/// [`Error::Setting`] with `key` where there is none.
pub(crate) fn choose_prompts<'a>(
    prompts: &'a DataFile<Prompt>,
    kinds: &[String],
    n: usize,
    seed: u64,
    name: &str,
    key: &str,
) -> Result<Vec<&'a Prompt>> {
    let of_kind: Vec<&Prompt> = prompts.items.iter().filter(|prompt| is_among(kinds, &prompt.kind)).collect();
    if of_kind.is_empty() {
        let message = format!("no prompt of {} is of these kinds", prompts.path.display());
        return Err(Error::Setting { key: key.to_owned(), value: format!("{kinds:?}"), message });
    }
    let drawn = draw_items(of_kind.len(), n.min(of_kind.len()), seed, name, 0);
    Ok(drawn.into_iter().map(|prompt_idx| of_kind[prompt_idx]).collect())
}

/// Whether `kind` is one of `kinds`; an empty list has all.
pub(crate) fn is_among(kinds: &[String], kind: &str) -> bool {
    kinds.is_empty() || kinds.iter().any(|known| known == kind)
}

/// The last revisions as conversations, and the replayed ones of SFT.
fn collect(recipe: &SlCaiRecipe, inputs: &Inputs<'_>, revised: &[Revised]) -> Result<Vec<Conversation>> {
    if revised.is_empty() {
        let message = "no critique and revision of the model's answers ended by itself".to_owned();
        return Err(Error::NothingGenerated { phase: PHASE.to_owned(), message });
    }
    let mut items: Vec<Conversation> = revised
        .iter()
        .filter_map(|row| {
            let mut messages = row.prompt.clone();
            messages.push(Message { role: Role::Assistant, content: row.rounds.last()?.revision.clone() });
            Some(Conversation { messages, given: 0, kind: row.kind.clone() })
        })
        .collect();
    let mut replayed: Vec<&Conversation> =
        inputs.conversations.items.iter().filter(|c| is_among(&recipe.replay_kinds, &c.kind)).collect();
    replayed.shuffle(&mut stream(inputs.seed, "sl-cai/replay", 0));
    let n_replayed = (recipe.replay.get() * items.len() as f64).round() as usize;
    items.extend(replayed.into_iter().take(n_replayed).cloned());
    Ok(items)
}
