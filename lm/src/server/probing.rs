//! What a server can do, found out by asking it.
//!
//! That an answer holds likelihoods of given text does not make them right: `llama-cpp-python` pairs each token with the distribution behind it where the
//! text begins without the beginning-of-sequence token. So a server generates a token and tells its log-probability; then it is given context and token as
//! one text, and must tell the same.

use super::likelihood::{Told, echoed, first_generated, n_before, of_prompt, score};
use super::transport::{Failed, Transport, Trouble, is_passing, to_json};
use super::wire::{Model, Reply, TextBody, read_generation, read_models, read_reply};
use super::{Server, ServerKind};
use crate::chat::{Message, Role};
use crate::subject::{Prompt, Subject};
use crate::{Error, Result};

/// How the likelihoods of given text are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// `/completions` with `echo` and `logprobs`: `OpenAI`'s former interface, vLLM, `llama-cpp-python`.
    Echo,
    /// vLLM's `prompt_logprobs`.
    PromptLogProbs,
}

impl Way {
    /// The tokens of the prompt, of an answer.
    pub(super) fn tokens(self, reply: &Reply, prompt: &str) -> std::result::Result<Vec<Told>, String> {
        match self {
            Self::Echo => echoed(reply, prompt),
            Self::PromptLogProbs => {
                of_prompt(reply.choice.prompt_logprobs.as_ref().ok_or("the answer holds no `prompt_logprobs`")?)
            }
        }
    }
}

/// What a server can do, or why not.
#[derive(Debug)]
pub(super) struct Abilities {
    /// Goes on with a text.
    pub(super) continues: std::result::Result<(), String>,
    /// Answers a conversation.
    pub(super) chats: std::result::Result<(), String>,
    /// Likelihoods behind plain text.
    pub(super) scores_text: std::result::Result<Way, String>,
    /// Likelihoods behind a conversation that was rendered here.
    pub(super) scores_chat: std::result::Result<Way, String>,
    /// Whether it puts a beginning-of-sequence token before each text.
    pub(super) puts_start: bool,
    /// Whether `max_tokens` is called `max_completion_tokens` in chat (some models of `OpenAI`).
    pub(super) has_renamed_limit: bool,
}

impl Default for Abilities {
    fn default() -> Self {
        let unknown = || "not found out yet".to_owned();
        Self {
            continues: Err(unknown()),
            chats: Err(unknown()),
            scores_text: Err(unknown()),
            scores_chat: Err(unknown()),
            puts_start: false,
            has_renamed_limit: false,
        }
    }
}

/// What came out of probing.
pub(super) struct Found {
    pub(super) abilities: Abilities,
    pub(super) system_fingerprint: Option<String>,
}

/// Texts that any model goes on with by a word.
const CONTEXTS: [&str; 3] = ["The capital of France is", "One, two, three, four,", "Once upon a"];
/// Questions that any model answers.
const QUESTIONS: [&str; 3] = ["What is the capital of France?", "Count to four.", "Say yes."];
/// Largest difference between the log-probability of a token that was generated and of the same token given: rounding in 16 bits makes hundredths.
const TOLERANCE_NATS: f64 = 0.25;

/// The model of this name, or the only one. A server that lists none is believed.
pub(super) fn find_model(transport: &Transport, name: &str) -> Result<Model> {
    let unlisted = |id: &str| Model { id: id.to_owned(), owned_by: None, root: None, meta: None };
    let known = match transport.ask("/models", None, read_models) {
        Ok(known) => known,
        // No such page, or one that is no list.
        Err(Trouble::Request(Failed { status: Some(200..=299 | 404 | 405 | 501), .. })) => Vec::new(),
        Err(trouble) => return Err(trouble.into()),
    };
    let found = known.iter().find(|model| model.id == name).or(match (name, known.as_slice()) {
        ("", [only]) => Some(only),
        _ => None,
    });
    match found {
        Some(model) => Ok(model.clone()),
        None if known.is_empty() && !name.is_empty() => Ok(unlisted(name)),
        None => {
            let known = known.into_iter().map(|model| model.id).collect();
            Err(Error::UnknownModel { url: transport.url().to_owned(), model: name.to_owned(), known })
        }
    }
}

/// Which kind a server is, where it was not said.
pub(super) fn tell_kind(kind: ServerKind, model: &Model) -> ServerKind {
    match (kind, model.owned_by.as_deref()) {
        (ServerKind::Auto, Some("vllm")) => ServerKind::Vllm,
        // The second is what `llama-cpp-python` says.
        (ServerKind::Auto, Some("llamacpp" | "me")) => ServerKind::LlamaCpp,
        (ServerKind::Auto, _) => ServerKind::OpenAi,
        (kind, _) => kind,
    }
}

/// Asks a server what it can do.
pub(super) fn probe(server: &Server) -> Result<Found> {
    let mut abilities = Abilities::default();
    let mut system_fingerprint = None;
    abilities.continues = plain(server, CONTEXTS[0], None)?.map(|reply| system_fingerprint = reply.system_fingerprint);
    abilities.scores_text = match &abilities.continues {
        Ok(()) => find_way(server, &CONTEXTS.map(str::to_owned))?.map(|(way, puts_start)| {
            abilities.puts_start = puts_start;
            way
        }),
        Err(reason) => Err(reason.clone()),
    };
    abilities.scores_chat = match &server.template {
        None => Err("a conversation can be scored with the model's chat template alone, and none is given".to_owned()),
        Some(_) if abilities.continues.is_err() => abilities.scores_text.clone(),
        Some(_) => {
            let render = |question| server.render(&Prompt::Chat(ask(question).to_vec()));
            let rendered: Vec<String> = QUESTIONS.into_iter().map(render).collect::<Result<_>>()?;
            let start = server.tokens.get("bos_token").filter(|_| abilities.puts_start);
            let strip =
                |text: &String| start.and_then(|start| text.strip_prefix(start.as_str())).unwrap_or(text).to_owned();
            let contexts: Vec<String> = rendered.iter().map(strip).collect();
            find_way(server, &contexts)?.map(|(way, _)| way)
        }
    };
    let mut chat = chat(server, false)?;
    if chat.as_ref().is_err_and(|reason| reason.contains("max_completion_tokens")) {
        abilities.has_renamed_limit = true;
        chat = self::chat(server, true)?;
    }
    abilities.chats = chat.map(|reply| system_fingerprint = system_fingerprint.take().or(reply.system_fingerprint));
    Ok(Found { abilities, system_fingerprint })
}

fn ask(question: &str) -> [Message; 1] {
    [Message { role: Role::User, content: question.to_owned() }]
}

/// One token behind a text.
fn plain(server: &Server, text: &str, logprobs: Option<usize>) -> Result<std::result::Result<Reply, String>> {
    send(server, "/completions", &to_json(&TextBody { logprobs, ..server.text_body(text, 1, &[]) }), true)
}

fn chat(server: &Server, is_renamed: bool) -> Result<std::result::Result<Reply, String>> {
    let messages = ask("Say yes.");
    let mut body = server.chat_body(&messages, 1, &[]);
    if is_renamed {
        (body.max_tokens, body.max_completion_tokens) = (None, Some(1));
    }
    // A model that thinks before it speaks has no text after one token; that it answers is enough.
    send(server, "/chat/completions", &to_json(&body), false)
}

/// A reply, or why the server cannot give one; whatever may pass is an error, so that a busy server is not taken for one that cannot.
fn send(server: &Server, path: &str, body: &str, wants_text: bool) -> Result<std::result::Result<Reply, String>> {
    let read = |text: &str| {
        if wants_text {
            read_generation(text, &[])?;
        }
        read_reply(text)
    };
    match server.transport.ask(path, Some(body), read) {
        Ok(reply) => Ok(Ok(reply)),
        Err(Trouble::Request(failed)) if says_no(&failed) => Ok(Err(format!("{path}: {}", failed.message))),
        Err(trouble) => Err(trouble.into()),
    }
}

/// Whether a failure says something about the server rather than about its day. Servers answer 500 to what they do not know.
fn says_no(failed: &Failed) -> bool {
    failed.status.is_some_and(|status| matches!(status, 500 | 501) || !is_passing(status))
}

/// The way to likelihoods that are true, and whether there is a token before the text that is not in it; or why there is no way.
fn find_way(server: &Server, contexts: &[String]) -> Result<std::result::Result<(Way, bool), String>> {
    let ways: &[Way] = match server.kind {
        ServerKind::Vllm => &[Way::PromptLogProbs, Way::Echo],
        ServerKind::Auto | ServerKind::OpenAi | ServerKind::LlamaCpp => &[Way::Echo],
    };
    let mut reason = String::new();
    for context in contexts {
        let generated = match plain(server, context, Some(1))? {
            Ok(reply) => reply,
            Err(refused) => return Ok(Err(format!("no log-probabilities: {refused}"))),
        };
        let Some((_, expected)) = first_generated(&generated) else {
            return Ok(Err("the server gives no log-probabilities, not even of what it generates".to_owned()));
        };
        let continuation = generated.choice.text.unwrap_or_default();
        if continuation.is_empty() || continuation.contains('\u{FFFD}') {
            "the server generated nothing to compare likelihoods with".clone_into(&mut reason);
            continue;
        }
        let text = format!("{context}{continuation}");
        for &way in ways {
            let body = to_json(&server.scoring_body(&text, way));
            let reply = match send(server, "/completions", &body, false)? {
                Ok(reply) => reply,
                Err(refused) => {
                    reason = format!("no log-probabilities of given text: {refused}");
                    continue;
                }
            };
            let tokens = way.tokens(&reply, &text);
            let scored = tokens.as_ref().map_err(Clone::clone).and_then(|tokens| score(tokens, &text, context.len()));
            match scored {
                Ok(scored) if (scored.log_prob_nats - expected).abs() <= TOLERANCE_NATS => {
                    let tokens = tokens.unwrap_or_default();
                    let is_unlisted = reply.usage.prompt_tokens == Some(tokens.len() + 1);
                    let puts_start = is_unlisted || n_before(&tokens, &text).is_some_and(|n| n > 0);
                    return Ok(Ok((way, puts_start)));
                }
                Ok(scored) if scored.n_tokens != 1 => {
                    "the server cuts given text into other tokens than those that it generates".clone_into(&mut reason);
                }
                Ok(scored) => {
                    reason = format!(
                        "the server's likelihoods of given text are wrong: for {continuation:?} behind {context:?} it reports {:.3} nats, and {expected:.3} when it generates the same",
                        scored.log_prob_nats
                    );
                }
                Err(why) => reason = format!("no likelihoods of given text: {why}"),
            }
        }
    }
    Ok(Err(reason))
}
