//! Many tests at once.

/// Holm's step-down adjusted p-values: family-wise error, for decisions.
///
/// With p sorted ascending, `adjusted_(i) = max_(j <= i) min(1, (m - j) p_(j))`, `j` counted from 0. The result is in the
/// order of the input.
///
/// # Reference
/// Holm 1979, *Scand. J. Statist.* 6.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut adjusted = vec![0.0; p.len()];
    let mut largest = 0.0_f64;
    for (rank, &i) in ascending(p).iter().enumerate() {
        largest = largest.max(((p.len() - rank) as f64 * p[i]).min(1.0));
        adjusted[i] = largest;
    }
    adjusted
}

/// Benjamini and Hochberg's adjusted p-values: false discovery rate, for lists.
///
/// `adjusted_(i) = min_(j >= i) min(1, m p_(j) / (j + 1))`, in the order of the input.
///
/// # Reference
/// Benjamini and Hochberg 1995, *J. R. Statist. Soc. B* 57.
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let mut adjusted = vec![0.0; p.len()];
    let mut smallest = 1.0_f64;
    for (rank, &i) in ascending(p).iter().enumerate().rev() {
        smallest = smallest.min(p.len() as f64 * p[i] / (rank + 1) as f64);
        adjusted[i] = smallest;
    }
    adjusted
}

fn ascending(p: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    order
}

#[cfg(test)]
mod tests {
    use super::{benjamini_hochberg, holm};
    use proptest::prelude::*;

    fn close(got: &[f64], expected: &[f64]) {
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{got:?} is not {expected:?}");
    }

    #[test]
    fn equals_r_p_adjust_on_a_worked_example() {
        // R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") and "BH"
        let p = [0.01, 0.04, 0.03, 0.005];
        close(&holm(&p), &[0.03, 0.06, 0.06, 0.02]);
        close(&benjamini_hochberg(&p), &[0.02, 0.04, 0.04, 0.02]);
    }

    proptest! {
        #[test]
        fn adjusted_values_keep_order_and_bounds(p in proptest::collection::vec(0.0_f64..=1.0, 0..12)) {
            let (h, b) = (holm(&p), benjamini_hochberg(&p));
            for i in 0..p.len() {
                prop_assert!(p[i] <= b[i] + 1e-15 && b[i] <= h[i] + 1e-12 && h[i] <= 1.0);
                prop_assert!(h[i] <= (p[i] * p.len() as f64).min(1.0) + 1e-12, "never worse than Bonferroni");
                for j in 0..p.len() {
                    if p[i] < p[j] { prop_assert!(h[i] <= h[j] && b[i] <= b[j]); }
                }
            }
        }

        #[test]
        fn holm_rejects_what_the_step_down_procedure_rejects(p in proptest::collection::vec(0.0_f64..=0.2, 1..10)) {
            let mut sorted = p.clone();
            sorted.sort_by(f64::total_cmp);
            let rejected = sorted.iter().enumerate().take_while(|(i, q)| **q <= 0.05 / (p.len() - i) as f64).count();
            prop_assert_eq!(holm(&p).iter().filter(|q| **q <= 0.05).count(), rejected);
        }
    }
}
