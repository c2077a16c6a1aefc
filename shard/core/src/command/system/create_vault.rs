//! `CreateVault`: gives a vault its id and its place; the shard then makes its first block.
//!
//! Owns the command's bytes, its effect and its tests, and the placing of a new vault. Must never give
//! out an id that was used before.
//!
//! Fields: `namespace u64 ‖ option of chosen vault u64 ‖ retention mode u8 ‖ retention blocks u64`, an
//! option being `0x00` or `0x01 ‖ value`.

use ledger_proof::encoding::{DecodeError, Reader, Writer};
use ledger_proof::system_entity::{
    NamespaceEntity, NamespaceState, RetentionMode, SequenceEntity, VaultEntity, VaultState,
    namespace_key, sequence_key, vault_key,
};
use ledger_types::{GroupId, NamespaceId, VaultId, VaultRef};

use super::draft::Draft;
use super::entity::{PendingEntity, pending_key, vault_sequence};
use super::{
    Answer, FIRST_OWNER_EPOCH, InvalidCommand, PUBLIC_ID_MAX, SystemFault, SystemRefusal,
    SystemResult, checked,
};

/// Which blocks of a vault keep their bodies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    /// The rule.
    pub mode: RetentionMode,
    /// How many of the newest are kept, if not all are; otherwise 0.
    pub blocks: u64,
}

impl Retention {
    /// Nothing is ever dropped.
    pub const KEEP_ALL: Retention = Retention { mode: RetentionMode::KeepAll, blocks: 0 };
}

/// Asks for a vault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CreateVault {
    /// The namespace.
    pub namespace: NamespaceId,
    /// The vault's id if the caller chose it; otherwise the namespace's next one.
    pub vault: Option<VaultId>,
    /// Which block bodies are kept. An existing vault keeps its own rule.
    pub retention: Retention,
}

impl CreateVault {
    pub(super) fn check(&self) -> Result<(), InvalidCommand> {
        if self.vault.is_some_and(|vault| vault.0 > PUBLIC_ID_MAX) {
            return Err(InvalidCommand::OutOfRange { field: "vault", min: 1, max: PUBLIC_ID_MAX });
        }
        let (min, max) = match self.retention.mode {
            RetentionMode::KeepAll => (0, 0),
            RetentionMode::KeepBlocks => (1, u64::MAX),
        };
        if self.retention.blocks < min || self.retention.blocks > max {
            return Err(InvalidCommand::OutOfRange { field: "retention_blocks", min, max });
        }
        Ok(())
    }

    pub(super) fn write(&self, out: &mut Writer<'_>) {
        out.u64(self.namespace.0);
        out.flag(self.vault.is_some());
        if let Some(vault) = self.vault {
            out.u64(vault.0);
        }
        out.u8(self.retention.mode as u8);
        out.u64(self.retention.blocks);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<CreateVault, DecodeError> {
        let namespace = NamespaceId(reader.u64("namespace")?);
        let vault = match reader.flag("has vault")? {
            true => Some(VaultId(reader.u64("vault")?)),
            false => None,
        };
        let mode = match reader.u8("retention mode")? {
            code if code == RetentionMode::KeepAll as u8 => RetentionMode::KeepAll,
            code if code == RetentionMode::KeepBlocks as u8 => RetentionMode::KeepBlocks,
            value => {
                let field = "retention mode";
                return Err(DecodeError::UnknownValue { field, value: value.into() });
            }
        };
        let retention = Retention { mode, blocks: reader.u64("retention blocks")? };
        let command = CreateVault { namespace, vault, retention };
        checked(command.check())?;
        Ok(command)
    }

    pub(super) fn plan(&self, time_ns: u64, draft: &mut Draft<'_>) -> Answer {
        let namespace = self.namespace;
        match draft.get::<NamespaceEntity>(&namespace_key(namespace))? {
            None => return Ok(Err(SystemRefusal::UnknownNamespace { namespace })),
            Some(entity) if entity.state != NamespaceState::Active => {
                return Ok(Err(SystemRefusal::NamespaceDeleted { namespace }));
            }
            Some(_) => {}
        }
        let vault = match self.vault {
            Some(vault) => vault,
            None => match next_vault_id(namespace, draft)? {
                Some(vault) => vault,
                None => return Ok(Err(SystemRefusal::IdsExhausted)),
            },
        };
        let vault = VaultRef { namespace, vault };
        if let Some(entity) = draft.get::<VaultEntity>(&vault_key(vault))? {
            return Ok(existing(&entity));
        }
        Ok(match place(vault, None, self.retention, time_ns, draft)? {
            Ok(shard) => Ok(SystemResult::VaultPlaced {
                vault,
                shard,
                owner_epoch: FIRST_OWNER_EPOCH,
                pending: true,
                created: true,
            }),
            Err(refusal) => Err(refusal),
        })
    }
}

fn existing(entity: &VaultEntity) -> Result<SystemResult, SystemRefusal> {
    let VaultEntity { vault, shard, owner_epoch, .. } = *entity;
    let pending = match entity.state {
        VaultState::Creating => true,
        VaultState::Active => false,
        VaultState::Deleting | VaultState::Deleted => {
            return Err(SystemRefusal::VaultDeleted { vault });
        }
    };
    Ok(SystemResult::VaultPlaced { vault, shard, owner_epoch, pending, created: false })
}

/// The namespace's lowest id that was neither drawn nor chosen before; `None` if there is none left. Ids
/// that were skipped once are never looked at again.
fn next_vault_id(
    namespace: NamespaceId,
    draft: &mut Draft<'_>,
) -> Result<Option<VaultId>, SystemFault> {
    let sequence = sequence_key(&vault_sequence(namespace));
    let SequenceEntity { next: mut id } = draft.expect(&sequence)?;
    loop {
        if id > PUBLIC_ID_MAX {
            return Ok(None);
        }
        let vault = VaultRef { namespace, vault: VaultId(id) };
        if draft.get::<VaultEntity>(&vault_key(vault))?.is_none() {
            draft.put(sequence, &SequenceEntity { next: id + 1 });
            return Ok(Some(vault.vault));
        }
        id += 1;
    }
}

/// Gives a new vault its place: the wanted data shard, or the one with the fewest vaults.
pub(super) fn place(
    vault: VaultRef,
    wanted: Option<GroupId>,
    retention: Retention,
    time_ns: u64,
    draft: &mut Draft<'_>,
) -> Result<Result<GroupId, SystemRefusal>, SystemFault> {
    let shard = match wanted {
        Some(shard) => shard,
        None => match draft.least_loaded_shard()? {
            Some(shard) => shard,
            None => return Ok(Err(SystemRefusal::NoShard)),
        },
    };
    if !draft.count_vault(shard)? {
        return Ok(Err(SystemRefusal::UnknownShard { shard }));
    }
    let owner_epoch = FIRST_OWNER_EPOCH;
    let entity = VaultEntity {
        vault,
        shard,
        owner_epoch,
        log_epoch: 0,
        state: VaultState::Creating,
        created_at_ns: time_ns,
        retention: retention.mode,
        retention_blocks: retention.blocks,
    };
    draft.put(vault_key(vault), &entity);
    draft.put(pending_key(vault), &PendingEntity { vault, shard, owner_epoch });
    Ok(Ok(shard))
}

#[cfg(test)]
mod tests {
    use super::super::script::Script;
    use super::*;

    const TWO_SHARDS: &str = "found a            => founded
                              shards 2 factor=1  => 2 shards, new: 1 2
                              namespace acme     => namespace 1 on shard 1";

    #[test]
    fn vaults_get_the_next_id_on_the_least_loaded_shard() {
        let mut script = Script::new(TWO_SHARDS);
        script.run(
            "vault 1              => vault 1/1 on 2 epoch 1 pending created
             vault 1              => vault 1/2 on 1 epoch 1 pending created
             vault 1              => vault 1/3 on 2 epoch 1 pending created
             get vault/1/3        => vault 1/3 on 2 epoch 1 Creating
             get pending/1/3      => pending 1/3 on 2 epoch 1
             get sequence/vault/1 => next 4
             get shard-vaults/1   => 2 vaults",
        );
    }

    #[test]
    fn chosen_ids_are_kept_and_skipped() {
        let mut script = Script::new(TWO_SHARDS);
        script.run(
            "vault 1 id=1                    => vault 1/1 on 2 epoch 1 pending created
             vault 1 id=3                    => vault 1/3 on 1 epoch 1 pending created
             vault 1 id=1                    => vault 1/1 on 2 epoch 1 pending, nothing changed
             vault 1 id=0                    => vault 1/0 on 1 epoch 1 pending, nothing changed
             vault 1                         => vault 1/2 on 2 epoch 1 pending created
             vault 1                         => vault 1/4 on 1 epoch 1 pending created
             vault 1 id=9223372036854775807  => vault 1/9223372036854775807 on 2 epoch 1 pending created
             active 1/1 epoch=1              => active 1/1 epoch 1
             vault 1 id=1                    => vault 1/1 on 2 epoch 1, nothing changed",
        );
    }

    #[test]
    fn deleted_vaults_and_namespaces_are_refused() {
        let mut script = Script::new(TWO_SHARDS);
        script.run(
            "vault 1 id=5         => vault 1/5 on 2 epoch 1 pending created
             vault 2              => refused: namespace 2 does not exist
             vault 0              => refused: namespace 0 does not exist",
        );
        script.set_vault_state(VaultRef::new(1, 5), VaultState::Deleted);
        script.run("vault 1 id=5  => refused: vault 1/5 is deleted");
        script.set_namespace_state(NamespaceId(1), NamespaceState::Deleting);
        script.run("vault 1       => refused: namespace 1 is deleted");
    }

    #[test]
    fn ids_end() {
        let mut script = Script::new(TWO_SHARDS);
        let last = SequenceEntity { next: PUBLIC_ID_MAX };
        script.put("sequence/vault/1", &last);
        script.run(
            "vault 1  => vault 1/9223372036854775807 on 2 epoch 1 pending created
             vault 1  => refused: no id is left",
        );
    }

    #[test]
    fn numbers_out_of_range_never_enter_the_log() {
        let namespace = NamespaceId(1);
        let refused = |vault: Option<u64>, mode, blocks| {
            let (vault, retention) = (vault.map(VaultId), Retention { mode, blocks });
            CreateVault { namespace, vault, retention }.check().is_err()
        };
        assert!(refused(Some(PUBLIC_ID_MAX + 1), RetentionMode::KeepAll, 0));
        assert!(refused(None, RetentionMode::KeepAll, 1));
        assert!(refused(None, RetentionMode::KeepBlocks, 0));
        assert!(!refused(Some(PUBLIC_ID_MAX), RetentionMode::KeepBlocks, 1));
    }
}
