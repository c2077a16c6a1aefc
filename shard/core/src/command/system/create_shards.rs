//! `CreateShards`: makes data shards until the cluster has as many as wanted.
//!
//! Owns the command's bytes, its effect and its tests. Must never touch a shard that exists: running it
//! again with the same number changes nothing.
//!
//! Fields: `count u32 ‖ replication factor u8`.

use std::collections::{BTreeMap, BTreeSet};

use ledger_proof::encoding::{DecodeError, Reader, Writer};
use ledger_proof::system_entity::{
    NodeEntity, NodeState, ReplicaRole, ShardEntity, ShardReplica, shard_key,
};
use ledger_types::{GroupId, Incarnation, NodeId};

use super::draft::Draft;
use super::entity::{INCARNATION_SEQUENCE, SHARD_SEQUENCE};
use super::{
    Answer, InvalidCommand, SystemRefusal, SystemResult, check_replication_factor, checked,
};

/// Most shards that one command makes; the answer tells how many there are, so the caller repeats it.
pub const SHARDS_PER_COMMAND_MAX: u64 = 1024;

/// Asks for data shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CreateShards {
    /// How many data shards there should be in all.
    pub count: u32,
    /// Replicas of each new shard; capped by the number of active nodes.
    pub replication_factor: u8,
}

impl CreateShards {
    pub(super) fn check(&self) -> Result<(), InvalidCommand> {
        check_replication_factor(self.replication_factor)
    }

    pub(super) fn write(&self, out: &mut Writer<'_>) {
        out.u32(self.count);
        out.u8(self.replication_factor);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<CreateShards, DecodeError> {
        let count = reader.u32("shard count")?;
        let command = CreateShards { count, replication_factor: reader.u8("replication factor")? };
        checked(command.check())?;
        Ok(command)
    }

    pub(super) fn plan(&self, draft: &mut Draft<'_>) -> Answer {
        let shards: Vec<ShardEntity> = draft.list("shard/")?;
        let data_shards = shards.iter().filter(|shard| shard.id != GroupId::SYSTEM);
        let existing = data_shards.clone().count() as u64;
        let missing = u64::from(self.count).saturating_sub(existing).min(SHARDS_PER_COMMAND_MAX);
        let mut placement = Placement::new(draft.nodes()?, data_shards);
        if missing > 0 && placement.nodes.is_empty() {
            return Ok(Err(SystemRefusal::NoNode));
        }
        let mut created = Vec::new();
        for _ in 0..missing {
            let id = GroupId(draft.draw(SHARD_SEQUENCE)?);
            if id.0 > u64::from(u32::MAX) {
                return Ok(Err(SystemRefusal::IdsExhausted));
            }
            let mut replicas = Vec::new();
            for node in placement.choose(usize::from(self.replication_factor)) {
                let incarnation = Incarnation(draft.draw(INCARNATION_SEQUENCE)?);
                replicas.push(settled_voter(node, incarnation));
            }
            draft.put(shard_key(id), &ShardEntity { id, epoch: 1, replicas });
            draft.add_shard_load(id);
            created.push(id);
        }
        Ok(Ok(SystemResult::ShardsReady { data_shards: existing + missing, created }))
    }
}

/// A replica that votes in a group whose members are not changing.
pub(super) fn settled_voter(node: NodeId, incarnation: Incarnation) -> ShardReplica {
    ShardReplica {
        node,
        incarnation,
        role: ReplicaRole::Voter,
        in_old_set: false,
        in_new_set: true,
        is_added: false,
    }
}

/// Active nodes and how many replicas of data shards each has.
struct Placement {
    nodes: Vec<NodeEntity>,
    replicas: BTreeMap<NodeId, u64>,
}

impl Placement {
    fn new<'s>(
        mut nodes: Vec<NodeEntity>,
        data_shards: impl Iterator<Item = &'s ShardEntity>,
    ) -> Placement {
        nodes.retain(|node| node.state == NodeState::Active);
        nodes.sort_unstable_by_key(|node| node.id);
        let mut replicas = BTreeMap::new();
        for replica in data_shards.flat_map(|shard| &shard.replicas) {
            *replicas.entry(replica.node).or_insert(0) += 1;
        }
        Placement { nodes, replicas }
    }

    /// Takes up to `count` nodes for one shard, ascending: zones that the shard is not in yet first, then
    /// the nodes with the fewest replicas, then the lowest numbers.
    fn choose(&mut self, count: usize) -> Vec<NodeId> {
        let mut chosen: BTreeSet<NodeId> = BTreeSet::new();
        let mut zones: BTreeSet<&str> = BTreeSet::new();
        for _ in 0..count.min(self.nodes.len()) {
            let open = self.nodes.iter().filter(|node| !chosen.contains(&node.id));
            let best = open.min_by_key(|node| {
                let shares_zone = !node.zone.is_empty() && zones.contains(node.zone.as_str());
                (shares_zone, self.replicas.get(&node.id).copied().unwrap_or(0), node.id)
            });
            let best = best.expect("fewer nodes are chosen than there are");
            chosen.insert(best.id);
            zones.insert(&best.zone);
        }
        for node in &chosen {
            *self.replicas.entry(*node).or_insert(0) += 1;
        }
        chosen.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::run;

    #[test]
    fn three_nodes_get_every_shard_and_a_repetition_changes_nothing() {
        run("found a b c        => founded
             shards 2 factor=3  => 2 shards, new: 1 2
             get shard/1        => shard 1 epoch 1: 1000@1 1001@2 1002@3
             get shard/2        => shard 2 epoch 1: 1003@1 1004@2 1005@3
             shards 2 factor=3  => 2 shards, new:, nothing changed
             shards 1 factor=3  => 2 shards, new:, nothing changed
             shards 3 factor=2  => 3 shards, new: 3
             get shard/3        => shard 3 epoch 1: 1006@1 1007@2
             get sequence/shard => next 4");
    }

    #[test]
    fn five_nodes_take_turns() {
        run("found a b c           => founded
             register d store=d    => node 4 created
             register e store=e    => node 5 created
             shards 5 factor=3     => 5 shards, new: 1 2 3 4 5
             get shard/1           => shard 1 epoch 1: 1000@1 1001@2 1002@3
             get shard/2           => shard 2 epoch 1: 1003@1 1004@4 1005@5
             get shard/3           => shard 3 epoch 1: 1006@2 1007@3 1008@4
             get shard/4           => shard 4 epoch 1: 1009@1 1010@2 1011@5
             get shard/5           => shard 5 epoch 1: 1012@3 1013@4 1014@5");
    }

    #[test]
    fn the_factor_is_capped_by_the_nodes() {
        run("found a            => founded
             shards 1 factor=3  => 1 shards, new: 1
             get shard/1        => shard 1 epoch 1: 1000@1");
    }

    #[test]
    fn replicas_of_a_shard_are_in_different_zones_if_they_can_be() {
        run("found a                    => founded
             register b store=b zone=x  => node 2 created
             register c store=c zone=x  => node 3 created
             register d store=d zone=y  => node 4 created
             register e store=e zone=y  => node 5 created
             shards 3 factor=2          => 3 shards, new: 1 2 3
             get shard/1                => shard 1 epoch 1: 1000@1 1001@2
             get shard/2                => shard 2 epoch 1: 1002@3 1003@4
             get shard/3                => shard 3 epoch 1: 1004@1 1005@5");
    }

    #[test]
    fn one_command_makes_a_bounded_number() {
        run("found a               => founded
             shards 2000 factor=1  => 1024 shards, new: 1..1024
             shards 2000 factor=1  => 2000 shards, new: 1025..2000
             get shard/2000        => shard 2000 epoch 1: 2999@1");
    }
}
