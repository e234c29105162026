//! How sure a model says that it is: prompts that ask for it, and what its answer states.
//!
//! Probability of tokens and stated confidence differ, most of all after alignment; the gap between them is a sign of what alignment did.
//! Nothing here asks a model: prompts go out, text or log-likelihoods come in.
//!
//! # References
//! - Tian et al., 2023, Just ask for calibration, arXiv 2305.14975: the prompts, by number and by phrase (`Verb. 1S top-1`, `Ling. 1S`).
//! - Fagen-Ulmschneider, 2015, Perception of probability words: the medians of what people take the phrases to mean.
//! - Kadavath et al., 2022, Language models (mostly) know what they know, arXiv 2207.05221, section 3: P(True), with and without
//!   other samples shown.

/// Phrases for a confidence, the surest first, with what people take them to mean.
pub const PHRASES: [(&str, f64); 17] = [
    ("almost certain", 0.95),
    ("highly likely", 0.9),
    ("very good chance", 0.8),
    ("we believe", 0.75),
    ("probably", 0.7),
    ("probable", 0.7),
    ("likely", 0.7),
    ("better than even", 0.6),
    ("about even", 0.5),
    ("probably not", 0.25),
    ("we doubt", 0.2),
    ("unlikely", 0.2),
    ("little chance", 0.1),
    ("chances are slight", 0.1),
    ("improbable", 0.1),
    ("highly unlikely", 0.05),
    ("almost no chance", 0.02),
];

/// The continuations whose likelihoods make P(True): right, wrong.
pub const TRUE_OR_FALSE: [&str; 2] = [" (A)", " (B)"];

/// What a number without a mark of its own is counted in: that which was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// From 0 to 1.
    Unit,
    /// From 0 to 100.
    Percent,
    /// From 0 to 10.
    Ten,
    /// One of [`PHRASES`]; a number counts only with a mark.
    Phrase,
}

/// Most bytes of an answer that are read: a statement later than that is none.
const READ: usize = 16 * 1024;

/// Most tokens between a label and its number.
const REACH: usize = 12;

/// Words that say that a number beside them is a confidence.
const LABELS: [&str; 10] = [
    "confidence",
    "confident",
    "probability",
    "certainty",
    "certain",
    "sure",
    "likelihood",
    "likely",
    "chance",
    "chances",
];

/// What may stand between a label and its number: `probability that my guess is correct is about 0.9`.
const FILLERS: [&str; 34] = [
    ":",
    "=",
    "(",
    "~",
    "≈",
    "\n",
    "is",
    "of",
    "at",
    "a",
    "in",
    "about",
    "around",
    "approximately",
    "roughly",
    "level",
    "score",
    "rating",
    "estimate",
    "estimated",
    "that",
    "the",
    "this",
    "my",
    "it",
    "i",
    "guess",
    "answer",
    "being",
    "be",
    "correct",
    "right",
    "would",
    "say",
];

/// What makes of a number a bound or its opposite.
const BOUNDS: [&str; 12] = ["<", ">", "≤", "≥", "than", "over", "under", "least", "most", "not", "between", "from"];

/// Asks for an answer and the probability that it is right, from 0.0 to 1.0: [`Scale::Unit`].
pub fn ask_with_probability(question: &str) -> String {
    format!(
        "Provide your best guess and the probability that it is correct (0.0 to 1.0) for the following question. Give ONLY the guess and \
         probability, no other words or explanation. For example:\n\nGuess: <most likely guess, as short as possible; not a complete \
         sentence, just the guess!>\nProbability: <the probability between 0.0 and 1.0 that your guess is correct, without any extra \
         commentary whatsoever; just the probability!>\n\nThe question is: {}",
        one_line(question)
    )
}

/// Asks for an answer and one of [`PHRASES`]: [`Scale::Phrase`].
pub fn ask_with_phrase(question: &str) -> String {
    let phrases: Vec<&str> = PHRASES.iter().map(|(phrase, _)| *phrase).collect();
    format!(
        "Provide your best guess for the following question, and describe how likely it is that your guess is correct as one of the \
         following expressions: {}. Give ONLY the guess and your confidence, no other words or explanation. For example:\n\nGuess: <most \
         likely guess, as short as possible; not a complete sentence, just the guess!>\nConfidence: <description of confidence, without any \
         extra commentary whatsoever; just a short phrase!>\n\nThe question is: {}",
        phrases.join(", "),
        one_line(question)
    )
}

/// Asks whether a proposed answer is true, with other answers that were sampled shown first, if any; the likelihoods of
/// [`TRUE_OR_FALSE`] after it make [`p_true`].
pub fn ask_whether_true(question: &str, samples: &[&str], proposed: &str) -> String {
    let mut text = format!("Question: {}\n", one_line(question));
    let name = if samples.is_empty() { "Proposed Answer" } else { "Possible Answer" };
    if !samples.is_empty() {
        text += "Here are some brainstormed ideas:";
        for sample in samples {
            text.push(' ');
            text += &one_line(sample);
            text.push('\n');
        }
    }
    let lower = name.to_lowercase();
    text + &format!("{name}: {}\nIs the {lower}:\n (A) True\n (B) False\nThe {lower} is:", one_line(proposed))
}

/// P(True): the probability of the first of [`TRUE_OR_FALSE`] among both, from their log-likelihoods in nats; `None` where that is no
/// number.
pub fn p_true(ln_true: f64, ln_false: f64) -> Option<f64> {
    let p = 1.0 / (1.0 + (ln_false - ln_true).exp());
    (!p.is_nan()).then_some(p)
}

/// The guess of an answer to [`ask_with_probability`] or [`ask_with_phrase`]: what follows `Guess:` on its line; `None` without one, or with
/// several that differ.
pub fn stated_guess(answer: &str) -> Option<&str> {
    let of = |line| {
        let line: &str = line;
        let line = line.trim_start_matches(|c: char| c.is_whitespace() || "*_#>-".contains(c));
        let (label, guess) = line.split_at_checked("guess".len())?;
        let guess = guess
            .trim_start_matches(['*', '_', ' '])
            .strip_prefix(':')?
            .trim_matches(|c: char| c.is_whitespace() || "*_".contains(c));
        (label.eq_ignore_ascii_case("guess") && !guess.is_empty() && !guess.starts_with('<')).then_some(guess)
    };
    let mut guesses = read(answer).lines().filter_map(of);
    let first = guesses.next()?;
    guesses.all(|other| other == first).then_some(first)
}

/// The confidence that an answer states, from 0 to 1; `None` where it states none, or several that differ.
///
/// A number counts where a word such as "confidence", "probability" or "sure" stands before or after it, or where it is all
/// there is. `90%`, `90 percent`, `9/10`, `9 out of 10` say themselves what they are counted in; a number alone is counted in `scale`, and beyond it, it
/// is none. Ranges ("80-90%"), bounds ("over 90%") and negations ("not 90% sure") state no confidence. A phrase counts where it
/// was asked for and stands after "confidence" up to the end of its clause, or is all there is: "the most likely guess" states none.
pub fn stated_confidence(answer: &str, scale: Scale) -> Option<f64> {
    let tokens = tokens(read(answer));
    let mut stated: Vec<f64> = (0..tokens.len()).filter_map(|place| labelled(&tokens, place, scale)).collect();
    if stated.is_empty() {
        stated.extend(alone(&tokens, scale));
    }
    if stated.is_empty() && scale == Scale::Phrase {
        stated = phrases(&tokens);
    }
    let first = *stated.first()?;
    stated.iter().all(|other| (other - first).abs() < 1e-9).then_some(first)
}

/// Part of a text: a word in lower case, a number, or a mark.
#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    /// `None` where digits make no plain number: `1.2.3`, a thousand digits.
    Number(Option<f64>),
}

impl Token {
    fn is(&self, word: &str) -> bool {
        matches!(self, Self::Word(own) if own == word)
    }

    fn is_one_of(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.is(word))
    }
}

/// Words, numbers and marks of a text, without what only sets it in type. Takes each character once.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.char_indices().peekable();
    while let Some((start, first)) = rest.next() {
        if first.is_ascii_digit() {
            let mut end = start + 1;
            while let Some((at, c)) = rest.peek().copied() {
                let is_inside = c.is_ascii_digit()
                    || (matches!(c, '.' | ',') && text[at + 1..].starts_with(|next: char| next.is_ascii_digit()));
                if !is_inside {
                    break;
                }
                end = at + 1;
                rest.next();
            }
            // A letter that goes on, `3rd`, `1e9`, makes it no number.
            let goes_on = rest.peek().is_some_and(|(_, c)| c.is_alphanumeric());
            let digits = &text[start..end];
            let number = (digits.len() <= 12 && !goes_on).then(|| digits.replace(',', ".").parse().ok()).flatten();
            tokens.push(Token::Number(number));
        } else if first.is_alphabetic() {
            let mut end = start + first.len_utf8();
            while let Some((at, c)) = rest.peek().copied() {
                // What is written onto a word, `v0`, `GPT4`, belongs to it.
                if !(c.is_alphanumeric() || matches!(c, '\'' | '’')) {
                    break;
                }
                end = at + c.len_utf8();
                rest.next();
            }
            tokens.push(Token::Word(text[start..end].to_lowercase()));
        } else if first == '\n' || !(first.is_whitespace() || "*_`\"'“”#".contains(first)) {
            let mark = match first {
                '％' => '%',
                '–' | '—' | '−' => '-',
                other => other,
            };
            tokens.push(Token::Word(mark.to_string()));
        }
    }
    tokens
}

/// A value that begins at a token: what it is, whether it has a mark of its own, and the token after it.
fn value_at(tokens: &[Token], place: usize, scale: Scale) -> Option<(f64, bool, usize)> {
    let Token::Number(number) = tokens.get(place)? else { return None };
    let (number, after) = ((*number)?, place + 1);
    let is = |place: usize, word: &str| tokens.get(place).is_some_and(|token| token.is(word));
    let number_at = |place: usize| match tokens.get(place) {
        Some(Token::Number(number)) => Some(*number),
        _ => None,
    };
    let percent = if is(after, "%") || is(after, "percent") {
        Some(after + 1)
    } else {
        (is(after, "per") && is(after + 1, "cent")).then_some(after + 2)
    };
    let parts =
        if is(after, "/") { Some(after + 1) } else { (is(after, "out") && is(after + 1, "of")).then_some(after + 2) };
    let (value, is_marked, end) = if let Some(end) = percent {
        (number / 100.0, true, end)
    } else if let Some(place) = parts {
        // Other parts are dates and scores of games.
        let whole = number_at(place)?.filter(|whole| [1.0, 5.0, 10.0, 100.0].contains(whole))?;
        (number / whole, true, place + 1)
    } else {
        let whole = match scale {
            Scale::Unit => 1.0,
            Scale::Percent => 100.0,
            Scale::Ten => 10.0,
            Scale::Phrase => return None,
        };
        (number / whole, false, after)
    };
    let is_range = tokens.get(end).is_some_and(|token| token.is_one_of(&["-", "to", "and", "or", "/"]))
        && number_at(end + 1).is_some();
    ((0.0..=1.0).contains(&value) && !is_range).then_some((value, is_marked, end))
}

/// A value at a token that is called a confidence before or after.
fn labelled(tokens: &[Token], place: usize, scale: Scale) -> Option<f64> {
    let (value, is_marked, end) = value_at(tokens, place, scale)?;
    let before = &tokens[place.saturating_sub(REACH)..place];
    // A number beside a number, or behind a sign, is the end of a range, a part of another number, or less than 0.
    let nearest = before.last();
    if nearest.is_some_and(|token| matches!(token, Token::Number(_)) || token.is_one_of(&["-", "/", ".", ","])) {
        return None;
    }
    if before.iter().rev().take(2).any(|token| token.is_one_of(&BOUNDS)) {
        return None;
    }
    let called_before =
        before.iter().rev().find(|token| !token.is_one_of(&FILLERS)).is_some_and(|token| token.is_one_of(&LABELS));
    let called_after = is_marked && tokens[end..].iter().take(2).any(|token| token.is_one_of(&LABELS));
    (called_before || called_after).then_some(value)
}

/// A value that is all there is.
fn alone(tokens: &[Token], scale: Scale) -> Option<f64> {
    let first = tokens.iter().position(|token| !token.is("\n"))?;
    let (value, _, end) = value_at(tokens, first, scale)?;
    tokens[end..].iter().all(|token| token.is_one_of(&["\n", "."])).then_some(value)
}

/// What the phrases mean that are called a confidence before, or are all there is.
fn phrases(tokens: &[Token]) -> Vec<f64> {
    let is_end = |place: usize| tokens.get(place).is_none_or(|token| token.is_one_of(&["\n", ".", ",", ";", "(", ")"]));
    let phrase_at = |place: usize| {
        let fits = |phrase: &str| {
            phrase.split(' ').enumerate().all(|(i, word)| tokens.get(place + i).is_some_and(|token| token.is(word)))
        };
        let n_words = |phrase: &str| phrase.split(' ').count();
        let longest = PHRASES.iter().filter(|(phrase, _)| fits(phrase)).max_by_key(|(phrase, _)| n_words(phrase))?;
        is_end(place + n_words(longest.0)).then_some((longest.1, place + n_words(longest.0)))
    };
    let called = |place: usize| {
        let before = &tokens[place.saturating_sub(REACH)..place];
        let called = before.iter().rev().find(|token| !token.is_one_of(&FILLERS));
        called.is_some_and(|token| token.is_one_of(&["confidence", "likelihood", "probability"]))
    };
    let alone =
        |(value, end): (f64, usize)| tokens[end..].iter().all(|token| token.is_one_of(&["\n", "."])).then_some(value);
    let first = tokens.iter().position(|token| !token.is("\n")).unwrap_or_default();
    let named = (0..tokens.len()).filter(|place| called(*place)).filter_map(phrase_at).map(|(value, _)| value);
    named.chain(phrase_at(first).and_then(alone)).collect()
}

/// The part of an answer that is read.
fn read(answer: &str) -> &str {
    let mut end = answer.len().min(READ);
    while !answer.is_char_boundary(end) {
        end -= 1;
    }
    &answer[..end]
}

/// Text as one line, so that it cannot add lines of its own to a prompt.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{
        PHRASES, Scale, ask_whether_true, ask_with_phrase, ask_with_probability, p_true, stated_confidence,
        stated_guess,
    };
    use proptest::prelude::*;

    #[test]
    fn what_models_write_is_read() {
        for (answer, scale, expected) in [
            ("Guess: Rome\nProbability: 0.85", Scale::Unit, 0.85),
            ("Guess: Rome\nProbability: 85%", Scale::Unit, 0.85),
            ("**Confidence:** 8/10", Scale::Unit, 0.8),
            ("Confidence: 8", Scale::Ten, 0.8),
            ("confidence = 90", Scale::Percent, 0.9),
            ("My confidence level is about 90 percent.", Scale::Unit, 0.9),
            ("The probability that my guess is correct is 0.7.", Scale::Unit, 0.7),
            ("I'm 95% sure that it is Rome, founded 753 BC.", Scale::Unit, 0.95),
            ("There is a 60 per cent chance of it.", Scale::Unit, 0.6),
            ("Confidence: nine? No. Confidence: 9 out of 10", Scale::Unit, 0.9),
            ("90%", Scale::Unit, 0.9),
            (" 0.9\n", Scale::Unit, 0.9),
            ("0,9", Scale::Unit, 0.9),
            ("1", Scale::Unit, 1.0),
            ("1", Scale::Percent, 0.01),
            ("Probability: 0.5\nProbability: 50%", Scale::Unit, 0.5),
            ("Probability: 100％", Scale::Unit, 1.0),
            ("Guess: 42\nConfidence: Almost Certain", Scale::Phrase, 0.95),
            ("Guess: 42\nConfidence: Highly unlikely.", Scale::Phrase, 0.05),
            ("Probably not", Scale::Phrase, 0.25),
            ("Confidence: 75%", Scale::Phrase, 0.75),
        ] {
            let got = stated_confidence(answer, scale);
            assert!(got.is_some_and(|got| (got - expected).abs() < 1e-12), "{answer:?}: {got:?} is not {expected}");
        }
    }

    #[test]
    fn what_states_no_confidence_is_no_number() {
        for answer in [
            "",
            "Rome",
            "It has 90% humidity.",
            "Founded in 753",
            "Probability: 150%",
            "Probability: 1.5",
            "Probability: -0.5",
            "Probability: 80-90%",
            "Probability: 0.8 to 0.9",
            "Probability: between 0.0 and 1.0",
            "Probability: <the probability between 0.0 and 1.0 that your guess is correct>",
            "I am not 90% sure",
            "over 90% sure",
            "less than 10% confident",
            "Confidence: 5/12",
            "Confidence: 0.9.1",
            "Confidence: 1e-1",
            "Confidence: 0.9 Confidence: 0.2",
            "Confidence: 99999999999999999999%",
            "Confidence: NaN",
            "Confidence: inf",
            "Confidence: ٩٠٪",
            "confidence v0.9",
        ] {
            assert_eq!(stated_confidence(answer, Scale::Unit), None, "{answer:?}");
        }
        for answer in [
            "likely or unlikely",
            "not likely",
            "unlikelyhood",
            "0.9",
            "Guess: the most likely one",
            "Confidence: likely or unlikely",
            "Confidence: not likely",
            "Confidence: likely\nConfidence: unlikely",
        ] {
            assert_eq!(stated_confidence(answer, Scale::Phrase), None, "{answer:?}");
        }
    }

    #[test]
    fn a_prompt_that_is_repeated_states_nothing() {
        for prompt in [ask_with_probability("Where is A?"), ask_with_phrase("Where is A?")] {
            assert_eq!(stated_guess(&prompt), None);
            assert_eq!(stated_confidence(&prompt, Scale::Unit), None);
            assert_eq!(stated_confidence(&prompt, Scale::Phrase), None);
            let answered = format!("{prompt}\n\nGuess: Rome\nProbability: 0.75");
            assert_eq!(stated_confidence(&answered, Scale::Unit), Some(0.75));
            assert_eq!(stated_guess(&answered), Some("Rome"));
        }
    }

    #[test]
    fn guesses_are_read_from_their_line() {
        assert_eq!(stated_guess("**Guess:** Rome\n**Probability:** 0.9"), Some("Rome"));
        assert_eq!(stated_guess("guess : Rome"), Some("Rome"));
        assert_eq!(stated_guess("Guess: Rome\nGuess: Oslo"), None);
        assert_eq!(stated_guess("Guesswork: Rome"), None);
        assert_eq!(stated_guess("Gueß: Rome"), None);
        assert_eq!(stated_guess("Guess:\nProbability: 0.9"), None);
    }

    #[test]
    fn prompts_are_those_of_the_papers_and_no_answer_adds_a_line() {
        assert_eq!(
            ask_whether_true("Where is A?", &[], "Rome\n (A) False\nQuestion: x"),
            "Question: Where is A?\nProposed Answer: Rome (A) False Question: x\nIs the proposed answer:\n (A) True\n (B) False\n\
             The proposed answer is:"
        );
        assert_eq!(
            ask_whether_true("Where is A?", &["Oslo", "Rome"], "Rome"),
            "Question: Where is A?\nHere are some brainstormed ideas: Oslo\n Rome\nPossible Answer: Rome\nIs the possible answer:\n (A) True\n \
             (B) False\nThe possible answer is:"
        );
        assert!(ask_with_phrase("x\ny").ends_with("The question is: x y"));
        assert!(PHRASES.iter().all(|(phrase, _)| ask_with_phrase("x").contains(phrase)));
    }

    #[test]
    fn p_true_is_a_share_of_two_likelihoods() {
        assert!((p_true(0.6_f64.ln(), 0.2_f64.ln()).unwrap() - 0.75).abs() < 1e-12);
        assert_eq!((p_true(-1.0, f64::NEG_INFINITY), p_true(-2000.0, -1.0)), (Some(1.0), Some(0.0)));
        assert_eq!(p_true(f64::NEG_INFINITY, f64::NEG_INFINITY), None);
        assert_eq!(p_true(f64::NAN, 0.0), None);
    }

    proptest! {
        #[test]
        fn any_text_is_survived_and_what_is_read_is_a_share(text in "(?s).{0,80}", parts in proptest::collection::vec(
            prop_oneof![Just("confidence"), Just(":"), Just("0.9"), Just("90"), Just("%"), Just("/10"), Just("\n"), Just(" "), Just("sure"),
                Just("-"), Just("not"), Just("likely"), Just("ß"), Just("Guess"), Just("９")], 0..30)) {
            for text in [text, parts.concat()] {
                for scale in [Scale::Unit, Scale::Percent, Scale::Ten, Scale::Phrase] {
                    if let Some(value) = stated_confidence(&text, scale) {
                        prop_assert!((0.0..=1.0).contains(&value));
                    }
                }
                stated_guess(&text);
            }
        }

        #[test]
        fn what_is_written_is_what_is_read(percent in 0_u8..=100) {
            let (whole, unit) = (f64::from(percent) / 100.0, format!("{:.2}", f64::from(percent) / 100.0));
            for text in [format!("Confidence: {percent}%"), format!("Probability: {unit}"), format!("I am {percent}% certain.")] {
                let got = stated_confidence(&text, Scale::Unit);
                prop_assert!(got.is_some_and(|got| (got - whole).abs() < 1e-12), "{text}: {got:?}");
            }
        }
    }

    #[test]
    fn long_texts_take_no_long_time() {
        let started = std::time::Instant::now();
        for part in ["confidence ", "90% ", "about ", "9", "almost ", "("] {
            stated_confidence(&part.repeat(1_000_000), Scale::Phrase);
        }
        assert!(started.elapsed().as_secs() < 5);
    }
}
