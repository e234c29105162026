//! `phasetrace bench fixes`: what fixes did to the lineages of a bench.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use evals::fixes::{FixMatrix, Trial, trials};
use evals::reference::Reference;
use evals::verdict::record;

use crate::bench::CLEAN;
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
    for dir in &args.dirs {
        found.extend(of_group(dir, &reference)?);
    }
    reports::write(&args.output, &FixMatrix::of(&found).to_json())?;
    output::print_line(&args.output.display().to_string())?;
    Ok(exit::SUCCESS)
}

/// What fixes did to the recorded lineages of one seed.
fn of_group(dir: &Path, reference: &Reference) -> Result<Vec<Trial>> {
    let twin = read_diagnosis(&Run::at(&dir.join(CLEAN)).diagnosis())?;
    let mut found = Vec::new();
    for path in lineages(dir)? {
        for record in record::load(&path.join("record.json"))? {
            found.extend(trials(&record, &read_diagnosis(&Run::at(&path).diagnosis())?, &twin, reference));
        }
    }
    Ok(found)
}

/// The recorded lineages of one seed.
pub(super) fn lineages(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.join("record.json").exists());
    paths.sort();
    Ok(paths)
}
