//! Rankings of the same rows, and their fusion.

/// Ranks from 1 for the highest score; rows of equal score share the mean of their ranks.
pub fn ranks(scores: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut ranks = vec![0.0; scores.len()];
    let mut first = 0;
    for tied in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
        let mean = first as f64 + (tied.len() + 1) as f64 / 2.0;
        for &row in tied {
            ranks[row] = mean;
        }
        first += tied.len();
    }
    ranks
}

/// Reciprocal rank fusion: `sum over rankings of 1 / (60 + rank)` for each row; higher is better.
///
/// # Reference
/// Cormack, Clarke & Büttcher 2009, Reciprocal rank fusion outperforms Condorcet and individual rank learning methods, with `k = 60`.
///
/// # Deviations
/// Rows of equal score share the mean of their ranks.
pub fn fuse(rankings: &[&[f64]]) -> Vec<f64> {
    const K: f64 = 60.0;
    let mut fused = vec![0.0; rankings.first().map_or(0, |ranking| ranking.len())];
    for ranking in rankings {
        for (fused, rank) in fused.iter_mut().zip(*ranking) {
            *fused += 1.0 / (K + rank);
        }
    }
    fused
}

/// Rows from the highest score to the lowest; equal ones in their own order.
pub fn order(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order
}

#[cfg(test)]
mod tests {
    use super::{fuse, order, ranks};

    #[test]
    fn equal_scores_share_a_rank_and_fusion_rewards_agreement() {
        assert_eq!(ranks(&[0.5, 2.0, 0.5, 0.0]), [2.5, 1.0, 2.5, 4.0]);
        let (a, b) = ([1.0, 2.0, 3.0], [3.0, 1.0, 2.0]);
        let fused = fuse(&[&a, &b]);
        assert!((fused[1] - (1.0 / 62.0 + 1.0 / 61.0)).abs() < 1e-12);
        assert_eq!(order(&fused), [1, 0, 2]);
    }
}
