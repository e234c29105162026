//! The pages: templates, style sheets, the one script, and the policy that forbids everything else.

use evals::comparison::Comparison;
use evals::diagnosis::Diagnosis;
use evals::index::Index;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, Output, State, UndefinedBehavior, escape_formatter};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::page::Page;
use crate::progress::{self, Progress};
use crate::text::{TEXT_LIMIT, clean};
use crate::{comparison, index, words};

const PARTS: &str = include_str!("../templates/parts.html");
const REPORT: &str = include_str!("../templates/report.html");
const REPORT_STYLE: &str = include_str!("../templates/report.css");
const REPORT_SCRIPT: &str = include_str!("../templates/report.js");
const COMPARISON: &str = include_str!("../templates/comparison.html");
const COMPARISON_STYLE: &str =
    concat!(include_str!("../templates/report.css"), include_str!("../templates/comparison.css"));
const INDEX: &str = include_str!("../templates/index.html");
const INDEX_STYLE: &str = concat!(include_str!("../templates/report.css"), include_str!("../templates/index.css"));
const PROGRESS: &str = include_str!("../templates/progress.html");
const PROGRESS_STYLE: &str =
    concat!(include_str!("../templates/report.css"), include_str!("../templates/progress.css"));

/// What a page is made of besides its record.
struct Sheet {
    template: &'static str,
    style: &'static str,
    /// Empty where the page has none; the policy then admits none.
    script: &'static str,
}

#[derive(Serialize)]
struct Context<P> {
    page: P,
    style: Value,
    style_hash: String,
    script: Value,
    script_hash: String,
}

/// The report of a diagnosis.
pub(crate) fn render(diagnosis: &Diagnosis) -> Result<String, Error> {
    let sheet = Sheet { template: REPORT, style: REPORT_STYLE, script: REPORT_SCRIPT };
    fill(&sheet, Page::build(diagnosis))
}

/// The report of a comparison.
pub(crate) fn render_comparison(comparison: &Comparison) -> Result<String, Error> {
    let sheet = Sheet { template: COMPARISON, style: COMPARISON_STYLE, script: "" };
    fill(&sheet, comparison::Page::build(comparison))
}

/// The page over many runs.
pub(crate) fn render_index(index: &Index) -> Result<String, Error> {
    let sheet = Sheet { template: INDEX, style: INDEX_STYLE, script: "" };
    fill(&sheet, index::Page::build(index))
}

/// The page of a run in progress.
pub(crate) fn render_progress(progress: &Progress) -> Result<String, Error> {
    let sheet = Sheet { template: PROGRESS, style: PROGRESS_STYLE, script: "" };
    fill(&sheet, progress::Page::build(progress))
}

fn fill<P: Serialize>(sheet: &Sheet, page: P) -> Result<String, Error> {
    let mut environment = environment()?;
    environment.add_template("parts.html", PARTS)?;
    environment.add_template("page.html", sheet.template)?;
    let context = Context {
        page,
        style: Value::from_safe_string(sheet.style.to_owned()),
        style_hash: hash(sheet.style),
        script: Value::from_safe_string(sheet.script.to_owned()),
        script_hash: if sheet.script.is_empty() { String::new() } else { hash(sheet.script) },
    };
    Ok(environment.get_template("page.html")?.render(Serde(&context))?)
}

fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_formatter(print_cleaned);
    // Tables have thousands of cells; blank lines between them would double the file.
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.add_function("meaning_of", |word: String| words::meaning(&word));
    environment.add_function("anchor_of", |word: String| words::anchor(&word));
    Ok(environment)
}

/// What a browser compares the text of a style sheet or script with.
fn hash(text: &str) -> String {
    base64(&Sha256::digest(text.as_bytes()))
}

// Whatever the view forgot to clean is cleaned where it is printed: no text reaches the page another way.
fn print_cleaned(out: &mut Output, state: &mut State, value: &Value) -> Result<(), minijinja::Error> {
    match value.as_str() {
        Some(text) if !value.is_safe() => escape_formatter(out, state, &Value::from(clean(text, TEXT_LIMIT))),
        _ => escape_formatter(out, state, value),
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0_u32, |word, (i, &byte)| word | u32::from(byte) << (16 - 8 * i));
        for i in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use evals::diagnosis::{DIAGNOSIS_VERSION, Diagnosis, Provenance};

    use super::{REPORT, REPORT_SCRIPT, REPORT_STYLE, base64, hash};
    use crate::words;

    #[test]
    fn base64_gives_the_test_vectors_of_rfc_4648() {
        let expected = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        for (n, expected) in expected.iter().enumerate() {
            assert_eq!(base64(&b"foobar"[..n]), *expected);
        }
    }

    // A browser hashes what stands between the tags: one byte more or less, and the page loses its style or its script.
    #[test]
    fn the_policy_admits_style_and_script_as_they_stand_in_the_page() {
        let diagnosis = Diagnosis {
            version: DIAGNOSIS_VERSION,
            run: "empty".to_owned(),
            sentences: Vec::new(),
            lineages: Vec::new(),
            data: BTreeMap::new(),
            provenance: Provenance {
                seed: None,
                bank_hash: String::new(),
                n_items: 0,
                probe_version: 1,
                phasetrace_version: String::new(),
                reference: None,
                notes: BTreeMap::new(),
            },
        };
        let page = super::render(&diagnosis).unwrap();
        for (tag, text) in [("style", REPORT_STYLE), ("script", REPORT_SCRIPT)] {
            let parts: Vec<&str> = page.split(&format!("<{tag}>")).collect();
            assert_eq!(parts.len(), 2, "one element {tag}");
            assert_eq!(parts[1].split(&format!("</{tag}>")).next(), Some(text));
            assert!(page.contains(&format!("{tag}-src 'sha256-{}'", hash(text))));
        }
        assert!(!REPORT_SCRIPT.contains('<'), "no text of the script looks like the end of it");
    }

    #[test]
    fn every_word_that_the_page_explains_is_in_the_glossary() {
        let explained: Vec<&str> = REPORT.split("term(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(explained.len() > 10, "{explained:?}");
        for word in explained {
            assert!(words::meaning(word).is_some(), "{word}");
        }
    }
}
