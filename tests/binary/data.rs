//! A run on files of its own: read in the shapes people have, refused with file, line and reason where they do not fit.

use std::fs;
use std::path::{Path, PathBuf};

use crate::program::{RECIPE, arg, run, succeed, trained};

const PAIRS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/evals/tests/data/ultrafeedback_binarized.parquet");
const PRINCIPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/trainer/tests/data/shapes/principles.json");

/// The recipe of all tests with data files, in a folder of its own.
fn write_recipe(folder: &Path, data: &str) -> PathBuf {
    let path = folder.join("recipe.toml");
    fs::write(&path, format!("{}\n[data]\n{data}", fs::read_to_string(RECIPE).unwrap())).unwrap();
    path
}

/// As many Alpaca rows, in one JSON array.
fn alpaca(n: usize) -> String {
    let row =
        |i| format!("  {{\"instruction\": \"Repeat the number.\", \"input\": \"{i}\", \"output\": \"It is {i}.\"}}");
    format!("[\n{}\n]\n", (0..n).map(row).collect::<Vec<_>>().join(",\n"))
}

#[test]
fn a_run_is_trained_on_files_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let corpus: Vec<String> = (0..60).map(|i| format!("The number {i} follows {}.\n<|endoftext|>\n", i - 1)).collect();
    fs::write(folder.path().join("corpus.txt"), corpus.concat()).unwrap();
    fs::write(folder.path().join("sft.json"), alpaca(40)).unwrap();
    fs::write(folder.path().join("prompts.jsonl"), "{\"prompt\": \"Repeat 3.\"}\n{\"prompt\": \"Repeat 4.\"}\n")
        .unwrap();
    let files = format!(
        "corpus = \"corpus.txt\"\nconversations = \"sft.json\"\nprompts = \"prompts.jsonl\"\npreferences = '{PAIRS}'\nconstitution = '{PRINCIPLES}'\n"
    );
    let recipe = write_recipe(folder.path(), &files);
    let run_folder = folder.path().join("run");
    let outcome = run(&["train", arg(&run_folder), "--recipe", arg(&recipe), "--set", "alignment=[\"rlhf\", \"dpo\"]"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    for shape in
        ["of shape text, 60 lines", "of shape Alpaca, 40 lines", "of shape implicit prompt as messages, 3 lines"]
    {
        assert!(outcome.stderr.contains(shape), "{}", outcome.stderr);
    }
    let lineage =
        |phase: &str| fs::read_to_string(run_folder.join("checkpoints").join(phase).join("lineage.json")).unwrap();
    for (phase, name) in
        [("pretrain", "corpus"), ("sft", "sft"), ("reward", "preferences"), ("dpo", "preferences"), ("rlhf", "prompts")]
    {
        let bytes = fs::read(run_folder.join("data").join(name).with_extension("jsonl")).unwrap();
        assert!(lineage(phase).contains(&trainer::data::hash(&bytes)), "{phase} was made of {name}");
    }
    let sft = fs::read_to_string(run_folder.join("data/sft.jsonl")).unwrap();
    assert!(sft.lines().count() == 40 && sft.contains("Repeat the number.\\n\\n7"), "{sft}");
    assert!(fs::read_to_string(run_folder.join("data/constitution.toml")).unwrap().contains("Is it false?"));
    // Started again, with its recipe or without: nothing is left to do.
    succeed(&["train", arg(&run_folder)]);
    fs::write(folder.path().join("sft.json"), alpaca(41)).unwrap();
    let changed = run(&["train", arg(&run_folder)]);
    assert!(changed.code == Some(1) && changed.stderr.contains("sft.json has changed since"), "{}", changed.stderr);
    fs::remove_file(folder.path().join("sft.json")).unwrap();
    succeed(&["train", arg(&run_folder)]);
}

#[test]
fn files_of_a_run_are_taken_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let data = trained().join("data");
    let names = [
        ("corpus", "corpus.jsonl"),
        ("conversations", "sft.jsonl"),
        ("preferences", "preferences.jsonl"),
        ("prompts", "prompts.jsonl"),
        ("constitution", "constitution.toml"),
    ];
    let keys = names.map(|(key, name)| format!("{key} = '{}'\n", data.join(name).display()));
    let recipe = write_recipe(folder.path(), &keys.concat());
    let run_folder = folder.path().join("run");
    succeed(&["train", arg(&run_folder), "--recipe", arg(&recipe), "--until", "pretrain"]);
    for (_, name) in names {
        assert_eq!(fs::read(run_folder.join("data").join(name)).unwrap(), fs::read(data.join(name)).unwrap(), "{name}");
    }
    let weights = |root: &Path| fs::read(root.join("checkpoints/pretrain/model.safetensors")).unwrap();
    assert_eq!(weights(&run_folder), weights(trained()));
}

#[test]
fn hostile_files_are_refused_with_file_and_line_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.jsonl");
    let recipe = write_recipe(folder.path(), "conversations = \"bad.jsonl\"\n");
    let run_folder = folder.path().join("run");
    let good = "{\"prompt\": \"a\", \"completion\": \"b\", \"id\": 1}\n";
    let after = |bytes: &[u8]| [good.as_bytes(), bytes].concat();
    let pairs = fs::read(PAIRS).unwrap();
    for (bytes, reason) in [
        (after(b"{\"prompt\": 7, \"completion\": \"b\"}"), ":2: key `prompt`: expected text, found a number"),
        (after(b"{\"prompt\": \"\xC3\x28\", \"completion\": \"b\"}"), ":2: is not UTF-8 from byte 13 on"),
        (after(format!("{{\"prompt\": \"{}", "x".repeat(17 << 20)).as_bytes()), ":2: is longer than 16 MiB"),
        (after("{\"a\":".repeat(50_000).as_bytes()), ":2: recursion limit exceeded"),
        (after(good.as_bytes()), ":2: key `id`: `1` is the one of line 1 too"),
        (after(b"{\"prompt\": \"a\", "), ":2: EOF while parsing"),
        (after(b"\0\0\0"), ":2: expected value"),
        (Vec::new(), ": holds no conversations"),
        (b"\x1F\x8B\x08\0\0\0".to_vec(), ": is compressed (gzip); decompress it first"),
        (pairs[..pairs.len() - 9].to_vec(), " is not a readable Parquet file: its beginning or end is missing"),
        (b"[{\"prompt\": \"a\"}]".to_vec(), ":1: has the keys `prompt`, which is no shape of conversations"),
    ] {
        fs::write(&file, bytes).unwrap();
        let outcome = run(&["train", arg(&run_folder), "--recipe", arg(&recipe)]);
        assert_eq!(outcome.code, Some(1), "{reason}: {}", outcome.stderr);
        let expected = format!("error: {}{reason}", file.display());
        assert!(outcome.stderr.contains(&expected), "{reason}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains("panicked") && !run_folder.exists(), "{reason}");
    }
    fs::remove_file(&file).unwrap();
    let outcome = run(&["train", arg(&run_folder), "--recipe", arg(&recipe)]);
    assert!(outcome.code == Some(1) && outcome.stderr.contains("bad.jsonl"), "{}", outcome.stderr);
}

#[test]
fn a_damaged_parquet_file_is_refused_whatever_its_reader_does() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("damaged.parquet");
    // Where the damage is in what is not read, the prompts end the run.
    fs::write(folder.path().join("prompts.jsonl"), "{}\n").unwrap();
    let recipe = write_recipe(folder.path(), "preferences = \"damaged.parquet\"\nprompts = \"prompts.jsonl\"\n");
    let run_folder = folder.path().join("run");
    let whole = fs::read(PAIRS).unwrap();
    let mut n_damaged = 0;
    for at in (4..whole.len()).step_by(41) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        fs::write(&file, bytes).unwrap();
        let outcome = run(&["train", arg(&run_folder), "--recipe", arg(&recipe)]);
        assert_eq!(outcome.code, Some(1), "byte {at}: {}", outcome.stderr);
        let is_named = outcome.stderr.contains(&format!("error: {}", file.display()));
        assert!(is_named || outcome.stderr.contains("prompts.jsonl:1:"), "byte {at}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains("panicked") && !run_folder.exists(), "byte {at}: {}", outcome.stderr);
        n_damaged += usize::from(is_named);
    }
    assert!(n_damaged > 20, "{n_damaged} of the files were refused");
}

#[test]
fn bad_lines_are_skipped_counted_and_listed_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompts.jsonl");
    let long = "x ".repeat(400);
    let bad = "{\"prompt\": 7}\n".repeat(25);
    fs::write(&file, format!("{{\"prompt\": \"a\"}}\n{bad}{{\"prompt\": \"{long}\"}}\n{{\"prompt\": \"b\"}}\n"))
        .unwrap();
    let run_folder = folder.path().join("run");
    let set = format!("data.prompts={}", file.display());
    let args = ["train", arg(&run_folder), "--recipe", RECIPE, "--until", "pretrain", "--set", &set];
    let refused = run(&args);
    assert!(refused.stderr.contains("prompts.jsonl:2: key `prompt`"), "{}", refused.stderr);

    let outcome = run(&[&args[..], &["--skip-bad"]].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("2 lines, 25 left out") || outcome.stderr.contains("3 lines, 25 left out"),
        "{}",
        outcome.stderr
    );
    assert_eq!(outcome.stderr.matches("prompts.jsonl:").count(), 20 + 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("and 5 more, listed in the run's data/skipped.jsonl"), "{}", outcome.stderr);
    let listed = fs::read_to_string(run_folder.join("data/skipped.jsonl")).unwrap();
    assert!(listed.lines().count() == 25 && listed.contains("\"line\":26,\"reason\":\"key `prompt`"), "{listed}");
    let long = fs::read_to_string(run_folder.join("too_long.jsonl")).unwrap();
    assert!(long.lines().count() == 1 && long.contains("\"line\":27") && long.contains("there is room for"), "{long}");
    // The run remembers it.
    succeed(&["train", arg(&run_folder), "--until", "sft"]);

    let strict = folder.path().join("strict");
    fs::write(&file, format!("{{\"prompt\": \"a\"}}\n\n{{\"prompt\": \"{}\"}}\n", "x ".repeat(400))).unwrap();
    let outcome = run(&["train", arg(&strict), "--recipe", RECIPE, "--set", &set]);
    let place = format!("error: {}:3: ", file.display());
    assert!(outcome.code == Some(1) && outcome.stderr.contains(&place), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("there is room for 168") && !strict.join("checkpoints/pretrain").exists(),
        "{}",
        outcome.stderr
    );
}
