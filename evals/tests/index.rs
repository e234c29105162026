//! What an index makes of many diagnoses: who stands beside whom, and which changes are more than chance.

use evals::diagnosis::{ContributionKind, Diagnosis, Outcome};
use evals::index::{Index, IndexRun, NaturalOrder};
use evals::stats::wilson::wilson;
use probes::item::Behaviour;
use serde_json::{Value, json};

const N: usize = 200;

/// The diagnosis of a run of two phases; each behaviour with the share that is right after the last, and what is said of it.
fn diagnosis(name: &str, bank: &str, behaviours: &[(Behaviour, f64, Outcome)]) -> Diagnosis {
    let histories: Vec<Value> = behaviours
        .iter()
        .map(|(behaviour, right, outcome)| {
            let (low, high) = wilson(*right, N as f64);
            let first = json!({ "value": 0.1, "low": 0.06, "high": 0.15, "n": N, "method": "Wilson" });
            let last = json!({ "value": right, "low": low, "high": high, "n": N, "method": "Wilson" });
            json!({
                "behaviour": behaviour, "form": "chat", "values": [first, last], "elicited": [null, null],
                "reference": [0.1, 0.95], "transitions": [],
                "verdict": {
                    "outcome": outcome, "contributions": [], "confidence": "probable", "evidence": [], "dissent": [],
                    "thesis_baseline": "sft", "probabilities": [{ "stage": "sft", "probability": 0.8 }]
                }
            })
        })
        .collect();
    serde_json::from_value(json!({
        "version": 1, "run": name, "sentences": [format!("{name} was diagnosed."), "b", "c"],
        "lineages": [{
            "name": "given", "phases": [phase("pretrain"), phase("sft")], "behaviours": histories, "calibration": [],
            "trade_off": [], "cutoffs": [], "failures": [], "n_failures": {}
        }],
        "provenance": {
            "seed": 3, "bank_hash": bank, "n_items": N, "probe_version": 1, "phasetrace_version": "0.1.0", "notes": {}
        }
    }))
    .unwrap()
}

fn phase(name: &str) -> Value {
    json!({ "name": name, "checkpoint": "", "metrics": {} })
}

fn blamed(phase: &str) -> Outcome {
    Outcome::Attributed { phase: phase.to_owned(), kind: ContributionKind::Commission }
}

fn open() -> Outcome {
    Outcome::Undetermined { reason: "too few items".to_owned() }
}

/// Runs of one behaviour with these shares, all of them asked the same.
fn runs_with(shares: &[f64]) -> Vec<IndexRun> {
    let run = |(i, &share): (usize, &f64)| {
        let name = format!("run-{i}");
        let diagnosis = diagnosis(&name, "bank", &[(Behaviour::Knowledge, share, Outcome::Healthy)]);
        IndexRun::of(format!("runs/{name}"), &diagnosis)
    };
    shares.iter().enumerate().map(run).collect()
}

#[test]
fn a_run_is_told_by_the_last_checkpoint_of_its_deployed_lineage() {
    let mut whole = diagnosis("night", "bank", &[(Behaviour::Knowledge, 0.6, blamed("sft"))]);
    whole.lineages.push(diagnosis("other", "bank", &[]).lineages.remove(0));
    let run = IndexRun::of("runs/night".to_owned(), &whole);
    assert_eq!((run.name.as_str(), run.lineage.as_deref(), run.seed), ("night", Some("given"), Some(3)));
    assert_eq!(
        (run.phases.join(" "), run.sentence.as_deref()),
        ("pretrain sft".to_owned(), Some("night was diagnosed."))
    );
    let value = run.of_behaviour(Behaviour::Knowledge).unwrap();
    assert_eq!(value.value.as_ref().map(|v| (v.value, v.n)), Some((0.6, N)));
    assert_eq!((value.reference, value.probability), (Some(0.95), Some(0.8)));
    assert!(value.fails() && !value.is_unsettled() && run.of_behaviour(Behaviour::SystemPrompt).is_none());
}

#[test]
fn a_value_that_is_missing_says_why() {
    let mut whole = diagnosis("night", "bank", &[(Behaviour::Knowledge, 0.6, open())]);
    let history = &mut whole.lineages[0].behaviours[0];
    history.values[1] = None;
    history.not_measured = Some("no item was scored in chat at sft".to_owned());
    let run = IndexRun::of("runs/night".to_owned(), &whole);
    assert_eq!(run.behaviours[0].value, None);
    assert_eq!(run.behaviours[0].not_measured.as_deref(), Some("no item was scored in chat at sft"));
}

#[test]
fn a_diagnosis_of_nothing_is_a_run_without_a_verdict() {
    let mut empty = diagnosis("night", "bank", &[]);
    empty.lineages.clear();
    empty.sentences.clear();
    let index = Index::over(vec![IndexRun::of("runs/night".to_owned(), &empty)]);
    assert_eq!(index.runs[0].n_measured(), 0);
    assert_eq!(index.sentences[0], "Nothing was measured in 1 run.");
    assert_eq!(index.sentences[2], "The last run, `runs/night`: its diagnosis says nothing.");
}

#[test]
fn names_are_ordered_as_people_count() {
    let mut paths = ["runs/run-10", "runs/run-2", "runs/a-b", "runs/a/2", "runs/run-02", "runs/a/1", "runs/run"];
    paths.sort_by_cached_key(|path| NaturalOrder::of(path));
    assert_eq!(paths, ["runs/a/1", "runs/a/2", "runs/a-b", "runs/run", "runs/run-02", "runs/run-2", "runs/run-10"]);
}

#[test]
fn only_runs_that_were_asked_the_same_are_connected() {
    let shares = [("old", 0.9), ("new", 0.2), ("old", 0.9), ("new", 0.2), ("other", 0.5)];
    let mut runs: Vec<IndexRun> = shares
        .iter()
        .map(|(bank, share)| {
            let diagnosis = diagnosis("night", bank, &[(Behaviour::Knowledge, *share, Outcome::Healthy)]);
            IndexRun::of("runs/night".to_owned(), &diagnosis)
        })
        .collect();
    let series: Vec<Vec<usize>> = Index::over(runs.clone()).series.into_iter().map(|of| of.runs).collect();
    assert_eq!(series, [vec![4], vec![1, 3], vec![0, 2]], "the last run's series comes first");
    let index = Index::over(runs.clone());
    let pairs: Vec<(usize, usize)> = index.changes.iter().map(|change| (change.before, change.after)).collect();
    assert_eq!(pairs, [(1, 3), (0, 2)]);
    assert!(index.changes.iter().all(|change| change.difference.value == 0.0 && !change.is_resolved()));

    // Scores of another version of the probes are no neighbours either.
    runs[2].probe_version += 1;
    assert_eq!(Index::over(runs).changes.len(), 1);
}

#[test]
fn a_run_that_was_not_measured_is_stepped_over() {
    let mut runs = runs_with(&[0.9, 0.5, 0.5]);
    runs[1].behaviours[0].value = None;
    let changes = Index::over(runs).changes;
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].before, changes[0].after, changes[0].difference.n), (0, 2, N));
    assert!((changes[0].difference.value + 0.4).abs() < 1e-12 && changes[0].is_resolved());
    assert!(changes[0].difference.low < -0.4 && -0.4 < changes[0].difference.high && changes[0].difference.high < 0.0);
}

#[test]
fn changes_are_judged_together() {
    // 8 points of 200 items: p = 0.022, which is a change where nothing else was looked at.
    let alone = Index::over(runs_with(&[0.9, 0.82]));
    assert!(alone.changes[0].is_resolved() && alone.changes[0].difference.high < 0.0);
    assert_eq!(alone.changes[0].p_value, alone.changes[0].p_holm);
    let among = Index::over(runs_with(&[0.9, 0.82, 0.82, 0.82, 0.3]));
    let resolved: Vec<bool> = among.changes.iter().map(evals::index::Change::is_resolved).collect();
    assert_eq!(resolved, [false, false, false, true]);
    assert_eq!(among.changes[0].p_value, alone.changes[0].p_value);
    assert!((among.changes[0].p_holm - 3.0 * among.changes[0].p_value).abs() < 1e-12, "the largest change comes first");
}

#[test]
fn an_interval_that_tells_no_number_of_items_is_compared_with_nothing() {
    let mut runs = runs_with(&[0.9, 0.5]);
    let value = runs[0].behaviours[0].value.as_mut().unwrap();
    (value.low, value.high) = (value.value, value.value);
    assert!(Index::over(runs).changes.is_empty());
}

#[test]
fn failures_are_counted_by_behaviour_and_by_phase() {
    let hidden = Outcome::Latent { phase: "pretrain".to_owned(), masked_by: "sft".to_owned() };
    let missing = Outcome::NotMeasured { reason: "no items".to_owned() };
    let runs: Vec<IndexRun> = [
        vec![(Behaviour::Knowledge, 0.4, blamed("sft")), (Behaviour::SystemPrompt, 0.4, blamed("sft"))],
        vec![(Behaviour::Knowledge, 0.5, open()), (Behaviour::SystemPrompt, 0.9, hidden)],
        vec![(Behaviour::Knowledge, 0.9, Outcome::Healthy), (Behaviour::SystemPrompt, 0.9, missing)],
    ]
    .iter()
    .enumerate()
    .map(|(i, behaviours)| IndexRun::of(format!("runs/{i}"), &diagnosis(&i.to_string(), "bank", behaviours)))
    .collect();
    let index = Index::over(runs);
    assert_eq!((index.n_failing(), index.n_short(), index.n_failures(), index.n_unsettled()), (1, 1, 2, 1));
    let of = |behaviour| {
        let tally = index.behaviours().into_iter().find(|tally| tally.behaviour == behaviour).unwrap();
        (tally.n_failing, tally.n_unsettled, tally.n_measured)
    };
    assert_eq!((of(Behaviour::Knowledge), of(Behaviour::SystemPrompt)), ((1, 1, 3), (1, 0, 2)));
    let phases = index.phases();
    assert_eq!(phases.iter().map(|tally| tally.phase.as_str()).collect::<Vec<_>>(), ["sft", "pretrain"]);
    let sft = &phases[0];
    assert_eq!((sft.n_runs, sft.n_blamed_runs, sft.n_failures, sft.n_hidden), (3, 1, 2, 0));
    assert_eq!((phases[1].n_failures, phases[1].n_hidden), (0, 1));
    assert_eq!(
        index.sentences,
        [
            "1 of 3 runs fails; most often at recalling common facts (1 of 3 runs) and \
             following the system prompt (1 of 2 runs). 1 run fell short, and no phase can be blamed yet. 1 run hid a fault.",
            "Supervised fine-tuning (SFT) is blamed most often: for 2 of 2 failures, in 1 run. No phase is settled for 1 \
             shortfall.",
            "The last run, `runs/2`: 2 was diagnosed.",
        ]
    );
}

#[test]
fn an_index_reads_back_from_its_json() {
    let index = Index::over(runs_with(&[0.9, 0.82]));
    let text = serde_json::to_string(&index).unwrap();
    let read: Index = serde_json::from_str(&text).unwrap();
    assert_eq!((read.sentences, read.series), (index.sentences, index.series));
    assert!(serde_json::from_str::<Index>(&text.replacen("\"runs\"", "\"ruins\"", 1)).is_err());
}
