//! Snapshots of groups on disk: cut into files here, received from elsewhere, verified, installed.
//!
//! Owns the directory `snapshots` in the data directory, and that no snapshot becomes a group's state before
//! everything in it was checked. Must never decide when a snapshot is wanted, and never move bytes between
//! nodes: that is the core's and the node's work.

mod cut;
mod error;
mod files;
mod install;
mod staged_rows;
mod staging;
mod store;
mod verify;
mod workers;

use std::sync::OnceLock;

use ledger_shard_core::effects::FetchSnapshot;

use crate::handle::ShardHandle;

pub(crate) use cut::owned_vaults;
pub use error::{SnapshotError, VerifyError};
pub(crate) use install::finish_marked;
pub use staging::Staging;
pub use store::SnapshotStore;
pub(crate) use workers::{InstallQueue, WorkerParts, Workers};

/// Brings snapshots from other nodes. Called on the driver's thread: it notes the wish and never blocks.
/// The end of every fetch is told by [`crate::ShardHandle::snapshot_fetched`].
pub trait SnapshotFetcher: Send + Sync {
    /// Begins to bring a snapshot here, instead of any earlier one of the same group.
    fn fetch(&self, wanted: FetchSnapshot);
}

/// Brings no snapshots: every fetch ends at once without one. For nodes without others, and for tests.
#[derive(Debug, Default)]
pub struct NoSnapshots {
    handle: OnceLock<ShardHandle>,
}

impl NoSnapshots {
    /// Tells this node's shard from now on; only the first call counts.
    pub fn attach(&self, handle: ShardHandle) {
        let _ = self.handle.set(handle);
    }
}

impl SnapshotFetcher for NoSnapshots {
    fn fetch(&self, wanted: FetchSnapshot) {
        if let Some(handle) = self.handle.get() {
            handle.snapshot_fetched(wanted.manifest.group, wanted.manifest.id, false);
        }
    }
}

/// Lets everything else of the node have the processor first: what the calling thread does from here on can wait.
/// Without the right to, the thread stays as it is.
pub fn stand_back() {
    const NICE: i32 = 10;
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "a thread keeps its priority");
    }
}

/// A place at which a test can stop or end the process; nothing in a build without the feature. The line
/// tells the test that the place was reached.
macro_rules! fail_point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        {
            tracing::warn!(fail_point = $name, "at a fail point");
            fail::fail_point!($name);
        }
    };
}
use fail_point;

#[cfg(test)]
mod tests;
