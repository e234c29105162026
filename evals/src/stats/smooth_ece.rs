//! Calibration error without bins: residuals smoothed by a kernel whose width the data choose.

use std::collections::BTreeMap;

use super::calibration::Forecast;

/// A smooth calibration error and the width of the kernel that it was found at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SmoothEce {
    /// The error, from 0 to 1.
    pub value: f64,
    /// Standard deviation of the kernel, in units of confidence: the largest multiple of 1/1024 above the fixed point.
    pub width: f64,
}

/// A width is a multiple of one part of so many, so that it is an exact key.
const UNITS: usize = 1024;

/// Widths up to this many units, those below 0.001, count as small enough.
const SMALLEST: usize = 1;

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

/// The same for many sets of outcomes of the same forecasts, or for resamples of them: what depends on confidence alone is kept.
#[derive(Debug, Clone)]
pub struct Smoother {
    confidences: Vec<f64>,
    coarse: Grid,
    /// By width in units of 1/1024, as far as they were needed.
    kernels: BTreeMap<usize, Kernel>,
}

impl Smoother {
    /// For forecasts with these confidences; `None` without any.
    pub fn new(forecasts: &[Forecast]) -> Option<Self> {
        let confidences: Vec<f64> = forecasts.iter().map(|f| f.confidence).collect();
        let coarse = Grid::new(&confidences, COARSE);
        (!confidences.is_empty()).then_some(Self { confidences, coarse, kernels: BTreeMap::new() })
    }

    /// Smooth calibration error of forecasts with the same confidences; `None` where their number differs.
    pub fn measure(&mut self, forecasts: &[Forecast]) -> Option<SmoothEce> {
        self.weighted(forecasts, |_| 1.0)
    }

    /// The same with a weight for each forecast by its place: how often a resample holds it. `None` where all are 0, too.
    pub fn weighted(&mut self, forecasts: &[Forecast], weight: impl Fn(usize) -> f64) -> Option<SmoothEce> {
        let weights: Vec<f64> = (0..forecasts.len()).map(weight).collect();
        if forecasts.len() != self.confidences.len() || weights.iter().all(|weight| *weight == 0.0) {
            return None;
        }
        let what = self.smoothed(forecasts, weights);

        // By halves, as relplot: on a grid the error does not quite fall with the width, so that another way there may end beside it.
        let (mut below, mut above) = (0, UNITS);
        let mut found = None;
        while above - below > 1 {
            let middle = usize::midpoint(above, below);
            if middle <= SMALLEST {
                below = middle;
                continue;
            }
            let error = self.error_at(&what, middle);
            if width_of(middle) < error {
                below = middle;
            } else {
                (above, found) = (middle, Some(error));
            }
        }
        let value = found.unwrap_or_else(|| self.error_at(&what, above));
        Some(SmoothEce { value, width: width_of(above) })
    }

    fn smoothed(&self, forecasts: &[Forecast], weights: Vec<f64>) -> Smoothed {
        let residual = |(f, weight): (&Forecast, &f64)| weight * (f.confidence - f.outcome);
        let residuals: Vec<f64> = forecasts.iter().zip(&weights).map(residual).collect();
        Smoothed { coarse: (self.coarse.share(&residuals), self.coarse.share(&weights)), residuals, weights }
    }

    /// Smooth calibration error with a kernel of `units / 1024`.
    fn error_at(&mut self, what: &Smoothed, units: usize) -> f64 {
        let kernel = self.kernels.entry(units).or_insert_with(|| {
            let n_points = grid_size(width_of(units));
            let fine = (n_points != COARSE).then(|| Grid::new(&self.confidences, n_points));
            Kernel::new(width_of(units), fine, &self.coarse)
        });
        match &kernel.fine {
            None => kernel.error(&what.coarse.0, &what.coarse.1),
            Some(grid) => kernel.error(&grid.share(&what.residuals), &grid.share(&what.weights)),
        }
    }
}

/// What is smoothed.
struct Smoothed {
    /// By forecast, times its weight.
    residuals: Vec<f64>,
    weights: Vec<f64>,
    /// Both on the coarse grid.
    coarse: (Vec<f64>, Vec<f64>),
}

fn width_of(units: usize) -> f64 {
    units as f64 / UNITS as f64
}

/// Points of the grid for kernels that are not narrow.
const COARSE: usize = 1001;

fn grid_size(width: f64) -> usize {
    ((20.0 / width).round() as usize).max(2000) / 2 + 1
}

/// Where confidences lie between the points of a grid on `[0, 1]`; points without a confidence beside them are left out.
#[derive(Debug, Clone)]
struct Grid {
    n_points: usize,
    /// The points that are not left out, ascending.
    points: Vec<usize>,
    /// For each confidence, which of them is the one below, and the way from there to the next.
    places: Vec<(usize, f64)>,
}

impl Grid {
    fn new(confidences: &[f64], n_points: usize) -> Self {
        let last = (n_points - 1) as f64;
        let place = |confidence: &f64| {
            let below = ((confidence * last) as usize).min(n_points - 2);
            (below, confidence * last - below as f64)
        };
        let on_grid: Vec<(usize, f64)> = confidences.iter().map(place).collect();
        let mut points: Vec<usize> = on_grid.iter().flat_map(|(below, _)| [*below, below + 1]).collect();
        points.sort_unstable();
        points.dedup();
        let kept = |(below, way): (usize, f64)| (points.partition_point(|point| *point < below), way);
        let places = on_grid.into_iter().map(kept).collect();
        Self { n_points, points, places }
    }

    /// Values at the confidences, shared between the points beside each.
    fn share(&self, values: &[f64]) -> Vec<f64> {
        let mut shared = vec![0.0; self.points.len()];
        for ((below, way), value) in self.places.iter().zip(values) {
            shared[*below] += (1.0 - way) * value;
            shared[below + 1] += way * value;
        }
        shared
    }
}

/// What a Gaussian, reflected at both ends of a grid, takes from each of its points to each point where the integrand is read off.
#[derive(Debug, Clone)]
struct Kernel {
    /// The grid, where it is not the coarse one.
    fine: Option<Grid>,
    /// For each point that is read off, the first point of the grid that counts there, and where its weights end in `weights`.
    rows: Vec<(usize, usize)>,
    weights: Vec<f64>,
    /// By point of the grid, the sum of its weights.
    totals: Vec<f64>,
}

impl Kernel {
    fn new(width: f64, fine: Option<Grid>, coarse: &Grid) -> Self {
        let grid = fine.as_ref().unwrap_or(coarse);
        let last = grid.n_points - 1;
        let reach = (REACH * width * last as f64).ceil() as usize;
        let centre = last / 2;
        let first = centre.saturating_sub(reach);
        let half = last - first - centre;
        // The Gaussian on the grid with its centre at 1/2, without the values that are too small to count.
        let value = |place: usize| {
            let off = place as f64 / last as f64 - 0.5;
            (-off * off / (2.0 * width * width)).exp() / (std::f64::consts::TAU.sqrt() * width)
        };
        let values: Vec<f64> = (first..=last - first).map(value).collect();

        let n_read = ((10.0 / width).round() as usize).max(200);
        let step = 1.0 / (n_read - 1) as f64;
        let mut kernel = Self {
            rows: Vec::with_capacity(n_read),
            weights: Vec::new(),
            totals: vec![0.0; grid.points.len()],
            fine: None,
        };
        let mut dense = vec![0.0; grid.n_points];
        for read in 0..n_read {
            let t = if read + 1 == n_read { 1.0 } else { read as f64 * step };
            let below = ((t * last as f64) as usize).min(last - 1);
            let way = (t - below as f64 / last as f64) * last as f64;
            // Reflections fall within reach, too.
            let reached = below.saturating_sub(half)..=(below + 1 + half).min(last);
            dense[reached.clone()].fill(0.0);
            for (point, part) in [(below, 1.0 - way), (below + 1, way)] {
                for (place, value) in (first..).zip(&values) {
                    let from = (point + place).abs_diff(centre);
                    let from = if from > last { 2 * last - from } else { from };
                    dense[from] += part * value;
                }
            }
            let begin = grid.points.partition_point(|point| point < reached.start());
            let end = grid.points.partition_point(|point| point <= reached.end());
            kernel.weights.extend(grid.points[begin..end].iter().map(|point| dense[*point]));
            kernel.rows.push((begin, kernel.weights.len()));
            let row = &kernel.weights[kernel.weights.len() + begin - end..];
            kernel.totals[begin..end].iter_mut().zip(row).for_each(|(total, weight)| *total += weight);
        }
        Self { fine, ..kernel }
    }

    /// Sum of the smoothed residuals, signs left out, over the sum of the smoothed density, both given by point of the grid.
    fn error(&self, residuals: &[f64], density: &[f64]) -> f64 {
        let mut begin = 0;
        let mut error = 0.0;
        for (first, end) in &self.rows {
            let row = &self.weights[begin..*end];
            error += dot(&residuals[*first..first + row.len()], row).abs();
            begin = *end;
        }
        error / (dot(density, &self.totals) + DENSITY_FLOOR * self.rows.len() as f64)
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
    use super::{DENSITY_FLOOR, Smoother, grid_size, smooth_ece, width_of};
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

    /// Reflections and both sums written out, on the grid alone.
    fn on_the_grid(forecasts: &[Forecast], width: f64) -> f64 {
        let n_points = grid_size(width);
        let last = (n_points - 1) as f64;
        let (mut residuals, mut ones) = (vec![0.0; n_points], vec![0.0; n_points]);
        for f in forecasts {
            let below = ((f.confidence * last) as usize).min(n_points - 2);
            let way = f.confidence * last - below as f64;
            for (point, part) in [(below, 1.0 - way), (below + 1, way)] {
                residuals[point] += part * (f.confidence - f.outcome);
                ones[point] += part;
            }
        }
        let smoothed = |grid: &[f64], point: usize| {
            let n = n_points as isize;
            let sum = |place: isize| {
                let off = place as f64 / last - 0.5;
                let from = point as isize + place - (n - 1) / 2;
                let from = if from < 0 { -from } else { from.min(2 * (n - 1) - from) };
                grid[from as usize] * (-off * off / (2.0 * width * width)).exp()
            };
            (0..n).map(sum).sum::<f64>() / (std::f64::consts::TAU.sqrt() * width)
        };
        let n_read = ((10.0 / width).round() as usize).max(200);
        let read = |grid: &[f64], place: usize| {
            let t = place as f64 / (n_read - 1) as f64;
            let below = ((t * last) as usize).min(n_points - 2);
            let way = t * last - below as f64;
            smoothed(grid, below) * (1.0 - way) + smoothed(grid, below + 1) * way
        };
        let error: f64 = (0..n_read).map(|place| read(&residuals, place).abs()).sum();
        error / (0..n_read).map(|place| read(&ones, place) + DENSITY_FLOOR).sum::<f64>()
    }

    #[test]
    fn kernels_without_empty_points_agree_with_the_whole_grid() {
        let f = drawn(50, 0.1, "grid");
        let mut smoother = Smoother::new(&f).unwrap();
        let what = smoother.smoothed(&f, vec![1.0; 50]);
        for units in [5, 9, 30, 77, 300, 512, 1023] {
            let (got, expected) = (smoother.error_at(&what, units), on_the_grid(&f, width_of(units)));
            assert!((got - expected).abs() < 1e-12, "{units}: {got} is not {expected}");
        }
    }

    #[test]
    fn weights_count_as_copies() {
        let mut rng = stream(2, "search");
        for (n, shift) in [(1, 0.0), (5, 0.3), (60, 0.0), (60, 0.2), (300, 0.02), (3000, 0.0)] {
            let f = drawn(n, shift, "search");
            let mut smoother = Smoother::new(&f).unwrap();
            for draw in 0..8 {
                let weights: Vec<f64> =
                    f.iter().map(|_| if draw == 0 { 1.0 } else { f64::from(rng.random_range(0..3)) }).collect();
                let Some(got) = smoother.weighted(&f, |i| weights[i]) else { continue };
                let copies: Vec<Forecast> =
                    f.iter().zip(&weights).flat_map(|(f, times)| std::iter::repeat_n(*f, *times as usize)).collect();
                let expected = smooth_ece(&copies).unwrap();
                assert!(
                    (got.value - expected.value).abs() < 1e-12 && got.width == expected.width,
                    "{got:?} {expected:?}"
                );
            }
        }
        let f = drawn(9, 0.0, "none");
        assert_eq!(Smoother::new(&f).unwrap().weighted(&f, |_| 0.0), None);
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
