//! Linear maps without bias.

use crate::element::Element;
use crate::error::{Error, Result, shape_mismatch};
use crate::product::{FEW_ROWS, Packed, View, multiply_transposed, product, product_of_few_rows};
use crate::storage::{Values, dispatch, prepare, require_weight_dtype, slice_of, tensor_of};
use crate::token_log_prob::{TokenLogProb, token_log_probs};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

const OP: &str = "linear";

/// `y = x W^T`.
///
/// The slow twin is [`crate::oracle::linear`].
///
/// # Shapes
/// `x` (.., in), `weight` (out, in), result (.., out).
///
/// # Errors
/// [`crate::Error`] when shapes, element types or devices do not fit.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let x = prepare(x, OP, "x")?;
    let weight = prepare(weight, OP, "weight")?;
    require_weight_dtype(&weight, &x, OP, "weight")?;
    let &[n_out, n_in] = weight.dims() else {
        return Err(shape_mismatch(OP, "weight", "[out, in]", weight.shape()));
    };
    if x.dims().last() != Some(&n_in) {
        return Err(shape_mismatch(OP, "x", format!("[.., {n_in}]"), x.shape()));
    }
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return Ok(crate::cuda::linear(&x, &weight)?);
    }
    Ok(x.apply_op2(&weight, Linear { n_in, n_out })?)
}

/// A weight that many products are made with, laid out for them once; without gradient.
///
/// Decoding reads all weights for each token, so that laying them out anew, or reading them as they lie on disk, would cost as
/// much as the products.
#[derive(Clone, Debug)]
pub struct PackedWeight {
    by_column: Packed<f32>,
    /// As it lies, instead, where it is on a GPU.
    #[cfg(feature = "cuda")]
    on_gpu: Option<Tensor>,
    n_in: usize,
    n_out: usize,
}

impl PackedWeight {
    /// Lays out `weight`, which is copied.
    ///
    /// # Shapes
    /// `weight` (out, in).
    ///
    /// # Errors
    /// [`crate::Error`] when it is no f32 matrix, or on a GPU no f32 or bf16 matrix.
    pub fn new(weight: &Tensor) -> Result<Self> {
        let weight = prepare(weight, OP, "weight")?;
        let &[n_out, n_in] = weight.dims() else {
            return Err(shape_mismatch(OP, "weight", "[out, in]", weight.shape()));
        };
        #[cfg(feature = "cuda")]
        if weight.device().is_cuda() {
            return Ok(Self { by_column: Packed::empty(), on_gpu: Some(weight.detach()), n_in, n_out });
        }
        let values = Values::of(&weight);
        let by_column = Packed::new(View::dense(values.as_slice::<f32>()?, n_out, n_in).transposed());
        Ok(Self {
            by_column,
            #[cfg(feature = "cuda")]
            on_gpu: None,
            n_in,
            n_out,
        })
    }

    /// The weight where it is on a GPU, (out, in).
    #[cfg(feature = "cuda")]
    pub(crate) fn on_gpu(&self) -> Option<&Tensor> {
        self.on_gpu.as_ref()
    }

    /// `y = x W^T`, the same bits as [`linear`] gives.
    ///
    /// # Shapes
    /// `x` (.., in), result (.., out).
    ///
    /// # Errors
    /// [`crate::Error`] when shape, element type or device do not fit.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let x = prepare(&x.detach(), OP, "x")?;
        if x.dims().last() != Some(&self.n_in) {
            return Err(shape_mismatch(OP, "x", format!("[.., {}]", self.n_in), x.shape()));
        }
        #[cfg(feature = "cuda")]
        if let Some(weight) = &self.on_gpu {
            return Ok(crate::cuda::linear(&x, weight)?);
        }
        let values = Values::of(&x);
        let rows = rows_of(values.as_slice::<f32>()?, self.n_in);
        let y = if rows.rows() > FEW_ROWS {
            product(rows, &self.by_column)
        } else {
            product_of_few_rows(rows, &self.by_column)
        };
        let mut dims = x.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = self.n_out;
        }
        Ok(tensor_of(y, dims)?)
    }

    /// Rows of the weight as they were given, so that an embedding table that is the output layer too need not be kept twice.
    ///
    /// # Shapes
    /// `rows` N, result (N, in).
    ///
    /// # Errors
    /// [`Error::IdOutOfRange`] for a row of `out` or more; [`crate::Error`] where the weight is on a GPU.
    pub fn rows(&self, rows: &[u32]) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(weight) = &self.on_gpu {
            let found = weight.device().location();
            return Err(Error::UnsupportedDevice { op: OP, what: "weight", found });
        }
        if let Some((index, &id)) = rows.iter().enumerate().find(|&(_, &row)| row as usize >= self.n_out) {
            return Err(Error::IdOutOfRange { op: OP, what: "row", id, index, size: self.n_out });
        }
        let values: Vec<f32> = rows.iter().flat_map(|&row| self.by_column.column(row as usize)).collect();
        Ok(tensor_of(values, (rows.len(), self.n_in))?)
    }

    /// The weight as it was given.
    ///
    /// # Shapes
    /// Result (out, in).
    ///
    /// # Errors
    /// As [`PackedWeight::rows`].
    pub fn to_tensor(&self) -> Result<Tensor> {
        self.rows(&(0..self.n_out as u32).collect::<Vec<u32>>())
    }

    /// [`PackedWeight::apply`] with the result in f32 whatever the type of `x`: for logits.
    ///
    /// # Shapes
    /// `x` (.., in), result (.., out).
    ///
    /// # Errors
    /// As [`PackedWeight::apply`].
    pub fn apply_in_f32(&self, x: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(weight) = &self.on_gpu {
            let x = prepare(&x.detach(), OP, "x")?;
            if x.dims().last() != Some(&self.n_in) {
                return Err(shape_mismatch(OP, "x", format!("[.., {}]", self.n_in), x.shape()));
            }
            return Ok(crate::cuda::logits(&x, weight)?);
        }
        self.apply(x)
    }

    /// For each target, a row of `x` (never falling along the targets) and a token, how likely the token is by the softmax of
    /// `x W^T`: what [`PackedWeight::apply`] and then [`crate::log_sum_exp`] give, without all logits of any row at once.
    ///
    /// # Shapes
    /// `x` (N, in).
    ///
    /// # Errors
    /// [`Error::IdOutOfRange`] for a row or a token that does not exist; [`crate::Error`] when shape, element type or device (the CPU)
    /// do not fit.
    pub fn token_log_probs(&self, x: &Tensor, targets: &[(usize, u32)]) -> Result<Vec<TokenLogProb>> {
        const OP: &str = "token_log_probs";
        let x = prepare(&x.detach(), OP, "x")?;
        if !x.device().is_cpu() {
            return Err(Error::UnsupportedDevice { op: OP, what: "x", found: x.device().location() });
        }
        let &[n_rows, n_in] = x.dims() else {
            return Err(shape_mismatch(OP, "x", "[N, in]", x.shape()));
        };
        if n_in != self.n_in {
            return Err(shape_mismatch(OP, "x", format!("[N, {}]", self.n_in), x.shape()));
        }
        for (index, &(row, id)) in targets.iter().enumerate() {
            for (what, id, size) in [("row", row as u32, n_rows), ("target", id, self.n_out)] {
                if id as usize >= size {
                    return Err(Error::IdOutOfRange { op: OP, what, id, index, size });
                }
            }
        }
        let values = Values::of(&x);
        Ok(token_log_probs(rows_of(values.as_slice::<f32>()?, n_in), &self.by_column, targets))
    }
}

struct Linear {
    n_in: usize,
    n_out: usize,
}

impl Linear {
    fn forward<T: Element>(&self, x: &[T], weight: &[T]) -> Vec<T> {
        multiply_transposed(rows_of(x, self.n_in), View::dense(weight, self.n_out, self.n_in))
    }

    /// `dx = dy W`
    fn input_gradient<T: Element>(&self, weight: &[T], dy: &[T]) -> Vec<T> {
        product(rows_of(dy, self.n_out), &Packed::new(View::dense(weight, self.n_out, self.n_in)))
    }

    /// `dW = dy^T x`
    fn weight_gradient<T: Element>(&self, x: &[T], dy: &[T]) -> Vec<T> {
        product(rows_of(dy, self.n_out).transposed(), &Packed::new(rows_of(x, self.n_in)))
    }
}

fn rows_of<T: Element>(values: &[T], width: usize) -> View<'_, T> {
    View::dense(values, values.len().checked_div(width).unwrap_or(0), width)
}

impl CustomOp2 for Linear {
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
        let mut dims = x_layout.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = self.n_out;
        }
        dispatch!(x.dtype(), OP, T => {
            let y = self.forward::<T>(slice_of(x, x_layout)?, slice_of(weight, weight_layout)?);
            Ok((candle_core::WithDType::to_cpu_storage_owned(y), dims.into()))
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
            let dy = dy_values.as_slice::<T>()?;
            let dx = if x.track_op() {
                Some(tensor_of(self.input_gradient(w_values.as_slice()?, dy), x.shape())?)
            } else {
                None
            };
            let dw = if weight.track_op() {
                Some(tensor_of(self.weight_gradient(x_values.as_slice()?, dy), weight.shape())?)
            } else {
                None
            };
            Ok((dx, dw))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{assert_equals_differences, assert_equals_oracle, assert_same_for_any_threads, draw};
    use crate::oracle;
    use candle_core::{DType, Var};

    fn fast(inputs: &[Tensor]) -> candle_core::Result<Tensor> {
        Ok(linear(&inputs[0], &inputs[1])?)
    }

    #[test]
    fn equals_the_oracle_for_odd_shapes() {
        for (dims, n_out) in [(vec![2, 3, 5], 7), (vec![1, 1], 1), (vec![131, 37], 70), (vec![97, 300], 33)] {
            let n_in = *dims.last().unwrap();
            let inputs = [draw(1, &dims, DType::F32), draw(2, &[n_out, n_in], DType::F32)];
            assert_equals_oracle(&inputs, &fast, &|i| oracle::linear(&i[0], &i[1]));
        }
    }

    #[test]
    fn gradients_are_difference_quotients() {
        let inputs = [draw(3, &[3, 2, 5], DType::F64), draw(4, &[4, 5], DType::F64)];
        assert_equals_differences(&inputs, &fast);
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let inputs = [draw(5, &[200, 40], DType::F32), draw(6, &[90, 40], DType::F32)];
        assert_same_for_any_threads(&inputs, &fast);
    }

    #[test]
    fn a_row_alone_equals_the_row_in_a_batch_to_the_last_bit() {
        let (x, weight) = (draw(7, &[150, 300], DType::F32), draw(8, &[70, 300], DType::F32));
        let together = linear(&x, &weight).unwrap().to_vec2::<f32>().unwrap();
        for row in [0, 1, 77, 149] {
            let alone = linear(&x.narrow(0, row, 1).unwrap(), &weight).unwrap();
            assert_eq!(alone.to_vec2::<f32>().unwrap()[0], together[row]);
        }
    }

    #[test]
    fn a_packed_weight_gives_the_same_bits() {
        for (rows, n_in, n_out) in [(1, 5, 3), (32, 300, 130), (96, 64, 64), (150, 33, 200)] {
            let (x, weight) = (draw(13, &[rows, n_in], DType::F32), draw(14, &[n_out, n_in], DType::F32));
            let found = PackedWeight::new(&weight).unwrap().apply(&x).unwrap();
            assert_eq!(found.to_vec2::<f32>().unwrap(), linear(&x, &weight).unwrap().to_vec2::<f32>().unwrap());
        }
        let packed = PackedWeight::new(&draw(15, &[4, 3], DType::F32)).unwrap();
        assert!(packed.apply(&draw(16, &[2, 4], DType::F32)).is_err());
        assert!(PackedWeight::new(&draw(15, &[4], DType::F32)).is_err());
    }

    #[test]
    fn a_packed_weight_gives_its_rows_back() {
        for (n_in, n_out) in [(5, 3), (300, 130), (64, 64), (1, 70)] {
            let weight = draw(17, &[n_out, n_in], DType::F32);
            let packed = PackedWeight::new(&weight).unwrap();
            let rows = [n_out as u32 - 1, 0, n_out as u32 / 2, 0];
            let expected = oracle::embedding(&Tensor::new(&rows, weight.device()).unwrap(), &weight).unwrap();
            assert_eq!(packed.rows(&rows).unwrap().to_vec2::<f32>().unwrap(), expected.to_vec2::<f32>().unwrap());
            assert_eq!(packed.to_tensor().unwrap().to_vec2::<f32>().unwrap(), weight.to_vec2::<f32>().unwrap());
            assert!(packed.rows(&[n_out as u32]).is_err());
        }
    }

    #[test]
    fn transposed_and_shifted_inputs_are_read_right() {
        let x = draw(9, &[6, 5], DType::F32).t().unwrap();
        let weight = draw(10, &[9, 6], DType::F32).narrow(0, 2, 4).unwrap();
        let expected = oracle::linear(&x.contiguous().unwrap(), &weight.contiguous().unwrap()).unwrap();
        crate::check::assert_close("y", &linear(&x, &weight).unwrap(), &expected, 1e-6);
    }

    #[test]
    fn a_frozen_weight_gets_no_gradient() {
        let x = Var::from_tensor(&draw(11, &[2, 3], DType::F32)).unwrap();
        let weight = draw(12, &[4, 3], DType::F32);
        let grads = linear(&x, &weight).unwrap().sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&x).is_some());
        assert!(grads.get(&weight).is_none());
    }
}
