//! What a replay finds wrong: where, of which kind, what it expected and what it found.
//!
//! Owns the names of findings, which reports show. Must never judge: that is the replay's work.

use ledger_types::{Condition, Digest, Outcome, VaultRef};
use thiserror::Error;

use crate::encoding::DecodeError;

/// Something in a chain that its format does not allow, with the place where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The block.
    pub height: u64,
    /// Place of the transaction in its block, from 0, if the finding is about one.
    pub transaction: Option<u32>,
    /// Place of the operation in its transaction, from 0, if the finding is about one.
    pub operation: Option<u32>,
    /// What is wrong.
    pub kind: FindingKind,
}

/// What is wrong with a block, a transaction or an operation.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum FindingKind {
    /// The header's bytes are no header: length, magic, flags or reserved bytes.
    #[error("the header is malformed: {0}")]
    HeaderMalformed(DecodeError),
    /// The header is another vault's.
    #[error("the header is of vault {found}, not {expected}")]
    OtherVault {
        /// The vault that is replayed.
        expected: VaultRef,
        /// The header's.
        found: VaultRef,
    },
    /// The header has another height than its place in the chain.
    #[error("the header says height {found}, its place is {expected}")]
    Height {
        /// Its place.
        expected: u64,
        /// What it says.
        found: u64,
    },
    /// The header does not name the block before.
    #[error("the block before is {expected}, the header names {found}")]
    PreviousHash {
        /// Hash of the block before, zero for genesis.
        expected: Digest,
        /// What the header says.
        found: Digest,
    },
    /// Block time goes back.
    #[error("block time {found} is before that of the block before, {before}")]
    TimeWentBack {
        /// Time of the block before, Unix nanoseconds.
        before: u64,
        /// The header's.
        found: u64,
    },
    /// Block time is not that of the log entry, nor of a later block before it.
    #[error("block time is {found}, by the transactions and the block before it is {expected}")]
    BlockTime {
        /// The later of the transactions' time and the time of the block before, Unix nanoseconds.
        expected: u64,
        /// The header's.
        found: u64,
    },
    /// The log entry is not after the one of the block before, of the same group.
    #[error("made by term {} index {} after term {} index {}", .found.0, .found.1, .before.0, .before.1)]
    EntryPosition {
        /// Term and index of the block before.
        before: (u64, u64),
        /// The header's.
        found: (u64, u64),
    },
    /// The directory's genesis names another log entry than the founding one.
    #[error("the directory's genesis names group {}, term {}, index {}", .found.0, .found.1, .found.2)]
    DirectoryGenesis {
        /// Group, term and index that the header names.
        found: (u64, u64, u64),
    },
    /// Genesis has transactions, or another block has none.
    #[error("a block with {found} transactions does not belong there")]
    TransactionsMisplaced {
        /// How many it has.
        found: usize,
    },
    /// The header counts other transactions than there are.
    #[error("{expected} transactions are there, the header says {found}")]
    TransactionCount {
        /// How many there are.
        expected: usize,
        /// What the header says.
        found: u32,
    },
    /// The transactions have another root than the header says.
    #[error("the transactions have root {expected}, the header says {found}")]
    TransactionRoot {
        /// Computed from the transactions' bytes.
        expected: Digest,
        /// What the header says.
        found: Digest,
    },
    /// The bytes are no transaction.
    #[error("the transaction is malformed: {0}")]
    TransactionMalformed(DecodeError),
    /// The transaction does nothing at all.
    #[error("the transaction has no operation")]
    NoOperations,
    /// The transactions of a block, which are of one log entry, have different times.
    #[error("the transaction's time is {found}, that of the first in its block {expected}")]
    TransactionTime {
        /// Time of the first, Unix nanoseconds.
        expected: u64,
        /// Time of this one.
        found: u64,
    },
    /// A transaction of the directory that the directory did not make itself.
    #[error("the transaction, of client {client}, is none of the directory's own")]
    NotOfDirectory {
        /// Whom it names as its client.
        client: String,
    },
    /// The number that the transaction got is not the client's next one.
    #[error("client {client} goes on with number {expected}, the transaction has {found}")]
    Sequence {
        /// The client.
        client: String,
        /// Its last number plus one.
        expected: u64,
        /// The transaction's.
        found: u64,
    },
    /// The number that the transaction got is not the one that the client asked for.
    #[error("client {client} asked for number {asked}, the transaction has {found}")]
    SequenceAsked {
        /// The client.
        client: String,
        /// What it asked for.
        asked: u64,
        /// What it got.
        found: u64,
    },
    /// A client used both idempotency keys and sequence numbers.
    #[error("client {client} changed between idempotency keys and numbers of its own")]
    ContractMixed {
        /// The client.
        client: String,
    },
    /// The parts of a relationship do not fit a state key.
    #[error("the parts of the relationship are too long together")]
    RelationshipTooLong,
    /// The condition of a committed operation does not hold.
    #[error("the condition {condition} does not hold, {found}")]
    ConditionFailed {
        /// What was asked for.
        condition: ConditionText,
        /// What the state says.
        found: KeyText,
    },
    /// The operation ended otherwise than it says.
    #[error("the operation ends as {expected:?}, the block says {found:?}")]
    Outcome {
        /// As replayed.
        expected: Outcome,
        /// As recorded.
        found: Outcome,
    },
    /// The flag for a recovery and the recovery do not come together, alone.
    #[error("the recovery flag and a recovery as the only operation do not come together")]
    RecoveryForm,
    /// A recovery: the state may change in ways that the transactions do not explain.
    #[error("a recovery to log epoch {log_epoch} by {who:?}: {why:?}")]
    Recovery {
        /// Who ordered it.
        who: String,
        /// Why.
        why: String,
        /// The log epoch after it.
        log_epoch: u64,
    },
    /// The state has another root than the header says. Reported once, until they agree again.
    #[error("the state has root {expected}, the header says {found}")]
    StateRoot {
        /// As replayed.
        expected: Digest,
        /// What the header says.
        found: Digest,
    },
    /// The state has another number of keys than the header says.
    #[error("the state has {expected} keys, the header says {found}")]
    StateKeys {
        /// As replayed.
        expected: u64,
        /// What the header says.
        found: u64,
    },
    /// The block log has another root than a checkpoint says.
    #[error("the first {size} blocks have root {expected}, the checkpoint says {found}")]
    LogRoot {
        /// Blocks in the checkpoint.
        size: u64,
        /// As replayed.
        expected: Digest,
        /// What the checkpoint says.
        found: Digest,
    },
}

/// A condition as reports show it: a value by its hash.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{0}")]
pub struct ConditionText(pub String);

/// What a condition was compared with, as reports show it.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum KeyText {
    /// There is no such entity, or it has expired.
    #[error("the entity is absent")]
    Absent,
    /// It is there.
    #[error("the entity has version {version} and a value with hash {value_hash}")]
    Present {
        /// Its version.
        version: u64,
        /// Hash of its value.
        value_hash: Digest,
    },
}

impl From<&Condition> for ConditionText {
    fn from(condition: &Condition) -> ConditionText {
        ConditionText(match condition {
            Condition::NotExists => "absent".to_owned(),
            Condition::MustExist => "present".to_owned(),
            Condition::Version(version) => format!("version {version}"),
            Condition::ValueEquals(value) => {
                format!("value with hash {}", crate::hash::plain(value))
            }
        })
    }
}

impl FindingKind {
    /// The name under which reports show this kind.
    pub fn name(&self) -> &'static str {
        match self {
            FindingKind::HeaderMalformed(_) => "header_malformed",
            FindingKind::OtherVault { .. } => "other_vault",
            FindingKind::Height { .. } => "height",
            FindingKind::PreviousHash { .. } => "previous_hash",
            FindingKind::TimeWentBack { .. } => "time_went_back",
            FindingKind::BlockTime { .. } => "block_time",
            FindingKind::EntryPosition { .. } => "entry_position",
            FindingKind::DirectoryGenesis { .. } => "directory_genesis",
            FindingKind::TransactionsMisplaced { .. } => "transactions_misplaced",
            FindingKind::TransactionCount { .. } => "transaction_count",
            FindingKind::TransactionRoot { .. } => "transaction_root",
            FindingKind::TransactionMalformed(_) => "transaction_malformed",
            FindingKind::NoOperations => "no_operations",
            FindingKind::TransactionTime { .. } => "transaction_time",
            FindingKind::NotOfDirectory { .. } => "not_of_directory",
            FindingKind::Sequence { .. } => "sequence",
            FindingKind::SequenceAsked { .. } => "sequence_asked",
            FindingKind::ContractMixed { .. } => "contract_mixed",
            FindingKind::RelationshipTooLong => "relationship_too_long",
            FindingKind::ConditionFailed { .. } => "condition_failed",
            FindingKind::Outcome { .. } => "outcome",
            FindingKind::RecoveryForm => "recovery_form",
            FindingKind::Recovery { .. } => "recovery",
            FindingKind::StateRoot { .. } => "state_root",
            FindingKind::StateKeys { .. } => "state_keys",
            FindingKind::LogRoot { .. } => "log_root",
        }
    }

    /// What was expected and what was found, for the kinds that compare two values.
    pub fn expected_and_found(&self) -> Option<(String, String)> {
        let both = |expected: &dyn std::fmt::Display, found: &dyn std::fmt::Display| {
            Some((expected.to_string(), found.to_string()))
        };
        match self {
            FindingKind::OtherVault { expected, found } => both(expected, found),
            FindingKind::Height { expected, found }
            | FindingKind::BlockTime { expected, found }
            | FindingKind::TransactionTime { expected, found }
            | FindingKind::StateKeys { expected, found }
            | FindingKind::Sequence { expected, found, .. }
            | FindingKind::SequenceAsked { asked: expected, found, .. } => both(expected, found),
            FindingKind::TransactionCount { expected, found } => both(expected, found),
            FindingKind::PreviousHash { expected, found }
            | FindingKind::TransactionRoot { expected, found }
            | FindingKind::StateRoot { expected, found }
            | FindingKind::LogRoot { expected, found, .. } => both(expected, found),
            FindingKind::ConditionFailed { condition, found } => both(condition, found),
            FindingKind::Outcome { expected, found } => {
                Some((format!("{expected:?}"), format!("{found:?}")))
            }
            _ => None,
        }
    }
}
