//! Asks a model behind a server, for comparison with the model itself by `tests/peers/real_server.py`.
//!
//! `ask_server URL MODEL [TEMPLATE.json [JOURNAL]] < REQUESTS.jsonl`: each line is `{"context": C, "continuation": "..."}`, which is scored, or `{"context": C,
//! "max_new_tokens": n, "stop": [...]}`, which is answered; `C` is a text or a list of messages. `TEMPLATE.json` has `source`, `bos_token` and `eos_token`;
//! `-` stands for none. The first line of the output is what the server can do, the others are the answers in order, or `{"error": "..."}`.

use lm::server::LocalTemplate;
use lm::subject::{Ability, GenerateRequest, Prompt, ScoreRequest};
use lm::{Message, Server, ServerConfig, Subject};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::BufRead;
use std::time::Duration;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    context: Value,
    continuation: Option<String>,
    max_new_tokens: Option<usize>,
    #[serde(default)]
    stop: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    source: String,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (url, model, rest) = match arguments.as_slice() {
        [url, model, rest @ ..] if rest.len() <= 2 => (url, model, rest),
        _ => return Err("usage: ask_server URL MODEL [TEMPLATE.json [JOURNAL]] < REQUESTS.jsonl".into()),
    };
    let template = match rest.first().filter(|path| *path != "-") {
        Some(path) => Some(read_template(&std::fs::read_to_string(path)?)?),
        None => None,
    };
    let journal = rest.get(1).map(Into::into);
    // Small servers answer one request after the other.
    let timeout = Duration::from_secs(600);
    let server =
        Server::connect(ServerConfig { template, journal, timeout, in_flight: 2, ..ServerConfig::new(url, model) })?;
    let (scores, generates) = (server.lacks(Ability::Score), server.lacks(Ability::Generate));
    let facts = json!({ "fingerprint": server.fingerprint(), "lacks_score": scores, "lacks_generate": generates });
    println!("{facts}");

    let lines: Vec<String> = std::io::stdin().lock().lines().collect::<Result<_, _>>()?;
    let (mut to_score, mut to_generate) = (Vec::new(), Vec::new());
    for line in &lines {
        let Line { context, continuation, max_new_tokens, stop } = serde_json::from_str(line)?;
        let prompt = match context {
            Value::String(text) => Prompt::Text(text),
            messages => Prompt::Chat(serde_json::from_value::<Vec<Message>>(messages)?),
        };
        match (continuation, max_new_tokens) {
            (Some(continuation), None) => to_score.push(ScoreRequest { context: prompt, continuation }),
            (None, Some(max_new_tokens)) => to_generate.push(GenerateRequest { prompt, max_new_tokens, stop }),
            _ => return Err(format!("a line has either `continuation` or `max_new_tokens`: {line}").into()),
        }
    }
    let (mut scores, mut texts) = (server.score(&to_score)?.into_iter(), server.generate(&to_generate)?.into_iter());
    for line in &lines {
        let scored = if serde_json::from_str::<Line>(line)?.continuation.is_some() {
            scores.next().map(|score| {
                score.map(
                    |it| json!({ "log_prob": it.log_prob_nats, "n_tokens": it.n_tokens, "is_greedy": it.is_greedy }),
                )
            })
        } else {
            texts.next().map(|text| {
                text.map(|it| json!({ "text": it.text, "is_complete": it.is_complete, "n_tokens": it.n_tokens }))
            })
        };
        let answer = scored.ok_or("each line has an answer")?;
        println!("{}", answer.unwrap_or_else(|error| json!({ "error": error.to_string() })));
    }
    Ok(())
}

fn read_template(text: &str) -> Result<LocalTemplate, serde_json::Error> {
    let Template { source, bos_token, eos_token } = serde_json::from_str(text)?;
    let tokens = [("bos_token", bos_token), ("eos_token", eos_token)];
    let tokens: BTreeMap<&'static str, String> =
        tokens.into_iter().filter_map(|(name, it)| Some((name, it?))).collect();
    Ok(LocalTemplate { source, tokens })
}
