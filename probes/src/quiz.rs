//! Multiple choice as benchmarks have it: by the text of the options, or by their letters.
//!
//! | form | what the subject sees | what decides |
//! |---|---|---|
//! | cloze | the item's text, verbatim, continued by ` {option}` | the summed log-probability: `acc` of lm-evaluation-harness |
//! | normalised | the same | the same divided by the option's characters: `acc_norm` of lm-evaluation-harness 0.4.13 |
//! | letter | question, `A. ...` lines, `Answer:`, continued by ` A` | the letter's log-probability |
//! | chat | question and lettered options in the chat template | the letter's log-probability, with and without a space before it |
//! | open book | as chat and as letter, after the text that holds the answer | the same |
//!
//! A subject may like one letter better than another. So letters are asked in all cyclic shifts of the options, each option stands once
//! beside each letter, and an option's value is the mean of its log-probabilities: whatever a letter adds is added to every option
//! alike and cancels. (Log-probabilities, not probabilities, are averaged: a preference for a letter adds to the former.) A chat
//! subject that gives no likelihoods answers once, with the options shifted by a number that is made of the item's name, for in some
//! files the right option always comes first; an answer that names no option is wrong.
//!
//! Options are normalised over the set: `confidence` is the probability of the chosen one, `p_right` that of all right ones together,
//! which for TruthfulQA's second task is its MC2. A tie between a right option and a wrong one is wrong.
//!
//! # References
//! - Zheng et al., 2024, Large language models are not robust multiple choice selectors, arXiv 2309.03882: letters' bias and cyclic
//!   shifts.
//! - Lin et al., 2022, TruthfulQA, arXiv 2109.07958, for MC1 and MC2.

use std::sync::LazyLock;

use lm::subject::{Ability, GenerateRequest, Prompt, Score, ScoreRequest, Subject};
use regex::Regex;
use sha2::{Digest, Sha256};

use crate::choice::{Choice, log_sum_exp};
use crate::item::{Item, Task};
use crate::open_request::continue_with;
use crate::probe::{Elicitation, Judgement, Reply};
use crate::refusal::classify;
use crate::response::{Form, Label};

/// Most tokens of an answer that names a letter: models explain themselves.
const MAX_NEW_TOKENS: usize = 128;

/// Most options that have a letter.
const MOST_LETTERS: usize = 26;

/// What a chat subject is asked for.
const REQUEST: &str = "Answer with the letter alone.";

pub(crate) fn plan_quiz(item: &Item, form: Form, subject: &dyn Subject) -> Option<Elicitation> {
    let Task::Quiz { question, options, cloze, context, .. } = &item.task else { return None };
    let context = context.trim();
    let has_cloze = !cloze.is_empty();
    let has_letters = options.len() <= MOST_LETTERS && !(form.is_open_book() && context.is_empty());
    let lettered = |shift: usize| {
        let shown = show(question, options, shift);
        let shown = if form.is_open_book() { format!("{context}\n\n{shown}") } else { shown };
        if form.is_chat() {
            Prompt::user(format!("{shown}\n\n{REQUEST}"))
        } else {
            Prompt::Text(format!("{shown}\nAnswer:"))
        }
    };
    let mut prompts: Vec<Prompt> = match form {
        Form::Cloze | Form::Normalised if has_cloze => {
            let prompt = Prompt::Text(cloze.clone());
            let score = options.iter().flat_map(|option| continue_with(&prompt, option)).collect();
            return Some(Elicitation { prompt, score, generate: None });
        }
        Form::Letter | Form::Chat | Form::OpenBook | Form::OpenBookFewShot if has_letters => {
            (0..options.len()).map(lettered).collect()
        }
        _ => return None,
    };
    if form.is_chat() && subject.lacks(Ability::Score).is_some() {
        let prompt = prompts.swap_remove(shift_of(&item.id, options.len()));
        let generate = GenerateRequest { prompt: prompt.clone(), max_new_tokens: MAX_NEW_TOKENS, stop: Vec::new() };
        return Some(Elicitation { prompt, score: Vec::new(), generate: Some(generate) });
    }
    let of_letters = |prompt: &Prompt| {
        (0..options.len()).flat_map(|at| continue_with(prompt, letter(at))).collect::<Vec<ScoreRequest>>()
    };
    let score = prompts.iter().flat_map(of_letters).collect();
    Some(Elicitation { prompt: prompts.swap_remove(0), score, generate: None })
}

/// `A` for 0.
fn letter(at: usize) -> &'static str {
    const LETTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    LETTERS.get(at..=at).unwrap_or_default()
}

/// The question with the options below it; option `(at + shift) % n` stands beside letter `at`.
pub(crate) fn show(question: &str, options: &[String], shift: usize) -> String {
    let mut text = question.trim().to_owned();
    for at in 0..options.len() {
        text += &format!("\n{}. {}", letter(at), options[(at + shift) % options.len()]);
    }
    text
}

/// The shift of an item that is asked once: as good as drawn, and the same each time.
pub(crate) fn shift_of(id: &str, n_options: usize) -> usize {
    let digest = Sha256::digest(id.as_bytes());
    let drawn = digest.iter().take(8).fold(0, |drawn, &byte| drawn << 8 | u64::from(byte));
    (drawn % n_options as u64) as usize
}

pub(crate) fn judge_quiz(item: &Item, form: Form, reply: &Reply<'_>) -> Judgement {
    let Task::Quiz { options, right, .. } = &item.task else { return Judgement::unscored("no multiple choice") };
    if let (true, Some(generation)) = (reply.scores.is_empty(), reply.generation) {
        return judge_letter(item, &generation.text, shift_of(&item.id, options.len()));
    }
    let values = match form {
        Form::Cloze => Some(reply.scores.iter().map(|score| score.log_prob_nats).collect()),
        Form::Normalised => {
            let by_length = |(score, option): (&Score, &String)| score.log_prob_nats / option.chars().count() as f64;
            Some(reply.scores.iter().zip(options).map(by_length).collect())
        }
        _ => average_over_shifts(reply.scores, options.len()),
    };
    let choice = values.and_then(|values: Vec<f64>| Choice::with_several_right(options, &values, right));
    let Some(choice) = choice else { return Judgement::unscored("no finite likelihood for each option") };
    Judgement {
        score: Some(if right.contains(&choice.chosen) { 1.0 } else { 0.0 }),
        p_right: Some(right.iter().map(|&index| choice.probabilities[index]).sum::<f64>().min(1.0)),
        confidence: Some(choice.probabilities[choice.chosen]),
        margin_nats: Some(choice.margin_nats),
        answer: options[choice.chosen].clone(),
        ..Judgement::default()
    }
}

/// Mean log-probability of the letter beside each option, over the shifts; spellings of one letter are added up.
fn average_over_shifts(scores: &[Score], n_options: usize) -> Option<Vec<f64>> {
    let n_spellings = scores.len() / (n_options * n_options);
    if n_spellings == 0 || n_spellings * n_options * n_options != scores.len() {
        return None;
    }
    let mut sums = vec![0.0; n_options];
    for (index, spellings) in scores.chunks(n_spellings).enumerate() {
        let (shift, at) = (index / n_options, index % n_options);
        let log_probs: Vec<f64> = spellings.iter().map(|score| score.log_prob_nats).collect();
        sums[(at + shift) % n_options] += log_sum_exp(&log_probs)?;
    }
    Some(sums.into_iter().map(|sum| sum / n_options as f64).collect())
}

/// Scores an answer in words to options that were shown with a shift.
pub(crate) fn judge_letter(item: &Item, answer: &str, shift: usize) -> Judgement {
    let Task::Quiz { options, right, .. } = &item.task else { return Judgement::unscored("no multiple choice") };
    let chosen = read_letter(answer, options.len())
        .map(|at| (at + shift) % options.len())
        .or_else(|| read_option(answer, options));
    let abstains = chosen.is_none()
        && classify(item.question(), answer)
            .is_ok_and(|verdict| matches!(verdict.label, Label::Refuse | Label::Abstain));
    Judgement {
        score: Some(if chosen.is_some_and(|index| right.contains(&index)) { 1.0 } else { 0.0 }),
        label: abstains.then_some(Label::Abstain),
        answer: answer.to_owned(),
        ..Judgement::default()
    }
}

/// The letter that an answer names: alone, at its head (`B. Lund`, `(B)`), after "answer" or in a box. `None` where there is none or they
/// differ.
fn read_letter(answer: &str, n_options: usize) -> Option<usize> {
    static HEAD: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^[\s*_(\[\x22']*([A-Z])(?:[.):\]*_\x22',]|\s*$|\s*\n)").expect("a fixed pattern")
    });
    static NAMED: LazyLock<Regex> = LazyLock::new(|| {
        let pattern = concat!(
            r"(?i:answer|option|choice)(?i:\s+is|\s+would\s+be)?\s*:?[\s*_(\[\x22']*([A-Z])\b(?:[^'\x22a-z]|$)",
            r"|boxed\{\s*([A-Z])\s*\}"
        );
        Regex::new(pattern).expect("a fixed pattern")
    });
    let answer = answer.trim();
    if let [lower @ b'a'..=b'z'] = answer.as_bytes() {
        return Some(usize::from(lower - b'a')).filter(|&at| at < n_options);
    }
    let place = |text: &str| text.bytes().next().map(|byte| usize::from(byte - b'A')).filter(|&at| at < n_options);
    let head = HEAD.captures(answer).and_then(|found| place(&found[1]));
    if head.is_some() {
        return head;
    }
    let mut named = NAMED.captures_iter(answer).filter_map(|found| place(found.get(1).or(found.get(2))?.as_str()));
    let first = named.next()?;
    named.all(|other| other == first).then_some(first)
}

/// The only option whose words are in an answer.
pub(crate) fn read_option(answer: &str, options: &[String]) -> Option<usize> {
    let words = |text: &str| {
        let words: Vec<String> = text
            .split(|letter: char| !letter.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .map(str::to_lowercase)
            .collect();
        format!(" {} ", words.join(" "))
    };
    let answer = words(answer);
    let is_said = |option: &str| {
        let option = words(option);
        !option.trim().is_empty() && answer.contains(&option)
    };
    let mut said = (0..options.len()).filter(|&index| is_said(&options[index]));
    let first = said.next()?;
    said.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::{Failure, Lookup, plan_of, quiz_item, reply_to};
    use crate::response::Response;

    const BY_LETTER: [Form; 4] = [Form::Letter, Form::Chat, Form::OpenBook, Form::OpenBookFewShot];

    fn believer(name: &'static str, believed: &str, probability: f64) -> Lookup {
        Lookup::new(name).believing(&quiz_item(), believed, probability)
    }

    fn near(response: &Response, p_right: f64, confidence: f64) {
        assert!((response.p_right.unwrap() - p_right).abs() < 1e-9, "{response:?}");
        assert!((response.confidence.unwrap() - confidence).abs() < 1e-9, "{response:?}");
    }

    #[test]
    fn a_subject_that_believes_the_wrong_option_is_found_in_every_form_and_its_healthy_twin_is_not() {
        let item = quiz_item();
        for form in [Form::Cloze, Form::Letter, Form::Chat, Form::OpenBook, Form::OpenBookFewShot] {
            let healthy = reply_to(&believer("healthy", "Lund", 0.7), &item, form);
            assert_eq!((healthy.score, healthy.answer.as_str()), (Some(1.0), "Lund"), "{form:?}");
            near(&healthy, 0.7, 0.7);
            // Overconfident and wrong: the error shows in the score, the confidence beside it.
            let outdated = reply_to(&believer("outdated", "Oslo", 0.98), &item, form);
            assert_eq!((outdated.score, outdated.answer.as_str()), (Some(0.0), "Oslo"), "{form:?}");
            near(&outdated, 0.01, 0.98);
            assert!(healthy.margin_nats.unwrap() > 0.0 && outdated.margin_nats.unwrap() < 0.0);
        }
        assert_eq!(plan_of(&Lookup::new("any"), &item, Form::FewShot), None);
    }

    #[test]
    fn a_liking_for_a_letter_cancels_over_the_shifts() {
        for form in BY_LETTER {
            // Without shifts the first letter would win: e^3 outweighs 0.5 against 0.25.
            let biased = reply_to(&believer("biased", "Lund", 0.5).liking("B", 3.0), &quiz_item(), form);
            let honest = reply_to(&believer("honest", "Lund", 0.5), &quiz_item(), form);
            assert_eq!((biased.score, honest.score), (Some(1.0), Some(1.0)), "{form:?}");
            near(&biased, 0.5, 0.5);
            assert!((biased.margin_nats.unwrap() - honest.margin_nats.unwrap()).abs() < 1e-9);
            // One that knows nothing but the letter prefers no option.
            let blind = reply_to(&believer("blind", "Lund", 1.0 / 3.0).liking("A", 5.0), &quiz_item(), form);
            near(&blind, 1.0 / 3.0, 1.0 / 3.0);
        }
    }

    #[test]
    fn the_normalised_form_divides_by_the_characters_of_the_option() {
        let score = |log_prob_nats| Score { log_prob_nats, n_tokens: 1, is_greedy: None };
        let mut item = quiz_item();
        let Task::Quiz { options, .. } = &mut item.task else { unreachable!() };
        *options = ["Malmö, in the south", "Oslo", "Rome"].map(str::to_owned).to_vec();
        let scores = [score(-19.0), score(-8.0), score(-9.0)];
        let reply = Reply { scores: &scores, generation: None };
        // 19 characters, 20 bytes.
        let plain = judge_quiz(&item, Form::Cloze, &reply);
        assert_eq!((plain.score, plain.margin_nats), (Some(0.0), Some(-11.0)));
        let by_length = judge_quiz(&item, Form::Normalised, &reply);
        assert_eq!((by_length.score, by_length.margin_nats), (Some(1.0), Some(1.0)));
    }

    #[test]
    fn probability_of_all_right_options_is_added_up() {
        let mut item = quiz_item();
        let Task::Quiz { right, .. } = &mut item.task else { unreachable!() };
        *right = vec![0, 2];
        let reply = reply_to(&believer("a", "Rome", 0.6), &item, Form::Cloze);
        assert_eq!((reply.score, reply.answer.as_str()), (Some(1.0), "Rome"));
        near(&reply, 0.8, 0.6);
    }

    #[test]
    fn the_prompts_are_those_of_the_field() {
        let item = quiz_item();
        let any = Lookup::new("any");
        let text = |form| any.render(&plan_of(&any, &item, form).unwrap().prompt).unwrap();
        assert_eq!(text(Form::Cloze), "Q: Where does Ann Velt live?\nA:");
        assert_eq!(text(Form::Letter), "Where does Ann Velt live?\nA. Lund\nB. Oslo\nC. Rome\nAnswer:");
        assert_eq!(
            text(Form::OpenBook),
            "<|bos|><|user|> Ann Velt lives in Lund.\n\nWhere does Ann Velt live?\nA. Lund\nB. Oslo\nC. Rome\n\nAnswer with the letter \
             alone.<|end|><|assistant|>"
        );
        let cloze = plan_of(&any, &item, Form::Cloze).unwrap();
        assert_eq!(
            cloze.score.iter().map(|one| one.continuation.as_str()).collect::<Vec<_>>(),
            [" Lund", " Oslo", " Rome"]
        );
        assert_eq!(plan_of(&any, &item, Form::Normalised).unwrap(), cloze);
        let letters = plan_of(&any, &item, Form::Letter).unwrap();
        assert_eq!(letters.score.len(), 9);
        assert_eq!(letters.score[5].continuation, " C");
        assert!(matches!(&letters.score[5].context, Prompt::Text(text) if text.contains("A. Oslo\nB. Rome\nC. Lund")));
        assert_eq!(plan_of(&any, &item, Form::Chat).unwrap().score.len(), 18);
    }

    #[test]
    fn without_likelihoods_the_letter_is_read_from_the_answer() {
        let item = quiz_item();
        let mute = |said: &'static str| Lookup::new("server").saying(said).failing(Failure::Lacks(Ability::Score));
        let elicitation = plan_of(&mute(""), &item, Form::Chat).unwrap();
        assert!(elicitation.score.is_empty());
        let shown = mute("").render(&elicitation.prompt).unwrap();
        let at = shown.find(". Lund").unwrap();
        let right = &shown[at - 1..at];
        for (said, score) in [(right, 1.0), ("Lund", 1.0), ("Oslo.", 0.0), ("I like cake.", 0.0)] {
            let said: &'static str = said.to_owned().leak();
            let reply = reply_to(&mute(said), &item, Form::Chat);
            assert_eq!((reply.score, reply.answer.as_str()), (Some(score), said));
            assert_eq!((reply.p_right, reply.confidence), (None, None));
        }
        let reply = reply_to(&mute("I'm sorry, but I can't help with that."), &item, Form::Chat);
        assert_eq!((reply.score, reply.label), (Some(0.0), Some(Label::Abstain)));
    }

    #[test]
    fn letters_are_read_where_they_are_meant() {
        let cases = [
            ("B", Some(1)),
            ("b", Some(1)),
            (" (B) ", Some(1)),
            ("**B**", Some(1)),
            ("B. Oslo", Some(1)),
            ("B) Oslo", Some(1)),
            ("B\n\nOslo is the capital.", Some(1)),
            ("The answer is (C).", Some(2)),
            ("The correct answer is: **C**", Some(2)),
            ("Answer: A", Some(0)),
            ("I pick option B, for it is warm.", Some(1)),
            (r"So $\boxed{C}$.", Some(2)),
            ("The answer is A. No, the answer is B.", None),
            ("A dog barks.", None),
            ("I think so.", None),
            ("The answer is Albany.", None),
            ("D", None),
            ("", None),
        ];
        for (answer, expected) in cases {
            assert_eq!(read_letter(answer, 3), expected, "{answer:?}");
        }
    }

    #[test]
    fn shifts_of_items_that_are_asked_once_are_spread_evenly() {
        let mut counts = [0; 4];
        (0..400).for_each(|index| counts[shift_of(&format!("quiz/{index}"), 4)] += 1);
        assert!(counts.iter().all(|count| (70..130).contains(count)), "{counts:?}");
    }
}
