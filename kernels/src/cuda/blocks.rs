//! The two halves of a layer.

use super::attention::Attention;
use super::product::{Into, Matrix, either};
use super::{Buffer, Gpu, Node, Operation, Span};
use crate::attention::Segments;
use crate::attention_block::AttentionBlockSpec;
use crate::feed_forward::FeedForwardSpec;
use candle_core::{DType, Error, Result, Shape, Tensor};
use std::sync::OnceLock;

/// [`crate::attention_block`] on a GPU; shapes are checked.
pub(crate) fn attention_block(
    x: &Tensor,
    weights: &Tensor,
    spec: &AttentionBlockSpec,
    segments: &Segments,
) -> Result<Tensor> {
    let attention = Attention::new(&*Gpu::of(x)?, &spec.attention, segments)?;
    let keeps = x.track_op() || weights.track_op();
    let (dims, n) = (x.dims().to_vec(), segments.ids.len());
    x.apply_op2(weights, Node(AttentionBlock { spec: *spec, attention, dims, n, keeps, kept: OnceLock::new() }))
}

struct AttentionBlock {
    spec: AttentionBlockSpec,
    attention: Attention,
    dims: Vec<usize>,
    /// Rows.
    n: usize,
    keeps: bool,
    kept: OnceLock<KeptOfAttention>,
}

/// What the backward pass needs of the forward pass.
struct KeptOfAttention {
    normed: Tensor,
    qkv: Tensor,
    heads: Tensor,
    norms: Tensor,
    rounded: Option<Tensor>,
}

impl AttentionBlock {
    /// d, (H + 2 KV) D and H D.
    fn widths(&self) -> (usize, usize, usize) {
        (self.spec.width, self.spec.attention.qkv_width(), self.spec.attention.output_width())
    }
}

impl Operation<2> for AttentionBlock {
    const OP: &'static str = "attention_block";

    fn forward(&self, gpu: &Gpu, [x, weights]: [Span<'_>; 2]) -> Result<(Buffer, Shape)> {
        let (n, (d, qkv_width, heads_width)) = (self.n, self.widths());
        let rounded = gpu.rounded(weights, self.spec.n_weights(), x.dtype)?;
        let matrices = either(rounded.as_ref(), weights);
        let qkv_weight = Matrix::new(matrices.from(d), qkv_width, d);
        let output = Matrix::new(matrices.from(d * (1 + qkv_width)), d, heads_width);

        let normed = gpu.normalize(x, weights, n, d, self.spec.eps)?;
        let qkv = gpu.alloc(n * qkv_width, x.dtype)?;
        gpu.multiply(qkv.span(), Matrix::new(normed.span(), n, d), qkv_weight.transposed(), Into::Overwrite)?;
        self.attention.turn(gpu, qkv.span(), 1.0)?;
        let (heads, norms) = self.attention.forward(gpu, qkv.span())?;
        let y = gpu.alloc(n * d, x.dtype)?;
        gpu.copy(y.span(), x, n * d)?;
        gpu.multiply(y.span(), Matrix::new(heads.span(), n, heads_width), output.transposed(), Into::Add)?;
        if self.keeps {
            // An op is applied once; were it applied again, the values are the same.
            let _ = self.kept.set(KeptOfAttention {
                normed: normed.into_tensor((n, d)),
                qkv: qkv.into_tensor((n, qkv_width)),
                heads: heads.into_tensor((n, heads_width)),
                norms: norms.into_tensor(n * self.spec.attention.n_heads),
                rounded: rounded.map(|rounded| rounded.into_tensor(self.spec.n_weights())),
            });
        }
        Ok((y, self.dims.clone().into()))
    }

    fn backward(&self, gpu: &Gpu, [x, weights]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let (n, (d, qkv_width, heads_width)) = (self.n, self.widths());
        let kept = self.kept.get().ok_or_else(|| Error::msg("attention_block: nothing was kept"))?;
        let (given, dy) = (Span::of(weights)?, Span::of(dy)?);
        let matrices = Span::of(kept.rounded.as_ref().unwrap_or(weights))?;
        let dtype = matrices.dtype;
        let qkv_weight = Matrix::new(matrices.from(d), qkv_width, d);
        let output = Matrix::new(matrices.from(d * (1 + qkv_width)), d, heads_width);
        let (qkv, heads) = (Span::of(&kept.qkv)?, Span::of(&kept.heads)?);
        let dy_rows = Matrix::new(dy, n, d);

        let d_heads = gpu.alloc(n * heads_width, dtype)?;
        gpu.multiply(d_heads.span(), dy_rows, output, Into::Overwrite)?;
        let d_qkv = self.attention.backward(gpu, qkv, [heads, Span::of(&kept.norms)?, d_heads.span()])?;
        drop(d_heads);
        self.attention.turn(gpu, d_qkv.span(), -1.0)?;
        let d_qkv_rows = Matrix::new(d_qkv.span(), n, qkv_width);
        let d_normed = gpu.alloc(n * d, dtype)?;
        gpu.multiply(d_normed.span(), d_qkv_rows, qkv_weight, Into::Overwrite)?;

        let grad = weights.track_op().then(|| gpu.alloc(self.spec.n_weights(), given.dtype)).transpose()?;
        if let Some(grad) = &grad {
            let of_qkv = grad.span().from(d);
            let normed = Matrix::new(Span::of(&kept.normed)?, n, d);
            gpu.multiply(of_qkv, d_qkv_rows.transposed(), normed, Into::Overwrite)?;
            let heads = Matrix::new(heads, n, heads_width);
            gpu.multiply(of_qkv.from(d * qkv_width), dy_rows.transposed(), heads, Into::Overwrite)?;
        }
        let spans = [d_normed.span(), Span::of(x)?, given];
        let dw = grad.as_ref().map(Buffer::span);
        let dx = gpu.normalize_backward(spans, Some(dy), dw, (n, d, self.spec.eps))?;
        Ok([Some(dx.into_tensor(x.shape())), grad.map(|grad| grad.into_tensor(weights.shape()))])
    }
}

/// [`crate::feed_forward()`] on a GPU; shapes are checked.
pub(crate) fn feed_forward(x: &Tensor, weights: &Tensor, spec: &FeedForwardSpec) -> Result<Tensor> {
    let keeps = x.track_op() || weights.track_op();
    let (dims, n) = (x.dims().to_vec(), x.elem_count() / spec.width);
    x.apply_op2(weights, Node(FeedForward { spec: *spec, dims, n, keeps, kept: OnceLock::new() }))
}

struct FeedForward {
    spec: FeedForwardSpec,
    dims: Vec<usize>,
    /// Rows.
    n: usize,
    keeps: bool,
    kept: OnceLock<KeptOfFeedForward>,
}

struct KeptOfFeedForward {
    normed: Tensor,
    gate_up: Tensor,
    gated: Tensor,
    rounded: Option<Tensor>,
}

impl Operation<2> for FeedForward {
    const OP: &'static str = "feed_forward";

    fn forward(&self, gpu: &Gpu, [x, weights]: [Span<'_>; 2]) -> Result<(Buffer, Shape)> {
        let FeedForwardSpec { width: d, inner: f, eps } = self.spec;
        let n = self.n;
        let rounded = gpu.rounded(weights, self.spec.n_weights(), x.dtype)?;
        let matrices = either(rounded.as_ref(), weights);
        let gate_up_weight = Matrix::new(matrices.from(d), 2 * f, d);
        let down = Matrix::new(matrices.from(d * (1 + 2 * f)), d, f);

        let normed = gpu.normalize(x, weights, n, d, eps)?;
        let gate_up = gpu.alloc(n * 2 * f, x.dtype)?;
        gpu.multiply(gate_up.span(), Matrix::new(normed.span(), n, d), gate_up_weight.transposed(), Into::Overwrite)?;
        let gated = gpu.gate(gate_up.span(), n, f)?;
        let y = gpu.alloc(n * d, x.dtype)?;
        gpu.copy(y.span(), x, n * d)?;
        gpu.multiply(y.span(), Matrix::new(gated.span(), n, f), down.transposed(), Into::Add)?;
        if self.keeps {
            // An op is applied once; were it applied again, the values are the same.
            let _ = self.kept.set(KeptOfFeedForward {
                normed: normed.into_tensor((n, d)),
                gate_up: gate_up.into_tensor((n, 2 * f)),
                gated: gated.into_tensor((n, f)),
                rounded: rounded.map(|rounded| rounded.into_tensor(self.spec.n_weights())),
            });
        }
        Ok((y, self.dims.clone().into()))
    }

    fn backward(&self, gpu: &Gpu, [x, weights]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let FeedForwardSpec { width: d, inner: f, eps } = self.spec;
        let n = self.n;
        let kept = self.kept.get().ok_or_else(|| Error::msg("feed_forward: nothing was kept"))?;
        let (given, dy) = (Span::of(weights)?, Span::of(dy)?);
        let matrices = Span::of(kept.rounded.as_ref().unwrap_or(weights))?;
        let dtype: DType = matrices.dtype;
        let gate_up_weight = Matrix::new(matrices.from(d), 2 * f, d);
        let down = Matrix::new(matrices.from(d * (1 + 2 * f)), d, f);
        let dy_rows = Matrix::new(dy, n, d);

        let d_gated = gpu.alloc(n * f, dtype)?;
        gpu.multiply(d_gated.span(), dy_rows, down, Into::Overwrite)?;
        let d_gate_up = gpu.gate_backward(Span::of(&kept.gate_up)?, d_gated.span(), n, f)?;
        drop(d_gated);
        let d_gate_up_rows = Matrix::new(d_gate_up.span(), n, 2 * f);
        let d_normed = gpu.alloc(n * d, dtype)?;
        gpu.multiply(d_normed.span(), d_gate_up_rows, gate_up_weight, Into::Overwrite)?;

        let grad = weights.track_op().then(|| gpu.alloc(self.spec.n_weights(), given.dtype)).transpose()?;
        if let Some(grad) = &grad {
            let of_gate_up = grad.span().from(d);
            let normed = Matrix::new(Span::of(&kept.normed)?, n, d);
            gpu.multiply(of_gate_up, d_gate_up_rows.transposed(), normed, Into::Overwrite)?;
            let gated = Matrix::new(Span::of(&kept.gated)?, n, f);
            gpu.multiply(of_gate_up.from(2 * f * d), dy_rows.transposed(), gated, Into::Overwrite)?;
        }
        let spans = [d_normed.span(), Span::of(x)?, given];
        let dw = grad.as_ref().map(Buffer::span);
        let dx = gpu.normalize_backward(spans, Some(dy), dw, (n, d, eps))?;
        Ok([Some(dx.into_tensor(x.shape())), grad.map(|grad| grad.into_tensor(weights.shape()))])
    }
}
