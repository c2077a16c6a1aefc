//! The log stage: one batch and at most one sync for everything that a turn wants on disk.
//!
//! Owns how Raft's rows are written and read back. Must never acknowledge before the sync, and must
//! never retry a write or sync that failed: what is on disk is unknown from then on.

use std::sync::Arc;
use std::time::Instant;

use ledger_shard_core::effects::{FetchLog, Input, Persist, TruncateLog};
use ledger_shard_core::entry::LogEntry;
use ledger_shard_core::rows::{
    LocalState, decode_raft_entry, encode_hard_state, encode_raft_entry, raft_entry_index,
    raft_entry_key, raft_entry_range, raft_hard_state_key, raft_local_key,
};
use ledger_shard_core::view::{Family, RowWrite};
use ledger_types::GroupId;

use crate::handle::RowsCompletion;
use crate::metrics::{Metrics, add};
use crate::store::{Store, StoreError};
use crate::view::scan;
use crate::{Fatal, crash_point};

/// What one turn wants on disk.
#[derive(Default)]
pub(crate) struct LogRound {
    /// The groups' log rows.
    pub(crate) persist: Vec<Persist>,
    /// Beginnings of logs that go. Losing one in a crash is harmless: it comes again.
    pub(crate) truncations: Vec<TruncateLog>,
    /// Rows of others that ride along and are durable with the round.
    pub(crate) rows: Vec<RowWrite>,
    /// Told once those rows are durable.
    pub(crate) completions: Vec<RowsCompletion>,
}

impl LogRound {
    pub(crate) fn is_empty(&self) -> bool {
        self.persist.is_empty()
            && self.truncations.is_empty()
            && self.rows.is_empty()
            && self.completions.is_empty()
    }

    fn must_sync(&self) -> bool {
        !self.completions.is_empty() || self.persist.iter().any(|one| one.must_sync)
    }
}

/// Writes rounds to the store.
pub(crate) struct LogSink {
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    fatal: Fatal,
}

impl LogSink {
    pub(crate) fn new(store: Arc<Store>, metrics: Arc<Metrics>, fatal: Fatal) -> LogSink {
        LogSink { store, metrics, fatal }
    }

    /// Writes the rounds as one batch, syncs once if any of them must be durable, and then answers
    /// every Ready in them, in order.
    pub(crate) fn persist(&self, rounds: &mut Vec<LogRound>, inputs: &mut Vec<Input>) {
        let must_sync = rounds.iter().any(LogRound::must_sync);
        if let Err(error) = self.write(rounds, must_sync) {
            self.fatal.end(&error.to_string());
        }
        for round in rounds.drain(..) {
            for done in round.persist {
                inputs.push(Input::Persisted { group: done.group, ready: done.ready });
            }
            for completion in round.completions {
                completion();
            }
        }
    }

    fn write(&self, rounds: &[LogRound], must_sync: bool) -> Result<(), StoreError> {
        let persists = || rounds.iter().flat_map(|round| &round.persist);
        let entries = || persists().flat_map(|one| &one.entries);
        let entry_bytes: usize = entries().map(|entry| entry.data.len() + 64).sum();
        let mut batch = self.store.batch(entry_bytes + 128 * rounds.len());
        for round in rounds {
            for one in &round.persist {
                add_persist(&mut batch, one);
            }
            for one in &round.truncations {
                add_truncation(&mut batch, one);
            }
            batch.extend(&round.rows);
        }
        crash_point!("crash::log_write");
        let bytes = batch.write()?;
        crash_point!("crash::log_written");
        add(&self.metrics.log_rounds, 1);
        add(&self.metrics.log_bytes, bytes);
        add(&self.metrics.entries_persisted, entries().count() as u64);
        for one in rounds.iter().flat_map(|round| &round.truncations) {
            add(&self.metrics.log_truncations, 1);
            add(&self.metrics.log_entries_truncated, one.index + 1 - one.first);
        }
        if must_sync {
            let begin = Instant::now();
            self.store.sync()?;
            let ns = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.metrics.synced(groups_of(rounds), ns);
            crash_point!("crash::log_synced");
        }
        Ok(())
    }

    /// Reads old entries back for a slow follower.
    pub(crate) fn fetch(&self, wanted: FetchLog) -> Input {
        add(&self.metrics.fetches, 1);
        match fetch(&self.store, wanted) {
            Ok(entries) => Input::Fetched { group: wanted.group, low: wanted.low, entries },
            Err(error) => self.fatal.end(&error.to_string()),
        }
    }
}

fn add_persist(batch: &mut crate::store::StoreBatch<'_>, one: &Persist) {
    if let Some((low, high)) = one.delete {
        assert!(low <= high, "a range to delete is not empty");
        for index in low..=high {
            batch.delete(Family::Raft, &raft_entry_key(one.group, index));
        }
    }
    for entry in &one.entries {
        let key = raft_entry_key(one.group, entry.index);
        batch.put(Family::Raft, &key, &encode_raft_entry(entry));
    }
    if let Some(hard_state) = &one.hard_state {
        let key = raft_hard_state_key(one.group);
        batch.put(Family::Raft, &key, &encode_hard_state(hard_state));
    }
}

/// Point deletes and the new beginning in one batch, so that a log never begins before its first entry.
fn add_truncation(batch: &mut crate::store::StoreBatch<'_>, one: &TruncateLog) {
    assert!(one.first <= one.index, "a beginning to forget is not empty");
    for index in one.first..=one.index {
        batch.delete(Family::Raft, &raft_entry_key(one.group, index));
    }
    let local = LocalState {
        truncated_index: one.index,
        truncated_term: one.term,
        incarnation: one.incarnation,
    };
    batch.put(Family::Raft, &raft_local_key(one.group), &local.encode());
}

fn groups_of(rounds: &[LogRound]) -> usize {
    let persists = rounds.iter().flat_map(|round| &round.persist);
    let synced = persists.filter(|one| one.must_sync);
    let mut groups: Vec<GroupId> = synced.map(|one| one.group).collect();
    groups.sort_unstable();
    groups.dedup();
    groups.len()
}

fn fetch(store: &Store, wanted: FetchLog) -> Result<Vec<LogEntry>, StoreError> {
    let mut entries: Vec<LogEntry> = Vec::new();
    let (mut bytes, mut damage) = (0, None);
    let (from, to) = raft_entry_range(wanted.group, wanted.low, wanted.high);
    scan(store, None, Family::Raft, &from..&to, &mut |key, value| {
        let next = wanted.low + entries.len() as u64;
        let over = !entries.is_empty() && bytes + value.len() as u64 > wanted.max_bytes;
        if raft_entry_index(key) != Some(next) || over {
            return false;
        }
        bytes += value.len() as u64;
        match decode_raft_entry(next, value) {
            Ok(entry) => entries.push(entry),
            Err(error) => damage = Some(format!("group {}, entry {next}: {error}", wanted.group)),
        }
        damage.is_none()
    })?;
    match damage {
        None => Ok(entries),
        Some(detail) => Err(StoreError { doing: "read its log back", detail }),
    }
}

#[cfg(test)]
mod tests;
