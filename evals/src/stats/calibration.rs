//! Does stated confidence equal the share that is right?

use rand::Rng;

use super::consistency::{Null, Worse, calibrated_draws};

/// Number of equal-width bins of confidence.
pub const N_BINS: usize = 10;

/// One forecast: how sure the model was and how far that was justified.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forecast {
    /// Probability given to the chosen answer.
    pub confidence: f64,
    /// 1 where the answer was right, 0 where wrong, the known odds where only those are known.
    pub outcome: f64,
}

/// Sums over one bin of confidence.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bin {
    /// Sum of weights.
    pub n: f64,
    /// Weighted sum of confidence.
    pub confidence: f64,
    /// Weighted sum of outcomes.
    pub outcome: f64,
}

/// Sorts forecasts into ten equal-width bins, each with its weight (1, or how often its cluster was drawn).
pub fn bin(forecasts: impl IntoIterator<Item = (Forecast, f64)>) -> [Bin; N_BINS] {
    let mut bins = [Bin::default(); N_BINS];
    for (forecast, weight) in forecasts {
        let place = bin_of(forecast.confidence);
        bins[place].n += weight;
        bins[place].confidence += weight * forecast.confidence;
        bins[place].outcome += weight * forecast.outcome;
    }
    bins
}

/// Sorts forecasts into ten bins of as many each; fewer where a bin would have less than two. Of equal confidences, which come first
/// falls into the lower bin; [`super::bins::Binning::quantiles`] keeps them together.
pub fn equal_mass_bins(forecasts: &[Forecast]) -> Vec<Bin> {
    let mut sorted = forecasts.to_vec();
    sorted.sort_by(|a, b| a.confidence.total_cmp(&b.confidence));
    let n_bins = (sorted.len() / 2).clamp(1, N_BINS);
    let edge = |place: usize| place * sorted.len() / n_bins;
    let sum = |of: &[Forecast]| Bin {
        n: of.len() as f64,
        confidence: of.iter().map(|forecast| forecast.confidence).sum(),
        outcome: of.iter().map(|forecast| forecast.outcome).sum(),
    };
    (0..n_bins).map(|place| sum(&sorted[edge(place)..edge(place + 1)])).collect()
}

/// The bin that a confidence falls in; 1 belongs to the last.
pub fn bin_of(confidence: f64) -> usize {
    ((confidence * N_BINS as f64) as usize).min(N_BINS - 1)
}

/// Expected calibration error `sum_k (n_k/n) |acc_k - conf_k|`; `None` without forecasts.
///
/// # Reference
/// Naeini et al. 2015, AAAI; Guo et al. 2017, arXiv 1706.04599, eq. 3. Never 0 on finite data: see [`null_error`].
pub fn ece(bins: &[Bin]) -> Option<f64> {
    let n: f64 = bins.iter().map(|b| b.n).sum();
    (n > 0.0).then(|| bins.iter().map(|b| (b.outcome - b.confidence).abs()).sum::<f64>() / n)
}

/// [`ece`] of forecasts in ten bins of equal width, each counted once.
pub fn ece_of(forecasts: &[Forecast]) -> Option<f64> {
    ece(&bin(forecasts.iter().map(|forecast| (*forecast, 1.0))))
}

/// The same with each forecast counted as often as its cluster was drawn.
pub fn resampled_ece(forecasts: &[Forecast], clusters: &[usize], counts: &[f64]) -> Option<f64> {
    ece(&bin(forecasts.iter().zip(clusters).map(|(forecast, cluster)| (*forecast, counts[*cluster]))))
}

/// Root of the debiased squared calibration error `sum_k (n_k/n) ((acc_k - conf_k)^2 - acc_k (1 - acc_k) / (n_k - 1))`; `None`
/// without forecasts.
///
/// What chance alone adds to each bin is taken off, so that a calibrated model scores 0 on average before the root; less than 0
/// counts as 0. Outcomes must be 0 or 1.
///
/// Bins should be of [equal mass](equal_mass_bins), as in the source: of a bin with a single forecast nothing can be taken off, and with
/// bins of equal width, most forecasts near 0 and 1, those few in the middle are most of the error of a calibrated model.
///
/// # Reference
/// Kumar, Liang and Ma 2019, arXiv 1909.10155, section 5.
pub fn debiased_ece(bins: &[Bin]) -> Option<f64> {
    let n: f64 = bins.iter().map(|b| b.n).sum();
    let error = |bin: &Bin| {
        let (accuracy, confidence) = (bin.outcome / bin.n, bin.confidence / bin.n);
        let by_chance = if bin.n > 1.0 { accuracy * (1.0 - accuracy) / (bin.n - 1.0) } else { 0.0 };
        bin.n / n * ((accuracy - confidence).powi(2) - by_chance)
    };
    (n > 0.0).then(|| bins.iter().filter(|bin| bin.n > 0.0).map(error).sum::<f64>().max(0.0).sqrt())
}

/// Signed error: mean confidence - share right; positive is over-confident.
pub fn overconfidence(forecasts: &[Forecast]) -> Option<f64> {
    mean(forecasts.iter().map(|f| f.confidence - f.outcome))
}

/// Brier score of the chosen answer being right: `mean (confidence - outcome)^2`.
///
/// # Reference
/// Brier 1950, *Monthly Weather Review* 78.
pub fn brier(forecasts: &[Forecast]) -> Option<f64> {
    mean(forecasts.iter().map(|f| (f.confidence - f.outcome).powi(2)))
}

/// The error that a perfectly calibrated model with these confidences would score: mean and 95th percentile over `draws`.
///
/// Outcomes are drawn as `Bernoulli(confidence)`. A measured error below the 95th percentile shows no miscalibration.
///
/// # Reference
/// Bröcker and Smith 2007, *Weather and Forecasting* 22 (consistency resampling); bias: Roelofs et al. 2022, arXiv 2012.08668.
///
/// # Deviations
/// See [`calibrated_draws`]; [`Null`] has the p-value as well.
pub fn null_error(
    error: impl Fn(&[Forecast]) -> Option<f64>,
    forecasts: &[Forecast],
    draws: usize,
    rng: &mut impl Rng,
) -> Option<(f64, f64)> {
    let values = calibrated_draws(forecasts, draws, rng, |_, drawn| error(drawn));
    let null = Null::new(f64::INFINITY, values, Worse::High)?;
    Some((null.mean, null.high))
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (n, sum) = values.fold((0_u32, 0.0), |(n, sum), v| (n + 1, sum + v));
    (n > 0).then(|| sum / f64::from(n))
}

#[cfg(test)]
mod tests {
    use super::{Forecast, bin, bin_of, brier, debiased_ece, ece, ece_of, equal_mass_bins, null_error, overconfidence};
    use crate::random::stream;
    use proptest::prelude::*;
    use rand::Rng;

    fn forecasts(pairs: &[(f64, f64)]) -> Vec<Forecast> {
        pairs.iter().map(|&(confidence, outcome)| Forecast { confidence, outcome }).collect()
    }

    #[test]
    fn equals_a_worked_example() {
        // numpy: bins .8-.9 {.85,.85 -> 1,0}, .5-.6 {.55 -> 1}, .9-1 {1. -> 1}
        let f = forecasts(&[(0.85, 1.0), (0.85, 0.0), (0.55, 1.0), (1.0, 1.0)]);
        assert!((ece_of(&f).unwrap() - (0.7 + 0.45) / 4.0).abs() < 1e-12);
        assert!((overconfidence(&f).unwrap() - (3.25 - 3.0) / 4.0).abs() < 1e-12);
        assert!((brier(&f).unwrap() - (0.0225 + 0.7225 + 0.2025) / 4.0).abs() < 1e-12);
    }

    #[test]
    fn the_last_bin_holds_certainty() {
        assert_eq!((bin_of(0.0), bin_of(0.0999), bin_of(0.95), bin_of(1.0)), (0, 0, 9, 9));
    }

    #[test]
    fn a_calibrated_model_scores_the_published_bias() {
        // Equal-width 10, n = 500: mean .041, 95th percentile .060, with confidences uniform on (.25, 1).
        let mut rng = stream(3, "null");
        let f: Vec<Forecast> =
            (0..500).map(|_| Forecast { confidence: 0.25 + 0.75 * rng.random::<f64>(), outcome: 1.0 }).collect();
        let (mean, high) = null_error(ece_of, &f, 500, &mut rng).unwrap();
        assert!((mean - 0.041).abs() < 0.01 && (high - 0.060).abs() < 0.012, "{mean} {high}");
    }

    #[test]
    fn the_debiased_error_finds_what_is_there_and_not_what_chance_adds() {
        // Ten forecasts of 0.75 with 5 right: (0.5 - 0.75)^2 - 0.25/9.
        let f: Vec<Forecast> =
            (0..10).map(|i| Forecast { confidence: 0.75, outcome: f64::from(u8::from(i < 5)) }).collect();
        let error = debiased_ece(&bin(f.iter().map(|f| (*f, 1.0)))).unwrap();
        assert_eq!(equal_mass_bins(&f).iter().map(|bin| bin.n).collect::<Vec<_>>(), [2.0; 5]);
        assert!((error - (0.0625_f64 - 0.25 / 9.0).sqrt()).abs() < 1e-12, "{error}");
        let mut rng = stream(4, "debiased");
        let squared = |shift: f64, rng: &mut rand_chacha::ChaCha8Rng| {
            let mut draw = || {
                let confidence: f64 = 0.1 + 0.8 * rng.random::<f64>();
                Forecast { confidence, outcome: f64::from(u8::from(rng.random::<f64>() < confidence - shift)) }
            };
            let drawn: Vec<Forecast> = (0..200).map(|_| draw()).collect();
            debiased_ece(&equal_mass_bins(&drawn)).unwrap().powi(2)
        };
        let mean =
            |shift: f64, rng: &mut rand_chacha::ChaCha8Rng| (0..200).map(|_| squared(shift, rng)).sum::<f64>() / 200.0;
        assert!(mean(0.0, &mut rng) < 0.003);
        assert!((mean(0.1, &mut rng) - 0.01).abs() < 0.002);
    }

    #[test]
    fn nothing_forecast_is_no_answer() {
        assert_eq!(ece(&bin([])), None);
        assert_eq!((brier(&[]), debiased_ece(&bin([])), debiased_ece(&equal_mass_bins(&[]))), (None, None, None));
        assert_eq!(null_error(|f| debiased_ece(&equal_mass_bins(f)), &[], 10, &mut stream(1, "none")), None);
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_bounds_hold(pairs in proptest::collection::vec((0.0_f64..=1.0, 0_u8..=1), 1..40)) {
            let f: Vec<Forecast> =
                pairs.iter().map(|(c, o)| Forecast { confidence: *c, outcome: f64::from(*o) }).collect();
            let reversed: Vec<Forecast> = f.iter().rev().copied().collect();
            prop_assert!((ece_of(&f).unwrap() - ece_of(&reversed).unwrap()).abs() < 1e-12);
            prop_assert!((0.0..=1.0).contains(&ece_of(&f).unwrap()));
            prop_assert!(overconfidence(&f).unwrap().abs() <= ece_of(&f).unwrap() + 1e-12, "the signed error is the smaller");
        }
    }
}
