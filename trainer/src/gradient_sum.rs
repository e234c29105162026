//! The gradients of a step, summed over its batches.

use crate::error::Result;
use candle_core::{DType, Device, Tensor, Var};

/// One sum of gradients per parameter.
///
/// On the CPU they are summed in f64, so that the sum does not depend on how batches are dealt to ranks ([`kernels::add_to`]); a single
/// gradient is kept as it is. On a GPU they are summed in f32.
#[derive(Debug)]
pub(crate) struct GradientSum(Vec<Sum>);

#[derive(Debug)]
enum Sum {
    None,
    /// A single gradient, or on a GPU the sum of several.
    Narrow(Tensor),
    Wide(Vec<f64>),
}

impl GradientSum {
    /// Nothing yet, for `n` parameters.
    pub(crate) fn new(n: usize) -> Self {
        Self((0..n).map(|_| Sum::None).collect())
    }

    /// Adds a gradient of parameter number `index`.
    ///
    /// # Errors
    /// Where a tensor operation fails.
    pub(crate) fn add(&mut self, index: usize, gradient: Tensor) -> Result<()> {
        let sum = &mut self.0[index];
        *sum = match std::mem::replace(sum, Sum::None) {
            Sum::None => Sum::Narrow(gradient),
            Sum::Narrow(first) if first.device().is_cpu() => {
                let mut wide = vec![0.0; first.elem_count()];
                kernels::add_to(&mut wide, &first)?;
                kernels::add_to(&mut wide, &gradient)?;
                Sum::Wide(wide)
            }
            Sum::Narrow(sum) => Sum::Narrow((sum + gradient)?),
            Sum::Wide(mut wide) => {
                kernels::add_to(&mut wide, &gradient)?;
                Sum::Wide(wide)
            }
        };
        Ok(())
    }

    /// For each parameter whether it has a gradient.
    pub(crate) fn present(&self) -> impl Iterator<Item = bool> {
        self.0.iter().map(|sum| !matches!(sum, Sum::None))
    }

    /// The sums, in f32 and in the parameters' shapes; zeros where there is none.
    ///
    /// # Errors
    /// Where a tensor operation fails.
    pub(crate) fn into_tensors(self, parameters: &[(String, Var)]) -> Result<Vec<Tensor>> {
        let sums = self.0.into_iter().zip(parameters);
        sums.map(|(sum, (_, var))| match sum {
            Sum::None => Ok(var.zeros_like()?),
            Sum::Narrow(tensor) => Ok(tensor),
            Sum::Wide(wide) => {
                let narrow: Vec<f32> = wide.into_iter().map(|x| x as f32).collect();
                Ok(Tensor::from_vec(narrow, var.shape(), &Device::Cpu)?)
            }
        })
        .collect()
    }

    /// The sums of all parameters in a row, in f64 on the CPU and in f32 on a GPU; zeros where there is none.
    ///
    /// # Shapes
    /// (elements of all parameters)
    ///
    /// # Errors
    /// Where a tensor operation fails.
    pub(crate) fn into_row(self, parameters: &[(String, Var)]) -> Result<Tensor> {
        if parameters.iter().any(|(_, var)| !var.device().is_cpu()) {
            let sums = self.into_tensors(parameters)?;
            let sums: Vec<Tensor> = sums.iter().map(Tensor::flatten_all).collect::<candle_core::Result<_>>()?;
            return Ok(Tensor::cat(&sums, 0)?);
        }
        let n: usize = parameters.iter().map(|(_, var)| var.elem_count()).sum();
        let mut row = Vec::with_capacity(n);
        for (sum, (_, var)) in self.0.into_iter().zip(parameters) {
            match sum {
                Sum::None => row.resize(row.len() + var.elem_count(), 0.0),
                Sum::Narrow(tensor) => row.extend(tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?),
                Sum::Wide(wide) => row.extend(wide),
            }
        }
        Ok(Tensor::from_vec(row, n, &Device::Cpu)?)
    }
}
