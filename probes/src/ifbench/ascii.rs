//! Texts without their diacritics.

use std::collections::HashMap;
use std::sync::LazyLock;

/// Characters whose compatibility decomposition has ASCII characters, with these.
static DECOMPOSED: LazyLock<HashMap<char, &str>> = LazyLock::new(|| {
    let lines = include_str!("../../data/nfkd_ascii.txt").lines();
    lines
        .filter_map(|line| line.split_once('\t'))
        .flat_map(|(ascii, chars)| chars.chars().map(move |c| (c, ascii)))
        .collect()
});

/// `unicodedata.normalize("NFKD", text).encode("ascii", "ignore")`
pub(super) fn to_ascii(text: &str) -> String {
    let mut ascii = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            ascii.push(c);
        } else if let Some(part) = DECOMPOSED.get(&c) {
            ascii.push_str(part);
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use super::{DECOMPOSED, to_ascii};

    #[test]
    fn diacritics_and_compatibility_forms_fall_away() {
        assert_eq!(to_ascii("São Tomé, Chișinău: ½ ﬁn\u{a0}ＡＢ ßø日"), "Sao Tome, Chisinau: 12 fin AB ");
        assert!(DECOMPOSED.len() > 2000);
    }
}
