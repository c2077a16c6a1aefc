//! Work that an operator asks for: files of vaults on nodes' disks.
//!
//! It may be asked for again: it does nothing twice.

use ledger_proto::v1;
use ledger_types::{Digest, VaultRef};

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
}

fn snapshot_of(wire: v1::CreateSnapshotResponse) -> Result<VaultSnapshot, ClientError> {
    Ok(VaultSnapshot {
        height: wire.block_height,
        state_root: digest("state_root", wire.state_root.as_ref())?,
        node: wire.node_id.map_or_else(String::new, |node| node.id),
        path: wire.snapshot_path,
    })
}
