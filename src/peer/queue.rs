//! Messages that wait for one lane to one node, and the stream of frames that takes them away.
//!
//! Owns the bound in bytes and who is woken. Pushing must never block beyond a short lock: the driver's
//! thread does it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use ledger_proto::internal::{self, Frame};
use ledger_shard::GroupMessage;
use ledger_types::StoreId;
use parking_lot::Mutex;
use tokio_stream::Stream;

use super::metrics::add;
use super::{FRAME_MESSAGES_MAX, MESSAGE_BYTES_MAX, PeerMetrics};

/// Bytes charged for a message beside its payload.
const OVERHEAD_BYTES: usize = 64;
/// Bytes after which a frame is closed.
const FRAME_BYTES: usize = 1024 * 1024;
/// Messages after which a frame is closed.
const FRAME_MESSAGES: usize = 4096;
/// No frame can hold a larger message.
const PAYLOAD_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 64 * 1024;

const _: () =
    assert!(FRAME_MESSAGES <= FRAME_MESSAGES_MAX, "own frames pass the other side's check");
const _: () = assert!(FRAME_BYTES + FRAME_MESSAGES * OVERHEAD_BYTES < MESSAGE_BYTES_MAX);

/// What became of a pushed message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pushed {
    /// It waits.
    Queued,
    /// It is lost. `first` if it is the first since there was room.
    Dropped { first: bool },
}

#[derive(Default)]
struct Inner {
    messages: VecDeque<GroupMessage>,
    bytes: usize,
    waker: Option<Waker>,
    /// Counts the streams; only the latest may take messages.
    stream: u64,
    is_overflowing: bool,
}

/// The queue of one lane.
pub(super) struct LaneQueue {
    inner: Mutex<Inner>,
    bytes_max: usize,
}

impl LaneQueue {
    pub(super) fn new(bytes_max: usize) -> Arc<LaneQueue> {
        Arc::new(LaneQueue { inner: Mutex::default(), bytes_max })
    }

    /// Adds a message if it fits. Wakes nobody: call [`LaneQueue::wake`] after the last one.
    pub(super) fn push(&self, message: GroupMessage) -> Pushed {
        let bytes = message.payload.len() + OVERHEAD_BYTES;
        let mut inner = self.inner.lock();
        if message.payload.len() > PAYLOAD_BYTES_MAX || inner.bytes + bytes > self.bytes_max {
            let first = !std::mem::replace(&mut inner.is_overflowing, true);
            return Pushed::Dropped { first };
        }
        inner.bytes += bytes;
        inner.messages.push_back(message);
        Pushed::Queued
    }

    /// Wakes whoever waits for messages.
    pub(super) fn wake(&self) {
        let waker = self.inner.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits until there are messages. Only while no stream is open.
    pub(super) async fn nonempty(&self) {
        std::future::poll_fn(|context| {
            let mut inner = self.inner.lock();
            if inner.messages.is_empty() {
                inner.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Ends the open stream and throws the waiting messages away; tells how many.
    pub(super) fn clear(&self) -> usize {
        let mut inner = self.inner.lock();
        inner.stream += 1;
        inner.bytes = 0;
        inner.is_overflowing = false;
        let dropped = std::mem::take(&mut inner.messages).len();
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
        dropped
    }

    /// Opens the stream of frames that begins with `first`; an earlier one ends.
    pub(super) fn open(
        self: &Arc<LaneQueue>,
        first: Frame,
        clock: Instant,
        metrics: Arc<PeerMetrics>,
    ) -> FrameStream {
        let mut inner = self.inner.lock();
        inner.stream += 1;
        let stream = inner.stream;
        drop(inner);
        let store = first.sender_store.clone();
        let queue = self.clone();
        FrameStream { queue, stream, sequence: 0, first: Some(first), store, clock, metrics }
    }
}

/// Frames made of everything that waits whenever the connection can take one.
pub(super) struct FrameStream {
    queue: Arc<LaneQueue>,
    stream: u64,
    sequence: u64,
    first: Option<Frame>,
    store: Vec<u8>,
    clock: Instant,
    metrics: Arc<PeerMetrics>,
}

impl FrameStream {
    /// Takes what fits a frame; `Err` if another stream has taken over.
    fn take(&self, context: &Context<'_>) -> Result<Option<Vec<GroupMessage>>, ()> {
        let mut inner = self.queue.inner.lock();
        if inner.stream != self.stream {
            return Err(());
        }
        if inner.messages.is_empty() {
            inner.waker = Some(context.waker().clone());
            return Ok(None);
        }
        let mut bytes = 0;
        let mut count = 0;
        for message in inner.messages.iter().take(FRAME_MESSAGES) {
            let more = message.payload.len() + OVERHEAD_BYTES;
            if count > 0 && bytes + more > FRAME_BYTES {
                break;
            }
            bytes += more;
            count += 1;
        }
        inner.bytes -= bytes;
        if inner.bytes <= self.queue.bytes_max / 2 {
            inner.is_overflowing = false;
        }
        if count == inner.messages.len() {
            return Ok(Some(std::mem::take(&mut inner.messages).into()));
        }
        Ok(Some(inner.messages.drain(..count).collect()))
    }

    fn stamp(&mut self, frame: &mut Frame) {
        self.sequence += 1;
        frame.sequence = self.sequence;
        let elapsed = self.clock.elapsed().as_nanos();
        frame.sent_at_ns = u64::try_from(elapsed).unwrap_or(u64::MAX);
        add(&self.metrics.frames_out, 1);
    }
}

impl Stream for FrameStream {
    type Item = Frame;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        let stream = self.get_mut();
        if let Some(mut first) = stream.first.take() {
            stream.stamp(&mut first);
            return Poll::Ready(Some(first));
        }
        let messages = match stream.take(context) {
            Ok(Some(messages)) => messages,
            Ok(None) => return Poll::Pending,
            Err(()) => return Poll::Ready(None),
        };
        let bytes: usize = messages.iter().map(|message| message.payload.len()).sum();
        add(&stream.metrics.messages_out, messages.len() as u64);
        add(&stream.metrics.bytes_out, bytes as u64);
        let mut frame = Frame {
            sender_store: stream.store.clone(),
            messages: messages.into_iter().map(wire_message).collect(),
            ..Frame::default()
        };
        stream.stamp(&mut frame);
        Poll::Ready(Some(frame))
    }
}

fn wire_message(message: GroupMessage) -> internal::GroupMessage {
    internal::GroupMessage {
        group: message.group.0,
        from_incarnation: message.from.0,
        to_incarnation: message.to.0,
        payload: Bytes::from(message.payload),
        log_floor: message.log_floor,
        is_catching_up: message.is_catching_up,
    }
}

/// The first frame of a stream, which tells who sends on which lane.
pub(super) fn first_frame(
    store: StoreId,
    lane: internal::Lane,
    identity: internal::PeerIdentity,
) -> Frame {
    Frame {
        sender_store: store.0.to_vec(),
        lane: lane.into(),
        identity: Some(identity),
        ..Frame::default()
    }
}

#[cfg(test)]
mod tests {
    use ledger_types::{GroupId, Incarnation};

    use super::*;

    fn message(group: u64, bytes: usize) -> GroupMessage {
        let (from, to) = (Incarnation(1), Incarnation(2));
        let (group, payload) = (GroupId(group), vec![7; bytes]);
        GroupMessage { group, from, to, payload, log_floor: 0, is_catching_up: false }
    }

    fn open(queue: &Arc<LaneQueue>) -> FrameStream {
        let identity = internal::PeerIdentity::default();
        let first = first_frame(StoreId([1; 16]), internal::Lane::Data, identity);
        let mut stream = queue.open(first, Instant::now(), Arc::default());
        let frame = poll(&mut stream).expect("the first frame is ready").expect("and there");
        assert_eq!((frame.sequence, frame.messages.len()), (1, 0));
        stream
    }

    fn poll(stream: &mut FrameStream) -> Option<Option<Frame>> {
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(stream).poll_next(&mut context) {
            Poll::Ready(item) => Some(item),
            Poll::Pending => None,
        }
    }

    #[test]
    fn everything_that_waits_leaves_in_one_frame_in_order() {
        let queue = LaneQueue::new(1 << 20);
        let mut stream = open(&queue);
        assert!(poll(&mut stream).is_none());
        for group in 0..100 {
            assert_eq!(queue.push(message(group, 10)), Pushed::Queued);
        }
        let frame = poll(&mut stream).expect("ready").expect("a frame");
        assert_eq!(frame.sequence, 2);
        let groups: Vec<u64> = frame.messages.iter().map(|message| message.group).collect();
        assert_eq!(groups, (0..100).collect::<Vec<_>>());
        assert!(poll(&mut stream).is_none());
    }

    #[test]
    fn frames_are_bounded_and_a_large_message_travels_alone() {
        let queue = LaneQueue::new(64 << 20);
        let mut stream = open(&queue);
        for _ in 0..3 {
            queue.push(message(1, 400 * 1024));
        }
        queue.push(message(2, 3 * 1024 * 1024));
        queue.push(message(3, 1));
        let counts: Vec<usize> =
            std::iter::from_fn(|| poll(&mut stream).flatten().map(|f| f.messages.len())).collect();
        assert_eq!(counts, [2, 1, 1, 1]);
        assert_eq!(queue.inner.lock().bytes, 0);
        for _ in 0..=FRAME_MESSAGES {
            queue.push(message(1, 0));
        }
        let frame = poll(&mut stream).flatten().expect("a frame");
        assert_eq!(frame.messages.len(), FRAME_MESSAGES);
    }

    #[test]
    fn a_full_queue_drops_and_tells_once_until_there_is_room() {
        let queue = LaneQueue::new(1000);
        let mut stream = open(&queue);
        assert_eq!(queue.push(message(1, 900)), Pushed::Queued);
        assert_eq!(queue.push(message(1, 900)), Pushed::Dropped { first: true });
        assert_eq!(queue.push(message(1, 900)), Pushed::Dropped { first: false });
        assert!(poll(&mut stream).flatten().is_some());
        assert_eq!(queue.push(message(1, 900)), Pushed::Queued);
        assert_eq!(queue.push(message(1, 900)), Pushed::Dropped { first: true });
        let oversized = LaneQueue::new(usize::MAX / 2);
        let larger_than_a_frame = message(1, PAYLOAD_BYTES_MAX + 1);
        assert_eq!(oversized.push(larger_than_a_frame), Pushed::Dropped { first: true });
    }

    #[test]
    fn an_earlier_stream_ends_and_takes_nothing() {
        let queue = LaneQueue::new(1000);
        let mut earlier = open(&queue);
        let mut later = open(&queue);
        queue.push(message(1, 1));
        assert_eq!(poll(&mut earlier), Some(None));
        assert!(poll(&mut later).flatten().is_some());
        queue.push(message(1, 1));
        assert_eq!(queue.clear(), 1);
        assert_eq!(poll(&mut later), Some(None));
    }
}
