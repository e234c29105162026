//! The reinforcement phase of Constitutional AI: the model says which of two answers is better under a principle, a preference
//! model learns what it said, and the policy is optimised against that model.

use crate::constitution::{Constitution, Principle};
use crate::data::{Comparison, DataFile, Document, Line, Prompt};
use crate::error::{Error, Result};
use crate::folder::RunFolder;
use crate::judge::{Bench, Judge, JudgeRecipe, Opinion};
use crate::labels::{Label, LabelKind, LabelsRecipe, Pair, label_pairs};
use crate::recipe::{count, to_toml};
use crate::reward::{self, Group, RewardRecipe, encode_answer, rank};
use crate::rlhf::{self, AnswerCount, RlhfRecipe};
use crate::rollout::{SamplingRecipe, reply};
use crate::session::Progress;
use crate::sl_cai::{choose_prompts, is_among};
use lm::chat::Message;
use lm::checkpoint::Checkpoint;
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
    /// How the pairs are labelled.
    pub labels: LabelsRecipe,
    /// Who judges them.
    pub judge: JudgeRecipe,
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
            labels: LabelsRecipe::default(),
            judge: JudgeRecipe::default(),
            preference: RewardRecipe::default(),
            rl: RlhfRecipe::default(),
        }
    }
}

impl RlCaiRecipe {
    /// What decides the pairs and their labels, whatever is learnt from them, as TOML.
    pub fn pairs(&self) -> String {
        let Self { prompts, kinds, answers, sampling, labels, judge, .. } = self.clone();
        let (preference, rl) = (RewardRecipe::default(), RlhfRecipe::default());
        to_toml(&PairsRecipe { prompts, kinds, answers, sampling, preference, rl, labels, judge })
    }
}

/// The part of [`RlCaiRecipe`] that decides the pairs and their labels. Keys that came later are left off where they have their
/// defaults, so that what was trained before they came is known again.
#[derive(Serialize)]
struct PairsRecipe {
    prompts: NonZeroUsize,
    kinds: Vec<String>,
    answers: AnswerCount,
    sampling: SamplingRecipe,
    preference: RewardRecipe,
    rl: RlhfRecipe,
    #[serde(skip_serializing_if = "is_default")]
    labels: LabelsRecipe,
    #[serde(skip_serializing_if = "is_default")]
    judge: JudgeRecipe,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What the reinforcement phase works on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The checkpoint of the supervised phase: it answers, compares where it is its own judge, and is optimised.
    pub parent: &'a Checkpoint,
    /// Who compares, as the recipe says.
    pub judge: &'a Judge,
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
/// A pair is labelled as [`LabelsRecipe`] says, under principles drawn for it. What was compared is kept in `generated/rl-cai.jsonl`.
/// It follows from the inputs alone, so a resumed phase writes it anew; what a server has answered is no function of them and is kept in
/// `generated/judge.jsonl`, from which a resumed phase goes on.
///
/// # Errors
/// Where no prompt has the asked kinds, all sampled answers are alike, training diverges or files cannot be written.
///
/// # Reference
/// Bai et al. 2022, arXiv 2212.08073, sections 4.1 and 4.2.
///
/// # Deviations
/// The model repeats the better answer, where the paper's names its letter: to tie a letter to an answer is more than small models
/// learn. Both orders of a pair are asked, which cancels a preference for a place. The reasons of a reasoned label are a critique of
/// each answer. One principle is drawn for a pair by default, where the paper's ensemble has all sixteen.
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
    let Inputs { parent, judge, constitution, prompts, preferences, seed, .. } = *inputs;
    // How pairs are made is a part of what the preference model is made from.
    let mut data = BTreeMap::from([
        prompts.name_and_hash(),
        preferences.name_and_hash(),
        ("constitution.toml".to_owned(), constitution.hash.clone()),
        ("comparisons".to_owned(), crate::data::hash(recipe.pairs().as_bytes())),
    ]);
    data.extend(judge.hash()?.map(|hash| ("judge".to_owned(), hash)));
    let task = reward::Task { phase: PREFERENCE_PHASE, parent, data, seed };
    let groups = || {
        let compared = folder.generate("rl-cai.jsonl", || compare_answers(recipe, inputs, folder))?.items;
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
    /// Probability that `a` is better, as the judge has it.
    p_a: f64,
    /// What the judge wrote down before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<String>,
}

impl Line for Compared {
    const WHAT: &'static str = "judgements";

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Compared {
    fn new(recipe: &LabelsRecipe, pair: Pair<'_>, Label { p_a, opinions }: Label) -> Self {
        let Pair { prompt, principles, a, b } = pair;
        let is_plain = principles.len() == 1 && matches!(recipe.kind, LabelKind::Soft(_));
        let judgement = |(principle, opinion): (&&Principle, Option<Opinion>)| {
            let Opinion { p_a, reasons } = opinion?;
            Some(Judgement { principle: principle.name.clone(), p_a, reasons })
        };
        let judgements = principles.iter().zip(opinions).filter_map(judgement);
        Self {
            prompt: prompt.prompt.clone(),
            kind: prompt.kind.clone(),
            principle: is_plain.then(|| principles[0].name.clone()),
            a,
            b,
            p_a,
            judgements: if is_plain { Vec::new() } else { judgements.collect() },
        }
    }

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
fn compare_answers(recipe: &RlCaiRecipe, inputs: &Inputs<'_>, folder: &RunFolder) -> Result<Vec<Compared>> {
    let Inputs { parent, constitution, seed, .. } = *inputs;
    let (n_principles, n_known) = (recipe.labels.principles.get(), constitution.principles.len());
    if n_principles > n_known {
        let message = format!("the constitution has {n_known} principles");
        return Err(Error::Setting {
            key: "rl_cai.labels.principles".to_owned(),
            value: n_principles.to_string(),
            message,
        });
    }
    let decoder = folder.decoder(parent)?;
    let (n, k) = (recipe.prompts.get(), recipe.answers.get());
    let asked = choose_prompts(inputs.prompts, &recipe.kinds, n, seed, "rl-cai/prompt", "rl_cai.kinds")?;
    let conversations: Vec<Vec<Message>> = asked.iter().flat_map(|prompt| vec![prompt.prompt.clone(); k]).collect();
    let random = &mut stream(seed, "rl-cai/pairs", 0);
    let answers = reply(&decoder, parent, &conversations, &recipe.sampling, random)?;
    let mut draws = stream(seed, "rl-cai/principle", 0);
    let mut pairs = Vec::new();
    for (prompt, answers) in asked.iter().zip(answers.chunks(k)) {
        let principles = constitution.draw_distinct(recipe.labels.principles.get(), &mut draws);
        let mut usable = answers.iter().flatten();
        let Some(a) = usable.next() else { continue };
        let Some(b) = usable.find(|other| *other != a) else { continue };
        pairs.push(Pair { prompt, principles, a: a.clone(), b: b.clone() });
    }
    if pairs.is_empty() {
        let message = format!("{n} prompts were answered {k} times, and no two answers to a prompt differ");
        return Err(Error::NothingGenerated { phase: PREFERENCE_PHASE.to_owned(), message });
    }
    let with_reasons = matches!(recipe.labels.kind, LabelKind::Reasoned(_));
    let notebook = &folder.generated("judge.jsonl");
    let at = Bench { trained: parent, with_reasons, sampling: recipe.sampling, seed, notebook, folder };
    let labels = label_pairs(inputs.judge, &at, &recipe.labels, &pairs)?;
    if labels.iter().all(Option::is_none) {
        let message = format!("the judge had nothing to say of any of the {} pairs", pairs.len());
        return Err(Error::NothingGenerated { phase: PREFERENCE_PHASE.to_owned(), message });
    }
    let labelled = pairs.into_iter().zip(labels);
    Ok(labelled.filter_map(|(pair, label)| Some(Compared::new(&recipe.labels, pair, label?))).collect())
}
