//! Pages and Markdown taken apart as their readers' programs do.

use std::cell::{Cell, RefCell};

use html5ever::Attribute;
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{BufferQueue, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts};

/// A part of a page as a browser takes it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Part {
    /// A start tag, its attributes decoded.
    Open { name: String, attributes: Vec<(String, String)> },
    /// An end tag.
    Close(String),
    /// Text, decoded.
    Text(String),
    /// Content of `style` or `script`, in which nothing is escaped.
    Raw(String),
    /// Comments and whatever else stands in no template.
    Other(String),
}

/// Takes a page apart as a browser does (WHATWG HTML, section 13.2.5).
#[derive(Default)]
struct Parts {
    taken: RefCell<Vec<Part>>,
    is_raw: Cell<bool>,
    svgs: Cell<usize>,
}

impl TokenSink for Parts {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        let mut parts = self.taken.borrow_mut();
        match token {
            Token::CharacterTokens(text) => match parts.last_mut() {
                Some(Part::Text(before) | Part::Raw(before)) => before.push_str(&text),
                _ if self.is_raw.get() => parts.push(Part::Raw(text.to_string())),
                _ => parts.push(Part::Text(text.to_string())),
            },
            Token::TagToken(tag) => {
                let name = tag.name.to_string();
                let is_start = tag.kind == TagKind::StartTag;
                if name == "svg" {
                    let svgs = self.svgs.get();
                    self.svgs.set(if is_start { svgs + 1 } else { svgs.saturating_sub(1) });
                }
                // Inside a drawing the names mean other elements.
                let raw = match name.as_str() {
                    "style" if self.svgs.get() == 0 => Some(RawKind::Rawtext),
                    "script" if self.svgs.get() == 0 => Some(RawKind::ScriptData),
                    "title" | "textarea" if self.svgs.get() == 0 => Some(RawKind::Rcdata),
                    _ => None,
                };
                self.is_raw.set(is_start && matches!(raw, Some(RawKind::Rawtext | RawKind::ScriptData)));
                if is_start {
                    let pair = |of: &Attribute| (of.name.local.to_string(), of.value.to_string());
                    parts.push(Part::Open { name, attributes: tag.attrs.iter().map(pair).collect() });
                    if let Some(kind) = raw {
                        return TokenSinkResult::RawData(kind);
                    }
                } else {
                    parts.push(Part::Close(name));
                }
            }
            Token::EOFToken | Token::ParseError(_) => {}
            other => parts.push(Part::Other(format!("{other:?}"))),
        }
        TokenSinkResult::Continue
    }
}

/// The parts of a page in their order.
pub(crate) fn parts(page: &str) -> Vec<Part> {
    let input = BufferQueue::default();
    input.push_back(StrTendril::from(page));
    let tokenizer = Tokenizer::new(Parts::default(), TokenizerOpts::default());
    // It stops for nothing but the end: no script is handed over.
    let _ = tokenizer.feed(&input);
    tokenizer.end();
    tokenizer.sink.taken.take()
}

/// What a line of Markdown shows, and the characters in it that mark it up.
pub(crate) fn read(line: &str) -> (String, String) {
    let (mut shown, mut marks) = (String::new(), String::new());
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let entity =
            [("&amp;", '&'), ("&lt;", '<'), ("&gt;", '>')].into_iter().find(|(name, _)| rest.starts_with(name));
        let escaped = rest.strip_prefix('\\').and_then(|after| after.chars().next()).filter(char::is_ascii_punctuation);
        let n_bytes = match (entity, escaped) {
            (Some((name, meant)), _) => {
                shown.push(meant);
                name.len()
            }
            (None, Some(meant)) => {
                shown.push(meant);
                1 + meant.len_utf8()
            }
            (None, None) => {
                shown.push(c);
                if "<>&|*_`[]#~!$@\\".contains(c) {
                    marks.push(c);
                }
                c.len_utf8()
            }
        };
        rest = &rest[n_bytes..];
    }
    (shown, marks)
}
