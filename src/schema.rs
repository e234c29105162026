//! `phasetrace schema`: prints the JSON Schema of a record.

use anyhow::Result;
use evals::schema::{Record, schema};

use crate::cli::RecordName;
use crate::exit;
use crate::output;

pub(crate) fn run(record: RecordName) -> Result<u8> {
    let record = match record {
        RecordName::Diagnosis => Record::Diagnosis,
        RecordName::Comparison => Record::Comparison,
        RecordName::Judgement => Record::Judgement,
        RecordName::Baseline => Record::Baseline,
        RecordName::Index => Record::Index,
    };
    output::print(&schema(record))?;
    Ok(exit::SUCCESS)
}
