//! Named tensors in safetensors files, one or several.

use crate::{Error, Result};
use candle_core::{Device, Tensor};
use half::{bf16, f16};
use safetensors::tensor::{Metadata, TensorView};
use safetensors::{Dtype, SafeTensorError};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::fs::File;
use std::io::Read;
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

/// Reads the tensors of one safetensors file as f32, one after the other: never more than a piece of the file is held besides.
///
/// # Errors
/// Where the file is truncated or malformed, or a tensor is neither F32, F16 nor BF16.
pub fn read_file(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let metadata = read_header(&mut file, path)?;
    let mut tensors = BTreeMap::new();
    // In the order in which they lie, without gaps.
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        let convert = converter(info.dtype).ok_or_else(|| Error::UnknownDtype {
            path: path.to_owned(),
            name: name.clone(),
            dtype: format!("{:?}", info.dtype),
        })?;
        let mut n_bytes = info.data_offsets.1 - info.data_offsets.0;
        let mut values = Vec::with_capacity(info.shape.iter().product());
        let mut piece = vec![0; n_bytes.min(PIECE_BYTES)];
        while n_bytes > 0 {
            let piece = &mut piece[..n_bytes.min(PIECE_BYTES)];
            file.read_exact(piece).map_err(Error::io("read", path))?;
            convert(piece, &mut values);
            n_bytes -= piece.len();
        }
        tensors.insert(name, Tensor::from_vec(values, info.shape.as_slice(), &Device::Cpu)?);
    }
    Ok(tensors)
}

/// Bytes of a file that are held at a time, a multiple of every element's size.
const PIECE_BYTES: usize = 1 << 20;
/// Bytes of the largest header that is read, as in the safetensors library.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The header of a safetensors file, behind which `file` stands then; it was checked against the length of the file.
fn read_header(file: &mut File, path: &Path) -> Result<Metadata> {
    let n_bytes = file.metadata().map_err(Error::io("read", path))?.len();
    let malformed = |reason: String| Error::BadTensorFile { path: path.to_owned(), reason };
    let truncated = || Error::TruncatedFile { path: path.to_owned(), found_bytes: n_bytes };
    let mut length = [0; 8];
    if n_bytes < length.len() as u64 {
        return Err(truncated());
    }
    file.read_exact(&mut length).map_err(Error::io("read", path))?;
    let n_header = u64::from_le_bytes(length);
    if n_header > MAX_HEADER_BYTES {
        return Err(malformed(SafeTensorError::HeaderTooLarge.to_string()));
    }
    if n_bytes - 8 < n_header {
        return Err(truncated());
    }
    let mut header = vec![0; n_header as usize];
    file.read_exact(&mut header).map_err(Error::io("read", path))?;
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|error| malformed(SafeTensorError::InvalidHeaderDeserialization(error).to_string()))?;
    if (metadata.data_len() as u64).checked_add(8 + n_header) != Some(n_bytes) {
        return Err(truncated());
    }
    Ok(metadata)
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
        let mut bytes = Vec::with_capacity(PIECE_BYTES);
        for values in to_values(tensor)?.chunks(PIECE_BYTES / 4) {
            bytes.clear();
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            hasher.update(&bytes);
        }
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
pub(crate) struct ShardIndex {
    pub(crate) weight_map: BTreeMap<String, String>,
}

/// Appends elements, as they lie in a file, to values.
type Converter = fn(&[u8], &mut Vec<f32>);

/// What appends little-endian elements of that type.
fn converter(dtype: Dtype) -> Option<Converter> {
    Some(match dtype {
        Dtype::F32 => {
            |bytes, values| values.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])))
        }
        Dtype::F16 => {
            |bytes, values| values.extend(bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()))
        }
        Dtype::BF16 => {
            |bytes, values| values.extend(bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()))
        }
        _ => return None,
    })
}

fn to_bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let values = to_values(tensor)?;
    let mut bytes = vec![0; 4 * values.len()];
    for (to, value) in bytes.chunks_exact_mut(4).zip(values) {
        to.copy_from_slice(&value.to_le_bytes());
    }
    Ok(bytes)
}

fn to_values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.detach().to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1()?)
}

#[cfg(test)]
mod tests {
    use super::{read_file, write_file};
    use crate::Error;
    use candle_core::{Device, Tensor};
    use half::{bf16, f16};
    use safetensors::tensor::{Dtype, TensorView};
    use std::path::Path;

    fn file(folder: &Path, bytes: &[u8]) -> std::path::PathBuf {
        let path = folder.join("model.safetensors");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn tensors_longer_than_a_piece_of_every_type_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let n = 700_000;
        let values: Vec<f32> = (0..n).map(|i| (i % 200) as f32 - 100.0).collect();
        let whole: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let half: Vec<u8> = values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
        let brain: Vec<u8> = values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
        let view = |dtype, bytes| TensorView::new(dtype, vec![n / 7, 7], bytes).unwrap();
        let views = [
            ("whole", view(Dtype::F32, &whole)),
            ("half", view(Dtype::F16, &half)),
            ("brain", view(Dtype::BF16, &brain)),
        ];
        let path = file(folder.path(), &safetensors::serialize(views, None).unwrap());
        let tensors = read_file(&path).unwrap();
        assert_eq!(tensors.len(), 3);
        for tensor in tensors.values() {
            assert_eq!(tensor.dims(), [n / 7, 7]);
            assert_eq!(tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap(), values);
        }
    }

    #[test]
    fn a_file_that_was_cut_anywhere_or_lies_about_its_header_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let tensor = Tensor::new(&[1.0_f32, 2.0, 3.0], &Device::Cpu).unwrap();
        write_file(&path, [("a", &tensor)]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for len in 0..bytes.len() {
            let cut = read_file(&file(folder.path(), &bytes[..len]));
            assert!(matches!(cut, Err(Error::TruncatedFile { found_bytes, .. }) if found_bytes == len as u64), "{len}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(matches!(read_file(&file(folder.path(), &longer)), Err(Error::TruncatedFile { .. })));
        let huge = [u64::MAX.to_le_bytes().as_slice(), &bytes[8..]].concat();
        assert!(matches!(read_file(&file(folder.path(), &huge)), Err(Error::BadTensorFile { .. })));
        let garbled = [&bytes[..8], &vec![b'?'; bytes.len() - 8]].concat();
        assert!(matches!(read_file(&file(folder.path(), &garbled)), Err(Error::BadTensorFile { .. })));
    }
}
