//! A second opinion on the cutoff that fits nothing: the cumulative sum of what is missing.

use rand::Rng;

use super::Month;
use super::significance::{p_value, shuffle};

/// What the cumulative sum says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CusumCutoff {
    /// First month that is not known: the one after the sum was last 0 before its peak.
    pub month: u32,
    /// Height of the peak, right answers missing.
    pub peak: f64,
    /// Permutation p-value of there being no fall.
    pub p_value: f64,
}

/// Finds where answers begin to be missing; `None` where the sum peaks no higher than with the months shuffled (1 %).
///
/// `S_t = max(0, S_(t-1) + n_t mu_0 - x_t)`, with `x_t` right answers of `n_t` questions and `mu_0` the share right of all
/// months. Months in ascending order.
///
/// # Reference
/// Page 1954, *Continuous inspection schemes*, Biometrika 41.
///
/// # Deviations
/// Page's chart watches a process whose good level is known and stops at a threshold, with slack `k` against small changes.
/// Here all months are at hand and the good level is not: the mean of all stands for it, and shuffling for threshold and slack.
pub fn cusum_cutoff(months: &[Month], rng: &mut impl Rng) -> Option<CusumCutoff> {
    let (start, peak) = climb(months)?;
    let mut shuffled = months.to_vec();
    let p_value = p_value(rng, |rng| {
        shuffle(&mut shuffled, rng);
        climb(&shuffled).is_some_and(|(_, drawn)| drawn >= peak - 1e-9)
    })?;
    Some(CusumCutoff { month: months[start].month, peak, p_value })
}

/// Where the climb to the highest peak begins, and its height; `None` where nothing is missing.
fn climb(months: &[Month]) -> Option<(usize, f64)> {
    let (right, n) = months.iter().fold((0.0, 0.0), |(r, n), m| (r + m.right, n + m.n));
    let share = if n > 0.0 { right / n } else { 0.0 };
    let (mut sum, mut start) = (0.0_f64, 0);
    let mut best = None::<(usize, f64)>;
    for (i, m) in months.iter().enumerate() {
        // Rounding must not start a climb.
        sum = if sum <= 1e-9 { 0.0 } else { sum };
        start = if sum == 0.0 { i } else { start };
        sum += m.n * share - m.right;
        // What is missing from the first month on has not fallen.
        if start > 0 && sum > best.map_or(1e-9, |(_, height)| height) {
            best = Some((start, sum));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::{climb, cusum_cutoff};
    use crate::cutoff::Month;
    use crate::random::stream;
    use rand::Rng;

    fn curve(shares: impl Fn(u32) -> f64, questions: usize, rng: &mut impl Rng) -> Vec<Month> {
        (0..24)
            .map(|month| {
                let right = (0..questions).filter(|_| rng.random::<f64>() < shares(month)).count() as f64;
                Month { month, right, n: questions as f64 }
            })
            .collect()
    }

    #[test]
    fn the_sum_is_pages_recursion() {
        // Share .5: the sums are 0 (cut at 0), 0, .5, 0, .5, 1.0.
        let months = [1.0, 1.0, 0.0, 1.0, 0.0, 0.0].map(|right| Month { month: 0, right, n: 1.0 });
        assert_eq!(climb(&months), Some((4, 1.0)));
        assert_eq!(climb(&[]), None);
    }

    #[test]
    fn a_fall_is_found_and_flat_or_rising_curves_are_not() {
        let mut rng = stream(1, "cusum");
        let falling = curve(|month| if month < 16 { 0.8 } else { 0.1 }, 20, &mut rng);
        let found = cusum_cutoff(&falling, &mut rng).unwrap();
        assert!(found.month.abs_diff(16) <= 1 && found.p_value <= 0.01, "{found:?}");
        assert_eq!(cusum_cutoff(&curve(|_| 1.0, 20, &mut rng), &mut rng), None);
        assert_eq!(cusum_cutoff(&[], &mut rng), None);
        let alarms = (0..300).filter(|_| cusum_cutoff(&curve(|_| 0.5, 10, &mut rng), &mut rng).is_some()).count();
        assert!(alarms <= 9, "{alarms} of 300");
    }

    #[test]
    fn a_rise_is_no_fall() {
        let mut rng = stream(2, "rise");
        let rising = curve(|month| if month < 8 { 0.1 } else { 0.9 }, 20, &mut rng);
        assert_eq!(cusum_cutoff(&rising, &mut rng), None);
    }
}
