//! What published decoders differ in, as data read from Hugging Face's `config.json`.

mod family;
mod rotary;

use crate::Result;
use crate::config::ModelConfig;
use crate::keys::Keys;
use family::{Bias, Family};
use kernels::{AttentionSpec, DecodeSpec, Positions};
use rotary::{Rotary, Turning};
use serde_json::{Value, json};
use std::path::Path;

/// A decoder of one of the published families: a Llama-style decoder and what differs from it.
///
/// # Reference
/// The code of Hugging Face's transformers 5 is taken as what each `config.json` means; `tests/peers/make_families.py` compares.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// Hugging Face's name of the family.
    pub model_type: &'static str,
    /// Sizes, vocabulary, context window, tokens that end an answer.
    pub shape: ModelConfig,
    /// Where a layer normalises.
    pub norms: Norms,
    /// Added to every norm weight as stored: 1 where `1 + w` is meant.
    pub norm_offset: f64,
    /// How queries and keys are normalised before they are turned.
    pub head_norm: Option<HeadNorm>,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether the attention's output has a bias.
    pub output_bias: bool,
    /// Whether the three matrices of the gated layer have a bias.
    pub mlp_bias: bool,
    /// What the gate goes through.
    pub activation: Activation,
    /// Factor of the embeddings.
    pub embedding_scale: f64,
    /// Logits become `cap * tanh(logit / cap)`.
    pub final_soft_cap: Option<f64>,
    /// Attention of each layer (L): its window, positions, scale and soft cap.
    pub attention: Vec<DecodeSpec>,
}

/// Where a layer normalises: before its two blocks, after them but before the sum, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norms {
    /// `x + f(norm(x))`, Llama.
    Before,
    /// `x + norm(f(x))`, `OLMo` 2.
    After,
    /// `x + norm(f(norm(x)))`, Gemma 2.
    Around,
}

/// How queries and keys are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadNorm {
    /// Each head by itself, weights (D), Qwen 3.
    PerHead,
    /// All heads together, weights (H D) and (KV D), `OLMo` 2.
    FullWidth,
}

/// What the gate of the gated layer goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `z / (1 + e^-z)`.
    Silu,
    /// The approximation of GELU through the hyperbolic tangent.
    GeluTanh,
}

impl Architecture {
    /// Parses the text of a `config.json` of any family; `path` is named in errors.
    ///
    /// Keys without a meaning here are passed over, as published files carry many. What is absent is what transformers takes.
    ///
    /// # Errors
    /// Where the text is not JSON, a needed key is missing, or a value asks for something that is not computed here.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let (family, keys) = Family::of(Keys::parse(text, path)?)?;
        let rotary = Rotary::parse(&keys, family.has_local_rotation)?;
        let shape = ModelConfig::from_keys(&keys, rotary.global.theta)?;
        let n_layers = shape.num_hidden_layers;
        for (key, size, limit) in
            [("num_hidden_layers", n_layers, MAX_LAYERS), ("head_dim", shape.head_dim, MAX_HEAD_DIM)]
        {
            if size > limit {
                return Err(keys.refuse(key, &json!(size), format!("it must be at most {limit}")));
            }
        }
        let is_turned = family.turned_layers(&keys, n_layers)?;
        let windows = family.windows(&keys, &is_turned)?;
        // Keys of Gemma that stand in a file of another family mean nothing.
        let scale_of = |key: &str| if family.has_scales { keys.positive_if_given(key) } else { Ok(None) };
        let scalar = scale_of("query_pre_attn_scalar")?;
        let scale = 1.0 / scalar.unwrap_or(shape.head_dim as f64).sqrt();
        let soft_cap = scale_of("attn_logit_softcapping")?;
        let turned_by = |turning: &Turning| {
            let (positions, factor) = turning.positions(shape.head_dim, shape.max_position_embeddings);
            // Cosines and sines times a factor, for queries and keys alike, are scores times its square.
            let scale = scale * factor * factor;
            let shape = AttentionSpec { rope_theta: turning.theta, ..plain_attention(&shape) };
            DecodeSpec { shape, positions, scale, window: None, soft_cap }
        };
        let global = turned_by(&rotary.global);
        let local = rotary.local.as_ref().map_or_else(|| global.clone(), turned_by);
        let layer = |(window, is_turned): (Option<usize>, bool)| {
            let turned = if window.is_some() { local.clone() } else { global.clone() };
            if is_turned {
                return DecodeSpec { window, ..turned };
            }
            DecodeSpec { window, positions: Positions::None, scale, ..turned }
        };
        let attention = windows.into_iter().zip(is_turned).map(layer).collect();
        let has_bias = keys.flag("attention_bias", false)?;
        Ok(Self {
            model_type: family.model_type,
            norms: family.norms,
            norm_offset: family.norm_offset,
            head_norm: family.head_norm,
            qkv_bias: family.attention_bias == Bias::OfQkv || has_bias,
            output_bias: family.attention_bias == Bias::ByKey && has_bias,
            mlp_bias: keys.flag("mlp_bias", false)?,
            activation: activation(&keys, family.activation_key)?,
            embedding_scale: if family.has_scales { (shape.hidden_size as f64).sqrt() } else { 1.0 },
            final_soft_cap: scale_of("final_logit_softcapping")?,
            attention,
            shape,
        })
    }

    /// The config of the plain, trainable decoder, where nothing differs from it.
    pub fn plain(&self) -> Option<&ModelConfig> {
        let shape = &self.shape;
        let attention = DecodeSpec::from(plain_attention(shape));
        let plain = Self {
            model_type: self.model_type,
            shape: shape.clone(),
            norms: Norms::Before,
            norm_offset: 0.0,
            head_norm: None,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            activation: Activation::Silu,
            embedding_scale: 1.0,
            final_soft_cap: None,
            attention: vec![attention; shape.num_hidden_layers],
        };
        (*self == plain).then_some(shape)
    }

    /// The name of a tensor as text-only models have it; none for what no decoder reads: vision, tables that follow from the
    /// config, a tied matrix written a second time.
    pub(crate) fn tensor_name(&self, name: &str) -> Option<String> {
        let is_vision = |name: &str| ["vision_tower.", "multi_modal_projector."].iter().any(|it| name.starts_with(it));
        if is_vision(name) || name.strip_prefix("model.").is_some_and(is_vision) {
            return None;
        }
        // Text models inside of others: `language_model.model.` before transformers 4.52, `model.language_model.` since.
        let name = match (name.strip_prefix("language_model."), name.strip_prefix("model.language_model.")) {
            (Some(rest), _) => rest.to_owned(),
            (None, Some(rest)) => format!("model.{rest}"),
            (None, None) => name.to_owned(),
        };
        self.shape.has_tensor(&name).then_some(name)
    }
}

/// Layers beyond this are a corrupt file; so are heads beyond this.
const MAX_LAYERS: usize = 4096;
const MAX_HEAD_DIM: usize = 1 << 16;

fn plain_attention(shape: &ModelConfig) -> AttentionSpec {
    AttentionSpec {
        n_heads: shape.num_attention_heads,
        n_kv_heads: shape.num_key_value_heads,
        head_dim: shape.head_dim,
        rope_theta: shape.rope_theta,
    }
}

fn activation(keys: &Keys, key: &str) -> Result<Activation> {
    match keys.get(key).and_then(Value::as_str) {
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
        _ => {
            let value = keys.get(key).cloned().unwrap_or_default();
            Err(keys.refuse(key, &value, "only \"silu\" or \"gelu_pytorch_tanh\""))
        }
    }
}

/// Checks keys that would change what every family computes.
fn refuse_what_none_computes(keys: &Keys) -> Result<()> {
    keys.expect("use_bidirectional_attention", &json!(false), &[json!(false)])?;
    match keys.get("partial_rotary_factor") {
        Some(factor) if factor.as_f64() != Some(1.0) => Err(keys.refuse("partial_rotary_factor", factor, "only 1.0")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
