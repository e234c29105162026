//! The Bradley-Terry model of preference: how likely one answer is preferred over another, given a score for each.

use crate::error::Result;
use candle_core::{DType, Tensor};

/// Two answers that were compared.
///
/// # Reference
/// Bai et al. 2022, arXiv 2212.08073, section 4.1, for soft labels: the feedback model's probabilities are the targets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pair {
    /// Index of the first answer's score.
    pub(crate) first: usize,
    /// Index of the second answer's score.
    pub(crate) second: usize,
    /// Probability that the first is the better one: 1 for a ranking, between 0 and 1 for a soft label.
    pub(crate) first_is_better: f64,
    /// Weight in the loss; the weights of a batch sum to 1.
    pub(crate) weight: f64,
}

/// All pairs of candidates that are ranked best first, for prompts of `group_sizes[i]` candidates that follow each other.
///
/// Each prompt weighs the same and, within it, each of its `C(K, 2)` pairs. Groups of fewer than two are left out.
///
/// # Reference
/// Ouyang et al. 2022, arXiv 2203.02155, equation 1: the factor `1 / C(K, 2)`, and all pairs of a prompt in one batch element.
pub(crate) fn compare_ranked(group_sizes: &[usize]) -> Vec<Pair> {
    let n_groups = group_sizes.iter().filter(|&&k| k >= 2).count();
    let mut comparisons = Vec::new();
    let mut start = 0;
    for &k in group_sizes {
        let n_pairs = k * k.saturating_sub(1) / 2;
        for first in 0..k {
            for second in first + 1..k {
                comparisons.push(Pair {
                    first: start + first,
                    second: start + second,
                    first_is_better: 1.0,
                    weight: 1.0 / (n_pairs * n_groups) as f64,
                });
            }
        }
        start += k;
    }
    comparisons
}

/// Cross-entropy of the comparisons: `sum_i w_i (-y_i ln s(d_i) - (1 - y_i) ln s(-d_i))` with `d = first - second`, in nats.
///
/// `-ln s(d)` is taken as `max(-d, 0) + ln(1 + exp(-|d|))`, which neither overflows nor loses digits.
///
/// # Shapes
/// `scores` is (N); the loss is a scalar of the same dtype.
///
/// # Errors
/// Where a comparison points beyond the scores or a tensor operation fails.
pub(crate) fn cross_entropy(scores: &Tensor, comparisons: &[Pair]) -> Result<Tensor> {
    let column = |take: fn(&Pair) -> u32| {
        let ids: Vec<u32> = comparisons.iter().map(take).collect();
        Tensor::new(ids, scores.device())
    };
    let first = scores.index_select(&column(|c| c.first as u32)?, 0)?;
    let second = scores.index_select(&column(|c| c.second as u32)?, 0)?;
    let difference = (first - second)?;
    let weights = |of: fn(&Pair) -> f64| -> Result<Tensor> {
        let values: Vec<f64> = comparisons.iter().map(of).collect();
        Ok(Tensor::new(values, scores.device())?.to_dtype(scores.dtype())?)
    };
    let when_first = (softplus(&difference.neg()?)? * weights(|c| c.weight * c.first_is_better)?)?;
    let when_second = (softplus(&difference)? * weights(|c| c.weight * (1.0 - c.first_is_better))?)?;
    Ok((when_first + when_second)?.sum_all()?)
}

/// Number of comparisons in which the better answer has the higher score, a tie counted half, and of comparisons that have a better answer:
/// a label of exactly one half names none.
pub(crate) fn count_right(scores: &[f64], comparisons: &[Pair]) -> (f64, f64) {
    let (mut n_right, mut n_decided) = (0.0, 0.0);
    for comparison in comparisons {
        let side = comparison.first_is_better - 0.5;
        if side == 0.0 {
            continue;
        }
        n_decided += 1.0;
        let agreement = side * (scores[comparison.first] - scores[comparison.second]);
        n_right += if agreement > 0.0 {
            1.0
        } else if agreement == 0.0 {
            0.5
        } else {
            0.0
        };
    }
    (n_right, n_decided)
}

/// Share of the comparisons in which the better answer has the higher score, as [`count_right`] counts them; `None` where none has a better
/// answer.
fn accuracy(scores: &[f64], comparisons: &[Pair]) -> Option<f64> {
    let (n_right, n_decided) = count_right(scores, comparisons);
    (n_decided > 0.0).then(|| n_right / n_decided)
}

/// How well scores judge pairs whose better answer is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Judged {
    /// Share of pairs in which the better answer has the higher score; a tie counts half.
    pub(crate) accuracy: f64,
    /// Expected calibration error of `s(d)`, the stated probability of the answer that it prefers, in ten bins of equal width.
    pub(crate) ece: f64,
    /// Mean of `-ln s(d)` for the better answer, in nats.
    pub(crate) loss_nats: f64,
    /// Number of pairs.
    pub(crate) n: usize,
}

/// Compares what scores say of pairs with what is known of them; `None` where no pair has a better answer.
///
/// # Reference
/// Guo et al. 2017, arXiv 1706.04599, equation 3, for the calibration error.
pub(crate) fn judge(scores: &[f64], comparisons: &[Pair]) -> Option<Judged> {
    const N_BINS: usize = 10;
    let accuracy = accuracy(scores, comparisons)?;
    let mut bins = [(0.0, 0.0); N_BINS];
    let (mut loss_nats, mut n) = (0.0, 0);
    for pair in comparisons.iter().filter(|pair| pair.first_is_better != 0.5) {
        let sign = if pair.first_is_better > 0.5 { 1.0 } else { -1.0 };
        // How much higher the better answer's score is.
        let lead = sign * (scores[pair.first] - scores[pair.second]);
        loss_nats += (-lead).max(0.0) + (-lead.abs()).exp().ln_1p();
        let stated = 1.0 / (1.0 + (-lead.abs()).exp());
        let is_right = if lead > 0.0 {
            1.0
        } else if lead < 0.0 {
            0.0
        } else {
            0.5
        };
        let bin = &mut bins[((stated * N_BINS as f64) as usize).min(N_BINS - 1)];
        *bin = (bin.0 + stated, bin.1 + is_right);
        n += 1;
    }
    let ece = bins.iter().map(|(stated, right)| (stated - right).abs()).sum::<f64>() / n as f64;
    Some(Judged { accuracy, ece, loss_nats: loss_nats / n as f64, n })
}

/// `ln(1 + exp(x))`.
fn softplus(x: &Tensor) -> Result<Tensor> {
    debug_assert!(matches!(x.dtype(), DType::F32 | DType::F64));
    Ok((x.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?)?)
}

#[cfg(test)]
mod tests {
    use super::{Pair, accuracy, compare_ranked, cross_entropy, judge, softplus};
    use candle_core::{Device, Tensor, Var};

    /// Pairs `(0, 1), (2, 3), ...` with a soft label each, as a feedback model gives them; each weighs the same.
    fn compare_labelled(labels: &[f64]) -> Vec<Pair> {
        let weight = 1.0 / labels.len() as f64;
        let pair = |(i, &y)| Pair { first: 2 * i, second: 2 * i + 1, first_is_better: y, weight };
        labels.iter().enumerate().map(pair).collect()
    }

    fn loss(scores: &[f64], comparisons: &[Pair]) -> f64 {
        let scores = Tensor::new(scores, &Device::Cpu).unwrap();
        cross_entropy(&scores, comparisons).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn a_pair_costs_what_the_formula_says() {
        // -ln sigmoid(1.5 - 0.5) = ln(1 + e^-1)
        assert!((loss(&[1.5, 0.5], &compare_ranked(&[2])) - 0.313_261_687_518_222_8).abs() < 1e-12);
        // A label of 0.8: 0.8 ln(1 + e^-1) + 0.2 ln(1 + e)
        assert!((loss(&[1.5, 0.5], &compare_labelled(&[0.8])) - 0.513_261_687_518_222_8).abs() < 1e-12);
        assert!((loss(&[0.0, 0.0], &compare_ranked(&[2])) - std::f64::consts::LN_2).abs() < 1e-12);
    }

    #[test]
    fn a_ranking_costs_the_mean_of_its_pairs_and_each_prompt_weighs_the_same() {
        let scores = [1.0, -0.5, 0.25, 2.0, 0.75];
        let pair = |a: f64, b: f64| (1.0 + (b - a).exp()).ln();
        let three = (pair(1.0, -0.5) + pair(1.0, 0.25) + pair(-0.5, 0.25)) / 3.0;
        let two = pair(2.0, 0.75);
        assert!((loss(&scores, &compare_ranked(&[3, 2])) - f64::midpoint(three, two)).abs() < 1e-12);
        assert!((loss(&scores, &compare_ranked(&[3, 1])) - three).abs() < 1e-12);
    }

    #[test]
    fn far_apart_scores_neither_overflow_nor_vanish() {
        assert_eq!(loss(&[2000.0, -2000.0], &compare_ranked(&[2])), 0.0);
        assert_eq!(loss(&[-2000.0, 2000.0], &compare_ranked(&[2])), 4000.0);
    }

    #[test]
    fn the_gradient_is_that_of_central_differences() {
        let scores = [0.3, -1.2, 0.9, 0.4, 0.4, -2.0];
        let mut comparisons = compare_ranked(&[4]);
        comparisons.extend(compare_labelled(&[0.3, 0.9, 0.5]));
        let var = Var::new(&scores, &Device::Cpu).unwrap();
        let grads = cross_entropy(&var, &comparisons).unwrap().backward().unwrap();
        let gradient: Vec<f64> = grads.get(&var).unwrap().to_vec1().unwrap();
        for (i, gradient) in gradient.iter().enumerate() {
            let at = |delta: f64| {
                let mut moved = scores;
                moved[i] += delta;
                loss(&moved, &comparisons)
            };
            let numeric = (at(1e-6) - at(-1e-6)) / 2e-6;
            assert!((gradient - numeric).abs() < 1e-8, "score {i}: {gradient} against {numeric}");
        }
    }

    #[test]
    fn equal_scores_are_still_pushed_apart() {
        let var = Var::new(&[0.0, 0.0], &Device::Cpu).unwrap();
        let grads = cross_entropy(&var, &compare_ranked(&[2])).unwrap().backward().unwrap();
        assert_eq!(grads.get(&var).unwrap().to_vec1::<f64>().unwrap(), [-0.5, 0.5]);
        assert_eq!(softplus(&var).unwrap().to_vec1::<f64>().unwrap(), [std::f64::consts::LN_2; 2]);
    }

    #[test]
    fn accuracy_counts_ties_half_and_leaves_undecided_labels_out() {
        assert_eq!(accuracy(&[2.0, 1.0, 1.0], &compare_ranked(&[3])), Some(2.5 / 3.0));
        assert_eq!(accuracy(&[2.0, 1.0, 0.0, 1.0], &compare_labelled(&[0.1, 0.4])), Some(0.5));
        assert_eq!(accuracy(&[2.0, 1.0], &compare_labelled(&[0.5])), None);
    }

    #[test]
    fn judgements_are_compared_with_what_is_known() {
        // Leads of 2, 2 and -2: stated probability s(2) = 0.8808, right in two of three.
        let pairs = compare_labelled(&[1.0, 1.0, 1.0]);
        let judged = judge(&[2.0, 0.0, 3.0, 1.0, 0.0, 2.0], &pairs).unwrap();
        let stated = 1.0 / (1.0 + (-2.0_f64).exp());
        assert!((judged.accuracy - 2.0 / 3.0).abs() < 1e-12);
        assert!((judged.ece - (stated - 2.0 / 3.0)).abs() < 1e-12);
        assert!((judged.loss_nats - (-2.0 * stated.ln() - (1.0 - stated).ln()) / 3.0).abs() < 1e-12);
        assert_eq!(judged.n, 3);
        assert_eq!(judge(&[1.0, 2.0], &compare_labelled(&[0.5])), None);
        // The second answer is the better one.
        assert_eq!(judge(&[1.0, 2.0], &compare_labelled(&[0.0])).unwrap().accuracy, 1.0);
    }
}
