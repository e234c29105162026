//! Policy optimisation: the model answers, a reward says how well, and what answered well becomes likelier.

use crate::advantage::{
    clipped_surrogate, clipped_value_error, estimate_advantages, reinforce, reward_finished, subtract_leave_one_out,
    whiten,
};
use crate::batch::{Example, Feed, Packing, encode_documents};
use crate::data::{DataFile, Document, Prompt};
use crate::error::{Error, Result};
use crate::folder::RunFolder;
use crate::loss::token_loss;
use crate::recipe::{NonNegative, OptimizerRecipe, Positive, Probability, ScheduleRecipe, count, steps, to_toml};
use crate::rollout::{Answer, SamplingRecipe, Trace, sample, trace};
use crate::sequence::{draw_items, encode_prompt, lay_out};
use crate::session::{Metrics, Origin, Phase, Progress, Session, Start};
use candle_core::{DType, Device, Tensor};
use lm::checkpoint::Checkpoint;
use lm::decoder::Decoder;
use lm::random::stream;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};

/// Policy optimisation (`[rlhf]`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RlhfRecipe {
    /// Rounds of sampling and learning. Default 150.
    pub rounds: NonZeroU64,
    /// Prompts of a round. Default 16.
    pub prompts: NonZeroUsize,
    /// Answers sampled for each prompt (K). Default 4.
    pub answers: AnswerCount,
    /// How they are sampled.
    pub sampling: SamplingRecipe,
    /// Reward lost per nat of divergence from the reference, over the tokens of an answer. Default 0.05.
    pub kl: NonNegative,
    /// Reward of an answer that does not end within `sampling.max_new_tokens` tokens (the EOS trick). Default -2.
    pub unfinished_reward: f64,
    /// How rewards become gradients. Default `rloo`.
    pub method: MethodRecipe,
    /// Pretraining that goes on beside, which keeps what the model knows.
    pub pretrain_mix: PretrainMixRecipe,
    /// Sequences of one forward pass with gradients. Default 16.
    pub batch_sequences: NonZeroUsize,
    /// Rounds between intermediate checkpoints; 0 for none. Default 50.
    pub save_every: u64,
    /// The optimizer. Default learning rate 2e-4, no weight decay.
    pub optimizer: OptimizerRecipe,
    /// Learning rate over the steps. Default constant after 10 steps.
    pub schedule: ScheduleRecipe,
}

impl Default for RlhfRecipe {
    fn default() -> Self {
        Self {
            rounds: steps(150),
            prompts: count(16),
            answers: AnswerCount(4),
            sampling: SamplingRecipe::default(),
            kl: NonNegative::new(0.05).expect("in range"),
            unfinished_reward: -2.0,
            method: MethodRecipe::default(),
            pretrain_mix: PretrainMixRecipe::default(),
            batch_sequences: count(16),
            save_every: 50,
            optimizer: OptimizerRecipe {
                lr: Positive::new(2e-4).expect("in range"),
                weight_decay: NonNegative::new(0.0).expect("in range"),
                ..OptimizerRecipe::default()
            },
            schedule: ScheduleRecipe::Constant(crate::recipe::ConstantRecipe { warmup_steps: 10 }),
        }
    }
}

/// Number of answers to a prompt: at least two, so that each has others to be compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "usize", into = "usize")]
pub struct AnswerCount(usize);

impl TryFrom<usize> for AnswerCount {
    type Error = String;

    fn try_from(n: usize) -> Result<Self, String> {
        if n >= 2 { Ok(Self(n)) } else { Err(format!("expected a whole number of at least 2, found {n}")) }
    }
}

impl From<AnswerCount> for usize {
    fn from(count: AnswerCount) -> usize {
        count.0
    }
}

/// How rewards become gradients (`[rlhf.method.rloo]` or `[rlhf.method.ppo]`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum MethodRecipe {
    /// REINFORCE with the mean of the prompt's other answers as baseline; one step per round.
    Rloo(RlooRecipe),
    /// Proximal policy optimisation with a critic; several steps per round.
    Ppo(PpoRecipe),
}

impl Default for MethodRecipe {
    fn default() -> Self {
        Self::Rloo(RlooRecipe {})
    }
}

/// Nothing to choose.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RlooRecipe {}

/// Proximal policy optimisation with a critic.
///
/// # Reference
/// Schulman et al. 2017, arXiv 1707.06347; defaults as in Huang et al. 2024, arXiv 2403.17031.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PpoRecipe {
    /// Passes over the answers of a round. Default 4.
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
            epochs: count(4),
            minibatches: count(1),
            clip: Positive::new(0.2).expect("in range"),
            value_clip: Positive::new(0.2).expect("in range"),
            value_coefficient: NonNegative::new(0.1).expect("in range"),
            gamma: Probability::new(1.0).expect("in range"),
            lambda: Probability::new(0.95).expect("in range"),
        }
    }
}

/// Pretraining that goes on during policy optimisation (`[rlhf.pretrain_mix]`).
///
/// # Reference
/// Ouyang et al. 2022, arXiv 2203.02155, section 3.5 and equation 2 (PPO-ptx).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PretrainMixRecipe {
    /// Weight of the mean loss per pretraining token, in nats; 0 for none. Default 0.5.
    pub coefficient: NonNegative,
    /// Packed sequences of documents in each step. Default 4.
    pub batch_sequences: NonZeroUsize,
}

impl Default for PretrainMixRecipe {
    fn default() -> Self {
        Self { coefficient: NonNegative::new(0.5).expect("in range"), batch_sequences: count(4) }
    }
}

impl RlhfRecipe {
    /// Optimizer steps of one round.
    fn steps_per_round(&self) -> u64 {
        match &self.method {
            MethodRecipe::Rloo(_) => 1,
            MethodRecipe::Ppo(ppo) => (ppo.epochs.get() * ppo.minibatches.get()) as u64,
        }
    }
}

/// Says how good answers are: one number for each. Must be a pure function of the answers.
pub type Reward<'a> = dyn Fn(&[Answer]) -> Result<Vec<f64>> + 'a;

/// What policy optimisation works on.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// Name of the phase: `rlhf`, or `rl-cai` where the reward comes from the model's own preferences.
    pub phase: &'a str,
    /// The policy to start from, which is also the reference that it is held to.
    pub parent: &'a Checkpoint,
    /// Prompts to answer.
    pub prompts: &'a DataFile<Prompt>,
    /// Documents of the pretraining mix.
    pub corpus: &'a DataFile<Document>,
    /// Name and content hash of where the reward comes from, for the lineage.
    pub reward_origin: (&'a str, &'a str),
    /// The reward, such as [`RewardModel::score`](crate::reward::RewardModel::score) of [`Answer::conversation`].
    pub reward: &'a Reward<'a>,
    /// Seed of prompts, samples and minibatches.
    pub seed: u64,
}

/// Optimises the parent against the reward and saves it as the phase; a finished phase is only loaded.
///
/// Each round samples `K` answers to each of its prompts from the policy as it then is, and rewards answer `y` with
/// `R = r(y) - kl sum_t ln(pi(y_t) / ref(y_t))`, where `r` is a fixed number if `y` did not end.
///
/// RLOO minimises `-1/N sum_y A(y) ln pi(y)` over the `N` answers with `A = R - mean of the prompt's other R`. PPO spreads `R`
/// over the tokens (the divergence where it arises, the reward at the end), estimates advantages with a critic, whitens
/// them, and minimises the clipped surrogate plus the critic's clipped error. To either is added
/// `coefficient * mean pretraining loss`.
///
/// # Errors
/// Where a prompt leaves no room for an answer, training diverges or files cannot be written.
///
/// # Reference
/// Ahmadian et al. 2024, arXiv 2402.14740 (RLOO); Schulman et al. 2017, arXiv 1707.06347 (PPO); Ouyang et al. 2022,
/// arXiv 2203.02155, equation 2.
///
/// # Deviations
/// The critic is a linear head on the policy's own hidden states, begun at zero, where the paper has a network of its own, begun
/// from the reward model. There is no dropout. The reference is the parent, whichever phase it comes from.
pub fn run(folder: &RunFolder, recipe: &RlhfRecipe, inputs: Inputs<'_>, progress: &dyn Progress) -> Result<Checkpoint> {
    let Inputs { phase: name, parent, prompts, corpus, reward_origin: (reward_name, reward_hash), seed, .. } = inputs;
    let per_round = recipe.steps_per_round();
    let mut data = BTreeMap::from([prompts.name_and_hash(), (reward_name.to_owned(), reward_hash.to_owned())]);
    data.extend((recipe.pretrain_mix.coefficient.get() > 0.0).then(|| corpus.name_and_hash()));
    let phase = Phase {
        name,
        folder,
        origin: Origin { seed, parent: Some(parent.content_hash().to_owned()), recipe: to_toml(recipe), data },
        optimizer: &recipe.optimizer,
        schedule: &recipe.schedule,
        steps: recipe.rounds.get() * per_round,
        // Only between rounds: the answers of a round are sampled from the weights at its beginning.
        save_every: recipe.save_every * per_round,
    };
    if let Some(checkpoint) = phase.finished()? {
        return Ok(checkpoint);
    }

    let world = World::build(recipe, &inputs)?;
    let mut documents = world.feed_documents(recipe, &inputs)?;
    let mut session = Session::open(phase, world.start(recipe)?, progress)?;
    while !session.is_done() {
        let round = session.step() / per_round;
        let rollout = world.roll_out(recipe, &session, round)?;
        let credits = rollout.assign_credit(recipe);
        for members in deal_answers(recipe, rollout.answers.len(), seed, &format!("{name}/minibatch"), round) {
            let mut metrics = rollout.summarise();
            learn_answers(&mut session, recipe, &rollout, &credits, &members, &mut metrics)?;
            if let Some(feed) = &mut documents {
                learn_documents(&mut session, recipe, feed, &mut metrics)?;
            }
            session.apply(&metrics)?;
        }
    }
    session.finish()
}
