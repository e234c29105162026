//! Settings two by two, and what each key of the recipe does.

use std::collections::BTreeMap;

use evals::comparison::{Axis, Comparison, Difference};
use evals::diagnosis::Estimate;
use minijinja::Value;
use serde::Serialize;

use super::Roster;
use crate::chart::change::Reach;
use crate::lineage::ALPHA;
use crate::number::{MISSING, count, p_value, signed_interval, signed_measure};
use crate::text::clean_name;
use crate::words;

/// What changing one key does.
#[derive(Debug, Serialize)]
pub(crate) struct Effect {
    key: String,
    from: String,
    to: String,
    pairs: String,
    sentence: String,
    cells: Vec<EffectCell>,
}

/// The change of one axis.
#[derive(Debug, Serialize)]
struct EffectCell {
    axis: String,
    change: String,
    bar: Option<Value>,
    interval: String,
    reading: Reading,
}

/// What a change means: mark, class of the style sheet, word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Reading {
    mark: &'static str,
    tone: &'static str,
    word: &'static str,
}

/// All settings against all others on one axis.
#[derive(Debug, Serialize)]
pub(crate) struct Matrix {
    axis: String,
    term: &'static str,
    heads: Vec<(String, String)>,
    rows: Vec<(String, Vec<Option<Cell>>)>,
}

/// The row's setting against the column's.
#[derive(Debug, Serialize)]
pub(crate) struct Cell {
    reading: Reading,
    change: String,
}

/// One setting against all others on all axes.
#[derive(Debug, Serialize)]
pub(crate) struct Block {
    id: String,
    title: String,
    summary: String,
    others: Vec<(String, Vec<Vec<String>>)>,
}

/// A difference seen from one of its two settings.
struct Turned<'a> {
    change: Estimate,
    difference: &'a Difference,
}

/// The effects with one scale per axis.
pub(crate) fn effects(comparison: &Comparison) -> Vec<Effect> {
    let reach = |axis: Axis| Reach::over(comparison.effects.iter().filter_map(move |e| e.changes.get(&axis)));
    comparison
        .effects
        .iter()
        .map(|effect| Effect {
            key: clean_name(&effect.key),
            from: clean_name(&effect.from),
            to: clean_name(&effect.to),
            pairs: match effect.n_pairs {
                1 => "1 pair of settings that differ in nothing else".to_owned(),
                n => format!("mean over {} pairs of settings that differ in nothing else", count(n)),
            },
            sentence: effect.sentence.clone(),
            cells: effect
                .changes
                .iter()
                .map(|(&axis, change)| {
                    let reading = reading(axis, change.value, excludes_zero(change));
                    EffectCell {
                        axis: words::capital(axis.title()),
                        change: signed_measure(axis, change.value),
                        bar: reach(axis).draw(change, reading.tone),
                        interval: signed_interval(axis, change),
                        reading,
                    }
                })
                .collect(),
        })
        .collect()
}

/// One matrix for each of the two errors of a refusal; none where there is nothing to compare.
pub(crate) fn matrices(comparison: &Comparison, roster: &Roster) -> Vec<Matrix> {
    let pairs = Pairs::of(comparison);
    let settings = roster.measured();
    [Axis::OverRefusal, Axis::HarmfulCompliance]
        .into_iter()
        .filter(|axis| settings.len() > 1 && comparison.pairs.iter().any(|p| p.differences.contains_key(axis)))
        .map(|axis| Matrix {
            axis: words::capital(axis.title()),
            term: words::axis_term(axis),
            heads: settings.iter().map(|&(i, _)| (roster.label(i).to_owned(), roster.title(i))).collect(),
            rows: settings
                .iter()
                .map(|&(i, row)| {
                    let cells = settings.iter().map(|&(_, column)| {
                        pairs.turned(&row.name, &column.name, axis).map(|turned| Cell {
                            reading: turned.reading(axis),
                            change: short_change(axis, turned.change.value),
                        })
                    });
                    (roster.title(i), cells.collect())
                })
                .collect(),
        })
        .collect()
}

/// One block per setting.
pub(crate) fn blocks(comparison: &Comparison, roster: &Roster) -> Vec<Block> {
    let pairs = Pairs::of(comparison);
    let settings = roster.measured();
    settings
        .iter()
        .filter_map(|&(i, setting)| {
            let mut n_apart = 0;
            let mut others = Vec::new();
            for &(j, other) in settings.iter().filter(|(j, _)| *j != i) {
                let lines: Vec<(Axis, Turned)> = Axis::ALL
                    .iter()
                    .filter_map(|&axis| Some((axis, pairs.turned(&setting.name, &other.name, axis)?)))
                    .collect();
                let is_apart =
                    |(axis, t): &(Axis, Turned)| *axis != Axis::Kl && is_resolved(t.difference) == Some(true);
                n_apart += usize::from(lines.iter().any(is_apart));
                if !lines.is_empty() {
                    others.push((roster.title(j), lines.iter().map(|(axis, t)| line(*axis, t)).collect()));
                }
            }
            (!others.is_empty()).then(|| Block {
                id: format!("against-{i}"),
                title: roster.title(i),
                summary: format!(
                    "differs from {} of {} others, the distance from the start aside",
                    count(n_apart),
                    count(others.len())
                ),
                others,
            })
        })
        .collect()
}

fn line(axis: Axis, turned: &Turned) -> Vec<String> {
    let missing = || MISSING.to_owned();
    let difference = turned.difference;
    let reading = turned.reading(axis);
    vec![
        axis.title().to_owned(),
        signed_measure(axis, turned.change.value),
        signed_interval(axis, &turned.change),
        format!("{} {}", reading.mark, reading.word),
        difference.p_holm.map_or_else(missing, p_value),
        difference.detectable.map_or_else(missing, |d| signed_measure(axis, d).trim_start_matches('+').to_owned()),
        needed(difference),
    ]
}

// What would tell two settings apart that are not told apart yet.
fn needed(difference: &Difference) -> String {
    let seeds = |n: usize| if n == 1 { "1 seed".to_owned() } else { format!("{} seeds", count(n)) };
    match (is_resolved(difference), difference.n_needed, difference.seeds_needed) {
        (Some(true), ..) => "told apart".to_owned(),
        (None, None, None) => MISSING.to_owned(),
        (_, Some(items), Some(n)) => format!("{} items per seed, or {}", count(items), seeds(n)),
        (_, Some(items), None) => format!("{} items per seed", count(items)),
        (_, None, Some(n)) => format!("{}; more items alone would not do", seeds(n)),
        (Some(false), None, None) => "more items would not do; how many seeds is not known".to_owned(),
    }
}

fn is_resolved(difference: &Difference) -> Option<bool> {
    difference.p_holm.filter(|p| p.is_finite()).map(|p| p < ALPHA)
}

fn excludes_zero(change: &Estimate) -> Option<bool> {
    (change.low.is_finite() && change.high.is_finite()).then_some(change.low > 0.0 || change.high < 0.0)
}

fn reading(axis: Axis, change: f64, is_resolved: Option<bool>) -> Reading {
    let is_better = if axis.is_gain() { change > 0.0 } else { change < 0.0 };
    match is_resolved {
        None => Reading { mark: "·", tone: "quiet", word: "not tested" },
        Some(true) if is_better => {
            Reading { mark: "✓", tone: "good", word: if axis == Axis::Kl { "nearer" } else { "better" } }
        }
        Some(true) if change != 0.0 => {
            Reading { mark: "✕", tone: "bad", word: if axis == Axis::Kl { "farther" } else { "worse" } }
        }
        Some(_) => Reading { mark: "≈", tone: "quiet", word: "not resolved" },
    }
}

// In a narrow cell the unit stands in the head.
fn short_change(axis: Axis, change: f64) -> String {
    let text = signed_measure(axis, change);
    text.split(' ').next().unwrap_or_default().to_owned()
}

impl Turned<'_> {
    fn reading(&self, axis: Axis) -> Reading {
        reading(axis, self.change.value, is_resolved(self.difference))
    }
}

/// Pairs by their two names.
struct Pairs<'a>(BTreeMap<(&'a str, &'a str), &'a BTreeMap<Axis, Difference>>);

impl<'a> Pairs<'a> {
    fn of(comparison: &'a Comparison) -> Self {
        Self(comparison.pairs.iter().map(|p| ((p.first.as_str(), p.second.as_str()), &p.differences)).collect())
    }

    // `this` minus `other`, whichever of the two the record has first.
    fn turned(&self, this: &str, other: &str, axis: Axis) -> Option<Turned<'a>> {
        if let Some(difference) = self.0.get(&(other, this)).and_then(|d| d.get(&axis)) {
            return Some(Turned { change: difference.change.clone(), difference });
        }
        let difference = self.0.get(&(this, other))?.get(&axis)?;
        let change = &difference.change;
        let change = Estimate { value: -change.value, low: -change.high, high: -change.low, ..change.clone() };
        Some(Turned { change, difference })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(p_holm: Option<f64>, n_needed: Option<usize>, seeds_needed: Option<usize>) -> Difference {
        let change = Estimate { value: 0.1, low: -0.02, high: 0.3, n: 50, method: "paired".to_owned() };
        Difference { change, p_value: p_holm, p_holm, detectable: None, n_needed, seeds_needed }
    }

    #[test]
    fn more_of_a_good_thing_is_better_and_more_of_a_bad_one_worse() {
        assert_eq!(reading(Axis::KnowledgeKept, 0.1, Some(true)).word, "better");
        assert_eq!(reading(Axis::OverRefusal, 0.1, Some(true)).word, "worse");
        assert_eq!(reading(Axis::Kl, -0.1, Some(true)).word, "nearer");
        assert_eq!(reading(Axis::OverRefusal, 0.1, Some(false)).word, "not resolved");
        assert_eq!(reading(Axis::OverRefusal, 0.1, None).word, "not tested");
    }

    #[test]
    fn what_would_tell_two_settings_apart_is_said_only_where_they_are_not() {
        assert_eq!(needed(&difference(Some(0.01), None, None)), "told apart");
        assert_eq!(needed(&difference(Some(0.4), Some(1200), Some(5))), "1,200 items per seed, or 5 seeds");
        assert_eq!(needed(&difference(Some(0.4), None, Some(5))), "5 seeds; more items alone would not do");
        assert_eq!(needed(&difference(None, None, None)), "–");
    }

    #[test]
    fn a_pair_reads_the_same_from_both_sides_but_for_the_sign() {
        let record = BTreeMap::from([(Axis::Kl, difference(Some(0.4), None, None))]);
        let pairs = Pairs(BTreeMap::from([(("a", "b"), &record)]));
        let (of_b, of_a) = (pairs.turned("b", "a", Axis::Kl).unwrap(), pairs.turned("a", "b", Axis::Kl).unwrap());
        assert_eq!((of_b.change.low, of_b.change.high), (-0.02, 0.3));
        assert_eq!((of_a.change.low, of_a.change.high), (-0.3, 0.02));
    }
}
