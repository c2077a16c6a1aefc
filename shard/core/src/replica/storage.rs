//! Raft's view of a group's log, and the translation between raft's messages and ours.
//!
//! Owns what raft may ask of storage. Must never block or fail: what is not in memory is noted as wanted.

use std::cell::RefCell;
use std::collections::BTreeMap;

use ledger_types::Incarnation;
use raft::eraftpb::{self, EntryType, Message, MessageType, Snapshot};
use raft::{Config, GetEntriesContext, RaftState, Storage, StorageError};

use super::members::is_change;
use super::offers::Offers;
use crate::effects::ConfState;
use crate::entry::{EntryKind, LogEntry};
use crate::log_cache::{LogCache, Miss};
use crate::node_core::CoreConfig;

/// Raft's view of the log: never blocks, never fails.
pub(super) struct LogStorage {
    pub(super) cache: LogCache,
    pub(super) hard_state: eraftpb::HardState,
    pub(super) conf_state: eraftpb::ConfState,
    /// Sends that wait for entries from disk, by the first entry they want: one fetch serves them all.
    pub(super) contexts: RefCell<BTreeMap<u64, Vec<GetEntriesContext>>>,
    /// Snapshots for members that need more than the log has. Raft asks for them through a shared reference.
    pub(super) offers: RefCell<Offers>,
}

impl Storage for LogStorage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        let max_bytes = max_size.into().unwrap_or(u64::MAX);
        match self.cache.entries(low, high, max_bytes, context.can_async()) {
            Ok(entries) => Ok(entries.into_iter().map(to_raft_entry).collect()),
            Err(Miss::Truncated) => Err(StorageError::Compacted.into()),
            Err(Miss::Beyond) => Err(StorageError::Unavailable.into()),
            Err(Miss::OnDisk) => {
                self.contexts.borrow_mut().entry(low).or_default().push(context);
                Err(StorageError::LogTemporarilyUnavailable.into())
            }
        }
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        self.cache.term(index).map_err(|miss| match miss {
            Miss::Truncated => StorageError::Compacted.into(),
            Miss::Beyond | Miss::OnDisk => StorageError::Unavailable.into(),
        })
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.cache.first_index())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.cache.last_index())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        // Any other error than this one would end the process (trap 10).
        let unavailable = || raft::Error::from(StorageError::SnapshotTemporarilyUnavailable);
        let index_min = request_index.max(self.cache.first_index() - 1);
        let manifest = self.offers.borrow_mut().take_up(to, index_min).ok_or_else(unavailable)?;
        let mut snapshot = Snapshot { data: manifest.encode(), ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        metadata.index = manifest.row.applied_index;
        metadata.term = manifest.row.applied_term;
        metadata.set_conf_state(to_raft_conf_state(&manifest.row.conf_state));
        Ok(snapshot)
    }
}

/// Every limit and guard is set: the library's defaults have none (trap 1), and bytes in flight are bounded
/// only by messages times their size (trap 22).
pub(super) fn raft_config(incarnation: Incarnation, applied: u64, config: &CoreConfig) -> Config {
    Config {
        id: incarnation.0,
        applied,
        election_tick: config.election_ticks,
        heartbeat_tick: config.heartbeat_ticks,
        min_election_tick: config.election_ticks,
        max_election_tick: 2 * config.election_ticks,
        max_size_per_msg: config.max_message_bytes,
        max_inflight_msgs: config.max_inflight_messages,
        max_uncommitted_size: config.max_uncommitted_bytes,
        max_committed_size_per_ready: config.max_committed_bytes_per_ready,
        check_quorum: true,
        pre_vote: true,
        skip_bcast_commit: true,
        ..Config::default()
    }
}

/// Messages that only this replica itself may step, or that hand in proposals from outside the handle, are
/// not let in (trap 15).
pub(super) fn is_accepted(kind: MessageType) -> bool {
    !matches!(
        kind,
        MessageType::MsgHup
            | MessageType::MsgBeat
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgCheckQuorum
            | MessageType::MsgPropose
            | MessageType::MsgTransferLeader
    )
}

/// Highest term that is believed. No group comes near it, and raft counts on from what it is told.
const TERM_MAX: u64 = u64::MAX / 2;
/// Highest index that is believed, likewise.
const INDEX_MAX: u64 = u64::MAX / 2;

/// What raft takes for granted of a message, and would end the process over.
pub(super) fn is_well_formed(message: &Message) -> bool {
    let consecutive = || {
        let mut indexes = message.entries.iter().zip(message.index + 1..);
        indexes.all(|(entry, index)| entry.index == index)
    };
    let terms = [message.term, message.log_term, message.commit_term];
    let indexes = [message.index, message.commit, message.reject_hint, message.request_snapshot];
    let is_believed =
        terms.iter().all(|&term| term <= TERM_MAX) && indexes.iter().all(|&i| i <= INDEX_MAX);
    if !is_believed || !message.entries.iter().all(is_known) {
        return false;
    }
    match message.get_msg_type() {
        // With a term it could not be passed on to the leader.
        MessageType::MsgReadIndex => message.term == 0 && message.entries.len() == 1,
        MessageType::MsgReadIndexResp => message.term != 0 && message.entries.len() == 1,
        // Raft takes a place beyond its log for one of term 0, and would find it there (trap 25).
        MessageType::MsgAppend => {
            let is_placed = (message.log_term == 0) == (message.index == 0);
            let have_terms = message.entries.iter().all(|entry| entry.term != 0);
            message.term != 0 && is_placed && have_terms && consecutive()
        }
        _ => message.term != 0,
    }
}

/// Whether an entry can be taken over once it is committed. The getter of an unknown type would end the process
/// (trap 24).
fn is_known(entry: &eraftpb::Entry) -> bool {
    entry.term <= TERM_MAX
        && match EntryType::from_i32(entry.entry_type) {
            Some(EntryType::EntryNormal) => true,
            Some(EntryType::EntryConfChangeV2) => is_change(&entry.data),
            Some(EntryType::EntryConfChange) | None => false,
        }
}

pub(super) fn to_raft_entry(entry: LogEntry) -> eraftpb::Entry {
    let mut out = eraftpb::Entry::default();
    out.set_entry_type(match entry.kind {
        EntryKind::Normal => EntryType::EntryNormal,
        EntryKind::ConfChange => EntryType::EntryConfChange,
        EntryKind::ConfChangeV2 => EntryType::EntryConfChangeV2,
    });
    out.index = entry.index;
    out.term = entry.term;
    out.data = entry.data;
    out
}

pub(super) fn from_raft_entry(entry: eraftpb::Entry) -> LogEntry {
    let kind = match entry.get_entry_type() {
        EntryType::EntryNormal => EntryKind::Normal,
        EntryType::EntryConfChange => EntryKind::ConfChange,
        EntryType::EntryConfChangeV2 => EntryKind::ConfChangeV2,
    };
    LogEntry { index: entry.index, term: entry.term, kind, data: entry.data }
}

pub(super) fn to_raft_conf_state(conf: &ConfState) -> eraftpb::ConfState {
    eraftpb::ConfState {
        voters: conf.voters.clone(),
        learners: conf.learners.clone(),
        voters_outgoing: conf.voters_outgoing.clone(),
        learners_next: conf.learners_next.clone(),
        ..eraftpb::ConfState::default()
    }
}

/// The configuration as raft tells it, with every list sorted: raft keeps unordered sets, and rows must be the
/// same on every replica.
pub(super) fn from_raft_conf_state(conf: &eraftpb::ConfState) -> ConfState {
    let sorted = |ids: &[u64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    ConfState {
        voters: sorted(&conf.voters),
        learners: sorted(&conf.learners),
        voters_outgoing: sorted(&conf.voters_outgoing),
        learners_next: sorted(&conf.learners_next),
    }
}
