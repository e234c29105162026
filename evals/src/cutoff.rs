//! Where knowledge stops: one step down in accuracy by month, found by exact likelihood.
//!
//! Two models of the counts by month are compared: one share for all months, and one share before a break and a lower one
//! from it on. Every possible break is tried, so the maximum is exact. The interval is the set of breaks that a
//! likelihood-ratio test does not reject, `{t: 2 (l_max - l_t) <= 3.84}`; the p-value permutes the months, which asks only
//! that they be exchangeable where there is no break.
//!
//! # Reference
//! Hinkley 1970, *Inference about the change-point*, Biometrika 57; penalty for the number of breaks as in Killick et al.
//! 2012 (PELT); used for cutoffs by `LLMLagBench`, arXiv 2511.12116.

use rand::Rng;

use crate::diagnosis::CutoffEstimate;

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

/// Permutations of the months behind a p-value; its smallest possible value is `1 / (PERMUTATIONS + 1)`.
pub const PERMUTATIONS: usize = 999;

/// Finds the first month that is not known; `None` where no step down is better than chance.
///
/// `months` are in ascending order. A break is reported when its likelihood ratio passes the penalty `3 ln N` (`N` months)
/// and its permutation p-value is at most 5 %.
pub fn find_cutoff(months: &[Month], rng: &mut impl Rng) -> Option<CutoffEstimate> {
    let gains = step_gains(months);
    let (best, gain) = largest(&gains)?;
    if 2.0 * gain <= 3.0 * (months.len() as f64).ln() {
        return None;
    }
    let mut shuffled = months.to_vec();
    let mut as_large = 0;
    for _ in 0..PERMUTATIONS {
        for i in (1..shuffled.len()).rev() {
            shuffled.swap(i, rng.random_range(0..=i));
        }
        as_large += usize::from(largest(&step_gains(&shuffled)).is_some_and(|(_, drawn)| drawn >= gain));
    }
    let p_value = (1 + as_large) as f64 / (PERMUTATIONS + 1) as f64;
    if p_value > 0.05 {
        return None;
    }
    let near: Vec<usize> =
        gains.iter().enumerate().filter(|(_, g)| 2.0 * (gain - **g) <= 3.841_458_820_694_124).map(|(i, _)| i).collect();
    // Break `i` lies before month `i + 1`.
    Some(CutoffEstimate {
        month: months[best + 1].month,
        low: months[near[0] + 1].month,
        high: months[near[near.len() - 1] + 1].month,
        p_value,
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
    let part = |k: f64| if k <= 0.0 { 0.0 } else { k * (k / n).ln() };
    part(right) + part(n - right)
}

fn largest(gains: &[f64]) -> Option<(usize, f64)> {
    // The first of equals, so that the answer does not depend on rounding of later months.
    gains.iter().copied().enumerate().reduce(|best, next| if next.1 > best.1 { next } else { best })
}

#[cfg(test)]
mod tests {
    use super::{Month, find_cutoff, log_likelihood, step_gains};
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

    /// Share detected and mean absolute error in months over simulated curves.
    fn simulate(before: f64, after: f64, questions: usize) -> (f64, f64, f64) {
        let mut rng = stream(5, &format!("{before} {after} {questions}"));
        let (mut found, mut error, mut held) = (0.0, 0.0, 0.0);
        for _ in 0..100 {
            let months = curve(&mut rng, before, after, questions);
            if let Some(estimate) = find_cutoff(&months, &mut rng) {
                found += 1.0;
                error += (f64::from(estimate.month) - 16.0).abs();
                held += f64::from(u8::from((estimate.low..=estimate.high).contains(&16)));
            }
        }
        (found / 100.0, error / found, held / found)
    }

    #[test]
    fn free_form_breaks_are_found_as_published() {
        // q = 3: detected 1.0, mean error .12 months; q = 10: exact.
        let (found, error, held) = simulate(0.80, 0.03, 3);
        assert!(found >= 0.97 && error <= 0.3 && held >= 0.9, "{found} {error} {held}");
        let (found, error, _) = simulate(0.80, 0.03, 10);
        assert!(found == 1.0 && error <= 0.05, "{found} {error}");
    }

    #[test]
    fn four_way_choice_breaks_are_found_as_published() {
        // q = 3: .92 detected, error .59; q = 5: .98, .29; q = 10: 1.0, .09.
        let (found, error, _) = simulate(0.80, 0.25, 3);
        assert!((0.82..=1.0).contains(&found) && error <= 1.0, "{found} {error}");
        let (found, error, held) = simulate(0.80, 0.25, 5);
        assert!(found >= 0.93 && error <= 0.6 && held >= 0.9, "{found} {error} {held}");
    }

    #[test]
    fn faint_breaks_are_found_at_least_as_often_as_published() {
        // .50 -> .25: q = 10: .42 detected, q = 40: 1.0; false alarms are bounded by a test of their own.
        let (found, ..) = simulate(0.50, 0.25, 10);
        assert!(found >= 0.25, "{found}");
        assert!(simulate(0.50, 0.25, 40).0 >= 0.97);
    }

    #[test]
    fn a_flat_curve_has_no_break() {
        assert!(simulate(0.5, 0.5, 10).0 <= 0.03);
        assert!(simulate(0.97, 0.97, 5).0 <= 0.03);
    }

    #[test]
    fn rising_accuracy_is_no_cutoff_and_empty_curves_have_none() {
        let mut rng = stream(1, "rising");
        let mut months = curve(&mut rng, 0.1, 0.9, 20);
        assert_eq!(find_cutoff(&months, &mut rng), None);
        months.truncate(1);
        assert_eq!(find_cutoff(&months, &mut rng), None);
        assert_eq!(find_cutoff(&[], &mut rng), None);
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
