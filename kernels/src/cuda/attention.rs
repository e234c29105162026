//! Self-attention of packed documents.

use super::{Buffer, Gpu, Grid, Node, Operation, Span, int, long};
use crate::attention::{AttentionSpec, PAD_SEGMENT, Segments};
use crate::error::Error;
use candle_core::{DType, Result, Shape, Tensor};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

const OP: &str = "rope_attention";
/// Kernels on tensor cores, for bf16 heads of one width.
#[derive(Clone, Copy)]
struct TensorCores {
    /// What their names begin with.
    name: &'static str,
    head_dim: usize,
    /// Numbers between the rows of a tile in shared memory.
    gap: usize,
    /// Whether the gradients of queries and keys come turned back.
    turns_back: bool,
    forward: Tiles,
    /// By keys and by queries.
    backward: Tiles,
}

/// Rows of a block's own tile and of the tiles that it goes through, of queries or of keys.
#[derive(Clone, Copy)]
struct Tiles {
    own: usize,
    others: usize,
}

const fn tiles(own: usize, others: usize) -> Tiles {
    Tiles { own, others }
}

/// As at the end of `attention_bf16.cu`.
const ANY_CARD: [TensorCores; 3] = [
    TensorCores::any_card(32, tiles(128, 64), tiles(64, 64)),
    TensorCores::any_card(64, tiles(128, 64), tiles(64, 64)),
    TensorCores::any_card(128, tiles(128, 32), tiles(64, 32)),
];

/// As at the end of `attention_hopper.cu`.
#[cfg(hopper)]
const HOPPER: [TensorCores; 2] = [TensorCores::hopper(64), TensorCores::hopper(128)];

impl TensorCores {
    const fn any_card(head_dim: usize, forward: Tiles, backward: Tiles) -> Self {
        Self { name: "attention", head_dim, gap: 8, turns_back: false, forward, backward }
    }

    #[cfg(hopper)]
    const fn hopper(head_dim: usize) -> Self {
        let all = tiles(64, 64);
        Self { name: "hopper", head_dim, gap: 0, turns_back: true, forward: all, backward: all }
    }

    /// Those for this type and width, where there are any.
    fn find(dtype: DType, head_dim: usize) -> Option<Self> {
        let fits = |kernels: &Self| dtype == DType::BF16 && kernels.head_dim == head_dim;
        #[cfg(hopper)]
        if !tests_any_card()
            && let Some(found) = HOPPER.into_iter().find(fits)
        {
            return Some(found);
        }
        ANY_CARD.into_iter().find(fits)
    }

    /// A row of a tile in shared memory, bytes.
    fn row_bytes(self) -> usize {
        (self.head_dim + self.gap) * DType::BF16.size_in_bytes()
    }
}

/// Whether a test wants the kernels that run on any card where there are others for this one.
#[cfg(hopper)]
fn tests_any_card() -> bool {
    #[cfg(test)]
    return super::tests::ANY_CARD.get();
    #[cfg(not(test))]
    false
}

/// Widest head.
const MAX_HEAD_DIM: usize = 256;
/// Segments whose copies on the device are kept: the batches of a step.
const KEPT_UPLOADS: usize = 8;

/// What was copied to the device and is wanted again by the next layer.
#[derive(Default)]
pub(super) struct Uploads {
    segments: Mutex<Vec<(Segments, Arc<DeviceSegments>)>>,
    angles: Mutex<Vec<Arc<Angles>>>,
}

/// Segments as the kernels read them.
pub(super) struct DeviceSegments {
    /// The first token that each sees; for padding the token behind it.
    first: Buffer,
    positions: Buffer,
    n_positions: usize,
}

/// Cosines and sines of the rotation angles, f32.
pub(super) struct Angles {
    theta: f64,
    half: usize,
    n_positions: usize,
    pub(super) cos: Buffer,
    pub(super) sin: Buffer,
}

impl Gpu {
    /// A copy of `segments`, made once for all layers of a pass.
    fn segments(&self, segments: &Segments) -> Result<Arc<DeviceSegments>> {
        let mut kept = self.uploads.segments.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = kept.iter().find(|(known, _)| known == segments) {
            return Ok(Arc::clone(found));
        }
        let made = Arc::new(DeviceSegments {
            first: self.upload(&first_visible(segments)?)?,
            positions: self.upload(&segments.positions)?,
            n_positions: segments.positions.iter().max().map_or(0, |&last| last as usize + 1),
        });
        if kept.len() == KEPT_UPLOADS {
            kept.remove(0);
        }
        kept.push((segments.clone(), Arc::clone(&made)));
        Ok(made)
    }

    /// The angles of at least `n_positions`.
    pub(super) fn angles(&self, n_positions: usize, spec: &AttentionSpec) -> Result<Arc<Angles>> {
        let half = spec.head_dim / 2;
        let mut kept = self.uploads.angles.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |known: &Angles| known.theta.to_bits() == spec.rope_theta.to_bits() && known.half == half;
        if let Some(idx) = kept.iter().position(|known| is_same(known)) {
            if kept[idx].n_positions >= n_positions {
                return Ok(Arc::clone(&kept[idx]));
            }
            kept.swap_remove(idx);
        }
        let n_positions = n_positions.next_power_of_two();
        let angles = (0..n_positions * half).map(|i| {
            let (position, k) = (i / half, i % half);
            position as f64 * spec.rope_theta.powf(-(k as f64) / half as f64)
        });
        let (sin, cos): (Vec<f32>, Vec<f32>) =
            angles.map(f64::sin_cos).map(|(sin, cos)| (sin as f32, cos as f32)).unzip();
        let (cos, sin) = (self.upload(&cos)?, self.upload(&sin)?);
        let made = Arc::new(Angles { theta: spec.rope_theta, half, n_positions, cos, sin });
        kept.push(Arc::clone(&made));
        Ok(made)
    }
}

/// For each token the first of its document, for padding the next token; never falls along a row.
fn first_visible(segments: &Segments) -> Result<Vec<u32>> {
    let mut first = Vec::with_capacity(segments.ids.len());
    for row in segments.ids.chunks(segments.len.max(1)) {
        let mut seen = std::collections::BTreeSet::new();
        let mut start = 0;
        for (t, &id) in row.iter().enumerate() {
            if t == 0 || row[t - 1] != id {
                start = t;
                if id != PAD_SEGMENT && !seen.insert(id) {
                    return Err(Error::ShapeMismatch {
                        op: OP,
                        what: "segments",
                        expected: "on a GPU each document in one piece".to_owned(),
                        found: format!("document {id} again at token {t}"),
                    }
                    .into());
                }
            }
            first.push(if id == PAD_SEGMENT { t + 1 } else { start } as u32);
        }
    }
    Ok(first)
}

/// Attention of one shape over given segments.
#[derive(Clone)]
pub(super) struct Attention {
    spec: AttentionSpec,
    batch: usize,
    len: usize,
    segments: Arc<DeviceSegments>,
    angles: Arc<Angles>,
}

impl Attention {
    pub(super) fn new(gpu: &Gpu, spec: &AttentionSpec, segments: &Segments) -> Result<Self> {
        if spec.head_dim > MAX_HEAD_DIM {
            return Err(Error::ShapeMismatch {
                op: OP,
                what: "spec",
                expected: format!("on a GPU heads of at most {MAX_HEAD_DIM}"),
                found: format!("heads of {}", spec.head_dim),
            }
            .into());
        }
        let (batch, len) = (segments.batch, segments.len);
        let segments = gpu.segments(segments)?;
        let angles = gpu.angles(segments.n_positions, spec)?;
        Ok(Self { spec: *spec, batch, len, segments, angles })
    }

    fn n_tokens(&self) -> usize {
        self.batch * self.len
    }

    /// Turns queries and keys in place, forth (1) or back (-1).
    pub(super) fn turn(&self, gpu: &Gpu, qkv: Span<'_>, sense: f32) -> Result<()> {
        let half = self.spec.head_dim / 2;
        let n_heads = self.spec.n_heads + self.spec.n_kv_heads;
        let (way, together) =
            if half.is_multiple_of(4) && qkv.address.is_multiple_of(16) { ("wide", 4) } else { ("1", 1) };
        let args = [
            qkv.into(),
            self.angles.cos.span().into(),
            self.angles.sin.span().into(),
            self.segments.positions.span().into(),
            long(self.n_tokens()),
            int(n_heads),
            int(half),
            int(self.spec.qkv_width()),
            sense.into(),
        ];
        let grid = Grid::threads(self.n_tokens() * n_heads * half / together);
        gpu.launch(format!("turn_{way}_{}", qkv.suffix()), grid, &args)
    }

    fn scale(&self) -> f32 {
        (1.0 / (self.spec.head_dim as f64).sqrt()) as f32
    }

    /// From rotated queries and keys: the result, and the norms that the backward pass needs.
    pub(super) fn forward(&self, gpu: &Gpu, qkv: Span<'_>) -> Result<(Buffer, Buffer)> {
        let AttentionSpec { n_heads, n_kv_heads, head_dim, .. } = self.spec;
        let y = gpu.alloc(self.n_tokens() * self.spec.output_width(), qkv.dtype)?;
        let norms = gpu.alloc(self.n_tokens() * n_heads, DType::F32)?;
        let first = self.segments.first.span();
        if let Some(kernels) = TensorCores::find(qkv.dtype, head_dim) {
            let args = [
                y.span().into(),
                norms.span().into(),
                qkv.into(),
                first.into(),
                int(self.len),
                int(n_heads),
                int(n_kv_heads),
                self.scale().into(),
            ];
            let Tiles { own, others } = kernels.forward;
            let grid = self.tiles(n_heads, own, (own + 4 * others) * kernels.row_bytes());
            gpu.launch(format!("{}_forward_{head_dim}", kernels.name), grid, &args)?;
        } else {
            let args = [
                y.span().into(),
                norms.span().into(),
                qkv.into(),
                first.into(),
                int(self.batch),
                int(self.len),
                int(n_heads),
                int(n_kv_heads),
                int(head_dim),
                self.scale().into(),
            ];
            gpu.launch(format!("attend_{}", qkv.suffix()), Grid::warps(self.n_tokens() * n_heads), &args)?;
        }
        Ok((y, norms))
    }

    /// The gradient of queries and keys before they were turned, and of values.
    pub(super) fn backward(&self, gpu: &Gpu, qkv: Span<'_>, [y, norms, dy]: [Span<'_>; 3]) -> Result<Buffer> {
        let AttentionSpec { n_heads, n_kv_heads, head_dim, .. } = self.spec;
        let n_queries = self.n_tokens() * n_heads;
        let dots = gpu.alloc(n_queries, DType::F32)?;
        let args =
            [dots.span().into(), dy.into(), y.into(), int(self.batch), int(self.len), int(n_heads), int(head_dim)];
        let way = if head_dim.is_multiple_of(8) && dy.address.is_multiple_of(16) { "wide" } else { "1" };
        gpu.launch(format!("dot_heads_{way}_{}", qkv.suffix()), Grid::threads(8 * n_queries), &args)?;
        let grad = gpu.alloc(self.n_tokens() * self.spec.qkv_width(), qkv.dtype)?;
        let first = self.segments.first.span();
        let shared = [grad.span(), qkv, dy, norms, dots.span(), first];
        if let Some(kernels) = TensorCores::find(qkv.dtype, head_dim) {
            let angles = [self.angles.cos.span(), self.angles.sin.span(), self.segments.positions.span()];
            let angles = if kernels.turns_back { &angles[..] } else { &[] };
            let args = || {
                let sizes = [int(self.len), int(n_heads), int(n_kv_heads), self.scale().into()];
                let args = shared.map(super::Arg::from).into_iter().chain(sizes);
                args.chain(angles.iter().map(|&span| span.into())).collect::<Vec<_>>()
            };
            let Tiles { own, others } = kernels.backward;
            let shared_bytes = (2 * own + 4 * others) * kernels.row_bytes() + 6 * others * size_of::<f32>();
            let grid = self.tiles(n_kv_heads, own, shared_bytes);
            gpu.launch(format!("{}_backward_keys_{head_dim}", kernels.name), grid, &args())?;
            let grid = self.tiles(n_heads, own, (2 * own + 4 * others) * kernels.row_bytes());
            gpu.launch(format!("{}_backward_queries_{head_dim}", kernels.name), grid, &args())?;
            if kernels.turns_back {
                return Ok(grad);
            }
        } else {
            let args = || {
                let sizes = [self.batch, self.len, n_heads, n_kv_heads, head_dim].map(int);
                let args = shared.map(super::Arg::from).into_iter().chain(sizes);
                args.chain([self.scale().into()]).collect::<Vec<_>>()
            };
            let n_keys = self.n_tokens() * n_kv_heads;
            gpu.launch(format!("attend_backward_keys_{}", qkv.suffix()), Grid::warps(n_keys), &args())?;
            gpu.launch(format!("attend_backward_queries_{}", qkv.suffix()), Grid::warps(n_queries), &args())?;
        }
        self.turn(gpu, grad.span(), -1.0)?;
        Ok(grad)
    }

    /// Four warps for each tile of `own` rows, of each head, of each row of the batch.
    fn tiles(&self, n_heads: usize, own: usize, shared_bytes: usize) -> Grid {
        Grid { blocks: [self.len.div_ceil(own), n_heads, self.batch], threads: [128, 1], shared_bytes }
    }
}

/// [`crate::rope_attention`] on a GPU; shapes are checked.
pub(crate) fn rope_attention(qkv: &Tensor, spec: &AttentionSpec, segments: &Segments) -> Result<Tensor> {
    let attention = Attention::new(&*Gpu::of(qkv)?, spec, segments)?;
    qkv.apply_op1(Node(RopeAttention { attention, kept: OnceLock::new() }))
}

struct RopeAttention {
    attention: Attention,
    /// Rotated queries and keys with the values, and the norms.
    kept: OnceLock<(Tensor, Tensor)>,
}

impl Operation<1> for RopeAttention {
    const OP: &'static str = OP;

    fn forward(&self, gpu: &Gpu, [qkv]: [Span<'_>; 1]) -> Result<(Buffer, Shape)> {
        let (attention, spec) = (&self.attention, &self.attention.spec);
        let n = attention.n_tokens() * spec.qkv_width();
        let turned = gpu.alloc(n, qkv.dtype)?;
        gpu.copy(turned.span(), qkv, n)?;
        attention.turn(gpu, turned.span(), 1.0)?;
        let (y, norms) = attention.forward(gpu, turned.span())?;
        let n_norms = attention.n_tokens() * spec.n_heads;
        // An op is applied once; were it applied again, the values are the same.
        let _ = self.kept.set((turned.into_tensor(n), norms.into_tensor(n_norms)));
        Ok((y, (attention.batch, attention.len, spec.output_width()).into()))
    }

    fn backward(&self, gpu: &Gpu, [qkv]: [&Tensor; 1], y: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 1]> {
        let (turned, norms) = self.kept.get().ok_or_else(|| candle_core::Error::msg("nothing was kept"))?;
        let spans = [Span::of(y)?, Span::of(norms)?, Span::of(dy)?];
        let grad = self.attention.backward(gpu, Span::of(turned)?, spans)?;
        Ok([Some(grad.into_tensor(qkv.shape()))])
    }
}
