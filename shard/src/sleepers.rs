//! The groups that are on disk and that nothing has named since the start.
//!
//! Owns who sleeps and how one is read when it is needed. Must never cost more than one look into a set for
//! a group that is awake.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use ledger_shard_core::effects::{BootRecord, Input};
use ledger_types::{GroupId, NodeId};
use tracing::debug;

use crate::Fatal;
use crate::boot::load_group;
use crate::metrics::{Metrics, add};
use crate::store::Store;

/// The groups that sleep.
pub(crate) struct Sleepers {
    groups: HashSet<GroupId>,
    store: Arc<Store>,
    node: NodeId,
    metrics: Arc<Metrics>,
    fatal: Fatal,
}

impl Sleepers {
    pub(crate) fn new(
        groups: impl Iterator<Item = GroupId>,
        (store, node): (Arc<Store>, NodeId),
        metrics: Arc<Metrics>,
        fatal: Fatal,
    ) -> Sleepers {
        Sleepers { groups: groups.collect(), store, node, metrics, fatal }
    }

    /// Reads a group that sleeps; `None` if it is awake or not here. A group whose rows do not fit together
    /// ends the process: the node has promised to be its replica.
    pub(crate) fn wake(&mut self, group: GroupId) -> Option<BootRecord> {
        if !self.groups.remove(&group) {
            return None;
        }
        let begin = Instant::now();
        let record = match load_group(&self.store, self.node, group) {
            Ok(record) => record,
            Err(error) => self.fatal.end(&format!("a group cannot be opened: {error}")),
        };
        add(&self.metrics.groups_opened, 1);
        let us = begin.elapsed().as_micros();
        debug!(group = group.0, applied = record.applied, us, "group opened");
        Some(record)
    }
}

/// The group that an input is about, if it is about one.
pub(crate) fn group_of(input: &Input) -> Option<GroupId> {
    match input {
        Input::Start(record) => Some(record.group),
        Input::Message { message, .. } => Some(message.group),
        &Input::Propose { group, .. }
        | &Input::Read { group, .. }
        | &Input::Persisted { group, .. }
        | &Input::Applied { group, .. }
        | &Input::Fetched { group, .. }
        | &Input::TransferLeader { group, .. }
        | &Input::Campaign { group }
        | &Input::ChangeMembers { group, .. }
        | &Input::SnapshotCut { group, .. }
        | &Input::SnapshotProgress { group, .. }
        | &Input::SnapshotFetched { group, .. } => Some(group),
        Input::Unreachable(_) | Input::Unfit(_) | Input::Tick => None,
    }
}
