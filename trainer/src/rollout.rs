//! Sampling from a policy, and what a step of policy optimisation needs to know about the samples.

use crate::advantage::estimate_kl;
use crate::batch::Example;
use crate::error::Result;
use crate::recipe::{Positive, count};
use crate::sequence::{ROWS_WITHOUT_GRADIENT, encode_prompt, lay_out, numbers, widen};
use candle_core::{D, DType, Tensor};
use lm::chat::Message;
use lm::checkpoint::Checkpoint;
use lm::decoder::Decoder;
use lm::generation::{Choice, Prompt, generate};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;

/// How answers are sampled (`[PHASE.sampling]`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingRecipe {
    /// Divides the logits; 1 samples from the model as it is. Default 1.
    pub temperature: Positive,
    /// Most tokens of an answer, the one that ends it included. Default 24.
    pub max_new_tokens: NonZeroUsize,
}

impl Default for SamplingRecipe {
    fn default() -> Self {
        Self { temperature: Positive::new(1.0).expect("in range"), max_new_tokens: count(24) }
    }
}

/// An answer sampled from a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Token ids of the prompt, up to and including the opening of the assistant's turn.
    pub(crate) prompt: Vec<u32>,
    /// Token ids of the answer; a finished one ends with the token that ends a turn.
    pub(crate) response: Vec<u32>,
    /// Whether it ended by itself.
    pub(crate) is_finished: bool,
}

impl Answer {
    /// The response without the token that ends it.
    pub(crate) fn content(&self) -> &[u32] {
        &self.response[..self.response.len() - usize::from(self.is_finished)]
    }

    /// What is learnt of it: the response.
    pub(crate) fn example(&self) -> Example {
        let ids = [self.prompt.as_slice(), &self.response].concat();
        let is_target = (0..ids.len()).map(|t| t >= self.prompt.len()).collect();
        Example { ids, is_target }
    }
}

/// Samples an answer to each prompt; the same prompt twice gives two answers.
///
/// Each answer depends on its prompt, its place in the list, the generator and the weights; not on what else is sampled beside it.
///
/// # Errors
/// Where a prompt fills the context.
pub(crate) fn sample(
    decoder: &Decoder,
    prompts: &[Vec<u32>],
    recipe: &SamplingRecipe,
    stop_ids: &[u32],
    random: &mut ChaCha8Rng,
) -> Result<Vec<Answer>> {
    let max_new_tokens = recipe.max_new_tokens.get();
    let requests: Vec<Prompt> = prompts.iter().map(|ids| Prompt { ids: ids.clone(), max_new_tokens }).collect();
    let choice = Choice::Temperature(recipe.temperature.get());
    let completions = generate(decoder, &requests, choice, stop_ids, random)?;
    let answers = prompts.iter().zip(completions).map(|(prompt, completion)| Answer {
        prompt: prompt.clone(),
        response: completion.ids,
        is_finished: completion.is_complete,
    });
    Ok(answers.collect())
}

/// Samples what the model says next in each conversation, trimmed; `None` where that does not end by itself, is empty, or where
/// the conversation leaves no room for it.
///
/// # Errors
/// Where the tokenizer has no chat template or refuses a conversation.
pub(crate) fn reply(
    decoder: &Decoder,
    model: &Checkpoint,
    conversations: &[Vec<Message>],
    recipe: &SamplingRecipe,
    random: &mut ChaCha8Rng,
) -> Result<Vec<Option<String>>> {
    let room = model.config.max_position_embeddings.saturating_sub(recipe.max_new_tokens.get());
    let mut prompts = Vec::with_capacity(conversations.len());
    let mut fits = Vec::with_capacity(conversations.len());
    for conversation in conversations {
        let ids = encode_prompt(&model.tokenizer, conversation)?;
        fits.push(ids.len() <= room);
        if ids.len() <= room {
            prompts.push(ids);
        }
    }
    let mut answers = sample(decoder, &prompts, recipe, &model.config.eos_token_ids, random)?.into_iter();
    let mut replies = Vec::with_capacity(conversations.len());
    for fits in fits {
        let answer = if fits { answers.next().filter(|answer| answer.is_finished) } else { None };
        let text = answer.map(|answer| model.tokenizer.decode(answer.content())).transpose()?;
        replies.push(text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()));
    }
    Ok(replies)
}

/// What two policies say of each token of an answer, in the order of its tokens.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Trace {
    /// `ln pi(token)` under the policy, in nats.
    pub(crate) log_probs: Vec<f64>,
    /// The same under the reference.
    pub(crate) reference: Vec<f64>,
    /// Entropy of the policy before each token, in nats.
    pub(crate) entropies: Vec<f64>,
    /// Exact divergence of the policy from the reference before each token, in nats.
    pub(crate) divergences: Vec<f64>,
    /// The critic's value before each token; empty without a critic.
    pub(crate) values: Vec<f64>,
}

impl Trace {
    /// `ln pi(token) - ln ref(token)` of each token: the estimate `k1`, whose mean over samples is the divergence.
    pub(crate) fn k1(&self) -> impl Iterator<Item = f64> {
        self.log_probs.iter().zip(&self.reference).map(|(&policy, &reference)| estimate_kl(policy, reference).k1)
    }

    /// The estimate `k3` of each token, which is never negative.
    pub(crate) fn k3(&self) -> impl Iterator<Item = f64> {
        self.log_probs.iter().zip(&self.reference).map(|(&policy, &reference)| estimate_kl(policy, reference).k3)
    }
}

/// Traces answers through a policy and its reference; both without gradients.
///
/// `critic` is the value head, (1, d).
pub(crate) fn trace(
    policy: &Decoder,
    reference: &Decoder,
    critic: Option<&Tensor>,
    examples: &[Example],
    sequence_tokens: usize,
) -> Result<Vec<Trace>> {
    let mut traces = vec![Trace::default(); examples.len()];
    for layout in lay_out(examples, sequence_tokens, ROWS_WITHOUT_GRADIENT)? {
        let targets = layout.targets();
        let policy_hidden = layout.hidden_at(policy, &targets.positions)?; // (N, d)
        let reference_hidden = layout.hidden_at(reference, &targets.positions)?;
        if let Some(critic) = critic {
            let values = numbers(&kernels::linear(&widen(&policy_hidden)?, critic)?)?;
            for (&owner, value) in targets.owners.iter().zip(values) {
                traces[owner].values.push(value);
            }
        }
        // In chunks, so that there are never as many logits as tokens times the vocabulary.
        for start in (0..targets.ids.len()).step_by(CHUNK_TOKENS) {
            let n = CHUNK_TOKENS.min(targets.ids.len() - start);
            let policy_logits = policy.logits_after(&policy_hidden.narrow(0, start, n)?)?;
            let reference_logits = reference.logits_after(&reference_hidden.narrow(0, start, n)?)?;
            let ids = &targets.ids[start..start + n];
            let contrasts = if policy_logits.device().is_cpu() {
                contrast_in_f64(&policy_logits, &reference_logits, ids)?
            } else {
                contrast_in_place(&policy_logits, &reference_logits, ids)?
            };
            for (contrast, &owner) in contrasts.into_iter().zip(&targets.owners[start..]) {
                let trace = &mut traces[owner];
                trace.log_probs.push(contrast.log_prob);
                trace.reference.push(contrast.reference);
                trace.entropies.push(contrast.entropy);
                trace.divergences.push(contrast.divergence);
            }
        }
    }
    Ok(traces)
}

/// Tokens whose logits exist at the same time.
const CHUNK_TOKENS: usize = 256;

/// Compares the distributions of each row of logits (N, V), and their log-probabilities of that row's token.
fn contrast_in_f64(policy: &Tensor, reference: &Tensor, ids: &[u32]) -> Result<Vec<Contrast>> {
    let rows = |logits: &Tensor| logits.to_dtype(DType::F64)?.to_vec2::<f64>();
    let pairs = rows(policy)?.into_iter().zip(rows(reference)?).zip(ids);
    Ok(pairs.map(|((p, q), &id)| contrast(&p, &q, id as usize)).collect())
}

/// The same in f32, where the logits are: no more than four numbers a row come back from a GPU.
fn contrast_in_place(policy: &Tensor, reference: &Tensor, ids: &[u32]) -> Result<Vec<Contrast>> {
    let log_softmax = |logits: &Tensor| logits.broadcast_sub(&logits.log_sum_exp(D::Minus1)?.unsqueeze(1)?);
    let (log_p, log_q) = (log_softmax(policy)?, log_softmax(reference)?);
    let p = log_p.exp()?;
    let ids = Tensor::new(ids, policy.device())?.unsqueeze(1)?;
    let of_token = |log_probs: &Tensor| -> Result<Vec<f64>> { numbers(&log_probs.gather(&ids, 1)?) };
    let (log_probs, references) = (of_token(&log_p)?, of_token(&log_q)?);
    let entropies = numbers(&(&p * &log_p)?.sum(D::Minus1)?.neg()?)?;
    let divergences = numbers(&(p * (log_p - log_q)?)?.sum(D::Minus1)?)?;
    let each = log_probs.into_iter().zip(references).zip(entropies.into_iter().zip(divergences));
    Ok(each
        .map(|((log_prob, reference), (entropy, divergence))| Contrast { log_prob, reference, entropy, divergence })
        .collect())
}

/// Two distributions over the next token, compared.
struct Contrast {
    log_prob: f64,
    reference: f64,
    entropy: f64,
    divergence: f64,
}

/// Compares the distributions of two rows of logits, and their log-probabilities of `token`.
fn contrast(policy: &[f64], reference: &[f64], token: usize) -> Contrast {
    let (policy_norm, reference_norm) = (log_sum_exp(policy), log_sum_exp(reference));
    let (mut entropy, mut divergence) = (0.0, 0.0);
    for (p, q) in policy.iter().zip(reference) {
        let log_p = p - policy_norm;
        let probability = log_p.exp();
        entropy -= probability * log_p;
        divergence += probability * (log_p - (q - reference_norm));
    }
    Contrast {
        log_prob: policy[token] - policy_norm,
        reference: reference[token] - reference_norm,
        entropy,
        divergence,
    }
}

fn log_sum_exp(values: &[f64]) -> f64 {
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + values.iter().map(|v| (v - max).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::{Answer, contrast, contrast_in_f64, contrast_in_place};
    use candle_core::{Device, Tensor};
    use rand::Rng;

    #[test]
    fn entropy_and_divergence_are_those_worked_by_hand() {
        // p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2): H(p) = 1.5 ln 2; KL(p || q) = (1/2 - 1/4) ln 2
        let ln = |values: [f64; 3]| values.map(|v: f64| v.ln() + 3.0);
        let found = contrast(&ln([0.5, 0.25, 0.25]), &ln([0.25, 0.25, 0.5]), 2);
        let ln2 = std::f64::consts::LN_2;
        for (found, expected) in [
            (found.entropy, 1.5 * ln2),
            (found.divergence, 0.25 * ln2),
            (found.log_prob, -2.0 * ln2),
            (found.reference, -ln2),
        ] {
            assert!((found - expected).abs() < 1e-12, "{found} against {expected}");
        }
    }

    #[test]
    fn distributions_are_compared_alike_on_the_host_and_where_they_are() {
        let mut random = lm::random::stream(1, "logits", 0);
        let mut logits = |spread: f32| {
            let values: Vec<f32> = (0..5 * 700).map(|_| (random.random::<f32>() - 0.5) * spread).collect();
            Tensor::from_vec(values, (5, 700), &Device::Cpu).unwrap()
        };
        let (policy, other) = (logits(20.0), logits(12.0));
        for reference in [&policy, &other] {
            let ids = [0, 699, 3, 350, 77];
            let found = contrast_in_place(&policy, reference, &ids).unwrap();
            let expected = contrast_in_f64(&policy, reference, &ids).unwrap();
            for (found, expected) in found.iter().zip(&expected) {
                for (found, expected) in [
                    (found.log_prob, expected.log_prob),
                    (found.reference, expected.reference),
                    (found.entropy, expected.entropy),
                    (found.divergence, expected.divergence),
                ] {
                    assert!((found - expected).abs() < 1e-5 * expected.abs().max(1.0), "{found} against {expected}");
                }
            }
        }
    }

    #[test]
    fn the_response_is_learnt_and_nothing_else() {
        let answer = Answer { prompt: vec![1, 2, 3], response: vec![7, 8, 5], is_finished: true };
        let example = answer.example();
        assert_eq!(example.ids, [1, 2, 3, 7, 8, 5]);
        assert_eq!(example.is_target, [false, false, false, true, true, true]);
        assert_eq!(answer.content(), [7, 8]);
    }
}
