//! `ImportBulk`: numbered chunks into one vault, each once, and how far they have come.
//!
//! Owns the numbers of one stream. A chunk is a write of the import's own client, counted by the chunk's number, so
//! the vault's session says where an import stands, whichever node is asked. Must never propose a chunk before the
//! one in front of it, nor call one durable before all in front of it are.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::{Duration, Instant};

use ledger_proto::convert::ids;
use ledger_proto::convert::imports::chunk_operations;
use ledger_proto::convert::writes::WriteInput;
use ledger_proto::v1;
use ledger_proto::v1::import_bulk_request::Message;
use ledger_shard::{CommandResult, ProposeOutcome, WriteResult};
use ledger_types::limits::{DEADLINE_MS_DEFAULT, DEADLINE_MS_MAX};
use ledger_types::{Dedup, VaultRef};
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::Edge;
use super::deadline::Deadline;
use super::ledger::client;
use super::route::{Call, Owner, Place, query_failure};
use super::slot::Stage;
use super::status::{Failure, of_transport};
use super::vaults;
use super::window::Window;
use super::write::{check_owner, propose_write, result_of};

/// Word of chunks on its way to one client.
pub(super) type ImportAnswers =
    Pin<Box<dyn Stream<Item = Result<v1::ImportBulkResponse, Status>> + Send>>;

/// Answers that wait for a slow client. Each tells all that the ones before it told.
const QUEUED_MAX: usize = 16;
/// How often a quiet stream looks whether the node still serves.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Longest time from a stream's beginning to its first message.
const BEGIN_TIME_MAX: Duration = Duration::from_millis(DEADLINE_MS_DEFAULT);

type Chunks = Streaming<v1::ImportBulkRequest>;

/// What an import is of.
#[derive(Clone, Debug)]
struct Target {
    vault: VaultRef,
    client: String,
}

impl Edge {
    pub(super) async fn import(
        &self,
        request: Request<Chunks>,
    ) -> Result<Response<ImportAnswers>, Failure> {
        let (metadata, _, mut chunks) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?.until(Deadline::within(BEGIN_TIME_MAX));
        let place = self.data_stream()?;
        let remaining = call.deadline.check()?;
        let first = tokio::time::timeout(remaining, chunks.message()).await;
        let first = first.map_err(|_| Failure::Deadline)?;
        let first = first.map_err(|status| of_transport(&status).unwrap_or(Failure::Deadline))?;
        let begin = match first.and_then(|first| first.message) {
            Some(Message::Begin(begin)) => begin,
            _ => return Err(Failure::field("begin", "must be the first message")),
        };
        let target = Target {
            vault: ids::writable_vault_ref(begin.namespace_id, begin.vault_id)?,
            client: ids::client(begin.client_id.clone())?,
        };
        match vaults::place_for_write(&call, target.vault, 0).await? {
            Place::There(remote) => {
                let head = v1::ImportBulkRequest { message: Some(Message::Begin(begin)) };
                // What breaks off here breaks off there as well: the chunks that came are whole.
                let all = tokio_stream::once(head).chain(chunks.map_while(Result::ok));
                let send = |channel, mut request: Request<_>| async move {
                    request.metadata_mut().remove("grpc-timeout");
                    client(channel).import_bulk(request).await
                };
                let response = call.forward(remote, all, send).await?;
                Ok(response.map(|answers| held(answers, place)))
            }
            Place::Here(owner) => {
                check_owner(&call, owner)?;
                call.barrier(owner.group).await?;
                let last = call.context.reader.client_sequence(owner.vault, &target.client);
                let durable = last.map_err(query_failure)?;
                let (answers, receiver) = mpsc::channel(QUEUED_MAX);
                let import = Import {
                    edge: self.clone(),
                    call: call.until(call.deadline),
                    owner,
                    target,
                    durable,
                    told: None,
                    next: durable + 1,
                    height: 0,
                    under_way: VecDeque::new(),
                    window: Window::default(),
                    rests_until: Instant::now(),
                    is_broken: false,
                    answers,
                };
                tokio::spawn(import.run(chunks));
                let answers = ReceiverStream::new(receiver);
                Ok(call.answer(owner.group, held(answers, place)))
            }
        }
    }
}

/// The stream, holding its place among the node's streams for as long as it lives.
fn held(
    answers: impl Stream<Item = Result<v1::ImportBulkResponse, Status>> + Send + 'static,
    place: OwnedSemaphorePermit,
) -> ImportAnswers {
    Box::pin(answers.map(move |answer| {
        let _held = &place;
        answer
    }))
}

/// A chunk that was proposed.
struct UnderWay {
    number: u64,
    bytes: usize,
    outcome: oneshot::Receiver<ProposeOutcome>,
    deadline: Deadline,
}

/// One import on the node that leads its vault's group.
struct Import {
    edge: Edge,
    call: Call,
    owner: Owner,
    target: Target,
    /// Every chunk up to this one is applied.
    durable: u64,
    /// What the client was told last.
    told: Option<u64>,
    /// The chunk that must come next.
    next: u64,
    /// The block that holds the newest durable chunk of this stream.
    height: u64,
    under_way: VecDeque<UnderWay>,
    window: Window,
    /// No chunk is read before: until then the namespace pays for those that were.
    rests_until: Instant,
    /// A chunk failed.
    is_broken: bool,
    answers: mpsc::Sender<Result<v1::ImportBulkResponse, Status>>,
}

impl Import {
    /// Takes chunks until the client has no more or something fails, and answers everything that it took.
    async fn run(mut self, chunks: Chunks) {
        let taken = self.take_all(chunks).await;
        let finished = match self.is_broken {
            // What is behind a chunk that failed cannot be applied, or not be known to be.
            true => Ok(()),
            false => self.finish().await,
        };
        // The chunk that failed came before what could not be taken any more.
        if let Err(failure) = finished.and(taken) {
            // Whoever has left does not hear why the stream ends.
            let _ = self.answers.send(Err(failure.into())).await;
        }
    }

    async fn take_all(&mut self, mut chunks: Chunks) -> Result<(), Failure> {
        self.tell().await?;
        while self.edge.slot.stage() < Stage::Draining {
            let rest = self.rests_until.saturating_duration_since(Instant::now());
            let (rests, has_room) = (!rest.is_zero(), self.window.has_room());
            let pause = if rests { rest.min(LOOK_EVERY) } else { LOOK_EVERY };
            let message = tokio::select! {
                settled = settled(self.under_way.front_mut()) => {
                    self.settle_front(settled)?;
                    self.tell().await?;
                    continue;
                }
                message = chunks.message(), if has_room && !rests => message,
                // Nothing is read meanwhile that would tell.
                () = self.answers.closed(), if rests => return Ok(()),
                () = tokio::time::sleep(pause) => continue,
            };
            match message {
                Ok(Some(message)) => {
                    let operations = self.take(message)?;
                    self.rest_after(operations);
                }
                Ok(None) => return Ok(()),
                // Without a failure of ours the client is gone, and what it sent before is finished.
                Err(status) => return of_transport(&status).map_or(Ok(()), Err),
            }
        }
        Err(Failure::Draining)
    }

    /// An import is slowed down to its namespace's rate and never refused for it: the next chunk is read when this one
    /// is paid for. It is counted here, wherever the client came in.
    fn rest_after(&mut self, operations: usize) {
        let (admission, now) = (&self.call.context.admission, Instant::now());
        let namespace = self.target.vault.namespace;
        self.rests_until = now + admission.charge(namespace, operations as u64, now);
    }

    /// Proposes a chunk; tells how many operations it has, 0 for one that was taken before.
    fn take(&mut self, message: v1::ImportBulkRequest) -> Result<usize, Failure> {
        let Some(Message::Chunk(chunk)) = message.message else {
            return Err(Failure::field("chunk", "must be every message but the first"));
        };
        let (number, bytes) = (chunk.number, chunk.encoded_len());
        if number == 0 || number > self.next {
            let problem = format!("is {number} and must be {}", self.next);
            return Err(Failure::field("chunk.number", problem));
        }
        if number < self.next {
            // It was taken already, here or by an earlier stream.
            return Ok(0);
        }
        let operations = chunk_operations(chunk)?;
        let count = operations.len();
        let (sender, outcome) = oneshot::channel();
        let deadline = Deadline::of_stream(DEADLINE_MS_MAX);
        let write = WriteInput {
            vault: self.target.vault,
            client: self.target.client.clone(),
            dedup: Dedup::Sequence(number),
            operations,
            include_proof: false,
        };
        let completed = move |outcome| {
            // A stream that has ended needs no answer.
            let _ = sender.send(outcome);
        };
        propose_write(&self.call.until(deadline), self.owner, write, completed)?;
        self.under_way.push_back(UnderWay { number, bytes, outcome, deadline });
        self.window.take(bytes);
        self.next = number + 1;
        Ok(count)
    }

    /// Takes what became of the oldest chunk under way, and of those behind it that have ended too.
    fn settle_front(&mut self, outcome: Option<ProposeOutcome>) -> Result<(), Failure> {
        let settled = self.settle_ended(outcome);
        self.is_broken |= settled.is_err();
        settled
    }

    fn settle_ended(&mut self, outcome: Option<ProposeOutcome>) -> Result<(), Failure> {
        let Some(front) = self.under_way.pop_front() else { return Ok(()) };
        self.window.give_back(front.bytes);
        let outcome = outcome.ok_or(Failure::OutcomeUnknown)?;
        self.applied(front.number, outcome)?;
        while let Some(front) = self.under_way.front_mut() {
            let Ok(outcome) = front.outcome.try_recv() else { return Ok(()) };
            let (number, bytes) = (front.number, front.bytes);
            self.under_way.pop_front();
            self.window.give_back(bytes);
            self.applied(number, outcome)?;
        }
        Ok(())
    }

    fn applied(&mut self, number: u64, outcome: ProposeOutcome) -> Result<(), Failure> {
        match result_of(&self.call, self.owner, outcome)? {
            CommandResult::Write(WriteResult::Committed(committed)) => {
                self.height = committed.height;
            }
            // Another stream of the same import was faster.
            CommandResult::Write(WriteResult::SequenceDuplicate { .. }) => {}
            CommandResult::Write(WriteResult::ContractMixed { last, .. }) => {
                return Err(Failure::ContractMixed { contract: "idempotency_key", last });
            }
            // The one before it was not applied and says why.
            CommandResult::Write(WriteResult::SequenceGap { .. }) => {
                return Err(Failure::OutcomeUnknown);
            }
            _ => return Err(Failure::Internal("a chunk was answered as something else")),
        }
        self.durable = self.durable.max(number);
        Ok(())
    }

    /// Waits for every chunk under way.
    async fn finish(&mut self) -> Result<(), Failure> {
        while !self.under_way.is_empty() {
            let settled = settled(self.under_way.front_mut()).await;
            self.settle_front(settled)?;
            self.tell().await?;
        }
        Ok(())
    }

    /// Tells the client how far the import is, if that is news. Errors: the client is gone.
    async fn tell(&mut self) -> Result<(), Failure> {
        if self.told == Some(self.durable) {
            return Ok(());
        }
        self.told = Some(self.durable);
        let answer =
            v1::ImportBulkResponse { durable_chunk: self.durable, block_height: self.height };
        self.answers.send(Ok(answer)).await.map_err(|_| Failure::Draining)
    }
}

/// Waits for the end of a chunk; `None` if its time is up or its group is gone. Never ends without a chunk.
async fn settled(chunk: Option<&mut UnderWay>) -> Option<ProposeOutcome> {
    let Some(chunk) = chunk else { return std::future::pending().await };
    match tokio::time::timeout(chunk.deadline.remaining(), &mut chunk.outcome).await {
        Ok(Ok(outcome)) => Some(outcome),
        Ok(Err(_)) | Err(_) => None,
    }
}
