//! Attention over a tree of tokens: what sequences share at their beginning is read once.

use crate::attention::AttentionSpec;
use crate::decode::{DecodeSpec, Turn};
use crate::element::{largest, sum_terms};
use crate::error::{Error, Result};
use crate::logits::cap_softly;
use crate::parallel::{SharedSlice, map_blocks};
use crate::product::{Into, Packed, View, multiply_here};
use crate::simd::vectorize;
use std::ops::Range;

/// Sequences that share beginnings, cut into runs of tokens: each run continues another one, its parent, or begins a sequence.
///
/// The tokens of a run stand next to each other, those of a parent before those of its children.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenTree {
    runs: Vec<Run>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    parent: Option<usize>,
    /// The first of its tokens among all.
    token: usize,
    /// Position of the first of them in its sequence.
    position: usize,
    n_tokens: usize,
}

impl TokenTree {
    /// Adds a run of `n_tokens` behind the whole of `parent`, or at the beginning of a sequence; its number, counted from 0.
    ///
    /// # Errors
    /// [`Error::CacheIndex`] for a parent that does not exist yet.
    pub fn push(&mut self, parent: Option<usize>, n_tokens: usize) -> Result<usize> {
        let count = self.runs.len();
        let position = match parent {
            None => 0,
            Some(index) => {
                let parent = self.runs.get(index).ok_or(Error::CacheIndex { what: "parent run", index, count })?;
                parent.position + parent.n_tokens
            }
        };
        self.runs.push(Run { parent, token: self.n_tokens(), position, n_tokens });
        Ok(count)
    }

    /// Tokens of all runs.
    pub fn n_tokens(&self) -> usize {
        self.runs.last().map_or(0, |run| run.token + run.n_tokens)
    }

    /// Number of runs.
    pub(crate) fn n_runs(&self) -> usize {
        self.runs.len()
    }

    pub(crate) fn longest_run(&self) -> usize {
        self.runs.iter().map(|run| run.n_tokens).max().unwrap_or(0)
    }

    /// Checks that `rows` names the run of each token, and that none was read before.
    pub(crate) fn check(&self, op: &'static str, rows: &[usize], lengths: &[usize]) -> Result<()> {
        let runs = self.runs.iter().enumerate();
        let is_whole = runs.flat_map(|(idx, run)| std::iter::repeat_n(idx, run.n_tokens)).eq(rows.iter().copied());
        if is_whole && lengths.iter().all(|&length| length == 0) {
            return Ok(());
        }
        let expected = "each run of the tree in order, read once".to_owned();
        Err(Error::ShapeMismatch { op, what: "rows", expected, found: format!("{} tokens", rows.len()) })
    }

    /// The runs that a run stands behind, the first of the sequence first.
    fn chain(&self, parent: Option<usize>) -> Vec<usize> {
        let mut chain: Vec<usize> = std::iter::successors(parent, |&idx| self.runs[idx].parent).collect();
        chain.reverse();
        chain
    }

    /// Cuts all tokens into blocks whose queries see the same runs before their own; `group` query heads share a key head.
    fn blocks(&self, group: usize) -> Vec<Block> {
        let mut families: Vec<Vec<usize>> = vec![Vec::new(); self.runs.len() + 1];
        for (idx, run) in self.runs.iter().enumerate() {
            families[run.parent.map_or(0, |parent| parent + 1)].push(idx);
        }
        let mut blocks = Vec::new();
        for (idx, children) in families.into_iter().enumerate() {
            let parent = idx.checked_sub(1);
            let mut block = Block::new(parent);
            for child in children {
                let run = &self.runs[child];
                let mut start = 0;
                while start < run.n_tokens {
                    // A row of scores for each query; at the least a tile of rows, however long they are.
                    let most = (BLOCK_SCORES / (group * (run.position + run.n_tokens))).clamp(4, BLOCK_TOKENS);
                    if block.n_tokens >= most {
                        blocks.push(std::mem::replace(&mut block, Block::new(parent)));
                    }
                    let end = run.n_tokens.min(start + most - block.n_tokens);
                    block.parts.push((child, start..end));
                    block.n_tokens += end - start;
                    start = end;
                }
            }
            if block.n_tokens > 0 {
                blocks.push(block);
            }
        }
        blocks
    }
}

/// Tokens whose scores exist at the same time.
const BLOCK_TOKENS: usize = 64;
/// Scores that exist at the same time, so that they stay in the second-level cache.
const BLOCK_SCORES: usize = 1 << 17;

/// Tokens of runs with the same parent.
struct Block {
    parent: Option<usize>,
    /// Runs, and which of their tokens.
    parts: Vec<(usize, Range<usize>)>,
    n_tokens: usize,
}

impl Block {
    fn new(parent: Option<usize>) -> Self {
        Self { parent, parts: Vec::new(), n_tokens: 0 }
    }
}

/// Rotated keys (D, n) and values (n, D) of a head of a run.
struct Factors {
    keys: Packed<f32>,
    values: Packed<f32>,
}

/// Attention of every token of `tree` to those of its sequence up to and including itself, as far as its window reaches.
///
/// Each value is the same to the last bit however sequences were cut into runs, and whatever other sequences there are: scores
/// of a token lie in the order of its sequence, and sums along them go on from run to run.
///
/// # Shapes
/// `qkv` (N, (H + 2 KV) D) holding q | k | v, result (N, H D).
pub(crate) fn tree_attention(qkv: &[f32], spec: &DecodeSpec, tree: &TokenTree) -> Vec<f32> {
    let n_positions = tree.runs.iter().map(|run| run.position + run.n_tokens).max().unwrap_or(0);
    let rotation = spec.rotation(n_positions);
    let turn = Turn(rotation.as_deref());
    let (shape, n_kv_heads) = (&spec.shape, spec.shape.n_kv_heads);
    let factors = map_blocks(tree.runs.len() * n_kv_heads, |idx| {
        factors_of(qkv, shape, &tree.runs[idx / n_kv_heads], idx % n_kv_heads, turn)
    });
    let mut y = vec![0.0; tree.n_tokens() * shape.output_width()];
    let shared = SharedSlice::new(&mut y);
    let blocks = tree.blocks(shape.group());
    map_blocks(blocks.len() * n_kv_heads, |idx| {
        let kv_head = idx % n_kv_heads;
        attend(&shared, qkv, spec, tree, &blocks[idx / n_kv_heads], kv_head, &factors, turn);
    });
    y
}

fn factors_of(qkv: &[f32], spec: &AttentionSpec, run: &Run, kv_head: usize, turn: Turn) -> Factors {
    let (d, n, width) = (spec.head_dim, run.n_tokens, spec.qkv_width());
    let of_run = &qkv[run.token * width..][..n * width];
    let mut keys = vec![0.0; n * d];
    for (i, (key, from)) in keys.chunks_exact_mut(d).zip(of_run.chunks_exact(width)).enumerate() {
        turn.place(key, &from[spec.key_column(kv_head)..][..d], run.position + i, 1.0);
    }
    Factors {
        keys: Packed::new_here(View::dense(&keys, n, d).transposed()),
        values: Packed::new_here(View::strided(&of_run[spec.value_column(kv_head).min(of_run.len())..], n, d, width)),
    }
}

/// All queries of a block that use `kv_head`; rows are token by token, then head by head.
#[allow(clippy::too_many_arguments)] // what all blocks share, and which of them
fn attend(
    y: &SharedSlice<f32>,
    qkv: &[f32],
    spec: &DecodeSpec,
    tree: &TokenTree,
    block: &Block,
    kv_head: usize,
    factors: &[Factors],
    turn: Turn,
) {
    let shape = &spec.shape;
    let (d, group) = (shape.head_dim, shape.group());
    let of_run = |run: usize| &factors[run * shape.n_kv_heads + kv_head];
    let first_column = shape.query_column(kv_head * group);
    let n_before = block.parent.map_or(0, |parent| tree.runs[parent].position + tree.runs[parent].n_tokens);
    let longest = block.parts.iter().map(|(_, tokens)| tokens.end).max().unwrap_or(0);
    let (n_rows, stride) = (block.n_tokens * group, n_before + longest);

    let mut queries = vec![0.0; n_rows * d];
    let mut rows = queries.chunks_exact_mut(d);
    for (run, tokens) in &block.parts {
        let run = &tree.runs[*run];
        for i in tokens.clone() {
            let from = &qkv[(run.token + i) * shape.qkv_width() + first_column..][..group * d];
            for (from, query) in from.chunks_exact(d).zip(rows.by_ref()) {
                turn.place(query, from, run.position + i, spec.scale as f32);
            }
        }
    }

    // Where the scores of each part begin and how many rows they have.
    let mut first = 0;
    let parts: Vec<(usize, usize, usize, &Range<usize>)> = block
        .parts
        .iter()
        .map(|(run, tokens)| {
            let n = tokens.len() * group;
            first += n;
            (*run, first - n, n, tokens)
        })
        .collect();
    let chain = tree.chain(block.parent);
    let mut weights = vec![0.0; n_rows * stride];
    for &run in &chain {
        let Run { position, n_tokens, .. } = tree.runs[run];
        let (queries, keys) = (View::dense(&queries, n_rows, d), &of_run(run).keys);
        multiply_here(&mut weights[position..], stride, queries, keys, 0..d, 0..n_tokens, Into::Overwrite);
    }
    for &(run, first, n, tokens) in &parts {
        let queries = View::dense(&queries[first * d..], n, d);
        let own = &mut weights[first * stride + n_before..];
        multiply_here(own, stride, queries, &of_run(run).keys, 0..d, 0..tokens.end, Into::Overwrite);
    }

    let mut inverses = Vec::with_capacity(n_rows);
    for &(_, first, n, tokens) in &parts {
        let of_part = weights[first * stride..].chunks_mut(stride).take(n);
        for (row, weights) in of_part.enumerate() {
            let position = n_before + tokens.start + row / group;
            let (seen, future) = weights.split_at_mut(position + 1);
            let (past, seen) = seen.split_at_mut(spec.first_seen(position));
            past.fill(0.0);
            future.fill(0.0);
            if let Some(cap) = spec.soft_cap {
                cap_softly(seen, cap as f32);
            }
            inverses.push(exponentiate(seen));
        }
    }

    let mut sums = vec![0.0; n_rows * d];
    for &run in &chain {
        let Run { position, n_tokens, .. } = tree.runs[run];
        let weights = View::strided(&weights[position..], n_rows, n_tokens, stride);
        multiply_here(&mut sums, d, weights, &of_run(run).values, 0..n_tokens, 0..d, Into::Continue);
    }
    for &(run, first, n, tokens) in &parts {
        let weights = View::strided(&weights[first * stride + n_before..], n, tokens.end, stride);
        multiply_here(&mut sums[first * d..], d, weights, &of_run(run).values, 0..tokens.end, 0..d, Into::Continue);
    }

    let mut rows = sums.chunks_exact(d).zip(inverses);
    for &(run, _, _, tokens) in &parts {
        for i in tokens.clone() {
            // SAFETY: each token stands in one block, and blocks of different key heads have columns of their own.
            let y = unsafe { y.part((tree.runs[run].token + i) * shape.output_width() + first_column, group * d) };
            for (y, (sums, inverse)) in y.chunks_exact_mut(d).zip(rows.by_ref()) {
                for (y, sum) in y.iter_mut().zip(sums) {
                    *y = sum * inverse;
                }
            }
        }
    }
}

vectorize! {
    /// Scores to weights of a softmax but for their sum, whose inverse is returned.
    fn exponentiate<T>(scores: &mut [T]) -> T {
        let top = largest(scores);
        for score in scores.iter_mut() {
            *score = (*score - top).exp();
        }
        T::ONE / sum_terms(scores.len(), |s| scores[s])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KvCache;
    use crate::check::{assert_close, draw};
    use crate::decode::decode_attention;
    use crate::oracle;
    use crate::properties::decode_specs;
    use candle_core::{DType, Tensor};
    use proptest::prelude::*;

    const SPEC: AttentionSpec = AttentionSpec { n_heads: 6, n_kv_heads: 2, head_dim: 6, rope_theta: 10_000.0 };

    fn read(qkv: &Tensor, spec: &DecodeSpec, tree: &TokenTree) -> Tensor {
        let runs = tree.runs.iter().enumerate();
        let rows: Vec<usize> = runs.flat_map(|(idx, run)| vec![idx; run.n_tokens]).collect();
        let mut cache = KvCache::of_tree(tree.clone(), &spec.shape);
        let y = decode_attention(qkv, spec, &rows, &mut cache, 0).unwrap();
        cache.advance(&rows).unwrap();
        assert!(decode_attention(qkv, spec, &rows, &mut cache, 0).is_err(), "a tree is read once");
        y
    }

    /// Tokens of the sequence that ends with a run.
    fn path(tree: &TokenTree, run: usize) -> Vec<u32> {
        let mut tokens = Vec::new();
        for idx in tree.chain(Some(run)) {
            let run = &tree.runs[idx];
            tokens.extend(run.token as u32..(run.token + run.n_tokens) as u32);
        }
        tokens
    }

    fn pick(values: &Tensor, tokens: &[u32]) -> Tensor {
        values.index_select(&Tensor::from_slice(tokens, tokens.len(), values.device()).unwrap(), 0).unwrap()
    }

    /// Trees of up to 12 runs, each behind any run before it or behind none.
    fn any_tree() -> impl Strategy<Value = TokenTree> {
        prop::collection::vec((0_usize..100, 1_usize..80), 1..12).prop_map(|runs| {
            let mut tree = TokenTree::default();
            for (idx, (parent, n_tokens)) in runs.into_iter().enumerate() {
                tree.push((parent % (idx + 1)).checked_sub(1), n_tokens).unwrap();
            }
            tree
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        #[test]
        fn every_sequence_of_a_tree_equals_the_sequence_alone(spec in decode_specs(), tree in any_tree()) {
            let qkv = draw(1, &[tree.n_tokens(), spec.shape.qkv_width()], DType::F32);
            let y = read(&qkv, &spec, &tree);
            for run in 0..tree.n_runs() {
                let tokens = path(&tree, run);
                let expected = oracle::decode_attention(&pick(&qkv, &tokens), &spec).unwrap();
                assert_close("sequence", &pick(&y, &tokens), &expected, 1e-5);
            }
        }

        #[test]
        fn no_bit_depends_on_how_sequences_are_cut_or_on_the_others(
            spec in decode_specs(),
            tree in any_tree(),
            cut in 1_usize..40,
        ) {
            let qkv = draw(2, &[tree.n_tokens(), spec.shape.qkv_width()], DType::F32);
            let y = read(&qkv, &spec, &tree);
            for run in 0..tree.n_runs() {
                let tokens = path(&tree, run);
                let mut alone = TokenTree::default();
                let mut parent = None;
                for piece in tokens.chunks(cut) {
                    parent = Some(alone.push(parent, piece.len()).unwrap());
                }
                let found = read(&pick(&qkv, &tokens), &spec, &alone).to_vec2::<f32>().unwrap();
                prop_assert!(found == pick(&y, &tokens).to_vec2::<f32>().unwrap(), "run {}", run);
            }
        }
    }

    #[test]
    fn blocks_of_a_long_sequence_hold_few_scores() {
        let mut tree = TokenTree::default();
        tree.push(None, 5_000).unwrap();
        let blocks = tree.blocks(3);
        assert!(blocks.iter().all(|block| block.n_tokens * 3 * 5_000 <= BLOCK_SCORES));
        assert_eq!(blocks.iter().map(|block| block.n_tokens).sum::<usize>(), 5_000);
    }

    #[test]
    fn missing_parents_and_rows_out_of_order_are_refused() {
        let mut tree = TokenTree::default();
        assert!(tree.push(Some(0), 3).is_err());
        tree.push(None, 2).unwrap();
        tree.push(Some(0), 1).unwrap();
        let qkv = draw(3, &[3, SPEC.qkv_width()], DType::F32);
        for rows in [[0, 1, 1], [1, 0, 0], [0, 1, 0]] {
            let mut cache = KvCache::of_tree(tree.clone(), &SPEC);
            assert!(decode_attention(&qkv, &SPEC.into(), &rows, &mut cache, 0).is_err());
        }
    }
}
