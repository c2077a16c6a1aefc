//! All of a node's groups as one state machine: inputs in, effects out, nothing else.
//!
//! Owns the turn and the order of things in it. Must never do I/O or read a clock; production and the
//! simulator run the same turn.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use ledger_types::{GroupId, NodeId};

use crate::effects::{
    BootRecord, Effects, GroupMessage, GroupStatus, Input, Now, ReadAnswer, Refusal, Reply,
};
use crate::replica::RaftReplica;

/// How a node's groups behave. The same on every node of a cluster but for the seed.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Milliseconds between ticks.
    pub tick_ms: u64,
    /// Ticks without a leader's word after which an election may begin; up to twice that is drawn.
    pub election_ticks: usize,
    /// Ticks between a leader's heartbeats.
    pub heartbeat_ticks: usize,
    /// Ticks between attempts to hand leadership to a group's preferred voter.
    pub spread_ticks: u32,
    /// Bytes of entries in one append message.
    pub max_message_bytes: u64,
    /// Append messages on the way to one follower.
    pub max_inflight_messages: usize,
    /// Bytes of a group's uncommitted entries above which proposals are refused.
    pub max_uncommitted_bytes: u64,
    /// Bytes of committed entries handed to apply at once. Nobody in the group is answered before all of them are
    /// applied, and a key may cost a hundred microseconds where no cache holds it.
    pub max_committed_bytes_per_ready: u64,
    /// Bytes of commands folded into one entry; a larger single command is an entry of its own.
    pub max_entry_bytes: usize,
    /// Entries that a group's log keeps for a member that is behind; past that it gets a snapshot.
    pub log_entries_max: u64,
    /// Bytes that a group's log keeps for a member that is behind.
    pub log_bytes_max: u64,
    /// Bytes of applied entries that a group keeps in memory for slow followers.
    pub cache_bytes_per_group: usize,
    /// Different on every start of every node: feeds election timeouts and read contexts.
    pub seed: u64,
}

impl Default for CoreConfig {
    fn default() -> CoreConfig {
        CoreConfig {
            tick_ms: 50,
            election_ticks: 10,
            heartbeat_ticks: 2,
            spread_ticks: 40,
            max_message_bytes: 256 * 1024,
            max_inflight_messages: 64,
            max_uncommitted_bytes: 32 * 1024 * 1024,
            max_committed_bytes_per_ready: 512 * 1024,
            max_entry_bytes: 256 * 1024,
            log_entries_max: 100_000,
            log_bytes_max: 64 * 1024 * 1024,
            cache_bytes_per_group: 2 * 1024 * 1024,
            seed: 0,
        }
    }
}

/// Ticks made up for after a stall. More would let elections begin that only the stall justifies, and end
/// the time in which followers refuse to vote, which raft counts in ticks (trap 17).
const TICK_DEBT_MAX: u64 = 2;

/// Ticks between looks whether this node catches up: many in the time between two attempts to hand it leadership.
const LAG_LOOK_TICKS: u32 = 4;

/// All groups of one node.
pub struct NodeCore {
    config: CoreConfig,
    node: NodeId,
    groups: BTreeMap<GroupId, RaftReplica>,
    dirty: BTreeSet<GroupId>,
    last_tick_ms: Option<u64>,
    /// Nodes that said last that they are catching up.
    laggards: BTreeSet<NodeId>,
    /// This node is.
    is_catching_up: bool,
    /// This node is not to be made a leader.
    is_unfit: bool,
    ticks_since_look: u32,
}

impl NodeCore {
    /// A node without groups; they come in as [`Input::Start`].
    pub fn new(config: CoreConfig, node: NodeId) -> NodeCore {
        let (groups, dirty) = (BTreeMap::new(), BTreeSet::new());
        NodeCore {
            config,
            node,
            groups,
            dirty,
            last_tick_ms: None,
            laggards: BTreeSet::new(),
            is_catching_up: false,
            is_unfit: false,
            ticks_since_look: 0,
        }
    }

    /// Takes in everything that happened and says what to do about it. Messages that came in are
    /// handled before time is, so that a stall does not look like a dead leader.
    pub fn turn(&mut self, inputs: &mut Vec<Input>, now: Now, effects: &mut Effects) {
        for input in inputs.drain(..) {
            self.handle(input, effects);
        }
        self.tick(now);
        for group in mem::take(&mut self.dirty) {
            if let Some(replica) = self.groups.get_mut(&group) {
                replica.collect(now, effects);
            }
        }
        if self.is_catching_up || self.is_unfit {
            for one in &mut effects.messages {
                one.message.is_catching_up = true;
            }
        }
    }

    /// When the next tick is due, in monotonic milliseconds.
    pub fn next_tick_ms(&self) -> u64 {
        self.last_tick_ms.map_or(0, |last| last + self.config.tick_ms)
    }

    /// Every group as seen from here.
    pub fn statuses(&self) -> Vec<GroupStatus> {
        self.groups.values().map(RaftReplica::status).collect()
    }

    /// One group as seen from here.
    pub fn status(&self, group: GroupId) -> Option<GroupStatus> {
        self.groups.get(&group).map(RaftReplica::status)
    }

    fn handle(&mut self, input: Input, effects: &mut Effects) {
        match input {
            Input::Start(boot) => self.start(*boot),
            Input::Propose { group, token, command, deadline_ms } => match self.visit(group) {
                Some(replica) => replica.propose(token, command, deadline_ms),
                None => effects.replies.push(Reply { token, refusal: Refusal::NoReplica }),
            },
            Input::Read { group, token, deadline_ms } => match self.visit(group) {
                Some(replica) => replica.read(token, deadline_ms),
                None => {
                    let result = Err(Refusal::NoReplica);
                    effects.reads.push(ReadAnswer { token, result });
                }
            },
            Input::Message { from, message } => self.message(from, &message, effects),
            Input::Persisted { group, ready } => {
                self.started(group).persisted(ready, effects);
            }
            Input::Applied { group, index } => self.started(group).applied(index),
            Input::Fetched { group, low, entries } => self.started(group).fetched(low, entries),
            Input::Unreachable(node) => {
                for (&group, replica) in &mut self.groups {
                    if replica.unreachable(node) {
                        self.dirty.insert(group);
                    }
                }
            }
            Input::TransferLeader { group, to } => {
                if let Some(replica) = self.visit(group) {
                    replica.transfer(to);
                }
            }
            Input::Campaign { group } => {
                if let Some(replica) = self.visit(group) {
                    replica.campaign();
                }
            }
            Input::ChangeMembers { group, change } => {
                if let Some(replica) = self.visit(group) {
                    replica.change_members(&change);
                }
            }
            Input::SnapshotCut { group, to, manifest } => {
                self.started(group).snapshot_cut(to, manifest);
            }
            Input::SnapshotProgress { group, id } => {
                if let Some(replica) = self.visit(group) {
                    replica.snapshot_progress(id);
                }
            }
            Input::SnapshotFetched { group, id, verified } => {
                self.started(group).snapshot_fetched(id, verified, effects);
            }
            Input::Unfit(is_unfit) => self.is_unfit = is_unfit,
            Input::Tick => {}
        }
    }

    fn start(&mut self, boot: BootRecord) {
        let here = boot
            .replicas
            .iter()
            .any(|replica| replica.incarnation == boot.incarnation && replica.node == self.node);
        assert!(here, "a replica is started only on the node that its table names");
        let (group, config) = (boot.group, &self.config);
        self.groups.entry(group).or_insert_with(|| RaftReplica::new(boot, config));
        self.dirty.insert(group);
    }

    fn message(&mut self, from: NodeId, message: &GroupMessage, effects: &mut Effects) {
        match message.is_catching_up {
            true => self.laggards.insert(from),
            false => self.laggards.remove(&from),
        };
        if let Some(replica) = self.visit(message.group) {
            replica.step(from, message, effects);
        }
    }

    fn tick(&mut self, now: Now) {
        let last = *self.last_tick_ms.get_or_insert(now.monotonic_ms);
        let due = now.monotonic_ms.saturating_sub(last) / self.config.tick_ms;
        if due == 0 {
            return;
        }
        // What is over the debt is forgiven, not postponed.
        self.last_tick_ms = Some(last + due * self.config.tick_ms);
        self.look_at_lag();
        for (&group, replica) in &mut self.groups {
            for _ in 0..due.min(TICK_DEBT_MAX) {
                if replica.tick(&self.laggards) {
                    self.dirty.insert(group);
                }
            }
        }
    }

    /// Looks now and then whether this node catches up in any group.
    fn look_at_lag(&mut self) {
        self.ticks_since_look += 1;
        if self.ticks_since_look >= LAG_LOOK_TICKS {
            self.ticks_since_look = 0;
            self.is_catching_up = self.groups.values().any(RaftReplica::is_catching_up);
        }
    }

    /// The group's replica, if there is one; the turn will collect from it.
    fn visit(&mut self, group: GroupId) -> Option<&mut RaftReplica> {
        let replica = self.groups.get_mut(&group)?;
        self.dirty.insert(group);
        Some(replica)
    }

    /// The replica of a group that answers to what the core itself asked for.
    fn started(&mut self, group: GroupId) -> &mut RaftReplica {
        self.visit(group).expect("a group's own work is answered only while the group runs (I6)")
    }
}

#[cfg(test)]
mod tests;
