//! Tests that the gradient of every loss, taken through the whole decoder, is that of central differences.

use crate::advantage::{clipped_surrogate, clipped_value_error, penalise_divergence, reinforce, weigh};
use crate::batch::{Example, encode_documents};
use crate::bradley_terry::{Pair, compare_ranked, cross_entropy};
use crate::dpo::log_ratios;
use crate::loss::{number, token_loss};
use crate::preference_loss::{ipo, sigmoid};
use crate::sequence::{Layout, lay_out, numbers};
use crate::tiny;
use candle_core::{DType, Device, Tensor, Var};
use lm::{Decoder, ModelConfig, Weights};

const STEP: f64 = 1e-5;
/// Relative to the largest entry of the parameter's gradient.
const TOLERANCE: f64 = 1e-6;

/// A decoder and a scalar head whose parameters are variables, in f64.
struct Model {
    decoder: Decoder,
    head: Tensor,
    parameters: Vec<(String, Var)>,
}

impl Model {
    fn new(tie_word_embeddings: bool) -> Self {
        Self::drawn(tie_word_embeddings, 5)
    }

    fn drawn(tie_word_embeddings: bool, seed: u64) -> Self {
        let config = ModelConfig { tie_word_embeddings, initializer_range: 0.3, ..tiny::config() };
        let weights = Weights::random(&config, seed).unwrap().to_dtype(DType::F64).unwrap();
        let named = weights.iter().map(|(name, tensor)| (name.to_owned(), Var::from_tensor(tensor).unwrap()));
        let mut parameters: Vec<(String, Var)> = named.collect();
        let tensors = parameters.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        let decoder = Decoder::new(&config, &Weights::from_tensors(&config, tensors).unwrap()).unwrap();
        let head: Vec<f64> = (0..config.hidden_size).map(|i| 0.3 * (i as f64 + 1.0).sin()).collect();
        let head = Var::from_vec(head, (1, config.hidden_size), &Device::Cpu).unwrap();
        let tensor = head.as_tensor().clone();
        parameters.push(("head".to_owned(), head));
        Self { decoder, head: tensor, parameters }
    }

    fn values(&self, layout: &Layout, positions: &[u32]) -> Tensor {
        let hidden = layout.hidden_at(&self.decoder, positions).unwrap();
        kernels::linear(&hidden, &self.head).unwrap().flatten_all().unwrap()
    }
}

/// Compares three entries of each parameter's gradient, the largest among them, with difference quotients of the loss.
///
/// Parameters named in `untouched` must have no gradient.
fn check(model: &Model, untouched: &[&str], loss: impl Fn(&Model) -> Tensor) {
    let gradients = loss(model).backward().unwrap();
    for (name, var) in &model.parameters {
        let Some(gradient) = gradients.get(var) else {
            assert!(untouched.contains(&name.as_str()), "{name} has no gradient");
            continue;
        };
        assert!(!untouched.contains(&name.as_str()), "{name} has a gradient");
        let gradient = numbers(gradient).unwrap();
        let n = gradient.len();
        let largest = (0..n).max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs())).unwrap();
        let size = gradient[largest].abs();
        assert!(size > 1e-6, "{name}: {size}");
        let original = numbers(var).unwrap();
        for idx in [largest, n / 2, n - 1] {
            let shifted = |by: f64| {
                let mut moved = original.clone();
                moved[idx] += by;
                var.set(&Tensor::from_vec(moved, var.shape(), &Device::Cpu).unwrap()).unwrap();
                number(&loss(model)).unwrap()
            };
            let quotient = (shifted(STEP) - shifted(-STEP)) / (2.0 * STEP);
            shifted(0.0);
            let error = (quotient - gradient[idx]).abs() / size;
            assert!(error < TOLERANCE, "{name}[{idx}]: {} instead of {quotient}", gradient[idx]);
        }
    }
}

/// Documents of which the last few tokens are learnt, in one layout.
fn answers() -> Layout {
    let mut examples = encode_documents(&tiny::tokenizer(), &tiny::corpus(), 64).unwrap();
    for example in &mut examples {
        example.ids.truncate(24);
        *example = Example { is_target: (0..24).map(|t| t >= 18).collect(), ids: example.ids.clone() };
    }
    let layouts = lay_out(&examples, 64, 8).unwrap();
    let [layout] = <[Layout; 1]>::try_from(layouts).unwrap();
    layout
}

#[test]
fn the_loss_of_language_modelling_has_the_gradient_of_its_differences() {
    for tied in [true, false] {
        let layout = answers();
        let batch = &layout.batch;
        check(&Model::new(tied), &["head"], |model| token_loss(&model.decoder, batch, batch.n_targets).unwrap());
    }
}

#[test]
fn the_loss_of_the_reward_model_has_the_gradient_of_its_differences() {
    let layout = answers();
    let last = layout.last_positions();
    let mut pairs = compare_ranked(&[4]);
    // A soft label, as the preference model has them.
    pairs.push(Pair { first: 4, second: 5, first_is_better: 0.3, weight: 0.5 });
    check(&Model::new(true), &[], |model| cross_entropy(&model.values(&layout, &last), &pairs).unwrap());
    check(&Model::new(false), &["lm_head.weight"], |model| {
        cross_entropy(&model.values(&layout, &last), &pairs).unwrap()
    });
}

fn log_probs(model: &Model, layout: &Layout) -> Tensor {
    let targets = layout.targets();
    let hidden = layout.hidden_at(&model.decoder, &targets.positions).unwrap();
    kernels::linear_log_probs(&hidden, model.decoder.lm_head(), &targets.ids).unwrap()
}

/// Numbers of both signs, none near zero.
fn advantages(n: usize) -> Vec<f64> {
    (0..n).map(|i| [0.7, -1.3, 0.4, -0.6, 1.1][i % 5]).collect()
}

#[test]
fn the_loss_of_rloo_has_the_gradient_of_its_differences() {
    for tied in [true, false] {
        let layout = answers();
        let advantages = advantages(layout.batch.n_targets);
        check(&Model::new(tied), &["head"], |model| reinforce(&log_probs(model, &layout), &advantages).unwrap());
    }
}

#[test]
fn the_loss_of_ppo_with_its_critic_has_the_gradient_of_its_differences() {
    for tied in [true, false] {
        let layout = answers();
        let positions = layout.targets().positions;
        let model = Model::new(tied);
        let advantages = advantages(layout.batch.n_targets);
        // Ratios and values on both sides of the clip range of 0.2, and within it, but not at its ends.
        let moved = |now: Vec<f64>, by: [f64; 4]| -> Vec<f64> {
            now.into_iter().enumerate().map(|(i, x)| x + by[i % 4]).collect()
        };
        let old = moved(numbers(&log_probs(&model, &layout)).unwrap(), [-0.5, 0.05, 0.6, -0.1]);
        let old_values = moved(numbers(&model.values(&layout, &positions)).unwrap(), [0.3, -0.1, -0.4, 0.07]);
        let returns = moved(old_values.clone(), [0.9, 0.5, -0.8, 1.2]);
        check(&model, &[], |model| {
            let policy = clipped_surrogate(&log_probs(model, &layout), &old, &advantages, 0.2).unwrap();
            let critic = clipped_value_error(&model.values(&layout, &positions), &old_values, &returns, 0.2).unwrap();
            (policy + (critic * 0.1).unwrap()).unwrap().mean_all().unwrap()
        });
    }
}

#[test]
fn the_loss_of_grpo_with_its_penalty_has_the_gradient_of_its_differences() {
    for tied in [true, false] {
        let layout = answers();
        let model = Model::new(tied);
        let advantages = advantages(layout.batch.n_targets);
        let now = numbers(&log_probs(&model, &layout)).unwrap();
        let moved = |by: [f64; 4]| -> Vec<f64> { now.iter().enumerate().map(|(i, x)| x + by[i % 4]).collect() };
        let (old, reference) = (moved([-0.5, 0.05, 0.6, -0.1]), moved([0.4, -0.7, 0.2, 0.9]));
        let weights: Vec<f64> = (0..now.len()).map(|i| 1.0 / (6 + i % 3) as f64).collect();
        check(&model, &["head"], |model| {
            let log_probs = log_probs(model, &layout);
            let surrogate = clipped_surrogate(&log_probs, &old, &advantages, 0.2).unwrap();
            let penalty = penalise_divergence(&log_probs, &reference).unwrap();
            weigh(&(surrogate + (penalty * 0.3).unwrap()).unwrap(), &weights).unwrap()
        });
    }
}

#[test]
fn the_losses_of_dpo_and_ipo_have_the_gradient_of_their_differences() {
    for tied in [true, false] {
        let layout = answers();
        let (model, reference) = (Model::new(tied), Model::drawn(tied, 6));
        let ratios = |model: &Model| log_ratios(&model.decoder, &reference.decoder, &layout).unwrap();
        let pairs = compare_ranked(&[4, 2]);
        check(&model, &["head"], |model| sigmoid(&ratios(model), &pairs, 0.7, 0.1).unwrap());
        let n_tokens = vec![6; layout.members.len()];
        check(&model, &["head"], |model| ipo(&ratios(model), &n_tokens, &pairs, 0.7).unwrap());
    }
}
