//! The answers of a round: sampled, rewarded, and looked at.

use super::watch::{Look, WatchRecipe, share};
use super::{CRITIC, Inputs, RlhfRecipe};
use crate::advantage::reward_finished;
use crate::batch::Example;
use crate::data::{DataFile, Prompt};
use crate::error::{Error, Result};
use crate::folder::RunFolder;
use crate::reward::{Reward, RewardModel};
use crate::rollout::{Answer, Trace, sample, trace};
use crate::sequence::{draw_items, encode_prompt};
use crate::session::{Metrics, Session};
use candle_core::Tensor;
use lm::checkpoint::Checkpoint;
use lm::decoder::Decoder;
use lm::random::stream;
use lm::tokenizer::Tokenizer;
use std::time::Instant;

/// What sampling needs besides the policy.
pub(crate) struct Sampler<'a> {
    recipe: &'a RlhfRecipe,
    inputs: &'a Inputs<'a>,
    reference: Decoder,
    reward_model: RewardModel,
    prompts: Vec<Vec<u32>>,
}

impl<'a> Sampler<'a> {
    pub(super) fn new(recipe: &'a RlhfRecipe, inputs: &'a Inputs<'a>, folder: &RunFolder) -> Result<Self> {
        let parent = inputs.parent;
        let prompts = encode_prompts(parent, inputs.prompts, recipe.sampling.max_new_tokens.get())?;
        let reference = folder.decoder(parent)?;
        let reward_model = RewardModel::load(inputs.reward_models, folder.device())?;
        let reward_model = reward_model.computing_in(reference.compute_dtype());
        Ok(Self { recipe, inputs, reference, reward_model, prompts })
    }

    /// Samples and rewards the answers of a round from the policy as it is.
    pub(super) fn roll_out(&self, session: &mut Session<'_>, round: u64) -> Result<Rollout> {
        let clock = Instant::now();
        let Inputs { phase, seed, parent, .. } = *self.inputs;
        let n_prompts = self.recipe.prompts.get();
        let drawn = draw_items(self.prompts.len(), n_prompts, seed, &format!("{phase}/prompt"), round);
        let asked: Vec<usize> = drawn.iter().flat_map(|&i| vec![i; self.recipe.answers.get()]).collect();
        let prompts: Vec<Vec<u32>> = asked.iter().map(|&i| self.prompts[i].clone()).collect();
        let policy = session.snapshot()?;
        let random = &mut stream(seed, &format!("{phase}/sample"), round);
        let answers = sample(&policy, &prompts, &self.recipe.sampling, &parent.config.eos_token_ids, random)?;
        let examples: Vec<Example> = answers.iter().map(Answer::example).collect();
        // Every rank samples all answers, from the same weights and the same random stream.
        let ids: Vec<u8> = answers.iter().flat_map(|answer| &answer.response).flat_map(|id| id.to_le_bytes()).collect();
        session.ranks().agree("sampled answers", &ids)?;
        let critic = session.parameter(CRITIC).map(Tensor::detach);
        let context = policy.config().max_position_embeddings;
        let traces = trace(&policy, &self.reference, critic.as_ref(), &examples, context)?;
        let conversations: Vec<Vec<u32>> = examples.iter().map(|example| example.ids.clone()).collect();
        let scores = self.reward_model.score(&conversations)?;
        let penalty = self.recipe.unfinished_reward;
        let caution = self.recipe.disagreement_penalty.get();
        let worth = |score: &Reward| if caution > 0.0 { score.mean - caution * score.disagreement } else { score.mean };
        let rewards = scores.iter().zip(&answers);
        let rewards =
            rewards.map(|(score, answer)| reward_finished(worth(score), answer.is_finished, penalty)).collect();
        let asked = asked.iter().map(|&i| &self.inputs.prompts.items[i]);
        let looks = look_at(&self.recipe.watch, &parent.tokenizer, asked, &answers)?;
        session.note("sampling_s", clock.elapsed().as_secs_f64());
        Ok(Rollout { answers, examples, traces, rewards, scores, looks })
    }
}

/// Token ids of the prompts, each of which must leave room for an answer.
pub(crate) fn encode_prompts(
    parent: &Checkpoint,
    prompts: &DataFile<Prompt>,
    max_new_tokens: usize,
) -> Result<Vec<Vec<u32>>> {
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

/// Looks at each answer to each prompt.
pub(crate) fn look_at<'a>(
    watch: &WatchRecipe,
    tokenizer: &Tokenizer,
    prompts: impl Iterator<Item = &'a Prompt>,
    answers: &[Answer],
) -> Result<Vec<Look>> {
    let look = |(prompt, answer): (&Prompt, &Answer)| {
        Ok(watch.look(prompt, &tokenizer.decode(answer.content())?, answer.content()))
    };
    prompts.zip(answers).map(look).collect()
}

/// The answers of a round, prompt after prompt, and what is known of them.
pub(crate) struct Rollout {
    pub(crate) answers: Vec<Answer>,
    pub(crate) examples: Vec<Example>,
    pub(crate) traces: Vec<Trace>,
    /// What is optimised: the score less a penalty for disagreement, or the fixed reward of an answer that does not end.
    pub(crate) rewards: Vec<f64>,
    pub(crate) scores: Vec<Reward>,
    pub(crate) looks: Vec<Look>,
}

impl Rollout {
    /// The numbers of a round for the log; the loss is added as it is computed.
    pub(super) fn summarise(&self) -> Metrics {
        let n = self.answers.len() as f64;
        let n_tokens: usize = self.traces.iter().map(|trace| trace.log_probs.len()).sum();
        let per_answer = |of: &dyn Fn(&Trace) -> f64| self.traces.iter().map(of).sum::<f64>() / n;
        let n_finished = self.answers.iter().filter(|answer| answer.is_finished).count();
        let mut extra = vec![
            ("answers", n),
            ("reward", self.rewards.iter().sum::<f64>() / n),
            ("score", self.scores.iter().map(|score| score.mean).sum::<f64>() / n),
            ("kl_nats", per_answer(&|trace| trace.divergences.iter().sum())),
            ("kl_k1_nats", per_answer(&|trace| trace.k1().sum())),
            ("kl_k3_nats", per_answer(&|trace| trace.k3().sum())),
            ("entropy_nats", per_answer(&|trace| trace.entropies.iter().sum()) * n / n_tokens as f64),
            ("response_tokens", n_tokens as f64 / n),
            ("unfinished_share", 1.0 - n_finished as f64 / n),
            ("repetition_share", self.looks.iter().map(|look| look.repetition).sum::<f64>() / n),
        ];
        extra.extend(share(&self.looks, |look| look.is_right).map(|share| ("gold_reward", share)));
        extra.extend(share(&self.looks, |look| look.refuses_neutral).map(|share| ("neutral_refusal_share", share)));
        let disagreements: Vec<f64> = self.scores.iter().map(|score| score.disagreement).collect();
        if disagreements.iter().any(|&disagreement| disagreement > 0.0) {
            extra.push(("reward_disagreement", disagreements.iter().sum::<f64>() / n));
        }
        Metrics { extra, ..Metrics::default() }
    }
}
