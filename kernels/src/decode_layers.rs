//! All layers of a decoder over a cache.

use crate::cache::KvCache;
use crate::decode::decode_attention;
use crate::error::{Result, length_mismatch, shape_mismatch};
use crate::layers::LayersSpec;
use crate::linear::PackedWeight;
use crate::rms_norm::rms_norm;
use crate::swiglu::swiglu;
use candle_core::Tensor;

const OP: &str = "decode_layers";

/// The weights of a layer as decoding reads them.
#[derive(Clone, Copy, Debug)]
pub struct DecodeLayer<'a> {
    /// Norm before attention, (d).
    pub attention_norm: &'a Tensor,
    /// Queries, keys and values, ((H + 2 KV) D, d).
    pub qkv: &'a PackedWeight,
    /// (d, H D)
    pub output: &'a PackedWeight,
    /// Norm before the feed-forward half, (d).
    pub feed_forward_norm: &'a Tensor,
    /// Gate and up, (2 f, d).
    pub gate_up: &'a PackedWeight,
    /// (d, f)
    pub down: &'a PackedWeight,
}

/// What all layers make of new tokens, whose keys and values are put into a cache; [`decode_attention`] says how `rows` are read.
/// After the call [`KvCache::advance`] with the same `rows` counts them. There is no gradient.
///
/// On a GPU nothing but the kernels is put into the stream: as single operations of candle's, a token of 64 rows takes more time on
/// the host than on the device.
///
/// # Shapes
/// `x` and the result (N, d), `rows` N.
///
/// # Errors
/// As [`decode_attention`], and where weights are not as many or of other shapes than `spec` says.
pub fn decode_layers(
    x: &Tensor,
    layers: &[DecodeLayer<'_>],
    spec: &LayersSpec,
    rows: &[usize],
    cache: &mut KvCache,
) -> Result<Tensor> {
    if layers.len() != spec.n_layers {
        return Err(length_mismatch(OP, "layers", spec.n_layers, layers.len()));
    }
    let (d, attention) = (spec.attention.width, &spec.attention.attention);
    if x.dims() != [rows.len(), d] {
        return Err(shape_mismatch(OP, "x", format!("[{}, {d}]", rows.len()), x.shape()));
    }
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return crate::cuda::decode_layers(x, layers, spec, rows, cache);
    }
    let mut x = x.detach();
    for (idx, layer) in layers.iter().enumerate() {
        let qkv = layer.qkv.apply(&rms_norm(&x, layer.attention_norm, spec.attention.eps)?)?;
        let heads = decode_attention(&qkv, &(*attention).into(), rows, cache, idx)?;
        x = (x + layer.output.apply(&heads)?)?;
        let gate_up = layer.gate_up.apply(&rms_norm(&x, layer.feed_forward_norm, spec.feed_forward.eps)?)?;
        x = (x + layer.down.apply(&swiglu(&gate_up)?)?)?;
    }
    Ok(x)
}
