//! From the records of somebody's file to documents, conversations, comparisons, prompts or principles.

use crate::error::{Error, Result};
use crate::records::{Record, Row};
use crate::shapes::{Shape, Shaped, find_shape};
use crate::turns::shorten;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// What is done about a line that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadLines {
    /// It ends the import.
    Refuse,
    /// It is left out and listed.
    Skip,
}

/// What a file gave.
#[derive(Debug, Clone)]
pub struct Imported<T> {
    /// The items, in the order of the file.
    pub items: Vec<T>,
    /// For each item the line it begins on (in a Parquet file its row), from 1.
    pub lines: Vec<usize>,
    /// The shape of all rows.
    pub shape: &'static str,
    /// What was left out, in the order of the file.
    pub skipped: Vec<Skipped>,
}

/// A line that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The file.
    pub file: String,
    /// The line (in a Parquet file the row), from 1.
    pub line: usize,
    /// Why.
    pub reason: String,
}

/// Columns that name a row of their own, so that one value in two rows is an error of the file. `prompt_id` and the like are none of
/// them: they name what several rows share.
const IDS: [&str; 3] = ["id", "uuid", "conversation_id"];

/// Makes items of records that were read from `path`. The shape is that of the first row that has one; all others must have it too.
///
/// # Errors
/// [`Error::DataLine`] for the first line that does not fit, or, where these are skipped, if no line is left; [`Error::NoData`]
/// where there is no line at all; otherwise where the records cannot be read.
pub fn import<T: Shaped>(
    path: &Path,
    records: impl IntoIterator<Item = Result<Record>>,
    bad_lines: BadLines,
) -> Result<Imported<T>> {
    let mut imported = Imported { items: Vec::new(), lines: Vec::new(), shape: "", skipped: Vec::new() };
    let mut importer = Importer { shape: None, ids: BTreeMap::new() };
    for record in records {
        let Record { line, row } = record?;
        match row.and_then(|row| importer.convert(line, &row)) {
            Ok(item) => {
                imported.items.push(item);
                imported.lines.push(line);
            }
            Err(reason) if bad_lines == BadLines::Skip => {
                imported.skipped.push(Skipped { file: path.display().to_string(), line, reason });
            }
            Err(message) => return Err(Error::DataLine { path: path.to_path_buf(), line, message }),
        }
    }
    match (importer.shape, imported.skipped.first()) {
        (Some(shape), _) => Ok(Imported { shape: shape.name, ..imported }),
        (None, None) => Err(Error::NoData { path: path.to_path_buf(), what: T::WHAT }),
        (None, Some(Skipped { line, reason, .. })) => {
            let message = format!("{reason}; and no other line holds {} either", T::WHAT);
            Err(Error::DataLine { path: path.to_path_buf(), line: *line, message })
        }
    }
}

struct Importer<T: 'static> {
    shape: Option<&'static Shape<T>>,
    /// The line of each id, by column and value.
    ids: BTreeMap<(&'static str, String), usize>,
}

impl<T: Shaped> Importer<T> {
    fn convert(&mut self, line: usize, row: &Row) -> Result<T, String> {
        let shape = self.shape.map_or_else(|| find_shape(row), Ok)?;
        let item = shape.convert(row)?;
        item.check()?;
        let ids: Vec<(&str, String)> = IDS.into_iter().filter_map(|key| Some((key, id(row.get(key)?)?))).collect();
        for id in &ids {
            if let Some(earlier) = self.ids.get(id) {
                let (key, value) = id;
                return Err(format!("key `{key}`: `{}` is the one of line {earlier} too", shorten(value)));
            }
        }
        self.ids.extend(ids.into_iter().map(|id| (id, line)));
        self.shape = Some(shape);
        Ok(item)
    }
}

/// What names a row: text or a number.
fn id(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{BadLines, Imported, import};
    use crate::constitution::{Constitution, Principle};
    use crate::data::{Comparison, Conversation, Document, Prompt, to_lines};
    use crate::records::Records;
    use crate::shapes::{Shaped, find_shape};
    use lm::chat::{Message, Role};
    use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
    use serde_json::Value;
    use std::path::{Path, PathBuf};

    fn shapes(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/shapes").join(name)
    }

    fn read<T: Shaped>(path: &Path, bad_lines: BadLines) -> Result<Imported<T>, String> {
        let shorten = |error: crate::Error| error.to_string().replace(&path.display().to_string(), "FILE");
        import(path, Records::open(path).map_err(shorten)?, bad_lines).map_err(shorten)
    }

    /// What comes of the bytes of a file.
    fn read_bytes<T: Shaped>(bytes: &[u8], bad_lines: BadLines) -> Result<Imported<T>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.jsonl");
        std::fs::write(&path, bytes).unwrap();
        read(&path, bad_lines)
    }

    fn fault<T: Shaped>(text: &str) -> String {
        read_bytes::<T>(text.as_bytes(), BadLines::Refuse).map(|_| ()).unwrap_err()
    }

    fn show(turns: &[Message]) -> String {
        let show = |turn: &Message| format!("{}: {}", format!("{:?}", turn.role).to_lowercase(), turn.content);
        turns.iter().map(show).collect::<Vec<_>>().join(" | ")
    }

    /// Shape and content of one of the files in `tests/data/shapes`.
    fn show_file<T: Shaped>(name: &str, show: impl Fn(&T) -> String) -> String {
        let imported: Imported<T> = read(&shapes(name), BadLines::Refuse).unwrap();
        let items: Vec<String> = imported.items.iter().map(show).collect();
        format!("{}\n{}", imported.shape, items.join("\n"))
    }

    #[test]
    fn conversations_are_read_in_every_shape() {
        let show = |name| show_file::<Conversation>(name, |conversation| show(&conversation.messages));
        for (name, expected) in [
            (
                "alpaca.json",
                "Alpaca\nuser: Name three colours. | assistant: Red, green and blue.\n\
                 user: Say whether the number is even.\n\n4 | assistant: It is even.\n\
                 system: You are brief. | user: Name a colour. | assistant: Red. | user: Ask again. | assistant: Name three colours.",
            ),
            (
                "dolly.jsonl",
                "Dolly\nuser: Which is a species of fish? Tope or Rope | assistant: Tope\n\
                 user: When did it open?\n\nThe hall opened in 1912 and closed in 1940. | assistant: In 1912.",
            ),
            (
                "sharegpt.json",
                "ShareGPT\nuser: Who are you? | assistant: A small model.\n\
                 system: Answer in one word. | user: Have you a name? | assistant: No. | user: Sure? | assistant: Yes.",
            ),
            (
                "messages.jsonl",
                "messages\nuser: How do I boil an egg? | assistant: Eight minutes in boiling water.\n\
                 system: Be terse. | user: And a soft one? | assistant: Five.",
            ),
            (
                "prompt_completion.jsonl",
                "prompt and completion\nuser: The sky is | assistant: blue.\nuser: Grass is | assistant: green.",
            ),
            (
                "prompt_completion_messages.jsonl",
                "prompt and completion as messages\nuser: What colour is the sky? | assistant: It is blue.",
            ),
        ] {
            assert_eq!(show(name), expected, "{name}");
        }
    }

    #[test]
    fn preferences_are_read_in_every_shape() {
        let show = |name| show_file::<Comparison>(name, |c| format!("{} > {}", show(&c.prompt), c.ranked.join(" > ")));
        let sky = "user: What colour is the sky? > Blue. > Green.";
        for (name, expected) in [
            (
                "explicit_prompt.jsonl",
                format!(
                    "explicit prompt\n{sky}\nuser: Hello. | assistant: Hi. | user: And the sun? > Yellow. > Black."
                ),
            ),
            (
                "explicit_prompt_messages.jsonl",
                format!("explicit prompt as messages\nsystem: Be brief. | {sky}"),
            ),
            ("implicit_prompt_messages.jsonl", format!("implicit prompt as messages\n{sky}")),
            (
                "hh.jsonl",
                "HH-RLHF\nuser: what is a pen for? | assistant: For writing. | user: only that? > And for drawing. > I cannot say."
                    .to_owned(),
            ),
            ("sharegpt_pair.json", format!("ShareGPT pair\n{sky}")),
            ("alpaca_pair.json", "Alpaca pair\nuser: Name the colour.\n\nsky > Blue. > Green.".to_owned()),
            (
                "orca.jsonl",
                format!(
                    "question pair\n{sky}\nsystem: You are an AI assistant. | user: What colour is grass? > Green. > Blue."
                ),
            ),
        ] {
            assert_eq!(show(name), expected, "{name}");
        }
        // Answers that are whole conversations, and answers alone to a prompt that is text.
        for row in [
            r#"{"prompt":[{"role":"user","content":"a"}],"chosen":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"rejected":[{"role":"user","content":"a"},{"role":"assistant","content":"c"}]}"#,
            r#"{"prompt":"a","chosen":[{"role":"assistant","content":"b"}],"rejected":[{"role":"assistant","content":"c"}]}"#,
            r#"{"prompt":"\n\nHuman: a","chosen":"\n\nHuman: a\n\nAssistant: b","rejected":"\n\nHuman: a\n\nAssistant: c"}"#,
        ] {
            let found: Imported<Comparison> = read_bytes(row.as_bytes(), BadLines::Refuse).unwrap();
            let Comparison { prompt, ranked, .. } = &found.items[0];
            assert_eq!(
                (super::tests::show(prompt).as_str(), ranked.join(" > ").as_str()),
                ("user: a", "b > c"),
                "{row}"
            );
        }
    }

    #[test]
    fn rankings_leave_out_ties_and_what_was_not_rated() {
        let found: Imported<Comparison> = read(&shapes("ultrafeedback.jsonl"), BadLines::Skip).unwrap();
        let ranked: Vec<String> = found.items.iter().map(|comparison| comparison.ranked.join(" > ")).collect();
        assert_eq!((found.shape, &found.lines[..]), ("UltraFeedback", &[1, 2][..]));
        assert_eq!(ranked, ["Apple. > Tomato, perhaps. > Stone.", "Iron. > Wood."]);
        assert_eq!(found.skipped.len(), 1);
        assert_eq!(found.skipped[0].line, 3);
        assert_eq!(found.skipped[0].reason, "of 2 completions no two are rated differently");
        let refused = read::<Comparison>(&shapes("ultrafeedback.jsonl"), BadLines::Refuse).map(|_| ()).unwrap_err();
        assert_eq!(refused, "FILE:3: of 2 completions no two are rated differently");
    }

    #[test]
    fn prompts_documents_and_principles_are_read_in_every_shape() {
        let show_prompt = |name| show_file::<Prompt>(name, |p| format!("{}{}{:?}", show(&p.prompt), p.kind, p.right));
        assert_eq!(
            show_prompt("prompts.jsonl"),
            "prompt\nuser: Name a colour.[]\nuser: Hello. | assistant: Hi. | user: Name a bird.benign[]"
        );
        assert_eq!(show_prompt("prompts_messages.jsonl"), "prompt as messages\nuser: Name a colour.[\"Red.\"]");
        let found =
            fault::<Prompt>(r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#);
        assert_eq!(found, "FILE:1: key `prompt` must end with a turn of the user");
        let row = r#"{"instruction":"a","input":"b","output":"c"}"#;
        let found: Imported<Prompt> = read_bytes(row.as_bytes(), BadLines::Refuse).unwrap();
        assert_eq!(show(&found.items[0].prompt), "user: a\n\nb");

        let documents =
            |name| show_file::<Document>(name, |document| format!("{} [{}]", document.text, document.source));
        assert_eq!(documents("corpus.jsonl"), "text\nThe sky is blue. []\nGrass is green. [hand]");
        assert_eq!(documents("corpus.txt"), "text\nThe sky is blue.\n\nGrass is green. []\nSnow is white. []");
        assert_eq!(documents("content.jsonl"), "content\nThe sky is blue. []");

        let principles = |name| {
            let found: Imported<Principle> = read(&shapes(name), BadLines::Refuse).unwrap();
            let text = Constitution::to_toml(&found.items);
            assert_eq!(Constitution::parse(Path::new("c.toml"), &text).unwrap().principles, found.items);
            found.items.iter().map(|p| format!("{}: {} {}", p.name, p.revision, p.preference)).collect::<Vec<_>>()
        };
        assert_eq!(
            principles("principles.json"),
            [
                "kind: Write a kind answer. Which answer already does this: Write a kind answer.",
                "Is it false?: Write what is true. Which answer already does this: Write what is true."
            ]
        );
        assert_eq!(principles("own_principles.jsonl"), ["kind: Be kind. Which is kinder?"]);
        assert_eq!(principles("critic.jsonl").len(), 1);
    }

    #[test]
    fn the_own_shape_is_taken_as_it_is() {
        let said = |role, content: &str| Message { role, content: content.to_owned() };
        let turns = vec![
            said(Role::User, " a "),
            said(Role::Assistant, "b"),
            said(Role::User, "c"),
            said(Role::Assistant, "d"),
        ];
        let conversations = to_lines(&[Conversation { messages: turns.clone(), given: 2, kind: "qa".to_owned() }]);
        let ranked = ["x", "y", "z"].map(str::to_owned).to_vec();
        let comparisons = to_lines(&[Comparison { prompt: turns[..3].to_vec(), ranked, kind: "qa".to_owned() }]);
        let prompts =
            to_lines(&[Prompt { prompt: turns[..1].to_vec(), kind: "qa".to_owned(), right: vec!["b".to_owned()] }]);
        let again =
            |text: &str| read_bytes::<Conversation>(text.as_bytes(), BadLines::Refuse).map(|i| to_lines(&i.items));
        assert_eq!(again(&conversations).unwrap(), conversations);
        let found: Imported<Comparison> = read_bytes(comparisons.as_bytes(), BadLines::Refuse).unwrap();
        assert_eq!(to_lines(&found.items), comparisons);
        let found: Imported<Prompt> = read_bytes(prompts.as_bytes(), BadLines::Refuse).unwrap();
        assert_eq!(to_lines(&found.items), prompts);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_line_and_reason() {
        let good = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#;
        let conversation = |turns: &str| fault::<Conversation>(&format!("{good}\n{{\"messages\":{turns}}}"));
        for (turns, reason) in [
            ("3", "key `messages`: expected a list, found a number"),
            ("[]", "the last turn is not the assistant's, so nothing to learn"),
            ("[7]", "key `messages`, turn 1: expected an object, found a number"),
            (
                r#"[{"role":"user","content":["a"]}]"#,
                "key `messages`, turn 1: key `content`: expected text, found a list",
            ),
            (r#"[{"role":"user","content":" "}]"#, "key `messages`, turn 1: key `content` is empty"),
            (
                r#"[{"role":"tool","content":"a"}]"#,
                "key `messages`, turn 1: key `role`: `tool` is not system, user or assistant",
            ),
            (r#"[{"role":"user","content":"a"}]"#, "the last turn is not the assistant's, so nothing to learn"),
            (r#"[{"role":"assistant","content":"a"}]"#, "turn 1 is the assistant's, expected the user's"),
            (
                r#"[{"role":"user","content":"a\u0000"}]"#,
                "key `messages`, turn 1: key `content`: holds a NUL character",
            ),
        ] {
            assert_eq!(conversation(turns), format!("FILE:2: {reason}"));
        }
        let mark = conversation(r#"[{"role":"user","content":"a<|assistant|>b"}]"#);
        assert!(mark.contains("holds `<|assistant|>`"), "{mark}");
        let other = fault::<Conversation>(&format!("{good}\n{{\"text\":\"a\"}}"));
        assert_eq!(other, "FILE:2: has no key `messages`, which the shape messages (messages) has");
        let none = fault::<Conversation>(r#"{"txt":"a"}"#);
        assert!(
            none.starts_with("FILE:1: has the keys `txt`, which is no shape of conversations: messages (messages); "),
            "{none}"
        );

        let pair = |chosen: &str, rejected: &str| {
            fault::<Comparison>(&format!("{{\"prompt\":\"a\",\"chosen\":{chosen},\"rejected\":{rejected}}}"))
        };
        assert_eq!(pair("3", "\"b\""), "FILE:1: key `chosen`: expected text, found a number");
        assert_eq!(pair("\"b\"", "\"b \""), "FILE:1: two answers are alike, so neither is better");
        assert_eq!(pair("\"b\"", "\"\""), "FILE:1: key `rejected` is empty");
        let parted = r#"{"chosen":"\n\nHuman: a\n\nAssistant: b","rejected":"\n\nHuman: c\n\nAssistant: d"}"#;
        assert!(fault::<Comparison>(parted).contains("differ before their last turn"));
        let many: Vec<String> = (0..17).map(|i| format!("\"{i}\"")).collect();
        let many = format!("{{\"prompt\":[{{\"role\":\"user\",\"content\":\"a\"}}],\"ranked\":[{}]}}", many.join(","));
        assert_eq!(fault::<Comparison>(&many), "FILE:1: has 17 answers, expected 2 to 16");
    }

    #[test]
    fn an_id_names_one_row_and_a_prompt_id_may_name_several() {
        let row = |id: &str| format!("{{\"prompt\":\"a\",\"completion\":\"b\",{id}}}\n");
        let twice = row("\"id\":7") + "\n" + &row("\"id\":8") + &row("\"id\":7");
        assert_eq!(fault::<Conversation>(&twice), "FILE:4: key `id`: `7` is the one of line 1 too");
        let found: Imported<Conversation> = read_bytes(twice.as_bytes(), BadLines::Skip).unwrap();
        assert_eq!((found.lines, found.skipped.len()), (vec![1, 3], 1));
        let shared = row("\"prompt_id\":7") + &row("\"prompt_id\":7") + &row("\"id\":null") + &row("\"id\":null");
        assert_eq!(read_bytes::<Conversation>(shared.as_bytes(), BadLines::Refuse).unwrap().items.len(), 4);
    }

    #[test]
    fn a_file_without_a_good_line_is_refused_even_if_bad_ones_are_skipped() {
        let refused = read_bytes::<Document>(b"3\n\xFF\n", BadLines::Skip).map(|_| ()).unwrap_err();
        assert_eq!(refused, "FILE:1: expected a JSON object, found a number; and no other line holds documents either");
        assert_eq!(read_bytes::<Document>(b"\n", BadLines::Skip).map(|_| ()).unwrap_err(), "FILE: holds no documents");
    }

    /// A file of the benchmark data beside the repository, or a word that it is absent.
    fn shared(name: &str) -> Option<PathBuf> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(name);
        if !path.exists() {
            eprintln!("{} is absent: not tested with it", path.display());
        }
        path.exists().then_some(path)
    }

    #[test]
    fn published_files_are_read_where_they_are_present() {
        if let Some(path) = shared("hh_rlhf/harmless-base-test.jsonl") {
            let found: Imported<Comparison> = read(&path, BadLines::Skip).unwrap();
            assert_eq!((found.shape, found.items.len() + found.skipped.len()), ("HH-RLHF", 2312));
            assert!(found.skipped.len() < 60, "{} {:?}", found.skipped.len(), &found.skipped[..5]);
        }
        if let Some(path) = shared("ifeval/input_data.jsonl") {
            let found: Imported<Prompt> = read(&path, BadLines::Refuse).unwrap();
            assert_eq!((found.shape, found.items.len()), ("prompt", 541));
        }
        if let Some(path) = shared("text") {
            let text = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
            let text = text.into_iter().find(|path| path.extension().is_some_and(|name| name == "txt")).unwrap();
            assert_eq!(read::<Document>(&text, BadLines::Refuse).unwrap().items.len(), 1);
        }
        if let Some(path) = shared("self_instruct/seed_tasks.jsonl") {
            // Alpaca's columns are those of the instances of its seeds.
            let rows = Records::open(&path).unwrap().map(|record| {
                let mut record = record.unwrap();
                let row = record.row.as_mut().unwrap();
                let instance = row["instances"][0].as_object().unwrap().clone();
                row.extend(instance);
                Ok(record)
            });
            let found: Imported<Conversation> = import(&path, rows, BadLines::Refuse).unwrap();
            assert_eq!((found.shape, found.items.len()), ("Alpaca", 175));
        }
    }

    /// JSON of any form, with the columns of the known shapes among its keys.
    fn values() -> impl Strategy<Value = Value> {
        let keys = proptest::sample::select(vec![
            "messages",
            "conversations",
            "role",
            "content",
            "from",
            "value",
            "prompt",
            "chosen",
            "rejected",
            "ranked",
            "instruction",
            "input",
            "output",
            "system",
            "history",
            "completions",
            "response",
            "overall_score",
            "given",
            "id",
            "kind",
            "right",
            "text",
            "completion",
            "critique",
            "revision",
            "name",
            "question",
        ]);
        let texts = prop_oneof![
            any::<String>(),
            proptest::sample::select(vec!["user", "assistant", "system", "human", "\n\nHuman: a\n\nAssistant: b", ""])
                .prop_map(str::to_owned),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            texts.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::vec((keys.clone(), inner), 0..6)
                    .prop_map(|pairs| pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
            ]
        })
    }

    fn try_shapes<T: Shaped>(row: &crate::records::Row) {
        if let Ok(shape) = find_shape::<T>(row)
            && let Ok(item) = shape.convert(row)
        {
            let _ = item.check();
        }
        for shape in T::SHAPES {
            let _ = (shape.read)(row);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            start in proptest::sample::select(vec!["", "[", "[{", "{\"text\":", "\u{FEFF}", "[{\"a\":\"", "{}\n"]),
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let _ = read_bytes::<Document>(&[start.as_bytes(), &bytes].concat(), BadLines::Skip);
        }

        #[test]
        fn no_row_makes_it_panic(value in values()) {
            if let Value::Object(row) = value {
                try_shapes::<Document>(&row);
                try_shapes::<Conversation>(&row);
                try_shapes::<Comparison>(&row);
                try_shapes::<Prompt>(&row);
                try_shapes::<Principle>(&row);
            }
        }
    }
}
