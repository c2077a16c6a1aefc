//! A replica whose chain is another one: found by the others' signatures, and taken out of service.

use std::path::Path;

use ledger::demo::replicas::wait_level;
use ledger_proof::{BlockHeader, Frontier, hash};
use ledger_shard::rows::{VaultRow, block_header_key, vault_row_key};
use ledger_shard::{Family, LiveView, RowWrite, StateView as _, Store, StoreConfig};
use ledger_types::{Digest, VaultRef};
use tonic::Code;

use super::harness::{Cluster, WAIT_MAX, eventually, metric, why};

const DIVERGED: &str = "vault_health{state=\"diverged\"}";

/// Changes the time in the vault's last block on a stopped node's disk, and all that follows from it, so that
/// nothing on the disk contradicts anything else on it.
fn forge_last_block(data_dir: &Path, vault: VaultRef) -> Digest {
    let store = Store::open(data_dir, None, &StoreConfig::default()).unwrap();
    let view = LiveView::new(&store);
    let stored = |family, key: &[u8]| view.get(family, key).unwrap().expect("the row is there");
    let row_key = vault_row_key(vault);
    let mut row = VaultRow::decode(&stored(Family::Vaults, &row_key)).unwrap();
    assert_eq!(row.height % 2, 0, "no node of the block log above it is complete");
    let mut log = Frontier::new();
    for height in 0..row.height {
        log.append(
            hash::leaf(&stored(Family::Blocks, &block_header_key(vault, height))),
            |_, _, _| {},
        );
    }
    let header_key = block_header_key(vault, row.height);
    let mut header = BlockHeader::decode(&stored(Family::Blocks, &header_key)).unwrap();
    header.timestamp_ns += 1;
    let forged = header.block_hash();
    log.append(forged, |_, _, _| {});
    (row.block_hash, row.log_root, row.block_time_ns) = (forged, log.root(), header.timestamp_ns);
    let put = |family, key, value| RowWrite { family, key, value: Some(value) };
    let rows = [
        put(Family::Blocks, header_key, header.encode().to_vec()),
        put(Family::Vaults, row_key, row.encode()),
    ];
    store.write(&rows).unwrap();
    forged
}

/// The node that leads the one group with vaults, by its place in the cluster.
async fn leader(cluster: &Cluster) -> usize {
    let led_by = async || {
        let groups = cluster.node(0).groups().await.map_err(|status| status.to_string())?;
        let leader = groups.get(&1).map_or(0, |group| group.leader_node_id);
        leader.checked_sub(1).ok_or_else(|| "nobody leads".to_owned())
    };
    let number = eventually("the vaults' group has a leader", led_by).await;
    usize::try_from(number).unwrap()
}

async fn diverged(cluster: &Cluster, number: usize) -> f64 {
    let (_, text) = cluster.servers[number].http_get("/metrics").await.unwrap();
    metric(&text, DIVERGED).expect("the metric is told")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_with_another_history_is_put_in_quarantine() {
    let settings = [("LEDGER_CHECKPOINT_INTERVAL_MS", "300"), ("LEDGER_SHARDS", "1")];
    let mut cluster = Cluster::start_with(3, &settings).await;
    let vaults = cluster.vaults("forged", 2).await;
    let (vault, other) = (vaults[0], vaults[1]);
    for value in 0..2 {
        cluster.node(0).put_in_time(vault, "key", &[value]).await;
        cluster.node(0).put_in_time(other, "key", &[value]).await;
    }
    wait_level(&cluster.replicas(), &vaults, WAIT_MAX).await.unwrap();
    // The worst one: it leads, and is preferred as leader when it comes back.
    let victim = leader(&cluster).await;
    let rest = [(victim + 1) % 3, (victim + 2) % 3];
    cluster.servers[victim].stop().await.unwrap();
    let data_dir = cluster.servers[victim].spec().data_dir.clone();
    let forged = forge_last_block(&data_dir, vault);
    cluster.resume(victim).await;

    let found = async || {
        // Blocks go on meanwhile, for all that anybody knows.
        cluster.node(rest[0]).put_in_time(vault, "key", b"goes on").await;
        match diverged(&cluster, victim).await {
            1.0 => Ok(()),
            count => Err(count),
        }
    };
    eventually("the replica is in quarantine", found).await;
    assert_ne!(cluster.replicas()[rest[0]].tip(vault).await.unwrap().block_hash, forged);
    for number in rest {
        assert_eq!(diverged(&cluster, number).await, 0.0, "node {number} has the true history");
    }
    let alarms = cluster.metric(victim, "ledger_signing_contradictions_total").await;
    assert!(alarms >= 1.0, "it raised an alarm");

    let is_led_by_others = async || match leader(&cluster).await {
        leader if leader == victim => Err(leader),
        _ => Ok(()),
    };
    eventually("another node leads", is_led_by_others).await;
    // Whoever asks this node is answered with the true history, by another one.
    let height = cluster.node(victim).put_in_time(vault, "key", b"through it").await;
    let read = async || cluster.node(victim).read(vault, "key").await;
    assert_eq!(eventually("it passes reads on", read).await, Some(b"through it".to_vec()));
    let here = cluster.replicas()[victim].tip(vault).await.unwrap_err();
    let ledger::demo::replicas::ReplicaError::Refused { status, .. } = here else {
        panic!("{here}")
    };
    assert_eq!(why(&status), (Code::FailedPrecondition, "VAULT_UNAVAILABLE".to_owned()));
    // The rest of the node goes on, and the rest of the cluster agrees.
    let last = cluster.node(victim).put_in_time(other, "key", b"untouched").await;
    let whole = cluster.replicas();
    let tips = wait_level(&whole, &[other], WAIT_MAX).await.unwrap();
    assert!(tips[&other].height >= last);
    let healthy = [whole[rest[0]].clone(), whole[rest[1]].clone()];
    let tips = wait_level(&healthy, &[vault], WAIT_MAX).await.unwrap();
    assert!(tips[&vault].height >= height);

    cluster.servers[victim].kill();
    cluster.resume(victim).await;
    assert_eq!(diverged(&cluster, victim).await, 1.0, "a restart does not let it out");
}
