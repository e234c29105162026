//! From rewards to advantages and policy losses: plain arithmetic over sampled answers.

use crate::error::Result;
use candle_core::{DType, Tensor};

/// Reward of an answer: the score of a finished one, `penalty` for one that was cut off (the EOS trick).
///
/// # Reference
/// Huang et al. 2024, arXiv 2403.17031, detail "EOS trick": answers that do not end are given a fixed low reward.
pub(crate) fn reward_finished(score: f64, is_finished: bool, penalty: f64) -> f64 {
    if is_finished { score } else { penalty }
}

/// `A_k = R_k - mean of the other rewards of its prompt`, for prompts of `group` answers that follow each other.
///
/// # Reference
/// Ahmadian et al. 2024, arXiv 2402.14740, section 3.3: REINFORCE leave-one-out.
pub(crate) fn subtract_leave_one_out(rewards: &[f64], group: usize) -> Vec<f64> {
    assert!(group >= 2 && rewards.len().is_multiple_of(group), "leave-one-out needs whole groups of two or more");
    let of_group = |group_rewards: &[f64]| -> Vec<f64> {
        let sum: f64 = group_rewards.iter().sum();
        group_rewards.iter().map(|r| r - (sum - r) / (group - 1) as f64).collect()
    };
    rewards.chunks(group).flat_map(of_group).collect()
}

/// `A_i = (r_i - mean) / (std + eps)` within each prompt's group of answers that follow each other, `std` unbiased; with
/// `eps` = `None` only `r_i - mean`.
///
/// # Reference
/// Shao et al. 2024, arXiv 2402.03300, section 4.1.2; without the deviation Liu et al. 2025, arXiv 2503.20783, section 3.2.
pub(crate) fn subtract_group_mean(rewards: &[f64], group: usize, eps: Option<f64>) -> Vec<f64> {
    assert!(group >= 2 && rewards.len().is_multiple_of(group), "a group needs two answers or more");
    let of_group = |rewards: &[f64]| -> Vec<f64> {
        let (mean, std) = mean_and_std(rewards);
        let unbiased = std * (group as f64 / (group - 1) as f64).sqrt();
        let scale = eps.map_or(1.0, |eps| unbiased + eps);
        rewards.iter().map(|r| (r - mean) / scale).collect()
    };
    rewards.chunks(group).flat_map(of_group).collect()
}

/// Shifts and scales to mean 0 and standard deviation 1 (of the population, `1e-8` added to it).
///
/// # Reference
/// Schulman et al.'s implementation of PPO; detail "advantage whitening" of Huang et al. 2024, arXiv 2403.17031.
pub(crate) fn whiten(values: &mut [f64]) {
    let (mean, std) = mean_and_std(values);
    for value in values {
        *value = (*value - mean) / (std + 1e-8);
    }
}

/// Mean and standard deviation of the population; zeros where there are no values.
pub(crate) fn mean_and_std(values: &[f64]) -> (f64, f64) {
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
    (mean, variance.sqrt())
}

/// Advantages over the tokens of one answer that ends with it (no value after the last token).
///
/// `delta_t = r_t + gamma V_(t+1) - V_t`, `A_t = delta_t + gamma lambda A_(t+1)`.
///
/// # Reference
/// Schulman et al. 2016, arXiv 1506.02438, equation 16.
pub(crate) fn estimate_advantages(rewards: &[f64], values: &[f64], gamma: f64, lambda: f64) -> Vec<f64> {
    assert_eq!(rewards.len(), values.len(), "one value for each reward");
    let mut advantages = vec![0.0; rewards.len()];
    let (mut next_advantage, mut next_value) = (0.0, 0.0);
    for t in (0..rewards.len()).rev() {
        let delta = rewards[t] + gamma * next_value - values[t];
        next_advantage = delta + gamma * lambda * next_advantage;
        next_value = values[t];
        advantages[t] = next_advantage;
    }
    advantages
}

/// Two estimates of `KL(policy || reference)` from one token sampled from the policy, in nats.
///
/// # Reference
/// Schulman 2020, "Approximating KL divergence"; with `u = ln policy - ln reference`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct KlEstimate {
    /// `u`: unbiased, can be negative.
    pub(crate) k1: f64,
    /// `exp(-u) - 1 + u`: unbiased, never negative.
    pub(crate) k3: f64,
}

/// Estimates the divergence from the log-probabilities of one sampled token.
pub(crate) fn estimate_kl(policy_log_prob: f64, reference_log_prob: f64) -> KlEstimate {
    let u = policy_log_prob - reference_log_prob;
    KlEstimate { k1: u, k3: (-u).exp_m1() + u }
}

/// Loss of REINFORCE: `-sum_i a_i ln pi(token_i)`.
///
/// The advantages hold all constants (such as one over the number of answers).
///
/// # Shapes
/// `log_probs` is (N), differentiable; `advantages` has N numbers; the loss is a scalar.
///
/// # Errors
/// Where a tensor operation fails.
pub(crate) fn reinforce(log_probs: &Tensor, advantages: &[f64]) -> Result<Tensor> {
    let advantages = constants(advantages, log_probs)?;
    Ok((log_probs * advantages)?.sum_all()?.neg()?)
}

/// PPO's clipped loss of each token: `-min(rho_i a_i, clip(rho_i, 1 - clip, 1 + clip) a_i)` with `rho = pi / pi_old`.
///
/// # Shapes
/// `log_probs` is (N), differentiable; the slices have N numbers; the losses are (N).
///
/// # Errors
/// Where a tensor operation fails.
///
/// # Reference
/// Schulman et al. 2017, arXiv 1707.06347, equation 7.
pub(crate) fn clipped_surrogate(
    log_probs: &Tensor,
    old_log_probs: &[f64],
    advantages: &[f64],
    clip: f64,
) -> Result<Tensor> {
    let ratio = (log_probs - constants(old_log_probs, log_probs)?)?.exp()?;
    let advantages = constants(advantages, log_probs)?;
    let free = (&ratio * &advantages)?;
    let held = (ratio.clamp(1.0 - clip, 1.0 + clip)? * advantages)?;
    Ok(free.minimum(&held)?.neg()?)
}

/// The estimate `k3` of each token's divergence, with gradient: `exp(-u) - 1 + u` with `u = ln pi - ln ref`.
///
/// # Shapes
/// `log_probs` is (N), differentiable; `reference` has N numbers; the estimates are (N).
///
/// # Errors
/// Where a tensor operation fails.
///
/// # Reference
/// Shao et al. 2024, arXiv 2402.03300, equation 4.
pub(crate) fn penalise_divergence(log_probs: &Tensor, reference: &[f64]) -> Result<Tensor> {
    let u = (log_probs - constants(reference, log_probs)?)?;
    Ok(((u.neg()?.exp()? - 1.0)? + u)?)
}

/// `sum_i w_i x_i`, a scalar.
///
/// # Errors
/// Where a tensor operation fails.
pub(crate) fn weigh(values: &Tensor, weights: &[f64]) -> Result<Tensor> {
    Ok((values * constants(weights, values)?)?.sum_all()?)
}

/// Clipped squared error of the value head at each token: `max((v_i - g_i)^2, (clip(v_i, old_i - c, old_i + c) - g_i)^2) / 2`.
///
/// # Shapes
/// `values` is (N), differentiable; the slices have N numbers; the errors are (N).
///
/// # Errors
/// Where a tensor operation fails.
///
/// # Reference
/// Detail "value function loss clipping" of Huang et al. 2024, arXiv 2403.17031.
pub(crate) fn clipped_value_error(values: &Tensor, old_values: &[f64], returns: &[f64], clip: f64) -> Result<Tensor> {
    let returns = constants(returns, values)?;
    let old = constants(old_values, values)?;
    let held = (&old + (values - &old)?.clamp(-clip, clip)?)?;
    let free_error = (values - &returns)?.sqr()?;
    let held_error = (held - &returns)?.sqr()?;
    Ok((free_error.maximum(&held_error)? * 0.5)?)
}

fn constants(values: &[f64], like: &Tensor) -> Result<Tensor> {
    assert_eq!(values.len(), like.elem_count(), "one number for each token");
    let tensor = Tensor::new(values, like.device())?;
    Ok(if like.dtype() == DType::F64 { tensor } else { tensor.to_dtype(like.dtype())? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() < 1e-9, "{found:?} against {expected:?}");
        }
    }

    /// Compares a loss's gradient with central differences.
    fn check_gradient(at: &[f64], loss: impl Fn(&Tensor) -> Tensor) {
        let var = Var::new(at, &Device::Cpu).unwrap();
        let grads = loss(var.as_tensor()).backward().unwrap();
        let gradient: Vec<f64> = grads.get(&var).unwrap().to_vec1().unwrap();
        for (i, &analytic) in gradient.iter().enumerate() {
            let value = |delta: f64| {
                let mut moved = at.to_vec();
                moved[i] += delta;
                loss(&Tensor::new(moved, &Device::Cpu).unwrap()).to_scalar::<f64>().unwrap()
            };
            let numeric = (value(1e-6) - value(-1e-6)) / 2e-6;
            assert!((analytic - numeric).abs() < 1e-7, "element {i}: {analytic} against {numeric}");
        }
    }

    #[test]
    fn unfinished_answers_get_the_penalty_whatever_their_score() {
        assert_eq!(reward_finished(2.5, true, -1.0), 2.5);
        assert_eq!(reward_finished(2.5, false, -1.0), -1.0);
    }

    #[test]
    fn leave_one_out_subtracts_the_mean_of_the_others() {
        // (1, 2, 3, 6): the others' means are 11/3, 10/3, 3, 2. The second prompt's rewards are equal.
        let advantages = subtract_leave_one_out(&[1.0, 2.0, 3.0, 6.0, 5.0, 5.0, 5.0, 5.0], 4);
        close(&advantages, &[-8.0 / 3.0, -4.0 / 3.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0]);
        // K / (K - 1) (R - mean)
        close(&advantages[..4], &[1.0, 2.0, 3.0, 6.0].map(|r| 4.0 / 3.0 * (r - 3.0)));
    }

    #[test]
    fn group_advantages_are_those_worked_by_hand() {
        // (1, 2, 3, 6): mean 3, unbiased variance (4 + 1 + 0 + 9) / 3. Equal rewards give none, however small the deviation.
        let std = (14.0_f64 / 3.0).sqrt();
        let rewards = [1.0, 2.0, 3.0, 6.0, 5.0, 5.0, 5.0, 5.0];
        let scaled = subtract_group_mean(&rewards, 4, Some(0.1));
        close(&scaled[..4], &[-2.0, -1.0, 0.0, 3.0].map(|a| a / (std + 0.1)));
        close(&scaled[4..], &[0.0; 4]);
        close(&subtract_group_mean(&rewards, 4, None)[..4], &[-2.0, -1.0, 0.0, 3.0]);
        // Without the deviation they are leave-one-out's, but for K / (K - 1).
        let unscaled = subtract_group_mean(&rewards, 4, None);
        close(&subtract_leave_one_out(&rewards, 4), &unscaled.iter().map(|a| a * 4.0 / 3.0).collect::<Vec<_>>());
    }

    #[test]
    fn the_penalty_is_the_estimate_k3_and_pulls_towards_the_reference() {
        let (log_probs, reference) = ([-1.0, -0.3, -2.0], [-1.5, -0.3, -1.0]);
        let penalty = |x: &Tensor| penalise_divergence(x, &reference).unwrap().sum_all().unwrap();
        let found: Vec<f64> = penalise_divergence(&Tensor::new(&log_probs, &Device::Cpu).unwrap(), &reference)
            .unwrap()
            .to_vec1()
            .unwrap();
        let expected: Vec<f64> = log_probs.iter().zip(reference).map(|(&p, r)| estimate_kl(p, r).k3).collect();
        close(&found, &expected);
        check_gradient(&log_probs, penalty);
    }

    #[test]
    fn whitened_values_have_mean_zero_and_deviation_one() {
        let mut values = [1.0, 2.0, 3.0, 4.0];
        whiten(&mut values);
        let (mean, std) = mean_and_std(&values);
        assert!(mean.abs() < 1e-12 && (std - 1.0).abs() < 1e-6);
        assert!((values[0] + 1.5 / 1.25_f64.sqrt()).abs() < 1e-6);
        let mut equal = [3.0, 3.0];
        whiten(&mut equal);
        assert_eq!(equal, [0.0, 0.0]);
    }

    #[test]
    fn generalised_advantages_are_those_worked_by_hand() {
        // gamma 0.9, lambda 0.5; deltas: 1 + 0.9*2 - 1 = 1.8, 0 + 0.9*3 - 2 = 0.7, 4 - 3 = 1
        // A_2 = 1, A_1 = 0.7 + 0.45*1 = 1.15, A_0 = 1.8 + 0.45*1.15 = 2.3175
        close(&estimate_advantages(&[1.0, 0.0, 4.0], &[1.0, 2.0, 3.0], 0.9, 0.5), &[2.3175, 1.15, 1.0]);
        // lambda 1 and gamma 1: what is still to come, less the value.
        close(&estimate_advantages(&[1.0, 0.0, 4.0], &[1.0, 2.0, 3.0], 1.0, 1.0), &[4.0, 2.0, 1.0]);
        assert!(estimate_advantages(&[], &[], 1.0, 1.0).is_empty());
    }

    #[test]
    fn the_estimates_of_kl_are_those_of_their_formulas() {
        let estimate = estimate_kl(-1.0, -1.5);
        close(&[estimate.k1, estimate.k3], &[0.5, (-0.5_f64).exp() - 0.5]);
        assert!(estimate_kl(-2.0, -1.0).k3 > 0.0);
        assert_eq!(estimate_kl(-1.0, -1.0), KlEstimate { k1: 0.0, k3: 0.0 });
    }

    #[test]
    fn k1_and_k3_are_right_on_average() {
        let (p, q) = ([0.7_f64, 0.2, 0.1], [0.5_f64, 0.1, 0.4]);
        let exact: f64 = p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum();
        let mean = |of: fn(KlEstimate) -> f64| -> f64 {
            p.iter().zip(q).map(|(p, q)| p * of(estimate_kl(p.ln(), q.ln()))).sum()
        };
        close(&[mean(|e| e.k1), mean(|e| e.k3)], &[exact, exact]);
    }

    #[test]
    fn the_reinforce_loss_has_the_advantages_as_gradient() {
        let advantages = [0.5, -1.0, 2.0];
        let var = Var::new(&[-0.1, -0.2, -0.3], &Device::Cpu).unwrap();
        let grads = reinforce(&var, &advantages).unwrap().backward().unwrap();
        close(&grads.get(&var).unwrap().to_vec1::<f64>().unwrap(), &[-0.5, 1.0, -2.0]);
    }

    #[test]
    fn the_clipped_surrogate_is_the_smaller_of_the_two() {
        // Ratios 1.5, 0.5, 1.5, 1.1 with clip 0.2 and advantages 1, -1, -1, 2: min gives 1.2, -0.8, -1.5, 2.2.
        let log_probs = [1.5_f64, 0.5, 1.5, 1.1].map(f64::ln);
        let (old, advantages) = ([0.0; 4], [1.0, -1.0, -1.0, 2.0]);
        let loss = |x: &Tensor| clipped_surrogate(x, &old, &advantages, 0.2).unwrap().mean_all().unwrap();
        let value: f64 = loss(&Tensor::new(&log_probs, &Device::Cpu).unwrap()).to_scalar().unwrap();
        assert!((value + (1.2 - 0.8 - 1.5 + 2.2) / 4.0).abs() < 1e-12);
        check_gradient(&log_probs, loss);
    }

    #[test]
    fn at_the_sampling_policy_the_surrogate_has_the_policy_gradient() {
        let old = [-0.5, -1.5];
        let var = Var::new(&old, &Device::Cpu).unwrap();
        let grads = clipped_surrogate(&var, &old, &[3.0, -1.0], 0.2).unwrap().backward().unwrap();
        close(&grads.get(&var).unwrap().to_vec1::<f64>().unwrap(), &[-3.0, 1.0]);
    }

    #[test]
    fn the_value_error_is_the_larger_of_the_two() {
        // v 1.0 held to 0.2, returns 0: max(1, 0.04) / 2. v 0.1 within the range of 0.2: 0.01 / 2.
        let loss = |x: &Tensor| clipped_value_error(x, &[0.0, 0.0], &[0.0, 0.0], 0.2).unwrap().mean_all().unwrap();
        let value: f64 = loss(&Tensor::new(&[1.0, 0.1], &Device::Cpu).unwrap()).to_scalar().unwrap();
        assert!((value - (1.0 + 0.01) / 4.0).abs() < 1e-12);
        check_gradient(&[1.0, 0.1, -0.7], |x| {
            weigh(&clipped_value_error(x, &[0.5, 0.0, 0.1], &[0.2, 0.3, -1.0], 0.2).unwrap(), &[1.0, 0.5, 2.0]).unwrap()
        });
    }
}
