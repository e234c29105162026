//! Ranks that are processes under MPI.

use super::Communicator;
use super::watch::Watch;
use crate::error::{Error, Result};
use candle_core::{CpuStorage, Device, Storage, Tensor};
use mpi::Count;
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::{Threading, Universe, initialize_with_threading};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, CommunicatorCollectives, Root};
use std::fmt;
use std::thread;
use std::time::Duration;

/// All processes of this MPI job.
///
/// MPI itself ends the job where it notices that a process is lost. Where it does not, the watch ends this process: no call but
/// [`Communicator::wait`] may take longer than its patience.
pub struct Mpi {
    world: SimpleCommunicator,
    watch: Watch,
    /// MPI is finalised when it is dropped.
    _universe: Universe,
}

impl fmt::Debug for Mpi {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "rank {} of {} under MPI", self.rank(), self.size())
    }
}

impl Mpi {
    /// Joins the job. Where a call waits for others for longer than `patience`, `give_up` is called, on another thread, and is to end the
    /// process.
    ///
    /// `None` where this process has joined before.
    pub fn join(patience: Duration, give_up: impl Fn() + Send + 'static) -> Option<Self> {
        let (universe, _) = initialize_with_threading(Threading::Funneled)?;
        Some(Self { world: universe.world(), watch: Watch::begin(patience, give_up), _universe: universe })
    }

    /// Ends all processes of the job with this code.
    pub fn abort(&self, code: u8) -> ! {
        self.world.abort(i32::from(code))
    }

    /// Number of elements for each rank, and where each begins.
    fn layout(counts: &[usize]) -> Result<(Vec<Count>, Vec<Count>)> {
        let mut start = 0;
        let starts = counts.iter().map(|count| {
            let own = start;
            start += count;
            own
        });
        let starts: Vec<usize> = starts.collect();
        let narrow = |numbers: &[usize]| numbers.iter().map(|&n| Count::try_from(n)).collect::<Result<Vec<_>, _>>();
        match (narrow(counts), narrow(&starts), Count::try_from(start)) {
            (Ok(counts), Ok(starts), Ok(_)) => Ok((counts, starts)),
            _ => Err(Error::TooManyForMpi { n: start }),
        }
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn size(&self) -> usize {
        self.world.size() as usize
    }

    fn sum(&self, values: &mut [f64]) -> Result<()> {
        // Gathered and added up here: MPI's own reductions may add in another order on each rank.
        let mut all = vec![0.0; values.len() * self.size()];
        self.watch.during(|| self.world.all_gather_into(&*values, &mut all[..]));
        values.fill(0.0);
        for of_rank in all.chunks_exact(values.len().max(1)) {
            values.iter_mut().zip(of_rank).for_each(|(sum, value)| *sum += value);
        }
        Ok(())
    }

    fn reduce_scatter(&self, whole: Tensor, counts: &[usize]) -> Result<Tensor> {
        let own = counts[self.rank()];
        let (send, send_starts) = Self::layout(counts)?;
        let (receive, receive_starts) = Self::layout(&vec![own; self.size()])?;
        let mut parts = vec![0.0_f64; own * self.size()];
        {
            let whole = whole.contiguous()?;
            let (storage, layout) = whole.storage_and_layout();
            let values = match (&*storage, layout.contiguous_offsets()) {
                (Storage::Cpu(CpuStorage::F64(values)), Some((start, end))) => &values[start..end],
                _ => return Err(candle_core::Error::msg("expected f64 on the CPU").into()),
            };
            let send = Partition::new(values, send, send_starts);
            let mut receive = PartitionMut::new(&mut parts[..], receive, receive_starts);
            self.watch.during(|| self.world.all_to_all_varcount_into(&send, &mut receive));
        }
        // In the order of the ranks.
        let (sum, others) = parts.split_at_mut(own);
        for of_rank in others.chunks_exact(own.max(1)) {
            sum.iter_mut().zip(of_rank).for_each(|(sum, value)| *sum += value);
        }
        parts.truncate(own);
        Ok(Tensor::from_vec(parts, own, &Device::Cpu)?)
    }

    fn all_gather(&self, part: &Tensor, counts: &[usize]) -> Result<Tensor> {
        let (receive, starts) = Self::layout(counts)?;
        let n: usize = counts.iter().sum();
        let mut whole = vec![0.0_f32; n];
        let part = part.to_vec1::<f32>()?;
        let mut receive = PartitionMut::new(&mut whole[..], receive, starts);
        self.watch.during(|| self.world.all_gather_varcount_into(&part[..], &mut receive));
        Ok(Tensor::from_vec(whole, n, &Device::Cpu)?)
    }

    fn broadcast(&self, bytes: &mut [u8]) -> Result<()> {
        self.watch.during(|| self.world.process_at_rank(0).broadcast_into(bytes));
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        // Asked now and then: MPI's own waiting keeps a core busy, which rank 0 may have a use for.
        let mut request = self.world.immediate_barrier();
        while let Err(open) = request.test() {
            request = open;
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}
