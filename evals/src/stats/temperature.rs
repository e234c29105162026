//! How far all scores must be divided for confidence to be right: temperature scaling.

use super::calibration::Forecast;

/// Bounds of a temperature; a fit that ends there has found none.
pub const BOUNDS: (f64, f64) = (0.05, 20.0);

/// Log-likelihoods further below the best than this are taken to be this far: zero and impossible stay comparable.
const DEEPEST_NATS: f64 = 1e4;

/// Confidences nearer to 0 or 1 than this are taken to be this near: what single precision cannot tell from certainty.
const NEAREST: f64 = 6e-8;

/// One question as temperature sees it: scores in nats, which was chosen, what was right.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Less the largest, so that the largest is 0.
    nats: Vec<f64>,
    chosen: usize,
    /// Share in which each option is right: 1 for the answer of a closed set.
    target: f64,
    outcome: f64,
}

impl Scores {
    /// A closed set: the log-likelihood of each option in nats, and which is right; the likeliest is chosen. `None` without options, where a
    /// score is not a number, or where `right` is none of them.
    pub fn closed_set(log_likelihoods: &[f64], right: usize) -> Option<Self> {
        let best = log_likelihoods.iter().copied().reduce(f64::max).filter(|best| best.is_finite())?;
        if right >= log_likelihoods.len() || log_likelihoods.iter().any(|score| score.is_nan()) {
            return None;
        }
        let scores: Vec<f64> = log_likelihoods.iter().map(|score| (score - best).max(-DEEPEST_NATS)).collect();
        let chosen = log_likelihoods.iter().position(|score| *score == best)?;
        Some(Self { target: scores[right], outcome: f64::from(u8::from(chosen == right)), nats: scores, chosen })
    }

    /// An answer of which only its confidence is known: `logit(confidence)` is what the temperature divides.
    ///
    /// # Deviations
    /// With more than two options this is not the temperature of their softmax, but that of the model's claim to be right.
    pub fn binary(forecast: Forecast) -> Self {
        let confidence = forecast.confidence.clamp(NEAREST, 1.0 - NEAREST);
        let logit = (confidence / (1.0 - confidence)).ln();
        let scores = vec![logit.min(0.0), (-logit).min(0.0)];
        let target = forecast.outcome * scores[0] + (1.0 - forecast.outcome) * scores[1];
        Self { nats: scores, chosen: 0, target, outcome: forecast.outcome }
    }

    /// Confidence in the chosen option at a temperature, with how far it was right.
    pub fn forecast(&self, temperature: f64) -> Forecast {
        let total: f64 = self.nats.iter().map(|score| (score / temperature).exp()).sum();
        let confidence = (self.nats[self.chosen] / temperature).exp() / total;
        Forecast { confidence, outcome: self.outcome }
    }

    /// Negative log-likelihood of what was right, in nats.
    pub fn nll(&self, temperature: f64) -> f64 {
        self.nats.iter().map(|score| (score / temperature).exp()).sum::<f64>().ln() - self.target / temperature
    }

    /// First and second derivative of the negative log-likelihood by the inverse temperature: the mean score less the right one's, and the
    /// variance of scores.
    fn slope(&self, inverse: f64) -> (f64, f64) {
        let (mut total, mut sum, mut squares) = (0.0, 0.0, 0.0);
        for score in &self.nats {
            let weight = (score * inverse).exp();
            total += weight;
            sum += weight * score;
            squares += weight * score * score;
        }
        let mean = sum / total;
        (mean - self.target, squares / total - mean * mean)
    }
}

/// A temperature, and whether it is one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fitted {
    /// The temperature, above 1 where the model is too sure.
    pub temperature: f64,
    /// Whether the likelihood rises up to the [bound](BOUNDS): nothing inside is best.
    pub is_at_bound: bool,
}

/// The temperature with the least mean negative log-likelihood within [`BOUNDS`], with a weight for each item by its place; `None`
/// where all weights are 0, or no score differs from another (every temperature is as good).
///
/// The loss is convex in the inverse temperature (log-sum-exp is convex, the rest linear), so its slope crosses 0 once: Newton's steps,
/// and bisection where one leaves the bracket.
///
/// # Reference
/// Guo et al. 2017, arXiv 1706.04599, section 4.2.
pub fn fit(items: &[Scores], weight: impl Fn(usize) -> f64) -> Option<Fitted> {
    fit_from(1.0, items, weight)
}

/// The same, looked for from a temperature on: near the one that is found fewer steps are needed.
pub fn fit_from(start: f64, items: &[Scores], weight: impl Fn(usize) -> f64) -> Option<Fitted> {
    let slope = |inverse: f64| {
        items.iter().enumerate().fold((0.0, 0.0), |(first, second), (i, item)| {
            let weight = weight(i);
            if weight == 0.0 {
                return (first, second);
            }
            let (a, b) = item.slope(inverse);
            (first + weight * a, second + weight * b)
        })
    };
    let informative = |(i, item): (usize, &Scores)| weight(i) > 0.0 && item.nats.iter().any(|score| *score != 0.0);
    if !items.iter().enumerate().any(informative) {
        return None;
    }
    let (mut low, mut high) = (1.0 / BOUNDS.1, 1.0 / BOUNDS.0);
    let ends = (low, high);
    let mut are_ends_known = false;
    let mut inverse = (1.0 / start).clamp(low, high);
    for _ in 0..100 {
        let (first, second) = slope(inverse);
        if first < 0.0 {
            low = inverse;
        } else {
            high = inverse;
        }
        let newton = inverse - first / second;
        let is_inside = newton > low && newton < high;
        if !is_inside && !are_ends_known {
            if slope(ends.0).0 >= 0.0 {
                return Some(Fitted { temperature: BOUNDS.1, is_at_bound: true });
            }
            if slope(ends.1).0 <= 0.0 {
                return Some(Fitted { temperature: BOUNDS.0, is_at_bound: true });
            }
            are_ends_known = true;
        }
        let next = if is_inside { newton } else { (low * high).sqrt() };
        let is_done = (next - inverse).abs() <= 1e-13 * inverse;
        inverse = next;
        if is_done {
            break;
        }
    }
    Some(Fitted { temperature: 1.0 / inverse, is_at_bound: false })
}

#[cfg(test)]
mod tests {
    use super::{BOUNDS, Scores, fit, fit_from};
    use crate::random::{normal, stream};
    use crate::stats::calibration::Forecast;
    use proptest::prelude::*;
    use rand::Rng;

    /// Questions with four options whose scores are right at temperature `t`.
    fn drawn(n: usize, t: f64, name: &str) -> Vec<Scores> {
        let mut rng = stream(1, name);
        (0..n)
            .map(|_| {
                let scores: Vec<f64> = (0..4).map(|_| 3.0 * normal(&mut rng)).collect();
                let total: f64 = scores.iter().map(|s| (s / t).exp()).sum();
                let mut rest = rng.random::<f64>() * total;
                let right = scores.iter().position(|s| {
                    rest -= (s / t).exp();
                    rest < 0.0
                });
                Scores::closed_set(&scores, right.unwrap_or(3)).unwrap()
            })
            .collect()
    }

    #[test]
    fn the_planted_temperature_is_found() {
        for t in [0.5, 1.0, 2.5] {
            let found = fit(&drawn(4000, t, "planted"), |_| 1.0).unwrap();
            assert!((found.temperature / t - 1.0).abs() < 0.06 && !found.is_at_bound, "{found:?} is not {t}");
        }
    }

    #[test]
    fn all_right_and_all_wrong_end_at_the_bounds() {
        let sure = |right| vec![Scores::closed_set(&[0.0, -2.0, -3.0], right).unwrap(); 5];
        let (right, wrong) = (fit(&sure(0), |_| 1.0).unwrap(), fit(&sure(2), |_| 1.0).unwrap());
        assert_eq!((right.temperature, right.is_at_bound), (BOUNDS.0, true));
        assert_eq!((wrong.temperature, wrong.is_at_bound), (BOUNDS.1, true));
        assert_eq!(fit(&[], |_| 1.0), None);
        assert_eq!(fit(&sure(0), |_| 0.0), None);
        assert_eq!(fit(&[Scores::closed_set(&[-1.0, -1.0], 0).unwrap()], |_| 1.0), None);
    }

    #[test]
    fn impossible_options_and_certain_answers_are_survived() {
        let f64_min = f64::NEG_INFINITY;
        let mut items: Vec<Scores> =
            [0, 0, 1].map(|right| Scores::closed_set(&[-1.0, -2.0, f64_min], right).unwrap()).to_vec();
        items.push(Scores::closed_set(&[-1.0, -2.0, f64_min], 2).unwrap());
        assert!(fit(&items, |_| 1.0).unwrap().temperature.is_finite());
        let certain: Vec<Scores> = [(1.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.7, 1.0)]
            .map(|(confidence, outcome)| Scores::binary(Forecast { confidence, outcome }))
            .to_vec();
        let found = fit(&certain, |_| 1.0).unwrap().temperature;
        assert!(found > 1.0 && certain.iter().all(|item| item.nll(found).is_finite()));
        assert_eq!(Scores::closed_set(&[f64_min, f64_min], 0), None);
        assert_eq!(Scores::closed_set(&[0.0, f64::NAN], 0), None);
        assert_eq!(Scores::closed_set(&[0.0, -1.0], 2), None);
        assert_eq!(Scores::closed_set(&[], 0), None);
    }

    proptest! {
        #[test]
        fn no_other_temperature_is_better(
            items in proptest::collection::vec((proptest::collection::vec(-8.0_f64..0.0, 3), 0_usize..3, 0_u8..3), 2..30)
        ) {
            let scores: Vec<Scores> =
                items.iter().map(|(s, right, _)| Scores::closed_set(s, *right).unwrap()).collect();
            let weight = |i: usize| f64::from(items[i].2);
            let loss = |t: f64| scores.iter().enumerate().map(|(i, s)| weight(i) * s.nll(t)).sum::<f64>();
            if let Some(found) = fit(&scores, weight) {
                for start in [0.06, 3.0, 19.0] {
                    let other = fit_from(start, &scores, weight).unwrap();
                    prop_assert!((other.temperature / found.temperature - 1.0).abs() < 1e-6 && other.is_at_bound == found.is_at_bound);
                }
                prop_assert!((BOUNDS.0..=BOUNDS.1).contains(&found.temperature));
                // A slow search over the whole range.
                for step in 0..=200 {
                    let t = BOUNDS.0 * (BOUNDS.1 / BOUNDS.0).powf(f64::from(step) / 200.0);
                    prop_assert!(loss(found.temperature) <= loss(t) + 1e-9, "{found:?} is worse than {t}");
                }
            }
        }

        #[test]
        fn a_binary_confidence_is_itself_at_temperature_one(confidence in 0.001_f64..0.999, outcome in 0.0_f64..=1.0) {
            let forecast = Forecast { confidence, outcome };
            let item = Scores::binary(forecast);
            prop_assert!((item.forecast(1.0).confidence - confidence).abs() < 1e-12);
            let expected = -outcome * confidence.ln() - (1.0 - outcome) * (1.0 - confidence).ln();
            prop_assert!((item.nll(1.0) - expected).abs() < 1e-12);
        }
    }
}
