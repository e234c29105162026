//! `kill -9` at random moments: started again, the program ends with the same bytes and asks nothing twice.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use evals::store::{Store, StoreKey};
use lm::{LoadedModel, Subject};
use probes::PROBE_VERSION;
use probes::bank::Bank;
use rand::Rng;

use crate::program::{ASKED, Outcome, RECIPE, arg, files, phasetrace};

const KILLS_IN_TRAINING: usize = 6;
const KILLS_IN_PROBING: usize = 4;

/// Starts the program and kills it after some time; `None` where it was faster and succeeded.
pub(crate) fn kill_after(mut command: Command, wait: Duration) -> Option<Outcome> {
    let mut child = command.spawn().unwrap();
    std::thread::sleep(wait);
    let is_running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    let outcome = Outcome::from(child.wait_with_output().unwrap());
    if is_running && outcome.code.is_none() {
        return Some(outcome);
    }
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    None
}

fn train(run: &Path) -> Command {
    phasetrace(&["train", arg(run), "--recipe", RECIPE])
}

fn probe(run: &Path) -> Command {
    phasetrace(&["probe", arg(run), "--limit", "20"])
}

/// Runs a command to its end and says how long it took.
fn time(mut command: Command) -> Duration {
    let start = Instant::now();
    let outcome = Outcome::from(command.output().unwrap());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    start.elapsed()
}

/// What a run ends with: everything but logs and intermediate checkpoints.
fn artifacts(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = files(run);
    found.retain(|name, _| !name.starts_with("logs/") && !name.starts_with("steps/"));
    found
}

/// Number of answers on disk per checkpoint.
fn count_answers(run: &Path) -> BTreeMap<&'static str, usize> {
    let bank = Bank::load(&run.join("data/bank.jsonl")).unwrap();
    let store = Store::open(run, StoreKey { bank_hash: bank.hash, probe_version: PROBE_VERSION }).unwrap();
    let count = |phase: &&'static str| {
        let model = LoadedModel::load(&run.join("checkpoints").join(phase)).unwrap();
        (*phase, store.known(model.fingerprint()).len())
    };
    ASKED.iter().map(count).collect()
}

/// The numbers that probing announced per checkpoint: `ask sft: 120 open, 64 kept`.
fn announced(stderr: &str) -> BTreeMap<String, (usize, usize)> {
    let parse = |line: &str| {
        let (name, counts) = line.strip_prefix("ask ")?.split_once(": ")?;
        let (open, kept) = counts.strip_suffix(" kept")?.split_once(" open, ")?;
        Some((name.to_owned(), (open.parse().ok()?, kept.parse().ok()?)))
    };
    stderr.lines().filter_map(parse).collect()
}

/// What is on disk is not asked again: what is kept is what was there, and only the rest is open.
fn check_announced(stderr: &str, before: &BTreeMap<&str, usize>, n_questions: &BTreeMap<&str, usize>) {
    for (name, (open, kept)) in announced(stderr) {
        assert_eq!(kept, before[name.as_str()], "{name}: {stderr}");
        assert_eq!(open + kept, n_questions[name.as_str()], "{name}: {stderr}");
    }
}

#[test]
fn a_killed_run_ends_with_the_same_bytes_and_asks_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let undisturbed = folder.path().join("undisturbed");
    let (train_time, probe_time) = (time(train(&undisturbed)), time(probe(&undisturbed)));
    let (expected, n_questions) = (artifacts(&undisturbed), count_answers(&undisturbed));
    assert!(n_questions.values().all(|&n| n > 100), "{n_questions:?}");

    let mut stream = lm::random::stream(7, "kills", 0);
    let (mut in_training, mut in_probing) = (0, 0);
    let mut round = 0;
    while in_training < KILLS_IN_TRAINING || in_probing < KILLS_IN_PROBING {
        round += 1;
        let run = folder.path().join(format!("run-{round}"));
        while in_training < KILLS_IN_TRAINING {
            if kill_after(train(&run), train_time.mul_f64(stream.random_range(0.0..0.4))).is_none() {
                break;
            }
            in_training += 1;
        }
        time(train(&run));
        while in_probing < KILLS_IN_PROBING {
            let before = count_answers(&run);
            let Some(killed) = kill_after(probe(&run), probe_time.mul_f64(stream.random_range(0.0..0.6))) else {
                break;
            };
            in_probing += 1;
            check_announced(&killed.stderr, &before, &n_questions);
        }
        let before = count_answers(&run);
        let last = Outcome::from(probe(&run).output().unwrap());
        check_announced(&last.stderr, &before, &n_questions);
        assert_eq!(announced(&last.stderr).len(), ASKED.len(), "{}", last.stderr);

        let found = artifacts(&run);
        let differing: Vec<&String> =
            expected.keys().chain(found.keys()).filter(|name| expected.get(*name) != found.get(*name)).collect();
        assert!(differing.is_empty(), "after {in_training} and {in_probing} kills: {differing:?}");
    }
}
