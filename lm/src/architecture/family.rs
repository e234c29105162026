//! The families of decoders that are read, and what each takes for granted.

use super::{HeadNorm, Norms, refuse_what_none_computes};
use crate::Result;
use crate::keys::Keys;
use serde_json::{Map, Value, json};

/// A family of published decoders.
pub(super) struct Family {
    /// Hugging Face's name.
    pub(super) model_type: &'static str,
    pub(super) norms: Norms,
    pub(super) norm_offset: f64,
    pub(super) head_norm: Option<HeadNorm>,
    pub(super) attention_bias: Bias,
    /// Whether `mlp_bias` is read.
    mlp_bias: bool,
    pub(super) activation_key: &'static str,
    /// Whether embeddings are multiplied by the root of their width, and `query_pre_attn_scalar` and soft caps are read.
    pub(super) has_scales: bool,
    /// Whether layers with a window turn by frequencies of their own.
    pub(super) has_local_rotation: bool,
    windows: Windows,
    /// What keys mean where a file leaves them out.
    defaults: fn() -> Value,
}

/// Which of the attention's four matrices have a bias.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Bias {
    None,
    /// All, where `attention_bias` says so.
    ByKey,
    /// Queries, keys and values, always.
    OfQkv,
}

/// Which layers see `sliding_window` tokens only.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Windows {
    None,
    /// All, unless `sliding_window` is null.
    All,
    /// Those in `layer_types`, else those from `max_window_layers` on; where `use_sliding_window`.
    FromLayer,
    /// Those in `layer_types`, else those that are not turned; where `use_sliding_window`.
    Unturned,
    /// Those in `layer_types`, else all but each `sliding_window_pattern`-th.
    Pattern,
}

/// The plain decoder, which the others differ from.
const LLAMA: Family = Family {
    model_type: "llama",
    norms: Norms::Before,
    norm_offset: 0.0,
    head_norm: None,
    attention_bias: Bias::ByKey,
    mlp_bias: true,
    activation_key: "hidden_act",
    has_scales: false,
    has_local_rotation: false,
    windows: Windows::None,
    defaults: || json!({ "hidden_act": "silu" }),
};

const QWEN2: Family = Family {
    model_type: "qwen2",
    attention_bias: Bias::OfQkv,
    mlp_bias: false,
    windows: Windows::FromLayer,
    defaults: || {
        json!({
            "hidden_act": "silu", "num_key_value_heads": 32, "max_position_embeddings": 32_768,
            "sliding_window": 4096, "max_window_layers": 28,
        })
    },
    ..LLAMA
};

const GEMMA2: Family = Family {
    model_type: "gemma2",
    norms: Norms::Around,
    norm_offset: 1.0,
    mlp_bias: false,
    activation_key: "hidden_activation",
    has_scales: true,
    windows: Windows::Pattern,
    defaults: || {
        json!({
            "hidden_activation": "gelu_pytorch_tanh", "head_dim": 256, "max_position_embeddings": 8192,
            "tie_word_embeddings": true, "query_pre_attn_scalar": 256, "sliding_window": 4096,
            "sliding_window_pattern": 2, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
            "bos_token_id": 2, "eos_token_id": 1,
        })
    },
    ..LLAMA
};

/// All families. Defaults are those of the classes in transformers 5.
static FAMILIES: [Family; 8] = [
    LLAMA,
    Family {
        model_type: "mistral",
        attention_bias: Bias::None,
        mlp_bias: false,
        windows: Windows::All,
        defaults: || {
            json!({
                "hidden_act": "silu", "num_key_value_heads": 8, "max_position_embeddings": 131_072,
                "sliding_window": 4096,
            })
        },
        ..LLAMA
    },
    QWEN2,
    Family {
        model_type: "qwen3",
        head_norm: Some(HeadNorm::PerHead),
        attention_bias: Bias::ByKey,
        defaults: || {
            let mut defaults = (QWEN2.defaults)();
            defaults["head_dim"] = json!(128);
            defaults
        },
        ..QWEN2
    },
    Family {
        model_type: "olmo2",
        norms: Norms::After,
        head_norm: Some(HeadNorm::FullWidth),
        mlp_bias: false,
        defaults: || json!({ "hidden_act": "silu", "rms_norm_eps": 1e-5 }),
        ..LLAMA
    },
    Family {
        model_type: "smollm3",
        windows: Windows::Unturned,
        defaults: || {
            json!({
                "hidden_act": "silu", "num_key_value_heads": 4, "max_position_embeddings": 32_768, "rope_theta": 2e6,
                "tie_word_embeddings": true, "no_rope_layer_interval": 4,
            })
        },
        ..LLAMA
    },
    GEMMA2,
    Family {
        model_type: "gemma3_text",
        head_norm: Some(HeadNorm::PerHead),
        has_local_rotation: true,
        defaults: || {
            // The text part of larger models leaves out even sizes.
            json!({
                "hidden_activation": "gelu_pytorch_tanh", "vocab_size": 262_208, "hidden_size": 2304,
                "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
                "head_dim": 256, "max_position_embeddings": 131_072, "tie_word_embeddings": true,
                "query_pre_attn_scalar": 256, "sliding_window": 4096, "sliding_window_pattern": 6,
                "rope_theta": 1e6, "rope_local_base_freq": 1e4, "bos_token_id": 2, "eos_token_id": 1,
            })
        },
        ..GEMMA2
    },
];

/// A model of text and images, whose section [`SECTION`] is a `gemma3_text`.
const GEMMA3: &str = "gemma3";
/// Where the text part of a model of text and images is described.
const SECTION: &str = "text_config";

impl Family {
    /// The family of a file, and its settings with what they mean where they are left out.
    pub(super) fn of(keys: Keys) -> Result<(&'static Self, Keys)> {
        let name = keys.get("model_type").cloned().ok_or_else(|| keys.missing("model_type"))?;
        if name == GEMMA3 {
            let outer = ["eos_token_id", "bos_token_id", "pad_token_id", "tie_word_embeddings"];
            let outer: Vec<_> =
                outer.iter().filter_map(|&key| Some((key.to_owned(), keys.get(key)?.clone()))).collect();
            let text = keys.section(SECTION)?.ok_or_else(|| keys.missing(SECTION))?;
            text.expect("model_type", &json!("gemma3_text"), &[json!("gemma3_text")])?;
            return Self::named("gemma3_text", text.with_defaults(outer));
        }
        let Some(name) = FAMILIES.iter().map(|family| family.model_type).find(|&known| name == known) else {
            let known: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
            let supported = format!("only {} and the text part of {GEMMA3}", known.join(", "));
            return Err(keys.refuse("model_type", &name, supported));
        };
        Self::named(name, keys)
    }

    fn named<'a>(name: &str, keys: Keys<'a>) -> Result<(&'static Self, Keys<'a>)> {
        let family = FAMILIES.iter().find(|family| family.model_type == name).expect("one of the names of the table");
        let defaults: Map<String, Value> = serde_json::from_value((family.defaults)()).expect("an object");
        let keys = keys.with_defaults(defaults);
        refuse_what_none_computes(&keys)?;
        if family.has_local_rotation {
            // transformers passes over it in Gemma 3, whatever it was meant to do.
            keys.expect("attn_logit_softcapping", &Value::Null, &[Value::Null])?;
        }
        if family.attention_bias == Bias::None {
            keys.expect("attention_bias", &json!(false), &[json!(false)])?;
        }
        if !family.mlp_bias {
            keys.expect("mlp_bias", &json!(false), &[json!(false)])?;
        }
        Ok((family, keys))
    }

    /// Which layers know where their tokens stand: all but those of `no_rope_layers`, in which 0 means without.
    pub(super) fn turned_layers(&self, keys: &Keys, n_layers: usize) -> Result<Vec<bool>> {
        if self.windows != Windows::Unturned {
            return Ok(vec![true; n_layers]);
        }
        let Some(given) = keys.get("no_rope_layers") else {
            let interval = keys.size("no_rope_layer_interval")?;
            return Ok((1..=n_layers).map(|n| !n.is_multiple_of(interval)).collect());
        };
        let flag = |value: &Value| match value.as_u64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        };
        let flags = given.as_array().and_then(|values| values.iter().map(flag).collect::<Option<Vec<bool>>>());
        flags.filter(|flags| flags.len() == n_layers).ok_or_else(|| {
            keys.refuse("no_rope_layers", given, format!("it must list 0 or 1 for each of {n_layers} layers"))
        })
    }

    /// How many tokens each layer sees; none for all.
    pub(super) fn windows(&self, keys: &Keys, is_turned: &[bool]) -> Result<Vec<Option<usize>>> {
        let n_layers = is_turned.len();
        let is_switched_on = match self.windows {
            Windows::None => false,
            Windows::All | Windows::Pattern => true,
            Windows::FromLayer | Windows::Unturned => keys.flag("use_sliding_window", false)?,
        };
        let window = if is_switched_on && keys.get("sliding_window").is_some() {
            Some(keys.size("sliding_window")?)
        } else {
            None
        };
        let has_window: Vec<bool> = match self.windows {
            _ if window.is_none() && self.windows != Windows::Pattern => vec![false; n_layers],
            Windows::None => vec![false; n_layers],
            Windows::All => vec![true; n_layers],
            Windows::FromLayer => {
                let first = keys.count("max_window_layers")?;
                (0..n_layers).map(|layer_idx| layer_idx >= first).collect()
            }
            Windows::Unturned => is_turned.iter().map(|is_turned| !is_turned).collect(),
            Windows::Pattern => {
                let pattern = keys.size("sliding_window_pattern")?;
                (1..=n_layers).map(|n| !n.is_multiple_of(pattern)).collect()
            }
        };
        let has_window = match Self::layer_types(keys, n_layers)? {
            Some(given) if matches!(self.windows, Windows::None | Windows::All) && given != has_window => {
                let value = keys.get("layer_types").cloned().unwrap_or_default();
                return Err(keys.refuse("layer_types", &value, format!("`{}` has one kind of layer", self.model_type)));
            }
            Some(given) => given,
            None => has_window,
        };
        if has_window.contains(&true) && window.is_none() {
            let value = keys.get("sliding_window").cloned().unwrap_or_default();
            return Err(keys.refuse("sliding_window", &value, "layers with a sliding window need its length"));
        }
        Ok(has_window.into_iter().map(|has_window| window.filter(|_| has_window)).collect())
    }

    /// Whether each layer sees a window only, as `layer_types` says.
    fn layer_types(keys: &Keys, n_layers: usize) -> Result<Option<Vec<bool>>> {
        let Some(given) = keys.get("layer_types") else { return Ok(None) };
        let kind = |value: &Value| match value.as_str() {
            Some("sliding_attention") => Some(true),
            Some("full_attention") => Some(false),
            _ => None,
        };
        let kinds = given.as_array().and_then(|values| values.iter().map(kind).collect::<Option<Vec<bool>>>());
        match kinds.filter(|kinds| kinds.len() == n_layers) {
            Some(kinds) => Ok(Some(kinds)),
            None => Err(keys.refuse(
                "layer_types",
                given,
                format!("it must list \"full_attention\" or \"sliding_attention\" for each of {n_layers} layers"),
            )),
        }
    }
}
