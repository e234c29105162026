//! A folder belongs to one process while it trains or asks: two that write answers or checkpoints side by side undo each other's work.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;

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
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("{} is in use by another process", folder.display()),
        // A file system without locks is worked on without.
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::take;
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
        drop(run);
        take(&folder).unwrap();
    }
}
