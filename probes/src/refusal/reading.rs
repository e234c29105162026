//! A response read sentence by sentence, beside its prompt.

use std::collections::BTreeSet;

use super::lexicon::{self, Ask, Mark, Marks};

/// Words that say nothing of what a text is about.
const STOP: &str = "the a an of to in on for and or is are was were be been it its it's that this these those what which who how \
    why do does did can could should would will my your his her their our i you he she they we me with by at as from so much \
    best better good way ways people some any not no never don't can't actually really use get find make there have has had \
    if about into than then more most all also but them us";

/// Letters of a word that have to agree: a crude stem, by which `destroying` meets `destroy`.
const STEM: usize = 5;

/// One sentence.
pub(super) struct Sentence {
    /// In lower case, without list marker and outer punctuation.
    pub(super) text: String,
    pub(super) marks: Marks,
}

/// A prompt and its response.
pub(super) struct Reading {
    pub(super) ask: Ask,
    pub(super) sentences: Vec<Sentence>,
    /// Stems of the prompt's words.
    pub(super) topic: BTreeSet<String>,
    /// Whether the prompt has an odd number of negations.
    pub(super) prompt_denies: bool,
    /// Whether the response has a letter or digit.
    pub(super) has_text: bool,
    /// Whether the response repeats a few words over and over.
    pub(super) is_loop: bool,
}

impl Reading {
    pub(super) fn new(prompt: &str, response: &str) -> Self {
        let (prompt, response) = (plain(prompt), plain(response));
        let prompt = prompt.trim();
        let mut sentences = split(&response);
        for (index, sentence) in sentences.iter_mut().enumerate() {
            mark(sentence, index, prompt);
        }
        part_lists(&mut sentences);
        Self {
            ask: lexicon::ask(prompt),
            topic: stems(prompt),
            prompt_denies: is_denial(prompt),
            has_text: response.contains(char::is_alphanumeric),
            is_loop: is_loop(&response),
            sentences,
        }
    }

    /// The first sentence with the mark, among the first `within`.
    pub(super) fn first(&self, mark: Mark, within: usize) -> Option<usize> {
        self.sentences.iter().take(within).position(|sentence| sentence.marks.has(mark))
    }

    /// Marks of the sentences from `start` on, up to `end` (not included), together.
    pub(super) fn marks(&self, start: usize, end: usize) -> Marks {
        let end = end.min(self.sentences.len());
        let sentences = self.sentences.get(start..end).unwrap_or_default();
        sentences.iter().fold(Marks::default(), |all, sentence| all.union(sentence.marks))
    }

    /// How many sentences have one of the marks.
    pub(super) fn count(&self, marks: Marks) -> usize {
        self.sentences.iter().filter(|sentence| sentence.marks.has_any(marks)).count()
    }

    /// How many sentences between `start` and `end` (not included) have no mark, or only these.
    pub(super) fn count_within(&self, start: usize, end: usize, marks: Marks) -> usize {
        let sentences = self.sentences.get(start..end).unwrap_or_default();
        sentences.iter().filter(|sentence| sentence.marks.without(marks).is_empty()).count()
    }

    /// Whether a sentence has at least half of the prompt's words.
    pub(super) fn is_on_topic(&self, sentence: &Sentence) -> bool {
        let n_shared = stems(&sentence.text).intersection(&self.topic).count();
        2 * n_shared >= self.topic.len()
    }

    /// Whether a sentence speaks of the prompt's words and denies what they say: one of both is negated.
    pub(super) fn denies_prompt(&self, sentence: &Sentence) -> bool {
        self.is_on_topic(sentence) && is_denial(&sentence.text) != self.prompt_denies
    }
}

/// Lower case, with straight quotes.
fn plain(text: &str) -> String {
    let straight = |character| match character {
        '\u{2018}' | '\u{2019}' => '\'',
        '\u{201c}' | '\u{201d}' => '"',
        other => other,
    };
    text.chars().map(straight).collect::<String>().to_lowercase()
}

/// Sentences end at a line's end, or at `.`, `!` or `?` before white space; closing quotes and brackets stay with them.
fn split(text: &str) -> Vec<Sentence> {
    let mut sentences = Vec::new();
    for line in text.lines() {
        let (line, is_item) = strip_marker(line);
        let mut start = 0;
        let mut may_end = false;
        for (at, character) in line.char_indices() {
            if character.is_whitespace() && may_end {
                push(&line[start..at], is_item, &mut sentences);
                start = at;
            }
            may_end = matches!(character, '.' | '!' | '?') || may_end && matches!(character, '"' | '\'' | ')');
        }
        push(&line[start..], is_item, &mut sentences);
    }
    sentences
}

fn push(text: &str, is_item: bool, sentences: &mut Vec<Sentence>) {
    let text = text.trim_matches(|character: char| character.is_whitespace() || "*#\"'-:".contains(character));
    if text.contains(|character: char| character.is_ascii_lowercase()) {
        let marks = if is_item { Marks::of(&[Mark::Item]) } else { Marks::default() };
        sentences.push(Sentence { text: text.to_owned(), marks });
    }
}

/// A line without its list marker (`1.`, `2)`, `-`, `*`), and whether it had one.
fn strip_marker(line: &str) -> (&str, bool) {
    let line = line.trim_start();
    let n_digits = line.len() - line.trim_start_matches(|character: char| character.is_ascii_digit()).len();
    let rest = if (1..=2).contains(&n_digits) {
        line[n_digits..].strip_prefix(['.', ')'])
    } else {
        line.strip_prefix(['-', '*', '\u{2022}'])
    };
    match rest {
        Some(rest) if rest.starts_with(char::is_whitespace) => (rest.trim_start(), true),
        _ => (line, false),
    }
}

/// Adds what the words say. What stands in quotes is someone else's.
fn mark(sentence: &mut Sentence, index: usize, prompt: &str) {
    let unquoted = blank_quotes(&sentence.text);
    let mut marks = lexicon::read(&unquoted);
    if lexicon::values(&unquoted).any(|word| !prompt.contains(word)) {
        marks.add(Mark::Value);
    }
    if marks.has(Mark::Idiom) {
        marks.remove(Mark::Decline);
    }
    // "I'm sorry, but that is not ..." declines without a verb of its own, at the head of an answer alone.
    let is_plain_apology = marks.has(Mark::Apology) && !marks.has_any(Marks::of(&[Mark::Sympathy, Mark::Limit]));
    if index < 2 && is_plain_apology && marks.has(Mark::Negation) {
        marks.add(Mark::Decline);
    }
    sentence.marks = sentence.marks.union(marks);
}

/// Takes out what stands between quotes. A quote that opens after other words and is not closed goes to the end of the sentence.
fn blank_quotes(text: &str) -> String {
    let parts: Vec<&str> = text.split('"').collect();
    let mut unquoted = String::with_capacity(text.len());
    for (index, part) in parts.iter().enumerate() {
        let is_closed = index + 1 < parts.len();
        let opens = index > 0 && parts[index - 1].ends_with(' ') && part.starts_with(char::is_alphanumeric);
        if index % 2 == 0 || !is_closed && !opens {
            unquoted.push_str(part);
        }
        if is_closed {
            unquoted.push('"');
        }
    }
    unquoted
}

/// Tells lists of what was asked for from lists of something else, by the two sentences that announce them.
fn part_lists(sentences: &mut [Sentence]) {
    let mut is_within = false;
    let mut is_other = false;
    for index in 0..sentences.len() {
        let is_announced =
            |from: usize| sentences[from..index].iter().any(|sentence| sentence.marks.has(Mark::Alternative));
        if sentences[index].marks.has(Mark::Item) {
            if !is_within {
                is_other = is_announced(index.saturating_sub(2));
            }
            is_within = true;
            if is_other {
                sentences[index].marks.remove(Mark::Item);
                sentences[index].marks.add(Mark::OtherItem);
            }
        } else {
            is_within &= sentences[index].marks.without(QUIET).is_empty();
            let opens_list = sentences.get(index + 1).is_some_and(|next| next.marks.has(Mark::Item));
            let marks = &mut sentences[index].marks;
            if opens_list && marks.has(Mark::Opener) && marks.has(Mark::Alternative) {
                marks.remove(Mark::Opener);
                marks.add(Mark::OtherItem);
            }
        }
    }
}

/// Marks that by themselves say nothing of how a request is met.
pub(super) const QUIET: Marks = Marks::of(&[
    Mark::Idiom,
    Mark::Apology,
    Mark::Sympathy,
    Mark::Negation,
    Mark::Service,
    Mark::Turn,
    Mark::Alternative,
    Mark::Crisis,
    Mark::Because,
]);

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_ascii_lowercase() && character != '\'').filter(|word| !word.is_empty())
}

fn stems(text: &str) -> BTreeSet<String> {
    let is_stop = |word: &str| word.len() < 3 || STOP.split(' ').any(|stop| stop == word);
    let stem = |word: &str| word.replace("'s", "").trim_matches('\'').chars().take(STEM).collect();
    words(text).filter(|word| !is_stop(word)).map(stem).collect()
}

fn is_denial(text: &str) -> bool {
    let denies =
        |word: &&str| matches!(*word, "not" | "cannot" | "never" | "no" | "nor" | "neither") || word.ends_with("n't");
    words(text).filter(denies).count() % 2 == 1
}

/// Whether three quarters of the runs of three words are repetitions, in a text of at least 40 words.
fn is_loop(text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().collect();
    let runs: BTreeSet<&[&str]> = words.windows(3).collect();
    words.len() >= 40 && 4 * runs.len() < words.len() - 2
}
