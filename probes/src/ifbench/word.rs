//! Instructions on words and their letters: `words:*`.

use std::collections::HashMap;

use super::syllable;
use crate::text::python::{PUNCTUATION, is_edge, split, strip, without_punctuation};
use crate::text::word::tokens;

const N_PALINDROMES: usize = 10;
const PALINDROME_LENGTH: usize = 5;
const N_VOWELS: usize = 3;
/// Longer words count as not prime.
const PRIMES: [usize; 25] =
    [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97];

fn first(word: &str) -> Option<char> {
    word.chars().next()
}

/// `words:alphabet`: each word begins with the letter after that of the word before.
pub(super) fn is_alphabet(text: &str) -> bool {
    let text = without_punctuation(text);
    let mut words = split(&text);
    let mut lower = words.next().and_then(first).into_iter().flat_map(char::to_lowercase);
    // A letter whose small form is two characters is none of the alphabet.
    let (Some(mut letter @ 'a'..='z'), None) = (lower.next(), lower.next()) else { return false };
    words.all(|word| {
        letter = if letter == 'z' { 'a' } else { char::from(letter as u8 + 1) };
        first(&word.to_lowercase()) == Some(letter)
    })
}

/// `words:vowel`: one line with at most three of the vowels.
pub(super) fn has_three_vowels(text: &str) -> bool {
    let text = strip(text);
    let line = text.to_lowercase();
    !text.contains('\n') && ['a', 'e', 'i', 'o', 'u'].iter().filter(|&&vowel| line.contains(vowel)).count() <= N_VOWELS
}

/// `words:consonants`: two next to each other in every word.
pub(super) fn has_consonant_clusters(text: &str) -> bool {
    let is_consonant = |byte: u8| byte.is_ascii_lowercase() && !b"aeiou".contains(&byte);
    let text = text.to_lowercase();
    split(&text).all(|word| word.as_bytes().windows(2).any(|pair| pair.iter().all(|&byte| is_consonant(byte))))
}

/// `words:palindrome`
pub(super) fn has_palindromes(text: &str) -> bool {
    let text = without_punctuation(text).to_lowercase();
    let is_palindrome = |word: &&str| word.chars().eq(word.chars().rev()) && word.chars().count() >= PALINDROME_LENGTH;
    split(&text).filter(is_palindrome).count() >= N_PALINDROMES
}

/// `words:prime_lengths`
pub(super) fn has_prime_lengths(text: &str) -> bool {
    split(&without_punctuation(text)).all(|word| PRIMES.contains(&word.chars().count()))
}

/// `words:repeats`: no word occurs more than `n` times.
pub(super) fn has_few_repeats(text: &str, n: usize) -> bool {
    let text = without_punctuation(&text.to_lowercase());
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for word in split(&text) {
        *counts.entry(word).or_default() += 1;
    }
    counts.values().all(|&count| count <= n)
}

/// `words:odd_even_syllables`
pub(super) fn alternates_syllables(text: &str) -> bool {
    let text = without_punctuation(text).to_lowercase();
    let is_odd: Vec<bool> = split(&text).map(|word| syllable::count(word) % 2 == 1).collect();
    is_odd.windows(2).all(|pair| pair[0] != pair[1])
}

/// `words:no_consecutive`: no two words in a row begin with one letter.
pub(super) fn has_no_repeated_initial(text: &str) -> bool {
    let text = without_punctuation(&text.to_lowercase());
    let initials: Vec<Option<char>> = split(&text).map(first).collect();
    initials.windows(2).all(|pair| pair[0] != pair[1])
}

/// `words:paragraph_last_first`: each line ends with the word that it begins with.
pub(super) fn are_paragraphs_rounded(text: &str) -> bool {
    text.split('\n').all(|line| {
        let line = strip(line).to_lowercase();
        let words: Vec<&str> = split(line.trim_matches(is_edge)).collect();
        words.first() == words.last()
    })
}

/// `words:words_position`: the keyword, in lower case, is the second word and the second to last, but for one mark at the end.
pub(super) fn has_word_second_and_second_to_last(text: &str, keyword: &str) -> bool {
    let words = tokens(text);
    let Some(last) = words.last() else { return false };
    let from_end = if PUNCTUATION.contains(last.as_str()) { 3 } else { 2 };
    let is_keyword = |at: usize| words.get(at).is_some_and(|word| word.to_lowercase() == keyword);
    words.len() >= from_end && is_keyword(1) && is_keyword(words.len() - from_end)
}
