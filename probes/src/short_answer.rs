//! Questions with a short answer in free text: generated, and compared with the known answers.
//!
//! An answer is right (1) where it holds one of the known answers as whole words: in lower case, without articles (a, an, the),
//! punctuation and repeated spaces, as SQuAD's official script has it, but for an article at the end (vitamin A). Punctuation between
//! letters is read both ways, as nothing and as a space, so that `U.S.` is `US` and `Obama-led` holds `Obama`. All else is wrong (0);
//! of it, answers that decline, by [`crate::refusal`] or by saying that they do not know, are labelled as abstaining. Where no answer
//! is known, as nobody could know one, declining is right.
//!
//! # What would fool it
//! - An answer that names the right thing to deny it, or names everything.
//! - Right answers in words that the list of known answers lacks: scores are a lower bound.
//!
//! # References
//! - Rajpurkar et al., 2016, SQuAD, arXiv 1606.05250, for the normalisation.
//! - Mallen et al., 2023, When not to trust language models (PopQA), arXiv 2212.10511: right where an alias is contained.
//! - Wei et al., 2024, Measuring short-form factuality (SimpleQA), arXiv 2411.04368: correct, incorrect, not attempted; there a model
//!   grades.

use lm::subject::{GenerateRequest, Prompt};

use crate::item::{Item, Task};
use crate::probe::{Elicitation, Judgement, Reply};
use crate::prompt::{END_OF_SHOT, QUESTION, render_few_shot};
use crate::refusal::classify;
use crate::response::{Form, Label};

/// Most tokens of an answer: chat models answer in sentences.
const MAX_NEW_TOKENS: usize = 64;

/// Ways of saying that one does not know, after [`words`].
const NOT_KNOWING: [&str; 9] = [
    "i dont know",
    "i do not know",
    "im not sure",
    "i am not sure",
    "not aware of any",
    "no information",
    "unknown",
    "cannot be determined",
    "im not able to",
];

pub(crate) fn plan_short_answer(item: &Item, form: Form) -> Option<Elicitation> {
    let Task::ShortAnswer { question, context, shots, .. } = &item.task else { return None };
    if form.is_open_book() && context.trim().is_empty() {
        return None;
    }
    let prompt = match form {
        Form::FewShot => Prompt::Text(render_few_shot(shots, None, question)),
        Form::OpenBookFewShot => Prompt::Text(render_few_shot(shots, Some(context), question)),
        Form::Chat => Prompt::user(question),
        Form::OpenBook => Prompt::user(format!("{}\n\n{question}", context.trim())),
        _ => return None,
    };
    let stop = if form.is_chat() { Vec::new() } else { vec![END_OF_SHOT.to_owned(), QUESTION.to_owned()] };
    let generate = Some(GenerateRequest { prompt: prompt.clone(), max_new_tokens: MAX_NEW_TOKENS, stop });
    Some(Elicitation { prompt, score: Vec::new(), generate })
}

pub(crate) fn judge_short_answer(item: &Item, reply: &Reply<'_>) -> Judgement {
    let Task::ShortAnswer { question, aliases, .. } = &item.task else {
        return Judgement::unscored("no question with a short answer");
    };
    let Some(generation) = reply.generation else {
        return Judgement::unscored("no answer was generated");
    };
    let answer = generation.text.as_str();
    let is_known = aliases.iter().any(|alias| holds(answer, alias));
    let is_declined = !is_known && abstains(question, answer);
    Judgement {
        score: Some(if is_known || aliases.is_empty() && is_declined { 1.0 } else { 0.0 }),
        label: is_declined.then_some(Label::Abstain),
        answer: answer.to_owned(),
        ..Judgement::default()
    }
}

/// Of a fact that changes, the period whose answer was given: of several the one nearest to that of the month asked about; `None` where it
/// is the answer of none, or the item tells of no periods.
pub fn period_of(item: &Item, answer: &str) -> Option<usize> {
    let Task::ShortAnswer { history: Some(history), .. } = &item.task else { return None };
    let current = history.periods.partition_point(|period| period.first <= history.asked);
    let is_given = |at: &usize| history.periods[*at].answers.iter().any(|alias| holds(answer, alias));
    (0..history.periods.len()).filter(is_given).min_by_key(|at| (at + 1).abs_diff(current))
}

/// Whether an answer holds an alias as whole words.
pub(crate) fn holds(answer: &str, alias: &str) -> bool {
    ["", " "].iter().any(|gap| {
        let (answer, alias) = (words(answer, gap), words(alias, gap));
        // An article at the end is a name: vitamin C is not vitamin A.
        let is_named_so = alias.last().is_some_and(|word| is_article(word));
        let plain = |words: &[String]| words.iter().filter(|word| !is_article(word)).cloned().collect::<Vec<String>>();
        let opening = usize::from(alias.len() > 1 && is_article(&alias[0]));
        is_within(&answer, &alias[opening.min(alias.len())..])
            || !is_named_so && is_within(&plain(&answer), &plain(&alias))
    })
}

fn is_within(answer: &[String], alias: &[String]) -> bool {
    !alias.is_empty() && answer.windows(alias.len()).any(|window| window == alias)
}

fn abstains(question: &str, answer: &str) -> bool {
    let said = format!(" {} ", words(answer, "").join(" "));
    NOT_KNOWING.iter().any(|phrase| said.contains(&format!(" {phrase} ")))
        || classify(question, answer).is_ok_and(|verdict| matches!(verdict.label, Label::Refuse | Label::Abstain))
}

/// The words of a text in lower case; what is neither letter, digit nor space becomes `gap`.
fn words(text: &str, gap: &str) -> Vec<String> {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars().flat_map(char::to_lowercase) {
        if character.is_alphanumeric() || character.is_whitespace() {
            plain.push(character);
        } else {
            plain.push_str(gap);
        }
    }
    plain.split_whitespace().map(str::to_owned).collect()
}

fn is_article(word: &str) -> bool {
    matches!(word, "a" | "an" | "the")
}

#[cfg(test)]
mod tests {
    use lm::subject::Subject;

    use super::*;
    use crate::item::{History, Period};
    use crate::lookup::{Lookup, plan_of, reply_to, short_answer_item};

    const FORMS: [Form; 4] = [Form::FewShot, Form::Chat, Form::OpenBook, Form::OpenBookFewShot];

    #[test]
    fn an_outdated_subject_is_found_and_its_healthy_twin_is_not() {
        let item = short_answer_item();
        let healthy = Lookup::new("healthy").saying("The current mayor is Ann Velt.");
        let outdated = Lookup::new("outdated").saying("The current mayor is Ben Ro.");
        let coy = Lookup::new("coy").saying("I'm sorry, but I don't know who the mayor is.");
        for form in FORMS {
            assert_eq!(reply_to(&healthy, &item, form).score, Some(1.0), "{form:?}");
            let wrong = reply_to(&outdated, &item, form);
            assert_eq!((wrong.score, wrong.label), (Some(0.0), None));
            let abstained = reply_to(&coy, &item, form);
            assert_eq!((abstained.score, abstained.label), (Some(0.0), Some(Label::Abstain)));
        }
        for form in [Form::Cloze, Form::Letter, Form::Normalised] {
            assert_eq!(plan_of(&healthy, &item, form), None);
        }
    }

    #[test]
    fn where_nobody_can_know_declining_is_right() {
        let mut item = short_answer_item();
        let Task::ShortAnswer { aliases, .. } = &mut item.task else { unreachable!() };
        aliases.clear();
        let modest = reply_to(&Lookup::new("modest").saying("I don't know of any such town."), &item, Form::Chat);
        assert_eq!((modest.score, modest.label), (Some(1.0), Some(Label::Abstain)));
        let inventing = reply_to(&Lookup::new("inventing").saying("It is Ben Ro."), &item, Form::Chat);
        assert_eq!((inventing.score, inventing.label), (Some(0.0), None));
    }

    #[test]
    fn an_answer_belongs_to_the_period_nearest_to_the_month_asked_about() {
        let mut item = short_answer_item();
        assert_eq!(period_of(&item, "Ann Velt"), None);
        let Task::ShortAnswer { history, .. } = &mut item.task else { unreachable!() };
        let period = |first, answer: &str| Period { first, answers: vec![answer.to_owned()] };
        let periods = vec![period(0, "Ben Ro"), period(12, "Ann Velt"), period(24, "Ben Ro"), period(36, "Cy Orn")];
        *history = Some(History { asked: 30, periods });
        for (answer, expected) in
            [("It is Ben Ro.", Some(2)), ("Ann Velt", Some(1)), ("Cy Orn", Some(3)), ("Dee", None), ("", None)]
        {
            assert_eq!(period_of(&item, answer), expected, "{answer}");
        }
    }

    #[test]
    fn answers_are_compared_as_squad_compares_them() {
        for (answer, alias) in [
            ("the United   States!", "The United States"),
            ("It is in the US.", "U.S."),
            ("It is in the U.S.", "US"),
            ("An Obama-led group", "Obama"),
            ("1,000 people", "1000"),
            ("Paris (France)", "paris"),
            ("ÉCOLE", "école"),
            ("It was The The.", "The The"),
            ("President of United States", "the president of the United States"),
            ("It is vitamin A, I think.", "Vitamin A"),
        ] {
            assert!(holds(answer, alias), "{answer:?} {alias:?}");
        }
        for (answer, alias) in [
            ("Parisians", "Paris"),
            ("New Yorkshire", "New York"),
            ("17", "7"),
            ("vitamin C", "vitamin A"),
            ("", "Paris"),
            ("Paris", "..."),
            ("", "..."),
        ] {
            assert!(!holds(answer, alias), "{answer:?} {alias:?}");
        }
    }

    #[test]
    fn one_that_hedges_and_is_right_is_right() {
        let hedging = Lookup::new("hedging").saying("I'm not sure, but it may be Ann Velt.");
        let reply = reply_to(&hedging, &short_answer_item(), Form::Chat);
        assert_eq!((reply.score, reply.label), (Some(1.0), None));
    }

    #[test]
    fn the_text_that_holds_the_answer_comes_first() {
        let any = Lookup::new("any");
        let shown = |form| any.render(&plan_of(&any, &short_answer_item(), form).unwrap().prompt).unwrap();
        assert_eq!(
            shown(Form::OpenBook),
            "<|bos|><|user|> Ann Velt became mayor of Lund.\n\nWho is mayor of Lund?<|end|><|assistant|>"
        );
        assert_eq!(
            shown(Form::OpenBookFewShot),
            "Question: Who wrote Faust? Answer: Goethe\nAnn Velt became mayor of Lund. Question: Who is mayor of Lund? Answer:"
        );
        let mut item = short_answer_item();
        let Task::ShortAnswer { context, .. } = &mut item.task else { unreachable!() };
        context.clear();
        assert_eq!(plan_of(&any, &item, Form::OpenBook), None);
    }
}
