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

#[cfg(test)]
mod tests {
    use super::{accuracy_at_coverage, aurc};

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
}
