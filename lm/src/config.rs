//! The shape of a model, read from and written as Hugging Face's `config.json` of the Llama family.

use crate::keys::Keys;
use crate::{Error, Result};
use serde_json::{Value, json};
use std::path::Path;

/// The shape of a Llama-style decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU, no biases.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Rows of the embedding table (V).
    pub vocab_size: usize,
    /// Width of the residual stream (d).
    pub hidden_size: usize,
    /// Width of the gated layer (f).
    pub intermediate_size: usize,
    /// Number of layers (L).
    pub num_hidden_layers: usize,
    /// Number of query heads (H).
    pub num_attention_heads: usize,
    /// Number of key and value heads (KV); divides the number of query heads.
    pub num_key_value_heads: usize,
    /// Width of one head (D).
    pub head_dim: usize,
    /// Context window in tokens.
    pub max_position_embeddings: usize,
    /// Added to the mean square before its root.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether the output layer is the embedding table.
    pub tie_word_embeddings: bool,
    /// Standard deviation of freshly drawn weights.
    pub initializer_range: f64,
    /// Token that begins a sequence.
    pub bos_token_id: Option<u32>,
    /// Tokens that end an answer.
    pub eos_token_ids: Vec<u32>,
    /// Token that fills up a batch.
    pub pad_token_id: Option<u32>,
}

impl ModelConfig {
    /// Parses the text of a `config.json`; `path` is named in errors.
    ///
    /// Keys without a meaning for this decoder are passed over, as foreign checkpoints carry many.
    ///
    /// # Errors
    /// Where the text is not JSON, a needed key is missing, or a value asks for something this decoder does not compute.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let keys = Keys::parse(text, path)?;
        keys.expect("model_type", &json!("llama"), &[json!("llama")])?;
        keys.expect("hidden_act", &json!("silu"), &[json!("silu"), json!("swish")])?;
        keys.expect("attention_bias", &json!(false), &[json!(false)])?;
        keys.expect("mlp_bias", &json!(false), &[json!(false)])?;
        Self::from_keys(&keys, plain_rope_theta(&keys)?)
    }

    /// The numbers that decoders of all families have.
    pub(crate) fn from_keys(keys: &Keys, rope_theta: f64) -> Result<Self> {
        let hidden_size = keys.size("hidden_size")?;
        let num_attention_heads = keys.size("num_attention_heads")?;
        let config = Self {
            vocab_size: keys.size("vocab_size")?,
            hidden_size,
            intermediate_size: keys.size("intermediate_size")?,
            num_hidden_layers: keys.size("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads: keys.size_or("num_key_value_heads", num_attention_heads)?,
            head_dim: keys.size_or("head_dim", hidden_size / num_attention_heads)?,
            max_position_embeddings: keys.size_or("max_position_embeddings", 2048)?,
            rms_norm_eps: keys.positive("rms_norm_eps", 1e-6)?,
            rope_theta,
            tie_word_embeddings: keys.flag("tie_word_embeddings", false)?,
            initializer_range: keys.positive("initializer_range", 0.02)?,
            bos_token_id: keys.ids("bos_token_id")?.first().copied(),
            eos_token_ids: keys.ids("eos_token_id")?,
            pad_token_id: keys.ids("pad_token_id")?.first().copied(),
        };
        config.check(keys.path())?;
        Ok(config)
    }

    /// Checks that the numbers fit together.
    ///
    /// # Errors
    /// Names the key that does not fit; `path` is the file named.
    pub fn check(&self, path: &Path) -> Result<()> {
        let refuse = |key: &str, value: usize, supported: String| {
            Err(Error::BadConfig { path: path.to_owned(), key: key.to_owned(), value: value.to_string(), supported })
        };
        for (key, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ] {
            if value == 0 {
                return refuse(key, value, "it must be positive".to_owned());
            }
            if value > MAX_SIZE {
                return refuse(key, value, format!("it must be at most {MAX_SIZE}"));
            }
        }
        if !self.head_dim.is_multiple_of(2) {
            return refuse("head_dim", self.head_dim, "it must be even".to_owned());
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let supported = format!("it must divide num_attention_heads = {}", self.num_attention_heads);
            return refuse("num_key_value_heads", self.num_key_value_heads, supported);
        }
        Ok(())
    }

    /// Adds tokens that end an answer.
    pub(crate) fn add_eos(&mut self, ids: &[u32]) {
        for &id in ids {
            if !self.eos_token_ids.contains(&id) {
                self.eos_token_ids.push(id);
            }
        }
    }

    /// Whether a tensor that stands in a file belongs to the model: frequencies follow from the config though some versions
    /// write them, and some write a tied matrix a second time.
    pub(crate) fn has_tensor(&self, name: &str) -> bool {
        let is_doubled = self.tie_word_embeddings && name == "lm_head.weight";
        !is_doubled && !name.ends_with("rotary_emb.inv_freq")
    }

    /// Checks that a sequence fits the context window; `what` is named in the error.
    pub(crate) fn require_fit(&self, what: &str, n_tokens: usize) -> Result<()> {
        let limit = self.max_position_embeddings;
        if n_tokens > limit {
            return Err(Error::TooLong { what: what.to_owned(), n_tokens, limit });
        }
        Ok(())
    }

    /// Checks that the embedding table has a row for each id.
    pub(crate) fn require_known(&self, ids: &[u32]) -> Result<()> {
        let vocab_size = self.vocab_size;
        match ids.iter().find(|&&id| id as usize >= vocab_size) {
            Some(&id) => Err(Error::TokenOutOfRange { id, vocab_size }),
            None => Ok(()),
        }
    }

    /// The text of a `config.json` that Hugging Face's libraries read, with a line break at its end.
    ///
    /// `architecture` is the class that loads it, `LlamaForCausalLM` or `LlamaForSequenceClassification`.
    pub fn to_json(&self, architecture: &str) -> String {
        let eos = match self.eos_token_ids.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            many => json!(many),
        };
        let mut object = json!({
            "architectures": [architecture],
            "attention_bias": false,
            "attention_dropout": 0.0,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": self.initializer_range,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "mlp_bias": false,
            "model_type": "llama",
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "pad_token_id": self.pad_token_id,
            "rms_norm_eps": self.rms_norm_eps,
            // Both spellings: transformers 4 reads the first, transformers 5 the second.
            "rope_theta": self.rope_theta,
            "rope_parameters": { "rope_theta": self.rope_theta, "rope_type": "default" },
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": "float32",
            "dtype": "float32",
            "use_cache": true,
            "vocab_size": self.vocab_size,
        });
        if architecture == "LlamaForSequenceClassification" {
            object["id2label"] = json!({ "0": "reward" });
            object["label2id"] = json!({ "reward": 0 });
        }
        let mut text = serde_json::to_string_pretty(&object).expect("a JSON value prints");
        text.push('\n');
        text
    }

    /// Width of the fused query, key and value projection: `(H + 2 KV) D`.
    pub fn qkv_size(&self) -> usize {
        (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim
    }
}

/// Both spellings: `rope_theta` with `rope_scaling` (transformers 4), and `rope_parameters` (transformers 5).
fn plain_rope_theta(keys: &Keys) -> Result<f64> {
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(scaling) = keys.section(key)? else { continue };
        let kind = scaling.get("rope_type").or_else(|| scaling.get("type"));
        if let Some(kind) = kind.filter(|&kind| kind != "default") {
            return Err(scaling.refuse("rope_type", kind, "only \"default\""));
        }
        if let Some(partial) = scaling.get("partial_rotary_factor").filter(|factor| factor.as_f64() != Some(1.0)) {
            return Err(scaling.refuse("partial_rotary_factor", partial, "only 1.0"));
        }
        if let Some(theta) = scaling.positive_if_given("rope_theta")? {
            return Ok(theta);
        }
    }
    keys.positive("rope_theta", 10_000.0)
}

/// Sizes beyond this are a corrupt file, and products of two of them still fit a word.
const MAX_SIZE: usize = 1 << 28;

#[cfg(test)]
mod tests {
    use super::ModelConfig;
    use crate::Error;
    use serde_json::{Value, json};
    use std::path::Path;

    fn parse(value: &Value) -> crate::Result<ModelConfig> {
        ModelConfig::parse(&value.to_string(), Path::new("config.json"))
    }

    fn minimal() -> Value {
        json!({
            "model_type": "llama", "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 4,
        })
    }

    fn with(key: &str, value: Value) -> Value {
        let mut config = minimal();
        config[key] = value;
        config
    }

    #[test]
    fn absent_keys_take_the_defaults_of_hugging_face() {
        let config = parse(&minimal()).unwrap();
        assert_eq!((config.num_key_value_heads, config.head_dim, config.max_position_embeddings), (4, 8, 2048));
        assert_eq!((config.rms_norm_eps, config.rope_theta), (1e-6, 10_000.0));
        assert!(!config.tie_word_embeddings);
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let mut config = parse(&with("num_key_value_heads", json!(2))).unwrap();
        config.rope_theta = 5e5;
        config.eos_token_ids = vec![5, 7];
        config.tie_word_embeddings = true;
        let text = config.to_json("LlamaForCausalLM");
        assert_eq!(ModelConfig::parse(&text, Path::new("config.json")).unwrap(), config);
    }

    #[test]
    fn unknown_keys_are_passed_over() {
        assert!(parse(&with("pretraining_tp", json!(1))).is_ok());
    }

    #[test]
    fn rope_theta_is_read_in_both_spellings() {
        assert_eq!(parse(&with("rope_theta", json!(5e5))).unwrap().rope_theta, 5e5);
        let new = with("rope_parameters", json!({ "rope_theta": 2e4, "rope_type": "default" }));
        assert_eq!(parse(&new).unwrap().rope_theta, 2e4);
    }

    #[test]
    fn unsupported_values_are_named_with_file_and_key() {
        for (key, value, named) in [
            ("model_type", json!("gpt2"), "model_type"),
            ("hidden_act", json!("gelu"), "hidden_act"),
            ("attention_bias", json!(true), "attention_bias"),
            ("mlp_bias", json!(true), "mlp_bias"),
            ("rope_scaling", json!({ "rope_type": "llama3", "factor": 8.0 }), "rope_scaling.rope_type"),
            ("rope_scaling", json!({ "type": "linear", "factor": 2.0 }), "rope_scaling.rope_type"),
            ("rope_parameters", json!({ "rope_theta": 1e4, "rope_type": "yarn" }), "rope_parameters.rope_type"),
            ("num_key_value_heads", json!(3), "num_key_value_heads"),
            ("head_dim", json!(7), "head_dim"),
            ("hidden_size", json!(-4), "hidden_size"),
            ("hidden_size", json!(0), "hidden_size"),
            ("num_attention_heads", json!(0), "num_attention_heads"),
            ("vocab_size", json!("many"), "vocab_size"),
            ("vocab_size", json!(1_u64 << 40), "vocab_size"),
            ("rms_norm_eps", json!(-1.0), "rms_norm_eps"),
            ("eos_token_id", json!("end"), "eos_token_id"),
        ] {
            let error = parse(&with(key, value)).unwrap_err();
            assert!(matches!(&error, Error::BadConfig { key, .. } if key == named), "{key}: {error}");
            assert!(error.to_string().starts_with(&format!("config.json: `{named} = ")), "{error}");
        }
    }

    #[test]
    fn a_missing_key_is_named() {
        let mut config = minimal();
        config.as_object_mut().unwrap().remove("hidden_size");
        assert_eq!(parse(&config).unwrap_err().to_string(), "config.json: key `hidden_size` is missing");
    }
}
