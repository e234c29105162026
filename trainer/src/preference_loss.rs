//! Losses that learn from compared answers without a reward model: DPO and IPO.
//!
//! With `h(y) = ln pi(y) - ln ref(y)`, the log ratio of an answer to its prompt, and a pair of a better answer `w` and a worse `l`:
//!
//! | loss | formula |
//! |---|---|
//! | [`sigmoid`] | `-(1 - e) ln s(beta (h(w) - h(l))) - e ln s(-beta (h(w) - h(l)))`; `e = 0` is DPO, `e > 0` conservative DPO |
//! | [`ipo`] | `(h(w) / \|w\| - h(l) / \|l\| - 1 / (2 beta))^2`, where `\|y\|` is the number of tokens of `y` |
//!
//! # Shapes
//! `log_ratios` is (N), one for each answer, summed over its tokens and differentiable; pairs point into it and carry their weights in
//! the sum; a loss is a scalar of the same dtype.
//!
//! # Reference
//! Rafailov et al. 2023, arXiv 2305.18290, equation 7 (DPO); Mitchell 2023, "A note on DPO with noisy preferences", and Rafailov's
//! reference implementation (conservative DPO); Azar et al. 2023, arXiv 2310.12036, equation 17 (IPO, with `beta` for their `tau`).
//!
//! # Deviations
//! All pairs of a ranking are compared, as for the reward model, where the papers have one pair per prompt. IPO's log ratios are means
//! over the tokens of an answer, where the paper writes of whole answers: TRL does so too, and reports that the authors' results are of
//! this form. Otherwise the margin that is asked for, `1 / (2 beta)`, would mean less per token the longer the answers are.

use crate::bradley_terry::{Pair, cross_entropy};
use crate::error::Result;
use candle_core::Tensor;

/// DPO, conservative where `label_smoothing`, the probability that a label is wrong, is above 0.
///
/// # Errors
/// Where a pair points beyond the answers or a tensor operation fails.
pub(crate) fn sigmoid(log_ratios: &Tensor, pairs: &[Pair], beta: f64, label_smoothing: f64) -> Result<Tensor> {
    let flip = |p: f64| p * (1.0 - label_smoothing) + (1.0 - p) * label_smoothing;
    let pairs: Vec<Pair> =
        pairs.iter().map(|&pair| Pair { first_is_better: flip(pair.first_is_better), ..pair }).collect();
    cross_entropy(&(log_ratios * beta)?, &pairs)
}

/// IPO over mean log ratios per token; `n_tokens` has the number of tokens of each answer.
///
/// A pair's label of less than one half turns it around; labels are otherwise taken as certain.
///
/// # Errors
/// Where a pair points beyond the answers or a tensor operation fails.
pub(crate) fn ipo(log_ratios: &Tensor, n_tokens: &[usize], pairs: &[Pair], beta: f64) -> Result<Tensor> {
    assert_eq!(n_tokens.len(), log_ratios.elem_count(), "one length for each answer");
    let constants = |values: Vec<f64>| -> Result<Tensor> {
        Ok(Tensor::new(values, log_ratios.device())?.to_dtype(log_ratios.dtype())?)
    };
    let per_token = (log_ratios * constants(n_tokens.iter().map(|&n| 1.0 / n as f64).collect())?)?; // (N)
    let side = |is_better: bool| -> Result<Tensor> {
        let of = |pair: &Pair| if is_better == (pair.first_is_better >= 0.5) { pair.first } else { pair.second };
        let ids: Vec<u32> = pairs.iter().map(|pair| of(pair) as u32).collect();
        Ok(per_token.index_select(&Tensor::new(ids, log_ratios.device())?, 0)?)
    };
    let off = ((side(true)? - side(false)?)? - 1.0 / (2.0 * beta))?; // (number of pairs)
    Ok((off.sqr()? * constants(pairs.iter().map(|pair| pair.weight).collect())?)?.sum_all()?)
}

#[cfg(test)]
mod tests {
    use super::{ipo, sigmoid};
    use crate::bradley_terry::{Pair, compare_ranked};
    use candle_core::{Device, Tensor, Var};

    fn value(at: &[f64], loss: impl Fn(&Tensor) -> Tensor) -> f64 {
        loss(&Tensor::new(at, &Device::Cpu).unwrap()).to_scalar().unwrap()
    }

    fn gradient(at: &[f64], loss: impl Fn(&Tensor) -> Tensor) -> Vec<f64> {
        let var = Var::new(at, &Device::Cpu).unwrap();
        let grads = loss(var.as_tensor()).backward().unwrap();
        grads.get(&var).unwrap().to_vec1().unwrap()
    }

    /// Compares a loss's gradient with central differences.
    fn check_gradient(at: &[f64], loss: impl Fn(&Tensor) -> Tensor) {
        for (i, &analytic) in gradient(at, &loss).iter().enumerate() {
            let shifted = |delta: f64| {
                let mut moved = at.to_vec();
                moved[i] += delta;
                value(&moved, &loss)
            };
            let numeric = (shifted(1e-6) - shifted(-1e-6)) / 2e-6;
            assert!((analytic - numeric).abs() < 1e-7, "element {i}: {analytic} against {numeric}");
        }
    }

    #[test]
    fn dpo_costs_what_the_formula_says() {
        // beta 0.5, log ratios 1 and -1: -ln s(1) = ln(1 + e^-1)
        let pairs = compare_ranked(&[2]);
        let plain = value(&[1.0, -1.0], |h| sigmoid(h, &pairs, 0.5, 0.0).unwrap());
        assert!((plain - (1.0 + (-1.0_f64).exp()).ln()).abs() < 1e-12);
        // A tenth of the labels is wrong: 0.9 ln(1 + e^-1) + 0.1 ln(1 + e)
        let smoothed = value(&[1.0, -1.0], |h| sigmoid(h, &pairs, 0.5, 0.1).unwrap());
        assert!((smoothed - (plain + 0.1)).abs() < 1e-12);
    }

    #[test]
    fn conservative_dpo_has_its_least_at_the_odds_of_a_right_label() {
        // s(beta d) = 0.9 where beta d = ln 9
        let pairs = compare_ranked(&[2]);
        let slope = |d: f64| gradient(&[d, 0.0], |h| sigmoid(h, &pairs, 0.2, 0.1).unwrap())[0];
        let least = 9.0_f64.ln() / 0.2;
        assert!(slope(least).abs() < 1e-12);
        assert!(slope(least - 1.0) < 0.0 && slope(least + 1.0) > 0.0);
    }

    #[test]
    fn ipo_costs_what_the_formula_says() {
        // Log ratios 2 over 4 tokens and -3 over 2: 0.5 + 1.5 - 1 / (2 * 0.25) = 0; over 1 and 1 token: 5 - 2 = 3
        let pairs = compare_ranked(&[2]);
        assert!(value(&[2.0, -3.0], |h| ipo(h, &[4, 2], &pairs, 0.25).unwrap()).abs() < 1e-12);
        assert!((value(&[2.0, -3.0], |h| ipo(h, &[1, 1], &pairs, 0.25).unwrap()) - 9.0).abs() < 1e-12);
        let turned = [Pair { first: 1, second: 0, first_is_better: 0.0, weight: 1.0 }];
        assert!((value(&[2.0, -3.0], |h| ipo(h, &[1, 1], &turned, 0.25).unwrap()) - 9.0).abs() < 1e-12);
    }

    #[test]
    fn a_ranking_costs_the_mean_of_its_pairs() {
        let at = [0.4, -0.3, 0.1];
        let pair = |a: f64, b: f64| (1.0 + (-2.0 * (a - b)).exp()).ln();
        let mean = (pair(0.4, -0.3) + pair(0.4, 0.1) + pair(-0.3, 0.1)) / 3.0;
        assert!((value(&at, |h| sigmoid(h, &compare_ranked(&[3]), 2.0, 0.0).unwrap()) - mean).abs() < 1e-12);
        let off = |a: f64, b: f64| (a - b - 0.25).powi(2);
        let mean = (off(0.4, -0.3) + off(0.4, 0.1) + off(-0.3, 0.1)) / 3.0;
        assert!((value(&at, |h| ipo(h, &[1; 3], &compare_ranked(&[3]), 2.0).unwrap()) - mean).abs() < 1e-12);
    }

    #[test]
    fn the_gradients_are_those_of_central_differences() {
        let at = [0.3, -1.2, 0.9, 0.4, 0.4, -2.0, 1.5];
        let pairs = compare_ranked(&[4, 3]);
        check_gradient(&at, |h| sigmoid(h, &pairs, 0.7, 0.0).unwrap());
        check_gradient(&at, |h| sigmoid(h, &pairs, 0.7, 0.2).unwrap());
        check_gradient(&at, |h| ipo(h, &[3, 1, 2, 5, 4, 2, 1], &pairs, 0.7).unwrap());
    }

    #[test]
    fn ratios_far_apart_neither_overflow_nor_vanish() {
        let pairs = compare_ranked(&[2]);
        assert_eq!(value(&[1e4, -1e4], |h| sigmoid(h, &pairs, 0.1, 0.0).unwrap()), 0.0);
        assert_eq!(value(&[-1e4, 1e4], |h| sigmoid(h, &pairs, 0.1, 0.0).unwrap()), 2e3);
        assert_eq!(gradient(&[-1e4, 1e4], |h| sigmoid(h, &pairs, 0.1, 0.0).unwrap()), [-0.1, 0.1]);
    }
}
