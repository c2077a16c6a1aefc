//! Hands out the files of snapshots that this node has cut.
//!
//! Owns who may have them, how many streams there are at a time and the sign of life that each piece is. Must
//! never read more of a file than the next piece, nor hold a place for a receiver that does not read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ledger_proof::hash;
use ledger_proto::convert::snapshots::{CHUNK_BYTES_MAX, Fetch, Hold, Piece};
use ledger_proto::internal::fetch_response::Answer;
use ledger_proto::internal::snapshots_server::{Snapshots, SnapshotsServer};
use ledger_proto::internal::{
    FetchRefusal, FetchRefusalReason, FetchRequest, FetchResponse, HoldRequest, HoldResponse,
};
use ledger_shard::{SnapshotError, SnapshotId, SnapshotStore};
use ledger_types::{ClusterId, GroupId, NodeId, StoreId};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use super::bucket::Limiter;
use super::{SnapshotReports, fail_point};
use crate::peer::{AddressBook, Membership};

/// Pieces of one stream that are read and not sent yet.
const PIECES_QUEUED_MAX: usize = 4;
/// How often the shard hears of a snapshot's receiver at most.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Smallest piece at a low rate.
const PIECE_BYTES_MIN: u64 = 16 * 1024;
/// At a low rate pieces are so small that this many leave in a second: a receiver must not take slow for dead.
const PIECES_PER_SECOND_MIN: u64 = 4;

/// Bounds of what is handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServeLimits {
    /// Streams at a time.
    pub streams_max: usize,
    /// Bytes a second over all streams.
    pub bytes_per_second: u64,
    /// Longest wait for a receiver that takes nothing, after which its stream ends.
    pub stall_max: Duration,
}

impl ServeLimits {
    /// The usual bounds at a rate.
    pub fn at_rate(bytes_per_second: u64) -> ServeLimits {
        ServeLimits { streams_max: 2, bytes_per_second, stall_max: Duration::from_secs(30) }
    }
}

type Outcome = Result<FetchResponse, Status>;

/// Why nothing more is sent: the reason and a text for people.
type Refused = (FetchRefusalReason, String);

/// Hands out snapshots to the other nodes of a cluster.
pub struct SnapshotServer {
    cluster: ClusterId,
    store: Arc<SnapshotStore>,
    book: Arc<dyn AddressBook>,
    reports: Arc<dyn SnapshotReports>,
    limits: ServeLimits,
    limiter: Limiter,
    streams: Arc<Semaphore>,
    /// When the shard last heard of a receiver.
    told: Mutex<BTreeMap<SnapshotId, Instant>>,
    closed: watch::Sender<bool>,
}

impl std::fmt::Debug for SnapshotServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SnapshotServer({:?})", self.limits)
    }
}

impl SnapshotServer {
    /// Hands out what `store` has, to members of the cluster that `book` knows.
    pub fn new(
        cluster: ClusterId,
        store: Arc<SnapshotStore>,
        book: Arc<dyn AddressBook>,
        reports: Arc<dyn SnapshotReports>,
        limits: ServeLimits,
    ) -> Arc<SnapshotServer> {
        Arc::new(SnapshotServer {
            cluster,
            store,
            book,
            reports,
            limiter: Limiter::new(limits.bytes_per_second),
            streams: Arc::new(Semaphore::new(limits.streams_max)),
            told: Mutex::default(),
            closed: watch::channel(false).0,
            limits,
        })
    }

    /// Ends every stream and opens none any more, so that a listener can finish.
    pub fn close(&self) {
        self.streams.close();
        self.closed.send_replace(true);
    }

    /// Streams that are open.
    pub fn streams_open(&self) -> usize {
        self.limits.streams_max.saturating_sub(self.streams.available_permits())
    }

    fn open(self: &Arc<Self>, request: FetchRequest) -> ReceiverStream<Outcome> {
        let (pieces, answer) = mpsc::channel(PIECES_QUEUED_MAX);
        match self.admit(request) {
            Ok((fetch, group, permit)) => {
                let stream = Sending { server: self.clone(), group, pieces, _permit: permit };
                tokio::spawn(stream.run(fetch));
            }
            Err(refused) => {
                warn!(reason = refused.0.as_str_name(), detail = refused.1, "refused a snapshot");
                pieces.try_send(Ok(refusal(refused))).expect("the channel is new");
            }
        }
        ReceiverStream::new(answer)
    }

    /// Notes which snapshots a receiver still wants, and tells which of them there are not.
    fn hold(&self, request: HoldRequest) -> Result<Vec<SnapshotId>, Refused> {
        let hold = Hold::try_from(request)
            .map_err(|error| (FetchRefusalReason::Malformed, error.to_string()))?;
        self.check_asking(hold.cluster, hold.node, hold.store)?;
        let mut unknown = Vec::new();
        for id in hold.snapshots.into_iter().map(SnapshotId) {
            match self.store.outgoing(id) {
                Some(group) => self.tell(group, id),
                None => unknown.push(id),
            }
        }
        Ok(unknown)
    }

    /// Errors unless this is a member of the cluster.
    fn check_asking(
        &self,
        cluster: ClusterId,
        node: NodeId,
        store: StoreId,
    ) -> Result<(), Refused> {
        if cluster != self.cluster {
            let detail = "the asking node belongs to another cluster".to_owned();
            return Err((FetchRefusalReason::OtherCluster, detail));
        }
        if self.book.membership(node) != Membership::Member(store) {
            let detail = format!("node {node} with store {store} is no member known here");
            return Err((FetchRefusalReason::UnknownStore, detail));
        }
        Ok(())
    }

    fn admit(
        &self,
        request: FetchRequest,
    ) -> Result<(Fetch, GroupId, OwnedSemaphorePermit), Refused> {
        let fetch = Fetch::try_from(request)
            .map_err(|error| (FetchRefusalReason::Malformed, error.to_string()))?;
        self.check_asking(fetch.cluster, fetch.node, fetch.store)?;
        let id = SnapshotId(fetch.snapshot);
        let group = self.store.outgoing(id).ok_or_else(|| unknown(id))?;
        // Also one that has to wait is alive.
        self.tell(group, id);
        match self.streams.clone().try_acquire_owned() {
            Ok(permit) => Ok((fetch, group, permit)),
            Err(tokio::sync::TryAcquireError::NoPermits) => {
                let detail = format!("{} snapshots are on their way", self.limits.streams_max);
                Err((FetchRefusalReason::Busy, detail))
            }
            Err(tokio::sync::TryAcquireError::Closed) => {
                Err((FetchRefusalReason::NotReady, "the node stops".to_owned()))
            }
        }
    }

    /// Tells the shard that a receiver is alive, unless it has heard so a moment ago.
    fn tell(&self, group: GroupId, id: SnapshotId) {
        let mut told = self.told.lock();
        told.retain(|_, at| at.elapsed() < PROGRESS_EVERY);
        if told.contains_key(&id) {
            return;
        }
        told.insert(id, Instant::now());
        drop(told);
        self.reports.progress(group, id);
    }

    fn piece_bytes(&self) -> usize {
        let at_rate = self.limits.bytes_per_second / PIECES_PER_SECOND_MIN;
        let bytes = at_rate.clamp(PIECE_BYTES_MIN, CHUNK_BYTES_MAX as u64);
        usize::try_from(bytes).expect("at most a piece")
    }
}

/// One stream of pieces.
struct Sending {
    server: Arc<SnapshotServer>,
    group: GroupId,
    pieces: mpsc::Sender<Outcome>,
    _permit: OwnedSemaphorePermit,
}

impl Sending {
    async fn run(self, fetch: Fetch) {
        let (id, group) = (SnapshotId(fetch.snapshot), self.group);
        info!(%group, snapshot = %id, to = %fetch.node, file = fetch.file, offset = fetch.offset,
            "sending a snapshot");
        let mut closed = self.server.closed.subscribe();
        let outcome = tokio::select! {
            outcome = self.send_from(id, fetch.file, fetch.offset) => outcome,
            () = self.pieces.closed() => Err("the receiver is gone".to_owned()),
            _ = closed.wait_for(|closed| *closed) => Err("the node stops".to_owned()),
        };
        match outcome {
            Ok(bytes) => info!(%group, snapshot = %id, bytes, "sent a snapshot to its end"),
            Err(why) => info!(%group, snapshot = %id, why, "stopped sending a snapshot"),
        }
    }

    /// Sends everything from a place on; tells how many bytes that were.
    async fn send_from(&self, id: SnapshotId, file: u32, offset: u64) -> Result<u64, String> {
        let server = &self.server;
        let mut place = (file, offset);
        let mut sent = 0;
        loop {
            let (store, bytes_max) = (server.store.clone(), server.piece_bytes());
            let is_first = sent == 0;
            let reading = tokio::task::spawn_blocking(move || {
                fail_point!("snapshot::serve_chunk");
                read_piece(&store, id, place, bytes_max, is_first)
            });
            let piece = match reading.await.map_err(|error| error.to_string())? {
                Ok(Some(piece)) => piece,
                Ok(None) => return Ok(sent),
                Err(refused) => {
                    let why = refused.1.clone();
                    self.put(refusal(refused)).await?;
                    return Err(why);
                }
            };
            let bytes = piece.data.len() as u64;
            server.limiter.pass(bytes).await;
            place = (piece.file, piece.offset + bytes);
            self.put(FetchResponse { answer: Some(Answer::Chunk(piece.into())) }).await?;
            server.tell(self.group, id);
            sent += bytes;
        }
    }

    async fn put(&self, response: FetchResponse) -> Result<(), String> {
        match timeout(self.server.limits.stall_max, self.pieces.send(Ok(response))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("the receiver is gone".to_owned()),
            Err(_) => Err("the receiver takes nothing".to_owned()),
        }
    }
}

/// The piece at a place, or of the next file if that one ends there; `None` after the last file.
fn read_piece(
    store: &SnapshotStore,
    id: SnapshotId,
    place: (u32, u64),
    bytes_max: usize,
    is_first: bool,
) -> Result<Option<Piece>, Refused> {
    let (mut file, mut offset) = place;
    loop {
        let data = match store.read_chunk(id, file, offset, bytes_max) {
            Ok(data) => data,
            Err(SnapshotError::Unknown(_)) => return Err(unknown(id)),
            // Only what follows a file of this snapshot can be its end.
            Err(SnapshotError::UnknownFile { .. }) if !is_first || (file, offset) != place => {
                return Ok(None);
            }
            Err(error) => return Err((FetchRefusalReason::Unreadable, error.to_string())),
        };
        if !data.is_empty() {
            let digest = hash::plain(&data);
            return Ok(Some(Piece { file, offset, data: data.into(), digest }));
        }
        (file, offset) = (file + 1, 0);
    }
}

fn unknown(id: SnapshotId) -> Refused {
    (FetchRefusalReason::UnknownSnapshot, format!("snapshot {id} is not kept here"))
}

fn too_early() -> Refused {
    (FetchRefusalReason::NotReady, "this node belongs to no cluster yet".to_owned())
}

/// A refusal as it travels.
pub(super) fn refusal((reason, detail): Refused) -> FetchResponse {
    let refusal = FetchRefusal { reason: reason.into(), detail };
    FetchResponse { answer: Some(Answer::Refusal(refusal)) }
}

/// Finds the server once there is one.
type FindServer = Box<dyn Fn() -> Option<Arc<SnapshotServer>> + Send + Sync>;

/// The service between nodes, refused until this node belongs to a cluster.
pub struct SnapshotService {
    find: FindServer,
}

impl SnapshotService {
    /// A service that asks for the server at every call.
    pub fn new(
        find: impl Fn() -> Option<Arc<SnapshotServer>> + Send + Sync + 'static,
    ) -> SnapshotService {
        SnapshotService { find: Box::new(find) }
    }

    /// The service for a listener.
    pub fn into_server(self) -> SnapshotsServer<SnapshotService> {
        SnapshotsServer::new(self).max_decoding_message_size(CHUNK_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl Snapshots for SnapshotService {
    type FetchStream = ReceiverStream<Outcome>;

    async fn fetch(
        &self,
        request: Request<FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        if let Some(server) = (self.find)() {
            return Ok(Response::new(server.open(request.into_inner())));
        }
        let (answers, answer) = mpsc::channel(1);
        answers.try_send(Ok(refusal(too_early()))).expect("the channel is new");
        Ok(Response::new(ReceiverStream::new(answer)))
    }

    async fn hold(&self, request: Request<HoldRequest>) -> Result<Response<HoldResponse>, Status> {
        let server = (self.find)().ok_or_else(too_early);
        let held = server.and_then(|server| server.hold(request.into_inner()));
        Ok(Response::new(match held {
            Ok(unknown) => {
                let unknown_ids = unknown.iter().map(|id| id.0.to_vec()).collect();
                HoldResponse { unknown_ids, refusal: None }
            }
            Err((reason, detail)) => {
                let refusal = FetchRefusal { reason: reason.into(), detail };
                HoldResponse { unknown_ids: Vec::new(), refusal: Some(refusal) }
            }
        }))
    }
}
