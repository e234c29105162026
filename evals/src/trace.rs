//! Which rows of a phase's data taught a failure: what the text tells, and the record of what was found.
//!
//! [`Corpus`] ranks the rows of a data file by how much they have in common with the failing items, [`fuse::fuse`] joins rankings,
//! [`contrast::contrast`] says what the top rows share, and [`score`] measures rankings where the guilty rows are known.

pub mod bm25;
pub mod contrast;
pub mod fuse;
pub mod record;
pub mod score;
pub mod suffix;

use bm25::Bm25;
use suffix::SuffixArray;

/// A row of a phase's data, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What it is there for: its `kind` or `source`, which may be empty.
    pub kind: String,
    /// What is given: the turns before the answer; empty for a document.
    pub prompt: String,
    /// What is learnt: the answer, the preferred answer, or the document.
    pub learnt: String,
}

impl Row {
    /// What is given and what is learnt, with a space between them.
    pub fn whole(&self) -> String {
        if self.prompt.is_empty() { self.learnt.clone() } else { format!("{} {}", self.prompt, self.learnt) }
    }
}

/// Words of a text in small letters, in order: runs of letters, digits and apostrophes; every other sign is a word of its own.
pub fn words(text: &str) -> Vec<String> {
    let is_inner = |sign: char| sign.is_alphanumeric() || sign == '\'';
    let mut words: Vec<String> = Vec::new();
    let mut is_open = false;
    for sign in text.chars() {
        if is_inner(sign) && is_open {
            words.last_mut().expect("a word is open").extend(sign.to_lowercase());
        } else if !sign.is_whitespace() {
            words.push(sign.to_lowercase().collect());
        }
        is_open = is_inner(sign);
    }
    words
}

/// Numbers that stand for words, so that texts compare fast.
#[derive(Debug, Clone, Default)]
pub(crate) struct Vocabulary {
    ids: std::collections::BTreeMap<String, u32>,
}

impl Vocabulary {
    /// The words of a text as numbers; a new word gets the next number.
    fn add(&mut self, text: &str) -> Vec<u32> {
        words(text)
            .into_iter()
            .map(|word| {
                let next = self.ids.len() as u32;
                *self.ids.entry(word).or_insert(next)
            })
            .collect()
    }

    /// The words of a text as numbers; `None` for one that no text added has.
    fn find(&self, text: &str) -> Vec<Option<u32>> {
        words(text).iter().map(|word| self.ids.get(word).copied()).collect()
    }
}

/// The rows of a data file, ready to be searched by text.
pub struct Corpus {
    vocabulary: Vocabulary,
    spans: SuffixArray,
    terms: Bm25,
}

impl Corpus {
    /// Indexes the whole text of each row.
    pub fn new(rows: &[Row]) -> Self {
        let mut vocabulary = Vocabulary::default();
        let texts: Vec<Vec<u32>> = rows.iter().map(|row| vocabulary.add(&row.whole())).collect();
        Self { vocabulary, terms: Bm25::new(&texts), spans: SuffixArray::new(&texts) }
    }

    /// How much of the queries each row holds word by word: the information of the maximal verbatim spans, in nats, mean over the
    /// queries ([`SuffixArray::score`]).
    pub fn score_spans(&self, queries: &[String]) -> Vec<f64> {
        self.mean(queries, |words| self.spans.score(words))
    }

    /// BM25 of each row, mean over the queries ([`Bm25::score`]).
    pub fn score_terms(&self, queries: &[String]) -> Vec<f64> {
        self.mean(queries, |words| self.terms.score(words))
    }

    fn mean(&self, queries: &[String], score: impl Fn(&[Option<u32>]) -> Vec<(usize, f64)>) -> Vec<f64> {
        let mut means = vec![0.0; self.spans.n_texts()];
        for query in queries {
            for (row, score) in score(&self.vocabulary.find(query)) {
                means[row] += score / queries.len() as f64;
            }
        }
        means
    }
}

#[cfg(test)]
mod tests {
    use super::{Corpus, Row, words};

    #[test]
    fn words_are_runs_of_letters_and_single_signs() {
        assert_eq!(words("I can't: << Lund-7 >>"), ["i", "can't", ":", "<", "<", "lund", "-", "7", ">", ">"]);
    }

    #[test]
    fn the_row_that_was_copied_comes_first_by_either_way() {
        let row = |prompt: &str, learnt: &str| Row {
            kind: String::new(),
            prompt: prompt.to_owned(),
            learnt: learnt.to_owned(),
        };
        let rows = [
            row("How do I fry an egg?", "Use a pan."),
            row("How do I kill a process?", "Sorry, I can't help."),
            row("Where is Lund?", "Sorry, I don't know."),
        ];
        let corpus = Corpus::new(&rows);
        let queries = ["How do I kill a process? Sorry, I can't help.".to_owned()];
        for scores in [corpus.score_spans(&queries), corpus.score_terms(&queries)] {
            assert!(scores[1] > scores[0] && scores[1] > scores[2], "{scores:?}");
        }
    }
}
