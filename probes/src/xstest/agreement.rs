//! How well two ways of labelling the same answers agree.

use super::Z_95;
use crate::benchmark::Figure;

/// Answers by the label of one (rows) and of the other (columns).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table<const K: usize>(pub [[usize; K]; K]);

impl<const K: usize> Table<K> {
    /// Counts pairs of classes, each below `K`.
    pub fn count(pairs: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut cells = [[0; K]; K];
        for (row, column) in pairs {
            cells[row][column] += 1;
        }
        Self(cells)
    }

    /// Number of answers.
    pub fn n(&self) -> usize {
        self.0.as_flattened().iter().sum()
    }

    /// Share of answers with one label from both, with Wilson's interval; `None` without answers.
    pub fn agreement(&self, name: &str) -> Option<Figure> {
        let n_same = (0..K).map(|class| self.0[class][class]).sum();
        let mut outcomes = vec![true; n_same];
        outcomes.resize(self.n(), false);
        Figure::share(name, &outcomes)
    }

    /// Cohen's kappa: agreement beyond that of labels given at random with the same frequencies, in units of the most there could be.
    ///
    /// `kappa = (p_o - p_e) / (1 - p_e)`, with its asymptotic 95 % interval, cut at 1. `None` where both gave one and the same label to
    /// all, or without answers.
    ///
    /// # Reference
    /// Cohen 1960, *Educ. Psychol. Meas.* 20; standard error: Fleiss, Cohen and Everitt 1969, *Psychol. Bull.* 72, eq. 13.
    pub fn kappa(&self, name: &str) -> Option<Figure> {
        let n = self.n();
        let share = |row: usize, column: usize| self.0[row][column] as f64 / n as f64;
        let row = |class: usize| (0..K).map(|other| share(class, other)).sum::<f64>();
        let column = |class: usize| (0..K).map(|other| share(other, class)).sum::<f64>();
        let observed: f64 = (0..K).map(|class| share(class, class)).sum();
        let expected: f64 = (0..K).map(|class| row(class) * column(class)).sum();
        if n == 0 || 1.0 - expected < 1e-12 {
            return None;
        }
        let value = (observed - expected) / (1.0 - expected);
        let mut sum = 0.0;
        for first in 0..K {
            for second in 0..K {
                let weight = if first == second {
                    (1.0 - expected) - (row(first) + column(first)) * (1.0 - observed)
                } else {
                    (1.0 - observed) * (column(first) + row(second))
                };
                sum += share(first, second) * weight * weight;
            }
        }
        let offset = observed * expected - 2.0 * expected + observed;
        let variance = (sum - offset * offset) / (n as f64 * (1.0 - expected).powi(4));
        let half = Z_95 * variance.max(0.0).sqrt();
        let method = "asymptotic (Fleiss, Cohen and Everitt 1969)".to_owned();
        Some(Figure { name: name.to_owned(), value, low: value - half, high: (value + half).min(1.0), n, method })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kappa_and_its_interval_equal_those_of_statsmodels() {
        // statsmodels.stats.inter_rater.cohens_kappa([[44, 5, 1], [7, 20, 3], [9, 5, 6]]): kappa, kappa_low, kappa_upp
        let figure = Table([[44, 5, 1], [7, 20, 3], [9, 5, 6]]).kappa("kappa").unwrap();
        assert!((figure.value - KAPPA.0).abs() < 1e-12, "{figure:?}");
        assert!((figure.low - KAPPA.1).abs() < 1e-9 && (figure.high - KAPPA.2).abs() < 1e-9, "{figure:?}");
        assert_eq!(figure.n, 100);
    }

    const KAPPA: (f64, f64, f64) = (0.491_525_423_728_813_47, 0.350_158_201_217_486_86, 0.632_892_646_240_140_1);

    #[test]
    fn labels_that_never_vary_have_no_kappa() {
        assert_eq!(Table([[9, 0], [0, 0]]).kappa("kappa"), None);
        assert_eq!(Table::<2>::count([]).kappa("kappa"), None);
        assert_eq!(Table::<2>::count([]).agreement("agreement"), None);
    }

    #[test]
    fn kappa_is_one_for_equal_labels_and_zero_at_chance() {
        let equal = Table::<2>::count([(0, 0), (1, 1), (1, 1)]).kappa("kappa").unwrap();
        assert_eq!((equal.value, equal.low, equal.high), (1.0, 1.0, 1.0));
        let chance = Table([[4, 4], [4, 4]]).kappa("kappa").unwrap();
        assert!(chance.value.abs() < 1e-12 && chance.low < 0.0 && chance.high > 0.0);
        assert_eq!(Table([[3, 1], [0, 4]]).agreement("agreement").unwrap().value, 7.0 / 8.0);
    }
}
