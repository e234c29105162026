//! The rows of a reliability diagram.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bins::Binning;
use super::bootstrap::at;
use super::calibration::Forecast;
use super::clustered::clustered_mean;
use super::wilson::wilson;

/// One bin of confidence with something in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReliabilityRow {
    /// Number of forecasts.
    pub n: usize,
    /// Number of clusters that they belong to.
    pub n_clusters: usize,
    /// Mean confidence.
    pub confidence: f64,
    /// Share right.
    pub accuracy: f64,
    /// Lower end of its 95 % interval: Wilson's with the effective number of independent forecasts.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Consistency bar: where the share right of a calibrated model lies 95 times in 100, lower end.
    pub consistent_low: f64,
    /// Upper end.
    pub consistent_high: f64,
}

/// Rows in order of confidence, empty bins left out. `calibrated` holds the share right in each bin (0 in empty ones) for each draw of
/// [`super::consistency::calibrated_draws`].
///
/// # Reference
/// `DeGroot` and Fienberg 1983, *The Statistician* 32; bars: Bröcker and Smith 2007, *Weather and Forecasting* 22.
///
/// # Deviations
/// Bars keep the confidences as they are; the source draws them anew as well.
pub fn rows(
    forecasts: &[Forecast],
    clusters: &[usize],
    binning: &Binning,
    calibrated: &[Vec<f64>],
) -> Vec<ReliabilityRow> {
    let row = |place: usize| {
        let (mut confidence, mut outcomes, mut of) = (0.0, Vec::new(), Vec::new());
        for ((forecast, cluster), _) in
            forecasts.iter().zip(clusters).zip(binning.places()).filter(|(_, at)| **at == place)
        {
            confidence += forecast.confidence;
            outcomes.push(forecast.outcome);
            of.push(*cluster);
        }
        let accuracy = clustered_mean(&outcomes, &of)?;
        // Where all are alike, or there is one cluster, nothing tells how they hang together: each cluster then counts once.
        let is_known = accuracy.n_clusters > 1 && accuracy.se > 0.0;
        let n_effective = if is_known { accuracy.n_effective() } else { accuracy.n_clusters as f64 };
        let (low, high) = wilson(accuracy.mean, n_effective);
        let mut shares: Vec<f64> = calibrated.iter().map(|draw| draw[place]).collect();
        shares.sort_by(f64::total_cmp);
        let bar = |level: f64| if shares.is_empty() { level.round() } else { at(&shares, level) };
        Some(ReliabilityRow {
            n: accuracy.n,
            n_clusters: accuracy.n_clusters,
            confidence: confidence / accuracy.n as f64,
            accuracy: accuracy.mean,
            low,
            high,
            consistent_low: bar(0.025),
            consistent_high: bar(0.975),
        })
    };
    (0..binning.n_bins()).filter_map(row).collect()
}

/// Share right in each bin, 0 in empty ones: a draw of what [`rows`] takes.
pub fn shares(forecasts: &[Forecast], binning: &Binning) -> Vec<f64> {
    binning.sums(forecasts).iter().map(|bin| if bin.n > 0.0 { bin.outcome / bin.n } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::{rows, shares};
    use crate::random::stream;
    use crate::stats::bins::Binning;
    use crate::stats::calibration::Forecast;
    use crate::stats::consistency::calibrated_draws;
    use rand::Rng;

    #[test]
    fn bars_hold_calibrated_bins_about_nineteen_times_in_twenty() {
        let mut rng = stream(11, "bars");
        let (mut inside, mut covered, mut all) = (0, 0, 0);
        for _ in 0..100 {
            let f: Vec<Forecast> = (0..400)
                .map(|_| {
                    let confidence: f64 = rng.random();
                    Forecast { confidence, outcome: f64::from(u8::from(rng.random::<f64>() < confidence)) }
                })
                .collect();
            let clusters: Vec<usize> = (0..f.len()).collect();
            let binning = Binning::equal_width(&f, 10);
            let draws = calibrated_draws(&f, 200, &mut rng, |_, f| shares(f, &binning));
            for row in rows(&f, &clusters, &binning, &draws) {
                inside += i32::from(row.consistent_low <= row.accuracy && row.accuracy <= row.consistent_high);
                covered += i32::from(row.low <= row.confidence && row.confidence <= row.high);
                all += 1;
            }
        }
        let share = |count: i32| f64::from(count) / f64::from(all);
        assert_eq!(all, 1000);
        assert!((0.935..0.985).contains(&share(inside)), "{}", share(inside));
        assert!((0.935..0.985).contains(&share(covered)), "{}", share(covered));
    }

    #[test]
    fn empty_bins_have_no_row_and_one_cluster_knows_little() {
        let f = [Forecast { confidence: 0.95, outcome: 1.0 }; 8];
        let binning = Binning::equal_width(&f, 10);
        let got = rows(&f, &[3; 8], &binning, &[shares(&f, &binning)]);
        assert_eq!(got.len(), 1);
        assert_eq!((got[0].n, got[0].n_clusters, got[0].accuracy, got[0].consistent_low), (8, 1, 1.0, 1.0));
        assert!(got[0].low < 0.25, "eight copies of one item are one: {}", got[0].low);
        assert_eq!(rows(&[], &[], &Binning::equal_width(&[], 10), &[]), []);
    }
}
