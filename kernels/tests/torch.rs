//! The optimizer against `PyTorch`: `tests/peers/adamw_step.py` wrote the numbers.

use candle_core::{Device, Tensor, Var};
use kernels::{AdamW, AdamWConfig};
use serde_json::Value;

/// `PyTorch` scales by `max_norm / (norm + 1e-6)`, we by `max_norm / norm`; the rest is rounding of f32.
const TOLERANCE: f64 = 1e-6;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn tensor(value: &Value, dims: &[usize]) -> Tensor {
    let values: Vec<f32> = numbers(value).into_iter().map(|x| x as f32).collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

#[test]
fn each_of_six_steps_equals_pytorchs() {
    let fixture: Value = serde_json::from_str(include_str!("data/adamw.json")).unwrap();
    let setting = |name: &str| fixture["settings"][name].as_f64().unwrap();
    let config = AdamWConfig {
        beta1: setting("beta1"),
        beta2: setting("beta2"),
        eps: setting("eps"),
        weight_decay: setting("weight_decay"),
        max_norm: Some(setting("max_norm")),
    };
    let shapes = fixture["shapes"].as_object().unwrap().iter();
    let shapes: Vec<(&str, Vec<usize>)> =
        shapes.map(|(name, dims)| (name.as_str(), numbers(dims).into_iter().map(|n| n as usize).collect())).collect();
    let read = |named: &Value, (name, dims): &(&str, Vec<usize>)| tensor(&named[*name], dims);
    let params: Vec<(String, Var)> = shapes
        .iter()
        .map(|shape| (shape.0.to_owned(), Var::from_tensor(&read(&fixture["before"], shape)).unwrap()))
        .collect();
    let mut optimizer = AdamW::new(&params, config, |_, var| var.rank() >= 2);
    let steps = fixture["steps"].as_array().unwrap();
    assert_eq!((steps.len(), params.len()), (6, 3));
    for (step_idx, step) in steps.iter().enumerate() {
        let grads: Vec<Tensor> = shapes.iter().map(|shape| read(&step["grads"], shape)).collect();
        let norm = optimizer.step(&params, &grads, step["lr"].as_f64().unwrap()).unwrap();
        let expected = step["norm"].as_f64().unwrap();
        assert!((norm - expected).abs() <= TOLERANCE * expected, "step {step_idx}: norm {norm} instead of {expected}");
        for (name, var) in &params {
            let found: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
            for (i, (a, b)) in found.iter().zip(numbers(&step["after"][name])).enumerate() {
                let error = (f64::from(*a) - b).abs();
                assert!(error <= TOLERANCE * b.abs().max(1.0), "step {step_idx}, {name}[{i}]: {a} instead of {b}");
            }
        }
    }
}
