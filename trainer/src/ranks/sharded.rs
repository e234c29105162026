//! AdamW whose state is divided among ranks (ZeRO-1).

use super::Ranks;
use crate::error::{Error, Result};
use crate::gradient_sum::GradientSum;
use candle_core::{DType, Device, Tensor, Var};
use kernels::{AdamW, AdamWConfig, BLOCK_LEN, Moments, block_squares};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// AdamW of which each rank holds the moments of its share of the parameters, and updates that share.
///
/// The parameters are thought of as one row of elements, cut between blocks of [`BLOCK_LEN`]. One rank alone has all of them: plain [`AdamW`].
/// On the CPU any number of ranks comes to the same bits, since an update goes element by element, and the global norm is added up block by
/// block, in one order. On GPUs sums are in f32, and nothing but the norm comes to the host.
#[derive(Debug)]
pub(crate) struct ShardedAdamW {
    optimizer: AdamW,
    shards: Shards,
    ranks: Ranks,
}

impl ShardedAdamW {
    /// Zero moments; weight decay applies to matrices.
    ///
    /// # Errors
    /// [`Error::RanksOnGpu`] for parameters of more than one rank that lie on a GPU, without NCCL.
    pub(crate) fn new(parameters: &[(String, Var)], config: AdamWConfig, ranks: Ranks) -> Result<Self> {
        if cfg!(not(feature = "nccl")) && ranks.size() > 1 && !are_on_cpu(parameters) {
            return Err(Error::RanksOnGpu { n_ranks: ranks.size() });
        }
        let sizes: Vec<usize> = parameters.iter().map(|(_, var)| var.elem_count()).collect();
        let shards = Shards::divide(&sizes, ranks.size());
        let pieces = shards.of(ranks.rank());
        let decaying = pieces.iter().filter(|piece| decays(&parameters[piece.parameter].1));
        let decaying: BTreeSet<String> = decaying.map(|piece| piece.name(parameters)).collect();
        let optimizer = AdamW::new(&own(pieces, parameters)?, config, |name, _| decaying.contains(name));
        Ok(Self { optimizer, shards, ranks })
    }

    /// Updates the parameters, on every rank alike, from the sum of all ranks' gradients, and returns the global norm of that sum before it
    /// was bounded. A parameter without a gradient here has one on another rank.
    ///
    /// # Errors
    /// [`kernels::Error::NonFiniteGradient`] on all ranks, with nothing updated; otherwise where a rank is lost.
    pub(crate) fn step(&mut self, parameters: &[(String, Var)], gradients: GradientSum, lr: f64) -> Result<f64> {
        if self.ranks.size() == 1 {
            let gradients = gradients.into_tensors(parameters)?;
            return Ok(self.optimizer.step(parameters, &gradients, lr)?);
        }
        let (rank, counts) = (self.ranks.rank(), self.shards.counts());
        let whole = gradients.into_row(parameters)?;
        let part = self.ranks.0.reduce_scatter(whole, &counts)?.to_dtype(DType::F32)?;
        let owned = own(self.shards.of(rank), parameters)?;
        let gradients = split(&part, &owned)?;
        let norm = self.global_norm(parameters, &owned, &gradients)?;

        self.optimizer.step_part(&owned, &gradients, lr, norm)?;
        let flat: Vec<Tensor> = owned.iter().map(|(_, var)| var.flatten_all()).collect::<candle_core::Result<_>>()?;
        let whole = self.ranks.0.all_gather(&join(&flat)?, &counts)?;
        for ((_, var), updated) in parameters.iter().zip(split(&whole, parameters)?) {
            var.set(&updated)?;
        }
        Ok(norm)
    }

    /// The norm over all ranks' gradients, of which this one has those of `owned`.
    fn global_norm(
        &mut self,
        parameters: &[(String, Var)],
        owned: &[(String, Var)],
        gradients: &[Tensor],
    ) -> Result<f64> {
        let squares = if are_on_cpu(parameters) {
            self.squares_by_blocks(gradients)?
        } else {
            let mut squares = vec![0.0; parameters.len()];
            let own = self.optimizer.squared_norms(owned, gradients)?;
            for (piece, square) in self.shards.of(self.ranks.rank()).iter().zip(own) {
                squares[piece.parameter] += square;
            }
            self.ranks.sum(&mut squares)?;
            squares
        };
        let norm = squares.iter().sum::<f64>().sqrt();
        if norm.is_finite() {
            return Ok(norm);
        }
        let worst = squares.iter().position(|square| !square.is_finite()).unwrap_or(0);
        Err(kernels::Error::NonFiniteGradient { name: parameters[worst].0.clone() }.into())
    }

    /// The squared norm of each parameter's gradient, added up as [`AdamW::step`] does, whatever the number of ranks.
    fn squares_by_blocks(&self, gradients: &[Tensor]) -> Result<Vec<f64>> {
        let mut squares = vec![0.0; self.shards.n_blocks.iter().sum()];
        for (piece, gradient) in self.shards.of(self.ranks.rank()).iter().zip(gradients) {
            let first = self.shards.n_blocks[..piece.parameter].iter().sum::<usize>() + piece.start / BLOCK_LEN;
            for (square, found) in squares[first..].iter_mut().zip(block_squares(gradient)?) {
                *square = found;
            }
        }
        // All others add zeros.
        self.ranks.sum(&mut squares)?;
        let mut rest = squares.as_slice();
        let of_parameter = |&n: &usize| {
            let (blocks, others) = rest.split_at(n);
            rest = others;
            blocks.iter().sum::<f64>()
        };
        Ok(self.shards.n_blocks.iter().map(of_parameter).collect())
    }

    /// The moments of all parameters, in their order; every rank has to ask for them.
    ///
    /// # Errors
    /// Where a rank is lost.
    pub(crate) fn gather_state(&self, parameters: &[(String, Var)]) -> Result<Cow<'_, [Moments]>> {
        let own = self.optimizer.state()?;
        if self.ranks.size() == 1 {
            return Ok(own);
        }
        let gather = |of: fn(&Moments) -> &Vec<f32>| -> Result<Vec<f32>> {
            let part: Vec<f32> = own.iter().flat_map(of).copied().collect();
            // What is empty stays on the CPU: GPUs have no empty tensors.
            let device = if part.is_empty() { &Device::Cpu } else { parameters[0].1.device() };
            let part = Tensor::from_vec(part, own_len(&own), device)?;
            Ok(self.ranks.0.all_gather(&part, &self.shards.counts())?.to_vec1()?)
        };
        let (m, v) = (gather(|moments| &moments.m)?, gather(|moments| &moments.v)?);
        if !self.ranks.is_first() {
            return Ok(Cow::Owned(Vec::new()));
        }
        let mut start = 0;
        let moments = parameters.iter().map(|(name, var)| {
            let range = start..start + var.elem_count();
            start = range.end;
            let (m, v) = (m[range.clone()].to_vec(), v[range].to_vec());
            Moments { name: name.clone(), decays: decays(var), m, v }
        });
        Ok(Cow::Owned(moments.collect()))
    }

    /// Continues from the saved moments of all parameters, of which each rank keeps its share.
    ///
    /// # Errors
    /// [`kernels::Error::ParameterMismatch`] when names, order or sizes differ from those this optimizer was made for.
    pub(crate) fn restore(&mut self, steps: u64, parameters: &[(String, Var)], whole: Vec<Moments>) -> Result<()> {
        if self.ranks.size() == 1 {
            return Ok(self.optimizer.restore(steps, whole)?);
        }
        for (index, ((name, var), moments)) in parameters.iter().zip(&whole).enumerate() {
            if *name != moments.name || [moments.m.len(), moments.v.len()] != [var.elem_count(); 2] {
                let expected = format!("{name} of {}", var.elem_count());
                let found = format!("{} of {} and {}", moments.name, moments.m.len(), moments.v.len());
                return Err(kernels::Error::ParameterMismatch { index, expected, found }.into());
            }
        }
        let own = self.shards.of(self.ranks.rank()).iter().map(|piece| {
            let (moments, range) = (&whole[piece.parameter], piece.start..piece.start + piece.len);
            let (m, v) = (moments.m[range.clone()].to_vec(), moments.v[range].to_vec());
            Moments { name: piece.name(parameters), decays: moments.decays, m, v }
        });
        Ok(self.optimizer.restore(steps, own.collect())?)
    }
}

/// Whether weight decay applies to a parameter: to matrices, and to no vector.
pub(crate) fn decays(parameter: &Var) -> bool {
    parameter.rank() >= 2
}

fn are_on_cpu(parameters: &[(String, Var)]) -> bool {
    parameters.iter().all(|(_, var)| var.device().is_cpu())
}

fn own_len(moments: &[Moments]) -> usize {
    moments.iter().map(|moments| moments.m.len()).sum()
}

/// A part of a parameter: neighbouring elements, in row-major order.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    parameter: usize,
    /// A multiple of [`BLOCK_LEN`].
    start: usize,
    len: usize,
}

impl Piece {
    fn name(&self, parameters: &[(String, Var)]) -> String {
        let (name, var) = &parameters[self.parameter];
        if self.len == var.elem_count() {
            return name.clone();
        }
        format!("{name}[{}..{}]", self.start, self.start + self.len)
    }
}

/// The pieces of the parameters, as variables of their own: whole parameters themselves, parts as copies.
fn own(pieces: &[Piece], parameters: &[(String, Var)]) -> Result<Vec<(String, Var)>> {
    let variable = |piece: &Piece| -> Result<(String, Var)> {
        let (name, var) = &parameters[piece.parameter];
        if piece.len == var.elem_count() {
            return Ok((name.clone(), var.clone()));
        }
        let part = var.as_detached_tensor().flatten_all()?.narrow(0, piece.start, piece.len)?;
        Ok((piece.name(parameters), Var::from_tensor(&part)?))
    };
    pieces.iter().map(variable).collect()
}

/// The elements of a row that belong to each of some variables, in their shapes.
fn split(row: &Tensor, variables: &[(String, Var)]) -> Result<Vec<Tensor>> {
    let mut start = 0;
    let of_variable = |(_, var): &(String, Var)| -> Result<Tensor> {
        let tensor = row.narrow(0, start, var.elem_count())?.reshape(var.shape())?;
        start += var.elem_count();
        Ok(tensor)
    };
    variables.iter().map(of_variable).collect()
}

/// Tensors in a row. What is empty lies on the CPU: GPUs have no empty tensors.
fn join(parts: &[Tensor]) -> Result<Tensor> {
    if parts.is_empty() {
        return Ok(Tensor::from_vec(Vec::<f32>::new(), 0, &Device::Cpu)?);
    }
    Ok(Tensor::cat(parts, 0)?)
}

/// Which rank has which pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shards {
    pieces: Vec<Vec<Piece>>,
    /// Number of blocks of each parameter.
    n_blocks: Vec<usize>,
}

impl Shards {
    /// Divides parameters of these sizes, taken in a row, among ranks: as evenly as blocks allow.
    fn divide(sizes: &[usize], n_ranks: usize) -> Self {
        let total: usize = sizes.iter().sum();
        let mut pieces: Vec<Vec<Piece>> = vec![Vec::new(); n_ranks];
        let mut before = 0;
        for (parameter, &size) in sizes.iter().enumerate() {
            for start in (0..size).step_by(BLOCK_LEN) {
                let len = BLOCK_LEN.min(size - start);
                let owner = &mut pieces[(before + start) * n_ranks / total];
                match owner.last_mut() {
                    Some(last) if last.parameter == parameter => last.len += len,
                    _ => owner.push(Piece { parameter, start, len }),
                }
            }
            before += size;
        }
        Self { pieces, n_blocks: sizes.iter().map(|size| size.div_ceil(BLOCK_LEN)).collect() }
    }

    fn of(&self, rank: usize) -> &[Piece] {
        &self.pieces[rank]
    }

    /// Number of elements of each rank.
    fn counts(&self) -> Vec<usize> {
        self.pieces.iter().map(|pieces| pieces.iter().map(|piece| piece.len).sum()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Piece, ShardedAdamW, Shards};
    use crate::gradient_sum::GradientSum;
    use crate::ranks::{Ranks, on_threads};
    use candle_core::{DType, Device, Tensor, Var};
    use kernels::{AdamW, AdamWConfig, BLOCK_LEN};
    use lm::random::stream;
    use proptest::prelude::*;
    use rand::Rng;

    const CONFIG: AdamWConfig =
        AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, max_norm: Some(1.0) };
    const STEPS: u64 = 3;

    /// Every element belongs to one rank, in order, and no rank has more than a block above its due.
    fn check(sizes: &[usize], n_ranks: usize) {
        let shards = Shards::divide(sizes, n_ranks);
        let mut seen = Vec::new();
        for Piece { parameter, start, len } in shards.pieces.iter().flatten() {
            assert!(start % BLOCK_LEN == 0 && *len > 0);
            seen.extend((*start..start + len).map(|i| (*parameter, i)));
        }
        let all = sizes.iter().enumerate().flat_map(|(parameter, &size)| (0..size).map(move |i| (parameter, i)));
        assert!(seen.into_iter().eq(all));
        let due = sizes.iter().sum::<usize>() / n_ranks;
        assert!(shards.counts().into_iter().all(|count| count <= due + BLOCK_LEN), "{:?}", shards.counts());
    }

    fn draw(shape: &[usize], name: &str, step: u64) -> Tensor {
        let random = &mut stream(5, name, step);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.random_range(-1.0..1.0)).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn parameters(shapes: &[Vec<usize>]) -> Vec<(String, Var)> {
        let parameter = |(i, shape): (usize, &Vec<usize>)| {
            (format!("p{i}"), Var::from_tensor(&draw(shape, &format!("p{i}"), 0)).unwrap())
        };
        shapes.iter().enumerate().map(parameter).collect()
    }

    fn bits(parameters: &[(String, Var)]) -> Vec<u32> {
        let of = |(_, var): &(String, Var)| var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        parameters.iter().flat_map(of).map(f32::to_bits).collect()
    }

    /// The gradient of a batch of a step.
    fn gradient(shape: &[usize], parameter: usize, step: u64, batch: usize) -> Tensor {
        draw(shape, &format!("gradient {parameter} {batch}"), step)
    }

    const N_BATCHES: usize = 6;

    /// Parameters, norms and moments after some steps of plain AdamW, on the sum of all batches.
    fn whole(shapes: &[Vec<usize>]) -> (Vec<u32>, Vec<u64>, Vec<kernels::Moments>) {
        let parameters = parameters(shapes);
        let mut optimizer = AdamW::new(&parameters, CONFIG, |_, var| var.rank() >= 2);
        let step = |step: u64| {
            let sum = |(i, shape): (usize, &Vec<usize>)| {
                let terms = (0..N_BATCHES).map(|b| gradient(shape, i, step, b).to_dtype(DType::F64).unwrap());
                terms.reduce(|a, b| (a + b).unwrap()).unwrap().to_dtype(DType::F32).unwrap()
            };
            let gradients: Vec<Tensor> = shapes.iter().enumerate().map(sum).collect();
            optimizer.step(&parameters, &gradients, 0.01).unwrap().to_bits()
        };
        let norms = (0..STEPS).map(step).collect();
        (bits(&parameters), norms, optimizer.state().unwrap().to_vec())
    }

    /// The same on several ranks, interrupted after the first step.
    fn sharded(shapes: &[Vec<usize>], ranks: &Ranks) -> (Vec<u32>, Vec<u64>, Vec<kernels::Moments>) {
        let parameters = parameters(shapes);
        let begin = || ShardedAdamW::new(&parameters, CONFIG, ranks.clone()).unwrap();
        let mut optimizer = begin();
        let mut norms = Vec::new();
        for step in 0..STEPS {
            if step == 1 {
                let mut state = optimizer.gather_state(&parameters).unwrap().into_owned();
                if !ranks.is_first() {
                    // As if read from the checkpoint that rank 0 wrote.
                    state = whole_after_one(shapes);
                }
                optimizer = begin();
                optimizer.restore(1, &parameters, state).unwrap();
            }
            let mut sum = GradientSum::new(shapes.len());
            for batch in ranks.share(N_BATCHES) {
                for (i, shape) in shapes.iter().enumerate() {
                    sum.add(i, gradient(shape, i, step, batch)).unwrap();
                }
            }
            norms.push(optimizer.step(&parameters, sum, 0.01).unwrap().to_bits());
        }
        (bits(&parameters), norms, optimizer.gather_state(&parameters).unwrap().into_owned())
    }

    fn whole_after_one(shapes: &[Vec<usize>]) -> Vec<kernels::Moments> {
        let ranks = Ranks::default();
        let parameters = parameters(shapes);
        let mut optimizer = ShardedAdamW::new(&parameters, CONFIG, ranks).unwrap();
        let mut sum = GradientSum::new(shapes.len());
        for batch in 0..N_BATCHES {
            for (i, shape) in shapes.iter().enumerate() {
                sum.add(i, gradient(shape, i, 0, batch)).unwrap();
            }
        }
        optimizer.step(&parameters, sum, 0.01).unwrap();
        optimizer.gather_state(&parameters).unwrap().into_owned()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn every_element_has_one_owner(sizes in prop::collection::vec(1_usize..40_000, 1..9), n_ranks in 1_usize..8) {
            check(&sizes, n_ranks);
        }

        #[test]
        fn sharded_adamw_is_whole_adamw_to_the_bit(
            rows in prop::collection::vec(1_usize..200, 1..5),
            columns in 1_usize..150,
            n_ranks in 1_usize..=3,
        ) {
            let mut shapes: Vec<Vec<usize>> = rows.into_iter().map(|n| vec![n, columns]).collect();
            shapes.push(vec![columns]);
            let expected = whole(&shapes);
            let found = on_threads(n_ranks, |ranks| sharded(&shapes, &ranks));
            for (rank, (parameters, norms, moments)) in found.into_iter().enumerate() {
                prop_assert!(parameters == expected.0, "parameters of rank {rank}");
                prop_assert_eq!(&norms, &expected.1);
                if rank == 0 {
                    prop_assert!(moments == expected.2, "moments");
                }
            }
        }
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_named_on_all_ranks_and_changes_nothing() {
        let shapes = [vec![90, 200], vec![7]];
        let outcomes = on_threads(2, |ranks| {
            let parameters = parameters(&shapes);
            let before = bits(&parameters);
            let mut optimizer = ShardedAdamW::new(&parameters, CONFIG, ranks.clone()).unwrap();
            let mut sum = GradientSum::new(2);
            for (i, shape) in shapes.iter().enumerate() {
                let poison = if ranks.is_first() && i == 1 { f64::NAN } else { 1.0 };
                sum.add(i, (gradient(shape, i, 0, 0) * poison).unwrap()).unwrap();
            }
            let error = optimizer.step(&parameters, sum, 0.01).unwrap_err().to_string();
            assert_eq!(bits(&parameters), before);
            error
        });
        assert_eq!(outcomes, ["optimizer: the gradient of `p1` is not finite"; 2]);
    }
}
