//! What a phase keeps on disk to resume from: folders that appear whole, and in them the optimizer's moments and its progress.

use crate::error::{Error, Result};
use crate::ranks::decays;
use crate::tally::Tally;
use candle_core::Var;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Version of the files in `state/`.
const FORMAT: u32 = 1;

/// How far a phase has come (`state/progress.json`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Saved {
    format: u32,
    /// Steps done.
    pub(crate) step: u64,
    /// Sums over them.
    pub(crate) tally: Tally,
}

/// Optimizer state by tensor name: shape and values.
pub(crate) type Moments = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The optimizer's moments as tensors: `exp_avg.NAME` and `exp_avg_sq.NAME`, as PyTorch calls them.
pub(crate) fn name_moments(parameters: &[(String, Var)], moments: &[kernels::Moments]) -> Moments {
    let mut named = Moments::new();
    for ((name, var), moments) in parameters.iter().zip(moments) {
        named.insert(format!("exp_avg.{name}"), (var.dims().to_vec(), moments.m.clone()));
        named.insert(format!("exp_avg_sq.{name}"), (var.dims().to_vec(), moments.v.clone()));
    }
    named
}

/// Saved moments in the order of the parameters.
///
/// # Errors
/// [`lm::Error::MissingTensor`] where one was not saved.
pub(crate) fn order_moments(parameters: &[(String, Var)], mut saved: Moments) -> Result<Vec<kernels::Moments>> {
    let mut take = |name: String| match saved.remove(&name) {
        Some((_, values)) => Ok(values),
        None => Err(Error::Lm(lm::Error::MissingTensor { name })),
    };
    let restore = |(name, var): &(String, Var)| {
        let (m, v) = (take(format!("exp_avg.{name}"))?, take(format!("exp_avg_sq.{name}"))?);
        Ok(kernels::Moments { name: name.clone(), decays: decays(var), m, v })
    };
    parameters.iter().map(restore).collect()
}

/// Writes `state/` into a checkpoint folder that is being made.
pub(crate) fn save(folder: &Path, step: u64, tally: &Tally, moments: &Moments) -> Result<()> {
    let state = folder.join("state");
    fs::create_dir_all(&state).map_err(Error::file("create", &state))?;
    save_moments(&state.join("optimizer.safetensors"), moments)?;
    let saved = Saved { format: FORMAT, step, tally: tally.clone() };
    let mut text = serde_json::to_string_pretty(&saved).expect("progress prints");
    text.push('\n');
    let path = state.join("progress.json");
    fs::write(&path, text).map_err(Error::file("write", &path))
}

/// Reads `state/` of an intermediate checkpoint.
pub(crate) fn load(folder: &Path) -> Result<(Saved, Moments)> {
    let path = folder.join("state").join("progress.json");
    let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    let saved: Saved = serde_json::from_str(&text).map_err(|e| unusable(&path, &e))?;
    if saved.format != FORMAT {
        return Err(unusable(&path, &format!("has format {}, this program reads {FORMAT}", saved.format)));
    }
    let moments = load_moments(&folder.join("state").join("optimizer.safetensors"))?;
    Ok((saved, moments))
}

/// The newest intermediate checkpoint that can be resumed from.
pub(crate) fn find_newest(steps: &Path) -> Result<Option<PathBuf>> {
    Ok(list(steps)?.into_iter().rev().find(|folder| is_resumable(folder)))
}

/// Removes the state, but not the model, of every intermediate checkpoint but the newest; or of all.
pub(crate) fn drop_states(steps: &Path, keep: Option<&Path>) -> Result<()> {
    for folder in list(steps)? {
        let state = folder.join("state");
        if keep != Some(folder.as_path()) && state.exists() {
            // First what makes it resumable, so that a process killed in between leaves no half state to resume from.
            remove_file(&state.join("progress.json"))?;
            fs::remove_dir_all(&state).map_err(Error::file("remove", &state))?;
        }
    }
    Ok(())
}

/// Makes a folder that appears whole: `fill` writes under a temporary name beside it, which is then renamed.
pub(crate) fn write_folder(folder: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = folder.parent().expect("a checkpoint folder has a parent");
    fs::create_dir_all(parent).map_err(Error::file("create", parent))?;
    let temporary = temporary_of(folder);
    remove_folder(&temporary)?;
    fill(&temporary)?;
    fs::rename(&temporary, folder).map_err(Error::file("rename", folder))
}

/// Finds out before training whether a folder can be written in the end, and removes what a killed process left of it.
pub(crate) fn prepare(folder: &Path) -> Result<()> {
    let temporary = temporary_of(folder);
    remove_folder(&temporary)?;
    fs::create_dir_all(&temporary).map_err(Error::file("create", &temporary))?;
    remove_folder(&temporary)
}

/// Removes what a killed process left under temporary names among the intermediate checkpoints.
pub(crate) fn remove_leftovers(steps: &Path) -> Result<()> {
    for path in entries(steps)? {
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            remove_folder(&path)?;
        }
    }
    Ok(())
}

fn temporary_of(folder: &Path) -> PathBuf {
    let name = folder.file_name().expect("a checkpoint folder has a name").to_string_lossy();
    folder.with_file_name(format!(".{name}.tmp"))
}

/// The folder of an intermediate checkpoint.
pub(crate) fn step_folder(steps: &Path, step: u64) -> PathBuf {
    steps.join(format!("{step:06}"))
}

/// Intermediate checkpoints, by step.
pub(crate) fn list(steps: &Path) -> Result<Vec<PathBuf>> {
    let step_of = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u64>().ok();
    let mut folders: Vec<(u64, PathBuf)> =
        entries(steps)?.into_iter().filter_map(|path| Some((step_of(&path)?, path))).collect();
    folders.sort();
    Ok(folders.into_iter().map(|(_, path)| path).collect())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("read", folder)(error)),
    };
    entries.map(|entry| Ok(entry.map_err(Error::file("read", folder))?.path())).collect()
}

fn is_resumable(folder: &Path) -> bool {
    folder.join("state").join("progress.json").is_file()
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::file("remove", folder)(error)),
        _ => Ok(()),
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}

fn save_moments(path: &Path, moments: &Moments) -> Result<()> {
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = moments
        .iter()
        .map(|(name, (shape, values))| (name, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views: Vec<(&String, TensorView<'_>)> = bytes
        .iter()
        .map(|(name, shape, data)| {
            let view = TensorView::new(Dtype::F32, (*shape).clone(), data).expect("a moment has its parameter's shape");
            (*name, view)
        })
        .collect();
    let file = safetensors::serialize(views, None).map_err(|e| unusable(path, &e))?;
    fs::write(path, file).map_err(Error::file("write", path))
}

fn load_moments(path: &Path) -> Result<Moments> {
    let bytes = fs::read(path).map_err(Error::file("read", path))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| unusable(path, &e))?;
    let mut moments = Moments::new();
    for (name, view) in file.iter() {
        if view.dtype() != Dtype::F32 {
            return Err(unusable(path, &format!("tensor `{name}` is {:?}, expected F32", view.dtype())));
        }
        let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        moments.insert(name.to_owned(), (view.shape().to_vec(), values));
    }
    Ok(moments)
}

fn unusable(path: &Path, reason: &dyn std::fmt::Display) -> Error {
    Error::State { path: path.to_path_buf(), message: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::{Moments, drop_states, find_newest, load, remove_leftovers, save, step_folder, write_folder};
    use crate::error::Error;
    use crate::tally::Tally;
    use std::fs;

    fn moments() -> Moments {
        Moments::from([("exp_avg.a".to_owned(), (vec![2, 2], vec![0.1, -2.0, f32::MIN_POSITIVE, 1e-30]))])
    }

    #[test]
    fn a_saved_state_is_read_back_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), 12, &Tally::default(), &moments()).unwrap();
        let (saved, read) = load(folder.path()).unwrap();
        assert_eq!((saved.step, read), (12, moments()));
    }

    #[test]
    fn a_folder_that_could_not_be_filled_does_not_appear() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("steps").join("000002");
        let outcome = write_folder(&folder, |temporary| {
            save(temporary, 2, &Tally::default(), &moments())?;
            Err(Error::NoData { path: temporary.to_path_buf(), what: "luck" })
        });
        assert!(outcome.is_err());
        assert!(!folder.exists());
        remove_leftovers(&root.path().join("steps")).unwrap();
        assert_eq!(fs::read_dir(root.path().join("steps")).unwrap().count(), 0);
    }

    #[test]
    fn the_newest_complete_state_is_found_and_older_ones_keep_only_their_model() {
        let root = tempfile::tempdir().unwrap();
        for step in [5, 10, 15] {
            let folder = step_folder(root.path(), step);
            write_folder(&folder, |f| save(f, step, &Tally::default(), &moments())).unwrap();
            fs::write(folder.join("model.safetensors"), "weights").unwrap();
        }
        fs::remove_file(step_folder(root.path(), 15).join("state/progress.json")).unwrap();
        let newest = find_newest(root.path()).unwrap().unwrap();
        assert_eq!(newest, step_folder(root.path(), 10));
        drop_states(root.path(), Some(&newest)).unwrap();
        assert!(!step_folder(root.path(), 5).join("state").exists());
        assert!(step_folder(root.path(), 5).join("model.safetensors").exists());
        assert_eq!(find_newest(root.path()).unwrap(), Some(newest));
    }

    #[test]
    fn a_truncated_optimizer_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), 1, &Tally::default(), &moments()).unwrap();
        let path = folder.path().join("state/optimizer.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        let error = load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("optimizer.safetensors"), "{error}");
    }
}
