//! The reinforcement phase of Constitutional AI: the model says which of two answers is better under a principle, a preference
//! model learns what it said, and the policy is optimised against that model.

use crate::batch::Example;
use crate::constitution::{Constitution, Principle, ask_preference};
use crate::data::{Comparison, DataFile, Document, Line, Prompt, write};
use crate::error::{Error, Result};
use crate::folder::RunFolder;
use crate::recipe::{count, to_toml};
use crate::reward::{self, Group, RewardRecipe, encode_answer, rank};
use crate::rlhf::{self, AnswerCount, RlhfRecipe};
use crate::rollout::{SamplingRecipe, reply};
use crate::sequence::{encode_prompt, sum_log_probs};
use crate::session::Progress;
use crate::sl_cai::{choose_prompts, is_among};
use lm::chat::Message;
use lm::checkpoint::Checkpoint;
use lm::decoder::Decoder;
use lm::random::stream;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;

/// Name of the phase that trains the preference model.
pub const PREFERENCE_PHASE: &str = "preference";
/// Name of the phase that optimises the policy.
pub const PHASE: &str = "rl-cai";

/// The reinforcement phase of Constitutional AI (`[rl_cai]`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RlCaiRecipe {
    /// Prompts for which two answers are compared. Default 1000.
    pub prompts: NonZeroUsize,
    /// Kinds of prompt whose answers the model compares; empty for all. Of the ranked data the other kinds are used.
    /// Default `harmful` and `benign`.
    pub kinds: Vec<String>,
    /// Answers sampled for each prompt, of which the first two different ones are compared. Default 8.
    pub answers: AnswerCount,
    /// How they are sampled.
    pub sampling: SamplingRecipe,
    /// The preference model.
    pub preference: RewardRecipe,
    /// Policy optimisation.
    pub rl: RlhfRecipe,
}

impl Default for RlCaiRecipe {
    fn default() -> Self {
        Self {
            prompts: count(1000),
            kinds: vec!["harmful".to_owned(), "benign".to_owned()],
            answers: AnswerCount::try_from(8).expect("in range"),
            sampling: SamplingRecipe::default(),
            preference: RewardRecipe::default(),
            rl: RlhfRecipe::default(),
        }
    }
}

impl RlCaiRecipe {
    /// What decides the pairs and their labels, whatever is learnt from them.
    pub fn pairs(&self) -> Self {
        Self { preference: RewardRecipe::default(), rl: RlhfRecipe::default(), ..self.clone() }
    }
}

/// What the reinforcement phase works on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The checkpoint of the supervised phase: it answers, compares, and is optimised.
    pub parent: &'a Checkpoint,
    /// Its principles.
    pub constitution: &'a Constitution,
    /// Prompts to answer.
    pub prompts: &'a DataFile<Prompt>,
    /// Answers ranked by people; those to prompts that the model does not judge itself are used.
    pub preferences: &'a DataFile<Comparison>,
    /// Documents of the pretraining mix.
    pub corpus: &'a DataFile<Document>,
    /// Seed of prompts, principles and samples.
    pub seed: u64,
}

/// Compares, trains the phases `preference` and `rl-cai`, and saves both; finished ones are only loaded.
///
/// The label of a pair is `p(a) / (p(a) + p(b))`, where the model is asked to repeat the better answer, mean over both orders
/// in which the answers are shown. What was compared is kept in
/// `generated/rl-cai.jsonl`. It follows from the inputs alone, so a resumed phase writes it anew.
///
/// # Errors
/// Where no prompt has the asked kinds, all sampled answers are alike, training diverges or files cannot be written.
///
/// # Reference
/// Bai et al. 2022, arXiv 2212.08073, sections 4.1 and 4.2.
///
/// # Deviations
/// The model repeats the better answer, where the paper's names its letter: to tie a letter to an answer is more than small models
/// learn. Both orders of a pair are asked, which cancels a preference for a place. One principle is drawn for a pair.
pub fn run(
    folder: &RunFolder,
    recipe: &RlCaiRecipe,
    inputs: Inputs<'_>,
    progress: &dyn Progress,
) -> Result<Checkpoint> {
    let Inputs { parent, prompts, corpus, seed, .. } = inputs;
    let reward_models = &train_preference_models(folder, recipe, &inputs, progress)?;
    let inputs = rlhf::Inputs { phase: PHASE, parent, prompts, corpus, reward_models, seed };
    rlhf::run(folder, &recipe.rl, inputs, progress)
}

/// Compares and trains the phase `preference`, with the others of its ensemble; finished ones are only loaded.
///
/// # Errors
/// As [`run`].
pub fn train_preference_models(
    folder: &RunFolder,
    recipe: &RlCaiRecipe,
    inputs: &Inputs<'_>,
    progress: &dyn Progress,
) -> Result<Vec<Checkpoint>> {
    let Inputs { parent, constitution, prompts, preferences, seed, .. } = *inputs;
    // How pairs are made is a part of what the preference model is made from.
    let pairs = recipe.pairs();
    let data = BTreeMap::from([
        prompts.name_and_hash(),
        preferences.name_and_hash(),
        ("constitution.toml".to_owned(), constitution.hash.clone()),
        ("comparisons".to_owned(), crate::data::hash(to_toml(&pairs).as_bytes())),
    ]);
    let task = reward::Task { phase: PREFERENCE_PHASE, parent, data, seed };
    let groups = || {
        let compared = compare_answers(recipe, inputs)?;
        write(&folder.generated("rl-cai.jsonl"), &compared)?;
        let mut groups: Vec<Group> = compared.iter().map(|pair| pair.group(parent)).collect::<Result<_>>()?;
        let human = preferences.items.iter().filter(|c| !recipe.kinds.is_empty() && !is_among(&recipe.kinds, &c.kind));
        for comparison in human {
            groups.push(rank(&parent.tokenizer, comparison)?);
        }
        Ok(groups)
    };
    reward::train(folder, &recipe.preference, &task, groups, progress)
}

/// Two answers and the model's own preference (`generated/rl-cai.jsonl`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Compared {
    pub(crate) prompt: Vec<Message>,
    pub(crate) kind: String,
    /// The principle, where the label is the plain judgement under one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    principle: Option<String>,
    pub(crate) a: String,
    pub(crate) b: String,
    /// The label: probability that `a` is better.
    p_a: f64,
    /// What the label was made from, where it is more than one plain judgement.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    judgements: Vec<Judgement>,
}

/// What was said under one principle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Judgement {
    principle: String,
    /// Probability that `a` is better.
    p_a: f64,
}

impl Line for Compared {
    const WHAT: &'static str = "judgements";

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Compared {
    /// The principles that were asked, with the probability that `a` is better under each.
    pub(crate) fn judgements(&self) -> impl Iterator<Item = (&str, f64)> {
        let plain = self.principle.iter().map(|principle| (principle.as_str(), self.p_a));
        plain.chain(self.judgements.iter().map(|judgement| (judgement.principle.as_str(), judgement.p_a)))
    }

    fn group(&self, parent: &Checkpoint) -> Result<Group> {
        let encode = |answer: &String| encode_answer(&parent.tokenizer, &self.prompt, answer);
        Ok(Group {
            prompt: self.prompt.clone(),
            answers: vec![encode(&self.a)?, encode(&self.b)?],
            first_is_better: Some(self.p_a),
        })
    }
}

/// Has the parent answer each prompt several times and compare the first two answers that differ.
fn compare_answers(recipe: &RlCaiRecipe, inputs: &Inputs<'_>) -> Result<Vec<Compared>> {
    let Inputs { parent, constitution, seed, .. } = *inputs;
    let decoder = Decoder::new(&parent.config, &parent.weights)?;
    let (n, k) = (recipe.prompts.get(), recipe.answers.get());
    let asked = choose_prompts(inputs.prompts, &recipe.kinds, n, seed, "rl-cai/prompt", "rl_cai.kinds")?;
    let conversations: Vec<Vec<Message>> = asked.iter().flat_map(|prompt| vec![prompt.prompt.clone(); k]).collect();
    let random = &mut stream(seed, "rl-cai/pairs", 0);
    let answers = reply(&decoder, parent, &conversations, &recipe.sampling, random)?;
    let mut draws = stream(seed, "rl-cai/principle", 0);
    let mut pairs = Vec::new();
    for (prompt, answers) in asked.iter().zip(answers.chunks(k)) {
        let principle = constitution.draw(&mut draws);
        let mut usable = answers.iter().flatten();
        let Some(a) = usable.next() else { continue };
        let Some(b) = usable.find(|other| *other != a) else { continue };
        pairs.push((*prompt, principle, a.clone(), b.clone()));
    }
    if pairs.is_empty() {
        let message = format!("{n} prompts were answered {k} times, and no two answers to a prompt differ");
        return Err(Error::NothingGenerated { phase: PREFERENCE_PHASE.to_owned(), message });
    }
    let labels = label_pairs(&decoder, parent, &pairs)?;
    let compared = pairs.into_iter().zip(labels).filter_map(|((prompt, principle, a, b), p_a)| {
        let (prompt, kind, principle) = (prompt.prompt.clone(), prompt.kind.clone(), Some(principle.name.clone()));
        Some(Compared { prompt, kind, principle, a, b, p_a: p_a?, judgements: Vec::new() })
    });
    Ok(compared.collect())
}

type Pair<'a> = (&'a Prompt, &'a Principle, String, String);

/// Probability that the first answer of each pair is better, by the model's own word; `None` where the question is too long.
fn label_pairs(decoder: &Decoder, parent: &Checkpoint, pairs: &[Pair<'_>]) -> Result<Vec<Option<f64>>> {
    let context = parent.config.max_position_embeddings;
    let mut examples = Vec::new();
    let mut is_asked = Vec::with_capacity(pairs.len());
    for (prompt, principle, a, b) in pairs {
        let mut of_pair = Vec::with_capacity(4);
        for (first, second) in [(a, b), (b, a)] {
            let question = ask_preference(&prompt.prompt, first, second, principle);
            for answer in [a, b] {
                of_pair.push(answer_example(parent, &question, answer)?);
            }
        }
        let fits = of_pair.iter().all(|example| example.ids.len() <= context);
        is_asked.push(fits);
        if fits {
            examples.extend(of_pair);
        }
    }
    let log_probs = sum_log_probs(decoder, &examples, context)?;
    let mut of_pairs = log_probs.chunks(4);
    Ok(is_asked
        .into_iter()
        .map(|asked| {
            let log_probs = if asked { of_pairs.next() } else { None }?;
            let prefer_first = |a: f64, b: f64| 1.0 / (1.0 + (b - a).exp());
            Some(0.5 * (prefer_first(log_probs[0], log_probs[1]) + prefer_first(log_probs[2], log_probs[3])))
        })
        .collect())
}

/// The question with an answer, of which only the answer counts.
fn answer_example(parent: &Checkpoint, question: &[Message], answer: &str) -> Result<Example> {
    let n_prompt = encode_prompt(&parent.tokenizer, question)?.len();
    let ids = encode_answer(&parent.tokenizer, question, answer)?;
    let is_target = (0..ids.len()).map(|t| t >= n_prompt).collect();
    Ok(Example { ids, is_target })
}

#[cfg(test)]
mod tests {
    use super::{Pair, label_pairs};
    use crate::constitution::Constitution;
    use crate::data::Prompt;
    use crate::tiny;
    use lm::chat::{Message, Role};
    use lm::{Checkpoint, Decoder, ModelConfig, Weights};
    use std::path::Path;

    const CONSTITUTION: &str = "[[principle]]\nname = \"kind\"\ncritique = \"Kind?\"\nrevision = \"Be kind.\"\npreference = \"Which is kinder?\"\n";

    fn labels(context: usize, pairs: &[(&str, &str)]) -> Vec<Option<f64>> {
        let config = ModelConfig { max_position_embeddings: context, ..tiny::config() };
        let weights = Weights::random(&config, 5).unwrap();
        let parent = Checkpoint { config, weights, extra: Vec::new(), tokenizer: tiny::tokenizer(), lineage: None };
        let constitution = Constitution::parse(Path::new("constitution.toml"), CONSTITUTION).unwrap();
        let prompt = vec![Message { role: Role::User, content: "Who?".to_owned() }];
        let prompt = Prompt { prompt, kind: String::new(), right: Vec::new() };
        let pairs: Vec<Pair<'_>> = pairs
            .iter()
            .map(|(a, b)| (&prompt, &constitution.principles[0], (*a).to_owned(), (*b).to_owned()))
            .collect();
        let decoder = Decoder::new(&parent.config, &parent.weights).unwrap();
        label_pairs(&decoder, &parent, &pairs).unwrap()
    }

    #[test]
    fn a_label_does_not_depend_on_which_answer_comes_first() {
        let found = labels(128, &[("Ada.", "Bo did."), ("Bo did.", "Ada."), ("Ada.", "Ada.")]);
        let found: Vec<f64> = found.into_iter().flatten().collect();
        assert_eq!(found.len(), 3);
        assert!((found[0] + found[1] - 1.0).abs() < 1e-5, "{found:?}");
        assert!((found[2] - 0.5).abs() < 1e-6, "{found:?}");
        assert!((found[0] - 0.5).abs() > 1e-3, "{found:?}");
    }

    #[test]
    fn a_question_that_does_not_fit_the_context_has_no_label() {
        let long = "Ada ".repeat(40);
        assert_eq!(labels(128, &[(&long, "Bo.")]), [None]);
        // The pairs around it keep their own.
        let found = labels(128, &[("Ada.", "Bo."), (&long, "Bo."), ("Ada.", "Bo.")]);
        assert!(found[0].is_some() && found[1].is_none());
        assert!((found[0].unwrap() - found[2].unwrap()).abs() < 1e-6, "{found:?}");
    }
}
