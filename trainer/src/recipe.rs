//! What a run is asked to be: sections of a TOML file, each key with a default, each value in a type that cannot be wrong.

use crate::error::{Error, Result};
use crate::mix::PretrainMixRecipe;
use lm::config::ModelConfig;
use lm::tokenizer::Tokenizer;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::Path;

/// Shape of the decoder (`[model]`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelRecipe {
    /// Number of blocks. Default 3.
    pub layers: NonZeroUsize,
    /// Width of the residual stream. Default 128.
    pub hidden: NonZeroUsize,
    /// Query heads of each block. Default 4.
    pub heads: NonZeroUsize,
    /// Key and value heads of each block; divides `heads`. Default 2.
    pub kv_heads: NonZeroUsize,
    /// Inner width of the SwiGLU layer. Default 320.
    pub ffn: NonZeroUsize,
    /// Most tokens the model is made for. Default 128.
    pub context: NonZeroUsize,
    /// Whether the output matrix is the embedding table. Default true.
    pub tied: bool,
    /// Base of the rotary frequencies. Default 10000.
    pub rope_theta: Positive,
}

impl Default for ModelRecipe {
    fn default() -> Self {
        Self {
            layers: count(3),
            hidden: count(128),
            heads: count(4),
            kv_heads: count(2),
            ffn: count(320),
            context: count(128),
            tied: true,
            rope_theta: Positive(10_000.0),
        }
    }
}

impl ModelRecipe {
    /// The shape of a decoder for a tokenizer: its embedding table has a row for every token.
    ///
    /// # Errors
    /// [`Error::Setting`] where heads do not divide the width, or key and value heads the heads.
    pub fn to_config(&self, tokenizer: &Tokenizer) -> Result<ModelConfig> {
        let (hidden, heads, kv_heads) = (self.hidden.get(), self.heads.get(), self.kv_heads.get());
        let refuse = |key: &str, value: usize, message: String| {
            Err(Error::Setting { key: format!("model.{key}"), value: value.to_string(), message })
        };
        if !hidden.is_multiple_of(2 * heads) {
            return refuse("hidden", hidden, format!("expected a multiple of 2 x model.heads = {}", 2 * heads));
        }
        if !heads.is_multiple_of(kv_heads) {
            return refuse("kv_heads", kv_heads, format!("expected a divisor of model.heads = {heads}"));
        }
        Ok(ModelConfig {
            vocab_size: tokenizer.vocab_size(),
            hidden_size: hidden,
            intermediate_size: self.ffn.get(),
            num_hidden_layers: self.layers.get(),
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim: hidden / heads,
            max_position_embeddings: self.context.get(),
            rms_norm_eps: 1e-5,
            rope_theta: self.rope_theta.get(),
            tie_word_embeddings: self.tied,
            initializer_range: 0.02,
            bos_token_id: tokenizer.bos_id(),
            eos_token_ids: tokenizer.eos_id().into_iter().collect(),
            pad_token_id: tokenizer.pad_id(),
        })
    }
}

/// The tokenizer (`[tokenizer]`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizerRecipe {
    /// Number of tokens, special ones included; fewer where the texts have nothing left to merge. Default 1024.
    pub vocab_size: NonZeroUsize,
}

impl Default for TokenizerRecipe {
    fn default() -> Self {
        Self { vocab_size: count(1024) }
    }
}

/// Pretraining (`[pretrain]`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PretrainRecipe {
    /// Optimizer steps. Default 1200.
    pub steps: NonZeroU64,
    /// Packed sequences of one forward pass. Default 8.
    pub batch_sequences: NonZeroUsize,
    /// Tokens of a packed sequence. Default 128.
    pub sequence_tokens: NonZeroUsize,
    /// Forward passes whose gradients make one step. Default 1.
    pub accumulate: NonZeroUsize,
    /// Steps between intermediate checkpoints; 0 for none. Default 500.
    pub save_every: u64,
    /// Peak learning rate. Default 3e-3.
    pub lr: Positive,
    /// The optimizer.
    pub optimizer: OptimizerRecipe,
    /// Learning rate over the steps.
    pub schedule: ScheduleRecipe,
}

impl Default for PretrainRecipe {
    fn default() -> Self {
        Self {
            steps: steps(1200),
            batch_sequences: count(8),
            sequence_tokens: count(128),
            accumulate: count(1),
            save_every: 500,
            lr: Positive(3e-3),
            optimizer: OptimizerRecipe::default(),
            schedule: ScheduleRecipe::default(),
        }
    }
}

/// Supervised fine-tuning (`[sft]`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SftRecipe {
    /// Optimizer steps. Default 1200.
    pub steps: NonZeroU64,
    /// Sequences of one forward pass. Default 8.
    pub batch_sequences: NonZeroUsize,
    /// Tokens of a sequence. Default 128.
    pub sequence_tokens: NonZeroUsize,
    /// Forward passes whose gradients make one step. Default 1.
    pub accumulate: NonZeroUsize,
    /// Whether several conversations share a sequence (they never see each other). Default true.
    pub packing: bool,
    /// Pretraining that goes on beside; without it fine-tuning forgets most of the facts.
    pub pretrain_mix: PretrainMixRecipe,
    /// Steps between intermediate checkpoints; 0 for none. Default 500.
    pub save_every: u64,
    /// Peak learning rate. Default 1e-3.
    pub lr: Positive,
    /// The optimizer.
    pub optimizer: OptimizerRecipe,
    /// Learning rate over the steps.
    pub schedule: ScheduleRecipe,
}

impl Default for SftRecipe {
    fn default() -> Self {
        Self {
            steps: steps(1200),
            batch_sequences: count(8),
            sequence_tokens: count(128),
            accumulate: count(1),
            packing: true,
            pretrain_mix: PretrainMixRecipe::default(),
            save_every: 500,
            lr: Positive(1e-3),
            optimizer: OptimizerRecipe::default(),
            schedule: ScheduleRecipe::default(),
        }
    }
}

/// AdamW with clipping of the global gradient norm (`[PHASE.optimizer]`).
///
/// # Reference
/// Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2; `PyTorch`'s `torch.optim.AdamW`, whose steps it repeats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerRecipe {
    /// Decay of the gradient's running mean. Default 0.9.
    pub beta1: Probability,
    /// Decay of the squared gradient's running mean. Default 0.95.
    pub beta2: Probability,
    /// Added to the root of the second moment. Default 1e-8.
    pub eps: Positive,
    /// Decoupled decay, of matrices only. Default 0.1.
    pub weight_decay: NonNegative,
    /// Largest global gradient norm; longer gradients are scaled down to it. Default 1.
    pub clip: Positive,
}

impl Default for OptimizerRecipe {
    fn default() -> Self {
        Self {
            beta1: Probability(0.9),
            beta2: Probability(0.95),
            eps: Positive(1e-8),
            weight_decay: NonNegative(0.1),
            clip: Positive(1.0),
        }
    }
}

/// How the learning rate goes over the steps (`[PHASE.schedule.cosine]`, `.wsd` or `.constant`). Default cosine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum ScheduleRecipe {
    /// Linear warm-up, then half a cosine.
    Cosine(CosineRecipe),
    /// Linear warm-up, constant, then linear decay (warm-up, stable, decay).
    Wsd(WsdRecipe),
    /// Linear warm-up, then constant.
    Constant(ConstantRecipe),
}

impl Default for ScheduleRecipe {
    fn default() -> Self {
        Self::Cosine(CosineRecipe::default())
    }
}

/// Linear warm-up, then half a cosine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CosineRecipe {
    /// Steps of linear rise. Default 50.
    pub warmup_steps: u64,
    /// Learning rate of the last step over the peak. Default 0.1.
    pub final_fraction: Probability,
}

impl Default for CosineRecipe {
    fn default() -> Self {
        Self { warmup_steps: 50, final_fraction: Probability(0.1) }
    }
}

/// Linear warm-up, constant, then linear decay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WsdRecipe {
    /// Steps of linear rise. Default 50.
    pub warmup_steps: u64,
    /// Share of the steps that decay, at the end. Default 0.2.
    pub decay_fraction: Probability,
    /// Learning rate of the last step over the peak. Default 0.1.
    pub final_fraction: Probability,
}

impl Default for WsdRecipe {
    fn default() -> Self {
        Self { warmup_steps: 50, decay_fraction: Probability(0.2), final_fraction: Probability(0.1) }
    }
}

/// Linear warm-up, then constant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConstantRecipe {
    /// Steps of linear rise. Default 10.
    pub warmup_steps: u64,
}

impl Default for ConstantRecipe {
    fn default() -> Self {
        Self { warmup_steps: 10 }
    }
}

macro_rules! bounded {
    ($(#[$doc:meta])* $name:ident, $range:literal, $ok:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
        #[serde(try_from = "f64", into = "f64")]
        pub struct $name(f64);

        impl $name {
            /// Takes a number that is in range.
            ///
            /// # Errors
            /// Where it is not; the message says the range.
            pub fn new(value: f64) -> Result<Self, String> {
                Self::try_from(value)
            }

            /// The number.
            pub fn get(self) -> f64 {
                self.0
            }
        }

        impl TryFrom<f64> for $name {
            type Error = String;

            fn try_from(value: f64) -> Result<Self, String> {
                let in_range: fn(f64) -> bool = $ok;
                if in_range(value) { Ok(Self(value)) } else { Err(format!("expected {}, found {value}", $range)) }
            }
        }

        impl From<$name> for f64 {
            fn from(bounded: $name) -> f64 {
                bounded.0
            }
        }
    };
}

bounded!(
    /// A number from 0 to 1.
    Probability, "a number from 0 to 1", |x| (0.0..=1.0).contains(&x)
);
bounded!(
    /// A number from 0 to less than 0.5: a share that the rest outweighs.
    BelowHalf, "a number from 0 to less than 0.5", |x| (0.0..0.5).contains(&x)
);
bounded!(
    /// A finite number above 0.
    Positive, "a finite number above 0", |x| x > 0.0 && x.is_finite()
);
bounded!(
    /// A finite number of at least 0.
    NonNegative, "a finite number of at least 0", |x| x >= 0.0 && x.is_finite()
);

/// Parses TOML `text` that was read from `path`.
///
/// # Errors
/// [`Error::Recipe`] with file, line and key for bad syntax, unknown keys and values out of range.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let (line, key) = locate(text, at);
        Error::Recipe { path: path.to_path_buf(), line, key, message: error.message().to_owned() }
    })
}

/// Reads and parses the TOML file `path`.
///
/// # Errors
/// [`Error::File`] where it cannot be read, [`Error::Recipe`] where it does not parse.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
    parse(path, &text)
}

/// The TOML of a recipe's section, as lineages keep it.
///
/// # Panics
/// Never for this crate's recipes: they hold numbers, flags and tables.
pub fn to_toml<T: Serialize>(section: &T) -> String {
    toml::to_string(section).expect("recipes print")
}

/// Checks that sequences of `n_tokens`, as the recipe's `key` says, fit the model.
///
/// # Errors
/// [`Error::Setting`] where they do not.
pub fn check_length(key: &str, n_tokens: usize, config: &ModelConfig) -> Result<()> {
    let context = config.max_position_embeddings;
    if (2..=context).contains(&n_tokens) {
        return Ok(());
    }
    let message = format!("expected 2 to {context}, the model's context");
    Err(Error::Setting { key: key.to_owned(), value: n_tokens.to_string(), message })
}

/// Line number and dotted key of the byte `at`.
fn locate(text: &str, at: usize) -> (usize, String) {
    let mut section = "";
    let mut start = 0;
    for (line_idx, line) in text.split_inclusive('\n').enumerate() {
        let trimmed = line.trim();
        let is_header = trimmed.starts_with('[') && !trimmed.contains('=');
        if is_header {
            let header = trimmed.split('#').next().unwrap_or_default();
            section = header.trim_matches(|c: char| c == '[' || c == ']' || c.is_whitespace());
        }
        let end = start + line.len();
        if at < end || end == text.len() {
            let key = trimmed.split('=').next().unwrap_or_default().trim();
            let key = match (is_header || key.is_empty(), section.is_empty()) {
                (true, _) => section.to_owned(),
                (false, true) => key.to_owned(),
                (false, false) => format!("{section}.{key}"),
            };
            return (line_idx + 1, key);
        }
        start = end;
    }
    (1, String::new())
}

/// A default that is known not to be zero.
pub(crate) const fn count(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).expect("defaults are not zero")
}

/// A default number of steps that is known not to be zero.
pub(crate) const fn steps(n: u64) -> NonZeroU64 {
    NonZeroU64::new(n).expect("defaults are not zero")
}

#[cfg(test)]
mod tests {
    use super::{ModelRecipe, Positive, PretrainRecipe, Probability, ScheduleRecipe, SftRecipe, parse, to_toml};
    use crate::dpo::{DpoRecipe, PreferenceLossRecipe};
    use crate::reward::RewardRecipe;
    use crate::rl_cai::RlCaiRecipe;
    use crate::rlhf::RlhfRecipe;
    use crate::sl_cai::SlCaiRecipe;
    use serde::{Deserialize, Serialize};
    use std::path::Path;

    /// Sections as a whole recipe has them.
    #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct TrainRecipe {
        model: ModelRecipe,
        pretrain: PretrainRecipe,
        sft: SftRecipe,
        reward: RewardRecipe,
        rlhf: RlhfRecipe,
        dpo: DpoRecipe,
        sl_cai: SlCaiRecipe,
        rl_cai: RlCaiRecipe,
    }

    fn parse_text(text: &str) -> Result<TrainRecipe, String> {
        parse(Path::new("recipe.toml"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn an_empty_recipe_is_the_default_and_every_default_is_in_range() {
        assert_eq!(parse_text("").unwrap(), TrainRecipe::default());
        let text = to_toml(&TrainRecipe::default());
        assert_eq!(parse_text(&text).unwrap(), TrainRecipe::default(), "{text}");
    }

    #[test]
    fn a_misspelt_key_is_named_with_file_and_line() {
        let error = parse_text("[model]\nlayers = 2\n\n[sft]\nstep = 3\n").unwrap_err();
        assert!(error.starts_with("recipe.toml:5: key `sft.step`: unknown field `step`"), "{error}");
    }

    #[test]
    fn a_misspelt_section_is_named() {
        let error = parse_text("[pretrian]\nsteps = 2\n").unwrap_err();
        assert!(error.starts_with("recipe.toml:1: key `pretrian`: unknown field `pretrian`"), "{error}");
    }

    #[test]
    fn a_value_out_of_range_says_the_range() {
        let error = parse_text("[pretrain]\nsteps = 9\n[pretrain.optimizer]\nbeta1 = 1.5 # too much\n").unwrap_err();
        let expected = "recipe.toml:4: key `pretrain.optimizer.beta1`: expected a number from 0 to 1, found 1.5";
        assert_eq!(error, expected);
        let error = parse_text("[pretrain]\nsteps = 0\n").unwrap_err();
        assert!(error.starts_with("recipe.toml:2: key `pretrain.steps`: "), "{error}");
    }

    #[test]
    fn broken_syntax_is_named_with_its_line() {
        let error = parse_text("[model]\nlayers = = 2\n").unwrap_err();
        assert!(error.starts_with("recipe.toml:2: key `model.layers`: "), "{error}");
    }

    #[test]
    fn a_schedule_is_chosen_by_its_table() {
        let recipe = parse_text("[sft.schedule.wsd]\nwarmup_steps = 3\n").unwrap();
        let ScheduleRecipe::Wsd(wsd) = recipe.sft.schedule else { panic!("not wsd") };
        assert_eq!((wsd.warmup_steps, wsd.decay_fraction.get()), (3, 0.2));
        let error = parse_text("[sft.schedule.wsd]\nwarmup = 3\n").unwrap_err();
        assert!(error.starts_with("recipe.toml:2: key `sft.schedule.wsd.warmup`: "), "{error}");
    }

    #[test]
    fn a_preference_loss_is_chosen_by_its_table() {
        let recipe = parse_text("[dpo.loss.ipo]\n").unwrap();
        assert!(matches!(recipe.dpo.loss, PreferenceLossRecipe::Ipo(_)));
        let recipe = parse_text("[dpo.loss.sigmoid]\nlabel_smoothing = 0.1\n").unwrap();
        assert_eq!(parse_text(&to_toml(&recipe)).unwrap(), recipe);
        let error = parse_text("[dpo.loss.sigmoid]\nlabel_smoothing = 0.5\n").unwrap_err();
        let expected = "recipe.toml:2: key `dpo.loss.sigmoid.label_smoothing`: expected a number from 0 to less than 0.5, found 0.5";
        assert_eq!(error, expected);
        let error = parse_text("[dpo.loss.ipo]\nlabel_smoothing = 0.1\n").unwrap_err();
        assert!(error.starts_with("recipe.toml:2: key `dpo.loss.ipo.label_smoothing`: "), "{error}");
    }

    #[test]
    fn labels_and_judge_of_rl_cai_are_chosen_by_their_tables() {
        let recipe = parse_text(
            "[rl_cai]\nlabels.principles = 3\nlabels.kind.reasoned.clamp = 0.3\n[rl_cai.judge.endpoint]\nurl = \"http://x/v1\"\nmodel = \"m\"\n",
        )
        .unwrap();
        assert_eq!(parse_text(&to_toml(&recipe)).unwrap(), recipe);
        let other =
            parse_text("[rl_cai]\nlabels.kind.hard = {}\njudge.checkpoint = \"runs/a/checkpoints/sft\"\n").unwrap();
        let texts = [&recipe, &other, &TrainRecipe::default()].map(|recipe| recipe.rl_cai.pairs());
        assert!(texts[0].contains("clamp = 0.3") && texts[1].contains("runs/a/checkpoints/sft"), "{texts:?}");
        // What was trained before there were these keys is known again.
        assert!(!texts[2].contains("labels") && !texts[2].contains("judge"), "{}", texts[2]);
        let error = parse_text("[rl_cai.labels.kind.reasoned]\nclamp = 0.5\n").unwrap_err();
        let expected = "recipe.toml:2: key `rl_cai.labels.kind.reasoned.clamp`: expected a number from 0 to less than 0.5, found 0.5";
        assert_eq!(error, expected);
        let error = parse_text("[rl_cai.judge.endpoint]\nmodel = \"m\"\n").unwrap_err();
        assert!(error.contains("missing field `url`"), "{error}");
    }

    #[test]
    fn bounded_numbers_refuse_what_is_not_a_number() {
        assert!(Probability::new(f64::NAN).is_err());
        assert!(Positive::new(f64::INFINITY).is_err());
        assert!(Positive::new(0.0).is_err());
    }
}
