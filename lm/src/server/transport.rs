//! The one way to talk to a server: requests that are tried again, behind a gate that all threads share.

use super::gate::{Gate, Over, asked_pause};
use crate::chat::Message;
use crate::{Error, random};
use rand::Rng;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::io::ErrorKind;
use std::time::Duration;
use ureq::Agent;
use ureq::http::StatusCode;

/// How a server is reached, and how patiently.
#[derive(Clone)]
pub(crate) struct Line {
    /// Base of the interface, such as `http://localhost:8000/v1`.
    pub(crate) url: String,
    /// Sent as a bearer token.
    pub(crate) api_key: Option<String>,
    /// Longest time of one attempt.
    pub(crate) timeout: Duration,
    /// Attempts at one request, at least one.
    pub(crate) attempts: usize,
    /// Mean of twice the first pause: each is drawn from zero to this, which doubles with each failed attempt.
    pub(crate) pause: Duration,
    /// Longest pause of all, also where the server asks for a longer one.
    pub(crate) longest_pause: Duration,
}

/// A server that requests are sent to, from many threads.
pub(crate) struct Transport {
    line: Line,
    address: Address,
    agent: Agent,
    gate: Gate,
}

/// Why a request has no answer, as often as it is told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Trouble {
    /// Another request may fare better.
    Request(Failed),
    /// No other will.
    Over(Over),
}

/// A request that failed at its last attempt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failed {
    pub(crate) url: String,
    /// Of the last attempt; `None` where there was no answer.
    pub(crate) status: Option<u16>,
    pub(crate) message: String,
    pub(crate) n_attempts: usize,
}

impl From<Failed> for Error {
    fn from(Failed { url, status, message, n_attempts }: Failed) -> Self {
        Self::Server { url, status, message, n_attempts }
    }
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Request(failed) => failed.into(),
            Trouble::Over(Over { url, message }) => Self::ServerOver { url, message },
        }
    }
}

/// What is wrong with the body of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reading {
    /// It is not what was asked for; another attempt may bring something better.
    Malformed(String),
    /// It is a refusal, or lacks what it would lack each time.
    Final(String),
}

/// How one attempt failed.
struct Failure {
    status: Option<u16>,
    message: String,
    kind: Kind,
}

enum Kind {
    /// Another attempt may not; the server may have asked for a pause.
    Passing(Option<Duration>),
    /// As `Passing`, but nobody answered the call.
    NoConnection,
    /// So would every other attempt.
    Lasting,
    /// So would every other request.
    Fatal,
}

/// Most bytes of an answer; the likelihoods of a long context take some megabytes.
const MAX_BODY_BYTES: u64 = 256 << 20;
/// A key shorter than this is no secret (`EMPTY`, `x`) and may be a word of an answer.
const SECRET_CHARS: usize = 8;

impl Transport {
    /// Takes a server; nothing is sent.
    pub(crate) fn new(line: Line) -> Self {
        let agent = Agent::config_builder()
            .timeout_global(Some(line.timeout))
            .http_status_as_error(false)
            // Where a server would send us elsewhere, the key is not taken along.
            .max_redirects(0)
            .max_redirects_will_error(false)
            // Each request has a connection of its own: bytes that a server sends beyond an answer would be read as the next one.
            .max_idle_connections(0)
            .build()
            .into();
        let address = Address::parse(&line.url);
        let gate = Gate::new(address.shown.clone());
        Self { line, address, agent, gate }
    }

    /// The address without credentials and query, as it stands in messages.
    pub(crate) fn url(&self) -> &str {
        &self.address.shown
    }

    /// Sends `body` to `path` (or asks for `path` where there is none) until `read` can read the answer or attempts are used up.
    pub(crate) fn ask<T>(
        &self,
        path: &str,
        body: Option<&str>,
        read: impl Fn(&str) -> Result<T, Reading>,
    ) -> Result<T, Trouble> {
        let mut pause = Duration::ZERO;
        for attempt in 1.. {
            self.gate.wait(pause).map_err(Trouble::Over)?;
            let Failure { status, message, kind } = match self.attempt(path, body, &read) {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let message = self.redact(message);
            let asked = match kind {
                Kind::Passing(asked) if attempt < self.line.attempts => asked,
                Kind::NoConnection if attempt < self.line.attempts => None,
                Kind::Fatal => return Err(Trouble::Over(self.gate.close(message))),
                _ => {
                    if matches!(kind, Kind::NoConnection) {
                        self.gate.lose(&message);
                    }
                    let url = format!("{}{path}", self.address.shown);
                    return Err(Trouble::Request(Failed { url, status, message, n_attempts: attempt }));
                }
            };
            pause = self.draw_pause(body, attempt);
            if let Some(asked) = asked {
                // All wait; the one that was told so waits a little longer, so that not all come back at once.
                let asked = asked.min(self.line.longest_pause);
                self.gate.hold(asked);
                pause = (pause + asked).min(self.line.longest_pause);
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Exponential backoff with full jitter: uniform from zero to a limit that doubles.
    ///
    /// # Reference
    /// Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    fn draw_pause(&self, body: Option<&str>, attempt: usize) -> Duration {
        let digest = Sha256::digest(body.unwrap_or_default());
        let seed = u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"));
        let doubled = 2_u32.saturating_pow(attempt as u32 - 1);
        let limit = self.line.pause.saturating_mul(doubled).min(self.line.longest_pause);
        limit.mul_f64(random::stream(seed, "pause", attempt as u64).random::<f64>())
    }

    fn attempt<T>(
        &self,
        path: &str,
        body: Option<&str>,
        read: impl Fn(&str) -> Result<T, Reading>,
    ) -> Result<T, Failure> {
        let url = self.address.of(path);
        let bearer = self.line.api_key.as_ref().map(|key| format!("Bearer {key}"));
        let sent = if let Some(body) = body {
            let call = self.agent.post(&url).header("Content-Type", "application/json");
            if let Some(bearer) = bearer { call.header("Authorization", bearer) } else { call }.send(body)
        } else {
            let call = self.agent.get(&url);
            if let Some(bearer) = bearer { call.header("Authorization", bearer) } else { call }.call()
        };
        let mut response = sent.map_err(|error| not_sent(&error))?;
        self.gate.reach();
        let status = response.status();
        let asked = asked_pause(response.headers(), status);
        let passing =
            |message: String, asked| Failure { status: Some(status.as_u16()), message, kind: Kind::Passing(asked) };
        let body = response.body_mut().with_config().limit(MAX_BODY_BYTES).read_to_vec();
        let bytes = body.map_err(|error| passing(format!("the answer breaks off: {error}"), asked))?;
        let text = self.redact(String::from_utf8_lossy(&bytes).into_owned());
        if status.is_success() {
            if let Some(asked) = asked {
                // The last request of the quota: it has its answer, the next ones wait.
                self.gate.hold(asked.min(self.line.longest_pause));
            }
            return read(&text).map_err(|reading| match reading {
                Reading::Malformed(message) => passing(message, None),
                Reading::Final(message) => Failure { status: Some(status.as_u16()), message, kind: Kind::Lasting },
            });
        }
        let message = format!("status {}: {}", status.as_u16(), shorten(&text));
        let kind = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::Fatal,
            // No pause fills an account.
            StatusCode::TOO_MANY_REQUESTS if text.contains("insufficient_quota") => Kind::Fatal,
            _ if is_passing(status.as_u16()) => Kind::Passing(asked),
            _ => Kind::Lasting,
        };
        Err(Failure { status: Some(status.as_u16()), message, kind })
    }

    /// A text without the key and the address's credentials, which a server may send back.
    fn redact(&self, text: String) -> String {
        let secrets = [self.line.api_key.as_deref(), self.address.credentials.as_deref()];
        let secrets = secrets.into_iter().flatten().filter(|secret| secret.len() >= SECRET_CHARS);
        secrets.fold(text, |text, secret| if text.contains(secret) { text.replace(secret, "[key]") } else { text })
    }
}

/// Whether a request that got this status may succeed when it is sent again.
pub(crate) fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 409 | 429 | 500..=599)
}

fn not_sent(error: &ureq::Error) -> Failure {
    use ureq::{Error, Timeout};
    let kind = match error {
        Error::BadUri(_) | Error::Http(_) | Error::InvalidProxyUrl | Error::RequireHttpsOnly(_) => Kind::Lasting,
        Error::HostNotFound | Error::ConnectionFailed | Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
            Kind::NoConnection
        }
        Error::Io(error) => match error.kind() {
            ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::AddrNotAvailable => Kind::NoConnection,
            _ => Kind::Passing(None),
        },
        _ => Kind::Passing(None),
    };
    // The address in this message would have its credentials.
    let message = if matches!(error, Error::BadUri(_)) { "this is no address".to_owned() } else { error.to_string() };
    Failure { status: None, message, kind }
}

/// The beginning of what a server says, on one line.
pub(crate) fn shorten(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = line.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect();
    if line.chars().count() > 200 { line.chars().take(200).chain(['…']).collect() } else { line }
}

/// An address in its parts.
struct Address {
    base: String,
    query: String,
    /// Without credentials and query.
    shown: String,
    credentials: Option<String>,
}

impl Address {
    fn parse(url: &str) -> Self {
        let (base, query) =
            url.split_once('?').map_or((url, String::new()), |(base, query)| (base, format!("?{query}")));
        let base = base.trim_end_matches('/');
        let (scheme, rest) = base.split_once("://").map_or(("", base), |(scheme, rest)| (scheme, rest));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (credentials, host) = match authority.rsplit_once('@') {
            Some((credentials, host)) => (Some(credentials.to_owned()), host),
            None => (None, authority),
        };
        let separator = if scheme.is_empty() { "" } else { "://" };
        Self { base: base.to_owned(), query, shown: format!("{scheme}{separator}{host}{path}"), credentials }
    }

    fn of(&self, path: &str) -> String {
        format!("{}{path}{}", self.base, self.query)
    }
}

/// Messages as the interface wants them.
pub(crate) fn to_json(body: &impl Serialize) -> String {
    serde_json::to_string(body).expect("a request is plain data")
}

/// What a server without a local template is sent of a conversation.
pub(crate) fn messages_json(messages: &[Message]) -> String {
    to_json(&messages)
}

#[cfg(test)]
mod tests {
    use super::{Address, Line, Transport, shorten};
    use std::time::Duration;

    #[test]
    fn credentials_and_query_of_an_address_are_sent_but_not_shown() {
        let address = Address::parse("https://ada:secret@host:8443/openai/v1/?api-version=2&code=hidden");
        assert_eq!(address.of("/models"), "https://ada:secret@host:8443/openai/v1/models?api-version=2&code=hidden");
        assert_eq!(address.shown, "https://host:8443/openai/v1");
        assert_eq!(address.credentials.as_deref(), Some("ada:secret"));
        assert_eq!(Address::parse("http://localhost/v1").shown, "http://localhost/v1");
        assert_eq!(Address::parse("nonsense").shown, "nonsense");
    }

    #[test]
    fn pauses_grow_to_their_limit_and_differ_between_requests() {
        let line = Line {
            url: "http://localhost".into(),
            api_key: None,
            timeout: Duration::from_secs(1),
            attempts: 6,
            pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(8),
        };
        let transport = Transport::new(line);
        let pauses = |attempt: usize| -> Vec<f64> {
            (0..200).map(|i| transport.draw_pause(Some(&i.to_string()), attempt).as_secs_f64()).collect()
        };
        for (attempt, limit) in [(1, 1.0), (2, 2.0), (4, 8.0), (40, 8.0)] {
            let pauses = pauses(attempt);
            let (least, most) = pauses.iter().fold((f64::MAX, 0.0_f64), |(a, b), &x| (a.min(x), b.max(x)));
            assert!(least < 0.1 * limit && most > 0.9 * limit && most <= limit, "{attempt}: {least} {most}");
        }
        assert_eq!(pauses(3), pauses(3));
    }

    #[test]
    fn what_a_server_says_is_told_on_one_short_line() {
        assert_eq!(shorten("a\n\n b\u{1b}[31m"), "a b\u{FFFD}[31m");
        assert_eq!(shorten(&"x".repeat(300)).chars().count(), 201);
    }
}
