//! Statistics, one idea per file, each with its formula and its source.

pub mod auroc;
pub mod bootstrap;
pub mod calibration;
pub mod clustered;
pub mod fisher;
pub mod mcnemar;
pub mod multiplicity;
pub mod newcombe;
pub mod normal;
pub mod paired;
pub mod power;
pub mod ratio;
pub mod selective;
pub mod student;
pub mod wilson;
