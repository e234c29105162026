//! A server for tests: a model that is known exactly, behind a line on which everything that can go wrong does.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::Duration;

/// What is done with a request.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Deed {
    Answer,
    AnswerLate(Duration),
    /// The answer and the same answer again.
    AnswerTwice,
    /// Nothing, until the client has had enough.
    Silence,
    /// The connection ends after so many bytes of the answer, or after all of them but one.
    Cut(usize),
    /// Another status, with a header or none.
    Status(u16, Option<(&'static str, &'static str)>),
    /// The body stops in the middle, and its length says so.
    TruncatedJson,
    /// More bytes are announced than come.
    TooLong,
    /// Fewer bytes are announced than come.
    TooShort,
    /// Bytes that are no HTTP.
    Garbage,
    /// Status 200 with this body.
    Body(String),
}

/// How the model behind the line answers.
#[derive(Debug, Clone)]
pub(super) struct Talents {
    pub(super) owned_by: &'static str,
    /// Pages that are not there.
    pub(super) missing: &'static [&'static str],
    pub(super) echo: Echo,
    pub(super) has_prompt_logprobs: bool,
    pub(super) puts_start: bool,
    /// Wants `max_completion_tokens` in place of `max_tokens` in chat.
    pub(super) has_renamed_limit: bool,
}

/// What becomes of `echo`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Echo {
    True,
    /// Each token's log-probability is taken behind itself, as `llama-cpp-python` does.
    Shifted,
    /// Left alone, as some builds of llama.cpp's server do.
    Ignored,
    Refused,
}

impl Default for Talents {
    fn default() -> Self {
        Self {
            owned_by: "someone",
            missing: &[],
            echo: Echo::True,
            has_prompt_logprobs: false,
            puts_start: false,
            has_renamed_limit: false,
        }
    }
}

/// A request that came in.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) path: String,
    pub(super) head: String,
    pub(super) body: Value,
    pub(super) deed: Deed,
}

/// A running server; it ends when it is dropped.
pub(super) struct Hostile {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    asked: Mutex<Vec<Asked>>,
    n_times: Mutex<BTreeMap<String, usize>>,
    n_now: AtomicUsize,
    n_most: AtomicUsize,
}

impl Hostile {
    /// Starts a server that does with the `n`-th sending (from 0) of a request what `plan` says.
    pub(super) fn start(talents: Talents, plan: impl Fn(&Value, usize) -> Deed + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (is_over, log) = (Arc::new(AtomicBool::new(false)), Arc::new(Log::default()));
        let (over, kept, plan, talents) = (is_over.clone(), log.clone(), Arc::new(plan), Arc::new(talents));
        spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let (log, plan, talents) = (kept.clone(), plan.clone(), talents.clone());
                // A client that hangs up is its own affair.
                spawn(move || stream.and_then(|stream| serve(stream, &log, &*plan, &talents)));
            }
        });
        Self { address, is_over, log }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// All that came in, but for what was asked to find out what the server can do.
    pub(super) fn asked(&self) -> Vec<Asked> {
        let all = self.log.asked.lock().unwrap();
        all.iter().filter(|asked| !is_probe(&asked.body)).cloned().collect()
    }

    pub(super) fn n_probes(&self) -> usize {
        self.log.asked.lock().unwrap().iter().filter(|asked| is_probe(&asked.body)).count()
    }

    /// Most requests that were being answered at the same time.
    pub(super) fn n_most(&self) -> usize {
        self.log.n_most.load(Ordering::SeqCst)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Wakes the listener, which then ends.
        let _ = TcpStream::connect(self.address);
    }
}

/// Requests of one token are those of `probing` and those that score; tests mark the texts that they score by a `§`.
pub(super) fn is_probe(body: &Value) -> bool {
    let prompt = body["prompt"].as_str().unwrap_or_default();
    body.is_null() || (limit(body) == 1 && !prompt.contains('§'))
}

fn limit(body: &Value) -> u64 {
    body["max_tokens"].as_u64().or(body["max_completion_tokens"].as_u64()).unwrap_or(0)
}

fn serve(stream: TcpStream, log: &Log, plan: &dyn Fn(&Value, usize) -> Deed, talents: &Talents) -> std::io::Result<()> {
    let n_now = log.n_now.fetch_add(1, Ordering::SeqCst) + 1;
    log.n_most.fetch_max(n_now, Ordering::SeqCst);
    let answer = read(&stream).map(|(head, body)| {
        let path = head.split(' ').nth(1).unwrap_or_default().trim_start_matches("/v1").to_owned();
        let times = &mut *log.n_times.lock().unwrap();
        let n_times = times.entry(format!("{path} {body}")).or_default();
        let deed = plan(&body, *n_times);
        *n_times += 1;
        log.asked.lock().unwrap().push(Asked { path: path.clone(), head, body: body.clone(), deed: deed.clone() });
        let (status, text) = answer(talents, &path, &body);
        (deed, status, text)
    });
    if let Ok((Deed::AnswerLate(delay), ..)) = &answer {
        sleep(*delay);
    }
    // From here on the client may have what it waits for, and send the next.
    log.n_now.fetch_sub(1, Ordering::SeqCst);
    let (deed, status, text) = answer?;
    act(stream, &deed, status, &text)
}

fn read(stream: &TcpStream) -> std::io::Result<(String, Value)> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut n) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let start = head.len();
        if reader.read_line(&mut head)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = head[start..].to_lowercase();
        n = line.strip_prefix("content-length:").map_or(n, |length| length.trim().parse().unwrap());
    }
    let mut body = vec![0; n];
    reader.read_exact(&mut body)?;
    Ok((head, if n == 0 { Value::Null } else { serde_json::from_slice(&body).unwrap() }))
}

fn act(mut stream: TcpStream, deed: &Deed, status: u16, text: &str) -> std::io::Result<()> {
    let respond = |status: u16, header: &str, n: usize, body: &str| {
        format!("HTTP/1.1 {status} Word\r\n{header}Content-Type: application/json\r\nContent-Length: {n}\r\n\r\n{body}")
    };
    let n = text.len();
    let whole = respond(status, "", n, text);
    match deed {
        Deed::Answer | Deed::AnswerLate(_) => stream.write_all(whole.as_bytes()),
        Deed::AnswerTwice => stream.write_all(whole.repeat(2).as_bytes()),
        Deed::Silence => stream.read(&mut [0]).map(|_| ()),
        Deed::Cut(at) => stream.write_all(&whole.as_bytes()[..(*at).min(whole.len() - 1)]),
        Deed::Status(status, header) => {
            let header = header.map_or(String::new(), |(name, value)| format!("{name}: {value}\r\n"));
            stream.write_all(respond(*status, &header, 4, "busy").as_bytes())
        }
        Deed::TruncatedJson => {
            let half = &text[..text.floor_char_boundary(n / 2)];
            stream.write_all(respond(200, "", half.len(), half).as_bytes())
        }
        Deed::TooLong => stream.write_all(respond(200, "", n + 9, text).as_bytes()),
        Deed::TooShort => stream.write_all(respond(200, "", n / 2, text).as_bytes()),
        Deed::Garbage => stream.write_all(b"\x00\xff\xfe no HTTP at all\r\n\r\n"),
        Deed::Body(body) => stream.write_all(respond(200, "", body.len(), body).as_bytes()),
    }
}

/// Words with the space before them: the tokens of the model.
pub(super) fn tokens(text: &str) -> Vec<&str> {
    let mut starts: Vec<usize> = text.match_indices(' ').map(|(at, _)| at).filter(|&at| at > 0).collect();
    starts.insert(0, 0);
    starts.push(text.len());
    starts.windows(2).map(|pair| &text[pair[0]..pair[1]]).filter(|token| !token.is_empty()).collect()
}

/// `ln p(token | before)` of the model: any number, as long as it depends on all of both.
pub(super) fn log_prob(before: &str, token: &str) -> f64 {
    let digest = Sha256::digest(format!("{before}|{token}"));
    -f64::from(u16::from_le_bytes([digest[0], digest[1]])) / 8192.0 - 0.01
}

/// The model's answer to a conversation.
pub(super) fn reply_to(content: &str) -> String {
    format!("You said: {content}")
}

/// What the model adds to a text.
pub(super) fn next_word(text: &str) -> String {
    format!(" w{}", Sha256::digest(text)[0])
}

const START: &str = "<s>";

fn answer(talents: &Talents, path: &str, body: &Value) -> (u16, String) {
    let refuse = |message: &str| (400, json!({ "error": { "message": message, "type": "invalid" } }).to_string());
    if talents.missing.contains(&path) {
        return (404, "no such page".to_owned());
    }
    let usage = |prompt: usize, completion: usize| json!({ "prompt_tokens": prompt, "completion_tokens": completion });
    match path {
        "/models" => {
            let model = |id: &str| json!({ "id": id, "object": "model", "owned_by": talents.owned_by, "created": 1 });
            (200, json!({ "object": "list", "data": [model("small"), model("large")] }).to_string())
        }
        "/chat/completions" => {
            if talents.has_renamed_limit && body["max_tokens"].is_u64() {
                return refuse("'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.");
            }
            let content = body["messages"].as_array().and_then(|turns| turns.last()?["content"].as_str()).unwrap();
            let choice = json!({ "index": 0, "message": { "role": "assistant", "content": reply_to(content) }, "finish_reason": "stop" });
            (200, json!({ "choices": [choice], "usage": usage(5, 7), "system_fingerprint": "fp_1" }).to_string())
        }
        "/completions" => {
            let prompt = body["prompt"].as_str().unwrap();
            let start = if talents.puts_start { START } else { "" };
            let words = tokens(prompt);
            let word = next_word(prompt);
            let new = (word.clone(), Some(log_prob(&format!("{start}{prompt}"), &word)));
            let mut listed = vec![];
            if talents.puts_start {
                listed.push((START.to_owned(), None));
            }
            let mut before = start.to_owned();
            for token in words {
                let behind = if talents.echo == Echo::Shifted { format!("{before}{token}") } else { before.clone() };
                let log_prob = (!listed.is_empty()).then(|| log_prob(&behind, token));
                listed.push((token.to_owned(), log_prob));
                before += token;
            }
            let n_prompt = listed.len();
            let is_echo = body["echo"] == json!(true);
            if is_echo && talents.echo == Echo::Refused {
                return refuse("Only no echo is supported");
            }
            let prompt_logprobs = (talents.has_prompt_logprobs && body["prompt_logprobs"].is_u64()).then(|| {
                let entry = |(token, log_prob): &(String, Option<f64>)| {
                    log_prob.map(|p| json!({ "7": { "logprob": p, "rank": 1, "decoded_token": token } }))
                };
                listed.iter().map(entry).collect::<Vec<_>>()
            });
            let (text, listed) = if is_echo && talents.echo != Echo::Ignored {
                listed.push(new);
                (format!("{prompt}{word}"), listed)
            } else {
                (word, vec![new])
            };
            let (tokens, log_probs): (Vec<String>, Vec<Option<f64>>) = listed.into_iter().unzip();
            let top = |(token, p): (&String, &Option<f64>)| p.map(|p| json!({ token: p, "other": p - 1.0 }));
            let tops: Vec<_> = tokens.iter().zip(&log_probs).map(top).collect();
            let logprobs = body["logprobs"]
                .is_u64()
                .then(|| json!({ "tokens": tokens, "token_logprobs": log_probs, "top_logprobs": tops }));
            let choice = json!({ "index": 0, "text": text, "finish_reason": "length", "logprobs": logprobs, "prompt_logprobs": prompt_logprobs });
            (200, json!({ "choices": [choice], "usage": usage(n_prompt, 1), "system_fingerprint": "fp_1" }).to_string())
        }
        _ => unreachable!("the client knows no other page"),
    }
}
