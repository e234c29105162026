//! The small bar under a change: dot and interval to either side of zero.

use evals::diagnosis::Estimate;
use minijinja::Value;

use super::svg::{Canvas, Scale};

/// The common scale of all changes on one axis.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reach(f64);

impl Reach {
    /// As far to either side as the farthest end of any interval.
    pub(crate) fn over<'a>(changes: impl Iterator<Item = &'a Estimate>) -> Self {
        let ends = changes.flat_map(|c| [c.low, c.value, c.high]).filter(|v| v.is_finite());
        Self(ends.fold(0.0, |reach: f64, end| reach.max(end.abs())))
    }

    /// Draws one change; `tone` colours it.
    pub(crate) fn draw(self, change: &Estimate, tone: &str) -> Option<Value> {
        if !change.value.is_finite() || self.0 <= 0.0 {
            return None;
        }
        let scale = Scale { values: (-self.0, self.0), positions: (4.0, 116.0) };
        let mut canvas = Canvas::new(120.0, 12.0);
        canvas.line((4.0, 6.0), (116.0, 6.0), "track");
        canvas.line((60.0, 0.5), (60.0, 11.5), "zero");
        if change.low.is_finite() && change.high.is_finite() {
            canvas.line((scale.at(change.low), 6.0), (scale.at(change.high), 6.0), &format!("span {tone}"));
        }
        canvas.circle((scale.at(change.value), 6.0), 3.0, "dot");
        Some(canvas.decorate())
    }
}
