//! One number of a phase, step by step.

use super::ruler::Ruler;
use super::svg::{Anchor, Canvas, Scale};
use super::{Chart, columns};
use crate::number::{count, decimal, fine_percent};
use crate::progress::Curve;

const WIDTH: (f64, f64) = (50.0, 338.0);
const HEIGHT: (f64, f64) = (196.0, 26.0);
/// Most rows of the data table.
const ROWS: usize = 24;

/// What is drawn, and over how many steps.
pub(crate) struct Plot<'a> {
    /// Unique on the page.
    pub(crate) id: &'a str,
    /// One line.
    pub(crate) title: String,
    /// Name of the vertical axis, with its unit.
    pub(crate) axis: &'a str,
    /// Whether values are shares, shown in percent.
    pub(crate) is_share: bool,
    /// Steps that the plan asks for; the horizontal axis goes as far.
    pub(crate) steps: u64,
}

/// Draws a curve as far as it goes; `None` where it has no point.
pub(crate) fn draw(plot: Plot<'_>, curve: &Curve) -> Option<Chart> {
    let (first, last) = curve.ends()?;
    let points = curve.points();
    let steps = plot.steps.max(last.0);
    let x = Scale { values: (0.0, steps as f64), positions: WIDTH };
    let y = Ruler::over(points.iter().map(|point| point.1), HEIGHT, plot.is_share);

    let mut canvas = Canvas::new(360.0, 240.0);
    canvas.label((WIDTH.0, 14.0), Anchor::Start, "axis-name", plot.axis);
    y.draw_vertical(&mut canvas, WIDTH);
    for step in quarters(steps) {
        let at = x.at(step as f64);
        canvas.line((at, HEIGHT.1), (at, HEIGHT.0), "grid");
        canvas.label((at, HEIGHT.0 + 16.0), Anchor::Middle, "tick", &count(step as usize));
    }
    let middle = f64::midpoint(WIDTH.0, WIDTH.1);
    canvas.label((middle, HEIGHT.0 + 34.0), Anchor::Middle, "axis-name", "step");
    let placed: Vec<(f64, f64)> = points.iter().map(|&(step, value)| (x.at(step as f64), y.scale.at(value))).collect();
    canvas.polyline(&placed, "curve");
    canvas.circle((x.at(last.0 as f64), y.scale.at(last.1)), 3.5, "dot last");

    let word = |value: f64| if plot.is_share { fine_percent(value) } else { decimal(value, 3) };
    let table = curve.stretches(ROWS);
    let lowest = table.iter().map(|stretch| stretch.lowest).min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or(first);
    let highest = table.iter().map(|stretch| stretch.highest).max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or(first);
    let at = |(step, value): (u64, f64)| format!("{} at step {}", word(value), count(step as usize));
    let description = format!(
        "{}: from {} to {}, of {} steps; lowest {}, highest {}.",
        plot.axis,
        at(first),
        at(last),
        count(steps as usize),
        at(lowest),
        at(highest)
    );
    Some(Chart {
        svg: canvas.finish(plot.id, &plot.title, &description),
        title: plot.title,
        columns: columns(&["Steps", "Lowest", "Highest", "n"]),
        rows: table
            .iter()
            .map(|stretch| {
                let steps = range(stretch.steps);
                vec![steps, word(stretch.lowest.1), word(stretch.highest.1), count(stretch.n)]
            })
            .collect(),
    })
}

/// `1–64`, or one number.
fn range((first, last): (u64, u64)) -> String {
    let (from, to) = (count(first as usize), count(last as usize));
    if first == last { from } else { format!("{from}–{to}") }
}

/// The quarters of an axis that begins at 0, in whole steps.
fn quarters(steps: u64) -> Vec<u64> {
    let mut quarters: Vec<u64> = (0..=4).map(|quarter| steps / 4 * quarter + steps % 4 * quarter / 4).collect();
    quarters.dedup();
    quarters
}

#[cfg(test)]
mod tests {
    use super::quarters;

    #[test]
    fn an_axis_is_labelled_at_whole_steps_and_at_its_end() {
        assert_eq!(quarters(1_200), [0, 300, 600, 900, 1_200]);
        assert_eq!(quarters(30), [0, 7, 15, 22, 30]);
        assert_eq!(quarters(2), [0, 1, 2]);
        assert_eq!(quarters(u64::MAX).last(), Some(&u64::MAX));
    }
}
