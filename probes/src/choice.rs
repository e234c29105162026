//! Closed sets of answers, scored exactly from likelihoods.

use lm::subject::{Prompt, ScoreRequest, Subject};

use crate::item::{Item, Task};
use crate::probe::{Elicitation, Judgement, Reply};
use crate::prompt::render_few_shot;
use crate::response::Form;

/// How a subject spread its belief over a closed set.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Probability per option, in their order; sums to 1.
    pub probabilities: Vec<f64>,
    /// Index of the option it would give.
    pub chosen: usize,
    /// `ln p(best right) - ln p(best wrong)`, nats.
    pub margin_nats: f64,
}

impl Choice {
    /// Normalises log-likelihoods over the set: `p_i = exp(l_i) / sum_j exp(l_j)`.
    ///
    /// The likelihood of an option is the sum over its tokens: options are whole answers, and dividing by their length
    /// would prefer those that happen to be cut into more pieces. A tie between the right option and another counts for
    /// the other, and ties among wrong ones go to the first in alphabetical order, so that the order of options never
    /// matters.
    ///
    /// `None` where a likelihood is not finite, `answer` names no option, or there is only one.
    pub fn from_log_likelihoods(options: &[String], log_likelihoods: &[f64], answer: usize) -> Option<Self> {
        Self::with_several_right(options, log_likelihoods, &[answer])
    }

    /// The same where several options are right: the margin is that of the best of them over the best of the others.
    ///
    /// `None` also where no option is right, or all are.
    pub fn with_several_right(options: &[String], log_likelihoods: &[f64], right: &[usize]) -> Option<Self> {
        let is_usable = options.len() == log_likelihoods.len()
            && right.iter().all(|&index| index < options.len())
            && log_likelihoods.iter().all(|value| value.is_finite());
        if !is_usable {
            return None;
        }
        let best_of = |is_right: bool| {
            (0..options.len()).filter(|index| right.contains(index) == is_right).reduce(|best, index| {
                let order = log_likelihoods[index].total_cmp(&log_likelihoods[best]);
                if order.then_with(|| options[best].cmp(&options[index])).is_gt() { index } else { best }
            })
        };
        let (best_right, best_wrong) = (best_of(true)?, best_of(false)?);
        let margin_nats = log_likelihoods[best_right] - log_likelihoods[best_wrong];
        let highest = log_likelihoods[best_right].max(log_likelihoods[best_wrong]);
        let weights: Vec<f64> = log_likelihoods.iter().map(|value| (value - highest).exp()).collect();
        // Summed in order of size, so that the total does not depend on the order of the options either.
        let mut sorted = weights.clone();
        sorted.sort_by(f64::total_cmp);
        let total: f64 = sorted.iter().sum();
        Some(Self {
            probabilities: weights.iter().map(|weight| weight / total).collect(),
            chosen: if margin_nats > 0.0 { best_right } else { best_wrong },
            margin_nats,
        })
    }
}

/// `ln sum exp(x)` without overflow; `None` of nothing, or where a value is not a number or positive infinity.
pub(crate) fn log_sum_exp(values: &[f64]) -> Option<f64> {
    let highest = values.iter().copied().reduce(f64::max)?;
    if values.iter().any(|value| value.is_nan()) || highest == f64::INFINITY {
        return None;
    }
    if highest == f64::NEG_INFINITY {
        return Some(highest);
    }
    Some(highest + values.iter().map(|value| (value - highest).exp()).sum::<f64>().ln())
}

/// The answers that compete for a choice in a form: its options and, in chat, the ways of declining, which are never right.
fn competing(options: &[String], declines: &[String], form: Form) -> Vec<String> {
    let declines = if form.is_chat() { declines } else { &[] };
    [options, declines].concat()
}

/// Puts a choice into a form.
///
/// The answer is ` {option}` in all forms, without the full stop that chat answers end with. That full stop says nothing
/// about which option is meant, its probability differs between forms and phases, and leaving it out keeps the very same
/// string comparable from a base model's cloze to the aligned chat.
pub(crate) fn plan_choice(item: &Item, form: Form, _subject: &dyn Subject) -> Option<Elicitation> {
    let Task::Choice { cloze, shots, question, context, options, declines, .. } = &item.task else {
        return None;
    };
    if form.is_open_book() && context.trim().is_empty() {
        return None;
    }
    let prompt = match form {
        Form::Normalised | Form::Letter | Form::Verbalised | Form::TrueOrFalse | Form::Counterfactual => return None,
        Form::Cloze if cloze.trim().is_empty() => return None,
        Form::Cloze => Prompt::Text(cloze.trim_end().to_owned()),
        Form::FewShot => Prompt::Text(render_few_shot(shots, None, question)),
        Form::OpenBookFewShot => Prompt::Text(render_few_shot(shots, Some(context), question)),
        Form::Chat => Prompt::user(question),
        Form::OpenBook => Prompt::user(format!("{} {question}", context.trim())),
    };
    let score = competing(options, declines, form)
        .iter()
        .map(|option| ScoreRequest { context: prompt.clone(), continuation: format!(" {option}") })
        .collect();
    Some(Elicitation { prompt, score, generate: None })
}

/// Scores a choice: 1 where the right option is the likeliest, else 0.
pub(crate) fn judge_choice(item: &Item, form: Form, reply: &Reply<'_>) -> Judgement {
    let Task::Choice { options, answer, declines, .. } = &item.task else {
        return Judgement::unscored("not a choice");
    };
    let log_likelihoods: Vec<f64> = reply.scores.iter().map(|score| score.log_prob_nats).collect();
    let answers = competing(options, declines, form);
    let Some(choice) = Choice::from_log_likelihoods(&answers, &log_likelihoods, *answer) else {
        return Judgement::unscored(format!("no finite likelihood for each answer: {log_likelihoods:?}"));
    };
    Judgement {
        score: Some(if choice.chosen == *answer { 1.0 } else { 0.0 }),
        p_right: Some(choice.probabilities[*answer]),
        confidence: Some(choice.probabilities[choice.chosen]),
        margin_nats: Some(choice.margin_nats),
        answer: answers[choice.chosen].clone(),
        ..Judgement::default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::item::Behaviour;
    use crate::lookup::{Lookup, choice_item, reply_to};

    fn named(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("option {index}")).collect()
    }

    #[test]
    fn probabilities_are_the_softmax_of_the_sums() {
        let choice = Choice::from_log_likelihoods(&named(3), &[-1.0, -2.0, -3.0], 0).unwrap();
        let total = 1.0 + (-1.0_f64).exp() + (-2.0_f64).exp();
        assert!((choice.probabilities[0] - 1.0 / total).abs() < 1e-15);
        assert!((choice.margin_nats - 1.0).abs() < 1e-15);
        assert_eq!(choice.chosen, 0);
    }

    #[test]
    fn a_tie_with_the_right_option_is_not_a_preference_for_it() {
        let choice = Choice::from_log_likelihoods(&named(2), &[-1.0, -1.0], 0).unwrap();
        assert_eq!((choice.chosen, choice.margin_nats), (1, 0.0));
    }

    #[test]
    fn very_unlikely_options_do_not_underflow() {
        let choice = Choice::from_log_likelihoods(&named(2), &[-4000.0, -4001.0], 0).unwrap();
        assert!((choice.probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-15);
        assert!(choice.probabilities[0] > 0.7);
    }

    #[test]
    fn what_is_no_choice_has_no_score() {
        assert_eq!(Choice::from_log_likelihoods(&named(2), &[f64::NAN, -1.0], 0), None);
        assert_eq!(Choice::from_log_likelihoods(&named(2), &[f64::NEG_INFINITY, -1.0], 0), None);
        assert_eq!(Choice::from_log_likelihoods(&named(2), &[-1.0], 0), None);
        assert_eq!(Choice::from_log_likelihoods(&named(2), &[-1.0, -2.0], 2), None);
        assert_eq!(Choice::from_log_likelihoods(&named(1), &[-1.0], 0), None);
        assert_eq!(Choice::with_several_right(&named(2), &[-1.0, -2.0], &[0, 1]), None);
        assert_eq!(Choice::with_several_right(&named(2), &[-1.0, -2.0], &[]), None);
    }

    #[test]
    fn of_several_right_options_the_likeliest_counts() {
        let choice = Choice::with_several_right(&named(3), &[-3.0, -2.0, -1.0], &[0, 2]).unwrap();
        assert_eq!((choice.chosen, choice.margin_nats), (2, 1.0));
        let choice = Choice::with_several_right(&named(3), &[-3.0, -1.0, -1.0], &[0, 2]).unwrap();
        assert_eq!((choice.chosen, choice.margin_nats), (1, 0.0));
    }

    #[test]
    fn logarithms_of_sums_do_not_overflow() {
        assert!((log_sum_exp(&[-1.0, -1.0]).unwrap() - (2.0_f64.ln() - 1.0)).abs() < 1e-15);
        assert!((log_sum_exp(&[-4000.0, f64::NEG_INFINITY]).unwrap() + 4000.0).abs() < 1e-12);
        assert_eq!(log_sum_exp(&[f64::NEG_INFINITY]), Some(f64::NEG_INFINITY));
        assert_eq!((log_sum_exp(&[]), log_sum_exp(&[f64::NAN, 0.0])), (None, None));
    }

    #[test]
    fn declining_competes_in_chat_and_nowhere_else() {
        let decline = "I don't know.".to_owned();
        let (mut item, mut wide) = (choice_item(Behaviour::Knowledge), choice_item(Behaviour::Knowledge));
        if let (Task::Choice { declines, .. }, Task::Choice { options, .. }) = (&mut item.task, &mut wide.task) {
            declines.push(decline.clone());
            options.push(decline.clone());
        }
        let subject = Lookup::new("a").believing(&wide, &decline, 0.7);
        let chat = reply_to(&subject, &item, Form::Chat);
        assert_eq!((chat.score, &chat.answer), (Some(0.0), &decline));
        assert!(chat.margin_nats.unwrap() < 0.0 && (chat.p_right.unwrap() - 0.1).abs() < 1e-9);
        let cloze = reply_to(&subject, &item, Form::Cloze);
        assert!(cloze.answer != decline && (cloze.p_right.unwrap() - 1.0 / 3.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn the_order_of_options_does_not_matter(
            levels in proptest::collection::vec(-12_i32..0, 2..9),
            rotation in 0_usize..9,
            is_reversed: bool,
            answer in 0_usize..9,
        ) {
            // Whole nats make ties common.
            let answer = answer % levels.len();
            let values: Vec<f64> = levels.iter().copied().map(f64::from).collect();
            let options = named(values.len());
            let mut order: Vec<usize> = (0..values.len()).collect();
            order.rotate_left(rotation % values.len());
            if is_reversed {
                order.reverse();
            }
            let moved_options: Vec<String> = order.iter().map(|&index| options[index].clone()).collect();
            let moved_values: Vec<f64> = order.iter().map(|&index| values[index]).collect();
            let moved_answer = order.iter().position(|&index| index == answer).unwrap();
            let plain = Choice::from_log_likelihoods(&options, &values, answer).unwrap();
            let moved = Choice::from_log_likelihoods(&moved_options, &moved_values, moved_answer).unwrap();
            prop_assert_eq!(&options[plain.chosen], &moved_options[moved.chosen]);
            prop_assert_eq!(plain.margin_nats.to_bits(), moved.margin_nats.to_bits());
            for (position, &index) in order.iter().enumerate() {
                prop_assert_eq!(plain.probabilities[index].to_bits(), moved.probabilities[position].to_bits());
            }
        }

        #[test]
        fn probabilities_lie_in_range_and_the_choice_is_the_likeliest(
            values in proptest::collection::vec(-5000.0_f64..0.0, 2..9),
            answer in 0_usize..9,
        ) {
            let answer = answer % values.len();
            let choice = Choice::from_log_likelihoods(&named(values.len()), &values, answer).unwrap();
            prop_assert!((choice.probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            prop_assert!(choice.probabilities.iter().all(|p| (0.0..=1.0).contains(p)));
            let highest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            prop_assert_eq!(values[choice.chosen].to_bits(), highest.to_bits());
            prop_assert_eq!(choice.chosen == answer, choice.margin_nats > 0.0);
        }
    }
}
