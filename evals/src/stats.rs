//! Statistics, one idea per file, each with its formula and its source.

pub mod auroc;
pub mod bins;
pub mod bootstrap;
pub mod calibration;
pub mod clustered;
pub mod consistency;
pub mod debiased;
pub mod fisher;
pub mod mcnemar;
pub mod multiplicity;
pub mod murphy;
pub mod newcombe;
pub mod normal;
pub mod paired;
pub mod power;
pub mod ratio;
pub mod reliability;
pub mod selective;
pub mod smooth_ece;
pub mod student;
pub mod temperature;
pub mod ties;
pub mod wilson;
