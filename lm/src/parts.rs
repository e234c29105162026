//! What a published model consists of, wherever it was read from.

use crate::architecture::Architecture;
use crate::tensors;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};
use candle_core::Tensor;
use serde_json::Value;
use std::path::{Path, PathBuf};

pub(crate) const CONFIG_FILE: &str = "config.json";
pub(crate) const GENERATION_FILE: &str = "generation_config.json";

/// The parts of a published model, which [`crate::LoadedModel::from_parts`] puts together.
#[derive(Debug, Clone)]
pub struct ModelParts {
    /// Where the config was read, named in errors.
    pub path: PathBuf,
    /// The text of a `config.json`.
    pub config: String,
    /// The text of a `generation_config.json`, where there is one: chat models list the ends of an answer there.
    pub generation_config: Option<String>,
    /// Tensors under Hugging Face's names, f32 on the CPU.
    pub tensors: Vec<(String, Tensor)>,
    /// The tokenizer with its chat template.
    pub tokenizer: Tokenizer,
}

impl ModelParts {
    /// Reads a folder in Hugging Face's layout.
    ///
    /// # Errors
    /// Where a file is missing or malformed, or `config.json` asks for something that is not computed here.
    pub fn read(folder: &Path) -> Result<Self> {
        let (path, config) = read_config(folder)?;
        // What cannot be run is refused before its weights are read.
        Architecture::parse(&config, &path)?;
        Ok(Self {
            generation_config: read_generation_config(folder)?,
            tokenizer: Tokenizer::load(folder)?,
            tensors: tensors::read_folder(folder)?,
            path,
            config,
        })
    }

    /// Ends of answers by the generation config.
    pub(crate) fn eos_of_generation(&self) -> Result<Vec<u32>> {
        eos_of_generation(self.generation_config.as_deref(), &self.path.with_file_name(GENERATION_FILE))
    }
}

/// The path and the text of a folder's `config.json`.
pub(crate) fn read_config(folder: &Path) -> Result<(PathBuf, String)> {
    let path = folder.join(CONFIG_FILE);
    match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::MissingFile { folder: folder.to_owned(), name: CONFIG_FILE })
        }
        Err(error) => Err(Error::io("read", &path)(error)),
        Ok(text) => Ok((path, text)),
    }
}

/// The text of a folder's `generation_config.json`, where there is one.
pub(crate) fn read_generation_config(folder: &Path) -> Result<Option<String>> {
    let path = folder.join(GENERATION_FILE);
    match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", &path)(error)),
        Ok(text) => Ok(Some(text)),
    }
}

/// Ends of answers by a generation config; `path` is named in errors.
pub(crate) fn eos_of_generation(text: Option<&str>, path: &Path) -> Result<Vec<u32>> {
    let Some(text) = text else { return Ok(Vec::new()) };
    let value: Value = serde_json::from_str(text).map_err(|source| Error::BadJson { path: path.to_owned(), source })?;
    let eos = &value["eos_token_id"];
    let many = eos.as_array().map_or(std::slice::from_ref(eos), Vec::as_slice);
    Ok(many.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect())
}
