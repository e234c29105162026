//! Finished phases shared between lineages: a phase made from the same inputs is trained once.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use trainer::data;

/// A folder of what finished phases have left in their runs, named by the hash of everything it was made from.
///
/// Files are linked rather than copied where the file system can: what a finished phase has written is never edited, only replaced.
/// Several processes may use one store at a time.
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

    /// Whether something is stored under `key`.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.dir.join(key).exists()
    }

    /// Puts what is stored under `key` into a run, the checkpoint last; false where there is nothing.
    pub(crate) fn fetch(&self, key: &str, run: &Path, files: &[PathBuf], checkpoint: &Path) -> Result<bool> {
        let source = self.dir.join(key);
        if !source.exists() {
            return Ok(false);
        }
        for file in files.iter().filter(|file| source.join(file).exists()) {
            link_file(&source.join(file), &run.join(file))?;
        }
        link_folder(&source.join(checkpoint), &run.join(checkpoint))?;
        Ok(true)
    }

    /// Stores what a finished phase has left in a run: its checkpoint, and those of the files that it has.
    pub(crate) fn keep(&self, key: &str, run: &Path, files: &[PathBuf], checkpoint: &Path) -> Result<()> {
        let destination = self.dir.join(key);
        if destination.exists() {
            return Ok(());
        }
        let partial = partial_of(&destination)?;
        for file in files.iter().filter(|file| run.join(file).exists()) {
            link_file(&run.join(file), &partial.join(file))?;
        }
        link_entries(&run.join(checkpoint), &partial.join(checkpoint))?;
        publish(&partial, &destination)
    }
}

/// Links files and folders; `destination` appears whole or not at all, and stays as it is where another process was faster.
pub(crate) fn link_folder(source: &Path, destination: &Path) -> Result<()> {
    let partial = partial_of(destination)?;
    link_entries(source, &partial)?;
    publish(&partial, destination)
}

/// A place beside `destination` to make it in, empty.
fn partial_of(destination: &Path) -> Result<PathBuf> {
    let name = destination.file_name().unwrap_or_default().to_string_lossy();
    let partial = destination.with_file_name(format!(".{name}.{}.partial", std::process::id()));
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    Ok(partial)
}

fn publish(partial: &Path, destination: &Path) -> Result<()> {
    match fs::rename(partial, destination) {
        Err(_) if destination.exists() => {
            fs::remove_dir_all(partial).with_context(|| format!("cannot remove {}", partial.display()))
        }
        renamed => renamed.with_context(|| format!("cannot write {}", destination.display())),
    }
}

/// Links a file, with the folders above it; what is there is replaced.
fn link_file(source: &Path, destination: &Path) -> Result<()> {
    if let Some(folder) = destination.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    if destination.exists() {
        fs::remove_file(destination).with_context(|| format!("cannot remove {}", destination.display()))?;
    }
    fs::hard_link(source, destination)
        .or_else(|_| fs::copy(source, destination).map(|_| ()))
        .with_context(|| format!("cannot write {}", destination.display()))
}

fn link_entries(source: &Path, destination: &Path) -> Result<()> {
    fs::create_dir_all(destination).with_context(|| format!("cannot create {}", destination.display()))?;
    for entry in fs::read_dir(source).with_context(|| format!("cannot read {}", source.display()))? {
        let entry = entry?;
        let target = destination.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            link_entries(&entry.path(), &target)?;
        } else {
            link_file(&entry.path(), &target)?;
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
        let run = dir.path().join("run");
        let (checkpoint, log, lacking) =
            (Path::new("checkpoints/sft"), PathBuf::from("logs/sft.jsonl"), PathBuf::from("x"));
        fs::create_dir_all(run.join(checkpoint).join("state")).unwrap();
        fs::write(run.join(checkpoint).join("state/weights"), "w").unwrap();
        fs::create_dir_all(run.join("logs")).unwrap();
        fs::write(run.join(&log), "l").unwrap();
        let store = PhaseStore::at(&dir.path().join("store"));
        let key = PhaseStore::key(&["sft", "seed 1"]);
        let other = dir.path().join("other");
        fs::create_dir_all(other.join("checkpoints")).unwrap();
        let files = [log.clone(), lacking];
        assert!(!store.fetch(&key, &other, &files, checkpoint).unwrap());
        store.keep(&key, &run, &files, checkpoint).unwrap();
        assert!(store.fetch(&key, &other, &files, checkpoint).unwrap());
        assert_eq!(fs::read_to_string(other.join(checkpoint).join("state/weights")).unwrap(), "w");
        assert_eq!(fs::read_to_string(other.join(log)).unwrap(), "l");
        assert_ne!(key, PhaseStore::key(&["sft", "seed 2"]));
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
