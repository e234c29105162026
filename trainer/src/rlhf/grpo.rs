//! Group relative policy optimisation (GRPO), and its form without normalisation (Dr. GRPO).
//!
//! `A = (r - mean) / (std + std_eps)` over the answers to a prompt, the same for every token of an answer; loss
//! `1/N sum_y 1/|y| sum_t [-min(rho_t A, clip(rho_t) A) + kl k3_t]` with the divergence as a term of its own. With
//! `normalise = false`, `A = r - mean` and each token weighs `1 / max_new_tokens`, which takes away two biases: towards prompts
//! whose rewards are nearly equal, and towards long wrong answers.
//!
//! # Reference
//! Shao et al. 2024, arXiv 2402.03300, equations 3 and 4; Liu et al. 2025, arXiv 2503.20783, section 3.2 (without normalisation).
//!
//! # Deviations
//! `std_eps` is 0.1 rather than 1e-4: in a small world the answers to a prompt are often all but equal, and their rewards' tiny
//! differences would count as much as those between right and wrong.

use super::method::{Credit, Graded, Tokens};
use crate::advantage::{clipped_surrogate, penalise_divergence, subtract_group_mean, weigh};
use crate::error::Result;
use crate::recipe::{Positive, count};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;

/// Group relative policy optimisation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrpoRecipe {
    /// Steps over the answers of a round, each on all of them. Default 1.
    pub epochs: NonZeroUsize,
    /// How far the probability ratio counts, up and down from 1. Default 0.2.
    pub clip: Positive,
    /// Whether advantages are divided by the group's deviation, and answers by their length. Default true.
    pub normalise: bool,
    /// Added to the group's deviation, in units of reward. Default 0.1.
    pub std_eps: Positive,
}

impl Default for GrpoRecipe {
    fn default() -> Self {
        Self {
            epochs: count(1),
            clip: Positive::new(0.2).expect("in range"),
            normalise: true,
            std_eps: Positive::new(0.1).expect("in range"),
        }
    }
}

pub(super) fn assign_credit(recipe: &GrpoRecipe, graded: &Graded<'_>) -> Credit {
    let eps = recipe.normalise.then(|| recipe.std_eps.get());
    let advantages = subtract_group_mean(graded.rewards, graded.group, eps).into_iter().zip(graded.traces);
    let advantages = advantages.map(|(advantage, trace)| vec![advantage; trace.log_probs.len()]).collect();
    Credit { advantages, returns: Vec::new() }
}

pub(super) fn loss(recipe: &GrpoRecipe, graded: &Graded<'_>, credit: &Credit, tokens: &Tokens<'_>) -> Result<Tensor> {
    let length = |answer: usize| {
        if recipe.normalise { graded.traces[answer].log_probs.len() } else { graded.max_new_tokens }
    };
    let weights = tokens.each(|answer, _| 1.0 / (tokens.n_answers * length(answer)) as f64);
    let old = tokens.each(|answer, t| graded.traces[answer].log_probs[t]);
    let advantages = tokens.each(|answer, t| credit.advantages[answer][t]);
    let reference = tokens.each(|answer, t| graded.traces[answer].reference[t]);
    let surrogate = clipped_surrogate(tokens.log_probs, &old, &advantages, recipe.clip.get())?;
    let penalty = penalise_divergence(tokens.log_probs, &reference)?;
    weigh(&(surrogate + (penalty * graded.kl)?)?, &weights)
}
