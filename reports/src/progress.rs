//! How far a run is: what its logs tell so far, kept in a size that does not grow with them.

mod page;

use std::collections::{BTreeMap, VecDeque};

use evals::diagnosis::Estimate;
use evals::stats::student;
use serde::Deserialize;

pub(crate) use page::Page;

/// Steps, the last ones, that speed, loss and time left are told from.
const RECENT: usize = 20;
/// Most stretches of steps that a curve is kept in: with two points of each and the last step it has 399 points at most.
const STRETCHES: usize = 199;

/// How far a run is that is in training, or not diagnosed yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// Name of the run.
    pub run: String,
    /// Its folder, as it is typed behind a command.
    pub path: String,
    /// Whether a process works on it now.
    pub is_worked_on: bool,
    /// Whether the page loads itself again while somebody works on the run.
    pub follows: bool,
    /// Seconds since the phase at work logged a step; `None` where it has logged none.
    pub since_last_s: Option<f64>,
    /// The phases that the plan asks for, in the order in which they are trained; none where there is no plan yet.
    pub phases: Vec<PhaseProgress>,
}

/// How far a phase is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PhaseProgress {
    /// Name, such as `sft`.
    pub name: String,
    /// Number of steps that the plan asks for.
    pub steps: u64,
    /// Whether its checkpoint is there.
    pub is_done: bool,
    /// What its log tells.
    pub course: Course,
    /// What was warned of, with the step at which it was seen.
    pub alarms: Vec<(u64, String)>,
}

/// What the log of a phase tells, taken in line by line.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Course {
    step: u64,
    last_unix_s: Option<f64>,
    tokens: f64,
    seconds: f64,
    recent: VecDeque<Line>,
    curves: BTreeMap<Metric, Curve>,
}

/// What a curve is drawn of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Metric {
    /// What is minimised, nats.
    Loss,
    /// Share of the pairs that a reward model ranks as the data do.
    Accuracy,
    /// Mean reward of the answers sampled, in deviations.
    Reward,
    /// Divergence from what the phase started from, nats per answer.
    Divergence,
}

/// A line of a log; what else it holds is passed over.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Line {
    step: u64,
    unix_s: Option<f64>,
    tokens: Option<f64>,
    tokens_per_s: Option<f64>,
    loss_nats: Option<f64>,
    accuracy: Option<f64>,
    reward: Option<f64>,
    kl_nats: Option<f64>,
}

impl Line {
    /// Seconds that the step took, pauses between two starts of the program left out.
    fn seconds(&self) -> Option<f64> {
        let seconds = self.tokens? / self.tokens_per_s?;
        (seconds.is_finite() && seconds > 0.0).then_some(seconds)
    }
}

impl Course {
    /// Takes in the next line of the log; one that is no record of a step changes nothing.
    pub fn add_line(&mut self, line: &[u8]) {
        let Ok(line) = serde_json::from_slice::<Line>(line) else { return };
        self.step = line.step;
        self.last_unix_s = line.unix_s.or(self.last_unix_s);
        if let Some(seconds) = line.seconds() {
            self.seconds += seconds;
            self.tokens += line.tokens.unwrap_or(0.0);
        }
        let values = [
            (Metric::Loss, line.loss_nats),
            (Metric::Accuracy, line.accuracy),
            (Metric::Reward, line.reward),
            (Metric::Divergence, line.kl_nats),
        ];
        for (metric, value) in values {
            if let Some(value) = value.filter(|v| v.is_finite()) {
                self.curves.entry(metric).or_default().add(line.step, value);
            }
        }
        self.recent.push_back(line);
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
    }

    /// The last step logged, from 1; 0 where none is.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// When the last step was logged, in seconds since 1970.
    pub fn last_unix_s(&self) -> Option<f64> {
        self.last_unix_s
    }

    /// Tokens of all steps, and the seconds that they took; `None` where the log does not tell.
    pub(crate) fn taken(&self) -> Option<(f64, f64)> {
        (self.seconds > 0.0).then_some((self.tokens, self.seconds))
    }

    /// Tokens per second over the last steps.
    pub(crate) fn speed(&self) -> Option<Spread> {
        Spread::of(self.recent.iter().filter_map(|line| line.tokens_per_s))
    }

    /// Loss over the last steps, nats.
    pub(crate) fn loss(&self) -> Option<Spread> {
        Spread::of(self.recent.iter().filter_map(|line| line.loss_nats))
    }

    /// Mean seconds of a step over the last ones. Its interval says what their spread does to the mean; of one step it is not finite.
    ///
    /// A mean, because policy optimisation samples before some steps and not before others: their median would leave that time out.
    pub(crate) fn pace(&self) -> Option<Estimate> {
        let seconds: Vec<f64> = self.recent.iter().filter_map(Line::seconds).collect();
        if seconds.is_empty() {
            return None;
        }
        let n = seconds.len() as f64;
        let mean = seconds.iter().sum::<f64>() / n;
        // Of one step: 0 / 0, no interval.
        let variance = seconds.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let half = student::quantile(0.975, (n - 1.0).max(1.0)) * (variance / n).sqrt();
        let (low, high) = if half.is_finite() { ((mean - half).max(0.0), mean + half) } else { (f64::NAN, f64::NAN) };
        Some(Estimate { value: mean, low, high, n: seconds.len(), method: "Student's t".to_owned() })
    }

    /// A curve, where the log has its number.
    pub(crate) fn curve(&self, metric: Metric) -> Option<&Curve> {
        self.curves.get(&metric)
    }
}

/// The middle of some values, and of their lower and upper half.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) n: usize,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.filter(|v| v.is_finite()).collect();
        values.sort_unstable_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        let at = |share: f64| {
            let place = share * last as f64;
            let (below, above) = (values[place.floor() as usize], values[place.ceil() as usize]);
            below + place.fract() * (above - below)
        };
        Some(Self { median: at(0.5), low: at(0.25), high: at(0.75), n: values.len() })
    }
}

/// A number over the steps, thinned so that what sticks out stays: of each stretch of steps the lowest and the highest.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Curve {
    /// Stretches are `2^level` steps long.
    level: u32,
    stretches: Vec<Stretch>,
    first: Option<(u64, f64)>,
    last: Option<(u64, f64)>,
}

/// Some steps in a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Stretch {
    /// The first step, and the last one so far.
    pub(crate) steps: (u64, u64),
    /// Number of values.
    pub(crate) n: usize,
    /// Step and value.
    pub(crate) lowest: (u64, f64),
    /// Step and value.
    pub(crate) highest: (u64, f64),
}

impl Stretch {
    fn join(&mut self, later: Self) {
        self.steps.1 = later.steps.1;
        self.n += later.n;
        if later.lowest.1 < self.lowest.1 {
            self.lowest = later.lowest;
        }
        if later.highest.1 > self.highest.1 {
            self.highest = later.highest;
        }
    }

    /// Which stretch of `2^level` steps it lies in.
    fn place(&self, level: u32) -> u64 {
        self.steps.0.saturating_sub(1) >> level
    }
}

impl Curve {
    fn add(&mut self, step: u64, value: f64) {
        let point = (step, value);
        self.first = self.first.or(Some(point));
        self.last = Some(point);
        push(&mut self.stretches, Stretch { steps: (step, step), n: 1, lowest: point, highest: point }, self.level);
        self.coarsen(STRETCHES);
    }

    /// The same curve in at most `n` stretches, for a table; `n` is at least 2.
    pub(crate) fn stretches(&self, n: usize) -> Vec<Stretch> {
        let mut coarse = self.clone();
        coarse.coarsen(n);
        coarse.stretches
    }

    /// The points to draw, by step.
    pub(crate) fn points(&self) -> Vec<(u64, f64)> {
        let mut points = Vec::with_capacity(2 * self.stretches.len() + 1);
        for stretch in &self.stretches {
            let (one, other) = (stretch.lowest, stretch.highest);
            points.extend(if one.0 <= other.0 { [one, other] } else { [other, one] });
        }
        points.extend(self.last);
        points.dedup();
        points
    }

    /// Number of steps that share two points.
    pub(crate) fn steps_per_stretch(&self) -> u64 {
        1 << self.level
    }

    /// Step and value at both ends.
    pub(crate) fn ends(&self) -> Option<((u64, f64), (u64, f64))> {
        self.first.zip(self.last)
    }

    fn coarsen(&mut self, most: usize) {
        while self.stretches.len() > most {
            self.level += 1;
            let mut coarse = Vec::with_capacity(self.stretches.len());
            for stretch in self.stretches.drain(..) {
                push(&mut coarse, stretch, self.level);
            }
            self.stretches = coarse;
        }
    }
}

/// Adds what comes later, to the last stretch where it belongs there. Steps that go back belong there as well: a log has none.
fn push(stretches: &mut Vec<Stretch>, later: Stretch, level: u32) {
    match stretches.last_mut() {
        Some(last) if later.place(level) <= last.place(level) => last.join(later),
        _ => stretches.push(later),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(lines: impl IntoIterator<Item = String>) -> Course {
        let mut course = Course::default();
        for line in lines {
            course.add_line(line.as_bytes());
        }
        course
    }

    #[test]
    fn a_long_curve_keeps_its_spikes_in_400_points() {
        let mut curve = Curve::default();
        let value = |step: u64| match step {
            31_337 => 9.0,
            77_777 => -9.0,
            _ => (step as f64).sin(),
        };
        for step in 1..=100_000 {
            curve.add(step, value(step));
        }
        let points = curve.points();
        assert!(points.len() <= 400 && points.len() > 150, "{}", points.len());
        assert!(points.contains(&(31_337, 9.0)) && points.contains(&(77_777, -9.0)));
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0), "points are in the order of their steps");
        assert!(points.iter().all(|&(step, drawn)| drawn == value(step)), "each is a value of its own step");
        assert_eq!(points.last().unwrap().0, 100_000);
        let table = curve.stretches(24);
        assert!(table.len() <= 24);
        assert_eq!(table.iter().map(|stretch| stretch.n).sum::<usize>(), 100_000);
        assert_eq!(table[0].steps.0, 1);
    }

    #[test]
    fn a_short_curve_keeps_every_step() {
        let mut curve = Curve::default();
        for step in 1..=150 {
            curve.add(step, step as f64);
        }
        assert_eq!(curve.points().len(), 150);
        assert_eq!(curve.steps_per_stretch(), 1);
    }

    #[test]
    fn steps_far_apart_end_in_few_stretches_as_well() {
        let mut curve = Curve::default();
        for i in 0..1_000_u64 {
            curve.add(i * (u64::MAX / 1_000), 1.0);
        }
        assert!(curve.points().len() <= 400);
    }

    #[test]
    fn speed_and_pace_are_those_of_the_last_steps() {
        // 10 tokens a second, then 100: 1 s and 0.1 s for each step.
        let line = |step: u64| {
            let speed = if step <= 50 { 10.0 } else { 100.0 };
            format!("{{\"step\":{step},\"loss_nats\":2.0,\"tokens\":10,\"tokens_per_s\":{speed},\"unix_s\":{step}.5}}")
        };
        let course = course((1..=70).map(line));
        let speed = course.speed().unwrap();
        assert_eq!((speed.median, speed.low, speed.high, speed.n), (100.0, 100.0, 100.0, 20));
        let pace = course.pace().unwrap();
        assert!((pace.value - 0.1).abs() < 1e-12 && (pace.high - pace.low).abs() < 1e-9 && pace.n == 20, "{pace:?}");
        let (tokens, seconds) = course.taken().unwrap();
        assert!((tokens - 700.0).abs() < 1e-9 && (seconds - 52.0).abs() < 1e-9, "{tokens} {seconds}");
        assert_eq!((course.step(), course.last_unix_s()), (70, Some(70.5)));
    }

    #[test]
    fn one_step_has_a_pace_and_no_interval() {
        let pace = course(["{\"step\":1,\"tokens\":10,\"tokens_per_s\":5}".to_owned()]).pace().unwrap();
        assert!(pace.value == 2.0 && pace.n == 1 && !pace.low.is_finite() && !pace.high.is_finite(), "{pace:?}");
    }

    #[test]
    fn time_before_some_steps_is_in_the_pace() {
        // One step of four waits a second for answers.
        let line = |step: u64| {
            let speed = if step % 4 == 1 { 10.0 } else { 100.0 };
            format!("{{\"step\":{step},\"tokens\":10,\"tokens_per_s\":{speed}}}")
        };
        let pace = course((1..=20).map(line)).pace().unwrap();
        assert!((pace.value - 0.325).abs() < 1e-12 && pace.low < 0.325 && pace.high > 0.325, "{pace:?}");
    }

    #[test]
    fn what_is_no_record_changes_nothing() {
        let good = "{\"step\":1,\"loss_nats\":2.0,\"made_up\":\"x\"}".to_owned();
        let before = course([good.clone()]);
        let bad =
            ["", "{\"step\":2,\"lo", "[1]", "{\"loss_nats\":1}", "{\"step\":-1}", "{\"step\":2,\"loss_nats\":\"x\"}"];
        assert_eq!(course([good].into_iter().chain(bad.map(str::to_owned))), before);
        let silent = course(["{\"step\":3,\"loss_nats\":null}".to_owned()]);
        assert!(silent.step() == 3 && silent.curve(Metric::Loss).is_none() && silent.pace().is_none());
    }

    #[test]
    fn the_spread_of_values_is_their_middle_half() {
        let spread = Spread::of([5.0, 1.0, 3.0, 2.0, 4.0, f64::NAN].into_iter()).unwrap();
        assert_eq!((spread.median, spread.low, spread.high, spread.n), (3.0, 2.0, 4.0, 5));
        assert_eq!(Spread::of(std::iter::empty()), None);
    }
}
