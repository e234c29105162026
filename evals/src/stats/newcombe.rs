//! Difference of two shares that were measured apart.

use super::normal::{Z_95, two_sided};
use super::wilson::wilson_at;

/// A share and the number of independent right-or-wrong trials behind it, which need not be whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// The share, in [0, 1].
    pub p: f64,
    /// Number of trials.
    pub n: f64,
}

impl Share {
    /// The share whose 95 % interval by Wilson is this one; so an interval made with an effective number of trials gives it back.
    ///
    /// The ends of the interval are the roots of `(1 + z^2/n) x^2 - (2p + z^2/n) x + p^2`: their product is `p^2 / (1 + z^2/n)`,
    /// and that of their distances from 1 is `(1 - p)^2 / (1 + z^2/n)`. Of the two the one is taken that cannot be 0. `None` for
    /// what no number of trials gives, such as an interval without extent.
    pub fn of_interval(p: f64, (low, high): (f64, f64)) -> Option<Self> {
        let scale = if p >= 0.5 { p * p / (low * high) } else { (1.0 - p) * (1.0 - p) / ((1.0 - low) * (1.0 - high)) };
        (scale.is_finite() && scale > 1.0).then(|| Self { p, n: Z_95 * Z_95 / (scale - 1.0) })
    }
}

/// Newcombe's hybrid score interval for `after - before`, at the level of this `quantile` (1.96 for 95 %).
///
/// `d - sqrt((p_a - l_a)^2 + (u_b - p_b)^2)` to `d + sqrt((u_a - p_a)^2 + (p_b - l_b)^2)`, with `l` and `u` the ends of Wilson's
/// intervals. It supposes that the two shares are independent. Where both were measured on the same items they rise and fall
/// together, and the interval is wider than it need be: a change that it shows is there, one that it does not show may be.
///
/// # Reference
/// Newcombe 1998, *Statistics in Medicine* 17:873, method 10.
pub fn difference_at(before: Share, after: Share, quantile: f64) -> (f64, f64) {
    let of = |share: Share| wilson_at(share.p, share.n, quantile);
    let ((low_before, high_before), (low_after, high_after)) = (of(before), of(after));
    let difference = after.p - before.p;
    (
        difference - (after.p - low_after).hypot(high_before - before.p),
        difference + (high_after - after.p).hypot(before.p - low_before),
    )
}

/// Two-sided p-value of there being no difference: the level at which Newcombe's interval begins to hold 0.
///
/// It is at most 0.05 exactly where the 95 % interval does not hold 0, so that a table can show both.
pub fn p_value(before: Share, after: Share) -> f64 {
    let holds_zero = |quantile: f64| {
        let (low, high) = difference_at(before, after, quantile);
        low <= 0.0 && 0.0 <= high
    };
    // The interval widens with the quantile, so bisect.
    let (mut outside, mut inside) = (0.0, 40.0);
    for _ in 0..60 {
        let middle = 0.5 * (outside + inside);
        if holds_zero(middle) { inside = middle } else { outside = middle }
    }
    two_sided(inside)
}

#[cfg(test)]
mod tests {
    use super::{Share, difference_at, p_value};
    use crate::stats::normal::Z_95;
    use crate::stats::wilson::wilson;
    use proptest::prelude::*;

    fn share(right: u32, n: u32) -> Share {
        Share { p: f64::from(right) / f64::from(n), n: f64::from(n) }
    }

    #[test]
    fn equals_the_published_examples() {
        // Newcombe 1998, table II, method 10; the first share less the second.
        for (first, second, low, high) in [
            (share(56, 70), share(48, 80), 0.0524, 0.3339),
            (share(9, 10), share(3, 10), 0.1705, 0.8090),
            (share(5, 56), share(0, 29), -0.0381, 0.1926),
            (share(0, 10), share(0, 20), -0.1611, 0.2775),
            (share(10, 10), share(0, 10), 0.6075, 1.0),
        ] {
            let got = difference_at(second, first, Z_95);
            assert!((got.0 - low).abs() < 5e-5 && (got.1 - high).abs() < 5e-5, "{first:?} {second:?}: {got:?}");
        }
    }

    #[test]
    fn an_interval_without_extent_tells_no_number_of_trials() {
        assert_eq!(Share::of_interval(0.5, (0.5, 0.5)), None);
        assert_eq!(Share::of_interval(0.5, (0.0, 1.0)), None);
        assert_eq!(Share::of_interval(f64::NAN, (0.0, 1.0)), None);
    }

    proptest! {
        #[test]
        fn the_number_of_trials_is_read_off_the_interval(right in 0_u32..300, wrong in 0_u32..300, more in 1.0_f64..5.0) {
            let n = more * f64::from(right + wrong + 1);
            let p = f64::from(right) / f64::from(right + wrong + 1);
            let found = Share::of_interval(p, wilson(p, n)).unwrap();
            prop_assert!((found.n / n - 1.0).abs() < 1e-6, "{} of {n}", found.n);
        }

        #[test]
        fn the_p_value_says_what_the_interval_says(a in 0_u32..=80, b in 0_u32..=80) {
            let (before, after) = (share(a, 80), share(b, 80));
            let (low, high) = difference_at(before, after, Z_95);
            let p = p_value(before, after);
            prop_assert!((0.0..=1.0).contains(&p));
            prop_assert!((p - p_value(after, before)).abs() < 1e-9, "the same in both directions");
            // Not where the end lies on 0 but for rounding.
            if low.abs() > 1e-9 && high.abs() > 1e-9 {
                prop_assert_eq!(p <= 0.05, low > 0.0 || high < 0.0);
            }
        }
    }
}
