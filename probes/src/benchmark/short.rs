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
//! | `unanswerable` | optional, `true` in place of `answers`: a control about what never was, which is to be declined |
//! | `cluster` | optional: what the question is about; an unanswerable one and its answerable twin have the same |
//! | `periods` | optional, of a fact that changes, in place of `answers`: `{"from": "2019-07", "answers": [...]}` in order; `date` is then the month that is asked about |
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
use super::{Benchmark, Fault, Scored, stored_answers};
use crate::error::{Error, Result};
use crate::item::{Behaviour, History, Item, Period, Task};
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
    answers: Option<Vec<String>>,
    #[serde(default)]
    unanswerable: bool,
    category: Option<String>,
    date: Option<String>,
    #[serde(default)]
    context: String,
    cluster: Option<String>,
    periods: Option<Vec<PeriodRow>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PeriodRow {
    from: String,
    answers: Vec<String>,
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
    Task::ShortAnswer { question, aliases, context, shots, history: None }
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
        let date = month_of(row.date.as_deref()).map_err(|reason| bad("date", reason))?;
        let history = row.periods.map(|periods| read_history(periods, date)).transpose();
        let history = history.map_err(|(key, reason)| bad(key, reason))?;
        // A fact that changes is known from the month on in which it became so.
        let current = history.as_ref().and_then(|history| history.periods.iter().rfind(|of| of.first <= history.asked));
        let month = current.map_or(date, |period| Some(period.first));
        let answers = match (row.answers, current, row.unanswerable) {
            (Some(answers), None, false) => answers,
            (None, Some(period), false) => period.answers.clone(),
            (None, None, true) => Vec::new(),
            (None, None, false) => return Err(bad("answers", "is missing".to_owned())),
            _ => {
                return Err(bad(
                    "answers",
                    "are one of `answers`, `periods` and `unanswerable`: more is given".to_owned(),
                ));
            }
        };
        let slice = row.category.unwrap_or_else(|| "all".to_owned());
        let expected = !row.unanswerable;
        let mut task = short_answer(row.question, answers, row.context);
        if let Task::ShortAnswer { history: own, .. } = &mut task {
            *own = history;
        }
        let item = undated(id.clone(), &slice, row.cluster.unwrap_or(id), task);
        let behaviour = if month.is_some() { Behaviour::KnowledgeCutoff } else { Behaviour::Knowledge };
        Ok((line, Item { behaviour, month, expected, ..item }))
    };
    stored::read_lines::<Row>(path)?.into_iter().map(item).collect()
}

/// The periods of a fact that changes, beside the month that is asked about.
fn read_history(periods: Vec<PeriodRow>, asked: Option<u32>) -> std::result::Result<History, Fault> {
    let asked = asked.ok_or(("date", "is missing: of a fact that changes it is the month asked about".to_owned()))?;
    let period = |PeriodRow { from, answers }: PeriodRow| -> std::result::Result<Period, Fault> {
        let first = month_of(Some(&from)).ok().flatten();
        Ok(Period {
            first: first.ok_or(("periods", format!("has {from:?}, which is no month such as 2023-07")))?,
            answers,
        })
    };
    let periods = periods.into_iter().map(period).collect::<std::result::Result<Vec<Period>, Fault>>()?;
    if periods.first().is_none_or(|first| first.first > asked) {
        return Err(("periods", "has none that holds the month of `date`".to_owned()));
    }
    Ok(History { asked, periods })
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
