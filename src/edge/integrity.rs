//! `CheckIntegrity`: what a replica stores of a vault, compared with itself.
//!
//! Owns how much of that a node does at a time and where. Must never hold up the driver, apply or the threads that
//! serve requests: a check reads one view of the store on a thread apart, until its request's deadline.

use std::sync::Arc;
use std::time::Instant;

use ledger_proto::convert::ids;
use ledger_proto::v1;
use ledger_router::Reach;
use ledger_shard::QueryError;
use ledger_shard::integrity::{self, CheckError, Report};
use ledger_types::VaultRef;
use tonic::{Request, Response};

use super::Edge;
use super::route::{Call, Place, query_failure};
use super::status::Failure;
use super::vaults::admin_client;
use crate::context::NodeContext;

/// Checks that a node makes at a time: each reads as fast as the disk gives.
pub(super) const CHECKS_MAX: usize = 1;

impl Edge {
    /// The node that is asked checks its own replica, also one in quarantine; one without a replica asks another.
    pub(super) async fn check_vault(
        &self,
        request: Request<v1::CheckIntegrityRequest>,
    ) -> Result<Response<v1::CheckIntegrityResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let vault = ids::vault_ref(message.namespace_id, message.vault_id)?;
        if !holds(&call.context, vault)? {
            return match call.place(vault, Reach::AnyReplica, 0).await? {
                Place::There(remote) => {
                    let send = |channel, request| async move {
                        admin_client(channel).check_integrity(request).await
                    };
                    call.forward(remote, message, send).await.map_err(again)
                }
                Place::Here(_) => Err(Failure::not_ready("the vault's replica here has no state")),
            };
        }
        let Ok(permit) = self.checks.clone().try_acquire_owned() else {
            return Err(Failure::Overloaded);
        };
        // Of a forwarded request the node that waits for this answer is to get it in time.
        let until = Instant::now() + call.deadline.check()? * 9 / 10;
        let (context, is_full) = (call.context.clone(), message.full_check);
        let checking = tokio::task::spawn_blocking(move || {
            let _held = permit;
            let view = context.reader.view();
            integrity::check(&view, vault, is_full, &|| Instant::now() < until)
        });
        let report = checking.await.map_err(|_| Failure::Internal("a check ended early"))?;
        let report = report.map_err(check_failure)?;
        let group = report.row.owner;
        Ok(call.answer(group, answer_of(&call.context, vault, report)))
    }
}

/// True if there is a replica of the vault here whose rows are a state of its group.
fn holds(context: &Arc<NodeContext>, vault: VaultRef) -> Result<bool, Failure> {
    match context.reader.tip(vault) {
        Ok(row) if row.status.is_deleted() => Err(Failure::deleted(vault)),
        Ok(row) => Ok(context.shard.is_readable(row.owner)),
        Err(QueryError::UnknownVault) => Ok(false),
        Err(error) => Err(query_failure(error)),
    }
}

/// A check leaves nothing behind, so a lost answer is no secret.
fn again(failure: Failure) -> Failure {
    match failure {
        Failure::OutcomeUnknown => Failure::not_ready("the check's answer was lost; ask again"),
        failure => failure,
    }
}

fn check_failure(error: CheckError) -> Failure {
    match error {
        CheckError::Query(error) => query_failure(error),
        CheckError::Stopped => Failure::Deadline,
        CheckError::TooManyKeys { keys, max } => Failure::Limit {
            field: "full_check".to_owned(),
            limit: "replay_keys_max",
            actual: keys,
            max,
        },
    }
}

fn answer_of(context: &NodeContext, vault: VaultRef, report: Report) -> v1::CheckIntegrityResponse {
    let tip = report.row.height;
    let mut issues: Vec<v1::IntegrityIssue> = report
        .issues
        .into_iter()
        .map(|issue| v1::IntegrityIssue {
            block_height: issue.height,
            issue_type: issue.kind.name().to_owned(),
            description: issue.detail,
        })
        .collect();
    if context.quarantine.holds(vault) {
        issues.push(v1::IntegrityIssue {
            block_height: tip,
            issue_type: "quarantined".to_owned(),
            description: "a majority of the shard signed another history".to_owned(),
        });
    }
    v1::CheckIntegrityResponse {
        healthy: issues.is_empty(),
        issues,
        node_id: Some(v1::NodeId { id: context.identity.name.clone() }),
        block_height: tip,
    }
}
