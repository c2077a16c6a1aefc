//! Who is in the cluster, as this node's copy of the directory says.
//!
//! Owns `GetClusterInfo`, `GetNodeInfo`, `GetPeers` and `GetSystemState`. Must never need another node's help: a node
//! in trouble must still tell.

use ledger_proof::system_entity::{NodeEntity, NodeState, ReplicaRole, ShardEntity};
use ledger_proto::v1;
use ledger_types::limits::PAGE_ITEMS_MAX;
use ledger_types::{GroupId, NamespaceId, NodeId};
use prost::Message as _;
use tonic::{Request, Response};

use super::Edge;
use super::deadline::Deadline;
use super::namespaces::{namespaces_to_list, wire_namespace};
use super::route::Call;
use super::status::Failure;
use super::vaults::{WHOLE_ANSWER_BYTES_MAX, node_name};
use crate::context::NodeContext;

impl Edge {
    pub(super) fn cluster_info(
        &self,
        request: Request<v1::GetClusterInfoRequest>,
    ) -> Result<Response<v1::GetClusterInfoResponse>, Failure> {
        let call = Call::begin(&self.slot, request.metadata())?;
        let (term, leader) = system_leader(&call.context);
        let system = call.context.directory.current().shard(GroupId::SYSTEM);
        let members = members_of_cluster(&call.context).into_iter().map(|node| {
            let role = match votes(system.as_deref(), node.id) {
                true => v1::ClusterMemberRole::Voter,
                false => v1::ClusterMemberRole::Learner,
            };
            v1::ClusterMember {
                node_id: node.id.0,
                address: node.address.clone(),
                role: role.into(),
                is_leader: leader == Some(node.id),
            }
        });
        let (members, leader_id) = (members.collect(), leader.map_or(0, |leader| leader.0));
        let answer = v1::GetClusterInfoResponse { members, leader_id, term };
        Ok(call.answer(GroupId::SYSTEM, answer))
    }

    /// Answers in every stage of the node's life.
    pub(super) fn node_info(
        &self,
        request: Request<v1::GetNodeInfoRequest>,
    ) -> Result<Response<v1::GetNodeInfoResponse>, Failure> {
        Deadline::of(request.metadata())?;
        let Some(context) = self.slot.peek() else {
            let address = self.peers.local().address.clone();
            return Ok(Response::new(v1::GetNodeInfoResponse { address, ..Default::default() }));
        };
        let node = context.identity.node;
        let entity = context.directory.current().node(node);
        Ok(Response::new(v1::GetNodeInfoResponse {
            node_id: node.0,
            address: context.identity.advertise_addr.clone(),
            is_cluster_member: entity.is_some_and(|entity| entity.state != NodeState::Removed),
            term: system_leader(context).0,
        }))
    }

    pub(super) fn peers_to_connect(
        &self,
        request: Request<v1::GetPeersRequest>,
    ) -> Result<Response<v1::GetPeersResponse>, Failure> {
        let call = Call::begin(&self.slot, request.metadata())?;
        let system_version = call.context.directory.revision();
        let wanted = match request.get_ref().max_peers {
            0 => usize::MAX,
            max => usize::try_from(max).unwrap_or(usize::MAX),
        };
        let peers = members_of_cluster(&call.context).into_iter().take(wanted).map(|node| {
            let (host, grpc_port) = host_and_port(&node.address);
            let node_id = Some(v1::NodeId { id: node_name(&call.context, node.id) });
            v1::PeerInfo { node_id, addresses: vec![host], grpc_port, last_seen: None }
        });
        let answer = v1::GetPeersResponse { peers: peers.collect(), system_version };
        Ok(call.answer(GroupId::SYSTEM, answer))
    }

    pub(super) fn system_state(
        &self,
        request: Request<v1::GetSystemStateRequest>,
    ) -> Result<Response<v1::GetSystemStateResponse>, Failure> {
        let call = Call::begin(&self.slot, request.metadata())?;
        // Read first: what is read after it may be newer and is told again then.
        let version = call.context.directory.revision();
        let mut answer = v1::GetSystemStateResponse { version, ..Default::default() };
        if version <= request.get_ref().if_version_greater_than {
            return Ok(call.answer(GroupId::SYSTEM, answer));
        }
        let system = call.context.directory.current().shard(GroupId::SYSTEM);
        let nodes = members_of_cluster(&call.context);
        answer.nodes = nodes.iter().map(|node| wire_node(system.as_deref(), node)).collect();
        let first = NamespaceId(0);
        let namespaces = namespaces_to_list(&call.context, false, first, PAGE_ITEMS_MAX + 1);
        if namespaces.len() > PAGE_ITEMS_MAX {
            let max = PAGE_ITEMS_MAX as u64;
            return Err(Failure::AnswerTooLarge { limit: "page_items_max", max });
        }
        let namespaces = namespaces.iter().map(|one| registry(wire_namespace(&call.context, one)));
        answer.namespaces = namespaces.collect();
        if answer.encoded_len() > WHOLE_ANSWER_BYTES_MAX {
            let max = WHOLE_ANSWER_BYTES_MAX as u64;
            return Err(Failure::AnswerTooLarge { limit: "unpaged_bytes_max", max });
        }
        Ok(call.answer(GroupId::SYSTEM, answer))
    }
}

/// Every node that was not taken out, by number.
fn members_of_cluster(context: &NodeContext) -> Vec<std::sync::Arc<NodeEntity>> {
    let mut nodes = context.directory.current().nodes();
    nodes.retain(|node| node.state != NodeState::Removed);
    nodes
}

/// Term and leader of the directory's group, as far as this node knows.
fn system_leader(context: &NodeContext) -> (u64, Option<NodeId>) {
    match context.shard.leader(GroupId::SYSTEM) {
        Some((_, term, Some(leader))) => (term, Some(leader)),
        Some((_, term, None)) => (term, context.leaders.leader(GroupId::SYSTEM)),
        None => match context.leaders.get(GroupId::SYSTEM) {
            Some(hint) => (hint.term, hint.leader),
            None => (0, None),
        },
    }
}

/// Whether a node votes in the directory's group. All others follow the directory without a vote.
fn votes(system: Option<&ShardEntity>, node: NodeId) -> bool {
    let replica = system.and_then(|system| system.replica_on(node));
    replica.is_some_and(|replica| replica.role == ReplicaRole::Voter)
}

fn wire_node(system: Option<&ShardEntity>, node: &NodeEntity) -> v1::NodeInfo {
    let (host, grpc_port) = host_and_port(&node.address);
    let role = match votes(system, node.id) {
        true => v1::NodeRole::Voter,
        false => v1::NodeRole::Learner,
    };
    v1::NodeInfo {
        node_id: Some(v1::NodeId { id: node.name.clone() }),
        addresses: vec![host],
        grpc_port,
        role: role.into(),
        last_heartbeat: None,
        joined_at: None,
    }
}

fn registry(namespace: v1::GetNamespaceResponse) -> v1::NamespaceRegistry {
    v1::NamespaceRegistry {
        namespace_id: namespace.namespace_id,
        name: namespace.name,
        shard_id: namespace.shard_id,
        members: namespace.member_nodes,
        status: namespace.status,
        config_version: namespace.config_version,
        created_at: namespace.created_at,
    }
}

/// Host and port of `host:port`; the brackets of an IPv6 address are left out.
fn host_and_port(address: &str) -> (String, u32) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (host.to_owned(), port.parse::<u16>().map_or(0, u32::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        for (address, host, port) in [
            ("10.0.0.4:50051", "10.0.0.4", 50_051),
            ("[fd00::1]:7", "fd00::1", 7),
            ("ledger-0.ledger.svc:50051", "ledger-0.ledger.svc", 50_051),
            ("nowhere", "nowhere", 0),
            ("host:99999", "host", 0),
        ] {
            assert_eq!(host_and_port(address), (host.to_owned(), port), "{address}");
        }
    }
}
