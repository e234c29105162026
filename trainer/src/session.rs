//! One phase in progress: parameters, optimizer, logs, and a state on disk from which it resumes exactly.
//!
//! A phase is a loop around a [`Session`]; whatever the loop needs besides (batches, samples) it derives from the seed and
//! [`Session::step`], so nothing else has to be saved. A process may be killed at any moment: every folder is written under a
//! temporary name and renamed when complete, and the next process ends with the same bytes.
//!
//! Where several ranks share a phase, all of them make the same calls; each accumulates the loss of its share of a step's batches.

use crate::error::{Error, Result};
use crate::folder::RunFolder;
use crate::gradient_sum::GradientSum;
use crate::log::{Record, StepLog};
use crate::loss::number;
pub use crate::progress::{Progress, Silent};
use crate::ranks::{Ranks, ShardedAdamW};
use crate::recipe::{OptimizerRecipe, Positive, ScheduleRecipe};
use crate::state;
use crate::tally::Tally;
use crate::trajectory;
use candle_core::{Tensor, Var};
use kernels::{AdamWConfig, Moments};
use lm::checkpoint::Checkpoint;
use lm::config::ModelConfig;
use lm::decoder::Decoder;
use lm::device::training_dtype;
use lm::lineage::{self, Lineage, Stretch};
use lm::tokenizer::Tokenizer;
use lm::weights::Weights;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What distinguishes one phase from another.
#[derive(Debug, Clone)]
pub struct Phase<'a> {
    /// Name of the phase and its folders, such as `sft`.
    pub name: &'a str,
    /// Where it writes.
    pub folder: &'a RunFolder,
    /// What it is made from.
    pub origin: Origin,
    /// Peak learning rate.
    pub lr: Positive,
    /// The optimizer.
    pub optimizer: &'a OptimizerRecipe,
    /// The learning rate over the steps.
    pub schedule: &'a ScheduleRecipe,
    /// Number of steps.
    pub steps: u64,
    /// Steps between intermediate checkpoints, from which it can resume; 0 for none.
    pub save_every: u64,
}

/// What a checkpoint is made from: with the same origin, the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Seed of every random stream of the phase.
    pub seed: u64,
    /// Content hash of the checkpoint it starts from; none for fresh weights.
    pub parent: Option<String>,
    /// The recipe of the phase, as TOML.
    pub recipe: String,
    /// SHA-256 of each data file, by file name.
    pub data: BTreeMap<String, String>,
}

/// What a phase starts from.
#[derive(Debug, Clone)]
pub struct Start<'a> {
    /// Shape of the decoder.
    pub config: &'a ModelConfig,
    /// Its parameters.
    pub weights: Weights,
    /// Parameters that the decoder does not know, such as a scalar head; trained and saved with the others.
    pub extra: Vec<(String, Tensor)>,
    /// Its tokenizer, copied into every checkpoint.
    pub tokenizer: &'a Tokenizer,
}

impl<'a> Start<'a> {
    /// Fresh weights, drawn from the seed.
    ///
    /// # Errors
    /// Where the config does not describe a decoder.
    pub fn fresh(config: &'a ModelConfig, tokenizer: &'a Tokenizer, seed: u64) -> Result<Self> {
        Ok(Self { config, weights: Weights::random(config, seed)?, extra: Vec::new(), tokenizer })
    }

    /// The weights of a checkpoint.
    pub fn from_checkpoint(parent: &'a Checkpoint) -> Self {
        Self {
            config: &parent.config,
            weights: parent.weights.clone(),
            extra: Vec::new(),
            tokenizer: &parent.tokenizer,
        }
    }
}

/// What a loop reports of a step.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// The loss in nats, as logged; of several ranks each reports what its share of the batches adds to it.
    pub loss: f64,
    /// Tokens of the step, padding left out; likewise.
    pub tokens: u64,
    /// Further numbers, such as reward or KL, by name; the same on every rank.
    pub extra: Vec<(&'static str, f64)>,
}

impl Metrics {
    /// A further number by name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.extra.iter().find(|(known, _)| *known == name).map(|&(_, value)| value)
    }
}

impl Phase<'_> {
    /// The outcome of this phase, if it has ended before.
    ///
    /// # Errors
    /// [`Error::OtherOrigin`] where the folder holds the outcome of another recipe, parent, seed or data.
    pub fn finished(&self) -> Result<Option<Checkpoint>> {
        self.finished_with(&[])
    }

    /// As [`Phase::finished`], for a phase that also trains the parameters named in `extra`.
    ///
    /// # Errors
    /// As [`Phase::finished`].
    pub fn finished_with(&self, extra: &[&str]) -> Result<Option<Checkpoint>> {
        let path = self.folder.checkpoint(self.name);
        let is_there = path.exists();
        self.folder.ranks().agree("finished phases", &[u8::from(is_there)])?;
        if !is_there {
            return Ok(None);
        }
        let checkpoint = Checkpoint::load_with(&path, extra)?;
        self.check_origin(&path, &checkpoint)?;
        // A process may have been killed after it renamed the folder, before it tidied up.
        self.folder.ranks().on_first(|| state::drop_states(&self.folder.steps(self.name), None))?;
        Ok(Some(checkpoint))
    }

    /// Refuses to go on from, or to pass off as this phase's, what was made from something else.
    fn check_origin(&self, path: &Path, checkpoint: &Checkpoint) -> Result<()> {
        let other = |what| Err(Error::OtherOrigin { path: path.to_path_buf(), what });
        let Some(lineage) = &checkpoint.lineage else { return other("program (it has no lineage.json)") };
        let origin = &self.origin;
        match () {
            () if lineage.phase != self.name => other("phase"),
            () if lineage.seed != origin.seed => other("seed"),
            () if lineage.parent != origin.parent => other("parent checkpoint"),
            () if lineage.recipe != origin.recipe => other("recipe"),
            () if lineage.data_hashes != origin.data => other("data"),
            () => Ok(()),
        }
    }

    fn lineage(&self, steps: u64, metrics: BTreeMap<String, f64>) -> Lineage {
        let Origin { seed, parent, recipe, data } = self.origin.clone();
        Lineage {
            version: lineage::VERSION,
            phase: self.name.to_owned(),
            parent,
            recipe,
            data_hashes: data,
            seed,
            steps,
            phasetrace_version: env!("CARGO_PKG_VERSION").to_owned(),
            metrics,
            computed: Vec::new(),
        }
    }
}

/// A phase in progress.
pub struct Session<'a> {
    phase: Phase<'a>,
    progress: &'a dyn Progress,
    config: ModelConfig,
    tokenizer: Tokenizer,
    /// The decoder's parameters in the order of its layout, then the extra ones.
    parameters: Vec<(String, Var)>,
    n_decoder: usize,
    decoder: Decoder,
    optimizer: ShardedAdamW,
    gradients: GradientSum,
    ranks: Ranks,
    step: u64,
    tally: Tally,
    /// On rank 0 alone.
    log: Option<StepLog>,
    notes: Vec<(&'static str, f64)>,
    clock: Instant,
    computed: Vec<Stretch>,
}

impl<'a> Session<'a> {
    /// Begins the phase, or resumes it from its newest intermediate checkpoint.
    ///
    /// # Errors
    /// Where folders cannot be written, or hold the work of another origin; on all ranks alike.
    pub fn open(phase: Phase<'a>, start: Start<'_>, progress: &'a dyn Progress) -> Result<Self> {
        let steps = phase.folder.steps(phase.name);
        let ranks = phase.folder.ranks().clone();
        ranks.agree("recipe, parent, data and seed", format!("{:?}", phase.origin).as_bytes())?;
        ranks.on_first(|| {
            state::remove_leftovers(&steps)?;
            state::prepare(&phase.folder.checkpoint(phase.name))
        })?;
        let device = phase.folder.device();
        let extra: Vec<String> = start.extra.iter().map(|(name, _)| name.clone()).collect();
        let mut tensors: Vec<(String, Tensor)> =
            start.weights.iter().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
        let n_decoder = tensors.len();
        tensors.extend(start.extra);
        let newest = state::find_newest(&steps)?;
        let (mut step, mut tally, mut moments, mut computed) = (0, Tally::default(), None, Vec::new());
        if let Some(folder) = &newest {
            let names: Vec<&str> = extra.iter().map(String::as_str).collect();
            let checkpoint = Checkpoint::load_with(folder, &names)?;
            phase.check_origin(folder, &checkpoint)?;
            let (saved, saved_moments) = state::load(folder)?;
            tensors = checkpoint.weights.iter().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
            tensors.extend(checkpoint.extra);
            computed = checkpoint.lineage.map_or_else(Vec::new, |lineage| lineage.computed);
            (step, tally, moments) = (saved.step, saved.tally, Some(saved_moments));
        }
        // Each rank has read what it goes on from by the time that anything is removed.
        ranks.agree("intermediate checkpoints", &step.to_le_bytes())?;
        ranks.on_first(|| state::drop_states(&steps, newest.as_deref()))?;

        let parameters = tensors
            .iter()
            .map(|(name, tensor)| Ok((name.clone(), Var::from_tensor(&tensor.detach().to_device(device)?)?)))
            .collect::<Result<Vec<_>>>()?;
        let mut optimizer = ShardedAdamW::new(&parameters, configure(phase.optimizer), ranks.clone())?;
        if let Some(moments) = moments {
            optimizer.restore(step, &parameters, state::order_moments(&parameters, moments)?)?;
        }
        let decoder = Decoder::new(start.config, &weights_of(start.config, &parameters[..n_decoder])?)?;
        let computed = Stretch::go_on(computed, Stretch::on(device, step));
        let log = ranks.on_first(|| StepLog::open(&phase.folder.logs(), phase.name, step))?;
        progress.begin(phase.name, phase.steps);
        if let Some(stretch) = computed.last().filter(|stretch| step > 0 && stretch.after_step == step) {
            progress.warn(phase.name, step, &format!("what began on another device goes on with {stretch}"));
        }
        Ok(Self {
            gradients: GradientSum::new(parameters.len()),
            ranks,
            config: start.config.clone(),
            tokenizer: start.tokenizer.clone(),
            clock: Instant::now(),
            decoder: decoder.computing_in(training_dtype(device)).recomputing(phase.folder.recomputes()),
            computed,
            phase,
            progress,
            parameters,
            n_decoder,
            optimizer,
            step,
            tally,
            log,
            notes: Vec::new(),
        })
    }

    /// Who shares this phase.
    pub(crate) fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    /// Number of steps done; the number of the next step, from 0.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Whether all steps are done.
    pub fn is_done(&self) -> bool {
        self.step >= self.phase.steps
    }

    /// The decoder over the parameters that are trained: losses computed with it have gradients.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// A parameter by name, differentiable; for those that the decoder does not know.
    pub fn parameter(&self, name: &str) -> Option<&Tensor> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, var)| var.as_tensor())
    }

    /// A number that [`Session::carry`] handed on, also by a process before this one.
    pub fn carried(&self, name: &str) -> Option<f64> {
        self.tally.carried(name)
    }

    /// Hands a number on to the steps after the next [`Session::apply`]; kept with the state to resume from.
    pub fn carry(&mut self, name: &str, value: f64) {
        self.tally.carry(name, value);
    }

    /// Adds a number to the log of the next step, and to nothing else; for clock times.
    pub fn note(&mut self, name: &'static str, value: f64) {
        self.notes.push((name, value));
    }

    /// Leaves the last of the extra parameters out of what [`Session::finish`] writes.
    ///
    /// # Panics
    /// Where `name` is not the last extra parameter, if there is any.
    pub fn forget(&mut self, name: &str) {
        if self.parameters.len() > self.n_decoder {
            let (last, _) = self.parameters.pop().expect("there are more parameters than the decoder's");
            assert_eq!(last, name, "the last extra parameter is forgotten first");
        }
    }

    /// A copy of the decoder as it is now, without gradients; for sampling.
    ///
    /// # Errors
    /// Where memory for the copy lacks.
    pub fn snapshot(&self) -> Result<Decoder> {
        let weights = weights_of(&self.config, &self.parameters[..self.n_decoder])?;
        Ok(Decoder::new(&self.config, &weights.snapshot()?)?.computing_in(self.decoder.compute_dtype()))
    }

    /// Adds the gradient of a share of the step's loss, and returns that share as a number.
    ///
    /// # Errors
    /// Where the backward pass fails.
    pub fn accumulate(&mut self, loss: &Tensor) -> Result<f64> {
        // Read first: a GPU then has all of the backward pass and the step before it when this waits for it again.
        let nats = number(loss)?;
        let mut found = self.decoder.backward(loss)?;
        for (index, (_, var)) in self.parameters.iter().enumerate() {
            if let Some(gradient) = found.remove(var.as_tensor()) {
                self.gradients.add(index, gradient)?;
            }
        }
        Ok(nats)
    }

    /// One step from the gradients that all ranks have accumulated: clip, AdamW, log, and an intermediate checkpoint when due.
    ///
    /// # Errors
    /// [`Error::NoGradient`], [`Error::Diverged`], or where files cannot be written; on all ranks alike.
    pub fn apply(&mut self, metrics: &Metrics) -> Result<()> {
        let gradients = std::mem::replace(&mut self.gradients, GradientSum::new(self.parameters.len()));
        let (metrics, missing) = self.add_up(metrics, &gradients)?;
        let (phase, step) = (self.phase.name.to_owned(), self.step + 1);
        if !metrics.loss.is_finite() {
            return Err(Error::Diverged { phase, step, what: "the loss".to_owned(), value: metrics.loss });
        }
        if let Some(index) = missing {
            return Err(Error::NoGradient { phase, step, parameter: self.parameters[index].0.clone() });
        }
        let lr = self.phase.lr.get() * self.phase.schedule.factor(self.step, self.phase.steps);
        let norm = self.optimizer.step(&self.parameters, gradients, lr).map_err(|error| match error {
            Error::Kernel(kernels::Error::NonFiniteGradient { name }) => {
                Error::Diverged { phase, step, what: format!("the gradient of `{name}`"), value: f64::NAN }
            }
            other => other,
        })?;
        self.step += 1;
        let ends_stretch = self.tally.add(self.step, self.phase.steps, &metrics);
        self.log_step(&metrics, norm, lr)?;
        self.progress.step(self.phase.name, self.step, metrics.loss, metrics.tokens);
        if ends_stretch {
            let alarms = self.tally.course().trajectory().alarms;
            for alarm in alarms.iter().filter(|alarm| alarm.step == self.step) {
                self.progress.warn(self.phase.name, alarm.step, &alarm.message);
            }
        }
        if !self.is_done() && self.phase.save_every > 0 && self.step.is_multiple_of(self.phase.save_every) {
            self.save_step()?;
        }
        Ok(())
    }

    /// The whole step's metrics, and the first parameter without a gradient on any rank.
    fn add_up(&self, metrics: &Metrics, gradients: &GradientSum) -> Result<(Metrics, Option<usize>)> {
        let mut sums = vec![metrics.loss, metrics.tokens as f64];
        sums.extend(gradients.present().map(|is_present| f64::from(u8::from(is_present))));
        self.ranks.sum(&mut sums)?;
        let missing = sums[2..].iter().position(|&n_ranks| n_ranks == 0.0);
        Ok((Metrics { loss: sums[0], tokens: sums[1] as u64, extra: metrics.extra.clone() }, missing))
    }

    /// One step whose loss is in one piece: [`Session::accumulate`], then [`Session::apply`].
    ///
    /// # Errors
    /// As these.
    pub fn update(&mut self, loss: &Tensor, metrics: &Metrics) -> Result<()> {
        self.accumulate(loss)?;
        self.apply(metrics)
    }

    /// Writes the phase's checkpoint and hands it over.
    ///
    /// # Errors
    /// Where files cannot be written.
    pub fn finish(self) -> Result<Checkpoint> {
        self.finish_with(&[])
    }

    /// As [`Session::finish`], with further metrics of the outcome in the lineage.
    ///
    /// # Errors
    /// Where files cannot be written.
    pub fn finish_with(self, outcome: &[(&str, f64)]) -> Result<Checkpoint> {
        let path = self.phase.folder.checkpoint(self.phase.name);
        let mut metrics = self.tally.metrics();
        metrics.extend(outcome.iter().map(|&(name, value)| (name.to_owned(), value)));
        let moments = self.optimizer.gather_state(&self.parameters)?;
        self.ranks.on_first(|| {
            state::write_folder(&path, |temporary| self.fill(temporary, metrics, &moments))?;
            state::drop_states(&self.phase.folder.steps(self.phase.name), None)
        })?;
        self.progress.end(self.phase.name);
        let extra: Vec<&str> = self.parameters[self.n_decoder..].iter().map(|(name, _)| name.as_str()).collect();
        Ok(Checkpoint::load_with(&path, &extra)?)
    }

    fn save_step(&self) -> Result<()> {
        let steps = self.phase.folder.steps(self.phase.name);
        let folder = state::step_folder(&steps, self.step);
        let moments = self.optimizer.gather_state(&self.parameters)?;
        self.ranks.on_first(|| {
            state::write_folder(&folder, |temporary| self.fill(temporary, self.tally.metrics(), &moments))?;
            state::drop_states(&steps, Some(&folder))
        })?;
        Ok(())
    }

    fn fill(&self, folder: &Path, metrics: BTreeMap<String, f64>, moments: &[Moments]) -> Result<()> {
        let (decoder, extra) = self.parameters.split_at(self.n_decoder);
        let checkpoint = Checkpoint {
            config: self.config.clone(),
            weights: weights_of(&self.config, decoder)?,
            extra: extra.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect(),
            tokenizer: self.tokenizer.clone(),
            lineage: Some(Lineage { computed: self.computed.clone(), ..self.phase.lineage(self.step, metrics) }),
        };
        checkpoint.save(folder)?;
        let path = folder.join(trajectory::FILE);
        let mut text = serde_json::to_string_pretty(&self.tally.course().trajectory()).expect("numbers print");
        text.push('\n');
        std::fs::write(&path, text).map_err(Error::file("write", &path))?;
        state::save(folder, self.step, &self.tally, &state::name_moments(&self.parameters, moments))
    }

    fn log_step(&mut self, metrics: &Metrics, grad_norm: f64, lr: f64) -> Result<()> {
        let Some(log) = &mut self.log else {
            self.notes.clear();
            return Ok(());
        };
        let mut record = Record::new();
        record.insert("step".to_owned(), json!(self.step));
        record.insert("loss_nats".to_owned(), json!(metrics.loss));
        record.insert("grad_norm".to_owned(), json!(grad_norm));
        record.insert("lr".to_owned(), json!(lr));
        record.insert("tokens".to_owned(), json!(metrics.tokens));
        let numbers = metrics.extra.iter().copied().chain(self.notes.drain(..));
        record.extend(numbers.map(|(name, value)| (name.to_owned(), json!(value))));
        let elapsed_s = self.clock.elapsed().as_secs_f64();
        self.clock = Instant::now();
        record.insert("tokens_per_s".to_owned(), json!(metrics.tokens as f64 / elapsed_s));
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        record.insert("unix_s".to_owned(), json!(since_epoch.as_secs_f64()));
        log.write(&record)
    }
}

fn configure(recipe: &OptimizerRecipe) -> AdamWConfig {
    AdamWConfig {
        beta1: recipe.beta1.get(),
        beta2: recipe.beta2.get(),
        eps: recipe.eps.get(),
        weight_decay: recipe.weight_decay.get(),
        max_norm: Some(recipe.clip.get()),
    }
}

/// The decoder's weights, sharing storage and gradients with the variables.
fn weights_of(config: &ModelConfig, parameters: &[(String, Var)]) -> Result<Weights> {
    let tensors = parameters.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
    Ok(Weights::from_tensors(config, tensors)?)
}

#[cfg(test)]
mod tests;
