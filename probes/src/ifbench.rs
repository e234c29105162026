//! IFBench: 58 kinds of instruction that a program can check, scored as the official scorer scores them.
//!
//! # Reference
//! Pyatkin et al. 2025, *Generalizing Verifiable Instruction Following*, arXiv 2507.02833. The checks are those of `allenai/IFBench` at
//! commit db69a6f, with Python 3.11, NLTK 3.10.4, syllapy 0.8.0 and emoji 2.16.0; `docs/benchmarks.md` says how far they agree.
//!
//! # Deviations
//! `words:start_verb` is not scored: it needs the weights of NLTK's part-of-speech tagger. Where the official checker fails with an
//! exception, which ends its run, the response does not follow the instruction. A missing argument is an error, where the official
//! scorer draws one at random.

mod ascii;
mod count;
mod csv;
mod custom;
mod emoji;
mod format;
mod instruction;
mod kwargs;
mod repeat;
mod sentence;
mod syllable;
mod word;

use std::path::Path;

pub use self::instruction::Instruction;
pub use self::kwargs::Arguments;
use crate::benchmark::{Benchmark, Scored};
use crate::error::Result;
use crate::item;
use crate::verifiable;

/// The benchmark.
pub struct IfBench;

/// A prompt with what its answer has to follow; its key is text in the official file.
pub type Item = verifiable::Item<Instruction>;

/// Reads items in the shape of the official `IFBench_test.jsonl`.
///
/// # Errors
/// As [`verifiable::load`].
pub fn load(path: &Path) -> Result<Vec<Item>> {
    verifiable::load(path)
}

impl Benchmark for IfBench {
    fn name(&self) -> &'static str {
        "ifbench"
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
