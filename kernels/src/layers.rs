//! All layers of a decoder.

use crate::attention::Segments;
use crate::attention_block::{AttentionBlockSpec, attention_block};
use crate::error::{Result, shape_mismatch};
use crate::feed_forward::{FeedForwardSpec, feed_forward};
use candle_core::Tensor;

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
        let (d, other) = (spec.attention.width, spec.feed_forward.width);
        if d == 0 || d != other || x.dims() != [segments.batch, segments.len, d] {
            let expected = format!("[{}, {}, {d}], d of both halves", segments.batch, segments.len);
            return Err(shape_mismatch(OP, "x", expected, x.shape()));
        }
        spec.attention.attention.check(OP)?;
        segments.check(OP)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::AttentionSpec;
    use crate::check::{assert_block_equals_oracle, draw};
    use crate::oracle;
    use candle_core::DType;

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
