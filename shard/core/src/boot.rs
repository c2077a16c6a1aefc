//! From a group's rows to the record that its replica starts from, and the rows that a group begins with.
//!
//! Owns what must hold of a group's rows before its replica may start. Must never repair: rows that do not fit
//! together are a typed error.

use ledger_proof::ReadFault;
use ledger_proof::encoding::DecodeError;
use ledger_types::{GroupId, Incarnation, NodeId};
use thiserror::Error;

use crate::effects::{BootRecord, GroupStatus, HardState, Replica, Role, SnapshotPhase};
use crate::entry::LogEntry;
use crate::rows::{
    GroupRow, LocalState, decode_hard_state, decode_raft_entry, encode_hard_state, group_row_key,
    raft_entry_index, raft_entry_key, raft_entry_range, raft_hard_state_key, raft_local_key,
};
use crate::view::{Family, RowWrite, StateView};

/// Why a group cannot start.
#[derive(Debug, Error)]
pub enum GroupRowsError {
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
    /// The group's members changed, and this replica is none of them any more.
    #[error("replica {incarnation} of group {group} has left the group")]
    Removed {
        /// The group.
        group: GroupId,
        /// The replica that was here.
        incarnation: Incarnation,
    },
    /// Rows could not be read.
    #[error(transparent)]
    Read(#[from] ReadFault),
}

/// The rows of a new group, or of a replica that joins one.
pub fn first_rows(record: &BootRecord) -> Vec<RowWrite> {
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
    let put = |family, key, value| RowWrite { family, key, value: Some(value) };
    vec![
        put(Family::Raft, raft_hard_state_key(group), encode_hard_state(&record.hard_state)),
        put(Family::Raft, raft_local_key(group), local.encode()),
        put(Family::Vaults, group_row_key(group), row.encode()),
    ]
}

/// The rows that say where a group stands, and the end of its log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupHead {
    group: GroupId,
    row: GroupRow,
    local: LocalState,
    hard_state: HardState,
    last_index: u64,
}

impl GroupHead {
    /// Reads where a group stands, and checks what can be checked without its log. `last_entry` is the index of the
    /// last entry row that the group has, if it has one; `node` is whose rows these are.
    pub fn read(
        view: &impl StateView,
        (node, group): (NodeId, GroupId),
        last_entry: Option<u64>,
    ) -> Result<GroupHead, GroupRowsError> {
        let decode = |source| GroupRowsError::Row { group, source };
        let row = required(view, group, Family::Vaults, &group_row_key(group))?;
        let row = GroupRow::decode(&row).map_err(decode)?;
        let local = required(view, group, Family::Raft, &raft_local_key(group))?;
        let local = LocalState::decode(&local).map_err(decode)?;
        let hard_state = required(view, group, Family::Raft, &raft_hard_state_key(group))?;
        let mut hard_state = decode_hard_state(&hard_state).map_err(decode)?;
        // The commit index is written without a sync of its own and may lag behind what was applied.
        hard_state.commit = hard_state.commit.max(row.applied_index);
        let last_index = last_entry.unwrap_or(0).max(local.truncated_index);
        let head = GroupHead { group, row, local, hard_state, last_index };
        head.check(node)?;
        Ok(head)
    }

    fn check(&self, node: NodeId) -> Result<(), GroupRowsError> {
        let GroupHead { group, row, local, last_index, .. } = self;
        let (group, applied, commit) = (*group, row.applied_index, self.hard_state.commit);
        let corrupt = |detail: String| Err(GroupRowsError::Corrupt { group, detail });
        if applied < local.truncated_index || applied > *last_index {
            let first = self.first_index();
            return corrupt(format!("applied {applied}, but the log is {first}..={last_index}"));
        }
        if commit > *last_index {
            return corrupt(format!("commit {commit} is beyond the log's {last_index}"));
        }
        let incarnation = local.incarnation;
        let is_here = |one: &Replica| one.incarnation == incarnation && one.node == node;
        if row.replicas.iter().any(is_here) {
            return Ok(());
        }
        if !row.replicas.iter().any(|one| one.node == node) {
            return Err(GroupRowsError::Removed { group, incarnation });
        }
        corrupt(format!("its table does not place replica {incarnation} on node {node}"))
    }

    /// Index of the first entry that the log has or will have.
    pub fn first_index(&self) -> u64 {
        self.local.truncated_index + 1
    }

    /// Index of the last durable entry; one less than the first when there is none.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// Index of the last applied entry.
    pub fn applied(&self) -> u64 {
        self.row.applied_index
    }

    /// The group as a replica that does not run. `log_bytes` is what its whole log takes, about.
    pub fn into_status(self, log_bytes: u64) -> GroupStatus {
        let first_index = self.first_index();
        let GroupHead { group, row, local, hard_state, last_index } = self;
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
            first_index,
            log_bytes,
            oldest_entry_ns: 0,
            snapshot: SnapshotPhase::None,
            is_asleep: true,
            is_conf_settled: false,
        }
    }

    /// Reads the group's log. `log_bytes` is what the entries up to the applied one take, about.
    pub fn into_record(
        self,
        view: &impl StateView,
        log_bytes: u64,
    ) -> Result<BootRecord, GroupRowsError> {
        let (first_index, applied) = (self.first_index(), self.applied());
        let GroupHead { group, row, local, hard_state, last_index } = self;
        let mut term_runs = term_runs(view, group, (first_index, applied))?;
        let entries = entries(view, group, (applied + 1, last_index))?;
        for entry in &entries {
            push_run(&mut term_runs, entry.index, entry.term);
        }
        let terms = std::iter::once(local.truncated_term).chain(term_runs.iter().map(|run| run.1));
        let terms: Vec<u64> = terms.chain([hard_state.term]).collect();
        if !terms.is_sorted() {
            let detail = format!("its terms go back: {terms:?}");
            return Err(GroupRowsError::Corrupt { group, detail });
        }
        Ok(BootRecord {
            group,
            incarnation: local.incarnation,
            replicas: row.replicas,
            conf_state: row.conf_state,
            hard_state,
            truncated: (local.truncated_index, local.truncated_term),
            term_runs,
            last_index,
            applied,
            entries,
            log_bytes,
        })
    }
}

/// Reads entries `low..=high`, all of which must be there.
fn entries(
    view: &impl StateView,
    group: GroupId,
    (low, high): (u64, u64),
) -> Result<Vec<LogEntry>, GroupRowsError> {
    let mut found = Vec::new();
    let mut failed = None;
    let (from, to) = raft_entry_range(group, low, high.saturating_add(1));
    view.scan(Family::Raft, &from, &to, &mut |key, value| {
        let wanted = low + found.len() as u64;
        match raft_entry_index(key).filter(|&index| index == wanted) {
            Some(index) => match decode_raft_entry(index, value) {
                Ok(entry) => found.push(entry),
                Err(source) => failed = Some(GroupRowsError::Row { group, source }),
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

fn missing_entry(group: GroupId, index: u64) -> GroupRowsError {
    GroupRowsError::Corrupt { group, detail: format!("entry {index} is missing from its log") }
}

/// The runs of equal terms over entries `first..=last`. Terms never go back in a log, so each run's end is found by
/// bisection instead of reading every entry.
fn term_runs(
    view: &impl StateView,
    group: GroupId,
    (first, last): (u64, u64),
) -> Result<Vec<(u64, u64)>, GroupRowsError> {
    let term_at = |index| -> Result<u64, GroupRowsError> {
        let value = view.get(Family::Raft, &raft_entry_key(group, index))?;
        let value = value.ok_or_else(|| missing_entry(group, index))?;
        let entry = decode_raft_entry(index, &value);
        Ok(entry.map_err(|source| GroupRowsError::Row { group, source })?.term)
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
    view: &impl StateView,
    group: GroupId,
    family: Family,
    key: &[u8],
) -> Result<Vec<u8>, GroupRowsError> {
    let detail = || format!("a row of the {} family is missing", family.name());
    view.get(family, key)?.ok_or_else(|| GroupRowsError::Corrupt { group, detail: detail() })
}
