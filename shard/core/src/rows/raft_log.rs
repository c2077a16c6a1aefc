//! Rows of the `raft` family: hard states, local states and log entries.
//!
//! Owns their bytes. Must never know how consensus uses them.
//!
//! Key: `group u64 ‖ kind u8 ‖ index u64`, so that one group's log is one run of rows.

use ledger_proof::encoding::DecodeError;
use ledger_types::{GroupId, Incarnation};

use crate::effects::HardState;
use crate::entry::{EntryKind, LogEntry};

/// Version of every value in the family.
const VERSION: u8 = 1;
/// Kind of the hard state's row.
const KIND_HARD_STATE: u8 = 0;
/// Kind of the local state's row.
const KIND_LOCAL: u8 = 1;
/// Kind of entry rows.
const KIND_ENTRY: u8 = 2;

/// What a replica keeps about itself beside the hard state; it differs from replica to replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalState {
    /// Index of the last entry before the log begins.
    pub truncated_index: u64,
    /// Term of that entry.
    pub truncated_term: u64,
    /// This replica's Raft id.
    pub incarnation: Incarnation,
}

impl LocalState {
    /// The row's value.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(25);
        out.push(VERSION);
        out.extend_from_slice(&self.truncated_index.to_be_bytes());
        out.extend_from_slice(&self.truncated_term.to_be_bytes());
        out.extend_from_slice(&self.incarnation.0.to_be_bytes());
        out
    }

    /// Reads a row's value. Errors on an unknown version or a wrong length.
    pub fn decode(value: &[u8]) -> Result<LocalState, DecodeError> {
        let mut reader = super::versioned(value, VERSION, "raft local state version")?;
        let local = LocalState {
            truncated_index: reader.u64("truncated index")?,
            truncated_term: reader.u64("truncated term")?,
            incarnation: Incarnation(reader.u64("incarnation")?),
        };
        reader.finish()?;
        Ok(local)
    }
}

/// Key of a group's hard state.
pub fn raft_hard_state_key(group: GroupId) -> Vec<u8> {
    key(group, KIND_HARD_STATE, 0)
}

/// Key of a group's local state.
pub fn raft_local_key(group: GroupId) -> Vec<u8> {
    key(group, KIND_LOCAL, 0)
}

/// Key of a log entry.
pub fn raft_entry_key(group: GroupId, index: u64) -> Vec<u8> {
    key(group, KIND_ENTRY, index)
}

/// The range (first key, end) of all rows of a group in the family.
pub fn raft_group_range(group: GroupId) -> (Vec<u8>, Vec<u8>) {
    (key(group, KIND_HARD_STATE, 0), key(group, KIND_ENTRY + 1, 0))
}

/// The range (first key, end) of the entries `low <= index < high`.
pub fn raft_entry_range(group: GroupId, low: u64, high: u64) -> (Vec<u8>, Vec<u8>) {
    (key(group, KIND_ENTRY, low), key(group, KIND_ENTRY, high))
}

/// Value of the hard state's row.
pub fn encode_hard_state(state: &HardState) -> Vec<u8> {
    let mut out = Vec::with_capacity(25);
    out.push(VERSION);
    out.extend_from_slice(&state.term.to_be_bytes());
    out.extend_from_slice(&state.vote.to_be_bytes());
    out.extend_from_slice(&state.commit.to_be_bytes());
    out
}

/// Reads the hard state's row. Errors on an unknown version or a wrong length.
pub fn decode_hard_state(value: &[u8]) -> Result<HardState, DecodeError> {
    let mut reader = super::versioned(value, VERSION, "raft hard state version")?;
    let state = HardState {
        term: reader.u64("term")?,
        vote: reader.u64("vote")?,
        commit: reader.u64("commit")?,
    };
    reader.finish()?;
    Ok(state)
}

/// Value of an entry's row; the index is in the key.
pub fn encode_raft_entry(entry: &LogEntry) -> Vec<u8> {
    let mut out = Vec::with_capacity(10 + entry.data.len());
    out.push(VERSION);
    out.extend_from_slice(&entry.term.to_be_bytes());
    out.push(entry.kind as u8);
    out.extend_from_slice(&entry.data);
    out
}

/// Reads an entry's row. Errors on an unknown version or kind, or a value that is too short.
pub fn decode_raft_entry(index: u64, value: &[u8]) -> Result<LogEntry, DecodeError> {
    let mut reader = super::versioned(value, VERSION, "raft entry version")?;
    let term = reader.u64("entry term")?;
    let code = reader.u8("entry kind")?;
    let unknown = DecodeError::UnknownValue { field: "entry kind", value: code.into() };
    let kind = EntryKind::from_code(code).ok_or(unknown)?;
    Ok(LogEntry { index, term, kind, data: value[10..].to_vec() })
}

/// The index in an entry's key; `None` for a key of another kind.
pub fn raft_entry_index(key: &[u8]) -> Option<u64> {
    let (head, index) = key.split_at_checked(9)?;
    let index = u64::from_be_bytes(index.try_into().ok()?);
    (head[8] == KIND_ENTRY).then_some(index)
}

fn key(group: GroupId, kind: u8, index: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(17);
    key.extend_from_slice(&group.0.to_be_bytes());
    key.push(kind);
    key.extend_from_slice(&index.to_be_bytes());
    key
}
