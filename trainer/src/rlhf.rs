//! Policy optimisation: the model answers, a reward says how well, and what answered well becomes likelier.
//!
//! The loop is here; each method (`rloo`, `ppo`, `grpo`) is a short file beside, with its formulas and its deviations from the paper.

pub mod grpo;
pub mod kl;
pub mod method;
pub mod ppo;
pub mod rloo;
mod sampler;
pub mod watch;

use crate::batch::Example;
use crate::data::{DataFile, Document, Prompt};
use crate::error::Result;
use crate::folder::RunFolder;
use crate::mix::{PretrainMix, PretrainMixRecipe};
use crate::ranks::Cut;
use crate::recipe::{ConstantRecipe, NonNegative, OptimizerRecipe, Positive, ScheduleRecipe, count, steps, to_toml};
use crate::rollout::SamplingRecipe;
use crate::sequence::{Layout, lay_out, widen};
use crate::session::{Metrics, Origin, Phase, Progress, Session, Start};
use candle_core::{DType, Device, Tensor};
use kl::AdaptiveKlRecipe;
use lm::checkpoint::Checkpoint;
use lm::random::stream;
use method::{Credit, Graded, MethodRecipe, Tokens};
use rand::seq::SliceRandom;
use sampler::Sampler;
pub(crate) use sampler::{Rollout, encode_prompts, look_at};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use watch::WatchRecipe;

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
    /// Moves `kl` so that the divergence stays near a target. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive_kl: Option<AdaptiveKlRecipe>,
    /// Reward of an answer that does not end within `sampling.max_new_tokens` tokens (the EOS trick). Default -2.
    pub unfinished_reward: f64,
    /// Reward lost per unit of disagreement (standard deviation) among an ensemble of reward models. Default 0.
    pub disagreement_penalty: NonNegative,
    /// How rewards become gradients. Default `rloo`.
    pub method: MethodRecipe,
    /// What is looked for in the answers; warned of, not learnt from.
    pub watch: WatchRecipe,
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
            adaptive_kl: None,
            unfinished_reward: -2.0,
            disagreement_penalty: NonNegative::new(0.0).expect("in range"),
            method: MethodRecipe::default(),
            watch: WatchRecipe::default(),
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
    /// The checkpoints of the reward model, as the phase `reward` or `preference` leaves them: one, or an ensemble.
    pub reward_models: &'a [Checkpoint],
    /// Seed of prompts, samples and minibatches.
    pub seed: u64,
}

/// Optimises the parent against the reward and saves it as the phase; a finished phase is only loaded.
///
/// Each round samples `K` answers to each of its prompts from the policy as it then is, rewards them, and takes one or more
/// steps of the method's loss, to which `coefficient * mean pretraining loss` is added. An answer that does not end has a fixed
/// reward. How divergence from the parent is paid for is the method's.
///
/// # Errors
/// Where a prompt leaves no room for an answer, training diverges or files cannot be written.
///
/// # Reference
/// Ouyang et al. 2022, arXiv 2203.02155, equation 2; each method's file names its own.
///
/// # Deviations
/// There is no dropout. The reference is the parent, whichever phase it comes from.
pub fn run(folder: &RunFolder, recipe: &RlhfRecipe, inputs: Inputs<'_>, progress: &dyn Progress) -> Result<Checkpoint> {
    let Inputs { phase: name, parent, prompts, corpus, reward_models, seed } = inputs;
    let per_round = recipe.method.steps_per_round();
    let mut data = BTreeMap::from([prompts.name_and_hash()]);
    for (i, model) in reward_models.iter().enumerate() {
        let name = if i == 0 { "reward model".to_owned() } else { format!("reward model {}", i + 1) };
        data.insert(name, model.content_hash()?);
    }
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
    let sampler = Sampler::new(recipe, &inputs, folder)?;
    let mut session = Session::open(phase, begin(recipe, parent)?, progress)?;
    while !session.is_done() {
        let round = session.step() / per_round;
        let rollout = sampler.roll_out(&mut session, round)?;
        let mut metrics = rollout.summarise();
        let kl = price(&mut session, recipe, &mut metrics);
        let graded = Graded {
            rewards: &rollout.rewards,
            traces: &rollout.traces,
            group: recipe.answers.get(),
            kl,
            max_new_tokens: recipe.sampling.max_new_tokens.get(),
        };
        let credit = recipe.method.assign_credit(&graded);
        for members in deal_answers(recipe, rollout.answers.len(), seed, &format!("{name}/minibatch"), round) {
            let cut = learn_answers(&mut session, recipe, &rollout, (&graded, &credit), &members, &mut metrics)?;
            mix.learn(&mut session, &mut metrics, cut)?;
            session.apply(&metrics)?;
            // What a round showed is told with its first step.
            metrics = Metrics::default();
        }
    }
    session.forget(CRITIC);
    session.finish()
}

/// Name of the critic's weight, (1, d); trained beside the policy and no part of its checkpoint.
const CRITIC: &str = "critic.weight";
/// Name under which the adapted price of divergence is carried from round to round.
const PRICE: &str = "kl_price";

/// The parent's weights, with a critic of zeros where the method has one.
fn begin<'a>(recipe: &RlhfRecipe, parent: &'a Checkpoint) -> Result<Start<'a>> {
    let mut start = Start::from_checkpoint(parent);
    if recipe.method.has_critic() {
        let critic = Tensor::zeros((1, parent.config.hidden_size), DType::F32, &Device::Cpu)?;
        start.extra.push((CRITIC.to_owned(), critic));
    }
    Ok(start)
}

/// What a nat of divergence costs in this round; with a controller, also sets what it costs in the next.
fn price(session: &mut Session<'_>, recipe: &RlhfRecipe, metrics: &mut Metrics) -> f64 {
    let Some(controller) = recipe.adaptive_kl else { return recipe.kl.get() };
    let price = session.carried(PRICE).unwrap_or(recipe.kl.get());
    session.carry(PRICE, controller.adapt(price, metrics.get("kl_nats").unwrap_or(0.0)));
    metrics.extra.push(("kl_price", price));
    price
}

/// Which answers each step of a round works on.
fn deal_answers(recipe: &RlhfRecipe, n_answers: usize, seed: u64, name: &str, round: u64) -> Vec<Vec<usize>> {
    let all: Vec<usize> = (0..n_answers).collect();
    let (epochs, minibatches) = recipe.method.passes();
    if minibatches == 1 {
        return vec![all; epochs];
    }
    let random = &mut stream(seed, name, round);
    let mut dealt = Vec::new();
    for _ in 0..epochs {
        let mut order = all.clone();
        order.shuffle(random);
        dealt.extend((0..minibatches).map(|i| order.iter().copied().skip(i).step_by(minibatches).collect()));
    }
    dealt
}

/// Accumulates the gradient of the method's loss on some answers of a round, or on this rank's share of them; returns how they were cut.
fn learn_answers(
    session: &mut Session<'_>,
    recipe: &RlhfRecipe,
    rollout: &Rollout,
    (graded, credit): (&Graded<'_>, &Credit),
    members: &[usize],
    metrics: &mut Metrics,
) -> Result<Cut> {
    let examples: Vec<Example> = members.iter().map(|&i| rollout.examples[i].clone()).collect();
    let (layouts, cut) = deal_layouts(session, &examples, recipe.batch_sequences.get())?;
    for layout in layouts {
        let targets = layout.targets();
        let hidden = layout.hidden_at(session.decoder(), &targets.positions)?; // (N, d)
        let log_probs = kernels::linear_log_probs(&hidden, session.decoder().lm_head(), &targets.ids)?; // (N)
        let values = match session.parameter(CRITIC) {
            Some(critic) => Some(kernels::linear(&widen(&hidden)?, critic)?.flatten_all()?), // (N)
            None => None,
        };
        let places = layout.members.iter().flat_map(|&member| {
            let answer = members[member];
            (0..examples[member].n_targets()).map(move |t| (answer, t))
        });
        let tokens = Tokens {
            log_probs: &log_probs,
            values: values.as_ref(),
            places: &places.collect::<Vec<_>>(),
            n_answers: members.len(),
            n_learnt: examples.iter().map(Example::n_targets).sum(),
        };
        let loss = recipe.method.loss(graded, credit, &tokens)?;
        metrics.loss += session.accumulate(&loss)?;
        metrics.tokens += layout.batch.n_tokens();
    }
    Ok(cut)
}

/// Lays out a step's answers and returns this rank's share.
fn deal_layouts(session: &Session<'_>, examples: &[Example], n_rows: usize) -> Result<(Vec<Layout>, Cut)> {
    let (ranks, context) = (session.ranks(), session.decoder().config().max_position_embeddings);
    let mut layouts = lay_out(examples, context, n_rows)?;
    let cut = ranks.cut(layouts.len());
    if cut == Cut::Batches {
        return Ok((layouts.drain(ranks.share(layouts.len())).collect(), cut));
    }
    let share = ranks.share(examples.len());
    let mut layouts = lay_out(&examples[share.clone()], context, n_rows)?;
    for member in layouts.iter_mut().flat_map(|layout| &mut layout.members) {
        *member += share.start;
    }
    Ok((layouts, cut))
}
