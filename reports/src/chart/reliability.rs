//! Reliability diagram: how often the model is right, against how sure it is.

use evals::diagnosis::CalibrationCurve;

use super::svg::{Anchor, Canvas, Frame, Scale};
use super::{Chart, columns};
use crate::number::{MISSING, count, fine_percent, points, share_range};
use crate::words;

/// Half the width of the box that holds calibrated models, in pixels at scale 1.
const HALF_BOX: f64 = 6.0;

/// One bin, of either kind of record.
struct Dot {
    confidence: f64,
    accuracy: f64,
    low: f64,
    high: f64,
    /// Where the share right of a calibrated model lies; not in older records.
    calibrated: Option<(f64, f64)>,
    n: usize,
}

fn dots(curve: &CalibrationCurve) -> Vec<Dot> {
    if let Some(of) = &curve.measures {
        let dot = |row: &evals::stats::reliability::ReliabilityRow| Dot {
            confidence: row.confidence,
            accuracy: row.accuracy,
            low: row.low,
            high: row.high,
            calibrated: Some((row.consistent_low, row.consistent_high)),
            n: row.n,
        };
        return of.rows.iter().map(dot).collect();
    }
    let older = curve.bins.iter().map(|bin| (bin.confidence, &bin.accuracy));
    older
        .map(|(confidence, e)| Dot {
            confidence,
            accuracy: e.value,
            low: e.low,
            high: e.high,
            calibrated: None,
            n: e.n,
        })
        .collect()
}

/// Draws the bins of one checkpoint with their intervals, and boxes where a calibrated model would be; the area of a dot grows with its number
/// of items.
pub(crate) fn draw(id: &str, curve: &CalibrationCurve) -> Chart {
    let dots = dots(curve);
    let mut canvas = Canvas::new(320.0, 292.0);
    let frame = Frame {
        x: Scale { values: (0.0, 1.0), positions: (54.0, 300.0) },
        y: Scale { values: (0.0, 1.0), positions: (246.0, 12.0) },
    };
    frame.draw_vertical(&mut canvas, "share right");
    frame.draw_horizontal(&mut canvas, "how sure the model is");
    for dot in &dots {
        if let Some((low, high)) = dot.calibrated.filter(|_| dot.confidence.is_finite()) {
            let x = frame.x.at(dot.confidence);
            canvas.rect((x - HALF_BOX, frame.y.at(low)), (x + HALF_BOX, frame.y.at(high)), "expected");
        }
    }
    canvas.line(frame.point(0.0, 0.0), frame.point(1.0, 1.0), "ideal");
    canvas.label((frame.x.at(0.02), frame.y.at(0.94)), Anchor::Start, "hint", "less sure than right");
    canvas.label((frame.x.at(0.98), frame.y.at(0.04)), Anchor::End, "hint", "surer than right");

    let most = dots.iter().map(|dot| dot.n).max().unwrap_or(1).max(1) as f64;
    for dot in &dots {
        if ![dot.confidence, dot.accuracy, dot.low, dot.high].iter().all(|v| v.is_finite()) {
            continue;
        }
        canvas.line(frame.point(dot.confidence, dot.low), frame.point(dot.confidence, dot.high), "whisker");
        let point = frame.point(dot.confidence, dot.accuracy);
        canvas.circle(point, 2.5 + 4.5 * (dot.n as f64 / most).sqrt(), "dot");
    }

    let title = format!("Reliability after {}", words::phase(&curve.phase));
    let off = curve.measures.as_ref().map_or_else(String::new, |of| {
        let error = points(of.debiased.estimate.value);
        format!(" Confidence is off by {error}, less what chance adds.")
    });
    let description = format!(
        "Share of right answers against confidence in {} bins; on the diagonal the two agree.{off}",
        dots.len()
    );
    Chart {
        svg: canvas.finish(id, &title, &description),
        title,
        columns: columns(&["How sure", "Share right", "95% interval", "If calibrated", "n"]),
        rows: dots
            .iter()
            .map(|dot| {
                vec![
                    fine_percent(dot.confidence),
                    fine_percent(dot.accuracy),
                    share_range(dot.low, dot.high),
                    dot.calibrated.map_or_else(|| MISSING.to_owned(), |(low, high)| share_range(low, high)),
                    count(dot.n),
                ]
            })
            .collect(),
    }
}
