//! Relearning: the last checkpoint learns a few right answers and is asked about others. What comes back was there and not said; what
//! does not come back was never learnt.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result};
use lm::{Checkpoint, Message, Role};
use probes::item::{Behaviour, Item, Task};
use rand::seq::SliceRandom;
use trainer::data::{self, Conversation, DataFile};
use trainer::folder::RunFolder;
use trainer::mix::PretrainMixRecipe;
use trainer::recipe::{NonNegative, Positive, SftRecipe};
use trainer::session::Silent;
use trainer::sft;

use crate::device;
use crate::run::Run;

/// Name of the phase.
const PHASE: &str = "relearnt";
/// Clusters of each behaviour that are taught: enough to bring out what is there, too few to teach it.
const CLUSTERS: usize = 16;
/// Optimizer steps.
const STEPS: u64 = 40;
/// Peak learning rate.
const LR: f64 = 3e-4;

/// Which items are taught, and which are asked; no cluster is in both.
pub(crate) struct Halves<'a> {
    taught: Vec<&'a Item>,
    /// Items to ask.
    pub(crate) asked: Vec<&'a Item>,
}

impl<'a> Halves<'a> {
    /// Draws the clusters from a stream of their own, so that all checkpoints are taught the same. How sure a model is cannot be taught by
    /// right answers: calibration has no part in it.
    pub(crate) fn of(items: &'a [Item]) -> Self {
        let mut halves = Self { taught: Vec::new(), asked: Vec::new() };
        for behaviour in Behaviour::ALL.into_iter().filter(|behaviour| *behaviour != Behaviour::Calibration) {
            let of_behaviour = || items.iter().filter(move |item| item.behaviour == behaviour && item.expected);
            let clusters: BTreeSet<&str> = of_behaviour().map(|item| item.cluster.as_str()).collect();
            let mut clusters: Vec<&str> = clusters.into_iter().collect();
            clusters.shuffle(&mut lm::random::stream(0, &format!("relearn/{}", behaviour.name()), 0));
            clusters.truncate(CLUSTERS.min(clusters.len() / 2));
            let (taught, asked): (Vec<&Item>, Vec<&Item>) =
                of_behaviour().partition(|item| clusters.contains(&item.cluster.as_str()));
            halves.taught.extend(taught);
            halves.asked.extend(asked);
        }
        halves
    }
}

/// Fine-tunes the last checkpoint of a chain on the taught items, or loads what came of it before.
pub(crate) fn relearn(run: &Run, chain: &str, end: &Checkpoint, halves: &Halves<'_>) -> Result<Checkpoint> {
    let folder = device::compute_in(RunFolder::new(run.root().join(PHASE).join(chain)));
    let conversations: Vec<Conversation> = halves.taught.iter().map(|item| lesson(item)).collect();
    let recipe = SftRecipe {
        steps: STEPS.try_into().context("some steps")?,
        sequence_tokens: end.config.max_position_embeddings.try_into().context("a context of some tokens")?,
        pretrain_mix: PretrainMixRecipe {
            coefficient: NonNegative::new(0.0).map_err(anyhow::Error::msg)?,
            ..PretrainMixRecipe::default()
        },
        save_every: 0,
        lr: Positive::new(LR).map_err(anyhow::Error::msg)?,
        ..SftRecipe::default()
    };
    let inputs = sft::Inputs {
        phase: PHASE,
        parent: end,
        conversations: &in_memory("relearnt.jsonl", conversations)?,
        corpus: &in_memory("none.jsonl", Vec::new())?,
        seed: 0,
    };
    sft::run(&folder, &recipe, inputs, &Silent).with_context(|| format!("cannot train {}", folder.root().display()))
}

/// An item with its right answer, as chat data would have it.
fn lesson(item: &Item) -> Conversation {
    let (mut messages, answer) = match &item.task {
        Task::Choice { question, .. }
        | Task::Quiz { question, .. }
        | Task::ShortAnswer { question, .. }
        | Task::StatedCutoff { question }
        | Task::Proposed { question, .. } => {
            (vec![Message { role: Role::User, content: question.clone() }], format!("{}.", item.right_answer()))
        }
        Task::Instruction { messages, .. }
        | Task::Request { messages, .. }
        | Task::OpenRequest { messages, .. }
        | Task::Constrained { messages, .. } => (messages.clone(), item.right_answer().to_owned()),
    };
    let given = messages.len();
    messages.push(Message { role: Role::Assistant, content: answer });
    Conversation { messages, kind: item.behaviour.name().to_owned(), given }
}

fn in_memory<T: serde::Serialize>(name: &str, items: Vec<T>) -> Result<DataFile<T>> {
    let hash = data::hash(&serde_json::to_vec(&items)?);
    let lines = (1..=items.len()).collect();
    Ok(DataFile { path: PathBuf::from(name), hash, items, lines })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_asked_of_what_was_taught() {
        let dir = tempfile::tempdir().unwrap();
        fixtures::write_data(&fixtures::WorldRecipe::default(), 1, dir.path()).unwrap();
        let bank = probes::bank::Bank::load(&dir.path().join("bank.jsonl")).unwrap();
        let halves = Halves::of(&bank.items);
        for behaviour in Behaviour::ALL {
            let clusters = |items: &[&Item]| -> BTreeSet<String> {
                items.iter().filter(|item| item.behaviour == behaviour).map(|item| item.cluster.clone()).collect()
            };
            let (taught, asked) = (clusters(&halves.taught), clusters(&halves.asked));
            assert!(taught.is_disjoint(&asked), "{behaviour:?}");
            assert_eq!(taught.is_empty() && asked.is_empty(), behaviour == Behaviour::Calibration);
            assert!(taught.len() <= CLUSTERS && taught.len() <= asked.len(), "{behaviour:?}");
        }
        let taught = lesson(halves.taught[0]);
        assert_eq!(taught.messages.last().unwrap().content, format!("{}.", halves.taught[0].right_answer()));
    }
}
