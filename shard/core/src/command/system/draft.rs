//! A command's view of the directory together with the changes it is about to make.
//!
//! Owns the typed access to entities and the collection of a command's operations. Must never decide
//! anything: that is the commands' work.

use std::collections::BTreeMap;

use ledger_proof::system_entity::{
    CLUSTER_KEY, ClusterEntity, NodeEntity, SequenceEntity, SystemEntity, VaultEntity, VaultState,
    bundle_key, sequence_key, vault_prefix,
};
use ledger_proof::trust::TrustBundle;
use ledger_types::{GroupId, NamespaceId, Operation, VaultId};

use super::entity::{
    SHARD_BY_LOAD_PREFIX, ShardByLoadEntity, ShardVaultsEntity, shard_by_load_key, shard_vaults_key,
};
use super::{EntityView, FIRST_BUNDLE, SystemFault};

/// The entities as they are, under the changes made so far.
pub(super) struct Draft<'a> {
    view: &'a dyn EntityView,
    changes: BTreeMap<String, Option<Vec<u8>>>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(view: &'a dyn EntityView) -> Draft<'a> {
        Draft { view, changes: BTreeMap::new() }
    }

    /// The changes as operations, in key order; what would change nothing is left out.
    pub(super) fn into_operations(self) -> Result<Vec<Operation>, SystemFault> {
        let mut operations = Vec::with_capacity(self.changes.len());
        for (key, value) in self.changes {
            if self.view.get(&key)? == value {
                continue;
            }
            operations.push(match value {
                Some(value) => Operation::SetEntity { key, value, expires_at: 0, condition: None },
                None => Operation::DeleteEntity { key },
            });
        }
        Ok(operations)
    }

    /// The entity with this key, if it is present.
    pub(super) fn get<E: SystemEntity>(&self, key: &str) -> Result<Option<E>, SystemFault> {
        self.get_bytes(key)?.map(|value| decode(key, &value)).transpose()
    }

    /// The value with this key, whatever it is.
    pub(super) fn get_bytes(&self, key: &str) -> Result<Option<Vec<u8>>, SystemFault> {
        match self.changes.get(key) {
            Some(change) => Ok(change.clone()),
            None => Ok(self.view.get(key)?),
        }
    }

    /// The trust bundle with the highest number. A founded cluster has one.
    pub(super) fn newest_bundle(&self) -> Result<TrustBundle, SystemFault> {
        let mut sequence = FIRST_BUNDLE;
        let mut newest: Option<TrustBundle> = None;
        // Numbers follow each other without a gap; the order of keys is another one.
        while let Some(value) = self.get_bytes(&bundle_key(sequence))? {
            let key = bundle_key(sequence);
            let read = TrustBundle::decode(&value);
            newest = Some(read.map_err(|source| SystemFault::Entity { key, source })?);
            sequence += 1;
        }
        newest.ok_or_else(|| SystemFault::Missing { key: bundle_key(FIRST_BUNDLE) })
    }

    /// The entity with this key, which must be there.
    pub(super) fn expect<E: SystemEntity>(&self, key: &str) -> Result<E, SystemFault> {
        self.get(key)?.ok_or_else(|| SystemFault::Missing { key: key.to_owned() })
    }

    pub(super) fn put<E: SystemEntity>(&mut self, key: String, entity: &E) {
        self.changes.insert(key, Some(entity.encode()));
    }

    pub(super) fn put_bytes(&mut self, key: String, value: Vec<u8>) {
        self.changes.insert(key, Some(value));
    }

    pub(super) fn delete(&mut self, key: String) {
        self.changes.insert(key, None);
    }

    /// Every entity under `prefix` in key order, this command's changes included.
    pub(super) fn list<E: SystemEntity>(&self, prefix: &str) -> Result<Vec<E>, SystemFault> {
        let mut values: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        self.view.scan(prefix, &mut |key, value| {
            values.insert(key.to_owned(), value.to_vec());
            true
        })?;
        let from = self.changes.range(prefix.to_owned()..);
        for (key, value) in from.take_while(|(key, _)| key.starts_with(prefix)) {
            match value {
                Some(value) => values.insert(key.clone(), value.clone()),
                None => values.remove(key),
            };
        }
        values.iter().map(|(key, value)| decode(key, value)).collect()
    }

    pub(super) fn is_founded(&self) -> Result<bool, SystemFault> {
        Ok(self.get::<ClusterEntity>(CLUSTER_KEY)?.is_some())
    }

    /// Every node, whatever its state.
    pub(super) fn nodes(&self) -> Result<Vec<NodeEntity>, SystemFault> {
        self.list("node/")
    }

    /// Draws the next number of a counter that was set up when the cluster was founded.
    pub(super) fn draw(&mut self, counter: &str) -> Result<u64, SystemFault> {
        let key = sequence_key(counter);
        let SequenceEntity { next } = self.expect(&key)?;
        let after = next.checked_add(1).expect("counters begin low and rise by one");
        self.put(key, &SequenceEntity { next: after });
        Ok(next)
    }

    /// The data shard with the fewest vaults, the lowest id among equals; `None` if there is no data shard.
    pub(super) fn least_loaded_shard(&self) -> Result<Option<GroupId>, SystemFault> {
        let touches_order = |key: &String| key.starts_with(SHARD_BY_LOAD_PREFIX);
        assert!(!self.changes.keys().any(touches_order), "a command places at most one vault");
        let mut first: Option<(String, Vec<u8>)> = None;
        self.view.scan(SHARD_BY_LOAD_PREFIX, &mut |key, value| {
            first = Some((key.to_owned(), value.to_vec()));
            false
        })?;
        let Some((key, value)) = first else { return Ok(None) };
        Ok(Some(decode::<ShardByLoadEntity>(&key, &value)?.shard))
    }

    /// Begins to count the vaults of a new data shard.
    pub(super) fn add_shard_load(&mut self, shard: GroupId) {
        self.put(shard_vaults_key(shard), &ShardVaultsEntity { vaults: 0 });
        self.put(shard_by_load_key(0, shard), &ShardByLoadEntity { shard });
    }

    /// Counts one more vault of a shard. False if it is no data shard.
    pub(super) fn count_vault(&mut self, shard: GroupId) -> Result<bool, SystemFault> {
        let key = shard_vaults_key(shard);
        let Some(ShardVaultsEntity { vaults }) = self.get(&key)? else { return Ok(false) };
        self.put(key, &ShardVaultsEntity { vaults: vaults + 1 });
        self.delete(shard_by_load_key(vaults, shard));
        self.put(shard_by_load_key(vaults + 1, shard), &ShardByLoadEntity { shard });
        Ok(true)
    }

    /// Counts one vault less of the shard that it was counted for.
    pub(super) fn uncount_vault(&mut self, shard: GroupId) -> Result<(), SystemFault> {
        let key = shard_vaults_key(shard);
        let ShardVaultsEntity { vaults } = self.expect(&key)?;
        let fewer = vaults.checked_sub(1).expect("every vault was counted");
        self.put(key, &ShardVaultsEntity { vaults: fewer });
        self.delete(shard_by_load_key(vaults, shard));
        self.put(shard_by_load_key(fewer, shard), &ShardByLoadEntity { shard });
        Ok(())
    }

    /// How many vaults of a namespace are in use or about to be, its own entities' vault 0 aside; counted up to
    /// `count_max`. Deleted ones are passed over one by one: a namespace is deleted once.
    pub(super) fn live_vaults(
        &self,
        namespace: NamespaceId,
        count_max: u64,
    ) -> Result<u64, SystemFault> {
        let prefix = vault_prefix(namespace);
        assert!(!self.changes.keys().any(|key| key.starts_with(&prefix)), "counted before changes");
        let (mut count, mut fault) = (0, None);
        self.view.scan(&prefix, &mut |key, value| {
            match decode::<VaultEntity>(key, value) {
                Ok(entity) if entity.vault.vault == VaultId(0) => {}
                Ok(entity) => {
                    let is_live = matches!(entity.state, VaultState::Creating | VaultState::Active);
                    count += u64::from(is_live);
                }
                Err(error) => fault = Some(error),
            }
            fault.is_none() && count < count_max
        })?;
        fault.map_or(Ok(count), Err)
    }
}

fn decode<E: SystemEntity>(key: &str, value: &[u8]) -> Result<E, SystemFault> {
    E::decode(value).map_err(|source| SystemFault::Entity { key: key.to_owned(), source })
}
