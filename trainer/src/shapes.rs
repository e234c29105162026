//! The shapes in which people have their data, as plain lists: which columns tell a shape, and what is made of its rows.
//!
//! Of several shapes that a row has, the first of the list counts. Columns that a shape does not name are left alone, but for
//! `kind` and `source`, which are kept.

use crate::constitution::Principle;
use crate::data::{Comparison, Conversation, Document, Line, Prompt};
use crate::records::{Row, name_type};
use crate::turns::{
    check_order, check_text, dialogue, is_dialogue, message, messages, optional_text, say, shorten, text,
};
use lm::chat::{Message, Role};
use serde_json::Value;
use std::collections::BTreeSet;

/// A shape of rows.
pub struct Shape<T> {
    /// What people call it.
    pub name: &'static str,
    /// The columns by which it is told.
    pub columns: &'static [(&'static str, Type)],
    /// What is made of a row that has them.
    pub read: fn(&Row) -> Result<T, String>,
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Text.
    Text,
    /// A list.
    List,
    /// An object.
    Object,
}

use Type::{List, Object, Text};

/// What can be made of rows of several shapes.
pub trait Shaped: Line + Sized + 'static {
    /// The shapes; of several that a row has, the first counts.
    const SHAPES: &'static [Shape<Self>];
}

impl Shaped for Document {
    const SHAPES: &'static [Shape<Self>] = &[
        Shape { name: "text", columns: &[("text", Text)], read: |row| document(row, "text") },
        Shape { name: "content", columns: &[("content", Text)], read: |row| document(row, "content") },
    ];
}

impl Shaped for Conversation {
    const SHAPES: &'static [Shape<Self>] = &[
        Shape { name: "messages", columns: &[("messages", List)], read: |row| conversation(row, "messages") },
        Shape { name: "ShareGPT", columns: &[("conversations", List)], read: |row| conversation(row, "conversations") },
        Shape { name: "Alpaca", columns: &[("instruction", Text), ("output", Text)], read: alpaca },
        Shape { name: "Dolly", columns: &[("instruction", Text), ("response", Text)], read: dolly },
        Shape { name: "prompt and completion", columns: &[("prompt", Text), ("completion", Text)], read: completion },
        Shape {
            name: "prompt and completion as messages",
            columns: &[("prompt", List), ("completion", List)],
            read: completion_messages,
        },
    ];
}

impl Shaped for Comparison {
    const SHAPES: &'static [Shape<Self>] = &[
        Shape { name: "ranked", columns: &[("prompt", List), ("ranked", List)], read: ranked },
        Shape { name: "UltraFeedback", columns: &[("instruction", Text), ("completions", List)], read: rated },
        Shape {
            name: "ShareGPT pair",
            columns: &[("conversations", List), ("chosen", Object), ("rejected", Object)],
            read: |row| pair(row, messages(row, "conversations")?, |key| message_in(row, key)),
        },
        Shape {
            name: "Alpaca pair",
            columns: &[("instruction", Text), ("chosen", Text), ("rejected", Text)],
            read: |row| pair(row, instruct(row, "input")?, |key| Ok(say(Role::Assistant, text(row, key)?))),
        },
        Shape {
            name: "question pair",
            columns: &[("question", Text), ("chosen", Text), ("rejected", Text)],
            read: |row| pair(row, begin(row, text(row, "question")?)?, |key| Ok(say(Role::Assistant, text(row, key)?))),
        },
        Shape {
            name: "explicit prompt",
            columns: &[("prompt", Text), ("chosen", Text), ("rejected", Text)],
            read: explicit_text,
        },
        Shape {
            name: "explicit prompt as messages",
            columns: &[("prompt", List), ("chosen", List), ("rejected", List)],
            read: explicit_messages,
        },
        Shape {
            name: "implicit prompt as messages",
            columns: &[("chosen", List), ("rejected", List)],
            read: implicit_messages,
        },
        Shape {
            name: "HH-RLHF",
            columns: &[("chosen", Text), ("rejected", Text)],
            read: |row| implicit(row, |key| dialogue_in(row, key)),
        },
    ];
}

impl Shaped for Prompt {
    const SHAPES: &'static [Shape<Self>] = &[
        Shape {
            name: "prompt as messages",
            columns: &[("prompt", List)],
            read: |row| prompt(row, messages(row, "prompt")?),
        },
        Shape { name: "prompt", columns: &[("prompt", Text)], read: |row| prompt(row, prompt_text(row, "prompt")?) },
        Shape { name: "messages", columns: &[("messages", List)], read: |row| prompt(row, messages(row, "messages")?) },
        Shape {
            name: "instruction",
            columns: &[("instruction", Text)],
            read: |row| prompt(row, instruct(row, "input")?),
        },
    ];
}

impl Shaped for Principle {
    const SHAPES: &'static [Shape<Self>] = &[
        Shape {
            name: "principle",
            columns: &[("critique", Text), ("revision", Text)],
            read: |row| principle(row, "critique", "revision"),
        },
        Shape {
            name: "critique and revision requests",
            columns: &[("critique_request", Text), ("revision_request", Text)],
            read: |row| principle(row, "critique_request", "revision_request"),
        },
        Shape {
            name: "critic and revision",
            columns: &[("critic", Text), ("revision", Text)],
            read: |row| principle(row, "critic", "revision"),
        },
    ];
}

impl<T> Shape<T> {
    /// Makes something of a row.
    ///
    /// # Errors
    /// Where it lacks a column of the shape, one holds something else, or the content is not as it should be.
    pub fn convert(&self, row: &Row) -> Result<T, String> {
        for (key, kind) in self.columns {
            match (kind, row.get(*key)) {
                (Text, Some(Value::String(_))) | (List, Some(Value::Array(_))) | (Object, Some(Value::Object(_))) => {}
                (_, None | Some(Value::Null)) => return Err(format!("has no key `{key}`, which the shape {self} has")),
                (_, Some(other)) => {
                    return Err(format!("key `{key}`: expected {}, found {}", kind.name(), name_type(other)));
                }
            }
        }
        (self.read)(row)
    }

    fn has_columns(&self, row: &Row, with_types: bool) -> bool {
        self.columns.iter().all(|(key, kind)| match (kind, row.get(*key)) {
            (_, None | Some(Value::Null)) => false,
            (Text, Some(Value::String(_))) | (List, Some(Value::Array(_))) | (Object, Some(Value::Object(_))) => true,
            (_, Some(_)) => !with_types,
        })
    }
}

/// `explicit prompt (prompt, chosen, rejected)`.
impl<T> std::fmt::Display for Shape<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns: Vec<&str> = self.columns.iter().map(|(key, _)| *key).collect();
        write!(formatter, "{} ({})", self.name, columns.join(", "))
    }
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Text => "text",
            List => "a list",
            Object => "an object",
        }
    }
}

/// The shape that a row has.
///
/// # Errors
/// Where it has none: with the type that is wrong, or else the shapes that there are.
pub fn find_shape<T: Shaped>(row: &Row) -> Result<&'static Shape<T>, String> {
    if let Some(shape) = T::SHAPES.iter().find(|shape| shape.has_columns(row, true)) {
        return Ok(shape);
    }
    if let Some(reason) = T::SHAPES.iter().find(|s| s.has_columns(row, false)).and_then(|s| s.convert(row).err()) {
        return Err(reason);
    }
    let found: Vec<String> = row.keys().take(12).map(|key| format!("`{}`", shorten(key))).collect();
    let known: Vec<String> = T::SHAPES.iter().map(ToString::to_string).collect();
    Err(format!("has the keys {}, which is no shape of {}: {}", found.join(", "), T::WHAT, known.join("; ")))
}

/// What a row says that it is about, if it does.
fn label(row: &Row, key: &str) -> String {
    row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn document(row: &Row, key: &str) -> Result<Document, String> {
    Ok(Document { text: text(row, key)?.to_owned(), source: label(row, "source") })
}

/// Turns to imitate: a dialogue that the assistant ends.
fn imitate(row: &Row, messages: Vec<Message>) -> Result<Conversation, String> {
    check_order(&messages)?;
    match messages.last() {
        Some(last) if last.role == Role::Assistant => Ok(Conversation { messages, given: 0, kind: label(row, "kind") }),
        _ => Err("the last turn is not the assistant's, so nothing to learn".to_owned()),
    }
}

fn conversation(row: &Row, key: &str) -> Result<Conversation, String> {
    let mut conversation = imitate(row, messages(row, key)?)?;
    if let Some(given) = row.get("given").filter(|given| !given.is_null()) {
        let number = given.as_u64().and_then(|number| usize::try_from(number).ok());
        let n_turns = conversation.messages.len();
        conversation.given = number
            .filter(|&number| number < n_turns)
            .ok_or_else(|| format!("key `given`: expected a number below the {n_turns} turns"))?;
    }
    Ok(conversation)
}

/// The system's turn, if the row has one, and what the user says.
fn begin(row: &Row, said: &str) -> Result<Vec<Message>, String> {
    let system = optional_text(row, "system")?.map(|system| say(Role::System, system));
    Ok(system.into_iter().chain([say(Role::User, said)]).collect())
}

/// An instruction, after it the text that it is about, a blank line between; before it the earlier turns in `history`.
fn instruct(row: &Row, about: &str) -> Result<Vec<Message>, String> {
    let instruction = text(row, "instruction")?;
    let asked = match optional_text(row, about)? {
        Some(about) => format!("{instruction}\n\n{about}"),
        None => instruction.to_owned(),
    };
    let mut turns = begin(row, &asked)?;
    if let Some(history) = row.get("history").filter(|history| !history.is_null()) {
        let expected = || "key `history`: expected pairs of texts".to_owned();
        let asked = turns.pop();
        for pair in history.as_array().ok_or_else(expected)? {
            let Some([Value::String(question), Value::String(answer)]) = pair.as_array().map(Vec::as_slice) else {
                return Err(expected());
            };
            for (role, said) in [(Role::User, question), (Role::Assistant, answer)] {
                check_text(said).map_err(|reason| format!("key `history`: {reason}"))?;
                turns.push(say(role, said));
            }
        }
        turns.extend(asked);
    }
    Ok(turns)
}

fn alpaca(row: &Row) -> Result<Conversation, String> {
    let mut turns = instruct(row, "input")?;
    turns.push(say(Role::Assistant, text(row, "output")?));
    imitate(row, turns)
}

fn dolly(row: &Row) -> Result<Conversation, String> {
    let mut turns = instruct(row, "context")?;
    turns.push(say(Role::Assistant, text(row, "response")?));
    imitate(row, turns)
}

/// A prompt as text: a dialogue, or what the user says.
fn prompt_text(row: &Row, key: &str) -> Result<Vec<Message>, String> {
    let said = text(row, key)?;
    if is_dialogue(said) { dialogue_in(row, key) } else { begin(row, said.trim()) }
}

fn dialogue_in(row: &Row, key: &str) -> Result<Vec<Message>, String> {
    dialogue(text(row, key)?).map_err(|reason| format!("key `{key}`: {reason}"))
}

fn message_in(row: &Row, key: &str) -> Result<Message, String> {
    message(row.get(key).unwrap_or(&Value::Null)).map_err(|reason| format!("key `{key}`: {reason}"))
}

fn completion(row: &Row) -> Result<Conversation, String> {
    let mut turns = prompt_text(row, "prompt")?;
    turns.push(say(Role::Assistant, text(row, "completion")?.trim()));
    imitate(row, turns)
}

fn completion_messages(row: &Row) -> Result<Conversation, String> {
    imitate(row, [messages(row, "prompt")?, messages(row, "completion")?].concat())
}

/// A comparison from what it asks and the answers, best first.
fn compare(row: &Row, prompt: Vec<Message>, ranked: Vec<String>) -> Result<Comparison, String> {
    check_order(&prompt)?;
    let distinct: BTreeSet<&str> = ranked.iter().map(|answer| answer.trim()).collect();
    if distinct.len() < ranked.len() {
        return Err("two answers are alike, so neither is better".to_owned());
    }
    Ok(Comparison { prompt, ranked, kind: label(row, "kind") })
}

fn ranked(row: &Row) -> Result<Comparison, String> {
    let list = texts(row, "ranked")?;
    compare(row, messages(row, "prompt")?, list)
}

/// The texts in a column that holds a list.
fn texts(row: &Row, key: &str) -> Result<Vec<String>, String> {
    let list = row.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let read = |(i, value): (usize, &Value)| {
        let reason = match value {
            Value::String(text) if text.trim().is_empty() => "is empty".to_owned(),
            Value::String(text) => return check_text(text).map(|()| text.clone()),
            other => format!("expected text, found {}", name_type(other)),
        };
        Err(format!("key `{key}`, number {}: {reason}", i + 1))
    };
    list.iter().enumerate().map(read).collect()
}

/// Completions by their `overall_score`, best first. One without a score, or with one below 0, was not rated and is left out; of
/// those rated alike the first is kept, as the others are neither better nor worse.
fn rated(row: &Row) -> Result<Comparison, String> {
    let list = row.get("completions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut answers: Vec<(f64, &str)> = Vec::new();
    for (i, completion) in list.iter().enumerate() {
        let place = |reason: String| format!("key `completions`, number {}: {reason}", i + 1);
        let Value::Object(completion) = completion else {
            return Err(place(format!("expected an object, found {}", name_type(completion))));
        };
        let score = match completion.get("overall_score") {
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::String(text)) => text.trim().parse().ok(),
            None | Some(Value::Null) => None,
            Some(other) => return Err(place(format!("key `overall_score`: found {}", name_type(other)))),
        };
        if let Some(score) = score.filter(|score| score.is_finite() && *score >= 0.0) {
            answers.push((score, text(completion, "response").map_err(place)?));
        }
    }
    answers.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    answers.dedup_by_key(|(score, _)| *score);
    if answers.len() < 2 {
        return Err(format!("of {} completions no two are rated differently", list.len()));
    }
    let ranked = answers.into_iter().map(|(_, answer)| answer.to_owned()).collect();
    compare(row, begin(row, text(row, "instruction")?)?, ranked)
}

/// A prompt, and the better and the worse answer to it.
fn pair(
    row: &Row,
    prompt: Vec<Message>,
    answer: impl Fn(&str) -> Result<Message, String>,
) -> Result<Comparison, String> {
    let content = |key| match answer(key)? {
        Message { role: Role::Assistant, content } => Ok(content),
        _ => Err(format!("key `{key}` does not end with a turn of the assistant")),
    };
    compare(row, prompt, vec![content("chosen")?, content("rejected")?])
}

/// Two conversations that differ in their last turn.
fn implicit(row: &Row, read: impl Fn(&str) -> Result<Vec<Message>, String>) -> Result<Comparison, String> {
    let split = |key| {
        let mut turns = read(key)?;
        let last = turns.pop().ok_or_else(|| format!("key `{key}` has no turns"))?;
        Ok::<_, String>((turns, last))
    };
    let ((prompt, better), (other, worse)) = (split("chosen")?, split("rejected")?);
    if prompt != other {
        return Err("`chosen` and `rejected` differ before their last turn, so they answer no common prompt".to_owned());
    }
    pair(row, prompt, |key| Ok(if key == "chosen" { better.clone() } else { worse.clone() }))
}

/// A prompt and answers as text; answers that are whole dialogues have the prompt themselves.
fn explicit_text(row: &Row) -> Result<Comparison, String> {
    if is_dialogue(text(row, "chosen")?) {
        return implicit(row, |key| dialogue_in(row, key));
    }
    pair(row, prompt_text(row, "prompt")?, |key| Ok(say(Role::Assistant, text(row, key)?.trim())))
}

/// Whole conversations, or answers alone to a prompt that is text.
fn implicit_messages(row: &Row) -> Result<Comparison, String> {
    let read = |key: &str| {
        let turns = messages(row, key)?;
        Ok(match turns.first() {
            Some(first) if first.role == Role::Assistant => [prompt_text(row, "prompt")?, turns].concat(),
            _ => turns,
        })
    };
    implicit(row, read)
}

/// A prompt and answers, all as messages; answers that are whole conversations begin with the prompt.
fn explicit_messages(row: &Row) -> Result<Comparison, String> {
    let prompt = messages(row, "prompt")?;
    let read = |key: &str| {
        let turns = messages(row, key)?;
        match turns.first() {
            Some(first) if first.role == Role::Assistant => Ok([prompt.as_slice(), &turns].concat()),
            _ if turns.starts_with(&prompt) => Ok(turns),
            _ => Err(format!("key `{key}` does not begin with `prompt`")),
        }
    };
    implicit(row, read)
}

fn prompt(row: &Row, prompt: Vec<Message>) -> Result<Prompt, String> {
    check_order(&prompt)?;
    if row.get("right").is_some_and(|right| !right.is_array() && !right.is_null()) {
        return Err("key `right`: expected a list".to_owned());
    }
    Ok(Prompt { prompt, kind: label(row, "kind"), right: texts(row, "right")? })
}

/// A principle. One without a name is called after its request for a critique; one that does not say how to compare two answers
/// compares them by its request for a revision.
fn principle(row: &Row, critique: &str, revision: &str) -> Result<Principle, String> {
    let [critique, revision] = [text(row, critique)?, text(row, revision)?];
    let name = optional_text(row, "name")?.map_or_else(|| shorten(critique), str::to_owned);
    let preference = optional_text(row, "preference")?
        .map_or_else(|| format!("Which answer already does this: {revision}"), str::to_owned);
    Ok(Principle { name, critique: critique.to_owned(), revision: revision.to_owned(), preference })
}
