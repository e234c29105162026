//! The pages: templates, style sheets and the policy that forbids everything else.

use evals::comparison::Comparison;
use evals::diagnosis::Diagnosis;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, Output, State, UndefinedBehavior, escape_formatter};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::comparison;
use crate::error::Error;
use crate::page::Page;
use crate::text::{TEXT_LIMIT, clean};

const PARTS: &str = include_str!("../templates/parts.html");
const REPORT: &str = include_str!("../templates/report.html");
const REPORT_STYLE: &str = include_str!("../templates/report.css");
const COMPARISON: &str = include_str!("../templates/comparison.html");
const COMPARISON_STYLE: &str =
    concat!(include_str!("../templates/report.css"), include_str!("../templates/comparison.css"));

#[derive(Serialize)]
struct Context<'a, P> {
    page: P,
    style: Value,
    style_hash: &'a str,
}

/// The report of a diagnosis.
pub(crate) fn render(diagnosis: &Diagnosis) -> Result<String, Error> {
    fill(environment(), REPORT, REPORT_STYLE, Page::build(diagnosis))
}

/// The report of a comparison.
pub(crate) fn render_comparison(comparison: &Comparison) -> Result<String, Error> {
    let mut environment = environment();
    // Its tables have thousands of cells; blank lines between them would double the file.
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    fill(environment, COMPARISON, COMPARISON_STYLE, comparison::Page::build(comparison))
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_formatter(print_cleaned);
    environment
}

fn fill<P: Serialize>(
    mut environment: Environment,
    template: &'static str,
    style: &str,
    page: P,
) -> Result<String, Error> {
    environment.add_template("parts.html", PARTS)?;
    environment.add_template("page.html", template)?;
    let context = Context {
        page,
        style: Value::from_safe_string(style.to_owned()),
        style_hash: &base64(&Sha256::digest(style.as_bytes())),
    };
    Ok(environment.get_template("page.html")?.render(Serde(&context))?)
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
    use sha2::{Digest, Sha256};

    use super::{REPORT_STYLE, base64};

    #[test]
    fn base64_gives_the_test_vectors_of_rfc_4648() {
        let expected = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        for (n, expected) in expected.iter().enumerate() {
            assert_eq!(base64(&b"foobar"[..n]), *expected);
        }
    }

    // A browser hashes what stands between the tags: one byte more or less, and the page loses its style.
    #[test]
    fn the_policy_admits_the_style_sheet_as_it_stands_in_the_page() {
        let diagnosis = evals::diagnosis::Diagnosis {
            version: evals::diagnosis::DIAGNOSIS_VERSION,
            run: "empty".to_owned(),
            sentences: Vec::new(),
            lineages: Vec::new(),
            data: std::collections::BTreeMap::new(),
            provenance: evals::diagnosis::Provenance {
                seed: None,
                bank_hash: String::new(),
                n_items: 0,
                probe_version: 1,
                phasetrace_version: String::new(),
                reference: None,
                notes: std::collections::BTreeMap::new(),
            },
        };
        let page = super::render(&diagnosis).unwrap();
        let style = page.split("<style>").nth(1).and_then(|rest| rest.split("</style>").next()).unwrap();
        assert_eq!(style, REPORT_STYLE);
        assert!(page.contains(&format!("style-src 'sha256-{}'", base64(&Sha256::digest(style)))));
    }
}
