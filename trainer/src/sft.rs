//! Supervised fine-tuning: what the assistant says in packed conversations, given everything before it.

use crate::batch::{Feed, Packing, encode_conversations};
use crate::data::{Conversation, DataFile, Document};
use crate::error::Result;
use crate::folder::RunFolder;
use crate::loss::learn_batches;
use crate::mix::PretrainMix;
use crate::recipe::{SftRecipe, check_length, to_toml};
use crate::session::{Origin, Phase, Progress, Session, Start};
use lm::checkpoint::Checkpoint;
use std::collections::BTreeMap;

/// What fine-tuning works on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Name of the phase: `sft`.
    pub phase: &'a str,
    /// The checkpoint to start from.
    pub parent: &'a Checkpoint,
    /// The conversations.
    pub conversations: &'a DataFile<Conversation>,
    /// Documents of the pretraining mix.
    pub corpus: &'a DataFile<Document>,
    /// Seed of the order of conversations and documents.
    pub seed: u64,
}

/// Fine-tunes the parent on conversations and saves it; a finished phase is only loaded.
///
/// The loss is the mean over the assistant's tokens, plus `coefficient *` the mean over the tokens of the pretraining mix.
///
/// # Errors
/// Where a conversation does not fit a sequence, the recipe does not fit the model, training diverges or files cannot be written.
pub fn run(folder: &RunFolder, recipe: &SftRecipe, inputs: Inputs<'_>, progress: &dyn Progress) -> Result<Checkpoint> {
    let Inputs { phase, parent, conversations, corpus, seed } = inputs;
    let mut data = BTreeMap::from([conversations.name_and_hash()]);
    data.extend(recipe.pretrain_mix.name_and_hash(corpus));
    let origin = Origin { seed, parent: Some(parent.content_hash()?), recipe: to_toml(recipe), data };
    let task = Task { phase, parent, corpus, origin };
    train(folder, recipe, task, || Ok(conversations.clone()), progress)
}

/// A checkpoint to be fine-tuned on conversations.
pub(crate) struct Task<'a> {
    /// Name of the phase.
    pub(crate) phase: &'a str,
    /// The checkpoint to start from.
    pub(crate) parent: &'a Checkpoint,
    /// Documents of the pretraining mix.
    pub(crate) corpus: &'a DataFile<Document>,
    /// What it is made from.
    pub(crate) origin: Origin,
}

/// Trains and saves the phase; `conversations` is only called where it has not ended before.
pub(crate) fn train(
    folder: &RunFolder,
    recipe: &SftRecipe,
    task: Task<'_>,
    conversations: impl FnOnce() -> Result<DataFile<Conversation>>,
    progress: &dyn Progress,
) -> Result<Checkpoint> {
    let Task { phase: name, parent, corpus, origin } = task;
    let sequence_tokens = recipe.sequence_tokens.get();
    check_length(&format!("{name}.sequence_tokens"), sequence_tokens, &parent.config)?;
    let seed = origin.seed;
    let phase = Phase {
        name,
        folder,
        origin,
        lr: recipe.lr,
        optimizer: &recipe.optimizer,
        schedule: &recipe.schedule,
        steps: recipe.steps.get(),
        save_every: recipe.save_every,
    };
    if let Some(checkpoint) = phase.finished()? {
        return Ok(checkpoint);
    }

    let examples = encode_conversations(&parent.tokenizer, &conversations()?, sequence_tokens)?;
    let packing = if recipe.packing { Packing::BestFit } else { Packing::Single };
    let mut feed = Feed::new(examples, sequence_tokens, packing, seed, &format!("{name}/order"));
    let mut mix = PretrainMix::new(&recipe.pretrain_mix, parent, corpus, name, seed)?;
    let mut session = Session::open(phase, Start::from_checkpoint(parent), progress)?;
    while !session.is_done() {
        let (n_batches, n_sequences) = (recipe.accumulate.get(), recipe.batch_sequences.get());
        let (mut metrics, cut) = learn_batches(&mut session, &mut feed, n_batches, n_sequences)?;
        let [chat_loss_nats] = session.ranks().total([metrics.loss])?;
        metrics.extra.push(("chat_loss_nats", chat_loss_nats));
        mix.learn(&mut session, &mut metrics, cut)?;
        session.apply(&metrics)?;
    }
    session.finish()
}
