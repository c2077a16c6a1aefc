//! Changes of a group's members: proposing one step, and taking over a committed one.
//!
//! Owns the replica table, which travels in the change's context, and the rule of one change at a time. Must
//! never decide which change is wanted.
//!
//! Context: `count u16 ‖ (incarnation u64 ‖ node u64)…`, the members that the change adds.

use std::collections::BTreeMap;

use ledger_proof::encoding::{DecodeError, Reader, Writer};
use ledger_types::{Incarnation, NodeId};
use raft::StateRole;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, Message, MessageType,
};
use raft_prost::Message as _;

use super::RaftReplica;
use super::storage::from_raft_conf_state;
use crate::effects::{Committed, MemberChange, MembersChanged, Replica, Role};
use crate::entry::EntryKind;

/// Most senders outside the table whose nodes are kept: a leader, and candidates that come and go.
const STRANGERS_MAX: usize = 8;
/// Most members that one change adds.
const ADDED_MAX: usize = 64;

/// How far a leader's newest configuration is from being known durably to a majority. Raft-rs takes a change over
/// when it is committed, and the commit index is synced only together with later entries: until one of those is
/// committed, a crash of all nodes brings the configuration before it back, whose voters may be gone by then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Settling {
    /// It does not lead.
    Unknown,
    /// An entry has to be proposed.
    Due,
    /// The entry at this index tells every member that the change is committed.
    At(u64),
}

impl RaftReplica {
    /// True if this replica leads and a majority knows its configuration durably.
    pub(super) fn is_conf_settled(&self) -> bool {
        let leads = self.raw.raft.state == StateRole::Leader;
        let committed = self.raw.raft.raft_log.committed;
        leads && matches!(self.settling, Settling::At(index) if index <= committed)
    }

    /// Proposes the entry that settles the newest configuration, an empty one like that which begins a term.
    pub(super) fn settle_members(&mut self) {
        let leads = self.raw.raft.state == StateRole::Leader && self.reported.0 == Role::Leader;
        if leads
            && self.settling == Settling::Due
            && self.raw.propose(Vec::new(), Vec::new()).is_ok()
        {
            self.settling = Settling::At(self.raw.raft.raft_log.last_index());
        }
    }

    /// True if a message counts although its sender is not in this replica's table: the members may have changed
    /// while this one was away, and it learns that from a leader that it has never heard of, or after a vote for
    /// a candidate that it has never heard of. Raft's rule is that such requests count whatever the receiver's
    /// configuration says (Ongaro 2014, section 4.1); answers are counted of members only. A request of an earlier
    /// term counts, too: what it is answered is the only way in which its sender learns of this one's term, and
    /// without that neither could be elected if both are needed.
    pub(super) fn meet(&mut self, from: NodeId, message: &Message) -> bool {
        let asks = matches!(
            message.get_msg_type(),
            MessageType::MsgAppend
                | MessageType::MsgHeartbeat
                | MessageType::MsgSnapshot
                | MessageType::MsgRequestPreVote
                | MessageType::MsgRequestVote
        );
        if !asks || message.from == raft::INVALID_ID {
            return false;
        }
        if self.strangers.len() >= STRANGERS_MAX && !self.strangers.contains_key(&message.from) {
            self.strangers.pop_first();
        }
        self.strangers.insert(message.from, from);
        true
    }

    /// The node of a member, or of one that only spoke to this replica.
    pub(super) fn node_of(&self, id: u64) -> Option<NodeId> {
        self.table.get(&id).or_else(|| self.strangers.get(&id)).copied()
    }

    /// Takes over another replica table.
    pub(super) fn set_table(&mut self, table: BTreeMap<u64, NodeId>) {
        self.table = table;
        self.strangers.retain(|id, _| !self.table.contains_key(id));
    }

    /// Proposes one step, if this replica leads, no other step is under way and the step fits the
    /// configuration. Whoever asked looks at the configuration, not for an answer (trap 13).
    pub(crate) fn change_members(&mut self, change: &MemberChange) {
        let leads = self.raw.raft.state == StateRole::Leader;
        if !leads || self.raw.raft.has_pending_conf() || self.raw.raft.lead_transferee.is_some() {
            return;
        }
        if let Some(change) = self.conf_change(change) {
            // Refused only like any proposal, when too much is uncommitted; then it is asked for again.
            let _ = self.raw.propose_conf_change(Vec::new(), change);
        }
    }

    fn conf_change(&self, change: &MemberChange) -> Option<ConfChangeV2> {
        let conf = from_raft_conf_state(&self.raw.raft.prs().conf().to_conf_state());
        let is_joint = !conf.voters_outgoing.is_empty();
        let is_voter = |id: u64| conf.voters.contains(&id) || conf.voters_outgoing.contains(&id);
        let mut out = ConfChangeV2::default();
        match change {
            // A leader that leaves its own group does not step down by itself (trap 14).
            MemberChange::LeaveJoint if is_joint && conf.voters.contains(&self.incarnation.0) => {}
            MemberChange::AddLearner(added) if !is_joint => {
                let id = added.incarnation.0;
                if is_voter(id) || conf.learners.contains(&id) {
                    return None;
                }
                out.context = encode_added(&[*added]);
                out.changes.push(single(ConfChangeType::AddLearnerNode, id));
            }
            MemberChange::RemoveLearner(incarnation) if !is_joint => {
                if !conf.learners.contains(&incarnation.0) {
                    return None;
                }
                out.changes.push(single(ConfChangeType::RemoveNode, incarnation.0));
            }
            MemberChange::EnterJoint { promote, remove } if !is_joint => {
                let are_learners = promote.iter().all(|one| conf.learners.contains(&one.0));
                let may_leave = |one: &Incarnation| *one != self.incarnation && is_voter(one.0);
                let voters = conf.voters.len() + promote.len();
                let is_legal = are_learners && remove.iter().all(may_leave);
                if !is_legal || promote.is_empty() || voters <= remove.len() {
                    return None;
                }
                out.set_transition(ConfChangeTransition::Explicit);
                let promoted = promote.iter().map(|one| single(ConfChangeType::AddNode, one.0));
                let removed = remove.iter().map(|one| single(ConfChangeType::RemoveNode, one.0));
                out.changes = promoted.chain(removed).collect();
            }
            _ => return None,
        }
        Some(out)
    }

    /// Takes over the changes among committed entries and notes what each came to. After this raft works with
    /// the new configuration; the rows follow when the entries are applied.
    pub(super) fn take_members_over(&mut self, committed: &mut Committed) {
        for entry in &committed.entries {
            if entry.kind == EntryKind::Normal {
                continue;
            }
            assert_eq!(entry.kind, EntryKind::ConfChangeV2, "the first form is never proposed");
            let change = ConfChangeV2::decode(entry.data.as_slice());
            let change = change.expect("a committed change was encoded by raft");
            let added = decode_added(&change.context).expect("a change names what it adds");
            let conf = self.raw.apply_conf_change(&change);
            let conf = conf.expect("a leader proposes only what fits its configuration");
            let conf_state = from_raft_conf_state(&conf);
            let mut table = std::mem::take(&mut self.table);
            table.extend(added.iter().map(|one| (one.incarnation.0, one.node)));
            table.retain(|id, _| {
                let lists = [&conf_state.voters, &conf_state.learners, &conf_state.voters_outgoing];
                lists.iter().any(|ids| ids.contains(id)) || *id == self.incarnation.0
            });
            self.set_table(table);
            let replicas = self.replicas_in(&conf_state);
            committed.members.push(MembersChanged { index: entry.index, conf_state, replicas });
            self.is_status_due = true;
            if self.raw.raft.state == StateRole::Leader {
                self.settling = Settling::Due;
                self.step_down_if_removed();
            }
        }
    }

    /// A leader may find that a change which its predecessor proposed removes it. Raft would go on leading and end
    /// the process at the next acknowledgement (trap 14).
    fn step_down_if_removed(&mut self) {
        let raft = &mut self.raw.raft;
        if raft.prs().get(self.incarnation.0).is_none() {
            raft.become_follower(raft.term, raft::INVALID_ID);
            self.keep_election_timeout();
        }
    }

    /// The table's lines of a configuration's members: the same on every replica.
    fn replicas_in(&self, conf: &crate::effects::ConfState) -> Vec<Replica> {
        let lists = [&conf.voters, &conf.learners, &conf.voters_outgoing];
        let is_in = |id: &u64| lists.iter().any(|ids| ids.contains(id));
        let lines = self.table.iter().filter(|(id, _)| is_in(id));
        lines.map(|(&id, &node)| Replica { incarnation: Incarnation(id), node }).collect()
    }
}

/// Whether these bytes are a change that can be taken over: every number in it is known, and so is who is added.
pub(super) fn is_change(data: &[u8]) -> bool {
    let Ok(change) = ConfChangeV2::decode(data) else { return false };
    let mut kinds = change.changes.iter().map(|one| one.change_type);
    ConfChangeTransition::from_i32(change.transition).is_some()
        && kinds.all(|kind| ConfChangeType::from_i32(kind).is_some())
        && decode_added(&change.context).is_ok()
}

fn single(kind: ConfChangeType, id: u64) -> ConfChangeSingle {
    let mut change = ConfChangeSingle::default();
    change.set_change_type(kind);
    change.node_id = id;
    change
}

fn encode_added(added: &[Replica]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 + 16 * added.len());
    let mut out = Writer::new(&mut bytes);
    assert!(added.len() <= ADDED_MAX, "one change adds few members");
    out.u16(added.len() as u16);
    for one in added {
        out.u64(one.incarnation.0);
        out.u64(one.node.0);
    }
    bytes
}

/// Reads a change's context; an empty one adds nobody.
fn decode_added(context: &[u8]) -> Result<Vec<Replica>, DecodeError> {
    if context.is_empty() {
        return Ok(Vec::new());
    }
    let mut reader = Reader::new(context);
    let count = usize::from(reader.u16("added members")?);
    let count = reader.count("added members", count, ADDED_MAX, 16)?;
    let mut added = Vec::with_capacity(count);
    for _ in 0..count {
        let incarnation = Incarnation(reader.u64("added incarnation")?);
        added.push(Replica { incarnation, node: NodeId(reader.u64("added node")?) });
    }
    reader.finish()?;
    Ok(added)
}
