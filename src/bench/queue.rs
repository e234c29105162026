//! Tasks shared by several processes: each task is done once, by whoever takes it first.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// A task, and where its outcome lies once it is done.
pub(crate) struct Task<T> {
    /// What is to be done.
    pub(crate) work: T,
    /// The file that is there when it is done.
    pub(crate) outcome: PathBuf,
    /// Outcomes that must be there before.
    pub(crate) after: Vec<PathBuf>,
}

/// Removes outcomes that are not what their tasks would make now, so that they are made again.
///
/// Asked once, before the work: what appears afterwards was made by a task of this plan, here or in a process that shares it.
pub(crate) fn remove_stale<T>(tasks: &[Task<T>], is_stale: impl Fn(&Task<T>) -> Result<bool>) -> Result<()> {
    for task in tasks.iter().filter(|task| task.outcome.exists()) {
        // Whoever holds the lock makes it again.
        let Some(_lock) = lock(&task.outcome)? else { continue };
        if task.outcome.exists() && is_stale(task)? {
            fs::remove_file(&task.outcome).with_context(|| format!("cannot remove {}", task.outcome.display()))?;
        }
    }
    Ok(())
}

/// Does all tasks, those that can be done first; waits where others are at work on what is left.
///
/// A task is taken by locking a file beside its outcome. The lock goes with its process, so that a killed one leaves nothing taken.
///
/// # Errors
/// Those of the tasks that failed, once everything that does not need them is done.
pub(crate) fn work_off<T>(tasks: &[Task<T>], mut work: impl FnMut(&T) -> Result<()>) -> Result<()> {
    let mut failed = BTreeMap::<&Path, anyhow::Error>::new();
    loop {
        let lost = find_lost(tasks, &failed);
        let is_open = |task: &&Task<T>| !task.outcome.exists() && !lost.contains(task.outcome.as_path());
        let open: Vec<&Task<T>> = tasks.iter().filter(is_open).collect();
        if open.is_empty() {
            return report(failed);
        }
        let mut has_worked = false;
        for task in open.into_iter().filter(|task| task.after.iter().all(|needed| needed.exists())) {
            let Some(_lock) = lock(&task.outcome)? else { continue };
            // Somebody may have done it since.
            if !task.outcome.exists() {
                has_worked = true;
                if let Err(error) = work(&task.work) {
                    failed.insert(&task.outcome, error);
                }
            }
        }
        if !has_worked {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

/// Outcomes that will not come: of tasks that failed, and of all that need those.
fn find_lost<'a, T>(tasks: &'a [Task<T>], failed: &BTreeMap<&Path, anyhow::Error>) -> BTreeSet<&'a Path> {
    let mut lost = BTreeSet::<&Path>::new();
    loop {
        let n_known = lost.len();
        for task in tasks.iter().filter(|task| !task.outcome.exists()) {
            let outcome = task.outcome.as_path();
            if failed.contains_key(outcome) || task.after.iter().any(|needed| lost.contains(needed.as_path())) {
                lost.insert(outcome);
            }
        }
        if lost.len() == n_known {
            return lost;
        }
    }
}

/// The failures as one error.
fn report(failed: BTreeMap<&Path, anyhow::Error>) -> Result<()> {
    let lines: Vec<String> = failed.iter().map(|(path, error)| format!("{}: {error:#}", path.display())).collect();
    if lines.is_empty() { Ok(()) } else { bail!("{} of the tasks failed:\n{}", lines.len(), lines.join("\n")) }
}

fn lock(outcome: &Path) -> Result<Option<File>> {
    let path = outcome.with_extension("lock");
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn two_workers_do_each_task_once_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let outcome = |name: &str| dir.path().join(name);
        let tasks: Vec<Task<&str>> = ["c", "a", "b"]
            .map(|name| Task {
                work: name,
                outcome: outcome(name),
                after: if name == "c" { vec![outcome("a"), outcome("b")] } else { Vec::new() },
            })
            .into();
        let done = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    work_off(&tasks, |name| {
                        std::thread::sleep(Duration::from_millis(20));
                        done.lock().unwrap().push((*name).to_owned());
                        Ok(fs::write(outcome(name), "")?)
                    })
                    .unwrap();
                });
            }
        });
        let done = done.into_inner().unwrap();
        assert_eq!(done.len(), 3);
        assert_eq!(done[2], "c");
    }

    #[test]
    fn a_task_that_fails_stops_only_what_needs_it_at_first_or_second_hand() {
        let dir = tempfile::tempdir().unwrap();
        let outcome = |name: &str| dir.path().join(name);
        let task = |name: &'static str, after: &[&str]| Task {
            work: name,
            outcome: outcome(name),
            after: after.iter().copied().map(outcome).collect(),
        };
        let tasks = [task("a", &[]), task("c", &["needs a"]), task("needs a", &["a"]), task("b", &[])];
        let mut tried = Vec::new();
        let error = work_off(&tasks, |name| {
            tried.push(*name);
            if *name == "a" {
                bail!("no room");
            }
            Ok(fs::write(outcome(name), "")?)
        });
        assert_eq!(tried, ["a", "b"]);
        let message = error.unwrap_err().to_string();
        assert!(message.starts_with("1 of the tasks failed") && message.ends_with("a: no room"), "{message}");
    }

    #[test]
    fn stale_outcomes_are_removed_unless_somebody_is_at_work_on_them() {
        let dir = tempfile::tempdir().unwrap();
        let task = |name: &'static str| Task { work: name, outcome: dir.path().join(name), after: Vec::new() };
        let tasks = ["current", "stale", "stale, at work", "absent"].map(task);
        for task in &tasks[..3] {
            fs::write(&task.outcome, "").unwrap();
        }
        let _lock = lock(&tasks[2].outcome).unwrap().unwrap();
        remove_stale(&tasks, |task| {
            assert_ne!(task.work, "absent");
            Ok(task.work.starts_with("stale"))
        })
        .unwrap();
        assert_eq!(tasks.map(|task| task.outcome.exists()), [true, false, true, false]);
    }
}
