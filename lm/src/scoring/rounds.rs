//! Scoring over a cache: each distinct context is read once, its continuations behind it one after the other.

use super::{PACK_TOKENS, TokenRequest, add, blank};
use crate::Result;
use crate::next_token::{After, NextToken, Tokens};
use crate::subject::Score;
use std::collections::BTreeMap;

/// Scores in the order of the requests, which were checked; equal ones are computed once.
pub(super) fn score(model: &impl NextToken, requests: &[TokenRequest]) -> Result<Vec<Score>> {
    let mut contexts: BTreeMap<&[u32], BTreeMap<&[u32], Vec<usize>>> = BTreeMap::new();
    for (idx, request) in requests.iter().enumerate() {
        let continuations = contexts.entry(&request.context).or_default();
        continuations.entry(&request.continuation).or_default().push(idx);
    }
    let mut contexts: Vec<Context> = contexts
        .into_iter()
        .map(|(ids, continuations)| Context {
            ids,
            continuations: continuations
                .into_iter()
                .map(|(ids, asked)| Continuation { ids, asked, score: blank(ids) })
                .collect(),
        })
        .collect();
    contexts.sort_by_key(Context::cache_len);
    let mut rest = contexts.as_mut_slice();
    while !rest.is_empty() {
        let (now, later) = rest.split_at_mut(first_pack(model.numbers_per_token(), rest));
        score_pack(model, now)?;
        rest = later;
    }
    let mut scores: Vec<Score> = requests.iter().map(|request| blank(&request.continuation)).collect();
    for continuation in contexts.iter().flat_map(|context| &context.continuations) {
        for &idx in &continuation.asked {
            scores[idx] = continuation.score;
        }
    }
    Ok(scores)
}

/// Most numbers that the cache may hold (256 MiB of f32).
const MAX_CACHE_NUMBERS: usize = 1 << 26;

struct Context<'a> {
    ids: &'a [u32],
    continuations: Vec<Continuation<'a>>,
}

struct Continuation<'a> {
    ids: &'a [u32],
    asked: Vec<usize>,
    score: Score,
}

impl Context<'_> {
    /// Tokens that the cache row must hold: the last token of a continuation is only predicted, never read.
    fn cache_len(&self) -> usize {
        let longest = self.continuations.iter().map(|continuation| continuation.ids.len()).max();
        self.ids.len() + longest.unwrap_or(1) - 1
    }
}

/// How many contexts, sorted by the length of their cache rows, go through the model together.
fn first_pack(numbers_per_token: usize, contexts: &[Context]) -> usize {
    let mut n_tokens = 0;
    let fitting = contexts.iter().enumerate().take_while(|(idx, context)| {
        n_tokens += context.ids.len();
        let n_cached = (idx + 1) * context.cache_len();
        *idx == 0 || (n_tokens <= PACK_TOKENS && n_cached * numbers_per_token <= MAX_CACHE_NUMBERS)
    });
    fitting.count()
}

fn score_pack<M: NextToken>(model: &M, contexts: &mut [Context]) -> Result<()> {
    let max_len = contexts.iter().map(Context::cache_len).max().unwrap_or(0);
    let mut cache = model.new_cache(contexts.len(), max_len)?;
    let mut tokens = Tokens::default();
    let (mut targets, mut places) = (Vec::new(), Vec::new());
    for (row, context) in contexts.iter().enumerate() {
        tokens.push(row, context.ids);
        for (idx, continuation) in context.continuations.iter().enumerate() {
            targets.push((row, continuation.ids[0]));
            places.push((row, idx));
        }
    }
    let found = model.token_log_probs(&mut cache, &tokens, After::Runs, &targets)?;
    for ((row, idx), found) in places.into_iter().zip(found) {
        add(&mut contexts[row].continuations[idx].score, found);
    }
    // In each round every context reads its next longer continuation, which is forgotten again after.
    let n_rounds = contexts.iter().map(|context| context.continuations.len()).max().unwrap_or(0);
    for round in 0..n_rounds {
        score_round(model, contexts, round, &mut cache)?;
    }
    Ok(())
}

fn score_round<M: NextToken>(model: &M, contexts: &mut [Context], round: usize, cache: &mut M::Cache) -> Result<()> {
    let mut tokens = Tokens::default();
    let (mut targets, mut rows) = (Vec::new(), Vec::new());
    for (row, context) in contexts.iter().enumerate() {
        let Some(continuation) = context.continuations.get(round).filter(|it| it.ids.len() > 1) else { continue };
        let n_read = continuation.ids.len() - 1;
        tokens.push(row, &continuation.ids[..n_read]);
        for &id in &continuation.ids[1..] {
            targets.push((targets.len(), id));
            rows.push(row);
        }
    }
    if targets.is_empty() {
        return Ok(());
    }
    let found = model.token_log_probs(cache, &tokens, After::Each, &targets)?;
    for (row, found) in rows.into_iter().zip(found) {
        add(&mut contexts[row].continuations[round].score, found);
    }
    for (row, context) in contexts.iter().enumerate() {
        M::truncate(cache, row, context.ids.len())?;
    }
    Ok(())
}
