//! Instructions on how the response is laid out: `format:*`.

use std::sync::LazyLock;

use regex::Regex;

use super::emoji::is_emoji;
use crate::text::python::{fixed, is_edge, is_letter, is_lower, is_space, is_upper, split, strip, without_punctuation};
use crate::text::sentence::sentences;
use crate::text::word::tokens;

const BRACKET_LEVELS: usize = 5;
const QUOTE_LEVELS: usize = 3;

static LETTERED: LazyLock<Regex> = LazyLock::new(|| {
    let gap = r"[^\p{L}\p{N}_]*";
    fixed(&format!("^{gap}[aA]{gap}[bB]{gap}[cC]"))
});

/// What a response may be: `format:options`.
#[derive(Debug, Clone)]
pub(super) struct Options {
    /// As they are written where they are letters, else in lower case without punctuation at the ends.
    texts: Vec<String>,
    are_letters: bool,
}

impl Options {
    /// Reads options that are separated by `/`, else by `or`, else by commas.
    pub(super) fn parse(text: &str) -> Self {
        let are_letters = LETTERED.is_match(text);
        let separator = ["/", "or"].into_iter().find(|&separator| text.contains(separator)).unwrap_or(",");
        let options = text.split(separator).map(strip);
        let texts = options.map(|option| if are_letters { option.to_owned() } else { plain(option) }).collect();
        Self { texts, are_letters }
    }

    pub(super) fn holds(&self, text: &str) -> bool {
        if self.are_letters {
            self.texts.iter().any(|option| option == text)
        } else {
            self.texts.contains(&plain(text))
        }
    }
}

fn plain(text: &str) -> String {
    text.trim_matches(is_edge).to_lowercase()
}

/// `format:newline`
pub(super) fn has_word_per_line(text: &str) -> bool {
    let text = without_punctuation(text);
    strip(&text).split('\n').filter(|line| !line.is_empty()).count() == split(&text).count()
}

/// `format:emoji`: one among the last two characters of each sentence, or at the beginning of the next.
pub(super) fn has_emoji_in_each_sentence(text: &str) -> bool {
    let bare = |sentence: &String| strip(&without_punctuation(sentence)).to_owned();
    let sentences: Vec<String> = sentences(text).iter().map(bare).collect();
    sentences.iter().enumerate().all(|(index, sentence)| {
        let next = sentences.get(index + 1).and_then(|next| next.chars().next());
        !sentence.is_empty() && (sentence.chars().rev().take(2).any(is_emoji) || next.is_some_and(is_emoji))
    })
}

/// `format:parentheses`: a bracket closes after five were open at once, without a wrong one between.
pub(super) fn has_nested_brackets(text: &str) -> bool {
    let mut open: Vec<char> = Vec::new();
    let mut deepest = 0;
    for c in text.chars() {
        match c {
            '(' | '[' | '{' => {
                open.push(c);
                deepest = deepest.max(open.len());
            }
            ')' | ']' | '}' => {
                if matches!((open.pop(), c), (Some('('), ')') | (Some('['), ']') | (Some('{'), '}')) {
                    if deepest >= BRACKET_LEVELS {
                        return true;
                    }
                } else {
                    open.clear();
                    deepest = 0;
                }
            }
            _ => {}
        }
    }
    false
}

/// `format:quotes`: three kinds of level within each other; every `'` is a quotation mark.
pub(super) fn has_nested_quotes(text: &str) -> bool {
    let mut open: Vec<char> = Vec::new();
    let mut deepest = 0;
    for c in text.chars().filter(|c| matches!(c, '"' | '\'')) {
        if open.last() == Some(&c) {
            open.pop();
            if deepest - open.len() >= QUOTE_LEVELS {
                return true;
            }
        } else {
            open.push(c);
            deepest = deepest.max(open.len());
        }
    }
    false
}

/// `format:line_indent`: each line is indented more than the one before.
pub(super) fn is_stairs(text: &str) -> bool {
    let mut lines: Vec<&str> = text.split('\n').collect();
    // The official loop takes lines out of the list that it walks along, and so skips the line after each.
    let mut at = 0;
    while let Some(&line) = lines.get(at) {
        if strip(line).is_empty() {
            let first = lines.iter().position(|other| *other == line).unwrap_or(at);
            lines.remove(first);
        }
        at += 1;
    }
    let indents: Vec<usize> = lines.iter().map(|line| line.len() - line.trim_start_matches(' ').len()).collect();
    indents.windows(2).all(|pair| pair[0] < pair[1])
}

/// `format:quote_unquote`: no quotation follows another at once or ends the text, but for digits and punctuation. Only `"` counts.
pub(super) fn explains_quotes(text: &str) -> bool {
    let text: String = split(&text.replace("'\"'", "")).collect();
    let is_trimmed = |c: char| c.is_ascii_digit() || (c.is_ascii_punctuation() && c != '"');
    !text.contains("\"\"") && !text.trim_matches(is_trimmed).ends_with('"')
}

/// `format:list`: the separator at least twice.
pub(super) fn has_items(text: &str, separator: &str) -> bool {
    text.matches(separator).count() >= 2
}

/// `format:thesis`: something in italics, and something after it.
pub(super) fn has_thesis(text: &str) -> bool {
    let Some(start) = text.find("<i>").or_else(|| text.find("<em>")) else { return false };
    let text = &text[start..];
    let Some(end) = text.find("</i>").or_else(|| text.find("</em>")) else { return false };
    // Lengths are those of `<i>` and `</i>`, whichever tag there is.
    !strip(&text[3..end]).is_empty() && !strip(&text[end + 4..]).is_empty()
}

/// `format:sub-bullets`: a hyphen after each asterisk.
pub(super) fn has_sub_bullets(text: &str) -> bool {
    text.split('*').skip(1).all(|bullet| bullet.contains('-'))
}

/// `format:no_bullets_bullets`: two sentences, then two lines that begin with an asterisk, and no other line.
pub(super) fn has_sentences_then_bullets(text: &str) -> bool {
    let (mut n_sentences, mut n_bullets) = (0, 0);
    // An empty line ends the sentences, too.
    let mut in_sentences = true;
    for line in text.split('\n').map(strip) {
        if line.starts_with('*') {
            in_sentences = false;
            n_bullets += 1;
            if n_sentences < 2 {
                return false;
            }
        } else if in_sentences {
            let n = sentences(line).len();
            in_sentences = n > 0;
            n_sentences += n;
        } else {
            return false;
        }
    }
    n_bullets >= 2
}

/// `format:title_case`: no word is in small letters, or in capitals but for its first letter.
pub(super) fn is_title_case(text: &str) -> bool {
    tokens(text).iter().all(|word| {
        let mut rest = word.chars();
        let Some(first) = rest.next().filter(|&c| is_letter(c)) else { return true };
        let rest = rest.as_str();
        !first.is_lowercase() || !(rest.is_empty() || is_lower(rest) || is_upper(rest))
    })
}

/// `format:output_template`
pub(super) fn follows_template(text: &str) -> bool {
    ["My Answer:", "My Conclusion:", "Future Outlook:"].iter().all(|part| text.contains(part))
}

/// `format:no_whitespace`
pub(super) fn has_no_space(text: &str) -> bool {
    !text.contains(is_space)
}
