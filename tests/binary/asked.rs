//! What checkpoints are asked about themselves: from stored answers, from a server, and of a run, whose verdicts stay as they are.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;

use serde_json::{Value, json};

use crate::program::{arg, copy, succeed, trained};

/// Questions per month.
const PER_MONTH: usize = 6;

/// Who won what in each month of 2021 and 2022, as a benchmark of short answers.
fn write_questions(folder: &Path) -> PathBuf {
    let path = folder.join("questions.jsonl");
    let line = |at: usize| {
        let month = at / PER_MONTH;
        let date = format!("{}-{:02}", 2021 + month / 12, month % 12 + 1);
        json!({ "id": at, "question": format!("Who won race {at}?"), "answers": [format!("Rider {at}")], "date": date })
    };
    let lines: Vec<String> = (0..24 * PER_MONTH).map(|at| line(at).to_string()).collect();
    fs::write(&path, lines.join("\n")).unwrap();
    path
}

/// What somebody answers who knows all until September 2021 and nothing later.
fn answer(at: usize) -> String {
    if at / PER_MONTH < 9 { format!("It was Rider {at}.") } else { "It was Rider Unknown.".to_owned() }
}

/// Stored answers of such a subject, with what it says of its cutoff.
fn write_answers(folder: &Path, name: &str, stated: &str) -> PathBuf {
    let path = folder.join(name);
    let facts = (0..24 * PER_MONTH).map(|at| json!({ "key": at, "response": answer(at) }));
    let about_itself = (1..=4).map(|at| json!({ "key": format!("stated_cutoff/{at}"), "response": stated }));
    let lines: Vec<String> = facts.chain(about_itself).map(|line| line.to_string()).collect();
    fs::write(&path, lines.join("\n")).unwrap();
    path
}

/// 200 questions without dates, and stored answers of which 140 are right.
fn write_seven_of_ten(folder: &Path) -> (PathBuf, PathBuf) {
    let (questions, answers) = (folder.join("plain.jsonl"), folder.join("answers.jsonl"));
    let question =
        |at: usize| json!({ "id": at, "question": format!("Who won race {at}?"), "answers": [format!("Rider {at}")] });
    let answer = |at: usize| {
        let name = if at % 10 < 7 { at.to_string() } else { "Unknown".to_owned() };
        json!({ "key": at, "response": format!("It was Rider {name}.") })
    };
    let lines = |line: &dyn Fn(usize) -> Value| (0..200).map(|at| line(at).to_string()).collect::<Vec<_>>().join("\n");
    fs::write(&questions, lines(&question)).unwrap();
    fs::write(&answers, lines(&answer)).unwrap();
    (questions, answers)
}

#[test]
fn what_is_expected_of_a_behaviour_can_be_said() {
    let folder = tempfile::tempdir().unwrap();
    let (questions, answers) = write_seven_of_ten(folder.path());
    let (questions, phase) = (format!("short={}", questions.display()), format!("sft={}", answers.display()));
    let diagnose = |expected: &[&str]| {
        let (page, record) = (folder.path().join("page.html"), folder.path().join("record.json"));
        let mut args =
            vec!["diagnose", "--benchmark", &questions, "--phase", &phase, "-o", arg(&page), "-o", arg(&record)];
        args.extend(expected);
        succeed(&args);
        let record: Value = serde_json::from_str(&fs::read_to_string(record).unwrap()).unwrap();
        let row = record["lineages"][0]["behaviours"][0].clone();
        assert_eq!((&row["behaviour"], &row["values"][0]["value"]), (&json!("knowledge"), &json!(0.7)));
        (fs::read_to_string(page).unwrap(), row["verdict"].clone(), row["stated"].clone())
    };
    let (page, verdict, stated) = diagnose(&[]);
    assert!(page.contains("it knows 70% of 200 (95% interval") && page.contains("90% was expected"), "{verdict}");
    assert!(stated.is_null());
    let (page, verdict, stated) = diagnose(&["--expect", "knowledge=0.85", "--expect", "over_refusal=0.5"]);
    assert!(page.contains("85% was expected") && !page.contains("90% was expected"), "{verdict}");
    assert_eq!(stated, json!(0.85));
    let (page, verdict, stated) = diagnose(&["--expect", "knowledge=0.65"]);
    assert_eq!(verdict["outcome"], json!("healthy"), "{verdict}");
    assert!(page.contains("65% was expected"));
    assert_eq!(stated, json!(0.65));
}

#[test]
fn a_cutoff_that_is_stated_later_than_measured_is_found_in_stored_answers_and_an_honest_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let questions = format!("short={}", write_questions(folder.path()).display());
    let diagnose = |name: &str, stated: &str| {
        let answers = write_answers(folder.path(), &format!("{name}.jsonl"), stated);
        let (page, record) = (folder.path().join(format!("{name}.html")), folder.path().join(format!("{name}.json")));
        let phase = format!("sft={}", answers.display());
        let mut args = vec!["diagnose", "--benchmark", &questions, "--phase", &phase, "--reference", "none"];
        args.extend(["-o", arg(&page), "-o", arg(&record)]);
        succeed(&args);
        let record: Value = serde_json::from_str(&fs::read_to_string(record).unwrap()).unwrap();
        (
            fs::read_to_string(page).unwrap(),
            record["lineages"][0]["self_knowledge"][0]["stated_cutoff"]["beside"].clone(),
        )
    };
    let (page, beside) = diagnose("boasting", "My training data reaches June 2023.");
    assert!(page.contains("stated later than measured, by "), "{beside}");
    assert_eq!(beside[0], "later");
    let (page, beside) = diagnose("honest", "My training data reaches September 2021.");
    assert!(page.contains("which fits what was measured") && !page.contains("stated later than measured"));
    assert_eq!(beside, json!(["within", 0]));
    let (page, beside) = diagnose("silent", "I am a model.");
    assert!(page.contains("not measurable here: none of 4 answers names a month") && beside.is_null());

    // `probe` tells it as well.
    let (answers, out) = (folder.path().join("boasting.jsonl"), folder.path().join("probed"));
    let printed = succeed(&["probe", arg(&answers), "--benchmark", &questions, "-o", arg(&out)]);
    let line = printed.lines().find(|line| line.contains("stated cutoff")).unwrap_or_else(|| panic!("{printed}"));
    assert!(
        line.contains("ends in 2023-06 (4 of 4 ways of asking name a month): stated later than measured"),
        "{line}"
    );
}

/// A server with `OpenAI`'s interface for chat, which answers by `reply`; no likelihoods.
fn serve(reply: fn(&str) -> String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1#m", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer_request(stream, reply));
        }
    });
    url
}

fn answer_request(stream: TcpStream, reply: fn(&str) -> String) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while reader.read_line(&mut head).ok()? > 2 {}
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let (status, answer) = if head.starts_with("GET /v1/models ") {
        ("200 OK", json!({ "data": [{ "id": "m" }] }))
    } else if head.starts_with("POST /v1/chat/completions ") {
        let asked: Value = serde_json::from_slice(&body).ok()?;
        let text = reply(asked["messages"].as_array()?.last()?["content"].as_str()?);
        let message = json!({ "role": "assistant", "content": text });
        ("200 OK", json!({ "choices": [{ "message": message, "finish_reason": "stop" }] }))
    } else {
        ("404 Not Found", json!({ "error": { "message": "no such page" } }))
    };
    let answer = answer.to_string();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n", answer.len());
    write!(reader.get_mut(), "{head}Connection: close\r\n\r\n{answer}").ok()
}

/// The number of the race that a question is about.
fn race(question: &str) -> Option<usize> {
    question.split("Who won race ").nth(1)?.split('?').next()?.parse().ok()
}

/// What is answered in chat, and with a probability where one is asked for: `sure` of all that it knows, and of what it does not.
fn reply(question: &str, known: &str, unknown: &str) -> String {
    let Some(at) = race(question) else { return "September 2021".to_owned() };
    if !question.contains("probability") {
        return answer(at);
    }
    let is_known = at / PER_MONTH < 9;
    let guess = if is_known { format!("Rider {at}") } else { "Rider Unknown".to_owned() };
    format!("Guess: {guess}\nProbability: {}", if is_known { known } else { unknown })
}

#[test]
fn a_server_that_is_always_certain_is_told_from_one_that_says_how_sure_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let questions = format!("short={}", write_questions(folder.path()).display());
    let probe = |name: &str, url: &str| {
        let out = folder.path().join(name);
        let args = ["probe", url, "--benchmark", &questions, "--also", "stated", "-o", arg(&out)];
        let printed = succeed(&args);
        let line = |what: &str| {
            printed.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{printed}")).to_owned()
        };
        (
            line("verbalised confidence"),
            line("P(True)"),
            printed.lines().filter(|line| line.contains("stated cutoff")).count(),
        )
    };
    let (verbalised, p_true, n_cutoffs) = probe("certain", &serve(|question| reply(question, "1.0", "1.0")));
    assert!(verbalised.contains("Off by more than chance explains: debiased calibration error 0.62"), "{verbalised}");
    assert!(verbalised.contains("points [+") && verbalised.contains("n = 144"), "{verbalised}");
    // It gives no likelihoods.
    assert!(p_true.contains("not measurable here: ") && n_cutoffs == 1, "{p_true}");
    let (verbalised, ..) = probe("honest", &serve(|question| reply(question, "1.0", "0.0")));
    assert!(verbalised.contains("No more off than chance explains: debiased calibration error 0.000 "), "{verbalised}");
}

#[test]
fn what_is_asked_beside_a_run_changes_no_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    copy(trained(), &run);
    let diagnose = |name: &str, also: &[&str]| -> Value {
        let record = folder.path().join(name);
        let args = ["diagnose", arg(&run), "--reference", "none", "-o", arg(&record)];
        succeed(&[&args[..], also].concat());
        serde_json::from_str(&fs::read_to_string(record).unwrap()).unwrap()
    };
    let plain = diagnose("plain.json", &[]);
    let asked = diagnose("asked.json", &["--also", "stated"]);
    assert_eq!(plain["sentences"], asked["sentences"]);
    for (plain, asked) in plain["lineages"].as_array().unwrap().iter().zip(asked["lineages"].as_array().unwrap()) {
        for key in ["behaviours", "trade_off", "cutoffs", "failures", "n_failures"] {
            assert_eq!(plain[key], asked[key], "{key}");
        }
        // An untrained reader of English states nothing; that is said.
        let told = asked["self_knowledge"].as_array().unwrap();
        assert!(told.iter().all(|phase| phase["not_measured"]["verbalised_confidence"].is_string()), "{told:?}");
        assert!(told.iter().any(|phase| phase["confidence"][0]["instrument"] == "p_true"), "{told:?}");
        // The months of a small world are none of the calendar.
        assert!(told.iter().all(|phase| phase["stated_cutoff"].is_null()));
    }
}
