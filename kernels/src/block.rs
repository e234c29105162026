//! What both halves of a layer share: all weights of a half in one tensor, and one node of the graph.

use crate::element::Element;
use crate::error::{Result, shape_mismatch};
use crate::storage::{Values, dispatch, prepare, require_weight_dtype, slice_of, tensor_of};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

/// Rows that go through a block together: few enough that all of their values stay in the cache of a core.
pub(crate) const BLOCK_ROWS: usize = 48;

/// A function of rows of the residual stream and of weights, which keeps in itself what its backward pass needs.
pub(crate) trait Block: Send + Sync {
    /// Name of the operation.
    const OP: &'static str;

    /// The rows that come out; as many as went in.
    fn forward<T: Element>(&self, x: &[T], weights: &[T]) -> candle_core::Result<Vec<T>>;

    /// Gradients of `x` and, where `weights` learn, of these.
    fn backward<T: Element>(
        &self,
        x: &[T],
        weights: &[T],
        dy: &[T],
        learns: bool,
    ) -> candle_core::Result<(Vec<T>, Option<Vec<T>>)>;
}

/// `x` and `weights` as a block reads them, with whether it has to keep anything for a backward pass.
pub(crate) fn prepare_block(
    x: &Tensor,
    weights: &Tensor,
    n_weights: usize,
    op: &'static str,
) -> Result<(Tensor, Tensor, bool)> {
    let x = prepare(x, op, "x")?;
    let weights = prepare(weights, op, "weights")?;
    require_weight_dtype(&weights, &x, op, "weights")?;
    if weights.dims() != [n_weights] {
        return Err(shape_mismatch(op, "weights", format!("[{n_weights}]"), weights.shape()));
    }
    let keeps = x.track_op() || weights.track_op();
    Ok((x, weights, keeps))
}

/// A block as a node of candle's graph.
pub(crate) struct Node<B>(pub(crate) B);

impl<B: Block> CustomOp2 for Node<B> {
    fn name(&self) -> &'static str {
        B::OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch!(x.dtype(), B::OP, T => {
            let y = self.0.forward::<T>(slice_of(x, x_layout)?, slice_of(weights, weights_layout)?)?;
            Ok((candle_core::WithDType::to_cpu_storage_owned(y), x_layout.shape().clone()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        weights: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (x_values, w_values, dy_values) = (Values::of(x), Values::of(weights), Values::of(&dy));
        dispatch!(x.dtype(), B::OP, T => {
            let (x_slice, w_slice, dy_slice) = (x_values.as_slice::<T>()?, w_values.as_slice()?, dy_values.as_slice()?);
            let (dx, grad) = self.0.backward(x_slice, w_slice, dy_slice, weights.track_op())?;
            let grad = grad.map(|grad| tensor_of(grad, weights.shape())).transpose()?;
            Ok((Some(tensor_of(dx, x.shape())?), grad))
        })
    }
}
