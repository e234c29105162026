//! Bad input: one clear error with the place and the exit code, and nothing half-written.

use std::fs;
use std::path::Path;

use crate::program::{RECIPE, arg, copy_checkpoint, files, run, succeed, trained};

/// Runs a command that must fail and gives its error, which is one line and perhaps a hint.
fn fail(args: &[&str], code: i32) -> String {
    let outcome = run(args);
    assert_eq!(outcome.code, Some(code), "{args:?}: {}", outcome.stderr);
    assert_eq!(outcome.stdout, "", "{args:?}");
    let errors: Vec<&str> = outcome.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{args:?}: {}", outcome.stderr);
    errors[0].to_owned()
}

/// Probes a spoilt checkpoint: the error names it, and no answer file appears.
fn fail_to_probe(checkpoint: &Path, code: i32) -> String {
    let out = checkpoint.with_file_name("answers");
    let bank = trained().join("data/bank.jsonl");
    let error = fail(&["probe", arg(checkpoint), "--bank", arg(&bank), "-o", arg(&out)], code);
    assert!(error.contains(arg(checkpoint)), "{error}");
    let left = fs::read_dir(&out).map_or_else(|_| Vec::new(), |left| left.map(|of| of.unwrap().file_name()).collect());
    assert!(left.iter().all(|name| name == ".lock"), "nothing was asked: {left:?}");
    error
}

#[test]
fn a_misspelt_recipe_key_is_named_with_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let (recipe, run_folder) = (folder.path().join("bad.toml"), folder.path().join("run"));
    fs::write(&recipe, "seed = 1\n\n[pretrain]\nstepps = 3\n").unwrap();
    let error = fail(&["train", arg(&run_folder), "--recipe", arg(&recipe)], 1);
    let place = format!("error: {}:4: key `pretrain.stepps`: unknown field `stepps`", recipe.display());
    assert!(error.starts_with(&place), "{error}");
    assert!(!run_folder.exists());
}

#[test]
fn a_value_out_of_range_is_named_with_file_line_and_range() {
    let folder = tempfile::tempdir().unwrap();
    let (recipe, run_folder) = (folder.path().join("bad.toml"), folder.path().join("run"));
    for (text, line, reason) in [
        ("[pretrain]\nlr = -1.0\n", 2, "expected a finite number above 0, found -1"),
        ("seed = 2\n[world]\nmonths = 24\npeople = 3\n", 4, "world.people = 3 is out of range: at least 8"),
        ("[world]\nmonths = 12\ncutoff_month = 12\n", 3, "world.cutoff_month = 12 is out of range: 6 to"),
    ] {
        fs::write(&recipe, text).unwrap();
        let error = fail(&["train", arg(&run_folder), "--recipe", arg(&recipe)], 1);
        assert!(error.starts_with(&format!("error: {}:{line}: ", recipe.display())), "{error}");
        assert!(error.contains(reason), "{error}");
    }
    assert!(!run_folder.exists());
}

#[test]
fn a_missing_shard_is_named_with_its_index() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = copy_checkpoint("sft", folder.path());
    fs::remove_file(checkpoint.join("model.safetensors")).unwrap();
    let shard = "model-00001-of-00002.safetensors";
    let index = format!("{{\"metadata\": {{}}, \"weight_map\": {{\"model.norm.weight\": \"{shard}\"}}}}");
    fs::write(checkpoint.join("model.safetensors.index.json"), index).unwrap();
    let error = fail_to_probe(&checkpoint, 1);
    assert!(error.contains(&format!("model.safetensors.index.json names the shard {shard}")), "{error}");
}

#[test]
fn a_truncated_tensor_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = copy_checkpoint("sft", folder.path());
    let path = checkpoint.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = fail_to_probe(&checkpoint, 1);
    assert!(error.contains("model.safetensors is truncated"), "{error}");
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = copy_checkpoint("sft", folder.path());
    let text = fs::read_to_string(trained().join("data/corpus.jsonl")).unwrap();
    lm::Tokenizer::train([text.as_str()], 700, 192).unwrap().save(&checkpoint).unwrap();
    let error = fail_to_probe(&checkpoint, 1);
    assert!(error.contains("the tokenizer has 700 tokens but the model embeds only 512"), "{error}");
}

#[test]
fn an_empty_bank_or_selection_evaluates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = copy_checkpoint("sft", folder.path());
    let (bank, out) = (folder.path().join("bank.jsonl"), folder.path().join("answers"));
    fs::write(&bank, "\n\n").unwrap();
    let error = fail(&["probe", arg(&checkpoint), "--bank", arg(&bank), "-o", arg(&out)], 4);
    assert_eq!(error, format!("error: {} holds no items", bank.display()));

    let full = fs::read_to_string(trained().join("data/bank.jsonl")).unwrap();
    fs::write(&bank, full.lines().next().unwrap()).unwrap();
    let args = ["probe", arg(&checkpoint), "--bank", arg(&bank), "-o", arg(&out), "--tasks", "harmful_compliance"];
    assert!(fail(&args, 4).contains("no item of --tasks harmful_compliance"));
    assert!(!out.exists());
}

#[test]
fn a_bad_item_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = copy_checkpoint("sft", folder.path());
    let bank = folder.path().join("bank.jsonl");
    let full = fs::read_to_string(trained().join("data/bank.jsonl")).unwrap();
    let first = full.lines().next().unwrap();
    fs::write(&bank, format!("{first}\n{}\n", first.replacen("\"behaviour\"", "\"behavior\"", 1))).unwrap();
    let out = folder.path().join("answers");
    let error = fail(&["probe", arg(&checkpoint), "--bank", arg(&bank), "-o", arg(&out)], 1);
    assert!(error.contains(&format!("{}:2:", bank.display())) && error.contains("behavior"), "{error}");
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "a file where a folder should be").unwrap();
    let below = |name: &str| file.join(name).display().to_string();

    assert!(fail(&["train", &below("run"), "--recipe", RECIPE], 1).contains(&below("run")));
    assert!(fail(&["train", arg(&file), "--recipe", RECIPE], 1).contains(arg(&file)));

    let run_folder = folder.path().join("run");
    fs::create_dir(&run_folder).unwrap();
    fs::write(run_folder.join("checkpoints"), "a file where a folder should be").unwrap();
    let error = fail(&["train", arg(&run_folder), "--recipe", RECIPE], 1);
    assert!(error.contains(arg(&run_folder.join("checkpoints"))), "{error}");
    assert!(!run_folder.join("data").exists() && !run_folder.join("recipe.toml").exists());

    let fresh = folder.path().join("fresh");
    let page = below("page.html");
    let error = fail(&["diagnose", arg(&fresh), "--recipe", RECIPE, "-o", &page], 1);
    assert!(error.contains(arg(&file)), "{error}");
    let error = fail(&["reference", arg(&fresh), "--recipe", RECIPE, "-o", &below("reference.json")], 1);
    assert!(error.contains(arg(&file)), "{error}");
    assert!(!fresh.exists());

    let results = folder.path().join("answers");
    fs::write(&results, "a file where a folder should be").unwrap();
    let checkpoint = copy_checkpoint("sft", folder.path());
    let bank = trained().join("data/bank.jsonl");
    let error = fail(&["probe", arg(&checkpoint), "--bank", arg(&bank), "-o", arg(&results)], 1);
    assert!(error.contains(arg(&results)), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "a file where a folder should be");
}

#[test]
fn a_run_of_another_recipe_is_refused_and_left_as_it_is() {
    let before = files(trained());
    let error = fail(&["train", arg(trained()), "--recipe", RECIPE, "--seed", "4"], 1);
    assert!(error.contains("holds a run of another recipe (seed: 3 here, 4 there)"), "{error}");
    assert_eq!(files(trained()), before);
}

#[test]
fn a_phase_that_a_lineage_has_not_gone_through_is_not_searched() {
    let args = ["trace", arg(trained()), "--phase", "dpo", "--behaviour", "over_refusal"];
    assert!(fail(&args, 2).contains("--phase dpo: no part of the lineage rlhf (pretrain, sft, rlhf)"));
    let error = fail(&[&args[..], &["--lineage", "constitutional"]].concat(), 2);
    assert!(error.contains("no part of the lineage constitutional"), "{error}");
}

#[test]
fn a_run_that_another_process_is_at_work_on_is_only_read() {
    let folder = tempfile::tempdir().unwrap();
    let run_folder = folder.path().join("run");
    succeed(&["train", arg(&run_folder), "--recipe", RECIPE, "--until", "pretrain"]);
    let lock = fs::File::create(run_folder.join(".lock")).unwrap();
    lock.try_lock().unwrap();
    let before = files(&run_folder);
    let commands: [&[&str]; 4] = [
        &["train", arg(&run_folder)],
        &["probe", arg(&run_folder)],
        &["diagnose", arg(&run_folder)],
        &["trace", arg(&run_folder), "--phase", "pretrain", "--behaviour", "knowledge"],
    ];
    for args in commands {
        assert_eq!(fail(args, 1), format!("error: {} is in use by another process", run_folder.display()));
    }
    assert!(succeed(&["ls", arg(&run_folder)]).contains("pretrain"));
    assert_eq!(files(&run_folder), before);
}
