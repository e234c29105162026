//! What the page over many runs promises its reader, whatever the runs are called and whatever they hold.

use evals::diagnosis::{Diagnosis, Outcome};
use evals::index::{Index, IndexRun};
use reports::{Error, render_index_html, render_index_json, render_index_markdown};

use promise::HOSTILE;

mod promise;
mod sample;

/// A run in this folder, with its report beside the index.
fn run(path: &str, diagnosis: &Diagnosis) -> IndexRun {
    IndexRun { report: Some(format!("{path}/report.html")), ..IndexRun::of(format!("runs/{path}"), diagnosis) }
}

/// A healthy run, one with two planted faults, a healthy one, and so on.
fn alternating(n: usize) -> Index {
    let (healthy, failing) = (sample::healthy(), sample::failing());
    let of = |i: usize| run(&format!("run-{}", i + 1), if i.is_multiple_of(2) { &healthy } else { &failing });
    Index::over((0..n).map(of).collect())
}

#[test]
fn hostile_text_is_shown_and_never_run() {
    let hostile = HOSTILE;
    let mut runs = alternating(3).runs;
    for run in &mut runs {
        run.name = format!("{hostile}{}", run.name);
        run.path = hostile.to_owned();
        run.report = Some(hostile.to_owned());
        run.bank_hash = hostile.to_owned();
        run.phasetrace_version = hostile.to_owned();
        run.lineage = Some(hostile.to_owned());
        run.sentence = Some(hostile.to_owned());
        run.phases = vec![hostile.to_owned()];
        for value in &mut run.behaviours {
            if let Outcome::Attributed { phase, .. } = &mut value.outcome {
                *phase = hostile.to_owned();
            }
        }
        run.behaviours[0].value = None;
        run.behaviours[0].not_measured = Some(hostile.to_owned());
        run.behaviours[1].outcome = Outcome::Latent { phase: hostile.to_owned(), masked_by: hostile.to_owned() };
    }
    let index = Index::over(runs);
    let page = render_index_html(&index).unwrap();
    promise::shows_hostile_text(&page, 0);
    let summary = render_index_markdown(&index).unwrap();
    assert!(!summary.contains("<script") && !summary.contains("<img"), "{summary}");
}

#[test]
fn a_page_needs_no_network_and_no_script() {
    for n in [0, 1, 3, 40] {
        let page = render_index_html(&alternating(n)).unwrap();
        promise::is_self_contained(&page, 0);
    }
}

#[test]
fn a_link_leads_to_the_report_and_nowhere_else_whatever_the_folder_is_called() {
    let links = [
        ("runs/a b#c?d%e/report.html", "runs/a%20b%23c%3Fd%25e/report.html"),
        ("../göd \"x'/report.html", "../g%C3%B6d%20%22x%27/report.html"),
        ("javascript:alert(1)", "javascript%3Aalert%281%29"),
        ("data:text/html,x/report.html", "data%3Atext/html%2Cx/report.html"),
        ("//evil.example/report.html", "evil.example/report.html"),
        ("\\\\evil.example\\report.html", "%5C%5Cevil.example%5Creport.html"),
    ];
    let mut runs = alternating(links.len() + 1).runs;
    for (run, (report, _)) in runs.iter_mut().zip(links) {
        run.report = Some(report.to_owned());
    }
    runs.last_mut().unwrap().report = None;
    // A slash may be escaped in an attribute.
    let page = render_index_html(&Index::over(runs)).unwrap().replace("&#x2f;", "/");
    let targets: Vec<&str> = page.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    for (report, link) in links {
        assert_eq!(targets.iter().filter(|target| **target == link).count(), 1, "{report}: {targets:?}");
    }
    assert_eq!(targets.iter().filter(|target| !target.starts_with('#')).count(), links.len(), "{targets:?}");
    assert_eq!(page.matches("; no report</small>").count(), 1, "a run without a report says so and has no link");
}

#[test]
fn the_first_screen_says_how_many_fail_at_what_and_how_the_last_run_stands() {
    let page = render_index_html(&alternating(3)).unwrap();
    let screen = page.split_once("<header class=\"hero\">").unwrap().1.split_once("</header>").unwrap().0;
    for text in [
        "<h1>1 of 3 runs fails.</h1>",
        "The model does not obey the system prompt (1 of 3 runs); as often it refuses harmless requests (1 of 3 runs).",
        "Supervised fine-tuning (SFT) and alignment (RLHF) are blamed most often: each for 1 of 2 failures.",
        "7 of 7 behaviours healthy",
        "Every behaviour that was measured is within healthy variation",
        "1 failing, 0 not settled, 2 passing (0 of them with a hidden fault), 0 not measured.",
        "<b>4 of 14</b>",
    ] {
        assert!(screen.contains(text), "{text}");
    }
    let page = render_index_html(&alternating(2)).unwrap();
    assert!(page.contains("The model refuses harmless requests: <b>RLHF broke what worked</b>"));
}

#[test]
fn the_numbers_of_a_trend_stand_in_its_table() {
    let page = render_index_html(&alternating(3)).unwrap();
    let rows = numbers(&page, "trend-1-over_refusal");
    let expected = [
        [
            "1 invented-figures-healthy",
            "97.0%",
            "94–98%",
            "260",
            "97.0%",
            "no failure found",
            "–",
            "–",
            "–",
            "not compared",
        ],
        [
            "2 invented-figures-failing",
            "55.0%",
            "49–61%",
            "260",
            "97.0%",
            "RLHF broke what worked",
            "−42 points",
            "[−48, −35]",
            "&lt;0.001",
            "worse",
        ],
        [
            "3 invented-figures-healthy",
            "97.0%",
            "94–98%",
            "260",
            "97.0%",
            "no failure found",
            "+42 points",
            "[+35, +48]",
            "&lt;0.001",
            "better",
        ],
    ];
    assert_eq!(rows, expected);
    assert!(numbers(&page, "trend-1-knowledge").iter().skip(1).all(|row| row[9] == "not resolved"));
    assert!(page.contains("Run 2: worse since run 1, −42 points [−48, −35]."));
    assert!(page.contains("No change is resolved, of 2."));
}

#[test]
fn what_fails_differs_in_shape_and_not_in_colour_alone() {
    let mut runs = alternating(4).runs;
    let over_refusal = |run: &mut IndexRun, outcome: Outcome| run.behaviours[5].outcome = outcome;
    over_refusal(&mut runs[0], Outcome::Undetermined { reason: "too few".to_owned() });
    over_refusal(&mut runs[2], Outcome::Latent { phase: "sft".to_owned(), masked_by: "rlhf".to_owned() });
    let page = render_index_html(&Index::over(runs)).unwrap();
    let chart = page.split_once("<title id=\"trend-1-over_refusal-title\">").unwrap().1.split_once("</svg>").unwrap().0;
    let count = |shape: &str| chart.matches(shape).count();
    assert_eq!(count("<polygon class=\"failing\""), 2);
    assert_eq!((count("<polygon class=\"unsettled\""), count("<circle class=\"hiding\"")), (1, 1));
    assert_eq!((count(">▼</text>"), count(">▲</text>")), (2, 1));
    assert!(chart.contains("It fails in 2, 4. Resolved changes since the run before: in 2, 3, 4."));
    for word in
        ["falls short, phase not settled", "SFT produced a fault that RLHF hides", "RLHF broke what worked; strong"]
    {
        assert!(page.contains(word), "{word}");
    }
}

#[test]
fn every_chart_has_its_title_its_description_and_its_table() {
    let page = render_index_html(&alternating(40)).unwrap();
    let charts: Vec<&str> = page.split("<svg class=\"chart\"").skip(1).collect();
    assert_eq!(charts.len(), 7);
    for chart in charts {
        let (drawing, after) = chart.split_once("</svg>").unwrap();
        assert!(drawing.contains("<title id=") && drawing.contains("<desc id="));
        let table = after.split_once("<table>").unwrap().1.split_once("</table>").unwrap().0;
        assert_eq!(table.matches("<tr>").count(), 41);
    }
}

#[test]
fn runs_that_were_asked_otherwise_are_in_no_trend_and_the_page_says_why() {
    let mut runs = alternating(5).runs;
    runs[1].bank_hash = "another".to_owned();
    runs[2].probe_version += 1;
    let page = render_index_html(&Index::over(runs)).unwrap();
    assert_eq!(page.matches("<svg class=\"chart\"").count(), 7, "one series has two runs or more");
    let left_out = [
        "Left out, because they were asked with another item bank: 1 run (2 invented-figures-failing).",
        "Left out, because another version of the probes scored them: 1 run (3 invented-figures-healthy).",
    ];
    for line in left_out {
        assert!(page.contains(line), "{line}");
    }
    let numbers: Vec<String> = numbers(&page, "trend-1-knowledge")
        .into_iter()
        .map(|row| row[0].split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(numbers, ["1", "4", "5"]);
    assert!(page.contains("item bank 1") && page.contains("item bank 3"));

    let mut runs = alternating(2).runs;
    runs[1].bank_hash = "another".to_owned();
    let page = render_index_html(&Index::over(runs)).unwrap();
    assert!(page.contains("No two runs were asked the same questions"));
}

#[test]
fn healthy_runs_are_marked_where_all_were_compared_with_the_same() {
    let mut runs = alternating(3).runs;
    assert!(render_index_html(&Index::over(runs.clone())).unwrap().contains("class=\"healthy-tick\""));
    runs[1].reference = None;
    let page = render_index_html(&Index::over(runs)).unwrap();
    assert!(!page.contains("class=\"healthy-tick\"") && page.contains("Healthy runs are not marked"));
}

#[test]
fn a_value_that_was_not_measured_says_why_in_place_of_a_number() {
    let mut runs = alternating(2).runs;
    runs[0].behaviours[0].value = None;
    runs[0].behaviours[0].not_measured = Some("no item was scored in chat at rlhf".to_owned());
    runs[0].behaviours.remove(6);
    let page = render_index_html(&Index::over(runs)).unwrap();
    assert!(page.contains("no item was scored in chat at rlhf") && page.contains("the diagnosis does not mention it"));
    assert!(page.contains("Not measured in 1 run."));
}

#[test]
fn phases_are_counted_with_what_they_are_blamed_for() {
    let page = render_index_html(&alternating(5)).unwrap();
    let table = page.split_once("<table class=\"wide phases\">").unwrap().1.split_once("</table>").unwrap().0;
    let rows: Vec<&str> = table.split("<tr>").skip(2).collect();
    assert_eq!(rows.len(), 3, "a phase that is never blamed is told of too");
    assert!(rows[0].contains(">SFT <small>") && rows[0].contains("<td>2 of 4</td><td>2 of 5</td><td>0 of 2</td>"));
    assert!(rows[0].contains("system prompt (2)") && rows[1].contains("over-refusal (2)"));
    assert!(rows[2].contains(">Pretraining <small>") && rows[2].contains("<td>0 of 4</td><td>0 of 5</td><td>–</td>"));
}

#[test]
fn hundreds_of_runs_stay_small_enough_to_send() {
    let page = render_index_html(&alternating(300)).unwrap();
    assert!(page.len() < 5_000_000, "{} bytes", page.len());
    assert!(page.contains("role=\"region\" aria-label=\"Follows instructions, over 300 runs: chart\""));
}

#[test]
fn the_same_index_gives_the_same_bytes_and_another_version_is_refused() {
    let mut index = alternating(3);
    assert!(render_index_html(&index).unwrap() == render_index_html(&index.clone()).unwrap());
    let read: Index = serde_json::from_str(&render_index_json(&index).unwrap()).unwrap();
    assert_eq!((&read.sentences, &read.series), (&index.sentences, &index.series));
    index.version += 1;
    assert!(matches!(render_index_html(&index), Err(Error::UnsupportedVersion { record: "index", .. })));
    assert!(render_index_json(&index).is_err() && render_index_markdown(&index).is_err());
}

#[test]
fn the_summary_has_the_runs_the_resolved_changes_and_the_phases() {
    let mut index = alternating(3);
    index.runs[0].path = "runs/a|b".to_owned();
    let summary = render_index_markdown(&index).unwrap();
    for line in [
        "# 1 of 3 runs fails.",
        "| 1 runs/a\\|b | ✓ 7 of 7 behaviours healthy |",
        "| 2 runs/run-2 | ✕ 2 of 7 behaviours fail |",
        "✕ 55% (49–61%, n = 260): RLHF broke what worked",
        "## Resolved changes: 4 of 14",
        "| Answers harmless requests | 1 runs/a\\|b | 2 runs/run-2 | −42 points [−48, −35] | 260 | <0.001 |",
        "| RLHF | 1 of 2 | 1 of 3 | 0 |",
    ] {
        assert!(summary.contains(line), "{line}\n{summary}");
    }
}

/// The cells of the data table behind a chart, row by row.
fn numbers(page: &str, chart: &str) -> Vec<Vec<String>> {
    let after = page.split_once(&format!("<title id=\"{chart}-title\">")).unwrap().1;
    let body = after.split_once("<tbody>").unwrap().1.split_once("</tbody>").unwrap().0;
    let cell = |rest: &str| rest.split_once('>').unwrap().1.split('<').next().unwrap().to_owned();
    body.split("<tr>").skip(1).map(|row| row.split("<t").skip(1).map(cell).collect()).collect()
}
