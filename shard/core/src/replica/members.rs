//! Changes of a group's members: proposing one step, and taking over a committed one.
//!
//! Owns the replica table, which travels in the change's context, and the rule of one change at a time. Must
//! never decide which change is wanted.
//!
//! Context: `count u16 ‖ (incarnation u64 ‖ node u64)…`, the members that the change adds.

use ledger_proof::encoding::{DecodeError, Reader, Writer};
use ledger_types::{Incarnation, NodeId};
use raft::StateRole;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};
use raft_prost::Message as _;

use super::RaftReplica;
use super::storage::from_raft_conf_state;
use crate::effects::{Committed, MemberChange, MembersChanged, Replica};
use crate::entry::EntryKind;

/// Most members that one change adds.
const ADDED_MAX: usize = 64;

impl RaftReplica {
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
            MemberChange::LeaveJoint if is_joint => {}
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
                // A leader that leaves its own group does not step down by itself (trap 14).
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
            self.table.extend(added.iter().map(|one| (one.incarnation.0, one.node)));
            self.table.retain(|id, _| {
                let lists = [&conf_state.voters, &conf_state.learners, &conf_state.voters_outgoing];
                lists.iter().any(|ids| ids.contains(id)) || *id == self.incarnation.0
            });
            let replicas = self.replicas_in(&conf_state);
            committed.members.push(MembersChanged { index: entry.index, conf_state, replicas });
            self.is_status_due = true;
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
