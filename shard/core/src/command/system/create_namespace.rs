//! `CreateNamespace`: gives a namespace its id and the vault of its own entities a place.
//!
//! Owns the command's bytes, its effect and its tests. Must never give a name or an id twice.
//!
//! Fields: `name (u16 len) ‖ option of shard u64`, an option being `0x00` or `0x01 ‖ value`.

use ledger_proof::encoding::{DecodeError, Reader, Writer};
use ledger_proof::system_entity::{
    NamespaceEntity, NamespaceNameEntity, NamespaceState, SequenceEntity, namespace_key,
    namespace_name_key, sequence_key,
};
use ledger_types::limits::NAME_BYTES_MAX;
use ledger_types::{GroupId, InvalidInput, NamespaceId, VaultId, VaultRef};

use super::create_vault::{Retention, place};
use super::draft::Draft;
use super::entity::{NAMESPACE_SEQUENCE, vault_sequence};
use super::{Answer, FIRST_OWNER_EPOCH, PUBLIC_ID_MAX, SystemRefusal, SystemResult, checked};

/// Asks for a namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreateNamespace {
    /// Its name, unique in the cluster.
    pub name: String,
    /// The data shard of its own entities; the least loaded without one.
    pub shard: Option<GroupId>,
}

/// Checks a namespace's name: not empty, no NUL, at most [`NAME_BYTES_MAX`] bytes.
pub fn check_namespace_name(text: &str) -> Result<(), InvalidInput> {
    let field = "name";
    ledger_types::check_client_string(field, text)?;
    if text.len() > NAME_BYTES_MAX {
        return Err(InvalidInput::TooLong { field, len: text.len(), max: NAME_BYTES_MAX });
    }
    Ok(())
}

impl CreateNamespace {
    pub(super) fn check(&self) -> Result<(), InvalidInput> {
        check_namespace_name(&self.name)
    }

    pub(super) fn write(&self, out: &mut Writer<'_>) {
        out.bytes_u16(self.name.as_bytes());
        out.flag(self.shard.is_some());
        if let Some(shard) = self.shard {
            out.u64(shard.0);
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<CreateNamespace, DecodeError> {
        let name = reader.text_u16("name", NAME_BYTES_MAX)?.to_owned();
        let shard = match reader.flag("has shard")? {
            true => Some(GroupId(reader.u64("shard")?)),
            false => None,
        };
        let command = CreateNamespace { name, shard };
        checked(command.check().map_err(Into::into))?;
        Ok(command)
    }

    pub(super) fn plan(&self, time_ns: u64, draft: &mut Draft<'_>) -> Answer {
        let name_key = namespace_name_key(&self.name);
        if let Some(NamespaceNameEntity { id }) = draft.get(&name_key)? {
            return Ok(Err(SystemRefusal::NamespaceNameTaken { namespace: id }));
        }
        let id = NamespaceId(draft.draw(NAMESPACE_SEQUENCE)?);
        if id.0 > PUBLIC_ID_MAX {
            return Ok(Err(SystemRefusal::IdsExhausted));
        }
        let own_vault = VaultRef { namespace: id, vault: VaultId(0) };
        let shard = match place(own_vault, self.shard, Retention::KEEP_ALL, time_ns, draft)? {
            Ok(shard) => shard,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let namespace = NamespaceEntity {
            id,
            name: self.name.clone(),
            state: NamespaceState::Active,
            created_at_ns: time_ns,
            config_version: 1,
        };
        draft.put(namespace_key(id), &namespace);
        draft.put(name_key, &NamespaceNameEntity { id });
        draft.put(sequence_key(&vault_sequence(id)), &SequenceEntity { next: 1 });
        let owner_epoch = FIRST_OWNER_EPOCH;
        Ok(Ok(SystemResult::NamespaceCreated { namespace: id, shard, owner_epoch }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::run;
    use super::*;

    #[test]
    fn a_namespace_gets_an_id_and_its_vault_0_a_place() {
        run("found a b c              => founded
             shards 2 factor=3        => 2 shards, new: 1 2
             namespace acme           => namespace 1 on shard 1
             namespace globex         => namespace 2 on shard 2
             namespace initech on=2   => namespace 3 on shard 2
             get namespace/1          => namespace 1 acme Active
             get namespace-name/acme  => namespace 1
             get vault/1/0            => vault 1/0 on 1 epoch 1 Creating
             get pending/1/0          => pending 1/0 on 1 epoch 1
             get sequence/vault/1     => next 1
             get shard-vaults/2       => 2 vaults
             keys shard-by-load/      => shard-by-load/00000000000000000001/00000000000000000001 shard-by-load/00000000000000000002/00000000000000000002");
    }

    #[test]
    fn names_are_unique_and_shards_must_be_data_shards() {
        run("found a             => founded
             namespace acme      => refused: there is no data shard yet
             shards 1 factor=1   => 1 shards, new: 1
             namespace acme      => namespace 1 on shard 1
             namespace acme      => refused: the name belongs to namespace 1
             namespace b on=0    => refused: shard 0 is not a data shard of this cluster
             namespace b on=9    => refused: shard 9 is not a data shard of this cluster
             namespace b         => namespace 2 on shard 1");
    }

    #[test]
    fn names_are_checked_before_they_enter_the_log() {
        assert_eq!(check_namespace_name(""), Err(InvalidInput::Empty { field: "name" }));
        let nul = InvalidInput::Nul { field: "name", offset: 1 };
        assert_eq!(check_namespace_name("a\0"), Err(nul));
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        let error = InvalidInput::TooLong { field: "name", len: long.len(), max: NAME_BYTES_MAX };
        assert_eq!(check_namespace_name(&long), Err(error));
        assert_eq!(check_namespace_name(&long[1..]), Ok(()));
        assert_eq!(check_namespace_name("Größe / 1"), Ok(()));
    }
}
