//! The forward pass: a Llama-style decoder.

use crate::batch::Batch;
use crate::block::{Block, Table};
use crate::config::ModelConfig;
use crate::generation::choose;
use crate::next_token::{for_each_row, judge};
use crate::weights::Weights;
use crate::{Error, Result};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use kernels::{
    AttentionBlockSpec, AttentionSpec, DecodeLayer, Draw, FeedForwardSpec, HandedOver, KvCache, LayersSpec,
    PackedWeight, TokenLogProb, TokenTree,
};
use std::sync::Arc;

/// A Llama-style decoder over given weights; differentiable where these are variables.
///
/// # Reference
/// Touvron et al. 2023, LLaMA, arXiv 2302.13971, section 2.2; with grouped-query attention as in Ainslie et al. 2023, arXiv 2305.13245.
#[derive(Debug, Clone)]
pub struct Decoder {
    config: ModelConfig,
    embed_tokens: Arc<Table>,
    layers: Vec<Layer>,
    norm: Tensor,
    /// The embedding table where the two are tied.
    lm_head: Arc<Table>,
    /// What activations are in; on a GPU it may be narrower than the weights.
    compute: DType,
    attention: AttentionBlockSpec,
    feed_forward: FeedForwardSpec,
    /// Gradients of the layers' weights that are not in candle's graph.
    handed_over: HandedOver,
}

/// Weights of one layer, block by block.
#[derive(Debug, Clone)]
struct Layer {
    attention: Block,
    feed_forward: Block,
}

impl Decoder {
    /// Assembles the decoder.
    ///
    /// Weights that are not variables are joined here once: the decoder does not follow when their storage changes later.
    ///
    /// # Errors
    /// Where a tensor is missing or has another shape than the config asks for.
    pub fn new(config: &ModelConfig, weights: &Weights) -> Result<Self> {
        Self::assemble(config, weights.clone(), |table| Ok(Table::new(table)), |parts| Block::new(&parts))
    }

    /// Assembles the same from copies of weights on the CPU that are laid out for decoding alone: each original is let go as its copy
    /// is made, so that a model that is only asked lies in memory once.
    ///
    /// The differentiable [`Decoder::forward`] works too, but lays the weights out anew in each pass.
    ///
    /// # Errors
    /// As [`Decoder::new`], and where a weight is not f32.
    pub fn for_decoding(config: &ModelConfig, weights: Weights) -> Result<Self> {
        let block = |parts: Vec<Tensor>| Block::for_decoding(&parts);
        let mut decoder = Self::assemble(config, weights, |table| Table::for_decoding(&table), block)?;
        decoder.norm = decoder.norm.detach().copy()?;
        Ok(decoder)
    }

    fn assemble(
        config: &ModelConfig,
        weights: Weights,
        table: impl Fn(Tensor) -> Result<Table>,
        block: impl Fn(Vec<Tensor>) -> Result<Block>,
    ) -> Result<Self> {
        config.check("config.json".as_ref())?;
        let mut tensors =
            Weights::from_tensors(config, weights.into_named())?.into_named().into_iter().map(|(_, it)| it);
        let mut take = || tensors.next().expect("the weights were checked against the same layout");
        let embed_tokens = take();
        let compute = embed_tokens.dtype();
        let embed_tokens = Arc::new(table(embed_tokens)?);
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for _ in 0..config.num_hidden_layers {
            // Norm, queries, keys, values, output; norm, gate, up, down.
            layers.push(Layer {
                attention: block(vec![take(), take(), take(), take(), take()])?,
                feed_forward: block(vec![take(), take(), take(), take()])?,
            });
        }
        let norm = take();
        let lm_head = if config.tie_word_embeddings { Arc::clone(&embed_tokens) } else { Arc::new(table(take())?) };
        let (width, eps) = (config.hidden_size, config.rms_norm_eps);
        let attention = AttentionSpec {
            n_heads: config.num_attention_heads,
            n_kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            rope_theta: config.rope_theta,
        };
        Ok(Self {
            config: config.clone(),
            embed_tokens,
            layers,
            norm,
            lm_head,
            compute,
            attention: AttentionBlockSpec { width, eps, attention, recomputes: false },
            feed_forward: FeedForwardSpec { width, inner: config.intermediate_size, eps, recomputes: false },
            handed_over: HandedOver::default(),
        })
    }

    /// The same decoder with activations in `dtype`, for weights on a GPU: f32, or bf16, in which products are many times
    /// faster; sums, norms, the loss and the gradients of f32 weights are in f32 either way.
    #[must_use]
    pub fn computing_in(mut self, dtype: DType) -> Self {
        self.compute = dtype;
        self
    }

    /// The same decoder with activations computed again in the backward pass rather than kept for it: less memory, more time, and the
    /// same gradients to the last bit.
    #[must_use]
    pub fn recomputing(mut self, recomputes: bool) -> Self {
        self.attention.recomputes = recomputes;
        self.feed_forward.recomputes = recomputes;
        self
    }

    /// A copy on a device, without gradients, with activations in f32; on the CPU its weights are not laid out for decoding before they
    /// are needed.
    ///
    /// # Errors
    /// Where memory for it lacks there.
    pub fn on(&self, device: &Device) -> Result<Self> {
        let table = |table: &Table| Ok::<_, Error>(Arc::new(Table::new(table.lying()?.detach().to_device(device)?)));
        let embed_tokens = table(&self.embed_tokens)?;
        let lm_head = if Arc::ptr_eq(&self.embed_tokens, &self.lm_head) {
            Arc::clone(&embed_tokens)
        } else {
            table(&self.lm_head)?
        };
        let layer = |layer: &Layer| -> Result<Layer> {
            Ok(Layer { attention: layer.attention.on(device)?, feed_forward: layer.feed_forward.on(device)? })
        };
        Ok(Self {
            embed_tokens,
            lm_head,
            layers: self.layers.iter().map(layer).collect::<Result<_>>()?,
            norm: self.norm.detach().to_device(device)?,
            compute: DType::F32,
            ..self.clone()
        })
    }

    /// Where its weights are.
    pub fn device(&self) -> &Device {
        self.norm.device()
    }

    /// What activations are in.
    pub fn compute_dtype(&self) -> DType {
        self.compute
    }

    /// The shape of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The output layer's weight, (V, d); the embedding table where the two are tied.
    pub fn lm_head(&self) -> &Tensor {
        self.lm_head.lying().expect("a table that is packed can be unpacked")
    }

    /// Hidden states after the final norm.
    ///
    /// # Shapes
    /// (B, T) ids to (B, T, d). Rows of padding hold values without meaning.
    ///
    /// # Errors
    /// Where a row is longer than the context window or an id lies outside the vocabulary.
    pub fn forward(&self, batch: &Batch) -> Result<Tensor> {
        self.config.require_fit("a row of the batch", batch.row_len())?;
        let mut x = kernels::embedding_as(batch.ids(), self.embed_tokens.lying()?, self.compute)?; // (B, T, d)
        if let Some(halves) = self.parts_on_gpu() {
            x = kernels::layers_of_parts(&x, &halves, &self.layers_spec(), batch.segments(), &self.handed_over)?;
        } else {
            for layer in &self.layers {
                x = kernels::attention_block(&x, &layer.attention.join()?, &self.attention, batch.segments())?;
                x = kernels::feed_forward(&x, &layer.feed_forward.join()?, &self.feed_forward)?;
            }
        }
        Ok(kernels::rms_norm(&x, &self.norm, self.config.rms_norm_eps)?)
    }

    /// The gradients of a loss that was computed from what [`Decoder::forward`] made.
    ///
    /// To be called instead of the tensor's own `backward`: where weights learn on a GPU, the layers hand their gradients over beside
    /// candle's graph.
    ///
    /// # Errors
    /// Where a gradient cannot be computed.
    pub fn backward(&self, loss: &Tensor) -> Result<GradStore> {
        // What another backward pass may have left is not of this loss.
        drop(self.handed_over.take());
        let mut found = loss.backward()?;
        let parts = self.parts_on_gpu().unwrap_or_default().concat();
        for all in self.handed_over.take() {
            let mut start = 0;
            for part in &parts {
                let n = part.elem_count();
                let gradient = all.narrow(0, start, n)?.reshape(part.shape())?;
                start += n;
                let sum = match found.remove(part) {
                    Some(known) => (known + gradient)?,
                    None => gradient,
                };
                found.insert(part, sum);
            }
        }
        Ok(found)
    }

    fn layers_spec(&self) -> LayersSpec {
        LayersSpec { n_layers: self.layers.len(), attention: self.attention, feed_forward: self.feed_forward }
    }

    /// The weights of each half of each layer, where they learn on a GPU.
    fn parts_on_gpu(&self) -> Option<Vec<&[Tensor]>> {
        if !self.norm.device().is_cuda() {
            return None;
        }
        let blocks = self.layers.iter().flat_map(|layer| [&layer.attention, &layer.feed_forward]);
        let halves = blocks.map(|block| match block {
            Block::Parts(parts) => Some(parts.as_slice()),
            Block::Whole { .. } | Block::Packed(_) => None,
        });
        halves.collect()
    }

    /// An empty cache for [`Decoder::extend`], of `n_rows` sequences of up to `max_len` tokens.
    ///
    /// # Errors
    /// Where memory for it lacks, or the weights are not f32 on the CPU.
    pub fn new_cache(&self, n_rows: usize, max_len: usize) -> Result<KvCache> {
        let place = (self.norm.device(), self.compute);
        Ok(KvCache::on(place, self.layers.len(), n_rows, max_len, &self.attention.attention)?)
    }

    /// A place for [`Decoder::extend`] to read a tree of tokens in one call; none on a GPU.
    pub(crate) fn tree_cache(&self, tree: TokenTree) -> Option<KvCache> {
        self.norm.device().is_cpu().then(|| KvCache::of_tree(tree, &self.attention.attention))
    }

    /// Reads new tokens behind those a cache holds, and keeps them there: hidden states after the final norm, without gradient.
    ///
    /// `rows[i]` is the cache row of token `i`; the tokens of one row stand next to each other. There is no padding, however
    /// much the rows differ in length.
    ///
    /// # Shapes
    /// `ids` and `rows` N, result (N, d).
    ///
    /// # Errors
    /// Where an id lies outside the vocabulary, a row would outgrow the cache, or the weights are not f32.
    pub fn extend(&self, cache: &mut KvCache, ids: &[u32], rows: &[usize]) -> Result<Tensor> {
        self.config.require_known(ids)?;
        let eps = self.config.rms_norm_eps;
        let x = self.embed_tokens.rows(ids)?.to_dtype(self.compute)?; // (N, d)
        let spec = self.layers_spec();
        let (attention, d, f) = (&spec.attention.attention, spec.feed_forward.width, spec.feed_forward.inner);
        let packed = |layer: &Layer| {
            let (qkv, output) = ((attention.qkv_width(), d), (d, attention.output_width()));
            let first = layer.attention.packed(qkv, output, self.compute)?;
            Ok::<_, Error>((first, layer.feed_forward.packed((2 * f, d), (d, f), self.compute)?))
        };
        let packed = self.layers.iter().map(packed).collect::<Result<Vec<_>>>()?;
        let layers = packed.iter().map(|(attention, feed_forward)| DecodeLayer {
            attention_norm: &attention.norm,
            qkv: &attention.first,
            output: &attention.second,
            feed_forward_norm: &feed_forward.norm,
            gate_up: &feed_forward.first,
            down: &feed_forward.second,
        });
        let layers: Vec<DecodeLayer> = layers.collect();
        let x = kernels::decode_layers(&x, &layers, &spec, rows, cache)?;
        cache.advance(rows)?;
        Ok(kernels::rms_norm(&x, &self.norm.detach(), eps)?)
    }

    /// Calls `read(row_idx, logits)` for each row of hidden states (N, d), holding few rows of logits at a time.
    ///
    /// # Errors
    /// Where the shapes do not fit or the weights are not f32.
    pub(crate) fn for_each_logits(&self, hidden: &Tensor, mut read: impl FnMut(usize, &[f32])) -> Result<()> {
        for_each_row(hidden, &*self.packed_lm_head()?, self.config.vocab_size, |i, logits| read(i, logits))
    }

    /// Chooses what comes after hidden states (N, d): for each pick, a row (never falling along the picks) and how to choose.
    pub(crate) fn choose_after(&self, hidden: &Tensor, picks: &[(usize, Draw)]) -> Result<Vec<(u32, f32)>> {
        let mut chosen = Vec::with_capacity(picks.len());
        if hidden.device().is_cuda() {
            // Logits stay where they are.
            const CHUNK_ROWS: usize = 1_024;
            for start in (0..hidden.dim(0)?).step_by(CHUNK_ROWS) {
                let n_rows = CHUNK_ROWS.min(hidden.dim(0)? - start);
                let here: Vec<(usize, Draw)> = picks
                    .iter()
                    .filter(|(row, _)| (start..start + n_rows).contains(row))
                    .map(|&(row, draw)| (row - start, draw))
                    .collect();
                let logits = self.packed_lm_head()?.apply_in_f32(&hidden.narrow(0, start, n_rows)?)?;
                chosen.extend(kernels::choose(&logits, &here)?);
            }
            return Ok(chosen);
        }
        self.for_each_logits(hidden, |i, logits| {
            while let Some(&(at, draw)) = picks.get(chosen.len())
                && at == i
            {
                chosen.push(choose(logits, draw));
            }
        })?;
        Ok(chosen)
    }

    /// How likely tokens are after hidden states (N, d): for each target, a row (never falling along the targets) and the token.
    pub(crate) fn token_log_probs_after(&self, hidden: &Tensor, targets: &[(usize, u32)]) -> Result<Vec<TokenLogProb>> {
        if hidden.device().is_cpu() {
            return Ok(self.packed_lm_head()?.token_log_probs(hidden, targets)?);
        }
        let mut found = Vec::with_capacity(targets.len());
        self.for_each_logits(hidden, |i, logits| judge(&mut found, targets, i, logits))?;
        Ok(found)
    }

    /// Logits (N, V) after hidden states (N, d), f32 without gradient.
    ///
    /// # Errors
    /// Where the shapes do not fit.
    pub fn logits_after(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(self.packed_lm_head()?.apply_in_f32(hidden)?)
    }

    fn packed_lm_head(&self) -> Result<Arc<PackedWeight>> {
        self.lm_head.packed(self.compute)
    }

    /// Logits of each next token, (B, T, V). Losses go through [`kernels::linear_cross_entropy`] instead, which never holds them all.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn logits(&self, batch: &Batch) -> Result<Tensor> {
        Ok(kernels::linear(&self.forward(batch)?, self.lm_head())?)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::Decoder;
    use crate::batch::Batch;
    use crate::config::ModelConfig;
    use crate::weights::Weights;
    use crate::{Error, random};
    use candle_core::{DType, Device, Var};
    use rand::Rng;

    /// A small model with every feature: grouped queries, a head width other than d / H, two layers.
    pub(crate) fn tiny_config() -> ModelConfig {
        ModelConfig {
            vocab_size: 61,
            hidden_size: 24,
            intermediate_size: 40,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 8,
            max_position_embeddings: 64,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            tie_word_embeddings: true,
            initializer_range: 0.02,
            bos_token_id: Some(0),
            eos_token_ids: vec![5],
            pad_token_id: Some(1),
        }
    }

    /// Weights far from zero, so that tokens differ and answers are not ties.
    pub(crate) fn lively(config: &ModelConfig, seed: u64) -> Weights {
        Weights::random(&ModelConfig { initializer_range: 0.3, ..config.clone() }, seed).unwrap()
    }

    pub(crate) fn tiny_decoder(seed: u64) -> Decoder {
        let config = tiny_config();
        Decoder::new(&config, &lively(&config, seed)).unwrap()
    }

    pub(crate) fn random_rows(seed: u64, lengths: &[usize]) -> Vec<Vec<u32>> {
        let mut stream = random::stream(seed, "rows", 0);
        lengths.iter().map(|&n| (0..n).map(|_| stream.random_range(6..61)).collect()).collect()
    }

    fn logits(decoder: &Decoder, batch: &Batch) -> Vec<Vec<Vec<f32>>> {
        decoder.logits(batch).unwrap().to_vec3().unwrap()
    }

    fn assert_close(a: &[f32], b: &[f32]) {
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }

    #[test]
    fn a_padded_batch_equals_its_rows_one_by_one() {
        let decoder = tiny_decoder(1);
        let rows = random_rows(1, &[9, 4, 1]);
        let together = logits(&decoder, &Batch::pad(&rows).unwrap());
        for (row, together) in rows.iter().zip(&together) {
            let alone = logits(&decoder, &Batch::pad(&[row]).unwrap());
            for (a, b) in alone[0].iter().zip(together) {
                assert_close(a, b);
            }
        }
    }

    #[test]
    fn packed_documents_equal_single_documents() {
        let decoder = tiny_decoder(2);
        let rows = random_rows(2, &[5, 7]);
        let ids = rows.concat();
        let segments = [vec![3; 5], vec![9; 7]].concat();
        let packed = logits(&decoder, &Batch::packed(ids, segments, 1).unwrap());
        let alone: Vec<_> =
            rows.iter().flat_map(|row| logits(&decoder, &Batch::pad(&[row]).unwrap()).remove(0)).collect();
        for (a, b) in alone.iter().zip(&packed[0]) {
            assert_close(a, b);
        }
    }

    #[test]
    fn later_tokens_do_not_change_earlier_logits() {
        let decoder = tiny_decoder(3);
        let mut rows = random_rows(3, &[8]);
        let before = logits(&decoder, &Batch::pad(&rows).unwrap());
        rows[0][7] = 11;
        let after = logits(&decoder, &Batch::pad(&rows).unwrap());
        assert_eq!(before[0][..7], after[0][..7]);
        assert_ne!(before[0][7], after[0][7]);
    }

    #[test]
    fn each_parameter_receives_a_gradient_that_central_differences_confirm() {
        for tie_word_embeddings in [true, false] {
            let config = ModelConfig { tie_word_embeddings, ..tiny_config() };
            let weights = lively(&config, 4).to_dtype(DType::F64).unwrap();
            let vars: Vec<Var> = weights.iter().map(|(_, tensor)| Var::from_tensor(tensor).unwrap()).collect();
            let mut next = vars.iter();
            let weights = weights.map(|_| Ok(next.next().unwrap().as_tensor().clone())).unwrap();
            let decoder = Decoder::new(&config, &weights).unwrap();
            let rows = random_rows(4, &[6, 3]);
            let batch = Batch::pad(&rows).unwrap();
            let loss = || {
                let hidden = decoder.forward(&batch).unwrap().flatten_to(1).unwrap();
                let targets = [7, 8, 9, 10, 11, 12, 13, 14, 15, u32::MAX, u32::MAX, u32::MAX];
                kernels::linear_cross_entropy(&hidden, decoder.lm_head(), &targets, &[1.0; 12]).unwrap()
            };
            let gradients = decoder.backward(&loss()).unwrap();
            for ((name, tensor), var) in weights.iter().zip(&vars) {
                let gradient = gradients.get(tensor).unwrap_or_else(|| panic!("{name} has no gradient"));
                let gradient: Vec<f64> = gradient.flatten_all().unwrap().to_vec1().unwrap();
                // The entry with the largest gradient says most.
                let idx = (0..gradient.len()).max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs())).unwrap();
                assert!(gradient[idx].abs() > 1e-6, "{name}");
                let original: Vec<f64> = tensor.flatten_all().unwrap().to_vec1().unwrap();
                let shifted = |by: f64| {
                    let mut values = original.clone();
                    values[idx] += by;
                    let values = candle_core::Tensor::from_vec(values, tensor.shape(), tensor.device()).unwrap();
                    var.set(&values).unwrap();
                    loss().to_scalar::<f64>().unwrap()
                };
                let numeric = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
                shifted(0.0);
                let error = (numeric - gradient[idx]).abs() / gradient[idx].abs().max(1.0);
                assert!(error < 1e-6, "{name}: {numeric} {}", gradient[idx]);
            }
        }
    }

    #[test]
    fn a_snapshot_does_not_follow_later_updates() {
        let config = tiny_config();
        let weights = lively(&config, 5);
        let vars: Vec<Var> = weights.iter().map(|(_, tensor)| Var::from_tensor(tensor).unwrap()).collect();
        let mut next = vars.iter();
        let live = weights.map(|_| Ok(next.next().unwrap().as_tensor().clone())).unwrap();
        let decoder = Decoder::new(&config, &live).unwrap();
        let frozen = Decoder::new(&config, &live.snapshot().unwrap()).unwrap();
        let packed = Decoder::for_decoding(&config, live.clone()).unwrap();
        let batch = Batch::pad(&random_rows(5, &[4])).unwrap();
        let before = logits(&decoder, &batch);
        assert_eq!(before, logits(&frozen, &batch));
        assert_eq!(before, logits(&packed, &batch));
        for var in &vars {
            var.set(&(var.as_tensor() * 1.5).unwrap().detach()).unwrap();
        }
        assert_ne!(before, logits(&decoder, &batch));
        assert_eq!(before, logits(&frozen, &batch));
        assert_eq!(before, logits(&packed, &batch));
    }

    #[test]
    fn weights_laid_out_for_decoding_alone_give_the_same_bits() {
        for tie_word_embeddings in [true, false] {
            let config = ModelConfig { tie_word_embeddings, ..tiny_config() };
            let weights = lively(&config, 7);
            let decoder = Decoder::new(&config, &weights).unwrap();
            let packed = Decoder::for_decoding(&config, weights).unwrap();
            let ids = random_rows(7, &[20]).remove(0);
            let read = |decoder: &Decoder| {
                let mut cache = decoder.new_cache(1, 20).unwrap();
                let hidden = decoder.extend(&mut cache, &ids, &[0; 20]).unwrap();
                let mut rows = Vec::new();
                decoder.for_each_logits(&hidden, |_, logits| rows.push(logits.to_vec())).unwrap();
                rows
            };
            assert_eq!(read(&decoder), read(&packed));
            assert_eq!(decoder.lm_head().to_vec2::<f32>().unwrap(), packed.lm_head().to_vec2::<f32>().unwrap());
        }
    }

    #[test]
    fn a_copy_on_a_device_is_the_same_model() {
        for tie_word_embeddings in [true, false] {
            let config = ModelConfig { tie_word_embeddings, ..tiny_config() };
            let weights = lively(&config, 8);
            let batch = Batch::pad(&random_rows(8, &[20])).unwrap();
            let expected = logits(&Decoder::new(&config, &weights).unwrap(), &batch);
            let copy = Decoder::for_decoding(&config, weights).unwrap().on(&Device::Cpu).unwrap();
            assert_eq!(logits(&copy, &batch), expected);
            let hidden = copy.forward(&batch).unwrap().flatten_to(1).unwrap();
            assert_eq!(copy.logits_after(&hidden).unwrap().to_vec2::<f32>().unwrap(), expected[0]);
        }
    }

    #[test]
    fn activations_computed_again_give_the_same_gradients_to_the_last_bit() {
        let config = tiny_config();
        let weights = lively(&config, 9);
        let batch = Batch::pad(&random_rows(9, &[11, 6])).unwrap();
        let gradients = |recomputes: bool| -> Vec<Vec<f32>> {
            let vars: Vec<Var> = weights.iter().map(|(_, tensor)| Var::from_tensor(tensor).unwrap()).collect();
            let mut next = vars.iter();
            let weights = weights.map(|_| Ok(next.next().unwrap().as_tensor().clone())).unwrap();
            let decoder = Decoder::new(&config, &weights).unwrap().recomputing(recomputes);
            let found = decoder.forward(&batch).unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap();
            vars.iter().map(|var| found.get(var).unwrap().flatten_all().unwrap().to_vec1().unwrap()).collect()
        };
        assert_eq!(gradients(true), gradients(false));
    }

    #[test]
    fn long_rows_and_unknown_ids_are_errors() {
        let decoder = tiny_decoder(6);
        let long = Batch::pad(&[vec![7; 65]]).unwrap();
        assert!(matches!(decoder.forward(&long), Err(Error::TooLong { n_tokens: 65, limit: 64, .. })));
        assert!(decoder.forward(&Batch::pad(&[vec![61]]).unwrap()).is_err());
    }
}
