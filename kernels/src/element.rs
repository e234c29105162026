//! The two element types: `f32` to train in, `f64` to check gradients in, through the same code.

use crate::rotation::Turns;
use candle_core::WithDType;
use std::ops::Neg;

/// A floating-point number that the operations of this crate work on.
pub(crate) trait Element: WithDType + Default + Neg<Output = Self> + Turns {
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// The smallest finite value, the start of a running maximum.
    const LOWEST: Self;

    /// e^self; for `f32` a polynomial that vectorises, within 2 units in the last place, 0 below -87 and
    /// infinite above 88.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// The larger of the two; `self` when `other` is not a number.
    fn larger(self, other: Self) -> Self;
}

#[allow(clippy::inline_always)] // must take on the vector instructions of the loop that it stands in
impl Element for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const LOWEST: Self = f32::MIN;

    /// Cody-Waite reduction to |r| <= ln 2 / 2 and the polynomial of Cephes' `expf`.
    #[inline(always)]
    fn exp(self) -> Self {
        const LOWEST_ARGUMENT: f32 = -87.0;
        const HIGHEST_ARGUMENT: f32 = 88.0;
        // Adding 1.5 * 2^23 leaves the rounded integer in the low bits of the mantissa.
        const ROUND: f32 = 12_582_912.0;
        // Few enough bits that `n * LN_2_HIGH` is exact.
        const LN_2_HIGH: f32 = 355.0 / 512.0;
        const LN_2_LOW: f32 = -2.121_944_4e-4;
        // Comparisons rather than `clamp` or `max`: not-a-number has to come through.
        let x = if self > HIGHEST_ARGUMENT { HIGHEST_ARGUMENT } else { self };
        let x = if x < LOWEST_ARGUMENT { LOWEST_ARGUMENT } else { x };
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = x - n * LN_2_HIGH - n * LN_2_LOW;
        let mut p = 1.987_569_1e-4;
        p = p * r + 1.398_199_9e-3;
        p = p * r + 8.333_452e-3;
        p = p * r + 4.166_579_6e-2;
        p = p * r + 1.666_666_5e-1;
        p = p * r + 0.5;
        let fraction = p * r * r + r + 1.0;
        let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
        let power = if self > HIGHEST_ARGUMENT { f32::INFINITY } else { power };
        if self < LOWEST_ARGUMENT { 0.0 } else { fraction * power }
    }
    #[inline(always)]
    fn ln(self) -> Self {
        f32::ln(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if other > self { other } else { self }
    }
}

#[allow(clippy::inline_always)]
impl Element for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const LOWEST: Self = f64::MIN;

    #[inline(always)]
    fn exp(self) -> Self {
        f64::exp(self)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        f64::ln(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if other > self { other } else { self }
    }
}

/// Lanes of every reduction. Fixed, so that the order of additions does not depend on the machine's vectors.
pub(crate) const LANES: usize = 16;

/// `sum_i f(i)` over `n` terms in [`LANES`] interleaved partial sums, so that the loop vectorises.
#[allow(clippy::inline_always)]
#[inline(always)]
pub(crate) fn sum_terms<T: Element>(n: usize, term: impl Fn(usize) -> T) -> T {
    let mut lanes = [T::ZERO; LANES];
    let whole = n - n % LANES;
    let mut i = 0;
    while i < whole {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(i + lane);
        }
        i += LANES;
    }
    while i < n {
        lanes[i - whole] += term(i);
        i += 1;
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            let upper = lanes[lane + width];
            lanes[lane] += upper;
        }
        width /= 2;
    }
    lanes[0]
}

/// The hyperbolic tangent, within a relative 1e-6 for `f32`; it vectorises.
#[allow(clippy::inline_always)]
#[inline(always)]
pub(crate) fn tanh<T: Element>(z: T) -> T {
    let size = if z < T::ZERO { -z } else { z };
    let decayed = (-(size + size)).exp();
    let large = (T::ONE - decayed) / (T::ONE + decayed);
    let large = if z < T::ZERO { -large } else { large };
    // Near zero the difference above cancels; the series is exact to the last bits there.
    let square = z * z;
    let c = T::from_f64;
    let small = z * (T::ONE - square * (c(1.0 / 3.0) - square * (c(2.0 / 15.0) - square * c(17.0 / 315.0))));
    if size < c(0.1) { small } else { large }
}

/// `to += more`, element by element.
pub(crate) fn add_to<T: Element>(to: &mut [T], more: &[T]) {
    for (to, &more) in to.iter_mut().zip(more) {
        *to += more;
    }
}

/// The largest of `values`, [`Element::LOWEST`] for none.
#[allow(clippy::inline_always)]
#[inline(always)]
pub(crate) fn largest<T: Element>(values: &[T]) -> T {
    let mut lanes = [T::LOWEST; LANES];
    let mut chunks = values.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = lane.larger(value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = lane.larger(value);
    }
    lanes.iter().fold(T::LOWEST, |best, &lane| best.larger(lane))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_polynomial_exponential_is_within_two_units_in_the_last_place() {
        let mut worst: f64 = 0.0;
        for i in -86_990..87_990_i32 {
            let x = i as f32 * 1e-3;
            let exact = f64::from(x).exp();
            let error = (f64::from(Element::exp(x)) - exact).abs() / exact;
            worst = worst.max(error / f64::from(f32::EPSILON));
        }
        assert!(worst < 2.0, "{worst} units");
    }

    #[test]
    fn the_exponential_keeps_not_a_number_and_saturates() {
        assert!(Element::exp(f32::NAN).is_nan());
        assert_eq!(Element::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(Element::exp(-200.0_f32), 0.0);
        assert_eq!(Element::exp(0.0_f32), 1.0);
        assert_eq!(Element::exp(100.0_f32), f32::INFINITY);
    }

    #[test]
    fn the_hyperbolic_tangent_is_within_a_millionth() {
        for i in -20_000..=20_000_i32 {
            let x = i as f32 * 1e-3 + 3e-5;
            let (found, exact) = (f64::from(tanh(x)), f64::from(x).tanh());
            assert!((found - exact).abs() <= 1e-6 * exact.abs(), "{x}: {found} instead of {exact}");
        }
        assert_eq!((tanh(1e30_f32), tanh(-1e30_f32), tanh(0.0_f32)), (1.0, -1.0, 0.0));
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn sums_of_any_length_count_every_term_once() {
        for n in 0..70 {
            let total: f64 = sum_terms(n, |i| i as f64);
            assert_eq!(total, (0..n).sum::<usize>() as f64, "{n} terms");
        }
    }
}
