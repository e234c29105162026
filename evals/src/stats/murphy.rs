//! What a Brier score is made of.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bins::Binning;
use super::calibration::{Bin, Forecast};

/// Brier score `mean (f - o)^2 = reliability - resolution + uncertainty + within_variance - within_covariance`, exactly.
///
/// Reliability up at equal resolution is miscalibration; resolution down is knowledge lost.
///
/// # Reference
/// Murphy 1973, *Journal of Applied Meteorology* 12; with the two terms within bins: Stephenson, Coelho and Jolliffe 2008, *Weather and
/// Forecasting* 23, equation 6.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Murphy {
    /// `sum (n_k/n) (mean f - mean o)^2` over bins: the squared calibration error; 0 is best.
    pub reliability: f64,
    /// `sum (n_k/n) (mean o of the bin - mean o)^2`: how far the forecasts tell outcomes apart; more is better.
    pub resolution: f64,
    /// Variance of the outcomes, `o (1 - o)` where they are 0 and 1: no matter of the forecasts.
    pub uncertainty: f64,
    /// Mean square of `f - mean f of its bin`.
    pub within_variance: f64,
    /// Twice the mean of `(o - mean o)(f - mean f)` within bins.
    pub within_covariance: f64,
}

impl Murphy {
    /// Of forecasts in bins; `None` without forecasts.
    pub fn new(forecasts: &[Forecast], binning: &Binning) -> Option<Self> {
        let bins = binning.sums(forecasts);
        let (reliability, resolution) = reliability_and_resolution(&bins)?;
        let n = forecasts.len() as f64;
        let base = bins.iter().map(|bin| bin.outcome).sum::<f64>() / n;
        let mut parts =
            Self { reliability, resolution, uncertainty: 0.0, within_variance: 0.0, within_covariance: 0.0 };
        for (forecast, place) in forecasts.iter().zip(binning.places()) {
            let bin = bins[*place];
            let off = forecast.confidence - bin.confidence / bin.n;
            parts.uncertainty += (forecast.outcome - base).powi(2) / n;
            parts.within_variance += off * off / n;
            parts.within_covariance += 2.0 * off * (forecast.outcome - bin.outcome / bin.n) / n;
        }
        Some(parts)
    }

    /// The Brier score that the parts add up to.
    pub fn brier(&self) -> f64 {
        self.reliability - self.resolution + self.uncertainty + self.within_variance - self.within_covariance
    }
}

/// The two parts that bins alone decide; `None` where they are all empty.
pub fn reliability_and_resolution(bins: &[Bin]) -> Option<(f64, f64)> {
    let n: f64 = bins.iter().map(|bin| bin.n).sum();
    let base = bins.iter().map(|bin| bin.outcome).sum::<f64>() / n;
    let (mut reliability, mut resolution) = (0.0, 0.0);
    for bin in bins.iter().filter(|bin| bin.n > 0.0) {
        let (forecast, outcome) = (bin.confidence / bin.n, bin.outcome / bin.n);
        reliability += bin.n / n * (forecast - outcome).powi(2);
        resolution += bin.n / n * (outcome - base).powi(2);
    }
    (n > 0.0).then_some((reliability, resolution))
}

#[cfg(test)]
mod tests {
    use super::Murphy;
    use crate::stats::bins::Binning;
    use crate::stats::calibration::{Forecast, brier};
    use proptest::prelude::*;

    #[test]
    fn equals_a_worked_example() {
        // Two bins: .8 with 1 of 2 right, .2 with 0 of 2 right; base rate 1/4.
        let f: Vec<Forecast> = [(0.8, 1.0), (0.8, 0.0), (0.2, 0.0), (0.2, 0.0)]
            .map(|(confidence, outcome)| Forecast { confidence, outcome })
            .to_vec();
        let parts = Murphy::new(&f, &Binning::equal_width(&f, 10)).unwrap();
        assert!((parts.reliability - 0.065).abs() < 1e-15);
        assert!((parts.resolution - 0.0625).abs() < 1e-15);
        assert!((parts.uncertainty - 0.1875).abs() < 1e-15);
        assert!(parts.within_variance.abs() < 1e-30 && parts.within_covariance.abs() < 1e-30);
        assert_eq!(Murphy::new(&[], &Binning::equal_width(&[], 10)), None);
    }

    proptest! {
        #[test]
        fn the_parts_add_up_in_any_bins_with_any_outcomes(
            items in proptest::collection::vec((0.0_f64..=1.0, 0.0_f64..=1.0), 1..60), n_bins in 1_usize..16
        ) {
            let f: Vec<Forecast> =
                items.iter().map(|(c, o)| Forecast { confidence: *c, outcome: (o * 2.0).floor().min(1.0) }).collect();
            let odds: Vec<Forecast> = items.iter().map(|(c, o)| Forecast { confidence: *c, outcome: *o }).collect();
            for f in [&f, &odds] {
                for binning in [Binning::equal_width(f, n_bins), Binning::quantiles(f, n_bins)] {
                    let parts = Murphy::new(f, &binning).unwrap();
                    prop_assert!((parts.brier() - brier(f).unwrap()).abs() < 1e-12);
                }
            }
            let base = f.iter().map(|f| f.outcome).sum::<f64>() / f.len() as f64;
            let uncertainty = Murphy::new(&f, &Binning::equal_width(&f, n_bins)).unwrap().uncertainty;
            prop_assert!((uncertainty - base * (1.0 - base)).abs() < 1e-12);
        }
    }
}
