//! The route decision: serve a request here, or send it to which node.
//!
//! Owns the order in which namespace, vault, shard and leader are looked at, and the rule that a request
//! is forwarded at most once. Must never wait or retry: it answers from what is known now.

use std::sync::Arc;

use ledger_proof::system_entity::{NamespaceState, ShardEntity, VaultState};
use ledger_types::{GroupId, NamespaceId, NodeId, OwnerEpoch, VaultRef};
use thiserror::Error;

use crate::directory::Directory;
use crate::hints::LeaderHints;
use crate::placement::{nth_choice, voters_of};
use crate::vault_table::VaultLookup;

#[cfg(test)]
mod tests;

/// The owner epoch of `_system`'s own chain, which never moves.
pub const SYSTEM_OWNER_EPOCH: OwnerEpoch = OwnerEpoch(1);

/// Which replicas can serve a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Only the leader: writes and linearizable reads.
    Leader,
    /// Any replica: reads that may be behind.
    AnyReplica,
}

/// A request as far as routing cares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteRequest {
    /// The vault it is for; [`VaultRef::SYSTEM`] for changes of the directory.
    pub vault: VaultRef,
    /// Who can serve it.
    pub reach: Reach,
    /// The node that decides.
    pub local: NodeId,
    /// True if another node forwarded it here: then it goes no further.
    pub forwarded: bool,
    /// How many nodes were asked in vain: when no leader is known, each attempt names another voter.
    pub attempt: u32,
}

/// A node to send to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The node.
    pub node: NodeId,
    /// Where it is reached, `host:port`.
    pub address: String,
}

/// Where a request goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// This node serves it.
    Local {
        /// The vault's shard.
        group: GroupId,
        /// The owner epoch to propose or read under.
        owner_epoch: OwnerEpoch,
    },
    /// Another node serves it, or knows who does.
    Forward {
        /// That node.
        target: Target,
        /// The vault's shard.
        group: GroupId,
    },
    /// The vault must be looked up first, with a voter of `_system`; then decide again.
    Lookup {
        /// The vault.
        vault: VaultRef,
    },
}

/// Why there is no route.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RouteError {
    /// There is no such namespace.
    #[error("namespace {namespace} does not exist")]
    UnknownNamespace {
        /// The namespace.
        namespace: NamespaceId,
    },
    /// The namespace is deleted or being deleted.
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
    /// The vault is deleted or being deleted.
    #[error("vault {vault} is deleted")]
    VaultDeleted {
        /// The vault.
        vault: VaultRef,
    },
    /// The vault awaits its first block. Passes by itself.
    #[error("vault {vault} is not ready yet")]
    VaultNotReady {
        /// The vault.
        vault: VaultRef,
        /// The shard that is to make its first block.
        group: GroupId,
    },
    /// The shard is not in this node's directory, which is behind. Passes by itself.
    #[error("shard {group} is not known here yet")]
    UnknownShard {
        /// The shard.
        group: GroupId,
    },
    /// The shard has no leader that this node, one of its replicas, knows of. Passes by itself.
    #[error("shard {group} has no leader at the moment")]
    NoLeader {
        /// The shard.
        group: GroupId,
    },
    /// The request was forwarded here, and this node does not lead the shard.
    #[error("this node does not lead shard {group}")]
    NotLeader {
        /// The shard.
        group: GroupId,
        /// Its leader, if this node knows it.
        leader: Option<Target>,
    },
    /// The request was forwarded here, and this node has no replica of the shard.
    #[error("this node has no replica of shard {group}")]
    NoReplica {
        /// The shard.
        group: GroupId,
    },
    /// The node that should serve the request is not in this node's directory. Passes by itself.
    #[error("node {node} is not known here yet")]
    UnknownNode {
        /// The node.
        node: NodeId,
    },
}

/// Decides where a request goes.
pub fn decide(
    directory: &Directory,
    hints: &LeaderHints,
    request: &RouteRequest,
) -> Result<Route, RouteError> {
    let (group, owner_epoch) = match owner(directory, request.vault)? {
        Some(owner) => owner,
        None => return Ok(Route::Lookup { vault: request.vault }),
    };
    let shard = directory.shard(group).ok_or(RouteError::UnknownShard { group })?;
    let has_replica = shard.replicas.iter().any(|replica| replica.node == request.local);
    let leader = hints.leader(group);
    let is_served_here = match request.reach {
        Reach::Leader => leader == Some(request.local),
        Reach::AnyReplica => has_replica,
    };
    if is_served_here {
        return Ok(Route::Local { group, owner_epoch });
    }
    if request.forwarded {
        return Err(match request.reach {
            Reach::Leader => {
                let leader = leader.and_then(|node| target(directory, node).ok());
                RouteError::NotLeader { group, leader }
            }
            Reach::AnyReplica => RouteError::NoReplica { group },
        });
    }
    let node = match leader {
        Some(node) if node != request.local => node,
        _ if has_replica => return Err(RouteError::NoLeader { group }),
        _ => guess(&shard, request)?,
    };
    Ok(Route::Forward { target: target(directory, node)?, group })
}

/// The vault's shard and owner epoch, or `None` if they must be looked up.
fn owner(
    directory: &Directory,
    vault: VaultRef,
) -> Result<Option<(GroupId, OwnerEpoch)>, RouteError> {
    if vault == VaultRef::SYSTEM {
        return Ok(Some((GroupId::SYSTEM, SYSTEM_OWNER_EPOCH)));
    }
    let namespace = vault.namespace;
    match directory.namespace(namespace).map(|entity| entity.state) {
        None => return Err(RouteError::UnknownNamespace { namespace }),
        Some(NamespaceState::Active) => {}
        Some(NamespaceState::Deleting | NamespaceState::Deleted) => {
            return Err(RouteError::NamespaceDeleted { namespace });
        }
    }
    let entity = match directory.vault(vault) {
        VaultLookup::Known(entity) => entity,
        VaultLookup::Absent => return Err(RouteError::UnknownVault { vault }),
        VaultLookup::NotCached => return Ok(None),
    };
    match entity.state {
        VaultState::Active => Ok(Some((entity.shard, entity.owner_epoch))),
        VaultState::Creating => Err(RouteError::VaultNotReady { vault, group: entity.shard }),
        VaultState::Deleting | VaultState::Deleted => Err(RouteError::VaultDeleted { vault }),
    }
}

/// A voter to ask when no leader is known here: it serves the request or answers with a hint.
fn guess(shard: &Arc<ShardEntity>, request: &RouteRequest) -> Result<NodeId, RouteError> {
    let choice = nth_choice(shard.id, &voters_of(shard), request.attempt);
    choice.map(|voter| voter.node).ok_or(RouteError::NoLeader { group: shard.id })
}

fn target(directory: &Directory, node: NodeId) -> Result<Target, RouteError> {
    let entity = directory.node(node).ok_or(RouteError::UnknownNode { node })?;
    Ok(Target { node, address: entity.address.clone() })
}
