//! Files of vaults' block logs, from this node's own rows: signed checkpoint, tiles of hashes, bundles of entries.
//!
//! Owns that one node's files fit each other: it shows no checkpoint over entries that it does not have. Must never show
//! a file of a log of which it has no replica, nor sign anything itself: notes come the way that clients get them.

use std::sync::Arc;
use std::time::Duration;

use ledger_proof::{LogPath, LogResource, SignedNote};
use ledger_proto::v1;
use ledger_shard::{QueryError, StateView, VaultRow, query};
use ledger_types::{GroupId, VaultRef};
use thiserror::Error;
use tonic::Request;

use super::Edge;
use super::route::query_failure;
use super::status::Failure;
use crate::context::NodeContext;

/// How long a checkpoint may take to be signed and brought here.
const SIGNED_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a checkpoint waits for the replica here to have what it covers.
const COVERED_WAIT_MAX: Duration = Duration::from_secs(2);

/// Why a file of a log is not shown.
#[derive(Debug, Error)]
pub enum LogFileError {
    /// There is no such vault, or none of its replicas is here.
    #[error("this node has no replica of vault {0}; another node may have one")]
    NotHere(VaultRef),
    /// The vault's log has another epoch.
    #[error("the vault's log has epoch {log_epoch}")]
    OtherLog {
        /// The epoch of the log that it has.
        log_epoch: u64,
    },
    /// The log has not all entries of the tile yet.
    #[error("the log has {size} entries here, too few for this tile")]
    BeyondLog {
        /// Entries of the log.
        size: u64,
    },
    /// The replica here takes a snapshot over at this moment.
    #[error("the replica of group {0} on this node is being renewed")]
    Renewed(GroupId),
    /// The node cannot answer, or no leader signs.
    #[error(transparent)]
    Failure(#[from] Failure),
}

impl Edge {
    /// The bytes of a file of a vault's log. Errors if it is not of a log that this node has a replica of, the log has
    /// not so many entries, or no leader signs.
    pub async fn log_file(&self, path: LogPath) -> Result<Vec<u8>, LogFileError> {
        let context = self.slot.get()?.clone();
        let vault = path.vault;
        match path.resource {
            LogResource::Checkpoint => self.log_checkpoint(&context, &path).await,
            LogResource::Hashes(tile) => {
                let read = move |view: &dyn StateView| query::log_hashes(view, vault, &tile);
                read_apart(context, path, read).await
            }
            LogResource::Entries(tile) => {
                let read = move |view: &dyn StateView| query::log_entries(view, vault, &tile);
                read_apart(context, path, read).await
            }
        }
    }

    /// A note of the log's leader, once the replica here has all that the note covers.
    async fn log_checkpoint(
        &self,
        context: &Arc<NodeContext>,
        path: &LogPath,
    ) -> Result<Vec<u8>, LogFileError> {
        let vault = path.vault;
        held_row(context, &context.reader.view(), path)?;
        // The number of a vault that is here came over the wire once and fits.
        let number = |id: u64| i64::try_from(id).map_err(|_| LogFileError::NotHere(vault));
        let namespace_id = Some(v1::NamespaceId { id: number(vault.namespace.0)? });
        let vault_id = Some(v1::VaultId { id: number(vault.vault.0)? });
        let mut request = Request::new(v1::GetCheckpointRequest {
            namespace_id,
            vault_id,
            ..v1::GetCheckpointRequest::default()
        });
        request.set_timeout(SIGNED_WAIT_MAX);
        let note = Box::pin(self.checkpoint(request)).await?.into_inner().note;
        let malformed = |_| Failure::Internal("a signed note of this cluster cannot be read");
        let signed = SignedNote::parse(&note).and_then(|note| note.checkpoint());
        let signed = signed.map_err(malformed)?;
        if signed.origin.log_epoch != path.log_epoch {
            return Err(LogFileError::OtherLog { log_epoch: signed.origin.log_epoch });
        }
        wait_for_entries(context, path, signed.size).await?;
        Ok(note)
    }
}

/// Waits until the replica here has so many entries of the log.
async fn wait_for_entries(
    context: &NodeContext,
    path: &LogPath,
    size: u64,
) -> Result<(), LogFileError> {
    let mut tips = context.blocks.subscribe(path.vault, 0);
    let reached = async {
        loop {
            tips.borrow_and_update();
            if held_row(context, &context.reader.view(), path)?.log_size >= size {
                return Ok(());
            }
            if tips.changed().await.is_err() {
                return Err(LogFileError::Failure(Failure::Draining));
            }
        }
    };
    let behind = || Failure::not_ready("its replica has not yet what the newest checkpoint covers");
    tokio::time::timeout(COVERED_WAIT_MAX, reached).await.map_err(|_| behind())?
}

/// Reads a file that may lie on disk, away from the threads that serve requests.
async fn read_apart<R>(
    context: Arc<NodeContext>,
    path: LogPath,
    read: R,
) -> Result<Vec<u8>, LogFileError>
where
    R: FnOnce(&dyn StateView) -> Result<Vec<u8>, QueryError> + Send + 'static,
{
    let reading = tokio::task::spawn_blocking(move || {
        let view = context.reader.view();
        let row = held_row(&context, &view, &path)?;
        read(&view).map_err(|error| match error {
            QueryError::UnknownVault => LogFileError::NotHere(path.vault),
            QueryError::HeightUnavailable { .. } => LogFileError::BeyondLog { size: row.log_size },
            error => query_failure(error).into(),
        })
    });
    let ended = |_| LogFileError::Failure(Failure::Internal("reading a log's file ended early"));
    reading.await.map_err(ended)?
}

/// The row of the path's vault, if its group has a replica here that can be read and its log is the one meant.
fn held_row(
    context: &NodeContext,
    view: &dyn StateView,
    path: &LogPath,
) -> Result<VaultRow, LogFileError> {
    let row = match query::vault_row(view, path.vault) {
        Ok(row) if row.status.is_deleted() => {
            return Err(LogFileError::NotHere(path.vault));
        }
        Ok(row) => row,
        Err(QueryError::Fault(fault)) => return Err(Failure::Store(fault.to_string()).into()),
        Err(_) => return Err(LogFileError::NotHere(path.vault)),
    };
    if context.quarantine.holds(path.vault) {
        return Err(Failure::VaultUnavailable(path.vault).into());
    }
    // Asked after the view was taken: rows that are replaced by a snapshot are not in it.
    if !context.shard.is_readable(row.owner) {
        let is_held = context.shard.status(row.owner).is_some();
        let (vault, group) = (path.vault, row.owner);
        return Err(if is_held {
            LogFileError::Renewed(group)
        } else {
            LogFileError::NotHere(vault)
        });
    }
    if row.log_epoch != path.log_epoch {
        return Err(LogFileError::OtherLog { log_epoch: row.log_epoch });
    }
    Ok(row)
}
