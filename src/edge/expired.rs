//! `ForceGc`: what has expired is removed now, of one vault, of a namespace or of all.
//!
//! Owns which vaults are looked through for a request, how many at a time, and what the answer may claim. Must never
//! remove anything but by the commands that remove it without being asked.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger_proof::system_entity::VaultState;
use ledger_proto::convert::ids;
use ledger_proto::v1;
use ledger_router::Reach;
use ledger_shard::CommandResult;
use ledger_types::{GroupId, NamespaceId, VaultId, VaultRef};
use tokio::task::JoinSet;
use tonic::{Request, Response};

use super::Edge;
use super::route::{Call, Owner, Place, query_failure};
use super::status::Failure;
use super::vaults::{admin_client, known_group, writable_namespace};
use super::write::check_owner;
use crate::expiry::{Kept, Removal, Stopped, remove_now};

/// Vaults that a node looks through at a time because it is asked to: each look reads all entities of a vault.
pub(super) const REMOVALS_MAX: usize = 1;
/// Vaults that a request for several of them has looked through at a time, on whatever nodes lead them.
const VAULTS_AT_A_TIME: usize = 8;
/// Vaults taken from the directory in one step.
const STEP: usize = 1024;

/// What a request is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scope {
    Vault(VaultRef),
    /// All vaults of a namespace with its own entities, or of all namespaces.
    Vaults(Option<NamespaceId>),
}

/// What was done for a request about several vaults.
#[derive(Debug, Default)]
struct Tally {
    removed: u64,
    scanned: u64,
    /// Vaults that were not looked through to the end.
    unfinished: u64,
    /// Why the first of them was not.
    why: Option<String>,
}

impl Edge {
    pub(super) async fn remove_expired(
        &self,
        request: Request<v1::ForceGcRequest>,
    ) -> Result<Response<v1::ForceGcResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        match scope(&message)? {
            Scope::Vault(vault) => self.remove_at_leader(&call, vault).await,
            Scope::Vaults(namespace) => self.remove_in_vaults(&call, namespace, message).await,
        }
    }

    async fn remove_at_leader(
        &self,
        call: &Call,
        vault: VaultRef,
    ) -> Result<Response<v1::ForceGcResponse>, Failure> {
        let message = v1::ForceGcRequest {
            namespace_id: Some(vault.namespace.into()),
            vault_id: Some(vault.vault.into()),
        };
        let local = |owner| self.remove_here(call, owner);
        let send = |channel, request| async move { admin_client(channel).force_gc(request).await };
        call.at_leader(vault, message, local, send).await
    }

    /// Removes what has expired in a vault that this node leads. Everything that was acknowledged before is seen.
    async fn remove_here(&self, call: &Call, owner: Owner) -> Result<v1::ForceGcResponse, Failure> {
        // Of a forwarded request the node that waits for this answer is to get it in time.
        let until = Instant::now() + in_time(call)?;
        let turn = tokio::time::timeout_at(until.into(), self.removals.acquire());
        let _turn = match turn.await {
            Ok(turn) => turn.map_err(|_| Failure::Internal("the removals are closed"))?,
            Err(_) => return Err(Failure::Deadline),
        };
        if call.context.clocks.is_off() {
            return Err(Failure::not_ready("the clock of the vault's leader is wrong"));
        }
        call.barrier(owner.group).await?;
        check_owner(call, owner)?;
        let row = call.owned_row(owner)?;
        let Removal { removed, stopped } =
            remove_now(&call.context, owner.vault, &row, until).await;
        let why = match stopped {
            None => None,
            Some(Stopped::Time) => Some(Failure::Deadline),
            Some(Stopped::Query(error)) => Some(query_failure(error)),
            Some(Stopped::Kept(kept)) => Some(kept_failure(call, owner, kept)),
        };
        match why {
            Some(failure) if removed == 0 => Err(failure),
            why => {
                let why = why.map(|failure| failure.to_string());
                let unfinished = u64::from(why.is_some());
                Ok(Tally { removed, scanned: 1, unfinished, why }.answer())
            }
        }
    }

    /// Has every vault looked through where it is led, a few at a time, until the deadline is near.
    async fn remove_in_vaults(
        &self,
        call: &Call,
        namespace: Option<NamespaceId>,
        message: v1::ForceGcRequest,
    ) -> Result<Response<v1::ForceGcResponse>, Failure> {
        let until = Instant::now() + in_time(call)?;
        // These are this node's own requests, also when this one came from another node.
        let own = Arc::new(call.on_own_behalf());
        let asked =
            namespace.map_or(VaultRef::SYSTEM, |id| VaultRef { namespace: id, vault: VaultId(0) });
        // Vaults that were made a moment ago count too, and a namespace that is unknown or deleted is refused.
        own.refresh(asked).await?;
        if namespace.is_some() {
            known_group(&call.context, asked)?;
        }
        let (mut tally, mut running, mut after) = (Tally::default(), JoinSet::new(), None);
        loop {
            let directory = call.context.directory.current();
            let Some(step) = directory.vaults(after, namespace, STEP) else {
                return forward_whole(call, message).await;
            };
            after = step.last().map(|last| last.vault);
            let is_last = step.len() < STEP;
            let active = step.into_iter().filter(|entity| entity.state == VaultState::Active);
            for vault in
                active.map(|entity| entity.vault).filter(|vault| *vault != VaultRef::SYSTEM)
            {
                if Instant::now() >= until {
                    tally.leave(vault, &Failure::Deadline);
                    continue;
                }
                if running.len() == VAULTS_AT_A_TIME {
                    tally.take(running.join_next().await);
                }
                let (edge, own) = (self.clone(), own.clone());
                running.spawn(async move { (vault, edge.remove_at_leader(&own, vault).await) });
            }
            if is_last {
                break;
            }
        }
        while let Some(ended) = running.join_next().await {
            tally.take(Some(ended));
        }
        Ok(call.answer(GroupId::SYSTEM, tally.answer()))
    }
}

type Ended = (VaultRef, Result<Response<v1::ForceGcResponse>, Failure>);

impl Tally {
    /// Counts what became of a vault.
    fn take(&mut self, ended: Option<Result<Ended, tokio::task::JoinError>>) {
        let Some(ended) = ended else { return };
        match ended.expect("a removal does not panic") {
            (_, Ok(answer)) => {
                let answer = answer.into_inner();
                self.removed += answer.expired_count;
                self.scanned += answer.vaults_scanned;
                if !answer.success {
                    self.unfinished += 1;
                    self.why.get_or_insert(answer.message);
                }
            }
            // It ended since the directory was asked, and its entities with it.
            (_, Err(failure)) if has_ended(&failure) => {}
            (vault, Err(failure)) => self.leave(vault, &failure),
        }
    }

    fn leave(&mut self, vault: VaultRef, failure: &Failure) {
        self.unfinished += 1;
        self.why.get_or_insert_with(|| format!("vault {vault}: {failure}"));
    }

    fn answer(self) -> v1::ForceGcResponse {
        let Tally { removed, scanned, unfinished, why } = self;
        let mut message =
            format!("{removed} expired entities removed, {scanned} vaults looked through");
        if let Some(why) = why {
            write!(message, "; {unfinished} not to the end, ask again: {why}")
                .expect("text takes text");
        }
        v1::ForceGcResponse {
            success: unfinished == 0,
            message,
            expired_count: removed,
            vaults_scanned: scanned,
        }
    }
}

/// A node that does not hold all vaults has the request carried out by one that does.
async fn forward_whole(
    call: &Call,
    message: v1::ForceGcRequest,
) -> Result<Response<v1::ForceGcResponse>, Failure> {
    match call.place(VaultRef::SYSTEM, Reach::Leader, 0).await? {
        Place::There(remote) => {
            let send =
                |channel, request| async move { admin_client(channel).force_gc(request).await };
            call.forward(remote, message, send).await.map_err(again)
        }
        Place::Here(_) => Err(Failure::not_ready("the directory here is not complete")),
    }
}

fn scope(message: &v1::ForceGcRequest) -> Result<Scope, Failure> {
    match message.vault_id {
        Some(_) => {
            Ok(Scope::Vault(ids::writable_vault_ref(message.namespace_id, message.vault_id)?))
        }
        None if message.namespace_id.is_none() => Ok(Scope::Vaults(None)),
        None => Ok(Scope::Vaults(Some(writable_namespace(message.namespace_id)?))),
    }
}

/// The time in which a request must be done, so that its answer arrives before the deadline.
fn in_time(call: &Call) -> Result<Duration, Failure> {
    Ok(call.deadline.check()? * 9 / 10)
}

fn has_ended(failure: &Failure) -> bool {
    matches!(
        failure,
        Failure::DeletedVault(_)
            | Failure::DeletedNamespace
            | Failure::UnknownVault(_)
            | Failure::UnknownNamespace
    )
}

/// Removing once more does no harm, so what became of an attempt need not be known.
fn again(failure: Failure) -> Failure {
    match failure {
        Failure::OutcomeUnknown => Failure::not_ready("the removal is not confirmed; ask again"),
        failure => failure,
    }
}

fn kept_failure(call: &Call, owner: Owner, kept: Kept) -> Failure {
    match kept {
        Kept::Refused(refusal) => again(call.refused(owner.group, refusal)),
        Kept::Answered(CommandResult::WrongShard { owner_epoch }) => {
            Failure::WrongShard { owner_epoch }
        }
        Kept::Answered(CommandResult::UnknownVault) => Failure::UnknownVault(owner.vault),
        Kept::Answered(CommandResult::VaultDeleted) => Failure::deleted(owner.vault),
        Kept::Answered(_) => Failure::Internal("a removal was answered as something else"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(namespace: Option<i64>, vault: Option<i64>) -> v1::ForceGcRequest {
        v1::ForceGcRequest {
            namespace_id: namespace.map(|id| v1::NamespaceId { id }),
            vault_id: vault.map(|id| v1::VaultId { id }),
        }
    }

    #[test]
    fn a_request_is_about_a_vault_a_namespace_or_all() {
        let scope = |namespace, vault| scope(&message(namespace, vault));
        assert_eq!(scope(Some(3), Some(7)).unwrap(), Scope::Vault(VaultRef::new(3, 7)));
        assert_eq!(scope(Some(3), Some(0)).unwrap(), Scope::Vault(VaultRef::new(3, 0)));
        assert_eq!(scope(Some(3), None).unwrap(), Scope::Vaults(Some(NamespaceId(3))));
        assert_eq!(scope(None, None).unwrap(), Scope::Vaults(None));
        assert!(matches!(scope(Some(0), None), Err(Failure::SystemNamespace)));
        assert!(matches!(scope(Some(0), Some(0)), Err(Failure::SystemNamespace)));
        assert!(matches!(scope(None, Some(7)), Err(Failure::Field { .. })));
        assert!(matches!(scope(Some(-3), None), Err(Failure::Field { .. })));
    }

    #[test]
    fn an_answer_claims_what_was_done() {
        let ended = |outcome| Some(Ok((VaultRef::new(3, 7), outcome)));
        let answer = |expired_count, success| v1::ForceGcResponse {
            success,
            message: "half".to_owned(),
            expired_count,
            vaults_scanned: 1,
        };
        let mut tally = Tally::default();
        tally.take(ended(Ok(Response::new(answer(4, true)))));
        tally.take(ended(Err(Failure::DeletedVault(VaultRef::new(3, 7)))));
        tally.take(None);
        let told = tally.answer();
        assert_eq!((told.success, told.expired_count, told.vaults_scanned), (true, 4, 1));
        let mut tally = Tally::default();
        tally.take(ended(Ok(Response::new(answer(2, false)))));
        tally.take(ended(Err(Failure::Overloaded)));
        let told = tally.answer();
        assert_eq!((told.success, told.expired_count, told.vaults_scanned), (false, 2, 1));
        assert!(told.message.contains("2 not to the end") && told.message.ends_with("half"));
    }
}
