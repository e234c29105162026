//! One-sided limits of a paired difference of shares.

/// How paired right-or-wrong answers changed. Counts may be effective numbers and need not be whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairedCounts {
    /// Number of pairs.
    pub n: f64,
    /// Pairs that became worse: right before, wrong after.
    pub worse: f64,
    /// Pairs that became better.
    pub better: f64,
}

impl PairedCounts {
    /// Share of pairs that became worse less share that became better.
    pub fn difference(&self) -> f64 {
        if self.n > 0.0 { (self.worse - self.better) / self.n } else { 0.0 }
    }

    /// Tango's score statistic of the difference being `delta`: the variance is taken where it is `delta`, so that nothing
    /// shrinks to a point where few pairs changed.
    fn score(&self, delta: f64) -> f64 {
        let (n, worse, better) = (self.n, self.worse, self.better);
        let a = 2.0 * n;
        let b = (2.0 * n - worse + better) * delta - worse - better;
        let c = -better * delta * (1.0 - delta);
        let better_share = (((b * b - 4.0 * a * c).max(0.0)).sqrt() - b) / (2.0 * a);
        let variance = n * (2.0 * better_share + delta * (1.0 - delta)).max(0.0);
        let excess = worse - better - n * delta;
        match variance > 0.0 {
            true => excess / variance.sqrt(),
            // Nothing changed, and that is what is asked about.
            false if excess == 0.0 => 0.0,
            false => excess.signum() * f64::INFINITY,
        }
    }

    /// The smallest difference that is not shown to be exceeded, at the level of this `quantile` (1.645 for 95 %, one-sided).
    ///
    /// # Reference
    /// Tango 1998, *Statistics in Medicine* 17:891.
    pub fn lower(&self, quantile: f64) -> f64 {
        self.limit(|delta| self.score(delta) > quantile)
    }

    /// The largest difference that is not ruled out.
    pub fn upper(&self, quantile: f64) -> f64 {
        self.limit(|delta| self.score(delta) > -quantile)
    }

    /// The difference up to which `is_below` holds: the statistic falls as the difference rises.
    fn limit(&self, is_below: impl Fn(f64) -> bool) -> f64 {
        if self.n <= 0.0 {
            return 0.0;
        }
        let (mut low, mut high) = (-1.0, 1.0);
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            if is_below(middle) { low = middle } else { high = middle }
        }
        0.5 * (low + high)
    }
}

#[cfg(test)]
mod tests {
    use super::PairedCounts;
    use proptest::prelude::*;

    /// The statistic with the share of pairs that became better found by search: the oracle of the closed form.
    fn slow_score(counts: PairedCounts, delta: f64) -> f64 {
        let PairedCounts { n, worse, better } = counts;
        let likelihood = |share: f64| {
            let part = |count: f64, p: f64| if count > 0.0 { count * p.max(1e-300).ln() } else { 0.0 };
            part(worse, share + delta) + part(better, share) + part(n - worse - better, 1.0 - 2.0 * share - delta)
        };
        let (mut low, mut high) = ((-delta).max(0.0), (1.0 - delta) / 2.0);
        for _ in 0..200 {
            let (left, right) = (low + (high - low) / 3.0, high - (high - low) / 3.0);
            if likelihood(left) < likelihood(right) { low = left } else { high = right }
        }
        (worse - better - n * delta) / (n * (2.0 * low + delta * (1.0 - delta))).sqrt()
    }

    #[test]
    fn the_closed_form_is_the_likeliest_share() {
        for (n, worse, better) in [(44.0, 7.0, 1.0), (50.0, 12.0, 4.0), (100.0, 0.0, 3.0)] {
            let counts = PairedCounts { n, worse, better };
            for delta in [-0.1, 0.02, 0.2, 0.3] {
                let (fast, slow) = (counts.score(delta), slow_score(counts, delta));
                assert!((fast - slow).abs() < 1e-5, "{counts:?} at {delta}: {fast} {slow}");
            }
        }
    }

    #[test]
    fn the_limits_solve_the_score_equation() {
        let counts = PairedCounts { n: 44.0, worse: 7.0, better: 1.0 };
        let (low, high) = (counts.lower(1.959_963_985), counts.upper(1.959_963_985));
        assert!((low - 0.013_121_919).abs() < 1e-8 && (high - 0.276_660_074).abs() < 1e-8, "{low} {high}");
    }

    #[test]
    fn nothing_changed_is_not_certain() {
        // With no discordant pair the upper limit is z^2 / (n + z^2), the rule of three's order of magnitude.
        let counts = PairedCounts { n: 48.0, worse: 0.0, better: 0.0 };
        let expected = 1.645_f64.powi(2) / (48.0 + 1.645_f64.powi(2));
        assert!((counts.upper(1.645) - expected).abs() < 1e-9);
        assert!((counts.lower(1.645) + expected).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn limits_hold_the_difference_and_mirror(worse in 0_u32..30, better in 0_u32..30, same in 0_u32..200) {
            let n = f64::from(worse + better + same + 1);
            let (worse, better) = (f64::from(worse), f64::from(better));
            let counts = PairedCounts { n, worse, better };
            let mirrored = PairedCounts { n, worse: better, better: worse };
            let (low, high) = (counts.lower(1.645), counts.upper(1.645));
            prop_assert!(low <= counts.difference() + 1e-9 && counts.difference() <= high + 1e-9);
            prop_assert!((mirrored.upper(1.645) + low).abs() < 1e-6, "{} {}", mirrored.upper(1.645), low);
            let four = PairedCounts { n: 4.0 * n, worse: 4.0 * worse, better: 4.0 * better };
            prop_assert!(four.upper(1.645) - four.lower(1.645) < high - low);
        }
    }
}
