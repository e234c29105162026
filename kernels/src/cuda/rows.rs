//! Norm, gated activation and picking of rows.

use super::{Buffer, Gpu, Grid, Node, Operation, Span, int, long, suffix};
use candle_core::{DType, Result, Shape, Tensor};

/// Rows whose share of a norm's gradient is one partial sum.
const ROWS_PER_PART: usize = 64;
/// Sums that a block holds in shared memory for them, d for each warp, where d is no larger.
const NORM_SUMS: usize = 16 << 10;

impl Gpu {
    pub(super) fn normalize(&self, x: Span<'_>, weight: Span<'_>, n: usize, d: usize, eps: f64) -> Result<Buffer> {
        let y = self.alloc(n * d, x.dtype)?;
        self.normalize_to(y.span(), [x, weight], (n, d, eps))?;
        Ok(y)
    }

    pub(super) fn normalize_to(
        &self,
        y: Span<'_>,
        [x, weight]: [Span<'_>; 2],
        (n, d, eps): (usize, usize, f64),
    ) -> Result<()> {
        let args = [y.into(), x.into(), weight.into(), int(n), int(d), (eps as f32).into()];
        let name = format!("normalize_{}_{}_{}", norm_way(&[x, weight], d), x.suffix(), weight.suffix());
        self.launch(name, Grid::warps(n), &args)
    }

    /// The gradient of [`Gpu::normalize`], with `residual` added to it; that of the weight goes to `dw`.
    pub(super) fn normalize_backward(
        &self,
        [dy, x, weight]: [Span<'_>; 3],
        residual: Option<Span<'_>>,
        dw: Option<Span<'_>>,
        (n, d, eps): (usize, usize, f64),
    ) -> Result<Buffer> {
        let dx = self.alloc(n * d, x.dtype)?;
        let n_parts = n.div_ceil(ROWS_PER_PART);
        let parts = dw.map(|_| self.alloc(n_parts * d, DType::F32)).transpose()?;
        let args = [
            dx.span().into(),
            parts.as_ref().map(Buffer::span).into(),
            dy.into(),
            x.into(),
            weight.into(),
            residual.into(),
            int(n),
            int(d),
            (eps as f32).into(),
            int(ROWS_PER_PART),
        ];
        let way = norm_way(&[x, dy, weight, residual.unwrap_or(x)], d);
        let name = format!("normalize_backward_{way}_{}_{}", x.suffix(), weight.suffix());
        let n_warps = (NORM_SUMS / d.max(1)).clamp(1, 8);
        let shared_bytes = n_warps * d * size_of::<f32>();
        self.launch(name, Grid { blocks: [n_parts, 1, 1], threads: [32 * n_warps, 1], shared_bytes }, &args)?;
        if let (Some(dw), Some(parts)) = (dw, parts) {
            let grid = Grid { blocks: [d.div_ceil(32), 1, 1], threads: [32, 8], shared_bytes: 0 };
            let args = [dw.into(), parts.span().into(), int(n_parts), int(d)];
            self.launch(format!("sum_parts_{}", dw.suffix()), grid, &args)?;
        }
        Ok(dx)
    }

    /// Rows of gate | up, each `f` wide, to rows of `f`.
    pub(super) fn gate(&self, gate_up: Span<'_>, n: usize, f: usize) -> Result<Buffer> {
        let y = self.alloc(n * f, gate_up.dtype)?;
        self.gate_to(y.span(), gate_up, n, f)?;
        Ok(y)
    }

    pub(super) fn gate_to(&self, y: Span<'_>, gate_up: Span<'_>, n: usize, f: usize) -> Result<()> {
        let (way, width) = neighbours(gate_up, f);
        let args = [y.into(), gate_up.into(), long(n * f), int(f)];
        self.launch(format!("gate_{way}_{}", gate_up.suffix()), Grid::threads((n * f).div_ceil(width)), &args)
    }

    pub(super) fn gate_backward(&self, gate_up: Span<'_>, dy: Span<'_>, n: usize, f: usize) -> Result<Buffer> {
        let grad = self.alloc(2 * n * f, gate_up.dtype)?;
        let (way, width) = neighbours(gate_up, f);
        let args = [grad.span().into(), gate_up.into(), dy.into(), long(n * f), int(f)];
        let grid = Grid::threads((n * f).div_ceil(width));
        self.launch(format!("gate_backward_{way}_{}", gate_up.suffix()), grid, &args)?;
        Ok(grad)
    }

    /// `y[i, :] = table[ids[i], :]`
    pub(super) fn pick(&self, table: Span<'_>, ids: Span<'_>, n: usize, d: usize) -> Result<Buffer> {
        let y = self.alloc(n * d, table.dtype)?;
        let args = [y.span().into(), table.into(), ids.into(), long(n), int(d)];
        self.launch(format!("pick_{}", table.suffix()), Grid::threads(n * d), &args)?;
        Ok(y)
    }

    /// `y[rows[i], :] = x[i, :]`, zeros between, `n_rows` in all.
    pub(super) fn place(&self, x: Span<'_>, rows: Span<'_>, n: usize, n_rows: usize, d: usize) -> Result<Buffer> {
        let y = self.zeros(n_rows * d, x.dtype)?;
        let args = [y.span().into(), x.into(), rows.into(), long(n), int(d)];
        self.launch(format!("place_{}", x.suffix()), Grid::threads(n * d), &args)?;
        Ok(y)
    }

    /// `factor * x`, where the factor is one number on the device.
    pub(super) fn scaled(&self, x: Span<'_>, factor: Span<'_>, n: usize) -> Result<Buffer> {
        let y = self.alloc(n, x.dtype)?;
        let args = [y.span().into(), x.into(), factor.into(), long(n)];
        self.launch(format!("scale_by_{}", suffix(x.dtype)), Grid::threads(n), &args)?;
        Ok(y)
    }
}

/// How many neighbours a thread takes together, and what such kernels are called.
fn neighbours(x: Span<'_>, width: usize) -> (&'static str, usize) {
    let together = if x.dtype == DType::BF16 { 8 } else { 4 };
    if width.is_multiple_of(together) && x.address.is_multiple_of(16) { ("wide", together) } else { ("1", 1) }
}

/// What the norm's kernel for rows of `d` numbers in these spans is called: whether lanes take neighbours together.
fn norm_way(spans: &[Span<'_>], d: usize) -> &'static str {
    let are_aligned = spans.iter().all(|span| span.address.is_multiple_of(32));
    if d.is_multiple_of(8) && are_aligned { "wide" } else { "1" }
}

/// [`crate::rms_norm`] on a GPU; shapes are checked.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    x.apply_op2(weight, Node(RmsNorm { dims: x.dims().to_vec(), eps }))
}

struct RmsNorm {
    dims: Vec<usize>,
    eps: f64,
}

impl RmsNorm {
    /// Rows and their width.
    fn shape(&self) -> (usize, usize) {
        let width = self.dims.last().copied().unwrap_or(1);
        (self.dims.iter().product::<usize>() / width, width)
    }
}

impl Operation<2> for RmsNorm {
    const OP: &'static str = "rms_norm";

    fn forward(&self, gpu: &Gpu, [x, weight]: [Span<'_>; 2]) -> Result<(Buffer, Shape)> {
        let (n, d) = self.shape();
        Ok((gpu.normalize(x, weight, n, d, self.eps)?, self.dims.clone().into()))
    }

    fn backward(&self, gpu: &Gpu, [x, weight]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let (n, d) = self.shape();
        let of_weight = Span::of(weight)?;
        let dw = gpu.alloc(d, of_weight.dtype)?;
        let spans = [Span::of(dy)?, Span::of(x)?, of_weight];
        let dx = gpu.normalize_backward(spans, None, Some(dw.span()), (n, d, self.eps))?;
        Ok([Some(dx.into_tensor(x.shape())), Some(dw.into_tensor(weight.shape()))])
    }
}

/// [`crate::swiglu`] on a GPU; shapes are checked.
pub(crate) fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    gate_up.apply_op1(Node(Swiglu { dims: gate_up.dims().to_vec() }))
}

struct Swiglu {
    dims: Vec<usize>,
}

impl Swiglu {
    /// Rows, and f.
    fn shape(&self) -> (usize, usize) {
        let width = self.dims.last().copied().unwrap_or(2);
        (self.dims.iter().product::<usize>() / width, width / 2)
    }
}

impl Operation<1> for Swiglu {
    const OP: &'static str = "swiglu";

    fn forward(&self, gpu: &Gpu, [gate_up]: [Span<'_>; 1]) -> Result<(Buffer, Shape)> {
        let (n, f) = self.shape();
        let mut dims = self.dims.clone();
        if let Some(last) = dims.last_mut() {
            *last = f;
        }
        Ok((gpu.gate(gate_up, n, f)?, dims.into()))
    }

    fn backward(&self, gpu: &Gpu, [gate_up]: [&Tensor; 1], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 1]> {
        let (n, f) = self.shape();
        let grad = gpu.gate_backward(Span::of(gate_up)?, Span::of(dy)?, n, f)?;
        Ok([Some(grad.into_tensor(gate_up.shape()))])
    }
}

/// [`crate::embedding_as`] on a GPU; `ids` are in the table, result of shape `dims`, of the table's type or rounded to bf16.
pub(crate) fn embedding(ids: Vec<u32>, dims: Vec<usize>, table: &Tensor, dtype: DType) -> Result<Tensor> {
    table.apply_op1(Node(Embedding { ids, dims, width: table.dim(1)?, dtype }))
}

struct Embedding {
    ids: Vec<u32>,
    dims: Vec<usize>,
    width: usize,
    dtype: DType,
}

impl Operation<1> for Embedding {
    const OP: &'static str = "embedding";

    fn forward(&self, gpu: &Gpu, [table]: [Span<'_>; 1]) -> Result<(Buffer, Shape)> {
        let (ids, n, d) = (gpu.upload(&self.ids)?, self.ids.len(), self.width);
        let y = if self.dtype == table.dtype {
            gpu.pick(table, ids.span(), n, d)?
        } else {
            let y = gpu.alloc(n * d, self.dtype)?;
            let args = [y.span().into(), table.into(), ids.span().into(), long(n), int(d)];
            gpu.launch("pick_rounded".to_owned(), Grid::threads(n * d), &args)?;
            y
        };
        Ok((y, self.dims.clone().into()))
    }

    fn backward(&self, gpu: &Gpu, [table]: [&Tensor; 1], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 1]> {
        let grad = gpu.zeros(table.elem_count(), table.dtype())?;
        let mut order: Vec<u32> = (0..self.ids.len() as u32).collect();
        order.sort_by_key(|&i| self.ids[i as usize]);
        let (mut known, mut starts) = (Vec::new(), Vec::new());
        for (start, &i) in order.iter().enumerate() {
            let id = self.ids[i as usize];
            if known.last() != Some(&id) {
                known.push(id);
                starts.push(start as u32);
            }
        }
        starts.push(order.len() as u32);
        let n_known = known.len();
        let [known, starts, order] = [gpu.upload(&known)?, gpu.upload(&starts)?, gpu.upload(&order)?];
        let args = [
            grad.span().into(),
            Span::of(dy)?.into(),
            known.span().into(),
            starts.span().into(),
            order.span().into(),
            int(self.width),
        ];
        let grid = Grid::blocks([n_known, 1, 1], Grid::THREADS);
        let is_rounded = self.dtype != table.dtype();
        let name =
            if is_rounded { "sum_picked_rounded".to_owned() } else { format!("sum_picked_{}", suffix(self.dtype)) };
        gpu.launch(name, grid, &args)?;
        Ok([Some(grad.into_tensor(table.shape()))])
    }
}
