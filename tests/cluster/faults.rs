//! Crashes: what was acknowledged stays, and replicas stay equal.

use std::collections::{BTreeMap, BTreeSet};

use ledger::demo::replicas::{Replica, wait_level};
use ledger_client::Tip;
use ledger_proto::v1;
use ledger_types::VaultRef;

use super::alike::assert_hold_the_same;
use super::harness::{Cluster, WAIT_MAX, eventually, wire};
use super::load::{Load, assert_held};

const VAULTS: usize = 6;
const WRITERS_PER_VAULT: usize = 2;

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

/// Asserts that all nodes hold the same of every vault, and that both kinds of rows are among it.
async fn assert_alike(replicas: &[Replica], tips: &BTreeMap<VaultRef, Tip>) {
    assert_hold_the_same(replicas, tips).await;
    for &vault in tips.keys() {
        assert!(!replicas[0].entities(vault, "").await.unwrap().is_empty());
        assert!(!replicas[0].relationships(vault).await.unwrap().is_empty());
    }
}

/// A vault's checkpoint over all blocks up to `tip`: its text, and the names of the nodes that cosigned.
async fn checkpoint(
    cluster: &Cluster,
    ask: usize,
    vault: VaultRef,
    tip: Tip,
) -> (String, Vec<String>) {
    let (namespace_id, vault_id) = wire(vault);
    let size = tip.height + 1;
    let request =
        v1::GetCheckpointRequest { namespace_id, vault_id, min_size: Some(size), fresh: true };
    let answer = eventually("the vault's leader signs", || async {
        cluster.node(ask).ledger().get_checkpoint(request).await
    })
    .await
    .into_inner();
    assert_eq!(answer.size, size, "vault {vault}");
    let note = String::from_utf8(answer.note).unwrap();
    let (text, signatures) = note.split_once("\n\n").expect("a note has signatures");
    let origin = format!("/ns/{}/vault/{}/0", vault.namespace, vault.vault);
    assert!(text.lines().next().is_some_and(|line| line.ends_with(&origin)), "{note}");
    let names = signatures.lines().filter_map(|line| line.split(' ').nth(1));
    let cosigners = names.filter(|name| name.contains("/node/")).map(str::to_owned).collect();
    (text.to_owned(), cosigners)
}

/// How far the vault's leader says that a client has counted.
async fn sequence(cluster: &Cluster, ask: usize, vault: VaultRef, client_id: &str) -> u64 {
    let (namespace_id, vault_id) = wire(vault);
    let client_id = Some(v1::ClientId { id: client_id.to_owned() });
    let request = v1::GetClientStateRequest { namespace_id, vault_id, client_id };
    let answer = eventually("the vault's leader answers", || async {
        cluster.node(ask).reads().get_client_state(request.clone()).await
    });
    answer.await.into_inner().last_committed_sequence
}

/// Asserts that every node that comes to lead signs the same block log and has counted the client's writes
/// as far. Each node is killed in turn, so no vault has the same leader all the time.
async fn assert_leaders_agree(
    cluster: &mut Cluster,
    tips: &BTreeMap<VaultRef, Tip>,
    client_id: &str,
) {
    let mut said: BTreeMap<VaultRef, (String, u64)> = BTreeMap::new();
    let mut signers: BTreeMap<VaultRef, BTreeSet<String>> = BTreeMap::new();
    for victim in 0..cluster.servers.len() {
        cluster.servers[victim].kill();
        for (&vault, &tip) in tips {
            let ask = (victim + 1) % cluster.servers.len();
            let (text, cosigners) = checkpoint(cluster, ask, vault, tip).await;
            assert!(!cosigners.is_empty(), "nobody cosigned {text}");
            signers.entry(vault).or_default().extend(cosigners);
            let counted = sequence(cluster, ask, vault, client_id).await;
            assert!(counted > 0, "vault {vault} has forgotten its client");
            let found = (text, counted);
            assert_eq!(said.entry(vault).or_insert(found.clone()), &found, "vault {vault}");
        }
        cluster.resume(victim).await;
    }
    for (vault, names) in signers {
        assert!(names.len() >= 2, "vault {vault} was signed by {names:?} alone");
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
    assert_alike(&replicas, &tips).await;
    assert_leaders_agree(&mut cluster, &tips, client.client_id()).await;
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
    assert_alike(&replicas, &tips).await;
}

async fn restart_all(cluster: &mut Cluster) {
    for server in &mut cluster.servers {
        server.resume().unwrap();
    }
    for server in &mut cluster.servers {
        server.wait_ready(WAIT_MAX).await.unwrap();
    }
}
