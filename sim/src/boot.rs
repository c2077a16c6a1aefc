//! From the rows of a disk to the records that replicas start from, and the rows that a group begins with.
//!
//! Owns the same checks as the real boot: rows that contradict each other must never be started from.

use ledger_proof::ReadFault;
use ledger_proof::encoding::DecodeError;
use ledger_shard_core::effects::{BootRecord, Replica};
use ledger_shard_core::entry::LogEntry;
use ledger_shard_core::rows::{
    GroupRow, LocalState, decode_hard_state, decode_raft_entry, encode_hard_state, group_row_key,
    group_rows_range, raft_entry_index, raft_entry_range, raft_hard_state_key, raft_local_key,
    split_group_row_key,
};
use ledger_shard_core::view::{Family, RowWrite, StateView};
use ledger_types::{GroupId, NodeId};
use thiserror::Error;

use crate::disk::Disk;

/// Why a group cannot start.
#[derive(Debug, Error)]
pub(crate) enum BootError {
    /// A row is damaged.
    #[error(transparent)]
    Read(#[from] ReadFault),
    /// A row is not in its format.
    #[error(transparent)]
    Row(#[from] DecodeError),
    /// The rows do not fit together.
    #[error("group {group}: {detail}")]
    Corrupt {
        /// The group.
        group: GroupId,
        /// What does not fit.
        detail: String,
    },
    /// The group's own row says that this replica has left it.
    #[error("group {0} has gone on without this replica")]
    Left(GroupId),
}

/// A row to put.
pub(crate) fn put(family: Family, key: Vec<u8>, value: Vec<u8>) -> RowWrite {
    RowWrite { family, key, value: Some(value) }
}

/// The rows of a new group, or of a replica that joins one.
pub(crate) fn first_rows(record: &BootRecord) -> Vec<RowWrite> {
    let group = record.group;
    let local = LocalState {
        truncated_index: record.truncated.0,
        truncated_term: record.truncated.1,
        incarnation: record.incarnation,
    };
    let row = GroupRow {
        applied_index: record.applied,
        applied_term: record.truncated.1,
        conf_state: record.conf_state.clone(),
        replicas: record.replicas.clone(),
    };
    let hard_state = encode_hard_state(&record.hard_state);
    vec![
        put(Family::Raft, raft_hard_state_key(group), hard_state),
        put(Family::Raft, raft_local_key(group), local.encode()),
        put(Family::Vaults, group_row_key(group), row.encode()),
    ]
}

/// Every group that has a row of state.
pub(crate) fn groups(disk: &Disk) -> Vec<GroupId> {
    let (from, to) = group_rows_range();
    disk.range(Family::Vaults, &from, &to).filter_map(|(key, _)| split_group_row_key(key)).collect()
}

/// The row of a group.
pub(crate) fn group_row(disk: &Disk, group: GroupId) -> Result<GroupRow, BootError> {
    Ok(GroupRow::decode(&required(disk, group, Family::Vaults, &group_row_key(group))?)?)
}

/// Reads one group.
pub(crate) fn load_group(
    disk: &Disk,
    node: NodeId,
    group: GroupId,
) -> Result<BootRecord, BootError> {
    let row = group_row(disk, group)?;
    let local = LocalState::decode(&required(disk, group, Family::Raft, &raft_local_key(group))?)?;
    let hard_state = required(disk, group, Family::Raft, &raft_hard_state_key(group))?;
    let mut hard_state = decode_hard_state(&hard_state)?;
    hard_state.commit = hard_state.commit.max(row.applied_index);
    let corrupt = |detail: String| Err(BootError::Corrupt { group, detail });
    let (truncated, applied) = ((local.truncated_index, local.truncated_term), row.applied_index);
    let log = entries(disk, group, truncated.0 + 1)?;
    let last_index = log.last().map_or(truncated.0, |entry| entry.index);
    if log.iter().zip(truncated.0 + 1..).any(|(entry, index)| entry.index != index) {
        return corrupt(format!("a gap in its log after {}", truncated.0));
    }
    if applied < truncated.0 || applied > last_index {
        return corrupt(format!("applied {applied}, log {}..={last_index}", truncated.0 + 1));
    }
    if hard_state.commit > last_index {
        return corrupt(format!("commit {} is beyond {last_index}", hard_state.commit));
    }
    let is_here = |one: &Replica| one.incarnation == local.incarnation && one.node == node;
    if !row.replicas.iter().any(is_here) {
        return Err(BootError::Left(group));
    }
    let mut term_runs: Vec<(u64, u64)> = Vec::new();
    for entry in &log {
        if term_runs.last().is_none_or(|&(_, last)| last != entry.term) {
            term_runs.push((entry.index, entry.term));
        }
    }
    let terms = std::iter::once(truncated.1).chain(term_runs.iter().map(|run| run.1));
    let terms: Vec<u64> = terms.chain([hard_state.term]).collect();
    if !terms.is_sorted() {
        return corrupt(format!("its terms go back: {terms:?}"));
    }
    let log_bytes = log.iter().filter(|entry| entry.index <= applied);
    Ok(BootRecord {
        group,
        incarnation: local.incarnation,
        replicas: row.replicas,
        conf_state: row.conf_state,
        hard_state,
        truncated,
        term_runs,
        last_index,
        applied,
        log_bytes: log_bytes.map(|entry| entry.data.len() as u64 + 32).sum(),
        entries: log.into_iter().filter(|entry| entry.index > applied).collect(),
    })
}

/// Every entry of a group's log from `low` on.
fn entries(disk: &Disk, group: GroupId, low: u64) -> Result<Vec<LogEntry>, BootError> {
    let (from, to) = raft_entry_range(group, low, u64::MAX);
    let (mut found, mut failed) = (Vec::new(), None);
    disk.scan(Family::Raft, &from, &to, &mut |key, value| {
        let index = raft_entry_index(key).expect("the range holds entries only");
        match decode_raft_entry(index, value) {
            Ok(entry) => found.push(entry),
            Err(error) => failed = Some(error),
        }
        failed.is_none()
    })?;
    failed.map_or(Ok(found), |error| Err(error.into()))
}

fn required(disk: &Disk, group: GroupId, family: Family, key: &[u8]) -> Result<Vec<u8>, BootError> {
    let detail = || format!("a row of the {} family is missing", family.name());
    disk.get(family, key)?.ok_or_else(|| BootError::Corrupt { group, detail: detail() })
}
