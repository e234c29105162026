//! Ranks that are threads of one process: for tests, which so go through what runs over MPI, but for MPI itself.

use super::{Communicator, Ranks};
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::any::Any;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// Runs `body` on `n` ranks side by side and returns what each returned.
///
/// # Panics
/// Where one of them does; the others then see that it is lost.
pub(crate) fn on_threads<T: Send>(n: usize, body: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
    let meeting = Arc::new(Meeting::default());
    let begin = |rank| {
        let (meeting, body) = (meeting.clone(), &body);
        move || body(Ranks::new(Rc::new(Member { rank, size: n, meeting })))
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..n).map(|rank| scope.spawn(begin(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

type Parcel = Arc<dyn Any + Send + Sync>;

/// Where threads bring something each and take everything away.
#[derive(Debug, Default)]
struct Meeting {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Number of exchanges that are over.
    n_over: u64,
    brought: Vec<(usize, Parcel)>,
    /// What was brought to the last exchange, in the order of the ranks.
    last: Vec<Parcel>,
    lost: Option<usize>,
}

#[derive(Debug)]
struct Member {
    rank: usize,
    size: usize,
    meeting: Arc<Meeting>,
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut state = self.meeting.state.lock().unwrap();
        state.lost = state.lost.or(Some(self.rank));
        self.meeting.changed.notify_all();
    }
}

impl Member {
    /// What every rank has brought, in their order.
    fn exchange<T: Any + Send + Sync>(&self, own: T) -> Result<Vec<Arc<T>>> {
        let mut state = self.meeting.state.lock().unwrap();
        let number = state.n_over;
        state.brought.push((self.rank, Arc::new(own)));
        if state.brought.len() == self.size {
            state.brought.sort_by_key(|&(rank, _)| rank);
            state.last = state.brought.drain(..).map(|(_, parcel)| parcel).collect();
            state.n_over += 1;
            self.meeting.changed.notify_all();
        }
        while state.n_over == number {
            if let Some(rank) = state.lost {
                return Err(Error::RankLost { rank, n_ranks: self.size });
            }
            state = self.meeting.changed.wait(state).unwrap();
        }
        // The next exchange cannot end before this rank has joined it.
        let parcels = state.last.iter().cloned();
        Ok(parcels.map(|parcel| parcel.downcast().expect("all ranks make the same calls")).collect())
    }
}

impl Communicator for Member {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn sum(&self, values: &mut [f64]) -> Result<()> {
        let all = self.exchange(values.to_vec())?;
        values.fill(0.0);
        for of_rank in all {
            assert_eq!(of_rank.len(), values.len());
            values.iter_mut().zip(of_rank.iter()).for_each(|(sum, value)| *sum += value);
        }
        Ok(())
    }

    fn reduce_scatter(&self, whole: Tensor, counts: &[usize]) -> Result<Tensor> {
        assert_eq!((whole.dtype(), whole.dims1()?), (DType::F64, counts.iter().sum()));
        let start = counts[..self.rank].iter().sum();
        let mut sum = Tensor::zeros(counts[self.rank], DType::F64, &Device::Cpu)?;
        for of_rank in self.exchange(whole)? {
            sum = (sum + of_rank.narrow(0, start, counts[self.rank])?)?;
        }
        Ok(sum)
    }

    fn all_gather(&self, part: &Tensor, counts: &[usize]) -> Result<Tensor> {
        assert_eq!((part.dtype(), part.dims1()?), (DType::F32, counts[self.rank]));
        let parts: Vec<Tensor> = self.exchange(part.copy()?)?.iter().map(|part| part.as_ref().clone()).collect();
        Ok(Tensor::cat(&parts, 0)?)
    }

    fn broadcast(&self, bytes: &mut [u8]) -> Result<()> {
        bytes.copy_from_slice(&self.exchange(bytes.to_vec())?[0]);
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        self.exchange(()).map(|_| ())
    }
}
