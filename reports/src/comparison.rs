//! The report of a comparison: what to choose first, then the settings, their differences, and how far they can be trusted.

mod difference;
pub(crate) mod markdown;
mod principles;
mod roster;
mod setting;
mod training;

use evals::comparison::{Axis, Comparison, Exploration, Setting, SettingKind};
use minijinja::Value;
use serde::Serialize;

use crate::chart::plane::{self, Mark, Plane, Point, View};
use crate::lineage::{ALPHA, Panel};
use crate::number::{count, measure, plural, points_span};
use crate::page::{Fact, provenance};
use crate::text::clean_name;
use crate::words;
use difference::{Block, Effect, Matrix};
use principles::Principles;
use roster::Roster;
use setting::Table;
use training::{Alarms, RewardCheck, Trajectory, Trust};

/// Everything the template prints.
#[derive(Debug, Serialize)]
pub(crate) struct Page {
    name: String,
    title: String,
    label: String,
    sentences: Vec<(&'static str, String)>,
    facts: Vec<Fact>,
    main: Vec<Panel>,
    key: Vec<KeyEntry>,
    legend: Vec<(Value, &'static str)>,
    table: Table,
    planes: Vec<Panel>,
    choices: Vec<Choice>,
    effects: Vec<Effect>,
    matrices: Vec<Matrix>,
    blocks: Vec<Block>,
    over_optimised: Vec<Trajectory>,
    trajectories: Vec<Trajectory>,
    alarms: Alarms,
    reward_checks: Vec<RewardCheck>,
    trust: Vec<Trust>,
    principles: Vec<Principles>,
    provenance: Vec<(String, String)>,
    glossary: Vec<(&'static str, &'static str)>,
}

/// A numbered point of the planes, and what it is.
#[derive(Debug, Serialize)]
struct KeyEntry {
    number: String,
    name: String,
    anchor: String,
    word: &'static str,
    values: Vec<String>,
}

/// A recommendation.
#[derive(Debug, Serialize)]
struct Choice {
    care: String,
    setting: Reference,
    ties: Vec<Reference>,
    reason: String,
}

/// A setting by number and name, with the anchor of its row where it has one.
#[derive(Debug, Serialize)]
pub(crate) struct Reference {
    pub(crate) number: String,
    pub(crate) name: String,
    pub(crate) anchor: Option<String>,
}

impl Page {
    /// Builds the page of a comparison.
    pub(crate) fn build(comparison: &Comparison) -> Self {
        let roster = Roster::over(comparison);
        let n_trained = comparison.settings.iter().filter(|s| s.kind == SettingKind::Trained).count();
        let has = |by| comparison.settings.iter().any(|s| is_explored_by(s, by));
        let trajectories = training::trajectories(comparison, &roster);
        let (over_optimised, trajectories) = trajectories.into_iter().partition(|t: &Trajectory| t.is_over_optimised);
        Self {
            name: clean_name(&comparison.name),
            title: match n_trained {
                0 => "No setting was trained.".to_owned(),
                1 => "One alignment setting, against the start".to_owned(),
                n => format!("Which of {} alignment settings to choose", count(n)),
            },
            label: format!("{} trained, {} explored", count(n_trained), count(n_explored(comparison))),
            sentences: sentences(comparison),
            facts: facts(comparison),
            main: main_planes(comparison, &roster),
            key: roster.settings().filter(|(_, s)| !is_explored(s)).map(|(i, s)| key_entry(&roster, i, s)).collect(),
            legend: plane::legend(has),
            table: setting::table(comparison, &roster),
            planes: [
                ("plane-following", (Axis::OverRefusal, Axis::InstructionFollowing)),
                ("plane-knowledge", (Axis::Kl, Axis::KnowledgeKept)),
                ("plane-calibration", (Axis::HarmfulCompliance, Axis::Calibration)),
            ]
            .into_iter()
            .filter_map(|(id, axes)| {
                let points = Scatter::of(comparison, &roster, axes);
                points.panel(id, points.view(), (360.0, 330.0))
            })
            .collect(),
            choices: comparison
                .choices
                .iter()
                .map(|choice| Choice {
                    care: choice.care.clone(),
                    setting: roster.reference(&choice.setting),
                    ties: choice.ties.iter().map(|name| roster.reference(name)).collect(),
                    reason: choice.reason.clone(),
                })
                .collect(),
            effects: difference::effects(comparison),
            matrices: difference::matrices(comparison, &roster),
            blocks: difference::blocks(comparison, &roster),
            over_optimised,
            trajectories,
            alarms: training::alarms(comparison, &roster),
            reward_checks: training::reward_checks(comparison, &roster),
            trust: training::trust(comparison),
            principles: principles::principles(comparison, &roster),
            provenance: provenance(
                &comparison.provenance,
                ("Comparison", &comparison.name),
                ("Comparison format", comparison.version),
            ),
            glossary: words::COMPARISON_GLOSSARY.to_vec(),
        }
    }
}

/// Labels of the three sentences; other numbers of sentences stand without.
fn sentences(comparison: &Comparison) -> Vec<(&'static str, String)> {
    let labels = if comparison.sentences.len() == 3 { ["Choice", "How sure", "Warnings"] } else { [""; 3] };
    let label = |i: usize| labels.get(i).copied().unwrap_or("");
    comparison.sentences.iter().enumerate().map(|(i, text)| (label(i), text.clone())).collect()
}

fn facts(comparison: &Comparison) -> Vec<Fact> {
    let trained = || comparison.settings.iter().filter(|s| s.kind == SettingKind::Trained);
    let n_trained = trained().count();
    let seeds = trained().map(|s| s.seeds.len());
    let seeds = match (seeds.clone().min(), seeds.max()) {
        (Some(1), Some(1)) => "One seed each: what chance does between runs is not known.".to_owned(),
        (Some(low), Some(high)) if low == high => format!("With {high} seeds each, all from the same start."),
        (Some(low), Some(high)) => format!("With {low} to {high} seeds each, all from the same start."),
        _ => "Nothing was trained.".to_owned(),
    };
    let main = [Axis::OverRefusal, Axis::HarmfulCompliance];
    let is_apart = |pair: &&evals::comparison::Pair| {
        main.iter().any(|axis| pair.differences.get(axis).and_then(|d| d.p_holm).is_some_and(|p| p < ALPHA))
    };
    let n_apart = comparison.pairs.iter().filter(is_apart).count();
    let mut facts = vec![
        Fact { name: "Trained", value: plural(n_trained, "setting"), note: seeds },
        Fact {
            name: "Not dominated",
            value: format!("{} of {}", trained().filter(|s| s.is_non_dominated).count(), count(n_trained)),
            note: "Of each other one, another is shown to be better on one axis and no worse on the rest.".to_owned(),
        },
        Fact {
            name: "Told apart",
            value: format!("{} of {} pairs", count(n_apart), count(comparison.pairs.len())),
            note: "By requests refused or answered, corrected for the number of pairs (Holm).".to_owned(),
        },
        detectable(comparison, main),
    ];
    if n_explored(comparison) > 0 {
        facts.push(Fact {
            name: "Explored, not trained",
            value: plural(n_explored(comparison), "setting"),
            note: explored_note(comparison),
        });
    }
    facts
}

fn detectable(comparison: &Comparison, axes: [Axis; 2]) -> Fact {
    let effects =
        comparison.pairs.iter().flat_map(|p| axes.iter().filter_map(|axis| p.differences.get(axis)?.detectable));
    Fact {
        name: "Detectable difference",
        value: points_span(effects),
        note: "Between two settings, in 4 of 5 cases, on requests refused or answered.".to_owned(),
    }
}

fn explored_note(comparison: &Comparison) -> String {
    let trusted = comparison.trust.iter().filter(|t| t.is_trusted).count();
    match (trusted, comparison.trust.len()) {
        (_, 0) => "No trained setting stands beside them to check them by.".to_owned(),
        (t, n) if t == n => "They agree with the trained settings that they imitate.".to_owned(),
        (0, _) => "They do not agree with the trained settings that they imitate.".to_owned(),
        _ => "One way of exploring agrees with trained settings, another does not.".to_owned(),
    }
}

fn key_entry(roster: &Roster, index: usize, setting: &Setting) -> KeyEntry {
    let value = |axis| setting.axes.get(&axis).map_or_else(|| "–".to_owned(), |e| measure(axis, e.value));
    KeyEntry {
        number: if setting.kind == SettingKind::Start { "○" } else { roster.label(index) }.to_owned(),
        name: clean_name(&setting.name),
        anchor: roster::anchor(index),
        word: match roster.mark(index) {
            Mark::Best => "not dominated",
            Mark::Start => "the start",
            _ => "dominated",
        },
        values: [Axis::OverRefusal, Axis::HarmfulCompliance].map(value).to_vec(),
    }
}

// With the start far off, the trained settings close up first.
fn main_planes(comparison: &Comparison, roster: &Roster) -> Vec<Panel> {
    let points = Scatter::of(comparison, roster, (Axis::OverRefusal, Axis::HarmfulCompliance));
    let view = points.view();
    let overview = (view == View::CloseUp).then(|| points.panel("plane-whole", View::Overview, (420.0, 286.0)));
    points.panel("plane", view, (420.0, 372.0)).into_iter().chain(overview.flatten()).collect()
}

/// The settings on two axes.
struct Scatter<'a> {
    axes: (Axis, Axis),
    points: Vec<Point<'a>>,
    trails: Vec<Vec<usize>>,
}

impl<'a> Scatter<'a> {
    fn of(comparison: &'a Comparison, roster: &'a Roster, axes: (Axis, Axis)) -> Self {
        let point = |(i, setting): (usize, &'a Setting)| Point {
            label: roster.label(i),
            name: roster.title(i),
            mark: roster.mark(i),
            x: setting.axes.get(&axes.0),
            y: setting.axes.get(&axes.1),
        };
        Self { axes, points: roster.settings().map(point).collect(), trails: trails(comparison, roster) }
    }

    fn view(&self) -> View {
        if plane::is_crowded(&self.points) { View::CloseUp } else { View::Whole }
    }

    fn panel(&self, id: &str, view: View, size: (f64, f64)) -> Option<Panel> {
        let plane = Plane { id, view, size, axes: self.axes, points: &self.points, trails: &self.trails };
        let chart = plane::draw(&plane)?;
        let measured = || self.points.iter().filter(|p| !matches!(p.mark, Mark::Explored(_)));
        let mut lines = Vec::new();
        let outside = measured().filter_map(|p| {
            let (x, y) = (p.x?, p.y?);
            let place =
                format!("{}, at {} and {}", p.name, measure(self.axes.0, x.value), measure(self.axes.1, y.value));
            (!plane::is_inside(&plane, p)).then_some(place)
        });
        let outside: Vec<String> = outside.collect();
        if !outside.is_empty() {
            lines.push(format!("Outside this close-up: {}.", outside.join("; ")));
        }
        let missing: Vec<&str> =
            measured().filter(|p| p.x.is_none() || p.y.is_none()).map(|p| p.name.as_str()).collect();
        if !missing.is_empty() {
            lines.push(format!("Not shown, because one of the two was not measured: {}.", missing.join("; ")));
        }
        Some(Panel { heading: chart.title.clone(), chart, lines })
    }
}

/// Settings by lambda.
type Stops = Vec<(f64, usize)>;

// From the start over the explored settings to the trained one, by lambda, for each base and each way of exploring.
fn trails(comparison: &Comparison, roster: &Roster) -> Vec<Vec<usize>> {
    let start = comparison.settings.iter().position(|s| s.kind == SettingKind::Start);
    let mut trails: Vec<((Exploration, &str), Stops)> = Vec::new();
    for (i, setting) in roster.settings() {
        let SettingKind::Explored { by, base, lambda, .. } = &setting.kind else { continue };
        match trails.iter_mut().find(|(key, _)| *key == (*by, base.as_str())) {
            Some((_, stops)) => stops.push((*lambda, i)),
            None => trails.push(((*by, base), vec![(*lambda, i)])),
        }
    }
    trails
        .into_iter()
        .map(|((_, base), mut stops)| {
            stops.extend(start.map(|i| (0.0, i)));
            stops.extend(roster.index(base).map(|i| (1.0, i)));
            stops.sort_by(|a, b| a.0.total_cmp(&b.0));
            stops.into_iter().map(|(_, i)| i).collect()
        })
        .collect()
}

fn is_explored(setting: &Setting) -> bool {
    matches!(setting.kind, SettingKind::Explored { .. })
}

fn is_explored_by(setting: &Setting, way: Exploration) -> bool {
    matches!(setting.kind, SettingKind::Explored { by, .. } if by == way)
}

fn n_explored(comparison: &Comparison) -> usize {
    comparison.settings.iter().filter(|s| is_explored(s)).count()
}
