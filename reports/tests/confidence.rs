//! What a reader is told of confidence, from answers whose calibration is known by construction to the page.

use std::collections::BTreeMap;

use evals::diagnose::{Findings, Lineage, diagnose};
use evals::diagnosis::{Diagnosis, PhaseInfo, Provenance};
use probes::item::{Behaviour, Item, Task};
use probes::response::{Form, Response};
use reports::{render_html, render_json, render_markdown};

/// Levels of confidence, and how many answers have each.
const LEVELS: [f64; 5] = [0.5, 0.6, 0.7, 0.8, 0.9];
const OF_EACH: usize = 80;

/// A phase, and the confidence that it states at each level.
type Stated<'a> = (&'a str, fn(f64) -> f64);

/// A lineage whose phases give the same answers, with this confidence where a calibrated model would have the given one.
fn planted(phases: &[Stated<'_>]) -> Diagnosis {
    let numbers = || (0..LEVELS.len() * OF_EACH).map(|number| (number, LEVELS[number / OF_EACH]));
    let items: Vec<Item> = numbers().map(|(number, _)| item(number)).collect();
    let responses: Vec<Response> = phases
        .iter()
        .flat_map(|(phase, stated)| {
            numbers().map(move |(number, level)| {
                let is_right = ((number % OF_EACH) as f64) < level * OF_EACH as f64;
                response(phase, number, is_right, stated(level))
            })
        })
        .collect();
    let info = |(phase, _): &(&str, fn(f64) -> f64)| PhaseInfo {
        name: (*phase).to_owned(),
        checkpoint: format!("hash of {phase}"),
        ..PhaseInfo::default()
    };
    let phases = phases.iter().map(info).collect();
    diagnose(Findings {
        run: "planted",
        lineages: &[Lineage { name: "rlhf".to_owned(), phases, ..Lineage::default() }],
        items: &items,
        responses: &responses,
        declared_cutoff: None,
        data: BTreeMap::new(),
        intended: &[],
        model: None,
        fixes: None,
        reference: None,
        stated: BTreeMap::new(),
        provenance: Provenance {
            seed: Some(1),
            bank_hash: "bank".to_owned(),
            n_items: items.len(),
            probe_version: 1,
            phasetrace_version: "0".to_owned(),
            reference: None,
            notes: BTreeMap::new(),
        },
    })
    .unwrap()
}

fn item(number: usize) -> Item {
    Item {
        id: format!("fact-{number:03}"),
        behaviour: Behaviour::Knowledge,
        slice: "ordinary".to_owned(),
        cluster: format!("person-{number:03}"),
        month: None,
        expected: true,
        task: Task::Choice {
            cloze: "Ann lives in".to_owned(),
            shots: Vec::new(),
            question: "Where does Ann live?".to_owned(),
            context: "Ann lives in Lund.".to_owned(),
            options: vec!["Lund".to_owned(), "Oslo".to_owned()],
            answer: 0,
            declines: Vec::new(),
            ideal: None,
        },
    }
}

fn response(phase: &str, number: usize, is_right: bool, confidence: f64) -> Response {
    Response {
        subject: format!("hash of {phase}"),
        item: item(number).id,
        form: Form::Chat,
        score: Some(f64::from(u8::from(is_right))),
        unscored: None,
        p_right: Some(if is_right { confidence } else { 1.0 - confidence }),
        confidence: Some(confidence),
        margin_nats: None,
        label: None,
        answer: String::new(),
        prompt: String::new(),
    }
}

/// Log-odds times three: as sharp as alignment makes them.
fn sharpened(level: f64) -> f64 {
    1.0 / (1.0 + ((1.0 - level) / level).powi(3))
}

/// The panel of a phase, its words on one line.
fn panel(page: &str, phase: &str) -> String {
    let section = page.split("-reliability\">").nth(1).unwrap().split("</section>").next().unwrap();
    let heading = format!("<h4>{phase} ");
    let figure = section.split("<figure").find(|figure| figure.contains(&heading)).unwrap();
    let shown = figure.split('<').filter_map(|part| part.split_once('>'));
    let words =
        shown.filter(|(tag, _)| !tag.contains("aria-hidden=\"true\"")).flat_map(|(_, text)| text.split_whitespace());
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_phase_that_makes_the_model_too_sure_is_shown_as_such_and_its_calibrated_twin_is_not() {
    let page = render_html(&planted(&[("sft", |level| level), ("rlhf", sharpened)])).unwrap();
    let (sft, rlhf) = (panel(&page, "SFT"), panel(&page, "RLHF"));
    for said in ["No more off than chance explains (of 400 answers an error of", "Confidence off by 0 points [0, "] {
        assert!(sft.contains(said), "{said}\n{sft}");
    }
    assert!(!sft.contains("without training") && !sft.contains("too sure"), "{sft}");
    for said in [
        "Its confidence is off by more than chance explains: it is too sure.",
        "What would mend it without training: a temperature of ",
        "Right, of all answers 70%",
        "Right, of the surest half 82%",
        "This model n = 400 If calibrated",
        // Bins of 80, 80 and 240 answers are off by 0, 17 and 17 points: the root of the mean square is 15.
        "Confidence off by 15 points [",
        "Answering only where it is surest",
    ] {
        assert!(rlhf.contains(said), "{said}\n{rlhf}");
    }
    // The planted temperature is 3.
    let fitted = rlhf.split("a temperature of ").nth(1).unwrap();
    let ends: Vec<f64> = fitted.split(['[', ']', ',']).take(3).map(|number| number.trim().parse().unwrap()).collect();
    assert!(ends[1] <= 3.0 && 3.0 <= ends[2] && ends[1] > 1.5, "{ends:?}");
}

#[test]
fn a_model_that_is_not_sure_enough_is_told_from_one_that_is_too_sure() {
    let timid = |level: f64| 0.5 + (level - 0.5) / 4.0;
    let page = render_html(&planted(&[("sft", |level| level), ("rlhf", timid)])).unwrap();
    let rlhf = panel(&page, "RLHF");
    assert!(rlhf.contains("off by more than chance explains: it is not sure enough."), "{rlhf}");
    assert!(rlhf.contains("Over-confidence −15 points [−"), "{rlhf}");
}

#[test]
fn the_summary_has_the_same_figures() {
    let text = render_markdown(&planted(&[("sft", |level| level), ("rlhf", sharpened)])).unwrap();
    for line in ["| Confidence (95% interval) | SFT | RLHF |", "| n | 400 | 400 |"] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let off = text.lines().find(|line| line.starts_with("| Off by")).unwrap();
    assert!(off.contains("| 0 points (0 points to ") && off.contains("| 15 points ("), "{off}");
}

#[test]
fn records_are_read_with_measures_and_those_of_before_without() {
    let new = planted(&[("sft", |level| level)]);
    let text = render_json(&new).unwrap();
    let read: Diagnosis = serde_json::from_str(&text).unwrap();
    let (curve, before) = (&read.lineages[0].calibration[0], &new.lineages[0].calibration[0]);
    let (measures, expected) = (curve.measures.as_ref().unwrap(), before.measures.as_ref().unwrap());
    assert_eq!((measures.n, measures.rows.len()), (400, 5));
    assert!((measures.debiased.estimate.high - expected.debiased.estimate.high).abs() < 1e-12);
    assert!(curve.bins.is_empty() && curve.ece.is_none() && !text.contains("null_ece"), "nothing is said twice");

    let older: Diagnosis = serde_json::from_str(include_str!("planted/al_01_punish_triggers.json")).unwrap();
    let curve = &older.lineages[0].calibration[0];
    assert!(curve.measures.is_none() && !curve.bins.is_empty() && curve.ece.is_some());
    let again: Diagnosis = serde_json::from_str(&render_json(&older).unwrap()).unwrap();
    assert_eq!(again.lineages[0].calibration.len(), older.lineages[0].calibration.len());
    let page = render_html(&older).unwrap();
    assert!(page.contains("by chance alone") && page.contains("diagnose again for a right one"));
    assert!(!render_markdown(&older).unwrap().contains("Confidence (95% interval)"));
}
