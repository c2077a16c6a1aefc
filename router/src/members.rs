//! Who is to belong to which shard: pure functions from what is seen to the next thing to do.
//!
//! Owns the plan that gives the replicas of a removed node to the node that came in its place, and the order
//! of steps by which a group follows its shard's entity. Must never carry anything out, nor depend on anything
//! but its arguments: a step is looked for anew each time, so any leader can go on where another stopped.

use std::collections::BTreeMap;
use std::sync::Arc;

use ledger_proof::system_entity::{NodeEntity, NodeState, ShardEntity, ShardReplica};
use ledger_types::{GroupId, Incarnation, NodeId};

#[cfg(test)]
mod tests;

/// Most shards that bring a replica to one node at the same time: each copies the shard's whole state.
pub const CHANGES_PER_NODE_MAX: usize = 4;
/// How far a learner may be behind when it is given a vote, in entries: what a leader sends in a moment.
pub const CATCH_UP_ENTRIES_MAX: u64 = 256;

/// Give a replica's place in a shard to another node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replacement {
    /// The shard.
    pub shard: GroupId,
    /// The replica that is to leave.
    pub old: Incarnation,
    /// The node of the new replica.
    pub node: NodeId,
}

/// The replacements that should begin now: each shard with a replica on a removed node gets one on the active
/// node that has the removed one's name, if that has none of the shard yet. `_system` comes first; a shard
/// changes one replica at a time. Where nobody came under the name nothing is planned.
pub fn plan_replacements(
    nodes: &[Arc<NodeEntity>],
    shards: &[Arc<ShardEntity>],
) -> Vec<Replacement> {
    let by_id: BTreeMap<NodeId, &NodeEntity> =
        nodes.iter().map(|node| (node.id, &**node)).collect();
    let is_removed = |id: NodeId| by_id.get(&id).is_some_and(|n| n.state == NodeState::Removed);
    let active = nodes.iter().filter(|node| node.state == NodeState::Active);
    let by_name: BTreeMap<&str, NodeId> =
        active.map(|node| (node.name.as_str(), node.id)).collect();
    let mut underway: BTreeMap<NodeId, usize> = BTreeMap::new();
    for replica in shards.iter().filter_map(|shard| shard.incoming()) {
        *underway.entry(replica.node).or_default() += 1;
    }
    let mut ordered: Vec<&ShardEntity> = shards.iter().map(|shard| &**shard).collect();
    ordered.sort_unstable_by_key(|shard| shard.id);
    let mut plan = Vec::new();
    for shard in ordered {
        let lost = |replica: &&ShardReplica| is_removed(replica.node);
        // In the middle of a change only the newcomer itself may be given up, if its node is gone.
        let old = match shard.is_changing() {
            true => shard.incoming().filter(lost),
            false => shard.replicas.iter().find(lost),
        };
        let Some(old) = old else { continue };
        let Some(&node) = by_name.get(by_id[&old.node].name.as_str()) else { continue };
        let count = underway.entry(node).or_default();
        if shard.replica_on(node).is_some() || *count >= CHANGES_PER_NODE_MAX {
            continue;
        }
        *count += 1;
        plan.push(Replacement { shard: shard.id, old: old.incarnation, node });
    }
    plan
}

/// Where a group's leader stands with another member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The member.
    pub incarnation: Incarnation,
    /// Last index known to be durable there.
    pub matched: u64,
    /// It was heard from lately.
    pub is_active: bool,
    /// A snapshot is on its way to it.
    pub awaits_snapshot: bool,
}

/// A group as its leader sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GroupView {
    /// The leader's own replica.
    pub leader: Incarnation,
    /// Voters of the current configuration, or of the one being entered.
    pub voters: Vec<Incarnation>,
    /// Voters of the configuration being left; empty unless the configuration is joint.
    pub voters_outgoing: Vec<Incarnation>,
    /// Learners, those that a joint configuration still counts as voters included.
    pub learners: Vec<Incarnation>,
    /// No crash of all nodes brings an earlier configuration back.
    pub is_settled: bool,
    /// Last index of the leader's log.
    pub last_index: u64,
    /// The other members.
    pub progress: Vec<Progress>,
}

/// The next thing for a group's leader to do about its members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Let this replica follow the log.
    AddLearner(Incarnation, NodeId),
    /// Let this replica go, which never got a vote.
    RemoveLearner(Incarnation),
    /// Store the proof of the trust bundle that names the new voters, while the old ones still vote.
    StoreLink,
    /// Hand leadership to this voter, because the leader itself leaves.
    Transfer(Incarnation),
    /// Enter the joint configuration.
    EnterJoint {
        /// Learners that become voters.
        promote: Vec<Incarnation>,
        /// Voters that leave.
        remove: Vec<Incarnation>,
    },
    /// Leave the joint configuration.
    LeaveJoint,
    /// Tell the directory that this replica has left, with the entity's epoch.
    Finish(Incarnation),
}

/// Decides the next step of the group towards the voters that its shard's entity names. `None` if there is
/// nothing to do or something to wait for. `is_link_stored` counts for `_system` only.
///
/// Why no voter leaves before its replacement votes: voters leave in one way only, the joint configuration
/// that gives every replica of the entity's new set a vote, and that is entered once each of them has caught
/// up. An entity older than the group's configuration leads to no step except out of a joint configuration,
/// which is always right.
pub fn next_step(entity: &ShardEntity, group: &GroupView, is_link_stored: bool) -> Option<Step> {
    let newest = entity.replicas.last().map(|replica| replica.incarnation);
    let members = group.voters.iter().chain(&group.voters_outgoing).chain(&group.learners);
    if !group.voters_outgoing.is_empty() {
        let leaves = !group.voters.contains(&group.leader);
        return if leaves { group.successor(&group.voters) } else { Some(Step::LeaveJoint) };
    }
    // Raft ids are drawn in ascending order, and the newest one of a shard stays in its entity until a newer
    // one comes: a member above it means that this copy of the entity is behind.
    if members.max() > newest.as_ref() {
        return None;
    }
    let is_known = |id: &Incarnation| entity.replicas.iter().any(|one| one.incarnation == *id);
    if let Some(stray) = group.learners.iter().find(|learner| !is_known(learner)) {
        return Some(Step::RemoveLearner(*stray));
    }
    if !entity.is_changing() {
        return None;
    }
    let wanted: Vec<&ShardReplica> = entity.replicas.iter().filter(|one| one.in_new_set).collect();
    let is_wanted = |id: &Incarnation| wanted.iter().any(|one| one.incarnation == *id);
    let waiting = wanted.iter().filter(|one| !group.voters.contains(&one.incarnation));
    let mut promote = Vec::new();
    for replica in waiting {
        if !group.learners.contains(&replica.incarnation) {
            return Some(Step::AddLearner(replica.incarnation, replica.node));
        }
        if !group.has_caught_up(replica.incarnation) {
            return None;
        }
        promote.push(replica.incarnation);
    }
    let leaving = group.voters.iter().copied().filter(|voter| !is_wanted(voter));
    let remove: Vec<Incarnation> = leaving.collect();
    if promote.is_empty() && remove.is_empty() {
        // What the directory is told of as done lets other members go.
        let leaving = entity.leaving().filter(|_| group.is_settled);
        return leaving.map(|replica| Step::Finish(replica.incarnation));
    }
    // A leader that leaves hands over first; a group never removes its own leader. If nobody of the voters that
    // stay is there, there is no majority either, and no step.
    if remove.contains(&group.leader) {
        let stay: Vec<Incarnation> = group.voters.iter().copied().filter(is_wanted).collect();
        return group.successor(&stay);
    }
    // Signed by a leader that is in both voter sets, so that it counts whichever bundle comes before.
    if entity.id == GroupId::SYSTEM && !is_link_stored {
        return Some(Step::StoreLink);
    }
    Some(Step::EnterJoint { promote, remove })
}

impl GroupView {
    fn has_caught_up(&self, id: Incarnation) -> bool {
        self.progress.iter().any(|one| {
            one.incarnation == id
                && one.is_active
                && !one.awaits_snapshot
                && one.matched.saturating_add(CATCH_UP_ENTRIES_MAX) >= self.last_index
        })
    }

    /// The transfer to whichever of `voters` is there and has most of the log; none if none is there.
    fn successor(&self, voters: &[Incarnation]) -> Option<Step> {
        let alive = self.progress.iter().filter(|one| one.is_active);
        let candidates = alive.filter(|one| voters.contains(&one.incarnation));
        let best = candidates.max_by_key(|one| one.matched)?;
        Some(Step::Transfer(best.incarnation))
    }
}
