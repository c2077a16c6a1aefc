//! Operations of a transaction and their outcomes. Owns the limits of single operations and of
//! their number.

use ledger_types::limits::{OPERATIONS_MAX, VALUE_BYTES_MAX};
use ledger_types::{Operation, Outcome, StateKey, check_client_string};

use super::conditions::condition;
use super::error::{ConvertError, check_count, check_length};
use crate::v1;
use crate::v1::operation::Op;

/// Name of the field that holds operations.
const OPERATIONS: &str = "operations";

/// Reads an operation of a client. Errors name the field: nothing chosen, text that is empty, too
/// long or has a NUL, a value or relationship beyond its limit, a bad condition, an expiry (which
/// only the cluster proposes).
pub fn operation(wire: v1::Operation) -> Result<Operation, ConvertError> {
    match wire.op.ok_or(ConvertError::Missing { field: "op" })? {
        Op::CreateRelationship(v1::CreateRelationship { resource, relation, subject }) => {
            StateKey::check_relationship(&resource, &relation, &subject)?;
            Ok(Operation::CreateRelationship { resource, relation, subject })
        }
        Op::DeleteRelationship(v1::DeleteRelationship { resource, relation, subject }) => {
            StateKey::check_relationship(&resource, &relation, &subject)?;
            Ok(Operation::DeleteRelationship { resource, relation, subject })
        }
        Op::SetEntity(set) => set_entity(set),
        Op::DeleteEntity(v1::DeleteEntity { key }) => {
            check_client_string("key", &key)?;
            Ok(Operation::DeleteEntity { key })
        }
        Op::ExpireEntity(_) => Err(ConvertError::NotForClients { field: "expire_entity" }),
    }
}

fn set_entity(wire: v1::SetEntity) -> Result<Operation, ConvertError> {
    check_client_string("key", &wire.key)?;
    check_length("value", wire.value.len(), VALUE_BYTES_MAX)?;
    Ok(Operation::SetEntity {
        key: wire.key,
        value: wire.value,
        expires_at: wire.expires_at.unwrap_or(0),
        condition: wire.condition.map(condition).transpose()?,
    })
}

/// Reads the operations of a write: 1 to [`OPERATIONS_MAX`] of them.
pub fn operations(wire: Vec<v1::Operation>) -> Result<Vec<Operation>, ConvertError> {
    check_count(OPERATIONS, wire.len(), OPERATIONS_MAX)?;
    each_operation(wire).collect()
}

/// Reads the parts of a batch as one list: 1 to [`OPERATIONS_MAX`] operations in all.
pub fn batch_operations(
    wire: Vec<v1::BatchWriteOperation>,
) -> Result<Vec<Operation>, ConvertError> {
    let count = wire.iter().map(|part| part.operations.len()).sum();
    check_count(OPERATIONS, count, OPERATIONS_MAX)?;
    let mut operations = Vec::with_capacity(count);
    for (index, part) in wire.into_iter().enumerate() {
        for operation in each_operation(part.operations) {
            operations.push(operation.map_err(|error| error.of_item(OPERATIONS, index))?);
        }
    }
    Ok(operations)
}

fn each_operation(
    wire: Vec<v1::Operation>,
) -> impl Iterator<Item = Result<Operation, ConvertError>> {
    wire.into_iter()
        .enumerate()
        .map(|(index, wire)| operation(wire).map_err(|error| error.of_item(OPERATIONS, index)))
}

impl From<Operation> for v1::Operation {
    fn from(operation: Operation) -> v1::Operation {
        let op = match operation {
            Operation::SetEntity { key, value, expires_at, condition } => {
                let expires_at = (expires_at != 0).then_some(expires_at);
                let condition = condition.map(v1::SetCondition::from);
                Op::SetEntity(v1::SetEntity { key, value, expires_at, condition })
            }
            Operation::DeleteEntity { key } => Op::DeleteEntity(v1::DeleteEntity { key }),
            Operation::ExpireEntity { key, expired_at } => {
                Op::ExpireEntity(v1::ExpireEntity { key, expired_at })
            }
            Operation::CreateRelationship { resource, relation, subject } => {
                Op::CreateRelationship(v1::CreateRelationship { resource, relation, subject })
            }
            Operation::DeleteRelationship { resource, relation, subject } => {
                Op::DeleteRelationship(v1::DeleteRelationship { resource, relation, subject })
            }
        };
        v1::Operation { op: Some(op) }
    }
}

impl From<Outcome> for v1::OperationOutcome {
    fn from(outcome: Outcome) -> v1::OperationOutcome {
        match outcome {
            Outcome::Created => v1::OperationOutcome::Created,
            Outcome::Updated => v1::OperationOutcome::Updated,
            Outcome::Deleted => v1::OperationOutcome::Deleted,
            Outcome::NotFound => v1::OperationOutcome::NotFound,
            Outcome::AlreadyExists => v1::OperationOutcome::AlreadyExists,
            Outcome::Expired => v1::OperationOutcome::Expired,
            Outcome::Recovered => v1::OperationOutcome::Recovered,
        }
    }
}

/// The field `operation_outcomes`.
pub fn wire_outcomes(outcomes: &[Outcome]) -> Vec<i32> {
    outcomes.iter().map(|&outcome| v1::OperationOutcome::from(outcome).into()).collect()
}

/// Reads the field `operation_outcomes`. Errors: a number that names no outcome.
pub fn outcomes(wire: &[i32]) -> Result<Vec<Outcome>, ConvertError> {
    let field = "operation_outcomes";
    wire.iter()
        .map(|&value| {
            let outcome = u8::try_from(value).ok().and_then(Outcome::from_code);
            outcome.ok_or(ConvertError::UnknownValue { field, value })
        })
        .collect()
}

#[cfg(test)]
mod tests;
