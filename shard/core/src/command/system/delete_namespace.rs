//! `DeleteNamespace`: ends a namespace that has no vaults, together with its own entities.
//!
//! Owns the command's bytes, its effect and its tests. Must never end a vault that clients use: those are
//! deleted one by one before. The id is never used again; the name is free once the namespace has ended.
//!
//! Fields: `namespace u64`.

use ledger_proof::encoding::{DecodeError, Reader, Writer};
use ledger_proof::system_entity::{
    NamespaceEntity, NamespaceState, VaultEntity, VaultState, namespace_key, vault_key,
};
use ledger_types::{NamespaceId, VaultRef};

use super::delete_vault::begin;
use super::draft::Draft;
use super::entity::{DeletionEntity, namespace_deletion_key};
use super::{Answer, SystemRefusal, SystemResult};

/// Vaults of a namespace are counted up to this many.
pub const LIVE_VAULTS_COUNTED_MAX: u64 = 10_000;

/// Asks for a namespace's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeleteNamespace {
    /// The namespace.
    pub namespace: NamespaceId,
}

impl DeleteNamespace {
    pub(super) fn write(&self, out: &mut Writer<'_>) {
        out.u64(self.namespace.0);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<DeleteNamespace, DecodeError> {
        Ok(DeleteNamespace { namespace: NamespaceId(reader.u64("namespace")?) })
    }

    pub(super) fn plan(&self, time_ns: u64, draft: &mut Draft<'_>) -> Answer {
        let namespace = self.namespace;
        let key = namespace_key(namespace);
        let Some(entity) = draft.get::<NamespaceEntity>(&key)? else {
            return Ok(Err(SystemRefusal::UnknownNamespace { namespace }));
        };
        if entity.state != NamespaceState::Active {
            let deletion: DeletionEntity = draft.expect(&namespace_deletion_key(namespace))?;
            let deleted_at_ns = deletion.deleted_at_ns;
            return Ok(Ok(SystemResult::NamespaceDeleting { namespace, deleted_at_ns }));
        }
        let vault = VaultRef::new(namespace.0, 0);
        let own: VaultEntity = draft.expect(&vault_key(vault))?;
        if own.state == VaultState::Creating {
            return Ok(Err(SystemRefusal::VaultCreating { vault }));
        }
        let vaults = draft.live_vaults(namespace, LIVE_VAULTS_COUNTED_MAX)?;
        if vaults > 0 {
            return Ok(Err(SystemRefusal::NamespaceNotEmpty { namespace, vaults }));
        }
        begin(&own, time_ns, draft);
        let deletion = DeletionEntity { deleted_at_ns: time_ns };
        draft.put(namespace_deletion_key(namespace), &deletion);
        let (state, config_version) = (NamespaceState::Deleting, entity.config_version + 1);
        draft.put(key, &NamespaceEntity { state, config_version, ..entity });
        Ok(Ok(SystemResult::NamespaceDeleting { namespace, deleted_at_ns: time_ns }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::Script;

    const ONE_NAMESPACE: &str = "found a            => founded
                                 shards 1 factor=1  => 1 shards, new: 1
                                 namespace acme     => namespace 1 on shard 1";

    #[test]
    fn a_namespace_ends_with_its_own_entities_and_frees_its_name() {
        let mut script = Script::new(ONE_NAMESPACE);
        script.run(
            "delete-namespace 1          => refused: vault 1/0 is being made
             active 1/0 epoch=1          => active 1/0 epoch 1
             delete-namespace 1          => namespace 1 deleted
             get namespace/1             => namespace 1 acme Deleting
             get vault/1/0               => vault 1/0 on 1 epoch 1 Deleting
             get deletion/namespace/1    => deleted
             namespace acme              => refused: the name belongs to namespace 1
             vault 1                     => refused: namespace 1 is deleted
             delete-namespace 1          => namespace 1 deleted, nothing changed
             deleted 1/0 epoch=1         => ended 1/0
             get namespace/1             => namespace 1 acme Deleted
             get namespace-name/acme     => none
             get shard-vaults/1          => 0 vaults
             delete-namespace 1          => namespace 1 deleted, nothing changed
             namespace acme              => namespace 2 on shard 1
             get namespace-name/acme     => namespace 2
             deleted 1/0 epoch=1         => ended 1/0, nothing changed
             get namespace-name/acme     => namespace 2
             delete-namespace 7          => refused: namespace 7 does not exist",
        );
    }

    #[test]
    fn a_namespace_with_vaults_stays() {
        let mut script = Script::new(ONE_NAMESPACE);
        script.run(
            "active 1/0 epoch=1   => active 1/0 epoch 1
             vault 1              => vault 1/1 on 1 epoch 1 pending created
             vault 1              => vault 1/2 on 1 epoch 1 pending created
             active 1/1 epoch=1   => active 1/1 epoch 1
             namespace b          => namespace 2 on shard 1
             delete-namespace 1   => refused: namespace 1 has 2 vaults
             delete-vault 1/1     => vault 1/1 deleted
             delete-namespace 1   => refused: namespace 1 has 1 vaults
             active 1/2 epoch=1   => active 1/2 epoch 1
             delete-vault 1/2     => vault 1/2 deleted
             delete-namespace 1   => namespace 1 deleted
             deleted 1/0 epoch=1  => ended 1/0
             deleted 1/2 epoch=1  => ended 1/2
             get shard-vaults/1   => 2 vaults",
        );
    }
}
