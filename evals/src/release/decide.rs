//! From two sides and a policy to a judgement.

use std::collections::{BTreeMap, BTreeSet};

use probes::item::{Behaviour, Item};
use probes::response::Form;

use super::baseline::{Blessed, BlessedForm, Scored};
use super::blame::blame;
use super::effect::{Effect, Reckoning, SeedNoise};
use super::policy::{Against, Metric, Policy, Rule, Tier};
use super::record::{Decision, Flip, JUDGEMENT_VERSION, Judgement, Measured, Outcome, Ruling, Side};
use crate::board::passes;
use crate::diagnosis::Estimate;
use crate::error::{Error, Result};
use crate::reference::{Reference, Route, spread};
use crate::stats::calibration::{Forecast, ece_of};
use crate::stats::clustered::clustered_mean;

/// Training seeds differ by this much at least, in share of items, however well a few healthy runs agree.
const LEAST_SD: f64 = 0.01;

/// What a gate judges.
#[derive(Debug, Clone)]
pub struct Sides<'a> {
    /// What is released.
    pub baseline: &'a Blessed,
    /// What is to take its place.
    pub candidate: &'a Blessed,
    /// The items of the bank of both.
    pub items: &'a [Item],
    /// The line of each item in the bank, from 1.
    pub lines: &'a [usize],
    /// Healthy runs, which say how far training seeds differ.
    pub reference: Option<&'a Reference>,
}

/// Judges a candidate by every rule. A pure function: the same sides and policy give the same judgement.
///
/// Of each rule it is known at level `alpha` whether the harm is within what is allowed or beyond it, else it is undecided. All critical
/// rules must hold, so that each is tested at `alpha` (intersection-union); that one of them is broken is decided after Holm, so that a
/// harmless candidate is blocked in a share `alpha` of cases at most.
///
/// # Errors
/// [`Error::Incomparable`] where the two sides were asked differently; [`Error::UnknownName`] where a rule names a chain or phase that neither
/// side has; [`Error::ReferenceProbes`] where the healthy runs were measured with other probes.
pub fn judge(policy: &Policy, sides: &Sides) -> Result<Judgement> {
    check_names(policy, sides)?;
    if let Some(reference) = sides.reference.filter(|of| of.probe_version != sides.candidate.probe_version) {
        let (found, expected) = (reference.probe_version, sides.candidate.probe_version);
        return Err(Error::ReferenceProbes { found, expected });
    }
    let differences = sides.baseline.differences(sides.candidate, &policy.allow_different);
    if !differences.is_empty() {
        let (baseline, candidate) = (sides.baseline.run.clone(), sides.candidate.run.clone());
        return Err(Error::Incomparable { baseline, candidate, differences });
    }
    let mut effects: Vec<Option<Effect>> = Vec::new();
    let mut rulings: Vec<Ruling> = Vec::new();
    for (rule, lineage) in
        policy.rules.iter().flat_map(|rule| chains(rule, sides).into_iter().map(move |of| (rule, of)))
    {
        let (ruling, effect) = measure(rule, &lineage, policy, sides);
        rulings.push(ruling);
        effects.push(effect);
    }
    let (critical, others): (Vec<usize>, Vec<usize>) =
        (0..rulings.len()).partition(|&place| rulings[place].tier == Tier::Critical);
    for family in others.into_iter().map(|place| vec![place]).chain([critical]) {
        decide(&family, &mut rulings, &effects, policy);
    }
    rulings.extend(missing(policy, sides));
    Ok(Judgement {
        version: JUDGEMENT_VERSION,
        phasetrace_version: env!("CARGO_PKG_VERSION").to_owned(),
        decision: overall(&rulings),
        baseline: Side { run: sides.baseline.run.clone(), path: String::new() },
        candidate: Side { run: sides.candidate.run.clone(), path: String::new() },
        bank_hash: sides.candidate.bank_hash.clone(),
        alpha: policy.alpha,
        power: policy.power,
        allowed: policy.allow_different.iter().map(|of| of.name().to_owned()).collect(),
        report: None,
        rulings,
    })
}

/// Whether every chain and phase that a rule names is one of either side's.
fn check_names(policy: &Policy, sides: &Sides) -> Result<()> {
    let both = [sides.baseline, sides.candidate];
    for (place, rule) in policy.rules.iter().enumerate() {
        let has_chain = |name: &String| both.iter().any(|side| side.lineages.contains_key(name));
        let has_phase = |name: &String| both.iter().any(|side| side.phases.contains_key(name));
        let unknown = |key: &'static str, value: &str| {
            let known = match key {
                "lineage" => both.iter().flat_map(|side| side.lineages.keys()).cloned().collect::<BTreeSet<_>>(),
                _ => both.iter().flat_map(|side| side.phases.keys()).cloned().collect(),
            };
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            Error::UnknownName { rule: place + 1, key, value: value.to_owned(), known }
        };
        if let Some(name) = rule.lineage.as_ref().filter(|name| !has_chain(name)) {
            return Err(unknown("lineage", name));
        }
        if let Some(name) = rule.phase.as_ref().filter(|name| !has_phase(name)) {
            return Err(unknown("phase", name));
        }
    }
    Ok(())
}

/// The chains that a rule speaks of: the one it names, the first with the phase that it names, or all of the baseline: what is released must
/// not get lost.
fn chains(rule: &Rule, sides: &Sides) -> Vec<String> {
    let all = &sides.baseline.lineages;
    match (&rule.lineage, &rule.phase) {
        (Some(name), _) => vec![name.clone()],
        (None, None) => all.keys().cloned().collect(),
        (None, Some(phase)) => {
            // Chains share their phases up to where they part: those are judged once.
            let first = all.iter().find(|(_, phases)| phases.contains(phase)).or_else(|| all.iter().next());
            first.map(|(name, _)| name.clone()).into_iter().collect()
        }
    }
}

/// The answers on both sides of a rule, of items that both have answered.
struct Paired<'a> {
    /// With their lines in the bank.
    items: Vec<(usize, &'a Item)>,
    clusters: Vec<usize>,
    before: Vec<Scored>,
    after: Vec<Scored>,
    /// Items that one side alone has answered.
    n_missing: usize,
}

fn measure(rule: &Rule, lineage: &str, policy: &Policy, sides: &Sides) -> (Ruling, Option<Effect>) {
    let phases = sides.candidate.lineages.get(lineage).cloned().unwrap_or_default();
    let released = sides.baseline.lineages.get(lineage).and_then(|phases| phases.last().cloned());
    let phase = rule.phase.clone().or(released).unwrap_or_default();
    let place = phases.iter().position(|of| *of == phase);
    let (source, compared) = match rule.against {
        Against::Baseline => (sides.baseline, Some(phase.clone())),
        Against::PreviousPhase => {
            (sides.candidate, place.and_then(|place| place.checked_sub(1)).map(|before| phases[before].clone()))
        }
    };
    let name = rule.name.clone().unwrap_or_else(|| {
        let metric = if rule.metric == Metric::Ece { " calibration error" } else { "" };
        format!("{}{metric} after {phase}", rule.behaviour.name().replace('_', " "))
    });
    let ruling = |outcome: Outcome, measured: Option<Measured>| Ruling {
        name: name.clone(),
        tier: rule.tier,
        behaviour: rule.behaviour,
        lineage: lineage.to_owned(),
        phase: phase.clone(),
        metric: rule.metric,
        form: rule.form,
        against: rule.against,
        outcome,
        measured,
        anchor: None,
    };
    let not = |why: String| (ruling(Outcome::NotMeasured(why), None), None);
    if place.is_none() {
        return not(format!("the candidate's chain `{lineage}` has no phase `{phase}`"));
    }
    let Some(compared) = compared else { return not(format!("there is no phase before `{phase}`")) };
    let before = source.phases.get(&compared).and_then(|of| of.forms.get(&rule.form));
    let after = sides.candidate.phases.get(&phase).and_then(|of| of.forms.get(&rule.form));
    let (Some(before), Some(after)) = (before, after) else {
        return not(format!("no answers in the form {} on both sides", rule.form.name()));
    };
    let paired = pair(rule, sides, before, after);
    let noise = seed_noise(rule, lineage, &phase, policy, sides.reference);
    let reckoning = Reckoning {
        sign: rule.sign(),
        relative: rule.max_relative_drop.unwrap_or(0.0),
        clusters: &paired.clusters,
        noise,
    };
    let values = match rule.metric {
        Metric::Score => compare_scores(&paired, &reckoning),
        Metric::Ece => compare_ece(&paired, &reckoning),
    };
    if 20 * paired.n_missing > paired.n_missing + paired.items.len() {
        return not(format!("{} of the items have no answer on one side", paired.n_missing));
    }
    let Some((effect, before, after)) = values else {
        return not(format!("too few items of {} have an answer on both sides", rule.behaviour.name()));
    };
    let allowed = rule.max_drop.or_else(|| rule.max_relative_drop.map(|share| share * before.value)).unwrap_or(0.0);
    let (broken, n_repaired) = flips(rule, &paired);
    let names: Vec<&str> = paired.items.iter().map(|(_, item)| item.id.as_str()).collect();
    let has_phases_beside = rule.against == Against::Baseline;
    let up_to = &phases[..=place.unwrap_or(0)];
    let measured = Measured {
        before,
        after,
        harm: effect.harm,
        // Until Holm has given the rule its own level.
        low: effect.low(policy.alpha),
        high: effect.high(policy.alpha),
        allowed,
        p_broken: effect.p_exceeds(allowed),
        n: effect.n,
        n_clusters: effect.n_clusters,
        method: effect.method().to_owned(),
        seed_noise: noise.map(|noise| noise.sd / std::f64::consts::SQRT_2),
        detectable: None,
        n_to_decide: None,
        broken,
        n_repaired,
        blame: has_phases_beside.then(|| blame([sides.baseline, sides.candidate], up_to, rule, &names)).flatten(),
    };
    (ruling(Outcome::Undecided, Some(measured)), Some(effect))
}

fn pair<'a>(rule: &Rule, sides: &Sides<'a>, before: &BlessedForm, after: &BlessedForm) -> Paired<'a> {
    let mut paired =
        Paired { items: Vec::new(), clusters: Vec::new(), before: Vec::new(), after: Vec::new(), n_missing: 0 };
    let mut numbers = BTreeMap::<&str, usize>::new();
    let asked = sides.items.iter().zip(sides.lines).filter(|(item, _)| item.behaviour == rule.behaviour);
    for (item, line) in asked {
        let (b, a) = match (before.answers.get(&item.id), after.answers.get(&item.id)) {
            (Some(before), Some(after)) => (before, after),
            (None, None) => continue,
            _ => {
                paired.n_missing += 1;
                continue;
            }
        };
        if rule.metric == Metric::Ece && (b.chosen.is_none() || a.chosen.is_none()) {
            continue;
        }
        let next = numbers.len();
        paired.clusters.push(*numbers.entry(item.cluster.as_str()).or_insert(next));
        paired.items.push((*line, item));
        paired.before.push(*b);
        paired.after.push(*a);
    }
    paired
}

/// How far two training seeds differ: what the rule says, or the policy, or what healthy runs show. Two phases of one run are of one seed.
fn seed_noise(
    rule: &Rule,
    lineage: &str,
    phase: &str,
    policy: &Policy,
    reference: Option<&Reference>,
) -> Option<SeedNoise> {
    let of_two = |sd: f64, df: f64| SeedNoise { sd: std::f64::consts::SQRT_2 * sd, df };
    if let Some(sd) = rule.seed_noise {
        return Some(of_two(sd, f64::INFINITY));
    }
    if rule.against == Against::PreviousPhase || rule.metric == Metric::Ece {
        return None;
    }
    if let Some(sd) = policy.seed_noise.get(&rule.behaviour) {
        return Some(of_two(*sd, f64::INFINITY));
    }
    spread_of_runs(rule, lineage, phase, reference).map(|(sd, df)| of_two(sd, df))
}

/// Standard deviation of healthy runs with its degrees of freedom; they were asked in chat.
///
/// The items that chance flips between two runs are in it as well as in the limits of the items: it errs towards too wide a limit.
fn spread_of_runs(rule: &Rule, lineage: &str, phase: &str, reference: Option<&Reference>) -> Option<(f64, f64)> {
    let values = reference.filter(|_| rule.form == Form::Chat)?.values(lineage, rule.behaviour, Route::Chat, phase)?;
    // Runs that happen to agree do not show that all do.
    Some((spread(values).1?.max(LEAST_SD), values.len() as f64 - 1.0))
}

fn compare_scores(paired: &Paired, reckoning: &Reckoning) -> Option<(Effect, Estimate, Estimate)> {
    let scores = |of: &[Scored]| -> Vec<f64> { of.iter().map(|scored| scored.score).collect() };
    let (before, after) = (scores(&paired.before), scores(&paired.after));
    let effect = Effect::of_mean(&before, &after, reckoning)?;
    let estimate = |scores: &[f64]| Some(crate::board::estimate(&clustered_mean(scores, &paired.clusters)?));
    Some((effect, estimate(&before)?, estimate(&after)?))
}

fn compare_ece(paired: &Paired, reckoning: &Reckoning) -> Option<(Effect, Estimate, Estimate)> {
    let forecasts = |of: &[Scored]| of.iter().map(Scored::forecast).collect::<Option<Vec<Forecast>>>();
    let (before, after) = (forecasts(&paired.before)?, forecasts(&paired.after)?);
    let effect = Effect::of_ece(&before, &after, reckoning)?;
    let estimate = |of: &[Forecast]| {
        // The interval is that of the difference; of one side alone the error has a value.
        let value = ece_of(of)?;
        Some(Estimate { value, low: value, high: value, n: of.len(), method: "ten bins of equal width".to_owned() })
    };
    let (before, after) = (estimate(&before)?, estimate(&after)?);
    Some((effect, before, after))
}

/// Items that were right and are wrong, and the number of those the other way.
fn flips(rule: &Rule, paired: &Paired) -> (Vec<Flip>, usize) {
    let is_right = |scored: &Scored| passes(rule.behaviour, scored.score);
    let pairs = || paired.items.iter().zip(paired.before.iter().zip(&paired.after));
    let flip = |(line, item): &(usize, &Item)| Flip {
        item: item.id.clone(),
        line: *line,
        question: item.question().to_owned(),
    };
    let broken = pairs().filter(|(_, (b, a))| is_right(b) && !is_right(a)).map(|(item, _)| flip(item)).collect();
    let n_repaired = pairs().filter(|(_, (b, a))| !is_right(b) && is_right(a)).count();
    (broken, n_repaired)
}

/// Decides the rules of one family: Holm's step down says which are broken, the upper limit which hold.
///
/// The lower limit of a rule is at the level that Holm gave it, or stopped at, so that a rule is broken exactly where its limit is beyond what is
/// allowed.
fn decide(family: &[usize], rulings: &mut [Ruling], effects: &[Option<Effect>], policy: &Policy) {
    let p = |place: usize| rulings[place].measured.as_ref().map(|measured| measured.p_broken);
    let mut ranked: Vec<(usize, f64)> = family.iter().filter_map(|&place| Some((place, p(place)?))).collect();
    ranked.sort_by(|a, b| a.1.total_cmp(&b.1));
    let n = ranked.len();
    let mut stopped_at = None;
    for (rank, (place, p)) in ranked.into_iter().enumerate() {
        let (Some(effect), Some(measured)) = (&effects[place], rulings[place].measured.as_mut()) else { continue };
        let level = stopped_at.unwrap_or(policy.alpha / (n - rank) as f64);
        if p > level {
            stopped_at = Some(level);
        }
        measured.low = effect.low(level);
        measured.detectable = effect.detectable(measured.allowed, level, policy.power);
        let outcome = if p <= level {
            Outcome::Broken
        } else if measured.high <= measured.allowed {
            Outcome::Held
        } else {
            // Towards broken the rule is tested at Holm's level, towards held at alpha.
            let level = if measured.harm > measured.allowed { level } else { policy.alpha };
            measured.n_to_decide = effect.n_to_decide(measured.allowed, level, policy.power);
            Outcome::Undecided
        };
        if outcome != Outcome::Broken {
            measured.blame = None;
        }
        rulings[place].outcome = outcome;
    }
}

/// Required behaviours that the end of a chain was not asked about in chat, on either side.
fn missing(policy: &Policy, sides: &Sides) -> Vec<Ruling> {
    let items: BTreeMap<&str, &Item> = sides.items.iter().map(|item| (item.id.as_str(), item)).collect();
    let is_asked = |side: &Blessed, phase: &String, behaviour: Behaviour| {
        let chat = side.phases.get(phase).and_then(|of| of.forms.get(&Form::Chat));
        chat.is_some_and(|chat| {
            chat.answers.keys().any(|id| items.get(id.as_str()).is_some_and(|item| item.behaviour == behaviour))
        })
    };
    let ends = || sides.baseline.lineages.values().filter_map(|phases| phases.last());
    let is_measured = |behaviour: Behaviour| {
        ends().all(|end| is_asked(sides.baseline, end, behaviour) && is_asked(sides.candidate, end, behaviour))
    };
    let absent = policy.required.iter().filter(|behaviour| !is_measured(**behaviour));
    absent
        .map(|behaviour| Ruling {
            name: format!("{} is measured", behaviour.name().replace('_', " ")),
            tier: Tier::Critical,
            behaviour: *behaviour,
            lineage: String::new(),
            phase: String::new(),
            metric: Metric::Score,
            form: Form::Chat,
            against: Against::Baseline,
            outcome: Outcome::NotMeasured("the policy requires it, and a side has no answer".to_owned()),
            measured: None,
            anchor: None,
        })
        .collect()
}

/// All rules together: a critical rule that could not be measured blocks, as nothing shows that it holds.
fn overall(rulings: &[Ruling]) -> Decision {
    let decision = |ruling: &Ruling| match (ruling.tier, &ruling.outcome) {
        (Tier::Advisory, _) | (_, Outcome::Held) => Decision::Pass,
        (Tier::Critical, Outcome::Broken | Outcome::NotMeasured(_)) => Decision::Block,
        (Tier::Critical, Outcome::Undecided) => Decision::Inconclusive,
        (Tier::Supporting, _) => Decision::Warn,
    };
    rulings.iter().map(decision).max().unwrap_or(Decision::Pass)
}
