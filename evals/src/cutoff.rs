//! Where knowledge stops: one step down in accuracy by month, found by exact likelihood.
//!
//! Two models of the counts by month are compared: one share for all months, and one share before a break and a lower one
//! from it on. Every possible break is tried, so the maximum is exact. Whether there is a break is tested ([`significance`])
//! with at most 1 % false alarms. The month is the median of the breaks weighted by their likelihood, which is nearer to
//! the truth on average than the likeliest; the interval is the set of breaks that a likelihood-ratio test does not reject,
//! `{t: 2 (l_max - l_t) <= 3.84}`, wider where the fall may be gradual. Where a gradual decay explains the counts better, [`ramp`] says when it began and ended.
//!
//! Beside it: several breaks ([`segments`]), a second opinion ([`cusum`]), the date of the text that is least surprising
//! ([`perplexity`]), answers that were true once ([`as_of`]), knowing what one does not know ([`abstention`]) and the fact
//! in the context ([`context`]). `docs/cutoff.md` has what was measured.
//!
//! # Reference
//! Hinkley 1970, *Inference about the change-point*, Biometrika 57; used for cutoffs by `LLMLagBench`, arXiv 2511.12116.

pub mod abstention;
pub mod as_of;
pub mod context;
pub mod cusum;
pub mod perplexity;
pub mod ramp;
pub mod segments;
mod significance;

use rand::Rng;

use crate::diagnosis::{CutoffEstimate, Estimate};
use crate::stats::clustered::clustered_mean;

pub use significance::PERMUTATIONS;

/// Answers of one month.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Month {
    /// Month, counted from 0.
    pub month: u32,
    /// Sum of scores.
    pub right: f64,
    /// Number of questions.
    pub n: f64,
}

/// Largest p-value at which a break is reported: the share of curves without a break that are taken for one with a break.
pub const LEVEL: f64 = 0.01;

/// 95 % quantile of chi-squared with one degree of freedom, `Z_95^2`.
const CHI_95: f64 = 3.841_458_820_694_124;

/// Finds the first month that is not known, and the decay where it is gradual; `None` where no step down is better than chance.
///
/// `months` are in ascending order. The interval holds the months of the midpoint that a gradual decay leaves open as well,
/// as few answers cannot tell a decay from a step, and the set of a step is too narrow where it was none.
pub fn find_cutoff(months: &[Month], rng: &mut impl Rng) -> Option<CutoffEstimate> {
    let mut estimate = find_step(months, rng)?;
    if let Some(shape) = ramp::shape(months) {
        // A midpoint between two months makes the later one the first that is not known.
        let first_after = |place: f64| months.iter().map(|m| m.month).find(|month| f64::from(*month) >= place);
        let (low, high) = shape.midpoint;
        estimate.low = first_after(low).map_or(estimate.low, |month| estimate.low.min(month));
        estimate.high = first_after(high).map_or(estimate.high, |month| estimate.high.max(month));
        estimate.ramp = shape.ramp;
    }
    Some(estimate)
}

/// The step alone, with the likelihood-ratio set of a step: a gradual decay takes longer to look for than all else.
pub fn find_step(months: &[Month], rng: &mut impl Rng) -> Option<CutoffEstimate> {
    let gains = step_gains(months);
    let (_, best) = largest(&gains)?;
    let p_value = significance::of_step(months, &gains, rng)?;
    // Break `i` lies before month `i + 1`.
    let weights: Vec<f64> = gains.iter().map(|gain| (gain - best).exp()).collect();
    let break_at = weighted_median(&weights);
    let month = months[break_at + 1].month;
    let away: f64 = weights.iter().zip(&months[1..]).map(|(w, m)| w * f64::from(m.month.abs_diff(month))).sum();
    let held = |gain: &f64| 2.0 * (best - gain) <= CHI_95;
    let first = gains.iter().position(held)?.min(break_at);
    let last = gains.iter().rposition(held)?.max(break_at);
    Some(CutoffEstimate {
        month,
        low: months[first + 1].month,
        high: months[last + 1].month,
        p_value,
        expected_error: Some(away / weights.iter().sum::<f64>()),
        ramp: None,
    })
}

/// Gain in log likelihood of a step down before month `i + 1` over no step, for each `i`; 0 where accuracy rises.
fn step_gains(months: &[Month]) -> Vec<f64> {
    let total: (f64, f64) = months.iter().fold((0.0, 0.0), |(r, n), m| (r + m.right, n + m.n));
    let flat = log_likelihood(total.0, total.1);
    let (mut right, mut n) = (0.0, 0.0);
    months
        .iter()
        .take(months.len().saturating_sub(1))
        .map(|m| {
            right += m.right;
            n += m.n;
            let (after_right, after_n) = (total.0 - right, total.1 - n);
            if n == 0.0 || after_n == 0.0 || right / n <= after_right / after_n {
                return 0.0;
            }
            (log_likelihood(right, n) + log_likelihood(after_right, after_n) - flat).max(0.0)
        })
        .collect()
}

/// Largest binomial log likelihood of `right` of `n`, without the binomial coefficient (which no split changes).
fn log_likelihood(right: f64, n: f64) -> f64 {
    // Sums of differences may leave a count a rounding error below 0.
    let part = |k: f64| if k <= 0.0 { 0.0 } else { k * (k / n).ln() };
    part(right) + part(n - right)
}

fn largest(gains: &[f64]) -> Option<(usize, f64)> {
    // The first of equals, so that the answer does not depend on rounding of later months.
    gains.iter().copied().enumerate().reduce(|best, next| if next.1 > best.1 { next } else { best })
}

/// First place where half of the weight is reached.
fn weighted_median(weights: &[f64]) -> usize {
    let half = 0.5 * weights.iter().sum::<f64>();
    let mut sum = 0.0;
    let reached = weights.iter().position(|weight| {
        sum += weight;
        sum >= half
    });
    reached.unwrap_or(0)
}

/// A share with Wilson's interval, by clusters; `None` without rows. `rows` are `(counted, cluster)`.
fn share(rows: impl Iterator<Item = (bool, usize)>) -> Option<Estimate> {
    let (scores, clusters): (Vec<f64>, Vec<usize>) =
        rows.map(|(counted, cluster)| (f64::from(u8::from(counted)), cluster)).unzip();
    let mean = clustered_mean(&scores, &clusters)?;
    let (low, high) = mean.interval();
    let method = if mean.n_clusters < mean.n { "Wilson, clustered" } else { "Wilson" };
    Some(Estimate { value: mean.mean, low, high, n: mean.n, method: method.to_owned() })
}

/// `60%`, without its interval, where one for another share of the same answers stands beside it.
fn percent(share: &Estimate) -> String {
    format!("{:.0}%", 100.0 * share.value)
}

/// `60% [46%, 72%] (n = 50)`.
fn interval(share: &Estimate) -> String {
    format!("{} [{:.0}%, {:.0}%] (n = {})", percent(share), 100.0 * share.low, 100.0 * share.high, share.n)
}

#[cfg(test)]
mod tests {
    use super::{Month, find_cutoff, find_step, log_likelihood, step_gains, weighted_median};
    use crate::random::stream;
    use proptest::prelude::*;
    use rand::Rng;

    /// Draws a curve of 24 months with a break after month 16, as in the published table.
    fn curve(rng: &mut impl Rng, before: f64, after: f64, questions: usize) -> Vec<Month> {
        (0..24)
            .map(|month| {
                let p = if month < 16 { before } else { after };
                let right = (0..questions).filter(|_| rng.random::<f64>() < p).count() as f64;
                Month { month, right, n: questions as f64 }
            })
            .collect()
    }

    /// Curves per cell; a share of them has a standard error of at most 3.5 points.
    const CURVES: usize = 200;

    /// Share detected, mean absolute error in months of those, and share of those whose set holds the break.
    fn simulate(before: f64, after: f64, questions: usize) -> (f64, f64, f64) {
        let mut rng = stream(5, &format!("{before} {after} {questions}"));
        let (mut found, mut error, mut held) = (0.0, 0.0, 0.0);
        for _ in 0..CURVES {
            let months = curve(&mut rng, before, after, questions);
            if let Some(estimate) = find_step(&months, &mut rng) {
                found += 1.0;
                error += (f64::from(estimate.month) - 16.0).abs();
                held += f64::from(u8::from((estimate.low..=estimate.high).contains(&16)));
            }
        }
        (found / CURVES as f64, error / found, held / found)
    }

    /// Detected at least as often as published, but for three standard errors of a share of this many curves.
    fn assert_detected(found: f64, published: f64) {
        let noise = 3.0 * (published * (1.0 - published) / CURVES as f64).sqrt();
        assert!(found >= published - noise, "{found} of {published} published");
    }

    #[test]
    fn free_form_breaks_are_found_as_published() {
        // q = 3: detected 1.0, mean error .12 months; q = 10: exact.
        let (found, error, held) = simulate(0.80, 0.03, 3);
        assert!(found == 1.0 && error <= 0.21 && held >= 0.9, "{found} {error} {held}");
        let (found, error, _) = simulate(0.80, 0.03, 10);
        assert!(found == 1.0 && error <= 0.02, "{found} {error}");
    }

    #[test]
    fn four_way_choice_breaks_are_found_as_published() {
        // q = 3: .92 detected, error .59; q = 5: .98, .29. Errors spread by about 1.0 and 0.6 months between curves.
        let (found, error, _) = simulate(0.80, 0.25, 3);
        assert_detected(found, 0.92);
        assert!(error <= 0.59 + 3.0 * 1.0 / 14.0, "{error}");
        let (found, error, held) = simulate(0.80, 0.25, 5);
        assert_detected(found, 0.98);
        assert!(error <= 0.29 + 3.0 * 0.6 / 14.0 && held >= 0.9, "{error} {held}");
    }

    #[test]
    fn faint_breaks_are_found_at_least_as_often_as_published() {
        for (before, questions, published) in [(0.5, 3, 0.13), (0.5, 10, 0.42), (0.5, 20, 0.86), (0.35, 20, 0.04)] {
            assert_detected(simulate(before, 0.25, questions).0, published);
        }
    }

    #[test]
    fn a_flat_curve_has_no_break() {
        // 800 curves in all; more than 17 false alarms at a rate of 1 % happen once in 500 times.
        let alarms: f64 = [(0.5, 10), (0.97, 5), (0.25, 3), (0.8, 20)].map(|(p, q)| simulate(p, p, q).0).iter().sum();
        assert!(alarms * CURVES as f64 <= 17.5, "{alarms}");
    }

    #[test]
    fn months_that_differ_more_than_answers_do_raise_few_alarms() {
        // Every second month is 20 points easier: answers of one month are not independent of each other.
        let mut rng = stream(6, "easy and hard months");
        let alarms = (0..300)
            .filter(|_| {
                let months: Vec<Month> = (0..24)
                    .map(|month| {
                        let p = if rng.random::<bool>() { 0.4 } else { 0.6 };
                        let right = (0..40).filter(|_| rng.random::<f64>() < p).count() as f64;
                        Month { month, right, n: 40.0 }
                    })
                    .collect();
                find_step(&months, &mut rng).is_some()
            })
            .count();
        assert!(alarms <= 10, "{alarms} of 300");
    }

    #[test]
    fn the_expected_error_is_the_error_on_average() {
        let mut rng = stream(7, "expected error");
        let found: Vec<_> = (0..300).filter_map(|_| find_step(&curve(&mut rng, 0.8, 0.25, 4), &mut rng)).collect();
        let n = found.len() as f64;
        let expected = found.iter().filter_map(|e| e.expected_error).sum::<f64>() / n;
        let error = found.iter().map(|e| f64::from(e.month.abs_diff(16))).sum::<f64>() / n;
        assert!((expected - error).abs() < 0.15, "{expected} {error}");
    }

    #[test]
    fn rising_accuracy_is_no_cutoff_and_empty_curves_have_none() {
        let mut rng = stream(1, "rising");
        let mut months = curve(&mut rng, 0.1, 0.9, 20);
        assert_eq!(find_cutoff(&months, &mut rng), None);
        months.truncate(1);
        assert_eq!(find_cutoff(&months, &mut rng), None);
        assert_eq!(find_cutoff(&[], &mut rng), None);
        let unasked: Vec<Month> = (0..9).map(|month| Month { month, right: 0.0, n: 0.0 }).collect();
        assert_eq!(find_cutoff(&unasked, &mut rng), None);
    }

    #[test]
    fn records_without_what_was_added_later_are_read() {
        let old = r#"{"month":16,"low":15,"high":17,"p_value":0.001}"#;
        let read: crate::diagnosis::CutoffEstimate = serde_json::from_str(old).unwrap();
        assert_eq!((read.expected_error, &read.ramp), (None, &None));
        assert_eq!(serde_json::to_string(&read).unwrap(), old, "and written as they were");
    }

    #[test]
    fn the_median_is_the_first_place_that_reaches_half() {
        assert_eq!(weighted_median(&[1.0, 1.0]), 0);
        assert_eq!(weighted_median(&[0.2, 0.2, 1.0, 0.1]), 2);
    }

    proptest! {
        #[test]
        fn gains_equal_the_brute_force_likelihood(counts in proptest::collection::vec((0_u8..=5, 0_u8..=5), 2..8)) {
            let months: Vec<Month> = counts.iter().enumerate()
                .map(|(i, (r, w))| Month { month: i as u32, right: f64::from(*r), n: f64::from(r + w) }).collect();
            let sum = |part: &[Month]| part.iter().fold((0.0, 0.0), |(r, n), m| (r + m.right, n + m.n));
            for (i, gain) in step_gains(&months).iter().enumerate() {
                let ((r1, n1), (r2, n2)) = (sum(&months[..=i]), sum(&months[i + 1..]));
                let (r, n) = sum(&months);
                let expected = if n1 > 0.0 && n2 > 0.0 && r1 / n1 > r2 / n2 {
                    log_likelihood(r1, n1) + log_likelihood(r2, n2) - log_likelihood(r, n)
                } else { 0.0 };
                prop_assert!((gain - expected).abs() < 1e-9);
            }
        }
    }
}
