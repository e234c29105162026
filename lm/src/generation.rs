//! Completions of many prompts at once, over a cache of keys and values.

use crate::next_token::{After, NextToken, Tokens};
use crate::{Error, Result};
use kernels::{Draw, argmax, log_sum_exp};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::BTreeMap;

/// A prompt and how far to go on from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Token ids to continue, at least one.
    pub ids: Vec<u32>,
    /// Most tokens to add; fewer where the context window ends before.
    pub max_new_tokens: usize,
}

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Choice {
    /// The most likely token; of equals the one with the lowest id.
    Greedy,
    /// Drawn from the softmax of `logits / temperature`; the temperature is positive.
    Temperature(f64),
}

/// What a model added to a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The tokens added, with the one that ended it.
    pub ids: Vec<u32>,
    /// `ln p(token | everything before)` of each, at temperature 1 whatever the temperature of the draw.
    pub log_probs: Vec<f32>,
    /// Whether a stop token (or the caller) ended it rather than the token limit.
    pub is_complete: bool,
}

/// Completes each prompt until one of `stop_ids` or its token limit; results in the order of the prompts.
///
/// Each prompt draws from a generator of its own, seeded from `stream` in the order of the prompts, so that a completion does
/// not depend on which others run beside it. Equal prompts are read once. A prompt that is done makes room for the next.
///
/// # Errors
/// Where a prompt is empty or fills the context window, or an id lies outside the vocabulary.
pub fn generate(
    model: &impl NextToken,
    prompts: &[Prompt],
    choice: Choice,
    stop_ids: &[u32],
    stream: &mut ChaCha8Rng,
) -> Result<Vec<Completion>> {
    generate_until(model, prompts, choice, stream, |_, ids| ids.last().is_some_and(|id| stop_ids.contains(id)))
}

/// As [`generate`], but ends a completion when `is_done(prompt_idx, ids so far)` says so.
///
/// # Errors
/// As [`generate`].
pub fn generate_until<M: NextToken>(
    model: &M,
    prompts: &[Prompt],
    choice: Choice,
    stream: &mut ChaCha8Rng,
    mut is_done: impl FnMut(usize, &[u32]) -> bool,
) -> Result<Vec<Completion>> {
    let window = model.config().max_position_embeddings;
    let mut max_len = 0;
    for (idx, prompt) in prompts.iter().enumerate() {
        if prompt.ids.is_empty() {
            return Err(Error::Empty { what: format!("prompt {idx}") });
        }
        model.config().require_fit(&format!("prompt {idx}"), prompt.ids.len())?;
        max_len = max_len.max(prompt.ids.len() + prompt.max_new_tokens);
    }
    let max_len = max_len.min(window);
    let mut answers: Vec<Answer> = prompts
        .iter()
        .map(|prompt| Answer {
            limit: prompt.max_new_tokens.min(window - prompt.ids.len()),
            generator: ChaCha8Rng::seed_from_u64(stream.random()),
            completion: Completion { ids: Vec::new(), log_probs: Vec::new(), is_complete: false },
        })
        .collect();

    // Equal prompts next to each other, so that they are admitted together; popped from the end.
    let mut waiting: Vec<usize> = (0..prompts.len()).filter(|&idx| answers[idx].limit > 0).collect();
    waiting.sort_by(|&a, &b| (&prompts[b].ids, b).cmp(&(&prompts[a].ids, a)));
    let n_slots = slots(model.numbers_per_token() * max_len).min(waiting.len());
    let mut cache = model.new_cache(n_slots, max_len)?;
    let mut free: Vec<usize> = (0..n_slots).rev().collect();
    let mut active: Vec<Running> = Vec::new();
    while !(waiting.is_empty() && active.is_empty()) {
        let admitted: Vec<Running> = std::iter::from_fn(|| {
            let slot = free.pop()?;
            let Some(idx) = waiting.pop() else {
                free.push(slot);
                return None;
            };
            Some(Running { slot, idx })
        })
        .collect();
        read_prompts(model, prompts, &admitted, &mut cache, &mut answers, choice)?;
        let continuing = std::mem::take(&mut active);
        if !continuing.is_empty() {
            let mut tokens = Tokens::default();
            let mut picks = Vec::with_capacity(continuing.len());
            for (i, row) in continuing.iter().enumerate() {
                tokens.push(row.slot, &[answers[row.idx].last_id()]);
                picks.push((i, answers[row.idx].draw(choice)));
            }
            let chosen = model.choose(&mut cache, &tokens, After::Each, &picks)?;
            for (row, chosen) in continuing.iter().zip(chosen) {
                answers[row.idx].add(chosen);
            }
        }
        for row in continuing.into_iter().chain(admitted) {
            let answer = &mut answers[row.idx];
            answer.completion.is_complete = is_done(row.idx, &answer.completion.ids);
            if answer.completion.is_complete || answer.completion.ids.len() == answer.limit {
                M::truncate(&mut cache, row.slot, 0)?;
                free.push(row.slot);
            } else {
                active.push(row);
            }
        }
    }
    Ok(answers.into_iter().map(|answer| answer.completion).collect())
}

/// Rows that run at the same time at most: beyond this the products are not any faster.
const MAX_SLOTS: usize = 64;
/// Most numbers that the cache may hold (1 GiB of f32).
const MAX_CACHE_NUMBERS: usize = 1 << 28;
/// Tokens of prompts that are read at the same time.
const READ_TOKENS: usize = 4096;

fn slots(per_row: usize) -> usize {
    (MAX_CACHE_NUMBERS / per_row.max(1)).clamp(1, MAX_SLOTS)
}

/// A prompt that is being completed, and its cache row.
struct Running {
    slot: usize,
    idx: usize,
}

struct Answer {
    limit: usize,
    generator: ChaCha8Rng,
    completion: Completion,
}

impl Answer {
    fn last_id(&self) -> u32 {
        *self.completion.ids.last().expect("a running answer has its first token from reading the prompt")
    }

    /// How its next token is chosen.
    fn draw(&mut self, choice: Choice) -> Draw {
        match choice {
            Choice::Greedy => Draw::Greedy,
            Choice::Temperature(temperature) => Draw::Softmax { temperature, u: self.generator.random() },
        }
    }

    fn add(&mut self, (id, log_prob): (u32, f32)) {
        self.completion.ids.push(id);
        self.completion.log_probs.push(log_prob);
    }
}

/// The token that is chosen from a row of logits, and its log-probability at temperature 1.
pub(crate) fn choose(logits: &[f32], how: Draw) -> (u32, f32) {
    let id = match how {
        Draw::Greedy => argmax(logits),
        Draw::Softmax { temperature, u } => draw(logits, temperature, u),
    };
    (id as u32, (f64::from(logits[id]) - log_sum_exp(logits)) as f32)
}

/// Least number of tokens that two prompts must share at their beginning to be put together, and least number of tokens that need not
/// be read again if those so put together share it: reading few tokens by themselves costs about as much.
const MIN_SHARED: usize = 16;
const MIN_SPARED: usize = 64;

/// Reads the prompts of newly admitted rows and chooses the first token of each.
fn read_prompts<M: NextToken>(
    model: &M,
    prompts: &[Prompt],
    admitted: &[Running],
    cache: &mut M::Cache,
    answers: &mut [Answer],
    choice: Choice,
) -> Result<()> {
    // Runs of equal prompts: the first of each is read, the others take over its keys and values.
    let runs: Vec<&[Running]> = admitted.chunk_by(|a, b| prompts[a.idx].ids == prompts[b.idx].ids).collect();
    let n_known = share_beginnings(model, prompts, &runs, cache)?;
    let mut rest = runs.as_slice();
    while !rest.is_empty() {
        let mut n_tokens = 0;
        let n_runs = rest.iter().take_while(|run| {
            let is_first = n_tokens == 0;
            n_tokens += prompts[run[0].idx].ids.len() - n_known[&run[0].slot];
            is_first || n_tokens <= READ_TOKENS
        });
        let (now, later) = rest.split_at(n_runs.count());
        rest = later;
        let mut tokens = Tokens::default();
        let mut picks = Vec::new();
        for (i, run) in now.iter().enumerate() {
            tokens.push(run[0].slot, &prompts[run[0].idx].ids[n_known[&run[0].slot]..]);
            picks.extend(run.iter().map(|row| (i, answers[row.idx].draw(choice))));
        }
        let chosen = model.choose(cache, &tokens, After::Runs, &picks)?;
        for (row, chosen) in now.iter().copied().flatten().zip(chosen) {
            answers[row.idx].add(chosen);
        }
        for run in now {
            let others: Vec<usize> = run[1..].iter().map(|row| row.slot).collect();
            M::copy_prefix(cache, run[0].slot, prompts[run[0].idx].ids.len(), &others)?;
        }
    }
    Ok(())
}

/// Reads beginnings that sorted prompts share, each once, into the rows of all of them; how many tokens each row of the cache holds
/// then.
///
/// No bit of a completion depends on it: what is left of a prompt is long enough to be read in the way in which a whole one is.
fn share_beginnings<M: NextToken>(
    model: &M,
    prompts: &[Prompt],
    runs: &[&[Running]],
    cache: &mut M::Cache,
) -> Result<BTreeMap<usize, usize>> {
    let ids = |run: &[Running]| prompts[run[0].idx].ids.as_slice();
    // What is left of a prompt must be long enough for `kernels::PREFILL_TOKENS`.
    let n_shareable = |run: &[Running]| ids(run).len().saturating_sub(kernels::PREFILL_TOKENS);
    let n_alike = |a: &[Running], b: &[Running]| {
        let n_alike = ids(a).iter().zip(ids(b)).take_while(|(a, b)| a == b).count();
        n_alike.min(n_shareable(a)).min(n_shareable(b))
    };
    let mut n_known: BTreeMap<usize, usize> = runs.iter().map(|run| (run[0].slot, 0)).collect();
    let mut rest = runs;
    while let Some((first, others)) = rest.split_first() {
        let mut n_shared = usize::MAX;
        let with_first = others.iter().take_while(|run| {
            let n = n_alike(first, run);
            let is_alike = n >= MIN_SHARED;
            n_shared = if is_alike { n_shared.min(n) } else { n_shared };
            is_alike
        });
        let (family, later) = others.split_at(with_first.count());
        rest = later;
        if n_shared.saturating_mul(family.len()) < MIN_SPARED {
            continue;
        }
        let slots: Vec<usize> = family.iter().map(|run| run[0].slot).collect();
        n_known.extend(slots.iter().chain([&first[0].slot]).map(|&slot| (slot, n_shared)));
        let mut tokens = Tokens::default();
        tokens.push(first[0].slot, &ids(first)[..n_shared]);
        model.read(cache, &tokens, After::Runs, |_, _| {})?;
        M::copy_prefix(cache, first[0].slot, n_shared, &slots)?;
    }
    Ok(n_known)
}

/// The token at which the cumulated probability passes `u`, for `u` in [0, 1).
fn draw(logits: &[f32], temperature: f64, u: f64) -> usize {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let weight = |logit: f32| ((f64::from(logit) - largest) / temperature).exp();
    let mut rest = u * logits.iter().map(|&logit| weight(logit)).sum::<f64>();
    for (idx, &logit) in logits.iter().enumerate() {
        rest -= weight(logit);
        if rest < 0.0 {
            return idx;
        }
    }
    // Rounding may leave a remainder at the very end.
    argmax(logits)
}

#[cfg(test)]
mod tests {
    use super::{Choice, Completion, Prompt, draw, generate};
    use crate::batch::Batch;
    use crate::decoder::Decoder;
    use crate::decoder::tests::{random_rows, tiny_decoder};
    use crate::{Error, random};
    use kernels::{argmax, log_sum_exp};

    fn prompts(rows: &[Vec<u32>], max_new_tokens: usize) -> Vec<Prompt> {
        rows.iter().map(|ids| Prompt { ids: ids.clone(), max_new_tokens }).collect()
    }

    fn run(decoder: &Decoder, prompts: &[Prompt], choice: Choice, stop_ids: &[u32]) -> Vec<Completion> {
        generate(decoder, prompts, choice, stop_ids, &mut random::stream(1, "test", 0)).unwrap()
    }

    /// Reads everything anew for each token.
    fn uncached(decoder: &Decoder, prompt: &Prompt, stop_ids: &[u32]) -> Completion {
        let mut ids = prompt.ids.clone();
        let mut completion = Completion { ids: Vec::new(), log_probs: Vec::new(), is_complete: false };
        while completion.ids.len() < prompt.max_new_tokens && !completion.is_complete {
            let logits = decoder.logits(&Batch::pad(&[&ids]).unwrap()).unwrap().to_vec3::<f32>().unwrap();
            let logits = logits[0].last().unwrap();
            let id = argmax(logits);
            completion.log_probs.push((f64::from(logits[id]) - log_sum_exp(logits)) as f32);
            completion.ids.push(id as u32);
            completion.is_complete = stop_ids.contains(&(id as u32));
            ids.push(id as u32);
        }
        completion
    }

    #[test]
    fn cached_decoding_equals_uncached_decoding() {
        let decoder = tiny_decoder(1);
        let prompts = prompts(&random_rows(1, &[1, 9, 17, 3, 12]), 12);
        // A stop token that some of the completions do meet.
        let stop = uncached(&decoder, &prompts[2], &[]).ids[4];
        let together = run(&decoder, &prompts, Choice::Greedy, &[stop]);
        assert!(together.iter().any(|completion| completion.is_complete));
        assert!(together.iter().any(|completion| !completion.is_complete));
        for (prompt, fast) in prompts.iter().zip(&together) {
            let slow = uncached(&decoder, prompt, &[stop]);
            assert_eq!((&slow.ids, slow.is_complete), (&fast.ids, fast.is_complete));
            for (a, b) in slow.log_probs.iter().zip(&fast.log_probs) {
                assert!((a - b).abs() < 1e-4, "{a} {b}");
            }
        }
    }

    #[test]
    fn more_prompts_than_slots_and_equal_prompts_change_nothing() {
        let decoder = tiny_decoder(2);
        let mut rows = random_rows(2, &[5; 90]);
        for idx in 0..40 {
            rows[idx + 50] = rows[idx % 7].clone();
        }
        let prompts = prompts(&rows, 4);
        let together = run(&decoder, &prompts, Choice::Greedy, &[]);
        for (prompt, together) in prompts.iter().zip(&together) {
            assert_eq!(run(&decoder, std::slice::from_ref(prompt), Choice::Greedy, &[])[0].ids, together.ids);
        }
    }

    #[test]
    fn prompts_that_share_a_beginning_are_completed_to_the_last_bit_as_those_alone() {
        let decoder = tiny_decoder(6);
        let beginnings = random_rows(6, &[30, 35]);
        let mut rows = random_rows(7, &[5, 9, 12, 8, 1, 20, 3]);
        for (idx, row) in rows.iter_mut().enumerate() {
            *row = [&beginnings[idx % 2], row.as_slice()].concat();
        }
        rows.push(beginnings[0].clone());
        rows.push(rows[3].clone());
        let prompts = prompts(&rows, 6);
        for (prompt, together) in prompts.iter().zip(run(&decoder, &prompts, Choice::Greedy, &[])) {
            assert_eq!(run(&decoder, std::slice::from_ref(prompt), Choice::Greedy, &[])[0], together);
        }
    }

    #[test]
    fn a_stream_repeats_its_draws_and_equal_prompts_draw_apart() {
        let decoder = tiny_decoder(3);
        let rows = random_rows(3, &[4]);
        let prompts = prompts(&[rows[0].clone(), rows[0].clone()], 20);
        let first = run(&decoder, &prompts, Choice::Temperature(1.0), &[]);
        assert_eq!(first, run(&decoder, &prompts, Choice::Temperature(1.0), &[]));
        assert_ne!(first[0].ids, first[1].ids);
        // The first prompt's draws do not depend on what runs beside it.
        assert_eq!(first[0].ids, run(&decoder, &prompts[..1], Choice::Temperature(1.0), &[])[0].ids);
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [1.0_f32, 0.0, -1.0];
        let n = 30_000;
        let mut counts = [0; 3];
        for i in 0..n {
            counts[draw(&logits, 0.5, f64::from(i) / f64::from(n))] += 1;
        }
        let total: f64 = logits.iter().map(|&x| f64::from(x * 2.0).exp()).sum();
        for (count, logit) in counts.iter().zip(logits) {
            assert!((f64::from(*count) / f64::from(n) - f64::from(logit * 2.0).exp() / total).abs() < 1e-3);
        }
        assert_eq!(draw(&logits, 1e-9, 0.999), 0);
    }

    #[test]
    fn completions_end_at_the_context_window_and_at_their_limits() {
        let decoder = tiny_decoder(4);
        let rows = random_rows(4, &[62, 3, 64]);
        let mut prompts = prompts(&rows, 10);
        prompts[1].max_new_tokens = 0;
        let lengths: Vec<usize> =
            run(&decoder, &prompts, Choice::Greedy, &[]).iter().map(|completion| completion.ids.len()).collect();
        assert_eq!(lengths, [2, 0, 0]);
        assert!(run(&decoder, &[], Choice::Greedy, &[]).is_empty());
    }

    #[test]
    fn empty_and_overlong_prompts_and_unknown_ids_are_errors() {
        let decoder = tiny_decoder(5);
        let attempt = |ids: Vec<u32>| {
            let prompt = Prompt { ids, max_new_tokens: 3 };
            generate(&decoder, &[prompt], Choice::Greedy, &[], &mut random::stream(1, "test", 0)).unwrap_err()
        };
        assert!(matches!(attempt(vec![]), Error::Empty { .. }));
        assert!(matches!(attempt(vec![7; 65]), Error::TooLong { .. }));
        assert!(matches!(attempt(vec![61]), Error::TokenOutOfRange { id: 61, vocab_size: 61 }));
    }
}
