//! From rows on disk to running replicas, and the rows a group begins with.
//!
//! Owns what must hold of a group's rows before its replica may start. Must never repair: rows that
//! do not fit together stop the boot with a typed error.

use ledger_proof::ReadFault;
use ledger_proof::encoding::DecodeError;
use ledger_shard_core::effects::{
    BootRecord, GroupStatus, HardState, Replica, Role, SnapshotPhase,
};
use ledger_shard_core::entry::LogEntry;
use ledger_shard_core::rows::{
    GroupRow, LocalState, decode_hard_state, decode_raft_entry, encode_hard_state, group_row_key,
    group_rows_range, raft_entry_index, raft_entry_key, raft_entry_range, raft_group_range,
    raft_hard_state_key, raft_local_key, split_group_row_key,
};
use ledger_shard_core::view::{Family, RowWrite, StateView};
use ledger_types::{GroupId, Incarnation, NodeId};
use thiserror::Error;

use crate::snapshots::{SnapshotError, finish_marked};
use crate::store::{Store, StoreError};
use crate::view::{LiveView, last_key, scan};

/// Why a group cannot start or begin.
#[derive(Debug, Error)]
pub enum BootError {
    /// The group's rows contradict each other.
    #[error("group {group}: {detail}")]
    Corrupt {
        /// The group.
        group: GroupId,
        /// What does not fit.
        detail: String,
    },
    /// A row of the group is not in its format.
    #[error("group {group}: {source}")]
    Row {
        /// The group.
        group: GroupId,
        /// What is wrong with it.
        source: DecodeError,
    },
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
    /// Rows could not be read.
    #[error(transparent)]
    Read(#[from] ReadFault),
    /// The group's members changed, and this replica is none of them any more.
    #[error("replica {incarnation} of group {group} has left the group")]
    Removed {
        /// The group.
        group: GroupId,
        /// The replica that was here.
        incarnation: Incarnation,
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
            Err(BootError::Removed { .. }) => {
                boot.removed.push(group);
                continue;
            }
            head => head?,
        };
        if group == GroupId::SYSTEM || installed.contains(&group) {
            boot.records.push(load_group(store, node, group)?);
        } else {
            boot.sleeping.push(head.status(group));
        }
    }
    Ok(boot)
}

/// The rows that say where a group stands, and the end of its log.
struct Head {
    row: GroupRow,
    local: LocalState,
    hard_state: HardState,
    last_index: u64,
    /// Bytes of the whole log, about.
    log_bytes: u64,
}

impl Head {
    fn status(self, group: GroupId) -> GroupStatus {
        let Head { row, local, hard_state, last_index, log_bytes } = self;
        GroupStatus {
            group,
            incarnation: local.incarnation,
            role: Role::Follower,
            term: hard_state.term,
            leader: None,
            commit: hard_state.commit,
            applied: row.applied_index,
            last_index,
            replicas: row.replicas,
            voters: row.conf_state.voters.clone(),
            lag_max: 0,
            conf_state: row.conf_state,
            members: Vec::new(),
            first_index: local.truncated_index + 1,
            log_bytes,
            oldest_entry_ns: 0,
            snapshot: SnapshotPhase::None,
            is_asleep: true,
            is_conf_settled: false,
        }
    }
}

/// Reads where a group stands, and checks what can be checked without its log.
fn read_head(store: &Store, node: NodeId, group: GroupId) -> Result<Head, BootError> {
    let view = LiveView::new(store);
    let decode = |source| BootError::Row { group, source };
    let row = required(&view, group, Family::Vaults, &group_row_key(group))?;
    let row = GroupRow::decode(&row).map_err(decode)?;
    let local = required(&view, group, Family::Raft, &raft_local_key(group))?;
    let local = LocalState::decode(&local).map_err(decode)?;
    let hard_state = required(&view, group, Family::Raft, &raft_hard_state_key(group))?;
    let mut hard_state = decode_hard_state(&hard_state).map_err(decode)?;
    // The commit index is written without a sync of its own and may lag behind what was applied.
    hard_state.commit = hard_state.commit.max(row.applied_index);
    let truncated_index = local.truncated_index;
    let last_index = last_entry(store, group)?.unwrap_or(truncated_index).max(truncated_index);
    let applied = row.applied_index;
    let corrupt = |detail: String| Err(BootError::Corrupt { group, detail });
    if applied < truncated_index || applied > last_index {
        let first = truncated_index + 1;
        return corrupt(format!("applied {applied}, but the log is {first}..={last_index}"));
    }
    if hard_state.commit > last_index {
        return corrupt(format!("commit {} is beyond the log's {last_index}", hard_state.commit));
    }
    let is_here = |one: &Replica| one.incarnation == local.incarnation && one.node == node;
    if !row.replicas.iter().any(is_here) {
        let incarnation = local.incarnation;
        if !row.replicas.iter().any(|one| one.node == node) {
            return Err(BootError::Removed { group, incarnation });
        }
        return corrupt(format!("its table does not place replica {incarnation} on node {node}"));
    }
    let (from, to) = raft_entry_range(group, truncated_index + 1, last_index.saturating_add(1));
    let log_bytes = store.approximate_bytes(Family::Raft, &from, &to);
    Ok(Head { row, local, hard_state, last_index, log_bytes })
}

/// Reads one group.
pub fn load_group(store: &Store, node: NodeId, group: GroupId) -> Result<BootRecord, BootError> {
    let head = read_head(store, node, group)?;
    let Head { row, local, hard_state, last_index, .. } = head;
    let (truncated, applied) = ((local.truncated_index, local.truncated_term), row.applied_index);
    let view = LiveView::new(store);
    let mut term_runs = term_runs(&view, group, (truncated.0 + 1, applied))?;
    let entries = entries(store, group, applied + 1, last_index)?;
    for entry in &entries {
        push_run(&mut term_runs, entry.index, entry.term);
    }
    let terms = std::iter::once(truncated.1).chain(term_runs.iter().map(|run| run.1));
    let terms: Vec<u64> = terms.chain([hard_state.term]).collect();
    if !terms.is_sorted() {
        let detail = format!("its terms go back: {terms:?}");
        return Err(BootError::Corrupt { group, detail });
    }
    let (from, to) = raft_entry_range(group, truncated.0 + 1, applied + 1);
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
        entries,
        log_bytes: store.approximate_bytes(Family::Raft, &from, &to),
    })
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
    if LiveView::new(store).get(Family::Vaults, &group_row_key(group))?.is_some() {
        return Err(BootError::Exists { group });
    }
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
    let put = |family, key, value| RowWrite { family, key, value: Some(value) };
    let mut rows = vec![
        put(Family::Raft, raft_hard_state_key(group), encode_hard_state(&record.hard_state)),
        put(Family::Raft, raft_local_key(group), local.encode()),
        put(Family::Vaults, group_row_key(group), row.encode()),
    ];
    rows.extend_from_slice(genesis);
    store.write(&rows)?;
    Ok(store.sync()?)
}

/// Reads entries `low..=high`, all of which must be there.
fn entries(store: &Store, group: GroupId, low: u64, high: u64) -> Result<Vec<LogEntry>, BootError> {
    let mut found = Vec::new();
    let mut failed = None;
    let (from, to) = raft_entry_range(group, low, high.saturating_add(1));
    scan(store, None, Family::Raft, &from..&to, &mut |key, value| {
        let wanted = low + found.len() as u64;
        match raft_entry_index(key).filter(|&index| index == wanted) {
            Some(index) => match decode_raft_entry(index, value) {
                Ok(entry) => found.push(entry),
                Err(source) => failed = Some(BootError::Row { group, source }),
            },
            None => failed = Some(missing_entry(group, wanted)),
        }
        failed.is_none()
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let expected = (high + 1).saturating_sub(low);
    if (found.len() as u64) < expected {
        return Err(missing_entry(group, low + found.len() as u64));
    }
    Ok(found)
}

fn missing_entry(group: GroupId, index: u64) -> BootError {
    BootError::Corrupt { group, detail: format!("entry {index} is missing from its log") }
}

/// The runs of equal terms over entries `first..=last`. Terms never go back in a log, so each run's
/// end is found by bisection instead of reading every entry.
fn term_runs(
    view: &LiveView<'_>,
    group: GroupId,
    (first, last): (u64, u64),
) -> Result<Vec<(u64, u64)>, BootError> {
    let term_at = |index| -> Result<u64, BootError> {
        let value = view.get(Family::Raft, &raft_entry_key(group, index))?;
        let value = value.ok_or_else(|| missing_entry(group, index))?;
        let entry = decode_raft_entry(index, &value);
        Ok(entry.map_err(|source| BootError::Row { group, source })?.term)
    };
    let mut runs = Vec::new();
    let mut start = first;
    while start <= last {
        let term = term_at(start)?;
        push_run(&mut runs, start, term);
        // The run's last index is in low..=high.
        let (mut low, mut high) = (start, last);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            match term_at(middle)? == term {
                true => low = middle,
                false => high = middle - 1,
            }
        }
        start = low + 1;
    }
    Ok(runs)
}

fn push_run(runs: &mut Vec<(u64, u64)>, index: u64, term: u64) {
    if runs.last().is_none_or(|&(_, last)| last != term) {
        runs.push((index, term));
    }
}

fn required(
    view: &LiveView<'_>,
    group: GroupId,
    family: Family,
    key: &[u8],
) -> Result<Vec<u8>, BootError> {
    let detail = || format!("a row of the {} family is missing", family.name());
    view.get(family, key)?.ok_or_else(|| BootError::Corrupt { group, detail: detail() })
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
