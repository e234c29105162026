//! How processes that know one address find each other.

use crate::error::{Error, Result};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

/// How long one attempt to connect may take, and somebody unknown to say who he is.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long to wait before the next look.
const PAUSE: Duration = Duration::from_millis(20);

const MAGIC: &[u8; 16] = b"phasetrace ranks";

/// What each side says first: that it is this program, and which rank of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) rank: usize,
    pub(super) size: usize,
}

impl Hello {
    pub(super) fn send(self, mut stream: &TcpStream) -> io::Result<()> {
        let [rank, size] = [self.rank, self.size].map(|number| (number as u64).to_le_bytes());
        stream.write_all(&[&MAGIC[..], &rank, &size].concat())
    }

    /// What the other side says; `None` where that is something else.
    fn receive(mut stream: &TcpStream) -> io::Result<Option<Self>> {
        let mut magic = [0; MAGIC.len()];
        let mut numbers = [[0; 8]; 2];
        stream.read_exact(&mut magic)?;
        stream.read_exact(numbers.as_flattened_mut())?;
        let [rank, size] = numbers.map(|bytes| u64::from_le_bytes(bytes) as usize);
        Ok((magic == *MAGIC).then_some(Self { rank, size }))
    }
}

/// Rank 0: waits for all others, and returns the connections to ranks 1, 2, ...
///
/// # Errors
/// [`Error::Meeting`] where the address cannot be listened at, a process of another launch comes, or one does not come within `limit`.
pub(super) fn receive_all(size: usize, (host, port): (&str, u16), limit: Duration) -> Result<Vec<TcpStream>> {
    let listener = listen(host, port)
        .map_err(|error| meeting(format!("rank 0 of {size} cannot listen at {host}:{port}: {error}")))?;
    let start = Instant::now();
    let mut links: Vec<Option<TcpStream>> = (1..size).map(|_| None).collect();
    while let Some(missing) = links.iter().position(Option::is_none) {
        if start.elapsed() > limit {
            let (rank, wall_s) = (missing + 1, limit.as_secs_f64());
            return Err(meeting(format!("rank {rank} of {size} has not come to {host}:{port} within {wall_s} s")));
        }
        let Ok((stream, from)) = listener.accept() else {
            thread::sleep(PAUSE);
            continue;
        };
        // Anybody may knock at a port; who does not speak like a rank is let go.
        let Ok(Some(hello)) = greet(&stream, size) else { continue };
        let Hello { rank, size: its_size } = hello;
        if its_size != size || !(1..size).contains(&rank) {
            return Err(meeting(format!(
                "rank {rank} of {its_size} has come from {} to {host}:{port}, where {size} ranks meet",
                from.ip()
            )));
        }
        if links[rank - 1].replace(stream).is_some() {
            return Err(meeting(format!("rank {rank} of {size} has come to {host}:{port} twice")));
        }
    }
    Ok(links.into_iter().flatten().collect())
}

/// Hears who has come, and says who is here.
fn greet(stream: &TcpStream, size: usize) -> io::Result<Option<Hello>> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(ATTEMPT))?;
    let hello = Hello::receive(stream)?;
    if hello.is_some() {
        Hello { rank: 0, size }.send(stream)?;
    }
    Ok(hello)
}

fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
    let is_local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let listener = if is_local {
        TcpListener::bind((host, port))?
    } else {
        // At every address: what the host's own name stands for here need not be what it stands for elsewhere.
        let all = [IpAddr::from(Ipv6Addr::UNSPECIFIED), IpAddr::from(Ipv4Addr::UNSPECIFIED)];
        TcpListener::bind(&all.map(|address| SocketAddr::new(address, port))[..])?
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Any other rank: connects to rank 0, which need not be there yet.
///
/// # Errors
/// [`Error::Meeting`] where something else answers, or nothing within `limit`.
pub(super) fn reach_first(own: Hello, (host, port): (&str, u16), limit: Duration) -> Result<TcpStream> {
    let Hello { rank, size } = own;
    let start = Instant::now();
    loop {
        match call(own, (host, port), limit) {
            Ok((stream, Some(Hello { rank: 0, size: its_size }))) if its_size == size => return Ok(stream),
            Ok((_, Some(Hello { rank: other, size: its_size }))) => {
                let what = format!("at {host}:{port} is rank {other} of {its_size}, but this is rank {rank} of {size}");
                return Err(meeting(what));
            }
            Ok((_, None)) => {
                return Err(meeting(format!("what answers at {host}:{port} is not rank 0 of this program")));
            }
            Err(error) if start.elapsed() > limit => {
                let wall_s = limit.as_secs_f64();
                let what = format!("rank {rank} of {size} has not reached rank 0 at {host}:{port} within {wall_s} s");
                return Err(meeting(format!("{what}: {error}")));
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// Connects, and hears who is there.
fn call(own: Hello, at: (&str, u16), limit: Duration) -> io::Result<(TcpStream, Option<Hello>)> {
    let stream = connect(at)?;
    // Rank 0 may be busy with somebody else.
    stream.set_read_timeout(Some(limit))?;
    own.send(&stream)?;
    let hello = Hello::receive(&stream)?;
    Ok((stream, hello))
}

fn connect(at: (&str, u16)) -> io::Result<TcpStream> {
    let mut reason = io::Error::new(ErrorKind::NotFound, "no such host");
    for address in at.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, ATTEMPT) {
            // Where nobody listens yet, a socket of this machine can happen to be given that very port, and meet itself.
            Ok(stream) if stream.local_addr()? == stream.peer_addr()? => reason = ErrorKind::ConnectionRefused.into(),
            Ok(stream) => return Ok(stream),
            Err(error) => reason = error,
        }
    }
    Err(reason)
}

fn meeting(message: String) -> Error {
    Error::Meeting { message }
}
