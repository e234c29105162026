//! Keys and values of the tokens that a model has read, kept for the next ones.

use crate::attention::AttentionSpec;
use crate::error::{Error, Result};
use crate::tree::TokenTree;
use candle_core::{DType, Device};

/// Preallocated rotated keys and values of every layer, one row per sequence.
///
/// A row grows by [`crate::decode_attention`] in every layer followed by one [`KvCache::advance`].
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<Layer>,
    #[cfg(feature = "cuda")]
    on_gpu: Option<crate::cuda::DeviceCache>,
    tree: Option<TokenTree>,
    lengths: Vec<usize>,
    max_len: usize,
    width: usize,
}

/// Keys that a query is compared with at the same time.
pub(crate) const KEY_RUN: usize = 32;

/// Keys and values of one layer, those of a row's head in one piece so that a query reads straight on.
///
/// A query is compared with a run of keys at once, so that keys lie by run, then by component: `(rows, KV, runs, D, KEY_RUN)`.
/// The values of a head lie token by token: `(rows, KV, max_len, D)`.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    keys: Vec<f32>,
    values: Vec<f32>,
    n_kv_heads: usize,
    /// Elements of the keys and of the values of one head of one row.
    head_keys: usize,
    head_values: usize,
    head_dim: usize,
}

impl Layer {
    fn new(n_rows: usize, max_len: usize, spec: &AttentionSpec) -> Self {
        let (n_kv_heads, head_dim) = (spec.n_kv_heads, spec.head_dim);
        let (head_keys, head_values) = (max_len.next_multiple_of(KEY_RUN) * head_dim, max_len * head_dim);
        let zeros = |head: usize| vec![0.0; n_rows * n_kv_heads * head];
        Self { keys: zeros(head_keys), values: zeros(head_values), n_kv_heads, head_keys, head_values, head_dim }
    }

    /// The keys of a head, `(runs, D, KEY_RUN)`; behind the tokens of the row they are what was there before.
    pub(crate) fn keys(&self, row: usize, kv_head: usize) -> &[f32] {
        &self.keys[(row * self.n_kv_heads + kv_head) * self.head_keys..][..self.head_keys]
    }

    /// The values of a head, `(max_len, D)`; behind the tokens of the row they are what was there before.
    pub(crate) fn values(&self, row: usize, kv_head: usize) -> &[f32] {
        &self.values[(row * self.n_kv_heads + kv_head) * self.head_values..][..self.head_values]
    }

    /// Keeps the key and the value of one head of one token.
    pub(crate) fn write(&mut self, row: usize, kv_head: usize, position: usize, key: &[f32], value: &[f32]) {
        let head = row * self.n_kv_heads + kv_head;
        let run = head * self.head_keys + position / KEY_RUN * KEY_RUN * self.head_dim;
        for (component, &key) in key.iter().enumerate() {
            self.keys[run + component * KEY_RUN + position % KEY_RUN] = key;
        }
        self.values[head * self.head_values + position * self.head_dim..][..value.len()].copy_from_slice(value);
    }

    fn copy_prefix(&mut self, from: usize, len: usize, to: usize) {
        for kv_head in 0..self.n_kv_heads {
            let [from, to] = [from, to].map(|row| row * self.n_kv_heads + kv_head);
            let keys = from * self.head_keys..from * self.head_keys + len.next_multiple_of(KEY_RUN) * self.head_dim;
            self.keys.copy_within(keys, to * self.head_keys);
            let values = from * self.head_values..from * self.head_values + len * self.head_dim;
            self.values.copy_within(values, to * self.head_values);
        }
    }
}

impl KvCache {
    /// An empty cache for `n_rows` sequences of up to `max_len` tokens.
    pub fn new(n_layers: usize, n_rows: usize, max_len: usize, spec: &AttentionSpec) -> Self {
        let width = spec.n_kv_heads * spec.head_dim;
        Self {
            layers: (0..n_layers).map(|_| Layer::new(n_rows, max_len, spec)).collect(),
            #[cfg(feature = "cuda")]
            on_gpu: None,
            tree: None,
            lengths: vec![0; n_rows],
            max_len,
            width,
        }
    }

    /// A place to read a tree of tokens in one call, its runs as rows, on the CPU: it says where each token stands and keeps nothing.
    pub fn of_tree(tree: TokenTree, spec: &AttentionSpec) -> Self {
        let max_len = tree.longest_run();
        let n_runs = tree.n_runs();
        Self { tree: Some(tree), max_len, ..Self::new(0, n_runs, 0, spec) }
    }

    /// As [`KvCache::new`], on a device: on a GPU for queries, keys and values of type `dtype`, on the CPU for f32.
    ///
    /// # Errors
    /// Where a GPU lacks the memory, or is not built in.
    pub fn on(
        (device, dtype): (&Device, DType),
        n_layers: usize,
        n_rows: usize,
        max_len: usize,
        spec: &AttentionSpec,
    ) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if device.is_cuda() {
            let on_gpu = crate::cuda::DeviceCache::new((n_layers, n_rows, max_len), spec, dtype, device)?;
            return Ok(Self { on_gpu: Some(on_gpu), ..Self::new(0, n_rows, max_len, spec) });
        }
        let op = "key-value cache";
        if !device.is_cpu() {
            return Err(Error::UnsupportedDevice { op, what: "it", found: device.location() });
        }
        if dtype != DType::F32 {
            return Err(Error::UnsupportedDtype { op, what: "it", expected: "f32", found: dtype });
        }
        Ok(Self::new(n_layers, n_rows, max_len, spec))
    }

    /// Tokens in each row.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Tokens that a row can hold.
    pub fn max_len(&self) -> usize {
        self.max_len
    }

    /// Counts the tokens that were just written to all layers: one for each time a row stands in `rows`.
    ///
    /// # Errors
    /// [`Error::CacheIndex`] or [`Error::CacheFull`]; nothing is counted then.
    pub fn advance(&mut self, rows: &[usize]) -> Result<()> {
        let mut lengths = self.lengths.clone();
        for &row in rows {
            self.check_row(row)?;
            lengths[row] += 1;
            if lengths[row] > self.max_len {
                return Err(Error::CacheFull { row, needed: lengths[row], capacity: self.max_len });
            }
        }
        self.lengths = lengths;
        Ok(())
    }

    /// Forgets all but the first `len` tokens of `row`.
    ///
    /// # Errors
    /// [`Error::CacheIndex`] for a row that does not exist.
    pub fn truncate(&mut self, row: usize, len: usize) -> Result<()> {
        self.check_row(row)?;
        self.lengths[row] = self.lengths[row].min(len);
        Ok(())
    }

    /// Makes the rows `to` start with the first `len` tokens of `from`, and end there.
    ///
    /// # Errors
    /// [`Error::CacheIndex`] for a row that does not exist or when `from` holds fewer than `len` tokens.
    pub fn copy_prefix(&mut self, from: usize, len: usize, to: &[usize]) -> Result<()> {
        self.check_row(from)?;
        if len > self.lengths[from] {
            return Err(Error::CacheIndex { what: "prefix of length", index: len, count: self.lengths[from] });
        }
        for &row in to {
            self.check_row(row)?;
        }
        for layer in &mut self.layers {
            for &row in to {
                layer.copy_prefix(from, len, row);
            }
        }
        #[cfg(feature = "cuda")]
        for &row in to {
            if let Some(on_gpu) = &self.on_gpu {
                on_gpu.copy_prefix(from, len, row)?;
            }
        }
        for &row in to {
            self.lengths[row] = len;
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn on_gpu(&self) -> Option<&crate::cuda::DeviceCache> {
        self.on_gpu.as_ref()
    }

    /// The tree that is read at once, where there is one.
    pub(crate) fn tree(&self) -> Option<&TokenTree> {
        self.tree.as_ref()
    }

    /// Width of a token's keys, `KV D`.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn layer_mut(&mut self, layer: usize) -> Result<&mut Layer> {
        let count = self.layers.len();
        self.layers.get_mut(layer).ok_or(Error::CacheIndex { what: "layer", index: layer, count })
    }

    pub(crate) fn layer(&self, layer: usize) -> Result<&Layer> {
        let count = self.layers.len();
        self.layers.get(layer).ok_or(Error::CacheIndex { what: "layer", index: layer, count })
    }

    pub(crate) fn check_row(&self, row: usize) -> Result<()> {
        if row < self.lengths.len() {
            return Ok(());
        }
        Err(Error::CacheIndex { what: "row", index: row, count: self.lengths.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small_cache() -> KvCache {
        let spec = AttentionSpec { n_heads: 2, n_kv_heads: 1, head_dim: 2, rope_theta: 10.0 };
        KvCache::new(1, 3, 4, &spec)
    }

    #[test]
    fn a_full_row_refuses_another_token_and_counts_nothing() {
        let mut cache = small_cache();
        cache.advance(&[0, 0, 1, 0, 0]).unwrap();
        let error = cache.advance(&[1, 0]).unwrap_err();
        assert!(matches!(error, Error::CacheFull { row: 0, needed: 5, capacity: 4 }));
        assert_eq!(cache.lengths(), [4, 1, 0]);
    }

    #[test]
    fn truncation_never_lengthens_a_row() {
        let mut cache = small_cache();
        cache.advance(&[2, 2, 2]).unwrap();
        cache.truncate(2, 9).unwrap();
        assert_eq!(cache.lengths(), [0, 0, 3]);
        cache.truncate(2, 1).unwrap();
        assert_eq!(cache.lengths(), [0, 0, 1]);
    }

    #[test]
    fn rows_and_prefixes_that_do_not_exist_are_refused() {
        let mut cache = small_cache();
        assert!(cache.advance(&[3]).is_err());
        assert!(cache.truncate(3, 0).is_err());
        assert!(cache.copy_prefix(0, 1, &[1]).is_err());
        assert!(cache.copy_prefix(0, 0, &[7]).is_err());
    }
}
