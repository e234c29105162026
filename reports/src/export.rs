//! A diagnosis for other programs: a table, and what a model card takes.

pub(crate) mod csv;
pub(crate) mod model_card;
