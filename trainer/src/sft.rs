//! Supervised fine-tuning: what the assistant says in packed conversations, given everything before it.

use crate::batch::{Feed, Packing, encode_conversations};
use crate::data::{Conversation, DataFile};
use crate::error::Result;
use crate::folder::RunFolder;
use crate::loss::token_loss;
use crate::recipe::{SftRecipe, check_length, to_toml};
use crate::session::{Metrics, Origin, Phase, Progress, Session, Start};
use lm::checkpoint::Checkpoint;
use std::collections::BTreeMap;

/// What fine-tuning works on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Name of the phase: `sft`, or `sl-cai` when the conversations are the model's own revisions.
    pub phase: &'a str,
    /// The checkpoint to start from.
    pub parent: &'a Checkpoint,
    /// The conversations.
    pub conversations: &'a DataFile<Conversation>,
    /// Seed of the order of conversations.
    pub seed: u64,
}

/// Fine-tunes the parent on conversations and saves it; a finished phase is only loaded.
///
/// # Errors
/// Where a conversation does not fit a sequence, the recipe does not fit the model, training diverges or files cannot be written.
pub fn run(folder: &RunFolder, recipe: &SftRecipe, inputs: Inputs<'_>, progress: &dyn Progress) -> Result<Checkpoint> {
    let Inputs { phase: name, parent, conversations, seed } = inputs;
    let sequence_tokens = recipe.sequence_tokens.get();
    check_length(&format!("{name}.sequence_tokens"), sequence_tokens, &parent.config)?;
    let data = BTreeMap::from([conversations.name_and_hash()]);
    let phase = Phase {
        name,
        folder,
        origin: Origin { seed, parent: Some(parent.content_hash()?), recipe: to_toml(recipe), data },
        optimizer: &recipe.optimizer,
        schedule: &recipe.schedule,
        steps: recipe.steps.get(),
        save_every: recipe.save_every,
    };
    if let Some(checkpoint) = phase.finished()? {
        return Ok(checkpoint);
    }

    let examples = encode_conversations(&parent.tokenizer, conversations, sequence_tokens)?;
    let packing = if recipe.packing { Packing::BestFit } else { Packing::Single };
    let mut feed = Feed::new(examples, sequence_tokens, packing, seed, &format!("{name}/order"));
    let mut session = Session::open(phase, Start::from_checkpoint(parent), progress)?;
    while !session.is_done() {
        let batches = feed.batches(session.step(), recipe.accumulate.get(), recipe.batch_sequences.get())?;
        let n_targets = batches.iter().map(|batch| batch.n_targets).sum();
        let mut metrics = Metrics { extra: vec![("epoch", feed.epoch() as f64)], ..Metrics::default() };
        for batch in &batches {
            let loss = token_loss(session.decoder(), batch, n_targets)?;
            metrics.loss += session.accumulate(&loss)?;
            metrics.tokens += batch.n_tokens();
        }
        session.apply(&metrics)?;
    }
    session.finish()
}
