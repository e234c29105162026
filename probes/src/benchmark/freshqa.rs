//! FreshQA: questions with short answers whose truth has dates, some with a false premise.
//!
//! The file is `FreshQA_v*.csv`, whose head is its third line. The release dates answers by year at most: an item of effective year
//! 2023 gets January 2023, the first month from which its answer may hold, so that a cutoff "before 2023-01" reads right, by the year.
//! `before 2022` has no month. Slices are `false_premise`, else the kind of fact (`never-changing`). Questions with a false premise are
//! controls, not expected to pass: a right answer denies the premise in words of its own, which a comparison with the listed sentences
//! seldom finds.
//!
//! # Reference
//! Vu et al., 2023, *FreshLLMs: refreshing large language models with search engine augmentation*, arXiv 2310.03214. There people or a
//! model grade.

use std::path::Path;

use serde::Deserialize;

use super::short::short_answer;
use super::{Benchmark, Fault, Scored, blame, stored_answers};
use crate::error::Result;
use crate::item::{Behaviour, Item};
use crate::{month, stored};

/// The slice of questions that presuppose what is not so.
pub const FALSE_PREMISE: &str = "false_premise";

/// FreshQA.
pub struct FreshQa;

#[derive(Deserialize)]
struct Row {
    id: String,
    question: String,
    effective_year: String,
    false_premise: String,
    fact_type: String,
    answer_0: String,
    answer_1: String,
    answer_2: String,
    answer_3: String,
    answer_4: String,
    answer_5: String,
    answer_6: String,
    answer_7: String,
    answer_8: String,
    answer_9: String,
}

impl Row {
    fn into_item(self) -> std::result::Result<Item, Fault> {
        let has_false_premise = match self.false_premise.as_str() {
            "TRUE" => true,
            "FALSE" => false,
            other => return Err(("false_premise", format!("is {other:?}, neither \"TRUE\" nor \"FALSE\""))),
        };
        let year = self.effective_year.trim();
        let month = match year.parse().ok().and_then(month::january) {
            Some(month) => Some(month),
            None if year.starts_with("before ") => None,
            None => return Err(("effective_year", format!("is {year:?}, neither a year nor \"before\" one"))),
        };
        let answers = [
            self.answer_0,
            self.answer_1,
            self.answer_2,
            self.answer_3,
            self.answer_4,
            self.answer_5,
            self.answer_6,
            self.answer_7,
            self.answer_8,
            self.answer_9,
        ];
        let aliases = answers.into_iter().map(|answer| answer.trim().to_owned()).filter(|answer| !answer.is_empty());
        Ok(Item {
            behaviour: if month.is_some() { Behaviour::KnowledgeCutoff } else { Behaviour::Knowledge },
            slice: if has_false_premise { FALSE_PREMISE.to_owned() } else { self.fact_type },
            cluster: self.id.clone(),
            id: self.id,
            month,
            expected: !has_false_premise,
            task: short_answer(self.question, aliases.collect(), String::new()),
        })
    }
}

impl Benchmark for FreshQa {
    fn name(&self) -> &'static str {
        "freshqa"
    }

    fn items(&self, path: &Path) -> Result<Vec<(usize, Item)>> {
        let item = |(line, row): (usize, Row)| {
            let id = row.id.clone();
            row.into_item().map(|item| (line, item)).map_err(|fault| blame(path, line, id, fault))
        };
        stored::read_table::<Row>(path, b',', Some("id"))?.into_iter().map(item).collect()
    }

    fn score(&self, items: &Path, responses: &Path) -> Result<Scored> {
        stored_answers::score(self.items(items)?, responses)
    }
}
