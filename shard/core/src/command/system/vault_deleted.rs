//! `VaultDeleted`: records that a vault's shard has ended it.
//!
//! Owns the command's bytes, its effect and its tests; with the vault of its own entities a namespace ends too,
//! and only then is its name free. Must never forget the vault: its id is not used again.
//!
//! Fields: `namespace u64 ‖ vault u64 ‖ owner epoch u64`.

use ledger_proof::encoding::{DecodeError, Reader, Writer};
use ledger_proof::system_entity::{
    NamespaceEntity, NamespaceState, VaultEntity, VaultState, namespace_key, namespace_name_key,
    vault_key,
};
use ledger_types::{OwnerEpoch, VaultId, VaultRef};

use super::draft::Draft;
use super::entity::pending_key;
use super::{Answer, SystemFault, SystemRefusal, SystemResult};

/// A vault has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VaultDeleted {
    /// The vault.
    pub vault: VaultRef,
    /// The owner epoch under which it was ended.
    pub owner_epoch: OwnerEpoch,
}

impl VaultDeleted {
    pub(super) fn write(&self, out: &mut Writer<'_>) {
        out.raw(&self.vault.to_bytes());
        out.u64(self.owner_epoch.0);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<VaultDeleted, DecodeError> {
        let vault = VaultRef::new(reader.u64("namespace")?, reader.u64("vault")?);
        Ok(VaultDeleted { vault, owner_epoch: OwnerEpoch(reader.u64("owner epoch")?) })
    }

    pub(super) fn plan(&self, draft: &mut Draft<'_>) -> Answer {
        let vault = self.vault;
        let Some(entity) = draft.get::<VaultEntity>(&vault_key(vault))? else {
            return Ok(Err(SystemRefusal::UnknownVault { vault }));
        };
        if entity.owner_epoch != self.owner_epoch {
            let current = entity.owner_epoch;
            return Ok(Err(SystemRefusal::OtherOwnerEpoch { vault, current }));
        }
        match entity.state {
            VaultState::Creating | VaultState::Active => {
                return Ok(Err(SystemRefusal::VaultStays { vault }));
            }
            VaultState::Deleting => {
                draft.uncount_vault(entity.shard)?;
                draft.put(vault_key(vault), &VaultEntity { state: VaultState::Deleted, ..entity });
                draft.delete(pending_key(vault));
                if vault.vault == VaultId(0) {
                    end_namespace(vault, draft)?;
                }
            }
            VaultState::Deleted => {}
        }
        Ok(Ok(SystemResult::VaultDeleted { vault }))
    }
}

/// Ends the namespace whose own entities have ended.
fn end_namespace(own: VaultRef, draft: &mut Draft<'_>) -> Result<(), SystemFault> {
    let key = namespace_key(own.namespace);
    let entity: NamespaceEntity = draft.expect(&key)?;
    draft.delete(namespace_name_key(&entity.name));
    let config_version = entity.config_version + 1;
    draft.put(key, &NamespaceEntity { state: NamespaceState::Deleted, config_version, ..entity });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::script::Script;

    const TWO_VAULTS: &str = "found a             => founded
                              shards 2 factor=1   => 2 shards, new: 1 2
                              namespace acme      => namespace 1 on shard 1
                              active 1/0 epoch=1  => active 1/0 epoch 1
                              vault 1             => vault 1/1 on 2 epoch 1 pending created
                              active 1/1 epoch=1  => active 1/1 epoch 1";

    #[test]
    fn a_vault_ends_once_and_makes_room_on_its_shard() {
        let mut script = Script::new(TWO_VAULTS);
        script.run(
            "deleted 1/1 epoch=1  => refused: vault 1/1 is not being deleted
             delete-vault 1/1     => vault 1/1 deleted
             deleted 1/1 epoch=2  => refused: vault 1/1 is at owner epoch 1
             deleted 1/1 epoch=1  => ended 1/1
             get vault/1/1        => vault 1/1 on 2 epoch 1 Deleted
             get pending/1/1      => none
             get shard-vaults/2   => 0 vaults
             keys shard-by-load/  => shard-by-load/00000000000000000000/00000000000000000002 shard-by-load/00000000000000000001/00000000000000000001
             deleted 1/1 epoch=1  => ended 1/1, nothing changed
             delete-vault 1/1     => vault 1/1 deleted, nothing changed
             deleted 1/9 epoch=1  => refused: vault 1/9 does not exist
             vault 1              => vault 1/2 on 2 epoch 1 pending created
             get namespace/1      => namespace 1 acme Active",
        );
    }
}
