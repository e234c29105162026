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
fn a_bench_trains_shared_phases_once_and_compares_with_healthy_lineages_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let bench = folder.path().join("bench");
    // The figures do not matter here.
    let args = ["bench", "attribution", arg(&bench), "--recipe", RECIPE, "--healthy", "5:11", "--lineages", "7:3"];
    let args = [&args[..], &["--only", "al_05_helpful_only"]].concat();
    let first = run(&args);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let path = bench.join("records.jsonl");
    assert_eq!(first.stdout.trim(), arg(&path));
    let text = fs::read_to_string(&path).unwrap();
    let records: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = records.iter().filter_map(|record| record["name"].as_str()).collect();
    assert_eq!(names, ["clean/world-7/seed-3", "al_05_helpful_only/world-7/seed-3"]);
    assert_eq!(records[1]["guilty"], serde_json::json!(["alignment"]));
    let reference: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(bench.join("reference.json")).unwrap()).unwrap();
    assert_eq!(reference["runs"], serde_json::json!(["world-5-seed-11"]));
    // The label is nowhere in what is diagnosed, and what the fault does not reach was asked once.
    let faulty = bench.join("world-7-seed-3/al_05_helpful_only");
    for file in ["recipe.toml", "plan.json", "diagnosis.json"] {
        let text = fs::read_to_string(faulty.join(file)).unwrap();
        assert!(!text.contains("ranked by helpfulness alone") && !text.contains("al_05"), "{file}: {text}");
    }
    assert_eq!(first.stderr.matches("ask sft: 0 open").count(), 1, "{}", first.stderr);
    let before = files(&bench);
    let second = run(&args);
    assert_eq!((second.code, second.stdout), (Some(0), first.stdout));
    assert_eq!(files(&bench), before);

    // Beside more healthy lineages every verdict that is asked for is made again, and each seed counts once.
    let fault = folder.path().join("extra.toml");
    let plant = |kl: &str| {
        let card = "about = \"x\"\nphases = [\"alignment\"]\nfamily = \"knowledge\"\nset = \"single\"\n";
        fs::write(&fault, format!("[fault]\n{card}[rlhf]\nkl = {kl}\n")).unwrap();
    };
    plant("0.3");
    let args =
        ["bench", "attribution", arg(&bench), "--recipe", RECIPE, "--healthy", "5:11,6:12,5:11", "--lineages", "7:3"];
    let args = [&args[..], &["--clean", "7:3", "--fault", arg(&fault), "--only", "extra"]].concat();
    succeed(&args);
    let text = fs::read_to_string(&path).unwrap();
    let records: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // What was diagnosed beside the first reference is left out.
    let names: Vec<&str> = records.iter().filter_map(|record| record["name"].as_str()).collect();
    assert_eq!(names, ["clean/world-7/seed-3", "extra/world-7/seed-3"]);
    assert_eq!(records[1]["fault"], serde_json::json!(["extra"]));
    for (lineage, n_healthy) in [("clean", 2), ("extra", 2), ("al_05_helpful_only", 1)] {
        let path = bench.join("world-7-seed-3").join(lineage).join("diagnosis.json");
        let diagnosis: serde_json::Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(diagnosis["provenance"]["reference"]["n_lineages"], n_healthy, "{lineage}");
    }

    // A changed fault needs a folder of its own.
    plant("0.2");
    let changed = run(&args);
    assert_eq!(changed.code, Some(1), "{}", changed.stderr);
    let reason = "extra holds a run of another recipe (rlhf.kl: 0.3 here, 0.2 there)";
    assert!(changed.stderr.contains(reason), "{}", changed.stderr);
}
