//! The standard normal distribution.

use std::f64::consts::{PI, SQRT_2};

/// Two-sided 95 % quantile, `quantile(0.975)`.
pub const Z_95: f64 = 1.959_963_984_540_054;

/// `P(Z > z)` for a standard normal `Z`; accurate in the far tail.
pub fn upper_tail(z: f64) -> f64 {
    if z < 0.0 {
        return 1.0 - upper_tail(-z);
    }
    if z < 3.0 {
        // erf by its Taylor series (Abramowitz and Stegun 7.1.6), which has positive terms only: no cancellation.
        let x = z / SQRT_2;
        let mut term = x;
        let mut sum = x;
        let mut k = 0.0;
        while term > sum * 1e-17 {
            k += 1.0;
            term *= 2.0 * x * x / (2.0 * k + 1.0);
            sum += term;
        }
        return 0.5 - (-x * x).exp() * sum / PI.sqrt();
    }
    // Mills' ratio as a continued fraction (Abramowitz and Stegun 26.2.14), from the inside out.
    let fraction = (1..=80).rev().fold(z, |tail, k| z + f64::from(k) / tail);
    (-z * z / 2.0).exp() / (2.0 * PI).sqrt() / fraction
}

/// `P(Z <= z)`.
pub fn cdf(z: f64) -> f64 {
    upper_tail(-z)
}

/// The `z` with `cdf(z) = p`, for `0 < p < 1`; infinite at the ends.
pub fn quantile(p: f64) -> f64 {
    if p <= 0.0 {
        return f64::NEG_INFINITY;
    }
    if p >= 1.0 {
        return f64::INFINITY;
    }
    // Bisection on a monotone function: 80 halvings of a width of 80 leave nothing of a double's precision to gain.
    let (mut low, mut high) = (-40.0, 40.0);
    for _ in 0..80 {
        let middle = 0.5 * (low + high);
        if cdf(middle) < p { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// Two-sided p-value of a standard normal statistic.
pub fn two_sided(z: f64) -> f64 {
    (2.0 * upper_tail(z.abs())).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::{Z_95, cdf, quantile, two_sided, upper_tail};

    #[test]
    fn tail_equals_published_values() {
        // python: 0.5 * math.erfc(z / math.sqrt(2))
        for (z, expected) in [
            (0.0, 0.5),
            (0.5, 0.308_537_538_725_986_9),
            (1.0, 0.158_655_253_931_457_07),
            (2.5, 0.006_209_665_325_776_132),
            (3.5, 0.000_232_629_079_035_525_04),
            (8.0, 6.220_960_574_271_785e-16),
        ] {
            let got = upper_tail(z);
            assert!((got / expected - 1.0).abs() < 1e-12, "{z}: {got} is not {expected}");
        }
    }

    #[test]
    fn quantile_inverts_the_distribution_function() {
        for p in [1e-6, 0.025, 0.2, 0.5, 0.8, 0.975, 0.999] {
            assert!((cdf(quantile(p)) - p).abs() < 1e-13);
        }
        assert!((quantile(0.975) - Z_95).abs() < 1e-12);
        assert!((two_sided(-Z_95) - 0.05).abs() < 1e-12);
    }

    #[test]
    fn both_branches_of_the_tail_meet() {
        assert!((upper_tail(3.0 - 1e-9) - upper_tail(3.0 + 1e-9)).abs() < 1e-10);
    }
}
