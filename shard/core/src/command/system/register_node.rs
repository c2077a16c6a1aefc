//! `RegisterNode`: gives a node its number, or takes the new address of one that has it.
//!
//! Owns the command's bytes, its effect and its tests. Must never give one store two numbers, or one name
//! or public key to two stores.
//!
//! Fields: `name (u16 len) ‖ store id 16 ‖ public key 32 ‖ address (u16 len) ‖ zone (u16 len)`.

use ledger_proof::encoding::{DecodeError, Reader, Writer};
use ledger_proof::system_entity::{ADDRESS_BYTES_MAX, NodeEntity, NodeState, node_key};
use ledger_types::limits::NAME_BYTES_MAX;
use ledger_types::{InvalidInput, NodeId, StoreId, check_name};

use super::draft::Draft;
use super::entity::NODE_SEQUENCE;
use super::{Answer, SystemRefusal, SystemResult, check_address, check_zone, checked};

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
        if let Some(other) = nodes.iter().find(|node| node.name == self.name) {
            return Ok(Err(SystemRefusal::NodeNameTaken { node: other.id }));
        }
        if let Some(other) = nodes.iter().find(|node| node.public_key == self.public_key) {
            return Ok(Err(SystemRefusal::PublicKeyTaken { node: other.id }));
        }
        let id = NodeId(draft.draw(NODE_SEQUENCE)?);
        draft.put(node_key(id), &self.entity(id));
        Ok(Ok(SystemResult::NodeRegistered { node: id, created: true }))
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
    fn names_stores_and_keys_belong_to_one_node() {
        run("found a b c                      => founded
             register a store=z               => refused: the name belongs to another store, that of node 1
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
