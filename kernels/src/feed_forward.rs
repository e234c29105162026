//! The second half of a layer: norm, gated feed-forward network, and the sum with what came in.

use crate::block::{BLOCK_ROWS, Block, Node, prepare_block};
use crate::element::{Element, add_to};
use crate::error::{Result, shape_mismatch};
use crate::parallel::build_rows;
use crate::product::{Into, Packed, View, multiply, multiply_whole};
use crate::rms_norm::{differentiate_rows, normalize_rows};
use crate::storage::{Values, tensor_of};
use crate::swiglu::{self, gate_rows};
use candle_core::Tensor;
use std::sync::OnceLock;

const OP: &str = "feed_forward";

/// Shape of a feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FeedForwardSpec {
    /// Width of the residual stream, d.
    pub width: usize,
    /// Width of the network inside, f.
    pub inner: usize,
    /// Epsilon of the norm.
    pub eps: f64,
    /// Whether the backward pass computes again what it needs, rather than that being kept for it; the numbers are the same.
    pub recomputes: bool,
}

impl FeedForwardSpec {
    /// Number of weights: norm (d), gate (f, d), up (f, d) and down (d, f), one after the other.
    pub fn n_weights(&self) -> usize {
        self.width * (1 + 3 * self.inner)
    }
}

/// `y = x + W_down swiglu(W_gate_up rms_norm(x))`, one node of the graph.
///
/// As one node because candle clears and adds up a gradient for each tensor between two nodes, on one thread: for the wide
/// ones in here that took longer than all that is not a matrix product.
///
/// The slow twin is [`crate::oracle::feed_forward`].
///
/// # Shapes
/// `x` (.., d), `weights` as [`FeedForwardSpec::n_weights`] says, result (.., d).
///
/// # Errors
/// [`crate::Error`] when shapes, element types or devices do not fit.
///
/// # Reference
/// Shazeer 2020, arXiv:2002.05202, equation 6; pre-norm as in Touvron et al. 2023, arXiv:2302.13971.
pub fn feed_forward(x: &Tensor, weights: &Tensor, spec: &FeedForwardSpec) -> Result<Tensor> {
    let (x, weights, keeps) = prepare_block(x, weights, spec.n_weights(), OP)?;
    if spec.width == 0 || x.dims().last() != Some(&spec.width) {
        return Err(shape_mismatch(OP, "x", format!("[.., {}]", spec.width), x.shape()));
    }
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return Ok(crate::cuda::feed_forward(&x, &weights, spec)?);
    }
    let keeps = keeps && !spec.recomputes;
    Ok(x.apply_op2(&weights, Node(FeedForward { spec: *spec, keeps, kept: OnceLock::new() }))?)
}

struct FeedForward {
    spec: FeedForwardSpec,
    keeps: bool,
    kept: OnceLock<Kept>,
}

/// What the backward pass needs of the forward pass, row by row.
struct Kept {
    normed: Tensor,
    gate_up: Tensor,
    gated: Tensor,
}

impl FeedForward {
    /// Where norm, gate with up, and down lie among the weights.
    fn ends(&self) -> (usize, usize) {
        let FeedForwardSpec { width, inner, .. } = self.spec;
        (width, width + 2 * inner * width)
    }

    /// What comes out, and what the backward pass needs.
    fn activate<T: Element>(&self, x: &[T], weights: &[T]) -> candle_core::Result<(Vec<T>, Kept)> {
        let FeedForwardSpec { width: d, inner: f, .. } = self.spec;
        let n = x.len() / d;
        let (norm_end, gate_up_end) = self.ends();
        let (norm, eps) = (&weights[..norm_end], T::from_f64(self.spec.eps));
        let gate_up_by_column = Packed::new(View::dense(&weights[norm_end..gate_up_end], 2 * f, d).transposed());
        let down_by_column = Packed::new(View::dense(&weights[gate_up_end..], d, f).transposed());
        let ([normed, gate_up, gated, y], _) =
            build_rows(n, [d, 2 * f, f, d], BLOCK_ROWS, |rows, [normed, gate_up, gated, y]| {
                let n = rows.len();
                let x = &x[rows.start * d..rows.end * d];
                normalize_rows(normed, x, norm, eps);
                multiply_whole(gate_up, View::dense(normed, n, d), &gate_up_by_column, Into::Overwrite);
                gate_rows(gated, gate_up, f);
                y.copy_from_slice(x);
                multiply_whole(y, View::dense(gated, n, f), &down_by_column, Into::Add);
            });
        let kept = Kept {
            normed: tensor_of(normed, (n, d))?,
            gate_up: tensor_of(gate_up, (n, 2 * f))?,
            gated: tensor_of(gated, (n, f))?,
        };
        Ok((y, kept))
    }
}

impl Block for FeedForward {
    const OP: &'static str = OP;

    fn forward<T: Element>(&self, x: &[T], weights: &[T]) -> candle_core::Result<Vec<T>> {
        let (y, made) = self.activate(x, weights)?;
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
        let FeedForwardSpec { width: d, inner: f, .. } = self.spec;
        let n = x.len() / d;
        let (norm_end, gate_up_end) = self.ends();
        let again = if self.kept.get().is_none() { Some(self.activate(x, weights)?.1) } else { None };
        let kept = again.as_ref().or(self.kept.get()).expect("it is kept or was just made");
        let (normed, gate_up, gated) = (Values::of(&kept.normed), Values::of(&kept.gate_up), Values::of(&kept.gated));
        let (normed, gate_up, gated) = (normed.as_slice::<T>()?, gate_up.as_slice::<T>()?, gated.as_slice::<T>()?);

        let (norm, eps) = (&weights[..norm_end], T::from_f64(self.spec.eps));
        let gate_up_by_row = Packed::new(View::dense(&weights[norm_end..gate_up_end], 2 * f, d));
        let down_by_row = Packed::new(View::dense(&weights[gate_up_end..], d, f));
        let ([d_gate_up, dx], d_norms) = build_rows(n, [2 * f, d], BLOCK_ROWS, |rows, [d_gate_up, dx]| {
            let n = rows.len();
            let of_width = |width: usize| rows.start * width..rows.end * width;
            let dy = &dy[of_width(d)];
            let mut d_gated = vec![T::ZERO; n * f];
            multiply_whole(&mut d_gated, View::dense(dy, n, d), &down_by_row, Into::Overwrite);
            swiglu::differentiate_rows(d_gate_up, &gate_up[of_width(2 * f)], &d_gated, f);
            let mut d_normed = vec![T::ZERO; n * d];
            multiply_whole(&mut d_normed, View::dense(d_gate_up, n, 2 * f), &gate_up_by_row, Into::Overwrite);
            let mut d_norm = vec![T::ZERO; d];
            differentiate_rows(dx, &mut d_norm, &x[of_width(d)], norm, &d_normed, eps);
            add_to(dx, dy);
            d_norm
        });
        let grad = learns.then(|| {
            let mut grad = vec![T::ZERO; weights.len()];
            for d_norm in &d_norms {
                add_to(&mut grad[..norm_end], d_norm);
            }
            let d_gate_up = View::dense(&d_gate_up, n, 2 * f);
            let normed = Packed::new(View::dense(normed, n, d));
            multiply(&mut grad[norm_end..gate_up_end], d_gate_up.transposed(), &normed, Into::Overwrite);
            let gated = Packed::new(View::dense(gated, n, f));
            multiply(&mut grad[gate_up_end..], View::dense(dy, n, d).transposed(), &gated, Into::Overwrite);
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
    use candle_core::{DType, Var};

    const SPEC: FeedForwardSpec = FeedForwardSpec { width: 6, inner: 10, eps: 1e-5, recomputes: false };

    fn inputs(rows: usize, spec: &FeedForwardSpec, dtype: DType) -> [Tensor; 2] {
        [draw(1, &[rows, spec.width], dtype), draw(2, &[spec.n_weights()], dtype)]
    }

    #[test]
    fn equals_the_oracle_for_odd_shapes() {
        for (rows, width, inner) in [(1, 8, 3), (7, 20, 33), (150, 40, 70), (100, 300, 5)] {
            let spec = FeedForwardSpec { width, inner, eps: 1e-5, recomputes: false };
            let inputs = inputs(rows, &spec, DType::F32);
            assert_block_equals_oracle(&inputs, &|i| Ok(feed_forward(&i[0], &i[1], &spec)?), &|i| {
                oracle::feed_forward(&i[0], &i[1], &spec)
            });
        }
    }

    #[test]
    fn gradients_are_difference_quotients() {
        assert_equals_differences(&inputs(4, &SPEC, DType::F64), &|i| Ok(feed_forward(&i[0], &i[1], &SPEC)?));
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let spec = FeedForwardSpec { width: 24, inner: 50, eps: 1e-5, recomputes: false };
        assert_same_for_any_threads(&inputs(200, &spec, DType::F32), &|i| Ok(feed_forward(&i[0], &i[1], &spec)?));
    }

    #[test]
    fn frozen_weights_get_no_gradient_and_pass_on_the_same_one() {
        let [x, weights] = inputs(5, &SPEC, DType::F32);
        let (x, learning) = (Var::from_tensor(&x).unwrap(), Var::from_tensor(&weights).unwrap());
        let of = |weights: &Tensor| feed_forward(&x, weights, &SPEC).unwrap().sum_all().unwrap().backward().unwrap();
        let (frozen, learnt) = (of(&weights), of(&learning));
        assert_close("dx", frozen.get(&x).unwrap(), learnt.get(&x).unwrap(), 0.0);
        assert!(frozen.get(&weights).is_none());
        assert!(learnt.get(&learning).is_some());
    }

    #[test]
    fn weights_of_another_shape_are_refused() {
        let [x, weights] = inputs(5, &SPEC, DType::F32);
        assert!(feed_forward(&x, &weights.narrow(0, 1, 20).unwrap(), &SPEC).is_err());
        assert!(feed_forward(&x.t().unwrap(), &weights, &SPEC).is_err());
    }
}
