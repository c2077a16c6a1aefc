//! How nodes talk to each other: Raft messages in frames, identities checked on connect, and the
//! directory for nodes that have no replica of it.
//!
//! Owns the internal service, both of its sides, and what this node tells others about itself. Must
//! never look into a Raft message, nor block the driver's thread.

mod clocks;
mod inbound;
mod met;
mod metrics;
mod outbound;
mod queue;
mod state;
#[cfg(test)]
pub(crate) mod test_nodes;
#[cfg(test)]
mod tests;

use std::pin::Pin;

use ledger_proto::internal;
use ledger_shard::{GroupMessage, ShardHandle};
use ledger_types::{NodeId, StoreId, VaultRef};
use thiserror::Error;
use tokio_stream::Stream;

pub use clocks::PeerClocks;
pub use inbound::PeerService;
pub use met::MetNodes;
pub use metrics::{PeerMetrics, PeerMetricsSnapshot};
pub use outbound::{Transport, TransportLimits};
pub use state::{LocalNode, NodeRows, PeerState, Serving, StateError};
pub(crate) use state::{SILENCE, wire_founder};

use crate::edge::status::Failure;

/// The version of the protocol between nodes that this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;
/// Largest message between nodes in bytes.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most Raft messages in a frame.
pub const FRAME_MESSAGES_MAX: usize = 16 * 1024;

/// Where Raft messages of other nodes go, and who hears that a node cannot be reached.
pub trait FrameSink: Send + Sync {
    /// Takes the messages of one frame of a node. Must not block.
    fn messages(&self, from: NodeId, messages: Vec<GroupMessage>);
    /// Messages to this node are being lost. Must not block.
    fn unreachable(&self, node: NodeId);
}

impl FrameSink for ShardHandle {
    fn messages(&self, from: NodeId, messages: Vec<GroupMessage>) {
        self.message(from, messages);
    }

    fn unreachable(&self, node: NodeId) {
        ShardHandle::unreachable(self, node);
    }
}

/// What is known of a node's place in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Membership {
    /// Not heard of: it may have registered a moment ago.
    Unknown,
    /// It belongs to the cluster with this store.
    Member(StoreId),
    /// It was taken out for good.
    Removed,
}

/// Knows the nodes of the cluster: the directory, or the genesis before there is one.
pub trait AddressBook: Send + Sync {
    /// Where a node is reached, host:port.
    fn address(&self, node: NodeId) -> Option<String>;
    /// Whether a node belongs to the cluster.
    fn membership(&self, node: NodeId) -> Membership;
}

/// A node that asks to be registered. Its fields obey the directory's rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoiningNode {
    /// Its configured name.
    pub name: String,
    /// Its data directory.
    pub store: StoreId,
    /// The public half of its Ed25519 key.
    pub public_key: [u8; 32],
    /// Where it is reached, host:port.
    pub address: String,
    /// Its failure zone; empty if none is configured.
    pub zone: String,
}

/// Why a node is not registered.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum JoinRefusal {
    /// This node does not lead the directory's group.
    #[error("this node does not lead the directory")]
    NotLeader {
        /// Where the leader is reached, if known.
        leader_address: Option<String>,
    },
    /// Another store has the name. Final.
    #[error("{0}")]
    NameTaken(String),
    /// The node was taken out of the cluster. Final.
    #[error("{0}")]
    Removed(String),
    /// The directory refuses for another reason. Final.
    #[error("{0}")]
    Refused(String),
    /// It cannot be done now; asking again may succeed.
    #[error("{0}")]
    Unavailable(String),
}

/// The directory's changes on their way to a node that follows them.
pub type DirectoryStream =
    Pin<Box<dyn Stream<Item = Result<internal::DirectoryDelta, Failure>> + Send>>;

/// What the internal service answers from the directory.
#[tonic::async_trait]
pub trait DirectoryService: Send + Sync {
    /// Registers a node, or finds the number that its store has.
    async fn join(&self, node: JoiningNode) -> Result<NodeId, JoinRefusal>;
    /// Follows the directory from a revision; 0 for all of it.
    async fn follow(&self, from_revision: u64) -> Result<DirectoryStream, Failure>;
    /// Looks up who owns a vault.
    async fn lookup_vault(&self, vault: VaultRef)
    -> Result<internal::LookupVaultResponse, Failure>;
}
