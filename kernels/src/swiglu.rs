//! The gated activation of the feed-forward layer.

use crate::element::Element;
use crate::error::{Result, shape_mismatch};
use crate::parallel::build_blocks;
use crate::simd::vectorize;
use crate::storage::{Values, dispatch, prepare, slice_of, tensor_of};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

const OP: &str = "swiglu";
/// Rows of one unit of parallel work.
const BLOCK_ROWS: usize = 32;

/// `y = silu(gate) * up` with `silu(z) = z / (1 + e^-z)`, gate and up side by side in one tensor.
///
/// The slow twin is [`crate::oracle::swiglu`].
///
/// # Shapes
/// `gate_up` (.., 2f) holding gate | up, result (.., f).
///
/// # Errors
/// [`crate::Error`] when the last axis is odd or the element type or device does not fit.
///
/// # Reference
/// Shazeer 2020, arXiv:2002.05202, equation 6.
pub fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    let gate_up = prepare(gate_up, OP, "gate_up")?;
    let Some(&width) = gate_up.dims().last().filter(|&&width| width > 0 && width % 2 == 0) else {
        return Err(shape_mismatch(OP, "gate_up", "[.., 2f]", gate_up.shape()));
    };
    #[cfg(feature = "cuda")]
    if gate_up.device().is_cuda() {
        return Ok(crate::cuda::swiglu(&gate_up)?);
    }
    Ok(gate_up.apply_op1(Swiglu { width: width / 2 })?)
}

struct Swiglu {
    /// f
    width: usize,
}

impl Swiglu {
    fn forward<T: Element>(&self, gate_up: &[T]) -> Vec<T> {
        let block_len = BLOCK_ROWS * self.width;
        build_blocks(gate_up.len() / 2, block_len, |idx, y| {
            gate_rows(y, &gate_up[2 * idx * block_len..][..2 * y.len()], self.width);
        })
    }

    fn backward<T: Element>(&self, gate_up: &[T], dy: &[T]) -> Vec<T> {
        let block_len = 2 * BLOCK_ROWS * self.width;
        build_blocks(gate_up.len(), block_len, |idx, grad| {
            let start = idx * block_len;
            differentiate_rows(grad, &gate_up[start..][..grad.len()], &dy[start / 2..][..grad.len() / 2], self.width);
        })
    }
}

vectorize! {
    /// `y = silu(gate) * up` for rows of `width`.
    pub(crate) fn gate_rows<T>(y: &mut [T], gate_up: &[T], width: usize) {
        for (y, gate_up) in y.chunks_exact_mut(width).zip(gate_up.chunks_exact(2 * width)) {
            let (gate, up) = gate_up.split_at(width);
            for ((y, &gate), &up) in y.iter_mut().zip(gate).zip(up) {
                *y = gate * sigmoid(gate) * up;
            }
        }
    }
}

vectorize! {
    /// The gradient of [`gate_rows`] for rows of `width`.
    pub(crate) fn differentiate_rows<T>(grad: &mut [T], gate_up: &[T], dy: &[T], width: usize) {
        let rows = grad.chunks_exact_mut(2 * width).zip(gate_up.chunks_exact(2 * width));
        for ((grad, gate_up), dy) in rows.zip(dy.chunks_exact(width)) {
            let (gate, up) = gate_up.split_at(width);
            let (grad_gate, grad_up) = grad.split_at_mut(width);
            for i in 0..width {
                let s = sigmoid(gate[i]);
                let silu = gate[i] * s;
                grad_up[i] = dy[i] * silu;
                grad_gate[i] = dy[i] * up[i] * (s + silu * (T::ONE - s));
            }
        }
    }
}

#[allow(clippy::inline_always)]
#[inline(always)]
pub(crate) fn sigmoid<T: Element>(z: T) -> T {
    T::ONE / (T::ONE + (-z).exp())
}

impl CustomOp1 for Swiglu {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, gate_up: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let mut dims = layout.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = self.width;
        }
        dispatch!(gate_up.dtype(), OP, T => {
            let y = self.forward::<T>(slice_of(gate_up, layout)?);
            Ok((candle_core::WithDType::to_cpu_storage_owned(y), dims.into()))
        })
    }

    fn bwd(&self, gate_up: &Tensor, _y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let (values, dy_values) = (Values::of(gate_up), Values::of(&dy));
        dispatch!(gate_up.dtype(), OP, T => {
            let grad = self.backward::<T>(values.as_slice()?, dy_values.as_slice()?);
            Ok(Some(tensor_of(grad, gate_up.shape())?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_equals_differences, assert_equals_oracle, assert_same_for_any_threads, draw};
    use crate::oracle;
    use candle_core::DType;

    fn fast(inputs: &[Tensor]) -> candle_core::Result<Tensor> {
        Ok(swiglu(&inputs[0])?)
    }

    #[test]
    fn equals_the_oracle_for_odd_shapes() {
        for dims in [vec![3, 5, 14], vec![1, 2], vec![70, 66], vec![2]] {
            let wide = (draw(1, &dims, DType::F32) * 20.0).unwrap();
            assert_equals_oracle(&[wide], &fast, &|i| oracle::swiglu(&i[0]));
        }
    }

    #[test]
    fn gradients_are_difference_quotients() {
        assert_equals_differences(&[draw(2, &[3, 8], DType::F64)], &fast);
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        assert_same_for_any_threads(&[draw(3, &[200, 20], DType::F32)], &fast);
    }

    #[test]
    fn extreme_gates_stay_finite() {
        let gate_up = Tensor::new(&[-1e4_f32, 1e4, 1.0, 1.0], &candle_core::Device::Cpu).unwrap();
        assert_eq!(swiglu(&gate_up).unwrap().to_vec1::<f32>().unwrap(), [0.0, 1e4]);
    }

    #[test]
    fn an_odd_width_is_refused() {
        assert!(swiglu(&draw(4, &[2, 3], DType::F32)).is_err());
    }
}
