//! Exact log-likelihoods of given continuations.

mod rounds;
mod tree;

use crate::next_token::NextToken;
use crate::subject::Score;
use crate::{Error, Result};
use kernels::TokenLogProb;

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
/// What requests share at their beginning, contexts and continuations alike, is read once (where the model reads trees; otherwise each
/// distinct context is), and logits are computed only where a token is asked for. On the CPU a score is the same to the last
/// bit whatever other requests share the call, so that a probe that was interrupted ends as one that was not.
///
/// # Errors
/// Where a context or continuation is empty, a request does not fit the context window, or an id lies outside the vocabulary.
pub fn score(model: &impl NextToken, requests: &[TokenRequest]) -> Result<Vec<Score>> {
    for request in requests {
        check(model, request)?;
    }
    match tree::score(model, requests)? {
        Some(scores) => Ok(scores),
        None => rounds::score(model, requests),
    }
}

/// Tokens that are read at the same time.
const PACK_TOKENS: usize = 4096;

/// Whether a request can be scored at all.
pub(crate) fn check(model: &impl NextToken, request: &TokenRequest) -> Result<()> {
    for (what, ids) in [("context", &request.context), ("continuation", &request.continuation)] {
        if ids.is_empty() {
            return Err(Error::Empty { what: format!("the {what} of a request") });
        }
        model.config().require_known(ids)?;
    }
    model.config().require_fit("a request", request.context.len() + request.continuation.len() - 1)
}

/// The score of a continuation none of whose tokens has been read.
fn blank(continuation: &[u32]) -> Score {
    Score { log_prob_nats: 0.0, n_tokens: continuation.len(), is_greedy: Some(true) }
}

/// Takes the next token of a continuation into its score.
fn add(score: &mut Score, token: TokenLogProb) {
    score.log_prob_nats += token.log_prob_nats;
    score.is_greedy = score.is_greedy.map(|so_far| so_far && token.is_greedy);
}

#[cfg(test)]
mod tests {
    use super::{TokenRequest, score};
    use crate::Error;
    use crate::batch::Batch;
    use crate::decoder::Decoder;
    use crate::decoder::tests::{random_rows, tiny_decoder};
    use crate::next_token::{After, NextToken, Tokens};
    use crate::subject::Score;
    use kernels::{argmax, log_sum_exp};
    use proptest::prelude::*;

    /// One full pass per request, through the differentiable forward.
    fn score_alone(decoder: &Decoder, request: &TokenRequest) -> Score {
        let ids = [request.context.clone(), request.continuation.clone()].concat();
        let logits = decoder.logits(&Batch::pad(&[&ids]).unwrap()).unwrap().to_vec3::<f32>().unwrap().remove(0);
        let mut score = Score { log_prob_nats: 0.0, n_tokens: request.continuation.len(), is_greedy: Some(true) };
        for (i, &id) in request.continuation.iter().enumerate() {
            let row = &logits[request.context.len() + i - 1];
            score.log_prob_nats += f64::from(row[id as usize]) - log_sum_exp(row);
            score.is_greedy = score.is_greedy.map(|so_far| so_far && argmax(row) == id as usize);
        }
        score
    }

    /// A decoder that reads rows only, as one on a GPU does.
    struct RowsOnly<'a>(&'a Decoder);

    impl NextToken for RowsOnly<'_> {
        type Cache = kernels::KvCache;

        fn config(&self) -> &crate::ModelConfig {
            self.0.config()
        }

        fn numbers_per_token(&self) -> usize {
            self.0.numbers_per_token()
        }

        fn new_cache(&self, n_rows: usize, max_len: usize) -> crate::Result<Self::Cache> {
            self.0.new_cache(n_rows, max_len)
        }

        fn read(
            &self,
            cache: &mut Self::Cache,
            tokens: &Tokens,
            after: After,
            see: impl FnMut(usize, &[f32]),
        ) -> crate::Result<()> {
            self.0.read(cache, tokens, after, see)
        }

        fn truncate(cache: &mut Self::Cache, row: usize, len: usize) -> crate::Result<()> {
            Decoder::truncate(cache, row, len)
        }

        fn copy_prefix(cache: &mut Self::Cache, from: usize, len: usize, to: &[usize]) -> crate::Result<()> {
            Decoder::copy_prefix(cache, from, len, to)
        }
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
        let in_rows = score(&RowsOnly(&decoder), &requests).unwrap();
        for ((fast, in_rows), request) in score(&decoder, &requests).unwrap().iter().zip(&in_rows).zip(&requests) {
            let slow = score_alone(&decoder, request);
            for fast in [fast, in_rows] {
                assert!((fast.log_prob_nats - slow.log_prob_nats).abs() < 1e-5, "{fast:?} {slow:?}");
                assert_eq!((fast.n_tokens, fast.is_greedy), (slow.n_tokens, slow.is_greedy));
            }
        }
    }

    /// Requests over an alphabet of three tokens, so that they share beginnings, continue each other and are equal.
    fn alike() -> impl Strategy<Value = Vec<TokenRequest>> {
        let tokens = |most: usize| prop::collection::vec(6_u32..9, 1..most);
        let request =
            (tokens(24), tokens(8)).prop_map(|(context, continuation)| TokenRequest { context, continuation });
        prop::collection::vec(request, 1..20)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        #[test]
        fn no_bit_of_a_score_depends_on_the_other_requests(requests in alike(), beginning in 0_usize..30) {
            let decoder = tiny_decoder(5);
            let beginning = random_rows(9, &[beginning]).remove(0);
            let requests: Vec<TokenRequest> = requests
                .into_iter()
                .map(|it| TokenRequest { context: [&beginning, it.context.as_slice()].concat(), ..it })
                .collect();
            for (together, request) in score(&decoder, &requests).unwrap().iter().zip(&requests) {
                prop_assert_eq!(*together, score(&decoder, std::slice::from_ref(request)).unwrap()[0]);
                let slow = score_alone(&decoder, request);
                prop_assert!((together.log_prob_nats - slow.log_prob_nats).abs() < 1e-4, "{:?} {:?}", together, slow);
            }
        }
    }

    #[test]
    fn more_requests_than_are_read_together_score_as_those_alone() {
        let decoder = tiny_decoder(6);
        let contexts = random_rows(10, &[40; 130]);
        let continuations = random_rows(11, &[9; 130]);
        let pairs = contexts.into_iter().zip(continuations);
        let requests: Vec<TokenRequest> =
            pairs.map(|(context, continuation)| TokenRequest { context, continuation }).collect();
        let together = score(&decoder, &requests).unwrap();
        for idx in [0, 1, 64, 128, 129] {
            assert_eq!(score(&decoder, &requests[idx..=idx]).unwrap()[0], together[idx]);
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
        assert_eq!(scored.is_greedy, Some(true));
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
