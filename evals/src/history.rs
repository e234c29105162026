//! What became of an item over the phases.

/// History code of an item: `1` pass, `0` fail, `-` not scored, one letter per phase.
pub fn code(passes: &[Option<bool>]) -> String {
    passes
        .iter()
        .map(|pass| match pass {
            Some(true) => '1',
            Some(false) => '0',
            None => '-',
        })
        .collect()
}

/// How items moved between two checkpoints; items not scored at both are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moves {
    /// Passed before, fail after.
    pub broken: usize,
    /// Failed before, pass after.
    pub repaired: usize,
    /// Pass both times.
    pub kept: usize,
    /// Fail both times.
    pub still_failing: usize,
}

impl Moves {
    /// Counts the moves of items from `before` to `after`.
    pub fn count(before: &[Option<bool>], after: &[Option<bool>]) -> Self {
        let mut moves = Self::default();
        for pair in before.iter().zip(after) {
            match pair {
                (Some(true), Some(false)) => moves.broken += 1,
                (Some(false), Some(true)) => moves.repaired += 1,
                (Some(true), Some(true)) => moves.kept += 1,
                (Some(false), Some(false)) => moves.still_failing += 1,
                _ => {}
            }
        }
        moves
    }

    /// Items scored both times.
    pub fn n(&self) -> usize {
        self.broken + self.repaired + self.kept + self.still_failing
    }

    /// Share of items that changed either way: equal accuracy can hide a large churn.
    pub fn discordant(&self) -> f64 {
        if self.n() == 0 { 0.0 } else { (self.broken + self.repaired) as f64 / self.n() as f64 }
    }
}

/// Mean change of the margin from `before` to `after`, nats, over items with a margin both times.
///
/// Over the same items the changes telescope: their sum over phases is the last margin minus the first.
pub fn margin_change(before: &[Option<f64>], after: &[Option<f64>]) -> Option<f64> {
    let changes: Vec<f64> = before.iter().zip(after).filter_map(|(b, a)| Some((*a)? - (*b)?)).collect();
    (!changes.is_empty()).then(|| changes.iter().sum::<f64>() / changes.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::{Moves, code, margin_change};
    use proptest::prelude::*;

    #[test]
    fn codes_read_from_left_to_right() {
        assert_eq!(code(&[Some(true), Some(true), Some(false)]), "110");
        assert_eq!(code(&[None, Some(false)]), "-0");
    }

    #[test]
    fn every_item_scored_twice_is_counted_once() {
        let before = [Some(true), Some(true), Some(false), Some(false), None];
        let after = [Some(true), Some(false), Some(true), Some(false), Some(true)];
        assert_eq!(Moves::count(&before, &after), Moves { broken: 1, repaired: 1, kept: 1, still_failing: 1 });
        assert!((Moves::count(&before, &after).discordant() - 0.5).abs() < 1e-15);
    }

    #[test]
    fn no_shared_item_is_no_answer() {
        assert_eq!(margin_change(&[None, Some(1.0)], &[Some(1.0), None]), None);
    }

    proptest! {
        #[test]
        fn margins_telescope(margins in proptest::collection::vec((-9.0_f64..9.0, -9.0_f64..9.0, -9.0_f64..9.0), 1..20)) {
            let at = |phase: usize| margins.iter().map(|m| Some([m.0, m.1, m.2][phase])).collect::<Vec<_>>();
            let steps = margin_change(&at(0), &at(1)).unwrap() + margin_change(&at(1), &at(2)).unwrap();
            prop_assert!((steps - margin_change(&at(0), &at(2)).unwrap()).abs() < 1e-9);
        }

        #[test]
        fn net_change_is_repaired_less_broken(items in proptest::collection::vec((any::<bool>(), any::<bool>()), 1..40)) {
            let before: Vec<_> = items.iter().map(|i| Some(i.0)).collect();
            let after: Vec<_> = items.iter().map(|i| Some(i.1)).collect();
            let moves = Moves::count(&before, &after);
            let passing = |side: &[Option<bool>]| side.iter().filter(|p| **p == Some(true)).count() as i64;
            prop_assert_eq!(passing(&after) - passing(&before), moves.repaired as i64 - moves.broken as i64);
        }
    }
}
