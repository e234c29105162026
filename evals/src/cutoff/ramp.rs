//! A gradual decay of knowledge: when it begins, is half done and ends.
//!
//! `p(t) = after + (before - after) / (1 + exp((t - midpoint) / scale))`. A step is its limit for a scale of 0, so the interval of
//! the midpoint means the same for both. Its likelihood is not smooth in midpoint and scale (between two months nothing
//! changes), so both lie on a grid and the two shares are found by Newton's method for each of its points. An interval is
//! the range of all points that a likelihood-ratio test does not reject, which is the profile likelihood's.
//!
//! # Reference
//! Schwarz 1978 (BIC), *Annals of Statistics* 6; profile likelihood: Venzon and Moolgavkar 1988, *Applied Statistics* 37.

use super::{CHI_95, Month, largest, log_likelihood, step_gains};
use crate::diagnosis::{CutoffRamp, Estimate};

/// Distance of midpoints on the grid, months.
const STEP: f64 = 0.5;

/// Widths on the grid, from 10 % to 90 % of the drop.
const WIDTHS: usize = 20;

/// Shares are kept this far from 0 and 1, where the likelihood of a single answer can be 0.
const EDGE: f64 = 1e-6;

/// A point of the grid with the likeliest shares.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    midpoint: f64,
    /// From 10 % to 90 % of the drop, months.
    width: f64,
    before: f64,
    after: f64,
    log_likelihood: f64,
}

/// What the family of ramps, steps among them, says of the months.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shape {
    /// 95 % interval of the midpoint, whatever the shape.
    pub(super) midpoint: (f64, f64),
    /// The decay, where BIC prefers it to a step.
    pub(super) ramp: Option<CutoffRamp>,
}

/// Fits the ramp; `None` without months. `months` are in ascending order.
///
/// Step and ramp have two shares and a place; the ramp has a width as well, which must pay for itself with `ln N`, `N` the number of
/// questions. Onset and end lie within the months asked about: a decay that began before the first of them has its onset there.
pub(super) fn shape(months: &[Month]) -> Option<Shape> {
    let (right, n) = months.iter().fold((0.0, 0.0), |(r, n), m| (r + m.right, n + m.n));
    let points = grid(months);
    let best = points.iter().copied().reduce(|a, b| if b.log_likelihood > a.log_likelihood { b } else { a })?;
    let step = log_likelihood(right, n) + largest(&step_gains(months))?.1;
    let top = best.log_likelihood.max(step);
    let held: Vec<Point> = points.into_iter().filter(|p| 2.0 * (top - p.log_likelihood) <= CHI_95).collect();
    let (first, last) = (f64::from(months.first()?.month), f64::from(months.last()?.month));
    let estimate = |place: fn(&Point) -> f64| {
        let value = place(&best).clamp(first, last);
        let (low, high) = held.iter().fold((value, value), |(low, high), p| (low.min(place(p)), high.max(place(p))));
        let (low, high) = ((low - 0.5 * STEP).max(first), (high + 0.5 * STEP).min(last));
        Estimate { value, low, high, n: n as usize, method: "profile likelihood".to_owned() }
    };
    let midpoint = estimate(|p| p.midpoint);
    let bic_gain = 2.0 * (best.log_likelihood - step) - n.ln();
    Some(Shape {
        midpoint: (midpoint.low, midpoint.high),
        ramp: (bic_gain > 0.0).then(|| CutoffRamp {
            onset: estimate(|p| p.midpoint - 0.5 * p.width),
            midpoint,
            end: estimate(|p| p.midpoint + 0.5 * p.width),
            before: best.before,
            after: best.after,
            bic_gain,
        }),
    })
}

/// Every midpoint within the months with every width, from a step to one and a half times all months.
fn grid(months: &[Month]) -> Vec<Point> {
    let (Some(first), Some(last)) = (months.first(), months.last()) else { return Vec::new() };
    let (first, last) = (f64::from(first.month), f64::from(last.month));
    let n_midpoints = ((last - first) / STEP) as usize + 1;
    let (narrow, wide) = (0.25, (1.5 * (last - first)).max(1.0));
    let widths = (0..WIDTHS).map(|i| narrow * (wide / narrow).powf(i as f64 / (WIDTHS - 1) as f64));
    let mut points = Vec::with_capacity(n_midpoints * WIDTHS);
    let mut kept = vec![0.0; months.len()];
    for width in widths {
        let mut shares = None;
        for i in 0..n_midpoints {
            let midpoint = first + STEP * i as f64;
            for (kept, m) in kept.iter_mut().zip(months) {
                *kept = share_kept(f64::from(m.month), midpoint, width);
            }
            // Neighbours on the grid have like shares.
            let (before, after, log_likelihood) = fit_shares(months, &kept, shares);
            shares = Some((before, after));
            points.push(Point { midpoint, width, before, after, log_likelihood });
        }
    }
    points
}

/// Share of the drop that is not yet lost in month `t`.
fn share_kept(t: f64, midpoint: f64, width: f64) -> f64 {
    // From 10 % to 90 % a logistic curve takes 2 ln 9 scales.
    1.0 / (1.0 + (2.0 * 9.0_f64.ln() * (t - midpoint) / width).exp())
}

/// The likeliest `before >= after` of `p_t = after + (before - after) kept_t`, and their log likelihood.
///
/// The likelihood is concave in both, so Fisher scoring with halved steps where it overshoots finds the maximum; a share at its
/// bound that wants to go beyond stays there and the other moves alone.
fn fit_shares(months: &[Month], kept: &[f64], start: Option<(f64, f64)>) -> (f64, f64, f64) {
    let (right, n) = months.iter().fold((0.0, 0.0), |(r, n), m| (r + m.right, n + m.n));
    let flat = if n > 0.0 { (right / n).clamp(EDGE, 1.0 - EDGE) } else { 0.5 };
    let (mut before, mut after) = start.unwrap_or((flat, flat));
    let mut value = likelihood(months, kept, before, after);
    for _ in 0..50 {
        let (mut score, mut info) = ([0.0; 2], [0.0; 3]);
        for (m, w) in months.iter().zip(kept) {
            let p = after + (before - after) * w;
            let slope = m.right / p - (m.n - m.right) / (1.0 - p);
            let weight = m.n / (p * (1.0 - p));
            score[0] += slope * w;
            score[1] += slope * (1.0 - w);
            info[0] += weight * w * w;
            info[1] += weight * w * (1.0 - w);
            info[2] += weight * (1.0 - w) * (1.0 - w);
        }
        let stuck = |share: f64, score: f64| (share <= EDGE && score < 0.0) || (share >= 1.0 - EDGE && score > 0.0);
        let determinant = info[0] * info[2] - info[1] * info[1];
        let step = match (stuck(before, score[0]), stuck(after, score[1])) {
            (true, true) => break,
            (true, false) => [0.0, score[1] / info[2].max(1e-12)],
            (false, true) => [score[0] / info[0].max(1e-12), 0.0],
            (false, false) if determinant > 1e-9 * info[0] * info[2] => [
                (info[2] * score[0] - info[1] * score[1]) / determinant,
                (info[0] * score[1] - info[1] * score[0]) / determinant,
            ],
            // All months lie on one side: the other share is not seen.
            (false, false) => [score[0] / info[0].max(1e-12), score[1] / info[2].max(1e-12)],
        };
        // Twice what the step can gain: nothing is left to find.
        if score[0] * step[0] + score[1] * step[1] < 1e-9 {
            break;
        }
        let (mut scale, mut moved) = (1.0, false);
        for _ in 0..30 {
            let mut next = [before + scale * step[0], after + scale * step[1]].map(|p| p.clamp(EDGE, 1.0 - EDGE));
            if next[0] < next[1] {
                next = [flat, flat];
            }
            let reached = likelihood(months, kept, next[0], next[1]);
            if reached > value + 1e-10 {
                (before, after, value, moved) = (next[0], next[1], reached, true);
                break;
            }
            scale *= 0.5;
        }
        if !moved {
            break;
        }
    }
    (before, after, value)
}

fn likelihood(months: &[Month], kept: &[f64], before: f64, after: f64) -> f64 {
    months
        .iter()
        .zip(kept)
        .map(|(m, w)| {
            let p = after + (before - after) * w;
            m.right * p.ln() + (m.n - m.right) * (1.0 - p).ln()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::{fit_shares, grid, likelihood, share_kept};
    use crate::cutoff::{Month, find_cutoff};
    use crate::random::stream;
    use proptest::prelude::*;
    use rand::Rng;

    fn curve(rng: &mut impl Rng, questions: usize, share: impl Fn(f64) -> f64) -> Vec<Month> {
        (0..24)
            .map(|month| {
                let p = share(f64::from(month));
                Month {
                    month,
                    right: (0..questions).filter(|_| rng.random::<f64>() < p).count() as f64,
                    n: questions as f64,
                }
            })
            .collect()
    }

    /// Falls in a straight line over ten months from month 8 on: 10 %, 50 % and 90 % are lost at 9, 13 and 17.
    fn ten_months(t: f64) -> f64 {
        0.8 - 0.77 * ((t - 8.0) / 10.0).clamp(0.0, 1.0)
    }

    #[test]
    fn onset_midpoint_and_end_of_a_ten_month_ramp_are_covered() {
        let mut rng = stream(1, "ramp");
        let (mut n, mut covered) = (0, [0; 3]);
        for _ in 0..200 {
            let estimate = find_cutoff(&curve(&mut rng, 20, ten_months), &mut rng).unwrap();
            let Some(ramp) = estimate.ramp else { continue };
            n += 1;
            for (count, (place, truth)) in
                covered.iter_mut().zip([(&ramp.onset, 9.0), (&ramp.midpoint, 13.0), (&ramp.end, 17.0)])
            {
                *count += i32::from(place.low <= truth && truth <= place.high);
            }
        }
        // Seen as a ramp nearly always; 95 % of 200 less three standard errors is 181.
        assert!(n >= 190, "{n}");
        assert!(covered.iter().all(|c| *c * 200 >= 181 * n), "{covered:?} of {n}");
    }

    #[test]
    fn a_step_is_hardly_ever_taken_for_a_ramp() {
        let mut rng = stream(2, "step");
        let ramps = (0..200)
            .filter(|_| {
                let months = curve(&mut rng, 10, |t| if t < 16.0 { 0.8 } else { 0.25 });
                find_cutoff(&months, &mut rng).is_some_and(|estimate| estimate.ramp.is_some())
            })
            .count();
        assert!(ramps <= 10, "{ramps} of 200");
    }

    #[test]
    fn a_tenth_half_and_nine_tenths_are_lost_where_the_width_says() {
        for (t, kept) in [(7.0, 0.9), (10.0, 0.5), (13.0, 0.1)] {
            assert!((share_kept(t, 10.0, 6.0) - kept).abs() < 1e-12);
        }
        assert_eq!(share_kept(1e6, 0.0, 0.5), 0.0);
    }

    #[test]
    fn the_grid_holds_the_likelihood_of_every_step() {
        let mut rng = stream(3, "nested");
        let months = curve(&mut rng, 10, |t| if t < 16.0 { 0.8 } else { 0.25 });
        let gains = crate::cutoff::step_gains(&months);
        let total = months.iter().map(|m| m.right).sum::<f64>();
        let step = gains.iter().copied().fold(0.0, f64::max) + crate::cutoff::log_likelihood(total, 240.0);
        let ramp = grid(&months).iter().map(|p| p.log_likelihood).fold(f64::NEG_INFINITY, f64::max);
        assert!(ramp >= step - 0.01, "{ramp} {step}");
    }

    proptest! {
        #[test]
        fn the_shares_are_the_likeliest_on_a_fine_lattice(
            counts in proptest::collection::vec((0_u8..=6, 0_u8..=6), 3..10), midpoint in 0.0_f64..9.0, width in 0.5_f64..12.0,
        ) {
            let months: Vec<Month> = counts.iter().enumerate()
                .map(|(i, (r, w))| Month { month: i as u32, right: f64::from(*r), n: f64::from(r + w) }).collect();
            let kept: Vec<f64> = months.iter().map(|m| share_kept(f64::from(m.month), midpoint, width)).collect();
            let (before, after, value) = fit_shares(&months, &kept, None);
            prop_assert!(before >= after);
            let side = 60;
            for i in 0..=side {
                for j in 0..=i {
                    let at = |k: u32| (f64::from(k) / f64::from(side)).clamp(1e-6, 1.0 - 1e-6);
                    let lattice = likelihood(&months, &kept, at(i), at(j));
                    prop_assert!(value >= lattice - 1e-4, "{value} at {before} {after}, {lattice} at {} {}", at(i), at(j));
                }
            }
        }
    }
}
