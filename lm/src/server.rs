//! A model behind a server with `OpenAI`'s interface: vLLM, llama.cpp, a provider.
//!
//! What the server can do is found out when connecting, by asking it. Requests go out from several threads; what is answered is written to a journal at
//! once, so that a run that was killed asks nothing twice. `docs/servers.md` says what works with which server.

pub(crate) mod gate;
mod journal;
mod likelihood;
mod probing;
pub(crate) mod transport;
mod wire;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;

use crate::chat::{ChatTemplate, Message, Opening};
use crate::subject::{Ability, GenerateRequest, Generation, Prompt, Score, ScoreRequest, Subject};
use crate::tensors::hexadecimal;
use crate::{Error, Result};
use journal::{Journal, Kept};
use probing::{Abilities, Found, Way};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use transport::{Failed, Line, Transport, Trouble, messages_json, to_json};
use wire::{ChatBody, TextBody};

/// Which server, model and key, and how patiently.
#[derive(Clone)]
pub struct ServerConfig {
    /// Base of the interface, such as `http://127.0.0.1:8000/v1`.
    pub url: String,
    /// Name of the model there; empty for the only one.
    pub model: String,
    /// Sent as a bearer token; it stands in no message, journal or fingerprint.
    pub api_key: Option<String>,
    /// Longest time of one attempt.
    pub timeout: Duration,
    /// Attempts at one request, at least one; there is another after what may pass: a broken connection, an answer that cannot be read, status 408, 409,
    /// 429 or 5xx.
    pub attempts: usize,
    /// Most requests in flight, at least one.
    pub in_flight: usize,
    /// Longest pause after the first failed attempt; it doubles with each.
    pub pause: Duration,
    /// Longest pause of all, also where the server asks for a longer one.
    pub longest_pause: Duration,
    /// File that keeps what was answered.
    pub journal: Option<PathBuf>,
    /// Chat template of the model. With it conversations are rendered here, which is what scoring them needs; answers to them are asked of the server's own
    /// chat interface all the same, where it has one.
    pub template: Option<LocalTemplate>,
    /// Which additions to the interface the server understands.
    pub kind: ServerKind,
}

/// A chat template and the variables that it may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalTemplate {
    /// In Jinja, as in a model's `tokenizer_config.json`.
    pub source: String,
    /// `bos_token`, `eos_token` and the like.
    pub tokens: BTreeMap<&'static str, String>,
}

/// Servers that differ in more than their name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// Told by what the server says of itself.
    Auto,
    /// The interface and nothing else: a provider, and every server that is none of the others.
    OpenAi,
    /// vLLM: `prompt_logprobs`; the repetition penalty of the model's generation config is switched off.
    Vllm,
    /// llama.cpp's own server and that of `llama-cpp-python`, whose repetition penalty is switched off.
    LlamaCpp,
}

impl ServerConfig {
    /// A server with patience for an hour's work: 16 requests in flight, 6 attempts, pauses from 1 s to 60 s, 2 minutes per attempt; no journal.
    pub fn new(url: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            model: model.into(),
            api_key: None,
            timeout: Duration::from_secs(120),
            attempts: 6,
            in_flight: 16,
            pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
            journal: None,
            template: None,
            kind: ServerKind::Auto,
        }
    }
}

impl fmt::Debug for ServerConfig {
    /// Without the key, which may stand in the address as well.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig").field("model", &self.model).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// A model behind a server.
pub struct Server {
    transport: Transport,
    model: String,
    in_flight: usize,
    kind: ServerKind,
    abilities: Abilities,
    template: Option<ChatTemplate>,
    tokens: BTreeMap<&'static str, String>,
    journal: Option<Mutex<Journal>>,
    /// What every key of the journal begins with: address, model, and what the server says of the model.
    identity: String,
    fingerprint: String,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("url", &self.transport.url())
            .field("model", &self.model)
            .field("kind", &self.kind)
            .field("abilities", &self.abilities)
            .finish_non_exhaustive()
    }
}

/// Temperature 0 is greedy; where a server still draws, it draws the same.
const SEED: u64 = 0;
/// The interface takes no more stop strings; an answer is cut at all of them here.
const MAX_STOPS: usize = 4;

impl Server {
    /// Reaches a server, looks whether it has the model, and finds out what it can do by a handful of tiny requests.
    ///
    /// # Errors
    /// [`Error::UnknownModel`]; [`Error::Server`] or [`Error::ServerOver`] where it cannot be reached or refuses the key; [`Error::BadChatTemplate`];
    /// [`Error::BadJournal`].
    pub fn connect(config: ServerConfig) -> Result<Self> {
        let ServerConfig { url, model, api_key, timeout, attempts, in_flight, pause, longest_pause, journal, .. } =
            config;
        // The journal first: where another process has it, the server need not be bothered.
        let journal = journal.as_deref().map(Journal::open).transpose()?.map(Mutex::new);
        let (source, tokens) = config.template.map_or((None, BTreeMap::new()), |it| (Some(it.source), it.tokens));
        let template = source.map(|source| ChatTemplate::new(&source, &tokens)).transpose()?;
        let transport = Transport::new(Line { url, api_key, timeout, attempts, pause, longest_pause });
        let model = probing::find_model(&transport, &model)?;
        let kind = probing::tell_kind(config.kind, &model);
        let mut server = Self {
            transport,
            model: model.id.clone(),
            in_flight: in_flight.max(1),
            kind,
            abilities: Abilities::default(),
            template,
            tokens,
            journal,
            identity: String::new(),
            fingerprint: String::new(),
        };
        let Found { abilities, system_fingerprint } = probing::probe(&server)?;
        server.abilities = abilities;
        let said = format!("{:?} {:?} {}", model.owned_by, model.root, model.meta.unwrap_or_default());
        server.identity = digest(&[server.transport.url(), &server.model, &said]);
        let template = server.template.as_ref().map_or("", ChatTemplate::source);
        let tokens = format!("{:?}", server.tokens);
        let system = system_fingerprint.unwrap_or_default();
        server.fingerprint = digest(&["server", &server.identity, template, &tokens, &format!("{kind:?}"), &system]);
        Ok(server)
    }

    /// The name of the model.
    pub fn model(&self) -> &str {
        &self.model
    }

    fn chat_body<'a>(&'a self, messages: &'a [Message], max_tokens: usize, stop: &'a [String]) -> ChatBody<'a> {
        let is_renamed = self.abilities.has_renamed_limit;
        ChatBody {
            model: &self.model,
            messages,
            max_tokens: (!is_renamed).then_some(max_tokens),
            max_completion_tokens: is_renamed.then_some(max_tokens),
            temperature: 0.0,
            seed: SEED,
            stop: &stop[..stop.len().min(MAX_STOPS)],
            repeat_penalty: (self.kind == ServerKind::LlamaCpp).then_some(1.0),
            repetition_penalty: (self.kind == ServerKind::Vllm).then_some(1.0),
        }
    }

    fn text_body<'a>(&'a self, prompt: &'a str, max_tokens: usize, stop: &'a [String]) -> TextBody<'a> {
        TextBody {
            model: &self.model,
            prompt,
            max_tokens,
            temperature: 0.0,
            seed: SEED,
            stop: &stop[..stop.len().min(MAX_STOPS)],
            echo: None,
            logprobs: None,
            prompt_logprobs: None,
            repeat_penalty: (self.kind == ServerKind::LlamaCpp).then_some(1.0),
            repetition_penalty: (self.kind == ServerKind::Vllm).then_some(1.0),
        }
    }

    /// A request whose answer holds the likelihoods of `text`. One token is generated, since some servers take 0 for "no limit".
    fn scoring_body<'a>(&'a self, text: &'a str, way: Way) -> TextBody<'a> {
        let body = self.text_body(text, 1, &[]);
        match way {
            Way::Echo => TextBody { echo: Some(true), logprobs: Some(1), ..body },
            Way::PromptLogProbs => TextBody { prompt_logprobs: Some(0), ..body },
        }
    }

    /// A text without the beginning-of-sequence token where the server puts one there itself.
    fn without_start(&self, text: String) -> String {
        let start = self.tokens.get("bos_token").filter(|_| self.abilities.puts_start);
        start.and_then(|start| text.strip_prefix(start.as_str())).map(str::to_owned).unwrap_or(text)
    }

    fn prepare_score(&self, request: &ScoreRequest) -> Result<Asked> {
        if request.continuation.is_empty() {
            return Err(Error::Empty { what: "the continuation of a request".to_owned() });
        }
        let way = match &request.context {
            Prompt::Text(_) => &self.abilities.scores_text,
            Prompt::Chat(_) => &self.abilities.scores_chat,
        };
        let way = *way.as_ref().map_err(|reason| self.cannot(reason))?;
        let context = self.without_start(self.render(&request.context)?);
        let text = format!("{context}{}", request.continuation);
        let body = to_json(&self.scoring_body(&text, way));
        let boundary = context.len();
        Ok(self.asked("/completions", body, &boundary.to_string(), Wanted::Score { text, boundary, way }))
    }

    fn prepare_generation(&self, request: &GenerateRequest) -> Result<Asked> {
        let stop: Vec<String> = request.stop.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        let Abilities { continues, chats, .. } = &self.abilities;
        let (path, body) = match &request.prompt {
            Prompt::Chat(messages) if chats.is_ok() => {
                ("/chat/completions", to_json(&self.chat_body(messages, request.max_new_tokens, &stop)))
            }
            Prompt::Chat(_) if self.template.is_none() || continues.is_err() => {
                return Err(self.cannot(chats.as_ref().err().map_or("", String::as_str)));
            }
            prompt => {
                continues.as_ref().map_err(|reason| self.cannot(reason))?;
                let text = self.without_start(self.render(prompt)?);
                ("/completions", to_json(&self.text_body(&text, request.max_new_tokens, &stop)))
            }
        };
        let all_stops = to_json(&stop);
        Ok(self.asked(path, body, &all_stops, Wanted::Generation { stop }))
    }

    fn cannot(&self, reason: &str) -> Error {
        let url = self.transport.url().to_owned();
        Error::Server { url, status: None, message: reason.to_owned(), n_attempts: 0 }
    }

    fn asked(&self, path: &'static str, body: String, apart: &str, wanted: Wanted) -> Asked {
        Asked { key: digest(&[&self.identity, path, &body, apart]), path, body, wanted }
    }

    /// Asks what is not known yet, several requests at a time, equal ones once.
    fn answer(&self, asked: Vec<Result<Asked>>) -> Result<Vec<Result<Kept>>> {
        let mut known = BTreeMap::new();
        if let Some(journal) = &self.journal {
            let journal = journal.lock().expect("writing does not panic");
            let keys = asked.iter().flatten().map(|asked| &asked.key);
            known.extend(keys.filter_map(|key| Some((key.clone(), Ok(journal.get(key)?.clone())))));
        }
        let (mut open, mut seen) = (Vec::new(), BTreeSet::new());
        for asked in asked.iter().flatten() {
            if !known.contains_key(&asked.key) && seen.insert(asked.key.as_str()) {
                open.push(asked);
            }
        }
        let (next, answers) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
        let work = || -> Result<()> {
            while let Some(asked) = open.get(next.fetch_add(1, Ordering::Relaxed)) {
                // The first error that is about the server ends the work of all.
                let answer = self.put(asked).inspect_err(|_| next.store(open.len(), Ordering::Relaxed))?;
                answers.lock().expect("nothing panics here").insert(asked.key.clone(), answer);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let n_workers = self.in_flight.min(open.len());
            let workers: Vec<_> = (0..n_workers).map(|_| scope.spawn(work)).collect();
            let ends: Vec<Result<()>> =
                workers.into_iter().map(|worker| worker.join().expect("asking does not panic")).collect();
            ends.into_iter().collect::<Result<()>>()
        })?;
        known.extend(answers.into_inner().expect("nothing panics here"));
        let take = |asked: Result<Asked>| match known.get(&asked?.key).expect("each request was answered or is known") {
            Ok(kept) => Ok(kept.clone()),
            Err(failed) => Err(failed.clone().into()),
        };
        Ok(asked.into_iter().map(take).collect())
    }

    /// One request; its answer is in the journal when this returns.
    fn put(&self, asked: &Asked) -> Result<std::result::Result<Kept, Failed>> {
        let answer = self.transport.ask(asked.path, Some(&asked.body), |text| asked.read(text));
        match answer {
            Ok(kept) => {
                if let Some(journal) = &self.journal {
                    journal.lock().expect("writing does not panic").add(&asked.key, &kept)?;
                }
                Ok(Ok(kept))
            }
            Err(Trouble::Request(failed)) => Ok(Err(failed)),
            Err(over @ Trouble::Over(_)) => Err(over.into()),
        }
    }
}

impl Subject for Server {
    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn lacks(&self, ability: Ability) -> Option<&str> {
        let Abilities { continues, chats, scores_text, scores_chat, .. } = &self.abilities;
        if ability == Ability::Draw {
            return Some("a server is asked for its likeliest answer alone");
        }
        let reason = match ability {
            Ability::Score if scores_chat.is_err() => scores_text.as_ref().err(),
            Ability::Generate if continues.is_err() => chats.as_ref().err(),
            _ => None,
        };
        reason.map(String::as_str)
    }

    /// A conversation by the local template; where there is none, the messages as they are sent.
    fn render(&self, prompt: &Prompt) -> Result<String> {
        match (prompt, &self.template) {
            (Prompt::Text(text), _) => Ok(text.clone()),
            (Prompt::Chat(messages), Some(template)) => template.render(messages, Opening::Assistant),
            (Prompt::Chat(messages), None) => Ok(messages_json(messages)),
        }
    }

    fn end_of_turn(&self) -> Option<&str> {
        self.template.as_ref()?;
        self.tokens.get("eos_token").map(String::as_str)
    }

    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Result<Score>>> {
        let answers = self.answer(requests.iter().map(|request| self.prepare_score(request)).collect())?;
        let unwrap = |kept| match kept {
            Kept::Score(score) => score,
            Kept::Generation(_) => unreachable!("the keys of scores and generations differ"),
        };
        Ok(answers.into_iter().map(|answer| answer.map(unwrap)).collect())
    }

    fn generate(&self, requests: &[GenerateRequest]) -> Result<Vec<Result<Generation>>> {
        let answers = self.answer(requests.iter().map(|request| self.prepare_generation(request)).collect())?;
        let unwrap = |kept| match kept {
            Kept::Generation(generation) => generation,
            Kept::Score(_) => unreachable!("the keys of scores and generations differ"),
        };
        Ok(answers.into_iter().map(|answer| answer.map(unwrap)).collect())
    }
}

/// A request as it is sent, and how its answer is read.
struct Asked {
    key: String,
    path: &'static str,
    body: String,
    wanted: Wanted,
}

enum Wanted {
    Score { text: String, boundary: usize, way: Way },
    Generation { stop: Vec<String> },
}

impl Asked {
    fn read(&self, answer: &str) -> std::result::Result<Kept, transport::Reading> {
        match &self.wanted {
            Wanted::Score { text, boundary, way } => {
                let reply = wire::read_reply(answer)?;
                let score = way.tokens(&reply, text).and_then(|tokens| likelihood::score(&tokens, text, *boundary));
                score.map(Kept::Score).map_err(|reason| transport::Reading::Final(format!("no likelihood: {reason}")))
            }
            Wanted::Generation { stop } => wire::read_generation(answer, stop).map(Kept::Generation),
        }
    }
}

/// SHA-256 over texts, each with its length, in hexadecimal.
fn digest(texts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    }
    hexadecimal(&hasher.finalize())
}
