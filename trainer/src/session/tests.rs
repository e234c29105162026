use super::{Metrics, Origin, Phase, Session, Silent, Start};
use crate::error::Error;
use crate::folder::RunFolder;
use crate::gradient_sum::GradientSum;
use crate::loss::token_loss;
use crate::recipe::{OptimizerRecipe, Positive, ScheduleRecipe};
use crate::tiny;
use candle_core::Tensor;
use std::collections::BTreeMap;

fn with_session<T>(root: &std::path::Path, extra: Vec<(String, Tensor)>, body: impl FnOnce(Session<'_>) -> T) -> T {
    let folder = RunFolder::new(root);
    let (config, tokenizer) = (tiny::config(), tiny::tokenizer());
    let phase = Phase {
        name: "test",
        folder: &folder,
        origin: Origin { seed: 1, parent: None, recipe: String::new(), data: BTreeMap::new() },
        lr: Positive::new(1e-3).unwrap(),
        optimizer: &OptimizerRecipe::default(),
        schedule: &ScheduleRecipe::default(),
        steps: 4,
        save_every: 2,
    };
    let start = Start { extra, ..Start::fresh(&config, &tokenizer, 1).unwrap() };
    body(Session::open(phase, start, &Silent).unwrap())
}

fn batch() -> crate::batch::Batch {
    let examples = crate::batch::encode_documents(&tiny::tokenizer(), &tiny::corpus(), 64).unwrap();
    tiny::one_row(&[&examples[0], &examples[1]], 64)
}

#[test]
fn a_parameter_that_the_loss_does_not_reach_is_an_error_that_names_it() {
    let root = tempfile::tempdir().unwrap();
    let head = Tensor::zeros((1, 16), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    with_session(root.path(), vec![("score.weight".to_owned(), head)], |mut session| {
        let batch = batch();
        let loss = token_loss(session.decoder(), &batch, batch.n_targets).unwrap();
        let error = session.update(&loss, &Metrics::default()).unwrap_err();
        assert_eq!(error.to_string(), "phase test, step 1: parameter `score.weight` has no gradient");
    });
}

#[test]
fn a_loss_that_is_no_number_is_an_error_and_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    with_session(root.path(), Vec::new(), |mut session| {
        let batch = batch();
        let loss = (token_loss(session.decoder(), &batch, batch.n_targets).unwrap() * f64::NAN).unwrap();
        let metrics = Metrics { loss: f64::NAN, ..Metrics::default() };
        assert!(matches!(session.update(&loss, &metrics), Err(Error::Diverged { .. })));
        assert_eq!(session.step(), 0);
    });
}

#[test]
fn accumulated_batches_have_the_gradient_of_the_whole() {
    let after = |is_split: bool| {
        let root = tempfile::tempdir().unwrap();
        with_session(root.path(), Vec::new(), |mut session| {
            let examples = crate::batch::encode_documents(&tiny::tokenizer(), &tiny::corpus(), 64).unwrap();
            let whole = tiny::one_row(&[&examples[0], &examples[1]], 64);
            let parts = [tiny::one_row(&[&examples[0]], 64), tiny::one_row(&[&examples[1]], 64)];
            let batches: Vec<_> = if is_split { parts.iter().collect() } else { vec![&whole] };
            for batch in batches {
                let loss = token_loss(session.decoder(), batch, whole.n_targets).unwrap();
                session.accumulate(&loss).unwrap();
            }
            let sum = std::mem::replace(&mut session.gradients, GradientSum::new(0));
            let gradients = sum.into_tensors(&session.parameters).unwrap();
            let gradient = |gradient: &Tensor| gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            gradients.iter().flat_map(gradient).collect::<Vec<f32>>()
        })
    };
    for (a, b) in after(true).into_iter().zip(after(false)) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1e-2), "{a} {b}");
    }
}

#[test]
fn a_snapshot_keeps_its_weights_while_training_goes_on() {
    let root = tempfile::tempdir().unwrap();
    with_session(root.path(), Vec::new(), |mut session| {
        let batch = batch();
        let frozen = session.snapshot().unwrap();
        let value =
            |decoder: &lm::Decoder| token_loss(decoder, &batch, batch.n_targets).unwrap().to_scalar::<f32>().unwrap();
        let before = value(&frozen);
        for _ in 0..3 {
            let loss = token_loss(session.decoder(), &batch, batch.n_targets).unwrap();
            session.update(&loss, &Metrics::default()).unwrap();
        }
        assert!((value(&frozen) - before).abs() < f32::EPSILON);
        assert!(value(session.decoder()) < before - 1e-3);
    });
}

#[test]
fn extra_parameters_are_trained_saved_and_resumed() {
    let root = tempfile::tempdir().unwrap();
    let head = || Tensor::ones((1, 16), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    let step = |session: &mut Session<'_>| {
        let hidden = session.decoder().forward(&batch().input).unwrap();
        let head = session.parameter("score.weight").unwrap();
        let loss = kernels::linear(&hidden, head).unwrap().sqr().unwrap().mean_all().unwrap();
        session.update(&loss, &Metrics { loss: 1.0, ..Metrics::default() }).unwrap();
    };
    let values = |session: &Session<'_>| {
        session.parameter("score.weight").unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let extra = || vec![("score.weight".to_owned(), head())];
    let at_two = with_session(root.path(), extra(), |mut session| {
        step(&mut session);
        step(&mut session);
        values(&session)
    });
    with_session(root.path(), extra(), |mut session| {
        assert_eq!(session.step(), 2);
        assert_eq!(values(&session), at_two);
        step(&mut session);
        step(&mut session);
        let expected = values(&session);
        let saved = session.finish().unwrap();
        assert_eq!(saved.extra("score.weight").unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected);
        assert_ne!(expected, at_two);
    });
}
