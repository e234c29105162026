//! Scoring in one pass over a tree: what sequences share at their beginning is read once.

use super::{PACK_TOKENS, TokenRequest, add, blank};
use crate::Result;
use crate::next_token::{After, NextToken, Tokens};
use crate::subject::Score;
use kernels::TokenTree;
use std::ops::Range;

/// Scores in the order of the requests, which were checked; none where the model does not read trees.
pub(super) fn score(model: &impl NextToken, requests: &[TokenRequest]) -> Result<Option<Vec<Score>>> {
    let mut scores: Vec<Score> = requests.iter().map(|request| blank(&request.continuation)).collect();
    let mut sequences: Vec<Sequence> = requests.iter().enumerate().map(Sequence::new).collect();
    // Those that share a beginning stand next to each other then.
    sequences.sort_by(|a, b| (a.read(), a.idx).cmp(&(b.read(), b.idx)));
    let mut rest = sequences.as_slice();
    while !rest.is_empty() {
        let (now, later) = rest.split_at(first_pack(rest));
        let forest = Forest::grow(now)?;
        let Some(mut cache) = model.tree_cache(forest.tree.clone())? else { return Ok(None) };
        let mut asked = forest.asked(now);
        // By token, then by sequence: each score is added up from its first token on, since tokens of a sequence stand in its order.
        asked.sort_unstable();
        let mut wanted: Vec<u32> = asked.iter().map(|target| target.token).collect();
        wanted.dedup();
        let mut targets = Vec::with_capacity(asked.len());
        let mut row = 0;
        for target in &asked {
            row += usize::from(wanted[row] != target.token);
            targets.push((row, target.id));
        }
        let found = model.token_log_probs(&mut cache, &forest.tokens.after(wanted), After::Runs, &targets)?;
        for (target, found) in asked.iter().zip(found) {
            add(&mut scores[target.request], found);
        }
        rest = later;
    }
    Ok(Some(scores))
}

/// A context and its continuation as one.
struct Sequence {
    ids: Vec<u32>,
    n_context: usize,
    /// Which request.
    idx: usize,
}

impl Sequence {
    fn new((idx, request): (usize, &TokenRequest)) -> Self {
        let ids = [request.context.as_slice(), &request.continuation].concat();
        Self { ids, n_context: request.context.len(), idx }
    }

    /// The tokens that are read: the last is only predicted.
    fn read(&self) -> &[u32] {
        &self.ids[..self.ids.len() - 1]
    }

    fn n_shared(&self, other: &Self) -> usize {
        self.read().iter().zip(other.read()).take_while(|(a, b)| a == b).count()
    }
}

/// How many sequences, sorted, are read together: as many as add up to [`PACK_TOKENS`] beyond the first, so that reading a long
/// beginning once more for each pack costs little beside what is new.
fn first_pack(sequences: &[Sequence]) -> usize {
    let mut n_new = 0;
    let fitting = sequences.windows(2).take_while(|pair| {
        n_new += pair[1].read().len() - pair[0].n_shared(&pair[1]);
        n_new <= PACK_TOKENS
    });
    1 + fitting.count()
}

/// The tree of some sequences.
#[derive(Default)]
struct Forest {
    tree: TokenTree,
    tokens: Tokens,
    runs: Vec<Run>,
    /// The last run of each sequence.
    ends: Vec<usize>,
}

#[derive(Clone, Copy)]
struct Run {
    parent: Option<usize>,
    /// Position of its first token in the sequence, and the number of that token among all.
    position: usize,
    token: usize,
}

/// Sequences that are alike up to a position, and the run that ends there.
struct Family {
    sequences: Range<usize>,
    n_alike: usize,
    parent: Option<usize>,
}

/// A token that is asked for: after which token that is read, of which request.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    token: u32,
    request: usize,
    id: u32,
}

impl Forest {
    /// Each sequence reads at least one token; they are sorted by what they read.
    fn grow(sequences: &[Sequence]) -> Result<Self> {
        let mut forest = Self { ends: vec![0; sequences.len()], ..Self::default() };
        let mut families = vec![Family { sequences: 0..sequences.len(), n_alike: 0, parent: None }];
        while let Some(Family { sequences: range, n_alike, mut parent }) = families.pop() {
            // Of sorted sequences the first and the last share the least.
            let (first, last) = (&sequences[range.start], &sequences[range.end - 1]);
            let end = first.n_shared(last);
            if end > n_alike {
                let token = forest.tree.n_tokens();
                let run = forest.tree.push(parent, end - n_alike)?;
                forest.tokens.push(run, &first.ids[n_alike..end]);
                forest.runs.push(Run { parent, position: n_alike, token });
                parent = Some(run);
            }
            let mut start = range.start;
            while start < range.end {
                let next = sequences[start].read().get(end);
                let n = sequences[start..range.end].iter().take_while(|it| it.read().get(end) == next).count();
                match (next, parent) {
                    (None, Some(run)) => forest.ends[start..start + n].fill(run),
                    _ => families.push(Family { sequences: start..start + n, n_alike: end, parent }),
                }
                start += n;
            }
        }
        Ok(forest)
    }

    /// Each token of each continuation.
    fn asked(&self, sequences: &[Sequence]) -> Vec<Target> {
        let mut asked = Vec::new();
        for (sequence, &end) in sequences.iter().zip(&self.ends) {
            let mut run = self.runs[end];
            for position in (sequence.n_context - 1..sequence.read().len()).rev() {
                while position < run.position {
                    run = run.parent.map_or(run, |parent| self.runs[parent]);
                }
                let token = (run.token + position - run.position) as u32;
                asked.push(Target { token, request: sequence.idx, id: sequence.ids[position + 1] });
            }
        }
        asked
    }
}
