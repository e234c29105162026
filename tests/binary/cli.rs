//! What may be typed: help texts, and command lines that are refused.

use crate::program::{Outcome, RECIPE, arg, phasetrace, run, succeed};

/// Healthy lineages of a world that is not that of the tests' recipe.
const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/bench_reference.json");

#[test]
fn help_says_what_can_be_done() {
    insta::assert_snapshot!("help", succeed(&["--help"]));
    for command in [
        "train",
        "probe",
        "score",
        "diagnose",
        "compare",
        "report",
        "view",
        "index",
        "schema",
        "trace",
        "gate",
        "bless",
        "ls",
        "reference",
        "bench",
        "completions",
    ] {
        insta::assert_snapshot!(format!("help_{command}"), succeed(&[command, "--help"]));
    }
    for command in ["attribution", "confirm", "fit", "fixes", "score", "tracing"] {
        insta::assert_snapshot!(format!("help_bench_{command}"), succeed(&["bench", command, "--help"]));
    }
}

#[test]
fn completions_name_every_command() {
    let script = succeed(&["completions", "bash"]);
    for command in
        ["train", "probe", "score", "diagnose", "report", "gate", "bless", "view", "index", "ls", "reference", "bench"]
    {
        assert!(script.contains(command), "{command}");
    }
}

#[test]
fn bad_command_lines_are_refused_with_a_code_and_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (run_folder, page, sheet) = (at("run"), at("page.html"), at("page.pdf"));
    let cases: [(&[&str], i32, &str); 26] = [
        (&[], 2, "Usage: phasetrace"),
        (&["trian"], 2, "unrecognized subcommand 'trian'"),
        (&["train", "--threads", "0"], 2, "invalid value '0' for '--threads <N>'"),
        (&["train", "--device", "tpu"], 2, "'--device <DEVICE>': expected cpu, cuda or cuda:N"),
        (&["train", &run_folder, "--device", "cuda:99"], 1, "error: device `cuda:99` is not available: "),
        (&["train", "--until", "ppo"], 2, "possible values: pretrain, sft, reward, rlhf, dpo, sl-cai, rl-cai"),
        (&["train", &run_folder, "--set", "pretrain.steps"], 2, "--set pretrain.steps: expected KEY=VALUE"),
        (&["train", &run_folder, "--set", "pretrain.steps=0"], 1, "--set pretrain.steps=0: key `pretrain.steps`: "),
        (&["train", &run_folder, "--set", "pretrain.stepps=1"], 1, "key `pretrain.stepps`: unknown field `stepps`"),
        (&["train", &run_folder, "--set", "world.people=3"], 1, "world.people = 3 is out of range: at least 8"),
        (&["train", &run_folder, "--set", "world.conflicts=30000"], 1, "world.conflicts = 30000 is out of range"),
        (
            &["diagnose", &run_folder, "-o", &sheet],
            1,
            "the extension must be .html, .json, .md, .csv, .parquet or .card.md",
        ),
        (&["diagnose", "--phase", "sft=/nowhere"], 2, "--output <FILE>"),
        (&["diagnose", "--phase", "sft", "-o", &page], 2, "--phase sft: expected NAME=SUBJECT"),
        (&["diagnose", "--phase", "sft=/nowhere", "-o", &page, "--seed", "3"], 2, "cannot be used with"),
        (&["diagnose", "--phase", "sft=/nowhere", "-o", &page, "--expect", "knowledge=60"], 2, "a number from 0 to 1"),
        (
            &["diagnose", "--phase", "sft=/nowhere", "-o", &page, "--expect", "facts=0.6"],
            2,
            "no such behaviour; known are",
        ),
        (&["diagnose", &run_folder, "--recipe", RECIPE, "--confirm"], 2, "--confirm and --factorial need healthy runs"),
        (
            &["diagnose", &run_folder, "--recipe", RECIPE, "--factorial", "--reference", REFERENCE],
            1,
            "the reference's recipe is of another kind (world.people: 8 here",
        ),
        (
            &["trace", &run_folder, "--phase", "sft", "--behaviour", "over_refusal", "--leave-out", "-o", &page],
            2,
            "page.html: a trace is .json or .md",
        ),
        (&["compare", &run_folder, "--set", "sft.steps=3"], 2, "--set and --skip-bad need --recipe"),
        (
            &["bench", "attribution", &run_folder, "--only", "gremlins"],
            2,
            "--only gremlins: no such fault; known are pt_01_",
        ),
        (&["gate"], 2, "Usage: phasetrace gate"),
        (&["gate", &run_folder, &run_folder, "-o", &sheet], 2, "the extension must be .json, .md, .xml or .sarif"),
        (&["gate", &run_folder, &run_folder, "--policy", "/nowhere.toml"], 1, "cannot read /nowhere.toml"),
        (&["ls", &run_folder], 1, "no such folder; `phasetrace diagnose` makes runs/small"),
    ];
    for (args, code, reason) in cases {
        let Outcome { code: found, stdout, stderr } = run(args);
        assert_eq!(found, Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(reason), "{args:?}: {stderr}");
        assert_eq!(stdout, "", "{args:?}");
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "a refused command leaves nothing behind");
}

#[test]
fn a_device_that_is_not_there_ends_what_computes_in_one_line_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let run_folder = folder.path().join("run").display().to_string();
    for command in ["train", "diagnose", "probe", "trace", "compare", "bless", "reference"] {
        let mut arguments = vec![command, &run_folder];
        arguments.extend(match command {
            "trace" => ["--behaviour", "over_refusal", "--phase", "sft"].as_slice(),
            "reference" => ["-o", "/nowhere.json"].as_slice(),
            _ => [].as_slice(),
        });
        let outcome = Outcome::from(phasetrace(&arguments).env("PHASETRACE_DEVICE", "cuda:99").output().unwrap());
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{command}: {}", outcome.stderr);
        assert!(outcome.stderr.starts_with("error: device `cuda:99` is not available: "), "{}", outcome.stderr);
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "nothing was begun");
    // What computes nothing needs none.
    let mut listing = phasetrace(&["schema", "diagnosis"]);
    assert!(listing.env("PHASETRACE_DEVICE", "cuda:99").output().unwrap().status.success());
}

#[test]
fn what_the_environment_says_of_training_does_not_forbid_checkpoints_from_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let mut command = phasetrace(&["diagnose", "--phase", "sft=/nowhere", "-o", arg(&page)]);
    let outcome = Outcome::from(command.env("PHASETRACE_SEED", "3").env("PHASETRACE_RECIPE", RECIPE).output().unwrap());
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("/nowhere"), "{}", outcome.stderr);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    // The writing end of a pipe that nobody reads.
    let unread = || std::io::pipe().unwrap().1;
    let outcome = Outcome::from(phasetrace(&["train", "--dry-run"]).stdout(unread()).output().unwrap());
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));

    // An error stays one where nobody hears of it, and work goes on where nobody follows it.
    let outcome = Outcome::from(phasetrace(&["ls", "/nowhere/at/all"]).stderr(unread()).output().unwrap());
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""));
    let folder = tempfile::tempdir().unwrap();
    let args = ["train", arg(folder.path()), "--recipe", RECIPE, "--until", "pretrain"];
    let outcome = Outcome::from(phasetrace(&args).stderr(unread()).output().unwrap());
    assert_eq!(outcome.code, Some(0));
    assert!(folder.path().join("checkpoints/pretrain").exists());
}

#[test]
fn the_plan_of_a_dry_run_is_data_on_standard_output() {
    let plan: serde_json::Value =
        serde_json::from_str(&succeed(&["train", "--dry-run", "--set", "sft.steps=7", "--seed", "5"])).unwrap();
    assert_eq!((plan["seed"].as_u64(), plan["sft"]["steps"].as_u64()), (Some(5), Some(7)));
    assert_eq!(plan["world"]["people"], 64);
}

#[test]
fn the_schema_of_every_record_is_printed() {
    for record in ["diagnosis", "comparison", "judgement", "baseline", "index"] {
        let schema: serde_json::Value = serde_json::from_str(&succeed(&["schema", record])).unwrap();
        assert_eq!(schema["$id"], format!("{record}.schema.json"));
    }
}
