//! Vaults as the directory lists them: making, telling, listing, and making them on first write.
//!
//! Owns what is told about a vault beside its contents. Must never make a vault but by a command of the
//! directory.

use ledger_proof::BlockHeader;
use ledger_proof::system_entity::{
    NamespaceState, RetentionMode, SystemEntity as _, VaultEntity, VaultState,
};
use ledger_proto::convert::block::wire_header;
use ledger_proto::convert::{Consistency, ids, reads};
use ledger_proto::v1;
use ledger_proto::v1::admin_service_client::AdminServiceClient;
use ledger_router::{Reach, VaultLookup};
use ledger_shard::system::Retention;
use ledger_shard::system::entity::{
    REPLICATION_FACTOR_KEY, SettingEntity, ShardVaultsEntity, shard_vaults_key,
};
use ledger_shard::{
    CommandKind, CommandResult, CreateVault, QueryError, SystemCommand, SystemRefusal,
    SystemResult, VaultRow, VaultStatus,
};
use ledger_types::limits::PAGE_ITEMS_MAX;
use ledger_types::{GroupId, NamespaceId, NodeId, VaultId, VaultRef};
use prost::Message as _;
use tonic::transport::Channel;
use tonic::{Request, Response};

use super::Edge;
use super::page_token::{PageCursor, Query};
use super::read::{Target, apart};
use super::route::{Call, Owner, Place, ROUTES_MAX, query_failure};
use super::status::Failure;
use super::write::propose;
use crate::context::NodeContext;

/// Largest answer of a list without pages.
pub(super) const WHOLE_ANSWER_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Entities looked at in one step of a list.
const STEP: usize = 1024;

/// A client of another node for forwarded requests.
pub(super) fn admin_client(channel: Channel) -> AdminServiceClient<Channel> {
    AdminServiceClient::new(channel).max_decoding_message_size(4 * WHOLE_ANSWER_BYTES_MAX)
}

/// The group that owns a vault, as far as the directory here knows.
pub(super) fn known_group(context: &NodeContext, vault: VaultRef) -> Result<GroupId, Failure> {
    if vault == VaultRef::SYSTEM {
        return Ok(GroupId::SYSTEM);
    }
    let directory = context.directory.current();
    match directory.namespace(vault.namespace) {
        None => return Err(Failure::UnknownNamespace),
        Some(entity) if entity.state != NamespaceState::Active => {
            return Err(Failure::DeletedNamespace);
        }
        Some(_) => {}
    }
    match directory.vault(vault) {
        VaultLookup::Known(entity) if is_deleted(&entity) => Err(Failure::DeletedVault(vault)),
        VaultLookup::Known(entity) => Ok(entity.shard),
        VaultLookup::Absent | VaultLookup::NotCached => Err(Failure::UnknownVault(vault)),
    }
}

/// True of a vault that clients are to see no more.
fn is_deleted(entity: &VaultEntity) -> bool {
    matches!(entity.state, VaultState::Deleting | VaultState::Deleted)
}

/// Vaults that the directory counts for a group; 0 where it cannot be read here.
pub(super) fn vault_count(context: &NodeContext, group: GroupId) -> u64 {
    let entity = context.reader.entity(VaultRef::SYSTEM, &shard_vaults_key(group));
    let entity = entity.ok().flatten();
    let count = entity.and_then(|entity| ShardVaultsEntity::decode(&entity.value).ok());
    count.map_or(0, |count| count.vaults)
}

/// Vaults of the groups that have a replica here.
pub(super) fn local_vaults(context: &NodeContext) -> u64 {
    let statuses = context.shard.statuses();
    statuses.iter().map(|status| vault_count(context, status.group)).sum()
}

/// Name of the node that proposed a block, if the group's leader has not changed since; else empty.
pub(super) fn proposer_name(context: &NodeContext, header: &BlockHeader) -> String {
    match context.shard.leader(GroupId(header.shard)) {
        Some((_, term, Some(leader))) if term == header.term => node_name(context, leader),
        _ => String::new(),
    }
}

/// A node's configured name; empty if it is not known here.
pub(super) fn node_name(context: &NodeContext, node: NodeId) -> String {
    if node == context.identity.node {
        return context.identity.name.clone();
    }
    context.directory.current().node(node).map_or_else(String::new, |entity| entity.name.clone())
}

/// The names of the nodes that have a replica of a group.
pub(super) fn members(context: &NodeContext, group: GroupId) -> Vec<v1::NodeId> {
    let shard = context.directory.current().shard(group);
    let replicas = shard.iter().flat_map(|shard| &shard.replicas);
    replicas.map(|replica| v1::NodeId { id: node_name(context, replica.node) }).collect()
}

/// Where a write goes. With the setting on, a vault that nobody has made is made first.
pub(super) async fn place_for_write(
    call: &Call,
    vault: VaultRef,
    attempt: u32,
) -> Result<Place, Failure> {
    match call.place(vault, Reach::Leader, attempt).await {
        Err(Failure::UnknownVault(_)) if call.context.config.auto_create_vaults => {
            make_chosen(call, vault).await?;
            call.place(vault, Reach::Leader, attempt).await
        }
        placed => placed,
    }
}

/// Gives a vault whose id the caller chose its place. Harmless if it has one already.
async fn make_chosen(call: &Call, vault: VaultRef) -> Result<(), Failure> {
    // This is the node's own request, also when the write came from another node.
    let call = call.on_own_behalf();
    let chosen = Some(vault.vault);
    let create =
        CreateVault { namespace: vault.namespace, vault: chosen, retention: Retention::KEEP_ALL };
    let made = match call.place(VaultRef::SYSTEM, Reach::Leader, 0).await? {
        Place::Here(owner) => {
            let command = SystemCommand::CreateVault(create);
            change_directory(&call, owner, &command).await.map(|_| ())
        }
        Place::There(remote) => {
            let message = v1::CreateVaultRequest {
                namespace_id: Some(vault.namespace.into()),
                vault_id: Some(vault.vault.into()),
                ..v1::CreateVaultRequest::default()
            };
            let send =
                |channel, request| async move { admin_client(channel).create_vault(request).await };
            call.forward(remote, message, send).await.map(|_| ())
        }
    };
    match made {
        // Making it again does no harm, so what became of the attempt need not be known.
        Err(Failure::OutcomeUnknown) => Err(Failure::not_ready("the vault could not be made yet")),
        made => made,
    }
}

/// Carries a change of the directory out here, or tells where to forward it to.
pub(super) async fn change_directory(
    call: &Call,
    owner: Owner,
    command: &SystemCommand,
) -> Result<SystemResult, Failure> {
    let body = command.encode().map_err(|error| Failure::field("request", error.to_string()))?;
    match propose(call, owner, CommandKind::System, &body).await? {
        CommandResult::System(SystemResult::Refused(refusal)) => Err(refused(refusal)),
        CommandResult::System(result) => Ok(result),
        _ => Err(Failure::Internal("a directory command was answered as something else")),
    }
}

fn refused(refusal: SystemRefusal) -> Failure {
    match refusal {
        SystemRefusal::NamespaceNameTaken { .. } => Failure::NameTaken(refusal.to_string()),
        SystemRefusal::UnknownNamespace { .. } => Failure::UnknownNamespace,
        SystemRefusal::NamespaceDeleted { .. } => Failure::DeletedNamespace,
        SystemRefusal::UnknownVault { vault } => Failure::UnknownVault(vault),
        SystemRefusal::VaultDeleted { vault } => Failure::DeletedVault(vault),
        SystemRefusal::UnknownShard { .. } => Failure::field("shard_id", refusal.to_string()),
        SystemRefusal::NamespaceNotEmpty { vaults, .. } => Failure::NamespaceNotEmpty { vaults },
        SystemRefusal::IdsExhausted => Failure::Internal("no id is left"),
        _ => Failure::not_ready(refusal.to_string()),
    }
}

impl Edge {
    pub(super) async fn make_vault(
        &self,
        request: Request<v1::CreateVaultRequest>,
    ) -> Result<Response<v1::CreateVaultResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let namespace = writable_namespace(message.namespace_id)?;
        let retention = retention(message.retention_policy.as_ref())?;
        let vault = chosen_vault(message.vault_id)?;
        if !message.initial_nodes.is_empty() {
            let problem = "must be empty: a vault is on the nodes of its shard";
            return Err(Failure::field("initial_nodes", problem));
        }
        let create = CreateVault { namespace, vault, retention };
        let command = SystemCommand::CreateVault(create);
        let mut attempt = 0;
        loop {
            let outcome = match call.place(VaultRef::SYSTEM, Reach::Leader, attempt).await? {
                Place::Here(owner) => {
                    check_replication_factor(&call.context, message.replication_factor)?;
                    self.make_vault_here(&call, owner, &command).await
                }
                Place::There(remote) => {
                    let send = |channel, request| async move {
                        admin_client(channel).create_vault(request).await
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

    /// The vault exists from its place in the directory on; its first block follows at once. An answer that
    /// cannot wait for that block is told without it.
    async fn make_vault_here(
        &self,
        call: &Call,
        owner: Owner,
        command: &SystemCommand,
    ) -> Result<Response<v1::CreateVaultResponse>, Failure> {
        let SystemResult::VaultPlaced { vault, .. } =
            change_directory(call, owner, command).await?
        else {
            return Err(Failure::Internal("a new vault was answered as something else"));
        };
        // This node asks for the block itself, also when the request came from another one.
        let genesis = genesis(&call.on_own_behalf(), vault).await.ok().flatten();
        let vault_id = Some(vault.vault.into());
        Ok(call.answer(GroupId::SYSTEM, v1::CreateVaultResponse { vault_id, genesis }))
    }

    pub(super) async fn tell_vault(
        &self,
        request: Request<v1::GetVaultRequest>,
    ) -> Result<Response<v1::GetVaultResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let vault = ids::vault_ref(message.namespace_id, message.vault_id)?;
        let local = |row: &VaultRow, _: &v1::GetVaultRequest| {
            Ok(wire_vault(&call.context, vault, row.owner, Some(row)))
        };
        let send = |channel, request| async move { admin_client(channel).get_vault(request).await };
        let target = Target::existing(vault, Consistency::Eventual);
        call.read(target, message, local, send).await
    }

    pub(super) async fn list_all_vaults(
        &self,
        request: Request<v1::ListVaultsRequest>,
    ) -> Result<Response<v1::ListVaultsResponse>, Failure> {
        let (metadata, _, message) = request.into_parts();
        let call = Call::begin(&self.slot, &metadata)?;
        let namespace = match message.namespace_id {
            Some(id) => Some(ids::namespace(Some(id))?),
            None => None,
        };
        let with_deleted = message.include_deleted;
        let query = Query::new("ListVaults")
            .number(namespace.map_or(u64::MAX, |id| id.0))
            .number(u64::from(with_deleted));
        let is_paged = message.page_size.is_some() || message.page_token.is_some();
        let items_max = match is_paged {
            true => reads::page_items("page_size", message.page_size.unwrap_or(0))?,
            false => PAGE_ITEMS_MAX,
        };
        let after = match message.page_token.as_deref() {
            None | Some([]) => None,
            Some(token) => {
                let cursor = self.tokens(&call.context).open_bytes(&query, token)?;
                Some(VaultRef::from_prefix(&cursor.after).ok_or(Failure::PageToken)?)
            }
        };
        let listed = apart(usize::MAX, || {
            let listed = Listed { namespace, with_deleted };
            vaults_to_list(&call.context, listed, after, items_max.saturating_add(1))
        });
        let Some(mut vaults) = listed else {
            return list_elsewhere(&call, message).await;
        };
        let has_more = vaults.len() > items_max;
        if has_more && !is_paged {
            let max = PAGE_ITEMS_MAX as u64;
            return Err(Failure::AnswerTooLarge { limit: "page_items_max", max });
        }
        vaults.truncate(items_max);
        let next_page_token = vaults.last().filter(|_| has_more).map(|last| {
            let after = last.vault.to_bytes().to_vec();
            let cursor = PageCursor { height: 0, time_seconds: 0, after };
            self.tokens(&call.context).seal_bytes(&query, &cursor)
        });
        let vaults = apart(usize::MAX, || wire_vaults(&call.context, &vaults))?;
        let answer = v1::ListVaultsResponse { vaults, next_page_token };
        if !is_paged && answer.encoded_len() > WHOLE_ANSWER_BYTES_MAX {
            let max = WHOLE_ANSWER_BYTES_MAX as u64;
            return Err(Failure::AnswerTooLarge { limit: "unpaged_bytes_max", max });
        }
        Ok(call.answer(GroupId::SYSTEM, answer))
    }
}

/// A node that does not hold all vaults has the list made by one that does.
async fn list_elsewhere(
    call: &Call,
    message: v1::ListVaultsRequest,
) -> Result<Response<v1::ListVaultsResponse>, Failure> {
    match call.place(VaultRef::SYSTEM, Reach::Leader, 0).await? {
        Place::There(remote) => {
            let send =
                |channel, request| async move { admin_client(channel).list_vaults(request).await };
            call.forward(remote, message, send).await
        }
        Place::Here(_) => Err(Failure::not_ready("the directory here is not complete")),
    }
}

/// Which vaults a list shows.
#[derive(Clone, Copy)]
struct Listed {
    /// Only those of this namespace.
    namespace: Option<NamespaceId>,
    /// Deleted ones too.
    with_deleted: bool,
}

impl Listed {
    fn shows(self, entity: &VaultEntity) -> bool {
        let is_shown = match entity.state {
            VaultState::Creating => false,
            VaultState::Active => true,
            VaultState::Deleting | VaultState::Deleted => self.with_deleted,
        };
        is_shown && entity.vault.vault != VaultId(0)
    }
}

/// Up to `limit` vaults of a list, after `after`; `None` if the directory here holds only a part.
fn vaults_to_list(
    context: &NodeContext,
    wanted: Listed,
    mut after: Option<VaultRef>,
    limit: usize,
) -> Option<Vec<VaultEntity>> {
    let directory = context.directory.current();
    let mut found = Vec::new();
    loop {
        let step = directory.vaults(after, wanted.namespace, STEP)?;
        after = step.last().map(|last| last.vault);
        let is_last = step.len() < STEP;
        let listed = step.into_iter().filter(|entity| wanted.shows(entity));
        found.extend(listed.take(limit - found.len()));
        if is_last || found.len() == limit {
            return Some(found);
        }
    }
}

fn wire_vaults(
    context: &NodeContext,
    vaults: &[VaultEntity],
) -> Result<Vec<v1::GetVaultResponse>, Failure> {
    let mut told = Vec::with_capacity(vaults.len());
    for entity in vaults {
        let row = match context.reader.tip(entity.vault) {
            Ok(row) => Some(row),
            Err(QueryError::UnknownVault) => None,
            Err(error) => return Err(query_failure(error)),
        };
        told.push(wire_vault(context, entity.vault, entity.shard, row.as_ref()));
    }
    Ok(told)
}

/// What is told about a vault. Without a row here its height and root are left out.
fn wire_vault(
    context: &NodeContext,
    vault: VaultRef,
    group: GroupId,
    row: Option<&VaultRow>,
) -> v1::GetVaultResponse {
    let entity = match context.directory.current().vault(vault) {
        VaultLookup::Known(entity) => Some(entity),
        VaultLookup::Absent | VaultLookup::NotCached => None,
    };
    let status = match row.map(|row| row.status) {
        _ if entity.as_ref().is_some_and(is_deleted) => v1::VaultStatus::Deleted,
        None | Some(VaultStatus::Active) => v1::VaultStatus::Active,
        Some(VaultStatus::ReadOnly) => v1::VaultStatus::ReadOnly,
        Some(VaultStatus::Deleted | VaultStatus::Purged) => v1::VaultStatus::Deleted,
    };
    let leader = context.shard.leader(group).and_then(|(_, _, leader)| leader);
    let leader = leader.or_else(|| context.leaders.leader(group));
    v1::GetVaultResponse {
        namespace_id: Some(vault.namespace.into()),
        vault_id: Some(vault.vault.into()),
        height: row.map_or(0, |row| row.height),
        state_root: row.map(|row| row.state_root.into()),
        nodes: members(context, group),
        leader: leader.map(|node| v1::NodeId { id: node_name(context, node) }),
        status: status.into(),
        retention_policy: entity.as_ref().map(wire_retention),
    }
}

fn wire_retention(entity: &VaultEntity) -> v1::BlockRetentionPolicy {
    let mode = match entity.retention {
        RetentionMode::KeepAll => v1::BlockRetentionMode::Full,
        RetentionMode::KeepBlocks => v1::BlockRetentionMode::Compacted,
    };
    v1::BlockRetentionPolicy { mode: mode.into(), retention_blocks: entity.retention_blocks }
}

fn retention(policy: Option<&v1::BlockRetentionPolicy>) -> Result<Retention, Failure> {
    let Some(policy) = policy else { return Ok(Retention::KEEP_ALL) };
    match v1::BlockRetentionMode::try_from(policy.mode) {
        Ok(v1::BlockRetentionMode::Unspecified | v1::BlockRetentionMode::Full) => {
            Ok(Retention::KEEP_ALL)
        }
        Ok(v1::BlockRetentionMode::Compacted) if policy.retention_blocks == 0 => {
            Err(Failure::field(
                "retention_policy.retention_blocks",
                "must be at least 1 with COMPACTED",
            ))
        }
        Ok(v1::BlockRetentionMode::Compacted) => {
            Ok(Retention { mode: RetentionMode::KeepBlocks, blocks: policy.retention_blocks })
        }
        Err(_) => Err(Failure::field("retention_policy.mode", "is no known mode")),
    }
}

/// Checks a wish for so many replicas of a vault: 0, the cluster's setting, or what its shards have. Read from the
/// rows of the directory's leader.
fn check_replication_factor(context: &NodeContext, wanted: u32) -> Result<(), Failure> {
    let entity = context.reader.entity(VaultRef::SYSTEM, REPLICATION_FACTOR_KEY);
    let entity = entity.map_err(query_failure)?;
    let setting = entity.and_then(|entity| SettingEntity::decode(&entity.value).ok());
    let setting = setting.map(|setting| setting.value);
    let shards = context.directory.current().shards();
    let data_shards = shards.iter().filter(|shard| shard.id != GroupId::SYSTEM);
    let mut replicas = data_shards.map(|shard| shard.voter_sets()[0].len() as u64);
    let wanted = u64::from(wanted);
    if wanted == 0 || setting == Some(wanted) || replicas.any(|count| count == wanted) {
        return Ok(());
    }
    let setting = setting.map_or_else(String::new, |setting| format!(" or {setting}"));
    let problem = format!("must be 0{setting}: a vault has the replicas of its shard");
    Err(Failure::field("replication_factor", problem))
}

/// The id that a request chose for a new vault, if it did.
fn chosen_vault(wire: Option<v1::VaultId>) -> Result<Option<VaultId>, Failure> {
    match wire {
        None => Ok(None),
        Some(_) => match ids::vault(wire)? {
            VaultId(0) => Err(Failure::field("vault_id", "0 is the namespace's own entities")),
            vault => Ok(Some(vault)),
        },
    }
}

/// A namespace that a request may change.
pub(super) fn writable_namespace(wire: Option<v1::NamespaceId>) -> Result<NamespaceId, Failure> {
    Ok(ids::writable_vault_ref(wire, None)?.namespace)
}

/// The first block's header, once there is one; `None` if this node has no replica and is not told.
async fn genesis(call: &Call, vault: VaultRef) -> Result<Option<v1::BlockHeader>, Failure> {
    match call.place(vault, Reach::Leader, 0).await? {
        Place::Here(_) => {
            let header = call.context.reader.block_header(vault, 0);
            let (header, _) = header.map_err(query_failure)?;
            Ok(Some(wire_header(&header, &proposer_name(&call.context, &header))))
        }
        Place::There(remote) => {
            let message = v1::GetBlockRequest {
                namespace_id: Some(vault.namespace.into()),
                vault_id: Some(vault.vault.into()),
                height: 0,
            };
            let send = |channel, request| async move {
                super::read::client(channel).get_block(request).await
            };
            let block = call.forward(remote, message, send).await?.into_inner().block;
            Ok(block.and_then(|block| block.header))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_is_read_or_refused() {
        let policy = |mode: i32, retention_blocks| {
            retention(Some(&v1::BlockRetentionPolicy { mode, retention_blocks }))
        };
        assert_eq!(retention(None).unwrap(), Retention::KEEP_ALL);
        assert_eq!(policy(1, 0).unwrap(), Retention::KEEP_ALL);
        let kept = Retention { mode: RetentionMode::KeepBlocks, blocks: 9 };
        assert_eq!(policy(2, 9).unwrap(), kept);
        assert!(matches!(policy(2, 0), Err(Failure::Field { .. })));
        assert!(matches!(policy(7, 1), Err(Failure::Field { .. })));
    }

    #[test]
    fn a_chosen_id_is_at_least_1() {
        let chosen = |id| chosen_vault(Some(v1::VaultId { id }));
        assert_eq!(chosen_vault(None).unwrap(), None);
        assert_eq!(chosen(7).unwrap(), Some(VaultId(7)));
        assert!(matches!(chosen(0), Err(Failure::Field { .. })));
        assert!(matches!(chosen(-1), Err(Failure::Field { .. })));
    }

    #[test]
    fn refusals_of_the_directory_keep_their_kind() {
        let namespace = NamespaceId(4);
        let taken = refused(SystemRefusal::NamespaceNameTaken { namespace });
        assert!(matches!(taken, Failure::NameTaken(_)));
        let unknown = refused(SystemRefusal::UnknownNamespace { namespace });
        assert!(matches!(unknown, Failure::UnknownNamespace));
        let early = refused(SystemRefusal::NotFounded);
        assert!(matches!(early, Failure::NotReady { .. }));
        let shard = refused(SystemRefusal::UnknownShard { shard: GroupId(9) });
        assert!(matches!(shard, Failure::Field { .. }));
    }
}
