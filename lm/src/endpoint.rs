//! A language model behind a server with `OpenAI`'s chat completions, such as vLLM, llama.cpp or a provider's.

use crate::chat::Message;
use crate::server::transport::{Line, Reading, Transport, shorten, to_json};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Where completions are asked for, and how patiently.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointConfig {
    /// Base of the interface, such as `http://localhost:8000/v1`; `/chat/completions` is added.
    pub url: String,
    /// Name of the model there.
    pub model: String,
    /// Whether log-probabilities of the answer's tokens are asked for.
    pub log_probs: bool,
    /// Longest time of one attempt.
    pub timeout: Duration,
    /// Attempts at one question, at least one; there is another after what may pass: a broken connection, an answer that cannot be read,
    /// status 408, 409, 429 or 5xx.
    pub attempts: usize,
    /// Longest pause after the first failed attempt; it doubles with each. Where the server asks for a longer one all questions wait, up to a minute.
    pub pause: Duration,
}

/// What the model said.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The answer.
    pub text: String,
    /// For each of its tokens the likeliest ones there with their log-probabilities (nats); empty where the server gives none.
    pub likeliest: Vec<Vec<(String, f64)>>,
}

/// A model behind a server.
pub struct Endpoint {
    config: EndpointConfig,
    transport: Transport,
}

/// Longest pause that a server is granted.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Tokens whose log-probabilities are asked for at each place; the most that the interface allows.
const LIKELIEST: usize = 20;

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    messages: &'a [Message],
    max_tokens: usize,
    temperature: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<usize>,
}

#[derive(Deserialize)]
struct Reply {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Said,
    #[serde(default)]
    logprobs: Option<LogProbs>,
}

#[derive(Deserialize)]
struct Said {
    content: String,
}

#[derive(Deserialize)]
struct LogProbs {
    #[serde(default)]
    content: Option<Vec<Place>>,
}

#[derive(Deserialize)]
struct Place {
    #[serde(default)]
    top_logprobs: Vec<Token>,
}

#[derive(Deserialize)]
struct Token {
    token: String,
    logprob: f64,
}

impl Endpoint {
    /// Takes a server; nothing is sent. `api_key` is sent as a bearer token and stands in no message.
    pub fn new(config: EndpointConfig, api_key: Option<String>) -> Self {
        let transport = Transport::new(Line {
            url: config.url.clone(),
            api_key,
            timeout: config.timeout,
            attempts: config.attempts,
            pause: config.pause,
            longest_pause: LONGEST_PAUSE,
        });
        Self { config, transport }
    }

    /// The likeliest answer (temperature 0) of at most `max_tokens` tokens.
    ///
    /// # Errors
    /// [`crate::Error::Server`] with the address and the status or reason, after the last attempt; [`crate::Error::ServerOver`] where no
    /// other question will fare better.
    pub fn complete(&self, messages: &[Message], max_tokens: usize) -> crate::Result<Completion> {
        let EndpointConfig { model, log_probs, .. } = &self.config;
        let request = Request {
            model,
            messages,
            max_tokens,
            temperature: 0.0,
            logprobs: log_probs.then_some(true),
            top_logprobs: log_probs.then_some(LIKELIEST),
        };
        let answer = self
            .transport
            .ask("/chat/completions", Some(&to_json(&request)), |text| read_reply(text).map_err(Reading::Malformed));
        Ok(answer?)
    }
}

fn read_reply(text: &str) -> Result<Completion, String> {
    let reply: Reply = serde_json::from_str(text)
        .map_err(|error| format!("the answer is no chat completion: {error}: {}", shorten(text)))?;
    let Some(choice) = reply.choices.into_iter().next() else {
        return Err("the answer has no choices".to_owned());
    };
    let places = choice.logprobs.and_then(|of_answer| of_answer.content).unwrap_or_default();
    let of_place = |place: Place| place.top_logprobs.into_iter().map(|token| (token.token, token.logprob)).collect();
    Ok(Completion { text: choice.message.content, likeliest: places.into_iter().map(of_place).collect() })
}

#[cfg(test)]
mod tests {
    use super::{Completion, Endpoint, EndpointConfig};
    use crate::chat::{Message, Role};
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::thread::{JoinHandle, spawn};
    use std::time::Duration;

    const REPLY: &str = r#"{"choices":[{"message":{"role":"assistant","content":"A"},"logprobs":{"content":[{"token":"A","logprob":-0.1,"top_logprobs":[{"token":"A","logprob":-0.1},{"token":"B","logprob":-2.4}]}]}}]}"#;

    /// A server that gives one answer after the other, and then returns what it was asked.
    fn serve(answers: &[(u16, &str)]) -> (String, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let answers: Vec<(u16, String)> = answers.iter().map(|&(status, text)| (status, text.to_owned())).collect();
        let serving = spawn(move || {
            let mut asked = Vec::new();
            for (status, text) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut head, mut n) = (String::new(), 0);
                while !head.ends_with("\r\n\r\n") {
                    let start = head.len();
                    reader.read_line(&mut head).unwrap();
                    let line = head[start..].to_lowercase();
                    n = line.strip_prefix("content-length:").map_or(n, |length| length.trim().parse().unwrap());
                }
                let mut body = vec![0; n];
                reader.read_exact(&mut body).unwrap();
                asked.push(head + &String::from_utf8(body).unwrap());
                let length = text.len();
                write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}")
                    .unwrap();
            }
            asked
        });
        (url, serving)
    }

    fn endpoint(url: &str, attempts: usize) -> Endpoint {
        let config = EndpointConfig {
            url: url.to_owned(),
            model: "judge".to_owned(),
            log_probs: true,
            timeout: Duration::from_secs(5),
            attempts,
            pause: Duration::from_millis(1),
        };
        Endpoint::new(config, Some("secret".to_owned()))
    }

    fn ask(url: &str, attempts: usize) -> Result<Completion, String> {
        let question = [Message { role: Role::User, content: "A or B?".to_owned() }];
        let answer = endpoint(url, attempts).complete(&question, 4).map_err(|error| error.to_string());
        if let Err(message) = &answer {
            assert!(message.starts_with(url) && !message.contains("secret"), "{message}");
        }
        answer
    }

    #[test]
    fn an_answer_is_read_with_its_log_probabilities_after_failures_that_pass() {
        let (url, serving) = serve(&[(429, "slow down"), (503, ""), (200, REPLY)]);
        let answer = ask(&url, 3).unwrap();
        assert_eq!(answer.text, "A");
        assert_eq!(answer.likeliest, [[("A".to_owned(), -0.1), ("B".to_owned(), -2.4)]]);
        let asked = serving.join().unwrap();
        assert_eq!(asked.len(), 3);
        let (head, body) = asked[2].split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1"), "{head}");
        assert!(head.to_lowercase().contains("authorization: bearer secret"), "{head}");
        let expected = r#"{"model":"judge","messages":[{"role":"user","content":"A or B?"}],"max_tokens":4,"temperature":0.0,"logprobs":true,"top_logprobs":20}"#;
        assert_eq!(body, expected);
        let (url, _) = serve(&[(200, r#"{"choices":[{"message":{"content":"B"},"logprobs":null}]}"#)]);
        assert_eq!(ask(&url, 1).unwrap(), Completion { text: "B".to_owned(), likeliest: Vec::new() });
    }

    #[test]
    fn failures_that_last_are_told_at_once_and_those_that_pass_after_the_last_attempt() {
        let told = |answers: &[(u16, &str)], attempts: usize| {
            let (url, _) = serve(answers);
            let message = ask(&url, attempts).unwrap_err();
            message.replace("/chat/completions", "").replace(&format!("{url}: "), "")
        };
        assert_eq!(told(&[(401, "{\"error\":\n \"no key\"}")], 3), "status 401: {\"error\": \"no key\"}");
        assert_eq!(told(&[(500, "oh"), (502, "no")], 2), "status 502: no (2 attempts)");
        let malformed = told(&[(200, "<html>")], 1);
        assert!(malformed.starts_with("the answer is no chat completion: expected value"), "{malformed}");
        let other = told(&[(200, "{\"choice\":[]}")], 1);
        assert!(other.starts_with("the answer is no chat completion: missing field `choices`"), "{other}");
        assert_eq!(told(&[(200, "{\"choices\":[]}"); 2], 2), "the answer has no choices (2 attempts)");
    }

    #[test]
    fn a_server_that_is_not_there_is_named() {
        let url = format!("http://{}/v1", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
        let message = ask(&url, 2).unwrap_err();
        assert!(message.to_lowercase().contains("refused") && message.ends_with("(2 attempts)"), "{message}");
    }
}
