//! Whether accuracy by month falls more than chance lets it.

use rand::Rng;

use super::{LEVEL, Month, largest, step_gains};

/// Curves drawn behind a p-value; its smallest possible value is `1 / (PERMUTATIONS + 1)`.
pub const PERMUTATIONS: usize = 999;

/// Standard deviations by which the months may differ more than single answers would let them, and still count as alike.
const ALIKE: f64 = 0.5;

/// P-value of there being no step down; `None` where it is above [`LEVEL`].
///
/// The statistic is the likelihood ratio averaged over all breaks (Andrews and Ploberger's exponential average), which finds
/// more than the largest ratio does. It is compared with curves in which nothing can depend on time:
///
/// - Whole months in another order. That is exact, however easy or hard the questions of a month are together. But a curve
///   with a break has months that differ much, so its shuffled copies do too, and faint breaks of few questions are missed.
/// - Where the months on either side of the break differ no more than single answers let them, the right answers are dealt
///   out anew among all questions. The ratio is then divided by the dispersion, where that is above 1.
///
/// # Reference
/// Andrews and Ploberger 1994, *Econometrica* 62:1383; dispersion: `McCullagh` and Nelder 1989, section 4.5.
pub(super) fn of_step(months: &[Month], gains: &[f64], rng: &mut impl Rng) -> Option<f64> {
    if largest(gains)?.1 <= 0.0 {
        return None;
    }
    let observed = average(gains);
    let df = months.iter().filter(|m| m.n > 0.0).count() as f64 - 2.0;
    let dispersion = dispersion(months, gains);
    let whole = months.iter().all(|m| m.right.fract() == 0.0 && m.n.fract() == 0.0);
    if whole && df > 0.0 && (dispersion - 1.0) * df <= ALIKE * (2.0 * df).sqrt() {
        let scaled = observed / dispersion.max(1.0);
        return p_value(rng, |rng| {
            let dealt = deal(months, rng);
            let gains = step_gains(&dealt);
            average(&gains) / self::dispersion(&dealt, &gains).max(1.0) >= scaled - 1e-9
        });
    }
    let mut shuffled = months.to_vec();
    p_value(rng, |rng| {
        shuffle(&mut shuffled, rng);
        average(&step_gains(&shuffled)) >= observed - 1e-9
    })
}

/// P-value by drawing: the share of [`PERMUTATIONS`] draws and the observed curve that are as extreme; `None` above [`LEVEL`].
pub(super) fn p_value<R: Rng>(rng: &mut R, mut as_extreme: impl FnMut(&mut R) -> bool) -> Option<f64> {
    let mut count = 1;
    for _ in 0..PERMUTATIONS {
        count += usize::from(as_extreme(rng));
        if count as f64 > LEVEL * (PERMUTATIONS + 1) as f64 {
            return None;
        }
    }
    Some(count as f64 / (PERMUTATIONS + 1) as f64)
}

/// Puts the months in another order (Fisher and Yates).
pub(super) fn shuffle(months: &mut [Month], rng: &mut impl Rng) {
    for i in (1..months.len()).rev() {
        months.swap(i, rng.random_range(0..=i));
    }
}

/// Deals the right answers out among all questions, each month keeping its number of questions.
fn deal(months: &[Month], rng: &mut impl Rng) -> Vec<Month> {
    let mut right: f64 = months.iter().map(|m| m.right).sum();
    let mut n: f64 = months.iter().map(|m| m.n).sum();
    months
        .iter()
        .map(|m| {
            let mut dealt = 0.0;
            for _ in 0..m.n as usize {
                if rng.random::<f64>() * n < right {
                    dealt += 1.0;
                    right -= 1.0;
                }
                n -= 1.0;
            }
            Month { right: dealt, ..*m }
        })
        .collect()
}

/// Logarithm of the mean likelihood ratio over breaks.
fn average(gains: &[f64]) -> f64 {
    let top = gains.iter().copied().fold(0.0, f64::max);
    top + (gains.iter().map(|gain| (gain - top).exp()).sum::<f64>() / gains.len() as f64).ln()
}

/// Pearson's dispersion of the months around the two shares of the likeliest break: 1 on average for independent answers.
fn dispersion(months: &[Month], gains: &[f64]) -> f64 {
    let Some((best, _)) = largest(gains) else { return 1.0 };
    let chi: f64 = [&months[..=best], &months[best + 1..]]
        .into_iter()
        .map(|side| {
            let (right, n) = side.iter().fold((0.0, 0.0), |(r, n), m| (r + m.right, n + m.n));
            let p = if n > 0.0 { right / n } else { 0.0 };
            if p <= 0.0 || p >= 1.0 {
                return 0.0;
            }
            side.iter().filter(|m| m.n > 0.0).map(|m| (m.right - m.n * p).powi(2) / (m.n * p * (1.0 - p))).sum()
        })
        .sum();
    let df = months.iter().filter(|m| m.n > 0.0).count() as f64 - 2.0;
    if df > 0.0 { chi / df } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::{average, deal, dispersion, p_value};
    use crate::cutoff::{Month, step_gains};
    use crate::random::stream;

    fn months(counts: &[(f64, f64)]) -> Vec<Month> {
        counts.iter().enumerate().map(|(i, (right, n))| Month { month: i as u32, right: *right, n: *n }).collect()
    }

    #[test]
    fn dealing_keeps_the_totals_and_spreads_like_drawing_without_replacement() {
        let months = months(&[(5.0, 5.0), (0.0, 10.0), (1.0, 5.0)]);
        let mut rng = stream(1, "deal");
        let draws = 4000;
        let (mut sum, mut squares) = (0.0, 0.0);
        for _ in 0..draws {
            let dealt = deal(&months, &mut rng);
            assert_eq!(dealt.iter().map(|m| m.right).sum::<f64>(), 6.0);
            assert!(dealt.iter().all(|m| m.right <= m.n));
            sum += dealt[1].right;
            squares += dealt[1].right.powi(2);
        }
        let mean = sum / f64::from(draws);
        // Hypergeometric: 6 right among 20, 10 drawn: mean 3, variance 10 * .3 * .7 * 10 / 19.
        assert!((mean - 3.0).abs() < 0.08, "{mean}");
        assert!((squares / f64::from(draws) - mean * mean - 21.0 / 19.0).abs() < 0.1);
    }

    #[test]
    fn the_average_ratio_lies_between_the_mean_and_the_largest() {
        assert!((average(&[1.0, 1.0]) - 1.0).abs() < 1e-12);
        assert!((average(&[0.0, 3.0_f64.ln()]) - 2.0_f64.ln()).abs() < 1e-12);
        assert!(average(&[900.0, 0.0]).is_finite());
    }

    #[test]
    fn dispersion_is_pearsons_around_the_two_shares() {
        let months = months(&[(9.0, 10.0), (7.0, 10.0), (2.0, 10.0), (0.0, 10.0)]);
        // Shares .8 and .1: (1 + 1) / 1.6 + (1 + 1) / .9, by two degrees of freedom.
        let expected = f64::midpoint(2.0 / 1.6, 2.0 / 0.9);
        assert!((dispersion(&months, &step_gains(&months)) - expected).abs() < 1e-12);
    }

    #[test]
    fn a_p_value_above_the_level_is_none() {
        let mut rng = stream(1, "p");
        assert_eq!(p_value(&mut rng, |_| false), Some(0.001));
        let mut calls = 0;
        let tenth = |_: &mut _| {
            calls += 1;
            calls % 100 == 0
        };
        assert_eq!(p_value(&mut rng, tenth), Some(0.01));
        assert_eq!(p_value(&mut rng, |_| true), None);
    }
}
