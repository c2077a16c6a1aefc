//! Transactions as they are hashed: canonical bytes of what was asked and how each operation ended.

use ledger_types::limits::{CLIENT_ID_BYTES_MAX, KEY_BYTES_MAX, OPERATIONS_MAX, VALUE_BYTES_MAX};
use ledger_types::{Condition, Dedup, Digest, Operation, Outcome, TxId};

use crate::encoding::{DecodeError, Reader, Writer};

/// First byte of a transaction.
const VERSION: u8 = 1;
/// Longest `who` and `why` of a recovery, in bytes.
pub const RECOVERY_TEXT_BYTES_MAX: usize = 4096;
/// Fewest bytes an operation takes: type, an empty key's length, outcome.
const OPERATION_BYTES_MIN: usize = 6;

const DEDUP_NONE: u8 = 0;
const DEDUP_SEQUENCE: u8 = 1;
const DEDUP_IDEMPOTENCY_KEY: u8 = 2;

const SET_ENTITY: u8 = 1;
const DELETE_ENTITY: u8 = 2;
const EXPIRE_ENTITY: u8 = 3;
const CREATE_RELATIONSHIP: u8 = 4;
const DELETE_RELATIONSHIP: u8 = 5;
const RECOVERY: u8 = 6;

const CONDITION_NOT_EXISTS: u8 = 1;
const CONDITION_MUST_EXIST: u8 = 2;
const CONDITION_VERSION: u8 = 3;
const CONDITION_VALUE: u8 = 4;

/// A committed transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transaction {
    /// Its id, chosen where the request entered.
    pub tx_id: TxId,
    /// The client that sent it; `_system` for the directory's own.
    pub client: String,
    /// How a repeat of it is recognised.
    pub dedup: Dedup,
    /// Its number in the client's sequence; 0 without deduplication.
    pub assigned_sequence: u64,
    /// On whose behalf it was sent, for audit; may be empty.
    pub actor: String,
    /// Time of its log entry, Unix nanoseconds.
    pub timestamp_ns: u64,
    /// What it did, in order.
    pub operations: Vec<AppliedOperation>,
}

/// An operation with its outcome.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AppliedOperation {
    /// An operation on entities or relationships.
    State {
        /// What was asked.
        operation: Operation,
        /// How it ended.
        outcome: Outcome,
    },
    /// A recovery was recorded; its outcome is always `recovered`.
    Recovery(Recovery),
}

/// What a recovery block says about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovery {
    /// Who ordered it.
    pub who: String,
    /// Why.
    pub why: String,
    /// Log epoch of the vault after it.
    pub log_epoch: u64,
    /// Last block that survived.
    pub from_height: u64,
    /// Hash of that block.
    pub from_hash: Digest,
    /// Hash of the last known note's text without signatures, or zero.
    pub old_note: Digest,
}

impl Transaction {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.encode_into(&mut bytes);
        bytes
    }

    /// Appends the canonical bytes to `out`.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.u8(VERSION);
        writer.raw(&self.tx_id.0);
        writer.bytes_u16(self.client.as_bytes());
        encode_dedup(&mut writer, &self.dedup);
        writer.u64(self.assigned_sequence);
        writer.bytes_u16(self.actor.as_bytes());
        writer.u64(self.timestamp_ns);
        writer.u32(u32::try_from(self.operations.len()).expect("operations are limited"));
        for operation in &self.operations {
            encode_applied(&mut writer, operation);
        }
    }

    /// Reads one transaction and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Transaction, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8("transaction version")?;
        if version != VERSION {
            return Err(unknown("transaction version", version));
        }
        let tx_id = TxId(reader.array("tx_id")?);
        let client = reader.text_u16("client", CLIENT_ID_BYTES_MAX)?.to_owned();
        let dedup = decode_dedup(&mut reader)?;
        let assigned_sequence = reader.u64("assigned_sequence")?;
        if dedup == Dedup::None && assigned_sequence != 0 {
            let rule = "must be 0 without deduplication";
            return Err(DecodeError::Invalid { field: "assigned_sequence", rule });
        }
        let actor = reader.text_u16("actor", CLIENT_ID_BYTES_MAX)?.to_owned();
        let timestamp_ns = reader.u64("timestamp_ns")?;
        let count = reader.u32("operations")? as usize;
        let count = reader.count("operations", count, OPERATIONS_MAX, OPERATION_BYTES_MIN)?;
        let operations =
            (0..count).map(|_| decode_applied(&mut reader)).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Transaction { tx_id, client, dedup, assigned_sequence, actor, timestamp_ns, operations })
    }
}

/// Appends an operation without its outcome: type and fields. Requests are hashed with it too.
pub fn encode_operation(operation: &Operation, out: &mut Vec<u8>) {
    write_operation(&mut Writer::new(out), operation);
}

fn write_operation(writer: &mut Writer<'_>, operation: &Operation) {
    match operation {
        Operation::SetEntity { key, value, expires_at, condition } => {
            writer.u8(SET_ENTITY);
            writer.bytes_u32(key.as_bytes());
            writer.bytes_u32(value);
            writer.u64(*expires_at);
            encode_condition(writer, condition.as_ref());
        }
        Operation::DeleteEntity { key } => {
            writer.u8(DELETE_ENTITY);
            writer.bytes_u32(key.as_bytes());
        }
        Operation::ExpireEntity { key, expired_at } => {
            writer.u8(EXPIRE_ENTITY);
            writer.bytes_u32(key.as_bytes());
            writer.u64(*expired_at);
        }
        Operation::CreateRelationship { resource, relation, subject } => {
            encode_relationship(writer, CREATE_RELATIONSHIP, [resource, relation, subject]);
        }
        Operation::DeleteRelationship { resource, relation, subject } => {
            encode_relationship(writer, DELETE_RELATIONSHIP, [resource, relation, subject]);
        }
    }
}

/// Reads an operation that [`encode_operation`] wrote; fields follow in `reader`.
pub fn decode_operation(reader: &mut Reader<'_>) -> Result<Operation, DecodeError> {
    let tag = reader.u8("operation type")?;
    decode_fields(reader, tag)
}

fn encode_applied(writer: &mut Writer<'_>, applied: &AppliedOperation) {
    match applied {
        AppliedOperation::State { operation, outcome } => {
            write_operation(writer, operation);
            writer.u8(*outcome as u8);
        }
        AppliedOperation::Recovery(recovery) => {
            writer.u8(RECOVERY);
            writer.bytes_u32(recovery.who.as_bytes());
            writer.bytes_u32(recovery.why.as_bytes());
            writer.u64(recovery.log_epoch);
            writer.u64(recovery.from_height);
            writer.digest(&recovery.from_hash);
            writer.digest(&recovery.old_note);
            writer.u8(Outcome::Recovered as u8);
        }
    }
}

fn decode_applied(reader: &mut Reader<'_>) -> Result<AppliedOperation, DecodeError> {
    let tag = reader.u8("operation type")?;
    if tag == RECOVERY {
        let recovery = Recovery {
            who: reader.text_u32("who", RECOVERY_TEXT_BYTES_MAX)?.to_owned(),
            why: reader.text_u32("why", RECOVERY_TEXT_BYTES_MAX)?.to_owned(),
            log_epoch: reader.u64("log_epoch")?,
            from_height: reader.u64("from_height")?,
            from_hash: reader.digest("from_hash")?,
            old_note: reader.digest("old_note")?,
        };
        return match decode_outcome(reader)? {
            Outcome::Recovered => Ok(AppliedOperation::Recovery(recovery)),
            other => Err(unknown("recovery outcome", other as u8)),
        };
    }
    let operation = decode_fields(reader, tag)?;
    match decode_outcome(reader)? {
        Outcome::Recovered => Err(unknown("outcome", Outcome::Recovered as u8)),
        outcome => Ok(AppliedOperation::State { operation, outcome }),
    }
}

fn decode_fields(reader: &mut Reader<'_>, tag: u8) -> Result<Operation, DecodeError> {
    Ok(match tag {
        SET_ENTITY => Operation::SetEntity {
            key: decode_text(reader, "key")?,
            value: reader.bytes_u32("value", VALUE_BYTES_MAX)?.to_vec(),
            expires_at: reader.u64("expires_at")?,
            condition: decode_condition(reader)?,
        },
        DELETE_ENTITY => Operation::DeleteEntity { key: decode_text(reader, "key")? },
        EXPIRE_ENTITY => Operation::ExpireEntity {
            key: decode_text(reader, "key")?,
            expired_at: reader.u64("expired_at")?,
        },
        CREATE_RELATIONSHIP => Operation::CreateRelationship {
            resource: decode_text(reader, "resource")?,
            relation: decode_text(reader, "relation")?,
            subject: decode_text(reader, "subject")?,
        },
        DELETE_RELATIONSHIP => Operation::DeleteRelationship {
            resource: decode_text(reader, "resource")?,
            relation: decode_text(reader, "relation")?,
            subject: decode_text(reader, "subject")?,
        },
        other => return Err(unknown("operation type", other)),
    })
}

fn encode_relationship(writer: &mut Writer<'_>, tag: u8, parts: [&String; 3]) {
    writer.u8(tag);
    for part in parts {
        writer.bytes_u32(part.as_bytes());
    }
}

fn encode_condition(writer: &mut Writer<'_>, condition: Option<&Condition>) {
    writer.flag(condition.is_some());
    match condition {
        None => {}
        Some(Condition::NotExists) => writer.u8(CONDITION_NOT_EXISTS),
        Some(Condition::MustExist) => writer.u8(CONDITION_MUST_EXIST),
        Some(Condition::Version(version)) => {
            writer.u8(CONDITION_VERSION);
            writer.u64(*version);
        }
        Some(Condition::ValueEquals(value)) => {
            writer.u8(CONDITION_VALUE);
            writer.bytes_u32(value);
        }
    }
}

fn decode_condition(reader: &mut Reader<'_>) -> Result<Option<Condition>, DecodeError> {
    if !reader.flag("condition")? {
        return Ok(None);
    }
    Ok(Some(match reader.u8("condition")? {
        CONDITION_NOT_EXISTS => Condition::NotExists,
        CONDITION_MUST_EXIST => Condition::MustExist,
        CONDITION_VERSION => Condition::Version(reader.u64("condition version")?),
        CONDITION_VALUE => {
            let value = reader.bytes_u32("condition value", VALUE_BYTES_MAX)?;
            Condition::ValueEquals(value.to_vec())
        }
        other => return Err(unknown("condition", other)),
    }))
}

/// Appends how a transaction is deduplicated.
fn encode_dedup(writer: &mut Writer<'_>, dedup: &Dedup) {
    match dedup {
        Dedup::None => writer.u8(DEDUP_NONE),
        Dedup::Sequence(sequence) => {
            writer.u8(DEDUP_SEQUENCE);
            writer.u64(*sequence);
        }
        Dedup::IdempotencyKey(key) => {
            writer.u8(DEDUP_IDEMPOTENCY_KEY);
            writer.raw(key);
        }
    }
}

fn decode_dedup(reader: &mut Reader<'_>) -> Result<Dedup, DecodeError> {
    Ok(match reader.u8("dedup")? {
        DEDUP_NONE => Dedup::None,
        DEDUP_SEQUENCE => Dedup::Sequence(reader.u64("dedup sequence")?),
        DEDUP_IDEMPOTENCY_KEY => Dedup::IdempotencyKey(reader.array("idempotency key")?),
        other => return Err(unknown("dedup", other)),
    })
}

fn decode_text(reader: &mut Reader<'_>, field: &'static str) -> Result<String, DecodeError> {
    let text = reader.text_u32(field, KEY_BYTES_MAX)?;
    if text.is_empty() || text.contains('\0') {
        return Err(DecodeError::Invalid { field, rule: "must be text without NUL" });
    }
    Ok(text.to_owned())
}

fn decode_outcome(reader: &mut Reader<'_>) -> Result<Outcome, DecodeError> {
    let code = reader.u8("outcome")?;
    Outcome::from_code(code).ok_or_else(|| unknown("outcome", code))
}

fn unknown(field: &'static str, value: u8) -> DecodeError {
    DecodeError::UnknownValue { field, value: value.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = String> {
        proptest::collection::vec(
            proptest::char::any().prop_filter("no NUL", |character| *character != '\0'),
            1..20,
        )
        .prop_map(String::from_iter)
    }

    fn value() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..40)
    }

    fn condition() -> impl Strategy<Value = Option<Condition>> {
        proptest::option::of(prop_oneof![
            Just(Condition::NotExists),
            Just(Condition::MustExist),
            any::<u64>().prop_map(Condition::Version),
            value().prop_map(Condition::ValueEquals),
        ])
    }

    fn operation() -> impl Strategy<Value = Operation> {
        prop_oneof![
            (text(), value(), any::<u64>(), condition()).prop_map(
                |(key, value, expires_at, condition)| {
                    Operation::SetEntity { key, value, expires_at, condition }
                }
            ),
            text().prop_map(|key| Operation::DeleteEntity { key }),
            (text(), any::<u64>())
                .prop_map(|(key, expired_at)| Operation::ExpireEntity { key, expired_at }),
            (text(), text(), text()).prop_map(|(resource, relation, subject)| {
                Operation::CreateRelationship { resource, relation, subject }
            }),
            (text(), text(), text()).prop_map(|(resource, relation, subject)| {
                Operation::DeleteRelationship { resource, relation, subject }
            }),
        ]
    }

    fn applied() -> impl Strategy<Value = AppliedOperation> {
        prop_oneof![
            (operation(), 1u8..=6).prop_map(|(operation, code)| {
                let outcome = Outcome::from_code(code).unwrap();
                AppliedOperation::State { operation, outcome }
            }),
            (text(), text(), any::<[u64; 2]>(), any::<[u8; 32]>()).prop_map(
                |(who, why, [log_epoch, from_height], hash)| {
                    let (from_hash, old_note) = (Digest(hash), Digest::ZERO);
                    let recovery =
                        Recovery { who, why, log_epoch, from_height, from_hash, old_note };
                    AppliedOperation::Recovery(recovery)
                }
            ),
        ]
    }

    prop_compose! {
        fn transaction()(
            id in any::<[u8; 16]>(),
            names in (text(), text()),
            dedup in prop_oneof![
                Just((Dedup::None, 0)),
                any::<u64>().prop_map(|number| (Dedup::Sequence(number), number)),
                (any::<[u8; 16]>(), any::<u64>())
                    .prop_map(|(key, number)| (Dedup::IdempotencyKey(key), number)),
            ],
            timestamp_ns in any::<u64>(),
            operations in proptest::collection::vec(applied(), 0..5),
        ) -> Transaction {
            let (client, actor) = names;
            let (dedup, assigned_sequence) = dedup;
            let tx_id = TxId(id);
            Transaction { tx_id, client, dedup, assigned_sequence, actor, timestamp_ns, operations }
        }
    }

    proptest! {
        #[test]
        fn encoding_is_canonical(
            transaction in transaction(),
            offset in any::<prop::sample::Index>(),
            mask in 1u8..,
        ) {
            let bytes = transaction.encode();
            prop_assert_eq!(Transaction::decode(&bytes), Ok(transaction.clone()));
            prop_assert!(Transaction::decode(&bytes[..bytes.len() - 1]).is_err());
            let mut longer = bytes.clone();
            longer.push(0);
            prop_assert!(Transaction::decode(&longer).is_err());
            let mut mutated = bytes.clone();
            mutated[offset.index(bytes.len())] ^= mask;
            if let Ok(other) = Transaction::decode(&mutated) {
                prop_assert_ne!(&other, &transaction);
                prop_assert_eq!(other.encode(), mutated);
            }
        }
    }

    #[test]
    fn counts_are_bounded_before_anything_is_allocated() {
        let mut bytes = Transaction {
            tx_id: TxId([1; 16]),
            client: String::new(),
            dedup: Dedup::None,
            assigned_sequence: 0,
            actor: String::new(),
            timestamp_ns: 0,
            operations: Vec::new(),
        }
        .encode();
        let count_at = bytes.len() - 4;
        bytes[count_at..].copy_from_slice(&10_000u32.to_be_bytes());
        assert_eq!(
            Transaction::decode(&bytes),
            Err(DecodeError::Truncated { field: "operations" })
        );
        bytes[count_at..].copy_from_slice(&u32::MAX.to_be_bytes());
        let error = Transaction::decode(&bytes).unwrap_err();
        assert!(matches!(error, DecodeError::TooLong { max: OPERATIONS_MAX, .. }), "{error}");
    }
}
