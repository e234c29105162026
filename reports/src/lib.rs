//! What people read: HTML through templates, charts as inline SVG, JSON, Markdown.
//!
//! Everything is made from one [`Diagnosis`], [`Comparison`], [`Judgement`], [`Index`] or [`Progress`] and nothing else, so that a report can be
//! rebuilt from its record. The same record gives the same bytes. Text that came from a model, a recipe or a run name is never trusted: it is
//! escaped, cut to a readable length, and stripped of characters that reorder or hide other text.

mod chart;
mod comparison;
mod error;
mod export;
mod html;
mod index;
mod lineage;
mod markdown;
mod number;
mod page;
pub mod progress;
mod release;
mod text;
mod verdict;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

use evals::comparison::{COMPARISON_VERSION, Comparison};
use evals::diagnosis::{DIAGNOSIS_VERSION, Diagnosis, LineageDiagnosis};
use evals::index::{INDEX_VERSION, Index};
use evals::release::record::{JUDGEMENT_VERSION, Judgement};
use probes::item::Behaviour;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use error::Error;
pub use number::duration;

use progress::Progress;

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
    json(diagnosis)
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

/// Renders the table of a diagnosis as CSV: a row for each chain, phase, behaviour and way of asking ([`evals::summary`]). A text
/// that a spreadsheet would take for a formula begins with an apostrophe.
///
/// # Errors
///
/// [`Error::UnsupportedVersion`] and [`Error::PhaseCount`] as for [`render_html`]; [`Error::Csv`] where it cannot be written.
pub fn render_csv(diagnosis: &Diagnosis) -> Result<String, Error> {
    check(diagnosis)?;
    export::csv::render(diagnosis)
}

/// Renders a snippet for the model card of the deployed chain's last checkpoint: a YAML head with Hugging Face's `model-index`, then
/// what fails, which phase it comes from and what to do, in Markdown.
///
/// # Errors
///
/// [`Error::UnsupportedVersion`] and [`Error::PhaseCount`] as for [`render_html`].
pub fn render_model_card(diagnosis: &Diagnosis) -> Result<String, Error> {
    check(diagnosis)?;
    Ok(export::model_card::render(diagnosis))
}

/// Renders the report of a comparison as one HTML file that needs no network and no script.
///
/// # Errors
///
/// [`Error::UnsupportedVersion`] where the comparison was written by another version; [`Error::Template`] where the template
/// fails.
pub fn render_comparison_html(comparison: &Comparison) -> Result<String, Error> {
    check_comparison(comparison)?;
    html::render_comparison(comparison)
}

/// Renders the comparison as indented JSON, ending in a line feed; reads back as the same record, numbers to within their last
/// bit.
///
/// # Errors
///
/// [`Error::UnsupportedVersion`] as for [`render_comparison_html`]; [`Error::Json`] where a number is not finite.
pub fn render_comparison_json(comparison: &Comparison) -> Result<String, Error> {
    check_comparison(comparison)?;
    json(comparison)
}

/// Renders a summary of the comparison in GitHub-flavoured Markdown, short enough for a pull request.
///
/// # Errors
///
/// [`Error::UnsupportedVersion`] as for [`render_comparison_html`].
pub fn render_comparison_markdown(comparison: &Comparison) -> Result<String, Error> {
    check_comparison(comparison)?;
    Ok(comparison::markdown::render(comparison))
}

/// Renders the page over many runs as one HTML file that needs no network and no script.
///
/// # Errors
///
/// [`Error::UnsupportedVersion`] where the index was written by another version; [`Error::Template`] where the template fails.
pub fn render_index_html(index: &Index) -> Result<String, Error> {
    check_index(index)?;
    html::render_index(index)
}

/// Renders the index as indented JSON, ending in a line feed; reads back as the same record, numbers to within their last bit.
///
/// # Errors
///
/// [`Error::UnsupportedVersion`] as for [`render_index_html`]; [`Error::Json`] where a number is not finite.
pub fn render_index_json(index: &Index) -> Result<String, Error> {
    check_index(index)?;
    json(index)
}

/// Renders a summary of the index in GitHub-flavoured Markdown.
///
/// # Errors
///
/// [`Error::UnsupportedVersion`] as for [`render_index_html`].
pub fn render_index_markdown(index: &Index) -> Result<String, Error> {
    check_index(index)?;
    Ok(index::markdown::render(index))
}

/// Renders how far a run is, for the time before its diagnosis, as one HTML page that needs no network and no script.
///
/// # Errors
///
/// [`Error::Template`] where the template fails.
pub fn render_progress_html(progress: &Progress) -> Result<String, Error> {
    html::render_progress(progress)
}

/// Renders what a gate decided as plain text: the decision in the first line, a row for each rule, and a paragraph for each that is
/// not shown to hold; with `show_flips` also the items that were right and are wrong.
///
/// # Errors
///
/// [`Error::UnsupportedVersion`] where the judgement was written by another version.
pub fn render_gate_text(judgement: &Judgement, show_flips: bool) -> Result<String, Error> {
    check_judgement(judgement)?;
    Ok(release::table::text(judgement, show_flips))
}

/// Renders the same in GitHub-flavoured Markdown, cut to less than 1,000,000 bytes, as `$GITHUB_STEP_SUMMARY` takes no more than
/// 1 MiB.
///
/// # Errors
///
/// [`Error::UnsupportedVersion`] as for [`render_gate_text`].
pub fn render_gate_markdown(judgement: &Judgement) -> Result<String, Error> {
    check_judgement(judgement)?;
    Ok(release::markdown::markdown(judgement))
}

/// Renders the judgement as indented JSON, ending in a line feed; reads back as the same record, numbers to within their last bit.
///
/// # Errors
///
/// [`Error::UnsupportedVersion`] as for [`render_gate_text`]; [`Error::Json`] where a number is not finite.
pub fn render_gate_json(judgement: &Judgement) -> Result<String, Error> {
    check_judgement(judgement)?;
    json(judgement)
}

/// Renders the rules as test cases in JUnit's XML: broken critical rules fail, unmeasured ones are errors, undecided rules are
/// skipped, and rules that do not block pass and say what became of them.
///
/// # Errors
///
/// [`Error::UnsupportedVersion`] as for [`render_gate_text`].
pub fn render_gate_junit(judgement: &Judgement) -> Result<String, Error> {
    check_judgement(judgement)?;
    Ok(release::junit::junit(judgement))
}

/// Renders the rules that are not shown to hold as SARIF 2.1.0, with their broken items by their lines in the bank.
///
/// # Errors
///
/// [`Error::UnsupportedVersion`] as for [`render_gate_text`]; [`Error::Json`] where it cannot be written.
pub fn render_gate_sarif(judgement: &Judgement) -> Result<String, Error> {
    check_judgement(judgement)?;
    release::sarif::sarif(judgement)
}

/// Commands that make GitHub show the rules that block or warn beside a pull request, ten at most; each a line of a step's log.
///
/// # Errors
///
/// [`Error::UnsupportedVersion`] as for [`render_gate_text`].
pub fn gate_annotations(judgement: &Judgement) -> Result<Vec<String>, Error> {
    check_judgement(judgement)?;
    Ok(release::annotations::annotations(judgement))
}

/// Where the report on a diagnosis speaks of a behaviour of a chain: what stands behind the `#` of a link. `None` where it says nothing of it.
pub fn gate_anchor(diagnosis: &Diagnosis, lineage: &str, behaviour: Behaviour) -> Option<String> {
    release::link::anchor(diagnosis, lineage, behaviour)
}

/// Writes a report so that a reader sees the old file or the whole new one, never a part; missing folders are made.
///
/// # Errors
///
/// [`Error::Write`] with the path and what the system said.
pub fn write(path: &Path, contents: &str) -> Result<(), Error> {
    write_bytes(path, contents.as_bytes())
}

/// The same with bytes.
///
/// # Errors
///
/// As [`write`](fn@write).
pub fn write_bytes(path: &Path, contents: &[u8]) -> Result<(), Error> {
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

// What cannot be read back is an error here, not at the reader's.
fn json<R: Serialize + DeserializeOwned>(record: &R) -> Result<String, Error> {
    let mut text = serde_json::to_string_pretty(record)?;
    let _: R = serde_json::from_str(&text)?;
    text.push('\n');
    Ok(text)
}

fn check_comparison(comparison: &Comparison) -> Result<(), Error> {
    if comparison.version == COMPARISON_VERSION {
        Ok(())
    } else {
        Err(Error::UnsupportedVersion {
            record: "comparison",
            found: comparison.version,
            supported: COMPARISON_VERSION,
        })
    }
}

fn check_index(index: &Index) -> Result<(), Error> {
    if index.version == INDEX_VERSION {
        Ok(())
    } else {
        Err(Error::UnsupportedVersion { record: "index", found: index.version, supported: INDEX_VERSION })
    }
}

fn check_judgement(judgement: &Judgement) -> Result<(), Error> {
    if judgement.version == JUDGEMENT_VERSION {
        Ok(())
    } else {
        Err(Error::UnsupportedVersion { record: "judgement", found: judgement.version, supported: JUDGEMENT_VERSION })
    }
}

fn check(diagnosis: &Diagnosis) -> Result<(), Error> {
    if diagnosis.version != DIAGNOSIS_VERSION {
        return Err(Error::UnsupportedVersion {
            record: "diagnosis",
            found: diagnosis.version,
            supported: DIAGNOSIS_VERSION,
        });
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
