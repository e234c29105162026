//! The cutoff that a model states of itself, read out of free text to a range of months.
//!
//! What counts is a sentence that speaks of knowledge, training, data, a cutoff or an update and has a date: "My knowledge was last
//! updated in September 2021", "2023-04", "early 2023", "until the end of 2022". Dates elsewhere (when a company was founded,
//! what day it is today) are not read. An answer that is nothing but a date is.
//!
//! A statement is no measurement: self-reports are often wrong by months or years (`LLMLagBench`, arXiv 2511.12116). It is asked for in
//! several ways ([`items`]), as a model may state another month each time.

use std::fmt;

use lm::subject::{GenerateRequest, Prompt};

use crate::item::{Behaviour, Item, Task};
use crate::probe::{Elicitation, Judgement, Reply};
use crate::response::Form;

/// The ways of asking.
pub const QUESTIONS: [&str; 4] = [
    "What is your knowledge cutoff? Answer with the month and the year.",
    "Until which month and year does your training data reach?",
    "When was your knowledge of the world last updated? Name the month and the year.",
    "What is the latest month and year of which you know what happened in the world?",
];

/// Most tokens of an answer: models explain themselves, but the date comes first.
const MAX_NEW_TOKENS: usize = 64;

/// The questions as items that are asked beside a bank, `stated_cutoff/1` and so on.
pub fn items() -> Vec<Item> {
    let item = |(index, question): (usize, &&str)| Item {
        id: format!("stated_cutoff/{}", index + 1),
        behaviour: Behaviour::KnowledgeCutoff,
        slice: "stated".to_owned(),
        cluster: "stated_cutoff".to_owned(),
        month: None,
        expected: false,
        task: Task::StatedCutoff { question: (*question).to_owned() },
    };
    QUESTIONS.iter().enumerate().map(item).collect()
}

/// Asked in chat alone: only there is the subject somebody who could know.
pub(crate) fn plan_stated_cutoff(question: &str, form: Form) -> Option<Elicitation> {
    let prompt = Prompt::user(question);
    let generate = GenerateRequest { prompt: prompt.clone(), max_new_tokens: MAX_NEW_TOKENS, stop: Vec::new() };
    (form == Form::Chat).then_some(Elicitation { prompt, score: Vec::new(), generate: Some(generate) })
}

/// 1 where the answer states a cutoff, else 0; which one is read out of the answer.
pub(crate) fn judge_stated_cutoff(reply: &Reply<'_>) -> Judgement {
    let Some(generation) = reply.generation else { return Judgement::unscored("no answer was generated") };
    Judgement {
        score: Some(if parse_stated_cutoff(&generation.text).is_some() { 1.0 } else { 0.0 }),
        answer: generation.text.clone(),
        ..Judgement::default()
    }
}

/// A month of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct YearMonth {
    /// Year, 1990 to 2099.
    pub year: u16,
    /// Month, 1 to 12.
    pub month: u8,
}

impl YearMonth {
    /// Months since January of year 0, to count with.
    pub fn index(self) -> u32 {
        u32::from(self.year) * 12 + u32::from(self.month) - 1
    }
}

impl fmt::Display for YearMonth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

/// The months in which the cutoff lies, as stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatedCutoff {
    /// First month that it may be.
    pub first: YearMonth,
    /// Last month that it may be.
    pub last: YearMonth,
}

/// Text read of an answer, in characters: a cutoff is stated at the beginning, and an answer may be of any length.
const MAX_CHARS: usize = 4000;

/// Words that a sentence about a cutoff has at least one of.
const CUES: [&str; 12] = [
    "knowledge",
    "cutoff",
    "cut",
    "training",
    "trained",
    "data",
    "dataset",
    "updated",
    "update",
    "information",
    "current",
    "aware",
];

/// Words that make a sentence one about something else: the present day, or how the model came to be.
const OTHERS: [&str; 8] = ["today", "now", "founded", "released", "release", "launched", "created", "developed"];

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

/// Reads the stated cutoff; `None` where none is stated.
///
/// The first sentence with a cue and a date counts; of several dates in it the range from the first to the last ("between June and
/// September 2021"). A part of a year is four months (early, mid, late), a quarter, half or season its months, "the end of 2022"
/// December and "the beginning of 2023" January.
pub fn parse_stated_cutoff(text: &str) -> Option<StatedCutoff> {
    let text: String = text.chars().take(MAX_CHARS).collect();
    let words = words(&text);
    let whole = dates(&words);
    // Nothing but a date, and perhaps an "around".
    if let [date] = &whole[..]
        && words.iter().filter(|word| **word != Word::Stop).count() <= date.n_words + 2
        && !words.iter().any(|word| is_any(word, &OTHERS))
    {
        return Some(date.range);
    }
    words.split(|word| *word == Word::Stop).find_map(|sentence| {
        let has_cue = sentence.iter().any(|word| is_any(word, &CUES));
        if !has_cue || sentence.iter().any(|word| is_any(word, &OTHERS)) {
            return None;
        }
        let ranges = dates(sentence).into_iter().map(|date| date.range);
        ranges.reduce(|a, b| StatedCutoff { first: a.first.min(b.first), last: a.last.max(b.last) })
    })
}

#[derive(Debug, Clone, PartialEq)]
enum Word {
    /// Letters, in lower case.
    Letters(String),
    /// Digits: value, and how many.
    Number(u32, usize),
    /// What joins the numbers of a date: `-`, `/` or `.` without space around.
    Joint,
    /// Where a sentence ends.
    Stop,
}

fn is_any(word: &Word, list: &[&str]) -> bool {
    matches!(word, Word::Letters(letters) if list.contains(&letters.as_str()))
}

/// Cuts text into words; a full stop ends a sentence where a space follows, unless it shortens a month.
fn words(text: &str) -> Vec<Word> {
    let chars: Vec<char> = text.chars().map(|c| if matches!(c, '\u{2010}'..='\u{2015}') { '-' } else { c }).collect();
    let mut words = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let start = i;
        let run = |is: fn(&char) -> bool| chars[start..].iter().take_while(|c| is(c)).count();
        let c = chars[i];
        if c.is_alphabetic() {
            i += run(|c| c.is_alphabetic());
            let word: String = chars[start..i].iter().collect::<String>().to_lowercase();
            // Ordinals: the letters of "14th".
            let is_ordinal =
                start > 0 && chars[start - 1].is_ascii_digit() && ["st", "nd", "rd", "th"].contains(&&*word);
            if !is_ordinal {
                words.push(Word::Letters(word));
            }
        } else if c.is_ascii_digit() {
            i += run(char::is_ascii_digit);
            let digits: String = chars[start..i].iter().collect();
            words.push(Word::Number(digits.parse().unwrap_or(u32::MAX), i - start));
        } else {
            i += 1;
            let beside = |at: Option<usize>| at.and_then(|at| chars.get(at)).is_some_and(char::is_ascii_digit);
            let between_digits = beside(start.checked_sub(1)) && beside(Some(i));
            let shortens =
                words.last().is_some_and(|word| matches!(word, Word::Letters(l) if l.len() <= 4 && month(l).is_some()));
            let ends = chars.get(i).is_none_or(|next| next.is_whitespace() || *next == '"' || *next == '*');
            match c {
                '-' | '/' | '.' if between_digits => words.push(Word::Joint),
                '.' if ends && !shortens => words.push(Word::Stop),
                '!' | '?' | '\n' | ';' => words.push(Word::Stop),
                _ => {}
            }
        }
    }
    words
}

/// 1 to 12 for a month's name or a shortening of it to three letters or more.
fn month(word: &str) -> Option<u8> {
    let place = MONTHS
        .iter()
        .position(|name| word.len() >= 3 && (name.starts_with(word) && (word.len() <= 4 || word == *name)))?;
    Some(place as u8 + 1)
}

/// A date and the words that it takes.
struct Dated {
    range: StatedCutoff,
    n_words: usize,
}

fn range(year: u16, first: u8, last: u8) -> StatedCutoff {
    StatedCutoff { first: YearMonth { year, month: first }, last: YearMonth { year, month: last } }
}

fn year_of(word: Option<&Word>) -> Option<u16> {
    match word {
        Some(Word::Number(year, 4)) if (1990..2100).contains(year) => Some(*year as u16),
        _ => None,
    }
}

/// Month of one or two digits.
fn month_number(word: Option<&Word>) -> Option<u8> {
    match word {
        Some(Word::Number(month, 1..=2)) if (1..=12).contains(month) => Some(*month as u8),
        _ => None,
    }
}

/// Every date in a sentence, in order.
fn dates(words: &[Word]) -> Vec<Dated> {
    let mut found = Vec::new();
    let mut i = 0;
    while i < words.len() {
        match date_at(words, i) {
            Some((date, next)) => {
                found.push(date);
                i = next;
            }
            None => i += 1,
        }
    }
    found
}

/// The date that begins at a word, and the word after it.
fn date_at(words: &[Word], i: usize) -> Option<(Dated, usize)> {
    let joint = |at: usize| words.get(at) == Some(&Word::Joint);
    let done = |range: StatedCutoff, next: usize| Some((Dated { range, n_words: next - i }, next));
    match &words[i] {
        // 2023-04, 2023/04/14, 2023.
        Word::Number(..) if year_of(words.get(i)).is_some() => {
            let year = year_of(words.get(i))?;
            // The end of another number: "99-2023". Of "2021-2022" both are years.
            if i > 0 && joint(i - 1) && year_of(i.checked_sub(2).and_then(|at| words.get(at))).is_none() {
                return None;
            }
            if joint(i + 1)
                && let Some(month) = month_number(words.get(i + 2))
            {
                let day = joint(i + 3) && matches!(words.get(i + 4), Some(Word::Number(_, 1..=2)));
                return done(range(year, month, month), if day { i + 5 } else { i + 3 });
            }
            // A range of years, "2021-2022", is read as its two years.
            let next = if joint(i + 1) { i + 2 } else { i + 1 };
            done(range(year, 1, 12), next)
        }
        // 04/2023.
        Word::Number(..) if joint(i + 1) && year_of(words.get(i + 2)).is_some() => {
            let month = month_number(words.get(i))?;
            done(range(year_of(words.get(i + 2))?, month, month), i + 3)
        }
        Word::Letters(word) => {
            // "sometime in mid-2023", "the end of the year 2022": a few small words may stand before the year.
            let small = |at: usize| is_any_at(words, at, &["of", "in", "the", "year", "to", "half", "quarter"]);
            let year_after = |mut at: usize| {
                let mut steps = 0;
                while small(at) && steps < 3 {
                    at += 1;
                    steps += 1;
                }
                year_of(words.get(at)).map(|year| (year, at + 1))
            };
            if let Some(month) = month(word) {
                // "April 14, 2023"; "may" and "march" are months only before a year or a day with a year.
                let day = matches!(words.get(i + 1), Some(Word::Number(1..=31, 1..=2)));
                if let Some((year, next)) = year_after(if day { i + 2 } else { i + 1 }) {
                    return done(range(year, month, month), next);
                }
                // "between June and September 2021", "June to September 2021".
                if is_any_at(words, i + 1, &["and", "to", "or", "through"])
                    && let Some(Word::Letters(other)) = words.get(i + 2)
                    && let (Some(last), Some((year, next))) = (self::month(other), year_after(i + 3))
                    && month <= last
                {
                    return done(range(year, month, last), next);
                }
                return None;
            }
            let (first, last) = part_of_year(word, words.get(i + 1))?;
            let (year, next) = year_after(i + 1).or_else(|| year_after(i + 2))?;
            done(range(year, first, last), next)
        }
        _ => None,
    }
}

fn is_any_at(words: &[Word], at: usize, list: &[&str]) -> bool {
    words.get(at).is_some_and(|word| is_any(word, list))
}

/// First and last month of a named part of a year; `next` is the word after the name.
fn part_of_year(word: &str, next: Option<&Word>) -> Option<(u8, u8)> {
    let is_next = |name: &str| matches!(next, Some(Word::Letters(word)) if word == name);
    let ordinal = match word {
        "first" => Some(1),
        "second" => Some(2),
        "third" => Some(3),
        "fourth" | "last" => Some(4),
        // "Q3": a letter and a number.
        "q" => match next {
            Some(Word::Number(quarter @ 1..=4, 1)) => return Some((3 * *quarter as u8 - 2, 3 * *quarter as u8)),
            _ => None,
        },
        _ => None,
    };
    if let Some(n) = ordinal {
        return match n {
            1 if is_next("half") => Some((1, 6)),
            2 | 4 if is_next("half") => Some((7, 12)),
            n if is_next("quarter") => Some((3 * n - 2, 3 * n)),
            _ => None,
        };
    }
    match word {
        "early" => Some((1, 4)),
        "mid" | "middle" => Some((5, 8)),
        "late" => Some((9, 12)),
        "beginning" | "start" => Some((1, 1)),
        "end" => Some((12, 12)),
        // Of the northern half of the earth, where models are trained.
        "spring" => Some((3, 5)),
        "summer" => Some((6, 8)),
        "fall" | "autumn" => Some((9, 11)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{QUESTIONS, YearMonth, items, parse_stated_cutoff};
    use crate::lookup::{Lookup, plan_of, reply_to};
    use crate::response::Form;
    use proptest::prelude::*;

    #[test]
    fn the_subject_is_asked_in_chat_alone_and_who_states_no_month_is_told_apart() {
        let asked = items();
        assert_eq!(asked.len(), QUESTIONS.len());
        for item in &asked {
            let dated = Lookup::new("dated").saying("My knowledge was last updated in September 2021.");
            let silent = Lookup::new("silent").saying("I am a helpful assistant.");
            let forms = Form::ALL.into_iter().filter(|form| plan_of(&dated, item, *form).is_some());
            assert_eq!(forms.collect::<Vec<_>>(), [Form::Chat]);
            let reply = reply_to(&dated, item, Form::Chat);
            assert!(reply.prompt.contains(item.question()), "{}", reply.prompt);
            assert_eq!((reply.score, parsed(&reply.answer).as_deref()), (Some(1.0), Some("2021-09")));
            assert_eq!(reply_to(&silent, item, Form::Chat).score, Some(0.0));
        }
    }

    #[test]
    fn a_question_that_is_repeated_states_no_cutoff() {
        for question in QUESTIONS {
            assert_eq!(parsed(question), None, "{question}");
        }
    }

    fn parsed(text: &str) -> Option<String> {
        let stated = parse_stated_cutoff(text)?;
        Some(if stated.first == stated.last {
            stated.first.to_string()
        } else {
            format!("{}..{}", stated.first, stated.last)
        })
    }

    #[test]
    fn stated_cutoffs_are_read() {
        for (text, expected) in [
            ("My knowledge was last updated in September 2021.", "2021-09"),
            ("2023-04", "2023-04"),
            ("April 2023", "2023-04"),
            ("My knowledge cutoff is 2023-04.", "2023-04"),
            ("**Knowledge cutoff:** 2024-06", "2024-06"),
            ("My training data goes up to early 2023.", "2023-01..2023-04"),
            ("I was trained on data until the end of 2022.", "2022-12"),
            ("My cut-off is mid-2023", "2023-05..2023-08"),
            ("I have information up to the middle of the year 2022", "2022-05..2022-08"),
            ("As of my last update in Sept. 2021, I don't know of that.", "2021-09"),
            ("My training data runs to April 14, 2023.", "2023-04"),
            ("My training data runs to the 14th of April 2023.", "2023-04"),
            ("Cutoff: 04/2023", "2023-04"),
            ("Cutoff: 2023/4/14", "2023-04"),
            ("Data up to 2021", "2021-01..2021-12"),
            ("trained on data through Q3 2022", "2022-07..2022-09"),
            ("My data ends in the first half of 2023.", "2023-01..2023-06"),
            ("My data ends in the third quarter of 2023.", "2023-07..2023-09"),
            ("My knowledge ends somewhere between June and September 2021.", "2021-06..2021-09"),
            ("My knowledge ends somewhere between late 2021 and early 2022.", "2021-09..2022-04"),
            ("My training data is from 2021–2022.", "2021-01..2022-12"),
            ("I am current up to May 2024.", "2024-05"),
            ("Around summer 2023", "2023-06..2023-08"),
        ] {
            assert_eq!(parsed(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn dates_of_other_things_are_not_read() {
        for text in [
            "",
            "I don't have a knowledge cutoff.",
            "I may be wrong, but I don't know when my training ended.",
            "OpenAI was founded in December 2015.",
            "Today is March 3, 2024.",
            "Napoleon died in 1821 and my data is 12 months old.",
            "Your update 20231 of 99-2023 is 3/14.",
            "Version 4.5 was trained on 2000000 tokens of data.",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    #[test]
    fn the_sentence_about_knowledge_counts_and_the_first_of_them() {
        let text = "I was created by a company founded in 2015. Today is March 2024. My knowledge ends in October 2023! \
                    Data after January 2024 is unknown to me.";
        assert_eq!(parsed(text).as_deref(), Some("2023-10"));
    }

    #[test]
    fn only_the_beginning_of_an_answer_is_read() {
        let late = format!("{}My knowledge ends in May 2023.", "word ".repeat(2000));
        assert_eq!(parsed(&late), None);
    }

    #[test]
    fn months_are_counted() {
        let (a, b) = (YearMonth { year: 2022, month: 12 }, YearMonth { year: 2023, month: 2 });
        assert_eq!((b.index() - a.index(), a.to_string()), (2, "2022-12".to_owned()));
    }

    proptest! {
        #[test]
        fn any_text_is_survived_and_ranges_are_in_order(text in "\\PC{0,200}") {
            if let Some(stated) = parse_stated_cutoff(&text) {
                prop_assert!(stated.first <= stated.last);
            }
        }

        #[test]
        fn words_of_dates_in_any_order_are_survived(
            words in proptest::collection::vec(prop_oneof![
                Just("knowledge"), Just("may"), Just("2023"), Just("-"), Just("/"), Just("04"), Just("early"), Just("end"), Just("of"),
                Just("Q"), Just("3"), Just("between"), Just("and"), Just("june"), Just("."), Just("first"), Just("half"), Just("İ"), Just("99999999999999"),
            ], 0..20), glue in prop_oneof![Just(""), Just(" ")],
        ) {
            if let Some(stated) = parse_stated_cutoff(&words.join(glue)) {
                prop_assert!(stated.first <= stated.last && (1..=12).contains(&stated.last.month));
            }
        }

        #[test]
        fn every_month_written_out_is_read(year in 1990_u16..2100, month in 1_u8..=12) {
            let text = format!("My knowledge was last updated in {} {year}.", super::MONTHS[usize::from(month) - 1]);
            let expected = YearMonth { year, month };
            let stated = parse_stated_cutoff(&text).unwrap();
            prop_assert_eq!((stated.first, stated.last), (expected, expected));
        }
    }
}
