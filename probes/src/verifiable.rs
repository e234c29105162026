//! Benchmarks of instructions that a program can check: IFEval and those in its shape.
//!
//! An item is a prompt with its instructions, each a name with arguments. A response follows an instruction *strictly* as it is, and
//! *loosely* where it does so with or without its first line, its last line and its asterisks.
//!
//! # Reference
//! Zhou et al. 2023, *Instruction-Following Evaluation for Large Language Models*, arXiv 2311.07911, section 2.3.

use std::collections::BTreeMap;
use std::path::Path;

use lm::chat::{Message, Role};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::benchmark::{Figure, Scored};
use crate::error::{Error, Result};
use crate::item::{self, Behaviour, Task};
use crate::stored::{self, Name};
use crate::text::python::strip;

/// An instruction that a program can check.
pub trait Verifiable: Sized {
    /// Its arguments as they are written.
    type Arguments: DeserializeOwned;

    /// Reads an instruction by its official name.
    ///
    /// # Errors
    /// Where no instruction has that name, or an argument is missing or none of its kind.
    fn parse(name: &str, given: &Self::Arguments) -> std::result::Result<Self, Fault>;

    /// Whether a response, which is not blank, follows it.
    fn check(&self, response: &str) -> bool;

    /// What the check needs that this program does not have; then nothing is said of any response.
    fn lacks(&self) -> Option<&'static str> {
        None
    }

    /// Whether the response follows the instruction to the letter; a blank response follows none.
    fn is_followed(&self, response: &str) -> bool {
        !strip(response).is_empty() && self.check(response)
    }

    /// Whether the response does, or would without its first line, its last line, all of its asterisks, or several of these.
    fn is_followed_loosely(&self, response: &str) -> bool {
        let lines: Vec<&str> = response.split('\n').collect();
        let n = lines.len();
        let cut = |lines: &[&str]| strip(&lines.join("\n")).to_owned();
        let texts =
            [response.to_owned(), cut(&lines[1..]), cut(&lines[..n - 1]), cut(lines.get(1..n - 1).unwrap_or(&[]))];
        texts.iter().any(|text| self.is_followed(text) || self.is_followed(&text.replace('*', "")))
    }
}

/// What is wrong with an instruction, at which key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The key.
    pub key: &'static str,
    /// What is wrong with its value, with the value.
    pub reason: String,
}

/// A prompt with what its answer has to follow.
#[derive(Debug, Clone)]
pub struct Item<I> {
    /// Official name, a number or text in the official files.
    pub key: Value,
    /// What is asked.
    pub prompt: String,
    /// Official names of the instructions.
    pub instruction_names: Vec<String>,
    /// The instructions, in the same order.
    pub instructions: Vec<I>,
}

/// Whether each instruction of an item was followed; `None` for one that cannot be checked here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// By the response as it is.
    pub strict: Vec<Option<bool>>,
    /// By the response, or by it without its first or last line or its asterisks.
    pub loose: Vec<Option<bool>>,
}

/// Scores a response against instructions.
fn judge<I: Verifiable>(instructions: &[I], response: &str) -> Followed {
    let checked = |instruction: &I| instruction.lacks().is_none();
    let strict: Vec<Option<bool>> = instructions
        .iter()
        .map(|instruction| checked(instruction).then(|| instruction.is_followed(response)))
        .collect();
    let loose = instructions.iter().zip(&strict);
    let loose = loose
        .map(|(instruction, strict)| strict.map(|strict| strict || instruction.is_followed_loosely(response)))
        .collect();
    Followed { strict, loose }
}

/// Scores a response against instructions given by their official names and arguments.
///
/// # Errors
/// What is wrong with the first instruction that is unknown or lacks an argument, beginning with its name.
pub fn follow<I: Verifiable>(
    names: &[String],
    arguments: &[Map<String, Value>],
    response: &str,
) -> std::result::Result<Followed, String> {
    let parse = |(name, given): (&String, &Map<String, Value>)| {
        let given =
            I::Arguments::deserialize(Value::Object(given.clone())).map_err(|error| format!("{name}: {error}"))?;
        I::parse(name, &given).map_err(|fault| format!("{name}: `{}` {}", fault.key, fault.reason))
    };
    let instructions: Vec<I> = names.iter().zip(arguments).map(parse).collect::<std::result::Result<_, _>>()?;
    Ok(judge(&instructions, response))
}

impl<I: Verifiable> Item<I> {
    /// Scores a response.
    pub fn score(&self, response: &str) -> Followed {
        judge(&self.instructions, response)
    }

    /// The instructions that cannot be checked here, each with what that would need.
    fn lacking(&self) -> impl Iterator<Item = (&str, &'static str)> {
        let pairs = self.instruction_names.iter().zip(&self.instructions);
        pairs.filter_map(|(name, instruction)| Some((name.as_str(), instruction.lacks()?)))
    }
}

/// A line of the official items.
#[derive(Deserialize)]
struct Line<A> {
    key: Value,
    prompt: String,
    instruction_id_list: Vec<String>,
    kwargs: Vec<A>,
}

/// Reads items in the shape of IFEval's `input_data.jsonl`.
///
/// # Errors
/// Where the file cannot be read or holds no items, a line is no item, an instruction is unknown or lacks an argument, or two items have one
/// key. Names file, line and key.
pub fn load<I: Verifiable>(path: &Path) -> Result<Vec<Item<I>>> {
    let mut items = Vec::new();
    let mut first_lines: BTreeMap<String, usize> = BTreeMap::new();
    for (line, read) in stored::read_lines::<Line<I::Arguments>>(path)? {
        let id = stored::key_text(&read.key).unwrap_or_default();
        let bad = |key: &'static str, reason: String| Error::BadItem {
            path: path.to_owned(),
            line,
            id: id.clone(),
            key,
            reason,
        };
        if id.is_empty() {
            return Err(bad("key", format!("is {}, which is no text or number", read.key)));
        }
        let (n_names, n_arguments) = (read.instruction_id_list.len(), read.kwargs.len());
        if n_names == 0 {
            return Err(bad("instruction_id_list", "is empty".to_owned()));
        }
        if n_names != n_arguments {
            return Err(bad("kwargs", format!("has {n_arguments} entries for {n_names} instructions")));
        }
        let pairs = read.instruction_id_list.iter().zip(&read.kwargs);
        let instructions = pairs.map(|(name, given)| I::parse(name, given)).collect::<std::result::Result<_, _>>();
        let instructions = instructions.map_err(|fault| bad(fault.key, fault.reason))?;
        if let Some(first_line) = first_lines.insert(id.clone(), line) {
            return Err(Error::DuplicateId { path: path.to_owned(), line, id, first_line });
        }
        items.push(Item {
            key: read.key,
            prompt: read.prompt,
            instruction_names: read.instruction_id_list,
            instructions,
        });
    }
    Ok(items)
}

/// The same as items that any subject can be asked. The slice is the instruction, or several with ` + ` between; the names are the keys.
///
/// # Errors
/// As [`load`].
pub(crate) fn items<I: Verifiable>(benchmark: &str, path: &Path) -> Result<Vec<(usize, item::Item)>> {
    // Read twice: once checked, once for the arguments as they stand.
    load::<I>(path)?;
    let item = |(line, read): (usize, Line<Map<String, Value>>)| {
        let id = stored::key_text(&read.key).unwrap_or_default();
        let given = |given: Map<String, Value>| given.into_iter().filter(|(_, value)| !value.is_null()).collect();
        let item = item::Item {
            cluster: id.clone(),
            id,
            behaviour: Behaviour::InstructionFollowing,
            slice: read.instruction_id_list.join(" + "),
            month: None,
            expected: true,
            task: Task::Constrained {
                messages: vec![Message { role: Role::User, content: read.prompt }],
                benchmark: benchmark.to_owned(),
                arguments: read.kwargs.into_iter().map(given).collect(),
                names: read.instruction_id_list,
            },
        };
        (line, item)
    };
    Ok(stored::read_lines(path)?.into_iter().map(item).collect())
}

/// Scores the responses in a file against the items in another.
///
/// # Errors
/// As [`load`] and [`stored::join`].
pub fn score<I: Verifiable>(items: &Path, responses: &Path) -> Result<Scored> {
    let items: Vec<Item<I>> = load(items)?;
    let keys: Vec<String> = items.iter().map(|item| stored::key_text(&item.key).unwrap_or_default()).collect();
    let names: Vec<Name<'_>> = keys.iter().zip(&items).map(|(key, item)| Name { key, prompt: &item.prompt }).collect();
    let joined = stored::join(responses, &names)?;
    let mut lines = Vec::with_capacity(items.len());
    let (mut strict, mut loose) = (Vec::new(), Vec::new());
    // Items by the instruction that cannot be checked and what it needs.
    let mut lacking: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for ((item, key), response) in items.iter().zip(&keys).zip(&joined.responses) {
        let followed = response.as_deref().map(|response| item.score(response));
        let mut line = json!({
            "key": &item.key,
            "instruction_id_list": &item.instruction_names,
            "strict": followed.as_ref().map(|followed| &followed.strict),
            "loose": followed.as_ref().map(|followed| &followed.loose),
        });
        if let Some(followed) = followed {
            let reasons: Vec<String> = item.lacking().map(|(name, needs)| format!("{name} needs {needs}")).collect();
            if !reasons.is_empty() {
                line["unscored"] = reasons.join("; ").into();
            }
            for pair in item.lacking() {
                lacking.entry(pair).or_default().push(key.clone());
            }
            strict.push(followed.strict);
            loose.push(followed.loose);
        } else {
            line["unscored"] = "no response".into();
        }
        lines.push(line);
    }
    let figures = [
        Figure::share("prompts followed in full, strict", &of_prompts(&strict)),
        Figure::share("prompts followed in full, loose", &of_prompts(&loose)),
        Figure::clustered_share("instructions followed, strict", &of_instructions(&strict), "prompt"),
        Figure::clustered_share("instructions followed, loose", &of_instructions(&loose), "prompt"),
    ];
    let mut notes = joined.notes;
    for ((name, needs), keys) in lacking {
        let what = format!("not scored, in no share: {name} needs {needs}; items");
        notes.extend(stored::note(&keys, &what, "instruction", "instructions"));
    }
    Ok(Scored { lines, figures: figures.into_iter().flatten().collect(), notes })
}

/// Whether all instructions of a prompt were followed, of the prompts whose instructions were all checked.
fn of_prompts(outcomes: &[Vec<Option<bool>>]) -> Vec<bool> {
    let checked = outcomes.iter().filter_map(|all| all.iter().copied().collect::<Option<Vec<bool>>>());
    checked.map(|all| !all.contains(&false)).collect()
}

/// The instructions of each prompt that were checked.
fn of_instructions(outcomes: &[Vec<Option<bool>>]) -> Vec<Vec<bool>> {
    outcomes.iter().map(|all| all.iter().copied().flatten().collect()).collect()
}
