//! What a probe may ask of a model: the seam between asking and running.

use crate::chat::{Message, Role};

/// A model that can be asked: scores given continuations and generates answers.
///
/// Probes know subjects only through this trait, never how they were trained.
pub trait Subject {
    /// SHA-256 over everything that an answer depends on (weights, config, tokenizer, chat template), in hexadecimal: the key
    /// under which answers are kept.
    fn fingerprint(&self) -> &str;

    /// Why it cannot do something at all, whatever it is asked; `None` where it can.
    ///
    /// A server may give no log-probabilities of given text, stored answers can only be looked up. What needs it is then not
    /// measurable on this subject.
    fn lacks(&self, ability: Ability) -> Option<&str> {
        (ability == Ability::Draw).then_some("it gives its likeliest answer alone")
    }

    /// The prompt as this subject sees it: a conversation up to and including the assistant's opening.
    ///
    /// # Errors
    /// Where a conversation is given and the subject has no chat template, or the template refuses it.
    fn render(&self, prompt: &Prompt) -> crate::Result<String>;

    /// Ids of the tokens that a text begins a sequence with; `None` where the subject does not show them.
    ///
    /// # Errors
    /// Where the tokenizer refuses the text.
    fn token_ids(&self, text: &str) -> crate::Result<Option<Vec<u32>>> {
        let _ = text;
        Ok(None)
    }

    /// The special token that ends an answer in chat, as text (`<|end|>`); `None` where the subject has none.
    ///
    /// Whole answers are compared with it: without an end, `Lund` could never be less likely than `Lund.`
    fn end_of_turn(&self) -> Option<&str> {
        None
    }

    /// Log-likelihood of each continuation given its context, one result per request, in order; an error in it is about that request
    /// alone (it does not fit the context window, the template refuses it, a server gave up on it).
    ///
    /// # Errors
    /// Where any request would fail: the forward pass does, or the server is not there.
    fn score(&self, requests: &[ScoreRequest]) -> crate::Result<Vec<crate::Result<Score>>>;

    /// Greedy completion of each prompt, one result per request, in order; errors as those of [`Subject::score`].
    ///
    /// # Errors
    /// As [`Subject::score`].
    fn generate(&self, requests: &[GenerateRequest]) -> crate::Result<Vec<crate::Result<Generation>>>;

    /// As [`Subject::generate`], but each token is drawn at a temperature above 0; the same seed draws the same answers.
    ///
    /// # Errors
    /// As [`Subject::generate`]; each request where the subject lacks [`Ability::Draw`].
    fn draw(&self, requests: &[GenerateRequest], how: Drawn) -> crate::Result<Vec<crate::Result<Generation>>> {
        let _ = how;
        let reason = self.lacks(Ability::Draw).unwrap_or_default();
        Ok(requests.iter().map(|_| Err(crate::Error::Lacking { reason: reason.to_owned() })).collect())
    }
}

/// How answers are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// Of the softmax of `logits / temperature`; positive.
    pub temperature: f64,
    /// Seed of the draws.
    pub seed: u64,
}

/// What a subject may be unable to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ability {
    /// Give the likelihood of a continuation: [`Subject::score`].
    Score,
    /// Answer: [`Subject::generate`].
    Generate,
    /// Answer in several ways: [`Subject::draw`].
    Draw,
}

/// What stands before an answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Prompt {
    /// Text to be continued; special tokens written out (`<|user|>`) are parsed.
    Text(String),
    /// A conversation that the assistant continues.
    Chat(Vec<Message>),
}

impl Prompt {
    /// A conversation of one turn.
    pub fn user(content: impl Into<String>) -> Self {
        Self::Chat(vec![Message { role: Role::User, content: content.into() }])
    }
}

/// A context and the continuation whose likelihood is asked for.
///
/// The context is tokenized alone and must end at a token boundary: continuations begin with a space. A beginning-of-sequence token is
/// put before a context that has none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScoreRequest {
    /// What stands before the continuation.
    pub context: Prompt,
    /// Text whose likelihood is asked for.
    pub continuation: String,
}

/// Likelihood of one continuation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Sum over the continuation's tokens of `ln p(token | everything before)`, in nats.
    pub log_prob_nats: f64,
    /// Number of tokens in the continuation.
    pub n_tokens: usize,
    /// Whether every token was the model's most likely one; `None` where a server does not say.
    pub is_greedy: Option<bool>,
}

/// A prompt to complete greedily.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GenerateRequest {
    /// What is continued.
    pub prompt: Prompt,
    /// Most tokens to add.
    pub max_new_tokens: usize,
    /// Stop before the first of these strings (besides the end-of-turn token).
    pub stop: Vec<String>,
}

/// A completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// The text, trimmed, without special tokens.
    pub text: String,
    /// Whether it ended by itself (end-of-turn token or stop string) rather than at the token limit.
    pub is_complete: bool,
    /// Number of tokens generated; `None` where a server does not say.
    pub n_tokens: Option<usize>,
}
