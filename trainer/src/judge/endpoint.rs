//! A judge behind a server with `OpenAI`'s chat completions: it answers A or B.

use super::{Bench, Opinion, Question};
use crate::data::hash;
use crate::error::{Error, Result};
use crate::recipe::{Positive, count};
use lm::chat::{Message, Role};
use lm::endpoint::{Completion, Endpoint, EndpointConfig};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A model behind a server (`[rl_cai.judge.endpoint]`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointRecipe {
    /// Base of the interface, such as `http://localhost:8000/v1`.
    pub url: String,
    /// Name of the model there.
    pub model: String,
    /// Environment variable that holds the key; none for a server that wants none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// Whether the probabilities of A and B are asked for; without them a label is 0, 0.5 or 1. Default true.
    #[serde(default = "yes")]
    pub log_probs: bool,
    /// Most tokens of an answer or a reason. Default 512.
    #[serde(default = "max_tokens")]
    pub max_tokens: NonZeroUsize,
    /// Questions that are asked at the same time. Default 8.
    #[serde(default = "parallel")]
    pub parallel: NonZeroUsize,
    /// Longest time of one attempt, in seconds. Default 60.
    #[serde(default = "timeout_s")]
    pub timeout_s: Positive,
    /// Attempts at one question, with growing pauses. Default 6.
    #[serde(default = "attempts")]
    pub attempts: NonZeroUsize,
}

fn yes() -> bool {
    true
}

fn max_tokens() -> NonZeroUsize {
    count(512)
}

fn parallel() -> NonZeroUsize {
    count(8)
}

fn timeout_s() -> Positive {
    Positive::new(60.0).expect("in range")
}

fn attempts() -> NonZeroUsize {
    count(6)
}

/// A server, and the key to it.
pub struct EndpointJudge {
    recipe: EndpointRecipe,
    api_key: Option<String>,
}

impl fmt::Debug for EndpointJudge {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointJudge").field("recipe", &self.recipe).finish_non_exhaustive()
    }
}

/// Pause after the first attempt that failed.
const PAUSE: Duration = Duration::from_secs(1);
const DECIDE: &str = "Answer with A or B alone.";
const REASON: &str = "Think step by step: which of the two answers is better, and why?";

impl EndpointJudge {
    pub(super) fn new(recipe: EndpointRecipe, api_key: Option<String>) -> Self {
        Self { recipe, api_key }
    }

    /// Asks what the notebook does not know yet. What comes back is no function of the seed, so it is written down at once: a phase
    /// that is resumed asks nothing twice.
    pub(super) fn ask(&self, at: &Bench<'_>, questions: &[Question<'_>]) -> Result<Vec<Option<Opinion>>> {
        let put = |q: &Question<'_>| {
            [(q.a, q.b), (q.b, q.a)].map(|(first, second)| self.word(q, (first, second), at.with_reasons))
        };
        let asked: Vec<[Asked; 2]> = questions.iter().map(put).collect();
        let notebook = Notebook::open(at.notebook)?;
        let open: BTreeMap<&str, &Asked> = asked
            .iter()
            .flatten()
            .filter(|asked| !notebook.known.contains_key(&asked.hash))
            .map(|asked| (asked.hash.as_str(), asked))
            .collect();
        let known = self.fill(notebook, &open.into_values().collect::<Vec<_>>())?;
        let opinion = |[ab, ba]: &[Asked; 2]| {
            let (ab, ba) = (&known[&ab.hash], &known[&ba.hash]);
            let reasons = [ab, ba].into_iter().filter_map(|kept| kept.reason.clone()).collect();
            Some(Opinion { p_a: 0.5 * (ab.p_first? + 1.0 - ba.p_first?), reasons })
        };
        Ok(asked.iter().map(opinion).collect())
    }

    /// Asks what is open, several questions at a time, and returns all that is known then.
    fn fill(&self, notebook: Notebook, open: &[&Asked]) -> Result<BTreeMap<String, Kept>> {
        if open.is_empty() {
            return Ok(notebook.known);
        }
        let endpoint = self.connect()?;
        let (notebook, next) = (Mutex::new(notebook), AtomicUsize::new(0));
        let work = || -> Result<()> {
            while let Some(asked) = open.get(next.fetch_add(1, Ordering::Relaxed)) {
                // The first failure ends the work of all.
                let kept = self.put(&endpoint, asked).inspect_err(|_| next.store(open.len(), Ordering::Relaxed))?;
                notebook.lock().expect("writing does not panic").add(kept)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.recipe.parallel.get()).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("asking does not panic"))
        })?;
        Ok(notebook.into_inner().expect("writing does not panic").known)
    }

    fn connect(&self) -> Result<Endpoint> {
        let EndpointRecipe { url, model, api_key_env, log_probs, timeout_s, attempts, .. } = self.recipe.clone();
        if let (Some(name), None) = (&api_key_env, &self.api_key) {
            let message = "the environment has no such variable".to_owned();
            let key = "rl_cai.judge.endpoint.api_key_env".to_owned();
            return Err(Error::Setting { key, value: name.clone(), message });
        }
        let timeout = Duration::try_from_secs_f64(timeout_s.get()).unwrap_or(Duration::MAX);
        let config = EndpointConfig { url, model, log_probs, timeout, attempts: attempts.get(), pause: PAUSE };
        Ok(Endpoint::new(config, self.api_key.clone()))
    }

    /// A question in words, with its answers in one order.
    fn word(&self, question: &Question<'_>, (first, second): (&str, &str), with_reasons: bool) -> Asked {
        let turn = |message: &Message| {
            let who = match message.role {
                Role::System => "System",
                Role::User => "User",
                Role::Assistant => "Assistant",
            };
            format!("{who}: {}\n\n", message.content)
        };
        let turns: String = question.prompt.iter().map(turn).collect();
        let preference = &question.principle.preference;
        let end = if with_reasons { REASON } else { DECIDE };
        let text = format!("Consider this conversation:\n\n{turns}{preference}\n\nA: {first}\n\nB: {second}\n\n{end}");
        let EndpointRecipe { url, model, .. } = &self.recipe;
        Asked { hash: hash([url, model, &text].map(String::as_str).join("\n").as_bytes()), text, with_reasons }
    }

    fn put(&self, endpoint: &Endpoint, asked: &Asked) -> Result<Kept> {
        let say = |role: Role, content: &str| Message { role, content: content.to_owned() };
        let max_tokens = self.recipe.max_tokens.get();
        let mut conversation = vec![say(Role::User, &asked.text)];
        let mut reason = None;
        if asked.with_reasons {
            let Completion { text, .. } = endpoint.complete(&conversation, max_tokens)?;
            conversation.extend([say(Role::Assistant, &text), say(Role::User, DECIDE)]);
            reason = Some(text);
        }
        let completion = endpoint.complete(&conversation, max_tokens)?;
        let p_first = prefer_first(&completion);
        Ok(Kept { question: asked.hash.clone(), p_first, answer: completion.text, reason })
    }
}

/// Probability of A over that of A or B where the server tells them, else which of the two is named; `None` where neither is, or both.
fn prefer_first(completion: &Completion) -> Option<f64> {
    let letter = |text: &str| match text.trim() {
        "A" => Some(true),
        "B" => Some(false),
        _ => None,
    };
    let likeliest = |place: &&Vec<(String, f64)>| {
        place.iter().max_by(|one, other| one.1.total_cmp(&other.1)).is_some_and(|(token, _)| letter(token).is_some())
    };
    if let Some(place) = completion.likeliest.iter().find(likeliest) {
        let of = |wanted: bool| -> f64 {
            let found = place.iter().filter(|(token, _)| letter(token) == Some(wanted));
            found.map(|(_, log_prob)| log_prob.exp()).sum()
        };
        return Some(of(true) / (of(true) + of(false)));
    }
    let words = completion.text.split(|c: char| !c.is_alphanumeric());
    let mut named = words.filter_map(letter);
    let first = named.next()?;
    named.all(|other| other == first).then_some(if first { 1.0 } else { 0.0 })
}

/// A question as it is asked.
struct Asked {
    hash: String,
    text: String,
    with_reasons: bool,
}

/// What came back (one line of `generated/judge.jsonl`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// SHA-256 of server, model and question.
    question: String,
    /// Probability that the answer shown first is better; none where the judge named neither or both.
    p_first: Option<f64>,
    answer: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// What a server has answered, on disk and in memory.
struct Notebook {
    path: PathBuf,
    file: File,
    known: BTreeMap<String, Kept>,
}

impl Notebook {
    /// Opens a notebook, begun or new. A line that was not written to its end is dropped. The file is a new one, so that no other
    /// name of the old one sees what is added.
    fn open(path: &Path) -> Result<Self> {
        let text =
            if path.exists() { fs::read_to_string(path).map_err(Error::file("read", path))? } else { String::new() };
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let mut known = BTreeMap::new();
        for (line_idx, line) in whole.lines().enumerate() {
            let kept: Kept = serde_json::from_str(line).map_err(|error| Error::DataLine {
                path: path.to_path_buf(),
                line: line_idx + 1,
                message: error.to_string(),
            })?;
            known.insert(kept.question.clone(), kept);
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
        }
        let temporary = path.with_extension("jsonl.tmp");
        fs::write(&temporary, whole).map_err(Error::file("write", &temporary))?;
        fs::rename(&temporary, path).map_err(Error::file("rename", path))?;
        let file = File::options().append(true).open(path).map_err(Error::file("write", path))?;
        Ok(Self { path: path.to_path_buf(), file, known })
    }

    fn add(&mut self, kept: Kept) -> Result<()> {
        let line = serde_json::to_string(&kept).expect("what came back is plain data");
        // As it will be read back: JSON moves some numbers by their last bit.
        let kept: Kept = serde_json::from_str(&line).expect("it was written just now");
        self.file.write_all((line + "\n").as_bytes()).map_err(Error::file("write", &self.path))?;
        self.known.insert(kept.question.clone(), kept);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{EndpointRecipe, prefer_first};
    use crate::constitution::Principle;
    use crate::folder::RunFolder;
    use crate::judge::{Bench, Judge, JudgeRecipe, Opinion, Question};
    use crate::recipe::parse;
    use crate::rollout::SamplingRecipe;
    use crate::tiny;
    use lm::chat::{Message, Role};
    use lm::endpoint::Completion;
    use lm::{Checkpoint, Weights};
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A server that prefers the answer with `Ada` in it, and counts what it is asked.
    fn serve() -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let n_asked = Arc::new(AtomicUsize::new(0));
        let counter = n_asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut line, mut n) = (String::new(), 0);
                while line != "\r\n" {
                    line.clear();
                    reader.read_line(&mut line).unwrap();
                    let length = line.to_lowercase();
                    n = length.strip_prefix("content-length:").map_or(n, |n| n.trim().parse().unwrap());
                }
                let mut body = vec![0; n];
                reader.read_exact(&mut body).unwrap();
                counter.fetch_add(1, Ordering::Relaxed);
                let request: serde_json::Value = serde_json::from_slice(&body).unwrap();
                let turns = request["messages"].as_array().unwrap();
                let question = turns[0]["content"].as_str().unwrap();
                let answer = match (question.contains("A: Ada"), question.contains("step by step") && turns.len() == 1)
                {
                    (_, true) => "Ada it was.",
                    (true, false) => "A",
                    (false, false) => "**B**",
                };
                let reply = serde_json::json!({ "choices": [{ "message": { "content": answer } }] }).to_string();
                let length = reply.len();
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{reply}")
                    .unwrap();
            }
        });
        (url, n_asked)
    }

    fn ask(url: &str, notebook: &Path, with_reasons: bool, key: &str) -> Result<Vec<Option<Opinion>>, String> {
        let recipe: EndpointRecipe =
            parse(Path::new("r"), &format!("url = \"{url}\"\nmodel = \"m\"\nattempts = 1\n{key}")).unwrap();
        let judge = Judge::open(&JudgeRecipe::Endpoint(recipe), |_| None).unwrap();
        let config = tiny::config();
        let weights = Weights::random(&config, 5).unwrap();
        let trained = Checkpoint { config, weights, extra: Vec::new(), tokenizer: tiny::tokenizer(), lineage: None };
        let sampling = SamplingRecipe::default();
        let bench =
            Bench { trained: &trained, with_reasons, sampling, seed: 1, notebook, folder: &RunFolder::new("unused") };
        let text = || "x".to_owned();
        let principle = Principle { name: text(), critique: text(), revision: text(), preference: "Which?".to_owned() };
        let prompt = [Message { role: Role::User, content: "Who?".to_owned() }];
        let question = |(a, b)| Question { prompt: &prompt, principle: &principle, a, b };
        let questions = [("Ada.", "Bo."), ("Bo.", "Ada."), ("Cleo.", "Bo.")].map(question);
        judge.ask(&bench, &questions).map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_server_has_answered_is_not_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let notebook = folder.path().join("generated/judge.jsonl");
        let (url, n_asked) = serve();
        let found = ask(&url, &notebook, false, "").unwrap();
        // For the third pair it names the letter B in both orders: no preference.
        assert_eq!(found.iter().flatten().map(|opinion| opinion.p_a).collect::<Vec<_>>(), [1.0, 0.0, 0.5]);
        // The first two pairs are one, in two orders.
        assert_eq!(n_asked.load(Ordering::Relaxed), 4);
        // As a kill leaves it: the last line is half there.
        let text = std::fs::read_to_string(&notebook).unwrap();
        std::fs::write(&notebook, &text[..text.len() - 9]).unwrap();
        assert_eq!(ask(&url, &notebook, false, "").unwrap(), found);
        assert_eq!(n_asked.load(Ordering::Relaxed), 5);
        assert_eq!(std::fs::read_to_string(&notebook).unwrap(), text);
        let reasoned = ask(&url, &notebook, true, "").unwrap();
        assert_eq!(reasoned[0].as_ref().unwrap().reasons, ["Ada it was.", "Ada it was."]);
        assert_eq!(n_asked.load(Ordering::Relaxed), 5 + 8);
        let refused = ask(&url, &folder.path().join("other"), false, "api_key_env = \"NO_KEY\"").unwrap_err();
        assert_eq!(refused, "key `rl_cai.judge.endpoint.api_key_env` = NO_KEY: the environment has no such variable");
        std::fs::write(&notebook, "{}\n").unwrap();
        let refused = ask(&url, &notebook, false, "").unwrap_err();
        assert!(refused.contains("judge.jsonl:1: missing field `question`"), "{refused}");
    }

    #[test]
    fn probabilities_come_before_the_letter_that_is_named() {
        let said = |text: &str, places: &[&[(&str, f64)]]| {
            let place = |place: &&[(&str, f64)]| place.iter().map(|&(token, p)| (token.to_owned(), p.ln())).collect();
            prefer_first(&Completion { text: text.to_owned(), likeliest: places.iter().map(place).collect() })
        };
        let found =
            said("(A", &[&[("(", 0.9), ("A", 0.1)], &[("B", 0.1), (" A", 0.2), ("A", 0.5), ("C", 0.2)]]).unwrap();
        assert!((found - 0.7 / 0.8).abs() < 1e-12, "{found}");
        assert_eq!(said("A", &[&[("A", 0.9)]]), Some(1.0));
        assert_eq!(
            ["A", "(B).", "Answer: A", "neither", "A, not B"].map(|text| said(text, &[])),
            [Some(1.0), Some(0.0), Some(1.0), None, None]
        );
    }
}
