//! The command that ends a vault in the group that owns it.
//!
//! Owns the command's body and its apply. From its entry on the group takes nothing in for the vault any more,
//! whatever a node's copy of the directory says. Must never remove a row: the chain stays as it ended.
//!
//! Body: `0x01`. The vault and its owner epoch are in the command's envelope.

use ledger_proof::encoding::{DecodeError, Reader};

use crate::apply::CommandResult;
use crate::apply::round::VaultRound;
use crate::rows::VaultStatus;

/// Version of the body.
const VERSION: u8 = 1;

/// The command's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeleteVaultCommand;

impl DeleteVaultCommand {
    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        vec![VERSION]
    }

    /// Reads a body. Errors on an unknown version or bytes left over.
    pub fn decode(body: &[u8]) -> Result<DeleteVaultCommand, DecodeError> {
        let mut reader = Reader::new(body);
        match reader.u8("delete vault version")? {
            VERSION => reader.finish().map(|()| DeleteVaultCommand),
            value => {
                let field = "delete vault version";
                Err(DecodeError::UnknownValue { field, value: value.into() })
            }
        }
    }
}

/// Marks the vault as deleted, at the time of the entry. Transactions before it in the same entry are in the vault's
/// last block.
pub(crate) fn apply(round: &mut VaultRound, time_ns: u64) -> CommandResult {
    let row = &mut round.state_mut().row;
    (row.status, row.deleted_at_ns) = (VaultStatus::Deleted, time_ns);
    CommandResult::VaultDeleted
}

#[cfg(test)]
mod tests {
    use ledger_types::OwnerEpoch;

    use super::*;
    use crate::apply::tests_harness::{
        EPOCH, Machine, command, command_at, create_vault, set, vault, write,
    };
    use crate::entry::CommandKind;
    use crate::query;
    use crate::rows::VaultRow;

    fn delete(epoch: OwnerEpoch) -> Vec<u8> {
        command_at(vault(), epoch, CommandKind::DeleteVault, &DeleteVaultCommand.encode())
    }

    #[test]
    fn body_is_one_version_byte() {
        let body = DeleteVaultCommand.encode();
        assert_eq!(DeleteVaultCommand::decode(&body), Ok(DeleteVaultCommand));
        for wrong in [&[][..], &[2], &[1, 0]] {
            assert!(DeleteVaultCommand::decode(wrong).is_err());
        }
    }

    #[test]
    fn a_deleted_vault_takes_nothing_in_and_keeps_its_chain() {
        let mut machine = Machine::new();
        machine.commit(&[set("a", "1")]);
        let put = |key| command(vault(), &write(&[set(key, "2")]));
        let results = machine.commands(&[put("b"), delete(EPOCH), put("c")]);
        assert!(matches!(results[0], CommandResult::Write(_)), "{results:?}");
        assert_eq!(results[1..], [CommandResult::VaultDeleted, CommandResult::VaultDeleted]);
        let row = query::vault_row(&machine.rows, vault()).unwrap();
        assert_eq!((row.status, row.height, row.log_size), (VaultStatus::Deleted, 2, 3));
        assert_eq!(row.deleted_at_ns, machine.time_ns);
        machine.restart();
        let results = machine.commands(&[delete(EPOCH), create_vault(vault()), put("d")]);
        assert_eq!(results, vec![CommandResult::VaultDeleted; 3]);
        let ended = query::vault_row(&machine.rows, vault()).unwrap();
        assert_eq!(VaultRow { applied_index: row.applied_index, ..ended }, row, "it ends once");
        machine.check(vault());
    }

    #[test]
    fn only_the_owner_in_its_epoch_deletes() {
        let mut machine = Machine::new();
        let results = machine.commands(&[delete(OwnerEpoch(EPOCH.0 + 1))]);
        assert_eq!(results, [CommandResult::WrongShard { owner_epoch: Some(EPOCH) }]);
        machine.commit(&[set("a", "1")]);
    }
}
