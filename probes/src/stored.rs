//! Answers that were produced elsewhere: one JSON object per line, put to the items that they answer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};

/// Most names that a note spells out.
const NAMES_SHOWN: usize = 20;

/// By what a response finds its item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a> {
    /// The benchmark's own name of the item, as text.
    pub key: &'a str,
    /// What was asked.
    pub prompt: &'a str,
}

/// Responses beside their items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The response to each item, in the order of the items; a response that is `null` is empty text.
    pub responses: Vec<Option<String>>,
    /// Which items have no response, and which responses no item.
    pub notes: Vec<String>,
}

/// A line of a file of responses. Other keys may stand beside these.
#[derive(Debug, Deserialize)]
struct Line {
    key: Option<Value>,
    id: Option<Value>,
    prompt: Option<String>,
    // So that a line without it is an error, not an empty response.
    #[serde(deserialize_with = "Option::deserialize")]
    response: Option<String>,
}

/// Reads a file of JSON lines, with the number of each line from 1; blank lines are left out.
///
/// # Errors
/// Where the file cannot be read, holds nothing, is not UTF-8 or a line does not have the shape of `T`. Names file, line and key.
pub fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<(usize, T)>> {
    let bytes = std::fs::read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    let mut rows = Vec::new();
    for (index, bytes) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = index + 1;
        let text = std::str::from_utf8(bytes).map_err(|_| Error::NotText { path: path.to_owned(), line })?;
        if text.trim().is_empty() {
            continue;
        }
        let row = serde_json::from_str(text).map_err(|error| {
            let message = error.to_string();
            // serde_json counts lines within the text it was given, which is one line here.
            let reason = message.split(" at line ").next().unwrap_or_default().to_owned();
            Error::BadLine { path: path.to_owned(), line, column: error.column(), reason }
        })?;
        rows.push((line, row));
    }
    if rows.is_empty() { Err(Error::EmptyBank { path: path.to_owned() }) } else { Ok(rows) }
}

/// The text of a file.
///
/// # Errors
/// Where it cannot be read or is not UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].split(|&byte| byte == b'\n').count();
        Error::NotText { path: path.to_owned(), line }
    })
}

/// Reads a whole file as one JSON value.
///
/// # Errors
/// Where it is none of the shape of `T`. Names line and column.
pub(crate) fn parse_json<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let reason = message.split(" at line ").next().unwrap_or_default().to_owned();
        Error::BadLine { path: path.to_owned(), line: error.line(), column: error.column(), reason }
    })
}

/// The lines, from 1, on which a key stands: where as often as there are entries, those of the entries; otherwise the first line for each.
pub(crate) fn lines_with(text: &str, key: &str, n_entries: usize) -> Vec<usize> {
    let lines: Vec<usize> = text
        .lines()
        .enumerate()
        .flat_map(|(index, line)| std::iter::repeat_n(index + 1, line.matches(key).count()))
        .collect();
    if lines.len() == n_entries { lines } else { vec![1; n_entries] }
}

/// Whether a file's name ends so, in either case.
pub(crate) fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// Rows of a file of comma-separated values with a head line, each with the number of its first line.
///
/// # Errors
/// Where the file cannot be read, holds no rows, is not UTF-8 or a row does not have the shape of `T`. Names file and line.
pub fn read_csv<T: DeserializeOwned>(path: &Path) -> Result<Vec<(usize, T)>> {
    read_table(path, b',', None)
}

/// The same with another delimiter; where `head` is given, rows before the one that begins with it are not read.
///
/// # Errors
/// As [`read_csv`], and where no row begins with `head`.
pub fn read_table<T: DeserializeOwned>(path: &Path, delimiter: u8, head: Option<&str>) -> Result<Vec<(usize, T)>> {
    let bytes = std::fs::read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    let bad = |error: &csv::Error| {
        let line = error.position().map_or(1, |position| position.line() as usize);
        match error.kind() {
            csv::ErrorKind::Utf8 { .. } => Error::NotText { path: path.to_owned(), line },
            _ => Error::BadLine { path: path.to_owned(), line, column: 1, reason: error.to_string() },
        }
    };
    // Spreadsheets begin their files with a byte order mark.
    let text = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    let mut reader = csv::ReaderBuilder::new().has_headers(false).delimiter(delimiter).from_reader(text);
    let mut records = reader.records();
    let head_row = loop {
        match records.next().transpose().map_err(|error| bad(&error))? {
            Some(row) if head.is_none_or(|head| row.get(0) == Some(head)) => break row,
            Some(_) => {}
            None => {
                let Some(head) = head else { return Err(Error::EmptyBank { path: path.to_owned() }) };
                let reason = format!("no row begins with `{head}`, as the head line does");
                return Err(Error::BadLine { path: path.to_owned(), line: 1, column: 1, reason });
            }
        }
    };
    let mut rows = Vec::new();
    for record in records {
        let record = record.map_err(|error| bad(&error))?;
        let line = record.position().map_or(1, |position| position.line() as usize);
        rows.push((line, record.deserialize(Some(&head_row)).map_err(|error| bad(&error))?));
    }
    if rows.is_empty() { Err(Error::EmptyBank { path: path.to_owned() }) } else { Ok(rows) }
}

/// A key as text: of a number its digits, of text the text itself; `None` for anything else.
pub fn key_text(key: &Value) -> Option<String> {
    match key {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Puts the responses in a file to their items: by `key`, or `id`, where a line has one, else by the text of `prompt`; space at its ends
/// does not count.
///
/// # Errors
/// Where the file cannot be read or a line is no response, two responses answer one item, a prompt is that of several items, or no
/// response fits any item.
pub fn join(path: &Path, items: &[Name<'_>]) -> Result<Joined> {
    join_with(path, items, &[])
}

/// The same with items that need no response, nor a note that they have none; their responses come behind those of the others.
///
/// # Errors
/// As [`join`].
pub(crate) fn join_with(path: &Path, needed: &[Name<'_>], others: &[Name<'_>]) -> Result<Joined> {
    let items = &[needed, others].concat();
    let bad = |line: usize, reason: String| Error::BadLine { path: path.to_owned(), line, column: 1, reason };
    let by_key: BTreeMap<&str, usize> = items.iter().enumerate().map(|(index, item)| (item.key, index)).collect();
    let mut by_prompt: BTreeMap<&str, usize> = BTreeMap::new();
    let mut repeated: BTreeSet<&str> = BTreeSet::new();
    for (index, item) in items.iter().enumerate() {
        let prompt = item.prompt.trim();
        if by_prompt.insert(prompt, index).is_some() {
            repeated.insert(prompt);
        }
    }
    let mut responses: Vec<Option<String>> = vec![None; items.len()];
    let mut line_of: Vec<usize> = vec![0; items.len()];
    let (mut unfit, mut reworded) = (Vec::new(), Vec::new());
    let lines: Vec<(usize, Line)> = read_lines(path)?;
    for (line, Line { key, id, prompt, response }) in lines {
        let prompt = prompt.as_deref().map(str::trim);
        let found = match (key.or(id), prompt) {
            (Some(key), _) => {
                let key = key_text(&key).ok_or_else(|| bad(line, format!("`key`: {key} is no text or number")))?;
                by_key.get(key.as_str()).copied()
            }
            (None, Some(prompt)) if repeated.contains(prompt) => {
                return Err(bad(line, "`prompt` is that of several items; give `key`".to_owned()));
            }
            (None, Some(prompt)) => by_prompt.get(prompt).copied(),
            (None, None) => return Err(bad(line, "missing field `prompt` (or `key`)".to_owned())),
        };
        let Some(index) = found else {
            unfit.push(line.to_string());
            continue;
        };
        if responses[index].is_some() {
            let first = line_of[index];
            return Err(bad(
                line,
                format!("item `{}` is answered a second time, first at line {first}", items[index].key),
            ));
        }
        if prompt.is_some_and(|prompt| prompt != items[index].prompt.trim()) {
            reworded.push(items[index].key.to_owned());
        }
        responses[index] = Some(response.unwrap_or_default());
        line_of[index] = line;
    }
    if line_of.iter().all(|&line| line == 0) {
        return Err(bad(1, "no response fits an item: neither `key` nor `prompt` is that of one".to_owned()));
    }
    let missing: Vec<String> = needed
        .iter()
        .zip(&responses)
        .filter(|(_, response)| response.is_none())
        .map(|(item, _)| item.key.to_owned())
        .collect();
    let file = path.display();
    let notes = [
        note(&missing, "without a response", "item", "items"),
        note(&unfit, &format!("of no item in {file}, line"), "response", "responses"),
        note(&reworded, "asked in other words than the item's, joined by its key", "item", "items"),
    ];
    Ok(Joined { responses, notes: notes.into_iter().flatten().collect() })
}

/// A note that names what it is about; `None` where there is nothing.
pub(crate) fn note(names: &[String], what: &str, one: &str, many: &str) -> Option<String> {
    if names.is_empty() {
        return None;
    }
    let mut shown: Vec<String> = names.iter().take(NAMES_SHOWN).map(|name| name.escape_debug().to_string()).collect();
    if names.len() > NAMES_SHOWN {
        shown.push(format!("and {} more", names.len() - NAMES_SHOWN));
    }
    let noun = if names.len() == 1 { one } else { many };
    Some(format!("{} {noun} {what}: {}", names.len(), shown.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEMS: [Name<'static>; 3] =
        [Name { key: "7", prompt: "Why?" }, Name { key: "8", prompt: "How?" }, Name { key: "nine", prompt: "Who?" }];

    fn join_text(text: &str) -> Result<Joined> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.jsonl");
        std::fs::write(&path, text).unwrap();
        join(&path, &ITEMS)
    }

    fn message(text: &str) -> String {
        let error = join_text(text).unwrap_err().to_string();
        error.rsplit("r.jsonl").next().unwrap_or_default().to_owned()
    }

    #[test]
    fn responses_find_their_item_by_key_or_prompt() {
        let text = r#"{"prompt": "Who? \n", "response": "I."}
            {"key": 7, "response": null, "model": "m"}

            {"id": "8", "prompt": "How?", "response": "So."}"#;
        let joined = join_text(text).unwrap();
        assert_eq!(joined.responses, [Some(String::new()), Some("So.".to_owned()), Some("I.".to_owned())]);
        assert_eq!(joined.notes, [""; 0]);
    }

    #[test]
    fn what_finds_no_partner_is_listed() {
        let text =
            "{\"prompt\": \"Where?\", \"response\": \"\"}\n{\"key\": 8, \"prompt\": \"HOW?\", \"response\": \"So.\"}";
        let joined = join_text(text).unwrap();
        assert_eq!(joined.responses, [None, Some("So.".to_owned()), None]);
        assert_eq!(joined.notes.len(), 3);
        assert_eq!(joined.notes[0], "2 items without a response: 7, nine");
        assert!(joined.notes[1].starts_with("1 response of no item in ") && joined.notes[1].ends_with("line: 1"));
        assert_eq!(joined.notes[2], "1 item asked in other words than the item's, joined by its key: 8");
    }

    #[test]
    fn what_needs_no_response_is_joined_where_it_has_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.jsonl");
        std::fs::write(&path, "{\"key\": \"nine\", \"response\": \"a\"}\n{\"key\": 7, \"response\": \"b\"}").unwrap();
        let joined = join_with(&path, &ITEMS[..1], &ITEMS[1..]).unwrap();
        assert_eq!(joined.responses, [Some("b".to_owned()), None, Some("a".to_owned())]);
        assert_eq!(joined.notes, [""; 0]);
    }

    #[test]
    fn an_item_is_answered_once() {
        let text = "{\"key\": 7, \"response\": \"a\"}\n{\"prompt\": \"Why?\", \"response\": \"b\"}";
        assert_eq!(message(text), ":2:1: item `7` is answered a second time, first at line 1");
    }

    #[test]
    fn a_prompt_of_two_items_needs_a_key() {
        let items = [Name { key: "1", prompt: "Why?" }, Name { key: "2", prompt: "Why?" }];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.jsonl");
        std::fs::write(&path, "{\"prompt\": \"Why?\", \"response\": \"a\"}").unwrap();
        assert!(join(&path, &items).unwrap_err().to_string().ends_with("is that of several items; give `key`"));
    }

    #[test]
    fn lines_that_are_no_response_are_named() {
        assert!(message("{\"key\": 7}").contains("missing field `response`"), "{}", message("{\"key\": 7}"));
        assert!(message("{\"response\": \"a\"}").contains("missing field `prompt`"));
        assert!(message("{\"key\": [], \"response\": \"a\"}").contains("`key`: [] is no text or number"));
        assert!(message("\n{\"key\"").starts_with(":2:6: EOF"), "{}", message("\n{\"key\""));
        assert!(message("{\"key\": 99, \"response\": \"a\"}").contains("no response fits an item"));
        assert!(matches!(join_text(" \n").unwrap_err(), Error::EmptyBank { .. }));
    }
}
