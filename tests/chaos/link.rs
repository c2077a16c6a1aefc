//! The network between two nodes, in one direction of dialling: a proxy through which a test lets bytes pass, slows
//! them down, holds them back or loses them.
//!
//! Owns its listener and all connections through it. Must never change a byte, nor let bytes pass on a connection
//! that has lost some.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Bytes that are read at a time.
const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks of one direction that may be under way.
const CHUNKS_MAX: usize = 256;

/// What happens to the bytes that one node sends to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Flow {
    /// They arrive.
    #[default]
    Pass,
    /// They arrive late.
    Slow(Shape),
    /// They wait until the direction is open again, as under lost packets that are sent again and again.
    Stall,
    /// They are lost while the connection stays up: half-open. It breaks when the direction is open again.
    Lose,
    /// Connections break and no new ones come up.
    Refuse,
}

/// How late bytes arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Shape {
    /// Every chunk arrives this much later.
    pub(crate) latency_ms: u64,
    /// And up to this much more, drawn for each chunk. The order stays.
    pub(crate) jitter_ms: u64,
    /// Bytes of a second; 0 for any number.
    pub(crate) bytes_per_second: u64,
}

/// Both directions of bytes between a node that dials and one that is dialled.
#[derive(Clone, Debug)]
pub(crate) struct Flows {
    /// From the one that dials.
    pub(crate) there: watch::Receiver<Flow>,
    /// From the one that is dialled.
    pub(crate) back: watch::Receiver<Flow>,
}

/// A proxy. Dropping it breaks all its connections.
#[derive(Debug)]
pub(crate) struct Link {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Link {
    /// Takes connections on a port of its own and passes them on to `target`.
    pub(crate) async fn open(target: SocketAddr, flows: Flows) -> io::Result<Link> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        Ok(Link { address, task: tokio::spawn(accept(listener, target, flows)) })
    }

    /// Where it takes connections.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, flows: Flows) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let refused = [&flows.there, &flows.back].iter().any(|f| *f.borrow() == Flow::Refuse);
                if !refused {
                    connections.spawn(carry(stream, target, flows.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry(near: TcpStream, target: SocketAddr, flows: Flows) {
    let Ok(far) = TcpStream::connect(target).await else { return };
    // Loopback sockets take the option.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::select! {
        () = pump(near_read, far_write, flows.there) => {}
        () = pump(far_read, near_write, flows.back) => {}
    }
}

/// Carries one direction until an end closes or the direction refuses.
async fn pump(from: OwnedReadHalf, to: OwnedWriteHalf, flow: watch::Receiver<Flow>) {
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    let mut refusing = flow.clone();
    let carried =
        async { tokio::join!(take(from, sender, flow.clone()), deliver(receiver, to, flow)) };
    tokio::select! {
        _ = carried => {}
        _ = refusing.wait_for(|flow| *flow == Flow::Refuse) => {}
    }
}

/// Reads chunks and says when each is due.
async fn take(
    mut from: OwnedReadHalf,
    sender: mpsc::Sender<(Instant, Vec<u8>)>,
    mut flow: watch::Receiver<Flow>,
) {
    let mut buffer = vec![0; CHUNK_BYTES];
    let (mut has_lost, mut due) = (false, Instant::now());
    loop {
        let before = *flow.borrow_and_update();
        if has_lost && before != Flow::Lose {
            return;
        }
        if before == Flow::Stall {
            if flow.changed().await.is_err() {
                return;
            }
            continue;
        }
        let length = tokio::select! {
            biased;
            changed = flow.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            read = from.read(&mut buffer) => read.unwrap_or(0),
        };
        if length == 0 {
            return;
        }
        if before == Flow::Lose {
            has_lost = true;
            continue;
        }
        due = arrival(before, length, due);
        if sender.send((due, buffer[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

/// When a chunk of this length arrives, behind one that arrives at `previous`.
fn arrival(flow: Flow, length: usize, previous: Instant) -> Instant {
    let now = Instant::now();
    let Flow::Slow(shape) = flow else { return now.max(previous) };
    let late_ms = shape.latency_ms + rand::random_range(0..=shape.jitter_ms);
    let length_us = length as u64 * 1_000_000;
    let transfer_us = length_us.checked_div(shape.bytes_per_second).unwrap_or(0);
    let first = (now + Duration::from_millis(late_ms)).max(previous);
    first + Duration::from_micros(transfer_us)
}

async fn deliver(
    mut receiver: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut to: OwnedWriteHalf,
    mut flow: watch::Receiver<Flow>,
) {
    while let Some((due, chunk)) = receiver.recv().await {
        tokio::time::sleep_until(due).await;
        // What is under way when a direction stops does not arrive either.
        if flow.wait_for(|flow| *flow != Flow::Stall).await.is_err() {
            return;
        }
        if to.write_all(&chunk).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longest time for something that must happen, and time for something that must not.
    const SOON: Duration = Duration::from_secs(5);
    const A_WHILE: Duration = Duration::from_millis(150);

    /// Both ends of a connection through a link, and what opens and closes its directions.
    struct Pair {
        near: TcpStream,
        far: TcpStream,
        there: watch::Sender<Flow>,
        _back: watch::Sender<Flow>,
        link: Link,
        target: TcpListener,
    }

    impl Pair {
        async fn open() -> Pair {
            let target = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let (there, back) = (watch::channel(Flow::Pass).0, watch::channel(Flow::Pass).0);
            let flows = Flows { there: there.subscribe(), back: back.subscribe() };
            let link = Link::open(target.local_addr().unwrap(), flows).await.unwrap();
            let near = TcpStream::connect(link.address()).await.unwrap();
            let far = target.accept().await.unwrap().0;
            Pair { near, far, there, _back: back, link, target }
        }

        async fn send(&mut self, bytes: &[u8]) {
            self.near.write_all(bytes).await.unwrap();
        }

        /// The bytes that arrive next, if any do within this time; none at all if the connection is closed.
        async fn arrives(&mut self, within: Duration) -> Option<Vec<u8>> {
            let mut bytes = vec![0; 64];
            let read = tokio::time::timeout(within, self.far.read(&mut bytes)).await.ok()?;
            bytes.truncate(read.unwrap_or(0));
            Some(bytes)
        }
    }

    #[tokio::test]
    async fn bytes_pass_both_ways() {
        let mut pair = Pair::open().await;
        pair.send(b"there").await;
        assert_eq!(pair.arrives(SOON).await.unwrap(), b"there");
        pair.far.write_all(b"back").await.unwrap();
        let mut bytes = [0; 4];
        pair.near.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"back");
    }

    #[tokio::test]
    async fn stalled_bytes_arrive_when_the_direction_opens_and_the_other_one_never_stops() {
        let mut pair = Pair::open().await;
        pair.there.send_replace(Flow::Stall);
        pair.send(b"late").await;
        assert_eq!(pair.arrives(A_WHILE).await, None);
        pair.far.write_all(b"back").await.unwrap();
        let mut bytes = [0; 4];
        pair.near.read_exact(&mut bytes).await.unwrap();
        pair.there.send_replace(Flow::Pass);
        assert_eq!(pair.arrives(SOON).await.unwrap(), b"late");
    }

    #[tokio::test]
    async fn lost_bytes_break_the_connection_when_the_direction_opens() {
        let mut pair = Pair::open().await;
        pair.there.send_replace(Flow::Lose);
        pair.send(b"lost").await;
        assert_eq!(pair.arrives(A_WHILE).await, None);
        pair.there.send_replace(Flow::Pass);
        assert_eq!(pair.arrives(SOON).await.unwrap(), b"", "closed, and nothing arrived");
    }

    #[tokio::test]
    async fn refusing_breaks_what_is_there_and_lets_nothing_new_through() {
        let mut pair = Pair::open().await;
        pair.there.send_replace(Flow::Refuse);
        assert_eq!(pair.arrives(SOON).await.unwrap(), b"");
        let mut again = TcpStream::connect(pair.link.address()).await.unwrap();
        assert_eq!(again.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed at once");
        let reached = tokio::time::timeout(A_WHILE, pair.target.accept()).await;
        assert!(reached.is_err(), "the target was reached");
    }

    #[tokio::test]
    async fn slow_bytes_arrive_late_and_in_order() {
        let mut pair = Pair::open().await;
        let shape = Shape { latency_ms: 100, jitter_ms: 0, bytes_per_second: 1_000 };
        pair.there.send_replace(Flow::Slow(shape));
        let begun = std::time::Instant::now();
        pair.send(&[1; 50]).await;
        assert_eq!(pair.arrives(SOON).await.unwrap(), [1; 50]);
        let first = begun.elapsed();
        assert!(first >= Duration::from_millis(150), "{first:?}");
        pair.send(&[2; 50]).await;
        pair.there.send_replace(Flow::Pass);
        pair.send(&[3; 50]).await;
        let mut rest = Vec::new();
        while rest.len() < 100 {
            rest.extend(pair.arrives(SOON).await.unwrap());
        }
        assert!(rest.is_sorted(), "what is sent later arrives later");
    }
}
