//! The state of every group on this node, readable from any thread.
//!
//! Owns the table and its gauges. Written by the driver alone; must never block it for long: readers
//! hold the table's lock only to copy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ledger_shard_core::effects::{BootRecord, Committed, GroupStatus, Role, SnapshotPhase};
use ledger_types::{GroupId, NodeId};
use parking_lot::RwLock;

/// Indexes that move with every entry; kept out of the table's lock.
#[derive(Debug, Default)]
struct Gauges {
    commit: AtomicU64,
    applied: AtomicU64,
}

#[derive(Debug)]
struct Line {
    status: GroupStatus,
    gauges: Arc<Gauges>,
}

impl Line {
    fn current(&self) -> GroupStatus {
        let mut status = self.status.clone();
        status.commit = status.commit.max(self.gauges.commit.load(Ordering::Relaxed));
        status.applied = status.applied.max(self.gauges.applied.load(Ordering::Relaxed));
        status.last_index = status.last_index.max(status.commit);
        status
    }
}

/// The table that handles read.
#[derive(Debug, Default)]
pub(crate) struct StatusTable {
    lines: RwLock<BTreeMap<GroupId, Line>>,
}

impl StatusTable {
    pub(crate) fn get(&self, group: GroupId) -> Option<GroupStatus> {
        self.lines.read().get(&group).map(Line::current)
    }

    pub(crate) fn all(&self) -> Vec<GroupStatus> {
        self.lines.read().values().map(Line::current).collect()
    }

    pub(crate) fn leader(&self, group: GroupId) -> Option<(Role, u64, Option<NodeId>)> {
        let lines = self.lines.read();
        lines.get(&group).map(|line| (line.status.role, line.status.term, line.status.leader))
    }

    /// Term and leader of every group that is awake.
    pub(crate) fn leaders(&self) -> Vec<(GroupId, u64, Option<NodeId>)> {
        let lines = self.lines.read();
        let awake = lines.values().filter(|line| !line.status.is_asleep);
        awake.map(|line| (line.status.group, line.status.term, line.status.leader)).collect()
    }

    /// As [`GroupStatus::is_readable`], without a copy of the line.
    pub(crate) fn is_readable(&self, group: GroupId) -> bool {
        let lines = self.lines.read();
        lines.get(&group).is_some_and(|line| {
            let applied = line.gauges.applied.load(Ordering::Relaxed).max(line.status.applied);
            applied > 0 && line.status.snapshot != SnapshotPhase::Installing
        })
    }
}

/// The driver's side of the table.
#[derive(Debug)]
pub(crate) struct StatusWriter {
    table: Arc<StatusTable>,
    gauges: BTreeMap<GroupId, Arc<Gauges>>,
}

impl StatusWriter {
    pub(crate) fn new(table: Arc<StatusTable>) -> StatusWriter {
        StatusWriter { table, gauges: BTreeMap::new() }
    }

    /// A replica starts: it is known before anything happens to it. One that runs already stays as it is.
    pub(crate) fn started(&mut self, boot: &BootRecord) {
        if !self.gauges.contains_key(&boot.group) {
            self.opened(boot);
        }
    }

    /// A replica that slept starts.
    pub(crate) fn opened(&mut self, boot: &BootRecord) {
        self.changed(&[GroupStatus {
            group: boot.group,
            incarnation: boot.incarnation,
            role: Role::Follower,
            term: boot.hard_state.term,
            leader: None,
            commit: boot.hard_state.commit,
            applied: boot.applied,
            last_index: boot.last_index,
            replicas: boot.replicas.clone(),
            voters: boot.conf_state.voters.clone(),
            lag_max: 0,
            conf_state: boot.conf_state.clone(),
            members: Vec::new(),
            first_index: boot.truncated.0 + 1,
            log_bytes: boot.log_bytes,
            oldest_entry_ns: 0,
            snapshot: SnapshotPhase::None,
            is_asleep: false,
            is_conf_settled: false,
        }]);
    }

    /// Replaces the lines of these groups.
    pub(crate) fn changed(&mut self, statuses: &[GroupStatus]) {
        if statuses.is_empty() {
            return;
        }
        let mut lines = self.table.lines.write();
        for status in statuses {
            let gauges = self.gauges.entry(status.group).or_default().clone();
            lines.insert(status.group, Line { status: status.clone(), gauges });
        }
    }

    pub(crate) fn committed(&self, committed: &[Committed]) {
        for one in committed {
            let Some(last) = one.entries.last() else { continue };
            if let Some(gauges) = self.gauges.get(&one.group) {
                gauges.commit.fetch_max(last.index, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn applied(&self, group: GroupId, index: u64) {
        if let Some(gauges) = self.gauges.get(&group) {
            gauges.applied.fetch_max(index, Ordering::Relaxed);
        }
    }
}
