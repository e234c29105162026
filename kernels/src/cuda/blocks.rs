//! The two halves of a layer, and all layers as one node.

use super::attention::Attention;
use super::product::{Into, Matrix, either};
use super::{Buffer, Gpu, Node, Operation, Span};
use crate::attention::Segments;
use crate::attention_block::AttentionBlockSpec;
use crate::feed_forward::FeedForwardSpec;
use crate::layers::LayersSpec;
use candle_core::{Error, Result, Shape, Tensor};
use std::sync::OnceLock;

/// [`crate::attention_block`] on a GPU; shapes are checked.
pub(crate) fn attention_block(
    x: &Tensor,
    weights: &Tensor,
    spec: &AttentionBlockSpec,
    segments: &Segments,
) -> Result<Tensor> {
    let attention = Attention::new(&*Gpu::of(x)?, &spec.attention, segments)?;
    let keeps = (x.track_op() || weights.track_op()) && !spec.recomputes;
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

    /// All but the output.
    fn activate(&self, gpu: &Gpu, [x, weights]: [Span<'_>; 2]) -> Result<KeptOfAttention> {
        let (n, (d, qkv_width, heads_width)) = (self.n, self.widths());
        let rounded = gpu.rounded(weights, self.spec.n_weights(), x.dtype)?;
        let matrices = either(rounded.as_ref(), weights);
        let qkv_weight = Matrix::new(matrices.from(d), qkv_width, d);

        let normed = gpu.normalize(x, weights, n, d, self.spec.eps)?;
        let qkv = gpu.alloc(n * qkv_width, x.dtype)?;
        gpu.multiply(qkv.span(), Matrix::new(normed.span(), n, d), qkv_weight.transposed(), Into::Overwrite)?;
        self.attention.turn(gpu, qkv.span(), 1.0)?;
        let (heads, norms) = self.attention.forward(gpu, qkv.span())?;
        Ok(KeptOfAttention {
            normed: normed.into_tensor((n, d)),
            qkv: qkv.into_tensor((n, qkv_width)),
            heads: heads.into_tensor((n, heads_width)),
            norms: norms.into_tensor(n * self.spec.attention.n_heads),
            rounded: rounded.map(|rounded| rounded.into_tensor(self.spec.n_weights())),
        })
    }
}

impl Operation<2> for AttentionBlock {
    const OP: &'static str = "attention_block";

    fn forward(&self, gpu: &Gpu, [x, weights]: [Span<'_>; 2]) -> Result<(Buffer, Shape)> {
        let (n, (d, qkv_width, heads_width)) = (self.n, self.widths());
        let made = self.activate(gpu, [x, weights])?;
        let matrices = made.rounded.as_ref().map_or(Ok(weights), Span::of)?;
        let output = Matrix::new(matrices.from(d * (1 + qkv_width)), d, heads_width);
        let heads = Matrix::new(Span::of(&made.heads)?, n, heads_width);
        let y = gpu.alloc(n * d, x.dtype)?;
        gpu.copy(y.span(), x, n * d)?;
        gpu.multiply(y.span(), heads, output.transposed(), Into::Add)?;
        if self.keeps {
            // An op is applied once; were it applied again, the values are the same.
            let _ = self.kept.set(made);
        }
        Ok((y, self.dims.clone().into()))
    }

    fn backward(&self, gpu: &Gpu, [x, weights]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        differentiate_node(self, self.spec.n_weights(), gpu, [x, weights], dy)
    }
}

/// Half a layer, of which several may make one node.
trait Half {
    /// The gradient of `x`; that of the weights goes to `grad`, where it is wanted.
    fn differentiate(&self, gpu: &Gpu, spans: [Span<'_>; 3], grad: Option<Span<'_>>) -> Result<Buffer>;
}

/// [`Operation::backward`] of a half that is a node by itself.
fn differentiate_node(
    half: &impl Half,
    n_weights: usize,
    gpu: &Gpu,
    [x, weights]: [&Tensor; 2],
    dy: &Tensor,
) -> Result<[Option<Tensor>; 2]> {
    let spans = [Span::of(x)?, Span::of(weights)?, Span::of(dy)?];
    let grad = weights.track_op().then(|| gpu.alloc(n_weights, spans[1].dtype)).transpose()?;
    let dx = half.differentiate(gpu, spans, grad.as_ref().map(Buffer::span))?;
    Ok([Some(dx.into_tensor(x.shape())), grad.map(|grad| grad.into_tensor(weights.shape()))])
}

impl Half for AttentionBlock {
    fn differentiate(&self, gpu: &Gpu, [x, given, dy]: [Span<'_>; 3], grad: Option<Span<'_>>) -> Result<Buffer> {
        let (n, (d, qkv_width, heads_width)) = (self.n, self.widths());
        let again = if self.kept.get().is_none() { Some(self.activate(gpu, [x, given])?) } else { None };
        let kept = again.as_ref().or(self.kept.get()).expect("it is kept or was just made");
        let matrices = kept.rounded.as_ref().map_or(Ok(given), Span::of)?;
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
        if let Some(grad) = grad {
            let of_qkv = grad.from(d);
            let normed = Matrix::new(Span::of(&kept.normed)?, n, d);
            gpu.multiply(of_qkv, d_qkv_rows.transposed(), normed, Into::Overwrite)?;
            let heads = Matrix::new(heads, n, heads_width);
            gpu.multiply(of_qkv.from(d * qkv_width), dy_rows.transposed(), heads, Into::Overwrite)?;
        }
        gpu.normalize_backward([d_normed.span(), x, given], Some(dy), grad, (n, d, self.spec.eps))
    }
}

/// [`crate::feed_forward()`] on a GPU; shapes are checked.
pub(crate) fn feed_forward(x: &Tensor, weights: &Tensor, spec: &FeedForwardSpec) -> Result<Tensor> {
    let keeps = (x.track_op() || weights.track_op()) && !spec.recomputes;
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

impl FeedForward {
    /// All but the output.
    fn activate(&self, gpu: &Gpu, [x, weights]: [Span<'_>; 2]) -> Result<KeptOfFeedForward> {
        let FeedForwardSpec { width: d, inner: f, eps, .. } = self.spec;
        let n = self.n;
        let rounded = gpu.rounded(weights, self.spec.n_weights(), x.dtype)?;
        let gate_up_weight = Matrix::new(either(rounded.as_ref(), weights).from(d), 2 * f, d);

        let normed = gpu.normalize(x, weights, n, d, eps)?;
        let gate_up = gpu.alloc(n * 2 * f, x.dtype)?;
        gpu.multiply(gate_up.span(), Matrix::new(normed.span(), n, d), gate_up_weight.transposed(), Into::Overwrite)?;
        let gated = gpu.gate(gate_up.span(), n, f)?;
        Ok(KeptOfFeedForward {
            normed: normed.into_tensor((n, d)),
            gate_up: gate_up.into_tensor((n, 2 * f)),
            gated: gated.into_tensor((n, f)),
            rounded: rounded.map(|rounded| rounded.into_tensor(self.spec.n_weights())),
        })
    }
}

impl Operation<2> for FeedForward {
    const OP: &'static str = "feed_forward";

    fn forward(&self, gpu: &Gpu, [x, weights]: [Span<'_>; 2]) -> Result<(Buffer, Shape)> {
        let FeedForwardSpec { width: d, inner: f, .. } = self.spec;
        let n = self.n;
        let made = self.activate(gpu, [x, weights])?;
        let matrices = made.rounded.as_ref().map_or(Ok(weights), Span::of)?;
        let down = Matrix::new(matrices.from(d * (1 + 2 * f)), d, f);
        let gated = Matrix::new(Span::of(&made.gated)?, n, f);
        let y = gpu.alloc(n * d, x.dtype)?;
        gpu.copy(y.span(), x, n * d)?;
        gpu.multiply(y.span(), gated, down.transposed(), Into::Add)?;
        if self.keeps {
            // An op is applied once; were it applied again, the values are the same.
            let _ = self.kept.set(made);
        }
        Ok((y, self.dims.clone().into()))
    }

    fn backward(&self, gpu: &Gpu, [x, weights]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        differentiate_node(self, self.spec.n_weights(), gpu, [x, weights], dy)
    }
}

impl Half for FeedForward {
    fn differentiate(&self, gpu: &Gpu, [x, given, dy]: [Span<'_>; 3], grad: Option<Span<'_>>) -> Result<Buffer> {
        let FeedForwardSpec { width: d, inner: f, eps, .. } = self.spec;
        let n = self.n;
        let again = if self.kept.get().is_none() { Some(self.activate(gpu, [x, given])?) } else { None };
        let kept = again.as_ref().or(self.kept.get()).expect("it is kept or was just made");
        let matrices = kept.rounded.as_ref().map_or(Ok(given), Span::of)?;
        let dtype = matrices.dtype;
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
        if let Some(grad) = grad {
            let of_gate_up = grad.from(d);
            let normed = Matrix::new(Span::of(&kept.normed)?, n, d);
            gpu.multiply(of_gate_up, d_gate_up_rows.transposed(), normed, Into::Overwrite)?;
            let gated = Matrix::new(Span::of(&kept.gated)?, n, f);
            gpu.multiply(of_gate_up.from(2 * f * d), dy_rows.transposed(), gated, Into::Overwrite)?;
        }
        gpu.normalize_backward([d_normed.span(), x, given], Some(dy), grad, (n, d, eps))
    }
}

/// [`crate::layers`] on a GPU; shapes are checked.
pub(crate) fn layers(x: &Tensor, weights: &Tensor, spec: &LayersSpec, segments: &Segments) -> Result<Tensor> {
    let attention = Attention::new(&*Gpu::of(x)?, &spec.attention.attention, segments)?;
    let keeps = x.track_op() || weights.track_op();
    let (dims, n) = (x.dims().to_vec(), segments.ids.len());
    let layer = || {
        let (first, second, kept) = (spec.attention, spec.feed_forward, OnceLock::new());
        let attention = attention.clone();
        let keeps_first = keeps && !first.recomputes;
        let first = AttentionBlock { spec: first, attention, dims: dims.clone(), n, keeps: keeps_first, kept };
        let (dims, keeps, kept) = (dims.clone(), keeps && !second.recomputes, OnceLock::new());
        (first, FeedForward { spec: second, dims, n, keeps, kept })
    };
    let halves = std::iter::repeat_with(layer).take(spec.n_layers).collect();
    x.apply_op2(weights, Node(Layers { spec: *spec, halves, dims: dims.clone(), keeps, between: OnceLock::new() }))
}

struct Layers {
    spec: LayersSpec,
    halves: Vec<(AttentionBlock, FeedForward)>,
    dims: Vec<usize>,
    keeps: bool,
    /// What goes into each half but the first.
    between: OnceLock<Vec<Tensor>>,
}

impl Layers {
    /// Where the weights of each half begin.
    fn starts(&self, layer: usize) -> (usize, usize) {
        let start = layer * self.spec.n_layer_weights();
        (start, start + self.spec.attention.n_weights())
    }
}

impl Operation<2> for Layers {
    const OP: &'static str = "layers";

    fn forward(&self, gpu: &Gpu, [x, weights]: [Span<'_>; 2]) -> Result<(Buffer, Shape)> {
        let mut between: Vec<Tensor> = Vec::new();
        let mut last: Option<Buffer> = None;
        for (idx, (first, second)) in self.halves.iter().enumerate() {
            let (of_first, of_second) = self.starts(idx);
            for is_first in [true, false] {
                if let Some(made) = last.take() {
                    if !self.keeps {
                        between.clear();
                    }
                    between.push(made.into_tensor(self.dims.clone()));
                }
                let from = between.last().map_or(Ok(x), Span::of)?;
                let (y, _) = if is_first {
                    first.forward(gpu, [from, weights.from(of_first)])?
                } else {
                    second.forward(gpu, [from, weights.from(of_second)])?
                };
                last = Some(y);
            }
        }
        // An op is applied once; were it applied again, the values are the same.
        let _ = self.between.set(between);
        let y = last.ok_or_else(|| Error::msg("layers: there are none"))?;
        Ok((y, self.dims.clone().into()))
    }

    fn backward(&self, gpu: &Gpu, [x, weights]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let between = self.between.get().ok_or_else(|| Error::msg("layers: nothing was kept"))?;
        let (given, from_above) = (Span::of(weights)?, Span::of(dy)?);
        let grad = weights.track_op().then(|| gpu.alloc(self.spec.n_weights(), given.dtype)).transpose()?;
        let grad_from = |start: usize| grad.as_ref().map(|grad| grad.span().from(start));
        let mut above: Option<Buffer> = None;
        for (idx, (first, second)) in self.halves.iter().enumerate().rev() {
            let (of_first, of_second) = self.starts(idx);
            let dy = above.as_ref().map_or(from_above, Buffer::span);
            let spans = [Span::of(&between[2 * idx])?, given.from(of_second), dy];
            let middle = second.differentiate(gpu, spans, grad_from(of_second))?;
            let from = if idx == 0 { x } else { &between[2 * idx - 1] };
            let spans = [Span::of(from)?, given.from(of_first), middle.span()];
            above = Some(first.differentiate(gpu, spans, grad_from(of_first))?);
        }
        let dx = above.map(|dx| dx.into_tensor(x.shape()));
        Ok([dx, grad.map(|grad| grad.into_tensor(weights.shape()))])
    }
}
