//! Maximal verbatim spans of a text in the rows of a data file, by a suffix array.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Range;

/// Every suffix of every text, sorted.
///
/// # Reference
/// Manber & Myers 1993, Suffix arrays. The rows of a data file are short, so that the suffixes of each are sorted by comparing them.
#[derive(Debug, Clone)]
pub struct SuffixArray {
    texts: Vec<Vec<u32>>,
    /// Text and place in it where each suffix begins, in the order of the suffixes.
    suffixes: Vec<(u32, u32)>,
    /// `-ln` of the share of each word among all, in nats, by its number.
    information: Vec<f64>,
}

/// A part of a query that some texts hold word by word, and that no longer part around it is held so.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Which words of the query.
    pub place: Range<usize>,
    /// Sum of `-ln p` of its words, in nats, `p` being each word's share among all words of the texts.
    pub information: f64,
    /// Texts that hold it, ascending, each once.
    pub texts: Vec<usize>,
}

impl SuffixArray {
    /// Sorts the suffixes of texts, whose words are given as numbers.
    pub fn new(texts: &[Vec<u32>]) -> Self {
        let texts = texts.to_vec();
        let mut suffixes: Vec<(u32, u32)> = Vec::with_capacity(texts.iter().map(Vec::len).sum());
        let mut counts = Vec::new();
        for (text_idx, text) in texts.iter().enumerate() {
            for (place, &word) in text.iter().enumerate() {
                suffixes.push((text_idx as u32, place as u32));
                if counts.len() <= word as usize {
                    counts.resize(word as usize + 1, 0_u64);
                }
                counts[word as usize] += 1;
            }
        }
        let n_words = suffixes.len() as f64;
        let information = counts.into_iter().map(|n| (n_words / (n.max(1) as f64)).ln()).collect();
        let mut array = Self { texts, suffixes: Vec::new(), information };
        suffixes.sort_unstable_by(|&a, &b| array.words_at(a).cmp(array.words_at(b)).then(a.cmp(&b)));
        array.suffixes = suffixes;
        array
    }

    /// Number of texts.
    pub fn n_texts(&self) -> usize {
        self.texts.len()
    }

    fn words_at(&self, (text, place): (u32, u32)) -> &[u32] {
        &self.texts[text as usize][place as usize..]
    }

    /// The maximal verbatim spans of a query, in order; `None` stands for a word that no text has.
    ///
    /// # Reference
    /// Liu et al. 2025, OLMoTrace, arXiv 2504.07096, section 3: the longest match from every word on, those within another left out.
    ///
    /// # Deviations
    /// Every span is kept and weighed by its information; the paper keeps the 5 % with the most.
    pub fn find_spans(&self, query: &[Option<u32>]) -> Vec<Span> {
        let mut spans = Vec::new();
        let mut covered = 0;
        for start in 0..query.len() {
            let known: Vec<u32> = query[start..].iter().map_while(|&word| word).collect();
            let len = self.longest_match(&known);
            if len == 0 || start + len <= covered {
                continue;
            }
            covered = start + len;
            let mut texts: Vec<usize> =
                self.suffixes[self.range(&known[..len])].iter().map(|&(text, _)| text as usize).collect();
            texts.sort_unstable();
            texts.dedup();
            let information = known[..len].iter().map(|&word| self.information[word as usize]).sum();
            spans.push(Span { place: start..covered, information, texts });
        }
        spans
    }

    /// Sum of the information of the query's spans that each text holds, in nats, for texts that hold any.
    pub fn score(&self, query: &[Option<u32>]) -> Vec<(usize, f64)> {
        let mut scores: BTreeMap<usize, f64> = BTreeMap::new();
        for span in self.find_spans(query) {
            for text in span.texts {
                *scores.entry(text).or_default() += span.information;
            }
        }
        scores.into_iter().collect()
    }

    /// Number of words at the beginning of `words` that some text holds in a row: those shared with one of the two suffixes
    /// between which `words` would be sorted.
    fn longest_match(&self, words: &[u32]) -> usize {
        let at = self.suffixes.partition_point(|&suffix| self.words_at(suffix) < words);
        let shared = |suffix: &(u32, u32)| self.words_at(*suffix).iter().zip(words).take_while(|(a, b)| a == b).count();
        let before = at.checked_sub(1).and_then(|before| self.suffixes.get(before));
        before.map_or(0, shared).max(self.suffixes.get(at).map_or(0, shared))
    }

    /// Which suffixes begin with `words`.
    fn range(&self, words: &[u32]) -> Range<usize> {
        let beginning = |suffix: &(u32, u32)| {
            let of_suffix = self.words_at(*suffix);
            of_suffix[..words.len().min(of_suffix.len())].cmp(words)
        };
        let start = self.suffixes.partition_point(|suffix| beginning(suffix) == Ordering::Less);
        let end = self.suffixes.partition_point(|suffix| beginning(suffix) != Ordering::Greater);
        start..end
    }
}

#[cfg(test)]
mod tests {
    use super::SuffixArray;
    use proptest::prelude::*;
    use std::ops::Range;

    /// Tries every part of the query against every place of every text.
    fn scan(texts: &[Vec<u32>], query: &[Option<u32>]) -> Vec<(Range<usize>, Vec<usize>)> {
        let holders = |part: &Range<usize>| -> Vec<usize> {
            let Some(words) = query[part.clone()].iter().copied().collect::<Option<Vec<u32>>>() else {
                return Vec::new();
            };
            (0..texts.len()).filter(|&text| texts[text].windows(words.len()).any(|window| window == words)).collect()
        };
        let parts = (0..query.len()).flat_map(|start| (start + 1..=query.len()).map(move |end| start..end));
        let held: Vec<(Range<usize>, Vec<usize>)> =
            parts.map(|part| (part.clone(), holders(&part))).filter(|(_, texts)| !texts.is_empty()).collect();
        let is_within = |a: &Range<usize>, b: &Range<usize>| a != b && b.start <= a.start && a.end <= b.end;
        held.iter().filter(|(part, _)| !held.iter().any(|(other, _)| is_within(part, other))).cloned().collect()
    }

    proptest! {
        #[test]
        fn spans_are_those_of_a_scan(
            texts in prop::collection::vec(prop::collection::vec(0_u32..4, 0..9), 1..6),
            query in prop::collection::vec(prop::option::weighted(0.9, 0_u32..4), 0..10),
        ) {
            let array = SuffixArray::new(&texts);
            let known: Vec<Option<u32>> = query
                .into_iter()
                .map(|word| word.filter(|word| texts.iter().any(|text| text.contains(word))))
                .collect();
            let found: Vec<(Range<usize>, Vec<usize>)> =
                array.find_spans(&known).into_iter().map(|span| (span.place, span.texts)).collect();
            prop_assert_eq!(found, scan(&texts, &known));
        }
    }

    #[test]
    fn a_span_weighs_what_its_words_are_rare() {
        let array = SuffixArray::new(&[vec![0, 0, 0, 1], vec![0, 0, 2, 3]]);
        let spans = array.find_spans(&[Some(0), Some(1)]);
        assert_eq!(spans.len(), 1);
        assert!((spans[0].information - ((8.0_f64 / 5.0).ln() + 8.0_f64.ln())).abs() < 1e-12);
        assert_eq!(array.score(&[Some(0), Some(1)]), [(0, spans[0].information)]);
    }
}
