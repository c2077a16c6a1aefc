//! Nodes for tests: real sockets and the real service, rows in memory that can fail like a crash.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ledger_proto::internal::LookupVaultResponse;
use ledger_shard::{GroupMessage, JoinError, StoreError};
use ledger_types::{ClusterId, NodeId, StoreId, VaultRef};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;

use super::*;
use crate::bootstrap::GenesisPromise;
use crate::demo::process::free_ports;

/// Long enough for anything that happens at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Where a node crashes: at its write with this number, counted from 0.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Crash {
    /// The write is lost.
    BeforeWrite(usize),
    /// The write is on disk, and nobody is told.
    AfterWrite(usize),
}

#[derive(Default)]
struct Rows {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    cluster: Option<ClusterId>,
    writes: usize,
    crash: Option<Crash>,
    is_crashed: bool,
}

/// Rows that survive the node.
#[derive(Default)]
pub(crate) struct MemoryRows {
    rows: Mutex<Rows>,
}

impl MemoryRows {
    pub(crate) fn new() -> Arc<MemoryRows> {
        Arc::default()
    }

    /// The same rows on another disk.
    pub(crate) fn copy(&self) -> Arc<MemoryRows> {
        let rows = self.rows.lock();
        let (values, cluster) = (rows.values.clone(), rows.cluster);
        Arc::new(MemoryRows { rows: Mutex::new(Rows { values, cluster, ..Rows::default() }) })
    }

    pub(crate) fn crash_at(&self, crash: Crash) {
        self.rows.lock().crash = Some(crash);
    }

    /// The machine is on again.
    fn restart(&self) {
        let mut rows = self.rows.lock();
        (rows.crash, rows.is_crashed) = (None, false);
    }

    fn write(&self, change: impl FnOnce(&mut Rows)) -> Result<(), StoreError> {
        let mut rows = self.rows.lock();
        let number = rows.writes;
        rows.writes += 1;
        let is_lost = matches!(rows.crash, Some(Crash::BeforeWrite(at)) if at == number);
        let is_untold = matches!(rows.crash, Some(Crash::AfterWrite(at)) if at == number);
        if !is_lost && !rows.is_crashed {
            change(&mut rows);
        }
        rows.is_crashed |= is_lost || is_untold;
        let detail = "the machine is off".to_owned();
        if rows.is_crashed { Err(StoreError { doing: "write", detail }) } else { Ok(()) }
    }
}

impl NodeRows for MemoryRows {
    fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.rows.lock().values.get(key).cloned())
    }

    fn put_meta(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.write(|rows| {
            rows.values.insert(key.to_vec(), value.to_vec());
        })
    }

    fn cluster(&self) -> Result<Option<ClusterId>, StoreError> {
        Ok(self.rows.lock().cluster)
    }

    fn join_cluster(&self, cluster: ClusterId) -> Result<(), JoinError> {
        match NodeRows::cluster(self)? {
            Some(found) if found != cluster => Err(JoinError::OtherCluster { found }),
            Some(_) => Ok(()),
            None => Ok(self.write(|rows| rows.cluster = Some(cluster))?),
        }
    }
}

/// Keeps everything it is given.
pub(crate) struct TestSink {
    pub(crate) messages: Mutex<Vec<GroupMessage>>,
    pub(crate) unreachable: Mutex<Vec<NodeId>>,
    changes: watch::Sender<u64>,
}

impl TestSink {
    pub(crate) fn new() -> Arc<TestSink> {
        let (messages, unreachable) = (Mutex::default(), Mutex::default());
        Arc::new(TestSink { messages, unreachable, changes: watch::channel(0).0 })
    }

    /// Waits until what was given satisfies the condition.
    pub(crate) async fn wait(&self, what: &str, mut condition: impl FnMut(&TestSink) -> bool) {
        let mut changes = self.changes.subscribe();
        let reached = changes.wait_for(|_| condition(self));
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        assert!(matches!(reached, Ok(Ok(_))), "never happened: {what}");
    }
}

impl FrameSink for TestSink {
    fn messages(&self, _from: NodeId, mut messages: Vec<GroupMessage>) {
        self.messages.lock().append(&mut messages);
        self.changes.send_modify(|count| *count += 1);
    }

    fn unreachable(&self, node: NodeId) {
        self.unreachable.lock().push(node);
        self.changes.send_modify(|count| *count += 1);
    }
}

/// Knows what a test tells it.
#[derive(Default)]
pub(crate) struct TestBook {
    nodes: Mutex<BTreeMap<NodeId, (String, Option<Membership>)>>,
}

impl TestBook {
    pub(crate) fn set(&self, node: NodeId, address: &str, membership: Membership) {
        self.nodes.lock().insert(node, (address.to_owned(), Some(membership)));
    }
}

impl AddressBook for TestBook {
    fn address(&self, node: NodeId) -> Option<String> {
        self.nodes.lock().get(&node).map(|(address, _)| address.clone())
    }

    fn membership(&self, node: NodeId) -> Membership {
        let known = self.nodes.lock().get(&node).and_then(|(_, membership)| *membership);
        known.unwrap_or(Membership::Unknown)
    }
}

/// A directory that registers every store as 1,000 and its first byte.
#[derive(Default)]
pub(crate) struct TestDirectory {
    taken: Mutex<Vec<String>>,
    leader: Mutex<Option<String>>,
    joined: Mutex<Vec<StoreId>>,
}

impl TestDirectory {
    pub(crate) fn take_name(&self, name: &str) {
        self.taken.lock().push(name.to_owned());
    }

    pub(crate) fn point_to(&self, leader: &str) {
        *self.leader.lock() = Some(leader.to_owned());
    }

    pub(crate) fn joined(&self) -> Vec<StoreId> {
        self.joined.lock().clone()
    }
}

#[tonic::async_trait]
impl DirectoryService for TestDirectory {
    async fn join(&self, node: JoiningNode) -> Result<NodeId, JoinRefusal> {
        if let Some(leader) = self.leader.lock().clone() {
            return Err(JoinRefusal::NotLeader { leader_address: Some(leader) });
        }
        if self.taken.lock().contains(&node.name) {
            return Err(JoinRefusal::NameTaken("another store has the name".to_owned()));
        }
        self.joined.lock().push(node.store);
        Ok(NodeId(1000 + u64::from(node.store.0[0])))
    }

    async fn follow(&self, from_revision: u64) -> Result<DirectoryStream, Failure> {
        let first = internal::DirectoryDelta { revision: from_revision, ..Default::default() };
        let stream =
            tokio_stream::StreamExt::chain(tokio_stream::once(Ok(first)), tokio_stream::pending());
        Ok(Box::pin(stream))
    }

    async fn lookup_vault(&self, vault: VaultRef) -> Result<LookupVaultResponse, Failure> {
        Ok(LookupVaultResponse { entry: None, revision: vault.vault.0 })
    }
}

/// A node with a listening service.
pub(crate) struct TestNode {
    pub(crate) address: String,
    pub(crate) state: Arc<PeerState>,
    pub(crate) rows: Arc<MemoryRows>,
    pub(crate) sink: Arc<TestSink>,
    pub(crate) book: Arc<TestBook>,
    pub(crate) directory: Arc<TestDirectory>,
    server: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl TestNode {
    /// Node `number` is named by that letter of the alphabet and has the number in all its ids.
    pub(crate) async fn start(number: u8, expect: u32, rows: Arc<MemoryRows>) -> TestNode {
        // Not of the range from which connections take theirs: it must be free again for the next life.
        let port = free_ports(1).expect("a free port")[0];
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("it was free");
        let address = listener.local_addr().expect("bound").to_string();
        let local = LocalNode {
            name: char::from(b'a' + number - 1).to_string(),
            store: StoreId([number; 16]),
            public_key: [number; 32],
            address: address.clone(),
            zone: String::new(),
            boot_counter: 1,
            bootstrap_expect: expect,
            feature_level: 1,
        };
        let state = PeerState::open(rows.clone(), local).expect("opens");
        let server = Some(listen(&state, listener));
        let (sink, book, directory) = (TestSink::new(), Arc::default(), Arc::default());
        TestNode { address, state, rows, sink, book, directory, server }
    }

    /// Lets the service carry messages and answer from the directory.
    pub(crate) fn serve(&self) {
        self.state.serve(Serving {
            sink: self.sink.clone(),
            book: self.book.clone(),
            directory: self.directory.clone(),
        });
    }

    /// Ends the listener and every connection at once.
    pub(crate) async fn stop(&mut self) {
        if let Some((_, server)) = self.server.take() {
            self.state.close();
            server.abort();
            let _ = server.await;
        }
    }

    /// Ends the listener after all calls; true if that happened in time.
    pub(crate) async fn stop_gracefully(&mut self) -> bool {
        let (stop, server) = self.server.take().expect("listens");
        stop.send(()).expect("runs");
        tokio::time::timeout(PATIENCE, server).await.is_ok()
    }

    /// A new life on the same rows and port.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.rows.restart();
        let mut local = self.state.local().clone();
        local.boot_counter += 1;
        self.state = PeerState::open(self.rows.clone(), local).expect("opens");
        let listener = TcpListener::bind(&self.address).await.expect("the port is free again");
        self.server = Some(listen(&self.state, listener));
    }
}

fn listen(state: &Arc<PeerState>, listener: TcpListener) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let (stop, stopped) = oneshot::channel();
    let service = PeerService::new(state.clone()).into_server();
    let server = tonic::transport::Server::builder().add_service(service);
    let incoming = TcpListenerStream::new(listener);
    let task = tokio::spawn(async move {
        let stopped = async {
            let _ = stopped.await;
        };
        server.serve_with_incoming_shutdown(incoming, stopped).await.expect("serves");
    });
    (stop, task)
}

/// Two members of one cluster, nodes 1 and 2, that know and serve each other.
pub(crate) async fn pair() -> (TestNode, TestNode) {
    let first = TestNode::start(1, 2, MemoryRows::new()).await;
    let second = TestNode::start(2, 2, MemoryRows::new()).await;
    let founders = vec![first.state.local().founder(), second.state.local().founder()];
    let promise = GenesisPromise::new(ClusterId([0xcc; 16]), "d".to_owned(), 1, founders);
    let promise = promise.expect("valid");
    first.state.propose(&promise).expect("writes");
    assert_eq!(second.state.take_promise(&promise).expect("writes"), Ok(()));
    for node in [&first, &second] {
        assert_eq!(node.state.adopt(&promise).expect("writes"), Ok(()));
        introduce(&node.book, &first, &second);
        node.serve();
    }
    (first, second)
}

/// Tells a book of both nodes.
fn introduce(book: &TestBook, first: &TestNode, second: &TestNode) {
    for (number, node) in [(1, first), (2, second)] {
        let store = node.state.local().store;
        book.set(NodeId(number), &node.address, Membership::Member(store));
    }
}
