//! The table as a Parquet file.

use std::path::Path;

use polars::prelude::{Column, DataFrame, NamedFrom, ParquetCompression, ParquetWriter, PolarsResult, Series};

use super::SummaryRow;
use crate::error::{Error, Result};
use crate::store::name_of;

/// The rows as the bytes of a Parquet file, a column for each field, texts as they are. The same rows give the same bytes. `path` is
/// named in errors.
///
/// # Errors
/// [`Error::WriteResults`].
pub fn to_parquet(rows: &[SummaryRow], path: &Path) -> Result<Vec<u8>> {
    let reason =
        |error: polars::error::PolarsError| Error::WriteResults { path: path.to_owned(), reason: error.to_string() };
    let mut frame = to_frame(rows).map_err(reason)?;
    let mut bytes = Vec::new();
    // One thread and one row group: the same rows give the same bytes on every machine.
    ParquetWriter::new(&mut bytes)
        .with_compression(ParquetCompression::Zstd(None))
        .with_row_group_size(Some(rows.len().max(1)))
        .set_parallel(false)
        .finish(&mut frame)
        .map_err(reason)?;
    Ok(bytes)
}

fn to_frame(rows: &[SummaryRow]) -> PolarsResult<DataFrame> {
    fn column<'a, T, V>(name: &str, rows: &'a [SummaryRow], get: impl Fn(&'a SummaryRow) -> T) -> Column
    where
        V: ?Sized,
        Series: NamedFrom<Vec<T>, V>,
    {
        let values: Vec<T> = rows.iter().map(get).collect();
        Series::new(name.into(), values).into()
    }
    DataFrame::new(
        rows.len(),
        vec![
            column("run", rows, |row| row.run.as_str()),
            column("lineage", rows, |row| row.lineage.as_str()),
            column("phase", rows, |row| row.phase.as_str()),
            column("phase_index", rows, |row| row.phase_index as u64),
            column("stage", rows, |row| name_of(&row.stage)),
            column("checkpoint", rows, |row| row.checkpoint.as_str()),
            column("behaviour", rows, |row| name_of(&row.behaviour)),
            column("route", rows, |row| name_of(&row.route)),
            column("value", rows, |row| row.value),
            column("low", rows, |row| row.low),
            column("high", rows, |row| row.high),
            column("n", rows, |row| row.n.map(|n| n as u64)),
            column("interval", rows, |row| row.interval.as_deref()),
            column("reference", rows, |row| row.reference),
            column("margin_nats", rows, |row| row.margin_nats),
            column("outcome", rows, |row| row.outcome),
            column("blamed_phase", rows, |row| row.blamed_phase.as_deref()),
            column("contribution", rows, |row| row.contribution),
            column("contribution_low", rows, |row| row.contribution_low),
            column("contribution_high", rows, |row| row.contribution_high),
            column("contribution_kind", rows, |row| row.contribution_kind.as_ref().map(name_of)),
            column("confidence", rows, |row| name_of(&row.confidence)),
            column("rung", rows, |row| row.rung.as_ref().map(name_of)),
            column("probability", rows, |row| row.probability),
            column("not_measured", rows, |row| row.not_measured.as_deref()),
        ],
    )
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::path::Path;

    use polars::prelude::{ParquetReader, SerReader};

    use super::super::rows;
    use super::super::tests::diagnosis;
    use super::to_parquet;

    #[test]
    fn what_is_read_back_is_what_was_written() {
        let rows = rows(&diagnosis());
        let bytes = to_parquet(&rows, Path::new("table.parquet")).unwrap();
        assert_eq!(bytes, to_parquet(&rows, Path::new("table.parquet")).unwrap());
        let frame = ParquetReader::new(Cursor::new(bytes)).finish().unwrap();
        let json = serde_json::to_value(&rows[0]).unwrap();
        let names: Vec<&str> = frame.columns().iter().map(|column| column.name().as_str()).collect();
        assert_eq!(names, json.as_object().unwrap().keys().collect::<Vec<_>>(), "a column for each field");
        let values: Vec<Option<f64>> = frame.column("value").unwrap().f64().unwrap().iter().collect();
        assert_eq!(values, rows.iter().map(|row| row.value).collect::<Vec<_>>());
        let runs: Vec<Option<&str>> = frame.column("run").unwrap().str().unwrap().iter().collect();
        assert_eq!(runs, [Some("=june"); 4]);
        let stages: Vec<Option<&str>> = frame.column("stage").unwrap().str().unwrap().iter().collect();
        assert_eq!(stages, [Some("pretraining"), Some("pretraining"), Some("sft"), Some("sft")]);
        let rungs: Vec<Option<&str>> = frame.column("rung").unwrap().str().unwrap().iter().collect();
        assert_eq!(rungs, [Some("attributed"); 4]);
    }
}
