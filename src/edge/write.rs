//! Writing: a request becomes one command, is proposed where the vault's group is led, and its result is told.
//!
//! Owns the steps from a checked request to its answer. Must never propose what is not fully checked: a bad
//! command in the log would stop every replica.

use std::time::Duration;

use ledger_proof::tx_tree;
use ledger_proto::convert::block::{wire_header, wire_path};
use ledger_proto::convert::operations::wire_outcomes;
use ledger_proto::convert::writes::WriteInput;
use ledger_proto::v1;
use ledger_proto::v1::write_service_client::WriteServiceClient;
use ledger_shard::{
    Command, CommandKind, CommandResult, CommittedWrite, ConditionFailure, FailedCondition,
    ProposeOutcome, SequenceContract, VaultStatus, WriteCommand, WriteResult,
};
use ledger_types::{Dedup, TxId, VaultRef};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use super::route::{Call, Owner, Place, ROUTES_MAX, deadline_ms, query_failure};
use super::status::Failure;
use super::{Edge, vaults};
use crate::context::NodeContext;

/// Bytes that a forwarded request may gain over the one that came in.
pub(super) const FORWARD_SLACK_BYTES: usize = 64 * 1024;

/// Pause before a write whose outcome is unknown is repeated.
const REPEAT_AFTER: Duration = Duration::from_millis(20);

#[tonic::async_trait]
impl v1::write_service_server::WriteService for Edge {
    async fn write(
        &self,
        request: Request<v1::WriteRequest>,
    ) -> Result<Response<v1::WriteResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let input = WriteInput::try_from(message).map_err(Failure::from)?;
        Ok(self.carry_out(&call, input).await?)
    }

    async fn batch_write(
        &self,
        request: Request<v1::BatchWriteRequest>,
    ) -> Result<Response<v1::BatchWriteResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let input = WriteInput::try_from(message).map_err(Failure::from)?;
        let answer = self.carry_out(&call, input).await?;
        Ok(answer.map(batch_answer))
    }
}

impl Edge {
    /// Carries a write out. One of which nobody heard again, as when the leader was killed, is repeated under its
    /// idempotency key for as long as its caller waits, so that most callers need not: it is answered as the first attempt
    /// would have been.
    ///
    /// Proposes here or forwards, and tries once more if the route turns out to be stale. A batch takes this
    /// way too: it is one transaction, with the same payload as a write of all its operations.
    pub(super) async fn carry_out(
        &self,
        call: &Call,
        mut input: WriteInput,
    ) -> Result<Response<v1::WriteResponse>, Failure> {
        call.admit(input.vault, input.operations.len())?;
        // A forwarded write is repeated by the node that it came to first.
        let may_repeat = matches!(input.dedup, Dedup::IdempotencyKey(_)) && !call.is_forwarded;
        let mut earlier_may_happen = false;
        let mut attempt = 0;
        loop {
            let (is_routed, outcome);
            (input, is_routed, outcome) = attempt_write(call, input, attempt).await;
            let failure = match outcome {
                Err(failure) => failure,
                outcome => return settled(outcome, earlier_may_happen),
            };
            if is_routed && failure.is_stale_route() && attempt + 1 < ROUTES_MAX {
                attempt += 1;
                let refreshed = call.refresh_if_moved(&failure, input.vault).await;
                if let Err(failure) = refreshed {
                    return settled(Err(failure), earlier_may_happen);
                }
                continue;
            }
            earlier_may_happen |= may_repeat && matches!(failure, Failure::OutcomeUnknown);
            let Ok(remaining) = call.deadline.check() else {
                return settled(Err(failure), earlier_may_happen);
            };
            if !earlier_may_happen || !failure.may_pass() {
                return settled(Err(failure), earlier_may_happen);
            }
            attempt = 0;
            tokio::time::sleep(REPEAT_AFTER.min(remaining)).await;
        }
    }
}

/// One attempt of a write, on this node or another. The input comes back, so that there can be another one; and whether
/// there was a way to go, which may have been stale.
async fn attempt_write(
    call: &Call,
    input: WriteInput,
    attempt: u32,
) -> (WriteInput, bool, Result<Response<v1::WriteResponse>, Failure>) {
    match vaults::place_for_write(call, input.vault, attempt).await {
        Err(failure) => (input, false, Err(failure)),
        Ok(Place::Here(owner)) => {
            let (input, outcome) = write_here(call, owner, input).await;
            (input, true, outcome.map(|answer| call.answer(owner.group, answer)))
        }
        Ok(Place::There(remote)) => {
            let message = v1::WriteRequest::from(input.clone());
            let send = |channel, request| async move {
                let client = WriteServiceClient::new(channel);
                let bytes_max = ledger_types::limits::REQUEST_BYTES_MAX + FORWARD_SLACK_BYTES;
                client.max_decoding_message_size(bytes_max).write(request).await
            };
            (input, true, call.forward(remote, message, send).await)
        }
    }
}

/// What the last attempt of a write means if an earlier one may still take effect: what is committed is, and every refusal
/// is of the last attempt only. A condition that failed now may hold when the earlier attempt arrives.
fn settled(
    outcome: Result<Response<v1::WriteResponse>, Failure>,
    earlier_may_happen: bool,
) -> Result<Response<v1::WriteResponse>, Failure> {
    let is_final = match &outcome {
        Ok(answer) => match &answer.get_ref().result {
            Some(v1::write_response::Result::Error(error)) => {
                error.code() == v1::WriteErrorCode::IdempotencyKeyReused
            }
            _ => true,
        },
        Err(_) => false,
    };
    if is_final || !earlier_may_happen { outcome } else { Err(Failure::OutcomeUnknown) }
}

/// Proposes on this node. The input comes back, so that the request can go another way.
async fn write_here(
    call: &Call,
    owner: Owner,
    input: WriteInput,
) -> (WriteInput, Result<v1::WriteResponse, Failure>) {
    let WriteInput { vault, client, dedup, operations, include_proof } = input;
    let actor = String::new();
    let command = WriteCommand { tx_id: TxId(rand::random()), client, dedup, actor, operations };
    let outcome = match check_owner(call, owner) {
        Ok(()) => propose(call, owner, CommandKind::Write, &command.encode()).await,
        Err(failure) => Err(failure),
    };
    let answer = outcome.and_then(|result| answer_of(&call.context, vault, result, include_proof));
    let WriteCommand { client, dedup, operations, .. } = command;
    (WriteInput { vault, client, dedup, operations, include_proof }, answer)
}

/// Puts a write into the log of a group that this node leads, without waiting. `completed` is called once, on a
/// thread that must not be held up. Errors: nothing was proposed.
pub(super) fn propose_write(
    call: &Call,
    owner: Owner,
    input: WriteInput,
    completed: impl FnOnce(ProposeOutcome) + Send + 'static,
) -> Result<(), Failure> {
    let remaining = call.deadline.check()?;
    let WriteInput { vault, client, dedup, operations, .. } = input;
    let actor = String::new();
    let write = WriteCommand { tx_id: TxId(rand::random()), client, dedup, actor, operations };
    let body = write.encode();
    let kind = CommandKind::Write as u8;
    let command = Command { kind, vault, owner_epoch: owner.epoch, body: &body }.encode();
    let until_ms = deadline_ms(&call.context, remaining);
    call.context.shard.propose(owner.group, command, until_ms, Box::new(completed));
    Ok(())
}

/// The owner check before a proposal; apply makes it again.
pub(super) fn check_owner(call: &Call, owner: Owner) -> Result<(), Failure> {
    let row = call.owned_row(owner)?;
    match row.status {
        VaultStatus::Active => Ok(()),
        VaultStatus::ReadOnly => Err(Failure::VaultUnavailable(owner.vault)),
        VaultStatus::Deleted | VaultStatus::Purged => Err(Failure::deleted(owner.vault)),
    }
}

/// Puts a command into the group's log and waits until it is applied. Refusals of apply that are no answer
/// to the command come back as failures.
pub(super) async fn propose(
    call: &Call,
    owner: Owner,
    kind: CommandKind,
    body: &[u8],
) -> Result<CommandResult, Failure> {
    let remaining = call.deadline.check()?;
    let (vault, owner_epoch) = (owner.vault, owner.epoch);
    let command = Command { kind: kind as u8, vault, owner_epoch, body }.encode();
    let (sender, receiver) = oneshot::channel();
    // A caller that has given up needs no answer.
    let completion = move |outcome| {
        let _ = sender.send(outcome);
    };
    let until_ms = deadline_ms(&call.context, remaining);
    call.context.shard.propose(owner.group, command, until_ms, Box::new(completion));
    let outcome = match tokio::time::timeout(remaining, receiver).await {
        Ok(Ok(outcome)) => outcome,
        // Proposed and not heard of again: it may be applied still.
        Ok(Err(_)) | Err(_) => return Err(Failure::OutcomeUnknown),
    };
    result_of(call, owner, outcome)
}

/// What became of a proposal. Refusals of apply that are no answer to the command are failures.
pub(super) fn result_of(
    call: &Call,
    owner: Owner,
    outcome: ProposeOutcome,
) -> Result<CommandResult, Failure> {
    match outcome {
        Ok(applied) => match applied.result {
            CommandResult::WrongShard { owner_epoch } => Err(Failure::WrongShard { owner_epoch }),
            CommandResult::UnknownVault => Err(Failure::UnknownVault(owner.vault)),
            CommandResult::VaultDeleted => Err(Failure::deleted(owner.vault)),
            result => Ok(result),
        },
        Err(refusal) => Err(call.refused(owner.group, refusal)),
    }
}

/// The answer to a write that was applied.
pub(super) fn answer_of(
    context: &NodeContext,
    vault: VaultRef,
    result: CommandResult,
    include_proof: bool,
) -> Result<v1::WriteResponse, Failure> {
    let CommandResult::Write(result) = result else {
        return Err(Failure::Internal("a write was answered as something else"));
    };
    let result = match result {
        WriteResult::Committed(committed) => {
            let success = success_of(context, vault, committed, include_proof)?;
            v1::write_response::Result::Success(success)
        }
        WriteResult::ContractMixed { contract, last } => {
            let contract = match contract {
                SequenceContract::Counted => "sequence",
                SequenceContract::Keyed => "idempotency_key",
            };
            return Err(Failure::ContractMixed { contract, last });
        }
        refused => v1::write_response::Result::Error(error_of(refused)),
    };
    Ok(v1::WriteResponse { result: Some(result) })
}

fn success_of(
    context: &NodeContext,
    vault: VaultRef,
    committed: CommittedWrite,
    include_proof: bool,
) -> Result<v1::WriteSuccess, Failure> {
    let mut success = v1::WriteSuccess {
        tx_id: Some(committed.tx_id.into()),
        block_height: committed.height,
        block_header: None,
        tx_proof: None,
        assigned_sequence: committed.sequence,
        operation_outcomes: wire_outcomes(&committed.outcomes),
    };
    if include_proof {
        let block = context.reader.block(vault, committed.height);
        let block = block.map_err(query_failure)?;
        let leaves: Vec<_> =
            block.transactions.iter().map(|(_, bytes)| tx_tree::tx_leaf(bytes)).collect();
        let index = committed.tx_index as usize;
        let leaf = leaves.get(index).ok_or(Failure::Internal("a block lacks a transaction"))?;
        let path = tx_tree::inclusion_path(&leaves, index);
        let size = leaves.len() as u64;
        success.tx_proof = Some(wire_path(*leaf, u64::from(committed.tx_index), size, &path));
        let proposer = vaults::proposer_name(context, &block.header);
        success.block_header = Some(wire_header(&block.header, &proposer));
    }
    Ok(success)
}

/// A write that had no effect of its own. Must not be called with one that committed.
fn error_of(result: WriteResult) -> v1::WriteError {
    let mut error = v1::WriteError::default();
    let (code, message) = match result {
        WriteResult::ConditionFailed(failure) => {
            let described = condition_message(&failure);
            error.key = failure.key;
            error.current_version = failure.current_version;
            error.current_value = failure.current_value;
            described
        }
        WriteResult::IdempotencyKeyReused { tx_id, height, sequence } => {
            error.committed_tx_id = Some(tx_id.into());
            error.committed_block_height = Some(height);
            error.assigned_sequence = Some(sequence);
            let message = "the idempotency key was used with other operations".to_owned();
            (v1::WriteErrorCode::IdempotencyKeyReused, message)
        }
        WriteResult::SequenceGap { last } => {
            let expected = last.saturating_add(1);
            error.expected_sequence = Some(expected);
            (v1::WriteErrorCode::SequenceGap, format!("the next sequence is {expected}"))
        }
        WriteResult::SequenceDuplicate { last } => {
            let message = format!("sequences up to {last} are committed");
            (v1::WriteErrorCode::AlreadyCommitted, message)
        }
        WriteResult::Committed(_) | WriteResult::ContractMixed { .. } => {
            unreachable!("these are answered before")
        }
    };
    error.code = code.into();
    error.message = message;
    error
}

fn condition_message(failure: &ConditionFailure) -> (v1::WriteErrorCode, String) {
    let (code, problem) = match failure.failed {
        FailedCondition::KeyExists => (v1::WriteErrorCode::KeyExists, "the key exists"),
        FailedCondition::KeyNotFound => (v1::WriteErrorCode::KeyNotFound, "the key does not exist"),
        FailedCondition::VersionMismatch => {
            (v1::WriteErrorCode::VersionMismatch, "the key has another version")
        }
        FailedCondition::ValueMismatch => {
            (v1::WriteErrorCode::ValueMismatch, "the key has another value")
        }
    };
    (code, format!("operation {}: {problem}", failure.operation))
}

fn batch_answer(answer: v1::WriteResponse) -> v1::BatchWriteResponse {
    let result = answer.result.map(|result| match result {
        v1::write_response::Result::Success(success) => {
            v1::batch_write_response::Result::Success(v1::BatchWriteSuccess {
                tx_id: success.tx_id,
                block_height: success.block_height,
                block_header: success.block_header,
                tx_proof: success.tx_proof,
                assigned_sequence: success.assigned_sequence,
                operation_outcomes: success.operation_outcomes,
            })
        }
        v1::write_response::Result::Error(error) => v1::batch_write_response::Result::Error(error),
    });
    v1::BatchWriteResponse { result }
}

#[cfg(test)]
mod tests {
    use ledger_types::limits::{
        CLIENT_ID_BYTES_MAX, KEY_BYTES_MAX, OPERATIONS_MAX, STATE_KEY_BYTES_MAX, VALUE_BYTES_MAX,
    };

    use super::*;

    /// A body that does not decode would stop every replica of the group.
    #[test]
    fn the_largest_legal_request_is_a_command_that_decodes() {
        let key = "k".repeat(KEY_BYTES_MAX);
        let value = vec![7; VALUE_BYTES_MAX];
        let part = "r".repeat((STATE_KEY_BYTES_MAX - 3) / 3);
        let set = v1::SetEntity {
            key: key.clone(),
            value: value.clone(),
            expires_at: Some(u64::MAX),
            condition: Some(v1::SetCondition {
                condition: Some(v1::set_condition::Condition::ValueEquals(value)),
            }),
        };
        let grant = v1::CreateRelationship {
            resource: part.clone(),
            relation: part.clone(),
            subject: part,
        };
        let mut operations = vec![
            v1::Operation { op: Some(v1::operation::Op::SetEntity(set)) },
            v1::Operation { op: Some(v1::operation::Op::CreateRelationship(grant)) },
        ];
        let delete = v1::operation::Op::DeleteEntity(v1::DeleteEntity { key });
        operations.resize(OPERATIONS_MAX, v1::Operation { op: Some(delete) });
        let input = WriteInput::try_from(v1::WriteRequest {
            namespace_id: Some(v1::NamespaceId { id: i64::MAX }),
            vault_id: Some(v1::VaultId { id: i64::MAX }),
            client_id: Some(v1::ClientId { id: "c".repeat(CLIENT_ID_BYTES_MAX) }),
            idempotency_key: vec![1; 16],
            operations,
            ..v1::WriteRequest::default()
        });
        let WriteInput { client, dedup, operations, .. } = input.expect("within every limit");
        let (tx_id, actor) = (TxId([1; 16]), String::new());
        let command = WriteCommand { tx_id, client, dedup, actor, operations };
        assert_eq!(WriteCommand::decode(&command.encode()), Ok(command));
    }

    #[test]
    fn failed_conditions_tell_key_version_and_value() {
        let failed = |failed| {
            error_of(WriteResult::ConditionFailed(ConditionFailure {
                operation: 2,
                failed,
                key: "k".to_owned(),
                current_version: Some(7),
                current_value: Some(b"v".to_vec()),
            }))
        };
        for (condition, code) in [
            (FailedCondition::KeyExists, v1::WriteErrorCode::KeyExists),
            (FailedCondition::KeyNotFound, v1::WriteErrorCode::KeyNotFound),
            (FailedCondition::VersionMismatch, v1::WriteErrorCode::VersionMismatch),
            (FailedCondition::ValueMismatch, v1::WriteErrorCode::ValueMismatch),
        ] {
            let error = failed(condition);
            assert_eq!(error.code(), code);
            assert_eq!((error.key.as_str(), error.current_version), ("k", Some(7)));
            assert_eq!(error.current_value.as_deref(), Some(&b"v"[..]));
            assert!(error.message.starts_with("operation 2: "), "{}", error.message);
        }
    }

    #[test]
    fn session_refusals_tell_what_was_committed() {
        let reused = error_of(WriteResult::IdempotencyKeyReused {
            tx_id: TxId([3; 16]),
            height: 9,
            sequence: 4,
        });
        assert_eq!(reused.code(), v1::WriteErrorCode::IdempotencyKeyReused);
        assert_eq!(reused.committed_tx_id, Some(v1::TxId { id: vec![3; 16] }));
        assert_eq!((reused.committed_block_height, reused.assigned_sequence), (Some(9), Some(4)));
        let gap = error_of(WriteResult::SequenceGap { last: 4 });
        assert_eq!((gap.code(), gap.expected_sequence), (v1::WriteErrorCode::SequenceGap, Some(5)));
        let repeated = error_of(WriteResult::SequenceDuplicate { last: 4 });
        assert_eq!(repeated.code(), v1::WriteErrorCode::AlreadyCommitted);
    }

    #[test]
    fn a_refusal_is_no_verdict_on_an_earlier_attempt() {
        let answer = |result| Ok(Response::new(v1::WriteResponse { result: Some(result) }));
        let refused = |code: v1::WriteErrorCode| {
            let error = v1::WriteError { code: code.into(), ..v1::WriteError::default() };
            answer(v1::write_response::Result::Error(error))
        };
        let committed = || answer(v1::write_response::Result::Success(Default::default()));
        let failed = || refused(v1::WriteErrorCode::KeyExists);
        let unknown = |outcome| matches!(outcome, Err(Failure::OutcomeUnknown));
        assert!(settled(committed(), true).is_ok() && settled(failed(), false).is_ok());
        assert!(settled(refused(v1::WriteErrorCode::IdempotencyKeyReused), true).is_ok());
        assert!(unknown(settled(failed(), true)));
        assert!(unknown(settled(Err(Failure::Overloaded), true)));
        assert!(matches!(settled(Err(Failure::Overloaded), false), Err(Failure::Overloaded)));
    }

    #[test]
    fn a_batch_is_answered_as_its_write() {
        let success = v1::WriteSuccess {
            tx_id: Some(v1::TxId { id: vec![1; 16] }),
            block_height: 5,
            assigned_sequence: 6,
            operation_outcomes: vec![1, 2],
            ..v1::WriteSuccess::default()
        };
        let result = Some(v1::write_response::Result::Success(success));
        let batch = batch_answer(v1::WriteResponse { result });
        let Some(v1::batch_write_response::Result::Success(success)) = batch.result else {
            panic!("a success stays one");
        };
        assert_eq!((success.block_height, success.assigned_sequence), (5, 6));
        assert_eq!(success.operation_outcomes, [1, 2]);
    }
}
