//! A gate's decision in Markdown, for `$GITHUB_STEP_SUMMARY` and pull requests.
//!
//! GitHub refuses a summary of more than 1 MiB as a whole, so it is cut between rows and between rules, and says so.

use std::fmt::Write as _;

use evals::release::record::{Judgement, Outcome, Ruling};

use super::{
    FLIPS_SHOWN, LINE_LIMIT, Level, N_COLUMNS, cells, closing, explanation, flips, heading, headline, heads, link,
    sides, worst_first,
};
use crate::markdown::escape;
use crate::number::{count, plural};
use crate::text::{clean_line, clean_name};

/// Where the table ends at the latest, in bytes.
const TABLE_END: usize = 400_000;
/// Where the rules' paragraphs end at the latest, in bytes; what follows is short, and the whole below 1,000,000.
const RULES_END: usize = 900_000;

/// Writes the summary, of less than 1,000,000 bytes.
pub(crate) fn markdown(judgement: &Judgement) -> String {
    let rulings = worst_first(judgement);
    let mut out = format!("# {}\n\n{}\n\n", escape(&headline(judgement)), escape(&sides(judgement)));
    let heads = heads(judgement).map(|head| escape(&head));
    let _ = writeln!(out, "| {} |\n|{}", heads.join(" | "), "--|".repeat(N_COLUMNS));
    let n_shown = fill(&mut out, rulings.iter().map(|ruling| row(ruling)), TABLE_END);
    left_out(&mut out, rulings.len() - n_shown, "not in this table");
    let unmet: Vec<&Ruling> = rulings.into_iter().filter(|ruling| Level::of(ruling) != Level::Silent).collect();
    let n_shown = fill(&mut out, unmet.iter().map(|ruling| section(judgement, ruling)), RULES_END);
    left_out(&mut out, unmet.len() - n_shown, "not shown to hold and not explained here");
    out.push('\n');
    for line in closing(judgement) {
        let _ = writeln!(out, "- {}", escape(&line));
    }
    out
}

/// Appends blocks as long as they end within `limit` bytes of the whole; says how many.
fn fill(out: &mut String, blocks: impl Iterator<Item = String>, limit: usize) -> usize {
    let mut n_shown = 0;
    for block in blocks {
        if out.len() + block.len() > limit {
            break;
        }
        out.push_str(&block);
        n_shown += 1;
    }
    n_shown
}

fn left_out(out: &mut String, n: usize, how: &str) {
    if n > 0 {
        let verb = if n == 1 { "is" } else { "are" };
        let _ = writeln!(out, "\n{} {verb} {how}.", plural(n, "more rule"));
    }
}

fn row(ruling: &Ruling) -> String {
    let cells = cells(ruling).map(|cell| escape(&cell));
    format!("| {} {} |\n", mark(&ruling.outcome), cells.join(" | "))
}

fn section(judgement: &Judgement, ruling: &Ruling) -> String {
    let mut out = format!("\n### {} {}\n\n", mark(&ruling.outcome), escape(&heading(ruling)));
    for line in explanation(judgement, ruling) {
        let _ = writeln!(out, "- {}", escape(&line));
    }
    if let Some(address) = link::address(judgement, ruling) {
        let _ = writeln!(out, "- [In the report]({address})");
    } else if let Some(path) = link::path(judgement, ruling) {
        let _ = writeln!(out, "- In the report: {}", code(&path));
    }
    let broken = flips(ruling);
    if !broken.is_empty() {
        out.push_str("\n| Line | Right before, wrong now | Question |\n|--:|--|--|\n");
    }
    for flip in broken.iter().take(FLIPS_SHOWN) {
        let (item, question) = (clean_name(&flip.item), clean_line(&flip.question, LINE_LIMIT));
        let _ = writeln!(out, "| {} | {} | {} |", flip.line, escape(&item), escape(&question));
    }
    if broken.len() > FLIPS_SHOWN {
        let _ = writeln!(out, "\nand {} more", count(broken.len() - FLIPS_SHOWN));
    }
    out
}

/// A path as code, where nothing in it could be read as anything else.
fn code(path: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || " -._~/#".contains(c);
    if path.chars().all(is_plain) { format!("`{path}`") } else { escape(path) }
}

fn mark(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Held => "✓",
        Outcome::Broken => "✕",
        Outcome::Undecided => "?",
        Outcome::NotMeasured(_) => "–",
    }
}
