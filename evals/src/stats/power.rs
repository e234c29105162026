//! What a paired comparison of this size could have seen.

use super::normal::{Z_95, quantile};

/// Smallest change of a share between two checkpoints that `n` paired items show with 80 % power at 5 %, two-sided.
///
/// Solves Connor's `n = (z_a sqrt(psi) + z_b sqrt(psi - d^2))^2 / d^2` for `d`, with `psi` the share of items that change at
/// all. A net change of `d` needs at least `d` of changing items, so `psi` is taken as `max(discordant, d)`. `None` where
/// even a change of every item would not be seen.
///
/// # Reference
/// Connor 1987, *Biometrics* 43; the same quantity as Miller 2024 (arXiv 2411.00640) eq. 9 for 0/1 scores.
pub fn detectable_effect(n: usize, discordant: f64) -> Option<f64> {
    let (mut low, mut high) = (0.0, 1.0);
    if needed(1.0, discordant) > n as f64 {
        return None;
    }
    // `needed` falls as d grows, so bisect.
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if needed(middle, discordant) > n as f64 { low = middle } else { high = middle }
    }
    Some(high)
}

/// Items needed to see a net change of `d`.
fn needed(d: f64, discordant: f64) -> f64 {
    let psi = discordant.max(d);
    let z_power = quantile(0.8);
    let root = Z_95 * psi.sqrt() + z_power * (psi - d * d).max(0.0).sqrt();
    root * root / (d * d)
}

#[cfg(test)]
mod tests {
    use super::detectable_effect;

    #[test]
    fn agrees_with_the_published_sample_size() {
        // 8 % against 3 % of items flipping (psi .11, d .05) needs 343 to 347 items for 80 % power.
        let d = detectable_effect(345, 0.11).unwrap();
        assert!((d - 0.05).abs() < 5e-4, "{d}");
    }

    #[test]
    fn more_items_see_smaller_changes() {
        let effects: Vec<f64> = [20, 100, 400, 1600].iter().map(|n| detectable_effect(*n, 0.1).unwrap()).collect();
        assert!(effects.windows(2).all(|pair| pair[1] < pair[0]), "{effects:?}");
    }

    #[test]
    fn three_items_can_show_nothing() {
        assert_eq!(detectable_effect(3, 0.0), None);
    }
}
