//! Sends Raft messages: for each node one connection for data and one for control, made when there is
//! something to say and made again when they break.
//!
//! Owns queues, reconnecting and reports of loss. Data that finds its queue full is dropped and the node
//! is reported; control messages have their own queue and connection, so appends never hold back a
//! vote.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ledger_proto::internal::peer_client::PeerClient;
use ledger_proto::internal::{
    self, FrameReply, HelloRequest, Refusal, RefusalReason, hello_response,
};
use ledger_shard::{Lane, OutMessage, Outbox, wall_clock_ns};
use ledger_types::NodeId;
use parking_lot::RwLock;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::Channel;

use super::metrics::add;
use super::queue::{LaneQueue, Pushed, first_frame};
use super::{AddressBook, FrameSink, MESSAGE_BYTES_MAX, PeerMetrics, PeerState};
use crate::context::endpoint;

/// Longest wait for a connection, and for an answer to an introduction.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);

/// Bounds of the transport.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransportLimits {
    /// Bytes that may wait on a data lane.
    pub data_bytes_max: usize,
    /// Bytes that may wait on a control lane.
    pub control_bytes_max: usize,
    /// First pause before a connection is tried again.
    pub backoff_min: Duration,
    /// Longest pause.
    pub backoff_max: Duration,
}

impl Default for TransportLimits {
    fn default() -> TransportLimits {
        TransportLimits {
            data_bytes_max: 32 * 1024 * 1024,
            control_bytes_max: 2 * 1024 * 1024,
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
        }
    }
}

/// Why a stream to a node ended or could not be opened.
#[derive(Debug, Error)]
enum LinkError {
    #[error("the node's address is not known")]
    NoAddress,
    #[error("`{0}` is no address")]
    BadAddress(String),
    #[error("no connection: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("no answer in time")]
    TimedOut,
    #[error("the call failed: {}", .0.message())]
    Call(#[from] Status),
    #[error("refused ({}): {}", reason_name(.0), .0.detail)]
    Refused(Refusal),
    #[error("not trusted ({}): {}", reason_name(.0), .0.detail)]
    Distrusted(Refusal),
    #[error("the address leads to node {0}")]
    OtherNode(NodeId),
    #[error("the node ended the stream")]
    Ended,
}

fn reason_name(refusal: &Refusal) -> &'static str {
    refusal.reason().as_str_name()
}

/// The two lanes to a node.
struct Link {
    data: Arc<LaneQueue>,
    control: Arc<LaneQueue>,
}

impl Link {
    fn lane(&self, lane: Lane) -> &Arc<LaneQueue> {
        match lane {
            Lane::Data => &self.data,
            Lane::Control => &self.control,
        }
    }
}

/// What the tasks of all lanes share.
struct Shared {
    state: Arc<PeerState>,
    book: Arc<dyn AddressBook>,
    sink: OnceLock<Arc<dyn FrameSink>>,
    limits: TransportLimits,
    metrics: Arc<PeerMetrics>,
    clock: Instant,
    stop: watch::Sender<bool>,
}

impl Shared {
    fn report_unreachable(&self, node: NodeId) {
        if let Some(sink) = self.sink.get() {
            sink.unreachable(node);
        }
    }
}

/// Takes Raft messages to other nodes.
pub struct Transport {
    shared: Arc<Shared>,
    links: RwLock<BTreeMap<NodeId, Arc<Link>>>,
    runtime: Handle,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Transport({} nodes)", self.links.read().len())
    }
}

impl Transport {
    /// A transport without connections. Called within a runtime, which will run its tasks.
    pub fn new(
        state: &Arc<PeerState>,
        book: Arc<dyn AddressBook>,
        limits: TransportLimits,
    ) -> Arc<Transport> {
        let shared = Arc::new(Shared {
            state: state.clone(),
            book,
            sink: OnceLock::new(),
            limits,
            metrics: state.metrics().clone(),
            clock: Instant::now(),
            stop: watch::channel(false).0,
        });
        let runtime = Handle::current();
        Arc::new(Transport { shared, links: RwLock::default(), runtime })
    }

    /// Names who hears of lost nodes. Called once, when the driver runs.
    pub fn attach(&self, sink: Arc<dyn FrameSink>) {
        assert!(self.shared.sink.set(sink).is_ok(), "a transport has one driver");
    }

    /// Ends all connections. Messages sent afterwards are lost.
    pub fn close(&self) {
        self.shared.stop.send_replace(true);
    }

    fn link(&self, node: NodeId) -> Arc<Link> {
        if let Some(link) = self.links.read().get(&node) {
            return link.clone();
        }
        let mut links = self.links.write();
        let make = || {
            let limits = self.shared.limits;
            let link = Link {
                data: LaneQueue::new(limits.data_bytes_max),
                control: LaneQueue::new(limits.control_bytes_max),
            };
            for lane in [Lane::Data, Lane::Control] {
                let queue = link.lane(lane).clone();
                let task = LaneTask { shared: self.shared.clone(), node, lane, queue };
                self.runtime.spawn(task.run());
            }
            Arc::new(link)
        };
        links.entry(node).or_insert_with(make).clone()
    }

    /// Counts a dropped message; true if the node is to be reported.
    fn dropped(&self, lane: Lane, first: bool) -> bool {
        match lane {
            Lane::Data => add(&self.shared.metrics.dropped_data, 1),
            Lane::Control => add(&self.shared.metrics.dropped_control, 1),
        }
        first && lane == Lane::Data
    }
}

impl Outbox for Transport {
    fn send(&self, messages: Vec<OutMessage>) {
        let mut touched: Vec<(NodeId, Lane, Arc<LaneQueue>)> = Vec::new();
        let mut lost: Vec<NodeId> = Vec::new();
        for OutMessage { node, lane, message } in messages {
            let known = touched.iter().position(|one| (one.0, one.1) == (node, lane));
            let place = known.unwrap_or_else(|| {
                touched.push((node, lane, self.link(node).lane(lane).clone()));
                touched.len() - 1
            });
            match touched[place].2.push(message) {
                Pushed::Queued => {}
                Pushed::Dropped { first } => {
                    if self.dropped(lane, first) && !lost.contains(&node) {
                        lost.push(node);
                    }
                }
            }
        }
        for (_, _, queue) in touched {
            queue.wake();
        }
        for node in lost {
            tracing::warn!(%node, "data for the node fills its queue; dropping until there is room");
            self.shared.report_unreachable(node);
        }
    }
}

/// Keeps one lane to one node connected.
struct LaneTask {
    shared: Arc<Shared>,
    node: NodeId,
    lane: Lane,
    queue: Arc<LaneQueue>,
}

impl LaneTask {
    async fn run(self) {
        let mut stop = self.shared.stop.subscribe();
        tokio::select! {
            () = self.keep_connected() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        self.queue.clear();
    }

    async fn keep_connected(&self) {
        let mut failures = 0;
        let mut is_reported = false;
        let mut arrivals = self.shared.state.arrivals(self.node);
        loop {
            self.queue.nonempty().await;
            let (replies, was_up) = match self.connect().await {
                Ok(replies) => (Ok(replies), true),
                Err(error) => (Err(error), false),
            };
            let error = match replies {
                Ok(replies) => {
                    tracing::debug!(node = %self.node, lane = ?self.lane, "connected");
                    add(&self.shared.metrics.connects, 1);
                    (failures, is_reported) = (0, false);
                    self.listen(replies).await
                }
                Err(error) => error,
            };
            self.lose(&error, was_up, is_reported);
            is_reported = true;
            if let LinkError::Refused(refusal) = &error {
                self.shared.state.turned_away(refusal);
            }
            tokio::select! {
                () = tokio::time::sleep(self.pause(failures)) => failures += 1,
                // A node that has just reached this one need not be waited for.
                _ = arrivals.changed() => failures = 0,
            }
        }
    }

    /// Introduces this node and opens a stream that drains the queue.
    async fn connect(&self) -> Result<tonic::Streaming<FrameReply>, LinkError> {
        let address = self.shared.book.address(self.node).ok_or(LinkError::NoAddress)?;
        let endpoint = endpoint(&address).ok_or(LinkError::BadAddress(address))?;
        let connected = timeout(HELLO_TIMEOUT, endpoint.connect()).await;
        let channel = connected.map_err(|_| LinkError::TimedOut)??;
        let mut client = PeerClient::new(channel).max_encoding_message_size(MESSAGE_BYTES_MAX);
        timeout(HELLO_TIMEOUT, self.hello(&mut client))
            .await
            .map_err(|_| LinkError::TimedOut)??;
        let state = &self.shared.state;
        let first = first_frame(state.local().store, self.wire_lane(), state.identity());
        let frames = self.queue.open(first, self.shared.clock, self.shared.metrics.clone());
        let opened = timeout(HELLO_TIMEOUT, client.exchange(frames)).await;
        Ok(opened.map_err(|_| LinkError::TimedOut)??.into_inner())
    }

    async fn hello(&self, client: &mut PeerClient<Channel>) -> Result<(), LinkError> {
        let state = &self.shared.state;
        let identity = Some(state.identity());
        let request = HelloRequest { identity, lane: self.wire_lane().into() };
        let answer = client.hello(request).await?.into_inner().answer;
        let identity = match answer {
            Some(hello_response::Answer::Identity(identity)) => identity,
            Some(hello_response::Answer::Refusal(refusal)) => {
                return Err(LinkError::Refused(refusal));
            }
            None => {
                let reason = RefusalReason::Malformed;
                return Err(LinkError::Distrusted(state.refusal(reason, "an empty answer")));
            }
        };
        let checked = state.check_peer(Some(&identity), &*self.shared.book);
        let (node, _) = checked.map_err(LinkError::Distrusted)?;
        if node == self.node { Ok(()) } else { Err(LinkError::OtherNode(node)) }
    }

    /// Reads acknowledgements until the stream ends.
    async fn listen(&self, mut replies: tonic::Streaming<FrameReply>) -> LinkError {
        loop {
            match replies.message().await {
                Ok(Some(FrameReply { refusal: Some(refusal), .. })) => {
                    return LinkError::Refused(refusal);
                }
                Ok(Some(reply)) => {
                    let now = u64::try_from(self.shared.clock.elapsed().as_nanos());
                    let round_trip = now.unwrap_or(u64::MAX).saturating_sub(reply.sent_at_ns);
                    let gauge = &self.shared.metrics.round_trip_ns;
                    gauge.store(round_trip, std::sync::atomic::Ordering::Relaxed);
                    let walls = (reply.wall_ns, wall_clock_ns());
                    self.shared.state.clocks().note(self.node, walls, round_trip, Instant::now());
                }
                Ok(None) => return LinkError::Ended,
                Err(status) => return LinkError::Call(status),
            }
        }
    }

    /// Throws away what waits, and tells of the node once per time without a connection.
    fn lose(&self, error: &LinkError, was_up: bool, is_reported: bool) {
        let dropped = self.queue.clear();
        let metrics = &self.shared.metrics;
        add(&metrics.dropped_unsent, dropped as u64);
        if was_up {
            add(&metrics.disconnects, 1);
        }
        if is_reported {
            tracing::debug!(node = %self.node, lane = ?self.lane, %error, "still not connected");
            return;
        }
        tracing::warn!(node = %self.node, lane = ?self.lane, %error, "the node cannot be reached");
        self.shared.report_unreachable(self.node);
    }

    /// Exponential in the failures so far, with up to half of it taken off at random.
    fn pause(&self, failures: u32) -> Duration {
        let limits = &self.shared.limits;
        let doubled = limits.backoff_min.saturating_mul(1 << failures.min(16));
        doubled.min(limits.backoff_max).mul_f64(rand::random_range(0.5..=1.0))
    }

    fn wire_lane(&self) -> internal::Lane {
        match self.lane {
            Lane::Data => internal::Lane::Data,
            Lane::Control => internal::Lane::Control,
        }
    }
}
