//! What predicts the next token, as generation and scoring see it: a decoder, or several that are mixed.

use crate::Result;
use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::generation::choose;
use candle_core::Tensor;
use kernels::{Draw, KvCache, PackedWeight, TokenLogProb, TokenTree, argmax, log_sum_exp};

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

    /// As [`NextToken::read`], but only tells how likely given tokens are: for each target, the number that `see` would be called with
    /// (never falling along the targets) and the token.
    ///
    /// # Errors
    /// As [`NextToken::read`].
    fn token_log_probs(
        &self,
        cache: &mut Self::Cache,
        tokens: &Tokens,
        after: After,
        targets: &[(usize, u32)],
    ) -> Result<Vec<TokenLogProb>> {
        let mut found = Vec::with_capacity(targets.len());
        self.read(cache, tokens, after, |i, logits| judge(&mut found, targets, i, logits))?;
        Ok(found)
    }

    /// A place to read a tree of tokens in one call, its runs as rows; none where this model reads rows only.
    ///
    /// # Errors
    /// Where memory for it lacks.
    fn tree_cache(&self, tree: TokenTree) -> Result<Option<Self::Cache>> {
        let _ = tree;
        Ok(None)
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

/// Adds how likely the targets of the `i`-th row of logits are, where `found` has those of the rows before.
pub(crate) fn judge(found: &mut Vec<TokenLogProb>, targets: &[(usize, u32)], i: usize, logits: &[f32]) {
    let of_row = targets[found.len()..].iter().take_while(|(at, _)| *at == i);
    let ids: Vec<usize> = of_row.map(|&(_, id)| id as usize).collect();
    if ids.is_empty() {
        return;
    }
    let (log_total, best) = (log_sum_exp(logits), argmax(logits));
    found.extend(
        ids.into_iter()
            .map(|id| TokenLogProb { log_prob_nats: f64::from(logits[id]) - log_total, is_greedy: best == id }),
    );
}

/// After which of the tokens that are read logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// After each.
    Each,
    /// After the last of each run, or those that [`Tokens::after`] names.
    Runs,
}

/// Tokens to read, run by run: each run goes to one row of a cache.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    ids: Vec<u32>,
    rows: Vec<usize>,
    /// Where the last token of each run stands, or what takes its place.
    last: Vec<u32>,
}

impl Tokens {
    /// Adds a run of at least one token.
    pub fn push(&mut self, row: usize, ids: &[u32]) {
        self.ids.extend_from_slice(ids);
        self.rows.resize(self.ids.len(), row);
        self.last.push(self.ids.len() as u32 - 1);
    }

    /// The same tokens, but logits are wanted after these, counted over all runs and rising, rather than after the last of each run.
    #[must_use]
    pub fn after(mut self, wanted: Vec<u32>) -> Self {
        self.last = wanted;
        self
    }

    /// All ids.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The row of each.
    pub fn rows(&self) -> &[usize] {
        &self.rows
    }

    /// Of hidden states after each token, (N, d), those after which logits are wanted.
    pub(crate) fn select(&self, hidden: Tensor, after: After) -> Result<Tensor> {
        if after == After::Each || self.last.len() == self.ids.len() {
            return Ok(hidden);
        }
        let last = Tensor::from_slice(&self.last, self.last.len(), hidden.device())?;
        Ok(hidden.index_select(&last, 0)?)
    }
}

/// Calls `see(i, logits)` for each row of hidden states (N, d), holding few rows of logits at a time.
pub(crate) fn for_each_row(
    hidden: &Tensor,
    lm_head: &PackedWeight,
    vocab_size: usize,
    mut see: impl FnMut(usize, &mut [f32]),
) -> Result<()> {
    /// 64 MiB of f32.
    const CHUNK_NUMBERS: usize = 1 << 24;
    const MAX_ROWS: usize = 256;
    let chunk_rows = (CHUNK_NUMBERS / vocab_size).clamp(1, MAX_ROWS);
    let (n_rows, _) = hidden.dims2()?;
    for start in (0..n_rows).step_by(chunk_rows) {
        let chunk = hidden.narrow(0, start, chunk_rows.min(n_rows - start))?;
        let mut logits: Vec<f32> = lm_head.apply_in_f32(&chunk)?.flatten_all()?.to_vec1()?;
        for (idx, row) in logits.chunks_mut(vocab_size).enumerate() {
            see(start + idx, row);
        }
    }
    Ok(())
}

impl Decoder {
    /// Hidden states of the tokens after which logits are wanted, (N, d).
    pub(crate) fn hidden_after(&self, cache: &mut KvCache, tokens: &Tokens, after: After) -> Result<Tensor> {
        tokens.select(self.extend(cache, &tokens.ids, &tokens.rows)?, after)
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

    fn token_log_probs(
        &self,
        cache: &mut KvCache,
        tokens: &Tokens,
        after: After,
        targets: &[(usize, u32)],
    ) -> Result<Vec<TokenLogProb>> {
        self.token_log_probs_after(&self.hidden_after(cache, tokens, after)?, targets)
    }

    fn tree_cache(&self, tree: TokenTree) -> Result<Option<KvCache>> {
        Ok(Decoder::tree_cache(self, tree))
    }

    fn truncate(cache: &mut KvCache, row: usize, len: usize) -> Result<()> {
        Ok(cache.truncate(row, len)?)
    }

    fn copy_prefix(cache: &mut KvCache, from: usize, len: usize, to: &[usize]) -> Result<()> {
        Ok(cache.copy_prefix(from, len, to)?)
    }
}
