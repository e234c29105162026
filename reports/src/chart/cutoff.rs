//! Share right by month, with the month where knowledge stops.

use evals::diagnosis::{CutoffCurve, CutoffRamp, Estimate, StatedCutoff};
use probes::month::show;

use super::svg::{Anchor, Canvas, Frame, Scale};
use super::{Chart, columns};
use crate::number::{count, fine_percent, percent, percent_interval};
use crate::words;

/// Positions at which a decay is drawn.
const DRAWN: u32 = 60;

/// Draws one checkpoint's months; the band is the estimated cutoff, the dashed line the declared one, the dotted one what the checkpoint
/// states itself, the curve a gradual decay.
pub(crate) fn draw(id: &str, curve: &CutoffCurve, stated: Option<&StatedCutoff>) -> Chart {
    let first = curve.months.iter().map(|(month, _)| *month).min().unwrap_or(0);
    let last = curve.months.iter().map(|(month, _)| *month).max().unwrap_or(first + 1).max(first + 1);
    // A line of its own for what is stated, above the others.
    let top = if stated.is_some() { 59.0 } else { 42.0 };
    let mut canvas = Canvas::new(340.0, top + 220.0);
    let frame = Frame {
        x: Scale { values: (f64::from(first) - 0.5, f64::from(last) + 0.5), positions: (54.0, 330.0) },
        y: Scale { values: (0.0, 1.0), positions: (top + 174.0, top) },
    };
    if let Some(estimate) = &curve.estimate {
        let (low, high) = (f64::from(estimate.low) - 0.5, f64::from(estimate.high) + 0.5);
        canvas.rect(frame.point(low, 0.0), frame.point(high, 1.0), "band");
        let text = format!("ends before {}", show(estimate.month));
        mark(&mut canvas, frame.x.at(f64::from(estimate.month) - 0.5), top - 29.0, "marker strong", &text);
    }
    frame.draw_vertical(&mut canvas, "share right");
    frame.name_horizontal(&mut canvas, "month of the event");
    let places: Vec<(f64, String)> =
        ticks(first, last).into_iter().map(|month| (frame.x.at(f64::from(month)), show(month))).collect();
    for (x, text) in places.iter().step_by(every(&places)) {
        canvas.label((*x, top + 190.0), Anchor::Middle, "tick", text);
    }
    if curve.chance.is_finite() {
        canvas.line(
            frame.point(f64::from(first) - 0.5, curve.chance),
            frame.point(f64::from(last) + 0.5, curve.chance),
            "chance",
        );
    }
    if let Some(declared) = curve.declared {
        let x = frame.x.at(f64::from(declared) - 0.5);
        canvas.line((x, top - 8.0), (x, top + 174.0), "declared");
        mark(&mut canvas, x, top - 12.0, "marker", &format!("declared: before {}", show(declared)));
    }
    if let Some(stated) = stated {
        draw_stated(&mut canvas, &frame, stated);
    }
    for (month, estimate) in &curve.months {
        if ![estimate.value, estimate.low, estimate.high].iter().all(|v| v.is_finite()) {
            continue;
        }
        let month = f64::from(*month);
        canvas.line(frame.point(month, estimate.low), frame.point(month, estimate.high), "whisker thin");
        canvas.circle(frame.point(month, estimate.value), 2.6, "dot");
    }
    let ramp = curve.estimate.as_ref().and_then(|estimate| estimate.ramp.as_ref()).filter(|_| curve.falls.is_empty());
    if let Some(ramp) = ramp {
        draw_decay(&mut canvas, &frame, ramp);
    }

    let title = format!("Knowledge by month after {}", words::phase(&curve.phase));
    let stops = curve.estimate.as_ref().map_or_else(
        || "No month was found where knowledge ends".to_owned(),
        |e| format!("Knowledge ends before month {} (95% set {} to {})", show(e.month), show(e.low), show(e.high)),
    );
    let declared = curve
        .declared
        .map_or_else(|| "no cutoff declared".to_owned(), |m| format!("declared: before month {}", show(m)));
    let fades = ramp.map_or_else(String::new, |ramp| {
        format!("; it fades from month {} to month {}", near(ramp.onset.value), near(ramp.end.value))
    });
    let states =
        stated.map_or_else(String::new, |stated| format!("; stated: until {}", months(stated.first, stated.last)));
    let description = format!("{stops}{fades}; {declared}{states}; guessing gives {}.", percent(curve.chance));
    Chart {
        svg: canvas.finish(id, &title, &description),
        title,
        columns: columns(&["Month", "Share right", "95% interval", "n"]),
        rows: curve
            .months
            .iter()
            .map(|(month, e)| vec![show(*month), fine_percent(e.value), percent_interval(e), count(e.n)])
            .collect(),
    }
}

/// The month that a position is nearest to.
fn near(position: f64) -> String {
    show(position.round().max(0.0) as u32)
}

/// A month, or the first and the last of several.
fn months(first: u32, last: u32) -> String {
    if first == last { show(first) } else { format!("{} to {}", show(first), show(last)) }
}

// The end of what is stated; months that the axis does not have are marked at its edge.
fn draw_stated(canvas: &mut Canvas, frame: &Frame, stated: &StatedCutoff) {
    let x = frame.x.at(f64::from(stated.last) + 0.5);
    let (bottom, top) = frame.y.positions;
    canvas.line((x, top - 42.0), (x, bottom), "stated");
    mark(canvas, x, top - 46.0, "marker own", &format!("says: until {}", months(stated.first, stated.last)));
}

// The fitted curve, and its onset, middle and end with their intervals.
fn draw_decay(canvas: &mut Canvas, frame: &Frame, ramp: &CutoffRamp) {
    let (first, last) = frame.x.values;
    let points: Vec<(f64, f64)> = (0..=DRAWN)
        .map(|at| first + (last - first) * f64::from(at) / f64::from(DRAWN))
        .map(|month| frame.point(month, ramp.share(month)))
        .collect();
    canvas.polyline(&points, "decay");
    for place in [&ramp.onset, &ramp.midpoint, &ramp.end] {
        let share = ramp.share(place.value);
        canvas.line(frame.point(place.low, share), frame.point(place.high, share), "decay-span");
        canvas.circle(frame.point(place.value, share), 3.4, "decay-dot");
    }
}

/// A position in months with its interval and the number of questions.
pub(crate) fn place(estimate: &Estimate) -> String {
    format!("{} [{} to {}]", near(estimate.value), near(estimate.low), near(estimate.high))
}

// Labels in the right half run to the left, so that they stay in the drawing.
fn mark(canvas: &mut Canvas, x: f64, y: f64, class: &str, text: &str) {
    let anchor = if x > 192.0 { Anchor::End } else { Anchor::Start };
    let shift = if x > 192.0 { 4.0 } else { -4.0 };
    canvas.label((x + shift, y), anchor, class, text);
}

fn ticks(first: u32, last: u32) -> Vec<u32> {
    let step = match last - first {
        0..=8 => 1,
        9..=16 => 2,
        17..=40 => 6,
        41..=90 => 12,
        // Whole years, so that each label is a January where the calendar has some.
        span => span.div_ceil(7 * 12) * 12,
    };
    (first..=last).filter(|month| month % step == 0).collect()
}

/// Every which of some labels can be written so that none touches the next.
fn every(places: &[(f64, String)]) -> usize {
    let [(first, text), (second, _), ..] = places else { return 1 };
    let needed = 7.5 * text.chars().count() as f64 + 8.0;
    (needed / (second - first)).ceil() as usize
}

#[cfg(test)]
mod tests {
    use super::{every, ticks};

    #[test]
    fn labels_that_would_touch_are_left_out() {
        let places = |text: &str, distance: f64| -> Vec<(f64, String)> {
            (0..5).map(|at| (54.0 + distance * f64::from(at), text.to_owned())).collect()
        };
        assert_eq!(every(&places("24", 46.0)), 1);
        assert_eq!(every(&places("2024-01", 41.0)), 2);
        assert_eq!(every(&places("2024-01", 20.0)), 4);
        assert_eq!(every(&places("2024-01", 20.0)[..1]), 1);
    }

    #[test]
    fn months_are_labelled_at_round_distances() {
        assert_eq!(ticks(0, 35), [0, 6, 12, 18, 24, 30]);
        assert_eq!(ticks(0, 59), [0, 12, 24, 36, 48]);
        assert_eq!(ticks(3, 6), [3, 4, 5, 6]);
        assert!(ticks(0, 4_000).len() <= 8);
    }
}
