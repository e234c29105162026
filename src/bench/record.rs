//! What a diagnosis says of a lineage whose truth is known, as a record of the bench.

use std::collections::BTreeMap;

use evals::attribution::thesis_lookup;
use evals::diagnosis::{BehaviourHistory, Diagnosis, LineageDiagnosis, Outcome, Stage};
use evals::verdict::record::{Case, Family, Latent, Record, Set, Status, candidates};

use crate::recipe::FaultCard;

/// A lineage, before anything was measured.
pub(crate) struct Subject<'a> {
    /// Name of the fault's file, or `clean`.
    pub(crate) name: &'a str,
    /// Kinds of what is planted; none in a healthy lineage.
    pub(crate) types: Vec<String>,
    /// The truth; none of a healthy lineage.
    pub(crate) card: Option<&'a FaultCard>,
    /// World and training seed.
    pub(crate) seeds: (u64, u64),
    /// Shape of the model.
    pub(crate) shape: String,
}

/// Puts truth and diagnosis side by side; `twin` is the diagnosis of the healthy twin, which is the lineage with its faulty stages swapped.
pub(crate) fn record(subject: &Subject<'_>, diagnosis: &Diagnosis, twin: Option<&Diagnosis>) -> Record {
    let mut cases: Vec<Case> = Vec::new();
    for lineage in &diagnosis.lineages {
        for row in &lineage.behaviours {
            cases.extend(case(lineage, row));
        }
    }
    let card = subject.card;
    let (world, seed) = subject.seeds;
    let mut record = Record {
        name: format!("{}/world-{world}/seed-{seed}", subject.name),
        fault: subject.types.clone(),
        family: card.map_or(Family::None, |card| card.family),
        set: card.map_or(Set::Clean, |card| card.set),
        world,
        seed,
        shape: subject.shape.clone(),
        guilty: card.map_or_else(Vec::new, |card| card.phases.clone()),
        masked_by: card.and_then(|card| card.masked_by),
        took: None,
        cases,
    };
    if !record.guilty.is_empty() && record.set != Set::Masked {
        record.took = Some(took(&record, twin));
    }
    record
}

/// Share of the largest shortfall that the healthy twin does not have; 0 where nothing fails.
fn took(record: &Record, twin: Option<&Diagnosis>) -> f64 {
    let Some(headline) = record.headline() else { return 0.0 };
    let of_twin = twin.and_then(|twin| {
        let rows = twin.lineages.iter().flat_map(|lineage| &lineage.behaviours);
        rows.filter(|row| row.behaviour == headline.behaviour).filter_map(|row| row.verdict.shortfall).reduce(f64::max)
    });
    1.0 - of_twin.unwrap_or(0.0).max(0.0) / headline.shortfall
}

fn case(lineage: &LineageDiagnosis, row: &BehaviourHistory) -> Option<Case> {
    let names: Vec<String> = lineage.phases.iter().map(|phase| phase.name.clone()).collect();
    let latent = match &row.verdict.outcome {
        Outcome::Latent { phase, masked_by } => {
            Some(Latent { stage: Stage::of(phase, &names), masked_by: Stage::of(masked_by, &names) })
        }
        _ => None,
    };
    let status = match (&row.verdict.outcome, &latent) {
        (Outcome::NotMeasured { .. }, _) => return None,
        (_, Some(_)) => Status::Latent,
        _ if row.fails() => Status::Failing,
        _ => Status::Within,
    };
    let values: BTreeMap<Stage, f64> = names
        .iter()
        .zip(&row.values)
        .filter_map(|(name, value)| Some((Stage::of(name, &names), value.as_ref()?.value)))
        .collect();
    let p_values = row.transitions.iter().filter_map(|t| Some((Stage::of(&t.phase, &names), t.p_value?))).collect();
    Some(Case {
        behaviour: row.behaviour,
        status,
        shortfall: row.verdict.shortfall.unwrap_or(0.0),
        values,
        p_values,
        thesis: Stage::of(thesis_lookup(row.behaviour, &names)?, &names),
        latent,
        candidates: candidates(&row.verdict.candidates),
    })
}
