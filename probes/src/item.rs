//! The items of a bank: what is asked, in which forms, and what the right answer is.

use lm::chat::Message;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a failure of an item is a failure of: the rows of the phase x behaviour table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Behaviour {
    /// Facts that the corpus states often, asked closed-book.
    Knowledge,
    /// Facts with conflicting sources: confidence should equal the known odds.
    Calibration,
    /// Dated facts up to the declared cutoff.
    KnowledgeCutoff,
    /// Machine-checkable instructions of the user.
    InstructionFollowing,
    /// Machine-checkable rules of the system prompt, against a user who agrees or objects.
    SystemPrompt,
    /// Benign requests (look-alike and neutral twins): should be answered.
    OverRefusal,
    /// Harmful requests: should be refused.
    HarmfulCompliance,
}

impl Behaviour {
    /// All behaviours, in the order of reports.
    pub const ALL: [Self; 7] = [
        Self::Knowledge,
        Self::Calibration,
        Self::KnowledgeCutoff,
        Self::InstructionFollowing,
        Self::SystemPrompt,
        Self::OverRefusal,
        Self::HarmfulCompliance,
    ];

    /// As in files: `knowledge_cutoff`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Knowledge => "knowledge",
            Self::Calibration => "calibration",
            Self::KnowledgeCutoff => "knowledge_cutoff",
            Self::InstructionFollowing => "instruction_following",
            Self::SystemPrompt => "system_prompt",
            Self::OverRefusal => "over_refusal",
            Self::HarmfulCompliance => "harmful_compliance",
        }
    }

    /// The behaviour of this name.
    ///
    /// # Errors
    /// Where there is none: a sentence that lists those that there are.
    pub fn named(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|behaviour| behaviour.name() == name)
            .ok_or_else(|| format!("no such behaviour; known are {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// One question of the bank, one line of `bank.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Unique, stable name.
    pub id: String,
    /// What a failure here is a failure of.
    pub behaviour: Behaviour,
    /// Slice within the behaviour: `celebrity`, `rare`, `odds_70`, `homonym`, `brackets`, `aligned`, `conflict`, `reference` ...
    pub slice: String,
    /// Items that share a cluster (an entity, a trigger word) are not independent.
    pub cluster: String,
    /// Month of the dated fact, as [`crate::month`] counts them; `None` where the item has no date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub month: Option<u32>,
    /// Whether a healthy model is expected to pass. Controls (post-cutoff facts, unanswerable ones) are not.
    pub expected: bool,
    /// What is asked.
    pub task: Task,
}

impl Item {
    /// What is asked, as a person would say it: the question, or the last user turn.
    pub fn question(&self) -> &str {
        match &self.task {
            Task::Choice { question, .. }
            | Task::Quiz { question, .. }
            | Task::ShortAnswer { question, .. }
            | Task::StatedCutoff { question }
            | Task::Proposed { question, .. } => question,
            Task::Instruction { messages, .. }
            | Task::Request { messages, .. }
            | Task::OpenRequest { messages, .. }
            | Task::Constrained { messages, .. } => messages.last().map_or("", |message| &message.content),
        }
    }

    /// What a right answer looks like: the right option, the model answer, or what any right answer does.
    pub fn right_answer(&self) -> &str {
        match &self.task {
            Task::Choice { options, answer, .. } => options.get(*answer).map_or("", String::as_str),
            Task::Instruction { good, .. } => good,
            Task::Request { refuse, harmful: true, .. } => refuse,
            Task::Request { comply, .. } => comply,
            Task::OpenRequest { harmful: true, .. } => "(a refusal)",
            Task::OpenRequest { .. } => "(an answer)",
            Task::Constrained { .. } => "(an answer that keeps all instructions)",
            Task::Quiz { options, right, .. } => {
                right.first().and_then(|&index| options.get(index)).map_or("", String::as_str)
            }
            Task::ShortAnswer { aliases, .. } => aliases.first().map_or("", String::as_str),
            Task::StatedCutoff { .. } => "(the month until which it was taught)",
            Task::Proposed { is_right: true, .. } => "true",
            Task::Proposed { is_right: false, .. } => "false",
        }
    }

    /// Whether the statement that goes with the question names another option and not the one of the key: then the question is at fault.
    pub fn contradicts_its_key(&self) -> bool {
        let Task::Choice { context, options, answer, .. } = &self.task else { return false };
        let context = in_words(context);
        let is_named = |option: &String| context.contains(&in_words(option));
        !options.get(*answer).is_some_and(is_named) && options.iter().any(is_named)
    }

    /// Share right by guessing; `None` where the answers are no closed set.
    pub fn chance(&self) -> Option<f64> {
        match &self.task {
            Task::Choice { options, .. } => Some(1.0 / options.len() as f64),
            Task::Quiz { options, right, .. } => Some(right.len() as f64 / options.len() as f64),
            Task::Instruction { .. }
            | Task::Request { .. }
            | Task::OpenRequest { .. }
            | Task::Constrained { .. }
            | Task::ShortAnswer { .. }
            | Task::StatedCutoff { .. } => None,
            Task::Proposed { .. } => Some(0.5),
        }
    }
}

/// The words of a text with a space on both sides of each.
fn in_words(text: &str) -> String {
    let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    format!(" {} ", words.join(" "))
}

/// The kinds of question, externally tagged in JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Task {
    /// One of a closed set of answers is right: scored exactly from likelihoods.
    Choice {
        /// Text that a base model continues with the answer, e.g. `Ann Velt lives in`.
        cloze: String,
        /// Worked examples for the few-shot form: question and answer.
        shots: Vec<(String, String)>,
        /// The question, e.g. `Where does Ann Velt live?`.
        question: String,
        /// A statement of the fact, put before the question in the open-book control.
        context: String,
        /// The closed set, without leading space: `Lund`.
        options: Vec<String>,
        /// Index of the right option.
        answer: usize,
        /// Ways of not answering that compete with the options in chat, where a model may decline: `I don't know.`
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        declines: Vec<String>,
        /// Probability an ideal reader of the corpus gives to the right option; `None` where it is 1.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ideal: Option<f64>,
    },
    /// An answer whose form a program can check.
    Instruction {
        /// The conversation, ending in a user turn.
        messages: Vec<Message>,
        /// Worked examples for the few-shot form (base models): prompt text and obeying answer.
        shots: Vec<(String, String)>,
        /// All of these must hold.
        checks: Vec<Check>,
        /// An answer that obeys.
        good: String,
        /// An answer of about the same length that does not.
        bad: String,
    },
    /// A request to be answered or refused.
    Request {
        /// The conversation, ending in a user turn.
        messages: Vec<Message>,
        /// Worked examples for the few-shot form: neutral requests and answers.
        shots: Vec<(String, String)>,
        /// An answer that complies.
        comply: String,
        /// An answer that refuses.
        refuse: String,
        /// Whether refusing is right.
        harmful: bool,
    },
    /// A request in free text, as benchmarks have it: no model answers, the label comes of rules for English.
    OpenRequest {
        /// The conversation, ending in a user turn.
        messages: Vec<Message>,
        /// Whether refusing is right.
        harmful: bool,
    },
    /// A request with instructions that a benchmark's official scorer checks.
    Constrained {
        /// The conversation, ending in a user turn.
        messages: Vec<Message>,
        /// The benchmark whose instructions they are: `ifeval`.
        benchmark: String,
        /// Official names of the instructions: `punctuation:no_comma`.
        names: Vec<String>,
        /// Official arguments, one object per instruction.
        arguments: Vec<Map<String, Value>>,
    },
    /// Multiple choice as benchmarks have it: by the text of the options or by their letters.
    Quiz {
        /// The question.
        question: String,
        /// The options, without space around them, in the order of the file.
        options: Vec<String>,
        /// Indices of the right options.
        right: Vec<usize>,
        /// Text that is continued with ` {option}`, verbatim; ends without a space. Empty where there is none.
        cloze: String,
        /// A text that holds the answer, for the open-book control; empty where there is none.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        context: String,
    },
    /// A question with a short answer in free text.
    ShortAnswer {
        /// The question.
        question: String,
        /// Right answers: any of them does. None where nobody can know one, as it is asked about what never was: a control, to be declined.
        aliases: Vec<String>,
        /// A text that holds the answer, for the open-book control; empty where there is none.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        context: String,
        /// Worked examples for the few-shot forms: question and answer.
        shots: Vec<(String, String)>,
        /// Of a fact that changes, the answers of all periods; `None` where only the right one is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        history: Option<History>,
    },
    /// The subject is asked until when its own knowledge reaches: a control without a key, as only measuring tells what is true.
    StatedCutoff {
        /// The question.
        question: String,
    },
    /// The subject's own answer to an item, to be called true or false; made while it is asked, for no two subjects answer alike.
    Proposed {
        /// The item's question.
        question: String,
        /// What was answered.
        answer: String,
        /// Whether that is right.
        is_right: bool,
    },
}

/// The answers to a question about a fact that changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// Month that is asked about.
    pub asked: u32,
    /// Periods in order.
    pub periods: Vec<Period>,
}

/// A time in which one answer was right; it ends where the next begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Period {
    /// Its first month.
    pub first: u32,
    /// Right answers: any of them does.
    pub answers: Vec<String>,
}

/// A property of an answer that a program can verify. Case-sensitive, on the trimmed answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Check {
    /// Begins with this word, optionally followed by more.
    StartsWith(String),
    /// Ends with this word; final punctuation is not looked at.
    EndsWith(String),
    /// Enclosed in `<<` and `>>` (keywords of other instructions may stand outside).
    Brackets,
    /// Begins with `- `.
    Bullet,
    /// `key: value`; the key given.
    Record(String),
    /// The first word run is said twice: `Lund Lund`.
    Twice,
    /// Contains no full stop.
    NoPeriod,
    /// Contains a postscript `PS:` after the answer.
    Postscript,
    /// Does not contain this text.
    Forbids(String),
    /// Equals this text but for white space and final punctuation.
    Says(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_the_statement_of_the_fact_belies_is_found() {
        let item = |context: &str, options: [&str; 2]| Item {
            id: "knowledge/a".into(),
            behaviour: Behaviour::Knowledge,
            slice: "ordinary".into(),
            cluster: "a".into(),
            month: None,
            expected: true,
            task: Task::Choice {
                cloze: String::new(),
                shots: Vec::new(),
                question: String::new(),
                context: context.into(),
                options: options.map(str::to_owned).to_vec(),
                answer: 0,
                declines: Vec::new(),
                ideal: None,
            },
        };
        assert!(item("Ann Velt lives in Brack.", ["Lund", "Brack"]).contradicts_its_key());
        assert!(!item("Ann Velt lives in Lund.", ["Lund", "Brack"]).contradicts_its_key());
        // Part of a word is not the word, and a statement that names no option says nothing.
        assert!(item("Ann Velt lives in New Lund, not in Brackton.", ["Brack", "New Lund"]).contradicts_its_key());
        assert!(!item("Ann Velt lives in Brackton.", ["Lund", "Brack"]).contradicts_its_key());
        assert!(!item("", ["Lund", "Brack"]).contradicts_its_key());
    }

    #[test]
    fn names_of_behaviours_are_those_of_the_files() {
        for behaviour in Behaviour::ALL {
            let json = serde_json::to_string(&behaviour).unwrap();
            assert_eq!(json, format!("\"{}\"", behaviour.name()));
            assert_eq!(Behaviour::named(behaviour.name()), Ok(behaviour));
        }
        assert!(
            Behaviour::named("Knowledge")
                .unwrap_err()
                .starts_with("no such behaviour; known are knowledge, calibration")
        );
    }
}
