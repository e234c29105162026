//! The verdict model: how likely each stage is guilty, fitted on planted faults, and how often it is right.
//!
//! One line of `records.jsonl` tells of one organism, a run whose fault is known ([`record`]). The evidence about each stage is a
//! handful of named numbers ([`features`]); one ridge logistic regression ([`logistic`]) weighs them, with the same weights for all
//! stages, so that nothing of the form "refusal means alignment" can be learnt. [`fit`] makes the model that is shipped
//! ([`model`]), and the predictions for faults of a type that it has not seen, from which [`score`] computes every figure. [`weigh`]
//! puts its probabilities into a diagnosis.

pub mod agreement;
pub mod baseline;
pub mod beta;
pub mod features;
pub mod fit;
pub mod logistic;
pub mod model;
pub mod record;
pub mod score;
mod table;
pub mod weigh;
