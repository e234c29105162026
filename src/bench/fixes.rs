//! `phasetrace bench fixes`: what fixes did to the lineages of a bench.

use std::path::Path;

use anyhow::Result;
use evals::fixes::{FixMatrix, trials};
use evals::reference::Reference;
use evals::verdict::record;

use crate::bench::{CLEAN, is_recorded, lineages, record_file};
use crate::cli::FixesArgs;
use crate::exit;
use crate::output;
use crate::report::{check_writable, read_diagnosis};
use crate::run::Run;

/// The fixes that ship with the project, as `phasetrace bench fixes` wrote them.
const SHIPPED: &str = include_str!("../../fixtures/fixes.json");

/// What fixes were measured to do.
pub(crate) fn shipped() -> Result<FixMatrix> {
    Ok(FixMatrix::parse(SHIPPED, Path::new("fixtures/fixes.json"))?)
}

pub(crate) fn run(args: &FixesArgs) -> Result<u8> {
    check_writable(args.output.parent().unwrap_or(Path::new(".")))?;
    let reference = Reference::load(&args.reference)?;
    let mut found = Vec::new();
    for run in lineages(&args.dirs, &[], "recorded lineage", is_recorded)? {
        let twin = read_diagnosis(&Run::at(&run.root().with_file_name(CLEAN)).diagnosis())?;
        let diagnosis = read_diagnosis(&run.diagnosis())?;
        for record in record::load(&record_file(&run))? {
            found.extend(trials(&record, &diagnosis, &twin, &reference));
        }
    }
    reports::write(&args.output, &FixMatrix::of(&found).to_json())?;
    output::print_line(&args.output.display().to_string())?;
    Ok(exit::SUCCESS)
}
