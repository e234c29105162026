//! Which training rows move a phase's weights towards a wrong answer: gradients compared over the checkpoints of the phase.

use crate::batch::{Example, encode_continuation};
use crate::bradley_terry::{compare_ranked, cross_entropy};
use crate::data::{Comparison, Conversation, Document};
use crate::error::{Error, Result};
use crate::folder::RunFolder;
use crate::loss::token_loss;
use crate::reward::{HEAD, encode_answer};
use crate::sequence::{lay_out, numbers};
use crate::state;
use candle_core::{D, DType, Tensor, Var};
use lm::chat::{Message, Role};
use lm::checkpoint::Checkpoint;
use lm::config::ModelConfig;
use lm::decoder::Decoder;
use lm::tokenizer::Tokenizer;
use lm::weights::Weights;
use std::path::{Path, PathBuf};

/// What a row teaches, as its phase teaches it.
#[derive(Debug, Clone)]
pub struct Lesson {
    /// The texts, of ranked ones the best first.
    examples: Vec<Example>,
    teaching: Teaching,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Teaching {
    /// The likelihood of the targets.
    Imitate,
    /// How much likelier the better text is than the worse.
    Prefer,
    /// How much higher a scalar head rates the better text.
    Rate,
}

/// What ranked answers teach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pupil {
    /// The policy itself, as DPO does where the policy is still the reference: all pairs pull alike.
    Policy,
    /// A reward model.
    RewardModel,
}

impl Lesson {
    /// A document of pretraining; one longer than `sequence_tokens` counts up to there.
    ///
    /// # Errors
    /// Where the tokenizer fails.
    pub fn document(tokenizer: &Tokenizer, document: &Document, sequence_tokens: usize) -> Result<Self> {
        let mut ids = tokenizer.encode_start(&document.text)?;
        ids.truncate(sequence_tokens);
        Ok(Self { examples: vec![Example::plain(ids)], teaching: Teaching::Imitate })
    }

    /// A conversation of fine-tuning: what the assistant says after the turns that are given.
    ///
    /// # Errors
    /// Where the tokenizer or the template fails.
    pub fn conversation(tokenizer: &Tokenizer, conversation: &Conversation) -> Result<Self> {
        let example = encode_continuation(tokenizer, &conversation.messages, conversation.given)?;
        Ok(Self { examples: vec![example], teaching: Teaching::Imitate })
    }

    /// Ranked answers.
    ///
    /// # Errors
    /// Where the tokenizer or the template fails.
    pub fn ranking(tokenizer: &Tokenizer, comparison: &Comparison, pupil: Pupil) -> Result<Self> {
        let encode = |answer: &String| match pupil {
            Pupil::RewardModel => Ok(Example::plain(encode_answer(tokenizer, &comparison.prompt, answer)?)),
            Pupil::Policy => {
                let mut messages = comparison.prompt.clone();
                messages.push(Message { role: Role::Assistant, content: answer.clone() });
                encode_continuation(tokenizer, &messages, comparison.prompt.len())
            }
        };
        let examples = comparison.ranked.iter().map(encode).collect::<Result<_>>()?;
        Ok(Self { examples, teaching: pupil.teaching() })
    }

    /// A wrong answer preferred to the right one, after a prompt as the subject saw it: the failure, put as a lesson.
    ///
    /// The margin rather than the likelihood of the wrong answer alone, so that what both answers share (the topic, the format) cancels;
    /// rows that teach the right answer then count against a row, and rows of the topic for nothing.
    ///
    /// # Errors
    /// Where the tokenizer fails.
    pub fn failure(tokenizer: &Tokenizer, prompt: &str, wrong: &str, right: &str, pupil: Pupil) -> Result<Self> {
        let given = tokenizer.encode(prompt)?;
        let encode = |answer: &str| {
            let mut ids = given.clone();
            ids.extend(tokenizer.encode(&format!(" {}", answer.trim()))?);
            if pupil == Pupil::RewardModel {
                ids.extend(tokenizer.eos_id());
            }
            let is_target = (0..ids.len()).map(|place| place >= given.len()).collect();
            Ok::<_, Error>(Example { ids, is_target })
        };
        Ok(Self { examples: vec![encode(wrong)?, encode(right)?], teaching: pupil.teaching() })
    }

    /// Length of its longest text, in tokens.
    pub fn n_tokens(&self) -> usize {
        self.examples.iter().map(|example| example.ids.len()).max().unwrap_or(0)
    }

    fn loss(&self, model: &Model) -> Result<Tensor> {
        // No row of the batch is longer than its longest text: nothing is computed for padding.
        let layouts = lay_out(&self.examples, self.n_tokens(), usize::MAX)?;
        let [layout] = layouts.as_slice() else { unreachable!("at least one text makes one layout") };
        if self.teaching == Teaching::Imitate {
            return token_loss(&model.decoder, &layout.batch, layout.batch.n_targets.max(1));
        }
        let mut span_of = vec![0; self.examples.len()];
        for (span, &member) in layout.members.iter().enumerate() {
            span_of[member] = span;
        }
        let pairs = compare_ranked(&[self.examples.len()]);
        if self.teaching == Teaching::Rate {
            let head = model.head.as_ref().ok_or_else(|| lm::Error::MissingTensor { name: HEAD.to_owned() })?;
            let values = kernels::linear(&layout.hidden_at(&model.decoder, &layout.last_positions())?, head)?;
            let pairs: Vec<_> = pairs
                .into_iter()
                .map(|mut pair| {
                    (pair.first, pair.second) = (span_of[pair.first], span_of[pair.second]);
                    pair
                })
                .collect();
            return cross_entropy(&values.flatten_all()?, &pairs);
        }
        // Each text's log-likelihood counts with the sum of its pairs' weights, for as the better, against as the worse.
        let mut weights = vec![0.0; self.examples.len()];
        for pair in pairs {
            weights[pair.first] -= pair.weight;
            weights[pair.second] += pair.weight;
        }
        let targets = layout.targets();
        let hidden = layout.hidden_at(&model.decoder, &targets.positions)?;
        let log_probs = kernels::linear_log_probs(&hidden, model.decoder.lm_head(), &targets.ids)?;
        let weights: Vec<f64> = targets.owners.iter().map(|&owner| weights[owner]).collect();
        let weights = Tensor::new(weights, log_probs.device())?.to_dtype(log_probs.dtype())?;
        Ok((log_probs * weights)?.sum_all()?)
    }
}

impl Pupil {
    fn teaching(self) -> Teaching {
        match self {
            Self::Policy => Teaching::Prefer,
            Self::RewardModel => Teaching::Rate,
        }
    }
}

/// By what the components of gradients are divided before they are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preconditioner {
    /// Nothing: plain cosines.
    None,
    /// The root of the mean squared gradient of the rows themselves, at each checkpoint.
    Sample,
    /// The root of Adam's second moment, as the phase's last checkpoint keeps it.
    Adam,
}

/// How alike what each row teaches is to each failure: the cosine of the failure's gradient with the step that the row would have Adam
/// take, mean over the checkpoints; between -1 and 1, positive where the row teaches the failure.
///
/// With `g_z` the gradient of a row's loss, `g_q` that of a failure and `v` a second moment, per checkpoint
/// `<g_q, G> / (|g_q| |G|)`, `G = g_z / (sqrt(v) + eps)`. Gradients are taken one row at a time and compared at once, none is kept.
///
/// # Shapes
/// (rows, failures)
///
/// # Errors
/// Where a checkpoint cannot be loaded, a text is longer than the context or a tensor operation fails.
///
/// # Reference
/// Xia et al. 2024, LESS, arXiv 2402.04333, equation 3 and definition 3.1; Pruthi et al. 2020, TracIn, arXiv 2002.08484, for the sum over
/// checkpoints.
///
/// # Deviations
/// Exact gradients of all weights, not projected ones of adapters. No momentum: it is the same for all rows. `v` is that of the phase's end, or of
/// the rows, at all checkpoints; those weigh alike, not by their learning rate.
pub fn influence(
    checkpoints: &[PathBuf],
    preconditioner: Preconditioner,
    failures: &[Lesson],
    rows: &[Lesson],
    on_row: &mut dyn FnMut(),
) -> Result<Vec<Vec<f64>>> {
    let extra: &[&str] = if failures.iter().any(|lesson| lesson.teaching == Teaching::Rate) { &[HEAD] } else { &[] };
    let mut sums = vec![vec![0.0; failures.len()]; rows.len()];
    for folder in checkpoints {
        let checkpoint = Checkpoint::load_with(folder, extra)?;
        let model = Model::new(&checkpoint.config, &checkpoint.weights, checkpoint.extra(HEAD))?;
        let scale = match preconditioner {
            Preconditioner::None => None,
            Preconditioner::Sample => Some(model.sample_scale(rows)?),
            Preconditioner::Adam => match model.read_scale(checkpoints.last().unwrap_or(folder))? {
                Some(scale) => Some(scale),
                None => Some(model.sample_scale(rows)?),
            },
        };
        let cosines = model.compare(scale.as_ref(), failures, rows, on_row)?;
        for (sum, cosines) in sums.iter_mut().zip(cosines) {
            for (sum, cosine) in sum.iter_mut().zip(cosines) {
                *sum += cosine / checkpoints.len() as f64;
            }
        }
    }
    Ok(sums)
}

/// The checkpoints of a phase that a run keeps: at most `n`, evenly spaced, the last of them the phase's outcome.
///
/// # Errors
/// Where a folder cannot be read.
pub fn checkpoints_of(folder: &RunFolder, phase: &str, n: usize) -> Result<Vec<PathBuf>> {
    let steps = state::list(&folder.steps(phase))?;
    let mut all: Vec<PathBuf> = steps.into_iter().filter(|step| step.join("config.json").is_file()).collect();
    all.push(folder.checkpoint(phase));
    let n = n.clamp(1, all.len());
    Ok((1..=n).map(|i| all[(i * all.len()).div_ceil(n) - 1].clone()).collect())
}

/// Rows whose gradients are taken at once before they are compared.
const BLOCK: usize = 8;
/// Rows that a second moment is estimated from.
const SAMPLE: usize = 256;
/// Added to the root of the second moment, as a share of its root mean square: components that hardly ever have a gradient
/// would otherwise decide alone.
const DAMPING: f64 = 0.1;

/// A decoder, and for a reward model its head, with respect to whose weights gradients are taken.
struct Model {
    decoder: Decoder,
    head: Option<Tensor>,
    parameters: Vec<(String, Var)>,
}

impl Model {
    fn new(config: &ModelConfig, weights: &Weights, head: Option<&Tensor>) -> Result<Self> {
        let mut parameters = Vec::new();
        for (name, tensor) in weights.iter() {
            parameters.push((name.to_owned(), Var::from_tensor(&tensor.detach())?));
        }
        let tensors = parameters.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        let decoder = Decoder::new(config, &Weights::from_tensors(config, tensors)?)?;
        let mut model = Self { decoder, head: None, parameters };
        if let Some(head) = head {
            let head = Var::from_tensor(&head.detach())?;
            model.head = Some(head.as_tensor().clone());
            model.parameters.push((HEAD.to_owned(), head));
        }
        Ok(model)
    }

    /// Gradient of a lesson's loss with respect to all weights, one after the other; zeros where the loss does not depend on one.
    ///
    /// # Shapes
    /// (number of weights)
    fn gradient(&self, lesson: &Lesson) -> Result<Tensor> {
        let found = lesson.loss(self)?.backward()?;
        let of = |(_, var): &(String, Var)| match found.get(var) {
            Some(gradient) => gradient.flatten_all(),
            None => var.zeros_like()?.flatten_all(),
        };
        let parts = self.parameters.iter().map(of).collect::<candle_core::Result<Vec<_>>>()?;
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// Cosines of each row with each failure, at these weights.
    fn compare(
        &self,
        scale: Option<&Tensor>,
        failures: &[Lesson],
        rows: &[Lesson],
        on_row: &mut dyn FnMut(),
    ) -> Result<Vec<Vec<f64>>> {
        let mut directions = Vec::with_capacity(failures.len());
        for failure in failures {
            let gradient = self.gradient(failure)?;
            let unit = gradient.affine(1.0 / length(&gradient)?.max(f64::MIN_POSITIVE), 0.0)?;
            directions.push(unit);
        }
        let directions = Tensor::stack(&directions, 0)?.t()?.contiguous()?; // (P, Q)
        let mut cosines = Vec::with_capacity(rows.len());
        for block in rows.chunks(BLOCK) {
            let mut steps = Vec::with_capacity(block.len());
            for row in block {
                let gradient = self.gradient(row)?;
                let step = scale.map_or(Ok(gradient.clone()), |scale| gradient.mul(scale))?;
                steps.push(step.affine(1.0 / length(&step)?.max(f64::MIN_POSITIVE), 0.0)?);
                on_row();
            }
            let dots = Tensor::stack(&steps, 0)?.matmul(&directions)?; // (B, Q)
            for row in 0..block.len() {
                cosines.push(numbers(&dots.get(row)?)?);
            }
        }
        Ok(cosines)
    }

    /// One over the damped root of the mean squared gradient of rows spread over all.
    fn sample_scale(&self, rows: &[Lesson]) -> Result<Tensor> {
        let n = rows.len().min(SAMPLE);
        let mut sum: Option<Tensor> = None;
        for i in 0..n {
            let square = self.gradient(&rows[i * rows.len() / n])?.sqr()?;
            sum = Some(match sum {
                Some(sum) => (sum + square)?,
                None => square,
            });
        }
        let sum = sum.ok_or_else(|| Error::NoData { path: PathBuf::new(), what: "rows to compare" })?;
        invert(&sum.affine(1.0 / n as f64, 0.0)?)
    }

    /// One over the damped root of the second moment kept beside a checkpoint; `None` where none is.
    fn read_scale(&self, folder: &Path) -> Result<Option<Tensor>> {
        if !folder.join("state").join("progress.json").is_file() {
            return Ok(None);
        }
        let (_, mut moments) = state::load(folder)?;
        let mut all = Vec::new();
        for (name, _) in &self.parameters {
            let name = format!("exp_avg_sq.{name}");
            let (_, values) = moments.remove(&name).ok_or(lm::Error::MissingTensor { name })?;
            all.extend(values);
        }
        let device = self.parameters[0].1.device();
        Ok(Some(invert(&Tensor::new(all, device)?.to_dtype(self.parameters[0].1.dtype())?)?))
    }
}

/// `1 / (sqrt(v) + damping * root mean square)`.
fn invert(second_moment: &Tensor) -> Result<Tensor> {
    let mean = second_moment.to_dtype(DType::F64)?.mean_all()?.to_scalar::<f64>()?;
    let damping = (DAMPING * mean.sqrt()).max(f64::from(f32::MIN_POSITIVE));
    Ok(second_moment.sqrt()?.affine(1.0, damping)?.recip()?)
}

fn length(gradient: &Tensor) -> Result<f64> {
    Ok(gradient.sqr()?.sum(D::Minus1)?.to_dtype(DType::F64)?.to_scalar::<f64>()?.sqrt())
}

#[cfg(test)]
mod tests {
    use super::{Lesson, Model, Preconditioner, Pupil, influence, invert};
    use crate::data::{Comparison, Conversation, Document};
    use crate::folder::RunFolder;
    use crate::loss::number;
    use crate::pretrain;
    use crate::sequence::numbers;
    use crate::session::Silent;
    use crate::tiny;
    use candle_core::{DType, Device, Tensor};
    use lm::{Message, ModelConfig, Role, Tokenizer, Weights};

    fn message(role: Role, content: &str) -> Message {
        Message { role, content: content.to_owned() }
    }

    fn question() -> Vec<Message> {
        vec![message(Role::User, "Ada?")]
    }

    /// One lesson of each kind, then a failure for either pupil.
    fn lessons(tokenizer: &Tokenizer) -> Vec<Lesson> {
        let document = Document { text: "Ada lives in Lund.".to_owned(), source: String::new() };
        let messages = [question(), vec![message(Role::Assistant, "Lund")]].concat();
        let conversation = Conversation { messages, kind: String::new(), given: 0 };
        let ranked = ["Lund", "Oslo", "Rome"].map(str::to_owned).to_vec();
        let comparison = Comparison { prompt: question(), ranked, kind: String::new() };
        vec![
            Lesson::document(tokenizer, &document, 64).unwrap(),
            Lesson::conversation(tokenizer, &conversation).unwrap(),
            Lesson::ranking(tokenizer, &comparison, Pupil::Policy).unwrap(),
            Lesson::ranking(tokenizer, &comparison, Pupil::RewardModel).unwrap(),
            Lesson::failure(tokenizer, "Ada lives in", "Oslo", "Lund", Pupil::Policy).unwrap(),
            Lesson::failure(tokenizer, "Ada lives in", "Oslo", "Lund", Pupil::RewardModel).unwrap(),
        ]
    }

    /// In f64, with a head.
    fn model() -> Model {
        let config = ModelConfig { initializer_range: 0.3, ..tiny::config() };
        let weights = Weights::random(&config, 5).unwrap().to_dtype(DType::F64).unwrap();
        let head: Vec<f64> = (0..config.hidden_size).map(|i| 0.3 * (i as f64 + 1.0).sin()).collect();
        let head = Tensor::from_vec(head, (1, config.hidden_size), &Device::Cpu).unwrap();
        Model::new(&config, &weights, Some(&head)).unwrap()
    }

    /// The loss after a step of `by` along a direction in the space of all weights.
    fn loss_after(model: &Model, lesson: &Lesson, direction: &[f64], by: f64) -> f64 {
        let mut start = 0;
        let originals: Vec<Vec<f64>> = model.parameters.iter().map(|(_, var)| numbers(var).unwrap()).collect();
        for ((_, var), original) in model.parameters.iter().zip(&originals) {
            let moved: Vec<f64> =
                original.iter().zip(&direction[start..]).map(|(weight, step)| weight + by * step).collect();
            start += original.len();
            var.set(&Tensor::from_vec(moved, var.shape(), &Device::Cpu).unwrap()).unwrap();
        }
        let loss = number(&lesson.loss(model).unwrap()).unwrap();
        for ((_, var), original) in model.parameters.iter().zip(originals) {
            var.set(&Tensor::from_vec(original, var.shape(), &Device::Cpu).unwrap()).unwrap();
        }
        loss
    }

    #[test]
    fn cosines_are_what_steps_along_a_row_do_to_a_failure() {
        let (model, lessons) = (model(), lessons(&tiny::tokenizer()));
        let (rows, failures) = lessons.split_at(4);
        let n_weights: usize = model.parameters.iter().map(|(_, var)| var.elem_count()).sum();
        let moment: Vec<f64> = (0..n_weights).map(|i| (1.0 + (i as f64).cos()).powi(2)).collect();
        let scale = invert(&Tensor::from_vec(moment, n_weights, &Device::Cpu).unwrap()).unwrap();
        let cosines = model.compare(Some(&scale), failures, rows, &mut || ()).unwrap();
        for (row, cosines) in rows.iter().zip(&cosines) {
            let step = numbers(&model.gradient(row).unwrap().mul(&scale).unwrap()).unwrap();
            for (failure, cosine) in failures.iter().zip(cosines) {
                let by = 1e-5;
                let slope =
                    (loss_after(&model, failure, &step, by) - loss_after(&model, failure, &step, -by)) / (2.0 * by);
                let length = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
                let expected = slope / length(&step) / length(&numbers(&model.gradient(failure).unwrap()).unwrap());
                assert!((cosine - expected).abs() < 1e-6 && expected.abs() > 1e-4, "{cosine} instead of {expected}");
            }
        }
    }

    #[test]
    fn the_row_that_teaches_a_wrong_answer_is_found_by_every_preconditioner() {
        let root = tempfile::tempdir().unwrap();
        let folder = RunFolder::new(root.path());
        let (tokenizer, config) = (tiny::tokenizer(), tiny::config());
        let inputs = pretrain::Inputs { corpus: &tiny::corpus(), tokenizer: &tokenizer, config: &config, seed: 3 };
        pretrain::run(&folder, &tiny::pretrain_recipe(12), inputs, &Silent).unwrap();
        let checkpoints = super::checkpoints_of(&folder, "pretrain", 2).unwrap();
        let names: Vec<_> = checkpoints.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["000010", "pretrain"]);
        let row = |text: &str| {
            let document = Document { text: text.to_owned(), source: String::new() };
            Lesson::document(&tokenizer, &document, 64).unwrap()
        };
        let rows = ["Bo lives in Oslo.", "Ada lives in Rome.", "Ada lives in Lund.", "Dag lives in Lima."].map(row);
        let failure = Lesson::failure(&tokenizer, "Ada lives in", "Rome", "Lund", Pupil::Policy).unwrap();
        for preconditioner in [Preconditioner::None, Preconditioner::Sample, Preconditioner::Adam] {
            let mut n_done = 0;
            let found =
                influence(&checkpoints, preconditioner, std::slice::from_ref(&failure), &rows, &mut || n_done += 1)
                    .unwrap();
            let found: Vec<f64> = found.into_iter().map(|of_row| of_row[0]).collect();
            assert_eq!(n_done, 8);
            assert!((0..4).all(|row| row == 1 || found[row] < found[1]), "{preconditioner:?}: {found:?}");
            assert!(found[2] < 0.0, "{preconditioner:?}: {found:?}");
        }
    }
}
