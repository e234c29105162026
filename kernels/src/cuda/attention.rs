//! Self-attention of packed documents.

use super::{Buffer, Gpu, Grid, Node, Operation, Span, int, long};
use crate::attention::{AttentionSpec, PAD_SEGMENT, Segments};
use crate::error::Error;
use candle_core::{DType, Result, Shape, Tensor};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

const OP: &str = "rope_attention";
/// Widths of heads that have tensor-core kernels, with their tiles, as at the end of `attention_bf16.cu`.
const TENSOR_CORE_TILES: [Tiles; 3] = [
    Tiles { head_dim: 32, forward: (128, 64), by_keys: (64, 64), by_queries: (64, 64) },
    Tiles { head_dim: 64, forward: (128, 64), by_keys: (64, 64), by_queries: (64, 64) },
    Tiles { head_dim: 128, forward: (128, 32), by_keys: (64, 32), by_queries: (64, 32) },
];

/// Rows of a block's own tile and of the tiles that it goes through.
#[derive(Clone, Copy)]
struct Tiles {
    head_dim: usize,
    forward: (usize, usize),
    /// The backward pass by keys: keys, queries.
    by_keys: (usize, usize),
    /// The backward pass by queries: queries, keys.
    by_queries: (usize, usize),
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

    /// The tiles of the tensor-core kernels, where there are any for this type and width.
    fn tensor_cores(&self, dtype: DType) -> Option<Tiles> {
        let mut known = TENSOR_CORE_TILES.into_iter();
        known.find(|tiles| dtype == DType::BF16 && tiles.head_dim == self.spec.head_dim)
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
        if let Some(Tiles { forward: (own, keys), .. }) = self.tensor_cores(qkv.dtype) {
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
            let grid = self.tiles(n_heads, own, (own + 4 * keys) * self.row_bytes());
            gpu.launch(format!("attention_forward_{head_dim}"), grid, &args)?;
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

    /// The gradient of queries, keys and values, still rotated.
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
        if let Some(tiles) = self.tensor_cores(qkv.dtype) {
            let args = || {
                let sizes = [int(self.len), int(n_heads), int(n_kv_heads), self.scale().into()];
                shared.map(super::Arg::from).into_iter().chain(sizes).collect::<Vec<_>>()
            };
            let (own, queries) = tiles.by_keys;
            let shared_bytes = (2 * own + 4 * queries) * self.row_bytes() + 6 * queries * size_of::<f32>();
            let grid = self.tiles(n_kv_heads, own, shared_bytes);
            gpu.launch(format!("attention_backward_keys_{head_dim}"), grid, &args())?;
            let (own, keys) = tiles.by_queries;
            let grid = self.tiles(n_heads, own, (2 * own + 4 * keys) * self.row_bytes());
            gpu.launch(format!("attention_backward_queries_{head_dim}"), grid, &args())?;
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
        Ok(grad)
    }

    /// Four warps for each tile of `own` rows, of each head, of each row of the batch.
    fn tiles(&self, n_heads: usize, own: usize, shared_bytes: usize) -> Grid {
        Grid { blocks: [self.len.div_ceil(own), n_heads, self.batch], threads: [128, 1], shared_bytes }
    }

    /// A row of a tile in shared memory, bytes.
    fn row_bytes(&self) -> usize {
        (self.spec.head_dim + 8) * DType::BF16.size_in_bytes()
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
        self.attention.turn(gpu, grad.span(), -1.0)?;
        Ok([Some(grad.into_tensor(qkv.shape()))])
    }
}
