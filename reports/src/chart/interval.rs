//! The small bar under a number in the phase x behaviour table.

use evals::diagnosis::Estimate;
use minijinja::Value;

use super::svg::{Canvas, Scale};

/// An interval on the way from 0 to 100 %, with the healthy reference as a tick where there is one.
pub(crate) fn draw(estimate: &Estimate, reference: Option<f64>) -> Option<Value> {
    if ![estimate.value, estimate.low, estimate.high].iter().all(|v| v.is_finite()) {
        return None;
    }
    let scale = Scale { values: (0.0, 1.0), positions: (3.0, 117.0) };
    let mut canvas = Canvas::new(120.0, 12.0);
    canvas.line((3.0, 6.0), (117.0, 6.0), "track");
    canvas.line((scale.at(estimate.low), 6.0), (scale.at(estimate.high), 6.0), "span");
    if let Some(reference) = reference.filter(|v| v.is_finite()) {
        let x = scale.at(reference);
        canvas.line((x, 0.5), (x, 11.5), "healthy-tick");
    }
    canvas.circle((scale.at(estimate.value), 6.0), 3.0, "dot");
    Some(canvas.decorate())
}
