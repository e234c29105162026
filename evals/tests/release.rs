//! The release gate on sides whose truth is known: how often it blocks, passes and cannot tell.

use std::collections::BTreeMap;

use evals::release::baseline::{BASELINE_VERSION, Blessed, BlessedForm, BlessedPhase, Chosen, Scored};
use evals::release::decide::{Sides, judge};
use evals::release::policy::{Difference, POLICY_VERSION, Policy, Rule, Tier};
use evals::release::record::{Decision, Judgement, Measured, Outcome};
use probes::item::{Behaviour, Item, Task};
use probes::response::Form;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const BEHAVIOURS: [Behaviour; 5] = [
    Behaviour::Knowledge,
    Behaviour::KnowledgeCutoff,
    Behaviour::InstructionFollowing,
    Behaviour::SystemPrompt,
    Behaviour::OverRefusal,
];
const CLUSTERS: usize = 40;
const PER_CLUSTER: usize = 4;
/// Simulated releases per row of the table.
const RELEASES: usize = 300;
/// Three standard errors of a share of 5 % of so many.
const TOLERANCE: f64 = 0.038;

fn items() -> Vec<Item> {
    items_of(CLUSTERS, PER_CLUSTER)
}

fn items_of(clusters: usize, per_cluster: usize) -> Vec<Item> {
    let item = |behaviour: Behaviour, cluster: usize, place: usize| Item {
        id: format!("{}/{cluster:02}/{place}", behaviour.name()),
        behaviour,
        slice: "all".to_owned(),
        cluster: format!("{cluster:02}"),
        month: None,
        expected: true,
        task: Task::Choice {
            cloze: "Ann lives in".to_owned(),
            shots: Vec::new(),
            question: "Where does Ann live?".to_owned(),
            context: "Ann lives in Lund.".to_owned(),
            options: vec!["Lund".to_owned(), "Oslo".to_owned()],
            answer: 0,
            declines: Vec::new(),
            ideal: None,
        },
    };
    let of_cluster = |behaviour, cluster| (0..per_cluster).map(move |place| item(behaviour, cluster, place));
    BEHAVIOURS.into_iter().flat_map(|of| (0..clusters).flat_map(move |cluster| of_cluster(of, cluster))).collect()
}

/// A run whose chain `rlhf` ends in `sft` with these scores.
fn side(run: &str, phases: &[(&str, BTreeMap<String, f64>)]) -> Blessed {
    let scored = |scores: &BTreeMap<String, f64>| {
        scores.iter().map(|(id, score)| (id.clone(), Scored { score: *score, chosen: None })).collect()
    };
    side_of(run, &phases.iter().map(|(name, scores)| (*name, scored(scores))).collect::<Vec<_>>())
}

/// The same with these answers.
fn side_of(run: &str, phases: &[(&str, BTreeMap<String, Scored>)]) -> Blessed {
    let phase = |answers: &BTreeMap<String, Scored>| BlessedPhase {
        checkpoint: run.to_owned(),
        tokenizer: "tokenizer".to_owned(),
        template: "template".to_owned(),
        forms: BTreeMap::from([(Form::Chat, BlessedForm { prompts: "prompts".to_owned(), answers: answers.clone() })]),
    };
    Blessed {
        version: BASELINE_VERSION,
        run: run.to_owned(),
        bank_hash: "bank".to_owned(),
        probe_version: 1,
        lineages: BTreeMap::from([("rlhf".to_owned(), phases.iter().map(|(name, _)| (*name).to_owned()).collect())]),
        phases: phases.iter().map(|(name, answers)| ((*name).to_owned(), phase(answers))).collect(),
    }
}

fn rule(behaviour: Behaviour, max_drop: f64, seed_noise: Option<f64>) -> Rule {
    let text = format!(r#"{{"behaviour": "{}", "max-drop": {max_drop}}}"#, behaviour.name());
    Rule { seed_noise, ..serde_json::from_str(&text).unwrap() }
}

fn policy(rules: Vec<Rule>) -> Policy {
    Policy {
        version: POLICY_VERSION,
        alpha: 0.05,
        power: 0.8,
        allow_different: Vec::new(),
        required: Vec::new(),
        seed_noise: BTreeMap::new(),
        rules,
    }
}

/// A baseline and a candidate that is truly worse by `harm` in every behaviour, each a run of its own seed.
///
/// Items of a cluster are right or wrong together in half of the cases, and an item keeps its answer in four of five.
fn release(rng: &mut ChaCha8Rng, items: &[Item], harm: f64, seed_sd: f64) -> (Blessed, Blessed) {
    release_at(rng, items, 0.8, harm, seed_sd)
}

/// The same of a baseline that has this share right.
fn release_at(rng: &mut ChaCha8Rng, items: &[Item], share: f64, harm: f64, seed_sd: f64) -> (Blessed, Blessed) {
    let normal = |rng: &mut ChaCha8Rng| (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
    let mut shifts = BTreeMap::new();
    for behaviour in BEHAVIOURS {
        shifts.insert(behaviour, [seed_sd * normal(rng), seed_sd * normal(rng)]);
    }
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    let mut shared = BTreeMap::<(Behaviour, &str), [f64; 2]>::new();
    for item in items {
        let own = pair(rng);
        let of_cluster = *shared.entry((item.behaviour, item.cluster.as_str())).or_insert_with(|| pair(rng));
        let [u, v] = if rng.random::<f64>() < 0.5 { of_cluster } else { own };
        let [shift_before, shift_after] = shifts[&item.behaviour];
        before.insert(item.id.clone(), f64::from(u8::from(u < share + shift_before)));
        after.insert(item.id.clone(), f64::from(u8::from(v < share - harm + shift_after)));
    }
    (side("released", &[("sft", before)]), side("candidate", &[("sft", after)]))
}

/// What decides an answer on both sides.
fn pair(rng: &mut ChaCha8Rng) -> [f64; 2] {
    let u = rng.random::<f64>();
    [u, if rng.random::<f64>() < 0.8 { u } else { rng.random() }]
}

fn judged(policy: &Policy, items: &[Item], before: &Blessed, after: &Blessed) -> Judgement {
    let lines: Vec<usize> = (1..=items.len()).collect();
    judge(policy, &Sides { baseline: before, candidate: after, items, lines: &lines, reference: None }).unwrap()
}

fn measured(judgement: &Judgement) -> &Measured {
    judgement.rulings[0].measured.as_ref().unwrap()
}

/// Shares of PASS, INCONCLUSIVE and BLOCK over simulated releases, and that no ruling contradicts its own interval.
fn shares(policy: &Policy, harm: f64, seed_sd: f64, seed: u64) -> [f64; 3] {
    let items = items();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut counts = [0.0; 3];
    for _ in 0..RELEASES {
        let (before, after) = release(&mut rng, &items, harm, seed_sd);
        let judgement = judged(policy, &items, &before, &after);
        for ruling in &judgement.rulings {
            let of = ruling.measured.as_ref().unwrap();
            let expected = match (of.low > of.allowed, of.high <= of.allowed) {
                (true, false) => Outcome::Broken,
                (false, true) => Outcome::Held,
                (false, false) => Outcome::Undecided,
                (true, true) => panic!("an interval turned round: {of:?}"),
            };
            assert_eq!(ruling.outcome, expected, "{of:?}");
        }
        let place = match judgement.decision {
            Decision::Pass => 0,
            Decision::Inconclusive => 1,
            _ => 2,
        };
        counts[place] += 1.0 / RELEASES as f64;
    }
    // A row of the table in docs/ci.md.
    let first = &policy.rules[0];
    let told = first.seed_noise.map_or_else(|| "-".to_owned(), |sd| format!("{:.0}", 100.0 * sd));
    let relative = || format!("{:.0} % of the baseline", 100.0 * first.max_relative_drop.unwrap_or(0.0));
    let allowed = first.max_drop.map_or_else(relative, |drop| format!("{:.0}", 100.0 * drop));
    println!(
        "| {} | {allowed} | {:.1} | {:.0} | {told} | {:.0} % | {:.0} % | {:.0} % |",
        policy.rules.len(),
        100.0 * harm,
        100.0 * seed_sd,
        100.0 * counts[0],
        100.0 * counts[1],
        100.0 * counts[2]
    );
    counts
}

fn all(max_drop: f64, seed_noise: Option<f64>) -> Policy {
    policy(BEHAVIOURS.map(|behaviour| rule(behaviour, max_drop, seed_noise)).to_vec())
}

#[test]
fn harmless_candidates_are_blocked_as_rarely_as_was_asked() {
    // No change at all, and nothing allowed: the hardest case. Items are clustered; then training seeds differ too.
    let [.., blocked] = shares(&all(0.0, None), 0.0, 0.0, 1);
    assert!(blocked <= 0.05 + TOLERANCE, "{blocked}");
    let [.., blocked] = shares(&all(0.0, Some(0.04)), 0.0, 0.04, 2);
    assert!(blocked <= 0.05 + TOLERANCE, "{blocked} with noise of seeds");
    // A gate that is not told of that noise takes it for harm.
    let [.., deceived] = shares(&all(0.0, None), 0.0, 0.04, 2);
    assert!(deceived > 0.10, "{deceived}");
}

#[test]
fn what_is_as_bad_as_allowed_rarely_passes_and_what_is_unchanged_mostly_does() {
    let one = |noise| policy(vec![rule(Behaviour::Knowledge, 0.10, noise)]);
    for (noise, seed) in [(None, 3), (Some(0.02), 4)] {
        let sd = noise.unwrap_or(0.0);
        let [passed, ..] = shares(&one(noise), 0.10, sd, seed);
        assert!(passed <= 0.05 + TOLERANCE, "{passed} with noise {noise:?}");
        let [passed, _, blocked] = shares(&one(noise), 0.0, sd, seed);
        assert!(passed > 0.7 && blocked == 0.0, "{passed} {blocked} with noise {noise:?}");
    }
}

#[test]
fn a_share_of_the_baseline_is_held_to_its_level_though_the_baseline_is_uncertain_too() {
    for (noise, seed) in [(None, 7), (Some(0.02), 8)] {
        let relative = Rule { max_drop: None, max_relative_drop: Some(0.1), ..rule(Behaviour::Knowledge, 0.0, noise) };
        let (one, sd) = (policy(vec![relative]), noise.unwrap_or(0.0));
        // A tenth of 80 points.
        let [passed, _, blocked] = shares(&one, 0.08, sd, seed);
        assert!(passed <= 0.05 + TOLERANCE && blocked <= 0.05 + TOLERANCE, "{passed} {blocked} with noise {noise:?}");
        let [passed, _, blocked] = shares(&one, 0.0, sd, seed);
        let least = if noise.is_some() { 0.4 } else { 0.7 };
        assert!(passed > least && blocked == 0.0, "{passed} {blocked} with noise {noise:?}");
    }
}

#[test]
fn the_printed_detectable_effect_is_detected_four_times_in_five() {
    for (noise, seed) in [(None, 5), (Some(0.03), 6)] {
        let policy = policy(vec![rule(Behaviour::Knowledge, 0.02, noise)]);
        let (items, sd) = (items(), noise.unwrap_or(0.0));
        // What a gate prints varies with the answers that it saw: the mean over unchanged candidates.
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let printed: Vec<f64> = (0..20)
            .map(|_| {
                let (before, after) = release(&mut rng, &items, 0.0, sd);
                measured(&judged(&policy, &items, &before, &after)).detectable.unwrap()
            })
            .collect();
        let detectable = printed.iter().sum::<f64>() / printed.len() as f64;
        let [.., blocked] = shares(&policy, detectable, sd, seed);
        assert!(blocked >= 0.8 - 0.07, "{blocked} at {detectable} with noise {noise:?}");
    }
}

#[test]
fn the_number_of_items_that_would_decide_does() {
    let items = items();
    let policy = policy(vec![rule(Behaviour::Knowledge, 0.04, None)]);
    // 3 of 160 items are lost, in a cluster each: less than is allowed, but that is not shown.
    let scores = |lost: &[usize]| -> BTreeMap<String, f64> {
        let score = |place: usize| f64::from(u8::from(!lost.contains(&place)));
        items.iter().enumerate().map(|(place, item)| (item.id.clone(), score(place))).collect()
    };
    let (before, after) =
        (side("released", &[("sft", scores(&[]))]), side("candidate", &[("sft", scores(&[0, 40, 80]))]));
    let judgement = judged(&policy, &items, &before, &after);
    let of = measured(&judgement);
    // Undecided at this size; told what would do.
    assert_eq!(
        (judgement.decision, judgement.rulings[0].outcome.clone()),
        (Decision::Inconclusive, Outcome::Undecided)
    );
    let needed = of.n_to_decide.unwrap();
    assert!((200..400).contains(&needed), "{needed} of {}", of.n);
}

#[test]
fn few_clusters_of_which_most_are_right_keep_the_level() {
    // 10 and 17 clusters of 9 and 8 items, nine in ten of them right: where few items change and their dependence is hard to see.
    for (clusters, size, seed) in [(10, 9, 11), (17, 8, 12)] {
        let all: Vec<Item> = items_of(clusters, size);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut blocked, mut passed) = (0.0, 0.0);
        for _ in 0..RELEASES {
            let (before, after) = release_at(&mut rng, &all, 0.9, 0.0, 0.0);
            let strict = policy(vec![rule(Behaviour::Knowledge, 0.0, None)]);
            blocked += f64::from(u8::from(judged(&strict, &all, &before, &after).decision == Decision::Block));
            let (before, after) = release_at(&mut rng, &all, 0.9, 0.1, 0.0);
            let lax = policy(vec![rule(Behaviour::Knowledge, 0.1, None)]);
            passed += f64::from(u8::from(judged(&lax, &all, &before, &after).decision == Decision::Pass));
        }
        let (blocked, passed) = (blocked / RELEASES as f64, passed / RELEASES as f64);
        println!(
            "{clusters} clusters of {size}: {blocked:.3} of harmless ones blocked, {passed:.3} as bad as allowed passed"
        );
        assert!(blocked <= 0.05 + TOLERANCE && passed <= 0.05 + TOLERANCE, "{blocked} {passed}");
    }
}

#[test]
fn a_regression_has_its_items_and_the_phase_that_lost_them() {
    let items = items();
    let scores = |wrong: usize| -> BTreeMap<String, f64> {
        items.iter().enumerate().map(|(place, item)| (item.id.clone(), f64::from(u8::from(place >= wrong)))).collect()
    };
    let before = side("released", &[("pretrain", scores(0)), ("sft", scores(0)), ("rlhf", scores(0))]);
    let after = side("candidate", &[("pretrain", scores(0)), ("sft", scores(60)), ("rlhf", scores(72))]);
    let judgement = judged(&policy(vec![rule(Behaviour::Knowledge, 0.02, None)]), &items, &before, &after);
    let of = measured(&judgement);
    assert_eq!(judgement.decision, Decision::Block);
    assert_eq!((of.broken.len(), of.n_repaired, of.broken[71].line), (72, 0, 72));
    let blame = of.blame.as_ref().unwrap();
    assert_eq!(blame.phase, "sft");
    assert!((blame.share - 60.0 / 72.0).abs() < 1e-9, "{}", blame.share);
}

#[test]
fn a_phase_may_not_raise_the_calibration_error() {
    let items = items();
    // Four answers in five are right.
    let sure = |confidence: f64| -> BTreeMap<String, Scored> {
        let scored = |place: usize| {
            let outcome = f64::from(u8::from(!place.is_multiple_of(5)));
            Scored { score: outcome, chosen: Some(Chosen { confidence, outcome }) }
        };
        items.iter().enumerate().map(|(place, item)| (item.id.clone(), scored(place))).collect()
    };
    let run = |name: &str, sft: f64| side_of(name, &[("pretrain", sure(0.8)), ("sft", sure(sft))]);
    let (released, certain) = (run("released", 0.8), run("candidate", 0.95));
    // SFT may not raise the calibration error by more than 0.02: from pretraining on, and from the release on.
    let may_not = |against: &str| -> Policy {
        let text = format!(
            r#"{{"behaviour": "knowledge", "metric": "ece", "phase": "sft", "against": "{against}", "max-drop": 0.02}}"#
        );
        policy(vec![serde_json::from_str(&text).unwrap()])
    };
    for against in ["previous-phase", "baseline"] {
        let judgement = judged(&may_not(against), &items, &released, &certain);
        assert_eq!(judgement.decision, Decision::Block, "{against}");
        assert_eq!(judgement.rulings[0].phase, "sft");
        let of = measured(&judgement);
        assert!((of.harm - 0.15).abs() < 1e-9 && of.allowed == 0.02, "{of:?}");
        let blamed = of.blame.as_ref().map(|blame| blame.phase.as_str());
        assert_eq!(blamed, (against == "baseline").then_some("sft"), "beside the phase before there is nothing to ask");
        assert_ne!(judged(&may_not(against), &items, &released, &released).decision, Decision::Block, "{against}");
    }
}

#[test]
fn a_supporting_rule_warns_an_advisory_one_tells_and_what_was_not_asked_blocks() {
    let items = items();
    let scores = |right: bool| items.iter().map(|item| (item.id.clone(), f64::from(u8::from(right)))).collect();
    let (before, after) = (side("released", &[("sft", scores(true))]), side("candidate", &[("sft", scores(false))]));
    let decision = |tier| {
        let rules = vec![Rule { tier, ..rule(Behaviour::Knowledge, 0.02, None) }];
        judged(&policy(rules), &items, &before, &after).decision
    };
    assert_eq!(
        [Tier::Critical, Tier::Supporting, Tier::Advisory].map(decision),
        [Decision::Block, Decision::Warn, Decision::Pass]
    );
    let required =
        Policy { required: vec![Behaviour::Calibration], ..policy(vec![rule(Behaviour::Knowledge, 0.9, None)]) };
    let judgement = judged(&required, &items, &before, &before);
    assert_eq!(judgement.decision, Decision::Block);
    assert!(matches!(&judgement.rulings[1].outcome, Outcome::NotMeasured(_)), "{judgement:?}");
}

#[test]
fn sides_that_were_asked_differently_are_refused_by_what_differs() {
    let items = items();
    let scores: BTreeMap<String, f64> = items.iter().map(|item| (item.id.clone(), 1.0)).collect();
    let (before, mut after) = (side("released", &[("sft", scores.clone())]), side("candidate", &[("sft", scores)]));
    after.bank_hash = "another".to_owned();
    for phase in after.phases.values_mut() {
        phase.tokenizer = "another".to_owned();
        phase.forms.get_mut(&Form::Chat).unwrap().prompts = "others".to_owned();
    }
    let lines: Vec<usize> = (1..=items.len()).collect();
    let sides = Sides { baseline: &before, candidate: &after, items: &items, lines: &lines, reference: None };
    let strict = policy(vec![rule(Behaviour::Knowledge, 0.2, None)]);
    let error = judge(&strict, &sides).unwrap_err().to_string();
    for what in ["item bank", "tokenizers", "prompts"] {
        assert!(error.contains(what), "{error}");
    }
    after.bank_hash.clone_from(&before.bank_hash);
    let lenient = Policy { allow_different: vec![Difference::Tokenizer, Difference::Prompts], ..strict };
    assert_eq!(judged(&lenient, &items, &before, &after).decision, Decision::Pass);
}

#[test]
fn values_that_no_policy_can_have_are_named() {
    let refused = |change: &dyn Fn(&mut Policy)| {
        let mut policy = policy(vec![rule(Behaviour::Knowledge, 0.02, None)]);
        change(&mut policy);
        policy.check().unwrap_err()
    };
    assert!(refused(&|it| it.alpha = 0.7).starts_with("alpha = 0.7"));
    assert!(refused(&|it| it.rules[0].max_drop = Some(1.5)).contains("rule 1 (knowledge): max-drop = 1.5"));
    assert!(refused(&|it| it.rules[0].max_relative_drop = Some(0.1)).contains("either max-drop or max-relative-drop"));
    assert!(refused(&|it| it.rules.clear()).contains("no [[rule]]"));
    assert!(
        refused(&|it| it.seed_noise = BTreeMap::from([(Behaviour::Knowledge, -0.1)]))
            .starts_with("seed-noise.knowledge")
    );
}
