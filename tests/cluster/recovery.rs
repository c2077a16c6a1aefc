//! Replicas that were away, logs that do not grow without end, and groups that rest: what came meanwhile
//! arrives from the log, or by a snapshot where the log has let go of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use ledger::demo::replicas::wait_level;
use ledger::demo::vaults::make_vault;
use ledger_client::Client;
use ledger_proto::v1;
use ledger_types::VaultRef;

use super::alike::assert_alike;
use super::harness::{Cluster, Node, WAIT_MAX, eventually};
use super::load::{Load, assert_held};

/// The node that is away.
const AWAY: usize = 2;
/// The directory's group, and the only data shard where there is one.
const SYSTEM: u64 = 0;
pub(crate) const SHARD: u64 = 1;
/// Entries that a group keeps in the tests that outrun the log.
const ENTRIES_MAX: u64 = 200;
/// One data shard whose log is soon too short, and a clock that makes elections quick.
pub(crate) const SHORT_LOG: [(&str, &str); 3] =
    [("LEDGER_RAFT_LOG_ENTRIES_MAX", "200"), ("LEDGER_SHARDS", "1"), ("LEDGER_TICK_MS", "20")];
/// What a client that sets no deadline has.
const CLIENT_DEADLINE: Duration = Duration::from_secs(10);

/// Where the log of each group ends, on a node.
pub(crate) async fn log_ends(node: &Node) -> BTreeMap<u64, u64> {
    let groups = node.groups().await.unwrap();
    groups.into_iter().map(|(group, status)| (group, status.last_index)).collect()
}

/// True once no running node's log of a group has what follows `ends`.
pub(crate) async fn is_outrun(cluster: &Cluster, group: u64, ends: &BTreeMap<u64, u64>) -> bool {
    for node in cluster.running() {
        if node.groups().await.unwrap()[&group].first_index <= ends[&group] + 1 {
            return false;
        }
    }
    true
}

/// Writes to the directory until its log has let go of what follows `ends`.
async fn outrun_directory(cluster: &Cluster, client: &Client, ends: &BTreeMap<u64, u64>) {
    let mut made = 0;
    while !is_outrun(cluster, SYSTEM, ends).await {
        assert!(made < 10 * ENTRIES_MAX, "{made} namespaces and the log is still whole");
        for _ in 0..20 {
            client.ensure_namespace(&format!("filler-{made}")).await.unwrap();
            made += 1;
        }
    }
}

/// Waits until every node has applied the same of every group.
pub(crate) async fn wait_same_applied(cluster: &Cluster) {
    eventually("all replicas have applied the same", || async {
        let mut applied: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for node in cluster.nodes() {
            for (group, status) in node.groups().await.map_err(|status| status.to_string())? {
                applied.entry(group).or_default().push(status.applied_index);
            }
        }
        let nodes = cluster.servers.len();
        let is_same = |all: &Vec<u64>| all.len() == nodes && all.iter().all(|one| *one == all[0]);
        if applied.values().all(is_same) { Ok(()) } else { Err(format!("{applied:?}")) }
    })
    .await;
}

/// Waits until no log is longer than the cap and what is let go of at a time.
async fn wait_logs_within_cap(cluster: &Cluster) {
    let longest = ENTRIES_MAX + ENTRIES_MAX / 4;
    eventually("logs are as short as they may be", || async {
        for node in cluster.nodes() {
            for (group, status) in node.groups().await.map_err(|status| status.to_string())? {
                let entries = status.last_index + 1 - status.first_index;
                if entries > longest {
                    return Err(format!("group {group} keeps {entries} entries: {status:?}"));
                }
            }
        }
        Ok(())
    })
    .await;
}

/// Waits until no node keeps files of a snapshot any more.
pub(crate) async fn wait_no_files(cluster: &Cluster) {
    eventually("files of snapshots are removed when they have served", || async {
        for server in &cluster.servers {
            for side in ["in", "out"] {
                let directory = server.spec().data_dir.join("snapshots").join(side);
                if let Some(left) = first_entry(&directory) {
                    return Err(left);
                }
            }
        }
        Ok(())
    })
    .await;
}

/// The first thing in a directory that may not be there.
fn first_entry(directory: &Path) -> Option<String> {
    let mut entries = std::fs::read_dir(directory).ok()?;
    Some(entries.next()?.unwrap().path().display().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_absence_is_made_up_for_from_the_log() {
    let mut settings = SHORT_LOG;
    settings[0].1 = "2000";
    let mut cluster = Cluster::start_with(3, &settings).await;
    let vaults = cluster.vaults("short", 2).await;
    let client = cluster.client().await;
    let mut load = Load::start(&client, &vaults, 2);
    load.wait_more(20).await;
    cluster.servers[AWAY].kill();
    let ends = log_ends(&cluster.node(0)).await;
    load.wait_more(40).await;
    let acknowledged = load.finish().await;
    for node in cluster.running() {
        let status = node.groups().await.unwrap().remove(&SHARD).unwrap();
        assert!(status.last_index > ends[&SHARD], "nothing was missed: {status:?}");
        assert!(status.first_index <= ends[&SHARD] + 1, "it is not in the log: {status:?}");
    }
    cluster.resume(AWAY).await;
    // Somebody needs the group, which sleeps on the node that came back until its leader speaks to it.
    wait_same_applied(&cluster).await;
    assert_alike(&cluster, &vaults).await;
    assert_held(&cluster.replicas(), &acknowledged).await;
    for number in 0..3 {
        let installed = cluster.metric(number, "ledger_snapshots_installed_total").await;
        let cut = cluster.metric(number, "ledger_snapshots_cut_total").await;
        assert_eq!((installed, cut), (0.0, 0.0), "node {number} made use of a snapshot");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_absence_is_made_up_for_by_a_snapshot() {
    let mut cluster = Cluster::start_with(3, &SHORT_LOG).await;
    let vaults = cluster.vaults("long", 2).await;
    let client = cluster.client().await;
    let mut load = Load::start(&client, &vaults, 2);
    load.wait_more(20).await;
    cluster.servers[AWAY].kill();
    let ends = log_ends(&cluster.node(0)).await;
    outrun_directory(&cluster, &client, &ends).await;
    while !is_outrun(&cluster, SHARD, &ends).await {
        load.wait_more(5).await;
    }
    // It comes back while everybody goes on writing.
    cluster.resume(AWAY).await;
    load.wait_more(20).await;
    let acknowledged = load.finish().await;
    assert_alike(&cluster, &vaults).await;
    assert_held(&cluster.replicas(), &acknowledged).await;
    wait_same_applied(&cluster).await;
    let installed = cluster.metric(AWAY, "ledger_snapshots_installed_total").await;
    assert!(installed >= 2.0, "the directory and the shard came by {installed} snapshots");
    for number in 0..AWAY {
        let installed = cluster.metric(number, "ledger_snapshots_installed_total").await;
        assert_eq!(installed, 0.0, "node {number} was never away");
    }
    wait_logs_within_cap(&cluster).await;
    wait_no_files(&cluster).await;

    // What was installed is as durable as what was applied.
    cluster.servers[AWAY].kill();
    cluster.node(0).put_in_time(vaults[0], "after", b"1").await;
    cluster.resume(AWAY).await;
    assert_alike(&cluster, &vaults).await;
    assert_held(&cluster.replicas(), &acknowledged).await;
    let installed = cluster.metric(AWAY, "ledger_snapshots_installed_total").await;
    assert_eq!(installed, 0.0, "a restart needs no snapshot");
}

/// Number of the node that leads the data shard, among those that run.
async fn shard_leader(cluster: &Cluster) -> usize {
    eventually("the shard has a leader", || async {
        for (number, server) in cluster.servers.iter().enumerate() {
            if server.process_id().is_none() {
                continue;
            }
            let groups =
                cluster.node(number).groups().await.map_err(|status| status.to_string())?;
            let leads = |status: &v1::GroupStatus| status.role() == v1::ReplicaRole::Leader;
            if groups.get(&SHARD).is_some_and(leads) {
                return Ok(number);
            }
        }
        Err("nobody leads".to_owned())
    })
    .await
}

/// The node that sends a snapshot ends in the middle of it, under writes. The log is capped by bytes here.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_snapshot_outlives_its_sender() {
    let settings = [
        ("LEDGER_RAFT_LOG_BYTES_MAX", "262144"),
        ("LEDGER_SNAPSHOT_BYTES_PER_SECOND", "131072"),
        ("LEDGER_SHARDS", "1"),
        ("LEDGER_TICK_MS", "20"),
    ];
    let mut cluster = Cluster::start_with(3, &settings).await;
    let vault = cluster.vaults("slow", 1).await[0];
    let client = cluster.client().await;
    cluster.node(0).put_in_time(vault, "before", b"1").await;
    cluster.servers[AWAY].kill();
    let ends = log_ends(&cluster.node(0)).await;
    let mut written = BTreeMap::new();
    // Three times what the log may keep.
    while written.len() < 12 {
        let key = format!("large-{:02}", written.len());
        let value: Vec<u8> = (0..64 << 10).map(|_| rand::random()).collect();
        client.write(vault, vec![set(&key, &value)]).await.unwrap();
        written.insert(key, value);
    }
    eventually("the log has forgotten what the absent node needs", || async {
        if is_outrun(&cluster, SHARD, &ends).await { Ok(()) } else { Err("it is all there") }
    })
    .await;
    cluster.resume(AWAY).await;
    let sender = shard_leader(&cluster).await;
    assert_ne!(sender, AWAY, "it cannot lead with what it has");
    eventually("a part of the snapshot is there", || async {
        let key = format!("small-{}", written.len());
        client.write(vault, vec![set(&key, b"1")]).await.unwrap();
        let received = cluster.metric(AWAY, "ledger_snapshot_bytes_received_total").await;
        if received > 0.0 { Ok(()) } else { Err(received) }
    })
    .await;
    let groups = cluster.node(AWAY).groups().await.unwrap();
    let phase = groups[&SHARD].snapshot_phase();
    assert_eq!(phase, v1::SnapshotPhase::Fetching, "{:?}", groups[&SHARD]);
    cluster.servers[sender].kill();

    // Only the two others are left, so this one is acknowledged when the snapshot of the next leader is in.
    client.write(vault, vec![set("alone", b"2")]).await.unwrap();
    let installed = cluster.metric(AWAY, "ledger_snapshots_installed_total").await;
    assert!(installed >= 1.0, "the write was acknowledged by one node of three");
    cluster.resume(sender).await;
    assert_alike(&cluster, &[vault]).await;
    for replica in cluster.replicas() {
        let held = replica.entities(vault, "large-").await.unwrap();
        let held: BTreeMap<String, Vec<u8>> =
            held.into_iter().map(|entity| (entity.key, entity.value)).collect();
        assert!(held == written, "{replica} holds {} of {} values", held.len(), written.len());
        assert_eq!(replica.entities(vault, "alone").await.unwrap().len(), 1);
    }
    wait_no_files(&cluster).await;
}

fn set(key: &str, value: &[u8]) -> ledger_types::Operation {
    let (key, value) = (key.to_owned(), value.to_vec());
    ledger_types::Operation::SetEntity { key, value, expires_at: 0, condition: None }
}

/// The groups that sleep on a node.
async fn asleep(node: &Node) -> BTreeSet<u64> {
    let groups = node.groups().await.unwrap();
    groups.into_iter().filter(|(_, status)| status.is_asleep).map(|(group, _)| group).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_sleep_after_a_restart_until_somebody_writes() {
    let mut cluster = Cluster::start_with(3, &[("LEDGER_SHARDS", "4")]).await;
    let client = cluster.client().await;
    let namespace = client.ensure_namespace("sleepers").await.unwrap();
    let mut by_shard = BTreeMap::new();
    while by_shard.len() < 2 {
        let (vault, genesis) = make_vault(&client, namespace).await.unwrap();
        by_shard.insert(genesis.shard, vault);
    }
    let vaults: Vec<VaultRef> = by_shard.values().copied().collect();
    for &vault in &vaults {
        client.write(vault, vec![set("k", b"before")]).await.unwrap();
    }
    wait_level(&cluster.replicas(), &vaults, WAIT_MAX).await.unwrap();
    for server in &mut cluster.servers {
        assert!(server.stop().await.unwrap().success(), "{}", server.log_tail());
    }
    for server in &mut cluster.servers {
        server.resume().unwrap();
    }
    for server in &mut cluster.servers {
        server.wait_ready(WAIT_MAX).await.unwrap();
    }

    let all: BTreeSet<u64> = (1..=4).collect();
    for (node, replica) in cluster.nodes().iter().zip(cluster.replicas()) {
        assert_eq!(asleep(node).await, all, "{replica}: all but the directory's group sleep");
        for &vault in &vaults {
            let held = replica.entities(vault, "").await.unwrap();
            assert_eq!((held.len(), held[0].value.as_slice()), (1, &b"before"[..]), "{replica}");
        }
        assert_eq!(asleep(node).await, all, "{replica}: an eventual read wakes nobody");
    }
    let (&shard, &vault) = by_shard.first_key_value().unwrap();
    let impatient = client.with_deadline(CLIENT_DEADLINE);
    impatient.write(vault, vec![set("k", b"after")]).await.unwrap();
    let rest: BTreeSet<u64> = all.iter().copied().filter(|group| *group != shard).collect();
    for node in cluster.nodes() {
        eventually("the group that is needed is awake everywhere", || async {
            let asleep = asleep(&node).await;
            if asleep == rest { Ok(()) } else { Err(asleep) }
        })
        .await;
        assert_eq!(node.read(vault, "k").await.unwrap().as_deref(), Some(&b"after"[..]));
    }
    // A read that must see every write needs a leader, and so wakes the other one.
    let read = eventually("the other group elects a leader", || async {
        cluster.node(1).read(vaults[1], "k").await
    });
    assert_eq!(read.await.as_deref(), Some(&b"before"[..]));
    assert_alike(&cluster, &vaults).await;
}
