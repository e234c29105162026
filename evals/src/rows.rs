//! Rows of any Parquet file, as JSON objects.
//!
//! Read below polars' data frames, whose lists of structs (a column of messages) would need parts of polars that nothing else here does.
//!
//! polars checks little of what it reads: a damaged file may panic or ask for more memory than there is. Who does not trust a file
//! reads it in a process of its own.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use polars_arrow::array::{
    Array, BooleanArray, DictionaryArray, DictionaryKey, FixedSizeListArray, ListArray, PrimitiveArray, StructArray,
    Utf8ViewArray,
};
use polars_arrow::datatypes::{ArrowSchema, Field};
use polars_arrow::types::NativeType;
use polars_buffer::Buffer;
use polars_parquet::arrow::read::{
    BasicDecompressor, FileMetadata, PageReader, RowGroupMetadata, column_iter_to_arrays, infer_schema, read_metadata,
};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The columns of a row by name. Text, numbers, true and false, lists and structs are read; columns of other types (bytes, dates) are
/// left out.
pub type Row = Map<String, Value>;

/// The rows of a file, in order; one group of rows is in memory at a time.
pub struct Rows {
    path: PathBuf,
    bytes: Buffer<u8>,
    metadata: FileMetadata,
    schema: ArrowSchema,
    next_group: usize,
    pending: std::vec::IntoIter<Row>,
}

/// Whether a file is Parquet, by its first bytes.
///
/// # Errors
/// [`Error::Io`] where it cannot be read.
pub fn is_parquet(path: &Path) -> Result<bool> {
    use std::io::Read;
    let failed = |source| Error::Io { action: "read", path: path.to_owned(), source };
    let mut start = Vec::new();
    fs::File::open(path).map_err(failed)?.take(4).read_to_end(&mut start).map_err(failed)?;
    Ok(start == *MARK)
}

const MARK: &[u8; 4] = b"PAR1";

impl Rows {
    /// Opens a file.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::CorruptTable`] where it is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let read = fs::read(path).map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })?;
        if !read.starts_with(MARK) || !read.ends_with(MARK) || read.len() < 12 {
            let reason = "its beginning or end is missing (the Parquet mark `PAR1`)".to_owned();
            return Err(Error::CorruptTable { path: path.to_owned(), reason });
        }
        let bytes = Buffer::from(read);
        let damaged = |error: polars::error::PolarsError| Error::CorruptTable {
            path: path.to_owned(),
            reason: format!("{error}"),
        };
        let metadata = read_metadata(&mut Cursor::new(&bytes[..])).map_err(damaged)?;
        let schema = infer_schema(&metadata).map_err(damaged)?;
        Ok(Self { path: path.to_owned(), bytes, metadata, schema, next_group: 0, pending: Vec::new().into_iter() })
    }
}

impl Iterator for Rows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.pending.next() {
                return Some(Ok(row));
            }
            let group = self.metadata.row_groups.get(self.next_group)?;
            self.next_group += 1;
            match read_group(group, &self.schema, &self.bytes) {
                Ok(rows) => self.pending = rows.into_iter(),
                Err(reason) => {
                    self.next_group = usize::MAX;
                    return Some(Err(Error::CorruptTable { path: self.path.clone(), reason }));
                }
            }
        }
    }
}

fn read_group(group: &RowGroupMetadata, schema: &ArrowSchema, bytes: &Buffer<u8>) -> Result<Vec<Row>, String> {
    let mut rows = vec![Row::new(); group.num_rows()];
    for field in schema.iter_values() {
        let mut n_read = 0;
        for array in read_column(group, field, bytes)? {
            for i in 0..array.len() {
                if let (Some(row), Some(value)) = (rows.get_mut(n_read), value(array.as_ref(), i)) {
                    row.insert(field.name.to_string(), value);
                }
                n_read += 1;
            }
        }
        if n_read != rows.len() {
            return Err(format!("column `{}` has {n_read} values for {} rows", field.name, rows.len()));
        }
    }
    Ok(rows)
}

fn read_column(group: &RowGroupMetadata, field: &Field, bytes: &Buffer<u8>) -> Result<Vec<Box<dyn Array>>, String> {
    let missing = || format!("column `{}` lies outside of the file", field.name);
    let (mut pages, mut types) = (Vec::new(), Vec::new());
    for column in group.columns_under_root_iter(&field.name).ok_or_else(missing)? {
        let range = column.byte_range();
        let range =
            usize::try_from(range.start).unwrap_or(usize::MAX)..usize::try_from(range.end).unwrap_or(usize::MAX);
        if range.start > range.end || range.end > bytes.len() {
            return Err(missing());
        }
        let reader = PageReader::new(Cursor::new(bytes.clone().sliced(range)), column, Vec::new(), usize::MAX);
        pages.push(BasicDecompressor::new(reader, Vec::new()));
        types.push(&column.descriptor().descriptor.primitive_type);
    }
    let read = column_iter_to_arrays(pages, types, field.clone(), None);
    read.map(|(arrays, _)| arrays).map_err(|error| error.to_string())
}

/// An element of an array; `None` for a type that has no JSON.
fn value(array: &dyn Array, i: usize) -> Option<Value> {
    if array.is_null(i) {
        return Some(Value::Null);
    }
    let any = array.as_any();
    if let Some(texts) = any.downcast_ref::<Utf8ViewArray>() {
        return Some(Value::from(texts.value(i)));
    }
    if let Some(flags) = any.downcast_ref::<BooleanArray>() {
        return Some(Value::from(flags.value(i)));
    }
    if let Some(structs) = any.downcast_ref::<StructArray>() {
        let fields = structs.fields().iter().zip(structs.values());
        return Some(fields.filter_map(|(field, of)| Some((field.name.to_string(), value(of.as_ref(), i)?))).collect());
    }
    let list = any
        .downcast_ref::<ListArray<i64>>()
        .map(|lists| lists.value(i))
        .or_else(|| any.downcast_ref::<ListArray<i32>>().map(|lists| lists.value(i)))
        .or_else(|| any.downcast_ref::<FixedSizeListArray>().map(|lists| lists.value(i)));
    if let Some(list) = list {
        return Some((0..list.len()).filter_map(|j| value(list.as_ref(), j)).collect());
    }
    // Dates and decimals lie in whole numbers too, and are none.
    use polars_arrow::datatypes::ArrowDataType as Type;
    match array.dtype() {
        Type::Int8 => number::<i8>(array, i),
        Type::Int16 => number::<i16>(array, i),
        Type::Int32 => number::<i32>(array, i),
        Type::Int64 => number::<i64>(array, i),
        Type::UInt8 => number::<u8>(array, i),
        Type::UInt16 => number::<u16>(array, i),
        Type::UInt32 => number::<u32>(array, i),
        Type::UInt64 => number::<u64>(array, i),
        Type::Float32 => number::<f32>(array, i),
        Type::Float64 => number::<f64>(array, i),
        Type::Dictionary(..) => entry::<u32>(array, i)
            .or_else(|| entry::<u8>(array, i))
            .or_else(|| entry::<u16>(array, i))
            .or_else(|| entry::<i8>(array, i))
            .or_else(|| entry::<i32>(array, i)),
        _ => None,
    }
}

fn number<T: NativeType + Into<Value>>(array: &dyn Array, i: usize) -> Option<Value> {
    Some(array.as_any().downcast_ref::<PrimitiveArray<T>>()?.value(i).into())
}

fn entry<K: DictionaryKey>(array: &dyn Array, i: usize) -> Option<Value> {
    let entries = array.as_any().downcast_ref::<DictionaryArray<K>>()?;
    value(entries.values().as_ref(), entries.key_value(i))
}

#[cfg(test)]
mod tests {
    use super::{Row, Rows, is_parquet};
    use std::path::{Path, PathBuf};

    fn data(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
    }

    #[test]
    fn every_type_with_json_is_read_and_the_others_left_out() {
        // Written by pyarrow, as the Hugging Face libraries do.
        let rows: Vec<Row> = Rows::open(&data("types.parquet")).unwrap().map(Result::unwrap).collect();
        let expected = [
            r#"{"text":"a","large":"x","view":"bbbbbbbbbbbbbbbbbbbb","category":"p","whole":1,"big":9223372036854775808,"real":0.5,"flag":true,"nothing":null,"list":["a","b"],"lists":[[1],[2,3]],"struct":{"n":1,"inner":{"t":"deep"}},"pairs":[{"key":"k","value":1}]}"#,
            r#"{"text":null,"large":"y","view":"c","category":"q","whole":null,"big":1,"real":null,"flag":false,"nothing":null,"list":[],"lists":null,"struct":null,"pairs":[]}"#,
            r#"{"text":"ü","large":"z","view":null,"category":"p","whole":-3,"big":0,"real":2.0,"flag":null,"nothing":null,"list":null,"lists":[[]],"struct":{"n":null,"inner":null},"pairs":null}"#,
        ];
        for (row, expected) in rows.into_iter().zip(expected) {
            let mut row = row;
            // Bytes and dates have no JSON; an absent one is nothing, as any absent value.
            row.retain(|key, value| !value.is_null() || !["bytes", "day", "when"].contains(&key.as_str()));
            assert_eq!(serde_json::to_string(&row).unwrap(), expected);
        }
    }

    #[test]
    fn a_file_that_is_cut_off_is_refused() {
        let whole = std::fs::read(data("ultrafeedback_binarized.parquet")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("damaged.parquet");
        for bytes in [&whole[..4], &whole[..whole.len() - 9]] {
            std::fs::write(&path, bytes).unwrap();
            assert!(is_parquet(&path).unwrap());
            let error = Rows::open(&path).err().unwrap().to_string();
            assert!(error.contains("damaged.parquet is not a readable Parquet file"), "{error}");
        }
    }
}
