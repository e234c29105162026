//! Stored answers as a subject: what a model said elsewhere, put to the items that it was asked.

use std::collections::BTreeMap;
use std::path::Path;

use lm::chat::{Message, Role};
use lm::subject::{Ability, GenerateRequest, Generation, Prompt, Score, ScoreRequest, Subject};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::item::{Item, Task};
use crate::probe_of;
use crate::response::Form;
use crate::stated_cutoff;
use crate::stored::{self, Name};

/// Answers from a file of JSON lines, one per item, as `score` takes them: found by `key` (the item's name, or what follows its
/// benchmark's) or by the text of `prompt`.
///
/// It answers the questions as they are in the bank and, where the file has answers to them, those for its own cutoff
/// ([`crate::stated_cutoff::items`]), and no others: it has no likelihoods, draws nothing, and knows no other form.
#[derive(Debug, Clone)]
pub struct StoredAnswers {
    answers: BTreeMap<String, String>,
    notes: Vec<String>,
    fingerprint: String,
}

impl StoredAnswers {
    /// Reads the answers to those of the items that have one.
    ///
    /// # Errors
    /// Where the file cannot be read, a line is no answer, two answer one item, or none fits any item.
    pub fn load(path: &Path, items: &[Item]) -> Result<Self> {
        let is_one_benchmark = items.windows(2).all(|pair| benchmark(&pair[0]) == benchmark(&pair[1]));
        let names: Vec<Name> = items
            .iter()
            .map(|item| {
                let own = item.id.split_once('/').filter(|_| is_one_benchmark).map_or(item.id.as_str(), |(_, own)| own);
                Name { key: own, prompt: item.question() }
            })
            .collect();
        let about_itself = stated_cutoff::items();
        let others: Vec<Name> =
            about_itself.iter().map(|item| Name { key: &item.id, prompt: item.question() }).collect();
        let joined = stored::join_with(path, &names, &others)?;
        let bytes = std::fs::read(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
        let fingerprint = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let mut stored = Self { answers: BTreeMap::new(), notes: joined.notes, fingerprint };
        let answered = items.iter().chain(&about_itself).zip(joined.responses);
        let answers = answered.filter_map(|(item, answer)| Some((asked(item, &stored)?, answer?))).collect();
        stored.answers = answers;
        Ok(stored)
    }

    /// Which items have no answer, and which answers no item.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// The benchmark that an item is of, by its name.
fn benchmark(item: &Item) -> Option<&str> {
    item.id.split_once('/').map(|(benchmark, _)| benchmark)
}

/// What the item's probe asks in chat, all turns of it; `None` where it asks nothing of the kind.
fn asked(item: &Item, subject: &dyn Subject) -> Option<String> {
    // Letters of a quiz name options in the order in which they were shown, which is not known here.
    if matches!(item.task, Task::Quiz { .. }) {
        return None;
    }
    match probe_of(item.behaviour).plan(item, Form::Chat, subject)?.prompt {
        Prompt::Chat(messages) => Some(transcript(&messages)),
        Prompt::Text(_) => None,
    }
}

/// A conversation as text, a line per turn.
fn transcript(messages: &[Message]) -> String {
    let lines = messages.iter().map(|message| {
        let role = match message.role {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        format!("{role}: {}\n", message.content)
    });
    lines.collect()
}

impl Subject for StoredAnswers {
    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn lacks(&self, ability: Ability) -> Option<&str> {
        match ability {
            Ability::Score => Some("stored answers come without likelihoods"),
            Ability::Draw => Some("stored answers are what they are"),
            Ability::Generate => None,
        }
    }

    fn render(&self, prompt: &Prompt) -> lm::Result<String> {
        Ok(match prompt {
            Prompt::Text(text) => text.clone(),
            Prompt::Chat(messages) => transcript(messages),
        })
    }

    fn score(&self, requests: &[ScoreRequest]) -> lm::Result<Vec<lm::Result<Score>>> {
        let reason = "stored answers come without likelihoods";
        Ok(requests.iter().map(|_| Err(lm::Error::Lacking { reason: reason.to_owned() })).collect())
    }

    fn generate(&self, requests: &[GenerateRequest]) -> lm::Result<Vec<lm::Result<Generation>>> {
        let answer = |request: &GenerateRequest| {
            let stored = match &request.prompt {
                Prompt::Chat(messages) => self.answers.get(&transcript(messages)),
                Prompt::Text(_) => None,
            };
            let text = stored.ok_or_else(|| lm::Error::Lacking { reason: "no answer to this is stored".to_owned() })?;
            Ok(Generation { text: text.clone(), is_complete: true, n_tokens: None })
        };
        Ok(requests.iter().map(answer).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ask::ask;
    use crate::item::Behaviour;
    use crate::lookup::{choice_item, instruction_item, request_item};
    use crate::response::{Label, Response};

    fn ask_stored(lines: &str, items: &[Item], forms: &[Form]) -> Result<Vec<Response>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        std::fs::write(&path, lines).unwrap();
        let subject = StoredAnswers::load(&path, items)?;
        let mut responses = Vec::new();
        ask::<Error>(&subject, items, forms, &BTreeSet::new(), &mut |batch| {
            responses.extend(batch);
            Ok(())
        })?;
        Ok(responses)
    }

    #[test]
    fn stored_answers_are_scored_as_if_they_were_given_now() {
        let items = [instruction_item(), request_item(true), choice_item(Behaviour::Knowledge)];
        let lines = format!(
            "{{\"prompt\": \"{}\", \"response\": \"<< Lund >>\"}}\n{{\"key\": \"{}\", \"response\": \"Sorry, I can't help with that.\"}}",
            items[0].question(),
            items[1].id,
        );
        let responses = ask_stored(&lines, &items, &[Form::Chat]).unwrap();
        assert_eq!((responses[0].score, responses[0].answer.as_str()), (Some(1.0), "<< Lund >>"));
        assert_eq!((responses[1].score, responses[1].label), (Some(1.0), Some(Label::Refuse)));
        let reason = responses[2].unscored.as_deref().unwrap();
        assert_eq!(reason, "not measurable here: stored answers come without likelihoods");
    }

    #[test]
    fn what_a_subject_said_of_its_cutoff_may_be_stored_too() {
        let items = [instruction_item(), request_item(true)];
        let about_itself = stated_cutoff::items();
        let lines = format!(
            "{{\"key\": \"{}\", \"response\": \"<< Lund >>\"}}\n{{\"prompt\": \"{}\", \"response\": \"April 2023\"}}",
            items[0].id,
            about_itself[1].question(),
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        std::fs::write(&path, &lines).unwrap();
        let subject = StoredAnswers::load(&path, &items).unwrap();
        assert_eq!(subject.notes(), [format!("1 item without a response: {}", items[1].id)]);
        let asked = [&items[..], &about_itself].concat();
        let mut responses = Vec::new();
        ask::<Error>(&subject, &asked, &[Form::Chat], &BTreeSet::new(), &mut |batch| {
            responses.extend(batch);
            Ok(())
        })
        .unwrap();
        let scores: Vec<Option<f64>> = responses.iter().map(|response| response.score).collect();
        assert_eq!(scores, [Some(1.0), None, None, Some(1.0), None, None]);
        assert_eq!(responses[3].answer, "April 2023");
    }

    #[test]
    fn what_was_not_answered_and_what_was_asked_otherwise_has_no_score() {
        let items = [instruction_item(), request_item(false)];
        let lines = format!("{{\"key\": \"{}\", \"response\": \"<< Lund >>\"}}", items[0].id);
        let responses = ask_stored(&lines, &items, &[Form::FewShot, Form::Chat]).unwrap();
        let reasons: Vec<Option<&str>> = responses.iter().map(|response| response.unscored.as_deref()).collect();
        let missing = Some("not measurable here: no answer to this is stored");
        assert_eq!(reasons, [missing, missing, None, missing]);
    }

    #[test]
    fn the_name_within_its_benchmark_is_enough_where_there_is_one() {
        let mut items = [instruction_item(), request_item(true)];
        items[0].id = "set/7".to_owned();
        items[1].id = "set/8".to_owned();
        let lines = "{\"key\": 7, \"response\": \"<< Lund >>\"}";
        assert_eq!(ask_stored(lines, &items, &[Form::Chat]).unwrap()[0].score, Some(1.0));
        items[1].id = "other/7".to_owned();
        let error = ask_stored(lines, &items, &[Form::Chat]).unwrap_err().to_string();
        assert!(error.contains("no response fits an item"), "{error}");
    }
}
