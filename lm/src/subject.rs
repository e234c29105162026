//! What a probe may ask of a model: the seam between asking and running.

use crate::chat::Message;

/// A model that can be asked: scores given continuations and generates answers.
///
/// Probes know subjects only through this trait, never how they were trained.
pub trait Subject {
    /// SHA-256 over everything that an answer depends on (weights, config, tokenizer, chat template), in hexadecimal: the key
    /// under which answers are kept.
    fn fingerprint(&self) -> &str;

    /// Renders a conversation up to and including the assistant's opening.
    ///
    /// # Errors
    /// Where the subject has no chat template or the template refuses the messages.
    fn render_chat(&self, messages: &[Message]) -> crate::Result<String>;

    /// The special token that ends an answer in chat, as text (`<|end|>`); `None` where the subject has none.
    ///
    /// Whole answers are compared with it: without an end, `Lund` could never be less likely than `Lund.`
    fn end_of_turn(&self) -> Option<&str> {
        None
    }

    /// Log-likelihood of each continuation given its context, one result per request, in order.
    ///
    /// # Errors
    /// Where a request does not fit the context window or the forward pass fails.
    fn score(&self, requests: &[ScoreRequest]) -> crate::Result<Vec<Score>>;

    /// Greedy completion of each prompt, one result per request, in order.
    ///
    /// # Errors
    /// Where a request does not fit the context window or the forward pass fails.
    fn generate(&self, requests: &[GenerateRequest]) -> crate::Result<Vec<Generation>>;
}

/// A context and the continuation whose likelihood is asked for.
///
/// Both are text; special tokens written out (`<|user|>`) are parsed. The context is tokenized alone and must end at a token
/// boundary: continuations begin with a space. A beginning-of-sequence token is put before a context that has none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScoreRequest {
    /// Text before the continuation.
    pub context: String,
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
    /// Whether every token was the model's most likely one.
    pub is_greedy: bool,
}

/// A prompt to complete greedily.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GenerateRequest {
    /// Text to continue; special tokens written out are parsed.
    pub prompt: String,
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
    /// Number of tokens generated.
    pub n_tokens: usize,
}
