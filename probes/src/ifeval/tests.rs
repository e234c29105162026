//! Each of the 25 instructions on answers made by hand, what is wrong with items, and the file of results.

use super::*;
use crate::verifiable::Verifiable;

/// Name, arguments, and answers with what the official scorer says of each: strict, loose.
type Case = (&'static str, &'static str, &'static [(&'static str, bool, bool)]);

#[test]
fn each_instruction_is_checked_as_the_official_scorer_does() {
    let cases: &[Case] = &[
        (
            "keywords:existence",
            r#"{"keywords": ["mom", "Mother"]}"#,
            &[("MOM and mother.", true, true), ("mom only", false, false), ("mothermom", true, true)],
        ),
        (
            "keywords:frequency",
            r#"{"keyword": " cat ", "frequency": 2, "relation": "at least"}"#,
            &[("Cat, concatenate.", true, true), ("one cat", false, false)],
        ),
        (
            "keywords:frequency",
            r#"{"keyword": "cat", "frequency": 2, "relation": "less than"}"#,
            &[("Cat, concatenate.", false, false), ("one cat", true, true)],
        ),
        (
            "keywords:forbidden_words",
            r#"{"forbidden_words": ["rock", "a b a"]}"#,
            &[
                ("rocky Rocks", true, true),
                ("Rock!", false, false),
                ("_rock rock²", true, true),
                ("xa b a b a", false, false),
                ("The rock\nIt is fine.", false, true),
            ],
        ),
        (
            "keywords:letter_frequency",
            r#"{"letter": "E", "let_frequency": 3, "let_relation": "at least"}"#,
            &[("Eke, eel", true, true), ("ee", false, false), ("É e E", false, false)],
        ),
        (
            "keywords:letter_frequency",
            r#"{"letter": "e", "let_frequency": 3, "let_relation": "less than"}"#,
            &[("Eke, eel", false, false), ("ee", true, true)],
        ),
        (
            "language:response_language",
            r#"{"language": "de"}"#,
            &[
                ("Das ist ein Satz in deutscher Sprache.", true, true),
                ("This is a sentence in English.", false, false),
                ("12345", true, true),
                ("Sure, here you are, this is the answer you asked for:\nDas ist ein Satz.", false, true),
            ],
        ),
        (
            "length_constraints:number_sentences",
            r#"{"num_sentences": 3, "relation": "at least"}"#,
            &[
                ("Dr. Who left. He came back? No!", true, true),
                ("Dr. Who left at 5 p.m. today.", false, false),
                ("One. Two... three. Four", true, true),
            ],
        ),
        (
            "length_constraints:number_sentences",
            r#"{"num_sentences": 2, "relation": "less than"}"#,
            &[
                ("Only one e.g. this one.", false, false),
                ("One. Two.", false, false),
                ("Title.\nOne here", false, true),
            ],
        ),
        (
            "length_constraints:number_paragraphs",
            r#"{"num_paragraphs": 2}"#,
            &[
                ("a\n***\nb", true, true),
                ("a *** b ***", true, true),
                ("a\n***\n\n***\nb", false, false),
                ("a\n\nb", false, false),
                ("*** a\n***\nb", true, true),
            ],
        ),
        (
            "length_constraints:number_words",
            r#"{"num_words": 4, "relation": "at least"}"#,
            &[("It's 3.5", true, true), ("one two three", false, false), ("a-b c_d e f", true, true)],
        ),
        (
            "length_constraints:number_words",
            r#"{"num_words": 4, "relation": "less than"}"#,
            &[("one two three", true, true), ("one two three four", false, false)],
        ),
        (
            "length_constraints:nth_paragraph_first_word",
            r#"{"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Summary"}"#,
            &[
                ("a\n\n\"Summary, b", true, true),
                ("a\n\nsummary's b", true, true),
                ("a\n\n\n\nsummary b", false, false),
                ("a\n\nThe summary", false, false),
                ("summary\n\nsummary\n\nc", false, true),
                ("Intro\na\n\nsummary", true, true),
            ],
        ),
        (
            "detectable_content:number_placeholders",
            r#"{"num_placeholders": 2}"#,
            &[("[a] [b c]", true, true), ("[a [b]", false, false), ("[a\nb] [c] []", true, true)],
        ),
        (
            "detectable_content:postscript",
            r#"{"postscript_marker": "P.P.S"}"#,
            &[("x p. P.s y", true, true), ("P.S. y", false, false), ("pps", false, false)],
        ),
        (
            "detectable_content:postscript",
            r#"{"postscript_marker": "P.S."}"#,
            &[("x p. S. y", true, true), ("P.P.S y", false, false), ("P.S y", false, false)],
        ),
        (
            "detectable_format:number_bullet_lists",
            r#"{"num_bullets": 2}"#,
            &[
                ("* a\n- b", true, true),
                ("* a\n** b\n*\n- c", false, true),
                ("*a\n\n  * b", true, true),
                ("x\n- a\n- b\n- c", false, true),
                ("---\n* a", true, true),
            ],
        ),
        (
            "detectable_format:constrained_response",
            "{}",
            &[
                ("I say: My answer is no.", true, true),
                ("my answer is no.", false, false),
                ("My *answer* is yes.", false, true),
            ],
        ),
        (
            "detectable_format:number_highlighted_sections",
            r#"{"num_highlights": 2}"#,
            &[
                ("*a* and *b*", true, true),
                ("**a**", false, false),
                ("* * *a*", false, false),
                ("*a\nb* **", false, false),
                ("**a** *b*", true, true),
            ],
        ),
        (
            "detectable_format:multiple_sections",
            r#"{"section_spliter": "Section", "num_sections": 2}"#,
            &[
                ("Section 1 a\nSection 2 b", true, true),
                ("SECTION 1 SECTION 2", false, false),
                ("Section1Section 2", true, true),
                ("Section one", false, false),
            ],
        ),
        (
            "detectable_format:json_format",
            "{}",
            &[
                ("```json\n{\"a\": [1, NaN]}\n```", true, true),
                ("{\"a\": 1,}", false, false),
                ("Here it is:\n{\"a\": 1}", false, true),
                ("```JSON [1]", true, true),
            ],
        ),
        (
            "detectable_format:title",
            "{}",
            &[
                ("<<Joy>>\nIt is.", true, true),
                ("<< >>", false, false),
                ("<<Joy>", false, false),
                ("a <<b>> <<c>>", true, true),
                ("<<a\nb>>", false, false),
            ],
        ),
        (
            "combination:two_responses",
            "{}",
            &[
                ("a\n******\nb", true, true),
                ("a ****** a", false, false),
                ("a", false, false),
                ("******a******b******", true, true),
                ("a******b******c", false, false),
            ],
        ),
        (
            "combination:repeat_prompt",
            r#"{"prompt_to_repeat": "Say Hi. "}"#,
            &[("say hi. Hi!", true, true), ("Sure: Say hi.", false, false), ("Sure:\n\nSAY HI. Hi.", false, true)],
        ),
        (
            "startend:end_checker",
            r#"{"end_phrase": "Any questions? "}"#,
            &[
                ("I see. any Questions?\" ", true, true),
                ("Any questions?\nBye", false, true),
                ("Any questions", false, false),
            ],
        ),
        (
            "startend:quotation",
            "{}",
            &[
                (" \"a\" ", true, true),
                ("\"", false, false),
                ("“a”", false, false),
                ("\"a\"\nb", false, true),
                ("*\"a\"*", false, true),
            ],
        ),
        (
            "change_case:capital_word_frequency",
            r#"{"capital_frequency": 3, "capital_relation": "at least"}"#,
            &[
                ("I CANNOT", true, true),
                ("NASA and the U.S. are A-B", true, true),
                ("I see", false, false),
                ("WE'LL GO", true, true),
            ],
        ),
        (
            "change_case:capital_word_frequency",
            r#"{"capital_frequency": 3, "capital_relation": "less than"}"#,
            &[("I CANNOT", false, false), ("I see", true, true)],
        ),
        (
            "change_case:english_capital",
            "{}",
            &[
                ("THE ANSWER IS THAT THE WORLD IS ROUND", true, true),
                ("The answer is that the world is round", false, false),
                ("DIE ANTWORT LAUTET, DASS DIE WELT RUND IST UND WIR DAS WISSEN", false, false),
                ("ÆØ 1", true, true),
                ("123", false, false),
            ],
        ),
        (
            "change_case:english_lowercase",
            "{}",
            &[
                ("the answer is that the world is round", true, true),
                ("The answer is that it is", false, false),
                ("Sure!\nthe answer is that the world is round", false, true),
                ("die antwort lautet, dass die welt rund ist", false, false),
            ],
        ),
        (
            "punctuation:no_comma",
            "{}",
            &[
                ("a b", true, true),
                ("a, b", false, false),
                ("a，b", true, true),
                ("Well, here:\na b", false, true),
                (" \n", false, false),
            ],
        ),
    ];
    let mut names = std::collections::BTreeSet::new();
    for (name, arguments, answers) in cases {
        names.insert(*name);
        let instruction = Instruction::parse(name, &serde_json::from_str(arguments).unwrap()).unwrap();
        for (answer, strict, loose) in *answers {
            let got = (instruction.is_followed(answer), instruction.is_followed_loosely(answer));
            assert_eq!(got, (*strict, *loose), "{name} {arguments}: {answer:?}");
        }
    }
    assert_eq!(names.len(), 25);
}

#[test]
fn a_character_that_is_no_letter_is_counted_as_it_is() {
    let arguments = r##"{"letter": "#", "let_frequency": 2, "let_relation": "at least"}"##;
    let hashes = Instruction::parse("keywords:letter_frequency", &serde_json::from_str(arguments).unwrap()).unwrap();
    assert!(hashes.is_followed("# a #") && !hashes.is_followed("# a"));
}

const COMMA: &str = r#"{"key": 1, "prompt": "Why?", "instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "kwargs": [{}, {}]}"#;
const WORDS: &str = r#"{"key": 2, "prompt": "How?", "instruction_id_list": ["length_constraints:number_words"], "kwargs": [{"num_words": 2, "relation": "less than"}]}"#;

fn write(folder: &Path, name: &str, lines: &[&str]) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, lines.join("\n")).unwrap();
    path
}

#[test]
fn each_item_has_a_line_of_results_and_shares_have_intervals() {
    let folder = tempfile::tempdir().unwrap();
    let third = COMMA.replace("\"key\": 1", "\"key\": \"c\"").replace("Why?", "Who?");
    let items = write(folder.path(), "items.jsonl", &[COMMA, WORDS, &third]);
    let answers = [r#"{"prompt": "How?", "response": null}"#, r#"{"key": 1, "response": "Well:\n\"So, so\""}"#];
    let responses = write(folder.path(), "responses.jsonl", &answers);
    let scored = IfEval.score(&items, &responses).unwrap();
    let lines: Vec<String> = scored.lines.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            r#"{"key":1,"instruction_id_list":["punctuation:no_comma","startend:quotation"],"strict":[false,false],"loose":[true,true]}"#,
            r#"{"key":2,"instruction_id_list":["length_constraints:number_words"],"strict":[false],"loose":[false]}"#,
            r#"{"key":"c","instruction_id_list":["punctuation:no_comma","startend:quotation"],"strict":null,"loose":null,"unscored":"no response"}"#,
        ]
    );
    assert_eq!(scored.notes, ["1 item without a response: c"]);
    let figures: Vec<(&str, f64, usize)> =
        scored.figures.iter().map(|figure| (figure.name.as_str(), figure.value, figure.n)).collect();
    assert_eq!(
        figures,
        [
            ("prompts followed in full, strict", 0.0, 2),
            ("prompts followed in full, loose", 0.5, 2),
            ("instructions followed, strict", 0.0, 3),
            ("instructions followed, loose", 2.0 / 3.0, 3),
        ]
    );
    assert!(scored.figures.iter().all(|figure| figure.low <= figure.value && figure.value <= figure.high));
}

#[test]
fn items_that_are_none_are_named_with_file_line_and_key() {
    let folder = tempfile::tempdir().unwrap();
    let message = |line: &str| {
        let error = load(&write(folder.path(), "items.jsonl", &[COMMA, line])).unwrap_err().to_string();
        error.rsplit("items.jsonl").next().unwrap_or_default().to_owned()
    };
    assert_eq!(message(COMMA), ":2: `id`: `1` is already the name of the item at line 1");
    let text = message(&WORDS.replace("less than", "at most"));
    assert!(text.starts_with(":2:") && text.contains("unknown variant `at most`"), "{text}");
    let text = message(&WORDS.replace("num_words", "num_word"));
    assert!(text.contains("unknown field `num_word`"), "{text}");
    let text = message(&WORDS.replace("number_words", "number_of_words"));
    assert!(
        text.starts_with(":2: item `2`: `instruction_id_list` has \"length_constraints:number_of_words\""),
        "{text}"
    );
    assert_eq!(
        message(&COMMA.replace("[{}, {}]", "[{}]").replace(": 1,", ": 3,")),
        ":2: item `3`: `kwargs` has 1 entries for 2 instructions"
    );
    assert!(message(&WORDS.replace("\"key\": 2", "\"key\": []")).contains("`key` is [], which is no text or number"));
}
