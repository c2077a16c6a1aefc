//! The internal service: introductions, Raft frames, bootstrap, joining, the directory.
//!
//! Owns what other nodes may ask of this one and when. Nothing of a node is taken before its identity is
//! checked, and nothing is answered that is not durable where it has to be.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ledger_proto::convert::peers;
use ledger_proto::internal::peer_server::{Peer, PeerServer};
use ledger_proto::internal::{
    AdoptRequest, AdoptResponse, Adopted, DirectoryDelta, DirectoryRequest, Frame, FrameReply,
    HelloRequest, HelloResponse, JoinRequest, JoinResponse, Joined, LookupVaultRequest,
    LookupVaultResponse, ProbeRequest, ProbeResponse, PromiseRequest, PromiseResponse, Promised,
    Refusal, RefusalReason, adopt_response, hello_response, join_response, promise_response,
};
use ledger_shard::{GroupMessage, wall_clock_ns};
use ledger_types::{GroupId, Incarnation, NodeId, VaultRef};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::metrics::add;
use super::state::{OpenStream, Speaker, wire_founder};
use super::{
    DirectoryStream, FRAME_MESSAGES_MAX, JoinRefusal, JoiningNode, MESSAGE_BYTES_MAX, Membership,
    PeerState, Serving, StateError,
};
use crate::bootstrap::decide::{Refused, Standing};
use crate::bootstrap::record::SeenBoots;
use crate::bootstrap::{Founder, GenesisPromise};
use crate::edge::status::Failure;

/// How long a new stream may take to say whose it is.
const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(5);
/// An acknowledgement leaves after this many frames,
const REPLY_FRAMES: u64 = 64;
/// or with the next frame after this long.
const REPLY_INTERVAL: Duration = Duration::from_millis(100);

/// Answers other nodes. Works in every phase of a node's life; what a phase does not allow is refused.
#[derive(Clone, Debug)]
pub struct PeerService {
    state: Arc<PeerState>,
}

impl PeerService {
    /// A service over this node's standing.
    pub fn new(state: Arc<PeerState>) -> PeerService {
        PeerService { state }
    }

    /// The service with its message limits, for a server.
    pub fn into_server(self) -> PeerServer<PeerService> {
        PeerServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn serving(&self) -> Result<&Serving, Refusal> {
        let refuse = |detail| self.state.refusal(RefusalReason::NotBootstrapped, detail);
        if self.state.established().is_none() {
            return Err(refuse("this node belongs to no cluster yet"));
        }
        self.state.serving().ok_or_else(|| refuse("this node is still starting"))
    }

    /// A node whose rows could not be written may have more on disk than it knows, and tells nothing.
    fn check_sound(&self) -> Result<(), Status> {
        match self.state.fault() {
            Some(fault) => Err(Failure::Store(fault.to_string()).into()),
            None => Ok(()),
        }
    }

    fn decode_promise(&self, bytes: &[u8]) -> Result<GenesisPromise, Refusal> {
        let malformed = |error: ledger_proof::DecodeError| {
            self.state.refusal(RefusalReason::Malformed, error.to_string())
        };
        GenesisPromise::decode(bytes).map_err(malformed)
    }

    /// Turns the outcome of a durable change into an answer; a failed store is no answer.
    fn settled(
        &self,
        outcome: Result<Result<(), Refused>, StateError>,
    ) -> Result<Result<(), Refusal>, Status> {
        match outcome {
            Ok(Ok(())) => Ok(Ok(())),
            Ok(Err(refused)) => Ok(Err(self.state.refusal(refused.reason, refused.detail))),
            Err(error) => Err(Failure::Store(error.to_string()).into()),
        }
    }

    async fn register(&self, request: JoinRequest) -> Result<Joined, Refusal> {
        let serving = self.serving()?;
        self.state.check_protocol(request.protocol_version)?;
        let node = self.joining_node(&request)?;
        let seen = SeenBoots { boots: request.boot_counter, instance: None };
        self.state.check_boots(node.store, seen, false)?;
        let joined = serving.directory.join(node).await;
        let number = joined.map_err(|refusal| self.join_refusal(refusal))?;
        let own = self.state.established().expect("a serving node belongs to a cluster");
        Ok(Joined {
            node_id: number.0,
            cluster_id: own.genesis.cluster().0.to_vec(),
            cluster_domain: own.genesis.domain().to_owned(),
            genesis: own.genesis.encode(),
        })
    }

    fn joining_node(&self, request: &JoinRequest) -> Result<JoiningNode, Refusal> {
        let malformed = |error: String| self.state.refusal(RefusalReason::Malformed, error);
        let store = self.state.parse_store(&request.store_id)?;
        let public_key = peers::public_key("public_key", &request.public_key)
            .map_err(|error| malformed(error.to_string()))?;
        let founder = Founder {
            name: request.name.clone(),
            store,
            public_key,
            address: request.address.clone(),
            zone: request.zone.clone(),
        };
        founder.check().map_err(|error| malformed(error.to_string()))?;
        let Founder { name, store, public_key, address, zone } = founder;
        Ok(JoiningNode { name, store, public_key, address, zone })
    }

    fn join_refusal(&self, refusal: JoinRefusal) -> Refusal {
        let reason = match &refusal {
            JoinRefusal::NotLeader { .. } => RefusalReason::NotLeader,
            JoinRefusal::NameTaken(_) => RefusalReason::NameTaken,
            JoinRefusal::Removed(_) => RefusalReason::Removed,
            JoinRefusal::Refused(_) => RefusalReason::Malformed,
            JoinRefusal::Unavailable(_) => RefusalReason::Unspecified,
        };
        let mut wire = self.state.refusal(reason, refusal.to_string());
        if let JoinRefusal::NotLeader { leader_address: Some(address) } = refusal {
            wire.leader_address = address;
        }
        wire
    }

    /// Checks the first frame of a stream; tells whose it is.
    fn check_first(&self, serving: &Serving, frame: &Frame) -> Result<(NodeId, Speaker), Refusal> {
        let malformed = |detail: String| self.state.refusal(RefusalReason::Malformed, detail);
        peers::lane(frame.lane).map_err(|error| malformed(error.to_string()))?;
        let (node, speaker) = self.state.check_peer(frame.identity.as_ref(), &*serving.book)?;
        let is_first = frame.sequence == 1 && frame.sender_store == speaker.store.0;
        if !is_first || frame.messages.len() > FRAME_MESSAGES_MAX {
            return Err(malformed("the first frame is not the sender's first".to_owned()));
        }
        if serving.book.membership(node) == Membership::Unknown
            && let Some(identity) = &frame.identity
        {
            self.state.met().meet(node, &identity.address);
        }
        self.state.arrived(node);
        Ok((node, speaker))
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    type ExchangeStream = ReceiverStream<Result<FrameReply, Status>>;
    type DirectoryStream = UntilClosed;

    async fn hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloResponse>, Status> {
        let request = request.into_inner();
        let checked = self
            .serving()
            .and_then(|serving| self.state.check_peer(request.identity.as_ref(), &*serving.book));
        let answer = match checked {
            Ok(_) => hello_response::Answer::Identity(self.state.identity()),
            Err(refusal) => hello_response::Answer::Refusal(refusal),
        };
        Ok(Response::new(HelloResponse { answer: Some(answer) }))
    }

    async fn exchange(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let mut frames = request.into_inner();
        let (replies, answer) = mpsc::channel(4);
        let refuse = |refusal| {
            let reply = FrameReply { refusal: Some(refusal), ..FrameReply::default() };
            replies.try_send(Ok(reply)).expect("the channel is new");
        };
        let serving = match self.serving() {
            Ok(serving) => serving,
            Err(refusal) => {
                refuse(refusal);
                return Ok(Response::new(ReceiverStream::new(answer)));
            }
        };
        let first = timeout(FIRST_FRAME_TIMEOUT, frames.message()).await;
        let Ok(Some(first)) = first.map_err(|_| Status::from(Failure::Deadline))? else {
            return Err(Failure::Malformed.into());
        };
        match self.check_first(serving, &first) {
            Ok((node, speaker)) => {
                let Serving { sink, book, .. } = serving.clone();
                let (state, open) = (self.state.clone(), self.state.open_stream(speaker));
                let inbound =
                    Inbound { state, sink, book, node, speaker, sequence: 1, replies, _open: open };
                let closing = self.state.closing();
                inbound.deliver(first.messages);
                tokio::spawn(inbound.receive(frames, closing));
            }
            Err(refusal) => {
                tracing::warn!(detail = %refusal.detail, "refused a stream of another node");
                refuse(refusal);
            }
        }
        Ok(Response::new(ReceiverStream::new(answer)))
    }

    async fn probe(
        &self,
        _request: Request<ProbeRequest>,
    ) -> Result<Response<ProbeResponse>, Status> {
        self.check_sound()?;
        let local = self.state.local();
        let (cluster, promise) = match self.state.standing() {
            Standing::Alone => (None, Vec::new()),
            Standing::Promised(promise) => (None, promise.encode()),
            Standing::Member(cluster) => (Some(cluster), Vec::new()),
        };
        Ok(Response::new(ProbeResponse {
            cluster_id: peers::wire_cluster(cluster),
            founder: Some(wire_founder(&local.founder())),
            bootstrap_expect: local.bootstrap_expect,
            promise,
        }))
    }

    async fn promise(
        &self,
        request: Request<PromiseRequest>,
    ) -> Result<Response<PromiseResponse>, Status> {
        self.check_sound()?;
        let outcome = match self.decode_promise(&request.into_inner().promise) {
            Ok(promise) => self.settled(self.state.take_promise(&promise))?,
            Err(refusal) => Err(refusal),
        };
        let store_id = self.state.local().store.0.to_vec();
        let answer = match outcome {
            Ok(()) => promise_response::Answer::Promised(Promised { store_id }),
            Err(refusal) => promise_response::Answer::Refusal(refusal),
        };
        Ok(Response::new(PromiseResponse { answer: Some(answer) }))
    }

    async fn adopt(
        &self,
        request: Request<AdoptRequest>,
    ) -> Result<Response<AdoptResponse>, Status> {
        self.check_sound()?;
        let outcome = match self.decode_promise(&request.into_inner().promise) {
            Ok(promise) => self.settled(self.state.adopt(&promise))?,
            Err(refusal) => Err(refusal),
        };
        let store_id = self.state.local().store.0.to_vec();
        let answer = match outcome {
            Ok(()) => adopt_response::Answer::Adopted(Adopted { store_id }),
            Err(refusal) => adopt_response::Answer::Refusal(refusal),
        };
        Ok(Response::new(AdoptResponse { answer: Some(answer) }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let answer = match self.register(request.into_inner()).await {
            Ok(joined) => join_response::Answer::Joined(joined),
            Err(refusal) => join_response::Answer::Refusal(refusal),
        };
        Ok(Response::new(JoinResponse { answer: Some(answer) }))
    }

    async fn directory(
        &self,
        request: Request<DirectoryRequest>,
    ) -> Result<Response<Self::DirectoryStream>, Status> {
        let serving = self.serving().map_err(not_ready)?;
        let inner = serving.directory.follow(request.into_inner().from_revision).await?;
        let mut closing = self.state.closing();
        let closed = Box::pin(async move {
            let _ = closing.wait_for(|closed| *closed).await;
        });
        Ok(Response::new(UntilClosed { inner, closed }))
    }

    async fn lookup_vault(
        &self,
        request: Request<LookupVaultRequest>,
    ) -> Result<Response<LookupVaultResponse>, Status> {
        let serving = self.serving().map_err(not_ready)?;
        let request = request.into_inner();
        let vault = VaultRef::new(request.namespace, request.vault);
        Ok(Response::new(serving.directory.lookup_vault(vault).await?))
    }
}

fn not_ready(_: Refusal) -> Failure {
    Failure::not_ready("it does not serve the directory yet")
}

/// A stream of the directory that ends when this node does.
pub struct UntilClosed {
    inner: DirectoryStream,
    closed: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Stream for UntilClosed {
    type Item = Result<DirectoryDelta, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.closed.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        let next = self.inner.as_mut().poll_next(context);
        next.map(|item| item.map(|delta| delta.map_err(Status::from)))
    }
}

/// The receiving end of one stream of frames.
struct Inbound {
    state: Arc<PeerState>,
    sink: Arc<dyn super::FrameSink>,
    book: Arc<dyn super::AddressBook>,
    node: NodeId,
    speaker: Speaker,
    sequence: u64,
    replies: mpsc::Sender<Result<FrameReply, Status>>,
    _open: OpenStream,
}

impl Inbound {
    async fn receive(mut self, mut frames: Streaming<Frame>, mut closing: watch::Receiver<bool>) {
        let mut replied = (self.sequence, Instant::now());
        loop {
            let next = tokio::select! {
                next = frames.message() => next,
                _ = closing.wait_for(|closed| *closed) => return,
            };
            let Ok(Some(frame)) = next else { return };
            if let Err(refusal) = self.check(&frame) {
                let refusal = Some(refusal);
                // One that does not read its replies is not waited for.
                let _ = self.replies.try_send(Ok(FrameReply { refusal, ..FrameReply::default() }));
                return;
            }
            self.sequence = frame.sequence;
            let (sent_at_ns, round) = (frame.sent_at_ns, frame.round);
            self.deliver(frame.messages);
            let is_due =
                self.sequence - replied.0 >= REPLY_FRAMES || replied.1.elapsed() >= REPLY_INTERVAL;
            if is_due {
                replied = (self.sequence, Instant::now());
                let sequence = self.sequence;
                // A sender that does not read its acknowledgements gets fewer of them.
                let wall_ns = wall_clock_ns();
                let reply = FrameReply { sequence, sent_at_ns, round, refusal: None, wall_ns };
                let _ = self.replies.try_send(Ok(reply));
            }
        }
    }

    /// Checks a later frame, and that its sender still has the place that it was let in with.
    fn check(&self, frame: &Frame) -> Result<(), Refusal> {
        let malformed = |detail: &str| Err(self.state.refusal(RefusalReason::Malformed, detail));
        if frame.sender_store != self.speaker.store.0 {
            return malformed("a frame names another sender than its stream");
        }
        if frame.sequence != self.sequence + 1 {
            return malformed("frames are not counted one by one");
        }
        if frame.messages.len() > FRAME_MESSAGES_MAX {
            return malformed("a frame carries too many messages");
        }
        self.state.check_still(self.node, self.speaker, &*self.book)
    }

    /// Hands the messages of a frame on, all at once.
    fn deliver(&self, messages: Vec<ledger_proto::internal::GroupMessage>) {
        let metrics = self.state.metrics();
        add(&metrics.frames_in, 1);
        if messages.is_empty() {
            return;
        }
        let bytes: usize = messages.iter().map(|message| message.payload.len()).sum();
        add(&metrics.messages_in, messages.len() as u64);
        add(&metrics.bytes_in, bytes as u64);
        let message = |wire: ledger_proto::internal::GroupMessage| GroupMessage {
            group: GroupId(wire.group),
            from: Incarnation(wire.from_incarnation),
            to: Incarnation(wire.to_incarnation),
            payload: wire.payload.into(),
            log_floor: wire.log_floor,
            is_catching_up: wire.is_catching_up,
        };
        self.sink.messages(self.node, messages.into_iter().map(message).collect());
    }
}
