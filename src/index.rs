//! `phasetrace index`: one page over many diagnosed runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use evals::diagnosis::DIAGNOSIS_VERSION;
use evals::index::{Index, IndexRun, NaturalOrder};

use crate::cli::IndexArgs;
use crate::exit::{self, NothingToAsk};
use crate::output;
use crate::report::{Format, check_pages, extension, read_diagnosis};
use crate::run::Run;

pub(crate) fn run(args: &IndexArgs) -> Result<u8> {
    let found = find(&args.dirs)?;
    for run in &found.undiagnosed {
        output::tell(&format!("{}: not diagnosed yet, left out\n", run.root().display()));
    }
    let default = args.dirs.first().map(|dir| dir.join("index.html"));
    let outputs = if args.output.is_empty() { default.as_slice() } else { &args.output[..] };
    check_pages(outputs)?;
    let mut index = Index::over(found.diagnosed.iter().map(read).collect::<Result<_>>()?);
    for path in outputs {
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for (entry, run) in index.runs.iter_mut().zip(&found.diagnosed) {
            entry.report = link(folder, &run.report());
        }
        let text = match extension(path)? {
            Format::Html => reports::render_index_html(&index)?,
            Format::Json => reports::render_index_json(&index)?,
            Format::Markdown => reports::render_index_markdown(&index)?,
        };
        reports::write(path, &text)?;
        output::print_line(&path.display().to_string())?;
    }
    for sentence in &index.sentences {
        // Names come from the diagnoses: a terminal must not be driven by them.
        output::print_line(&sentence.replace(char::is_control, " "))?;
    }
    Ok(exit::SUCCESS)
}

/// The runs in some folders.
#[derive(Default)]
struct Found {
    diagnosed: Vec<Run>,
    undiagnosed: Vec<Run>,
}

/// Each folder that is a run, and the runs in each that is none, in the order of their names. Folders below those are not looked at,
/// so that a folder of healthy runs beside one's own does not count among them; give it as well to have them.
fn find(dirs: &[PathBuf]) -> Result<Found> {
    let mut paths = Vec::new();
    for dir in dirs {
        if !dir.is_dir() {
            bail!("{}: no such folder; `phasetrace diagnose` makes runs/small", dir.display());
        }
        if is_run(dir) {
            paths.push(dir.clone());
            continue;
        }
        let mut below = Vec::new();
        for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
            below.push(entry.with_context(|| format!("cannot read {}", dir.display()))?.path());
        }
        below.retain(|path| is_run(path));
        below.sort_by_cached_key(|path| NaturalOrder::of(&path.display().to_string()));
        paths.extend(below);
    }
    let mut known = BTreeSet::new();
    let mut found = Found::default();
    for path in paths {
        // What is given twice is one run.
        if !known.insert(path.canonicalize().with_context(|| format!("cannot read {}", path.display()))?) {
            continue;
        }
        let run = Run::at(&path);
        let list = if run.diagnosis().exists() { &mut found.diagnosed } else { &mut found.undiagnosed };
        list.push(run);
    }
    if found.diagnosed.is_empty() {
        let places: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        bail!(NothingToAsk(format!(
            "no diagnosed run in {}; `phasetrace diagnose {}` makes one",
            places.join(", "),
            dirs.first().map_or_else(|| PathBuf::from("runs/small"), |dir| dir.join("small")).display()
        )));
    }
    Ok(found)
}

fn is_run(path: &Path) -> bool {
    let run = Run::at(path);
    run.diagnosis().exists() || run.recipe().exists()
}

/// What the index keeps of a run.
fn read(run: &Run) -> Result<IndexRun> {
    let path = run.diagnosis();
    let diagnosis = read_diagnosis(&path)?;
    if diagnosis.version != DIAGNOSIS_VERSION {
        bail!(evals::Error::Version { path, found: diagnosis.version, expected: DIAGNOSIS_VERSION });
    }
    Ok(IndexRun::of(run.root().display().to_string(), &diagnosis))
}

/// The way from a folder to a report, parts separated by `/`; `None` where there is no report, or no way that can be written.
fn link(folder: &Path, report: &Path) -> Option<String> {
    let (folder, report) = (folder.canonicalize().ok()?, report.canonicalize().ok()?);
    let shared = folder.components().zip(report.components()).take_while(|(a, b)| a == b).count();
    let up = folder.components().skip(shared).map(|_| Some(".."));
    let down = report.components().skip(shared).map(|part| part.as_os_str().to_str());
    let parts: Option<Vec<&str>> = up.chain(down).collect();
    Some(parts?.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_the_way_from_the_page_to_the_report() {
        let folder = tempfile::tempdir().unwrap();
        let (run, pages) = (folder.path().join("runs/a b"), folder.path().join("pages/deep"));
        let report = run.join("report.html");
        for path in [&run, &pages] {
            fs::create_dir_all(path).unwrap();
        }
        assert_eq!(link(&pages, &report), None, "there is no report");
        fs::write(&report, "").unwrap();
        assert_eq!(link(&pages, &report).unwrap(), "../../runs/a b/report.html");
        assert_eq!(link(&folder.path().join("runs"), &report).unwrap(), "a b/report.html");
        assert_eq!(link(&run, &report).unwrap(), "report.html");
    }
}
