//! How far each measure can be trusted.

use super::Measured;
use crate::diagnosis::Estimate;
use crate::stats::bootstrap::percentile_interval;
use crate::stats::clustered::clustered_mean;
use crate::stats::normal::Z_95;
use crate::stats::wilson::wilson;

/// Why an interval is as wide as it can be.
pub(super) const ONE_CLUSTER: &str = "one cluster: not known";

/// How an interval is made from resamples.
#[derive(Debug, Clone, Copy)]
pub(super) enum Interval {
    /// For what a resample biases again: `estimate - bias +- 1.96 standard deviations` of the resamples (Davison and Hinkley 1997, section 5.2),
    /// at least those of a calibrated model, which are given: answers that are all right show no spread.
    Corrected(f64),
    /// For what has no bias to speak of.
    Percentile,
}

impl Interval {
    pub(super) fn estimate(self, value: f64, draws: &[f64], n: usize, n_clusters: usize) -> Estimate {
        self.within(value, draws, n, n_clusters, (0.0, 1.0))
    }

    pub(super) fn within(self, value: f64, draws: &[f64], n: usize, n_clusters: usize, range: (f64, f64)) -> Estimate {
        let found = percentile_interval(draws).filter(|_| n_clusters > 1);
        let ((low, high), method) = match (found, self) {
            (None, _) => (range, ONE_CLUSTER),
            (Some(interval), Self::Percentile) => (interval, "bootstrap"),
            (Some(_), Self::Corrected(least)) => {
                let (mean, sd) = mean_and_sd(draws);
                let (centre, half) = (2.0 * value - mean, Z_95 * sd.max(least));
                ((centre - half, centre + half), "bias-corrected bootstrap")
            }
        };
        let inside = |limit: f64| limit.clamp(range.0, range.1);
        Estimate { value, low: inside(low), high: inside(high), n, method: method.to_owned() }
    }
}

pub(super) fn mean_and_sd(values: &[f64]) -> (f64, f64) {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n).sqrt())
}

/// An error whose interval begins at 0 where calibration is not rejected: no resample tells an error of 0 from one that is small.
pub(super) fn with_zero(mut error: Measured) -> Measured {
    if error.null.p_value > 0.05 {
        error.estimate.low = 0.0;
    }
    error
}

/// Of a share among a part of the answers: Wilson's interval takes answers as independent, but knows that none wrong is not never wrong.
pub(super) fn no_narrower_than_wilson(mut share: Measured, part: f64) -> Measured {
    let (low, high) = wilson(share.estimate.value, (part * share.estimate.n as f64).ceil());
    share.estimate.low = share.estimate.low.min(low);
    share.estimate.high = share.estimate.high.max(high);
    share
}

/// A mean with its clustered interval, its standard error at least that of a calibrated model.
pub(super) fn clustered(values: &[f64], clusters: &[usize], least: f64, range: (f64, f64)) -> Option<Estimate> {
    let mean = clustered_mean(values, clusters)?;
    let half = Z_95 * mean.se.max(least);
    let ((low, high), method) =
        if mean.n_clusters > 1 { ((mean.mean - half, mean.mean + half), "clustered") } else { (range, ONE_CLUSTER) };
    let inside = |limit: f64| limit.clamp(range.0, range.1);
    Some(Estimate { value: mean.mean, low: inside(low), high: inside(high), n: mean.n, method: method.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::super::Measured;
    use super::{Interval, clustered, with_zero};
    use crate::random::stream;
    use crate::stats::bins::Binning;
    use crate::stats::bootstrap::resample_clusters;
    use crate::stats::calibration::{Forecast, ece};
    use crate::stats::consistency::{Null, Worse, calibrated_draws};
    use rand::Rng;

    #[test]
    fn corrected_intervals_hold_the_true_error_of_bins_about_nine_times_in_ten() {
        let mut rng = stream(3, "basic");
        // An exact rule at 0; beside it the bias of a plug-in error is corrected only in part.
        for (n, shift, least) in [(200, 0.0, 182), (200, 0.1, 166), (200, 0.2, 166), (800, 0.1, 166)] {
            let mut covered = 0;
            for _ in 0..200 {
                let f: Vec<Forecast> = (0..n)
                    .map(|_| {
                        let confidence = 0.3 + 0.7 * rng.random::<f64>();
                        let outcome = f64::from(u8::from(rng.random::<f64>() < confidence - shift));
                        Forecast { confidence, outcome }
                    })
                    .collect();
                let binning = Binning::quantiles(&f, 10);
                let draws = resample_clusters(n, 200, &mut rng, |counts| {
                    ece(&binning.weighted_sums(&f, |i| counts[i])).unwrap()
                });
                let error = |f: &[Forecast]| ece(&binning.sums(f));
                let value = error(&f).unwrap();
                let nulls = calibrated_draws(&f, 99, &mut rng, |_, f| error(f));
                let null = Null::new(value, nulls, Worse::High).unwrap();
                let estimate = Interval::Corrected(0.0).estimate(value, &draws, n, n);
                let held = with_zero(Measured { estimate, null }).estimate;
                covered += i32::from(held.low <= shift && shift <= held.high);
            }
            println!("n = {n}, error {shift}: {covered} of 200");
            assert!(covered >= least, "n = {n}, error {shift}: {covered} of 200");
        }
    }

    #[test]
    fn answers_that_are_all_right_leave_an_interval() {
        let residuals = [-0.01; 50];
        let spread = (0.01 * 0.99 / 50.0_f64).sqrt();
        let lean = clustered(&residuals, &(0..50).collect::<Vec<_>>(), spread, (-1.0, 1.0)).unwrap();
        assert!(lean.low < -0.03 && lean.high > 0.01, "{lean:?}");
        let error = Interval::Corrected(0.02).estimate(0.01, &[0.01; 100], 50, 50);
        assert!((error.high - (0.01 + 1.96 * 0.02)).abs() < 1e-4 && error.low == 0.0, "{error:?}");
    }
}
