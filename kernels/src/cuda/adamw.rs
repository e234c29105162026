//! The optimizer: one launch for all parameters.

use super::{Arg, Buffer, Gpu, Grid, Span, int};
use crate::adamw::Moments;
use crate::error::Result;
use candle_core::{DType, Tensor, Var};
use std::sync::Arc;

/// Numbers that a block of threads takes.
const SHARE: usize = 1 << 14;

/// The running means of all parameters on the device, and how the work is shared.
pub(crate) struct DeviceMoments {
    gpu: Arc<Gpu>,
    sizes: Vec<usize>,
    /// Of all parameters, one after the other.
    m: Tensor,
    v: Tensor,
    shares: Buffer,
    n_shares: usize,
}

fn contiguous(grads: &[Tensor]) -> Result<Vec<Tensor>> {
    Ok(grads.iter().map(Tensor::contiguous).collect::<candle_core::Result<_>>()?)
}

impl std::fmt::Debug for DeviceMoments {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("DeviceMoments").field("sizes", &self.sizes).finish_non_exhaustive()
    }
}

impl DeviceMoments {
    /// For parameters on a GPU: copies of `moments` where these have grown already, zeros otherwise.
    pub(crate) fn new(params: &[(String, Var)], has_grown: bool, moments: &[Moments]) -> Result<Self> {
        let like = params[0].1.as_tensor();
        let gpu = Gpu::of(like)?;
        let sizes: Vec<usize> = params.iter().map(|(_, var)| var.elem_count()).collect();
        let total: usize = sizes.iter().sum();
        let mut shares = Vec::new();
        for (tensor, &size) in sizes.iter().enumerate() {
            for start in (0..size).step_by(SHARE) {
                let n = SHARE.min(size - start);
                shares.extend([tensor as u32, n as u32, start as u32, (start as u64 >> 32) as u32]);
            }
        }
        let begin = |of: fn(&Moments) -> &[f32]| {
            if has_grown {
                Tensor::from_vec(moments.iter().flat_map(of).copied().collect(), total, like.device())
            } else {
                Tensor::zeros(total, DType::F32, like.device())
            }
        };
        let (m, v) = (begin(|moments| &moments.m)?, begin(|moments| &moments.v)?);
        Ok(Self { m, v, n_shares: shares.len() / 4, shares: gpu.upload(&shares)?, sizes, gpu })
    }

    /// One step; the norm of the gradients before it was bounded. Where that is not finite nothing is updated.
    ///
    /// `keeps[i]` is what weight decay leaves of parameter `i`; `rates` are beta1, beta2, their complements, step size,
    /// correction, eps, and the largest norm, 0 for no bound.
    pub(crate) fn step(
        &self,
        params: &[(String, Var)],
        grads: &[Tensor],
        keeps: &[f32],
        rates: [f32; 8],
    ) -> Result<f64> {
        let grads = contiguous(grads)?;
        let table = self.table(params, &grads, keeps)?;
        let parts = self.sum_squares(&table)?;
        let norm = self.gpu.alloc(1, DType::F64)?;
        let args = [norm.span().into(), parts.span().into(), int(self.n_shares)];
        self.gpu.launch("finish_norm".to_owned(), Grid::blocks([1, 1, 1], 256), &args)?;
        self.update(&norm, &table, rates)?;
        Ok(norm.into_tensor(()).to_scalar::<f64>()?)
    }

    /// As [`DeviceMoments::step`], with the finite norm of the gradients of a larger set.
    pub(crate) fn step_part(
        &self,
        params: &[(String, Var)],
        grads: &[Tensor],
        keeps: &[f32],
        rates: [f32; 8],
        norm: f64,
    ) -> Result<()> {
        let grads = contiguous(grads)?;
        let table = self.table(params, &grads, keeps)?;
        self.update(&self.gpu.upload(&[norm])?, &table, rates)
    }

    /// The sum of the squares of each gradient.
    pub(crate) fn squared_norms(&self, params: &[(String, Var)], grads: &[Tensor]) -> Result<Vec<f64>> {
        let grads = contiguous(grads)?;
        let table = self.table(params, &grads, &vec![1.0; params.len()])?;
        let parts = self.sum_squares(&table)?.into_tensor(self.n_shares).to_vec1::<f64>()?;
        let mut parts = parts.into_iter();
        let squares = self.sizes.iter().map(|size| parts.by_ref().take(size.div_ceil(SHARE)).sum());
        Ok(squares.collect())
    }

    /// What the kernels are told of each parameter. The gradients are contiguous, and live until the kernels are in the stream.
    fn table(&self, params: &[(String, Var)], grads: &[Tensor], keeps: &[f32]) -> Result<Buffer> {
        let (m, v) = (Span::of(&self.m)?, Span::of(&self.v)?);
        let mut table: Vec<u32> = Vec::with_capacity(12 * params.len());
        let mut start = 0;
        for ((((_, var), grad), &keep), &size) in params.iter().zip(grads).zip(keeps).zip(&self.sizes) {
            let addresses = [Span::of(var.as_tensor())?, m.from(start), v.from(start), Span::of(grad)?];
            let words = addresses.map(|span| span.address).into_iter().chain([size as u64]);
            table.extend(words.flat_map(|word| [word as u32, (word >> 32) as u32]));
            table.extend([keep.to_bits(), 0]);
            start += size;
        }
        Ok(self.gpu.upload(&table)?)
    }

    /// Sums of squares over the shares.
    fn sum_squares(&self, table: &Buffer) -> Result<Buffer> {
        let parts = self.gpu.alloc(self.n_shares, DType::F64)?;
        let args: [Arg; 3] = [parts.span().into(), table.span().into(), self.shares.span().into()];
        self.gpu.launch("sum_squares".to_owned(), self.grid(), &args)?;
        Ok(parts)
    }

    fn update(&self, norm: &Buffer, table: &Buffer, rates: [f32; 8]) -> Result<()> {
        let args = [norm.span().into(), table.span().into(), self.shares.span().into(), Arg::Floats(rates)];
        Ok(self.gpu.launch("update".to_owned(), self.grid(), &args)?)
    }

    fn grid(&self) -> Grid {
        Grid::blocks([self.n_shares, 1, 1], 256)
    }

    /// Means of gradients and of squared gradients of each parameter.
    pub(crate) fn download(&self) -> Result<Vec<(Vec<f32>, Vec<f32>)>> {
        let (m, v) = (self.m.to_vec1::<f32>()?, self.v.to_vec1::<f32>()?);
        let mut start = 0;
        let pieces = self.sizes.iter().map(|&size| {
            let range = start..start + size;
            start += size;
            (m[range.clone()].to_vec(), v[range].to_vec())
        });
        Ok(pieces.collect())
    }
}
