//! Arguments of an instruction as they are written, read key by key.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::verifiable::Fault;

/// The arguments of an instruction as they are written; those of other instructions are left out or `null`.
pub type Arguments = BTreeMap<String, Value>;

/// Reads arguments and remembers which were asked for. Keys are written as in messages: `kwargs.N`.
pub(super) struct Reader<'a> {
    given: &'a Arguments,
    asked: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(given: &'a Arguments) -> Self {
        Self { given, asked: Vec::new() }
    }

    fn get(&mut self, key: &'static str) -> Result<&'a Value, Fault> {
        self.asked.push(key);
        let value = self.given.get(bare(key)).filter(|value| !value.is_null());
        value.ok_or_else(|| missing(key))
    }

    /// A text that is not empty.
    pub(super) fn text(&mut self, key: &'static str) -> Result<&'a str, Fault> {
        let value = self.get(key)?;
        let text = value.as_str().ok_or_else(|| Fault { key, reason: format!("is {value}, which is no text") })?;
        if text.is_empty() { Err(missing(key)) } else { Ok(text) }
    }

    /// A share in percent; a negative one counts as missing, as in the official scorer.
    pub(super) fn percentage(&mut self, key: &'static str) -> Result<f64, Fault> {
        let value = self.get(key)?;
        let number = value.as_f64().ok_or_else(|| Fault { key, reason: format!("is {value}, which is no number") })?;
        if number < 0.0 { Err(missing(key)) } else { Ok(number) }
    }

    /// A whole number, which the official file writes as `5.0`.
    pub(super) fn number(&mut self, key: &'static str) -> Result<usize, Fault> {
        let number = self.percentage(key)?;
        if number.fract() != 0.0 || number > f64::from(u32::MAX) {
            return Err(Fault { key, reason: format!("is {number}, which is no whole number") });
        }
        Ok(number as usize)
    }

    /// A whole number from 1.
    pub(super) fn position(&mut self, key: &'static str) -> Result<usize, Fault> {
        let number = self.number(key)?;
        if number == 0 { Err(Fault { key, reason: "is 0, but counting begins with 1".to_owned() }) } else { Ok(number) }
    }

    /// Whether every argument was asked for.
    pub(super) fn finish(self) -> Result<(), Fault> {
        let is_known = |name: &str| self.asked.iter().any(|key| bare(key) == name);
        let unknown = self.given.iter().find(|(name, value)| !value.is_null() && !is_known(name));
        unknown.map_or(Ok(()), |(name, _)| {
            Err(Fault { key: "kwargs", reason: format!("has {name:?}, which this instruction does not have") })
        })
    }
}

fn bare(key: &'static str) -> &'static str {
    key.strip_prefix("kwargs.").unwrap_or(key)
}

fn missing(key: &'static str) -> Fault {
    Fault { key, reason: "is missing or empty: the official scorer would draw it at random".to_owned() }
}
