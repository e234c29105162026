//! Rotary position embedding, half-split.

use crate::element::Element;
use crate::simd::vectorize;
use std::sync::{Arc, Mutex, PoisonError};

/// Cosines and sines of the rotation angles of positions `0..n_positions`.
///
/// # Reference
/// Su et al. 2021, arXiv:2104.09864, equation 34, in the half-split order of Hugging Face's Llama (`rotate_half`).
pub(crate) struct Rotation {
    /// The base that the frequencies come from; none where they were given.
    theta: Option<f64>,
    /// Angle per position of each pair of components, D / 2.
    frequencies: Vec<f64>,
    half: usize,
    f32: Table<f32>,
    f64: Table<f64>,
}

/// `n_positions * half` values each.
pub(crate) struct Table<T> {
    cos: Vec<T>,
    sin: Vec<T>,
}

/// An element type that has its table.
pub(crate) trait Turns: Sized {
    /// The table of this type.
    fn table(rotation: &Rotation) -> &Table<Self>;
}

impl Turns for f32 {
    fn table(rotation: &Rotation) -> &Table<Self> {
        &rotation.f32
    }
}

impl Turns for f64 {
    fn table(rotation: &Rotation) -> &Table<Self> {
        &rotation.f64
    }
}

/// Tables made so far: a model asks for the same one in every layer of every step.
static TABLES: Mutex<Vec<Arc<Rotation>>> = Mutex::new(Vec::new());

impl Rotation {
    /// The table for `theta` and `head_dim` that covers at least `n_positions`.
    pub(crate) fn covering(n_positions: usize, theta: f64, head_dim: usize) -> Arc<Self> {
        let half = head_dim / 2;
        let is_same =
            |table: &Self| table.half == half && table.theta.is_some_and(|own| own.to_bits() == theta.to_bits());
        Self::find_or_make(n_positions, half, is_same, || {
            (Some(theta), (0..half).map(|i| theta.powf(-(i as f64) / half as f64)).collect())
        })
    }

    /// The table for given angles per position, D / 2 of them, that covers at least `n_positions`.
    pub(crate) fn of_frequencies(n_positions: usize, frequencies: &[f64]) -> Arc<Self> {
        let is_same = |table: &Self| table.theta.is_none() && table.frequencies == frequencies;
        Self::find_or_make(n_positions, frequencies.len(), is_same, || (None, frequencies.to_vec()))
    }

    fn find_or_make(
        n_positions: usize,
        half: usize,
        is_same: impl Fn(&Self) -> bool,
        frequencies: impl FnOnce() -> (Option<f64>, Vec<f64>),
    ) -> Arc<Self> {
        // A panic cannot leave the list half-changed, so a poisoned lock is still good.
        let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(idx) = tables.iter().position(|table| is_same(table)) {
            if tables[idx].f64.cos.len() >= n_positions * half {
                return Arc::clone(&tables[idx]);
            }
            tables.swap_remove(idx);
        }
        let (theta, frequencies) = frequencies();
        let table = Arc::new(Self::new(n_positions.next_power_of_two(), theta, frequencies));
        tables.push(Arc::clone(&table));
        table
    }

    fn new(n_positions: usize, theta: Option<f64>, frequencies: Vec<f64>) -> Self {
        let angles =
            (0..n_positions).flat_map(|position| frequencies.iter().map(move |f| (position as f64 * f).sin_cos()));
        let (sin, cos): (Vec<f64>, Vec<f64>) = angles.unzip();
        let narrow = |values: &[f64]| values.iter().map(|&value| value as f32).collect();
        let f32 = Table { cos: narrow(&cos), sin: narrow(&sin) };
        let half = frequencies.len();
        Self { theta, frequencies, half, f32, f64: Table { cos, sin } }
    }

    /// `to = scale * rotate(from)` for one head at one position.
    #[inline]
    pub(crate) fn turn<T: Element>(&self, to: &mut [T], from: &[T], position: u32, scale: T) {
        self.turn_by(to, from, position, scale, T::ONE);
    }

    /// [`Rotation::turn`] for a head of many tokens: rows of `to` without gaps, rows of `from` `stride` apart.
    pub(crate) fn turn_rows<T: Element>(&self, to: &mut [T], from: &[T], stride: usize, positions: &[u32], scale: T) {
        let table = T::table(self);
        turn_heads(to, from, stride, &table.cos, &table.sin, positions, scale, self.half);
    }

    /// `to = scale * rotate^-1(from)`, the gradient of [`Rotation::turn`].
    #[inline]
    pub(crate) fn turn_back<T: Element>(&self, to: &mut [T], from: &[T], position: u32, scale: T) {
        self.turn_by(to, from, position, scale, -T::ONE);
    }

    #[inline]
    fn turn_by<T: Element>(&self, to: &mut [T], from: &[T], position: u32, scale: T, sense: T) {
        let table = T::table(self);
        let angles = position as usize * self.half..(position as usize + 1) * self.half;
        turn_head(to, from, &table.cos[angles.clone()], &table.sin[angles], scale, sense);
    }
}

#[allow(clippy::inline_always)]
#[inline(always)]
fn turn_one<T: Element>(to: &mut [T], from: &[T], cos: &[T], sin: &[T], scale: T, sense: T) {
    let half = cos.len();
    let (from_low, from_high) = from[..2 * half].split_at(half);
    let (to_low, to_high) = to[..2 * half].split_at_mut(half);
    let sin = &sin[..half];
    for i in 0..half {
        let (c, s) = (cos[i] * scale, sin[i] * scale * sense);
        to_low[i] = from_low[i] * c - from_high[i] * s;
        to_high[i] = from_high[i] * c + from_low[i] * s;
    }
}

vectorize! {
    /// One head, turned by the angles whose cosines and sines are given.
    fn turn_head<T>(to: &mut [T], from: &[T], cos: &[T], sin: &[T], scale: T, sense: T) {
        turn_one(to, from, cos, sin, scale, sense);
    }
}

vectorize! {
    /// A head of several tokens; the tables have all positions.
    fn turn_heads<T>(
        to: &mut [T],
        from: &[T],
        stride: usize,
        cos: &[T],
        sin: &[T],
        positions: &[u32],
        scale: T,
        half: usize,
    ) {
        for ((to, from), &position) in to.chunks_exact_mut(2 * half).zip(from.chunks(stride)).zip(positions) {
            let angles = position as usize * half..(position as usize + 1) * half;
            turn_one(to, from, &cos[angles.clone()], &sin[angles], scale, T::ONE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turning_back_undoes_a_turn() {
        let table = Rotation::covering(10, 10_000.0, 6);
        let from = [0.3, -1.0, 2.0, 0.7, 0.1, -0.4_f64];
        let (mut turned, mut back) = ([0.0; 6], [0.0; 6]);
        table.turn(&mut turned, &from, 7, 1.0);
        table.turn_back(&mut back, &turned, 7, 1.0);
        assert!(from.iter().zip(back).all(|(a, b)| (a - b).abs() < 1e-12));
        assert!(from.iter().zip(turned).any(|(a, b)| (a - b).abs() > 0.1));
    }

    #[test]
    fn frequencies_that_are_given_turn_as_those_of_their_base() {
        let given: Vec<f64> = (0..3).map(|i| 500.0_f64.powf(-f64::from(i) / 3.0)).collect();
        let from = [0.3, -1.0, 2.0, 0.7, 0.1, -0.4_f64];
        let turned = |table: &Rotation| {
            let mut to = [0.0; 6];
            table.turn(&mut to, &from, 7, 1.0);
            to
        };
        let expected = turned(&Rotation::covering(10, 500.0, 6));
        assert_eq!(turned(&Rotation::of_frequencies(10, &given)), expected);
        assert_ne!(turned(&Rotation::of_frequencies(10, &[given[0], given[1], 0.5])), expected);
    }

    #[test]
    fn a_longer_table_agrees_with_a_shorter_one() {
        let short = Rotation::covering(3, 500.0, 4);
        let long = Rotation::covering(3_000, 500.0, 4);
        assert_eq!(short.f64.cos[..6], long.f64.cos[..6]);
        assert_eq!(short.f64.sin[..6], long.f64.sin[..6]);
    }
}
