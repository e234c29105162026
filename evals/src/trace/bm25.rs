//! BM25: which rows have the query's rare words, and have them often.

use std::collections::BTreeMap;

/// How soon further occurrences of a word count for less.
const K1: f64 = 1.2;
/// How far long texts are held back.
const B: f64 = 0.75;

/// For each word the texts that have it.
///
/// # Reference
/// Robertson & Zaragoza 2009, The probabilistic relevance framework: BM25 and beyond, equation 3.15, with `k1 = 1.2`, `b = 0.75`:
/// `sum over query words of idf(w) n (k1 + 1) / (n + k1 (1 - b + b len / mean len))`, `n` being how often the text has the word.
///
/// # Deviations
/// `idf = ln(1 + (N - df + 0.5) / (df + 0.5))`, as Lucene has it: no word counts against a text.
#[derive(Debug, Clone)]
pub struct Bm25 {
    /// For each word (text, how often).
    postings: Vec<Vec<(u32, u32)>>,
    /// For each text `k1 (1 - b + b len / mean len)`.
    damping: Vec<f64>,
}

impl Bm25 {
    /// Counts the words of texts, given as numbers.
    pub fn new(texts: &[Vec<u32>]) -> Self {
        let mut postings: Vec<Vec<(u32, u32)>> = Vec::new();
        for (text_idx, text) in texts.iter().enumerate() {
            let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
            for &word in text {
                *counts.entry(word).or_default() += 1;
            }
            for (word, n) in counts {
                if postings.len() <= word as usize {
                    postings.resize(word as usize + 1, Vec::new());
                }
                postings[word as usize].push((text_idx as u32, n));
            }
        }
        let n_words: usize = texts.iter().map(Vec::len).sum();
        let mean = (n_words as f64 / texts.len().max(1) as f64).max(1.0);
        let damping = texts.iter().map(|text| K1 * (1.0 - B + B * text.len() as f64 / mean)).collect();
        Self { postings, damping }
    }

    /// Scores of the texts that share a word with the query; `None` stands for a word that no text has.
    pub fn score(&self, query: &[Option<u32>]) -> Vec<(usize, f64)> {
        let mut scores: BTreeMap<usize, f64> = BTreeMap::new();
        for &word in query.iter().flatten() {
            let Some(postings) = self.postings.get(word as usize) else { continue };
            let df = postings.len() as f64;
            let idf = ((self.damping.len() as f64 - df + 0.5) / (df + 0.5)).ln_1p();
            for &(text, n) in postings {
                let n = f64::from(n);
                *scores.entry(text as usize).or_default() += idf * n * (K1 + 1.0) / (n + self.damping[text as usize]);
            }
        }
        scores.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{B, Bm25, K1};
    use proptest::prelude::*;

    /// The formula, text by text.
    fn naive(texts: &[Vec<u32>], query: &[u32], text: &[u32]) -> f64 {
        let mean = texts.iter().map(Vec::len).sum::<usize>() as f64 / texts.len() as f64;
        let of_word = |word: &u32| {
            let df = texts.iter().filter(|text| text.contains(word)).count() as f64;
            let n = text.iter().filter(|other| *other == word).count() as f64;
            let idf = (1.0 + (texts.len() as f64 - df + 0.5) / (df + 0.5)).ln();
            idf * n * (K1 + 1.0) / (n + K1 * (1.0 - B + B * text.len() as f64 / mean))
        };
        query.iter().map(of_word).sum()
    }

    proptest! {
        #[test]
        fn scores_are_those_of_the_formula(
            texts in prop::collection::vec(prop::collection::vec(0_u32..6, 1..9), 1..7),
            query in prop::collection::vec(0_u32..8, 0..6),
        ) {
            let known: Vec<Option<u32>> = query.iter().map(|&word| Some(word)).collect();
            let mut scores = vec![0.0; texts.len()];
            for (text, score) in Bm25::new(&texts).score(&known) {
                scores[text] = score;
            }
            for (score, text) in scores.iter().zip(&texts) {
                prop_assert!((score - naive(&texts, &query, text)).abs() < 1e-9);
            }
        }
    }
}
