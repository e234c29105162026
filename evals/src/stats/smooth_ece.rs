//! Calibration error without bins: residuals smoothed by a kernel whose width the data choose.

use super::calibration::Forecast;

/// A smooth calibration error and the width of the kernel that it was found at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SmoothEce {
    /// The error, from 0 to 1.
    pub value: f64,
    /// Standard deviation of the kernel, in units of confidence: the largest multiple of 1/1024 above the fixed point.
    pub width: f64,
}

/// Steps of the search: the width is a multiple of `2^-10`.
const REFINEMENTS: u32 = 10;

/// Widths below this count as small enough.
const SMALLEST: f64 = 0.001;

/// Added to the density at each point, in forecasts, which keeps it from 0.
const DENSITY_FLOOR: f64 = 1e-4;

/// Kernel values beyond this many standard deviations are less than the last bit of those at its centre.
const REACH: f64 = 9.0;

/// Smooth calibration error at its fixed point; `None` without forecasts.
///
/// `smECE_s = integral over [0, 1] of |(1/n) sum_i K_s(t, f_i) (f_i - o_i)| dt` with the Gaussian kernel reflected at 0 and 1, at the
/// width `s` with `smECE_s = s`. It is never 0 on finite data: see [`super::consistency`].
///
/// # Reference
/// Błasiok and Nakkiran 2023, arXiv 2309.12236, definition 3 and section 3.1. Equal to `relplot.smECE` 1.0.3 with its default kernel
/// within 1e-9, grids included: residuals are shared between neighbours on a grid of `max(1000, 10/s) + 1` points, smoothed there, read off at
/// `max(200, 10/s)` points between neighbours linearly, and divided by the smoothed number of forecasts.
///
/// # Deviations
/// As relplot and unlike the paper: the kernel ends half a unit from its centre, so that wide kernels lose mass (from errors as
/// well as from density), and the bisection returns the upper end of its last bracket, up to 1/1024 above the fixed point.
pub fn smooth_ece(forecasts: &[Forecast]) -> Option<SmoothEce> {
    Smoother::new(forecasts)?.measure(forecasts)
}

/// The same for many sets of outcomes of the same forecasts, as in [`super::consistency`]: what depends on confidence alone is kept.
#[derive(Debug, Clone)]
pub struct Smoother {
    coarse: Grid,
    confidences: Vec<f64>,
    /// By width in units of 1/1024: sum of the smoothed density.
    density: Vec<Option<f64>>,
}

impl Smoother {
    /// For forecasts with these confidences; `None` without any.
    pub fn new(forecasts: &[Forecast]) -> Option<Self> {
        let confidences: Vec<f64> = forecasts.iter().map(|f| f.confidence).collect();
        let density = vec![None; 1 << REFINEMENTS];
        (!confidences.is_empty()).then(|| Self { coarse: Grid::new(&confidences, COARSE), confidences, density })
    }

    /// Smooth calibration error of forecasts with the same confidences; `None` where their number differs.
    pub fn measure(&mut self, forecasts: &[Forecast]) -> Option<SmoothEce> {
        if forecasts.len() != self.confidences.len() {
            return None;
        }
        let residuals: Vec<f64> = forecasts.iter().map(|f| f.confidence - f.outcome).collect();
        // In units of 1/1024, so that a width is an exact place in `density`.
        let (mut above, mut below) = (1_usize << REFINEMENTS, 0_usize);
        for _ in 0..REFINEMENTS {
            let middle = usize::midpoint(above, below);
            let width = width_of(middle);
            // Wider kernels cancel more: the error falls as the width rises, and they meet once.
            if width < SMALLEST || width < self.error_at(&residuals, middle) { below = middle } else { above = middle }
        }
        // A width of 1 is never below the error, which is at most 1; the place of 1 is beyond `density`.
        let value = self.error_at(&residuals, above);
        Some(SmoothEce { value, width: width_of(above) })
    }

    /// Smooth calibration error with a kernel of `units / 1024`.
    fn error_at(&mut self, residuals: &[f64], units: usize) -> f64 {
        let width = width_of(units);
        let n_points = grid_size(width);
        let fine;
        let grid = if n_points == COARSE {
            &self.coarse
        } else {
            fine = Grid::new(&self.confidences, n_points);
            &fine
        };
        let kernel = Kernel::new(width, n_points);
        let error: f64 = kernel.smooth(&grid.share(residuals)).map(f64::abs).sum();
        let known = self.density.get(units).copied().flatten();
        let density = known.unwrap_or_else(|| {
            let ones = vec![1.0; residuals.len()];
            kernel.smooth(&grid.share(&ones)).map(|density| density + DENSITY_FLOOR).sum()
        });
        if let Some(place) = self.density.get_mut(units) {
            *place = Some(density);
        }
        error / density
    }
}

fn width_of(units: usize) -> f64 {
    units as f64 / f64::from(1_u32 << REFINEMENTS)
}

/// Points of the grid for kernels that are not narrow.
const COARSE: usize = 1001;

fn grid_size(width: f64) -> usize {
    ((20.0 / width).round() as usize).max(2000) / 2 + 1
}

/// Where confidences lie between the points of a grid on `[0, 1]`.
#[derive(Debug, Clone)]
struct Grid {
    n_points: usize,
    /// The point below and the way to the next one.
    places: Vec<(usize, f64)>,
}

impl Grid {
    fn new(confidences: &[f64], n_points: usize) -> Self {
        let last = (n_points - 1) as f64;
        let place = |confidence: &f64| {
            let below = ((confidence * last) as usize).min(n_points - 2);
            (below, confidence * last - below as f64)
        };
        Self { n_points, places: confidences.iter().map(place).collect() }
    }

    /// Values at the confidences, shared between the points beside each.
    fn share(&self, values: &[f64]) -> Vec<f64> {
        let mut shared = vec![0.0; self.n_points];
        for ((below, way), value) in self.places.iter().zip(values) {
            shared[*below] += (1.0 - way) * value;
            shared[below + 1] += way * value;
        }
        shared
    }
}

/// A Gaussian on a grid of `[0, 1]` with its centre at 1/2, without the values that are too small to count.
struct Kernel {
    values: Vec<f64>,
    /// Place on the grid of the first value.
    first: usize,
    width: f64,
}

impl Kernel {
    fn new(width: f64, n_points: usize) -> Self {
        let last = (n_points - 1) as f64;
        let reach = (REACH * width * last).ceil() as usize;
        let centre = (n_points - 1) / 2;
        let first = centre.saturating_sub(reach);
        let end = (n_points - centre.saturating_sub(reach)).min(n_points);
        let value = |place: usize| {
            let off = place as f64 / last - 0.5;
            (-off * off / (2.0 * width * width)).exp() / (std::f64::consts::TAU.sqrt() * width)
        };
        Self { values: (first..end).map(value).collect(), first, width }
    }

    /// Smoothed values at the points where the integrand is read off, reflected at both ends of the grid.
    fn smooth<'a>(&'a self, grid: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        let n_points = grid.len();
        let mirrored: Vec<f64> =
            grid[1..].iter().rev().chain(grid).chain(grid[..n_points - 1].iter().rev()).copied().collect();
        let n_read = ((10.0 / self.width).round() as usize).max(200);
        let (step, last) = (1.0 / (n_read - 1) as f64, (n_points - 1) as f64);
        (0..n_read).map(move |place| {
            let t = if place + 1 == n_read { 1.0 } else { place as f64 * step };
            let below = ((t * last) as usize).min(n_points - 2);
            let way = (t - below as f64 / last) * last;
            let at = |point: usize| {
                let start = n_points / 2 + point + self.first;
                dot(&mirrored[start..start + self.values.len()], &self.values)
            };
            at(below) * (1.0 - way) + at(below + 1) * way
        })
    }
}

/// Sum of products, in four strands that the processor can take at once.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (mut sums, mut rest) = ([0.0; 4], 0.0);
    let (quads_a, quads_b) = (a.chunks_exact(4), b.chunks_exact(4));
    for (a, b) in quads_a.remainder().iter().zip(quads_b.remainder()) {
        rest += a * b;
    }
    for (a, b) in quads_a.zip(quads_b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::{Smoother, smooth_ece};
    use crate::random::stream;
    use crate::stats::calibration::Forecast;
    use rand::Rng;

    /// The paper's definition: the integral by the trapezoidal rule on a fine grid, reflections summed one by one.
    fn exact_at(forecasts: &[Forecast], width: f64) -> f64 {
        let n_steps = 2000;
        let gauss = |x: f64| (-x * x / (2.0 * width * width)).exp() / (std::f64::consts::TAU.sqrt() * width);
        let reach = (9.0 * width / 2.0).ceil() as i32 + 1;
        let smoothed = |t: f64| {
            let of = |f: &Forecast| {
                let kernel: f64 = (-reach..=reach)
                    .map(|k| 2.0 * f64::from(k))
                    .map(|shift| gauss(t - f.confidence + shift) + gauss(t + f.confidence + shift))
                    .sum();
                kernel * (f.confidence - f.outcome)
            };
            (forecasts.iter().map(of).sum::<f64>() / forecasts.len() as f64).abs()
        };
        let ends = 0.5 * (smoothed(0.0) + smoothed(1.0));
        let inner: f64 = (1..n_steps).map(|i| smoothed(f64::from(i) / f64::from(n_steps))).sum();
        (ends + inner) / f64::from(n_steps)
    }

    fn exact(forecasts: &[Forecast]) -> f64 {
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..16 {
            let middle = 0.5 * (low + high);
            if middle < exact_at(forecasts, middle) { low = middle } else { high = middle }
        }
        0.5 * (low + high)
    }

    fn drawn(n: usize, shift: f64, name: &str) -> Vec<Forecast> {
        let mut rng = stream(1, name);
        (0..n)
            .map(|_| {
                let confidence = 0.25 + 0.75 * rng.random::<f64>();
                Forecast { confidence, outcome: f64::from(u8::from(rng.random::<f64>() < confidence - shift)) }
            })
            .collect()
    }

    #[test]
    fn the_grid_agrees_with_the_integral() {
        for (n, shift) in [(40, 0.0), (200, 0.0), (200, 0.1), (300, 0.25)] {
            let f = drawn(n, shift, "integral");
            let (grid, exact) = (smooth_ece(&f).unwrap(), exact(&f));
            println!("n = {n}, shift {shift}: {} at width {}, integral {exact}", grid.value, grid.width);
            assert!((grid.value - exact).abs() < 2e-3, "{grid:?} is not {exact}");
            assert!(grid.width >= grid.value && grid.width - grid.value < 3e-3, "{grid:?} is no fixed point");
        }
    }

    #[test]
    fn a_shift_of_all_confidences_is_the_error() {
        let error = smooth_ece(&drawn(4000, 0.2, "shift")).unwrap().value;
        assert!((error - 0.2).abs() < 0.02, "{error}");
    }

    #[test]
    fn order_does_not_matter_and_what_is_kept_changes_nothing() {
        let f = drawn(120, 0.1, "order");
        let reversed: Vec<Forecast> = f.iter().rev().copied().collect();
        let (a, b) = (smooth_ece(&f).unwrap(), smooth_ece(&reversed).unwrap());
        assert!((a.value - b.value).abs() < 1e-12 && a.width == b.width);
        let mut smoother = Smoother::new(&f).unwrap();
        assert_eq!((smoother.measure(&f), smoother.measure(&f)), (Some(a), Some(a)));
        assert_eq!(smoother.measure(&f[1..]), None);
        assert_eq!(smooth_ece(&[]), None);
    }
}
