//! The fixture that `tests/peers/make_families.py` makes.

use candle_core::{Device, Tensor};
use lm::{Architecture, FrozenDecoder};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
}

/// What transformers made of one tiny model.
#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// `config.json`, as transformers wrote it.
    pub(crate) config: serde_json::Value,
    /// Names and shapes, as transformers wrote them.
    pub(crate) tensors: BTreeMap<String, Vec<usize>>,
    /// A sequence, (T).
    pub(crate) ids: Vec<u32>,
    /// Logits after each token of it, (T, V).
    pub(crate) logits: Vec<Vec<f32>>,
    /// What follows its first 9 tokens.
    pub(crate) greedy: Vec<u32>,
}

pub(crate) fn cases() -> Vec<Case> {
    let fixture: Fixture = serde_json::from_str(include_str!("families.json")).unwrap();
    assert_eq!(fixture.cases.len(), 16);
    fixture.cases
}

impl Case {
    pub(crate) fn architecture(&self) -> Architecture {
        Architecture::parse(&self.config.to_string(), Path::new("config.json")).unwrap()
    }

    pub(crate) fn tensors(&self) -> Vec<(String, Tensor)> {
        let model_type = self.config["model_type"].as_str().unwrap();
        self.tensors.iter().map(|(name, shape)| (name.clone(), draw(name, shape, model_type))).collect()
    }

    pub(crate) fn decoder(&self) -> FrozenDecoder {
        FrozenDecoder::new(self.architecture(), self.tensors()).unwrap()
    }
}

/// `draw` of the script.
fn draw(name: &str, shape: &[usize], model_type: &str) -> Tensor {
    let mut state = 0xCBF2_9CE4_8422_2325_u64;
    for byte in name.bytes() {
        state = (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
    }
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let value = (state >> 11) as f64 / (1_u64 << 53) as f64 * 2.0 - 1.0;
        let value = if name.ends_with("norm.weight") {
            1.0 + 0.5 * value
        } else if name.ends_with("embed_tokens.weight") {
            value * if model_type.starts_with("gemma") { 0.25 } else { 1.0 }
        } else if shape.len() == 2 {
            value * 2.0 / (shape[1] as f64).sqrt()
        } else {
            value
        };
        value as f32
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}
