//! The output head: logits, log-probabilities and their gradients, never all rows by the vocabulary at once.

use crate::element::{Element, largest, sum_terms};
use crate::error::{Error, Result, length_mismatch, shape_mismatch};
use crate::parallel::{for_each_block, for_each_block_pair};
use crate::product::{Into, Packed, View, multiply, multiply_here};
use crate::simd::vectorize;
use crate::storage::{Values, dispatch, prepare, require_weight_dtype, slice_of, tensor_of};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};
use std::sync::OnceLock;

/// The target of a row that takes no part.
pub const IGNORE: u32 = u32::MAX;

/// Rows whose logits exist at the same time.
const CHUNK_ROWS: usize = 256;
/// Rows of one unit of parallel work.
const BLOCK_ROWS: usize = 24;

/// `sum_i w_i * -log softmax(W h_i)[t_i]`, a weighted sum of token losses in nats.
///
/// Rows with target [`IGNORE`] or weight 0 cost nothing. When a gradient will be needed, it is computed together with
/// the value and kept: that spares the backward pass a second product with the vocabulary, at the price of memory for
/// one gradient of `h` and one of `weight`.
///
/// The slow twin is [`crate::oracle::linear_cross_entropy`].
///
/// # Shapes
/// `h` (N, d), `weight` (V, d), `targets` N, `weights` N, result a scalar.
///
/// # Units
/// Nats.
///
/// # Errors
/// [`Error::IdOutOfRange`] for a target of V or more; [`Error`] when shapes, element types or devices do not fit.
pub fn linear_cross_entropy(h: &Tensor, weight: &Tensor, targets: &[u32], weights: &[f32]) -> Result<Tensor> {
    const OP: &str = "linear_cross_entropy";
    let (h, weight, shape) = check(h, weight, targets, OP)?;
    if weights.len() != targets.len() {
        return Err(length_mismatch(OP, "weights", targets.len(), weights.len()));
    }
    let rows: Vec<usize> = (0..targets.len()).filter(|&i| targets[i] != IGNORE && weights[i] != 0.0).collect();
    #[cfg(feature = "cuda")]
    if h.device().is_cuda() {
        return Ok(crate::cuda::linear_cross_entropy(&h, &weight, targets, weights, &rows)?);
    }
    let op = CrossEntropy {
        head: Head::new(shape, targets, rows),
        weights: weights.to_vec(),
        with_gradient: h.track_op() || weight.track_op(),
        gradient: OnceLock::new(),
    };
    Ok(h.apply_op2(&weight, op)?)
}

/// `log softmax(W h_i)[t_i]` for each row, 0 where the target is [`IGNORE`].
///
/// The gradient of each row is scaled by what comes from above, so any loss may be built on the result. The backward
/// pass computes the logits again.
///
/// The slow twin is [`crate::oracle::linear_log_probs`].
///
/// # Shapes
/// `h` (N, d), `weight` (V, d), `targets` N, result (N).
///
/// # Units
/// Nats.
///
/// # Errors
/// [`Error::IdOutOfRange`] for a target of V or more; [`Error`] when shapes, element types or devices do not fit.
pub fn linear_log_probs(h: &Tensor, weight: &Tensor, targets: &[u32]) -> Result<Tensor> {
    const OP: &str = "linear_log_probs";
    let (h, weight, shape) = check(h, weight, targets, OP)?;
    let rows: Vec<usize> = (0..targets.len()).filter(|&i| targets[i] != IGNORE).collect();
    #[cfg(feature = "cuda")]
    if h.device().is_cuda() {
        return Ok(crate::cuda::linear_log_probs(&h, &weight, targets, &rows)?);
    }
    Ok(h.apply_op2(&weight, LogProbs { head: Head::new(shape, targets, rows) })?)
}

fn check(h: &Tensor, weight: &Tensor, targets: &[u32], op: &'static str) -> Result<(Tensor, Tensor, HeadShape)> {
    let h = prepare(h, op, "h")?;
    let weight = prepare(weight, op, "weight")?;
    require_weight_dtype(&weight, &h, op, "weight")?;
    let &[vocab, width] = weight.dims() else {
        return Err(shape_mismatch(op, "weight", "[V, d]", weight.shape()));
    };
    if vocab == 0 || width == 0 {
        return Err(shape_mismatch(op, "weight", "[V, d], neither 0", weight.shape()));
    }
    if h.dims() != [targets.len(), width] {
        let expected = format!("[{}, {width}]", targets.len());
        return Err(shape_mismatch(op, "h", expected, h.shape()));
    }
    for (index, &id) in targets.iter().enumerate() {
        if id != IGNORE && id as usize >= vocab {
            return Err(Error::IdOutOfRange { op, what: "target", id, index, size: vocab });
        }
    }
    Ok((h, weight, HeadShape { vocab, width }))
}

#[derive(Clone, Copy)]
struct HeadShape {
    vocab: usize,
    width: usize,
}

/// The rows that take part and their targets.
struct Head {
    shape: HeadShape,
    n_rows: usize,
    rows: Vec<usize>,
    targets: Vec<u32>,
}

/// Gradients of `h` and `weight`.
struct Gradient<T> {
    h: Vec<T>,
    weight: Vec<T>,
}

impl Head {
    fn new(shape: HeadShape, targets: &[u32], rows: Vec<usize>) -> Self {
        let active = rows.iter().map(|&row| targets[row]).collect();
        Self { shape, n_rows: targets.len(), rows, targets: active }
    }

    /// The rows of `h` that take part, one after the other.
    fn gather<'a, T: Element>(&self, h: &'a [T]) -> std::borrow::Cow<'a, [T]> {
        if self.rows.len() == self.n_rows {
            return h.into();
        }
        let mut active = Vec::with_capacity(self.rows.len() * self.shape.width);
        for &row in &self.rows {
            active.extend_from_slice(&h[row * self.shape.width..][..self.shape.width]);
        }
        active.into()
    }

    /// Log-probabilities of the targets of the rows that take part.
    fn log_probs<T: Element>(&self, h: &[T], weight: &[T]) -> Vec<T> {
        let HeadShape { vocab, width } = self.shape;
        let h = self.gather(h);
        let by_column = Packed::new(View::dense(weight, vocab, width).transposed());
        let mut log_probs = vec![T::ZERO; self.rows.len()];
        for_each_block(&mut log_probs, BLOCK_ROWS, |idx, log_probs| {
            let first = idx * BLOCK_ROWS;
            let h = View::dense(&h[first * width..], log_probs.len(), width);
            let mut logits = vec![T::ZERO; log_probs.len() * vocab];
            multiply_here(&mut logits, vocab, h, &by_column, 0..width, 0..vocab, Into::Overwrite);
            log_softmax_targets(&mut logits, log_probs, &self.targets[first..]);
        });
        log_probs
    }

    /// Log-probabilities and the gradient of `sum_i scales[i] * log_probs[i]` over the rows that take part.
    fn differentiate<T: Element>(&self, h: &[T], weight: &[T], scales: &[T]) -> (Vec<T>, Gradient<T>) {
        let HeadShape { vocab, width } = self.shape;
        let n_active = self.rows.len();
        let h = self.gather(h);
        let by_column = Packed::new(View::dense(weight, vocab, width).transposed());
        let by_row = Packed::new(View::dense(weight, vocab, width));
        let mut log_probs = vec![T::ZERO; n_active];
        let mut grad_h = vec![T::ZERO; n_active * width];
        let mut grad_weight = vec![T::ZERO; vocab * width];
        let mut logits = vec![T::ZERO; CHUNK_ROWS.min(n_active) * vocab];

        for first in (0..n_active).step_by(CHUNK_ROWS) {
            let chunk = first..n_active.min(first + CHUNK_ROWS);
            let logits = &mut logits[..chunk.len() * vocab];
            let log_probs = &mut log_probs[chunk.clone()];
            for_each_block_pair((logits, BLOCK_ROWS * vocab), (log_probs, BLOCK_ROWS), |idx, logits, log_probs| {
                let first = chunk.start + idx * BLOCK_ROWS;
                let h = View::dense(&h[first * width..], log_probs.len(), width);
                multiply_here(logits, vocab, h, &by_column, 0..width, 0..vocab, Into::Overwrite);
                log_softmax_targets(logits, log_probs, &self.targets[first..]);
                differentiate_logits(logits, vocab, &self.targets[first..], &scales[first..]);
            });
            let grad_logits = View::dense(&*logits, chunk.len(), vocab);
            let values = chunk.start * width..chunk.end * width;
            multiply(&mut grad_h[values.clone()], grad_logits, &by_row, Into::Overwrite);
            let h = Packed::new(View::dense(&h[values], chunk.len(), width));
            multiply(&mut grad_weight, grad_logits.transposed(), &h, Into::Add);
        }
        (log_probs, Gradient { h: self.scatter(grad_h, width), weight: grad_weight })
    }

    /// Puts values of the rows that take part where they belong, with zeros between.
    fn scatter<T: Element>(&self, active: Vec<T>, width: usize) -> Vec<T> {
        if self.rows.len() == self.n_rows {
            return active;
        }
        let mut all = vec![T::ZERO; self.n_rows * width];
        for (&row, values) in self.rows.iter().zip(active.chunks_exact(width)) {
            all[row * width..][..width].copy_from_slice(values);
        }
        all
    }
}

vectorize! {
    /// Log-probabilities of the targets; leaves the probabilities in place of the logits.
    fn log_softmax_targets<T>(logits: &mut [T], log_probs: &mut [T], targets: &[u32]) {
        if log_probs.is_empty() {
            return;
        }
        let vocab = logits.len() / log_probs.len();
        for ((row, log_prob), &target) in logits.chunks_exact_mut(vocab).zip(log_probs).zip(targets) {
            let top = largest(row);
            let target_logit = row[target as usize];
            for value in row.iter_mut() {
                *value = (*value - top).exp();
            }
            let total = sum_terms(vocab, |i| row[i]);
            *log_prob = target_logit - top - total.ln();
            let inverse = T::ONE / total;
            for value in row.iter_mut() {
                *value *= inverse;
            }
        }
    }
}

vectorize! {
    /// Turns probabilities into the gradient of `scale * log p(target)`: `scale * (onehot - p)`.
    fn differentiate_logits<T>(probs: &mut [T], vocab: usize, targets: &[u32], scales: &[T]) {
        for ((row, &target), &scale) in probs.chunks_exact_mut(vocab).zip(targets).zip(scales) {
            for value in row.iter_mut() {
                *value *= -scale;
            }
            row[target as usize] += scale;
        }
    }
}

struct CrossEntropy {
    head: Head,
    /// One per row of `h`.
    weights: Vec<f32>,
    with_gradient: bool,
    /// Of `h` and of `weight`, found with the value.
    gradient: OnceLock<(Tensor, Tensor)>,
}

impl CrossEntropy {
    fn forward<T: Element>(&self, h: &[T], weight: &[T]) -> candle_core::Result<T> {
        let weights = || self.head.rows.iter().map(|&row| f64::from(self.weights[row]));
        let log_probs = if self.with_gradient {
            let scales: Vec<T> = weights().map(|w| T::from_f64(-w)).collect();
            let (log_probs, gradient) = self.head.differentiate(h, weight, &scales);
            let HeadShape { vocab, width } = self.head.shape;
            let of_h = tensor_of(gradient.h, (self.head.n_rows, width))?;
            // An op is applied once; were it applied again, the first gradient is the same.
            let _ = self.gradient.set((of_h, tensor_of(gradient.weight, (vocab, width))?));
            log_probs
        } else {
            self.head.log_probs(h, weight)
        };
        // Rounding of a long f32 sum would show in the loss curve.
        let total: f64 = log_probs.iter().zip(weights()).map(|(lp, w)| -w * lp.to_f64()).sum();
        Ok(T::from_f64(total))
    }
}

impl CustomOp2 for CrossEntropy {
    fn name(&self) -> &'static str {
        "linear_cross_entropy"
    }

    fn cpu_fwd(
        &self,
        h: &CpuStorage,
        h_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch!(h.dtype(), self.name(), T => {
            let value = self.forward::<T>(slice_of(h, h_layout)?, slice_of(weight, weight_layout)?)?;
            Ok((candle_core::WithDType::to_cpu_storage_owned(vec![value]), Shape::from(())))
        })
    }

    fn bwd(
        &self,
        _h: &Tensor,
        _weight: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (of_h, of_weight) =
            self.gradient.get().ok_or_else(|| candle_core::Error::msg("linear_cross_entropy: no gradient was kept"))?;
        let scale = dy.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()?;
        if scale == 1.0 {
            return Ok((Some(of_h.clone()), Some(of_weight.clone())));
        }
        Ok((Some((of_h * scale)?), Some((of_weight * scale)?)))
    }
}

struct LogProbs {
    head: Head,
}

impl CustomOp2 for LogProbs {
    fn name(&self) -> &'static str {
        "linear_log_probs"
    }

    fn cpu_fwd(
        &self,
        h: &CpuStorage,
        h_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch!(h.dtype(), self.name(), T => {
            let active =
                self.head.log_probs::<T>(slice_of(h, h_layout)?, slice_of(weight, weight_layout)?);
            let all = self.head.scatter(active, 1);
            Ok((candle_core::WithDType::to_cpu_storage_owned(all), self.head.n_rows.into()))
        })
    }

    fn bwd(
        &self,
        h: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (h_values, w_values, dy_values) = (Values::of(h), Values::of(weight), Values::of(&dy));
        dispatch!(h.dtype(), self.name(), T => {
            let dy = dy_values.as_slice::<T>()?;
            let scales: Vec<T> = self.head.rows.iter().map(|&row| dy[row]).collect();
            let (_, gradient) =
                self.head.differentiate(h_values.as_slice()?, w_values.as_slice()?, &scales);
            Ok((
                Some(tensor_of(gradient.h, h.shape())?),
                Some(tensor_of(gradient.weight, weight.shape())?),
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{
        assert_close, assert_equals_differences, assert_equals_oracle, assert_same_for_any_threads, draw, values,
    };
    use crate::oracle;
    use candle_core::{DType, Var};

    /// Targets and weights with ignored rows and rows of weight 0 among them.
    fn labels(n: usize, vocab: usize) -> (Vec<u32>, Vec<f32>) {
        let target = |i: usize| if i % 5 == 3 { IGNORE } else { (i * 7 % vocab) as u32 };
        let weight = |i: usize| if i % 4 == 1 { 0.0 } else { 0.25 + i as f32 * 0.01 };
        ((0..n).map(target).collect(), (0..n).map(weight).collect())
    }

    fn inputs(n: usize, vocab: usize, width: usize, dtype: DType) -> [Tensor; 2] {
        [draw(1, &[n, width], dtype), (draw(2, &[vocab, width], dtype) * 2.0).unwrap()]
    }

    #[test]
    fn both_equal_their_oracles_for_odd_shapes() {
        for (n, vocab, width) in [(1, 1, 1), (7, 13, 5), (300, 70, 33), (600, 17, 16)] {
            let (targets, weights) = labels(n, vocab);
            let inputs = inputs(n, vocab, width, DType::F32);
            assert_equals_oracle(&inputs, &|i| Ok(linear_cross_entropy(&i[0], &i[1], &targets, &weights)?), &|i| {
                oracle::linear_cross_entropy(&i[0], &i[1], &targets, &weights)
            });
            assert_equals_oracle(&inputs, &|i| Ok(linear_log_probs(&i[0], &i[1], &targets)?), &|i| {
                oracle::linear_log_probs(&i[0], &i[1], &targets)
            });
        }
    }

    #[test]
    fn gradients_are_difference_quotients() {
        let (targets, weights) = labels(6, 5);
        let inputs = inputs(6, 5, 3, DType::F64);
        assert_equals_differences(&inputs, &|i| Ok(linear_cross_entropy(&i[0], &i[1], &targets, &weights)?));
        assert_equals_differences(&inputs, &|i| Ok(linear_log_probs(&i[0], &i[1], &targets)?));
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let (targets, weights) = labels(400, 50);
        let inputs = inputs(400, 50, 20, DType::F32);
        assert_same_for_any_threads(&inputs, &|i| Ok(linear_cross_entropy(&i[0], &i[1], &targets, &weights)?));
        assert_same_for_any_threads(&inputs, &|i| Ok(linear_log_probs(&i[0], &i[1], &targets)?));
    }

    #[test]
    fn ignored_rows_change_neither_the_loss_nor_the_gradient() {
        let [h, weight] = inputs(4, 6, 3, DType::F32);
        let loss = |h: &Tensor, targets: &[u32]| {
            let weight = Var::from_tensor(&weight).unwrap();
            let loss = linear_cross_entropy(h, &weight, targets, &vec![1.0; targets.len()]).unwrap();
            let grads = loss.backward().unwrap();
            (values(&loss), values(grads.get(&weight).unwrap()))
        };
        let padded = loss(&h, &[2, 0, IGNORE, IGNORE]);
        let short = loss(&h.narrow(0, 0, 2).unwrap(), &[2, 0]);
        assert_eq!(padded, short);
    }

    #[test]
    fn a_batch_without_any_target_has_loss_and_gradient_zero() {
        let [h, weight] = inputs(3, 6, 3, DType::F32);
        let (h, weight) = (Var::from_tensor(&h).unwrap(), Var::from_tensor(&weight).unwrap());
        let loss = linear_cross_entropy(&h, &weight, &[IGNORE; 3], &[1.0; 3]).unwrap();
        assert_eq!(values(&loss), [0.0]);
        let grads = loss.backward().unwrap();
        assert!(values(grads.get(&h).unwrap()).iter().all(|&g| g == 0.0));
        assert!(values(grads.get(&weight).unwrap()).iter().all(|&g| g == 0.0));
    }

    #[test]
    fn huge_logits_stay_finite() {
        let h = draw(3, &[4, 8], DType::F32);
        let weight = (draw(4, &[5, 8], DType::F32) * 1e4).unwrap();
        let targets = [0, 1, 2, 3];
        let fast = linear_log_probs(&h, &weight, &targets).unwrap();
        assert_close("log p", &fast, &oracle::linear_log_probs(&h, &weight, &targets).unwrap(), 1e-5);
    }

    #[test]
    fn without_a_variable_no_gradient_is_kept_and_the_value_is_the_same() {
        let (targets, weights) = labels(40, 9);
        let [h, weight] = inputs(40, 9, 6, DType::F32);
        let var = Var::from_tensor(&h).unwrap();
        let alone = linear_cross_entropy(&h, &weight, &targets, &weights).unwrap();
        let tracked = linear_cross_entropy(&var, &weight, &targets, &weights).unwrap();
        assert_eq!(values(&alone), values(&tracked));
    }

    #[test]
    fn a_target_outside_of_the_vocabulary_is_named() {
        let [h, weight] = inputs(2, 3, 4, DType::F32);
        let error = linear_log_probs(&h, &weight, &[0, 3]).unwrap_err();
        assert_eq!(error.to_string(), "linear_log_probs: target 3 at index 1 is not below 3");
    }
}
