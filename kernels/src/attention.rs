//! Self-attention of packed documents: rotation, causal and document mask, softmax, weighted sum.

use crate::element::{Element, largest, sum_terms};
use crate::error::{Error, Result, length_mismatch, shape_mismatch};
use crate::parallel::{SharedSlice, map_blocks, zeros};
use crate::product::{Into, Packed, View, multiply_here};
use crate::rotation::Rotation;
use crate::simd::vectorize;
use crate::storage::{Values, dispatch, prepare, slice_of, tensor_of};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

const OP: &str = "rope_attention";
/// Queries whose scores exist at the same time.
const BLOCK_ROWS: usize = 48;

/// The segment id of a token that is padding: it attends to nothing and nothing attends to it.
pub const PAD_SEGMENT: u32 = u32::MAX;

/// Shape of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads, H.
    pub n_heads: usize,
    /// Key and value heads, KV; divides `n_heads`, query head `h` uses key head `h / (H / KV)`.
    pub n_kv_heads: usize,
    /// Width of a head, D; even.
    pub head_dim: usize,
    /// Base of the rotation frequencies.
    pub rope_theta: f64,
}

impl AttentionSpec {
    /// Width of a row of queries, keys and values side by side: `(H + 2 KV) D`.
    pub fn qkv_width(&self) -> usize {
        (self.n_heads + 2 * self.n_kv_heads) * self.head_dim
    }

    /// Width of a row of results: `H D`.
    pub fn output_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Query heads per key head.
    pub(crate) fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// Factor of the scores.
    pub(crate) fn scale<T: Element>(&self) -> T {
        T::from_f64(1.0 / (self.head_dim as f64).sqrt())
    }

    pub(crate) fn query_column(&self, head: usize) -> usize {
        head * self.head_dim
    }

    pub(crate) fn key_column(&self, kv_head: usize) -> usize {
        (self.n_heads + kv_head) * self.head_dim
    }

    pub(crate) fn value_column(&self, kv_head: usize) -> usize {
        (self.n_heads + self.n_kv_heads + kv_head) * self.head_dim
    }

    pub(crate) fn check(&self, op: &'static str) -> Result<()> {
        let fits = self.head_dim > 0
            && self.head_dim.is_multiple_of(2)
            && self.n_kv_heads > 0
            && self.n_heads > 0
            && self.n_heads.is_multiple_of(self.n_kv_heads);
        if fits {
            return Ok(());
        }
        Err(Error::ShapeMismatch {
            op,
            what: "spec",
            expected: "an even head_dim and n_heads divisible by n_kv_heads".to_owned(),
            found: format!("{self:?}"),
        })
    }
}

/// Which tokens belong together, and where each stands in its document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments {
    /// Document of each token, row by row, `batch * len`; [`PAD_SEGMENT`] for padding.
    pub ids: Vec<u32>,
    /// Position of each token in its document, `batch * len`.
    pub positions: Vec<u32>,
    /// Rows, B.
    pub batch: usize,
    /// Tokens per row, T.
    pub len: usize,
}

impl Segments {
    /// Every row is one document, without padding.
    pub fn whole_rows(batch: usize, len: usize) -> Self {
        Self { ids: vec![0; batch * len], positions: (0..batch).flat_map(|_| 0..len as u32).collect(), batch, len }
    }

    pub(crate) fn check(&self, op: &'static str) -> Result<()> {
        for (what, found) in [("ids", self.ids.len()), ("positions", self.positions.len())] {
            if found != self.batch * self.len {
                return Err(length_mismatch(op, what, self.batch * self.len, found));
            }
        }
        Ok(())
    }

    /// Row `i` is one document of `lengths[i]` tokens, padded on the right to `len`.
    pub fn padded_rows(lengths: &[usize], len: usize) -> Self {
        let padding_from = |length: usize| (0..len).map(move |t| if t < length { 0 } else { PAD_SEGMENT });
        Self {
            ids: lengths.iter().flat_map(|&length| padding_from(length)).collect(),
            positions: lengths.iter().flat_map(|_| 0..len as u32).collect(),
            batch: lengths.len(),
            len,
        }
    }
}

/// Causal grouped-query attention within documents, on rotated queries and keys.
///
/// ```text
/// q, k = rotate(q), rotate(k)
/// y_t  = sum_s softmax_s(q_t . k_s / sqrt(D)) v_s     over s <= t in the document of t
/// ```
///
/// Nothing is kept for the backward pass: it computes the scores again, one block of queries of one head at a time.
/// Blocks of keys that no query of a block may see are skipped.
///
/// The slow twin is [`crate::oracle::rope_attention`].
///
/// # Shapes
/// `qkv` (B, T, (H + 2 KV) D) holding q | k | v, result (B, T, H D); rows of padding are 0.
///
/// # Errors
/// [`crate::Error`] when shapes, the element type or the device do not fit.
///
/// # Reference
/// Su et al. 2021, arXiv:2104.09864 (rotation); Ainslie et al. 2023, arXiv:2305.13245 (grouped queries).
pub fn rope_attention(qkv: &Tensor, spec: &AttentionSpec, segments: &Segments) -> Result<Tensor> {
    let qkv = prepare(qkv, OP, "qkv")?;
    spec.check(OP)?;
    segments.check(OP)?;
    let (batch, len) = (segments.batch, segments.len);
    if qkv.dims() != [batch, len, spec.qkv_width()] {
        let expected = format!("[{batch}, {len}, {}]", spec.qkv_width());
        return Err(shape_mismatch(OP, "qkv", expected, qkv.shape()));
    }
    #[cfg(feature = "cuda")]
    if qkv.device().is_cuda() {
        return Ok(crate::cuda::rope_attention(&qkv, spec, segments)?);
    }
    Ok(qkv.apply_op1(Attention::new(spec, segments))?)
}

/// For each token the first of its row in the same segment: no earlier key is visible to it.
fn first_of_segment(segments: &Segments) -> Vec<usize> {
    let mut first = Vec::with_capacity(segments.ids.len());
    for row in segments.ids.chunks(segments.len.max(1)) {
        let mut seen = BTreeMap::new();
        for (t, &id) in row.iter().enumerate() {
            first.push(*seen.entry(id).or_insert(t));
        }
    }
    first
}

pub(crate) struct Attention {
    spec: AttentionSpec,
    segments: Segments,
    first_visible: Vec<usize>,
    rotation: Arc<Rotation>,
}

/// One row of the batch and one key head: what a unit of parallel work handles.
struct Part<'a, T> {
    spec: &'a AttentionSpec,
    rotation: &'a Rotation,
    /// Queries, keys and values of the row.
    qkv: &'a [T],
    ids: &'a [u32],
    positions: &'a [u32],
    first_visible: &'a [usize],
    kv_head: usize,
}

impl Attention {
    pub(crate) fn new(spec: &AttentionSpec, segments: &Segments) -> Self {
        let n_positions = segments.positions.iter().max().map_or(0, |&last| last as usize + 1);
        Self {
            spec: *spec,
            first_visible: first_of_segment(segments),
            segments: segments.clone(),
            rotation: Rotation::covering(n_positions, spec.rope_theta, spec.head_dim),
        }
    }

    fn parts(&self) -> usize {
        self.segments.batch * self.spec.n_kv_heads
    }

    fn part<'a, T: Element>(&'a self, qkv: &'a [T], idx: usize) -> (usize, Part<'a, T>) {
        let len = self.segments.len;
        let row = idx / self.spec.n_kv_heads;
        let tokens = row * len..(row + 1) * len;
        let width = self.spec.qkv_width();
        let part = Part {
            spec: &self.spec,
            rotation: &self.rotation,
            qkv: &qkv[tokens.start * width..tokens.end * width],
            ids: &self.segments.ids[tokens.clone()],
            positions: &self.segments.positions[tokens.clone()],
            first_visible: &self.first_visible[tokens.clone()],
            kv_head: idx % self.spec.n_kv_heads,
        };
        (tokens.start, part)
    }

    pub(crate) fn forward<T: Element>(&self, qkv: &[T]) -> Vec<T> {
        let width = self.spec.output_width();
        let mut y = zeros(self.segments.ids.len() * width);
        let shared = SharedSlice::new(&mut y);
        map_blocks(self.parts(), |idx| {
            let (first_token, part) = self.part(qkv, idx);
            part.forward(|head, t, values| {
                let start = (first_token + t) * width + self.spec.query_column(head);
                // SAFETY: token and head name these columns, and only this part handles the pair.
                let to = unsafe { shared.part(start, values.len()) };
                to.copy_from_slice(values);
            });
        });
        y
    }

    pub(crate) fn backward<T: Element>(&self, qkv: &[T], dy: &[T]) -> Vec<T> {
        let (width, dy_width) = (self.spec.qkv_width(), self.spec.output_width());
        let mut grad = zeros(qkv.len());
        let shared = SharedSlice::new(&mut grad);
        map_blocks(self.parts(), |idx| {
            let (first_token, part) = self.part(qkv, idx);
            let dy = &dy[first_token * dy_width..][..part.len() * dy_width];
            part.backward(dy, |column, t| {
                let start = (first_token + t) * width + column;
                // SAFETY: the columns of a token that belong to a query or key head are written by one part only, and
                // a part drops each before it asks for the next.
                unsafe { shared.part(start, self.spec.head_dim) }
            });
        });
        grad
    }
}

impl<T: Element> Part<'_, T> {
    fn len(&self) -> usize {
        self.ids.len()
    }

    /// Calls `emit(head, t, y)` for every query head of the part and every token that is not padding.
    fn forward(&self, mut emit: impl FnMut(usize, usize, &[T])) {
        let d = self.spec.head_dim;
        let keys = self.turned(self.spec.key_column(self.kv_head), T::ONE);
        let keys_by_column = Packed::new_here(View::dense(&keys, self.len(), d).transposed());
        let values = Packed::new_here(self.head_view(self.spec.value_column(self.kv_head)));
        let mut probs = Vec::new();
        let mut y = vec![T::ZERO; BLOCK_ROWS * d];
        for head in self.heads() {
            let queries = self.turned(self.spec.query_column(head), self.spec.scale());
            for (rows, visible) in self.blocks(keys_by_column.width()) {
                self.weigh(&mut probs, &queries, &keys_by_column, &rows, &visible);
                let probs = View::dense(&probs, rows.len(), visible.len());
                let y = &mut y[..rows.len() * d];
                multiply_here(y, d, probs, &values, visible, 0..d, Into::Overwrite);
                for (t, y) in rows.zip(y.chunks_exact(d)) {
                    if self.ids[t] != PAD_SEGMENT {
                        emit(head, t, y);
                    }
                }
            }
        }
    }

    /// Writes the gradients of the queries, keys and values of the part; `slot(column, t)` is where one head goes.
    fn backward<'g>(&self, dy: &[T], slot: impl Fn(usize, usize) -> &'g mut [T])
    where
        T: 'g,
    {
        let (n, d) = (self.len(), self.spec.head_dim);
        let value_view = self.head_view(self.spec.value_column(self.kv_head));
        let keys = self.turned(self.spec.key_column(self.kv_head), T::ONE);
        let keys_by_row = Packed::new_here(View::dense(&keys, n, d));
        let keys_by_column = Packed::new_here(View::dense(&keys, n, d).transposed());
        let values_by_column = Packed::new_here(value_view.transposed());
        let (mut grad_keys, mut grad_values) = (vec![T::ZERO; n * d], vec![T::ZERO; n * d]);
        let mut grad_queries = vec![T::ZERO; BLOCK_ROWS * d];
        let (mut probs, mut grad_scores) = (Vec::new(), Vec::new());
        let mut block = Packed::empty();

        for head in self.heads() {
            let queries = self.turned(self.spec.query_column(head), self.spec.scale());
            for (rows, visible) in self.blocks(keys_by_column.width()) {
                let n_visible = visible.len();
                self.weigh(&mut probs, &queries, &keys_by_column, &rows, &visible);
                let dy_width = self.spec.output_width();
                let dy_start = rows.start * dy_width + self.spec.query_column(head);
                let dy = View::strided(&dy[dy_start..], rows.len(), d, dy_width);

                // dP = dy V^T;  dS = P (dP - sum P dP)
                grad_scores.resize(rows.len() * n_visible, T::ZERO);
                multiply_here(
                    &mut grad_scores,
                    n_visible,
                    dy,
                    &values_by_column,
                    0..d,
                    visible.clone(),
                    Into::Overwrite,
                );
                differentiate_softmax(&mut grad_scores, &probs, n_visible);
                let probs = View::dense(&probs, rows.len(), n_visible);
                let grad_scores = View::dense(&grad_scores, rows.len(), n_visible);

                // dV += P^T dy;  dK += dS^T q;  dq = dS K
                let visible_values = visible.start * d..visible.end * d;
                block.refill(dy);
                multiply_here(
                    &mut grad_values[visible_values.clone()],
                    d,
                    probs.transposed(),
                    &block,
                    0..rows.len(),
                    0..d,
                    Into::Add,
                );
                block.refill(View::dense(&queries[rows.start * d..], rows.len(), d));
                multiply_here(
                    &mut grad_keys[visible_values],
                    d,
                    grad_scores.transposed(),
                    &block,
                    0..rows.len(),
                    0..d,
                    Into::Add,
                );
                let grad_queries = &mut grad_queries[..rows.len() * d];
                multiply_here(grad_queries, d, grad_scores, &keys_by_row, visible, 0..d, Into::Overwrite);
                for (t, grad) in rows.zip(grad_queries.chunks_exact(d)) {
                    let to = slot(self.spec.query_column(head), t);
                    self.rotation.turn_back(to, grad, self.positions[t], self.spec.scale());
                }
            }
        }
        for t in 0..n {
            let head = t * d..(t + 1) * d;
            let to = slot(self.spec.key_column(self.kv_head), t);
            self.rotation.turn_back(to, &grad_keys[head.clone()], self.positions[t], T::ONE);
            slot(self.spec.value_column(self.kv_head), t).copy_from_slice(&grad_values[head]);
        }
    }

    fn heads(&self) -> Range<usize> {
        self.kv_head * self.spec.group()..(self.kv_head + 1) * self.spec.group()
    }

    /// Blocks of queries, each with the range of keys that any of them may see, cut at a multiple of `granularity`.
    fn blocks(&self, granularity: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        (0..self.len()).step_by(BLOCK_ROWS).filter_map(move |start| {
            let rows = start..self.len().min(start + BLOCK_ROWS);
            let first = rows.clone().filter(|&t| self.ids[t] != PAD_SEGMENT).map(|t| self.first_visible[t]).min()?;
            let visible = first / granularity * granularity..rows.end;
            Some((rows, visible))
        })
    }

    /// Softmax weights of a block of queries over the visible keys, 0 where the mask forbids.
    fn weigh(&self, probs: &mut Vec<T>, queries: &[T], keys: &Packed<T>, rows: &Range<usize>, visible: &Range<usize>) {
        let d = self.spec.head_dim;
        let n_visible = visible.len();
        probs.resize(rows.len() * n_visible, T::ZERO);
        let block = View::dense(&queries[rows.start * d..], rows.len(), d);
        multiply_here(probs, n_visible, block, keys, 0..d, visible.clone(), Into::Overwrite);
        for (t, row) in rows.clone().zip(probs.chunks_exact_mut(n_visible)) {
            let ids = &self.ids[visible.start..=t];
            soften(row, ids, self.ids[t], self.ids[t] == PAD_SEGMENT);
        }
    }

    /// One head of every token, rotated and scaled, `len x D`.
    fn turned(&self, column: usize, scale: T) -> Vec<T> {
        let d = self.spec.head_dim;
        let mut turned = vec![T::ZERO; self.len() * d];
        self.rotation.turn_rows(&mut turned, &self.qkv[column..], self.spec.qkv_width(), self.positions, scale);
        turned
    }

    fn head_view(&self, column: usize) -> View<'_, T> {
        View::strided(&self.qkv[column..], self.len(), self.spec.head_dim, self.spec.qkv_width())
    }
}

vectorize! {
    /// Softmax of the scores whose key is at or before the query (the first `ids.len()`) and in segment `own`.
    fn soften<T>(scores: &mut [T], ids: &[u32], own: u32, is_padding: bool) {
        let (past, future) = scores.split_at_mut(ids.len());
        future.fill(T::ZERO);
        if is_padding {
            past.fill(T::ZERO);
            return;
        }
        // Where documents lie one after the other, everything from the first token of the query's own on is visible.
        let first = ids.iter().position(|&id| id == own).unwrap_or(ids.len());
        let (other, past) = past.split_at_mut(first);
        let ids = &ids[first..];
        other.fill(T::ZERO);
        if ids.iter().any(|&id| id != own) {
            for (score, &id) in past.iter_mut().zip(ids) {
                // So far below the query's own score that its exponential is 0.
                *score = if id == own { *score } else { T::LOWEST };
            }
        }
        let top = largest(past);
        for score in past.iter_mut() {
            *score = (*score - top).exp();
        }
        let inverse = T::ONE / sum_terms(past.len(), |i| past[i]);
        for weight in past {
            *weight *= inverse;
        }
    }
}

vectorize! {
    /// `g = p (g - sum p g)` for each row.
    fn differentiate_softmax<T>(grads: &mut [T], probs: &[T], width: usize) {
        for (grads, probs) in grads.chunks_exact_mut(width).zip(probs.chunks_exact(width)) {
            let along = sum_terms(width, |i| grads[i] * probs[i]);
            for (grad, &prob) in grads.iter_mut().zip(probs) {
                *grad = prob * (*grad - along);
            }
        }
    }
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let shape = (self.segments.batch, self.segments.len, self.spec.output_width());
        dispatch!(qkv.dtype(), OP, T => {
            let y = self.forward::<T>(slice_of(qkv, layout)?);
            Ok((candle_core::WithDType::to_cpu_storage_owned(y), shape.into()))
        })
    }

    fn bwd(&self, qkv: &Tensor, _y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let (values, dy_values) = (Values::of(qkv), Values::of(&dy));
        dispatch!(qkv.dtype(), OP, T => {
            let grad = self.backward::<T>(values.as_slice()?, dy_values.as_slice()?);
            Ok(Some(tensor_of(grad, qkv.shape())?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{
        assert_close, assert_equals_differences, assert_equals_oracle, assert_same_for_any_threads, draw, values,
    };
    use crate::oracle;
    use candle_core::DType;
    use proptest::prelude::*;

    fn spec(n_heads: usize, n_kv_heads: usize, head_dim: usize) -> AttentionSpec {
        AttentionSpec { n_heads, n_kv_heads, head_dim, rope_theta: 10_000.0 }
    }

    /// Documents of the given lengths one after the other in a row; the rest is padding.
    fn packed(rows: &[&[usize]], len: usize) -> Segments {
        let mut segments = Segments { ids: vec![], positions: vec![], batch: rows.len(), len };
        for documents in rows {
            let start = segments.ids.len();
            for (id, &n) in documents.iter().enumerate() {
                segments.ids.extend(std::iter::repeat_n(id as u32, n));
                segments.positions.extend(0..n as u32);
            }
            segments.ids.resize(start + len, PAD_SEGMENT);
            segments.positions.resize(start + len, 0);
        }
        segments
    }

    fn assert_equals_slow(spec: &AttentionSpec, segments: &Segments) {
        let dims = [segments.batch, segments.len, spec.qkv_width()];
        assert_equals_oracle(
            &[(draw(1, &dims, DType::F32) * 2.0).unwrap()],
            &|i| Ok(rope_attention(&i[0], spec, segments)?),
            &|i| oracle::rope_attention(&i[0], spec, segments),
        );
    }

    #[test]
    fn equals_the_oracle_for_odd_shapes() {
        assert_equals_slow(&spec(1, 1, 2), &Segments::whole_rows(1, 1));
        assert_equals_slow(&spec(4, 2, 6), &Segments::whole_rows(3, 5));
        assert_equals_slow(&spec(6, 2, 32), &packed(&[&[100, 17, 3], &[1, 70, 59]], 130));
        assert_equals_slow(&spec(2, 2, 16), &packed(&[&[9], &[]], 49));
    }

    #[test]
    fn gradients_are_difference_quotients() {
        let segments = packed(&[&[3, 2]], 6);
        let spec = spec(2, 1, 4);
        assert_equals_differences(&[draw(2, &[1, 6, spec.qkv_width()], DType::F64)], &|i| {
            Ok(rope_attention(&i[0], &spec, &segments)?)
        });
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let segments = packed(&[&[60, 30], &[10, 80], &[90]], 97);
        let spec = spec(4, 2, 8);
        assert_same_for_any_threads(&[draw(3, &[3, 97, spec.qkv_width()], DType::F32)], &|i| {
            Ok(rope_attention(&i[0], &spec, &segments)?)
        });
    }

    #[test]
    fn padding_is_zero_and_gets_no_gradient() {
        let spec = spec(2, 1, 4);
        let segments = Segments::padded_rows(&[2, 0], 3);
        let (y, grads) = crate::check::differentiate(&[draw(4, &[2, 3, spec.qkv_width()], DType::F32)], &|i| {
            Ok(rope_attention(&i[0], &spec, &segments)?)
        });
        let padding_is_zero = |tensor: &Tensor| {
            let width = tensor.dim(2).unwrap();
            values(tensor)[2 * width..].iter().all(|&value| value == 0.0)
        };
        assert!(padding_is_zero(&y));
        assert!(padding_is_zero(&grads[0]));
    }

    #[test]
    fn packed_documents_equal_single_documents() {
        let spec = spec(4, 2, 8);
        let qkv = draw(5, &[1, 70, spec.qkv_width()], DType::F32);
        let together = rope_attention(&qkv, &spec, &packed(&[&[50, 20]], 70)).unwrap();
        for (start, len) in [(0, 50), (50, 20)] {
            let alone = rope_attention(&qkv.narrow(1, start, len).unwrap(), &spec, &Segments::whole_rows(1, len));
            assert_close("document", &together.narrow(1, start, len).unwrap(), &alone.unwrap(), 1e-5);
        }
    }

    #[test]
    fn shifting_all_positions_changes_nothing() {
        let spec = spec(2, 1, 8);
        let qkv = draw(6, &[1, 9, spec.qkv_width()], DType::F64);
        let mut shifted = Segments::whole_rows(1, 9);
        let near = rope_attention(&qkv, &spec, &shifted).unwrap();
        shifted.positions.iter_mut().for_each(|position| *position += 100);
        assert_close("shifted", &rope_attention(&qkv, &spec, &shifted).unwrap(), &near, 1e-9);
    }

    #[test]
    fn heads_that_do_not_divide_are_refused() {
        let spec = spec(3, 2, 4);
        let qkv = draw(7, &[1, 2, spec.qkv_width()], DType::F32);
        assert!(rope_attention(&qkv, &spec, &Segments::whole_rows(1, 2)).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
        #[test]
        fn any_packing_equals_the_oracle(
            ids in proptest::collection::vec(prop_oneof![Just(PAD_SEGMENT), 0_u32..3], 1..75),
            group in 1_usize..3,
        ) {
            let len = ids.len();
            let segments = Segments { ids, positions: (0..len as u32).collect(), batch: 1, len };
            assert_equals_slow(&spec(2 * group, 2, 4), &segments);
        }
    }
}
