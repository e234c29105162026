//! What a trained run can tell beside its checkpoints' answers: models between and beyond them, the last one as deployed, its data, and
//! its reward model's opinion.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use evals::diagnose::Lineage;
use evals::diagnosis::{DEPLOYED, PhaseInfo, Stage, View};
use evals::evidence::data::Profile;
use evals::store::Store;
use lm::{Checkpoint, Deployed, LoadedModel, Message, Realigned, Subject, interpolate, transplant};
use probes::bank::Bank;
use probes::item::{Behaviour, Item, Task};
use probes::response::Form;
use trainer::data::{self, Comparison, Conversation, Document};
use trainer::reward::{Contrast, RewardModel};

use crate::device::{ask_there, chosen};
use crate::probe::{Questions, ask_one};
use crate::progress::Bars;
use crate::recipe::{Alignment, DeploymentRecipe, Recipe};
use crate::relearn::{Halves, relearn};
use crate::reward_check;
use crate::run::{Chain, Run, chain};
use crate::subject::load;

/// Weight of alignment in the views of half and one and a half times its strength.
const STRENGTHS: [f64; 2] = [0.5, 1.5];

/// Asks the views of a chain the items of `bank` on behaviours that are `open`, and returns them in the place of phases. A chain without
/// pretraining, SFT and a last phase has none.
pub(crate) fn ask_views(
    store: &mut Store,
    run: &Run,
    chain: Chain,
    bank: &[Item],
    is_open: impl Fn(Behaviour) -> bool,
    bars: &Bars,
) -> Result<Vec<PhaseInfo>> {
    let (name, phases) = chain;
    let items: Vec<Item> = bank.iter().filter(|item| is_open(item.behaviour)).cloned().collect();
    let (Some(&first), Some(&last)) = (phases.first(), phases.last()) else { return Ok(Vec::new()) };
    if phases.len() < 3 || items.is_empty() {
        return Ok(Vec::new());
    }
    let read = |phase: &str| {
        let folder = run.checkpoint(phase);
        Checkpoint::load(&folder).with_context(|| format!("cannot load checkpoint {}", folder.display()))
    };
    let (base, tuned, end) = (read(first)?, read(phases[1])?, read(last)?);
    let model = |checkpoint: &Checkpoint| ask_there(LoadedModel::new(checkpoint)?);
    let models = [model(&base)?, model(&tuned)?, model(&end)?];
    let halves = Halves::of(bank);
    let asked: Vec<Item> = halves.asked.iter().copied().filter(|item| is_open(item.behaviour)).cloned().collect();
    let [half, more] = STRENGTHS;
    let mut seen = Vec::new();
    // Nothing is taught where nothing would be asked.
    for view in View::ALL.into_iter().filter(|view| *view != View::Relearnt || !asked.is_empty()) {
        let subject: Box<dyn Subject + '_> = match view {
            View::LogitAlignmentAlone => Box::new(Realigned::transplanted(&models[0], &models[1], &models[2])?),
            View::WeightAlignmentAlone => Box::new(ask_there(transplant(&base, &tuned, &end)?)?),
            View::LogitHalf => Box::new(Realigned::new(&models[1], &models[2], half)?),
            View::LogitMore => Box::new(Realigned::new(&models[1], &models[2], more)?),
            View::WeightHalf => Box::new(ask_there(interpolate(&tuned, &end, half)?)?),
            View::WeightMore => Box::new(ask_there(interpolate(&tuned, &end, more)?)?),
            View::Relearnt => Box::new(model(&relearn(run, name, &end, &halves)?)?),
        };
        if view == View::Relearnt {
            ask_one(store, view.name(), subject.as_ref(), &asked, &[Form::Chat], bars)?;
        } else {
            ask_closed_book(store, view.name(), subject.as_ref(), &items, bars)?;
        }
        seen.push(PhaseInfo {
            name: view.name().to_owned(),
            checkpoint: subject.fingerprint().to_owned(),
            ..PhaseInfo::default()
        });
    }
    Ok(seen)
}

/// Choices in every closed-book form, the rest in chat.
pub(crate) fn ask_closed_book(
    store: &mut Store,
    name: &str,
    subject: &dyn Subject,
    items: &[Item],
    bars: &Bars,
) -> Result<()> {
    let (choices, others): (Vec<Item>, Vec<Item>) =
        items.iter().cloned().partition(|item| matches!(item.task, Task::Choice { .. } | Task::Quiz { .. }));
    ask_one(store, name, subject, &choices, &[Form::Chat, Form::FewShot, Form::Cloze], bars)?;
    ask_one(store, name, subject, &others, &[Form::Chat], bars)
}

/// Asks the last model of a chain as it is deployed; `None` where it is deployed as it was trained.
pub(crate) fn ask_deployed(
    store: &mut Store,
    run: &Run,
    chain: Chain,
    deployment: &DeploymentRecipe,
    questions: &Questions<'_>,
    bars: &Bars,
) -> Result<Option<PhaseInfo>> {
    let (_, phases) = chain;
    let Some(last) = phases.last().filter(|_| !deployment.is_bare()) else { return Ok(None) };
    let model = load(&run.checkpoint(last))?;
    let deployed = Deployed::new(&model, deployment.system.as_deref(), deployment.template.as_deref())
        .context("key `deployment.template`")?;
    ask_one(store, DEPLOYED, &deployed, questions.items, &Form::STANDARD, bars)?;
    questions.also.ask(store, DEPLOYED, &deployed, questions.items, bars)?;
    Ok(Some(PhaseInfo {
        name: DEPLOYED.to_owned(),
        checkpoint: deployed.fingerprint().to_owned(),
        ..PhaseInfo::default()
    }))
}

/// What each stage of a run was trained on.
pub(crate) fn profiles(run: &Run) -> Result<BTreeMap<Stage, Profile>> {
    let folder = run.folder();
    let corpus = data::read::<Document>(&folder.data("corpus.jsonl"))?.items;
    let chat = data::read::<Conversation>(&folder.data("sft.jsonl"))?.items;
    let rankings = data::read::<Comparison>(&folder.data("preferences.jsonl"))?.items;
    let spoken = |turns: &[Message]| {
        let turns: Vec<&str> = turns.iter().map(|turn| turn.content.as_str()).collect();
        turns.join(" ")
    };
    let exchanges: Vec<(String, &str)> = chat
        .iter()
        .filter_map(|row| {
            let (last, before) = row.messages.split_last()?;
            let system =
                if before.first().is_some_and(|turn| turn.role == lm::Role::System) { "<|system|> " } else { "" };
            Some((format!("{system}{}", spoken(before)), last.content.as_str()))
        })
        .collect();
    let best: Vec<(String, &str)> =
        rankings.iter().filter_map(|row| Some((spoken(&row.prompt), row.ranked.first()?.as_str()))).collect();
    let pairs = |rows: &[(String, &str)]| Profile::of(rows.iter().map(|(before, learnt)| (before.as_str(), *learnt)));
    Ok(BTreeMap::from([
        (Stage::Pretraining, Profile::of(corpus.iter().map(|document| ("", document.text.as_str())))),
        (Stage::Tuning, pairs(&exchanges)),
        (Stage::Alignment, pairs(&best)),
    ]))
}

/// In which share of a behaviour's items the reward model of a chain rates the right answer higher than a wrong one; empty where there is no
/// reward model.
pub(crate) fn rate(run: &Run, recipe: &Recipe, name: &str, bank: &Bank) -> Result<BTreeMap<Behaviour, f64>> {
    if name != chain(Alignment::Rlhf).0 {
        return Ok(BTreeMap::new());
    }
    let Some(checkpoints) = reward_check::load(run, recipe, Alignment::Rlhf)? else { return Ok(BTreeMap::new()) };
    let expected: Vec<&Item> = bank.items.iter().filter(|item| item.expected).collect();
    let declined: Vec<Option<Declined>> = expected.iter().map(|item| Declined::of(&item.task)).collect();
    let asked: Vec<(Behaviour, Contrast<'_>)> = expected
        .iter()
        .zip(&declined)
        .filter_map(|(item, declined)| {
            let against_declining = || declined.as_ref().map(Declined::contrast);
            Some((item.behaviour, reward_check::contrast(&item.task).or_else(against_declining)?))
        })
        .collect();
    let contrasts: Vec<Contrast<'_>> = asked.iter().map(|(_, contrast)| *contrast).collect();
    let answers = RewardModel::load(&checkpoints, chosen())?.rate(&checkpoints[0].tokenizer, &contrasts)?;
    let mut counts: BTreeMap<Behaviour, (f64, f64)> = BTreeMap::new();
    for ((behaviour, _), rating) in asked.iter().zip(answers) {
        if let Some(rating) = rating {
            let (right, n) = counts.entry(*behaviour).or_default();
            *right += f64::from(u8::from(rating.margin > 0.0));
            *n += 1.0;
        }
    }
    Ok(counts.into_iter().map(|(behaviour, (right, n))| (behaviour, right / n)).collect())
}

/// A choice as a reward model can rate it: the right answer against the first way of declining.
struct Declined {
    prompt: [Message; 1],
    right: String,
    wrong: String,
}

impl Declined {
    fn of(task: &Task) -> Option<Self> {
        let Task::Choice { question, options, answer, declines, .. } = task else { return None };
        Some(Self {
            prompt: [Message { role: lm::Role::User, content: question.clone() }],
            right: format!("{}.", options.get(*answer)?),
            wrong: declines.first()?.clone(),
        })
    }

    fn contrast(&self) -> Contrast<'_> {
        Contrast { prompt: &self.prompt, right: &self.right, wrong: &self.wrong }
    }
}

/// The chain's phases that were asked, in order, with nothing beside them yet.
pub(crate) fn lineage((name, phases): Chain, known: &[PhaseInfo]) -> Lineage {
    let phases = phases.iter().filter_map(|phase| known.iter().find(|info| info.name == *phase)).cloned().collect();
    Lineage { name: name.to_owned(), phases, ..Lineage::default() }
}
