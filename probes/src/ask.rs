//! Asks many items of one subject: in batches, never twice, and past bad items.

use std::collections::BTreeSet;

use lm::subject::{Ability, Generation, Score, Subject};

use crate::error::Error;
use crate::item::Item;
use crate::probe::{Elicitation, Judgement, Reply};
use crate::probe_of;
use crate::response::{Form, NOT_MEASURABLE, Response};

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
    let applies = |item: &Item, form| probe_of(item.behaviour).plan(item, form, subject).is_some();
    list_questions(items, forms).filter(|question| !is_in(already, question) && applies(question.0, question.1)).count()
}

/// Puts every item to the subject in every form that applies to it, and hands over the answers in batches.
///
/// `already` names the items and forms that have been asked of this subject with this bank and probe version; they are
/// skipped. Answers come form by form in the order of items, at most [`CHUNK`] at a time, so that what a crash loses is at
/// most one batch; which questions share a batch does not change an answer.
///
/// An item that the subject cannot take (too long, no chat template, refused by the template, given up by a server) comes back
/// without a score and with the reason. It does not end the run and is not asked again. So does what needs an ability that the
/// subject lacks: no answer where it cannot answer, no likelihood where it gives none.
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
        let Some(elicitation) = probe_of(item.behaviour).plan(item, form, subject) else { continue };
        chunk.push(Question {
            item,
            form,
            plan: Plan::new(subject, elicitation).map_err(|error| blame(subject, error))?,
        });
        if chunk.len() == CHUNK {
            hand_over(subject, &mut chunk, &mut summary, on_batch)?;
        }
    }
    hand_over(subject, &mut chunk, &mut summary, on_batch)?;
    Ok(summary)
}

/// One item in one form.
struct Question<'a> {
    item: &'a Item,
    form: Form,
    plan: Plan,
}

/// What is put to the subject for a question, or why nothing is.
struct Plan {
    /// The prompt as the subject sees it.
    shown: String,
    asked: Result<Elicitation, String>,
}

impl Plan {
    /// Renders the prompt and leaves out what the subject cannot do.
    fn new(subject: &dyn Subject, mut elicitation: Elicitation) -> lm::Result<Self> {
        let shown = match subject.render(&elicitation.prompt) {
            Ok(shown) => shown,
            Err(error) if error.is_about_a_request() => {
                return Ok(Self { shown: String::new(), asked: Err(describe(&error)) });
            }
            Err(error) => return Err(error),
        };
        let lacks = |ability| subject.lacks(ability).map(|reason| format!("{NOT_MEASURABLE}: {reason}"));
        let unanswerable = elicitation.generate.as_ref().and_then(|_| lacks(Ability::Generate));
        let unscorable = if elicitation.score.is_empty() { None } else { lacks(Ability::Score) };
        if unscorable.is_some() {
            elicitation.score.clear();
        }
        let refused = unanswerable.or(unscorable.filter(|_| elicitation.generate.is_none()));
        Ok(Self { shown, asked: refused.map_or(Ok(elicitation), Err) })
    }
}

/// Form by form in the order of items; but the normalised form, which asks what the cloze asks, follows it item by item, so that both
/// share one batch and are asked for once.
fn list_questions<'a>(items: &'a [Item], forms: &'a [Form]) -> impl Iterator<Item = (&'a Item, Form)> {
    let has_twins = forms.contains(&Form::Cloze) && forms.contains(&Form::Normalised);
    let asked = forms.iter().filter(move |&&form| !(has_twins && form == Form::Normalised));
    asked.flat_map(move |&form| {
        let twin = (has_twins && form == Form::Cloze).then_some(Form::Normalised);
        items.iter().flat_map(move |item| std::iter::once((item, form)).chain(twin.map(|form| (item, form))))
    })
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

/// Asks all questions at once.
fn answer_chunk(subject: &dyn Subject, chunk: &[Question<'_>]) -> lm::Result<Vec<Response>> {
    let mut asked: Vec<&Elicitation> = chunk.iter().filter_map(|question| question.plan.asked.as_ref().ok()).collect();
    // Neighbours that ask the same share an answer.
    asked.dedup();
    let answers: Vec<Result<Answer, String>> =
        answer_all(subject, &asked)?.into_iter().map(|answer| answer.map_err(|error| describe(&error))).collect();
    let mut at = 0;
    let mut respond = |Question { item, form, plan }: &Question<'_>| {
        let answer = plan.asked.as_ref().and_then(|own| {
            if asked[at] != own {
                at += 1;
            }
            answers[at].as_ref()
        });
        let judgement = match answer {
            Ok(answer) => probe_of(item.behaviour).judge(item, *form, &answer.reply()),
            Err(reason) => Judgement::unscored(reason),
        };
        judgement.into_response(subject.fingerprint(), item, *form, plan.shown.clone())
    };
    Ok(chunk.iter().map(&mut respond).collect())
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

/// One call for all likelihoods and one for all generated answers. A question has an answer where all of its requests have.
fn answer_all(subject: &dyn Subject, plans: &[&Elicitation]) -> lm::Result<Vec<lm::Result<Answer>>> {
    let to_score: Vec<_> = plans.iter().flat_map(|plan| plan.score.iter().cloned()).collect();
    let to_generate: Vec<_> = plans.iter().filter_map(|plan| plan.generate.clone()).collect();
    let scores = if to_score.is_empty() { Vec::new() } else { subject.score(&to_score)? };
    let generations = if to_generate.is_empty() { Vec::new() } else { subject.generate(&to_generate)? };
    assert!(
        scores.len() == to_score.len() && generations.len() == to_generate.len(),
        "a subject returns one result per request"
    );
    let (mut scores, mut generations) = (scores.into_iter(), generations.into_iter());
    let answer = |plan: &&Elicitation| {
        // Both are taken before either may fail, so that the next question finds its own.
        let own: Vec<lm::Result<Score>> = scores.by_ref().take(plan.score.len()).collect();
        let generation = plan.generate.as_ref().and_then(|_| generations.next());
        Ok(Answer { scores: own.into_iter().collect::<lm::Result<_>>()?, generation: generation.transpose()? })
    };
    Ok(plans.iter().map(answer).collect())
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
    use crate::lookup::{Failure, Lookup, choice_item, instruction_item, quiz_item, request_item};

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
        let (responses, summary) = ask_all(&healthy(), &items, &Form::STANDARD);
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
    fn two_forms_that_ask_the_same_are_asked_for_once() {
        let quizzes: Vec<Item> = ["1", "2"]
            .map(|name| {
                let mut item = quiz_item();
                item.id = name.to_owned();
                let Task::Quiz { cloze, .. } = &mut item.task else { unreachable!() };
                *cloze = format!("Q: {name}\nA:");
                item
            })
            .to_vec();
        let items = [quizzes, vec![choice_item(Behaviour::Knowledge)]].concat();
        let (responses, summary) = ask_all(&healthy(), &items, &Form::STANDARD);
        let n_of = |form| responses.iter().filter(|response| response.form == form).count();
        assert_eq!((n_of(Form::Cloze), n_of(Form::Normalised), n_of(Form::Letter)), (3, 2, 2));
        assert_eq!(summary.asked, responses.len());
        let first: Vec<(&str, Form)> =
            responses.iter().take(3).map(|response| (response.item.as_str(), response.form)).collect();
        assert_eq!(first, [("1", Form::Cloze), ("1", Form::Normalised), ("2", Form::Cloze)]);
        let alone = healthy();
        let forms = [Form::Cloze, Form::Normalised];
        let (both, _) = ask_all(&alone, &items[..2], &forms);
        assert_eq!((both.len(), alone.asked.borrow().len()), (4, 2 * 3));
        // One at a time gives the same answers.
        for (index, form) in forms.into_iter().enumerate() {
            let (single, _) = ask_all(&healthy(), &items[..2], &[form]);
            assert_eq!(single, [both[index].clone(), both[2 + index].clone()]);
        }
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

    #[test]
    fn what_a_subject_cannot_do_is_not_measured_and_what_it_can_is() {
        let items = [choice_item(Behaviour::Knowledge), instruction_item()];
        let silent_on_odds = healthy().failing(Failure::Lacks(Ability::Score));
        let (responses, _) = ask_all(&silent_on_odds, &items, &[Form::Chat]);
        let reason = "not measurable here: a table has no such thing";
        assert_eq!((responses[0].score, responses[0].unscored.as_deref()), (None, Some(reason)));
        assert!(!responses[0].prompt.is_empty());
        assert_eq!((responses[1].score, responses[1].margin_nats), (Some(1.0), None));
        let mute = healthy().failing(Failure::Lacks(Ability::Generate));
        let (responses, _) = ask_all(&mute, &items, &[Form::Chat]);
        assert_eq!((responses[0].score, responses[1].unscored.as_deref()), (Some(1.0), Some(reason)));
    }
}
