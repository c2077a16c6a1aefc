//! `ExportBulk`: everything that a vault held at one height, in bounded chunks.
//!
//! Owns where an export stands. Each chunk is read from rows of its own, so an export holds nothing back in the
//! store however slowly it is read, and any node that has the height can go on with it. Must never show two heights
//! in one export.

use std::pin::Pin;

use ledger_proto::convert::consistency::consistency;
use ledger_proto::convert::ids;
use ledger_proto::v1;
use ledger_shard::{Entity, EntityQuery, Page, PageLimits, RelationshipQuery};
use ledger_types::VaultRef;
use ledger_types::limits::{EXPORT_CHUNK_BYTES, PAGE_ITEMS_MAX};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::Edge;
use super::ledger::client;
use super::page_token::{PageCursor, Query};
use super::read::{PAGE_ROWS_MAX, apart, clock_ns, wire_entity};
use super::route::{Call, Freshness, Owner, ReadPlace, query_failure};
use super::slot::Stage;
use super::status::Failure;

/// Chunks on their way to one client.
pub(super) type ExportChunks =
    Pin<Box<dyn Stream<Item = Result<v1::ExportBulkResponse, Status>> + Send>>;

/// Chunks that are read before the client has taken the one in front of them.
const READ_AHEAD: usize = 1;
/// First byte of a cursor among the entities.
const AMONG_ENTITIES: u8 = 1;
/// First byte of a cursor among the relationships.
const AMONG_RELATIONSHIPS: u8 = 2;

/// What an export is of.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    vault: VaultRef,
    entities: bool,
    relationships: bool,
}

impl Wanted {
    fn of(message: &v1::ExportBulkRequest) -> Result<Wanted, Failure> {
        let vault = ids::vault_ref(message.namespace_id, message.vault_id)?;
        let entities = !message.skip_entities;
        let relationships = !message.skip_relationships;
        if !entities && !relationships {
            return Err(Failure::field("skip_relationships", "leaves nothing to export"));
        }
        Ok(Wanted { vault, entities, relationships })
    }

    /// What cursors of this export are bound to, apart from their height.
    fn query(self) -> Query {
        Query::new("ExportBulk")
            .number(self.vault.namespace.0)
            .number(self.vault.vault.0)
            .number(u64::from(self.entities))
            .number(u64::from(self.relationships))
    }
}

/// Where an export stands. Height and time are those of its first chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Position {
    height: u64,
    time_s: u64,
    part: Part,
}

/// Which items come next, and after which key.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Entities(Option<Vec<u8>>),
    Relationships(Option<Vec<u8>>),
}

impl Position {
    fn of(cursor: PageCursor) -> Result<Position, Failure> {
        let PageCursor { height, time_seconds, after } = cursor;
        let (kind, key) = after.split_first().ok_or(Failure::PageToken)?;
        let key = (!key.is_empty()).then(|| key.to_vec());
        let part = match *kind {
            AMONG_ENTITIES => Part::Entities(key),
            AMONG_RELATIONSHIPS => Part::Relationships(key),
            _ => return Err(Failure::PageToken),
        };
        Ok(Position { height, time_s: time_seconds, part })
    }

    fn cursor(&self) -> PageCursor {
        let (kind, key) = match &self.part {
            Part::Entities(key) => (AMONG_ENTITIES, key),
            Part::Relationships(key) => (AMONG_RELATIONSHIPS, key),
        };
        let mut after = vec![kind];
        after.extend_from_slice(key.as_deref().unwrap_or_default());
        PageCursor { height: self.height, time_seconds: self.time_s, after }
    }
}

impl Edge {
    pub(super) async fn export(
        &self,
        request: Request<v1::ExportBulkRequest>,
    ) -> Result<Response<ExportChunks>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let wanted = Wanted::of(&message)?;
        let cursor = self.cursor(&call, &wanted.query(), &message.cursor)?;
        let position = cursor.map(Position::of).transpose()?;
        let freshness = freshness(&message, position.as_ref())?;
        let place = self.data_stream()?;
        match call.read_place(wanted.vault, freshness, 0).await? {
            ReadPlace::There(remote) => {
                let send = |channel, mut request: Request<_>| async move {
                    // The stream has no end in time, only the way to its beginning does.
                    request.metadata_mut().remove("grpc-timeout");
                    client(channel).export_bulk(request).await
                };
                let response = call.forward(remote, message, send).await?;
                Ok(response.map(|chunks| held(chunks, place)))
            }
            ReadPlace::Here(owner, row) => {
                let position = match position {
                    Some(position) => position,
                    None => {
                        let height = message.at_height.unwrap_or(row.height);
                        first_position(&call, wanted, height)?
                    }
                };
                let (sender, receiver) = mpsc::channel(READ_AHEAD);
                let export = Export { edge: self.clone(), call, owner, wanted, position };
                let response = export.call.answer(owner.group, ReceiverStream::new(receiver));
                tokio::spawn(export.run(sender));
                Ok(response.map(|chunks| held(chunks, place)))
            }
        }
    }
}

/// What the first chunk needs. A height that a cursor names was reached when the export began.
fn freshness(
    message: &v1::ExportBulkRequest,
    position: Option<&Position>,
) -> Result<Freshness, Failure> {
    let asked = consistency(message.consistency)?;
    let Some(position) = position else {
        return Ok(Freshness { consistency: asked, height_min: message.at_height.unwrap_or(0) });
    };
    if message.at_height.is_some_and(|height| height != position.height) {
        return Err(Failure::field("at_height", "is not the height of the cursor"));
    }
    let consistency = ledger_proto::convert::Consistency::Eventual;
    Ok(Freshness { consistency, height_min: position.height })
}

fn first_position(call: &Call, wanted: Wanted, height: u64) -> Result<Position, Failure> {
    let reader = &call.context.reader;
    let time_s = reader.read_time_s(wanted.vault, Some(height), clock_ns());
    let part = if wanted.entities { Part::Entities(None) } else { Part::Relationships(None) };
    Ok(Position { height, time_s: time_s.map_err(query_failure)?, part })
}

/// The stream, holding its place among the node's streams for as long as it lives.
fn held(
    chunks: impl Stream<Item = Result<v1::ExportBulkResponse, Status>> + Send + 'static,
    place: OwnedSemaphorePermit,
) -> ExportChunks {
    Box::pin(chunks.map(move |chunk| {
        let _held = &place;
        chunk
    }))
}

/// One export on the node that reads it.
struct Export {
    edge: Edge,
    call: Call,
    owner: Owner,
    wanted: Wanted,
    position: Position,
}

impl Export {
    /// Sends chunks until there are no more, the client leaves, or the height is not here any more.
    async fn run(mut self, chunks: mpsc::Sender<Result<v1::ExportBulkResponse, Status>>) {
        loop {
            let chunk = match self.edge.slot.stage() {
                stage if stage >= Stage::Draining => Err(Failure::Draining),
                _ => self.next(),
            };
            let is_last = match &chunk {
                Ok(chunk) => chunk.cursor.is_empty(),
                Err(_) => true,
            };
            if chunks.send(chunk.map_err(Status::from)).await.is_err() || is_last {
                return;
            }
        }
    }

    /// Reads the next chunk and goes on behind it.
    fn next(&mut self) -> Result<v1::ExportBulkResponse, Failure> {
        self.call.owned_row(self.owner)?;
        let mut chunk =
            v1::ExportBulkResponse { height: self.position.height, ..Default::default() };
        let next = match self.position.part.clone() {
            Part::Entities(after) => {
                let page = apart(usize::MAX, || self.entities(after.as_deref()))?;
                chunk.entities = page.items.into_iter().map(wire_entity).collect();
                match page.next {
                    Some(key) => Some(Part::Entities(Some(key))),
                    None => self.wanted.relationships.then_some(Part::Relationships(None)),
                }
            }
            Part::Relationships(after) => {
                let page = apart(usize::MAX, || self.relationships(after.as_deref()))?;
                chunk.relationships = page.items;
                page.next.map(|key| Part::Relationships(Some(key)))
            }
        };
        if let Some(part) = next {
            self.position.part = part;
            let tokens = self.edge.tokens(&self.call.context);
            chunk.cursor = tokens.seal(&self.wanted.query(), &self.position.cursor());
        }
        Ok(chunk)
    }

    fn entities(&self, after: Option<&[u8]>) -> Result<Page<Entity>, Failure> {
        let query = EntityQuery {
            vault: self.wanted.vault,
            prefix: "",
            at_height: Some(self.position.height),
            time_s: self.position.time_s,
            include_expired: false,
        };
        self.call.context.reader.entities(query, limits(after)).map_err(query_failure)
    }

    fn relationships(&self, after: Option<&[u8]>) -> Result<Page<v1::Relationship>, Failure> {
        let query = RelationshipQuery {
            vault: self.wanted.vault,
            resource: None,
            relation: None,
            subject: None,
            at_height: Some(self.position.height),
        };
        let page = self.call.context.reader.relationships(query, limits(after));
        let Page { height, items, next } = page.map_err(query_failure)?;
        let wire = |item: ledger_shard::Relationship| v1::Relationship {
            resource: item.resource,
            relation: item.relation,
            subject: item.subject,
        };
        Ok(Page { height, items: items.into_iter().map(wire).collect(), next })
    }
}

fn limits(after: Option<&[u8]>) -> PageLimits<'_> {
    let (items_max, bytes_max) = (PAGE_ITEMS_MAX, EXPORT_CHUNK_BYTES);
    PageLimits { after, items_max, bytes_max, rows_max: PAGE_ROWS_MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_leads_back_to_its_position() {
        for part in [
            Part::Entities(None),
            Part::Entities(Some(b"\x01k".to_vec())),
            Part::Relationships(None),
            Part::Relationships(Some(b"\x02r".to_vec())),
        ] {
            let position = Position { height: 7, time_s: 9, part };
            assert_eq!(Position::of(position.cursor()).unwrap(), position);
        }
        let cursor = |after: &[u8]| PageCursor { height: 1, time_seconds: 1, after: after.into() };
        assert!(matches!(Position::of(cursor(b"")), Err(Failure::PageToken)));
        assert!(matches!(Position::of(cursor(b"\x09k")), Err(Failure::PageToken)));
    }

    #[test]
    fn a_cursor_asks_for_its_own_height() {
        let position = Position { height: 7, time_s: 9, part: Part::Entities(None) };
        let mut message = v1::ExportBulkRequest::default();
        assert_eq!(freshness(&message, Some(&position)).unwrap().height_min, 7);
        message.at_height = Some(7);
        assert!(freshness(&message, Some(&position)).is_ok());
        message.at_height = Some(8);
        assert!(freshness(&message, Some(&position)).is_err());
    }

    #[test]
    fn an_export_of_nothing_is_refused() {
        let message = v1::ExportBulkRequest {
            namespace_id: Some(v1::NamespaceId { id: 1 }),
            vault_id: Some(v1::VaultId { id: 1 }),
            skip_entities: true,
            skip_relationships: true,
            ..v1::ExportBulkRequest::default()
        };
        assert!(matches!(Wanted::of(&message), Err(Failure::Field { .. })));
    }
}
