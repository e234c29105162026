//! Instructions on sentences: `sentence:*`, the kinds of sentence of `ratio:*`, and words at a place in a sentence.

use regex::Regex;

use crate::text::python::{holds_word, is_edge, is_word, split, strip, without_punctuation};
use crate::text::sentence::sentences;
use crate::text::word::tokens;

fn count_ending(sentences: &[String], mark: char) -> usize {
    sentences.iter().filter(|sentence| sentence.ends_with(mark)).count()
}

/// `ratio:sentence_type`: twice as many sentences that state as sentences that ask; none of both will do.
pub(super) fn are_two_to_one(text: &str) -> bool {
    let sentences = sentences(text);
    count_ending(&sentences, '.') == 2 * count_ending(&sentences, '?')
}

/// `ratio:sentence_balance`: as many of each kind.
pub(super) fn are_kinds_balanced(text: &str) -> bool {
    let sentences = sentences(text);
    let n_stating = count_ending(&sentences, '.');
    n_stating == count_ending(&sentences, '?') && n_stating == count_ending(&sentences, '!')
}

/// `ratio:sentence_words`: three sentences of one length; their words are not looked at.
pub(super) fn are_equally_long(text: &str) -> bool {
    let lengths: Vec<usize> = sentences(text).iter().map(|sentence| strip(sentence).chars().count()).collect();
    matches!(lengths[..], [first, second, third] if first == second && second == third)
}

/// `sentence:alliteration_increment`: more words than in the sentence before that begin as their neighbour does.
pub(super) fn has_growing_alliteration(text: &str) -> bool {
    let counts: Vec<usize> = sentences(text).iter().map(|sentence| count_alliterative(sentence)).collect();
    counts.windows(2).all(|pair| pair[0] < pair[1])
}

fn count_alliterative(sentence: &str) -> usize {
    let sentence = sentence.to_lowercase();
    let initials: Vec<char> =
        split(&sentence).filter_map(|word| word.trim_start_matches(is_edge).chars().next()).collect();
    initials.chunk_by(|first, second| first == second).map(<[char]>::len).filter(|&n| n > 1).sum()
}

/// `sentence:increment`: each sentence has exactly `n` words more than the one before.
pub(super) fn has_growing_lengths(text: &str, n: usize) -> bool {
    let count = |sentence: &String| split(&without_punctuation(sentence)).count();
    let counts: Vec<usize> = sentences(text).iter().map(count).collect();
    counts.windows(2).all(|pair| pair[1] == pair[0] + n)
}

/// `sentence:keyword`: the sentence has it as a word.
pub(super) fn has_keyword(text: &str, keyword: &Regex, sentence: usize) -> bool {
    sentences(text).get(sentence - 1).is_some_and(|sentence| holds_word(sentence, keyword))
}

/// `words:keywords_specific_position`: the sentence has it, in lower case, at the position; punctuation does not count.
pub(super) fn has_keyword_at(text: &str, keyword: &str, sentence: usize, position: usize) -> bool {
    let sentences = sentences(text);
    let Some(sentence) = sentences.get(sentence - 1) else { return false };
    let is_counted = |word: &&String| word.contains(|c: char| c != '_' && is_word(c));
    tokens(sentence).iter().filter(is_counted).nth(position - 1).is_some_and(|word| word.to_lowercase() == keyword)
}

/// `words:last_first`: each sentence begins with the last word of the one before.
pub(super) fn is_chained(text: &str) -> bool {
    sentences(text).windows(2).all(|pair| {
        let last = split(pair[0].trim_end_matches(is_edge)).last().map(str::to_lowercase);
        let first = split(pair[1].trim_start_matches(is_edge)).next().map(str::to_lowercase);
        last.is_some() && last == first
    })
}
