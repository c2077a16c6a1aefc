//! What nodes tell of the cluster, and what they find in their own replicas.

use std::collections::BTreeSet;

use ledger::demo::replicas::wait_level;
use ledger_proto::v1;
use ledger_proto::v1::system_discovery_service_client::SystemDiscoveryServiceClient;
use ledger_shard::rows::block_body_key;
use ledger_shard::{Family, LiveView, RowWrite, StateView as _, Store, StoreConfig};
use ledger_types::VaultRef;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::harness::{Cluster, Node, WAIT_MAX, eventually, grant, set, why, wire, write_request};

fn discovery(node: &Node) -> SystemDiscoveryServiceClient<Channel> {
    SystemDiscoveryServiceClient::new(node.channel.clone())
}

async fn info(node: &Node) -> Result<v1::GetClusterInfoResponse, Status> {
    Ok(node.admin().get_cluster_info(v1::GetClusterInfoRequest {}).await?.into_inner())
}

/// Members, leader and term as every node tells them, once all tell the same.
async fn agreed(nodes: &[Node]) -> v1::GetClusterInfoResponse {
    eventually("all nodes tell the same of the cluster", || async {
        let mut told = Vec::new();
        for node in nodes {
            told.push(info(node).await.map_err(|status| status.to_string())?);
        }
        let first = told[0].clone();
        let same = told.iter().all(|one| *one == first) && first.leader_id != 0;
        if same { Ok(first) } else { Err(format!("{told:?}")) }
    })
    .await
}

async fn peers_are_told(node: &Node, addresses: &BTreeSet<String>) {
    let ask = |max_peers| async move {
        let request = v1::GetPeersRequest { max_peers };
        discovery(node).get_peers(request).await.unwrap().into_inner()
    };
    let all = ask(0).await;
    let told = all.peers.iter().map(|peer| format!("{}:{}", peer.addresses[0], peer.grpc_port));
    assert_eq!(told.collect::<BTreeSet<_>>(), *addresses);
    let names: BTreeSet<&str> =
        all.peers.iter().map(|peer| peer.node_id.as_ref().unwrap().id.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["0", "1", "2"]));
    assert!(all.system_version > 0);
    assert_eq!(ask(2).await.peers, all.peers[..2]);
}

async fn state_is_told_once(node: &Node) {
    let ask = |if_version_greater_than| async move {
        let request = v1::GetSystemStateRequest { if_version_greater_than };
        discovery(node).get_system_state(request).await.unwrap().into_inner()
    };
    let state = ask(0).await;
    assert_eq!(state.nodes.len(), 3);
    assert!(state.nodes.iter().all(|one| one.role() == v1::NodeRole::Voter), "{state:?}");
    let names: Vec<&str> = state.namespaces.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["members"]);
    let (namespace, shard) = (&state.namespaces[0], state.namespaces[0].shard_id);
    assert_eq!((namespace.status(), namespace.members.len()), (v1::NamespaceStatus::Active, 3));
    assert!(shard.is_some_and(|shard| (1..=8).contains(&shard.id)), "{state:?}");
    let same = ask(state.version).await;
    let nothing = v1::GetSystemStateResponse { version: state.version, ..Default::default() };
    assert_eq!(same, nothing);
    assert_eq!(ask(state.version - 1).await, state);
}

/// The shard of a namespace is that of its vault 0, and its first block names it.
async fn a_namespace_is_on_the_shard_of_its_own_entities(node: &Node, vault: VaultRef) {
    let (namespace_id, vault_id) = wire(VaultRef::new(vault.namespace.0, 0));
    let lookup = v1::get_namespace_request::Lookup::NamespaceId(namespace_id.unwrap());
    let request = v1::GetNamespaceRequest { lookup: Some(lookup) };
    let told = node.admin().get_namespace(request).await.unwrap().into_inner();
    let request = v1::GetBlockRequest { namespace_id, vault_id, height: 0 };
    let block = node.reads().get_block(request).await.unwrap().into_inner().block.unwrap();
    let header = block.header.unwrap();
    let genesis = ledger_proto::convert::block::header(&header).unwrap();
    assert_eq!(u64::from(told.shard_id.unwrap().id), genesis.shard);
}

async fn replication_is_the_clusters(node: &Node, vault: VaultRef) {
    let create = |replication_factor, initial_nodes| async move {
        let request = v1::CreateVaultRequest {
            namespace_id: Some(vault.namespace.into()),
            replication_factor,
            initial_nodes,
            ..Default::default()
        };
        node.admin().create_vault(request).await
    };
    let field = |status: &Status| {
        assert_eq!(why(status), (Code::InvalidArgument, "INVALID_ARGUMENT".to_owned()));
        let details = tonic_types::StatusExt::get_details_bad_request(status).unwrap();
        details.field_violations[0].field.clone()
    };
    assert!(create(3, Vec::new()).await.is_ok());
    let refused = create(5, Vec::new()).await.unwrap_err();
    assert_eq!(field(&refused), "replication_factor", "{refused:?}");
    let refused = create(0, vec![v1::NodeId { id: "0".to_owned() }]).await.unwrap_err();
    assert_eq!(field(&refused), "initial_nodes", "{refused:?}");
}

async fn other_means_are_named(node: &Node) {
    let peer = discovery(node).announce_peer(v1::AnnouncePeerRequest::default()).await;
    let join = node.admin().join_cluster(v1::JoinClusterRequest::default()).await;
    let leave = node.admin().leave_cluster(v1::LeaveClusterRequest::default()).await;
    let recover = node.admin().recover_vault(v1::RecoverVaultRequest::default()).await;
    let diverge = node.admin().simulate_divergence(v1::SimulateDivergenceRequest::default()).await;
    for status in [
        peer.unwrap_err(),
        join.unwrap_err(),
        leave.unwrap_err(),
        recover.unwrap_err(),
        diverge.unwrap_err(),
    ] {
        let expected = (Code::Unimplemented, "NOT_OFFERED".to_owned());
        assert_eq!(why(&status), expected, "{status:?}");
    }
}

async fn check(node: &Node, vault: VaultRef, full_check: bool) -> v1::CheckIntegrityResponse {
    let (namespace_id, vault_id) = wire(vault);
    let request = v1::CheckIntegrityRequest { namespace_id, vault_id, full_check };
    node.admin().check_integrity(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_tell_who_is_in_the_cluster() {
    let cluster = Cluster::start(3).await;
    let (nodes, vault) = (cluster.nodes(), cluster.vaults("members", 1).await[0]);
    let told = agreed(&nodes).await;
    let addresses: BTreeSet<String> = cluster.addresses().into_iter().collect();
    assert_eq!(
        told.members.iter().map(|one| one.address.clone()).collect::<BTreeSet<_>>(),
        addresses
    );
    assert!(told.members.iter().all(|one| one.role() == v1::ClusterMemberRole::Voter), "{told:?}");
    let leaders: Vec<u64> =
        told.members.iter().filter(|one| one.is_leader).map(|one| one.node_id).collect();
    assert_eq!(leaders, [told.leader_id]);
    wait_level(&cluster.replicas(), &[vault], WAIT_MAX).await.unwrap();
    for (number, node) in nodes.iter().enumerate() {
        let request = v1::GetNodeInfoRequest {};
        let own = node.admin().get_node_info(request).await.unwrap().into_inner();
        assert_eq!(own.address, cluster.servers[number].address());
        assert!(own.is_cluster_member && own.term == told.term, "{own:?}");
        assert!(
            told.members
                .iter()
                .any(|one| (one.node_id, &one.address) == (own.node_id, &own.address))
        );
        peers_are_told(node, &addresses).await;
        eventually("the node knows of the namespace", || async {
            let request = v1::GetSystemStateRequest::default();
            let state = discovery(node).get_system_state(request).await.unwrap().into_inner();
            if state.namespaces.len() == 1 { Ok(()) } else { Err(state) }
        })
        .await;
        state_is_told_once(node).await;
        a_namespace_is_on_the_shard_of_its_own_entities(node, vault).await;
        other_means_are_named(node).await;
    }
    for node in &nodes {
        replication_is_the_clusters(node, vault).await;
    }
}

/// Changes what a block is stored to have held, on the disk of a node that is down.
fn spoil_body(cluster: &Cluster, number: usize, vault: VaultRef, height: u64) {
    let data_dir = &cluster.servers[number].spec().data_dir;
    let store = Store::open(data_dir, None, &StoreConfig::default()).unwrap();
    let key = block_body_key(vault, height);
    let body = LiveView::new(&store).get(Family::Blocks, &key).unwrap();
    let mut body = body.expect("the body is there");
    *body.last_mut().unwrap() ^= 1;
    store.write(&[RowWrite { family: Family::Blocks, key, value: Some(body) }]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_replica_finds_what_is_wrong_with_it() {
    let mut cluster = Cluster::start(3).await;
    let vault = cluster.vaults("checked", 1).await[0];
    for number in 0..30 {
        let name = format!("key/{number}");
        let operations = vec![set(&name, b"1"), grant(&name, "viewer", "user:ann")];
        let write = write_request(vault, operations);
        cluster.node(number % 3).writes().write(write).await.unwrap();
    }
    wait_level(&cluster.replicas(), &[vault], WAIT_MAX).await.unwrap();
    for (number, node) in cluster.nodes().iter().enumerate() {
        for full in [false, true] {
            let told = check(node, vault, full).await;
            let expected = v1::CheckIntegrityResponse {
                healthy: true,
                issues: Vec::new(),
                node_id: Some(v1::NodeId { id: number.to_string() }),
                block_height: 30,
            };
            assert_eq!(told, expected);
        }
        let told = check(node, VaultRef::SYSTEM, true).await;
        assert!(told.healthy, "the directory is a vault too: {told:?}");
    }
    cluster.servers[2].stop().await.unwrap();
    spoil_body(&cluster, 2, vault, 7);
    cluster.resume(2).await;
    let told = check(&cluster.node(2), vault, false).await;
    let issues: Vec<(u64, &str)> =
        told.issues.iter().map(|issue| (issue.block_height, issue.issue_type.as_str())).collect();
    assert_eq!((told.healthy, issues), (false, vec![(7, "body")]), "{told:?}");
    assert!(check(&cluster.node(1), vault, true).await.healthy, "the others are as they should be");
    let (namespace_id, vault_id) = wire(VaultRef::new(vault.namespace.0, 99));
    let request = v1::CheckIntegrityRequest { namespace_id, vault_id, full_check: false };
    let status = cluster.node(0).admin().check_integrity(request).await.unwrap_err();
    assert_eq!(why(&status), (Code::NotFound, "VAULT_NOT_FOUND".to_owned()), "{status:?}");
}
