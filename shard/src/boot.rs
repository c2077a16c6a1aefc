//! From rows on disk to running replicas, and the rows a group begins with.
//!
//! Owns which groups a store has. What must hold of a group's rows is decided in `ledger_shard_core::boot`. Must never
//! repair: rows that do not fit together stop the boot with a typed error.

use ledger_shard_core::boot::{GroupHead, GroupRowsError, first_rows};
use ledger_shard_core::effects::{BootRecord, GroupStatus};
use ledger_shard_core::rows::{
    group_row_key, group_rows_range, raft_entry_index, raft_entry_range, raft_group_range,
    split_group_row_key,
};
use ledger_shard_core::view::{Family, RowWrite, StateView};
use ledger_types::{GroupId, NodeId};
use thiserror::Error;

use crate::snapshots::{SnapshotError, finish_marked};
use crate::store::{Store, StoreError};
use crate::view::{LiveView, last_key, scan};

/// Why a group cannot start or begin.
#[derive(Debug, Error)]
pub enum BootError {
    /// The group's rows do not let it start.
    #[error(transparent)]
    Group(#[from] GroupRowsError),
    /// The group is on disk already.
    #[error("group {group} is on this store already")]
    Exists {
        /// The group.
        group: GroupId,
    },
    /// The group was about to become what a snapshot holds, and that cannot be gone on with.
    #[error("group {group}: its snapshot cannot be installed: {source}")]
    Snapshot {
        /// The group.
        group: GroupId,
        /// Why not.
        source: Box<SnapshotError>,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a store has to start with.
#[derive(Debug, Default)]
pub struct Boot {
    /// Groups that run from the start, by number: the directory's, and those that a snapshot was installed
    /// for just now.
    pub records: Vec<BootRecord>,
    /// Every other group that can start, by number. It is opened when something first names it.
    pub sleeping: Vec<GroupStatus>,
    /// Groups with rows in the log but none of state: left alone and reported, never deleted here.
    pub orphans: Vec<GroupId>,
    /// Groups that this node has left by a committed change of members: left alone and reported.
    pub removed: Vec<GroupId>,
}

/// Reads every group on disk, most of them just far enough to tell their status, after finishing what
/// installations of snapshots were left behind. `node` is who this store's node is.
pub fn load(store: &Store, node: NodeId) -> Result<Boot, BootError> {
    let installed = finish_marked(store)
        .map_err(|(group, source)| BootError::Snapshot { group, source: Box::new(source) })?;
    let groups = groups_with_state(store)?;
    let mut boot = Boot::default();
    for group in groups_with_log(store)? {
        if groups.binary_search(&group).is_err() {
            boot.orphans.push(group);
        }
    }
    for group in groups {
        let head = match read_head(store, node, group) {
            Err(BootError::Group(GroupRowsError::Removed { .. })) => {
                boot.removed.push(group);
                continue;
            }
            head => head?,
        };
        if group == GroupId::SYSTEM || installed.contains(&group) {
            boot.records.push(load_group(store, node, group)?);
        } else {
            let log_bytes = log_bytes(store, group, (head.first_index(), head.last_index()));
            boot.sleeping.push(head.into_status(log_bytes));
        }
    }
    Ok(boot)
}

fn read_head(store: &Store, node: NodeId, group: GroupId) -> Result<GroupHead, BootError> {
    let last_entry = last_entry(store, group)?;
    Ok(GroupHead::read(&LiveView::new(store), (node, group), last_entry)?)
}

/// Bytes that entries `first..=last` take, about.
fn log_bytes(store: &Store, group: GroupId, (first, last): (u64, u64)) -> u64 {
    let (from, to) = raft_entry_range(group, first, last.saturating_add(1));
    store.approximate_bytes(Family::Raft, &from, &to)
}

/// Reads one group.
pub fn load_group(store: &Store, node: NodeId, group: GroupId) -> Result<BootRecord, BootError> {
    let head = read_head(store, node, group)?;
    let log_bytes = log_bytes(store, group, (head.first_index(), head.applied()));
    Ok(head.into_record(&LiveView::new(store), log_bytes)?)
}

/// Writes the rows of a new group, or of a replica that joins one, durably and all at once, together with
/// the rows of its first state (`genesis`: for group 0 the directory's first block).
pub fn create_group(
    store: &Store,
    record: &BootRecord,
    genesis: &[RowWrite],
) -> Result<(), BootError> {
    let group = record.group;
    assert!(record.entries.is_empty() && record.applied == record.last_index, "a new group");
    let row = LiveView::new(store).get(Family::Vaults, &group_row_key(group));
    if row.map_err(GroupRowsError::Read)?.is_some() {
        return Err(BootError::Exists { group });
    }
    let mut rows = first_rows(record);
    rows.extend_from_slice(genesis);
    store.write(&rows)?;
    Ok(store.sync()?)
}

fn last_entry(store: &Store, group: GroupId) -> Result<Option<u64>, BootError> {
    let (from, to) = raft_entry_range(group, 0, u64::MAX);
    let last = last_key(store, Family::Raft, &from..&to)?;
    Ok(last.and_then(|key| raft_entry_index(&key)))
}

fn groups_with_state(store: &Store) -> Result<Vec<GroupId>, BootError> {
    let mut groups = Vec::new();
    let (from, to) = group_rows_range();
    scan(store, None, Family::Vaults, &from..&to, &mut |key, _| {
        groups.extend(split_group_row_key(key));
        true
    })?;
    Ok(groups)
}

/// The groups with any row in the log, found by jumping from group to group.
fn groups_with_log(store: &Store) -> Result<Vec<GroupId>, BootError> {
    let mut groups = Vec::new();
    let mut next = Some(GroupId(0));
    let (_, end) = raft_group_range(GroupId(u64::MAX));
    while let Some(from) = next {
        let mut found = None;
        let (from, _) = raft_group_range(from);
        scan(store, None, Family::Raft, &from..&end, &mut |key, _| {
            let number = key.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
            found = number.map(GroupId);
            false
        })?;
        groups.extend(found);
        next = found.and_then(|group| group.0.checked_add(1)).map(GroupId);
    }
    Ok(groups)
}

#[cfg(test)]
mod tests;
