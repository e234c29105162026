//! Matrix products, and weights as they are multiplied.

use super::{Buffer, Gpu, Grid, Node, Operation, Span, long};
use candle_core::{DType, Result, Shape, Tensor};

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

    /// Rows, and numbers of a row, as it lies.
    pub(super) fn as_it_lies(self) -> (usize, usize) {
        if self.is_transposed { (self.cols, self.rows) } else { (self.rows, self.cols) }
    }

    /// Rows and columns, as it is multiplied.
    pub(super) fn dims(self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    pub(super) fn is_transposed(self) -> bool {
        self.is_transposed
    }

    pub(super) fn dtype(self) -> DType {
        self.values.dtype
    }

    pub(super) fn address(self) -> u64 {
        self.values.address
    }
}

/// What a product is added to.
#[derive(Clone, Copy)]
pub(super) enum Into<'a> {
    /// To nothing.
    Overwrite,
    /// To what is there already.
    Add,
    /// To these numbers, as many as the result has and of its type.
    Sum(Span<'a>),
}

impl Gpu {
    /// Weights in the type that they are multiplied in: as they are, or rounded to bf16 in a buffer that is handed back.
    pub(super) fn rounded(&self, weights: Span<'_>, n: usize, like: DType) -> Result<Option<Buffer>> {
        if weights.dtype == like {
            return Ok(None);
        }
        let to = self.alloc(n, like)?;
        self.round(to.span(), weights, n)?;
        Ok(Some(to))
    }

    /// `n` numbers of f32 as bf16.
    pub(super) fn round(&self, to: Span<'_>, from: Span<'_>, n: usize) -> Result<()> {
        let are_aligned = n.is_multiple_of(8) && from.address.is_multiple_of(32) && to.address.is_multiple_of(16);
        let (name, width) = if are_aligned { ("convert_wide", 8) } else { ("convert_1", 1) };
        let args = [to.into(), from.into(), long(n)];
        self.launch(name.to_owned(), Grid::threads(n.div_ceil(width)), &args)
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
