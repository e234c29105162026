//! Whether a model knows what it cannot know: questions after the cutoff, with controls on both sides.
//!
//! Saying "I don't know" to everything is no knowledge of one's limits. So questions that nobody can answer (about things that
//! never were) stand beside twins of the same wording that can be answered.
//!
//! # Reference
//! Kirichenko et al. 2025, *`AbstentionBench`*, arXiv 2506.09038; Rajpurkar et al. 2018, *Know What You Don't Know*, arXiv 1806.03822.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{interval, percent, share};
use crate::diagnosis::Estimate;
use crate::stats::newcombe::{Share, difference_at};
use crate::stats::normal::Z_95;
use crate::wording::list;

/// What kind of question it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// About what happened after the cutoff: to be known from the context alone.
    PostCutoff,
    /// About what never was.
    Unanswerable,
    /// Worded like an unanswerable one, about what was before the cutoff.
    AnswerableTwin,
}

/// How it was answered. Refusing on principle is neither: leave such answers out, and count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The right answer. There is none to an unanswerable question.
    Right,
    /// Another answer, given as if it were one.
    Wrong,
    /// Said not to know.
    Abstain,
}

/// A question and how it was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Labelled {
    /// Kind of question.
    pub kind: Kind,
    /// How it was answered.
    pub answer: Answer,
    /// Questions about the same thing have the same number.
    pub cluster: usize,
}

/// Shares of the answers to one kind of question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shares {
    /// Answered rightly.
    pub right: Estimate,
    /// Answered wrongly.
    pub wrong: Estimate,
    /// Abstained.
    pub abstain: Estimate,
    /// Wrong among those answered: how far an answer can be trusted; `None` where all were abstained from.
    pub wrong_if_answered: Option<Estimate>,
}

/// What a model does where it cannot know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Abstention {
    /// Questions after the cutoff; `None` where none were asked, here and below.
    pub post_cutoff: Option<Shares>,
    /// Questions that nobody can answer.
    pub unanswerable: Option<Shares>,
    /// Their twins that can be answered.
    pub twins: Option<Shares>,
    /// Share abstained from of the unanswerable ones less that of the twins (Newcombe): 1 for who knows its limits, 0 for who
    /// abstains everywhere and for who abstains nowhere.
    pub discrimination: Option<Estimate>,
    /// The same for the questions after the cutoff, less the twins.
    pub post_cutoff_discrimination: Option<Estimate>,
}

impl Abstention {
    /// What it does where it cannot know, in words, with every share.
    pub fn sentence(&self) -> String {
        let told = |what: &str, shares: Option<&Shares>| {
            let shares = shares?;
            let right =
                if shares.right.value > 0.0 { format!(", {} right", percent(&shares.right)) } else { String::new() };
            Some(format!("declines {} {what}{right}", interval(&shares.abstain)))
        };
        let parts: Vec<String> = [
            told("of questions after its cutoff", self.post_cutoff.as_ref()),
            told("of those that nobody can answer", self.unanswerable.as_ref()),
            told("of their twins that it could know", self.twins.as_ref()),
        ]
        .into_iter()
        .flatten()
        .collect();
        let difference = self.discrimination.as_ref().or(self.post_cutoff_discrimination.as_ref());
        let reading = match difference {
            Some(of) if of.low > 0.0 => "It declines what it cannot know more often than what it can",
            Some(of) if of.high < 0.0 => "It declines what it could know more often than what it cannot",
            Some(_) => {
                "It does not decline what it cannot know more often than what it can, as far as this many questions tell"
            }
            None => "There is nothing to compare with",
        };
        format!("{reading}: it {}.", list(&parts))
    }
}

/// Shares by kind, and how well abstaining tells what can be known from what cannot.
pub fn abstention(rows: &[Labelled]) -> Abstention {
    let [post_cutoff, unanswerable, twins] =
        [Kind::PostCutoff, Kind::Unanswerable, Kind::AnswerableTwin].map(|kind| shares(rows, kind));
    Abstention {
        discrimination: discrimination(unanswerable.as_ref(), twins.as_ref()),
        post_cutoff_discrimination: discrimination(post_cutoff.as_ref(), twins.as_ref()),
        post_cutoff,
        unanswerable,
        twins,
    }
}

fn shares(rows: &[Labelled], kind: Kind) -> Option<Shares> {
    let rows: Vec<&Labelled> = rows.iter().filter(|row| row.kind == kind).collect();
    let of = |answer: Answer| share(rows.iter().map(|row| (row.answer == answer, row.cluster)));
    let answered = rows.iter().filter(|row| row.answer != Answer::Abstain);
    Some(Shares {
        right: of(Answer::Right)?,
        wrong: of(Answer::Wrong)?,
        abstain: of(Answer::Abstain)?,
        wrong_if_answered: share(answered.map(|row| (row.answer == Answer::Wrong, row.cluster))),
    })
}

fn discrimination(unknown: Option<&Shares>, known: Option<&Shares>) -> Option<Estimate> {
    let (unknown, known) = (&unknown?.abstain, &known?.abstain);
    // An interval by clusters stands for fewer questions than were asked.
    let effective = |e: &Estimate| Share::of_interval(e.value, (e.low, e.high));
    let (low, high) = difference_at(effective(known)?, effective(unknown)?, Z_95);
    let value = unknown.value - known.value;
    Some(Estimate { value, low, high, n: unknown.n + known.n, method: "Newcombe".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::{Answer, Kind, Labelled, abstention};

    fn rows(kind: Kind, right: usize, wrong: usize, abstain: usize) -> Vec<Labelled> {
        let answers = [(Answer::Right, right), (Answer::Wrong, wrong), (Answer::Abstain, abstain)];
        answers
            .into_iter()
            .flat_map(|(answer, n)| std::iter::repeat_n(answer, n))
            .enumerate()
            .map(|(cluster, answer)| Labelled { kind, answer, cluster })
            .collect()
    }

    #[test]
    fn who_knows_its_limits_wins_and_who_always_abstains_does_not() {
        let wise = [rows(Kind::Unanswerable, 0, 10, 90), rows(Kind::AnswerableTwin, 85, 5, 10)].concat();
        let good = abstention(&wise).discrimination.unwrap();
        assert!((good.value - 0.8).abs() < 1e-12 && good.low > 0.65 && good.high < 0.9, "{good:?}");
        assert_eq!(
            abstention(&wise).sentence(),
            "It declines what it cannot know more often than what it can: it declines 90% [83%, 94%] (n = 100) of those that nobody can \
             answer and declines 10% [6%, 17%] (n = 100) of their twins that it could know, 85% right."
        );
        for (unanswerable, twins) in [((0, 0, 100), (0, 0, 100)), ((0, 100, 0), (90, 10, 0))] {
            let blind = [
                rows(Kind::Unanswerable, unanswerable.0, unanswerable.1, unanswerable.2),
                rows(Kind::AnswerableTwin, twins.0, twins.1, twins.2),
            ]
            .concat();
            let got = abstention(&blind).discrimination.unwrap();
            assert!(got.value == 0.0 && got.low < 0.0 && 0.0 < got.high, "{got:?}");
            let told = abstention(&blind).sentence();
            assert!(told.starts_with("It does not decline what it cannot know more often"), "{told}");
        }
    }

    #[test]
    fn shares_are_of_what_was_asked_and_trust_is_of_what_was_answered() {
        let got = abstention(&rows(Kind::PostCutoff, 10, 30, 60));
        let shares = got.post_cutoff.unwrap();
        assert_eq!((shares.right.value, shares.wrong.value, shares.abstain.value), (0.1, 0.3, 0.6));
        let trust = shares.wrong_if_answered.unwrap();
        assert_eq!((trust.value, trust.n), (0.75, 40));
        assert_eq!((got.unanswerable, got.discrimination, got.post_cutoff_discrimination), (None, None, None));
    }

    #[test]
    fn nothing_answered_leaves_nothing_to_trust() {
        let got = abstention(&rows(Kind::PostCutoff, 0, 0, 5)).post_cutoff.unwrap();
        assert_eq!(got.wrong_if_answered, None);
        assert_eq!(abstention(&[]).post_cutoff, None);
    }

    #[test]
    fn questions_about_one_thing_count_for_less() {
        let mut clustered = rows(Kind::PostCutoff, 20, 20, 0);
        for row in &mut clustered {
            row.cluster /= 10;
        }
        let wide = abstention(&clustered).post_cutoff.unwrap().right;
        let narrow = abstention(&rows(Kind::PostCutoff, 20, 20, 0)).post_cutoff.unwrap().right;
        assert!(wide.high - wide.low > 1.5 * (narrow.high - narrow.low), "{wide:?} {narrow:?}");
    }
}
