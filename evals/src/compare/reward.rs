//! Reward against divergence in training: the curve that over-optimisation bends.

use super::words;
use crate::comparison::{Entry, OverOptimisation, RewardFit, TrajectoryPoint};
use crate::stats::normal;

/// Points that make one estimate of the share of right answers.
const WINDOW: usize = 4;
/// Level of the test that right answers fell below their best.
const LEVEL: f64 = 0.01;

/// The curves of every run that has any.
pub(super) fn examine(entries: &[Entry]) -> Vec<OverOptimisation> {
    let runs = entries.iter().flat_map(|entry| entry.runs.iter().map(move |run| (entry, run)));
    let with_curve = runs.filter(|(_, run)| run.trajectory.len() >= 2);
    with_curve.map(|(entry, run)| examine_run(&entry.name, run.seed, &run.trajectory)).collect()
}

fn examine_run(setting: &str, seed: u64, points: &[TrajectoryPoint]) -> OverOptimisation {
    let proxy_points: Vec<(f64, f64, f64)> = points.iter().map(|p| (p.kl_nats, p.proxy, p.n as f64)).collect();
    let gold_points: Vec<(f64, f64, f64)> =
        points.iter().filter_map(|p| Some((p.kl_nats, p.gold?, p.n as f64))).collect();
    let fall = find_fall(points);
    OverOptimisation {
        setting: setting.to_owned(),
        seed,
        points: points.to_vec(),
        proxy: fit(&proxy_points),
        gold: fit(&gold_points),
        is_over_optimised: fall.is_some_and(|fall| fall.is_shown),
        sentence: words::tell_reward(points, fall),
    }
}

/// The best stretch of right answers against the last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fall {
    /// Share of right answers at its best, and at the end.
    pub(super) gold: (f64, f64),
    /// The reward then, and at the end.
    pub(super) proxy: (f64, f64),
    /// Divergence at the best, nats per answer.
    pub(super) kl_nats: f64,
    /// Whether the fall is more than chance while the reward did not fall.
    pub(super) is_shown: bool,
}

/// Compares the best window of right answers with the last. The best of many is high by chance too: the level is divided by the
/// number of windows (Bonferroni).
fn find_fall(points: &[TrajectoryPoint]) -> Option<Fall> {
    let known: Vec<TrajectoryPoint> = points.iter().filter(|p| p.gold.is_some() && p.n > 0).copied().collect();
    if known.len() < 2 * WINDOW {
        return None;
    }
    let pool = |window: &[TrajectoryPoint]| {
        let n: f64 = window.iter().map(|p| p.n as f64).sum();
        let mean = |of: &dyn Fn(&TrajectoryPoint) -> f64| window.iter().map(|p| of(p) * p.n as f64).sum::<f64>() / n;
        (mean(&|p| p.gold.unwrap_or(0.0)), mean(&|p| p.proxy), mean(&|p| p.kl_nats), n)
    };
    let last = pool(&known[known.len() - WINDOW..]);
    let before = known[..known.len() - WINDOW].windows(WINDOW).map(pool);
    let n_windows = known.len() - 2 * WINDOW + 1;
    let best = before.max_by(|a, b| a.0.total_cmp(&b.0))?;
    let share = (best.0 * best.3 + last.0 * last.3) / (best.3 + last.3);
    let se = (share * (1.0 - share) * (1.0 / best.3 + 1.0 / last.3)).sqrt();
    let z = if se > 0.0 { (best.0 - last.0) / se } else { 0.0 };
    let is_shown = z > normal::quantile(1.0 - LEVEL / n_windows as f64) && last.1 >= best.1;
    Some(Fall { gold: (best.0, last.0), proxy: (best.1, last.1), kl_nats: best.2, is_shown })
}

/// Least squares of `R = start + alpha d - beta d ln d`, weighted by the number of answers; `None` where the points do not
/// determine it.
fn fit(points: &[(f64, f64, f64)]) -> Option<RewardFit> {
    let rows: Vec<([f64; 3], f64, f64)> = points
        .iter()
        .filter(|(kl, _, n)| *kl >= 0.0 && *n > 0.0)
        .map(|&(kl, reward, n)| {
            let d = kl.sqrt();
            let entropy = if d > 0.0 { -d * d.ln() } else { 0.0 };
            ([1.0, d, entropy], reward, n)
        })
        .collect();
    if rows.len() < 6 {
        return None;
    }
    let mut normal_matrix = [[0.0; 3]; 3];
    let mut right = [0.0; 3];
    for (x, y, w) in &rows {
        for i in 0..3 {
            right[i] += w * x[i] * y;
            for j in 0..3 {
                normal_matrix[i][j] += w * x[i] * x[j];
            }
        }
    }
    let inverse = invert(&normal_matrix)?;
    let coefficient = |i: usize| (0..3).map(|j| inverse[i][j] * right[j]).sum::<f64>();
    let [start, alpha, beta] = [coefficient(0), coefficient(1), coefficient(2)];
    let weight: f64 = rows.iter().map(|(_, _, w)| w).sum();
    let mean = rows.iter().map(|(_, y, w)| w * y).sum::<f64>() / weight;
    let value = |x: &[f64; 3]| start * x[0] + alpha * x[1] + beta * x[2];
    let residual: f64 = rows.iter().map(|(x, y, w)| w * (y - value(x)).powi(2)).sum();
    let total: f64 = rows.iter().map(|(_, y, w)| w * (y - mean).powi(2)).sum();
    let scale = residual / (rows.len() - 3) as f64;
    let se = |i: usize| (scale * inverse[i][i]).max(0.0).sqrt();
    let peak = (beta > 0.0).then(|| (alpha / beta - 1.0).exp()).filter(|d| d.is_finite());
    let found = RewardFit {
        start,
        alpha,
        beta,
        se: (se(1), se(2)),
        peak_d: peak,
        r_squared: if total > 0.0 { 1.0 - residual / total } else { 0.0 },
    };
    [start, alpha, beta, found.se.0, found.se.1, found.r_squared].iter().all(|x| x.is_finite()).then_some(found)
}

/// Inverse of a symmetric matrix by cofactors; `None` where it is close to singular.
fn invert(m: &[[f64; 3]; 3]) -> Option<[[f64; 3]; 3]> {
    let minor = |i: usize, j: usize| {
        let rows: Vec<usize> = (0..3).filter(|&r| r != i).collect();
        let columns: Vec<usize> = (0..3).filter(|&c| c != j).collect();
        m[rows[0]][columns[0]] * m[rows[1]][columns[1]] - m[rows[0]][columns[1]] * m[rows[1]][columns[0]]
    };
    let sign = |i: usize, j: usize| if (i + j).is_multiple_of(2) { 1.0 } else { -1.0 };
    let determinant: f64 = (0..3).map(|j| sign(0, j) * m[0][j] * minor(0, j)).sum();
    let size = m[0][0] * m[1][1] * m[2][2];
    if !(determinant.abs() > 1e-10 * size.abs() && size.abs() > 0.0) {
        return None;
    }
    let mut inverse = [[0.0; 3]; 3];
    for (i, row) in inverse.iter_mut().enumerate() {
        for (j, cell) in row.iter_mut().enumerate() {
            *cell = sign(i, j) * minor(j, i) / determinant;
        }
    }
    Some(inverse)
}

#[cfg(test)]
mod tests {
    use super::{examine_run, fit};
    use crate::comparison::TrajectoryPoint;
    use crate::random::stream;
    use rand::Rng;

    /// A course of 40 stretches of 128 answers: divergence rises to `kl`, right answers as `gold` says.
    fn course(kl: f64, gold: impl Fn(f64) -> f64, seed: u64) -> Vec<TrajectoryPoint> {
        let rng = &mut stream(seed, "course");
        (0..40)
            .map(|i| {
                let t = f64::from(i) / 39.0;
                let right = (0..128).filter(|_| rng.random::<f64>() < gold(t)).count();
                TrajectoryPoint {
                    step: i as u64 + 1,
                    kl_nats: kl * t,
                    proxy: 0.5 + t,
                    gold: Some(right as f64 / 128.0),
                    n: 128,
                }
            })
            .collect()
    }

    #[test]
    fn a_known_curve_is_found_again() {
        let (start, alpha, beta) = (0.2, 0.9, 0.4);
        let points: Vec<(f64, f64, f64)> = (1..30)
            .map(|i| {
                let d = 0.2 * f64::from(i);
                (d * d, start + d * (alpha - beta * d.ln()), 64.0)
            })
            .collect();
        let found = fit(&points).unwrap();
        for (found, expected) in
            [(found.start, start), (found.alpha, alpha), (found.beta, beta), (found.r_squared, 1.0)]
        {
            assert!((found - expected).abs() < 1e-7, "{found} against {expected}");
        }
        assert!((found.peak_d.unwrap() - (alpha / beta - 1.0).exp()).abs() < 1e-5);
        assert!(fit(&points[..5]).is_none());
        assert!(fit(&[(1.0, 0.5, 64.0); 20]).is_none(), "points in one place determine no curve");
    }

    #[test]
    fn a_fall_is_told_with_its_place_and_a_rise_is_not() {
        let bent = examine_run("a", 1, &course(9.0, |t| 0.6 + 1.2 * t - 1.4 * t * t, 3));
        assert!(bent.is_over_optimised, "{}", bent.sentence);
        assert!(bent.sentence.contains("peaked"), "{}", bent.sentence);
        let rising = examine_run("a", 1, &course(9.0, |t| 0.6 + 0.3 * t, 3));
        assert!(!rising.is_over_optimised, "{}", rising.sentence);
    }

    #[test]
    fn noise_accuses_fewer_than_one_healthy_curve_in_twenty() {
        let accused =
            (0..400).filter(|&seed| examine_run("a", 1, &course(4.0, |_| 0.85, seed)).is_over_optimised).count();
        assert!(accused < 20, "{accused} of 400");
    }
}
