//! Answering only where one is sure.

use super::ties::{Tie, ties};

/// Share right at each coverage: `(share answered, share right of those)`, the surest first.
pub fn accuracy_at_coverage(answers: &[(f64, bool)]) -> Vec<(f64, f64)> {
    let n = answers.len() as f64;
    let (mut answered, mut right) = (0.0, 0.0);
    ties(answers)
        .into_iter()
        .map(|tie| {
            answered += tie.n();
            right += tie.right;
            (answered / n, right / answered)
        })
        .collect()
}

/// Share right of the surest `share` of answers, in whole answers, rounded up; `None` without answers.
pub fn accuracy_of_surest(ties: &[Tie], share: f64) -> Option<f64> {
    let n: f64 = ties.iter().map(|tie| tie.n()).sum();
    let wanted = (share * n).ceil();
    let (mut answered, mut right) = (0.0, 0.0);
    for tie in ties.iter().filter(|tie| tie.n() > 0.0) {
        let taken = tie.n().min(wanted - answered);
        answered += taken;
        right += tie.right * taken / tie.n();
    }
    (answered > 0.0).then(|| right / answered)
}

/// Area under the risk-coverage curve: the mean over answers, the surest first, of the share wrong so far; 0 is perfect.
/// `None` without answers.
///
/// # Reference
/// Geifman, Uziel and El-Yaniv 2019, arXiv 1805.08206, section 2.
pub fn aurc(answers: &[(f64, bool)]) -> Option<f64> {
    aurc_of(&ties(answers))
}

/// [`aurc`] of answers in order.
pub fn aurc_of(ties: &[Tie]) -> Option<f64> {
    let (mut answered, mut wrong, mut area) = (0.0, 0.0, 0.0);
    for tie in ties {
        let wrong_share = tie.wrong / tie.n();
        for _ in 0..tie.n() as usize {
            answered += 1.0;
            wrong += wrong_share;
            area += wrong / answered;
        }
    }
    (answered > 0.0).then(|| area / answered)
}

/// What [`aurc`] has beyond the best that any confidence could reach with as many answers wrong: 0 where all right answers have the higher
/// confidence. `None` without answers.
///
/// The best is `(1/n) sum_(k > n - w) (k - (n - w)) / k` with `w` wrong of `n`.
///
/// # Reference
/// Geifman, Uziel and El-Yaniv 2019, arXiv 1805.08206, section 3.
///
/// # Deviations
/// The best exactly; the paper's `r + (1 - r) ln(1 - r)` is its limit for many answers.
pub fn excess_aurc(answers: &[(f64, bool)]) -> Option<f64> {
    excess_aurc_of(&ties(answers))
}

/// [`excess_aurc`] of answers in order.
pub fn excess_aurc_of(ties: &[Tie]) -> Option<f64> {
    let n_right = ties.iter().map(|tie| tie.right).sum::<f64>() as usize;
    let n = ties.iter().map(|tie| tie.n()).sum::<f64>() as usize;
    let best: f64 = (n_right + 1..=n).map(|k| (k - n_right) as f64 / k as f64).sum();
    Some(aurc_of(ties)? - best / n as f64)
}

#[cfg(test)]
mod tests {
    use super::{accuracy_at_coverage, accuracy_of_surest, aurc, excess_aurc};
    use crate::stats::ties::ties;
    use proptest::prelude::*;

    #[test]
    fn equals_a_worked_example() {
        let answers = [(0.6, false), (0.9, true), (0.8, false), (0.7, true)];
        assert_eq!(accuracy_at_coverage(&answers), [(0.25, 1.0), (0.5, 0.5), (0.75, 2.0 / 3.0), (1.0, 0.5)]);
        assert!((aurc(&answers).unwrap() - (0.0 + 0.5 + 1.0 / 3.0 + 0.5) / 4.0).abs() < 1e-12);
    }

    #[test]
    fn equal_confidence_orders_nothing() {
        let answers = [(0.5, true), (0.5, false), (0.5, true), (0.5, false)];
        let reversed: Vec<(f64, bool)> = answers.iter().rev().copied().collect();
        assert_eq!((aurc(&answers), aurc(&reversed)), (Some(0.5), Some(0.5)));
        assert_eq!(accuracy_at_coverage(&answers), [(1.0, 0.5)]);
        assert_eq!(aurc(&[]), None);
        assert_eq!((accuracy_of_surest(&ties(&answers), 0.5), accuracy_of_surest(&[], 0.5)), (Some(0.5), None));
    }

    #[test]
    fn the_surest_half_is_rounded_up_to_whole_answers() {
        let answers = [(0.9, true), (0.8, true), (0.7, false), (0.6, false), (0.5, true)];
        let surest = |share| accuracy_of_surest(&ties(&answers), share).unwrap();
        assert_eq!([surest(0.2), surest(0.5), surest(0.6), surest(1.0)], [1.0, 2.0 / 3.0, 2.0 / 3.0, 0.6]);
        // Of three answers of equal confidence, one right, two thirds are taken.
        let tied = [(0.9, true), (0.7, true), (0.7, false), (0.7, false)];
        assert_eq!(accuracy_of_surest(&ties(&tied), 0.75), Some((1.0 + 2.0 / 3.0) / 3.0));
    }

    #[test]
    fn right_answers_first_leave_no_excess_and_the_best_is_near_its_formula() {
        let answers: Vec<(f64, bool)> = (0..1000).map(|i| (f64::from(1000 - i), i < 800)).collect();
        assert!(excess_aurc(&answers).unwrap().abs() < 1e-15);
        assert!((aurc(&answers).unwrap() - (0.2 + 0.8 * 0.8_f64.ln())).abs() < 1e-3);
        assert_eq!((excess_aurc(&[]), excess_aurc(&[(0.3, false)])), (None, Some(0.0)));
    }

    proptest! {
        #[test]
        fn ties_are_the_mean_over_their_orders(answers in proptest::collection::vec((0_u8..3, any::<bool>()), 1..7)) {
            let tied: Vec<(f64, bool)> = answers.iter().map(|(c, right)| (f64::from(*c), *right)).collect();
            // Every order of all answers, as an ever smaller addition to confidence.
            let mut orders = vec![Vec::new()];
            for _ in &tied {
                let longer = |order: &Vec<usize>| {
                    (0..tied.len()).filter(|i| !order.contains(i)).map(|i| [order.clone(), vec![i]].concat()).collect::<Vec<_>>()
                };
                orders = orders.iter().flat_map(longer).collect();
            }
            let of = |order: &Vec<usize>| {
                let strict: Vec<(f64, bool)> =
                    tied.iter().enumerate().map(|(i, (c, right))| (c + 1e-3 * order[i] as f64, *right)).collect();
                aurc(&strict).unwrap()
            };
            let mean = orders.iter().map(of).sum::<f64>() / orders.len() as f64;
            prop_assert!((aurc(&tied).unwrap() - mean).abs() < 1e-12);
            prop_assert!(excess_aurc(&tied).unwrap() > -1e-12);
        }
    }
}
