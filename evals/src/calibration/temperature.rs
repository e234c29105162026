//! What one temperature for all scores would repair.

use rand::Rng;
use rand::seq::SliceRandom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::interval::Interval;
use super::{DRAWS, renumbered};
use crate::diagnosis::Estimate;
use crate::stats::bootstrap::resample_clusters;
use crate::stats::calibration::{Forecast, bin, ece};
use crate::stats::temperature::{BOUNDS, Scores, fit, fit_from};

/// What dividing all scores by one number gains.
///
/// A temperature far from 1 at unchanged area under the ROC curve is sharpening, which scaling repairs; a lower area is information lost,
/// which it does not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TemperatureGap {
    /// Temperature with the least negative log-likelihood on the development half, above 1 where the model is too sure; n is that half's.
    pub temperature: Estimate,
    /// Whether it lies at the end of the range that was searched: nothing inside is best.
    pub is_at_bound: bool,
    /// Expected calibration error (10 bins of equal width) of the other half as it is.
    pub ece: f64,
    /// The same at the fitted temperature.
    pub ece_scaled: f64,
    /// What the temperature gains, `ece - ece_scaled`, from -1 to 1; n is the other half's.
    pub gain: Estimate,
}

/// Fits a temperature on half of the clusters, drawn at random, and measures what it does to the other half; `None` with fewer than two
/// clusters, or where no temperature is better than another.
///
/// [`super::measure`] does this with confidences; with the log-likelihoods of a closed set ([`Scores::closed_set`]) it is the temperature of the
/// softmax. Both intervals resample the clusters of both halves, so that the gain's holds the uncertainty of the fit as well.
pub fn temperature_gap(scores: &[Scores], clusters: &[usize], rng: &mut impl Rng) -> Option<TemperatureGap> {
    let clusters = renumbered(clusters);
    let n_clusters = clusters.iter().max().map_or(0, |last| last + 1);
    let mut order: Vec<usize> = (0..n_clusters).collect();
    order.shuffle(rng);
    let mut is_development = vec![false; n_clusters];
    order[..n_clusters / 2].iter().for_each(|cluster| is_development[*cluster] = true);

    let half = |development: bool| -> (Vec<Scores>, Vec<usize>) {
        let of = scores.iter().zip(&clusters).filter(|(_, cluster)| is_development[**cluster] == development);
        let (scores, clusters): (Vec<Scores>, Vec<usize>) =
            of.map(|(scores, cluster)| (scores.clone(), *cluster)).unzip();
        (scores, renumbered(&clusters))
    };
    let ((development, of_development), (test, of_test)) = (half(true), half(false));
    let fitted = fit(&development, |_| 1.0)?;
    let forecasts = |temperature: f64| -> Vec<Forecast> { test.iter().map(|of| of.forecast(temperature)).collect() };
    let error = |of: &[Forecast], weight: &dyn Fn(usize) -> f64| {
        ece(&bin(of.iter().enumerate().map(|(i, forecast)| (*forecast, weight(i)))))
    };
    let as_is = forecasts(1.0);
    let (before, after) = (error(&as_is, &|_| 1.0)?, error(&forecasts(fitted.temperature), &|_| 1.0)?);

    let n_halves = [n_clusters / 2, n_clusters - n_clusters / 2];
    let temperatures: Vec<Option<f64>> = resample_clusters(n_halves[0], DRAWS, rng, |counts| {
        fit_from(fitted.temperature, &development, |i| counts[of_development[i]]).map(|fitted| fitted.temperature)
    });
    let mut draw = 0;
    let gains = resample_clusters(n_halves[1], DRAWS, rng, |counts| {
        let weight = |i: usize| counts[of_test[i]];
        draw += 1;
        Some(error(&as_is, &weight)? - error(&forecasts(temperatures[draw - 1]?), &weight)?)
    });
    let known = |values: Vec<Option<f64>>| values.into_iter().flatten().collect::<Vec<f64>>();
    let gain = (-1.0, 1.0);
    Some(TemperatureGap {
        temperature: Interval::Percentile.within(
            fitted.temperature,
            &known(temperatures),
            development.len(),
            n_halves[0],
            BOUNDS,
        ),
        is_at_bound: fitted.is_at_bound,
        ece: before,
        ece_scaled: after,
        gain: Interval::Percentile.within(before - after, &known(gains), test.len(), n_halves[1], gain),
    })
}

#[cfg(test)]
mod tests {
    use super::temperature_gap;
    use crate::random::{normal, stream};
    use crate::stats::temperature::Scores;
    use rand::Rng;

    #[test]
    fn a_planted_temperature_is_found_and_undone() {
        let mut rng = stream(4, "sharp");
        // Scores that are right at temperature 2.5, as after RLHF; two questions of each cluster.
        let (scores, clusters): (Vec<Scores>, Vec<usize>) = (0..800)
            .map(|i| {
                let scores: Vec<f64> = (0..4).map(|_| 5.0 * normal(&mut rng)).collect();
                let total: f64 = scores.iter().map(|s| (s / 2.5).exp()).sum();
                let mut rest = rng.random::<f64>() * total;
                let right = scores.iter().position(|s| {
                    rest -= (s / 2.5).exp();
                    rest < 0.0
                });
                (Scores::closed_set(&scores, right.unwrap_or(3)).unwrap(), i / 2)
            })
            .unzip();
        let gap = temperature_gap(&scores, &clusters, &mut rng).unwrap();
        assert!(gap.temperature.low <= 2.5 && 2.5 <= gap.temperature.high && gap.temperature.low > 1.5, "{gap:?}");
        assert!(gap.gain.low > 0.0 && gap.ece_scaled < gap.ece && !gap.is_at_bound, "{gap:?}");
        assert_eq!((gap.temperature.n, gap.gain.n), (400, 400));
        assert_eq!(temperature_gap(&scores[..1], &[0], &mut rng), None);
    }
}
