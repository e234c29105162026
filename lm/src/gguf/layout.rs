//! Which tensors a GGUF file of each architecture has, what Hugging Face calls them, and what the converter did to them.

use super::config::Config;
use super::metadata::Metadata;
use crate::Result;
use candle_core::Tensor;

/// An architecture, by what llama.cpp's converter does for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Llama,
    Qwen2,
    Qwen3,
    Gemma2,
    Gemma3,
    Olmo2,
    SmolLm3,
}

const FAMILIES: [Family; 7] =
    [Family::Llama, Family::Qwen2, Family::Qwen3, Family::Gemma2, Family::Gemma3, Family::Olmo2, Family::SmolLm3];

/// What has to be done to a tensor as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rewrite {
    /// Nothing.
    Keep,
    /// Rows of each of so many heads, stored with the two halves of a head interleaved, are put apart again.
    Uninterleave { n_heads: usize },
    /// The one that was added is taken away.
    SubtractOne,
}

impl Rewrite {
    pub(super) fn apply(self, tensor: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Keep => Ok(tensor.clone()),
            Self::SubtractOne => tensor - 1.0,
            Self::Uninterleave { n_heads } => {
                let n_rows = tensor.dim(0)?;
                if !n_rows.is_multiple_of(2 * n_heads) {
                    candle_core::bail!("{n_rows} rows are not {n_heads} heads of an even number each");
                }
                let half = n_rows / n_heads / 2;
                // (H, D/2, 2, d) -> (H, 2, D/2, d); d is 1 for a bias.
                let rows = tensor.reshape((n_heads, half, 2, ()))?.transpose(1, 2)?.contiguous()?;
                rows.reshape(tensor.dims())
            }
        }
    }
}

impl Family {
    pub(super) fn of(metadata: &Metadata) -> Result<Self> {
        let name = metadata.architecture;
        FAMILIES.into_iter().find(|family| family.name() == name).ok_or_else(|| {
            let known: Vec<&str> = FAMILIES.iter().map(|family| family.name()).collect();
            metadata.refuse("general.architecture", name, format!("known are {}", known.join(", ")))
        })
    }

    /// As the file calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3",
            Self::Olmo2 => "olmo2",
            Self::SmolLm3 => "smollm3",
        }
    }

    pub(super) fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }

    /// Hugging Face's name for a tensor and what has to be done to it.
    pub(super) fn place(self, name: &str, config: &Config) -> Option<(String, Rewrite)> {
        let norm = if self.is_gemma() { Rewrite::SubtractOne } else { Rewrite::Keep };
        Some(match name {
            "token_embd.weight" => ("model.embed_tokens.weight".to_owned(), Rewrite::Keep),
            "output_norm.weight" => ("model.norm.weight".to_owned(), norm),
            "output.weight" => ("lm_head.weight".to_owned(), Rewrite::Keep),
            _ => {
                let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
                let layer_idx: usize = layer.parse().ok().filter(|&idx| idx < config.num_hidden_layers)?;
                let (part, kind) = part.rsplit_once('.').filter(|(_, kind)| ["weight", "bias"].contains(kind))?;
                let own_part = self.part(part)?;
                let rewrite = match part {
                    "attn_q" if self.interleaves() => Rewrite::Uninterleave { n_heads: config.num_attention_heads },
                    "attn_k" if self.interleaves() => Rewrite::Uninterleave { n_heads: config.num_key_value_heads },
                    part if part.ends_with("norm") => norm,
                    _ => Rewrite::Keep,
                };
                (format!("model.layers.{layer_idx}.{own_part}.{kind}"), rewrite)
            }
        })
    }

    /// A part of a layer by Hugging Face's name.
    fn part(self, part: &str) -> Option<&'static str> {
        let has_head_norms = matches!(self, Self::Qwen3 | Self::Gemma3 | Self::Olmo2);
        // Before attention and MLP, after them, or both.
        let (before, after) = (self != Self::Olmo2, self == Self::Olmo2 || self.is_gemma());
        Some(match part {
            "attn_q" => "self_attn.q_proj",
            "attn_k" => "self_attn.k_proj",
            "attn_v" => "self_attn.v_proj",
            "attn_output" => "self_attn.o_proj",
            "attn_q_norm" if has_head_norms => "self_attn.q_norm",
            "attn_k_norm" if has_head_norms => "self_attn.k_norm",
            "ffn_gate" => "mlp.gate_proj",
            "ffn_up" => "mlp.up_proj",
            "ffn_down" => "mlp.down_proj",
            "attn_norm" if before => "input_layernorm",
            "ffn_norm" if before && after => "pre_feedforward_layernorm",
            // Without a norm after attention this name is free for the one before the MLP.
            "ffn_norm" if before => "post_attention_layernorm",
            "post_attention_norm" if after => "post_attention_layernorm",
            "post_ffw_norm" if after => "post_feedforward_layernorm",
            _ => return None,
        })
    }

    /// Whether the converter interleaves the halves of query and key heads, as Meta's own checkpoints have them.
    fn interleaves(self) -> bool {
        matches!(self, Self::Llama | Self::SmolLm3)
    }

    /// Whether factors of the rotary frequencies may be stored as a tensor.
    pub(super) fn has_rope_factors(self) -> bool {
        self.interleaves()
    }
}

/// Divisors of the rotary frequencies (D / 2), by which Llama 3.1 stretches its context.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";
