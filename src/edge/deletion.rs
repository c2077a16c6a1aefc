//! Deleting vaults and namespaces.
//!
//! Owns what an answer promises: when it says deleted, the vault's own group takes nothing in any more, so that no
//! node serves it whose copy of the directory is behind. Must never remove data: that is not what this does.

use std::time::Duration;

use ledger_proof::system_entity::VaultState;
use ledger_proto::convert::{ids, times};
use ledger_proto::v1;
use ledger_router::{Reach, VaultLookup};
use ledger_shard::{DeleteNamespace, DeleteVault, SystemCommand, SystemResult};
use ledger_types::{GroupId, VaultId, VaultRef};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::Edge;
use super::route::{Call, Owner, Place, ROUTES_MAX};
use super::status::Failure;
use super::vaults::{admin_client, change_directory, writable_namespace};

/// Longest wait for the vault's group, which usually needs a few milliseconds.
const GROUP_WAIT_MAX: Duration = Duration::from_secs(5);

impl Edge {
    pub(super) async fn remove_vault(
        &self,
        request: Request<v1::DeleteVaultRequest>,
    ) -> Result<Response<v1::DeleteVaultResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let vault = ids::writable_vault_ref(message.namespace_id, message.vault_id)?;
        if vault.vault == VaultId(0) {
            let problem = "0 is the namespace's own entities, which are deleted with the namespace";
            return Err(Failure::field("vault_id", problem));
        }
        let command = SystemCommand::DeleteVault(DeleteVault { vault });
        let send =
            |channel, request| async move { admin_client(channel).delete_vault(request).await };
        let answer = |deleted_at_ns| v1::DeleteVaultResponse {
            deleted_at: Some(times::timestamp(deleted_at_ns)),
        };
        end_at_leader(&call, message, &command, answer, send).await
    }

    pub(super) async fn remove_namespace(
        &self,
        request: Request<v1::DeleteNamespaceRequest>,
    ) -> Result<Response<v1::DeleteNamespaceResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let namespace = writable_namespace(message.namespace_id)?;
        let command = SystemCommand::DeleteNamespace(DeleteNamespace { namespace });
        let send =
            |channel, request| async move { admin_client(channel).delete_namespace(request).await };
        let answer = |deleted_at_ns| v1::DeleteNamespaceResponse {
            deleted_at: Some(times::timestamp(deleted_at_ns)),
        };
        end_at_leader(&call, message, &command, answer, send).await
    }
}

/// Ends a vault or a namespace here if this node leads the directory, else where it is led.
async fn end_at_leader<Q, A, F>(
    call: &Call,
    message: Q,
    command: &SystemCommand,
    answer: impl Fn(u64) -> A,
    send: impl Fn(Channel, Request<Q>) -> F,
) -> Result<Response<A>, Failure>
where
    Q: Copy,
    F: Future<Output = Result<Response<A>, Status>>,
{
    let mut attempt = 0;
    loop {
        let outcome = match call.place(VaultRef::SYSTEM, Reach::Leader, attempt).await? {
            Place::Here(owner) => end_here(call, owner, command)
                .await
                .map(|deleted_at_ns| call.answer(GroupId::SYSTEM, answer(deleted_at_ns))),
            Place::There(remote) => call.forward(remote, message, &send).await,
        };
        match outcome {
            Err(failure) if failure.is_stale_route() && attempt + 1 < ROUTES_MAX => attempt += 1,
            outcome => return outcome.map_err(again),
        }
    }
}

/// Deleting once more does no harm and tells the same, so what became of an attempt need not be known.
fn again(failure: Failure) -> Failure {
    match failure {
        Failure::OutcomeUnknown => Failure::not_ready("the deletion is not confirmed; ask again"),
        failure => failure,
    }
}

/// Changes the directory, then waits until the group of the vault that ends has taken that in. Answers when the
/// deletion began, in Unix nanoseconds.
async fn end_here(call: &Call, owner: Owner, command: &SystemCommand) -> Result<u64, Failure> {
    let (vault, deleted_at_ns) = match change_directory(call, owner, command).await? {
        SystemResult::VaultDeleting { vault, deleted_at_ns } => (vault, deleted_at_ns),
        SystemResult::NamespaceDeleting { namespace, deleted_at_ns } => {
            (VaultRef::new(namespace.0, 0), deleted_at_ns)
        }
        _ => return Err(Failure::Internal("a deletion was answered as something else")),
    };
    wait_for_group(call, vault).await?;
    Ok(deleted_at_ns)
}

/// Waits until the directory here says that the vault's group has ended it, which the reconciler of this node, the
/// directory's leader, sees to.
async fn wait_for_group(call: &Call, vault: VaultRef) -> Result<(), Failure> {
    let cache = &call.context.directory;
    let mut revisions = cache.subscribe();
    // Of a forwarded request the node that waits for this answer is to get it in time.
    let time = (call.deadline.check()? * 3 / 4).min(GROUP_WAIT_MAX);
    let ended = async {
        loop {
            revisions.borrow_and_update();
            let is_ended = matches!(cache.current().vault(vault), VaultLookup::Known(entity)
                if entity.state == VaultState::Deleted);
            if is_ended || revisions.changed().await.is_err() {
                return is_ended;
            }
        }
    };
    match tokio::time::timeout(time, ended).await {
        Ok(true) => Ok(()),
        _ => Err(Failure::not_ready("the vault's shard has not confirmed its end yet; ask again")),
    }
}
