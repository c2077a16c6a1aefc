//! What the shard counts about itself.
//!
//! Owns plain counters and their snapshot. Must never know how they are shown.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets of [`MetricsSnapshot::groups_per_sync`].
pub const SYNC_BUCKETS: usize = 12;

/// Counters that the driver's threads add to. Read through [`Metrics::snapshot`].
#[derive(Debug, Default)]
pub struct Metrics {
    pub(crate) turns: AtomicU64,
    pub(crate) inputs: AtomicU64,
    pub(crate) log_rounds: AtomicU64,
    pub(crate) log_bytes: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) sync_ns: AtomicU64,
    pub(crate) sync_ns_max: AtomicU64,
    pub(crate) groups_per_sync: [AtomicU64; SYNC_BUCKETS],
    pub(crate) entries_persisted: AtomicU64,
    pub(crate) fetches: AtomicU64,
    pub(crate) apply_rounds: AtomicU64,
    pub(crate) apply_bytes: AtomicU64,
    pub(crate) apply_ns: AtomicU64,
    pub(crate) entries_applied: AtomicU64,
    pub(crate) apply_backlog_bytes: AtomicU64,
    pub(crate) blocks: AtomicU64,
    pub(crate) proposals: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) refused_busy: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) messages_in: AtomicU64,
    pub(crate) messages_out: AtomicU64,
    pub(crate) messages_dropped: AtomicU64,
    pub(crate) snapshots_cut: AtomicU64,
    pub(crate) snapshots_cut_failed: AtomicU64,
    pub(crate) snapshot_bytes_out: AtomicU64,
    pub(crate) snapshots_installed: AtomicU64,
    pub(crate) snapshot_bytes_in: AtomicU64,
    pub(crate) snapshots_refused: AtomicU64,
    pub(crate) snapshot_install_ns: AtomicU64,
    pub(crate) log_truncations: AtomicU64,
    pub(crate) log_entries_truncated: AtomicU64,
    pub(crate) groups_opened: AtomicU64,
    pub(crate) last_turn_ms: AtomicU64,
}

/// The counters at one moment. All but the last two only grow.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MetricsSnapshot {
    /// Turns of the core.
    pub turns: u64,
    /// Inputs handed to turns.
    pub inputs: u64,
    /// Batches written to the log.
    pub log_rounds: u64,
    /// Bytes of those batches.
    pub log_bytes: u64,
    /// Syncs of the log.
    pub syncs: u64,
    /// Nanoseconds spent in syncs.
    pub sync_ns: u64,
    /// The longest sync in nanoseconds.
    pub sync_ns_max: u64,
    /// Syncs by how many groups waited for them: bucket `i` counts those with `2^i` up to `2^(i+1)-1`
    /// groups, the last one also those with more.
    pub groups_per_sync: [u64; SYNC_BUCKETS],
    /// Log entries written.
    pub entries_persisted: u64,
    /// Reads of old log entries from disk.
    pub fetches: u64,
    /// Rounds of the apply stage.
    pub apply_rounds: u64,
    /// Bytes of rows that they wrote.
    pub apply_bytes: u64,
    /// Nanoseconds spent in them.
    pub apply_ns: u64,
    /// Log entries applied.
    pub entries_applied: u64,
    /// Blocks made.
    pub blocks: u64,
    /// Proposals taken in.
    pub proposals: u64,
    /// Linearizable reads taken in.
    pub reads: u64,
    /// Requests refused at the door for the bytes in flight.
    pub refused_busy: u64,
    /// Requests that the core refused.
    pub refused: u64,
    /// Raft messages taken in.
    pub messages_in: u64,
    /// Raft messages handed out.
    pub messages_out: u64,
    /// Raft messages dropped at the door for the bytes queued.
    pub messages_dropped: u64,
    /// Snapshots cut for other replicas.
    pub snapshots_cut: u64,
    /// Snapshots that could not be cut.
    pub snapshots_cut_failed: u64,
    /// Bytes of snapshots read for other nodes.
    pub snapshot_bytes_out: u64,
    /// Snapshots that became a group's state.
    pub snapshots_installed: u64,
    /// Bytes of snapshots received.
    pub snapshot_bytes_in: u64,
    /// Received snapshots that were refused when they were checked.
    pub snapshots_refused: u64,
    /// Nanoseconds spent in installing snapshots.
    pub snapshot_install_ns: u64,
    /// Beginnings of logs forgotten.
    pub log_truncations: u64,
    /// Log entries forgotten by that.
    pub log_entries_truncated: u64,
    /// Groups opened because something named them.
    pub groups_opened: u64,
    /// Bytes of committed entries that wait to be applied.
    pub apply_backlog_bytes: u64,
    /// Monotonic milliseconds of the last turn: a driver that stands still shows here.
    pub last_turn_ms: u64,
}

impl Metrics {
    /// The counters now. They are read one by one; sums across them may be off by what just happened.
    pub fn snapshot(&self) -> MetricsSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MetricsSnapshot {
            turns: read(&self.turns),
            inputs: read(&self.inputs),
            log_rounds: read(&self.log_rounds),
            log_bytes: read(&self.log_bytes),
            syncs: read(&self.syncs),
            sync_ns: read(&self.sync_ns),
            sync_ns_max: read(&self.sync_ns_max),
            groups_per_sync: std::array::from_fn(|bucket| read(&self.groups_per_sync[bucket])),
            entries_persisted: read(&self.entries_persisted),
            fetches: read(&self.fetches),
            apply_rounds: read(&self.apply_rounds),
            apply_bytes: read(&self.apply_bytes),
            apply_ns: read(&self.apply_ns),
            entries_applied: read(&self.entries_applied),
            blocks: read(&self.blocks),
            proposals: read(&self.proposals),
            reads: read(&self.reads),
            refused_busy: read(&self.refused_busy),
            refused: read(&self.refused),
            messages_in: read(&self.messages_in),
            messages_out: read(&self.messages_out),
            messages_dropped: read(&self.messages_dropped),
            snapshots_cut: read(&self.snapshots_cut),
            snapshots_cut_failed: read(&self.snapshots_cut_failed),
            snapshot_bytes_out: read(&self.snapshot_bytes_out),
            snapshots_installed: read(&self.snapshots_installed),
            snapshot_bytes_in: read(&self.snapshot_bytes_in),
            snapshots_refused: read(&self.snapshots_refused),
            snapshot_install_ns: read(&self.snapshot_install_ns),
            log_truncations: read(&self.log_truncations),
            log_entries_truncated: read(&self.log_entries_truncated),
            groups_opened: read(&self.groups_opened),
            apply_backlog_bytes: read(&self.apply_backlog_bytes),
            last_turn_ms: read(&self.last_turn_ms),
        }
    }

    pub(crate) fn synced(&self, groups: usize, ns: u64) {
        add(&self.syncs, 1);
        add(&self.sync_ns, ns);
        self.sync_ns_max.fetch_max(ns, Ordering::Relaxed);
        add(&self.groups_per_sync[sync_bucket(groups)], 1);
    }
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

fn sync_bucket(groups: usize) -> usize {
    (groups.max(1).ilog2() as usize).min(SYNC_BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_are_counted_by_groups() {
        assert_eq!([0, 1, 2, 3, 4, 7, 8].map(sync_bucket), [0, 0, 1, 1, 2, 2, 3]);
        assert_eq!(sync_bucket(1 << 20), SYNC_BUCKETS - 1);
        let metrics = Metrics::default();
        metrics.synced(5, 100);
        metrics.synced(4, 50);
        let snapshot = metrics.snapshot();
        assert_eq!((snapshot.syncs, snapshot.sync_ns, snapshot.sync_ns_max), (2, 150, 100));
        assert_eq!(snapshot.groups_per_sync[2], 2);
    }
}
