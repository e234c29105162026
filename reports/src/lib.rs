//! What people read: HTML through templates, charts as inline SVG, JSON, Markdown.
//!
//! Everything is made from one [`Diagnosis`] and nothing else, so that a report can be rebuilt from its run folder. The same
//! diagnosis gives the same bytes. Text that came from a model, a recipe or a run name is never trusted: it is escaped, cut to
//! a readable length, and stripped of characters that reorder or hide other text.

mod chart;
mod error;
mod html;
mod lineage;
mod markdown;
mod number;
mod page;
mod text;
mod verdict;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

use evals::diagnosis::{DIAGNOSIS_VERSION, Diagnosis, LineageDiagnosis};

pub use error::Error;

/// Renders the report as one HTML file that needs no network and no script.
///
/// # Errors
///
/// [`Error::UnsupportedVersion`] and [`Error::PhaseCount`] where the diagnosis is not of the expected shape;
/// [`Error::Template`] where the template fails.
pub fn render_html(diagnosis: &Diagnosis) -> Result<String, Error> {
    check(diagnosis)?;
    html::render(diagnosis)
}

/// Renders the diagnosis as indented JSON, ending in a line feed; reads back as the same record, numbers to within their last bit.
///
/// # Errors
///
/// [`Error::UnsupportedVersion`] and [`Error::PhaseCount`] as for [`render_html`]; [`Error::Json`] where a number is not finite,
/// because JSON can't say that.
pub fn render_json(diagnosis: &Diagnosis) -> Result<String, Error> {
    check(diagnosis)?;
    let mut text = serde_json::to_string_pretty(diagnosis)?;
    let _: Diagnosis = serde_json::from_str(&text)?;
    text.push('\n');
    Ok(text)
}

/// Renders a summary in GitHub-flavoured Markdown, short enough for a pull request.
///
/// # Errors
///
/// [`Error::UnsupportedVersion`] and [`Error::PhaseCount`] as for [`render_html`].
pub fn render_markdown(diagnosis: &Diagnosis) -> Result<String, Error> {
    check(diagnosis)?;
    Ok(markdown::render(diagnosis))
}

/// Writes a report so that a reader sees the old file or the whole new one, never a part; missing folders are made.
///
/// # Errors
///
/// [`Error::Write`] with the path and what the system said.
pub fn write(path: &Path, contents: &str) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let name = path.file_name().ok_or_else(|| failed(std::io::ErrorKind::InvalidFilename.into()))?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    fs::create_dir_all(&folder).map_err(failed)?;
    let mut draft_name = std::ffi::OsString::from(".");
    draft_name.push(name);
    draft_name.push(format!(".{}.tmp", std::process::id()));
    let draft = folder.join(draft_name);
    fs::write(&draft, contents).and_then(|()| fs::rename(&draft, path)).map_err(|source| {
        // The first error is the one to report, whether or not the draft can be removed.
        let _ = fs::remove_file(&draft);
        failed(source)
    })
}

fn check(diagnosis: &Diagnosis) -> Result<(), Error> {
    if diagnosis.version != DIAGNOSIS_VERSION {
        return Err(Error::UnsupportedVersion { found: diagnosis.version, supported: DIAGNOSIS_VERSION });
    }
    diagnosis.lineages.iter().try_for_each(check_lineage)
}

fn check_lineage(lineage: &LineageDiagnosis) -> Result<(), Error> {
    let expected = lineage.phases.len();
    for history in &lineage.behaviours {
        let lists = [
            ("values", history.values.len()),
            ("elicited", history.elicited.len()),
            ("reference", history.reference.len()),
        ];
        for (list, found) in lists {
            if found != expected {
                let what = format!("{list} of {}", words::behaviour_term(history.behaviour));
                return Err(Error::PhaseCount { lineage: lineage.name.clone(), what, expected, found });
            }
        }
    }
    Ok(())
}
