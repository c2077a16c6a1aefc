//! Watches: the blocks that exist, or what they change, then each new one, none missed and none twice.
//!
//! Owns the stream's position, and the end of streams that nobody reads. Must never rely on being told of every
//! block: a notice only says that there is more, and the blocks are read from the vault's own chain.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use ledger_proto::convert::block::wire_announcement;
use ledger_proto::convert::{Consistency, ids};
use ledger_proto::v1;
use ledger_types::VaultRef;
use ledger_types::limits::WATCHES_PER_NODE_MAX;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::Edge;
use super::read::client;
use super::route::{Call, Freshness, Owner, ReadPlace, query_failure};
use super::slot::Stage;
use super::status::Failure;
use crate::context::NodeContext;

/// Answers on their way to one client.
pub(super) type AnswerStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Announcements on their way to one client.
pub(super) type BlockStream = AnswerStream<v1::BlockAnnouncement>;

/// Answers that wait for a slow client.
const QUEUED_MAX: usize = 64;
/// How long a full queue may stay full before its stream ends.
const SLOW_TIME_MAX: Duration = Duration::from_secs(30);
/// How often an idle stream looks whether its vault is still here. As long as heartbeats are apart, so that a stream with
/// them wakes once for both.
const IDLE_LOOK_EVERY: Duration = Duration::from_secs(10);

/// What a watch tells of.
pub(super) trait Telling: Send + Sync + 'static {
    /// One answer of the stream.
    type Answer: Send + 'static;

    /// What there is to tell of the block of this height, which exists; the vault's tip is `tip`.
    fn tell(
        &self,
        call: &Call,
        vault: VaultRef,
        height: u64,
        tip: u64,
    ) -> Result<Vec<Self::Answer>, Failure>;

    /// The longest silence, and what breaks it when every block below `next` has been told of.
    fn heartbeat(&self, next: u64, tip: u64) -> Option<(Duration, Self::Answer)>;
}

/// What is told, and to whom.
struct Told<T: Telling> {
    telling: T,
    sender: mpsc::Sender<Result<T::Answer, Status>>,
}

/// Tells that blocks exist.
struct Announcing;

impl Telling for Announcing {
    type Answer = v1::BlockAnnouncement;

    fn tell(
        &self,
        call: &Call,
        vault: VaultRef,
        height: u64,
        _tip: u64,
    ) -> Result<Vec<v1::BlockAnnouncement>, Failure> {
        let header = call.context.reader.block_header(vault, height);
        let (header, _) = header.map_err(query_failure)?;
        Ok(vec![wire_announcement(&header)])
    }

    fn heartbeat(&self, _next: u64, _tip: u64) -> Option<(Duration, v1::BlockAnnouncement)> {
        None
    }
}

/// The stream, holding its place among the node's watches for as long as it lives.
pub(super) fn held<T: 'static>(
    stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
    place: WatchPlace,
) -> AnswerStream<T> {
    Box::pin(stream.map(move |item| {
        let _held = &place;
        item
    }))
}

/// A place among the node's watches, counted for as long as it is held.
pub(super) struct WatchPlace {
    context: Arc<NodeContext>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for WatchPlace {
    fn drop(&mut self) {
        self.context.metrics.watches_open().dec();
    }
}

impl Edge {
    pub(super) async fn watch(
        &self,
        request: Request<v1::WatchBlocksRequest>,
    ) -> Result<Response<BlockStream>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let vault = ids::vault_ref(message.namespace_id, message.vault_id)?;
        if message.start_height == 0 {
            let problem = "must be at least 1: the genesis block 0 is not announced";
            return Err(Failure::field("start_height", problem));
        }
        let place = self.watch_place(&call)?;
        let freshness = Freshness { consistency: Consistency::Eventual, height_min: 0 };
        match call.read_place(vault, freshness, 0).await? {
            ReadPlace::There(remote) => {
                let send = |channel, request| async move {
                    client(channel).watch_blocks(endless(request)).await
                };
                let response = call.forward(remote, message, send).await?;
                Ok(response.map(|stream| held(stream, place)))
            }
            ReadPlace::Here(owner, _) => {
                let answer =
                    self.clone().follow_apart(&call, owner, message.start_height, Announcing);
                Ok(call.answer(owner.group, held(answer, place)))
            }
        }
    }

    /// A place among the node's watches.
    pub(super) fn watch_place(&self, call: &Call) -> Result<WatchPlace, Failure> {
        let permit = self.watches.clone().try_acquire_owned();
        let too_many = |_| Failure::TooManyWatches { max: WATCHES_PER_NODE_MAX as u64 };
        let (context, permit) = (call.context.clone(), permit.map_err(too_many)?);
        context.metrics.watches_open().inc();
        Ok(WatchPlace { context, _permit: permit })
    }

    /// Tells of every block from a height on, in a task of its own.
    pub(super) fn follow_apart<T: Telling>(
        self,
        call: &Call,
        owner: Owner,
        from_height: u64,
        telling: T,
    ) -> AnswerStream<T::Answer> {
        let (sender, receiver) = mpsc::channel(QUEUED_MAX);
        let context = call.context.clone();
        let Owner { vault, group, epoch } = owner;
        // Told apart from the answers, because their queue may be full when the stream has to end.
        let end = Arc::new(Mutex::new(None));
        let ended = end.clone();
        tokio::spawn(async move {
            let call = Call {
                context,
                deadline: super::deadline::Deadline::within(Duration::from_secs(60)),
                is_forwarded: true,
                passed: None,
            };
            let owner = Owner { vault, group, epoch };
            let followed = self.follow(&call, owner, from_height, &Told { telling, sender }).await;
            if matches!(followed, Err(Failure::SlowWatcher { .. })) {
                call.context.metrics.slow_watches().inc();
            }
            *end.lock() = followed.err().map(Status::from);
        });
        let last = std::iter::from_fn(move || ended.lock().take().map(Err));
        Box::pin(ReceiverStream::new(receiver).chain(tokio_stream::iter(last)))
    }

    /// Sends until the client leaves or stops reading, the vault moves away, or the node ends.
    async fn follow<T: Telling>(
        &self,
        call: &Call,
        owner: Owner,
        from_height: u64,
        Told { telling, sender }: &Told<T>,
    ) -> Result<(), Failure> {
        let (mut next, mut told) = (from_height, Instant::now());
        // Subscribed before the tip is read, so that no block falls between the two.
        let mut tips = call.context.blocks.subscribe(owner.vault, 0);
        let mut drained = pin!(self.slot.drained());
        loop {
            tips.borrow_and_update();
            let tip = call.owned_row(owner)?.height;
            while next <= tip {
                for answer in telling.tell(call, owner.vault, next, tip)? {
                    if !send(sender, answer, next).await? {
                        return Ok(());
                    }
                    told = Instant::now();
                }
                next += 1;
                self.still_serves()?;
                tokio::task::consume_budget().await;
            }
            let mut pause = IDLE_LOOK_EVERY;
            if let Some((silence, heartbeat)) = telling.heartbeat(next, tip) {
                if told.elapsed() >= silence {
                    if !send(sender, heartbeat, next).await? {
                        return Ok(());
                    }
                    told = Instant::now();
                }
                pause = pause.min(silence.saturating_sub(told.elapsed()));
            }
            tokio::select! {
                changed = tips.changed() => {
                    if changed.is_err() {
                        tips = call.context.blocks.subscribe(owner.vault, 0);
                    }
                }
                () = sender.closed() => return Ok(()),
                () = &mut drained => return Err(Failure::Draining),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn still_serves(&self) -> Result<(), Failure> {
        match self.slot.stage() >= Stage::Draining {
            true => Err(Failure::Draining),
            false => Ok(()),
        }
    }
}

/// Hands an answer to a client that may be slow, but not for ever. False if it has left.
async fn send<T>(
    sender: &mpsc::Sender<Result<T, Status>>,
    answer: T,
    next: u64,
) -> Result<bool, Failure> {
    match tokio::time::timeout(slow_time(), sender.send(Ok(answer))).await {
        Ok(sent) => Ok(sent.is_ok()),
        Err(_) => Err(Failure::SlowWatcher { resume_height: next }),
    }
}

/// How long a full queue may stay full. A test does not wait that long.
fn slow_time() -> Duration {
    #[cfg(feature = "failpoints")]
    fail::fail_point!("watch::slow_time_ms", |time| {
        let time = time.and_then(|time| time.parse().ok()).expect("a time in milliseconds");
        Duration::from_millis(time)
    });
    SLOW_TIME_MAX
}

/// The request of a stream, which has no end in time; only the way to its beginning has.
pub(super) fn endless<T>(mut request: Request<T>) -> Request<T> {
    request.metadata_mut().remove("grpc-timeout");
    request
}
