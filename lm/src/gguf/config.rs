//! `config.json` of each architecture, from a GGUF file's metadata.

use super::layout::Family;
use super::metadata::{Metadata, PeriodOrFlags, missing};
use crate::Result;
use candle_core::quantized::gguf_file::TensorInfo;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::f64::consts::TAU;

/// A model's shape as far as its tensors need it, and the whole of it as text.
pub(super) struct Config {
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    pub(super) num_key_value_heads: usize,
    pub(super) max_position_embeddings: usize,
    /// A `config.json` in the keys of Hugging Face's class.
    pub(super) text: String,
}

/// Tensors by their names in the file.
type Tensors = HashMap<String, TensorInfo>;

const EMBEDDINGS: &str = "token_embd.weight";
const EPSILON: &str = "attention.layer_norm_rms_epsilon";

impl Config {
    /// Reads what the file says of the model; `rope_factors` are the divisors of its rotary frequencies, where it has any.
    pub(super) fn read(
        metadata: &Metadata,
        family: Family,
        tensors: &Tensors,
        rope_factors: Option<&[f32]>,
    ) -> Result<Self> {
        if let Some(n_experts) = metadata.whole(&metadata.own_key("expert_count"))?.filter(|&n| n > 0) {
            return Err(metadata.refuse(&metadata.own_key("expert_count"), n_experts, "only models without experts"));
        }
        let num_hidden_layers = metadata.own_size("block_count")?;
        if num_hidden_layers > tensors.len() {
            let supported = format!("the file has only {} tensors", tensors.len());
            return Err(metadata.refuse(&metadata.own_key("block_count"), num_hidden_layers, supported));
        }
        let hidden_size = metadata.own_size("embedding_length")?;
        let num_attention_heads = metadata.own_size("attention.head_count")?;
        let num_key_value_heads =
            metadata.size(&metadata.own_key("attention.head_count_kv"))?.unwrap_or(num_attention_heads);
        let stated_width = metadata.size(&metadata.own_key("attention.key_length"))?;
        let head_dim = stated_width.unwrap_or(hidden_size / num_attention_heads);
        for key in ["attention.value_length", "rope.dimension_count"] {
            let key = metadata.own_key(key);
            if let Some(width) = metadata.size(&key)?.filter(|&width| width != head_dim) {
                return Err(metadata.refuse(&key, width, format!("only the width of a head, {head_dim}")));
            }
        }
        let max_position_embeddings = metadata.own_size("context_length")?;
        let Some(embeddings) = tensors.get(EMBEDDINGS) else { return Err(missing(metadata.path, EMBEDDINGS)) };
        let epsilon =
            metadata.own_number(EPSILON)?.ok_or_else(|| missing(metadata.path, &metadata.own_key(EPSILON)))?;
        let rope_theta = metadata.own_number("rope.freq_base")?.unwrap_or(10_000.0);
        let scaling = rope_scaling(metadata, family, rope_theta, head_dim, rope_factors)?;

        let mut object = json!({
            "architectures": [class(family)],
            "model_type": model_type(family),
            "vocab_size": embeddings.shape.dims().first(),
            "hidden_size": hidden_size,
            "intermediate_size": metadata.own_size("feed_forward_length")?,
            "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": num_attention_heads,
            "num_key_value_heads": num_key_value_heads,
            "head_dim": head_dim,
            "max_position_embeddings": max_position_embeddings,
            "rms_norm_eps": epsilon,
            "tie_word_embeddings": !tensors.contains_key("output.weight"),
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "use_cache": true,
            "bos_token_id": metadata.id("tokenizer.ggml.bos_token_id")?,
            "eos_token_id": end_tokens(metadata)?,
            "pad_token_id": metadata.id("tokenizer.ggml.padding_token_id")?,
            "dtype": "float32",
            "torch_dtype": "float32",
            "rope_theta": rope_theta,
        });
        let mut set = |values: Value| {
            let Value::Object(values) = values else { return };
            object.as_object_mut().expect("an object").extend(values);
        };
        if let Some(scaling) = &scaling {
            set(json!({ "rope_scaling": scaling }));
        }
        // Both spellings: transformers 4 reads those above, transformers 5 `rope_parameters`.
        let of_all = rope_parameters(rope_theta, scaling);
        if family == Family::Gemma3 {
            let local = metadata.own_number("rope.freq_base_swa")?.unwrap_or(10_000.0);
            set(json!({
                "rope_local_base_freq": local,
                "rope_parameters": { "sliding_attention": rope_parameters(local, None), "full_attention": of_all },
            }));
        } else {
            set(json!({ "rope_parameters": of_all }));
        }
        if family.is_gemma() {
            set(json!({ "attention_bias": false, "hidden_activation": "gelu_pytorch_tanh" }));
            set(of_gemma(metadata, family, num_hidden_layers, hidden_size / num_attention_heads, head_dim)?);
        } else {
            set(json!({ "hidden_act": "silu" }));
            let window = metadata.own_key("attention.sliding_window");
            let is_narrow = |&width: &u64| (1..max_position_embeddings as u64).contains(&width);
            if let Some(width) = metadata.whole(&window)?.filter(is_narrow) {
                return Err(metadata.refuse(&window, width, "only full attention in this architecture"));
            }
        }
        match family {
            Family::Qwen3 | Family::Olmo2 => set(json!({ "attention_bias": has_bias(tensors, "attn_q") })),
            Family::Llama | Family::SmolLm3 => {
                set(json!({ "attention_bias": has_bias(tensors, "attn_q"), "mlp_bias": has_bias(tensors, "ffn_up") }));
            }
            Family::Qwen2 | Family::Gemma2 | Family::Gemma3 => {}
        }
        if family == Family::SmolLm3 {
            // The file does not say it; it is what the one published model has, and what llama.cpp computes.
            let rotates = |layer_idx: usize| u8::from(!(layer_idx + 1).is_multiple_of(4));
            set(json!({
                "no_rope_layers": (0..num_hidden_layers).map(rotates).collect::<Vec<_>>(),
                "no_rope_layer_interval": 4,
            }));
        }
        if matches!(family, Family::Qwen2 | Family::Qwen3 | Family::SmolLm3) {
            set(json!({ "use_sliding_window": false, "layer_types": vec!["full_attention"; num_hidden_layers] }));
        }
        let mut text = serde_json::to_string_pretty(&object).expect("a JSON value prints");
        text.push('\n');
        Ok(Self { num_hidden_layers, num_attention_heads, num_key_value_heads, max_position_embeddings, text })
    }
}

fn model_type(family: Family) -> &'static str {
    // The file has the text model only.
    if family == Family::Gemma3 { "gemma3_text" } else { family.name() }
}

fn class(family: Family) -> &'static str {
    match family {
        Family::Llama => "LlamaForCausalLM",
        Family::Qwen2 => "Qwen2ForCausalLM",
        Family::Qwen3 => "Qwen3ForCausalLM",
        Family::Gemma2 => "Gemma2ForCausalLM",
        Family::Gemma3 => "Gemma3ForCausalLM",
        Family::Olmo2 => "Olmo2ForCausalLM",
        Family::SmolLm3 => "SmolLM3ForCausalLM",
    }
}

fn has_bias(tensors: &Tensors, part: &str) -> bool {
    tensors.contains_key(&format!("blk.0.{part}.bias"))
}

/// Windows, soft caps and the scale of attention; `share` is the hidden size over the number of heads.
fn of_gemma(metadata: &Metadata, family: Family, n_layers: usize, share: usize, head_dim: usize) -> Result<Value> {
    let (period, widest, attn_cap, final_cap) = match family {
        Family::Gemma2 => (2, 46, Some(50.0), Some(30.0)),
        _ => (6, 62, None, None),
    };
    let key = metadata.own_key("attention.sliding_window_pattern");
    let sees_window: Vec<bool> = match metadata.period_or_flags(&key)?.unwrap_or(PeriodOrFlags::Period(period)) {
        PeriodOrFlags::Flags(flags) if flags.len() == n_layers => flags,
        PeriodOrFlags::Flags(flags) => {
            let supported = format!("there must be one for each of {n_layers} layers");
            return Err(metadata.refuse(&key, format!("[{} values]", flags.len()), supported));
        }
        PeriodOrFlags::Period(0) => return Err(metadata.refuse(&key, 0, "it must be positive")),
        PeriodOrFlags::Period(period) => {
            (1..=n_layers as u64).map(|layer_no| !layer_no.is_multiple_of(period)).collect()
        }
    };
    let kind = |&windowed: &bool| if windowed { "sliding_attention" } else { "full_attention" };
    Ok(json!({
        "sliding_window": metadata.own_size("attention.sliding_window")?,
        "layer_types": sees_window.iter().map(kind).collect::<Vec<_>>(),
        // The 27B models alone, known by their depth, scale by the share of the hidden size: llama.cpp does the same.
        "query_pre_attn_scalar": if n_layers == widest { share } else { head_dim },
        "attn_logit_softcapping": metadata.own_number("attn_logit_softcapping")?.or(attn_cap),
        "final_logit_softcapping": metadata.own_number("final_logit_softcapping")?.or(final_cap),
    }))
}

fn rope_parameters(theta: f64, scaling: Option<Map<String, Value>>) -> Value {
    let mut parameters = scaling.unwrap_or_else(|| Map::from_iter([("rope_type".to_owned(), json!("default"))]));
    parameters.insert("rope_theta".to_owned(), json!(theta));
    Value::Object(parameters)
}

/// How rotary frequencies are stretched, in Hugging Face's keys.
fn rope_scaling(
    metadata: &Metadata,
    family: Family,
    theta: f64,
    head_dim: usize,
    factors: Option<&[f32]>,
) -> Result<Option<Map<String, Value>>> {
    if let Some(factors) = factors {
        return llama3_scaling(metadata, theta, head_dim, factors).map(Some);
    }
    let key = metadata.own_key("rope.scaling.type");
    let Some(kind) = metadata.text(&key)?.filter(|&kind| kind != "none") else { return Ok(None) };
    let factor = metadata.own_number("rope.scaling.factor")?;
    let factor = factor.ok_or_else(|| missing(metadata.path, &metadata.own_key("rope.scaling.factor")))?;
    let mut scaling = Map::from_iter([("rope_type".to_owned(), json!(kind)), ("factor".to_owned(), json!(factor))]);
    match kind {
        "linear" => {}
        "yarn" if !family.is_gemma() => {
            let original = metadata.own_size("rope.scaling.original_context_length")?;
            scaling.insert("original_max_position_embeddings".to_owned(), json!(original));
        }
        _ => return Err(metadata.refuse(&key, kind, "only `none`, `linear` and `yarn`")),
    }
    Ok(Some(scaling))
}

/// Llama 3.1 to 3.3 stretch from this context, between these two fractions of it.
const ORIGINAL_CONTEXT: f64 = 8192.0;
const LOW_FREQ_FACTOR: f64 = 1.0;
const HIGH_FREQ_FACTOR: f64 = 4.0;

/// Finds the scaling that gives these divisors: that of Llama 3.1, by the largest of them; any other is refused.
fn llama3_scaling(metadata: &Metadata, theta: f64, head_dim: usize, factors: &[f32]) -> Result<Map<String, Value>> {
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    let expected = |pair: usize| {
        let wavelength = TAU * theta.powf(2.0 * pair as f64 / head_dim as f64);
        let turns = ORIGINAL_CONTEXT / wavelength;
        if turns > HIGH_FREQ_FACTOR {
            1.0
        } else if turns < LOW_FREQ_FACTOR {
            factor
        } else {
            let smooth = (turns - LOW_FREQ_FACTOR) / (HIGH_FREQ_FACTOR - LOW_FREQ_FACTOR);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    let agrees = |(pair, &found): (usize, &f32)| (f64::from(found) / expected(pair) - 1.0).abs() < 1e-3;
    if factors.len() != head_dim / 2 || !factors.iter().enumerate().all(agrees) {
        let shown = format!("[{} values, largest {factor}]", factors.len());
        return Err(metadata.refuse(super::layout::ROPE_FACTORS, shown, "only the factors of Llama 3.1's scaling"));
    }
    let Value::Object(scaling) = json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LOW_FREQ_FACTOR,
        "high_freq_factor": HIGH_FREQ_FACTOR,
        "original_max_position_embeddings": ORIGINAL_CONTEXT as u64,
    }) else {
        unreachable!("it is written as an object")
    };
    Ok(scaling)
}

/// Control tokens that end a turn in some template, as llama.cpp lists them.
const ENDS_OF_TURN: [&str; 5] = ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|eom_id|>"];

/// The tokens that end an answer: those that the file names and, where it has a chat template, those known by their text.
fn end_tokens(metadata: &Metadata) -> Result<Value> {
    let mut ids = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        ids.extend(metadata.id(&format!("tokenizer.ggml.{key}"))?);
    }
    if metadata.has("tokenizer.chat_template") {
        let tokens = metadata.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
        let kinds = metadata.wholes("tokenizer.ggml.token_type")?.unwrap_or_default();
        let ends = (0..)
            .zip(tokens.iter().zip(kinds))
            .filter(|(_, (token, kind))| *kind == super::vocabulary::CONTROL && ENDS_OF_TURN.contains(token));
        ids.extend(ends.map(|(id, _): (u32, _)| id));
    }
    let mut distinct = Vec::new();
    for id in ids {
        if !distinct.contains(&id) {
            distinct.push(id);
        }
    }
    Ok(match distinct.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        many => json!(many),
    })
}
