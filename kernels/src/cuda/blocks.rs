//! The two halves of a layer, and all layers as one node.

use super::attention::Attention;
use super::product::{Into, Matrix};
use super::{Buffer, Gpu, Node, Operation, Span};
use crate::attention::Segments;
use crate::attention_block::AttentionBlockSpec;
use crate::feed_forward::FeedForwardSpec;
use crate::layers::{HandedOver, LayersSpec};
use candle_core::{DType, Error, Result, Shape, Tensor};
use std::sync::OnceLock;

/// The weights of half a layer: norm, then matrices.
#[derive(Clone, Copy)]
enum Given<'a> {
    /// One after the other.
    Flat(Span<'a>),
    /// Apart.
    Parts(&'a [Tensor]),
}

impl<'a> Given<'a> {
    fn norm(self) -> Result<Span<'a>> {
        match self {
            Self::Flat(weights) => Ok(weights),
            Self::Parts(parts) => Span::of(&parts[0]),
        }
    }

    /// All `n` of them one after the other in the type that they are multiplied in, where they do not lie so.
    fn laid_out(self, gpu: &Gpu, n: usize, like: DType) -> Result<Option<Buffer>> {
        match self {
            Self::Flat(weights) => gpu.rounded(weights, n, like),
            Self::Parts(parts) => gpu.join(parts, like).map(Some),
        }
    }

    /// The same, from what [`Given::laid_out`] made.
    fn matrices(self, laid_out: Option<&'a Tensor>) -> Result<Span<'a>> {
        match (laid_out, self) {
            (Some(laid_out), _) => Span::of(laid_out),
            (None, Self::Flat(weights)) => Ok(weights),
            (None, Self::Parts(_)) => Err(Error::msg("parts were not laid out")),
        }
    }
}

/// Half a layer, of which several may make one node.
trait Half {
    /// What comes out; keeps what the backward pass needs.
    fn compute(&self, gpu: &Gpu, x: Span<'_>, given: Given<'_>) -> Result<Buffer>;

    /// The gradient of `x`; that of the weights goes to `grad`, where it is wanted.
    fn differentiate(
        &self,
        gpu: &Gpu,
        x_and_dy: [Span<'_>; 2],
        given: Given<'_>,
        grad: Option<Span<'_>>,
    ) -> Result<Buffer>;
}

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
    laid_out: Option<Tensor>,
}

impl AttentionBlock {
    /// d, (H + 2 KV) D and H D.
    fn widths(&self) -> (usize, usize, usize) {
        (self.spec.width, self.spec.attention.qkv_width(), self.spec.attention.output_width())
    }

    /// All but the output.
    fn activate(&self, gpu: &Gpu, x: Span<'_>, given: Given<'_>) -> Result<KeptOfAttention> {
        let (n, (d, qkv_width, heads_width)) = (self.n, self.widths());
        let n_weights = self.spec.n_weights();
        let laid_out = given.laid_out(gpu, n_weights, x.dtype)?.map(|all| all.into_tensor(n_weights));
        let qkv_weight = Matrix::new(given.matrices(laid_out.as_ref())?.from(d), qkv_width, d);

        let normed = gpu.normalize(x, given.norm()?, n, d, self.spec.eps)?;
        let qkv = gpu.alloc(n * qkv_width, x.dtype)?;
        gpu.multiply(qkv.span(), Matrix::new(normed.span(), n, d), qkv_weight.transposed(), Into::Overwrite)?;
        self.attention.turn(gpu, qkv.span(), 1.0)?;
        let (heads, norms) = self.attention.forward(gpu, qkv.span())?;
        Ok(KeptOfAttention {
            normed: normed.into_tensor((n, d)),
            qkv: qkv.into_tensor((n, qkv_width)),
            heads: heads.into_tensor((n, heads_width)),
            norms: norms.into_tensor(n * self.spec.attention.n_heads),
            laid_out,
        })
    }
}

impl Half for AttentionBlock {
    fn compute(&self, gpu: &Gpu, x: Span<'_>, given: Given<'_>) -> Result<Buffer> {
        let (n, (d, qkv_width, heads_width)) = (self.n, self.widths());
        let made = self.activate(gpu, x, given)?;
        let output = Matrix::new(given.matrices(made.laid_out.as_ref())?.from(d * (1 + qkv_width)), d, heads_width);
        let heads = Matrix::new(Span::of(&made.heads)?, n, heads_width);
        let y = gpu.alloc(n * d, x.dtype)?;
        gpu.multiply(y.span(), heads, output.transposed(), Into::Sum(x))?;
        if self.keeps {
            // An op is applied once; were it applied again, the values are the same.
            let _ = self.kept.set(made);
        }
        Ok(y)
    }

    fn differentiate(
        &self,
        gpu: &Gpu,
        [x, dy]: [Span<'_>; 2],
        given: Given<'_>,
        grad: Option<Span<'_>>,
    ) -> Result<Buffer> {
        let (n, (d, qkv_width, heads_width)) = (self.n, self.widths());
        let again = if self.kept.get().is_none() { Some(self.activate(gpu, x, given)?) } else { None };
        let kept = again.as_ref().or(self.kept.get()).expect("it is kept or was just made");
        let matrices = given.matrices(kept.laid_out.as_ref())?;
        let dtype = matrices.dtype;
        let qkv_weight = Matrix::new(matrices.from(d), qkv_width, d);
        let output = Matrix::new(matrices.from(d * (1 + qkv_width)), d, heads_width);
        let (qkv, heads) = (Span::of(&kept.qkv)?, Span::of(&kept.heads)?);
        let dy_rows = Matrix::new(dy, n, d);

        let d_heads = gpu.alloc(n * heads_width, dtype)?;
        gpu.multiply(d_heads.span(), dy_rows, output, Into::Overwrite)?;
        let d_qkv = self.attention.backward(gpu, qkv, [heads, Span::of(&kept.norms)?, d_heads.span()])?;
        drop(d_heads);
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
        gpu.normalize_backward([d_normed.span(), x, given.norm()?], Some(dy), grad, (n, d, self.spec.eps))
    }
}

impl Operation<2> for AttentionBlock {
    const OP: &'static str = "attention_block";

    fn forward(&self, gpu: &Gpu, [x, weights]: [Span<'_>; 2]) -> Result<(Buffer, Shape)> {
        Ok((self.compute(gpu, x, Given::Flat(weights))?, self.dims.clone().into()))
    }

    fn backward(&self, gpu: &Gpu, [x, weights]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        differentiate_node(self, self.spec.n_weights(), gpu, [x, weights], dy)
    }
}

/// [`Operation::backward`] of a half that is a node by itself.
fn differentiate_node(
    half: &impl Half,
    n_weights: usize,
    gpu: &Gpu,
    [x, weights]: [&Tensor; 2],
    dy: &Tensor,
) -> Result<[Option<Tensor>; 2]> {
    let given = Span::of(weights)?;
    let grad = weights.track_op().then(|| gpu.alloc(n_weights, given.dtype)).transpose()?;
    let spans = [Span::of(x)?, Span::of(dy)?];
    let dx = half.differentiate(gpu, spans, Given::Flat(given), grad.as_ref().map(Buffer::span))?;
    Ok([Some(dx.into_tensor(x.shape())), grad.map(|grad| grad.into_tensor(weights.shape()))])
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
    laid_out: Option<Tensor>,
}

impl FeedForward {
    /// All but the output.
    fn activate(&self, gpu: &Gpu, x: Span<'_>, given: Given<'_>) -> Result<KeptOfFeedForward> {
        let FeedForwardSpec { width: d, inner: f, eps, .. } = self.spec;
        let (n, n_weights) = (self.n, self.spec.n_weights());
        let laid_out = given.laid_out(gpu, n_weights, x.dtype)?.map(|all| all.into_tensor(n_weights));
        let gate_up_weight = Matrix::new(given.matrices(laid_out.as_ref())?.from(d), 2 * f, d);

        let normed = gpu.normalize(x, given.norm()?, n, d, eps)?;
        let gate_up = gpu.alloc(n * 2 * f, x.dtype)?;
        gpu.multiply(gate_up.span(), Matrix::new(normed.span(), n, d), gate_up_weight.transposed(), Into::Overwrite)?;
        let gated = gpu.gate(gate_up.span(), n, f)?;
        Ok(KeptOfFeedForward {
            normed: normed.into_tensor((n, d)),
            gate_up: gate_up.into_tensor((n, 2 * f)),
            gated: gated.into_tensor((n, f)),
            laid_out,
        })
    }
}

impl Half for FeedForward {
    fn compute(&self, gpu: &Gpu, x: Span<'_>, given: Given<'_>) -> Result<Buffer> {
        let FeedForwardSpec { width: d, inner: f, .. } = self.spec;
        let n = self.n;
        let made = self.activate(gpu, x, given)?;
        let down = Matrix::new(given.matrices(made.laid_out.as_ref())?.from(d * (1 + 2 * f)), d, f);
        let gated = Matrix::new(Span::of(&made.gated)?, n, f);
        let y = gpu.alloc(n * d, x.dtype)?;
        gpu.multiply(y.span(), gated, down.transposed(), Into::Sum(x))?;
        if self.keeps {
            // An op is applied once; were it applied again, the values are the same.
            let _ = self.kept.set(made);
        }
        Ok(y)
    }

    fn differentiate(
        &self,
        gpu: &Gpu,
        [x, dy]: [Span<'_>; 2],
        given: Given<'_>,
        grad: Option<Span<'_>>,
    ) -> Result<Buffer> {
        let FeedForwardSpec { width: d, inner: f, eps, .. } = self.spec;
        let n = self.n;
        let again = if self.kept.get().is_none() { Some(self.activate(gpu, x, given)?) } else { None };
        let kept = again.as_ref().or(self.kept.get()).expect("it is kept or was just made");
        let matrices = given.matrices(kept.laid_out.as_ref())?;
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
        gpu.normalize_backward([d_normed.span(), x, given.norm()?], Some(dy), grad, (n, d, eps))
    }
}

impl Operation<2> for FeedForward {
    const OP: &'static str = "feed_forward";

    fn forward(&self, gpu: &Gpu, [x, weights]: [Span<'_>; 2]) -> Result<(Buffer, Shape)> {
        Ok((self.compute(gpu, x, Given::Flat(weights))?, self.dims.clone().into()))
    }

    fn backward(&self, gpu: &Gpu, [x, weights]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        differentiate_node(self, self.spec.n_weights(), gpu, [x, weights], dy)
    }
}

/// [`crate::layers`] on a GPU; shapes are checked.
pub(crate) fn layers(x: &Tensor, weights: &Tensor, spec: &LayersSpec, segments: &Segments) -> Result<Tensor> {
    let learns = x.track_op() || weights.track_op();
    x.apply_op2(weights, Node(Layers::new(x, spec, segments, learns)?))
}

/// [`crate::layers_of_parts`] on a GPU; shapes are checked.
pub(crate) fn layers_of_parts(
    x: &Tensor,
    halves: &[&[Tensor]],
    spec: &LayersSpec,
    segments: &Segments,
    gradients: &HandedOver,
) -> Result<Tensor> {
    let layers = Layers::new(x, spec, segments, true)?;
    let half = |parts: &&[Tensor]| parts.iter().map(|part| part.detach().contiguous()).collect();
    let halves = halves.iter().map(half).collect::<Result<_>>()?;
    x.apply_op1(Node(LayersOfParts { layers, halves, gradients: gradients.clone() }))
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
    fn new(x: &Tensor, spec: &LayersSpec, segments: &Segments, keeps: bool) -> Result<Self> {
        let attention = Attention::new(&*Gpu::of(x)?, &spec.attention.attention, segments)?;
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
        Ok(Self { spec: *spec, halves, dims, keeps, between: OnceLock::new() })
    }

    /// What comes out; keeps what goes into each half.
    fn compute(&self, gpu: &Gpu, x: Span<'_>, given: &[Given<'_>]) -> Result<Buffer> {
        let mut between: Vec<Tensor> = Vec::new();
        let mut last: Option<Buffer> = None;
        let halves = self.halves.iter().flat_map(|(first, second)| [first as &dyn Half, second]);
        for (half, &given) in halves.zip(given) {
            if let Some(made) = last.take() {
                if !self.keeps {
                    between.clear();
                }
                between.push(made.into_tensor(self.dims.clone()));
            }
            let from = between.last().map_or(Ok(x), Span::of)?;
            last = Some(half.compute(gpu, from, given)?);
        }
        // An op is applied once; were it applied again, the values are the same.
        let _ = self.between.set(between);
        last.ok_or_else(|| Error::msg("layers: there are none"))
    }

    /// The gradient of `x`; that of the weights goes to `grad`, where it is wanted.
    fn differentiate(
        &self,
        gpu: &Gpu,
        x: &Tensor,
        from_above: Span<'_>,
        given: &[Given<'_>],
        grad: Option<Span<'_>>,
    ) -> Result<Tensor> {
        let between = self.between.get().ok_or_else(|| Error::msg("layers: nothing was kept"))?;
        let grad_from = |start: usize| grad.map(|grad| grad.from(start));
        let mut above: Option<Buffer> = None;
        for (idx, (first, second)) in self.halves.iter().enumerate().rev() {
            let (of_first, of_second) = self.starts(idx);
            let dy = above.as_ref().map_or(from_above, Buffer::span);
            let spans = [Span::of(&between[2 * idx])?, dy];
            let middle = second.differentiate(gpu, spans, given[2 * idx + 1], grad_from(of_second))?;
            let from = if idx == 0 { x } else { &between[2 * idx - 1] };
            let spans = [Span::of(from)?, middle.span()];
            above = Some(first.differentiate(gpu, spans, given[2 * idx], grad_from(of_first))?);
        }
        let dx = above.ok_or_else(|| Error::msg("layers: there are none"))?;
        Ok(dx.into_tensor(x.shape()))
    }

    /// Each half's share of all weights.
    fn shares<'a>(&self, weights: Span<'a>) -> Vec<Given<'a>> {
        let starts = (0..self.spec.n_layers).map(|layer| self.starts(layer));
        starts.flat_map(|(first, second)| [first, second]).map(|start| Given::Flat(weights.from(start))).collect()
    }

    /// Where the weights of each half begin.
    fn starts(&self, layer: usize) -> (usize, usize) {
        let start = layer * self.spec.n_layer_weights();
        (start, start + self.spec.attention.n_weights())
    }
}

impl Operation<2> for Layers {
    const OP: &'static str = "layers";

    fn forward(&self, gpu: &Gpu, [x, weights]: [Span<'_>; 2]) -> Result<(Buffer, Shape)> {
        Ok((self.compute(gpu, x, &self.shares(weights))?, self.dims.clone().into()))
    }

    fn backward(&self, gpu: &Gpu, [x, weights]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let given = Span::of(weights)?;
        let grad = weights.track_op().then(|| gpu.alloc(self.spec.n_weights(), given.dtype)).transpose()?;
        let dx = self.differentiate(gpu, x, Span::of(dy)?, &self.shares(given), grad.as_ref().map(Buffer::span))?;
        Ok([Some(dx), grad.map(|grad| grad.into_tensor(weights.shape()))])
    }
}

/// Layers whose weights are no tensors of the graph.
struct LayersOfParts {
    layers: Layers,
    /// Of each half its norm and its matrices.
    halves: Vec<Vec<Tensor>>,
    gradients: HandedOver,
}

impl LayersOfParts {
    fn given(&self) -> Vec<Given<'_>> {
        self.halves.iter().map(|parts| Given::Parts(parts)).collect()
    }
}

impl Operation<1> for LayersOfParts {
    const OP: &'static str = Layers::OP;

    fn forward(&self, gpu: &Gpu, [x]: [Span<'_>; 1]) -> Result<(Buffer, Shape)> {
        Ok((self.layers.compute(gpu, x, &self.given())?, self.layers.dims.clone().into()))
    }

    fn backward(&self, gpu: &Gpu, [x]: [&Tensor; 1], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 1]> {
        let n = self.layers.spec.n_weights();
        let grad = gpu.alloc(n, DType::F32)?;
        let dx = self.layers.differentiate(gpu, x, Span::of(dy)?, &self.given(), Some(grad.span()))?;
        self.gradients.push(grad.into_tensor(n));
        Ok([Some(dx)])
    }
}
