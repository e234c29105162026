//! The files of a gate as they are written, held against the schemas of their formats.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;

use evals::release::policy::{Against, Metric, Tier};
use evals::release::record::{Decision, Judgement, Measured, Outcome, Ruling};
use probes::item::Behaviour;
use reports::{
    gate_anchor, gate_annotations, render_gate_json, render_gate_junit, render_gate_markdown, render_gate_sarif,
    render_gate_text, render_html,
};
use serde_json::Value;

use judgement::{broken, held, hostile_sample, judgement, measured, not_measured, undecided};

mod judgement;
#[allow(dead_code)]
mod sample;
mod validator;

/// Every outcome in every tier that tells them apart, with all that can be said of a rule.
fn every_outcome() -> Judgement {
    let mut errors = Measured { seed_noise: None, ..measured() };
    (errors.before.value, errors.after.value) = (0.05, 0.12);
    let uncalibrated = Ruling {
        name: "SFT keeps the model calibrated".to_owned(),
        tier: Tier::Supporting,
        phase: "sft".to_owned(),
        metric: Metric::Ece,
        against: Against::PreviousPhase,
        outcome: Outcome::Broken,
        measured: Some(errors),
        ..held()
    };
    let advice = Ruling { name: "events are known".to_owned(), tier: Tier::Advisory, ..undecided() };
    let required = Ruling {
        name: "calibration is measured".to_owned(),
        behaviour: Behaviour::Calibration,
        lineage: String::new(),
        phase: String::new(),
        ..not_measured()
    };
    let rulings = vec![held(), broken(3), undecided(), not_measured(), uncalibrated, advice, required];
    judgement(Decision::Block, rulings)
}

/// All that a schema should hold for: the same with the report on the web, and with text from elsewhere.
fn all() -> [Judgement; 4] {
    let on_the_web = |judgement: Judgement| Judgement {
        report: Some("https://ci.example/runs/7/report.html?x=(1)".to_owned()),
        ..judgement
    };
    [every_outcome(), on_the_web(every_outcome()), hostile_sample(), on_the_web(hostile_sample())]
}

fn schema(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/schemas").join(name)
}

#[test]
fn every_form_reads_as_written() {
    let judgement = every_outcome();
    insta::assert_snapshot!("gate_text", render_gate_text(&judgement, true).unwrap());
    insta::assert_snapshot!("gate_markdown", render_gate_markdown(&judgement).unwrap());
    insta::assert_snapshot!("gate_json", render_gate_json(&judgement).unwrap());
    insta::assert_snapshot!("gate_junit", render_gate_junit(&judgement).unwrap());
    insta::assert_snapshot!("gate_sarif", render_gate_sarif(&judgement).unwrap());
    insta::assert_snapshot!("gate_annotations", gate_annotations(&judgement).unwrap().join("\n"));
}

#[test]
fn junit_fits_the_schema_of_jenkins() {
    for judgement in all() {
        let written = render_gate_junit(&judgement).unwrap();
        let Some(errors) = xmllint(&written) else {
            validator::skip("no xmllint on PATH (Debian: apt-get install libxml2-utils)");
            return;
        };
        assert_eq!(errors, "");
        // The schema knows what was skipped of a suite alone.
        let wrong = written.replacen("<testsuites ", "<testsuites skipped=\"1\" ", 1);
        assert!(xmllint(&wrong).unwrap().contains("The attribute 'skipped' is not allowed"));
    }
}

/// What `xmllint` has against a file of test cases, empty where it fits; `None` where there is no `xmllint`.
fn xmllint(xml: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gate.xml");
    fs::write(&file, xml).unwrap();
    let mut command = Command::new("xmllint");
    command.args(["--noout", "--nonet", "--schema"]).arg(schema("junit-10.xsd")).arg(&file);
    let output = match command.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        output => output.unwrap(),
    };
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    Some(if output.status.success() { String::new() } else { errors })
}

#[test]
fn sarif_fits_the_schema_of_oasis() {
    let schema: Value = serde_json::from_str(&fs::read_to_string(schema("sarif-schema-2.1.0.json")).unwrap()).unwrap();
    let mut values: Vec<Value> =
        all().iter().map(|judgement| serde_json::from_str(&render_gate_sarif(judgement).unwrap()).unwrap()).collect();
    let mut wrong = values[0].clone();
    wrong["runs"][0]["results"][0]["level"] = "fatal".into();
    values.push(wrong);
    let Some(mut errors) = validator::errors(&schema, &values) else { return };
    assert!(!errors.pop().unwrap().is_empty(), "a level that there is not");
    assert_eq!(errors.concat(), Vec::<String>::new());
}

#[test]
fn ten_thousand_regressions_of_one_rule_are_counted_and_not_all_listed() {
    let judgement = judgement(Decision::Block, vec![broken(10_000)]);
    let summary = render_gate_markdown(&judgement).unwrap();
    assert!(summary.len() < 10_000, "{} bytes", summary.len());
    assert!(summary.contains("10,000 items were right and are wrong") && summary.contains("\nand 9,980 more\n"));
    let sarif = render_gate_sarif(&judgement).unwrap();
    assert!(sarif.contains("10,000 items broken in all, 9,500 not listed."));
    let json: Value = serde_json::from_str(&render_gate_json(&judgement).unwrap()).unwrap();
    assert_eq!(json["rulings"][0]["measured"]["broken"].as_array().unwrap().len(), 10_000, "JSON has them all");
}

#[test]
fn a_link_into_the_report_leads_to_the_behaviour() {
    for diagnosis in [sample::failing(), sample::healthy()] {
        let page = render_html(&diagnosis).unwrap();
        for lineage in &diagnosis.lineages {
            for history in &lineage.behaviours {
                let anchor = gate_anchor(&diagnosis, &lineage.name, history.behaviour).unwrap();
                assert!(page.contains(&format!("id=\"{anchor}\"")), "{anchor} is no place of the report");
            }
        }
        assert_eq!(gate_anchor(&diagnosis, "dpo", Behaviour::Knowledge), None);
    }
    let of = |lineage: &str, behaviour: Behaviour| gate_anchor(&sample::failing(), lineage, behaviour).unwrap();
    assert_eq!(of("rlhf", Behaviour::OverRefusal), "main-over-refusal");
    assert_eq!(of("constitutional", Behaviour::SystemPrompt), "branch-1-system-prompt");
    assert_eq!(of("rlhf", Behaviour::Knowledge), "main-failures-knowledge", "what does not fail as a whole");
}
