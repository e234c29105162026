//! What was answered, in `results.parquet`: what was asked is not asked again.
//!
//! # Layout
//! `results.parquet` holds everything of finished probing; while probing, each append goes to a small file of its own,
//! `results/part-NNNNNN.parquet`, and [`Store::finish`] merges the parts. Reading takes the union of both.
//!
//! Why so: Parquet has its index at the end, so it cannot be appended to, and rewriting the whole file per batch is
//! quadratic. With parts an append costs its own rows only, and every file appears by a rename, so it is there whole or not at
//! all. `kill -9` loses the batch in flight and nothing else. Killed inside `finish`, between the rename of the merged
//! file and the deletion of the parts, rows are there twice; they are equal, and the union by key keeps one.
//!
//! One process at a time: a second one would number its parts as the first does, and remove parts that it has not read. Whoever opens a store
//! to append to it keeps others out of the folder.
//!
//! Rows are sorted by key before they are written, so the merged file does not depend on the order in which batches came.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use polars::prelude::{
    Column, DataFrame, NamedFrom, ParquetCompression, ParquetReader, ParquetWriter, PolarsResult, SerReader, Series,
};
use probes::response::{Form, Label, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// File of finished probing, in a run folder.
pub const RESULTS_FILE: &str = "results.parquet";
/// Folder of what was appended since.
pub const PARTS_DIR: &str = "results";

/// What makes two answers comparable, beside the checkpoint: the items and the way they are asked and scored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreKey {
    /// SHA-256 of the item bank.
    pub bank_hash: String,
    /// Version of the probes.
    pub probe_version: u32,
}

/// The results of a run folder.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    key: StoreKey,
    rows: BTreeMap<RowKey, Response>,
    next_part: u64,
}

/// Place of a row: also the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct RowKey {
    bank_hash: String,
    probe_version: u32,
    subject: String,
    item: String,
    form: Form,
}

impl Store {
    /// Opens the results of the run folder `folder`; a missing file is an empty store.
    ///
    /// Rows of other banks and probe versions are kept in the file, but not seen through this store.
    ///
    /// # Errors
    /// [`Error::CorruptResults`] where a file is not what this module writes: nothing is thrown away on a guess.
    pub fn open(folder: &Path, key: StoreKey) -> Result<Self> {
        let mut store = Self { folder: folder.to_owned(), key, rows: BTreeMap::new(), next_part: 0 };
        let whole = store.results_file();
        if whole.exists() {
            store.rows = read_rows(&whole)?;
        }
        for part in store.parts()? {
            let number = part_number(&part).unwrap_or(0);
            store.next_part = store.next_part.max(number + 1);
            for (key, response) in read_rows(&part)? {
                store.rows.entry(key).or_insert(response);
            }
        }
        Ok(store)
    }

    /// The questions that `subject` has answered.
    pub fn known(&self, subject: &str) -> BTreeSet<(String, Form)> {
        self.seen().filter(|row| row.subject == subject).map(|row| (row.item.clone(), row.form)).collect()
    }

    /// All answers to this bank and probe version, sorted by subject, item and form.
    pub fn responses(&self) -> Vec<Response> {
        self.seen().cloned().collect()
    }

    /// Number of answers to this bank and probe version.
    pub fn len(&self) -> usize {
        self.seen().count()
    }

    /// Whether nothing of this bank and probe version was answered yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds answers and makes them safe on disk before it returns. An answer that is there already stays as it is.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::WriteResults`] where the part cannot be written; the store is then unchanged.
    pub fn append(&mut self, responses: Vec<Response>) -> Result<()> {
        let mut fresh = BTreeMap::new();
        for response in responses {
            let key = self.key_of(&response);
            if !self.rows.contains_key(&key) {
                fresh.insert(key, response);
            }
        }
        if fresh.is_empty() {
            return Ok(());
        }
        let parts = self.parts_dir();
        fs::create_dir_all(&parts).map_err(|source| Error::Io { action: "create", path: parts.clone(), source })?;
        write_rows(&parts.join(format!("part-{:06}.parquet", self.next_part)), &fresh)?;
        self.next_part += 1;
        self.rows.append(&mut fresh);
        Ok(())
    }

    /// Merges everything into `results.parquet` and removes the parts. Does nothing where there are none.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::WriteResults`]; what was answered stays readable in any case.
    pub fn finish(&mut self) -> Result<()> {
        let parts = self.parts()?;
        if parts.is_empty() {
            return Ok(());
        }
        write_rows(&self.results_file(), &self.rows)?;
        for part in parts {
            fs::remove_file(&part).map_err(|source| Error::Io { action: "delete", path: part, source })?;
        }
        // The folder goes too, unless someone put something else there.
        let _ = fs::remove_dir(self.parts_dir());
        self.next_part = 0;
        Ok(())
    }

    fn seen(&self) -> impl Iterator<Item = &Response> {
        self.rows
            .iter()
            .filter(|(row, _)| row.bank_hash == self.key.bank_hash && row.probe_version == self.key.probe_version)
            .map(|(_, response)| response)
    }

    fn key_of(&self, response: &Response) -> RowKey {
        RowKey {
            bank_hash: self.key.bank_hash.clone(),
            probe_version: self.key.probe_version,
            subject: response.subject.clone(),
            item: response.item.clone(),
            form: response.form,
        }
    }

    fn results_file(&self) -> PathBuf {
        self.folder.join(RESULTS_FILE)
    }

    fn parts_dir(&self) -> PathBuf {
        self.folder.join(PARTS_DIR)
    }

    /// The finished parts, in order; half-written ones have another name.
    fn parts(&self) -> Result<Vec<PathBuf>> {
        let parts = self.parts_dir();
        if !parts.exists() {
            return Ok(Vec::new());
        }
        let read = |source| Error::Io { action: "read", path: parts.clone(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(&parts).map_err(read)? {
            let path = entry.map_err(read)?.path();
            if part_number(&path).is_some() {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }
}

fn part_number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("part-")?.strip_suffix(".parquet")?.parse().ok()
}

fn write_rows(path: &Path, rows: &BTreeMap<RowKey, Response>) -> Result<()> {
    let reason =
        |error: polars::error::PolarsError| Error::WriteResults { path: path.to_owned(), reason: error.to_string() };
    let mut frame = to_frame(rows).map_err(reason)?;
    let half_written = path.with_extension("parquet.tmp");
    let file = fs::File::create(&half_written).map_err(|source| Error::Io {
        action: "create",
        path: half_written.clone(),
        source,
    })?;
    // One thread and one row group: the same rows give the same bytes on every machine.
    let written = ParquetWriter::new(file)
        .with_compression(ParquetCompression::Zstd(None))
        .with_row_group_size(Some(rows.len().max(1)))
        .set_parallel(false)
        .finish(&mut frame);
    if let Err(error) = written {
        let _ = fs::remove_file(&half_written);
        return Err(reason(error));
    }
    fs::rename(&half_written, path).map_err(|source| Error::Io { action: "rename", path: path.to_owned(), source })
}

fn to_frame(rows: &BTreeMap<RowKey, Response>) -> PolarsResult<DataFrame> {
    fn column<'a, T, V>(
        name: &str,
        rows: &'a BTreeMap<RowKey, Response>,
        get: impl Fn(&'a RowKey, &'a Response) -> T,
    ) -> Column
    where
        V: ?Sized,
        Series: NamedFrom<Vec<T>, V>,
    {
        let values: Vec<T> = rows.iter().map(|(key, response)| get(key, response)).collect();
        Series::new(name.into(), values).into()
    }
    DataFrame::new(
        rows.len(),
        vec![
            column("bank_hash", rows, |k, _| k.bank_hash.as_str()),
            column("probe_version", rows, |k, _| k.probe_version),
            column("subject", rows, |_, r| r.subject.as_str()),
            column("item", rows, |_, r| r.item.as_str()),
            column("form", rows, |_, r| name_of(&r.form)),
            column("score", rows, |_, r| r.score),
            column("unscored", rows, |_, r| r.unscored.as_deref()),
            column("p_right", rows, |_, r| r.p_right),
            column("confidence", rows, |_, r| r.confidence),
            column("margin_nats", rows, |_, r| r.margin_nats),
            column("label", rows, |_, r| r.label.as_ref().map(name_of)),
            column("answer", rows, |_, r| r.answer.as_str()),
            column("prompt", rows, |_, r| r.prompt.as_str()),
        ],
    )
}

fn read_rows(path: &Path) -> Result<BTreeMap<RowKey, Response>> {
    let corrupt = |reason: String| Error::CorruptResults { path: path.to_owned(), reason };
    check_magic(path)?;
    let file = fs::File::open(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })?;
    let frame = ParquetReader::new(file).finish().map_err(|error| corrupt(error.to_string()))?;
    from_frame(&frame).map_err(corrupt)
}

/// A truncated file is recognised before the Parquet reader sees it: its two ends carry the format's mark.
fn check_magic(path: &Path) -> Result<()> {
    let bytes = fs::read(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })?;
    let reason = match bytes.len() {
        0..12 => format!("it has {} bytes", bytes.len()),
        _ if !bytes.starts_with(b"PAR1") => "it does not begin with the Parquet mark `PAR1`".to_owned(),
        _ if !bytes.ends_with(b"PAR1") => "its end is missing (the Parquet mark `PAR1`)".to_owned(),
        _ => return Ok(()),
    };
    Err(Error::CorruptResults { path: path.to_owned(), reason })
}

fn from_frame(frame: &DataFrame) -> Result<BTreeMap<RowKey, Response>, String> {
    let text = |name: &str| -> Result<Vec<Option<String>>, String> {
        let column = frame.column(name).map_err(|error| error.to_string())?;
        let values = column.str().map_err(|error| error.to_string())?;
        Ok(values.iter().map(|value| value.map(str::to_owned)).collect())
    };
    let number = |name: &str| -> Result<Vec<Option<f64>>, String> {
        let column = frame.column(name).map_err(|error| error.to_string())?;
        let values = column.f64().map_err(|error| error.to_string())?;
        Ok(values.iter().collect())
    };
    let versions: Vec<Option<u32>> = frame
        .column("probe_version")
        .and_then(|column| column.u32().map(|values| values.iter().collect()))
        .map_err(|error| error.to_string())?;
    let (banks, subjects, items, forms) = (text("bank_hash")?, text("subject")?, text("item")?, text("form")?);
    let (unscored, labels, answers, prompts) = (text("unscored")?, text("label")?, text("answer")?, text("prompt")?);
    let (scores, p_right) = (number("score")?, number("p_right")?);
    let (confidence, margins) = (number("confidence")?, number("margin_nats")?);
    let mut rows = BTreeMap::new();
    for i in 0..frame.height() {
        let missing = |column: &str| format!("row {i} has no `{column}`");
        let response = Response {
            subject: subjects[i].clone().ok_or_else(|| missing("subject"))?,
            item: items[i].clone().ok_or_else(|| missing("item"))?,
            form: parse_name(forms[i].as_deref().ok_or_else(|| missing("form"))?)?,
            score: scores[i],
            unscored: unscored[i].clone(),
            p_right: p_right[i],
            confidence: confidence[i],
            margin_nats: margins[i],
            label: labels[i].as_deref().map(parse_name::<Label>).transpose()?,
            answer: answers[i].clone().ok_or_else(|| missing("answer"))?,
            prompt: prompts[i].clone().ok_or_else(|| missing("prompt"))?,
        };
        let key = RowKey {
            bank_hash: banks[i].clone().ok_or_else(|| missing("bank_hash"))?,
            probe_version: versions[i].ok_or_else(|| missing("probe_version"))?,
            subject: response.subject.clone(),
            item: response.item.clone(),
            form: response.form,
        };
        rows.insert(key, response);
    }
    Ok(rows)
}

/// The serde name of a unit variant, so that the file and `bank.jsonl` spell it alike.
pub(crate) fn name_of(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        other => unreachable!("a unit variant is written as its name, not {other:?}"),
    }
}

fn parse_name<T: DeserializeOwned>(name: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(name.to_owned())).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::{Store, StoreKey};
    use crate::error::Error;
    use probes::response::{Form, Label, Response};
    use std::fs;

    fn key() -> StoreKey {
        StoreKey { bank_hash: "bank".into(), probe_version: 1 }
    }

    fn response(subject: &str, item: &str) -> Response {
        Response {
            subject: subject.into(),
            item: item.into(),
            form: Form::OpenBookFewShot,
            score: Some(0.5),
            unscored: None,
            p_right: Some(0.1 + 0.2),
            confidence: None,
            margin_nats: Some(-1.5e-300),
            label: Some(Label::Partial),
            answer: "“Lund”\n".into(),
            prompt: String::new(),
        }
    }

    #[test]
    fn what_was_appended_comes_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path(), key()).unwrap();
        let mut unscored = response("a", "2");
        unscored.score = None;
        unscored.label = None;
        unscored.unscored = Some("too long".into());
        let rows = vec![response("a", "1"), unscored];
        store.append(rows.clone()).unwrap();
        assert_eq!(Store::open(folder.path(), key()).unwrap().responses(), rows);
        store.finish().unwrap();
        let again = Store::open(folder.path(), key()).unwrap();
        assert_eq!(again.responses(), rows);
        assert!(again.known("a").contains(&("2".to_owned(), Form::OpenBookFewShot)));
        assert!(again.known("b").is_empty());
        assert!(!folder.path().join("results").exists());
    }

    #[test]
    fn the_file_does_not_depend_on_the_order_of_batches() {
        let write = |batches: Vec<Vec<Response>>| {
            let folder = tempfile::tempdir().unwrap();
            let mut store = Store::open(folder.path(), key()).unwrap();
            for batch in batches {
                store.append(batch).unwrap();
            }
            store.finish().unwrap();
            fs::read(folder.path().join("results.parquet")).unwrap()
        };
        let (a, b, c) = (response("a", "1"), response("a", "2"), response("b", "1"));
        assert_eq!(write(vec![vec![a.clone()], vec![b.clone(), c.clone()]]), write(vec![vec![c, a], vec![b]]));
    }

    #[test]
    fn another_bank_or_probe_version_is_asked_anew_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path(), key()).unwrap();
        store.append(vec![response("a", "1")]).unwrap();
        store.finish().unwrap();
        let other = StoreKey { probe_version: 2, ..key() };
        let mut store = Store::open(folder.path(), other).unwrap();
        assert!(store.is_empty() && store.known("a").is_empty());
        store.append(vec![response("a", "1")]).unwrap();
        store.finish().unwrap();
        assert_eq!(Store::open(folder.path(), key()).unwrap().len(), 1);
    }

    #[test]
    fn killed_between_merge_and_clean_up_keeps_each_row_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path(), key()).unwrap();
        store.append(vec![response("a", "1")]).unwrap();
        let part = folder.path().join("results/part-000000.parquet");
        let saved = fs::read(&part).unwrap();
        store.finish().unwrap();
        fs::create_dir_all(folder.path().join("results")).unwrap();
        fs::write(&part, saved).unwrap();
        let mut store = Store::open(folder.path(), key()).unwrap();
        assert_eq!(store.len(), 1);
        store.append(vec![response("a", "2")]).unwrap();
        store.finish().unwrap();
        assert_eq!(Store::open(folder.path(), key()).unwrap().len(), 2);
    }

    #[test]
    fn a_half_written_part_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("results")).unwrap();
        fs::write(folder.path().join("results/part-000000.parquet.tmp"), b"PAR1 half").unwrap();
        assert!(Store::open(folder.path(), key()).unwrap().is_empty());
    }

    #[test]
    fn a_damaged_file_is_a_clear_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.parquet");
        let mut store = Store::open(folder.path(), key()).unwrap();
        store.append(vec![response("a", "1"), response("a", "2")]).unwrap();
        store.finish().unwrap();
        let whole = fs::read(&path).unwrap();
        let mut middle_gone = whole.clone();
        middle_gone.drain(8..whole.len() / 2);
        let mut flipped = whole.clone();
        for byte in &mut flipped[whole.len() - 60..whole.len() - 8] {
            *byte ^= 0x5a;
        }
        for bytes in
            [b"".to_vec(), b"not parquet at all".to_vec(), whole[..whole.len() - 9].to_vec(), middle_gone, flipped]
        {
            fs::write(&path, &bytes).unwrap();
            let error = Store::open(folder.path(), key()).unwrap_err();
            assert!(matches!(error, Error::CorruptResults { .. }), "{error}");
            assert!(error.to_string().contains("results.parquet"), "{error}");
        }
    }

    #[test]
    fn an_unwritable_folder_is_a_clear_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        fs::write(&path, "a file").unwrap();
        let mut store = Store::open(&path, key()).unwrap();
        assert!(matches!(store.append(vec![response("a", "1")]), Err(Error::Io { .. })));
        assert!(store.is_empty());
    }
}
