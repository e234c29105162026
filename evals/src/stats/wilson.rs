//! Interval for a share.

use super::normal::Z_95;

/// Wilson's 95 % score interval for the share `p` of `n` trials.
///
/// `(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`. It stays inside `[0, 1]` and does not shrink to a point
/// at 0 of n, where it gives the rule of three's order of magnitude. `n` may be an effective number of independent trials,
/// and so need not be whole. With `n = 0` nothing is known: `(0, 1)`.
///
/// # Reference
/// Wilson 1927, *Probable inference*, JASA 22; with an effective n: Franco et al. 2019, *J. Survey Stat. Methodol.* 7.
pub fn wilson(p: f64, n: f64) -> (f64, f64) {
    wilson_at(p, n, Z_95)
}

/// Wilson's interval with another quantile than the normal one: Student's where the effective `n` is itself estimated.
pub fn wilson_at(p: f64, n: f64, quantile: f64) -> (f64, f64) {
    if n <= 0.0 {
        return (0.0, 1.0);
    }
    let z2 = quantile * quantile;
    let scale = 1.0 + z2 / n;
    let centre = (p + z2 / (2.0 * n)) / scale;
    let half = quantile * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).max(0.0).sqrt() / scale;
    // At a share of 0 or 1 that end is exact; rounding must not push it past the estimate.
    ((centre - half).clamp(0.0, p), (centre + half).clamp(p, 1.0))
}

#[cfg(test)]
mod tests {
    use super::wilson;
    use proptest::prelude::*;

    #[test]
    fn equals_the_score_interval_of_scipy() {
        // scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
        for (k, n, low, high) in [
            (0.0, 50.0, 0.0, 0.071_347_599_133_358_72),
            (10.0, 200.0, 0.027_382_645_600_763_92, 0.089_578_148_138_775_99),
            (50.0, 100.0, 0.403_831_530_365_995_6, 0.596_168_469_634_004_4),
            (7.0, 7.0, 0.645_669_564_933_312_6, 1.0),
        ] {
            let got = wilson(k / n, n);
            assert!((got.0 - low).abs() < 1e-12 && (got.1 - high).abs() < 1e-12, "{k}/{n}: {got:?}");
        }
    }

    proptest! {
        #[test]
        fn holds_the_share_and_narrows_with_n(k in 0_u32..200, extra in 0_u32..200) {
            let n = f64::from(k + extra + 1);
            let p = f64::from(k) / n;
            let (low, high) = wilson(p, n);
            prop_assert!(0.0 <= low && low <= p && p <= high && high <= 1.0);
            let (low4, high4) = wilson(p, 4.0 * n);
            prop_assert!(high4 - low4 < high - low);
        }
    }
}
