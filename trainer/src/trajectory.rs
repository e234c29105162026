//! How a phase went: means over successive stretches of its steps, kept beside its checkpoint.
//!
//! Unlike a log it holds no clock times, so it is an artifact: the same inputs give the same bytes, also across a resume.

use crate::alarms::{self, Alarm};
use crate::error::{Error, Result};
use crate::session::Metrics;
use crate::tally::Sum;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// File name in a checkpoint folder.
pub const FILE: &str = "trajectory.json";
/// Stretches into which a phase's steps are divided; fewer where it has fewer steps.
const STRETCHES: u64 = 40;

/// How a phase went (`trajectory.json`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trajectory {
    /// In the order of the steps.
    pub points: Vec<Point>,
    /// What was warned of.
    pub alarms: Vec<Alarm>,
}

/// Means over a stretch of steps.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Last step of the stretch, from 1.
    pub step: u64,
    /// Mean of each metric over the steps that reported it, by name.
    pub metrics: BTreeMap<String, f64>,
    /// Number of steps that reported it, by name.
    pub counts: BTreeMap<String, u64>,
}

impl Point {
    /// A metric's mean.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.metrics.get(name).copied()
    }

    /// Number of answers that the stretch sampled; 0 for a phase that samples none.
    pub fn n_answers(&self) -> f64 {
        self.get("answers").unwrap_or(0.0) * self.counts.get("answers").map_or(0.0, |&n| n as f64)
    }
}

impl Trajectory {
    /// Reads the trajectory of a checkpoint folder; a folder made elsewhere has none.
    ///
    /// # Errors
    /// Where the file is there and cannot be read or parsed.
    pub fn load(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => match serde_json::from_str(&text) {
                Ok(trajectory) => Ok(Some(trajectory)),
                Err(error) => Err(Error::State { path, message: error.to_string() }),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file("read", &path)(error)),
        }
    }
}

/// Sums over the stretches so far, exact across a resume.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Course {
    stretches: Vec<Stretch>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stretch {
    number: u64,
    step: u64,
    sums: BTreeMap<String, Sum>,
}

impl Course {
    /// Takes in the step that makes `step` steps done of `steps`; says whether it ends a stretch.
    pub(crate) fn add(&mut self, step: u64, steps: u64, metrics: &Metrics) -> bool {
        let number_of = |step: u64| (step - 1) * STRETCHES.min(steps) / steps;
        let number = number_of(step);
        if self.stretches.last().is_none_or(|last| last.number != number) {
            self.stretches.push(Stretch { number, ..Stretch::default() });
        }
        let stretch = self.stretches.last_mut().expect("one was just added");
        stretch.step = step;
        stretch.sums.entry("loss_nats".to_owned()).or_default().add(metrics.loss);
        for &(name, value) in &metrics.extra {
            stretch.sums.entry(name.to_owned()).or_default().add(value);
        }
        step == steps || number_of(step + 1) != number
    }

    /// What the sums say, with alarms.
    pub(crate) fn trajectory(&self) -> Trajectory {
        let points: Vec<Point> = self
            .stretches
            .iter()
            .map(|stretch| Point {
                step: stretch.step,
                metrics: stretch.sums.iter().map(|(name, sum)| (name.clone(), sum.mean())).collect(),
                counts: stretch.sums.iter().map(|(name, sum)| (name.clone(), sum.n())).collect(),
            })
            .collect();
        let alarms = alarms::raise(&points);
        Trajectory { points, alarms }
    }
}

#[cfg(test)]
mod tests {
    use super::Course;
    use crate::session::Metrics;

    fn metrics(loss: f64, extra: &[(&'static str, f64)]) -> Metrics {
        Metrics { loss, tokens: 1, extra: extra.to_vec() }
    }

    #[test]
    fn stretches_hold_means_over_their_own_steps() {
        let mut course = Course::default();
        let mut ends = Vec::new();
        for step in 1..=80 {
            let extra = if step % 2 == 1 { vec![("answers", 8.0)] } else { Vec::new() };
            if course.add(step, 80, &metrics(step as f64, &extra)) {
                ends.push(step);
            }
        }
        assert_eq!(ends, (1..=40).map(|i| 2 * i).collect::<Vec<_>>());
        let trajectory = course.trajectory();
        assert_eq!(trajectory.points.len(), 40);
        assert_eq!((trajectory.points[3].step, trajectory.points[3].get("loss_nats")), (8, Some(7.5)));
        assert!((trajectory.points[3].n_answers() - 8.0).abs() < 1e-12);
    }

    #[test]
    fn a_saved_course_goes_on_with_the_same_bits() {
        let mut course = Course::default();
        for step in 1..=7 {
            course.add(step, 7, &metrics(1.0 / step as f64, &[("kl_nats", 0.1 * step as f64)]));
            let text = serde_json::to_string(&course).unwrap();
            assert_eq!(serde_json::from_str::<Course>(&text).unwrap(), course);
        }
        assert_eq!(course.trajectory().points.len(), 7);
    }
}
