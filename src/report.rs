//! `phasetrace report`: what a diagnosis says, in the formats that people read.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use evals::diagnosis::Diagnosis;

use crate::cli::ReportArgs;
use crate::exit;
use crate::output;
use crate::run::Run;

pub(crate) fn run(args: &ReportArgs) -> Result<u8> {
    let run = Run::at(&args.run);
    let path = run.diagnosis();
    if !path.exists() {
        bail!("{}: no diagnosis yet; run `phasetrace diagnose {}` first", path.display(), args.run.display());
    }
    let diagnosis = read_diagnosis(&path)?;
    for path in write(&diagnosis, &run, &args.output)? {
        output::print_line(&path.display().to_string())?;
    }
    Ok(exit::SUCCESS)
}

/// Reads a `diagnosis.json`.
pub(crate) fn read_diagnosis(path: &Path) -> Result<Diagnosis> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes the diagnosis to each output, the format from the extension, and says where.
pub(crate) fn write(diagnosis: &Diagnosis, run: &Run, outputs: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let default = [run.report()];
    let outputs = if outputs.is_empty() { &default } else { outputs };
    for output in outputs {
        let text = match extension(output)? {
            Format::Html => reports::render_html(diagnosis)?,
            Format::Json => reports::render_json(diagnosis)?,
            Format::Markdown => reports::render_markdown(diagnosis)?,
        };
        reports::write(output, &text)?;
    }
    Ok(outputs.to_vec())
}

/// Refuses outputs that are of an unknown format or cannot be written, before anything is computed.
pub(crate) fn check_outputs(outputs: &[PathBuf]) -> Result<()> {
    for output in outputs {
        extension(output)?;
        if output.is_dir() {
            bail!("-o {}: is a folder", output.display());
        }
        check_writable(output.parent().unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

/// Fails where `folder` cannot be made or written, before any work is done for what is to lie there.
pub(crate) fn check_writable(folder: &Path) -> Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let trial = folder.join(format!(".phasetrace.{}.tmp", std::process::id()));
    fs::write(&trial, "").with_context(|| format!("cannot write in {}", folder.display()))?;
    fs::remove_file(&trial).with_context(|| format!("cannot remove {}", trial.display()))
}

/// What an output file holds.
pub(crate) enum Format {
    Html,
    Json,
    Markdown,
}

/// The format that an output's extension asks for.
pub(crate) fn extension(path: &Path) -> Result<Format> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("html") => Ok(Format::Html),
        Some("json") => Ok(Format::Json),
        Some("md") => Ok(Format::Markdown),
        _ => Err(anyhow!("-o {}: the extension must be .html, .json or .md", path.display())),
    }
}
