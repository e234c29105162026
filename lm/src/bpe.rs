//! Byte-pair training whose result depends on nothing but the words and their counts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Two neighbouring symbols.
type Pair = (u32, u32);

/// Learns the merges that shorten `words` most: the most frequent pair first, of equals the one with the lower symbol ids.
///
/// `symbols` holds the texts known beforehand and grows, up to `vocab_size`, by one text per merge that makes a new one. A word
/// is a string of known one-character symbols with its count; characters that are not known separate.
///
/// The trainer of the `tokenizers` crate walks hash tables with a random seed, and where two ways of merging make one text its
/// queue holds a pair twice, so that equal corpora need not give equal merges. Where it does not come to that both agree.
///
/// # Reference
/// Sennrich et al. 2016, Neural Machine Translation of Rare Words with Subword Units, arXiv 1508.07909, algorithm 1.
pub(crate) fn learn_merges(
    words: &BTreeMap<String, u64>,
    symbols: &mut Vec<String>,
    vocab_size: usize,
) -> Vec<(String, String)> {
    let mut ids: BTreeMap<String, u32> = symbols.iter().cloned().zip(0..).collect();
    let mut words: Vec<(Vec<u32>, u64)> = words
        .iter()
        .map(|(word, &count)| (word.chars().filter_map(|c| ids.get(c.to_string().as_str()).copied()).collect(), count))
        .collect();
    let mut pairs = Pairs::default();
    for (word_idx, (word, count)) in words.iter().enumerate() {
        pairs.add(word_idx, word, *count);
    }
    pairs.settle();
    let mut merges = Vec::new();
    while symbols.len() < vocab_size {
        let Some(pair) = pairs.most_frequent() else { break };
        let (left, right) = (symbols[pair.0 as usize].clone(), symbols[pair.1 as usize].clone());
        let merged = format!("{left}{right}");
        let id = *ids.entry(merged.clone()).or_insert_with(|| {
            symbols.push(merged);
            symbols.len() as u32 - 1
        });
        merges.push((left, right));
        for word_idx in pairs.words_with(pair) {
            let (word, count) = &mut words[word_idx];
            pairs.remove(word_idx, word, *count);
            *word = merge(word, pair, id);
            pairs.add(word_idx, word, *count);
        }
        pairs.settle();
    }
    merges
}

/// How often each pair occurs and in which words.
#[derive(Default)]
struct Pairs {
    counts: BTreeMap<Pair, u64>,
    places: BTreeMap<Pair, BTreeSet<usize>>,
    ranking: BTreeSet<(u64, Reverse<Pair>)>,
    /// Counts that `ranking` still lists, of pairs that changed since.
    stale: BTreeMap<Pair, u64>,
}

impl Pairs {
    fn add(&mut self, word_idx: usize, word: &[u32], count: u64) {
        for pair in word.windows(2).map(|pair| (pair[0], pair[1])) {
            let own = self.counts.entry(pair).or_default();
            self.stale.entry(pair).or_insert(*own);
            *own += count;
            self.places.entry(pair).or_default().insert(word_idx);
        }
    }

    fn remove(&mut self, word_idx: usize, word: &[u32], count: u64) {
        for pair in word.windows(2).map(|pair| (pair[0], pair[1])) {
            let own = self.counts.entry(pair).or_default();
            self.stale.entry(pair).or_insert(*own);
            *own -= count;
            self.places.entry(pair).or_default().remove(&word_idx);
        }
    }

    fn settle(&mut self) {
        for (pair, listed) in std::mem::take(&mut self.stale) {
            self.ranking.remove(&(listed, Reverse(pair)));
            let count = self.counts[&pair];
            if count > 0 {
                self.ranking.insert((count, Reverse(pair)));
            } else {
                self.counts.remove(&pair);
                self.places.remove(&pair);
            }
        }
    }

    fn most_frequent(&self) -> Option<Pair> {
        self.ranking.last().map(|(_, Reverse(pair))| *pair)
    }

    fn words_with(&self, pair: Pair) -> Vec<usize> {
        self.places[&pair].iter().copied().collect()
    }
}

/// Replaces each occurrence of the pair, from the left.
fn merge(word: &[u32], pair: Pair, id: u32) -> Vec<u32> {
    let mut merged = Vec::with_capacity(word.len());
    let mut i = 0;
    while i < word.len() {
        if i + 1 < word.len() && (word[i], word[i + 1]) == pair {
            merged.push(id);
            i += 2;
        } else {
            merged.push(word[i]);
            i += 1;
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::learn_merges;
    use std::collections::BTreeMap;

    fn learn(words: &[(&str, u64)], vocab_size: usize) -> Vec<String> {
        let words: BTreeMap<String, u64> = words.iter().map(|&(word, count)| (word.to_owned(), count)).collect();
        let mut symbols: Vec<String> = ('a'..='z').map(String::from).collect();
        learn_merges(&words, &mut symbols, vocab_size)
            .into_iter()
            .map(|(left, right)| format!("{left}+{right}"))
            .collect()
    }

    #[test]
    fn the_most_frequent_pair_is_merged_first() {
        assert_eq!(
            learn(&[("low", 5), ("lower", 2), ("newest", 6), ("widest", 3)], 30),
            ["e+s", "es+t", "l+o", "lo+w"]
        );
    }

    #[test]
    fn of_equal_counts_the_lower_ids_win() {
        assert_eq!(learn(&[("xy", 2), ("ab", 2)], 28), ["a+b", "x+y"]);
    }

    #[test]
    fn overlapping_pairs_merge_from_the_left() {
        assert_eq!(learn(&[("aaaaa", 1)], 100), ["a+a", "aa+a", "aa+aaa"]);
    }

    #[test]
    fn training_stops_when_nothing_is_left_to_merge() {
        assert_eq!(learn(&[("ab", 1)], 1000), ["a+b"]);
        assert!(learn(&[], 1000).is_empty());
    }

    #[test]
    fn counts_kept_by_the_way_equal_counts_made_anew() {
        // Brute force: after each merge, count all pairs of all words again.
        let text = "the cat sat on the mat that the rat had at the flat and ate the hat";
        let mut words: BTreeMap<String, u64> = BTreeMap::new();
        for word in text.split(' ') {
            *words.entry(word.to_owned()).or_default() += 1;
        }
        let mut symbols: Vec<String> = ('a'..='z').map(String::from).collect();
        let fast = learn_merges(&words, &mut symbols, 50);
        let mut split: Vec<(Vec<String>, u64)> =
            words.iter().map(|(word, &n)| (word.chars().map(String::from).collect(), n)).collect();
        for (left, right) in fast {
            let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
            for (word, n) in &split {
                for pair in word.windows(2) {
                    *counts.entry((&pair[0], &pair[1])).or_default() += n;
                }
            }
            assert_eq!(counts[&(left.as_str(), right.as_str())], counts.values().copied().max().unwrap());
            for (word, _) in &mut split {
                let mut i = 0;
                while i + 1 < word.len() {
                    if word[i] == left && word[i + 1] == right {
                        let tail = word.remove(i + 1);
                        word[i].push_str(&tail);
                    }
                    i += 1;
                }
            }
        }
    }
}
