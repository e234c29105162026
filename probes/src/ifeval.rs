//! IFEval: instructions that a program can check, scored as the official scorer scores them.
//!
//! # Reference
//! Zhou et al. 2023, *Instruction-Following Evaluation for Large Language Models*, arXiv 2311.07911. The checks agree with lm-eval 0.4.13
//! (`lm_eval/tasks/ifeval`) with NLTK 3.10.4 and langdetect 1.0.9 at seed 0; `docs/benchmarks.md` says how far.
//!
//! # Deviations
//! Where an item asks for a letter that is none (`#`, `!`), the official scorer counts a letter that it draws at random; here the character
//! is counted.

mod check;
mod instruction;
mod json;
mod language;
mod python;
mod sentence;
mod word;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

pub use self::instruction::{Arguments, Count, Instruction};
use crate::benchmark::{Benchmark, Figure, Scored};
use crate::error::{Error, Result};
use crate::stored::{self, Name};

/// The benchmark.
pub struct IfEval;

/// A prompt with what its answer has to follow.
#[derive(Debug, Clone)]
pub struct Item {
    /// Official name, a number in the official file.
    pub key: Value,
    /// What is asked.
    pub prompt: String,
    /// Official names of the instructions.
    pub instruction_names: Vec<String>,
    /// The instructions, in the same order.
    pub instructions: Vec<Instruction>,
}

/// A line of the official `input_data.jsonl`.
#[derive(Deserialize)]
struct Line {
    key: Value,
    prompt: String,
    instruction_id_list: Vec<String>,
    kwargs: Vec<Arguments>,
}

/// Whether each instruction of an item was followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// By the response as it is.
    pub strict: Vec<bool>,
    /// By the response, or by it without its first or last line or its asterisks.
    pub loose: Vec<bool>,
}

impl Item {
    /// Scores a response.
    pub fn score(&self, response: &str) -> Followed {
        let strict: Vec<bool> = self.instructions.iter().map(|instruction| instruction.is_followed(response)).collect();
        let loose = self.instructions.iter().zip(&strict);
        let loose = loose.map(|(instruction, &strict)| strict || instruction.is_followed_loosely(response)).collect();
        Followed { strict, loose }
    }
}

/// Reads items in the shape of the official `input_data.jsonl`.
///
/// # Errors
/// Where the file cannot be read or holds no items, a line is no item, an instruction is unknown or lacks an argument, or two items have one
/// key. Names file, line and key.
pub fn load(path: &Path) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    let mut first_lines: BTreeMap<String, usize> = BTreeMap::new();
    for (line, read) in stored::read_lines::<Line>(path)? {
        let id = stored::key_text(&read.key).unwrap_or_default();
        let bad = |key: &'static str, reason: String| Error::BadItem {
            path: path.to_owned(),
            line,
            id: id.clone(),
            key,
            reason,
        };
        if id.is_empty() {
            return Err(bad("key", format!("is {}, which is no text or number", read.key)));
        }
        let (n_names, n_arguments) = (read.instruction_id_list.len(), read.kwargs.len());
        if n_names == 0 {
            return Err(bad("instruction_id_list", "is empty".to_owned()));
        }
        if n_names != n_arguments {
            return Err(bad("kwargs", format!("has {n_arguments} entries for {n_names} instructions")));
        }
        let pairs = read.instruction_id_list.iter().zip(&read.kwargs);
        let instructions =
            pairs.map(|(name, given)| Instruction::parse(name, given)).collect::<std::result::Result<_, _>>();
        let instructions = instructions.map_err(|fault| bad(fault.key, fault.reason))?;
        if let Some(first_line) = first_lines.insert(id.clone(), line) {
            return Err(Error::DuplicateId { path: path.to_owned(), line, id, first_line });
        }
        items.push(Item {
            key: read.key,
            prompt: read.prompt,
            instruction_names: read.instruction_id_list,
            instructions,
        });
    }
    Ok(items)
}

impl Benchmark for IfEval {
    fn name(&self) -> &'static str {
        "ifeval"
    }

    fn score(&self, items: &Path, responses: &Path) -> Result<Scored> {
        let items = load(items)?;
        let keys: Vec<String> = items.iter().map(|item| stored::key_text(&item.key).unwrap_or_default()).collect();
        let names: Vec<Name<'_>> =
            keys.iter().zip(&items).map(|(key, item)| Name { key, prompt: &item.prompt }).collect();
        let joined = stored::join(responses, &names)?;
        let mut lines = Vec::with_capacity(items.len());
        let (mut strict, mut loose) = (Vec::new(), Vec::new());
        for (item, response) in items.iter().zip(&joined.responses) {
            let (key, names) = (&item.key, &item.instruction_names);
            if let Some(response) = response {
                let followed = item.score(response);
                lines.push(json!({
                    "key": key, "instruction_id_list": names, "strict": &followed.strict, "loose": &followed.loose,
                }));
                strict.push(followed.strict);
                loose.push(followed.loose);
            } else {
                lines.push(json!({
                    "key": key, "instruction_id_list": names, "strict": null, "loose": null, "unscored": "no response",
                }));
            }
        }
        let of_prompts =
            |outcomes: &[Vec<bool>]| outcomes.iter().map(|all| !all.contains(&false)).collect::<Vec<bool>>();
        let figures = [
            Figure::share("prompts followed in full, strict", &of_prompts(&strict)),
            Figure::share("prompts followed in full, loose", &of_prompts(&loose)),
            Figure::clustered_share("instructions followed, strict", &strict, "prompt"),
            Figure::clustered_share("instructions followed, loose", &loose, "prompt"),
        ];
        Ok(Scored { lines, figures: figures.into_iter().flatten().collect(), notes: joined.notes })
    }
}

#[cfg(test)]
mod tests;
