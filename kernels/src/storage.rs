//! Between candle's tensors and plain slices.

use crate::element::Element;
use crate::error::{Error, Result};
use candle_core::{CpuStorage, DType, Device, Layout, Shape, Storage, StorageRef, Tensor};

/// The values of a contiguous tensor on the CPU, locked for reading.
pub(crate) struct Values<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> Values<'a> {
    pub(crate) fn of(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self { storage, layout }
    }

    pub(crate) fn as_slice<T: Element>(&self) -> candle_core::Result<&[T]> {
        match &*self.storage {
            Storage::Cpu(storage) => slice_of(storage, self.layout),
            _ => Err(candle_core::Error::msg("expected a tensor on the CPU")),
        }
    }
}

/// The values that `layout` shows of `storage`.
pub(crate) fn slice_of<'a, T: Element>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [T]> {
    let all = storage.as_slice::<T>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&all[start..end]),
        None => Err(candle_core::Error::RequiresContiguous { op: "kernels" }),
    }
}

/// A CPU tensor made of `values`, without a copy.
pub(crate) fn tensor_of<T: Element>(values: Vec<T>, shape: impl Into<Shape>) -> candle_core::Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// Checks that `tensor` is of a float type that its device computes with, and returns it with its elements in row-major
/// order: f32 or f64 on the CPU, f32 or bf16 on a GPU where those are built in.
pub(crate) fn prepare(tensor: &Tensor, op: &'static str, what: &'static str) -> Result<Tensor> {
    let on_gpu = cfg!(feature = "cuda") && tensor.device().is_cuda();
    if !tensor.device().is_cpu() && !on_gpu {
        return Err(Error::UnsupportedDevice { op, what, found: tensor.device().location() });
    }
    let (other, expected) = if on_gpu { (DType::BF16, "f32 or bf16") } else { (DType::F64, "f32 or f64") };
    if tensor.dtype() != DType::F32 && tensor.dtype() != other {
        return Err(Error::UnsupportedDtype { op, what, expected, found: tensor.dtype() });
    }
    Ok(tensor.contiguous()?)
}

/// Checks that weights have the element type of `like`; on a GPU activations in bf16 take weights in f32 too.
pub(crate) fn require_weight_dtype(tensor: &Tensor, like: &Tensor, op: &'static str, what: &'static str) -> Result<()> {
    let is_wider = like.device().is_cuda() && (like.dtype(), tensor.dtype()) == (DType::BF16, DType::F32);
    if tensor.dtype() == like.dtype() || is_wider {
        return Ok(());
    }
    Err(Error::UnsupportedDtype { op, what, expected: like.dtype().as_str(), found: tensor.dtype() })
}

/// Calls a generic function for the element type that `$dtype` names.
macro_rules! dispatch {
    ($dtype:expr, $op:expr, $T:ident => $call:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $T = f32;
                $call
            }
            candle_core::DType::F64 => {
                type $T = f64;
                $call
            }
            other => Err(candle_core::Error::UnsupportedDTypeForOp(other, $op)),
        }
    };
}
pub(crate) use dispatch;
