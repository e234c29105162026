//! Confidence that is asked for, beside that of the likelihoods: a probability in words with a guess, and P(True) of the subject's own
//! answer.
//!
//! In [`Form::Verbalised`] one answer gives guess and probability; the guess is compared with the right answer as an answer in chat is. In
//! [`Form::TrueOrFalse`] what the subject answered in chat before is put to it again: [`proposals`] makes the items, which are those
//! of the bank with another task. Answers go under the names of the bank's items, so that all confidences of an item stand side by side.
//!
//! # What would fool it
//! - Subjects that always state the same number look calibrated where they are right as often.
//! - Likelihoods of `(A)` and `(B)` have a bias towards one of the letters, which moves P(True) of all answers alike.
//!
//! # References
//! - Tian et al., 2023, Just ask for calibration, arXiv 2305.14975.
//! - Kadavath et al., 2022, Language models (mostly) know what they know, arXiv 2207.05221.

use std::collections::BTreeMap;

use lm::subject::{GenerateRequest, Prompt};

use crate::choice::log_sum_exp;
use crate::item::{Item, Task};
use crate::open_request::continue_with;
use crate::probe::{Elicitation, Judgement, Reply};
use crate::quiz::{judge_letter, read_option, shift_of, show};
use crate::response::{Form, Label, Response};
use crate::short_answer::holds;
use crate::stated::{
    Scale, TRUE_OR_FALSE, ask_whether_true, ask_with_probability, p_true, stated_confidence, stated_guess,
};

/// Most tokens of a guess with its probability.
const MAX_NEW_TOKENS: usize = 64;

/// Asks for a guess and its probability; `None` where the item has no short answer.
pub(crate) fn plan_verbalised(item: &Item) -> Option<Elicitation> {
    let question = match &item.task {
        Task::Choice { question, .. } | Task::ShortAnswer { question, .. } => question.clone(),
        Task::Quiz { question, options, .. } => show(question, options, shift_of(&item.id, options.len())),
        _ => return None,
    };
    let prompt = Prompt::user(ask_with_probability(&question));
    let generate = GenerateRequest { prompt: prompt.clone(), max_new_tokens: MAX_NEW_TOKENS, stop: Vec::new() };
    Some(Elicitation { prompt, score: Vec::new(), generate: Some(generate) })
}

/// 1 where the guess is right, with the probability that goes with it; no score without either.
pub(crate) fn judge_verbalised(item: &Item, reply: &Reply<'_>) -> Judgement {
    let Some(generation) = reply.generation else { return Judgement::unscored("no answer was generated") };
    let text = generation.text.as_str();
    let answer = text.to_owned();
    let stated = stated_guess(text).zip(stated_confidence(text, Scale::Unit));
    let Some((guess, confidence)) = stated else {
        return Judgement { answer, ..Judgement::unscored("the answer states no guess with a probability") };
    };
    let is_right = match &item.task {
        Task::Choice { options, answer, .. } => read_option(guess, options) == Some(*answer),
        Task::Quiz { options, .. } => judge_letter(item, guess, shift_of(&item.id, options.len())).score == Some(1.0),
        Task::ShortAnswer { aliases, .. } => aliases.iter().any(|alias| holds(guess, alias)),
        _ => return Judgement::unscored("no question with a short answer"),
    };
    Judgement {
        score: Some(if is_right { 1.0 } else { 0.0 }),
        confidence: Some(confidence),
        answer,
        ..Judgement::default()
    }
}

/// The answers that a subject gave in chat, as items to be asked in [`Form::TrueOrFalse`]; those that it was not scored for and those that
/// decline propose nothing.
pub fn proposals<'a>(items: &[Item], responses: impl IntoIterator<Item = &'a Response>) -> Vec<Item> {
    let in_chat = responses.into_iter().filter(|response| response.form == Form::Chat);
    let answers: BTreeMap<&str, &Response> = in_chat.map(|response| (response.item.as_str(), response)).collect();
    let propose = |item: &Item| {
        let response = answers.get(item.id.as_str())?;
        let (question, declines) = match &item.task {
            Task::Choice { question, declines, .. } => (question, declines.as_slice()),
            Task::Quiz { question, .. } | Task::ShortAnswer { question, .. } => (question, &[][..]),
            _ => return None,
        };
        let answer = response.answer.clone();
        let is_declined = matches!(response.label, Some(Label::Abstain | Label::Refuse)) || declines.contains(&answer);
        let score = response.score.filter(|_| !is_declined && !answer.trim().is_empty())?;
        // Where the odds are known, the score is how near they were; which answer was preferred is in the margin.
        let is_right = response.margin_nats.map_or(score > 0.5, |margin| margin > 0.0);
        let task = Task::Proposed { question: question.clone(), answer, is_right };
        Some(Item { task, ..item.clone() })
    };
    items.iter().filter_map(propose).collect()
}

/// Asks whether the proposed answer is true.
pub(crate) fn plan_proposed(question: &str, answer: &str) -> Elicitation {
    let prompt = Prompt::user(ask_whether_true(question, &[], answer));
    let score = TRUE_OR_FALSE.iter().flat_map(|option| continue_with(&prompt, option.trim_start())).collect();
    Elicitation { prompt, score, generate: None }
}

/// The score is that of the proposed answer, the confidence is P(True), the margin that of the right one of true and false.
pub(crate) fn judge_proposed(answer: &str, is_right: bool, reply: &Reply<'_>) -> Judgement {
    let log_probs: Vec<f64> = reply.scores.iter().map(|score| score.log_prob_nats).collect();
    // As many spellings of each.
    let (of_true, of_false) = log_probs.split_at(log_probs.len() / TRUE_OR_FALSE.len());
    let stated = log_sum_exp(of_true).zip(log_sum_exp(of_false));
    let Some((ln_true, ln_false, confidence)) =
        stated.and_then(|(ln_true, ln_false)| Some((ln_true, ln_false, p_true(ln_true, ln_false)?)))
    else {
        return Judgement::unscored(format!("no finite likelihood of true or false: {log_probs:?}"));
    };
    let margin_nats = if is_right { ln_true - ln_false } else { ln_false - ln_true };
    Judgement {
        score: Some(if is_right { 1.0 } else { 0.0 }),
        confidence: Some(confidence),
        margin_nats: Some(margin_nats).filter(|margin| margin.is_finite()),
        answer: answer.to_owned(),
        ..Judgement::default()
    }
}

#[cfg(test)]
mod tests {
    use lm::subject::{Ability, Score};

    use super::*;
    use crate::item::Behaviour;
    use crate::lookup::{Failure, Lookup, choice_item, plan_of, quiz_item, reply_to, short_answer_item};

    #[test]
    fn a_certain_subject_is_told_from_one_that_says_how_sure_it_is() {
        for (item, right, wrong) in [
            (choice_item(Behaviour::Knowledge), "Lund", "Oslo"),
            (quiz_item(), "Lund", "Oslo"),
            (short_answer_item(), "Mayor Velt", "Mayor Berg"),
        ] {
            let said = |guess: &str, sure: &str| {
                let subject = Lookup::new("a").saying(&format!("Guess: {guess}\nProbability: {sure}"));
                let reply = reply_to(&subject, &item, Form::Verbalised);
                (reply.score, reply.confidence)
            };
            assert_eq!(said(right, "0.7"), (Some(1.0), Some(0.7)));
            // The fault: as sure where it is wrong.
            assert_eq!(said(wrong, "100%"), (Some(0.0), Some(1.0)));
            assert_eq!(said("no idea", "0.0"), (Some(0.0), Some(0.0)));
        }
    }

    #[test]
    fn who_states_no_probability_has_no_score_and_the_answer_is_kept() {
        for said in ["Lund", "Guess: Lund", "Probability: 0.9", "Guess: Lund\nGuess: Oslo\nProbability: 0.9"] {
            let reply = reply_to(&Lookup::new("a").saying(said), &quiz_item(), Form::Verbalised);
            assert_eq!((reply.score, reply.confidence, reply.answer.as_str()), (None, None, said));
            assert_eq!(reply.unscored.as_deref(), Some("the answer states no guess with a probability"));
        }
    }

    #[test]
    fn letters_of_a_quiz_are_read_in_the_order_in_which_they_were_shown() {
        let item = quiz_item();
        let prompt = reply_to(&Lookup::new("a").saying(""), &item, Form::Verbalised).prompt;
        let at = prompt.find(". Lund").unwrap();
        let said = format!("Guess: {}\nProbability: 0.8", &prompt[at - 1..at]);
        assert_eq!(reply_to(&Lookup::new("b").saying(&said), &item, Form::Verbalised).score, Some(1.0));
    }

    /// The answer in chat, put to the subject again.
    fn proposed(subject: &Lookup, item: &Item) -> Vec<Item> {
        proposals(std::slice::from_ref(item), &[reply_to(subject, item, Form::Chat)])
    }

    #[test]
    fn its_own_answer_is_put_to_it_again_and_p_true_is_the_confidence() {
        let item = choice_item(Behaviour::Knowledge);
        for (believed, is_right) in [("Lund", true), ("Oslo", false)] {
            let subject = Lookup::new("a").believing(&item, believed, 0.9);
            let proposed = proposed(&subject, &item);
            let [Item { id, task: Task::Proposed { answer, is_right: found, .. }, .. }] = &proposed[..] else {
                panic!()
            };
            assert_eq!((id, answer.as_str(), *found), (&item.id, believed, is_right));
            let forms = Form::ALL.into_iter().filter(|form| plan_of(&subject, &proposed[0], *form).is_some());
            assert_eq!(forms.collect::<Vec<_>>(), [Form::TrueOrFalse]);
            let reply = reply_to(&subject, &proposed[0], Form::TrueOrFalse);
            assert!(reply.prompt.contains(&format!("Proposed Answer: {believed}")), "{}", reply.prompt);
            assert_eq!((reply.item, reply.score), (item.id.clone(), Some(f64::from(u8::from(is_right)))));
        }
        let score = |p: f64| Score { log_prob_nats: p.ln(), n_tokens: 1, is_greedy: None };
        // Two spellings each.
        let scores = [score(0.4), score(0.2), score(0.1), score(0.1)];
        let reply = Reply { scores: &scores, generation: None };
        let (right, wrong) = (judge_proposed("Lund", true, &reply), judge_proposed("Oslo", false, &reply));
        assert!((right.confidence.unwrap() - 0.75).abs() < 1e-12 && right.confidence == wrong.confidence);
        assert!((right.margin_nats.unwrap() - 3.0_f64.ln()).abs() < 1e-12);
        assert_eq!(right.margin_nats, wrong.margin_nats.map(|margin| -margin));
    }

    #[test]
    fn who_declines_or_was_not_scored_proposes_nothing() {
        let mut item = choice_item(Behaviour::Knowledge);
        let Task::Choice { declines, .. } = &mut item.task else { unreachable!() };
        declines.push("I don't know.".to_owned());
        let mut answer = reply_to(&Lookup::new("a").believing(&item, "Lund", 0.9), &item, Form::Chat);
        let n = |answer: &Response| proposals(std::slice::from_ref(&item), [answer]).len();
        assert_eq!(n(&answer), 1);
        assert_eq!(n(&Response { form: Form::Cloze, ..answer.clone() }), 0);
        assert_eq!(n(&Response { score: None, ..answer.clone() }), 0);
        assert_eq!(n(&Response { label: Some(Label::Abstain), ..answer.clone() }), 0);
        answer.answer = "I don't know.".to_owned();
        assert_eq!(n(&answer), 0);
        let mute = Lookup::new("mute").believing(&item, "Lund", 0.9).failing(Failure::Lacks(Ability::Score));
        assert!(plan_of(&mute, &item, Form::TrueOrFalse).is_none());
    }
}
