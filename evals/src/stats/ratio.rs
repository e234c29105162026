//! One-sided limits of a paired relative drop.

/// How paired right-or-wrong answers changed, of those that were right on a side. Counts may be effective numbers and need not be whole.
///
/// Pairs that were wrong on both sides say nothing of a ratio and are not counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairedRatio {
    /// Pairs that are right before and after.
    pub both: f64,
    /// Pairs that became worse: right before, wrong after.
    pub worse: f64,
    /// Pairs that became better.
    pub better: f64,
}

impl PairedRatio {
    /// Share of what was right before that is lost: `1 - (both + better) / (both + worse)`; less than 0 where more is right now.
    pub fn drop(&self) -> f64 {
        let before = self.both + self.worse;
        if before > 0.0 { 1.0 - (self.both + self.better) / before } else { 0.0 }
    }

    /// Score statistic of the drop being `drop`: with the ratio `t = 1 - drop`, `((both + worse) t - (both + better)) / sqrt(V)`. The variance
    /// `V = m ((1 + t) q + t - 1)`, `m` the number of pairs, is taken where the ratio is `t`: `q` is the likeliest share of pairs that became
    /// worse there, so that nothing shrinks to a point where few pairs changed.
    fn score(&self, drop: f64) -> f64 {
        let (before, after) = (self.both + self.worse, self.both + self.better);
        let (ratio, m) = (1.0 - drop, self.both + self.worse + self.better);
        let a = (1.0 + ratio) * m;
        let b = before * (ratio * ratio - 1.0) - self.better - self.worse;
        let c = self.worse * drop;
        let worse_share = ((b * b - 4.0 * a * c).max(0.0).sqrt() - b) / (2.0 * a);
        let variance = m * ((1.0 + ratio) * worse_share - drop);
        let excess = before * ratio - after;
        match variance > 0.0 {
            true => excess / variance.sqrt(),
            // Nothing changed, and that is what is asked about.
            false if excess == 0.0 => 0.0,
            false => excess.signum() * f64::INFINITY,
        }
    }

    /// The smallest drop that is not shown to be exceeded, at the level of this `quantile` (1.645 for 95 %, one-sided); with a negative
    /// quantile the largest that is not ruled out. 0 where nothing was right before.
    ///
    /// # Reference
    /// Tang, Tang and Chan 2003, *Statistics in Medicine* 22:1217; the ratio's twin of Tango's limits (`stats::paired`).
    pub fn limit(&self, quantile: f64) -> f64 {
        if self.both + self.worse <= 0.0 {
            return 0.0;
        }
        // The statistic falls as the drop rises.
        let (mut low, mut high) = (-1.0, 1.0);
        while self.score(low) <= quantile && low > -LARGEST_RISE {
            low *= 2.0;
        }
        for _ in 0..80 {
            let middle = 0.5 * (low + high);
            if self.score(middle) > quantile { low = middle } else { high = middle }
        }
        0.5 * (low + high)
    }
}

/// No rise is looked for beyond so many times what was right before.
const LARGEST_RISE: f64 = 1e6;

#[cfg(test)]
mod tests {
    use super::PairedRatio;
    use crate::stats::paired::PairedCounts;
    use proptest::prelude::*;

    #[test]
    fn the_limits_are_those_of_a_published_example() {
        // Airway reactivity of 21 children before and after a transplantation, 1, 1, 7 and 12 pairs: ratio 0.25, Tang's 95 % interval 0.065 to
        // 0.907 (Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33:2850).
        let counts = PairedRatio { both: 1.0, worse: 7.0, better: 1.0 };
        let (low, high) = (counts.limit(1.959_963_985), counts.limit(-1.959_963_985));
        assert!((counts.drop() - 0.75).abs() < 1e-12);
        assert!((low - 0.093_119_443).abs() < 1e-8 && (high - 0.934_720_776).abs() < 1e-8, "{low} {high}");
    }

    #[test]
    fn nothing_changed_is_not_certain() {
        // Where all was right before, a drop of the ratio is one of the share: the upper limit is Tango's.
        let (ratio, share) =
            (PairedRatio { both: 48.0, worse: 0.0, better: 0.0 }, PairedCounts { n: 48.0, worse: 0.0, better: 0.0 });
        assert!((ratio.limit(-1.645) - share.upper(1.645)).abs() < 1e-9, "{}", ratio.limit(-1.645));
        assert!(ratio.limit(1.645) < -0.05, "{}", ratio.limit(1.645));
        assert_eq!(PairedRatio { both: 0.0, worse: 0.0, better: 3.0 }.limit(1.645), 0.0, "nothing can be lost");
    }

    proptest! {
        #[test]
        fn the_closed_form_is_the_likeliest_share(both in 0_u32..30, worse in 1_u32..20, better in 0_u32..20, drop in -2.0_f64..0.95) {
            let (both, worse, better) = (f64::from(both), f64::from(worse), f64::from(better));
            let (ratio, m) = (1.0 - drop, both + worse + better);
            let likelihood = |q: f64| {
                let part = |count: f64, p: f64| if count > 0.0 { count * p.max(1e-300).ln() } else { 0.0 };
                part(both, (1.0 - q * (1.0 + ratio)) / ratio) + part(better, (q - drop) / ratio) + part(worse, q)
            };
            let (mut low, mut high) = (drop.max(0.0), 1.0 / (1.0 + ratio));
            for _ in 0..200 {
                let (left, right) = (low + (high - low) / 3.0, high - (high - low) / 3.0);
                if likelihood(left) < likelihood(right) { low = left } else { high = right }
            }
            let slow = ((both + worse) * ratio - both - better) / (m * ((1.0 + ratio) * low - drop)).sqrt();
            let fast = PairedRatio { both, worse, better }.score(drop);
            prop_assert!((fast - slow).abs() < 1e-4 * (1.0 + slow.abs()), "{} {}", fast, slow);
        }

        #[test]
        fn limits_hold_the_drop_and_narrow_with_more_pairs(both in 1_u32..200, worse in 0_u32..30, better in 0_u32..30) {
            let (both, worse, better) = (f64::from(both), f64::from(worse), f64::from(better));
            let counts = PairedRatio { both, worse, better };
            let (low, high) = (counts.limit(1.645), counts.limit(-1.645));
            prop_assert!(low <= counts.drop() + 1e-9 && counts.drop() <= high + 1e-9, "{} {} {}", low, counts.drop(), high);
            let four = PairedRatio { both: 4.0 * both, worse: 4.0 * worse, better: 4.0 * better };
            prop_assert!(four.limit(-1.645) - four.limit(1.645) < high - low);
        }
    }
}
