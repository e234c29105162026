//! Attention of new tokens over a cache, for inference.

use crate::attention::AttentionSpec;
use crate::cache::{KEY_RUN, KvCache, Layer};
use crate::element::{largest, sum_terms};
use crate::error::{Error, Result, length_mismatch, shape_mismatch};
use crate::parallel::{SharedSlice, map_blocks};
use crate::product::{Into, Packed, View, multiply_here};
use crate::rotation::Rotation;
use crate::simd::vectorize;
use crate::storage::{Values, prepare, tensor_of};
use candle_core::{DType, Tensor};

const OP: &str = "decode_attention";
/// From this many new tokens of a row on, the scores are matrix products.
const PREFILL_TOKENS: usize = 8;
/// Queries whose scores exist at the same time.
const BLOCK_ROWS: usize = 48;

/// Appends new tokens to a layer of a cache and lets each attend to its row up to and including itself.
///
/// `rows[i]` is the cache row of token `i`; the tokens of a row follow each other and stand behind those the row holds
/// already. So one call reads ragged prompts (many tokens per row) as well as one new token per row, for any subset of
/// rows in any order of rows. After the call for the last layer, [`KvCache::advance`] with the same `rows` counts them.
///
/// The result equals [`crate::rope_attention`] over the whole sequences, up to rounding. There is no gradient.
///
/// # Shapes
/// `qkv` (N, (H + 2 KV) D) holding q | k | v, `rows` N, result (N, H D).
///
/// # Errors
/// [`Error::CacheFull`] when a row would exceed its capacity; [`Error`] when shapes, element type (f32; on a GPU that of the
/// cache) or device do not fit. The cache is unchanged then.
pub fn decode_attention(
    qkv: &Tensor,
    spec: &AttentionSpec,
    rows: &[usize],
    cache: &mut KvCache,
    layer: usize,
) -> Result<Tensor> {
    let qkv = prepare(&qkv.detach(), OP, "qkv")?;
    spec.check(OP)?;
    if qkv.device().is_cpu() && qkv.dtype() != DType::F32 {
        return Err(Error::UnsupportedDtype { op: OP, what: "qkv", expected: "f32", found: qkv.dtype() });
    }
    if qkv.dims() != [rows.len(), spec.qkv_width()] {
        let expected = format!("[{}, {}]", rows.len(), spec.qkv_width());
        return Err(shape_mismatch(OP, "qkv", expected, qkv.shape()));
    }
    if cache.width() != spec.n_kv_heads * spec.head_dim {
        return Err(length_mismatch(OP, "cache", spec.n_kv_heads * spec.head_dim, cache.width()));
    }
    let runs = find_runs(rows, cache)?;
    #[cfg(feature = "cuda")]
    if let Some(on_gpu) = cache.on_gpu() {
        let places = runs.iter().flat_map(|run| (0..run.n_tokens).map(|i| (run.row as u32, (run.position + i) as u32)));
        let (rows, positions): (Vec<u32>, Vec<u32>) = places.unzip();
        return crate::cuda::decode_attention(&qkv, spec, &rows, &positions, on_gpu, layer);
    }
    let n_positions = runs.iter().map(|run| run.position + run.n_tokens).max().unwrap_or(0);
    let rotation = Rotation::covering(n_positions, spec.rope_theta, spec.head_dim);
    let values = Values::of(&qkv);
    let qkv = values.as_slice::<f32>()?;

    append(qkv, spec, &runs, &rotation, cache.layer_mut(layer)?);
    let layer = cache.layer(layer)?;
    let mut y = vec![0.0; rows.len() * spec.output_width()];
    let shared = SharedSlice::new(&mut y);
    map_blocks(runs.len(), |idx| {
        let run = &runs[idx];
        let width = spec.output_width();
        // SAFETY: runs are disjoint ranges of tokens.
        let y = unsafe { shared.part(run.token * width, run.n_tokens * width) };
        let qkv = &qkv[run.token * spec.qkv_width()..][..run.n_tokens * spec.qkv_width()];
        if run.n_tokens >= PREFILL_TOKENS {
            attend_together(y, qkv, spec, run, &rotation, layer);
        } else {
            attend_one_by_one(y, qkv, spec, run, &rotation, layer);
        }
    });
    Ok(tensor_of(y, (rows.len(), spec.output_width()))?)
}

/// New tokens of one row, next to each other in the input.
struct Run {
    /// The first of them in the input.
    token: usize,
    n_tokens: usize,
    /// Position of the first of them in its row.
    position: usize,
    /// Its row of the cache.
    row: usize,
}

fn find_runs(rows: &[usize], cache: &KvCache) -> Result<Vec<Run>> {
    let mut lengths = cache.lengths().to_vec();
    let mut runs: Vec<Run> = Vec::new();
    for (token, &row) in rows.iter().enumerate() {
        cache.check_row(row)?;
        if token > 0 && rows[token - 1] == row {
            if let Some(run) = runs.last_mut() {
                run.n_tokens += 1;
            }
        } else {
            let seen_before = lengths[row] != cache.lengths()[row];
            if seen_before {
                return Err(Error::ShapeMismatch {
                    op: OP,
                    what: "rows",
                    expected: "all tokens of a row next to each other".to_owned(),
                    found: format!("row {row} again at token {token}"),
                });
            }
            runs.push(Run { token, n_tokens: 1, position: lengths[row], row });
        }
        lengths[row] += 1;
        if lengths[row] > cache.max_len() {
            return Err(Error::CacheFull { row, needed: lengths[row], capacity: cache.max_len() });
        }
    }
    Ok(runs)
}

fn append(qkv: &[f32], spec: &AttentionSpec, runs: &[Run], rotation: &Rotation, layer: &mut Layer) {
    let d = spec.head_dim;
    let mut key = vec![0.0; d];
    for run in runs {
        for i in 0..run.n_tokens {
            let from = &qkv[(run.token + i) * spec.qkv_width()..][..spec.qkv_width()];
            let position = run.position + i;
            for kv_head in 0..spec.n_kv_heads {
                rotation.turn(&mut key, &from[spec.key_column(kv_head)..][..d], position as u32, 1.0);
                layer.write(run.row, kv_head, position, &key, &from[spec.value_column(kv_head)..][..d]);
            }
        }
    }
}

fn attend_one_by_one(y: &mut [f32], qkv: &[f32], spec: &AttentionSpec, run: &Run, rotation: &Rotation, layer: &Layer) {
    let d = spec.head_dim;
    let mut query = vec![0.0; d];
    let mut weights = vec![0.0; run.position + run.n_tokens];
    let tokens = y.chunks_exact_mut(spec.output_width()).zip(qkv.chunks_exact(spec.qkv_width()));
    for (i, (y, from)) in tokens.enumerate() {
        let position = run.position + i;
        for head in 0..spec.n_heads {
            let column = spec.query_column(head);
            let kv_head = head / spec.group();
            rotation.turn(&mut query, &from[column..column + d], position as u32, spec.scale());
            let (keys, values) = (layer.keys(run.row, kv_head), layer.values(run.row, kv_head));
            attend_once(&mut y[column..column + d], &query, keys, values, &mut weights[..=position]);
        }
    }
}

vectorize! {
    /// One query over the first `weights.len()` keys and values of a head, laid out as in [`Layer`].
    fn attend_once<T>(y: &mut [T], query: &[T], keys: &[T], values: &[T], weights: &mut [T]) {
        let d = query.len();
        for (weights, keys) in weights.chunks_mut(KEY_RUN).zip(keys.chunks_exact(KEY_RUN * d)) {
            // Keys behind the last one are computed with and dropped: runs are always whole.
            let mut scores = [T::ZERO; KEY_RUN];
            for (&q, component) in query.iter().zip(keys.chunks_exact(KEY_RUN)) {
                for (score, &key) in scores.iter_mut().zip(component) {
                    *score += q * key;
                }
            }
            weights.copy_from_slice(&scores[..weights.len()]);
        }
        let top = largest(weights);
        for weight in weights.iter_mut() {
            *weight = (*weight - top).exp();
        }
        let inverse = T::ONE / sum_terms(weights.len(), |s| weights[s]);
        y.fill(T::ZERO);
        // Four tokens at a time, so that additions do not wait for each other.
        for (weights, values) in weights.chunks(4).zip(values.chunks(4 * d)) {
            if let &[w0, w1, w2, w3] = weights {
                let (v0, rest) = values.split_at(d);
                let (v1, rest) = rest.split_at(d);
                let (v2, v3) = rest.split_at(d);
                for ((((y, v0), v1), v2), v3) in y.iter_mut().zip(v0).zip(v1).zip(v2).zip(v3) {
                    *y += (w0 * *v0 + w1 * *v1) + (w2 * *v2 + w3 * *v3);
                }
            } else {
                for (&weight, values) in weights.iter().zip(values.chunks_exact(d)) {
                    for (y, &value) in y.iter_mut().zip(values) {
                        *y += weight * value;
                    }
                }
            }
        }
        for y in y.iter_mut() {
            *y *= inverse;
        }
    }
}

/// The first `n_keys` keys of a head as `(D, n_keys)`.
fn unwrap_runs(by_component: &mut [f32], keys: &[f32], n_keys: usize) {
    let d = by_component.len() / n_keys;
    for (idx, run) in keys.chunks_exact(KEY_RUN * d).take(n_keys.div_ceil(KEY_RUN)).enumerate() {
        let first = idx * KEY_RUN;
        let n = KEY_RUN.min(n_keys - first);
        for (to, from) in by_component.chunks_exact_mut(n_keys).zip(run.chunks_exact(KEY_RUN)) {
            to[first..first + n].copy_from_slice(&from[..n]);
        }
    }
}

fn attend_together(y: &mut [f32], qkv: &[f32], spec: &AttentionSpec, run: &Run, rotation: &Rotation, layer: &Layer) {
    let d = spec.head_dim;
    let n_keys = run.position + run.n_tokens;
    let mut weights = Vec::new();
    let mut queries = vec![0.0; BLOCK_ROWS * d];
    let mut by_component = vec![0.0; d * n_keys];
    for kv_head in 0..spec.n_kv_heads {
        unwrap_runs(&mut by_component, layer.keys(run.row, kv_head), n_keys);
        let keys = Packed::new_here(View::dense(&by_component, d, n_keys));
        let values = Packed::new_here(View::dense(&layer.values(run.row, kv_head)[..n_keys * d], n_keys, d));
        for head in kv_head * spec.group()..(kv_head + 1) * spec.group() {
            let column = spec.query_column(head);
            for start in (0..run.n_tokens).step_by(BLOCK_ROWS) {
                let n_rows = BLOCK_ROWS.min(run.n_tokens - start);
                for (i, query) in queries.chunks_exact_mut(d).take(n_rows).enumerate() {
                    let from = &qkv[(start + i) * spec.qkv_width() + column..][..d];
                    rotation.turn(query, from, (run.position + start + i) as u32, spec.scale());
                }
                let visible = run.position + start + n_rows;
                weights.resize(n_rows * visible, 0.0);
                let block = View::dense(&queries, n_rows, d);
                multiply_here(&mut weights, visible, block, &keys, 0..d, 0..visible, Into::Overwrite);
                for (i, row) in weights.chunks_exact_mut(visible).enumerate() {
                    soften(row, run.position + start + i + 1);
                }
                let weights = View::dense(&weights, n_rows, visible);
                let y = &mut y[start * spec.output_width() + column..];
                multiply_here(y, spec.output_width(), weights, &values, 0..visible, 0..d, Into::Overwrite);
            }
        }
    }
}

vectorize! {
    /// Softmax of the first `n_visible` scores, 0 for the rest.
    fn soften<T>(scores: &mut [T], n_visible: usize) {
        let (past, future) = scores.split_at_mut(n_visible);
        future.fill(T::ZERO);
        let top = largest(past);
        for score in past.iter_mut() {
            *score = (*score - top).exp();
        }
        let inverse = T::ONE / sum_terms(n_visible, |s| past[s]);
        for score in past.iter_mut() {
            *score *= inverse;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::{Segments, rope_attention};
    use crate::check::{assert_close, draw};

    const SPEC: AttentionSpec = AttentionSpec { n_heads: 4, n_kv_heads: 2, head_dim: 6, rope_theta: 10_000.0 };

    fn whole(qkv: &Tensor) -> Tensor {
        let n = qkv.dim(0).unwrap();
        rope_attention(&qkv.unsqueeze(0).unwrap(), &SPEC, &Segments::whole_rows(1, n)).unwrap().squeeze(0).unwrap()
    }

    fn feed(cache: &mut KvCache, qkv: &Tensor, rows: &[usize]) -> Tensor {
        let y = decode_attention(qkv, &SPEC, rows, cache, 0).unwrap();
        cache.advance(rows).unwrap();
        y
    }

    #[test]
    fn cached_equals_uncached_for_ragged_prompts_then_single_tokens() {
        let documents = [draw(1, &[60, SPEC.qkv_width()], DType::F32), draw(2, &[7, SPEC.qkv_width()], DType::F32)];
        let expected = documents.each_ref().map(whole);
        let mut cache = KvCache::new(1, 2, 64, &SPEC);
        let prompts = [55, 3];

        let prompt = Tensor::cat(&[documents[1].narrow(0, 0, 3).unwrap(), documents[0].narrow(0, 0, 55).unwrap()], 0);
        let rows: Vec<usize> = [vec![1; 3], vec![0; 55]].concat();
        let y = feed(&mut cache, &prompt.unwrap(), &rows);
        assert_close("row 1", &y.narrow(0, 0, 3).unwrap(), &expected[1].narrow(0, 0, 3).unwrap(), 1e-5);
        assert_close("row 0", &y.narrow(0, 3, 55).unwrap(), &expected[0].narrow(0, 0, 55).unwrap(), 1e-5);

        for i in 0..4 {
            let token = |row: usize, from: &Tensor| from.narrow(0, prompts[row] + i, 1).unwrap();
            let tokens = Tensor::cat(&[token(0, &documents[0]), token(1, &documents[1])], 0).unwrap();
            let y = feed(&mut cache, &tokens, &[0, 1]);
            for (row, expected) in expected.iter().enumerate() {
                assert_close("token", &y.narrow(0, row, 1).unwrap(), &token(row, expected), 1e-5);
            }
        }
        assert_eq!(cache.lengths(), [59, 7]);
    }

    #[test]
    fn a_prompt_in_two_pieces_equals_the_prompt_at_once() {
        let document = draw(3, &[40, SPEC.qkv_width()], DType::F32);
        let mut cache = KvCache::new(1, 1, 40, &SPEC);
        let first = feed(&mut cache, &document.narrow(0, 0, 11).unwrap(), &[0; 11]);
        let second = feed(&mut cache, &document.narrow(0, 11, 29).unwrap(), &[0; 29]);
        assert_close("all", &Tensor::cat(&[first, second], 0).unwrap(), &whole(&document), 1e-5);
    }

    #[test]
    fn a_shared_prefix_and_a_truncated_row_continue_as_if_fed_alone() {
        let document = draw(4, &[12, SPEC.qkv_width()], DType::F32);
        let expected = whole(&document);
        let mut cache = KvCache::new(1, 3, 16, &SPEC);
        feed(&mut cache, &document, &[0; 12]);
        cache.copy_prefix(0, 10, &[2, 1]).unwrap();
        cache.truncate(0, 10).unwrap();
        assert_eq!(cache.lengths(), [10, 10, 10]);
        let token = document.narrow(0, 10, 1).unwrap();
        let y = feed(&mut cache, &Tensor::cat(&[&token, &token], 0).unwrap(), &[2, 0]);
        for i in 0..2 {
            assert_close("token 10", &y.narrow(0, i, 1).unwrap(), &expected.narrow(0, 10, 1).unwrap(), 1e-5);
        }
    }

    #[test]
    fn an_overfull_row_or_a_split_row_is_refused_and_leaves_the_cache_alone() {
        let mut cache = KvCache::new(1, 2, 2, &SPEC);
        let tokens = draw(5, &[3, SPEC.qkv_width()], DType::F32);
        for rows in [[0, 0, 0], [0, 1, 0], [0, 1, 2]] {
            assert!(decode_attention(&tokens, &SPEC, &rows, &mut cache, 0).is_err());
        }
        assert!(decode_attention(&tokens, &SPEC, &[0, 1, 1], &mut cache, 1).is_err());
        assert_eq!(cache.lengths(), [0, 0]);
    }
}
