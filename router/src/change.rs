//! Changes of the directory's entities, from bytes to types.
//!
//! Owns which entities routing cares about and how their keys are read. Must never keep state.

use ledger_proof::system_entity::{
    CLUSTER_KEY, ClusterEntity, NamespaceEntity, NamespaceNameEntity, NodeEntity, ShardEntity,
    SystemEntity, VaultEntity, bundle_key, namespace_key, node_key, shard_key, vault_key,
};
use ledger_proof::{DecodeError, TrustBundle};
use ledger_types::{GroupId, NamespaceId, NodeId, VaultRef};

/// One entity of the directory at some revision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntityChange {
    /// The entity's key.
    pub key: String,
    /// Its value; `None` if it is gone.
    pub value: Option<Vec<u8>>,
}

/// A change that routing cares about.
pub(crate) enum TypedChange {
    Cluster(Option<ClusterEntity>),
    Node(NodeId, Option<NodeEntity>),
    Shard(GroupId, Option<ShardEntity>),
    Namespace(NamespaceId, Option<NamespaceEntity>),
    NamespaceName(String, Option<NamespaceId>),
    Vault(VaultRef, Option<VaultEntity>),
    Pending(VaultRef, bool),
    Bundle(u64, Option<TrustBundle>),
}

impl TypedChange {
    /// Reads a change. `None` for entities that routing has no use for, whatever their bytes are.
    pub(crate) fn read(
        key: &str,
        value: Option<&[u8]>,
    ) -> Result<Option<TypedChange>, DecodeError> {
        let (kind, name) = key.split_once('/').unwrap_or((key, ""));
        Ok(Some(match kind {
            CLUSTER_KEY if name.is_empty() => TypedChange::Cluster(decode(value)?),
            "node" => {
                let id = NodeId(number(name)?);
                TypedChange::Node(id, named(key, value, |node: &NodeEntity| node_key(node.id))?)
            }
            "shard" => {
                let id = GroupId(number(name)?);
                let shard = named(key, value, |shard: &ShardEntity| shard_key(shard.id))?;
                TypedChange::Shard(id, shard)
            }
            "namespace" => {
                let id = NamespaceId(number(name)?);
                let namespace =
                    named(key, value, |entity: &NamespaceEntity| namespace_key(entity.id));
                TypedChange::Namespace(id, namespace?)
            }
            "namespace-name" => {
                let entity: Option<NamespaceNameEntity> = decode(value)?;
                TypedChange::NamespaceName(name.to_owned(), entity.map(|entity| entity.id))
            }
            "vault" => {
                let vault = vault_named(name)?;
                TypedChange::Vault(
                    vault,
                    named(key, value, |entity: &VaultEntity| vault_key(entity.vault))?,
                )
            }
            "pending" => TypedChange::Pending(vault_named(name)?, value.is_some()),
            "bundle" => {
                let sequence = number(name)?;
                let bundle = value.map(TrustBundle::decode).transpose()?;
                if bundle.as_ref().is_some_and(|bundle| bundle_key(bundle.sequence) != key) {
                    let rule = "names another bundle than its key";
                    return Err(DecodeError::Invalid { field: "trust bundle", rule });
                }
                TypedChange::Bundle(sequence, bundle)
            }
            _ => return Ok(None),
        }))
    }
}

fn decode<E: SystemEntity>(value: Option<&[u8]>) -> Result<Option<E>, DecodeError> {
    value.map(E::decode).transpose()
}

/// Decodes a value that names itself, and checks that it does so as its key does.
fn named<E: SystemEntity>(
    key: &str,
    value: Option<&[u8]>,
    own_key: fn(&E) -> String,
) -> Result<Option<E>, DecodeError> {
    let entity: Option<E> = decode(value)?;
    match entity {
        Some(entity) if own_key(&entity) != key => {
            Err(DecodeError::Invalid { field: E::KIND, rule: "names another entity than its key" })
        }
        entity => Ok(entity),
    }
}

fn vault_named(text: &str) -> Result<VaultRef, DecodeError> {
    let rule = "is not namespace/vault";
    let (namespace, vault) =
        text.split_once('/').ok_or(DecodeError::Invalid { field: "entity key", rule })?;
    Ok(VaultRef::new(number(namespace)?, number(vault)?))
}

/// Reads a decimal number in its only form: digits alone, no zero in front.
fn number(text: &str) -> Result<u64, DecodeError> {
    let invalid = DecodeError::Invalid { field: "entity key", rule: "has no canonical number" };
    let number: u64 = text.parse().map_err(|_| invalid.clone())?;
    if number.to_string() == text { Ok(number) } else { Err(invalid) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_keys_are_read() {
        for key in [
            "node/7",
            "shard/0",
            "namespace/1",
            "namespace-name/a/b",
            "vault/1/2",
            "pending/1/0",
            "bundle/1",
        ] {
            assert!(matches!(TypedChange::read(key, None), Ok(Some(_))), "{key}");
        }
        for key in ["node/", "node/07", "node/+7", "node/x", "vault/1", "vault/1/2/3", "shard/-1"] {
            assert!(TypedChange::read(key, None).is_err(), "{key}");
        }
        for key in
            ["sequence/node", "bundle-link/1", "setting/x", "shard-vaults/1", "cluster/x", "new"]
        {
            assert!(matches!(TypedChange::read(key, Some(b"?")), Ok(None)), "{key}");
        }
    }

    #[test]
    fn a_value_under_another_key_is_refused() {
        let shard = ShardEntity { id: GroupId(3), epoch: 1, replicas: Vec::new() }.encode();
        assert!(matches!(TypedChange::read("shard/3", Some(&shard)), Ok(Some(_))));
        assert!(TypedChange::read("shard/4", Some(&shard)).is_err());
        assert!(TypedChange::read("node/3", Some(&shard)).is_err());
        assert!(TypedChange::read("shard/3", Some(&shard[1..])).is_err());
    }
}
