//! What GitHub shows on the page of a job and beside a pull request: workflow commands, which it reads from the log of a step.

use evals::release::record::{Judgement, Ruling};

use super::{Level, blamed, heading, link, summary, worst_first};
use crate::number::plural;

/// Annotations that GitHub shows of one step and level.
const MOST: usize = 10;

/// One command for each rule that blocks or warns, the worst first; where there are too many the last one counts the rest.
///
/// # Reference
///
/// GitHub Docs, *Workflow commands for GitHub Actions*: `::error title={title}::{message}`.
pub(crate) fn annotations(judgement: &Judgement) -> Vec<String> {
    let is_told = |ruling: &&Ruling| Level::of(ruling) <= Level::Warning;
    let rulings: Vec<&Ruling> = worst_first(judgement).into_iter().filter(is_told).collect();
    let n_own = if rulings.len() > MOST { MOST - 1 } else { rulings.len() };
    let (own, rest) = rulings.split_at(n_own);
    let mut lines: Vec<String> = own.iter().map(|ruling| annotation(judgement, ruling)).collect();
    if let Some(worst) = rest.first() {
        let verb = if rest.len() == 1 { "is" } else { "are" };
        let message = format!("{} {verb} not shown to hold.", plural(rest.len(), "more rule"));
        lines.push(command(Level::of(worst), "phasetrace", &message));
    }
    lines
}

fn annotation(judgement: &Judgement, ruling: &Ruling) -> String {
    let mut sentences = vec![format!("{}.", summary(ruling))];
    sentences.extend(ruling.measured.as_ref().and_then(|measured| measured.blame.as_ref()).map(blamed));
    sentences.extend(link::path(judgement, ruling).map(|path| format!("In the report: {path}")));
    command(Level::of(ruling), &heading(ruling), &sentences.join(" "))
}

fn command(level: Level, title: &str, message: &str) -> String {
    format!("::{} title={}::{}", level.name(), escape_property(title), escape(message))
}

fn escape(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn escape_property(text: &str) -> String {
    escape(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::{escape, escape_property};

    #[test]
    fn what_could_end_a_property_or_a_line_is_escaped() {
        assert_eq!(escape("100%\r\n: a, b"), "100%25%0D%0A: a, b");
        assert_eq!(escape_property("100%\n: a, b"), "100%25%0A%3A a%2C b");
    }
}
