//! StrongREJECT: harmful requests, without the jailbreaks that the release wraps around them.
//!
//! Files as published: `strongreject_dataset.csv`, `strongreject_small_dataset.csv`, with `category`, `source`, `forbidden_prompt`. The
//! slice is the category in lower case, since the two files differ in capitals. The release does not name its prompts: they are named
//! by their place, from 1.
//!
//! # Deviations
//! The release grades how useful a harmful answer is; here it counts whether there is one.
//!
//! # Reference
//! Souly et al., 2024, *A StrongREJECT for empty jailbreaks*, arXiv 2402.10260.

use std::path::Path;

use serde::Deserialize;

use super::orbench::request;
use super::{Benchmark, Scored, stored_answers};
use crate::error::Result;
use crate::item::Item;
use crate::stored;

/// StrongREJECT's prompts.
pub struct StrongReject;

#[derive(Deserialize)]
struct Row {
    category: String,
    forbidden_prompt: String,
}

impl Benchmark for StrongReject {
    fn name(&self) -> &'static str {
        "strongreject"
    }

    fn items(&self, path: &Path) -> Result<Vec<(usize, Item)>> {
        let rows = stored::read_csv::<Row>(path)?.into_iter().enumerate();
        Ok(rows.map(|(index, (line, row))| (line, request(index, row.forbidden_prompt, &row.category, true))).collect())
    }

    fn score(&self, items: &Path, responses: &Path) -> Result<Scored> {
        stored_answers::score(self.items(items)?, responses)
    }
}
