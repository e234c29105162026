//! The error to quote: with its interval, its p-value and what would have shown.

use rand::Rng;

use super::interval::{ONE_CLUSTER, mean_and_sd};
use super::{DRAWS, check, in_order};
use crate::Error;
use crate::diagnosis::Estimate;
use crate::stats::bins::Binning;
use crate::stats::calibration::Forecast;
use crate::stats::consistency::calibrated_draws;
use crate::stats::debiased::{Debiased, Pairs};

/// The debiased error alone, in little time.
#[derive(Debug, Clone, PartialEq)]
pub struct DebiasedError {
    /// As [`super::Calibration::debiased`].
    pub error: Estimate,
    /// P-value of calibration by it.
    pub p_value: f64,
    /// As [`super::Calibration::detectable`].
    pub detectable: Option<f64>,
}

/// Measures only the error that [`super::measure`] advises to quote; `None` without forecasts.
///
/// # Errors
/// As [`super::measure`].
pub fn debiased_error(
    forecasts: &[Forecast],
    clusters: &[usize],
    rng: &mut impl Rng,
) -> Result<Option<DebiasedError>, Error> {
    check(forecasts, clusters)?;
    let (forecasts, clusters) = &in_order(forecasts, clusters);
    let n_clusters = clusters.iter().max().map_or(0, |last| last + 1);
    let binning = Binning::quantiles(forecasts, 10);
    let debiased = Debiased::new(forecasts, clusters, &binning).zip(Pairs::new(clusters, &binning));
    Ok(debiased.map(|(mut debiased, pairs)| {
        let squares = calibrated_draws(forecasts, DRAWS, rng, |_, drawn| pairs.squared(drawn));
        let chance = Chance::new(&mut debiased, &squares, rng);
        DebiasedError {
            error: chance.estimate(&debiased, root, forecasts.len(), n_clusters),
            p_value: chance.p_value,
            detectable: chance.detectable,
        }
    }))
}

/// What chance does to the debiased squared error.
pub(super) struct Chance {
    pub(super) p_value: f64,
    pub(super) detectable: Option<f64>,
}

impl Chance {
    /// By signs of clusters, which allow for dependence in clusters, and by draws from a calibrated model, whose squared errors are given, which
    /// allow for errors that are seldom and great, as those of sure answers are: what is a miscalibration by both is one. The standard error of
    /// `debiased` becomes at least that of the draws.
    pub(super) fn new(debiased: &mut Debiased, calibrated: &[f64], rng: &mut impl Rng) -> Self {
        let by_signs = debiased.null(DRAWS, rng);
        debiased.se = debiased.se.max(mean_and_sd(calibrated).1);
        let larger = |of: fn(&Debiased, &[f64]) -> Option<f64>| {
            let (signs, draws) = (of(debiased, &by_signs)?, of(debiased, calibrated)?);
            Some(signs.max(draws))
        };
        Self {
            p_value: larger(|of, null| Some(of.p_value(null))).unwrap_or(1.0),
            detectable: larger(Debiased::detectable),
        }
    }

    pub(super) fn estimate(&self, debiased: &Debiased, scale: fn(f64) -> f64, n: usize, n_clusters: usize) -> Estimate {
        let ((low, high), method) = if n_clusters > 1 {
            (debiased.interval(self.p_value), "Sun et al. 2024")
        } else {
            ((0.0, 1.0), ONE_CLUSTER)
        };
        let value = scale(debiased.value);
        Estimate { value, low: scale(low), high: scale(high.min(1.0)), n, method: method.to_owned() }
    }
}

/// Of a squared error that may be less than 0.
pub(super) fn root(squared: f64) -> f64 {
    squared.max(0.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::super::interval::clustered;
    use super::debiased_error;
    use crate::random::stream;
    use crate::stats::bins::Binning;
    use crate::stats::calibration::Forecast;
    use crate::stats::debiased::Debiased;
    use rand::Rng;

    #[test]
    fn sure_answers_that_are_nearly_all_right_are_not_accused() {
        let mut rng = stream(5, "sure");
        let (runs, n) = (200, 120);
        let (mut accused, mut by_signs_alone, mut leaning) = (0, 0, 0);
        for _ in 0..runs {
            let f: Vec<Forecast> = (0..n)
                .map(|_| {
                    let confidence = 1.0 - 0.02 * rng.random::<f64>();
                    Forecast { confidence, outcome: f64::from(u8::from(rng.random::<f64>() < confidence)) }
                })
                .collect();
            let clusters: Vec<usize> = (0..n).collect();
            let got = debiased_error(&f, &clusters, &mut rng).unwrap().unwrap();
            assert_eq!(got.p_value > 0.05, got.error.low == 0.0);
            accused += i32::from(got.p_value <= 0.05);
            let alone = Debiased::new(&f, &clusters, &Binning::quantiles(&f, 10)).unwrap();
            by_signs_alone += i32::from(alone.p_value(&alone.null(99, &mut rng)) <= 0.05);
            let spread = f.iter().map(|f| f.confidence * (1.0 - f.confidence)).sum::<f64>().sqrt() / n as f64;
            let residuals: Vec<f64> = f.iter().map(|f| f.confidence - f.outcome).collect();
            let lean = clustered(&residuals, &clusters, spread, (-1.0, 1.0)).unwrap();
            leaning += i32::from(lean.low > 0.0 || lean.high < 0.0);
        }
        println!("of {runs}: accused {accused}, by signs alone {by_signs_alone}, leaning {leaning}");
        assert!(accused <= 17 && leaning <= 17 && by_signs_alone > 40, "{accused} {by_signs_alone} {leaning}");
    }
}
