//! One replica of a group: Raft, its log in memory, and the requests that wait for it.
//!
//! Owns, with the files below it, everything that names a raft-rs type; its messages leave as opaque bytes. Must never wait, and
//! must never let a message or an acknowledgement out before what it promises is durable (I1).

mod election;
mod members;
mod offers;
mod proposals;
mod reads;
mod snapshots;
mod storage;
mod truncation;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ledger_types::{GroupId, Incarnation, NodeId};
use raft::eraftpb::{self, Message, MessageType};
use raft::{RawNode, Ready, StateRole};
use raft_prost::Message as _;

use crate::effects::{
    BootRecord, Committed, Effects, FetchLog, GroupMessage, GroupStatus, HardState, Lane,
    MemberProgress, Now, OutMessage, Persist, Proposed, Refusal, Replica, Reply, Role, Token,
};
use crate::entry::LogEntry;
use crate::log_cache::LogCache;
use crate::node_core::CoreConfig;

use election::split_mix;
use members::Settling;
use offers::Offers;
use proposals::Proposal;
use reads::{ReadRound, WaitingRead};
use snapshots::Incoming;
use storage::{
    LogStorage, from_raft_conf_state, from_raft_entry, is_accepted, is_well_formed, raft_config,
    to_raft_conf_state,
};
use truncation::LogLook;

/// Entries that one fetch from disk brings at most.
const FETCH_BYTES_MAX: u64 = 1 << 20;

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
    /// Where those are that speak to this replica and are not in its table.
    strangers: BTreeMap<u64, NodeId>,
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
    /// Raft was asked to campaign because somebody needs a leader; once for each start.
    has_campaigned: bool,
    /// While this replica leads: what makes the newest configuration durable everywhere.
    settling: Settling,
    /// A snapshot on its way in.
    incoming: Option<Incoming>,
    /// Up to where the leader's log has no entries any more.
    leader_log_floor: u64,
    /// The highest commit index that the leader of this term told with entries.
    heard_commit: u64,
    ticks_since_truncation: u32,
    /// The time to look at the log has come since it was last looked at.
    is_log_look_due: bool,
    /// The log when it was last looked at for truncation.
    log_look: LogLook,
    /// Something of the status changed that `reported` does not hold.
    is_status_due: bool,
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
            (boot.log_bytes, config.cache_bytes_per_group),
        );
        assert_eq!(cache.last_index(), boot.last_index, "the boot record holds the whole tail");
        let storage = LogStorage {
            cache,
            hard_state,
            conf_state: to_raft_conf_state(&boot.conf_state),
            contexts: RefCell::new(BTreeMap::new()),
            offers: RefCell::new(Offers::default()),
        };
        // Silent: elections of thousands of groups would fill any log (trap 18).
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&raft_config(incarnation, boot.applied, config), storage, &logger)
            .expect("the configuration is valid and the log cache cannot fail");
        let mut replica = RaftReplica {
            group,
            incarnation,
            table: replicas.iter().map(|one| (one.incarnation.0, one.node)).collect(),
            strangers: BTreeMap::new(),
            raw,
            config: config.clone(),
            random: split_mix(config.seed)
                ^ split_mix(group.0).rotate_left(7)
                ^ split_mix(!incarnation.0),
            election_timeout: 0,
            // No replica is in this state, so that the first look draws.
            drawn_for: (0, StateRole::Leader, raft::INVALID_ID),
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
            has_campaigned: false,
            settling: Settling::Unknown,
            incoming: None,
            leader_log_floor: 0,
            heard_commit: 0,
            ticks_since_truncation: 0,
            is_log_look_due: false,
            log_look: LogLook::at_start(boot.applied),
            is_status_due: false,
            reported: (Role::Follower, 0, None),
        };
        replica.keep_election_timeout();
        replica
    }

    /// One tick of Raft's clock. True if there is something to collect. `laggards` are nodes that no leadership
    /// is handed to.
    pub(crate) fn tick(&mut self, laggards: &BTreeSet<NodeId>) -> bool {
        if self.stands_still() {
            return true;
        }
        // First, because raft's own tick may just have forgotten who was heard from of late.
        let mut stirred = self.tick_leading(laggards);
        stirred |= self.raw.tick();
        self.keep_election_timeout();
        stirred |= self.tick_log();
        stirred |= self.tick_offers();
        if let Some(round) = &mut self.round {
            round.ticks_left = round.ticks_left.saturating_sub(1);
        }
        stirred || !self.reads.is_empty() || self.round.is_some() || !self.queue.is_empty()
    }

    /// Takes in another replica's message, from this node. Anything that does not belong here is dropped.
    pub(crate) fn step(&mut self, from: NodeId, message: &GroupMessage, effects: &mut Effects) {
        if self.stands_still() {
            return;
        }
        let Ok(decoded) = Message::decode(message.payload.as_slice()) else { return };
        // The library's own getters end the process over a number that they do not know.
        let Some(kind) = MessageType::from_i32(decoded.msg_type) else { return };
        let for_us = message.to == self.incarnation && decoded.to == self.incarnation.0;
        let from_them = message.from.0 == decoded.from;
        // raft itself believes any sender and any receiver (trap 23).
        if !for_us || !from_them || !is_accepted(kind) || !is_well_formed(&decoded) {
            return;
        }
        if !self.table.contains_key(&decoded.from) && !self.meet(from, &decoded) {
            return;
        }
        if kind == MessageType::MsgHeartbeat && decoded.commit > self.raw.raft.raft_log.last_index()
        {
            // The sender believes we acknowledged entries that we do not have. Raft would end the
            // process (trap 8); refusing the message keeps this replica silent instead of wrong.
            return;
        }
        let is_acknowledgement = kind == MessageType::MsgAppendResponse && !decoded.reject;
        if is_acknowledgement && decoded.index > self.raw.raft.raft_log.last_index() {
            // Raft would count entries that nobody has, and send what follows them.
            return;
        }
        if snapshots::is_offer(&decoded) {
            return self.offered(decoded, effects);
        }
        let told = if kind == MessageType::MsgAppend { decoded.commit } else { 0 };
        // A refused message (an unknown responder, a dropped proposal) changes nothing.
        let _ = self.raw.step(decoded);
        self.keep_election_timeout();
        if self.raw.raft.leader_id == message.from.0 {
            self.leader_log_floor = self.leader_log_floor.max(message.log_floor);
            self.heard_commit = self.heard_commit.max(told);
        }
    }

    /// Asks for votes if no leader is known, once for each start: somebody needs this group, which may have
    /// slept on every node. Others that hear a leader refuse in the pre-vote.
    pub(crate) fn campaign(&mut self) {
        let knows_leader = self.raw.raft.leader_id != raft::INVALID_ID;
        // raft itself would let a learner campaign, and elect a replica that knows of no voters at once.
        let may_lead = self.raw.raft.promotable() && !self.stands_still();
        if may_lead && !self.has_campaigned && !knows_leader {
            self.has_campaigned = true;
            // Refused while a change of members is committed and not taken over; then the timeout does it.
            let _ = self.raw.campaign();
            self.keep_election_timeout();
        }
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
            self.end_install(done.ready);
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
        let is_gone = low < self.raw.store().cache.first_index();
        assert!(first == Some(low) || is_gone, "an entry of the durable log is missing on disk");
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
        self.restore_if_idle(effects);
        loop {
            self.fold(now, effects);
            self.settle_members();
            if self.is_installing() {
                break;
            }
            self.start_read_round(now, effects);
            if !self.raw.has_ready() {
                break;
            }
            // Nothing is stepped or proposed until the Ready is advanced past (trap 3).
            let ready = self.raw.ready();
            self.handle_ready(ready, effects);
        }
        self.truncate(effects);
        self.answer_confirmed(effects);
        self.request_fetches(effects);
        self.request_cuts(effects);
        self.report_change(effects);
        self.check_invariants();
    }

    /// The group as seen from here. Walks every follower's progress: for changes and slow beats, not for
    /// ticks (trap 21).
    pub(crate) fn status(&self) -> GroupStatus {
        let raft = &self.raw.raft;
        let (log, cache) = (&raft.raft_log, &self.raw.store().cache);
        let (role, term, leader) = self.view();
        let leads = role == Role::Leader;
        let members = if leads { self.member_progress() } else { Vec::new() };
        let active = members.iter().filter(|one| one.is_active);
        let matched_min = active.map(|one| one.matched).min();
        let lag_max = matched_min.map_or(0, |matched| log.last_index().saturating_sub(matched));
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
            lag_max,
            conf_state: from_raft_conf_state(&raft.prs().conf().to_conf_state()),
            members,
            first_index: cache.first_index(),
            log_bytes: cache.log_bytes(),
            oldest_entry_ns: cache.oldest_entry_ns(),
            snapshot: self.snapshot_phase(),
            is_asleep: false,
            is_conf_settled: self.is_conf_settled(),
        }
    }

    /// Where a leader stands with every other member, by Raft id.
    fn member_progress(&self) -> Vec<MemberProgress> {
        let offers = self.raw.store().offers.borrow();
        let others = self.raw.raft.prs().iter().filter(|(id, _)| **id != self.incarnation.0);
        let mut members: Vec<MemberProgress> = others
            .filter_map(|(&id, progress)| {
                let node = *self.table.get(&id)?;
                Some(MemberProgress {
                    replica: Replica { incarnation: Incarnation(id), node },
                    matched: progress.matched,
                    is_active: progress.recent_active,
                    snapshot_index: offers.sent_index(id),
                })
            })
            .collect();
        members.sort_unstable_by_key(|one| one.replica.incarnation);
        members
    }

    fn voters(&self) -> Vec<u64> {
        let mut voters: Vec<u64> = self.raw.raft.prs().conf().voters().ids().iter().collect();
        voters.sort_unstable();
        voters
    }

    fn handle_ready(&mut self, mut ready: Ready, effects: &mut Effects) {
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
        if !ready.snapshot().is_empty() {
            assert!(committed.is_empty() && !has_entries, "a snapshot is persisted alone (I3)");
            let hs = &self.raw.store().hard_state;
            let hard_state = HardState { term: hs.term, vote: hs.vote, commit: hs.commit };
            self.install(number, hard_state, effects);
        } else if hard_state.is_some() || has_entries {
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
        self.hand_to_apply(committed, effects);
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
        let mut committed = Committed { group: self.group, entries, members: Vec::new() };
        self.take_members_over(&mut committed);
        effects.committed.push(committed);
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
        if view == self.reported && !self.is_status_due {
            return;
        }
        self.is_status_due = false;
        if view != self.reported {
            self.leave_view(view, effects);
        }
        effects.changed.push(self.status());
    }

    /// Role, term or leader are others than before: what was asked of the old leader is not answered by it.
    fn leave_view(&mut self, view: (Role, u64, Option<NodeId>), effects: &mut Effects) {
        let was_leader = self.reported.0 == Role::Leader;
        if was_leader && (view.0 != Role::Leader || view.1 != self.reported.1) {
            let refusal = Refusal::OutcomeUnknown;
            for pending in self.pending.drain(..) {
                let waiting = pending.tokens.into_iter();
                effects.replies.extend(waiting.map(|token| Reply { token, refusal }));
            }
        }
        self.settling = match self.raw.raft.state {
            // A change was committed since the term began.
            StateRole::Leader if self.settling == Settling::Due => Settling::Due,
            // The first entry of a leader's own term settles what was committed before it.
            StateRole::Leader => Settling::At(self.raw.raft.raft_log.last_index()),
            _ => Settling::Unknown,
        };
        if let Some(round) = self.round.take() {
            // The round may never be answered under another leader; a fresh one is started.
            self.reads.extend(round.reads);
        }
        self.reported = view;
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
        self.node_of(self.raw.raft.leader_id)
    }

    fn send(&self, messages: Vec<Message>, effects: &mut Effects) {
        for message in messages {
            let Some(node) = self.node_of(message.to) else { continue };
            let lane = match message.get_msg_type() {
                MessageType::MsgAppend
                | MessageType::MsgAppendResponse
                | MessageType::MsgSnapshot => Lane::Data,
                _ => Lane::Control,
            };
            let (from, to) = (self.incarnation, Incarnation(message.to));
            let payload = message.encode_to_vec();
            let log_floor = self.own_log_floor();
            let (group, is_catching_up) = (self.group, false);
            let message = GroupMessage { group, from, to, payload, log_floor, is_catching_up };
            effects.messages.push(OutMessage { node, lane, message });
        }
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

#[cfg(test)]
mod tests;
