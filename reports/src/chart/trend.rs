//! One behaviour over many runs: a point with its interval for each, the healthy mean, and the changes that are resolved.

use evals::diagnosis::{Estimate, Outcome};
use evals::index::Change;

use super::svg::{Anchor, Canvas, Frame, Scale};
use super::{Chart, columns};
use crate::number::{
    MISSING, count, fine_percent, p_value, percent, percent_interval, points_interval, short_percent, signed_points,
};
use crate::words;

/// More runs than this are drawn across the whole page.
pub(crate) const NARROW: usize = 30;

/// Most labels on the horizontal axis of a narrow and of a wide drawing.
const LABELS: (usize, usize) = (10, 30);

/// A run of a trend.
pub(crate) struct Point<'a> {
    /// Its number in the table of runs.
    pub(crate) number: usize,
    /// Its name.
    pub(crate) name: String,
    /// Share of items that are right; `None` where not measured.
    pub(crate) value: Option<&'a Estimate>,
    /// Mean over healthy runs, where all runs of the trend were compared with the same.
    pub(crate) reference: Option<f64>,
    /// What is said of it; `None` where the diagnosis does not mention it.
    pub(crate) outcome: Option<&'a Outcome>,
    /// What changed since the measured run before.
    pub(crate) change: Option<&'a Change>,
}

impl Point<'_> {
    fn drawn(&self) -> Option<&Estimate> {
        self.value.filter(|e| [e.value, e.low, e.high].iter().all(|v| v.is_finite()))
    }

    /// The change, where it is resolved.
    fn resolved(&self) -> Option<&Change> {
        self.change.filter(|change| change.is_resolved())
    }
}

/// Draws the runs from left to right: a full diamond fails, a hollow one falls short with no phase settled, a ring
/// passes with a hidden fault, a dot passes.
pub(crate) fn draw(id: &str, title: String, points: &[Point]) -> Chart {
    let is_wide = points.len() > NARROW;
    let mut canvas = Canvas::new(if is_wide { 1_100.0 } else { 380.0 }, 262.0);
    let right = if is_wide { 1_088.0 } else { 370.0 };
    let frame = Frame {
        x: Scale { values: (-0.5, points.len() as f64 - 0.5), positions: (54.0, right) },
        y: Scale { values: (0.0, 1.0), positions: (216.0, 42.0) },
    };
    frame.draw_vertical(&mut canvas, "share right");
    frame.name_horizontal(&mut canvas, "number of the run in the table above");
    let step = points.len().div_ceil(if is_wide { LABELS.1 } else { LABELS.0 }).max(1);
    for (i, point) in points.iter().enumerate().step_by(step) {
        canvas.label((frame.x.at(i as f64), 232.0), Anchor::Middle, "tick", &point.number.to_string());
    }
    let spacing = (right - 54.0) / points.len().max(1) as f64;
    healthy(&mut canvas, &frame, points, spacing);
    let path: Vec<(f64, f64)> =
        points.iter().enumerate().filter_map(|(i, point)| Some(frame.point(i as f64, point.drawn()?.value))).collect();
    canvas.polyline(&path, "thread");
    for (i, point) in points.iter().enumerate() {
        draw_point(&mut canvas, &frame, i as f64, point, (spacing / 3.0).clamp(1.5, 4.0));
    }
    Chart {
        svg: canvas.finish(id, &title, &description(points)),
        title,
        columns: columns(&[
            "Run",
            "Share right",
            "95% interval",
            "n",
            "Healthy runs",
            "Verdict",
            "Change",
            "95% interval of the change",
            "p (Holm)",
            "Reading",
        ]),
        rows: points.iter().map(row).collect(),
    }
}

/// How a change reads: `better`, `worse` or `not resolved`.
pub(crate) fn reading(change: &Change) -> &'static str {
    if !change.is_resolved() {
        "not resolved"
    } else if change.difference.value > 0.0 {
        "better"
    } else {
        "worse"
    }
}

fn healthy(canvas: &mut Canvas, frame: &Frame, points: &[Point], spacing: f64) {
    let half = (0.35 * spacing).clamp(1.5, 9.0);
    for (i, point) in points.iter().enumerate() {
        if let Some(reference) = point.reference.filter(|v| v.is_finite()) {
            let (x, y) = frame.point(i as f64, reference);
            canvas.line((x - half, y), (x + half, y), "healthy-tick");
        }
    }
}

fn draw_point(canvas: &mut Canvas, frame: &Frame, place: f64, point: &Point, radius: f64) {
    let Some(estimate) = point.drawn() else { return };
    let (x, y) = frame.point(place, estimate.value);
    canvas.titled(&told(point, estimate), |canvas| {
        canvas.line(frame.point(place, estimate.low), frame.point(place, estimate.high), "whisker thin");
        let reach = 1.5 * radius;
        let diamond = [(x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y)];
        match point.outcome {
            Some(Outcome::Attributed { .. }) => canvas.polygon(&diamond, "failing"),
            Some(Outcome::Undetermined { .. }) => canvas.polygon(&diamond, "unsettled"),
            Some(Outcome::Latent { .. }) => canvas.circle((x, y), radius, "hiding"),
            _ => canvas.circle((x, y), radius, "dot"),
        }
        if let Some(change) = point.resolved() {
            let (mark, class) = if change.difference.value > 0.0 { ("▲", "rise") } else { ("▼", "fall") };
            canvas.label((x, 32.0), Anchor::Middle, class, mark);
        }
    });
}

fn told(point: &Point, estimate: &Estimate) -> String {
    let verdict = point.outcome.map_or_else(|| "not mentioned".to_owned(), words::outcome);
    format!("Run {}, {}: {}; {verdict}", point.number, point.name, short_percent(estimate))
}

fn description(points: &[Point]) -> String {
    let measured: Vec<(&Point, &Estimate)> = points.iter().filter_map(|p| Some((p, p.drawn()?))).collect();
    let (Some(first), Some(last)) = (measured.first(), measured.last()) else {
        return "Measured in no run.".to_owned();
    };
    let numbers = |is: fn(&Point) -> bool| {
        let numbers: Vec<String> = measured.iter().filter(|(p, _)| is(p)).map(|(p, _)| p.number.to_string()).collect();
        if numbers.is_empty() { "in none".to_owned() } else { format!("in {}", numbers.join(", ")) }
    };
    format!(
        "From {} in run {} to {} in run {}. It fails {}. Resolved changes since the run before: {}.",
        percent(first.1.value),
        first.0.number,
        percent(last.1.value),
        last.0.number,
        numbers(|point| matches!(point.outcome, Some(Outcome::Attributed { .. }))),
        numbers(|point| point.resolved().is_some())
    )
}

fn row(point: &Point) -> Vec<String> {
    let missing = || MISSING.to_owned();
    let of_value = |say: fn(&Estimate) -> String| point.value.map_or_else(missing, say);
    let of_change = |say: fn(&Change) -> String| point.change.map_or_else(missing, say);
    vec![
        format!("{} {}", point.number, point.name),
        point.value.map_or_else(|| "not measured".to_owned(), |e| fine_percent(e.value)),
        of_value(percent_interval),
        of_value(|e| count(e.n)),
        point.reference.map_or_else(missing, fine_percent),
        point.outcome.map_or_else(missing, words::outcome),
        of_change(|change| signed_points(change.difference.value)),
        of_change(|change| points_interval(&change.difference)),
        of_change(|change| p_value(change.p_holm)),
        point.change.map_or_else(|| "not compared".to_owned(), |change| reading(change).to_owned()),
    ]
}
