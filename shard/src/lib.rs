//! Executes what the core decides: the database, the log, applying, reading, threads.
//!
//! Owns everything between [`ledger_shard_core::NodeCore`] and the disk. Must never decide anything
//! about consensus or state: effects are carried out as they come.

mod apply;
pub mod boot;
mod clock;
mod driver;
mod handle;
mod ingress;
mod lanes;
mod log;
mod metrics;
mod pipeline;
mod reads;
mod sleepers;
mod snapshots;
mod status;
mod store;
mod view;

/// A step at which a test ends a real process; nothing at all in a build without the feature `failpoints`.
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name);
    };
}
use crash_point;

use std::convert::Infallible;
use std::sync::Arc;

pub use clock::{Clock, SystemClock, wall_clock_ns};
pub use driver::{Driver, DriverConfig, DriverError, DriverParts};
pub use handle::{
    AppliedCommand, BlockListener, Outbox, ProposeCompletion, ProposeOutcome, ReadCompletion,
    RowsCompletion, ShardHandle,
};
pub use metrics::{Metrics, MetricsSnapshot, SYNC_BUCKETS};
pub use pipeline::DriverMode;
pub use reads::Reader;
pub use snapshots::{
    NoSnapshots, SnapshotError, SnapshotFetcher, SnapshotStore, Staging, VerifyError, stand_back,
};
pub use store::{
    FORMAT_VERSION, JoinError, NodeKeySeed, OpenError, Store, StoreConfig, StoreError,
};
pub use view::{LiveView, SnapshotView};

pub use ledger_shard_core::CoreConfig;
/// The core's vocabulary, for those who must not name the core itself.
pub use ledger_shard_core::apply::{
    ApplyConfig, CommandResult, ConditionFailure, FailedCondition, NewBlock, NotedCheckpoint,
    ProvedKey, TipProof, genesis_rows,
};
pub use ledger_shard_core::command::create_vault::CreateVaultCommand as CreateVaultBlock;
pub use ledger_shard_core::command::delete_vault::DeleteVaultCommand as DeleteVaultMark;
pub use ledger_shard_core::command::purge_vault::PurgeVaultCommand as PurgeVault;
pub use ledger_shard_core::command::record_checkpoint::RecordCheckpointCommand as RecordCheckpoint;
pub use ledger_shard_core::command::system::{
    self, CreateNamespace, CreateShards, CreateVault, DeleteNamespace, DeleteVault,
    FIRST_OWNER_EPOCH, Found, Founder, RegisterNode, SystemCommand, SystemRefusal, SystemResult,
    VaultActive, VaultDeleted,
};
pub use ledger_shard_core::command::write::{CommittedWrite, WriteCommand, WriteResult};
pub use ledger_shard_core::effects::{
    BootRecord, ConfState, FetchSnapshot, GroupMessage, GroupStatus, Lane, MemberChange,
    MemberProgress, Now, OutMessage, Refusal, Replica, Role, SnapshotPhase,
};
pub use ledger_shard_core::entry::{Command, CommandKind, FEATURE_LEVEL};
pub use ledger_shard_core::integrity;
pub use ledger_shard_core::query::{
    self, Entity, EntityQuery, ListRequest, LogSizes, Page, PageLimits, ProvedList, QueryError,
    Relationship, RelationshipQuery, ResourceQuery, StateProof, StoredBlock,
};
pub use ledger_shard_core::rows::{
    self, GroupRow, SequenceContract, VaultRow, VaultStatus, checkpoint_key, decode_checkpoint,
};
pub use ledger_shard_core::snapshot::{SnapshotFile, SnapshotId, SnapshotManifest};
pub use ledger_shard_core::view::{Family, RowWrite, StateView};

/// Ends the process with a reason. Called when going on could break a promise: a write or sync failed,
/// a state machine stopped, a thread panicked.
#[derive(Clone)]
pub struct Fatal(Arc<dyn Fn(&str) -> Infallible + Send + Sync>);

impl Fatal {
    /// Ends by this function, which is told why and cannot return.
    pub fn new(end: impl Fn(&str) -> Infallible + Send + Sync + 'static) -> Fatal {
        Fatal(Arc::new(end))
    }

    pub(crate) fn end(&self, reason: &str) -> ! {
        match (self.0)(reason) {}
    }
}

/// The [`Fatal`] of a server: tells why and aborts.
pub fn abort_process() -> Fatal {
    Fatal::new(|reason| {
        tracing::error!(reason, "the node cannot go on");
        std::process::abort()
    })
}

#[cfg(test)]
mod tests;
