//! Answering only where one is sure.

/// Share right at each coverage: `(share answered, share right of those)`, the surest first; `answers` are `(confidence, right)`.
///
/// Answers of equal confidence are taken in together: any order among them would be an accident.
pub fn accuracy_at_coverage(answers: &[(f64, bool)]) -> Vec<(f64, f64)> {
    let n = answers.len() as f64;
    let mut sorted = answers.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut answered, mut right) = (0.0, 0.0);
    let mut curve = Vec::new();
    for tied in sorted.chunk_by(|a, b| a.0 == b.0) {
        answered += tied.len() as f64;
        right += tied.iter().filter(|(_, is_right)| *is_right).count() as f64;
        curve.push((answered / n, right / answered));
    }
    curve
}

/// Area under the risk-coverage curve: the mean over answers, the surest first, of the share wrong so far; 0 is perfect.
///
/// Among answers of equal confidence the wrong ones count as evenly spread. `None` without answers.
///
/// # Reference
/// Geifman, Uziel and El-Yaniv 2019, arXiv 1805.08206, section 2.
pub fn aurc(answers: &[(f64, bool)]) -> Option<f64> {
    let mut sorted = answers.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut answered, mut wrong, mut area) = (0.0, 0.0, 0.0);
    for tied in sorted.chunk_by(|a, b| a.0 == b.0) {
        let wrong_share = tied.iter().filter(|(_, is_right)| !is_right).count() as f64 / tied.len() as f64;
        for _ in tied {
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
    let n_right = answers.iter().filter(|(_, is_right)| *is_right).count();
    let best: f64 = (n_right + 1..=answers.len()).map(|k| (k - n_right) as f64 / k as f64).sum();
    Some(aurc(answers)? - best / answers.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::{accuracy_at_coverage, aurc, excess_aurc};
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
