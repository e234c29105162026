//! The language of a text, as Python's `langdetect` says it.
//!
//! It draws n-grams of the text at random and multiplies up how likely each language is, seven times over. Which are drawn depends on the
//! seed; as in the reference results it is 0 here, so that a text has one answer. Words in capitals are skipped but for their ends, by
//! which alone a text in capitals is told.
//!
//! # Reference
//! Nakatani 2010, *Language Detection Library for Java*; `langdetect` 1.0.9, `detector.py`.

mod gram;
mod profile;
mod random;

use std::sync::LazyLock;

use regex::Regex;

use self::gram::{Grams, join_vietnamese};
use self::profile::{N_LANGUAGES, PROFILES};
use self::random::Random;
use crate::text::python::fixed;

const MAX_CHARS: usize = 10_000;
const N_TRIALS: usize = 7;
const MAX_DRAWS: usize = 1000;
const ALPHA: f64 = 0.5;
const ALPHA_WIDTH: f64 = 0.05;
const BASE_FREQUENCY: f64 = 10_000.0;
const CERTAIN: f64 = 0.99999;
const LEAST_PROBABILITY: f64 = 0.1;
const SEED: u32 = 0;

static ADDRESSES: LazyLock<[Regex; 2]> = LazyLock::new(|| {
    [
        fixed("https?://[-_.?&~;+=/#0-9A-Za-z]{1,2076}"),
        fixed("[-_.0-9A-Za-z]{1,64}@[-_0-9A-Za-z]{1,255}[-_.0-9A-Za-z]{1,255}"),
    ]
});

/// What `langdetect` calls a text that is like no language.
const UNKNOWN: &str = "unknown";

/// Code of the language that a text most likely is in, e.g. `en` or `zh-cn`, or `unknown`; `None` where the text holds nothing to tell it by.
pub(super) fn detect(text: &str) -> Option<&'static str> {
    let grams = find_grams(&without_latin(&clean(text)));
    if grams.is_empty() {
        return None;
    }
    let mut random = Random::seeded(SEED);
    let mut sums = [0.0; N_LANGUAGES];
    for _ in 0..N_TRIALS {
        for (sum, share) in sums.iter_mut().zip(draw(&grams, &mut random)) {
            *sum += share / N_TRIALS as f64;
        }
    }
    let mut best: Option<usize> = None;
    for (language, &share) in sums.iter().enumerate() {
        if share > LEAST_PROBABILITY && best.is_none_or(|best| share > sums[best]) {
            best = Some(language);
        }
    }
    Some(best.map_or(UNKNOWN, |language| PROFILES.languages[language].name))
}

/// Whether `detect` may answer this code.
pub(super) fn is_known(code: &str) -> bool {
    PROFILES.languages.iter().any(|language| language.name == code)
}

/// How likely each language is after draws until one is certain.
fn draw(grams: &[usize], random: &mut Random) -> [f64; N_LANGUAGES] {
    let mut shares = [1.0 / N_LANGUAGES as f64; N_LANGUAGES];
    let weight = (ALPHA + random.gauss() * ALPHA_WIDTH) / BASE_FREQUENCY;
    for n_drawn in 0.. {
        let gram = PROFILES.frequencies(grams[random.below(grams.len())]);
        for (share, frequency) in shares.iter_mut().zip(gram) {
            *share *= weight + frequency;
        }
        if n_drawn % 5 == 0 {
            let sum: f64 = shares.iter().sum();
            for share in &mut shares {
                *share /= sum;
            }
            if n_drawn >= MAX_DRAWS || shares.iter().any(|&share| share > CERTAIN) {
                break;
            }
        }
    }
    shares
}

/// The text without addresses and repeated spaces, with Vietnamese letters in one piece, cut to length.
fn clean(text: &str) -> String {
    let text = ADDRESSES.iter().fold(text.to_owned(), |text, address| address.replace_all(&text, " ").into_owned());
    let mut out = String::with_capacity(text.len());
    let mut before = None;
    for c in join_vietnamese(&text).chars().take(MAX_CHARS) {
        if c != ' ' || before != Some(' ') {
            out.push(c);
        }
        before = Some(c);
    }
    out
}

/// The text without Latin letters where those are few.
fn without_latin(text: &str) -> String {
    let is_latin = |c: char| ('A'..='z').contains(&c);
    let n_latin = text.chars().filter(|&c| is_latin(c)).count();
    let n_other = text.chars().filter(|&c| c >= '\u{300}').count();
    if 2 * n_latin < n_other { text.chars().filter(|&c| !is_latin(c)).collect() } else { text.to_owned() }
}

/// The n-grams of one to three letters that some profile knows, as places in the profiles.
fn find_grams(text: &str) -> Vec<usize> {
    let mut grams = Grams::new();
    let mut found = Vec::new();
    let mut key = String::new();
    for c in text.chars() {
        for gram in grams.push(c) {
            key.clear();
            key.extend(gram);
            found.extend(PROFILES.find(&key));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_langdetects() {
        // langdetect.detect with DetectorFactory.seed = 0
        for (text, language) in [
            ("This is a sentence in the English language, as you can see.", Some("en")),
            ("Dies ist ein Satz in deutscher Sprache.", Some("de")),
            ("यह हिंदी में एक वाक्य है।", Some("hi")),
            ("これは日本語の文章です。", Some("ja")),
            ("这是一个中文句子。", Some("zh-cn")),
            ("Đây là một câu tiếng Việt.", Some("vi")),
            ("THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG", Some("en")),
            ("123 456!", None),
            ("https://example.org/a a@b.cc", None),
            ("", None),
        ] {
            assert_eq!(detect(text), language, "{text}");
        }
    }

    #[test]
    fn known_are_the_languages_with_a_profile() {
        assert!(is_known("en") && is_known("zh-tw") && !is_known("xx") && !is_known(UNKNOWN));
    }
}
