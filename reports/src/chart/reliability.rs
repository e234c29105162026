//! Reliability diagram: how often the model is right, against how sure it is.

use evals::diagnosis::CalibrationCurve;

use super::svg::{Anchor, Canvas, Frame, Scale};
use super::{Chart, columns};
use crate::number::{count, decimal, fine_percent, percent_interval};
use crate::words;

/// Draws the bins of one checkpoint with their intervals; the area of a dot grows with its number of items.
pub(crate) fn draw(id: &str, curve: &CalibrationCurve) -> Chart {
    let mut canvas = Canvas::new(320.0, 292.0);
    let frame = Frame {
        x: Scale { values: (0.0, 1.0), positions: (54.0, 300.0) },
        y: Scale { values: (0.0, 1.0), positions: (246.0, 12.0) },
    };
    frame.draw_vertical(&mut canvas, "share right");
    frame.draw_horizontal(&mut canvas, "how sure the model is");
    canvas.line(frame.point(0.0, 0.0), frame.point(1.0, 1.0), "ideal");
    canvas.label((frame.x.at(0.02), frame.y.at(0.94)), Anchor::Start, "hint", "less sure than right");
    canvas.label((frame.x.at(0.98), frame.y.at(0.04)), Anchor::End, "hint", "surer than right");

    let most = curve.bins.iter().map(|b| b.accuracy.n).max().unwrap_or(1).max(1) as f64;
    for bin in &curve.bins {
        let estimate = &bin.accuracy;
        if ![bin.confidence, estimate.value, estimate.low, estimate.high].iter().all(|v| v.is_finite()) {
            continue;
        }
        let low = frame.point(bin.confidence, estimate.low);
        let high = frame.point(bin.confidence, estimate.high);
        canvas.line(low, high, "whisker");
        let point = frame.point(bin.confidence, estimate.value);
        canvas.circle(point, 2.5 + 4.5 * (estimate.n as f64 / most).sqrt(), "dot");
    }

    let title = format!("Reliability after {}", words::phase(&curve.phase));
    let description = format!(
        "Share of right answers against confidence in {} bins; on the diagonal the two agree. Expected calibration error {}.",
        curve.bins.len(),
        decimal(curve.ece.value, 3)
    );
    Chart {
        svg: canvas.finish(id, &title, &description),
        title,
        columns: columns(&["How sure", "Share right", "95% interval", "n"]),
        rows: curve
            .bins
            .iter()
            .map(|b| {
                vec![
                    fine_percent(b.confidence),
                    fine_percent(b.accuracy.value),
                    percent_interval(&b.accuracy),
                    count(b.accuracy.n),
                ]
            })
            .collect(),
    }
}
