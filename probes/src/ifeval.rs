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

use std::path::Path;

pub use self::instruction::{Arguments, Count, Instruction};
use crate::benchmark::{Benchmark, Scored};
use crate::error::Result;
use crate::item;
use crate::verifiable;

/// The benchmark.
pub struct IfEval;

/// A prompt with what its answer has to follow; its key is a number in the official file.
pub type Item = verifiable::Item<Instruction>;

/// Reads items in the shape of the official `input_data.jsonl`.
///
/// # Errors
/// As [`verifiable::load`].
pub fn load(path: &Path) -> Result<Vec<Item>> {
    verifiable::load(path)
}

impl Benchmark for IfEval {
    fn name(&self) -> &'static str {
        "ifeval"
    }

    fn items(&self, path: &Path) -> Result<Vec<(usize, item::Item)>> {
        verifiable::items::<Instruction>(self.name(), path)
    }

    fn score(&self, items: &Path, responses: &Path) -> Result<Scored> {
        verifiable::score::<Instruction>(items, responses)
    }
}

#[cfg(test)]
mod tests;
