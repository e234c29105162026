//! The number and the word of a verdict: how likely the accused stage is guilty, and how far the evidence was carried.

use super::model::TierModel;
use super::record::{TOOK, candidates};
use crate::diagnosis::{Confidence, Confirmation, Estimate, Outcome, Rung, Stage, StageProbability, Verdict};
use crate::wording::{percent, phase_name, stage_name};

/// Share of the shortfall that may go when an innocent phase is trained again.
pub const INNOCENT: f64 = 0.2;

/// Writes the model's probabilities into the verdict on a failing behaviour; `phases` are those of the lineage.
///
/// Where the model names the accused phase's stage the verdict is "attributed", else it stays "observed" and the model dissents. A
/// verdict that evidence leaves undetermined stays so: the model's word is printed beside it.
pub fn weigh(verdict: &mut Verdict, phases: &[String], model: &TierModel) {
    let accused = match &verdict.outcome {
        Outcome::Attributed { phase, .. } => Some(phase.clone()),
        Outcome::Undetermined { .. } => None,
        Outcome::Healthy | Outcome::Latent { .. } | Outcome::NotMeasured { .. } => return,
    };
    let candidates = candidates(&verdict.candidates);
    if candidates.is_empty() {
        return;
    }
    let probabilities = model.predict(&candidates);
    let named = model.name(&probabilities);
    verdict.probabilities =
        probabilities.iter().map(|&(stage, probability)| StageProbability { stage, probability }).collect();
    let from = format!("from {}", model.tier.access());
    let said: Vec<String> =
        probabilities.iter().map(|(stage, p)| format!("{} {}", stage_name(*stage), percent(*p))).collect();
    let said = format!("Probability of guilt {from}, after planted faults: {}.", said.join(", "));
    let Some(accused) = accused else {
        verdict.evidence.push(said);
        return;
    };
    let stage = Stage::of(&accused, phases);
    let is_named = named.contains(&stage);
    if is_named {
        verdict.rung = verdict.rung.max(Some(Rung::Attributed));
        verdict.evidence.push(said);
    } else {
        verdict.dissent.push(format!("{said} That does not suffice to name {}.", phase_name(&accused)));
        verdict.confidence = verdict.confidence.min(Confidence::Probable);
    }
    for other in named.into_iter().filter(|other| *other != stage) {
        let too = if is_named { " too" } else { "" };
        verdict.dissent.push(format!("The verdict model names {}{too}.", stage_name(other)));
    }
}

/// Writes what training the accused phase again showed: a verdict is "confirmed" where 80 % of the shortfall goes with it, and at
/// most 20 % with an innocent phase.
pub fn confirm(verdict: &mut Verdict, shown: Confirmation) {
    let Outcome::Attributed { phase, .. } = &verdict.outcome else { return };
    let share = |estimate: &Estimate| {
        format!(
            "{} (95% interval {} to {}, n = {})",
            percent(estimate.value),
            percent(estimate.low),
            percent(estimate.high),
            estimate.n
        )
    };
    let control = shown.innocent.as_ref().map_or_else(
        || "; no other phase was trained again".to_owned(),
        |(stage, estimate)| format!("; {} trained again in its place takes {}", stage_name(*stage), share(estimate)),
    );
    let line = format!(
        "Trained again with the healthy recipe, {} takes {} of the shortfall away{control}.",
        phase_name(phase),
        share(&shown.recovered)
    );
    let is_innocent = shown.innocent.as_ref().is_none_or(|(_, estimate)| estimate.value <= INNOCENT);
    if shown.recovered.value < TOOK || !is_innocent {
        // The experiment outweighs what was only seen.
        verdict.confidence = verdict.confidence.min(Confidence::Observed);
        verdict.dissent.push(line);
    } else {
        verdict.evidence.push(line);
        if shown.innocent.is_some() {
            verdict.rung = Some(Rung::Confirmed);
        }
    }
    verdict.confirmation = Some(shown);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{confirm, weigh};
    use crate::diagnosis::{Confidence, Confirmation, ContributionKind, Estimate, Outcome, Rung, Stage, Verdict};
    use crate::verdict::beta::BetaCalibration;
    use crate::verdict::features::Tier;
    use crate::verdict::model::{TierModel, Weight};

    fn accusing(phase: &str) -> Verdict {
        Verdict {
            outcome: Outcome::Attributed { phase: phase.to_owned(), kind: ContributionKind::Omission },
            shortfall: Some(0.4),
            contributions: Vec::new(),
            confidence: Confidence::Strong,
            family_p: None,
            probabilities: Vec::new(),
            rung: Some(Rung::Observed),
            evidence: Vec::new(),
            readings: Vec::new(),
            candidates: BTreeMap::new(),
            is_content: false,
            bisection: None,
            confirmation: None,
            trace: None,
            dissent: Vec::new(),
            thesis_baseline: "sft".to_owned(),
            remedy: None,
            fixes: Vec::new(),
            would_change: None,
        }
    }

    fn weighed(phase: &str) -> Verdict {
        let weight = Weight { name: "shortfall_share".to_owned(), mean: 0.0, sd: 1.0, weight: 6.0 };
        let model = TierModel {
            tier: Tier::T1,
            features: vec![weight],
            intercept: -3.0,
            calibration: BetaCalibration::IDENTITY,
            threshold: Some(0.8),
            coverage: 1.0,
            accuracy: Some(0.96),
        };
        let candidate = |stage, value| (stage, BTreeMap::from([("shortfall_share".to_owned(), value)]));
        let candidates =
            [candidate(Stage::Pretraining, 0.0), candidate(Stage::Tuning, 1.0), candidate(Stage::Alignment, 0.5)];
        let phases = ["pretrain", "sft", "rlhf"].map(str::to_owned);
        let mut verdict = Verdict { candidates: BTreeMap::from(candidates), ..accusing(phase) };
        weigh(&mut verdict, &phases, &model);
        verdict
    }

    #[test]
    fn a_verdict_that_the_model_shares_is_attributed_and_one_that_it_does_not_is_doubted() {
        let shared = weighed("sft");
        assert_eq!((shared.rung, shared.confidence), (Some(Rung::Attributed), Confidence::Strong));
        assert!((shared.probability(Stage::Tuning).unwrap() - 0.953).abs() < 0.001);
        assert_eq!(shared.probability(Stage::Deployment), None);
        let line =
            "Probability of guilt from answers, after planted faults: pretraining 5%, fine-tuning 95%, alignment 50%.";
        assert_eq!((&shared.evidence[..], shared.dissent.len()), (&[line.to_owned()][..], 0));
        let doubted = weighed("rlhf");
        assert_eq!((doubted.rung, doubted.confidence), (Some(Rung::Observed), Confidence::Probable));
        assert_eq!(doubted.dissent.len(), 2, "{:?}", doubted.dissent);
    }

    #[test]
    fn only_a_swap_with_its_control_confirms() {
        let estimate = |value: f64| Estimate {
            value,
            low: value - 0.1,
            high: value + 0.1,
            n: 90,
            method: "delta method".to_owned(),
        };
        let after = |recovered: f64, innocent: Option<f64>| {
            let mut verdict = weighed("sft");
            let innocent = innocent.map(|share| (Stage::Alignment, estimate(share)));
            confirm(&mut verdict, Confirmation { recovered: estimate(recovered), innocent });
            (verdict.rung, verdict.dissent.len())
        };
        assert_eq!(after(0.9, Some(0.1)), (Some(Rung::Confirmed), 0));
        assert_eq!(after(0.9, None), (Some(Rung::Attributed), 0));
        assert_eq!(after(0.9, Some(0.5)), (Some(Rung::Attributed), 1));
        assert_eq!(after(0.5, Some(0.1)), (Some(Rung::Attributed), 1));
    }
}
