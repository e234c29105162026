//! The program on two ranks under `mpirun`: the same losses as on one, one voice, and a clear end where a rank is killed.
//!
//! Needs the feature `mpi` and Open MPI's `mpirun`: `cargo test --release --features mpi --test mpi`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const RECIPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/binary/tiny.toml");
/// Steps enough to be killed between two saved ones; in each a batch of 8 times 128 tokens, as recipes have by default, which is two pieces.
const PRETRAIN: [&str; 2] = ["pretrain.steps=200", "pretrain.save_every=20"];

/// The program under `mpirun` on `n` ranks, or alone.
fn command(n: usize, args: &[&str]) -> Command {
    let program = env!("CARGO_BIN_EXE_phasetrace");
    let mut command = if n == 1 { Command::new(program) } else { Command::new("mpirun") };
    if n > 1 {
        command.args(["--allow-run-as-root", "--oversubscribe", "-n", &n.to_string(), program]);
    }
    command.args(["--threads", "1"]).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["RECIPE", "SEED", "THREADS", "QUIET", "SKIP_BAD", "RANK_TIMEOUT"] {
        command.env_remove(format!("PHASETRACE_{name}"));
    }
    for name in ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"] {
        command.env_remove(name);
    }
    command
}

fn train(n: usize, run: &Path, more: &[&str]) -> Command {
    let mut args = vec!["train", run.to_str().unwrap(), "--recipe", RECIPE];
    args.extend(PRETRAIN.iter().flat_map(|set| ["--set", set]));
    args.extend(more);
    command(n, &args)
}

fn pretrain(n: usize, run: &Path) -> Command {
    train(n, run, &["--until", "pretrain"])
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeed(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    output
}

/// Step and loss of each line of a log.
fn losses(run: &Path, phase: &str) -> Vec<(u64, f64)> {
    let log = fs::read_to_string(run.join(format!("logs/{phase}.jsonl"))).unwrap();
    let of_line = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        (record["step"].as_u64().unwrap(), record["loss_nats"].as_f64().unwrap())
    };
    log.lines().map(of_line).collect()
}

/// The losses of one phase are those of another run of it, within a millionth.
fn assert_same_losses(run: &Path, other: &Path, phase: &str, steps: usize) {
    let (found, expected) = (losses(run, phase), losses(other, phase));
    assert_eq!((found.len(), expected.len()), (steps, steps));
    let mut largest = 0.0_f64;
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found.0, expected.0);
        largest = largest.max((found.1 - expected.1).abs() / expected.1);
    }
    println!("{phase}: largest relative difference of {steps} losses: {largest:e}");
    assert!(largest < 1e-6, "{phase}: {largest:e}");
}

fn weights(run: &Path, phase: &str) -> Vec<u8> {
    fs::read(run.join("checkpoints").join(phase).join("model.safetensors")).unwrap()
}

fn has_mpirun() -> bool {
    let is_there = Command::new("mpirun").arg("--version").output().is_ok_and(|output| output.status.success());
    if !is_there {
        eprintln!("SKIPPED: there is no mpirun");
    }
    is_there
}

#[test]
#[cfg_attr(not(feature = "mpi"), ignore = "needs --features mpi and mpirun")]
fn every_phase_trains_on_two_ranks_and_one_of_them_speaks() {
    if !has_mpirun() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let sft = ["--set", "sft.accumulate=2"];
    let output = succeed(train(2, &two, &sft));
    assert_eq!(text(&output.stdout), format!("{}\n", two.display()));
    for phase in ["pretrain", "sft", "reward", "rlhf", "sl-cai", "preference", "rl-cai"] {
        assert!(two.join("checkpoints").join(phase).join("model.safetensors").exists(), "{phase}");
        let ends =
            text(&output.stderr).lines().filter(|line| line.trim_start().starts_with(&format!("{phase}  "))).count();
        assert!(ends >= 1, "{phase}: {}", text(&output.stderr));
    }
    let ended = |line: &&str| line.contains(" steps in ");
    assert_eq!(text(&output.stderr).lines().filter(ended).count(), 7, "{}", text(&output.stderr));

    succeed(train(1, &one, &[&sft[..], &["--until", "sft"]].concat()));
    for (phase, steps) in [("pretrain", 200), ("sft", 200)] {
        assert_same_losses(&two, &one, phase, steps);
        assert!(weights(&two, phase) == weights(&one, phase), "{phase}");
    }
}

/// The process of a rank that `mpirun` has started.
fn process_of(rank: usize, mpirun: &Child) -> u32 {
    let children = format!("/proc/{0}/task/{0}/children", mpirun.id());
    let wanted = format!("OMPI_COMM_WORLD_RANK={rank}");
    let is_it = |id: &u32| {
        let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    let children = fs::read_to_string(children).unwrap();
    children.split_whitespace().map(|id| id.parse().unwrap()).find(is_it).expect("mpirun has started this rank")
}

fn signal(name: &str, process: u32) {
    assert!(Command::new("kill").args([name, &process.to_string()]).status().unwrap().success());
}

/// Starts a command, sends a signal to one of its ranks as soon as a step is saved, and waits for the end.
fn disturb(mut command: Command, run: &Path, step: &str, rank: usize, name: &str) -> Output {
    let child = command.spawn().unwrap();
    let saved = run.join("steps/pretrain").join(step);
    let start = Instant::now();
    while !saved.exists() {
        assert!(start.elapsed() < Duration::from_secs(120), "{} does not come", saved.display());
        thread::sleep(Duration::from_millis(1));
    }
    signal(name, process_of(rank, &child));
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success(), "{}", text(&output.stderr));
    // Rank and size, then what happened.
    assert!(!run.join("checkpoints/pretrain").exists());
    output
}

/// Intermediate checkpoints are whole: the newest can be resumed from, and each has its model.
fn assert_whole(run: &Path) {
    let mut folders: BTreeMap<String, bool> = BTreeMap::new();
    for entry in fs::read_dir(run.join("steps/pretrain")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            assert!(path.join("model.safetensors").exists() && path.join("lineage.json").exists(), "{name}");
            folders.insert(name, path.join("state/progress.json").exists());
        }
    }
    assert_eq!(folders.last_key_value().map(|(_, resumable)| *resumable), Some(true), "{folders:?}");
}

#[test]
#[cfg_attr(not(feature = "mpi"), ignore = "needs --features mpi and mpirun")]
fn a_killed_rank_ends_all_with_one_line_and_training_goes_on_with_any_number() {
    if !has_mpirun() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (undisturbed, run) = (folder.path().join("undisturbed"), folder.path().join("run"));
    succeed(pretrain(1, &undisturbed));
    for (killed, step) in [(1, "000040"), (0, "000100")] {
        let output = disturb(pretrain(2, &run), &run, step, killed, "-KILL");
        let stderr = text(&output.stderr);
        let said: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        let expected = format!(
            "error: rank {} of 2 was told to end, as happens when another rank has ended; what is saved is kept, and the same command \
             goes on from there",
            1 - killed
        );
        assert_eq!(said, [expected], "{stderr}");
        assert_whole(&run);
    }
    // Resumed on one rank, and killed there as well, then on two to the end.
    let mut alone = pretrain(1, &run).spawn().unwrap();
    while !run.join("steps/pretrain/000140").exists() {
        assert!(alone.try_wait().unwrap().is_none(), "ended before it was killed");
        thread::sleep(Duration::from_millis(1));
    }
    signal("-KILL", alone.id());
    alone.wait().unwrap();
    succeed(pretrain(2, &run));
    assert_same_losses(&run, &undisturbed, "pretrain", 200);
    assert!(weights(&run, "pretrain") == weights(&undisturbed, "pretrain"));
}

#[test]
#[cfg_attr(not(feature = "mpi"), ignore = "needs --features mpi and mpirun")]
fn a_rank_that_hangs_is_waited_for_so_long_and_no_longer() {
    if !has_mpirun() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let command = train(2, &run, &["--until", "pretrain", "--rank-timeout", "2"]);
    let output = disturb(command, &run, "000020", 1, "-STOP");
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains("error: rank 0 of 2 has waited 2 s for another rank, which has ended or hangs; "),
        "{stderr}"
    );
}

#[test]
#[cfg_attr(not(feature = "mpi"), ignore = "needs --features mpi and mpirun")]
fn an_error_of_all_ranks_is_told_once() {
    if !has_mpirun() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    fs::write(&run, "a file where a folder should be").unwrap();
    let output = pretrain(2, &run).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{stderr}");

    let output = command(2, &["ls"]).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    let said: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(said, ["error: mpirun has started 2 processes, but only `train` is shared by several; start one"]);
}

#[test]
fn variables_of_launchers_that_contradict_each_other_are_named() {
    let variables = [("RANK", "0"), ("WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "3")];
    let output = command(1, &["train", "unused"]).envs(variables).output().unwrap();
    let expected = "error: OMPI_COMM_WORLD_RANK=0 of OMPI_COMM_WORLD_SIZE=3 contradicts RANK=0 of WORLD_SIZE=2; \
                    was this started by mpirun, torchrun or srun?\n";
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(1), expected.to_owned()));
}

#[test]
fn processes_that_cannot_speak_to_each_other_do_not_train() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let output = pretrain(1, &run).envs([("RANK", "0"), ("WORLD_SIZE", "2")]).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: torchrun has started 2 processes, "), "{stderr}");
    assert!(!run.exists());
}
