//! Crashes: what was acknowledged stays, and replicas stay equal.

use std::collections::BTreeMap;

use ledger::demo::replicas::{Replica, wait_level};
use ledger_client::Tip;
use ledger_proto::v1;
use ledger_proto::v1::ledger_client::LedgerClient;
use ledger_proto::v1::read_service_client::ReadServiceClient;
use ledger_types::VaultRef;

use super::harness::{Cluster, WAIT_MAX, eventually, wire};
use super::load::{Load, assert_held};

const VAULTS: usize = 6;
const WRITERS_PER_VAULT: usize = 2;
/// Blocks of each vault whose headers are compared one by one, counted from the tip.
const HEADERS_COMPARED: u64 = 200;

/// Waits until a node itself has applied what another one had when it came back.
async fn wait_caught_up(behind: &Replica, ahead: &Replica, vaults: &[VaultRef]) {
    for &vault in vaults {
        let target = ahead.tip(vault).await.unwrap().height;
        eventually("the node that came back catches up", || async {
            let height = behind.tip(vault).await.map_err(|error| error.to_string())?.height;
            if height >= target { Ok(()) } else { Err(format!("{height} of {target}")) }
        })
        .await;
    }
}

/// Everything that replicas must agree on, of one vault at one height, as one node holds it.
#[derive(PartialEq, Debug)]
struct Held {
    headers: Vec<Vec<u8>>,
    entities: Vec<v1::Entity>,
    relationships: Vec<v1::Relationship>,
    client_sequence: u64,
    /// Origin, size and root of the block log, without the signatures.
    checkpoint: String,
}

async fn held(replica: &Replica, vault: VaultRef, tip: Tip, client_id: &str) -> Held {
    let (namespace_id, vault_id) = wire(vault);
    let mut reads = ReadServiceClient::new(replica.channel());
    let mut headers = Vec::new();
    for height in tip.height.saturating_sub(HEADERS_COMPARED)..=tip.height {
        let request = v1::GetBlockRequest { namespace_id, vault_id, height };
        let block = reads.get_block(request).await.unwrap().into_inner().block.unwrap();
        headers.push(block.header.unwrap().canonical);
    }
    let client = Some(v1::ClientId { id: client_id.to_owned() });
    let state = v1::GetClientStateRequest { namespace_id, vault_id, client_id: client };
    let state = reads.get_client_state(state).await.unwrap().into_inner();
    let size = tip.height + 1;
    let request =
        v1::GetCheckpointRequest { namespace_id, vault_id, min_size: Some(size), fresh: false };
    let checkpoint = LedgerClient::new(replica.channel()).get_checkpoint(request).await;
    let checkpoint = checkpoint.unwrap().into_inner();
    assert_eq!(checkpoint.size, size, "{replica} signed another size of vault {vault}");
    let note = String::from_utf8(checkpoint.note).unwrap();
    let (text, signatures) = note.split_once("\n\n").expect("a note has signatures");
    assert!(signatures.lines().count() >= 2, "the log's line and a cosignature: {note}");
    Held {
        headers,
        entities: replica.entities(vault, "").await.unwrap(),
        relationships: replica.relationships(vault).await.unwrap(),
        client_sequence: state.last_committed_sequence,
        checkpoint: text.to_owned(),
    }
}

/// Asserts that all nodes hold the same of every vault.
async fn assert_alike(replicas: &[Replica], tips: &BTreeMap<VaultRef, Tip>, client_id: &str) {
    for (&vault, &tip) in tips {
        let expected = held(&replicas[0], vault, tip, client_id).await;
        assert!(expected.client_sequence > 0 && !expected.relationships.is_empty());
        let lines: Vec<&str> = expected.checkpoint.lines().collect();
        assert!(
            lines[0].ends_with(&format!("/ns/{}/vault/{}/0", vault.namespace, vault.vault)),
            "{lines:?}"
        );
        for replica in &replicas[1..] {
            let found = held(replica, vault, tip, client_id).await;
            assert_eq!(found.headers, expected.headers, "headers of {vault} at {replica}");
            assert!(found == expected, "{replica} holds something else of vault {vault}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_each_node_in_turn_loses_no_acknowledged_write() {
    let mut cluster = Cluster::start(3).await;
    let vaults = cluster.vaults("kills", VAULTS).await;
    let client = cluster.client().await;
    let replicas = cluster.replicas();
    let mut load = Load::start(&client, &vaults, WRITERS_PER_VAULT);
    for victim in 0..3 {
        load.wait_more(20).await;
        cluster.servers[victim].kill();
        load.wait_more(20).await;
        cluster.resume(victim).await;
        wait_caught_up(&replicas[victim], &replicas[(victim + 1) % 3], &vaults).await;
    }
    let acknowledged = load.finish().await;
    let tips = wait_level(&replicas, &vaults, WAIT_MAX).await.unwrap();
    assert_held(&replicas, &acknowledged).await;
    assert_alike(&replicas, &tips, client.client_id()).await;
    cluster.assert_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_cluster_comes_back_from_a_stop_and_from_a_crash() {
    let mut cluster = Cluster::start(3).await;
    let vaults = cluster.vaults("restart", VAULTS).await;
    let client = cluster.client().await;
    let mut load = Load::start(&client, &vaults, WRITERS_PER_VAULT);
    load.wait_more(50).await;
    let mut acknowledged = load.finish().await;

    for server in &mut cluster.servers {
        let status = server.stop().await.unwrap();
        assert!(status.success(), "{status}: {}", server.log_tail());
    }
    restart_all(&mut cluster).await;
    let replicas = cluster.replicas();
    wait_level(&replicas, &vaults, WAIT_MAX).await.unwrap();
    assert_held(&replicas, &acknowledged).await;

    // The writers of a second run use the same keys, so what they write replaces what was there.
    let mut load = Load::start(&client, &vaults, WRITERS_PER_VAULT);
    load.wait_more(60).await;
    for server in &mut cluster.servers {
        server.kill();
    }
    restart_all(&mut cluster).await;
    load.wait_more(20).await;
    for (vault, written) in load.finish().await {
        acknowledged.entry(vault).or_default().extend(written);
    }
    let tips = wait_level(&replicas, &vaults, WAIT_MAX).await.unwrap();
    assert_held(&replicas, &acknowledged).await;
    assert_alike(&replicas, &tips, client.client_id()).await;
}

async fn restart_all(cluster: &mut Cluster) {
    for server in &mut cluster.servers {
        server.resume().unwrap();
    }
    for server in &mut cluster.servers {
        server.wait_ready(WAIT_MAX).await.unwrap();
    }
}
