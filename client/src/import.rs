//! Importing: numbered chunks into one vault, each once, over streams that may break.
//!
//! Owns the chunks that are not durable yet and sends them again where the cluster stopped. The cluster counts the
//! chunks of an import under its name, so that any process that knows the name and makes the same chunks can go on.
//! Must never number a chunk twice within one import.

use std::collections::VecDeque;
use std::sync::Arc;

use ledger_proto::v1;
use ledger_proto::v1::import_bulk_request::Message as Part;
use ledger_types::VaultRef;
use ledger_types::limits::STREAM_WRITES_MAX;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::attempt::{Effect, Failure, leader_told};
use crate::call::{CallKind, Charge, Progress, open_both};
use crate::client::Client;
use crate::error::ClientError;
use crate::leaders::Route;
use crate::list::Relationship;
use crate::method::{self, Messages};
use crate::nodes::Node;
use crate::write::wire_vault;

/// Bytes of the chunks under way: enough for two entries of a log and what follows them.
const BYTES_MAX: usize = 2 * 1024 * 1024;
/// Requests that wait for the transport: the beginning and every chunk that may be under way.
const REQUESTS_MAX: usize = STREAM_WRITES_MAX + 1;

/// An entity that is brought in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewEntity {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// Unix seconds from which it counts as absent; 0 means never.
    pub expires_at: u64,
}

/// What is brought in as one transaction: 1 to 10,000 items.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ImportChunk {
    /// Entities, set without a condition.
    pub entities: Vec<NewEntity>,
    /// Relationships, created if they are not there.
    pub relationships: Vec<Relationship>,
}

/// An import into one vault.
#[derive(Debug)]
pub struct Import {
    client: Client,
    vault: VaultRef,
    name: String,
    stream: Option<Open>,
    durable: u64,
    height: u64,
    next: u64,
    /// Chunks that are not known to be durable, in order.
    unanswered: VecDeque<v1::ImportChunk>,
    bytes: usize,
}

/// A stream that is open.
#[derive(Debug)]
struct Open {
    requests: mpsc::Sender<v1::ImportBulkRequest>,
    answers: Streaming<v1::ImportBulkResponse>,
    node: Arc<Node>,
    /// What the node said last.
    durable: u64,
}

impl Client {
    /// Begins an import under a name, or goes on with one: [`Import::durable`] tells how many chunks are there
    /// already. The name takes the place of the client id and must be used for nothing else in the vault. Errors:
    /// no node takes the import within the client's deadline.
    pub async fn import(&self, vault: VaultRef, name: &str) -> Result<Import, ClientError> {
        wire_vault(vault)?;
        let mut import = Import {
            client: self.clone(),
            vault,
            name: name.to_owned(),
            stream: None,
            durable: 0,
            height: 0,
            next: 1,
            unanswered: VecDeque::new(),
            bytes: 0,
        };
        let mut progress = import.begin();
        import.reopen(&mut progress).await?;
        import.next = import.durable + 1;
        Ok(import)
    }
}

impl Import {
    /// The newest chunk of which it is known that it and all before it are durable; 0 before the first.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// The block that holds it; 0 if it was durable before this import was opened.
    pub fn height(&self) -> u64 {
        self.height
    }

    /// The number that the next chunk gets.
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// Sends the next chunk, once there is room for it among those under way, and tells its number. A broken
    /// stream is opened again and goes on where the cluster stopped. Errors: a chunk that cannot be accepted;
    /// nothing became durable within the client's deadline. After an error the import has ended, and another one
    /// under the same name goes on after [`Import::durable`].
    pub async fn send(&mut self, chunk: ImportChunk) -> Result<u64, ClientError> {
        while !self.unanswered.is_empty()
            && (self.bytes >= BYTES_MAX || self.unanswered.len() >= STREAM_WRITES_MAX)
        {
            self.advance().await?;
        }
        let number = self.next;
        let chunk = wire_chunk(number, chunk);
        self.next += 1;
        self.bytes += chunk.encoded_len();
        if let Some(stream) = &self.stream {
            stream.send(Part::Chunk(chunk.clone()));
        }
        self.unanswered.push_back(chunk);
        Ok(number)
    }

    /// Waits until every chunk that was sent is durable.
    pub async fn finish(&mut self) -> Result<(), ClientError> {
        while !self.unanswered.is_empty() {
            self.advance().await?;
        }
        Ok(())
    }

    fn begin(&self) -> Progress {
        self.client.begin(CallKind { route: Route::Leader(self.vault), effect: Effect::WritesOnce })
    }

    /// Waits until more is durable than before.
    async fn advance(&mut self) -> Result<(), ClientError> {
        let before = self.durable;
        let mut progress = self.begin();
        loop {
            let Some(stream) = &mut self.stream else {
                self.reopen(&mut progress).await?;
                if self.durable > before {
                    return Ok(());
                }
                continue;
            };
            let left = progress.time_left();
            let failure = match tokio::time::timeout(left, stream.answers.message()).await {
                Ok(Ok(Some(answer))) => {
                    stream.durable = answer.durable_chunk;
                    self.height = self.height.max(answer.block_height);
                    self.take(answer.durable_chunk)?;
                    if self.durable > before {
                        return Ok(());
                    }
                    continue;
                }
                Ok(Ok(None)) => Failure::Broken("the stream ended before the import".to_owned()),
                Ok(Err(status)) => Failure::from_status(&status),
                Err(_) => Failure::TimedOut,
            };
            let node = stream.node.clone();
            self.stream = None;
            self.client.after_failure(&mut progress, &node, failure, Charge::Full).await?;
        }
    }

    /// Opens a stream, learns how far the import is, and sends again what is missing.
    async fn reopen(&mut self, progress: &mut Progress) -> Result<(), ClientError> {
        let open = loop {
            let node = self.client.choose(progress);
            let limit = progress.attempt_limit()?;
            let failure = match tokio::time::timeout(limit, self.open(&node)).await {
                Ok(Ok(open)) => break open,
                Ok(Err(failure)) => failure,
                Err(_) => Failure::TimedOut,
            };
            self.client.after_failure(progress, &node, failure, Charge::Full).await?;
        };
        self.client.inner.nodes.answered(&open.node);
        self.take(open.durable)?;
        for chunk in &self.unanswered {
            open.send(Part::Chunk(chunk.clone()));
        }
        self.stream = Some(open);
        Ok(())
    }

    async fn open(&self, node: &Arc<Node>) -> Result<Open, Failure> {
        let (requests, outgoing) = mpsc::channel(REQUESTS_MAX);
        let (namespace_id, vault_id) =
            (Some(self.vault.namespace.into()), Some(self.vault.vault.into()));
        let client_id = Some(v1::ClientId { id: self.name.clone() });
        let begin = v1::ImportBegin { namespace_id, vault_id, client_id };
        // The receiver lives in the stream, which is opened below.
        let _ = requests.try_send(v1::ImportBulkRequest { message: Some(Part::Begin(begin)) });
        let outgoing = ReceiverStream::new(outgoing);
        let opened =
            open_both(node.channel(), method::IMPORT_BULK, outgoing, Messages::new()).await;
        let response = opened.map_err(|status| Failure::from_status(&status))?;
        let (group, leader) = leader_told(response.metadata());
        self.client.inner.leaders.learn(Route::Leader(self.vault), group, leader);
        let mut answers = response.into_inner();
        match answers.message().await {
            Ok(Some(first)) => {
                Ok(Open { requests, answers, node: node.clone(), durable: first.durable_chunk })
            }
            Ok(None) => Err(Failure::Broken("the stream ended at once".to_owned())),
            Err(status) => Err(Failure::from_status(&status)),
        }
    }

    /// Forgets the chunks that are durable. Errors: the cluster has lost chunks that it had.
    fn take(&mut self, durable: u64) -> Result<(), ClientError> {
        if durable < self.durable {
            return Err(ClientError::Malformed("durable_chunk"));
        }
        self.durable = durable;
        while let Some(chunk) = self.unanswered.pop_front_if(|chunk| chunk.number <= durable) {
            self.bytes -= chunk.encoded_len();
        }
        Ok(())
    }
}

impl Open {
    fn send(&self, part: Part) {
        // If the stream has ended, its answers say so, and the chunk is sent again on the next one.
        let _ = self.requests.try_send(v1::ImportBulkRequest { message: Some(part) });
    }
}

fn wire_chunk(number: u64, chunk: ImportChunk) -> v1::ImportChunk {
    let entity = |entity: NewEntity| v1::SetEntity {
        key: entity.key,
        value: entity.value,
        expires_at: (entity.expires_at != 0).then_some(entity.expires_at),
        condition: None,
    };
    let relationship = |relationship: Relationship| v1::Relationship {
        resource: relationship.resource,
        relation: relationship.relation,
        subject: relationship.subject,
    };
    v1::ImportChunk {
        number,
        entities: chunk.entities.into_iter().map(entity).collect(),
        relationships: chunk.relationships.into_iter().map(relationship).collect(),
    }
}
