//! Whether a response follows an instruction: each check as the official scorer makes it, its oddities included.

use std::sync::LazyLock;

use regex::Regex;

use super::instruction::{Count, Instruction};
use super::json::is_json;
use super::language::detect;
use crate::text::python::{SPACE, fixed, holds_word, is_lower, is_upper, split, strip};
use crate::text::sentence::sentences;
use crate::text::word::{count_capital_words, count_words};

static PLACEHOLDER: LazyLock<Regex> = LazyLock::new(|| fixed(r"\[.*?\]"));
static STAR_BULLET: LazyLock<Regex> = LazyLock::new(|| fixed(&format!(r"(?m)^{SPACE}*\*[^*].*$")));
static DASH_BULLET: LazyLock<Regex> = LazyLock::new(|| fixed(&format!(r"(?m)^{SPACE}*-.*$")));
static HIGHLIGHT: LazyLock<Regex> = LazyLock::new(|| fixed(r"\*[^\n*]*\*"));
static DOUBLE_HIGHLIGHT: LazyLock<Regex> = LazyLock::new(|| fixed(r"\*\*[^\n*]*\*\*"));
static DIVIDER: LazyLock<Regex> = LazyLock::new(|| fixed(&format!(r"{SPACE}?\*\*\*{SPACE}?")));
static TITLE: LazyLock<Regex> = LazyLock::new(|| fixed(r"<<[^\n]+>>"));

const CONSTRAINED_RESPONSES: [&str; 3] = ["My answer is yes.", "My answer is no.", "My answer is maybe."];

impl Instruction {
    pub(super) fn holds(&self, response: &str) -> bool {
        match self {
            Self::Keywords(keywords) => keywords.iter().all(|keyword| keyword.is_match(response)),
            Self::KeywordFrequency(keyword, count) => count.allows(keyword.find_iter(response).count()),
            Self::ForbiddenWords(words) => !words.iter().any(|word| holds_word(response, word)),
            Self::LetterFrequency(letter, count) => has_letters(response, *letter, *count),
            Self::ResponseLanguage(language) => is_in(response, language),
            Self::Sentences(count) => count.allows(sentences(response).len()),
            Self::Paragraphs(n) => has_paragraphs(response, *n),
            Self::Words(count) => count.allows(count_words(response)),
            Self::FirstWord { n_paragraphs, paragraph, word } => {
                has_first_word(response, *n_paragraphs, *paragraph, word)
            }
            Self::Placeholders(n) => PLACEHOLDER.find_iter(response).count() >= *n,
            Self::Postscript(marker) => marker.is_match(&response.to_lowercase()),
            Self::Bullets(n) => STAR_BULLET.find_iter(response).count() + DASH_BULLET.find_iter(response).count() == *n,
            Self::ConstrainedResponse => CONSTRAINED_RESPONSES.iter().any(|option| response.contains(option)),
            Self::Highlights(n) => count_highlights(response) >= *n,
            Self::Sections(heading, n) => heading.find_iter(response).count() >= *n,
            Self::Json => is_json(without_ticks(response)),
            Self::Title => has_title(response),
            Self::TwoResponses => holds_two_responses(response),
            Self::RepeatPrompt(prompt) => strip(response).to_lowercase().starts_with(&strip(prompt).to_lowercase()),
            Self::EndPhrase(phrase) => strip(response).trim_matches('"').to_lowercase().ends_with(phrase),
            Self::Quotation => is_quoted(strip(response)),
            Self::CapitalWords(count) => count.allows(count_capital_words(response)),
            Self::Capitals => is_upper(response) && is_in(response, "en"),
            Self::SmallLetters => is_lower(response) && is_in(response, "en"),
            Self::NoComma => !response.contains(','),
        }
    }
}

fn has_letters(text: &str, letter: char, count: Count) -> bool {
    count.allows(text.to_lowercase().chars().filter(|&c| c == letter).count())
}

/// A text whose language cannot be told counts as being in any.
fn is_in(text: &str, language: &str) -> bool {
    detect(text).is_none_or(|detected| detected == language)
}

/// Empty paragraphs at both ends do not count; one between others breaks the rule.
fn has_paragraphs(text: &str, n: usize) -> bool {
    let paragraphs: Vec<&str> = DIVIDER.split(text).collect();
    let is_empty = |index: usize| strip(paragraphs[index]).is_empty();
    let last = paragraphs.len() - 1;
    if (1..last).any(is_empty) {
        return false;
    }
    let n_empty = usize::from(is_empty(0)) + usize::from(last > 0 && is_empty(last));
    paragraphs.len() - n_empty == n
}

/// Paragraphs are counted without empty ones, but the one that is looked at is found among all.
fn has_first_word(text: &str, n: usize, paragraph: usize, word: &str) -> bool {
    let paragraphs: Vec<&str> = text.split("\n\n").collect();
    let n_filled = paragraphs.iter().filter(|paragraph| !strip(paragraph).is_empty()).count();
    if n_filled != n || paragraph > n_filled {
        return false;
    }
    let Some(first) = split(paragraphs[paragraph - 1]).next() else { return false };
    let first = first.trim_start_matches('\'').trim_start_matches('"');
    let first = first.split(['.', ',', '?', '!', '\'', '"']).next().unwrap_or_default();
    // Letter by letter, as there: a sigma at the end of a word has no form of its own.
    first.chars().flat_map(char::to_lowercase).eq(word.chars())
}

fn count_highlights(text: &str) -> usize {
    let single = HIGHLIGHT.find_iter(text).filter(|found| !strip(found.as_str().trim_matches('*')).is_empty()).count();
    let double = DOUBLE_HIGHLIGHT.find_iter(text).map(|found| found.as_str());
    let is_filled = |found: &&str| found.get(2..found.len() - 2).is_some_and(|inner| !strip(inner).is_empty());
    single + double.filter(is_filled).count()
}

fn without_ticks(text: &str) -> &str {
    let mut text = strip(text);
    for tick in ["```json", "```Json", "```JSON", "```"] {
        text = text.strip_prefix(tick).unwrap_or(text);
    }
    strip(text.strip_suffix("```").unwrap_or(text))
}

fn has_title(text: &str) -> bool {
    TITLE.find_iter(text).any(|title| !strip(title.as_str().trim_start_matches('<').trim_end_matches('>')).is_empty())
}

fn holds_two_responses(text: &str) -> bool {
    let parts: Vec<&str> = text.split("******").map(strip).collect();
    let last = parts.len() - 1;
    let is_gap = |index: usize| parts[index].is_empty();
    if (1..last).any(is_gap) {
        return false;
    }
    let filled: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    matches!(filled[..], [first, second] if first != second)
}

fn is_quoted(text: &str) -> bool {
    text.len() > 1 && text.starts_with('"') && text.ends_with('"')
}
