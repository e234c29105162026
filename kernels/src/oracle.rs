//! The same functions from plain candle operations: slow, short, and differentiable by candle itself.

use crate::attention::{AttentionSpec, PAD_SEGMENT, Segments};
use crate::attention_block::AttentionBlockSpec;
use crate::cross_entropy::IGNORE;
use crate::decode::{DecodeSpec, Positions};
use crate::feed_forward::FeedForwardSpec;
use crate::layers::LayersSpec;
use candle_core::{D, DType, Result, Tensor};

/// Slow twin of [`crate::rms_norm`].
///
/// # Errors
/// candle's, when shapes do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    let scale = (mean_square + eps)?.sqrt()?.recip()?;
    x.broadcast_mul(&scale)?.broadcast_mul(weight)
}

/// Slow twin of [`crate::linear`].
///
/// # Errors
/// candle's, when shapes do not fit.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (n_out, n_in) = weight.dims2()?;
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = n_out;
    }
    x.reshape(((), n_in))?.matmul(&weight.t()?)?.reshape(dims)
}

/// Slow twin of [`crate::embedding`].
///
/// # Errors
/// candle's, when shapes do not fit.
pub fn embedding(ids: &Tensor, table: &Tensor) -> Result<Tensor> {
    let mut dims = ids.dims().to_vec();
    dims.push(table.dim(1)?);
    table.index_select(&ids.flatten_all()?, 0)?.reshape(dims)
}

/// Slow twin of [`crate::swiglu`].
///
/// # Errors
/// candle's, when shapes do not fit.
pub fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    let width = gate_up.dim(D::Minus1)? / 2;
    let gate = gate_up.narrow(D::Minus1, 0, width)?;
    let up = gate_up.narrow(D::Minus1, width, width)?;
    let sigmoid = (gate.neg()?.exp()? + 1.0)?.recip()?;
    (gate * sigmoid)? * up
}

/// Slow twin of [`crate::geglu()`].
///
/// # Errors
/// candle's, when shapes do not fit.
pub fn geglu(gate_up: &Tensor) -> Result<Tensor> {
    let width = gate_up.dim(D::Minus1)? / 2;
    let gate = gate_up.narrow(D::Minus1, 0, width)?;
    let up = gate_up.narrow(D::Minus1, width, width)?;
    let inner = ((&gate + (gate.powf(3.0)? * 0.044715)?)? * (2.0 / std::f64::consts::PI).sqrt())?;
    ((gate * 0.5)? * (inner.tanh()? + 1.0)?)? * up
}

/// Slow twin of [`crate::decode_attention`] for one document, all of it at once: `qkv` (T, (H + 2 KV) D), result (T, H D).
///
/// # Errors
/// candle's, when shapes do not fit.
pub fn decode_attention(qkv: &Tensor, spec: &DecodeSpec) -> Result<Tensor> {
    let (len, _) = qkv.dims2()?;
    let AttentionSpec { n_heads: h, n_kv_heads: kv, head_dim: d, rope_theta } = spec.shape;
    let frequencies = match &spec.positions {
        Positions::Theta => (0..d / 2).map(|i| rope_theta.powf(-2.0 * i as f64 / d as f64)).collect(),
        Positions::Frequencies(given) => given.to_vec(),
        Positions::None => vec![0.0; d / 2],
    };
    let angles = |t: usize| frequencies.iter().map(move |f| t as f64 * f);
    let angles = Tensor::from_iter((0..len).flat_map(angles), qkv.device())?.reshape((1, 1, len, d / 2))?;
    let (cos, sin) = (angles.cos()?.to_dtype(qkv.dtype())?, angles.sin()?.to_dtype(qkv.dtype())?);
    let heads = |start: usize, n: usize| -> Result<Tensor> {
        qkv.narrow(1, start, n * d)?.reshape((1, len, n, d))?.transpose(1, 2)?.contiguous()
    };
    let repeat = |t: Tensor| t.unsqueeze(2)?.broadcast_as((1, kv, h / kv, len, d))?.reshape((1, h, len, d));
    let q = rotate(&heads(0, h)?, &cos, &sin)?;
    let k = repeat(rotate(&heads(h * d, kv)?, &cos, &sin)?)?;
    let v = repeat(heads((h + kv) * d, kv)?)?;
    let mut scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? * spec.scale)?;
    if let Some(cap) = spec.soft_cap {
        scores = ((scores / cap)?.tanh()? * cap)?;
    }
    let sees = |t: usize, s: usize| s <= t && spec.window.is_none_or(|window| s + window > t);
    let penalties = (0..len * len).map(|i| if sees(i / len, i % len) { 0.0 } else { -1e30 });
    let penalties = Tensor::from_iter(penalties, qkv.device())?.reshape((1, 1, len, len))?.to_dtype(qkv.dtype())?;
    let scores = scores.broadcast_add(&penalties)?;
    let weights = scores.broadcast_sub(&scores.max_keepdim(3)?)?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(3)?)?;
    weights.matmul(&v)?.transpose(1, 2)?.reshape((len, h * d))
}

/// Slow twin of [`crate::rope_attention`]; holds all scores at once.
///
/// # Errors
/// candle's, when shapes do not fit.
pub fn rope_attention(qkv: &Tensor, spec: &AttentionSpec, segments: &Segments) -> Result<Tensor> {
    let (batch, len, _) = qkv.dims3()?;
    let (h, kv, d) = (spec.n_heads, spec.n_kv_heads, spec.head_dim);
    let heads = |start: usize, n: usize| -> Result<Tensor> {
        qkv.narrow(2, start, n * d)?.reshape((batch, len, n, d))?.transpose(1, 2)?.contiguous()
    };
    let repeat = |t: Tensor| -> Result<Tensor> {
        t.unsqueeze(2)?.broadcast_as((batch, kv, h / kv, len, d))?.reshape((batch, h, len, d))
    };
    let (cos, sin) = rotation(spec, segments, qkv)?;
    let q = rotate(&heads(0, h)?, &cos, &sin)?;
    let k = repeat(rotate(&heads(h * d, kv)?, &cos, &sin)?)?;
    let v = repeat(heads((h + kv) * d, kv)?)?;
    let scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? / (d as f64).sqrt())?;
    let (allowed, is_token) = mask(segments, qkv)?;
    let penalty = ((&allowed - 1.0)? * 1e30)?;
    let scores = scores.broadcast_add(&penalty)?;
    let weights = scores.broadcast_sub(&scores.max_keepdim(3)?.detach())?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(3)?)?;
    let y = weights.matmul(&v)?.broadcast_mul(&is_token)?;
    y.transpose(1, 2)?.reshape((batch, len, h * d))
}

/// Slow twin of [`crate::attention_block`].
///
/// # Errors
/// candle's, when shapes do not fit.
pub fn attention_block(x: &Tensor, weights: &Tensor, spec: &AttentionBlockSpec, segments: &Segments) -> Result<Tensor> {
    let (d, qkv_width, heads_width) = (spec.width, spec.attention.qkv_width(), spec.attention.output_width());
    let norm = weights.narrow(0, 0, d)?;
    let qkv_weight = weights.narrow(0, d, qkv_width * d)?.reshape((qkv_width, d))?;
    let output = weights.narrow(0, d + qkv_width * d, d * heads_width)?.reshape((d, heads_width))?;
    let qkv = linear(&rms_norm(x, &norm, spec.eps)?, &qkv_weight)?;
    x + linear(&rope_attention(&qkv, &spec.attention, segments)?, &output)?
}

/// Slow twin of [`crate::feed_forward()`].
///
/// # Errors
/// candle's, when shapes do not fit.
pub fn feed_forward(x: &Tensor, weights: &Tensor, spec: &FeedForwardSpec) -> Result<Tensor> {
    let (d, f) = (spec.width, spec.inner);
    let norm = weights.narrow(0, 0, d)?;
    let gate_up = weights.narrow(0, d, 2 * f * d)?.reshape((2 * f, d))?;
    let down = weights.narrow(0, d + 2 * f * d, d * f)?.reshape((d, f))?;
    x + linear(&swiglu(&linear(&rms_norm(x, &norm, spec.eps)?, &gate_up)?)?, &down)?
}

/// Slow twin of [`crate::layers`].
///
/// # Errors
/// candle's, when shapes do not fit.
pub fn layers(x: &Tensor, weights: &Tensor, spec: &LayersSpec, segments: &Segments) -> Result<Tensor> {
    let (n_first, n_second) = (spec.attention.n_weights(), spec.feed_forward.n_weights());
    let mut x = x.clone();
    for start in (0..spec.n_weights()).step_by(n_first + n_second) {
        x = attention_block(&x, &weights.narrow(0, start, n_first)?, &spec.attention, segments)?;
        x = feed_forward(&x, &weights.narrow(0, start + n_first, n_second)?, &spec.feed_forward)?;
    }
    Ok(x)
}

/// Slow twin of [`crate::linear_cross_entropy`].
///
/// # Errors
/// candle's, when shapes do not fit.
pub fn linear_cross_entropy(h: &Tensor, weight: &Tensor, targets: &[u32], weights: &[f32]) -> Result<Tensor> {
    let weights = Tensor::new(weights, h.device())?.to_dtype(h.dtype())?;
    (linear_log_probs(h, weight, targets)? * weights)?.sum_all()?.neg()
}

/// Slow twin of [`crate::linear_log_probs`].
///
/// # Errors
/// candle's, when shapes do not fit.
pub fn linear_log_probs(h: &Tensor, weight: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let logits = h.matmul(&weight.t()?)?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?.detach())?;
    let log_probs = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(1)?.log()?)?;
    let known: Vec<u32> = targets.iter().map(|&t| if t == IGNORE { 0 } else { t }).collect();
    let counted: Vec<f64> = targets.iter().map(|&t| f64::from(u8::from(t != IGNORE))).collect();
    let picked = log_probs.gather(&Tensor::new(known, h.device())?.unsqueeze(1)?, 1)?.squeeze(1)?;
    picked * Tensor::new(counted, h.device())?.to_dtype(h.dtype())?
}

/// Cosines and sines, `(B, 1, T, D/2)` each.
fn rotation(spec: &AttentionSpec, segments: &Segments, like: &Tensor) -> Result<(Tensor, Tensor)> {
    let half = spec.head_dim / 2;
    let angles: Vec<f64> = segments
        .positions
        .iter()
        .flat_map(|&position| {
            (0..half).map(move |i| f64::from(position) * spec.rope_theta.powf(-(i as f64) / half as f64))
        })
        .collect();
    let angles = Tensor::from_vec(angles, (segments.batch, 1, segments.len, half), like.device())?;
    Ok((angles.cos()?.to_dtype(like.dtype())?, angles.sin()?.to_dtype(like.dtype())?))
}

fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = x.dim(3)? / 2;
    let low = x.narrow(3, 0, half)?;
    let high = x.narrow(3, half, half)?;
    let turned_low = (low.broadcast_mul(cos)? - high.broadcast_mul(sin)?)?;
    let turned_high = (high.broadcast_mul(cos)? + low.broadcast_mul(sin)?)?;
    Tensor::cat(&[turned_low, turned_high], 3)
}

/// 1 where a query may see a key, `(B, 1, T, T)`, and 1 for tokens that are not padding, `(B, 1, T, 1)`.
fn mask(segments: &Segments, like: &Tensor) -> Result<(Tensor, Tensor)> {
    let (batch, len) = (segments.batch, segments.len);
    let mut allowed = vec![0.0; batch * len * len];
    for b in 0..batch {
        let ids = &segments.ids[b * len..(b + 1) * len];
        for t in 0..len {
            for s in 0..=t {
                if ids[s] == ids[t] && ids[t] != PAD_SEGMENT {
                    allowed[(b * len + t) * len + s] = 1.0;
                }
            }
        }
    }
    let is_token: Vec<f64> = segments.ids.iter().map(|&id| f64::from(u8::from(id != PAD_SEGMENT))).collect();
    let tensor = |values: Vec<f64>, last: usize| -> Result<Tensor> {
        Tensor::from_vec(values, (batch, 1, len, last), like.device())?.to_dtype(DType::F64)?.to_dtype(like.dtype())
    };
    Ok((tensor(allowed, len)?, tensor(is_token, 1)?))
}
