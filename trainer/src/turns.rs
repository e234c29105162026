//! Turns of a conversation in the ways that data files write them: lists of messages, and dialogue text.

use crate::records::{Row, name_type};
use lm::chat::{Message, Role};
use lm::tokenizer::SPECIAL_TOKENS;
use serde_json::Value;

/// A column that holds text.
///
/// # Errors
/// Where it is absent, no text, empty, or holds what no text may hold.
pub(crate) fn text<'a>(row: &'a Row, key: &str) -> Result<&'a str, String> {
    optional_text(row, key)?.ok_or_else(|| format!("key `{key}` is empty"))
}

/// A column that may be absent or empty.
///
/// # Errors
/// Where it is no text or holds what no text may hold.
pub(crate) fn optional_text<'a>(row: &'a Row, key: &str) -> Result<Option<&'a str>, String> {
    match row.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        Some(Value::String(text)) => {
            check_text(text).map_err(|reason| format!("key `{key}`: {reason}"))?;
            Ok(Some(text))
        }
        Some(other) => Err(format!("key `{key}`: expected text, found {}", name_type(other))),
    }
}

/// Refuses text that would be read as something else than text.
pub(crate) fn check_text(text: &str) -> Result<(), String> {
    if text.contains('\0') {
        return Err("holds a NUL character".to_owned());
    }
    match SPECIAL_TOKENS.into_iter().find(|token| text.contains(token)) {
        Some(token) => Err(format!("holds `{token}`, which is no text to the model but the mark of a turn")),
        None => Ok(()),
    }
}

/// A turn from what it is called and said.
pub(crate) fn say(role: Role, content: &str) -> Message {
    Message { role, content: content.to_owned() }
}

/// The messages in a column: objects with `role` and `content`, or `from` and `value`.
///
/// # Errors
/// Where one is something else, has an unknown role or says nothing.
pub(crate) fn messages(row: &Row, key: &str) -> Result<Vec<Message>, String> {
    let Some(Value::Array(list)) = row.get(key) else {
        return Err(format!("key `{key}`: expected a list, found {}", row.get(key).map_or("nothing", name_type)));
    };
    let read =
        |(turn_idx, turn)| message(turn).map_err(|reason| format!("key `{key}`, turn {}: {reason}", turn_idx + 1));
    list.iter().enumerate().map(read).collect()
}

/// One message.
///
/// # Errors
/// As [`messages`].
pub(crate) fn message(value: &Value) -> Result<Message, String> {
    let Value::Object(turn) = value else {
        return Err(format!("expected an object, found {}", name_type(value)));
    };
    let [speaker, content] = if turn.contains_key("from") { ["from", "value"] } else { ["role", "content"] };
    let role = match text(turn, speaker)? {
        "system" | "developer" => Role::System,
        "user" | "human" => Role::User,
        "assistant" | "gpt" | "chatgpt" => Role::Assistant,
        other => return Err(format!("key `{speaker}`: `{}` is not system, user or assistant", shorten(other))),
    };
    Ok(say(role, text(turn, content)?))
}

/// Checks that turns are a dialogue: the system at most once and first, then the user and the assistant in turn.
///
/// # Errors
/// Where they are not.
pub(crate) fn check_order(turns: &[Message]) -> Result<(), String> {
    let n_system = usize::from(turns.first().is_some_and(|first| first.role == Role::System));
    let said = &turns[n_system..];
    for (turn_idx, turn) in said.iter().enumerate() {
        let expected = if turn_idx % 2 == 0 { Role::User } else { Role::Assistant };
        if turn.role != expected {
            let number = n_system + turn_idx + 1;
            return Err(format!("turn {number} is {}'s, expected {}'s", name(turn.role), name(expected)));
        }
    }
    Ok(())
}

fn name(role: Role) -> &'static str {
    match role {
        Role::System => "the system",
        Role::User => "the user",
        Role::Assistant => "the assistant",
    }
}

const HUMAN: &str = "Human:";
const ASSISTANT: &str = "Assistant:";

/// Whether text is a dialogue as HH-RLHF writes it: turns that begin with a blank line and `Human:` or `Assistant:`.
pub(crate) fn is_dialogue(text: &str) -> bool {
    text.trim_start().starts_with(HUMAN)
}

/// The turns of such a dialogue; one of the assistant that is empty at the end, as prompts have it, is left out.
///
/// # Errors
/// Where it does not begin with the human, a turn is empty or two of one speaker follow each other.
pub(crate) fn dialogue(text: &str) -> Result<Vec<Message>, String> {
    check_text(text)?;
    let mut turns: Vec<Message> = Vec::new();
    let mut rest = text.trim_start();
    if !rest.starts_with(HUMAN) {
        return Err(format!("expected a dialogue that begins with `{HUMAN}`"));
    }
    loop {
        let (role, mark) = if rest.starts_with(HUMAN) { (Role::User, HUMAN) } else { (Role::Assistant, ASSISTANT) };
        rest = &rest[mark.len()..];
        let begins_turn = |at: &usize| {
            let after = rest[*at..].strip_prefix("\n\n");
            after.is_some_and(|after| after.starts_with(HUMAN) || after.starts_with(ASSISTANT))
        };
        let next = rest.match_indices('\n').map(|(at, _)| at).find(begins_turn);
        let content = rest[..next.unwrap_or(rest.len())].trim();
        if content.is_empty() && !(next.is_none() && role == Role::Assistant) {
            return Err(format!("turn {} is empty", turns.len() + 1));
        }
        if !content.is_empty() {
            turns.push(say(role, content));
        }
        match next {
            Some(at) => rest = &rest[at + 2..],
            None => break,
        }
    }
    check_order(&turns)?;
    Ok(turns)
}

/// The beginning of a text, as messages quote it.
pub(crate) fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::{check_order, dialogue, is_dialogue, say, shorten};
    use lm::chat::Role::{Assistant, System, User};

    #[test]
    fn a_dialogue_is_cut_at_its_speakers() {
        let text = "\n\nHuman: One?\nAnd Human: two?\n\nAssistant: Three.\n\nFour: five. \n\nHuman: Six?\n\nAssistant:";
        let expected = [say(User, "One?\nAnd Human: two?"), say(Assistant, "Three.\n\nFour: five."), say(User, "Six?")];
        assert_eq!(dialogue(text).unwrap(), expected);
        assert!(is_dialogue(text) && !is_dialogue("A human: yes"));
    }

    #[test]
    fn what_is_no_dialogue_is_refused() {
        let fault = |text| dialogue(text).unwrap_err();
        assert_eq!(fault("\n\nAssistant: Hi."), "expected a dialogue that begins with `Human:`");
        assert_eq!(fault("\n\nHuman: \n\nAssistant: Hi."), "turn 1 is empty");
        assert_eq!(fault("\n\nHuman: a\n\nHuman: b"), "turn 2 is the user's, expected the assistant's");
        assert!(fault("\n\nHuman: a<|end|>b").starts_with("holds `<|end|>`"));
        assert!(fault("\n\nHuman: a\0").contains("NUL"));
    }

    #[test]
    fn the_system_speaks_first_or_not_at_all() {
        check_order(&[say(System, "s"), say(User, "u"), say(Assistant, "a")]).unwrap();
        let late = check_order(&[say(User, "u"), say(System, "s")]).unwrap_err();
        assert_eq!(late, "turn 2 is the system's, expected the assistant's");
        let twice = check_order(&[say(System, "s"), say(System, "s")]).unwrap_err();
        assert_eq!(twice, "turn 2 is the system's, expected the user's");
        assert_eq!(shorten(&"ä".repeat(50)), "ä".repeat(40) + "…");
    }
}
