//! How the language model is taught: recipe, data, optimizer, schedule, one file per phase.

pub mod batch;
pub mod data;
pub mod error;
pub mod folder;
mod log;
pub mod loss;
pub mod pretrain;
pub mod recipe;
mod schedule;
pub mod session;
pub mod sft;
mod state;
mod tally;
#[cfg(test)]
mod tiny;

pub use error::{Error, Result};
