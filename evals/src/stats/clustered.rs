//! Mean with a standard error that knows which items belong together.

use super::wilson::wilson;

/// A mean and how far it can be trusted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClusteredMean {
    /// The mean.
    pub mean: f64,
    /// Clustered standard error; 0 where all scores are equal.
    pub se: f64,
    /// Number of scores.
    pub n: usize,
    /// Number of clusters.
    pub n_clusters: usize,
}

/// Mean of `scores`, with the standard error clustered by `clusters` (same length); `None` without scores.
///
/// `SE^2 = n^-2 sum_c (sum_(i in c) (s_i - m))^2 C/(C - 1)`; with one item per cluster that is the usual
/// `sum (s_i - m)^2 / (n (n - 1))`. One cluster alone says nothing about the spread between clusters: its error is 1.
///
/// # Reference
/// Miller 2024, *Adding error bars to evals*, arXiv 2411.00640, section 2.2.
///
/// # Deviations
/// The factor `C/(C - 1)`, which Miller leaves out, makes the independent case exact.
pub fn clustered_mean(scores: &[f64], clusters: &[usize]) -> Option<ClusteredMean> {
    if scores.is_empty() {
        return None;
    }
    let n = scores.len();
    let mean = scores.iter().sum::<f64>() / n as f64;
    let mut residuals = std::collections::BTreeMap::<usize, f64>::new();
    for (score, cluster) in scores.iter().zip(clusters) {
        *residuals.entry(*cluster).or_default() += score - mean;
    }
    let n_clusters = residuals.len();
    let se = if n_clusters < 2 {
        1.0
    } else {
        let c = n_clusters as f64;
        (residuals.values().map(|r| r * r).sum::<f64>() * c / (c - 1.0)).sqrt() / n as f64
    };
    Some(ClusteredMean { mean, se, n, n_clusters })
}

impl ClusteredMean {
    /// Number of independent right-or-wrong trials that would give this standard error: `m(1 - m)/SE^2`.
    ///
    /// Where all scores are equal there is nothing to estimate the dependence from, and it is `n`.
    pub fn n_effective(&self) -> f64 {
        let spread = self.mean * (1.0 - self.mean);
        if self.se < 1e-12 || spread < 1e-12 { self.n as f64 } else { spread / (self.se * self.se) }
    }

    /// 95 % interval of a share: Wilson's with the effective number of items.
    pub fn interval(&self) -> (f64, f64) {
        wilson(self.mean, self.n_effective())
    }
}

#[cfg(test)]
mod tests {
    use super::clustered_mean;
    use proptest::prelude::*;

    #[test]
    fn equals_a_worked_example() {
        // numpy: s=[1,1,0,1,0,0], clusters=[0,0,1,1,2,2]; m=.5; cluster sums of residuals = 1, 0, -1
        let got = clustered_mean(&[1.0, 1.0, 0.0, 1.0, 0.0, 0.0], &[0, 0, 1, 1, 2, 2]).unwrap();
        assert!((got.se - (2.0_f64 * 1.5).sqrt() / 6.0).abs() < 1e-15);
        assert!((got.n_effective() - 0.25 / (3.0 / 36.0)).abs() < 1e-12);
    }

    #[test]
    fn nothing_scored_is_no_answer() {
        assert_eq!(clustered_mean(&[], &[]), None);
    }

    proptest! {
        #[test]
        fn singletons_give_the_textbook_standard_error(scores in proptest::collection::vec(0.0_f64..1.0, 2..30)) {
            let ids: Vec<usize> = (0..scores.len()).collect();
            let got = clustered_mean(&scores, &ids).unwrap();
            let n = scores.len() as f64;
            let variance = scores.iter().map(|s| (s - got.mean).powi(2)).sum::<f64>() / (n * (n - 1.0));
            prop_assert!((got.se - variance.sqrt()).abs() < 1e-12);
        }

        #[test]
        fn copying_every_item_into_its_cluster_changes_nothing(scores in proptest::collection::vec(0.0_f64..1.0, 2..15)) {
            let ids: Vec<usize> = (0..scores.len()).collect();
            let once = clustered_mean(&scores, &ids).unwrap();
            let twice = clustered_mean(&[scores.clone(), scores].concat(), &[ids.clone(), ids].concat()).unwrap();
            prop_assert!((once.se - twice.se).abs() < 1e-12);
        }
    }
}
