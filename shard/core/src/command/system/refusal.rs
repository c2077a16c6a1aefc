//! Why a directory command changes nothing.
//!
//! Owns the refusals. Must never hold text that a replica made up: every replica answers the same.

use ledger_types::{ClusterId, GroupId, Incarnation, NamespaceId, NodeId, OwnerEpoch, VaultRef};
use thiserror::Error;

/// Why a directory command changes nothing. Codes and data only: every replica answers the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum SystemRefusal {
    /// The cluster is not founded yet.
    #[error("the cluster is not founded yet")]
    NotFounded,
    /// The cluster was founded before.
    #[error("cluster {cluster} was founded before")]
    AlreadyFounded {
        /// The cluster.
        cluster: ClusterId,
    },
    /// Without the node that has the name a shard would be left without a majority, for good.
    #[error(
        "without node {node} shard {shard} would lose its majority for good; bring back a disk, or take \
         another name"
    )]
    MajorityAtRisk {
        /// The node that has the name.
        node: NodeId,
        /// The shard.
        shard: GroupId,
    },
    /// The store is registered under another name.
    #[error("the store is registered under another name, as node {node}")]
    StoreTaken {
        /// The node that it is.
        node: NodeId,
    },
    /// The node's store is known with another public key.
    #[error("node {node} is registered with another public key")]
    PublicKeyChanged {
        /// The node.
        node: NodeId,
    },
    /// Another node has the public key.
    #[error("the public key belongs to node {node}")]
    PublicKeyTaken {
        /// The node that has it.
        node: NodeId,
    },
    /// The node was taken out of the cluster.
    #[error("node {node} was removed from the cluster")]
    NodeRemoved {
        /// The node.
        node: NodeId,
    },
    /// There is no active node to put a shard on.
    #[error("no node can take a shard")]
    NoNode,
    /// There is no data shard.
    #[error("there is no data shard yet")]
    NoShard,
    /// The wanted shard is not a data shard of this cluster.
    #[error("shard {shard} is not a data shard of this cluster")]
    UnknownShard {
        /// The wanted shard.
        shard: GroupId,
    },
    /// Another namespace has the name.
    #[error("the name belongs to namespace {namespace}")]
    NamespaceNameTaken {
        /// The namespace that has it.
        namespace: NamespaceId,
    },
    /// There is no such namespace.
    #[error("namespace {namespace} does not exist")]
    UnknownNamespace {
        /// The namespace.
        namespace: NamespaceId,
    },
    /// The namespace is deleted or being deleted; its id is never used again.
    #[error("namespace {namespace} is deleted")]
    NamespaceDeleted {
        /// The namespace.
        namespace: NamespaceId,
    },
    /// There is no such vault.
    #[error("vault {vault} does not exist")]
    UnknownVault {
        /// The vault.
        vault: VaultRef,
    },
    /// The vault is deleted or being deleted; its id is never used again.
    #[error("vault {vault} is deleted")]
    VaultDeleted {
        /// The vault.
        vault: VaultRef,
    },
    /// The vault awaits its first block, which comes before its end. Passes by itself.
    #[error("vault {vault} is being made")]
    VaultCreating {
        /// The vault.
        vault: VaultRef,
    },
    /// The vault is in use.
    #[error("vault {vault} is not being deleted")]
    VaultStays {
        /// The vault.
        vault: VaultRef,
    },
    /// The namespace has vaults, which are deleted one by one before it.
    #[error("namespace {namespace} has {vaults} vaults")]
    NamespaceNotEmpty {
        /// The namespace.
        namespace: NamespaceId,
        /// Vaults that it has; [`super::LIVE_VAULTS_COUNTED_MAX`] stands for so many or more.
        vaults: u64,
    },
    /// The vault's owner changed since the command was made.
    #[error("vault {vault} is at owner epoch {current}")]
    OtherOwnerEpoch {
        /// The vault.
        vault: VaultRef,
        /// Its owner epoch.
        current: OwnerEpoch,
    },
    /// No id is left.
    #[error("no id is left")]
    IdsExhausted,
    /// There is no such shard, `_system` included.
    #[error("shard {shard} is not a shard of this cluster")]
    NoSuchShard {
        /// The wanted shard.
        shard: GroupId,
    },
    /// The shard has no such replica.
    #[error("shard {shard} has no replica {incarnation}")]
    NoSuchReplica {
        /// The shard.
        shard: GroupId,
        /// The wanted replica.
        incarnation: Incarnation,
    },
    /// The replica is not on its way out of the shard.
    #[error("replica {incarnation} of shard {shard} is not leaving")]
    ReplicaStays {
        /// The shard.
        shard: GroupId,
        /// The replica.
        incarnation: Incarnation,
    },
    /// The shard's entity changed since the command was made.
    #[error("shard {shard} is at epoch {current}")]
    OtherShardEpoch {
        /// The shard.
        shard: GroupId,
        /// Its epoch.
        current: u64,
    },
    /// Another change of the shard's members has to end first.
    #[error("the members of shard {shard} are changing")]
    ShardChanging {
        /// The shard.
        shard: GroupId,
    },
    /// The shard lists as many replicas as it may.
    #[error("shard {shard} has no room for another replica")]
    ShardFull {
        /// The shard.
        shard: GroupId,
    },
    /// There is no such node.
    #[error("node {node} does not exist")]
    UnknownNode {
        /// The node.
        node: NodeId,
    },
    /// The node is draining or removed.
    #[error("node {node} takes no replicas")]
    NodeNotActive {
        /// The node.
        node: NodeId,
    },
    /// A node has at most one replica of a shard.
    #[error("shard {shard} has a replica on node {node} already")]
    ReplicaExists {
        /// The shard.
        shard: GroupId,
        /// The node.
        node: NodeId,
    },
    /// There is no such trust bundle, or it is the first, which nothing vouches for.
    #[error("no trust bundle {sequence} needs a link")]
    UnknownBundle {
        /// The bundle.
        sequence: u64,
    },
}
