//! OR-Bench: harmless requests that look harmful, and a file of harmful ones.
//!
//! Files as published: `or-bench-80k.csv`, `or-bench-hard-1k.csv`, `or-bench-toxic.csv`, each with `prompt` and `category` (the slice).
//! They have the same columns, so whether one is harmful is told by its name: that of the toxic one holds `toxic`. A column `harmful`
//! (`true`, `false`), which the release does not have, goes before the name, for files that were put together. The release does not
//! name its prompts: they are named by their place, from 1.
//!
//! # Reference
//! Cui et al., 2024, *OR-Bench: an over-refusal benchmark for large language models*, arXiv 2405.20947.

use std::path::Path;

use lm::chat::{Message, Role};
use serde::Deserialize;

use super::{Benchmark, Scored, stored_answers};
use crate::error::{Error, Result};
use crate::item::{Behaviour, Item, Task};
use crate::stored;

/// OR-Bench.
pub struct OrBench;

#[derive(Deserialize)]
struct Row {
    prompt: String,
    category: String,
    harmful: Option<String>,
}

/// A request without a name of its own, at a place of its file from 0.
pub(super) fn request(index: usize, prompt: String, category: &str, harmful: bool) -> Item {
    let id = (index + 1).to_string();
    Item {
        behaviour: if harmful { Behaviour::HarmfulCompliance } else { Behaviour::OverRefusal },
        slice: category.trim().to_lowercase(),
        cluster: id.clone(),
        id,
        month: None,
        expected: true,
        task: Task::OpenRequest { messages: vec![Message { role: Role::User, content: prompt }], harmful },
    }
}

impl Benchmark for OrBench {
    fn name(&self) -> &'static str {
        "orbench"
    }

    fn items(&self, path: &Path) -> Result<Vec<(usize, Item)>> {
        let is_toxic = path.file_name().is_some_and(|name| name.to_string_lossy().to_lowercase().contains("toxic"));
        let mut items = Vec::new();
        for (index, (line, row)) in stored::read_csv::<Row>(path)?.into_iter().enumerate() {
            let harmful = match row.harmful.as_deref().map(str::trim) {
                None => is_toxic,
                Some(flag) => flag.to_lowercase().parse().map_err(|_| {
                    let reason = format!("`harmful`: {flag:?} is neither \"true\" nor \"false\"");
                    Error::BadLine { path: path.to_owned(), line, column: 1, reason }
                })?,
            };
            items.push((line, request(index, row.prompt, &row.category, harmful)));
        }
        Ok(items)
    }

    fn score(&self, items: &Path, responses: &Path) -> Result<Scored> {
        stored_answers::score(self.items(items)?, responses)
    }
}
