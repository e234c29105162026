//! Processes that train one model together: who they are, what they tell each other, and how a step's work is divided among them.
//!
//! Every rank holds the model and the data, computes the gradient of its share of a step's batches, and holds and applies the optimizer
//! state of its share of the parameters (ZeRO-1). Rank 0 alone writes.
//!
//! # Reference
//! Rajbhandari et al. 2020, arXiv 1910.02054, section 5.1 (optimizer state partitioning).

pub mod launch;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;
#[cfg(any(test, feature = "nccl"))]
mod parts;
mod sharded;
#[cfg(any(test, feature = "nccl"))]
mod star;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod threads;
#[cfg(any(test, feature = "mpi", feature = "nccl"))]
mod watch;

#[cfg(feature = "mpi")]
pub use self::mpi::Mpi;
#[cfg(feature = "nccl")]
pub use nccl::Nccl;
pub(crate) use sharded::{ShardedAdamW, decays};
#[cfg(any(test, feature = "nccl"))]
pub use star::Star;
#[cfg(test)]
pub(crate) use threads::on_threads;

use crate::batch::Batch;
use crate::error::{Error, Result};
use candle_core::Tensor;
use std::fmt::Debug;
use std::ops::Range;
use std::rc::Rc;

/// What the ranks of a run can tell each other. Every call is made by all ranks, in the same order.
///
/// Tensors are flat; what one rank holds of them is neighbouring elements, in the order of the ranks. They stay on the device where they lie.
/// On the CPU they are summed in f64 and in the order of the ranks, on a GPU in f32 and in an order that is NCCL's.
///
/// # Errors
/// [`Error::RankLost`] where another rank no longer answers. An implementation whose library ends the process instead need not return.
pub trait Communicator: Debug {
    /// Number of this process, from 0.
    fn rank(&self) -> usize;

    /// Number of processes.
    fn size(&self) -> usize;

    /// Sums numbers over the ranks, element by element and in the order of the ranks: the same bits everywhere.
    ///
    /// # Errors
    /// As all of these.
    fn sum(&self, values: &mut [f64]) -> Result<()>;

    /// Sums tensors of all ranks, each (N), in f64 on the CPU and f32 on a GPU, and returns this rank's part of the sum: `counts[rank]` of its
    /// N elements.
    ///
    /// # Errors
    /// As all of these.
    fn reduce_scatter(&self, whole: Tensor, counts: &[usize]) -> Result<Tensor>;

    /// Joins the parts of all ranks, `counts[rank]` f32 each, to the whole, (N).
    ///
    /// # Errors
    /// As all of these.
    fn all_gather(&self, part: &Tensor, counts: &[usize]) -> Result<Tensor>;

    /// Gives rank 0's bytes to all; everyone's are as many.
    ///
    /// # Errors
    /// As all of these.
    fn broadcast(&self, bytes: &mut [u8]) -> Result<()>;

    /// Returns when all ranks have called it, however long that takes.
    ///
    /// # Errors
    /// As all of these.
    fn wait(&self) -> Result<()>;
}

/// One process that trains alone.
#[derive(Debug, Clone, Copy)]
pub struct Solo;

impl Communicator for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn sum(&self, _: &mut [f64]) -> Result<()> {
        Ok(())
    }

    fn reduce_scatter(&self, whole: Tensor, _: &[usize]) -> Result<Tensor> {
        Ok(whole)
    }

    fn all_gather(&self, part: &Tensor, _: &[usize]) -> Result<Tensor> {
        Ok(part.clone())
    }

    fn broadcast(&self, _: &mut [u8]) -> Result<()> {
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }
}

/// The ranks of a run, as one of them sees them.
#[derive(Debug, Clone)]
pub struct Ranks(Rc<dyn Communicator>);

impl Default for Ranks {
    fn default() -> Self {
        Self::new(Rc::new(Solo))
    }
}

impl Ranks {
    /// Ranks that speak through `communicator`.
    pub fn new(communicator: Rc<dyn Communicator>) -> Self {
        Self(communicator)
    }

    /// Number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.0.rank()
    }

    /// Number of processes.
    pub fn size(&self) -> usize {
        self.0.size()
    }

    /// Whether this is rank 0, which prints and writes.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Has rank 0 do something while the others wait for its end; `None` on these.
    ///
    /// # Errors
    /// What `work` returned; on the other ranks [`Error::FirstRankFailed`].
    pub fn on_first<T, E: From<Error>>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<Option<T>, E> {
        let outcome = self.is_first().then(work).transpose();
        self.0.wait()?;
        let mut n_failed = [f64::from(u8::from(outcome.is_err()))];
        self.0.sum(&mut n_failed)?;
        match outcome {
            Ok(None) if n_failed[0] > 0.0 => Err(Error::FirstRankFailed.into()),
            outcome => outcome,
        }
    }

    /// Sees to it that all ranks have the same bytes.
    ///
    /// # Errors
    /// [`Error::RanksDisagree`], on all ranks.
    pub fn agree(&self, what: &'static str, bytes: &[u8]) -> Result<()> {
        if self.size() == 1 {
            return Ok(());
        }
        let own = crate::data::hash(bytes).into_bytes();
        let mut first = own.clone();
        self.0.broadcast(&mut first)?;
        let mut n_other = [f64::from(u8::from(own != first))];
        self.0.sum(&mut n_other)?;
        if n_other[0] > 0.0 { Err(Error::RanksDisagree { what }) } else { Ok(()) }
    }

    /// As [`Communicator::sum`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn sum(&self, values: &mut [f64]) -> Result<()> {
        self.0.sum(values)
    }

    /// Sums over the ranks of numbers of which each has a share.
    ///
    /// # Errors
    /// As [`Communicator::sum`].
    pub(crate) fn total<const N: usize>(&self, mut shares: [f64; N]) -> Result<[f64; N]> {
        self.0.sum(&mut shares)?;
        Ok(shares)
    }

    /// Which of `n` things in a row this rank works on: neighbours, as many as every other rank has, or one more or less.
    pub(crate) fn share(&self, n: usize) -> Range<usize> {
        share(n, self.rank(), self.size())
    }

    /// How a step of `n_batches` batches is divided.
    pub(crate) fn cut(&self, n_batches: usize) -> Cut {
        if n_batches >= self.size() { Cut::Batches } else { Cut::Rows }
    }

    /// This rank's share of a step's batches.
    ///
    /// # Errors
    /// Where a batch cannot be cut.
    pub(crate) fn deal(&self, batches: Vec<Batch>, cut: Cut) -> Result<Vec<Batch>> {
        if self.size() == 1 {
            return Ok(batches);
        }
        match cut {
            Cut::Batches => Ok(batches[self.share(batches.len())].to_vec()),
            Cut::Rows => {
                let shares = batches.iter().map(|batch| (batch, self.share(batch.input.n_rows())));
                shares.filter(|(_, rows)| !rows.is_empty()).map(|(batch, rows)| batch.rows(rows)).collect()
            }
        }
    }

    /// This rank's share of a single batch beside those of a step that is cut in this way, if it has one.
    ///
    /// # Errors
    /// Where the batch cannot be cut.
    pub(crate) fn deal_beside(&self, batch: Batch, cut: Cut) -> Result<Option<Batch>> {
        match cut {
            // Rank 0 never has more of the other batches than another rank.
            Cut::Batches => Ok(self.is_first().then_some(batch)),
            Cut::Rows => Ok(self.deal(vec![batch], cut)?.pop()),
        }
    }
}

/// Share number `index` of `n` things in a row in `n_shares`: neighbours, as many as in every other share, or one more or less.
pub(crate) fn share(n: usize, index: usize, n_shares: usize) -> Range<usize> {
    n * index / n_shares..n * (index + 1) / n_shares
}

/// How a step's work is divided among ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Each batch, or piece of one ([`Batch::pieces`]), is computed whole by one rank. Its gradient then has the same bits whoever computes it, and
    /// sums of gradients do not depend on their order ([`kernels::add_to`]): any number of ranks has the same losses.
    Batches,
    /// There are fewer batches than ranks, so the rows of each are divided. Any number of ranks has the same losses but for rounding:
    /// a matrix product over half of the rows rounds differently.
    Rows,
}
