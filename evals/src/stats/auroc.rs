//! Does confidence tell right answers from wrong ones?

/// Area under the ROC curve: the chance that a right answer has the higher confidence than a wrong one, ties half.
///
/// Mann and Whitney's `U / (n_right n_wrong)` through mid-ranks. `None` unless both kinds occur.
///
/// # Reference
/// Hanley and McNeil 1982, *Radiology* 143.
pub fn auroc(confidence: &[f64], right: &[bool]) -> Option<f64> {
    let n_right = right.iter().filter(|r| **r).count();
    let n_wrong = right.len() - n_right;
    if n_right == 0 || n_wrong == 0 {
        return None;
    }
    let mut order: Vec<usize> = (0..confidence.len()).collect();
    order.sort_by(|&a, &b| confidence[a].total_cmp(&confidence[b]));
    let mut rank_sum = 0.0;
    let mut start = 0;
    while start < order.len() {
        let mut end = start;
        while end < order.len() && confidence[order[end]] == confidence[order[start]] {
            end += 1;
        }
        let mid_rank = (start + 1 + end) as f64 / 2.0;
        rank_sum += mid_rank * order[start..end].iter().filter(|&&i| right[i]).count() as f64;
        start = end;
    }
    let n_right = n_right as f64;
    Some((rank_sum - n_right * (n_right + 1.0) / 2.0) / (n_right * n_wrong as f64))
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
