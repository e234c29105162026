//! Instructions on how many of something there are: `count:*`, and the shares of `ratio:*`.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::LazyLock;

use regex::Regex;

use crate::text::python::{fixed, is_boundary, is_edge, split, without_punctuation};
use crate::text::word::{count_words, plain_words, tokens};

/// Most that the overlap may differ from what is asked, in percent.
const TOLERANCE: f64 = 2.0;

const CONJUNCTIONS: [&str; 7] = ["and", "but", "for", "nor", "or", "so", "yet"];

const PERSON_NAMES: [&str; 50] = [
    "Emma",
    "Liam",
    "Sophia",
    "Jackson",
    "Olivia",
    "Noah",
    "Ava",
    "Lucas",
    "Isabella",
    "Mason",
    "Mia",
    "Ethan",
    "Charlotte",
    "Alexander",
    "Amelia",
    "Benjamin",
    "Harper",
    "Leo",
    "Zoe",
    "Daniel",
    "Chloe",
    "Samuel",
    "Lily",
    "Matthew",
    "Grace",
    "Owen",
    "Abigail",
    "Gabriel",
    "Ella",
    "Jacob",
    "Scarlett",
    "Nathan",
    "Victoria",
    "Elijah",
    "Layla",
    "Nicholas",
    "Audrey",
    "David",
    "Hannah",
    "Christopher",
    "Penelope",
    "Thomas",
    "Nora",
    "Andrew",
    "Aria",
    "Joseph",
    "Claire",
    "Ryan",
    "Stella",
    "Jonathan",
];

/// Personal, possessive, reflexive, demonstrative, interrogative, relative and indefinite.
const PRONOUNS: [&str; 63] = [
    "i",
    "me",
    "we",
    "us",
    "you",
    "he",
    "him",
    "she",
    "her",
    "it",
    "they",
    "them",
    "my",
    "mine",
    "our",
    "ours",
    "your",
    "yours",
    "his",
    "hers",
    "its",
    "their",
    "theirs",
    "myself",
    "ourselves",
    "yourself",
    "yourselves",
    "himself",
    "herself",
    "itself",
    "themselves",
    "this",
    "that",
    "these",
    "those",
    "who",
    "whom",
    "whose",
    "which",
    "what",
    "whoever",
    "whomever",
    "whatever",
    "whichever",
    "anybody",
    "anyone",
    "anything",
    "everybody",
    "everyone",
    "everything",
    "nobody",
    "nothing",
    "somebody",
    "someone",
    "something",
    "each",
    "either",
    "neither",
    "both",
    "all",
    "some",
    "any",
    "none",
];

static NUMBER: LazyLock<Regex> = LazyLock::new(|| fixed(r"\d+"));
static JAPANESE: LazyLock<Regex> = LazyLock::new(|| fixed(r"[\u{3040}-\u{30ff}\u{4e00}-\u{9fff}]"));
/// Characters of which `str.isdigit` is true.
static DIGITS: LazyLock<Regex> = LazyLock::new(|| {
    fixed(concat!(
        r"^[\p{Nd}\u{b2}\u{b3}\u{b9}\u{1369}-\u{1371}\u{19da}\u{2070}\u{2074}-\u{2079}\u{2080}-\u{2089}",
        r"\u{2460}-\u{2468}\u{2474}-\u{247c}\u{2488}-\u{2490}\u{24ea}\u{24f5}-\u{24fd}\u{24ff}\u{2776}-\u{277e}",
        r"\u{2780}-\u{2788}\u{278a}-\u{2792}\u{10a40}-\u{10a43}\u{10e60}-\u{10e68}\u{11052}-\u{1105a}",
        r"\u{1f100}-\u{1f10a}]+$"
    ))
});
static STOP_WORDS: LazyLock<HashSet<&str>> =
    LazyLock::new(|| include_str!("../../data/stopwords_english.txt").lines().collect());

/// `count:word_count_range`
pub(super) fn has_words(text: &str, range: &RangeInclusive<usize>) -> bool {
    range.contains(&count_words(text))
}

/// `count:unique_word_count`; punctuation that stands alone counts as one word.
pub(super) fn has_unique_words(text: &str, n: usize) -> bool {
    let text = text.to_lowercase();
    split(&text).map(|word| word.trim_matches(is_edge)).collect::<HashSet<_>>().len() >= n
}

/// `count:conjunctions`; one that is written in several ways, or with different punctuation, counts several times.
pub(super) fn has_conjunctions(text: &str, n: usize) -> bool {
    let is_conjunction = |word: &&str| CONJUNCTIONS.contains(&word.trim_matches(is_edge).to_lowercase().as_str());
    split(text).filter(is_conjunction).collect::<HashSet<_>>().len() >= n
}

/// `count:person_names`
pub(super) fn has_person_names(text: &str, n: usize) -> bool {
    let is_named = |name: &&&str| {
        text.match_indices(**name).any(|(at, name)| is_boundary(text, at) && is_boundary(text, at + name.len()))
    };
    PERSON_NAMES.iter().filter(is_named).count() >= n
}

/// `count:numbers`; punctuation is taken out first, so that `1.5` is one.
pub(super) fn has_numbers(text: &str, n: usize) -> bool {
    NUMBER.find_iter(&without_punctuation(text)).count() == n
}

/// `count:punctuation`: each mark, and an interrobang whose marks do not count as their own.
pub(super) fn has_every_punctuation(text: &str) -> bool {
    if !["!?", "?!", "‽"].iter().any(|interrobang| text.contains(interrobang)) {
        return false;
    }
    let interrobang = if text.contains("?!") { "?!" } else { "!?" };
    let rest = text.replacen(interrobang, "", 1);
    ['.', ',', '!', '?', ';', ':'].iter().all(|&mark| rest.contains(mark))
}

/// `count:words_japanese`: every `n`-th word has a Japanese character, unless it is a number.
pub(super) fn has_japanese_words(text: &str, n: usize) -> bool {
    let words = split(text).skip(n - 1).step_by(n).map(|word| word.trim_matches(is_edge));
    words.filter(|word| !word.is_empty() && !DIGITS.is_match(word)).all(|word| JAPANESE.is_match(word))
}

/// `count:pronouns`
pub(super) fn has_pronouns(text: &str, n: usize) -> bool {
    let words = tokens(&text.replace('/', " ").to_lowercase());
    words.iter().filter(|word| PRONOUNS.contains(&word.as_str())).count() >= n
}

/// `count:keywords_multiple`: each so many times, within words, too.
pub(super) fn has_keywords(text: &str, keywords: &[String; 5]) -> bool {
    let text = text.to_lowercase();
    keywords.iter().zip([1, 2, 3, 5, 7]).all(|(keyword, n)| text.matches(keyword.as_str()).count() == n)
}

/// `ratio:stop_words`: at most so many percent of the words.
pub(super) fn has_few_stop_words(text: &str, percentage: f64) -> bool {
    let n_words = count_words(text);
    let n_stop_words = plain_words(text).filter(|word| STOP_WORDS.contains(word.to_lowercase().as_str())).count();
    n_words > 0 && n_stop_words as f64 / n_words as f64 * 100.0 <= percentage
}

/// `ratio:overlap`: the share of the response's trigrams, of characters, that the reference has, within two percent.
pub(super) fn overlaps(text: &str, reference: &str, percentage: f64) -> bool {
    let (trigrams, references) = (trigrams(text), trigrams(reference));
    if trigrams.is_empty() {
        return false;
    }
    let share = trigrams.intersection(&references).count() as f64 / trigrams.len() as f64;
    (percentage - TOLERANCE..=percentage + TOLERANCE).contains(&(share * 100.0))
}

fn trigrams(text: &str) -> HashSet<[char; 3]> {
    let chars: Vec<char> = text.chars().collect();
    chars.windows(3).map(|window| [window[0], window[1], window[2]]).collect()
}
