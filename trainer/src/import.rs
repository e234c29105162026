//! From the records of somebody's file to documents, conversations, comparisons, prompts or principles.

use crate::error::{Error, Result};
use crate::records::{Record, Row};
use crate::shapes::{Shape, Shaped, find_shape};
use crate::turns::shorten;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// What is done about a line that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadLines {
    /// It ends the import.
    Refuse,
    /// It is left out and listed.
    Skip,
}

/// What a file gave.
#[derive(Debug, Clone)]
pub struct Imported<T> {
    /// The items, in the order of the file.
    pub items: Vec<T>,
    /// For each item the line it begins on (in a Parquet file its row), from 1.
    pub lines: Vec<usize>,
    /// The shape of all rows.
    pub shape: &'static str,
    /// What was left out, in the order of the file.
    pub skipped: Vec<Skipped>,
}

/// A line that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The file.
    pub file: String,
    /// The line (in a Parquet file the row), from 1.
    pub line: usize,
    /// Why.
    pub reason: String,
}

/// Columns that name a row of their own, so that one value in two rows is an error of the file. `prompt_id` and the like are none of
/// them: they name what several rows share.
const IDS: [&str; 3] = ["id", "uuid", "conversation_id"];

/// Makes items of records that were read from `path`. The shape is that of the first row that has one; all others must have it too.
///
/// # Errors
/// [`Error::DataLine`] for the first line that does not fit, or, where these are skipped, if no line is left; [`Error::NoData`]
/// where there is no line at all; otherwise where the records cannot be read.
pub fn import<T: Shaped>(
    path: &Path,
    records: impl IntoIterator<Item = Result<Record>>,
    bad_lines: BadLines,
) -> Result<Imported<T>> {
    let mut imported = Imported { items: Vec::new(), lines: Vec::new(), shape: "", skipped: Vec::new() };
    let mut importer = Importer { shape: None, ids: BTreeMap::new() };
    for record in records {
        let Record { line, row } = record?;
        match row.and_then(|row| importer.convert(line, &row)) {
            Ok(item) => {
                imported.items.push(item);
                imported.lines.push(line);
            }
            Err(reason) if bad_lines == BadLines::Skip => {
                imported.skipped.push(Skipped { file: path.display().to_string(), line, reason });
            }
            Err(message) => return Err(Error::DataLine { path: path.to_path_buf(), line, message }),
        }
    }
    match (importer.shape, imported.skipped.first()) {
        (Some(shape), _) => Ok(Imported { shape: shape.name, ..imported }),
        (None, None) => Err(Error::NoData { path: path.to_path_buf(), what: T::WHAT }),
        (None, Some(Skipped { line, reason, .. })) => {
            let message = format!("{reason}; and no other line holds {} either", T::WHAT);
            Err(Error::DataLine { path: path.to_path_buf(), line: *line, message })
        }
    }
}

struct Importer<T: 'static> {
    shape: Option<&'static Shape<T>>,
    /// The line of each id, by column and value.
    ids: BTreeMap<(&'static str, String), usize>,
}

impl<T: Shaped> Importer<T> {
    fn convert(&mut self, line: usize, row: &Row) -> Result<T, String> {
        let shape = self.shape.map_or_else(|| find_shape(row), Ok)?;
        let item = shape.convert(row)?;
        item.check()?;
        let ids: Vec<(&str, String)> = IDS.into_iter().filter_map(|key| Some((key, id(row.get(key)?)?))).collect();
        for id in &ids {
            if let Some(earlier) = self.ids.get(id) {
                let (key, value) = id;
                return Err(format!("key `{key}`: `{}` is the one of line {earlier} too", shorten(value)));
            }
        }
        self.ids.extend(ids.into_iter().map(|id| (id, line)));
        self.shape = Some(shape);
        Ok(item)
    }
}

/// What names a row: text or a number.
fn id(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
