//! How a behaviour went over the steps of one phase, and where it changed most.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::diagnosis::Estimate;

/// The behaviour at one saved step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// Steps done.
    pub step: u64,
    /// Share of items right.
    pub value: Estimate,
}

/// A behaviour over the saved steps of a phase, its start and its end among them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bisection {
    /// In order of steps; at least three.
    pub saved: Vec<Saved>,
    /// The saved steps between which it fell most, where that fall is beyond both intervals; `None` where no step fell so.
    pub fall: Option<(u64, u64)>,
    /// Share of all falls that lies in that one.
    pub share: f64,
}

impl Bisection {
    /// Finds the largest fall between neighbours; `None` with fewer than three steps.
    pub fn of(saved: Vec<Saved>) -> Option<Self> {
        if saved.len() < 3 {
            return None;
        }
        let falls: Vec<f64> = saved.windows(2).map(|pair| pair[0].value.value - pair[1].value.value).collect();
        let total: f64 = falls.iter().filter(|fall| **fall > 0.0).sum();
        let largest = (0..falls.len()).reduce(|best, next| if falls[next] > falls[best] { next } else { best })?;
        let is_real = saved[largest].value.low > saved[largest + 1].value.high;
        let fall = is_real.then(|| (saved[largest].step, saved[largest + 1].step));
        let share = if total > 0.0 { falls[largest].max(0.0) / total } else { 0.0 };
        Some(Self { saved, fall, share })
    }

    /// One sentence for readers.
    pub fn sentence(&self) -> String {
        let percent = |value: f64| format!("{:.0}%", 100.0 * value);
        let (first, last) = (&self.saved[0].value, &self.saved[self.saved.len() - 1].value);
        match self.fall {
            Some((from, to)) => format!(
                "Within the phase it fell most between steps {from} and {to} ({} of all that it lost there), from {} at its start to {} at its end.",
                percent(self.share),
                percent(first.value),
                percent(last.value)
            ),
            None if first.low > last.high => format!(
                "Within the phase it fell little by little, from {} at its start to {} at its end.",
                percent(first.value),
                percent(last.value)
            ),
            None => format!(
                "Within the phase it never fell beyond chance: {} at its start, {} at its end; what a healthy phase teaches was not learnt.",
                percent(first.value),
                percent(last.value)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Bisection, Saved};
    use crate::diagnosis::Estimate;

    fn saved(values: &[f64]) -> Vec<Saved> {
        let of = |(i, value): (usize, &f64)| Saved {
            step: 100 * i as u64,
            value: Estimate {
                value: *value,
                low: value - 0.05,
                high: value + 0.05,
                n: 100,
                method: "Wilson".to_owned(),
            },
        };
        values.iter().enumerate().map(of).collect()
    }

    #[test]
    fn the_largest_fall_is_found_and_a_rise_has_none() {
        let broken = Bisection::of(saved(&[0.9, 0.88, 0.4, 0.38])).unwrap();
        assert_eq!(broken.fall, Some((100, 200)));
        assert!((broken.share - 0.48 / 0.52).abs() < 1e-9);
        assert!(broken.sentence().contains("between steps 100 and 200 (92%"), "{}", broken.sentence());
        let taught = Bisection::of(saved(&[0.1, 0.3, 0.5])).unwrap();
        assert_eq!(taught.fall, None);
        assert!(taught.sentence().contains("never fell beyond chance"), "{}", taught.sentence());
        let worn = Bisection::of(saved(&[0.9, 0.84, 0.78, 0.72])).unwrap();
        assert_eq!(worn.fall, None);
        assert_eq!(
            worn.sentence(),
            "Within the phase it fell little by little, from 90% at its start to 72% at its end."
        );
        assert_eq!(Bisection::of(saved(&[0.9, 0.1])), None);
    }
}
