//! A gate's rules and broken items in SARIF 2.1.0, for code scanning and editors.
//!
//! # Reference
//!
//! OASIS 2020, *Static Analysis Results Interchange Format (SARIF) Version 2.1.0*; 3.11.5 and 3.11.6 on messages, 3.14.14 on places.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use evals::release::policy::{Against, Tier};
use evals::release::record::{Judgement, Ruling};
use serde_json::{Value, json};

use super::{LINE_LIMIT, Level, against_word, blamed, compared, flips, heading, key, link, metric_word, summary};
use crate::error::Error;
use crate::number::{count, plural};
use crate::text::{clean_line, clean_name, percent_encoded};

/// Broken items that become results, of one rule.
const MOST_ITEMS: usize = 500;
/// Name of the candidate's run folder in places.
const RUN: &str = "RUN";
/// Name of the folder that the gate was run in.
const WORK: &str = "PWD";

/// Writes one run: every rule, and a result for each broken item of those that are not shown to hold.
///
/// # Errors
///
/// [`Error::Json`] where it cannot be written.
pub(crate) fn sarif(judgement: &Judgement) -> Result<String, Error> {
    let ids = ids(judgement);
    let rules: Vec<Value> =
        judgement.rulings.iter().zip(&ids).map(|(ruling, id)| rule(judgement, ruling, id)).collect();
    let results: Vec<Value> = judgement
        .rulings
        .iter()
        .enumerate()
        .filter(|(_, ruling)| Level::of(ruling) != Level::Silent)
        .flat_map(|(rule_idx, ruling)| results(judgement, ruling, rule_idx, &ids[rule_idx]))
        .collect();
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {
                "driver": {
                    "name": "phasetrace",
                    "version": clean_name(&judgement.phasetrace_version),
                    "rules": rules,
                },
            },
            "originalUriBaseIds": {
                RUN: folder(&judgement.candidate.path),
                WORK: { "description": { "text": "The folder that the gate was run in." } },
            },
            "results": results,
        }],
    });
    let mut text = serde_json::to_string_pretty(&log)?;
    text.push('\n');
    Ok(text)
}

/// One for each ruling, unique: `knowledge/rlhf/sft/score/chat`, and `/2` behind it where a rule is there again.
fn ids(judgement: &Judgement) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let unique = |ruling: &Ruling| {
        let id = id(ruling);
        let n = seen.entry(id.clone()).and_modify(|n| *n += 1).or_insert(1);
        if *n == 1 { id } else { format!("{id}/{n}") }
    };
    judgement.rulings.iter().map(unique).collect()
}

fn id(ruling: &Ruling) -> String {
    let part = |name: &str| key(name).replace('/', "_");
    let (behaviour, form) = (ruling.behaviour.name(), ruling.form.name());
    let (lineage, phase) = (part(&ruling.lineage), part(&ruling.phase));
    let metric = metric_word(ruling.metric).to_lowercase();
    let against = match ruling.against {
        Against::Baseline => "",
        Against::PreviousPhase => "/previous-phase",
    };
    format!("{behaviour}/{lineage}/{phase}/{metric}/{form}{against}")
}

fn rule(judgement: &Judgement, ruling: &Ruling, id: &str) -> Value {
    let level = match ruling.tier {
        Tier::Critical => Level::Error,
        Tier::Supporting => Level::Warning,
        Tier::Advisory => Level::Note,
    };
    let full = format!("{}, against the {}", compared(ruling), against_word(ruling.against));
    let mut rule = json!({
        "id": id,
        "shortDescription": { "text": plain(&clean_name(&ruling.name)) },
        "fullDescription": { "text": plain(&full) },
        "defaultConfiguration": { "level": level.name() },
    });
    if let Some(address) = link::address(judgement, ruling) {
        rule["helpUri"] = address.into();
    }
    rule
}

fn results(judgement: &Judgement, ruling: &Ruling, rule_idx: usize, id: &str) -> Vec<Value> {
    let (lineage, phase) = (key(&ruling.lineage), key(&ruling.phase));
    let address = link::address(judgement, ruling);
    let logical = json!([{ "name": phase, "fullyQualifiedName": format!("{lineage}/{phase}") }]);
    let result = |text: String, location: Value| {
        let mut result = json!({
            "ruleId": id,
            "ruleIndex": rule_idx,
            "level": Level::of(ruling).name(),
            "message": { "text": plain(&text) },
            "locations": [location],
        });
        if let Some(address) = &address {
            result["hostedViewerUri"] = address.as_str().into();
        }
        result
    };
    let mut about = format!("{}. {}.", heading(ruling), summary(ruling));
    if let Some(blame) = ruling.measured.as_ref().and_then(|measured| measured.blame.as_ref()) {
        let _ = write!(about, " {}", blamed(blame));
    }
    if let Some(path) = link::path(judgement, ruling) {
        let _ = write!(about, " In the report: {path}");
    }
    let broken = flips(ruling);
    // A location without a file makes GitHub refuse the whole log: what is of no item is of the bank's first line.
    let location = |line: usize| {
        json!({
            "physicalLocation": {
                "artifactLocation": { "uri": "data/bank.jsonl", "uriBaseId": RUN },
                "region": { "startLine": line },
            },
            "logicalLocations": logical,
        })
    };
    if broken.is_empty() {
        return vec![result(about, location(1))];
    }
    let n_left = broken.len().saturating_sub(MOST_ITEMS);
    let more = match n_left {
        0 => String::new(),
        n => format!(" {} broken in all, {} not listed.", plural(broken.len(), "item"), count(n)),
    };
    broken
        .iter()
        .take(MOST_ITEMS)
        .map(|flip| {
            let (item, question) = (clean_name(&flip.item), clean_line(&flip.question, LINE_LIMIT));
            result(format!("{item} was right and is wrong: {question} ({about}{more})"), location(flip.line))
        })
        .collect()
}

/// A message that no viewer takes for one with placeholders or links.
fn plain(text: &str) -> String {
    text.replace('{', "{{").replace('}', "}}").replace("](", "] (")
}

fn folder(path: &str) -> Value {
    let path = if path.is_empty() { "." } else { path };
    let uri = format!("{}/", percent_encoded(path.trim_end_matches('/'), b"/"));
    if path.starts_with('/') {
        json!({ "uri": format!("file://{uri}") })
    } else {
        json!({ "uri": uri, "uriBaseId": WORK })
    }
}

#[cfg(test)]
mod tests {
    use super::{folder, plain};

    #[test]
    fn a_run_folder_is_a_uri_that_ends_in_a_slash() {
        assert_eq!(folder("/runs/b/")["uri"], "file:///runs/b/");
        assert_eq!(folder("runs/b")["uri"], "runs/b/");
        assert_eq!(["", ".", "/"].map(|path| folder(path)["uri"].clone()), ["./", "./", "file:///"]);
    }

    #[test]
    fn messages_hold_no_placeholder_and_no_link() {
        assert_eq!(plain("{0} [a](http://b)"), "{{0}} [a] (http://b)");
    }
}
