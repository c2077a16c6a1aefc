//! Files of vaults that operators ask for: what is in them, on which disk they are, and when they go.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
#[cfg(feature = "failpoints")]
use std::time::Duration;

use ledger::demo::process::Server;
#[cfg(feature = "failpoints")]
use ledger::test_hooks::{POINTS_VARIABLE, SEEN_SUFFIX};
use ledger_client::SnapshotManifest;
use ledger_proto::v1;
use ledger_types::{NamespaceId, VaultId, VaultRef};
use serde_json::Value;
#[cfg(feature = "failpoints")]
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::command_line::Tool;
use super::deletion::delete_vault;
use super::harness::{Cluster, Node, eventually, grant, set, why, wire, write_request};

/// Relationships of a vault: more than are read at once.
const MANY: usize = 24_000;

/// The directory of all snapshots of vaults of a node.
fn root(server: &Server) -> PathBuf {
    server.spec().data_dir.join("vault-snapshots")
}

/// The names of a vault's snapshots on a node, with everything else beside them.
fn names(server: &Server, vault: VaultRef) -> BTreeSet<String> {
    let folder = root(server).join(format!("{}-{}", vault.namespace, vault.vault));
    let Ok(entries) = std::fs::read_dir(folder) else { return BTreeSet::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

async fn snapshot(node: &Node, vault: VaultRef) -> Result<v1::CreateSnapshotResponse, Status> {
    let (namespace_id, vault_id) = wire(vault);
    let request = v1::CreateSnapshotRequest { namespace_id, vault_id };
    Ok(node.admin().create_snapshot(request).await?.into_inner())
}

/// A snapshot that must be there, whole, of the state that its block commits to, and of this node's disk.
async fn whole(cluster: &Cluster, number: usize, vault: VaultRef) -> (u64, PathBuf) {
    let (node, spec) = (cluster.node(number), cluster.servers[number].spec());
    let told = eventually("a snapshot is written", || snapshot(&node, vault)).await;
    assert_eq!(told.node_id, Some(v1::NodeId { id: spec.name.clone() }));
    let path = PathBuf::from(&told.snapshot_path);
    assert!(path.starts_with(root(&cluster.servers[number])), "{path:?}");
    let manifest = SnapshotManifest::beside(&path).unwrap().unwrap();
    manifest.check(&path).unwrap();
    let (namespace_id, vault_id) = wire(vault);
    let request = v1::GetBlockRequest { namespace_id, vault_id, height: told.block_height };
    let block = node.reads().get_block(request).await.unwrap().into_inner().block.unwrap();
    assert_eq!(told.state_root, block.header.unwrap().state_root);
    assert_eq!((manifest.vault.clone(), manifest.height), (vault.to_string(), told.block_height));
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count() as u64, manifest.entities + manifest.relationships);
    (told.block_height, path)
}

fn json(tool: &Tool<'_>, line: &str) -> Value {
    let output = tool.command(&format!("{line} -o json")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{line}: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn on(command: &str, vault: VaultRef) -> String {
    format!("{command} -n {} -v {}", vault.namespace, vault.vault)
}

/// What a vault holds, as the tool exports it.
fn exported(tool: &Tool<'_>, vault: VaultRef, rest: &str) -> String {
    let line = on("export", vault);
    let output = tool.command(&format!("{line} - {rest}")).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{line}");
    String::from_utf8(output.stdout).unwrap()
}

async fn fill(node: &Node, vault: VaultRef) {
    let ties = (0..MANY).map(|number| grant(&format!("doc:{number:06}"), "viewer", "user:a"));
    let ties: Vec<_> = ties.collect();
    for part in ties.chunks(8_000) {
        node.writes().write(write_request(vault, part.to_vec())).await.unwrap();
    }
    let mut entities = vec![set("binary", &[0xff, 0]), set("text", b"say \"x\"")];
    for (key, expires_at) in [("later", 4_102_444_800), ("expired", 1)] {
        let (key, value) = (key.to_owned(), b"v".to_vec());
        let one = v1::SetEntity { key, value, expires_at: Some(expires_at), condition: None };
        entities.push(v1::Operation { op: Some(v1::operation::Op::SetEntity(one)) });
    }
    node.writes().write(write_request(vault, entities)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_is_written_to_a_file_that_an_import_reads() {
    // What has expired stays in the state, and out of the file.
    let settings = [("LEDGER_SHARDS", "1"), ("LEDGER_EXPIRY_INTERVAL_MS", "0")];
    let cluster = Cluster::start_with(3, &settings).await;
    let vaults = cluster.vaults("kept", 2).await;
    let (vault, copy) = (vaults[0], vaults[1]);
    let folder = cluster.directory("tool");
    let tool = Tool { folder: &folder, endpoints: cluster.addresses().join(",") };
    fill(&cluster.node(0), vault).await;
    let mut files = Vec::new();
    for number in 0..3 {
        // Acknowledged by another node a moment ago, and in the file nevertheless.
        let written = cluster.node((number + 1) % 3).put(vault, "seen", b"1").await.unwrap();
        let (height, path) = whole(&cluster, number, vault).await;
        assert!(height >= written, "{height} of {written}");
        files.push((height, path));
    }
    let (height, path) = files.pop().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), MANY + 4, "the one that had expired is not in it");
    // Once more is the same file, and another node's has the same bytes.
    assert_eq!(whole(&cluster, 2, vault).await, (height, path.clone()));
    let (same, other) = whole(&cluster, 0, vault).await;
    assert_eq!((same, std::fs::read_to_string(other).unwrap()), (height, text.clone()));

    let change = vec![set("text", b"new"), grant("doc:000000", "viewer", "user:b")];
    cluster.node(0).writes().write(write_request(vault, change)).await.unwrap();
    assert_eq!(exported(&tool, vault, &format!("--at-height {height}")), text);
    assert_ne!(exported(&tool, vault, ""), text);
    let path = path.display();
    let imported = json(&tool, &format!("{} {path}", on("import", copy)));
    assert_eq!((&imported["entities"], &imported["relationships"]), (&4.into(), &MANY.into()));
    assert_eq!(exported(&tool, copy, ""), text);

    by_the_tool(&cluster, &tool, vault).await;
    are_refused(&cluster, vault).await;
    the_directory_is_written_too(&cluster, vault).await;
}

/// The tool names the node and takes no file that is not what its manifest says.
async fn by_the_tool(cluster: &Cluster, tool: &Tool<'_>, vault: VaultRef) {
    let mut heights = Vec::new();
    for round in 0..4_u8 {
        let height = cluster.node(0).put(vault, "round", &[round]).await.unwrap();
        let address = cluster.servers[1].address();
        let told = json(tool, &format!("{} --node {address}", on("vault snapshot", vault)));
        assert_eq!((&told["height"], &told["node"]), (&height.into(), &"1".into()));
        heights.push(height);
    }
    let expected = heights.iter().skip(1).flat_map(|height| {
        let name = format!("vault-{}-{}-height-{height}.jsonl", vault.namespace, vault.vault);
        [format!("{name}.manifest"), name]
    });
    assert_eq!(names(&cluster.servers[1], vault), expected.collect(), "the newest three");
    let told = json(tool, &on("vault snapshot", vault));
    let path = Path::new(told["path"].as_str().unwrap());
    let taken = tool.folder.join("taken.jsonl");
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(&taken, &bytes[..bytes.len() - 40]).unwrap();
    std::fs::copy(SnapshotManifest::path(path), SnapshotManifest::path(&taken)).unwrap();
    let said = tool.fails("import -n 1 -v 2 taken.jsonl", 2);
    assert!(said.contains("its manifest says"), "{said}");
}

async fn are_refused(cluster: &Cluster, vault: VaultRef) {
    for node in cluster.nodes() {
        let unknown = VaultRef { vault: VaultId(4_711), ..vault };
        let refused = snapshot(&node, unknown).await.unwrap_err();
        assert_eq!(why(&refused), (Code::NotFound, "VAULT_NOT_FOUND".to_owned()));
        let unknown = VaultRef { namespace: NamespaceId(4_711), vault: VaultId(0) };
        let refused = snapshot(&node, unknown).await.unwrap_err();
        assert_eq!(why(&refused), (Code::NotFound, "NAMESPACE_NOT_FOUND".to_owned()));
        let nothing = v1::CreateSnapshotRequest::default();
        let refused = node.admin().create_snapshot(nothing).await.unwrap_err();
        assert_eq!(why(&refused), (Code::InvalidArgument, "INVALID_ARGUMENT".to_owned()));
    }
}

/// The directory, and a namespace's own entities, which a request without a vault means.
async fn the_directory_is_written_too(cluster: &Cluster, vault: VaultRef) {
    let (_, path) = whole(cluster, 0, VaultRef::SYSTEM).await;
    assert!(std::fs::read_to_string(path).unwrap().lines().count() > 4, "nodes, shards, vaults");
    let own = VaultRef { vault: VaultId(0), ..vault };
    let request = v1::CreateSnapshotRequest { namespace_id: wire(vault).0, vault_id: None };
    cluster.node(1).admin().create_snapshot(request).await.unwrap();
    assert_eq!(names(&cluster.servers[1], own).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_a_purged_vault_go_from_every_node_and_no_others() {
    let settings = [("LEDGER_SHARDS", "1"), ("LEDGER_DELETED_RETENTION_S", "0")];
    let cluster = Cluster::start_with(3, &settings).await;
    let vaults = cluster.vaults("purged", 2).await;
    for number in 0..3 {
        for vault in &vaults {
            whole(&cluster, number, *vault).await;
        }
    }
    delete_vault(&cluster.node(0), vaults[0]).await.unwrap();
    for (node, server) in cluster.nodes().iter().zip(&cluster.servers) {
        let refused = snapshot(node, vaults[0]).await.unwrap_err();
        assert_eq!(why(&refused), (Code::NotFound, "VAULT_DELETED".to_owned()));
        eventually("the files of a purged vault are removed", || async {
            let left = names(server, vaults[0]);
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
        assert_eq!(names(server, vaults[1]).len(), 2, "of a vault that is not deleted");
    }
}

/// Asks for a snapshot until no other one is in the way.
#[cfg(feature = "failpoints")]
async fn in_turn(
    node: &Node,
    vault: VaultRef,
    time: Option<Duration>,
) -> Result<v1::CreateSnapshotResponse, Status> {
    let (namespace_id, vault_id) = wire(vault);
    eventually("a place is free", || async {
        let mut request = tonic::Request::new(v1::CreateSnapshotRequest { namespace_id, vault_id });
        if let Some(time) = time {
            request.set_timeout(time);
        }
        match node.admin().create_snapshot(request).await {
            Err(status) if why(&status).1 == "OVERLOADED" => Err(status),
            told => Ok(told.map(tonic::Response::into_inner)),
        }
    })
    .await
}

/// Where every page of a snapshot passes.
#[cfg(feature = "failpoints")]
const PAGE: &str = "vault_snapshot::page";

/// A node whose snapshots stop at a page while the file says so.
#[cfg(feature = "failpoints")]
struct Stopped {
    cluster: Cluster,
    points: PathBuf,
    _folder: tempfile::TempDir,
}

#[cfg(feature = "failpoints")]
impl Stopped {
    async fn start() -> Stopped {
        let folder = tempfile::tempdir().unwrap();
        let points = folder.path().join("points");
        let setting = (POINTS_VARIABLE, points.to_str().unwrap());
        let settings = [setting, ("LEDGER_REPLICATION_FACTOR", "1"), ("LEDGER_SHARDS", "1")];
        Stopped { cluster: Cluster::start_with(1, &settings).await, points, _folder: folder }
    }

    fn server(&self) -> &Server {
        &self.cluster.servers[0]
    }

    /// Lets pages pass or not, from now on.
    async fn set(&self, passes: bool) {
        let text = if passes { String::new() } else { format!("{PAGE}=pause\n") };
        std::fs::write(&self.points, &text).unwrap();
        let mut seen = self.points.clone().into_os_string();
        seen.push(SEEN_SUFFIX);
        eventually("the fail points hold", || async {
            let found = std::fs::read_to_string(&seen).unwrap_or_default();
            if found == text { Ok(()) } else { Err(found) }
        })
        .await;
    }

    /// Asks for a snapshot and waits until it stops.
    async fn begin(
        &self,
        vault: VaultRef,
    ) -> JoinHandle<Result<v1::CreateSnapshotResponse, Status>> {
        self.set(false).await;
        let node = self.cluster.node(0);
        let asked = tokio::spawn(async move { in_turn(&node, vault, None).await });
        eventually("a snapshot is begun", || async {
            let found = names(self.server(), vault);
            if found.iter().any(|name| name.ends_with(".part")) { Ok(()) } else { Err(found) }
        })
        .await;
        asked
    }

    /// Waits until nothing is left of a vault's snapshots, once pages pass.
    async fn assert_left_nothing(&self, vault: VaultRef) {
        self.set(true).await;
        eventually("nothing is left", || async {
            let left = names(self.server(), vault);
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
    }
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_snapshot_that_is_not_finished() {
    let mut bench = Stopped::start().await;
    let vaults = bench.cluster.vaults("unfinished", 3).await;
    let [late, deleted, killed] = vaults[..] else { panic!("{vaults:?}") };
    let node = bench.cluster.node(0);
    // A client that leaves. There is no place for another while it is served.
    let asked = bench.begin(late).await;
    let refused = snapshot(&node, killed).await.unwrap_err();
    assert_eq!(why(&refused), (Code::ResourceExhausted, "OVERLOADED".to_owned()));
    asked.abort();
    bench.assert_left_nothing(late).await;
    // A deadline that passes in between.
    bench.set(false).await;
    let refused = in_turn(&node, late, Some(Duration::from_millis(500))).await.unwrap_err();
    assert!(matches!(refused.code(), Code::DeadlineExceeded | Code::Cancelled), "{refused:?}");
    bench.assert_left_nothing(late).await;
    // A vault that is deleted meanwhile.
    let asked = bench.begin(deleted).await;
    delete_vault(&node, deleted).await.unwrap();
    bench.set(true).await;
    let refused = asked.await.unwrap().unwrap_err();
    assert_eq!(why(&refused), (Code::NotFound, "VAULT_DELETED".to_owned()));
    bench.assert_left_nothing(deleted).await;
    // A process that ends.
    let asked = bench.begin(killed).await;
    bench.cluster.servers[0].kill();
    assert!(asked.await.unwrap().is_err());
    assert_eq!(names(bench.server(), killed).len(), 1);
    std::fs::write(&bench.points, "").unwrap();
    bench.cluster.resume(0).await;
    assert!(names(bench.server(), killed).is_empty());
    whole(&bench.cluster, 0, killed).await;
}
