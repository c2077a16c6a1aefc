//! Senders on sockets: the real service, one whose connections break, and ones that misbehave.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ledger_proto::convert::snapshots::Piece;
use ledger_proto::internal::fetch_response::Answer;
use ledger_proto::internal::snapshots_server::{Snapshots, SnapshotsServer};
use ledger_proto::internal::{FetchRequest, FetchResponse, HoldRequest, HoldResponse};
use ledger_shard::SnapshotId;
use ledger_types::{Digest, GroupId};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status};

use crate::peer::test_nodes::PATIENCE;
use crate::snapshots::{SnapshotReports, SnapshotServer, SnapshotService};

/// Keeps what it is told.
pub(super) struct Told {
    pub(super) progress: Mutex<Vec<(GroupId, SnapshotId)>>,
    pub(super) fetched: Mutex<Vec<(GroupId, SnapshotId, bool)>>,
    changes: watch::Sender<u64>,
}

impl Told {
    pub(super) fn new() -> Arc<Told> {
        let (progress, fetched) = (Mutex::default(), Mutex::default());
        Arc::new(Told { progress, fetched, changes: watch::channel(0).0 })
    }

    /// Waits for the ends of this many fetches.
    pub(super) async fn ends(&self, count: usize) -> Vec<(GroupId, SnapshotId, bool)> {
        let mut changes = self.changes.subscribe();
        let reached = changes.wait_for(|_| self.fetched.lock().len() >= count);
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        assert!(matches!(reached, Ok(Ok(_))), "no {count} fetches ended");
        self.fetched.lock().clone()
    }
}

impl SnapshotReports for Told {
    fn progress(&self, group: GroupId, id: SnapshotId) {
        self.progress.lock().push((group, id));
    }

    fn fetched(&self, group: GroupId, id: SnapshotId, verified: bool) {
        self.fetched.lock().push((group, id, verified));
        self.changes.send_modify(|count| *count += 1);
    }
}

/// Puts the real service on a port.
pub(super) async fn listen(server: &Arc<SnapshotServer>) -> String {
    let server = server.clone();
    serve(SnapshotService::new(move || Some(server.clone())).into_server()).await
}

/// Puts a service on a port for as long as the test runs.
pub(super) async fn serve<S: Snapshots>(service: SnapshotsServer<S>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

/// Passes connections on to a server and breaks the first one after a number of bytes from it.
pub(super) struct BreakingWire {
    pub(super) address: String,
    pub(super) connections: Arc<AtomicU64>,
    /// Bytes that came over later connections.
    pub(super) later_bytes: Arc<AtomicU64>,
}

impl BreakingWire {
    pub(super) async fn to(server: String, breaks_after_bytes: u64) -> BreakingWire {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let (connections, later_bytes) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let wire = BreakingWire {
            address,
            connections: connections.clone(),
            later_bytes: later_bytes.clone(),
        };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = connections.fetch_add(1, Ordering::Relaxed);
                let server = TcpStream::connect(&server).await.expect("the server listens");
                let left = if number == 0 { breaks_after_bytes } else { u64::MAX };
                let passed = if number == 0 { Arc::default() } else { later_bytes.clone() };
                tokio::spawn(pass(client, server, left, passed));
            }
        });
        wire
    }
}

/// Carries bytes both ways until either side ends or enough came back.
async fn pass(client: TcpStream, server: TcpStream, left: u64, passed: Arc<AtomicU64>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    let there = tokio::spawn(async move {
        // An end on either side is an end.
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    });
    let mut from_server = from_server.take(left);
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
        passed.fetch_add(read as u64, Ordering::Relaxed);
        if to_client.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    there.abort();
}

type Outcome = Result<FetchResponse, Status>;

/// What a misbehaving sender does with every question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Behaviour {
    /// Sends a piece whose bytes are not those of its digest.
    Damages,
    /// Ends the stream at once.
    SaysNothing,
    /// Keeps the stream open and sends nothing.
    Hangs,
}

/// A sender that misbehaves, and whom it was asked for.
#[derive(Clone)]
pub(super) struct BadSender {
    behaviour: Behaviour,
    pub(super) asked: Arc<Mutex<Vec<Vec<u8>>>>,
    hanging: Arc<Mutex<Vec<mpsc::Sender<Outcome>>>>,
}

impl BadSender {
    pub(super) async fn listen(behaviour: Behaviour) -> (BadSender, String) {
        let sender = BadSender { behaviour, asked: Arc::default(), hanging: Arc::default() };
        let address = serve(SnapshotsServer::new(sender.clone())).await;
        (sender, address)
    }
}

#[tonic::async_trait]
impl Snapshots for BadSender {
    type FetchStream = ReceiverStream<Outcome>;

    async fn fetch(
        &self,
        request: Request<FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let FetchRequest { snapshot_id, file, offset, .. } = request.into_inner();
        self.asked.lock().push(snapshot_id);
        let (answers, answer) = mpsc::channel(1);
        match self.behaviour {
            Behaviour::Damages => {
                let data = bytes::Bytes::from_static(b"nonsense");
                let piece = Piece { file, offset, data, digest: Digest::ZERO };
                let response = FetchResponse { answer: Some(Answer::Chunk(piece.into())) };
                answers.try_send(Ok(response)).expect("the channel is new");
            }
            Behaviour::SaysNothing => {}
            Behaviour::Hangs => self.hanging.lock().push(answers),
        }
        Ok(Response::new(ReceiverStream::new(answer)))
    }

    async fn hold(&self, _: Request<HoldRequest>) -> Result<Response<HoldResponse>, Status> {
        Ok(Response::new(HoldResponse::default()))
    }
}
