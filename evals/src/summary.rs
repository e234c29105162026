//! A diagnosis as a tidy table: one row for each chain, phase, behaviour and way of asking.

mod parquet;

use probes::item::Behaviour;
use serde::Serialize;

use crate::diagnosis::{
    BehaviourHistory, Confidence, ContributionKind, Diagnosis, Estimate, LineageDiagnosis, Outcome, Rung, Stage,
};
use crate::reference::Route;

pub use parquet::to_parquet;

/// A value and the verdict that it belongs to. What was not measured is empty.
///
/// # Units
/// Values and their limits are shares of items that are right, in [0, 1]; contributions are differences of such shares, in [-1, 1]. A column
/// of another unit has it in its name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SummaryRow {
    /// Name of the run.
    pub run: String,
    /// Name of the chain of checkpoints; the deployed one comes first.
    pub lineage: String,
    /// Name of the phase.
    pub phase: String,
    /// Its place in the chain, from 1.
    pub phase_index: usize,
    /// What the phase does.
    pub stage: Stage,
    /// Fingerprint of its checkpoint.
    pub checkpoint: String,
    /// The behaviour.
    pub behaviour: Behaviour,
    /// In chat, as deployed, or elicited: in the form that gets most out of the checkpoint.
    pub route: Route,
    /// Share of items right.
    pub value: Option<f64>,
    /// Lower end of its 95 % interval.
    pub low: Option<f64>,
    /// Upper end of its 95 % interval.
    pub high: Option<f64>,
    /// Number of items.
    pub n: Option<usize>,
    /// How the interval was made.
    pub interval: Option<String>,
    /// Mean over healthy runs, in chat.
    pub reference: Option<f64>,
    /// Mean contrast margin in chat, nats.
    pub margin_nats: Option<f64>,
    /// Outcome of the behaviour in the chain: `healthy`, `attributed`, `latent`, `undetermined`, `not_measured`.
    pub outcome: &'static str,
    /// The phase that produced the failure, where one is named.
    pub blamed_phase: Option<String>,
    /// This phase's part of the shortfall at the end of the chain.
    pub contribution: Option<f64>,
    /// Lower end of its 95 % interval.
    pub contribution_low: Option<f64>,
    /// Upper end of its 95 % interval.
    pub contribution_high: Option<f64>,
    /// How this phase contributed.
    pub contribution_kind: Option<ContributionKind>,
    /// How sure the outcome is.
    pub confidence: Confidence,
    /// How far the evidence against the blamed phase was carried.
    pub rung: Option<Rung>,
    /// Probability that this phase's stage is guilty, where the verdict model was asked.
    pub probability: Option<f64>,
    /// Why there is no value.
    pub not_measured: Option<String>,
}

/// The table, in the order of the diagnosis.
pub fn rows(diagnosis: &Diagnosis) -> Vec<SummaryRow> {
    let mut rows = Vec::new();
    for lineage in &diagnosis.lineages {
        for place in 0..lineage.phases.len() {
            for history in &lineage.behaviours {
                rows.extend(both_routes(&diagnosis.run, lineage, place, history));
            }
        }
    }
    rows
}

fn both_routes(run: &str, lineage: &LineageDiagnosis, place: usize, history: &BehaviourHistory) -> [SummaryRow; 2] {
    let phase = &lineage.phases[place];
    let names: Vec<String> = lineage.phases.iter().map(|phase| phase.name.clone()).collect();
    let stage = Stage::of(&phase.name, &names);
    let verdict = &history.verdict;
    let part = verdict.contributions.iter().find(|part| part.phase == phase.name);
    [Route::Chat, Route::Elicited].map(|route| {
        let is_chat = route == Route::Chat;
        let values = if is_chat { &history.values } else { &history.elicited };
        let measured: Option<&Estimate> = values.get(place).and_then(Option::as_ref);
        let in_chat = |values: &[Option<f64>]| values.get(place).copied().flatten().filter(|_| is_chat);
        SummaryRow {
            run: run.to_owned(),
            lineage: lineage.name.clone(),
            phase: phase.name.clone(),
            phase_index: place + 1,
            stage,
            checkpoint: phase.checkpoint.clone(),
            behaviour: history.behaviour,
            route,
            value: measured.map(|of| of.value),
            low: measured.map(|of| of.low),
            high: measured.map(|of| of.high),
            n: measured.map(|of| of.n),
            interval: measured.map(|of| of.method.clone()),
            reference: in_chat(&history.reference),
            margin_nats: in_chat(&history.margins),
            outcome: word(&verdict.outcome),
            blamed_phase: blamed(&verdict.outcome).map(str::to_owned),
            contribution: part.map(|part| part.shortfall.value),
            contribution_low: part.map(|part| part.shortfall.low),
            contribution_high: part.map(|part| part.shortfall.high),
            contribution_kind: part.map(|part| part.kind),
            confidence: verdict.confidence,
            rung: verdict.rung,
            probability: verdict.probability(stage),
            not_measured: measured.is_none().then(|| why_not(history, route)),
        }
    })
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Healthy => "healthy",
        Outcome::Attributed { .. } => "attributed",
        Outcome::Latent { .. } => "latent",
        Outcome::Undetermined { .. } => "undetermined",
        Outcome::NotMeasured { .. } => "not_measured",
    }
}

fn blamed(outcome: &Outcome) -> Option<&str> {
    match outcome {
        Outcome::Attributed { phase, .. } | Outcome::Latent { phase, .. } => Some(phase),
        Outcome::Healthy | Outcome::Undetermined { .. } | Outcome::NotMeasured { .. } => None,
    }
}

fn why_not(history: &BehaviourHistory, route: Route) -> String {
    let reason = match (&history.not_measured, &history.verdict.outcome) {
        (Some(reason), _) if route == Route::Chat => Some(reason),
        (_, Outcome::NotMeasured { reason }) => Some(reason),
        _ => None,
    };
    reason.cloned().unwrap_or_else(|| "no item was scored".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{SummaryRow, rows};
    use crate::diagnosis::{Diagnosis, Stage};
    use crate::reference::Route;

    /// One chain of two phases, of which the second broke a behaviour; pretraining cannot be asked in chat.
    pub(super) fn diagnosis() -> Diagnosis {
        let share =
            |value: f64| json!({ "value": value, "low": 0.9 * value, "high": value, "n": 200, "method": "Wilson" });
        let verdict = json!({
            "outcome": { "attributed": { "phase": "sft", "kind": "commission" } },
            "contributions": [{ "phase": "sft", "shortfall": share(0.42), "kind": "commission" }],
            "confidence": "strong",
            "probabilities": [{ "stage": "sft", "probability": 0.93 }],
            "rung": "attributed",
            "evidence": [],
            "dissent": [],
            "thesis_baseline": "sft",
        });
        let behaviour = json!({
            "behaviour": "over_refusal",
            "form": "chat",
            "values": [null, share(0.55)],
            "elicited": [share(0.9), share(0.6)],
            "reference": [null, 0.97],
            "margins": [null, -1.5],
            "transitions": [],
            "not_measured": "no item was scored in chat at pretrain",
            "verdict": verdict,
        });
        let lineage = json!({
            "name": "rlhf",
            "phases": [
                { "name": "pretrain", "checkpoint": "c0", "metrics": {} },
                { "name": "sft", "checkpoint": "c1", "metrics": {} },
            ],
            "behaviours": [behaviour],
            "calibration": [],
            "trade_off": [],
            "cutoffs": [],
            "failures": [],
            "n_failures": {},
        });
        let provenance = json!({
            "bank_hash": "bank",
            "n_items": 200,
            "probe_version": 1,
            "phasetrace_version": "0.1.0",
            "notes": {},
        });
        serde_json::from_value(json!({
            "version": 1,
            "run": "=june",
            "sentences": [],
            "lineages": [lineage],
            "provenance": provenance,
        }))
        .unwrap()
    }

    #[test]
    fn every_phase_behaviour_and_way_of_asking_has_a_row() {
        let rows = rows(&diagnosis());
        let places: Vec<(&str, usize, Route)> =
            rows.iter().map(|row| (row.phase.as_str(), row.phase_index, row.route)).collect();
        let expected = [
            ("pretrain", 1, Route::Chat),
            ("pretrain", 1, Route::Elicited),
            ("sft", 2, Route::Chat),
            ("sft", 2, Route::Elicited),
        ];
        assert_eq!(places, expected);
    }

    #[test]
    fn a_row_holds_the_value_and_what_the_verdict_says_of_its_phase() {
        let rows = rows(&diagnosis());
        let SummaryRow { value, n, reference, margin_nats, outcome, contribution, probability, stage, .. } = &rows[2];
        assert_eq!((*value, *n, *reference, *margin_nats), (Some(0.55), Some(200), Some(0.97), Some(-1.5)));
        assert_eq!(
            (*outcome, *contribution, *probability, *stage),
            ("attributed", Some(0.42), Some(0.93), Stage::Tuning)
        );
        assert_eq!(rows[2].blamed_phase.as_deref(), Some("sft"));
        assert_eq!(rows[2].not_measured, None);
        // Healthy runs are known in chat alone, and pretraining has no part in it.
        assert_eq!((rows[3].reference, rows[3].margin_nats), (None, None));
        assert_eq!((rows[1].contribution, rows[1].probability), (None, None));
    }

    #[test]
    fn what_was_not_measured_is_empty_and_says_why() {
        let rows = rows(&diagnosis());
        assert_eq!((rows[0].value, rows[0].low, rows[0].n), (None, None, None));
        assert_eq!(rows[0].not_measured.as_deref(), Some("no item was scored in chat at pretrain"));
        assert_eq!((rows[1].value, rows[1].not_measured.as_deref()), (Some(0.9), None));
    }
}
