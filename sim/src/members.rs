//! Who the members of each group are to be, and the steps that make it so.
//!
//! Owns the plan, in place of the directory, and the budget: a member is given up only while every other
//! member of its groups is whole. Must never let a group lose more copies than it can.

use std::collections::BTreeMap;

use ledger_proof::EntryPosition;
use ledger_shard_core::apply::genesis_rows;
use ledger_shard_core::boot::first_rows;
use ledger_shard_core::command::system::FIRST_OWNER_EPOCH;
use ledger_shard_core::effects::{BootRecord, GroupStatus, Input, MemberChange, Replica, Role};
use ledger_types::{GroupId, Incarnation, NodeId, VaultRef};

use crate::boot;
use crate::node::Node;
use crate::world::World;

/// Time of the directory's first block, Unix nanoseconds.
const FOUNDED_AT_NS: u64 = 1_767_000_000_000_000_000;
/// A learner this close to the leader's log may vote.
const CLOSE_ENTRIES: u64 = 10;

/// What a group's members are to be.
pub(crate) struct GroupPlan {
    pub(crate) group: GroupId,
    /// The voter at each place.
    pub(crate) members: BTreeMap<usize, Incarnation>,
    /// A replica that follows without a vote, and its place.
    pub(crate) learner: Option<(usize, Incarnation)>,
    pub(crate) change: Option<Change>,
}

/// A change on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    /// A voter's place goes to a new replica.
    Replace { old: (usize, Incarnation), new: Incarnation, place: usize },
    /// A learner comes.
    Learn { new: Incarnation, place: usize },
    /// The learner goes.
    Unlearn { old: Incarnation },
}

impl World {
    /// Makes the nodes and the first rows of every group.
    pub(crate) fn found(&mut self) {
        for place in 0..self.swarm.nodes {
            let id = self.new_node();
            self.nodes.push(Node::new(place, id, self.now));
            self.places.insert(id, place);
        }
        for number in 0..self.swarm.groups.len() {
            let group = GroupId(number as u64);
            let places = self.swarm.groups[number].clone();
            let members: BTreeMap<usize, Incarnation> =
                places.into_iter().map(|place| (place, self.new_incarnation())).collect();
            let plan = GroupPlan { group, members, learner: None, change: None };
            let table = self.table(&plan, None);
            for (&place, &incarnation) in &plan.members {
                let record = BootRecord::new_group(group, incarnation, table.clone());
                let mut rows = first_rows(&record);
                if group == GroupId::SYSTEM {
                    let (index, term) = BootRecord::FIRST;
                    let timestamp_ns = FOUNDED_AT_NS;
                    let position = EntryPosition { shard: group.0, term, index, timestamp_ns };
                    rows.extend(genesis_rows(VaultRef::SYSTEM, FIRST_OWNER_EPOCH, position));
                }
                self.nodes[place].disk.write(rows);
                self.nodes[place].disk.sync();
            }
            self.plans.push(plan);
        }
        for place in 0..self.swarm.nodes {
            self.boot(place);
        }
    }

    /// A number for a new life of a node.
    pub(crate) fn new_node(&mut self) -> NodeId {
        self.nodes_made += 1;
        NodeId(self.nodes_made)
    }

    fn new_incarnation(&mut self) -> Incarnation {
        self.incarnations_made += 1;
        Incarnation(self.incarnations_made)
    }

    /// The replicas of a group and where they live, with one that is about to join.
    fn table(&self, plan: &GroupPlan, joining: Option<Replica>) -> Vec<Replica> {
        let members =
            plan.members.iter().chain(plan.learner.as_ref().map(|(place, id)| (place, id)));
        let lines = members.map(|(&place, &incarnation)| {
            let node = self.nodes[place].id;
            Replica { incarnation, node }
        });
        lines.chain(joining).collect()
    }

    /// True if the disk at a place may go: every group there keeps all its other copies, and no change of
    /// members is on its way.
    pub(crate) fn may_lose(&self, place: usize) -> bool {
        self.plans.iter().all(|plan| {
            let has_learner = plan.learner.is_some_and(|(there, _)| there == place);
            let is_coming = match plan.change {
                Some(Change::Replace { place: to, .. } | Change::Learn { place: to, .. }) => {
                    to == place
                }
                Some(Change::Unlearn { .. }) | None => false,
            };
            !has_learner
                && !is_coming
                && (!plan.members.contains_key(&place) || self.is_whole(plan))
        })
    }

    /// True if no copy of the group is damaged, lost or on its way.
    fn is_whole(&self, plan: &GroupPlan) -> bool {
        let is_sound = |place: &usize| {
            let node = &self.nodes[*place];
            !node.disk.is_damaged() && !node.is_lost
        };
        plan.change.is_none() && plan.members.keys().all(is_sound)
    }

    /// Gives the places of a node that lost its disk to its new life, or to other nodes where it can be. The disk
    /// is empty; the process is down.
    pub(crate) fn replace_lost(&mut self, lost: usize, old_id: NodeId, moves_away: bool) {
        for number in 0..self.plans.len() {
            let Some(&old) = self.plans[number].members.get(&lost) else { continue };
            assert!(self.plans[number].change.is_none(), "one change at a time");
            let new = self.new_incarnation();
            let away = self.spare_place(self.plans[number].group, lost).filter(|_| moves_away);
            let place = away.unwrap_or(lost);
            self.counts.moved += u64::from(away.is_some());
            self.place_replica(number, (place, new), Some((old, old_id)));
            self.plans[number].change = Some(Change::Replace { old: (lost, old), new, place });
            self.oracle.buried(old);
        }
    }

    /// An operator's order: a learner comes to a node that never had the group, or goes. Nothing happens where
    /// that does not fit.
    pub(crate) fn order_learner(&mut self, number: usize, near: usize) -> bool {
        let plan = &self.plans[number];
        if !self.is_whole(plan) {
            return false;
        }
        if let Some((_, old)) = plan.learner {
            self.plans[number].change = Some(Change::Unlearn { old });
            return true;
        }
        let Some(place) = self.spare_place(plan.group, near) else { return false };
        let new = self.new_incarnation();
        self.place_replica(number, (place, new), None);
        self.plans[number].change = Some(Change::Learn { new, place });
        true
    }

    /// An operator's order: the living replica of a group at a place, or at the first place behind it that has one,
    /// goes to a node that never had the group. The old one votes until the change is done, and may lead.
    pub(crate) fn order_move(&mut self, number: usize, near: usize) -> bool {
        let plan = &self.plans[number];
        if !self.is_whole(plan) {
            return false;
        }
        let members = || plan.members.iter().map(|(&place, &old)| (place, old));
        let behind = members().find(|(place, _)| *place >= near);
        let old = behind.or_else(|| members().next()).expect("a group has members");
        let Some(place) = self.spare_place(plan.group, near) else { return false };
        let new = self.new_incarnation();
        self.place_replica(number, (place, new), None);
        self.plans[number].change = Some(Change::Replace { old, new, place });
        self.counts.moved_alive += 1;
        true
    }

    /// A running node that never had the group, the first from a place on.
    fn spare_place(&self, group: GroupId, near: usize) -> Option<usize> {
        let mut places = (0..self.nodes.len()).map(|step| (near + step) % self.nodes.len());
        places.find(|&place| {
            let node = &self.nodes[place];
            let is_sound = node.process.is_some() && !node.disk.is_damaged();
            is_sound && !boot::groups(&node.disk).contains(&group)
        })
    }

    /// Writes the first rows of a replica that joins, and starts it where the process runs. `lost` is a
    /// member whose node is no more, with that node.
    fn place_replica(
        &mut self,
        number: usize,
        (place, new): (usize, Incarnation),
        lost: Option<(Incarnation, NodeId)>,
    ) {
        let joining = Replica { incarnation: new, node: self.nodes[place].id };
        let mut table = self.table(&self.plans[number], Some(joining));
        if let Some((old, node)) = lost {
            table
                .iter_mut()
                .filter(|line| line.incarnation == old)
                .for_each(|line| line.node = node);
        }
        let record = BootRecord::added_replica(self.plans[number].group, new, table);
        let node = &mut self.nodes[place];
        node.disk.write(first_rows(&record));
        node.disk.sync();
        if node.process.is_some() {
            self.start_replica(place, record);
            self.wake(place);
        }
    }

    /// The place of a group's newest leader, if one is known.
    pub(crate) fn leader_place(&self, group: GroupId) -> Option<usize> {
        let leaders = self.nodes.iter().filter_map(|node| {
            let seen = node.seen(group)?;
            (seen.role == Role::Leader).then_some((seen.term, node.place))
        });
        leaders.max().map(|(_, place)| place)
    }

    /// Asks each group's leader for the next step of its change.
    pub(crate) fn drive_members(&mut self) {
        for number in 0..self.plans.len() {
            let Some(change) = self.plans[number].change else { continue };
            let group = self.plans[number].group;
            let Some(place) = self.leader_place(group) else { continue };
            let process = self.nodes[place].process.as_ref().expect("it leads");
            let Some(status) = process.core.status(group) else { continue };
            if status.role != Role::Leader {
                continue;
            }
            if is_over(change, &status) {
                self.end_change(number, change);
            } else if let Some(input) = self.step_of(change, &status) {
                self.give(place, input);
            }
        }
    }

    fn end_change(&mut self, number: usize, change: Change) {
        let plan = &mut self.plans[number];
        plan.change = None;
        self.counts.changes_done += 1;
        match change {
            Change::Replace { old, new, place } => {
                plan.members.remove(&old.0);
                plan.members.insert(place, new);
            }
            Change::Learn { new, place } => plan.learner = Some((place, new)),
            Change::Unlearn { .. } => plan.learner = None,
        }
    }

    fn step_of(&self, change: Change, status: &GroupStatus) -> Option<Input> {
        let group = status.group;
        let conf = &status.conf_state;
        let step = |change| Some(Input::ChangeMembers { group, change });
        let learner = |incarnation, place: usize| {
            let node = self.nodes[place].id;
            step(MemberChange::AddLearner(Replica { incarnation, node }))
        };
        match change {
            Change::Learn { new, place } => learner(new, place),
            Change::Unlearn { old } => step(MemberChange::RemoveLearner(old)),
            // A leader that leaves hands over first, also in the middle of the change.
            Change::Replace { old: (_, old), .. } if status.incarnation == old => {
                let mut others = status.members.iter().filter(|one| one.is_active);
                let to = others.find(|one| conf.voters.contains(&one.replica.incarnation.0))?;
                Some(Input::TransferLeader { group, to: to.replica.incarnation })
            }
            Change::Replace { .. } if !conf.voters_outgoing.is_empty() => {
                step(MemberChange::LeaveJoint)
            }
            Change::Replace { new, place, .. } if !conf.learners.contains(&new.0) => {
                learner(new, place)
            }
            Change::Replace { old: (_, old), new, .. } => {
                let progress = status.members.iter().find(|one| one.replica.incarnation == new)?;
                let is_here = progress.is_active && progress.snapshot_index == 0;
                let is_close = is_here && progress.matched + CLOSE_ENTRIES >= status.last_index;
                let change = MemberChange::EnterJoint { promote: vec![new], remove: vec![old] };
                is_close.then_some(Input::ChangeMembers { group, change })
            }
        }
    }
}

fn is_over(change: Change, status: &GroupStatus) -> bool {
    let conf = &status.conf_state;
    match change {
        // Only then is the place of a lost copy free for the next loss.
        Change::Replace { old, new, .. } => {
            status.is_conf_settled
                && conf.voters_outgoing.is_empty()
                && conf.voters.contains(&new.0)
                && !conf.voters.contains(&old.1.0)
        }
        Change::Learn { new, .. } => conf.learners.contains(&new.0),
        Change::Unlearn { old } => !conf.learners.contains(&old.0),
    }
}
