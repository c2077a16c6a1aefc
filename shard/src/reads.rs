//! Reads of state, on the caller's own thread, past the driver.
//!
//! Owns which view of the rows a read sees: one snapshot for each call, or the store itself under the
//! state machine's lock for proofs of the tip; and the trees of earlier heights that are kept. Must never decide whether a read is fresh enough: for a linearizable
//! one, [`crate::ShardHandle::read`] has said so before.

use std::sync::Arc;

use ledger_proof::BlockHeader;
use ledger_proof::header::HEADER_LEN;
use ledger_shard_core::apply::{Applier, TipProof};
use ledger_shard_core::query::{
    self, Entity, EntityQuery, ListRequest, LogSizes, Page, PageLimits, PastTree, PastTrees,
    ProvedList, QueryError, Relationship, RelationshipQuery, ResourceQuery, StateProof,
    StoredBlock,
};
use ledger_shard_core::rows::VaultRow;
use ledger_types::limits::PAST_KEYS_MAX;
use ledger_types::{Digest, GroupId, StateKey, VaultRef};
use parking_lot::Mutex;

use crate::snapshots::{SnapshotError, owned_vaults};
use crate::store::Store;
use crate::view::{LiveView, SnapshotView};

/// Bytes of state trees of earlier heights that are kept for the next proof.
const PAST_TREES_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Reads a node's state. Cheap to clone; usable from any thread, though a read may touch the disk.
#[derive(Clone)]
pub struct Reader {
    store: Arc<Store>,
    applier: Arc<Mutex<Applier>>,
    past: Arc<Mutex<PastTrees>>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl Reader {
    pub(crate) fn new(store: Arc<Store>, applier: Arc<Mutex<Applier>>) -> Reader {
        let past = Arc::new(Mutex::new(PastTrees::new(PAST_TREES_BYTES_MAX)));
        Reader { store, applier, past }
    }

    /// A view of all rows as they are now, for several queries that must agree. Short-lived.
    pub fn view(&self) -> SnapshotView<'_> {
        SnapshotView::new(&self.store)
    }

    /// The row of a vault that exists or did: its tip, roots, owner, floors and status.
    pub fn tip(&self, vault: VaultRef) -> Result<VaultRow, QueryError> {
        query::stored_row(&self.view(), vault)
    }

    /// An entity at the tip, whether it has expired or not.
    pub fn entity(&self, vault: VaultRef, key: &str) -> Result<Option<Entity>, QueryError> {
        // Nothing has expired at the beginning of time.
        query::entity(&self.view(), vault, key, None, 0).map(|(_, entity)| entity)
    }

    /// An entity at a height, or at the tip, and that height. Expiry is judged by `clock_ns` (Unix
    /// nanoseconds) or the block's time, as the height demands.
    pub fn entity_at(
        &self,
        vault: VaultRef,
        key: &str,
        at_height: Option<u64>,
        clock_ns: u64,
    ) -> Result<(u64, Option<Entity>), QueryError> {
        let view = self.view();
        let time_s = query::read_time_s(&view, vault, at_height, clock_ns)?;
        query::entity(&view, vault, key, at_height, time_s)
    }

    /// Several entities at the tip, in the order of the keys, and the tip's height.
    pub fn tip_entities(
        &self,
        vault: VaultRef,
        keys: &[String],
        clock_ns: u64,
    ) -> Result<(u64, Vec<Option<Entity>>), QueryError> {
        let view = self.view();
        let time_s = query::read_time_s(&view, vault, None, clock_ns)?;
        query::tip_entities(&view, vault, keys, time_s)
    }

    /// The Unix second at which a read judges expiry; a list fixes it with its first page.
    pub fn read_time_s(
        &self,
        vault: VaultRef,
        at_height: Option<u64>,
        clock_ns: u64,
    ) -> Result<u64, QueryError> {
        query::read_time_s(&self.view(), vault, at_height, clock_ns)
    }

    /// A page of entities.
    pub fn entities(
        &self,
        query: EntityQuery<'_>,
        limits: PageLimits<'_>,
    ) -> Result<Page<Entity>, QueryError> {
        query::entities(&self.view(), query, limits)
    }

    /// A page of relationships.
    pub fn relationships(
        &self,
        query: RelationshipQuery<'_>,
        limits: PageLimits<'_>,
    ) -> Result<Page<Relationship>, QueryError> {
        query::relationships(&self.view(), query, limits)
    }

    /// A page of the resources of one type.
    pub fn resources(
        &self,
        query: ResourceQuery<'_>,
        limits: PageLimits<'_>,
    ) -> Result<Page<String>, QueryError> {
        query::resources(&self.view(), query, limits)
    }

    /// A block with its transactions.
    pub fn block(&self, vault: VaultRef, height: u64) -> Result<StoredBlock, QueryError> {
        query::block(&self.view(), vault, height)
    }

    /// A block's header and its canonical bytes.
    pub fn block_header(
        &self,
        vault: VaultRef,
        height: u64,
    ) -> Result<(BlockHeader, [u8; HEADER_LEN]), QueryError> {
        query::block_header(&self.view(), vault, height)
    }

    /// The inclusion path of block `height` in the block log of `size` blocks.
    pub fn inclusion(
        &self,
        vault: VaultRef,
        height: u64,
        size: u64,
    ) -> Result<Vec<Digest>, QueryError> {
        query::inclusion(&self.view(), vault, height, size)
    }

    /// The root of the block log when it had `size` blocks.
    pub fn log_root(&self, vault: VaultRef, size: u64) -> Result<Digest, QueryError> {
        query::log_root(&self.view(), vault, size)
    }

    /// The consistency path between two sizes of the block log.
    pub fn consistency(
        &self,
        vault: VaultRef,
        old_size: u64,
        new_size: u64,
    ) -> Result<Vec<Digest>, QueryError> {
        query::consistency(&self.view(), vault, old_size, new_size)
    }

    /// The vaults that a group owns here, in order. Errors if the store cannot be read or a row is malformed.
    pub fn owned_vaults(&self, group: GroupId) -> Result<Vec<VaultRef>, SnapshotError> {
        owned_vaults(&self.view(), group)
    }

    /// The last sequence that a client committed on a vault; 0 for none.
    pub fn client_sequence(&self, vault: VaultRef, client: &str) -> Result<u64, QueryError> {
        query::client_sequence(&self.view(), vault, client)
    }

    /// Proves a vault's tip and what it holds for `keys`, and the way from `known_size` blocks to it.
    /// Waits for the batch that is being applied, and holds back the next one meanwhile.
    pub fn prove(
        &self,
        vault: VaultRef,
        keys: &[StateKey],
        known_size: Option<u64>,
    ) -> Result<TipProof, QueryError> {
        let mut applier = self.applier.lock();
        applier.prove(vault, keys, known_size, &LiveView::new(&self.store))
    }

    /// [`Reader::prove`], unless the state machine is busy and the caller would have to wait: `None` then.
    pub fn try_prove(
        &self,
        vault: VaultRef,
        keys: &[StateKey],
        known_size: Option<u64>,
    ) -> Option<Result<TipProof, QueryError>> {
        let mut applier = self.applier.try_lock()?;
        Some(applier.prove(vault, keys, known_size, &LiveView::new(&self.store)))
    }

    /// Proves a list at a vault's tip, or a page of it, and the way from `known_size` blocks to the tip. `None`
    /// if the key that the caller kept is not there. Holds the state machine as [`Reader::prove`] does.
    pub fn prove_list(
        &self,
        vault: VaultRef,
        request: &ListRequest<'_>,
        known_size: Option<u64>,
    ) -> Result<Option<ProvedList>, QueryError> {
        let mut applier = self.applier.lock();
        applier.prove_list(vault, request, known_size, &LiveView::new(&self.store))
    }

    /// Proves what the state after block `height` held for `keys`, in a log of `sizes`. The first proof of a
    /// height reads stored pages and the blocks between; nothing waits meanwhile.
    pub fn prove_at(
        &self,
        vault: VaultRef,
        height: u64,
        keys: &[StateKey],
        sizes: LogSizes,
    ) -> Result<StateProof, QueryError> {
        self.with_past(vault, height, |tree, view| tree.prove(view, keys, sizes))
    }

    /// Proves a list of the state after block `height`, or a page of it. `None` if the key that the caller
    /// kept was not there.
    pub fn prove_list_at(
        &self,
        vault: VaultRef,
        height: u64,
        request: &ListRequest<'_>,
        sizes: LogSizes,
    ) -> Result<Option<ProvedList>, QueryError> {
        self.with_past(vault, height, |tree, view| tree.prove_list(view, request, sizes))
    }

    /// Works on the tree of a height: one that is kept, or one opened now. The lock is not held meanwhile.
    fn with_past<T>(
        &self,
        vault: VaultRef,
        height: u64,
        work: impl FnOnce(&mut PastTree, &SnapshotView<'_>) -> Result<T, QueryError>,
    ) -> Result<T, QueryError> {
        let view = self.view();
        let kept = self.past.lock().take(vault, height);
        let mut tree = match kept {
            Some(tree) => tree,
            None => PastTree::open(&view, vault, height, PAST_KEYS_MAX)?,
        };
        let done = work(&mut tree, &view);
        if !matches!(done, Err(QueryError::Fault(_))) {
            self.past.lock().put(tree);
        }
        done
    }
}
