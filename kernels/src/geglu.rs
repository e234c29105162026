//! The gated activation of Gemma's feed-forward layer, for inference.

use crate::error::{Error, Result, shape_mismatch};
use crate::parallel::build_blocks;
use crate::simd::vectorize;
use crate::storage::{Values, dispatch, prepare, tensor_of};
use crate::swiglu::sigmoid;
use candle_core::Tensor;

const OP: &str = "geglu";
/// Rows of one unit of parallel work.
const BLOCK_ROWS: usize = 32;

/// `y = gelu(gate) * up` with `gelu(z) = z / 2 (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3)))`, gate and up side by side in one
/// tensor. There is no gradient.
///
/// The slow twin is [`crate::oracle::geglu`].
///
/// # Shapes
/// `gate_up` (.., 2f) holding gate | up, result (.., f).
///
/// # Errors
/// [`crate::Error`] when the last axis is odd, the element type does not fit, or it is not on the CPU.
///
/// # Reference
/// Shazeer 2020, arXiv:2002.05202, equation 6; the approximation is that of Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.
pub fn geglu(gate_up: &Tensor) -> Result<Tensor> {
    let gate_up = prepare(&gate_up.detach(), OP, "gate_up")?;
    if !gate_up.device().is_cpu() {
        return Err(Error::UnsupportedDevice { op: OP, what: "gate_up", found: gate_up.device().location() });
    }
    let Some(&both) = gate_up.dims().last().filter(|&&width| width > 0 && width % 2 == 0) else {
        return Err(shape_mismatch(OP, "gate_up", "[.., 2f]", gate_up.shape()));
    };
    let width = both / 2;
    let mut dims = gate_up.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = width;
    }
    let values = Values::of(&gate_up);
    Ok(dispatch!(gate_up.dtype(), OP, T => {
        let gate_up = values.as_slice::<T>()?;
        let block_len = BLOCK_ROWS * width;
        let y = build_blocks(gate_up.len() / 2, block_len, |idx, y| {
            gate_rows(y, &gate_up[2 * idx * block_len..][..2 * y.len()], width);
        });
        tensor_of(y, dims)
    })?)
}

vectorize! {
    /// `y = gelu(gate) * up` for rows of `width`.
    fn gate_rows<T>(y: &mut [T], gate_up: &[T], width: usize) {
        // 1 + tanh(u) = 2 sigmoid(2u)
        let (linear, cubic) = (T::from_f64(2.0 * INNER), T::from_f64(2.0 * INNER * 0.044715));
        for (y, gate_up) in y.chunks_exact_mut(width).zip(gate_up.chunks_exact(2 * width)) {
            let (gate, up) = gate_up.split_at(width);
            for ((y, &z), &up) in y.iter_mut().zip(gate).zip(up) {
                *y = z * sigmoid(z * (linear + cubic * z * z)) * up;
            }
        }
    }
}

/// `sqrt(2 / pi)`
const INNER: f64 = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_close, draw};
    use crate::oracle;
    use candle_core::{DType, Device};

    #[test]
    fn equals_the_oracle_for_odd_shapes() {
        for dims in [vec![3, 5, 14], vec![1, 2], vec![70, 66], vec![2]] {
            for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F64, 1e-12)] {
                let wide = (draw(1, &dims, dtype) * 8.0).unwrap();
                assert_close("y", &geglu(&wide).unwrap(), &oracle::geglu(&wide).unwrap(), tolerance);
            }
        }
    }

    #[test]
    fn extreme_gates_stay_finite() {
        let gate_up = Tensor::new(&[-1e4_f32, 1e4, 1.0, 1.0], &Device::Cpu).unwrap();
        assert_eq!(geglu(&gate_up).unwrap().to_vec1::<f32>().unwrap(), [0.0, 1e4]);
    }

    #[test]
    fn an_odd_width_is_refused() {
        assert!(geglu(&draw(4, &[2, 3], DType::F32)).is_err());
    }
}
