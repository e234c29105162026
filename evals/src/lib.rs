//! What the answers mean: results over a lineage, statistics, attribution and verdicts.
//!
//! [`store::Store`] keeps what was answered, [`diagnose::diagnose`] turns it into a [`diagnosis::Diagnosis`],
//! [`reference::Reference`] holds what healthy lineages show, and [`compare::compare`] turns the answers of several settings of
//! alignment into a [`comparison::Comparison`]. [`release::decide::judge`] says whether a candidate may
//! take the place of what is released; [`trace`] finds the rows of a phase's data that taught a failure.

mod accusation;
pub mod attribution;
pub mod bisection;
mod board;
pub mod calibration;
pub mod compare;
pub mod comparison;
mod contribution;
pub mod cutoff;
pub mod diagnose;
pub mod diagnosis;
pub mod error;
pub mod evidence;
pub mod factorial;
pub mod fixes;
pub mod gate;
pub mod history;
pub mod index;
mod latent;
pub mod measured;
mod path;
mod random;
pub mod reference;
pub mod release;
mod remedy;
pub mod rows;
pub mod schema;
pub mod self_knowledge;
pub mod stats;
pub mod store;
pub mod summary;
mod support;
mod tables;
pub mod trace;
pub mod tried;
pub mod verdict;
mod wording;

pub use error::Error;
