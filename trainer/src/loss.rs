//! The loss of language modelling.

use crate::batch::{Batch, Feed};
use crate::error::Result;
use crate::ranks::Cut;
use crate::session::{Metrics, Session};
use candle_core::{DType, Tensor};
use lm::decoder::Decoder;

/// `sum over targets of -ln p(token | everything before it in its example) / n_targets`, in nats; a scalar.
///
/// `n_targets` is that of the whole optimizer step, so that the losses of its batches add up to the step's mean.
///
/// # Errors
/// Where the forward pass fails.
pub fn token_loss(decoder: &Decoder, batch: &Batch, n_targets: usize) -> Result<Tensor> {
    let hidden = decoder.forward(&batch.input)?; // (B, T, d)
    let weights = vec![1.0 / n_targets as f32; batch.targets.len()];
    Ok(kernels::linear_cross_entropy(&hidden.flatten_to(1)?, decoder.lm_head(), &batch.targets, &weights)?)
}

/// Accumulates the gradient of the mean loss per token over the batches of the step that the session is at, or over this rank's share of
/// them; returns their metrics, and how they were cut. On the CPU batches go in pieces ([`Batch::pieces`]), unless there are more ranks.
///
/// # Errors
/// Where a tensor operation fails.
pub(crate) fn learn_batches(
    session: &mut Session<'_>,
    feed: &mut Feed,
    n_batches: usize,
    n_sequences: usize,
) -> Result<(Metrics, Cut)> {
    let mut batches = feed.batches(session.step(), n_batches, n_sequences)?;
    let n_targets = batches.iter().map(|batch| batch.n_targets).sum();
    if session.decoder().device().is_cpu() {
        let pieces = batches.iter().map(Batch::pieces).collect::<Result<Vec<_>>>()?;
        let pieces: Vec<Batch> = pieces.into_iter().flatten().collect();
        if session.ranks().cut(pieces.len()) == Cut::Batches {
            batches = pieces;
        }
    }
    let mut metrics = Metrics { extra: vec![("epoch", feed.epoch() as f64)], ..Metrics::default() };
    let cut = session.ranks().cut(batches.len());
    for batch in session.ranks().deal(batches, cut)? {
        let loss = token_loss(session.decoder(), &batch, n_targets)?;
        metrics.loss += session.accumulate(&loss)?;
        metrics.tokens += batch.n_tokens();
    }
    Ok((metrics, cut))
}

/// The number in a scalar tensor.
///
/// # Errors
/// Where the tensor is no scalar.
pub fn number(scalar: &Tensor) -> Result<f64> {
    Ok(scalar.to_dtype(DType::F64)?.to_scalar::<f64>()?)
}
