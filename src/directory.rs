//! Keeps this node's copy of the directory current, and gives it to nodes that have no replica of it.
//!
//! Owns the copy's progress: from the local replica of `_system` once that can be read, else from another
//! node; and who may come under the name of a registered node. Must never be what safety rests on: a copy may
//! be stale, the owner check is not.

mod joining;

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
use ledger_shard::{EntityQuery, PageLimits, QueryError, Reader, ShardHandle};
use ledger_types::limits::PAGE_BYTES_MAX;
use ledger_types::{GroupId, NodeId, Operation, VaultRef};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, warn};

use crate::bootstrap::FounderBook;
use crate::context::{BlockFeed, endpoint};
use crate::edge::status::Failure;
use crate::peer::{
    AddressBook, DirectoryService, DirectoryStream, JoinRefusal, JoiningNode, Membership, MetNodes,
    PeerState,
};

/// Messages of a stream that wait for a slow node.
const DELTAS_QUEUED_MAX: usize = 16;
/// Entities in one page of a full read.
const PAGE_ITEMS: usize = 1_000;
/// Pause before another node is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Pause between looks at the local replica when no block is announced.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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
    /// An empty copy; `has_replica` says whether the node has a replica of the directory's group that can be
    /// read, and so sees all of it. A node that gets one later comes to see all with [`follow`].
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

    /// Where a node is reached, if the copy knows. A removed node is not reached any more, not even if the
    /// node that came in its place has its address.
    pub fn address(&self, node: NodeId) -> Option<String> {
        let entity = self.directory.node(node)?;
        (entity.state != NodeState::Removed).then(|| entity.address.clone())
    }

    /// Where the other nodes of the cluster are reached, as far as the copy knows.
    pub fn addresses(&self, own: NodeId) -> Vec<(NodeId, String)> {
        let nodes = self.directory.nodes();
        let others = nodes.iter().filter(|entity| entity.id != own);
        others.filter_map(|entity| Some((entity.id, self.address(entity.id)?))).collect()
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
        if self.directory.replace(revision, entities)? {
            self.revision.send_replace(revision);
        }
        Ok(())
    }

    /// Takes all entities, those of every vault among them; false if the copy is ahead of them.
    fn take_all_vaults(
        &self,
        revision: u64,
        entities: &[EntityChange],
    ) -> Result<bool, ContentError> {
        let taken = self.directory.replace_with_all_vaults(revision, entities)?;
        if taken {
            self.revision.send_replace(revision);
        }
        Ok(taken)
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

/// What the local replica of `_system` is followed with.
#[derive(Clone)]
pub struct LocalSource {
    /// Tells whether the replica is there and can be read.
    pub shard: ShardHandle,
    /// Reads it.
    pub reader: Reader,
    /// Tells of new blocks.
    pub feed: Arc<BlockFeed>,
}

impl LocalSource {
    /// True if there is a replica and its rows are a state of the directory: not one that still waits for its
    /// first snapshot, or is in the middle of one.
    fn is_readable(&self) -> bool {
        self.shard.is_readable(GroupId::SYSTEM)
    }
}

/// Follows the directory for as long as the node runs: from other nodes, first at `addresses`, until this one
/// has a replica of its own that can be read and is not behind what was heard from them; then from that.
pub async fn follow(cache: Arc<DirectoryCache>, local: LocalSource, addresses: Vec<String>) {
    if !cache.directory.holds_all_vaults() {
        tokio::select! {
            () = follow_remote(cache.clone(), addresses) => {}
            () = take_over(&cache, &local) => {}
        }
    }
    follow_local(cache, local).await;
}

/// Waits until the local replica can be read, and takes all that it holds.
async fn take_over(cache: &DirectoryCache, local: &LocalSource) {
    loop {
        tokio::time::sleep(RETRY_PAUSE).await;
        let tip = local.reader.tip(VaultRef::SYSTEM).map_or(0, |tip| tip.height);
        if !local.is_readable() || tip == 0 || tip < cache.revision() {
            continue;
        }
        match read_all(&local.reader, true) {
            Ok((revision, entities)) => match cache.take_all_vaults(revision, &entities) {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => warn!(%error, "the directory's replica makes no sense"),
            },
            Err(error) => debug!(%error, "the directory's replica cannot be read yet"),
        }
    }
}

/// Follows the local replica of `_system` for as long as the node runs.
async fn follow_local(cache: Arc<DirectoryCache>, local: LocalSource) {
    let mut tips = local.feed.subscribe(VaultRef::SYSTEM, 0);
    loop {
        // In the middle of a snapshot the rows are no state of the directory.
        let caught_up = if local.is_readable() { catch_up(&cache, &local.reader) } else { Ok(()) };
        if let Err(error) = caught_up {
            warn!(%error, "the directory's replica cannot be read; trying again");
            tokio::time::sleep(RETRY_PAUSE).await;
            continue;
        }
        tokio::select! {
            changed = tips.changed() => if changed.is_err() {
                tips = local.feed.subscribe(VaultRef::SYSTEM, cache.revision());
            },
            // Blocks that came with a snapshot are announced by nobody.
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Brings the copy to the tip of the local replica.
fn catch_up(cache: &DirectoryCache, reader: &Reader) -> Result<(), DirectoryError> {
    #[cfg(feature = "failpoints")]
    fail::fail_point!("directory::stale", |_| Ok(()));
    loop {
        let tip = match reader.tip(VaultRef::SYSTEM) {
            Ok(tip) => tip.height,
            Err(QueryError::UnknownVault) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let have = cache.revision();
        if tip <= have {
            return Ok(());
        }
        let next = if have == 0 { None } else { changes_of_block(reader, have + 1).ok() };
        match next {
            Some(changes) => cache.take(have, have + 1, changes)?,
            // At the beginning, and after a snapshot that does not hold the blocks in between.
            None => {
                let (revision, entities) = read_all(reader, true)?;
                cache.take_all(revision, &entities)?;
            }
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
        let (items_max, bytes_max, rows_max) = (PAGE_ITEMS, PAGE_BYTES_MAX, usize::MAX);
        let limits = PageLimits { after: after.as_deref(), items_max, bytes_max, rows_max };
        let page = reader.entities(query, limits)?;
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
async fn follow_remote(cache: Arc<DirectoryCache>, first_addresses: Vec<String>) {
    let mut turn = 0usize;
    loop {
        let nodes = cache.directory.nodes();
        let mut addresses: Vec<String> =
            nodes.iter().filter_map(|node| cache.address(node.id)).collect();
        addresses.extend(first_addresses.iter().cloned());
        assert!(
            !addresses.is_empty(),
            "a cluster has founders, whose addresses are never forgotten"
        );
        let address = &addresses[turn % addresses.len()];
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
            } else if delta.revision > cache.revision() {
                cache.take(cache.revision(), delta.revision, changes)?;
            }
        }
    }
    Ok(())
}

/// Serves the directory's replica on this node to other nodes, and registers new ones.
pub struct LocalDirectory {
    cache: Arc<DirectoryCache>,
    source: LocalSource,
    peers: Arc<PeerState>,
    /// One node is registered after the other: who is decided on must not change meanwhile.
    joining: tokio::sync::Mutex<joining::Missing>,
}

impl LocalDirectory {
    /// The service over this node's own replica, if it has one. `peers` knows who is alive.
    pub fn new(
        cache: Arc<DirectoryCache>,
        source: LocalSource,
        peers: Arc<PeerState>,
    ) -> LocalDirectory {
        LocalDirectory { cache, source, peers, joining: tokio::sync::Mutex::default() }
    }
}

#[tonic::async_trait]
impl DirectoryService for LocalDirectory {
    async fn join(&self, joining: JoiningNode) -> Result<NodeId, JoinRefusal> {
        self.register(joining).await
    }

    async fn follow(&self, from_revision: u64) -> Result<DirectoryStream, Failure> {
        if !self.source.is_readable() {
            return Err(Failure::NotReady { what: "no replica of the directory here".to_owned() });
        }
        let (sender, receiver) = mpsc::channel(DELTAS_QUEUED_MAX);
        let (reader, feed) = (self.source.reader.clone(), self.source.feed.clone());
        tokio::spawn(async move {
            if let Err(error) = send_deltas(&reader, &feed, from_revision, &sender).await {
                warn!(%error, "the directory cannot be told to another node");
            }
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }

    async fn lookup_vault(&self, vault: VaultRef) -> Result<LookupVaultResponse, Failure> {
        if !self.source.is_readable() {
            return Err(Failure::NotReady { what: "no replica of the directory here".to_owned() });
        }
        let key = vault_key(vault);
        let entity = self
            .source
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
        let mut full = have == 0 || have > tip;
        let (revision, changes) = if full {
            read_all(reader, false)?
        } else {
            match changes_of_block(reader, have + 1) {
                Ok(changes) => (have + 1, changes),
                // Blocks that old are not kept here: all there is, then.
                Err(_) => {
                    full = true;
                    read_all(reader, false)?
                }
            }
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

/// What the directory says of nodes; of those that it says nothing of, what the genesis does, or the node itself
/// when it was met.
pub struct NodeBook {
    cache: Arc<DirectoryCache>,
    founders: FounderBook,
    met: Arc<MetNodes>,
}

impl NodeBook {
    /// A book over the copy, with the founders and those met behind it.
    pub fn new(cache: Arc<DirectoryCache>, founders: FounderBook, met: Arc<MetNodes>) -> NodeBook {
        NodeBook { cache, founders, met }
    }
}

impl AddressBook for NodeBook {
    fn address(&self, node: NodeId) -> Option<String> {
        // What the genesis says counts only until the directory says something, such as that it is removed.
        match self.cache.directory.node(node) {
            Some(_) => self.cache.address(node),
            None => self.founders.address(node).or_else(|| self.met.address(node)),
        }
    }

    fn membership(&self, node: NodeId) -> Membership {
        match self.cache.directory.node(node) {
            Some(entity) if entity.state == NodeState::Removed => Membership::Removed,
            Some(entity) => Membership::Member(entity.store_id),
            None => self.founders.membership(node),
        }
    }
}
