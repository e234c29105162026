//! A gate's decision as plain text, for a terminal or the log of a job.

use std::fmt::Write as _;

use evals::release::record::{Judgement, Ruling};

use super::{
    FLIPS_SHOWN, LINE_LIMIT, Level, N_COLUMNS, cells, closing, flips, heading, headline, heads, plain_explanation,
    sides, worst_first,
};
use crate::number::count;
use crate::text::{clean_line, clean_name};

/// Writes the decision, a row for each rule, and a paragraph for each that is not shown to hold; with `show_flips` its items too.
pub(crate) fn text(judgement: &Judgement, show_flips: bool) -> String {
    let rulings = worst_first(judgement);
    let mut out = format!("{}\n{}\n\n", headline(judgement), sides(judgement));
    rows(&mut out, judgement, &rulings);
    for ruling in rulings.iter().filter(|ruling| Level::of(ruling) != Level::Silent) {
        let _ = writeln!(out, "\n{}", heading(ruling));
        for line in plain_explanation(judgement, ruling) {
            let _ = writeln!(out, "  {line}");
        }
        if show_flips {
            items(&mut out, ruling);
        }
    }
    out.push('\n');
    for line in closing(judgement) {
        let _ = writeln!(out, "{line}");
    }
    disarm(&out)
}

fn rows(out: &mut String, judgement: &Judgement, rulings: &[&Ruling]) {
    let mut lines = vec![heads(judgement)];
    lines.extend(rulings.iter().map(|ruling| cells(ruling).map(|cell| disarm(&cell))));
    let width = |i: usize| lines.iter().map(|line| line[i].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N_COLUMNS).map(width).collect();
    for line in &lines {
        let padded: Vec<String> = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        let _ = writeln!(out, "{}", padded.join("  ").trim_end());
    }
}

fn items(out: &mut String, ruling: &Ruling) {
    let broken = flips(ruling);
    for flip in broken.iter().take(FLIPS_SHOWN) {
        let (item, question) = (clean_name(&flip.item), clean_line(&flip.question, LINE_LIMIT));
        let _ = writeln!(out, "    line {}  {item}  {question}", flip.line);
    }
    if broken.len() > FLIPS_SHOWN {
        let _ = writeln!(out, "    and {} more", count(broken.len() - FLIPS_SHOWN));
    }
}

// Runners of jobs obey `##[add-mask]` and `##vso[...]` anywhere in a line; twice, because three in a row leave two.
fn disarm(text: &str) -> String {
    text.replace("##", "# #").replace("##", "# #")
}

#[cfg(test)]
mod tests {
    use super::disarm;

    #[test]
    fn no_two_number_signs_are_left_side_by_side() {
        for n in 0..9 {
            assert!(!disarm(&"#".repeat(n)).contains("##"), "{n}");
        }
        assert_eq!(disarm("# a ##[b]"), "# a # #[b]");
    }
}
