//! Running sums over a phase that end up in its checkpoint, exact across a resume.

use crate::session::Metrics;
use crate::trajectory::Course;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Share of the steps, at the end of a phase, over which its metrics are averaged.
const TAIL_FRACTION: f64 = 0.05;

/// What a phase remembers of the steps behind it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tally {
    tokens: u64,
    tail: BTreeMap<String, Sum>,
    course: Course,
    /// Numbers that a phase hands on from step to step.
    carried: BTreeMap<String, Exact>,
}

/// A running sum.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sum {
    #[serde(with = "exact")]
    total: f64,
    n: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Exact(#[serde(with = "exact")] f64);

impl Sum {
    /// Takes in a number.
    pub(crate) fn add(&mut self, value: f64) {
        self.total += value;
        self.n += 1;
    }

    /// The mean of the numbers so far.
    pub(crate) fn mean(&self) -> f64 {
        self.total / self.n as f64
    }

    /// How many there were.
    pub(crate) fn n(&self) -> u64 {
        self.n
    }
}

impl Tally {
    /// Takes in the step that makes `step` steps done of `steps`; says whether it ends a stretch of the course.
    pub(crate) fn add(&mut self, step: u64, steps: u64, metrics: &Metrics) -> bool {
        self.tokens += metrics.tokens;
        let n_tail = ((steps as f64 * TAIL_FRACTION).ceil() as u64).max(1);
        if step + n_tail > steps {
            self.add_to_tail("loss_nats", metrics.loss);
            for &(name, value) in &metrics.extra {
                self.add_to_tail(name, value);
            }
        }
        self.course.add(step, steps, metrics)
    }

    fn add_to_tail(&mut self, name: &str, value: f64) {
        self.tail.entry(name.to_owned()).or_default().add(value);
    }

    /// How the phase went so far.
    pub(crate) fn course(&self) -> &Course {
        &self.course
    }

    /// A number that was handed on.
    pub(crate) fn carried(&self, name: &str) -> Option<f64> {
        self.carried.get(name).map(|number| number.0)
    }

    /// Hands a number on to the next step.
    pub(crate) fn carry(&mut self, name: &str, value: f64) {
        self.carried.insert(name.to_owned(), Exact(value));
    }

    /// Tokens seen, and the mean of every metric over the last 5 % of the steps.
    pub(crate) fn metrics(&self) -> BTreeMap<String, f64> {
        let mut metrics: BTreeMap<String, f64> =
            self.tail.iter().map(|(name, sum)| (name.clone(), sum.mean())).collect();
        metrics.insert("tokens".to_owned(), self.tokens as f64);
        metrics
    }
}

/// Numbers as text: Rust prints the shortest that parses back to the same bits, `serde_json` parses to the nearest but one.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&value.to_string())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| D::Error::custom(format!("expected a number, found `{text}`")))
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;
    use crate::session::Metrics;

    fn step(loss: f64) -> Metrics {
        Metrics { loss, tokens: 10, extra: vec![("kl_nats", loss / 3.0)] }
    }

    #[test]
    fn the_mean_is_over_the_last_twentieth() {
        let mut tally = Tally::default();
        for i in 1..=100 {
            tally.add(i, 100, &step(i as f64));
        }
        let metrics = tally.metrics();
        assert!((metrics["loss_nats"] - 98.0).abs() < 1e-12);
        assert!((metrics["tokens"] - 1000.0).abs() < 1e-12);
    }

    #[test]
    fn a_saved_tally_goes_on_with_the_same_bits() {
        let mut whole = Tally::default();
        for i in 1..=7 {
            whole.add(i, 7, &step(0.1 * i as f64));
            whole.add(7, 7, &step(1.0 / 3.0 + i as f64 * 1e-7));
            let text = serde_json::to_string(&whole).unwrap();
            assert_eq!(serde_json::from_str::<Tally>(&text).unwrap(), whole);
        }
    }
}
