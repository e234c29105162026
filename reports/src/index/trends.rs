//! How each behaviour went from run to run, over runs that were asked the same.

use std::collections::BTreeMap;

use evals::index::{Change, Index, IndexRun, Series};
use probes::item::Behaviour;
use serde::Serialize;

use super::{named, shown};
use crate::chart::trend::{self, NARROW, Point};
use crate::lineage::Panel;
use crate::number::{count, plural, points_interval, signed_points};
use crate::words;

/// Names of runs that are left out, before they are only counted.
const NAMED: usize = 6;
/// Changes told under a chart.
const TOLD: usize = 3;

/// All series with two runs or more.
#[derive(Debug, Serialize)]
pub(crate) struct Trends {
    lead: String,
    groups: Vec<Group>,
}

/// The trends of one series.
#[derive(Debug, Serialize)]
struct Group {
    id: String,
    heading: String,
    left_out: Vec<String>,
    is_wide: bool,
    panels: Vec<Panel>,
}

/// Builds the trends, those of the last run's series first.
pub(crate) fn trends(index: &Index) -> Trends {
    let changes: BTreeMap<(Behaviour, usize), &Change> =
        index.changes.iter().map(|change| ((change.behaviour, change.after), change)).collect();
    let groups: Vec<Group> = index
        .series
        .iter()
        .enumerate()
        .filter(|(_, series)| series.runs.len() > 1)
        .map(|(number, series)| group(index, number, series, &changes))
        .collect();
    let lead = match (groups.len(), index.runs.len()) {
        (0, 0 | 1) => "A trend needs two runs.",
        (0, _) => "No two runs were asked the same questions, so there is nothing to connect.",
        _ => "",
    };
    Trends { lead: lead.to_owned(), groups }
}

fn group(index: &Index, number: usize, series: &Series, changes: &BTreeMap<(Behaviour, usize), &Change>) -> Group {
    let runs: Vec<(usize, &IndexRun)> = series.runs.iter().filter_map(|&at| Some((at, index.runs.get(at)?))).collect();
    let has_one_reference = has_one_reference(&runs);
    let mut left_out = left_out(index, series);
    if !has_one_reference {
        left_out.push(
            "Healthy runs are not marked: the runs of this trend were not all compared with the same ones.".to_owned(),
        );
    }
    let panel = |behaviour: Behaviour| {
        let points: Vec<Point> = runs
            .iter()
            .map(|&(at, run)| {
                let value = run.of_behaviour(behaviour);
                Point {
                    number: at + 1,
                    name: shown(run),
                    value: value.and_then(|v| v.value.as_ref()),
                    reference: value.and_then(|v| v.reference).filter(|_| has_one_reference),
                    outcome: value.map(|v| &v.outcome),
                    change: changes.get(&(behaviour, at)).copied(),
                }
            })
            .collect();
        let is_measured = points.iter().any(|point| point.value.is_some());
        is_measured.then(|| Panel {
            heading: words::behaviour(behaviour).to_owned(),
            chart: trend::draw(
                &format!("trend-{}-{}", number + 1, behaviour.name()),
                format!("{}, over {}", words::behaviour(behaviour), plural(points.len(), "run")),
                &points,
            ),
            lines: lines(&points),
        })
    };
    Group {
        id: format!("trends-{}", number + 1),
        heading: match index.series.len() {
            1 => format!("{}, all asked the same {} items", plural(runs.len(), "run"), count(series.n_items)),
            _ => format!(
                "Item bank {}: {}, asked the same {} items",
                number + 1,
                plural(runs.len(), "run"),
                count(series.n_items)
            ),
        },
        left_out,
        is_wide: runs.len() > NARROW,
        panels: Behaviour::ALL.into_iter().filter_map(panel).collect(),
    }
}

/// Whether all runs were compared with the same healthy runs.
fn has_one_reference(runs: &[(usize, &IndexRun)]) -> bool {
    let mut hashes = runs.iter().map(|(_, run)| run.reference.as_ref().map(|reference| &reference.hash));
    let Some(Some(first)) = hashes.next() else { return false };
    hashes.all(|hash| hash == Some(first))
}

/// Which runs are no part of a series, and why.
fn left_out(index: &Index, series: &Series) -> Vec<String> {
    let others = index.runs.iter().enumerate().filter(|(at, _)| !series.runs.contains(at));
    let (scored, asked): (Vec<_>, Vec<_>) = others.partition(|(_, run)| run.bank_hash == series.bank_hash);
    let line = |runs: Vec<(usize, &IndexRun)>, why: &str| {
        let positions: Vec<usize> = runs.into_iter().map(|(at, _)| at).collect();
        (!positions.is_empty()).then(|| {
            format!("Left out, {why}: {} ({}).", plural(positions.len(), "run"), named(index, &positions, NAMED))
        })
    };
    let asked = line(asked, "because they were asked with another item bank");
    let scored = line(scored, "because another version of the probes scored them");
    asked.into_iter().chain(scored).collect()
}

/// What a reader should take from a chart.
fn lines(points: &[Point]) -> Vec<String> {
    let compared: Vec<(&Point, &Change)> = points.iter().filter_map(|point| Some((point, point.change?))).collect();
    let resolved: Vec<&(&Point, &Change)> = compared.iter().filter(|(_, change)| change.is_resolved()).collect();
    let mut lines: Vec<String> = resolved
        .iter()
        .rev()
        .take(TOLD)
        .map(|(point, change)| {
            format!(
                "Run {}: {} since run {}, {} {}.",
                point.number,
                trend::reading(change),
                change.before + 1,
                signed_points(change.difference.value),
                points_interval(&change.difference)
            )
        })
        .collect();
    match resolved.len() {
        0 if compared.is_empty() => lines.push("No two runs could be compared.".to_owned()),
        0 => lines.push(format!("No change is resolved, of {}.", count(compared.len()))),
        n if n > TOLD => lines.push(format!("{} earlier changes are resolved; the table has them.", count(n - TOLD))),
        _ => {}
    }
    let missing = points.iter().filter(|point| point.value.is_none()).count();
    if missing > 0 {
        lines.push(format!("Not measured in {}.", plural(missing, "run")));
    }
    lines
}
