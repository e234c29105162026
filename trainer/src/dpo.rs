//! Direct preference optimisation: ranked answers teach the policy itself, with no reward model and no sampling between.

use crate::batch::{Example, encode_continuation, pack};
use crate::bradley_terry::{Pair, compare_ranked, count_right};
use crate::data::{Comparison, DataFile, Document};
use crate::error::{Error, Result};
use crate::folder::RunFolder;
use crate::mix::{PretrainMix, PretrainMixRecipe};
use crate::preference_loss::{ipo, sigmoid};
use crate::ranks::Cut;
use crate::recipe::{BelowHalf, ConstantRecipe, OptimizerRecipe, Positive, ScheduleRecipe, count, steps, to_toml};
use crate::sequence::{Layout, draw_items, lay_out, numbers};
use crate::session::{Metrics, Origin, Phase, Progress, Session, Start};
use candle_core::Tensor;
use lm::chat::{Message, Role};
use lm::checkpoint::Checkpoint;
use lm::decoder::Decoder;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};

/// Name of the phase.
const PHASE: &str = "dpo";

/// Direct preference optimisation (`[dpo]`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DpoRecipe {
    /// Optimizer steps. Default 150.
    pub steps: NonZeroU64,
    /// Prompts of one step, each with all of its ranked answers. Default 12.
    pub batch_prompts: NonZeroUsize,
    /// How strongly the policy is held to the reference: the implicit reward of an answer is `beta ln(pi / ref)`. Default 0.3.
    pub beta: Positive,
    /// What a pair of answers costs. Default `sigmoid`.
    pub loss: PreferenceLossRecipe,
    /// Pretraining that goes on beside, which keeps what the model knows.
    pub pretrain_mix: PretrainMixRecipe,
    /// Sequences of one forward pass with gradients; the answers of a prompt stay together. Default 16.
    pub batch_sequences: NonZeroUsize,
    /// Steps between intermediate checkpoints; 0 for none. Default 50.
    pub save_every: u64,
    /// Peak learning rate. Default 1e-4.
    pub lr: Positive,
    /// The optimizer.
    pub optimizer: OptimizerRecipe,
    /// Learning rate over the steps. Default constant after 10 steps.
    pub schedule: ScheduleRecipe,
}

impl Default for DpoRecipe {
    fn default() -> Self {
        Self {
            steps: steps(150),
            batch_prompts: count(12),
            beta: Positive::new(0.3).expect("in range"),
            loss: PreferenceLossRecipe::default(),
            pretrain_mix: PretrainMixRecipe::default(),
            batch_sequences: count(16),
            save_every: 50,
            lr: Positive::new(1e-4).expect("in range"),
            optimizer: OptimizerRecipe::default(),
            schedule: ScheduleRecipe::Constant(ConstantRecipe::default()),
        }
    }
}

/// What a pair of answers costs (`[dpo.loss.sigmoid]` or `[dpo.loss.ipo]`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum PreferenceLossRecipe {
    /// The likelihood of the ranking in the Bradley-Terry model: DPO, or with label smoothing conservative DPO.
    Sigmoid(SigmoidRecipe),
    /// The squared distance of the margin from `1 / (2 beta)`, which does not grow without end: IPO.
    Ipo(IpoRecipe),
}

impl Default for PreferenceLossRecipe {
    fn default() -> Self {
        Self::Sigmoid(SigmoidRecipe::default())
    }
}

/// The likelihood of the ranking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SigmoidRecipe {
    /// Assumed share of pairs that are ranked the wrong way round; 0 is DPO as published. Default 0.1: rankings without a single error,
    /// as the small world's, have no optimum at 0, and the policy runs away from its start until it answers nonsense.
    pub label_smoothing: BelowHalf,
}

impl Default for SigmoidRecipe {
    fn default() -> Self {
        Self { label_smoothing: BelowHalf::new(0.1).expect("in range") }
    }
}

/// Nothing to choose.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IpoRecipe {}

/// What direct preference optimisation works on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The policy to start from, which is also the reference that it is held to.
    pub parent: &'a Checkpoint,
    /// Ranked answers, the same that a reward model learns from.
    pub preferences: &'a DataFile<Comparison>,
    /// Documents of the pretraining mix.
    pub corpus: &'a DataFile<Document>,
    /// Seed of the order of prompts and documents.
    pub seed: u64,
}

/// Teaches the parent what is preferred and saves it as the phase `dpo`; a finished phase is only loaded.
///
/// The loss is that of `recipe.loss` over all pairs of a prompt's `K` ranked answers, each weighing `1 / C(K, 2)`, mean over prompts,
/// plus `coefficient * mean pretraining loss`. The reference's log-probabilities are computed beside the policy's, in the same
/// batches, so that every log ratio starts at exactly 0.
///
/// Logged are, as means over the pairs: `preference_loss`; `margin_nats`, the implicit reward of the better answer less that of the worse;
/// `accuracy`, the share of pairs in which it is higher; and `chosen_logratio_nats` and `rejected_logratio_nats`, `ln(pi / ref)` of the
/// better and of the worse answer. Both may fall while the margin grows: then likelihood goes to answers that nobody ranked.
///
/// # Errors
/// [`Error::TooLong`] where an answer does not fit the context; otherwise where training diverges or files cannot be written.
///
/// # Reference
/// Rafailov et al. 2023, arXiv 2305.18290; Azar et al. 2023, arXiv 2310.12036; Ouyang et al. 2022, arXiv 2203.02155, equation 1,
/// for the weights of the pairs.
///
/// # Deviations
/// As in the losses' own file; the papers have no pretraining beside. No prompts are held out.
pub fn run(folder: &RunFolder, recipe: &DpoRecipe, inputs: Inputs<'_>, progress: &dyn Progress) -> Result<Checkpoint> {
    let Inputs { parent, preferences, corpus, seed } = inputs;
    let mut data = BTreeMap::from([preferences.name_and_hash()]);
    data.extend(recipe.pretrain_mix.name_and_hash(corpus));
    let phase = Phase {
        name: PHASE,
        folder,
        origin: Origin { seed, parent: Some(parent.content_hash()?), recipe: to_toml(recipe), data },
        lr: recipe.lr,
        optimizer: &recipe.optimizer,
        schedule: &recipe.schedule,
        steps: recipe.steps.get(),
        save_every: recipe.save_every,
    };
    if let Some(checkpoint) = phase.finished()? {
        return Ok(checkpoint);
    }

    let rankings = encode_rankings(parent, preferences)?;
    let reference = folder.decoder(parent)?;
    let order = format!("{PHASE}/order");
    let mut mix = PretrainMix::new(&recipe.pretrain_mix, parent, corpus, PHASE, seed)?;
    let mut session = Session::open(phase, Start::from_checkpoint(parent), progress)?;
    while !session.is_done() {
        let drawn = draw_items(rankings.len(), recipe.batch_prompts.get(), seed, &order, session.step());
        let drawn: Vec<&Ranking> = drawn.iter().map(|&ranking_idx| &rankings[ranking_idx]).collect();
        let (mut metrics, cut) = learn_rankings(&mut session, recipe, &reference, &drawn)?;
        mix.learn(&mut session, &mut metrics, cut)?;
        session.apply(&metrics)?;
    }
    session.finish()
}

/// The answers to a prompt, best first; what is learnt of each is the answer alone.
type Ranking = Vec<Example>;

/// Tokenizes the ranked answers, each of which must fit the context.
fn encode_rankings(parent: &Checkpoint, preferences: &DataFile<Comparison>) -> Result<Vec<Ranking>> {
    let limit = parent.config.max_position_embeddings;
    let mut rankings = Vec::with_capacity(preferences.items.len());
    for (comparison, &line) in preferences.items.iter().zip(&preferences.lines) {
        let mut ranking = Vec::with_capacity(comparison.ranked.len());
        for answer in &comparison.ranked {
            let mut messages = comparison.prompt.clone();
            messages.push(Message { role: Role::Assistant, content: answer.clone() });
            let example = encode_continuation(&parent.tokenizer, &messages, comparison.prompt.len())?;
            if example.ids.len() > limit {
                let (path, tokens) = (preferences.path.clone(), example.ids.len());
                return Err(Error::TooLong { path, line, tokens, limit });
            }
            ranking.push(example);
        }
        rankings.push(ranking);
    }
    Ok(rankings)
}

/// Accumulates the gradient of the loss on a step's rankings, or on this rank's share of them; returns their metrics, and how they were cut.
fn learn_rankings(
    session: &mut Session<'_>,
    recipe: &DpoRecipe,
    reference: &Decoder,
    rankings: &[&Ranking],
) -> Result<(Metrics, Cut)> {
    let sequence_tokens = session.decoder().config().max_position_embeddings;
    let (mut metrics, mut sums) = (Metrics::default(), Summary::default());
    let n_rows = recipe.batch_sequences.get();
    let mut parts = split(rankings, sequence_tokens, n_rows);
    let cut = session.ranks().cut(parts.len());
    parts = match cut {
        Cut::Batches => parts[session.ranks().share(parts.len())].to_vec(),
        Cut::Rows => split(&rankings[session.ranks().share(rankings.len())], sequence_tokens, n_rows),
    };
    for part in parts {
        let examples: Vec<Example> = part.iter().flat_map(|&ranking| ranking.iter().cloned()).collect();
        let sizes: Vec<usize> = part.iter().map(|ranking| ranking.len()).collect();
        let mut pairs = compare_ranked(&sizes);
        // Weights sum to 1 over the rankings of the step, of which these are a part.
        for pair in &mut pairs {
            pair.weight *= part.len() as f64 / rankings.len() as f64;
        }
        let layouts = lay_out(&examples, sequence_tokens, usize::MAX)?;
        let [layout] = layouts.as_slice() else { unreachable!("at least one answer makes one layout") };
        let log_ratios = log_ratios(session.decoder(), reference, layout)?;
        let beta = recipe.beta.get();
        let loss = match &recipe.loss {
            PreferenceLossRecipe::Sigmoid(choice) => sigmoid(&log_ratios, &pairs, beta, choice.label_smoothing.get())?,
            PreferenceLossRecipe::Ipo(_) => {
                let n_tokens: Vec<usize> = examples.iter().map(Example::n_targets).collect();
                ipo(&log_ratios, &n_tokens, &pairs, beta)?
            }
        };
        metrics.loss += session.accumulate(&loss)?;
        metrics.tokens += layout.batch.n_tokens();
        sums.add(&numbers(&log_ratios)?, &pairs);
    }
    let shares = [metrics.loss, sums.chosen, sums.rejected, sums.n_right, sums.n_pairs];
    let [loss, chosen, rejected, n_right, n_pairs] = session.ranks().total(shares)?;
    metrics.extra = vec![
        ("preference_loss", loss),
        ("margin_nats", recipe.beta.get() * (chosen - rejected)),
        ("accuracy", n_right / n_pairs),
        ("chosen_logratio_nats", chosen),
        ("rejected_logratio_nats", rejected),
    ];
    Ok((metrics, cut))
}

/// What is logged of a step, summed over its parts.
#[derive(Debug, Default)]
struct Summary {
    chosen: f64,
    rejected: f64,
    n_right: f64,
    n_pairs: f64,
}

impl Summary {
    fn add(&mut self, log_ratios: &[f64], pairs: &[Pair]) {
        self.chosen += pairs.iter().map(|pair| pair.weight * log_ratios[pair.first]).sum::<f64>();
        self.rejected += pairs.iter().map(|pair| pair.weight * log_ratios[pair.second]).sum::<f64>();
        let (n_right, n_pairs) = count_right(log_ratios, pairs);
        self.n_right += n_right;
        self.n_pairs += n_pairs;
    }
}

/// Splits rankings into parts that take at most `n_rows` rows each; one that takes more is a part of its own.
fn split<'a>(rankings: &[&'a Ranking], sequence_tokens: usize, n_rows: usize) -> Vec<Vec<&'a Ranking>> {
    let takes = |part: &[&Ranking]| {
        let lengths: Vec<usize> = part.iter().flat_map(|ranking| ranking.iter().map(|e| e.ids.len())).collect();
        pack(&(0..lengths.len()).collect::<Vec<_>>(), &lengths, sequence_tokens).len()
    };
    let mut parts: Vec<Vec<&Ranking>> = Vec::new();
    for &ranking in rankings {
        match parts.last_mut() {
            Some(part) if takes(&[part.as_slice(), &[ranking]].concat()) <= n_rows => part.push(ranking),
            _ => parts.push(vec![ranking]),
        }
    }
    parts
}

/// `ln pi(y) - ln ref(y)` of each answer of a layout, summed over its tokens; differentiable in the policy alone.
///
/// # Shapes
/// (number of examples), in the order of the list that was laid out
pub(crate) fn log_ratios(policy: &Decoder, reference: &Decoder, layout: &Layout) -> Result<Tensor> {
    let targets = layout.targets();
    let log_probs = |decoder: &Decoder| -> Result<Tensor> {
        let hidden = layout.hidden_at(decoder, &targets.positions)?; // (N, d)
        Ok(kernels::linear_log_probs(&hidden, decoder.lm_head(), &targets.ids)?) // (N)
    };
    let per_token = (log_probs(policy)? - log_probs(reference)?.detach())?;
    sum_by_owner(&per_token, &targets.owners, layout.members.len())
}

/// Sums what belongs to each of `n` owners.
///
/// # Shapes
/// `per_token` is (N), with an owner for each; the sums are (n).
pub(crate) fn sum_by_owner(per_token: &Tensor, owners: &[usize], n: usize) -> Result<Tensor> {
    let owners: Vec<u32> = owners.iter().map(|&owner| owner as u32).collect();
    let zeros = Tensor::zeros(n, per_token.dtype(), per_token.device())?;
    Ok(zeros.index_add(&Tensor::new(owners, per_token.device())?, per_token, 0)?)
}

#[cfg(test)]
mod tests {
    use super::{DpoRecipe, Inputs, IpoRecipe, PreferenceLossRecipe, Ranking, encode_rankings, run, split};
    use crate::batch::Example;
    use crate::data::Comparison;
    use crate::folder::RunFolder;
    use crate::mix::PretrainMixRecipe;
    use crate::recipe::{ConstantRecipe, NonNegative, Positive, ScheduleRecipe, count, steps};
    use crate::session::{Progress, Silent};
    use crate::tiny;
    use lm::chat::{Message, Role};
    use lm::checkpoint::Checkpoint;
    use lm::weights::Weights;
    use std::fs;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::Path;

    fn say(role: Role, content: &str) -> Message {
        Message { role, content: content.to_owned() }
    }

    fn comparison(name: &str, ranked: &[&str]) -> Comparison {
        let prompt = vec![say(Role::User, &format!("Where does {name} live?"))];
        Comparison { prompt, ranked: ranked.iter().map(|&town| town.to_owned()).collect(), kind: "qa".to_owned() }
    }

    fn comparisons() -> Vec<Comparison> {
        vec![comparison("Ada", &["Lund", "Oslo", "Rome"]), comparison("Bo", &["Oslo", "Lima"])]
    }

    fn parent() -> Checkpoint {
        let config = tiny::config();
        let weights = Weights::random(&config, 3).unwrap();
        Checkpoint { config, weights, tokenizer: tiny::tokenizer(), extra: Vec::new(), lineage: None }
    }

    fn recipe(n: u64) -> DpoRecipe {
        DpoRecipe {
            steps: steps(n),
            batch_prompts: count(2),
            save_every: 3,
            lr: Positive::new(3e-3).unwrap(),
            schedule: ScheduleRecipe::Constant(ConstantRecipe { warmup_steps: 0 }),
            pretrain_mix: PretrainMixRecipe {
                coefficient: NonNegative::new(0.1).unwrap(),
                ..PretrainMixRecipe::default()
            },
            ..DpoRecipe::default()
        }
    }

    fn train(root: &Path, recipe: &DpoRecipe, progress: &dyn Progress) -> crate::Result<Checkpoint> {
        let preferences = &tiny::data_file("preferences.jsonl", comparisons());
        let inputs = Inputs { parent: &parent(), preferences, corpus: &tiny::corpus(), seed: 3 };
        run(&RunFolder::new(root), recipe, inputs, progress)
    }

    /// A number of the phase's log, step by step.
    fn logged(root: &Path, key: &str) -> Vec<f64> {
        let log = fs::read_to_string(root.join("logs/dpo.jsonl")).unwrap();
        let record = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()[key].as_f64().unwrap();
        log.lines().map(record).collect()
    }

    #[test]
    fn the_policy_starts_as_its_reference_and_learns_the_ranking() {
        let root = tempfile::tempdir().unwrap();
        let checkpoint = train(root.path(), &recipe(30), &Silent).unwrap();
        let first = |key| logged(root.path(), key)[0];
        assert!((first("preference_loss") - std::f64::consts::LN_2).abs() < 1e-6);
        let at_start = ["margin_nats", "chosen_logratio_nats", "rejected_logratio_nats"].map(first);
        assert_eq!((at_start, first("accuracy")), ([0.0; 3], 0.5));
        let metrics = checkpoint.lineage.unwrap().metrics;
        let beta = recipe(30).beta.get();
        assert_eq!(metrics["accuracy"], 1.0);
        assert!(metrics["margin_nats"] > 0.3 && metrics["preference_loss"] < 0.6, "{metrics:?}");
        let margin = beta * (metrics["chosen_logratio_nats"] - metrics["rejected_logratio_nats"]);
        assert!((metrics["margin_nats"] - margin).abs() < 1e-9);
    }

    #[test]
    fn ipo_stops_at_the_margin_it_asks_for() {
        let root = tempfile::tempdir().unwrap();
        // 1 / (2 beta) = 0.25 nats per token, so that the loss begins at its square.
        let ipo = DpoRecipe {
            beta: Positive::new(2.0).unwrap(),
            loss: PreferenceLossRecipe::Ipo(IpoRecipe {}),
            ..recipe(60)
        };
        train(root.path(), &ipo, &Silent).unwrap();
        let losses = logged(root.path(), "preference_loss");
        assert!((losses[0] - 0.0625).abs() < 1e-6);
        assert!(losses[59] < 0.01, "{losses:?}");
    }

    #[test]
    fn parts_of_a_step_add_up_to_the_whole() {
        let outcome = |n_rows: usize| {
            let root = tempfile::tempdir().unwrap();
            train(root.path(), &DpoRecipe { batch_sequences: count(n_rows), ..recipe(3) }, &Silent).unwrap();
            ["loss_nats", "margin_nats", "accuracy", "rejected_logratio_nats"].map(|key| logged(root.path(), key))
        };
        for (whole, parts) in outcome(16).into_iter().flatten().zip(outcome(1).into_iter().flatten()) {
            assert!((whole - parts).abs() < 1e-4, "{whole} {parts}");
        }
    }

    #[test]
    fn the_answers_of_a_prompt_stay_together() {
        let ranking =
            |lengths: &[usize]| -> Ranking { lengths.iter().map(|&len| Example::plain(vec![7; len])).collect() };
        let rankings = [ranking(&[4, 4]), ranking(&[5, 3, 8]), ranking(&[2, 2]), ranking(&[8, 8, 8])];
        let parts = split(&rankings.iter().collect::<Vec<_>>(), 8, 2);
        let sizes: Vec<Vec<usize>> = parts.iter().map(|part| part.iter().map(|r| r.len()).collect()).collect();
        assert_eq!(sizes, [vec![2], vec![3], vec![2], vec![3]]);
        let parts = split(&rankings.iter().collect::<Vec<_>>(), 8, 4);
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [3, 1]);
    }

    #[test]
    fn what_the_assistant_said_before_is_not_learnt() {
        let mut long = comparison("Ada", &["Lund", "Oslo"]);
        long.prompt.splice(0..0, [say(Role::User, "Hi"), say(Role::Assistant, "Hello")]);
        let short = comparison("Ada", &["Lund", "Oslo"]);
        let rankings = encode_rankings(&parent(), &tiny::data_file("preferences.jsonl", vec![long, short])).unwrap();
        let learnt = |example: &Example| -> Vec<u32> {
            example.ids.iter().zip(&example.is_target).filter(|&(_, &is_target)| is_target).map(|(&id, _)| id).collect()
        };
        for (long, short) in rankings[0].iter().zip(&rankings[1]) {
            assert_eq!(learnt(long), learnt(short));
            assert!(!learnt(short).is_empty() && long.ids.len() > short.ids.len());
        }
    }

    #[test]
    fn an_answer_beyond_the_context_is_named_with_its_line() {
        let long = "Lund ".repeat(40);
        let preferences = tiny::data_file(
            "preferences.jsonl",
            vec![comparison("Ada", &["Lund", "Oslo"]), comparison("Bo", &["Oslo", &long])],
        );
        let message = encode_rankings(&parent(), &preferences).unwrap_err().to_string();
        assert!(message.starts_with("preferences.jsonl:2: "), "{message}");
    }

    /// Ends the process's work, as far as a test can, when step `self.0` is done.
    struct Kill(u64);

    impl Progress for Kill {
        fn begin(&self, _: &str, _: u64) {}
        fn step(&self, _: &str, step: u64, _: f64, _: u64) {
            assert!(step != self.0, "killed");
        }
        fn end(&self, _: &str) {}
        fn warn(&self, _: &str, _: u64, _: &str) {}
    }

    #[test]
    fn a_killed_phase_ends_with_the_same_bytes() {
        let undisturbed = tempfile::tempdir().unwrap();
        train(undisturbed.path(), &recipe(8), &Silent).unwrap();
        let disturbed = tempfile::tempdir().unwrap();
        for last in [2, 5, 7, 8] {
            let killed =
                catch_unwind(AssertUnwindSafe(|| train(disturbed.path(), &recipe(8), &Kill(last)).map(|_| ())));
            assert!(killed.is_err());
        }
        train(disturbed.path(), &recipe(8), &Silent).unwrap();
        for file in ["model.safetensors", "lineage.json"] {
            let read = |root: &Path| fs::read(root.join("checkpoints/dpo").join(file)).unwrap();
            assert_eq!(read(disturbed.path()), read(undisturbed.path()), "{file}");
        }
        let error = train(disturbed.path(), &recipe(9), &Silent).unwrap_err().to_string();
        assert!(error.contains("another recipe"), "{error}");
    }
}
