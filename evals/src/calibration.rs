//! Whether confidence can be believed: every measure of it, with interval and with what a calibrated model would show.

mod debiased;
mod draws;
mod interval;
mod temperature;

use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::board;
use crate::diagnosis::Estimate;
use crate::stats::bootstrap::resample_clusters;
use crate::stats::calibration::Forecast;
use crate::stats::clustered::clustered_mean;
use crate::stats::consistency::{Null, Worse, calibrated_draws};
use crate::stats::debiased::{Debiased, Pairs};
use crate::stats::murphy::Murphy;
use crate::stats::reliability::{ReliabilityRow, rows, shares};
use crate::stats::selective::accuracy_at_coverage;
use crate::stats::smooth_ece::Smoother;
use crate::stats::temperature::Scores;
use debiased::{Chance, root};
use draws::{Sorted, Values};
use interval::{Interval, clustered, mean_and_sd, no_narrower_than_wilson, with_zero};

pub use debiased::{DebiasedError, debiased_error};
pub use temperature::{TemperatureGap, temperature_gap};

/// Resamples of clusters, and draws from a calibrated model.
pub const DRAWS: usize = 1000;

/// The same for the smooth error, which takes far longer than the others.
pub const SMOOTH_DRAWS: usize = 200;

/// Most points of the risk-coverage curve that are kept.
const CURVE_POINTS: usize = 100;

/// Calibration of answers whose confidence is known. Errors are in units of confidence, from 0 to 1, and 0 is best unless said otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Number of answers.
    pub n: usize,
    /// Number of clusters that they belong to.
    pub n_clusters: usize,
    /// Share right.
    pub accuracy: Estimate,
    /// Signed error: mean confidence - share right; positive is over-confident. From -1 to 1.
    pub overconfidence: Measured,
    /// Expected calibration error in 10 bins of equal width.
    pub ece_equal_width_10: Measured,
    /// The same in 15.
    pub ece_equal_width_15: Measured,
    /// Expected calibration error in 10 bins of equal mass.
    pub ece_equal_mass_10: Measured,
    /// The same in 15.
    pub ece_equal_mass_15: Measured,
    /// Largest error of 10 bins of equal width.
    pub mce: Measured,
    /// Smooth calibration error.
    pub smooth_ece: Measured,
    /// Width of the kernel that it was found at.
    pub smooth_ece_width: f64,
    /// Squared error in 10 bins of equal mass without what chance adds, in squared units: less than 0 half of the time for a calibrated model.
    pub debiased_squared: Measured,
    /// Its root, 0 where it is less than 0: the error to quote.
    pub debiased: Measured,
    /// Smallest such error, the same at every confidence, that so many answers tell from none in 80 of 100 cases; `None` where none would show.
    pub detectable: Option<f64>,
    /// Brier score of the chosen answer being right.
    pub brier: Measured,
    /// What it is made of, in 10 bins of equal width.
    pub murphy: Murphy,
    /// Reliability, with its interval.
    pub reliability: Measured,
    /// Resolution, with its interval; more is better.
    pub resolution: Measured,
    /// Area under the ROC curve of confidence against being right, 1 is best; `None` where all are right or all wrong.
    pub auroc: Option<Measured>,
    /// Share right of the answers of which it is known, here and in the next four; `None` where only odds of being right are.
    pub known_accuracy: Option<Estimate>,
    /// Share right of the surest half of them, more is better.
    pub surest_half: Option<Measured>,
    /// Area under the risk-coverage curve.
    pub aurc: Option<Measured>,
    /// The same beyond the best that any confidence could reach with this accuracy.
    pub excess_aurc: Option<Measured>,
    /// Risk-coverage curve: share answered, the surest first, and share wrong of those; at most 100 points.
    pub risk_coverage: Vec<(f64, f64)>,
    /// What a temperature fitted on half of the clusters does to the other half; `None` where there are too few.
    pub temperature: Option<TemperatureGap>,
    /// Reliability diagram in 10 bins of equal width.
    pub rows: Vec<ReliabilityRow>,
}

/// A measure beside what a calibrated model with the same confidences would show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// The measure, its 95 % interval and its n.
    pub estimate: Estimate,
    /// The same for a calibrated model, and the p-value of calibration by this measure.
    pub null: Null,
}

/// Measures the calibration of forecasts with the cluster of each (same length); `None` without forecasts.
///
/// Intervals resample clusters. A resample is biased beyond the estimate as the estimate is beyond the truth, so those of errors are
/// corrected for it, may leave out the estimate, and begin at 0 where calibration is not rejected. They hold an error of 0 as often as they should
/// and a greater one in about 89 of 100 cases; the interval to quote is that of the debiased error ([`Debiased::interval`]). Its p-value in
/// its null is the larger of that by signs of clusters and that by draws from a calibrated model.
///
/// # Errors
/// [`Error::BadForecasts`] where a confidence or an outcome is no number from 0 to 1, or the lengths differ.
pub fn measure(forecasts: &[Forecast], clusters: &[usize], rng: &mut impl Rng) -> Result<Option<Calibration>, Error> {
    check(forecasts, clusters)?;
    let (forecasts, clusters) = &in_order(forecasts, clusters);
    let sorted = Sorted::new(forecasts);
    let Some(mut smoother) = Smoother::new(forecasts) else { return Ok(None) };
    let Some(smooth) = smoother.measure(forecasts) else { return Ok(None) };
    let (Some(values), Some(mut debiased), Some(pairs), Some(murphy)) = (
        Values::new(forecasts, &sorted, Some(smooth.value), |_| 1.0),
        Debiased::new(forecasts, clusters, &sorted.mass_10),
        Pairs::new(clusters, &sorted.mass_10),
        Murphy::new(forecasts, &sorted.width_10),
    ) else {
        return Ok(None);
    };

    let nulls = calibrated_draws(forecasts, DRAWS, rng, |draw, drawn| {
        let smooth = (draw < SMOOTH_DRAWS).then(|| smoother.measure(drawn).map(|smooth| smooth.value)).flatten();
        Calibrated {
            values: Values::new(drawn, &sorted, smooth, |_| 1.0),
            squared: pairs.squared(drawn),
            shares: shares(drawn, &sorted.width_10),
        }
    });
    let n_clusters = clusters.iter().max().map_or(0, |last| last + 1);
    let mut n_drawn = 0;
    let resamples = resample_clusters(n_clusters, DRAWS, rng, |counts| {
        n_drawn += 1;
        let times = |i: usize| counts[clusters[i]];
        let smooth = if n_drawn <= SMOOTH_DRAWS { smoother.weighted(forecasts, times) } else { None };
        Values::new(forecasts, &sorted, smooth.map(|smooth| smooth.value), times)
    });

    let n = forecasts.len();
    let answers = answers(forecasts);
    let nulls_of = |pick: fn(&Values) -> Option<f64>| nulls.iter().filter_map(move |of| pick(of.values.as_ref()?));
    let spread_of = |pick| mean_and_sd(&nulls_of(pick).collect::<Vec<_>>()).1;
    let draws_of = |pick: fn(&Values) -> Option<f64>| -> Vec<f64> {
        resamples.iter().filter_map(|values| pick(values.as_ref()?)).collect()
    };
    let measured = |pick: fn(&Values) -> Option<f64>, worse, n, kind: Interval| {
        let value = pick(&values)?;
        let estimate = kind.estimate(value, &draws_of(pick), n, n_clusters);
        Some(Measured { estimate, null: Null::new(value, nulls_of(pick).map(Some), worse)? })
    };
    let error = |pick| measured(pick, Worse::High, n, Interval::Corrected(spread_of(pick))).map(with_zero);
    let selective = |pick, worse| measured(pick, worse, answers.len(), Interval::Percentile);
    let mean = |of: fn(&Forecast) -> f64, pick: fn(&Values) -> Option<f64>, worse, range: (f64, f64)| {
        let values: Vec<f64> = forecasts.iter().map(of).collect();
        let estimate = clustered(&values, clusters, spread_of(pick), range)?;
        let null = Null::new(estimate.value, nulls_of(pick).map(Some), worse)?;
        Some(Measured { estimate, null })
    };
    let outcomes = |is_meant: fn(&Forecast) -> bool| {
        let of = forecasts.iter().zip(clusters).filter(|(forecast, _)| is_meant(forecast));
        let (outcomes, clusters): (Vec<f64>, Vec<usize>) = of.map(|(of, cluster)| (of.outcome, *cluster)).unzip();
        clustered_mean(&outcomes, &clusters).as_ref().map(board::estimate)
    };

    let squares: Vec<f64> = nulls.iter().map(|of| of.squared).collect();
    let chance = Chance::new(&mut debiased, &squares, rng);
    let squared = |scale: fn(f64) -> f64| {
        let null = Null::new(scale(debiased.value), squares.iter().map(|value| Some(scale(*value))), Worse::High)?;
        let estimate = chance.estimate(&debiased, scale, n, n_clusters);
        Some(Measured { estimate, null: Null { p_value: chance.p_value, ..null } })
    };
    let calibrated: Vec<Vec<f64>> = nulls.iter().map(|of| of.shares.clone()).collect();
    let scores: Vec<Scores> = forecasts.iter().map(|forecast| Scores::binary(*forecast)).collect();
    let summary = || {
        Some(Calibration {
            n,
            n_clusters,
            accuracy: outcomes(|_| true)?,
            overconfidence: mean(|f| f.confidence - f.outcome, |v| v.overconfidence, Worse::Far, (-1.0, 1.0))?,
            ece_equal_width_10: error(|v| v.width_10)?,
            ece_equal_width_15: error(|v| v.width_15)?,
            ece_equal_mass_10: error(|v| v.mass_10)?,
            ece_equal_mass_15: error(|v| v.mass_15)?,
            mce: error(|v| v.mce)?,
            smooth_ece: error(|v| v.smooth)?,
            smooth_ece_width: smooth.width,
            debiased_squared: squared(|value| value)?,
            debiased: squared(root)?,
            detectable: chance.detectable,
            brier: mean(|f| (f.confidence - f.outcome).powi(2), |v| v.brier, Worse::High, (0.0, 1.0))?,
            murphy,
            reliability: error(|v| v.reliability)?,
            resolution: measured(|v| v.resolution, Worse::Low, n, Interval::Corrected(spread_of(|v| v.resolution)))?,
            auroc: selective(|v| v.auroc, Worse::Low),
            known_accuracy: outcomes(is_known),
            surest_half: selective(|v| v.surest_half, Worse::Low).map(|half| no_narrower_than_wilson(half, 0.5)),
            aurc: selective(|v| v.aurc, Worse::High),
            excess_aurc: selective(|v| v.excess_aurc, Worse::High),
            risk_coverage: risk_coverage(&answers),
            temperature: None,
            rows: rows(forecasts, clusters, &sorted.width_10, &calibrated),
        })
    };
    let mut summary = summary();
    if let Some(summary) = &mut summary {
        summary.temperature = temperature_gap(&scores, clusters, rng);
    }
    Ok(summary)
}

/// A draw from a calibrated model.
struct Calibrated {
    values: Option<Values>,
    /// Debiased squared error.
    squared: f64,
    /// Share right in each bin.
    shares: Vec<f64>,
}

/// Confidence and whether it was right, of those forecasts of which that is known.
fn answers(forecasts: &[Forecast]) -> Vec<(f64, bool)> {
    forecasts.iter().filter(|f| is_known(f)).map(|f| (f.confidence, f.outcome == 1.0)).collect()
}

fn is_known(forecast: &Forecast) -> bool {
    forecast.outcome == 0.0 || forecast.outcome == 1.0
}

/// Share answered and share wrong of those, thinned to [`CURVE_POINTS`], the last point always among them.
fn risk_coverage(answers: &[(f64, bool)]) -> Vec<(f64, f64)> {
    let curve = accuracy_at_coverage(answers);
    let n_points = curve.len().min(CURVE_POINTS);
    (1..=n_points)
        .map(|point| curve[point * curve.len() / n_points - 1])
        .map(|(coverage, accuracy)| (coverage, 1.0 - accuracy))
        .collect()
}

/// Forecasts in order of confidence, the highest first, each with its cluster.
fn in_order(forecasts: &[Forecast], clusters: &[usize]) -> (Vec<Forecast>, Vec<usize>) {
    let mut both: Vec<(Forecast, usize)> = forecasts.iter().copied().zip(renumbered(clusters)).collect();
    both.sort_by(|(a, _), (b, _)| b.confidence.total_cmp(&a.confidence));
    both.into_iter().unzip()
}

/// Clusters numbered from 0 without gaps, in their order.
fn renumbered(clusters: &[usize]) -> Vec<usize> {
    let mut known = clusters.to_vec();
    known.sort_unstable();
    known.dedup();
    clusters.iter().map(|cluster| known.partition_point(|other| other < cluster)).collect()
}

fn check(forecasts: &[Forecast], clusters: &[usize]) -> Result<(), Error> {
    if forecasts.len() != clusters.len() {
        let reason = format!("{} forecasts, but {} clusters", forecasts.len(), clusters.len());
        return Err(Error::BadForecasts { reason });
    }
    for (i, forecast) in forecasts.iter().enumerate() {
        for (key, value) in [("confidence", forecast.confidence), ("outcome", forecast.outcome)] {
            if !(0.0..=1.0).contains(&value) {
                let reason = format!("forecast {i}: {key} = {value}, expected a number from 0 to 1");
                return Err(Error::BadForecasts { reason });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Calibration, Measured, check, debiased_error, measure, renumbered, risk_coverage};
    use crate::random::stream;
    use crate::stats::calibration::Forecast;
    use rand::Rng;

    fn answered(n: usize, shift: f64, name: &str) -> (Vec<Forecast>, Vec<usize>) {
        let mut rng = stream(1, name);
        let forecasts = (0..n)
            .map(|_| {
                let confidence = 0.3 + 0.7 * rng.random::<f64>();
                Forecast { confidence, outcome: f64::from(u8::from(rng.random::<f64>() < confidence - shift)) }
            })
            .collect();
        (forecasts, (0..n).collect())
    }

    #[test]
    fn every_measure_has_n_an_interval_around_it_and_a_null() {
        let (f, clusters) = answered(300, 0.15, "shifted");
        let got = measure(&f, &clusters, &mut stream(1, "measure")).unwrap().unwrap();
        let all = [
            &got.overconfidence,
            &got.ece_equal_width_10,
            &got.ece_equal_width_15,
            &got.ece_equal_mass_10,
            &got.ece_equal_mass_15,
            &got.mce,
            &got.smooth_ece,
            &got.debiased_squared,
            &got.debiased,
            &got.brier,
            &got.reliability,
            &got.resolution,
            got.auroc.as_ref().unwrap(),
            got.surest_half.as_ref().unwrap(),
            got.aurc.as_ref().unwrap(),
            got.excess_aurc.as_ref().unwrap(),
        ];
        for (place, measured) in all.into_iter().enumerate() {
            let (estimate, null) = (&measured.estimate, &measured.null);
            assert_eq!(estimate.n, 300, "{place}");
            assert!(estimate.low <= estimate.high && !estimate.method.is_empty(), "{place}: {estimate:?}");
            assert!(null.low <= null.mean && null.mean <= null.high, "{place}: {null:?}");
            assert!(null.p_value > 0.0 && null.p_value <= 1.0 && null.draws >= 200, "{place}: {null:?}");
        }
        // A shift of 0.15 with 300 answers is seen by every error.
        for measured in &all_errors(&got) {
            assert!(measured.null.p_value < 0.05, "{measured:?}");
        }
        for measured in [&got.overconfidence, &got.debiased, &got.ece_equal_mass_10, &got.smooth_ece] {
            assert!(measured.estimate.low <= 0.15 && 0.15 <= measured.estimate.high, "{measured:?}");
        }
        assert!((got.murphy.brier() - got.brier.estimate.value).abs() < 1e-12);
        assert!((got.debiased.estimate.value.powi(2) - got.debiased_squared.estimate.value).abs() < 1e-12);
        let alone = debiased_error(&f, &clusters, &mut stream(1, "alone")).unwrap().unwrap();
        assert_eq!((&alone.error, alone.p_value), (&got.debiased.estimate, got.debiased.null.p_value));
        assert!(
            (alone.detectable.unwrap() / got.detectable.unwrap() - 1.0).abs() < 0.1 && alone.detectable < Some(0.15)
        );
        assert_eq!(got.rows.iter().map(|row| row.n).sum::<usize>(), 300);
        assert_eq!(got.risk_coverage.len(), 100);
        assert!((got.risk_coverage[99].1 - (1.0 - got.accuracy.value)).abs() < 1e-12);
        let text = serde_json::to_string(&got).unwrap();
        assert_eq!(serde_json::from_str::<Calibration>(&text).unwrap().n, 300);
    }

    fn all_errors(of: &Calibration) -> Vec<Measured> {
        [
            &of.overconfidence,
            &of.ece_equal_width_10,
            &of.ece_equal_mass_10,
            &of.smooth_ece,
            &of.debiased,
            &of.reliability,
        ]
        .map(Clone::clone)
        .to_vec()
    }

    #[test]
    fn a_calibrated_model_is_not_accused() {
        let (f, clusters) = answered(300, 0.0, "calibrated");
        let got = measure(&f, &clusters, &mut stream(1, "calibrated")).unwrap().unwrap();
        for measured in &all_errors(&got) {
            assert!(measured.null.p_value > 0.05, "{measured:?}");
        }
        assert_eq!(got.debiased.estimate.low, 0.0);
    }

    #[test]
    fn few_answers_say_little_and_none_nothing() {
        let one = [Forecast { confidence: 0.9, outcome: 1.0 }];
        let got = measure(&one, &[7], &mut stream(1, "one")).unwrap().unwrap();
        assert_eq!((got.n, got.n_clusters, &got.temperature, &got.auroc), (1, 1, &None, &None));
        let ece = &got.ece_equal_width_10.estimate;
        assert_eq!(Some(&got), measure(&one, &[7], &mut stream(1, "one")).unwrap().as_ref(), "same seed, same numbers");
        assert_eq!((ece.low, ece.high, ece.method.as_str()), (0.0, 1.0, "one cluster: not known"));
        assert!((ece.value - 0.1).abs() < 1e-12);
        assert_eq!(measure(&[], &[], &mut stream(1, "none")).unwrap(), None);
        assert_eq!(debiased_error(&[], &[], &mut stream(1, "none")).unwrap(), None);
        assert_eq!(got.detectable, None);
        // Known odds: errors are known, what ranks right and wrong answers is not.
        let odds = [Forecast { confidence: 0.9, outcome: 0.7 }; 4];
        let got = measure(&odds, &[0, 1, 2, 3], &mut stream(1, "odds")).unwrap().unwrap();
        assert_eq!((got.surest_half, got.aurc, got.risk_coverage), (None, None, Vec::new()));
        assert!((got.overconfidence.estimate.value - 0.2).abs() < 1e-12);
    }

    #[test]
    fn what_is_no_share_is_refused_by_its_place() {
        let message = |confidence, outcome| {
            check(&[Forecast { confidence: 0.5, outcome: 1.0 }, Forecast { confidence, outcome }], &[0, 1])
                .unwrap_err()
                .to_string()
        };
        assert_eq!(message(f64::NAN, 1.0), "forecast 1: confidence = NaN, expected a number from 0 to 1");
        assert_eq!(message(0.5, -0.1), "forecast 1: outcome = -0.1, expected a number from 0 to 1");
        let uneven = check(&[Forecast { confidence: 0.5, outcome: 1.0 }], &[]).unwrap_err();
        assert_eq!(uneven.to_string(), "1 forecasts, but 0 clusters");
    }

    #[test]
    fn curves_are_thinned_to_their_end_and_clusters_numbered_without_gaps() {
        let answers: Vec<(f64, bool)> = (0..250).map(|i| (f64::from(i), i % 2 == 0)).collect();
        let curve = risk_coverage(&answers);
        assert_eq!((curve.len(), curve[99]), (100, (1.0, 0.5)));
        assert_eq!(risk_coverage(&answers[..3]).len(), 3);
        assert_eq!(renumbered(&[9, 2, 9, 5]), [2, 0, 2, 1]);
    }
}
