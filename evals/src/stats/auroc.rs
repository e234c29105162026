//! Does confidence tell right answers from wrong ones?

use super::ties::{Tie, ties};

/// Area under the ROC curve: the chance that a right answer has the higher confidence than a wrong one, ties half.
///
/// Mann and Whitney's `U / (n_right n_wrong)`. `None` unless both kinds occur.
///
/// # Reference
/// Hanley and McNeil 1982, *Radiology* 143.
pub fn auroc(confidence: &[f64], right: &[bool]) -> Option<f64> {
    auroc_of(&ties(&confidence.iter().copied().zip(right.iter().copied()).collect::<Vec<_>>()))
}

/// [`auroc`] of answers in order.
pub fn auroc_of(ties: &[Tie]) -> Option<f64> {
    let (mut n_right, mut n_wrong, mut won) = (0.0, 0.0, 0.0);
    for tie in ties {
        won += tie.wrong * (n_right + 0.5 * tie.right);
        n_right += tie.right;
        n_wrong += tie.wrong;
    }
    (n_right > 0.0 && n_wrong > 0.0).then(|| won / (n_right * n_wrong))
}

#[cfg(test)]
mod tests {
    use super::auroc;
    use proptest::prelude::*;

    #[test]
    fn perfect_order_is_one_and_reversed_is_zero() {
        assert_eq!(auroc(&[0.9, 0.8, 0.2], &[true, true, false]), Some(1.0));
        assert_eq!(auroc(&[0.1, 0.2, 0.8], &[true, true, false]), Some(0.0));
        assert_eq!(auroc(&[0.5, 0.5], &[true, false]), Some(0.5));
        assert_eq!(auroc(&[0.5, 0.6], &[true, true]), None);
    }

    proptest! {
        #[test]
        fn equals_the_count_over_all_pairs(pairs in proptest::collection::vec((0_u8..6, any::<bool>()), 2..25)) {
            let confidence: Vec<f64> = pairs.iter().map(|(c, _)| f64::from(*c)).collect();
            let right: Vec<bool> = pairs.iter().map(|(_, r)| *r).collect();
            let (mut wins, mut count) = (0.0, 0.0);
            for (a, ra) in &pairs {
                for (b, rb) in &pairs {
                    if *ra && !*rb {
                        count += 1.0;
                        wins += match a.cmp(b) {
                            std::cmp::Ordering::Greater => 1.0,
                            std::cmp::Ordering::Equal => 0.5,
                            std::cmp::Ordering::Less => 0.0,
                        };
                    }
                }
            }
            match auroc(&confidence, &right) {
                Some(got) => prop_assert!((got - wins / count).abs() < 1e-12),
                None => prop_assert!(count == 0.0),
            }
        }
    }
}
