//! Writing. Each call draws one idempotency key, and every attempt of the call carries it.

use bytes::Bytes;
use ledger_proto::convert::{ids, operations};
use ledger_proto::v1;
use ledger_types::{Operation, Outcome, TxId, VaultRef};
use prost::Message as _;

use crate::attempt::Effect;
use crate::call::{Answered, CallKind};
use crate::client::Client;
use crate::error::{ClientError, RejectionCode, WriteRejection};
use crate::leaders::Route;
use crate::method;

/// A committed write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteReceipt {
    /// The transaction.
    pub tx_id: TxId,
    /// The block that holds it.
    pub height: u64,
    /// The number it got among this client's writes to the vault.
    pub sequence: u64,
    /// How each operation ended, in order.
    pub outcomes: Vec<Outcome>,
}

/// A vault's two ids on the wire. Errors: an id that the wire cannot carry.
pub(crate) fn wire_vault(
    vault: VaultRef,
) -> Result<(Option<v1::NamespaceId>, Option<v1::VaultId>), ClientError> {
    for (field, value) in [("namespace_id", vault.namespace.0), ("vault_id", vault.vault.0)] {
        if i64::try_from(value).is_err() {
            return Err(ClientError::IdOutOfRange { field, value });
        }
    }
    Ok((Some(vault.namespace.into()), Some(vault.vault.into())))
}

/// What the answer to a write means, after everything that went before it.
pub(crate) fn answered_write(
    answered: Answered<v1::WriteResponse>,
) -> Result<WriteReceipt, ClientError> {
    let Answered { answer, earlier_may_happen } = answered;
    write_receipt(answer).map_err(|error| settled(error, earlier_may_happen))
}

/// A write of this vault: to its leader, repeatable because it carries an idempotency key.
pub(crate) fn write_kind(vault: VaultRef) -> CallKind {
    CallKind { route: Route::Leader(vault), effect: Effect::WritesOnce }
}

impl Client {
    /// Applies operations in order as one transaction: all of them happen, or none. While many writes of this client
    /// and its clones are under way ([`ClientConfig::stream_writes_from`](crate::ClientConfig::stream_writes_from)),
    /// further ones go by one stream to each leader; what a write means and when it is given up stays the same.
    pub async fn write(
        &self,
        vault: VaultRef,
        operations: Vec<Operation>,
    ) -> Result<WriteReceipt, ClientError> {
        let body = self.encoded_write(vault, operations)?;
        let under_way = self.inner.writes.begin();
        if under_way.count >= self.inner.config.stream_writes_from
            && let Some(outcome) = self.write_by_stream(vault, &body).await
        {
            return outcome;
        }
        let answered = self.attempts(method::WRITE, write_kind(vault), body).await?;
        answered_write(answered)
    }

    /// The request of a write, with an idempotency key of its own.
    pub(crate) fn encoded_write(
        &self,
        vault: VaultRef,
        operations: Vec<Operation>,
    ) -> Result<Bytes, ClientError> {
        let (namespace_id, vault_id) = wire_vault(vault)?;
        let request = v1::WriteRequest {
            namespace_id,
            vault_id,
            client_id: Some(v1::ClientId { id: self.client_id().to_owned() }),
            idempotency_key: idempotency_key(),
            operations: operations.into_iter().map(v1::Operation::from).collect(),
            include_tx_proof: false,
            sequence: None,
        };
        Ok(request.encode_to_vec().into())
    }

    /// Applies several lists of operations, one after the other, as one transaction.
    pub async fn batch_write(
        &self,
        vault: VaultRef,
        parts: Vec<Vec<Operation>>,
    ) -> Result<WriteReceipt, ClientError> {
        let (namespace_id, vault_id) = wire_vault(vault)?;
        let part = |operations: Vec<Operation>| v1::BatchWriteOperation {
            operations: operations.into_iter().map(v1::Operation::from).collect(),
        };
        let request = v1::BatchWriteRequest {
            namespace_id,
            vault_id,
            client_id: Some(v1::ClientId { id: self.client_id().to_owned() }),
            idempotency_key: idempotency_key(),
            operations: parts.into_iter().map(part).collect(),
            include_tx_proofs: false,
            sequence: None,
        };
        let body = request.encode_to_vec().into();
        let Answered { answer, earlier_may_happen } =
            self.attempts(method::BATCH_WRITE, write_kind(vault), body).await?;
        match answer.result.ok_or(ClientError::Malformed("result"))? {
            v1::batch_write_response::Result::Success(success) => Ok(WriteReceipt {
                tx_id: transaction(success.tx_id.as_ref())?,
                height: success.block_height,
                sequence: success.assigned_sequence,
                outcomes: outcomes(&success.operation_outcomes)?,
            }),
            v1::batch_write_response::Result::Error(error) => {
                Err(settled(rejection(error), earlier_may_happen))
            }
        }
    }
}

/// What a rejection means if an earlier attempt of the call may still take effect: the cluster remembers
/// transactions that committed and not conditions that failed, so that attempt is judged anew when it arrives.
fn settled(error: ClientError, earlier_may_happen: bool) -> ClientError {
    let is_final = match &error {
        ClientError::Rejected(rejection) => matches!(
            rejection.code,
            RejectionCode::AlreadyCommitted | RejectionCode::IdempotencyKeyReused
        ),
        _ => true,
    };
    if is_final || !earlier_may_happen {
        return error;
    }
    ClientError::OutcomeUnknown(Box::new(error))
}

/// Reads the answer to a write. Errors: the write had no effect; an answer that is none.
pub fn write_receipt(answer: v1::WriteResponse) -> Result<WriteReceipt, ClientError> {
    match answer.result.ok_or(ClientError::Malformed("result"))? {
        v1::write_response::Result::Success(success) => Ok(WriteReceipt {
            tx_id: transaction(success.tx_id.as_ref())?,
            height: success.block_height,
            sequence: success.assigned_sequence,
            outcomes: outcomes(&success.operation_outcomes)?,
        }),
        v1::write_response::Result::Error(error) => Err(rejection(error)),
    }
}

/// 16 bytes drawn anew for each call.
fn idempotency_key() -> Vec<u8> {
    rand::random::<[u8; 16]>().to_vec()
}

fn transaction(wire: Option<&v1::TxId>) -> Result<TxId, ClientError> {
    ids::transaction("tx_id", wire).map_err(|_| ClientError::Malformed("tx_id"))
}

fn outcomes(wire: &[i32]) -> Result<Vec<Outcome>, ClientError> {
    operations::outcomes(wire).map_err(|_| ClientError::Malformed("operation_outcomes"))
}

fn rejection(error: v1::WriteError) -> ClientError {
    use v1::WriteErrorCode as Wire;
    let code = match Wire::try_from(error.code) {
        Ok(Wire::KeyExists) => RejectionCode::KeyExists,
        Ok(Wire::KeyNotFound) => RejectionCode::KeyNotFound,
        Ok(Wire::VersionMismatch) => RejectionCode::VersionMismatch,
        Ok(Wire::ValueMismatch) => RejectionCode::ValueMismatch,
        Ok(Wire::AlreadyCommitted) => RejectionCode::AlreadyCommitted,
        Ok(Wire::IdempotencyKeyReused) => RejectionCode::IdempotencyKeyReused,
        Ok(Wire::SequenceGap) => RejectionCode::SequenceGap,
        Ok(Wire::Unspecified) | Err(_) => RejectionCode::Unknown(error.code),
    };
    let committed_tx = error.committed_tx_id.and_then(|id| TxId::from_slice(&id.id));
    ClientError::Rejected(Box::new(WriteRejection {
        code,
        key: error.key,
        current_version: error.current_version,
        current_value: error.current_value,
        message: error.message,
        committed_tx,
        committed_height: error.committed_block_height,
    }))
}
