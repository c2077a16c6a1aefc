//! Groups on a simulated disk: found, and read by the shipped code that a node boots with.

use ledger_proof::ReadFault;
use ledger_proof::encoding::DecodeError;
use ledger_shard_core::boot::{GroupHead, GroupRowsError};
use ledger_shard_core::effects::BootRecord;
use ledger_shard_core::rows::{
    GroupRow, group_row_key, group_rows_range, raft_entry_index, raft_entry_range,
    split_group_row_key,
};
use ledger_shard_core::view::{Family, RowWrite, StateView};
use ledger_types::{GroupId, NodeId};
use thiserror::Error;

use crate::disk::Disk;

/// Why a group's own row cannot be shown.
#[derive(Debug, Error)]
pub(crate) enum GroupRowError {
    /// The row is damaged.
    #[error(transparent)]
    Read(#[from] ReadFault),
    /// The row is not in its format.
    #[error(transparent)]
    Row(#[from] DecodeError),
    /// There is none.
    #[error("group {0} has no row")]
    Missing(GroupId),
}

/// A row to put.
pub(crate) fn put(family: Family, key: Vec<u8>, value: Vec<u8>) -> RowWrite {
    RowWrite { family, key, value: Some(value) }
}

/// Every group that has a row of state.
pub(crate) fn groups(disk: &Disk) -> Vec<GroupId> {
    let (from, to) = group_rows_range();
    disk.range(Family::Vaults, &from, &to).filter_map(|(key, _)| split_group_row_key(key)).collect()
}

/// The row of a group.
pub(crate) fn group_row(disk: &Disk, group: GroupId) -> Result<GroupRow, GroupRowError> {
    let row = disk.get(Family::Vaults, &group_row_key(group))?;
    Ok(GroupRow::decode(&row.ok_or(GroupRowError::Missing(group))?)?)
}

/// Reads one group.
pub(crate) fn load_group(
    disk: &Disk,
    node: NodeId,
    group: GroupId,
) -> Result<BootRecord, GroupRowsError> {
    let (from, to) = raft_entry_range(group, 0, u64::MAX);
    let last_entry = disk.range(Family::Raft, &from, &to).next_back();
    let last_entry = last_entry.and_then(|(key, _)| raft_entry_index(key));
    let head = GroupHead::read(disk, (node, group), last_entry)?;
    let (from, to) = raft_entry_range(group, head.first_index(), head.applied() + 1);
    let applied = disk.range(Family::Raft, &from, &to);
    let log_bytes = applied.map(|(key, value)| (key.len() + value.len()) as u64).sum();
    head.into_record(disk, log_bytes)
}
