//! Attention of new tokens over a cache.

use super::attention::Angles;
use super::product::{Into, Matrix};
use super::{Buffer, Gpu, Grid, Span, int};
use crate::attention::AttentionSpec;
use crate::cache::KvCache;
use crate::decode::{TokenPlaces, find_places};
use crate::decode_layers::DecodeLayer;
use crate::error::{Error, Result, length_mismatch, shape_mismatch};
use crate::layers::LayersSpec;
use crate::linear::PackedWeight;
use candle_core::{DType, Device, Tensor};
use std::sync::{Arc, Mutex, PoisonError};

const OP: &str = "decode_attention";

/// Rotated keys and values of every layer, `(rows, KV, max_len, D)` each.
#[derive(Debug)]
pub(crate) struct DeviceCache {
    layers: Vec<(Tensor, Tensor)>,
    /// Rows and positions of the tokens that are being read, the same in every layer.
    places: Mutex<Option<Places>>,
}

/// Where new tokens go in a cache.
#[derive(Debug)]
struct Places {
    rows: Vec<u32>,
    positions: Vec<u32>,
    /// The same on the device.
    uploaded: Arc<[Tensor; 2]>,
}

impl DeviceCache {
    pub(crate) fn new(
        (n_layers, n_rows, max_len): (usize, usize, usize),
        spec: &AttentionSpec,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let zeros = || Tensor::zeros((n_rows, spec.n_kv_heads, max_len, spec.head_dim), dtype, device);
        let layers = (0..n_layers).map(|_| Ok((zeros()?, zeros()?))).collect::<Result<_>>()?;
        Ok(Self { layers, places: Mutex::new(None) })
    }

    fn layer(&self, index: usize) -> Result<&(Tensor, Tensor)> {
        self.layers.get(index).ok_or(Error::CacheIndex { what: "layer", index, count: self.layers.len() })
    }

    /// Rows and positions on the device.
    fn places(&self, device: &Device, rows: &[u32], positions: &[u32]) -> Result<Arc<[Tensor; 2]>> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*places
            && known.rows == rows
            && known.positions == positions
        {
            return Ok(Arc::clone(&known.uploaded));
        }
        let uploaded = Arc::new([Tensor::new(rows, device)?, Tensor::new(positions, device)?]);
        *places = Some(Places { rows: rows.to_vec(), positions: positions.to_vec(), uploaded: Arc::clone(&uploaded) });
        Ok(uploaded)
    }

    /// Makes row `to` start with the first `len` tokens of `from`.
    pub(crate) fn copy_prefix(&self, from: usize, len: usize, to: usize) -> Result<()> {
        for tensor in self.layers.iter().flat_map(|(keys, values)| [keys, values]) {
            let (_, n_kv_heads, max_len, d) = tensor.dims4()?;
            let gpu = Gpu::of(tensor)?;
            for kv_head in 0..n_kv_heads {
                let [from, to] = [from, to].map(|row| (row * n_kv_heads + kv_head) * max_len * d);
                let all = Span::of(tensor)?;
                gpu.copy(all.from(to), all.from(from), len * d)?;
            }
        }
        Ok(())
    }
}

/// Attention of new tokens over a cache, layer by layer.
struct CachedAttention<'a> {
    gpu: Arc<Gpu>,
    spec: &'a AttentionSpec,
    cache: &'a DeviceCache,
    angles: Arc<Angles>,
    places: Arc<[Tensor; 2]>,
    n: usize,
    max_len: usize,
}

impl<'a> CachedAttention<'a> {
    fn new(
        device: &Device,
        dtype: DType,
        spec: &'a AttentionSpec,
        (rows, positions): &TokenPlaces,
        cache: &'a DeviceCache,
    ) -> Result<Self> {
        let Device::Cuda(on) = device else {
            return Err(Error::UnsupportedDevice { op: OP, what: "it", found: device.location() });
        };
        let (keys, _) = cache.layer(0)?;
        if keys.dtype() != dtype {
            let expected = keys.dtype().as_str();
            return Err(Error::UnsupportedDtype { op: OP, what: "qkv", expected, found: dtype });
        }
        let gpu = Gpu::with(on)?;
        let n_positions = positions.iter().max().map_or(0, |&last| last as usize + 1);
        let angles = gpu.angles(n_positions, spec)?;
        let places = cache.places(device, rows, positions)?;
        Ok(Self { gpu, spec, cache, angles, places, n: rows.len(), max_len: keys.dim(2)? })
    }

    /// Puts keys and values of a layer into the cache, and what its heads see into `y`.
    fn attend(&self, y: Span<'_>, qkv: Span<'_>, layer: usize) -> Result<()> {
        let AttentionSpec { n_heads, n_kv_heads, head_dim, .. } = *self.spec;
        let (keys, values) = self.cache.layer(layer)?;
        let (keys, values) = (Span::of(keys)?, Span::of(values)?);
        let (rows, positions) = (Span::of(&self.places[0])?, Span::of(&self.places[1])?);
        let (cos, sin) = (self.angles.cos.span(), self.angles.sin.span());
        let args = [
            keys.into(),
            values.into(),
            qkv.into(),
            cos.into(),
            sin.into(),
            rows.into(),
            positions.into(),
            int(self.n),
            int(n_heads),
            int(n_kv_heads),
            int(head_dim),
            int(self.max_len),
        ];
        let grid = Grid::threads(self.n * n_kv_heads * head_dim / 2);
        self.gpu.launch(format!("append_{}", qkv.suffix()), grid, &args)?;
        let args = [
            y.into(),
            qkv.into(),
            keys.into(),
            values.into(),
            cos.into(),
            sin.into(),
            rows.into(),
            positions.into(),
            int(n_heads),
            int(n_kv_heads),
            int(head_dim),
            int(self.max_len),
            ((1.0 / (head_dim as f64).sqrt()) as f32).into(),
        ];
        let grid = Grid::blocks([self.n, n_heads, 1], 128);
        Ok(self.gpu.launch(format!("attend_cached_{}", qkv.suffix()), grid, &args)?)
    }
}

/// [`crate::decode_attention`] on a GPU; shapes are checked.
pub(crate) fn decode_attention(
    qkv: &Tensor,
    spec: &AttentionSpec,
    places: &TokenPlaces,
    cache: &DeviceCache,
    layer: usize,
) -> Result<Tensor> {
    let attention = CachedAttention::new(qkv.device(), qkv.dtype(), spec, places, cache)?;
    let y = attention.gpu.alloc(attention.n * spec.output_width(), qkv.dtype())?;
    attention.attend(y.span(), Span::of(qkv)?, layer)?;
    Ok(y.into_tensor((attention.n, spec.output_width())))
}

/// [`crate::decode_layers`] on a GPU; the shape of `x` and the number of layers are checked.
pub(crate) fn decode_layers(
    x: &Tensor,
    layers: &[DecodeLayer<'_>],
    spec: &LayersSpec,
    rows: &[usize],
    cache: &KvCache,
) -> Result<Tensor> {
    const OP: &str = "decode_layers";
    let (shape, d, f) = (&spec.attention.attention, spec.attention.width, spec.feed_forward.inner);
    let (qkv_width, heads_width) = (shape.qkv_width(), shape.output_width());
    let places = find_places(rows, cache)?;
    let on_gpu = cache.on_gpu().ok_or_else(|| Error::UnsupportedDevice {
        op: OP,
        what: "cache",
        found: Device::Cpu.location(),
    })?;
    if cache.width() != shape.n_kv_heads * shape.head_dim {
        return Err(length_mismatch(OP, "cache", shape.n_kv_heads * shape.head_dim, cache.width()));
    }
    let dtype = x.dtype();
    let attention = CachedAttention::new(x.device(), dtype, shape, &places, on_gpu)?;
    let (gpu, n) = (&attention.gpu, rows.len());
    let matrix = |weight: &'static str, packed: &PackedWeight, dims: [usize; 2]| -> Result<Tensor> {
        match packed.on_gpu() {
            Some(found) if found.dims() == dims && found.dtype() == dtype => Ok(found.clone()),
            Some(found) => Err(shape_mismatch(OP, weight, format!("{dims:?} of {dtype:?}"), found.shape())),
            None => Err(Error::UnsupportedDevice { op: OP, what: weight, found: Device::Cpu.location() }),
        }
    };
    let norm = |norm: &Tensor| -> Result<Tensor> {
        if norm.dims() != [d] {
            return Err(shape_mismatch(OP, "norm", format!("[{d}]"), norm.shape()));
        }
        Ok(norm.detach().contiguous()?)
    };
    let alloc = |width: usize| gpu.alloc(n * width, dtype);
    let (sum, normed, qkv, heads) = (alloc(d)?, alloc(d)?, alloc(qkv_width)?, alloc(heads_width)?);
    let (gate_up, gated) = (alloc(2 * f)?, alloc(f)?);
    let x = x.detach().contiguous()?;
    gpu.copy(sum.span(), Span::of(&x)?, n * d)?;
    for (idx, layer) in layers.iter().enumerate() {
        // y = a W^T, or y += a W^T.
        let apply = |y: &Buffer, a: &Buffer, weight: &Tensor, into: Into<'_>| -> Result<()> {
            let (n_out, n_in) = weight.dims2()?;
            let weight = Matrix::new(Span::of(weight)?, n_out, n_in).transposed();
            Ok(gpu.multiply(y.span(), Matrix::new(a.span(), n, n_in), weight, into)?)
        };
        let weight = norm(layer.attention_norm)?;
        gpu.normalize_to(normed.span(), [sum.span(), Span::of(&weight)?], (n, d, spec.attention.eps))?;
        apply(&qkv, &normed, &matrix("qkv", layer.qkv, [qkv_width, d])?, Into::Overwrite)?;
        attention.attend(heads.span(), qkv.span(), idx)?;
        apply(&sum, &heads, &matrix("output", layer.output, [d, heads_width])?, Into::Add)?;
        let weight = norm(layer.feed_forward_norm)?;
        gpu.normalize_to(normed.span(), [sum.span(), Span::of(&weight)?], (n, d, spec.feed_forward.eps))?;
        apply(&gate_up, &normed, &matrix("gate_up", layer.gate_up, [2 * f, d])?, Into::Overwrite)?;
        gpu.gate_to(gated.span(), gate_up.span(), n, f)?;
        apply(&sum, &gated, &matrix("down", layer.down, [d, f])?, Into::Add)?;
    }
    Ok(sum.into_tensor((n, d)))
}
