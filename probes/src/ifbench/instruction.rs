//! The 58 instructions of IFBench, read from their names and arguments.

use std::ops::RangeInclusive;

use regex::{Regex, RegexBuilder};

use super::format::Options;
use super::kwargs::{Arguments, Reader};
use super::{count, custom, format, repeat, sentence, word};
use crate::text::python::strip;
use crate::verifiable::{Fault, Verifiable};

/// An instruction that a program can check.
///
/// # Reference
/// Pyatkin et al. 2025, *Generalizing Verifiable Instruction Following*, arXiv 2507.02833, appendix; names and arguments are those of the
/// official code.
#[derive(Debug, Clone)]
pub struct Instruction(Check);

/// What is looked for, with what the item says of it.
#[derive(Debug, Clone)]
enum Check {
    Plain(fn(&str) -> bool),
    /// How many, or every how many.
    Number(fn(&str, usize) -> bool, usize),
    /// A word, a separator, or the text to be repeated.
    Text(fn(&str, &str) -> bool, String),
    Words(RangeInclusive<usize>),
    StopWords(f64),
    Overlap {
        reference: String,
        percentage: f64,
    },
    Keywords([String; 5]),
    /// A keyword in a sentence, counted from 1.
    Keyword(Regex, usize),
    /// A keyword in a sentence at a position, both counted from 1.
    KeywordAt {
        keyword: String,
        sentence: usize,
        position: usize,
    },
    Options(Options),
    /// Needs the weights of a tagger that are no part of this program.
    StartVerb,
}

/// A name and its check.
type Plain = (&'static str, fn(&str) -> bool);

/// The instructions without arguments.
const PLAIN: [Plain; 38] = [
    ("count:punctuation", count::has_every_punctuation),
    ("custom:character_reverse", custom::has_reversed_letters),
    ("custom:csv_city", custom::is_city_csv),
    ("custom:csv_quotes", custom::is_quoted_csv),
    ("custom:csv_special_character", custom::is_special_character_csv),
    ("custom:date_format_list", custom::is_list_of_dates),
    ("custom:european_capitals_sort", custom::is_list_of_capitals),
    ("custom:mcq_count_length", custom::is_quiz),
    ("custom:multiples", custom::is_multiples),
    ("custom:reverse_newline", custom::is_reversed_list),
    ("custom:sentence_alphabet", custom::is_alphabet_of_sentences),
    ("custom:word_reverse", custom::has_reversed_words),
    ("format:emoji", format::has_emoji_in_each_sentence),
    ("format:line_indent", format::is_stairs),
    ("format:newline", format::has_word_per_line),
    ("format:no_bullets_bullets", format::has_sentences_then_bullets),
    ("format:no_whitespace", format::has_no_space),
    ("format:output_template", format::follows_template),
    ("format:parentheses", format::has_nested_brackets),
    ("format:quote_unquote", format::explains_quotes),
    ("format:quotes", format::has_nested_quotes),
    ("format:sub-bullets", format::has_sub_bullets),
    ("format:thesis", format::has_thesis),
    ("format:title_case", format::is_title_case),
    ("ratio:sentence_balance", sentence::are_kinds_balanced),
    ("ratio:sentence_type", sentence::are_two_to_one),
    ("ratio:sentence_words", sentence::are_equally_long),
    ("repeat:repeat_simple", repeat::is_the_instruction),
    ("sentence:alliteration_increment", sentence::has_growing_alliteration),
    ("words:alphabet", word::is_alphabet),
    ("words:consonants", word::has_consonant_clusters),
    ("words:last_first", sentence::is_chained),
    ("words:no_consecutive", word::has_no_repeated_initial),
    ("words:odd_even_syllables", word::alternates_syllables),
    ("words:palindrome", word::has_palindromes),
    ("words:paragraph_last_first", word::are_paragraphs_rounded),
    ("words:prime_lengths", word::has_prime_lengths),
    ("words:vowel", word::has_three_vowels),
];

impl Verifiable for Instruction {
    type Arguments = Arguments;

    fn parse(name: &str, given: &Arguments) -> Result<Self, Fault> {
        let mut read = Reader::new(given);
        let check = match name {
            "count:word_count_range" => {
                Check::Words(read.number("kwargs.min_words")?..=read.number("kwargs.max_words")?)
            }
            "count:unique_word_count" => Check::Number(count::has_unique_words, read.number("kwargs.N")?),
            "count:conjunctions" => Check::Number(count::has_conjunctions, read.number("kwargs.small_n")?),
            "count:person_names" => Check::Number(count::has_person_names, read.number("kwargs.N")?),
            "count:numbers" => Check::Number(count::has_numbers, read.number("kwargs.N")?),
            "count:words_japanese" => Check::Number(count::has_japanese_words, read.position("kwargs.N")?),
            "count:pronouns" => Check::Number(count::has_pronouns, read.number("kwargs.N")?),
            "count:keywords_multiple" => {
                let mut keyword = |key| read.text(key).map(|text| strip(text).to_lowercase());
                Check::Keywords([
                    keyword("kwargs.keyword1")?,
                    keyword("kwargs.keyword2")?,
                    keyword("kwargs.keyword3")?,
                    keyword("kwargs.keyword4")?,
                    keyword("kwargs.keyword5")?,
                ])
            }
            "ratio:stop_words" => Check::StopWords(read.percentage("kwargs.percentage")?),
            "ratio:overlap" => Check::Overlap {
                reference: read.text("kwargs.reference_text")?.to_owned(),
                percentage: read.percentage("kwargs.percentage")?,
            },
            "words:start_verb" => Check::StartVerb,
            "words:repeats" => Check::Number(word::has_few_repeats, read.number("kwargs.small_n")?),
            "words:keywords_specific_position" => Check::KeywordAt {
                keyword: strip(read.text("kwargs.keyword")?).to_lowercase(),
                sentence: read.position("kwargs.n")?,
                position: read.position("kwargs.m")?,
            },
            "words:words_position" => Check::Text(
                word::has_word_second_and_second_to_last,
                strip(read.text("kwargs.keyword")?).to_lowercase(),
            ),
            "sentence:keyword" => Check::Keyword(keyword(read.text("kwargs.word")?), read.position("kwargs.N")?),
            "sentence:increment" => Check::Number(sentence::has_growing_lengths, read.number("kwargs.small_n")?),
            "format:options" => Check::Options(Options::parse(read.text("kwargs.options")?)),
            "format:list" => Check::Text(format::has_items, read.text("kwargs.sep")?.to_owned()),
            "repeat:repeat_change" => {
                Check::Text(repeat::is_changed_repetition, read.text("kwargs.prompt_to_repeat")?.to_owned())
            }
            "repeat:repeat_span" => {
                let text = read.text("kwargs.prompt_to_repeat")?;
                let (start, end) = (read.number("kwargs.n_start")?, read.number("kwargs.n_end")?);
                Check::Text(repeat::is_text, text.chars().take(end + 1).skip(start).collect())
            }
            _ => {
                let plain = PLAIN.iter().find(|(plain, _)| *plain == name).map(|(_, check)| Check::Plain(*check));
                plain.ok_or_else(|| Fault {
                    key: "instruction_id_list",
                    reason: format!("has {name:?}, which is none of the 58 of IFBench"),
                })?
            }
        };
        read.finish()?;
        Ok(Self(check))
    }

    fn check(&self, response: &str) -> bool {
        match &self.0 {
            Check::Plain(check) => check(response),
            Check::Number(check, n) => check(response, *n),
            Check::Text(check, text) => check(response, text),
            Check::Words(range) => count::has_words(response, range),
            Check::StopWords(percentage) => count::has_few_stop_words(response, *percentage),
            Check::Overlap { reference, percentage } => count::overlaps(response, reference, *percentage),
            Check::Keywords(keywords) => count::has_keywords(response, keywords),
            Check::Keyword(keyword, sentence) => sentence::has_keyword(response, keyword, *sentence),
            Check::KeywordAt { keyword, sentence, position } => {
                sentence::has_keyword_at(response, keyword, *sentence, *position)
            }
            Check::Options(options) => options.holds(response),
            Check::StartVerb => false,
        }
    }

    fn lacks(&self) -> Option<&'static str> {
        matches!(self.0, Check::StartVerb).then_some("a part-of-speech tagger")
    }
}

/// A keyword in either case.
fn keyword(text: &str) -> Regex {
    let pattern = RegexBuilder::new(&regex::escape(text)).case_insensitive(true).build();
    pattern.expect("an escaped text is a pattern")
}
