//! The JSON that is written fits its schemas, and what is no such record does not.

use std::collections::BTreeMap;

use evals::index::{Index, IndexRun};
use evals::release::baseline::{BASELINE_VERSION, Blessed, BlessedForm, BlessedPhase, Chosen, Scored};
use evals::release::record::Decision;
use evals::schema::{Record, schema};
use probes::response::Form;
use reports::{render_comparison_json, render_gate_json, render_index_json, render_json};
use serde_json::{Value, json};

#[allow(dead_code)]
mod judgement;
#[allow(dead_code)]
mod sample;
#[allow(dead_code)]
mod sweep;
mod validator;

/// What a record's schema has against each value; `None` where that cannot be told here.
fn errors(record: Record, values: &[Value]) -> Option<Vec<Vec<String>>> {
    validator::errors(&parse(&schema(record)), values)
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn baseline() -> Blessed {
    let answers = BTreeMap::from([
        ("a".to_owned(), Scored { score: 1.0, chosen: Some(Chosen { confidence: 0.8, outcome: 1.0 }) }),
        ("b".to_owned(), Scored { score: 0.0, chosen: None }),
    ]);
    let forms = BTreeMap::from([(Form::FewShot, BlessedForm { prompts: "aa".to_owned(), answers })]);
    let phase = BlessedPhase { checkpoint: "c".to_owned(), tokenizer: "t".to_owned(), template: "u".to_owned(), forms };
    Blessed {
        version: BASELINE_VERSION,
        run: "june".to_owned(),
        bank_hash: "dd9e".to_owned(),
        probe_version: 1,
        lineages: BTreeMap::from([("rlhf".to_owned(), vec!["sft".to_owned()])]),
        phases: BTreeMap::from([("sft".to_owned(), phase)]),
    }
}

/// A record as it is written, one of each kind.
fn written(record: Record) -> Value {
    match record {
        Record::Diagnosis => parse(&render_json(&sample::failing()).unwrap()),
        Record::Comparison => parse(&render_comparison_json(&sweep::of(6)).unwrap()),
        Record::Judgement => {
            let rulings = vec![judgement::broken(1), judgement::not_measured()];
            parse(&render_gate_json(&judgement::judgement(Decision::Block, rulings)).unwrap())
        }
        Record::Baseline => parse(&baseline().to_json()),
        Record::Index => {
            let runs = [("runs/a", sample::failing()), ("runs/b", sample::healthy())];
            let runs = runs.iter().map(|(path, of)| IndexRun::of((*path).to_owned(), of)).collect();
            parse(&render_index_json(&Index::over(runs)).unwrap())
        }
    }
}

#[test]
fn what_is_written_fits_its_schema() {
    for record in Record::ALL {
        let mut values = vec![written(record)];
        match record {
            Record::Diagnosis => values.push(parse(&render_json(&sample::healthy()).unwrap())),
            Record::Comparison => values.push(parse(&render_comparison_json(&sweep::empty()).unwrap())),
            Record::Judgement | Record::Baseline | Record::Index => {}
        }
        let Some(errors) = errors(record, &values) else { return };
        assert_eq!(errors.concat(), Vec::<String>::new(), "{record:?}");
    }
}

#[test]
fn a_missing_key_an_unknown_key_and_another_version_are_refused() {
    for record in Record::ALL {
        let right = written(record);
        let keys: Vec<&String> = right.as_object().unwrap().keys().collect();
        let mut spoilt: Vec<(String, Value)> = Vec::new();
        for key in keys.into_iter().filter(|key| !matches!(key.as_str(), "data" | "principles" | "report")) {
            let mut wrong = right.clone();
            wrong.as_object_mut().unwrap().remove(key);
            spoilt.push((format!("without {key}"), wrong));
        }
        let mut wrong = right.clone();
        wrong["extra"] = json!(1);
        spoilt.push(("with an unknown key".to_owned(), wrong));
        let mut wrong = right.clone();
        wrong["version"] = json!(right["version"].as_u64().unwrap() + 1);
        spoilt.push(("of another version".to_owned(), wrong));
        let (how, wrong): (Vec<String>, Vec<Value>) = spoilt.into_iter().unzip();
        let Some(errors) = errors(record, &wrong) else { return };
        for (how, errors) in how.iter().zip(errors) {
            assert!(!errors.is_empty(), "{record:?} {how}");
        }
    }
}

#[test]
fn what_lies_deep_is_checked_too() {
    let spoilt: [(Record, &str, Value); 6] = [
        (Record::Diagnosis, "/lineages/0/behaviours/5/verdict/outcome", json!("guilty")),
        (Record::Diagnosis, "/lineages/0/behaviours/0/values/0/n", json!(-1)),
        (Record::Diagnosis, "/lineages/0/n_failures", json!({ "gullibility": 1 })),
        (Record::Comparison, "/settings/0/axes", json!({ "charm": null })),
        (Record::Judgement, "/rulings/0/measured/blame/route", json!("telepathy")),
        (Record::Baseline, "/phases/sft/forms", json!({ "sung": {} })),
    ];
    for (record, place, value) in spoilt {
        let mut wrong = written(record);
        *wrong.pointer_mut(place).unwrap() = value;
        let Some(errors) = errors(record, &[wrong]) else { return };
        assert!(!errors.concat().is_empty(), "{record:?} {place}");
    }
}
