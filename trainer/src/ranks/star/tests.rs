//! Ranks that are threads and speak over TCP: the same answers as by any other way, and a clear end where one is not what it should be.

use super::Star;
use crate::error::{Error, Result};
use crate::ranks::{Communicator, Ranks, on_threads};
use candle_core::{Device, Tensor};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
const HOST: &str = "127.0.0.1";

/// A port where nobody listens.
fn free_port() -> u16 {
    TcpListener::bind((HOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Runs `body` on `n` ranks side by side and returns what each returned.
fn over_tcp<T: Send>(n: usize, patience: Duration, body: impl Fn(Star) -> T + Sync) -> Vec<T> {
    let port = free_port();
    let body = &body;
    let join = |rank| move || body(Star::join(rank, n, (HOST, port), patience).unwrap());
    thread::scope(|scope| {
        // Rank 0 need not be there first.
        let threads: Vec<_> = (0..n).rev().map(|rank| scope.spawn(join(rank))).collect();
        threads.into_iter().rev().map(|thread| thread.join().unwrap()).collect()
    })
}

/// What a rank comes to that makes every call.
fn talk(ranks: &Ranks) -> (Vec<u64>, Vec<u64>, Vec<u32>, Vec<u8>) {
    let (rank, communicator) = (ranks.rank(), &ranks.0);
    // Of very different sizes: another order gives other bits.
    let mut sums = [0.1, 1e17, -1e17].map(|x| x / (rank as f64 + 3.0));
    communicator.sum(&mut sums).unwrap();
    communicator.wait().unwrap();
    let counts: Vec<usize> = [5, 0, 2][..ranks.size()].to_vec();
    let n: usize = counts.iter().sum();
    let whole: Vec<f64> = (0..n).map(|i| 10.0_f64.powi(rank as i32 * 17) / (i as f64 + 3.0)).collect();
    let part = communicator.reduce_scatter(Tensor::from_vec(whole, n, &Device::Cpu).unwrap(), &counts).unwrap();
    let part: Vec<f64> = part.to_vec1().unwrap();
    let own: Vec<f32> = (0..counts[rank]).map(|i| (rank * 10 + i) as f32 / 3.0).collect();
    let gathered = communicator.all_gather(&Tensor::from_vec(own, counts[rank], &Device::Cpu).unwrap(), &counts);
    let mut bytes = [rank as u8, 7];
    communicator.broadcast(&mut bytes).unwrap();
    communicator.sum(&mut []).unwrap();
    let bits = |numbers: &[f64]| numbers.iter().map(|number| number.to_bits()).collect();
    let gathered = gathered.unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect();
    (bits(&sums), bits(&part), gathered, bytes.to_vec())
}

#[test]
fn every_call_gives_the_bits_that_threads_of_one_process_get() {
    for n in 1..=3 {
        let found = over_tcp(n, PATIENCE, |star| talk(&Ranks::new(Rc::new(star))));
        assert_eq!(found, on_threads(n, |ranks| talk(&ranks)), "{n} ranks");
    }
}

/// The rank that is lost, as another one sees it.
fn lost(outcome: Result<()>) -> usize {
    match outcome.unwrap_err() {
        Error::RankLost { rank, .. } => rank,
        other => panic!("{other}"),
    }
}

#[test]
fn a_rank_that_dies_is_named_on_all_others() {
    for (dies, others) in [(2, [0, 1]), (0, [1, 2])] {
        let outcomes = over_tcp(3, PATIENCE, |star| {
            star.sum(&mut [1.0]).unwrap();
            let is_dead = star.rank() == dies;
            (!is_dead).then(|| lost(star.wait().and_then(|()| star.sum(&mut [1.0]))))
        });
        assert_eq!(others.map(|rank| outcomes[rank]), [Some(dies); 2]);
    }
}

#[test]
fn a_rank_that_hangs_is_waited_for_so_long_and_no_longer() {
    let patience = Duration::from_secs(1);
    let has_given_up = AtomicBool::new(false);
    over_tcp(2, patience, |star| {
        if star.rank() == 1 {
            star.wait().unwrap();
            // It does not speak before the other has given up.
            let start = Instant::now();
            while !has_given_up.load(Ordering::Relaxed) && start.elapsed() < PATIENCE {
                thread::sleep(Duration::from_millis(5));
            }
            assert!(has_given_up.load(Ordering::Relaxed), "rank 0 waits on");
            return;
        }
        // However long it takes.
        thread::sleep(2 * patience);
        star.wait().unwrap();
        let start = Instant::now();
        assert_eq!(lost(star.sum(&mut [1.0])), 1);
        assert!(start.elapsed() >= patience, "{:?}", start.elapsed());
        has_given_up.store(true, Ordering::Relaxed);
    });
}

#[test]
fn ranks_that_make_different_calls_are_told_so() {
    let outcomes = over_tcp(2, PATIENCE, |star| match star.rank() {
        0 => star.sum(&mut [1.0]),
        _ => star.sum(&mut [1.0, 2.0]),
    });
    let error = outcomes.into_iter().next().unwrap().unwrap_err();
    assert!(matches!(error, Error::RanksDisagree { what: "next step" }), "{error}");
}

#[test]
fn strangers_are_let_go() {
    let port = free_port();
    let star = thread::scope(|scope| {
        let first = scope.spawn(|| Star::join(0, 2, (HOST, port), PATIENCE).unwrap().rank());
        let mut knock = loop {
            match TcpStream::connect((HOST, port)) {
                Ok(stream) => break stream,
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        };
        knock.write_all(b"GET / HTTP/1.1\r\nHost: somebody else\r\n\r\n").unwrap();
        // Not answered, but hung up on.
        assert!(matches!(knock.read(&mut [0; 8]), Ok(0) | Err(_)));
        // One that hangs up itself.
        drop(TcpStream::connect((HOST, port)).unwrap());
        let second = Star::join(1, 2, (HOST, port), PATIENCE).unwrap().rank();
        (first.join().unwrap(), second)
    });
    assert_eq!(star, (0, 1));
}

#[test]
fn ranks_of_different_launches_are_named() {
    let port = free_port();
    let fault = |rank, size| Star::join(rank, size, (HOST, port), PATIENCE).unwrap_err().to_string();
    thread::scope(|scope| {
        let first = scope.spawn(|| fault(0, 2));
        let second = fault(1, 3);
        let expected = format!("rank 1 of 3 has come from {HOST} to {HOST}:{port}, where 2 ranks meet; ");
        assert!(first.join().unwrap().starts_with(&expected));
        let expected = format!("at {HOST}:{port} is rank 0 of 2, but this is rank 1 of 3; ");
        assert!(second.starts_with(&expected), "{second}");
    });
}

#[test]
fn a_rank_that_does_not_come_is_named() {
    let port = free_port();
    let join = |rank| Star::join(rank, 3, (HOST, port), Duration::from_secs(2));
    thread::scope(|scope| {
        let third = scope.spawn(|| lost(join(2).and_then(|star| star.sum(&mut [1.0]))));
        let error = join(0).unwrap_err().to_string();
        assert!(error.starts_with("rank 1 of 3 has not come to 127.0.0.1:"), "{error}");
        assert!(error.contains(&format!(":{port} within 2 s; ")), "{error}");
        assert_eq!(third.join().unwrap(), 0);
    });
}

#[test]
fn a_rank_0_that_is_not_there_is_named_with_its_address() {
    let port = free_port();
    let fault = |rank, patience| Star::join(rank, 2, (HOST, port), patience).unwrap_err().to_string();
    let error = fault(1, Duration::from_millis(200));
    let expected = format!("rank 1 of 2 has not reached rank 0 at {HOST}:{port} within 0.2 s: ");
    assert!(error.starts_with(&expected), "{error}");
    let somebody = TcpListener::bind((HOST, port)).unwrap();
    let error = fault(0, PATIENCE);
    assert!(error.starts_with(&format!("rank 0 of 2 cannot listen at {HOST}:{port}: ")), "{error}");
    let error = thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = somebody.accept().unwrap();
            stream.read_exact(&mut [0; 32]).unwrap();
            stream.write_all(&[7; 32]).unwrap();
        });
        fault(1, PATIENCE)
    });
    assert!(error.starts_with(&format!("what answers at {HOST}:{port} is not rank 0 of this program")), "{error}");
}
