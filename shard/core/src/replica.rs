//! One replica of a group: Raft, its log in memory, and the requests that wait for it.
//!
//! Owns everything that names a raft-rs type; its messages leave as opaque bytes. Must never wait, and
//! must never let a message or an acknowledgement out before what it promises is durable (I1).

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::mem;

use ledger_types::{GroupId, Incarnation, NodeId};
use raft::eraftpb::{self, EntryType, Message, MessageType, Snapshot};
use raft::{
    Config, GetEntriesContext, RaftState, RawNode, Ready, StateRole, Storage, StorageError,
};
use raft_prost::Message as _;

use crate::effects::{
    BootRecord, Committed, ConfState, Effects, FetchLog, GroupMessage, GroupStatus, HardState,
    Lane, Now, OutMessage, Persist, Proposed, ReadAnswer, Refusal, Replica, Reply, Role, Token,
};
use crate::entry::{EntryBuilder, EntryKind, LogEntry};
use crate::log_cache::{LogCache, Miss};
use crate::node_core::CoreConfig;

/// Entries that one fetch from disk brings at most.
const FETCH_BYTES_MAX: u64 = 1 << 20;

/// A request waiting to be put into an entry.
struct Proposal {
    token: Token,
    command: Vec<u8>,
    deadline_ms: u64,
}

/// An entry of this leader's that is not committed yet, and who waits for its commands.
struct Pending {
    index: u64,
    term: u64,
    tokens: Vec<Token>,
}

/// A Ready that is not durable yet. Its messages stay here until it is (I1, I2).
struct Unpersisted {
    ready: u64,
    messages: Vec<Message>,
    has_entries: bool,
    must_sync: bool,
}

/// A read waiting for, or in, a round.
struct WaitingRead {
    token: Token,
    deadline_ms: u64,
}

/// One round that asks a quorum whether this term's leader still leads. Its context is never used again.
struct ReadRound {
    context: Vec<u8>,
    reads: Vec<WaitingRead>,
    ticks_left: u32,
}

/// One replica of a group.
///
/// Invariants, checked after every event that concerns the group:
/// - `applied <= apply_sent <= commit`, and applied never goes back.
/// - unpersisted Readys are in the order of their numbers (I2).
/// - only a leader has pending entries.
pub(crate) struct RaftReplica {
    group: GroupId,
    incarnation: Incarnation,
    table: BTreeMap<u64, NodeId>,
    raw: RawNode<LogStorage>,
    config: CoreConfig,
    random: u64,
    election_timeout: usize,
    drawn_for: (u64, StateRole, u64),
    queue: VecDeque<Proposal>,
    pending: VecDeque<Pending>,
    handed_out: u64,
    unpersisted: VecDeque<Unpersisted>,
    reads: Vec<WaitingRead>,
    round: Option<ReadRound>,
    rounds_started: u64,
    confirmed: Vec<(u64, Vec<WaitingRead>)>,
    apply_sent: u64,
    applied: u64,
    ticks_leading: u32,
    reported: (Role, u64, Option<NodeId>),
}

impl RaftReplica {
    /// Starts a replica from what was durable. The commit index is raised to the applied index, because
    /// it is written without a sync and may lag (trap 7).
    pub(crate) fn new(boot: BootRecord, config: &CoreConfig) -> RaftReplica {
        let BootRecord { group, incarnation, replicas, .. } = boot;
        assert!(boot.truncated.0 <= boot.applied && boot.applied <= boot.last_index, "boot record");
        let mut hard_state = eraftpb::HardState::default();
        hard_state.term = boot.hard_state.term;
        hard_state.vote = boot.hard_state.vote;
        hard_state.commit = boot.hard_state.commit.max(boot.applied);
        assert!(
            hard_state.commit <= boot.last_index,
            "a durable commit index is in the durable log"
        );
        let cache = LogCache::new(
            boot.truncated,
            boot.term_runs,
            boot.applied,
            boot.entries,
            config.cache_bytes_per_group,
        );
        assert_eq!(cache.last_index(), boot.last_index, "the boot record holds the whole tail");
        let storage = LogStorage {
            cache,
            hard_state,
            conf_state: to_raft_conf_state(&boot.conf_state),
            contexts: RefCell::new(BTreeMap::new()),
        };
        // Silent: elections of thousands of groups would fill any log (trap 18).
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&raft_config(incarnation, boot.applied, config), storage, &logger)
            .expect("the configuration is valid and the log cache cannot fail");
        let mut replica = RaftReplica {
            group,
            incarnation,
            table: replicas.iter().map(|one| (one.incarnation.0, one.node)).collect(),
            raw,
            config: config.clone(),
            random: split_mix(config.seed)
                ^ split_mix(group.0).rotate_left(7)
                ^ split_mix(!incarnation.0),
            election_timeout: 0,
            drawn_for: (0, StateRole::Follower, raft::INVALID_ID),
            queue: VecDeque::new(),
            pending: VecDeque::new(),
            handed_out: 0,
            unpersisted: VecDeque::new(),
            reads: Vec::new(),
            round: None,
            rounds_started: 0,
            confirmed: Vec::new(),
            apply_sent: boot.applied,
            applied: boot.applied,
            ticks_leading: 0,
            reported: (Role::Follower, 0, None),
        };
        replica.keep_election_timeout();
        replica
    }

    /// One tick of Raft's clock. True if there is something to collect.
    pub(crate) fn tick(&mut self) -> bool {
        let mut stirred = self.raw.tick();
        self.keep_election_timeout();
        if let Some(round) = &mut self.round {
            round.ticks_left = round.ticks_left.saturating_sub(1);
        }
        if self.raw.raft.state == StateRole::Leader {
            self.ticks_leading = self.ticks_leading.saturating_add(1);
            stirred |= self.hand_over_to_preferred();
        } else {
            self.ticks_leading = 0;
        }
        stirred || !self.reads.is_empty() || self.round.is_some() || !self.queue.is_empty()
    }

    /// Takes in another replica's message. Anything that does not belong here is dropped.
    pub(crate) fn step(&mut self, message: &GroupMessage) {
        let Ok(decoded) = Message::decode(message.payload.as_slice()) else { return };
        let kind = decoded.get_msg_type();
        let for_us = message.to == self.incarnation && decoded.to == self.incarnation.0;
        let from_them = message.from.0 == decoded.from && self.table.contains_key(&decoded.from);
        // raft itself believes any sender and any receiver (trap 23).
        if !for_us || !from_them || !is_accepted(kind) || !is_well_formed(&decoded) {
            return;
        }
        if kind == MessageType::MsgHeartbeat && decoded.commit > self.raw.raft.raft_log.last_index()
        {
            // The sender believes we acknowledged entries that we do not have. Raft would end the
            // process (trap 8); refusing the message keeps this replica silent instead of wrong.
            return;
        }
        // A refused message (an unknown responder, a dropped proposal) changes nothing.
        let _ = self.raw.step(decoded);
        self.keep_election_timeout();
    }

    /// Queues a command for the next entry.
    pub(crate) fn propose(&mut self, token: Token, command: Vec<u8>, deadline_ms: u64) {
        self.queue.push_back(Proposal { token, command, deadline_ms });
    }

    /// Queues a read for the next round.
    pub(crate) fn read(&mut self, token: Token, deadline_ms: u64) {
        self.reads.push(WaitingRead { token, deadline_ms });
    }

    /// Everything up to this Ready is durable: its messages may leave.
    pub(crate) fn persisted(&mut self, ready: u64, effects: &mut Effects) {
        assert!(ready <= self.handed_out, "only a Ready that was handed out can become durable");
        // raft keeps the last index and term of each Ready by its number, so that one whose entries were
        // overwritten meanwhile marks none of the newer ones durable (I5).
        // What waited only for its turn behind this Ready goes with it.
        let is_done = |one: &Unpersisted| one.ready <= ready || !one.must_sync;
        while self.unpersisted.front().is_some_and(is_done) {
            let done = self.unpersisted.pop_front().expect("just seen");
            self.raw.on_persist_ready(done.ready);
            self.send(done.messages, effects);
        }
    }

    /// The state machine's rows up to this index are written.
    pub(crate) fn applied(&mut self, index: u64) {
        // Only the driver moves raft's applied index, and only forward (trap 6).
        assert!(index >= self.applied && index <= self.apply_sent, "applied follows what was sent");
        self.applied = index;
        self.raw.advance_apply_to(index);
        self.raw.mut_store().cache.applied_to(index);
    }

    /// Entries came from disk: raft asks again for what it wanted to send.
    pub(crate) fn fetched(&mut self, low: u64, entries: Vec<LogEntry>) {
        let first = entries.first().map(|entry| entry.index);
        assert_eq!(first, Some(low), "an entry of the durable log is missing on disk");
        self.raw.mut_store().cache.hold_fetched(low, entries);
        let waiting = self.raw.store().contexts.borrow_mut().remove(&low);
        for context in waiting.into_iter().flatten() {
            self.raw.on_entries_fetched(context);
        }
        self.raw.mut_store().cache.drop_fetched();
    }

    /// Messages to a node are being lost. True if that concerns this group.
    pub(crate) fn unreachable(&mut self, node: NodeId) -> bool {
        let lost: Vec<u64> =
            self.table.iter().filter(|(_, on)| **on == node).map(|(&id, _)| id).collect();
        for &id in &lost {
            self.raw.report_unreachable(id);
        }
        !lost.is_empty()
    }

    /// Hands leadership to another voter, if this replica leads.
    pub(crate) fn transfer(&mut self, to: Incarnation) {
        if self.raw.raft.state == StateRole::Leader && to != self.incarnation {
            self.raw.transfer_leader(to.0);
            self.keep_election_timeout();
        }
    }

    /// Ends the event: proposes what is queued, starts a read round if one is due, and takes every
    /// Ready out of raft into effects.
    pub(crate) fn collect(&mut self, now: Now, effects: &mut Effects) {
        loop {
            self.fold(now, effects);
            self.start_read_round(now, effects);
            if !self.raw.has_ready() {
                break;
            }
            // Nothing is stepped or proposed until the Ready is advanced past (trap 3).
            let ready = self.raw.ready();
            self.handle_ready(ready, effects);
        }
        self.answer_confirmed(effects);
        self.request_fetches(effects);
        self.report_change(effects);
        self.check_invariants();
    }

    /// The group as seen from here. Walks every follower's progress: for changes and slow beats, not for
    /// ticks (trap 21).
    pub(crate) fn status(&self) -> GroupStatus {
        let raft = &self.raw.raft;
        let log = &raft.raft_log;
        let (role, term, leader) = self.view();
        let slowest = raft.prs().iter().filter(|(_, progress)| progress.recent_active);
        let matched_min = slowest.map(|(_, progress)| progress.matched).min();
        let lag = matched_min.map_or(0, |matched| log.last_index().saturating_sub(matched));
        let replicas = self.table.iter();
        GroupStatus {
            group: self.group,
            incarnation: self.incarnation,
            role,
            term,
            leader,
            commit: log.committed,
            applied: self.applied,
            last_index: log.last_index(),
            replicas: replicas
                .map(|(&id, &node)| Replica { incarnation: Incarnation(id), node })
                .collect(),
            voters: self.voters(),
            lag_max: if role == Role::Leader { lag } else { 0 },
        }
    }

    fn voters(&self) -> Vec<u64> {
        let mut voters: Vec<u64> = self.raw.raft.prs().conf().voters().ids().iter().collect();
        voters.sort_unstable();
        voters
    }

    /// Puts queued commands into entries, while nothing of this group waits for the disk: so a batch
    /// grows exactly as long as a sync takes.
    fn fold(&mut self, now: Now, effects: &mut Effects) {
        if self.queue.is_empty() {
            return;
        }
        if self.raw.raft.state != StateRole::Leader {
            // raft would carry it to the leader unseen, and answer nobody (trap 15).
            let refusal = Refusal::NotLeader(self.leader_node());
            let refused = self.queue.drain(..);
            effects.replies.extend(refused.map(|one| Reply { token: one.token, refusal }));
            return;
        }
        if self.unpersisted.iter().any(|ready| ready.has_entries) {
            return;
        }
        while !self.queue.is_empty() {
            let mut builder = EntryBuilder::new(self.incarnation, now.wall_ns);
            let mut tokens = Vec::new();
            while let Some(next) = self.queue.front() {
                if !builder.has_room(next.command.len(), self.config.max_entry_bytes) {
                    break;
                }
                let next = self.queue.pop_front().expect("just seen");
                if next.deadline_ms <= now.monotonic_ms {
                    let reply = Reply { token: next.token, refusal: Refusal::Expired };
                    effects.replies.push(reply);
                    continue;
                }
                builder.push(&next.command);
                tokens.push(next.token);
            }
            if !tokens.is_empty() {
                self.propose_entry(builder.finish(), tokens, effects);
            }
        }
    }

    fn propose_entry(&mut self, data: Vec<u8>, tokens: Vec<Token>, effects: &mut Effects) {
        let before = self.raw.raft.raft_log.last_index();
        if self.raw.propose(Vec::new(), data).is_err() {
            // Too much is uncommitted, or leadership is being handed over (trap 16). Nothing was appended.
            assert_eq!(
                before,
                self.raw.raft.raft_log.last_index(),
                "a refused proposal is not in the log"
            );
            let refused = tokens.into_iter();
            effects.replies.extend(refused.map(|token| Reply { token, refusal: Refusal::Busy }));
            return;
        }
        let index = self.raw.raft.raft_log.last_index();
        assert_eq!(index, before + 1, "a proposal is one entry");
        self.pending.push_back(Pending { index, term: self.raw.raft.term, tokens });
    }

    fn start_read_round(&mut self, now: Now, effects: &mut Effects) {
        if self.round.as_ref().is_some_and(|round| round.ticks_left == 0) {
            let lost = self.round.take().expect("just seen");
            self.reads.extend(lost.reads);
        }
        if self.reads.is_empty() || self.round.is_some() {
            return;
        }
        let no_leader = self.raw.raft.leader_id == raft::INVALID_ID;
        let (mut kept, mut refused) = (Vec::new(), Vec::new());
        for read in mem::take(&mut self.reads) {
            if read.deadline_ms <= now.monotonic_ms {
                refused.push((read.token, Refusal::Expired));
            } else if no_leader {
                refused.push((read.token, Refusal::NotLeader(None)));
            } else {
                kept.push(read);
            }
        }
        let answers = refused.into_iter();
        effects.reads.extend(answers.map(|(token, why)| ReadAnswer { token, result: Err(why) }));
        let leads = self.raw.raft.state == StateRole::Leader;
        if kept.is_empty() || (leads && !self.raw.raft.commit_to_current_term()) {
            // raft drops a read that comes before the term's first commit (trap 12); it waits here.
            self.reads = kept;
            return;
        }
        self.rounds_started += 1;
        let mut context = self.config.seed.to_be_bytes().to_vec();
        context.extend_from_slice(&self.incarnation.0.to_be_bytes());
        context.extend_from_slice(&self.rounds_started.to_be_bytes());
        self.raw.read_index(context.clone());
        let ticks_left = u32::try_from(self.config.election_ticks).expect("a small number");
        self.round = Some(ReadRound { context, reads: kept, ticks_left });
    }

    fn handle_ready(&mut self, mut ready: Ready, effects: &mut Effects) {
        assert!(ready.snapshot().is_empty(), "no snapshot message was let in (I3)");
        for state in ready.take_read_states() {
            if self.round.as_ref().is_some_and(|round| round.context == state.request_ctx) {
                let round = self.round.take().expect("just seen");
                self.confirmed.push((state.index, round.reads));
            }
        }
        // A leader's messages promise nothing of this node's disk; all others wait below (trap 2).
        self.send(ready.take_messages(), effects);
        // Never beyond what is durable here: a leader applies after its own sync too (trap 5).
        let committed = ready.take_committed_entries();
        self.hand_to_apply(committed, effects);
        let entries: Vec<LogEntry> =
            ready.take_entries().into_iter().map(from_raft_entry).collect();
        let delete = self.raw.mut_store().cache.append(&entries);
        let hard_state =
            ready.hs().map(|hs| HardState { term: hs.term, vote: hs.vote, commit: hs.commit });
        if let Some(hs) = ready.hs() {
            self.raw.mut_store().hard_state = hs.clone();
        }
        let (number, must_sync) = (ready.number(), ready.must_sync());
        self.handed_out = number;
        let messages = ready.take_persisted_messages();
        let has_entries = !entries.is_empty();
        if hard_state.is_some() || has_entries {
            // Both in one effect, and so in one batch (I7).
            let group = self.group;
            effects.persist.push(Persist {
                group,
                ready: number,
                hard_state,
                entries,
                delete,
                must_sync,
            });
        }
        // The other way to advance ends the process when it produces messages of a leader (trap 4).
        self.raw.advance_append_async(ready);
        if must_sync || !self.unpersisted.is_empty() {
            let waiting = Unpersisted { ready: number, messages, has_entries, must_sync };
            self.unpersisted.push_back(waiting);
        } else {
            // Nothing that a message could promise waits for the disk.
            self.raw.on_persist_ready(number);
            self.send(messages, effects);
        }
    }

    fn hand_to_apply(&mut self, committed: Vec<eraftpb::Entry>, effects: &mut Effects) {
        if committed.is_empty() {
            return;
        }
        let entries: Vec<LogEntry> = committed.into_iter().map(from_raft_entry).collect();
        for entry in &entries {
            assert_eq!(entry.index, self.apply_sent + 1, "committed entries come without a gap");
            self.apply_sent = entry.index;
            while self.pending.front().is_some_and(|first| first.index <= entry.index) {
                let first = self.pending.pop_front().expect("just seen");
                let ours = first.index == entry.index && first.term == entry.term;
                for (position, token) in (0u32..).zip(first.tokens) {
                    if ours {
                        let (group, index) = (self.group, entry.index);
                        effects.proposed.push(Proposed { group, index, position, token });
                    } else {
                        let refusal = Refusal::OutcomeUnknown;
                        effects.replies.push(Reply { token, refusal });
                    }
                }
            }
        }
        effects.committed.push(Committed { group: self.group, entries });
    }

    fn answer_confirmed(&mut self, effects: &mut Effects) {
        let applied = self.applied;
        self.confirmed.retain_mut(|(index, reads)| {
            if *index > applied {
                return true;
            }
            let answers = reads.drain(..);
            effects
                .reads
                .extend(answers.map(|read| ReadAnswer { token: read.token, result: Ok(applied) }));
            false
        });
    }

    fn request_fetches(&mut self, effects: &mut Effects) {
        let group = self.group;
        for wanted in self.raw.store().cache.take_wanted() {
            let max_bytes = wanted.max_bytes.min(FETCH_BYTES_MAX);
            let (low, high) = (wanted.low, wanted.high);
            effects.fetches.push(FetchLog { group, low, high, max_bytes });
        }
    }

    /// Answers those who waited for a leader that leads no more, and tells of the change.
    fn report_change(&mut self, effects: &mut Effects) {
        let view = self.view();
        if view == self.reported {
            return;
        }
        let was_leader = self.reported.0 == Role::Leader;
        if was_leader && (view.0 != Role::Leader || view.1 != self.reported.1) {
            let refusal = Refusal::OutcomeUnknown;
            for pending in self.pending.drain(..) {
                let waiting = pending.tokens.into_iter();
                effects.replies.extend(waiting.map(|token| Reply { token, refusal }));
            }
        }
        if let Some(round) = self.round.take() {
            // The round may never be answered under another leader; a fresh one is started.
            self.reads.extend(round.reads);
        }
        self.reported = view;
        effects.changed.push(self.status());
    }

    fn view(&self) -> (Role, u64, Option<NodeId>) {
        let role = match self.raw.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        };
        (role, self.raw.raft.term, self.leader_node())
    }

    fn leader_node(&self) -> Option<NodeId> {
        self.table.get(&self.raw.raft.leader_id).copied()
    }

    fn send(&self, messages: Vec<Message>, effects: &mut Effects) {
        for message in messages {
            let Some(&node) = self.table.get(&message.to) else { continue };
            let lane = match message.get_msg_type() {
                MessageType::MsgAppend | MessageType::MsgAppendResponse => Lane::Data,
                _ => Lane::Control,
            };
            let (from, to) = (self.incarnation, Incarnation(message.to));
            let payload = message.encode_to_vec();
            let message = GroupMessage { group: self.group, from, to, payload };
            effects.messages.push(OutMessage { node, lane, message });
        }
    }

    /// The voter that leads when all is well: groups spread over their voters by number.
    fn preferred(&self) -> Option<u64> {
        let voters = self.voters();
        let place = self.group.0.checked_rem(voters.len() as u64)?;
        voters.get(usize::try_from(place).expect("below a length")).copied()
    }

    /// A leader that is not the preferred one hands over once that one is up to date. True if it does.
    fn hand_over_to_preferred(&mut self) -> bool {
        let is_time = self.ticks_leading.is_multiple_of(self.config.spread_ticks);
        if !is_time || self.raw.raft.lead_transferee.is_some() {
            return false;
        }
        let Some(preferred) = self.preferred() else { return false };
        let commit = self.raw.raft.raft_log.committed;
        let progress = self.raw.raft.prs().get(preferred);
        let is_ready = preferred != self.incarnation.0
            && progress.is_some_and(|one| one.recent_active && one.matched >= commit);
        if is_ready {
            self.transfer(Incarnation(preferred));
        }
        is_ready
    }

    /// raft draws election timeouts from the thread's generator and compares them only in a tick. So
    /// after every event its draw is replaced by ours, which changes with term, role or leader.
    fn keep_election_timeout(&mut self) {
        let raft = &self.raw.raft;
        let seen = (raft.term, raft.state, raft.leader_id);
        if seen != self.drawn_for {
            self.drawn_for = seen;
            self.draw_election_timeout();
        }
        self.raw.raft.set_randomized_election_timeout(self.election_timeout);
    }

    fn draw_election_timeout(&mut self) {
        self.random = split_mix(self.random);
        let base = self.config.election_ticks;
        let preferred = self.preferred() == Some(self.incarnation.0);
        // The preferred leader's range ends where the others' begins, so that it usually wins alone.
        let (low, high) = if preferred { (0, 2) } else { (2, (base * 7 / 10).max(3)) };
        let span = (high - low) as u64;
        let drawn = usize::try_from(self.random % span).expect("below a small number");
        self.election_timeout = base + low + drawn;
    }

    fn check_invariants(&self) {
        let log = &self.raw.raft.raft_log;
        assert!(self.applied <= self.apply_sent, "applied is behind what was sent");
        assert!(self.apply_sent <= log.committed, "only committed entries are sent to apply");
        assert!(log.committed <= log.last_index(), "the commit index is in the log");
        let leads = self.reported.0 == Role::Leader;
        assert!(leads || self.pending.is_empty(), "only a leader has pending entries");
        debug_assert!(
            self.unpersisted.iter().is_sorted_by_key(|one| one.ready),
            "Readys become durable in order (I2)"
        );
    }
}

/// Raft's view of the log: never blocks, never fails.
struct LogStorage {
    cache: LogCache,
    hard_state: eraftpb::HardState,
    conf_state: eraftpb::ConfState,
    /// Sends that wait for entries from disk, by the first entry they want: one fetch serves them all.
    contexts: RefCell<BTreeMap<u64, Vec<GetEntriesContext>>>,
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

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        // The log is kept whole, so no replica needs one; any other error would end the process (trap 10).
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}

/// Every limit and guard is set: the library's defaults have none (trap 1), and bytes in flight are bounded
/// only by messages times their size (trap 22).
fn raft_config(incarnation: Incarnation, applied: u64, config: &CoreConfig) -> Config {
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

/// Messages that only this replica itself may step, that hand in proposals from outside the
/// handle, or that need snapshots, are not let in (traps 11 and 15).
fn is_accepted(kind: MessageType) -> bool {
    !matches!(
        kind,
        MessageType::MsgHup
            | MessageType::MsgBeat
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgCheckQuorum
            | MessageType::MsgPropose
            | MessageType::MsgTransferLeader
            | MessageType::MsgSnapshot
    )
}

/// What raft takes for granted of a message, and would end the process over.
fn is_well_formed(message: &Message) -> bool {
    let consecutive = || {
        let mut indexes = message.entries.iter().zip(message.index.saturating_add(1)..);
        indexes.all(|(entry, index)| entry.index == index)
    };
    match message.get_msg_type() {
        MessageType::MsgReadIndex => message.entries.len() == 1,
        MessageType::MsgReadIndexResp => message.term != 0 && message.entries.len() == 1,
        MessageType::MsgAppend => message.term != 0 && consecutive(),
        _ => message.term != 0,
    }
}

fn to_raft_entry(entry: LogEntry) -> eraftpb::Entry {
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

fn from_raft_entry(entry: eraftpb::Entry) -> LogEntry {
    let kind = match entry.get_entry_type() {
        EntryType::EntryNormal => EntryKind::Normal,
        EntryType::EntryConfChange => EntryKind::ConfChange,
        EntryType::EntryConfChangeV2 => EntryKind::ConfChangeV2,
    };
    LogEntry { index: entry.index, term: entry.term, kind, data: entry.data }
}

fn to_raft_conf_state(conf: &ConfState) -> eraftpb::ConfState {
    eraftpb::ConfState {
        voters: conf.voters.clone(),
        learners: conf.learners.clone(),
        voters_outgoing: conf.voters_outgoing.clone(),
        learners_next: conf.learners_next.clone(),
        ..eraftpb::ConfState::default()
    }
}

/// One step of SplitMix64 (Steele, Lea, Flood 2014): enough to spread election timeouts.
fn split_mix(state: u64) -> u64 {
    let mut mixed = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replica 1 of a group of three, as new.
    fn replica() -> RaftReplica {
        let table = (1..=3).map(|id| Replica { incarnation: Incarnation(id), node: NodeId(id) });
        let boot = BootRecord::new_group(GroupId(1), Incarnation(1), table.collect());
        RaftReplica::new(boot, &CoreConfig::default())
    }

    /// What the replica is after it took this message, and what it answered.
    fn step(from: u64, kind: MessageType, change: impl FnOnce(&mut Message)) -> (Role, u64, usize) {
        let mut message = Message::default();
        message.set_msg_type(kind);
        message.from = from;
        message.to = 1;
        message.term = 6;
        change(&mut message);
        let mut replica = replica();
        replica.step(&GroupMessage {
            group: GroupId(1),
            from: Incarnation(from),
            to: Incarnation(1),
            payload: message.encode_to_vec(),
        });
        let mut effects = Effects::default();
        replica.collect(Now::default(), &mut effects);
        let last = replica.status().last_index;
        (replica.status().role, last, effects.messages.len() + effects.persist.len())
    }

    const UNTOUCHED: (Role, u64, usize) = (Role::Follower, 5, 0);

    #[test]
    fn a_heartbeat_beyond_the_log_is_refused_instead_of_fatal_trap_8() {
        assert_ne!(step(2, MessageType::MsgHeartbeat, |m| m.commit = 5), UNTOUCHED);
        assert_eq!(step(2, MessageType::MsgHeartbeat, |m| m.commit = 6), UNTOUCHED);
    }

    #[test]
    fn strangers_and_local_messages_are_refused_traps_11_15_23() {
        assert_eq!(step(9, MessageType::MsgHeartbeat, |_| {}), UNTOUCHED);
        assert_eq!(step(2, MessageType::MsgHeartbeat, |m| m.to = 3), UNTOUCHED);
        for kind in [
            MessageType::MsgHup,
            MessageType::MsgBeat,
            MessageType::MsgPropose,
            MessageType::MsgTransferLeader,
            MessageType::MsgSnapshot,
            MessageType::MsgUnreachable,
            MessageType::MsgCheckQuorum,
        ] {
            assert_eq!(
                step(2, kind, |m| m.entries.push(Default::default())),
                UNTOUCHED,
                "{kind:?}"
            );
        }
    }

    #[test]
    fn malformed_messages_are_refused_instead_of_fatal() {
        assert_eq!(step(2, MessageType::MsgReadIndex, |_| {}), UNTOUCHED);
        assert_eq!(step(2, MessageType::MsgReadIndexResp, |m| m.index = 99), UNTOUCHED);
        let no_term = |m: &mut Message| {
            m.term = 0;
            m.index = 99;
            m.entries.push(Default::default());
        };
        assert_eq!(step(2, MessageType::MsgReadIndexResp, no_term), UNTOUCHED);
        let entry = |index| eraftpb::Entry { index, term: 6, ..Default::default() };
        let gap = |m: &mut Message| {
            (m.index, m.log_term) = (5, 5);
            m.entries = vec![entry(6), entry(8)];
        };
        assert_eq!(step(2, MessageType::MsgAppend, gap), UNTOUCHED);
        let whole = |m: &mut Message| {
            (m.index, m.log_term) = (5, 5);
            m.entries = vec![entry(6), entry(7)];
        };
        assert_eq!(step(2, MessageType::MsgAppend, whole).1, 7);
    }
}
