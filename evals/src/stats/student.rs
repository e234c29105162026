//! Student's t distribution, for estimates whose spread is itself estimated from few values.

use super::normal;

/// Above this many degrees of freedom the normal distribution differs by less than 1e-6.
const LARGE: f64 = 1e6;

/// `P(|T| > |t|)` with `df` degrees of freedom: `I_x(df/2, 1/2)` at `x = df / (df + t^2)`.
///
/// # Reference
/// Abramowitz and Stegun 1964, 26.7.1.
pub fn two_sided(t: f64, df: f64) -> f64 {
    if df > LARGE {
        return normal::two_sided(t);
    }
    incomplete_beta(0.5 * df, 0.5, df / (df + t * t)).clamp(0.0, 1.0)
}

/// `P(T <= t)`.
pub fn cdf(t: f64, df: f64) -> f64 {
    let tail = 0.5 * two_sided(t, df);
    if t > 0.0 { 1.0 - tail } else { tail }
}

/// The `t` with `cdf(t) = p`, for `0 < p < 1`; infinite at the ends.
pub fn quantile(p: f64, df: f64) -> f64 {
    if df > LARGE || p <= 0.0 || p >= 1.0 {
        return normal::quantile(p);
    }
    if p < 0.5 {
        return -quantile(1.0 - p, df);
    }
    let mut high = 2.0;
    while cdf(high, df) < p {
        high *= 2.0;
    }
    let mut low = 0.0;
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if cdf(middle, df) < p { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// Regularised incomplete beta function `I_x(a, b)`, by its continued fraction (Abramowitz and Stegun 26.5.8).
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = (a * x.ln() + b * (1.0 - x).ln() + ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b)).exp();
    // The fraction converges fast below the mean of the distribution; above it, its mirror image does.
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(a, b, x) / a
    } else {
        1.0 - front * beta_fraction(b, a, 1.0 - x) / b
    }
}

/// The continued fraction by Lentz's method, which needs no guess of where to start.
fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    let guarded = |v: f64| if v.abs() < 1e-300 { 1e-300 } else { v };
    let mut c = 1.0;
    let mut d = 1.0 / guarded(1.0 - (a + b) * x / (a + 1.0));
    let mut value = d;
    for m in 1..2000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut factor = 1.0;
        for term in [even, odd] {
            d = 1.0 / guarded(1.0 + term * d);
            c = guarded(1.0 + term / c);
            factor = c * d;
            value *= factor;
        }
        if (factor - 1.0).abs() < 1e-15 {
            break;
        }
    }
    value
}

/// Logarithm of the gamma function, for `x > 0` (Stirling's series, Abramowitz and Stegun 6.1.41, shifted above 10).
fn ln_gamma(x: f64) -> f64 {
    let mut shift = 0.0;
    let mut z = x;
    while z < 10.0 {
        shift += z.ln();
        z += 1.0;
    }
    let w = 1.0 / (z * z);
    let series = (1.0 / 12.0 - w * (1.0 / 360.0 - w * (1.0 / 1260.0 - w * (1.0 / 1680.0 - w / 1188.0)))) / z;
    (z - 0.5) * z.ln() - z + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - shift
}

#[cfg(test)]
mod tests {
    use super::{cdf, ln_gamma, quantile, two_sided};
    use crate::stats::normal;

    #[test]
    fn quantiles_equal_the_published_table() {
        // Abramowitz and Stegun, table 26.10: two-sided 5 %.
        for (df, expected) in [
            (1.0, 12.706_204_736),
            (2.0, 4.302_652_730),
            (5.0, 2.570_581_836),
            (10.0, 2.228_138_852),
            (30.0, 2.042_272_456),
        ] {
            assert!((quantile(0.975, df) - expected).abs() < 1e-8, "{df}: {}", quantile(0.975, df));
        }
    }

    #[test]
    fn one_and_two_degrees_of_freedom_have_closed_forms() {
        for t in [-30.0, -2.0, -0.3, 0.0, 0.7, 5.0, 400.0_f64] {
            let cauchy = 0.5 + t.atan() / std::f64::consts::PI;
            assert!((cdf(t, 1.0) - cauchy).abs() < 1e-13, "{t}");
            assert!((cdf(t, 2.0) - (0.5 + t / (2.0 * (2.0 + t * t).sqrt()))).abs() < 1e-13, "{t}");
        }
    }

    #[test]
    fn many_degrees_of_freedom_are_normal_and_fractions_lie_between() {
        assert!((two_sided(1.7, 1e5) / normal::two_sided(1.7) - 1.0).abs() < 1e-4);
        assert_eq!(two_sided(1.7, f64::INFINITY), normal::two_sided(1.7));
        assert!(two_sided(2.0, 3.0) > two_sided(2.0, 3.5) && two_sided(2.0, 3.5) > two_sided(2.0, 4.0));
        assert!((cdf(quantile(0.8, 2.7), 2.7) - 0.8).abs() < 1e-12);
    }

    #[test]
    fn gamma_of_whole_numbers_is_a_factorial() {
        assert!((ln_gamma(5.0) - 24.0_f64.ln()).abs() < 1e-12);
        assert!((ln_gamma(0.5) - 0.5 * std::f64::consts::PI.ln()).abs() < 1e-12);
    }
}
