//! Syllables of English words, as the package syllapy counts them.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::text::python::fixed;
use regex::Regex;

static DIGIT: LazyLock<Regex> = LazyLock::new(|| fixed(r"\d"));

/// Words that the rule gets wrong, with their syllables.
static EXCEPTIONS: LazyLock<HashMap<&str, usize>> = LazyLock::new(|| {
    let mut exceptions = HashMap::new();
    let mut n_syllables = 0;
    for line in include_str!("../../data/syllables_english.txt").lines() {
        if let Some(n) = line.strip_prefix("# ") {
            n_syllables = n.parse().unwrap_or_default();
        } else {
            exceptions.insert(line, n_syllables);
        }
    }
    exceptions
});

/// Number of syllables of a word in lower case without punctuation; 0 with digits.
///
/// # Reference
/// syllapy 0.8.0, `syllapy.count`.
pub(super) fn count(word: &str) -> usize {
    if DIGIT.is_match(word) {
        return 0;
    }
    EXCEPTIONS.get(word).copied().unwrap_or_else(|| by_rule(word))
}

/// Groups of vowels, without a silent `e` at the end.
fn by_rule(word: &str) -> usize {
    let is_vowel: Vec<bool> = word.chars().map(|c| "aeiouy".contains(c)).collect();
    let n_groups = (0..is_vowel.len()).filter(|&at| is_vowel[at] && (at == 0 || !is_vowel[at - 1])).count();
    let n_silent = usize::from(word.ends_with('e'));
    let is_syllabic = word.ends_with("le") && is_vowel.len() > 2 && !is_vowel[is_vowel.len() - 3];
    (n_groups + usize::from(is_syllabic)).saturating_sub(n_silent).max(1)
}

#[cfg(test)]
mod tests {
    use super::{EXCEPTIONS, count};

    #[test]
    fn syllables_are_syllapys() {
        // syllapy.count
        let words = [("the", 1), ("people", 2), ("table", 2), ("mile", 1), ("idea", 3), ("rhythms", 1), ("b2b", 0)];
        for (word, n_syllables) in words {
            assert_eq!(count(word), n_syllables, "{word}");
        }
        assert!(EXCEPTIONS.len() > 800);
    }
}
