//! Pretraining: the next token of packed documents.

use crate::batch::{Feed, Packing, encode_documents};
use crate::data::{DataFile, Document};
use crate::error::Result;
use crate::folder::RunFolder;
use crate::loss::token_loss;
use crate::recipe::{PretrainRecipe, check_length, to_toml};
use crate::session::{Metrics, Origin, Phase, Progress, Session, Start};
use lm::checkpoint::Checkpoint;
use lm::config::ModelConfig;
use lm::tokenizer::Tokenizer;
use std::collections::BTreeMap;

/// What pretraining works on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The corpus.
    pub corpus: &'a DataFile<Document>,
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Shape of the decoder, which starts from fresh weights.
    pub config: &'a ModelConfig,
    /// Seed of the weights and of the order of documents.
    pub seed: u64,
}

/// Trains a decoder from fresh weights and saves it as the phase `pretrain`; a finished phase is only loaded.
///
/// # Errors
/// Where the recipe does not fit the model, the data cannot be tokenized, training diverges or files cannot be written.
pub fn run(
    folder: &RunFolder,
    recipe: &PretrainRecipe,
    inputs: Inputs<'_>,
    progress: &dyn Progress,
) -> Result<Checkpoint> {
    let Inputs { corpus, tokenizer, config, seed } = inputs;
    let sequence_tokens = recipe.sequence_tokens.get();
    check_length("pretrain.sequence_tokens", sequence_tokens, config)?;
    let data = BTreeMap::from([corpus.name_and_hash()]);
    let phase = Phase {
        name: "pretrain",
        folder,
        origin: Origin { seed, parent: None, recipe: to_toml(recipe), data },
        optimizer: &recipe.optimizer,
        schedule: &recipe.schedule,
        steps: recipe.steps.get(),
        save_every: recipe.save_every,
    };
    if let Some(checkpoint) = phase.finished()? {
        return Ok(checkpoint);
    }

    let documents = encode_documents(tokenizer, corpus, sequence_tokens)?;
    let mut feed = Feed::new(documents, sequence_tokens, Packing::BestFit, seed, "pretrain/order");
    let mut session = Session::open(phase, Start::fresh(config, tokenizer, seed)?, progress)?;
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
