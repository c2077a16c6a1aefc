//! Work that an operator asks for: files of vaults on nodes' disks, and the removal of what has expired.
//!
//! All of it may be asked for again: it does nothing twice.

use ledger_proto::v1;
use ledger_types::{Digest, NamespaceId, VaultId, VaultRef};

use crate::attempt::Effect;
use crate::call::CallKind;
use crate::client::Client;
use crate::error::ClientError;
use crate::leaders::Route;
use crate::method;
use crate::read::digest;
use crate::write::wire_vault;

/// A file on a node's disk with what a vault held at one height.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VaultSnapshot {
    /// The height.
    pub height: u64,
    /// The state root at that height.
    pub state_root: Digest,
    /// Name of the node.
    pub node: String,
    /// The file on the node's disk, by its absolute path; its [`SnapshotManifest`](crate::SnapshotManifest) is beside it.
    pub path: String,
}

/// Where expired entities are removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RemoveIn {
    /// In one vault.
    Vault(VaultRef),
    /// In all vaults of a namespace and among its own entities.
    Namespace(NamespaceId),
    /// Everywhere.
    Everything,
}

/// What was removed because it had expired.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Removed {
    /// Everything is removed that had expired when this was asked for. If not, asking again goes on.
    pub is_complete: bool,
    /// Entities that were removed.
    pub entities: u64,
    /// Vaults that were looked through.
    pub vaults: u64,
    /// The same for people, with what kept it from being complete.
    pub message: String,
}

impl Client {
    /// Has a node that holds the vault write what it holds now to a file on its disk. Everything that was acknowledged
    /// before is in it. Give it time with [`Client::with_deadline`], up to a minute: it is written in one go, or not at
    /// all. Errors: the disk is too full, among others.
    pub async fn create_snapshot(&self, vault: VaultRef) -> Result<VaultSnapshot, ClientError> {
        let (namespace_id, vault_id) = wire_vault(vault)?;
        let request = v1::CreateSnapshotRequest { namespace_id, vault_id };
        // It changes nothing that is replicated, and writing it again does no harm.
        let kind = CallKind { route: Route::Any(Some(vault)), effect: Effect::Reads };
        snapshot_of(self.call_long(method::CREATE_SNAPSHOT, kind, &request).await?)
    }

    /// The same on the disk of the node at `address`. Asked once. Errors: the node has no replica of the vault, among
    /// others.
    pub async fn create_snapshot_at(
        &self,
        address: &str,
        vault: VaultRef,
    ) -> Result<VaultSnapshot, ClientError> {
        let (namespace_id, vault_id) = wire_vault(vault)?;
        let request = v1::CreateSnapshotRequest { namespace_id, vault_id };
        snapshot_of(self.call_replica_long(method::CREATE_SNAPSHOT, address, &request).await?)
    }

    /// Has everything removed that has expired. The answer comes when that is done, or when most of the client's
    /// deadline is over. Errors: the vault cannot be looked through, among others; of several vaults the answer tells.
    pub async fn remove_expired(&self, place: RemoveIn) -> Result<Removed, ClientError> {
        let (request, route) = match place {
            RemoveIn::Vault(vault) => {
                let (namespace_id, vault_id) = wire_vault(vault)?;
                (v1::ForceGcRequest { namespace_id, vault_id }, Route::Leader(vault))
            }
            RemoveIn::Namespace(namespace) => {
                let (namespace_id, _) = wire_vault(VaultRef { namespace, vault: VaultId(0) })?;
                (v1::ForceGcRequest { namespace_id, vault_id: None }, Route::Directory)
            }
            RemoveIn::Everything => (v1::ForceGcRequest::default(), Route::Directory),
        };
        let kind = CallKind { route, effect: Effect::WritesOnce };
        let answer = self.call_long(method::FORCE_GC, kind, &request).await?;
        Ok(Removed {
            is_complete: answer.success,
            entities: answer.expired_count,
            vaults: answer.vaults_scanned,
            message: answer.message,
        })
    }
}

fn snapshot_of(wire: v1::CreateSnapshotResponse) -> Result<VaultSnapshot, ClientError> {
    Ok(VaultSnapshot {
        height: wire.block_height,
        state_root: digest("state_root", wire.state_root.as_ref())?,
        node: wire.node_id.map_or_else(String::new, |node| node.id),
        path: wire.snapshot_path,
    })
}
