//! Ridge logistic regression.

/// `P(y = 1) = sigmoid(intercept + weights . x)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Logistic {
    /// One weight per column.
    pub weights: Vec<f64>,
    /// The log-odds where all columns are 0.
    pub intercept: f64,
}

/// Newton steps at most; some eight are usual.
const STEPS: usize = 100;

/// The gradient is this small at the optimum.
const TOLERANCE: f64 = 1e-10;

impl Logistic {
    /// Minimises `-sum_i ln P(y_i) + ridge/2 |weights|^2` by iteratively reweighted least squares; the intercept is not penalised.
    ///
    /// `None` where all labels are alike: the intercept would be infinite.
    ///
    /// # Shapes
    /// `rows`: one per label, all of one length. Columns are best standardised: the penalty treats them alike.
    ///
    /// # Reference
    /// le Cessie and van Houwelingen 1992, *Applied Statistics* 41; Hastie, Tibshirani and Friedman 2009, section 4.4.1.
    pub fn fit(rows: &[Vec<f64>], labels: &[bool], ridge: f64) -> Option<Self> {
        if !labels.contains(&true) || !labels.contains(&false) {
            return None;
        }
        let n_columns = rows.first()?.len();
        let mut fitted = Self { weights: vec![0.0; n_columns], intercept: 0.0 };
        let mut loss = fitted.loss(rows, labels, ridge);
        for _ in 0..STEPS {
            let gradient = fitted.gradient(rows, labels, ridge);
            if gradient.iter().all(|g| g.abs() < TOLERANCE) {
                break;
            }
            let step = solve(fitted.hessian(rows, ridge), &gradient)?;
            // Halved until it does not lead uphill: far from the optimum a whole step may.
            let mut scale = 1.0;
            let next = loop {
                let next = fitted.moved(&step, scale);
                let next_loss = next.loss(rows, labels, ridge);
                if next_loss <= loss + 1e-12 * (1.0 + loss.abs()) || scale < 1e-6 {
                    loss = next_loss;
                    break next;
                }
                scale *= 0.5;
            };
            fitted = next;
        }
        Some(fitted)
    }

    /// Log-odds of a row.
    pub fn log_odds(&self, row: &[f64]) -> f64 {
        self.intercept + self.weights.iter().zip(row).map(|(w, x)| w * x).sum::<f64>()
    }

    fn loss(&self, rows: &[Vec<f64>], labels: &[bool], ridge: f64) -> f64 {
        let penalty = 0.5 * ridge * self.weights.iter().map(|w| w * w).sum::<f64>();
        let cost =
            |(row, label): (&Vec<f64>, &bool)| softplus(if *label { -self.log_odds(row) } else { self.log_odds(row) });
        rows.iter().zip(labels).map(cost).sum::<f64>() + penalty
    }

    /// By weight, the intercept last.
    fn gradient(&self, rows: &[Vec<f64>], labels: &[bool], ridge: f64) -> Vec<f64> {
        let mut gradient: Vec<f64> = self.weights.iter().map(|w| ridge * w).chain([0.0]).collect();
        for (row, label) in rows.iter().zip(labels) {
            let residual = sigmoid(self.log_odds(row)) - f64::from(u8::from(*label));
            for (g, x) in gradient.iter_mut().zip(row.iter().chain(&[1.0])) {
                *g += residual * x;
            }
        }
        gradient
    }

    fn hessian(&self, rows: &[Vec<f64>], ridge: f64) -> Vec<Vec<f64>> {
        let n = self.weights.len() + 1;
        let mut hessian = vec![vec![0.0; n]; n];
        for (i, line) in hessian.iter_mut().enumerate().take(n - 1) {
            line[i] = ridge;
        }
        for row in rows {
            let p = sigmoid(self.log_odds(row));
            let x: Vec<f64> = row.iter().copied().chain([1.0]).collect();
            for (line, a) in hessian.iter_mut().zip(&x) {
                for (h, b) in line.iter_mut().zip(&x) {
                    *h += p * (1.0 - p) * a * b;
                }
            }
        }
        hessian
    }

    fn moved(&self, step: &[f64], scale: f64) -> Self {
        let (last, rest) = step.split_last().expect("the intercept is always there");
        let weights = self.weights.iter().zip(rest).map(|(w, s)| w - scale * s).collect();
        Self { weights, intercept: self.intercept - scale * last }
    }
}

/// `1 / (1 + exp(-x))`.
pub fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

/// `ln(1 + exp(x))` without overflow.
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Solves `a x = b` for a symmetric positive definite `a` (Cholesky); `None` where it is not.
fn solve(mut a: Vec<Vec<f64>>, b: &[f64]) -> Option<Vec<f64>> {
    let n = b.len();
    for i in 0..n {
        for j in 0..=i {
            let rest = a[i][j] - (0..j).map(|k| a[i][k] * a[j][k]).sum::<f64>();
            if i == j && rest <= 0.0 {
                return None;
            }
            a[i][j] = if i == j { rest.sqrt() } else { rest / a[j][j] };
        }
    }
    let mut x = b.to_vec();
    for i in 0..n {
        x[i] = (x[i] - (0..i).map(|k| a[i][k] * x[k]).sum::<f64>()) / a[i][i];
    }
    for i in (0..n).rev() {
        x[i] = (x[i] - (i + 1..n).map(|k| a[k][i] * x[k]).sum::<f64>()) / a[i][i];
    }
    Some(x)
}

#[cfg(test)]
mod tests {
    use super::{Logistic, sigmoid};
    use crate::random::{normal, stream};
    use rand::Rng;

    fn sample() -> (Vec<Vec<f64>>, Vec<bool>) {
        let mut rng = stream(1, "logistic");
        let rows: Vec<Vec<f64>> = (0..120).map(|_| (0..4).map(|_| normal(&mut rng)).collect()).collect();
        let labels = rows
            .iter()
            .map(|row| rng.random::<f64>() < sigmoid(2.0 * row[0] - row[1] + 0.5 * row[2] * row[3] - 0.4))
            .collect();
        (rows, labels)
    }

    #[test]
    fn the_gradient_vanishes_and_slow_descent_agrees() {
        let (rows, labels) = sample();
        let fitted = Logistic::fit(&rows, &labels, 1.0).unwrap();
        let gradient = fitted.gradient(&rows, &labels, 1.0);
        assert!(gradient.iter().all(|g| g.abs() < 1e-8), "{gradient:?}");
        let mut slow = Logistic { weights: vec![0.0; 4], intercept: 0.0 };
        for _ in 0..4000 {
            slow = slow.moved(&slow.gradient(&rows, &labels, 1.0), 0.01);
        }
        for (a, b) in fitted.weights.iter().chain([&fitted.intercept]).zip(slow.weights.iter().chain([&slow.intercept]))
        {
            assert!((a - b).abs() < 1e-7, "{fitted:?} {slow:?}");
        }
    }

    #[test]
    fn classes_that_a_line_parts_still_have_finite_weights() {
        let rows: Vec<Vec<f64>> = (0..20).map(|i| vec![if i < 5 { 4.0 } else { -1.0 }, 0.0]).collect();
        let labels: Vec<bool> = (0..20).map(|i| i < 5).collect();
        let fitted = Logistic::fit(&rows, &labels, 1.0).unwrap();
        assert!(fitted.log_odds(&rows[0]) > 2.0 && fitted.log_odds(&rows[9]) < -2.0);
        assert!(fitted.weights[0] < 5.0 && fitted.weights[1].abs() < 1e-9, "{fitted:?}");
        assert_eq!(Logistic::fit(&rows, &[true; 20], 1.0), None);
    }
}
