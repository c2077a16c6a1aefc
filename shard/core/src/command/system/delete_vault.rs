//! `DeleteVault`: ends a vault for clients; its shard then ends it for good.
//!
//! Owns the command's bytes, its effect and its tests. Must never give a deleted id back, nor end the vault of a
//! namespace's own entities, which goes with its namespace.
//!
//! Fields: `namespace u64 ‖ vault u64`.

use ledger_proof::encoding::{DecodeError, Reader, Writer};
use ledger_proof::system_entity::{
    NamespaceEntity, NamespaceState, VaultEntity, VaultState, namespace_key, vault_key,
};
use ledger_types::{VaultId, VaultRef};

use super::draft::Draft;
use super::entity::{DeletionEntity, PendingEntity, pending_key, vault_deletion_key};
use super::{Answer, InvalidCommand, SystemRefusal, SystemResult, checked};

/// Asks for a vault's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeleteVault {
    /// The vault; not vault 0.
    pub vault: VaultRef,
}

impl DeleteVault {
    pub(super) fn check(&self) -> Result<(), InvalidCommand> {
        let is_own = self.vault.vault == VaultId(0);
        let refusal = InvalidCommand::OutOfRange { field: "vault", min: 1, max: u64::MAX };
        if is_own { Err(refusal) } else { Ok(()) }
    }

    pub(super) fn write(&self, out: &mut Writer<'_>) {
        out.raw(&self.vault.to_bytes());
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<DeleteVault, DecodeError> {
        let vault = VaultRef::new(reader.u64("namespace")?, reader.u64("vault")?);
        let command = DeleteVault { vault };
        checked(command.check())?;
        Ok(command)
    }

    pub(super) fn plan(&self, time_ns: u64, draft: &mut Draft<'_>) -> Answer {
        let (vault, namespace) = (self.vault, self.vault.namespace);
        let state = draft.get::<NamespaceEntity>(&namespace_key(namespace))?;
        let Some(NamespaceEntity { state, .. }) = state else {
            return Ok(Err(SystemRefusal::UnknownNamespace { namespace }));
        };
        let Some(entity) = draft.get::<VaultEntity>(&vault_key(vault))? else {
            return Ok(Err(match state {
                NamespaceState::Active => SystemRefusal::UnknownVault { vault },
                _ => SystemRefusal::NamespaceDeleted { namespace },
            }));
        };
        let deleted_at_ns = match entity.state {
            VaultState::Creating => return Ok(Err(SystemRefusal::VaultCreating { vault })),
            VaultState::Active => {
                begin(&entity, time_ns, draft);
                time_ns
            }
            VaultState::Deleting | VaultState::Deleted => {
                let deletion: DeletionEntity = draft.expect(&vault_deletion_key(vault))?;
                deletion.deleted_at_ns
            }
        };
        Ok(Ok(SystemResult::VaultDeleting { vault, deleted_at_ns }))
    }
}

/// Ends an active vault for clients and leaves the rest to its shard.
pub(super) fn begin(entity: &VaultEntity, time_ns: u64, draft: &mut Draft<'_>) {
    let VaultEntity { vault, shard, owner_epoch, .. } = *entity;
    draft.put(vault_key(vault), &VaultEntity { state: VaultState::Deleting, ..entity.clone() });
    draft.put(pending_key(vault), &PendingEntity { vault, shard, owner_epoch });
    draft.put(vault_deletion_key(vault), &DeletionEntity { deleted_at_ns: time_ns });
}

#[cfg(test)]
mod tests {
    use super::super::script::Script;
    use super::*;

    const ONE_VAULT: &str = "found a             => founded
                             shards 1 factor=1   => 1 shards, new: 1
                             namespace acme      => namespace 1 on shard 1
                             active 1/0 epoch=1  => active 1/0 epoch 1
                             vault 1             => vault 1/1 on 1 epoch 1 pending created";

    #[test]
    fn a_vault_is_deleted_once_and_its_shard_is_told() {
        let mut script = Script::new(ONE_VAULT);
        script.run(
            "delete-vault 1/1        => refused: vault 1/1 is being made
             active 1/1 epoch=1      => active 1/1 epoch 1
             delete-vault 1/1        => vault 1/1 deleted
             get vault/1/1           => vault 1/1 on 1 epoch 1 Deleting
             get pending/1/1         => pending 1/1 on 1 epoch 1
             get deletion/vault/1/1  => deleted
             get shard-vaults/1      => 2 vaults
             delete-vault 1/1        => vault 1/1 deleted, nothing changed
             active 1/1 epoch=1      => refused: vault 1/1 is deleted
             vault 1 id=1            => refused: vault 1/1 is deleted
             vault 1                 => vault 1/2 on 1 epoch 1 pending created",
        );
    }

    #[test]
    fn what_is_not_there_is_told_apart() {
        let mut script = Script::new(ONE_VAULT);
        script.run(
            "delete-vault 1/7  => refused: vault 1/7 does not exist
             delete-vault 9/1  => refused: namespace 9 does not exist",
        );
        script.set_namespace_state(ledger_types::NamespaceId(1), NamespaceState::Deleted);
        script.run("delete-vault 1/7  => refused: namespace 1 is deleted");
        let own = DeleteVault { vault: VaultRef::new(1, 0) };
        assert!(own.check().is_err(), "vault 0 goes with its namespace");
    }
}
