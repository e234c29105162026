//! All layers of a decoder.

use crate::attention::Segments;
use crate::attention_block::{AttentionBlockSpec, attention_block};
use crate::error::{Result, shape_mismatch};
use crate::feed_forward::{FeedForwardSpec, feed_forward};
#[cfg(feature = "cuda")]
use candle_core::DType;
use candle_core::Tensor;
use std::sync::{Arc, Mutex, PoisonError};

const OP: &str = "layers";

/// Shape of a stack of layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayersSpec {
    /// Number of layers, at least one.
    pub n_layers: usize,
    /// First half of each.
    pub attention: AttentionBlockSpec,
    /// Second half of each.
    pub feed_forward: FeedForwardSpec,
}

impl LayersSpec {
    /// Number of weights: those of an attention block, then those of a feed-forward block, layer by layer.
    pub fn n_weights(&self) -> usize {
        self.n_layers * self.n_layer_weights()
    }

    /// Number of weights of one layer.
    pub(crate) fn n_layer_weights(&self) -> usize {
        self.attention.n_weights() + self.feed_forward.n_weights()
    }
}

/// [`attention_block`] and [`feed_forward()`] in turns.
///
/// On a GPU all of it is one node of the graph: candle clears and adds up a gradient for each tensor between two nodes, which
/// took a twentieth of a training step of a 124M-parameter model.
///
/// The slow twin is [`crate::oracle::layers`].
///
/// # Shapes
/// `x` (B, T, d), `weights` as [`LayersSpec::n_weights`] says, result (B, T, d).
///
/// # Errors
/// [`crate::Error`] when shapes, element types or devices do not fit.
pub fn layers(x: &Tensor, weights: &Tensor, spec: &LayersSpec, segments: &Segments) -> Result<Tensor> {
    if weights.dims() != [spec.n_weights()] || spec.n_layers == 0 {
        let expected = format!("[{}], of one layer at least", spec.n_weights());
        return Err(shape_mismatch(OP, "weights", expected, weights.shape()));
    }
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        check_on_gpu(x, spec, segments)?;
        let (x, weights, _) = crate::block::prepare_block(x, weights, spec.n_weights(), OP)?;
        return Ok(crate::cuda::layers(&x, &weights, spec, segments)?);
    }
    let mut x = x.clone();
    let mut start = 0;
    for _ in 0..spec.n_layers {
        let mut take = |n: usize| {
            start += n;
            weights.narrow(0, start - n, n)
        };
        x = attention_block(&x, &take(spec.attention.n_weights())?, &spec.attention, segments)?;
        x = feed_forward(&x, &take(spec.feed_forward.n_weights())?, &spec.feed_forward)?;
    }
    Ok(x)
}

#[cfg(feature = "cuda")]
fn check_on_gpu(x: &Tensor, spec: &LayersSpec, segments: &Segments) -> Result<()> {
    let (d, other) = (spec.attention.width, spec.feed_forward.width);
    if d == 0 || d != other || x.dims() != [segments.batch, segments.len, d] {
        let expected = format!("[{}, {}, {d}], d of both halves", segments.batch, segments.len);
        return Err(shape_mismatch(OP, "x", expected, x.shape()));
    }
    spec.attention.attention.check(OP)?;
    segments.check(OP)
}

/// Gradients of weights that backward passes hand over themselves, beside candle's graph; clones are the same place.
#[derive(Clone, Debug, Default)]
pub struct HandedOver(Arc<Mutex<Vec<Tensor>>>);

impl HandedOver {
    /// What was handed over since the last call, a tensor a backward pass through each [`layers_of_parts`].
    #[must_use]
    pub fn take(&self) -> Vec<Tensor> {
        // A panic cannot leave the list half-changed, so a poisoned lock is still good.
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn push(&self, gradient: Tensor) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(gradient);
    }
}

/// [`layers`] with weights in parts that learn: of each half, two a layer, its norm and its matrices.
///
/// On a GPU, where `x` is of candle's graph, the parts' gradients come another way than through it: a backward pass puts one tensor
/// of them all into `gradients`, f32 like the parts. candle would join the parts for each pass and cut, clear and add the gradient
/// part by part, which took 3 of 58 ms of a training step of a 124M-parameter model.
///
/// # Shapes
/// `x` and the result (B, T, d); the parts have [`LayersSpec::n_weights`] numbers together, in the order of `weights` there.
///
/// # Errors
/// As [`layers`].
pub fn layers_of_parts(
    x: &Tensor,
    halves: &[&[Tensor]],
    spec: &LayersSpec,
    segments: &Segments,
    gradients: &HandedOver,
) -> Result<Tensor> {
    let sizes: Vec<usize> = halves.iter().map(|parts| parts.iter().map(Tensor::elem_count).sum()).collect();
    let has_norm = |parts: &&[Tensor]| parts.first().is_some_and(|norm| norm.elem_count() == spec.attention.width);
    if sizes != [spec.attention.n_weights(), spec.feed_forward.n_weights()].repeat(spec.n_layers)
        || !halves.iter().all(has_norm)
    {
        let expected = format!("{} halves, each of its norm and its matrices", 2 * spec.n_layers);
        return Err(shape_mismatch(OP, "halves", expected, &sizes.into()));
    }
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() && x.track_op() && halves.iter().copied().flatten().all(|part| part.dtype() == DType::F32) {
        check_on_gpu(x, spec, segments)?;
        let x = crate::storage::prepare(x, OP, "x")?;
        return Ok(crate::cuda::layers_of_parts(&x, halves, spec, segments, gradients)?);
    }
    // Elsewhere all gradients are in the graph.
    let _ = gradients;
    let parts = halves.iter().copied().flatten().map(Tensor::flatten_all).collect::<candle_core::Result<Vec<_>>>()?;
    layers(x, &Tensor::cat(&parts, 0)?, spec, segments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::AttentionSpec;
    use crate::check::{assert_block_equals_oracle, draw, values};
    use crate::oracle;
    use candle_core::{DType, Var};

    #[test]
    fn several_layers_equal_their_oracle() {
        for (width, head_dim, inner, recomputes) in [(24, 6, 21, false), (64, 32, 96, false), (64, 32, 96, true)] {
            let attention = AttentionSpec { n_heads: 2, n_kv_heads: 1, head_dim, rope_theta: 10_000.0 };
            let spec = LayersSpec {
                n_layers: 3,
                attention: AttentionBlockSpec { width, eps: 1e-5, attention, recomputes },
                feed_forward: FeedForwardSpec { width, inner, eps: 1e-5, recomputes },
            };
            let segments = Segments::padded_rows(&[70, 31], 70);
            let small = (draw(2, &[spec.n_weights()], DType::F32) * 0.3).unwrap();
            assert_block_equals_oracle(
                &[draw(1, &[2, 70, width], DType::F32), small],
                &|i| Ok(layers(&i[0], &i[1], &spec, &segments)?),
                &|i| oracle::layers(&i[0], &i[1], &spec, &segments),
            );
        }
    }

    #[test]
    fn parts_are_the_same_as_the_whole_and_must_be_all_there() {
        let attention = AttentionSpec { n_heads: 2, n_kv_heads: 1, head_dim: 6, rope_theta: 10_000.0 };
        let spec = LayersSpec {
            n_layers: 2,
            attention: AttentionBlockSpec { width: 24, eps: 1e-5, attention, recomputes: false },
            feed_forward: FeedForwardSpec { width: 24, inner: 21, eps: 1e-5, recomputes: false },
        };
        let segments = Segments::padded_rows(&[17, 9], 17);
        let x = draw(1, &[2, 17, 24], DType::F32);
        let whole = Var::from_tensor(&(draw(2, &[spec.n_weights()], DType::F32) * 0.3).unwrap()).unwrap();
        let mut start = 0;
        let mut take = |n: usize| {
            start += n;
            Var::from_tensor(&whole.narrow(0, start - n, n).unwrap()).unwrap().into_inner()
        };
        let sizes = [spec.attention.n_weights(), spec.feed_forward.n_weights()].repeat(2);
        let halves: Vec<[Tensor; 2]> = sizes.into_iter().map(|n| [take(24), take(n - 24)]).collect();
        let halves: Vec<&[Tensor]> = halves.iter().map(<[Tensor; 2]>::as_slice).collect();
        let gradients = HandedOver::default();
        let differentiate = |y: &Tensor| y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let (y, of_parts) = (
            layers(&x, &whole, &spec, &segments).unwrap(),
            layers_of_parts(&x, &halves, &spec, &segments, &gradients).unwrap(),
        );
        assert_eq!(values(&y), values(&of_parts));
        let found = differentiate(&of_parts);
        let found: Vec<f64> = halves.concat().iter().flat_map(|part| values(found.get(part).unwrap())).collect();
        assert_eq!(found, values(differentiate(&y).get(&whole).unwrap()));
        assert!(gradients.take().is_empty());
        assert!(layers_of_parts(&x, &halves[1..], &spec, &segments, &gradients).is_err());
    }

    #[test]
    fn weights_of_another_number_are_refused() {
        let attention = AttentionSpec { n_heads: 1, n_kv_heads: 1, head_dim: 4, rope_theta: 10.0 };
        let spec = LayersSpec {
            n_layers: 2,
            attention: AttentionBlockSpec { width: 4, eps: 1e-5, attention, recomputes: false },
            feed_forward: FeedForwardSpec { width: 4, inner: 3, eps: 1e-5, recomputes: false },
        };
        let weights = draw(1, &[spec.n_weights() - 1], DType::F32);
        let x = draw(2, &[1, 3, 4], DType::F32);
        assert!(layers(&x, &weights, &spec, &Segments::whole_rows(1, 3)).is_err());
    }
}
