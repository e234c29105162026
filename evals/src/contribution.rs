//! The shortfall of the last checkpoint, taken apart by phase.
//!
//! For a value `v` a phase gains `g_p = v(c_p) - v(c_(p-1))`, the first phase its whole value. A phase's part of the shortfall
//! is `e_p = g_p(healthy) - g_p(observed)`; the parts telescope, `sum_p e_p = v(healthy, last) - v(observed, last)`, exactly.
//! So omission (a healthy phase teaches, this one did not) and commission (this phase broke what worked) are one quantity.
//!
//! A phase that brings healthy runs to the same value wherever they start (say, to hardly any harmful answers, from many or from
//! few) answers for its outcome alone: what was lost before it does not carry over. That holds for starts that healthy runs show;
//! from a start outside their range nobody knows what a healthy phase would do, and the loss stays with who made it. With
//! `s_p = v(healthy, c_p) - v(c_p)`, and `k_p` 0 for such a phase and 1 for any other, `e_p = (s_p - k_p s_(p-1)) prod_(q > p) k_q`,
//! which telescopes to `s_last` as well.
//!
//! Without healthy runs the expected curve is the best value so far, up to the stated expectation: falls from a peak are
//! accounted for, and what was never reached stays [`NOT_ASSIGNED`], because nothing says who should have taught it.

use crate::diagnosis::{Contribution, ContributionKind, Estimate};
use crate::history::Moves;
use crate::path::{MIN_EFFECT, Path};
use crate::random::{normal, stream};
use crate::reference::{LEAST_SD, changes, spread};
use crate::stats::bootstrap::{DRAWS, percentile_interval, resample_clusters};
use crate::stats::mcnemar::mid_p;
use probes::item::Behaviour;

/// Name of the part of an unreferenced shortfall that no phase's change accounts for.
pub const NOT_ASSIGNED: &str = "not assigned";

/// A phase's part of the shortfall, with what the judge needs to know about it.
pub(crate) struct Part {
    /// Index of the phase; `None` for [`NOT_ASSIGNED`].
    pub(crate) phase: Option<usize>,
    /// What the report shows.
    pub(crate) contribution: Contribution,
    /// Change of the value here.
    pub(crate) gain: f64,
    /// Change that was expected.
    pub(crate) gain_expected: f64,
    /// Items moved into this phase, with the phase they come from; `None` for the first.
    pub(crate) moves: Option<(usize, Moves)>,
    /// p-value of the paired change.
    pub(crate) p_value: Option<f64>,
}

/// Takes the shortfall of `path` apart; `names` are the phases. Empty where the last phase was not measured.
///
/// # Intervals
/// Percentiles of 2,000 draws. Each draw resamples clusters of items, the same for all phases, and adds a new healthy run's
/// deviation: Student's t with `K - 1` degrees of freedom times `sd_gain sqrt(1 + 1/K)`. With one healthy run, or none, only the
/// items vary, and the method says so.
pub(crate) fn take_apart(path: &Path, names: &[String], stream_name: &str) -> Vec<Part> {
    let measured = path.measured();
    let last = names.len().saturating_sub(1);
    if measured.last() != Some(&last) {
        return Vec::new();
    }
    let value: Vec<f64> = measured.iter().filter_map(|&p| path.value(p)).collect();
    let expected = expected_curve(path, &measured, &value);
    let carries = carries(path, &measured);
    let intervals = draw_intervals(path, &measured, &expected, &carries, stream_name);
    let method = match path.n_healthy() {
        0 => "cluster bootstrap, no healthy runs",
        1 => "cluster bootstrap, one healthy run",
        _ => "cluster bootstrap and spread of healthy runs",
    };
    let mut parts = Vec::new();
    let mut inherited = 0.0;
    for (j, &phase) in measured.iter().enumerate() {
        let gain_here = value[j] - if j == 0 { 0.0 } else { value[j - 1] };
        let gain_expected = match (j, carries[j]) {
            (0, _) => expected[0],
            (_, Carry::Over) => expected[j] - expected[j - 1],
            (_, Carry::Reset) => expected[j] - value[j - 1],
        };
        let part = if carries[j + 1..].contains(&Carry::Reset) { 0.0 } else { gain_expected - gain_here };
        let moves = (j > 0).then(|| {
            let before = measured[j - 1];
            (before, Moves::count(&path.passing(before), &path.passing(phase)))
        });
        let p_value = moves.as_ref().and_then(|(before, moves)| match path.behaviour {
            Behaviour::Calibration => path.moved(*before, phase),
            _ => mid_p(moves.broken, moves.repaired),
        });
        let (low, high) = intervals[j];
        let kind = if low > 0.0 {
            let fell = gain_here < 0.0 && p_value.is_some_and(|p| p < 0.05);
            if j > 0 && (fell || gain_expected <= 0.0) {
                ContributionKind::Commission
            } else {
                ContributionKind::Omission
            }
        } else if high < 0.0 {
            ContributionKind::Repair
        } else if inherited >= MIN_EFFECT {
            ContributionKind::Inheritance
        } else {
            ContributionKind::None
        };
        inherited += part;
        let n = path.values[phase].as_ref().map_or(0, |v| v.n);
        let shortfall = Estimate { value: part, low, high, n, method: method.to_owned() };
        let contribution = Contribution { phase: names[phase].clone(), shortfall, kind };
        parts.push(Part { phase: Some(phase), contribution, gain: gain_here, gain_expected, moves, p_value });
    }
    if !path.is_referenced() {
        parts.extend(never_reached(path, &expected, last));
    }
    parts
}

/// What was to be expected at each measured phase.
fn expected_curve(path: &Path, measured: &[usize], value: &[f64]) -> Vec<f64> {
    if path.is_referenced() {
        return measured.iter().filter_map(|&p| path.healthy[p]).map(|values| spread(values).0).collect();
    }
    let mut best = 0.0_f64;
    value
        .iter()
        .map(|v| {
            best = best.max(*v);
            best.min(path.expectation())
        })
        .collect()
}

/// The part of an unreferenced shortfall between the best value ever reached and the stated expectation.
fn never_reached(path: &Path, expected: &[f64], last: usize) -> Option<Part> {
    let rest = path.expectation() - expected.last()?;
    let n = path.values[last].as_ref()?.n;
    (rest > 0.0).then(|| Part {
        phase: None,
        contribution: Contribution {
            phase: NOT_ASSIGNED.to_owned(),
            shortfall: Estimate { value: rest, low: rest, high: rest, n, method: "stated expectation".to_owned() },
            kind: ContributionKind::None,
        },
        gain: 0.0,
        gain_expected: rest,
        moves: None,
        p_value: None,
    })
}

/// What becomes, in a phase, of a shortfall that it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carry {
    /// It stays.
    Over,
    /// It goes: healthy runs reach the same value from wherever they start.
    Reset,
}

/// Healthy runs that start closer together than this do not show what a phase does from elsewhere.
const LEAST_START_SD: f64 = 0.05;

/// A phase resets where it halves the spread of healthy runs at least.
const RESET_SHARE: f64 = 0.5;

fn carries(path: &Path, measured: &[usize]) -> Vec<Carry> {
    let resets = |j: usize| {
        let (starts, outcomes) = (path.healthy[measured[j - 1]]?, path.healthy[measured[j]]?);
        let (before, after) = (spread(starts).1?, spread(outcomes).1?);
        let start = path.value(measured[j - 1])?;
        let is_known_start = starts.iter().any(|&known| (known - start).abs() <= before);
        let is_reset = before >= LEAST_START_SD && after <= RESET_SHARE * before;
        Some(path.n_healthy() >= 3 && is_reset && is_known_start)
    };
    let carry = |j: usize| if j > 0 && resets(j) == Some(true) { Carry::Reset } else { Carry::Over };
    (0..measured.len()).map(carry).collect()
}

fn draw_intervals(
    path: &Path,
    measured: &[usize],
    expected: &[f64],
    carries: &[Carry],
    stream_name: &str,
) -> Vec<(f64, f64)> {
    let board = path.board;
    if board.n_clusters < 2 {
        // Items of a single cluster say nothing of others.
        return vec![(-1.0, 1.0); measured.len()];
    }
    // Sum of scores and number of them per cluster and measured phase: a draw is then a weighted sum.
    let mut sums = vec![vec![(0.0, 0.0); measured.len()]; board.n_clusters];
    for (j, &phase) in measured.iter().enumerate() {
        for (score, &cluster) in path.scores[phase].iter().zip(&board.clusters) {
            if let Some(score) = score {
                sums[cluster][j].0 += score;
                sums[cluster][j].1 += 1.0;
            }
        }
    }
    let spreads = spreads(path, measured, carries);
    let n_healthy = path.n_healthy();
    let mut rng = stream(0, stream_name);
    let mut noise = stream(1, stream_name);
    let draws: Vec<Vec<f64>> = resample_clusters(board.n_clusters, DRAWS, &mut rng, |counts| {
        let mut drawn = Vec::with_capacity(measured.len());
        let mut before = 0.0;
        for j in 0..measured.len() {
            let (sum, n) = sums.iter().zip(counts).fold((0.0, 0.0), |(s, n), (c, k)| (s + k * c[j].0, n + k * c[j].1));
            let share = sum / n;
            let lost_before = match (j, carries[j]) {
                (0, _) | (_, Carry::Reset) => 0.0,
                (_, Carry::Over) => expected[j - 1] - before,
            };
            let part = (expected[j] - share) - lost_before;
            let deviation = spreads[j]
                .map_or(0.0, |sd| sd * (1.0 + 1.0 / n_healthy as f64).sqrt() * students_t(&mut noise, n_healthy - 1));
            before = share;
            drawn.push(if carries[j + 1..].contains(&Carry::Reset) { 0.0 } else { part + deviation });
        }
        drawn
    });
    (0..measured.len())
        .map(|j| {
            let column: Vec<f64> = draws.iter().map(|draw| draw[j]).collect();
            // No interval, no claim: everything is possible.
            percentile_interval(&column).unwrap_or((-1.0, 1.0))
        })
        .collect()
}

/// Spread over healthy runs of what each phase answers for: its gain, or its outcome where it resets; `None` with fewer than two.
fn spreads(path: &Path, measured: &[usize], carries: &[Carry]) -> Vec<Option<f64>> {
    measured
        .iter()
        .enumerate()
        .map(|(j, &phase)| {
            let after = path.healthy[phase]?;
            let gains: Vec<f64> = match j.checked_sub(1).map(|before| path.healthy[measured[before]]) {
                None => after.to_vec(),
                Some(_) if carries[j] == Carry::Reset => after.to_vec(),
                Some(before) => changes(before?, after),
            };
            spread(&gains).1.map(|sd| sd.max(LEAST_SD))
        })
        .collect()
}

/// Draws from Student's t: a normal over the root of an independent chi-square by its degrees of freedom.
fn students_t(rng: &mut impl rand::Rng, freedom: usize) -> f64 {
    let chi_square: f64 = (0..freedom).map(|_| normal(rng).powi(2)).sum();
    normal(rng) / (chi_square / freedom as f64).sqrt()
}
