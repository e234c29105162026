//! What a method of policy optimisation is: how rewards become credit, and credit a loss.

use super::grpo::{self, GrpoRecipe};
use super::ppo::{self, PpoRecipe};
use super::rloo::{self, RlooRecipe};
use crate::error::Result;
use crate::rollout::Trace;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// How rewards become gradients (`[rlhf.method.rloo]`, `.ppo` or `.grpo`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum MethodRecipe {
    /// REINFORCE with the mean of the prompt's other answers as baseline; one step per round.
    Rloo(RlooRecipe),
    /// Proximal policy optimisation with a critic; several steps per round.
    Ppo(PpoRecipe),
    /// Advantages relative to the prompt's group of answers; divergence in the loss.
    Grpo(GrpoRecipe),
}

impl Default for MethodRecipe {
    fn default() -> Self {
        Self::Rloo(RlooRecipe {})
    }
}

/// The answers of a round as a method sees them, prompt after prompt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Graded<'a> {
    /// One reward per answer.
    pub(crate) rewards: &'a [f64],
    /// What policy, reference and critic said of its tokens.
    pub(crate) traces: &'a [Trace],
    /// Answers to a prompt (K).
    pub(crate) group: usize,
    /// Reward lost per nat of divergence.
    pub(crate) kl: f64,
    /// Most tokens of an answer.
    pub(crate) max_new_tokens: usize,
}

/// How good each token of each answer was.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Credit {
    /// For each answer, one number per token.
    pub(crate) advantages: Vec<Vec<f64>>,
    /// What the critic should have said; empty without one.
    pub(crate) returns: Vec<Vec<f64>>,
}

/// The tokens of some answers, one after the other, at which a loss is taken.
pub(crate) struct Tokens<'a> {
    /// `ln pi(token)` under the policy that learns, (N), differentiable.
    pub(crate) log_probs: &'a Tensor,
    /// The critic's values, (N), differentiable; `None` without one.
    pub(crate) values: Option<&'a Tensor>,
    /// For each token the answer it is of, and its place in it.
    pub(crate) places: &'a [(usize, usize)],
    /// Number of answers of the step, in this forward pass and others.
    pub(crate) n_answers: usize,
    /// Number of their tokens, which are learnt from.
    pub(crate) n_learnt: usize,
}

impl Tokens<'_> {
    /// A number for each token, from its answer and its place in it.
    pub(crate) fn each(&self, of: impl Fn(usize, usize) -> f64) -> Vec<f64> {
        self.places.iter().map(|&(answer, t)| of(answer, t)).collect()
    }
}

impl MethodRecipe {
    /// Optimizer steps of one round.
    pub fn steps_per_round(&self) -> u64 {
        let (epochs, minibatches) = self.passes();
        (epochs * minibatches) as u64
    }

    /// Passes over a round's answers, and steps of each pass.
    pub(crate) fn passes(&self) -> (usize, usize) {
        match self {
            Self::Rloo(_) => (1, 1),
            Self::Ppo(ppo) => (ppo.epochs.get(), ppo.minibatches.get()),
            Self::Grpo(grpo) => (grpo.epochs.get(), 1),
        }
    }

    /// Whether a critic is trained beside the policy.
    pub(crate) fn has_critic(&self) -> bool {
        matches!(self, Self::Ppo(_))
    }

    /// From rewards to advantages.
    pub(crate) fn assign_credit(&self, graded: &Graded<'_>) -> Credit {
        match self {
            Self::Rloo(_) => rloo::assign_credit(graded),
            Self::Ppo(recipe) => ppo::assign_credit(recipe, graded),
            Self::Grpo(recipe) => grpo::assign_credit(recipe, graded),
        }
    }

    /// This forward pass's share of the step's loss, a scalar.
    pub(crate) fn loss(&self, graded: &Graded<'_>, credit: &Credit, tokens: &Tokens<'_>) -> Result<Tensor> {
        match self {
            Self::Rloo(_) => rloo::loss(credit, tokens),
            Self::Ppo(recipe) => ppo::loss(recipe, graded, credit, tokens),
            Self::Grpo(recipe) => grpo::loss(recipe, graded, credit, tokens),
        }
    }
}
