//! What is measured of the answers, of each resample and of each draw from a calibrated model: sorted once, then summed up.

use crate::stats::auroc::auroc_of;
use crate::stats::bins::{Binning, mce};
use crate::stats::calibration::{Forecast, ece};
use crate::stats::murphy::reliability_and_resolution;
use crate::stats::selective::{accuracy_of_surest, aurc_of, excess_aurc_of};
use crate::stats::ties::Tie;

/// What confidence alone decides: bins of four kinds, and which forecasts are equally sure.
pub(super) struct Sorted {
    pub(super) width_10: Binning,
    pub(super) width_15: Binning,
    pub(super) mass_10: Binning,
    pub(super) mass_15: Binning,
    /// Where each run of equal confidences ends.
    ends: Vec<usize>,
}

impl Sorted {
    /// Of forecasts in order of confidence, the highest first.
    pub(super) fn new(forecasts: &[Forecast]) -> Self {
        let mut end = 0;
        let ends = forecasts.chunk_by(|a, b| a.confidence == b.confidence).map(|tied| {
            end += tied.len();
            end
        });
        Self {
            width_10: Binning::equal_width(forecasts, 10),
            width_15: Binning::equal_width(forecasts, 15),
            mass_10: Binning::quantiles(forecasts, 10),
            mass_15: Binning::quantiles(forecasts, 15),
            ends: ends.collect(),
        }
    }

    /// Answers of which is known whether they are right, each as often as its weight says.
    fn ties(&self, forecasts: &[Forecast], weight: impl Fn(usize) -> f64) -> Vec<Tie> {
        let mut ties = Vec::with_capacity(self.ends.len());
        let mut begin = 0;
        for end in &self.ends {
            let mut tie = Tie::default();
            for (i, forecast) in forecasts.iter().enumerate().take(*end).skip(begin) {
                if forecast.outcome == 1.0 {
                    tie.right += weight(i);
                } else if forecast.outcome == 0.0 {
                    tie.wrong += weight(i);
                }
            }
            begin = *end;
            if tie.n() > 0.0 {
                ties.push(tie);
            }
        }
        ties
    }
}

/// The measures.
#[derive(Debug, PartialEq)]
pub(super) struct Values {
    pub(super) overconfidence: Option<f64>,
    pub(super) width_10: Option<f64>,
    pub(super) width_15: Option<f64>,
    pub(super) mass_10: Option<f64>,
    pub(super) mass_15: Option<f64>,
    pub(super) mce: Option<f64>,
    pub(super) smooth: Option<f64>,
    pub(super) brier: Option<f64>,
    pub(super) reliability: Option<f64>,
    pub(super) resolution: Option<f64>,
    pub(super) auroc: Option<f64>,
    pub(super) surest_half: Option<f64>,
    pub(super) aurc: Option<f64>,
    pub(super) excess_aurc: Option<f64>,
}

impl Values {
    /// Of forecasts with the confidences of `sorted`, in its order, each as often as its weight says, a whole number; `None` where all weights are 0.
    pub(super) fn new(
        forecasts: &[Forecast],
        sorted: &Sorted,
        smooth: Option<f64>,
        weight: impl Fn(usize) -> f64 + Copy,
    ) -> Option<Self> {
        let width_10 = sorted.width_10.weighted_sums(forecasts, weight);
        let (reliability, resolution) = reliability_and_resolution(&width_10)?;
        let n: f64 = width_10.iter().map(|bin| bin.n).sum();
        let mean = |of: fn(&Forecast) -> f64| {
            forecasts.iter().enumerate().map(|(i, forecast)| weight(i) * of(forecast)).sum::<f64>() / n
        };
        let error = |binning: &Binning| ece(&binning.weighted_sums(forecasts, weight));
        let ties = sorted.ties(forecasts, weight);
        Some(Self {
            overconfidence: Some(mean(|f| f.confidence - f.outcome)),
            width_10: ece(&width_10),
            width_15: error(&sorted.width_15),
            mass_10: error(&sorted.mass_10),
            mass_15: error(&sorted.mass_15),
            mce: mce(&width_10),
            smooth,
            brier: Some(mean(|f| (f.confidence - f.outcome).powi(2))),
            reliability: Some(reliability),
            resolution: Some(resolution),
            auroc: auroc_of(&ties),
            surest_half: accuracy_of_surest(&ties, 0.5),
            aurc: aurc_of(&ties),
            excess_aurc: excess_aurc_of(&ties),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Sorted, Values};
    use crate::stats::auroc::auroc;
    use crate::stats::bins::{Binning, mce};
    use crate::stats::calibration::{Forecast, brier, ece, overconfidence};
    use crate::stats::murphy::Murphy;
    use crate::stats::selective::{accuracy_of_surest, aurc, excess_aurc};
    use crate::stats::ties::ties;
    use proptest::prelude::*;

    /// Each measure by its own function, of copies in bins that the forecasts were put into before they were copied.
    fn slow(forecasts: &[Forecast], drawn: &[usize]) -> Option<Values> {
        let of: Vec<Forecast> = drawn.iter().map(|i| forecasts[*i]).collect();
        let bins = |whole: Binning| {
            let edges: Vec<f64> = (0..=whole.n_bins()).map(|edge| edge as f64).collect();
            let place = |i: &usize| Forecast { confidence: whole.places()[*i] as f64, outcome: 0.0 };
            let places: Vec<Forecast> = drawn.iter().map(place).collect();
            Binning::at_edges(&places, &edges, crate::stats::bins::Closed::Lower)
        };
        let width_10 = bins(Binning::equal_width(forecasts, 10));
        let murphy = Murphy::new(&of, &width_10)?;
        let known = of.iter().filter(|f| f.outcome == 0.0 || f.outcome == 1.0);
        let answers: Vec<(f64, bool)> = known.map(|f| (f.confidence, f.outcome == 1.0)).collect();
        let (confidence, right): (Vec<f64>, Vec<bool>) = answers.iter().copied().unzip();
        let error = |binning: Binning| ece(&bins(binning).sums(&of));
        Some(Values {
            overconfidence: overconfidence(&of),
            width_10: ece(&width_10.sums(&of)),
            width_15: error(Binning::equal_width(forecasts, 15)),
            mass_10: error(Binning::quantiles(forecasts, 10)),
            mass_15: error(Binning::quantiles(forecasts, 15)),
            mce: mce(&width_10.sums(&of)),
            smooth: None,
            brier: brier(&of),
            reliability: Some(murphy.reliability),
            resolution: Some(murphy.resolution),
            auroc: auroc(&confidence, &right),
            surest_half: accuracy_of_surest(&ties(&answers), 0.5),
            aurc: aurc(&answers),
            excess_aurc: excess_aurc(&answers),
        })
    }

    fn list(of: &Values) -> [Option<f64>; 13] {
        [
            of.overconfidence,
            of.width_10,
            of.width_15,
            of.mass_10,
            of.mass_15,
            of.mce,
            of.brier,
            of.reliability,
            of.resolution,
            of.auroc,
            of.surest_half,
            of.aurc,
            of.excess_aurc,
        ]
    }

    proptest! {
        #[test]
        fn weights_count_as_copies(items in proptest::collection::vec((0_u8..40, 0_u8..4, 0_usize..4), 1..80)) {
            let outcome = |kind: u8| if kind == 3 { 0.4 } else { f64::from(kind.min(1)) };
            let mut sorted = items.clone();
            sorted.sort_by_key(|item| std::cmp::Reverse(item.0));
            let forecasts: Vec<Forecast> = sorted
                .iter()
                .map(|(confidence, kind, _)| Forecast { confidence: f64::from(*confidence) / 40.0, outcome: outcome(*kind) })
                .collect();
            let drawn: Vec<usize> =
                sorted.iter().enumerate().flat_map(|(i, (_, _, times))| std::iter::repeat_n(i, *times)).collect();
            let got = Values::new(&forecasts, &Sorted::new(&forecasts), None, |i| sorted[i].2 as f64);
            let expected = slow(&forecasts, &drawn);
            prop_assert_eq!(got.is_none(), expected.is_none());
            let (Some(got), Some(expected)) = (got, expected) else { return Ok(()) };
            for (place, (got, expected)) in list(&got).iter().zip(list(&expected)).enumerate() {
                match (got, expected) {
                    (Some(got), Some(expected)) => prop_assert!((got - expected).abs() < 1e-12, "{place}: {got} {expected}"),
                    (got, expected) => prop_assert_eq!(*got, expected, "{}", place),
                }
            }
        }
    }
}
