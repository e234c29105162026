//! Axes whose ends and ticks are round numbers, whatever the values.

use super::svg::{Anchor, Canvas, Scale};
use crate::number::{MISSING, decimal};

/// Most steps between the ends of an axis before they are rounded outwards.
const STEPS: f64 = 5.0;

/// An axis with ticks at round distances.
pub(crate) struct Ruler {
    /// Where values lie.
    pub(crate) scale: Scale,
    step: f64,
    is_share: bool,
}

impl Ruler {
    /// An axis that holds all finite values; it begins at zero where that costs less than half of it.
    pub(crate) fn over(values: impl Iterator<Item = f64>, positions: (f64, f64), is_share: bool) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|v| v.is_finite()) {
            low = low.min(value);
            high = high.max(value);
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if low >= 0.0 && low < 0.5 * high {
            low = 0.0;
        }
        let least = if is_share { 0.05 } else { 1e-3 * high.abs().max(low.abs()).max(1.0) };
        if high - low < least {
            high = low + least;
        }
        if is_share && high > 1.0 {
            (low, high) = (low.min(1.0 - least), 1.0);
        }
        let step = round_up((high - low) / STEPS);
        let ends = ((low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step);
        Self { scale: Scale { values: ends, positions }, step, is_share }
    }

    /// Whether a value lies between the two ends.
    pub(crate) fn holds(&self, value: f64) -> bool {
        let (low, high) = self.scale.values;
        (low..=high).contains(&value)
    }

    /// The two ends in words.
    pub(crate) fn ends(&self) -> (String, String) {
        let (low, high) = self.scale.values;
        (self.word(low), self.word(high))
    }

    /// Grid lines across `width`, and numbers on their left.
    pub(crate) fn draw_vertical(&self, canvas: &mut Canvas, width: (f64, f64)) {
        for tick in self.ticks() {
            let y = self.scale.at(tick);
            canvas.line((width.0, y), (width.1, y), "grid");
            canvas.label((width.0 - 7.0, y + 4.0), Anchor::End, "tick", &self.word(tick));
        }
    }

    /// Grid lines along `height`, which is given from top to bottom, and numbers below.
    pub(crate) fn draw_horizontal(&self, canvas: &mut Canvas, height: (f64, f64)) {
        for tick in self.ticks() {
            let x = self.scale.at(tick);
            canvas.line((x, height.0), (x, height.1), "grid");
            canvas.label((x, height.1 + 16.0), Anchor::Middle, "tick", &self.word(tick));
        }
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let (low, high) = self.scale.values;
        let n = ((high - low) / self.step).round() as usize;
        (0..=n).map(move |i| low + i as f64 * self.step)
    }

    fn word(&self, value: f64) -> String {
        if !value.is_finite() {
            return MISSING.to_owned();
        }
        let (value, step) = if self.is_share { (100.0 * value, 100.0 * self.step) } else { (value, self.step) };
        let digits = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
        let text = decimal(value, digits);
        if self.is_share { format!("{text}%") } else { text }
    }
}

// The next of 1, 2, 5 times a power of ten.
fn round_up(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|&s| s >= step * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(values: &[f64], is_share: bool) -> Vec<String> {
        let ruler = Ruler::over(values.iter().copied(), (0.0, 1.0), is_share);
        ruler.ticks().map(|t| ruler.word(t)).collect()
    }

    #[test]
    fn ticks_are_round_and_hold_the_values() {
        assert_eq!(words(&[0.03, 0.41], true), ["0%", "10%", "20%", "30%", "40%", "50%"]);
        assert_eq!(words(&[0.62, 0.97], true), ["60%", "70%", "80%", "90%", "100%"]);
        assert_eq!(words(&[-0.3, 1.2], false), ["−0.5", "0.0", "0.5", "1.0", "1.5"]);
    }

    #[test]
    fn an_axis_without_values_or_without_extent_still_stands() {
        assert_eq!(words(&[f64::NAN], true).last().unwrap(), "100%");
        assert!(words(&[0.0, 0.0], true).len() >= 2);
        assert!(words(&[3.0], false).len() >= 2);
        assert_eq!(words(&[1.0, 1.0], true).last().unwrap(), "100%");
    }
}
