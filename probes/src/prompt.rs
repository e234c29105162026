//! The text forms of a question.

use lm::chat::{Message, Role};

/// Text after which a base model gives an answer in the few-shot form, and before which it would ask itself the next.
pub(crate) const QUESTION: &str = "Question:";

/// End of an answer in the few-shot form.
pub(crate) const END_OF_SHOT: &str = "\n";

/// Worked examples, then the question, with the fact before it if given:
/// `Question: {q} Answer: {a}\n` repeated, then `{context} Question: {q} Answer:`.
///
/// Ends without a space, since the answer brings its own: that is where a byte-level tokenizer has its token boundary.
pub(crate) fn render_few_shot(shots: &[(String, String)], context: Option<&str>, question: &str) -> String {
    let mut text = String::new();
    for (shot, answer) in shots {
        text += &format!("{QUESTION} {} Answer: {}{END_OF_SHOT}", shot.trim(), answer.trim());
    }
    if let Some(context) = context {
        text.push_str(context.trim());
        text.push(' ');
    }
    text + &format!("{QUESTION} {} Answer:", question.trim())
}

/// The same for a conversation: each user turn is a question, preceded by what the system said, each assistant turn its
/// answer.
pub(crate) fn flatten_few_shot(shots: &[(String, String)], messages: &[Message]) -> String {
    let mut turns = shots.to_vec();
    let mut question = String::new();
    for message in messages {
        match message.role {
            Role::System | Role::User => {
                if !question.is_empty() {
                    question.push(' ');
                }
                question.push_str(message.content.trim());
            }
            Role::Assistant => turns.push((std::mem::take(&mut question), message.content.clone())),
        }
    }
    render_few_shot(&turns, None, &question)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: Role, content: &str) -> Message {
        Message { role, content: content.to_owned() }
    }

    #[test]
    fn worked_examples_come_before_the_question_and_the_fact_right_before_it() {
        let shots = [("Where is A?".to_owned(), "Rome.".to_owned()), ("Where is B?".to_owned(), "Oslo.".to_owned())];
        assert_eq!(
            render_few_shot(&shots, Some("C lives in Lund."), "Where is C?"),
            "Question: Where is A? Answer: Rome.\nQuestion: Where is B? Answer: Oslo.\n\
             C lives in Lund. Question: Where is C? Answer:"
        );
        assert_eq!(render_few_shot(&[], None, "Where is C?"), "Question: Where is C? Answer:");
    }

    #[test]
    fn a_conversation_becomes_questions_and_answers_with_the_system_text_first() {
        let messages = [
            message(Role::System, "Every reply must be a bullet."),
            message(Role::User, "Where is A?"),
            message(Role::Assistant, "- Rome"),
            message(Role::User, "And B?"),
        ];
        assert_eq!(
            flatten_few_shot(&[], &messages),
            "Question: Every reply must be a bullet. Where is A? Answer: - Rome\nQuestion: And B? Answer:"
        );
    }
}
