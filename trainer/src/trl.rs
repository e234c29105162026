//! Losses and gradients against TRL and `InstructGPT`'s formula: `tests/peers/trl_losses.py` wrote the numbers and says whose code made
//! which. Log-probabilities are made of logits on both sides, and gradients are those of the logits, all in f64.

use crate::advantage::estimate_kl;
use crate::bradley_terry::{compare_ranked, cross_entropy};
use crate::dpo::sum_by_owner;
use crate::error::Result;
use crate::preference_loss::{ipo, sigmoid};
use crate::recipe::{NonNegative, Positive, Probability, count};
use crate::rlhf::grpo::GrpoRecipe;
use crate::rlhf::method::{Credit, Graded, MethodRecipe, Tokens};
use crate::rlhf::ppo::PpoRecipe;
use crate::rlhf::rloo::RlooRecipe;
use crate::rollout::Trace;
use crate::sequence::numbers;
use candle_core::{DType, Device, Tensor, Var};
use serde_json::Value;

/// Largest relative error of a loss, or of an entry of a gradient, an advantage or an estimate.
const TOLERANCE: f64 = 1e-5;
/// Entries smaller than this share of the largest one are compared with that share instead.
const FLOOR: f64 = 1e-6;

fn fixture() -> Value {
    serde_json::from_str(include_str!("../tests/data/trl_losses.json")).unwrap()
}

/// All numbers of a value, however deeply they are nested.
fn flat(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(flat).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

/// For each answer its numbers.
fn by_answer(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap().iter().map(flat).collect()
}

/// Compares with what TRL found and prints the largest relative error.
fn compare(name: &str, found: &[f64], expected: &Value) {
    let expected = flat(expected);
    assert_eq!(found.len(), expected.len(), "{name}");
    let largest = expected.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    assert!(largest > 0.0, "{name} has nothing to compare");
    let error = |(f, e): (&f64, &f64)| (f - e).abs() / e.abs().max(FLOOR * largest);
    let worst = found.iter().zip(&expected).map(error).fold(0.0, f64::max);
    println!("{name}: {worst:.1e} of {} numbers", expected.len());
    assert!(worst <= TOLERANCE, "{name} is off by {worst:.1e}");
}

/// The answers on which all is compared, their tokens one after the other.
struct Answers {
    settings: Value,
    group: usize,
    lengths: Vec<usize>,
    ids: Vec<u32>,
    /// Logits of the policy that learns, (N, V).
    policy: Var,
    /// The critic's values, (N).
    values: Var,
    rewards: Vec<f64>,
    /// The answers as the policy that gave them, the reference and the critic saw them.
    traces: Vec<Trace>,
}

impl Answers {
    fn read(fixture: &Value, which: &str) -> Self {
        let answers = &fixture[which];
        let lengths: Vec<usize> = flat(&answers["lengths"]).into_iter().map(|n| n as usize).collect();
        let ids: Vec<u32> = flat(&answers["ids"]).into_iter().map(|id| id as u32).collect();
        let vocab = fixture["vocab"].as_u64().unwrap() as usize;
        let logits = |whose: &str| Tensor::from_vec(flat(&answers[whose]), (ids.len(), vocab), &Device::Cpu).unwrap();
        let said = |whose: &str| {
            let mut said = numbers(&log_probs(&logits(whose), &ids)).unwrap().into_iter();
            lengths.iter().map(|&n| said.by_ref().take(n).collect()).collect::<Vec<Vec<f64>>>()
        };
        let values = by_answer(&answers["old_values"]);
        let traces = said("old").into_iter().zip(said("reference")).zip(values);
        let traces =
            traces.map(|((log_probs, reference), values)| Trace { log_probs, reference, values, ..Trace::default() });
        Self {
            settings: fixture["settings"].clone(),
            group: fixture["group"].as_u64().unwrap() as usize,
            policy: Var::from_tensor(&logits("policy")).unwrap(),
            values: Var::new(flat(&answers["values"]), &Device::Cpu).unwrap(),
            rewards: flat(&answers["rewards"]),
            traces: traces.collect(),
            lengths,
            ids,
        }
    }

    fn setting(&self, name: &str) -> f64 {
        self.settings[name].as_f64().unwrap()
    }

    /// For each token the answer it is of, and its place in it.
    fn places(&self) -> Vec<(usize, usize)> {
        self.lengths.iter().enumerate().flat_map(|(answer, &n)| (0..n).map(move |t| (answer, t))).collect()
    }

    fn log_probs(&self) -> Tensor {
        log_probs(&self.policy, &self.ids)
    }

    /// `ln pi(y) - ln ref(y)` of each answer.
    fn log_ratios(&self) -> Tensor {
        let reference = self.traces.iter().flat_map(|trace| trace.reference.clone()).collect::<Vec<_>>();
        let per_token = (self.log_probs() - Tensor::new(reference, &Device::Cpu).unwrap()).unwrap();
        let owners: Vec<usize> = self.places().into_iter().map(|(answer, _)| answer).collect();
        sum_by_owner(&per_token, &owners, self.lengths.len()).unwrap()
    }

    fn graded(&self) -> Graded<'_> {
        Graded {
            rewards: &self.rewards,
            traces: &self.traces,
            group: self.group,
            kl: self.setting("kl"),
            max_new_tokens: self.setting("max_new_tokens") as usize,
        }
    }

    /// The loss of a step whose answers go through the policy in two parts.
    fn loss(&self, method: &MethodRecipe, credit: &Credit) -> Tensor {
        let (places, log_probs) = (self.places(), self.log_probs());
        let middle = self.lengths[..3].iter().sum();
        let part = |start: usize, n: usize| {
            let tokens = Tokens {
                log_probs: &log_probs.narrow(0, start, n).unwrap(),
                values: Some(&self.values.narrow(0, start, n).unwrap()),
                places: &places[start..start + n],
                n_answers: self.lengths.len(),
                n_learnt: places.len(),
            };
            method.loss(&self.graded(), credit, &tokens).unwrap()
        };
        (part(0, middle) + part(middle, places.len() - middle)).unwrap()
    }
}

fn log_probs(logits: &Tensor, ids: &[u32]) -> Tensor {
    let identity = Tensor::eye(logits.dim(1).unwrap(), DType::F64, &Device::Cpu).unwrap();
    kernels::linear_log_probs(logits, &identity, ids).unwrap()
}

fn gradient(loss: &Tensor, of: &Var) -> Vec<f64> {
    numbers(loss.backward().unwrap().get(of).unwrap()).unwrap()
}

fn compare_with_gradient(name: &str, loss: &Tensor, of: &Var, expected: &Value) {
    compare(&format!("{name}, loss"), &[loss.to_scalar().unwrap()], &expected["loss"]);
    compare(&format!("{name}, gradient"), &gradient(loss, of), &expected["gradient"]);
}

#[test]
fn preference_losses_and_their_gradients_equal_trls() {
    let fixture = fixture();
    let answers = Answers::read(&fixture, "ragged");
    let (beta, smoothing) = (answers.setting("beta"), answers.setting("label_smoothing"));
    let n = answers.lengths.len();
    for (kind, width) in [("pairs", 2), ("rankings", answers.group)] {
        let pairs = compare_ranked(&vec![width; n / width]);
        let check = |name: &str, loss: Result<Tensor>| {
            let name = format!("{name}_{kind}");
            compare_with_gradient(&name, &loss.unwrap(), &answers.policy, &fixture[&name]);
        };
        check("dpo", sigmoid(&answers.log_ratios(), &pairs, beta, 0.0));
        check("cdpo", sigmoid(&answers.log_ratios(), &pairs, beta, smoothing));
        check("ipo", ipo(&answers.log_ratios(), &answers.lengths, &pairs, beta));
    }
}

#[test]
fn the_loss_of_the_reward_model_equals_trls_for_pairs_and_instructgpts_over_ranks() {
    let fixture = fixture();
    let check = |name: &str, sizes: &[usize], expected: &Value| {
        let scores = Var::new(flat(&expected["scores"]), &Device::Cpu).unwrap();
        let loss = cross_entropy(&scores, &compare_ranked(sizes)).unwrap();
        compare_with_gradient(name, &loss, &scores, expected);
    };
    check("reward_pairs", &[2; 4], &fixture["reward_pairs"]);
    for expected in fixture["reward_ranks"].as_array().unwrap() {
        let sizes: Vec<usize> = flat(&expected["sizes"]).into_iter().map(|n| n as usize).collect();
        check(&format!("reward_ranks {sizes:?}"), &sizes, expected);
    }
}

#[test]
fn the_losses_of_grpo_and_rloo_and_their_gradients_equal_trls() {
    let fixture = fixture();
    let mut answers = Answers::read(&fixture, "ragged");
    let check = |name: &str, method: &MethodRecipe, answers: &Answers| {
        let credit = method.assign_credit(&answers.graded());
        let advantages: Vec<f64> = credit.advantages.iter().map(|of_tokens| of_tokens[0]).collect();
        compare(&format!("{name}, advantages"), &advantages, &fixture[name]["advantages"]);
        compare_with_gradient(name, &answers.loss(method, &credit), &answers.policy, &fixture[name]);
    };
    for (name, normalise) in [("grpo", true), ("dr_grpo", false)] {
        let clip = Positive::new(answers.setting("clip")).unwrap();
        // TRL's number, where the recipe has another by default
        let std_eps = Positive::new(1e-4).unwrap();
        check(name, &MethodRecipe::Grpo(GrpoRecipe { clip, normalise, std_eps, epochs: count(1) }), &answers);
    }
    // One step per round: the answers are those of the policy that learns.
    let mut own = numbers(&answers.log_probs()).unwrap().into_iter();
    for trace in &mut answers.traces {
        trace.log_probs = own.by_ref().take(trace.log_probs.len()).collect();
    }
    check("rloo", &MethodRecipe::Rloo(RlooRecipe {}), &answers);
}

#[test]
fn the_loss_of_ppo_its_gradients_advantages_and_returns_equal_trls() {
    let fixture = fixture();
    for (name, which) in [("ppo", "ragged"), ("ppo_whole", "whole")] {
        let (answers, expected) = (Answers::read(&fixture, which), &fixture[name]);
        let probability = |setting: &str| Probability::new(answers.setting(setting)).unwrap();
        let method = MethodRecipe::Ppo(PpoRecipe {
            clip: Positive::new(answers.setting("clip")).unwrap(),
            value_clip: Positive::new(answers.setting("value_clip")).unwrap(),
            value_coefficient: NonNegative::new(answers.setting("value_coefficient")).unwrap(),
            gamma: probability("gamma"),
            lambda: probability("lambda"),
            ..PpoRecipe::default()
        });
        let mut credit = method.assign_credit(&answers.graded());
        // TRL whitens with the unbiased deviation, we with that of the population.
        let n = answers.ids.len() as f64;
        for advantage in credit.advantages.iter_mut().flatten() {
            *advantage *= ((n - 1.0) / n).sqrt();
        }
        compare(&format!("{name}, advantages"), &credit.advantages.concat(), &expected["advantages"]);
        compare(&format!("{name}, returns"), &credit.returns.concat(), &expected["returns"]);
        let loss = answers.loss(&method, &credit);
        compare_with_gradient(name, &loss, &answers.policy, expected);
        compare(&format!("{name}, value gradient"), &gradient(&loss, &answers.values), &expected["value_gradient"]);
    }
}

#[test]
fn the_estimates_of_kl_equal_trls() {
    let fixture = fixture();
    let answers = Answers::read(&fixture, "ragged");
    let policy = numbers(&answers.log_probs()).unwrap();
    let reference = answers.traces.iter().flat_map(|trace| &trace.reference);
    let estimates: Vec<_> = policy.iter().zip(reference).map(|(&p, &q)| estimate_kl(p, q)).collect();
    compare("k1", &estimates.iter().map(|e| e.k1).collect::<Vec<_>>(), &fixture["kl"]["k1"]);
    compare("k3", &estimates.iter().map(|e| e.k3).collect::<Vec<_>>(), &fixture["kl"]["k3"]);
}
