//! Which phase the verdict names, on answers whose cause is known by construction.

use std::collections::BTreeMap;

use evals::diagnose::{Findings, Lineage, diagnose};
use evals::diagnosis::{
    BehaviourHistory, Confidence, ContributionKind, DEPLOYED, Diagnosis, Outcome, PhaseInfo, Provenance, Rung, Stage,
    View,
};
use evals::reference::{REFERENCE_VERSION, Reference, ReferenceCell, Route};
use evals::verdict::beta::BetaCalibration;
use evals::verdict::features::Tier;
use evals::verdict::model::{TierModel, Weight};
use probes::item::{Behaviour, Item, Task};
use probes::response::{Form, Response};

const PHASES: [&str; 3] = ["pretrain", "sft", "rlhf"];
const N_ITEMS: usize = 200;

/// Share of items right at each phase, in chat and in the few-shot form.
struct Shares {
    chat: [f64; 3],
    few_shot: [f64; 3],
}

/// The same of healthy runs, and how much they differ.
struct Healthy {
    shares: Shares,
    chat_sd: f64,
    few_shot_sd: f64,
}

const KNOWING: Healthy = Healthy {
    shares: Shares { chat: [0.2, 0.95, 0.95], few_shot: [0.97, 0.97, 0.97] },
    chat_sd: 0.02,
    few_shot_sd: 0.01,
};

fn item(number: usize) -> Item {
    Item {
        id: format!("fact-{number:03}"),
        behaviour: Behaviour::Knowledge,
        slice: "ordinary".to_owned(),
        cluster: format!("person-{number:03}"),
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
    }
}

/// The first items pass: what is right at a lower share is right at a higher one.
fn answer(phase: &str, number: usize, form: Form, share: f64) -> Response {
    let passes = (number as f64) < share * N_ITEMS as f64;
    Response {
        subject: format!("hash of {phase}"),
        item: item(number).id,
        form,
        score: Some(f64::from(u8::from(passes))),
        unscored: None,
        p_right: Some(if passes { 0.9 } else { 0.1 }),
        confidence: Some(0.9),
        margin_nats: Some(if passes { 2.0 } else { -2.0 }),
        label: None,
        answer: String::new(),
        prompt: String::new(),
    }
}

/// Five healthy runs whose sample standard deviation is the given one.
fn reference(healthy: &Healthy) -> Reference {
    reference_of(5, healthy)
}

fn reference_of(n_runs: usize, healthy: &Healthy) -> Reference {
    let mut cells = Vec::new();
    let Healthy { shares, chat_sd, few_shot_sd } = healthy;
    for (route, shares, sd) in [(Route::Chat, shares.chat, chat_sd), (Route::Elicited, shares.few_shot, few_shot_sd)] {
        for (phase, share) in PHASES.iter().zip(shares) {
            let values = spread_around(n_runs, share, *sd);
            let (lineage, phase) = ("rlhf".to_owned(), (*phase).to_owned());
            cells.push(ReferenceCell { lineage, behaviour: Behaviour::Knowledge, route, phase, values });
        }
    }
    let runs = (0..n_runs).map(|run| format!("healthy-{run}")).collect();
    Reference { version: REFERENCE_VERSION, probe_version: 1, runs, recipe: None, cells, data: Vec::new() }
}

/// Evenly spaced values with this mean and sample standard deviation.
fn spread_around(n: usize, mean: f64, sd: f64) -> Vec<f64> {
    let step = sd / ((n * (n + 1)) as f64 / 12.0).sqrt();
    (0..n).map(|i| (mean + (i as f64 - (n - 1) as f64 / 2.0) * step).clamp(0.0, 1.0)).collect()
}

fn judge(shares: &Shares, healthy: Option<&Healthy>) -> BehaviourHistory {
    judge_beside(shares, healthy.map(reference).as_ref())
}

fn judge_beside(shares: &Shares, reference: Option<&Reference>) -> BehaviourHistory {
    let mut rows = diagnose_beside(shares, reference).lineages.remove(0).behaviours.into_iter();
    rows.find(|row| row.behaviour == Behaviour::Knowledge).unwrap()
}

fn diagnose_beside(shares: &Shares, reference: Option<&Reference>) -> Diagnosis {
    let items: Vec<Item> = (0..N_ITEMS).map(item).collect();
    diagnose_items(&items, shares, reference)
}

fn diagnose_items(items: &[Item], shares: &Shares, reference: Option<&Reference>) -> Diagnosis {
    diagnose_with(items, shares, reference, None)
}

fn diagnose_with(
    items: &[Item],
    shares: &Shares,
    reference: Option<&Reference>,
    model: Option<&TierModel>,
) -> Diagnosis {
    let shown: Vec<Shown> = (0..3).map(|at| (PHASES[at], shares.chat[at], shares.few_shot[at])).collect();
    diagnose_lineage(items, &shown, &[], reference, model)
}

/// A checkpoint or view, and the share that it gets right in chat and in the few-shot form.
type Shown = (&'static str, f64, f64);

fn diagnose_lineage(
    items: &[Item],
    phases: &[Shown],
    views: &[Shown],
    reference: Option<&Reference>,
    model: Option<&TierModel>,
) -> Diagnosis {
    let mut responses = Vec::new();
    for (name, chat, few_shot) in phases.iter().chain(views) {
        for number in 0..N_ITEMS {
            responses.push(answer(name, number, Form::Chat, *chat));
            responses.push(answer(name, number, Form::FewShot, *few_shot));
        }
    }
    let infos = |shown: &[Shown]| {
        let info = |(name, ..): &Shown| PhaseInfo {
            name: (*name).to_owned(),
            checkpoint: format!("hash of {name}"),
            ..PhaseInfo::default()
        };
        shown.iter().map(info).collect::<Vec<_>>()
    };
    let (phases, views) = (infos(phases), infos(views));
    diagnose(Findings {
        run: "test",
        lineages: &[Lineage { name: "rlhf".to_owned(), phases, views, ..Lineage::default() }],
        items,
        responses: &responses,
        declared_cutoff: None,
        data: BTreeMap::new(),
        intended: &[],
        model,
        fixes: None,
        reference,
        stated: BTreeMap::new(),
        provenance: Provenance {
            seed: Some(1),
            bank_hash: "bank".to_owned(),
            n_items: N_ITEMS,
            probe_version: 1,
            phasetrace_version: "0".to_owned(),
            reference: None,
            notes: BTreeMap::new(),
        },
    })
    .unwrap()
}

fn accused(row: &BehaviourHistory) -> Option<(&str, ContributionKind)> {
    match &row.verdict.outcome {
        Outcome::Attributed { phase, kind } => Some((phase, *kind)),
        _ => None,
    }
}

#[test]
fn facts_that_no_form_gets_out_of_any_checkpoint_are_missing_since_pretraining() {
    let row = judge(&Shares { chat: [0.2, 0.68, 0.68], few_shot: [0.7, 0.7, 0.7] }, Some(&KNOWING));
    assert_eq!(accused(&row), Some(("pretrain", ContributionKind::Omission)), "{:?}", row.verdict);
}

#[test]
fn facts_that_are_known_but_not_told_in_chat_are_the_fault_of_fine_tuning() {
    let row = judge(&Shares { chat: [0.2, 0.5, 0.5], few_shot: [0.97, 0.96, 0.96] }, Some(&KNOWING));
    assert_eq!(accused(&row), Some(("sft", ContributionKind::Omission)), "{:?}", row.verdict);
}

#[test]
fn what_alignment_breaks_is_its_own_fault() {
    let row = judge(&Shares { chat: [0.2, 0.95, 0.6], few_shot: [0.97, 0.97, 0.65] }, Some(&KNOWING));
    assert_eq!(accused(&row), Some(("rlhf", ContributionKind::Commission)), "{:?}", row.verdict);
}

#[test]
fn a_fault_that_a_later_phase_repairs_in_part_stays_with_the_phase_that_made_it() {
    let row = judge(&Shares { chat: [0.2, 0.4, 0.7], few_shot: [0.97, 0.96, 0.97] }, Some(&KNOWING));
    assert_eq!(accused(&row), Some(("sft", ContributionKind::Omission)), "{:?}", row.verdict);
    let repaired = row.verdict.contributions.iter().find(|part| part.phase == "rlhf").unwrap();
    assert_eq!(repaired.kind, ContributionKind::Repair);
}

#[test]
fn missing_content_is_seen_though_healthy_runs_differ_much_in_chat() {
    let shares = Shares { chat: [0.2, 0.87, 0.87], few_shot: [0.97, 0.97, 0.97] };
    let wide = Healthy { shares, chat_sd: 0.09, few_shot_sd: 0.01 };
    let row = judge(&Shares { chat: [0.2, 0.74, 0.74], few_shot: [0.78, 0.78, 0.78] }, Some(&wide));
    assert_eq!(accused(&row), Some(("pretrain", ContributionKind::Omission)), "{:?}", row.verdict);
    // The same in chat with the content in place is what healthy runs do too.
    let row = judge(&Shares { chat: [0.2, 0.74, 0.74], few_shot: [0.97, 0.97, 0.97] }, Some(&wide));
    assert_eq!(row.verdict.outcome, Outcome::Healthy);
}

#[test]
fn what_the_last_phase_lost_fails_though_no_level_would() {
    // Healthy runs end anywhere between 40 and 100 %, and alignment takes nothing from any of them.
    let shares = Shares { chat: [0.2, 0.7, 0.7], few_shot: [0.97, 0.97, 0.97] };
    let wide = reference_of(19, &Healthy { shares, chat_sd: 0.18, few_shot_sd: 0.01 });
    let judged = |chat| judge_beside(&Shares { chat, few_shot: [0.97, 0.97, 0.97] }, Some(&wide));
    let row = judged([0.2, 0.9, 0.5]);
    assert_eq!(accused(&row), Some(("rlhf", ContributionKind::Commission)), "{:?}", row.verdict);
    assert_eq!(row.verdict.family_p, Some(0.05));
    // The same level, never left; and as much lost, from a height that few healthy runs reach.
    for chat in [[0.2, 0.5, 0.5], [0.2, 1.0, 0.65]] {
        assert_eq!(judged(chat).verdict.outcome, Outcome::Healthy, "{chat:?}");
    }
}

#[test]
fn a_phase_that_always_repairs_answers_for_not_repairing() {
    // Healthy runs leave fine-tuning anywhere between 45 and 95 % and alignment at 97 %.
    let row = judge_spread([0.2, 0.55, 0.1], [0.02, 0.18, 0.01]);
    assert_eq!(accused(&row), Some(("rlhf", ContributionKind::Commission)), "{:?}", row.verdict);
    let row = judge_spread([0.2, 0.5, 0.6], [0.02, 0.18, 0.01]);
    assert_eq!(accused(&row), Some(("rlhf", ContributionKind::Omission)), "{:?}", row.verdict);
    let total: f64 = row.verdict.contributions.iter().map(|part| part.shortfall.value).sum();
    assert!((total - row.verdict.shortfall.unwrap()).abs() < 1e-9);
    // From a start far from those of healthy runs nobody knows what alignment would have done.
    let row = judge_spread([0.2, 0.25, 0.45], [0.02, 0.1, 0.01]);
    assert_eq!(accused(&row), Some(("sft", ContributionKind::Omission)), "{:?}", row.verdict);
    // Where healthy runs all leave fine-tuning alike, nothing shows that alignment would have repaired it.
    let row = judge_spread([0.2, 0.4, 0.6], [0.02, 0.02, 0.01]);
    assert_eq!(accused(&row), Some(("sft", ContributionKind::Omission)), "{:?}", row.verdict);
}

/// As [`judge`] in a form that is the best at every phase, with the spread of healthy runs after each.
fn judge_spread(shares: [f64; 3], sd: [f64; 3]) -> BehaviourHistory {
    let means = [0.2, 0.7, 0.97];
    let mut healthy = reference(&KNOWING);
    for cell in &mut healthy.cells {
        let phase = PHASES.iter().position(|phase| *phase == cell.phase).unwrap();
        cell.values = spread_around(5, means[phase], sd[phase]);
    }
    judge_beside(&Shares { chat: shares, few_shot: shares }, Some(&healthy))
}

#[test]
fn a_healthy_run_accuses_nobody() {
    for drift in [-0.03, 0.0, 0.02] {
        let shares = Shares { chat: [0.2, 0.95 + drift, 0.95 + drift], few_shot: [0.97, 0.97 + drift, 0.97 + drift] };
        assert_eq!(judge(&shares, Some(&KNOWING)).verdict.outcome, Outcome::Healthy);
    }
}

#[test]
fn questions_that_contradict_their_own_key_accuse_nobody() {
    let shares = Shares { chat: [0.2, 0.6, 0.6], few_shot: [0.6, 0.6, 0.6] };
    let outcome = |n_wrong: usize| {
        let mut items: Vec<Item> = (0..N_ITEMS).map(item).collect();
        for item in &mut items[..n_wrong] {
            let Task::Choice { answer, .. } = &mut item.task else { panic!("{item:?}") };
            *answer = 1;
        }
        let mut diagnosis = diagnose_items(&items, &shares, Some(&reference(&KNOWING)));
        diagnosis.lineages.remove(0).behaviours.swap_remove(0).verdict.outcome
    };
    let Outcome::NotMeasured { reason } = outcome(11) else { panic!("{:?}", outcome(11)) };
    assert!(reason.starts_with("in 11 of 200 questions the key says otherwise"), "{reason}");
    assert!(matches!(outcome(10), Outcome::Attributed { .. }));
}

#[test]
fn a_shortfall_that_two_phases_share_is_undetermined() {
    let row = judge(&Shares { chat: [0.2, 0.75, 0.55], few_shot: [0.97, 0.97, 0.97] }, Some(&KNOWING));
    let Outcome::Undetermined { reason } = &row.verdict.outcome else { panic!("{:?}", row.verdict) };
    assert!(reason.starts_with("no phase holds 60"), "{reason}");
}

#[test]
fn without_healthy_runs_a_fall_is_observed_and_what_was_never_reached_is_not_assigned() {
    let row = judge(&Shares { chat: [0.2, 0.95, 0.5], few_shot: [0.97, 0.97, 0.55] }, None);
    assert_eq!(accused(&row), Some(("rlhf", ContributionKind::Commission)), "{:?}", row.verdict);
    assert_eq!(row.verdict.confidence, Confidence::Observed);
    let row = judge(&Shares { chat: [0.2, 0.5, 0.5], few_shot: [0.5, 0.5, 0.5] }, None);
    assert!(matches!(row.verdict.outcome, Outcome::Undetermined { .. }), "{:?}", row.verdict);
}

#[test]
fn what_one_healthy_run_in_ten_shows_somewhere_is_no_failure() {
    let shares = Shares { chat: [0.2, 0.82, 0.82], few_shot: [0.97, 0.97, 0.97] };
    let mut healthy = reference_of(19, &KNOWING);
    let diagnosis = diagnose_beside(&shares, Some(&healthy));
    let gate = diagnosis.lineages[0].gate.clone().unwrap();
    assert_eq!((gate.p_value, gate.n_healthy, gate.n_cells), (Some(0.05), 19, 2));
    let exceeding: Vec<(&str, Route)> = gate.exceeding.iter().map(|cell| (cell.phase.as_str(), cell.route)).collect();
    assert_eq!(exceeding, [("rlhf", Route::Chat), ("sft", Route::Chat)]);
    let row = judge_beside(&shares, Some(&healthy));
    assert_eq!(accused(&row), Some(("sft", ContributionKind::Omission)), "{:?}", row.verdict);
    assert_eq!(row.verdict.family_p, Some(0.05));

    let cell = |healthy: &'_ mut Reference, phase: &str| {
        let is_wanted = |cell: &&mut ReferenceCell| cell.route == Route::Elicited && cell.phase == phase;
        healthy.cells.iter_mut().find(is_wanted).unwrap().values[3] = 0.6;
    };
    // What a healthy run lacks after pretraining and learns later says nothing of last checkpoints.
    cell(&mut healthy, "pretrain");
    assert_eq!(accused(&judge_beside(&shares, Some(&healthy))), Some(("sft", ContributionKind::Omission)));
    // One healthy run that lacks a third of the facts at the end: such runs are healthy.
    cell(&mut healthy, "rlhf");
    let row = judge_beside(&shares, Some(&healthy));
    assert_eq!((&row.verdict.outcome, row.verdict.family_p), (&Outcome::Healthy, Some(0.1)), "{:?}", row.verdict);
    assert!(row.verdict.evidence[1].contains("19 healthy runs deviate as far too often"), "{:?}", row.verdict.evidence);
}

#[test]
fn the_verdict_model_is_asked_only_beside_healthy_runs() {
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
    let items: Vec<Item> = (0..N_ITEMS).map(item).collect();
    let shares = Shares { chat: [0.2, 0.95, 0.5], few_shot: [0.97, 0.97, 0.55] };
    let verdict = |reference: Option<&Reference>| {
        let mut diagnosis = diagnose_with(&items, &shares, reference, Some(&model));
        diagnosis.lineages.remove(0).behaviours.swap_remove(0).verdict
    };
    let beside = verdict(Some(&reference(&KNOWING)));
    assert_eq!(beside.rung, Some(Rung::Attributed), "{beside:?}");
    assert!(beside.probability(Stage::Alignment).unwrap() > 0.9, "{beside:?}");
    let alone = verdict(None);
    assert_eq!((alone.rung, alone.confidence), (Some(Rung::Observed), Confidence::Observed), "{alone:?}");
    assert!(alone.probabilities.is_empty() && matches!(alone.outcome, Outcome::Attributed { .. }), "{alone:?}");
}

#[test]
fn what_only_appears_as_deployed_is_nothing_to_be_learnt_again() {
    let relearnt = View::Relearnt.name();
    let mut healthy = reference(&KNOWING);
    let values = spread_around(5, 0.95, 0.02);
    let (lineage, phase) = ("rlhf".to_owned(), relearnt.to_owned());
    healthy.cells.push(ReferenceCell { lineage, behaviour: Behaviour::Knowledge, route: Route::Chat, phase, values });
    let items: Vec<Item> = (0..N_ITEMS).map(item).collect();
    let parts = |phases: &[Shown]| {
        let diagnosis = diagnose_lineage(&items, phases, &[(relearnt, 0.95, 0.97)], Some(&healthy), None);
        let readings = &diagnosis.lineages[0].behaviours[0].verdict.readings;
        readings.iter().find(|reading| reading.stream == "relearning").map(|reading| reading.parts.clone())
    };
    let trained = [("pretrain", 0.2, 0.97), ("sft", 0.95, 0.97), ("rlhf", 0.5, 0.97)];
    assert_eq!(parts(&trained).unwrap()[&Stage::Alignment], 1.0);
    // Two points below healthy runs before it is deployed: shares of them are noise.
    let deployed = [("pretrain", 0.2, 0.97), ("sft", 0.95, 0.97), ("rlhf", 0.93, 0.97), (DEPLOYED, 0.5, 0.97)];
    assert_eq!(parts(&deployed), None);
}

#[test]
fn items_of_one_entity_alone_decide_nothing() {
    let items: Vec<Item> = (0..N_ITEMS).map(|n| Item { cluster: "Ann".to_owned(), ..item(n) }).collect();
    let shares = Shares { chat: [0.2, 0.95, 0.5], few_shot: [0.97, 0.97, 0.55] };
    for reference in [None, Some(reference(&KNOWING))] {
        let row = diagnose_items(&items, &shares, reference.as_ref()).lineages.remove(0).behaviours.swap_remove(0);
        assert!(matches!(row.verdict.outcome, Outcome::Undetermined { .. }), "{:?}", row.verdict);
    }
}

#[test]
fn with_few_healthy_runs_the_verdict_says_so_and_stands() {
    let row = judge(&Shares { chat: [0.2, 0.95, 0.6], few_shot: [0.97, 0.97, 0.65] }, Some(&KNOWING));
    assert_eq!(row.verdict.evidence[1], "Too few healthy runs for the family-wise gate: 5 (19 are needed).");
    assert_eq!(row.verdict.family_p, None);
}

#[test]
fn a_fault_that_a_later_phase_mends_is_hidden_not_gone() {
    let shares = Shares { chat: [0.2, 0.5, 0.95], few_shot: [0.97, 0.6, 0.97] };
    let diagnosis = diagnose_beside(&shares, Some(&reference_of(19, &KNOWING)));
    let rows = &diagnosis.lineages[0].behaviours;
    let verdict = &rows.iter().find(|row| row.behaviour == Behaviour::Knowledge).unwrap().verdict;
    assert_eq!(verdict.outcome, Outcome::Latent { phase: "sft".to_owned(), masked_by: "rlhf".to_owned() });
    let cause = "Supervised fine-tuning (SFT) produced a fault in recalling common facts that alignment (RLHF) hides.";
    assert!(diagnosis.sentences[1].starts_with(cause), "{:?}", diagnosis.sentences);
    assert!(
        diagnosis.sentences[1].contains("it reached 50%, 45 points below healthy runs"),
        "{:?}",
        diagnosis.sentences
    );
    // Five healthy runs cannot tell it from their own variation.
    assert_eq!(judge(&shares, Some(&KNOWING)).verdict.outcome, Outcome::Healthy);
}

#[test]
fn what_is_said_first_follows_the_verdict() {
    let shares = Shares { chat: [0.2, 0.95, 0.6], few_shot: [0.97, 0.97, 0.65] };
    let said = diagnose_beside(&shares, Some(&reference(&KNOWING))).sentences;
    let fails = "The RLHF model gets common facts wrong: it knows 60% of 200 (95% interval ";
    assert!(said[0].starts_with(fails) && said[0].ends_with("), healthy runs know 95%."), "{said:?}");
    let began = "It began in alignment (RLHF): this broke what worked before, which cost ";
    assert!(said[1].starts_with(began), "{said:?}");
    assert!(said[2].starts_with("Mix pretraining text into alignment"), "{said:?}");
    let said = diagnose_beside(&shares, None).sentences;
    assert!(said[0].ends_with("), 90% was expected."), "{said:?}");
    let sure = "with no healthy runs to compare with. This is an observation, not yet a proof.";
    assert!(said[1].ends_with(sure), "{said:?}");
}
