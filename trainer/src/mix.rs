//! Pretraining that goes on beside another phase, which keeps what the model knows.

use crate::batch::{Feed, Packing, encode_documents};
use crate::data::{DataFile, Document};
use crate::error::Result;
use crate::loss::token_loss;
use crate::ranks::Cut;
use crate::recipe::{NonNegative, count};
use crate::session::{Metrics, Session};
use lm::checkpoint::Checkpoint;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;

/// Pretraining that goes on beside another phase (`[PHASE.pretrain_mix]`).
///
/// # Reference
/// Ouyang et al. 2022, arXiv 2203.02155, section 3.5 and equation 2 (PPO-ptx).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PretrainMixRecipe {
    /// Weight of the mean loss per pretraining token, in nats; 0 for none. Default 1.
    pub coefficient: NonNegative,
    /// Packed sequences of documents in each step. Default 2.
    pub batch_sequences: NonZeroUsize,
}

impl Default for PretrainMixRecipe {
    fn default() -> Self {
        Self { coefficient: NonNegative::new(1.0).expect("in range"), batch_sequences: count(2) }
    }
}

impl PretrainMixRecipe {
    /// Name and hash of the corpus, where any of it is used.
    pub(crate) fn name_and_hash(&self, corpus: &DataFile<Document>) -> Option<(String, String)> {
        (self.coefficient.get() > 0.0).then(|| corpus.name_and_hash())
    }
}

/// The documents of a phase's pretraining mix.
pub(crate) struct PretrainMix<'a> {
    recipe: &'a PretrainMixRecipe,
    documents: Option<Feed>,
}

impl<'a> PretrainMix<'a> {
    /// The mix of `phase`, in sequences as long as the parent's context.
    ///
    /// # Errors
    /// Where the corpus cannot be tokenized.
    pub(crate) fn new(
        recipe: &'a PretrainMixRecipe,
        parent: &Checkpoint,
        corpus: &DataFile<Document>,
        phase: &str,
        seed: u64,
    ) -> Result<Self> {
        if recipe.coefficient.get() == 0.0 {
            return Ok(Self { recipe, documents: None });
        }
        let sequence_tokens = parent.config.max_position_embeddings;
        let documents = encode_documents(&parent.tokenizer, corpus, sequence_tokens)?;
        let order = format!("{phase}/pretrain-mix");
        Ok(Self { recipe, documents: Some(Feed::new(documents, sequence_tokens, Packing::BestFit, seed, &order)) })
    }

    /// Accumulates the gradient of `coefficient * mean loss per token` for the step that the session is at, whose other batches are cut in
    /// this way.
    ///
    /// # Errors
    /// Where a tensor operation fails.
    pub(crate) fn learn(&mut self, session: &mut Session<'_>, metrics: &mut Metrics, cut: Cut) -> Result<()> {
        let Some(documents) = &mut self.documents else { return Ok(()) };
        let coefficient = self.recipe.coefficient.get();
        let batch = documents.batch(session.step(), self.recipe.batch_sequences.get())?;
        let n_targets = batch.n_targets;
        let mut weighted = 0.0;
        if let Some(batch) = session.ranks().deal_beside(batch, cut)? {
            let loss = token_loss(session.decoder(), &batch, n_targets)?;
            weighted = session.accumulate(&(loss * coefficient)?)?;
            metrics.tokens += batch.n_tokens();
        }
        metrics.loss += weighted;
        let [whole] = session.ranks().total([weighted])?;
        metrics.extra.push(("pretrain_loss_nats", whole / coefficient));
        Ok(())
    }
}
