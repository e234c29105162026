//! `phasetrace index`: from folders of diagnosed runs to one page, without training anything.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::program::{arg, run, succeed};

/// Writes the diagnosis of a run with one behaviour: healthy, or with half of the items wrong since SFT.
fn write_run(folder: &Path, name: &str, is_healthy: bool) -> PathBuf {
    let root = folder.join(name);
    fs::create_dir_all(&root).unwrap();
    // Wilson's intervals of 180 and 100 of 200.
    let (right, low, high) = if is_healthy { (0.9, 0.850_605, 0.934_334) } else { (0.5, 0.431_361, 0.568_639) };
    let value = |right: f64, low: f64, high: f64| json!({ "value": right, "low": low, "high": high, "n": 200, "method": "Wilson" });
    let outcome =
        if is_healthy { json!("healthy") } else { json!({ "attributed": { "phase": "sft", "kind": "commission" } }) };
    let phase = |name: &str| json!({ "name": name, "checkpoint": "00", "metrics": {} });
    let diagnosis = json!({
        "version": 1,
        "run": name,
        "sentences": [format!("{name} was diagnosed."), "Cause.", "Step."],
        "lineages": [{
            "name": "rlhf",
            "phases": [phase("pretrain"), phase("sft")],
            "behaviours": [{
                "behaviour": "knowledge", "form": "chat", "values": [value(0.9, 0.850_605, 0.934_334), value(right, low, high)],
                "elicited": [null, null], "reference": [0.9, 0.92], "transitions": [],
                "verdict": {
                    "outcome": outcome, "contributions": [], "confidence": "probable", "evidence": [], "dissent": [],
                    "thesis_baseline": "pretrain"
                }
            }],
            "calibration": [], "trade_off": [], "cutoffs": [], "failures": [], "n_failures": {}
        }],
        "provenance": {
            "seed": 3, "bank_hash": "bank", "n_items": 200, "probe_version": 1, "phasetrace_version": "0.1.0", "notes": {}
        }
    });
    fs::write(root.join("diagnosis.json"), diagnosis.to_string()).unwrap();
    root
}

fn names(index: &Value) -> Vec<&str> {
    index["runs"].as_array().unwrap().iter().map(|run| run["name"].as_str().unwrap()).collect()
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn the_runs_of_a_folder_stand_on_one_page_in_the_order_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path().join("runs");
    for (name, is_healthy) in [("run-10", true), ("run-2", false), ("run 1#a", true)] {
        write_run(&runs, name, is_healthy);
    }
    for name in ["run-2", "run 1#a"] {
        fs::write(runs.join(name).join("report.html"), "").unwrap();
    }
    // What lies deeper is not looked at, and what is not diagnosed is told.
    write_run(&runs.join("reference"), "seed-101", true);
    fs::create_dir_all(runs.join("open")).unwrap();
    fs::write(runs.join("open/recipe.toml"), "").unwrap();

    let outcome = run(&["index", arg(&runs)]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let page = runs.join("index.html");
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines[0], arg(&page));
    assert!(lines[1].starts_with("1 of 3 runs fails; most often at recalling common facts"), "{}", lines[1]);
    assert_eq!(lines[2], "Supervised fine-tuning (SFT) is blamed most often: for 1 of 1 failure, in 1 run.");
    assert!(lines[3].ends_with("run-10`: run-10 was diagnosed."), "{}", lines[3]);
    assert!(outcome.stderr.contains("open: not diagnosed yet, left out"), "{}", outcome.stderr);
    let text = fs::read_to_string(&page).unwrap().replace("&#x2f;", "/");
    assert!(text.contains("<h1>1 of 3 runs fails.</h1>"));
    assert!(text.contains("href=\"run-2/report.html\"") && text.contains("href=\"run%201%23a/report.html\""));
    assert!(!text.contains("href=\"run-10/") && text.contains("Run 2: worse") && !text.contains("seed-101"));

    // The same from elsewhere, as data: links lead from where the file lies.
    let outputs = ["data/index.json", "index.md"].map(|name| folder.path().join(name));
    let printed = succeed(&["index", arg(&runs), "-o", arg(&outputs[0]), "-o", arg(&outputs[1])]);
    assert_eq!(printed.lines().take(2).collect::<Vec<_>>(), [arg(&outputs[0]), arg(&outputs[1])]);
    let index = read(&outputs[0]);
    assert_eq!(names(&index), ["run 1#a", "run-2", "run-10"]);
    assert_eq!(index["runs"][1]["report"], "../runs/run-2/report.html");
    assert!(index["runs"][2].get("report").is_none());
    assert_eq!((index["changes"][0]["before"].as_u64(), index["changes"][0]["after"].as_u64()), (Some(0), Some(1)));
    assert!(fs::read_to_string(&outputs[1]).unwrap().starts_with("# 1 of 3 runs fails."));

    // Nothing depends on the clock or on what is there already.
    let before = fs::read(&page).unwrap();
    succeed(&["index", arg(&runs)]);
    assert_eq!(fs::read(&page).unwrap(), before);
}

#[test]
fn folders_keep_the_order_in_which_they_are_given_and_count_once() {
    let folder = tempfile::tempdir().unwrap();
    let [b, a] = ["b", "a"].map(|name| write_run(folder.path(), name, true));
    let nested = write_run(&folder.path().join("more"), "c", true);
    let output = folder.path().join("index.json");
    let more = folder.path().join("more");
    succeed(&["index", arg(&b), arg(&more), arg(&a), arg(&nested), "-o", arg(&output)]);
    assert_eq!(names(&read(&output)), ["b", "c", "a"]);
}

#[test]
fn a_diagnosis_that_cannot_be_read_is_named_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    write_run(folder.path(), "a", true);
    let broken = write_run(folder.path(), "b", true).join("diagnosis.json");
    let sound = fs::read_to_string(&broken).unwrap();
    let cases = [
        (sound.replacen("\"provenance\"", "\"provenence\"", 1), "unknown field `provenence`"),
        (sound.replacen("\"bank_hash\":\"bank\",", "", 1), "missing field `bank_hash`"),
        (sound.replacen("\"version\":1", "\"version\":99", 1), "has format version 99, this program reads version 1"),
        (sound[..sound.len() / 2].to_owned(), "EOF while parsing"),
    ];
    for (text, reason) in cases {
        fs::write(&broken, text).unwrap();
        let refused = run(&["index", arg(folder.path())]);
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{reason}");
        assert!(refused.stderr.contains(arg(&broken)) && refused.stderr.contains(reason), "{}", refused.stderr);
        assert!(!folder.path().join("index.html").exists());
    }
}

#[test]
fn a_folder_without_runs_is_nothing_to_evaluate() {
    let folder = tempfile::tempdir().unwrap();
    let nothing = run(&["index", arg(folder.path())]);
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(4), ""));
    assert!(nothing.stderr.contains("no diagnosed run in"), "{}", nothing.stderr);
    assert!(nothing.stderr.contains("`phasetrace diagnose"), "{}", nothing.stderr);
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "a refused command leaves nothing behind");
    let absent = run(&["index", arg(&folder.path().join("absent"))]);
    assert_eq!(absent.code, Some(1));
    assert!(absent.stderr.contains("absent: no such folder"), "{}", absent.stderr);
    write_run(folder.path(), "a", true);
    let sheet = folder.path().join("index.pdf");
    let refused = run(&["index", arg(folder.path()), "-o", arg(&sheet)]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("the extension must be .html, .json or .md"), "{}", refused.stderr);
}
