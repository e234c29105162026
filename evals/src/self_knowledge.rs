//! From what a checkpoint answered about itself to what is told of it.

use std::collections::{BTreeMap, BTreeSet};

use probes::benchmark::freshqa::FALSE_PREMISE;
use probes::counterfactual::is_memory;
use probes::item::{Behaviour, Item, Task};
use probes::response::{Form, Label, NOT_MEASURABLE, Response};
use probes::short_answer::period_of;
use probes::stated_cutoff::{self, parse_stated_cutoff};

use crate::board::{Answers, Board, counts};
use crate::cutoff::abstention::{Answer, Kind, Labelled, abstention};
use crate::cutoff::as_of::{AsOfAnswer, as_of};
use crate::cutoff::context::{Conflict, Followed, reliance};
use crate::diagnosis::{
    AskedConfidence, Beside, CalibrationCurve, CutoffCurve, CutoffEstimate, Instrument, PhaseInfo, SelfKnowledge,
    StatedAnswer, StatedCutoff,
};
use crate::error::Result;
use crate::measured::usual;
use crate::tables::{asked_confidence_curves, cutoff_curves};

/// What every checkpoint says of itself, from all answers, with the cutoffs measured here; phases that were asked nothing of the kind are
/// left out.
///
/// # Errors
/// [`crate::Error::BadForecasts`] where a stored confidence is no number from 0 to 1.
pub fn measure(phases: &[PhaseInfo], items: &[Item], responses: &[Response]) -> Result<Vec<SelfKnowledge>> {
    let answers = Answers::index(responses);
    let dated = Board::new(items.iter().filter(|item| item.month.is_some()).collect(), phases, &answers);
    let asked_for = Board::new(items.iter().filter(|item| is_asked_for_confidence(item)).collect(), phases, &answers);
    let curves = asked_confidence_curves(&asked_for, phases, "")?;
    Ok(self_knowledge(phases, items, &answers, (&cutoff_curves(&dated, phases, None, ""), &curves)))
}

/// Whether an item tells something of how far a confidence can be believed that is asked for: a question with a right answer.
pub(crate) fn is_asked_for_confidence(item: &Item) -> bool {
    let behaviours = [Behaviour::Knowledge, Behaviour::Calibration, Behaviour::KnowledgeCutoff];
    has_right_answer(item) && behaviours.contains(&item.behaviour) && counts(item)
}

/// The same beside the cutoffs that were measured and the curves of confidence.
pub(crate) fn self_knowledge(
    phases: &[PhaseInfo],
    items: &[Item],
    answers: &Answers<'_>,
    (cutoffs, curves): (&[CutoffCurve], &[CalibrationCurve]),
) -> Vec<SelfKnowledge> {
    let about_itself = stated_cutoff::items();
    let own = items.iter().filter(|item| matches!(item.task, Task::StatedCutoff { .. }));
    let questions: Vec<&Item> = about_itself.iter().chain(own).collect();
    let of_phase = |phase: &PhaseInfo| {
        let mut knowledge = SelfKnowledge { phase: phase.name.clone(), ..SelfKnowledge::default() };
        let measured = cutoffs.iter().find(|curve| curve.phase == phase.name).and_then(|curve| curve.estimate.as_ref());
        let asked: Vec<(&Item, &Response)> = questions
            .iter()
            .filter_map(|item| Some((*item, answers.get(&phase.checkpoint, &item.id, Form::Chat)?)))
            .collect();
        match stated(&asked, measured) {
            Some(Ok(stated)) => knowledge.stated_cutoff = Some(stated),
            Some(Err(reason)) => {
                knowledge.not_measured.insert(Instrument::StatedCutoff, reason);
            }
            None => {}
        }
        for form in Form::CONFIDENCE {
            let instrument = Instrument::of_confidence(form).expect("the forms of confidence are instruments");
            let of_form = curves.iter().find(|curve| curve.phase == phase.name && curve.form == form);
            let asked = items.iter().filter(|item| is_asked_for_confidence(item));
            let given: Vec<&Response> =
                asked.filter_map(|item| answers.get(&phase.checkpoint, &item.id, form)).collect();
            match of_form.and_then(|curve| curve.measures.as_ref()) {
                Some(measures) => knowledge.confidence.push(AskedConfidence {
                    instrument,
                    n_without: given.len() - measures.n,
                    error: measures.debiased.estimate.clone(),
                    p_value: measures.debiased.null.p_value,
                    overconfidence: measures.overconfidence.estimate.clone(),
                }),
                None if given.is_empty() => {}
                None => {
                    let reason = usual(given.iter().filter_map(|response| response.unscored.as_deref()));
                    let reason = reason.unwrap_or_else(|| "no answer was scored".to_owned());
                    let reason = reason.trim_start_matches(NOT_MEASURABLE).trim_start_matches([':', ' ']);
                    let text = format!("{NOT_MEASURABLE}: {reason} (n = {})", given.len());
                    knowledge.not_measured.insert(instrument, text);
                }
            }
        }
        limits(&mut knowledge, items, cutoff_of(measured, items), &|item, form| {
            answers.get(&phase.checkpoint, &item.id, form)
        });
        (!knowledge.found().is_empty()).then_some(knowledge)
    };
    phases.iter().filter_map(of_phase).collect()
}

/// The first month after the cutoff: as declared, by the first dated control; else as measured, by the last month of its set.
fn cutoff_of(measured: Option<&CutoffEstimate>, items: &[Item]) -> Option<u32> {
    let is_dated = |item: &&Item| !item.expected && item.slice != FALSE_PREMISE && !is_unanswerable(item);
    let controls = items.iter().filter(is_dated);
    controls.filter_map(|item| item.month).min().or_else(|| measured.map(|measured| measured.high))
}

/// What a checkpoint does where it cannot know, or is told something else.
fn limits<'a>(
    knowledge: &mut SelfKnowledge,
    items: &'a [Item],
    cutoff: Option<u32>,
    answer: &dyn Fn(&'a Item, Form) -> Option<&'a Response>,
) {
    let mut clusters = BTreeMap::<&str, usize>::new();
    let mut asked: Vec<(&Item, usize)> = Vec::new();
    for item in items.iter().filter(|item| item.behaviour != Behaviour::Calibration && has_right_answer(item)) {
        let next = clusters.len();
        asked.push((item, *clusters.entry(&item.cluster).or_insert(next)));
    }
    let never_was: BTreeSet<usize> =
        asked.iter().filter(|(item, _)| is_unanswerable(item)).map(|(_, cluster)| *cluster).collect();
    let labelled: Vec<Labelled> = asked
        .iter()
        .filter_map(|&(item, cluster)| {
            let kind = kind_of(item, cutoff, never_was.contains(&cluster))?;
            Some(Labelled { kind, answer: how_answered(item, answer(item, Form::Chat)?)?, cluster })
        })
        .collect();
    let conflicts: Vec<Conflict> = asked
        .iter()
        .filter(|(item, _)| item.expected)
        .filter_map(|&(item, cluster)| {
            let response = answer(item, Form::Counterfactual)?;
            let followed = match response.score? {
                score if score > 0.5 => Followed::Context,
                _ if is_memory(item, &response.answer) => Followed::Memory,
                _ => Followed::Neither,
            };
            let known = answer(item, Form::Chat)?.score? > 0.5;
            Some(Conflict { known, followed, cluster })
        })
        .collect();
    let dated: Vec<AsOfAnswer> = asked
        .iter()
        .filter_map(|&(item, cluster)| {
            let Task::ShortAnswer { history: Some(history), .. } = &item.task else { return None };
            let response = answer(item, Form::Chat).filter(|response| response.score.is_some())?;
            Some(AsOfAnswer {
                asked: history.asked,
                periods: history.periods.iter().map(|period| period.first).collect(),
                given: period_of(item, &response.answer),
                cluster,
            })
        })
        .collect();
    let abstention = abstention(&labelled);
    knowledge.abstention =
        (abstention.post_cutoff.is_some() || abstention.unanswerable.is_some()).then_some(abstention);
    knowledge.reliance = reliance(&conflicts);
    knowledge.as_of = as_of(&dated);
    // Of a bank that asks until when something is known, all that could tell of it is expected.
    if items.iter().any(|item| item.month.is_some()) {
        let missing = [
            (Instrument::Abstention, knowledge.abstention.is_none(), no_abstention(&asked, cutoff)),
            (Instrument::CounterfactualContext, knowledge.reliance.is_none(), no_reliance(&conflicts)),
            (Instrument::AsOf, knowledge.as_of.is_none(), "no question about a fact that changes was scored in chat"),
        ];
        for (instrument, _, reason) in missing.into_iter().filter(|(_, is_missing, _)| *is_missing) {
            knowledge.not_measured.insert(instrument, format!("{NOT_MEASURABLE}: {reason}"));
        }
    }
}

fn has_right_answer(item: &Item) -> bool {
    matches!(item.task, Task::Choice { .. } | Task::Quiz { .. } | Task::ShortAnswer { .. })
}

fn is_unanswerable(item: &Item) -> bool {
    matches!(&item.task, Task::ShortAnswer { aliases, .. } if aliases.is_empty())
}

/// Twins are worded alike: dated questions before the cutoff are those of questions after it, and whatever else is about the same thing
/// those of an unanswerable one.
fn kind_of(item: &Item, cutoff: Option<u32>, is_about_what_never_was: bool) -> Option<Kind> {
    if is_unanswerable(item) {
        return Some(Kind::Unanswerable);
    }
    if item.month.zip(cutoff).is_some_and(|(month, cutoff)| month >= cutoff) {
        return (item.slice != FALSE_PREMISE).then_some(Kind::PostCutoff);
    }
    (item.expected && (item.month.is_some() || is_about_what_never_was)).then_some(Kind::AnswerableTwin)
}

/// How a question was answered in chat; `None` where it could not be declined or was refused.
fn how_answered(item: &Item, response: &Response) -> Option<Answer> {
    let score = response.score?;
    match (&item.task, response.label) {
        (Task::Choice { declines, .. }, _) if declines.is_empty() => None,
        (Task::Choice { declines, .. }, _) if declines.contains(&response.answer) => Some(Answer::Abstain),
        // Letters by likelihood leave nothing to decline with.
        (Task::Quiz { .. }, _) if response.confidence.is_some() => None,
        (_, Some(Label::Abstain)) => Some(Answer::Abstain),
        (_, Some(Label::Refuse)) => None,
        _ => Some(if score > 0.5 { Answer::Right } else { Answer::Wrong }),
    }
}

fn no_abstention(asked: &[(&Item, usize)], cutoff: Option<u32>) -> &'static str {
    let is_wanted = |item: &Item| matches!(kind_of(item, cutoff, false), Some(Kind::PostCutoff | Kind::Unanswerable));
    if asked.iter().any(|(item, _)| is_wanted(item)) {
        "no answer to what it cannot know could have declined"
    } else {
        "no question is about a month after its cutoff, and none is unanswerable"
    }
}

fn no_reliance(conflicts: &[Conflict]) -> &'static str {
    if conflicts.is_empty() {
        "no question with a context that contradicts it was asked (`--also conflict`)"
    } else {
        "it knows none of the answers that the contexts contradict"
    }
}

/// The range that the answers leave open, or why there is none; `None` where nothing was asked.
fn stated(asked: &[(&Item, &Response)], measured: Option<&CutoffEstimate>) -> Option<Result<StatedCutoff, String>> {
    let refused = asked.first()?.1.unscored.clone();
    let answers: Vec<StatedAnswer> = asked
        .iter()
        .filter(|(_, response)| response.unscored.is_none())
        .map(|(item, response)| StatedAnswer {
            question: item.question().to_owned(),
            answer: response.answer.clone(),
            months: parse_stated_cutoff(&response.answer).map(|stated| (stated.first.index(), stated.last.index())),
        })
        .collect();
    let ranges: Vec<(u32, u32)> = answers.iter().filter_map(|answer| answer.months).collect();
    let ends = |first: fn(u32, u32) -> u32, last: fn(u32, u32) -> u32| {
        ranges.iter().copied().reduce(|a, b| (first(a.0, b.0), last(a.1, b.1)))
    };
    let Some((first, last)) = ends(u32::max, u32::min) else {
        let reason = match refused.filter(|_| answers.is_empty()) {
            Some(reason) => reason,
            None => format!("{NOT_MEASURABLE}: none of {} answers names a month", answers.len()),
        };
        return Some(Err(reason));
    };
    let is_agreed = first <= last;
    let (first, last) = if is_agreed { (first, last) } else { ends(u32::min, u32::max)? };
    let beside = measured.map(|measured| beside((first, last), measured));
    Some(Ok(StatedCutoff { first, last, is_agreed, beside, answers }))
}

/// A cutoff is stated as the last month known, and measured as the first that is not.
fn beside((first, last): (u32, u32), measured: &CutoffEstimate) -> (Beside, u32) {
    let (low, high) = (measured.low, measured.high);
    if first + 1 > high {
        (Beside::Later, first + 1 - high)
    } else if last + 1 < low {
        (Beside::Earlier, low - last - 1)
    } else {
        (Beside::Within, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(low: u32, high: u32) -> CutoffEstimate {
        CutoffEstimate { month: low, low, high, p_value: 0.001, expected_error: None, ramp: None }
    }

    /// What a checkpoint says that gives these answers, beside a cutoff before the months from 2021-10 to 2021-12.
    fn said(answers: [&str; 4]) -> Option<Result<StatedCutoff, String>> {
        let items = stated_cutoff::items();
        let responses: Vec<Response> = items
            .iter()
            .zip(answers)
            .map(|(item, answer)| Response { answer: answer.to_owned(), ..response(item) })
            .collect();
        let asked: Vec<(&Item, &Response)> = items.iter().zip(&responses).collect();
        stated(&asked, Some(&measured(12 * 2021 + 9, 12 * 2021 + 11)))
    }

    #[test]
    fn who_claims_to_know_later_months_is_found_and_who_says_what_was_measured_is_not() {
        let healthy =
            said(["September 2021", "My data reaches late 2021.", "2021-09", "I cannot say."]).unwrap().unwrap();
        assert_eq!((healthy.first, healthy.last, healthy.is_agreed), (12 * 2021 + 8, 12 * 2021 + 8, true));
        assert_eq!(healthy.beside, Some((Beside::Within, 0)));
        assert_eq!(
            healthy.sentence(),
            "It says that its knowledge ends in 2021-09 (3 of 4 ways of asking name a month), which fits what was measured."
        );
        let boasting = said(["June 2023", "June 2023", "2023", "June 2023"]).unwrap().unwrap();
        assert_eq!(boasting.beside, Some((Beside::Later, 19)));
        assert!(boasting.sentence().ends_with("name a month): stated later than measured, by 19 months at least."));
        let modest = said(["2020", "", "", ""]).unwrap().unwrap();
        assert_eq!((modest.first, modest.last), (12 * 2020, 12 * 2020 + 11));
        assert_eq!(modest.beside, Some((Beside::Earlier, 9)));
    }

    #[test]
    fn answers_that_contradict_each_other_leave_all_that_they_name() {
        let stated = said(["June 2021", "June 2023", "", ""]).unwrap().unwrap();
        assert_eq!((stated.first, stated.last, stated.is_agreed), (12 * 2021 + 5, 12 * 2023 + 5, false));
        assert_eq!(stated.beside, Some((Beside::Within, 0)));
        assert!(stated.sentence().contains("between 2021-06 and 2023-06 (2 of 4"), "{}", stated.sentence());
        assert!(stated.sentence().contains("contradict each other"));
    }

    #[test]
    fn who_names_no_month_and_who_was_not_asked_are_told_apart() {
        let reason = said(["I am a model."; 4]).unwrap().unwrap_err();
        assert_eq!(reason, "not measurable here: none of 4 answers names a month");
        assert_eq!(stated(&[], None), None);
        let item = &stated_cutoff::items()[0];
        let refused = Response { unscored: Some("no chat template".to_owned()), score: None, ..response(item) };
        assert_eq!(stated(&[(item, &refused)], None), Some(Err("no chat template".to_owned())));
    }

    fn response(item: &Item) -> Response {
        Response {
            subject: "a".to_owned(),
            item: item.id.clone(),
            form: Form::Chat,
            score: Some(0.0),
            unscored: None,
            p_right: None,
            confidence: None,
            margin_nats: None,
            label: None,
            answer: String::new(),
            prompt: String::new(),
        }
    }
}
