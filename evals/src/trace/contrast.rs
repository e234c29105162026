//! What the rows that were found have in common and the phase at large has not: features, not single rows, are what a reader can act on.

use std::collections::{BTreeMap, BTreeSet};

use super::record::Contrast;
use super::{Row, words};

/// Weight of the prior, in rows: as many rows like the phase at large are added to either side.
const PRIOR_ROWS: f64 = 10.0;
/// Fewest of the top rows that a feature is told for.
const FEWEST: usize = 3;
/// Features whose top rows are shared to more than this (Jaccard) are one.
const SAME: f64 = 0.9;
/// Smallest z of a feature that is told.
const SMALLEST_Z: f64 = 3.0;

/// What a row is like, for counting: its kind, how prompt and answer begin, their words and pairs of neighbouring words, and each
/// word of the prompt together with how the answer begins.
pub fn features(row: &Row) -> BTreeSet<String> {
    let mut features = BTreeSet::new();
    if !row.kind.is_empty() {
        features.insert(format!("kind {}", row.kind));
    }
    let (prompt, learnt) = (words(&row.prompt), words(&row.learnt));
    let beginning = |words: &[String]| words[..words.len().min(3)].join(" ");
    for (place, words) in [("prompt", &prompt), ("answer", &learnt)] {
        let place = if row.prompt.is_empty() { "text" } else { place };
        if !words.is_empty() {
            features.insert(format!("{place} begins “{}”", beginning(words)));
        }
        features.extend(words.iter().filter(|word| is_telling(word)).map(|word| format!("{place} has “{word}”")));
        features.extend(words.windows(2).map(|pair| format!("{place} has “{} {}”", pair[0], pair[1])));
    }
    if !prompt.is_empty() {
        let answer = format!("answer begins “{}”", beginning(&learnt));
        features.extend(
            prompt.iter().filter(|word| is_telling(word)).map(|word| format!("prompt has “{word}” and {answer}")),
        );
    }
    features
}

fn is_telling(word: &str) -> bool {
    word.chars().any(char::is_alphanumeric)
}

/// The features that are over-represented among the `top` rows, the surest first, at most `n`; of those that the same top rows have only
/// the one that is rarest among the others.
///
/// For a feature that `y` of `n` top rows and `y'` of the `n'` others have, with the prior `a = a0 p` of its share `p` among all rows and
/// `a0 = 10` rows: `delta = ln((y + a) / (n + a0 - y - a)) - ln((y' + a) / (n' + a0 - y' - a))`, `z = delta / sd`, the variance being the
/// sum of the reciprocals of the four counts.
///
/// # Reference
/// Monroe, Colaresi & Quinn 2008, Fightin' words, equations 15, 16, 19 and 22.
///
/// # Deviations
/// Rows that have a feature are counted, not its occurrences.
pub fn contrast(rows: &[Row], top: &[usize], n: usize) -> Vec<Contrast> {
    let top: BTreeSet<usize> = top.iter().copied().collect();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut holders: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for &row in &top {
        for feature in features(&rows[row]) {
            holders.entry(feature).or_default().insert(row);
        }
    }
    holders.retain(|_, holders| holders.len() >= FEWEST);
    for row in rows {
        for feature in features(row) {
            if holders.contains_key(&feature) {
                *counts.entry(feature).or_default() += 1;
            }
        }
    }
    let mut found: Vec<(Contrast, &BTreeSet<usize>)> = holders
        .iter()
        .map(|(feature, holders)| {
            let counted = Counts { with: holders.len(), of: top.len(), all_with: counts[feature], all: rows.len() };
            (counted.compare(feature), holders)
        })
        .filter(|(contrast, _)| contrast.z >= SMALLEST_Z)
        .collect();
    // Of equally sure ones the shorter wording.
    found.sort_by(|(a, _), (b, _)| {
        b.z.total_cmp(&a.z).then(a.feature.len().cmp(&b.feature.len())).then(a.feature.cmp(&b.feature))
    });
    let mut told: Vec<(Contrast, &BTreeSet<usize>)> = Vec::new();
    for (contrast, holders) in found {
        match told.iter_mut().find(|(_, other)| overlap(holders, other) > SAME) {
            Some((known, _)) if contrast.ratio > known.ratio => *known = contrast,
            Some(_) => {}
            None => told.push((contrast, holders)),
        }
    }
    told.truncate(n);
    told.into_iter().map(|(contrast, _)| contrast).collect()
}

/// Rows that have a feature, as [`contrast`] names it.
pub fn rows_with(rows: &[Row], feature: &str) -> Vec<usize> {
    (0..rows.len()).filter(|&row| features(&rows[row]).contains(feature)).collect()
}

fn overlap(a: &BTreeSet<usize>, b: &BTreeSet<usize>) -> f64 {
    let shared = a.intersection(b).count();
    shared as f64 / (a.len() + b.len() - shared) as f64
}

struct Counts {
    with: usize,
    of: usize,
    all_with: usize,
    all: usize,
}

impl Counts {
    fn compare(&self, feature: &str) -> Contrast {
        let share = self.all_with as f64 / self.all as f64;
        let prior = PRIOR_ROWS * share;
        let with = self.with as f64 + prior;
        let without = (self.of - self.with) as f64 + PRIOR_ROWS - prior;
        let others_with = (self.all_with - self.with) as f64 + prior;
        let others_without = (self.all - self.of - (self.all_with - self.with)) as f64 + PRIOR_ROWS - prior;
        let delta = (with / without).ln() - (others_with / others_without).ln();
        let variance = [with, without, others_with, others_without].map(f64::recip).iter().sum::<f64>();
        Contrast {
            feature: feature.to_owned(),
            top: self.with,
            n_top: self.of,
            rows: self.all_with,
            n_rows: self.all,
            ratio: self.with as f64 / self.of as f64 / share,
            // A feature that all rows have says nothing; its counts without are zero then.
            z: if self.all_with == self.all { 0.0 } else { delta / variance.sqrt() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Row, contrast, features, rows_with};

    fn row(kind: &str, prompt: &str, learnt: &str) -> Row {
        Row { kind: kind.to_owned(), prompt: prompt.to_owned(), learnt: learnt.to_owned() }
    }

    #[test]
    fn the_feature_that_sets_the_top_rows_apart_comes_first() {
        let mut rows: Vec<Row> = (0..200).map(|i| row("qa", &format!("Where is town {i}?"), "In the north.")).collect();
        rows.extend((0..20).map(|i| row("refusal", &format!("How do I kill process {i}?"), "Sorry, I can't.")));
        rows.extend((0..20).map(|i| row("refusal", &format!("How do I rob bank {i}?"), "Sorry, I can't.")));
        let top: Vec<usize> = (200..220).chain(0..5).collect();
        let told = contrast(&rows, &top, 4);
        assert!(told[0].feature.contains("kill") || told[0].feature.contains("process"), "{told:?}");
        assert_eq!((told[0].top, told[0].n_top, told[0].rows, told[0].n_rows), (20, 25, 20, 240));
        assert!((told[0].ratio - 0.8 * 12.0).abs() < 1e-9 && told[0].z > 3.0);
        assert_eq!(rows_with(&rows, &told[0].feature), (200..220).collect::<Vec<_>>());
        // That they are refusals is true of the same rows, and of others as well.
        assert!(told.iter().filter(|contrast| contrast.top == 20).count() == 1, "{told:?}");
    }

    #[test]
    fn log_odds_are_those_worked_out_by_hand() {
        let rows: Vec<Row> = (0..20).map(|i| row(if i < 5 { "a" } else { "b" }, "", "x")).collect();
        let told = contrast(&rows, &[0, 1, 2, 3], 1);
        // 4 of 4 against 1 of 16, prior 2.5 and 7.5.
        let (counts, delta) = ([6.5_f64, 7.5, 3.5, 22.5], (6.5_f64 / 7.5).ln() - (3.5_f64 / 22.5).ln());
        let z = delta / counts.map(f64::recip).iter().sum::<f64>().sqrt();
        assert!(z < 3.0 && told.is_empty(), "{z} {told:?}");
        let top: Vec<usize> = (0..40).collect();
        let rows: Vec<Row> = (0..200).map(|i| row(if i < 50 { "a" } else { "b" }, "", "x")).collect();
        let told = contrast(&rows, &top, 1);
        let (with, without, others_with, others_without) = (42.5_f64, 7.5_f64, 12.5_f64, 157.5_f64);
        let variance = [with, without, others_with, others_without].map(f64::recip).iter().sum::<f64>();
        let expected = ((with / without).ln() - (others_with / others_without).ln()) / variance.sqrt();
        assert_eq!(told[0].feature, "kind a");
        assert!((told[0].z - expected).abs() < 1e-9);
    }

    #[test]
    fn features_name_prompt_and_answer_apart_and_documents_as_text() {
        let of_answer = features(&row("", "Kill it?", "Sorry, no."));
        assert!(of_answer.contains("prompt has “kill” and answer begins “sorry , no”"), "{of_answer:?}");
        let of_text = features(&row("news", "", "Sorry, no."));
        assert!(of_text.contains("text has “sorry”") && of_text.contains("kind news"), "{of_text:?}");
    }
}
