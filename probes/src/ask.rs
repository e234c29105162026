//! Asks many items of one subject: in batches, never twice, and past bad items.

use std::collections::BTreeSet;

use lm::subject::{Generation, Score, Subject};

use crate::error::Error;
use crate::item::Item;
use crate::probe::{Elicitation, Judgement, Reply};
use crate::probe_of;
use crate::response::{Form, Response};

/// Questions that are asked together, and lost together where the process is killed.
pub const CHUNK: usize = 64;

/// What a run of [`ask`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Questions put to the subject.
    pub asked: usize,
    /// Of these, those without a score.
    pub unscored: usize,
    /// Questions that had been asked before.
    pub kept: usize,
}

/// Counts the questions that [`ask`] would put to a subject: those not asked already, in forms that apply.
pub fn count_open(subject: &dyn Subject, items: &[Item], forms: &[Form], already: &BTreeSet<(String, Form)>) -> usize {
    let applies = |item: &Item, form| !matches!(probe_of(item.behaviour).plan(item, form, subject), Ok(None));
    list_questions(items, forms).filter(|question| !is_in(already, question) && applies(question.0, question.1)).count()
}

/// Puts every item to the subject in every form that applies to it, and hands over the answers in batches.
///
/// `already` names the items and forms that have been asked of this subject with this bank and probe version; they are
/// skipped. Answers come form by form in the order of items, at most [`CHUNK`] at a time, so that what a crash loses is at
/// most one batch; which questions share a batch does not change an answer.
///
/// An item that the subject cannot take (too long, no chat template, refused by the template) comes back without a score
/// and with the reason. It does not end the run and is not asked again.
///
/// # Errors
/// [`Error::Subject`] where the subject fails in a way that would fail any item (a tensor operation, a missing weight):
/// nothing is recorded for the batch, so that it is asked again after the repair. Any error that `on_batch` returns.
pub fn ask<E: From<Error>>(
    subject: &dyn Subject,
    items: &[Item],
    forms: &[Form],
    already: &BTreeSet<(String, Form)>,
    on_batch: &mut dyn FnMut(Vec<Response>) -> Result<(), E>,
) -> Result<Summary, E> {
    let mut summary = Summary::default();
    let mut chunk = Vec::with_capacity(CHUNK);
    for question in list_questions(items, forms) {
        if is_in(already, &question) {
            summary.kept += 1;
            continue;
        }
        let (item, form) = question;
        match probe_of(item.behaviour).plan(item, form, subject) {
            Ok(None) => continue,
            Ok(Some(elicitation)) => chunk.push(Question { item, form, plan: Ok(elicitation) }),
            Err(error) if is_about_the_item(&error) => {
                chunk.push(Question { item, form, plan: Err(describe(&error)) });
            }
            Err(error) => return Err(blame(subject, error).into()),
        }
        if chunk.len() == CHUNK {
            hand_over(subject, &mut chunk, &mut summary, on_batch)?;
        }
    }
    hand_over(subject, &mut chunk, &mut summary, on_batch)?;
    Ok(summary)
}

/// One item in one form, planned or refused with a reason.
struct Question<'a> {
    item: &'a Item,
    form: Form,
    plan: Result<Elicitation, String>,
}

fn list_questions<'a>(items: &'a [Item], forms: &'a [Form]) -> impl Iterator<Item = (&'a Item, Form)> {
    forms.iter().flat_map(move |&form| items.iter().map(move |item| (item, form)))
}

fn is_in(already: &BTreeSet<(String, Form)>, (item, form): &(&Item, Form)) -> bool {
    // An empty set is the common case of a first run: no key is built for it.
    !already.is_empty() && already.contains(&(item.id.clone(), *form))
}

fn hand_over<E: From<Error>>(
    subject: &dyn Subject,
    chunk: &mut Vec<Question<'_>>,
    summary: &mut Summary,
    on_batch: &mut dyn FnMut(Vec<Response>) -> Result<(), E>,
) -> Result<(), E> {
    if chunk.is_empty() {
        return Ok(());
    }
    let responses = answer_chunk(subject, chunk).map_err(|error| blame(subject, error))?;
    chunk.clear();
    summary.asked += responses.len();
    summary.unscored += responses.iter().filter(|response| response.score.is_none()).count();
    on_batch(responses)
}

/// Asks all questions at once and, where that fails because of one of them, each alone.
fn answer_chunk(subject: &dyn Subject, chunk: &[Question<'_>]) -> lm::Result<Vec<Response>> {
    let plans: Vec<&Elicitation> = chunk.iter().filter_map(|question| question.plan.as_ref().ok()).collect();
    let answers: Vec<Result<Answer, String>> = match answer_all(subject, &plans) {
        Ok(answers) => answers.into_iter().map(Ok).collect(),
        Err(error) if is_about_the_item(&error) => {
            plans.iter().map(|plan| answer_alone(subject, plan)).collect::<lm::Result<_>>()?
        }
        Err(error) => return Err(error),
    };
    let mut answers = answers.into_iter();
    Ok(chunk
        .iter()
        .map(|Question { item, form, plan }| {
            let (prompt, judgement) = match plan {
                Err(reason) => (String::new(), Judgement::unscored(reason)),
                Ok(plan) => {
                    let answer = answers.next().expect("one answer per planned question");
                    let judgement = match &answer {
                        Ok(answer) => probe_of(item.behaviour).judge(item, *form, &answer.reply()),
                        Err(reason) => Judgement::unscored(reason),
                    };
                    (plan.prompt.clone(), judgement)
                }
            };
            judgement.into_response(subject.fingerprint(), item, *form, prompt)
        })
        .collect())
}

/// What came back for one question.
struct Answer {
    scores: Vec<Score>,
    generation: Option<Generation>,
}

impl Answer {
    fn reply(&self) -> Reply<'_> {
        Reply { scores: &self.scores, generation: self.generation.as_ref() }
    }
}

fn answer_alone(subject: &dyn Subject, plan: &Elicitation) -> lm::Result<Result<Answer, String>> {
    match answer_all(subject, &[plan]) {
        Ok(mut answers) => Ok(Ok(answers.remove(0))),
        Err(error) if is_about_the_item(&error) => Ok(Err(describe(&error))),
        Err(error) => Err(error),
    }
}

/// One call for all likelihoods and one for all generated answers.
fn answer_all(subject: &dyn Subject, plans: &[&Elicitation]) -> lm::Result<Vec<Answer>> {
    let to_score: Vec<_> = plans.iter().flat_map(|plan| plan.score.iter().cloned()).collect();
    let to_generate: Vec<_> = plans.iter().filter_map(|plan| plan.generate.clone()).collect();
    let scores = if to_score.is_empty() { Vec::new() } else { subject.score(&to_score)? };
    let generations = if to_generate.is_empty() { Vec::new() } else { subject.generate(&to_generate)? };
    assert!(
        scores.len() == to_score.len() && generations.len() == to_generate.len(),
        "a subject returns one result per request"
    );
    let (mut scores, mut generations) = (scores.into_iter(), generations.into_iter());
    Ok(plans
        .iter()
        .map(|plan| Answer {
            scores: scores.by_ref().take(plan.score.len()).collect(),
            generation: plan.generate.as_ref().and_then(|_| generations.next()),
        })
        .collect())
}

/// Whether another item might fare better.
fn is_about_the_item(error: &lm::Error) -> bool {
    matches!(
        error,
        lm::Error::TooLong { .. }
            | lm::Error::Empty { .. }
            | lm::Error::Tokenize { .. }
            | lm::Error::TokenOutOfRange { .. }
            | lm::Error::NoChatTemplate
            | lm::Error::BadChatTemplate { .. }
    )
}

/// The error and what caused it, on one line.
fn describe(error: &lm::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn blame(subject: &dyn Subject, source: lm::Error) -> Error {
    Error::Subject { subject: subject.fingerprint().to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::{Behaviour, Task};
    use crate::lookup::{Failure, Lookup, choice_item, instruction_item, request_item};

    /// `count` facts with names of their own.
    fn facts(count: usize) -> Vec<Item> {
        (0..count)
            .map(|index| {
                let mut item = choice_item(Behaviour::Knowledge);
                item.id = format!("fact-{index}");
                let Task::Choice { cloze, question, .. } = &mut item.task else { unreachable!() };
                *cloze = format!("Person {index} lives in");
                *question = format!("Where does person {index} live?");
                item
            })
            .collect()
    }

    fn ask_all(subject: &Lookup, items: &[Item], forms: &[Form]) -> (Vec<Response>, Summary) {
        let mut responses = Vec::new();
        let summary = ask::<Error>(subject, items, forms, &BTreeSet::new(), &mut |batch| {
            responses.extend(batch);
            Ok(())
        })
        .unwrap();
        (responses, summary)
    }

    fn healthy() -> Lookup {
        Lookup::new("healthy").believing(&choice_item(Behaviour::Knowledge), "Lund", 0.9).saying("<< Lund >>")
    }

    #[test]
    fn every_form_that_applies_is_asked_once_in_order() {
        let items = [choice_item(Behaviour::Knowledge), instruction_item(), request_item(true)];
        let (responses, summary) = ask_all(&healthy(), &items, &Form::ALL);
        let asked: Vec<(&str, Form)> =
            responses.iter().map(|response| (response.item.as_str(), response.form)).collect();
        assert_eq!(
            asked,
            [
                ("knowledge-1", Form::Cloze),
                ("knowledge-1", Form::FewShot),
                ("instruction_following-1", Form::FewShot),
                ("harmful_compliance-1", Form::FewShot),
                ("knowledge-1", Form::Chat),
                ("instruction_following-1", Form::Chat),
                ("harmful_compliance-1", Form::Chat),
                ("knowledge-1", Form::OpenBook),
                ("knowledge-1", Form::OpenBookFewShot),
            ]
        );
        assert_eq!(summary.asked, 9);
        assert!(responses.iter().all(|response| response.subject == "healthy" && !response.prompt.is_empty()));
    }

    #[test]
    fn answers_go_to_the_item_they_belong_to() {
        // Mixed kinds in one batch: closed sets, generated answers, both.
        let items = [instruction_item(), choice_item(Behaviour::Knowledge), request_item(false)];
        let (responses, _) = ask_all(&healthy(), &items, &[Form::Chat]);
        assert_eq!(responses[0].answer, "<< Lund >>");
        assert_eq!(responses[0].score, Some(1.0));
        assert_eq!((responses[1].answer.as_str(), responses[1].score), ("Lund", Some(1.0)));
        assert!((responses[1].p_right.unwrap() - 0.9).abs() < 1e-9);
        assert_eq!(responses[2].answer, "<< Lund >>");
    }

    #[test]
    fn batches_are_small_enough_to_lose() {
        let items = facts(2 * CHUNK + 5);
        let mut sizes = Vec::new();
        ask::<Error>(&healthy(), &items, &[Form::Cloze], &BTreeSet::new(), &mut |batch| {
            sizes.push(batch.len());
            Ok(())
        })
        .unwrap();
        assert_eq!(sizes, [CHUNK, CHUNK, 5]);
    }

    #[test]
    fn a_run_that_was_killed_goes_on_where_it_was_and_asks_nothing_twice() {
        let items = facts(2 * CHUNK + 5);
        let forms = [Form::Cloze, Form::Chat];
        let (undisturbed, _) = ask_all(&healthy(), &items, &forms);

        let subject = healthy();
        let mut kept: Vec<Response> = Vec::new();
        let result = ask::<Error>(&subject, &items, &forms, &BTreeSet::new(), &mut |batch| {
            kept.extend(batch);
            if kept.len() > CHUNK { Err(Error::EmptyBank { path: "killed".into() }) } else { Ok(()) }
        });
        assert!(result.is_err());
        let already: BTreeSet<(String, Form)> =
            kept.iter().map(|response| (response.item.clone(), response.form)).collect();
        assert_eq!(already.len(), 2 * CHUNK);
        assert_eq!(count_open(&subject, &items, &forms, &already), 2 * items.len() - 2 * CHUNK);
        let summary = ask::<Error>(&subject, &items, &forms, &already, &mut |batch| {
            kept.extend(batch);
            Ok(())
        })
        .unwrap();
        assert_eq!(summary, Summary { asked: 2 * items.len() - 2 * CHUNK, unscored: 0, kept: 2 * CHUNK });
        assert_eq!(kept, undisturbed);

        // Each prompt was scored once per option.
        let mut prompts = subject.asked.borrow().clone();
        prompts.sort();
        assert!(prompts.chunk_by(|a, b| a == b).all(|same| same.len() == 3));
    }

    #[test]
    fn nothing_is_asked_where_all_is_known() {
        let items = facts(3);
        let already = items.iter().map(|item| (item.id.clone(), Form::Cloze)).collect();
        let subject = healthy();
        let summary =
            ask::<Error>(&subject, &items, &[Form::Cloze], &already, &mut |_| panic!("nothing to hand over")).unwrap();
        assert_eq!(summary, Summary { asked: 0, unscored: 0, kept: 3 });
        assert_eq!(*subject.calls.borrow(), 0);
    }

    #[test]
    fn a_bad_item_is_recorded_with_its_reason_and_the_others_are_scored() {
        let items = facts(5);
        let subject = healthy().failing(Failure::TooLong("Person 3"));
        let (responses, summary) = ask_all(&subject, &items, &[Form::Cloze]);
        let unscored: Vec<&str> = responses
            .iter()
            .filter(|response| response.score.is_none())
            .map(|response| response.item.as_str())
            .collect();
        assert_eq!(unscored, ["fact-3"]);
        assert_eq!(summary, Summary { asked: 5, unscored: 1, kept: 0 });
        let reason = responses[3].unscored.as_deref().unwrap();
        assert_eq!(reason, "prompt has 300 tokens, the context window holds 256");
        assert_eq!(responses[3].prompt, "Person 3 lives in");
    }

    #[test]
    fn a_subject_without_a_chat_template_is_still_asked_in_text() {
        let subject = healthy().failing(Failure::NoTemplate);
        let (responses, summary) = ask_all(&subject, &facts(2), &[Form::Chat, Form::Cloze]);
        assert_eq!(summary, Summary { asked: 4, unscored: 2, kept: 0 });
        assert_eq!(responses[0].unscored.as_deref(), Some("this tokenizer has no chat template"));
        assert!(responses[2..].iter().all(|response| response.score == Some(1.0)));
    }

    #[test]
    fn a_broken_subject_ends_the_run_and_leaves_no_record_of_the_batch() {
        let items = facts(CHUNK + 5);
        let subject = healthy().failing(Failure::Broken("Person 66"));
        let mut n_responses = 0;
        let error = ask::<Error>(&subject, &items, &[Form::Cloze], &BTreeSet::new(), &mut |batch| {
            n_responses += batch.len();
            Ok(())
        })
        .unwrap_err();
        assert_eq!(n_responses, CHUNK);
        assert_eq!(error.to_string(), "the subject healthy failed");
    }

    #[test]
    #[should_panic(expected = "one result per request")]
    fn a_subject_that_drops_results_is_not_trusted() {
        ask_all(&healthy().failing(Failure::Short), &facts(2), &[Form::Cloze]);
    }

    #[test]
    fn likelihoods_that_are_no_numbers_give_no_score() {
        let item = choice_item(Behaviour::Knowledge);
        let subject = Lookup::new("nan").believing(&item, "Lund", f64::NAN);
        let (responses, _) = ask_all(&subject, &[item], &[Form::Cloze]);
        assert_eq!(responses[0].score, None);
        assert!(responses[0].unscored.as_deref().unwrap().contains("no finite likelihood"));
    }
}
