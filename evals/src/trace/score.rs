//! How well a ranking finds rows that are known to be guilty.

use super::fuse::ranks;

/// Share of the guilty rows among the best `k`, of as many as `k` rows can hold: `hits / min(k, n guilty)`; `None` where no row is guilty.
///
/// Rows of equal score at the border count by the share of them that fits.
pub fn recall_at(k: usize, scores: &[f64], is_guilty: &[bool]) -> Option<f64> {
    let n_guilty = is_guilty.iter().filter(|&&guilty| guilty).count();
    let mut left = k as f64;
    let mut hits = 0.0;
    for (n, n_guilty) in ties(scores, is_guilty) {
        let taken = left.min(n);
        hits += n_guilty * taken / n;
        left -= taken;
    }
    (n_guilty > 0 && k > 0).then(|| hits / k.min(n_guilty) as f64)
}

/// Area under the curve of precision over recall, as average precision: the mean over guilty rows of the precision at their rank;
/// `None` where no row is guilty. A ranking by chance has the share of guilty rows.
///
/// Rows of equal score are one step of the curve, with the precision at its end.
///
/// # Reference
/// Davis & Goadrich 2006, The relationship between precision-recall and ROC curves: no linear interpolation.
pub fn average_precision(scores: &[f64], is_guilty: &[bool]) -> Option<f64> {
    let total = is_guilty.iter().filter(|&&guilty| guilty).count() as f64;
    let (mut n_seen, mut hits, mut area) = (0.0, 0.0, 0.0);
    for (n, n_guilty) in ties(scores, is_guilty) {
        n_seen += n;
        hits += n_guilty;
        area += n_guilty * hits / n_seen;
    }
    (total > 0.0).then(|| area / total)
}

/// Number of rows, and of guilty ones, of each score from the highest on.
fn ties(scores: &[f64], is_guilty: &[bool]) -> Vec<(f64, f64)> {
    let ranks = ranks(scores);
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| ranks[a].total_cmp(&ranks[b]));
    let count = |tied: &[usize]| (tied.len() as f64, tied.iter().filter(|&&row| is_guilty[row]).count() as f64);
    order.chunk_by(|&a, &b| ranks[a] == ranks[b]).map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::{average_precision, recall_at};

    #[test]
    fn measures_are_those_worked_out_by_hand() {
        let scores = [5.0, 4.0, 3.0, 2.0, 1.0];
        let guilty = [true, false, true, false, false];
        assert_eq!(recall_at(1, &scores, &guilty), Some(1.0));
        assert_eq!(recall_at(2, &scores, &guilty), Some(0.5));
        assert_eq!(recall_at(9, &scores, &guilty), Some(1.0));
        let expected = f64::midpoint(1.0, 2.0 / 3.0);
        assert!((average_precision(&scores, &guilty).unwrap() - expected).abs() < 1e-12);
        assert_eq!(average_precision(&scores, &[false; 5]), None);
    }

    #[test]
    fn a_ranking_that_says_nothing_is_chance() {
        let guilty = [true, false, false, false];
        assert_eq!(average_precision(&[0.0; 4], &guilty), Some(0.25));
        assert_eq!(recall_at(2, &[0.0; 4], &guilty), Some(0.5));
    }
}
