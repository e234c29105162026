//! The reward model: a decoder with a scalar head, taught which answers are preferred.

use crate::advantage::mean_and_std;
use crate::batch::Example;
use crate::bradley_terry::{self, Judged, Pair};
use crate::data::{Comparison, DataFile};
use crate::error::{Error, Result};
use crate::folder::RunFolder;
use crate::recipe::{OptimizerRecipe, Positive, Probability, ScheduleRecipe, count, steps, to_toml};
use crate::sequence::{Layout, ROWS_WITHOUT_GRADIENT, draw_items, lay_out, numbers, widen};
use crate::session::{Metrics, Origin, Phase, Progress, Session, Start};
use candle_core::{DType, Device, Tensor};
use lm::chat::{Message, Role};
use lm::checkpoint::Checkpoint;
use lm::config::ModelConfig;
use lm::decoder::Decoder;
use lm::random::stream;
use lm::tokenizer::Tokenizer;
use lm::weights::Weights;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU64, NonZeroUsize};

/// Name of the scalar head's weight, (1, d); Hugging Face's `LlamaForSequenceClassification` calls it so.
pub const HEAD: &str = lm::checkpoint::SCORE_WEIGHT;

/// A reward model (`[reward]`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RewardRecipe {
    /// Optimizer steps. Default 150.
    pub steps: NonZeroU64,
    /// Prompts of one step, each with all of its ranked answers. Default 12.
    pub batch_prompts: NonZeroUsize,
    /// Share of the prompts that is kept from training, to measure accuracy and calibration on. Default 0.05.
    pub held_out: Probability,
    /// Number of reward models, each with prompts of its own order and held out; their mean is the reward. Default 1.
    pub ensemble: NonZeroUsize,
    /// Steps between intermediate checkpoints; 0 for none. Default 500.
    pub save_every: u64,
    /// Peak learning rate. Default 5e-4.
    pub lr: Positive,
    /// The optimizer.
    pub optimizer: OptimizerRecipe,
    /// Learning rate over the steps.
    pub schedule: ScheduleRecipe,
}

impl Default for RewardRecipe {
    fn default() -> Self {
        Self {
            steps: steps(150),
            batch_prompts: count(12),
            held_out: Probability::new(0.05).expect("in range"),
            ensemble: count(1),
            save_every: 500,
            lr: Positive::new(5e-4).expect("in range"),
            optimizer: OptimizerRecipe::default(),
            schedule: ScheduleRecipe::default(),
        }
    }
}

/// What a reward model is trained on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The checkpoint whose decoder it starts from.
    pub parent: &'a Checkpoint,
    /// Ranked answers.
    pub preferences: &'a DataFile<Comparison>,
    /// Seed of the order of prompts and of those held out.
    pub seed: u64,
}

/// Trains a reward model on ranked answers and saves it as the phase `reward`, the others of an ensemble as `reward-2`,
/// `reward-3` ...; finished phases are only loaded.
///
/// The loss is `-1 / C(K, 2) sum ln s(r_w - r_l)` over all pairs of a prompt's `K` answers, mean over prompts; all answers of a
/// prompt are in the same step. The checkpoint's metrics hold how well it judges the pairs held out (`held_out_accuracy`,
/// `held_out_ece`, `held_out_loss_nats`, `held_out_pairs`), and the mean and deviation of the rewards of the training
/// answers, by which [`RewardModel::score`] normalises.
///
/// # Errors
/// Where an answer does not fit the context, training diverges or files cannot be written.
///
/// # Reference
/// Ouyang et al. 2022, arXiv 2203.02155, section 3.5 and equation 1.
///
/// # Deviations
/// Rewards are shifted to mean 0 and scaled to deviation 1 over all ranked answers, where the paper only shifts, by the
/// demonstrations.
pub fn run(
    folder: &RunFolder,
    recipe: &RewardRecipe,
    inputs: Inputs<'_>,
    progress: &dyn Progress,
) -> Result<Vec<Checkpoint>> {
    let Inputs { parent, preferences, seed } = inputs;
    let data = BTreeMap::from([preferences.name_and_hash()]);
    let task = Task { phase: "reward", parent, data, seed };
    train(folder, recipe, &task, || preferences.items.iter().map(|c| rank(&parent.tokenizer, c)).collect(), progress)
}

/// The ranked answers of a comparison, tokenized.
pub(crate) fn rank(tokenizer: &Tokenizer, comparison: &Comparison) -> Result<Group> {
    let encode = |answer: &String| encode_answer(tokenizer, &comparison.prompt, answer);
    let answers = comparison.ranked.iter().map(encode).collect::<Result<_>>()?;
    Ok(Group { prompt: comparison.prompt.clone(), answers, first_is_better: None })
}

/// A reward model to be trained.
pub(crate) struct Task<'a> {
    /// Name of the phase.
    pub(crate) phase: &'a str,
    /// What it starts from.
    pub(crate) parent: &'a Checkpoint,
    /// Hashes of what it is trained on.
    pub(crate) data: BTreeMap<String, String>,
    /// Seed of the order of prompts and of those held out.
    pub(crate) seed: u64,
}

/// Answers to one prompt that are compared with each other.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    /// The prompt; groups of one prompt are held out together.
    pub(crate) prompt: Vec<Message>,
    /// The whole conversations, with each answer.
    pub(crate) answers: Vec<Vec<u32>>,
    /// None: the answers are ranked, best first. Otherwise there are two, with this probability that the first is better.
    pub(crate) first_is_better: Option<f64>,
}

/// Names of the phases of an ensemble whose first is `phase`.
pub fn phases(phase: &str, recipe: &RewardRecipe) -> Vec<String> {
    let name = |i| if i == 1 { phase.to_owned() } else { format!("{phase}-{i}") };
    (1..=recipe.ensemble.get()).map(name).collect()
}

/// Trains and saves the phase `task.phase`, with the others of its ensemble; `groups` is only called where one has not ended before.
pub(crate) fn train(
    folder: &RunFolder,
    recipe: &RewardRecipe,
    task: &Task<'_>,
    groups: impl FnOnce() -> Result<Vec<Group>>,
    progress: &dyn Progress,
) -> Result<Vec<Checkpoint>> {
    let mut groups = Some(groups);
    let mut made: Vec<Group> = Vec::new();
    let mut members = Vec::new();
    for name in phases(task.phase, recipe) {
        let of_member = || {
            if let Some(groups) = groups.take() {
                made = groups()?;
            }
            Ok(made.clone())
        };
        members.push(train_member(
            folder,
            recipe,
            &Task { phase: &name, data: task.data.clone(), ..*task },
            of_member,
            progress,
        )?);
    }
    Ok(members)
}

fn train_member(
    folder: &RunFolder,
    recipe: &RewardRecipe,
    task: &Task<'_>,
    groups: impl FnOnce() -> Result<Vec<Group>>,
    progress: &dyn Progress,
) -> Result<Checkpoint> {
    let Task { phase: name, parent, seed, .. } = *task;
    let origin =
        Origin { seed, parent: Some(parent.content_hash()?), recipe: to_toml(recipe), data: task.data.clone() };
    let phase = Phase {
        name,
        folder,
        origin,
        lr: recipe.lr,
        optimizer: &recipe.optimizer,
        schedule: &recipe.schedule,
        steps: recipe.steps.get(),
        save_every: recipe.save_every,
    };
    if let Some(checkpoint) = phase.finished_with(&[HEAD])? {
        return Ok(checkpoint);
    }
    let (held_out, held_in) = split_by_prompt(groups()?, recipe.held_out.get(), seed, name);
    let order = format!("{name}/order");
    let config = headless(&parent.config);
    let mut session = Session::open(phase, add_head(parent, &config)?, progress)?;
    while !session.is_done() {
        let drawn = draw_items(held_in.len(), recipe.batch_prompts.get(), seed, &order, session.step());
        let batch: Vec<&Group> = drawn.iter().map(|&group_idx| &held_in[group_idx]).collect();
        let metrics = learn_groups(&mut session, &batch)?;
        session.apply(&metrics)?;
    }
    let head = session.parameter(HEAD).expect("the head was added at the start").detach();
    let model = Member { decoder: session.snapshot()?, head, mean: 0.0, std: 1.0 };
    let (mean, std) = model.measure_scale(&held_in)?;
    let mut outcome = vec![("reward_mean", mean), ("reward_std", std)];
    if let Some(judged) = model.judge(&held_out)? {
        outcome.push(("held_out_accuracy", judged.accuracy));
        outcome.push(("held_out_ece", judged.ece));
        outcome.push(("held_out_loss_nats", judged.loss_nats));
        outcome.push(("held_out_pairs", judged.n as f64));
    }
    session.finish_with(&outcome)
}

/// Accumulates the gradient of the loss on a step's groups, or on this rank's share of them; returns their metrics.
fn learn_groups(session: &mut Session<'_>, groups: &[&Group]) -> Result<Metrics> {
    let sequence_tokens = session.decoder().config().max_position_embeddings;
    let share = &groups[session.ranks().share(groups.len())];
    let (examples, mut pairs) = compare(share);
    // Weights sum to 1 over the groups of the step that compare something, of which these are a part.
    let n_compared = |groups: &[&Group]| groups.iter().filter(|group| group.answers.len() >= 2).count() as f64;
    for pair in &mut pairs {
        pair.weight *= n_compared(share) / n_compared(groups);
    }
    let (mut metrics, mut n_right, mut n_decided) = (Metrics::default(), 0.0, 0.0);
    // One layout, or none where this rank's share is empty.
    for layout in lay_out(&examples, sequence_tokens, usize::MAX)? {
        let head = session.parameter(HEAD).expect("the head was added at the start");
        let pairs = follow(&pairs, &layout.members);
        let scores = score_spans(session.decoder(), head, &layout)?;
        let loss = bradley_terry::cross_entropy(&scores, &pairs)?;
        metrics.loss += session.accumulate(&loss)?;
        metrics.tokens += layout.batch.n_tokens();
        (n_right, n_decided) = bradley_terry::count_right(&numbers(&scores)?, &pairs);
    }
    let [n_right, n_decided] = session.ranks().total([n_right, n_decided])?;
    if n_decided > 0.0 {
        metrics.extra.push(("accuracy", n_right / n_decided));
    }
    Ok(metrics)
}

/// The shape without an output layer of its own: a reward model predicts no tokens, so nothing would teach that layer.
fn headless(config: &ModelConfig) -> ModelConfig {
    ModelConfig { tie_word_embeddings: true, ..config.clone() }
}

/// The decoder's weights and a head of zeros: every answer starts with the same reward.
fn add_head<'a>(parent: &'a Checkpoint, config: &'a ModelConfig) -> Result<Start<'a>> {
    let known = parent.weights.iter().filter(|&(name, _)| name != "lm_head.weight");
    let tensors = known.map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
    let head = Tensor::zeros((1, config.hidden_size), DType::F32, &Device::Cpu)?;
    let (weights, extra) = (Weights::from_tensors(config, tensors)?, vec![(HEAD.to_owned(), head)]);
    Ok(Start { config, weights, extra, tokenizer: &parent.tokenizer })
}

/// Answers and their comparisons, for groups in one step.
fn compare(groups: &[&Group]) -> (Vec<Example>, Vec<Pair>) {
    let examples = groups.iter().flat_map(|group| group.answers.iter().cloned().map(Example::plain)).collect();
    let sizes: Vec<usize> = groups.iter().map(|group| group.answers.len()).collect();
    let mut pairs = bradley_terry::compare_ranked(&sizes);
    let mut start = 0;
    for group in groups {
        if let Some(label) = group.first_is_better {
            pairs.iter_mut().filter(|pair| pair.first == start).for_each(|pair| pair.first_is_better = label);
        }
        start += group.answers.len();
    }
    (examples, pairs)
}

/// Scores of the whole conversations of a layout, read at their last tokens.
///
/// # Shapes
/// (number of spans), in the order of the spans
fn score_spans(decoder: &Decoder, head: &Tensor, layout: &Layout) -> Result<Tensor> {
    let hidden = layout.hidden_at(decoder, &layout.last_positions())?; // (N, d)
    Ok(kernels::linear(&widen(&hidden)?, head)?.flatten_all()?)
}

/// Pairs of examples as pairs of spans: `members[span]` is the example that lies there.
fn follow(pairs: &[Pair], members: &[usize]) -> Vec<Pair> {
    let mut span_of = vec![0; members.len()];
    for (span_idx, &member) in members.iter().enumerate() {
        span_of[member] = span_idx;
    }
    pairs.iter().map(|&pair| Pair { first: span_of[pair.first], second: span_of[pair.second], ..pair }).collect()
}

/// Splits off all groups of a drawn `share` of the distinct prompts; returns what is held out and what is left.
fn split_by_prompt(groups: Vec<Group>, share: f64, seed: u64, name: &str) -> (Vec<Group>, Vec<Group>) {
    let distinct: BTreeSet<&Vec<Message>> = groups.iter().map(|group| &group.prompt).collect();
    let mut distinct: Vec<Vec<Message>> = distinct.into_iter().cloned().collect();
    distinct.shuffle(&mut stream(seed, &format!("{name}/held-out"), 0));
    // At least one prompt is left to train on.
    let n_held_out = ((share * distinct.len() as f64).round() as usize).min(distinct.len().saturating_sub(1));
    let held_out: BTreeSet<Vec<Message>> = distinct.into_iter().take(n_held_out).collect();
    groups.into_iter().partition(|group| held_out.contains(&group.prompt))
}

/// A trained reward model, or an ensemble of them.
#[derive(Debug, Clone)]
pub struct RewardModel {
    members: Vec<Member>,
}

/// What the members of a reward model say of a conversation: 0 is the mean of the answers that they were trained on, 1 a
/// deviation above it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reward {
    /// Mean over the members.
    pub mean: f64,
    /// Standard deviation over the members, of the population; 0 for a single one.
    pub disagreement: f64,
}

impl RewardModel {
    /// Takes the reward model from the checkpoints that [`run`] has trained, at least one, to be asked on a device.
    ///
    /// # Errors
    /// Where a checkpoint has no scalar head or its lineage no normalisation.
    pub fn load(checkpoints: &[Checkpoint], device: &Device) -> Result<Self> {
        assert!(!checkpoints.is_empty(), "a reward model has at least one member");
        Ok(Self { members: checkpoints.iter().map(|member| Member::load(member, device)).collect::<Result<_>>()? })
    }

    /// The same with activations in `dtype`, f32 otherwise.
    #[must_use]
    pub fn computing_in(mut self, dtype: DType) -> Self {
        for member in &mut self.members {
            member.decoder = member.decoder.clone().computing_in(dtype);
        }
        self
    }

    /// Rewards of whole conversations, given as token ids up to the token that ends the answer.
    ///
    /// # Errors
    /// Where a conversation is longer than the context.
    pub fn score(&self, conversations: &[Vec<u32>]) -> Result<Vec<Reward>> {
        let scores = self.members.iter().map(|member| member.score(conversations)).collect::<Result<Vec<_>>>()?;
        let of_conversation = |i: usize| {
            let said: Vec<f64> = scores.iter().map(|of_member| of_member[i]).collect();
            let (mean, disagreement) = mean_and_std(&said);
            Reward { mean, disagreement }
        };
        Ok((0..conversations.len()).map(of_conversation).collect())
    }
}

impl RewardModel {
    /// What the model says of right and wrong answers to the same prompts; `None` where a conversation does not fit the context.
    ///
    /// # Errors
    /// Where the tokenizer has no chat template or refuses the messages.
    pub fn rate(&self, tokenizer: &Tokenizer, contrasts: &[Contrast<'_>]) -> Result<Vec<Option<Rated>>> {
        let mut answers = Vec::with_capacity(2 * contrasts.len());
        for Contrast { prompt, right, wrong } in contrasts {
            answers.push(encode_answer(tokenizer, prompt, right)?);
            answers.push(encode_answer(tokenizer, prompt, wrong)?);
        }
        let context = self.members.iter().map(|member| member.decoder.config().max_position_embeddings).min();
        let fits = |pair: &[Vec<u32>]| pair.iter().all(|ids| Some(ids.len()) <= context);
        let asked: Vec<Vec<u32>> = answers.chunks(2).filter(|pair| fits(pair)).flatten().cloned().collect();
        let raw = self.members.iter().map(|member| member.score_raw(&asked)).collect::<Result<Vec<_>>>()?;
        let n_members = self.members.len() as f64;
        let mut places = 0..asked.len() / 2;
        let of_pair = |pair: &[Vec<u32>]| {
            let place = if fits(pair) { places.next() } else { None }?;
            let leads = || self.members.iter().zip(&raw).map(|(m, raw)| (m, raw[2 * place] - raw[2 * place + 1]));
            Some(Rated {
                margin: leads().map(|(member, lead)| lead / member.std).sum::<f64>() / n_members,
                stated: leads().map(|(_, lead)| 1.0 / (1.0 + (-lead).exp())).sum::<f64>() / n_members,
            })
        };
        Ok(answers.chunks(2).map(of_pair).collect())
    }
}

/// A prompt with an answer that is known to be right and one that is known to be wrong.
#[derive(Debug, Clone, Copy)]
pub struct Contrast<'a> {
    /// The turns up to the answer.
    pub prompt: &'a [Message],
    /// The better answer.
    pub right: &'a str,
    /// The worse one.
    pub wrong: &'a str,
}

/// What a reward model says of a [`Contrast`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rated {
    /// Reward of the right answer less that of the wrong one, mean over the members, in deviations of their training answers.
    pub margin: f64,
    /// Probability that the right answer is the better one, `s(r_right - r_wrong)`, mean over the members.
    pub stated: f64,
}

/// One reward model.
#[derive(Debug, Clone)]
struct Member {
    decoder: Decoder,
    head: Tensor,
    mean: f64,
    std: f64,
}

impl Member {
    fn load(checkpoint: &Checkpoint, device: &Device) -> Result<Self> {
        let head = checkpoint.extra(HEAD).ok_or_else(|| lm::Error::MissingTensor { name: HEAD.to_owned() })?;
        let metrics = checkpoint.lineage.as_ref().map(|lineage| &lineage.metrics);
        let scale = metrics.and_then(|metrics| metrics.get("reward_mean").zip(metrics.get("reward_std")));
        let (&mean, &std) = scale.ok_or(Error::NoScale)?;
        Ok(Self { decoder: checkpoint.decoder(device)?, head: head.to_device(device)?, mean, std })
    }

    fn score(&self, conversations: &[Vec<u32>]) -> Result<Vec<f64>> {
        let raw = self.score_raw(conversations)?;
        Ok(raw.into_iter().map(|score| (score - self.mean) / self.std).collect())
    }

    fn score_raw(&self, conversations: &[Vec<u32>]) -> Result<Vec<f64>> {
        let examples: Vec<Example> = conversations.iter().cloned().map(Example::plain).collect();
        let sequence_tokens = self.decoder.config().max_position_embeddings;
        let mut scores = vec![0.0; examples.len()];
        for layout in lay_out(&examples, sequence_tokens, ROWS_WITHOUT_GRADIENT)? {
            let of_spans = numbers(&score_spans(&self.decoder, &self.head, &layout)?)?;
            for (&member, score) in layout.members.iter().zip(of_spans) {
                scores[member] = score;
            }
        }
        Ok(scores)
    }

    /// Mean and deviation of the scores; a deviation of 0 counts as 1.
    fn measure_scale(&self, groups: &[Group]) -> Result<(f64, f64)> {
        let answers: Vec<Vec<u32>> = groups.iter().flat_map(|group| group.answers.iter().cloned()).collect();
        let (mean, std) = mean_and_std(&self.score_raw(&answers)?);
        Ok((mean, if std > 0.0 { std } else { 1.0 }))
    }

    /// How well it judges the pairs of some groups.
    fn judge(&self, groups: &[Group]) -> Result<Option<Judged>> {
        let answers: Vec<Vec<u32>> = groups.iter().flat_map(|group| group.answers.iter().cloned()).collect();
        let (_, pairs) = compare(&groups.iter().collect::<Vec<_>>());
        Ok(bradley_terry::judge(&self.score_raw(&answers)?, &pairs))
    }
}

/// Token ids of a prompt with an answer, up to the token that ends it.
///
/// # Errors
/// Where the tokenizer has no chat template or refuses the messages.
pub fn encode_answer(tokenizer: &Tokenizer, prompt: &[Message], answer: &str) -> Result<Vec<u32>> {
    let mut messages = prompt.to_vec();
    messages.push(Message { role: Role::Assistant, content: answer.to_owned() });
    Ok(lm::chat::encode_conversation(tokenizer, &messages)?.0)
}

#[cfg(test)]
mod tests {
    use super::{Contrast, HEAD, RewardModel, encode_answer, headless};
    use crate::tiny;
    use candle_core::{Device, Tensor};
    use lm::chat::{Message, Role};
    use lm::{Checkpoint, Lineage, ModelConfig, Weights};
    use std::collections::BTreeMap;

    fn member(seed: u64, std: f64) -> Checkpoint {
        let config = headless(&ModelConfig { max_position_embeddings: 96, ..tiny::config() });
        let weights = Weights::random(&config, seed).unwrap();
        let head: Vec<f32> = (0..config.hidden_size).map(|i| (i as f32 - 7.0) * 0.3).collect();
        let head = Tensor::new(head, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let lineage = Lineage {
            version: lm::lineage::VERSION,
            phase: "reward".to_owned(),
            parent: None,
            recipe: String::new(),
            data_hashes: BTreeMap::new(),
            seed,
            steps: 1,
            phasetrace_version: String::new(),
            metrics: BTreeMap::from([("reward_mean".to_owned(), 0.3), ("reward_std".to_owned(), std)]),
            computed: Vec::new(),
        };
        let extra = vec![(HEAD.to_owned(), head)];
        Checkpoint { config, weights, extra, tokenizer: tiny::tokenizer(), lineage: Some(lineage) }
    }

    #[test]
    fn a_rating_is_the_lead_of_the_right_answer_and_what_does_not_fit_has_none() {
        let members = [member(1, 0.5), member(2, 2.0)];
        let model = RewardModel::load(&members, &Device::Cpu).unwrap();
        let prompt = [Message { role: Role::User, content: "Where does Ada live?".to_owned() }];
        let contrast = |right, wrong| Contrast { prompt: &prompt, right, wrong };
        let long = "Lund ".repeat(90);
        let contrasts = [contrast("Lund.", "Oslo or Rome."), contrast("Lund.", &long), contrast("Rome.", "Rome.")];
        let rated = model.rate(&tiny::tokenizer(), &contrasts).unwrap();
        assert!(rated[1].is_none());
        let found = rated[0].unwrap();
        let encode = |answer| encode_answer(&tiny::tokenizer(), &prompt, answer).unwrap();
        let asked = [encode("Lund."), encode("Oslo or Rome.")];
        let scores = model.score(&asked).unwrap();
        assert!((found.margin - (scores[0].mean - scores[1].mean)).abs() < 1e-6 && found.margin.abs() > 1e-3);
        // Each member states its own probability, on its own scale.
        let stated = members.iter().zip([0.5, 2.0]).map(|(member, std)| {
            let alone = RewardModel::load(std::slice::from_ref(member), &Device::Cpu).unwrap();
            let alone = alone.score(&asked).unwrap();
            1.0 / (1.0 + (std * (alone[1].mean - alone[0].mean)).exp())
        });
        assert!((found.stated - stated.sum::<f64>() / 2.0).abs() < 1e-6, "{found:?}");
        let same = rated[2].unwrap();
        assert!(same.margin.abs() < 1e-6 && (same.stated - 0.5).abs() < 1e-6, "{same:?}");
    }
}
