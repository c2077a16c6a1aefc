//! A client's transaction on one vault: its encoding, the session rules, and how it is applied.
//!
//! Owns what a write means: it happens once, whole or not at all. Must never decide which vault or block it
//! belongs to; the apply path has done so before it comes here.
//!
//! Body: `0x01 ‖ tx id 16 ‖ client (u16 length) ‖ dedup ‖ payload`, payload: `actor (u16 length) ‖ count u32
//! ‖ operations as in transactions, without outcomes`. Dedup: `0x00`, `0x01 ‖ sequence u64` or `0x02 ‖ key
//! 16`. SHA-256 of the payload decides whether a retry asks for the same thing.

use ledger_proof::ReadFault;
use ledger_proof::encoding::{DecodeError, Reader, Writer};
use ledger_proof::hash;
use ledger_proof::transaction::{
    AppliedOperation, Transaction, decode_operation, encode_operation,
};
use ledger_types::limits::{CLIENT_ID_BYTES_MAX, OPERATIONS_MAX};
use ledger_types::{Dedup, Digest, Operation, Outcome, StateKey, TxId};

use crate::apply::block::BlockBuilder;
use crate::apply::operations::{ConditionFailure, Target};
use crate::apply::round::VaultRound;
use crate::rows::{ClientRow, SequenceContract, SessionRow};
use crate::view::StateView;

/// Version of the body.
const VERSION: u8 = 1;
const DEDUP_NONE: u8 = 0;
const DEDUP_SEQUENCE: u8 = 1;
const DEDUP_IDEMPOTENCY_KEY: u8 = 2;
/// Fewest bytes an operation takes: its type and an empty key's length.
const OPERATION_BYTES_MIN: usize = 5;

/// A client's transaction as it is proposed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteCommand {
    /// Chosen where the request entered.
    pub tx_id: TxId,
    /// The client.
    pub client: String,
    /// How a repeat is recognised.
    pub dedup: Dedup,
    /// On whose behalf, for audit; may be empty.
    pub actor: String,
    /// What to do, in order; at least one.
    pub operations: Vec<Operation>,
}

impl WriteCommand {
    /// The body's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        let mut writer = Writer::new(&mut out);
        writer.u8(VERSION);
        writer.raw(&self.tx_id.0);
        writer.bytes_u16(self.client.as_bytes());
        match self.dedup {
            Dedup::None => writer.u8(DEDUP_NONE),
            Dedup::Sequence(sequence) => {
                writer.u8(DEDUP_SEQUENCE);
                writer.u64(sequence);
            }
            Dedup::IdempotencyKey(key) => {
                writer.u8(DEDUP_IDEMPOTENCY_KEY);
                writer.raw(&key);
            }
        }
        writer.bytes_u16(self.actor.as_bytes());
        writer.u32(u32::try_from(self.operations.len()).expect("operations are limited"));
        for operation in &self.operations {
            encode_operation(operation, &mut out);
        }
        out
    }

    /// Reads a body. Errors on anything that must not enter the log: an unknown version, a broken limit, no
    /// operation, a relationship whose state key would be too long, bytes left over.
    pub fn decode(body: &[u8]) -> Result<WriteCommand, DecodeError> {
        WriteCommand::decode_with_payload(body).map(|(command, _)| command)
    }

    /// As [`WriteCommand::decode`], with the payload's bytes.
    pub(crate) fn decode_with_payload(body: &[u8]) -> Result<(WriteCommand, &[u8]), DecodeError> {
        let mut reader = Reader::new(body);
        let version = reader.u8("write version")?;
        if version != VERSION {
            return Err(unknown("write version", version));
        }
        let tx_id = TxId(reader.array("tx id")?);
        let client = reader.text_u16("client", CLIENT_ID_BYTES_MAX)?.to_owned();
        let dedup = match reader.u8("dedup")? {
            DEDUP_NONE => Dedup::None,
            DEDUP_SEQUENCE => Dedup::Sequence(reader.u64("sequence")?),
            DEDUP_IDEMPOTENCY_KEY => Dedup::IdempotencyKey(reader.array("idempotency key")?),
            other => return Err(unknown("dedup", other)),
        };
        let payload = &body[body.len() - reader.remaining()..];
        let actor = reader.text_u16("actor", CLIENT_ID_BYTES_MAX)?.to_owned();
        let count = reader.u32("operations")? as usize;
        let count = reader.count("operations", count, OPERATIONS_MAX, OPERATION_BYTES_MIN)?;
        if count == 0 {
            return Err(DecodeError::Invalid { field: "operations", rule: "must not be empty" });
        }
        let mut operations = Vec::with_capacity(count);
        for _ in 0..count {
            operations.push(checked(decode_operation(&mut reader)?)?);
        }
        reader.finish()?;
        Ok((WriteCommand { tx_id, client, dedup, actor, operations }, payload))
    }
}

/// Refuses a relationship whose parts are legal each but not together.
fn checked(operation: Operation) -> Result<Operation, DecodeError> {
    if let Operation::CreateRelationship { resource, relation, subject }
    | Operation::DeleteRelationship { resource, relation, subject } = &operation
        && StateKey::check_relationship(resource, relation, subject).is_err()
    {
        let rule = "must fit a state key";
        return Err(DecodeError::Invalid { field: "relationship", rule });
    }
    Ok(operation)
}

fn unknown(field: &'static str, value: u8) -> DecodeError {
    DecodeError::UnknownValue { field, value: value.into() }
}

/// The answer to a write, the same on every replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WriteResult {
    /// It is in a block, now or since an earlier attempt.
    Committed(CommittedWrite),
    /// A condition did not hold; nothing happened and nothing is remembered.
    ConditionFailed(ConditionFailure),
    /// The key was used for another payload.
    IdempotencyKeyReused {
        /// The transaction that used it.
        tx_id: TxId,
        /// Its block.
        height: u64,
        /// Its sequence.
        sequence: u64,
    },
    /// The sequence is beyond the next one.
    SequenceGap {
        /// The client's last committed sequence; the next one is one more.
        last: u64,
    },
    /// The sequence was committed before.
    SequenceDuplicate {
        /// The client's last committed sequence.
        last: u64,
    },
    /// The client began with the other contract and must keep to it.
    ContractMixed {
        /// The contract the client began with.
        contract: SequenceContract,
        /// The client's last committed sequence.
        last: u64,
    },
}

/// Where a write is and how its operations ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommittedWrite {
    /// The transaction; on a retry, the first attempt's.
    pub tx_id: TxId,
    /// Its block.
    pub height: u64,
    /// Its place in the block, from 0.
    pub tx_index: u32,
    /// Its number in the client's sequence; 0 without deduplication.
    pub sequence: u64,
    /// One outcome for each operation.
    pub outcomes: Vec<Outcome>,
    /// True if an earlier attempt committed it.
    pub repeated: bool,
}

/// A write whose rows are being loaded: what it will touch is known.
#[derive(Debug)]
pub(crate) struct PreparedWrite {
    command: WriteCommand,
    payload_hash: Digest,
    targets: Vec<Target>,
    client_row: u32,
    key_row: Option<u32>,
}

/// Decodes a body and registers the rows it will read with the vault's round.
pub(crate) fn prepare(body: &[u8], round: &mut VaultRound) -> Result<PreparedWrite, DecodeError> {
    let (command, payload) = WriteCommand::decode_with_payload(body)?;
    let targets =
        command.operations.iter().map(|operation| round.slots.target(operation)).collect();
    let client_row = round.sessions.client_row(&command.client);
    let (key_row, payload_hash) = match &command.dedup {
        Dedup::IdempotencyKey(key) => {
            (Some(round.sessions.key_row(&command.client, key)), hash::plain(payload))
        }
        Dedup::None | Dedup::Sequence(_) => (None, Digest::ZERO),
    };
    Ok(PreparedWrite { command, payload_hash, targets, client_row, key_row })
}

/// Applies a write to the vault's current block.
pub(crate) fn apply(
    write: PreparedWrite,
    round: &mut VaultRound,
    block: &mut BlockBuilder,
    view: &dyn StateView,
) -> Result<WriteResult, ReadFault> {
    let sequence = match admit(&write, round) {
        Admission::Fresh { sequence } => sequence,
        Admission::Refused(result) => return Ok(result),
        Admission::Repeat(row) => return repeat(&row, round, block, view),
    };
    let PreparedWrite { command, payload_hash, targets, client_row, key_row } = write;
    let WriteCommand { tx_id, client, dedup, actor, operations } = command;
    let operations = match block.execute(&mut round.slots, operations, &targets) {
        Ok(operations) => operations,
        Err(failure) => return Ok(WriteResult::ConditionFailed(failure)),
    };
    let timestamp_ns = block.entry_time_ns();
    let assigned_sequence = sequence;
    let transaction =
        Transaction { tx_id, client, dedup, assigned_sequence, actor, timestamp_ns, operations };
    let (tx_index, outcomes) = block.push(&transaction);
    let height = block.height();
    if let Some(contract) = contract(&dedup) {
        round.sessions.clients.set(client_row, ClientRow { last_sequence: sequence, contract });
    }
    if let Some(key_row) = key_row {
        let row = SessionRow { payload_hash, tx_id, height, tx_index, sequence };
        round.sessions.keys.set(key_row, row);
        round.new_session_rows += 1;
    }
    let committed = CommittedWrite { tx_id, height, tx_index, sequence, outcomes, repeated: false };
    Ok(WriteResult::Committed(committed))
}

/// What the client's session says about a write before it is tried.
enum Admission {
    Fresh { sequence: u64 },
    Repeat(SessionRow),
    Refused(WriteResult),
}

fn admit(write: &PreparedWrite, round: &VaultRound) -> Admission {
    let Some(contract) = contract(&write.command.dedup) else {
        return Admission::Fresh { sequence: 0 };
    };
    if let Some(row) = write.key_row.and_then(|row| round.sessions.keys.get(row)) {
        if row.payload_hash == write.payload_hash {
            return Admission::Repeat(*row);
        }
        let (tx_id, height, sequence) = (row.tx_id, row.height, row.sequence);
        return Admission::Refused(WriteResult::IdempotencyKeyReused { tx_id, height, sequence });
    }
    let client = round.sessions.clients.get(write.client_row);
    let last = client.map_or(0, |client| client.last_sequence);
    if let Some(client) = client
        && client.contract != contract
    {
        let contract = client.contract;
        return Admission::Refused(WriteResult::ContractMixed { contract, last });
    }
    let next = last.checked_add(1).expect("a client does not commit 2^64 transactions");
    match write.command.dedup {
        Dedup::Sequence(sequence) if sequence > next => {
            Admission::Refused(WriteResult::SequenceGap { last })
        }
        Dedup::Sequence(sequence) if sequence < next => {
            Admission::Refused(WriteResult::SequenceDuplicate { last })
        }
        _ => Admission::Fresh { sequence: next },
    }
}

fn contract(dedup: &Dedup) -> Option<SequenceContract> {
    match dedup {
        Dedup::None => None,
        Dedup::Sequence(_) => Some(SequenceContract::Counted),
        Dedup::IdempotencyKey(_) => Some(SequenceContract::Keyed),
    }
}

/// The first attempt's answer, with outcomes from where that attempt is recorded.
fn repeat(
    row: &SessionRow,
    round: &VaultRound,
    block: &BlockBuilder,
    view: &dyn StateView,
) -> Result<WriteResult, ReadFault> {
    let outcomes = if row.height == block.height() {
        block.outcomes(row.tx_index).to_vec()
    } else {
        let transaction = round.transaction(row.height, row.tx_index, view)?;
        outcomes_of(&transaction)
    };
    let SessionRow { tx_id, height, tx_index, sequence, .. } = *row;
    let committed = CommittedWrite { tx_id, height, tx_index, sequence, outcomes, repeated: true };
    Ok(WriteResult::Committed(committed))
}

/// How each operation of a transaction ended.
pub fn outcomes_of(transaction: &Transaction) -> Vec<Outcome> {
    let outcome = |applied: &AppliedOperation| match applied {
        AppliedOperation::State { outcome, .. } => *outcome,
        AppliedOperation::Recovery(_) => Outcome::Recovered,
    };
    transaction.operations.iter().map(outcome).collect()
}

#[cfg(test)]
mod tests;
