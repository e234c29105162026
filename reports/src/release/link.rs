//! Where the candidate's report speaks of a rule's behaviour.

use std::fmt::Write as _;

use evals::diagnosis::Diagnosis;
use evals::release::record::{Judgement, Ruling};
use probes::item::Behaviour;

use super::LINE_LIMIT;
use crate::page::lineage_id;
use crate::text::{clean_line, clean_name};
use crate::verdict::{self, is_failing};

/// What stands behind the `#` of a link into the report on this diagnosis: the verdict on the behaviour, or else the items that fail, or else
/// the map of the chain. `None` where the report says nothing of it.
pub(crate) fn anchor(diagnosis: &Diagnosis, lineage: &str, behaviour: Behaviour) -> Option<String> {
    let (place, lineage) = diagnosis.lineages.iter().enumerate().find(|(_, of)| of.name == lineage)?;
    let history = lineage.behaviours.iter().find(|history| history.behaviour == behaviour)?;
    let chain = lineage_id(place);
    let has_failures = lineage.n_failures.get(&behaviour).is_some_and(|n| *n > 0)
        || lineage.failures.iter().any(|failure| failure.behaviour == behaviour);
    Some(match (is_failing(&history.verdict.outcome), has_failures) {
        (true, _) => verdict::anchor(&chain, behaviour),
        (false, true) => verdict::anchor(&format!("{chain}-failures"), behaviour),
        (false, false) if place == 0 => "map".to_owned(),
        (false, false) => chain,
    })
}

/// The place for people: `runs/july/report.html#main-over-refusal`. `None` where there is no report.
pub(crate) fn path(judgement: &Judgement, ruling: &Ruling) -> Option<String> {
    let (report, anchor) = parts(judgement, ruling)?;
    Some(join(report, anchor))
}

/// The place as an address that can stand in a link of any format; `None` where the report has a path alone.
pub(crate) fn address(judgement: &Judgement, ruling: &Ruling) -> Option<String> {
    let (report, anchor) = parts(judgement, ruling)?;
    is_web(&report).then(|| join(encode(&report), anchor.map(|anchor| encode(&anchor))))
}

/// The report, and the place in it.
fn parts(judgement: &Judgement, ruling: &Ruling) -> Option<(String, Option<String>)> {
    // A part of an address leads nowhere.
    let report = judgement.report.as_deref().filter(|report| report.chars().count() <= LINE_LIMIT)?;
    let anchor = ruling.anchor.as_deref().map(clean_name);
    // A path is that of the run's own report, which may be of other checkpoints than a rule without a place in it.
    (anchor.is_some() || is_web(report)).then(|| (clean_line(report, LINE_LIMIT), anchor))
}

fn is_web(report: &str) -> bool {
    report.starts_with("https://") || report.starts_with("http://")
}

fn join(report: String, anchor: Option<String>) -> String {
    match anchor {
        Some(anchor) => format!("{report}#{anchor}"),
        None => report,
    }
}

/// A part of an address (RFC 3986) in which nothing ends a link: brackets, quotes and what is no character of an address by their bytes.
fn encode(part: &str) -> String {
    let bytes = part.as_bytes();
    let mut out = String::with_capacity(bytes.len());
    for (place, &byte) in bytes.iter().enumerate() {
        let is_encoded = || bytes.get(place + 1..place + 3).is_some_and(|code| code.iter().all(u8::is_ascii_hexdigit));
        if byte.is_ascii_alphanumeric() || b"-._~:/?@!$&*+,=".contains(&byte) || (byte == b'%' && is_encoded()) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::encode;

    #[test]
    fn nothing_in_an_address_ends_a_link() {
        assert_eq!(
            encode("https://ci/a b)[c](d)<e>\"'é|`"),
            "https://ci/a%20b%29%5Bc%5D%28d%29%3Ce%3E%22%27%C3%A9%7C%60"
        );
        assert_eq!(encode("https://ci/7?x=1%20&y=100%#z"), "https://ci/7?x=1%20&y=100%25%23z");
    }
}
