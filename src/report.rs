//! `phasetrace report`: what a diagnosis says, in the formats that people and other programs read.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use evals::diagnosis::Diagnosis;
use evals::summary;

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
    check_outputs(&args.output)?;
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
        let bytes = match Export::of(output)? {
            Export::Page(Format::Html) => reports::render_html(diagnosis)?.into_bytes(),
            Export::Page(Format::Json) => reports::render_json(diagnosis)?.into_bytes(),
            Export::Page(Format::Markdown) => reports::render_markdown(diagnosis)?.into_bytes(),
            Export::Csv => reports::render_csv(diagnosis)?.into_bytes(),
            Export::Parquet => summary::to_parquet(&summary::rows(diagnosis), output)?,
            Export::ModelCard => reports::render_model_card(diagnosis)?.into_bytes(),
        };
        reports::write_bytes(output, &bytes)?;
    }
    Ok(outputs.to_vec())
}

/// Refuses outputs of a diagnosis that are of an unknown format or cannot be written, before anything is computed.
pub(crate) fn check_outputs(outputs: &[PathBuf]) -> Result<()> {
    for output in outputs {
        Export::of(output)?;
        check_output(output)?;
    }
    Ok(())
}

/// The same of what is written as a page only.
pub(crate) fn check_pages(outputs: &[PathBuf]) -> Result<()> {
    for output in outputs {
        extension(output)?;
        check_output(output)?;
    }
    Ok(())
}

fn check_output(output: &Path) -> Result<()> {
    if output.is_dir() {
        bail!("-o {}: is a folder", output.display());
    }
    check_writable(output.parent().unwrap_or(Path::new(".")))
}

/// Fails where `folder` cannot be made or written, before any work is done for what is to lie there.
pub(crate) fn check_writable(folder: &Path) -> Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let trial = folder.join(format!(".phasetrace.{}.tmp", std::process::id()));
    fs::write(&trial, "").with_context(|| format!("cannot write in {}", folder.display()))?;
    fs::remove_file(&trial).with_context(|| format!("cannot remove {}", trial.display()))
}

/// What an output file holds, of whatever record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Html,
    Json,
    Markdown,
}

/// The format that an output's extension asks for.
pub(crate) fn extension(path: &Path) -> Result<Format> {
    if is_model_card(path) {
        bail!("-o {}: a model card is made from a diagnosis, by `phasetrace report`", path.display());
    }
    page(path).ok_or_else(|| anyhow!("-o {}: the extension must be .html, .json or .md", path.display()))
}

fn page(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()? {
        "html" => Some(Format::Html),
        "json" => Some(Format::Json),
        "md" => Some(Format::Markdown),
        _ => None,
    }
}

/// Whether the file is to be a snippet for a model card: `NAME.card.md`.
fn is_model_card(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with(".card.md"))
}

/// What an output file of a diagnosis holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Export {
    Page(Format),
    /// A row for each chain, phase, behaviour and way of asking.
    Csv,
    /// The same rows.
    Parquet,
    ModelCard,
}

impl Export {
    fn of(path: &Path) -> Result<Self> {
        let extension = path.extension().and_then(|extension| extension.to_str());
        match extension {
            Some("csv") => Ok(Self::Csv),
            Some("parquet") => Ok(Self::Parquet),
            // Before the extension alone is looked at, which is that of Markdown.
            _ if is_model_card(path) => Ok(Self::ModelCard),
            _ => page(path).map(Self::Page).ok_or_else(|| {
                anyhow!("-o {}: the extension must be .html, .json, .md, .csv, .parquet or .card.md", path.display())
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_decides_and_that_of_a_model_card_is_the_longer_one() {
        let of = |name: &str| Export::of(Path::new(name)).ok();
        assert_eq!(of("a/report.html"), Some(Export::Page(Format::Html)));
        assert_eq!(of("summary.md"), Some(Export::Page(Format::Markdown)));
        assert_eq!(of("june.card.md"), Some(Export::ModelCard));
        assert_eq!(of("card.md"), Some(Export::Page(Format::Markdown)));
        assert_eq!([of("a.csv"), of("a.parquet")], [Some(Export::Csv), Some(Export::Parquet)]);
        assert_eq!([of("a.pdf"), of("a")], [None, None]);
    }

    #[test]
    fn what_is_made_from_a_diagnosis_alone_is_refused_elsewhere() {
        let reason = |name: &str| extension(Path::new(name)).unwrap_err().to_string();
        assert_eq!(reason("a.csv"), "-o a.csv: the extension must be .html, .json or .md");
        assert!(reason("a.card.md").contains("is made from a diagnosis"));
        assert_eq!(extension(Path::new("a.md")).unwrap(), Format::Markdown);
    }
}
