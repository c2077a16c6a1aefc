//! Whole write requests.

use ledger_types::{Dedup, Operation, VaultRef};

use super::ConvertError;
use super::dedup::dedup;
use super::ids::{client, writable_vault_ref};
use super::operations::{batch_operations, operations};
use crate::v1;

/// A write as a client asks for it, checked as far as it can be without looking at state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteInput {
    /// The vault written to.
    pub vault: VaultRef,
    /// Whose keys and numbers `dedup` speaks of.
    pub client: String,
    /// How a retry is recognised.
    pub dedup: Dedup,
    /// The operations, in order.
    pub operations: Vec<Operation>,
    /// The answer is to carry the block header and the transaction's path.
    pub include_proof: bool,
}

impl TryFrom<v1::WriteRequest> for WriteInput {
    type Error = ConvertError;

    fn try_from(wire: v1::WriteRequest) -> Result<WriteInput, ConvertError> {
        Ok(WriteInput {
            vault: writable_vault_ref(wire.namespace_id, wire.vault_id)?,
            client: client(wire.client_id)?,
            dedup: dedup(&wire.idempotency_key, wire.sequence)?,
            operations: operations(wire.operations)?,
            include_proof: wire.include_tx_proof,
        })
    }
}

impl TryFrom<v1::BatchWriteRequest> for WriteInput {
    type Error = ConvertError;

    fn try_from(wire: v1::BatchWriteRequest) -> Result<WriteInput, ConvertError> {
        Ok(WriteInput {
            vault: writable_vault_ref(wire.namespace_id, wire.vault_id)?,
            client: client(wire.client_id)?,
            dedup: dedup(&wire.idempotency_key, wire.sequence)?,
            operations: batch_operations(wire.operations)?,
            include_proof: wire.include_tx_proofs,
        })
    }
}

impl From<WriteInput> for v1::WriteRequest {
    fn from(input: WriteInput) -> v1::WriteRequest {
        let (idempotency_key, sequence) = super::dedup::dedup_fields(input.dedup);
        v1::WriteRequest {
            namespace_id: Some(input.vault.namespace.into()),
            vault_id: Some(input.vault.vault.into()),
            client_id: Some(v1::ClientId { id: input.client }),
            idempotency_key,
            operations: input.operations.into_iter().map(v1::Operation::from).collect(),
            include_tx_proof: input.include_proof,
            sequence,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input() -> WriteInput {
        WriteInput {
            vault: VaultRef::new(4, 2),
            client: "engine-1".to_owned(),
            dedup: Dedup::IdempotencyKey([8; 16]),
            operations: vec![Operation::DeleteEntity { key: "k".to_owned() }],
            include_proof: true,
        }
    }

    #[test]
    fn request_reads_back() {
        let wire = v1::WriteRequest::from(input());
        assert_eq!(WriteInput::try_from(wire.clone()), Ok(input()));
        let batch = v1::BatchWriteRequest {
            namespace_id: wire.namespace_id,
            vault_id: wire.vault_id,
            client_id: wire.client_id,
            idempotency_key: wire.idempotency_key,
            operations: vec![v1::BatchWriteOperation { operations: wire.operations }],
            include_tx_proofs: true,
            sequence: None,
        };
        assert_eq!(WriteInput::try_from(batch), Ok(input()));
    }

    #[test]
    fn an_empty_request_names_what_it_lacks() {
        let error = WriteInput::try_from(v1::WriteRequest::default()).unwrap_err();
        assert_eq!(error, ConvertError::Missing { field: "namespace_id" });
        let wire = v1::WriteRequest { client_id: None, ..v1::WriteRequest::from(input()) };
        let error = WriteInput::try_from(wire).unwrap_err();
        assert_eq!(error, ConvertError::Missing { field: "client_id" });
        let wire = v1::WriteRequest { sequence: Some(3), ..v1::WriteRequest::from(input()) };
        assert_eq!(WriteInput::try_from(wire).unwrap_err().field(), "idempotency_key");
    }
}
