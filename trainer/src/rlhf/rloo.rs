//! REINFORCE leave-one-out (RLOO).
//!
//! `R(y) = r(y) - kl sum_t ln(pi(y_t) / ref(y_t))`, `A_k = R_k - mean of the other R of its prompt`, loss
//! `-1/N sum_y A(y) ln pi(y)` over the `N` answers of a round; one step per round, so that answers are always the policy's own.
//!
//! # Reference
//! Ahmadian et al. 2024, arXiv 2402.14740, section 3.3.
//!
//! # Deviations
//! None in the estimator. The reward of an answer that does not end is a fixed number (the EOS trick of Huang et al. 2024,
//! arXiv 2403.17031). TRL's `RLOOTrainer` whitens advantages where asked and clips the ratio of whole answers; at one step
//! per round the ratio is 1, and its loss, though 0 in value, has the gradient of this one.

use super::method::{Credit, Graded, Tokens};
use crate::advantage::{reinforce, subtract_leave_one_out};
use crate::error::Result;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// Nothing to choose.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RlooRecipe {}

pub(super) fn assign_credit(graded: &Graded<'_>) -> Credit {
    let rewards = graded.rewards.iter().zip(graded.traces);
    let rewards: Vec<f64> = rewards.map(|(reward, trace)| reward - graded.kl * trace.k1().sum::<f64>()).collect();
    let advantages = subtract_leave_one_out(&rewards, graded.group).into_iter().zip(graded.traces);
    let advantages = advantages.map(|(advantage, trace)| vec![advantage; trace.log_probs.len()]).collect();
    Credit { advantages, returns: Vec::new() }
}

pub(super) fn loss(credit: &Credit, tokens: &Tokens<'_>) -> Result<Tensor> {
    let advantages = tokens.each(|answer, t| credit.advantages[answer][t]);
    Ok((reinforce(tokens.log_probs, &advantages)? / tokens.n_answers as f64)?)
}
