//! Many writes under way at once, over one stream to each node that leads.
//!
//! Owns the window of a pipeline and the way of a write between its attempts: which node, what a failure means,
//! when it is sent again. Every attempt of a write carries the same idempotency key. Must never report a failed
//! condition as a verdict while an earlier attempt without an answer may still commit.

mod link;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ledger_proto::v1;
use ledger_types::limits::{REQUEST_BYTES_MAX, STREAM_BYTES_MAX, STREAM_WRITES_MAX};
use ledger_types::{InvalidInput, Operation, VaultRef};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::attempt::Failure;
use crate::call::{Answered, Charge, Progress};
use crate::client::Client;
use crate::error::ClientError;
use crate::nodes::Node;
use crate::write::{WriteReceipt, answered_write, write_kind};
use link::Link;

/// Writes of one vault that fail within this time of each other fail for the same reason, and pay once.
const SAME_EVENT: Duration = Duration::from_millis(10);
/// Vaults of which the last failure is remembered; beyond it the memory starts anew.
const VAULTS_MAX: usize = 4_096;

/// How much a pipeline has under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PipelineOptions {
    /// Most writes under way, to all nodes together; at least 1.
    pub writes_max: usize,
    /// Most bytes of them, about. A write that is larger goes alone.
    pub bytes_max: usize,
}

impl Default for PipelineOptions {
    /// What one stream of a node takes.
    fn default() -> PipelineOptions {
        PipelineOptions { writes_max: STREAM_WRITES_MAX, bytes_max: STREAM_BYTES_MAX }
    }
}

/// Writes many transactions of any vaults at once. Clones share the window and the streams. When the last one is
/// dropped, what is under way still comes to its end.
///
/// Writes take effect in no order that is promised: whoever needs one after another awaits the first.
#[derive(Clone, Debug)]
pub struct WritePipeline {
    shared: Arc<Shared>,
    _open: Arc<Open>,
}

/// A pipeline that somebody else may let go.
#[derive(Debug, Default)]
pub(crate) struct WeakPipeline {
    shared: Weak<Shared>,
    open: Weak<Open>,
}

impl WeakPipeline {
    /// The pipeline, if somebody still has it.
    pub(crate) fn upgrade(&self) -> Option<WritePipeline> {
        Some(WritePipeline { shared: self.shared.upgrade()?, _open: self.open.upgrade()? })
    }
}

/// A write on its way. It goes on if this is dropped; only its outcome is lost.
#[derive(Debug)]
pub struct PendingWrite {
    answer: oneshot::Receiver<Result<Answered<v1::WriteResponse>, ClientError>>,
}

/// A write between its attempts.
#[derive(Debug)]
struct Entry {
    body: Bytes,
    progress: Box<Progress>,
    /// When the present attempt is given up.
    until: Instant,
    reply: oneshot::Sender<Result<Answered<v1::WriteResponse>, ClientError>>,
    _room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// What the clones of a pipeline and its links share.
#[derive(Debug)]
struct Shared {
    client: Client,
    bytes_max: usize,
    writes: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    links: Mutex<Links>,
    failures: Mutex<HashMap<VaultRef, Instant>>,
}

/// The links of a pipeline by address.
#[derive(Debug, Default)]
struct Links {
    links: HashMap<Arc<str>, Arc<Link>>,
    /// Nobody will submit any more.
    is_closed: bool,
}

/// Lives as long as somebody may submit.
#[derive(Debug)]
struct Open {
    shared: Arc<Shared>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut links = self.shared.links.lock();
        links.is_closed = true;
        links.links.values().for_each(|link| link.close());
    }
}

impl Client {
    /// A pipeline of writes. Its calls have this client's deadline, repetitions included, counted from the moment
    /// at which there was room for them.
    pub fn write_pipeline(&self, options: PipelineOptions) -> WritePipeline {
        let bytes_max = options.bytes_max.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let writes_max = options.writes_max.clamp(1, Semaphore::MAX_PERMITS);
        let shared = Arc::new(Shared {
            client: self.clone(),
            bytes_max,
            writes: Arc::new(Semaphore::new(writes_max)),
            bytes: Arc::new(Semaphore::new(bytes_max)),
            links: Mutex::default(),
            failures: Mutex::new(HashMap::new()),
        });
        WritePipeline { shared: shared.clone(), _open: Arc::new(Open { shared }) }
    }
}

impl WritePipeline {
    /// Sends a transaction on its way, as soon as there is room for it in the window: all of its operations in
    /// order, or none. Errors: a request that could never be accepted; it was not sent.
    pub async fn submit(
        &self,
        vault: VaultRef,
        operations: Vec<Operation>,
    ) -> Result<PendingWrite, ClientError> {
        let body = self.shared.client.encoded_write(vault, operations)?;
        self.submit_encoded(vault, body).await
    }

    /// Sends an encoded `WriteRequest` to this vault on its way, as tools that prepare their requests do. It must
    /// carry an idempotency key of its own.
    pub async fn submit_encoded(
        &self,
        vault: VaultRef,
        body: Bytes,
    ) -> Result<PendingWrite, ClientError> {
        if body.len() > REQUEST_BYTES_MAX {
            let (field, len, max) = ("write", body.len(), REQUEST_BYTES_MAX);
            return Err(InvalidInput::TooLong { field, len, max }.into());
        }
        let shared = &self.shared;
        let weight = body.len().clamp(1, shared.bytes_max);
        let weight = u32::try_from(weight).expect("the window has at most 2^32 - 1 bytes");
        let never_closed = "the pipeline's semaphores are never closed";
        let write = shared.writes.clone().acquire_owned().await.expect(never_closed);
        let bytes = shared.bytes.clone().acquire_many_owned(weight).await.expect(never_closed);
        Ok(shared.send(body, shared.client.begin(write_kind(vault)), (write, bytes)))
    }

    /// Sends an encoded write of the caller's on its way if there is room for it now.
    pub(crate) fn try_submit(&self, progress: Progress, body: Bytes) -> Option<PendingWrite> {
        let shared = &self.shared;
        if body.len() > REQUEST_BYTES_MAX {
            return None;
        }
        let weight = u32::try_from(body.len().clamp(1, shared.bytes_max)).ok()?;
        let write = shared.writes.clone().try_acquire_owned().ok()?;
        let bytes = shared.bytes.clone().try_acquire_many_owned(weight).ok()?;
        Some(shared.send(body, progress, (write, bytes)))
    }

    pub(crate) fn downgrade(&self) -> WeakPipeline {
        WeakPipeline { shared: Arc::downgrade(&self.shared), open: Arc::downgrade(&self._open) }
    }
}

impl Future for PendingWrite {
    type Output = Result<WriteReceipt, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(context).map(|answer| match answer {
            Ok(answered) => answered_write(answered?),
            // The runtime that carried the write is gone.
            Err(_) => {
                let last = ClientError::Malformed("end: the pipeline was stopped");
                Err(ClientError::OutcomeUnknown(Box::new(last)))
            }
        })
    }
}

impl Entry {
    fn finish(self, outcome: Result<Answered<v1::WriteResponse>, ClientError>) {
        // Whoever does not wait any more does not hear of it.
        let _ = self.reply.send(outcome);
    }

    fn answered(self, answer: v1::WriteResponse) {
        let earlier_may_happen = self.progress.may_have_happened();
        self.finish(Ok(Answered { answer, earlier_may_happen }));
    }
}

impl Shared {
    fn send(
        self: &Arc<Self>,
        body: Bytes,
        progress: Progress,
        room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
    ) -> PendingWrite {
        let (reply, answer) = oneshot::channel();
        let (progress, until) = (Box::new(progress), Instant::now());
        self.dispatch(Entry { body, progress, until, reply, _room: room });
        PendingWrite { answer }
    }

    /// Sends a write to the node whose turn it is, if there is time left.
    fn dispatch(self: &Arc<Self>, mut entry: Entry) {
        let node = self.client.choose(&mut entry.progress);
        match entry.progress.attempt_limit() {
            Ok(limit) => entry.until = Instant::now() + limit,
            Err(error) => return entry.finish(Err(error)),
        }
        let mut links = self.links.lock();
        if let Some(link) = links.links.get(node.address()) {
            match link.push(entry) {
                Ok(()) => return,
                // It has ended: another takes its place.
                Err(returned) => entry = returned,
            }
        }
        let address = node.address().into();
        let link = Link::start(self.clone(), node, entry, links.is_closed);
        links.links.insert(address, link);
    }

    /// Sends a write again after a failed attempt, or tells how it ended.
    fn failed(self: &Arc<Self>, mut entry: Entry, node: &Arc<Node>, failure: Failure) {
        let charge = self.charge(entry.progress.kind().route.vault());
        let (shared, node) = (self.clone(), node.clone());
        tokio::spawn(async move {
            let next =
                shared.client.after_failure(&mut entry.progress, &node, failure, charge).await;
            match next {
                Ok(()) => shared.dispatch(entry),
                Err(error) => entry.finish(Err(error)),
            }
        });
    }

    /// What a failure of a write to this vault costs: when a leader goes, everything under way fails at once.
    fn charge(&self, vault: Option<VaultRef>) -> Charge {
        let Some(vault) = vault else { return Charge::Full };
        let now = Instant::now();
        let mut failures = self.failures.lock();
        if failures.get(&vault).is_some_and(|last| now.duration_since(*last) < SAME_EVENT) {
            return Charge::Paid;
        }
        if failures.len() >= VAULTS_MAX {
            failures.clear();
        }
        failures.insert(vault, now);
        Charge::Full
    }
}
