//! Reading: entities, lists, tips.
//!
//! Owns the steps from a checked request to rows and back, and how pages are bound to their query. Must
//! never read before the route says that what is here is fresh enough and owned.

use std::future::Future;

use ledger_proto::convert::consistency::consistency;
use ledger_proto::convert::reads::{self, RelationshipFilter};
use ledger_proto::convert::{Consistency, ids};
use ledger_proto::v1;
use ledger_proto::v1::read_service_client::ReadServiceClient;
use ledger_shard::{Entity, EntityQuery, Page, PageLimits, RelationshipQuery, VaultRow};
use ledger_types::VaultRef;
use ledger_types::limits::PAGE_BYTES_MAX;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::page_token::{PageCursor, Query};
use super::route::{Call, Freshness, ROUTES_MAX, ReadPlace, query_failure};
use super::status::Failure;
use super::{Edge, watch};

/// Pages of up to this many items are read on the serving thread itself.
const ITEMS_INLINE_MAX: usize = 256;
/// Rows that are read for one page, about: a fifth of a second's work. A page that ends for them has a token.
pub(super) const PAGE_ROWS_MAX: usize = 200_000;
/// What an answer may have beyond its page: framing, keys, tokens.
const ANSWER_BYTES_MAX: usize = 4 * PAGE_BYTES_MAX;

/// A client of another node for forwarded reads.
pub(super) fn client(channel: Channel) -> ReadServiceClient<Channel> {
    ReadServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)
}

/// Unix nanoseconds on this node's clock.
pub(super) fn clock_ns() -> u64 {
    ledger_shard::wall_clock_ns()
}

/// What a read is of.
pub(super) struct Target<A> {
    /// The vault.
    pub(super) vault: VaultRef,
    /// What is needed of the state that answers.
    pub(super) freshness: Freshness,
    /// The answer for a vault that its first write would create, if the method has one.
    pub(super) absent: Option<A>,
}

impl<A> Target<A> {
    /// A read of a vault that must exist.
    pub(super) fn existing(vault: VaultRef, freshness: impl Into<Freshness>) -> Target<A> {
        Target { vault, freshness: freshness.into(), absent: None }
    }

    /// A read that finds a vault empty that its first write would create.
    pub(super) fn or_empty(
        vault: VaultRef,
        freshness: impl Into<Freshness>,
        absent: A,
    ) -> Target<A> {
        Target { vault, freshness: freshness.into(), absent: Some(absent) }
    }
}

impl Call {
    /// Serves a read here with `local`, or where the vault's group is led with `send`, and once more if the
    /// route was stale.
    pub(super) async fn read<Q, A, S, F>(
        &self,
        target: Target<A>,
        message: Q,
        local: impl Fn(&VaultRow, &Q) -> Result<A, Failure>,
        send: S,
    ) -> Result<Response<A>, Failure>
    where
        Q: Clone,
        S: Fn(Channel, Request<Q>) -> F,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let Target { vault, freshness, mut absent } = target;
        self.admit(vault, 1)?;
        let mut attempt = 0;
        loop {
            let outcome = match self.read_place(vault, freshness, attempt).await {
                Err(Failure::UnknownVault(vault)) if self.context.config.auto_create_vaults => {
                    let absent = absent.take().ok_or(Failure::UnknownVault(vault))?;
                    return Ok(Response::new(absent));
                }
                Ok(ReadPlace::Here(owner, row)) => {
                    local(&row, &message).map(|answer| self.answer(owner.group, answer))
                }
                Ok(ReadPlace::There(remote)) => {
                    let group = remote.group;
                    match self.forward(remote, message.clone(), &send).await {
                        // A read leaves nothing behind, so that a lost answer is no secret.
                        Err(Failure::OutcomeUnknown) => {
                            self.deadline.check()?;
                            Err(Failure::NotLeader { group, leader: None })
                        }
                        outcome => outcome,
                    }
                }
                Err(failure) => Err(failure),
            };
            match outcome {
                Err(failure) if failure.is_stale_route() && attempt + 1 < ROUTES_MAX => {
                    attempt += 1;
                    self.refresh_if_moved(&failure, vault).await?;
                }
                outcome => return outcome,
            }
        }
    }
}

/// Runs a read that may take long without holding up other requests of this thread.
pub(super) fn apart<T>(items: usize, read: impl FnOnce() -> T) -> T {
    if items > ITEMS_INLINE_MAX { tokio::task::block_in_place(read) } else { read() }
}

#[tonic::async_trait]
impl v1::read_service_server::ReadService for Edge {
    async fn read(
        &self,
        request: Request<v1::ReadRequest>,
    ) -> Result<Response<v1::ReadResponse>, Status> {
        let (metadata, _, mut message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let vault =
            ids::vault_ref(message.namespace_id, message.vault_id).map_err(Failure::from)?;
        message.key = reads::key(message.key).map_err(Failure::from)?;
        let fresh = consistency(message.consistency).map_err(Failure::from)?;
        let local = |_: &VaultRow, message: &v1::ReadRequest| {
            let found = call.context.reader.entity_at(vault, &message.key, None, clock_ns());
            let (block_height, entity) = found.map_err(query_failure)?;
            Ok(v1::ReadResponse { value: entity.map(|entity| entity.value), block_height })
        };
        let send = |channel, request| async move { client(channel).read(request).await };
        let target = Target::or_empty(vault, fresh, v1::ReadResponse::default());
        Ok(call.read(target, message, local, send).await?)
    }

    async fn batch_read(
        &self,
        request: Request<v1::BatchReadRequest>,
    ) -> Result<Response<v1::BatchReadResponse>, Status> {
        let (metadata, _, mut message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let vault =
            ids::vault_ref(message.namespace_id, message.vault_id).map_err(Failure::from)?;
        message.keys = reads::keys(message.keys).map_err(Failure::from)?;
        let fresh = consistency(message.consistency).map_err(Failure::from)?;
        let local = |_: &VaultRow, message: &v1::BatchReadRequest| {
            let read = || call.context.reader.tip_entities(vault, &message.keys, clock_ns());
            let found = apart(message.keys.len(), read);
            let (height, entities) = found.map_err(query_failure)?;
            batch_answer(&message.keys, height, entities)
        };
        let send = |channel, request| async move { client(channel).batch_read(request).await };
        let nothing = message.keys.iter().map(|_| None).collect();
        let target = Target::or_empty(vault, fresh, batch_answer(&message.keys, 0, nothing)?);
        Ok(call.read(target, message, local, send).await?)
    }

    async fn verified_read(
        &self,
        request: Request<v1::VerifiedReadRequest>,
    ) -> Result<Response<v1::VerifiedReadResponse>, Status> {
        Ok(self.read_with_header(request).await?)
    }

    async fn historical_read(
        &self,
        request: Request<v1::HistoricalReadRequest>,
    ) -> Result<Response<v1::HistoricalReadResponse>, Status> {
        Ok(self.read_at_height(request).await?)
    }

    type WatchBlocksStream = watch::BlockStream;

    async fn watch_blocks(
        &self,
        request: Request<v1::WatchBlocksRequest>,
    ) -> Result<Response<Self::WatchBlocksStream>, Status> {
        Ok(self.watch(request).await?)
    }

    async fn get_block(
        &self,
        request: Request<v1::GetBlockRequest>,
    ) -> Result<Response<v1::GetBlockResponse>, Status> {
        Ok(self.block(request).await?)
    }

    async fn get_block_range(
        &self,
        request: Request<v1::GetBlockRangeRequest>,
    ) -> Result<Response<v1::GetBlockRangeResponse>, Status> {
        Ok(self.block_range(request).await?)
    }

    async fn get_tip(
        &self,
        request: Request<v1::GetTipRequest>,
    ) -> Result<Response<v1::GetTipResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let vault =
            ids::vault_ref(message.namespace_id, message.vault_id).map_err(Failure::from)?;
        let local = |row: &VaultRow, _: &v1::GetTipRequest| {
            Ok(v1::GetTipResponse {
                height: row.height,
                block_hash: Some(row.block_hash.into()),
                state_root: Some(row.state_root.into()),
            })
        };
        let send = |channel, request| async move { client(channel).get_tip(request).await };
        let absent = v1::GetTipResponse::default();
        let target = Target::or_empty(vault, Consistency::Eventual, absent);
        Ok(call.read(target, message, local, send).await?)
    }

    /// Read with the leader's barrier: the client counts on from the answer.
    async fn get_client_state(
        &self,
        request: Request<v1::GetClientStateRequest>,
    ) -> Result<Response<v1::GetClientStateResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let vault =
            ids::vault_ref(message.namespace_id, message.vault_id).map_err(Failure::from)?;
        let counted = ids::client(message.client_id.clone()).map_err(Failure::from)?;
        let local = |_: &VaultRow, _: &v1::GetClientStateRequest| {
            let last = call.context.reader.client_sequence(vault, &counted);
            let last_committed_sequence = last.map_err(query_failure)?;
            Ok(v1::GetClientStateResponse { last_committed_sequence })
        };
        let send =
            |channel, request| async move { client(channel).get_client_state(request).await };
        let absent = v1::GetClientStateResponse::default();
        let target = Target::or_empty(vault, Consistency::Linearizable, absent);
        Ok(call.read(target, message, local, send).await?)
    }

    async fn list_relationships(
        &self,
        request: Request<v1::ListRelationshipsRequest>,
    ) -> Result<Response<v1::ListRelationshipsResponse>, Status> {
        Ok(self.relationships(request).await?)
    }

    async fn list_resources(
        &self,
        request: Request<v1::ListResourcesRequest>,
    ) -> Result<Response<v1::ListResourcesResponse>, Status> {
        Ok(self.resources(request).await?)
    }

    async fn list_entities(
        &self,
        request: Request<v1::ListEntitiesRequest>,
    ) -> Result<Response<v1::ListEntitiesResponse>, Status> {
        Ok(self.entities(request).await?)
    }
}

fn batch_answer(
    keys: &[String],
    block_height: u64,
    entities: Vec<Option<Entity>>,
) -> Result<v1::BatchReadResponse, Failure> {
    let values = entities.iter().flatten().map(|entity| entity.value.len());
    if values.sum::<usize>() > PAGE_BYTES_MAX {
        let max = PAGE_BYTES_MAX as u64;
        return Err(Failure::AnswerTooLarge { limit: "page_bytes_max", max });
    }
    let results = keys.iter().zip(entities).map(|(key, entity)| v1::BatchReadResult {
        key: key.clone(),
        found: entity.is_some(),
        value: entity.map(|entity| entity.value),
    });
    Ok(v1::BatchReadResponse { results: results.collect(), block_height })
}

/// What a list asks for, apart from its own filter.
pub(super) struct ListAsked {
    /// The vault.
    pub(super) vault: VaultRef,
    /// The height asked for; the newest without one.
    pub(super) at_height: Option<u64>,
    /// Most items in the page.
    pub(super) items_max: usize,
    /// How fresh its first page must be.
    pub(super) consistency: Consistency,
    /// Where it goes on, from its second page on.
    pub(super) cursor: Option<PageCursor>,
}

impl ListAsked {
    /// Later pages are read at the first one's height, which any replica may still lack.
    pub(super) fn freshness(&self) -> Freshness {
        let wanted = self.cursor.as_ref().map(|cursor| cursor.height).or(self.at_height);
        // A height that a token names was reached when the list began, so a replica that has it shows
        // what the leader would.
        let consistency =
            if self.cursor.is_some() { Consistency::Eventual } else { self.consistency };
        Freshness { consistency, height_min: wanted.unwrap_or(0) }
    }

    /// Where the page begins and how much it holds.
    pub(super) fn limits(&self) -> PageLimits<'_> {
        let after = self.cursor.as_ref().map(|cursor| cursor.after.as_slice());
        let (items_max, bytes_max) = (self.items_max, PAGE_BYTES_MAX);
        PageLimits { after, items_max, bytes_max, rows_max: PAGE_ROWS_MAX }
    }

    /// The height that the page is read at; the newest without one.
    pub(super) fn height(&self) -> Option<u64> {
        self.cursor.as_ref().map(|cursor| cursor.height).or(self.at_height)
    }
}

impl Edge {
    /// Where a list goes on, if the token is one of this query.
    pub(super) fn cursor(
        &self,
        call: &Call,
        query: &Query,
        token: &str,
    ) -> Result<Option<PageCursor>, Failure> {
        if token.is_empty() {
            return Ok(None);
        }
        self.tokens(&call.context).open(query, token).map(Some)
    }

    /// The token with which the list goes on after the page; empty after the last one.
    pub(super) fn token<T>(
        &self,
        call: &Call,
        query: &Query,
        page: &Page<T>,
        time_seconds: u64,
    ) -> String {
        let Some(after) = page.next.clone() else { return String::new() };
        let cursor = PageCursor { height: page.height, time_seconds, after };
        self.tokens(&call.context).seal(query, &cursor)
    }

    async fn entities(
        &self,
        request: Request<v1::ListEntitiesRequest>,
    ) -> Result<Response<v1::ListEntitiesResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let vault = ids::vault_ref(message.namespace_id, message.vault_id)?;
        reads::key_prefix("key_prefix", &message.key_prefix)?;
        let query = entities_query(vault, &message);
        let asked = ListAsked {
            vault,
            at_height: message.at_height,
            items_max: reads::page_items("limit", message.limit)?,
            consistency: consistency(message.consistency)?,
            cursor: self.cursor(&call, &query, &message.page_token)?,
        };
        let local = |_: &VaultRow, message: &v1::ListEntitiesRequest| {
            let (page, time_s) = apart(asked.items_max, || entity_page(&call, &asked, message))?;
            let next_page_token = self.token(&call, &query, &page, time_s);
            let entities = page.items.into_iter().map(wire_entity).collect();
            Ok(v1::ListEntitiesResponse { entities, block_height: page.height, next_page_token })
        };
        let send = |channel, request| async move { client(channel).list_entities(request).await };
        let absent = v1::ListEntitiesResponse::default();
        let target = Target::or_empty(vault, asked.freshness(), absent);
        call.read(target, message, local, send).await
    }

    async fn relationships(
        &self,
        request: Request<v1::ListRelationshipsRequest>,
    ) -> Result<Response<v1::ListRelationshipsResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let vault = ids::vault_ref(message.namespace_id, message.vault_id)?;
        let filter = reads::relationship_filter(&message)?;
        let query = relationships_query(vault, &filter, message.at_height);
        let asked = ListAsked {
            vault,
            at_height: message.at_height,
            items_max: reads::page_items("limit", message.limit)?,
            consistency: consistency(message.consistency)?,
            cursor: self.cursor(&call, &query, &message.page_token)?,
        };
        let local = |_: &VaultRow, _: &v1::ListRelationshipsRequest| {
            let wanted = RelationshipQuery {
                vault,
                resource: filter.resource.as_deref(),
                relation: filter.relation.as_deref(),
                subject: filter.subject.as_deref(),
                at_height: asked.height(),
            };
            let read = || call.context.reader.relationships(wanted, asked.limits());
            // A filter may pass over many rows before it fills a page.
            let page = apart(usize::MAX, read).map_err(query_failure)?;
            let next_page_token = self.token(&call, &query, &page, 0);
            let relationships = page.items.into_iter().map(|item| v1::Relationship {
                resource: item.resource,
                relation: item.relation,
                subject: item.subject,
            });
            Ok(v1::ListRelationshipsResponse {
                relationships: relationships.collect(),
                block_height: page.height,
                next_page_token,
            })
        };
        let send =
            |channel, request| async move { client(channel).list_relationships(request).await };
        let absent = v1::ListRelationshipsResponse::default();
        let target = Target::or_empty(vault, asked.freshness(), absent);
        call.read(target, message, local, send).await
    }
}

/// A page of entities and the time at which their expiry was judged, fixed by the list's first page.
fn entity_page(
    call: &Call,
    asked: &ListAsked,
    message: &v1::ListEntitiesRequest,
) -> Result<(Page<Entity>, u64), Failure> {
    let reader = &call.context.reader;
    let vault = asked.vault;
    let failed = query_failure;
    let time_s = match &asked.cursor {
        Some(cursor) => cursor.time_seconds,
        None => reader.read_time_s(vault, asked.at_height, clock_ns()).map_err(failed)?,
    };
    let query = EntityQuery {
        vault,
        prefix: &message.key_prefix,
        at_height: asked.height(),
        time_s,
        include_expired: message.include_expired,
    };
    Ok((reader.entities(query, asked.limits()).map_err(failed)?, time_s))
}

pub(super) fn wire_entity(entity: Entity) -> v1::Entity {
    let expires_at = (entity.expires_at != 0).then_some(entity.expires_at);
    v1::Entity { key: entity.key, value: entity.value, expires_at, version: entity.version }
}

fn entities_query(vault: VaultRef, message: &v1::ListEntitiesRequest) -> Query {
    list_query("ListEntities", vault, message.at_height)
        .text(&message.key_prefix)
        .number(u64::from(message.include_expired))
}

fn relationships_query(
    vault: VaultRef,
    filter: &RelationshipFilter,
    at_height: Option<u64>,
) -> Query {
    list_query("ListRelationships", vault, at_height)
        .option(filter.resource.as_deref())
        .option(filter.relation.as_deref())
        .option(filter.subject.as_deref())
}

/// Begins the description of a list of a vault at a height.
pub(super) fn list_query(method: &str, vault: VaultRef, at_height: Option<u64>) -> Query {
    Query::new(method)
        .number(vault.namespace.0)
        .number(vault.vault.0)
        .number(u64::from(at_height.is_some()))
        .number(at_height.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use ledger_types::ClusterId;

    use super::super::page_token::PageTokens;
    use super::*;

    fn filter(resource: Option<&str>, subject: Option<&str>) -> RelationshipFilter {
        RelationshipFilter {
            resource: resource.map(str::to_owned),
            relation: None,
            subject: subject.map(str::to_owned),
        }
    }

    #[test]
    fn a_token_is_of_one_filter_vault_height_and_method() {
        let tokens = PageTokens::new(ClusterId([5; 16]));
        let vault = VaultRef::new(1, 2);
        let query = relationships_query(vault, &filter(Some("a"), None), None);
        let cursor = PageCursor { height: 3, time_seconds: 0, after: b"\x02k".to_vec() };
        let token = tokens.seal(&query, &cursor);
        let same = relationships_query(vault, &filter(Some("a"), None), None);
        assert_eq!(tokens.open(&same, &token).unwrap(), cursor);
        for other in [
            relationships_query(vault, &filter(None, Some("a")), None),
            relationships_query(VaultRef::new(1, 3), &filter(Some("a"), None), None),
            relationships_query(vault, &filter(Some("a"), None), Some(3)),
            entities_query(vault, &v1::ListEntitiesRequest::default()),
        ] {
            assert!(matches!(tokens.open(&other, &token), Err(Failure::PageToken)));
        }
    }

    #[test]
    fn a_page_may_have_another_size_than_the_one_before() {
        let vault = VaultRef::new(1, 0);
        let small = v1::ListEntitiesRequest { limit: 1, ..Default::default() };
        let large = v1::ListEntitiesRequest { limit: 500, ..Default::default() };
        let tokens = PageTokens::new(ClusterId([5; 16]));
        let cursor = PageCursor { height: 3, time_seconds: 9, after: b"\x01k".to_vec() };
        let token = tokens.seal(&entities_query(vault, &small), &cursor);
        assert!(tokens.open(&entities_query(vault, &large), &token).is_ok());
    }

    #[test]
    fn later_pages_ask_for_the_first_pages_height() {
        let mut asked = ListAsked {
            vault: VaultRef::new(1, 0),
            at_height: None,
            items_max: 10,
            consistency: Consistency::Linearizable,
            cursor: None,
        };
        assert_eq!(asked.freshness().consistency, Consistency::Linearizable);
        assert_eq!((asked.freshness().height_min, asked.height()), (0, None));
        asked.cursor = Some(PageCursor { height: 8, time_seconds: 1, after: Vec::new() });
        assert_eq!(asked.freshness().consistency, Consistency::Eventual);
        assert_eq!((asked.freshness().height_min, asked.height()), (8, Some(8)));
    }

    #[test]
    fn an_answer_beyond_the_page_bytes_is_refused_whole() {
        let entity = |len| Entity {
            key: "k".to_owned(),
            value: vec![0; len],
            version: 1,
            created_height: 1,
            expires_at: 0,
        };
        let keys: Vec<String> = (0..9).map(|number| number.to_string()).collect();
        let fits = (0..8).map(|_| Some(entity(1 << 20))).chain([None]).collect();
        assert_eq!(batch_answer(&keys, 4, fits).unwrap().results.len(), 9);
        let too_large = (0..9).map(|_| Some(entity(1 << 20))).collect();
        let refused = batch_answer(&keys, 4, too_large);
        assert!(matches!(refused, Err(Failure::AnswerTooLarge { .. })));
    }
}
