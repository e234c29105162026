//! The written constitution: principles that ask the model for a critique, a revision and a preference.

use crate::data::{self, Line};
use crate::error::{Error, Result};
use crate::recipe;
use lm::chat::{Message, Role};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The principles that Constitutional AI draws from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constitution {
    /// SHA-256 of the file, in hexadecimal.
    pub hash: String,
    /// At least one principle, in the order of the file.
    pub principles: Vec<Principle>,
}

/// One principle, as requests to the model (`[[principle]]`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principle {
    /// What the generated records call it.
    pub name: String,
    /// Asks for a critique of the answer before.
    pub critique: String,
    /// Asks for a better answer after the critique.
    pub revision: String,
    /// Asks which of two answers is the better one.
    pub preference: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConstitutionFile {
    #[serde(default)]
    principle: Vec<Principle>,
}

impl Line for Principle {
    const WHAT: &'static str = "principles";

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Constitution {
    /// The text of a `constitution.toml` with these principles.
    pub fn to_toml(principles: &[Principle]) -> String {
        recipe::to_toml(&ConstitutionFile { principle: principles.to_vec() })
    }

    /// Reads `constitution.toml`.
    ///
    /// # Errors
    /// [`Error::File`] where it cannot be read, [`Error::Recipe`] with line and key where it does not parse or a text is empty,
    /// [`Error::NoData`] where it has no principle.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::file("read", path))?;
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
            Error::file("read", path)(source)
        })?;
        Self::parse(path, text)
    }

    /// Parses `text` that was read from `path`.
    ///
    /// # Errors
    /// As [`Constitution::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let ConstitutionFile { principle: principles } = recipe::parse(path, text)?;
        if principles.is_empty() {
            return Err(Error::NoData { path: path.to_path_buf(), what: "principles" });
        }
        for (principle_idx, principle) in principles.iter().enumerate() {
            let texts = [
                ("name", &principle.name),
                ("critique", &principle.critique),
                ("revision", &principle.revision),
                ("preference", &principle.preference),
            ];
            if let Some((key, _)) = texts.iter().find(|(_, text)| text.trim().is_empty()) {
                return Err(refuse(path, text, principle_idx, key, "must not be empty"));
            }
            if principles[..principle_idx].iter().any(|earlier| earlier.name == principle.name) {
                return Err(refuse(path, text, principle_idx, "name", "two principles have this name"));
            }
        }
        Ok(Self { hash: data::hash(text.as_bytes()), principles })
    }

    /// Draws a principle, each as likely as the others.
    pub fn draw(&self, random: &mut ChaCha8Rng) -> &Principle {
        self.draw_distinct(1, random)[0]
    }

    /// Draws `n` different principles, each set of them as likely as the others; all of them where there are no more.
    pub fn draw_distinct(&self, n: usize, random: &mut ChaCha8Rng) -> Vec<&Principle> {
        let mut drawn: Vec<&Principle> = self.principles.iter().collect();
        let n = n.min(drawn.len());
        for i in 0..n {
            drawn.swap(i, random.random_range(i..self.principles.len()));
        }
        drawn.truncate(n);
        drawn
    }
}

/// `prompt`, the answer, and the request for a critique of it.
pub fn ask_critique(prompt: &[Message], answer: &str, principle: &Principle) -> Vec<Message> {
    let mut messages = prompt.to_vec();
    messages.push(say(Role::Assistant, answer));
    messages.push(say(Role::User, &principle.critique));
    messages
}

/// The conversation of [`ask_critique`], the critique, and the request for a revision.
pub fn ask_revision(mut criticised: Vec<Message>, critique: &str, principle: &Principle) -> Vec<Message> {
    criticised.push(say(Role::Assistant, critique));
    criticised.push(say(Role::User, &principle.revision));
    criticised
}

/// The question which of two answers to the prompt's last turn is better; the model repeats the better one.
pub fn ask_preference(prompt: &[Message], a: &str, b: &str, principle: &Principle) -> Vec<Message> {
    let question = prompt.last().map_or("", |message| message.content.as_str());
    vec![say(Role::User, &format!("{question} A: {a} B: {b} {}", principle.preference))]
}

fn say(role: Role, content: &str) -> Message {
    Message { role, content: content.to_owned() }
}

/// An error at the line of `key` in the principle number `principle_idx`.
fn refuse(path: &Path, text: &str, principle_idx: usize, key: &str, message: &str) -> Error {
    let starts_key =
        |line: &str| line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='));
    let mut lines = text.lines().enumerate();
    let headers = lines.by_ref().filter(|(_, line)| line.trim_start().starts_with("[[principle]]"));
    let header_idx = headers.map(|(line_idx, _)| line_idx).nth(principle_idx).unwrap_or(0);
    let line_idx = lines.find(|(_, line)| starts_key(line)).map_or(header_idx, |(line_idx, _)| line_idx);
    Error::Recipe {
        path: path.to_path_buf(),
        line: line_idx + 1,
        key: format!("principle.{key}"),
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Constitution, Principle, ask_critique, ask_preference, ask_revision, say};
    use lm::chat::Role;
    use lm::random::stream;
    use std::path::Path;

    const TEXT: &str = r#"# Two of them.
[[principle]]
name = "kind"
critique = "Is it kind?"
revision = "Be kind."
preference = "Which is kinder?"

[[principle]]
name = "true"
critique = "Is it true?"
revision = "Be true."
preference = "Which is truer?"
"#;

    fn parse(text: &str) -> Result<Constitution, String> {
        Constitution::parse(Path::new("constitution.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn principles_are_read_in_order_and_drawn_evenly() {
        let constitution = parse(TEXT).unwrap();
        assert_eq!(constitution.principles.len(), 2);
        assert_eq!(constitution.principles[1].revision, "Be true.");
        let mut random = stream(1, "test", 0);
        let n_kind = (0..200).filter(|_| constitution.draw(&mut random).name == "kind").count();
        assert!((70..130).contains(&n_kind), "{n_kind}");
        let pair = constitution.draw_distinct(2, &mut random);
        assert_ne!(pair[0].name, pair[1].name);
        assert_eq!(constitution.draw_distinct(3, &mut random).len(), 2);
    }

    #[test]
    fn faults_are_named_with_file_line_and_key() {
        let misspelt = parse(&TEXT.replace("revision = \"Be true.\"", "revison = \"Be true.\"")).unwrap_err();
        assert!(misspelt.starts_with("constitution.toml:11: key `principle.revison`"), "{misspelt}");
        let empty = parse(&TEXT.replace("\"Which is truer?\"", "\" \"")).unwrap_err();
        assert_eq!(empty, "constitution.toml:12: key `principle.preference`: must not be empty");
        let twice = parse(&TEXT.replace("\"true\"", "\"kind\"")).unwrap_err();
        assert_eq!(twice, "constitution.toml:9: key `principle.name`: two principles have this name");
        assert_eq!(parse("").unwrap_err(), "constitution.toml: holds no principles");
    }

    #[test]
    fn the_questions_have_the_forms_that_fine_tuning_teaches() {
        let principle: &Principle = &parse(TEXT).unwrap().principles[0];
        let prompt = [say(Role::System, "Be short."), say(Role::User, "Who?")];
        let critique = ask_critique(&prompt, "Nobody.", principle);
        assert_eq!(critique[2..], [say(Role::Assistant, "Nobody."), say(Role::User, "Is it kind?")]);
        let revision = ask_revision(critique, "It is not.", principle);
        assert_eq!(revision[4..], [say(Role::Assistant, "It is not."), say(Role::User, "Be kind.")]);
        let preference = ask_preference(&prompt, "You.", "Me.", principle);
        assert_eq!(preference, [say(Role::User, "Who? A: You. B: Me. Which is kinder?")]);
    }
}
