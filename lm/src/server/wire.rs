//! What goes over the wire: requests of `OpenAI`'s interface with the additions of vLLM and llama.cpp, and their answers.

use super::transport::{Reading, is_passing, shorten};
use crate::chat::Message;
use crate::subject::Generation;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// `POST /chat/completions`.
#[derive(Serialize)]
pub(super) struct ChatBody<'a> {
    pub(super) model: &'a str,
    pub(super) messages: &'a [Message],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_tokens: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_completion_tokens: Option<usize>,
    pub(super) temperature: f64,
    pub(super) seed: u64,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub(super) stop: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) repeat_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) repetition_penalty: Option<f64>,
}

/// `POST /completions`.
#[derive(Serialize)]
pub(super) struct TextBody<'a> {
    pub(super) model: &'a str,
    pub(super) prompt: &'a str,
    pub(super) max_tokens: usize,
    pub(super) temperature: f64,
    pub(super) seed: u64,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub(super) stop: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) echo: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) logprobs: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prompt_logprobs: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) repeat_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) repetition_penalty: Option<f64>,
}

/// An answer to either; unknown fields are left alone, a field that stands twice is an error.
#[derive(Debug, Deserialize)]
struct RawReply {
    #[serde(default)]
    error: Option<Value>,
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    system_fingerprint: Option<String>,
    #[serde(default)]
    prompt_logprobs: Option<PromptLogProbs>,
}

/// An answer with its one choice.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) choice: Choice,
    pub(super) usage: Usage,
    pub(super) system_fingerprint: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Choice {
    #[serde(default)]
    message: Option<Said>,
    #[serde(default)]
    pub(super) text: Option<String>,
    #[serde(default)]
    finish_reason: Option<String>,
    #[serde(default)]
    pub(super) logprobs: Option<LogProbs>,
    #[serde(default)]
    pub(super) prompt_logprobs: Option<PromptLogProbs>,
}

#[derive(Debug, Deserialize)]
struct Said {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
}

/// Log-probabilities of `/completions`, one entry per token.
#[derive(Debug, Default, Deserialize)]
pub(super) struct LogProbs {
    #[serde(default)]
    pub(super) tokens: Option<Vec<String>>,
    #[serde(default)]
    pub(super) token_logprobs: Option<Vec<Option<f64>>>,
    #[serde(default)]
    pub(super) top_logprobs: Option<Vec<Option<BTreeMap<String, f64>>>>,
    #[serde(default)]
    pub(super) text_offset: Option<Vec<usize>>,
    /// The form of `/chat/completions`, which llama.cpp's server uses here as well.
    #[serde(default)]
    pub(super) content: Option<Vec<Place>>,
}

/// One generated token with its log-probability.
#[derive(Debug, Deserialize)]
pub(super) struct Place {
    pub(super) token: String,
    pub(super) logprob: f64,
}

/// vLLM: per token of the prompt the entries of some token ids, none for the first.
pub(super) type PromptLogProbs = Vec<Option<BTreeMap<String, PromptEntry>>>;

#[derive(Debug, Deserialize)]
pub(super) struct PromptEntry {
    pub(super) logprob: f64,
    #[serde(default)]
    pub(super) rank: Option<u64>,
    #[serde(default)]
    pub(super) decoded_token: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct Usage {
    #[serde(default)]
    pub(super) prompt_tokens: Option<usize>,
    #[serde(default)]
    pub(super) completion_tokens: Option<usize>,
}

/// Reads a completion of either kind.
pub(super) fn read_reply(text: &str) -> Result<Reply, Reading> {
    let malformed = |what: String| Reading::Malformed(format!("{what}: {}", shorten(text)));
    let raw: RawReply =
        serde_json::from_str(text).map_err(|error| malformed(format!("the answer is no completion: {error}")))?;
    if let Some(error) = raw.error {
        let code = error.get("code").or_else(|| error.get("status"));
        let status = code.and_then(|code| code.as_u64().or_else(|| code.as_str()?.parse().ok()));
        let message = format!("status 200 with an error: {}", shorten(&error.to_string()));
        let lasts = status.is_some_and(|status| (400..500).contains(&status) && !is_passing(status as u16));
        return Err(if lasts { Reading::Final(message) } else { Reading::Malformed(message) });
    }
    let mut choices =
        raw.choices.ok_or_else(|| malformed("the answer is no completion: it has no choices".to_owned()))?;
    let (Some(mut choice), true) = (choices.pop(), choices.is_empty()) else {
        return Err(malformed(format!("the answer should have one choice and has {}", choices.len())));
    };
    choice.prompt_logprobs = choice.prompt_logprobs.or(raw.prompt_logprobs);
    Ok(Reply { choice, usage: raw.usage.unwrap_or_default(), system_fingerprint: raw.system_fingerprint })
}

/// A generation, cut before the first of `stop`.
///
/// What ended it decides whether it is whole; text that a filter held back or a call of a tool is no answer.
pub(super) fn read_generation(text: &str, stop: &[String]) -> Result<Generation, Reading> {
    let Reply { choice, usage, .. } = read_reply(text)?;
    let end = choice.finish_reason.as_deref();
    let is_complete = match end {
        Some("stop" | "eos" | "eos_token" | "stop_sequence" | "end_turn") => true,
        Some("length" | "max_tokens") => false,
        Some("content_filter") => {
            return Err(Reading::Final("the provider's content filter held the answer back".to_owned()));
        }
        Some("tool_calls" | "function_call") => {
            return Err(Reading::Final("the model called a tool in place of an answer".to_owned()));
        }
        Some(other) => {
            return Err(Reading::Malformed(format!("the answer ended for an unknown reason: {}", shorten(other))));
        }
        None => return Err(Reading::Malformed("the answer does not say how it ended".to_owned())),
    };
    let said = match choice.message {
        // What a provider calls a refusal is what the reader sees.
        Some(Said { content, refusal }) => content.or(refusal),
        None => choice.text,
    };
    let Some(mut said) = said else {
        let reason = format!("the answer has no text (it ended by `{}`)", end.unwrap_or_default());
        return Err(Reading::Final(reason));
    };
    let cut = stop.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| said.find(stop.as_str())).min();
    if let Some(at) = cut {
        said.truncate(at);
    }
    Ok(Generation {
        text: said.trim().to_owned(),
        is_complete: is_complete || cut.is_some(),
        n_tokens: usage.completion_tokens,
    })
}

/// `GET /models`.
#[derive(Debug, Deserialize)]
struct Models {
    data: Vec<Model>,
}

/// What a server says of a model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Model {
    pub(super) id: String,
    #[serde(default)]
    pub(super) owned_by: Option<String>,
    /// vLLM: the weights behind the name.
    #[serde(default)]
    pub(super) root: Option<String>,
    /// llama.cpp: sizes of the file.
    #[serde(default)]
    pub(super) meta: Option<Value>,
}

/// Reads the list of models.
pub(super) fn read_models(text: &str) -> Result<Vec<Model>, Reading> {
    let models: Models = serde_json::from_str(text)
        .map_err(|error| Reading::Malformed(format!("the answer is no list of models: {error}: {}", shorten(text))))?;
    Ok(models.data)
}

#[cfg(test)]
mod tests {
    use super::{read_generation, read_models};
    use crate::server::transport::Reading;
    use crate::subject::Generation;

    fn read(text: &str) -> Result<Generation, Reading> {
        read_generation(text, &["END".to_owned(), String::new()])
    }

    fn chat(message: &str, end: &str) -> String {
        format!(r#"{{"choices":[{{"message":{message},"finish_reason":{end}}}],"usage":{{"completion_tokens":3}}}}"#)
    }

    #[test]
    fn an_answer_is_read_from_both_interfaces_and_cut_at_a_stop_string() {
        let whole = |text: &str, is_complete| Generation { text: text.to_owned(), is_complete, n_tokens: Some(3) };
        assert_eq!(read(&chat(r#"{"content":" Lund. "}"#, r#""stop""#)), Ok(whole("Lund.", true)));
        assert_eq!(read(&chat(r#"{"content":"Lun"}"#, r#""length""#)), Ok(whole("Lun", false)));
        assert_eq!(read(&chat(r#"{"content":"Lund END of"}"#, r#""length""#)), Ok(whole("Lund", true)));
        assert_eq!(read(&chat(r#"{"content":null,"refusal":"No."}"#, r#""stop""#)), Ok(whole("No.", true)));
        assert_eq!(read(&chat(r#"{"content":""}"#, r#""stop""#)), Ok(whole("", true)));
        let text = read(r#"{"choices":[{"text":" Lund","finish_reason":"stop","logprobs":null}]}"#);
        assert_eq!(text, Ok(Generation { n_tokens: None, ..whole("Lund", true) }));
    }

    #[test]
    fn what_is_no_answer_is_told_apart_into_what_may_get_better_and_what_will_not() {
        let lasting = |text: &str| matches!(read(text), Err(Reading::Final(_)));
        let passing = |text: &str| matches!(read(text), Err(Reading::Malformed(_)));
        for text in [
            &chat(r#"{"content":null,"tool_calls":[{}]}"#, r#""tool_calls""#),
            &chat(r#"{"content":null}"#, r#""length""#),
            &chat(r#"{"content":"half"}"#, r#""content_filter""#),
            r#"{"error":{"message":"bad","code":400}}"#,
            r#"{"error":{"message":"bad","code":"404"},"choices":[]}"#,
        ] {
            assert!(lasting(text), "{text}");
        }
        for text in [
            "",
            "<html><body>502</body></html>",
            "null",
            "[]",
            "{}",
            r#"{"choices":null}"#,
            r#"{"choices":[]}"#,
            r#"{"choices":[{"text":"a","finish_reason":"stop"},{"text":"b","finish_reason":"stop"}]}"#,
            r#"{"choices":[{"text":"a","text":"b","finish_reason":"stop"}]}"#,
            r#"{"choices":[{"text":7,"finish_reason":"stop"}]}"#,
            r#"{"choices":[{"text":"a"}]}"#,
            r#"{"choices":[{"text":"a","finish_reason":"abort"}]}"#,
            r#"{"choices":[{"text":"a","finish_reason":"stop"}]} and more"#,
            r#"{"choices":[{"text":"a","finish_reason":"stop","logprobs":{"token_logprobs":[NaN]}}]}"#,
            r#"{"choices":[{"text":"a","finish_reason":"stop","logprobs":{"token_logprobs":[1e999]}}]}"#,
            r#"{"choices":[{"text":"a","finish_reason":"stop"}],"usage":{"completion_tokens":-1}}"#,
            r#"{"error":"overloaded"}"#,
            r#"{"error":{"code":503}}"#,
            &chat(r#"{"content":[{"type":"text"}]}"#, r#""stop""#),
            &chat(r#"{"content":"a"}"#, "null"),
        ] {
            assert!(passing(text), "{text}: {:?}", read(text));
        }
        let whole = chat(r#"{"content":"Lund"}"#, r#""stop""#);
        assert!((0..whole.len()).all(|n| passing(&whole[..n])));
    }

    #[test]
    fn models_are_listed_whatever_else_is_said_of_them() {
        let models =
            read_models(r#"{"object":"list","data":[{"id":"a","owned_by":"vllm","permission":[]},{"id":"b"}]}"#);
        let ids: Vec<String> = models.unwrap().into_iter().map(|model| model.id).collect();
        assert_eq!(ids, ["a", "b"]);
        assert!(read_models(r#"{"models":[]}"#).is_err());
    }
}
