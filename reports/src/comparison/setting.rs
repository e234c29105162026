//! The table of settings: six axes, the spread over seeds, what dominates what, and what it cost.

use std::collections::BTreeMap;

use evals::comparison::{Axis, Comparison, Setting, SettingKind};
use minijinja::Value;
use serde::Serialize;

use super::roster::{Roster, anchor};
use crate::chart::plane::Mark;
use crate::chart::spread::Column;
use crate::number::{decimal, measure, measure_interval, measure_range};
use crate::text::clean_name;
use crate::words;

/// Heads and rows.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    heads: Vec<Head>,
    measured: Vec<Row>,
    explored: Vec<Row>,
    methods: String,
}

/// An axis as a table head.
#[derive(Debug, Serialize)]
struct Head {
    name: String,
    term: &'static str,
    direction: &'static str,
    low: String,
    high: String,
}

/// One setting.
#[derive(Debug, Serialize)]
struct Row {
    anchor: String,
    number: String,
    name: String,
    how: String,
    values: Vec<(String, String)>,
    tone: &'static str,
    standing: String,
    cells: Vec<Option<Cell>>,
    train: Option<String>,
    seeds: String,
}

/// A value of a setting on one axis.
#[derive(Debug, Serialize)]
struct Cell {
    value: String,
    bar: Option<Value>,
    interval: String,
    seeds: Option<String>,
}

/// Builds the table.
pub(crate) fn table(comparison: &Comparison, roster: &Roster) -> Table {
    // The start may lie so far off on an axis that trained settings could not be told apart beside it.
    let n_trained = comparison.settings.iter().filter(|s| s.kind == SettingKind::Trained).count();
    let columns: BTreeMap<Axis, Column> = Axis::ALL
        .iter()
        .map(|&axis| {
            let ends =
                comparison.settings.iter().filter(|s| n_trained == 0 || s.kind == SettingKind::Trained).flat_map(|s| {
                    let ends = s.axes.get(&axis).map(|e| [e.low, e.value, e.high]);
                    ends.into_iter().flatten().chain(s.by_seed.get(&axis).into_iter().flatten().copied())
                });
            (axis, Column::over(ends, axis.is_share()))
        })
        .collect();
    let (explored, measured): (Vec<_>, Vec<_>) = roster.settings().partition(|(_, s)| super::is_explored(s));
    // The start first, wherever the record has it.
    let (start, trained): (Vec<_>, Vec<_>) = measured.into_iter().partition(|(_, s)| s.kind == SettingKind::Start);
    Table {
        heads: Axis::ALL.iter().map(|&axis| head(axis, &columns[&axis])).collect(),
        measured: start.into_iter().chain(trained).map(|(i, s)| row(roster, i, s, &columns)).collect(),
        explored: explored.into_iter().map(|(i, s)| row(roster, i, s, &columns)).collect(),
        methods: methods(comparison),
    }
}

/// How a setting stands among the trained ones, in words.
pub(crate) fn standing(roster: &Roster, setting: &Setting) -> String {
    let dominated = || {
        let by: Vec<String> = setting
            .dominated_by
            .iter()
            .map(|name| match roster.index(name).map(|i| roster.label(i)) {
                Some(label) if !label.is_empty() => label.to_owned(),
                _ => clean_name(name),
            })
            .collect();
        if by.is_empty() { "dominated".to_owned() } else { format!("dominated by {}", by.join(", ")) }
    };
    match &setting.kind {
        SettingKind::Start if setting.dominated_by.is_empty() => "before alignment".to_owned(),
        SettingKind::Start => format!("before alignment; {}", dominated()),
        SettingKind::Explored { .. } => "not trained".to_owned(),
        SettingKind::Trained if setting.is_non_dominated => "not dominated".to_owned(),
        SettingKind::Trained => dominated(),
    }
}

fn head(axis: Axis, column: &Column) -> Head {
    Head {
        name: words::capital(axis.title()),
        term: words::axis_term(axis),
        direction: words::axis_direction(axis),
        low: column.ends.0.clone(),
        high: column.ends.1.clone(),
    }
}

fn row(roster: &Roster, index: usize, setting: &Setting, columns: &BTreeMap<Axis, Column>) -> Row {
    let how = match &setting.kind {
        SettingKind::Start => "what every setting was trained from".to_owned(),
        SettingKind::Trained => String::new(),
        SettingKind::Explored { by, base, lambda, stands_for } => {
            let likeness =
                stands_for.as_ref().map_or_else(String::new, |n| format!(", to be like {}", roster.numbered(n)));
            format!(
                "{}, λ\u{a0}=\u{a0}{} of the way to {}{likeness}",
                words::exploration(*by),
                decimal(*lambda, 2),
                roster.numbered(base)
            )
        }
    };
    Row {
        anchor: anchor(index),
        number: if setting.kind == SettingKind::Trained { roster.label(index).to_owned() } else { String::new() },
        name: clean_name(&setting.name),
        how,
        values: setting.values.iter().map(|(key, value)| (clean_name(key), clean_name(value))).collect(),
        tone: match roster.mark(index) {
            Mark::Best => "good",
            _ => "quiet",
        },
        standing: standing(roster, setting),
        cells: Axis::ALL.iter().map(|axis| cell(*axis, setting, &columns[axis])).collect(),
        train: setting.train_s.map(|s| format!("{} s", decimal(s, usize::from(s < 10.0)))),
        seeds: seeds(&setting.seeds),
    }
}

fn cell(axis: Axis, setting: &Setting, column: &Column) -> Option<Cell> {
    let estimate = setting.axes.get(&axis)?;
    let by_seed = setting.by_seed.get(&axis).map_or(&[][..], Vec::as_slice);
    let (low, high) = by_seed
        .iter()
        .filter(|v| v.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)));
    let spread = by_seed.len() > 1 && low <= high;
    Some(Cell {
        value: measure(axis, estimate.value),
        bar: column.draw(estimate, by_seed),
        interval: measure_interval(axis, estimate),
        seeds: spread.then(|| {
            if measure(axis, low) == measure(axis, high) {
                format!("all {}", measure(axis, low))
            } else {
                measure_range(axis, low, high)
            }
        }),
    })
}

fn seeds(seeds: &[u64]) -> String {
    match seeds {
        [] => String::new(),
        [one] => format!("seed {one}"),
        many => {
            let names: Vec<String> = many.iter().map(u64::to_string).collect();
            format!("seeds {}", names.join(", "))
        }
    }
}

// How the intervals were made, each way named once.
fn methods(comparison: &Comparison) -> String {
    let mut methods: Vec<&str> =
        comparison.settings.iter().flat_map(|s| s.axes.values().map(|e| e.method.as_str())).collect();
    methods.sort_unstable();
    methods.dedup();
    methods.join("; ")
}
