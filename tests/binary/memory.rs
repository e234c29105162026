//! Memory of a long training: what a step takes is given back or used again.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::program::{Outcome, RECIPE, arg, phasetrace};

const STEPS: usize = 5_000;
/// From here on everything that is made once has been made.
const SETTLED: usize = 1_000;
/// One tensor of the model leaked per step would be ten times as much.
const ALLOWED_KIB: usize = 2_048;

/// What the process itself has written to, in memory or swapped out. Pages of the program's file are left out: the
/// system takes them away and brings them back as it likes.
fn written_kib(pid: u32) -> Option<usize> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |key: &str| -> Option<usize> {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    };
    Some(kib("RssAnon:")? + kib("VmSwap:")?)
}

fn steps_logged(run: &Path) -> usize {
    fs::read_to_string(run.join("logs/pretrain.jsonl")).map_or(0, |log| log.lines().count())
}

#[test]
fn memory_is_flat_over_five_thousand_steps() {
    let folder = tempfile::tempdir().unwrap();
    let steps = format!("pretrain.steps={STEPS}");
    let small = ["pretrain.batch_sequences=1", "pretrain.sequence_tokens=32", "pretrain.save_every=0", &steps];
    let settings = small.iter().flat_map(|setting| ["--set", setting]);
    let mut command = phasetrace(&["train", arg(folder.path()), "--recipe", RECIPE, "--until", "pretrain"]);
    let mut child = command.args(settings).spawn().unwrap();
    let mut settled = Vec::new();
    while child.try_wait().unwrap().is_none() {
        // Read before the steps are counted: a reading that comes after the last step would see the checkpoint written.
        let written = written_kib(child.id());
        let step = steps_logged(folder.path());
        if let Some(kib) = written.filter(|_| (SETTLED..STEPS).contains(&step)) {
            settled.push((step, kib));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let outcome = Outcome::from(child.wait_with_output().unwrap());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let (&(first_step, first), &(last_step, last)) = (settled.first().unwrap(), settled.last().unwrap());
    assert!(last_step > first_step + STEPS / 2, "seen only from step {first_step} to {last_step}");
    assert!(last <= first + ALLOWED_KIB, "{first} KiB at step {first_step}, {last} KiB at step {last_step}");
}
