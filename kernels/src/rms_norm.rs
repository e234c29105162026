//! Root-mean-square normalisation.

use crate::element::{Element, sum_terms};
use crate::error::{Result, shape_mismatch};
use crate::parallel::{build_blocks, for_each_block_pair};
use crate::simd::vectorize;
use crate::storage::{Values, dispatch, prepare, require_weight_dtype, slice_of, tensor_of};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

const OP: &str = "rms_norm";
/// Rows of one unit of parallel work and of one partial sum of the weight gradient.
const BLOCK_ROWS: usize = 64;

/// `y = x / sqrt(mean(x^2) + eps) * weight`, the mean over the last axis.
///
/// The slow twin is [`crate::oracle::rms_norm`].
///
/// # Shapes
/// `x` (.., d), `weight` (d), result (.., d).
///
/// # Errors
/// [`crate::Error`] when shapes, element types or devices do not fit.
///
/// # Reference
/// Zhang and Sennrich 2019, arXiv:1910.07467, equation 4.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let x = prepare(x, OP, "x")?;
    let weight = prepare(weight, OP, "weight")?;
    require_weight_dtype(&weight, &x, OP, "weight")?;
    let width = x.dims().last().copied().unwrap_or(0);
    if width == 0 {
        return Err(shape_mismatch(OP, "x", "[.., d] with d > 0", x.shape()));
    }
    if weight.dims() != [width] {
        return Err(shape_mismatch(OP, "weight", format!("[{width}]"), weight.shape()));
    }
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return Ok(crate::cuda::rms_norm(&x, &weight, eps)?);
    }
    Ok(x.apply_op2(&weight, RmsNorm { width, eps })?)
}

struct RmsNorm {
    width: usize,
    eps: f64,
}

impl RmsNorm {
    fn forward<T: Element>(&self, x: &[T], weight: &[T]) -> Vec<T> {
        let block_len = BLOCK_ROWS * self.width;
        build_blocks(x.len(), block_len, |idx, y| {
            normalize_rows(y, &x[idx * block_len..][..y.len()], weight, T::from_f64(self.eps));
        })
    }

    fn backward<T: Element>(&self, x: &[T], weight: &[T], dy: &[T]) -> (Vec<T>, Vec<T>) {
        let d = self.width;
        let block_len = BLOCK_ROWS * d;
        let mut dx = vec![T::ZERO; x.len()];
        let n_blocks = x.len().div_ceil(block_len);
        let mut partial = vec![T::ZERO; n_blocks * d];
        for_each_block_pair((&mut dx, block_len), (&mut partial, d), |idx, dx, dw| {
            let rows = idx * block_len..idx * block_len + dx.len();
            differentiate_rows(dx, dw, &x[rows.clone()], weight, &dy[rows], T::from_f64(self.eps));
        });
        let mut dw = vec![T::ZERO; d];
        for block in partial.chunks(d) {
            for (total, &part) in dw.iter_mut().zip(block) {
                *total += part;
            }
        }
        (dx, dw)
    }
}

vectorize! {
    /// `y = x / rms(x) * weight`, row by row.
    pub(crate) fn normalize_rows<T>(y: &mut [T], x: &[T], weight: &[T], eps: T) {
        let d = weight.len();
        for (y, x) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
            let scale = inverse_rms(x, eps);
            for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * scale * w;
            }
        }
    }
}

vectorize! {
    /// Gradients of [`normalize_rows`]; that of the weight is added to `dw`.
    pub(crate) fn differentiate_rows<T>(dx: &mut [T], dw: &mut [T], x: &[T], weight: &[T], dy: &[T], eps: T) {
        let d = weight.len();
        for ((dx, x), dy) in dx.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(dy.chunks_exact(d)) {
            let scale = inverse_rms(x, eps);
            let along = sum_terms(d, |i| dy[i] * weight[i] * x[i]);
            let pull = along * scale * scale * scale / T::from_f64(d as f64);
            for i in 0..d {
                dx[i] = dy[i] * weight[i] * scale - x[i] * pull;
                dw[i] += dy[i] * x[i] * scale;
            }
        }
    }
}

#[allow(clippy::inline_always)]
#[inline(always)]
fn inverse_rms<T: Element>(x: &[T], eps: T) -> T {
    let squares = sum_terms(x.len(), |i| x[i] * x[i]);
    T::ONE / (squares / T::from_f64(x.len() as f64) + eps).sqrt()
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch!(x.dtype(), OP, T => {
            let y = self.forward::<T>(slice_of(x, x_layout)?, slice_of(weight, weight_layout)?);
            Ok((candle_core::WithDType::to_cpu_storage_owned(y), x_layout.shape().clone()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (x_values, w_values, dy_values) = (Values::of(x), Values::of(weight), Values::of(&dy));
        dispatch!(x.dtype(), OP, T => {
            let (dx, dw) =
                self.backward::<T>(x_values.as_slice()?, w_values.as_slice()?, dy_values.as_slice()?);
            Ok((Some(tensor_of(dx, x.shape())?), Some(tensor_of(dw, weight.shape())?)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_equals_differences, assert_equals_oracle, assert_same_for_any_threads, draw};
    use crate::oracle;
    use candle_core::DType;

    const EPS: f64 = 1e-5;

    fn fast(inputs: &[Tensor]) -> candle_core::Result<Tensor> {
        Ok(rms_norm(&inputs[0], &inputs[1], EPS)?)
    }

    #[test]
    fn equals_the_oracle_for_odd_shapes() {
        for (dims, width) in [(vec![3, 5, 7], 7), (vec![1, 2], 2), (vec![130, 33], 33), (vec![16], 16)] {
            let inputs = [draw(1, &dims, DType::F32), draw(2, &[width], DType::F32)];
            assert_equals_oracle(&inputs, &fast, &|i| oracle::rms_norm(&i[0], &i[1], EPS));
        }
    }

    #[test]
    fn gradients_are_difference_quotients() {
        let inputs = [draw(3, &[4, 6], DType::F64), draw(4, &[6], DType::F64)];
        assert_equals_differences(&inputs, &fast);
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let inputs = [draw(5, &[300, 40], DType::F32), draw(6, &[40], DType::F32)];
        assert_same_for_any_threads(&inputs, &fast);
    }

    #[test]
    fn a_weight_of_the_wrong_width_is_named() {
        let error = rms_norm(&draw(1, &[2, 4], DType::F32), &draw(2, &[5], DType::F32), EPS).unwrap_err();
        assert_eq!(error.to_string(), "rms_norm: `weight` has shape [5], expected [4]");
    }
}
