//! Whether replicas hold the same.

use std::collections::BTreeMap;

use ledger::demo::replicas::{Replica, wait_level};
use ledger_client::Tip;
use ledger_proto::v1;
use ledger_proto::v1::read_service_client::ReadServiceClient;
use ledger_types::VaultRef;

use super::harness::{Cluster, WAIT_MAX, wire};

/// Blocks whose headers are compared one by one, at both ends of each chain; those between are in the tip's hash.
const HEADERS_COMPARED: u64 = 100;

/// Everything that replicas must agree on, of one vault at one height, as one node holds it.
#[derive(PartialEq, Debug)]
struct Held {
    headers: Vec<Vec<u8>>,
    entities: Vec<v1::Entity>,
    relationships: Vec<v1::Relationship>,
}

async fn held(replica: &Replica, vault: VaultRef, tip: Tip) -> Held {
    let (namespace_id, vault_id) = wire(vault);
    let mut reads = ReadServiceClient::new(replica.channel());
    let mut headers = Vec::new();
    let last = tip.height.saturating_sub(HEADERS_COMPARED).max(HEADERS_COMPARED);
    for height in (0..=tip.height.min(HEADERS_COMPARED)).chain(last + 1..=tip.height) {
        let request = v1::GetBlockRequest { namespace_id, vault_id, height };
        let answer = reads.get_block(request).await.unwrap_or_else(|s| panic!("{replica}: {s}"));
        let block = answer.into_inner().block.unwrap_or_else(|| panic!("{replica} lacks {height}"));
        headers.push(block.header.unwrap().canonical);
    }
    Held {
        headers,
        entities: replica.entities(vault, "").await.unwrap(),
        relationships: replica.relationships(vault).await.unwrap(),
    }
}

/// Waits until all nodes are level and asserts that each holds the same blocks, entities and relationships.
pub(crate) async fn assert_alike(cluster: &Cluster, vaults: &[VaultRef]) {
    let replicas = cluster.replicas();
    // Equal state roots: what a snapshot brought hashes to the same as what the log brought elsewhere.
    let tips = wait_level(&replicas, vaults, WAIT_MAX).await.unwrap();
    assert_hold_the_same(&replicas, &tips).await;
}

/// Asserts that all replicas hold the same of every vault, which were written to and have these tips.
pub(crate) async fn assert_hold_the_same(replicas: &[Replica], tips: &BTreeMap<VaultRef, Tip>) {
    for (&vault, &tip) in tips {
        assert!(tip.height > 0, "vault {vault} was written to");
        let expected = held(&replicas[0], vault, tip).await;
        for replica in &replicas[1..] {
            let found = held(replica, vault, tip).await;
            assert_eq!(found.headers, expected.headers, "headers of {vault} at {replica}");
            assert!(found == expected, "{replica} holds something else of vault {vault}");
        }
    }
}
