//! Policy optimisation: the model answers, a reward says how well, and what answered well becomes likelier.

use crate::advantage::{
    clipped_surrogate, clipped_value_error, estimate_advantages, reinforce, reward_finished, subtract_leave_one_out,
    whiten,
};
use crate::batch::Example;
use crate::data::{DataFile, Document, Prompt};
use crate::error::{Error, Result};
use crate::folder::RunFolder;
use crate::mix::{PretrainMix, PretrainMixRecipe};
use crate::recipe::{
    ConstantRecipe, NonNegative, OptimizerRecipe, Positive, Probability, ScheduleRecipe, count, steps, to_toml,
};
use crate::reward::RewardModel;
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
    /// Rounds of sampling and learning. Default 80.
    pub rounds: NonZeroU64,
    /// Prompts of a round. Default 16.
    pub prompts: NonZeroUsize,
    /// Answers sampled for each prompt (K). Default 4.
    pub answers: AnswerCount,
    /// How they are sampled.
    pub sampling: SamplingRecipe,
    /// Reward lost per nat of divergence from the reference, over the tokens of an answer. Default 0.1.
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
    /// Peak learning rate. Default 2e-4.
    pub lr: Positive,
    /// The optimizer.
    pub optimizer: OptimizerRecipe,
    /// Learning rate over the steps. Default constant after 10 steps.
    pub schedule: ScheduleRecipe,
}

impl Default for RlhfRecipe {
    fn default() -> Self {
        Self {
            rounds: steps(80),
            prompts: count(16),
            answers: AnswerCount(4),
            sampling: SamplingRecipe::default(),
            kl: NonNegative::new(0.1).expect("in range"),
            unfinished_reward: -2.0,
            method: MethodRecipe::default(),
            pretrain_mix: PretrainMixRecipe::default(),
            batch_sequences: count(16),
            save_every: 50,
            lr: Positive::new(2e-4).expect("in range"),
            optimizer: OptimizerRecipe::default(),
            schedule: ScheduleRecipe::Constant(ConstantRecipe::default()),
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

impl AnswerCount {
    /// The number.
    pub fn get(self) -> usize {
        self.0
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

impl RlhfRecipe {
    /// Optimizer steps of one round.
    fn steps_per_round(&self) -> u64 {
        match &self.method {
            MethodRecipe::Rloo(_) => 1,
            MethodRecipe::Ppo(ppo) => (ppo.epochs.get() * ppo.minibatches.get()) as u64,
        }
    }
}

/// What policy optimisation works on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Name of the phase: `rlhf`, or `rl-cai` where the reward comes from the model's own preferences.
    pub phase: &'a str,
    /// The policy to start from, which is also the reference that it is held to.
    pub parent: &'a Checkpoint,
    /// Prompts to answer.
    pub prompts: &'a DataFile<Prompt>,
    /// Documents of the pretraining mix.
    pub corpus: &'a DataFile<Document>,
    /// The checkpoint of the reward model, as the phase `reward` or `preference` leaves it.
    pub reward_model: &'a Checkpoint,
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
    let Inputs { phase: name, parent, prompts, corpus, reward_model, seed } = inputs;
    let per_round = recipe.steps_per_round();
    let mut data = BTreeMap::from([prompts.name_and_hash(), ("reward model".to_owned(), reward_model.content_hash()?)]);
    data.extend(recipe.pretrain_mix.name_and_hash(corpus));
    let phase = Phase {
        name,
        folder,
        origin: Origin { seed, parent: Some(parent.content_hash()?), recipe: to_toml(recipe), data },
        lr: recipe.lr,
        optimizer: &recipe.optimizer,
        schedule: &recipe.schedule,
        steps: recipe.rounds.get() * per_round,
        // Only between rounds: the answers of a round are sampled from the weights at its beginning.
        save_every: recipe.save_every * per_round,
    };
    if let Some(checkpoint) = phase.finished()? {
        return Ok(checkpoint);
    }

    let mut mix = PretrainMix::new(&recipe.pretrain_mix, parent, corpus, name, seed)?;
    let sampler = Sampler::new(recipe, &inputs)?;
    let mut session = Session::open(phase, begin(recipe, parent)?, progress)?;
    while !session.is_done() {
        let round = session.step() / per_round;
        let rollout = sampler.roll_out(&session, round)?;
        let credit = rollout.assign_credit(recipe);
        for members in deal_answers(recipe, rollout.answers.len(), seed, &format!("{name}/minibatch"), round) {
            let mut metrics = rollout.summarise();
            learn_answers(&mut session, recipe, &rollout, &credit, &members, &mut metrics)?;
            mix.learn(&mut session, &mut metrics)?;
            session.apply(&metrics)?;
        }
    }
    session.forget(CRITIC);
    session.finish()
}

/// Name of the critic's weight, (1, d); trained beside the policy and no part of its checkpoint.
const CRITIC: &str = "critic.weight";

/// The parent's weights, with a critic of zeros where the method has one.
fn begin<'a>(recipe: &RlhfRecipe, parent: &'a Checkpoint) -> Result<Start<'a>> {
    let mut start = Start::from_checkpoint(parent);
    if let MethodRecipe::Ppo(_) = recipe.method {
        let critic = Tensor::zeros((1, parent.config.hidden_size), DType::F32, &Device::Cpu)?;
        start.extra.push((CRITIC.to_owned(), critic));
    }
    Ok(start)
}

/// What sampling needs besides the policy.
struct Sampler<'a> {
    recipe: &'a RlhfRecipe,
    inputs: &'a Inputs<'a>,
    reference: Decoder,
    reward_model: RewardModel,
    prompts: Vec<Vec<u32>>,
    stop_ids: &'a [u32],
}

impl<'a> Sampler<'a> {
    fn new(recipe: &'a RlhfRecipe, inputs: &'a Inputs<'a>) -> Result<Self> {
        let parent = inputs.parent;
        let prompts = encode_prompts(parent, inputs.prompts, recipe.sampling.max_new_tokens.get())?;
        let reference = Decoder::new(&parent.config, &parent.weights)?;
        let reward_model = RewardModel::load(inputs.reward_model)?;
        Ok(Self { recipe, inputs, reference, reward_model, prompts, stop_ids: &parent.config.eos_token_ids })
    }

    /// Samples and rewards the answers of a round from the policy as it is.
    fn roll_out(&self, session: &Session<'_>, round: u64) -> Result<Rollout> {
        let Inputs { phase, seed, .. } = *self.inputs;
        let n_prompts = self.recipe.prompts.get();
        let drawn = draw_items(self.prompts.len(), n_prompts, seed, &format!("{phase}/prompt"), round);
        let prompts: Vec<Vec<u32>> =
            drawn.iter().flat_map(|&i| vec![self.prompts[i].clone(); self.recipe.answers.get()]).collect();
        let policy = session.snapshot()?;
        let random = &mut stream(seed, &format!("{phase}/sample"), round);
        let answers = sample(&policy, &prompts, &self.recipe.sampling, self.stop_ids, random)?;
        let examples: Vec<Example> = answers.iter().map(Answer::example).collect();
        let critic = session.parameter(CRITIC).map(Tensor::detach);
        let context = policy.config().max_position_embeddings;
        let traces = trace(&policy, &self.reference, critic.as_ref(), &examples, context)?;
        let penalty = self.recipe.unfinished_reward;
        let conversations: Vec<Vec<u32>> = examples.iter().map(|example| example.ids.clone()).collect();
        let scores = self.reward_model.score(&conversations)?.into_iter().zip(&answers);
        let rewards = scores.map(|(score, answer)| reward_finished(score, answer.is_finished, penalty)).collect();
        Ok(Rollout { answers, examples, traces, rewards })
    }
}

/// Token ids of the prompts, each of which must leave room for an answer.
fn encode_prompts(parent: &Checkpoint, prompts: &DataFile<Prompt>, max_new_tokens: usize) -> Result<Vec<Vec<u32>>> {
    let context = parent.config.max_position_embeddings;
    let mut encoded = Vec::with_capacity(prompts.items.len());
    for (prompt, &line) in prompts.items.iter().zip(&prompts.lines) {
        let ids = encode_prompt(&parent.tokenizer, &prompt.prompt)?;
        if ids.len() + max_new_tokens > context {
            let n = ids.len();
            let message =
                format!("a prompt of {n} tokens and an answer of {max_new_tokens} exceed the context of {context}");
            return Err(Error::DataLine { path: prompts.path.clone(), line, message });
        }
        encoded.push(ids);
    }
    Ok(encoded)
}

/// The answers of a round, prompt after prompt, and what is known of them.
struct Rollout {
    answers: Vec<Answer>,
    examples: Vec<Example>,
    traces: Vec<Trace>,
    rewards: Vec<f64>,
}

/// How good each token of each answer was.
#[derive(Debug, Clone, PartialEq)]
struct Credit {
    /// For each answer, one number per token.
    advantages: Vec<Vec<f64>>,
    /// What the critic should have said; empty without one.
    returns: Vec<Vec<f64>>,
}

impl Rollout {
    fn assign_credit(&self, recipe: &RlhfRecipe) -> Credit {
        let kl = recipe.kl.get();
        match &recipe.method {
            MethodRecipe::Rloo(_) => {
                let rewards = self.rewards.iter().zip(&self.traces);
                let rewards: Vec<f64> = rewards.map(|(reward, trace)| reward - kl * trace.k1().sum::<f64>()).collect();
                let advantages = subtract_leave_one_out(&rewards, recipe.answers.get()).into_iter().zip(&self.traces);
                let advantages = advantages.map(|(advantage, trace)| vec![advantage; trace.log_probs.len()]).collect();
                Credit { advantages, returns: Vec::new() }
            }
            MethodRecipe::Ppo(ppo) => {
                let (mut advantages, mut returns) = (Vec::new(), Vec::new());
                for (reward, trace) in self.rewards.iter().zip(&self.traces) {
                    let mut rewards: Vec<f64> = trace.k1().map(|k1| -kl * k1).collect();
                    *rewards.last_mut().expect("an answer has at least one token") += reward;
                    let of_answer = estimate_advantages(&rewards, &trace.values, ppo.gamma.get(), ppo.lambda.get());
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
        }
    }

    /// The numbers of a round for the log; the loss is added as it is computed.
    fn summarise(&self) -> Metrics {
        let n = self.answers.len() as f64;
        let n_tokens: usize = self.traces.iter().map(|trace| trace.log_probs.len()).sum();
        let per_answer = |of: &dyn Fn(&Trace) -> f64| self.traces.iter().map(of).sum::<f64>() / n;
        let n_finished = self.answers.iter().filter(|answer| answer.is_finished).count();
        let extra = vec![
            ("reward", self.rewards.iter().sum::<f64>() / n),
            ("kl_nats", per_answer(&|trace| trace.divergences.iter().sum())),
            ("kl_k1_nats", per_answer(&|trace| trace.k1().sum())),
            ("kl_k3_nats", per_answer(&|trace| trace.k3().sum())),
            ("entropy_nats", per_answer(&|trace| trace.entropies.iter().sum()) * n / n_tokens as f64),
            ("response_tokens", n_tokens as f64 / n),
            ("unfinished_share", 1.0 - n_finished as f64 / n),
        ];
        Metrics { extra, ..Metrics::default() }
    }
}

/// Which answers each step of a round works on.
fn deal_answers(recipe: &RlhfRecipe, n_answers: usize, seed: u64, name: &str, round: u64) -> Vec<Vec<usize>> {
    let all: Vec<usize> = (0..n_answers).collect();
    let MethodRecipe::Ppo(ppo) = &recipe.method else { return vec![all] };
    let n_minibatches = ppo.minibatches.get();
    let random = &mut stream(seed, name, round);
    let mut dealt = Vec::new();
    for _ in 0..ppo.epochs.get() {
        let mut order = all.clone();
        order.shuffle(random);
        dealt.extend((0..n_minibatches).map(|i| order.iter().copied().skip(i).step_by(n_minibatches).collect()));
    }
    dealt
}

/// Accumulates the gradient of the policy's (and the critic's) loss on some answers of a round.
fn learn_answers(
    session: &mut Session<'_>,
    recipe: &RlhfRecipe,
    rollout: &Rollout,
    credit: &Credit,
    members: &[usize],
    metrics: &mut Metrics,
) -> Result<()> {
    let examples: Vec<Example> = members.iter().map(|&i| rollout.examples[i].clone()).collect();
    let n_targets: usize = examples.iter().map(Example::n_targets).sum();
    let context = session.decoder().config().max_position_embeddings;
    for layout in lay_out(&examples, context, recipe.batch_sequences.get())? {
        let targets = layout.targets();
        let in_order = |of: &dyn Fn(usize) -> Vec<f64>| -> Vec<f64> {
            layout.members.iter().flat_map(|&member| of(members[member])).collect()
        };
        let advantages = in_order(&|i| credit.advantages[i].clone());
        let hidden = layout.hidden_at(session.decoder(), &targets.positions)?; // (N, d)
        let log_probs = kernels::linear_log_probs(&hidden, session.decoder().lm_head(), &targets.ids)?; // (N)
        let loss = match &recipe.method {
            MethodRecipe::Rloo(_) => (reinforce(&log_probs, &advantages)? / members.len() as f64)?,
            MethodRecipe::Ppo(ppo) => {
                let old = in_order(&|i| rollout.traces[i].log_probs.clone());
                let policy_loss = clipped_surrogate(&log_probs, &old, &advantages, ppo.clip.get())?;
                let critic = session.parameter(CRITIC).expect("the critic was added at the start");
                let values = kernels::linear(&hidden, critic)?.flatten_all()?; // (N)
                let old_values = in_order(&|i| rollout.traces[i].values.clone());
                let returns = in_order(&|i| credit.returns[i].clone());
                let value_loss = clipped_value_error(&values, &old_values, &returns, ppo.value_clip.get())?;
                // Means over this layout's tokens, weighed so that the layouts add up to the mean over the minibatch.
                let share = targets.ids.len() as f64 / n_targets as f64;
                ((policy_loss + (value_loss * ppo.value_coefficient.get())?)? * share)?
            }
        };
        metrics.loss += session.accumulate(&loss)?;
        metrics.tokens += layout.batch.n_tokens();
    }
    Ok(())
}
