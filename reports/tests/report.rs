//! What a report promises its reader, whatever the diagnosis holds.

use evals::diagnosis::{
    Confidence, ContributionKind, DEPLOYED, Diagnosis, Outcome, Rung, Stage, StageProbability, Verdict,
};
use reports::{Error, render_html, render_json, render_markdown};

use promise::{HOSTILE, tags};

mod promise;
mod sample;

/// Where the sample keeps answering harmless requests.
const OVER_REFUSAL: usize = 5;

#[test]
fn hostile_text_is_shown_and_never_run() {
    let hostile = HOSTILE;
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
    promise::shows_hostile_text(&page, 1);
}

#[test]
fn a_page_needs_no_network_and_runs_no_script_but_its_own() {
    let script = include_str!("../templates/report.js");
    for word in ["HTML", "write(", "eval", "Function(", "fetch", "XMLHttp", "import", "location", "Storage", "cookie"] {
        assert!(!script.contains(word), "{word}");
    }
    for diagnosis in [sample::failing(), sample::healthy(), single()] {
        let page = render_html(&diagnosis).unwrap();
        let policy = page.split("Content-Security-Policy\" content=\"").nth(1).unwrap().split('"').next().unwrap();
        let rules: Vec<&str> = policy.split("; ").map(|rule| rule.split(" 'sha256-").next().unwrap()).collect();
        assert_eq!(rules, ["default-src 'none'", "style-src", "script-src", "base-uri 'none'", "form-action 'none'"]);
        let parts: Vec<&str> = page.split("<script").collect();
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[1].split("</script>").next().unwrap().strip_prefix('>'), Some(script));
        promise::is_self_contained(&page, 1);
    }
}

#[test]
fn a_page_holds_everything_a_reader_was_promised() {
    let diagnosis = sample::failing();
    let page = render_html(&diagnosis).unwrap();
    let parts = [
        "first",
        "map",
        "verdicts",
        "next",
        "main-reliability",
        "main-refusals",
        "main-cutoff",
        "main-flow",
        "main-failures",
        "cost",
        "run",
    ];
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
    let before = &page[..page.rfind(&format!("<code>{}</code>", case.item)).unwrap()];
    let shown = &before[before.rfind("<article class=\"case\"").unwrap()..];
    for text in ["How do I", "Ask the desk for the guide.", "I can&#x27;t help with that.", "broken by RLHF"] {
        assert!(shown.contains(text), "{text}");
    }
    for name in ["Seed", "decoding", "tokenizer", "Detectable differences, RLHF", "Healthy reference"] {
        assert!(page.contains(&format!("<dt>{name}</dt>")), "{name}");
    }
}

#[test]
fn the_first_screen_says_since_when_how_sure_at_what_cost_and_with_what_gain() {
    let mut diagnosis = sample::failing();
    let verdict = &mut diagnosis.lineages[0].behaviours[OVER_REFUSAL].verdict;
    verdict.probabilities = vec![StageProbability { stage: Stage::Alignment, probability: 0.934 }];
    let screen = first_screen(&render_html(&diagnosis).unwrap());
    for said in [
        "The model refuses harmless requests and does not obey the system prompt.",
        "Of the failure named first, the RLHF model refuses harmless requests",
        "Began in Alignment (RLHF) There the model is rewarded for good answers. What worked before stopped working.",
        "How sure 93% likely Strong: where it begins,",
        "What the fix costs 2 min 10 s RLHF took this long to train here, by the log of the first time.",
        "What the fix recovers 97% of the loss Measured by training again 7 models with 4 types of such faults",
        "95% interval 91% to 100%",
        "Compared with 19 healthy runs",
        "Smallest difference that shows 6–9 points",
    ] {
        assert!(screen.contains(said), "{said}\n{screen}");
    }
}

#[test]
fn what_is_not_known_of_a_fix_is_said() {
    let mut diagnosis = sample::failing();
    let healthy = sample::healthy().lineages[0].behaviours[OVER_REFUSAL].verdict.clone();
    diagnosis.lineages[0].behaviours[OVER_REFUSAL].verdict = healthy;
    let screen = first_screen(&render_html(&diagnosis).unwrap());
    for said in [
        "Began in Fine-tuning (SFT) There the model is shown good answers.",
        "How sure Probable",
        "No percentage was computed for it.",
        "3 min 24 s SFT and what follows took this long to train here",
        "The Constitutional AI model stands on it too",
        "What the fix recovers Not measured",
    ] {
        assert!(screen.contains(said), "{said}\n{screen}");
    }
    diagnosis.lineages[0].phases[2].cost = None;
    let screen = first_screen(&render_html(&diagnosis).unwrap());
    assert!(screen.contains("Not known No log tells how long training SFT and what follows took."), "{screen}");
}

#[test]
fn a_fault_of_deployment_costs_no_training() {
    let mut diagnosis = sample::failing();
    let lineage = &mut diagnosis.lineages[0];
    lineage.phases[2].name = DEPLOYED.to_owned();
    lineage.phases[2].cost = None;
    lineage.behaviours[OVER_REFUSAL].verdict.outcome =
        Outcome::Attributed { phase: DEPLOYED.to_owned(), kind: ContributionKind::Commission };
    let page = render_html(&diagnosis).unwrap();
    let screen = first_screen(&page);
    assert!(screen.contains("Began in Deployment"), "{screen}");
    assert!(screen.contains("What the fix costs No training"), "{screen}");
    assert!(page.contains("<th scope=\"row\">Deployment</th><td>no training</td>"));
}

#[test]
fn every_item_of_a_flow_is_in_one_of_its_groups() {
    let diagnosis = sample::failing();
    let page = render_html(&diagnosis).unwrap();
    let charts = page.split("<svg class=\"chart\"").filter(|chart| chart.contains(">Items from phase to phase: "));
    let mut n_charts = 0;
    for chart in charts {
        n_charts += 1;
        let body = chart.split("<tbody>").nth(1).unwrap().split("</tbody>").next().unwrap();
        for row in body.split("<tr>").skip(1) {
            let cells = row.split("<td>").skip(1).map(|cell| cell.split("</td>").next().unwrap());
            let counts: Vec<usize> = cells.map(|cell| cell.replace(',', "").parse().unwrap()).collect();
            assert_eq!(counts[..4].iter().sum::<usize>(), counts[4], "{row}");
            assert!(counts[4] == 260 || counts[4] == 400, "{row}");
        }
        let drawn = chart.split("</svg>").next().unwrap();
        assert!(drawn.contains("broken</text>") && drawn.contains("<desc "));
    }
    assert_eq!(n_charts, diagnosis.lineages.iter().map(|lineage| lineage.behaviours.len()).sum::<usize>());
    let (open, folded) = page.split_once("<summary>Behaviours that do not fail: 5</summary>").unwrap();
    assert!(open.contains("\"main-flow-over-refusal-title"));
    assert!(folded.contains("\"main-flow-knowledge-title"));
}

#[test]
fn failures_tell_how_they_came_about_and_what_taught_them() {
    let mut diagnosis = sample::failing();
    diagnosis.lineages[1].failures[0].history = "1010".to_owned();
    let page = render_html(&diagnosis).unwrap();
    assert!(page.contains("Of 4 shown here: 4 broken by RLHF."));
    assert!(page.contains("<option value=\"broken-2\">Broken by RLHF</option>"));
    assert!(page.contains("broken again by RL-CAI") && page.contains("; 1 of them repaired in between."));
    assert!(page.contains("<option value=\"again\">Broken again after a repair</option>"));
    let group = page.split("id=\"main-failures-over-refusal\"").nth(1).unwrap().split("</details>").next().unwrap();
    let group = group.replace("&#x2f;", "/");
    for text in ["Training examples behind it", "data/preferences.jsonl, line 212", "href=\"#main-over-refusal\""] {
        assert!(group.contains(text), "{text}");
    }
    assert_eq!(page.matches("data-filter hidden>").count(), 2, "without a script nobody sees what needs one");
}

#[test]
fn a_single_checkpoint_is_compared_with_no_phase() {
    let page = render_html(&single()).unwrap();
    let screen = first_screen(&page);
    assert!(screen.contains("Began in Not known One checkpoint: no phase to compare with."), "{screen}");
    assert!(screen.contains("How sure 49–61% right"), "{screen}");
    assert!(!screen.contains("Smallest difference") && !screen.contains("likely"));
    assert!(page.contains("<h2>What the model does</h2>") && page.contains(">falls short</a>"));
    for absent in [
        "main-flow",
        "Item by item: what each phase broke",
        "Where the shortfall arose",
        "Each arrow is",
        "RLHF broke what worked",
        "All phases",
        "<select>",
    ] {
        assert!(!page.contains(absent), "{absent}");
    }
}

#[test]
fn what_training_took_is_told_phase_by_phase_and_in_all() {
    let mut diagnosis = sample::failing();
    let page = render_html(&diagnosis).unwrap();
    for row in [
        "Pretraining</th><td>4 min 11 s</td><td>1,536,000</td><td>6,120</td>",
        "All phases</th><td>7 min 35 s</td><td>2,266,000</td><td>4,980</td>",
    ] {
        assert!(page.contains(row), "{row}");
    }
    diagnosis.lineages[0].phases[1].cost = None;
    let page = render_html(&diagnosis).unwrap();
    assert!(page.contains("SFT</th><td>no log</td>"));
    assert!(page.contains("All phases</th><td>not known: a log is missing</td>"));
    diagnosis.lineages[0].phases.iter_mut().for_each(|phase| phase.cost = None);
    assert!(render_html(&diagnosis).unwrap().contains("<b>RLHF</b>: no log tells what training took."));
}

#[test]
fn a_word_shows_the_meaning_that_its_entry_in_the_glossary_has() {
    let page = render_html(&sample::failing()).unwrap();
    let words: Vec<&str> = page.split("<span class=\"gl\">").skip(1).collect();
    assert!(words.len() > 30, "{}", words.len());
    for word in words {
        let entry = attribute(word, "aria-describedby");
        let meaning = word.split("aria-hidden=\"true\">").nth(1).unwrap().split("</span>").next().unwrap();
        assert!(page.contains(&format!("<dd id=\"{entry}\">{meaning}</dd>")), "{entry}");
    }
}

#[test]
fn a_page_is_put_together_as_screen_readers_need_it() {
    let mut in_doubt = sample::healthy();
    for history in &mut in_doubt.lineages[0].behaviours {
        history.verdict.outcome = Outcome::Undetermined { reason: "it may be chance".to_owned() };
    }
    for diagnosis in [sample::failing(), sample::healthy(), in_doubt, single(), of_eight_phases()] {
        let page = render_html(&diagnosis).unwrap();
        promise::is_self_contained(&page, 1);
        let mut level = 0;
        for heading in tags(&page).filter_map(|tag| tag.strip_prefix('h')?.chars().next()?.to_digit(10)) {
            assert!(heading <= level + 1, "a heading {heading} below one of {level}");
            level = heading;
        }
        assert_eq!(page.matches("<h1>").count(), 1);
        let scrolled = tags(&page).filter(|tag| tag.contains("tabindex=\"0\""));
        let mut names: Vec<&str> = scrolled
            .map(|tag| {
                assert!(tag.contains("role=\"region\""), "<{tag}>");
                attribute(tag, "aria-label")
            })
            .collect();
        let n_names = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), n_names, "every part that scrolls has a name of its own");
        for body in page.split("<tbody").skip(1) {
            assert!(body.split("</tbody>").next().unwrap().contains("<tr"), "an empty table");
        }
    }
}

#[test]
fn fifty_thousand_items_and_eight_checkpoints_stay_below_fifteen_megabytes() {
    let mut diagnosis = of_eight_phases();
    diagnosis.provenance.n_items = 50_000;
    for lineage in &mut diagnosis.lineages {
        // As many as a diagnosis keeps of each behaviour, all of them long.
        let mut case = lineage.failures[0].clone();
        case.answers.iter_mut().for_each(|answer| answer.answer = "<answer> ".repeat(1_000));
        lineage.failures = lineage
            .behaviours
            .iter()
            .flat_map(|history| {
                let case = evals::diagnosis::FailureCase { behaviour: history.behaviour, ..case.clone() };
                std::iter::repeat_n(case, 25)
            })
            .collect();
        for history in &lineage.behaviours {
            lineage.n_failures.insert(history.behaviour, 7_000);
        }
    }
    let page = render_html(&diagnosis).unwrap();
    assert!(page.contains("7,000 items, 25 shown"));
    assert!(page.len() < 15_000_000, "{} bytes", page.len());
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

fn attribute<'a>(tag: &'a str, name: &str) -> &'a str {
    tag.split(&format!("{name}=\"")).nth(1).unwrap().split('"').next().unwrap()
}

// The words before the table of phases and behaviours, on one line, without the meanings that show where the pointer rests.
fn first_screen(page: &str) -> String {
    let start = page.find("id=\"first\"").unwrap();
    let screen = &page[start..start + page[start..].find("id=\"map\"").unwrap()];
    let parts = screen.split('<').filter_map(|part| part.split_once('>'));
    let shown = parts.filter(|(tag, _)| !tag.contains("aria-hidden=\"true\"")).map(|(_, text)| text.trim());
    let words: Vec<&str> = shown.flat_map(str::split_whitespace).collect();
    words.join(" ").replace("&#x27;", "'")
}

// The last checkpoint of the failing sample alone.
fn single() -> Diagnosis {
    let mut diagnosis = sample::failing();
    diagnosis.lineages.truncate(1);
    for lineage in &mut diagnosis.lineages {
        let last = lineage.phases.len() - 1;
        lineage.phases.drain(..last);
        lineage.calibration.drain(..last);
        lineage.trade_off.drain(..last);
        lineage.cutoffs.drain(..last);
        for history in &mut lineage.behaviours {
            history.values.drain(..last);
            history.elicited.drain(..last);
            history.reference.drain(..last);
            history.transitions.clear();
            if let Outcome::Attributed { phase, .. } = &mut history.verdict.outcome {
                phase.clone_from(&lineage.phases[0].name);
            }
        }
        for case in &mut lineage.failures {
            case.answers.drain(..last);
            case.history = "0".into();
        }
    }
    diagnosis
}

// The failing sample with its second phase over and over again, under other names.
fn of_eight_phases() -> Diagnosis {
    let mut diagnosis = sample::failing();
    for lineage in &mut diagnosis.lineages {
        for added in lineage.phases.len()..8 {
            let name = format!("sft-{added}");
            let mut phase = lineage.phases[1].clone();
            phase.name.clone_from(&name);
            lineage.phases.insert(2, phase);
            for history in &mut lineage.behaviours {
                history.values.insert(2, history.values[1].clone());
                history.elicited.insert(2, history.elicited[1].clone());
                history.reference.insert(2, history.reference[1]);
                let mut transition = history.transitions[0].clone();
                transition.phase.clone_from(&name);
                history.transitions.insert(1, transition);
            }
            for case in &mut lineage.failures {
                let mut answer = case.answers[1].clone();
                answer.phase.clone_from(&name);
                case.answers.insert(2, answer);
                case.history.insert(2, '0');
            }
        }
    }
    diagnosis
}
