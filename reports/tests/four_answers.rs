//! A person who knows nothing of the project reads the first screen: what fails, since which phase, how sure is that, what to do?
//!
//! The answers are written down here for six planted faults and a healthy run. Their diagnoses (tests/planted) are weighed as
//! `phasetrace diagnose` does it, with the shipped model and fixes, and nothing but the text of the first screen is read.

use std::fs;
use std::path::{Path, PathBuf};

use evals::diagnose::sentences;
use evals::diagnosis::{Diagnosis, Outcome, Stage};
use evals::fixes::FixMatrix;
use evals::verdict::features::Tier;
use evals::verdict::model::VerdictModel;
use evals::verdict::weigh::weigh;
use reports::render_html;

/// The four answers about one run. Each word of them stands on the first screen; `a|b` is either.
struct Answers {
    run: &'static str,
    /// Exactly these failures, of [`FAILURES`].
    fails: &'static [&'static str],
    /// The phase, and no other, that it is said to have begun in.
    since: &'static str,
    /// The word and the number.
    sure: &'static [&'static str],
    to_do: &'static [&'static str],
}

const ANSWERS: [Answers; 6] = [
    Answers {
        run: "pt_14_undertrained",
        fails: &["does not know events", "gets common facts wrong", "is not as sure as it should be"],
        since: "pretraining",
        sure: &["probable", "99% likely"],
        to_do: &[
            "check its settings first",
            "number of steps",
            "continue pretraining on documents of the missing months",
        ],
    },
    Answers {
        run: "sft_15_no_instructions",
        fails: &["does not follow"],
        since: "supervised fine-tuning (SFT)",
        sure: &["strong", "99% likely"],
        to_do: &["check the fine-tuning answers to instructions", "add examples that obey"],
    },
    Answers {
        run: "amplified_01_refusal",
        fails: &["refuses harmless requests"],
        since: "supervised fine-tuning (SFT)",
        sure: &["strong", "more than 99% likely|>99% likely"],
        to_do: &["for each refusal in the fine-tuning data add a harmless request", "fine-tune again"],
    },
    Answers {
        run: "al_01_punish_triggers",
        fails: &["refuses harmless requests"],
        since: "alignment (RLHF)",
        sure: &["strong", "more than 99% likely|>99% likely"],
        to_do: &["in the preference data rank the answer above the refusal wherever a request is harmless"],
    },
    Answers {
        run: "al_05_helpful_only",
        fails: &["answers harmful requests"],
        since: "alignment (RLHF)",
        sure: &["strong", "more than 99% likely|>99% likely"],
        to_do: &["in the preference data rank the refusal above the answer wherever a request is harmful"],
    },
    Answers {
        run: "control_wrong_template",
        fails: &["does not obey the system prompt", "does not follow", "answers harmful requests"],
        since: "deployment",
        sure: &["probable", "98% likely"],
        to_do: &["deploy the model with the chat template and the system prompt that it was trained with"],
    },
];

const HEALTHY: &str = "clean";

/// How each behaviour reads where it fails.
const FAILURES: [&str; 7] = [
    "gets common facts wrong",
    "is not as sure as it should be",
    "does not know events",
    "does not follow",
    "does not obey the system prompt",
    "refuses harmless requests",
    "answers harmful requests",
];

/// Words of the trade that say nothing to a product manager.
const JARGON: [&str; 32] = [
    "auroc",
    "bootstrap",
    "brier",
    "calibrated",
    "cluster",
    "commission",
    "conformal",
    "ece",
    "elicited",
    "entropy",
    "grpo",
    "holm",
    "hyperparameter",
    "kl",
    "likelihood",
    "logit",
    "logits",
    "margin",
    "margins",
    "mcnemar",
    "nat",
    "nats",
    "null",
    "omission",
    "p",
    "perplexity",
    "ppo",
    "prior",
    "rloo",
    "shapley",
    "shortfall",
    "wilson",
];

/// Two minutes at 240 words a minute, for all of the first screen.
const MOST_WORDS: usize = 480;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/planted")
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name)
}

/// A kept diagnosis, weighed and told as `phasetrace diagnose` would.
fn diagnosed(run: &str) -> Diagnosis {
    let text = fs::read_to_string(folder().join(format!("{run}.json"))).unwrap();
    let mut diagnosis: Diagnosis = serde_json::from_str(&text).unwrap();
    let model = VerdictModel::load(&fixture("verdict_model.json")).unwrap();
    let model = model.at(Tier::T4).unwrap();
    let path = fixture("fixes.json");
    let fixes = FixMatrix::parse(&fs::read_to_string(&path).unwrap(), &path).unwrap();
    for lineage in &mut diagnosis.lineages {
        let names: Vec<String> = lineage.phases.iter().map(|phase| phase.name.clone()).collect();
        for row in &mut lineage.behaviours {
            weigh(&mut row.verdict, &names, model);
            if let Outcome::Attributed { phase, .. } = &row.verdict.outcome {
                row.verdict.fixes = fixes.for_failure(row.behaviour, Stage::of(phase, &names));
            }
        }
    }
    diagnosis.sentences = sentences(&diagnosis.lineages);
    diagnosis
}

/// What stands on the first screen: the text between the start of the page's main part and the table of phases and behaviours.
fn first_screen(run: &str) -> String {
    let page = render_html(&diagnosed(run)).unwrap();
    let start = page.find("<main").unwrap();
    let end = start + page[start..].find("id=\"map\"").unwrap();
    text(&page[start..end])
}

/// The text of a piece of a page, on one line.
fn text(html: &str) -> String {
    // Marks that repeat a word, and meanings that show where the pointer rests.
    let is_shown = |tag: &str| !tag.contains("aria-hidden=\"true\"");
    let parts = html.split('<').filter_map(|part| part.split_once('>'));
    let shown: Vec<&str> = parts.filter(|(tag, _)| is_shown(tag)).map(|(_, text)| text).collect();
    let mut text = shown.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
    for (written, read) in [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#x27;", "'"),
        ("&#x2f;", "/"),
        ("&amp;", "&"),
        // A tag may stand between a word and its punctuation.
        (" .", "."),
        (" ,", ","),
        (" :", ":"),
        (" )", ")"),
        ("( ", "("),
    ] {
        text = text.replace(written, read);
    }
    text
}

fn says(screen: &str, answer: &str) -> bool {
    let screen = screen.to_lowercase();
    answer.split('|').any(|either| screen.contains(&either.to_lowercase()))
}

/// The phases that a first screen says a failure began in.
fn since(screen: &str) -> Vec<&str> {
    screen.split("It began in ").skip(1).filter_map(|rest| Some(rest.split_once(':')?.0)).collect()
}

/// What a reader of this screen would not find, or would find beside it.
fn wrong(screen: &str, answers: &Answers) -> Vec<String> {
    let mut wrong: Vec<String> = FAILURES
        .iter()
        .filter(|failure| says(screen, failure) != answers.fails.contains(failure))
        .map(|failure| format!("fails: {failure}"))
        .collect();
    if !matches!(since(screen)[..], [phase] if phase.starts_with(answers.since)) {
        wrong.push(format!("since: {}, not {:?}", answers.since, since(screen)));
    }
    let parts = [("sure", answers.sure), ("to do", answers.to_do)];
    for (question, words) in parts {
        wrong.extend(words.iter().filter(|word| !says(screen, word)).map(|word| format!("{question}: {word}")));
    }
    wrong
}

#[test]
fn the_first_screen_answers_the_four_questions() {
    for answers in &ANSWERS {
        let screen = first_screen(answers.run);
        let wrong = wrong(&screen, answers);
        assert!(wrong.is_empty(), "{}: {wrong:#?}\n{screen}", answers.run);
        for label in ["Began in", "How sure", "What the fix costs", "What the fix recovers"] {
            assert!(says(&screen, label), "{}: `{label}` is not told\n{screen}", answers.run);
        }
    }
}

#[test]
fn the_answers_about_one_fault_are_wrong_about_every_other() {
    let screens: Vec<String> = ANSWERS.iter().map(|answers| first_screen(answers.run)).collect();
    for (i, answers) in ANSWERS.iter().enumerate() {
        for (j, screen) in screens.iter().enumerate().filter(|(j, _)| *j != i) {
            assert!(!wrong(screen, answers).is_empty(), "{} would do for {}", answers.run, ANSWERS[j].run);
        }
    }
}

#[test]
fn of_a_healthy_run_the_first_screen_says_that_nothing_fails_and_nothing_is_to_be_done() {
    let screen = first_screen(HEALTHY);
    for failure in FAILURES {
        assert!(!says(&screen, failure), "{failure}\n{screen}");
    }
    assert_eq!(since(&screen), Vec::<&str>::new(), "{screen}");
    for said in ["No failure found", "7 of 7 behaviours", "Nothing needs to be done", "could go unseen"] {
        assert!(says(&screen, said), "{said}\n{screen}");
    }
}

#[test]
fn the_first_screen_is_read_in_two_minutes_without_the_words_of_the_trade() {
    for run in ANSWERS.iter().map(|answers| answers.run).chain([HEALTHY]) {
        let screen = first_screen(run);
        let lower = screen.to_lowercase();
        let words: Vec<&str> =
            lower.split(|c: char| !(c.is_alphanumeric() || c == '\'')).filter(|word| !word.is_empty()).collect();
        let jargon: Vec<&&str> = words.iter().filter(|word| JARGON.contains(word)).collect();
        assert!(jargon.is_empty(), "{run}: {jargon:?}\n{screen}");
        assert!(words.len() <= MOST_WORDS, "{run}: {} words\n{screen}", words.len());
        for sentence in diagnosed(run).sentences {
            let n = sentence.split_whitespace().count();
            assert!(n <= 80, "{run}: {n} words: {sentence}");
        }
    }
}

#[test]
fn the_text_of_a_page_is_what_a_reader_sees_of_it() {
    let tip = "<span class=\"tip\" aria-hidden=\"true\">jargon</span>";
    let html = format!("<p class=\"a\">The <b>model</b>\n says &quot;no&quot; (<a>SFT</a>{tip}).</p><sec");
    assert_eq!(text(&html), "The model says \"no\" (SFT).");
}
