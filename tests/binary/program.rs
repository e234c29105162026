//! Starting the program, and a small run to start it on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The recipe of every test.
pub(crate) const RECIPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/binary/tiny.toml");

/// The phases of a run that answer questions.
pub(crate) const ASKED: [&str; 5] = ["pretrain", "sft", "rlhf", "sl-cai", "rl-cai"];

/// The program, undisturbed by the environment of whoever runs the tests.
pub(crate) fn phasetrace(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phasetrace"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["RECIPE", "SEED", "THREADS", "QUIET", "SKIP_BAD", "DEVICE", "RECOMPUTE"] {
        command.env_remove(format!("PHASETRACE_{name}"));
    }
    command
}

/// What came of a run of the program.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<std::process::Output> for Outcome {
    fn from(output: std::process::Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// Runs the program to its end.
pub(crate) fn run(args: &[&str]) -> Outcome {
    phasetrace(args).output().unwrap().into()
}

/// Runs the program, which must succeed, and gives its standard output.
pub(crate) fn succeed(args: &[&str]) -> String {
    let outcome = run(args);
    assert_eq!(outcome.code, Some(0), "{args:?}: {}", outcome.stderr);
    outcome.stdout
}

/// A path as an argument.
pub(crate) fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A finished run, trained once for all tests that only read it.
pub(crate) fn trained() -> &'static Path {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    RUN.get_or_init(|| {
        let run = Path::new(env!("CARGO_TARGET_TMPDIR")).join("trained");
        if run.exists() {
            // Of another version of the program.
            fs::remove_dir_all(&run).unwrap();
        }
        succeed(&["train", arg(&run), "--recipe", RECIPE]);
        run
    })
}

/// A copy of one of its checkpoints, to be spoilt.
pub(crate) fn copy_checkpoint(phase: &str, folder: &Path) -> PathBuf {
    let copy = folder.join(phase);
    fs::create_dir_all(&copy).unwrap();
    for entry in fs::read_dir(trained().join("checkpoints").join(phase)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
        }
    }
    copy
}

/// Copies a folder with everything below it.
pub(crate) fn copy(from: &Path, to: &Path) {
    for (name, bytes) in files(from) {
        let path = to.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Every file below a folder, with its content.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
        } else {
            found.insert(name, fs::read(&path).unwrap());
        }
    }
    found
}
