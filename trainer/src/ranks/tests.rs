//! Tests that phases on several ranks come to what one rank comes to, on threads in place of processes.

use super::{Cut, Ranks, on_threads};
use crate::data::{Comparison, Conversation, Prompt};
use crate::dpo::{self, DpoRecipe};
use crate::error::Error;
use crate::folder::RunFolder;
use crate::mix::PretrainMixRecipe;
use crate::pretrain;
use crate::recipe::{ConstantRecipe, Positive, PretrainRecipe, Probability, ScheduleRecipe, SftRecipe, count, steps};
use crate::reward::{self, RewardRecipe};
use crate::rlhf::{self, RlhfRecipe};
use crate::rollout::SamplingRecipe;
use crate::session::{Progress, Silent};
use crate::sft;
use crate::tiny;
use lm::{Checkpoint, Message, ModelConfig, Role, Weights};
use serde_json::Value;
use std::fs;
use std::path::Path;

const SEED: u64 = 3;

fn pretrain_on(
    root: &Path,
    ranks: Ranks,
    recipe: &PretrainRecipe,
    progress: &dyn Progress,
) -> crate::Result<Checkpoint> {
    let inputs = pretrain::Inputs {
        corpus: &tiny::corpus(),
        tokenizer: &tiny::tokenizer(),
        config: &tiny::config(),
        seed: SEED,
    };
    pretrain::run(&RunFolder::new(root).among(ranks), recipe, inputs, progress)
}

fn pretrain_recipe(n: u64, accumulate: usize, batch_sequences: usize) -> PretrainRecipe {
    PretrainRecipe {
        accumulate: count(accumulate),
        batch_sequences: count(batch_sequences),
        ..tiny::pretrain_recipe(n)
    }
}

/// A number of a phase's log, step by step.
fn logged(root: &Path, phase: &str, key: &str) -> Vec<f64> {
    let log = fs::read_to_string(root.join(format!("logs/{phase}.jsonl"))).unwrap();
    let number = |line: &str| serde_json::from_str::<Value>(line).unwrap()[key].as_f64().unwrap();
    log.lines().map(number).collect()
}

/// The largest relative difference of two curves.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / b.abs().max(1e-12)).fold(0.0, f64::max)
}

fn read(root: &Path, file: &str) -> Vec<u8> {
    fs::read(root.join(file)).unwrap()
}

#[test]
fn work_is_divided_evenly_and_in_order() {
    for (n, n_ranks) in [(7, 3), (2, 3), (0, 2), (6, 2)] {
        let shares = on_threads(n_ranks, |ranks| ranks.share(n));
        assert_eq!(shares.iter().cloned().flatten().collect::<Vec<_>>(), (0..n).collect::<Vec<_>>());
        let lengths: Vec<usize> = shares.iter().map(ExactSizeIterator::len).collect();
        assert!(lengths.iter().max().unwrap() - lengths.iter().min().unwrap() <= 1, "{lengths:?}");
        assert_eq!(lengths[0], *lengths.iter().min().unwrap());
    }
}

#[test]
fn every_row_of_a_step_is_dealt_once() {
    let examples = crate::batch::encode_documents(&tiny::tokenizer(), &tiny::corpus(), 64).unwrap();
    let batch = |from: usize, n: usize| {
        let rows: Vec<Vec<&crate::batch::Example>> =
            (from..from + n).map(|i| vec![&examples[i % examples.len()]]).collect();
        crate::batch::Batch::assemble(&rows, 64).unwrap()
    };
    for (batches, cut) in [(vec![batch(0, 3)], Cut::Rows), (vec![batch(0, 2), batch(2, 2), batch(4, 2)], Cut::Batches)]
    {
        let dealt = on_threads(2, |ranks| {
            assert_eq!(ranks.cut(batches.len()), cut);
            let dealt = ranks.deal(batches.clone(), cut).unwrap();
            let beside = ranks.deal_beside(batch(1, 2), cut).unwrap();
            let ids = dealt.iter().flat_map(|batch| batch.ids.clone()).collect::<Vec<_>>();
            (ids, beside.map_or(Vec::new(), |batch| batch.ids))
        });
        let whole: Vec<u32> = batches.iter().flat_map(|batch| batch.ids.clone()).collect();
        assert_eq!(dealt.iter().flat_map(|(ids, _)| ids.clone()).collect::<Vec<_>>(), whole);
        assert_eq!(dealt.iter().flat_map(|(_, beside)| beside.clone()).collect::<Vec<_>>(), batch(1, 2).ids);
    }
}

#[test]
fn with_a_batch_or_a_piece_for_each_rank_losses_and_weights_are_the_same_to_the_bit() {
    // Four batches of a row, or one of 24 rows, which is three pieces.
    for (accumulate, batch_sequences) in [(4, 1), (1, 24)] {
        let recipe = pretrain_recipe(200, accumulate, batch_sequences);
        let alone = tempfile::tempdir().unwrap();
        pretrain_on(alone.path(), Ranks::default(), &recipe, &Silent).unwrap();
        for n_ranks in [2, 3] {
            let root = tempfile::tempdir().unwrap();
            on_threads(n_ranks, |ranks| pretrain_on(root.path(), ranks, &recipe, &Silent).map(|_| ()).unwrap());
            for key in ["loss_nats", "grad_norm", "tokens", "lr"] {
                let (found, expected) = (logged(root.path(), "pretrain", key), logged(alone.path(), "pretrain", key));
                assert_eq!(found.len(), 200);
                assert!(distance(&found, &expected) < 1e-12, "{key} on {n_ranks} ranks");
            }
            for file in ["model.safetensors", "state/optimizer.safetensors"] {
                let file = format!("checkpoints/pretrain/{file}");
                assert!(read(root.path(), &file) == read(alone.path(), &file), "{file} on {n_ranks} ranks");
            }
        }
    }
}

#[test]
fn with_rows_cut_losses_are_the_same_but_for_rounding() {
    let recipe = pretrain_recipe(40, 1, 3);
    let alone = tempfile::tempdir().unwrap();
    pretrain_on(alone.path(), Ranks::default(), &recipe, &Silent).unwrap();
    // Of four ranks one has nothing to do.
    for n_ranks in [2, 4] {
        let root = tempfile::tempdir().unwrap();
        on_threads(n_ranks, |ranks| pretrain_on(root.path(), ranks, &recipe, &Silent).map(|_| ()).unwrap());
        let losses = |root: &Path| logged(root, "pretrain", "loss_nats");
        let distance = distance(&losses(root.path()), &losses(alone.path()));
        println!("rows cut, {n_ranks} ranks, 40 steps: losses within {distance:e}");
        assert!(distance < 1e-4, "{distance}");
        assert_eq!(logged(root.path(), "pretrain", "tokens"), logged(alone.path(), "pretrain", "tokens"));
    }
}

/// Ends a rank's work, as far as a test can, when step `at` is done.
struct Kill {
    at: u64,
}

impl Progress for Kill {
    fn begin(&self, _: &str, _: u64) {}
    fn step(&self, _: &str, step: u64, _: f64, _: u64) {
        assert!(step != self.at, "killed");
    }
    fn end(&self, _: &str) {}
    fn warn(&self, _: &str, _: u64, _: &str) {}
}

#[test]
fn when_a_rank_is_killed_the_others_end_and_any_number_resumes_to_the_same_bytes() {
    let recipe = pretrain_recipe(17, 3, 1);
    let alone = tempfile::tempdir().unwrap();
    pretrain_on(alone.path(), Ranks::default(), &recipe, &Silent).unwrap();
    let root = tempfile::tempdir().unwrap();
    for (n_ranks, killed, at) in [(2, 1, 7), (2, 0, 9), (3, 2, 12), (2, 1, 16)] {
        let outcomes = on_threads(n_ranks, |ranks| {
            let is_killed = ranks.rank() == killed;
            let train = || {
                let outcome = if is_killed {
                    pretrain_on(root.path(), ranks.clone(), &recipe, &Kill { at })
                } else {
                    pretrain_on(root.path(), ranks.clone(), &recipe, &Silent)
                };
                outcome.map(|_| ())
            };
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(train))
        });
        for (rank, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Err(_) => assert_eq!(rank, killed),
                Ok(outcome) => {
                    let error = outcome.unwrap_err();
                    assert!(matches!(error, Error::RankLost { .. }), "{error}");
                }
            }
        }
        assert!(!root.path().join("checkpoints/pretrain").exists());
        let half = |folder: &str| {
            let entries = fs::read_dir(root.path().join(folder)).unwrap();
            entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.')).count()
        };
        assert_eq!(half("steps/pretrain"), 0);
    }
    // The last stretch alone.
    pretrain_on(root.path(), Ranks::default(), &recipe, &Silent).unwrap();
    for file in ["model.safetensors", "state/optimizer.safetensors"] {
        let file = format!("checkpoints/pretrain/{file}");
        assert!(read(root.path(), &file) == read(alone.path(), &file), "{file}");
    }
    let losses = |root: &Path| logged(root, "pretrain", "loss_nats");
    assert!(distance(&losses(root.path()), &losses(alone.path())) < 1e-12);
}

#[test]
fn what_rank_0_cannot_do_ends_all() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("checkpoints"), "a file where a folder should be").unwrap();
    let recipe = pretrain_recipe(2, 1, 2);
    let errors = on_threads(2, |ranks| pretrain_on(root.path(), ranks, &recipe, &Silent).unwrap_err().to_string());
    assert!(errors[0].starts_with("could not ") && errors[0].contains("checkpoints"), "{}", errors[0]);
    assert_eq!(errors[1], "rank 0 has failed");
}

#[test]
fn ranks_that_see_different_files_are_told_so() {
    let roots = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    pretrain_on(roots[0].path(), Ranks::default(), &pretrain_recipe(2, 1, 2), &Silent).unwrap();
    let errors = on_threads(2, |ranks| {
        let root = roots[ranks.rank()].path();
        pretrain_on(root, ranks, &pretrain_recipe(2, 1, 2), &Silent).unwrap_err().to_string()
    });
    assert!(errors.iter().all(|error| error.contains("same finished phases")), "{errors:?}");
}

fn say(role: Role, content: &str) -> Message {
    Message { role, content: content.to_owned() }
}

fn question(name: &str) -> Vec<Message> {
    vec![say(Role::User, &format!("Where does {name} live?"))]
}

const TOWNS: [&str; 5] = ["Lund", "Oslo", "Rome", "Lima", "Kyiv"];

/// Runs a phase of the name on 1, 2 and 3 ranks from fresh weights; returns for each the curves of some numbers.
fn curves(phase: &str, keys: &[&str], train: impl Fn(&RunFolder, &Checkpoint) + Sync) -> Vec<Vec<Vec<f64>>> {
    let curves = |n_ranks| {
        let root = tempfile::tempdir().unwrap();
        on_threads(n_ranks, |ranks| {
            let config = ModelConfig { max_position_embeddings: 128, ..tiny::config() };
            let weights = Weights::random(&config, SEED).unwrap();
            let parent = Checkpoint { config, weights, tokenizer: tiny::tokenizer(), extra: Vec::new(), lineage: None };
            train(&RunFolder::new(root.path()).among(ranks), &parent);
        });
        keys.iter().map(|key| logged(root.path(), phase, key)).collect()
    };
    [1, 2, 3].map(curves).to_vec()
}

/// The largest relative difference of any curve on several ranks from that on one.
fn check(phase: &str, tolerance: f64, keys: &[&str], train: impl Fn(&RunFolder, &Checkpoint) + Sync) {
    let curves = curves(phase, keys, train);
    for (n_ranks, found) in (2..).zip(&curves[1..]) {
        for (key, (found, expected)) in keys.iter().zip(found.iter().zip(&curves[0])) {
            let distance = distance(found, expected);
            println!("{phase}, {n_ranks} ranks, {} steps: {key} within {distance:e}", found.len());
            assert!(distance <= tolerance, "{phase} on {n_ranks} ranks: {key} {found:?} instead of {expected:?}");
        }
    }
}

fn mix() -> PretrainMixRecipe {
    PretrainMixRecipe { batch_sequences: count(2), ..PretrainMixRecipe::default() }
}

#[test]
fn fine_tuning_does_not_depend_on_the_ranks() {
    let conversation = |i: usize| {
        let mut messages = question(["Ada", "Bo", "Cleo"][i % 3]);
        messages.push(say(Role::Assistant, TOWNS[i % 5]));
        Conversation { messages, given: 0, kind: "qa".to_owned() }
    };
    let conversations = &tiny::data_file("sft.jsonl", (0..15).map(conversation).collect());
    for (accumulate, tolerance) in [(3, 1e-12), (1, 1e-4)] {
        let recipe = SftRecipe {
            accumulate: count(accumulate),
            batch_sequences: count(3),
            sequence_tokens: count(128),
            pretrain_mix: mix(),
            ..tiny::sft_recipe(20)
        };
        check("sft", tolerance, &["loss_nats", "chat_loss_nats", "pretrain_loss_nats", "tokens"], |folder, parent| {
            let inputs = sft::Inputs { phase: "sft", parent, conversations, corpus: &tiny::corpus(), seed: SEED };
            sft::run(folder, &recipe, inputs, &Silent).unwrap();
        });
    }
}

fn comparisons() -> crate::data::DataFile<Comparison> {
    let comparison = |i: usize| Comparison {
        prompt: question(["Ada", "Bo", "Cleo", "Dag", "Eve"][i]),
        ranked: TOWNS.iter().cycle().skip(i).take(2 + i % 3).map(|&town| town.to_owned()).collect(),
        kind: "qa".to_owned(),
    };
    tiny::data_file("preferences.jsonl", (0..5).map(comparison).collect())
}

fn schedule() -> ScheduleRecipe {
    ScheduleRecipe::Constant(ConstantRecipe { warmup_steps: 0 })
}

#[test]
fn reward_models_do_not_depend_on_the_ranks() {
    let recipe = RewardRecipe {
        steps: steps(20),
        batch_prompts: count(4),
        held_out: Probability::new(0.2).unwrap(),
        schedule: schedule(),
        ..RewardRecipe::default()
    };
    check("reward", 1e-3, &["loss_nats", "accuracy", "tokens"], |folder, parent| {
        let inputs = reward::Inputs { parent, preferences: &comparisons(), seed: SEED };
        reward::run(folder, &recipe, inputs, &Silent).unwrap();
    });
}

#[test]
fn preference_optimisation_does_not_depend_on_the_ranks() {
    for (batch_sequences, tolerance) in [(1, 1e-9), (16, 1e-3)] {
        let recipe = DpoRecipe {
            steps: steps(12),
            batch_prompts: count(5),
            batch_sequences: count(batch_sequences),
            lr: Positive::new(1e-3).unwrap(),
            schedule: schedule(),
            pretrain_mix: mix(),
            ..DpoRecipe::default()
        };
        check("dpo", tolerance, &["loss_nats", "preference_loss", "accuracy", "tokens"], |folder, parent| {
            let (preferences, corpus) = (&comparisons(), &tiny::corpus());
            let inputs = dpo::Inputs { parent, preferences, corpus, seed: SEED };
            dpo::run(folder, &recipe, inputs, &Silent).unwrap();
        });
    }
}

#[test]
fn policy_optimisation_does_not_depend_on_the_ranks() {
    let prompt = |name: &&str| Prompt { prompt: question(name), kind: "qa".to_owned(), right: Vec::new() };
    let prompts = &tiny::data_file("prompts.jsonl", ["Ada", "Bo", "Cleo", "Dag"].iter().map(prompt).collect());
    let reward_recipe = RewardRecipe {
        steps: steps(2),
        batch_prompts: count(2),
        held_out: Probability::new(0.0).unwrap(),
        ..RewardRecipe::default()
    };
    // Answers of a step in three layouts or more, so that each is computed whole by one rank.
    let recipe = RlhfRecipe {
        rounds: steps(4),
        prompts: count(4),
        sampling: SamplingRecipe { max_new_tokens: count(40), ..SamplingRecipe::default() },
        batch_sequences: count(1),
        schedule: schedule(),
        pretrain_mix: mix(),
        ..RlhfRecipe::default()
    };
    let reward_models = tempfile::tempdir().unwrap();
    check("rlhf", 1e-9, &["loss_nats", "reward", "kl_nats", "tokens"], |folder, parent| {
        let inputs = reward::Inputs { parent, preferences: &comparisons(), seed: SEED };
        // One rank's work, read by the others.
        let rank = folder.ranks().rank().to_string();
        let alone = RunFolder::new(reward_models.path().join(folder.ranks().size().to_string()).join(rank));
        let reward_models = &reward::run(&alone, &reward_recipe, inputs, &Silent).unwrap();
        let inputs =
            rlhf::Inputs { phase: "rlhf", parent, prompts, corpus: &tiny::corpus(), reward_models, seed: SEED };
        rlhf::run(folder, &recipe, inputs, &Silent).unwrap();
    });
}
