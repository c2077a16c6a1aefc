//! The stream to one node: what waits for it, what is under way on it, and what is left when it ends.
//!
//! Owns the numbers under which answers are told apart. A write that was never handed to the transport cannot
//! have happened; one that was and has no answer may have. Must never decide what is sent again.

use std::collections::{HashMap, VecDeque};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ledger_proto::v1;
use ledger_proto::v1::write_stream_response::Result as Answer;
use ledger_types::GroupId;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_stream::Stream;
use tonic::Status;

use super::{Entry, Shared};
use crate::attempt::Failure;
use crate::call::open_both;
use crate::method::{self, Messages};
use crate::nodes::Node;

/// How often a link looks for attempts whose time is up, and whether it is still needed.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A stream that carried nothing for this long is ended; the next write opens another.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// A request of the stream whose write is encoded already. The wire cannot tell it from [`v1::WriteStreamRequest`].
#[derive(Clone, PartialEq, prost::Message)]
struct EncodedWrite {
    #[prost(uint64, tag = "1")]
    correlation_id: u64,
    #[prost(uint64, tag = "2")]
    timeout_ms: u64,
    #[prost(bytes = "bytes", tag = "3")]
    write: Bytes,
}

/// The way to one node.
#[derive(Debug)]
pub(super) struct Link {
    state: Mutex<State>,
    /// Something waits while no stream is open, or nobody will submit any more.
    woken: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Entry>,
    under_way: HashMap<u64, Entry>,
    next_id: u64,
    /// Counts streams, so that what is left of an earlier one takes nothing of the next.
    stream: u64,
    /// Whom to wake when something waits: the transport of the open stream.
    sender: Option<Waker>,
    /// Nothing more is sent on the open stream.
    is_ending: bool,
    /// Nobody will submit any more.
    is_closed: bool,
    /// The task has ended; another link must be made.
    is_over: bool,
}

impl Link {
    /// A link to the node, with the task that serves it and the first write that takes it.
    pub(super) fn start(
        shared: Arc<Shared>,
        node: Arc<Node>,
        first: Entry,
        is_closed: bool,
    ) -> Arc<Link> {
        let waiting = VecDeque::from([first]);
        let state = State { waiting, is_closed, ..State::default() };
        let link = Arc::new(Link { state: Mutex::new(state), woken: Notify::new() });
        tokio::spawn(serve(link.clone(), shared, node));
        link
    }

    /// Puts a write into the queue. It comes back if the link has ended.
    pub(super) fn push(&self, entry: Entry) -> Result<(), Entry> {
        let mut state = self.state.lock();
        if state.is_over {
            return Err(entry);
        }
        state.waiting.push_back(entry);
        let sender = state.sender.take();
        drop(state);
        match sender {
            Some(sender) => sender.wake(),
            None => self.woken.notify_one(),
        }
        Ok(())
    }

    /// Ends the link once nothing is under way on it.
    pub(super) fn close(&self) {
        self.state.lock().is_closed = true;
        self.woken.notify_one();
    }

    /// Waits until something is to be sent. False if the link has ended instead.
    async fn has_work(&self) -> bool {
        loop {
            {
                let mut state = self.state.lock();
                if !state.waiting.is_empty() {
                    return true;
                }
                if state.is_closed {
                    state.is_over = true;
                    return false;
                }
            }
            self.woken.notified().await;
        }
    }

    /// Ends the open stream: what is under way is still answered, what waits takes the next one.
    fn end_stream(&self) {
        let mut state = self.state.lock();
        state.is_ending = true;
        let sender = state.sender.take();
        drop(state);
        if let Some(sender) = sender {
            sender.wake();
        }
    }

    /// Writes whose attempt is over by now: those that were sent, then those that were not.
    fn take_late(&self, now: Instant) -> (Vec<Entry>, Vec<Entry>) {
        let mut state = self.state.lock();
        let sent = state.under_way.extract_if(|_, entry| entry.until <= now);
        let sent = sent.map(|(_, entry)| entry).collect();
        let (late, waiting) =
            std::mem::take(&mut state.waiting).into_iter().partition(|entry| entry.until <= now);
        state.waiting = waiting;
        (sent, Vec::from(late))
    }

    /// Everything that was sent on a stream that has ended, and everything that waited for it.
    fn take_all(&self) -> (Vec<Entry>, Vec<Entry>) {
        let mut state = self.state.lock();
        (state.is_ending, state.sender) = (false, None);
        state.stream += 1;
        let sent = state.under_way.drain().map(|(_, entry)| entry).collect();
        (sent, state.waiting.drain(..).collect())
    }

    fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.waiting.is_empty() && state.under_way.is_empty()
    }

    fn is_closed(&self) -> bool {
        self.state.lock().is_closed
    }
}

/// The requests of one stream, as the transport takes them.
struct Requests {
    link: Arc<Link>,
    stream: u64,
}

impl Stream for Requests {
    type Item = EncodedWrite;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<EncodedWrite>> {
        let mut state = self.link.state.lock();
        if state.is_ending || state.stream != self.stream {
            return Poll::Ready(None);
        }
        let Some(entry) = state.waiting.pop_front() else {
            state.sender = Some(context.waker().clone());
            return Poll::Pending;
        };
        let left = entry.until.saturating_duration_since(Instant::now());
        let timeout_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
        let correlation_id = state.next_id;
        state.next_id += 1;
        let write = entry.body.clone();
        state.under_way.insert(correlation_id, entry);
        Poll::Ready(Some(EncodedWrite { correlation_id, timeout_ms, write }))
    }
}

/// Opens a stream whenever something waits, and serves it until it ends.
async fn serve(link: Arc<Link>, shared: Arc<Shared>, node: Arc<Node>) {
    while link.has_work().await {
        let ended = one_stream(&link, &shared, &node).await;
        let (sent, waiting) = link.take_all();
        match ended {
            Ok(()) => {
                for entry in sent {
                    let failure = Failure::Broken("the stream ended without an answer".to_owned());
                    shared.failed(entry, &node, failure);
                }
                for entry in waiting {
                    shared.dispatch(entry);
                }
            }
            Err(status) => {
                for entry in sent {
                    shared.failed(entry, &node, Failure::from_status(&status));
                }
                for entry in waiting {
                    let failure = Failure::from_status(&status).before_sending();
                    shared.failed(entry, &node, failure);
                }
            }
        }
    }
}

/// One stream from its opening to its end.
async fn one_stream(
    link: &Arc<Link>,
    shared: &Arc<Shared>,
    node: &Arc<Node>,
) -> Result<(), Status> {
    let requests = Requests { link: link.clone(), stream: link.state.lock().stream };
    let opening = open_both(node.channel(), method::WRITE_STREAM, requests, Messages::new());
    let mut opening = pin!(opening);
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut answers = loop {
        tokio::select! {
            opened = &mut opening => break opened?.into_inner(),
            _ = look.tick() => {
                give_up_late(link, shared, node);
                // Nobody waits for it any more.
                if link.is_idle() {
                    return Ok(());
                }
            }
        }
    };
    shared.client.inner.nodes.answered(node);
    let mut last_used = Instant::now();
    loop {
        tokio::select! {
            message = answers.message() => match message? {
                Some(message) => take_answer(message, link, shared, node),
                None => return Ok(()),
            },
            _ = look.tick() => {
                give_up_late(link, shared, node);
                if !link.is_idle() {
                    last_used = Instant::now();
                } else if link.is_closed() || last_used.elapsed() >= IDLE_MAX {
                    link.end_stream();
                }
            }
        }
    }
}

/// Takes one answer.
fn take_answer(
    message: v1::WriteStreamResponse,
    link: &Link,
    shared: &Arc<Shared>,
    node: &Arc<Node>,
) {
    let entry = link.state.lock().under_way.remove(&message.correlation_id);
    // An attempt that was given up may be answered still.
    let Some(entry) = entry else { return };
    if message.leader_address.is_some() || message.group.is_some() {
        let group = message.group.map(GroupId);
        let route = entry.progress.kind().route;
        shared.client.inner.leaders.learn(route, group, message.leader_address.as_deref());
    }
    match message.result {
        Some(Answer::Answer(answer)) => entry.answered(answer),
        Some(Answer::Refusal(refusal)) => {
            shared.failed(entry, node, Failure::from_refusal(refusal));
        }
        None => shared.failed(entry, node, Failure::Broken("an empty answer came".to_owned())),
    }
}

/// Gives up the attempts whose time is up.
fn give_up_late(link: &Link, shared: &Arc<Shared>, node: &Arc<Node>) {
    let (sent, waiting) = link.take_late(Instant::now());
    for entry in sent {
        shared.failed(entry, node, Failure::TimedOut);
    }
    for entry in waiting {
        shared.failed(entry, node, Failure::TimedOut.before_sending());
    }
}
