//! A run's own data files: read in whatever shape they have, written as the world's files are.

use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use evals::rows::{Rows, is_parquet};
use serde::{Deserialize, Serialize};
use trainer::constitution::{Constitution, Principle};
use trainer::data::{self, Comparison, Conversation, Document, Prompt};
use trainer::import::{BadLines, Imported, Skipped, import};
use trainer::records::Records;
use trainer::shapes::Shaped;

use crate::exit;
use crate::output;
use crate::progress::Bars;

/// Data files in place of the small world's (`[data]`); what is not given comes from the world.
///
/// Paths are relative to the recipe file, those of `--set` to the working directory; a run keeps them as absolute ones.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DataRecipe {
    /// Documents of the pretraining corpus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) corpus: Option<PathBuf>,
    /// Conversations to imitate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) conversations: Option<PathBuf>,
    /// Ranked answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) preferences: Option<PathBuf>,
    /// Prompts to sample answers for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompts: Option<PathBuf>,
    /// Principles of Constitutional AI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) constitution: Option<PathBuf>,
    /// Leave out lines that do not fit (`--skip-bad`), where otherwise the first of them is an error.
    pub(crate) skip_bad: bool,
}

/// The keys that hold a path.
const KINDS: [&str; 5] = ["corpus", "conversations", "preferences", "prompts", "constitution"];

impl DataRecipe {
    /// Whether all data are the world's.
    pub(crate) fn is_empty(&self) -> bool {
        self.files().next().is_none()
    }

    /// The files that are given, by kind.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let paths = [&self.corpus, &self.conversations, &self.preferences, &self.prompts, &self.constitution];
        KINDS.into_iter().zip(paths).filter_map(|(kind, path)| Some((kind, path.as_deref()?)))
    }

    fn bad_lines(&self) -> BadLines {
        if self.skip_bad { BadLines::Skip } else { BadLines::Refuse }
    }
}

/// Where a file of a run's data comes from (`data/sources.json`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    /// `corpus`, `conversations`, `preferences`, `prompts` or `constitution`.
    pub(crate) kind: String,
    /// The file, absolute.
    pub(crate) path: PathBuf,
    /// SHA-256 of its bytes.
    pub(crate) sha256: String,
    /// The shape of its rows.
    pub(crate) shape: String,
    /// Lines that were left out.
    pub(crate) n_skipped: usize,
    /// For each line of the run's file the line of the source that it was made of.
    pub(crate) lines: Vec<usize>,
}

const SOURCES: &str = "sources.json";

/// The sources of a run's data; none where all data are the world's.
pub(crate) fn sources(data: &Path) -> Result<Vec<Source>> {
    let path = data.join(SOURCES);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))
}

/// Hashes of the files given, for the name of what is made of them.
pub(crate) fn hash_files(recipe: &DataRecipe) -> Result<Vec<(&'static str, String)>> {
    recipe.files().map(|(kind, path)| Ok((kind, data::hash_file(path)?))).collect()
}

/// Refuses a run whose data were made of files that have changed since. A file that is gone is no fault: the run has what it needs.
pub(crate) fn check_unchanged(data: &Path) -> Result<()> {
    for Source { path, sha256, .. } in sources(data)? {
        if path.exists() && data::hash_file(&path)? != sha256 {
            bail!(
                "{} has changed since {} was made of it; choose another run folder, or delete this run's",
                path.display(),
                data.display()
            );
        }
    }
    Ok(())
}

/// A run's own data, read and not yet written.
pub(crate) struct Import {
    files: Vec<(&'static str, String)>,
    sources: Vec<Source>,
    skipped: Vec<Skipped>,
}

impl Import {
    /// Reads and converts the files of a recipe.
    pub(crate) fn read(recipe: &DataRecipe, bars: &Bars) -> Result<Self> {
        let mut import = Self { files: Vec::new(), sources: Vec::new(), skipped: Vec::new() };
        for (kind, path) in recipe.files() {
            let bad_lines = recipe.bad_lines();
            match kind {
                "corpus" => import.add::<Document>(kind, "corpus.jsonl", path, bad_lines)?,
                "conversations" => import.add::<Conversation>(kind, "sft.jsonl", path, bad_lines)?,
                "preferences" => import.add::<Comparison>(kind, "preferences.jsonl", path, bad_lines)?,
                "prompts" => import.add::<Prompt>(kind, "prompts.jsonl", path, bad_lines)?,
                _ => import.add_constitution(path, bad_lines)?,
            }
        }
        for Source { kind, path, shape, n_skipped, lines, .. } in &import.sources {
            let left_out = if *n_skipped > 0 { format!(", {n_skipped} left out") } else { String::new() };
            bars.say(&format!(
                "{:>10}  {kind}: {} of shape {shape}, {} lines{left_out}",
                "data",
                path.display(),
                lines.len()
            ));
        }
        tell_skipped(&import.skipped, "data/skipped.jsonl", bars);
        Ok(import)
    }

    fn add<T: Shaped + Serialize>(
        &mut self,
        kind: &str,
        name: &'static str,
        path: &Path,
        bad_lines: BadLines,
    ) -> Result<()> {
        let imported: Imported<T> = read_file(path, bad_lines)?;
        self.files.push((name, data::to_lines(&imported.items)));
        self.add_source(kind, path, imported)
    }

    fn add_source<T>(&mut self, kind: &str, path: &Path, imported: Imported<T>) -> Result<()> {
        let Imported { lines, shape, skipped, .. } = imported;
        self.sources.push(Source {
            kind: kind.to_owned(),
            path: path.to_owned(),
            sha256: data::hash_file(path)?,
            shape: shape.to_owned(),
            n_skipped: skipped.len(),
            lines,
        });
        self.skipped.extend(skipped);
        Ok(())
    }

    /// A constitution is taken as it is where it is TOML, and made of the rows of any other file.
    fn add_constitution(&mut self, path: &Path, bad_lines: BadLines) -> Result<()> {
        if path.extension().is_some_and(|name| name == "toml") {
            let n = Constitution::load(path)?.principles.len();
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            self.files.push(("constitution.toml", text));
            let lines = (1..=n).collect();
            let imported =
                Imported::<Principle> { items: Vec::new(), lines, shape: "constitution.toml", skipped: Vec::new() };
            return self.add_source("constitution", path, imported);
        }
        let imported: Imported<Principle> = read_file(path, bad_lines)?;
        let text = Constitution::to_toml(&imported.items);
        Constitution::parse(path, &text)?;
        self.files.push(("constitution.toml", text));
        self.add_source("constitution", path, imported)
    }

    /// Puts the files into a data folder, in place of the world's.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        for (name, text) in &self.files {
            write(name, text)?;
        }
        write(SOURCES, &(serde_json::to_string(&self.sources)? + "\n"))?;
        if self.skipped.is_empty() { Ok(()) } else { write("skipped.jsonl", &data::to_lines(&self.skipped)) }
    }
}

fn read_file<T: Shaped>(path: &Path, bad_lines: BadLines) -> Result<Imported<T>> {
    if !is_parquet(path)? {
        return Ok(import(path, Records::open(path)?, bad_lines)?);
    }
    // In a process of its own, which a damaged file may end: the library that reads Parquet trusts what it reads.
    let failed = || format!("cannot start a process to read {}", path.display());
    let mut reader = Command::new(std::env::current_exe().with_context(failed)?)
        .arg("rows")
        .arg(path)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(failed)?;
    let rows = BufReader::new(reader.stdout.take().expect("it is piped"));
    // One row a line: the line of a record is the row of the file.
    let imported = import(path, Records::of_lines(path, rows), bad_lines);
    let outcome = reader.wait_with_output().with_context(failed)?;
    match imported {
        Err(error @ trainer::Error::DataLine { .. }) => Err(error.into()),
        _ if !outcome.status.success() => {
            let told = String::from_utf8_lossy(&outcome.stderr);
            let error = told.lines().find_map(|line| line.strip_prefix("error: "));
            let damaged = || format!("{} is not a readable Parquet file: its content is damaged", path.display());
            bail!("{}", error.map_or_else(damaged, str::to_owned))
        }
        imported => Ok(imported?),
    }
}

/// `phasetrace rows`: prints the rows of a Parquet file, one JSON object a line.
pub(crate) fn print_rows(path: &Path) -> Result<u8> {
    for row in Rows::open(path)? {
        output::print_line(&serde_json::to_string(&row?)?)?;
    }
    Ok(exit::SUCCESS)
}

/// Lines that are told on standard error; all of them are in the file.
const TOLD: usize = 20;

/// Tells what was left out.
pub(crate) fn tell_skipped(skipped: &[Skipped], listed: &str, bars: &Bars) {
    for Skipped { file, line, reason } in skipped.iter().take(TOLD) {
        bars.say(&format!("{:>10}  left out {file}:{line}: {reason}", "data"));
    }
    if skipped.len() > TOLD {
        bars.say(&format!("{:>10}  and {} more, listed in the run's {listed}", "data", skipped.len() - TOLD));
    }
}
