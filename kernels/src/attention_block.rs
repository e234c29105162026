//! The first half of a layer: norm, self-attention with its projections, and the sum with what came in.

use crate::attention::{Attention, AttentionSpec, Segments};
use crate::block::{BLOCK_ROWS, Block, Node, prepare_block};
use crate::element::{Element, add_to};
use crate::error::{Result, shape_mismatch};
use crate::parallel::build_rows;
use crate::product::{Into, Packed, View, multiply, multiply_whole, product};
use crate::rms_norm::{differentiate_rows, normalize_rows};
use crate::storage::{Values, tensor_of};
use candle_core::Tensor;
use std::sync::OnceLock;

const OP: &str = "attention_block";

/// Shape of an attention block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionBlockSpec {
    /// Width of the residual stream, d.
    pub width: usize,
    /// Epsilon of the norm.
    pub eps: f64,
    /// Heads.
    pub attention: AttentionSpec,
    /// Whether the backward pass computes again what it needs, rather than that being kept for it; the numbers are the same.
    pub recomputes: bool,
}

impl AttentionBlockSpec {
    /// Number of weights: norm (d), queries (H D, d), keys (KV D, d), values (KV D, d) and output (d, H D), one after the
    /// other.
    pub fn n_weights(&self) -> usize {
        self.width * (1 + self.attention.qkv_width() + self.attention.output_width())
    }
}

/// `y = x + W_o rope_attention(W_qkv rms_norm(x))`, one node of the graph; why one is said at [`crate::feed_forward()`].
///
/// The slow twin is [`crate::oracle::attention_block`].
///
/// # Shapes
/// `x` (B, T, d), `weights` as [`AttentionBlockSpec::n_weights`] says, result (B, T, d); rows of padding come out as they
/// went in.
///
/// # Errors
/// [`crate::Error`] when shapes, element types or devices do not fit.
///
/// # Reference
/// As [`crate::rope_attention`]; pre-norm as in Touvron et al. 2023, arXiv:2302.13971.
pub fn attention_block(x: &Tensor, weights: &Tensor, spec: &AttentionBlockSpec, segments: &Segments) -> Result<Tensor> {
    let (x, weights, keeps) = prepare_block(x, weights, spec.n_weights(), OP)?;
    spec.attention.check(OP)?;
    segments.check(OP)?;
    if spec.width == 0 || x.dims() != [segments.batch, segments.len, spec.width] {
        let expected = format!("[{}, {}, {}]", segments.batch, segments.len, spec.width);
        return Err(shape_mismatch(OP, "x", expected, x.shape()));
    }
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return Ok(crate::cuda::attention_block(&x, &weights, spec, segments)?);
    }
    let op = AttentionBlock {
        spec: *spec,
        attention: Attention::new(&spec.attention, segments),
        keeps: keeps && !spec.recomputes,
        kept: OnceLock::new(),
    };
    Ok(x.apply_op2(&weights, Node(op))?)
}

struct AttentionBlock {
    spec: AttentionBlockSpec,
    attention: Attention,
    keeps: bool,
    kept: OnceLock<Kept>,
}

/// What the backward pass needs of the forward pass, row by row.
struct Kept {
    normed: Tensor,
    qkv: Tensor,
    heads: Tensor,
}

impl AttentionBlock {
    /// Where norm, queries with keys and values, and output lie among the weights.
    fn ends(&self) -> (usize, usize) {
        let width = self.spec.width;
        (width, width + self.spec.attention.qkv_width() * width)
    }

    /// d, (H + 2 KV) D and H D.
    fn widths(&self) -> (usize, usize, usize) {
        (self.spec.width, self.spec.attention.qkv_width(), self.spec.attention.output_width())
    }

    /// All but the output: the norm's, the queries, keys and values, and the heads.
    fn activate<T: Element>(&self, x: &[T], weights: &[T]) -> candle_core::Result<Kept> {
        let (d, qkv_width, heads_width) = self.widths();
        let n = x.len() / d;
        let (norm_end, qkv_end) = self.ends();
        let (norm, eps) = (&weights[..norm_end], T::from_f64(self.spec.eps));
        let qkv_by_column = Packed::new(View::dense(&weights[norm_end..qkv_end], qkv_width, d).transposed());
        let ([normed, qkv], _) = build_rows(n, [d, qkv_width], BLOCK_ROWS, |rows, [normed, qkv]| {
            normalize_rows(normed, &x[rows.start * d..rows.end * d], norm, eps);
            multiply_whole(qkv, View::dense(normed, rows.len(), d), &qkv_by_column, Into::Overwrite);
        });
        let heads = self.attention.forward(&qkv);
        Ok(Kept {
            normed: tensor_of(normed, (n, d))?,
            qkv: tensor_of(qkv, (n, qkv_width))?,
            heads: tensor_of(heads, (n, heads_width))?,
        })
    }
}

impl Block for AttentionBlock {
    const OP: &'static str = OP;

    fn forward<T: Element>(&self, x: &[T], weights: &[T]) -> candle_core::Result<Vec<T>> {
        let (d, _, heads_width) = self.widths();
        let n = x.len() / d;
        let (_, qkv_end) = self.ends();
        let made = self.activate(x, weights)?;
        let values = Values::of(&made.heads);
        let heads = values.as_slice::<T>()?;
        let output_by_column = Packed::new(View::dense(&weights[qkv_end..], d, heads_width).transposed());
        let ([y], _) = build_rows(n, [d], BLOCK_ROWS, |rows, [y]| {
            y.copy_from_slice(&x[rows.start * d..rows.end * d]);
            let heads = &heads[rows.start * heads_width..rows.end * heads_width];
            multiply_whole(y, View::dense(heads, rows.len(), heads_width), &output_by_column, Into::Add);
        });
        drop(values);
        if self.keeps {
            // An op is applied once; were it applied again, the values are the same.
            let _ = self.kept.set(made);
        }
        Ok(y)
    }

    fn backward<T: Element>(
        &self,
        x: &[T],
        weights: &[T],
        dy: &[T],
        learns: bool,
    ) -> candle_core::Result<(Vec<T>, Option<Vec<T>>)> {
        let (d, qkv_width, heads_width) = self.widths();
        let n = x.len() / d;
        let (norm_end, qkv_end) = self.ends();
        let again = if self.kept.get().is_none() { Some(self.activate(x, weights)?) } else { None };
        let kept = again.as_ref().or(self.kept.get()).expect("it is kept or was just made");
        let (normed, qkv, heads) = (Values::of(&kept.normed), Values::of(&kept.qkv), Values::of(&kept.heads));
        let (normed, qkv, heads) = (normed.as_slice::<T>()?, qkv.as_slice::<T>()?, heads.as_slice::<T>()?);

        let dy_rows = View::dense(dy, n, d);
        let d_heads = product(dy_rows, &Packed::new(View::dense(&weights[qkv_end..], d, heads_width)));
        let d_qkv = self.attention.backward(qkv, &d_heads);
        let (norm, eps) = (&weights[..norm_end], T::from_f64(self.spec.eps));
        let qkv_by_row = Packed::new(View::dense(&weights[norm_end..qkv_end], qkv_width, d));
        let ([dx], d_norms) = build_rows(n, [d], BLOCK_ROWS, |rows, [dx]| {
            let of_width = |width: usize| rows.start * width..rows.end * width;
            let d_qkv = View::dense(&d_qkv[of_width(qkv_width)], rows.len(), qkv_width);
            let mut d_normed = vec![T::ZERO; rows.len() * d];
            multiply_whole(&mut d_normed, d_qkv, &qkv_by_row, Into::Overwrite);
            let mut d_norm = vec![T::ZERO; d];
            differentiate_rows(dx, &mut d_norm, &x[of_width(d)], norm, &d_normed, eps);
            add_to(dx, &dy[of_width(d)]);
            d_norm
        });
        let grad = learns.then(|| {
            let mut grad = vec![T::ZERO; weights.len()];
            for d_norm in &d_norms {
                add_to(&mut grad[..norm_end], d_norm);
            }
            let d_qkv = View::dense(&d_qkv, n, qkv_width);
            let normed = Packed::new(View::dense(normed, n, d));
            multiply(&mut grad[norm_end..qkv_end], d_qkv.transposed(), &normed, Into::Overwrite);
            let heads = Packed::new(View::dense(heads, n, heads_width));
            multiply(&mut grad[qkv_end..], dy_rows.transposed(), &heads, Into::Overwrite);
            grad
        });
        Ok((dx, grad))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{
        assert_block_equals_oracle, assert_close, assert_equals_differences, assert_same_for_any_threads, draw,
    };
    use crate::oracle;
    use candle_core::DType;

    fn spec(width: usize, n_heads: usize, n_kv_heads: usize, head_dim: usize) -> AttentionBlockSpec {
        let attention = AttentionSpec { n_heads, n_kv_heads, head_dim, rope_theta: 10_000.0 };
        AttentionBlockSpec { width, eps: 1e-5, attention, recomputes: false }
    }

    fn inputs(segments: &Segments, spec: &AttentionBlockSpec, dtype: DType) -> [Tensor; 2] {
        [draw(1, &[segments.batch, segments.len, spec.width], dtype), draw(2, &[spec.n_weights()], dtype)]
    }

    #[test]
    fn equals_the_oracle_for_odd_shapes_and_padding() {
        for (spec, lengths, len) in [
            (spec(8, 1, 1, 2), vec![1], 1),
            (spec(20, 4, 2, 6), vec![9, 3, 0], 9),
            (spec(33, 3, 3, 8), vec![70, 55], 70),
        ] {
            let segments = Segments::padded_rows(&lengths, len);
            let inputs = inputs(&segments, &spec, DType::F32);
            assert_block_equals_oracle(&inputs, &|i| Ok(attention_block(&i[0], &i[1], &spec, &segments)?), &|i| {
                oracle::attention_block(&i[0], &i[1], &spec, &segments)
            });
        }
    }

    #[test]
    fn gradients_are_difference_quotients() {
        let (spec, segments) = (spec(4, 2, 1, 2), Segments::padded_rows(&[4, 2], 4));
        assert_equals_differences(&inputs(&segments, &spec, DType::F64), &|i| {
            Ok(attention_block(&i[0], &i[1], &spec, &segments)?)
        });
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let (spec, segments) = (spec(24, 4, 2, 6), Segments::padded_rows(&[60, 31, 60], 60));
        assert_same_for_any_threads(&inputs(&segments, &spec, DType::F32), &|i| {
            Ok(attention_block(&i[0], &i[1], &spec, &segments)?)
        });
    }

    #[test]
    fn rows_of_padding_come_out_as_they_went_in() {
        let (spec, segments) = (spec(8, 2, 2, 4), Segments::padded_rows(&[3, 0], 3));
        let [x, weights] = inputs(&segments, &spec, DType::F32);
        let y = attention_block(&x, &weights, &spec, &segments).unwrap();
        assert_close("padding", &y.narrow(0, 1, 1).unwrap(), &x.narrow(0, 1, 1).unwrap(), 0.0);
    }

    #[test]
    fn weights_and_segments_of_another_shape_are_refused() {
        let (spec, segments) = (spec(8, 2, 2, 4), Segments::whole_rows(2, 3));
        let [x, weights] = inputs(&segments, &spec, DType::F32);
        assert!(attention_block(&x, &weights.narrow(0, 0, 7).unwrap(), &spec, &segments).is_err());
        assert!(attention_block(&x, &weights, &spec, &Segments::whole_rows(3, 2)).is_err());
    }
}
