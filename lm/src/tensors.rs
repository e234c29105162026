//! Named tensors in safetensors files, one or several.

use crate::{Error, Result};
use candle_core::{Device, Tensor};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensorError, SafeTensors, tensor::TensorView};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::path::Path;

/// The file of an unsharded checkpoint.
pub(crate) const FILE: &str = "model.safetensors";
/// The file that lists the shards of a sharded checkpoint.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// Reads all tensors of a checkpoint folder as f32, in the order of their names.
pub(crate) fn read_folder(folder: &Path) -> Result<Vec<(String, Tensor)>> {
    let index = folder.join(INDEX_FILE);
    if !index.exists() {
        let path = folder.join(FILE);
        if !path.exists() {
            return Err(Error::MissingFile { folder: folder.to_owned(), name: "model.safetensors, whole or sharded" });
        }
        return Ok(read_file(&path)?.into_iter().collect());
    }
    let text = std::fs::read_to_string(&index).map_err(Error::io("read", &index))?;
    let parsed: ShardIndex =
        serde_json::from_str(&text).map_err(|source| Error::BadJson { path: index.clone(), source })?;
    let mut tensors = BTreeMap::new();
    for shard in parsed.weight_map.values().collect::<BTreeSet<_>>() {
        let path = folder.join(shard);
        // A shard lies beside its index; a name that leads elsewhere is not followed.
        if Path::new(shard).components().count() != 1 || !path.is_file() {
            return Err(Error::MissingShard { index, shard: shard.clone() });
        }
        tensors.extend(read_file(&path)?);
    }
    if let Some(name) = parsed.weight_map.keys().find(|&name| !tensors.contains_key(name)) {
        return Err(Error::MissingTensor { name: name.clone() });
    }
    Ok(tensors.into_iter().collect())
}

/// Reads the tensors of one safetensors file as f32.
///
/// # Errors
/// Where the file is truncated or malformed, or a tensor is neither F32, F16 nor BF16.
pub fn read_file(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| describe(path, bytes.len(), &error))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let values = to_f32(&view).ok_or_else(|| Error::UnknownDtype {
            path: path.to_owned(),
            name: name.to_owned(),
            dtype: format!("{:?}", view.dtype()),
        })?;
        tensors.insert(name.to_owned(), Tensor::from_vec(values, view.shape(), &Device::Cpu)?);
    }
    Ok(tensors)
}

/// Writes tensors as f32 into one safetensors file; the same tensors give the same bytes, whatever their order.
///
/// # Errors
/// Where a tensor cannot be converted or the file cannot be written.
pub fn write_file<'a>(path: &Path, tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<()> {
    let stored: Vec<(&str, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, tensor)| Ok((name, tensor.dims().to_vec(), to_bytes(tensor)?)))
        .collect::<Result<_>>()?;
    let malformed = |error: &SafeTensorError| Error::BadTensorFile { path: path.to_owned(), reason: error.to_string() };
    let mut views = Vec::new();
    for (name, shape, bytes) in &stored {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(|error| malformed(&error))?;
        views.push((*name, view));
    }
    // Hugging Face's loaders insist on this entry.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|error| malformed(&error))?;
    std::fs::write(path, bytes).map_err(Error::io("write", path))
}

/// SHA-256, in hexadecimal, over names, shapes and values (as f32) in the order of the names: it does not depend on how the
/// tensors are laid out in files.
///
/// # Errors
/// Where a tensor cannot be converted.
pub fn hash<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<String> {
    let sorted: BTreeMap<&str, &Tensor> = tensors.into_iter().collect();
    let mut hasher = Sha256::new();
    for (name, tensor) in sorted {
        // Lengths before each part keep the parts apart.
        hasher.update((name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(b"F32");
        hasher.update((tensor.rank() as u64).to_le_bytes());
        for &dim in tensor.dims() {
            hasher.update((dim as u64).to_le_bytes());
        }
        hasher.update(to_bytes(tensor)?);
    }
    Ok(hexadecimal(&hasher.finalize()))
}

/// Two digits for each byte.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string succeeds");
        text
    })
}

#[derive(serde::Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

fn describe(path: &Path, found_bytes: usize, error: &SafeTensorError) -> Error {
    match error {
        SafeTensorError::HeaderTooSmall
        | SafeTensorError::InvalidHeaderLength
        | SafeTensorError::MetadataIncompleteBuffer => Error::TruncatedFile { path: path.to_owned(), found_bytes },
        other => Error::BadTensorFile { path: path.to_owned(), reason: other.to_string() },
    }
}

fn to_f32(view: &TensorView) -> Option<Vec<f32>> {
    let bytes = view.data();
    Some(match view.dtype() {
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Dtype::BF16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        _ => return None,
    })
}

fn to_bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let values: Vec<f32> = tensor.detach().to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1()?;
    Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect())
}
