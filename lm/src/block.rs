//! The weights of a decoder as it computes with them: as they lie on disk, laid out for decoding, or both.

use crate::Result;
use candle_core::{DType, Device, Tensor};
use kernels::PackedWeight;
use std::sync::{Arc, OnceLock};

/// The weights of a block, which is computed as one: one after the other in one tensor, stored on disk apart.
///
/// While they are variables they are joined anew in each pass, so that the gradient reaches each; otherwise once.
#[derive(Debug, Clone)]
pub(crate) enum Block {
    /// Variables.
    Parts(Vec<Tensor>),
    /// One after the other, and laid out for decoding once that is needed.
    Whole { flat: Tensor, packed: OnceLock<Arc<PackedBlock>> },
    /// Laid out for decoding alone.
    Packed(Arc<PackedBlock>),
}

/// The weights of a block laid out for decoding: its norm, its first matrix and its second.
#[derive(Debug)]
pub(crate) struct PackedBlock {
    pub(crate) norm: Tensor,
    pub(crate) first: PackedWeight,
    pub(crate) second: PackedWeight,
}

/// Tensors one after the other.
fn join(parts: &[Tensor]) -> Result<Tensor> {
    let parts = parts.iter().map(Tensor::flatten_all).collect::<candle_core::Result<Vec<_>>>()?;
    Ok(Tensor::cat(&parts, 0)?)
}

impl Block {
    /// The norm and the matrices of a block, in order.
    pub(crate) fn new(parts: &[Tensor]) -> Result<Self> {
        if parts.iter().any(Tensor::track_op) {
            return Ok(Self::Parts(parts.to_vec()));
        }
        Ok(Self::Whole { flat: join(parts)?, packed: OnceLock::new() })
    }

    /// A copy of the same for decoding alone; all but the last of the matrices, side by side, are the first.
    pub(crate) fn for_decoding(parts: &[Tensor]) -> Result<Self> {
        let parts: Vec<Tensor> = parts.iter().map(Tensor::detach).collect();
        let [norm, first @ .., second] = parts.as_slice() else { unreachable!("a block has a norm and matrices") };
        Ok(Self::Packed(Arc::new(PackedBlock {
            norm: norm.copy()?,
            first: PackedWeight::new(&Tensor::cat(first, 0)?)?,
            second: PackedWeight::new(second)?,
        })))
    }

    /// A copy without gradients, on a device.
    pub(crate) fn on(&self, device: &Device) -> Result<Self> {
        Ok(Self::Whole { flat: self.join()?.detach().to_device(device)?, packed: OnceLock::new() })
    }

    /// All weights in one tensor.
    pub(crate) fn join(&self) -> Result<Tensor> {
        match self {
            Self::Parts(parts) => join(parts),
            Self::Whole { flat, .. } => Ok(flat.clone()),
            Self::Packed(packed) => {
                let matrices = [packed.first.to_tensor()?.flatten_all()?, packed.second.to_tensor()?.flatten_all()?];
                Ok(Tensor::cat(&[&packed.norm, &matrices[0], &matrices[1]], 0)?)
            }
        }
    }

    /// The weights for decoding, matrices of the given shapes and of type `dtype`; made once where they cannot change.
    pub(crate) fn packed(
        &self,
        first: (usize, usize),
        second: (usize, usize),
        dtype: DType,
    ) -> Result<Arc<PackedBlock>> {
        let known = match self {
            Self::Parts(_) => None,
            Self::Whole { packed, .. } => packed.get(),
            Self::Packed(packed) => Some(packed),
        };
        if let Some(packed) = known {
            return Ok(Arc::clone(packed));
        }
        let flat = self.join()?.detach().to_dtype(dtype)?;
        let (width, n_first) = (first.1, first.0 * first.1);
        let made = Arc::new(PackedBlock {
            norm: flat.narrow(0, 0, width)?,
            first: PackedWeight::new(&flat.narrow(0, width, n_first)?.reshape(first)?)?,
            second: PackedWeight::new(&flat.narrow(0, width + n_first, second.0 * second.1)?.reshape(second)?)?,
        });
        if let Self::Whole { packed, .. } = self {
            return Ok(Arc::clone(packed.get_or_init(|| made)));
        }
        Ok(made)
    }
}

/// The embedding table or the output layer, (V, d): as it lies, laid out for decoding, or both; either is made from the other when it
/// is needed.
#[derive(Debug)]
pub(crate) struct Table {
    lying: OnceLock<Tensor>,
    packed: OnceLock<Arc<PackedWeight>>,
}

impl Table {
    /// The table as it lies.
    pub(crate) fn new(lying: Tensor) -> Self {
        Self { lying: lying.into(), packed: OnceLock::new() }
    }

    /// A copy for decoding alone.
    pub(crate) fn for_decoding(lying: &Tensor) -> Result<Self> {
        Ok(Self { lying: OnceLock::new(), packed: Arc::new(PackedWeight::new(&lying.detach())?).into() })
    }

    /// The table as it lies.
    pub(crate) fn lying(&self) -> Result<&Tensor> {
        if let Some(lying) = self.lying.get() {
            return Ok(lying);
        }
        let made = self.packed.get().expect("a table is there in one form or the other").to_tensor()?;
        Ok(self.lying.get_or_init(|| made))
    }

    /// The table for products in `dtype`; made once where it cannot change.
    pub(crate) fn packed(&self, dtype: DType) -> Result<Arc<PackedWeight>> {
        if let Some(packed) = self.packed.get() {
            return Ok(Arc::clone(packed));
        }
        let lying = self.lying()?;
        let made = Arc::new(PackedWeight::new(&lying.detach().to_dtype(dtype)?)?);
        if lying.track_op() {
            return Ok(made);
        }
        Ok(Arc::clone(self.packed.get_or_init(|| made)))
    }

    /// Rows of the table without gradient, (N, d).
    pub(crate) fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        if let (None, Some(packed)) = (self.lying.get(), self.packed.get()) {
            return Ok(packed.rows(ids)?);
        }
        let ids = Tensor::from_slice(ids, ids.len(), &Device::Cpu)?;
        Ok(kernels::embedding(&ids, &self.lying()?.detach())?)
    }
}
