//! What a report promises its reader, whatever the diagnosis holds.

use evals::diagnosis::{Confidence, Diagnosis, Outcome, Rung, Stage, StageProbability, Verdict};
use reports::{Error, render_html, render_json, render_markdown};

mod sample;

#[test]
fn hostile_text_is_shown_and_never_run() {
    let hostile =
        "</style></svg><script>alert(1)</script><img src=x onerror=alert(2)>\" onload='alert(3)' \u{202e}\u{1b}[2J";
    let mut diagnosis = sample::failing();
    diagnosis.run = hostile.to_owned();
    diagnosis.sentences[0] = hostile.to_owned();
    diagnosis.provenance.notes.insert(hostile.to_owned(), hostile.to_owned());
    for lineage in &mut diagnosis.lineages {
        lineage.name = format!("{hostile}{}", lineage.name);
        for history in &mut lineage.behaviours {
            history.verdict.evidence = vec![hostile.to_owned()];
            history.verdict.remedy = Some(hostile.to_owned());
            history.verdict.thesis_baseline = hostile.to_owned();
        }
        for phase in &mut lineage.phases {
            phase.name = format!("{hostile}{}", phase.name);
            phase.metrics.insert(hostile.to_owned(), 1.0);
        }
        for curve in &mut lineage.calibration {
            curve.phase = hostile.to_owned();
        }
        for case in &mut lineage.failures {
            case.item = hostile.to_owned();
            case.question = hostile.to_owned();
            case.expected = hostile.to_owned();
            for answer in &mut case.answers {
                answer.answer = hostile.to_owned();
            }
        }
    }
    let page = render_html(&diagnosis).unwrap();
    assert!(page.contains("&lt;script&gt;alert(1)"), "the text itself is shown");
    assert_eq!(page.matches("</style>").count(), 1);
    for tag in tags(&page) {
        let name = tag.split([' ', '\n']).next().unwrap();
        assert!(!["script", "img", "iframe", "object", "embed", "link", "base"].contains(&name), "<{tag}>");
        let names: String = tag.split('"').step_by(2).collect();
        assert!(
            !names.contains("onerror") && !names.contains("onload"),
            "an attribute broke out of its quotes: <{tag}>"
        );
    }
    assert!(!page.contains(['\u{202e}', '\u{1b}']), "characters that reorder text or drive a terminal are spelt out");
}

#[test]
fn a_page_needs_no_network_and_no_script() {
    for diagnosis in [sample::failing(), sample::healthy()] {
        let page = render_html(&diagnosis).unwrap();
        assert!(page.contains("default-src 'none'; style-src 'sha256-"));
        for word in ["http:", "https:", "url(", "@import", "<script", "javascript:", "style=\""] {
            assert!(!page.contains(word), "{word}");
        }
        for tag in tags(&page) {
            assert!(!tag.contains(" src=") && !tag.contains(" on"), "<{tag}>");
            if let Some((_, target)) = tag.split_once("href=\"#") {
                let id = format!("id=\"{}\"", target.split('"').next().unwrap());
                assert!(page.contains(&id), "nothing on the page has {id}");
            }
        }
    }
}

#[test]
fn a_page_holds_everything_a_reader_was_promised() {
    let diagnosis = sample::failing();
    let page = render_html(&diagnosis).unwrap();
    let parts = ["map", "verdicts", "next", "main-calibration", "main-refusals", "main-cutoff", "main-failures", "run"];
    for id in parts {
        assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
    }
    for sentence in &diagnosis.sentences {
        assert!(page.contains(sentence.as_str()), "{sentence}");
    }
    let provenance = &diagnosis.provenance;
    let lineages = &diagnosis.lineages;
    let hashes = lineages.iter().flat_map(|lineage| lineage.phases.iter().map(|phase| &phase.checkpoint));
    for hash in hashes.chain([&provenance.bank_hash, &provenance.reference.as_ref().unwrap().hash]) {
        assert!(page.contains(hash.as_str()), "{hash}");
    }
    let case = lineages[0].failures.last().unwrap();
    let answers = &page[page.rfind(&format!("<code>{}</code>", case.item)).unwrap() - 1_500..];
    for text in ["How do I", "Ask the desk for the guide.", "I can&#x27;t help with that."] {
        assert!(answers.contains(text), "{text}");
    }
}

#[test]
fn a_shortfall_without_a_phase_is_not_called_a_failure() {
    let mut diagnosis = sample::healthy();
    let verdict = &mut diagnosis.lineages[0].behaviours[0].verdict;
    *verdict = Verdict {
        outcome: Outcome::Undetermined { reason: "on 12 items it may be chance".to_owned() },
        confidence: Confidence::None,
        would_change: Some("More items.".to_owned()),
        ..verdict.clone()
    };
    let page = render_html(&diagnosis).unwrap();
    assert!(page.contains("6 of 7 behaviours healthy, 1 not settled"));
    assert!(page.contains("<h1>The model falls short, and no phase can be blamed yet.</h1>"));
    assert!(page.contains("on 12 items it may be chance"));
}

#[test]
fn a_hidden_fault_is_told_though_nothing_fails() {
    let mut diagnosis = sample::healthy();
    let verdict = &mut diagnosis.lineages[0].behaviours[5].verdict;
    verdict.outcome = Outcome::Latent { phase: "pretrain".to_owned(), masked_by: "rlhf".to_owned() };
    verdict.evidence = vec!["After pretraining it reached 60%.".to_owned()];
    let page = render_html(&diagnosis).unwrap();
    assert!(page.contains("<h1>The model passes, and hides a fault.</h1>"));
    assert!(page.contains("7 of 7 behaviours pass, 1 with a hidden fault"));
    assert!(page.contains("Pretraining produced a fault that RLHF hides") && page.contains("it reached 60%"));
    assert!(!page.contains("No phase needs a fix"));
    let text = render_markdown(&diagnosis).unwrap();
    assert!(text.contains("◐ Pretraining produced a fault that RLHF hides"), "{text}");
}

#[test]
fn the_number_and_the_rung_of_a_verdict_stand_beside_its_word() {
    let mut diagnosis = sample::failing();
    let verdict = &mut diagnosis.lineages[0].behaviours[5].verdict;
    verdict.probabilities = vec![StageProbability { stage: Stage::Alignment, probability: 0.934 }];
    verdict.rung = Some(Rung::Confirmed);
    assert!(render_html(&diagnosis).unwrap().contains("Confirmed by training it again, probability 93%"));
    assert!(render_markdown(&diagnosis).unwrap().contains("(strong, probability 93%)"));
}

#[test]
fn a_value_that_was_not_measured_says_why_in_place_of_a_number() {
    let mut diagnosis = sample::healthy();
    let history = &mut diagnosis.lineages[0].behaviours[0];
    history.values[0] = None;
    history.not_measured = Some("no item was scored in chat at pretrain".to_owned());
    let page = render_html(&diagnosis).unwrap();
    assert!(page.contains("not measured</span><small>no item was scored in chat at pretrain"));
}

#[test]
fn the_same_diagnosis_gives_the_same_bytes() {
    let diagnosis = sample::failing();
    assert!(render_html(&diagnosis).unwrap() == render_html(&diagnosis.clone()).unwrap());
}

#[test]
fn json_reads_back_with_every_number_to_its_last_bit() {
    let written = sample::failing();
    let read: Diagnosis = serde_json::from_str(&render_json(&written).unwrap()).unwrap();
    assert_eq!(read.sentences, written.sentences);
    assert_eq!(read.provenance, written.provenance);
    for (read, written) in read.lineages.iter().zip(&written.lineages) {
        assert_eq!(read.failures, written.failures);
        for (read, written) in read.behaviours.iter().zip(&written.behaviours) {
            for (read, written) in read.values.iter().flatten().zip(written.values.iter().flatten()) {
                assert_eq!(read.n, written.n);
                for (read, written) in [(read.value, written.value), (read.low, written.low), (read.high, written.high)]
                {
                    assert!((read - written).abs() <= f64::EPSILON * written.abs(), "{read} was {written}");
                }
            }
        }
    }
}

#[test]
fn a_failure_of_the_branch_alone_is_told_on_the_first_screen() {
    let mut diagnosis = sample::healthy();
    diagnosis.lineages[1] = sample::failing().lineages.remove(1);
    let page = render_html(&diagnosis).unwrap();
    assert!(page.contains("<h1>No failure found in the RLHF model.</h1>"));
    assert!(page.contains("Constitutional AI branch</a>: 1 behaviour fails"));
    assert!(page.contains("Finding") && page.contains("Cause"));
}

#[test]
fn a_diagnosis_of_another_shape_is_refused() {
    let mut diagnosis = sample::healthy();
    diagnosis.lineages[1].behaviours[2].values.pop();
    let error = render_html(&diagnosis).unwrap_err();
    assert_eq!(error.to_string(), "constitutional: values of knowledge cutoff has 3 entries for 4 phases");
    diagnosis.version += 1;
    assert!(matches!(render_html(&diagnosis), Err(Error::UnsupportedVersion { .. })));
}

#[test]
fn a_report_appears_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/report.html");
    reports::write(&path, "whole").unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole");
    let blocked = path.join("report.html");
    let error = reports::write(&blocked, "nothing").unwrap_err();
    assert!(error.to_string().contains("report.html"), "{error}");
    let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1);
}

#[test]
fn the_summary_for_a_pull_request_reads_as_written() {
    insta::assert_snapshot!(render_markdown(&sample::failing()).unwrap());
}

// What stands between `<` and `>` in a page whose texts are escaped.
fn tags(page: &str) -> impl Iterator<Item = &str> {
    page.split('<').skip(1).filter_map(|rest| rest.split('>').next())
}
