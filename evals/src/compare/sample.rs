//! Scores of the same items under several training seeds, and what their mean is worth.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::diagnosis::Estimate;
use crate::stats::clustered::clustered_mean;
use crate::stats::normal;
use crate::stats::student;
use crate::stats::wilson::{wilson, wilson_at};

/// A score for each item under each seed; the items are the same, in the same order.
#[derive(Debug, Clone)]
pub(super) struct Scores {
    /// Cluster of each item.
    pub(super) clusters: Rc<Vec<usize>>,
    /// Scores by seed; `None` where an item has none.
    pub(super) by_seed: BTreeMap<u64, Vec<Option<f64>>>,
}

/// A mean over seeds and items, with its variance taken apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Crossed {
    /// Mean over seeds of the mean over items.
    pub(super) mean: f64,
    /// Variance of the mean from the choice of items (with what is left over).
    pub(super) v_items: f64,
    /// Variance of the mean from the choice of seeds; 0 with one seed, of which nothing is known.
    pub(super) v_seeds: f64,
    /// Number of scores.
    pub(super) n: usize,
    /// Number of items.
    pub(super) n_items: usize,
    n_clusters: usize,
    /// Number of seeds.
    pub(super) n_seeds: usize,
}

impl Scores {
    /// Scores of this less scores of another, where both have one.
    pub(super) fn minus(&self, other: &Self) -> Self {
        let subtract = |(seed, ours): (&u64, &Vec<Option<f64>>)| {
            let theirs = other.by_seed.get(seed)?;
            let both = |(a, b): (&Option<f64>, &Option<f64>)| Some((*a)? - (*b)?);
            Some((*seed, ours.iter().zip(theirs).map(both).collect()))
        };
        Self { clusters: Rc::clone(&self.clusters), by_seed: self.by_seed.iter().filter_map(subtract).collect() }
    }

    /// Means over several sets of scores of the same items; a seed counts where all of them have it.
    pub(super) fn average(sets: &[Self]) -> Option<Self> {
        let (first, rest) = sets.split_first()?;
        let mut by_seed = BTreeMap::new();
        for (seed, scores) in &first.by_seed {
            let Some(others) = rest.iter().map(|set| set.by_seed.get(seed)).collect::<Option<Vec<_>>>() else {
                continue;
            };
            let mean_of = |i: usize| {
                let all: Option<Vec<f64>> =
                    std::iter::once(scores[i]).chain(others.iter().map(|other| other[i])).collect();
                all.map(|all| all.iter().sum::<f64>() / all.len() as f64)
            };
            by_seed.insert(*seed, (0..scores.len()).map(mean_of).collect());
        }
        Some(Self { clusters: Rc::clone(&first.clusters), by_seed })
    }

    /// Mean of each seed, where it has scores.
    pub(super) fn means(&self) -> BTreeMap<u64, f64> {
        let mean = |scores: &Vec<Option<f64>>| {
            let known: Vec<f64> = scores.iter().flatten().copied().collect();
            (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
        };
        self.by_seed.iter().filter_map(|(seed, scores)| Some((*seed, mean(scores)?))).collect()
    }

    /// The mean and its variance, of seeds crossed with items; `None` without scores.
    ///
    /// `Var = v_items + v_seeds`: the first is the clustered variance of the items' means over seeds, the second the variance of
    /// the seeds' means over their number. All seeds answer the same items, so more seeds do not make up for few items. What is left
    /// over when items and seeds are accounted for is in both: with 3 to 5 seeds, taking it out of one costs the intervals up to
    /// seven points of their coverage, and leaving it in gains two at most (measured by the test below).
    pub(super) fn crossed(&self) -> Option<Crossed> {
        let means = self.means();
        let n_seeds = means.len();
        let mean = means.values().sum::<f64>() / n_seeds as f64;
        let n_items_all = self.clusters.len();
        let rows: Vec<(&Vec<Option<f64>>, f64)> = means.iter().map(|(seed, m)| (&self.by_seed[seed], *m)).collect();
        let item_means: Vec<Option<f64>> = (0..n_items_all)
            .map(|i| {
                let known: Vec<f64> = rows.iter().filter_map(|(row, _)| row[i]).collect();
                (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
            })
            .collect();
        let clustered = |scores: &[Option<f64>]| {
            let pairs = scores.iter().zip(self.clusters.iter()).filter_map(|(s, c)| Some(((*s)?, *c)));
            let (values, clusters): (Vec<f64>, Vec<usize>) = pairs.unzip();
            clustered_mean(&values, &clusters)
        };
        let of_items = clustered(&item_means)?;
        let mut v_seeds = 0.0;
        if n_seeds > 1 {
            let s = n_seeds as f64;
            let between = rows.iter().map(|(_, m)| (m - mean) * (m - mean)).sum::<f64>() / (s - 1.0);
            v_seeds = between / s;
        }
        Some(Crossed {
            mean,
            v_items: of_items.se * of_items.se,
            v_seeds,
            n: rows.iter().map(|(row, _)| row.iter().flatten().count()).sum(),
            n_items: of_items.n,
            n_clusters: of_items.n_clusters,
            n_seeds,
        })
    }
}

impl Crossed {
    /// Variance of the mean.
    pub(super) fn variance(&self) -> f64 {
        self.v_items + self.v_seeds
    }

    /// Degrees of freedom of the variance (Satterthwaite 1946).
    pub(super) fn degrees(&self) -> f64 {
        let part = |v: f64, n: usize| v * v / (n.max(2) - 1) as f64;
        let parts =
            part(self.v_items, self.n_clusters) + if self.n_seeds > 1 { part(self.v_seeds, self.n_seeds) } else { 0.0 };
        if parts > 0.0 { (self.variance() * self.variance() / parts).max(1.0) } else { f64::INFINITY }
    }

    fn method(&self, how: &str) -> String {
        if self.n_seeds > 1 { format!("{how}, seeds and items") } else { format!("{how}, items only, one seed") }
    }

    /// The mean of shares, with Wilson's interval on the effective number of items.
    pub(super) fn share(&self) -> Estimate {
        let spread = self.mean * (1.0 - self.mean);
        let (low, high) = if self.variance() < 1e-12 || spread < 1e-12 {
            wilson(self.mean, self.n_items as f64)
        } else {
            wilson_at(self.mean, spread / self.variance(), student::quantile(0.975, self.degrees()))
        };
        Estimate { value: self.mean, low, high, n: self.n, method: self.method("Wilson") }
    }

    /// The mean of numbers of any size, with Student's interval.
    pub(super) fn number(&self) -> Estimate {
        let half = self.half_width();
        Estimate {
            value: self.mean,
            low: self.mean - half,
            high: self.mean + half,
            n: self.n,
            method: self.method("t"),
        }
    }

    /// Half of the 95 % interval. Where all numbers are equal, what as many items could hide: Wilson's bound for none that differs by
    /// their size (by 1 where they are 0).
    pub(super) fn half_width(&self) -> f64 {
        if self.variance() < 1e-18 {
            let size = if self.mean.abs() < 1e-12 { 1.0 } else { self.mean.abs() };
            return size * wilson(0.0, self.n_items as f64).1;
        }
        student::quantile(0.975, self.degrees()) * self.variance().sqrt()
    }

    /// Two-sided p-value of the mean being 0; where all numbers are equal, that of the sign test.
    pub(super) fn p_value(&self) -> f64 {
        if self.variance() < 1e-18 {
            let n_items = i32::try_from(self.n_items).unwrap_or(i32::MAX);
            return if self.mean.abs() < 1e-12 { 1.0 } else { 0.5_f64.powi(n_items - 1) };
        }
        student::two_sided(self.mean / self.variance().sqrt(), self.degrees())
    }

    /// Smallest mean that differs from 0 with 80 % power.
    pub(super) fn detectable(&self) -> f64 {
        let variance = if self.variance() < 1e-18 { 1.0 / (self.n_items as f64).powi(2) } else { self.variance() };
        (student::quantile(0.975, self.degrees()) + normal::quantile(0.8)) * variance.sqrt()
    }

    /// Items per seed that would show the mean with 80 % power; `None` where no number would.
    pub(super) fn items_needed(&self) -> Option<usize> {
        let allowed = allowed_variance(self.mean) - self.v_seeds;
        let n = self.v_items * self.n_items as f64 / allowed;
        (allowed > 0.0 && n < 1e7).then(|| (n.ceil() as usize).max(self.n_items))
    }

    /// Seeds that would; `None` where no number would, or where one seed does not tell how much seeds differ.
    pub(super) fn seeds_needed(&self) -> Option<usize> {
        let allowed = allowed_variance(self.mean) - self.v_items;
        let n = self.v_seeds * self.n_seeds as f64 / allowed;
        (self.n_seeds > 1 && allowed > 0.0 && n < 1e4).then(|| (n.ceil() as usize).max(self.n_seeds))
    }
}

/// Variance at which a mean of this size is seen with 80 % power (Miller 2024, arXiv 2411.00640, equation 9).
fn allowed_variance(mean: f64) -> f64 {
    (mean / (normal::Z_95 + normal::quantile(0.8))).powi(2)
}

#[cfg(test)]
mod tests {
    use super::{Crossed, Scores};
    use crate::random::{normal, stream};
    use rand::Rng;
    use std::collections::BTreeMap;
    use std::rc::Rc;

    fn scores(rows: &[&[f64]]) -> Scores {
        let by_seed = rows.iter().enumerate().map(|(s, row)| (s as u64, row.iter().copied().map(Some).collect()));
        Scores { clusters: Rc::new((0..rows[0].len()).collect()), by_seed: by_seed.collect() }
    }

    #[test]
    fn the_variance_is_that_worked_by_hand() {
        // Additive: item effects 0, 1, 2 and seed effects 0, 3; nothing is left over.
        let found = scores(&[&[0.0, 1.0, 2.0], &[3.0, 4.0, 5.0]]).crossed().unwrap();
        assert!((found.mean - 2.5).abs() < 1e-12);
        assert!((found.v_items - 1.0 / 3.0).abs() < 1e-12); // variance 1 over 3 items
        assert!((found.v_seeds - 4.5 / 2.0).abs() < 1e-12); // variance 4.5 over 2 seeds
        assert_eq!((found.n, found.n_items, found.n_seeds), (6, 3, 2));
    }

    #[test]
    fn nothing_seen_is_not_nothing_there() {
        let none = [0.0; 90];
        let found = scores(&[&none, &none, &none]).crossed().unwrap();
        let share = found.share();
        assert!(share.low == 0.0 && share.high > 0.03 && share.high < 0.05, "{share:?}");
        assert!((found.p_value() - 1.0).abs() < 1e-12 && found.half_width() > 0.03);
        assert!(found.items_needed().is_none() && found.seeds_needed().is_none());
    }

    #[test]
    fn items_that_all_say_the_same_are_worth_no_more_than_their_number() {
        let few = scores(&[&[1.0, 1.0]]).crossed().unwrap();
        assert!(few.half_width() > 0.6 && few.p_value() == 0.5, "{few:?}");
        let many = scores(&[&[1.0; 50], &[1.0; 50]]).crossed().unwrap();
        assert!(many.half_width() > 0.05 && many.half_width() < 0.09 && many.p_value() < 1e-12, "{many:?}");
    }

    #[test]
    fn differences_are_paired_by_seed_and_item() {
        let (a, b) = (scores(&[&[1.0, 0.0, 1.0], &[1.0, 1.0, 1.0]]), scores(&[&[0.0, 0.0, 1.0]]));
        let difference = a.minus(&b);
        assert_eq!(difference.by_seed, BTreeMap::from([(0, vec![Some(1.0), Some(0.0), Some(0.0)])]));
        let mean = Scores::average(&[difference.clone(), difference.clone()]).unwrap();
        assert_eq!(mean.by_seed, difference.by_seed);
    }

    /// Share of intervals that hold the truth, for right-or-wrong items whose chances differ by item and by seed.
    fn coverage(n_seeds: usize, n_items: usize, level: f64, seed_spread: f64) -> f64 {
        let rng = &mut stream(7, &format!("coverage/{n_seeds}/{n_items}/{level}/{seed_spread}"));
        let chance = |item: f64, seed: f64| 1.0 / (1.0 + (-(level + 1.5 * item + seed_spread * seed)).exp());
        let truth = {
            let draws = 40_000;
            (0..draws).map(|_| chance(normal(rng), normal(rng))).sum::<f64>() / f64::from(draws)
        };
        let rounds = 600;
        let mut hits = 0;
        for _ in 0..rounds {
            let items: Vec<f64> = (0..n_items).map(|_| normal(rng)).collect();
            let rows: Vec<Vec<f64>> = (0..n_seeds)
                .map(|_| {
                    let seed = normal(rng);
                    items.iter().map(|&item| f64::from(u8::from(rng.random::<f64>() < chance(item, seed)))).collect()
                })
                .collect();
            let rows: Vec<&[f64]> = rows.iter().map(Vec::as_slice).collect();
            let share = scores(&rows).crossed().unwrap().share();
            hits += usize::from(share.low <= truth && truth <= share.high);
        }
        hits as f64 / f64::from(rounds)
    }

    #[test]
    fn intervals_hold_the_truth_as_often_as_they_say() {
        for (n_seeds, level, seed_spread) in
            [(3, 0.0, 0.0), (3, 0.0, 0.3), (5, 0.0, 0.3), (3, -3.5, 0.3), (5, -3.5, 0.6), (3, 2.5, 0.8), (5, 0.0, 1.0)]
        {
            let found = coverage(n_seeds, 120, level, seed_spread);
            assert!((0.92..=0.99).contains(&found), "{n_seeds} seeds, level {level}, spread {seed_spread}: {found}");
        }
    }

    #[test]
    fn what_is_needed_would_do() {
        let row = |shift: f64| (0..40).map(|i| shift + f64::from(i % 5) * 0.4 - 0.6).collect::<Vec<f64>>();
        let found = scores(&[&row(0.0), &row(0.1), &row(-0.05)]).crossed().unwrap();
        let needed = found.items_needed().unwrap();
        let enlarged = Crossed { v_items: found.v_items * found.n_items as f64 / needed as f64, ..found };
        let z = (1.959_964 + 0.841_621) * enlarged.variance().sqrt();
        assert!(found.mean >= z - 1e-6 || needed == found.n_items, "{needed}: {} against {z}", found.mean);
    }
}
