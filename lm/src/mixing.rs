//! What two models must share for others to lie between them, and the key of one that does.

use crate::config::ModelConfig;
use crate::tensors::hexadecimal;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// Checks that configs and tokenizers of a reference and an aligned model are the same in all that an answer depends on, and that
/// `lambda` is a place on the line from the one to the other or beyond.
///
/// # Errors
/// [`Error::NotAlike`] with the key or file that differs, [`Error::BadLambda`].
pub(crate) fn check(configs: [&ModelConfig; 2], tokenizers: [&Tokenizer; 2], lambda: f64) -> Result<()> {
    if !(lambda.is_finite() && lambda >= 0.0) {
        return Err(Error::BadLambda { lambda });
    }
    match difference_of_configs(configs).or_else(|| difference_of_tokenizers(tokenizers)) {
        Some(difference) => Err(Error::NotAlike { difference }),
        None => Ok(()),
    }
}

/// SHA-256 over how models are mixed, and over the weight and the own key of each in their order.
pub(crate) fn fingerprint(kind: &str, parts: &[(f64, &str)]) -> String {
    let mut hasher = Sha256::new();
    let mut put = |text: &str| {
        // Lengths before each part keep the parts apart.
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    };
    put(kind);
    for (weight, key) in parts {
        put(key);
        // Both zeros are one weight.
        put(&(weight + 0.0).to_string());
    }
    hexadecimal(&hasher.finalize())
}

/// Keys of a config that no answer depends on.
const IRRELEVANT: [&str; 2] = ["initializer_range", "pad_token_id"];

fn difference_of_configs(configs: [&ModelConfig; 2]) -> Option<String> {
    let [reference, aligned] = configs.map(|config| {
        let text = config.to_json("LlamaForCausalLM");
        serde_json::from_str::<Map<String, Value>>(&text).expect("a config is written as an object")
    });
    let mut keys = reference.keys().chain(aligned.keys()).filter(|key| !IRRELEVANT.contains(&key.as_str()));
    let key = keys.find(|&key| reference.get(key) != aligned.get(key))?;
    let [reference, aligned] = [&reference, &aligned].map(|config| config.get(key).unwrap_or(&Value::Null).to_string());
    Some(format!("`{key}` is {reference} in the reference and {aligned} in the aligned model"))
}

fn difference_of_tokenizers(tokenizers: [&Tokenizer; 2]) -> Option<String> {
    let [reference, aligned] = tokenizers.map(Tokenizer::files);
    let name = reference.keys().chain(aligned.keys()).find(|&name| reference.get(name) != aligned.get(name))?;
    Some(format!("{name} of their tokenizers differs"))
}

#[cfg(test)]
mod tests {
    use super::fingerprint;

    #[test]
    fn fingerprints_tell_kind_parents_their_order_and_weights_apart() {
        let keys = [
            fingerprint("realigned", &[(0.5, "a"), (0.5, "b")]),
            fingerprint("interpolated", &[(0.5, "a"), (0.5, "b")]),
            fingerprint("realigned", &[(0.5, "b"), (0.5, "a")]),
            fingerprint("realigned", &[(0.5, "a"), (0.5, "c")]),
            fingerprint("realigned", &[(0.5, "ab"), (0.5, "")]),
            fingerprint("realigned", &[(0.5, "a"), (0.5 + f64::EPSILON, "b")]),
        ];
        for (idx, key) in keys.iter().enumerate() {
            assert_eq!(key.len(), 64);
            assert!(!keys[..idx].contains(key), "{idx}");
        }
        assert_eq!(keys[0], fingerprint("realigned", &[(0.5, "a"), (0.5, "b")]));
        assert_eq!(fingerprint("realigned", &[(0.0, "a")]), fingerprint("realigned", &[(-0.0, "a")]));
    }
}
