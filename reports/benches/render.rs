//! Time to render a report and the size of its page: 500 failing items; 50,000 items at 8 checkpoints with the failures that
//! `diagnose` keeps; and the same where every one of 14,000 failures is in the diagnosis.
//!
//! With `PHASETRACE_PAGES` set to a folder that exists the pages are written there, so that a browser can tell its time to first paint:
//!
//! ```text
//! PHASETRACE_PAGES=/tmp cargo bench --workspace --bench render
//! ```

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use evals::diagnosis::{BehaviourHistory, Diagnosis, FailureCase, PhaseAnswer};
use probes::item::Behaviour;

#[expect(dead_code, reason = "the healthy sample is not measured")]
#[path = "../tests/sample/mod.rs"]
mod sample;

const PHASES: [&str; 8] = ["pretrain", "midtrain", "sft", "sft-long", "sl-cai", "rl-cai", "dpo", "rlhf"];
const N_ITEMS: usize = 50_000;
/// Failing items of each behaviour that `diagnose` keeps.
const KEPT: usize = 25;
/// Failing items of each behaviour in all.
const FAILING: usize = 2_000;
/// What a page of 50,000 items and 8 checkpoints may have, bytes.
const MOST_BYTES: usize = 15_000_000;

fn render(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cpu/render");
    let pages = [
        ("500_failures", 500, repeated(500)),
        ("50000_items_8_checkpoints", N_ITEMS, large(KEPT)),
        ("50000_items_8_checkpoints_14000_failures", N_ITEMS, large(FAILING)),
    ];
    for (name, n, diagnosis) in &pages {
        let page = reports::render_html(diagnosis).unwrap();
        eprintln!("{name}: a page of {:.2} MB", page.len() as f64 / 1e6);
        if let Some(folder) = std::env::var_os("PHASETRACE_PAGES") {
            std::fs::write(Path::new(&folder).join(format!("{name}.html")), &page).unwrap();
        }
        assert!(page.len() <= MOST_BYTES, "{name}: {} bytes, at most {MOST_BYTES} are wanted", page.len());
        group.throughput(Throughput::Elements(*n as u64));
        group.sample_size(if page.len() > 1_000_000 { 10 } else { 100 });
        group.bench_function(*name, |bencher| bencher.iter(|| reports::render_html(black_box(diagnosis)).unwrap()));
    }
    group.finish();
}

/// The failing sample with its failing items again and again.
fn repeated(n_failures: usize) -> Diagnosis {
    let mut diagnosis = sample::failing();
    let cases = &mut diagnosis.lineages[0].failures;
    *cases = cases.iter().cloned().cycle().take(n_failures).collect();
    diagnosis
}

/// One lineage of eight checkpoints in which every behaviour fails, with this many failing items of each.
fn large(n_kept: usize) -> Diagnosis {
    let mut diagnosis = sample::failing();
    let mut lineage = diagnosis.lineages.remove(1);
    let failing = |row: &&BehaviourHistory| row.behaviour == Behaviour::SystemPrompt;
    let verdict = lineage.behaviours.iter().find(failing).unwrap().verdict.clone();
    lineage.phases = spread(&lineage.phases);
    lineage.calibration = spread(&lineage.calibration);
    lineage.trade_off = spread(&lineage.trade_off);
    lineage.cutoffs = spread(&lineage.cutoffs);
    for (at, name) in PHASES.iter().enumerate() {
        let name = || (*name).to_owned();
        lineage.phases[at].name = name();
        lineage.calibration[at].phase = name();
        lineage.trade_off[at].phase = name();
        lineage.cutoffs[at].phase = name();
    }
    for row in &mut lineage.behaviours {
        row.values = spread(&row.values);
        row.elicited = spread(&row.elicited);
        row.reference = spread(&row.reference);
        for value in row.values.iter_mut().chain(&mut row.elicited).flatten() {
            value.n = N_ITEMS / Behaviour::ALL.len();
        }
        row.transitions = spread(&row.transitions).split_off(1);
        for (transition, name) in row.transitions.iter_mut().zip(&PHASES[1..]) {
            transition.phase = (*name).into();
        }
        row.verdict = verdict.clone();
        row.verdict.contributions = spread(&row.verdict.contributions);
        for (part, name) in row.verdict.contributions.iter_mut().zip(PHASES) {
            part.phase = (*name).into();
        }
    }
    lineage.failures = Behaviour::ALL
        .iter()
        .flat_map(|&behaviour| (0..n_kept).map(move |number| failure(behaviour, number)))
        .collect();
    lineage.n_failures = BTreeMap::from(Behaviour::ALL.map(|behaviour| (behaviour, FAILING)));
    diagnosis.lineages = vec![lineage];
    diagnosis.provenance.n_items = N_ITEMS;
    diagnosis
}

/// As many entries as phases, from fewer.
fn spread<T: Clone>(entries: &[T]) -> Vec<T> {
    (0..PHASES.len()).map(|at| entries[at * entries.len() / PHASES.len()].clone()).collect()
}

/// A failing item with texts of the length that the small world has.
fn failure(behaviour: Behaviour, number: usize) -> FailureCase {
    let is_right = |at: usize| at + 1 < PHASES.len() && (number + at).is_multiple_of(3);
    let answer = |(at, phase): (usize, &&str)| PhaseAnswer {
        phase: (**phase).to_owned(),
        answer: format!("Person {} lives in the town of {}, as far as I know.", number + at, number * at),
        is_right: Some(is_right(at)),
        margin_nats: Some((number % 97) as f64 / 10.0 - at as f64),
    };
    FailureCase {
        item: format!("{}-{number:05}", behaviour.name()),
        behaviour,
        slice: "conflict".to_owned(),
        question: format!(
            "system: Put every answer between << and >>.\nuser: Where does person {number} live? Answer plainly."
        ),
        expected: format!("<<Person {number} lives in the town of Lund.>>"),
        answers: PHASES.iter().enumerate().map(answer).collect(),
        history: (0..PHASES.len()).map(|at| if is_right(at) { '1' } else { '0' }).collect(),
    }
}

criterion_group!(benches, render);
criterion_main!(benches);
