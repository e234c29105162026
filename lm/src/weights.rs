//! The parameters of a model: an ordered list of named tensors.

use crate::config::ModelConfig;
use crate::random;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use rand::Rng;
use std::f64::consts::TAU;

/// The parameters of a decoder under Hugging Face's names, in the order in which the forward pass meets them.
///
/// Cloning shares storage. The tensors may be variables, which makes the forward pass differentiable.
#[derive(Debug, Clone)]
pub struct Weights {
    tensors: Vec<(String, Tensor)>,
}

impl Weights {
    /// Draws fresh weights: normal with standard deviation `initializer_range`, norms at one.
    ///
    /// The two projections that write into the residual stream of a layer are scaled by `1 / sqrt(2 L)`, so that its variance
    /// does not grow with depth. Each tensor has a random stream of its own, so that one size changed leaves the others as they are.
    ///
    /// # Errors
    /// Where a tensor cannot be allocated.
    ///
    /// # Reference
    /// Radford et al. 2019, Language Models are Unsupervised Multitask Learners, section 2.3 (scaling by depth).
    pub fn random(config: &ModelConfig, seed: u64) -> Result<Self> {
        let residual_scale = 1.0 / (2.0 * config.num_hidden_layers as f64).sqrt();
        let draw = |(name, shape): (String, Vec<usize>)| {
            let n = shape.iter().product();
            let values = if name.ends_with("norm.weight") {
                vec![1.0; n]
            } else {
                let is_residual = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
                let scale = if is_residual { residual_scale } else { 1.0 };
                draw_normal(seed, &name, n, config.initializer_range * scale)
            };
            Ok((name, Tensor::from_vec(values, shape, &Device::Cpu)?))
        };
        let tensors = Self::layout(config).into_iter().map(draw).collect::<Result<_>>()?;
        Ok(Self { tensors })
    }

    /// Puts named tensors in order and checks them against the config.
    ///
    /// # Errors
    /// Where a tensor is missing, has no place, or has another shape than the config asks for.
    pub fn from_tensors(config: &ModelConfig, tensors: Vec<(String, Tensor)>) -> Result<Self> {
        let mut given = std::collections::BTreeMap::new();
        for (name, tensor) in tensors {
            if given.contains_key(&name) {
                return Err(Error::UnexpectedTensor { name });
            }
            given.insert(name, tensor);
        }
        let mut ordered = Vec::new();
        for (name, expected) in Self::layout(config) {
            let Some(tensor) = given.remove(&name) else { return Err(Error::MissingTensor { name }) };
            if tensor.dims() != expected {
                return Err(Error::ShapeMismatch { what: name, expected, found: tensor.dims().to_vec() });
            }
            ordered.push((name, tensor));
        }
        if let Some((name, _)) = given.pop_first() {
            return Err(Error::UnexpectedTensor { name });
        }
        Ok(Self { tensors: ordered })
    }

    /// Names and shapes of the parameters of a config, in order.
    pub fn layout(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
        let d = config.hidden_size;
        let f = config.intermediate_size;
        let q = config.num_attention_heads * config.head_dim;
        let kv = config.num_key_value_heads * config.head_dim;
        let mut layout = vec![("model.embed_tokens.weight".to_owned(), vec![config.vocab_size, d])];
        for layer_idx in 0..config.num_hidden_layers {
            for (name, shape) in [
                ("input_layernorm", vec![d]),
                ("self_attn.q_proj", vec![q, d]),
                ("self_attn.k_proj", vec![kv, d]),
                ("self_attn.v_proj", vec![kv, d]),
                ("self_attn.o_proj", vec![d, q]),
                ("post_attention_layernorm", vec![d]),
                ("mlp.gate_proj", vec![f, d]),
                ("mlp.up_proj", vec![f, d]),
                ("mlp.down_proj", vec![d, f]),
            ] {
                layout.push((format!("model.layers.{layer_idx}.{name}.weight"), shape));
            }
        }
        layout.push(("model.norm.weight".to_owned(), vec![d]));
        if !config.tie_word_embeddings {
            layout.push(("lm_head.weight".to_owned(), vec![config.vocab_size, d]));
        }
        layout
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|(own, _)| own == name).map(|(_, tensor)| tensor)
    }

    /// Names and tensors, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Names and tensors, in order.
    pub(crate) fn into_named(self) -> Vec<(String, Tensor)> {
        self.tensors
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Number of parameters, over all tensors.
    pub fn n_parameters(&self) -> usize {
        self.tensors.iter().map(|(_, tensor)| tensor.elem_count()).sum()
    }

    /// A copy with storage of its own and no gradients: later updates of the original do not reach it.
    ///
    /// # Errors
    /// Where a tensor cannot be allocated.
    pub fn snapshot(&self) -> Result<Self> {
        self.map(|tensor| Ok(tensor.detach().copy()?.detach()))
    }

    /// The same weights in another number format.
    ///
    /// # Errors
    /// Where a tensor cannot be allocated.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        self.map(|tensor| Ok(tensor.to_dtype(dtype)?))
    }

    /// Each tensor replaced by `change` of it, names and order kept.
    ///
    /// # Errors
    /// The first error of `change`.
    pub fn map(&self, mut change: impl FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let tensors =
            self.tensors.iter().map(|(name, tensor)| Ok((name.clone(), change(tensor)?))).collect::<Result<_>>()?;
        Ok(Self { tensors })
    }
}

/// Standard normal draws by the Box-Muller transform, times `std`.
fn draw_normal(seed: u64, name: &str, n: usize, std: f64) -> Vec<f32> {
    let mut stream = random::stream(seed, &format!("init/{name}"), 0);
    let mut values = Vec::with_capacity(n + 1);
    while values.len() < n {
        // 1 - u lies in (0, 1], where the logarithm is finite.
        let radius = std * (-2.0 * (1.0 - stream.random::<f64>()).ln()).sqrt();
        let angle = TAU * stream.random::<f64>();
        values.push((radius * angle.cos()) as f32);
        values.push((radius * angle.sin()) as f32);
    }
    values.truncate(n);
    values
}

#[cfg(test)]
mod tests {
    use super::Weights;
    use crate::Error;
    use crate::decoder::tests::tiny_config;

    fn values(weights: &Weights, name: &str) -> Vec<f32> {
        weights.get(name).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn one_seed_gives_one_model() {
        let config = tiny_config();
        let name = "model.layers.0.self_attn.q_proj.weight";
        let draw = |seed| values(&Weights::random(&config, seed).unwrap(), name);
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn draws_have_the_deviation_asked_for() {
        let config = crate::ModelConfig { hidden_size: 64, intermediate_size: 256, ..tiny_config() };
        let weights = Weights::random(&config, 3).unwrap();
        let deviation = |name| {
            let values = values(&weights, name);
            (values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
        };
        assert!((deviation("model.layers.0.mlp.up_proj.weight") / 0.02 - 1.0).abs() < 0.03);
        assert!((deviation("model.layers.0.mlp.down_proj.weight") / 0.01 - 1.0).abs() < 0.03);
        assert_eq!(deviation("model.norm.weight"), 1.0);
    }

    #[test]
    fn missing_unknown_misshapen_and_doubled_tensors_are_named() {
        let config = tiny_config();
        let all: Vec<_> = {
            let weights = Weights::random(&config, 1).unwrap();
            weights.iter().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect()
        };
        let mut few = all.clone();
        few.remove(3);
        assert!(
            matches!(Weights::from_tensors(&config, few), Err(Error::MissingTensor { name }) if name.contains("k_proj"))
        );
        let mut many = all.clone();
        many.push(("score.weight".to_owned(), all[0].1.clone()));
        assert!(
            matches!(Weights::from_tensors(&config, many), Err(Error::UnexpectedTensor { name }) if name == "score.weight")
        );
        let mut doubled = all.clone();
        doubled.push(all[0].clone());
        assert!(matches!(Weights::from_tensors(&config, doubled), Err(Error::UnexpectedTensor { .. })));
        let mut misshapen = all.clone();
        misshapen[0].1 = misshapen[0].1.t().unwrap();
        assert!(matches!(Weights::from_tensors(&config, misshapen), Err(Error::ShapeMismatch { .. })));
        let mut reversed = all;
        reversed.reverse();
        let ordered = Weights::from_tensors(&config, reversed).unwrap();
        assert_eq!(ordered.iter().next().unwrap().0, "model.embed_tokens.weight");
    }
}
