//! Weights on the line between two checkpoints.

use crate::checkpoint::Checkpoint;
use crate::mixing;
use crate::model::{self, LoadedModel};
use crate::weights::Weights;
use crate::{Error, Result};
use candle_core::Tensor;

/// The model whose weights are `theta = (1 - lambda) theta_reference + lambda theta_aligned`: the reference at 0, the aligned
/// model at 1, beyond it from there on.
///
/// It guesses what training with another strength of alignment would have given, without training: how good the guess is, only
/// a model trained so can tell. Tensors beyond the decoder's own are left out.
///
/// # Errors
/// [`Error::NotAlike`] where configs or tokenizers differ, [`Error::MissingTensor`] or [`Error::ShapeMismatch`] where weights do,
/// [`Error::BadLambda`] where `lambda` is negative or no number.
///
/// # Reference
/// Wortsman et al. 2022, Robust fine-tuning of zero-shot models, arXiv 2109.01903 (between a model and its fine-tuned self); Ramé et
/// al. 2024, WARP, arXiv 2406.16768 (between an SFT model and its aligned self).
pub fn interpolate(reference: &Checkpoint, aligned: &Checkpoint, lambda: f64) -> Result<LoadedModel> {
    mixing::check([&reference.config, &aligned.config], [&reference.tokenizer, &aligned.tokenizer], lambda)?;
    sum(&[(1.0 - lambda, reference), (lambda, aligned)])
}

/// What a phase adds, put on another model: `theta = theta_base + theta_after - theta_before`.
///
/// # Errors
/// As [`interpolate`].
///
/// # Reference
/// Ilharco et al. 2023, Editing models with task arithmetic, arXiv 2212.04089.
pub fn transplant(base: &Checkpoint, before: &Checkpoint, after: &Checkpoint) -> Result<LoadedModel> {
    for other in [before, after] {
        mixing::check([&base.config, &other.config], [&base.tokenizer, &other.tokenizer], 1.0)?;
    }
    sum(&[(1.0, base), (-1.0, before), (1.0, after)])
}

fn sum(parts: &[(f64, &Checkpoint)]) -> Result<LoadedModel> {
    let keys = parts.iter().map(|(_, checkpoint)| model::fingerprint(checkpoint)).collect::<Result<Vec<_>>>()?;
    let weighted: Vec<(f64, &str)> =
        parts.iter().zip(&keys).map(|((weight, _), key)| (*weight, key.as_str())).collect();
    let fingerprint = mixing::fingerprint("interpolated", &weighted);
    let (_, first) = parts[0];
    let tensors = first
        .weights
        .iter()
        .map(|(name, tensor)| {
            let mut total = (tensor.detach() * parts[0].0)?;
            for (weight, other) in &parts[1..] {
                let other = other.weights.get(name).ok_or_else(|| Error::MissingTensor { name: name.to_owned() })?;
                check_shape(name, tensor, other)?;
                total = (total + (other.detach() * *weight)?)?;
            }
            Ok((name.to_owned(), total))
        })
        .collect::<Result<_>>()?;
    let weights = Weights::from_tensors(&first.config, tensors)?;
    LoadedModel::assemble(&first.config, weights, &first.tokenizer, fingerprint)
}

fn check_shape(name: &str, tensor: &Tensor, other: &Tensor) -> Result<()> {
    if tensor.dims() == other.dims() {
        return Ok(());
    }
    Err(Error::ShapeMismatch {
        what: format!("`{name}` of the aligned model"),
        expected: tensor.dims().to_vec(),
        found: other.dims().to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::{interpolate, transplant};
    use crate::checkpoint::Checkpoint;
    use crate::config::ModelConfig;
    use crate::model::LoadedModel;
    use crate::model::tests::{generations, scores, tiny_checkpoint, tiny_tokenizer};
    use crate::subject::Subject;
    use crate::weights::Weights;
    use crate::{Error, batch::Batch};
    use proptest::prelude::*;

    #[test]
    fn the_ends_of_the_line_answer_as_the_checkpoints_do() {
        let (reference, aligned) = (tiny_checkpoint(1), tiny_checkpoint(2));
        for (lambda, checkpoint) in [(0.0, &reference), (1.0, &aligned)] {
            let (end, own) =
                (interpolate(&reference, &aligned, lambda).unwrap(), LoadedModel::new(checkpoint).unwrap());
            assert_eq!(scores(&end), scores(&own));
            assert_eq!(generations(&end), generations(&own));
        }
    }

    #[test]
    fn a_phase_put_on_its_own_start_gives_its_end_within_rounding() {
        let [base, before, after] = [1, 2, 3].map(tiny_checkpoint);
        let answers =
            |model: &LoadedModel| -> Vec<f64> { scores(model).iter().map(|score| score.log_prob_nats).collect() };
        let end = answers(&LoadedModel::new(&after).unwrap());
        for (a, b) in answers(&transplant(&before, &before, &after).unwrap()).iter().zip(&end) {
            assert!((a - b).abs() < 1e-3, "{a} {b}");
        }
        assert_ne!(answers(&transplant(&base, &before, &after).unwrap()), end);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn every_weight_lies_on_the_line(seed in 0_u64..1_000, lambda in 0.0_f64..3.0) {
            let (reference, aligned) = (tiny_checkpoint(seed), tiny_checkpoint(seed + 1));
            let values = |weights: &Weights| -> Vec<f32> {
                weights.iter().flat_map(|(_, tensor)| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
            };
            let on_line = values(&reference.weights).into_iter().zip(values(&aligned.weights)).map(|(a, b)| {
                let (a, b) = (f64::from(a), f64::from(b));
                (a + lambda * (b - a)) as f32
            });
            let mut next = on_line.collect::<Vec<_>>().into_iter();
            let expected = reference.weights.map(|tensor| {
                let values: Vec<f32> = next.by_ref().take(tensor.elem_count()).collect();
                Ok(candle_core::Tensor::from_vec(values, tensor.dims(), tensor.device())?)
            });
            let expected = LoadedModel::new(&Checkpoint { weights: expected.unwrap(), ..reference.clone() }).unwrap();
            let found = interpolate(&reference, &aligned, lambda).unwrap();
            let batch = Batch::pad(&[[7_u32, 30, 41, 9, 250]]).unwrap();
            let logits = |model: &LoadedModel| -> Vec<f32> {
                model.decoder().unwrap().logits(&batch).unwrap().flatten_all().unwrap().to_vec1().unwrap()
            };
            for (a, b) in logits(&expected).into_iter().zip(logits(&found)) {
                prop_assert!((a - b).abs() < 1e-3 * (1.0 + a.abs()), "{a} {b}");
            }
        }
    }

    #[test]
    fn each_place_on_the_line_has_a_key_of_its_own() {
        let (reference, aligned) = (tiny_checkpoint(1), tiny_checkpoint(2));
        let key = |a, b, lambda| interpolate(a, b, lambda).unwrap().fingerprint().to_owned();
        let half = key(&reference, &aligned, 0.5);
        assert_eq!(half, key(&reference, &aligned, 0.5));
        assert_ne!(half, key(&reference, &aligned, 0.25));
        assert_ne!(half, key(&aligned, &reference, 0.5));
        assert_ne!(half, key(&reference, &tiny_checkpoint(3), 0.5));
    }

    #[test]
    fn models_that_are_not_alike_are_refused_by_what_differs() {
        let reference = tiny_checkpoint(1);
        let refusal = |aligned: &Checkpoint| interpolate(&reference, aligned, 0.5).unwrap_err().to_string();
        let wide = ModelConfig { intermediate_size: 48, ..reference.config.clone() };
        let weights = Weights::random(&wide, 1).unwrap();
        assert_eq!(
            refusal(&Checkpoint { config: wide, weights: weights.clone(), ..reference.clone() }),
            "the reference and the aligned model cannot be mixed: `intermediate_size` is 40 in the reference and 48 in the aligned model"
        );
        assert_eq!(
            refusal(&Checkpoint { tokenizer: tiny_tokenizer("other words were learnt here"), ..reference.clone() }),
            "the reference and the aligned model cannot be mixed: tokenizer.json of their tokenizers differs"
        );
        assert_eq!(
            refusal(&Checkpoint { weights, ..reference.clone() }),
            "`model.layers.0.mlp.gate_proj.weight` of the aligned model has shape [48, 24], expected [40, 24]"
        );
        let padded = ModelConfig { pad_token_id: None, initializer_range: 0.5, ..reference.config.clone() };
        assert!(interpolate(&reference, &Checkpoint { config: padded, ..reference.clone() }, 0.5).is_ok());
    }

    #[test]
    fn a_lambda_that_is_no_place_on_the_line_is_refused() {
        let reference = tiny_checkpoint(1);
        for lambda in [-0.1, f64::NAN, f64::INFINITY] {
            assert!(matches!(interpolate(&reference, &reference, lambda), Err(Error::BadLambda { .. })), "{lambda}");
        }
    }
}
