//! What the transport counts about itself.
//!
//! Owns plain counters and their snapshot. Must never know how they are shown.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of both directions over all peers. Read through [`PeerMetrics::snapshot`].
#[derive(Debug, Default)]
pub struct PeerMetrics {
    pub(super) frames_out: AtomicU64,
    pub(super) messages_out: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) frames_in: AtomicU64,
    pub(super) messages_in: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) dropped_data: AtomicU64,
    pub(super) dropped_control: AtomicU64,
    pub(super) dropped_unsent: AtomicU64,
    pub(super) connects: AtomicU64,
    pub(super) disconnects: AtomicU64,
    pub(super) refusals: AtomicU64,
    pub(super) round_trip_ns: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PeerMetricsSnapshot {
    /// Frames sent.
    pub frames_out: u64,
    /// Raft messages sent.
    pub messages_out: u64,
    /// Bytes of their payloads.
    pub bytes_out: u64,
    /// Frames received.
    pub frames_in: u64,
    /// Raft messages received.
    pub messages_in: u64,
    /// Bytes of their payloads.
    pub bytes_in: u64,
    /// Messages dropped because a data queue was full, or because no frame could hold them.
    pub dropped_data: u64,
    /// Messages dropped because a control queue was full.
    pub dropped_control: u64,
    /// Queued messages thrown away because the connection broke or could not be made.
    pub dropped_unsent: u64,
    /// Streams opened to other nodes.
    pub connects: u64,
    /// Streams lost.
    pub disconnects: u64,
    /// Nodes turned away, and times that this node was.
    pub refusals: u64,
    /// The latest measured time between a frame's leaving and its acknowledgement, in nanoseconds.
    pub round_trip_ns: u64,
}

impl PeerMetrics {
    /// The counters now.
    pub fn snapshot(&self) -> PeerMetricsSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PeerMetricsSnapshot {
            frames_out: read(&self.frames_out),
            messages_out: read(&self.messages_out),
            bytes_out: read(&self.bytes_out),
            frames_in: read(&self.frames_in),
            messages_in: read(&self.messages_in),
            bytes_in: read(&self.bytes_in),
            dropped_data: read(&self.dropped_data),
            dropped_control: read(&self.dropped_control),
            dropped_unsent: read(&self.dropped_unsent),
            connects: read(&self.connects),
            disconnects: read(&self.disconnects),
            refusals: read(&self.refusals),
            round_trip_ns: read(&self.round_trip_ns),
        }
    }
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}
