//! Instructions of one prompt each: `custom:*`.

use std::sync::LazyLock;

use regex::Regex;

use super::ascii::to_ascii;
use super::csv::rows;
use crate::text::python::{SPACE, WORD, fixed, is_edge, split, strip, without_punctuation};
use crate::text::sentence::sentences;

const MULTIPLES: [&str; 6] = ["14", "21", "28", "35", "42", "49"];
const N_QUESTIONS: usize = 4;
const N_OPTIONS: usize = 5;
const N_COUNTRIES: usize = 52;
const NAPOLEON: std::ops::RangeInclusive<u32> = 1769..=1821;
/// By latitude, from the north.
const CAPITALS: [&str; 27] = [
    "Reykjavik",
    "Helsinki",
    "Oslo",
    "Tallinn",
    "Stockholm",
    "Riga",
    "Moscow",
    "Copenhagen",
    "Vilnius",
    "Minsk",
    "Dublin",
    "Berlin",
    "Amsterdam",
    "Warsaw",
    "London",
    "Brussels",
    "Prague",
    "Luxembourg",
    "Paris",
    "Vienna",
    "Bratislava",
    "Budapest",
    "Vaduz",
    "Chisinau",
    "Bern",
    "Ljubljana",
    "Zagreb",
];

static NUMBER: LazyLock<Regex> = LazyLock::new(|| fixed(r"\d+"));
static QUESTION: LazyLock<Regex> = LazyLock::new(|| fixed(&format!(r"\n*Question \d+[.|):;]?{SPACE}*")));
static OPTION: LazyLock<Regex> = LazyLock::new(|| fixed(&format!(r"^[A-Ea-e][.|)]{SPACE}*{WORD}")));
static DATE: LazyLock<Regex> = LazyLock::new(|| fixed(r"^(\d{4})-(\d{2})-(\d{2})$"));
static SPECIAL: LazyLock<Regex> = LazyLock::new(|| fixed(r#"^".*[^\p{L}\p{N}_\s\x1c-\x1f].*""#));
static PRODUCTS: LazyLock<Regex> =
    LazyLock::new(|| header(["ProductID", "Category", "Brand", "Price", "Stock"], r",[ \t]*"));
static STUDENTS: LazyLock<Regex> =
    LazyLock::new(|| header(["StudentID", "Subject", "Grade", "Semester", "Score"], r"\t *"));

/// The names of columns, each with quotation marks or without.
fn header(names: [&str; 5], separator: &str) -> Regex {
    let names = names.map(|name| format!("(?:{name}|\"{name}\")"));
    fixed(&format!("^{}$", names.join(separator)))
}

/// `custom:multiples`: the numbers are those from 10 to 50 that 7 divides.
pub(super) fn is_multiples(text: &str) -> bool {
    NUMBER.find_iter(text).map(|found| found.as_str()).eq(MULTIPLES)
}

/// `custom:mcq_count_length`: four questions with five options each, each longer than the one before, and nothing before them.
pub(super) fn is_quiz(text: &str) -> bool {
    if !text.starts_with("Question") {
        return false;
    }
    let questions: Vec<&str> = QUESTION.split(text).map(strip).filter(|question| !question.is_empty()).collect();
    let is_option = |line: &&str| OPTION.is_match(line);
    let mut lengths = Vec::new();
    for question in &questions {
        let lines: Vec<&str> = question.split('\n').map(strip).collect();
        if lines.iter().copied().filter(|line| is_option(line)).count() != N_OPTIONS {
            return false;
        }
        let asked: Vec<&str> = lines.into_iter().take_while(|line| !is_option(line)).collect();
        lengths.push(strip(&asked.join(" ")).chars().count());
    }
    questions.len() == N_QUESTIONS && lengths.windows(2).all(|pair| pair[0] < pair[1])
}

/// `custom:reverse_newline`: from the line with Zimbabwe on, lines in reverse order; their number, not their names, is looked at.
pub(super) fn is_reversed_list(text: &str) -> bool {
    let lines = text.split('\n').map(|line| line.trim_matches(is_edge)).filter(|line| !line.is_empty());
    let lines: Vec<String> = lines.skip_while(|line| !line.contains("Zimbabwe")).map(to_ascii).collect();
    lines.len() >= N_COUNTRIES && lines.windows(2).all(|pair| pair[0] >= pair[1])
}

/// `custom:word_reverse`: "bald eagle", read from the end, in one sentence.
pub(super) fn has_reversed_words(text: &str) -> bool {
    let text = without_punctuation(strip(&text.to_lowercase()));
    let mut words: Vec<&str> = split(&text).collect();
    words.reverse();
    let reversed = words.join(" ");
    reversed.contains("bald eagle") && sentences(&reversed).contains(&reversed)
}

/// `custom:character_reverse`
pub(super) fn has_reversed_letters(text: &str) -> bool {
    text.to_lowercase().contains("elgae dlab")
}

/// `custom:sentence_alphabet`: 26 sentences that begin with a to z.
pub(super) fn is_alphabet_of_sentences(text: &str) -> bool {
    let initials = sentences(text).into_iter().map(|sentence| {
        let word = split(&sentence).next().unwrap_or_default().to_lowercase();
        word.chars().next().unwrap_or_default()
    });
    initials.eq('a'..='z')
}

/// `custom:european_capitals_sort`
pub(super) fn is_list_of_capitals(text: &str) -> bool {
    to_ascii(text).split(',').map(strip).filter(|capital| !capital.is_empty()).eq(CAPITALS)
}

/// `custom:csv_city`: a header, seven rows, five fields in each.
pub(super) fn is_city_csv(text: &str) -> bool {
    let Some(rows) = rows(text, ',') else { return false };
    rows.len() == 8 && rows[0] == ["ID", "Country", "City", "Year", "Count"] && rows.iter().all(|row| row.len() == 5)
}

fn has_header(text: &str, header: &Regex) -> bool {
    header.is_match(strip(text.split('\n').next().unwrap_or_default()))
}

/// `custom:csv_special_character`: a header, fourteen rows, five fields in each up to the first in quotation marks that has a character
/// besides letters, digits and space.
pub(super) fn is_special_character_csv(text: &str) -> bool {
    // Three quotation marks keep one in the field.
    let Some(rows) = rows(&text.replace('"', "\"\"\""), ',') else { return false };
    let first = rows.iter().skip(1).find(|row| row.len() != 5 || row.iter().any(|field| SPECIAL.is_match(field)));
    has_header(text, &PRODUCTS) && rows.len() == 15 && first.is_some_and(|row| row.len() == 5)
}

/// `custom:csv_quotes`: a header, three rows, five fields in each, all in quotation marks.
pub(super) fn is_quoted_csv(text: &str) -> bool {
    let Some(rows) = rows(&text.replace('"', "\"\"\""), '\t') else { return false };
    let is_quoted = |field: &String| strip(field).starts_with('"') && strip(field).ends_with('"');
    has_header(text, &STUDENTS) && rows.len() == 4 && rows.iter().all(|row| row.len() == 5 && row.iter().all(is_quoted))
}

/// `custom:date_format_list`: dates of Napoleon's life, with commas between.
pub(super) fn is_list_of_dates(text: &str) -> bool {
    strip(text).split(',').all(|date| {
        let Some(found) = DATE.captures(strip(date)) else { return false };
        let [year, month, day] = [1, 2, 3].map(|part| found[part].chars().fold(0, |n, c| 10 * n + digit(c)));
        let n_days = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 => 29,
            // Month 0 passes with any day.
            _ => 99,
        };
        NAPOLEON.contains(&year) && month <= 12 && day <= n_days
    })
}

/// The value of a decimal digit of any script: digits stand in tens, from 0.
fn digit(c: char) -> u32 {
    let is_digit = |c: u32| char::from_u32(c).is_some_and(|c| NUMBER.is_match(c.encode_utf8(&mut [0; 4])));
    let n_before = (0..u32::from(c)).rev().take_while(|&c| is_digit(c)).count();
    n_before as u32 % 10
}

#[cfg(test)]
mod tests {
    use super::digit;

    #[test]
    fn digits_of_every_script_have_their_value() {
        let digits = [('0', 0), ('7', 7), ('٣', 3), ('९', 9), ('５', 5), ('\u{1d7d7}', 9), ('\u{1d7e2}', 0)];
        assert!(digits.iter().all(|&(c, value)| digit(c) == value));
    }
}
