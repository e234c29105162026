//! The 25 instructions of IFEval, read from their names and arguments.

use regex::{Regex, RegexBuilder};
use serde::Deserialize;

use super::language;
use crate::text::python::{SPACE, fixed, strip};
use crate::verifiable::{Fault, Verifiable};

/// An instruction that a program can check.
///
/// # Reference
/// Zhou et al. 2023, *Instruction-Following Evaluation for Large Language Models*, arXiv 2311.07911, table 1; arguments and checks are those
/// of the official code in lm-eval 0.4.13.
#[derive(Debug, Clone)]
pub enum Instruction {
    /// `keywords:existence`: each occurs.
    Keywords(Vec<Regex>),
    /// `keywords:frequency`: how often one occurs, within words, too.
    KeywordFrequency(Regex, Count),
    /// `keywords:forbidden_words`: none occurs as a word.
    ForbiddenWords(Vec<Regex>),
    /// `keywords:letter_frequency`: how often a letter (in lower case) occurs in either case.
    LetterFrequency(char, Count),
    /// `language:response_language`: ISO 639-1 code.
    ResponseLanguage(String),
    /// `length_constraints:number_sentences`
    Sentences(Count),
    /// `length_constraints:number_paragraphs`: exactly so many, with `***` between.
    Paragraphs(usize),
    /// `length_constraints:number_words`
    Words(Count),
    /// `length_constraints:nth_paragraph_first_word`: exactly so many paragraphs with an empty line between, and how one of them begins.
    FirstWord {
        /// Number of paragraphs.
        n_paragraphs: usize,
        /// The one that is looked at, from 1.
        paragraph: usize,
        /// Its first word, in lower case.
        word: String,
    },
    /// `detectable_content:number_placeholders`: at least so many `[placeholders]`.
    Placeholders(usize),
    /// `detectable_content:postscript`: what marks it, to be found in the answer in lower case.
    Postscript(Regex),
    /// `detectable_format:number_bullet_lists`: exactly so many lines that begin with `*` or `-`.
    Bullets(usize),
    /// `detectable_format:constrained_response`: "My answer is yes.", no or maybe.
    ConstrainedResponse,
    /// `detectable_format:number_highlighted_sections`: at least so many `*highlights*`.
    Highlights(usize),
    /// `detectable_format:multiple_sections`: at least so many, each with a heading such as "Section 1".
    Sections(Regex, usize),
    /// `detectable_format:json_format`
    Json,
    /// `detectable_format:title`: one in `<<double angular brackets>>`.
    Title,
    /// `combination:two_responses`: two that differ, with `******` between.
    TwoResponses,
    /// `combination:repeat_prompt`: what the answer has to begin with.
    RepeatPrompt(String),
    /// `startend:end_checker`: what the answer has to end with, in lower case.
    EndPhrase(String),
    /// `startend:quotation`: in double quotation marks.
    Quotation,
    /// `change_case:capital_word_frequency`: words all in capitals.
    CapitalWords(Count),
    /// `change_case:english_capital`: English, all in capitals.
    Capitals,
    /// `change_case:english_lowercase`: English without capitals.
    SmallLetters,
    /// `punctuation:no_comma`
    NoComma,
}

/// How many there have to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    relation: Relation,
    n: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Relation {
    #[serde(rename = "at least")]
    AtLeast,
    #[serde(rename = "less than")]
    LessThan,
}

impl Count {
    /// Whether `n` are as many as there have to be.
    pub(super) fn allows(self, n: usize) -> bool {
        match self.relation {
            Relation::AtLeast => n >= self.n,
            Relation::LessThan => n < self.n,
        }
    }
}

/// The arguments of an instruction as they are written; those of other instructions are left out or `null`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Arguments {
    capital_frequency: Option<usize>,
    capital_relation: Option<Relation>,
    end_phrase: Option<String>,
    first_word: Option<String>,
    forbidden_words: Option<Vec<String>>,
    frequency: Option<usize>,
    keyword: Option<String>,
    keywords: Option<Vec<String>>,
    language: Option<String>,
    let_frequency: Option<usize>,
    let_relation: Option<Relation>,
    letter: Option<String>,
    nth_paragraph: Option<usize>,
    num_bullets: Option<usize>,
    num_highlights: Option<usize>,
    num_paragraphs: Option<usize>,
    num_placeholders: Option<usize>,
    num_sections: Option<usize>,
    num_sentences: Option<usize>,
    num_words: Option<usize>,
    postscript_marker: Option<String>,
    prompt_to_repeat: Option<String>,
    relation: Option<Relation>,
    section_spliter: Option<String>,
}

type Parsed<T> = Result<T, Fault>;

impl Verifiable for Instruction {
    type Arguments = Arguments;

    /// Reads an instruction by its official name, e.g. `punctuation:no_comma`.
    ///
    /// A missing argument is a fault, where the official scorer draws one at random; zero counts as missing, as it does there.
    fn parse(name: &str, given: &Arguments) -> Parsed<Self> {
        Ok(match name {
            "keywords:existence" => Self::Keywords(patterns("kwargs.keywords", given.keywords.as_ref())?),
            "keywords:frequency" => {
                let keyword = required("kwargs.keyword", given.keyword.as_deref())?;
                let count = count("kwargs.relation", given.relation, "kwargs.frequency", given.frequency)?;
                Self::KeywordFrequency(pattern("kwargs.keyword", strip(keyword))?, count)
            }
            "keywords:forbidden_words" => {
                Self::ForbiddenWords(patterns("kwargs.forbidden_words", given.forbidden_words.as_ref())?)
            }
            "keywords:letter_frequency" => {
                let count =
                    count("kwargs.let_relation", given.let_relation, "kwargs.let_frequency", given.let_frequency)?;
                Self::LetterFrequency(letter(required("kwargs.letter", given.letter.as_deref())?)?, count)
            }
            "language:response_language" => {
                let code = required("kwargs.language", given.language.as_deref())?;
                if !language::is_known(code) {
                    let reason = format!("is {code:?}, a language that cannot be told");
                    return Err(Fault { key: "kwargs.language", reason });
                }
                Self::ResponseLanguage(code.to_owned())
            }
            "length_constraints:number_sentences" => {
                Self::Sentences(count("kwargs.relation", given.relation, "kwargs.num_sentences", given.num_sentences)?)
            }
            "length_constraints:number_paragraphs" => {
                Self::Paragraphs(number("kwargs.num_paragraphs", given.num_paragraphs)?)
            }
            "length_constraints:number_words" => {
                Self::Words(count("kwargs.relation", given.relation, "kwargs.num_words", given.num_words)?)
            }
            "length_constraints:nth_paragraph_first_word" => first_word(given)?,
            "detectable_content:number_placeholders" => {
                Self::Placeholders(number("kwargs.num_placeholders", given.num_placeholders)?)
            }
            "detectable_content:postscript" => {
                postscript(required("kwargs.postscript_marker", given.postscript_marker.as_deref())?)?
            }
            "detectable_format:number_bullet_lists" => Self::Bullets(number("kwargs.num_bullets", given.num_bullets)?),
            "detectable_format:constrained_response" => Self::ConstrainedResponse,
            "detectable_format:number_highlighted_sections" => {
                Self::Highlights(number("kwargs.num_highlights", given.num_highlights)?)
            }
            "detectable_format:multiple_sections" => {
                let word = required("kwargs.section_spliter", given.section_spliter.as_deref())?;
                let heading = format!(r"{SPACE}?{}{SPACE}?\d+{SPACE}?", strip(word));
                Self::Sections(
                    exact("kwargs.section_spliter", &heading)?,
                    number("kwargs.num_sections", given.num_sections)?,
                )
            }
            "detectable_format:json_format" => Self::Json,
            "detectable_format:title" => Self::Title,
            "combination:two_responses" => Self::TwoResponses,
            "combination:repeat_prompt" => {
                Self::RepeatPrompt(required("kwargs.prompt_to_repeat", given.prompt_to_repeat.as_deref())?.to_owned())
            }
            "startend:end_checker" => {
                Self::EndPhrase(strip(required("kwargs.end_phrase", given.end_phrase.as_deref())?).to_lowercase())
            }
            "startend:quotation" => Self::Quotation,
            "change_case:capital_word_frequency" => {
                let (relation, n) = (given.capital_relation, given.capital_frequency);
                Self::CapitalWords(count("kwargs.capital_relation", relation, "kwargs.capital_frequency", n)?)
            }
            "change_case:english_capital" => Self::Capitals,
            "change_case:english_lowercase" => Self::SmallLetters,
            "punctuation:no_comma" => Self::NoComma,
            _ => {
                let reason = format!("has {name:?}, which is none of the 25 of IFEval");
                return Err(Fault { key: "instruction_id_list", reason });
            }
        })
    }

    fn check(&self, response: &str) -> bool {
        self.holds(response)
    }
}

fn missing(key: &'static str) -> Fault {
    Fault { key, reason: "is missing or empty: the official scorer would draw it at random".to_owned() }
}

fn required<'a>(key: &'static str, text: Option<&'a str>) -> Parsed<&'a str> {
    text.filter(|text| !text.is_empty()).ok_or_else(|| missing(key))
}

fn number(key: &'static str, n: Option<usize>) -> Parsed<usize> {
    n.filter(|&n| n > 0).ok_or_else(|| missing(key))
}

fn count(relation_key: &'static str, relation: Option<Relation>, key: &'static str, n: Option<usize>) -> Parsed<Count> {
    Ok(Count { relation: relation.ok_or_else(|| missing(relation_key))?, n: number(key, n)? })
}

/// Keywords are patterns to the official scorer, which looks for them in either case.
fn pattern(key: &'static str, text: &str) -> Parsed<Regex> {
    compiled(key, text, true)
}

fn exact(key: &'static str, text: &str) -> Parsed<Regex> {
    compiled(key, text, false)
}

fn compiled(key: &'static str, text: &str, in_either_case: bool) -> Parsed<Regex> {
    RegexBuilder::new(text).case_insensitive(in_either_case).build().map_err(|_| {
        let reason = format!("has {text:?}, which is no regular expression that can be used here");
        Fault { key, reason }
    })
}

fn patterns(key: &'static str, texts: Option<&Vec<String>>) -> Parsed<Vec<Regex>> {
    let texts = texts.filter(|texts| !texts.is_empty()).ok_or_else(|| missing(key))?;
    texts.iter().map(|text| pattern(key, text)).collect()
}

/// A character that is no letter is counted as it is, where the official scorer counts a letter that it draws at random.
fn letter(text: &str) -> Parsed<char> {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) => Ok(c.to_lowercase().next().unwrap_or(c)),
        _ => Err(Fault { key: "kwargs.letter", reason: format!("is {text:?}, which is not one letter") }),
    }
}

fn first_word(given: &Arguments) -> Parsed<Instruction> {
    let n_paragraphs = number("kwargs.num_paragraphs", given.num_paragraphs)?;
    let paragraph = number("kwargs.nth_paragraph", given.nth_paragraph)?;
    if paragraph > n_paragraphs {
        let reason = format!("is {paragraph}, but there are to be {n_paragraphs} paragraphs");
        return Err(Fault { key: "kwargs.nth_paragraph", reason });
    }
    let word = required("kwargs.first_word", given.first_word.as_deref())?.to_lowercase();
    Ok(Instruction::FirstWord { n_paragraphs, paragraph, word })
}

fn postscript(marker: &str) -> Parsed<Instruction> {
    let pattern = match strip(marker) {
        "P.P.S" => fixed(&format!(r"p\.{SPACE}?p\.{SPACE}?s")),
        "P.S." => fixed(&format!(r"p\.{SPACE}?s\.")),
        other => exact("kwargs.postscript_marker", &other.to_lowercase())?,
    };
    Ok(Instruction::Postscript(pattern))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(name: &str, arguments: &str) -> String {
        let Fault { key, reason } = Instruction::parse(name, &serde_json::from_str(arguments).unwrap()).unwrap_err();
        format!("{key} {reason}")
    }

    #[test]
    fn what_is_wrong_is_named_with_its_key() {
        let random = "is missing or empty: the official scorer would draw it at random";
        assert_eq!(fault("no_comma", "{}"), "instruction_id_list has \"no_comma\", which is none of the 25 of IFEval");
        assert_eq!(fault("length_constraints:number_words", "{}"), format!("kwargs.relation {random}"));
        let zero = r#"{"num_words": 0, "relation": "at least"}"#;
        assert_eq!(fault("length_constraints:number_words", zero), format!("kwargs.num_words {random}"));
        assert_eq!(fault("keywords:existence", r#"{"keywords": []}"#), format!("kwargs.keywords {random}"));
        let text = fault("keywords:existence", r#"{"keywords": ["a("]}"#);
        assert_eq!(text, "kwargs.keywords has \"a(\", which is no regular expression that can be used here");
        let text = fault("language:response_language", r#"{"language": "xx"}"#);
        assert_eq!(text, "kwargs.language is \"xx\", a language that cannot be told");
        let text =
            fault("keywords:letter_frequency", r#"{"letter": "ab", "let_relation": "less than", "let_frequency": 2}"#);
        assert_eq!(text, "kwargs.letter is \"ab\", which is not one letter");
        let third = r#"{"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"}"#;
        let text = fault("length_constraints:nth_paragraph_first_word", third);
        assert_eq!(text, "kwargs.nth_paragraph is 3, but there are to be 2 paragraphs");
    }

    #[test]
    fn arguments_of_other_instructions_may_be_null_but_not_unknown() {
        let arguments: Arguments =
            serde_json::from_str(r#"{"num_bullets": 3, "keyword": null, "relation": null}"#).unwrap();
        assert!(matches!(
            Instruction::parse("detectable_format:number_bullet_lists", &arguments),
            Ok(Instruction::Bullets(3))
        ));
        for text in [r#"{"num_bulets": 3}"#, r#"{"num_bullets": -1}"#, r#"{"relation": "at most"}"#] {
            assert!(serde_json::from_str::<Arguments>(text).is_err(), "{text}");
        }
    }
}
