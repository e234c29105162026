//! Matrix products, by cuBLAS.

use super::{Buffer, Gpu, Grid, Node, Operation, Span, long};
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cublas::{result, sys};
use candle_core::{DType, Result, Shape, Tensor};
use std::ffi::{c_int, c_void};

/// A matrix that lies row by row without gaps, or its transpose.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    values: Span<'a>,
    /// As it is multiplied, not as it lies.
    rows: usize,
    cols: usize,
    is_transposed: bool,
}

impl<'a> Matrix<'a> {
    pub(super) fn new(values: Span<'a>, rows: usize, cols: usize) -> Self {
        Self { values, rows, cols, is_transposed: false }
    }

    pub(super) fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, is_transposed: !self.is_transposed, ..self }
    }

    /// Numbers between the rows as they lie.
    fn stride(self) -> c_int {
        (if self.is_transposed { self.rows } else { self.cols }) as c_int
    }

    fn operation(self) -> sys::cublasOperation_t {
        if self.is_transposed { sys::cublasOperation_t::CUBLAS_OP_T } else { sys::cublasOperation_t::CUBLAS_OP_N }
    }
}

/// What becomes of what is there already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Into {
    Overwrite,
    Add,
}

impl Gpu {
    /// `to = a b` or `to += a b`, summed in f32; `to` (rows of a, columns of b) is of the operands' type or f32.
    pub(super) fn multiply(&self, to: Span<'_>, a: Matrix<'_>, b: Matrix<'_>, into: Into) -> Result<()> {
        let (rows, cols, inner) = (a.rows, b.cols, a.cols);
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let alpha = 1.0_f32;
        let beta = if into == Into::Add { 1.0_f32 } else { 0.0 };
        let pointer = |value: &f32| std::ptr::from_ref(value).cast::<c_void>();
        let kind = |dtype: DType| {
            if dtype == DType::BF16 { sys::cudaDataType_t::CUDA_R_16BF } else { sys::cudaDataType_t::CUDA_R_32F }
        };
        let blas = self.device.cublas_handle();
        // SAFETY: the spans hold matrices of these shapes on this device. cuBLAS goes by column, so that it is asked for the
        // transpose of the product, whose operands are those that lie in memory, in the other order.
        unsafe {
            result::gemm_ex(
                *blas.handle(),
                b.operation(),
                a.operation(),
                cols as c_int,
                rows as c_int,
                inner as c_int,
                pointer(&alpha),
                b.values.address as *const c_void,
                kind(b.values.dtype),
                b.stride(),
                a.values.address as *const c_void,
                kind(a.values.dtype),
                a.stride(),
                pointer(&beta),
                to.address as *mut c_void,
                kind(to.dtype),
                cols as c_int,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .w()
    }

    /// Weights in the type that they are multiplied in: as they are, or rounded to bf16 in a buffer that is handed back.
    pub(super) fn rounded(&self, weights: Span<'_>, n: usize, like: DType) -> Result<Option<Buffer>> {
        if weights.dtype == like {
            return Ok(None);
        }
        let to = self.alloc(n, like)?;
        let is_aligned = n.is_multiple_of(8) && weights.address.is_multiple_of(32);
        let (name, width) = if is_aligned { ("convert_wide", 8) } else { ("convert_1", 1) };
        let args = [to.span().into(), weights.into(), long(n)];
        self.launch(name.to_owned(), Grid::threads(n.div_ceil(width)), &args)?;
        Ok(Some(to))
    }
}

/// The rounded weights where there are any, those given otherwise.
pub(super) fn either<'a>(rounded: Option<&'a Buffer>, given: Span<'a>) -> Span<'a> {
    rounded.map_or(given, Buffer::span)
}

/// [`crate::linear`] on a GPU; shapes are checked.
pub(crate) fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (n_out, n_in) = weight.dims2()?;
    x.apply_op2(weight, Node(Linear { n_in, n_out, dims: x.dims().to_vec() }))
}

/// `x W^T` in f32 whatever the type of `x`, without gradient.
pub(crate) fn logits(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (n_out, n_in) = weight.dims2()?;
    let gpu = Gpu::of(x)?;
    let n = x.elem_count() / n_in;
    let values = Span::of(x)?;
    let given = Span::of(weight)?;
    let rounded = gpu.rounded(given, n_out * n_in, values.dtype)?;
    let weight = Matrix::new(either(rounded.as_ref(), given), n_out, n_in);
    let y = gpu.alloc(n * n_out, DType::F32)?;
    gpu.multiply(y.span(), Matrix::new(values, n, n_in), weight.transposed(), Into::Overwrite)?;
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = n_out;
    }
    Ok(y.into_tensor(dims))
}

struct Linear {
    n_in: usize,
    n_out: usize,
    /// Of the input.
    dims: Vec<usize>,
}

impl Linear {
    fn n_rows(&self) -> usize {
        self.dims[..self.dims.len() - 1].iter().product()
    }
}

impl Operation<2> for Linear {
    const OP: &'static str = "linear";

    fn forward(&self, gpu: &Gpu, [x, given]: [Span<'_>; 2]) -> Result<(Buffer, Shape)> {
        let (n, n_in, n_out) = (self.n_rows(), self.n_in, self.n_out);
        let rounded = gpu.rounded(given, n_out * n_in, x.dtype)?;
        let weight = Matrix::new(either(rounded.as_ref(), given), n_out, n_in);
        let y = gpu.alloc(n * n_out, x.dtype)?;
        gpu.multiply(y.span(), Matrix::new(x, n, n_in), weight.transposed(), Into::Overwrite)?;
        let mut dims = self.dims.clone();
        if let Some(last) = dims.last_mut() {
            *last = n_out;
        }
        Ok((y, dims.into()))
    }

    fn backward(&self, gpu: &Gpu, [x, weight]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let (n, n_in, n_out) = (self.n_rows(), self.n_in, self.n_out);
        let (values, given) = (Span::of(x)?, Span::of(weight)?);
        let dy = Matrix::new(Span::of(dy)?, n, n_out);
        let dx = x.track_op().then(|| -> Result<Tensor> {
            let rounded = gpu.rounded(given, n_out * n_in, values.dtype)?;
            let dx = gpu.alloc(n * n_in, values.dtype)?;
            let by_row = Matrix::new(either(rounded.as_ref(), given), n_out, n_in);
            gpu.multiply(dx.span(), dy, by_row, Into::Overwrite)?;
            Ok(dx.into_tensor(x.shape()))
        });
        let dw = weight.track_op().then(|| -> Result<Tensor> {
            let dw = gpu.alloc(n_out * n_in, given.dtype)?;
            gpu.multiply(dw.span(), dy.transposed(), Matrix::new(values, n, n_in), Into::Overwrite)?;
            Ok(dw.into_tensor(weight.shape()))
        });
        Ok([dx.transpose()?, dw.transpose()?])
    }
}
