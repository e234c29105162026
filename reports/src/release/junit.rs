//! A gate's rules as test cases, in the XML that Jenkins and most others read.
//!
//! # Reference
//!
//! `junit-10.xsd` of Jenkins' xUnit plugin.
//!
//! No time is given: nothing here is timed.

use std::fmt::Write as _;

use evals::release::policy::Tier;
use evals::release::record::{Judgement, Outcome, Ruling};

use super::{deciding, heading, key, plain_explanation, summary};
use crate::text::clean_name;

/// What a test case comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Passed,
    Failed,
    Errored,
    Skipped,
}

impl Case {
    // What does not block must not fail a build, whatever became of it.
    fn of(ruling: &Ruling) -> Self {
        match (&ruling.outcome, ruling.tier) {
            (Outcome::Broken, Tier::Critical) => Self::Failed,
            (Outcome::NotMeasured(_), Tier::Critical) => Self::Errored,
            (Outcome::Undecided | Outcome::NotMeasured(_), _) => Self::Skipped,
            (Outcome::Held | Outcome::Broken, _) => Self::Passed,
        }
    }
}

/// Writes one suite for each phase, with one case for each rule.
pub(crate) fn junit(judgement: &Judgement) -> String {
    let mut suites: Vec<(&str, Vec<&Ruling>)> = Vec::new();
    for ruling in &judgement.rulings {
        match suites.iter_mut().find(|(phase, _)| *phase == ruling.phase) {
            Some((_, rulings)) => rulings.push(ruling),
            None => suites.push((ruling.phase.as_str(), vec![ruling])),
        }
    }
    let all: Vec<&Ruling> = judgement.rulings.iter().collect();
    let mut out = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
    // The schema knows what was skipped of a suite alone.
    let _ = writeln!(out, "<testsuites name=\"phasetrace gate\" {}>", counts(&all));
    for (phase, rulings) in &suites {
        let skipped = count(rulings, Case::Skipped);
        let _ =
            writeln!(out, "  <testsuite name=\"{}\" {} skipped=\"{skipped}\">", escape(&key(phase)), counts(rulings));
        for ruling in rulings {
            case(&mut out, judgement, ruling);
        }
        out.push_str("  </testsuite>\n");
    }
    out.push_str("</testsuites>\n");
    out
}

fn counts(rulings: &[&Ruling]) -> String {
    let (failed, errored) = (count(rulings, Case::Failed), count(rulings, Case::Errored));
    format!("tests=\"{}\" failures=\"{failed}\" errors=\"{errored}\"", rulings.len())
}

fn count(rulings: &[&Ruling], case: Case) -> usize {
    rulings.iter().filter(|ruling| Case::of(ruling) == case).count()
}

fn case(out: &mut String, judgement: &Judgement, ruling: &Ruling) {
    // A point in a class's name separates packages.
    let part = |name: &str| escape(&key(name).replace('.', "_"));
    let (lineage, phase) = (part(&ruling.lineage), part(&ruling.phase));
    let name = escape(&clean_name(&ruling.name));
    let _ = write!(out, "    <testcase classname=\"phasetrace.{lineage}.{phase}\" name=\"{name}\"");
    let message = escape(&summary(ruling));
    let details = || escape(&plain_explanation(judgement, ruling).join("\n"));
    let outcome = match Case::of(ruling) {
        Case::Failed => format!("<failure message=\"{message}\" type=\"broken\">{}</failure>", details()),
        Case::Errored => format!("<error message=\"{message}\" type=\"not measured\"/>"),
        Case::Skipped => {
            let mut parts = vec![format!("{}.", summary(ruling))];
            if let Some(measured) = &ruling.measured {
                parts.extend(deciding(judgement, ruling, measured));
            }
            format!("<skipped message=\"{}\"/>", escape(&parts.join(" ")))
        }
        Case::Passed if ruling.outcome == Outcome::Broken => {
            format!("<system-out>{}\n{message}\n{}</system-out>", escape(&heading(ruling)), details())
        }
        Case::Passed => {
            out.push_str("/>\n");
            return;
        }
    };
    let _ = writeln!(out, ">\n      {outcome}\n    </testcase>");
}

/// Escapes for content and quoted attributes; what XML 1.0 has no way to write becomes U+FFFD.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}' => out.push(c),
            _ => out.push('\u{fffd}'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn what_xml_forbids_is_replaced_and_what_it_reads_as_markup_escaped() {
        assert_eq!(escape("a\0\u{b}\u{1f}\u{fffe}\u{ffff}b\n"), "a\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}b\n");
        assert_eq!(escape("<a b=\"'&\">]]>"), "&lt;a b=&quot;&apos;&amp;&quot;&gt;]]&gt;");
    }
}
