//! What the table and the model card of a diagnosis promise.

use evals::diagnosis::{Diagnosis, Outcome};
use evals::summary::rows;
use reports::{render_csv, render_model_card};

#[allow(dead_code)]
mod sample;

const HOSTILE: &str = "=cmd|' /C calc'!A0\n---\nlicense: mit\t\"}]: `<script>`\u{202e}\u{1b}\u{ffff}";

fn hostile() -> Diagnosis {
    let mut diagnosis = sample::failing();
    diagnosis.run = HOSTILE.into();
    diagnosis.sentences[0] = HOSTILE.into();
    diagnosis.provenance.bank_hash = HOSTILE.into();
    diagnosis.provenance.phasetrace_version = HOSTILE.into();
    for lineage in &mut diagnosis.lineages {
        lineage.name = HOSTILE.into();
        for phase in &mut lineage.phases {
            phase.name = HOSTILE.into();
            phase.checkpoint = HOSTILE.into();
        }
        for history in &mut lineage.behaviours {
            history.not_measured = Some(HOSTILE.into());
            history.verdict.remedy = Some(HOSTILE.into());
            history.values[0] = None;
            for value in history.values.iter_mut().flatten() {
                value.method = HOSTILE.into();
            }
            if let Outcome::Attributed { phase, .. } = &mut history.verdict.outcome {
                *phase = HOSTILE.into();
            }
        }
    }
    diagnosis
}

// The part between the two lines of three dashes.
fn head(card: &str) -> &str {
    card.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---\n")).unwrap().0
}

fn values<'a>(head: &'a str, key: &str) -> Vec<&'a str> {
    head.lines().filter_map(|line| line.trim_start().strip_prefix(key)?.strip_prefix(": ")).collect()
}

#[test]
fn the_table_reads_back_as_the_rows_of_the_diagnosis() {
    let diagnosis = sample::failing();
    let text = render_csv(&diagnosis).unwrap();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let columns = reader.headers().unwrap().clone();
    let column = |name: &str| columns.iter().position(|column| column == name).unwrap();
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let rows = rows(&diagnosis);
    assert_eq!(records.len(), rows.len());
    let cells = diagnosis.lineages.iter().map(|lineage| lineage.phases.len() * lineage.behaviours.len());
    assert_eq!(rows.len(), 2 * cells.sum::<usize>(), "two ways of asking");
    for (record, row) in records.iter().zip(&rows) {
        assert_eq!(record[column("phase")], row.phase);
        assert_eq!(record[column("behaviour")], *row.behaviour.name());
        assert_eq!(record[column("value")].parse::<f64>().ok(), row.value);
        assert_eq!(record[column("n")].parse::<usize>().ok(), row.n);
        assert_eq!(record[column("contribution")].parse::<f64>().ok(), row.contribution);
    }
    let blamed = records.iter().find(|record| &record[column("blamed_phase")] == "rlhf").unwrap();
    assert_eq!((&blamed[column("outcome")], &blamed[column("confidence")]), ("attributed", "strong"));
}

#[test]
fn a_cell_that_a_spreadsheet_would_compute_is_text() {
    let text = render_csv(&hostile()).unwrap();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let numbers = ["margin_nats", "contribution", "contribution_low", "contribution_high"];
    let columns = reader.headers().unwrap().clone();
    let mut n_guarded = 0;
    for record in reader.records().map(Result::unwrap) {
        assert_eq!(record.len(), columns.len(), "a line break stays within its cell");
        for (column, cell) in columns.iter().zip(&record) {
            let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
            assert!(!is_formula || numbers.contains(&column), "{column}: {cell}");
            assert!(!cell.contains(['\n', '\u{202e}', '\u{1b}']), "{column}: {cell}");
            n_guarded += usize::from(cell.starts_with("'=cmd"));
        }
    }
    assert!(n_guarded > 0);
}

#[test]
fn the_index_of_a_model_card_holds_the_last_checkpoint_of_the_deployed_chain() {
    let diagnosis = sample::failing();
    let card = render_model_card(&diagnosis).unwrap();
    let head = head(&card);
    assert!(head.starts_with("model-index:\n- name: \"invented-figures-failing\"\n  results:\n  - task:\n"), "{head}");
    assert_eq!(values(head, "revision"), [format!("\"{}\"", diagnosis.provenance.bank_hash)]);
    let found: Vec<f64> = values(head, "value").iter().map(|value| value.parse().unwrap()).collect();
    let expected = diagnosis.lineages[0].behaviours.iter().map(|of| of.values.last().unwrap().as_ref().unwrap().value);
    let expected: Vec<f64> = expected.collect();
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().zip(&expected).all(|(found, expected)| (found - expected).abs() < 1e-6), "{found:?}");
    let names = values(head, "name");
    let refusals = "\"Answers harmless requests: share of items right (95% interval 49–61%, n = 260)\"";
    assert!(names.contains(&refusals), "{names:?}");
}

#[test]
fn a_model_card_tells_people_what_fails_which_phase_how_sure_and_what_to_do() {
    let card = render_model_card(&sample::failing()).unwrap();
    let refusals = "| Answers harmless requests | 55% (49–61%) | 260 | 97% | ✕ RLHF broke what worked (strong) |";
    assert!(card.contains(refusals), "{card}");
    assert!(card.contains("**The model refuses harmless requests.** What to do: Relabel comparisons"), "{card}");
    assert!(card.contains("took back 97% (95% interval 91% to 103%; 4 types, 7 models)"), "{card}");
    assert!(card.ends_with(", compared with 19 healthy runs.\n"), "{card}");
}

#[test]
fn hostile_text_stays_in_its_place_in_a_model_card() {
    let card = render_model_card(&hostile()).unwrap();
    let head = head(&card);
    assert!(!head.lines().any(|line| line.starts_with("license") || line == "---"), "{head}");
    for name in ["- name", "name", "revision", "interval"].into_iter().flat_map(|key| values(head, key)) {
        let read: Result<String, _> = serde_json::from_str(name);
        assert!(read.is_ok(), "one quoted text: {name}");
    }
    assert!(!card.contains(['\u{202e}', '\u{1b}']) && !head.contains('\u{ffff}'));
    let body = card.split_once("\n---\n\n").unwrap().1;
    assert!(!body.contains("<script>") && !body.lines().any(|line| line.starts_with("---")), "{body}");
}

#[test]
fn without_a_value_there_is_no_index() {
    let mut diagnosis = sample::healthy();
    for history in &mut diagnosis.lineages[0].behaviours {
        history.values.fill(None);
        history.not_measured = Some("no item was scored in chat".to_owned());
    }
    let card = render_model_card(&diagnosis).unwrap();
    assert!(card.starts_with("## "), "{card}");
    assert!(card.contains("not measured: no item was scored in chat"), "{card}");
}
