//! The n-grams of a text, its letters made alike where languages need no difference.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::text::python::fixed;

/// Longest n-gram, in letters.
const LONGEST: usize = 3;

/// The last letters of a text that is read letter by letter.
pub(super) struct Grams {
    last: Vec<char>,
    /// Within a word of several capitals.
    in_capitals: bool,
}

impl Grams {
    pub(super) fn new() -> Self {
        Self { last: vec![' '], in_capitals: false }
    }

    /// Takes the next letter; the n-grams that end with it, the shortest first. Within words in capitals there are none but at both ends.
    pub(super) fn push(&mut self, c: char) -> impl Iterator<Item = &[char]> {
        self.take(alike(c));
        let longest = if self.in_capitals { 0 } else { self.last.len() };
        (1..=longest).map(|n| &self.last[self.last.len() - n..]).filter(|gram| *gram != [' '])
    }

    fn take(&mut self, c: char) {
        let before = self.last.last().copied().unwrap_or(' ');
        if before == ' ' {
            self.last = vec![' '];
            self.in_capitals = false;
            if c == ' ' {
                return;
            }
        } else if self.last.len() >= LONGEST {
            self.last.remove(0);
        }
        self.last.push(c);
        self.in_capitals = c.is_uppercase() && (self.in_capitals || before.is_uppercase());
    }
}

/// One letter for those that need no telling apart.
fn alike(c: char) -> char {
    match c {
        'A'..='Z' | 'a'..='z' => c,
        '\0'..='\u{7f}' | '\u{a0}' | '«' | '°' | '»' | '\u{2000}'..='\u{206f}' => ' ',
        // Romanian: comma below, cedilla.
        'ș' => 'ş',
        'ț' => 'ţ',
        // Persian yeh, Arabic yeh.
        '\u{6cc}' => '\u{64a}',
        '\u{1ea0}'..='\u{1eff}' => '\u{1ec3}',
        '\u{3040}'..='\u{309f}' => 'あ',
        '\u{30a0}'..='\u{30ff}' => 'ア',
        '\u{3100}'..='\u{312f}' | '\u{31a0}'..='\u{31bf}' => 'ㄅ',
        '\u{4e00}'..='\u{9fff}' => KANJI.get(&c).copied().unwrap_or(c),
        '\u{ac00}'..='\u{d7af}' => '가',
        _ => c,
    }
}

/// Of each Chinese character that is as frequent as others in every language, the first of them.
static KANJI: LazyLock<HashMap<char, char>> = LazyLock::new(|| {
    let lines = include_str!("../../../data/langdetect_kanji.txt").lines();
    lines.flat_map(|line| line.chars().map(move |c| (c, line.chars().next().unwrap_or(c)))).collect()
});

const BASES: &str = "AEIOUYaeiouyÂÊÔâêôĂăƠơƯư";

/// What the bases are with each mark.
const MARKED: [(char, &str); 5] = [
    ('\u{300}', "ÀÈÌÒÙỲàèìòùỳẦỀỒầềồẰằỜờỪừ"),
    ('\u{301}', "ÁÉÍÓÚÝáéíóúýẤẾỐấếốẮắỚớỨứ"),
    ('\u{303}', "ÃẼĨÕŨỸãẽĩõũỹẪỄỖẫễỗẴẵỠỡỮữ"),
    ('\u{309}', "ẢẺỈỎỦỶảẻỉỏủỷẨỂỔẩểổẲẳỞởỬử"),
    ('\u{323}', "ẠẸỊỌỤỴạẹịọụỵẬỆỘậệộẶặỢợỰự"),
];

static IN_TWO_PIECES: LazyLock<Regex> =
    LazyLock::new(|| fixed(&format!(r"([{BASES}])([\u{{300}}\u{{301}}\u{{303}}\u{{309}}\u{{323}}])")));

/// Vietnamese letters that are written as a letter and a mark become one.
pub(super) fn join_vietnamese(text: &str) -> Cow<'_, str> {
    IN_TWO_PIECES.replace_all(text, |pieces: &Captures<'_>| {
        let base = BASES.chars().position(|base| pieces[1].starts_with(base));
        let marked = MARKED.iter().find(|(mark, _)| pieces[2].starts_with(*mark));
        let joined = marked.zip(base).and_then(|((_, letters), base)| letters.chars().nth(base));
        joined.map_or_else(|| pieces[0].to_owned(), String::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grams(text: &str) -> Vec<String> {
        let mut grams = Grams::new();
        let of_letter = |c| grams.push(c).map(|gram| gram.iter().collect()).collect::<Vec<String>>();
        text.chars().flat_map(of_letter).collect()
    }

    #[test]
    fn grams_are_of_words() {
        assert_eq!(grams("ab c"), ["a", " a", "b", "ab", " ab", "b ", "ab ", "c", " c"]);
    }

    #[test]
    fn of_words_in_capitals_the_ends_count() {
        assert_eq!(grams("ABC Ab"), ["A", " A", "C ", "BC ", "A", " A", "b", "Ab", " Ab"]);
    }

    #[test]
    fn letters_that_need_no_difference_are_alike() {
        let text: String = "a1«șțپیệかカㄆ㐀한".chars().map(alike).collect();
        assert_eq!(text, "a  şţپيểあアㄅ㐀가");
        assert_eq!(KANJI.len(), 6667);
        assert_eq!(MARKED.map(|(_, letters)| letters.chars().count()), [BASES.chars().count(); 5]);
    }

    #[test]
    fn marks_join_their_letters() {
        assert_eq!(join_vietnamese("e\u{301}ơ\u{323}x\u{301}"), "éợx\u{301}");
    }
}
