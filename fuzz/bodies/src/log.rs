//! What is in the replicated log and in blocks: entries, the commands in them, transactions.

use ledger_proof::Transaction;
use ledger_shard_core::command::create_vault::CreateVaultCommand;
use ledger_shard_core::command::delete_vault::DeleteVaultCommand;
use ledger_shard_core::command::purge_vault::PurgeVaultCommand;
use ledger_shard_core::command::record_checkpoint::RecordCheckpointCommand;
use ledger_shard_core::command::system::SystemCommand;
use ledger_shard_core::command::write::WriteCommand;
use ledger_shard_core::entry::{
    Command, CommandKind, EntryBuilder, EntryData, FEATURE_LEVEL, proposal_time_ns,
};

use crate::{Verdict, canonical};

/// A transaction of a block.
pub(crate) fn transaction(input: &[u8]) -> Verdict {
    canonical(input, Transaction::decode, Transaction::encode)
}

/// An entry's data with all its commands and their bodies. Accepted only if all of it is.
pub(crate) fn entry(input: &[u8]) -> Verdict {
    let time_ns = proposal_time_ns(input);
    let Ok(entry) = EntryData::decode(input) else { return Verdict::Refused };
    assert_eq!(time_ns, Some(entry.time_ns), "the time is where it is looked for");
    if entry.feature_level == FEATURE_LEVEL {
        let mut builder = EntryBuilder::new(entry.proposer, entry.time_ns);
        for command in &entry.commands {
            builder.push(&command.encode());
        }
        assert_eq!(builder.finish(), input, "two encodings of one entry are accepted");
    }
    let mut verdict = Verdict::Accepted;
    for command in &entry.commands {
        assert_eq!(Command::decode(&command.encode()), Ok(*command), "a command reads back");
        if body(command) == Verdict::Refused {
            verdict = Verdict::Refused;
        }
    }
    verdict
}

fn body(command: &Command<'_>) -> Verdict {
    match CommandKind::from_code(command.kind) {
        Some(CommandKind::Write) => {
            canonical(command.body, WriteCommand::decode, WriteCommand::encode)
        }
        Some(CommandKind::CreateVault) => {
            canonical(command.body, CreateVaultCommand::decode, CreateVaultCommand::encode)
        }
        Some(CommandKind::DeleteVault) => {
            canonical(command.body, DeleteVaultCommand::decode, DeleteVaultCommand::encode)
        }
        Some(CommandKind::PurgeVault) => {
            canonical(command.body, PurgeVaultCommand::decode, PurgeVaultCommand::encode)
        }
        Some(CommandKind::System) => canonical(command.body, SystemCommand::decode, |command| {
            command.encode().expect("nothing is accepted that may not be written")
        }),
        Some(CommandKind::RecordCheckpoint) => canonical(
            command.body,
            RecordCheckpointCommand::decode,
            RecordCheckpointCommand::encode,
        ),
        None => Verdict::Refused,
    }
}
