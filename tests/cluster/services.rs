//! Services that tools ask first: health, reflection, limits, probes, status.

use std::collections::BTreeSet;

use ledger_proto::v1;
use ledger_proto::v1::health_service_client::HealthServiceClient;
use ledger_types::VaultRef;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1 as reflection, v1alpha};

use super::harness::{Cluster, Node, metric, why, wire};

const SERVICES: [&str; 8] = [
    "grpc.health.v1.Health",
    "ledger.v1.AdminService",
    "ledger.v1.HealthService",
    "ledger.v1.Ledger",
    "ledger.v1.ReadService",
    "ledger.v1.SystemDiscoveryService",
    "ledger.v1.WriteService",
    "grpc.reflection.v1.ServerReflection",
];

async fn health_is_told_twice(node: &Node, vault: VaultRef) {
    let mut standard = HealthClient::new(node.channel.clone());
    for service in ["", "liveness", "ledger.v1.Ledger"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = standard.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = HealthCheckRequest { service: "ledger.v1.Nothing".to_owned() };
    assert_eq!(standard.check(unknown).await.unwrap_err().code(), Code::NotFound);

    let mut published = HealthServiceClient::new(node.channel.clone());
    let answer = published.check(v1::HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer.status(), v1::HealthStatus::Healthy, "{answer:?}");
    let (namespace_id, vault_id) = wire(vault);
    let request = v1::HealthCheckRequest { namespace_id, vault_id };
    let answer = published.check(request).await.unwrap().into_inner();
    assert_eq!(answer.status(), v1::HealthStatus::Healthy, "{answer:?}");
    let unknown = v1::HealthCheckRequest {
        namespace_id: Some(v1::NamespaceId { id: 4_711 }),
        vault_id: Some(v1::VaultId { id: 1 }),
    };
    let status = published.check(unknown).await.unwrap_err();
    assert_eq!(why(&status), (Code::NotFound, "NAMESPACE_NOT_FOUND".to_owned()), "{status:?}");
}

async fn reflected(node: &Node) -> BTreeSet<String> {
    use reflection::server_reflection_request::MessageRequest;
    use reflection::server_reflection_response::MessageResponse;
    let mut client =
        reflection::server_reflection_client::ServerReflectionClient::new(node.channel.clone());
    let request = reflection::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}")
    };
    list.service.into_iter().map(|service| service.name).collect()
}

async fn reflected_by_older_tools(node: &Node) -> BTreeSet<String> {
    use v1alpha::server_reflection_request::MessageRequest;
    use v1alpha::server_reflection_response::MessageResponse;
    let mut client =
        v1alpha::server_reflection_client::ServerReflectionClient::new(node.channel.clone());
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}")
    };
    list.service.into_iter().map(|service| service.name).collect()
}

async fn limits_are_told(node: &Node) {
    let info = node.ledger().get_server_info(v1::GetServerInfoRequest {}).await;
    let info = info.unwrap().into_inner();
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    let limits = info.limits.expect("limits are told");
    assert_eq!(limits.request_bytes_max, 8 * 1024 * 1024);
    assert_eq!((limits.key_bytes_max, limits.value_bytes_max), (1024, 1024 * 1024));
    assert_eq!((limits.operations_max, limits.page_items_max), (10_000, 10_000));
    assert_eq!((limits.page_items_default, limits.keys_per_read_max), (100, 1_000));
    assert_eq!(limits.deadline_ms_max, 60_000);
    assert_eq!(info.namespace_operations_per_second, 200_000);
    assert_eq!(info.in_flight_bytes_max, 32 * 1024 * 1024);
}

async fn status_names_the_cluster(cluster: &Cluster) {
    let mut names = BTreeSet::new();
    let mut stores = BTreeSet::new();
    let mut led = BTreeSet::new();
    let mut groups = BTreeSet::new();
    for (number, node) in cluster.nodes().iter().enumerate() {
        let status = node.status().await.unwrap();
        let summary = status.node.unwrap();
        assert_eq!(summary.grpc_address, cluster.servers[number].address());
        assert_eq!(summary.state(), v1::NodeState::Ready);
        assert_eq!(summary.cluster_domain, "test.ledger");
        assert_eq!(status.nodes.len(), 3);
        assert!(status.nodes.iter().all(|node| node.reachable), "{:?}", status.nodes);
        let all: Vec<v1::GroupStatus> = status.system.into_iter().chain(status.groups).collect();
        assert_eq!(summary.groups_count as usize, all.len());
        for group in all {
            assert_eq!(group.voters.len(), 3, "{group:?}");
            groups.insert(group.group);
            if group.role() == v1::ReplicaRole::Leader {
                led.insert(group.group);
            }
        }
        names.insert(summary.name);
        stores.insert(summary.store_id);
    }
    assert_eq!((names.len(), stores.len()), (3, 3));
    assert_eq!(groups.len(), 9, "the directory and eight data shards");
    assert_eq!(led, groups, "every group has a leader");
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_find_health_reflection_limits_and_status() {
    let cluster = Cluster::start_with(3, &[("LEDGER_CLUSTER_DOMAIN", "test.ledger")]).await;
    let vault = cluster.vaults("services", 1).await[0];
    for node in cluster.nodes() {
        super::harness::eventually("every group has a leader", || async {
            let request = v1::HealthCheckRequest::default();
            let mut client = HealthServiceClient::new(node.channel.clone());
            let answer = client.check(request).await.map_err(|status| status.to_string())?;
            let answer = answer.into_inner();
            let healthy = answer.status() == v1::HealthStatus::Healthy;
            if healthy { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
        health_is_told_twice(&node, vault).await;
        let (found, older) = (reflected(&node).await, reflected_by_older_tools(&node).await);
        for service in SERVICES {
            assert!(found.contains(service), "{service} is not in {found:?}");
        }
        assert!(older.contains("ledger.v1.WriteService"), "{older:?}");
        assert!(!found.iter().any(|name| name.starts_with("ledger.internal")), "{found:?}");
        limits_are_told(&node).await;
    }
    status_names_the_cluster(&cluster).await;
    for server in &cluster.servers {
        let (status, text) = server.http_get("/livez?verbose").await.unwrap();
        assert!(status == 200 && text.contains("[+] driver: ok"), "{text}");
        let (status, text) = server.http_get("/readyz?verbose").await.unwrap();
        assert!(status == 200 && text.contains("[+] joined: ok"), "{text}");
        assert_eq!(server.http_get("/nothing").await.unwrap().0, 404);
        let (_, text) = server.http_get("/metrics").await.unwrap();
        assert_eq!(metric(&text, "ledger_ready"), Some(1.0));
        for name in ["ledger_raft_term", "ledger_raft_commit_index", "ledger_raft_applied_index"] {
            assert!(metric(&text, &format!("{name}{{group=\"0\"}}")).is_some(), "{name}");
        }
        for name in ["ledger_blocks_total", "ledger_storage_bytes"] {
            assert!(metric(&text, name).is_some_and(|value| value > 0.0), "{name}");
        }
        assert!(metric(&text, "vault_health{state=\"diverged\"}").is_some());
    }
}
