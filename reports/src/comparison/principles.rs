//! How the principles of a constitution judged.

use evals::comparison::{Comparison, Principle, PrincipleCounts, PrincipleTable};
use serde::Serialize;

use super::Roster;
use crate::number::{MISSING, count, p_value, percent, percent_interval};
use crate::text::clean_name;

/// The principles of settings that judged alike.
#[derive(Debug, Serialize)]
pub(crate) struct Principles {
    settings: String,
    sentences: Vec<(bool, String)>,
    rows: Vec<Row>,
}

/// One principle.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    stands_out: bool,
    cells: Vec<String>,
    kinds: Vec<String>,
}

/// One entry for each way in which settings judged.
pub(crate) fn principles(comparison: &Comparison, roster: &Roster) -> Vec<Principles> {
    comparison.principles.iter().map(|table| part(table, roster)).collect()
}

fn part(table: &PrincipleTable, roster: &Roster) -> Principles {
    let settings: Vec<String> = table.settings.iter().map(|name| roster.numbered(name)).collect();
    let stands_out = table.principles.iter().any(|principle| principle.stands_out);
    Principles {
        settings: settings.join("; "),
        sentences: table.sentences.iter().map(|text| (stands_out, text.clone())).collect(),
        rows: table.principles.iter().map(row).collect(),
    }
}

fn row(principle: &Principle) -> Row {
    let total = PrincipleCounts::sum(&principle.kinds);
    let or_missing = |text: Option<String>| text.unwrap_or_else(|| MISSING.to_owned());
    let of = |part: usize, whole: usize| match whole {
        0 => MISSING.to_owned(),
        _ => format!("{} of {}", count(part), count(whole)),
    };
    let kind = |(name, counts): (&String, &PrincipleCounts)| {
        let refusing =
            if counts.refusing > 0 { format!(", {} by a refusal", count(counts.refusing)) } else { String::new() };
        (counts.decided > 0).then(|| format!("{}: {}{refusing}", clean_name(name), of(counts.against, counts.decided)))
    };
    Row {
        name: clean_name(&principle.name),
        stands_out: principle.stands_out,
        cells: vec![
            count(total.pairs),
            of(total.against, total.decided),
            or_missing(principle.flips.as_ref().map(|e| format!("{} ({})", percent(e.value), percent_interval(e)))),
            or_missing(principle.flips_of_others.map(percent)),
            or_missing(principle.p_holm.map(p_value)),
            of(total.broken, total.right),
            of(total.mended, total.wrong),
        ],
        kinds: principle.kinds.iter().filter_map(kind).collect(),
    }
}
