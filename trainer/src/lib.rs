//! How the language model is taught: recipe, data, optimizer, schedule, one file per phase.

mod advantage;
pub mod alarms;
pub mod audit;
pub mod batch;
mod bradley_terry;
pub mod constitution;
pub mod data;
pub mod dpo;
pub mod error;
pub mod fit;
pub mod folder;
mod gradient_sum;
#[cfg(test)]
mod gradients;
pub mod import;
pub mod influence;
pub mod judge;
pub mod labels;
mod log;
pub mod loss;
pub mod mix;
#[cfg(test)]
mod phases;
mod preference_loss;
pub mod pretrain;
pub mod principles;
mod progress;
pub mod ranks;
pub mod recipe;
pub mod records;
pub mod reward;
pub mod rl_cai;
pub mod rlhf;
pub mod rollout;
mod schedule;
mod sequence;
pub mod session;
pub mod sft;
pub mod shapes;
pub mod sl_cai;
mod state;
mod tally;
#[cfg(test)]
mod tiny;
pub mod trajectory;
#[cfg(test)]
mod trl;
mod turns;

pub use error::{Error, Result};
