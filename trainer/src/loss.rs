//! The loss of language modelling.

use crate::batch::Batch;
use crate::error::Result;
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

/// The number in a scalar tensor.
///
/// # Errors
/// Where the tensor is no scalar.
pub fn number(scalar: &Tensor) -> Result<f64> {
    Ok(scalar.to_dtype(DType::F64)?.to_scalar::<f64>()?)
}
