//! A server's answers against a model that is known exactly, over a line that fails in every way.

use super::hostile::{Asked, Deed, Echo, Hostile, Talents, is_probe, log_prob, next_word, reply_to, tokens};
use super::{LocalTemplate, Server, ServerConfig, ServerKind};
use crate::chat::{Message, Role};
use crate::random::stream;
use crate::subject::{Ability, GenerateRequest, Generation, Prompt, Score, ScoreRequest, Subject};
use crate::{Error, Result};
use rand::Rng;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const KEY: &str = "sk-very-secret-key";

fn config(server: &Hostile) -> ServerConfig {
    ServerConfig {
        api_key: Some(KEY.to_owned()),
        timeout: Duration::from_millis(400),
        in_flight: 6,
        pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(8),
        ..ServerConfig::new(server.url(), "small")
    }
}

fn with_journal(server: &Hostile, journal: &Path) -> ServerConfig {
    ServerConfig { journal: Some(journal.to_owned()), ..config(server) }
}

fn template() -> LocalTemplate {
    let source = "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }}{% endfor %}{% if add_generation_prompt %} <|assistant|>{% endif %}";
    let tokens = BTreeMap::from([("bos_token", "<s>".to_owned()), ("eos_token", "</s>".to_owned())]);
    LocalTemplate { source: source.to_owned(), tokens }
}

fn ask(prompt: Prompt) -> GenerateRequest {
    GenerateRequest { prompt, max_new_tokens: 8, stop: Vec::new() }
}

fn weigh(context: &str, continuation: &str) -> ScoreRequest {
    ScoreRequest { context: Prompt::Text(context.to_owned()), continuation: continuation.to_owned() }
}

fn said(text: String, n_tokens: usize, is_complete: bool) -> Generation {
    Generation { text: text.trim().to_owned(), is_complete, n_tokens: Some(n_tokens) }
}

/// What the model behind the line gives a continuation of some words.
fn true_score(before: &str, continuation: &str) -> Score {
    let mut before = before.to_owned();
    let mut log_prob_nats = 0.0;
    let words = tokens(continuation);
    for word in &words {
        log_prob_nats += log_prob(&before, word);
        before += word;
    }
    Score { log_prob_nats, n_tokens: words.len(), is_greedy: Some(true) }
}

/// Chats, texts and scores by turns; and what is right.
fn requests(n: usize) -> (Vec<GenerateRequest>, Vec<Generation>, Vec<ScoreRequest>, Vec<Score>) {
    let (mut asked, mut right, mut weighed, mut weights) = (vec![], vec![], vec![], vec![]);
    for i in 0..n {
        let text = format!("§ number {i} é🌊 {}", "and more ".repeat(i % 7));
        if i % 2 == 0 {
            asked.push(ask(Prompt::user(&text)));
            right.push(said(reply_to(&text), 7, true));
        } else {
            right.push(said(next_word(&text), 1, false));
            asked.push(ask(Prompt::Text(text.clone())));
        }
        let (context, continuation) = (format!("§ context {i}"), " goes on and on");
        weights.push(true_score(&context, continuation));
        weighed.push(weigh(&context, continuation));
    }
    (asked, right, weighed, weights)
}

/// A seed of its own for every request.
fn seed_of(body: &Value) -> u64 {
    u64::from_le_bytes(Sha256::digest(body.to_string())[..8].try_into().unwrap())
}

/// One of all the ways to go wrong, drawn by request and attempt.
fn misdeed(body: &Value, nth: usize) -> Deed {
    let mut draw = stream(seed_of(body), "deed", nth as u64);
    match draw.random_range(0..18) {
        0..=5 => Deed::Cut(draw.random_range(0..400)),
        6 => Deed::Status(429, None),
        7 => Deed::Status(429, Some(("Retry-After", "3600"))),
        8 => Deed::Status(503, Some(("Retry-After", "Sun, 06 Nov 2050 08:49:37 GMT"))),
        9 => Deed::Status([408, 409, 500, 502, 504, 529][draw.random_range(0..6)], None),
        10 => Deed::TruncatedJson,
        11 => Deed::TooLong,
        12 => Deed::TooShort,
        13 => Deed::Garbage,
        14 => Deed::Body("<html><body>Bad gateway</body></html>".to_owned()),
        15 => Deed::Body(r#"{"error":{"message":"overloaded","code":503}}"#.to_owned()),
        16 => Deed::Body(
            r#"{"choices":[{"text":"a","text":"b","finish_reason":"stop","logprobs":{"x":NaN}}]}"#.to_owned(),
        ),
        _ => Deed::Body(String::new()),
    }
}

/// An answer, late or twice or plain.
fn deed(body: &Value) -> Deed {
    match seed_of(body) % 5 {
        0 => Deed::AnswerLate(Duration::from_millis(3)),
        1 => Deed::AnswerTwice,
        _ => Deed::Answer,
    }
}

fn is_doomed(body: &Value) -> bool {
    !is_probe(body) && seed_of(body) % 11 == 3
}

fn is_answer(asked: &Asked) -> bool {
    matches!(asked.deed, Deed::Answer | Deed::AnswerLate(_) | Deed::AnswerTwice)
}

fn answers_per_request(asked: &[Asked]) -> BTreeMap<String, usize> {
    let mut n_answers = BTreeMap::new();
    for asked in asked {
        *n_answers.entry(format!("{} {}", asked.path, asked.body)).or_insert(0) += usize::from(is_answer(asked));
    }
    n_answers
}

#[test]
fn of_hundreds_of_requests_over_a_line_that_fails_in_every_way_each_is_answered_once_and_rightly_or_has_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal.jsonl");
    let hostile = Hostile::start(Talents::default(), |body, nth| {
        if is_doomed(body) || nth < seed_of(body) as usize % 5 { misdeed(body, nth) } else { deed(body) }
    });
    let server = Server::connect(with_journal(&hostile, &journal)).unwrap();
    let (asked, right, weighed, weights) = requests(120);
    let generations = server.generate(&asked).unwrap();
    let scores = server.score(&weighed).unwrap();
    let check = |error: &Error| {
        let Error::Server { url, message, n_attempts, .. } = error else { panic!("{error}") };
        assert!(url.starts_with(&hostile.url()) && *n_attempts == 6 && !message.is_empty(), "{error}");
        assert!(error.is_about_a_request());
    };
    let mut n_failed = 0;
    for (found, right) in generations.iter().zip(&right) {
        match found {
            Ok(found) => assert_eq!(found, right),
            Err(error) => check(error),
        }
        n_failed += usize::from(found.is_err());
    }
    for (found, right) in scores.iter().zip(&weights) {
        match found {
            Ok(found) => assert_eq!(found, right),
            Err(error) => check(error),
        }
        n_failed += usize::from(found.is_err());
    }
    assert_eq!((generations.len(), scores.len()), (120, 120));
    let log = hostile.asked();
    let n_answers = answers_per_request(&log);
    let n_doomed = log.iter().filter(|asked| is_doomed(&asked.body)).count() / 6;
    assert!(n_doomed > 10 && n_failed == n_doomed, "{n_failed} {n_doomed}");
    assert_eq!(n_answers.len(), 240);
    assert!(n_answers.values().all(|&n| n <= 1));
    assert_eq!(n_answers.values().sum::<usize>(), 240 - n_doomed);
    assert!(hostile.n_most() <= 6 && hostile.n_most() > 1, "{}", hostile.n_most());
    // Failures are not kept: what had an answer is not asked again, what had none is.
    let n_lines = std::fs::read_to_string(&journal).unwrap().lines().count();
    assert_eq!(n_lines, 1 + 240 - n_doomed);
    drop(server);
    let healthy = Hostile::start(Talents::default(), |_, _| Deed::Answer);
    let again = Server::connect(with_journal(&healthy, &folder.path().join("other.jsonl"))).unwrap();
    assert_eq!(again.generate(&asked).unwrap().into_iter().map(Result::unwrap).collect::<Vec<_>>(), right);
}

#[test]
fn a_run_that_was_killed_asks_nothing_again_that_was_answered() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal.jsonl");
    // The first life ends when its 50th request is refused; the port is kept for the second.
    let n_asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = n_asked.clone();
    let hostile = Hostile::start(Talents::default(), move |body, _| {
        let n = if is_probe(body) { 0 } else { counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst) };
        if n == 50 { Deed::Status(401, None) } else { Deed::Answer }
    });
    let (asked, right, weighed, weights) = requests(60);
    let first = Server::connect(with_journal(&hostile, &journal)).unwrap();
    let Err(error) = first.generate(&asked) else { panic!("the key was refused") };
    assert!(matches!(&error, Error::ServerOver { message, .. } if message == "status 401: busy"), "{error}");
    // Whoever asks on is told at once.
    assert!(first.score(&weighed).is_err());
    let n_before = hostile.asked().len();
    assert!((51..60).contains(&n_before), "{n_before}");
    // Two lives do not overlap.
    assert!(matches!(Server::connect(with_journal(&hostile, &journal)), Err(Error::BadJournal { .. })));
    drop(first);
    // The kill came in the middle of a line.
    let text = std::fs::read_to_string(&journal).unwrap();
    let n_kept = text.lines().count() - 2;
    std::fs::write(&journal, &text[..text.len() - 7]).unwrap();
    let second = Server::connect(with_journal(&hostile, &journal)).unwrap();
    let found: Vec<Generation> = second.generate(&asked).unwrap().into_iter().map(Result::unwrap).collect();
    assert_eq!(found, right);
    let scored: Vec<Score> = second.score(&weighed).unwrap().into_iter().map(Result::unwrap).collect();
    assert_eq!(scored, weights);
    assert_eq!(hostile.asked().len() - n_before, 60 - n_kept + 60);
    drop(second);
    let n_before = hostile.asked().len();
    let third = Server::connect(with_journal(&hostile, &journal)).unwrap();
    assert_eq!(third.generate(&asked).unwrap().into_iter().map(Result::unwrap).collect::<Vec<_>>(), right);
    assert_eq!(third.score(&weighed).unwrap().into_iter().map(Result::unwrap).collect::<Vec<_>>(), weights);
    assert_eq!(hostile.asked().len(), n_before);
}

#[test]
fn equal_requests_are_asked_once_and_equal_texts_that_are_parted_elsewhere_are_not_equal() {
    let hostile = Hostile::start(Talents::default(), |_, _| Deed::Answer);
    let server = Server::connect(config(&hostile)).unwrap();
    let requests = [weigh("§ a", " b c"), weigh("§ a b", " c"), weigh("§ a", " b c")];
    let scores: Vec<Score> = server.score(&requests).unwrap().into_iter().map(Result::unwrap).collect();
    assert_eq!(scores, [true_score("§ a", " b c"), true_score("§ a b", " c"), true_score("§ a", " b c")]);
    assert_eq!(hostile.asked().len(), 2);
    let stop = |stop: &[&str]| GenerateRequest {
        stop: stop.iter().map(|&it| it.to_owned()).collect(),
        ..ask(Prompt::user("§ one two three"))
    };
    // More stop strings than the interface takes: the answer is cut here.
    let stops = [stop(&["a", "b", "c", "d", "two"]), stop(&["a", "b", "c", "d", " one"]), stop(&["", "three"])];
    let texts: Vec<String> = server.generate(&stops).unwrap().into_iter().map(|it| it.unwrap().text).collect();
    assert_eq!(texts, ["You s", "You s", "You said: § one two"]);
    let sent = hostile.asked();
    assert!(sent.iter().any(|asked| asked.body["stop"] == json!(["three"])));
}

#[test]
fn a_refusal_of_one_request_is_about_that_request() {
    let hostile = Hostile::start(Talents::default(), |body, _| {
        let text = body.to_string();
        let found = [400, 404, 413, 422].into_iter().find(|status| text.contains(&format!("§ {status}")));
        found.map_or(Deed::Answer, |status| Deed::Status(status, None))
    });
    let server = Server::connect(config(&hostile)).unwrap();
    let texts = ["§ 400", "§ fine", "§ 404", "§ 413", "§ 422"];
    let answers = server.generate(&texts.map(|text| ask(Prompt::user(text)))).unwrap();
    let told: Vec<String> = answers.into_iter().map(|it| it.map_or_else(|it| it.to_string(), |it| it.text)).collect();
    let refused = |status: u16| format!("{}/chat/completions: status {status}: busy", hostile.url());
    assert_eq!(told, [refused(400), "You said: § fine".to_owned(), refused(404), refused(413), refused(422)]);
    assert_eq!(hostile.asked().len(), 5);
}

#[test]
fn a_server_that_goes_away_ends_the_run() {
    let hostile = Hostile::start(Talents::default(), |_, _| Deed::Answer);
    let server = Server::connect(ServerConfig { attempts: 2, ..config(&hostile) }).unwrap();
    let url = hostile.url();
    drop(hostile);
    // The listener ends in its own time.
    while std::net::TcpStream::connect(url.trim_start_matches("http://").trim_end_matches("/v1")).is_ok() {}
    let (asked, ..) = requests(60);
    let few = server.generate(&asked[..3]).unwrap();
    assert!(few.iter().all(|it| matches!(it, Err(Error::Server { status: None, n_attempts: 2, .. }))));
    let Err(Error::ServerOver { message, .. }) = server.generate(&asked) else { panic!("it is gone") };
    assert!(message.contains("the server is gone: 20 requests in a row"), "{message}");
    let Err(error) = Server::connect(ServerConfig { attempts: 1, ..ServerConfig::new(url, "small") }) else {
        panic!("it is gone")
    };
    assert!(error.to_string().to_lowercase().contains("refused"), "{error}");
}

#[test]
fn silence_is_given_up_after_the_time_that_is_allowed() {
    let hostile =
        Hostile::start(
            Talents::default(),
            |body, nth| {
                if !is_probe(body) && nth == 0 { Deed::Silence } else { Deed::Answer }
            },
        );
    let server = Server::connect(config(&hostile)).unwrap();
    let answer = server.generate(&[ask(Prompt::user("§ hello"))]).unwrap().remove(0).unwrap();
    assert_eq!(answer.text, "You said: § hello");
    assert_eq!(hostile.asked().len(), 2);
}

fn connect(talents: Talents, change: impl FnOnce(&mut ServerConfig)) -> (Hostile, Result<Server>) {
    let hostile = Hostile::start(talents, |_, _| Deed::Answer);
    let mut config = config(&hostile);
    change(&mut config);
    let server = Server::connect(config);
    (hostile, server)
}

fn lacks(talents: Talents, ability: Ability) -> String {
    connect(talents, |_| {}).1.unwrap().lacks(ability).unwrap_or_default().to_owned()
}

#[test]
fn what_a_server_cannot_do_is_found_out_and_said() {
    let whole = Talents::default();
    assert_eq!(lacks(whole.clone(), Ability::Score), "");
    assert_eq!(lacks(whole.clone(), Ability::Generate), "");
    let of_echo = |echo| lacks(Talents { echo, ..Talents::default() }, Ability::Score);
    let refused = of_echo(Echo::Refused);
    assert!(
        refused.contains("no log-probabilities of given text: /completions: status 400")
            && refused.contains("Only no echo"),
        "{refused}"
    );
    let ignored = of_echo(Echo::Ignored);
    assert!(ignored.contains("log-probabilities of generated text alone"), "{ignored}");
    let shifted = of_echo(Echo::Shifted);
    assert!(shifted.contains("likelihoods of given text are wrong"), "{shifted}");
    let chat_only = Talents { missing: &["/completions"], ..whole.clone() };
    assert_eq!(lacks(chat_only.clone(), Ability::Score), "/completions: status 404: no such page");
    assert_eq!(lacks(chat_only.clone(), Ability::Generate), "");
    let (_hostile, server) = connect(chat_only, |_| {});
    let server = server.unwrap();
    let answers = server.generate(&[ask(Prompt::Text("§ a".into())), ask(Prompt::user("§ b"))]).unwrap();
    assert!(matches!(&answers[0], Err(Error::Server { n_attempts: 0, .. })) && answers[1].is_ok());
    assert!(server.score(&[weigh("§ a", " b")]).unwrap().remove(0).unwrap_err().is_about_a_request());
    let text_only = Talents { missing: &["/chat/completions"], ..whole.clone() };
    assert_eq!(lacks(text_only, Ability::Generate), "");
    let nothing = Talents { missing: &["/completions", "/chat/completions"], ..whole };
    assert_eq!(lacks(nothing, Ability::Generate), "/chat/completions: status 404: no such page");
}

#[test]
fn a_model_is_found_by_its_name_or_the_known_ones_are_listed() {
    let (hostile, server) = connect(Talents::default(), |config| config.model = "huge".to_owned());
    let expected = format!("{} has no model `huge`; it lists `small`, `large`", hostile.url());
    assert_eq!(server.unwrap_err().to_string(), expected);
    let (_hostile, server) = connect(Talents::default(), |config| config.model = String::new());
    assert!(matches!(server, Err(Error::UnknownModel { .. })));
    let silent = Talents { missing: &["/models"], ..Talents::default() };
    let (_hostile, server) = connect(silent, |config| config.model = "huge".to_owned());
    assert_eq!(server.unwrap().model(), "huge");
}

#[test]
fn conversations_are_scored_through_the_local_template_with_one_token_at_the_start() {
    for (puts_start, has_prompt_logprobs) in [(false, false), (true, false), (false, true), (true, true)] {
        let owned_by = if has_prompt_logprobs { "vllm" } else { "me" };
        let talents = Talents { owned_by, has_prompt_logprobs, puts_start, ..Talents::default() };
        let (hostile, server) = connect(talents, |config| config.template = Some(template()));
        let server = server.unwrap();
        let request = ScoreRequest { context: Prompt::user("§ Who?"), continuation: " Ada it was".to_owned() };
        let score = server.score(std::slice::from_ref(&request)).unwrap().remove(0).unwrap();
        assert_eq!(score, true_score("<s><|user|> § Who? <|assistant|>", " Ada it was"), "{puts_start}");
        let sent = hostile.asked().remove(0).body;
        assert_eq!(sent["prompt"].as_str().unwrap().starts_with("<s>"), !puts_start);
        // Each kind has its own name for the penalty that is switched off.
        assert_eq!(sent["repetition_penalty"].is_null(), !has_prompt_logprobs);
        assert_eq!(sent["repeat_penalty"].is_null(), has_prompt_logprobs);
        assert_eq!(sent["echo"].is_null(), has_prompt_logprobs);
        assert_eq!(server.end_of_turn(), Some("</s>"));
        assert_eq!(server.render(&request.context).unwrap(), "<s><|user|> § Who? <|assistant|>");
        // Answers come from the server's own chat.
        assert_eq!(server.generate(&[ask(request.context)]).unwrap().remove(0).unwrap().text, "You said: § Who?");
    }
    let text_only = Talents { missing: &["/chat/completions"], ..Talents::default() };
    let (_hostile, server) = connect(text_only, |config| config.template = Some(template()));
    let answer = server.unwrap().generate(&[ask(Prompt::user("§ Who?"))]).unwrap().remove(0).unwrap();
    assert_eq!(answer.text, next_word("<s><|user|> § Who? <|assistant|>").trim());
    let (_hostile, server) = connect(Talents::default(), |_| {});
    let server = server.unwrap();
    let request = ScoreRequest { context: Prompt::user("§ Who?"), continuation: " Ada".to_owned() };
    assert!(server.score(&[request]).unwrap().remove(0).unwrap_err().to_string().contains("chat template"));
    assert_eq!(server.render(&Prompt::user("Who?")).unwrap(), r#"[{"role":"user","content":"Who?"}]"#);
}

#[test]
fn a_text_whose_tokens_do_not_part_at_the_boundary_has_no_score_and_is_not_asked_for_again_and_again() {
    let hostile = Hostile::start(Talents::default(), |_, _| Deed::Answer);
    let server = Server::connect(config(&hostile)).unwrap();
    let requests = [weigh("§ bo", "at"), weigh("§ a", " b"), weigh("", "§ a"), weigh("§ a", "")];
    let told: Vec<String> = server
        .score(&requests)
        .unwrap()
        .into_iter()
        .map(|it| it.map_or_else(|it| it.to_string(), |_| String::new()))
        .collect();
    assert!(told[0].contains("no likelihood: a token straddles the boundary"), "{told:?}");
    assert!(
        told[1].is_empty() && told[2].contains("first token of a text") && told[3].contains("is empty"),
        "{told:?}"
    );
    assert_eq!(hostile.asked().len(), 3);
}

#[test]
fn limits_that_were_renamed_are_called_by_their_name() {
    let talents = Talents { has_renamed_limit: true, ..Talents::default() };
    let (hostile, server) = connect(talents, |_| {});
    let answer = server.unwrap().generate(&[ask(Prompt::user("§ a"))]).unwrap().remove(0);
    assert!(answer.is_ok());
    assert_eq!(hostile.asked()[0].body["max_completion_tokens"], 8);
    // The interface and nothing else.
    let sent = hostile.asked().remove(0).body;
    let names: Vec<&str> = sent.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["model", "messages", "max_completion_tokens", "temperature", "seed"]);
    assert_eq!((&sent["temperature"], &sent["seed"]), (&json!(0.0), &json!(0)));
}

#[test]
fn the_fingerprint_is_that_of_server_model_template_and_kind() {
    let hostile = Hostile::start(Talents::default(), |_, _| Deed::Answer);
    let print = |change: &dyn Fn(&mut ServerConfig)| {
        let mut config = config(&hostile);
        change(&mut config);
        Server::connect(config).unwrap().fingerprint().to_owned()
    };
    let own = print(&|_| {});
    assert_eq!(own.len(), 64);
    let with_credentials = hostile.url().replace("http://", "http://ada:password@");
    assert_eq!(own, print(&|config| (config.api_key, config.url) = (None, with_credentials.clone())));
    let others = [
        print(&|config| config.model = "large".to_owned()),
        print(&|config| config.template = Some(template())),
        print(&|config| config.kind = ServerKind::Vllm),
    ];
    assert!(others.iter().all(|other| *other != own) && others[0] != others[1]);
}

#[test]
fn the_key_stands_nowhere_but_in_the_head_of_requests() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal.jsonl");
    // A server that sends back what it got.
    let hostile = Hostile::start(Talents::default(), |body, _| match body.to_string() {
        text if text.contains("§ fail") => {
            Deed::Body(format!("{{\"error\":{{\"message\":\"Bearer {KEY}\",\"code\":400}}}}"))
        }
        text if text.contains("§ tell") => {
            Deed::Body(format!(r#"{{"choices":[{{"message":{{"content":"{KEY}"}},"finish_reason":"stop"}}]}}"#))
        }
        _ => Deed::Answer,
    });
    let config = with_journal(&hostile, &journal);
    let mut shown = format!("{config:?}");
    let server = Server::connect(config).unwrap();
    let turn = Message { role: Role::User, content: "§ tell".to_owned() };
    let answers = server.generate(&[ask(Prompt::user("§ fail")), ask(Prompt::Chat(vec![turn]))]).unwrap();
    shown += &format!("{server:?} {answers:?} {}", answers[0].as_ref().unwrap_err());
    assert_eq!(answers[1].as_ref().unwrap().text, "[key]");
    shown += &std::fs::read_to_string(&journal).unwrap();
    assert!(!shown.contains(KEY), "{shown}");
    let sent = hostile.asked();
    assert!(
        sent.iter().all(|asked| asked.head.contains(&format!("Bearer {KEY}")) && !asked.body.to_string().contains(KEY))
    );
    assert!(hostile.n_probes() > 0);
}
