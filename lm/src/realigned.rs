//! Decoding with several models at once, as if a phase of training had been stronger, weaker or left out.

use crate::Result;
use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::generation::Choice;
use crate::mixing;
use crate::model::{LoadedModel, greedy};
use crate::next_token::{After, NextToken, Tokens};
use crate::subject::{GenerateRequest, Generation, Prompt, Score, ScoreRequest, Subject};
use kernels::{KvCache, TokenTree};

/// Models whose next-token logits are added up with weights, token by token. Of a reference and an aligned model
///
/// `logits = (1 - lambda) logits_reference + lambda logits_aligned`
///
/// is the reference at 0, the aligned model at 1, stronger alignment beyond. It stands for the model that KL-regularised alignment
/// with coefficient `beta / lambda` would have given, where the aligned one was given by `beta` and is the optimum of its objective.
/// Even then it is an approximation: the optimum mixes probabilities of whole answers, this one of tokens.
///
/// [`generate`](crate::generation::generate) samples from it, as from a decoder.
///
/// # Reference
/// Liu et al. 2024, Decoding-time Realignment of Language Models, arXiv 2402.02992, section 3; Mitchell et al. 2023, An Emulator for
/// Fine-Tuning Large Language Models, arXiv 2310.12962 (differences of logits as what a phase of training adds).
#[derive(Debug, Clone)]
pub struct Realigned<'a> {
    parts: Vec<(f64, &'a Decoder)>,
    /// The model whose shape, tokenizer and template all share.
    last: &'a LoadedModel,
    fingerprint: String,
}

impl<'a> Realigned<'a> {
    /// Puts two models side by side; neither is copied.
    ///
    /// # Errors
    /// [`NotAlike`](crate::Error::NotAlike) where configs or tokenizers differ, [`BadLambda`](crate::Error::BadLambda) where
    /// `lambda` is negative or no number, [`NotTrainable`](crate::Error::NotTrainable) for models of other families.
    pub fn new(reference: &'a LoadedModel, aligned: &'a LoadedModel, lambda: f64) -> Result<Self> {
        let decoders = [reference.decoder()?, aligned.decoder()?];
        mixing::check(decoders.map(Decoder::config), [reference, aligned].map(LoadedModel::tokenizer), lambda)?;
        let parents = [reference.fingerprint(), aligned.fingerprint()];
        let fingerprint = mixing::fingerprint("realigned", &[(1.0 - lambda, parents[0]), (lambda, parents[1])]);
        let parts = vec![(1.0 - lambda, decoders[0]), (lambda, decoders[1])];
        Ok(Self { parts, last: aligned, fingerprint })
    }

    /// What a phase adds, put on another model: `logits = logits_base + logits_after - logits_before`.
    ///
    /// # Errors
    /// [`NotAlike`](crate::Error::NotAlike) where configs or tokenizers differ,
    /// [`NotTrainable`](crate::Error::NotTrainable) for models of other families.
    pub fn transplanted(base: &'a LoadedModel, before: &'a LoadedModel, after: &'a LoadedModel) -> Result<Self> {
        for other in [before, after] {
            mixing::check(
                [base.decoder()?.config(), other.decoder()?.config()],
                [base, other].map(LoadedModel::tokenizer),
                1.0,
            )?;
        }
        let models = [(1.0, base), (-1.0, before), (1.0, after)];
        let fingerprint =
            mixing::fingerprint("realigned", &models.map(|(weight, model)| (weight, model.fingerprint())));
        let parts = models.iter().map(|&(weight, model)| Ok((weight, model.decoder()?))).collect::<Result<_>>()?;
        Ok(Self { parts, last: after, fingerprint })
    }
}

impl Subject for Realigned<'_> {
    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn render(&self, prompt: &Prompt) -> Result<String> {
        self.last.render(prompt)
    }

    fn end_of_turn(&self) -> Option<&str> {
        self.last.end_of_turn()
    }

    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Result<Score>>> {
        self.last.score_by(self, requests)
    }

    fn generate(&self, requests: &[GenerateRequest]) -> Result<Vec<Result<Generation>>> {
        self.last.generate_by(self, requests, Choice::Greedy, &mut greedy())
    }
}

impl NextToken for Realigned<'_> {
    /// One for each model.
    type Cache = Vec<KvCache>;

    fn config(&self) -> &ModelConfig {
        self.last.config()
    }

    fn numbers_per_token(&self) -> usize {
        self.parts.iter().map(|(_, decoder)| decoder.numbers_per_token()).sum()
    }

    fn new_cache(&self, n_rows: usize, max_len: usize) -> Result<Self::Cache> {
        self.parts.iter().map(|(_, decoder)| decoder.new_cache(n_rows, max_len)).collect()
    }

    fn tree_cache(&self, tree: TokenTree) -> Result<Option<Self::Cache>> {
        Ok(self.parts.iter().map(|(_, decoder)| decoder.tree_cache(tree.clone())).collect())
    }

    fn read(
        &self,
        caches: &mut Self::Cache,
        tokens: &Tokens,
        after: After,
        mut see: impl FnMut(usize, &[f32]),
    ) -> Result<()> {
        // Few rows are held until the logits of all models are there.
        const CHUNK_ROWS: usize = 256;
        let hidden = self
            .parts
            .iter()
            .zip(caches)
            .map(|((_, decoder), cache)| decoder.hidden_after(cache, tokens, after)) // (N, d) each
            .collect::<Result<Vec<_>>>()?;
        let (n_rows, _) = hidden[0].dims2()?;
        let vocab_size = self.config().vocab_size;
        for start in (0..n_rows).step_by(CHUNK_ROWS) {
            let n_chunk = CHUNK_ROWS.min(n_rows - start);
            let mut sum = vec![0.0_f64; n_chunk * vocab_size];
            for ((weight, decoder), hidden) in self.parts.iter().zip(&hidden) {
                decoder.for_each_logits(&hidden.narrow(0, start, n_chunk)?, |i, logits| {
                    for (sum, &logit) in sum[i * vocab_size..][..vocab_size].iter_mut().zip(logits) {
                        *sum += weight * f64::from(logit);
                    }
                })?;
            }
            let mut row = vec![0.0_f32; vocab_size];
            for (i, sums) in sum.chunks_exact(vocab_size).enumerate() {
                for (logit, &sum) in row.iter_mut().zip(sums) {
                    *logit = sum as f32;
                }
                see(start + i, &row);
            }
        }
        Ok(())
    }

    fn truncate(caches: &mut Self::Cache, row: usize, len: usize) -> Result<()> {
        caches.iter_mut().try_for_each(|cache| Ok(cache.truncate(row, len)?))
    }

    fn copy_prefix(caches: &mut Self::Cache, from: usize, len: usize, to: &[usize]) -> Result<()> {
        caches.iter_mut().try_for_each(|cache| Ok(cache.copy_prefix(from, len, to)?))
    }
}

#[cfg(test)]
mod tests {
    use super::Realigned;
    use crate::batch::Batch;
    use crate::checkpoint::Checkpoint;
    use crate::config::ModelConfig;
    use crate::generation::{Choice, Completion, Prompt, generate};
    use crate::interpolation::interpolate;
    use crate::model::LoadedModel;
    use crate::model::tests::{generations, scores, tiny_checkpoint, tiny_tokenizer};
    use crate::scoring::{self, TokenRequest};
    use crate::subject::Subject;
    use crate::{Error, random};
    use proptest::prelude::*;
    use rand::Rng;

    fn model(seed: u64) -> LoadedModel {
        LoadedModel::new(&tiny_checkpoint(seed)).unwrap()
    }

    fn rows(seed: u64, lengths: &[usize]) -> Vec<Vec<u32>> {
        let mut stream = random::stream(seed, "rows", 0);
        lengths.iter().map(|&n| (0..n).map(|_| stream.random_range(6..262)).collect()).collect()
    }

    /// Next-token log-probabilities after all of `ids`: both models read everything anew, and are mixed in f64.
    fn log_probs(reference: &LoadedModel, aligned: &LoadedModel, lambda: f64, ids: &[u32]) -> Vec<f64> {
        let [reference, aligned] = [reference, aligned].map(|model| {
            let logits =
                model.decoder().unwrap().logits(&Batch::pad(&[ids]).unwrap()).unwrap().to_vec3::<f32>().unwrap();
            logits[0].last().unwrap().clone()
        });
        let mix = |(&a, &b): (&f32, &f32)| (1.0 - lambda) * f64::from(a) + lambda * f64::from(b);
        let logits: Vec<f64> = reference.iter().zip(&aligned).map(mix).collect();
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_total = top + logits.iter().map(|logit| (logit - top).exp()).sum::<f64>().ln();
        logits.iter().map(|logit| logit - log_total).collect()
    }

    fn greedy(model: &Realigned, rows: &[Vec<u32>], max_new_tokens: usize) -> Vec<Completion> {
        let prompts: Vec<Prompt> = rows.iter().map(|ids| Prompt { ids: ids.clone(), max_new_tokens }).collect();
        generate(model, &prompts, Choice::Greedy, &[5], &mut random::stream(1, "test", 0)).unwrap()
    }

    #[test]
    fn the_ends_answer_as_the_models_themselves_do() {
        let (reference, aligned) = (model(1), model(2));
        for (lambda, own) in [(0.0, &reference), (1.0, &aligned)] {
            let end = Realigned::new(&reference, &aligned, lambda).unwrap();
            let (scores, own_scores) = (scores(&end), scores(own));
            for (a, b) in scores.iter().zip(&own_scores) {
                assert!((a.log_prob_nats - b.log_prob_nats).abs() < 1e-6, "{a:?} {b:?}");
                assert_eq!((a.n_tokens, a.is_greedy), (b.n_tokens, b.is_greedy));
            }
            assert_eq!(generations(&end), generations(own));
        }
        let answers = |model: &dyn Subject| generations(model);
        assert_ne!(answers(&reference), answers(&aligned));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn each_greedy_token_is_the_most_likely_of_the_mixture(seed in 0_u64..10_000, lambda in 0.0_f64..2.0) {
            let (reference, aligned) = (model(seed), model(seed + 1));
            let realigned = Realigned::new(&reference, &aligned, lambda).unwrap();
            // The second prompt stands twice, and the third is longer than the window allows to complete.
            let mut rows = rows(seed, &[5, 12, 60, 1]);
            rows.push(rows[1].clone());
            let completions = greedy(&realigned, &rows, 7);
            prop_assert_eq!(&completions[1], &completions[4]);
            prop_assert!(completions[2].is_complete || completions[2].ids.len() == 4);
            for (row, completion) in rows.iter().zip(&completions) {
                let mut ids = row.clone();
                for (&id, &log_prob) in completion.ids.iter().zip(&completion.log_probs) {
                    let exact = log_probs(&reference, &aligned, lambda, &ids);
                    let best = exact.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    prop_assert!(exact[id as usize] > best - 1e-3, "{} {best}", exact[id as usize]);
                    prop_assert!((exact[id as usize] - f64::from(log_prob)).abs() < 1e-3, "{} {log_prob}", exact[id as usize]);
                    ids.push(id);
                }
            }
        }

        #[test]
        fn scores_are_those_of_the_mixture_and_those_of_the_vocabulary_sum_to_one(
            seed in 0_u64..10_000,
            lambda in 0.0_f64..2.0,
        ) {
            let (reference, aligned) = (model(seed), model(seed + 1));
            let realigned = Realigned::new(&reference, &aligned, lambda).unwrap();
            let contexts = rows(seed, &[6, 1, 19]);
            let continuations = rows(seed + 1, &[3, 1, 8]);
            let mut requests: Vec<TokenRequest> = contexts
                .iter()
                .flat_map(|context| continuations.iter().map(|it| (context.clone(), it.clone())))
                .map(|(context, continuation)| TokenRequest { context, continuation })
                .collect();
            for (score, request) in scoring::score(&realigned, &requests).unwrap().iter().zip(&requests) {
                let mut ids = request.context.clone();
                let mut exact = 0.0;
                for &id in &request.continuation {
                    exact += log_probs(&reference, &aligned, lambda, &ids)[id as usize];
                    ids.push(id);
                }
                prop_assert!((score.log_prob_nats - exact).abs() < 1e-3, "{score:?} {exact}");
            }
            requests.clear();
            for id in 0..realigned.last.config().vocab_size as u32 {
                requests.push(TokenRequest { context: contexts[0].clone(), continuation: vec![id] });
            }
            let scores = scoring::score(&realigned, &requests).unwrap();
            let total: f64 = scores.iter().map(|score| score.log_prob_nats.exp()).sum();
            prop_assert!((total - 1.0).abs() < 1e-5, "{total}");
            prop_assert_eq!(scores.iter().filter(|score| score.is_greedy == Some(true)).count(), 1);
        }
    }

    #[test]
    fn batched_decoding_equals_two_full_passes_for_each_token() {
        let (reference, aligned) = (model(3), model(4));
        for lambda in [0.25, 0.75, 1.5] {
            let realigned = Realigned::new(&reference, &aligned, lambda).unwrap();
            let rows = rows(3, &[4; 70]);
            for (row, completion) in rows.iter().zip(greedy(&realigned, &rows, 5)) {
                let mut ids = row.clone();
                while ids.len() < row.len() + 5 && (ids.len() == row.len() || ids.last() != Some(&5)) {
                    let exact = log_probs(&reference, &aligned, lambda, &ids);
                    ids.push((0..exact.len()).max_by(|&a, &b| exact[a].total_cmp(&exact[b])).unwrap() as u32);
                }
                assert_eq!(completion.ids, ids[row.len()..]);
            }
        }
    }

    #[test]
    fn samples_follow_the_mixture() {
        let (reference, aligned) = (model(5), model(6));
        let realigned = Realigned::new(&reference, &aligned, 0.5).unwrap();
        let prompt = Prompt { ids: rows(5, &[6]).remove(0), max_new_tokens: 1 };
        let n = 4_000;
        let prompts = vec![prompt.clone(); n];
        let mut stream = random::stream(1, "test", 0);
        let drawn = generate(&realigned, &prompts, Choice::Temperature(1.0), &[], &mut stream).unwrap();
        for (id, log_prob) in log_probs(&reference, &aligned, 0.5, &prompt.ids).into_iter().enumerate() {
            let p = log_prob.exp();
            let share = drawn.iter().filter(|it| it.ids[0] as usize == id).count() as f64 / n as f64;
            // Five standard errors, for each of 262 tokens.
            assert!((share - p).abs() < 5.0 * (p * (1.0 - p) / n as f64).sqrt() + 1e-3, "token {id}: {share} {p}");
        }
    }

    #[test]
    fn a_transplanted_phase_that_did_nothing_leaves_the_base_and_on_its_own_start_gives_its_end() {
        let (base, before, after) = (model(1), model(2), model(3));
        let same = |sum: Realigned, model: &LoadedModel| {
            for (a, b) in scores(&sum).iter().zip(scores(model)) {
                assert!((a.log_prob_nats - b.log_prob_nats).abs() < 1e-4, "{a:?} {b:?}");
            }
        };
        same(Realigned::transplanted(&base, &before, &before).unwrap(), &base);
        same(Realigned::transplanted(&before, &before, &after).unwrap(), &after);
        let moved = Realigned::transplanted(&base, &before, &after).unwrap();
        let ids = rows(1, &[9]).remove(0);
        let logits = |model: &LoadedModel| -> Vec<f32> {
            model.decoder().unwrap().logits(&Batch::pad(&[&ids]).unwrap()).unwrap().to_vec3().unwrap()[0][8].clone()
        };
        let (base, before, after) = (logits(&base), logits(&before), logits(&after));
        let best = (0..base.len())
            .max_by(|&a, &b| (base[a] - before[a] + after[a]).total_cmp(&(base[b] - before[b] + after[b])));
        assert_eq!(greedy(&moved, &[ids], 1)[0].ids[0] as usize, best.unwrap());
    }

    #[test]
    fn each_place_kind_and_order_has_a_key_of_its_own() {
        let (reference, aligned) = (model(1), model(2));
        let key = |a, b, lambda| Realigned::new(a, b, lambda).unwrap().fingerprint().to_owned();
        let half = key(&reference, &aligned, 0.5);
        assert_eq!(half, key(&reference, &aligned, 0.5));
        assert_ne!(half, key(&reference, &aligned, 0.75));
        assert_ne!(half, key(&aligned, &reference, 0.5));
        assert_ne!(half, interpolate(&tiny_checkpoint(1), &tiny_checkpoint(2), 0.5).unwrap().fingerprint());
    }

    #[test]
    fn models_that_are_not_alike_are_refused_by_what_differs() {
        let checkpoint = tiny_checkpoint(1);
        let refusal = |aligned: &Checkpoint| {
            let (reference, aligned) = (LoadedModel::new(&checkpoint).unwrap(), LoadedModel::new(aligned).unwrap());
            Realigned::new(&reference, &aligned, 0.5).unwrap_err().to_string()
        };
        let talkative = ModelConfig { eos_token_ids: vec![4, 5], ..checkpoint.config.clone() };
        assert!(
            refusal(&Checkpoint { config: talkative, ..checkpoint.clone() })
                .ends_with("cannot be mixed: `eos_token_id` is 5 in the reference and [4,5] in the aligned model")
        );
        let tokenizer = tiny_tokenizer("other words were learnt here");
        assert!(
            refusal(&Checkpoint { tokenizer, ..checkpoint.clone() })
                .contains("tokenizer.json of their tokenizers differs")
        );
        let own = LoadedModel::new(&checkpoint).unwrap();
        assert!(matches!(Realigned::new(&own, &own, -1.0), Err(Error::BadLambda { lambda: -1.0 })));
    }
}
