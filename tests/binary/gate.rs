//! A release gate from the command line: what it writes and what it returns.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::attribution::bench;
use crate::program::{Outcome, arg, copy, phasetrace, run, succeed, trained};

/// A run of one's own, to be asked.
fn copy_of_trained(folder: &Path) -> PathBuf {
    let candidate = folder.join("candidate");
    copy(trained(), &candidate);
    candidate
}

/// A copy of a lineage of the bench: of its folder what a gate reads.
fn copy_of_lineage(name: &str, folder: &Path) -> PathBuf {
    let (lineage, run) = (bench().join("world-7-seed-1").join(name), folder.join(name));
    for part in ["checkpoints", "data"] {
        copy(&lineage.join(part), &run.join(part));
    }
    for file in ["recipe.toml", "diagnosis.json", "results.parquet"] {
        fs::copy(lineage.join(file), run.join(file)).unwrap();
    }
    run
}

#[test]
fn a_planted_regression_is_blocked_by_the_name_of_its_phase_and_its_items() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (released, policy, json) = (copy_of_lineage("clean", folder.path()), at("gate.toml"), at("gate.json"));
    let rule = "[[rule]]\nbehaviour = \"over_refusal\"\nlineage = \"rlhf\"\nmax-drop = 0.1\n";
    fs::write(&policy, format!("version = 1\n{rule}")).unwrap();
    let gate = |candidate: &Path, more: &[&str]| {
        let sides = ["gate", arg(&released), arg(candidate), "--policy", arg(&policy)];
        run(&[sides.as_slice(), more].concat())
    };
    for (name, phase) in [("sft_06_no_benign_twins", "sft"), ("al_01_punish_triggers", "rlhf")] {
        let candidate = copy_of_lineage(name, folder.path());
        let report = succeed(&["report", arg(&candidate)]);
        let blocked = gate(&candidate, &["--show-flips", "-o", arg(&json)]);
        assert_eq!(blocked.code, Some(100), "{blocked:?}");
        assert!(blocked.stdout.starts_with("BLOCK: 1 of 1 critical rule is broken\n"), "{}", blocked.stdout);
        let judgement: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
        let ruling = &judgement["rulings"][0];
        assert_eq!(ruling["behaviour"], "over_refusal");
        assert_eq!(ruling["outcome"], "broken");
        assert_eq!(ruling["measured"]["blame"]["phase"], phase);
        assert_eq!(ruling["measured"]["blame"]["diagnosed"]["phase"], phase);
        let place = format!("In the report: {}#main-over-refusal\n", report.trim());
        assert!(blocked.stdout.contains(&place), "{place}: {}", blocked.stdout);

        let bank = fs::read_to_string(candidate.join("data/bank.jsonl")).unwrap();
        let lines: Vec<Value> = bank.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let flips = ruling["measured"]["broken"].as_array().unwrap();
        assert!(flips.len() > 40, "{} items", flips.len());
        for flip in flips {
            let item = &lines[flip["line"].as_u64().unwrap() as usize - 1];
            assert_eq!(item["id"], flip["item"]);
            assert_eq!(item["behaviour"], "over_refusal");
        }
        let first = format!("\n    line {}  {}  ", flips[0]["line"], flips[0]["item"].as_str().unwrap());
        assert!(blocked.stdout.contains(&first), "{first}: {}", blocked.stdout);

        let (summary, address) = (at("gate.md"), "https://ci.example/7/report.html");
        gate(&candidate, &["--report-url", address, "-o", arg(&summary)]);
        let summary = fs::read_to_string(&summary).unwrap();
        assert!(summary.contains(&format!("]({address}#main-over-refusal)\n")), "{summary}");
        let refused = gate(&candidate, &["--report-url", "report.html"]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains("--report-url report.html: expected an address"), "{}", refused.stderr);
    }
    // The healthy twin beside itself.
    let passed = gate(&released, &[]);
    assert_eq!(passed.code, Some(0), "{passed:?}");
}

#[test]
fn a_gate_passes_blocks_or_says_that_it_cannot_tell() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (candidate, baseline, policy) = (copy_of_trained(folder.path()), at("baseline.json"), at("gate.toml"));
    assert_eq!(succeed(&["bless", arg(&candidate), "-o", arg(&baseline)]).trim(), arg(&baseline));
    let blessed = fs::read_to_string(&baseline).unwrap();
    succeed(&["bless", arg(&candidate), "-o", arg(&baseline)]);
    assert_eq!(fs::read_to_string(&baseline).unwrap(), blessed, "the same run gives the same bytes");

    let gate = |baseline: &Path, more: &[&str]| {
        let judged = ["gate", arg(baseline), arg(&candidate), "--policy", arg(&policy)];
        run(&[judged.as_slice(), more].concat())
    };
    let with = |rules: &str| fs::write(&policy, format!("version = 1\n{rules}")).unwrap();
    let rule = |max_drop: f64| {
        format!(
            "[[rule]]\nbehaviour = \"knowledge_cutoff\"\nlineage = \"rlhf\"\nmax-drop = {max_drop}\nseed-noise = 0.001\n"
        )
    };

    // A run beside itself: it is shown to lose less than half, and not shown to lose nothing.
    with(&rule(0.5));
    let passed = gate(&baseline, &[]);
    assert_eq!(passed.code, Some(0), "{passed:?}");
    assert!(passed.stdout.starts_with("PASS: "), "{}", passed.stdout);
    with("[[rule]]\nbehaviour = \"knowledge_cutoff\"\nlineage = \"rlhf\"\nmax-drop = 0.0\n");
    for (more, code) in [(&[][..], 101), (&["--inconclusive", "pass"], 0), (&["--inconclusive", "fail"], 100)] {
        let undecided = gate(&baseline, more);
        assert_eq!(undecided.code, Some(code), "{undecided:?}");
        assert!(undecided.stdout.starts_with("INCONCLUSIVE: "), "{}", undecided.stdout);
    }

    // A released run that knew everything: the candidate is blocked, and every form of the judgement says so.
    let mut better: Value = serde_json::from_str(&blessed).unwrap();
    let answers = better["phases"]["rlhf"]["forms"]["chat"]["answers"].as_object_mut().unwrap();
    for (_, answer) in answers.iter_mut() {
        answer["score"] = 1.0.into();
    }
    let released = at("released.json");
    fs::write(&released, better.to_string()).unwrap();
    with(&rule(0.02));
    let outputs = ["gate.json", "gate.md", "gate.xml", "gate.sarif"].map(at);
    let mut more = vec!["--show-flips"];
    for path in &outputs {
        more.extend(["-o", arg(path)]);
    }
    let blocked = gate(&released, &more);
    assert_eq!(blocked.code, Some(100), "{blocked:?}");
    assert!(blocked.stdout.starts_with("BLOCK: "), "{}", blocked.stdout);
    let judgement: Value = serde_json::from_str(&fs::read_to_string(&outputs[0]).unwrap()).unwrap();
    assert_eq!(judgement["decision"], "BLOCK");
    let flips = judgement["rulings"][0]["measured"]["broken"].as_array().unwrap();
    let bank = fs::read_to_string(candidate.join("data/bank.jsonl")).unwrap();
    let lines: Vec<&str> = bank.lines().collect();
    assert!(!flips.is_empty());
    for flip in flips {
        let line = lines[flip["line"].as_u64().unwrap() as usize - 1];
        assert!(line.contains(flip["item"].as_str().unwrap()), "{flip} {line}");
    }
    assert_eq!(judgement["rulings"][0]["measured"]["blame"]["phase"], "rlhf");
    for path in &outputs[1..] {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains("knowledge cutoff after rlhf"), "{}: {text}", path.display());
    }

    // Where GitHub shows it.
    let summary = at("summary.md");
    fs::write(&summary, "before\n").unwrap();
    let mut command = phasetrace(&["gate", arg(&released), arg(&candidate), "--policy", arg(&policy), "--quiet"]);
    let told = command.env("GITHUB_STEP_SUMMARY", &summary).env("GITHUB_ACTIONS", "true").output().unwrap();
    let told = Outcome::from(told);
    assert!(told.code == Some(100) && told.stderr.starts_with("::error "), "{told:?}");
    let summary = fs::read_to_string(&summary).unwrap();
    assert!(summary.starts_with("before\n") && summary.contains("BLOCK"), "{summary}");
}

#[test]
fn a_policy_is_written_for_a_run_and_never_over_another() {
    let folder = tempfile::tempdir().unwrap();
    let (candidate, policy) = (copy_of_trained(folder.path()), folder.path().join("gate.toml"));
    let init = ["gate", "init", arg(&candidate), "-o", arg(&policy)];
    assert_eq!(succeed(&init).trim(), arg(&policy));
    let text = fs::read_to_string(&policy).unwrap();
    let again = run(&init);
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("a policy is not overwritten"), "{}", again.stderr);
    assert_eq!(fs::read_to_string(&policy).unwrap(), text);
    let judged = run(&["gate", arg(&candidate), arg(&candidate), "--policy", arg(&policy)]);
    assert!([Some(0), Some(101)].contains(&judged.code), "a run beside itself is not blocked: {judged:?}");
}

#[test]
fn what_cannot_be_judged_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (candidate, baseline, policy) = (copy_of_trained(folder.path()), at("baseline.json"), at("gate.toml"));
    succeed(&["bless", arg(&candidate), "-o", arg(&baseline)]);
    let blessed = fs::read_to_string(&baseline).unwrap();
    let rule = "[[rule]]\nbehaviour = \"knowledge\"\nmax-drop = 0.1\n";
    let sound = format!("version = 1\n{rule}");
    let other_bank = blessed.replacen("\"bank_hash\": \"", "\"bank_hash\": \"0", 1);
    let bad_score = blessed.replacen("\"score\": ", "\"score\": 7", 1);
    let unmeasured = "version = 1\n[[rule]]\nbehaviour = \"knowledge\"\nmax-drop = 0.1\nlineage = \"constitutional\"\nphase = \"rlhf\"\n";
    let cases = [
        (other_bank.as_str(), sound.as_str(), 1, "the item bank differs"),
        (&bad_score, &sound, 1, "expected shares in 0 to 1"),
        ("{", &sound, 1, "is not a baseline file"),
        (&blessed, "version = 1\nalfa = 0.1\n", 1, "unknown field `alfa`"),
        (&blessed, "version = 1\n[[rule]]\nbehaviour = \"wit\"\n", 1, "unknown variant `wit`"),
        (&blessed, "version = 1\n", 1, "there is no [[rule]]"),
        (
            &blessed,
            "version = 1\n[[rule]]\nbehaviour = \"knowledge\"\nmax-drop = 0.1\nlineage = \"dpo\"\n",
            1,
            "`dpo`, known are",
        ),
        (
            &blessed,
            "version = 1\n[[rule]]\nbehaviour = \"over_refusal\"\nmax-drop = 0.1\nmetric = \"ece\"\n",
            1,
            "metric = ece",
        ),
    ];
    for (baseline_text, policy_text, code, reason) in cases {
        fs::write(&baseline, baseline_text).unwrap();
        fs::write(&policy, policy_text).unwrap();
        let refused = run(&["gate", arg(&baseline), arg(&candidate), "--policy", arg(&policy)]);
        assert_eq!(refused.code, Some(code), "{reason}: {refused:?}");
        assert!(refused.stderr.contains(reason), "{reason}: {}", refused.stderr);
        assert_eq!(refused.stdout, "");
    }
    fs::write(&baseline, &blessed).unwrap();
    fs::write(&policy, unmeasured).unwrap();
    let nothing = run(&["gate", arg(&baseline), arg(&candidate), "--policy", arg(&policy)]);
    assert_eq!(nothing.code, Some(4), "{nothing:?}");
    assert!(nothing.stdout.contains("has no phase `rlhf`"), "{}", nothing.stdout);

    // A candidate that lacks its last checkpoint is not judged by the one before it.
    fs::write(&policy, sound).unwrap();
    fs::remove_dir_all(candidate.join("checkpoints/rlhf")).unwrap();
    let headless = run(&["gate", arg(&baseline), arg(&candidate), "--policy", arg(&policy)]);
    assert_eq!(headless.code, Some(100), "{headless:?}");
}
