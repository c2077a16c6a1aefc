//! How much of a group's log is kept.
//!
//! Owns the choice of the log's beginning: what no member needs goes, and what a slow or absent member needs
//! stays up to a cap in entries and in bytes; beyond it that member gets a snapshot. Must never let go of an
//! entry that is not applied here. Applied rows and the deletion share one write-ahead log, in this order, so
//! no crash keeps the deletion and loses the rows.

use raft::StateRole;

use super::RaftReplica;
use crate::effects::{Effects, TruncateLog};

/// Ticks between looks at a log that hardly grows.
const LOOK_TICKS: u32 = 20;
/// Entries or bytes that make a truncation worthwhile at once.
const BATCH_ENTRIES: u64 = 1024;
const BATCH_BYTES: u64 = 1 << 20;
/// Most entries deleted in one round of one group, so that no round becomes long.
const DELETED_PER_ROUND_MAX: u64 = 4096;
/// So many times the caps a log may reach while a snapshot is under way: what follows the snapshot must still be
/// there when it is in, or the next one is needed at once.
const HARD_CAP_FACTOR: u64 = 4;
/// Ticks after which even a single entry goes.
const AGE_TICKS: u32 = 600;

/// What a log was when it was last looked at.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct LogLook {
    last_index: u64,
    applied: u64,
    bytes: u64,
}

impl LogLook {
    /// Of a replica that starts with this much applied: all of its log is to be looked at.
    pub(super) fn at_start(applied: u64) -> LogLook {
        LogLook { last_index: applied, applied, bytes: 0 }
    }
}

impl RaftReplica {
    /// One tick of the log's age. True if it should be looked at.
    pub(super) fn tick_log(&mut self) -> bool {
        self.ticks_since_truncation = self.ticks_since_truncation.saturating_add(1);
        let is_due = self.ticks_since_truncation.is_multiple_of(LOOK_TICKS);
        self.is_log_look_due |= is_due;
        is_due
    }

    /// Forgets the log's beginning if it is worthwhile.
    pub(super) fn truncate(&mut self, effects: &mut Effects) {
        if self.stands_still() {
            return;
        }
        let cache = &self.raw.store().cache;
        let begins = cache.first_index() - 1;
        let (entries, bytes) = (self.applied - begins, cache.log_bytes());
        let is_old = self.ticks_since_truncation >= AGE_TICKS && entries > 0;
        let (batch_entries, batch_bytes) = self.truncation_batch();
        let is_large = entries >= batch_entries || bytes >= batch_bytes;
        if !(is_old || is_large) || !(self.is_log_look_due || self.has_log_grown()) {
            return;
        }
        self.is_log_look_due = false;
        let last_index = self.raw.raft.raft_log.last_index();
        self.log_look = LogLook { last_index, applied: self.applied, bytes };
        let over_cap = self.over_cap(1).min(self.raw.store().offers.borrow().lowest_floor());
        let over_hard_cap = self.over_cap(HARD_CAP_FACTOR);
        let wanted = self.unneeded().max(over_cap).max(over_hard_cap).min(self.applied);
        if wanted <= begins {
            return;
        }
        let is_worthwhile = wanted - begins >= batch_entries
            || self.raw.store().cache.bytes_up_to(wanted) >= batch_bytes;
        if !is_worthwhile && !is_old {
            return;
        }
        let index = wanted.min(begins + DELETED_PER_ROUND_MAX);
        let term = self.raw.mut_store().cache.truncate(index);
        let (group, incarnation, first) = (self.group, self.incarnation, begins + 1);
        effects.truncations.push(TruncateLog { group, incarnation, first, index, term });
        // The log grows from here on, and is looked at again in the next turn if more of it has to go.
        self.log_look.bytes = self.raw.store().cache.log_bytes();
        match index == wanted {
            true => self.ticks_since_truncation = 0,
            false => self.is_log_look_due = true,
        }
    }

    /// Grown enough since the last look to look again before the next tick, or so much more applied: what a leader
    /// took in without a quorum can only go once the quorum is back, and it comes all at once.
    fn has_log_grown(&self) -> bool {
        let (entries, bytes) = self.truncation_batch();
        let LogLook { last_index, applied, bytes: bytes_then } = self.log_look;
        self.raw.raft.raft_log.last_index() >= last_index + entries / 4
            || self.applied >= applied + entries / 4
            || self.raw.store().cache.log_bytes() >= bytes_then + bytes / 4
    }

    /// Entries and bytes that make a truncation worthwhile: small beside the caps.
    fn truncation_batch(&self) -> (u64, u64) {
        let entries = BATCH_ENTRIES.min(self.config.log_entries_max / 4).max(1);
        (entries, BATCH_BYTES.min(self.config.log_bytes_max / 4).max(1))
    }

    /// Up to where no member needs the log. A leader knows; others hear it from their leader.
    fn unneeded(&self) -> u64 {
        if self.raw.raft.state != StateRole::Leader {
            return self.leader_log_floor;
        }
        let begins = self.raw.store().cache.first_index() - 1;
        let offers = self.raw.store().offers.borrow();
        let others = self.raw.raft.prs().iter().filter(|(id, _)| **id != self.incarnation.0);
        let needed = others.map(|(&id, progress)| match offers.floor(id) {
            Some(floor) => floor.max(progress.matched),
            // Not heard of since this term began, or in need of a snapshot: nothing more goes.
            None => progress.matched.max(begins),
        });
        needed.min().unwrap_or(u64::MAX)
    }

    /// Up to where the log has to go for its size alone, with so many times the caps.
    fn over_cap(&self, factor: u64) -> u64 {
        let cache = &self.raw.store().cache;
        let entries_max = self.config.log_entries_max.saturating_mul(factor);
        let bytes_max = self.config.log_bytes_max.saturating_mul(factor);
        let by_entries = cache.last_index().saturating_sub(entries_max);
        by_entries.max(cache.index_over_bytes(bytes_max))
    }

    /// What this replica tells its followers of its log: for a leader, where it begins.
    pub(super) fn own_log_floor(&self) -> u64 {
        match self.raw.raft.state {
            StateRole::Leader => self.raw.store().cache.first_index() - 1,
            _ => 0,
        }
    }
}
