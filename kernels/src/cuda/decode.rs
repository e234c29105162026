//! Attention of new tokens over a cache.

use super::{Gpu, Grid, Span, int};
use crate::attention::AttentionSpec;
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::sync::{Arc, Mutex, PoisonError};

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

/// [`crate::decode_attention`] on a GPU; shapes are checked, token `i` goes to `positions[i]` of row `rows[i]`.
pub(crate) fn decode_attention(
    qkv: &Tensor,
    spec: &AttentionSpec,
    rows: &[u32],
    positions: &[u32],
    cache: &DeviceCache,
    layer: usize,
) -> Result<Tensor> {
    let (keys, values) =
        cache.layers.get(layer).ok_or(Error::CacheIndex { what: "layer", index: layer, count: cache.layers.len() })?;
    if keys.dtype() != qkv.dtype() {
        let expected = keys.dtype().as_str();
        return Err(Error::UnsupportedDtype { op: "decode_attention", what: "qkv", expected, found: qkv.dtype() });
    }
    let gpu = Gpu::of(qkv)?;
    let n = rows.len();
    let AttentionSpec { n_heads, n_kv_heads, head_dim, .. } = *spec;
    let max_len = keys.dim(2)?;
    let n_positions = positions.iter().max().map_or(0, |&last| last as usize + 1);
    let angles = gpu.angles(n_positions, spec)?;
    let places = cache.places(qkv.device(), rows, positions)?;
    let (rows, positions) = (Span::of(&places[0])?, Span::of(&places[1])?);
    let (keys, values, qkv) = (Span::of(keys)?, Span::of(values)?, Span::of(qkv)?);
    let (cos, sin) = (angles.cos.span(), angles.sin.span());
    let args = [
        keys.into(),
        values.into(),
        qkv.into(),
        cos.into(),
        sin.into(),
        rows.into(),
        positions.into(),
        int(n),
        int(n_heads),
        int(n_kv_heads),
        int(head_dim),
        int(max_len),
    ];
    gpu.launch(format!("append_{}", qkv.suffix()), Grid::threads(n * n_kv_heads * head_dim / 2), &args)?;
    let y = gpu.alloc(n * spec.output_width(), qkv.dtype)?;
    let args = [
        y.span().into(),
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
        int(max_len),
        ((1.0 / (head_dim as f64).sqrt()) as f32).into(),
    ];
    gpu.launch(format!("attend_cached_{}", qkv.suffix()), Grid::blocks([n, n_heads, 1], 128), &args)?;
    Ok(y.into_tensor((n, spec.output_width())))
}
