//! From log-odds of a fitted model to probabilities that hold for faults it has not seen.

use serde::{Deserialize, Serialize};

use super::logistic::{Logistic, sigmoid, softplus};

/// Beta calibration of `p = sigmoid(z)`: the probability is `sigmoid(c + a ln p - b ln(1 - p))`.
///
/// `a` and `b` are at least 0, so that what was likelier stays so. With `a = b = 1/T` and `c = 0` it is temperature scaling, which errs
/// towards doubt here: most stages are told apart with ease, a few faults point to the wrong stage with as much force, and one slope
/// for both ends gives way to those few (docs/attribution.md, "How figures are made").
///
/// # Reference
/// Kull, Silva Filho and Flach 2017, AISTATS, *Beta calibration*, eq. 3.
///
/// # Deviations
/// A ridge penalty on `a` and `b`: stages that are all told apart do not make the model certain.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BetaCalibration {
    /// Slope where p is small.
    pub a: f64,
    /// Slope where p is near 1.
    pub b: f64,
    /// Shift of the log-odds.
    pub c: f64,
}

impl BetaCalibration {
    /// Leaves every probability as it is.
    pub const IDENTITY: Self = Self { a: 1.0, b: 1.0, c: 0.0 };

    /// Fits it on `(log-odds, outcome)` by maximum likelihood with a penalty `ridge/2 (a^2 + b^2)`.
    ///
    /// The identity where all outcomes are alike.
    pub fn fit(held_out: &[(f64, bool)], ridge: f64) -> Self {
        let outcomes: Vec<bool> = held_out.iter().map(|(_, outcome)| *outcome).collect();
        let fit = |has_a: bool, has_b: bool| -> Option<Self> {
            let row = |(z, _): &(f64, bool)| {
                let [low, high] = columns(*z);
                vec![if has_a { low } else { 0.0 }, if has_b { high } else { 0.0 }]
            };
            let rows: Vec<Vec<f64>> = held_out.iter().map(row).collect();
            let Logistic { weights, intercept } = Logistic::fit(&rows, &outcomes, ridge)?;
            Some(Self { a: weights[0], b: weights[1], c: intercept })
        };
        let fitted = fit(true, true).and_then(|both| match both {
            Self { a, .. } if a < 0.0 => fit(false, true),
            Self { b, .. } if b < 0.0 => fit(true, false),
            both => Some(both),
        });
        // Neither slope points upwards: the log-odds say nothing.
        fitted.map_or(Self::IDENTITY, |fitted| Self { a: fitted.a.max(0.0), b: fitted.b.max(0.0), ..fitted })
    }

    /// Probability at these log-odds.
    pub fn probability(&self, log_odds: f64) -> f64 {
        let [low, high] = columns(log_odds);
        sigmoid(self.c + self.a * low + self.b * high)
    }

    /// Whether no probability falls as the log-odds rise.
    pub fn is_monotone(&self) -> bool {
        self.a >= 0.0 && self.b >= 0.0 && [self.a, self.b, self.c].iter().all(|value| value.is_finite())
    }
}

/// `ln p` and `-ln(1 - p)` of `p = sigmoid(z)`.
fn columns(z: f64) -> [f64; 2] {
    [-softplus(-z), softplus(z)]
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::{BetaCalibration, sigmoid};
    use crate::random::{normal, stream};

    /// Outcomes drawn with the probabilities of `truth`.
    fn drawn(truth: BetaCalibration, n: usize) -> Vec<(f64, bool)> {
        let mut rng = stream(2, "beta");
        let mut one = || {
            let z = 3.0 * normal(&mut rng);
            (z, rng.random::<f64>() < truth.probability(z))
        };
        (0..n).map(|_| one()).collect()
    }

    #[test]
    fn what_was_bent_is_found_again() {
        let truth = BetaCalibration { a: 1.6, b: 0.4, c: 0.8 };
        let found = BetaCalibration::fit(&drawn(truth, 40_000), 1.0);
        for z in [-6.0, -3.0, -1.0, 0.0, 1.0, 3.0, 6.0] {
            let (found, truth) = (found.probability(z), truth.probability(z));
            assert!((found - truth).abs() < 0.02, "{found} for {truth} at {z}");
        }
    }

    #[test]
    fn a_temperature_is_one_of_its_kind() {
        let halved = BetaCalibration { a: 0.5, b: 0.5, c: 0.0 };
        for z in [-20.0, -1.0, 0.0, 2.0, 30.0] {
            assert!((halved.probability(z) - sigmoid(z / 2.0)).abs() < 1e-12);
            assert!((BetaCalibration::IDENTITY.probability(z) - sigmoid(z)).abs() < 1e-12);
        }
    }

    #[test]
    fn stages_that_are_all_told_apart_make_nobody_certain() {
        let apart: Vec<(f64, bool)> = (0..40).map(|i| if i < 10 { (9.0, true) } else { (-9.0, false) }).collect();
        let fitted = BetaCalibration::fit(&apart, 1.0);
        assert!(fitted.is_monotone());
        assert!((0.9..0.9999).contains(&fitted.probability(9.0)), "{fitted:?}");
        assert!((0.0001..0.1).contains(&fitted.probability(-9.0)), "{fitted:?}");
    }

    #[test]
    fn no_order_is_turned_round() {
        let upside_down: Vec<(f64, bool)> = (0..60).map(|i| (f64::from(i) / 10.0 - 3.0, i < 20)).collect();
        let bent: Vec<(f64, bool)> = (0..60).map(|i| (f64::from(i) / 10.0 - 3.0, (20..50).contains(&i))).collect();
        for held_out in [upside_down, bent] {
            let fitted = BetaCalibration::fit(&held_out, 1.0);
            assert!(fitted.is_monotone(), "{fitted:?}");
            assert!(fitted.probability(-2.0) <= fitted.probability(2.0));
        }
        assert_eq!(BetaCalibration::fit(&[(1.0, true)], 1.0), BetaCalibration::IDENTITY);
        assert_eq!(BetaCalibration::fit(&[], 1.0), BetaCalibration::IDENTITY);
    }
}
