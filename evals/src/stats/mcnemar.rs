//! Paired test of two shares: did items change one way more than the other?

/// Mid-p McNemar test, two-sided: `exact - P(X = min(b, c))`, `X ~ Binomial(b + c, 1/2)`.
///
/// `broken` items passed before and fail after, `repaired` the other way. Nearly the nominal level where the exact test is
/// conservative. Without a changed item there is nothing to test: `None`.
///
/// # Reference
/// Fagerland, Lydersen and Laake 2013, *BMC Med. Res. Methodol.* 13:91.
pub fn mid_p(broken: usize, repaired: usize) -> Option<f64> {
    let n = broken + repaired;
    if n == 0 {
        return None;
    }
    let point = binomial_half(n, broken.min(repaired));
    Some((two_tails(broken, repaired) - point).clamp(0.0, 1.0))
}

/// Exact McNemar test, two-sided: `min(1, 2 sum_(k <= min(b, c)) C(b + c, k) 2^-(b + c))`.
///
/// # Reference
/// McNemar 1947, *Psychometrika* 12; the exact form is the sign test.
pub fn exact(broken: usize, repaired: usize) -> Option<f64> {
    (broken + repaired > 0).then(|| two_tails(broken, repaired).min(1.0))
}

fn two_tails(broken: usize, repaired: usize) -> f64 {
    let n = broken + repaired;
    2.0 * (0..=broken.min(repaired)).map(|k| binomial_half(n, k)).sum::<f64>()
}

/// `C(n, k) 2^-n`, through logarithms so that a thousand discordant items do not underflow halfway.
fn binomial_half(n: usize, k: usize) -> f64 {
    let ln_choose: f64 = (1..=k).map(|i| ((n - k + i) as f64 / i as f64).ln()).sum();
    (ln_choose - n as f64 * std::f64::consts::LN_2).exp()
}

#[cfg(test)]
mod tests {
    use super::{exact, mid_p};
    use proptest::prelude::*;

    #[test]
    fn two_wins_and_no_loss_are_not_certain() {
        // A Wald interval at this edge has zero width; the exact test says 1/2, mid-p 1/4.
        assert!((exact(2, 0).unwrap() - 0.5).abs() < 1e-12);
        assert!((mid_p(2, 0).unwrap() - 0.25).abs() < 1e-12);
    }

    #[test]
    fn equals_scipy_on_worked_examples() {
        // scipy.stats.binomtest(b, b + c).pvalue and that minus scipy.stats.binom.pmf(min(b, c), b + c, 0.5)
        for (b, c, p_exact, p_mid) in [
            (10, 2, 0.038_574_218_75, 0.022_460_937_5),
            (1, 6, 0.125, 0.070_312_5),
            (40, 25, 0.081_681_533_941_540_03, 0.064_017_504_137_225_61),
        ] {
            assert!((exact(b, c).unwrap() - p_exact).abs() < 1e-12, "{b} {c} {}", exact(b, c).unwrap());
            assert!((mid_p(b, c).unwrap() - p_mid).abs() < 1e-12, "{b} {c} {}", mid_p(b, c).unwrap());
        }
    }

    #[test]
    fn no_changed_item_is_no_answer() {
        assert_eq!(mid_p(0, 0), None);
        assert_eq!(exact(0, 0), None);
    }

    #[test]
    fn thousands_of_changes_do_not_underflow() {
        let p = mid_p(2000, 2000).unwrap();
        assert!((p - 1.0).abs() < 1e-6, "{p}");
    }

    proptest! {
        #[test]
        fn equals_brute_force_over_all_outcomes(b in 0_usize..9, c in 0_usize..9) {
            prop_assume!(b + c > 0);
            let n = b + c;
            // Each of the 2^n equally likely ways the changed items could have gone.
            let (mut beyond, mut at) = (0_u64, 0_u64);
            for outcome in 0_u64..(1 << n) {
                let k = outcome.count_ones() as usize;
                let extreme = k.min(n - k);
                beyond += u64::from(extreme <= b.min(c));
                at += u64::from(k == b.min(c));
            }
            let total = (1_u64 << n) as f64;
            prop_assert!((exact(b, c).unwrap() - beyond as f64 / total).abs() < 1e-12);
            let expected = (exact(b, c).unwrap().min(1.0) - at as f64 / total).max(0.0);
            // A tie counts the middle outcome in both tails.
            if b != c { prop_assert!((mid_p(b, c).unwrap() - expected).abs() < 1e-12); }
            prop_assert_eq!(mid_p(b, c), mid_p(c, b));
        }
    }
}
