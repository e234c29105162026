//! A folder belongs to one process while it trains or asks: two that write answers or checkpoints side by side undo each other's work.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Takes a folder, made where it is not there yet, for as long as what is returned lives.
///
/// The lock goes with its process, so that a killed one leaves nothing taken. Its file stays: were it removed, two processes could each lock
/// a file of this name.
///
/// # Errors
/// Where another process has the folder.
pub(crate) fn take(folder: &Path) -> Result<File> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let path = folder.join(".lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    match try_lock(&file) {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("{} is in use by another process", folder.display()),
        // A file system without locks is worked on without.
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Tries some times: who looks whether a folder is taken ([`is_taken`]) has its lock for a moment.
fn try_lock(file: &File) -> Result<(), TryLockError> {
    for _ in 0..50 {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(5)),
            outcome => return outcome,
        }
    }
    file.try_lock()
}

/// Whether a process has the folder now; nothing is made, and nobody is kept from taking it.
///
/// The lock is tried for a moment, shared, so that two who look do not see each other; [`take`] tries again where it meets one. Where it cannot
/// be told (a file system without locks) the answer is yes: who follows a run goes on looking.
pub(crate) fn is_taken(folder: &Path) -> bool {
    match File::open(folder.join(".lock")) {
        // The lock goes with the file.
        Ok(file) => file.try_lock_shared().is_err(),
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::{is_taken, take};
    use crate::run::Run;

    #[test]
    fn a_run_is_locked_once_at_a_time_and_by_its_owner_as_often_as_it_likes() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        let run = Run::at(&folder);
        run.lock().unwrap();
        run.lock().unwrap();
        let error = take(&folder).unwrap_err().to_string();
        assert_eq!(error, format!("{} is in use by another process", folder.display()));
        assert!(is_taken(&folder));
        drop(run);
        assert!(!is_taken(&folder));
        take(&folder).unwrap();
    }

    #[test]
    fn who_only_looks_keeps_nobody_from_taking() {
        let dir = tempfile::tempdir().unwrap();
        drop(take(dir.path()).unwrap());
        let looking = std::fs::File::open(dir.path().join(".lock")).unwrap();
        looking.try_lock_shared().unwrap();
        let looker = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(10));
            drop(looking);
        });
        take(dir.path()).unwrap();
        looker.join().unwrap();
    }
}
