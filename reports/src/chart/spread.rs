//! The small bar under a value in the table of settings: interval, mean, and every seed.

use evals::diagnosis::Estimate;
use minijinja::Value;

use super::ruler::Ruler;
use super::svg::Canvas;

/// The common scale of one column of the table.
pub(crate) struct Column {
    ruler: Ruler,
    /// What its two ends stand for.
    pub(crate) ends: (String, String),
}

impl Column {
    /// A scale that holds all values and intervals.
    pub(crate) fn over(values: impl Iterator<Item = f64>, is_share: bool) -> Self {
        let ruler = Ruler::over(values, (4.0, 116.0), is_share);
        Self { ends: ruler.ends(), ruler }
    }

    /// Draws, unless the mean lies outside the scale, the interval as a bar, the mean as a filled dot and the seeds as ticks.
    pub(crate) fn draw(&self, estimate: &Estimate, seeds: &[f64]) -> Option<Value> {
        if !self.ruler.holds(estimate.value) {
            return None;
        }
        let scale = self.ruler.scale;
        let mut canvas = Canvas::new(120.0, 12.0);
        canvas.line((4.0, 6.0), (116.0, 6.0), "track");
        if estimate.low.is_finite() && estimate.high.is_finite() {
            canvas.line((scale.at(estimate.low), 6.0), (scale.at(estimate.high), 6.0), "span");
        }
        for seed in seeds.iter().filter(|v| v.is_finite()) {
            let x = scale.at(*seed);
            canvas.line((x, 1.0), (x, 11.0), "seed");
        }
        canvas.circle((scale.at(estimate.value), 6.0), 3.0, "dot");
        Some(canvas.decorate())
    }
}
