//! `phasetrace compare`: a sweep shares what its settings have in common, survives `kill -9`, and says which setting does what.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::interrupt::kill_after;
use crate::program::{RECIPE, arg, phasetrace, run, succeed};

const SWEEP: &str = "
[[sweep]]
alignment = [[\"rlhf\"]]
rlhf.kl = [0.1, 0.4]

[[sweep]]
alignment = [[\"dpo\"]]
dpo.steps = [4]
";

/// The recipe of all tests with a sweep of three settings.
fn write_sweep(folder: &Path) -> PathBuf {
    let path = folder.join("sweep.toml");
    fs::write(&path, fs::read_to_string(RECIPE).unwrap() + SWEEP).unwrap();
    path
}

/// The record without the seconds of training, which are the clock's.
fn record(folder: &Path) -> Value {
    let mut record: Value = serde_json::from_str(&fs::read_to_string(folder.join("comparison.json")).unwrap()).unwrap();
    for setting in record["settings"].as_array_mut().unwrap() {
        setting["train_s"] = Value::Null;
    }
    record
}

#[test]
fn a_sweep_trains_what_settings_share_once_and_ends_alike_after_kills() {
    let folder = tempfile::tempdir().unwrap();
    let sweep = write_sweep(folder.path());
    let whole = folder.path().join("whole");
    let args = |dir: &'_ Path| -> Vec<String> {
        ["compare", arg(dir), "--recipe", arg(&sweep), "--seeds", "3"].map(str::to_owned).to_vec()
    };
    let start = |dir: &Path| phasetrace(&args(dir).iter().map(String::as_str).collect::<Vec<_>>());
    let outcome = run(&args(&whole).iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    for (phase, times) in [("pretrain", 1), ("sft", 1), ("reward", 1), ("rlhf", 2), ("dpo", 1)] {
        let trained = outcome.stderr.lines().filter(|l| l.trim_start().starts_with(phase) && l.contains(" steps in "));
        assert_eq!(trained.count(), times, "{phase}: {}", outcome.stderr);
    }
    let found = record(&whole);
    let names: Vec<&str> =
        found["settings"].as_array().unwrap().iter().map(|setting| setting["name"].as_str().unwrap()).collect();
    let expected = [
        "before alignment",
        "rlhf: kl 0.1",
        "rlhf: kl 0.4",
        "dpo",
        "rlhf: kl 0.4 by mixed predictions",
        "rlhf: kl 0.4 by mixed weights",
    ];
    assert_eq!(names, expected);
    assert_eq!(found["trust"].as_array().unwrap().len(), 2);
    assert_eq!(outcome.stdout.lines().count(), 4, "the report's place and three sentences: {}", outcome.stdout);
    assert!(fs::read_to_string(whole.join("compare.html")).unwrap().contains("rlhf: kl 0.4"));

    let disturbed = folder.path().join("disturbed");
    for wait in [1500, 3000, 5000, 700] {
        kill_after(start(&disturbed), Duration::from_millis(wait));
    }
    let last = start(&disturbed).output().unwrap();
    assert_eq!(last.status.code(), Some(0), "{}", String::from_utf8_lossy(&last.stderr));
    // The folder's own name is part of the record.
    let mut again = record(&disturbed);
    again["name"] = found["name"].clone();
    assert_eq!(again, found);
    // Asked and trained already: nothing is done again.
    let second = run(&args(&whole).iter().map(String::as_str).collect::<Vec<_>>());
    assert!(!second.stderr.contains(" steps in ") && !second.stderr.contains(" asked, "), "{}", second.stderr);
    assert_eq!(second.stdout, outcome.stdout);
}

#[test]
fn runs_that_are_there_are_compared_and_others_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out/compare.md");
    let trained = arg(crate::program::trained());
    let printed = succeed(&["compare", trained, "--no-explore", "-o", arg(&output)]);
    assert!(printed.starts_with(arg(&output)), "{printed}");
    let text = fs::read_to_string(&output).unwrap();
    assert!(text.contains("rlhf") && text.contains("constitutional"), "{text}");
    let missing = folder.path().join("nowhere");
    let refused = run(&["compare", arg(&missing)]);
    assert!(refused.code == Some(1) && refused.stderr.contains("no run; `phasetrace train"), "{refused:?}");
    let nothing = run(&["compare"]);
    assert!(nothing.code == Some(2) && nothing.stderr.contains("give runs to compare"), "{nothing:?}");
    let sweep = write_sweep(folder.path());
    let listed = succeed(&["compare", "--recipe", arg(&sweep), "--seeds", "3,4", "--dry-run"]);
    assert_eq!(listed.lines().count(), 6, "{listed}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "a plan and a refusal leave nothing behind");
}
