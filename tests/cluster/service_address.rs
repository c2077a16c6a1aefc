//! One address for a whole cluster: behind it any node answers, as behind a service or a load balancer; and names
//! in place of addresses.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ledger_client::{Client, ClientConfig, Consistency, TrustSource, VerifiedOptions};
use ledger_types::{StateKey, VaultRef};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::harness::{Cluster, WAIT_MAX};
use super::proofs::set;

const CONNECTIONS: usize = 3;
/// Writers at once, and what each writes.
const WRITERS: usize = 4;
const WRITES: usize = 30;

/// Hands each new connection to the next node that accepts it.
struct Service {
    port: u16,
    /// Connections that each node got.
    handed: Arc<[AtomicUsize]>,
}

impl Service {
    async fn start(nodes: Vec<String>) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let handed: Arc<[AtomicUsize]> = nodes.iter().map(|_| AtomicUsize::new(0)).collect();
        let counts = handed.clone();
        tokio::spawn(async move {
            let mut turn = 0;
            while let Ok((inbound, _)) = listener.accept().await {
                for _ in 0..nodes.len() {
                    let number = turn % nodes.len();
                    turn += 1;
                    let Ok(outbound) = TcpStream::connect(&nodes[number]).await else { continue };
                    counts[number].fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(join(inbound, outbound));
                    break;
                }
            }
        });
        Service { port, handed }
    }

    fn handed(&self) -> Vec<usize> {
        self.handed.iter().map(|count| count.load(Ordering::SeqCst)).collect()
    }
}

/// Carries bytes both ways until either side ends.
async fn join(mut inbound: TcpStream, mut outbound: TcpStream) {
    // A broken connection is what a killed node leaves; both sides are closed then.
    let _ = tokio::io::copy_bidirectional(&mut inbound, &mut outbound).await;
}

fn config(address: String, state_dir: &Path) -> ClientConfig {
    let mut config = ClientConfig::new(vec![address]);
    config.trust = TrustSource::FirstUse;
    config.state_dir = Some(state_dir.to_owned());
    config.connections_per_node = CONNECTIONS;
    config.deadline = WAIT_MAX;
    config
}

/// A writer's n-th key, which holds its own name.
fn key(writer: usize, number: usize) -> String {
    format!("k/{writer}/{number}")
}

/// Writes, reads and proves key after key.
async fn work(client: Client, vault: VaultRef, writer: usize, done: Arc<AtomicUsize>) {
    for number in 0..WRITES {
        let key = key(writer, number);
        let written = client.write(vault, vec![set(&key, key.as_bytes())]).await.unwrap();
        let read = client.read(vault, &key, Consistency::Linearizable).await.unwrap();
        assert_eq!(read.value.as_deref(), Some(key.as_bytes()));
        let wanted = VerifiedOptions { min_height: written.height, ..VerifiedOptions::default() };
        let proved = client.verified_get(vault, &[StateKey::entity(&key)], wanted).await.unwrap();
        assert_eq!(proved.into_single_value().as_deref(), Some(key.as_bytes()));
        done.fetch_add(1, Ordering::SeqCst);
    }
}

/// The number of the server that leads the data group.
async fn leader(cluster: &Cluster) -> usize {
    let groups = cluster.node(0).groups().await.unwrap();
    usize::try_from(groups[&1].leader_node_id).unwrap() - 1
}

/// Everything that was written, by a proved list.
async fn everything(client: &Client, vault: VaultRef) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let list = ledger_client::ListOf::Entities("k/".to_owned());
    let wanted =
        VerifiedOptions { consistency: Consistency::Linearizable, ..VerifiedOptions::default() };
    let list = client.whole_verified_list(vault, list, 10_000, wanted).await.unwrap();
    list.items.into_iter().map(|item| (item.key, item.value)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_for_all_nodes_serves_while_a_node_dies() {
    let mut cluster = Cluster::start_with(3, &[("LEDGER_SHARDS", "1")]).await;
    let vault = cluster.vaults("service", 1).await[0];
    let service = Service::start(cluster.addresses()).await;
    let address = format!("127.0.0.1:{}", service.port);
    let directory = cluster.directory("client");
    // Asked for nothing that tells other nodes, so that the service's address is the only one known.
    let client = Client::unconnected(config(address.clone(), &directory)).unwrap();
    for _ in 0..4 * CONNECTIONS {
        client.server_info().await.unwrap();
    }
    assert_eq!(client.addresses(), [address]);
    assert_eq!(service.handed(), [1, 1, 1], "each connection leads to another node");

    let done = Arc::new(AtomicUsize::new(0));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(work(client.clone(), vault, writer, done.clone()));
    }
    super::harness::eventually("a third is written", || async {
        let count = done.load(Ordering::SeqCst);
        if count >= WRITERS * WRITES / 3 { Ok(()) } else { Err(count) }
    })
    .await;
    let victim = leader(&cluster).await;
    cluster.servers[victim].kill();
    assert!(done.load(Ordering::SeqCst) < WRITERS * WRITES, "the node was to die in the middle");
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    let expected: BTreeMap<Vec<u8>, Vec<u8>> = (0..WRITERS)
        .flat_map(|writer| (0..WRITES).map(move |number| key(writer, number)))
        .map(|key| (StateKey::entity(&key).as_bytes().to_vec(), key.into_bytes()))
        .collect();
    assert_eq!(everything(&client, vault).await, expected);

    // A client that comes now finds the nodes that are left, by a name as well as by an address.
    let before = service.handed();
    let late = format!("localhost:{}", service.port);
    let late = Client::connect(config(late, &cluster.directory("late"))).await.unwrap();
    assert_eq!(everything(&late, vault).await, expected);
    late.write(vault, vec![set("k/late", b"k/late")]).await.unwrap();
    let after = service.handed();
    assert_eq!(after[victim], before[victim], "nothing goes to the dead node");
    assert!(after.iter().sum::<usize>() > before.iter().sum(), "{before:?} {after:?}");
}
