//! Test of two shares of separate samples: is one larger?

/// Fisher's exact test, one-sided: probability of at least `hits` successes among the first `n` trials, given how many successes both
/// samples have together, `P(X >= hits)` with `X ~ Hypergeometric`.
///
/// Each sample is `(hits, n)`. `None` where a sample is empty: there is nothing to compare.
///
/// # Reference
/// Fisher 1935, *J. R. Statist. Soc.* 98.
pub fn greater((hits, n): (usize, usize), (other_hits, other_n): (usize, usize)) -> Option<f64> {
    if n == 0 || other_n == 0 {
        return None;
    }
    let (all_hits, all) = (hits + other_hits, n + other_n);
    let total = ln_choose(all, all_hits);
    let probability = |k: usize| (ln_choose(n, k) + ln_choose(other_n, all_hits - k) - total).exp();
    Some((hits..=n.min(all_hits)).map(probability).sum::<f64>().min(1.0))
}

/// `ln C(n, k)`, for `k <= n`.
fn ln_choose(n: usize, k: usize) -> f64 {
    (1..=k.min(n - k)).map(|i| ((n - k.min(n - k) + i) as f64 / i as f64).ln()).sum()
}

#[cfg(test)]
mod tests {
    use super::greater;
    use proptest::prelude::*;

    #[test]
    fn equals_worked_examples() {
        // Fisher's tea: (C(4,3) C(4,1) + C(4,4) C(4,0)) / C(8,4) = 17/70.
        assert!((greater((3, 4), (1, 4)).unwrap() - 17.0 / 70.0).abs() < 1e-12);
        // Python, exact fractions: sum(comb(n, k) * comb(m, a + b - k) for k in range(a, min(n, a + b) + 1)) / comb(n + m, a + b)
        for (one, other, expected) in [
            ((8, 10), (1, 6), 0.024475524475524476),
            ((146, 240), (40, 680), 5.6460204947132835e-67),
            ((5, 100), (50, 1000), 0.572214698554224),
            ((0, 10), (3, 10), 1.0),
        ] {
            let got = greater(one, other).unwrap();
            assert!((got / expected - 1.0).abs() < 1e-10, "{one:?} {other:?}: {got} is not {expected}");
        }
        assert_eq!(greater((0, 0), (1, 2)), None);
        assert_eq!(greater((1, 2), (0, 0)), None);
    }

    proptest! {
        #[test]
        fn equals_brute_force_over_all_ways_to_deal_the_hits(a in 0_usize..5, n in 1_usize..6, b in 0_usize..5, m in 1_usize..6) {
            prop_assume!(a <= n && b <= m);
            // Each way to choose which of the n + m trials are hits is equally likely.
            let (mut at_least, mut all) = (0_u32, 0_u32);
            for chosen in 0_u32..(1 << (n + m)) {
                if chosen.count_ones() as usize == a + b {
                    all += 1;
                    at_least += u32::from((chosen & ((1 << n) - 1)).count_ones() as usize >= a);
                }
            }
            prop_assert!((greater((a, n), (b, m)).unwrap() - f64::from(at_least) / f64::from(all)).abs() < 1e-12);
        }
    }
}
