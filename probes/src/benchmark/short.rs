//! Any set of questions with short answers: in a simple schema, or in the files of PopQA and SimpleQA.
//!
//! JSON lines:
//!
//! | key | what it is |
//! |---|---|
//! | `id` | text or number, unique |
//! | `question` | text |
//! | `answers` | right answers, any of which does |
//! | `category` | optional: the slice |
//! | `date` | optional, `2023-07` or `2023-07-14`: the month from which the answer could be known; the item is then one of the cutoff |
//! | `context` | optional: a text that holds the answer, for the open-book control |
//!
//! `.tsv` is read as PopQA's: columns `id`, `question`, `possible_answers` (a JSON list) and `prop`, the slice; `subj` is the cluster.
//! `.csv` is read as SimpleQA's: columns `problem` and `answer`, and `metadata`, whose topic is the slice; items are named by their
//! place, from 1. Answers are compared as [`crate::short_answer`] does.
//!
//! # References
//! - Mallen et al., 2023, When not to trust language models, arXiv 2212.10511 (PopQA).
//! - Wei et al., 2024, Measuring short-form factuality in large language models, arXiv 2411.04368 (SimpleQA).

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::choice::month_of;
use super::{Benchmark, Scored, stored_answers};
use crate::error::{Error, Result};
use crate::item::{Behaviour, Item, Task};
use crate::stored;

/// A set in one of the shapes above.
pub struct ShortAnswers;

/// Worked examples for the few-shot forms: they show that an answer is a few words.
const SHOTS: [(&str, &str); 4] = [
    ("What is the capital of Italy?", "Rome"),
    ("Who wrote Romeo and Juliet?", "William Shakespeare"),
    ("In which year did the First World War begin?", "1914"),
    ("What is the chemical symbol of gold?", "Au"),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: Value,
    question: String,
    answers: Vec<String>,
    category: Option<String>,
    date: Option<String>,
    #[serde(default)]
    context: String,
}

#[derive(Deserialize)]
struct PopQaRow {
    id: String,
    subj: String,
    prop: String,
    question: String,
    possible_answers: String,
}

#[derive(Deserialize)]
struct SimpleQaRow {
    #[serde(default)]
    metadata: String,
    problem: String,
    answer: String,
}

/// A question with its answers.
pub(super) fn short_answer(question: String, aliases: Vec<String>, context: String) -> Task {
    let shots = SHOTS.map(|(question, answer)| (question.to_owned(), answer.to_owned())).to_vec();
    Task::ShortAnswer { question, aliases, context, shots }
}

fn undated(id: String, slice: &str, cluster: String, task: Task) -> Item {
    let slice = slice.to_owned();
    Item { id, behaviour: Behaviour::Knowledge, slice, cluster, month: None, expected: true, task }
}

fn of_lines(path: &Path) -> Result<Vec<(usize, Item)>> {
    let item = |(line, row): (usize, Row)| {
        let id = stored::key_text(&row.id).unwrap_or_default();
        let bad = |key, reason| Error::BadItem { path: path.to_owned(), line, id: id.clone(), key, reason };
        if id.is_empty() {
            return Err(bad("id", format!("is {}, which is no text or number", row.id)));
        }
        let month = month_of(row.date.as_deref()).map_err(|reason| bad("date", reason))?;
        let slice = row.category.unwrap_or_else(|| "all".to_owned());
        let item = undated(id.clone(), &slice, id, short_answer(row.question, row.answers, row.context));
        let behaviour = if month.is_some() { Behaviour::KnowledgeCutoff } else { Behaviour::Knowledge };
        Ok((line, Item { behaviour, month, ..item }))
    };
    stored::read_lines::<Row>(path)?.into_iter().map(item).collect()
}

fn of_popqa(path: &Path) -> Result<Vec<(usize, Item)>> {
    let item = |(line, row): (usize, PopQaRow)| {
        let aliases = serde_json::from_str(&row.possible_answers).map_err(|_| {
            let reason = format!("is {:?}, which is no JSON list of texts", row.possible_answers);
            Error::BadItem { path: path.to_owned(), line, id: row.id.clone(), key: "possible_answers", reason }
        })?;
        Ok((line, undated(row.id, &row.prop, row.subj, short_answer(row.question, aliases, String::new()))))
    };
    stored::read_table::<PopQaRow>(path, b'\t', None)?.into_iter().map(item).collect()
}

fn of_simpleqa(path: &Path) -> Result<Vec<(usize, Item)>> {
    let item = |(index, (line, row)): (usize, (usize, SimpleQaRow))| {
        let id = (index + 1).to_string();
        let topic = topic_of(&row.metadata).unwrap_or("all");
        (line, undated(id.clone(), topic, id, short_answer(row.problem, vec![row.answer], String::new())))
    };
    Ok(stored::read_csv::<SimpleQaRow>(path)?.into_iter().enumerate().map(item).collect())
}

/// Of `{'topic': 'Science and technology', ...}`, printed by Python.
fn topic_of(metadata: &str) -> Option<&str> {
    let (_, rest) = metadata.split_once("'topic': '")?;
    Some(rest.split_once('\'')?.0)
}

impl Benchmark for ShortAnswers {
    fn name(&self) -> &'static str {
        "short"
    }

    fn items(&self, path: &Path) -> Result<Vec<(usize, Item)>> {
        if stored::has_extension(path, "tsv") {
            of_popqa(path)
        } else if stored::has_extension(path, "csv") {
            of_simpleqa(path)
        } else {
            of_lines(path)
        }
    }

    fn score(&self, items: &Path, responses: &Path) -> Result<Scored> {
        stored_answers::score(self.items(items)?, responses)
    }
}
