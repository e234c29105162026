//! Typed look-up in a GGUF file's metadata that names file, key and value when it fails.

use crate::{Error, Result};
use candle_core::quantized::gguf_file::Value;
use std::collections::HashMap;
use std::path::Path;

/// The metadata of one file.
pub(super) struct Metadata<'a> {
    pub(super) path: &'a Path,
    values: &'a HashMap<String, Value>,
    /// The name of the architecture, which begins the keys of its own.
    pub(super) architecture: &'a str,
}

impl<'a> Metadata<'a> {
    /// Takes the metadata of a file that holds a whole model.
    pub(super) fn new(path: &'a Path, values: &'a HashMap<String, Value>) -> Result<Self> {
        let mut metadata = Self { path, values, architecture: "" };
        metadata.architecture = metadata.text("general.architecture")?.ok_or_else(|| missing(path, ARCHITECTURE))?;
        if let Some(kind) = metadata.text("general.type")?.filter(|&kind| kind != "model") {
            return Err(metadata.refuse("general.type", kind, "only `model`"));
        }
        if let Some(parts) = metadata.whole("split.count")?.filter(|&parts| parts > 1) {
            let supported = "one file: join the parts with `llama-gguf-split --merge`";
            return Err(metadata.refuse("split.count", parts, supported));
        }
        Ok(metadata)
    }

    /// A key of the architecture, such as `block_count`, as it stands in the file.
    pub(super) fn own_key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    pub(super) fn refuse(&self, key: &str, value: impl std::fmt::Display, supported: impl Into<String>) -> Error {
        let mut value = value.to_string();
        if value.len() > LONGEST_SHOWN {
            value = value.chars().take(LONGEST_SHOWN).chain(['…']).collect();
        }
        Error::BadConfig { path: self.path.to_owned(), key: key.to_owned(), value, supported: supported.into() }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.read(key, "it must be a text", |value| value.to_string().ok().map(String::as_str))
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "it must be true or false", |value| value.to_bool().ok())
    }

    pub(super) fn whole(&self, key: &str) -> Result<Option<u64>> {
        self.read(key, "it must be a whole number", whole)
    }

    /// A size of the architecture, which must be there.
    pub(super) fn own_size(&self, key: &str) -> Result<usize> {
        let key = self.own_key(key);
        self.size(&key)?.ok_or_else(|| missing(self.path, &key))
    }

    /// A positive whole number.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>> {
        let positive = |value: &Value| whole(value).and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
        self.read(key, "it must be one positive whole number", positive)
    }

    /// A token's id.
    pub(super) fn id(&self, key: &str) -> Result<Option<u32>> {
        self.read(key, "it must be a token id", |value| whole(value).and_then(|id| u32::try_from(id).ok()))
    }

    /// A finite positive number of the architecture.
    pub(super) fn own_number(&self, key: &str) -> Result<Option<f64>> {
        let positive = |value: &Value| number(value).filter(|&x| x.is_finite() && x > 0.0);
        self.read(&self.own_key(key), "it must be a positive number", positive)
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        self.list(key, "it must be a list of texts", |value| value.to_string().ok().map(String::as_str))
    }

    pub(super) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.list(key, "it must be a list of numbers", number)
    }

    pub(super) fn wholes(&self, key: &str) -> Result<Option<Vec<u64>>> {
        self.list(key, "it must be a list of whole numbers", whole)
    }

    /// One whole number, or one flag for each layer.
    pub(super) fn period_or_flags(&self, key: &str) -> Result<Option<PeriodOrFlags>> {
        self.read(key, "it must be a whole number or a flag for each layer", |value| match value {
            Value::Array(values) => {
                let flag = |value: &Value| value.to_bool().ok().or_else(|| whole(value).map(|n| n != 0));
                values.iter().map(flag).collect::<Option<_>>().map(PeriodOrFlags::Flags)
            }
            one => whole(one).map(PeriodOrFlags::Period),
        })
    }

    fn list<T>(&self, key: &str, supported: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<Vec<T>>> {
        self.read(key, supported, |value| value.to_vec().ok()?.iter().map(&read).collect())
    }

    fn read<T>(&self, key: &str, supported: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.refuse(key, describe(value), supported))
    }
}

/// How a file says which layers see a window only.
pub(super) enum PeriodOrFlags {
    /// All but the last of each so many.
    Period(u64),
    /// True for those that do.
    Flags(Vec<bool>),
}

const ARCHITECTURE: &str = "general.architecture";
const LONGEST_SHOWN: usize = 60;

/// That a key is not there.
pub(super) fn missing(path: &Path, key: &str) -> Error {
    Error::MissingKey { path: path.to_owned(), key: key.to_owned() }
}

fn whole(value: &Value) -> Option<u64> {
    match *value {
        Value::I8(n) => u64::try_from(n).ok(),
        Value::I16(n) => u64::try_from(n).ok(),
        Value::I32(n) => u64::try_from(n).ok(),
        Value::I64(n) => u64::try_from(n).ok(),
        Value::Bool(_) => None,
        ref other => other.to_u64().ok(),
    }
}

/// An f32 is read as the shortest decimal that it is the nearest f32 to: what `config.json` had before it was stored.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::F32(x) => x.to_string().parse().ok(),
        Value::F64(x) => Some(*x),
        other => whole(other).map(|n| n as f64),
    }
}

/// A value as shown in an error; a list is shown by its length.
fn describe(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Array(values) => format!("[{} values]", values.len()),
        Value::Bool(flag) => flag.to_string(),
        other => number(other).map_or_else(|| format!("{other:?}"), |x| x.to_string()),
    }
}
