//! Finished phases shared between lineages: a phase made from the same inputs is trained once.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use trainer::data;

/// A folder of finished checkpoints, named by the hash of everything they were made from.
///
/// Files are linked rather than copied where the file system can: a finished checkpoint is never edited. Several processes may use
/// one store at a time.
pub(crate) struct PhaseStore {
    dir: PathBuf,
}

impl PhaseStore {
    pub(crate) fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The name of what is made from these inputs: phase, seed, recipe sections, hashes of data and parents.
    pub(crate) fn key(inputs: &[&str]) -> String {
        data::hash(inputs.join("\n").as_bytes())
    }

    /// Puts the stored checkpoint at `destination`; false where there is none.
    pub(crate) fn fetch(&self, key: &str, destination: &Path) -> Result<bool> {
        let source = self.dir.join(key);
        if !source.exists() {
            return Ok(false);
        }
        link_folder(&source, destination)?;
        Ok(true)
    }

    /// Stores a finished checkpoint.
    pub(crate) fn keep(&self, key: &str, source: &Path) -> Result<()> {
        let destination = self.dir.join(key);
        if destination.exists() { Ok(()) } else { link_folder(source, &destination) }
    }
}

/// Links files and folders; `destination` appears whole or not at all, and stays as it is where another process was faster.
fn link_folder(source: &Path, destination: &Path) -> Result<()> {
    let name = destination.file_name().unwrap_or_default().to_string_lossy();
    let partial = destination.with_file_name(format!(".{name}.{}.partial", std::process::id()));
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    link_entries(source, &partial)?;
    match fs::rename(&partial, destination) {
        Err(_) if destination.exists() => {
            fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))
        }
        renamed => renamed.with_context(|| format!("cannot write {}", destination.display())),
    }
}

fn link_entries(source: &Path, destination: &Path) -> Result<()> {
    fs::create_dir_all(destination).with_context(|| format!("cannot create {}", destination.display()))?;
    for entry in fs::read_dir(source).with_context(|| format!("cannot read {}", source.display()))? {
        let entry = entry?;
        let target = destination.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            link_entries(&entry.path(), &target)?;
        } else {
            fs::hard_link(entry.path(), &target)
                .or_else(|_| fs::copy(entry.path(), &target).map(|_| ()))
                .with_context(|| format!("cannot write {}", target.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_can_be_fetched_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::create_dir_all(source.join("state")).unwrap();
        fs::write(source.join("state/weights"), "w").unwrap();
        let store = PhaseStore::at(&dir.path().join("store"));
        let key = PhaseStore::key(&["pretrain", "seed 1"]);
        let target = dir.path().join("target");
        assert!(!store.fetch(&key, &target).unwrap());
        store.keep(&key, &source).unwrap();
        assert!(store.fetch(&key, &target).unwrap());
        assert_eq!(fs::read_to_string(target.join("state/weights")).unwrap(), "w");
        assert_ne!(key, PhaseStore::key(&["pretrain", "seed 2"]));
    }

    #[test]
    fn a_folder_that_another_process_put_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("ours", "ours"), ("theirs", "theirs")] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("weights"), text).unwrap();
        }
        link_folder(&dir.path().join("ours"), &dir.path().join("theirs")).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("theirs/weights")).unwrap(), "theirs");
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}
