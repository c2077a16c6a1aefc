//! Keeps this node's copy of the directory current, and gives it to nodes that have no replica of it.
//!
//! Owns the copy's progress: from the local replica of `_system` where there is one, else from another
//! node. Must never be what safety rests on: a copy may be stale, the owner check is not.

use std::collections::BTreeMap;
use std::error::Error;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use ledger_proof::AppliedOperation;
use ledger_proof::system_entity::{NodeState, SystemEntity as _, VaultEntity, vault_key};
use ledger_proto::internal::peer_client::PeerClient;
use ledger_proto::internal::{
    DirectoryDelta, DirectoryEntry, DirectoryRequest, LookupVaultRequest, LookupVaultResponse,
};
use ledger_router::{Delta, Directory, DirectoryError as ContentError, EntityChange, VaultScope};
use ledger_shard::{
    EntityQuery, PageLimits, QueryError, Reader, Refusal, RegisterNode, Role, ShardHandle,
    SystemCommand, SystemRefusal, SystemResult,
};
use ledger_types::limits::PAGE_BYTES_MAX;
use ledger_types::{GroupId, NodeId, Operation, VaultRef};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, warn};

use crate::bootstrap::FounderBook;
use crate::commands::propose_system;
use crate::context::{BlockFeed, endpoint};
use crate::edge::status::Failure;
use crate::peer::{
    AddressBook, DirectoryService, DirectoryStream, JoinRefusal, JoiningNode, Membership,
};

/// Messages of a stream that wait for a slow node.
const DELTAS_QUEUED_MAX: usize = 16;
/// Entities in one page of a full read.
const PAGE_ITEMS: usize = 1_000;
/// Pause before another node is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Vaults that a node without a replica of the directory remembers.
const VAULTS_CACHED_MAX: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

/// Why the directory cannot be read here.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// The local rows cannot be read.
    #[error("the directory's rows: {0}")]
    Rows(#[from] QueryError),
    /// An entity is not what its key says, or a revision is missing.
    #[error("the directory's content: {0}")]
    Content(#[from] ContentError),
}

/// This node's copy of the directory and who waits for it to change.
pub struct DirectoryCache {
    directory: Arc<Directory>,
    revision: watch::Sender<u64>,
}

impl DirectoryCache {
    /// An empty copy; `has_replica` says whether the node votes in the directory's group and so sees all
    /// of it.
    pub fn new(has_replica: bool) -> DirectoryCache {
        let scope =
            if has_replica { VaultScope::All } else { VaultScope::Cached(VAULTS_CACHED_MAX) };
        let directory = Arc::new(Directory::new(scope));
        DirectoryCache { directory, revision: watch::channel(0).0 }
    }

    /// The copy.
    pub fn current(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// The revision of the copy: the height of the directory's chain that it reflects.
    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// Sees every later revision.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Waits until the copy reflects `revision` or more; false if the time ran out first.
    pub async fn wait_revision(&self, revision: u64, time: Duration) -> bool {
        let mut seen = self.subscribe();
        let reached = seen.wait_for(|now| *now >= revision);
        matches!(tokio::time::timeout(time, reached).await, Ok(Ok(_)))
    }

    /// Where a node is reached, if the copy knows.
    pub fn address(&self, node: NodeId) -> Option<String> {
        self.directory.node(node).map(|entity| entity.address.clone())
    }

    /// Asks nodes of the directory for a vault's owner and remembers it. False if none could be asked.
    pub async fn lookup_vault(&self, vault: VaultRef) -> bool {
        let shard = self.directory.shard(GroupId::SYSTEM);
        let voters = shard.iter().flat_map(|shard| shard.replicas.iter());
        let addresses: Vec<String> = voters.filter_map(|one| self.address(one.node)).collect();
        for address in addresses {
            match ask_for_vault(&address, vault).await {
                Ok((revision, Some(entity))) => {
                    self.directory.learn_vault(revision, entity);
                    return true;
                }
                Ok((_, None)) => return true,
                Err(error) => debug!(address, %error, "a vault cannot be looked up here"),
            }
        }
        false
    }

    fn take_all(&self, revision: u64, entities: &[EntityChange]) -> Result<(), ContentError> {
        self.directory.replace(revision, entities)?;
        self.revision.send_replace(revision);
        Ok(())
    }

    fn take(
        &self,
        base: u64,
        revision: u64,
        changes: Vec<EntityChange>,
    ) -> Result<(), ContentError> {
        self.directory.apply_delta(&Delta { base, revision, changes })?;
        self.revision.send_replace(revision);
        Ok(())
    }
}

async fn ask_for_vault(
    address: &str,
    vault: VaultRef,
) -> Result<(u64, Option<VaultEntity>), Box<dyn Error + Send + Sync>> {
    let endpoint = endpoint(address).ok_or("the address is malformed")?;
    let mut client = PeerClient::new(endpoint.connect().await?);
    let request = LookupVaultRequest { namespace: vault.namespace.0, vault: vault.vault.0 };
    let answer = client.lookup_vault(request).await?.into_inner();
    let entity = answer.entry.filter(|entry| !entry.deleted);
    let entity = entity.map(|entry| VaultEntity::decode(&entry.value)).transpose()?;
    Ok((answer.revision, entity))
}

/// Follows the local replica of `_system` for as long as the node runs.
pub async fn follow_local(cache: Arc<DirectoryCache>, reader: Reader, feed: Arc<BlockFeed>) {
    let mut tips = feed.subscribe(VaultRef::SYSTEM, 0);
    loop {
        if let Err(error) = catch_up(&cache, &reader) {
            warn!(%error, "the directory's replica cannot be read; trying again");
            tokio::time::sleep(RETRY_PAUSE).await;
            continue;
        }
        if tips.changed().await.is_err() {
            tips = feed.subscribe(VaultRef::SYSTEM, cache.revision());
        }
    }
}

/// Brings the copy to the tip of the local replica.
fn catch_up(cache: &DirectoryCache, reader: &Reader) -> Result<(), DirectoryError> {
    loop {
        let tip = match reader.tip(VaultRef::SYSTEM) {
            Ok(tip) => tip.height,
            Err(QueryError::UnknownVault) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let have = cache.revision();
        if tip == have {
            return Ok(());
        }
        if have == 0 {
            let (revision, entities) = read_all(reader, true)?;
            cache.take_all(revision, &entities)?;
        } else {
            cache.take(have, have + 1, changes_of_block(reader, have + 1)?)?;
        }
    }
}

/// Every entity of the local replica, all at one revision; those of single vaults only if asked.
fn read_all(
    reader: &Reader,
    with_vaults: bool,
) -> Result<(u64, Vec<EntityChange>), DirectoryError> {
    let mut changes = Vec::new();
    let tip = reader.tip(VaultRef::SYSTEM)?.height;
    let (vault, prefix) = (VaultRef::SYSTEM, "");
    let at_height = Some(tip);
    let query = EntityQuery { vault, prefix, at_height, time_s: 0, include_expired: true };
    let mut after: Option<Vec<u8>> = None;
    loop {
        let (items_max, bytes_max) = (PAGE_ITEMS, PAGE_BYTES_MAX);
        let page =
            reader.entities(query, PageLimits { after: after.as_deref(), items_max, bytes_max })?;
        let wanted = page.items.into_iter().filter(|item| {
            with_vaults || !(item.key.starts_with("vault/") || item.key.starts_with("pending/"))
        });
        changes.extend(wanted.map(|item| EntityChange { key: item.key, value: Some(item.value) }));
        match page.next {
            Some(last) => after = Some(last),
            None => return Ok((tip, changes)),
        }
    }
}

/// What one block of the directory's chain changed, the last change of each key.
fn changes_of_block(reader: &Reader, height: u64) -> Result<Vec<EntityChange>, DirectoryError> {
    let block = reader.block(VaultRef::SYSTEM, height)?;
    let mut changes = BTreeMap::new();
    for (transaction, _) in block.transactions {
        for applied in transaction.operations {
            let AppliedOperation::State { operation, .. } = applied else { continue };
            match operation {
                Operation::SetEntity { key, value, .. } => changes.insert(key, Some(value)),
                Operation::DeleteEntity { key } => changes.insert(key, None),
                _ => None,
            };
        }
    }
    Ok(changes.into_iter().map(|(key, value)| EntityChange { key, value }).collect())
}

/// Follows the directory from other nodes, for as long as this one has no replica of it.
pub async fn follow_remote(cache: Arc<DirectoryCache>, first_addresses: Vec<String>) {
    let mut turn = 0usize;
    loop {
        let mut addresses: Vec<String> =
            cache.directory.nodes().iter().map(|node| node.address.clone()).collect();
        addresses.extend(first_addresses.iter().cloned());
        let address = &addresses[turn % addresses.len().max(1)];
        turn += 1;
        if let Err(error) = follow_one(&cache, address).await {
            debug!(address, %error, "the directory cannot be followed here");
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Follows one node until it ends the stream or fails.
async fn follow_one(
    cache: &DirectoryCache,
    address: &str,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let endpoint = endpoint(address).ok_or("the address is malformed")?;
    let mut client = PeerClient::new(endpoint.connect().await?);
    let from_revision = cache.revision();
    let mut deltas = client.directory(DirectoryRequest { from_revision }).await?.into_inner();
    let (mut gathered, mut full) = (Vec::new(), false);
    while let Some(delta) = deltas.message().await? {
        full |= delta.full;
        for entry in delta.entries {
            let key = String::from_utf8(entry.key.to_vec())?;
            let value = (!entry.deleted).then(|| entry.value.to_vec());
            gathered.push(EntityChange { key, value });
        }
        if delta.complete {
            let changes = std::mem::take(&mut gathered);
            if std::mem::take(&mut full) {
                cache.take_all(delta.revision, &changes)?;
            } else {
                cache.take(cache.revision(), delta.revision, changes)?;
            }
        }
    }
    Ok(())
}

/// Serves the directory's replica on this node to other nodes, and registers new ones.
pub struct LocalDirectory {
    cache: Arc<DirectoryCache>,
    reader: Reader,
    shard: ShardHandle,
    feed: Arc<BlockFeed>,
}

impl LocalDirectory {
    /// The service over this node's own replica, if it has one.
    pub fn new(
        cache: Arc<DirectoryCache>,
        reader: Reader,
        shard: ShardHandle,
        feed: Arc<BlockFeed>,
    ) -> LocalDirectory {
        LocalDirectory { cache, reader, shard, feed }
    }

    fn leader_address(&self) -> Option<String> {
        let (_, _, leader) = self.shard.leader(GroupId::SYSTEM)?;
        self.cache.address(leader?)
    }
}

#[tonic::async_trait]
impl DirectoryService for LocalDirectory {
    async fn join(&self, joining: JoiningNode) -> Result<NodeId, JoinRefusal> {
        let not_leader = || JoinRefusal::NotLeader { leader_address: self.leader_address() };
        if self.shard.leader(GroupId::SYSTEM).is_none_or(|(role, ..)| role != Role::Leader) {
            return Err(not_leader());
        }
        let JoiningNode { name, store: store_id, public_key, address, zone } = joining;
        let register = RegisterNode { name, store_id, public_key, address, zone };
        let command = SystemCommand::RegisterNode(register);
        match propose_system(&self.shard, &command).await {
            Ok(SystemResult::NodeRegistered { node, .. }) => Ok(node),
            Ok(SystemResult::Refused(refusal)) => match refusal {
                SystemRefusal::NotFounded => Err(JoinRefusal::Unavailable(refusal.to_string())),
                SystemRefusal::NodeNameTaken { .. } => {
                    Err(JoinRefusal::NameTaken(refusal.to_string()))
                }
                other => Err(JoinRefusal::Refused(other.to_string())),
            },
            Ok(other) => Err(JoinRefusal::Unavailable(format!("unexpected answer {other:?}"))),
            Err(Refusal::NotLeader(_) | Refusal::NoReplica) => Err(not_leader()),
            Err(refusal) => Err(JoinRefusal::Unavailable(format!("{refusal:?}"))),
        }
    }

    async fn follow(&self, from_revision: u64) -> Result<DirectoryStream, Failure> {
        if self.shard.status(GroupId::SYSTEM).is_none() {
            return Err(Failure::NotReady { what: "no replica of the directory here".to_owned() });
        }
        let (sender, receiver) = mpsc::channel(DELTAS_QUEUED_MAX);
        let (reader, feed) = (self.reader.clone(), self.feed.clone());
        tokio::spawn(async move {
            if let Err(error) = send_deltas(&reader, &feed, from_revision, &sender).await {
                warn!(%error, "the directory cannot be told to another node");
            }
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }

    async fn lookup_vault(&self, vault: VaultRef) -> Result<LookupVaultResponse, Failure> {
        let key = vault_key(vault);
        let entity = self
            .reader
            .entity(VaultRef::SYSTEM, &key)
            .map_err(|error| Failure::NotReady { what: error.to_string() })?;
        let revision = self.cache.revision();
        let entry =
            entity.map(|entity| directory_entry(EntityChange { key, value: Some(entity.value) }));
        Ok(LookupVaultResponse { entry, revision })
    }
}

/// Sends the directory from `have` on, and then every change, until the receiver is gone.
async fn send_deltas(
    reader: &Reader,
    feed: &BlockFeed,
    have: u64,
    sender: &mpsc::Sender<Result<DirectoryDelta, Failure>>,
) -> Result<(), DirectoryError> {
    let mut tips = feed.subscribe(VaultRef::SYSTEM, 0);
    let mut have = have;
    loop {
        let tip = reader.tip(VaultRef::SYSTEM)?.height;
        if have == tip && tip > 0 {
            tokio::select! {
                changed = tips.changed() => if changed.is_err() { return Ok(()) },
                () = sender.closed() => return Ok(()),
            }
            continue;
        }
        let full = have == 0 || have > tip;
        let (revision, changes) = if full {
            read_all(reader, false)?
        } else {
            (have + 1, changes_of_block(reader, have + 1)?)
        };
        for delta in deltas(revision, changes, full) {
            if sender.send(Ok(delta)).await.is_err() {
                return Ok(());
            }
        }
        have = revision;
    }
}

/// Cuts changes into messages; the last one completes the revision.
fn deltas(revision: u64, changes: Vec<EntityChange>, full: bool) -> Vec<DirectoryDelta> {
    let mut entries = changes.into_iter().map(directory_entry).peekable();
    let mut deltas = Vec::new();
    loop {
        let page: Vec<DirectoryEntry> = entries.by_ref().take(PAGE_ITEMS).collect();
        let complete = entries.peek().is_none();
        let full = full && deltas.is_empty();
        deltas.push(DirectoryDelta { revision, entries: page, full, complete });
        if complete {
            return deltas;
        }
    }
}

fn directory_entry(change: EntityChange) -> DirectoryEntry {
    let deleted = change.value.is_none();
    let value = change.value.unwrap_or_default().into();
    DirectoryEntry { key: change.key.into_bytes().into(), value, deleted }
}

/// What the directory says of nodes; before it says anything, what the genesis does.
pub struct NodeBook {
    cache: Arc<DirectoryCache>,
    founders: FounderBook,
}

impl NodeBook {
    /// A book over the copy, with the founders behind it.
    pub fn new(cache: Arc<DirectoryCache>, founders: FounderBook) -> NodeBook {
        NodeBook { cache, founders }
    }
}

impl AddressBook for NodeBook {
    fn address(&self, node: NodeId) -> Option<String> {
        self.cache.address(node).or_else(|| self.founders.address(node))
    }

    fn membership(&self, node: NodeId) -> Membership {
        match self.cache.directory.node(node) {
            Some(entity) if entity.state == NodeState::Removed => Membership::Removed,
            Some(entity) => Membership::Member(entity.store_id),
            None => self.founders.membership(node),
        }
    }
}
