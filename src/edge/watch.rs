//! `WatchBlocks`: the blocks that exist, then each new one, none missed and none twice.
//!
//! Owns the stream's position. Must never rely on being told of every block: a notice only says that there
//! is more, and the blocks are read from the vault's own chain.

use std::pin::Pin;
use std::time::Duration;

use ledger_proto::convert::block::wire_announcement;
use ledger_proto::convert::{Consistency, ids};
use ledger_proto::v1;
use ledger_types::VaultRef;
use ledger_types::limits::WATCHES_PER_NODE_MAX;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::Edge;
use super::read::client;
use super::route::{Call, Freshness, Owner, ReadPlace, query_failure};
use super::slot::Stage;
use super::status::Failure;

/// Announcements on their way to one client.
pub(super) type BlockStream =
    Pin<Box<dyn Stream<Item = Result<v1::BlockAnnouncement, Status>> + Send>>;

/// Announcements that wait for a slow client.
const QUEUED_MAX: usize = 64;
/// How often an idle stream looks whether the node still serves.
const IDLE_LOOK_EVERY: Duration = Duration::from_secs(5);

/// The stream, holding its place among the node's watches for as long as it lives.
fn held(
    stream: impl Stream<Item = Result<v1::BlockAnnouncement, Status>> + Send + 'static,
    permit: OwnedSemaphorePermit,
) -> BlockStream {
    Box::pin(stream.map(move |item| {
        let _held = &permit;
        item
    }))
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
        let Ok(permit) = self.watches.clone().try_acquire_owned() else {
            return Err(Failure::TooManyWatches { max: WATCHES_PER_NODE_MAX as u64 });
        };
        let freshness = Freshness { consistency: Consistency::Eventual, height_min: 0 };
        match call.read_place(vault, freshness, 0).await? {
            ReadPlace::There(remote) => {
                let send = |channel, mut request: Request<_>| async move {
                    // The stream has no end in time, only the way to its beginning does.
                    request.metadata_mut().remove("grpc-timeout");
                    client(channel).watch_blocks(request).await
                };
                let response = call.forward(remote, message, send).await?;
                Ok(response.map(|stream| held(stream, permit)))
            }
            ReadPlace::Here(owner, _) => {
                let answer = self.clone().announce(&call, owner, message.start_height);
                Ok(call.answer(owner.group, held(answer, permit)))
            }
        }
    }

    fn announce(self, call: &Call, owner: Owner, from_height: u64) -> BlockStream {
        let (sender, receiver) = mpsc::channel(QUEUED_MAX);
        let context = call.context.clone();
        let Owner { vault, group, epoch } = owner;
        tokio::spawn(async move {
            let position = Position { vault, next: from_height };
            let call = Call {
                context,
                deadline: super::deadline::Deadline::within(Duration::from_secs(60)),
                is_forwarded: true,
            };
            let owner = Owner { vault, group, epoch };
            let Err(failure) = self.follow(&call, owner, position, &sender).await else { return };
            // Whoever has left does not hear why the stream ends.
            let _ = sender.send(Err(failure.into())).await;
        });
        Box::pin(ReceiverStream::new(receiver))
    }

    /// Sends until the client leaves, the vault moves away, or the node ends.
    async fn follow(
        &self,
        call: &Call,
        owner: Owner,
        mut position: Position,
        sender: &mpsc::Sender<Result<v1::BlockAnnouncement, Status>>,
    ) -> Result<(), Failure> {
        // Subscribed before the tip is read, so that no block falls between the two.
        let mut tips = call.context.blocks.subscribe(owner.vault, 0);
        loop {
            tips.borrow_and_update();
            let tip = call.owned_row(owner)?.height;
            while position.next <= tip {
                let announcement = position.read(call)?;
                if sender.send(Ok(announcement)).await.is_err() {
                    return Ok(());
                }
                position.next += 1;
            }
            tokio::select! {
                changed = tips.changed() => {
                    if changed.is_err() {
                        tips = call.context.blocks.subscribe(owner.vault, 0);
                    }
                }
                () = sender.closed() => return Ok(()),
                () = tokio::time::sleep(IDLE_LOOK_EVERY) => {}
            }
            if self.slot.stage() >= Stage::Draining {
                return Err(Failure::Draining);
            }
        }
    }
}

/// Where a stream is in the vault's chain.
struct Position {
    vault: VaultRef,
    next: u64,
}

impl Position {
    fn read(&self, call: &Call) -> Result<v1::BlockAnnouncement, Failure> {
        let header = call.context.reader.block_header(self.vault, self.next);
        let (header, _) = header.map_err(query_failure)?;
        Ok(wire_announcement(&header))
    }
}
