//! Exact log-likelihoods of given continuations.

use crate::next_token::{After, NextToken, Tokens};
use crate::subject::Score;
use crate::{Error, Result};
use kernels::{argmax, log_sum_exp};
use std::collections::BTreeMap;

/// A context and the continuation whose likelihood is asked for, as token ids; neither is empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenRequest {
    /// Tokens before the continuation.
    pub context: Vec<u32>,
    /// Tokens whose likelihood is asked for.
    pub continuation: Vec<u32>,
}

/// Log-likelihood of each continuation given its context, in the order of the requests.
///
/// Each distinct context is read once, however many continuations it has; the first token of each is read off its last hidden
/// state, the others are read behind the cached context. Equal requests are computed once.
///
/// # Errors
/// Where a context or continuation is empty, a request does not fit the context window, or an id lies outside the vocabulary.
pub fn score(model: &impl NextToken, requests: &[TokenRequest]) -> Result<Vec<Score>> {
    let mut contexts: BTreeMap<&[u32], BTreeMap<&[u32], Vec<usize>>> = BTreeMap::new();
    for (idx, request) in requests.iter().enumerate() {
        check(model, idx, request)?;
        let continuations = contexts.entry(&request.context).or_default();
        continuations.entry(&request.continuation).or_default().push(idx);
    }
    let mut contexts: Vec<Context> = contexts
        .into_iter()
        .map(|(ids, continuations)| Context {
            ids,
            continuations: continuations.into_iter().map(|(ids, asked)| Continuation::new(ids, asked)).collect(),
        })
        .collect();
    contexts.sort_by_key(Context::cache_len);
    let mut rest = contexts.as_mut_slice();
    while !rest.is_empty() {
        let (now, later) = rest.split_at_mut(first_pack(model.numbers_per_token(), rest));
        score_pack(model, now)?;
        rest = later;
    }
    let mut scores = vec![None; requests.len()];
    for continuation in contexts.iter().flat_map(|context| &context.continuations) {
        for &idx in &continuation.asked {
            scores[idx] = Some(continuation.score);
        }
    }
    Ok(scores.into_iter().map(|score| score.expect("each request stands in one context")).collect())
}

/// Tokens of contexts that are read at the same time.
const PACK_TOKENS: usize = 4096;
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

impl<'a> Continuation<'a> {
    fn new(ids: &'a [u32], asked: Vec<usize>) -> Self {
        Self { ids, asked, score: Score { log_prob_nats: 0.0, n_tokens: ids.len(), is_greedy: true } }
    }

    fn add(&mut self, logits: &[f32], log_total: f64, best: usize, id: u32) {
        self.score.log_prob_nats += f64::from(logits[id as usize]) - log_total;
        self.score.is_greedy &= best == id as usize;
    }
}

impl Context<'_> {
    /// Tokens that the cache row must hold: the last token of a continuation is only predicted, never read.
    fn cache_len(&self) -> usize {
        let longest = self.continuations.iter().map(|continuation| continuation.ids.len()).max();
        self.ids.len() + longest.unwrap_or(1) - 1
    }
}

fn check(model: &impl NextToken, idx: usize, request: &TokenRequest) -> Result<()> {
    for (what, ids) in [("context", &request.context), ("continuation", &request.continuation)] {
        if ids.is_empty() {
            return Err(Error::Empty { what: format!("the {what} of request {idx}") });
        }
        model.config().require_known(ids)?;
    }
    model.config().require_fit(&format!("request {idx}"), request.context.len() + request.continuation.len() - 1)
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
    for (row, context) in contexts.iter().enumerate() {
        tokens.push(row, context.ids);
    }
    model.read(&mut cache, &tokens, After::Runs, |row, logits| {
        let (log_total, best) = (log_sum_exp(logits), argmax(logits));
        for continuation in &mut contexts[row].continuations {
            continuation.add(logits, log_total, best, continuation.ids[0]);
        }
    })?;
    // In each round every context reads its next longer continuation, which is forgotten again after.
    let n_rounds = contexts.iter().map(|context| context.continuations.len()).max().unwrap_or(0);
    for round in 0..n_rounds {
        score_round(model, contexts, round, &mut cache)?;
    }
    Ok(())
}

fn score_round<M: NextToken>(model: &M, contexts: &mut [Context], round: usize, cache: &mut M::Cache) -> Result<()> {
    let mut tokens = Tokens::default();
    let mut targets = Vec::new();
    for (row, context) in contexts.iter().enumerate() {
        let Some(continuation) = context.continuations.get(round).filter(|it| it.ids.len() > 1) else { continue };
        let n_read = continuation.ids.len() - 1;
        tokens.push(row, &continuation.ids[..n_read]);
        targets.extend(continuation.ids[1..].iter().map(|&id| (row, id)));
    }
    if targets.is_empty() {
        return Ok(());
    }
    model.read(cache, &tokens, After::Each, |i, logits| {
        let (row, id) = targets[i];
        contexts[row].continuations[round].add(logits, log_sum_exp(logits), argmax(logits), id);
    })?;
    for (row, context) in contexts.iter().enumerate() {
        M::truncate(cache, row, context.ids.len())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{TokenRequest, score};
    use crate::Error;
    use crate::batch::Batch;
    use crate::decoder::Decoder;
    use crate::decoder::tests::{random_rows, tiny_decoder};
    use crate::subject::Score;
    use kernels::{argmax, log_sum_exp};

    /// One full pass per request, through the differentiable forward.
    fn score_alone(decoder: &Decoder, request: &TokenRequest) -> Score {
        let ids = [request.context.clone(), request.continuation.clone()].concat();
        let logits = decoder.logits(&Batch::pad(&[&ids]).unwrap()).unwrap().to_vec3::<f32>().unwrap().remove(0);
        let mut score = Score { log_prob_nats: 0.0, n_tokens: request.continuation.len(), is_greedy: true };
        for (i, &id) in request.continuation.iter().enumerate() {
            let row = &logits[request.context.len() + i - 1];
            score.log_prob_nats += f64::from(row[id as usize]) - log_sum_exp(row);
            score.is_greedy &= argmax(row) == id as usize;
        }
        score
    }

    fn requests() -> Vec<TokenRequest> {
        let contexts = random_rows(1, &[7, 1, 20, 7, 33]);
        let continuations = random_rows(2, &[1, 1, 3, 8, 2, 1]);
        let mut requests = Vec::new();
        for context in &contexts {
            for continuation in &continuations {
                requests.push(TokenRequest { context: context.clone(), continuation: continuation.clone() });
            }
        }
        requests.push(requests[3].clone());
        requests
    }

    #[test]
    fn scores_equal_those_of_one_full_pass_per_request() {
        let decoder = tiny_decoder(1);
        let requests = requests();
        for (fast, request) in score(&decoder, &requests).unwrap().iter().zip(&requests) {
            let slow = score_alone(&decoder, request);
            assert!((fast.log_prob_nats - slow.log_prob_nats).abs() < 1e-5, "{fast:?} {slow:?}");
            assert_eq!((fast.n_tokens, fast.is_greedy), (slow.n_tokens, slow.is_greedy));
        }
    }

    #[test]
    fn the_most_likely_continuation_is_greedy() {
        let decoder = tiny_decoder(2);
        let context = random_rows(3, &[6]).remove(0);
        let prompt = crate::generation::Prompt { ids: context.clone(), max_new_tokens: 5 };
        let mut stream = crate::random::stream(1, "test", 0);
        let choice = crate::generation::Choice::Greedy;
        let completion = crate::generation::generate(&decoder, &[prompt], choice, &[], &mut stream).unwrap().remove(0);
        let scored = score(&decoder, &[TokenRequest { context, continuation: completion.ids }]).unwrap()[0];
        assert!(scored.is_greedy);
        let total: f64 = completion.log_probs.iter().map(|&x| f64::from(x)).sum();
        assert!((scored.log_prob_nats - total).abs() < 1e-4);
    }

    #[test]
    fn the_order_of_requests_does_not_matter() {
        let decoder = tiny_decoder(3);
        let mut requests = requests();
        let mut forward = score(&decoder, &requests).unwrap();
        requests.reverse();
        forward.reverse();
        assert_eq!(score(&decoder, &requests).unwrap(), forward);
        assert!(score(&decoder, &[]).unwrap().is_empty());
    }

    #[test]
    fn requests_that_cannot_be_scored_are_errors() {
        let decoder = tiny_decoder(4);
        let attempt = |context: Vec<u32>, continuation: Vec<u32>| {
            score(&decoder, &[TokenRequest { context, continuation }]).unwrap_err()
        };
        assert!(matches!(attempt(vec![], vec![7]), Error::Empty { .. }));
        assert!(matches!(attempt(vec![7], vec![]), Error::Empty { .. }));
        assert!(matches!(attempt(vec![7; 60], vec![7; 6]), Error::TooLong { n_tokens: 65, .. }));
        assert!(matches!(attempt(vec![7], vec![99]), Error::TokenOutOfRange { .. }));
        // The last token is only predicted, so this one does fit.
        let fitting = TokenRequest { context: vec![7; 60], continuation: vec![7; 5] };
        assert_eq!(score(&decoder, &[fitting]).unwrap()[0].n_tokens, 5);
    }
}
