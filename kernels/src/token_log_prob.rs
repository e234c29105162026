//! Log-probabilities of given tokens, logits of all of the vocabulary never held.

use crate::element::{largest, sum_terms};
use crate::parallel::map_blocks;
use crate::product::{Into, Packed, View, multiply_here};
use crate::simd::vectorize;

/// How likely one token is where it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogProb {
    /// `ln p(token | everything before)`, nats.
    pub log_prob_nats: f64,
    /// Whether it is the most likely token; of equals the first is.
    pub is_greedy: bool,
}

/// Rows whose logits exist at the same time, on each thread.
const BLOCK_ROWS: usize = 96;
/// Columns of these logits: together they stay in the second-level cache.
const CHUNK_COLS: usize = 256;

/// For each target, a row of `hidden` (never falling) and a token, how likely the token is by the softmax of `hidden W^T`.
///
/// # Shapes
/// `hidden` (N, d), `by_column` (d, V).
pub(crate) fn token_log_probs(
    hidden: View<f32>,
    by_column: &Packed<f32>,
    targets: &[(usize, u32)],
) -> Vec<TokenLogProb> {
    let blocks = map_blocks(hidden.rows().div_ceil(BLOCK_ROWS), |idx| {
        let rows = idx * BLOCK_ROWS..hidden.rows().min((idx + 1) * BLOCK_ROWS);
        let [start, end] = [rows.start, rows.end].map(|row| targets.partition_point(|(target, _)| *target < row));
        block_log_probs(hidden.part(rows.clone()), by_column, &targets[start..end], rows.start)
    });
    blocks.concat()
}

/// What is known of a row of logits so far.
#[derive(Clone, Copy)]
struct Seen {
    top: f32,
    best: usize,
    /// `sum exp(logit - top)`
    total: f64,
}

fn block_log_probs(
    hidden: View<f32>,
    by_column: &Packed<f32>,
    targets: &[(usize, u32)],
    first_row: usize,
) -> Vec<TokenLogProb> {
    let n_cols = by_column.cols();
    let mut seen = vec![Seen { top: f32::MIN, best: 0, total: 0.0 }; hidden.rows()];
    let mut chosen = vec![0.0_f32; targets.len()];
    let mut logits = vec![0.0; hidden.rows() * CHUNK_COLS];
    let chunk_cols = CHUNK_COLS.next_multiple_of(by_column.width());
    for start in (0..n_cols).step_by(chunk_cols) {
        let cols = start..n_cols.min(start + chunk_cols);
        let logits = &mut logits[..hidden.rows() * cols.len()];
        multiply_here(logits, cols.len(), hidden, by_column, 0..by_column.inner(), cols.clone(), Into::Overwrite);
        for (seen, row) in seen.iter_mut().zip(logits.chunks_exact(cols.len())) {
            let top = largest_of(row);
            if top > seen.top {
                seen.total *= f64::from(seen.top - top).exp();
                seen.top = top;
                seen.best = start + row.iter().position(|&logit| logit == top).unwrap_or(0);
            }
            seen.total += f64::from(sum_of_exponentials(row, seen.top));
        }
        for (chosen, &(row, id)) in chosen.iter_mut().zip(targets) {
            if cols.contains(&(id as usize)) {
                *chosen = logits[(row - first_row) * cols.len() + id as usize - start];
            }
        }
    }
    let judge = |(&(row, id), logit): (&(usize, u32), f32)| {
        let Seen { top, best, total } = seen[row - first_row];
        TokenLogProb { log_prob_nats: f64::from(logit) - f64::from(top) - total.ln(), is_greedy: best == id as usize }
    };
    targets.iter().zip(chosen).map(judge).collect()
}

vectorize! {
    fn largest_of<T>(values: &[T]) -> T {
        largest(values)
    }
}

vectorize! {
    fn sum_of_exponentials<T>(values: &[T], top: T) -> T {
        let mut weights = [T::ZERO; CHUNK_COLS];
        for (weight, &value) in weights.iter_mut().zip(values) {
            *weight = (value - top).exp();
        }
        sum_terms(values.len(), |i| weights[i])
    }
}

#[cfg(test)]
mod tests {
    use crate::check::draw;
    use crate::linear::PackedWeight;
    use crate::logits::{argmax, log_sum_exp};
    use candle_core::{DType, Tensor};

    #[test]
    fn they_equal_those_read_off_whole_rows_of_logits() {
        for (n, d, vocab) in [(1, 8, 5), (7, 24, 61), (150, 33, 700), (97, 16, 512)] {
            let hidden = (draw(1, &[n, d], DType::F32) * 4.0).unwrap();
            let weight = PackedWeight::new(&draw(2, &[vocab, d], DType::F32)).unwrap();
            let logits = weight.apply(&hidden).unwrap().to_vec2::<f32>().unwrap();
            // Two tokens of each row but for some rows, the best of the row one of them.
            let rows = (0..n).filter(|row| row % 5 != 3);
            let targets: Vec<(usize, u32)> =
                rows.flat_map(|row| [(row, argmax(&logits[row]) as u32), (row, (row * 7 % vocab) as u32)]).collect();
            let found = weight.token_log_probs(&hidden, &targets).unwrap();
            assert_eq!(found.len(), targets.len());
            for (found, &(row, id)) in found.iter().zip(&targets) {
                let expected = f64::from(logits[row][id as usize]) - log_sum_exp(&logits[row]);
                assert!((found.log_prob_nats - expected).abs() < 1e-6, "{found:?} {expected}");
                assert_eq!(found.is_greedy, argmax(&logits[row]) == id as usize);
            }
        }
    }

    #[test]
    fn of_equal_logits_the_first_is_the_most_likely_and_extreme_ones_stay_finite() {
        let hidden = Tensor::new(&[[1.0_f32]], &candle_core::Device::Cpu).unwrap();
        let mut logits = vec![0.0_f32; 600];
        (logits[300], logits[599]) = (1e4, 1e4);
        let weight = PackedWeight::new(&Tensor::from_vec(logits, (600, 1), hidden.device()).unwrap()).unwrap();
        let found = weight.token_log_probs(&hidden, &[(0, 0), (0, 300), (0, 599)]).unwrap();
        assert_eq!(found.iter().map(|it| it.is_greedy).collect::<Vec<_>>(), [false, true, false]);
        assert!((found[0].log_prob_nats + 1e4 + 2.0_f64.ln()).abs() < 1e-3);
        assert!((found[2].log_prob_nats + 2.0_f64.ln()).abs() < 1e-6);
        assert!(weight.token_log_probs(&hidden, &[(0, 600)]).is_err());
        assert!(weight.token_log_probs(&hidden, &[(1, 0)]).is_err());
    }
}
