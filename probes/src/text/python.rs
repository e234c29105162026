//! Python's notions of text, where they differ from Rust's: the official scorer is written in Python.
//!
//! Its own patterns are Python's `re`; those of NLTK 3.10.4 are of the package `regex`, whose `\w`, `\s` and `\d` are those of Rust's `regex`.

use std::sync::LazyLock;

use regex::Regex;

/// What `\s` of `re` matches, as a class of the `regex` crate.
pub(crate) const SPACE: &str = r"[\s\x1c-\x1f]";

/// What `\w` of `re` matches: letters and numbers of every script, but no combining marks. Its `\d` is that of the `regex` crate.
pub(crate) const WORD: &str = r"[\p{L}\p{N}_]";

/// `string.punctuation`.
pub(crate) const PUNCTUATION: &str = r##"!"#$%&'()*+,-./:;<=>?@[\]^_`{|}~"##;

static WORD_CHARACTER: LazyLock<Regex> = LazyLock::new(|| fixed(WORD));
static LETTER: LazyLock<Regex> = LazyLock::new(|| fixed(r"\p{L}"));

/// Compiles a pattern of this program's own.
pub(crate) fn fixed(pattern: &str) -> Regex {
    Regex::new(pattern).expect("patterns of the program are tried by its tests")
}

/// `str.isspace` of a character.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `str.strip`.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.split` without a separator.
pub(crate) fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// Whether `\w` of `re` matches a character.
pub(crate) fn is_word(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_alphanumeric() || c == '_'
    } else {
        WORD_CHARACTER.is_match(c.encode_utf8(&mut [0; 4]))
    }
}

/// `str.isalpha` of a character.
pub(crate) fn is_letter(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_alphabetic() } else { LETTER.is_match(c.encode_utf8(&mut [0; 4])) }
}

/// `text.translate(str.maketrans("", "", string.punctuation))`
pub(crate) fn without_punctuation(text: &str) -> String {
    text.replace(|c: char| c.is_ascii_punctuation(), "")
}

/// What the official scorers strip off words: `string.punctuation` and the plain space.
pub(crate) fn is_edge(c: char) -> bool {
    c.is_ascii_punctuation() || c == ' '
}

/// Whether `\b` of `re` matches at a byte offset, which lies between two characters or at an end.
pub(crate) fn is_boundary(text: &str, at: usize) -> bool {
    let before = text[..at].chars().next_back().is_some_and(is_word);
    let after = text[at..].chars().next().is_some_and(is_word);
    before != after
}

/// Whether a match stands between two edges of words.
pub(crate) fn holds_word(text: &str, word: &Regex) -> bool {
    let mut from = 0;
    while let Some(found) = word.find_at(text, from) {
        if is_boundary(text, found.start()) && is_boundary(text, found.end()) {
            return true;
        }
        let Some(c) = text[found.start()..].chars().next() else { return false };
        from = found.start() + c.len_utf8();
    }
    false
}

/// `str.isupper`: there is an upper-case character, and none of another case.
pub(crate) fn is_upper(text: &str) -> bool {
    text.contains(char::is_uppercase) && !text.contains(|c: char| c.is_lowercase() || is_title(c))
}

/// `str.islower`: there is a lower-case character, and none of another case.
pub(crate) fn is_lower(text: &str) -> bool {
    text.contains(char::is_lowercase) && !text.contains(|c: char| c.is_uppercase() || is_title(c))
}

/// Category Lt of Unicode: digraphs whose first part is a capital.
fn is_title(c: char) -> bool {
    matches!(c, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ' | '\u{1f88}'..='\u{1f8f}' | '\u{1f98}'..='\u{1f9f}' | '\u{1fa8}'..='\u{1faf}')
        || matches!(c, '\u{1fbc}' | '\u{1fcc}' | '\u{1ffc}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_is_pythons() {
        assert!(is_upper("A 1!") && !is_upper("1!") && !is_upper("Aa") && !is_upper("Aǅ"));
        assert!(is_lower("a 1!") && !is_lower("1!") && !is_lower("aA") && !is_lower("aª\u{1fbc}"));
    }

    #[test]
    fn punctuation_is_pythons() {
        assert!(PUNCTUATION.len() == 32 && PUNCTUATION.bytes().all(|byte| byte.is_ascii_punctuation()));
        assert_eq!(without_punctuation("a-b, “c”!"), "ab “c”");
        assert!(is_letter('é') && is_letter('日') && !is_letter('\u{301}') && !is_letter('1') && !is_letter('_'));
    }

    #[test]
    fn space_is_pythons() {
        assert_eq!(strip("\u{1c}\u{a0} a\u{200b} \n"), "a\u{200b}");
        assert_eq!(split(" a\u{1f}b\u{3000}").collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn boundaries_lie_between_a_word_and_what_is_none() {
        assert!(is_boundary("a b", 0) && is_boundary("a b", 1) && is_boundary("a b", 3));
        assert!(!is_boundary("m²", 1) && !is_boundary("", 0) && is_boundary("न\u{94d}", 3));
    }
}
