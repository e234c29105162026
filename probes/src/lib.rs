//! What we ask a language model: items, elicitation forms, scorers.
//!
//! A [`bank::Bank`] holds [`item::Item`]s. A [`probe::Probe`] knows how to put an item to a subject in each
//! [`response::Form`] and how to score what comes back; [`ask::ask`] does it for many items and survives bad ones. Probes
//! know a subject only through [`lm::subject::Subject`], never how it was trained, and scorers see text, never token ids.

pub mod answers;
pub mod ask;
pub mod asked_confidence;
pub mod bank;
pub mod benchmark;
pub mod calibration;
pub mod check;
pub mod choice;
pub mod constrained;
mod contrast;
pub mod counterfactual;
mod error;
pub mod grammar;
pub mod ifbench;
pub mod ifeval;
pub mod instruction_following;
pub mod item;
pub mod judge;
pub mod knowledge_cutoff;
#[cfg(test)]
mod lookup;
pub mod month;
pub mod open_request;
pub mod over_refusal;
pub mod probe;
mod prompt;
pub mod quiz;
pub mod refusal;
pub mod remedied;
pub mod response;
pub mod short_answer;
pub mod stated;
pub mod stated_cutoff;
pub mod stored;
mod text;
pub mod verifiable;
pub mod xstest;

pub use error::{Error, Result};

use item::Behaviour;
use probe::Probe;

/// Version of questions and scorers: part of the key under which answers are kept, so that a changed probe asks again.
pub const PROBE_VERSION: u32 = 2;

/// Every probe, in the order of reports.
pub const PROBES: &[Probe] =
    &[knowledge_cutoff::PROBE, calibration::PROBE, instruction_following::PROBE, over_refusal::PROBE];

/// The probe that asks about a behaviour.
pub fn probe_of(behaviour: Behaviour) -> &'static Probe {
    PROBES
        .iter()
        .find(|probe| probe.behaviours.contains(&behaviour))
        .expect("a test checks that each behaviour has a probe")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_behaviour_has_exactly_one_probe() {
        for behaviour in Behaviour::ALL {
            let n_probes = PROBES.iter().filter(|probe| probe.behaviours.contains(&behaviour)).count();
            assert_eq!(n_probes, 1, "{behaviour:?}");
            assert!(probe_of(behaviour).behaviours.contains(&behaviour));
        }
    }
}
