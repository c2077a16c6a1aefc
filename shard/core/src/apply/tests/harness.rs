//! One group's state machine on rows in memory, and the naive definitions it is compared with.

use std::collections::BTreeMap;

use ledger_proof::{BlockHeader, Record, hash, tx_tree};
use ledger_types::{
    Condition, Dedup, Digest, GroupId, Incarnation, Operation, OwnerEpoch, StateKey, TxId, VaultRef,
};

use crate::apply::{Applier, ApplyConfig, ApplyFault, ApplyOutput, CommandResult};
use crate::command::create_vault::CreateVaultCommand;
use crate::command::write::{CommittedWrite, WriteCommand, WriteResult};
use crate::effects::Committed;
use crate::entry::{Command, CommandKind, EntryBuilder, EntryKind, LogEntry};
use crate::rows::{
    GroupRow, VaultRow, block_body_key, block_header_key, decode_body, group_row_key, latest_key,
    split_latest, vault_row_key,
};
use crate::view::{Family, MemoryRows, RowWrite, StateView};

pub(crate) const GROUP: GroupId = GroupId(7);
pub(crate) const EPOCH: OwnerEpoch = OwnerEpoch(1);
pub(crate) const SECOND: u64 = 1_000_000_000;
/// Time of the first entries, in seconds.
pub(crate) const START_S: u64 = 1_000_000;

pub(crate) fn vault() -> VaultRef {
    VaultRef::new(1, 1)
}

/// A group's state machine with its store.
pub(crate) struct Machine {
    pub rows: MemoryRows,
    pub applier: Applier,
    pub config: ApplyConfig,
    pub last_index: u64,
    pub time_ns: u64,
}

impl Machine {
    /// A group at its beginning, without vaults.
    pub(crate) fn empty(config: ApplyConfig) -> Machine {
        let mut rows = MemoryRows::default();
        let row = GroupRow { applied_index: 5, applied_term: 5, ..GroupRow::default() };
        let (family, key) = (Family::Vaults, group_row_key(GROUP));
        rows.write([RowWrite { family, key, value: Some(row.encode()) }]);
        let time_ns = START_S * SECOND;
        Machine { rows, applier: Applier::new(config), config, last_index: 5, time_ns }
    }

    /// A group with one vault.
    pub(crate) fn new() -> Machine {
        Machine::with(ApplyConfig::default())
    }

    pub(crate) fn with(config: ApplyConfig) -> Machine {
        Machine::keeping(config, 0)
    }

    /// A group with one vault that was made to keep its newest blocks readable; 0 keeps all.
    pub(crate) fn keeping(config: ApplyConfig, retention_blocks: u64) -> Machine {
        let mut machine = Machine::empty(config);
        let body = CreateVaultCommand { retention_blocks }.encode();
        let create = command_at(vault(), EPOCH, CommandKind::CreateVault, &body);
        let created = machine.commands(&[create]);
        assert!(matches!(created[..], [CommandResult::VaultCreated { .. }]), "{created:?}");
        machine
    }

    /// The next entry of the log, with these commands.
    pub(crate) fn entry(&mut self, commands: &[Vec<u8>]) -> LogEntry {
        self.last_index += 1;
        entry(self.last_index, self.time_ns, commands)
    }

    /// Applies one round and writes it.
    pub(crate) fn round(&mut self, entries: &[LogEntry]) -> ApplyOutput {
        self.try_round(entries).expect("these entries apply")
    }

    pub(crate) fn try_round(&mut self, entries: &[LogEntry]) -> Result<ApplyOutput, ApplyFault> {
        let mut output = ApplyOutput::default();
        let committed =
            [Committed { group: GROUP, entries: entries.to_vec(), members: Vec::new() }];
        self.applier.apply(&committed, &self.rows, &mut output)?;
        self.rows.erase(&output.erased);
        self.rows.write(output.rows.clone());
        self.applier.written();
        Ok(output)
    }

    /// Applies one entry with these commands.
    pub(crate) fn commands(&mut self, commands: &[Vec<u8>]) -> Vec<CommandResult> {
        let entry = self.entry(commands);
        self.round(&[entry]).replies.into_iter().map(|reply| reply.result).collect()
    }

    /// Applies one entry with these writes on the vault.
    pub(crate) fn writes(&mut self, writes: &[WriteCommand]) -> Vec<WriteResult> {
        let commands: Vec<_> = writes.iter().map(|write| command(vault(), write)).collect();
        let results = self.commands(&commands).into_iter();
        let write = |result| match result {
            CommandResult::Write(result) => result,
            other => panic!("not an answer to a write: {other:?}"),
        };
        results.map(write).collect()
    }

    /// Applies an entry with one write on the vault.
    pub(crate) fn write(&mut self, write: &WriteCommand) -> WriteResult {
        self.writes(std::slice::from_ref(write)).remove(0)
    }

    /// Applies an entry with one transaction that must commit.
    pub(crate) fn commit(&mut self, operations: &[Operation]) -> CommittedWrite {
        committed(self.write(&write(operations)))
    }

    /// Loses everything that is not in rows.
    pub(crate) fn restart(&mut self) {
        self.applier = Applier::new(self.config);
    }

    pub(crate) fn vault_row(&self, vault: VaultRef) -> VaultRow {
        let row = self.rows.get(Family::Vaults, &vault_row_key(vault)).unwrap();
        VaultRow::decode(&row.expect("the vault exists")).unwrap()
    }

    /// Record and value of a state key.
    pub(crate) fn state(&self, key: &StateKey) -> Option<(Record, Vec<u8>)> {
        let row = self.rows.get(Family::Latest, &latest_key(vault(), key.as_bytes())).unwrap()?;
        let (record, value) = split_latest(&row).unwrap();
        Some((Record::decode(record).unwrap(), value.to_vec()))
    }

    /// Record of an entity that must be there.
    pub(crate) fn record(&self, key: &str) -> Record {
        self.state(&StateKey::entity(key)).expect("the entity has a row").0
    }

    pub(crate) fn header(&self, vault: VaultRef, height: u64) -> BlockHeader {
        let bytes = self.rows.get(Family::Blocks, &block_header_key(vault, height)).unwrap();
        BlockHeader::decode(&bytes.expect("the block is stored")).unwrap()
    }

    /// Recomputes a vault's whole chain from its rows and compares.
    pub(crate) fn check(&self, vault: VaultRef) {
        let row = self.vault_row(vault);
        let mut leaves = Vec::new();
        for height in 0..=row.height {
            let header = self.header(vault, height);
            assert_eq!((header.vault, header.height), (vault, height));
            let previous = leaves.last().copied().unwrap_or(Digest::ZERO);
            assert_eq!(header.previous_hash, previous, "height {height}");
            leaves.push(header.block_hash());
            if height > 0 {
                let body = self.rows.get(Family::Blocks, &block_body_key(vault, height)).unwrap();
                let body = body.expect("the body is stored");
                let transactions = decode_body(&body).unwrap();
                let hashes: Vec<_> = transactions.iter().map(|tx| tx_tree::tx_leaf(tx)).collect();
                assert_eq!(header.tx_root, tx_tree::tx_root(&hashes));
                assert_eq!(header.tx_count as usize, hashes.len());
            }
        }
        assert_eq!(row.block_hash, leaves[leaves.len() - 1]);
        assert_eq!((row.log_size, row.log_root), (row.height + 1, tx_tree::tx_root(&leaves)));
        let state = self.vault_state(vault);
        let tip = self.header(vault, row.height);
        assert_eq!(tip.state_keys, state.len() as u64);
        assert_eq!((tip.state_root, row.state_root), (naive_root(&state), tip.state_root));
    }

    fn vault_state(&self, vault: VaultRef) -> BTreeMap<Vec<u8>, [u8; 93]> {
        let prefix = vault.to_bytes();
        let rows = self.rows.family(Family::Latest).filter(|(key, _)| key.starts_with(&prefix));
        rows.map(|(key, row)| (key[16..].to_vec(), *split_latest(row).unwrap().0)).collect()
    }
}

/// The state root by its definition.
fn naive_root(state: &BTreeMap<Vec<u8>, [u8; 93]>) -> Digest {
    let leaves: Vec<_> = state.iter().map(|(key, record)| (key.as_slice(), *record)).collect();
    naive(&leaves)
}

fn naive(leaves: &[(&[u8], [u8; 93])]) -> Digest {
    match leaves {
        [] => hash::plain(b""),
        [(key, record)] => {
            let parts = [&[0x20][..], &hash::plain(key).0, &[0x20], &hash::plain(record).0];
            hash::leaf(&parts.concat())
        }
        [(first, _), .., (last, _)] => {
            let bit = (0..18_432).find(|bit| key_bit(first, *bit) != key_bit(last, *bit)).unwrap();
            let split = leaves.partition_point(|(key, _)| !key_bit(key, bit));
            hash::branch(bit as u16, &naive(&leaves[..split]), &naive(&leaves[split..]))
        }
    }
}

fn key_bit(key: &[u8], bit: usize) -> bool {
    match (key.get(bit / 9), bit % 9) {
        (None, _) => false,
        (Some(_), 0) => true,
        (Some(byte), place) => byte >> (8 - place) & 1 == 1,
    }
}

/// A normal entry of the group's log.
pub(crate) fn entry(index: u64, time_ns: u64, commands: &[Vec<u8>]) -> LogEntry {
    let mut builder = EntryBuilder::new(Incarnation(1), time_ns);
    for command in commands {
        builder.push(command);
    }
    LogEntry { index, term: 6, kind: EntryKind::Normal, data: builder.finish() }
}

pub(crate) fn command(vault: VaultRef, write: &WriteCommand) -> Vec<u8> {
    command_at(vault, EPOCH, CommandKind::Write, &write.encode())
}

pub(crate) fn create_vault(vault: VaultRef) -> Vec<u8> {
    command_at(vault, EPOCH, CommandKind::CreateVault, &CreateVaultCommand::default().encode())
}

pub(crate) fn command_at(
    vault: VaultRef,
    owner_epoch: OwnerEpoch,
    kind: CommandKind,
    body: &[u8],
) -> Vec<u8> {
    Command { kind: kind as u8, vault, owner_epoch, body }.encode()
}

/// A write without deduplication.
pub(crate) fn write(operations: &[Operation]) -> WriteCommand {
    WriteCommand {
        tx_id: TxId([3; 16]),
        client: "client".to_owned(),
        dedup: Dedup::None,
        actor: "actor".to_owned(),
        operations: operations.to_vec(),
    }
}

pub(crate) fn keyed(key: u8, operations: &[Operation]) -> WriteCommand {
    let tx_id = TxId([key; 16]);
    WriteCommand { tx_id, dedup: Dedup::IdempotencyKey([key; 16]), ..write(operations) }
}

pub(crate) fn numbered(sequence: u64, operations: &[Operation]) -> WriteCommand {
    WriteCommand { dedup: Dedup::Sequence(sequence), ..write(operations) }
}

pub(crate) fn committed(result: WriteResult) -> CommittedWrite {
    match result {
        WriteResult::Committed(committed) => committed,
        other => panic!("not committed: {other:?}"),
    }
}

pub(crate) fn set(key: &str, value: &str) -> Operation {
    set_until(key, value, 0)
}

pub(crate) fn set_until(key: &str, value: &str, expires_at: u64) -> Operation {
    let (key, value) = (key.to_owned(), value.as_bytes().to_vec());
    Operation::SetEntity { key, value, expires_at, condition: None }
}

pub(crate) fn set_if(key: &str, value: &str, condition: Condition) -> Operation {
    let (key, value) = (key.to_owned(), value.as_bytes().to_vec());
    Operation::SetEntity { key, value, expires_at: 0, condition: Some(condition) }
}

pub(crate) fn delete(key: &str) -> Operation {
    Operation::DeleteEntity { key: key.to_owned() }
}

pub(crate) fn expire(key: &str, expired_at: u64) -> Operation {
    Operation::ExpireEntity { key: key.to_owned(), expired_at }
}

pub(crate) fn relate(resource: &str, relation: &str, subject: &str) -> Operation {
    Operation::CreateRelationship {
        resource: resource.to_owned(),
        relation: relation.to_owned(),
        subject: subject.to_owned(),
    }
}

pub(crate) fn unrelate(resource: &str, relation: &str, subject: &str) -> Operation {
    Operation::DeleteRelationship {
        resource: resource.to_owned(),
        relation: relation.to_owned(),
        subject: subject.to_owned(),
    }
}
