//! Proximal policy optimisation (PPO) with a critic.
//!
//! Token `t` of an answer is rewarded with `-kl ln(pi(y_t) / ref(y_t))`, the last one with `r(y)` besides. Advantages are
//! estimated with the critic (GAE) and whitened over the round. Each step minimises the clipped surrogate plus the critic's clipped
//! error, both as means over the tokens of its minibatch.
//!
//! # Reference
//! Schulman et al. 2017, arXiv 1707.06347; Schulman et al. 2016, arXiv 1506.02438 (GAE); defaults and details as in Huang et al.
//! 2024, arXiv 2403.17031.
//!
//! # Deviations
//! The critic is a linear head on the policy's own hidden states, begun at zero, where `InstructGPT` has a network of its own, begun
//! from the reward model; its error moves the policy's layers, which `value_coefficient` holds small. There is no dropout and no
//! entropy bonus. Whitening divides by the deviation of the population, TRL's by the unbiased one. The reward comes with the last token
//! of an answer; TRL pays it one token later, in a state after the end that has a value and counts in the critic's error.

use super::method::{Credit, Graded, Tokens};
use crate::advantage::{clipped_surrogate, clipped_value_error, estimate_advantages, weigh, whiten};
use crate::error::Result;
use crate::recipe::{NonNegative, Positive, Probability, count};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;

/// Proximal policy optimisation with a critic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PpoRecipe {
    /// Passes over the answers of a round. Default 2.
    pub epochs: NonZeroUsize,
    /// Steps of one pass, each on its share of the answers. Default 1.
    pub minibatches: NonZeroUsize,
    /// How far the probability ratio counts, up and down from 1. Default 0.2.
    pub clip: Positive,
    /// How far the critic may move from its value at sampling time. Default 0.2.
    pub value_clip: Positive,
    /// Weight of the critic's error. Default 0.1.
    pub value_coefficient: NonNegative,
    /// Discount per token. Default 1.
    pub gamma: Probability,
    /// Weight of later estimates in the advantage. Default 0.95.
    pub lambda: Probability,
}

impl Default for PpoRecipe {
    fn default() -> Self {
        Self {
            epochs: count(2),
            minibatches: count(1),
            clip: Positive::new(0.2).expect("in range"),
            value_clip: Positive::new(0.2).expect("in range"),
            value_coefficient: NonNegative::new(0.1).expect("in range"),
            gamma: Probability::new(1.0).expect("in range"),
            lambda: Probability::new(0.95).expect("in range"),
        }
    }
}

pub(super) fn assign_credit(recipe: &PpoRecipe, graded: &Graded<'_>) -> Credit {
    let (mut advantages, mut returns) = (Vec::new(), Vec::new());
    for (reward, trace) in graded.rewards.iter().zip(graded.traces) {
        let mut rewards: Vec<f64> = trace.k1().map(|k1| -graded.kl * k1).collect();
        *rewards.last_mut().expect("an answer has at least one token") += reward;
        let of_answer = estimate_advantages(&rewards, &trace.values, recipe.gamma.get(), recipe.lambda.get());
        returns.push(of_answer.iter().zip(&trace.values).map(|(a, v)| a + v).collect());
        advantages.push(of_answer);
    }
    let mut flat = advantages.concat();
    whiten(&mut flat);
    let mut flat = flat.into_iter();
    for advantage in advantages.iter_mut().flatten() {
        *advantage = flat.next().expect("as many as before");
    }
    Credit { advantages, returns }
}

pub(super) fn loss(recipe: &PpoRecipe, graded: &Graded<'_>, credit: &Credit, tokens: &Tokens<'_>) -> Result<Tensor> {
    let weights = tokens.each(|_, _| 1.0 / tokens.n_learnt as f64);
    let old = tokens.each(|answer, t| graded.traces[answer].log_probs[t]);
    let advantages = tokens.each(|answer, t| credit.advantages[answer][t]);
    let policy_loss = weigh(&clipped_surrogate(tokens.log_probs, &old, &advantages, recipe.clip.get())?, &weights)?;
    let old_values = tokens.each(|answer, t| graded.traces[answer].values[t]);
    let returns = tokens.each(|answer, t| credit.returns[answer][t]);
    let values = tokens.values.expect("a critic is trained beside the policy");
    let errors = clipped_value_error(values, &old_values, &returns, recipe.value_clip.get())?;
    Ok((policy_loss + (weigh(&errors, &weights)? * recipe.value_coefficient.get())?)?)
}
