//! Each of the 58 instructions on answers made by hand, what is wrong with items, and the file of results.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::json;

use super::*;
use crate::verifiable::Verifiable;

/// An answer with what the official scorer says of it; `tests/peers/ifbench_official.py` writes the verdicts.
#[derive(Deserialize)]
struct Case {
    name: String,
    kwargs: Arguments,
    response: String,
    strict: Option<bool>,
    loose: Option<bool>,
}

#[test]
fn each_instruction_is_checked_as_the_official_scorer_does() {
    let mut verdicts: BTreeMap<String, BTreeSet<Option<bool>>> = BTreeMap::new();
    for line in include_str!("cases.jsonl").lines() {
        let case: Case = serde_json::from_str(line).unwrap();
        let instruction = Instruction::parse(&case.name, &case.kwargs).unwrap();
        let item = Item {
            key: json!(1),
            prompt: String::new(),
            instruction_names: vec![case.name.clone()],
            instructions: vec![instruction],
        };
        let followed = item.score(&case.response);
        assert_eq!((followed.strict[0], followed.loose[0]), (case.strict, case.loose), "{line}");
        verdicts.entry(case.name).or_default().insert(case.strict);
    }
    assert_eq!(verdicts.len(), 58);
    for (name, verdicts) in verdicts {
        let expected: &[Option<bool>] = if name == "words:start_verb" { &[None] } else { &[Some(false), Some(true)] };
        assert!(verdicts.iter().eq(expected), "{name} has no good answer or no bad one");
    }
}

#[test]
fn a_blank_response_follows_nothing() {
    let no_space = Instruction::parse("format:sub-bullets", &Arguments::new()).unwrap();
    assert!(no_space.is_followed("a") && !no_space.is_followed("") && !no_space.is_followed_loosely("*\n \n*"));
}

fn fault(name: &str, arguments: &str) -> String {
    let fault = Instruction::parse(name, &serde_json::from_str(arguments).unwrap()).unwrap_err();
    format!("{} {}", fault.key, fault.reason)
}

#[test]
fn what_is_wrong_is_named_with_its_key() {
    let random = "is missing or empty: the official scorer would draw it at random";
    assert_eq!(fault("emoji", "{}"), "instruction_id_list has \"emoji\", which is none of the 58 of IFBench");
    assert_eq!(fault("count:numbers", "{}"), format!("kwargs.N {random}"));
    assert_eq!(fault("count:numbers", r#"{"N": -1}"#), format!("kwargs.N {random}"));
    assert_eq!(fault("format:list", r#"{"sep": ""}"#), format!("kwargs.sep {random}"));
    assert_eq!(fault("count:numbers", r#"{"N": 2.5}"#), "kwargs.N is 2.5, which is no whole number");
    assert_eq!(fault("count:numbers", r#"{"N": "2"}"#), "kwargs.N is \"2\", which is no number");
    assert_eq!(fault("format:list", r#"{"sep": 2}"#), "kwargs.sep is 2, which is no text");
    assert_eq!(fault("count:words_japanese", r#"{"N": 0}"#), "kwargs.N is 0, but counting begins with 1");
    let unknown = "kwargs has \"m\", which this instruction does not have";
    assert_eq!(fault("count:numbers", r#"{"N": 2, "m": 1}"#), unknown);
    assert_eq!(fault("format:emoji", r#"{"m": 1, "n": null}"#), unknown);
}

const VERB: &str = r#"{"key": "a", "prompt": "Why?", "instruction_id_list": ["words:start_verb", "format:no_whitespace"], "kwargs": [{"N": null}, {}]}"#;
const SPACE: &str =
    r#"{"key": "b", "prompt": "How? ", "instruction_id_list": ["format:no_whitespace"], "kwargs": [{}]}"#;

#[test]
fn what_cannot_be_scored_is_said_and_counts_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, lines: &[&str]| {
        let path = folder.path().join(name);
        std::fs::write(&path, lines.join("\n")).unwrap();
        path
    };
    let items = write("items.jsonl", &[VERB, SPACE, &SPACE.replace("\"b\"", "\"c\"").replace("How", "Who")]);
    let answers = [r#"{"prompt": "Why?", "response": "Go on"}"#, r#"{"prompt": "How?", "response": "Sure:\nGo"}"#];
    let scored = IfBench.score(&items, &write("responses.jsonl", &answers)).unwrap();
    let lines: Vec<String> = scored.lines.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            r#"{"key":"a","instruction_id_list":["words:start_verb","format:no_whitespace"],"strict":[null,false],"loose":[null,false],"unscored":"words:start_verb needs a part-of-speech tagger"}"#,
            r#"{"key":"b","instruction_id_list":["format:no_whitespace"],"strict":[false],"loose":[true]}"#,
            r#"{"key":"c","instruction_id_list":["format:no_whitespace"],"strict":null,"loose":null,"unscored":"no response"}"#,
        ]
    );
    let notes = [
        "1 item without a response: c",
        "1 instruction not scored, in no share: words:start_verb needs a part-of-speech tagger; items: a",
    ];
    assert_eq!(scored.notes, notes);
    let figures: Vec<(&str, f64, usize)> =
        scored.figures.iter().map(|figure| (figure.name.as_str(), figure.value, figure.n)).collect();
    assert_eq!(
        figures,
        [
            ("prompts followed in full, strict", 0.0, 1),
            ("prompts followed in full, loose", 1.0, 1),
            ("instructions followed, strict", 0.0, 2),
            ("instructions followed, loose", 0.5, 2),
        ]
    );
}
