//! A cluster for one test, and the calls that tests make again and again.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ledger::demo::process::{self, READY_TIME_MAX, Server, ServerSpec};
use ledger::demo::replicas::Replica;
use ledger::demo::vaults::make_vault;
use ledger_client::{Client, ClientConfig};
use ledger_proto::v1;
use ledger_proto::v1::admin_service_client::AdminServiceClient;
use ledger_proto::v1::ledger_client::LedgerClient;
use ledger_proto::v1::read_service_client::ReadServiceClient;
use ledger_proto::v1::write_service_client::WriteServiceClient;
use ledger_types::VaultRef;
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Last lines of each node's log that a failed test shows.
const LOG_LINES_SHOWN: usize = 8;
/// Longest time for anything that a test waits for.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(30);
/// Longest time until a server that must not run has ended.
const END_TIME_MAX: Duration = Duration::from_secs(15);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Clusters at a time. A test waits for elections and deadlines for most of its time, so two take little more of a small
/// machine than one.
static TURN: Semaphore = Semaphore::const_new(2);

/// Waits until there is room for one more cluster.
pub(crate) async fn take_turn() -> SemaphorePermit<'static> {
    TURN.acquire().await.expect("the semaphore is never closed")
}

/// The server's program.
pub(crate) fn server_binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_ledger"))
}

/// Servers in a directory of their own. Dropping it kills them and removes the directory.
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
    folder: TempDir,
    _turn: SemaphorePermit<'static>,
}

impl Cluster {
    /// Founds a cluster of this many nodes and waits until all serve.
    pub(crate) async fn start(nodes: usize) -> Cluster {
        Cluster::start_with(nodes, &[]).await
    }

    /// The same with more settings, by environment variable.
    pub(crate) async fn start_with(nodes: usize, environment: &[(&str, &str)]) -> Cluster {
        let turn = take_turn().await;
        let folder = tempfile::tempdir().unwrap();
        let mut specs = process::plan(server_binary(), folder.path(), nodes).unwrap();
        for spec in &mut specs {
            let pairs = environment.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            spec.environment.extend(pairs);
        }
        let servers = process::start_all(specs).await.unwrap();
        Cluster { servers, folder, _turn: turn }
    }

    /// A directory of this name, made now.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// A plan for one more server, on a directory of its own.
    pub(crate) fn spare(&self, name: &str) -> ServerSpec {
        let root = self.directory(name);
        let mut spec = process::plan(server_binary(), &root, 1).unwrap().remove(0);
        spec.name = name.to_owned();
        spec
    }

    /// Every node's gRPC address.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(Server::address).collect()
    }

    /// The calls of one node.
    pub(crate) fn node(&self, number: usize) -> Node {
        Node::at(&self.servers[number].address())
    }

    /// The calls of every node.
    pub(crate) fn nodes(&self) -> Vec<Node> {
        (0..self.servers.len()).map(|number| self.node(number)).collect()
    }

    /// Every node as a holder of replicas.
    pub(crate) fn replicas(&self) -> Vec<Replica> {
        self.addresses().iter().map(|address| Replica::at(address).unwrap()).collect()
    }

    /// A client of the SDK that knows all nodes.
    pub(crate) async fn client(&self) -> Client {
        let mut config = ClientConfig::new(self.addresses());
        config.deadline = WAIT_MAX;
        config.retry.backoff_max = Duration::from_millis(100);
        Client::connect(config).await.unwrap()
    }

    /// A new namespace with this many vaults.
    pub(crate) async fn vaults(&self, namespace: &str, count: usize) -> Vec<VaultRef> {
        let client = self.client().await;
        let namespace = client.ensure_namespace(namespace).await.unwrap();
        let mut vaults = Vec::new();
        for _ in 0..count {
            vaults.push(make_vault(&client, namespace).await.unwrap().0);
        }
        vaults
    }

    /// The calls of every node that runs.
    pub(crate) fn running(&self) -> Vec<Node> {
        let running = self.servers.iter().filter(|server| server.process_id().is_some());
        running.map(|server| Node::at(&server.address())).collect()
    }

    /// The value of a metric without labels that a node tells now.
    pub(crate) async fn metric(&self, number: usize, name: &str) -> f64 {
        let (_, text) = self.servers[number].http_get("/metrics").await.unwrap();
        metric(&text, name).unwrap_or_else(|| panic!("node {number} does not tell {name}"))
    }

    /// Asserts that every running node serves.
    /// Every process that runs says that it serves. It may take a moment: groups elect their leaders.
    pub(crate) async fn assert_ready(&self) {
        for server in self.servers.iter().filter(|server| server.process_id().is_some()) {
            let ready = async || match server.is_ready().await {
                true => Ok(()),
                false => Err(server.spec().name.clone()),
            };
            eventually("a node is ready", ready).await;
        }
    }

    /// Starts a node again and waits until it serves.
    pub(crate) async fn resume(&mut self, number: usize) {
        self.servers[number].resume().unwrap();
        self.servers[number].wait_ready(READY_TIME_MAX).await.unwrap();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for server in &self.servers {
                // Little of each, so that what went wrong is not lost above them.
                let tail = server.log_tail();
                let lines: Vec<&str> = tail.lines().rev().take(LOG_LINES_SHOWN).collect();
                eprintln!("--- log of node {}", server.spec().name);
                lines.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

/// One node's services, called directly: no retries, no leaders learnt.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) channel: Channel,
}

impl Node {
    pub(crate) fn at(address: &str) -> Node {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        Node { channel: endpoint.connect_timeout(Duration::from_secs(2)).connect_lazy() }
    }

    pub(crate) fn writes(&self) -> WriteServiceClient<Channel> {
        WriteServiceClient::new(self.channel.clone())
    }

    pub(crate) fn reads(&self) -> ReadServiceClient<Channel> {
        ReadServiceClient::new(self.channel.clone()).max_decoding_message_size(16 << 20)
    }

    pub(crate) fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone())
    }

    pub(crate) fn ledger(&self) -> LedgerClient<Channel> {
        LedgerClient::new(self.channel.clone())
    }

    /// Writes one entity and returns the block that holds it.
    pub(crate) async fn put(
        &self,
        vault: VaultRef,
        key: &str,
        value: &[u8],
    ) -> Result<u64, Status> {
        let answer = self.writes().write(write_request(vault, vec![set(key, value)])).await?;
        match answer.into_inner().result {
            Some(v1::write_response::Result::Success(success)) => Ok(success.block_height),
            other => panic!("{other:?}"),
        }
    }

    /// Writes one entity as a client with patience would: a group may be electing a leader at this moment.
    pub(crate) async fn put_in_time(&self, vault: VaultRef, key: &str, value: &[u8]) -> u64 {
        let begun = Instant::now();
        loop {
            match self.put(vault, key, value).await {
                Ok(height) => return height,
                Err(status) => {
                    let may_pass = matches!(status.code(), Code::Unavailable | Code::Unknown);
                    let is_late = begun.elapsed() > WAIT_MAX;
                    assert!(may_pass && !is_late, "{key} is not written: {status:?}");
                }
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Reads one entity so that every acknowledged write shows.
    pub(crate) async fn read(&self, vault: VaultRef, key: &str) -> Result<Option<Vec<u8>>, Status> {
        let (namespace_id, vault_id) = wire(vault);
        let request = v1::ReadRequest {
            namespace_id,
            vault_id,
            key: key.to_owned(),
            consistency: v1::ReadConsistency::Linearizable.into(),
        };
        Ok(self.reads().read(request).await?.into_inner().value)
    }

    /// The node's word on itself and all its groups.
    pub(crate) async fn status(&self) -> Result<v1::GetStatusResponse, Status> {
        let request = v1::GetStatusRequest { page_size: Some(10_000), page_token: None };
        Ok(self.ledger().get_status(request).await?.into_inner())
    }

    /// The node's word on each of its groups, the directory's among them.
    pub(crate) async fn groups(&self) -> Result<BTreeMap<u64, v1::GroupStatus>, Status> {
        let status = self.status().await?;
        let groups = status.system.into_iter().chain(status.groups);
        Ok(groups.map(|group| (group.group, group)).collect())
    }
}

/// Waits until a server that must not run has ended with an error, and tells what it wrote.
pub(crate) async fn refusal_of(server: &mut Server) -> String {
    let status = server.wait_exit(END_TIME_MAX).await.unwrap();
    assert!(!status.success(), "it ended well: {}", server.log_tail());
    server.log_tail()
}

/// The most memory that a running server has ever had resident, in bytes.
pub(crate) fn peak_bytes(server: &Server) -> u64 {
    let process = server.process_id().expect("it runs");
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() * 1024
}

/// The ids of a vault on the wire.
pub(crate) fn wire(vault: VaultRef) -> (Option<v1::NamespaceId>, Option<v1::VaultId>) {
    (Some(vault.namespace.into()), Some(vault.vault.into()))
}

/// An operation that sets an entity.
pub(crate) fn set(key: &str, value: &[u8]) -> v1::Operation {
    set_if(key, value, None)
}

/// An operation that sets an entity if something holds.
pub(crate) fn set_if(
    key: &str,
    value: &[u8],
    condition: Option<v1::set_condition::Condition>,
) -> v1::Operation {
    let condition = condition.map(|condition| v1::SetCondition { condition: Some(condition) });
    let (key, value) = (key.to_owned(), value.to_vec());
    let set = v1::SetEntity { key, value, expires_at: None, condition };
    v1::Operation { op: Some(v1::operation::Op::SetEntity(set)) }
}

/// An operation that creates a relationship.
pub(crate) fn grant(resource: &str, relation: &str, subject: &str) -> v1::Operation {
    let grant = v1::CreateRelationship {
        resource: resource.to_owned(),
        relation: relation.to_owned(),
        subject: subject.to_owned(),
    };
    v1::Operation { op: Some(v1::operation::Op::CreateRelationship(grant)) }
}

/// A write with an idempotency key of its own.
pub(crate) fn write_request(vault: VaultRef, operations: Vec<v1::Operation>) -> v1::WriteRequest {
    let (namespace_id, vault_id) = wire(vault);
    v1::WriteRequest {
        namespace_id,
        vault_id,
        client_id: Some(v1::ClientId { id: "black-box".to_owned() }),
        idempotency_key: rand::random::<[u8; 16]>().to_vec(),
        operations,
        include_tx_proof: false,
        sequence: None,
    }
}

/// Code and reason of a refusal.
pub(crate) fn why(status: &Status) -> (Code, String) {
    let info = status.get_details_error_info();
    (status.code(), info.map_or_else(String::new, |info| info.reason))
}

/// Repeats a question until its answer is there; the last answer is shown if it never is.
pub(crate) async fn eventually<T, E, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    E: std::fmt::Debug,
    F: Future<Output = Result<T, E>>,
{
    let begun = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) if begun.elapsed() > WAIT_MAX => {
                panic!("{what}: not after {:?}: {error:?}", begun.elapsed())
            }
            Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
        }
    }
}

/// The value of a metric without labels, or with exactly this label text.
pub(crate) fn metric(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}
