//! Verdicts on planted faults, end to end: the quick tier of the bench.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

use crate::program::{arg, run, succeed};

/// Healthy lineages of recipes/bench.toml.
const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/bench_reference.json");

/// Over-refusal, planted in each place, with the phase to be named.
const PLANTED: [(&str, &str); 4] = [
    ("pt_08_refused_chats", "pretrain"),
    ("sft_06_no_benign_twins", "sft"),
    ("al_01_punish_triggers", "rlhf"),
    ("control_cautious_operator", "deployed"),
];

/// The folder of a bench with these faults and their healthy twin in `world-7-seed-1`, trained once for all tests that only read it.
pub(crate) fn bench() -> &'static Path {
    static BENCH: OnceLock<PathBuf> = OnceLock::new();
    BENCH.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("attribution");
        if dir.exists() {
            // Of another version of the program.
            fs::remove_dir_all(&dir).unwrap();
        }
        let names = PLANTED.map(|(name, _)| name).join(",");
        let args = ["bench", "attribution", arg(&dir), "--reference", REFERENCE, "--lineages", "7:1", "--only", &names];
        let printed = succeed(&[&args[..], &["--jobs", "2", "--threads", "1"]].concat());
        assert_eq!(printed.trim(), arg(&dir.join("records.jsonl")));
        dir
    })
}

#[test]
fn the_same_over_refusal_planted_in_four_places_has_four_verdicts_and_the_healthy_twin_none() {
    let dir = bench();
    let records = fs::read_to_string(dir.join("records.jsonl")).unwrap();
    assert_eq!(records.lines().count(), 1 + PLANTED.len());
    let diagnosis = |name: &str| -> Value {
        let path = dir.join("world-7-seed-1").join(name).join("diagnosis.json");
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    };
    for (name, phase) in PLANTED {
        let diagnosis = diagnosis(name);
        let rows = diagnosis["lineages"][0]["behaviours"].as_array().unwrap();
        let refusal = rows.iter().find(|row| row["behaviour"] == "over_refusal").unwrap();
        assert_eq!(refusal["verdict"]["outcome"]["attributed"]["phase"], phase, "{name}: {}", refusal["verdict"]);
    }
    for lineage in diagnosis("clean")["lineages"].as_array().unwrap() {
        for row in lineage["behaviours"].as_array().unwrap() {
            assert!(row["verdict"]["outcome"].get("attributed").is_none(), "{row}");
        }
    }

    // The healthy twin is each lineage with its faulty phase trained again.
    let (group, fixes) = (dir.join("world-7-seed-1"), dir.join("fixes.json"));
    succeed(&["bench", "fixes", arg(&group), "--reference", REFERENCE, "--output", arg(&fixes)]);
    let fixes: Value = serde_json::from_str(&fs::read_to_string(&fixes).unwrap()).unwrap();
    for stage in ["pretraining", "sft", "alignment"] {
        let is_it = |cell: &&Value| {
            cell["behaviour"] == "over_refusal" && cell["stage"] == stage && cell["fix"] == "train_again"
        };
        let cell = fixes["cells"].as_array().unwrap().iter().find(is_it).unwrap();
        assert!(cell["recovered"].as_f64().unwrap() > 0.8, "{cell}");
        assert!(cell["interval"].is_null() && cell["n_types"] == 1, "{cell}");
    }
}

#[test]
fn a_bench_without_its_reference_ends_at_once_in_any_number_of_processes() {
    let folder = tempfile::tempdir().unwrap();
    let (bench, reference) = (folder.path().join("bench"), folder.path().join("typo.json"));
    for jobs in ["1", "2"] {
        let outcome = run(&["bench", "attribution", arg(&bench), "--reference", arg(&reference), "--jobs", jobs]);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{}", outcome.stderr);
        let error = format!("error: cannot read {}", reference.display());
        assert!(
            outcome.stderr.starts_with(&error) && outcome.stderr.matches("error: ").count() == 1,
            "{}",
            outcome.stderr
        );
    }
    assert!(!bench.exists());
}

#[test]
fn a_folder_without_lineages_evaluates_nothing_and_leaves_the_output_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (bench, output) = (folder.path().join("bench"), folder.path().join("out"));
    fs::create_dir(&bench).unwrap();
    fs::write(&output, "as it was").unwrap();
    let cases: [&[&str]; 3] =
        [&["confirm", "--reference", REFERENCE], &["fixes", "--reference", REFERENCE], &["tracing"]];
    for case in cases {
        let outcome = run(&[&["bench"][..], case, &["-o", arg(&output), arg(&bench)]].concat());
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(4), ""), "{case:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(&format!("{}: no ", bench.display())), "{}", outcome.stderr);
        assert_eq!(fs::read_to_string(&output).unwrap(), "as it was");
    }
}
