//! Attention of new tokens over a cache, for inference.

use crate::attention::AttentionSpec;
use crate::cache::{KEY_RUN, KvCache, Layer};
use crate::element::{largest, sum_terms};
use crate::error::{Error, Result, length_mismatch, shape_mismatch};
use crate::logits::cap_softly;
use crate::parallel::{SharedSlice, map_blocks};
use crate::product::{Into, Packed, View, multiply_here};
use crate::rotation::Rotation;
use crate::simd::vectorize;
use crate::storage::{Values, prepare, tensor_of};
use crate::tree::tree_attention;
use candle_core::{DType, Tensor};
use std::sync::Arc;

const OP: &str = "decode_attention";
/// From this many new tokens of a row on, the scores are matrix products; the result for a token is then the same to the last bit
/// however many of them are read in one call.
pub const PREFILL_TOKENS: usize = 8;
/// Queries whose scores exist at the same time.
const BLOCK_ROWS: usize = 48;

/// Attention as decoding computes it: what published decoders differ in. The plain one is made from an [`AttentionSpec`].
#[derive(Clone, Debug, PartialEq)]
pub struct DecodeSpec {
    /// Heads and their width.
    pub shape: AttentionSpec,
    /// How queries and keys know where they stand.
    pub positions: Positions,
    /// Factor of the scores, `1 / sqrt(D)` in the plain one.
    pub scale: f64,
    /// Tokens that a token sees, itself and those right before it; none: all before it.
    pub window: Option<usize>,
    /// Scores become `cap * tanh(score / cap)`.
    pub soft_cap: Option<f64>,
}

/// How queries and keys know where they stand.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// By rotation, frequencies from [`AttentionSpec::rope_theta`].
    Theta,
    /// By rotation through these angles per position, one for each pair of components (D / 2), as scaled rotary embeddings have.
    Frequencies(Arc<[f64]>),
    /// Not at all.
    None,
}

impl From<AttentionSpec> for DecodeSpec {
    fn from(shape: AttentionSpec) -> Self {
        let scale = 1.0 / (shape.head_dim as f64).sqrt();
        Self { shape, positions: Positions::Theta, scale, window: None, soft_cap: None }
    }
}

impl DecodeSpec {
    fn check(&self) -> Result<()> {
        self.shape.check(OP)?;
        let expected = match &self.positions {
            Positions::Frequencies(given) if given.len() != self.shape.head_dim / 2 => {
                return Err(length_mismatch(OP, "frequencies", self.shape.head_dim / 2, given.len()));
            }
            _ if self.window == Some(0) => "a window of at least one token",
            _ if self.soft_cap.is_some_and(|cap| cap.is_nan() || cap <= 0.0) => "a positive soft cap",
            _ => return Ok(()),
        };
        let (expected, found) = (expected.to_owned(), format!("{self:?}"));
        Err(Error::ShapeMismatch { op: OP, what: "spec", expected, found })
    }

    /// The first position that a token at `position` sees.
    pub(crate) fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    pub(crate) fn rotation(&self, n_positions: usize) -> Option<Arc<Rotation>> {
        match &self.positions {
            Positions::Theta => Some(Rotation::covering(n_positions, self.shape.rope_theta, self.shape.head_dim)),
            Positions::Frequencies(given) => Some(Rotation::of_frequencies(n_positions, given)),
            Positions::None => None,
        }
    }
}

/// Appends new tokens to a layer of a cache and lets each attend to its row up to and including itself.
///
/// `rows[i]` is the cache row of token `i`; the tokens of a row follow each other and stand behind those the row holds
/// already. So one call reads ragged prompts (many tokens per row) as well as one new token per row, for any subset of
/// rows in any order of rows. After the call for the last layer, [`KvCache::advance`] with the same `rows` counts them.
///
/// In a cache made by [`KvCache::of_tree`] the rows are the runs of the tree, all of them in order.
///
/// The result equals [`crate::oracle::decode_attention`] of each whole sequence, and for a plain `spec` [`crate::rope_attention`]
/// too, up to rounding. There is no gradient.
///
/// # Shapes
/// `qkv` (N, (H + 2 KV) D) holding q | k | v, `rows` N, result (N, H D).
///
/// # Errors
/// [`Error::CacheFull`] when a row would exceed its capacity; [`Error`] when shapes, element type (f32; on a GPU that of the
/// cache) or device do not fit, a GPU with anything but a plain `spec` included. The cache is unchanged then.
pub fn decode_attention(
    qkv: &Tensor,
    spec: &DecodeSpec,
    rows: &[usize],
    cache: &mut KvCache,
    layer: usize,
) -> Result<Tensor> {
    let qkv = prepare(&qkv.detach(), OP, "qkv")?;
    spec.check()?;
    let shape = &spec.shape;
    if qkv.device().is_cpu() && qkv.dtype() != DType::F32 {
        return Err(Error::UnsupportedDtype { op: OP, what: "qkv", expected: "f32", found: qkv.dtype() });
    }
    if qkv.dims() != [rows.len(), shape.qkv_width()] {
        let expected = format!("[{}, {}]", rows.len(), shape.qkv_width());
        return Err(shape_mismatch(OP, "qkv", expected, qkv.shape()));
    }
    if cache.width() != shape.n_kv_heads * shape.head_dim {
        return Err(length_mismatch(OP, "cache", shape.n_kv_heads * shape.head_dim, cache.width()));
    }
    if let Some(tree) = cache.tree() {
        tree.check(OP, rows, cache.lengths())?;
        let y = tree_attention(Values::of(&qkv).as_slice()?, spec, tree);
        return Ok(tensor_of(y, (rows.len(), shape.output_width()))?);
    }
    let runs = find_runs(rows, cache)?;
    #[cfg(feature = "cuda")]
    if let Some(on_gpu) = cache.on_gpu() {
        if *spec != DecodeSpec::from(*shape) {
            let found = qkv.device().location();
            return Err(Error::UnsupportedDevice { op: OP, what: "attention that is not plain", found });
        }
        return crate::cuda::decode_attention(&qkv, shape, &places_of(&runs), on_gpu, layer);
    }
    let n_positions = runs.iter().map(|run| run.position + run.n_tokens).max().unwrap_or(0);
    let rotation = spec.rotation(n_positions);
    let turn = Turn(rotation.as_deref());
    let values = Values::of(&qkv);
    let qkv = values.as_slice::<f32>()?;

    append(qkv, shape, &runs, turn, cache.layer_mut(layer)?);
    let layer = cache.layer(layer)?;
    let mut y = vec![0.0; rows.len() * shape.output_width()];
    let shared = SharedSlice::new(&mut y);
    map_blocks(runs.len(), |idx| {
        let run = &runs[idx];
        let width = shape.output_width();
        // SAFETY: runs are disjoint ranges of tokens.
        let y = unsafe { shared.part(run.token * width, run.n_tokens * width) };
        let qkv = &qkv[run.token * shape.qkv_width()..][..run.n_tokens * shape.qkv_width()];
        if run.n_tokens >= PREFILL_TOKENS {
            attend_together(y, qkv, spec, run, turn, layer);
        } else {
            attend_one_by_one(y, qkv, spec, run, turn, layer);
        }
    });
    Ok(tensor_of(y, (rows.len(), shape.output_width()))?)
}

/// What puts the position into a query or key, where anything does.
#[derive(Clone, Copy)]
pub(crate) struct Turn<'a>(pub(crate) Option<&'a Rotation>);

impl Turn<'_> {
    /// `to = scale * from`, turned.
    pub(crate) fn place(self, to: &mut [f32], from: &[f32], position: usize, scale: f32) {
        match self.0 {
            Some(rotation) => rotation.turn(to, from, position as u32, scale),
            None => to.iter_mut().zip(from).for_each(|(to, from)| *to = scale * from),
        }
    }
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

/// Rows and positions of new tokens.
#[cfg(feature = "cuda")]
pub(crate) type TokenPlaces = (Vec<u32>, Vec<u32>);

#[cfg(feature = "cuda")]
fn places_of(runs: &[Run]) -> TokenPlaces {
    runs.iter().flat_map(|run| (0..run.n_tokens).map(|i| (run.row as u32, (run.position + i) as u32))).unzip()
}

/// Where tokens go that are new in `rows` of a cache.
#[cfg(feature = "cuda")]
pub(crate) fn find_places(rows: &[usize], cache: &KvCache) -> Result<TokenPlaces> {
    Ok(places_of(&find_runs(rows, cache)?))
}

fn append(qkv: &[f32], shape: &AttentionSpec, runs: &[Run], turn: Turn, layer: &mut Layer) {
    let d = shape.head_dim;
    let mut key = vec![0.0; d];
    for run in runs {
        for i in 0..run.n_tokens {
            let from = &qkv[(run.token + i) * shape.qkv_width()..][..shape.qkv_width()];
            let position = run.position + i;
            for kv_head in 0..shape.n_kv_heads {
                turn.place(&mut key, &from[shape.key_column(kv_head)..][..d], position, 1.0);
                layer.write(run.row, kv_head, position, &key, &from[shape.value_column(kv_head)..][..d]);
            }
        }
    }
}

fn attend_one_by_one(y: &mut [f32], qkv: &[f32], spec: &DecodeSpec, run: &Run, turn: Turn, layer: &Layer) {
    let shape = &spec.shape;
    let d = shape.head_dim;
    let mut query = vec![0.0; d];
    let mut weights = vec![0.0; run.position + run.n_tokens];
    let tokens = y.chunks_exact_mut(shape.output_width()).zip(qkv.chunks_exact(shape.qkv_width()));
    for (i, (y, from)) in tokens.enumerate() {
        let position = run.position + i;
        let first = spec.first_seen(position);
        // Runs of keys are whole, so the first may begin with some that are not seen.
        let n_before = first % KEY_RUN;
        let weights = &mut weights[..=position - first + n_before];
        for head in 0..shape.n_heads {
            let column = shape.query_column(head);
            let kv_head = head / shape.group();
            turn.place(&mut query, &from[column..column + d], position, spec.scale as f32);
            let keys = &layer.keys(run.row, kv_head)[(first - n_before) * d..];
            let values = &layer.values(run.row, kv_head)[first * d..];
            let soft_cap = spec.soft_cap.map(|cap| cap as f32);
            attend_once(&mut y[column..column + d], &query, keys, values, weights, n_before, soft_cap);
        }
    }
}

vectorize! {
    /// One query over the first `weights.len()` keys of a head but for `n_before`, and as many values, laid out as in [`Layer`].
    fn attend_once<T>(
        y: &mut [T],
        query: &[T],
        keys: &[T],
        values: &[T],
        weights: &mut [T],
        n_before: usize,
        soft_cap: Option<T>,
    ) {
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
        let weights = &mut weights[n_before..];
        if let Some(cap) = soft_cap {
            cap_softly(weights, cap);
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

fn attend_together(y: &mut [f32], qkv: &[f32], spec: &DecodeSpec, run: &Run, turn: Turn, layer: &Layer) {
    let shape = &spec.shape;
    let d = shape.head_dim;
    let n_keys = run.position + run.n_tokens;
    let mut weights = Vec::new();
    let mut queries = vec![0.0; BLOCK_ROWS * d];
    let mut by_component = vec![0.0; d * n_keys];
    for kv_head in 0..shape.n_kv_heads {
        unwrap_runs(&mut by_component, layer.keys(run.row, kv_head), n_keys);
        let keys = Packed::new_here(View::dense(&by_component, d, n_keys));
        let values = Packed::new_here(View::dense(&layer.values(run.row, kv_head)[..n_keys * d], n_keys, d));
        for head in kv_head * shape.group()..(kv_head + 1) * shape.group() {
            let column = shape.query_column(head);
            for start in (0..run.n_tokens).step_by(BLOCK_ROWS) {
                let n_rows = BLOCK_ROWS.min(run.n_tokens - start);
                for (i, query) in queries.chunks_exact_mut(d).take(n_rows).enumerate() {
                    let from = &qkv[(start + i) * shape.qkv_width() + column..][..d];
                    turn.place(query, from, run.position + start + i, spec.scale as f32);
                }
                // Keys that some query of the block sees, from the start of a panel on.
                let first = spec.first_seen(run.position + start) / keys.width() * keys.width();
                let seen = first..run.position + start + n_rows;
                weights.resize(n_rows * seen.len(), 0.0);
                let block = View::dense(&queries, n_rows, d);
                multiply_here(&mut weights, seen.len(), block, &keys, 0..d, seen.clone(), Into::Overwrite);
                if let Some(cap) = spec.soft_cap {
                    cap_softly(&mut weights, cap as f32);
                }
                for (i, row) in weights.chunks_exact_mut(seen.len()).enumerate() {
                    let position = run.position + start + i;
                    soften(row, spec.first_seen(position) - first, position + 1 - first);
                }
                let weights = View::dense(&weights, n_rows, seen.len());
                let y = &mut y[start * shape.output_width() + column..];
                multiply_here(y, shape.output_width(), weights, &values, seen, 0..d, Into::Overwrite);
            }
        }
    }
}

vectorize! {
    /// Softmax of the scores from `start` to `end`, 0 for the rest.
    fn soften<T>(scores: &mut [T], start: usize, end: usize) {
        let (seen, future) = scores.split_at_mut(end);
        let (past, seen) = seen.split_at_mut(start);
        past.fill(T::ZERO);
        future.fill(T::ZERO);
        let top = largest(seen);
        for score in seen.iter_mut() {
            *score = (*score - top).exp();
        }
        let inverse = T::ONE / sum_terms(seen.len(), |s| seen[s]);
        for score in seen.iter_mut() {
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

    fn plain() -> DecodeSpec {
        SPEC.into()
    }

    fn whole(qkv: &Tensor) -> Tensor {
        let n = qkv.dim(0).unwrap();
        rope_attention(&qkv.unsqueeze(0).unwrap(), &SPEC, &Segments::whole_rows(1, n)).unwrap().squeeze(0).unwrap()
    }

    fn feed(cache: &mut KvCache, qkv: &Tensor, rows: &[usize]) -> Tensor {
        let y = decode_attention(qkv, &plain(), rows, cache, 0).unwrap();
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
            assert!(decode_attention(&tokens, &plain(), &rows, &mut cache, 0).is_err());
        }
        assert!(decode_attention(&tokens, &plain(), &[0, 1, 1], &mut cache, 1).is_err());
        assert_eq!(cache.lengths(), [0, 0]);
    }

    #[test]
    fn a_spec_that_makes_no_sense_is_refused() {
        let token = draw(5, &[1, SPEC.qkv_width()], DType::F32);
        for spec in [
            DecodeSpec { window: Some(0), ..plain() },
            DecodeSpec { soft_cap: Some(0.0), ..plain() },
            DecodeSpec { soft_cap: Some(f64::NAN), ..plain() },
            DecodeSpec { positions: Positions::Frequencies([1.0; 6].into()), ..plain() },
        ] {
            let mut cache = KvCache::new(1, 1, 2, &SPEC);
            assert!(decode_attention(&token, &spec, &[0], &mut cache, 0).is_err(), "{spec:?}");
        }
    }
}
