//! A context that contradicts the fact: does a subject go by what it reads, or by what it remembers?
//!
//! The item's own context is taken, with the right answer in it replaced by a wrong one of the same closed set. Right is then what the
//! context says, so the score is 1 where the subject follows it; whether it keeps to its memory instead, [`is_memory`] tells.
//!
//! # What would fool it
//! - A fact that the subject does not know contradicts nothing: only those count that it knows without the context.
//! - A context that names the fact in other words than the option's stays true and is not used.
//!
//! # Reference
//! Longpre et al., 2021, Entity-based knowledge conflicts in question answering, arXiv 2109.05052 (substitution of entities of one type).

use crate::item::{Item, Task};
use crate::quiz::{judge_letter, shift_of};

/// The item whose context says something else, which is right in it; `None` where there is no context, or it does not name the one right
/// option in so many words.
pub(crate) fn contradicted(item: &Item) -> Option<Item> {
    let mut changed = item.clone();
    match &mut changed.task {
        Task::Choice { context, options, answer, ideal, .. } => {
            let other = contradict(context, options, *answer)?;
            (*answer, *ideal) = (other, None);
        }
        Task::Quiz { context, options, right, .. } => {
            let [answer] = right[..] else { return None };
            *right = vec![contradict(context, options, answer)?];
        }
        _ => return None,
    }
    Some(changed)
}

/// Whether an answer is that which is right without the context.
pub fn is_memory(item: &Item, answer: &str) -> bool {
    let is_letter_of = |options: &Vec<String>| {
        judge_letter(item, answer, shift_of(&item.id, options.len())).score.is_some_and(|score| score > 0.5)
    };
    answer == item.right_answer() || matches!(&item.task, Task::Quiz { options, .. } if is_letter_of(options))
}

/// Puts the next option that the context does not name in the place of the right one, and gives its index.
fn contradict(context: &mut String, options: &[String], answer: usize) -> Option<usize> {
    let n_options = options.len();
    let mut others = (1..n_options).map(|shift| (answer + shift) % n_options);
    let other = others.find(|&other| replace_words(context, &options[other], "").is_none())?;
    *context = replace_words(context, &options[answer], &options[other])?;
    Some(other)
}

/// Replaces a text wherever it stands as whole words; `None` where it does not.
fn replace_words(text: &str, from: &str, to: &str) -> Option<String> {
    let is_part = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let mut replaced = String::with_capacity(text.len());
    let mut end = 0;
    for (at, found) in text.match_indices(from) {
        if !is_part(text[..at].chars().next_back()) && !is_part(text[at + found.len()..].chars().next()) {
            replaced.push_str(&text[end..at]);
            replaced.push_str(to);
            end = at + found.len();
        }
    }
    replaced.push_str(&text[end..]);
    (end > 0).then_some(replaced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::Behaviour;
    use crate::lookup::{Lookup, choice_item, plan_of, quiz_item, reply_to};
    use crate::response::Form;

    #[test]
    fn a_subject_deaf_to_its_context_is_told_from_one_that_reads_it() {
        let item = choice_item(Behaviour::Knowledge);
        let changed = contradicted(&item).unwrap();
        let Task::Choice { context, .. } = &changed.task else { unreachable!() };
        assert_eq!((context.as_str(), changed.right_answer()), ("Ann Velt lives in Oslo.", "Oslo"));
        let reads = Lookup::new("reads").believing(&item, "Lund", 0.9).reading(&changed);
        let followed = reply_to(&reads, &item, Form::Counterfactual);
        assert!(followed.prompt.contains("lives in Oslo. Where"), "{}", followed.prompt);
        assert_eq!((followed.score, is_memory(&item, &followed.answer)), (Some(1.0), false));
        // The fault: what it remembers is all it goes by.
        let deaf = Lookup::new("deaf").believing(&item, "Lund", 0.9);
        let kept = reply_to(&deaf, &item, Form::Counterfactual);
        assert_eq!((kept.score, is_memory(&item, &kept.answer)), (Some(0.0), true));
    }

    #[test]
    fn quizzes_are_contradicted_in_the_order_in_which_they_are_shown() {
        let item = quiz_item();
        let prompt = reply_to(&Lookup::new("a").believing(&item, "Lund", 0.9), &item, Form::Counterfactual).prompt;
        assert!(prompt.contains("Ann Velt lives in Oslo.") && prompt.contains(". Lund"), "{prompt}");
        let at = shift_of(&item.id, 3);
        let letter = ["A", "B", "C"][(3 - at) % 3];
        assert!(is_memory(&item, letter) && is_memory(&item, "Lund") && !is_memory(&item, "Oslo"));
    }

    #[test]
    fn a_context_without_the_answer_in_so_many_words_is_left_alone() {
        let mut item = choice_item(Behaviour::Knowledge);
        for context in ["", "Ann Velt lives there.", "Ann Velt is a Lunder.", "The Lundby of Ann Velt."] {
            let Task::Choice { context: own, .. } = &mut item.task else { unreachable!() };
            context.clone_into(own);
            assert!(contradicted(&item).is_none() && plan_of(&Lookup::new("a"), &item, Form::Counterfactual).is_none());
        }
        assert_eq!(replace_words("Lund, Lunds and (Lund)", "Lund", "Oslo").as_deref(), Some("Oslo, Lunds and (Oslo)"));
        // An option that the context names already would contradict nothing.
        let Task::Choice { context, .. } = &mut item.task else { unreachable!() };
        "Ann Velt moved from Oslo to Lund.".clone_into(context);
        assert_eq!(contradicted(&item).unwrap().right_answer(), "Rome");
    }
}
