//! `GetStatus`: how the node and its groups are.
//!
//! Owns what is told, the directory's group on top and the others in pages. Must never need another node's
//! help: a node in trouble must still tell.

use std::time::Duration;

use ledger_proof::system_entity::ReplicaRole as EntityRole;
use ledger_proto::convert::reads;
use ledger_proto::v1;
use ledger_shard::{ConfState, GroupStatus, MemberProgress, Role, SnapshotPhase};
use ledger_types::{ClusterId, GroupId, NodeId};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::{Request, Response};

use super::Edge;
use super::deadline::Deadline;
use super::page_token::{PageCursor, PageTokens, Query};
use super::slot::Stage;
use super::status::Failure;
use super::vaults::vault_count;
use crate::context::NodeContext;

/// How long a connection to another node may take to count as reachable.
const CONNECT_TIME_MAX: Duration = Duration::from_millis(250);
/// Nodes whose reachability is tried for one request.
const NODES_TRIED_MAX: usize = 64;

impl Edge {
    /// Answers in every stage of the node's life.
    pub(super) async fn status_report(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        Deadline::of(&metadata)?;
        let items_max = reads::page_items("page_size", message.page_size.unwrap_or(0))?;
        let node = Some(self.node_summary());
        let Some(context) = self.slot.peek() else {
            return Ok(Response::new(v1::GetStatusResponse { node, ..Default::default() }));
        };
        let tokens = PageTokens::new(ClusterId(context.identity.store.0));
        let query = Query::new("GetStatus");
        let after = match message.page_token.as_deref() {
            None | Some("") => GroupId::SYSTEM,
            Some(token) => {
                let last = tokens.open(&query, token)?.after.try_into();
                GroupId(u64::from_be_bytes(last.map_err(|_| Failure::PageToken)?))
            }
        };
        let statuses = context.shard.statuses();
        let system = statuses.iter().find(|status| status.group == GroupId::SYSTEM);
        let mut page = statuses.iter().filter(|status| status.group > after);
        let groups: Vec<v1::GroupStatus> =
            page.by_ref().take(items_max).map(|status| wire_group(context, status)).collect();
        let next_page_token = match (groups.last(), page.next()) {
            (Some(last), Some(_)) => {
                let after = last.group.to_be_bytes().to_vec();
                tokens.seal(&query, &PageCursor { height: 0, time_seconds: 0, after })
            }
            _ => String::new(),
        };
        Ok(Response::new(v1::GetStatusResponse {
            node,
            system: system.map(|status| wire_group(context, status)),
            groups,
            next_page_token,
            nodes: known_nodes(context).await,
        }))
    }

    fn node_summary(&self) -> v1::NodeSummary {
        let state = match self.slot.stage() {
            Stage::Starting => v1::NodeState::Starting,
            Stage::Bootstrapping => v1::NodeState::Bootstrapping,
            Stage::Ready => v1::NodeState::Ready,
            Stage::Draining => v1::NodeState::Draining,
            Stage::Stopping => v1::NodeState::Stopping,
        };
        let mut summary = v1::NodeSummary {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: state.into(),
            ..v1::NodeSummary::default()
        };
        let Some(context) = self.slot.peek() else {
            let local = self.peers.local();
            summary.name = local.name.clone();
            summary.grpc_address = local.address.clone();
            summary.store_id = local.store.to_string();
            return summary;
        };
        let identity = &context.identity;
        let statuses = context.shard.statuses();
        let led = statuses.iter().filter(|status| status.role == Role::Leader).count();
        summary.node_id = identity.node.0;
        summary.name = identity.name.clone();
        summary.cluster_id = identity.cluster.to_string();
        summary.uptime_seconds = context.started.elapsed().as_secs();
        summary.leaders_count = led as u64;
        summary.groups_count = statuses.len() as u64;
        summary.http_address = context.config.http_addr.to_string();
        summary.grpc_address = identity.advertise_addr.clone();
        summary.store_id = identity.store.to_string();
        summary.cluster_domain = identity.domain.clone();
        summary
    }
}

fn wire_group(context: &NodeContext, status: &GroupStatus) -> v1::GroupStatus {
    let is_voter = status.voters.contains(&status.incarnation.0);
    let role = match status.role {
        Role::Leader => v1::ReplicaRole::Leader,
        Role::Candidate => v1::ReplicaRole::Candidate,
        Role::Follower if is_voter => v1::ReplicaRole::Follower,
        Role::Follower => v1::ReplicaRole::Learner,
    };
    let voters = status.replicas.iter().filter(|one| status.voters.contains(&one.incarnation.0));
    let leader_address = status.leader.and_then(|node| {
        let own = (node == context.identity.node).then(|| context.identity.advertise_addr.clone());
        own.or_else(|| context.directory.address(node))
    });
    v1::GroupStatus {
        group: status.group.0,
        incarnation: status.incarnation.0,
        role: role.into(),
        term: status.term,
        leader_node_id: status.leader.map_or(0, |node| node.0),
        leader_address: leader_address.unwrap_or_default(),
        commit_index: status.commit,
        applied_index: status.applied,
        last_index: status.last_index,
        voters: voters.map(|one| one.node.0).collect(),
        vaults_count: vault_count(context, status.group),
        learners: learners(context, status.group),
        hibernated: false,
        first_index: status.first_index,
        log_bytes: status.log_bytes,
        oldest_entry_age_seconds: age_seconds(context.shard.now().wall_ns, status.oldest_entry_ns),
        is_asleep: status.is_asleep,
        snapshot_phase: wire_phase(status.snapshot).into(),
        configuration: Some(wire_configuration(&status.conf_state)),
        members: status.members.iter().map(|one| wire_member(one, status.last_index)).collect(),
    }
}

/// Whole seconds since a moment, 0 for none; both in Unix nanoseconds.
pub(crate) fn age_seconds(now_ns: u64, since_ns: u64) -> u64 {
    if since_ns == 0 { 0 } else { now_ns.saturating_sub(since_ns) / 1_000_000_000 }
}

fn wire_phase(phase: SnapshotPhase) -> v1::SnapshotPhase {
    match phase {
        SnapshotPhase::None => v1::SnapshotPhase::None,
        SnapshotPhase::Fetching => v1::SnapshotPhase::Fetching,
        SnapshotPhase::Installing => v1::SnapshotPhase::Installing,
    }
}

fn wire_configuration(conf: &ConfState) -> v1::Configuration {
    v1::Configuration {
        voters: conf.voters.clone(),
        learners: conf.learners.clone(),
        voters_outgoing: conf.voters_outgoing.clone(),
        learners_next: conf.learners_next.clone(),
    }
}

fn wire_member(member: &MemberProgress, last_index: u64) -> v1::MemberStatus {
    v1::MemberStatus {
        node_id: member.replica.node.0,
        incarnation: member.replica.incarnation.0,
        matched_index: member.matched,
        lag_entries: last_index.saturating_sub(member.matched),
        is_active: member.is_active,
        snapshot_index: member.snapshot_index,
    }
}

/// Nodes that the directory lists as following the group without a vote.
fn learners(context: &NodeContext, group: GroupId) -> Vec<u64> {
    let shard = context.directory.current().shard(group);
    let replicas = shard.iter().flat_map(|shard| &shard.replicas);
    let learners = replicas.filter(|replica| replica.role == EntityRole::Learner);
    learners.map(|replica| replica.node.0).collect()
}

/// Every node of the directory, and whether a connection to it can be made now.
async fn known_nodes(context: &NodeContext) -> Vec<v1::KnownNode> {
    let nodes = context.directory.current().nodes();
    let mut tries = JoinSet::new();
    for node in nodes.iter().take(NODES_TRIED_MAX) {
        let (id, address) = (node.id, node.address.clone());
        if id != context.identity.node {
            tries.spawn(async move { (id, can_connect(&address).await) });
        }
    }
    let tried = tries.join_all().await;
    let is_reachable = |id: NodeId| {
        id == context.identity.node || tried.iter().any(|(node, reached)| *node == id && *reached)
    };
    let told = nodes.iter().map(|node| v1::KnownNode {
        node_id: node.id.0,
        name: node.name.clone(),
        address: node.address.clone(),
        zone: node.zone.clone(),
        reachable: is_reachable(node.id),
    });
    told.collect()
}

async fn can_connect(address: &str) -> bool {
    let connecting = tokio::time::timeout(CONNECT_TIME_MAX, TcpStream::connect(address));
    matches!(connecting.await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use ledger_shard::Replica;
    use ledger_types::Incarnation;

    use super::*;

    #[test]
    fn a_member_is_told_with_what_it_lacks() {
        let replica = Replica { incarnation: Incarnation(1001), node: NodeId(4) };
        let member = MemberProgress { replica, matched: 90, is_active: true, snapshot_index: 80 };
        let told = wire_member(&member, 100);
        assert_eq!((told.node_id, told.incarnation, told.matched_index), (4, 1001, 90));
        assert_eq!((told.lag_entries, told.is_active, told.snapshot_index), (10, true, 80));
        // The last index is read a moment earlier and may be the smaller one.
        assert_eq!(wire_member(&member, 80).lag_entries, 0);
    }

    #[test]
    fn a_change_of_members_shows_both_sets() {
        let (voters, voters_outgoing) = (vec![2, 3, 1001], vec![1, 2, 3]);
        let (learners, learners_next) = (vec![1002], vec![1]);
        let conf = ConfState { voters, learners, voters_outgoing, learners_next };
        let told = wire_configuration(&conf);
        assert_eq!((told.voters, told.learners), (conf.voters, conf.learners));
        assert_eq!(told.voters_outgoing, conf.voters_outgoing);
        assert_eq!(told.learners_next, conf.learners_next);
    }

    #[test]
    fn an_age_is_whole_seconds_and_never_negative() {
        assert_eq!(age_seconds(10_999_999_999, 1_000_000_000), 9);
        assert_eq!(age_seconds(10, 0), 0);
        assert_eq!(age_seconds(10, 20), 0);
    }
}
