//! A decoder of any published architecture over weights that do not change, for asking.

use crate::architecture::{Activation, Architecture, HeadNorm, Norms};
use crate::config::ModelConfig;
use crate::next_token::{After, NextToken, Tokens, for_each_row};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use kernels::{KvCache, PackedWeight, TokenTree};
use std::collections::BTreeMap;

/// A decoder without gradient: one forward pass for all families, which differ in what [`Architecture`] says.
///
/// Matrices are laid out for products as they are taken over, and kept in no other form; a tied embedding table is read from
/// the output layer.
#[derive(Debug)]
pub struct FrozenDecoder {
    architecture: Architecture,
    /// None where it is the output layer.
    embed_tokens: Option<Tensor>,
    layers: Vec<Layer>,
    norm: Tensor,
    lm_head: PackedWeight,
}

#[derive(Debug)]
struct Layer {
    before_attention: Option<Tensor>,
    qkv: Linear,
    /// Of queries and of keys.
    head_norms: Option<(Tensor, Tensor)>,
    output: Linear,
    after_attention: Option<Tensor>,
    before_mlp: Option<Tensor>,
    gate_up: Linear,
    down: Linear,
    after_mlp: Option<Tensor>,
}

#[derive(Debug)]
struct Linear {
    weight: PackedWeight,
    bias: Option<Tensor>,
}

impl Linear {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.weight.apply(x)?;
        Ok(match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    }
}

impl FrozenDecoder {
    /// Takes over the tensors (f32, on the CPU) under Hugging Face's names.
    ///
    /// # Errors
    /// Where a tensor is missing, has no place, or has another shape than the architecture asks for.
    pub fn new(architecture: Architecture, tensors: Vec<(String, Tensor)>) -> Result<Self> {
        let mut given = Given::new(&architecture, tensors)?;
        let shape = &architecture.shape;
        let (vocab_size, d) = (shape.vocab_size, shape.hidden_size);
        let table = given.take("model.embed_tokens.weight", &[vocab_size, d])?;
        let (embed_tokens, lm_head) = if shape.tie_word_embeddings {
            (None, PackedWeight::new(&table)?)
        } else {
            (Some(table), PackedWeight::new(&given.take("lm_head.weight", &[vocab_size, d])?)?)
        };
        let layers =
            (0..shape.num_hidden_layers).map(|layer_idx| given.layer(layer_idx)).collect::<Result<Vec<_>>>()?;
        let norm = given.norm("model.norm", d)?;
        given.expect_none()?;
        Ok(Self { architecture, embed_tokens, layers, norm, lm_head })
    }

    /// What it computes.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Reads new tokens behind those a cache holds, and keeps them there: hidden states after the final norm.
    ///
    /// `rows[i]` is the cache row of token `i`; the tokens of one row stand next to each other. There is no padding, however
    /// much the rows differ in length.
    ///
    /// # Shapes
    /// `ids` and `rows` N, result (N, d).
    ///
    /// # Errors
    /// Where an id lies outside the vocabulary or a row would outgrow the cache.
    pub fn extend(&self, cache: &mut KvCache, ids: &[u32], rows: &[usize]) -> Result<Tensor> {
        self.architecture.shape.require_known(ids)?;
        let mut x = self.embed(ids)?; // (N, d)
        for (layer_idx, (layer, attention)) in self.layers.iter().zip(&self.architecture.attention).enumerate() {
            let qkv = layer.qkv.apply(&self.normalize(&x, layer.before_attention.as_ref())?)?;
            let qkv = match &layer.head_norms {
                Some(norms) => self.normalize_heads(&qkv, norms)?,
                None => qkv,
            };
            let heads = kernels::decode_attention(&qkv, attention, rows, cache, layer_idx)?;
            let added = self.normalize(&layer.output.apply(&heads)?, layer.after_attention.as_ref())?;
            x = (x + added)?;
            let gate_up = layer.gate_up.apply(&self.normalize(&x, layer.before_mlp.as_ref())?)?;
            let inner = match self.architecture.activation {
                Activation::Silu => kernels::swiglu(&gate_up)?,
                Activation::GeluTanh => kernels::geglu(&gate_up)?,
            };
            let added = self.normalize(&layer.down.apply(&inner)?, layer.after_mlp.as_ref())?;
            x = (x + added)?;
        }
        cache.advance(rows)?;
        self.normalize(&x, Some(&self.norm))
    }

    fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        let x = match &self.embed_tokens {
            Some(table) => kernels::embedding(&Tensor::from_slice(ids, ids.len(), &Device::Cpu)?, table)?,
            None => self.lm_head.rows(ids)?,
        };
        let scale = self.architecture.embedding_scale;
        Ok(if scale == 1.0 { x } else { (x * scale)? })
    }

    fn normalize(&self, x: &Tensor, weight: Option<&Tensor>) -> Result<Tensor> {
        match weight {
            Some(weight) => Ok(kernels::rms_norm(x, weight, self.architecture.shape.rms_norm_eps)?),
            None => Ok(x.clone()),
        }
    }

    /// Queries and keys normalised, values as they are: (N, (H + 2 KV) D) both.
    fn normalize_heads(&self, qkv: &Tensor, (of_queries, of_keys): &(Tensor, Tensor)) -> Result<Tensor> {
        let shape = &self.architecture.shape;
        let n_tokens = qkv.dim(0)?;
        let (q, kv) = (shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim);
        let normalized = |start: usize, width: usize, weight: &Tensor| {
            // One row for each norm: (N H, D) or (N, H D).
            let heads = qkv.narrow(1, start, width)?.reshape(((), weight.dim(0)?))?;
            Ok::<_, Error>(self.normalize(&heads, Some(weight))?.reshape((n_tokens, width))?)
        };
        let parts = [normalized(0, q, of_queries)?, normalized(q, kv, of_keys)?, qkv.narrow(1, q + kv, kv)?];
        Ok(Tensor::cat(&parts, 1)?)
    }
}

impl NextToken for FrozenDecoder {
    type Cache = KvCache;

    fn config(&self) -> &ModelConfig {
        &self.architecture.shape
    }

    fn numbers_per_token(&self) -> usize {
        let shape = &self.architecture.shape;
        2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim
    }

    fn new_cache(&self, n_rows: usize, max_len: usize) -> Result<KvCache> {
        let attention = &self.architecture.attention;
        // There is at least one layer, and heads are alike in all.
        Ok(KvCache::new(attention.len(), n_rows, max_len, &attention[0].shape))
    }

    fn read(
        &self,
        cache: &mut KvCache,
        tokens: &Tokens,
        after: After,
        mut see: impl FnMut(usize, &[f32]),
    ) -> Result<()> {
        let hidden = tokens.select(self.extend(cache, tokens.ids(), tokens.rows())?, after)?;
        for_each_row(&hidden, &self.lm_head, self.architecture.shape.vocab_size, |i, logits| {
            if let Some(cap) = self.architecture.final_soft_cap {
                kernels::soft_cap(logits, cap as f32);
            }
            see(i, logits);
        })
    }

    fn tree_cache(&self, tree: TokenTree) -> Result<Option<KvCache>> {
        Ok(Some(KvCache::of_tree(tree, &self.architecture.attention[0].shape)))
    }

    fn truncate(cache: &mut KvCache, row: usize, len: usize) -> Result<()> {
        Ok(cache.truncate(row, len)?)
    }

    fn copy_prefix(cache: &mut KvCache, from: usize, len: usize, to: &[usize]) -> Result<()> {
        Ok(cache.copy_prefix(from, len, to)?)
    }
}

/// The tensors of a model, each taken out as it finds its place.
struct Given<'a> {
    architecture: &'a Architecture,
    tensors: BTreeMap<String, Tensor>,
}

impl<'a> Given<'a> {
    fn new(architecture: &'a Architecture, tensors: Vec<(String, Tensor)>) -> Result<Self> {
        let mut by_name = BTreeMap::new();
        for (name, tensor) in tensors {
            let Some(name) = architecture.tensor_name(&name) else { continue };
            if by_name.contains_key(&name) {
                return Err(Error::UnexpectedTensor { name });
            }
            by_name.insert(name, tensor);
        }
        Ok(Self { architecture, tensors: by_name })
    }

    fn take(&mut self, name: &str, expected: &[usize]) -> Result<Tensor> {
        let Some(tensor) = self.tensors.remove(name) else {
            return Err(Error::MissingTensor { name: name.to_owned() });
        };
        if tensor.dims() != expected {
            let found = tensor.dims().to_vec();
            return Err(Error::ShapeMismatch { what: name.to_owned(), expected: expected.to_vec(), found });
        }
        Ok(tensor)
    }

    fn expect_none(mut self) -> Result<()> {
        match self.tensors.pop_first() {
            Some((name, _)) => Err(Error::UnexpectedTensor { name }),
            None => Ok(()),
        }
    }

    /// A norm's weight as it is multiplied with.
    fn norm(&mut self, name: &str, width: usize) -> Result<Tensor> {
        let weight = self.take(&format!("{name}.weight"), &[width])?;
        let offset = self.architecture.norm_offset;
        Ok(if offset == 0.0 { weight } else { (weight + offset)? })
    }

    /// Matrices over the same input, laid out as one: names and numbers of outputs.
    fn linear(&mut self, prefix: &str, parts: &[(&str, usize)], n_in: usize, has_bias: bool) -> Result<Linear> {
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for (name, n_out) in parts {
            weights.push(self.take(&format!("{prefix}.{name}.weight"), &[*n_out, n_in])?);
            if has_bias {
                biases.push(self.take(&format!("{prefix}.{name}.bias"), &[*n_out])?);
            }
        }
        let weight = PackedWeight::new(&Tensor::cat(&weights, 0)?)?;
        let bias = if has_bias { Some(Tensor::cat(&biases, 0)?) } else { None };
        Ok(Linear { weight, bias })
    }

    fn layer(&mut self, layer_idx: usize) -> Result<Layer> {
        let Architecture { shape, norms, head_norm, .. } = self.architecture;
        let (d, f, head_dim) = (shape.hidden_size, shape.intermediate_size, shape.head_dim);
        let (q, kv) = (shape.num_attention_heads * head_dim, shape.num_key_value_heads * head_dim);
        let prefix = format!("model.layers.{layer_idx}");
        let (attention, mlp) = (format!("{prefix}.self_attn"), format!("{prefix}.mlp"));
        // What a norm is called depends on which others there are.
        let names = match norms {
            Norms::Before => [Some("input_layernorm"), None, Some("post_attention_layernorm"), None],
            Norms::After => [None, Some("post_attention_layernorm"), None, Some("post_feedforward_layernorm")],
            Norms::Around => [
                Some("input_layernorm"),
                Some("post_attention_layernorm"),
                Some("pre_feedforward_layernorm"),
                Some("post_feedforward_layernorm"),
            ],
        };
        let mut norm = |name: Option<&str>| name.map(|name| self.norm(&format!("{prefix}.{name}"), d)).transpose();
        let [before_attention, after_attention, before_mlp, after_mlp] =
            [norm(names[0])?, norm(names[1])?, norm(names[2])?, norm(names[3])?];
        let widths = head_norm.map(|kind| match kind {
            HeadNorm::PerHead => (head_dim, head_dim),
            HeadNorm::FullWidth => (q, kv),
        });
        let head_norms = match widths {
            Some((of_queries, of_keys)) => Some((
                self.norm(&format!("{attention}.q_norm"), of_queries)?,
                self.norm(&format!("{attention}.k_norm"), of_keys)?,
            )),
            None => None,
        };
        let Architecture { qkv_bias, output_bias, mlp_bias, .. } = *self.architecture;
        let qkv = self.linear(&attention, &[("q_proj", q), ("k_proj", kv), ("v_proj", kv)], d, qkv_bias)?;
        let output = self.linear(&attention, &[("o_proj", d)], q, output_bias)?;
        let gate_up = self.linear(&mlp, &[("gate_proj", f), ("up_proj", f)], d, mlp_bias)?;
        let down = self.linear(&mlp, &[("down_proj", d)], f, mlp_bias)?;
        Ok(Layer { before_attention, qkv, head_norms, output, after_attention, before_mlp, gate_up, down, after_mlp })
    }
}
