//! Snapshots between nodes: handing out what this node has cut, and bringing here what it needs.
//!
//! Owns how many travel at a time, how fast, and how a broken transfer goes on. Must never judge what is in a
//! snapshot: the shard cuts, verifies and installs, and a sender is not trusted.

mod bucket;
mod download;
mod fetch;
mod hold;
mod serve;
#[cfg(test)]
mod tests;

use ledger_shard::{ShardHandle, SnapshotId};
use ledger_types::{ClusterId, GroupId, NodeId, StoreId};

use crate::context::NodeIdentity;

pub use bucket::{Bucket, Limiter};
pub use fetch::{FetchLimits, Fetcher};
pub use serve::{ServeLimits, SnapshotServer, SnapshotService};

/// Who hears how snapshots fare. Called from any thread; must not block.
pub trait SnapshotReports: Send + Sync {
    /// The receiver of a snapshot that was cut here is alive.
    fn progress(&self, group: GroupId, id: SnapshotId);
    /// Bringing a snapshot here ended. `verified` if all of it is durable and passed every check.
    fn fetched(&self, group: GroupId, id: SnapshotId, verified: bool);
}

impl SnapshotReports for ShardHandle {
    fn progress(&self, group: GroupId, id: SnapshotId) {
        self.snapshot_progress(group, id);
    }

    fn fetched(&self, group: GroupId, id: SnapshotId, verified: bool) {
        self.snapshot_fetched(group, id, verified);
    }
}

/// Who asks for a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asking {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// Its data directory.
    pub store: StoreId,
}

impl From<&NodeIdentity> for Asking {
    fn from(identity: &NodeIdentity) -> Asking {
        Asking { cluster: identity.cluster, node: identity.node, store: identity.store }
    }
}

/// A place at which a test stops a real process; nothing at all in a build without the feature `failpoints`. The
/// line in the log tells the test that the process is there. It may block its thread, so it stands in blocking code
/// only.
macro_rules! fail_point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        {
            if fail::list().iter().any(|(configured, _)| configured == $name) {
                tracing::warn!(fail_point = $name, "at a fail point");
            }
            fail::fail_point!($name);
        }
    };
}
use fail_point;
