//! The item bank: a file of JSON lines, checked before anything is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use lm::chat::{Message, Role};
use sha2::{Digest, Sha256};

use crate::benchmark;
use crate::check::find_broken;
use crate::constrained;
use crate::error::{Error, Result};
use crate::grammar::classify;
use crate::item::{Behaviour, Item, Task};
use crate::response::Label;
use crate::short_answer::holds;

/// Items that can all be asked and scored, and the hash of the files they came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Bank {
    /// The items, in the order of the file.
    pub items: Vec<Item>,
    /// The line of each item in its file, from 1.
    pub lines: Vec<usize>,
    /// SHA-256 of the file's bytes (of benchmarks: also of their names), in hexadecimal: part of the key under which answers are kept.
    pub hash: String,
}

impl Bank {
    /// Reads and checks `bank.jsonl`: one [`Item`] per line, blank lines ignored.
    ///
    /// # Errors
    /// Where the file cannot be read, holds no items, a line is no item, two items have one name, or an item could not be
    /// scored: fewer than two options, options that are empty or equal, an answer out of range, odds outside [0, 1], a
    /// conversation that does not end with the user, a behaviour that does not fit the task, no checks, or a model answer
    /// that its own scorer would judge wrong. Names file, line and key.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&bytes, path)
    }

    /// The same for the bytes of a file; `path` is for messages only.
    ///
    /// # Errors
    /// As [`Bank::load`].
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let mut items: Vec<Item> = Vec::new();
        let mut lines_by_id: BTreeMap<String, usize> = BTreeMap::new();
        for (index, line_bytes) in bytes.split(|&byte| byte == b'\n').enumerate() {
            let line = index + 1;
            let text = std::str::from_utf8(line_bytes).map_err(|_| Error::NotText { path: path.to_owned(), line })?;
            if text.trim().is_empty() {
                continue;
            }
            let item: Item = serde_json::from_str(text).map_err(|error| describe_json(path, line, &error))?;
            check_item(&item).map_err(|Fault { key, reason }| Error::BadItem {
                path: path.to_owned(),
                line,
                id: item.id.clone(),
                key,
                reason,
            })?;
            if let Some(first_line) = lines_by_id.insert(item.id.clone(), line) {
                return Err(Error::DuplicateId { path: path.to_owned(), line, id: item.id, first_line });
            }
            items.push(item);
        }
        if items.is_empty() {
            return Err(Error::EmptyBank { path: path.to_owned() });
        }
        let hash = print_hash(Sha256::new_with_prefix(bytes));
        let lines = items.iter().map(|item| lines_by_id[&item.id]).collect();
        Ok(Self { items, lines, hash })
    }

    /// The items of benchmarks, each given by its name and its official file, in the order given. An item of `xstest` that the benchmark
    /// calls 12 is called `xstest/12`. A benchmark that is made here has no file: its path is empty.
    ///
    /// # Errors
    /// Where a benchmark is unknown or given twice, or none is given; where one needs a file and has none, or the reverse; where its file
    /// cannot be read or has a row that could not be asked or scored. Names file, line and key.
    pub fn of_benchmarks(benchmarks: &[(String, PathBuf)]) -> Result<Self> {
        let (mut items, mut lines) = (Vec::new(), Vec::new());
        let mut names = BTreeSet::new();
        let mut hasher = Sha256::new();
        for (name, path) in benchmarks {
            let benchmark = benchmark::find(name)?;
            if !names.insert(name) {
                return Err(Error::RepeatedBenchmark { name: name.clone() });
            }
            let bytes = benchmark::read_file(benchmark, path)?;
            // Lengths keep names and files apart, so that no two lists of them read alike.
            hasher.update(format!("{name} {}\n", bytes.len()));
            hasher.update(bytes);
            let mut lines_by_id: BTreeMap<String, usize> = BTreeMap::new();
            for (line, mut item) in benchmark.items(path)? {
                check_item(&item).map_err(|Fault { key, reason }| Error::BadItem {
                    path: path.clone(),
                    line,
                    id: item.id.clone(),
                    key,
                    reason,
                })?;
                if let Some(first_line) = lines_by_id.insert(item.id.clone(), line) {
                    return Err(Error::DuplicateId { path: path.clone(), line, id: item.id, first_line });
                }
                item.id = format!("{name}/{}", item.id);
                item.cluster = format!("{name}/{}", item.cluster);
                items.push(item);
                lines.push(line);
            }
        }
        if items.is_empty() {
            let path = benchmarks.first().map_or_else(PathBuf::new, |(_, path)| path.clone());
            return Err(Error::EmptyBank { path });
        }
        Ok(Self { items, lines, hash: print_hash(hasher) })
    }

    /// Marks dated items from the first month on that the subject is not expected to know as controls, as those of the small world are.
    /// The hash stays: the same questions are asked.
    #[must_use]
    pub fn with_cutoff(mut self, first_unknown: u32) -> Self {
        for item in &mut self.items {
            item.expected &= item.month.is_none_or(|month| month < first_unknown);
        }
        self
    }
}

/// In hexadecimal.
fn print_hash(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is wrong with an item, at which key.
struct Fault {
    key: &'static str,
    reason: String,
}

fn describe_json(path: &Path, line: usize, error: &serde_json::Error) -> Error {
    // serde_json counts lines within the text it was given, which is one line here.
    let message = error.to_string();
    let reason = message.split(" at line ").next().unwrap_or_default().to_owned();
    Error::BadLine { path: path.to_owned(), line, column: error.column(), reason }
}

fn require(is_met: bool, key: &'static str, reason: impl FnOnce() -> String) -> std::result::Result<(), Fault> {
    if is_met { Ok(()) } else { Err(Fault { key, reason: reason() }) }
}

fn check_item(item: &Item) -> std::result::Result<(), Fault> {
    require(!item.id.trim().is_empty(), "id", || "is empty".to_owned())?;
    check_behaviour(item)?;
    match &item.task {
        Task::Choice { cloze, question, context, options, answer, declines, ideal, .. } => {
            require(!question.trim().is_empty(), "question", || "is empty".to_owned())?;
            check_special(&[("cloze", cloze), ("question", question), ("context", context)])?;
            check_options(options)?;
            require(*answer < options.len(), "answer", || {
                format!("is {answer}, but the {} options are counted from 0", options.len())
            })?;
            let is_option = declines.iter().find(|decline| options.contains(decline) || decline.trim().is_empty());
            require(is_option.is_none(), "declines", || {
                format!("has {:?}, which is empty or an option", is_option.map_or("", String::as_str))
            })?;
            require(ideal.is_none_or(|ideal| (0.0..=1.0).contains(&ideal)), "ideal", || {
                format!("is {}, a probability lies in [0, 1]", ideal.unwrap_or_default())
            })
        }
        Task::Instruction { messages, checks, good, bad, .. } => {
            check_messages(messages)?;
            require(!checks.is_empty(), "checks", || "is empty: any answer would obey".to_owned())?;
            let broken = find_broken(checks, good);
            require(broken.is_empty(), "good", || format!("is {good:?}, which breaks {broken:?}"))?;
            require(!find_broken(checks, bad).is_empty(), "bad", || format!("is {bad:?}, which obeys {checks:?}"))
        }
        Task::Request { messages, comply, refuse, .. } => {
            check_messages(messages)?;
            for (key, answer, meant) in [("comply", comply, Label::Comply), ("refuse", refuse, Label::Refuse)] {
                let label = classify(answer, comply, refuse);
                require(label == meant, key, || format!("is {answer:?}, which reads as {}", label.name()))?;
            }
            Ok(())
        }
        Task::OpenRequest { messages, .. } => check_messages(messages),
        Task::Constrained { messages, benchmark, names, arguments } => {
            check_messages(messages)?;
            let scored = constrained::follow(benchmark, names, arguments, "");
            scored.map(|_| ()).map_err(|reason| Fault { key: "constrained", reason })
        }
        Task::Quiz { question, options, right, cloze, context } => {
            require(!question.trim().is_empty(), "question", || "is empty".to_owned())?;
            check_special(&[("cloze", cloze), ("question", question), ("context", context)])?;
            for option in options {
                check_special(&[("options", option)])?;
            }
            check_options(options)?;
            require(!right.is_empty(), "right", || "is empty: no option is right".to_owned())?;
            let out = right.iter().find(|&&index| index >= options.len());
            require(out.is_none(), "right", || {
                format!(
                    "has {}, but the {} options are counted from 0",
                    out.copied().unwrap_or_default(),
                    options.len()
                )
            })?;
            let distinct: BTreeSet<&usize> = right.iter().collect();
            require(distinct.len() == right.len(), "right", || format!("names an option twice: {right:?}"))?;
            require(right.len() < options.len(), "right", || "names all options: none is wrong".to_owned())?;
            // Options bring a space of their own.
            require(cloze.trim_end() == cloze, "cloze", || format!("ends with white space: {cloze:?}"))
        }
        Task::ShortAnswer { question, aliases, context, history, .. } => {
            require(!question.trim().is_empty(), "question", || "is empty".to_owned())?;
            check_special(&[("question", question), ("context", context)])?;
            require(!aliases.is_empty() || !item.expected, "aliases", || {
                "is empty: no answer would be right, and `expected` is true".to_owned()
            })?;
            let mut neighbours = history.iter().flat_map(|history| history.periods.windows(2));
            require(neighbours.all(|pair| pair[0].first < pair[1].first), "history", || {
                "has periods that do not follow each other".to_owned()
            })?;
            // What its own scorer cannot find in itself could never be right.
            let lost = aliases.iter().find(|alias| !holds(alias, alias));
            require(lost.is_none(), "aliases", || {
                format!("has {:?}, which has no words", lost.map_or("", String::as_str))
            })
        }
        Task::StatedCutoff { question } => {
            require(!question.trim().is_empty(), "question", || "is empty".to_owned())?;
            check_special(&[("question", question)])?;
            require(!item.expected, "expected", || "is true, but nothing that is stated of oneself is right".to_owned())
        }
        Task::Proposed { .. } => require(false, "task", || {
            "is a proposed answer, which only the subject that gave it can be asked".to_owned()
        }),
    }
}

fn check_behaviour(item: &Item) -> std::result::Result<(), Fault> {
    let fits = match item.behaviour {
        Behaviour::KnowledgeCutoff if matches!(item.task, Task::StatedCutoff { .. }) => true,
        Behaviour::Knowledge | Behaviour::Calibration | Behaviour::KnowledgeCutoff => {
            matches!(
                item.task,
                Task::Choice { .. } | Task::Quiz { .. } | Task::ShortAnswer { .. } | Task::Proposed { .. }
            )
        }
        Behaviour::InstructionFollowing | Behaviour::SystemPrompt => {
            matches!(item.task, Task::Instruction { .. } | Task::Constrained { .. })
        }
        Behaviour::OverRefusal => {
            matches!(item.task, Task::Request { harmful: false, .. } | Task::OpenRequest { harmful: false, .. })
        }
        Behaviour::HarmfulCompliance => {
            matches!(item.task, Task::Request { harmful: true, .. } | Task::OpenRequest { harmful: true, .. })
        }
    };
    require(fits, "behaviour", || {
        let task = match item.task {
            Task::Choice { .. } => "choice",
            Task::Instruction { .. } => "instruction",
            Task::Request { harmful: false, .. } | Task::OpenRequest { harmful: false, .. } => {
                "request with `harmful: false`"
            }
            Task::Request { harmful: true, .. } | Task::OpenRequest { harmful: true, .. } => {
                "request with `harmful: true`"
            }
            Task::Constrained { .. } => "request with instructions",
            Task::Quiz { .. } => "quiz",
            Task::ShortAnswer { .. } => "question with a short answer",
            Task::StatedCutoff { .. } => "question for the stated cutoff",
            Task::Proposed { .. } => "proposed answer",
        };
        format!("is {}, which is not asked by a {task}", item.behaviour.name())
    })
}

fn check_options(options: &[String]) -> std::result::Result<(), Fault> {
    let mut seen = BTreeSet::new();
    for option in options {
        require(!option.is_empty() && option.trim() == option, "options", || {
            format!("has {option:?}, an option is not empty and has no space around it")
        })?;
        require(seen.insert(option), "options", || format!("has {option:?} twice"))?;
    }
    require(!options.is_empty(), "options", || "is empty".to_owned())?;
    require(options.len() >= 2, "options", || format!("has only {options:?}, a choice needs two"))
}

fn check_messages(messages: &[Message]) -> std::result::Result<(), Fault> {
    let last = messages.last().ok_or(Fault { key: "messages", reason: "is empty".to_owned() })?;
    require(last.role == Role::User, "messages", || "does not end with the user".to_owned())?;
    for message in messages {
        require(!message.content.trim().is_empty(), "messages", || "has a turn that says nothing".to_owned())?;
        check_special(&[("messages", &message.content)])?;
    }
    Ok(())
}

/// Special tokens are parsed out of prompts, so a question that holds one would be cut into turns of its own.
fn check_special(texts: &[(&'static str, &String)]) -> std::result::Result<(), Fault> {
    for (key, text) in texts {
        require(!text.contains("<|"), key, || format!("has `<|`, which begins a special token: {text:?}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;
    use crate::item::Check;
    use crate::lookup::{
        choice_item, constrained_item, instruction_item, open_request_item, quiz_item, request_item, short_answer_item,
    };

    fn parse(items: &[Item]) -> Result<Bank> {
        let lines: Vec<String> = items.iter().map(|item| serde_json::to_string(item).unwrap()).collect();
        Bank::parse(lines.join("\n").as_bytes(), Path::new("bank.jsonl"))
    }

    fn message(items: &[Item]) -> String {
        parse(items).unwrap_err().to_string()
    }

    fn choice(change: impl FnOnce(&mut Vec<String>, &mut usize, &mut Option<f64>)) -> Item {
        let mut item = choice_item(Behaviour::Knowledge);
        let Task::Choice { options, answer, ideal, .. } = &mut item.task else { unreachable!() };
        change(options, answer, ideal);
        item
    }

    #[test]
    fn a_bank_is_loaded_in_order_with_the_hash_of_its_bytes() {
        let items = [choice_item(Behaviour::Knowledge), instruction_item(), request_item(true), request_item(false)];
        let bank = parse(&items).unwrap();
        assert_eq!(bank.items, items);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bank.jsonl");
        std::fs::write(&path, "abc").unwrap();
        assert!(Bank::load(&path).is_err());
        let text = serde_json::to_string(&items[0]).unwrap();
        std::fs::write(&path, format!("{text}\r\n\n")).unwrap();
        let loaded = Bank::load(&path).unwrap();
        assert_eq!(loaded.items, items[..1]);
        assert_ne!(loaded.hash, Bank::parse(text.as_bytes(), &path).unwrap().hash);
        assert_eq!(loaded.hash.len(), 64);
    }

    #[test]
    fn items_of_benchmarks_keep_their_shape_in_a_file() {
        let items = [quiz_item(), short_answer_item(), constrained_item(), open_request_item(true)];
        let items: Vec<Item> =
            items.into_iter().enumerate().map(|(n, item)| Item { id: n.to_string(), ..item }).collect();
        assert_eq!(parse(&items).unwrap().items, items);
        let text = serde_json::to_string(&items[3]).unwrap();
        assert!(text.contains(r#""task":{"open_request":{"messages":[{"role":"user""#), "{text}");
        let bad = text.replace("\"harmful\"", "\"harmfull\"");
        let error = Bank::parse(bad.as_bytes(), Path::new("bank.jsonl")).unwrap_err().to_string();
        assert!(error.contains("unknown field `harmfull`"), "{error}");
    }

    #[test]
    fn items_of_benchmarks_have_to_be_scorable() {
        let mut item = constrained_item();
        let Task::Constrained { names, .. } = &mut item.task else { unreachable!() };
        "punctuation:no_coma".clone_into(&mut names[0]);
        let text = message(&[item]);
        assert!(text.contains("item `instruction_following-1`: `constrained` ") && text.contains("no_coma"), "{text}");
        let quiz = |change: fn(&mut Vec<usize>, &mut String)| {
            let mut item = quiz_item();
            let Task::Quiz { right, cloze, .. } = &mut item.task else { unreachable!() };
            change(right, cloze);
            message(&[item])
        };
        assert!(quiz(|right, _| right.push(0)).contains("`right` names an option twice: [0, 0]"));
        assert!(quiz(|right, _| right.clear()).contains("`right` is empty"));
        assert!(quiz(|_, cloze| cloze.push('\n')).contains("`cloze` ends with white space"));
        assert!(quiz(|_, cloze| cloze.insert_str(0, "<|user|>")).contains("begins a special token"));
        let mut item = open_request_item(true);
        item.behaviour = Behaviour::OverRefusal;
        assert!(message(&[item]).ends_with("which is not asked by a request with `harmful: true`"));
    }

    #[test]
    fn a_file_without_items_is_refused() {
        for text in ["", "\n \n"] {
            let error = Bank::parse(text.as_bytes(), Path::new("bank.jsonl")).unwrap_err();
            assert_eq!(error.to_string(), "bank.jsonl holds no items");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Bank::load(Path::new("nowhere/bank.jsonl")).unwrap_err();
        assert_eq!(error.to_string(), "could not read nowhere/bank.jsonl");
        assert!(error.source().is_some());
    }

    #[test]
    fn a_misspelt_key_is_named_with_file_and_line() {
        let good = serde_json::to_string(&choice_item(Behaviour::Knowledge)).unwrap();
        let bad = good.replace("\"cluster\"", "\"clutser\"");
        let error = Bank::parse(format!("{good}\n{bad}\n").as_bytes(), Path::new("bank.jsonl")).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("bank.jsonl:2:") && text.contains("unknown field `clutser`"), "{text}");
        assert!(!text.contains("at line"), "{text}");
        let cut = format!("{good}\n{}", &good[..40]);
        let text = Bank::parse(cut.as_bytes(), Path::new("bank.jsonl")).unwrap_err().to_string();
        assert!(text.starts_with("bank.jsonl:2:40: EOF"), "{text}");
    }

    #[test]
    fn bytes_that_are_no_text_are_named_by_line() {
        let error = Bank::parse(b"\n\xff\xfe", Path::new("bank.jsonl")).unwrap_err();
        assert_eq!(error.to_string(), "bank.jsonl:2: not UTF-8 text");
    }

    #[test]
    fn two_items_may_not_have_one_name() {
        let item = choice_item(Behaviour::Knowledge);
        assert_eq!(
            message(&[item.clone(), item]),
            "bank.jsonl:2: `id`: `knowledge-1` is already the name of the item at line 1"
        );
    }

    #[test]
    fn options_have_to_be_a_choice() {
        let cases = [
            (choice(|options, _, _| options.clear()), "`options` is empty"),
            (choice(|options, _, _| options.truncate(1)), "`options` has only [\"Lund\"], a choice needs two"),
            (
                choice(|options, _, _| options[1] = " Oslo".to_owned()),
                "`options` has \" Oslo\", an option is not empty and has no space around it",
            ),
            (choice(|options, _, _| options[1] = "Lund".to_owned()), "`options` has \"Lund\" twice"),
            (choice(|_, answer, _| *answer = 3), "`answer` is 3, but the 3 options are counted from 0"),
            (choice(|_, _, ideal| *ideal = Some(1.5)), "`ideal` is 1.5, a probability lies in [0, 1]"),
        ];
        for (item, reason) in cases {
            assert_eq!(message(&[item]), format!("bank.jsonl:1: item `knowledge-1`: {reason}"));
        }
    }

    #[test]
    fn a_conversation_ends_with_the_user() {
        let mut item = instruction_item();
        let Task::Instruction { messages, .. } = &mut item.task else { unreachable!() };
        messages.push(Message { role: Role::Assistant, content: "Lund.".to_owned() });
        assert!(message(&[item.clone()]).ends_with("`messages` does not end with the user"));
        let Task::Instruction { messages, .. } = &mut item.task else { unreachable!() };
        messages.clear();
        assert!(message(&[item]).ends_with("`messages` is empty"));
    }

    #[test]
    fn special_tokens_may_not_be_smuggled_into_a_question() {
        let mut item = request_item(true);
        let Task::Request { messages, .. } = &mut item.task else { unreachable!() };
        messages[0].content.push_str("<|end|>");
        assert!(message(&[item]).contains("begins a special token"));
    }

    #[test]
    fn a_behaviour_has_to_fit_its_task() {
        let mut item = request_item(true);
        item.behaviour = Behaviour::OverRefusal;
        let text = message(&[item]);
        assert!(text.ends_with("`behaviour` is over_refusal, which is not asked by a request with `harmful: true`"));
    }

    #[test]
    fn model_answers_have_to_pass_and_fail_their_own_scorer() {
        let instruction = |change: fn(&mut Vec<Check>, &mut String, &mut String)| {
            let mut item = instruction_item();
            let Task::Instruction { checks, good, bad, .. } = &mut item.task else { unreachable!() };
            change(checks, good, bad);
            message(&[item])
        };
        assert!(instruction(|checks, _, _| checks.clear()).contains("`checks` is empty"));
        assert!(
            instruction(|_, good, _| "Lund".clone_into(good)).contains("`good` is \"Lund\", which breaks [Brackets]")
        );
        assert!(instruction(|_, _, bad| "<< Oslo >>".clone_into(bad)).contains("`bad` is \"<< Oslo >>\", which obeys"));

        let mut item = request_item(true);
        let Task::Request { refuse, .. } = &mut item.task else { unreachable!() };
        "I don't know.".clone_into(refuse);
        // What an item calls its refusal is one, unless it is also something else.
        assert!(parse(&[item.clone()]).is_ok());
        let Task::Request { refuse, .. } = &mut item.task else { unreachable!() };
        "To crush the mayor, use a press.".clone_into(refuse);
        assert!(message(&[item]).contains("`comply` is \"To crush the mayor, use a press.\", which reads as partial"));
    }
}
