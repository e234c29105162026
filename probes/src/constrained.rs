//! Instructions that a benchmark's official scorer checks, put to any subject.
//!
//! The score is prompt-level strict: 1 where every instruction is followed by the answer as it is. Strict and loose per instruction are
//! made of the kept answer by `phasetrace score`.
//!
//! The answer has at most [`MAX_NEW_TOKENS`] tokens. A subject without a chat template gets the conversation as text, its turns parted
//! by empty lines, and goes on from there: for a lone user turn the very prompt that lm-evaluation-harness gives to base models. One
//! that has a template is asked in it alone, since text without a template seldom ends and so takes several times as long.

use lm::subject::{GenerateRequest, Prompt, Subject};
use serde_json::{Map, Value};

use crate::item::{Item, Task};
use crate::probe::{Elicitation, Judgement, Reply};
use crate::response::Form;
use crate::verifiable::{self, Followed};
use crate::{ifbench, ifeval};

/// Most tokens of an answer, as lm-evaluation-harness has it for IFEval (`max_gen_toks`); the subject's window may end it earlier.
pub const MAX_NEW_TOKENS: usize = 1280;

/// The arguments of one instruction.
pub(crate) type Arguments = Map<String, Value>;

/// Scores an answer by the names and arguments of the instructions, or says what is wrong with these.
type Follow = fn(&[String], &[Arguments], &str) -> Result<Followed, String>;

/// Official scorers, by the name of the benchmark.
const SCORERS: &[(&str, Follow)] =
    &[("ifeval", verifiable::follow::<ifeval::Instruction>), ("ifbench", verifiable::follow::<ifbench::Instruction>)];

/// Whether each instruction is followed, strictly and loosely.
///
/// # Errors
/// Where the benchmark is not known or the instructions are none of its.
pub fn follow(benchmark: &str, names: &[String], arguments: &[Arguments], answer: &str) -> Result<Followed, String> {
    let Some((_, follow)) = SCORERS.iter().find(|(name, _)| *name == benchmark) else {
        let known: Vec<&str> = SCORERS.iter().map(|(name, _)| *name).collect();
        return Err(format!("is {benchmark:?}, which has no official scorer here; there are {}", known.join(", ")));
    };
    if names.is_empty() {
        return Err("is empty: any answer would obey".to_owned());
    }
    if names.len() != arguments.len() {
        return Err(format!("has {} entries for {} instructions", arguments.len(), names.len()));
    }
    follow(names, arguments, answer)
}

pub(crate) fn plan_constrained(item: &Item, form: Form, subject: &dyn Subject) -> Option<Elicitation> {
    let Task::Constrained { messages, .. } = &item.task else { return None };
    let chat = Prompt::Chat(messages.clone());
    let prompt = match form {
        Form::Chat => chat,
        Form::Cloze if subject.render(&chat).is_err() => {
            let turns: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
            Prompt::Text(turns.join("\n\n"))
        }
        _ => return None,
    };
    let generate = GenerateRequest { prompt: prompt.clone(), max_new_tokens: MAX_NEW_TOKENS, stop: Vec::new() };
    Some(Elicitation { prompt, score: Vec::new(), generate: Some(generate) })
}

pub(crate) fn judge_constrained(item: &Item, reply: &Reply<'_>) -> Judgement {
    let Task::Constrained { benchmark, names, arguments, .. } = &item.task else {
        return Judgement::unscored("no instructions of a benchmark");
    };
    let Some(generation) = reply.generation else {
        return Judgement::unscored("no answer was generated");
    };
    let answer = generation.text.clone();
    match follow(benchmark, names, arguments, &answer) {
        Ok(followed) => {
            let unchecked = names.iter().zip(&followed.strict).filter(|(_, strict)| strict.is_none());
            let unchecked: Vec<&str> = unchecked.map(|(name, _)| name.as_str()).collect();
            if !unchecked.is_empty() {
                let reason = format!("cannot be checked here: {}", unchecked.join(", "));
                return Judgement { answer, ..Judgement::unscored(reason) };
            }
            let is_kept = followed.strict.iter().all(|&strict| strict == Some(true));
            Judgement { score: Some(if is_kept { 1.0 } else { 0.0 }), answer, ..Judgement::default() }
        }
        Err(reason) => Judgement { answer, ..Judgement::unscored(reason) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::{Failure, Lookup, constrained_item, plan_of, reply_to};

    #[test]
    fn a_subject_that_ignores_the_instructions_is_found_and_its_healthy_twin_is_not() {
        let item = constrained_item();
        let heedful = reply_to(&Lookup::new("heedful").saying("Lund is old and it is small."), &item, Form::Chat);
        assert_eq!((heedful.score, heedful.answer.as_str()), (Some(1.0), "Lund is old and it is small."));
        // One of two instructions is not enough.
        let careless = reply_to(&Lookup::new("careless").saying("Lund is old, and it is small."), &item, Form::Chat);
        assert_eq!(careless.score, Some(0.0));
        let Task::Constrained { names, arguments, .. } = &item.task else { unreachable!() };
        let followed = follow("ifeval", names, arguments, &careless.answer).unwrap();
        assert_eq!((followed.strict, followed.loose), (vec![Some(false), Some(true)], vec![Some(false), Some(true)]));
    }

    #[test]
    fn an_instruction_that_cannot_be_checked_is_named_and_nothing_is_said_of_the_answer() {
        let names = ["words:start_verb", "format:no_whitespace"].map(str::to_owned).to_vec();
        let Item { task: Task::Constrained { messages, .. }, .. } = constrained_item() else { unreachable!() };
        let arguments = vec![Map::new(); names.len()];
        let task = Task::Constrained { messages, benchmark: "ifbench".to_owned(), names, arguments };
        let item = Item { task, ..constrained_item() };
        let reply = reply_to(&Lookup::new("terse").saying("Go"), &item, Form::Chat);
        assert_eq!((reply.score, reply.answer.as_str()), (None, "Go"));
        assert_eq!(reply.unscored.as_deref(), Some("cannot be checked here: words:start_verb"));
    }

    #[test]
    fn only_a_subject_without_a_template_is_asked_in_text() {
        let item = constrained_item();
        assert_eq!(plan_of(&Lookup::new("chat"), &item, Form::Cloze), None);
        let base = Lookup::new("base").failing(Failure::NoTemplate);
        let elicitation = plan_of(&base, &item, Form::Cloze).unwrap();
        assert_eq!(elicitation.prompt, Prompt::Text("Tell me of Lund. Use no commas. Use the word old.".to_owned()));
        assert_eq!(elicitation.generate.unwrap().max_new_tokens, 1280);
    }

    #[test]
    fn instructions_that_no_scorer_knows_are_named() {
        let empty = [Map::new()];
        let fault = |benchmark: &str, name: &str| follow(benchmark, &[name.to_owned()], &empty, "").unwrap_err();
        assert_eq!(
            fault("nosuch", "a:b"),
            "is \"nosuch\", which has no official scorer here; there are ifeval, ifbench"
        );
        assert!(fault("ifeval", "a:b").contains("a:b"));
        assert!(follow("ifeval", &["punctuation:no_comma".to_owned()], &[], "").is_err());
        assert!(follow("ifeval", &[], &[], "").is_err());
    }
}
