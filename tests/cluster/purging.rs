//! Deleted vaults whose time is over: their rows leave every node, nothing else does, and nobody needs them to catch up.

use std::collections::{BTreeMap, BTreeSet};

use ledger::demo::process::Server;
use ledger::demo::replicas::wait_level;
use ledger_proto::v1;
use ledger_shard::rows::{VAULT_FAMILIES, vault_range};
use ledger_shard::{
    SnapshotView, StateView as _, Store, StoreConfig, VaultRow, VaultStatus, query,
};
use ledger_types::{NamespaceId, VaultId, VaultRef};

use super::alike::assert_alike;
use super::deletion::{delete_namespace, delete_vault, is_not_made_again, is_refused, listed};
use super::harness::{Cluster, Node, WAIT_MAX, eventually, wire};
use super::load::{Load, assert_held};
use super::recovery::{SHARD, SHORT_LOG, is_outrun, log_ends, wait_same_applied};

/// The setting that all of this is about.
const RETENTION: &str = "LEDGER_DELETED_RETENTION_S";
/// The node that is away.
const AWAY: usize = 2;
/// Writes to each vault, more than the state tree waits for before it writes pages.
const WRITES: usize = 300;

/// What is left of a vault in the store of a server that does not run: its row, and how many others by family.
fn stored(server: &Server, vault: VaultRef) -> (VaultRow, BTreeMap<&'static str, usize>) {
    assert_eq!(server.process_id(), None, "a store has one process");
    let store = Store::open(&server.spec().data_dir, None, &StoreConfig::default()).unwrap();
    let view = SnapshotView::new(&store);
    let (from, to) = vault_range(vault);
    let counts = VAULT_FAMILIES.map(|family| {
        let mut count = 0;
        let mut visit = |_: &[u8], _: &[u8]| {
            count += 1;
            true
        };
        view.scan(family, &from, &to, &mut visit).unwrap();
        (family.name(), count)
    });
    (query::stored_row(&view, vault).unwrap(), counts.into_iter().collect())
}

#[track_caller]
fn assert_whole(server: &Server, vault: VaultRef, status: VaultStatus) {
    let (found, counts) = stored(server, vault);
    assert_eq!(found.status, status, "{vault}");
    assert!(counts.values().all(|count| *count > 0), "{vault}: {counts:?}");
}

#[track_caller]
fn assert_bare(server: &Server, vault: VaultRef) {
    let (row, counts) = stored(server, vault);
    assert_eq!(row.status, VaultStatus::Purged, "{vault}");
    assert!(counts.values().all(|count| *count == 0), "{vault}: {counts:?}");
}

/// Sets the retention of every node, which stops and starts for it.
async fn restart_with(cluster: &mut Cluster, retention: &str, mut look: impl FnMut(&Server)) {
    for server in &mut cluster.servers {
        server.stop().await.unwrap();
        look(server);
        let environment = &mut server.spec_mut().environment;
        environment.retain(|(name, _)| name != RETENTION);
        environment.push((RETENTION.to_owned(), retention.to_owned()));
    }
    for server in &mut cluster.servers {
        server.resume().unwrap();
    }
    cluster.assert_ready().await;
}

/// Waits until the running nodes have had so many vaults purged since they started.
async fn wait_purged(cluster: &Cluster, count: f64) {
    eventually("deleted vaults are purged", || async {
        let mut purged = 0.0;
        for (number, server) in cluster.servers.iter().enumerate() {
            if server.process_id().is_some() {
                purged += cluster.metric(number, "ledger_vaults_purged_total").await;
            }
        }
        if purged == count { Ok(()) } else { Err(format!("{purged} of {count}")) }
    })
    .await;
}

/// Waits until every node has applied the same of these groups; others may sleep.
async fn wait_level_groups(cluster: &Cluster, groups: &BTreeSet<u64>) {
    eventually("these groups are level", || async {
        let mut applied: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        for node in cluster.nodes() {
            let told = node.groups().await.map_err(|status| status.to_string())?;
            for group in groups {
                applied.entry(*group).or_default().insert(told[group].applied_index);
            }
        }
        if applied.values().all(|all| all.len() == 1) {
            Ok(())
        } else {
            Err(format!("{applied:?}"))
        }
    })
    .await;
}

async fn wait_awaiting(cluster: &Cluster, count: f64) {
    for number in 0..cluster.servers.len() {
        eventually("a node tells what awaits its purge", || async {
            match cluster.metric(number, "ledger_vaults_awaiting_purge").await {
                awaiting if awaiting == count => Ok(()),
                awaiting => Err((number, awaiting)),
            }
        })
        .await;
    }
}

async fn is_sound(node: &Node, vault: VaultRef) {
    let (namespace_id, vault_id) = wire(vault);
    let request = v1::CheckIntegrityRequest { namespace_id, vault_id, full_check: true };
    let answer = node.admin().check_integrity(request).await.unwrap().into_inner();
    assert!(answer.healthy, "{answer:?}");
}

async fn fill(node: &Node, vaults: &[VaultRef]) {
    for number in 0..WRITES {
        for &vault in vaults {
            // Some keys are set again, so that there is something superseded.
            let key = format!("key{}", number % (WRITES - 10));
            node.put_in_time(vault, &key, b"value").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_vault_is_kept_for_as_long_as_was_set_and_then_gone_everywhere() {
    let mut cluster = Cluster::start_with(3, &[(RETENTION, "never")]).await;
    let vaults = cluster.vaults("kept", 2).await;
    let (gone, stays, namespace) = (vaults[0], vaults[1], vaults[0].namespace);
    let ended = cluster.client().await.ensure_namespace("ended").await.unwrap();
    let own = |namespace: NamespaceId| VaultRef { namespace, vault: VaultId(0) };
    fill(&cluster.node(0), &[gone, stays, own(ended)]).await;
    let all = [gone, stays, own(ended), own(namespace)];
    wait_level(&cluster.replicas(), &all, WAIT_MAX).await.unwrap();
    delete_vault(&cluster.node(1), gone).await.unwrap();
    delete_namespace(&cluster.node(2), ended).await.unwrap();
    wait_same_applied(&cluster).await;

    // Kept for ever: a start changes nothing, and says what is there.
    restart_with(&mut cluster, "never", |server| {
        assert_whole(server, gone, VaultStatus::Deleted);
        assert_whole(server, own(ended), VaultStatus::Deleted);
    })
    .await;
    wait_awaiting(&cluster, 2.0).await;
    let mut groups = BTreeSet::new();
    restart_with(&mut cluster, "0", |server| {
        assert_whole(server, gone, VaultStatus::Deleted);
        groups.extend([gone, own(ended)].map(|vault| stored(server, vault).0.owner.0));
    })
    .await;
    // Nobody needs the groups, which sleep since the start.
    wait_purged(&cluster, 2.0).await;
    wait_level_groups(&cluster, &groups).await;
    wait_awaiting(&cluster, 0.0).await;
    for node in cluster.nodes() {
        is_refused(&node, gone, "VAULT_DELETED").await;
        is_refused(&node, own(ended), "NAMESPACE_DELETED").await;
        is_not_made_again(&node, gone, "VAULT_DELETED").await;
        delete_vault(&node, gone).await.unwrap();
        let all = [(1, v1::VaultStatus::Deleted), (2, v1::VaultStatus::Active)];
        assert_eq!(listed(&node, namespace, true).await, all);
        is_sound(&node, stays).await;
        node.put_in_time(stays, "after", b"1").await;
    }
    assert_eq!(cluster.vaults("kept", 1).await, [VaultRef { namespace, vault: VaultId(3) }]);
    restart_with(&mut cluster, "0", |server| {
        assert_bare(server, gone);
        assert_bare(server, own(ended));
        assert_whole(server, stays, VaultStatus::Active);
        assert_eq!(stored(server, own(namespace)).0.status, VaultStatus::Active);
    })
    .await;
    for node in cluster.nodes() {
        is_refused(&node, gone, "VAULT_DELETED").await;
        node.put_in_time(stays, "once more", b"1").await;
        is_sound(&node, stays).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_purges_by_log_and_by_snapshot() {
    let settings = [&SHORT_LOG[..], &[(RETENTION, "0")]].concat();
    let mut cluster = Cluster::start_with(3, &settings).await;
    let vaults = cluster.vaults("away", 3).await;
    let [by_log, by_snapshot, stays] = vaults[..] else { panic!("{vaults:?}") };
    for &vault in &vaults {
        for number in 0..20 {
            let key = format!("key{number}");
            cluster.node(0).put_in_time(vault, &key, b"value").await;
        }
    }
    wait_level(&cluster.replicas(), &vaults, WAIT_MAX).await.unwrap();
    cluster.servers[AWAY].kill();
    eventually("the vault is deleted", || delete_vault_at(&cluster, by_log)).await;
    wait_purged(&cluster, 1.0).await;
    cluster.resume(AWAY).await;
    wait_same_applied(&cluster).await;
    assert_eq!(cluster.metric(AWAY, "ledger_snapshots_installed_total").await, 0.0, "by log");
    cluster.servers[AWAY].kill();
    assert_bare(&cluster.servers[AWAY], by_log);

    let ends = log_ends(&cluster.node(0)).await;
    eventually("the vault is deleted", || delete_vault_at(&cluster, by_snapshot)).await;
    wait_purged(&cluster, 2.0).await;
    let client = cluster.client().await;
    let mut load = Load::start(&client, &[stays], 2);
    while !is_outrun(&cluster, SHARD, &ends).await {
        load.wait_more(5).await;
    }
    cluster.resume(AWAY).await;
    load.wait_more(20).await;
    let acknowledged = load.finish().await;
    assert_alike(&cluster, &[stays]).await;
    assert_held(&cluster.replicas(), &acknowledged).await;
    wait_same_applied(&cluster).await;
    let installed = cluster.metric(AWAY, "ledger_snapshots_installed_total").await;
    assert!(installed >= 1.0, "the shard came by {installed} snapshots");
    for node in cluster.nodes() {
        is_refused(&node, by_log, "VAULT_DELETED").await;
        is_refused(&node, by_snapshot, "VAULT_DELETED").await;
        is_sound(&node, stays).await;
    }
    for number in 0..3 {
        cluster.servers[number].stop().await.unwrap();
        assert_bare(&cluster.servers[number], by_log);
        assert_bare(&cluster.servers[number], by_snapshot);
        cluster.resume(number).await;
    }
    cluster.node(AWAY).put_in_time(stays, "after", b"1").await;
}

/// Deletes a vault by one of the nodes that are not away.
async fn delete_vault_at(cluster: &Cluster, vault: VaultRef) -> Result<(), tonic::Status> {
    delete_vault(&cluster.node(0), vault).await.map(|_| ())
}
