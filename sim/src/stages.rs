//! The stages behind a turn: rows to disk with a sync, committed entries through the state machine.
//!
//! Owns what may be outstanding and what is answered when. Must never acknowledge before the sync, unless a
//! sabotage says so.

use std::collections::BTreeMap;
use std::mem;

use ledger_shard_core::apply::{ApplyOutput, CommandReply, NotedCheckpoint};
use ledger_shard_core::effects::{Committed, FetchLog, Input, Persist, Proposed, TruncateLog};
use ledger_shard_core::entry::LogEntry;
use ledger_shard_core::query::{self, QueryError};
use ledger_shard_core::rows::{
    LocalState, decode_raft_entry, encode_hard_state, encode_raft_entry, raft_entry_index,
    raft_entry_key, raft_entry_range, raft_hard_state_key, raft_local_key,
};
use ledger_shard_core::view::{Family, RowWrite, StateView};

use crate::boot::put;
use crate::disk::Disk;
use crate::node::{ApplyJob, LogJob, Syncing};
use crate::world::{Event, Sabotage, World};

impl World {
    /// Gives the disk its next work, if it is free.
    pub(crate) fn run_log(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        let Some(process) = &mut node.process else { return };
        if process.log.busy.is_some() || process.log.queue.is_empty() {
            return;
        }
        let mut work = Syncing {
            batch: 0,
            persist: Vec::new(),
            rounds: 0,
            fetches: Vec::new(),
            installs: Vec::new(),
        };
        let mut rows = Vec::new();
        for job in mem::take(&mut process.log.queue) {
            match job {
                LogJob::Round { persist, truncations } => {
                    work.rounds += 1;
                    persist.iter().for_each(|one| add_persist(&mut rows, one));
                    truncations.iter().for_each(|one| add_truncation(&mut rows, one));
                    work.persist.extend(persist);
                }
                LogJob::Fetch(wanted) => work.fetches.push(wanted),
                LogJob::Install(wanted) => work.installs.push(*wanted),
            }
        }
        if !rows.is_empty() {
            node.disk.write(rows);
        }
        work.batch = node.disk.last_batch();
        let must_sync = work.persist.iter().any(|one| one.must_sync);
        if !must_sync {
            return self.end_log(place, work, false);
        }
        if self.options.sabotage == Some(Sabotage::EarlyAcknowledgement) {
            let done = work.persist.iter();
            process
                .inbox
                .extend(done.map(|one| Input::Persisted { group: one.group, ready: one.ready }));
        }
        let (slow_us, boot) = (node.slow_sync_us, node.boot);
        process.log.busy = Some(work);
        let sync_us = self.disks.below(self.swarm.sync_us + 1) + slow_us;
        if sync_us == 0 {
            self.synced(place);
        } else {
            self.after(sync_us, Event::Synced { place, boot });
        }
    }

    /// A sync ended.
    pub(crate) fn synced(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        let process = node.process.as_mut().expect("the disk of a running process");
        let work = process.log.busy.take().expect("a sync was under way");
        node.disk.synced(work.batch);
        self.counts.syncs += 1;
        while process.applied.front().is_some_and(|&(batch, ..)| batch <= work.batch) {
            let (_, incarnation, index) = process.applied.pop_front().expect("just seen");
            self.oracle.applied_durably(incarnation, index);
        }
        for one in &work.persist {
            let incarnation = process.groups[&one.group].incarnation;
            self.oracle.persisted(incarnation, one);
        }
        self.end_log(place, work, true);
        self.run_log(place);
        self.run_apply(place);
    }

    fn end_log(&mut self, place: usize, work: Syncing, was_synced: bool) {
        let is_early = self.options.sabotage == Some(Sabotage::EarlyAcknowledgement) && was_synced;
        let node = &mut self.nodes[place];
        let process = node.process.as_mut().expect("the disk of a running process");
        if !is_early {
            let done = work.persist.iter();
            process
                .inbox
                .extend(done.map(|one| Input::Persisted { group: one.group, ready: one.ready }));
        }
        for wanted in work.installs {
            process.apply.push_back(ApplyJob::Install(Box::new(wanted)));
        }
        let mut is_damaged = false;
        for wanted in work.fetches {
            match fetch(&node.disk, wanted) {
                Some(entries) => {
                    let (group, low) = (wanted.group, wanted.low);
                    process.inbox.push(Input::Fetched { group, low, entries });
                }
                None => is_damaged = true,
            }
        }
        if is_damaged {
            self.lose(place);
        }
    }

    /// Gives the apply stage its next work.
    pub(crate) fn run_apply(&mut self, place: usize) {
        let boot = self.nodes[place].boot;
        let Some(process) = &mut self.nodes[place].process else { return };
        if process.apply.is_empty() || process.is_apply_due {
            return;
        }
        if self.swarm.apply_us == 0 {
            return self.apply_waiting(place);
        }
        process.is_apply_due = true;
        let wait_us = 1 + self.disks.below(self.swarm.apply_us);
        self.after(wait_us, Event::Apply { place, boot });
    }

    /// Applies all that waits, rounds in front of an installation together.
    pub(crate) fn apply_waiting(&mut self, place: usize) {
        while let Some(process) = &mut self.nodes[place].process {
            let (mut committed, mut waiting, mut install) = (Vec::new(), Vec::new(), None);
            while let Some(job) = process.apply.pop_front() {
                match job {
                    ApplyJob::Round { committed: more, waiting: theirs } => {
                        committed.extend(more);
                        waiting.extend(theirs);
                    }
                    ApplyJob::Install(wanted) => {
                        install = Some(wanted);
                        break;
                    }
                }
            }
            if committed.is_empty() && install.is_none() {
                return;
            }
            if !committed.is_empty() {
                self.apply(place, &committed, &waiting);
            }
            if let Some(wanted) = install {
                self.begin_install(place, wanted);
            }
        }
    }

    fn apply(&mut self, place: usize, committed: &[Committed], waiting: &[Proposed]) {
        let node = &mut self.nodes[place];
        let process = node.process.as_mut().expect("entries of a running process");
        let mut output = ApplyOutput::default();
        if let Err(fault) = process.applier.apply(committed, &node.disk, &mut output) {
            if node.disk.is_damaged() {
                return self.lose(place);
            }
            return self.fail("apply", format!("node {place}: {fault}"));
        }
        let ApplyOutput { erased, rows, replies, blocks, checkpoints, .. } = output;
        for block in &blocks {
            self.print.bytes(&block.block_hash.0);
            let verdict = self.oracle.block(block, &rows, &mut self.clients.requests);
            if let Err((invariant, detail)) = verdict {
                self.fail(invariant, format!("node {place}: {detail}"));
            }
        }
        let node = &mut self.nodes[place];
        let process = node.process.as_mut().expect("still running");
        let batch = node.disk.write_round(&erased, rows);
        process.applier.written();
        self.counts.purges += erased.len() as u64;
        for one in committed {
            let index = one.entries.last().expect("committed entries are never none").index;
            process.applied.push_back((batch, process.groups[&one.group].incarnation, index));
            process.inbox.push(Input::Applied { group: one.group, index });
            self.counts.entries_applied += one.entries.len() as u64;
        }
        self.counts.blocks += blocks.len() as u64;
        if !self.agrees(place, &checkpoints) {
            return;
        }
        self.answer(place, replies, waiting);
    }

    /// Every recorded checkpoint is over the log that this replica has, too. False if the node is lost.
    pub(crate) fn agrees(&mut self, place: usize, checkpoints: &[NotedCheckpoint]) -> bool {
        for one in checkpoints {
            let disk = &self.nodes[place].disk;
            match query::log_root(disk, one.vault, one.size) {
                Ok(root) if root == one.root => self.counts.checkpoints += 1,
                // It was purged in the same round.
                Err(QueryError::UnknownVault) if self.oracle.may_be_purged(one.vault) => {}
                Err(_) if disk.is_damaged() => {
                    self.lose(place);
                    return false;
                }
                other => {
                    self.fail("signed history", format!("node {place}: {one:?}, here {other:?}"));
                }
            }
        }
        true
    }

    /// Answers those whose commands were applied; one without an answer is told that nobody knows.
    fn answer(&mut self, place: usize, replies: Vec<CommandReply>, waiting: &[Proposed]) {
        if waiting.is_empty() {
            return;
        }
        let by_place =
            |reply: CommandReply| ((reply.group, reply.index, reply.position), reply.result);
        let mut results: BTreeMap<_, _> = replies.into_iter().map(by_place).collect();
        for one in waiting {
            match results.remove(&(one.group, one.index, one.position)) {
                Some(result) => self.applied(place, one.token, result),
                None => self.unanswered(one.token),
            }
        }
    }
}

fn add_persist(rows: &mut Vec<RowWrite>, one: &Persist) {
    if let Some((low, high)) = one.delete {
        assert!(low <= high, "a range to delete is not empty");
        rows.extend((low..=high).map(|index| RowWrite {
            family: Family::Raft,
            key: raft_entry_key(one.group, index),
            value: None,
        }));
    }
    for entry in &one.entries {
        let key = raft_entry_key(one.group, entry.index);
        rows.push(put(Family::Raft, key, encode_raft_entry(entry)));
    }
    if let Some(hard_state) = &one.hard_state {
        let key = raft_hard_state_key(one.group);
        rows.push(put(Family::Raft, key, encode_hard_state(hard_state)));
    }
}

fn add_truncation(rows: &mut Vec<RowWrite>, one: &TruncateLog) {
    assert!(one.first <= one.index, "a beginning to forget is not empty");
    rows.extend((one.first..=one.index).map(|index| RowWrite {
        family: Family::Raft,
        key: raft_entry_key(one.group, index),
        value: None,
    }));
    let local = LocalState {
        truncated_index: one.index,
        truncated_term: one.term,
        incarnation: one.incarnation,
    };
    rows.push(put(Family::Raft, raft_local_key(one.group), local.encode()));
}

/// Reads old entries back; `None` if one is damaged.
fn fetch(disk: &Disk, wanted: FetchLog) -> Option<Vec<LogEntry>> {
    let mut entries: Vec<LogEntry> = Vec::new();
    let mut bytes = 0;
    let (from, to) = raft_entry_range(wanted.group, wanted.low, wanted.high);
    let read = disk.scan(Family::Raft, &from, &to, &mut |key, value| {
        let next = wanted.low + entries.len() as u64;
        let over = !entries.is_empty() && bytes + value.len() as u64 > wanted.max_bytes;
        if raft_entry_index(key) != Some(next) || over {
            return false;
        }
        bytes += value.len() as u64;
        entries.push(decode_raft_entry(next, value).expect("an undamaged row is in its format"));
        true
    });
    read.is_ok().then_some(entries)
}
