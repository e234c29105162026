//! Answers in order of confidence.

/// Answers of one confidence, right and wrong ones.
///
/// Any order among them would be an accident: they are taken in together, and where only some of them are, the right ones count as evenly spread.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Tie {
    /// Number of right answers.
    pub right: f64,
    /// Number of wrong ones.
    pub wrong: f64,
}

impl Tie {
    /// Number of both.
    pub fn n(self) -> f64 {
        self.right + self.wrong
    }
}

/// Answers by confidence, the surest first; `answers` are `(confidence, right)`.
pub fn ties(answers: &[(f64, bool)]) -> Vec<Tie> {
    let mut sorted = answers.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let tie = |tied: &[(f64, bool)]| {
        let right = tied.iter().filter(|(_, is_right)| *is_right).count();
        Tie { right: right as f64, wrong: (tied.len() - right) as f64 }
    };
    sorted.chunk_by(|a, b| a.0 == b.0).map(tie).collect()
}

#[cfg(test)]
mod tests {
    use super::{Tie, ties};

    #[test]
    fn equal_confidences_come_in_together_the_surest_first() {
        let got = ties(&[(0.5, true), (0.9, true), (0.5, false), (0.5, false)]);
        assert_eq!(got, [Tie { right: 1.0, wrong: 0.0 }, Tie { right: 1.0, wrong: 2.0 }]);
        assert_eq!(ties(&[]), []);
    }
}
