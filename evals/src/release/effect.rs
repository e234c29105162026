//! How much worse one side is, with one-sided limits at any level.

use std::collections::BTreeMap;

use crate::random::stream;
use crate::stats::bootstrap::{Bca, DRAWS, leave_one_out, resample_clusters};
use crate::stats::calibration::{Forecast, ece_of, null_error, resampled_ece};
use crate::stats::clustered::clustered_mean;
use crate::stats::paired::PairedCounts;
use crate::stats::ratio::PairedRatio;
use crate::stats::{normal, student};

/// Spread between two training seeds, as a standard deviation of their difference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct SeedNoise {
    pub(super) sd: f64,
    /// Degrees of freedom of that estimate; infinite where it is given.
    pub(super) df: f64,
}

/// How a harm is reckoned from two sides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reckoning<'a> {
    /// 1 where a fall of the value is the harm, -1 where a rise is.
    pub(super) sign: f64,
    /// Share of the value before that may be lost; 0 where what is allowed is a number.
    pub(super) relative: f64,
    /// The cluster of each item.
    pub(super) clusters: &'a [usize],
    /// Noise of training seeds; `None` where it is unknown.
    pub(super) noise: Option<SeedNoise>,
}

/// A harm (what got worse is positive) and how far it can be trusted.
///
/// Where a share of the value before is allowed, that value is uncertain with the harm: the limits are those of `harm - share * before`, put
/// where the harm and the value before were measured. So a harm is beyond what is allowed exactly where its limit is.
#[derive(Debug, Clone)]
pub(super) struct Effect {
    pub(super) harm: f64,
    /// Number of items, and of clusters.
    pub(super) n: usize,
    pub(super) n_clusters: usize,
    items: Items,
    noise: Option<SeedNoise>,
    /// What the lower and the upper limit are moved outwards by.
    slack: [f64; 2],
}

/// What the answers alone say.
#[derive(Debug, Clone)]
enum Items {
    /// Right or wrong: Tango's limits, with as many pairs as there were independent ones.
    Counts { counts: PairedCounts, df: f64 },
    /// The same where a share of what was right before may be lost: Tang's limits.
    Ratio {
        counts: PairedRatio,
        /// Number of independent pairs.
        n: f64,
        /// Share that was right before.
        before: f64,
        /// 1 where a fall is the harm, -1 where a rise is.
        sign: f64,
        /// What `before` may be multiplied by.
        left: f64,
        df: f64,
    },
    /// Scores of any size: the mean difference and its clustered standard error.
    Mean { se: f64, df: f64 },
    /// A statistic that is no mean.
    Draws(Bca),
}

impl Effect {
    /// Mean loss of the scores, one for each item: Tango's limits where all changed by 0, 1 or a half, Tang's where a share of the value
    /// before is allowed, else Student's. `None` without items.
    ///
    /// Where few items changed, it is seen on the sides how items of a cluster depend on each other.
    pub(super) fn of_mean(before: &[f64], after: &[f64], reckoning: &Reckoning) -> Option<Self> {
        let Reckoning { sign, relative, clusters, noise } = *reckoning;
        let harms: Vec<f64> = before.iter().zip(after).map(|(b, a)| sign * (b - a)).collect();
        let n = harms.len() as f64;
        let share = before.iter().sum::<f64>() / n.max(1.0);
        // What is decided on: the harm less what is allowed of it, put where the harm is.
        let excesses: Vec<f64> = harms.iter().zip(before).map(|(harm, b)| harm - relative * (b - share)).collect();
        let mean = clustered_mean(&excesses, clusters)?;
        let seen =
            [excesses.as_slice(), before, after].into_iter().filter_map(|values| design_effect(values, clusters));
        let (design_effect, df) = match seen.reduce(f64::max) {
            Some(seen) => (seen, (mean.n_clusters as f64 - 1.0).max(1.0)),
            // Nothing is estimated from the clusters, so that no degrees of freedom are lost with them.
            None => (design_effect_of_one_answer(clusters), f64::INFINITY),
        };
        let sum = |value: fn(f64, f64) -> f64| {
            before.iter().zip(after).map(|(b, a)| value(*b, *a)).sum::<f64>() / design_effect
        };
        let (lost, won) = (sum(|b, a| (b - a).max(0.0)), sum(|b, a| (a - b).max(0.0)));
        let n_effective = n / design_effect;
        let is_count = harms.iter().all(|harm| (2.0 * harm).fract() == 0.0);
        let items = if is_count && relative > 0.0 && share > 0.0 {
            let counts = PairedRatio { both: sum(f64::min), worse: lost, better: won };
            Items::Ratio { counts, n: n_effective, before: share, sign, left: 1.0 - sign * relative, df }
        } else if is_count {
            let (worse, better) = if sign > 0.0 { (lost, won) } else { (won, lost) };
            Items::Counts { counts: PairedCounts { n: n_effective, worse, better }, df }
        } else {
            Items::Mean { se: mean.se, df }
        };
        let harm = harms.iter().sum::<f64>() / n;
        Some(Self { harm, n: harms.len(), n_clusters: mean.n_clusters, items, noise, slack: [0.0; 2] })
    }

    /// Change of the expected calibration error between two sets of forecasts on the same items: BCa limits, clusters resampled together.
    /// `None` where fewer than ten clusters have forecasts.
    ///
    /// Chance adds to an error, and the more the smaller it truly is, so that growth from a calibrated side is understated: each limit is moved
    /// outwards by what chance alone would make of the side that is subtracted there.
    pub(super) fn of_ece(before: &[Forecast], after: &[Forecast], reckoning: &Reckoning) -> Option<Self> {
        let Reckoning { sign, relative, clusters, noise } = *reckoning;
        let n_clusters = clusters.iter().max()? + 1;
        if n_clusters < MIN_CLUSTERS {
            return None;
        }
        let value = ece_of(before)?;
        let excess = |counts: &[f64]| {
            resampled_ece(before, clusters, counts)
                .zip(resampled_ece(after, clusters, counts))
                .map_or(f64::NAN, |(before, after)| sign * (before - after) - relative * (before - value))
        };
        let harm = excess(&vec![1.0; n_clusters]);
        let draws = resample_clusters(n_clusters, DRAWS, &mut stream(0, "release/ece"), excess);
        let limits = Bca::new(&draws, harm, &leave_one_out(n_clusters, excess))?;
        let by_chance = |side: &[Forecast]| {
            null_error(ece_of, side, DRAWS, &mut stream(0, "release/null")).map_or(0.0, |(mean, _)| mean)
        };
        // As often as each side counts in the excess.
        let (of_before, of_after) = ((sign - relative).abs() * by_chance(before), by_chance(after));
        let slack = if sign < 0.0 { [of_after, of_before] } else { [of_before, of_after] };
        Some(Self { harm, n: before.len(), n_clusters, items: Items::Draws(limits), noise, slack })
    }

    /// Lower limit of the harm: exceeded with probability `1 - alpha`.
    pub(super) fn low(&self, alpha: f64) -> f64 {
        self.limit(alpha)
    }

    /// Upper limit of the harm.
    pub(super) fn high(&self, alpha: f64) -> f64 {
        self.limit(1.0 - alpha)
    }

    /// The harm that the true one lies below with probability `level`. The two sources of error are independent: their distances from
    /// the estimate add up in squares.
    ///
    /// # Reference
    /// Zou and Donner 2008, *Statistics in Medicine* 27 (variance estimates recovered from limits).
    fn limit(&self, level: f64) -> f64 {
        let limit = self.limit_without_slack(level);
        if level < 0.5 { limit - self.slack[0] } else { limit + self.slack[1] }
    }

    fn limit_without_slack(&self, level: f64) -> f64 {
        let of_items = match &self.items {
            // The limit at level .05 is where the statistic is the 95 % quantile.
            Items::Counts { counts, df } => counts.lower(student::quantile(1.0 - level, *df)),
            // A rise is a negative drop: its lower limit is the drop's upper one.
            Items::Ratio { counts, before, sign, df, .. } => {
                (sign * before * counts.limit(sign * student::quantile(1.0 - level, *df))).clamp(-1.0, 1.0)
            }
            Items::Mean { se, df } => self.harm + student::quantile(level, *df) * se,
            Items::Draws(limits) => limits.limit(level),
        };
        let Some(SeedNoise { sd, df }) = self.noise else { return of_items };
        let distance = (of_items - self.harm).hypot(student::quantile(level, df) * sd);
        (if level < 0.5 { self.harm - distance } else { self.harm + distance }).clamp(-1.0, 1.0)
    }

    /// p-value of the harm being no more than `allowed`: the smallest level at which the lower limit exceeds it.
    pub(super) fn p_exceeds(&self, allowed: f64) -> f64 {
        let (mut exceeded, mut not) = (1.0, 0.0);
        for _ in 0..50 {
            let middle = 0.5 * (exceeded + not);
            if self.low(middle) > allowed { exceeded = middle } else { not = middle }
        }
        match self.items {
            // No number of draws shows less than one of them.
            Items::Draws(_) => exceeded.max(1.0 / (DRAWS + 1) as f64),
            _ => exceeded,
        }
    }

    /// Smallest harm that is found to exceed `allowed` at level `alpha` with this power; `None` where not even the largest is.
    pub(super) fn detectable(&self, allowed: f64, alpha: f64, power: f64) -> Option<f64> {
        let is_found = |harm: f64| {
            let (of_items, noise) = (self.variance_of_items(harm).sqrt(), self.noise());
            let limit = (self.quantile_of_items(1.0 - alpha) * of_items)
                .hypot(student::quantile(1.0 - alpha, noise.df) * noise.sd);
            harm - allowed >= limit + normal::quantile(power) * of_items.hypot(noise.sd) + self.slack[0]
        };
        if !is_found(1.0) {
            return None;
        }
        let (mut low, mut high) = (allowed, 1.0);
        for _ in 0..50 {
            let middle = 0.5 * (low + high);
            if is_found(middle) { high = middle } else { low = middle }
        }
        Some(high)
    }

    /// Number of items with which this harm would be decided with this power; `None` where no larger number than there are would: the harm is at
    /// the edge of what is allowed, or within the noise of a seed.
    pub(super) fn n_to_decide(&self, allowed: f64, alpha: f64, power: f64) -> Option<usize> {
        let z = self.quantile_of_items(1.0 - alpha) + normal::quantile(power);
        let left = (self.harm - allowed).powi(2) / (z * z) - self.noise().sd.powi(2);
        let of_one = self.variance_of_items(self.harm) * self.n as f64;
        (left > 0.0).then(|| (of_one / left).ceil()).filter(|n| *n < 1e9).map(|n| n as usize).filter(|n| *n > self.n)
    }

    /// The noise of seeds; none where it is unknown.
    fn noise(&self) -> SeedNoise {
        self.noise.unwrap_or(SeedNoise { sd: 0.0, df: f64::INFINITY })
    }

    /// Variance that the items add to the estimate where the true harm is `harm`.
    fn variance_of_items(&self, harm: f64) -> f64 {
        match &self.items {
            Items::Counts { counts, .. } => {
                // Items that change both ways go on doing so, half an item of each where none did; a net change of d adds d to them.
                let changing = 2.0 * counts.worse.min(counts.better).max(0.5) / counts.n + harm.abs();
                (changing - harm * harm).max(0.0) / counts.n
            }
            Items::Ratio { counts, before, sign, left, n, .. } => {
                let lost = sign * harm;
                let changing = counts.worse.min(counts.better).max(0.5) / n;
                let (after, both) = (before - lost, before - changing - lost.max(0.0));
                let excess = left * before - after;
                (left * left * before + after - 2.0 * left * both - excess * excess).max(0.0) / n
            }
            Items::Mean { se, .. } => se * se,
            Items::Draws(limits) => (0.5 * (limits.limit(normal::cdf(1.0)) - limits.limit(normal::cdf(-1.0)))).powi(2),
        }
    }

    /// Quantile that the limits of the items take.
    fn quantile_of_items(&self, level: f64) -> f64 {
        match &self.items {
            Items::Counts { df, .. } | Items::Ratio { df, .. } | Items::Mean { df, .. } => {
                student::quantile(level, *df)
            }
            Items::Draws(_) => normal::quantile(level),
        }
    }

    /// How the limits were made.
    pub(super) fn method(&self) -> &'static str {
        match (&self.items, self.n_clusters < self.n) {
            (Items::Counts { .. }, true) => "Tango, clustered",
            (Items::Counts { .. }, false) => "Tango",
            (Items::Ratio { .. }, true) => "Tang, clustered",
            (Items::Ratio { .. }, false) => "Tang",
            (Items::Mean { .. }, true) => "Student, clustered",
            (Items::Mean { .. }, false) => "Student",
            (Items::Draws(_), _) => "BCa bootstrap of clusters",
        }
    }
}

/// With fewer clusters a bootstrap has nothing to draw from.
const MIN_CLUSTERS: usize = 10;

/// How many items one independent item stands for, at least 1; `None` where all values are equal.
fn design_effect(values: &[f64], clusters: &[usize]) -> Option<f64> {
    let mean = clustered_mean(values, clusters)?;
    let n = values.len() as f64;
    let variance = values.iter().map(|value| (value - mean.mean).powi(2)).sum::<f64>() / (n * (n - 1.0).max(1.0));
    (variance > 0.0).then(|| (mean.se * mean.se / variance).max(1.0))
}

/// The same where the items of a cluster are taken for one: the mean size of the cluster that an item is in.
///
/// # Reference
/// Kish 1965, *Survey Sampling*, chapter 5, at an intraclass correlation of 1.
fn design_effect_of_one_answer(clusters: &[usize]) -> f64 {
    let mut sizes = BTreeMap::<usize, f64>::new();
    for cluster in clusters {
        *sizes.entry(*cluster).or_default() += 1.0;
    }
    sizes.values().map(|size| size * size).sum::<f64>() / clusters.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::{Effect, Reckoning, SeedNoise};
    use crate::random::stream;
    use crate::stats::calibration::Forecast;
    use rand::Rng;

    fn independent(n: usize) -> Vec<usize> {
        (0..n).collect()
    }

    /// Sides that differ by these harms, of which each is -1, 0 or 1.
    fn sides(harms: &[f64]) -> [Vec<f64>; 2] {
        let before = harms.iter().map(|harm| f64::from(u8::from(*harm >= 0.0)));
        let after = before.clone().zip(harms).map(|(before, harm)| before - harm);
        [before.collect(), after.collect()]
    }

    fn effect_of(harms: &[f64], clusters: &[usize], noise: Option<SeedNoise>) -> Effect {
        let [before, after] = sides(harms);
        Effect::of_mean(&before, &after, &Reckoning { sign: 1.0, relative: 0.0, clusters, noise }).unwrap()
    }

    /// Of calibration errors, of which more is worse.
    fn growth(before: &[Forecast], after: &[Forecast]) -> Option<Effect> {
        let clusters = independent(before.len());
        Effect::of_ece(before, after, &Reckoning { sign: -1.0, relative: 0.0, clusters: &clusters, noise: None })
    }

    #[test]
    fn two_wins_and_no_loss_decide_nothing() {
        let mut harms = vec![0.0; 20];
        (harms[0], harms[1]) = (-1.0, -1.0);
        let effect = effect_of(&harms, &independent(20), None);
        assert!(effect.high(0.05) > 0.0 && effect.low(0.05) < -0.1, "{} {}", effect.low(0.05), effect.high(0.05));
        assert!(effect.p_exceeds(0.0) > 0.5);
    }

    #[test]
    fn a_model_beside_itself_is_not_worse_and_not_certainly_as_good() {
        // 12 clusters of 4 that no answer tells apart: 12 independent items.
        let clusters: Vec<usize> = (0..48).map(|i| i / 4).collect();
        let effect = effect_of(&[0.0; 48], &clusters, None);
        assert!(
            effect.p_exceeds(0.0) > 0.4 && effect.low(0.05) < -0.1,
            "{} {}",
            effect.p_exceeds(0.0),
            effect.low(0.05)
        );
        assert!((0.15..0.3).contains(&effect.high(0.05)), "{}", effect.high(0.05));
    }

    #[test]
    fn clusters_that_change_together_count_as_one_each() {
        // 40 clusters of 5; in 12 of them all items became worse.
        let clusters: Vec<usize> = (0..200).map(|i| i / 5).collect();
        let harms: Vec<f64> = clusters.iter().map(|c| f64::from(u8::from(*c < 12))).collect();
        let together = effect_of(&harms, &clusters, None);
        let alone = effect_of(&harms, &independent(200), None);
        assert!((4.5..5.6).contains(&super::design_effect(&harms, &clusters).unwrap()));
        assert!(together.low(0.05) < alone.low(0.05) - 0.03 && together.high(0.05) > alone.high(0.05) + 0.03);
        assert!(together.n_to_decide(0.25, 0.05, 0.8) > alone.n_to_decide(0.25, 0.05, 0.8));
    }

    #[test]
    fn noise_of_a_seed_widens_both_sides_and_can_make_a_decision_impossible() {
        let harms: Vec<f64> = (0..300).map(|i| f64::from(u8::from(i % 10 == 0))).collect();
        let noise = Some(SeedNoise { sd: 0.05, df: f64::INFINITY });
        let plain = effect_of(&harms, &independent(300), None);
        let noisy = effect_of(&harms, &independent(300), noise);
        assert!(noisy.low(0.05) < plain.low(0.05) - 0.03 && noisy.high(0.05) > plain.high(0.05) + 0.03);
        assert!(plain.n_to_decide(0.08, 0.05, 0.8).is_some_and(|n| n > 1000));
        assert_eq!(noisy.n_to_decide(0.08, 0.05, 0.8), None);
        assert!(noisy.detectable(0.02, 0.05, 0.8) > plain.detectable(0.02, 0.05, 0.8));
    }

    #[test]
    fn the_p_value_is_where_the_limit_meets_what_is_allowed() {
        let harms: Vec<f64> = (0..200).map(|i| [1.0, 0.0, 0.0, -1.0, 0.0, 0.0, 1.0][i % 7]).collect();
        let effect = effect_of(&harms, &independent(200), None);
        for allowed in [0.0, 0.05, 0.2] {
            let p = effect.p_exceeds(allowed);
            assert!((effect.low(p) - allowed).abs() < 1e-6, "{allowed}: {p} {}", effect.low(p));
        }
    }

    #[test]
    fn a_share_of_what_was_right_is_decided_by_the_ratio() {
        let right =
            |share: &dyn Fn(usize) -> bool| -> Vec<f64> { (0..400).map(|i| f64::from(u8::from(share(i)))).collect() };
        let clusters = independent(400);
        let effect = |sides: [Vec<f64>; 2], sign: f64, relative: f64| {
            Effect::of_mean(&sides[0], &sides[1], &Reckoning { sign, relative, clusters: &clusters, noise: None })
                .unwrap()
        };
        // 20 of 200 are lost: 10 %, and a fifth of 50 points is allowed. That 200 were right is as uncertain as that 20 were lost.
        let sides = || [right(&|i| i < 200), right(&|i| i < 180)];
        let fell = effect(sides(), 1.0, 0.2);
        assert!((fell.harm - 0.05).abs() < 1e-12 && fell.method() == "Tang");
        assert!(fell.low(0.05) > 0.03 && fell.high(0.05) < 0.08, "{} {}", fell.low(0.05), fell.high(0.05));
        assert!(fell.p_exceeds(0.02 * 0.5) < 0.01 && fell.p_exceeds(0.2 * 0.5) > 0.99);
        assert!(fell.detectable(0.1, 0.05, 0.8).is_some_and(|harm| (0.12..0.16).contains(&harm)));
        // The other way round a rise is the harm.
        let rose = effect([right(&|i| i < 100), right(&|i| i < 150)], -1.0, 0.2);
        assert!((rose.harm - 0.125).abs() < 1e-12 && rose.low(0.05) > 0.2 * 0.25, "{}", rose.low(0.05));
        // Of nothing nothing can be lost, and scores of any size have Student's limits.
        assert_eq!(effect([right(&|_| false), right(&|i| i < 9)], 1.0, 0.2).method(), "Tango");
        let odds = effect(sides().map(|side| side.iter().map(|score| 0.7 * score + 0.1).collect()), 1.0, 0.1);
        assert!(odds.method() == "Student" && odds.low(0.05) < odds.harm && odds.harm < odds.high(0.05));
    }

    #[test]
    fn an_error_that_grew_by_what_is_allowed_rarely_passes() {
        // Chance adds to the error of the calibrated side and hardly to the other's.
        let mut rng = stream(6, "release/ece level");
        let mut passed = 0;
        for _ in 0..100 {
            let mut drawn = |shift: f64| -> Vec<Forecast> {
                let mut one = || {
                    let right: f64 = rng.random_range(0.5..0.9);
                    let outcome = f64::from(u8::from(rng.random::<f64>() < right));
                    Forecast { confidence: right + shift, outcome }
                };
                (0..300).map(|_| one()).collect()
            };
            let (calm, sure) = (drawn(0.0), drawn(0.05));
            let effect = growth(&calm, &sure).unwrap();
            passed += i32::from(effect.high(0.05) <= 0.05);
        }
        assert!(passed <= 11, "{passed} of 100 at a level of 5 %");
    }

    #[test]
    fn lost_calibration_is_found() {
        let mut rng = stream(5, "release/ece test");
        let mut drawn = |sureness: f64| -> Vec<Forecast> {
            let mut one = || {
                let confidence: f64 = rng.random_range(0.5..0.9);
                let outcome = f64::from(u8::from(rng.random::<f64>() < confidence));
                Forecast { confidence: confidence + sureness * (1.0 - confidence), outcome }
            };
            (0..400).map(|_| one()).collect()
        };
        let (calm, same, sure) = (drawn(0.0), drawn(0.0), drawn(0.8));
        assert!(growth(&calm[..9], &calm[..9]).is_none(), "too few clusters");
        let effect = |after: &[Forecast]| growth(&calm, after).unwrap();
        assert!(effect(&sure).low(0.05) > 0.1 && effect(&sure).p_exceeds(0.02) < 0.01);
        assert!(effect(&same).low(0.05) < 0.0 && effect(&same).high(0.05) < 0.15);
    }
}
