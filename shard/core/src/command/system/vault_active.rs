//! `VaultActive`: records that a vault's shard has made its first block.
//!
//! Owns the command's bytes, its effect and its tests. Must never bring a deleted vault back.
//!
//! Fields: `namespace u64 ‖ vault u64 ‖ owner epoch u64`.

use ledger_proof::encoding::{DecodeError, Reader, Writer};
use ledger_proof::system_entity::{VaultEntity, VaultState, vault_key};
use ledger_types::{OwnerEpoch, VaultRef};

use super::draft::Draft;
use super::entity::pending_key;
use super::{Answer, SystemRefusal, SystemResult};

/// A vault has its first block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VaultActive {
    /// The vault.
    pub vault: VaultRef,
    /// The owner epoch under which the block was made.
    pub owner_epoch: OwnerEpoch,
}

impl VaultActive {
    pub(super) fn write(&self, out: &mut Writer<'_>) {
        out.raw(&self.vault.to_bytes());
        out.u64(self.owner_epoch.0);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<VaultActive, DecodeError> {
        let vault = VaultRef::new(reader.u64("namespace")?, reader.u64("vault")?);
        Ok(VaultActive { vault, owner_epoch: OwnerEpoch(reader.u64("owner epoch")?) })
    }

    pub(super) fn plan(&self, draft: &mut Draft<'_>) -> Answer {
        let vault = self.vault;
        let Some(entity) = draft.get::<VaultEntity>(&vault_key(vault))? else {
            return Ok(Err(SystemRefusal::UnknownVault { vault }));
        };
        if matches!(entity.state, VaultState::Deleting | VaultState::Deleted) {
            return Ok(Err(SystemRefusal::VaultDeleted { vault }));
        }
        if entity.owner_epoch != self.owner_epoch {
            let current = entity.owner_epoch;
            return Ok(Err(SystemRefusal::OtherOwnerEpoch { vault, current }));
        }
        draft.put(vault_key(vault), &VaultEntity { state: VaultState::Active, ..entity });
        draft.delete(pending_key(vault));
        Ok(Ok(SystemResult::VaultActive { vault, owner_epoch: self.owner_epoch }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::Script;
    use super::*;

    const ONE_VAULT: &str = "found a            => founded
                             shards 1 factor=1  => 1 shards, new: 1
                             namespace acme     => namespace 1 on shard 1";

    #[test]
    fn a_creating_vault_becomes_active_once() {
        let mut script = Script::new(ONE_VAULT);
        script.run(
            "active 1/0 epoch=1  => active 1/0 epoch 1
             get vault/1/0       => vault 1/0 on 1 epoch 1 Active
             get pending/1/0     => none
             active 1/0 epoch=1  => active 1/0 epoch 1, nothing changed",
        );
    }

    #[test]
    fn other_epochs_and_vaults_are_refused() {
        let mut script = Script::new(ONE_VAULT);
        script.run(
            "active 1/0 epoch=2  => refused: vault 1/0 is at owner epoch 1
             active 1/1 epoch=1  => refused: vault 1/1 does not exist",
        );
        script.set_vault_state(VaultRef::new(1, 0), VaultState::Deleting);
        script.run("active 1/0 epoch=1  => refused: vault 1/0 is deleted");
    }
}
