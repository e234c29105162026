//! From a recipe to a report, and what may be done with the parts.

use std::fs;

use crate::program::{RECIPE, arg, copy_checkpoint, files, run, succeed, trained};

#[test]
fn diagnose_writes_the_report_and_a_second_time_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let run_folder = folder.path().join("run");
    let outputs: Vec<_> = ["report.html", "report.json", "report.md"].map(|name| folder.path().join(name)).to_vec();
    let mut args = vec!["diagnose", arg(&run_folder), "--recipe", RECIPE];
    for path in &outputs {
        args.extend(["-o", arg(path)]);
    }
    let first = succeed(&args);
    let lines: Vec<&str> = first.lines().collect();
    assert_eq!(lines.len(), 6, "three places and three sentences: {first}");
    for (line, path) in lines.iter().zip(&outputs) {
        assert_eq!(*line, arg(path));
    }
    let diagnosis: serde_json::Value = serde_json::from_str(&fs::read_to_string(&outputs[1]).unwrap()).unwrap();
    assert_eq!(diagnosis["sentences"].as_array().unwrap(), &lines[3..]);
    let (before, texts) = (files(&run_folder), files(folder.path()));
    let second = run(&args);
    assert_eq!((second.code, second.stdout.as_str()), (Some(0), first.as_str()));
    assert!(second.stderr.contains("ask rl-cai: 0 open"), "{}", second.stderr);
    assert_eq!(files(&run_folder), before);
    assert_eq!(files(folder.path()), texts);

    // Without flags the run's own recipe goes on, and the report is written again from its folder alone.
    assert!(succeed(&["diagnose", arg(&run_folder)]).starts_with(arg(&run_folder.join("report.html"))));
    fs::remove_dir_all(run_folder.join("checkpoints")).unwrap();
    succeed(&["report", arg(&run_folder), "-o", arg(&folder.path().join("again.html"))]);
    assert_eq!(fs::read(folder.path().join("again.html")).unwrap(), fs::read(&outputs[0]).unwrap());
}

#[test]
fn checkpoints_from_elsewhere_are_diagnosed_without_their_run() {
    let folder = tempfile::tempdir().unwrap();
    let phases: Vec<String> = ["pretrain", "sft", "rlhf"]
        .map(|phase| format!("{phase}={}", copy_checkpoint(phase, folder.path()).display()))
        .to_vec();
    let (bank, page) = (trained().join("data/bank.jsonl"), folder.path().join("out/page.json"));
    let mut args = vec!["diagnose", "--bank", arg(&bank), "--declared-cutoff", "8", "-o", arg(&page)];
    for phase in &phases {
        args.extend(["--phase", phase.as_str()]);
    }
    let printed = succeed(&args);
    assert_eq!(printed.lines().next(), Some(arg(&page)));
    let diagnosis: serde_json::Value = serde_json::from_str(&fs::read_to_string(&page).unwrap()).unwrap();
    let names: Vec<&str> =
        diagnosis["lineages"][0]["phases"].as_array().unwrap().iter().filter_map(|p| p["name"].as_str()).collect();
    assert_eq!(names, ["pretrain", "sft", "rlhf"]);
    let again = run(&args);
    assert!(again.stderr.contains("ask rlhf: 0 open"), "{}", again.stderr);
}

#[test]
fn training_stops_where_it_is_told_to_and_goes_on_later() {
    let folder = tempfile::tempdir().unwrap();
    let run_folder = folder.path().join("run");
    succeed(&["train", arg(&run_folder), "--recipe", RECIPE, "--until", "sft"]);
    let has = |phase: &str| run_folder.join("checkpoints").join(phase).exists();
    assert!(has("sft") && !has("reward"));
    succeed(&["train", arg(&run_folder), "--until", "reward"]);
    assert!(has("reward") && !has("rlhf"));
    let listed = succeed(&["ls", arg(folder.path())]);
    let phases: Vec<&str> = listed.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(phases, ["pretrain", "sft", "reward"], "{listed}");
}

#[test]
fn a_preview_shows_what_a_checkpoint_would_see() {
    let before = files(trained());
    let shown = succeed(&["probe", arg(trained()), "--preview", "--tasks", "knowledge"]);
    for form in ["cloze", "few_shot", "chat", "open_book"] {
        assert!(shown.contains(&format!("· {form} · asked of rl-cai")), "{shown}");
    }
    assert!(shown.contains("<|assistant|>") && shown.contains(" tokens: ["), "{shown}");
    assert_eq!(files(trained()), before);
}

#[test]
fn a_bench_trains_shared_phases_once_and_a_reference_is_made_from_healthy_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (reference, bench) = (folder.path().join("reference.json"), folder.path().join("bench"));
    let runs = folder.path().join("reference");
    // The figures do not matter here.
    let quick = ["--recipe", RECIPE, "--set", "sft.steps=100"];
    succeed(&[&["reference", arg(&runs), "--seeds", "11", "-o", arg(&reference)], &quick[..]].concat());
    let args =
        ["bench", arg(&bench), "--seeds", "3", "--faults", "healthy,helpful_only", "--reference", arg(&reference)];
    let args = [&args, &quick[..]].concat();
    let first = run(&args);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let rows: Vec<&str> = first.stdout.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), 2, "{}", first.stdout);
    assert!(rows[0].starts_with("| healthy | 3 |") && rows[1].starts_with("| helpful_only | 3 |"), "{rows:?}");
    assert!(first.stdout.contains("Healthy runs accused: "), "{}", first.stdout);
    assert_eq!(fs::read_to_string(bench.join("bench.md")).unwrap(), first.stdout);
    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(bench.join("bench.json")).unwrap()).unwrap();
    assert_eq!((json[1]["fault"].as_str(), json[1]["truth"].as_str()), (Some("helpful_only"), Some("rlhf")));

    // Data, tokenizer and four phases of the healthy twin; of the other its data, and only those phases that its fault reaches.
    assert_eq!(fs::read_dir(bench.join("seed-3/phases")).unwrap().count(), 6 + 4);
    assert_eq!(first.stderr.matches("ask sft: 0 open").count(), 1, "{}", first.stderr);
    let second = run(&args);
    assert_eq!(second.stdout, first.stdout);
    assert!(!second.stderr.contains(" asked, "), "{}", second.stderr);
}
