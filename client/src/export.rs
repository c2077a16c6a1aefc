//! Exporting: everything that a vault held at one height, across broken streams.

use ledger_proto::convert::Consistency;
use ledger_proto::v1;
use ledger_types::VaultRef;
use tonic::Streaming;

use crate::attempt::{Effect, Failure, Next};
use crate::call::CallKind;
use crate::client::Client;
use crate::error::ClientError;
use crate::list::{Entity, Relationship};
use crate::method;
use crate::read::read_route;
use crate::retry::Backoff;
use crate::write::wire_vault;

/// What is exported.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportOptions {
    /// Exactly this height instead of the newest.
    pub at_height: Option<u64>,
    /// Entities are in it.
    pub entities: bool,
    /// Relationships are in it.
    pub relationships: bool,
    /// How fresh the newest height must be.
    pub consistency: Consistency,
    /// Goes on after the chunk that had this cursor.
    pub cursor: Option<String>,
}

impl Default for ExportOptions {
    /// Everything, with every acknowledged write.
    fn default() -> ExportOptions {
        ExportOptions {
            at_height: None,
            entities: true,
            relationships: true,
            consistency: Consistency::Linearizable,
            cursor: None,
        }
    }
}

/// A part of an export. Entities come before relationships, each in key order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportChunk {
    /// The height, the same in all chunks.
    pub height: u64,
    /// Entities.
    pub entities: Vec<Entity>,
    /// Relationships.
    pub relationships: Vec<Relationship>,
    /// With this another export goes on after this chunk; `None` on the last one.
    pub cursor: Option<String>,
}

/// An export of one vault. Dropping it ends the stream.
#[derive(Debug)]
pub struct Export {
    client: Client,
    vault: VaultRef,
    options: ExportOptions,
    stream: Option<Streaming<v1::ExportBulkResponse>>,
    height: Option<u64>,
    is_over: bool,
}

impl Client {
    /// Exports a vault as it was at one height.
    pub fn export(&self, vault: VaultRef, options: ExportOptions) -> Export {
        let height = None;
        Export { client: self.clone(), vault, options, stream: None, height, is_over: false }
    }
}

impl Export {
    /// The next chunk; `None` after the last. A broken stream is opened again where it broke, at any node that
    /// has the height. Errors: a refusal that repeating cannot mend, such as a height that is not kept any more;
    /// no chunk came within the client's deadline.
    pub async fn next(&mut self) -> Result<Option<ExportChunk>, ClientError> {
        if self.is_over {
            return Ok(None);
        }
        let began = std::time::Instant::now();
        let mut backoff = Backoff::new(&self.client.inner.config.retry);
        loop {
            if self.stream.is_none() {
                self.stream = Some(self.open().await?);
            }
            let stream = self.stream.as_mut().expect("opened above");
            let left = self.client.deadline.saturating_sub(began.elapsed());
            let failure = match tokio::time::timeout(left, stream.message()).await {
                Ok(Ok(Some(chunk))) => return self.accept(chunk).map(Some),
                Ok(Ok(None)) => Failure::Broken("the stream ended before the export".to_owned()),
                Ok(Err(status)) => Failure::from_status(&status),
                Err(_) => Failure::TimedOut,
            };
            self.stream = None;
            let next = failure.next(Effect::Reads);
            let error = failure.into_error("export");
            if next == Next::GiveUp {
                return Err(error);
            }
            if began.elapsed() >= self.client.deadline {
                let (waited, last) = (began.elapsed(), Some(Box::new(error)));
                return Err(ClientError::DeadlineExceeded { waited, outcome_unknown: false, last });
            }
            tokio::time::sleep(backoff.wait()).await;
        }
    }

    async fn open(&self) -> Result<Streaming<v1::ExportBulkResponse>, ClientError> {
        let (namespace_id, vault_id) = wire_vault(self.vault)?;
        let cursor = self.options.cursor.clone().unwrap_or_default();
        let request = v1::ExportBulkRequest {
            namespace_id,
            vault_id,
            at_height: self.options.at_height,
            skip_entities: !self.options.entities,
            skip_relationships: !self.options.relationships,
            cursor,
            consistency: v1::ReadConsistency::from(self.options.consistency).into(),
        };
        let consistency = match self.options.cursor {
            // Its height was reached before, so that any node may have it.
            Some(_) => Consistency::Eventual,
            None => self.options.consistency,
        };
        let kind = CallKind::reads(read_route(self.vault, consistency));
        self.client.open_stream(method::EXPORT_BULK, kind, &request).await
    }

    /// Errors: a chunk of another height than the ones before.
    fn accept(&mut self, chunk: v1::ExportBulkResponse) -> Result<ExportChunk, ClientError> {
        let height = chunk.height;
        let wanted = self.height.or(self.options.at_height).unwrap_or(height);
        if height != wanted {
            return Err(ClientError::Malformed("height"));
        }
        self.height = Some(height);
        let cursor = (!chunk.cursor.is_empty()).then_some(chunk.cursor);
        self.is_over = cursor.is_none();
        self.options.cursor.clone_from(&cursor);
        let entity = |entity: v1::Entity| Entity {
            key: entity.key,
            value: entity.value,
            expires_at: entity.expires_at.unwrap_or(0),
            version: entity.version,
        };
        let relationship = |item: v1::Relationship| Relationship {
            resource: item.resource,
            relation: item.relation,
            subject: item.subject,
        };
        Ok(ExportChunk {
            height,
            entities: chunk.entities.into_iter().map(entity).collect(),
            relationships: chunk.relationships.into_iter().map(relationship).collect(),
            cursor,
        })
    }
}
