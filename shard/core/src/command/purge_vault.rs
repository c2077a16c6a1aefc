//! The command that removes what is stored of a deleted vault, in the group that owns it.
//!
//! Owns the command's body and its apply. Every replica removes the same rows at the same place of the log; what stays
//! is the vault's row and its line in the owned table, so that its number is never used again. Must never remove a row
//! of a vault that is not deleted, whatever whoever proposed it believed.
//!
//! Body: `0x01`. The vault and its owner epoch are in the command's envelope.

use ledger_proof::encoding::{DecodeError, Reader};

use crate::apply::round::VaultRound;
use crate::apply::{ApplyOutput, CommandResult};
use crate::rows::{VAULT_FAMILIES, VaultStatus};

/// Version of the body.
const VERSION: u8 = 1;

/// The command's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PurgeVaultCommand;

impl PurgeVaultCommand {
    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        vec![VERSION]
    }

    /// Reads a body. Errors on an unknown version or bytes left over.
    pub fn decode(body: &[u8]) -> Result<PurgeVaultCommand, DecodeError> {
        let mut reader = Reader::new(body);
        match reader.u8("purge vault version")? {
            VERSION => reader.finish().map(|()| PurgeVaultCommand),
            value => {
                let field = "purge vault version";
                Err(DecodeError::UnknownValue { field, value: value.into() })
            }
        }
    }
}

/// Marks a deleted vault as purged; [`erase`] follows at the end of the entry. One that is purged stays as it is.
pub(crate) fn apply(round: &mut VaultRound) -> CommandResult {
    match round.state().expect("the owner check found the vault").row.status {
        VaultStatus::Active | VaultStatus::ReadOnly => CommandResult::VaultNotDeleted,
        VaultStatus::Deleted => {
            round.state_mut().row.status = VaultStatus::Purged;
            CommandResult::VaultPurged
        }
        VaultStatus::Purged => CommandResult::VaultPurged,
    }
}

/// Removes what is stored of a vault, with what this round was about to store. `output` holds the vault's own share of
/// the round only. A range for each family, so the cost is that of a few rows however large the vault was.
pub(crate) fn erase(round: &mut VaultRound, output: &mut ApplyOutput) {
    let row = round.state().expect("a vault that is purged has its row").row.purged();
    round.keep_only(row);
    output.rows.retain(|row| !VAULT_FAMILIES.contains(&row.family));
    output.erased.push(round.vault());
}

#[cfg(test)]
mod tests {
    use ledger_types::{OwnerEpoch, StateKey, VaultRef};

    use super::*;
    use crate::apply::tests_harness::{
        EPOCH, Machine, command, command_at, create_vault, keyed, set, vault, write,
    };
    use crate::apply::{Applier, ApplyConfig, TipProof};
    use crate::command::delete_vault::DeleteVaultCommand;
    use crate::entry::CommandKind;
    use crate::query::{self, QueryError};
    use crate::rows::VaultRow;
    use crate::view::Family;

    const OTHER: VaultRef =
        VaultRef { namespace: ledger_types::NamespaceId(1), vault: ledger_types::VaultId(2) };

    fn delete() -> Vec<u8> {
        command_at(vault(), EPOCH, CommandKind::DeleteVault, &DeleteVaultCommand.encode())
    }

    fn purge_at(epoch: OwnerEpoch) -> Vec<u8> {
        command_at(vault(), epoch, CommandKind::PurgeVault, &PurgeVaultCommand.encode())
    }

    fn purge() -> Vec<u8> {
        purge_at(EPOCH)
    }

    /// Rows of a vault beside its own, by family.
    fn rows_of(machine: &Machine, vault: VaultRef) -> Vec<usize> {
        let prefix = vault.to_bytes();
        let count = |family| {
            machine.rows.family(family).filter(|(key, _)| key.starts_with(&prefix)).count()
        };
        VAULT_FAMILIES.map(count).to_vec()
    }

    /// A machine with two vaults that have rows in every family.
    fn full() -> Machine {
        let mut machine =
            Machine::with(ApplyConfig { tree_flush_blocks: 4, ..ApplyConfig::default() });
        machine.commands(&[create_vault(OTHER)]);
        for round in 0..30u8 {
            let operations: Vec<_> =
                (0..4).map(|key| set(&format!("key{}", 7 * round % 9 + key), "value")).collect();
            let writes =
                [vault(), OTHER].map(|vault| command(vault, &keyed(round + 1, &operations)));
            machine.commands(&writes);
        }
        for vault in [vault(), OTHER] {
            assert!(rows_of(&machine, vault).iter().all(|count| *count > 0), "{vault}");
        }
        machine
    }

    fn prove(machine: &mut Machine, vault: VaultRef) -> Result<TipProof, QueryError> {
        machine.applier.prove(vault, &[StateKey::entity("key1")], None, &machine.rows)
    }

    #[test]
    fn body_is_one_version_byte() {
        let body = PurgeVaultCommand.encode();
        assert_eq!(PurgeVaultCommand::decode(&body), Ok(PurgeVaultCommand));
        for wrong in [&[][..], &[2], &[1, 0]] {
            assert!(PurgeVaultCommand::decode(wrong).is_err());
        }
    }

    #[test]
    fn a_purge_leaves_the_row_and_nothing_else() {
        let mut machine = full();
        let other = rows_of(&machine, OTHER);
        machine.commands(&[delete()]);
        let ended = machine.vault_row(vault());
        let entry = machine.entry(&[purge()]);
        let output = machine.round(&[entry]);
        assert_eq!(output.replies[0].result, CommandResult::VaultPurged);
        assert_eq!((output.erased.as_slice(), output.blocks.len()), (&[vault()][..], 0));
        assert_eq!(rows_of(&machine, vault()), [0; 5]);
        let row = machine.vault_row(vault());
        assert_eq!(row, VaultRow { applied_index: machine.last_index, ..ended.purged() });
        let of = |row: &VaultRow| (row.height, row.block_hash, row.log_root, row.deleted_at_ns);
        assert_eq!(of(&row), of(&ended), "how it ended is kept");
        // It looks as if it had never been, but for its row.
        assert_eq!(query::vault_row(&machine.rows, vault()), Err(QueryError::UnknownVault));
        assert_eq!(prove(&mut machine, vault()), Err(QueryError::UnknownVault));
        machine.restart();
        assert_eq!(prove(&mut machine, vault()), Err(QueryError::UnknownVault));
        // Its neighbour is as it was.
        assert_eq!(rows_of(&machine, OTHER), other);
        assert!(prove(&mut machine, OTHER).is_ok());
        machine.check(OTHER);
    }

    #[test]
    fn a_purged_vault_takes_nothing_in_and_is_never_made_again() {
        let mut machine = full();
        machine.commands(&[delete(), purge()]);
        for _ in 0..2 {
            let put = command(vault(), &write(&[set("a", "1")]));
            let results = machine.commands(&[purge(), delete(), create_vault(vault()), put]);
            assert_eq!(results[0], CommandResult::VaultPurged);
            assert_eq!(results[1..], vec![CommandResult::VaultDeleted; 3]);
            assert_eq!(rows_of(&machine, vault()), [0; 5]);
            let row = machine.vault_row(vault());
            assert_eq!(row, VaultRow { applied_index: machine.last_index, ..row.purged() });
            machine.restart();
        }
    }

    #[test]
    fn only_a_deleted_vault_is_purged_and_only_by_its_owner() {
        let mut machine = full();
        let before = rows_of(&machine, vault());
        let wrong = OwnerEpoch(EPOCH.0 + 1);
        let results = machine.commands(&[purge(), purge_at(wrong)]);
        let wrong_shard = CommandResult::WrongShard { owner_epoch: Some(EPOCH) };
        assert_eq!(results, [CommandResult::VaultNotDeleted, wrong_shard.clone()]);
        let unknown = command_at(
            VaultRef::new(1, 3),
            EPOCH,
            CommandKind::PurgeVault,
            &PurgeVaultCommand.encode(),
        );
        assert_eq!(machine.commands(&[unknown]), [CommandResult::UnknownVault]);
        machine.commands(&[delete()]);
        assert_eq!(machine.commands(&[purge_at(wrong)]), [wrong_shard]);
        assert_eq!(rows_of(&machine, vault()), before);
        let system = command_at(
            VaultRef::SYSTEM,
            EPOCH,
            CommandKind::PurgeVault,
            &PurgeVaultCommand.encode(),
        );
        assert_eq!(machine.commands(&[system]), [CommandResult::UnknownVault]);
    }

    #[test]
    fn nothing_of_the_same_entry_or_round_outlives_the_purge() {
        let put = |key| command(vault(), &keyed(200, &[set(key, "late")]));
        let mut machine = full();
        let height = machine.vault_row(vault()).height;
        let results = machine.commands(&[put("a"), delete(), purge(), put("b")]);
        assert!(matches!(results[0], CommandResult::Write(_)), "{results:?}");
        assert_eq!(results[3], CommandResult::VaultDeleted);
        assert_eq!(rows_of(&machine, vault()), [0; 5]);
        assert_eq!(machine.vault_row(vault()).height, height + 1, "its last block counts");

        let mut machine = full();
        let commands = [vec![put("a")], vec![delete()], vec![purge()], vec![put("b")]];
        let entries: Vec<_> = commands.iter().map(|commands| machine.entry(commands)).collect();
        machine.round(&entries);
        assert_eq!(rows_of(&machine, vault()), [0; 5]);
        // What the state machine still has in memory is never flushed behind it.
        for round in 0..20u8 {
            machine.commands(&[command(OTHER, &keyed(100 + round, &[set("key1", "more")]))]);
        }
        assert_eq!(rows_of(&machine, vault()), [0; 5]);
    }

    #[test]
    fn memory_is_given_back_without_bringing_rows_back() {
        let config = ApplyConfig { tree_cache_bytes: 1, ..ApplyConfig::default() };
        let mut machine = Machine::with(config);
        machine.commands(&[create_vault(OTHER)]);
        for number in 0..20u8 {
            machine.commands(&[command(vault(), &keyed(number, &[set("key1", "1")]))]);
        }
        machine.commands(&[delete(), purge()]);
        for number in 0..20u8 {
            machine.commands(&[command(OTHER, &keyed(number, &[set("key1", "1")])), purge()]);
        }
        assert_eq!(rows_of(&machine, vault()), [0; 5]);
    }

    #[test]
    fn a_node_that_forgets_its_past_purges_the_same() {
        let rows = |history_blocks| {
            let config = ApplyConfig { tree_flush_blocks: 1, history_blocks, ..Default::default() };
            let mut machine = full();
            machine.config = config;
            machine.restart();
            for round in 0..10u8 {
                machine.commands(&[command(vault(), &keyed(100 + round, &[set("key1", "1")]))]);
            }
            machine.commands(&[delete()]);
            machine.commands(&[purge()]);
            machine.commands(&[purge()]);
            machine.rows.family(Family::Vaults).map(|(_, row)| row.to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(rows(None), rows(Some(2)), "the row is the same everywhere");
    }

    #[test]
    fn replayed_entries_purge_once() {
        let mut machine = full();
        machine.commands(&[delete()]);
        let before = machine.rows.clone();
        let entry = machine.entry(&[purge()]);
        machine.round(std::slice::from_ref(&entry));
        let after = machine.rows.clone();
        // A crash before the batch was durable: the entry comes again on the rows before it.
        machine.rows = before;
        machine.applier = Applier::new(machine.config);
        machine.round(std::slice::from_ref(&entry));
        assert_eq!(machine.rows, after);
        // And after it: nothing happens.
        machine.restart();
        let output = machine.round(&[entry]);
        assert!(output.erased.is_empty() && output.replies.is_empty());
        assert_eq!(machine.rows, after);
    }
}
