//! Failing items with every phase's answer, how each came to fail, and the training examples behind them.

use std::collections::{BTreeMap, BTreeSet};

use evals::diagnosis::{BehaviourHistory, FailureCase, LineageDiagnosis, PhaseInfo};
use serde::Serialize;

use crate::number::{count, decimal};
use crate::text::{ANSWER_LIMIT, clean, clean_name};
use crate::verdict::{Guilty, anchor, guilty, is_failing};
use crate::words;

/// Failing items of a lineage.
#[derive(Debug, Serialize)]
pub(crate) struct Failures {
    /// By behaviour.
    groups: Vec<Group>,
    /// The ways in which items came to fail, as choices of the filter: value and words.
    choices: Vec<(String, String)>,
}

/// Failing items of one behaviour.
#[derive(Debug, Serialize)]
struct Group {
    id: String,
    failure: &'static str,
    total: String,
    shown: String,
    is_cut: bool,
    courses: Option<String>,
    cases: Vec<Case>,
    guilty: Option<Guilty>,
    card: Option<String>,
}

/// A failing item.
#[derive(Debug, Serialize)]
struct Case {
    item: String,
    slice: String,
    question: String,
    expected: String,
    course: String,
    keys: String,
    answers: Vec<Answer>,
}

/// What one checkpoint said.
#[derive(Debug, Serialize)]
struct Answer {
    phase: String,
    text: String,
    mark: &'static str,
    tone: &'static str,
    word: &'static str,
    margin: Option<String>,
}

/// How an item came to be wrong at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Course {
    /// Right after the phase before this one, wrong after it.
    Broken(usize),
    /// Right once, and not scored after the phase that broke it.
    Unseen,
    /// Right after no phase.
    Never,
}

/// Items of a behaviour that a page shows; `diagnose` keeps fewer, but a record from elsewhere may hold any number.
const MOST_SHOWN: usize = 500;

/// Value of the filter for items that broke more than once.
const AGAIN: &str = "again";

/// The failing items of a lineage whose anchors begin with `id`.
pub(super) fn failures(id: &str, lineage: &LineageDiagnosis) -> Failures {
    let groups = lineage.behaviours.iter().filter_map(|history| group(id, lineage, history)).collect();
    // A single checkpoint has no phase that could have broken anything.
    let cases = if lineage.phases.len() > 1 { &lineage.failures[..] } else { &[] };
    let courses: BTreeSet<Course> = cases.iter().map(|case| course(&case.history).0).collect();
    let mut choices: Vec<(String, String)> = courses
        .into_iter()
        .map(|course| (course.key(), words::capital(&course.words(&lineage.phases, false))))
        .collect();
    if cases.iter().any(|case| course(&case.history).1 > 1) {
        choices.push((AGAIN.to_owned(), "Broken again after a repair".to_owned()));
    }
    Failures { groups, choices }
}

fn group(id: &str, lineage: &LineageDiagnosis, history: &BehaviourHistory) -> Option<Group> {
    let behaviour = history.behaviour;
    let known = lineage.failures.iter().filter(|case| case.behaviour == behaviour);
    let total = lineage.n_failures.get(&behaviour).copied().unwrap_or(0).max(known.clone().count());
    let of: Vec<&FailureCase> = known.take(MOST_SHOWN).collect();
    (total > 0).then(|| Group {
        id: anchor(&format!("{id}-failures"), behaviour),
        failure: words::failure(behaviour),
        total: count(total),
        shown: count(of.len()),
        is_cut: of.len() < total,
        courses: (lineage.phases.len() > 1 && !of.is_empty()).then(|| courses(&of, total, &lineage.phases)),
        cases: of.iter().map(|failure| case(failure, &lineage.phases)).collect(),
        guilty: history.verdict.trace.as_ref().map(guilty),
        card: is_failing(&history.verdict.outcome).then(|| anchor(id, behaviour)),
    })
}

/// How the items came to fail, in a sentence.
fn courses(cases: &[&FailureCase], total: usize, phases: &[PhaseInfo]) -> String {
    let mut counts: BTreeMap<Course, usize> = BTreeMap::new();
    for case in cases {
        *counts.entry(course(&case.history).0).or_default() += 1;
    }
    let parts: Vec<String> =
        counts.iter().map(|(course, n)| format!("{} {}", count(*n), course.words(phases, false))).collect();
    let again = cases.iter().filter(|case| course(&case.history).1 > 1).count();
    let again = if again > 0 { format!("; {} of them repaired in between", count(again)) } else { String::new() };
    let of = if cases.len() < total { "shown here" } else { "in all" };
    format!("Of {} {of}: {}{again}.", count(cases.len()), parts.join(", "))
}

/// How an item went from its history code, and how often it broke.
fn course(history: &str) -> (Course, usize) {
    let codes: Vec<char> = history.chars().collect();
    let falls: Vec<usize> = (1..codes.len()).filter(|&p| codes[p - 1] == '1' && codes[p] == '0').collect();
    let last_right = codes.iter().rposition(|&code| code == '1');
    let course = match (falls.last(), last_right) {
        (_, None) => Course::Never,
        (Some(&fall), Some(right)) if right < fall => Course::Broken(fall),
        _ => Course::Unseen,
    };
    (course, falls.len())
}

impl Course {
    fn key(self) -> String {
        match self {
            Self::Broken(phase) => format!("broken-{phase}"),
            Self::Unseen => "unseen".to_owned(),
            Self::Never => "never".to_owned(),
        }
    }

    fn words(self, phases: &[PhaseInfo], is_again: bool) -> String {
        match self {
            Self::Broken(phase) => {
                let name = phases.get(phase).map_or_else(|| "a phase".to_owned(), |info| words::phase(&info.name));
                format!("broken {}by {name}", if is_again { "again " } else { "" })
            }
            Self::Unseen => "broken where it was not scored".to_owned(),
            Self::Never => "never right".to_owned(),
        }
    }
}

fn case(failure: &FailureCase, phases: &[PhaseInfo]) -> Case {
    let (course, falls) = course(&failure.history);
    let is_again = falls > 1;
    let is_single = phases.len() < 2;
    Case {
        item: clean_name(&failure.item),
        slice: clean_name(&failure.slice).replace('_', " "),
        question: clean(&failure.question, ANSWER_LIMIT),
        expected: clean(&failure.expected, ANSWER_LIMIT),
        course: if is_single { String::new() } else { course.words(phases, is_again) },
        keys: if is_again { format!("{} {AGAIN}", course.key()) } else { course.key() },
        answers: failure
            .answers
            .iter()
            .map(|answer| {
                let (mark, tone, word) = match answer.is_right {
                    Some(true) => ("✓", "good", "right"),
                    Some(false) => ("✕", "bad", "wrong"),
                    None => ("–", "quiet", "not scored"),
                };
                Answer {
                    phase: words::phase(&answer.phase),
                    text: clean(&answer.answer, ANSWER_LIMIT),
                    mark,
                    tone,
                    word,
                    margin: answer.margin_nats.map(|m| decimal(m, 2)),
                }
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Course, course};

    #[test]
    fn an_item_was_broken_by_the_phase_after_which_it_is_first_wrong_for_good() {
        assert_eq!(course("110"), (Course::Broken(2), 1));
        assert_eq!(course("0100"), (Course::Broken(2), 1));
        assert_eq!(course("1010"), (Course::Broken(3), 2));
        assert_eq!(course("000"), (Course::Never, 0));
    }

    #[test]
    fn a_phase_is_not_named_where_the_item_was_not_scored_on_both_sides_of_it() {
        assert_eq!(course("1-0"), (Course::Unseen, 0));
        assert_eq!(course("101-0"), (Course::Unseen, 1));
        assert_eq!(course(""), (Course::Never, 0));
    }
}
