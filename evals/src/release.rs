//! May a candidate take the place of what is released? Rules decided by one-sided intervals of paired differences.
//!
//! [`baseline::Blessed`] is what either side is judged by: the scores of its checkpoints' answers, from a run or a committed
//! `baseline.json`. A [`policy::Policy`] says what must not get worse and by how much; [`decide::judge`] gives each of its rules a
//! [`record::Ruling`], with the items that changed and the phase in which the candidate fell behind ([`blame`]).

pub mod baseline;
mod blame;
pub mod decide;
mod effect;
pub mod policy;
pub mod record;
