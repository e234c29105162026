//! What predicts the next token, as generation and scoring see it: a decoder, or several that are mixed.

use crate::Result;
use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::generation::choose;
use candle_core::Tensor;
use kernels::{Draw, KvCache};

/// Something that gives logits for the token after those it has read.
pub trait NextToken {
    /// What has been read, row by row.
    type Cache;

    /// The shape of the model: its vocabulary and its context window.
    fn config(&self) -> &ModelConfig;

    /// How many numbers a cache holds for each token of a row.
    fn numbers_per_token(&self) -> usize;

    /// An empty cache of `n_rows` sequences of up to `max_len` tokens.
    ///
    /// # Errors
    /// Where memory for it lacks.
    fn new_cache(&self, n_rows: usize, max_len: usize) -> Result<Self::Cache>;

    /// Reads tokens behind those that the cache holds, keeps them there, and calls `see(i, logits)` with what may come after: for the
    /// `i`-th of the tokens, or the last of the `i`-th run of them, as `after` says.
    ///
    /// # Errors
    /// Where an id lies outside the vocabulary or a row would outgrow the cache.
    fn read(
        &self,
        cache: &mut Self::Cache,
        tokens: &Tokens,
        after: After,
        see: impl FnMut(usize, &[f32]),
    ) -> Result<()>;

    /// As [`NextToken::read`], but chooses: for each pick, the number that `see` would be called with (never falling along the picks) and
    /// how to choose, the id and its log-probability at temperature 1, nats.
    ///
    /// # Errors
    /// As [`NextToken::read`].
    fn choose(
        &self,
        cache: &mut Self::Cache,
        tokens: &Tokens,
        after: After,
        picks: &[(usize, Draw)],
    ) -> Result<Vec<(u32, f32)>> {
        let mut chosen = Vec::with_capacity(picks.len());
        self.read(cache, tokens, after, |i, logits| {
            while let Some(&(at, draw)) = picks.get(chosen.len())
                && at == i
            {
                chosen.push(choose(logits, draw));
            }
        })?;
        Ok(chosen)
    }

    /// Forgets all but the first `len` tokens of `row`.
    ///
    /// # Errors
    /// Where the row does not exist.
    fn truncate(cache: &mut Self::Cache, row: usize, len: usize) -> Result<()>;

    /// Makes the rows `to` start with the first `len` tokens of `from`, and end there.
    ///
    /// # Errors
    /// Where a row does not exist or `from` holds fewer tokens.
    fn copy_prefix(cache: &mut Self::Cache, from: usize, len: usize, to: &[usize]) -> Result<()>;
}

/// After which of the tokens that are read logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// After each.
    Each,
    /// After the last of each run.
    Runs,
}

/// Tokens to read, run by run: each run goes to one row of a cache.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    ids: Vec<u32>,
    rows: Vec<usize>,
    /// Where the last token of each run stands.
    last: Vec<u32>,
}

impl Tokens {
    /// Adds a run of at least one token.
    pub fn push(&mut self, row: usize, ids: &[u32]) {
        self.ids.extend_from_slice(ids);
        self.rows.resize(self.ids.len(), row);
        self.last.push(self.ids.len() as u32 - 1);
    }
}

impl Decoder {
    /// Hidden states of the tokens after which logits are wanted, (N, d).
    pub(crate) fn hidden_after(&self, cache: &mut KvCache, tokens: &Tokens, after: After) -> Result<Tensor> {
        let hidden = self.extend(cache, &tokens.ids, &tokens.rows)?;
        if after == After::Each || tokens.last.len() == tokens.ids.len() {
            return Ok(hidden);
        }
        let last = Tensor::from_slice(&tokens.last, tokens.last.len(), hidden.device())?;
        Ok(hidden.index_select(&last, 0)?)
    }
}

impl NextToken for Decoder {
    type Cache = KvCache;

    fn config(&self) -> &ModelConfig {
        Decoder::config(self)
    }

    fn numbers_per_token(&self) -> usize {
        let config = Decoder::config(self);
        2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    }

    fn new_cache(&self, n_rows: usize, max_len: usize) -> Result<KvCache> {
        Decoder::new_cache(self, n_rows, max_len)
    }

    fn read(&self, cache: &mut KvCache, tokens: &Tokens, after: After, see: impl FnMut(usize, &[f32])) -> Result<()> {
        self.for_each_logits(&self.hidden_after(cache, tokens, after)?, see)
    }

    fn choose(
        &self,
        cache: &mut KvCache,
        tokens: &Tokens,
        after: After,
        picks: &[(usize, Draw)],
    ) -> Result<Vec<(u32, f32)>> {
        self.choose_after(&self.hidden_after(cache, tokens, after)?, picks)
    }

    fn truncate(cache: &mut KvCache, row: usize, len: usize) -> Result<()> {
        Ok(cache.truncate(row, len)?)
    }

    fn copy_prefix(cache: &mut KvCache, from: usize, len: usize, to: &[usize]) -> Result<()> {
        Ok(cache.copy_prefix(from, len, to)?)
    }
}
