//! The directory as this node knows it: nodes, shards, namespaces and vaults, at one revision.
//!
//! Owns the typed view of `_system`'s entities and the rule by which revisions follow each other. Must
//! never guess: a missing revision is reported, and bytes that are no entity change nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use ledger_proof::system_entity::{
    ClusterEntity, NamespaceEntity, NodeEntity, NodeState, ShardEntity, VaultEntity,
};
use ledger_proof::{DecodeError, TrustBundle};
use ledger_types::{GroupId, NamespaceId, NodeId, OwnerEpoch, StoreId, VaultRef};
use parking_lot::{Mutex, RwLock};
use thiserror::Error;

use crate::change::{EntityChange, TypedChange};
use crate::vault_table::{VaultLookup, VaultScope, VaultTable};

#[cfg(test)]
mod tests;

/// Changes that lead from one revision to a later one. A revision is a height of `_system`'s chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delta {
    /// Every change after this revision is among the changes.
    pub base: u64,
    /// The revision that holds afterwards.
    pub revision: u64,
    /// The changed entities as they are at `revision`, each once.
    pub changes: Vec<EntityChange>,
}

/// Why changes are not taken in.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum DirectoryError {
    /// Changes between the directory's revision and the delta's base are missing.
    #[error("the directory is at revision {have}, the changes begin after {base}")]
    Gap {
        /// The directory's revision.
        have: u64,
        /// The delta's base.
        base: u64,
    },
    /// A value is not what its key says.
    #[error("directory entity {key}: {source}")]
    Malformed {
        /// The entity's key.
        key: String,
        /// What is wrong with it.
        source: DecodeError,
    },
}

/// The directory. Shared by reference between threads; each call sees a whole revision.
#[derive(Debug)]
pub struct Directory {
    tables: RwLock<Tables>,
    vaults: Mutex<VaultTable>,
}

#[derive(Debug, Default)]
struct Tables {
    revision: u64,
    cluster: Option<Arc<ClusterEntity>>,
    nodes: BTreeMap<NodeId, Arc<NodeEntity>>,
    shards: BTreeMap<GroupId, Arc<ShardEntity>>,
    namespaces: BTreeMap<NamespaceId, Arc<NamespaceEntity>>,
    namespace_names: BTreeMap<String, NamespaceId>,
    pending: BTreeSet<VaultRef>,
    bundles: BTreeMap<u64, Arc<TrustBundle>>,
}

impl Directory {
    /// The directory at revision 0, the genesis of `_system`: nothing.
    pub fn new(vaults: VaultScope) -> Directory {
        Directory {
            tables: RwLock::new(Tables::default()),
            vaults: Mutex::new(VaultTable::new(vaults)),
        }
    }

    /// Replaces the content by all entities of a revision. False, and no change, if that revision is older
    /// than what is held. Errors change nothing.
    pub fn replace(
        &self,
        revision: u64,
        entities: &[EntityChange],
    ) -> Result<bool, DirectoryError> {
        self.replace_tables(revision, entities, VaultTable::clear)
    }

    /// Like [`Directory::replace`], with the entities of every vault among the others: from then on the
    /// directory holds all vaults. For a node that has got a replica of the directory.
    pub fn replace_with_all_vaults(
        &self,
        revision: u64,
        entities: &[EntityChange],
    ) -> Result<bool, DirectoryError> {
        let begin = |vaults: &mut VaultTable| *vaults = VaultTable::new(VaultScope::All);
        self.replace_tables(revision, entities, begin)
    }

    fn replace_tables(
        &self,
        revision: u64,
        entities: &[EntityChange],
        begin: impl FnOnce(&mut VaultTable),
    ) -> Result<bool, DirectoryError> {
        let changes = typed(entities)?;
        let mut tables = self.tables.write();
        if revision < tables.revision {
            return Ok(false);
        }
        *tables = Tables::default();
        let mut vaults = self.vaults.lock();
        begin(&mut vaults);
        tables.take(revision, changes, &mut vaults);
        Ok(true)
    }

    /// True if every vault is held, not only those asked for lately.
    pub fn holds_all_vaults(&self) -> bool {
        matches!(&*self.vaults.lock(), VaultTable::All(_))
    }

    /// Takes in changes. False, and no change, if the directory is at their revision or beyond. Errors
    /// change nothing; after a gap the whole content must be fetched, or the missing changes.
    pub fn apply_delta(&self, delta: &Delta) -> Result<bool, DirectoryError> {
        assert!(delta.base < delta.revision, "a delta leads forward");
        let mut tables = self.tables.write();
        if delta.revision <= tables.revision {
            return Ok(false);
        }
        if delta.base > tables.revision {
            return Err(DirectoryError::Gap { have: tables.revision, base: delta.base });
        }
        let changes = typed(&delta.changes)?;
        tables.take(delta.revision, changes, &mut self.vaults.lock());
        Ok(true)
    }

    /// The height of `_system`'s chain that the content is of.
    pub fn revision(&self) -> u64 {
        self.tables.read().revision
    }

    /// The cluster, once it is founded.
    pub fn cluster(&self) -> Option<Arc<ClusterEntity>> {
        self.tables.read().cluster.clone()
    }

    /// The newest trust bundle, once the cluster is founded. It says how many voters must cosign.
    pub fn trust_bundle(&self) -> Option<Arc<TrustBundle>> {
        self.tables.read().bundles.last_key_value().map(|(_, bundle)| bundle.clone())
    }

    /// A node by its number.
    pub fn node(&self, id: NodeId) -> Option<Arc<NodeEntity>> {
        self.tables.read().nodes.get(&id).cloned()
    }

    /// The node that has this name now; removed ones, whose disks were wiped, do not.
    pub fn node_named(&self, name: &str) -> Option<Arc<NodeEntity>> {
        let tables = self.tables.read();
        let has_name =
            |node: &&Arc<NodeEntity>| node.name == name && node.state != NodeState::Removed;
        tables.nodes.values().find(has_name).cloned()
    }

    /// A node by its store.
    pub fn node_of_store(&self, store: StoreId) -> Option<Arc<NodeEntity>> {
        self.tables.read().nodes.values().find(|node| node.store_id == store).cloned()
    }

    /// Every node, by number.
    pub fn nodes(&self) -> Vec<Arc<NodeEntity>> {
        self.tables.read().nodes.values().cloned().collect()
    }

    /// A shard; group 0 is `_system`.
    pub fn shard(&self, id: GroupId) -> Option<Arc<ShardEntity>> {
        self.tables.read().shards.get(&id).cloned()
    }

    /// Every shard, `_system` first.
    pub fn shards(&self) -> Vec<Arc<ShardEntity>> {
        self.tables.read().shards.values().cloned().collect()
    }

    /// The shards that have a replica on `node`.
    pub fn shards_on(&self, node: NodeId) -> Vec<Arc<ShardEntity>> {
        let tables = self.tables.read();
        let here =
            |shard: &&Arc<ShardEntity>| shard.replicas.iter().any(|replica| replica.node == node);
        tables.shards.values().filter(here).cloned().collect()
    }

    /// A namespace by its id, whatever its state.
    pub fn namespace(&self, id: NamespaceId) -> Option<Arc<NamespaceEntity>> {
        self.tables.read().namespaces.get(&id).cloned()
    }

    /// The namespace that has this name.
    pub fn namespace_named(&self, name: &str) -> Option<Arc<NamespaceEntity>> {
        let tables = self.tables.read();
        let id = tables.namespace_names.get(name)?;
        tables.namespaces.get(id).cloned()
    }

    /// Up to `limit` namespaces with ids above `after`, by id.
    pub fn namespaces(
        &self,
        after: Option<NamespaceId>,
        limit: usize,
    ) -> Vec<Arc<NamespaceEntity>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let tables = self.tables.read();
        let page = tables.namespaces.range((from, Bound::Unbounded)).take(limit);
        page.map(|(_, namespace)| namespace.clone()).collect()
    }

    /// What is known about a vault. `_system`'s own chain is no vault of the directory.
    pub fn vault(&self, vault: VaultRef) -> VaultLookup {
        self.vaults.lock().get(vault)
    }

    /// Up to `limit` vaults above `after` in order, of one namespace or of all, each namespace's vault 0
    /// included; `None` if this directory holds only a part of the vaults.
    pub fn vaults(
        &self,
        after: Option<VaultRef>,
        namespace: Option<NamespaceId>,
        limit: usize,
    ) -> Option<Vec<VaultEntity>> {
        self.vaults.lock().page(after, namespace, limit)
    }

    /// The vaults that await their first block.
    pub fn pending(&self) -> Vec<VaultRef> {
        self.tables.read().pending.iter().copied().collect()
    }

    /// Takes in a vault that was looked up elsewhere at `revision`. Older knowledge does not replace newer.
    pub fn learn_vault(&self, revision: u64, entity: VaultEntity) {
        self.vaults.lock().learn(revision, entity);
    }

    /// Drops a cached vault after a shard denied owning it under `owner_epoch`, unless a later owner is
    /// known already. A directory that holds all vaults waits for the change instead.
    pub fn forget_vault(&self, vault: VaultRef, owner_epoch: OwnerEpoch) {
        self.vaults.lock().forget(vault, owner_epoch);
    }
}

impl Tables {
    fn take(&mut self, revision: u64, changes: Vec<TypedChange>, vaults: &mut VaultTable) {
        for change in changes {
            match change {
                TypedChange::Cluster(cluster) => self.cluster = cluster.map(Arc::new),
                TypedChange::Node(id, node) => set(&mut self.nodes, id, node.map(Arc::new)),
                TypedChange::Shard(id, shard) => set(&mut self.shards, id, shard.map(Arc::new)),
                TypedChange::Namespace(id, namespace) => {
                    set(&mut self.namespaces, id, namespace.map(Arc::new));
                }
                TypedChange::NamespaceName(name, id) => set(&mut self.namespace_names, name, id),
                TypedChange::Bundle(sequence, bundle) => {
                    set(&mut self.bundles, sequence, bundle.map(Arc::new));
                }
                TypedChange::Vault(vault, entity) => vaults.change(revision, vault, entity),
                TypedChange::Pending(vault, true) => {
                    self.pending.insert(vault);
                }
                TypedChange::Pending(vault, false) => {
                    self.pending.remove(&vault);
                }
            }
        }
        self.revision = revision;
    }
}

fn set<K: Ord, V>(table: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => table.insert(key, value),
        None => table.remove(&key),
    };
}

fn typed(changes: &[EntityChange]) -> Result<Vec<TypedChange>, DirectoryError> {
    let mut typed = Vec::with_capacity(changes.len());
    for EntityChange { key, value } in changes {
        let change = TypedChange::read(key, value.as_deref())
            .map_err(|source| DirectoryError::Malformed { key: key.clone(), source })?;
        typed.extend(change);
    }
    Ok(typed)
}
