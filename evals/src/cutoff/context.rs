//! Controls with the fact in the context: is a fact not known, or the context not used?
//!
//! # Reference
//! Longpre et al. 2021, *Entity-Based Knowledge Conflicts in Question Answering*, arXiv 2109.05052 (section 4: memorisation ratio).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{interval, percent, share};
use crate::diagnosis::Estimate;
use crate::stats::normal::Z_95;
use crate::stats::paired::PairedCounts;
use crate::wording::count;

/// What the fact in the context adds: `acc_open - acc_closed` over the same questions, Tango's paired interval.
///
/// A large gain means a cutoff that context mends; none, with wrong answers closed-book, that the context is not used or that the
/// answer is refused. `pairs` are `(right closed-book, right open-book)`; `None` without pairs. The pairs count as independent.
pub fn open_book_gain(pairs: &[(bool, bool)]) -> Option<Estimate> {
    if pairs.is_empty() {
        return None;
    }
    let count = |pair: (bool, bool)| pairs.iter().filter(|p| **p == pair).count() as f64;
    let counts = PairedCounts { n: pairs.len() as f64, worse: count((true, false)), better: count((false, true)) };
    // Limits are of what became worse; a gain is the other way round.
    Some(Estimate {
        value: 0.0 - counts.difference(),
        low: 0.0 - counts.upper(Z_95),
        high: 0.0 - counts.lower(Z_95),
        n: pairs.len(),
        method: "Tango, paired".to_owned(),
    })
}

/// Whose answer was given where the context contradicts what the model knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// That of the context.
    Context,
    /// What the model answers without it.
    Memory,
    /// Another, or none.
    Neither,
}

/// A question whose context contradicts memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    /// Whether the model answers rightly without the context. Where it does not, there is no memory to contradict.
    pub known: bool,
    /// Whose answer was given.
    pub followed: Followed,
    /// Questions about the same thing have the same number.
    pub cluster: usize,
}

/// How far a model relies on a context that contradicts it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reliance {
    /// Share that follows the context, of questions whose answer is known without it.
    pub context: Estimate,
    /// Share that keeps to memory.
    pub memory: Estimate,
    /// Share that does neither.
    pub neither: Estimate,
    /// Context against memory alone: 1 less the memorisation ratio. `None` where neither was followed.
    pub reliance: Option<Estimate>,
    /// Questions left out, as their answer is not known without the context.
    pub n_unknown: usize,
}

impl Reliance {
    /// Whom it believes, in words, with every share.
    pub fn sentence(&self) -> String {
        let reading = if self.context.low > self.memory.high {
            "It goes by what it reads rather than by what it knows"
        } else if self.memory.low > self.context.high {
            "It keeps to what it knows, against what it reads"
        } else {
            "Whether it goes by what it reads or by what it knows is not resolved"
        };
        format!(
            "{reading}: of answers that it knows, it follows a context that says something else in {}, and keeps to its own in {}; {} left out \
             as it does not know the answer.",
            interval(&self.context),
            percent(&self.memory),
            count(self.n_unknown, "question")
        )
    }
}

/// Shares over the questions whose answer is known without the context; `None` where there is none.
pub fn reliance(conflicts: &[Conflict]) -> Option<Reliance> {
    let known: Vec<&Conflict> = conflicts.iter().filter(|c| c.known).collect();
    let of = |followed: Followed| share(known.iter().map(|c| (c.followed == followed, c.cluster)));
    let decided = known.iter().filter(|c| c.followed != Followed::Neither);
    Some(Reliance {
        context: of(Followed::Context)?,
        memory: of(Followed::Memory)?,
        neither: of(Followed::Neither)?,
        reliance: share(decided.map(|c| (c.followed == Followed::Context, c.cluster))),
        n_unknown: conflicts.len() - known.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::{Conflict, Followed, interval, open_book_gain, reliance};

    fn pairs(counts: [(bool, bool, usize); 4]) -> Vec<(bool, bool)> {
        counts.into_iter().flat_map(|(closed, open, n)| std::iter::repeat_n((closed, open), n)).collect()
    }

    #[test]
    fn the_gain_is_of_the_same_questions() {
        let got =
            open_book_gain(&pairs([(true, true, 20), (true, false, 1), (false, true, 7), (false, false, 16)])).unwrap();
        assert!((got.value - 6.0 / 44.0).abs() < 1e-12 && got.n == 44);
        // Tango's limits of 7 and 1 of 44, as in stats::paired.
        assert!((got.low - 0.013_121_919).abs() < 1e-8 && (got.high - 0.276_660_074).abs() < 1e-8, "{got:?}");
    }

    #[test]
    fn no_gain_is_not_certain_and_nothing_asked_is_none() {
        let got = open_book_gain(&[(false, false); 50]).unwrap();
        assert!(got.value == 0.0 && got.value.is_sign_positive() && got.low < 0.0 && got.high > 0.0, "{got:?}");
        assert_eq!(open_book_gain(&[]), None);
    }

    #[test]
    fn reliance_is_measured_where_there_is_a_memory_to_contradict() {
        let conflict = |known, followed, cluster| Conflict { known, followed, cluster };
        let mut conflicts: Vec<Conflict> = (0..30).map(|i| conflict(true, Followed::Context, i)).collect();
        conflicts.extend((30..40).map(|i| conflict(true, Followed::Memory, i)));
        conflicts.extend((40..50).map(|i| conflict(true, Followed::Neither, i)));
        conflicts.extend((50..75).map(|i| conflict(false, Followed::Context, i)));
        let got = reliance(&conflicts).unwrap();
        assert_eq!((got.context.value, got.memory.value, got.neither.value), (0.6, 0.2, 0.2));
        let ratio = got.reliance.as_ref().unwrap();
        assert_eq!((ratio.value, ratio.n, got.n_unknown), (0.75, 40, 25));
        assert!(
            got.sentence().starts_with("It goes by what it reads rather than by what it knows: "),
            "{}",
            got.sentence()
        );
        let shares = format!("in {}, and keeps to its own in 20%; 25 questions left out", interval(&got.context));
        assert!(got.sentence().contains(&shares), "{}", got.sentence());
        let deaf: Vec<Conflict> = (0..30).map(|i| conflict(true, Followed::Memory, i)).collect();
        assert!(reliance(&deaf).unwrap().sentence().starts_with("It keeps to what it knows, against what it reads: "));
        let torn = [conflict(true, Followed::Memory, 0), conflict(true, Followed::Context, 1)];
        assert!(reliance(&torn).unwrap().sentence().contains("not resolved"));
        assert_eq!(reliance(&conflicts[50..]), None);
    }
}
