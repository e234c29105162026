//! The learning rate over the steps of a phase.

use crate::recipe::ScheduleRecipe;
use std::f64::consts::PI;

impl ScheduleRecipe {
    /// The factor on the peak learning rate at `step` (from 0) of `steps`.
    ///
    /// Warm-up is `(step + 1) / warmup_steps`. With `p` the progress from 0 to 1 over what remains, and `f` the final fraction:
    /// cosine is `f + (1 - f)(1 + cos(pi p)) / 2`; warm-up, stable, decay is 1, then `1 - (1 - f) p` over the decaying share.
    pub fn factor(&self, step: u64, steps: u64) -> f64 {
        match self {
            Self::Cosine(cosine) => {
                let f = cosine.final_fraction.get();
                warm_up(step, cosine.warmup_steps).unwrap_or_else(|| {
                    let p = progress(step, cosine.warmup_steps, steps);
                    f + (1.0 - f) * 0.5 * (1.0 + (PI * p).cos())
                })
            }
            Self::Wsd(wsd) => warm_up(step, wsd.warmup_steps).unwrap_or_else(|| {
                let n_decay = (wsd.decay_fraction.get() * steps as f64).round() as u64;
                let start = steps.saturating_sub(n_decay).max(wsd.warmup_steps);
                if step < start {
                    1.0
                } else {
                    1.0 - (1.0 - wsd.final_fraction.get()) * progress(step + 1, start, steps + 1)
                }
            }),
            Self::Constant(constant) => warm_up(step, constant.warmup_steps).unwrap_or(1.0),
        }
    }
}

/// The factor during warm-up, none after it.
fn warm_up(step: u64, warmup_steps: u64) -> Option<f64> {
    (step < warmup_steps).then(|| (step + 1) as f64 / warmup_steps as f64)
}

/// From 0 at step `from` to 1 at the last of `steps`.
fn progress(step: u64, from: u64, steps: u64) -> f64 {
    let span = steps.saturating_sub(1).saturating_sub(from).max(1);
    (step.saturating_sub(from) as f64 / span as f64).min(1.0)
}

#[cfg(test)]
mod tests {
    use crate::recipe::{ConstantRecipe, CosineRecipe, Probability, ScheduleRecipe, WsdRecipe};

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12
    }

    #[test]
    fn cosine_rises_to_one_and_ends_at_the_final_fraction() {
        let schedule =
            ScheduleRecipe::Cosine(CosineRecipe { warmup_steps: 10, final_fraction: Probability::new(0.1).unwrap() });
        assert!(near(schedule.factor(0, 100), 0.1));
        assert!(near(schedule.factor(9, 100), 1.0));
        assert!(near(schedule.factor(10, 100), 1.0));
        assert!(near(schedule.factor(99, 100), 0.1));
        assert!((10..99).all(|s| schedule.factor(s, 100) >= schedule.factor(s + 1, 100)));
    }

    #[test]
    fn wsd_stays_at_one_until_its_decay() {
        let schedule = ScheduleRecipe::Wsd(WsdRecipe {
            warmup_steps: 10,
            decay_fraction: Probability::new(0.2).unwrap(),
            final_fraction: Probability::new(0.0).unwrap(),
        });
        assert!((9..80).all(|s| near(schedule.factor(s, 100), 1.0)));
        assert!(schedule.factor(80, 100) < 1.0);
        assert!(near(schedule.factor(99, 100), 0.0));
    }

    #[test]
    fn constant_stays_after_its_warm_up_and_may_have_none() {
        let schedule = ScheduleRecipe::Constant(ConstantRecipe { warmup_steps: 0 });
        assert!((0..5).all(|s| near(schedule.factor(s, 5), 1.0)));
    }

    #[test]
    fn a_warm_up_longer_than_the_phase_never_divides_by_zero() {
        for schedule in [ScheduleRecipe::Cosine(CosineRecipe::default()), ScheduleRecipe::Wsd(WsdRecipe::default())] {
            assert!((0..3).all(|s| schedule.factor(s, 3).is_finite()));
        }
    }
}
