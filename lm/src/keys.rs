//! Typed look-up in a JSON object of settings that names file, key and value when it fails.

use crate::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// The settings of a file, or a section of them. A key that is `null` counts as absent.
#[derive(Debug, Clone)]
pub(crate) struct Keys<'a> {
    path: &'a Path,
    /// What stands before the keys of a section where they are named: `rope_scaling.`
    prefix: String,
    object: Map<String, Value>,
}

impl<'a> Keys<'a> {
    /// The settings that `text` holds; `path` is named in errors.
    pub(crate) fn parse(text: &str, path: &'a Path) -> Result<Self> {
        let object = serde_json::from_str(text).map_err(|source| Error::BadJson { path: path.to_owned(), source })?;
        Ok(Self { path, prefix: String::new(), object })
    }

    /// The same settings with others for keys that are absent; one that is `null` stays so.
    pub(crate) fn with_defaults(mut self, defaults: impl IntoIterator<Item = (String, Value)>) -> Self {
        for (key, value) in defaults {
            self.object.entry(key).or_insert(value);
        }
        self
    }

    /// The file.
    pub(crate) fn path(&self) -> &'a Path {
        self.path
    }

    /// The value of a key, unless it is absent.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.object.is_empty()
    }

    /// The object under a key, unless it is absent.
    pub(crate) fn section(&self, key: &str) -> Result<Option<Self>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let Some(object) = value.as_object() else { return Err(self.refuse(key, value, "it must be an object")) };
        Ok(Some(Self { path: self.path, prefix: format!("{}{key}.", self.prefix), object: object.clone() }))
    }

    /// The error that `value` is not supported, and what would be.
    pub(crate) fn refuse(&self, key: &str, value: &Value, supported: impl Into<String>) -> Error {
        Error::BadConfig {
            path: self.path.to_owned(),
            key: format!("{}{key}", self.prefix),
            value: value.to_string(),
            supported: supported.into(),
        }
    }

    /// The error that a key is absent.
    pub(crate) fn missing(&self, key: &str) -> Error {
        Error::MissingKey { path: self.path.to_owned(), key: format!("{}{key}", self.prefix) }
    }

    /// Checks that a key has one of the values `allowed`; where it is absent it has the value `default`.
    pub(crate) fn expect(&self, key: &str, default: &Value, allowed: &[Value]) -> Result<()> {
        let value = self.get(key).unwrap_or(default);
        if allowed.contains(value) {
            return Ok(());
        }
        let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
        Err(self.refuse(key, value, format!("only {}", allowed.join(" or "))))
    }

    /// A size that has no default.
    pub(crate) fn size(&self, key: &str) -> Result<usize> {
        let Some(value) = self.get(key) else { return Err(self.missing(key)) };
        value
            .as_u64()
            .filter(|&n| n > 0)
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| self.refuse(key, value, "it must be a positive whole number"))
    }

    /// A number of things, perhaps none, that has no default.
    pub(crate) fn count(&self, key: &str) -> Result<usize> {
        let Some(value) = self.get(key) else { return Err(self.missing(key)) };
        value
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| self.refuse(key, value, "it must be a whole number"))
    }

    /// A size.
    pub(crate) fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        if self.get(key).is_some() { self.size(key) } else { Ok(default) }
    }

    /// A positive number, unless it is absent.
    pub(crate) fn positive_if_given(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64().filter(|&x| x.is_finite() && x > 0.0) {
            Some(number) => Ok(Some(number)),
            None => Err(self.refuse(key, value, "it must be a positive number")),
        }
    }

    /// A positive number.
    pub(crate) fn positive(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.positive_if_given(key)?.unwrap_or(default))
    }

    /// True or false.
    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.refuse(key, value, "it must be true or false"))
    }

    /// One id or a list of ids; absent is an empty list.
    pub(crate) fn ids(&self, key: &str) -> Result<Vec<u32>> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match value {
            Value::Array(values) => values.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        }
        .ok_or_else(|| self.refuse(key, value, "it must be a token id or a list of them"))
    }
}
