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
    let fingerprints = [model::fingerprint(reference)?, model::fingerprint(aligned)?];
    let fingerprint = mixing::fingerprint("interpolated", fingerprints.each_ref().map(String::as_str), lambda);
    let tensors = reference
        .weights
        .iter()
        .map(|(name, tensor)| {
            let other = aligned.weights.get(name).ok_or_else(|| Error::MissingTensor { name: name.to_owned() })?;
            Ok((name.to_owned(), between(name, tensor, other, lambda)?))
        })
        .collect::<Result<_>>()?;
    let weights = Weights::from_tensors(&reference.config, tensors)?;
    LoadedModel::assemble(&reference.config, &weights, &reference.tokenizer, fingerprint)
}

/// Exact at both ends, unlike `reference + lambda (aligned - reference)`.
fn between(name: &str, reference: &Tensor, aligned: &Tensor, lambda: f64) -> Result<Tensor> {
    if reference.dims() != aligned.dims() {
        return Err(Error::ShapeMismatch {
            what: format!("`{name}` of the aligned model"),
            expected: reference.dims().to_vec(),
            found: aligned.dims().to_vec(),
        });
    }
    Ok(((reference.detach() * (1.0 - lambda))? + (aligned.detach() * lambda)?)?)
}

#[cfg(test)]
mod tests {
    use super::interpolate;
    use crate::checkpoint::Checkpoint;
    use crate::config::ModelConfig;
    use crate::model::LoadedModel;
    use crate::model::tests::{generate_requests, score_requests, tiny_checkpoint, tiny_tokenizer};
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
            assert_eq!(end.score(&score_requests()).unwrap(), own.score(&score_requests()).unwrap());
            assert_eq!(end.generate(&generate_requests()).unwrap(), own.generate(&generate_requests()).unwrap());
        }
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
                model.decoder().logits(&batch).unwrap().flatten_all().unwrap().to_vec1().unwrap()
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
