//! Servers that must not start, or must not be let in: each says why and leaves the running ones alone.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use ledger::demo::process::{READY_TIME_MAX, Server, ServerSpec, plan};
use ledger_proto::internal;
use ledger_proto::internal::peer_client::PeerClient;

use super::harness::{Cluster, Node, eventually, server_binary};

/// Longest time until a server that refuses to start has ended.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(15);

/// Starts a server that must end by itself, and returns what it said.
async fn refusal_to_start(spec: ServerSpec) -> String {
    let mut server = Server::start(spec).unwrap();
    let status = server.wait_exit(REFUSAL_TIME_MAX).await.unwrap();
    assert!(!status.success(), "it ended well: {}", server.log_tail());
    server.log_tail()
}

/// A server of its own cluster in a directory of the test, ready.
async fn founded_alone(cluster: &Cluster, name: &str) -> Server {
    let root = cluster.directory(name);
    let spec = plan(server_binary(), &root, 1).unwrap().remove(0);
    let mut server = Server::start(spec).unwrap();
    server.wait_ready(READY_TIME_MAX).await.unwrap();
    server
}

/// Moments after its first word at which a server is told to stop.
const EARLY_STOPS_MS: [u64; 12] = [0, 2, 5, 10, 20, 35, 50, 75, 100, 150, 250, 400];

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_told_to_stop_while_it_starts_stops_well() {
    let cluster = Cluster::start(1).await;
    let root = cluster.directory("early");
    let mut server = Server::start(plan(server_binary(), &root, 1).unwrap().remove(0)).unwrap();
    for (starts, delay_ms) in (1..).zip(EARLY_STOPS_MS) {
        eventually("the server says that it starts", || async {
            let said = std::fs::read_to_string(&server.spec().log_file).unwrap();
            let said = said.matches("node starts").count();
            if said == starts { Ok(()) } else { Err(format!("{said} starts of {starts}")) }
        })
        .await;
        // Nothing is waited for: each moment is another one to be told in.
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        let status = server.stop().await.unwrap();
        assert!(status.success(), "after {delay_ms} ms: {status}: {}", server.log_tail());
        server.resume().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_serves_one_server_and_one_name() {
    let mut cluster = Cluster::start(1).await;
    let vault = cluster.vaults("locked", 1).await[0];
    let mut second = cluster.spare("second");
    second.data_dir.clone_from(&cluster.servers[0].spec().data_dir);
    let said = refusal_to_start(second).await;
    assert!(said.contains("another server runs on this data directory"), "{said}");
    cluster.assert_ready().await;
    cluster.node(0).put(vault, "still", b"here").await.unwrap();

    cluster.servers[0].kill();
    let own = cluster.servers[0].spec().name.clone();
    let mut renamed = cluster.servers[0].spec().clone();
    renamed.name = "renamed".to_owned();
    let said = refusal_to_start(renamed).await;
    assert!(said.contains(&format!("belongs to the node named {own}")), "{said}");
    cluster.resume(0).await;
    assert_eq!(cluster.node(0).read(vault, "still").await.unwrap().unwrap(), b"here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_format_is_left_alone() {
    let mut cluster = Cluster::start(1).await;
    let vault = cluster.vaults("format", 1).await[0];
    cluster.node(0).put(vault, "kept", b"1").await.unwrap();
    cluster.servers[0].stop().await.unwrap();
    let identity = cluster.servers[0].spec().data_dir.join("ledger.identity");
    let written = std::fs::read_to_string(&identity).unwrap();
    let newer = written.replacen(" 1 ", " 2 ", 1);
    assert_ne!(newer, written, "{written}");
    std::fs::write(&identity, newer).unwrap();
    let said = refusal_to_start(cluster.servers[0].spec().clone()).await;
    assert!(said.contains("format 2") && said.contains("reads up to 1"), "{said}");
    std::fs::write(&identity, written).unwrap();
    cluster.resume(0).await;
    assert_eq!(cluster.node(0).read(vault, "kept").await.unwrap().unwrap(), b"1");
}

/// The answer to an introduction.
async fn hello(
    address: &str,
    identity: internal::PeerIdentity,
) -> internal::hello_response::Answer {
    let mut client = PeerClient::connect(format!("http://{address}")).await.unwrap();
    let lane = internal::Lane::Data.into();
    let request = internal::HelloRequest { identity: Some(identity), lane };
    client.hello(request).await.unwrap().into_inner().answer.unwrap()
}

fn refused(answer: internal::hello_response::Answer) -> internal::Refusal {
    match answer {
        internal::hello_response::Answer::Refusal(refusal) => refusal,
        internal::hello_response::Answer::Identity(_) => panic!("it was let in"),
    }
}

/// 16 bytes from 32 hexadecimal digits.
fn id(digits: &str) -> Vec<u8> {
    hex::decode(digits).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_do_not_mix() {
    let cluster = Cluster::start(1).await;
    let vault = cluster.vaults("here", 1).await[0];
    let mut other = founded_alone(&cluster, "other").await;
    let home = cluster.servers[0].address();
    let ours = cluster.node(0).status().await.unwrap().node.unwrap();
    let theirs = Node::at(&other.address()).status().await.unwrap().node.unwrap();
    assert_ne!(ours.cluster_id, theirs.cluster_id);

    // A node of the other cluster introduces itself.
    let stranger = internal::PeerIdentity {
        cluster_id: id(&theirs.cluster_id),
        store_id: id(&theirs.store_id),
        name: theirs.name.clone(),
        node_id: theirs.node_id,
        boot_counter: 1,
        protocol_version: 1,
        address: other.address(),
        feature_level: 1,
        instance_id: vec![1; 16],
    };
    let refusal = refused(hello(&home, stranger.clone()).await);
    assert_eq!(refusal.reason(), internal::RefusalReason::OtherCluster, "{refusal:?}");
    assert_eq!(refusal.cluster_id, id(&ours.cluster_id));

    // The same node claims to be one of ours.
    let pretender = internal::PeerIdentity { cluster_id: id(&ours.cluster_id), ..stranger };
    let refusal = refused(hello(&home, pretender).await);
    assert_eq!(refusal.reason(), internal::RefusalReason::UnknownStore, "{refusal:?}");

    // An empty directory whose peers belong to two clusters.
    let mut between = cluster.spare("between");
    between.founders = 3;
    between.peers = vec![home.clone(), other.address()];
    let said = refusal_to_start(between).await;
    assert!(said.contains("two clusters"), "{said}");

    // A directory of the other cluster among our peers.
    other.kill();
    let mut misplaced = other.spec().clone();
    misplaced.peers = vec![home.clone()];
    let said = refusal_to_start(misplaced).await;
    let (found, expected) = (&theirs.cluster_id, &ours.cluster_id);
    let told = format!("belongs to cluster {found}, the peers to cluster {expected}");
    assert!(said.contains(&told), "{said}");
    other.resume().unwrap();
    other.wait_ready(READY_TIME_MAX).await.unwrap();
    cluster.assert_ready().await;
    cluster.node(0).put(vault, "k", b"v").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_belongs_to_one_store() {
    let cluster = Cluster::start(1).await;
    let mut twin = cluster.spare("twin");
    twin.name.clone_from(&cluster.servers[0].spec().name);
    twin.founders = 3;
    twin.peers = vec![cluster.servers[0].address()];
    let said = refusal_to_start(twin).await;
    assert!(said.contains("NAME_TAKEN"), "{said}");
    cluster.assert_ready().await;
}

/// Runs the server's program with settings that it must not accept.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(server_binary());
    command.args(arguments).env_clear().envs(environment.iter().copied());
    command.output().unwrap()
}

fn assert_refused(output: &Output, expected: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it was accepted: {said}");
    for part in expected {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
}

#[test]
fn unknown_settings_are_refused_with_a_suggestion() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let output = run(&["serve"], &[("LEDGER_DATA_DIRR", data)]);
    assert_refused(&output, &["LEDGER_DATA_DIRR", "environment", "LEDGER_DATA_DIR`"]);
    let output = run(&["serve", "--data-dirr", data], &[]);
    assert_refused(&output, &["--data-dirr", "--data-dir"]);
    let file = folder.path().join("ledger.toml");
    std::fs::write(&file, format!("data_dirr = {data:?}\n")).unwrap();
    let output = run(&["serve", "--config", file.to_str().unwrap()], &[]);
    assert_refused(&output, &["data_dirr", "file", "`data_dir`"]);
    let output = run(&["serve"], &[("LEDGER_DATA_DIR", data), ("LEDGER_LISTEN_ADDR", "localhost")]);
    assert_refused(&output, &["listen-addr", "localhost"]);
    let output = run(&["serve", "--config", "/no/such/file"], &[]);
    assert_refused(&output, &["/no/such/file"]);
    assert!(!Path::new(data).exists(), "nothing is made before the settings are accepted");
}
