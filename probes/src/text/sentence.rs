//! Sentences as NLTK's Punkt model of English cuts them.
//!
//! A full stop, question mark or exclamation mark ends a sentence unless the word before it is an abbreviation, an initial or a number
//! and the word after it does not look like the beginning of a sentence.
//!
//! # Reference
//! Kiss and Strunk 2006, *Unsupervised Multilingual Sentence Boundary Detection*, Computational Linguistics 32; NLTK 3.10.4,
//! `nltk/tokenize/punkt.py`, whose section numbers the comments give. The model is NLTK's `punkt_tab/english`, without what changes no
//! decision (`tests/peers/ifeval_data.py` makes the file).

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use regex::Regex;

use super::python::{fixed, is_space};

/// The sentences of a text, without the space between them.
pub(crate) fn sentences(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    realign(&chars, &spans(&chars)).into_iter().map(|span| span.of(&chars).iter().collect()).collect()
}

/// Characters from `start` up to `end`; nothing where they cross.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
}

impl Span {
    fn of(self, chars: &[char]) -> &[char] {
        chars.get(self.start..self.end).unwrap_or(&[])
    }
}

/// A mark that may end a sentence.
struct Mark {
    /// Where the word before it begins.
    word: usize,
    /// Where it stands.
    at: usize,
    /// Where the word after it begins, if space lies between; else punctuation follows at once.
    next: Option<usize>,
    /// Where the word, or the punctuation, after it ends.
    end: usize,
}

fn is_mark(c: char) -> bool {
    matches!(c, '.' | '?' | '!')
}

fn is_closing(c: char) -> bool {
    matches!(c, '"' | '\'' | ')' | ']' | '}' | '\u{2018}' | '\u{2019}' | '\u{201c}' | '\u{201d}' | '«' | '»')
}

/// Characters that stand in no word.
fn is_non_word(c: char) -> bool {
    is_closing(c) || matches!(c, ';' | '*' | ':' | '@' | '(' | '{' | '[' | '!' | '?')
}

/// Sentences before closing quotes and brackets go to where they belong.
fn spans(chars: &[char]) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut start = 0;
    for mark in marks(chars) {
        if holds_break(&chars[mark.word..mark.end]) {
            spans.push(Span { start, end: mark.at + 1 });
            start = mark.next.unwrap_or(mark.at + 1);
        }
    }
    let n_trailing = chars.iter().rev().take_while(|&&c| is_space(c)).count();
    spans.push(Span { start, end: chars.len() - n_trailing });
    spans
}

/// The marks to decide on; of several in one word, such as `!!!`, the last.
fn marks(chars: &[char]) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::new();
    for at in (0..chars.len()).filter(|&at| is_mark(chars[at])) {
        let Some(&after) = chars.get(at + 1) else { continue };
        let (next, end) = if is_non_word(after) {
            (None, at + 2)
        } else {
            let n_spaces = chars[at + 1..].iter().take_while(|c| c.is_whitespace()).count();
            let next = at + 1 + n_spaces;
            let n_word = chars[next..].iter().take_while(|c| !c.is_whitespace()).count();
            if n_spaces == 0 || n_word == 0 {
                continue;
            }
            (Some(next), next + n_word)
        };
        let (previous_word, previous_at) = marks.last().map_or((0, 0), |mark| (mark.word, mark.at));
        let between = &chars[previous_at..at];
        // A space at the very beginning counts as none, as in NLTK.
        let word = match between.iter().rposition(|c| matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')) {
            Some(space) if space > 0 => previous_at + space + 1,
            _ => previous_word,
        };
        if marks.last().is_some_and(|previous| previous.at > word) {
            marks.pop();
        }
        marks.push(Mark { word, at, next, end });
    }
    marks
}

/// Gives closing quotes and brackets at the beginning of a sentence to the one before, and drops empty ones.
fn realign(chars: &[char], spans: &[Span]) -> Vec<Span> {
    let mut out = Vec::new();
    let mut n_given = 0;
    for (index, span) in spans.iter().enumerate() {
        let span = Span { start: span.start + n_given, end: span.end };
        n_given = 0;
        if let Some(next) = spans.get(index + 1) {
            let text = next.of(chars);
            let n_closing = text.iter().take_while(|&&c| is_closing(c)).count();
            let rest = &text[n_closing..];
            let is_apart = rest.first().is_none_or(|c| c.is_whitespace()) || rest.starts_with(&['-', '-']);
            if n_closing > 0 && is_apart {
                out.push(Span { start: span.start, end: next.start + n_closing });
                n_given = n_closing + rest.iter().take_while(|c| c.is_whitespace()).count();
                continue;
            }
        }
        if !span.of(chars).is_empty() {
            out.push(span);
        }
    }
    out
}

/// Whether a sentence ends within a text before its last word.
fn holds_break(text: &[char]) -> bool {
    let tokens: Vec<Token> = text
        .split(|&c| c == '\n')
        .filter(|line| !line.iter().all(|&c| is_space(c)))
        .flat_map(tokenize)
        .map(Token::new)
        .collect();
    tokens.windows(2).any(|pair| ends_sentence(&pair[0], &pair[1]))
}

/// Words and punctuation of a line; full stops stay with their word.
fn tokenize(line: &[char]) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < line.len() {
        if line[at].is_whitespace() {
            at += 1;
            continue;
        }
        let mut end = at + n_repeated(line, at).max(1);
        if end == at + 1 && starts_word(line[at]) {
            while !ends_word(line, end) {
                end += 1;
            }
        }
        tokens.push(line[at..end].iter().collect());
        at = end;
    }
    tokens
}

fn starts_word(c: char) -> bool {
    !matches!(c, '(' | '"' | '`' | '{' | '[' | ':' | ';' | '&' | '#' | '*' | '@' | ')' | '}' | ']' | '-' | ',')
}

fn ends_word(line: &[char], at: usize) -> bool {
    let is_end =
        |at: usize| line.get(at).is_none_or(|&c| c.is_whitespace() || is_non_word(c)) || n_repeated(line, at) > 0;
    is_end(at) || (line[at] == ',' && is_end(at + 1))
}

/// Length of a dash of several hyphens or of an ellipsis, `...` or `. . .`, that begins here; 0 where none does.
fn n_repeated(line: &[char], at: usize) -> usize {
    let rest = line.get(at..).unwrap_or(&[]);
    for c in ['-', '.'] {
        let n = rest.iter().take_while(|&&other| other == c).count();
        if n >= 2 {
            return n;
        }
    }
    let is_pair = |pair: &&[char]| pair.len() == 2 && pair[0] == '.' && pair[1].is_whitespace();
    let n_pairs = rest.chunks(2).take_while(is_pair).count();
    // The last full stop has no space of its own to need.
    let n_pairs = if rest.get(2 * n_pairs) == Some(&'.') { n_pairs } else { n_pairs.saturating_sub(1) };
    if n_pairs >= 2 { 2 * n_pairs + 1 } else { 0 }
}

/// A word with what its form alone says (first pass, section 3).
struct Token {
    text: String,
    /// In lower case, numbers as `##number##`.
    kind: String,
    is_break: bool,
    is_abbreviation: bool,
    is_ellipsis: bool,
}

static NUMBER: LazyLock<Regex> = LazyLock::new(|| fixed(r"^-?[.,]?\d[\d,.-]*\.?$"));
static INITIAL: LazyLock<Regex> = LazyLock::new(|| fixed(r"^[\w--\d]\.$"));

impl Token {
    fn new(text: String) -> Self {
        let lower = text.to_lowercase();
        let kind = if NUMBER.is_match(&lower) { "##number##".to_owned() } else { lower };
        let mut token = Self { text, kind, is_break: false, is_abbreviation: false, is_ellipsis: false };
        let text = token.text.as_str();
        if matches!(text, "." | "?" | "!") {
            token.is_break = true;
        } else if text.len() > 1 && text.bytes().all(|byte| byte == b'.') {
            token.is_ellipsis = true;
        } else if text.ends_with('.') && !text.ends_with("..") {
            token.is_abbreviation = MODEL.is_abbreviation(&text[..text.len() - 1].to_lowercase());
            token.is_break = !token.is_abbreviation;
        }
        token
    }

    fn kind_without_period(&self) -> &str {
        if self.kind.len() > 1 { self.kind.strip_suffix('.').unwrap_or(&self.kind) } else { &self.kind }
    }

    fn kind_without_final_period(&self) -> &str {
        if self.is_break { self.kind_without_period() } else { &self.kind }
    }

    /// A letter and a full stop.
    fn is_initial(&self) -> bool {
        INITIAL.is_match(&self.text)
    }

    fn is_upper(&self) -> bool {
        self.text.starts_with(char::is_uppercase)
    }

    fn is_lower(&self) -> bool {
        self.text.starts_with(char::is_lowercase)
    }
}

/// Whether a sentence ends between two words (second pass, section 4).
fn ends_sentence(word: &Token, next: &Token) -> bool {
    if !word.text.ends_with('.') {
        return word.is_break;
    }
    let (kind, next_kind) = (word.kind_without_period(), next.kind_without_final_period());
    // 4.1.2, collocations.
    if MODEL.collocations.contains(&(kind, next_kind)) {
        return false;
    }
    let is_initial = word.is_initial();
    let starts = starts_sentence(next);
    // 4.2, abbreviations that end a sentence as well.
    if (word.is_abbreviation || word.is_ellipsis)
        && !is_initial
        && (starts == Some(true) || (next.is_upper() && MODEL.starters.contains(next_kind)))
    {
        return true;
    }
    // 4.3, initials and ordinals.
    if is_initial || kind == "##number##" {
        let is_name = starts.is_none() && is_initial && next.is_upper() && !MODEL.seen.contains_key(next_kind);
        if starts == Some(false) || is_name {
            return false;
        }
    }
    word.is_break
}

/// Whether a word begins a sentence by how the model has seen it written (4.1.1); `None` where that does not tell.
fn starts_sentence(token: &Token) -> Option<bool> {
    if matches!(token.text.as_str(), ";" | ":" | "," | "." | "!" | "?") {
        return Some(false);
    }
    let seen = MODEL.seen.get(token.kind_without_final_period());
    if token.is_upper() && seen.is_some_and(|seen| !seen.upper_within) {
        return Some(true);
    }
    if token.is_lower() && !seen.is_some_and(|seen| seen.lower_at_beginning_only) {
        return Some(false);
    }
    None
}

/// What Punkt has learnt of English.
struct Model {
    abbreviations: HashSet<&'static str>,
    collocations: HashSet<(&'static str, &'static str)>,
    starters: HashSet<&'static str>,
    /// Words that it has seen with a small first letter.
    seen: HashMap<&'static str, Seen>,
}

#[derive(Clone, Copy)]
struct Seen {
    /// With a capital within a sentence, too.
    upper_within: bool,
    /// Never with a capital, and small at the beginning of sentences, too.
    lower_at_beginning_only: bool,
}

static MODEL: LazyLock<Model> = LazyLock::new(|| Model::parse(include_str!("../../data/punkt_english.txt")));

impl Model {
    /// Sections that begin with a line `# name`, a word or two in each further line.
    fn parse(text: &'static str) -> Self {
        let section = |name: &'static str| {
            text.lines()
                .skip_while(move |line| line.strip_prefix("# ") != Some(name))
                .skip(1)
                .take_while(|line| !line.starts_with("# "))
        };
        let mut seen = HashMap::new();
        for (name, upper_within, lower_at_beginning_only) in [
            ("lower case, and upper case within sentences", true, false),
            ("lower case at the beginning of sentences only", false, true),
            ("lower case", false, false),
        ] {
            seen.extend(section(name).map(|word| (word, Seen { upper_within, lower_at_beginning_only })));
        }
        Self {
            // An ellipsis with spaces between is one; its last full stop is not part of the word.
            abbreviations: section("abbreviations").chain([". . "]).collect(),
            collocations: section("collocations").filter_map(|line| line.split_once(' ')).collect(),
            starters: section("sentence starters").collect(),
            seen,
        }
    }

    /// Of a word in lower case without its full stop; of a compound the last part decides.
    fn is_abbreviation(&self, word: &str) -> bool {
        let last = word.rsplit('-').next().unwrap_or(word);
        self.abbreviations.contains(word) || self.abbreviations.contains(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_all_there() {
        let sizes = [MODEL.abbreviations.len(), MODEL.collocations.len(), MODEL.starters.len(), MODEL.seen.len()];
        assert_eq!(sizes, [156, 37, 39, 14702]);
    }

    #[test]
    fn sentences_are_nltks() {
        // nltk.sent_tokenize
        let cases: [(&str, &[&str]); 10] = [
            ("", &[]),
            (" \n", &[]),
            (
                "Good muffins cost $3.88\nin New York.  Please buy me\ntwo of them.\n\nThanks.",
                &["Good muffins cost $3.88\nin New York.", "Please buy me\ntwo of them.", "Thanks."],
            ),
            (
                "Dr. J. Bach met Mr. Smith at 5 p.m. in Washington. He left.",
                &["Dr. J. Bach met Mr. Smith at 5 p.m. in Washington.", "He left."],
            ),
            ("Very bad acting!!! I promise.", &["Very bad acting!!!", "I promise."]),
            ("(Is it so?) \"Yes.\" No", &["(Is it so?)", "\"Yes.\"", "No"]),
            ("1. First\n2. Second... third. . . Fourth", &["1.", "First\n2.", "Second... third.", ".", ".", "Fourth"]),
            ("It is in the U.S. The rest e.g. Tom is not.", &["It is in the U.S.", "The rest e.g.", "Tom is not."]),
            ("He said “Stop.” Then he left.", &["He said “Stop.”", "Then he left."]),
            ("No. 5 is alive.It is", &["No.", "5 is alive.It is"]),
        ];
        for (text, expected) in cases {
            assert_eq!(sentences(text), expected, "{text}");
        }
    }
}
