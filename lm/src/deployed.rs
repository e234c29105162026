//! A model as users meet it: behind an operator's system prompt, or served with another chat template.

use crate::chat::{ChatTemplate, Message, Opening, Role};
use crate::model::{LoadedModel, answer_each};
use crate::subject::{Ability, Drawn, GenerateRequest, Generation, Prompt, Score, ScoreRequest, Subject};
use crate::tensors::hexadecimal;
use crate::{Error, Result};
use sha2::{Digest, Sha256};

/// A model whose conversations begin with a system prompt, or are rendered by a template that is not its own.
///
/// A conversation that has a system prompt gets the deployment's before it, in the same turn. Forms that are no chat are not
/// affected.
#[derive(Debug, Clone)]
pub struct Deployed<'a> {
    model: &'a LoadedModel,
    system: Option<String>,
    template: Option<ChatTemplate>,
    fingerprint: String,
}

impl<'a> Deployed<'a> {
    /// Puts a model behind a system prompt and a template; none of either leaves it as it is.
    ///
    /// # Errors
    /// [`Error::BadChatTemplate`] where the template does not compile, [`Error::NoChatTemplate`] where the model has none.
    pub fn new(model: &'a LoadedModel, system: Option<&str>, template: Option<&str>) -> Result<Self> {
        let mut hasher = Sha256::new();
        for text in [Some("deployed"), Some(model.fingerprint()), system, template] {
            let text = text.unwrap_or_default();
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text);
        }
        Ok(Self {
            model,
            system: system.map(str::to_owned),
            template: match (template, model.tokenizer().template()) {
                (None, _) => None,
                (Some(source), Some(own)) => Some(own.with_source(source)?),
                (Some(_), None) => return Err(Error::NoChatTemplate),
            },
            fingerprint: hexadecimal(&hasher.finalize()),
        })
    }

    fn rendered(&self, requests: &[GenerateRequest]) -> Vec<Result<GenerateRequest>> {
        let render = |request: &GenerateRequest| {
            Ok(GenerateRequest { prompt: Prompt::Text(self.render(&request.prompt)?), ..request.clone() })
        };
        requests.iter().map(render).collect()
    }

    fn with_system(&self, messages: &[Message]) -> Vec<Message> {
        let Some(system) = &self.system else { return messages.to_vec() };
        let (own, rest) = match messages.split_first() {
            Some((first, rest)) if first.role == Role::System => (format!("{system} {}", first.content), rest),
            _ => (system.clone(), messages),
        };
        let mut all = vec![Message { role: Role::System, content: own }];
        all.extend_from_slice(rest);
        all
    }
}

impl Subject for Deployed<'_> {
    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn render(&self, prompt: &Prompt) -> Result<String> {
        match (prompt, &self.template) {
            (Prompt::Text(text), _) => Ok(text.clone()),
            (Prompt::Chat(messages), Some(template)) => {
                template.render(&self.with_system(messages), Opening::Assistant)
            }
            (Prompt::Chat(messages), None) => self.model.render(&Prompt::Chat(self.with_system(messages))),
        }
    }

    fn end_of_turn(&self) -> Option<&str> {
        self.model.end_of_turn()
    }

    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Result<Score>>> {
        let rendered = requests.iter().map(|request| {
            let continuation = request.continuation.clone();
            Ok(ScoreRequest { context: Prompt::Text(self.render(&request.context)?), continuation })
        });
        answer_each(rendered.collect(), |requests| self.model.score(requests)).map(flatten)
    }

    fn generate(&self, requests: &[GenerateRequest]) -> Result<Vec<Result<Generation>>> {
        answer_each(self.rendered(requests), |requests| self.model.generate(requests)).map(flatten)
    }

    fn lacks(&self, ability: Ability) -> Option<&str> {
        self.model.lacks(ability)
    }

    fn draw(&self, requests: &[GenerateRequest], how: Drawn) -> Result<Vec<Result<Generation>>> {
        answer_each(self.rendered(requests), |requests| self.model.draw(requests, how)).map(flatten)
    }
}

fn flatten<T>(answers: Vec<Result<Result<T>>>) -> Vec<Result<T>> {
    answers.into_iter().map(|answer| answer.and_then(|answer| answer)).collect()
}

#[cfg(test)]
mod tests {
    use super::Deployed;
    use crate::chat::{Message, Role};
    use crate::model::LoadedModel;
    use crate::model::tests::tiny_checkpoint;
    use crate::subject::{Prompt, Subject};

    fn turn(role: Role, content: &str) -> Message {
        Message { role, content: content.to_owned() }
    }

    #[test]
    fn the_system_prompt_stands_first_and_once() {
        let model = LoadedModel::new(&tiny_checkpoint(1)).unwrap();
        let deployed = Deployed::new(&model, Some("Be careful."), None).unwrap();
        let user = turn(Role::User, "hello");
        let plain = deployed.render(&Prompt::Chat(vec![user.clone()])).unwrap();
        assert_eq!(plain, model.render(&Prompt::Chat(vec![turn(Role::System, "Be careful."), user.clone()])).unwrap());
        let both = deployed.render(&Prompt::Chat(vec![turn(Role::System, "Be short."), user.clone()])).unwrap();
        assert_eq!(both, model.render(&Prompt::Chat(vec![turn(Role::System, "Be careful. Be short."), user])).unwrap());
    }

    #[test]
    fn each_deployment_has_a_key_of_its_own_and_a_template_that_is_used() {
        let model = LoadedModel::new(&tiny_checkpoint(1)).unwrap();
        let deploy = |system, template| Deployed::new(&model, system, template).unwrap();
        let keys = [deploy(Some("a"), None), deploy(Some("b"), None), deploy(None, Some("a"))];
        assert!(keys[0].fingerprint() != keys[1].fingerprint() && keys[0].fingerprint() != keys[2].fingerprint());
        let other = deploy(None, Some("{% for m in messages %}[{{ m['content'] }}]{% endfor %}"));
        assert_eq!(other.render(&Prompt::user("hello")).unwrap(), "[hello]");
        assert!(Deployed::new(&model, None, Some("{% for")).is_err());
    }
}
