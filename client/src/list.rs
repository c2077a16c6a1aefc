//! Lists, page by page. All pages of a list are read at the height of its first.

use ledger_proto::convert::Consistency;
use ledger_proto::convert::reads::RelationshipFilter;
use ledger_proto::v1;
use ledger_types::VaultRef;

use crate::call::CallKind;
use crate::client::Client;
use crate::error::ClientError;
use crate::method;
use crate::read::{read_route, wire_consistency};
use crate::write::wire_vault;

/// A stored entity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entity {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// Unix seconds from which it counts as absent; 0 means never.
    pub expires_at: u64,
    /// Height of the block that last changed it.
    pub version: u64,
}

/// A grant: the subject has the relation to the resource.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Relationship {
    /// What access is given to.
    pub resource: String,
    /// How.
    pub relation: String,
    /// To whom.
    pub subject: String,
}

/// One page of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page<T> {
    /// Its items, in key order.
    pub items: Vec<T>,
    /// The height that the whole list is read at.
    pub height: u64,
}

/// What a list asks for besides its items.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ListOptions {
    /// The height to read at; the newest without one.
    pub at_height: Option<u64>,
    /// Most items in a page; the server's default if 0.
    pub page_items: u32,
    /// How fresh.
    pub consistency: Consistency,
}

/// The pages of a list of entities.
#[derive(Debug)]
pub struct EntityPages {
    client: Client,
    vault: VaultRef,
    consistency: Consistency,
    /// `None` once the last page has been given out.
    request: Option<v1::ListEntitiesRequest>,
}

/// The pages of a list of relationships.
#[derive(Debug)]
pub struct RelationshipPages {
    client: Client,
    vault: VaultRef,
    consistency: Consistency,
    /// `None` once the last page has been given out.
    request: Option<v1::ListRelationshipsRequest>,
}

/// The pages of a list of resources.
#[derive(Debug)]
pub struct ResourcePages {
    client: Client,
    vault: VaultRef,
    consistency: Consistency,
    /// `None` once the last page has been given out.
    request: Option<v1::ListResourcesRequest>,
}

impl Client {
    /// Lists the entities whose keys begin with `prefix`, which may be empty. Not proved: the node that answers is
    /// believed, also in that nothing is missing; see [`Client::verified_list`].
    pub fn list_entities(
        &self,
        vault: VaultRef,
        prefix: &str,
        options: ListOptions,
    ) -> Result<EntityPages, ClientError> {
        let (namespace_id, vault_id) = wire_vault(vault)?;
        let request = v1::ListEntitiesRequest {
            namespace_id,
            vault_id,
            key_prefix: prefix.to_owned(),
            at_height: options.at_height,
            include_expired: false,
            limit: options.page_items,
            page_token: String::new(),
            consistency: wire_consistency(options.consistency),
        };
        let consistency = options.consistency;
        Ok(EntityPages { client: self.clone(), vault, consistency, request: Some(request) })
    }

    /// Lists the relationships that pass the filter. With a resource or a subject the scan is narrow. Not proved: see
    /// [`Client::verified_list`].
    pub fn list_relationships(
        &self,
        vault: VaultRef,
        filter: RelationshipFilter,
        options: ListOptions,
    ) -> Result<RelationshipPages, ClientError> {
        let (namespace_id, vault_id) = wire_vault(vault)?;
        let request = v1::ListRelationshipsRequest {
            namespace_id,
            vault_id,
            resource: filter.resource,
            relation: filter.relation,
            subject: filter.subject,
            at_height: options.at_height,
            limit: options.page_items,
            page_token: String::new(),
            consistency: wire_consistency(options.consistency),
        };
        let consistency = options.consistency;
        Ok(RelationshipPages { client: self.clone(), vault, consistency, request: Some(request) })
    }

    /// Lists the resources of a type, those whose name has `resource_type` before its first colon, each once. Not
    /// proved: see [`Client::verified_list`] of [`ListOf::ResourceType`](crate::ListOf::ResourceType).
    pub fn list_resources(
        &self,
        vault: VaultRef,
        resource_type: &str,
        options: ListOptions,
    ) -> Result<ResourcePages, ClientError> {
        let (namespace_id, vault_id) = wire_vault(vault)?;
        let request = v1::ListResourcesRequest {
            namespace_id,
            vault_id,
            resource_type: resource_type.to_owned(),
            at_height: options.at_height,
            limit: options.page_items,
            page_token: String::new(),
            consistency: wire_consistency(options.consistency),
        };
        let consistency = options.consistency;
        Ok(ResourcePages { client: self.clone(), vault, consistency, request: Some(request) })
    }
}

impl EntityPages {
    /// The next page; `None` after the last. After an error the same page can be asked for again.
    pub async fn next_page(&mut self) -> Result<Option<Page<Entity>>, ClientError> {
        let Some(request) = &mut self.request else { return Ok(None) };
        let kind = CallKind::reads(read_route(self.vault, self.consistency));
        let answer = self.client.call(method::LIST_ENTITIES, kind, &*request).await?;
        if answer.next_page_token.is_empty() {
            self.request = None;
        } else {
            request.page_token = answer.next_page_token;
        }
        let entity = |wire: v1::Entity| Entity {
            key: wire.key,
            value: wire.value,
            expires_at: wire.expires_at.unwrap_or(0),
            version: wire.version,
        };
        let items = answer.entities.into_iter().map(entity).collect();
        Ok(Some(Page { items, height: answer.block_height }))
    }
}

impl RelationshipPages {
    /// The next page; `None` after the last. After an error the same page can be asked for again.
    pub async fn next_page(&mut self) -> Result<Option<Page<Relationship>>, ClientError> {
        let Some(request) = &mut self.request else { return Ok(None) };
        let kind = CallKind::reads(read_route(self.vault, self.consistency));
        let answer = self.client.call(method::LIST_RELATIONSHIPS, kind, &*request).await?;
        if answer.next_page_token.is_empty() {
            self.request = None;
        } else {
            request.page_token = answer.next_page_token;
        }
        let relationship = |wire: v1::Relationship| Relationship {
            resource: wire.resource,
            relation: wire.relation,
            subject: wire.subject,
        };
        let items = answer.relationships.into_iter().map(relationship).collect();
        Ok(Some(Page { items, height: answer.block_height }))
    }
}

impl ResourcePages {
    /// The next page; `None` after the last. After an error the same page can be asked for again.
    pub async fn next_page(&mut self) -> Result<Option<Page<String>>, ClientError> {
        let Some(request) = &mut self.request else { return Ok(None) };
        let kind = CallKind::reads(read_route(self.vault, self.consistency));
        let answer = self.client.call(method::LIST_RESOURCES, kind, &*request).await?;
        if answer.next_page_token.is_empty() {
            self.request = None;
        } else {
            request.page_token = answer.next_page_token;
        }
        Ok(Some(Page { items: answer.resources, height: answer.block_height }))
    }
}
