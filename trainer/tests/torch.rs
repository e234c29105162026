//! Whole training steps against `PyTorch` and transformers: `tests/peers/adamw_step.py` wrote the numbers.

use candle_core::{Device, Tensor};
use lm::{ModelConfig, Tokenizer, Weights};
use serde_json::Value;
use std::collections::BTreeMap;
use trainer::batch::{Batch, Example};
use trainer::folder::RunFolder;
use trainer::loss::token_loss;
use trainer::recipe::{ConstantRecipe, NonNegative, OptimizerRecipe, Positive, Probability, ScheduleRecipe};
use trainer::session::{Metrics, Origin, Phase, Session, Silent, Start};

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn model(shape: &Value) -> ModelConfig {
    let size = |name: &str| shape[name].as_u64().unwrap() as usize;
    ModelConfig {
        vocab_size: size("vocab_size"),
        hidden_size: size("hidden_size"),
        intermediate_size: size("intermediate_size"),
        num_hidden_layers: size("num_hidden_layers"),
        num_attention_heads: size("num_attention_heads"),
        num_key_value_heads: size("num_key_value_heads"),
        head_dim: size("head_dim"),
        max_position_embeddings: size("max_position_embeddings"),
        rms_norm_eps: shape["rms_norm_eps"].as_f64().unwrap(),
        rope_theta: shape["rope_theta"].as_f64().unwrap(),
        tie_word_embeddings: shape["tie_word_embeddings"].as_bool().unwrap(),
        initializer_range: 0.02,
        bos_token_id: Some(0),
        eos_token_ids: vec![5],
        pad_token_id: Some(1),
    }
}

fn optimizer(fixture: &Value) -> OptimizerRecipe {
    let setting = |name: &str| fixture["settings"][name].as_f64().unwrap();
    OptimizerRecipe {
        beta1: Probability::new(setting("beta1")).unwrap(),
        beta2: Probability::new(setting("beta2")).unwrap(),
        eps: Positive::new(setting("eps")).unwrap(),
        weight_decay: NonNegative::new(setting("weight_decay")).unwrap(),
        clip: Positive::new(setting("max_norm")).unwrap(),
    }
}

#[test]
fn three_steps_of_training_a_tiny_llama_equal_pytorchs() {
    let fixture: Value = serde_json::from_str(include_str!("data/llama_steps.json")).unwrap();
    let config = model(&fixture["shape"]);
    let before = Weights::layout(&config).into_iter().map(|(name, dims)| {
        let tensor = Tensor::from_vec(numbers(&fixture["before"][&name]), dims, &Device::Cpu).unwrap();
        (name, tensor)
    });
    let weights = Weights::from_tensors(&config, before.collect()).unwrap();
    let tokenizer = Tokenizer::train([], 262, 16).unwrap();
    let start = Start { config: &config, weights, extra: Vec::new(), tokenizer: &tokenizer };

    let root = tempfile::tempdir().unwrap();
    let folder = RunFolder::new(root.path());
    let steps = fixture["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 3);
    let phase = Phase {
        name: "torch",
        folder: &folder,
        origin: Origin { seed: 1, parent: None, recipe: String::new(), data: BTreeMap::new() },
        lr: Positive::new(fixture["lr"].as_f64().unwrap()).unwrap(),
        optimizer: &optimizer(&fixture),
        schedule: &ScheduleRecipe::Constant(ConstantRecipe { warmup_steps: 0 }),
        steps: steps.len() as u64,
        save_every: 0,
    };
    let mut session = Session::open(phase, start, &Silent).unwrap();
    for step in steps {
        let rows = step["ids"].as_array().unwrap().iter();
        let examples: Vec<Example> =
            rows.map(|row| Example::plain(numbers(row).into_iter().map(|id| id as u32).collect())).collect();
        let rows: Vec<Vec<&Example>> = examples.iter().map(|example| vec![example]).collect();
        let batch = Batch::assemble(&rows, 12).unwrap();
        let loss = token_loss(session.decoder(), &batch, batch.n_targets).unwrap();
        let (found, expected) = (loss.to_scalar::<f32>().unwrap(), step["loss"].as_f64().unwrap() as f32);
        assert!((found - expected).abs() <= 1e-5, "loss {found} instead of {expected}");
        session.update(&loss, &Metrics { tokens: batch.n_tokens(), ..Metrics::default() }).unwrap();
    }
    let log = std::fs::read_to_string(folder.logs().join("torch.jsonl")).unwrap();
    for (line, step) in log.lines().zip(steps) {
        let line: Value = serde_json::from_str(line).unwrap();
        let (found, expected) = (line["grad_norm"].as_f64().unwrap(), step["norm"].as_f64().unwrap());
        assert!((found - expected).abs() <= 1e-5 * expected, "norm {found} instead of {expected}");
    }
    let after = session.finish().unwrap();
    let mut worst = 0_f32;
    for (name, tensor) in after.weights.iter() {
        let found: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        let expected = numbers(&fixture["after"][name]);
        assert_eq!(found.len(), expected.len(), "{name}");
        worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
    }
    assert!(worst <= 1e-5, "a weight is off by {worst}");
}
