//! Ranks that speak over TCP, all of them to rank 0.

mod meet;
#[cfg(test)]
mod tests;

use super::Communicator;
use crate::error::{Error, Result};
use candle_core::{Device, Tensor};
use meet::Hello;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long ranks look for each other, at most: much less than they may wait for each other's work.
const MEETING: Duration = Duration::from_secs(300);

/// Processes that meet at an address and speak through rank 0, which sums in the order of the ranks and hands the sums out.
///
/// For the few numbers that are exchanged beside tensors on GPUs; tensors on the CPU go the same way. Nothing is encrypted, and who reaches
/// the port may say that it is a rank, as with torch: the port is for a network that is trusted.
#[derive(Debug)]
pub struct Star {
    rank: usize,
    size: usize,
    /// To all others, in their order, on rank 0; to rank 0 on the others.
    links: Vec<Link>,
    patience: Duration,
}

/// A connection to another rank.
#[derive(Debug)]
struct Link {
    rank: usize,
    stream: TcpStream,
}

/// What a message is part of.
#[derive(Debug, Clone, Copy)]
enum Call {
    Sum,
    ReduceScatter,
    AllGather,
    Broadcast,
    Wait,
    /// From rank 0 to the others, at any time: no call, but a rank that is lost.
    Lost,
}

impl Call {
    /// What comes before `len` bytes.
    fn head(self, len: usize) -> [u8; 16] {
        let mut head = [0; 16];
        head[..8].copy_from_slice(&(self as u64).to_le_bytes());
        head[8..].copy_from_slice(&(len as u64).to_le_bytes());
        head
    }
}

impl Star {
    /// Joins the ranks that meet at a host, which is rank 0's, and port. No call but [`Communicator::wait`] waits for another rank for
    /// longer than `patience`, which is above zero.
    ///
    /// # Errors
    /// [`Error::Meeting`] where they do not find each other within `patience` and 300 seconds.
    pub fn join(rank: usize, size: usize, at: (&str, u16), patience: Duration) -> Result<Self> {
        let limit = patience.min(MEETING);
        let streams = match rank {
            0 => meet::receive_all(size, at, limit)?,
            _ => vec![meet::reach_first(Hello { rank, size }, at, limit)?],
        };
        let first = usize::from(rank == 0);
        let links = (first..).zip(streams).map(|(rank, stream)| Link { rank, stream }).collect();
        let star = Self { rank, size, links, patience };
        for link in &star.links {
            let set_up = || {
                link.stream.set_nodelay(true)?;
                link.stream.set_write_timeout(Some(patience))
            };
            set_up().map_err(|_| star.lost(link.rank))?;
        }
        star.wait_for_at_most(Some(patience))?;
        Ok(star)
    }

    fn wait_for_at_most(&self, time: Option<Duration>) -> Result<()> {
        self.links.iter().try_for_each(|link| link.stream.set_read_timeout(time).map_err(|_| self.lost(link.rank)))
    }

    /// The error for a rank that no longer answers. Rank 0 tells the others, which it alone speaks to.
    fn lost(&self, rank: usize) -> Error {
        for mut stream in self.links.iter().filter(|link| self.rank == 0 && link.rank != rank).map(|link| &link.stream)
        {
            // One that is lost as well need not be told.
            let _ = stream.write_all(&Call::Lost.head(rank));
        }
        Error::RankLost { rank, n_ranks: self.size }
    }

    fn send(&self, link: &Link, call: Call, bytes: &[u8]) -> Result<()> {
        let message = [&call.head(bytes.len())[..], bytes].concat();
        (&link.stream).write_all(&message).map_err(|_| self.lost(link.rank))
    }

    fn receive(&self, link: &Link, call: Call, bytes: &mut [u8]) -> Result<()> {
        let lost = |_| self.lost(link.rank);
        let mut head = [0; 16];
        (&link.stream).read_exact(&mut head).map_err(lost)?;
        if head == call.head(bytes.len()) {
            return (&link.stream).read_exact(bytes).map_err(lost);
        }
        match (0..self.size).find(|&rank| head == Call::Lost.head(rank)) {
            Some(rank) => Err(Error::RankLost { rank, n_ranks: self.size }),
            None => Err(Error::RanksDisagree { what: "next step" }),
        }
    }

    /// What all ranks bring to a call, in their order: `len` bytes of each rank. Empty but on rank 0.
    fn collect(&self, call: Call, own: Vec<u8>, len: impl Fn(usize) -> usize) -> Result<Vec<Vec<u8>>> {
        if self.rank > 0 {
            self.send(&self.links[0], call, &own)?;
            return Ok(Vec::new());
        }
        let mut all = vec![own];
        for link in &self.links {
            let mut bytes = vec![0; len(link.rank)];
            self.receive(link, call, &mut bytes)?;
            all.push(bytes);
        }
        Ok(all)
    }

    /// Gives rank 0's bytes to all.
    fn spread(&self, call: Call, bytes: &mut [u8]) -> Result<()> {
        if self.rank > 0 {
            return self.receive(&self.links[0], call, bytes);
        }
        self.links.iter().try_for_each(|link| self.send(link, call, bytes))
    }
}

impl Communicator for Star {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn sum(&self, values: &mut [f64]) -> Result<()> {
        let own = bytes_of(values);
        let mut bytes = vec![0; own.len()];
        let all = self.collect(Call::Sum, own, |_| bytes.len())?;
        if self.rank == 0 {
            bytes = bytes_of(&add_up(&all));
        }
        self.spread(Call::Sum, &mut bytes)?;
        values.copy_from_slice(&numbers_of(&bytes));
        Ok(())
    }

    fn reduce_scatter(&self, whole: Tensor, counts: &[usize]) -> Result<Tensor> {
        let own = bytes_of(&whole.to_vec1::<f64>()?);
        drop(whole);
        let n_bytes = own.len();
        let all = self.collect(Call::ReduceScatter, own, |_| n_bytes)?;
        let mut part = vec![0.0; counts[self.rank]];
        if self.rank == 0 {
            let sum = add_up(&all);
            let (first, mut rest) = sum.split_at(counts[0]);
            part.copy_from_slice(first);
            for link in &self.links {
                let (of_rank, others) = rest.split_at(counts[link.rank]);
                self.send(link, Call::ReduceScatter, &bytes_of(of_rank))?;
                rest = others;
            }
        } else {
            let mut bytes = bytes_of(&part);
            self.receive(&self.links[0], Call::ReduceScatter, &mut bytes)?;
            part = numbers_of(&bytes);
        }
        Ok(Tensor::from_vec(part, counts[self.rank], &Device::Cpu)?)
    }

    fn all_gather(&self, part: &Tensor, counts: &[usize]) -> Result<Tensor> {
        let n: usize = counts.iter().sum();
        let own = part.to_vec1::<f32>()?.into_iter().flat_map(f32::to_le_bytes).collect();
        let mut whole = self.collect(Call::AllGather, own, |rank| counts[rank] * 4)?.concat();
        whole.resize(n * 4, 0);
        self.spread(Call::AllGather, &mut whole)?;
        let numbers: Vec<f32> = whole.as_chunks().0.iter().copied().map(f32::from_le_bytes).collect();
        Ok(Tensor::from_vec(numbers, n, &Device::Cpu)?)
    }

    fn broadcast(&self, bytes: &mut [u8]) -> Result<()> {
        self.spread(Call::Broadcast, bytes)
    }

    fn wait(&self) -> Result<()> {
        self.wait_for_at_most(None)?;
        self.collect(Call::Wait, Vec::new(), |_| 0)?;
        self.spread(Call::Wait, &mut [])?;
        self.wait_for_at_most(Some(self.patience))
    }
}

fn bytes_of(numbers: &[f64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn numbers_of(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks().0.iter().copied().map(f64::from_le_bytes).collect()
}

/// The sums of what the ranks bring, in their order.
fn add_up(all: &[Vec<u8>]) -> Vec<f64> {
    let mut sums = numbers_of(&all[0]);
    for of_rank in &all[1..] {
        sums.iter_mut().zip(numbers_of(of_rank)).for_each(|(sum, number)| *sum += number);
    }
    sums
}
