//! `phasetrace ls`: runs and their checkpoints.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lm::lineage::Lineage;

use crate::cli::LsArgs;
use crate::exit;
use crate::output;
use crate::run::{PHASES, Run};

pub(crate) fn run(args: &LsArgs) -> Result<u8> {
    if !args.dir.is_dir() {
        bail!("{}: no such folder; `phasetrace diagnose` makes runs/small", args.dir.display());
    }
    let mut runs: Vec<PathBuf> = Vec::new();
    if is_run(&args.dir) {
        runs.push(args.dir.clone());
    } else {
        for entry in fs::read_dir(&args.dir).with_context(|| format!("cannot read {}", args.dir.display()))? {
            runs.push(entry?.path());
        }
        runs.retain(|path| is_run(path));
        runs.sort();
    }
    if runs.is_empty() {
        output::print_line(&format!("no runs in {}", args.dir.display()))?;
    }
    for path in runs {
        list(&Run::at(&path))?;
    }
    Ok(exit::SUCCESS)
}

fn is_run(path: &Path) -> bool {
    Run::at(path).recipe().exists()
}

fn list(run: &Run) -> Result<()> {
    output::print_line(&run.root().display().to_string())?;
    for phase in PHASES {
        let path = run.checkpoint(phase).join("lineage.json");
        if !path.exists() {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let lineage: Lineage =
            serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
        let mut shown: Vec<String> =
            lineage.metrics.iter().take(4).map(|(name, value)| format!("{name} {value:.3}")).collect();
        shown.extend(lineage.computed.iter().map(|stretch| format!("after step {} on {stretch}", stretch.after_step)));
        let Lineage { steps, seed, .. } = lineage;
        output::print_line(&format!("  {phase:<12} {steps:>6} steps  seed {seed:<4} {}", shown.join("  ")))?;
    }
    for (name, path) in [("diagnosis", run.diagnosis()), ("report", run.report())] {
        if path.exists() {
            output::print_line(&format!("  {name:<12} {}", path.display()))?;
        }
    }
    Ok(())
}
