//! Hostile text in every place of a record: a page differs from one with harmless text in the letters shown and in nothing else.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use evals::bisection::{Bisection, Saved};
use evals::comparison::Comparison;
use evals::diagnosis::{
    Confirmation, Cost, DeviatingCell, Diagnosis, FamilyGate, Outcome, Rung, Stage, StageProbability, View, ViewValue,
};
use evals::evidence::Reading;
use evals::index::{Index, IndexRun};
use evals::reference::Route;
use evals::trace::record::{Contrast, LeftOut, TRACE_VERSION, Trace, TracedRow};
use markup::{Part, parts, read};
use probes::item::Behaviour;
use proptest::prelude::*;
use reports::{
    render_comparison_html, render_comparison_markdown, render_html, render_index_html, render_index_markdown,
    render_markdown,
};
use texts::Texts;

mod markup;
mod sample;
#[expect(dead_code, reason = "an empty comparison has no text")]
mod sweep;
mod texts;

static DIAGNOSIS: LazyLock<Texts> = LazyLock::new(|| Texts::of(&everything()));
static HEALTHY: LazyLock<Texts> = LazyLock::new(|| Texts::of(&shortened(sample::healthy())));
static COMPARISON: LazyLock<Texts> = LazyLock::new(|| Texts::of(&sweep::of(4)));
static INDEX: LazyLock<Texts> = LazyLock::new(|| Texts::of(&index()));

/// Pieces that close, open or end something in HTML, SVG, templates, scripts, Markdown or a terminal.
const PIECES: &[&str] = &[
    "<script>alert(1)</script>",
    "</script>",
    "</style>",
    "</svg>",
    "</title>",
    "</textarea>",
    "</td></tr></table>",
    "</details></article></section></main></body></html>",
    "<svg onload=alert(1)>",
    "<img src=x onerror=alert(1)>",
    "<base href=//evil.example>",
    "<plaintext>",
    "<!--",
    "-->",
    "--!>",
    "<![CDATA[",
    "]]>",
    "<",
    ">",
    "&",
    "&lt;",
    "&#x202e;",
    "&quot;",
    "\"",
    "'",
    "`",
    "=",
    "/",
    "\\",
    "\" onmouseover=\"alert(1)",
    "' style='position:fixed",
    "{{ 7 * 7 }}",
    "{% include 'report.html' %}",
    "{#",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "expression(alert(1))",
    "@import url(//evil.example)",
    "|",
    "\\|",
    "* * *",
    "# ",
    "> ",
    "```",
    "[x](javascript:alert(1))",
    "![x](//evil.example)",
    "@everyone",
    "$$",
    "\n\n",
    "\r",
    "\t",
    "\0",
    "\u{1b}[2J",
    "\u{7f}\u{85}",
    "\u{2028}\u{2029}",
    "\u{202a}\u{202e}\u{2066}\u{200f}\u{61c}",
    "\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}",
    "\u{200b}\u{feff}\u{fffd}\u{e0041}",
];

/// What all texts of a case begin with, so that the first letter is hostile too.
const LEADS: &[&str] =
    &["", "<", "</style>", "\"", "'", "javascript:", "&lt", "- ", "1. ", "#", "     ", "\u{202e}", "\u{301}", "\0"];

/// What a very long text is made of.
const LETTERS: &[&str] = &["A", "<", "\u{301}", "\u{202e}", "漢"];

fn hostile_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        12 => prop::sample::select(PIECES).prop_map(str::to_owned),
        2 => any::<char>().prop_map(String::from),
        2 => prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        1 => prop::sample::select(LETTERS).prop_map(|letter| letter.repeat(3_000)),
    ];
    prop::collection::vec(piece, 1..6).prop_map(|pieces| pieces.concat())
}

/// The texts of a case by their rank. They are all different and stay in their order, whatever stands in them.
#[derive(Debug, Clone)]
struct Hostile {
    lead: &'static str,
    texts: Vec<String>,
}

impl Hostile {
    fn text(&self, rank: usize) -> String {
        format!("{}{rank:04}{}.", self.lead, self.texts[rank % self.texts.len()])
    }
}

fn hostile_texts() -> impl Strategy<Value = Hostile> {
    let texts = prop::collection::vec(hostile_text(), 1..24);
    (prop::sample::select(LEADS), texts).prop_map(|(lead, texts)| Hostile { lead, texts })
}

/// The text with nothing in it that could mean something: as long, its words and invisible characters the same.
fn tame(text: &str) -> String {
    let letter = |c: char| match c {
        // Underscores of names are shown as spaces.
        '_' => ' ',
        // A digit has no capital, and seven means nothing where zero and one do.
        c if c.is_ascii_punctuation() => '7',
        c => c,
    };
    text.chars().map(letter).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_text_of_a_diagnosis_changes_the_page_that_it_stands_on(hostile in hostile_texts(), is_healthy in any::<bool>()) {
        let texts = if is_healthy { &HEALTHY } else { &DIAGNOSIS };
        let wild: Diagnosis = texts.with(|rank| hostile.text(rank));
        let harmless: Diagnosis = texts.with(|rank| tame(&hostile.text(rank)));
        let (page, expected) = (render_html(&wild).unwrap(), render_html(&harmless).unwrap());
        prop_assert_eq!(differences(&page, &expected), Vec::<String>::new());
        let (text, expected) = (render_markdown(&wild).unwrap(), render_markdown(&harmless).unwrap());
        prop_assert_eq!(differences_in_markdown(&text, &expected), Vec::<String>::new());
    }

    #[test]
    fn no_text_of_a_comparison_changes_the_page_that_it_stands_on(hostile in hostile_texts()) {
        let wild: Comparison = COMPARISON.with(|rank| hostile.text(rank));
        let harmless: Comparison = COMPARISON.with(|rank| tame(&hostile.text(rank)));
        let (page, expected) = (render_comparison_html(&wild).unwrap(), render_comparison_html(&harmless).unwrap());
        prop_assert_eq!(differences(&page, &expected), Vec::<String>::new());
        let (text, expected) =
            (render_comparison_markdown(&wild).unwrap(), render_comparison_markdown(&harmless).unwrap());
        prop_assert_eq!(differences_in_markdown(&text, &expected), Vec::<String>::new());
    }

    #[test]
    fn no_text_of_an_index_changes_the_page_that_it_stands_on(hostile in hostile_texts()) {
        let wild: Index = INDEX.with(|rank| hostile.text(rank));
        let harmless: Index = INDEX.with(|rank| tame(&hostile.text(rank)));
        let (page, expected) = (render_index_html(&wild).unwrap(), render_index_html(&harmless).unwrap());
        prop_assert_eq!(differences(&page, &expected), Vec::<String>::new());
        let (text, expected) = (render_index_markdown(&wild).unwrap(), render_index_markdown(&harmless).unwrap());
        prop_assert_eq!(differences_in_markdown(&text, &expected), Vec::<String>::new());
    }
}

#[test]
fn every_text_of_the_records_is_exchanged() {
    let mark = |rank: usize| format!("~{rank:04}~");
    let diagnosis: Diagnosis = DIAGNOSIS.with(mark);
    let json = serde_json::to_string(&diagnosis).unwrap();
    for text in ["invented-figures", "rlhf", "byte-level", "Lund", "homonym", "not_measured_why", "Wilson", "bootstrap"]
    {
        assert!(!json.contains(text), "{text} is still there");
    }
    assert!(json.contains("over_refusal") && json.matches("~0").count() > 300);
    let page = render_html(&diagnosis).unwrap();
    assert!(page.matches("~0").count() > 100, "what is exchanged is what is shown");
    let comparison: Comparison = COMPARISON.with(mark);
    let json = serde_json::to_string(&comparison).unwrap();
    for text in ["invented-figures", "kl 0.01", "rloo", "sweep.toml", "careful friend", "benign", "answers got"] {
        assert!(!json.contains(text), "{text} is still there");
    }
    assert!(render_comparison_html(&comparison).unwrap().matches("~0").count() > 100);
}

#[test]
fn a_megabyte_of_answer_adds_less_than_ten_kilobytes_to_the_page() {
    const MEGABYTE: usize = 1_000_000;
    let page_with = |letter: &str, n_bytes: usize| {
        let mut diagnosis = sample::failing();
        let case = &mut diagnosis.lineages[0].failures[0];
        for answer in &mut case.answers {
            answer.answer = letter.repeat(n_bytes / letter.len());
        }
        let n_answers = case.answers.len();
        (render_html(&diagnosis).unwrap().len(), n_answers)
    };
    for letter in ["a", "<", "&", "'", "\"", "\n", "\r", "\0", "\u{202e}", "\u{301}", "\u{e0041}", "漢", "</script>"] {
        let (short, n_answers) = page_with(letter, letter.len());
        let (long, _) = page_with(letter, MEGABYTE);
        assert!(long < short + 10_000 * n_answers, "{letter:?}: {} bytes for each answer", (long - short) / n_answers);
    }
}

/// The failing sample with everything that a diagnosis may hold besides.
fn everything() -> Diagnosis {
    let text = str::to_owned;
    let share = |value| sample::share(value, 60);
    let mut diagnosis = shortened(sample::failing());
    let main = &mut diagnosis.lineages[0];
    main.phases[1].cost = Some(Cost { seconds: 61.0, tokens: 1.2e6 });
    main.gate = Some(FamilyGate {
        p_value: Some(0.002),
        n_healthy: 19,
        n_cells: 42,
        exceeding: vec![DeviatingCell {
            behaviour: Behaviour::OverRefusal,
            route: Route::Chat,
            phase: text("rlhf"),
            deviation: 7.1,
        }],
    });
    let outcomes = [
        Outcome::Undetermined { reason: text("on 12 items it may be chance") },
        Outcome::Latent { phase: text("pretrain"), masked_by: text("rlhf") },
        Outcome::NotMeasured { reason: text("no item was scored") },
    ];
    for (history, outcome) in main.behaviours.iter_mut().zip(outcomes) {
        history.verdict.outcome = outcome;
        history.verdict.evidence = vec![text("After pretraining it reached 60%.")];
    }
    main.behaviours[2].values.fill(None);
    main.behaviours[2].not_measured = Some(text("not_measured_why"));
    let blamed = main.behaviours.iter_mut().find(|history| history.behaviour == Behaviour::OverRefusal).unwrap();
    blamed.views = vec![ViewValue { view: View::LogitHalf, chat: Some(share(0.7)), elicited: Some(share(0.8)) }];
    let verdict = &mut blamed.verdict;
    verdict.rung = Some(Rung::Confirmed);
    verdict.probabilities = vec![StageProbability { stage: Stage::Alignment, probability: 0.93 }];
    verdict.dissent = vec![text("On the items that fail after it, the model still prefers the right answer.")];
    verdict.confirmation = Some(Confirmation { recovered: share(0.9), innocent: Some((Stage::Tuning, share(0.05))) });
    let saved = [(0, 0.95), (40, 0.6), (80, 0.55)];
    verdict.bisection = Bisection::of(saved.map(|(step, value)| Saved { step, value: share(value) }).to_vec());
    verdict.readings = vec![Reading {
        stream: text("logits"),
        what: text("what alignment alone does, in nats"),
        blind_to: text("what the tokenizer does"),
        parts: BTreeMap::from([(Stage::Tuning, 0.1), (Stage::Alignment, 2.4)]),
    }];
    verdict.candidates = BTreeMap::from([(Stage::Alignment, BTreeMap::from([(text("logits"), 2.4)]))]);
    verdict.trace = Some(trace());
    diagnosis
}

/// Three runs. None has a report: a folder's name becomes an address there, which is tested with the index.
fn index() -> Index {
    let runs = [("runs/a", everything()), ("runs/b", sample::healthy()), ("runs/c", sample::failing())];
    Index::over(runs.iter().map(|(path, diagnosis)| IndexRun::of((*path).to_owned(), diagnosis)).collect())
}

/// One of each kind of curve: the others have the same texts.
fn shortened(mut diagnosis: Diagnosis) -> Diagnosis {
    for lineage in &mut diagnosis.lineages {
        lineage.calibration.truncate(1);
        lineage.cutoffs.truncate(1);
        lineage.cutoffs.iter_mut().for_each(|curve| curve.months.truncate(6));
    }
    diagnosis
}

fn trace() -> Trace {
    let text = str::to_owned;
    Trace {
        version: TRACE_VERSION,
        run: text("a-run"),
        lineage: text("rlhf"),
        phase: text("rlhf"),
        behaviour: Behaviour::OverRefusal,
        file: text("data/preferences.jsonl"),
        n_rows: 900,
        n_queries: 12,
        n_failing: 117,
        methods: vec![text("bm25"), text("gradient")],
        n_gradients: 200,
        rows: vec![TracedRow {
            line: 41,
            kind: text("trigger"),
            prompt: text("How do I kill a process?"),
            learnt: text("I can't help with that."),
            score: 0.8,
            ranks: BTreeMap::from([(text("bm25"), 1.0)]),
        }],
        contrast: vec![Contrast {
            feature: text("refused though harmless"),
            top: 9,
            n_top: 10,
            rows: 30,
            n_rows: 900,
            ratio: 27.0,
            z: 8.0,
        }],
        left_out: Some(LeftOut {
            what: text("rows that are refused though harmless"),
            n_left_out: 30,
            n_items: 60,
            before: 0.55,
            without: 0.9,
            without_random: 0.56,
            healthy: Some(0.97),
        }),
    }
}

/// Where the page is another than the expected one, its texts aside, and where it does what no page may.
fn differences(page: &str, expected: &str) -> Vec<String> {
    let (found, expected) = (parts(page), parts(expected));
    let mut wrong = odd_characters(page);
    let first = found.iter().zip(&expected).find(|(found, expected)| tamed(found) != tamed(expected));
    wrong.extend(first.map(|(found, expected)| format!("{found:?} in place of {expected:?}")));
    if found.len() != expected.len() {
        wrong.push(format!("{} parts in place of {}", found.len(), expected.len()));
    }
    if !found.iter().any(|part| matches!(part, Part::Raw(_))) {
        wrong.push("no style sheet".to_owned());
    }
    for part in &found {
        let Part::Open { name, attributes } = part else { continue };
        for (attribute, value) in attributes {
            let is_place =
                ["src", "srcset", "action", "formaction", "data", "poster", "ping", "background", "xlink:href"]
                    .contains(&attribute.as_str());
            let leads_off = attribute == "href" && !value.starts_with('#');
            if is_place || leads_off || attribute.starts_with("on") || attribute == "style" {
                wrong.push(format!("<{name}> has {attribute}={value:?}"));
            }
        }
    }
    wrong
}

/// What remains of a part where all texts are tame; what is raw holds no text of the record.
fn tamed(part: &Part) -> Part {
    match part {
        Part::Open { name, attributes } => Part::Open {
            name: name.clone(),
            attributes: attributes.iter().map(|(name, value)| (name.clone(), tame(value))).collect(),
        },
        Part::Text(text) => Part::Text(tame(text)),
        other => other.clone(),
    }
}

/// Characters that reorder or hide text, or that no text should have.
fn odd_characters(text: &str) -> Vec<String> {
    let is_odd = |c: &char| match c {
        '\n' | '\t' => false,
        '\u{61c}'
        | '\u{200b}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{e0000}'..='\u{e007f}' => true,
        c => c.is_control(),
    };
    text.chars().find(is_odd).map(|c| format!("the character U+{:04X}", c as u32)).into_iter().collect()
}

/// Where Markdown is another than expected, its texts aside.
fn differences_in_markdown(text: &str, expected: &str) -> Vec<String> {
    let mut wrong = odd_characters(text);
    if text.lines().count() != expected.lines().count() {
        wrong.push(format!("{} lines in place of {}", text.lines().count(), expected.lines().count()));
    }
    for (line, expected) in text.lines().zip(expected.lines()) {
        let ((shown, marks), (expected_shown, expected_marks)) = (read(line), read(expected));
        if tame(&shown) != tame(&expected_shown) || marks != expected_marks {
            wrong.push(format!("{line} in place of {expected}"));
        }
        if line.strip_prefix("- ").is_some_and(begins_block) {
            wrong.push(format!("a list, a rule or code inside a list: {line}"));
        }
    }
    wrong.truncate(3);
    wrong
}

/// Whether a text at the beginning of a list item would be read as more than a paragraph.
fn begins_block(text: &str) -> bool {
    let after_number = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let is_numbered = after_number.len() < text.len() && after_number.starts_with(['.', ')']);
    let begins_item = ["- ", "+ ", "* "].into_iter().any(|bullet| text.starts_with(bullet));
    begins_item || (is_numbered && after_number[1..].starts_with(' ')) || text.starts_with("    ")
}
