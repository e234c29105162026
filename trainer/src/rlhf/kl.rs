//! How much a nat of divergence costs: a number, or a controller that holds the divergence near a target.

use crate::recipe::{NonNegative, Positive};
use serde::{Deserialize, Serialize};

/// A controller of the divergence (`[rlhf.adaptive_kl]`); without it the price stays what `kl` says.
///
/// # Reference
/// Ziegler et al. 2019, arXiv 1909.08593, section 2.2.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptiveKlRecipe {
    /// Divergence that is aimed at, nats per answer.
    pub target_nats: Positive,
    /// Relative change of the price per round and unit of relative error. Default 0.1, the paper's.
    #[serde(default = "gain")]
    pub gain: NonNegative,
}

fn gain() -> NonNegative {
    NonNegative::new(0.1).expect("in range")
}

impl AdaptiveKlRecipe {
    /// The price after a round with this divergence: `price (1 + gain clip((KL - target) / target, -0.2, 0.2))`.
    pub(crate) fn adapt(&self, price: f64, kl_nats: f64) -> f64 {
        let error = (kl_nats - self.target_nats.get()) / self.target_nats.get();
        price * (1.0 + self.gain.get() * error.clamp(-0.2, 0.2))
    }
}

#[cfg(test)]
mod tests {
    use super::{AdaptiveKlRecipe, gain};
    use crate::recipe::Positive;

    #[test]
    fn the_price_rises_above_the_target_and_falls_below_it_within_bounds() {
        let recipe = AdaptiveKlRecipe { target_nats: Positive::new(2.0).unwrap(), gain: gain() };
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12, "{found} against {expected}");
        close(recipe.adapt(0.5, 2.2), 0.5 * 1.01); // an error of 0.1
        close(recipe.adapt(0.5, 100.0), 0.5 * 1.02); // an error of 49, clipped to 0.2
        close(recipe.adapt(0.5, 0.0), 0.5 * 0.98);
        close(recipe.adapt(0.5, 2.0), 0.5);
    }
}
