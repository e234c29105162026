//! What a perfectly calibrated model with the same confidences would show: consistency resampling.

use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bootstrap::at;
use super::calibration::Forecast;

/// Values of a statistic where the model is calibrated, beside the value that was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Null {
    /// Mean.
    pub mean: f64,
    /// 5th percentile.
    pub low: f64,
    /// 95th percentile.
    pub high: f64,
    /// `(1 + number at least as bad as what was measured) / (draws + 1)`.
    pub p_value: f64,
    /// Number of draws.
    pub draws: usize,
}

/// Which values speak against calibration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worse {
    /// Large ones: an error.
    High,
    /// Small ones: an area under the ROC curve.
    Low,
    /// Those far from 0: a signed error.
    Far,
}

impl Null {
    /// From the measured value and the statistic of each draw; `None` without draws. Draws in which it has no value do not count.
    ///
    /// # Reference
    /// Davison and Hinkley 1997, *Bootstrap Methods and their Application*, section 4.2.1 (the 1 that is added keeps the test exact).
    pub fn new(measured: f64, values: impl IntoIterator<Item = Option<f64>>, worse: Worse) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().flatten().collect();
        if values.is_empty() {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let draws = values.len();
        // Sums of the same numbers in another order differ in their last bits: equal is equal but for those.
        let slack = 1e-12;
        let as_bad = |value: &&f64| match worse {
            Worse::High => **value >= measured - slack,
            Worse::Low => **value <= measured + slack,
            Worse::Far => value.abs() >= measured.abs() - slack,
        };
        let n_as_bad = values.iter().filter(as_bad).count();
        Some(Self {
            mean: values.iter().sum::<f64>() / draws as f64,
            low: at(&values, 0.05),
            high: at(&values, 0.95),
            p_value: (1 + n_as_bad) as f64 / (draws + 1) as f64,
            draws,
        })
    }
}

/// `statistic` of `draws` sets of outcomes drawn as `Bernoulli(confidence)`; it gets the number of the draw as well.
///
/// # Reference
/// Bröcker and Smith 2007, *Weather and Forecasting* 22 (consistency resampling).
///
/// # Deviations
/// An outcome that is known odds, not 0 or 1, has no chance in it: a calibrated model's confidence equals it, and it is
/// drawn as such. Items are drawn one by one, also where they belong to one cluster: dependence between them widens the null beyond
/// this one ([`super::debiased::Debiased::p_value`] allows for it).
pub fn calibrated_draws<T>(
    forecasts: &[Forecast],
    draws: usize,
    rng: &mut impl Rng,
    mut statistic: impl FnMut(usize, &[Forecast]) -> T,
) -> Vec<T> {
    let mut drawn = forecasts.to_vec();
    (0..draws)
        .map(|draw| {
            for (drawn, f) in drawn.iter_mut().zip(forecasts) {
                let certain = f.outcome == 0.0 || f.outcome == 1.0;
                drawn.outcome =
                    if certain { f64::from(u8::from(rng.random::<f64>() < f.confidence)) } else { f.confidence };
            }
            statistic(draw, &drawn)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Null, Worse, calibrated_draws};
    use crate::random::stream;
    use crate::stats::bins::Binning;
    use crate::stats::calibration::{Forecast, ece};
    use crate::stats::smooth_ece::smooth_ece;
    use rand::Rng;

    #[test]
    fn the_observed_value_counts_as_one_of_the_draws() {
        let values = || [0.1, 0.2, 0.3, 0.4].map(Some);
        let p = |measured, worse| Null::new(measured, values(), worse).unwrap().p_value;
        assert_eq!((p(0.3, Worse::High), p(0.5, Worse::High), p(0.0, Worse::High)), (0.6, 0.2, 1.0));
        assert_eq!((p(0.3, Worse::Low), p(-0.3, Worse::Far)), (0.8, 0.6));
        assert_eq!(Null::new(0.1, [None, None], Worse::High), None);
    }

    #[test]
    fn p_values_of_calibrated_models_are_uniform() {
        let mut rng = stream(5, "uniform");
        let error = |f: &[Forecast]| ece(&Binning::equal_width(f, 10).sums(f));
        let mut low = [0; 3];
        for _ in 0..1000 {
            let f: Vec<Forecast> = (0..60)
                .map(|_| {
                    let confidence: f64 = rng.random();
                    Forecast { confidence, outcome: f64::from(u8::from(rng.random::<f64>() < confidence)) }
                })
                .collect();
            let values = calibrated_draws(&f, 99, &mut rng, |_, f| error(f));
            let p = Null::new(error(&f).unwrap(), values, Worse::High).unwrap().p_value;
            for (low, level) in low.iter_mut().zip([0.05, 0.2, 0.5]) {
                *low += i32::from(p <= level);
            }
        }
        // Two and a half standard deviations of a binomial with 1,000 trials.
        for (low, level) in low.iter().zip([0.05, 0.2, 0.5_f64]) {
            let allowed = 2500.0 * (level * (1.0 - level) / 1000.0).sqrt();
            assert!((f64::from(*low) - 1000.0 * level).abs() < allowed, "{low} of 1000 at {level}");
        }
    }

    #[test]
    fn the_published_table_of_null_values_is_reproduced() {
        // n, equal width 10 (mean and 95th percentile), equal width 15, equal mass 15, smooth. The table does not say which confidences it is
        // of; uniform ones on (.3, 1) give it within 5 %, those on (.25, 1) values that are 4 % larger.
        let table = [
            (100, 0.091, 0.131, 0.110, 0.131, 0.059),
            (200, 0.065, 0.092, 0.079, 0.091, 0.047),
            (500, 0.041, 0.060, 0.050, 0.058, 0.036),
            (1000, 0.029, 0.042, 0.035, 0.041, 0.027),
            (2000, 0.020, 0.029, 0.024, 0.029, 0.021),
        ];
        let mut rng = stream(6, "table");
        for (n, width_10, width_10_high, width_15, mass_15, smooth) in table {
            let draws = 1000;
            let values: Vec<[f64; 4]> = (0..draws)
                .map(|draw| {
                    let f: Vec<Forecast> = (0..n)
                        .map(|_| {
                            let confidence = 0.3 + 0.7 * rng.random::<f64>();
                            Forecast { confidence, outcome: f64::from(u8::from(rng.random::<f64>() < confidence)) }
                        })
                        .collect();
                    let error = |binning: Binning| ece(&binning.sums(&f)).unwrap();
                    let smooth = if draw < 200 { smooth_ece(&f).unwrap().value } else { f64::NAN };
                    [
                        error(Binning::equal_width(&f, 10)),
                        error(Binning::equal_width(&f, 15)),
                        error(Binning::quantiles(&f, 15)),
                        smooth,
                    ]
                })
                .collect();
            let null = |column: usize| {
                let of = values.iter().map(|row| Some(row[column]).filter(|v| v.is_finite()));
                Null::new(0.0, of, Worse::High).unwrap()
            };
            let got = [null(0).mean, null(0).high, null(1).mean, null(2).mean, null(3).mean];
            for (got, expected) in got.iter().zip([width_10, width_10_high, width_15, mass_15, smooth]) {
                assert!((got / expected - 1.0).abs() < 0.08, "n = {n}: {got:.4} is not {expected}");
            }
            println!("{n}: {got:.4?}");
        }
    }
}
