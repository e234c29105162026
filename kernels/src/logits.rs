//! What is read from a row of logits: the largest, and the logarithm of the normaliser.

use crate::element::{largest, sum_terms, tanh};
use crate::error::{Error, Result};
use crate::simd::vectorize;
use crate::storage::prepare;
use candle_core::Tensor;

/// How a token is chosen from a row of logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Draw {
    /// The most likely; of equals the first.
    Greedy,
    /// The token at which the cumulated softmax of `logits / temperature` passes `u`, which is in [0, 1).
    Softmax {
        /// Positive.
        temperature: f64,
        /// Uniformly drawn.
        u: f64,
    },
}

/// Chooses on the GPU that holds `logits`: for each pick, a row and how to choose from it, the id and its log-probability (at
/// temperature 1, nats).
///
/// # Shapes
/// `logits` (N, V), f32.
///
/// # Errors
/// [`Error::UnsupportedDevice`] elsewhere than on a GPU, [`Error::IdOutOfRange`] for a row that does not exist.
pub fn choose(logits: &Tensor, picks: &[(usize, Draw)]) -> Result<Vec<(u32, f32)>> {
    const OP: &str = "choose";
    let logits = prepare(logits, OP, "logits")?;
    let (size, _) = logits.dims2()?;
    if let Some((index, &(row, _))) = picks.iter().enumerate().find(|(_, (row, _))| *row >= size) {
        return Err(Error::IdOutOfRange { op: OP, what: "row", id: row as u32, index, size });
    }
    #[cfg(feature = "cuda")]
    if logits.device().is_cuda() {
        return Ok(crate::cuda::choose(&logits, picks)?);
    }
    Err(Error::UnsupportedDevice { op: OP, what: "logits", found: logits.device().location() })
}

/// Terms that are summed in `f32` before they are added up in `f64`.
const RUN: usize = 256;

/// Index of the largest logit; of equals the first, 0 where none is a number.
///
/// # Shapes
/// `logits` V.
pub fn argmax(logits: &[f32]) -> usize {
    let top = largest_of(logits);
    logits.iter().position(|&logit| logit == top).unwrap_or(0)
}

/// `ln sum_i exp(logits_i)`, minus infinity for no logits.
///
/// # Shapes
/// `logits` V.
///
/// # Units
/// Nats.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let top = largest_of(logits);
    let total: f64 = logits.chunks(RUN).map(|run| f64::from(sum_of_exponentials(run, top))).sum();
    f64::from(top) + total.ln()
}

vectorize! {
    pub(crate) fn cap_softly<T>(values: &mut [T], cap: T) {
        for value in values {
            *value = cap * tanh(*value / cap);
        }
    }
}

/// Bounds each logit by `cap`, smoothly: `cap * tanh(logit / cap)`.
///
/// # Reference
/// Gemma Team 2024, arXiv:2408.00118, section 2.
pub fn soft_cap(logits: &mut [f32], cap: f32) {
    cap_softly(logits, cap);
}

vectorize! {
    fn largest_of<T>(values: &[T]) -> T {
        largest(values)
    }
}

vectorize! {
    fn sum_of_exponentials<T>(values: &[T], top: T) -> T {
        let mut weights = [T::ZERO; RUN];
        for (weight, &value) in weights.iter_mut().zip(values) {
            *weight = (value - top).exp();
        }
        sum_terms(values.len(), |i| weights[i])
    }
}

#[cfg(test)]
mod tests {
    use super::{argmax, log_sum_exp, soft_cap};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_equal_their_definitions(logits in prop::collection::vec(-40.0_f32..40.0, 1..3_000)) {
            let exact = logits.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
            prop_assert!((log_sum_exp(&logits) - exact).abs() < 1e-6, "{} instead of {exact}", log_sum_exp(&logits));
            let top = logits.iter().copied().fold(f32::MIN, f32::max);
            prop_assert_eq!(argmax(&logits), logits.iter().position(|&x| x == top).unwrap());
        }
    }

    #[test]
    fn a_soft_cap_bounds_and_keeps_the_order() {
        let mut logits = [-1e4, -3.0, -0.01, 0.0, 0.01, 3.0, 29.0, 1e4_f32];
        let exact = logits.map(|x| 30.0 * (f64::from(x) / 30.0).tanh());
        soft_cap(&mut logits, 30.0);
        for (found, exact) in logits.iter().zip(exact) {
            assert!((f64::from(*found) - exact).abs() <= 1e-6 * exact.abs(), "{found} instead of {exact}");
        }
        assert!(logits.is_sorted());
    }

    #[test]
    fn of_equal_logits_the_first_is_taken() {
        let mut logits = vec![1.0_f32; 100];
        assert_eq!(argmax(&logits), 0);
        logits[37] = 2.0;
        logits[90] = 2.0;
        assert_eq!(argmax(&logits), 37);
    }

    #[test]
    fn extreme_logits_stay_finite() {
        assert!((log_sum_exp(&[-1e30, 1e30, 5.0]) - f64::from(1e30_f32)).abs() < 1.0);
        assert!((log_sum_exp(&[-1e4; 8]) + 1e4 - 8.0_f64.ln()).abs() < 1e-3);
        assert_eq!(log_sum_exp(&[]), f64::NEG_INFINITY);
    }
}
