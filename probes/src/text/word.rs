//! Words as NLTK counts them, and as its `word_tokenize` cuts them.
//!
//! # Reference
//! NLTK 3.10.4, `nltk/tokenize/destructive.py` (`NLTKWordTokenizer`); its patterns stand here in its order.

use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::python::{fixed, is_boundary, is_space, is_upper, split};
use super::sentence::sentences;

/// A pattern and what takes the place of its matches.
type Step = (Regex, &'static str);

static OPENING_QUOTES: LazyLock<Vec<Step>> = LazyLock::new(|| {
    steps(&[("([«“‘„]|[`]+)", " ${1} "), ("^\"", "``"), ("(``)", " ${1} "), (r#"([ (\[{<])("|'{2})"#, "${1} `` ")])
});

static PUNCTUATION: LazyLock<Vec<Step>> = LazyLock::new(|| {
    steps(&[
        (r#"([^.])(\.)([\])}>"' »”’]*)\s*\z"#, "${1} ${2} ${3} "),
        (r"([:,])([^\d])", " ${1} ${2}"),
        (r"([:,])\z", " ${1} "),
        (r"\.{2,}", " ${0} "),
        ("[;@#$%&]", " ${0} "),
        (r"[\u{2012}-\u{2015}]", " ${0} "),
        (r#"([^.])(\.)([\])}>"']*)\s*\z"#, "${1} ${2}${3} "),
        ("[?!]", " ${0} "),
        ("([^'])' ", "${1} ' "),
        ("[*]", " ${0} "),
        (r"[\]\[(){}<>]", " ${0} "),
        ("--", " -- "),
    ])
});

static CLOSING_QUOTES: LazyLock<Vec<Step>> = LazyLock::new(|| {
    steps(&[
        ("([»”’])", " ${1} "),
        ("''", " '' "),
        ("\"", " '' "),
        (r"\s+", " "),
        ("([^' ])('[sS]|'[mM]|'[dD]|') ", "${1} ${2} "),
        ("([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", "${1} ${2} "),
    ])
});

/// Two words that are written as one.
const CONTRACTIONS: [(&str, &str); 10] = [
    ("can", "not"),
    ("d", "'ye"),
    ("gim", "me"),
    ("gon", "na"),
    ("got", "ta"),
    ("lem", "me"),
    ("more", "'n"),
    ("wan", "na"),
    (" 't", "is"),
    (" 't", "was"),
];

static CONTRACTED: LazyLock<[Regex; 10]> =
    LazyLock::new(|| CONTRACTIONS.map(|(left, right)| fixed(&format!("(?i)({left})({right})"))));

/// An apostrophe that opens a word, with what stands before it and the word.
static OPENING_APOSTROPHE: LazyLock<Regex> = LazyLock::new(|| fixed(r"(^|\W)'(\w+)"));

static WORDS: LazyLock<Regex> = LazyLock::new(|| fixed(r"\w+"));

/// Words as `RegexpTokenizer(r"\w+")` cuts them.
pub(crate) fn plain_words(text: &str) -> impl Iterator<Item = &str> {
    WORDS.find_iter(text).map(|found| found.as_str())
}

/// Their number.
pub(crate) fn count_words(text: &str) -> usize {
    plain_words(text).count()
}

/// Words and punctuation as `word_tokenize` cuts them.
pub(crate) fn tokens(text: &str) -> Vec<String> {
    sentences(text).iter().flat_map(|sentence| words(sentence)).collect()
}

/// Number of words in which every letter is a capital: `str.isupper` of `word_tokenize`'s words.
pub(crate) fn count_capital_words(text: &str) -> usize {
    tokens(text).iter().filter(|word| is_upper(word)).count()
}

/// The words of one sentence.
fn words(sentence: &str) -> Vec<String> {
    let text = apply(sentence.to_owned(), &OPENING_QUOTES);
    let text = apply(split_opening_apostrophes(&text), &PUNCTUATION);
    let text = apply(format!(" {text} "), &CLOSING_QUOTES);
    split(&split_contractions(text)).map(str::to_owned).collect()
}

fn steps(patterns: &[(&str, &'static str)]) -> Vec<Step> {
    patterns.iter().map(|(pattern, replacement)| (fixed(pattern), *replacement)).collect()
}

fn apply(text: String, steps: &[Step]) -> String {
    steps.iter().fold(text, |text, (pattern, replacement)| pattern.replace_all(&text, *replacement).into_owned())
}

/// Puts a space after an apostrophe that opens a word, unless the word is the end of a contraction.
fn split_opening_apostrophes(text: &str) -> String {
    const ENDS: [&str; 8] = ["re", "ve", "ll", "m", "t", "s", "d", "n"];
    let replaced = OPENING_APOSTROPHE.replace_all(text, |found: &Captures<'_>| {
        let (before, word) = (&found[1], &found[2]);
        let gap = if ENDS.iter().any(|end| word.eq_ignore_ascii_case(end)) { "" } else { " " };
        format!("{before}'{gap}{word}")
    });
    replaced.into_owned()
}

fn split_contractions(text: String) -> String {
    CONTRACTED.iter().zip(CONTRACTIONS).fold(text, |text, (pattern, (left, _))| {
        let replaced = pattern.replace_all(&text, |found: &Captures<'_>| {
            let at = found.get_match();
            let begins = left.starts_with(' ') || is_boundary(&text, at.start());
            // "Wanna" is one word at the end of a clause.
            let ends =
                if left == "wan" { text[at.end()..].starts_with(is_space) } else { is_boundary(&text, at.end()) };
            if begins && ends { format!(" {} {} ", &found[1], &found[2]) } else { found[0].to_owned() }
        });
        replaced.into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::{count_capital_words, count_words, words};

    #[test]
    fn words_are_counted_with_their_marks() {
        for (text, n_words) in [("It's 3.5 km", 5), ("नमस्ते दुनिया", 2), ("naïve", 1), ("a_b-c", 2), ("…", 0)]
        {
            assert_eq!(count_words(text), n_words, "{text}");
        }
    }

    #[test]
    fn words_are_nltks() {
        // nltk.word_tokenize
        for (text, expected) in [
            ("Good muffins cost $3.88 in New York.", "Good muffins cost $ 3.88 in New York ."),
            ("I can't, he'll; \"WE'RE\" (OK)...", "I ca n't , he 'll ; `` WE 'RE '' ( OK ) ..."),
            ("'tis the '90s: CANNOT -- 'Quoted' A/B", "' tis the ' 90s : CAN NOT -- ' Quoted ' A/B"),
            ("U.S.A. is “big”—very", "U.S.A. is “ big ” — very"),
            ("a*b **C** wanna go", "a * b * * C * * wan na go"),
        ] {
            assert_eq!(words(text).join(" "), expected, "{text}");
        }
    }

    #[test]
    fn capitals_are_counted_over_sentences() {
        assert_eq!(count_capital_words("I am HERE. NASA, U.S. A-B x1 C3PO! É 42"), 7);
        assert_eq!(count_capital_words(""), 0);
    }
}
