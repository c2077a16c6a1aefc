//! Files of single vaults that stay: what a vault held at one height, written because somebody asked for it.
//!
//! Owns the directory `vault-snapshots` of the data directory: which files are in it, and that each of them is whole.
//! Must never hold up a group while it reads, nor keep what a purged vault held.

mod content;
mod files;

use std::io;
use std::path::{Path, PathBuf};

use ledger_client::SnapshotManifest;
use ledger_shard::{QueryError, Reader, VaultRow, VaultStatus, query};
use ledger_types::{Digest, VaultRef};
use thiserror::Error;
use tracing::{info, warn};

use files::Files;

/// Snapshots of a vault that stay: those of the greatest heights.
pub const KEPT_PER_VAULT: usize = 3;

/// Why there is no snapshot. None of it is left on the disk.
#[derive(Debug, Error)]
pub enum VaultSnapshotError {
    /// The vault cannot be read here.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The vault was deleted, before or meanwhile.
    #[error("the vault was deleted")]
    Deleted,
    /// It was told to stop.
    #[error("the snapshot was stopped")]
    Stopped,
    /// The disk is too full.
    #[error("the disk has {free} bytes left, and the last {min} are not for snapshots")]
    DiskSpace {
        /// Bytes that are free.
        free: u64,
        /// Bytes that must stay free.
        min: u64,
    },
    /// A file could not be written.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Who writes a snapshot, for its manifest.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The cluster's domain.
    pub cluster: &'a str,
    /// The node's name.
    pub node: &'a str,
}

/// A snapshot that is on the disk, whole and durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VaultSnapshot {
    /// The height that it holds.
    pub height: u64,
    /// The state root at that height.
    pub state_root: Digest,
    /// The file, by its absolute path. Its manifest is beside it.
    pub path: PathBuf,
}

/// The snapshots of vaults in a data directory.
#[derive(Debug)]
pub struct VaultSnapshots {
    files: Files,
}

impl VaultSnapshots {
    /// The snapshots in a data directory, without what a process left behind that ended while it wrote.
    pub fn open(data_dir: &Path) -> VaultSnapshots {
        let files = Files::new(data_dir, files::reserve_bytes);
        match files.remove_leftovers() {
            Ok(0) => {}
            Ok(count) => info!(count, "what was left of unfinished snapshots of vaults is removed"),
            // They are in nobody's way but the disk's, and the next start tries again.
            Err(error) => warn!(%error, "unfinished snapshots of vaults cannot be removed"),
        }
        VaultSnapshots { files }
    }

    /// Writes what a vault holds at its tip here, from one view of the rows, which nobody waits for. A snapshot of the
    /// same block that is there already is as good: it would have the same bytes. Blocking and long; `go_on` is asked
    /// every few thousand items, and once it says false nothing is left.
    pub fn create(
        &self,
        reader: &Reader,
        vault: VaultRef,
        writer: Writer<'_>,
        go_on: &dyn Fn() -> bool,
    ) -> Result<VaultSnapshot, VaultSnapshotError> {
        let view = reader.view();
        let row = query::stored_row(&view, vault)?;
        check_alive(&row)?;
        let path = self.files.path(vault, row.height);
        let (height, state_root) = (row.height, row.state_root);
        let snapshot = VaultSnapshot { height, state_root, path };
        if is_of(&snapshot.path, &row) {
            return Ok(snapshot);
        }
        let mut growing = self.files.grow(vault, row.height, go_on)?;
        let counts = content::write(&view, vault, height, &mut growing)?;
        let written = growing.finish()?;
        let manifest = SnapshotManifest {
            cluster: writer.cluster.to_owned(),
            vault: vault.to_string(),
            height,
            block_hash: row.block_hash.to_string(),
            state_root: row.state_root.to_string(),
            block_time_ns: row.block_time_ns,
            entities: counts.entities,
            relationships: counts.relationships,
            node: writer.node.to_owned(),
            ..SnapshotManifest::of(written.measure())
        };
        // The view does not show whether the vault was purged meanwhile.
        let is_wanted = || {
            check_alive(&reader.tip(vault)?)?;
            if go_on() { Ok(()) } else { Err(VaultSnapshotError::Stopped) }
        };
        self.files.publish(written, &manifest, &is_wanted)?;
        Ok(snapshot)
    }

    /// Removes the files of vaults whose rows are purged here. What cannot be removed or judged now is left to the
    /// next call.
    pub fn remove_purged(&self, reader: &Reader) {
        let is_purged = |vault| {
            let row = reader.tip(vault);
            row.is_ok_and(|row| row.status == VaultStatus::Purged)
        };
        match self.files.remove_vaults(&is_purged) {
            Ok(removed) => {
                for vault in removed {
                    info!(%vault, "the snapshots of a purged vault are removed");
                }
            }
            Err(error) => warn!(%error, "the snapshots of purged vaults cannot be removed"),
        }
    }
}

fn check_alive(row: &VaultRow) -> Result<(), VaultSnapshotError> {
    if row.status.is_deleted() { Err(VaultSnapshotError::Deleted) } else { Ok(()) }
}

/// True if there is a snapshot of the block that the row names.
fn is_of(path: &Path, row: &VaultRow) -> bool {
    let Ok(Some(manifest)) = SnapshotManifest::beside(path) else { return false };
    let is_long_enough = path.metadata().is_ok_and(|file| file.len() == manifest.bytes);
    is_long_enough && manifest.block_hash == row.block_hash.to_string()
}
