//! How a behaviour's value went over the phases on one route, beside what was to be expected.

use probes::item::Behaviour;
use probes::response::Form;

use crate::board::{Board, estimate, passes};
use crate::diagnosis::{DEPLOYED, Estimate, PhaseInfo};
use crate::gate::Seen;
use crate::reference::{Reference, Route, changes, spread};
use crate::stats::normal::{two_sided, upper_tail};

/// Share of expected items that a model is to get right where neither healthy runs nor the user say what is usual; fixed in advance.
pub const EXPECTED_SHARE: f64 = 0.90;

/// Smallest shortfall that is a failure, in share of items; fixed in advance.
///
/// A healthy phase changes the model too: with 500 items and a run-to-run drift of 0.2 logits, McNemar's test alone fires
/// on 45 % of healthy runs; together with a 10-point effect on about 1 %.
pub const MIN_EFFECT: f64 = 0.10;

/// The shortfall must also exceed this many standard deviations of healthy runs.
pub const SD_MULTIPLE: f64 = 3.0;

/// Values of one behaviour over the phases, on one route.
pub(crate) struct Path<'a> {
    pub(crate) behaviour: Behaviour,
    pub(crate) board: &'a Board<'a>,
    /// Form used at each phase.
    pub(crate) forms: Vec<Option<Form>>,
    /// Scores at each phase, one per item.
    pub(crate) scores: Vec<Vec<Option<f64>>>,
    /// Value at each phase.
    pub(crate) values: Vec<Option<Estimate>>,
    /// Values of the healthy runs at each phase.
    pub(crate) healthy: Vec<Option<&'a [f64]>>,
    /// What the user expects where there are no healthy runs.
    pub(crate) stated: Option<f64>,
}

/// Shortfall of a checkpoint and how real it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shortfall {
    /// Expected share less the share observed; positive is a failure.
    pub(crate) value: f64,
    /// What was expected.
    pub(crate) expected: f64,
    /// Shortfall that counts as a failure.
    pub(crate) gate: f64,
    /// Two-sided p-value of there being one.
    pub(crate) p_value: f64,
}

impl<'a> Path<'a> {
    /// The deployed model's answers: in chat at every phase.
    pub(crate) fn chat(behaviour: Behaviour, board: &'a Board<'a>) -> Self {
        Self::build(behaviour, board, |phase| board.mean(Form::Chat, phase).map(|_| Form::Chat))
    }

    /// What each checkpoint can be got to show: its best closed-book form.
    pub(crate) fn elicited(behaviour: Behaviour, board: &'a Board<'a>) -> Self {
        Self::build(behaviour, board, |phase| board.best_form(phase))
    }

    fn build(behaviour: Behaviour, board: &'a Board<'a>, form: impl Fn(usize) -> Option<Form>) -> Self {
        let forms: Vec<Option<Form>> = (0..board.n_phases()).map(form).collect();
        let scores: Vec<Vec<Option<f64>>> = forms
            .iter()
            .enumerate()
            .map(|(phase, form)| form.map_or_else(|| vec![None; board.items.len()], |form| board.scores(form, phase)))
            .collect();
        let values = scores.iter().map(|scores| board.mean_of(scores).as_ref().map(estimate)).collect();
        let healthy = vec![None; board.n_phases()];
        Self { behaviour, board, forms, scores, values, healthy, stated: None }
    }

    /// Says what the user expects where there are no healthy runs.
    pub(crate) fn expecting(self, stated: Option<f64>) -> Self {
        Self { stated, ..self }
    }

    /// What is expected where there are no healthy runs.
    pub(crate) fn expectation(&self) -> f64 {
        self.stated.unwrap_or(EXPECTED_SHARE)
    }

    /// Adds what healthy runs show. Where they lack the last phase there is nothing to compare the outcome with, and the
    /// path stays unreferenced.
    pub(crate) fn beside(
        mut self,
        reference: Option<&'a Reference>,
        lineage: &str,
        route: Route,
        phases: &[PhaseInfo],
    ) -> Self {
        let Some(reference) = reference else { return self };
        let known = |phase: &PhaseInfo| reference.values(lineage, self.behaviour, route, &phase.name);
        let mut healthy: Vec<Option<&[f64]>> = phases.iter().map(known).collect();
        for phase in 1..phases.len() {
            // A healthy deployment changes nothing.
            if phases[phase].name == DEPLOYED {
                healthy[phase] = healthy[phase - 1];
            }
        }
        if healthy.last().is_some_and(Option::is_some) {
            self.healthy = healthy;
        }
        self
    }

    /// Whether healthy runs are there to compare with.
    pub(crate) fn is_referenced(&self) -> bool {
        self.healthy.last().is_some_and(Option::is_some)
    }

    /// Number of healthy runs; 0 where unreferenced.
    pub(crate) fn n_healthy(&self) -> usize {
        self.healthy.last().copied().flatten().map_or(0, <[f64]>::len)
    }

    /// The phases that can be accounted for: measured here and, if there is a reference, there.
    pub(crate) fn measured(&self) -> Vec<usize> {
        (0..self.values.len())
            .filter(|&p| self.values[p].is_some() && (!self.is_referenced() || self.healthy[p].is_some()))
            .collect()
    }

    /// Share of items right at `phase`.
    pub(crate) fn value(&self, phase: usize) -> Option<f64> {
        self.values[phase].as_ref().map(|estimate| estimate.value)
    }

    /// Mean of the healthy runs per phase.
    pub(crate) fn healthy_means(&self) -> Vec<Option<f64>> {
        self.healthy.iter().map(|values| values.map(|values| spread(values).0)).collect()
    }

    /// Passes at `phase`, one per item.
    pub(crate) fn passing(&self, phase: usize) -> Vec<Option<bool>> {
        self.scores[phase].iter().map(|score| score.map(|score| passes(self.behaviour, score))).collect()
    }

    /// Value at `phase` and those of healthy runs; `None` where either is missing.
    pub(crate) fn seen(&self, phase: usize) -> Option<Seen<'a>> {
        Some(Seen { observed: self.value(phase)?, healthy: self.healthy[phase]? })
    }

    /// Shortfall of the last checkpoint; `None` where it was not measured.
    ///
    /// Healthy runs may differ so much in what they have learnt that no level is beyond them. Where the last phase lost as much as makes a
    /// failure, beside what it takes from healthy runs, 10 points are a failure however they differ.
    pub(crate) fn shortfall(&self) -> Option<Shortfall> {
        let last = self.values.len().checked_sub(1)?;
        let mut shortfall = self.shortfall_at(last)?;
        if self.is_lost_in(last) {
            shortfall.gate = MIN_EFFECT;
        }
        Some(shortfall)
    }

    /// Whether `phase` lost at least 10 points and 3 standard deviations more than it does in healthy runs.
    fn is_lost_in(&self, phase: usize) -> bool {
        let before = phase.checked_sub(1).and_then(|before| self.seen(before));
        let (Some(before), Some(after)) = (before, self.seen(phase)) else { return false };
        let (usual, sd) = spread(&changes(before.healthy, after.healthy));
        usual - (after.observed - before.observed) >= MIN_EFFECT.max(SD_MULTIPLE * sd.unwrap_or(0.0))
    }

    /// Shortfall at `phase`; `None` where it was not measured.
    ///
    /// The test is a score test, `z = (v0 - v) / sqrt(v0 (1 - v0) / n_eff + sd^2/K)`: the variance is taken where there is no
    /// shortfall, `n_eff` is the number of items reduced for clusters, `sd` the spread of the `K` healthy runs.
    pub(crate) fn shortfall_at(&self, phase: usize) -> Option<Shortfall> {
        let mean = self.board.mean_of(&self.scores[phase])?;
        let (expected, sd, n_healthy) = match self.healthy[phase] {
            Some(values) => {
                let (mean, sd) = spread(values);
                (mean, sd.unwrap_or(0.0), values.len() as f64)
            }
            None => (self.expectation(), 0.0, 1.0),
        };
        let n = mean.n_effective();
        // A healthy share of exactly 0 or 1 would have no variance; half an item keeps it honest.
        let half = (0.5 / n).min(0.5);
        let null = expected.clamp(half, 1.0 - half);
        let z = (expected - mean.mean) / (null * (1.0 - null) / n + sd * sd / n_healthy).sqrt();
        Some(Shortfall {
            value: expected - mean.mean,
            expected,
            gate: MIN_EFFECT.max(SD_MULTIPLE * sd),
            p_value: if z > 0.0 { two_sided(z) } else { 1.0 },
        })
    }

    /// Two-sided p-value of the mean score having moved between two phases, clustered; for scores that are not 0 or 1.
    pub(crate) fn moved(&self, before: usize, after: usize) -> Option<f64> {
        let changes: Vec<Option<f64>> =
            self.scores[before].iter().zip(&self.scores[after]).map(|(b, a)| Some((*a)? - (*b)?)).collect();
        let mean = self.board.mean_of(&changes)?;
        (mean.se > 0.0).then(|| 2.0 * upper_tail(mean.mean.abs() / mean.se))
    }
}
