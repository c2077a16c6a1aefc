//! One store for all groups of a node, and one sync for all groups that wait for it.

use std::path::{Path, PathBuf};

use ledger::demo::process::Server;
use ledger_client::Client;

use super::harness::{Cluster, metric};
use super::load::Load;

const VAULTS: usize = 16;
const WRITERS_PER_VAULT: usize = 2;
/// Syncs that served several groups, on each node, before the load ends.
const SHARED_SYNCS: f64 = 20.0;

/// Every file of this name below a directory.
fn files_named(directory: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_named(&path, name));
        } else if path.file_name().is_some_and(|file| file == name) {
            found.push(path);
        }
    }
    found
}

/// Files that the process holds open and whose path satisfies `wanted`.
fn open_files(server: &Server, wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let process = server.process_id().unwrap();
    let descriptors = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let mut found: Vec<PathBuf> = targets.filter(|path| wanted(path)).collect();
    found.sort();
    found.dedup();
    found
}

async fn metrics(server: &Server) -> String {
    let (status, text) = server.http_get("/metrics").await.unwrap();
    assert_eq!(status, 200);
    text
}

/// Groups that the node tells about.
async fn groups(server: &Server) -> usize {
    let text = metrics(server).await;
    text.lines().filter(|line| line.starts_with("ledger_raft_applied_index{group=")).count()
}

/// Syncs that several groups waited for.
async fn shared_syncs(server: &Server) -> f64 {
    let text = metrics(server).await;
    let all = metric(&text, "ledger_raft_groups_per_sync_count").expect("a counter of syncs");
    let alone = metric(&text, "ledger_raft_groups_per_sync_bucket{le=\"1\"}").expect("a bucket");
    all - alone
}

async fn shares_syncs_under_load(cluster: &Cluster, client: &Client) {
    let vaults = cluster.vaults("syncs", VAULTS).await;
    let mut load = Load::start(client, &vaults, WRITERS_PER_VAULT);
    for server in &cluster.servers {
        let before = shared_syncs(server).await;
        while shared_syncs(server).await < before + SHARED_SYNCS {
            load.wait_more(10).await;
        }
    }
    let acknowledged: usize = load.finish().await.values().map(|written| written.len()).sum();
    for server in &cluster.servers {
        let text = metrics(server).await;
        let entries = metric(&text, "ledger_raft_entries_persisted_total").unwrap();
        let syncs = metric(&text, "ledger_raft_syncs_total").unwrap();
        assert!(entries > 0.0 && syncs > 0.0, "{acknowledged} writes left no trace");
        assert!(syncs < entries, "{syncs} syncs for {entries} entries: nothing was shared");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_store_and_one_sync_serve_all_groups_of_a_node() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    shares_syncs_under_load(&cluster, &client).await;
    for server in &cluster.servers {
        let data = &server.spec().data_dir;
        let groups = groups(server).await;
        assert!(groups > 8, "{groups} groups");
        let status = client.status_of(&server.address()).await.unwrap();
        assert_eq!(status.groups.len() + usize::from(status.system.is_some()), groups);
        assert_eq!(files_named(data, "CURRENT").len(), 1, "one database below {}", data.display());
        let locks = open_files(server, |path| path.file_name().is_some_and(|name| name == "LOCK"));
        assert_eq!(locks.len(), 1, "{locks:?}");
        assert!(locks[0].starts_with(data), "{locks:?}");
        let logs = open_files(server, |path| {
            let is_log = path.extension().is_some_and(|extension| extension == "log");
            is_log && path.starts_with(data)
        });
        assert!(
            (1..=3).contains(&logs.len()),
            "one write-ahead log, not one for each group: {logs:?}"
        );
    }
}
