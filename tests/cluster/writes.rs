//! Writing and reading through any node.

use std::collections::BTreeSet;

use ledger_proto::v1;
use ledger_proto::v1::set_condition::Condition;
use ledger_proto::v1::write_service_client::WriteServiceClient;
use ledger_types::VaultRef;
use tokio::task::JoinSet;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::harness::{Cluster, Node, grant, set, set_if, why, wire, write_request};

const VAULTS: usize = 6;
const ROUNDS: usize = 20;

fn success(answer: v1::WriteResponse) -> v1::WriteSuccess {
    match answer.result {
        Some(v1::write_response::Result::Success(success)) => success,
        other => panic!("{other:?}"),
    }
}

fn refusal(answer: v1::WriteResponse) -> v1::WriteError {
    match answer.result {
        Some(v1::write_response::Result::Error(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// Each acknowledged write shows at once through every node, whichever node took it.
async fn write_here_read_everywhere(nodes: &[Node], vaults: &[VaultRef]) {
    let mut writers = JoinSet::new();
    for (number, &vault) in vaults.iter().enumerate() {
        let nodes = nodes.to_vec();
        writers.spawn(async move {
            let mut height = 0;
            for round in 0..ROUNDS {
                let value = format!("{round}").into_bytes();
                let through = &nodes[(number + round) % nodes.len()];
                let written = through.put(vault, "shared", &value).await.unwrap();
                assert!(written > height, "heights of one vault rise: {written} after {height}");
                height = written;
                for node in &nodes {
                    let read = node.read(vault, "shared").await.unwrap();
                    assert_eq!(read.as_deref(), Some(&value[..]), "vault {vault}, round {round}");
                }
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
}

async fn conditions_see_the_state(node: &Node, vault: VaultRef) {
    let write = |operation| node.clone().write_one(vault, operation);
    let created = success(write(set_if("c", b"1", Some(Condition::NotExists(true)))).await);
    assert_eq!(created.operation_outcomes, [v1::OperationOutcome::Created as i32]);
    let height = created.block_height;
    let updated = success(write(set_if("c", b"2", Some(Condition::Version(height)))).await);
    assert_eq!(updated.operation_outcomes, [v1::OperationOutcome::Updated as i32]);
    success(write(set_if("c", b"3", Some(Condition::ValueEquals(b"2".to_vec())))).await);
    success(write(set_if("c", b"4", Some(Condition::MustExists(true)))).await);
    let stale = refusal(write(set_if("c", b"5", Some(Condition::Version(height)))).await);
    assert_eq!(stale.code(), v1::WriteErrorCode::VersionMismatch);
    assert_eq!((stale.key.as_str(), stale.current_value.as_deref()), ("c", Some(&b"4"[..])));
}

impl Node {
    async fn write_one(self, vault: VaultRef, operation: v1::Operation) -> v1::WriteResponse {
        self.writes().write(write_request(vault, vec![operation])).await.unwrap().into_inner()
    }
}

/// All operations of a batch happen, in one block, or none do.
async fn batches_are_whole(node: &Node, vault: VaultRef) {
    let (namespace_id, vault_id) = wire(vault);
    let batch = |parts: Vec<Vec<v1::Operation>>| v1::BatchWriteRequest {
        namespace_id,
        vault_id,
        client_id: Some(v1::ClientId { id: "batches".to_owned() }),
        idempotency_key: rand::random::<[u8; 16]>().to_vec(),
        operations: parts
            .into_iter()
            .map(|operations| v1::BatchWriteOperation { operations })
            .collect(),
        include_tx_proofs: true,
        sequence: None,
    };
    let parts = vec![
        vec![set("b/1", b"x"), grant("doc:1", "viewer", "user:a")],
        vec![grant("doc:1", "viewer", "user:a")],
    ];
    let answer = node.writes().batch_write(batch(parts)).await.unwrap().into_inner();
    let Some(v1::batch_write_response::Result::Success(success)) = answer.result else {
        panic!("{answer:?}")
    };
    let outcomes: Vec<v1::OperationOutcome> = success.operation_outcomes().collect();
    use v1::OperationOutcome::{AlreadyExists, Created};
    assert_eq!(outcomes, [Created, Created, AlreadyExists]);
    let header = success.block_header.expect("asked for");
    assert_eq!(header.height, success.block_height);
    assert_eq!(header.canonical.len(), 200);

    let parts =
        vec![vec![set("b/2", b"x")], vec![set_if("b/1", b"y", Some(Condition::NotExists(true)))]];
    let answer = node.writes().batch_write(batch(parts)).await.unwrap().into_inner();
    let Some(v1::batch_write_response::Result::Error(error)) = answer.result else {
        panic!("{answer:?}")
    };
    assert_eq!((error.code(), error.key.as_str()), (v1::WriteErrorCode::KeyExists, "b/1"));
    assert_eq!(node.read(vault, "b/2").await.unwrap(), None);
}

/// Pages of a list fit together, on every node, at one height.
async fn lists_are_whole(nodes: &[Node], vault: VaultRef) {
    let keys: BTreeSet<String> = (0..250).map(|number| format!("list/{number:04}")).collect();
    let operations = keys.iter().map(|key| set(key, key.as_bytes())).collect();
    nodes[0].writes().write(write_request(vault, operations)).await.unwrap();
    for node in nodes {
        let (namespace_id, vault_id) = wire(vault);
        let mut request = v1::ListEntitiesRequest {
            namespace_id,
            vault_id,
            key_prefix: "list/".to_owned(),
            limit: 60,
            consistency: v1::ReadConsistency::Linearizable.into(),
            ..v1::ListEntitiesRequest::default()
        };
        let mut seen = Vec::new();
        let mut heights = BTreeSet::new();
        loop {
            let page = node.reads().list_entities(request.clone()).await.unwrap().into_inner();
            assert!(page.entities.len() <= 60);
            heights.insert(page.block_height);
            seen.extend(page.entities.into_iter().map(|entity| entity.key));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
            // What is written between two pages belongs to a later height.
            let between = format!("list/{}x", seen.last().unwrap());
            node.put(vault, &between, b"").await.unwrap();
        }
        assert!(seen.iter().eq(keys.iter()), "{} of {} keys", seen.len(), keys.len());
        assert_eq!(heights.len(), 1, "one list, one height");
        let delete = |key: &str| v1::Operation {
            op: Some(v1::operation::Op::DeleteEntity(v1::DeleteEntity { key: key.to_owned() })),
        };
        let (namespace_id, vault_id) = wire(vault);
        let rest = v1::ListEntitiesRequest {
            namespace_id,
            vault_id,
            key_prefix: "list/list".to_owned(),
            consistency: v1::ReadConsistency::Linearizable.into(),
            ..v1::ListEntitiesRequest::default()
        };
        let rest = node.reads().list_entities(rest).await.unwrap().into_inner().entities;
        assert!(!rest.is_empty(), "keys were written between pages");
        let deletes = rest.iter().map(|entity| delete(&entity.key)).collect();
        node.writes().write(write_request(vault, deletes)).await.unwrap();
    }
}

/// A watch that begins in the past shows every block once and goes on with new ones.
async fn watches_miss_nothing(nodes: &[Node], vault: VaultRef) {
    let (namespace_id, vault_id) = wire(vault);
    let tip = v1::GetTipRequest { namespace_id, vault_id };
    let tip = nodes[0].reads().get_tip(tip).await.unwrap().into_inner().height;
    let mut streams = Vec::new();
    for node in nodes {
        let request = v1::WatchBlocksRequest { namespace_id, vault_id, start_height: 1 };
        streams.push(node.reads().watch_blocks(request).await.unwrap().into_inner());
    }
    for number in 0..10 {
        nodes[number % nodes.len()].put(vault, "watched", &[number as u8]).await.unwrap();
    }
    for stream in &mut streams {
        for height in 1..=tip + 10 {
            let announced = stream.message().await.unwrap().expect("the stream lives on");
            assert_eq!(announced.height, height);
        }
    }
}

/// A request that was forwarded once is answered by the leader and refused, with the way there, by others.
async fn nothing_is_forwarded_twice(cluster: &Cluster, vault: VaultRef) {
    let mut led_by = BTreeSet::new();
    let mut hints = BTreeSet::new();
    for (server, replica) in cluster.servers.iter().zip(cluster.replicas()) {
        let mut writes = WriteServiceClient::new(replica.channel());
        match writes.write(write_request(vault, vec![set("forwarded", b"1")])).await {
            Ok(answer) => {
                let leader = answer.metadata().get("ledger-leader").expect("the leader is told");
                assert_eq!(leader.to_str().unwrap(), server.address());
                led_by.insert(server.address());
            }
            Err(status) => {
                assert_eq!(
                    why(&status),
                    (Code::Unavailable, "NOT_LEADER".to_owned()),
                    "{status:?}"
                );
                let facts = status.get_details_error_info().unwrap().metadata;
                hints.insert(facts["leader_address"].clone());
                assert!(status.get_details_retry_info().is_some());
            }
        }
    }
    assert_eq!(led_by.len(), 1, "one node leads vault {vault}: {led_by:?}");
    assert_eq!(hints, led_by, "the others point at it");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_takes_writes_and_shows_them_at_once() {
    let cluster = Cluster::start(3).await;
    let vaults = cluster.vaults("writes", VAULTS).await;
    let nodes = cluster.nodes();
    write_here_read_everywhere(&nodes, &vaults).await;
    for (number, node) in nodes.iter().enumerate() {
        conditions_see_the_state(node, vaults[number]).await;
        batches_are_whole(node, vaults[number]).await;
    }
    lists_are_whole(&nodes, vaults[3]).await;
    watches_miss_nothing(&nodes, vaults[4]).await;
    nothing_is_forwarded_twice(&cluster, vaults[5]).await;
    cluster.assert_ready().await;
}

/// The same request sent twice, also through another node, is one transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_retried_write_happens_once() {
    let cluster = Cluster::start(3).await;
    let vault = cluster.vaults("retries", 1).await[0];
    let nodes = cluster.nodes();
    let request = write_request(vault, vec![set("once", b"1")]);
    let first = success(nodes[0].writes().write(request.clone()).await.unwrap().into_inner());
    for node in &nodes {
        let again = success(node.writes().write(request.clone()).await.unwrap().into_inner());
        assert_eq!(again.tx_id, first.tx_id);
        assert_eq!(again.block_height, first.block_height);
        assert_eq!(again.assigned_sequence, first.assigned_sequence);
    }
    let mut counted = write_request(vault, vec![set("counted", b"1")]);
    counted.client_id = Some(v1::ClientId { id: "counts".to_owned() });
    counted.idempotency_key = Vec::new();
    counted.sequence = Some(1);
    success(nodes[1].writes().write(counted.clone()).await.unwrap().into_inner());
    let repeated = refusal(nodes[2].writes().write(counted.clone()).await.unwrap().into_inner());
    assert_eq!(repeated.code(), v1::WriteErrorCode::AlreadyCommitted);
    counted.sequence = Some(3);
    let gap = refusal(nodes[0].writes().write(counted).await.unwrap().into_inner());
    assert_eq!(gap.code(), v1::WriteErrorCode::SequenceGap);
    assert_eq!(gap.expected_sequence, Some(2));
}
