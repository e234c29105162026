//! The table of a diagnosis as CSV (RFC 4180; UTF-8, lines end in a line feed, the first names the columns).

use evals::diagnosis::Diagnosis;
use evals::summary::{SummaryRow, rows};

use crate::error::Error;
use crate::text::{TEXT_LIMIT, clean_line};

/// Writes the table; what was not measured is an empty cell.
pub(crate) fn render(diagnosis: &Diagnosis) -> Result<String, Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows(diagnosis) {
        writer.serialize(with_safe_texts(row))?;
    }
    let bytes = writer.into_inner().map_err(|error| csv::Error::from(error.into_error()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn with_safe_texts(row: SummaryRow) -> SummaryRow {
    SummaryRow {
        run: safe(&row.run),
        lineage: safe(&row.lineage),
        phase: safe(&row.phase),
        checkpoint: safe(&row.checkpoint),
        interval: row.interval.as_deref().map(safe),
        blamed_phase: row.blamed_phase.as_deref().map(safe),
        not_measured: row.not_measured.as_deref().map(safe),
        ..row
    }
}

/// A text that spreadsheets show and do not compute: one that they would take for a formula begins with an apostrophe.
///
/// # Reference
/// OWASP, "CSV Injection".
fn safe(text: &str) -> String {
    const MARKS: [char; 8] = ['=', '+', '-', '@', '＝', '＋', '－', '＠'];
    // Where lists are separated by semicolons each part is a cell.
    let guarded = |part: &str| if part.trim_start().starts_with(MARKS) { format!("'{part}") } else { part.to_owned() };
    clean_line(text, TEXT_LIMIT).split(';').map(guarded).collect::<Vec<_>>().join(";")
}

#[cfg(test)]
mod tests {
    use super::safe;

    #[test]
    fn what_a_spreadsheet_would_compute_begins_with_an_apostrophe() {
        for text in ["=1+1", "+1", "-1", "@sum(a1)", "\t=1", "\n=1", "＝1"] {
            assert!(safe(text).starts_with('\''), "{text:?}");
        }
        assert_eq!(safe("a;=1"), "a;'=1");
        assert_eq!(safe("rl-cai"), "rl-cai");
        assert_eq!(safe("one\ntwo"), "one two");
    }
}
