//! RealTimeQA: news quizzes with dates, multiple choice, for the knowledge cutoff.
//!
//! The file is `all_qa.jsonl`. The month is that in which the question was put. The evidence, where there is some, is the text of the
//! open-book control. Slices are the sources.
//!
//! # Deviations
//! Of the 7,852 rows one has no question and no answer: it is left out. Options that are empty or repeat an earlier one (9 rows) are
//! left out; where the right one is said twice it stands once. Answers stand as `["1"]` or `"1"`, dates as `2020/01/03` or
//! `2020-01-03`; both are read.
//!
//! # Reference
//! Kasai et al., 2023, *RealTimeQA: what's the answer right now?*, arXiv 2207.13332.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::choice::{month_of, plain_cloze};
use super::{Benchmark, Fault, Scored, blame, stored_answers};
use crate::error::Result;
use crate::item::{Behaviour, Item, Task};
use crate::stored;

/// RealTimeQA.
pub struct RealTimeQa;

#[derive(Deserialize)]
struct Row {
    question_id: String,
    question_date: String,
    question_source: String,
    question_sentence: String,
    choices: Vec<String>,
    answer: Value,
    #[serde(default)]
    evidence: String,
}

impl Row {
    fn is_blank(&self) -> bool {
        self.question_sentence.trim().is_empty() && self.answer.as_array().is_some_and(Vec::is_empty)
    }

    /// Distinct options that say something, and the right one among them.
    fn options(&self) -> std::result::Result<(Vec<String>, usize), Fault> {
        let index = match &self.answer {
            Value::String(index) => Some(index),
            Value::Array(indices) => match indices.as_slice() {
                [Value::String(index)] => Some(index),
                _ => None,
            },
            _ => None,
        };
        let right = index.and_then(|index| self.choices.get(index.parse::<usize>().ok()?)).map(|choice| choice.trim());
        let right = right.filter(|right| !right.is_empty());
        let right = right.ok_or_else(|| ("answer", format!("is {}, which is no index of a choice", self.answer)))?;
        let mut options: Vec<String> = Vec::new();
        for choice in self.choices.iter().map(|choice| choice.trim()) {
            if !choice.is_empty() && !options.iter().any(|option| option == choice) {
                options.push(choice.to_owned());
            }
        }
        let right = options.iter().position(|option| option == right).unwrap_or_default();
        Ok((options, right))
    }

    fn into_item(self) -> std::result::Result<Item, Fault> {
        let month = month_of(Some(&self.question_date)).map_err(|reason| ("question_date", reason))?;
        let (options, right) = self.options()?;
        Ok(Item {
            behaviour: Behaviour::KnowledgeCutoff,
            slice: self.question_source,
            cluster: self.question_id.clone(),
            id: self.question_id,
            month,
            expected: true,
            task: Task::Quiz {
                cloze: plain_cloze(&self.question_sentence),
                question: self.question_sentence,
                options,
                right: vec![right],
                context: self.evidence,
            },
        })
    }
}

impl Benchmark for RealTimeQa {
    fn name(&self) -> &'static str {
        "realtimeqa"
    }

    fn items(&self, path: &Path) -> Result<Vec<(usize, Item)>> {
        let item = |(line, row): (usize, Row)| {
            let id = row.question_id.clone();
            row.into_item().map(|item| (line, item)).map_err(|fault| blame(path, line, id, fault))
        };
        stored::read_lines::<Row>(path)?.into_iter().filter(|(_, row)| !row.is_blank()).map(item).collect()
    }

    /// Responses name a letter; `A` is the first option in the file.
    fn score(&self, items: &Path, responses: &Path) -> Result<Scored> {
        stored_answers::score(self.items(items)?, responses)
    }
}
