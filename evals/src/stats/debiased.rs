//! Squared calibration error without what chance adds, and how far it can be trusted.

use std::collections::BTreeMap;

use rand::Rng;

use super::bins::Binning;
use super::bootstrap::at;
use super::calibration::Forecast;
use super::normal::{Z_95, quantile};

/// One-sided 95 % quantile of the normal distribution.
const Z_ONE_SIDED: f64 = 1.644_853_626_951_472_2;

/// Lower end of an interval that does not hold 0: greater than 0, however little.
const ABOVE_ZERO: f64 = 1e-12;

/// Which forecasts share a bin and a cluster: found once for many sets of outcomes.
#[derive(Debug, Clone, PartialEq)]
pub struct Pairs {
    /// Number of forecasts.
    n: f64,
    /// The cell of each forecast.
    places: Vec<usize>,
    cells: Vec<Cell>,
    /// By bin: number of forecasts, and `n_b / n` over the number of pairs of different clusters, 0 where there is none.
    bins: Vec<(f64, f64)>,
    n_clusters: usize,
}

/// What a bin holds of a cluster.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cell {
    bin: usize,
    cluster: usize,
    n: f64,
}

impl Pairs {
    /// Of forecasts with the cluster of each, in bins; `None` without forecasts.
    pub fn new(clusters: &[usize], binning: &Binning) -> Option<Self> {
        let n_clusters = clusters.iter().max()? + 1;
        let mut numbers = BTreeMap::<(usize, usize), f64>::new();
        for key in binning.places().iter().copied().zip(clusters.iter().copied()) {
            *numbers.entry(key).or_default() += 1.0;
        }
        let cells: Vec<Cell> = numbers.iter().map(|(&(bin, cluster), &n)| Cell { bin, cluster, n }).collect();
        let keys: Vec<(usize, usize)> = numbers.into_keys().collect();
        let place = |(bin, cluster): (&usize, &usize)| keys.partition_point(|key| *key < (*bin, *cluster));
        let places = binning.places().iter().zip(clusters).map(place).collect();
        let n = clusters.len() as f64;
        let mut sums = vec![(0.0, 0.0); binning.n_bins()];
        for cell in &cells {
            sums[cell.bin].0 += cell.n;
            sums[cell.bin].1 += cell.n * cell.n;
        }
        let factor = |(n_b, squares): (f64, f64)| {
            let pairs = n_b * n_b - squares;
            (n_b, if pairs > 0.0 { n_b / n / pairs } else { 0.0 })
        };
        Some(Self { n, places, cells, bins: sums.into_iter().map(factor).collect(), n_clusters })
    }

    /// [`Debiased::value`] of these forecasts.
    pub fn squared(&self, forecasts: &[Forecast]) -> f64 {
        self.signed(&self.sums(forecasts), |_| 1.0)
    }

    /// Sum of `U` over each cell.
    fn sums(&self, forecasts: &[Forecast]) -> Vec<f64> {
        let mut sums = vec![0.0; self.cells.len()];
        for (place, forecast) in self.places.iter().zip(forecasts) {
            sums[*place] += forecast.confidence - forecast.outcome;
        }
        sums
    }

    /// The estimate with the sums of each cluster multiplied by its sign.
    fn signed(&self, sums: &[f64], sign: impl Fn(usize) -> f64) -> f64 {
        let (mut totals, mut squares) = (vec![0.0; self.bins.len()], vec![0.0; self.bins.len()]);
        for (cell, sum) in self.cells.iter().zip(sums) {
            totals[cell.bin] += sign(cell.cluster) * sum;
            squares[cell.bin] += sum * sum;
        }
        let parts = self.bins.iter().zip(totals.iter().zip(&squares));
        parts.map(|((_, factor), (total, squares))| factor * (total * total - squares)).sum()
    }
}

/// Debiased squared calibration error in bins, of items in clusters.
///
/// With `U = confidence - outcome`, `sum_b (n_b/n) m_b^2`, where the square of a bin's mean of `U` is estimated from pairs of
/// items in different clusters, `m_b^2 = ((sum U)^2 - sum_c (sum_(i in c) U)^2) / (n_b^2 - sum_c n_bc^2)`: 0 on average for a calibrated model,
/// so it may be less than 0. A bin with a single cluster adds nothing.
///
/// # Reference
/// Sun, Chaudhari, Barnett and Dobriban 2024, arXiv 2408.08998 (estimator, both variances and the interval; its authors'
/// code gives the details); Bröcker 2012, *Climate Dynamics* 39, and Ferro and Fricker 2012, *QJRMS* 138 ([`ferro_fricker`]).
///
/// # Deviations
/// The source has independent items; with one item in each cluster all but the factor `C/(C - 1)` of the variance is the source's.
/// Whether 0 is inside of the interval is told by flipping signs of clusters, not by a normal approximation, which for a sum of ten squares
/// rejects too often.
#[derive(Debug, Clone, PartialEq)]
pub struct Debiased {
    /// The estimate, in squared units of confidence.
    pub value: f64,
    /// Standard error where there is miscalibration; for a calibrated model it is too large by half.
    pub se: f64,
    /// Standard error of the mean of `U`.
    se_mean: f64,
    pairs: Pairs,
    /// Sum of `U` over each cell.
    sums: Vec<f64>,
}

impl Debiased {
    /// Of forecasts in bins, with the cluster of each; `None` without forecasts.
    pub fn new(forecasts: &[Forecast], clusters: &[usize], binning: &Binning) -> Option<Self> {
        let pairs = Pairs::new(clusters, binning)?;
        let (sums, n) = (pairs.sums(forecasts), pairs.n);
        let mut means = vec![0.0; pairs.bins.len()];
        for (cell, sum) in pairs.cells.iter().zip(&sums) {
            means[cell.bin] += sum / pairs.bins[cell.bin].0;
        }
        let plug_in: f64 = pairs.bins.iter().zip(&means).map(|((n_b, _), mean)| n_b / n * mean * mean).sum();
        let mean = sums.iter().sum::<f64>() / n;

        // First-order influence of each cluster: the derivative of sum_b S_b^2 / (n_b n) by its sums and counts. Beside it that of the mean.
        let mut influence = vec![(0.0, 0.0, false); pairs.n_clusters];
        for (Cell { bin, cluster, n: n_bc }, sum) in pairs.cells.iter().zip(&sums) {
            let of = &mut influence[*cluster];
            of.0 += (2.0 * means[*bin] * sum - n_bc * (means[*bin] * means[*bin] + plug_in)) / n;
            of.1 += (sum - n_bc * mean) / n;
            of.2 = true;
        }
        let n_used = influence.iter().filter(|of| of.2).count() as f64;
        let correction = if n_used > 1.0 { n_used / (n_used - 1.0) } else { 1.0 };
        let error = |of: fn(&(f64, f64, bool)) -> f64| {
            (correction * influence.iter().map(|v| of(v).powi(2)).sum::<f64>()).sqrt()
        };
        let (se, se_mean) = (error(|of| of.0), error(|of| of.1));
        let value = pairs.signed(&sums, |_| 1.0);
        Some(Self { value, se, se_mean, pairs, sums })
    }

    /// Values where the model is calibrated: of signs of whole clusters drawn at random, so that items of a cluster may hang together in any
    /// way.
    ///
    /// # Reference
    /// Liu 1988, *Annals of Statistics* 16 (wild bootstrap); for a quadratic form like this: Leucht and Neumann 2013, *J. Multivariate Analysis* 117.
    pub fn null(&self, draws: usize, rng: &mut impl Rng) -> Vec<f64> {
        let mut signs = vec![1.0; self.pairs.n_clusters];
        (0..draws)
            .map(|_| {
                for sign in &mut signs {
                    *sign = if rng.random::<bool>() { 1.0 } else { -1.0 };
                }
                self.pairs.signed(&self.sums, |cluster| signs[cluster])
            })
            .collect()
    }

    /// Chance of a value at least as large where the model is calibrated: `(1 + number at least as large) / (draws + 1)` of [`Debiased::null`].
    pub fn p_value(&self, null: &[f64]) -> f64 {
        let as_large = null.iter().filter(|value| **value >= self.value - 1e-12).count();
        (1 + as_large) as f64 / (null.len() + 1) as f64
    }

    /// Smallest error, the same at every confidence, that so many items tell from none: with a p-value of at most 0.05 in 80 of 100 cases. `None`
    /// where no error would be, or there are no draws.
    ///
    /// An error of `e` adds `e^2` and, by `2 e mean(U)`, a variance of `4 e^2 se^2`: solves `e^2 - z_0.8 sqrt(v + 4 e^2 se^2) = c`, with `c` the 95th
    /// percentile and `v` the variance of [`Debiased::null`]. `c` grows by `1 + e^2 / (C se^2)`, for the signs that are drawn then are those of
    /// sums of `C` clusters that hold the error too. The normal approximation is a few points of power off.
    pub fn detectable(&self, null: &[f64]) -> Option<f64> {
        if null.is_empty() || self.se_mean < 1e-12 {
            return None;
        }
        let mut sorted = null.to_vec();
        sorted.sort_by(f64::total_cmp);
        let critical = at(&sorted, 0.95).max(0.0);
        let variance = sorted.iter().map(|value| value * value).sum::<f64>() / sorted.len() as f64;
        let (z, per_error) = (quantile(0.8).powi(2), 4.0 * self.se_mean * self.se_mean);
        let growth = 1.0 / (self.pairs.n_clusters as f64 * self.se_mean * self.se_mean);
        let mut squared: f64 = 0.0;
        // A quadratic equation for e^2, again until `c` is that of the solution; where it never is, no error shows.
        for _ in 0..50 {
            let critical = critical * (1.0 + growth * squared);
            let half = critical + 0.5 * z * per_error;
            squared = half + (half * half - critical * critical + z * variance).sqrt();
        }
        Some(squared.sqrt()).filter(|error| *error < 1.0)
    }

    /// 95 % interval of the squared error, given the [p-value](Self::p_value) of its being 0.
    ///
    /// The source's, for a quantity that is not negative: two-sided where the estimate is far from 0, and one-sided below where it is near, so that
    /// 0 is inside exactly where `p_value` is above 0.05.
    pub fn interval(&self, p_value: f64) -> (f64, f64) {
        let value = self.value.max(0.0);
        let low = if value >= 2.0 * Z_95 * self.se {
            value - Z_95 * self.se
        } else if value >= 2.0 * Z_ONE_SIDED * self.se {
            value / 2.0
        } else {
            value - Z_ONE_SIDED * self.se
        };
        (if p_value > 0.05 { 0.0 } else { low.max(ABOVE_ZERO) }, value + Z_95 * self.se)
    }
}

/// The older form, from bins alone: `sum_k (n_k/n) ((conf_k - acc_k)^2 - acc_k (1 - acc_k) / (n_k - 1))`, which takes confidences as fixed and
/// outcomes as independent and 0 or 1; `None` without forecasts.
///
/// # Reference
/// Ferro and Fricker 2012, *QJRMS* 138, equation 5; Bröcker 2012, *Climate Dynamics* 39. [`super::calibration::debiased_ece`] is its root.
pub fn ferro_fricker(forecasts: &[Forecast], binning: &Binning) -> Option<f64> {
    let n = forecasts.len() as f64;
    let error = |bin: super::calibration::Bin| {
        let (accuracy, confidence) = (bin.outcome / bin.n, bin.confidence / bin.n);
        let by_chance = if bin.n > 1.0 { accuracy * (1.0 - accuracy) / (bin.n - 1.0) } else { 0.0 };
        bin.n / n * ((accuracy - confidence).powi(2) - by_chance)
    };
    (n > 0.0).then(|| binning.sums(forecasts).into_iter().filter(|bin| bin.n > 0.0).map(error).sum())
}

#[cfg(test)]
mod tests {
    use super::{Debiased, Pairs, ferro_fricker};
    use crate::random::stream;
    use crate::stats::bins::Binning;
    use crate::stats::calibration::{Forecast, bin, debiased_ece};
    use proptest::prelude::*;
    use rand::Rng;
    use rand_chacha::ChaCha8Rng;

    const BINS: usize = 10;

    /// `n` items in clusters of `size`; items of a cluster share their confidence, and half of them their outcome.
    fn drawn(n: usize, size: usize, shift: f64, rng: &mut ChaCha8Rng) -> (Vec<Forecast>, Vec<usize>) {
        let clusters: Vec<usize> = (0..n).map(|i| i / size).collect();
        let mut shared = (0.0, 0.0);
        let forecasts = (0..n)
            .map(|i| {
                if i % size == 0 {
                    shared = (0.25 + 0.75 * rng.random::<f64>(), rng.random::<f64>());
                }
                let own: f64 = rng.random();
                let chance = if size > 1 && rng.random::<bool>() { shared.1 } else { own };
                Forecast { confidence: shared.0, outcome: f64::from(u8::from(chance < shared.0 - shift)) }
            })
            .collect();
        (forecasts, clusters)
    }

    #[test]
    fn estimates_centre_on_the_truth_and_intervals_cover_it() {
        let mut rng = stream(7, "coverage");
        for (n, size) in [(100, 1), (1000, 1), (300, 3)] {
            for shift in [0.0, 0.05, 0.2] {
                let (mut covered, mut sum, mut squares, mut older) = (0, 0.0, 0.0, 0.0);
                let runs = 1000;
                for _ in 0..runs {
                    let (f, clusters) = drawn(n, size, shift, &mut rng);
                    let binning = Binning::quantiles(&f, BINS);
                    let debiased = Debiased::new(&f, &clusters, &binning).unwrap();
                    let (low, high) = debiased.interval(debiased.p_value(&debiased.null(99, &mut rng)));
                    covered += i32::from(low <= shift * shift && shift * shift <= high);
                    sum += debiased.value;
                    squares += debiased.value * debiased.value;
                    older += ferro_fricker(&f, &binning).unwrap();
                }
                let (mean, older) = (sum / f64::from(runs), older / f64::from(runs));
                let error = ((squares / f64::from(runs) - mean * mean) / f64::from(runs)).sqrt();
                let coverage = f64::from(covered) / f64::from(runs);
                let case = format!("n = {n}, clusters of {size}, shift {shift}");
                println!("{case}: mean {mean:.5} +- {error:.5}, Ferro-Fricker {older:.5}, coverage {coverage:.3}");
                assert!((mean - shift * shift).abs() < 3.0 * error, "{case}: {mean} +- {error}");
                // 2.5 standard deviations of a binomial: 1.7 points. Of a calibrated model the interval is exact; beside 0 it is wide, since a
                // quantity that cannot be negative is, and far from it at n = 100 the normal distribution is an approximation.
                let allowed = if shift == 0.0 { 0.933..=0.967 } else { 0.90..=1.0 };
                assert!(allowed.contains(&coverage), "{case}: coverage {coverage}");
                // What takes items of a cluster for independent sees miscalibration where there is none.
                assert_eq!(size > 1, older - mean > 5.0 * error, "{case}: {older}");
            }
        }
    }

    #[test]
    fn an_error_that_is_said_to_show_shows_in_four_of_five_cases() {
        let mut rng = stream(10, "power");
        for (n, size) in [(100, 1), (300, 1), (1000, 1), (600, 3)] {
            let calibrated = drawn(n, size, 0.0, &mut rng);
            let binning = Binning::quantiles(&calibrated.0, BINS);
            let of = Debiased::new(&calibrated.0, &calibrated.1, &binning).unwrap();
            let error = of.detectable(&of.null(999, &mut rng)).unwrap();
            let runs = 400;
            let seen = (0..runs)
                .filter(|_| {
                    let (f, clusters) = drawn(n, size, error, &mut rng);
                    let of = Debiased::new(&f, &clusters, &Binning::quantiles(&f, BINS)).unwrap();
                    of.p_value(&of.null(99, &mut rng)) <= 0.05
                })
                .count();
            let power = seen as f64 / f64::from(runs);
            println!("n = {n}, clusters of {size}: an error of {error:.4} is seen in {power:.3}");
            // Two and a half standard deviations of the simulation are 0.05; the rest is the approximation.
            assert!((0.7..0.9).contains(&power), "n = {n}, clusters of {size}, error {error}: {power}");
        }
    }

    #[test]
    fn pairs_that_were_found_once_give_the_value_of_any_outcomes() {
        let mut rng = stream(12, "again");
        let (f, clusters) = drawn(90, 3, 0.1, &mut rng);
        let binning = Binning::quantiles(&f, BINS);
        let pairs = Pairs::new(&clusters, &binning).unwrap();
        for _ in 0..20 {
            let outcome = |f: &Forecast| Forecast { outcome: f64::from(u8::from(rng.random::<bool>())), ..*f };
            let other: Vec<Forecast> = f.iter().map(outcome).collect();
            assert_eq!(pairs.squared(&other), Debiased::new(&other, &clusters, &binning).unwrap().value);
        }
    }

    #[test]
    fn equals_a_sum_over_pairs_of_different_clusters() {
        let (f, clusters) = drawn(60, 3, 0.1, &mut stream(8, "pairs"));
        let binning = Binning::quantiles(&f, 4);
        let mut expected = 0.0;
        for place in 0..4 {
            let of: Vec<usize> = (0..f.len()).filter(|i| binning.places()[*i] == place).collect();
            let pairs: Vec<f64> = of
                .iter()
                .flat_map(|i| of.iter().map(move |j| (*i, *j)))
                .filter(|(i, j)| clusters[*i] != clusters[*j])
                .map(|(i, j)| (f[i].confidence - f[i].outcome) * (f[j].confidence - f[j].outcome))
                .collect();
            expected += of.len() as f64 / f.len() as f64 * pairs.iter().sum::<f64>() / pairs.len() as f64;
        }
        assert!((Debiased::new(&f, &clusters, &binning).unwrap().value - expected).abs() < 1e-12);
    }

    #[test]
    fn single_items_give_the_source_s_estimate_and_variance() {
        // The formulas as in the source, for one class: 4 m^2 mean(U^2) - 3 m^4 over bins, less the square of the mean of m^2.
        let (f, clusters) = drawn(80, 1, 0.15, &mut stream(9, "source"));
        let binning = Binning::equal_width(&f, 5);
        let (mut value, mut first, mut second) = (0.0, 0.0, 0.0);
        for place in 0..5 {
            let u: Vec<f64> = f
                .iter()
                .zip(binning.places())
                .filter(|(_, p)| **p == place)
                .map(|(f, _)| f.confidence - f.outcome)
                .collect();
            let n = u.len() as f64;
            if u.len() > 1 {
                let (mean, square) = (u.iter().sum::<f64>() / n, u.iter().map(|u| u * u).sum::<f64>() / n);
                value += (n * mean * mean - square) * n / (n - 1.0) / 80.0;
                first += n / 80.0 * (4.0 * mean * mean * square - 3.0 * mean.powi(4));
                second += n / 80.0 * mean * mean;
            }
        }
        let debiased = Debiased::new(&f, &clusters, &binning).unwrap();
        assert!((debiased.value - value).abs() < 1e-14);
        assert!((debiased.se.powi(2) - (first - second * second) / 80.0 * 80.0 / 79.0).abs() < 1e-14);
    }

    #[test]
    fn nothing_and_one_cluster_say_nothing() {
        let f = [Forecast { confidence: 0.9, outcome: 0.0 }; 3];
        assert_eq!(Debiased::new(&[], &[], &Binning::quantiles(&[], BINS)), None);
        let one = Debiased::new(&f, &[0; 3], &Binning::quantiles(&f, BINS)).unwrap();
        let null = one.null(99, &mut stream(1, "one"));
        assert_eq!((one.value, one.p_value(&null), one.detectable(&null)), (0.0, 1.0, None));
        assert_eq!(ferro_fricker(&[], &Binning::quantiles(&[], BINS)), None);
    }

    proptest! {
        #[test]
        fn the_older_form_is_the_square_of_the_debiased_error(
            pairs in proptest::collection::vec((0.0_f64..=1.0, any::<bool>()), 1..60)
        ) {
            let f: Vec<Forecast> =
                pairs.iter().map(|(c, o)| Forecast { confidence: *c, outcome: f64::from(u8::from(*o)) }).collect();
            let squared = ferro_fricker(&f, &Binning::equal_width(&f, BINS)).unwrap();
            let root = debiased_ece(&bin(f.iter().map(|f| (*f, 1.0)))).unwrap();
            prop_assert!((squared.max(0.0).sqrt() - root).abs() < 1e-9);
        }
    }
}
