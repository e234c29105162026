//! The program on two ranks that find each other as `torchrun` and `srun` say: over TCP, here on the CPU.
//!
//! Needs the feature `nccl`, but no GPU: `cargo test --release --features nccl --test tcp`.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const RECIPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/binary/tiny.toml");

/// Pretraining with a batch of two pieces a step, one for each rank, as rank number `rank` of those that meet at `port`; alone where there is none.
fn pretrain(run: &Path, rank: Option<(usize, u16)>, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phasetrace"));
    command.args(["train", run.to_str().unwrap(), "--recipe", RECIPE, "--until", "pretrain", "--threads", "1"]);
    for set in ["steps=200", "save_every=20"] {
        command.args(["--set", &format!("pretrain.{set}")]);
    }
    command.args(more).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["RECIPE", "SEED", "THREADS", "QUIET", "SKIP_BAD", "RANK_TIMEOUT", "DEVICE", "RECOMPUTE"] {
        command.env_remove(format!("PHASETRACE_{name}"));
    }
    command.env_remove("TORCHELASTIC_USE_AGENT_STORE");
    if let Some((rank, port)) = rank {
        command.envs([("RANK", rank.to_string()), ("LOCAL_RANK", rank.to_string()), ("WORLD_SIZE", "2".to_owned())]);
        command.envs([("MASTER_ADDR", "127.0.0.1".to_owned()), ("MASTER_PORT", port.to_string())]);
    }
    command
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn start(run: &Path, more: &[&str]) -> [Child; 2] {
    let port = free_port();
    [0, 1].map(|rank| pretrain(run, Some((rank, port)), more).spawn().unwrap())
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn weights(run: &Path) -> Vec<u8> {
    fs::read(run.join("checkpoints/pretrain/model.safetensors")).unwrap()
}

#[test]
#[cfg_attr(not(feature = "nccl"), ignore = "needs --features nccl")]
fn two_ranks_come_to_the_weights_of_one_and_a_killed_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (alone, run) = (folder.path().join("alone"), folder.path().join("run"));
    let output = pretrain(&alone, None, &[]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));

    let [first, mut second] = start(&run, &[]);
    let clock = Instant::now();
    while !run.join("steps/pretrain/000020").exists() {
        assert!(clock.elapsed() < Duration::from_secs(120), "no step is saved");
        thread::sleep(Duration::from_millis(1));
    }
    second.kill().unwrap();
    second.wait().unwrap();
    let output = first.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let lost = "error: rank 1 of 2 no longer answers; what is saved is kept, start again to go on from there";
    assert_eq!(stderr(&output).lines().filter(|line| line.starts_with("error: ")).collect::<Vec<_>>(), [lost]);
    assert!(!run.join("checkpoints/pretrain").exists());

    let [first, second] = start(&run, &[]).map(|child| child.wait_with_output().unwrap());
    for output in [&first, &second] {
        assert!(output.status.success(), "{}", stderr(output));
    }
    assert_eq!(String::from_utf8_lossy(&first.stdout), format!("{}\n", run.display()));
    assert_eq!((second.stdout.len(), stderr(&second)), (0, String::new()));
    assert!(weights(&run) == weights(&alone));
}

#[test]
#[cfg_attr(not(feature = "nccl"), ignore = "needs --features nccl")]
fn a_rank_that_stays_alone_says_where_it_has_waited() {
    let folder = tempfile::tempdir().unwrap();
    for (rank, what) in [(0, "rank 1 of 2 has not come to"), (1, "rank 1 of 2 has not reached rank 0 at")] {
        let (run, port) = (folder.path().join("run"), free_port());
        let output = pretrain(&run, Some((rank, port)), &["--rank-timeout", "1"]).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("{what} 127.0.0.1:{port} within 1 s")), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!run.exists());
    }
}
