//! Several cutoffs: accuracy by month cut into stretches of one share each, by exact dynamic programming.

use super::{Month, log_likelihood};
use crate::diagnosis::{CutoffFall, CutoffRamp};

/// A stretch of months with one share of right answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Segment {
    /// First month.
    pub first: u32,
    /// Last month.
    pub last: u32,
    /// Sum of scores.
    pub right: f64,
    /// Number of questions.
    pub n: f64,
}

impl Segment {
    /// Share right; `None` without questions.
    pub fn share(&self) -> Option<f64> {
        (self.n > 0.0).then(|| self.right / self.n)
    }
}

/// The cheapest way to cut the months.
#[derive(Debug, Clone, PartialEq)]
pub struct Segmentation {
    /// Stretches in order; one more than breaks.
    pub segments: Vec<Segment>,
    /// `sum over stretches of -2 ln L`, plus the penalty of each break.
    pub cost: f64,
}

impl Segmentation {
    /// The breaks where accuracy falls: after the first a part of the knowledge is gone, after the last what can go.
    pub fn falls(&self) -> Vec<CutoffFall> {
        self.segments
            .windows(2)
            .filter_map(|pair| {
                let (before, after) = (pair[0].share()?, pair[1].share()?);
                (after < before).then_some(CutoffFall { month: pair[1].first, before, after })
            })
            .collect()
    }
}

/// Cuts the months, in ascending order, at no more than `max_breaks` places; `None` without months.
///
/// Minimises `sum_segments -2 ln L_binomial + 3 ln N` per break, `N` the number of questions. With `N` the number of months, three
/// flat curves in a hundred would be cut (`docs/cutoff.md`). Of equal costs the one with fewer breaks is taken. Exact, in
/// `O(max_breaks months^2)`: PELT is needed only for curves far longer than these.
///
/// # Reference
/// Auger and Lawrence 1989, *Bull. Math. Biol.* 51:39 (the recursion); Killick et al. 2012, PELT, *JASA* 107; for cutoffs
/// `LLMLagBench`, arXiv 2511.12116.
pub fn segment(months: &[Month], max_breaks: usize) -> Option<Segmentation> {
    if months.is_empty() {
        return None;
    }
    let n_months = months.len();
    let mut sums = vec![(0.0, 0.0)];
    for (i, m) in months.iter().enumerate() {
        sums.push((sums[i].0 + m.right, sums[i].1 + m.n));
    }
    let counts = |from: usize, to: usize| (sums[to].0 - sums[from].0, sums[to].1 - sums[from].1);
    let fit = |from: usize, to: usize| {
        let (right, n) = counts(from, to);
        -2.0 * log_likelihood(right, n)
    };
    // best[k][to]: least cost of months[..to] with k breaks, and where its last stretch begins.
    let mut best = vec![(0..=n_months).map(|to| (fit(0, to), 0)).collect::<Vec<(f64, usize)>>()];
    for k in 1..=max_breaks.min(n_months - 1) {
        let row = (0..=n_months)
            .map(|to| {
                (k..to)
                    .map(|from| (best[k - 1][from].0 + fit(from, to), from))
                    .reduce(|a, b| if b.0 < a.0 - 1e-9 { b } else { a })
                    .unwrap_or((f64::INFINITY, 0))
            })
            .collect();
        best.push(row);
    }
    let penalty = 3.0 * sums[n_months].1.max(1.0).ln();
    let cost_of = |k: usize| best[k][n_months].0 + k as f64 * penalty;
    let n_breaks = (0..best.len()).reduce(|a, b| if cost_of(b) < cost_of(a) - 1e-9 { b } else { a })?;
    let (mut segments, mut to) = (Vec::new(), n_months);
    for k in (0..=n_breaks).rev() {
        let from = best[k][to].1;
        let (right, n) = counts(from, to);
        segments.push(Segment { first: months[from].month, last: months[to - 1].month, right, n });
        to = from;
    }
    segments.reverse();
    Some(Segmentation { segments, cost: cost_of(n_breaks) })
}

/// Most breaks of a curve that are looked for.
const MOST_BREAKS: usize = 3;

/// The falls of a curve that falls more than once; none where one step explains it, or the gradual decay `ramp` does so better by BIC.
///
/// Stretches have a share each and a place between them, a decay two shares, its middle and its width.
pub fn several_falls(months: &[Month], ramp: Option<&CutoffRamp>) -> Vec<CutoffFall> {
    let Some(found) = segment(months, MOST_BREAKS) else { return Vec::new() };
    let falls = found.falls();
    if falls.len() < 2 {
        return Vec::new();
    }
    let ln_n = months.iter().map(|m| m.n).sum::<f64>().max(1.0).ln();
    let stretches: f64 = found.segments.iter().map(|s| -2.0 * log_likelihood(s.right, s.n)).sum();
    let bic_of_stretches = stretches + (2 * found.segments.len() - 1) as f64 * ln_n;
    let bic_of_ramp = |ramp: &CutoffRamp| {
        let of_month = |m: &Month| {
            // The curve itself stays inside (0, 1); its ends may be rounded onto them.
            let p = ramp.share(f64::from(m.month)).clamp(1e-6, 1.0 - 1e-6);
            m.right * p.ln() + (m.n - m.right) * (1.0 - p).ln()
        };
        4.0 * ln_n - 2.0 * months.iter().map(of_month).sum::<f64>()
    };
    if ramp.is_some_and(|ramp| bic_of_ramp(ramp) <= bic_of_stretches) { Vec::new() } else { falls }
}

#[cfg(test)]
mod tests {
    use super::{segment, several_falls};
    use crate::cutoff::{Month, find_cutoff, log_likelihood};
    use crate::diagnosis::CutoffFall;
    use crate::random::stream;
    use proptest::prelude::*;
    use rand::Rng;

    fn months(counts: &[(u8, u8)]) -> Vec<Month> {
        let month = |(i, (right, wrong)): (usize, &(u8, u8))| Month {
            month: i as u32,
            right: f64::from(*right),
            n: f64::from(right + wrong),
        };
        counts.iter().enumerate().map(month).collect()
    }

    /// Least cost over every set of at most `max_breaks` breaks: the oracle.
    fn brute_force(months: &[Month], max_breaks: u32) -> f64 {
        let n: f64 = months.iter().map(|m| m.n).sum();
        (0_u32..1 << (months.len() - 1))
            .filter(|set| set.count_ones() <= max_breaks)
            .map(|set| {
                let mut cost = f64::from(set.count_ones()) * 3.0 * n.max(1.0).ln();
                let mut from = 0;
                for to in 1..=months.len() {
                    if to == months.len() || set >> (to - 1) & 1 == 1 {
                        let (right, n) = months[from..to].iter().fold((0.0, 0.0), |(r, n), m| (r + m.right, n + m.n));
                        cost -= 2.0 * log_likelihood(right, n);
                        from = to;
                    }
                }
                cost
            })
            .fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn two_falls_and_a_rise_are_told_apart() {
        let shares = [(0..8, 0.9), (8..14, 0.5), (14..20, 0.05), (20..26, 0.6)];
        let mut rng = stream(1, "segments");
        let months: Vec<Month> = shares
            .into_iter()
            .flat_map(|(range, p)| range.map(move |month| (month, p)))
            .map(|(month, p)| Month {
                month,
                right: (0..40).filter(|_| rng.random::<f64>() < p).count() as f64,
                n: 40.0,
            })
            .collect();
        let found = segment(&months, 3).unwrap();
        let firsts: Vec<u32> = found.segments.iter().map(|s| s.first).collect();
        assert_eq!(firsts, [0, 8, 14, 20]);
        assert_eq!(found.falls().iter().map(|fall| fall.month).collect::<Vec<_>>(), [8, 14]);
        assert_eq!(segment(&months, 1).unwrap().segments.len(), 2, "no more breaks than asked for");
    }

    /// 40 questions a month, right with a probability that depends on the month.
    fn drawn(n_months: u32, name: &str, p: impl Fn(u32) -> f64) -> Vec<Month> {
        let mut rng = stream(3, name);
        let month =
            |month| Month { month, right: (0..40).filter(|_| rng.random::<f64>() < p(month)).count() as f64, n: 40.0 };
        (0..n_months).map(month).collect()
    }

    #[test]
    fn two_falls_are_told_and_neither_a_step_nor_a_decay_is_taken_for_them() {
        let told = |months: &[Month]| {
            let estimate = find_cutoff(months, &mut stream(4, "falls")).unwrap();
            (several_falls(months, estimate.ramp.as_ref()), estimate.ramp)
        };
        let (falls, _) =
            told(&drawn(24, "twice", |month| [0.9, 0.5, 0.05][usize::from(month >= 8) + usize::from(month >= 16)]));
        assert_eq!(falls.iter().map(|fall| fall.month).collect::<Vec<_>>(), [8, 16]);
        assert!((falls[0].before - 0.9).abs() < 0.1 && (falls[1].after - 0.05).abs() < 0.1, "{falls:?}");
        let (falls, ramp) = told(&drawn(24, "step", |month| if month < 12 { 0.9 } else { 0.1 }));
        assert_eq!((falls, ramp), (Vec::new(), None));
        let (falls, ramp) =
            told(&drawn(24, "decay", |month| 0.05 + 0.85 / (1.0 + (0.4 * (f64::from(month) - 12.0)).exp())));
        assert!(falls.is_empty() && ramp.is_some(), "{falls:?}");
    }

    #[test]
    fn flat_curves_are_hardly_ever_cut() {
        let mut rng = stream(2, "flat");
        let cut = (0..1000)
            .filter(|_| {
                let counts: Vec<(u8, u8)> = (0..24)
                    .map(|_| {
                        (0..5).fold((0, 0), |(r, w), _| if rng.random::<bool>() { (r + 1, w) } else { (r, w + 1) })
                    })
                    .collect();
                segment(&months(&counts), 3).unwrap().segments.len() > 1
            })
            .count();
        // More than 20 at a rate of 1 % happen once in 500 times.
        assert!(cut <= 20, "{cut} of 1000");
    }

    #[test]
    fn nothing_asked_is_one_stretch_without_a_share() {
        assert_eq!(segment(&[], 3), None);
        let found = segment(&months(&[(0, 0), (0, 0)]), 3).unwrap();
        assert_eq!(
            (found.segments.len(), found.segments[0].share(), found.falls()),
            (1, None, Vec::<CutoffFall>::new())
        );
    }

    proptest! {
        #[test]
        fn the_cost_is_the_least_of_all_segmentations(
            counts in proptest::collection::vec((0_u8..=30, 0_u8..=30), 1..10), max_breaks in 0_usize..4,
        ) {
            let months = months(&counts);
            let found = segment(&months, max_breaks).unwrap();
            prop_assert!((found.cost - brute_force(&months, max_breaks as u32)).abs() < 1e-6);
            prop_assert!(found.segments.len() <= max_breaks + 1);
            let n: f64 = months.iter().map(|m| m.n).sum();
            prop_assert!((found.segments.iter().map(|s| s.n).sum::<f64>() - n).abs() < 1e-9);
        }
    }
}
