//! Any multiple-choice set, in a simple schema: one JSON object per line.
//!
//! | key | what it is |
//! |---|---|
//! | `id` | text or number, unique |
//! | `question` | text |
//! | `options` | two or more texts, without space around them |
//! | `answer` | index of the right option, from 0, or a list of indices |
//! | `category` | optional: the slice |
//! | `date` | optional, `2023-07` or `2023-07-14`: the month from which the answer could be known; the item is then one of the cutoff |
//! | `context` | optional: a text that holds the answer, for the open-book control |
//! | `prompt` | optional: the text that is continued with ` {option}`, verbatim; otherwise `Question: {question}\nAnswer:` |
//!
//! Other keys are an error, so that a misspelt one is found.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{Benchmark, Scored, stored_answers};
use crate::error::{Error, Result};
use crate::item::{Behaviour, Item, Task};
use crate::{month, stored};

/// A set in the schema above.
pub struct ChoiceSet;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: Value,
    question: String,
    options: Vec<String>,
    answer: Value,
    category: Option<String>,
    date: Option<String>,
    #[serde(default)]
    context: String,
    prompt: Option<String>,
}

/// What a base model continues where a set brings no prompt of its own.
pub(crate) fn plain_cloze(question: &str) -> String {
    format!("Question: {}\nAnswer:", question.trim())
}

/// The month of a date, where there is one.
pub(crate) fn month_of(date: Option<&str>) -> std::result::Result<Option<u32>, String> {
    let Some(date) = date else { return Ok(None) };
    let month = month::parse(date).filter(|&month| month >= month::FIRST_CALENDAR_MONTH);
    month.map(Some).ok_or_else(|| format!("is {date:?}, which is no month such as 2023-07"))
}

fn indices(answer: &Value) -> Option<Vec<usize>> {
    let index = |value: &Value| value.as_u64().map(|index| index as usize);
    match answer {
        Value::Array(values) => values.iter().map(index).collect(),
        value => Some(vec![index(value)?]),
    }
}

impl Benchmark for ChoiceSet {
    fn name(&self) -> &'static str {
        "choice"
    }

    fn items(&self, path: &Path) -> Result<Vec<(usize, Item)>> {
        let mut items = Vec::new();
        for (line, row) in stored::read_lines::<Row>(path)? {
            let id = stored::key_text(&row.id).unwrap_or_default();
            let bad = |key: &'static str, reason: String| Error::BadItem {
                path: path.to_owned(),
                line,
                id: id.clone(),
                key,
                reason,
            };
            if id.is_empty() {
                return Err(bad("id", format!("is {}, which is no text or number", row.id)));
            }
            let right = indices(&row.answer).ok_or_else(|| {
                bad("answer", format!("is {}, which is no index of an option and no list of them", row.answer))
            })?;
            let cloze = row.prompt.unwrap_or_else(|| plain_cloze(&row.question));
            if cloze.trim_end() != cloze {
                return Err(bad("prompt", format!("ends with white space, but options bring their own: {cloze:?}")));
            }
            let month = month_of(row.date.as_deref()).map_err(|reason| bad("date", reason))?;
            let item = Item {
                behaviour: if month.is_some() { Behaviour::KnowledgeCutoff } else { Behaviour::Knowledge },
                slice: row.category.unwrap_or_else(|| "all".to_owned()),
                cluster: id.clone(),
                id,
                month,
                expected: true,
                task: Task::Quiz { question: row.question, options: row.options, right, cloze, context: row.context },
            };
            items.push((line, item));
        }
        Ok(items)
    }

    /// Responses name a letter; `A` is the first option in the file.
    fn score(&self, items: &Path, responses: &Path) -> Result<Scored> {
        stored_answers::score(self.items(items)?, responses)
    }
}
