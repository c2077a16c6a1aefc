//! Namespaces as the directory lists them: making, telling, listing.
//!
//! Owns what is told about a namespace. Must never list namespace 0, the directory's own.

use std::sync::Arc;

use ledger_proof::system_entity::{NamespaceEntity, NamespaceState};
use ledger_proto::convert::{ids, reads, times};
use ledger_proto::v1;
use ledger_proto::v1::get_namespace_request::Lookup;
use ledger_router::{Reach, VaultLookup};
use ledger_shard::{CreateNamespace, SystemCommand, SystemResult};
use ledger_types::{GroupId, NamespaceId, VaultRef};
use tonic::{Request, Response};

use super::Edge;
use super::page_token::{PageCursor, Query};
use super::route::{Call, Owner, Place, ROUTES_MAX};
use super::status::Failure;
use super::vaults::{admin_client, change_directory, members};
use crate::context::NodeContext;

/// Entities looked at in one step of a list.
const STEP: usize = 1024;

impl Edge {
    pub(super) async fn make_namespace(
        &self,
        request: Request<v1::CreateNamespaceRequest>,
    ) -> Result<Response<v1::CreateNamespaceResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let name = ids::namespace_name(message.name.clone())?;
        let shard = ids::data_shard(message.shard_id)?;
        let command = SystemCommand::CreateNamespace(CreateNamespace { name, shard });
        let mut attempt = 0;
        loop {
            let outcome = match call.place(VaultRef::SYSTEM, Reach::Leader, attempt).await? {
                Place::Here(owner) => make_here(&call, owner, &command).await,
                Place::There(remote) => {
                    let send = |channel, request| async move {
                        admin_client(channel).create_namespace(request).await
                    };
                    call.forward(remote, message.clone(), send).await
                }
            };
            match outcome {
                Err(failure) if failure.is_stale_route() && attempt + 1 < ROUTES_MAX => {
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    pub(super) async fn tell_namespace(
        &self,
        request: Request<v1::GetNamespaceRequest>,
    ) -> Result<Response<v1::GetNamespaceResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let wanted = match message.lookup {
            None => return Err(Failure::field("lookup", "name a namespace_id or a name")),
            Some(Lookup::NamespaceId(id)) => Wanted::Id(ids::namespace(Some(id))?),
            Some(Lookup::Name(name)) => Wanted::Name(ids::namespace_name(name)?),
        };
        if wanted.find(&call.context).is_none() {
            call.refresh(wanted.vault()).await?;
        }
        let entity = wanted.find(&call.context).ok_or(Failure::UnknownNamespace)?;
        if entity.state != NamespaceState::Active {
            return Err(Failure::DeletedNamespace);
        }
        Ok(call.answer(GroupId::SYSTEM, wire_namespace(&call.context, &entity)))
    }

    pub(super) async fn list_all_namespaces(
        &self,
        request: Request<v1::ListNamespacesRequest>,
    ) -> Result<Response<v1::ListNamespacesResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let items_max = reads::page_items("page_size", message.page_size)?;
        let with_deleted = message.include_deleted;
        let query = Query::new("ListNamespaces").number(u64::from(with_deleted));
        let after = match message.page_token.as_deref() {
            None | Some([]) => NamespaceId(0),
            Some(token) => {
                let cursor = self.tokens(&call.context).open_bytes(&query, token)?;
                let last = cursor.after.try_into().map_err(|_| Failure::PageToken)?;
                NamespaceId(u64::from_be_bytes(last))
            }
        };
        let mut page =
            namespaces_to_list(&call.context, with_deleted, after, items_max.saturating_add(1));
        let has_more = page.len() > items_max;
        page.truncate(items_max);
        let next_page_token = page.last().filter(|_| has_more).map(|last| {
            let after = last.id.0.to_be_bytes().to_vec();
            let cursor = PageCursor { height: 0, time_seconds: 0, after };
            self.tokens(&call.context).seal_bytes(&query, &cursor)
        });
        let namespaces = page.iter().map(|entity| wire_namespace(&call.context, entity)).collect();
        let answer = v1::ListNamespacesResponse { namespaces, next_page_token };
        Ok(call.answer(GroupId::SYSTEM, answer))
    }
}

/// Up to `limit` namespaces after `after`; deleted ones only if they are wanted.
pub(super) fn namespaces_to_list(
    context: &NodeContext,
    with_deleted: bool,
    mut after: NamespaceId,
    limit: usize,
) -> Vec<Arc<NamespaceEntity>> {
    let directory = context.directory.current();
    let mut found = Vec::new();
    loop {
        let step = directory.namespaces(Some(after), STEP);
        let is_last = step.len() < STEP;
        after = step.last().map_or(after, |last| last.id);
        let shown = step
            .into_iter()
            .filter(|entity| with_deleted || entity.state == NamespaceState::Active);
        found.extend(shown.take(limit - found.len()));
        if is_last || found.len() == limit {
            return found;
        }
    }
}

/// A namespace as a request names it.
enum Wanted {
    Id(NamespaceId),
    Name(String),
}

impl Wanted {
    fn find(&self, context: &NodeContext) -> Option<Arc<NamespaceEntity>> {
        let directory = context.directory.current();
        match self {
            Wanted::Id(id) => directory.namespace(*id),
            Wanted::Name(name) => directory.namespace_named(name),
        }
    }

    /// A vault to look up, so that the directory here catches up.
    fn vault(&self) -> VaultRef {
        match self {
            Wanted::Id(id) => VaultRef::new(id.0, 0),
            Wanted::Name(_) => VaultRef::SYSTEM,
        }
    }
}

/// The namespace exists when its command is applied. The wait for its own entities' first block is a
/// courtesy to the next request, and its failure no failure of this one.
async fn make_here(
    call: &Call,
    owner: Owner,
    command: &SystemCommand,
) -> Result<Response<v1::CreateNamespaceResponse>, Failure> {
    let SystemResult::NamespaceCreated { namespace, shard, .. } =
        change_directory(call, owner, command).await?
    else {
        return Err(Failure::Internal("a new namespace was answered as something else"));
    };
    let _ = call.on_own_behalf().place(VaultRef::new(namespace.0, 0), Reach::Leader, 0).await;
    let answer = v1::CreateNamespaceResponse {
        namespace_id: Some(namespace.into()),
        shard_id: Some(shard.into()),
    };
    Ok(call.answer(GroupId::SYSTEM, answer))
}

pub(super) fn wire_namespace(
    context: &NodeContext,
    entity: &NamespaceEntity,
) -> v1::GetNamespaceResponse {
    let shard = own_shard(context, entity.id);
    let status = match entity.state {
        NamespaceState::Active => v1::NamespaceStatus::Active,
        NamespaceState::Deleting => v1::NamespaceStatus::Deleting,
        NamespaceState::Deleted => v1::NamespaceStatus::Deleted,
    };
    v1::GetNamespaceResponse {
        namespace_id: Some(entity.id.into()),
        name: entity.name.clone(),
        shard_id: shard.map(v1::ShardId::from),
        member_nodes: shard.map(|group| members(context, group)).unwrap_or_default(),
        status: status.into(),
        config_version: entity.config_version,
        created_at: Some(times::timestamp(entity.created_at_ns)),
    }
}

/// The shard of a namespace's own entities, if it is known here.
fn own_shard(context: &NodeContext, namespace: NamespaceId) -> Option<GroupId> {
    match context.directory.current().vault(VaultRef::new(namespace.0, 0)) {
        VaultLookup::Known(entity) => Some(entity.shard),
        VaultLookup::Absent | VaultLookup::NotCached => None,
    }
}
