//! `RegisterNode`: gives a node its number, or takes the new address of one that has it.
//!
//! Owns the command's bytes, its effect and its tests. Must never give one store two numbers, one public key
//! to two stores, or one name to two nodes that are not removed.
//!
//! A store that comes under the name of a registered node is that node after its disk was wiped: it gets a
//! number of its own, and the node that had the name is removed for good by the same command. That is the old
//! store's tombstone, should it ever come back. Whoever proposes the command makes sure that it is gone.
//!
//! Fields: `name (u16 len) ‖ store id 16 ‖ public key 32 ‖ address (u16 len) ‖ zone (u16 len)`.

use ledger_proof::encoding::{DecodeError, Reader, Writer};
use ledger_proof::system_entity::{
    ADDRESS_BYTES_MAX, NodeEntity, NodeState, ShardEntity, node_key,
};
use ledger_types::limits::NAME_BYTES_MAX;
use ledger_types::{InvalidInput, NodeId, StoreId, check_name};

use super::draft::Draft;
use super::entity::NODE_SEQUENCE;
use super::{Answer, SystemFault, SystemRefusal, SystemResult, check_address, check_zone, checked};

/// A node that wants to belong to the cluster, or does and has moved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegisterNode {
    /// Its configured name.
    pub name: String,
    /// Its data directory's identity.
    pub store_id: StoreId,
    /// The public half of its Ed25519 key.
    pub public_key: [u8; 32],
    /// Where it is reached, `host:port`.
    pub address: String,
    /// Its failure zone; empty if none is configured.
    pub zone: String,
}

impl RegisterNode {
    pub(super) fn check(&self) -> Result<(), InvalidInput> {
        check_name("name", &self.name)?;
        check_address(&self.address)?;
        check_zone(&self.zone)
    }

    pub(super) fn write(&self, out: &mut Writer<'_>) {
        out.bytes_u16(self.name.as_bytes());
        out.raw(&self.store_id.0);
        out.raw(&self.public_key);
        out.bytes_u16(self.address.as_bytes());
        out.bytes_u16(self.zone.as_bytes());
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<RegisterNode, DecodeError> {
        let node = RegisterNode {
            name: reader.text_u16("name", NAME_BYTES_MAX)?.to_owned(),
            store_id: StoreId(reader.array("store id")?),
            public_key: reader.array("public key")?,
            address: reader.text_u16("address", ADDRESS_BYTES_MAX)?.to_owned(),
            zone: reader.text_u16("zone", NAME_BYTES_MAX)?.to_owned(),
        };
        checked(node.check().map_err(Into::into))?;
        Ok(node)
    }

    /// The node's entity under the number `id`.
    pub(super) fn entity(&self, id: NodeId) -> NodeEntity {
        NodeEntity {
            id,
            name: self.name.clone(),
            store_id: self.store_id,
            address: self.address.clone(),
            public_key: self.public_key,
            state: NodeState::Active,
            zone: self.zone.clone(),
        }
    }

    pub(super) fn plan(&self, draft: &mut Draft<'_>) -> Answer {
        let nodes = draft.nodes()?;
        if let Some(known) = nodes.iter().find(|node| node.store_id == self.store_id) {
            return Ok(self.update(known, draft));
        }
        if let Some(other) = nodes.iter().find(|node| node.public_key == self.public_key) {
            return Ok(Err(SystemRefusal::PublicKeyTaken { node: other.id }));
        }
        let holds_name =
            |node: &NodeEntity| node.name == self.name && node.state != NodeState::Removed;
        if let Some(refusal) = self.risk(&nodes, draft)? {
            return Ok(Err(refusal));
        }
        for old in nodes.into_iter().filter(holds_name) {
            draft.put(node_key(old.id), &NodeEntity { state: NodeState::Removed, ..old });
        }
        let id = NodeId(draft.draw(NODE_SEQUENCE)?);
        draft.put(node_key(id), &self.entity(id));
        Ok(Ok(SystemResult::NodeRegistered { node: id, created: true }))
    }

    /// A node is removed for good only where every shard keeps a majority of voters that are not: the disk of
    /// one that is gone may come back as long as its place was not taken.
    fn risk(
        &self,
        nodes: &[NodeEntity],
        draft: &Draft<'_>,
    ) -> Result<Option<SystemRefusal>, SystemFault> {
        let is_there = |id: NodeId| {
            let node = nodes.iter().find(|node| node.id == id);
            node.is_some_and(|node| node.state != NodeState::Removed && node.name != self.name)
        };
        let Some(old) =
            nodes.iter().find(|node| node.name == self.name && node.state != NodeState::Removed)
        else {
            return Ok(None);
        };
        for shard in draft.list::<ShardEntity>("shard/")? {
            let is_member = shard.replicas.iter().any(|replica| replica.node == old.id);
            let loses =
                |set: &Vec<NodeId>| set.iter().filter(|id| is_there(**id)).count() <= set.len() / 2;
            if is_member && shard.voter_sets().iter().any(loses) {
                let (node, shard) = (old.id, shard.id);
                return Ok(Some(SystemRefusal::MajorityAtRisk { node, shard }));
            }
        }
        Ok(None)
    }

    fn update(
        &self,
        known: &NodeEntity,
        draft: &mut Draft<'_>,
    ) -> Result<SystemResult, SystemRefusal> {
        let node = known.id;
        if known.state == NodeState::Removed {
            return Err(SystemRefusal::NodeRemoved { node });
        }
        if known.name != self.name {
            return Err(SystemRefusal::StoreTaken { node });
        }
        if known.public_key != self.public_key {
            return Err(SystemRefusal::PublicKeyChanged { node });
        }
        let entity = NodeEntity { state: known.state, ..self.entity(node) };
        draft.put(node_key(node), &entity);
        Ok(SystemResult::NodeRegistered { node, created: false })
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::run;

    #[test]
    fn a_node_gets_the_next_number_and_keeps_it() {
        run("found a b c                      => founded
             register d store=d               => node 4 created
             register e store=e               => node 5 created
             register d store=d               => node 4 known, nothing changed
             register d store=d address=d:2   => node 4 known
             register a store=a address=a:2   => node 1 known
             get node/4                       => node 4 d d:2 Active
             get node/1                       => node 1 a a:2 Active
             get sequence/node                => next 6");
    }

    #[test]
    fn nobody_is_removed_whose_disk_a_shard_needs() {
        run("found a b c                      => founded
             register c store=z               => node 4 created
             register b store=y               => refused: without node 2 shard 0 would lose its majority for good; bring back a disk, or take another name
             register d store=y               => node 5 created
             get node/2                       => node 2 b b:1 Active");
    }

    #[test]
    fn a_wiped_disk_is_a_new_node_and_the_old_store_never_comes_back() {
        run("found a b c                      => founded
             register c store=z               => node 4 created
             get node/3                       => node 3 c c:1 Removed
             get node/4                       => node 4 c c:1 Active
             register c store=z               => node 4 known, nothing changed
             register c store=c               => refused: node 3 was removed from the cluster
             register d store=c               => refused: node 3 was removed from the cluster
             register c store=y key=c         => refused: the public key belongs to node 3
             register c store=y key=z         => refused: the public key belongs to node 4
             get node/4                       => node 4 c c:1 Active
             register c store=y address=c:2   => node 5 created
             get node/4                       => node 4 c c:1 Removed
             get node/5                       => node 5 c c:2 Active
             get node/1                       => node 1 a a:1 Active
             get sequence/node                => next 6");
    }

    #[test]
    fn stores_and_keys_belong_to_one_node() {
        run("found a b c                      => founded
             register z store=b               => refused: the store is registered under another name, as node 2
             register z store=z key=c         => refused: the public key belongs to node 3
             register a store=a key=z         => refused: node 1 is registered with another public key
             get sequence/node                => next 4");
    }

    #[test]
    fn nothing_is_registered_before_the_cluster_is_founded() {
        run("register a store=a => refused: the cluster is not founded yet");
    }
}
