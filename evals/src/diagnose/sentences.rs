//! The three sentences that a reader sees first: what fails, where it began and how sure that is, what to do.

use std::fmt::Write as _;

use crate::diagnosis::{BehaviourHistory, Confidence, ContributionKind, LineageDiagnosis, Outcome, Rung, Stage};
use crate::wording::{
    capital, failure, figures, likely, lineage_name, list, phase_name, points, points_in_full, skill,
};

/// Parts of a shortfall that are smaller are left to the chart.
const NOTABLE: f64 = 0.1;

/// So many failures of one phase come from its settings more often than from a kind of example: in the bench that is shipped, 11 of 15
/// such lineages had a fault in settings, 4 one in data.
const MANY: usize = 3;

/// Three plain sentences: what fails, where it began and how sure that is, what to do. What that costs and what it was measured to take
/// back stand beside them in a report. To be made again where a verdict was weighed or confirmed after the diagnosis.
pub fn sentences(lineages: &[LineageDiagnosis]) -> Vec<String> {
    // The deployed lineage first; another one only where that has nothing to tell.
    let failing = lineages.iter().find_map(|lineage| {
        let rows = ranked_failures(lineage);
        (!rows.is_empty()).then_some((lineage, rows))
    });
    match failing {
        Some((lineage, rows)) => {
            let mut cause = where_it_began(lineage, &rows);
            cause.extend(hidden(lineage).map(|row| format!(" {}", hidden_fault(row))));
            vec![what_fails(lineage, &rows, lineages), cause, what_to_do(lineage, &rows)]
        }
        None => match lineages.iter().find_map(|lineage| Some((lineage, hidden(lineage).next()?))) {
            Some((lineage, row)) => latent_sentences(lineage, row),
            None => healthy_sentences(lineages),
        },
    }
}

/// Failing behaviours, the largest shortfall first.
fn ranked_failures(lineage: &LineageDiagnosis) -> Vec<&BehaviourHistory> {
    let mut rows: Vec<&BehaviourHistory> = lineage.behaviours.iter().filter(|row| row.fails()).collect();
    // Stable: of equals the one first in the table.
    rows.sort_by(|a, b| b.verdict.shortfall.unwrap_or(0.0).total_cmp(&a.verdict.shortfall.unwrap_or(0.0)));
    // What may be chance does not come before what was attributed.
    rows.sort_by_key(|row| blamed(row).is_none());
    rows
}

/// Of one checkpoint nothing says in which phase a failure began, whatever it is accused of.
fn is_single(lineage: &LineageDiagnosis) -> bool {
    lineage.phases.len() < 2
}

/// The phase that is named.
fn blamed(row: &BehaviourHistory) -> Option<&str> {
    match &row.verdict.outcome {
        Outcome::Attributed { phase, .. } => Some(phase.as_str()),
        _ => None,
    }
}

fn stage_of(lineage: &LineageDiagnosis, phase: &str) -> Stage {
    let names: Vec<String> = lineage.phases.iter().map(|phase| phase.name.clone()).collect();
    Stage::of(phase, &names)
}

fn what_fails(lineage: &LineageDiagnosis, rows: &[&BehaviourHistory], lineages: &[LineageDiagnosis]) -> String {
    let worst = rows[0];
    let last = lineage.phases.len() - 1;
    let value = worst.values[last].as_ref();
    let seen = value.map_or_else(String::new, |value| {
        format!(": {}", figures(worst.behaviour, value, worst.reference[last], worst.stated))
    });
    let mut sentence = format!("The {} model {}{seen}.", lineage_name(&lineage.name), fault(worst));
    let others: Vec<String> = rows[1..].iter().map(|row| fault(row)).collect();
    if !others.is_empty() {
        let _ = write!(sentence, " It also {}.", list(&others));
    }
    let elsewhere: Vec<String> = lineages
        .iter()
        .filter(|other| other.name != lineage.name && !ranked_failures(other).is_empty())
        .map(|other| format!("the {} model", lineage_name(&other.name)))
        .collect();
    if !elsewhere.is_empty() {
        let verb = if elsewhere.len() == 1 { "has" } else { "have" };
        let _ = write!(sentence, " {} {verb} failures too.", capital(&list(&elsewhere)));
    }
    sentence
}

/// `refuses harmless requests`; what may be chance is put more carefully.
fn fault(row: &BehaviourHistory) -> String {
    if blamed(row).is_some() {
        failure(row.behaviour).to_owned()
    } else {
        format!("falls short at {}", skill(row.behaviour))
    }
}

fn where_it_began(lineage: &LineageDiagnosis, rows: &[&BehaviourHistory]) -> String {
    if is_single(lineage) {
        return "One checkpoint was asked, so there is no phase to compare with.".to_owned();
    }
    let mut sentence = match &rows[0].verdict.outcome {
        Outcome::Attributed { phase, kind } => began(lineage, rows[0], phase, *kind),
        Outcome::Undetermined { reason } => format!("In which phase it began is not settled: {reason}."),
        Outcome::Healthy | Outcome::Latent { .. } | Outcome::NotMeasured { .. } => String::new(),
    };
    sentence.push_str(&where_others_began(rows));
    sentence
}

/// `It began in alignment (RLHF): this broke what worked before, which cost 68 points (95% interval 61 to 75). The evidence is strong:
/// 93% likely.`
fn began(lineage: &LineageDiagnosis, row: &BehaviourHistory, phase: &str, kind: ContributionKind) -> String {
    let verdict = &row.verdict;
    let size = verdict.contributions.iter().find(|part| part.phase == phase);
    let size = size.map_or_else(|| "an unknown part".to_owned(), |part| points_in_full(&part.shortfall));
    let is_referenced = row.reference.last().is_some_and(Option::is_some);
    let how = match kind {
        _ if !is_referenced => format!("it falls there by {size}, with no healthy runs to compare with"),
        ContributionKind::Commission => format!("this broke what worked before, which cost {size}"),
        _ => format!("healthy runs learn this there and this run did not, which cost {size}"),
    };
    let probability = verdict.probability(stage_of(lineage, phase));
    let sure = match (verdict.rung, verdict.confidence) {
        (Some(Rung::Confirmed), _) => "Training that phase again with the healthy recipe confirms this",
        _ if probability.is_some_and(|p| p < 0.5) => "This is in doubt, as the evidence disagrees",
        (_, Confidence::Strong) => "The evidence is strong",
        (_, Confidence::Probable) => "This is probable, though not all of the evidence agrees",
        _ if verdict.confirmation.is_some() => "Training that phase again did not bear this out",
        _ => "This is an observation, not yet a proof",
    };
    let number = probability.map_or_else(String::new, |p| format!(": {} likely", likely(p)));
    format!("It began in {}: {how}.{} {sure}{number}.", phase_name(phase), later(lineage, row, phase))
}

/// What the phases after the accused one did to the failure.
fn later(lineage: &LineageDiagnosis, row: &BehaviourHistory, accused: &str) -> String {
    // What was never reached is a part without a phase.
    let is_phase = |name: &str| lineage.phases.iter().any(|phase| phase.name == name);
    let after = row.verdict.contributions.iter().skip_while(|part| part.phase != accused).skip(1);
    let notable = after.filter(|part| is_phase(&part.phase) && part.shortfall.value.abs() >= NOTABLE);
    let told = notable.filter_map(|part| {
        let (name, size) = (capital(&phase_name(&part.phase)), points(part.shortfall.value));
        // Where the model was asked, it has to share the suspicion.
        let is_suspect = || row.verdict.probability(stage_of(lineage, &part.phase)).is_none_or(|p| p >= 0.5);
        if part.shortfall.high < 0.0 {
            Some(format!(" {name} won {size} back."))
        } else if part.shortfall.low > 0.0 && is_suspect() {
            Some(format!(" {name} made it worse by {size}."))
        } else {
            None
        }
    });
    told.collect()
}

/// Where the failures after the first began, those of one phase together.
fn where_others_began(rows: &[&BehaviourHistory]) -> String {
    let (first, others) = (blamed(rows[0]), &rows[1..]);
    if first.is_some() && !others.is_empty() && others.iter().all(|row| blamed(row) == first) {
        return match others.len() {
            1 => " The other failure began there too.".to_owned(),
            n => format!(" The other {n} failures began there too."),
        };
    }
    let mut by_phase: Vec<(&str, Vec<String>)> = Vec::new();
    for row in others {
        let Some(phase) = blamed(row) else { continue };
        let what = skill(row.behaviour).to_owned();
        match by_phase.iter_mut().find(|(known, _)| *known == phase) {
            Some((_, of)) => of.push(what),
            None => by_phase.push((phase, vec![what])),
        }
    }
    let told = by_phase.iter().map(|(phase, what)| {
        let verb = if what.len() == 1 { "fails" } else { "fail" };
        let since = if first == Some(*phase) { "then too".to_owned() } else { phase_name(phase) };
        format!(" {} {verb} since {since}.", capital(&list(what)))
    });
    told.collect()
}

fn what_to_do(lineage: &LineageDiagnosis, rows: &[&BehaviourHistory]) -> String {
    if is_single(lineage) {
        return "Diagnose it together with the checkpoints before it: that tells which phase to mend.".to_owned();
    }
    let verdict = &rows[0].verdict;
    let mut sentence = settings_first(lineage, rows);
    match (&verdict.remedy, &verdict.would_change) {
        (Some(remedy), _) => sentence.push_str(remedy),
        (None, Some(check)) => {
            let _ = write!(sentence, "Settle first in which phase it began. {check}");
        }
        (None, None) => {}
    }
    match rows.len() {
        1 => {}
        2 => sentence.push_str(" The report has a step for the other failure too."),
        _ => sentence.push_str(" The report has a step for each of the other failures."),
    }
    sentence
}

/// `3 failures began in this phase: check its settings first (the learning rate and the number of steps), then its data. `
fn settings_first(lineage: &LineageDiagnosis, rows: &[&BehaviourHistory]) -> String {
    let Some(phase) = blamed(rows[0]) else { return String::new() };
    let n = rows.iter().filter(|row| blamed(row) == Some(phase)).count();
    let settings = match stage_of(lineage, phase) {
        _ if n < MANY => return String::new(),
        Stage::Pretraining => "the number of steps, the learning rate and the length of the sequences",
        Stage::Tuning => "the learning rate and the number of steps",
        Stage::Alignment => "the learning rate, the number of steps and how closely the model is held to its start",
        Stage::Deployment => return String::new(),
    };
    format!("{n} failures began in this phase: check its settings first ({settings}), then its data. ")
}

/// Behaviours that pass at the end and hide a fault.
fn hidden(lineage: &LineageDiagnosis) -> impl Iterator<Item = &BehaviourHistory> {
    lineage.behaviours.iter().filter(|row| matches!(row.verdict.outcome, Outcome::Latent { .. }))
}

/// `Pretraining produced a fault in answering harmless requests that alignment (RLHF) hides.`
fn hidden_fault(row: &BehaviourHistory) -> String {
    let Outcome::Latent { phase, masked_by } = &row.verdict.outcome else { return String::new() };
    let (made, hides) = (capital(&phase_name(phase)), phase_name(masked_by));
    format!("{made} produced a fault in {} that {hides} hides.", skill(row.behaviour))
}

fn latent_sentences(lineage: &LineageDiagnosis, row: &BehaviourHistory) -> Vec<String> {
    let others: String = hidden(lineage).skip(1).map(|row| format!(" {}", hidden_fault(row))).collect();
    let seen = row.verdict.evidence.last().map_or("", String::as_str);
    let model = lineage_name(&lineage.name);
    vec![
        format!("The {model} model passes, but a fault in {} is hidden in it.", skill(row.behaviour)),
        format!("{} {seen}{others}", hidden_fault(row)),
        row.verdict.remedy.clone().unwrap_or_default(),
    ]
}

fn healthy_sentences(lineages: &[LineageDiagnosis]) -> Vec<String> {
    let is_healthy = |row: &&BehaviourHistory| row.verdict.outcome == Outcome::Healthy;
    let rows = || {
        lineages.iter().flat_map(|lineage| lineage.behaviours.iter().filter(is_healthy).map(move |row| (lineage, row)))
    };
    let lowest = rows()
        .filter_map(|(lineage, row)| Some((lineage, row, row.values.last()?.as_ref()?)))
        .reduce(|low, next| if next.2.value < low.2.value { next } else { low });
    let Some((lineage, row, value)) = lowest else {
        return vec![
            "No behaviour could be measured.".to_owned(),
            "So nothing can be said of any phase.".to_owned(),
            "The report says beside each behaviour why it was not measured.".to_owned(),
        ];
    };
    let is_referenced = rows().any(|(_, row)| row.reference.last().is_some_and(Option::is_some));
    let yardstick = if is_referenced { "is within what healthy runs show" } else { "reaches what is expected" };
    let checked: Vec<String> = lineages
        .iter()
        .map(|lineage| {
            let n = lineage.behaviours.iter().filter(is_healthy).count();
            let n_all = lineage.behaviours.len();
            format!("the {} model {yardstick} in {n} of {n_all} behaviours", lineage_name(&lineage.name))
        })
        .collect();
    vec![
        format!("No failure was found: {}.", list(&checked)),
        format!(
            "The lowest value is for {}, in the {} model: {}.",
            skill(row.behaviour),
            lineage_name(&lineage.name),
            figures(row.behaviour, value, row.reference.last().copied().flatten(), row.stated)
        ),
        format!(
            "Nothing needs to be done. {}",
            what_could_hide(
                rows().filter(|(lineage, _)| !is_single(lineage)).filter_map(|(_, row)| row.detectable_effect)
            )
        ),
    ]
}

/// The smallest change that would have been seen, from the most to the least closely looked at behaviour.
fn what_could_hide(effects: impl Iterator<Item = f64>) -> String {
    let effects: Vec<f64> = effects.filter(|effect| effect.is_finite()).collect();
    let Some(low) = effects.iter().copied().reduce(f64::min) else {
        return "How small a change would have been seen was not computed.".to_owned();
    };
    let high = effects.iter().copied().fold(low, f64::max);
    let (least, most) = (points(low), points(high));
    let size = if least == most { most } else { format!("{:.0} to {most}, depending on the behaviour", 100.0 * low) };
    format!("A change between two phases could go unseen with this many questions where it is smaller than {size}.")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use probes::item::Behaviour;
    use probes::response::Form;

    use super::sentences;
    use crate::diagnosis::{
        BehaviourHistory, Confidence, Contribution, ContributionKind, Estimate, LineageDiagnosis, Outcome, PhaseInfo,
        Rung, Stage, StageProbability, Verdict,
    };

    const PHASES: [&str; 3] = ["pretrain", "sft", "rlhf"];

    fn estimate(value: f64) -> Estimate {
        Estimate { value, low: value - 0.08, high: value + 0.08, n: 200, method: "Wilson".to_owned() }
    }

    /// A behaviour that the phase broke; what each phase cost, in share of items.
    fn failing(behaviour: Behaviour, phase: &str, costs: [f64; 3]) -> BehaviourHistory {
        let kind = ContributionKind::Commission;
        let contributions = PHASES.iter().zip(costs);
        let verdict = Verdict {
            outcome: Outcome::Attributed { phase: phase.to_owned(), kind },
            shortfall: Some(costs.iter().sum()),
            contributions: contributions
                .map(|(phase, cost)| Contribution { phase: (*phase).to_owned(), shortfall: estimate(cost), kind })
                .collect(),
            confidence: Confidence::Strong,
            family_p: None,
            probabilities: Vec::new(),
            rung: Some(Rung::Observed),
            evidence: Vec::new(),
            is_content: false,
            trace: None,
            confirmation: None,
            bisection: None,
            readings: Vec::new(),
            candidates: BTreeMap::new(),
            dissent: Vec::new(),
            thesis_baseline: "sft".to_owned(),
            remedy: Some("Mend it.".to_owned()),
            fixes: Vec::new(),
            would_change: None,
        };
        BehaviourHistory {
            behaviour,
            form: Form::Chat,
            values: vec![Some(estimate(0.3)); 3],
            elicited: vec![None; 3],
            reference: vec![Some(0.95); 3],
            stated: None,
            margins: Vec::new(),
            views: Vec::new(),
            reward_right: None,
            transitions: Vec::new(),
            detectable_effect: Some(0.06),
            not_measured: None,
            tried: Vec::new(),
            verdict,
        }
    }

    fn said(behaviours: Vec<BehaviourHistory>) -> Vec<String> {
        sentences(&[lineage(behaviours)])
    }

    fn lineage(behaviours: Vec<BehaviourHistory>) -> LineageDiagnosis {
        LineageDiagnosis {
            name: "rlhf".to_owned(),
            phases: PHASES.iter().map(|name| PhaseInfo { name: (*name).to_owned(), ..PhaseInfo::default() }).collect(),
            gate: None,
            behaviours,
            calibration: Vec::new(),
            trade_off: Vec::new(),
            cutoffs: Vec::new(),
            self_knowledge: Vec::new(),
            failures: Vec::new(),
            n_failures: BTreeMap::new(),
        }
    }

    #[test]
    fn a_failure_is_told_with_where_it_began_and_what_later_phases_did_to_it() {
        let mut row = failing(Behaviour::InstructionFollowing, "sft", [0.0, 0.78, -0.2]);
        row.verdict.probabilities = vec![StageProbability { stage: Stage::Tuning, probability: 0.934 }];
        assert_eq!(
            said(vec![row.clone()]),
            [
                "The RLHF model does not follow the user's instructions: it obeys 30% of 200 (95% interval 22% to 38%), healthy \
                 runs obey 95%.",
                "It began in supervised fine-tuning (SFT): this broke what worked before, which cost 78 points (95% interval 70 to \
                 86). Alignment (RLHF) won 20 points back. The evidence is strong: 93% likely.",
                "Mend it.",
            ]
        );
        row.verdict.contributions[2].shortfall = estimate(0.14);
        assert!(said(vec![row.clone()])[1].contains(" Alignment (RLHF) made it worse by 14 points. "));
        // The model, where it was asked, sees no guilt in it.
        row.verdict.probabilities.push(StageProbability { stage: Stage::Alignment, probability: 0.02 });
        row.verdict.probabilities[0].probability = 0.3;
        let cause = said(vec![row]).swap_remove(1);
        assert!(!cause.contains("made it worse"), "{cause}");
        assert!(cause.ends_with(" This is in doubt, as the evidence disagrees: 30% likely."), "{cause}");
    }

    #[test]
    fn failures_of_one_phase_are_told_together_and_point_to_its_settings() {
        let broken = |behaviour| failing(behaviour, "sft", [0.0, 0.5, 0.0]);
        let mut rows = vec![broken(Behaviour::OverRefusal), broken(Behaviour::Knowledge)];
        let two = said(rows.clone());
        assert!(two[0].ends_with(" It also gets common facts wrong."), "{two:?}");
        assert!(two[1].ends_with(" The other failure began there too."), "{two:?}");
        assert_eq!(two[2], "Mend it. The report has a step for the other failure too.");
        rows.push(broken(Behaviour::Calibration));
        let three = said(rows.clone());
        assert!(three[1].ends_with(" The other 2 failures began there too."), "{three:?}");
        assert!(three[2].starts_with("3 failures began in this phase: check its settings first (the learning rate"));
        rows[2] = failing(Behaviour::HarmfulCompliance, "rlhf", [0.0, 0.0, 0.2]);
        let elsewhere = said(rows);
        let both = " Recalling common facts fails since then too. Refusing harmful requests fails since \
                    alignment (RLHF).";
        assert!(elsewhere[1].ends_with(both), "{elsewhere:?}");
        assert!(elsewhere[2].starts_with("Mend it."), "{elsewhere:?}");
    }

    #[test]
    fn of_a_single_checkpoint_no_phase_is_named() {
        let mut row = failing(Behaviour::OverRefusal, "rlhf", [0.0, 0.0, 0.6]);
        (row.values, row.reference) = (vec![row.values[2].clone()], vec![row.reference[2]]);
        let mut lineage = lineage(vec![row]);
        lineage.phases.drain(..2);
        let said = sentences(&[lineage]);
        assert!(said[0].starts_with("The RLHF model refuses harmless requests: it answers 30% of 200"), "{said:?}");
        assert_eq!(said[1], "One checkpoint was asked, so there is no phase to compare with.");
    }

    #[test]
    fn where_nothing_fails_the_lowest_value_and_what_could_hide_are_told() {
        let mut row = failing(Behaviour::OverRefusal, "sft", [0.0, 0.0, 0.0]);
        row.verdict.outcome = Outcome::Healthy;
        row.values = vec![Some(estimate(0.9)); 3];
        assert_eq!(
            said(vec![row]),
            [
                "No failure was found: the RLHF model is within what healthy runs show in 1 of 1 behaviours.",
                "The lowest value is for answering harmless requests, in the RLHF model: it answers 90% of 200 (95% interval 82% \
                 to 98%), healthy runs answer 95%.",
                "Nothing needs to be done. A change between two phases could go unseen with this many questions where it is \
                 smaller than 6 points.",
            ]
        );
    }
}
