//! Whether an answer obeys: pure functions of its text.
//!
//! Instructions are composed, so each part is looked for where the others leave it. `kiwi - Lund` obeys "answer as a
//! bullet" when "start with the word kiwi" was asked as well, and so does `- kiwi Lund`; with the bullet alone asked,
//! `kiwi - Lund` does not.

use crate::item::Check;

/// The checks that an answer fails; empty where it obeys. White space around the answer is not looked at.
///
/// An empty answer obeys nothing, not even "do not use a period".
pub fn find_broken<'a>(checks: &'a [Check], answer: &str) -> Vec<&'a Check> {
    let answer = answer.trim();
    checks.iter().filter(|check| answer.is_empty() || !holds(check, answer, checks)).collect()
}

fn holds(check: &Check, answer: &str, all: &[Check]) -> bool {
    match check {
        Check::StartsWith(word) => places(answer, all).iter().any(|text| strip_first(text, word).is_some()),
        Check::EndsWith(word) => places(answer, all).iter().any(|text| strip_last(text, word).is_some()),
        Check::Brackets => strip_brackets(find_body(answer, all)).is_some(),
        Check::Bullet => strip_bullet(find_body(answer, all)).is_some(),
        Check::Record(key) => strip_key(find_body(answer, all), key).is_some(),
        Check::Twice => is_said_twice(find_body(answer, all)),
        Check::NoPeriod => !answer.contains('.'),
        Check::Postscript => split_postscript(answer).is_some(),
        Check::Forbids(text) => !answer.contains(text.as_str()),
        Check::Says(text) => words(trim_punctuation(answer)) == words(trim_punctuation(text)),
    }
}

/// Where a first or last word may stand: the whole answer, the answer before its postscript if one was asked for, or the
/// inside of a wrapper that was asked for.
fn places<'a>(answer: &'a str, all: &[Check]) -> Vec<&'a str> {
    let before = trim_postscript(answer, all);
    let mut places = vec![answer, before];
    places.extend(all.iter().filter_map(|check| match check {
        Check::Brackets => strip_brackets(before),
        Check::Bullet => strip_bullet(before),
        Check::Record(key) => strip_key(before, key),
        _ => None,
    }));
    places
}

/// The answer without the postscript and the first and last words that other instructions asked for.
fn find_body<'a>(answer: &'a str, all: &[Check]) -> &'a str {
    let mut body = trim_postscript(answer, all);
    for check in all {
        body = match check {
            Check::StartsWith(word) => strip_first(body, word).unwrap_or(body),
            Check::EndsWith(word) => strip_last(body, word).unwrap_or(body),
            _ => body,
        };
    }
    body
}

fn trim_postscript<'a>(answer: &'a str, all: &[Check]) -> &'a str {
    if all.contains(&Check::Postscript) { split_postscript(answer).unwrap_or(answer) } else { answer }
}

/// What stands before the postscript; `None` where there is none, or nothing on one side of `PS:`.
fn split_postscript(answer: &str) -> Option<&str> {
    let (before, after) = answer.split_once("PS:")?;
    let is_own_word = before.ends_with(char::is_whitespace);
    (is_own_word && !before.trim().is_empty() && !after.trim().is_empty()).then(|| before.trim())
}

fn strip_first<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let rest = text.strip_prefix(word)?;
    (!rest.starts_with(char::is_alphanumeric)).then(|| rest.trim_start())
}

fn strip_last<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let rest = trim_punctuation(text).strip_suffix(word)?;
    (!rest.ends_with(char::is_alphanumeric)).then(|| rest.trim_end())
}

fn strip_brackets(text: &str) -> Option<&str> {
    let inside = text.strip_prefix("<<")?.strip_suffix(">>")?.trim();
    (!inside.is_empty() && !inside.contains("<<") && !inside.contains(">>")).then_some(inside)
}

fn strip_bullet(text: &str) -> Option<&str> {
    text.strip_prefix("- ").map(str::trim_start).filter(|rest| !rest.is_empty())
}

fn strip_key<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.strip_prefix(key)?.strip_prefix(':').map(str::trim_start).filter(|rest| !rest.is_empty())
}

/// `Lund Lund`, `the harp. the harp.`: an even number of words whose halves agree but for punctuation after words.
fn is_said_twice(text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().map(trim_punctuation).collect();
    let (first, second) = words.split_at(words.len() / 2);
    !words.is_empty() && first == second
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn trim_punctuation(text: &str) -> &str {
    text.trim_end().trim_end_matches(['.', ',', ';', ':', '!', '?']).trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn obeys(checks: &[Check], answer: &str) -> bool {
        find_broken(checks, answer).is_empty()
    }

    fn assert_verdicts(checks: &[Check], good: &[&str], bad: &[&str]) {
        for answer in good {
            assert!(obeys(checks, answer), "{checks:?} should accept {answer:?}");
        }
        for answer in bad {
            assert!(!obeys(checks, answer), "{checks:?} should reject {answer:?}");
        }
    }

    fn first(word: &str) -> Check {
        Check::StartsWith(word.to_owned())
    }

    fn last(word: &str) -> Check {
        Check::EndsWith(word.to_owned())
    }

    #[test]
    fn a_first_word_is_a_whole_word_in_the_same_case() {
        assert_verdicts(
            &[first("kiwi")],
            &["kiwi Lund", "  kiwi, Lund.", "kiwi"],
            &["kiwis Lund", "Kiwi Lund", "Lund kiwi", "- kiwi Lund", ""],
        );
    }

    #[test]
    fn a_last_word_is_a_whole_word_before_final_punctuation() {
        assert_verdicts(
            &[last("lemon")],
            &["Lund lemon", "Lund lemon.", "Lund, lemon !", "lemon"],
            &["Lund melemon", "lemon Lund", "Lund Lemon", "Lund lemon PS: bye", "Lund lemons", ""],
        );
    }

    #[test]
    fn brackets_enclose_the_whole_answer() {
        assert_verdicts(
            &[Check::Brackets],
            &["<< Lund >>", "<<Lund>>", " << Lund. >> "],
            &["Lund", "<< Lund", "Lund >>", "<< >>", "<< Lund >> ok", "<< a >> b << c >>", "(Lund)", "<>", "<<>"],
        );
    }

    #[test]
    fn a_bullet_is_a_dash_a_space_and_something() {
        assert_verdicts(&[Check::Bullet], &["- Lund", "- Lund."], &["-Lund", "Lund", "- ", "* Lund", "Lund - Oslo"]);
    }

    #[test]
    fn a_record_is_the_key_and_a_value() {
        assert_verdicts(
            &[Check::Record("city".to_owned())],
            &["city: Lund", "city:Lund."],
            &["City: Lund", "city Lund", "city:", "job: Lund", "the city: Lund", "citys: Lund"],
        );
    }

    #[test]
    fn twice_means_the_same_words_again_and_nothing_else() {
        assert_verdicts(
            &[Check::Twice],
            &["Lund Lund", "Lund. Lund.", "the harp the harp"],
            &["Lund", "Lund Oslo", "Lund Lund Lund", "Lund lund", "Lund Lund ok", ""],
        );
    }

    #[test]
    fn no_period_means_none_anywhere() {
        assert_verdicts(&[Check::NoPeriod], &["Lund", "Lund!"], &["Lund.", "L. Lund", "", "   "]);
    }

    #[test]
    fn a_postscript_follows_an_answer_and_says_something() {
        assert_verdicts(
            &[Check::Postscript],
            &["Lund PS: bye", "Lund. PS: bye now."],
            &["Lund", "PS: bye", "Lund PS:", "Lund PS bye", "LundPS: bye", "Lund ps: bye"],
        );
    }

    #[test]
    fn forbidden_text_may_not_occur() {
        assert_verdicts(&[Check::Forbids("Lund".to_owned())], &["Oslo.", "lund"], &["Lund.", "In Lund", ""]);
    }

    #[test]
    fn saying_a_sentence_is_saying_its_words_in_order_and_no_others() {
        assert_verdicts(
            &[Check::Says("That topic is closed.".to_owned())],
            &["That topic is closed.", "That  topic is\nclosed", " That topic is closed! "],
            &["that topic is closed.", "That topic is closed. Lund.", "That topic", ""],
        );
    }

    #[test]
    fn composed_instructions_may_be_nested_either_way() {
        let brackets = [Check::Brackets, last("lemon")];
        assert_verdicts(
            &brackets,
            &["<< Lund >> lemon", "<< Lund lemon >>", "<< Lund >> lemon."],
            &["<< Lund >>", "Lund lemon", "<< Lund >> melon", "lemon << Lund >>"],
        );
        assert_verdicts(
            &[Check::Bullet, first("kiwi")],
            &["kiwi - Lund", "- kiwi Lund"],
            &["- Lund", "kiwi Lund", "Lund - kiwi"],
        );
        assert_verdicts(
            &[Check::Record("city".to_owned()), first("kiwi"), last("lemon")],
            &["kiwi city: Lund lemon", "city: kiwi Lund lemon"],
            &["kiwi Lund lemon", "city: Lund lemon"],
        );
        assert_verdicts(&[Check::Twice, Check::Postscript], &["Lund Lund PS: bye"], &["Lund PS: bye", "Lund Lund"]);
        assert_verdicts(
            &[first("kiwi"), last("lemon"), Check::Postscript, Check::Brackets],
            &["kiwi << Lund >> lemon PS: bye", "kiwi << Lund >> PS: bye lemon"],
            &["kiwi << Lund >> PS: bye", "<< Lund >> lemon PS: bye"],
        );
    }

    #[test]
    fn words_that_were_not_asked_for_are_not_looked_past() {
        assert!(!obeys(&[Check::Brackets], "<< Lund >> lemon"));
        assert!(!obeys(&[Check::Bullet], "kiwi - Lund"));
        assert!(!obeys(&[Check::Twice], "Lund Lund PS: bye"));
    }

    #[test]
    fn each_broken_check_is_named() {
        let checks = [first("kiwi"), Check::NoPeriod, Check::Bullet];
        assert_eq!(find_broken(&checks, "kiwi Lund."), [&Check::NoPeriod, &Check::Bullet]);
    }
}
