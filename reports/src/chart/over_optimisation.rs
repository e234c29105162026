//! The reward that is optimised above, right answers below, over the same distance from the start.

use evals::comparison::{OverOptimisation, RewardFit, TrajectoryPoint};

use super::ruler::Ruler;
use super::svg::{Anchor, Canvas};
use super::{Chart, columns};
use crate::number::{count, decimal, fine_percent};

const WIDTH: (f64, f64) = (50.0, 348.0);
const PROXY: (f64, f64) = (138.0, 26.0);
const GOLD: (f64, f64) = (286.0, 174.0);

/// Draws the seeds of one setting; each has its own shape and dash.
pub(crate) fn draw(id: &str, setting: &str, seeds: &[&OverOptimisation]) -> Option<Chart> {
    let points = || seeds.iter().flat_map(|s| &s.points);
    points().next()?;
    let x = Ruler::over(std::iter::once(0.0).chain(points().map(distance)), WIDTH, false);
    let has_gold = points().any(|p| p.gold.is_some());
    let mut canvas = Canvas::new(360.0, if has_gold { 328.0 } else { 180.0 });
    let bottom = if has_gold { GOLD.0 } else { PROXY.0 };

    let proxy = Ruler::over(points().map(|p| p.proxy), PROXY, false);
    canvas.label((WIDTH.0, 14.0), Anchor::Start, "axis-name", "reward that is optimised (proxy), in deviations");
    draw_panel(&mut canvas, &x, &proxy, seeds, |s| s.proxy, |p| Some(p.proxy));
    if has_gold {
        let gold = Ruler::over(points().filter_map(|p| p.gold), GOLD, true);
        canvas.label((WIDTH.0, 162.0), Anchor::Start, "axis-name", "right answers (gold), share of those sampled");
        draw_panel(&mut canvas, &x, &gold, seeds, |s| s.gold, |p| p.gold);
    }
    x.draw_horizontal(&mut canvas, (bottom, bottom));
    let middle = f64::midpoint(WIDTH.0, WIDTH.1);
    canvas.label((middle, bottom + 34.0), Anchor::Middle, "axis-name", "distance from the start, √KL (KL in nats)");

    let title = format!("Reward over distance from the start: {setting}");
    let said: Vec<String> = seeds.iter().map(|s| format!("Seed {}: {}", s.seed, s.sentence)).collect();
    Some(Chart {
        svg: canvas.finish(id, &title, &said.join(" ")),
        title,
        columns: columns(&["Seed", "Step", "KL, nats", "√KL", "Proxy reward", "Right answers", "Answers"]),
        rows: seeds.iter().flat_map(|s| s.points.iter().map(|p| table_row(s.seed, p))).collect(),
    })
}

/// A fit in words: how well it holds, and where it peaks.
pub(crate) fn fit_words(fit: &RewardFit) -> String {
    let peak = match fit.peak_d.filter(|d| d.is_finite()) {
        Some(d) => format!("peak at √KL {}", decimal(d, 2)),
        None => "no peak".to_owned(),
    };
    format!(
        "{peak}; α {} ± {}, β {} ± {}; R² {}",
        decimal(fit.alpha, 3),
        decimal(fit.se.0, 3),
        decimal(fit.beta, 3),
        decimal(fit.se.1, 3),
        decimal(fit.r_squared, 2)
    )
}

fn draw_panel(
    canvas: &mut Canvas,
    x: &Ruler,
    y: &Ruler,
    seeds: &[&OverOptimisation],
    fit_of: impl Fn(&OverOptimisation) -> Option<RewardFit>,
    value_of: impl Fn(&TrajectoryPoint) -> Option<f64>,
) {
    y.draw_vertical(canvas, WIDTH);
    let (floor, ceiling) = y.scale.positions;
    for (i, seed) in seeds.iter().enumerate() {
        for point in &seed.points {
            if let Some(value) = value_of(point).filter(|v| v.is_finite() && distance(point).is_finite()) {
                draw_point(canvas, i, (x.scale.at(distance(point)), y.scale.at(value)));
            }
        }
        let Some(fit) = fit_of(seed) else { continue };
        let last = seed.points.iter().map(distance).filter(|d| d.is_finite()).fold(0.0, f64::max);
        let curve: Vec<(f64, f64)> = (0..=48)
            .map(|step| last * f64::from(step) / 48.0)
            .map(|d| (d, reward(&fit, d)))
            .filter(|(_, r)| (y.scale.values.0..=y.scale.values.1).contains(r))
            .map(|(d, r)| (x.scale.at(d), y.scale.at(r)))
            .collect();
        canvas.polyline(&curve, &format!("fit dash-{}", i % 3));
        if let Some(peak) = fit.peak_d.filter(|d| (0.0..=last).contains(d)) {
            let at = x.scale.at(peak);
            canvas.line((at, floor), (at, ceiling), "peak");
            if i == 0 {
                let (shift, anchor) = if at > 300.0 { (-4.0, Anchor::End) } else { (4.0, Anchor::Start) };
                canvas.label((at + shift, floor - 5.0), anchor, "marker halo", "peak");
            }
        }
    }
}

/// How the points and the curve of a seed are drawn, in words; the shapes repeat after three seeds.
pub(crate) fn shape(seed: usize) -> &'static str {
    ["dots, solid line", "squares, dashed line", "triangles, dotted line"][seed % 3]
}

fn draw_point(canvas: &mut Canvas, seed: usize, (x, y): (f64, f64)) {
    let r = 2.6;
    match seed % 3 {
        0 => canvas.circle((x, y), r, "round"),
        1 => canvas.rect((x - r + 0.3, y - r + 0.3), (x + r - 0.3, y + r - 0.3), "round hollow"),
        _ => canvas.polygon(&[(x - r, y + r), (x + r, y + r), (x, y - r)], "round"),
    }
}

fn distance(point: &TrajectoryPoint) -> f64 {
    point.kl_nats.max(0.0).sqrt()
}

// d ln d goes to 0 with d.
fn reward(fit: &RewardFit, d: f64) -> f64 {
    if d <= 0.0 { fit.start } else { fit.start + d * (fit.alpha - fit.beta * d.ln()) }
}

fn table_row(seed: u64, point: &TrajectoryPoint) -> Vec<String> {
    vec![
        seed.to_string(),
        point.step.to_string(),
        decimal(point.kl_nats, 3),
        decimal(distance(point), 2),
        decimal(point.proxy, 3),
        point.gold.map_or_else(|| "not known".to_owned(), fine_percent),
        count(point.n),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_starts_at_the_reward_of_no_divergence_and_peaks_where_the_record_says() {
        let (alpha, beta) = (0.8, 0.5);
        let peak = f64::exp(alpha / beta - 1.0);
        let fit = RewardFit { start: 0.3, alpha, beta, se: (0.1, 0.1), peak_d: Some(peak), r_squared: 0.9 };
        assert!((reward(&fit, 0.0) - 0.3).abs() < 1e-12);
        assert!(reward(&fit, peak) > reward(&fit, peak - 0.05) && reward(&fit, peak) > reward(&fit, peak + 0.05));
    }
}
