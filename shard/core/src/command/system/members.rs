//! `ReplaceReplica` and `FinishReplacement`: a replica of a shard makes room for one on another node.
//!
//! Owns both commands' bytes and their effect. Must never change two things of a shard at once, nor forget a
//! replica without leaving its tombstone: the group itself follows the entity, one step after the other.
//!
//! Fields of `ReplaceReplica`: `shard u64 ‖ old incarnation u64 ‖ node u64`; of `FinishReplacement`:
//! `shard u64 ‖ old incarnation u64 ‖ epoch u64`.

use ledger_proof::encoding::{DecodeError, Reader, Writer};
use ledger_proof::system_entity::{
    NodeEntity, NodeState, REPLICAS_MAX, ReplicaRole, ShardEntity, ShardReplica, TombstoneEntity,
    bundle_key, node_key, shard_key, tombstone_key,
};
use ledger_proof::trust::{BundleVoter, TrustBundle};
use ledger_types::{GroupId, Incarnation, NodeId};

use super::draft::Draft;
use super::entity::INCARNATION_SEQUENCE;
use super::found::{BUNDLE_LIFE_SECONDS, NS_PER_SECOND};
use super::{Answer, SystemFault, SystemRefusal, SystemResult};

#[cfg(test)]
mod tests;

/// Asks for a replica on another node in place of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplaceReplica {
    /// The shard.
    pub shard: GroupId,
    /// The replica that is to leave. While the shard changes already, only the replica on its way in may be
    /// named, and only once its node was removed: it will never arrive, and another one takes its place.
    pub old: Incarnation,
    /// The node of the new replica: active, and without a replica of the shard.
    pub node: NodeId,
}

/// Records that the group has gone over to its new voters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FinishReplacement {
    /// The shard.
    pub shard: GroupId,
    /// The replica that has left.
    pub old: Incarnation,
    /// The epoch of the shard's entity that the group was found to follow. Under a later one the newcomer
    /// may be another one, without a vote yet.
    pub epoch: u64,
}

impl ReplaceReplica {
    pub(super) fn write(&self, out: &mut Writer<'_>) {
        out.u64(self.shard.0);
        out.u64(self.old.0);
        out.u64(self.node.0);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<ReplaceReplica, DecodeError> {
        Ok(ReplaceReplica {
            shard: GroupId(reader.u64("shard")?),
            old: Incarnation(reader.u64("old incarnation")?),
            node: NodeId(reader.u64("node")?),
        })
    }

    pub(super) fn plan(&self, time_ns: u64, draft: &mut Draft<'_>) -> Answer {
        let ReplaceReplica { shard, old, node } = *self;
        let Some(mut entity) = draft.get::<ShardEntity>(&shard_key(shard))? else {
            return Ok(Err(SystemRefusal::NoSuchShard { shard }));
        };
        let Some(leaving) = entity.replicas.iter().find(|one| one.incarnation == old).copied()
        else {
            return Ok(Err(SystemRefusal::NoSuchReplica { shard, incarnation: old }));
        };
        let is_lost = entity.incoming() == Some(&leaving)
            && draft.expect::<NodeEntity>(&node_key(leaving.node))?.state == NodeState::Removed;
        if let Some(refusal) = self.refusal(&entity, is_lost, draft)? {
            return Ok(Err(refusal));
        }
        if is_lost {
            entity.replicas.retain(|one| one.incarnation != old);
            bury(shard, &leaving, time_ns, draft)?;
        } else {
            for one in &mut entity.replicas {
                one.in_old_set = one.in_new_set;
                one.in_new_set &= one.incarnation != old;
            }
        }
        let incarnation = Incarnation(draft.draw(INCARNATION_SEQUENCE)?);
        // Drawn last, so it comes last in the order of incarnations.
        entity.replicas.push(ShardReplica {
            node,
            incarnation,
            role: ReplicaRole::Learner,
            in_old_set: false,
            in_new_set: true,
            is_added: true,
        });
        entity.epoch += 1;
        if shard == GroupId::SYSTEM {
            put_next_bundle(&entity, time_ns, draft)?;
        }
        let epoch = entity.epoch;
        draft.put(shard_key(shard), &entity);
        Ok(Ok(SystemResult::ReplacementBegun { shard, incarnation, epoch }))
    }

    fn refusal(
        &self,
        entity: &ShardEntity,
        is_lost: bool,
        draft: &Draft<'_>,
    ) -> Result<Option<SystemRefusal>, SystemFault> {
        let ReplaceReplica { shard, node, .. } = *self;
        if entity.is_changing() && !is_lost {
            return Ok(Some(SystemRefusal::ShardChanging { shard }));
        }
        Ok(match draft.get::<NodeEntity>(&node_key(node))? {
            None => Some(SystemRefusal::UnknownNode { node }),
            Some(found) if found.state != NodeState::Active => {
                Some(SystemRefusal::NodeNotActive { node })
            }
            Some(_) if entity.replica_on(node).is_some() => {
                Some(SystemRefusal::ReplicaExists { shard, node })
            }
            Some(_) if entity.replicas.len() >= REPLICAS_MAX && !is_lost => {
                Some(SystemRefusal::ShardFull { shard })
            }
            Some(_) => None,
        })
    }
}

impl FinishReplacement {
    pub(super) fn write(&self, out: &mut Writer<'_>) {
        out.u64(self.shard.0);
        out.u64(self.old.0);
        out.u64(self.epoch);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<FinishReplacement, DecodeError> {
        Ok(FinishReplacement {
            shard: GroupId(reader.u64("shard")?),
            old: Incarnation(reader.u64("old incarnation")?),
            epoch: reader.u64("shard epoch")?,
        })
    }

    pub(super) fn plan(&self, time_ns: u64, draft: &mut Draft<'_>) -> Answer {
        let FinishReplacement { shard, old, epoch } = *self;
        let Some(mut entity) = draft.get::<ShardEntity>(&shard_key(shard))? else {
            return Ok(Err(SystemRefusal::NoSuchShard { shard }));
        };
        let finished = |entity: &ShardEntity| {
            Ok(Ok(SystemResult::ReplacementFinished { shard, epoch: entity.epoch }))
        };
        let Some(leaving) = entity.replicas.iter().find(|one| one.incarnation == old).copied()
        else {
            // Said twice, by a leader that did not hear the first answer.
            return match draft.get::<TombstoneEntity>(&tombstone_key(shard, old))? {
                Some(_) => finished(&entity),
                None => Ok(Err(SystemRefusal::NoSuchReplica { shard, incarnation: old })),
            };
        };
        if entity.epoch != epoch {
            return Ok(Err(SystemRefusal::OtherShardEpoch { shard, current: entity.epoch }));
        }
        if entity.leaving() != Some(&leaving) {
            return Ok(Err(SystemRefusal::ReplicaStays { shard, incarnation: old }));
        }
        entity.replicas.retain(|one| one.incarnation != old);
        for one in &mut entity.replicas {
            one.in_old_set = false;
            if one.in_new_set {
                one.role = ReplicaRole::Voter;
            }
        }
        entity.epoch += 1;
        bury(shard, &leaving, time_ns, draft)?;
        draft.put(shard_key(shard), &entity);
        finished(&entity)
    }
}

/// Records that the replica is gone for good.
fn bury(
    shard: GroupId,
    replica: &ShardReplica,
    time_ns: u64,
    draft: &mut Draft<'_>,
) -> Result<(), SystemFault> {
    let ShardReplica { node, incarnation, .. } = *replica;
    let store_id = draft.expect::<NodeEntity>(&node_key(node))?.store_id;
    let stone = TombstoneEntity { shard, incarnation, node, store_id, removed_at_ns: time_ns };
    draft.put(tombstone_key(shard, incarnation), &stone);
    Ok(())
}

/// Makes the trust bundle with the voters that `_system` is about to have. A removed node that still votes is
/// left out: its key counts no more, and its name may belong to another node by now.
fn put_next_bundle(
    entity: &ShardEntity,
    time_ns: u64,
    draft: &mut Draft<'_>,
) -> Result<(), SystemFault> {
    let newest = draft.newest_bundle()?;
    let mut voters = Vec::new();
    for replica in entity.replicas.iter().filter(|replica| replica.in_new_set) {
        let node: NodeEntity = draft.expect(&node_key(replica.node))?;
        if node.state != NodeState::Removed {
            let NodeEntity { id, name, public_key, .. } = node;
            voters.push(BundleVoter { node: id, name, public_key });
        }
    }
    voters.sort_unstable_by_key(|voter| voter.node);
    let issued_at = time_ns / NS_PER_SECOND;
    let sequence = newest.sequence + 1;
    let expires_at = issued_at.saturating_add(BUNDLE_LIFE_SECONDS);
    let bundle = TrustBundle { sequence, issued_at, expires_at, voters, ..newest };
    draft.put_bytes(bundle_key(sequence), bundle.encode());
    Ok(())
}
