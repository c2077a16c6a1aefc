//! Which node should lead which shard: pure functions from a snapshot to a plan.
//!
//! Owns the choice of a shard's preferred leader and the plan that evens out leaders over nodes. Must
//! never carry a plan out, and never depend on anything but its arguments.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ledger_proof::system_entity::{ReplicaRole, ShardEntity, ShardReplica};
use ledger_types::{GroupId, Incarnation, NodeId};

#[cfg(test)]
mod tests;

/// A voting replica of a shard and the node it lives on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Voter {
    /// The node.
    pub node: NodeId,
    /// The replica's Raft id.
    pub incarnation: Incarnation,
}

/// The replicas of a shard that may lead it: the voters of its current set, during a change those of them that
/// stay. One that is on its way in has no vote yet.
pub fn voters_of(shard: &ShardEntity) -> Vec<Voter> {
    let may_lead =
        |replica: &&ShardReplica| replica.in_new_set && replica.role == ReplicaRole::Voter;
    let voters = shard.replicas.iter().filter(may_lead);
    voters.map(|replica| Voter { node: replica.node, incarnation: replica.incarnation }).collect()
}

/// The voter that leads the shard when nothing speaks against it: voters ordered by node, the shard's
/// number modulo their count. Neighbouring shards with the same voters so get different leaders.
/// `None` without voters.
pub fn preferred_leader(group: GroupId, voters: &[Voter]) -> Option<Voter> {
    nth_choice(group, voters, 0)
}

/// The voter to try after `attempt` others did not answer as leader. Attempt 0 is the preferred leader.
pub(crate) fn nth_choice(group: GroupId, voters: &[Voter], attempt: u32) -> Option<Voter> {
    let count = u64::try_from(voters.len()).expect("a count fits 64 bits");
    if count == 0 {
        return None;
    }
    let mut ordered = voters.to_vec();
    ordered.sort_unstable();
    let index = (group.0 % count + u64::from(attempt) % count) % count;
    ordered.get(usize::try_from(index).expect("below the length")).copied()
}

/// A shard as the planner sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardLeadership {
    /// The shard.
    pub group: GroupId,
    /// Its leader's node, if one is known. A shard without a known leader is left alone.
    pub leader: Option<NodeId>,
    /// Its voters.
    pub voters: Vec<Voter>,
}

/// What the planner works from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LeadershipSnapshot {
    /// Every shard once.
    pub shards: Vec<ShardLeadership>,
    /// The nodes that may lead: alive and not draining.
    pub eligible: BTreeSet<NodeId>,
}

/// Hand the leadership of a shard from one node to another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Transfer {
    /// The shard.
    pub group: GroupId,
    /// The node that leads now.
    pub from: NodeId,
    /// The voter that should lead.
    pub to: Voter,
}

/// Plans transfers, at most one per shard, after which no chain of transfers could make the numbers of
/// leaders per eligible node more even; where every shard has a voter on every eligible node they then
/// differ by at most one. Leaders on nodes that are not eligible leave if their shard has an eligible
/// voter. An even snapshot gives an empty plan.
pub fn spread(snapshot: &LeadershipSnapshot) -> Vec<Transfer> {
    let mut plan = Plan::new(snapshot);
    plan.leave_ineligible();
    let mut squares = plan.sum_of_squares();
    while plan.improve() {
        let now = plan.sum_of_squares();
        assert!(
            now < squares,
            "each improvement lowers the sum of squared loads, so the loop ends"
        );
        squares = now;
    }
    plan.transfers(snapshot)
}

struct Plan<'a> {
    shards: BTreeMap<GroupId, &'a ShardLeadership>,
    leaders: BTreeMap<GroupId, NodeId>,
    eligible: &'a BTreeSet<NodeId>,
    /// Leaders per eligible node.
    loads: BTreeMap<NodeId, u64>,
    /// from -> to -> the shards whose leadership could go that way in one transfer.
    ways: BTreeMap<NodeId, BTreeMap<NodeId, BTreeSet<GroupId>>>,
}

impl<'a> Plan<'a> {
    fn new(snapshot: &'a LeadershipSnapshot) -> Plan<'a> {
        let mut plan = Plan {
            shards: snapshot.shards.iter().map(|shard| (shard.group, shard)).collect(),
            leaders: BTreeMap::new(),
            eligible: &snapshot.eligible,
            loads: snapshot.eligible.iter().map(|node| (*node, 0)).collect(),
            ways: BTreeMap::new(),
        };
        for shard in &snapshot.shards {
            if let Some(leader) = shard.leader {
                plan.set_leader(shard.group, leader);
            }
        }
        plan
    }

    fn set_leader(&mut self, group: GroupId, leader: NodeId) {
        if let Some(old) = self.leaders.insert(group, leader) {
            if let Some(load) = self.loads.get_mut(&old) {
                *load -= 1;
            }
            for shards in self.ways.get_mut(&old).into_iter().flat_map(BTreeMap::values_mut) {
                shards.remove(&group);
            }
        }
        if let Some(load) = self.loads.get_mut(&leader) {
            *load += 1;
        }
        for target in self.targets(group, leader) {
            self.ways.entry(leader).or_default().entry(target).or_default().insert(group);
        }
    }

    /// The eligible nodes besides `leader` that have a voter of the shard.
    fn targets(&self, group: GroupId, leader: NodeId) -> Vec<NodeId> {
        let voters = self.shards[&group].voters.iter().map(|voter| voter.node);
        voters.filter(|node| *node != leader && self.eligible.contains(node)).collect()
    }

    fn leave_ineligible(&mut self) {
        let strays: Vec<(GroupId, NodeId)> = self
            .leaders
            .iter()
            .filter(|(_, leader)| !self.eligible.contains(leader))
            .map(|(group, leader)| (*group, *leader))
            .collect();
        for (group, leader) in strays {
            let targets = self.targets(group, leader);
            if let Some(target) = targets.into_iter().min_by_key(|node| (self.loads[node], *node)) {
                self.set_leader(group, target);
            }
        }
    }

    fn sum_of_squares(&self) -> u64 {
        self.loads.values().map(|load| load * load).sum()
    }

    /// Takes one leader from a loaded node to one with at least two fewer, if need be through nodes in
    /// between, whose numbers stay the same. False if there is no such way.
    fn improve(&mut self) -> bool {
        let mut sources: Vec<(u64, NodeId)> =
            self.loads.iter().map(|(node, load)| (*load, *node)).collect();
        sources.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        for (load, source) in sources {
            if let Some(path) = self.path_to_lighter(source, load) {
                for (group, target) in path {
                    self.set_leader(group, target);
                }
                return true;
            }
        }
        false
    }

    /// A chain of transfers from `source` to the lightest node that can be reached and has at least two
    /// fewer leaders; the shortest chain if several nodes are as light.
    fn path_to_lighter(&self, source: NodeId, load: u64) -> Option<Vec<(GroupId, NodeId)>> {
        let mut reached_by: BTreeMap<NodeId, (NodeId, GroupId)> = BTreeMap::new();
        let mut reached: Vec<NodeId> = Vec::new();
        let mut queue = VecDeque::from([source]);
        while let Some(node) = queue.pop_front() {
            for (target, groups) in self.ways.get(&node).into_iter().flatten() {
                let Some(group) = groups.first() else { continue };
                if *target == source || reached_by.contains_key(target) {
                    continue;
                }
                reached_by.insert(*target, (node, *group));
                reached.push(*target);
                queue.push_back(*target);
            }
        }
        let lightest = reached.into_iter().min_by_key(|node| self.loads[node])?;
        let lighter = self.loads[&lightest] + 2 <= load;
        lighter.then(|| walk_back(&reached_by, source, lightest))
    }

    fn transfers(&self, snapshot: &LeadershipSnapshot) -> Vec<Transfer> {
        let mut transfers = Vec::new();
        for shard in &snapshot.shards {
            let (Some(from), Some(to)) = (shard.leader, self.leaders.get(&shard.group)) else {
                continue;
            };
            if from == *to {
                continue;
            }
            let to = shard.voters.iter().find(|voter| voter.node == *to);
            let to = *to.expect("leaders are moved to voters only");
            transfers.push(Transfer { group: shard.group, from, to });
        }
        transfers.sort_unstable();
        transfers
    }
}

fn walk_back(
    reached_by: &BTreeMap<NodeId, (NodeId, GroupId)>,
    source: NodeId,
    target: NodeId,
) -> Vec<(GroupId, NodeId)> {
    let mut path = Vec::new();
    let mut node = target;
    while node != source {
        let (before, group) = reached_by[&node];
        path.push((group, node));
        node = before;
    }
    path
}
