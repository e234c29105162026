//! Conversations and the template that turns them into text.

use crate::tokenizer::Tokenizer;
use crate::{Error, Result};
use minijinja::value::{Enumerator, Kwargs, Object, Value};
use minijinja::{Environment, ErrorKind, context};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions of the operator.
    System,
    /// The person asking.
    User,
    /// The model.
    Assistant,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// The template of tokenizers trained here.
pub const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|> ' + m['content'] + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

/// The day that templates take for today, midnight: the one that Llama 3's template falls back to where it is told none.
pub const DATE: &str = "2024-07-26";

/// A chat template, rendered as Hugging Face's libraries render it.
///
/// # Deviations
/// `strftime_now` always gives [`DATE`]: a prompt that holds the date of the day cannot be repeated. `{% generation %}` marks nothing.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
    environment: Arc<Environment<'static>>,
}

impl ChatTemplate {
    /// Compiles a template; `tokens` are the variables `bos_token`, `eos_token` and the like.
    ///
    /// # Errors
    /// [`Error::BadChatTemplate`] where it does not compile.
    pub fn new(source: &str, tokens: &BTreeMap<&'static str, String>) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| refusal(&error))?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", write_date);
        environment.add_filter("tojson", print_like_python);
        for (&name, token) in tokens {
            environment.add_global(name, token.clone());
        }
        environment
            .add_template_owned(NAME.to_owned(), without_generation_marks(source))
            .map_err(|error| refusal(&error))?;
        Ok(Self { source: source.to_owned(), environment: Arc::new(environment) })
    }

    /// Another template with the variables of this one.
    ///
    /// # Errors
    /// [`Error::BadChatTemplate`] where it does not compile.
    pub fn with_source(&self, source: &str) -> Result<Self> {
        let mut environment = (*self.environment).clone();
        environment.remove_template(NAME);
        environment
            .add_template_owned(NAME.to_owned(), without_generation_marks(source))
            .map_err(|error| refusal(&error))?;
        Ok(Self { source: source.to_owned(), environment: Arc::new(environment) })
    }

    /// The template as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation, with the assistant's opening after it if that is asked for.
    ///
    /// # Errors
    /// [`Error::BadChatTemplate`] where the template refuses the messages.
    pub fn render(&self, messages: &[Message], opening: Opening) -> Result<String> {
        let messages: Vec<Value> = messages.iter().map(|message| Value::from_object(Turn(message.clone()))).collect();
        let context = context! {
            messages,
            tools => (),
            documents => (),
            add_generation_prompt => opening == Opening::Assistant,
        };
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render(context))
            .map_err(|error| refusal(&error))
    }
}

/// What follows the last message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Nothing.
    None,
    /// The opening of the assistant's turn, which the model then completes.
    Assistant,
}

/// Token ids of a whole conversation, and which of them the model is taught to produce: the assistant's contents, each with the
/// token that ends it.
///
/// # Errors
/// [`Error::NoChatTemplate`], or [`Error::BadChatTemplate`] where the template refuses the messages or writes earlier turns
/// anew once there are later ones.
pub fn encode_conversation(tokenizer: &Tokenizer, messages: &[Message]) -> Result<(Vec<u32>, Vec<bool>)> {
    let template = tokenizer.template().ok_or(Error::NoChatTemplate)?;
    let text = template.render(messages, Opening::None)?;
    let mut taught = Vec::new();
    for (idx, message) in messages.iter().enumerate() {
        if message.role != Role::Assistant {
            continue;
        }
        let before = template.render(&messages[..idx], Opening::Assistant)?;
        let after = template.render(&messages[..=idx], Opening::None)?;
        if !after.starts_with(&before) || !text.starts_with(&after) {
            let reason =
                format!("message {idx} does not continue what stands before it, so its tokens cannot be told apart");
            return Err(Error::BadChatTemplate { reason });
        }
        taught.push(before.len()..after.len());
    }
    let tokens = tokenizer.encode_with_offsets(&text)?;
    let mask = tokens.iter().map(|(_, bytes)| taught.iter().any(|span| span.contains(&bytes.start))).collect();
    Ok((tokens.into_iter().map(|(id, _)| id).collect(), mask))
}

const NAME: &str = "chat_template";

/// A message as templates see it: a mapping of `role` and `content`, in this order.
#[derive(Debug)]
struct Turn(Message);

impl Object for Turn {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "role" => Some(Value::from(match self.0.role {
                Role::System => "system",
                Role::User => "user",
                Role::Assistant => "assistant",
            })),
            "content" => Some(Value::from(self.0.content.as_str())),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&["role", "content"])
    }
}

fn refusal(error: &minijinja::Error) -> Error {
    Error::BadChatTemplate { reason: error.to_string() }
}

/// `{% generation %}` is an extension of Hugging Face's that only marks a region. A condition that always holds stands in for it
/// and trims the same whitespace.
fn without_generation_marks(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(len) = rest[start..].find("%}") else { break };
        let tag = &rest[start..start + len + 2];
        text.push_str(&rest[..start]);
        match tag[2..len].trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+') {
            "generation" => text.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => text.push_str(&tag.replace("endgeneration", "endif")),
            _ => text.push_str(tag),
        }
        rest = &rest[start + len + 2..];
    }
    text.push_str(rest);
    text
}

fn raise_exception(message: &str) -> std::result::Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message.to_owned()))
}

/// [`DATE`] in the format of C's `strftime`, of which templates use a part.
fn write_date(format: &str) -> std::result::Result<String, minijinja::Error> {
    let mut text = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        let mut parts = after.chars();
        let directive = parts.next().unwrap_or_default();
        text.push_str(match directive {
            'Y' => "2024",
            'y' => "24",
            'm' => "07",
            'd' | 'e' => "26",
            'B' => "July",
            'b' | 'h' => "Jul",
            'A' => "Friday",
            'a' => "Fri",
            'j' => "208",
            'F' => DATE,
            'H' | 'M' | 'S' => "00",
            'I' => "12",
            'p' => "AM",
            'T' => "00:00:00",
            '%' => "%",
            _ => {
                let reason = format!("strftime_now does not know `%{directive}`");
                return Err(minijinja::Error::new(ErrorKind::InvalidOperation, reason));
            }
        });
        rest = parts.as_str();
    }
    text.push_str(rest);
    Ok(text)
}

/// `json.dumps(value, ensure_ascii=False)` of Python, with its spaces and its `indent`; minijinja's own escapes `<` and `>`.
fn print_like_python(value: &Value, options: Kwargs) -> std::result::Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let _: Option<Value> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    let printed = if let Some(width) = indent {
        let spaces = " ".repeat(width);
        let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
        value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))
    } else {
        value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, PythonSpaces))
    };
    printed.map_err(|error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    Ok(String::from_utf8(bytes).expect("JSON is UTF-8"))
}

/// A space after each comma and colon.
struct PythonSpaces;

impl serde_json::ser::Formatter for PythonSpaces {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::{ChatTemplate, Message, Opening, Role};
    use std::collections::BTreeMap;

    fn render(source: &str, contents: &[(Role, &str)]) -> crate::Result<String> {
        let tokens = BTreeMap::from([("bos_token", "<s>".to_owned())]);
        let messages: Vec<Message> =
            contents.iter().map(|&(role, content)| Message { role, content: content.to_owned() }).collect();
        ChatTemplate::new(source, &tokens)?.render(&messages, Opening::Assistant)
    }

    #[test]
    fn today_is_always_the_same_day() {
        let today = |format: &str| render(&format!("{{{{ strftime_now('{format}') }}}}"), &[]).unwrap();
        assert_eq!(today("%d %b %Y"), "26 Jul 2024");
        assert_eq!(today("%d %B %Y"), "26 July 2024");
        assert_eq!(today("%A, %Y-%m-%d %H:%M:%S, 100%%"), "Friday, 2024-07-26 00:00:00, 100%");
        for unknown in ["%Q", "%", "%é"] {
            let error = render(&format!("{{{{ strftime_now('{unknown}') }}}}"), &[]).unwrap_err().to_string();
            assert!(error.contains("strftime_now does not know"), "{error}");
        }
    }

    /// What the templates of Llama 3.2, `SmolLM3`, Gemma and Qwen 3 are made of.
    #[test]
    fn constructs_of_published_templates_mean_what_they_do_in_jinja2() {
        let user = [(Role::User, " Hi ")];
        let both = [(Role::System, "Be short. /no_think"), (Role::User, "Hi")];
        for (source, messages, expected) in [
            (
                "{%- if not date_string is defined %}{%- if strftime_now is defined %}\
                 {%- set date_string = strftime_now(\"%d %b %Y\") %}{%- endif %}{%- endif %}{{ date_string }}",
                &user[..],
                "26 Jul 2024",
            ),
            ("{%- if not tools is defined %}x{%- endif %}{%- if tools is not none %}y{%- endif %}z", &user, "z"),
            ("{%- if \"/x\" in system_message -%}x{%- else -%}none{%- endif -%}", &user, "none"),
            (
                "{%- if messages[0].role == \"system\" -%}\
                 {%- set it = messages[0].content.replace(\"/no_think\", \"\").rstrip() -%}\
                 {%- endif -%}[{{ it }}]",
                &both,
                "[Be short.]",
            ),
            (
                "{% for message in messages %}{% if (message['role'] == 'assistant') %}\
                 {% set role = 'model' %}{% else %}{% set role = message['role'] %}\
                 {% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}\
                 {% endfor %}",
                &user,
                "<start_of_turn>user\nHi<end_of_turn>\n",
            ),
            (
                "{%- set ns = namespace(multi_step_tool=true, last=messages|length - 1) %}\
                 {%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}\
                 {%- if message.content is string and not(message.content.startswith('<x>') \
                 and message.content.endswith('</x>')) %}\
                 {%- set ns.last = index %}{%- endif %}{%- endfor %}{{ ns.last }}",
                &both,
                "0",
            ),
            (
                "{%- set content = 'a</think>\n\nb' %}{{ content.split('</think>')[-1].lstrip('\n') }}\
                 {{ content.split('</think>')[0].rstrip('\n') }}",
                &user,
                "ba",
            ),
            (
                "{%- if enable_thinking is defined and enable_thinking is false %}x{% endif %}{{- bos_token }}",
                &user,
                "<s>",
            ),
            (
                "{%- if messages[1] is defined and messages[-1].role == 'user' and loop is not defined %}ok{% endif %}",
                &both,
                "ok",
            ),
        ] {
            assert_eq!(render(source, messages).unwrap(), expected, "{source}");
        }
        let refused = render("{{ raise_exception('System role not supported') }}", &both).unwrap_err();
        assert!(refused.to_string().contains("System role not supported"));
    }
}
