//! `CreateSnapshot`: what a vault holds now, as a file on the disk of a node that has a replica.
//!
//! Owns on which node, how fresh, and how many at a time. Must never hold up the driver, apply or the threads that
//! serve requests: a snapshot is written from one view of the store on a thread apart, until its request's deadline or
//! until its client leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ledger_proto::convert::{Consistency, ids};
use ledger_proto::v1;
use ledger_router::Reach;
use ledger_shard::{VaultRow, stand_back};
use ledger_types::VaultRef;
use tonic::{Request, Response};

use super::Edge;
use super::read::{Target, client};
use super::route::{Call, Owner, Place, query_failure};
use super::status::Failure;
use super::vaults::admin_client;
use crate::context::NodeContext;
use crate::vault_snapshots::{VaultSnapshot, VaultSnapshotError, Writer};

/// Snapshots that a node writes at a time: each reads and writes as fast as the disk lets it.
pub(super) const SNAPSHOTS_MAX: usize = 1;

impl Edge {
    /// The node that is asked writes its own replica; one without a replica, or whose replica is in quarantine, asks
    /// another. Every write that was acknowledged before the request is in it.
    pub(super) async fn snapshot_vault(
        &self,
        request: Request<v1::CreateSnapshotRequest>,
    ) -> Result<Response<v1::CreateSnapshotResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let vault = ids::vault_ref(message.namespace_id, message.vault_id)?;
        let owner = match call.place(vault, Reach::AnyReplica, 0).await? {
            Place::Here(owner) => owner,
            Place::There(remote) => {
                let send = |channel, request| async move {
                    admin_client(channel).create_snapshot(request).await
                };
                return call.forward(remote, message, send).await.map_err(again);
            }
        };
        call.owned_row(owner)?;
        let Ok(permit) = self.snapshots.clone().try_acquire_owned() else {
            return Err(Failure::Overloaded);
        };
        // Of a forwarded request the node that waits for this answer is to get it in time.
        let until = Instant::now() + call.deadline.check()? * 9 / 10;
        let caught_up = tokio::time::timeout_at(until.into(), catch_up(&call, owner));
        caught_up
            .await
            .map_err(|_| Failure::not_ready("the replica here is behind its leader"))??;
        let wait = Wait::default();
        let (context, wanted) = (call.context.clone(), wait.wanted.clone());
        let writing = tokio::task::spawn_blocking(move || {
            let _held = permit;
            let go_on = || {
                let is_wanted = wanted.load(Ordering::Relaxed);
                is_wanted && Instant::now() < until && !context.draining.load(Ordering::Relaxed)
            };
            write_apart(&context, vault, &go_on)
        });
        let written = writing.await.map_err(|_| Failure::Internal("a snapshot ended early"))?;
        let snapshot = written.map_err(|error| snapshot_failure(&call.context, vault, error))?;
        Ok(call.answer(owner.group, answer_of(&call.context, snapshot)))
    }
}

/// Someone waits for a snapshot until this is dropped.
struct Wait {
    wanted: Arc<AtomicBool>,
}

impl Default for Wait {
    fn default() -> Wait {
        Wait { wanted: Arc::new(AtomicBool::new(true)) }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.wanted.store(false, Ordering::Relaxed);
    }
}

/// Waits until this replica has every block that was acknowledged before the request. Only the leader can tell which
/// that are.
async fn catch_up(call: &Call, owner: Owner) -> Result<(), Failure> {
    let vault = owner.vault;
    // A question of this node's own, also when the request came from another one.
    let own = call.on_own_behalf();
    let question = v1::ReadRequest {
        namespace_id: Some(vault.namespace.into()),
        vault_id: Some(vault.vault.into()),
        // Any key: the height is what is asked for.
        key: "height".to_owned(),
        consistency: v1::ReadConsistency::from(Consistency::Linearizable).into(),
    };
    let local = |row: &VaultRow, _: &v1::ReadRequest| {
        Ok(v1::ReadResponse { value: None, block_height: row.height })
    };
    let send = |channel, request| async move { client(channel).read(request).await };
    let target = Target::existing(vault, Consistency::Linearizable);
    let height = own.read(target, question, local, send).await?.into_inner().block_height;
    let mut tips = call.context.blocks.subscribe(vault, 0);
    loop {
        tips.borrow_and_update();
        if call.owned_row(owner)?.height >= height {
            return Ok(());
        }
        tips.changed().await.map_err(|_| Failure::Draining)?;
    }
}

/// Writes on a thread of its own, whose priority is nobody else's.
fn write_apart(
    context: &NodeContext,
    vault: VaultRef,
    go_on: &(dyn Fn() -> bool + Sync),
) -> Result<VaultSnapshot, VaultSnapshotError> {
    let identity = &context.identity;
    let writer = Writer { cluster: &identity.domain, node: &identity.name };
    let write = || {
        stand_back();
        context.vault_snapshots.create(&context.reader, vault, writer, &go_on)
    };
    std::thread::scope(|scope| scope.spawn(write).join()).expect("writing does not panic")
}

/// A snapshot whose answer was lost is found by the next request, or another one is written.
fn again(failure: Failure) -> Failure {
    match failure {
        Failure::OutcomeUnknown => Failure::not_ready("the snapshot's answer was lost; ask again"),
        failure => failure,
    }
}

fn snapshot_failure(context: &NodeContext, vault: VaultRef, error: VaultSnapshotError) -> Failure {
    match error {
        VaultSnapshotError::Query(error) => query_failure(error),
        VaultSnapshotError::Deleted => Failure::deleted(vault),
        VaultSnapshotError::Stopped if context.draining.load(Ordering::Relaxed) => {
            Failure::Draining
        }
        VaultSnapshotError::Stopped => Failure::Deadline,
        VaultSnapshotError::DiskSpace { free, min } => Failure::DiskSpace { free, min },
        error @ VaultSnapshotError::File { .. } => Failure::File(error.to_string()),
    }
}

fn answer_of(context: &NodeContext, snapshot: VaultSnapshot) -> v1::CreateSnapshotResponse {
    v1::CreateSnapshotResponse {
        block_height: snapshot.height,
        state_root: Some(snapshot.state_root.into()),
        snapshot_path: snapshot.path.to_string_lossy().into_owned(),
        node_id: Some(v1::NodeId { id: context.identity.name.clone() }),
    }
}
