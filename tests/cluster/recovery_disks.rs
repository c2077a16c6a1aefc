//! Disks that are lost, copied or put back: an empty one gets everything anew as another node, and no two
//! processes ever speak for one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use ledger::demo::process::Server;
use ledger::demo::vaults::make_vault;
use ledger_client::{Client, ClientConfig, TrustSource, VerifiedOptions};
use ledger_proof::VerifiedValue;
use ledger_proof::system_entity::{NodeEntity, NodeState, SystemEntity as _, node_key};
use ledger_proto::v1;
use ledger_types::{NodeId, Operation, StateKey, VaultRef};

use super::alike::assert_alike;
use super::harness::{Cluster, Node, WAIT_MAX, eventually, refusal_of};
use super::load::{Load, assert_held};

/// Two data shards beside the directory, and a clock that makes elections quick.
const SETTINGS: [(&str, &str); 2] = [("LEDGER_SHARDS", "2"), ("LEDGER_TICK_MS", "20")];
/// Groups of the cluster, the directory's among them.
const GROUPS: usize = 3;
/// A store that was silent for this long is taken to be gone (docs/recovery.md).
const SILENCE: Duration = Duration::from_secs(10);
const FRESH: VerifiedOptions = VerifiedOptions::linearizable();

/// A client that believes whom it believed first, and no other.
async fn trusting(cluster: &Cluster, trust: TrustSource, state_dir: &Path) -> Client {
    let mut config = ClientConfig::new(cluster.addresses());
    config.trust = trust;
    config.state_dir = Some(state_dir.to_owned());
    config.deadline = WAIT_MAX;
    Client::connect(config).await.unwrap()
}

/// Runs `ledger-cli` with what it remembers in a directory of its own.
fn run_tool(cluster: &Cluster, folder: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ledger-cli"));
    command
        .args(line.split_whitespace())
        .current_dir(folder)
        .env_clear()
        .env("LEDGER_ENDPOINTS", cluster.addresses().join(","))
        .env("LEDGER_STATE_DIR", folder.join("state"));
    command.output().unwrap()
}

/// Asserts that `ledger-cli` shows a key's value and calls it verified.
fn assert_tool_verifies(cluster: &Cluster, folder: &Path, line: &str, value: &str) {
    let output = run_tool(cluster, folder, line);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{line}: {said}");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["verified"], &answer["items"][0]["value"]), (&true.into(), &value.into()));
}

fn set(key: &str, value: &[u8]) -> Operation {
    let (key, value) = (key.to_owned(), value.to_vec());
    Operation::SetEntity { key, value, expires_at: 0, condition: None }
}

/// Number in the directory, and store, of the node in each place.
async fn identities(cluster: &Cluster) -> Vec<(u64, String)> {
    let mut identities = Vec::new();
    for node in cluster.nodes() {
        let summary = node.status().await.unwrap().node.unwrap();
        identities.push((summary.node_id, summary.store_id));
    }
    identities
}

/// What the directory says of a node, proved.
async fn registered(client: &Client, node: u64) -> NodeEntity {
    let key = StateKey::entity(&node_key(NodeId(node)));
    let answer = client.verified_get(VaultRef::SYSTEM, &[key], FRESH).await.unwrap();
    let VerifiedValue::Present { value, .. } = &answer.values()[0] else { panic!("{answer:?}") };
    NodeEntity::decode(value).unwrap()
}

/// Waits until exactly these nodes vote in every group, on every node's word, and nothing is on its way.
async fn wait_voters(cluster: &Cluster, expected: &BTreeSet<u64>) {
    let is_settled = |status: &v1::GroupStatus| {
        let voters: BTreeSet<u64> = status.voters.iter().copied().collect();
        let conf = status.configuration.clone().unwrap_or_default();
        let is_stable = conf.voters_outgoing.is_empty() && conf.learners.is_empty();
        voters == *expected
            && is_stable
            && conf.voters.len() == expected.len()
            && status.snapshot_phase() == v1::SnapshotPhase::None
            && !status.is_asleep
    };
    eventually("the new node votes everywhere", || async {
        for (number, node) in cluster.nodes().iter().enumerate() {
            let groups = node.groups().await.map_err(|status| status.to_string())?;
            let unsettled = groups.values().find(|status| !is_settled(status));
            if groups.len() != GROUPS || unsettled.is_some() {
                return Err(format!("{} groups at {number}: {unsettled:?}", groups.len()));
            }
        }
        Ok(())
    })
    .await;
}

/// A cluster of which one node's disk was replaced by an empty one, and what was there before.
struct Replaced {
    cluster: Cluster,
    vaults: Vec<VaultRef>,
    victim: usize,
    /// The disk, kept aside.
    old_disk: PathBuf,
}

/// Takes a node's disk away while everybody writes, starts the node again under the same name, and sees it
/// come to vote in every group under another number.
async fn replace_disk(leads_directory: bool) -> Replaced {
    let mut cluster = Cluster::start_with(3, &SETTINGS).await;
    let client = cluster.client().await;
    let namespace = client.ensure_namespace("disks").await.unwrap();
    let mut vaults = BTreeMap::new();
    while vaults.len() < GROUPS - 1 {
        let (vault, genesis) = make_vault(&client, namespace).await.unwrap();
        vaults.insert(genesis.shard, vault);
    }
    let vaults: Vec<VaultRef> = vaults.into_values().collect();
    let (state_dir, tool_dir) = (cluster.directory("client"), cluster.directory("tool"));
    client.write(vaults[0], vec![set("pinned", b"before")]).await.unwrap();
    let first = trusting(&cluster, TrustSource::FirstUse, &state_dir).await;
    let key = [StateKey::entity("pinned")];
    first.verified_get(vaults[0], &key, FRESH).await.unwrap();
    let get = format!("get -n disks -v {} --linearizable --key pinned -o json", vaults[0].vault);
    let line = format!("--trust-on-first-use {get}");
    assert_tool_verifies(&cluster, &tool_dir, &line, "before");

    let before = identities(&cluster).await;
    let leader = cluster.node(0).status().await.unwrap().system.unwrap().leader_node_id;
    let is_victim = |(node, _): &(u64, String)| (*node == leader) == leads_directory;
    let victim = before.iter().position(is_victim).unwrap();
    let mut load = Load::start(&client, &vaults, 1);
    load.wait_more(20).await;
    let data_dir = cluster.servers[victim].spec().data_dir.clone();
    let old_disk = data_dir.with_extension("old");
    cluster.servers[victim].kill();
    std::fs::rename(&data_dir, &old_disk).unwrap();
    load.wait_more(20).await;
    cluster.resume(victim).await;
    let after = identities(&cluster).await;
    let (old, new) = (&before[victim], &after[victim]);
    assert!(new.0 > 3 && new.1 != old.1, "{old:?} came back as {new:?}");
    let voters = after.iter().map(|(node, _)| *node).collect();
    wait_voters(&cluster, &voters).await;
    let installed = cluster.metric(victim, "ledger_snapshots_installed_total").await;
    assert!(installed >= GROUPS as f64, "{installed} snapshots for {GROUPS} groups");
    load.wait_more(5).await;
    let acknowledged = load.finish().await;
    assert_alike(&cluster, &vaults).await;
    assert_held(&cluster.replicas(), &acknowledged).await;

    // The directory says what happened, in the trust that was pinned before it did.
    client.write(vaults[0], vec![set("pinned", b"after")]).await.unwrap();
    let pinned = trusting(&cluster, TrustSource::Pinned, &state_dir).await;
    let (gone, come) = (registered(&pinned, old.0).await, registered(&pinned, new.0).await);
    assert_eq!((gone.state, come.state), (NodeState::Removed, NodeState::Active));
    assert_eq!((&gone.name, gone.store_id.to_string()), (&come.name, old.1.clone()));
    assert_eq!(come.store_id.to_string(), new.1);
    let answer = pinned.verified_get(vaults[0], &key, FRESH).await.unwrap();
    assert_eq!(answer.into_single_value().as_deref(), Some(&b"after"[..]));
    assert_tool_verifies(&cluster, &tool_dir, &get, "after");
    Replaced { cluster, vaults, victim, old_disk }
}

/// Another node ends: without the new one's vote nothing could be written any more.
async fn assert_its_vote_counts(replaced: &mut Replaced) {
    let Replaced { cluster, vaults, victim, .. } = replaced;
    let other = (*victim + 1) % 3;
    cluster.servers[other].kill();
    let client = cluster.client().await;
    for &vault in &*vaults {
        client.write(vault, vec![set("by-two", b"1")]).await.unwrap();
    }
    client.ensure_namespace("by-two").await.unwrap();
    let key = [StateKey::entity("by-two")];
    let state_dir = cluster.directory("client");
    let pinned = trusting(cluster, TrustSource::Pinned, &state_dir).await;
    let answer = pinned.verified_get(vaults[0], &key, FRESH).await.unwrap();
    assert_eq!(answer.into_single_value().as_deref(), Some(&b"1"[..]));
    cluster.resume(other).await;
    assert_alike(cluster, vaults).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_disk_of_a_follower_is_filled_and_the_old_one_stays_out() {
    let mut replaced = replace_disk(false).await;
    assert_its_vote_counts(&mut replaced).await;
    // The old disk under its old name, on ports of its own.
    let Replaced { cluster, vaults, victim, old_disk } = replaced;
    let mut spec = cluster.spare("old");
    spec.name.clone_from(&cluster.servers[victim].spec().name);
    spec.data_dir = old_disk;
    spec.founders = 3;
    spec.peers = cluster.addresses();
    spec.environment.clone_from(&cluster.servers[victim].spec().environment);
    for attempt in 0..2 {
        let mut old = Server::start(spec.clone()).unwrap();
        let said = refusal_of(&mut old).await;
        assert!(said.contains("this node was removed from the cluster"), "{attempt}: {said}");
        assert!(!said.contains("node serves"), "it served before it ended: {said}");
    }
    cluster.assert_ready().await;
    cluster.node(victim).put_in_time(vaults[0], "still", b"1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_disk_of_the_directorys_leader_is_filled() {
    let mut replaced = replace_disk(true).await;
    assert_its_vote_counts(&mut replaced).await;
    replaced.cluster.assert_ready().await;
}

/// Copies a directory with everything in it.
fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}

const COPY: &str = "this data directory is a copy or was rolled back";

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_disk_never_serves_beside_or_after_its_original() {
    let mut cluster = Cluster::start_with(3, &SETTINGS).await;
    let vault = cluster.vaults("copies", 1).await[0];
    let client = cluster.client().await;
    client.write(vault, vec![set("k", b"1")]).await.unwrap();
    let original = 2;
    assert!(cluster.servers[original].stop().await.unwrap().success());
    let data_dir = cluster.servers[original].spec().data_dir.clone();
    let copies = ["beside", "after"].map(|name| cluster.directory("copies").join(name));
    for copy in &copies {
        copy_directory(&data_dir, copy);
    }
    cluster.resume(original).await;
    client.write(vault, vec![set("k", b"2")]).await.unwrap();

    // Both at once: the copy has the same count of starts, under another address.
    let mut beside = cluster.spare("beside");
    beside.name.clone_from(&cluster.servers[original].spec().name);
    beside.data_dir.clone_from(&copies[0]);
    beside.peers = cluster.addresses();
    beside.founders = 3;
    let mut copy = Server::start(beside).unwrap();
    let said = refusal_of(&mut copy).await;
    assert!(said.contains(COPY), "{said}");
    // It was told for good: as often as it is started again, it stays out.
    copy.resume().unwrap();
    let said = refusal_of(&mut copy).await;
    assert!(said.contains(COPY), "{said}");
    cluster.assert_ready().await;
    let through = Node::at(&cluster.servers[original].address());
    through.put_in_time(vault, "k", b"3").await;
    assert_eq!(through.read(vault, "k").await.unwrap().as_deref(), Some(&b"3"[..]));

    // In the original's place, with its count of starts, when nobody has heard of the original for long.
    assert!(cluster.servers[original].stop().await.unwrap().success());
    // Time itself is the condition: nothing tells when the others begin to take the original for gone.
    tokio::time::sleep(SILENCE + Duration::from_secs(1)).await;
    cluster.servers[original].spec_mut().data_dir.clone_from(&copies[1]);
    cluster.servers[original].resume().unwrap();
    let said = refusal_of(&mut cluster.servers[original]).await;
    assert!(said.contains(COPY), "{said}");

    // The original may come back, and has everything.
    cluster.servers[original].spec_mut().data_dir = data_dir;
    cluster.resume(original).await;
    client.write(vault, vec![set("k", b"4")]).await.unwrap();
    assert_alike(&cluster, &[vault]).await;
}
