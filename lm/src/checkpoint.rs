//! A model on disk: a folder in Hugging Face's layout, with its lineage beside it.

use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::device::Device;
use crate::lineage::{self, Lineage};
use crate::parts::{self, CONFIG_FILE, GENERATION_FILE};
use crate::tensors;
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;
use crate::{Error, Result};
use candle_core::Tensor;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Name of a reward model's additional tensor, (1, d), as in Hugging Face's `LlamaForSequenceClassification`.
pub const SCORE_WEIGHT: &str = "score.weight";

/// A model with everything needed to run it; its tensors lie on the CPU, in f32.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The shape of the model.
    pub config: ModelConfig,
    /// Its parameters.
    pub weights: Weights,
    /// Tensors beyond the decoder's own, such as a reward model's [`SCORE_WEIGHT`].
    pub extra: Vec<(String, Tensor)>,
    /// Its tokenizer with the chat template.
    pub tokenizer: Tokenizer,
    /// Where it comes from; none for a checkpoint made elsewhere.
    pub lineage: Option<Lineage>,
}

impl Checkpoint {
    /// Reads a checkpoint folder of a decoder.
    ///
    /// # Errors
    /// Where a file is missing, malformed or asks for something not supported, or where the parts do not belong together.
    pub fn load(folder: &Path) -> Result<Self> {
        Self::load_with(folder, &[])
    }

    /// Reads a checkpoint folder that must also hold the tensors named in `extra`.
    ///
    /// # Errors
    /// As [`Checkpoint::load`].
    pub fn load_with(folder: &Path, extra: &[&str]) -> Result<Self> {
        let (path, text) = parts::read_config(folder)?;
        let mut config = ModelConfig::parse(&text, &path)?;
        let tokenizer = Tokenizer::load(folder)?;
        require_match(&tokenizer, &config)?;
        let generation_config = parts::read_generation_config(folder)?;
        config.add_eos(&parts::eos_of_generation(generation_config.as_deref(), &folder.join(GENERATION_FILE))?);
        let mut tensors = tensors::read_folder(folder)?;
        tensors.retain(|(name, _)| config.has_tensor(name));
        let mut kept = Vec::new();
        for &name in extra {
            let Some(idx) = tensors.iter().position(|(own, _)| own == name) else {
                return Err(Error::MissingTensor { name: name.to_owned() });
            };
            kept.push(tensors.remove(idx));
        }
        let weights = Weights::from_tensors(&config, tensors)?;
        Ok(Self { config, weights, extra: kept, tokenizer, lineage: Lineage::load(folder)? })
    }

    /// Writes the folder: all of it or, where that fails, nothing. The same checkpoint gives the same bytes.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] where the folder exists, or where a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        require_match(&self.tokenizer, &self.config)?;
        if folder.exists() {
            return Err(Error::AlreadyExists { path: folder.to_owned() });
        }
        let partial = partial_of(folder);
        if partial.exists() {
            // Left behind by a run that was interrupted.
            std::fs::remove_dir_all(&partial).map_err(Error::io("remove", &partial))?;
        }
        std::fs::create_dir_all(&partial).map_err(Error::io("create", &partial))?;
        let write = |name: &str, text: String| {
            let path = partial.join(name);
            std::fs::write(&path, text).map_err(Error::io("write", &path))
        };
        let is_reward_model = self.extra.iter().any(|(name, _)| name == SCORE_WEIGHT);
        let class = if is_reward_model { "LlamaForSequenceClassification" } else { "LlamaForCausalLM" };
        write(CONFIG_FILE, self.config.to_json(class))?;
        write(GENERATION_FILE, self.generation_json())?;
        self.tokenizer.save(&partial)?;
        tensors::write_file(&partial.join(tensors::FILE), self.tensors())?;
        if let Some(lineage) = &self.lineage {
            write(lineage::FILE, lineage.to_json())?;
        }
        std::fs::rename(&partial, folder).map_err(Error::io("rename to", folder))
    }

    /// A decoder over the weights on a device, without gradients, with activations in f32.
    ///
    /// # Errors
    /// Where memory for them lacks there.
    pub fn decoder(&self, device: &Device) -> Result<Decoder> {
        let weights = self.weights.map(|tensor| Ok(tensor.to_device(device)?))?;
        Decoder::new(&self.config, &weights)
    }

    /// SHA-256 over the content of all tensors, in hexadecimal; it does not depend on how they are laid out in files.
    ///
    /// # Errors
    /// Where a tensor cannot be converted.
    pub fn content_hash(&self) -> Result<String> {
        tensors::hash(self.tensors())
    }

    /// The additional tensor of that name.
    pub fn extra(&self, name: &str) -> Option<&Tensor> {
        self.extra.iter().find(|(own, _)| own == name).map(|(_, tensor)| tensor)
    }

    fn tensors(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.weights.iter().chain(self.extra.iter().map(|(name, tensor)| (name.as_str(), tensor)))
    }

    fn generation_json(&self) -> String {
        let object = json!({
            "bos_token_id": self.config.bos_token_id,
            "do_sample": false,
            "eos_token_id": self.config.eos_token_ids,
            "pad_token_id": self.config.pad_token_id,
        });
        let mut text = serde_json::to_string_pretty(&object).expect("a JSON value prints");
        text.push('\n');
        text
    }
}

/// The tokenizer may know fewer tokens than the model embeds (tables are padded to round sizes), but not more.
pub(crate) fn require_match(tokenizer: &Tokenizer, config: &ModelConfig) -> Result<()> {
    let (n_tokens, n_embeddings) = (tokenizer.vocab_size(), config.vocab_size);
    if n_tokens > n_embeddings {
        return Err(Error::TokenizerMismatch { n_tokens, n_embeddings });
    }
    Ok(())
}

fn partial_of(folder: &Path) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!(".{name}.partial"))
}
