//! GGUF files, as llama.cpp and its kin ship models, read as the Hugging Face folder that they were made from.

mod config;
mod layout;
mod metadata;
mod vocabulary;

use crate::parts::ModelParts;
use crate::{Error, Result};
use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, TensorInfo};
use config::Config;
use layout::{Family, ROPE_FACTORS};
use metadata::Metadata;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

/// Metadata and tensor table must end within this many bytes: the largest vocabularies need some 12 MiB. The parser makes up to
/// 32 bytes of memory out of each, so a hostile file cannot ask for more than about 2 GiB.
const HEADER_LIMIT: u64 = 32 << 20;
const MAGIC: &[u8] = b"GGUF";

/// Whether a file begins as GGUF files do.
pub fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == MAGIC
}

/// Reads a GGUF file of the Llama family: `llama` (Llama, Mistral, `SmolLM2`), `qwen2`, `qwen3`, `gemma2`, `gemma3` (its text
/// model), `olmo2` and `smollm3`.
///
/// What llama.cpp's converter changed is undone: rows of query and key projections are put back in Hugging Face's order, norm
/// weights of Gemma lose the one that was added to them, and factors of rotary frequencies become `rope_scaling` again.
///
/// # Errors
/// Names the file and what in it is truncated, malformed or not supported.
///
/// # Reference
/// <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>; names and changes of tensors as in transformers'
/// `modeling_gguf_pytorch_utils.py`.
pub fn read(path: &Path) -> Result<ModelParts> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let n_bytes = file.metadata().map_err(Error::io("read", path))?.len();
    let content = read_header(path, &file)?;
    let metadata = Metadata::new(path, &content.metadata)?;
    let family = Family::of(&metadata)?;
    let dequantised = |name: &str, info: &TensorInfo| {
        check_extent(path, name, info, content.tensor_data_offset, n_bytes)?;
        let stored = info.read(&mut &file, content.tensor_data_offset, &Device::Cpu);
        stored.and_then(|stored| stored.dequantize(&Device::Cpu)).map_err(|error| refuse_tensor(path, name, &error))
    };
    let rope_factors = match content.tensor_infos.get(ROPE_FACTORS).filter(|_| family.has_rope_factors()) {
        Some(info) => Some(dequantised(ROPE_FACTORS, info)?.flatten_all()?.to_vec1::<f32>()?),
        None => None,
    };
    let config = Config::read(&metadata, family, &content.tensor_infos, rope_factors.as_deref())?;
    let tokenizer = vocabulary::tokenizer(&metadata, family, config.max_position_embeddings)?;
    let mut tensors = BTreeMap::new();
    // In the order of their names, so that of several faults it is always the same one that is told.
    for (name, info) in content.tensor_infos.iter().collect::<BTreeMap<_, _>>() {
        if name == ROPE_FACTORS && rope_factors.is_some() {
            continue;
        }
        let Some((own_name, rewrite)) = family.place(name, &config) else {
            return Err(refuse(path, format!("tensor `{name}` has no place in a model of `{}`", family.name())));
        };
        let tensor = rewrite.apply(&dequantised(name, info)?).map_err(|error| refuse_tensor(path, name, &error))?;
        if tensors.insert(own_name, tensor).is_some() {
            return Err(refuse(path, format!("tensor `{name}` is there twice")));
        }
    }
    Ok(ModelParts {
        path: path.to_owned(),
        config: config.text,
        // The ends of an answer stand in the config.
        generation_config: None,
        tensors: tensors.into_iter().collect(),
        tokenizer,
    })
}

fn read_header(path: &Path, file: &File) -> Result<Content> {
    let mut head = Vec::new();
    file.take(HEADER_LIMIT).read_to_end(&mut head).map_err(Error::io("read", path))?;
    if !head.starts_with(MAGIC) {
        return Err(refuse(path, "it does not begin with `GGUF`"));
    }
    if declares_no_alignment(&head) {
        return Err(refuse(path, "`general.alignment = 0`, it must be positive"));
    }
    Content::read(&mut Cursor::new(&head)).map_err(|error| refuse(path, format!("its header: {}", first_line(&error))))
}

/// Whether the header sets the alignment to zero, by which the parser would divide.
fn declares_no_alignment(head: &[u8]) -> bool {
    const KEY: &[u8] = b"general.alignment";
    // After the key: the value's type in four bytes, then the value, of at most eight.
    head.windows(KEY.len()).enumerate().filter(|(_, window)| *window == KEY).any(|(at, _)| {
        let value = &head[at + KEY.len()..];
        value.len() > 4 && value[4..].iter().take(value_size(value[0])).all(|&byte| byte == 0)
    })
}

/// Bytes of a whole number of that type.
fn value_size(value_type: u8) -> usize {
    match value_type {
        0 | 1 => 1,
        2 | 3 => 2,
        4 | 5 => 4,
        _ => 8,
    }
}

/// Checks that a tensor's bytes lie within the file, before any memory is asked for.
fn check_extent(path: &Path, name: &str, info: &TensorInfo, data_offset: u64, n_bytes: u64) -> Result<()> {
    let dims = info.shape.dims();
    let n_values = dims.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
    let (block, block_bytes) = (info.ggml_dtype.block_size(), info.ggml_dtype.type_size());
    let end = n_values.and_then(|n| {
        let size = u64::try_from((n / block).checked_mul(block_bytes)?).ok()?;
        data_offset.checked_add(info.offset)?.checked_add(size)
    });
    if end.is_some_and(|end| end <= n_bytes) {
        return Ok(());
    }
    let kind = info.ggml_dtype;
    Err(refuse(path, format!("it is truncated: tensor `{name}` ({kind:?} {dims:?}) ends beyond its {n_bytes} bytes")))
}

fn refuse_tensor(path: &Path, name: &str, error: &candle_core::Error) -> Error {
    refuse(path, format!("tensor `{name}`: {}", first_line(error)))
}

fn refuse(path: &Path, reason: impl Into<String>) -> Error {
    Error::BadGguf { path: path.to_owned(), reason: reason.into() }
}

/// candle's errors may carry a backtrace below the first line.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
