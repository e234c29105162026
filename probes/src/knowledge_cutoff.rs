//! # What it looks for
//! Facts that the subject does not know, and the month after which it knows nothing.
//!
//! # Why it matters
//! A model that was trained until some month answers questions about later ones all the same. Whoever relies on it has to
//! know where its knowledge ends, and whether a wrong answer means that the fact was never taught (mend the corpus),
//! taught too late (give the fact in the context), or known and not said (mend the chat data).
//!
//! # How it is measured
//! Each fact is a closed set of answers of the same kind, one right. The score is 1 where the right answer has the highest
//! likelihood, summed over its tokens, and 0 otherwise (a tie is wrong); the margin is `ln p(right) - ln p(best wrong)`.
//! The same fact is asked as a sentence to be continued, after worked examples, and in the chat template, so that base and
//! chat checkpoints are compared in forms that suit them. The open-book forms give the fact with the question: what is
//! right there and wrong without is not known; what is wrong even there is a matter of using the context, not of
//! knowledge. Dated facts carry their month; controls that nobody can answer are marked as not expected to pass.
//!
//! Questions of benchmarks are multiple choice, by the text of the options and by their letters ([`crate::quiz`]), or have a
//! short answer that is generated and compared with the known ones ([`crate::short_answer`]).
//!
//! What the subject says of its own cutoff is asked beside ([`crate::stated_cutoff`]) and counts for nothing: it is compared with
//! the month that is measured.
//!
//! # What would fool it
//! - Guessing: with k options a subject that knows nothing scores 1/k.
//! - Letters: a liking for one cancels over the shifts of the options, a subject that cannot use letters at all scores 1/k.
//! - Short answers are right where they hold a known answer, so one that names everything is right, and one in words that are
//!   not listed is wrong.
//! - An option that begins another option (`corn`, `cornet`) also collects the other's likelihood.
//! - Options of unequal frequency: a likely word wins where the fact is weak. The open-book gain and the controls show it.
//! - Chat data that tells of recent facts makes a second, later cutoff. Months differ in how often their facts are told.
//! - A prompt whose wording gives the month away; later events that were known in advance.
//! - Refusing to answer shows in chat alone, and only where the item lists the words of declining (`declines`), which compete with
//!   the options; a decline in other words does not.
//!
//! # References
//! - Cheng et al., 2024, Dated Data: tracing knowledge cutoffs in large language models, arXiv 2403.12958. They compare the
//!   perplexity of dated versions of a document; here the facts are dated and the answers closed.
//! - Kadavath et al., 2022, Language models (mostly) know what they know, arXiv 2207.05221, for closed sets scored from
//!   likelihoods.

use lm::subject::Subject;

use crate::asked_confidence::{judge_proposed, judge_verbalised, plan_proposed, plan_verbalised};
use crate::choice::{judge_choice, plan_choice};
use crate::counterfactual::contradicted;
use crate::item::{Behaviour, Item, Task};
use crate::probe::{Elicitation, Judgement, Probe, Reply};
use crate::quiz::{judge_quiz, plan_quiz};
use crate::response::Form;
use crate::short_answer::{judge_short_answer, plan_short_answer};
use crate::stated_cutoff::{judge_stated_cutoff, plan_stated_cutoff};

/// Facts, dated and undated.
pub const PROBE: Probe = Probe {
    name: "knowledge_cutoff",
    behaviours: &[Behaviour::Knowledge, Behaviour::KnowledgeCutoff],
    source: include_str!("knowledge_cutoff.rs"),
    plan: plan_fact,
    judge: judge_fact,
};

/// Puts a fact into a form, whatever the kind of its question.
pub(crate) fn plan_fact(item: &Item, form: Form, subject: &dyn Subject) -> Option<Elicitation> {
    match &item.task {
        Task::Proposed { question, answer, .. } => (form == Form::TrueOrFalse).then(|| plan_proposed(question, answer)),
        _ if form == Form::Verbalised => plan_verbalised(item),
        _ if form == Form::Counterfactual => plan_fact(&contradicted(item)?, Form::OpenBook, subject),
        Task::Choice { .. } => plan_choice(item, form, subject),
        Task::Quiz { .. } => plan_quiz(item, form, subject),
        Task::ShortAnswer { .. } => plan_short_answer(item, form),
        Task::StatedCutoff { question } => plan_stated_cutoff(question, form),
        Task::Instruction { .. } | Task::Request { .. } | Task::OpenRequest { .. } | Task::Constrained { .. } => None,
    }
}

/// Scores what came back for [`plan_fact`].
pub(crate) fn judge_fact(item: &Item, form: Form, reply: &Reply<'_>) -> Judgement {
    match &item.task {
        Task::Proposed { answer, is_right, .. } => judge_proposed(answer, *is_right, reply),
        _ if form == Form::Verbalised => judge_verbalised(item, reply),
        _ if form == Form::Counterfactual => contradicted(item).map_or_else(
            || Judgement::unscored("no context that could say something else"),
            |changed| judge_fact(&changed, Form::OpenBook, reply),
        ),
        Task::Quiz { .. } => judge_quiz(item, form, reply),
        Task::ShortAnswer { .. } => judge_short_answer(item, reply),
        Task::StatedCutoff { .. } => judge_stated_cutoff(reply),
        _ => judge_choice(item, form, reply),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::{Lookup, choice_item, reply_to};

    const FORMS: [Form; 5] = [Form::Cloze, Form::FewShot, Form::Chat, Form::OpenBook, Form::OpenBookFewShot];

    #[test]
    fn a_forgotten_fact_is_found_in_every_closed_book_form_and_not_open_book() {
        let item = choice_item(Behaviour::KnowledgeCutoff);
        let healthy = Lookup::new("healthy").believing(&item, "Lund", 0.9);
        // The fault: the fact was never taught, but a fact that is given can be read.
        let forgetful = Lookup::new("forgetful").believing(&item, "Oslo", 0.6).reading(&item);
        for form in FORMS {
            let good = reply_to(&healthy, &item, form);
            assert_eq!((good.score, good.answer.as_str()), (Some(1.0), "Lund"), "{form:?}");
            let bad = reply_to(&forgetful, &item, form);
            let expected = if form.is_open_book() { 1.0 } else { 0.0 };
            assert_eq!(bad.score, Some(expected), "{form:?}");
            assert_eq!(bad.margin_nats.unwrap() > 0.0, form.is_open_book());
        }
    }

    #[test]
    fn a_subject_that_ignores_its_context_fails_open_book_too() {
        let item = choice_item(Behaviour::KnowledgeCutoff);
        let deaf = Lookup::new("deaf").believing(&item, "Oslo", 0.6);
        assert_eq!(reply_to(&deaf, &item, Form::OpenBook).score, Some(0.0));
        assert_eq!(reply_to(&deaf, &item, Form::OpenBookFewShot).score, Some(0.0));
    }

    #[test]
    fn the_prompt_that_the_subject_saw_is_kept() {
        let item = choice_item(Behaviour::Knowledge);
        let subject = Lookup::new("healthy").believing(&item, "Lund", 0.9);
        let prompts = FORMS.map(|form| reply_to(&subject, &item, form).prompt);
        assert_eq!(
            prompts,
            [
                "Ann Velt lives in",
                "Question: Where does Ben live? Answer: Rome.\nQuestion: Where does Ann Velt live? Answer:",
                "<|bos|><|user|> Where does Ann Velt live?<|end|><|assistant|>",
                "<|bos|><|user|> Ann Velt lives in Lund. Where does Ann Velt live?<|end|><|assistant|>",
                "Question: Where does Ben live? Answer: Rome.\n\
                 Ann Velt lives in Lund. Question: Where does Ann Velt live? Answer:",
            ]
        );
    }
}
