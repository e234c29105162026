//! Which forecasts are looked at together: bins of confidence.

use super::calibration::{Bin, Forecast};

/// Which end of a bin belongs to it; the first and the last bin hold both ends of `[0, 1]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// `[low, high)`: numpy's histogram, netcal.
    Lower,
    /// `(low, high]`: Guo et al. 2017, scikit-learn's `calibration_curve`.
    Upper,
}

/// The bin of each forecast, in order of the forecasts.
///
/// Made once of the forecasts as they are; a resample keeps the bins, so that only what they [hold](Self::weighted_sums) varies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binning {
    places: Vec<usize>,
    n_bins: usize,
}

impl Binning {
    /// `n_bins` bins of equal width, `[k/n_bins, (k+1)/n_bins)`; 1 belongs to the last.
    ///
    /// # Deviations
    /// An edge is the decimal that it is written as: 0.3 falls into `[0.3, 0.4)`. numpy's third edge is 0.30000000000000004, so that
    /// netcal puts 0.3 one bin lower, and 0.4 not; [`Binning::at_edges`] with numpy's edges does as netcal does.
    pub fn equal_width(forecasts: &[Forecast], n_bins: usize) -> Self {
        let place = |f: &Forecast| ((f.confidence * n_bins as f64) as usize).min(n_bins - 1);
        Self { places: forecasts.iter().map(place).collect(), n_bins }
    }

    /// At most `n_bins` bins of about equal mass, cut at the quantiles of confidence (between neighbours linearly); equal confidences
    /// stay together, so that their order does not matter.
    ///
    /// As netcal's `equal_intervals=False` and, but for the closed end, scikit-learn's `strategy="quantile"`.
    pub fn quantiles(forecasts: &[Forecast], n_bins: usize) -> Self {
        if forecasts.is_empty() {
            return Self { places: Vec::new(), n_bins };
        }
        let mut sorted: Vec<f64> = forecasts.iter().map(|f| f.confidence).collect();
        sorted.sort_by(f64::total_cmp);
        let quantile = |k: usize| {
            // In whole numbers, so that a quantile that is one of the values equals it.
            let (below, rest) = ((sorted.len() - 1) * k / n_bins, (sorted.len() - 1) * k % n_bins);
            if rest == 0 {
                return sorted[below];
            }
            sorted[below] + (sorted[below + 1] - sorted[below]) * (rest as f64 / n_bins as f64)
        };
        let edges: Vec<f64> = (0..=n_bins).map(quantile).collect();
        Self::at_edges(forecasts, &edges, Closed::Lower)
    }

    /// Bins between neighbours of the ascending `edges`; what lies beyond the outer ones belongs to the outer bins.
    pub fn at_edges(forecasts: &[Forecast], edges: &[f64], closed: Closed) -> Self {
        let inner = edges.get(1..edges.len().saturating_sub(1)).unwrap_or_default();
        let place = |f: &Forecast| match closed {
            Closed::Lower => inner.partition_point(|edge| *edge <= f.confidence),
            Closed::Upper => inner.partition_point(|edge| *edge < f.confidence),
        };
        Self { places: forecasts.iter().map(place).collect(), n_bins: inner.len() + 1 }
    }

    /// The bin of each forecast.
    pub fn places(&self) -> &[usize] {
        &self.places
    }

    /// Number of bins, empty ones included.
    pub fn n_bins(&self) -> usize {
        self.n_bins
    }

    /// Sums over each bin, empty ones included.
    pub fn sums(&self, forecasts: &[Forecast]) -> Vec<Bin> {
        self.weighted_sums(forecasts, |_| 1.0)
    }

    /// The same with a weight for each forecast by its place: how often a resample holds it.
    pub fn weighted_sums(&self, forecasts: &[Forecast], weight: impl Fn(usize) -> f64) -> Vec<Bin> {
        let mut bins = vec![Bin::default(); self.n_bins];
        for (i, (forecast, place)) in forecasts.iter().zip(&self.places).enumerate() {
            let weight = weight(i);
            let bin = &mut bins[*place];
            bin.n += weight;
            bin.confidence += weight * forecast.confidence;
            bin.outcome += weight * forecast.outcome;
        }
        bins
    }
}

/// Maximum calibration error: the largest `|acc_k - conf_k|` over bins that hold something; `None` where none does.
///
/// # Reference
/// Naeini et al. 2015, AAAI. A bin of few decides it: read it beside its null value.
pub fn mce(bins: &[Bin]) -> Option<f64> {
    let gap = |bin: &Bin| (bin.outcome - bin.confidence).abs() / bin.n;
    bins.iter().filter(|bin| bin.n > 0.0).map(gap).reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::{Binning, Closed, mce};
    use crate::stats::calibration::{Forecast, N_BINS, bin, bin_of, ece};
    use proptest::prelude::*;

    fn forecasts(pairs: &[(f64, f64)]) -> Vec<Forecast> {
        pairs.iter().map(|&(confidence, outcome)| Forecast { confidence, outcome }).collect()
    }

    #[test]
    fn an_edge_belongs_to_the_bin_above_and_certainty_to_the_last() {
        let f = forecasts(&[(0.0, 0.0), (0.1, 0.0), (0.3, 0.0), (0.6, 0.0), (0.7, 0.0), (0.9, 0.0), (1.0, 1.0)]);
        assert_eq!(Binning::equal_width(&f, 10).places(), [0, 1, 3, 6, 7, 9, 9]);
        let numpy: Vec<f64> = (0..=10).map(|k| f64::from(k) * 0.1).collect();
        assert_eq!(Binning::at_edges(&f, &numpy, Closed::Lower).places(), [0, 1, 2, 5, 6, 9, 9]);
        assert_eq!(Binning::at_edges(&f, &numpy, Closed::Upper).places(), [0, 0, 2, 5, 6, 8, 9]);
        assert_eq!(Binning::at_edges(&f, &[], Closed::Lower).places(), [0; 7]);
    }

    #[test]
    fn quantiles_keep_equal_confidences_together() {
        let f = forecasts(&[(0.75, 1.0); 10]);
        let bins = Binning::quantiles(&f, 5).sums(&f);
        assert_eq!(bins.iter().map(|bin| bin.n).collect::<Vec<_>>(), [0.0, 0.0, 0.0, 0.0, 10.0]);
        assert_eq!(Binning::quantiles(&[], 5).sums(&[]).len(), 5);
    }

    #[test]
    fn the_largest_gap_is_found_and_empty_bins_have_none() {
        let f = forecasts(&[(0.85, 1.0), (0.85, 0.0), (0.55, 1.0), (1.0, 1.0)]);
        assert!((mce(&Binning::equal_width(&f, 10).sums(&f)).unwrap() - 0.45).abs() < 1e-12);
        assert_eq!(mce(&Binning::equal_width(&[], 10).sums(&[])), None);
    }

    proptest! {
        #[test]
        fn ten_bins_are_those_of_the_older_function_and_quantiles_hold_equal_shares(
            confidences in proptest::collection::vec(0.0_f64..=1.0, 1..60), n_bins in 1_usize..16
        ) {
            let f: Vec<Forecast> = confidences.iter().map(|c| Forecast { confidence: *c, outcome: 1.0 }).collect();
            let ten = Binning::equal_width(&f, N_BINS);
            prop_assert!(ten.places().iter().zip(&f).all(|(place, f)| *place == bin_of(f.confidence)));
            prop_assert_eq!(ece(&ten.sums(&f)), ece(&bin(f.iter().map(|f| (*f, 1.0)))));
            let mut sorted = confidences.clone();
            sorted.sort_by(f64::total_cmp);
            sorted.dedup();
            prop_assume!(sorted.len() == confidences.len());
            let share = f.len() as f64 / n_bins as f64;
            for bin in Binning::quantiles(&f, n_bins).sums(&f) {
                prop_assert!((bin.n - share).abs() <= 2.0, "{} of {share}", bin.n);
            }
        }
    }
}
