//! What answering fewer questions would gain: the risk-coverage curve, drawn as the share right of what is answered.

use evals::calibration::Calibration;

use super::svg::{Anchor, Canvas, Frame, Scale};
use super::{Chart, columns};
use crate::number::{count, fine_percent, percent, percent_interval};
use crate::words;

/// Shares of questions in the data table.
const COVERAGES: [f64; 5] = [0.1, 0.25, 0.5, 0.75, 1.0];

/// Draws the curve of one checkpoint; `None` where which answers are right is not known.
pub(crate) fn draw(id: &str, phase: &str, of: &Calibration) -> Option<Chart> {
    let (half, last) = (of.surest_half.as_ref()?, of.risk_coverage.last()?);
    let all = 1.0 - last.1;
    let mut canvas = Canvas::new(320.0, 292.0);
    let frame = Frame {
        x: Scale { values: (0.0, 1.0), positions: (54.0, 300.0) },
        y: Scale { values: (0.0, 1.0), positions: (246.0, 12.0) },
    };
    frame.draw_vertical(&mut canvas, "share right of them");
    frame.draw_horizontal(&mut canvas, "questions answered, the surest first");
    canvas.line(frame.point(0.0, all), frame.point(1.0, all), "ideal");
    let at = if all < 0.5 { frame.y.at(all) + 14.0 } else { frame.y.at(all) + 16.0 };
    canvas.label((frame.x.at(0.02), at), Anchor::Start, "hint", "answering all, or any at random");
    let points: Vec<(f64, f64)> =
        of.risk_coverage.iter().map(|(coverage, risk)| frame.point(*coverage, 1.0 - risk)).collect();
    canvas.polyline(&points, "path");
    let estimate = &half.estimate;
    canvas.line(frame.point(0.5, estimate.low), frame.point(0.5, estimate.high), "whisker");
    canvas.circle(frame.point(0.5, estimate.value), 4.0, "dot");

    let title = format!("Answering only where it is surest, after {}", words::phase(phase));
    let description = format!(
        "Of all questions {} are answered rightly; of the surest half {}, 95% interval {}.",
        percent(all),
        percent(estimate.value),
        percent_interval(estimate)
    );
    let n = estimate.n as f64;
    let row = |share: f64| {
        let (coverage, risk) = of.risk_coverage.iter().find(|(coverage, _)| *coverage >= share - 1e-9)?;
        Some(vec![fine_percent(*coverage), fine_percent(1.0 - risk), count((coverage * n).round() as usize)])
    };
    Some(Chart {
        svg: canvas.finish(id, &title, &description),
        title,
        columns: columns(&["Answered", "Share right", "n"]),
        rows: COVERAGES.into_iter().filter_map(row).collect(),
    })
}
