//! Squared calibration error without what chance adds, and how far it can be trusted.

use std::collections::BTreeMap;

use rand::Rng;

use super::bins::Binning;
use super::calibration::Forecast;
use super::normal::Z_95;

/// One-sided 95 % quantile of the normal distribution.
const Z_ONE_SIDED: f64 = 1.644_853_626_951_472_2;

/// Lower end of an interval that does not hold 0: greater than 0, however little.
const ABOVE_ZERO: f64 = 1e-12;

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
    /// Sum of `U` by bin and cluster, each bin's divided by the root of what its part of `value` is multiplied with.
    scaled: Vec<Vec<(usize, f64)>>,
    n_clusters: usize,
}

impl Debiased {
    /// Of forecasts in bins, with the cluster of each; `None` without forecasts.
    pub fn new(forecasts: &[Forecast], clusters: &[usize], binning: &Binning) -> Option<Self> {
        let n = forecasts.len() as f64;
        if forecasts.is_empty() {
            return None;
        }
        let n_clusters = clusters.iter().max().map_or(0, |largest| largest + 1);
        let mut cells = vec![BTreeMap::<usize, (f64, f64)>::new(); binning.n_bins()];
        for ((forecast, cluster), place) in forecasts.iter().zip(clusters).zip(binning.places()) {
            let cell = cells[*place].entry(*cluster).or_default();
            cell.0 += 1.0;
            cell.1 += forecast.confidence - forecast.outcome;
        }
        let sums = |cells: &BTreeMap<usize, (f64, f64)>| {
            cells.values().fold((0.0, 0.0), |sum, cell| (sum.0 + cell.0, sum.1 + cell.1))
        };
        let means: Vec<f64> = cells.iter().map(sums).map(|(n, sum)| if n > 0.0 { sum / n } else { 0.0 }).collect();
        let plug_in = cells.iter().map(sums).zip(&means).map(|((n_b, _), mean)| n_b / n * mean * mean).sum::<f64>();

        // First-order influence of each cluster: the derivative of sum_b S_b^2 / (n_b n) by its sums and counts.
        let mut influence = vec![0.0; n_clusters];
        for (cells, mean) in cells.iter().zip(&means) {
            for (cluster, (n_bc, sum)) in cells {
                influence[*cluster] += (2.0 * mean * sum - n_bc * (mean * mean + plug_in)) / n;
            }
        }
        let mut used = vec![false; n_clusters];
        for cluster in clusters {
            used[*cluster] = true;
        }
        let n_used = used.iter().filter(|used| **used).count() as f64;
        let correction = if n_used > 1.0 { n_used / (n_used - 1.0) } else { 1.0 };
        let se = (correction * influence.iter().map(|v| v * v).sum::<f64>()).sqrt();

        let scaled: Vec<Vec<(usize, f64)>> = cells
            .iter()
            .filter_map(|cells| {
                let n_b: f64 = cells.values().map(|cell| cell.0).sum();
                let pairs = n_b * n_b - cells.values().map(|cell| cell.0 * cell.0).sum::<f64>();
                let scale = (n_b / n / pairs).sqrt();
                (pairs > 0.0).then(|| cells.iter().map(|(cluster, cell)| (*cluster, scale * cell.1)).collect())
            })
            .collect();
        let mut debiased = Self { value: 0.0, se, scaled, n_clusters };
        debiased.value = debiased.signed(&vec![1.0; n_clusters]);
        Some(debiased)
    }

    /// Chance of a value at least as large where the model is calibrated: `(1 + number at least as large) / (draws + 1)` over signs of
    /// whole clusters drawn at random, so that items of a cluster may hang together in any way.
    ///
    /// # Reference
    /// Liu 1988, *Annals of Statistics* 16 (wild bootstrap); for a quadratic form like this: Leucht and Neumann 2013, *J. Multivariate Analysis* 117.
    pub fn p_value(&self, draws: usize, rng: &mut impl Rng) -> f64 {
        let mut signs = vec![1.0; self.n_clusters];
        let as_large = (0..draws)
            .filter(|_| {
                for sign in &mut signs {
                    *sign = if rng.random::<bool>() { 1.0 } else { -1.0 };
                }
                self.signed(&signs) >= self.value - 1e-12
            })
            .count();
        (1 + as_large) as f64 / (draws + 1) as f64
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

    /// The estimate with the residuals of each cluster multiplied by its sign.
    fn signed(&self, signs: &[f64]) -> f64 {
        let of_bin = |cells: &Vec<(usize, f64)>| {
            let (sum, squares) = cells.iter().fold((0.0, 0.0), |(sum, squares), (cluster, scaled)| {
                (sum + signs[*cluster] * scaled, squares + scaled * scaled)
            });
            sum * sum - squares
        };
        self.scaled.iter().map(of_bin).sum()
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
    use super::{Debiased, ferro_fricker};
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
                    let (low, high) = debiased.interval(debiased.p_value(99, &mut rng));
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
        assert_eq!((one.value, one.p_value(99, &mut stream(1, "one"))), (0.0, 1.0));
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
