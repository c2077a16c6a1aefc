//! A vault's state in memory: its row, the edge of its block log and its state tree.
//!
//! Owns how that state is born, read back and brought up to date after a crash. Must never be the only
//! place of anything: dropping it loses nothing but time.

use std::collections::BTreeSet;

use ledger_proof::header::HEADER_LEN;
use ledger_proof::{
    BlockHeader, Descriptor, EntryPosition, Frontier, LogNodes, PageWrite, ReadFault, Record,
    StateTree, Transaction, TreeStore, hash,
};
use ledger_types::{Digest, GroupId, OwnerEpoch, StateKey, VaultRef};

use super::changed_keys::add_changed_keys;
use crate::rows::{
    LogNodeRow, OwnedRow, OwnedState, RECORD_LEN, RetiredPage, VaultRow, VaultStatus,
    block_body_key, block_header_key, block_log_node_key, decode_body, latest_key, owned_row_key,
    prefix_end, retired_page_key, tree_anchor_key, tree_page_key, vault_row_key,
};
use crate::view::{Family, RowWrite, StateView};

/// Keys that a recovering tree takes in at once.
const RECONCILE_KEYS_MAX: usize = 16_384;
/// What a changed key costs in pages, estimated, to bound the bytes that a flush writes.
const PAGE_BYTES_PER_KEY: u64 = 300;
/// Memory of a vault's state beside its tree, estimated.
const FIXED_BYTES: usize = 1024;

/// A vault's state in memory.
pub(crate) struct VaultState {
    /// The vault's row as of the last block.
    pub row: VaultRow,
    /// The block log's right edge.
    pub frontier: Frontier,
    /// The state tree.
    pub tree: StateTree,
    /// Time of the block at the session floor, if it was read.
    pub session_floor_time_ns: Option<u64>,
    /// Changed keys since the tree was flushed.
    pub keys_since_flush: u64,
}

impl VaultState {
    /// Reads a vault back; `None` if there is no such vault. After an unclean stop the tree catches up with
    /// the blocks above its anchor.
    pub(crate) fn load(
        vault: VaultRef,
        view: &dyn StateView,
    ) -> Result<Option<Box<VaultState>>, ReadFault> {
        let Some(row) = stored_vault_row(view, vault)? else { return Ok(None) };
        if row.status == VaultStatus::Purged {
            return Ok(Some(Box::new(VaultState::purged(row))));
        }
        let frontier = Frontier::load(row.log_size, &StoredLog { view, vault })?;
        if frontier.root() != row.log_root {
            return Err(ReadFault::Corrupt { what: "the block log has another root than its row" });
        }
        let mut tree = StateTree::open(&row.tree_anchor);
        let keys_since_flush = catch_up(&mut tree, vault, &row, view)?;
        if tree.root() != row.state_root || tree.leaf_count() != row.state_keys {
            return Err(ReadFault::Corrupt {
                what: "the state tree has another root than its row",
            });
        }
        let session_floor_time_ns = None;
        let state = VaultState { row, frontier, tree, session_floor_time_ns, keys_since_flush };
        Ok(Some(Box::new(state)))
    }

    /// The state of a vault of which nothing but its row is left.
    pub(crate) fn purged(row: VaultRow) -> VaultState {
        let (frontier, tree) = (Frontier::new(), StateTree::open(&row.tree_anchor));
        VaultState { row, frontier, tree, session_floor_time_ns: None, keys_since_flush: 0 }
    }

    /// Bytes of memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.tree.memory_bytes() + FIXED_BYTES
    }

    /// Estimated bytes of the pages that a flush would write.
    pub(crate) fn unflushed_bytes(&self) -> u64 {
        self.keys_since_flush.saturating_mul(PAGE_BYTES_PER_KEY)
    }

    /// Blocks whose changes are in no page yet.
    pub(crate) fn unflushed_blocks(&self) -> u64 {
        self.row.height - self.row.tree_anchor.height
    }

    /// Writes the tree's changed pages and moves the anchor; the vault's row must go into the same batch. The
    /// anchor before it and the pages that only it leads to stay, for proofs at earlier heights.
    pub(crate) fn flush_tree(&mut self, vault: VaultRef, rows: &mut Vec<RowWrite>) {
        let retired_height = self.row.height;
        let mut put = |key, value| {
            rows.push(RowWrite { family: Family::Tree, key, value: Some(value) });
        };
        let anchor = self.tree.flush(self.row.height, |page| match page {
            PageWrite::Put { id, height, bytes } => put(tree_page_key(vault, id, height), bytes),
            PageWrite::Retire { id, height } => {
                let page = RetiredPage { retired_height, id, height };
                put(retired_page_key(vault, page), Vec::new());
            }
        });
        let before = std::mem::replace(&mut self.row.tree_anchor, anchor);
        // Genesis needs no row: its one key is known.
        if before.height > 0 && before.height < self.row.height {
            put(tree_anchor_key(vault, before.height), before.encode());
        }
        self.keys_since_flush = 0;
    }

    /// Appends a block to the block log and tells the rows of the nodes that became complete.
    pub(crate) fn append_to_log(
        &mut self,
        vault: VaultRef,
        block: Digest,
        rows: &mut Vec<RowWrite>,
    ) {
        self.frontier.append(block, |level, index, node| {
            if level > 0 {
                let key = block_log_node_key(vault, LogNodeRow { level, index });
                let value = Some(node.0.to_vec());
                rows.push(RowWrite { family: Family::Blocks, key, value });
            }
        });
        self.row.log_size = self.frontier.size();
        self.row.log_root = self.frontier.root();
    }
}

/// A vault at its genesis: the state, the first header, and what is stored with it.
pub(crate) struct Born {
    pub state: Box<VaultState>,
    pub header: BlockHeader,
    pub header_bytes: [u8; HEADER_LEN],
    /// The descriptor's key and row.
    pub descriptor: (StateKey, Vec<u8>),
    /// The owned table's line.
    pub owned: RowWrite,
}

/// Makes a vault that begins at a log entry.
pub(crate) fn born(
    vault: VaultRef,
    owner_epoch: OwnerEpoch,
    position: EntryPosition,
    retention_blocks: u64,
) -> Born {
    let descriptor =
        Descriptor { vault, log_epoch: 0, last_recovery_height: 0, old_note: Digest::ZERO };
    let value = descriptor.encode();
    let record = Record {
        created_height: 0,
        modified_height: 0,
        modified_tx: 0,
        expires_at: 0,
        previous_record_hash: Digest::ZERO,
        value_hash: hash::plain(&value),
    };
    let key = StateKey::descriptor();
    let mut tree = StateTree::empty();
    let store = NoRows;
    tree.apply(&[(key.as_bytes(), Some(record.hash()))], &store)
        .expect("an empty tree reads nothing");
    let header = BlockHeader::genesis(vault, tree.root(), tree.leaf_count(), position);
    let header_bytes = header.encode();
    let block_hash = hash::leaf(&header_bytes);
    let mut frontier = Frontier::new();
    frontier.append(block_hash, |_, _, _| {});
    let tree_anchor = tree.flush(0, |_| unreachable!("one leaf needs no page"));
    let owner = GroupId(position.shard);
    let row = VaultRow {
        owner,
        owner_epoch,
        applied_index: position.index,
        height: 0,
        block_hash,
        log_size: frontier.size(),
        log_root: frontier.root(),
        state_root: header.state_root,
        state_keys: header.state_keys,
        block_time_ns: position.timestamp_ns,
        tree_anchor,
        retention_floor: 0,
        history_floor: 0,
        session_floor_height: 1,
        session_rows: 0,
        log_epoch: 0,
        status: VaultStatus::Active,
        deleted_at_ns: 0,
        retention_blocks,
    };
    let owned = RowWrite {
        family: Family::Vaults,
        key: owned_row_key(owner, vault),
        value: Some(OwnedRow { owner_epoch, state: OwnedState::Active }.encode()),
    };
    let (session_floor_time_ns, keys_since_flush) = (None, 0);
    let state = VaultState { row, frontier, tree, session_floor_time_ns, keys_since_flush };
    let descriptor = (key, [&record.encode()[..], &value].concat());
    Born { state: Box::new(state), header, header_bytes, descriptor, owned }
}

/// The rows of a vault that begins at a log entry, for one whose first entry no log holds: `_system`.
/// `position` names the owner group, the entry's term and index, and the genesis time.
pub fn genesis_rows(
    vault: VaultRef,
    owner_epoch: OwnerEpoch,
    position: EntryPosition,
) -> Vec<RowWrite> {
    let born = born(vault, owner_epoch, position, 0);
    let put = |family, key, value| RowWrite { family, key, value: Some(value) };
    let (key, row) = born.descriptor;
    vec![
        put(Family::Vaults, vault_row_key(vault), born.state.row.encode()),
        born.owned,
        put(Family::Latest, latest_key(vault, key.as_bytes()), row),
        put(Family::Blocks, block_header_key(vault, 0), born.header_bytes.to_vec()),
    ]
}

/// Sets the keys that blocks above the anchor changed to what their rows say; returns how many.
fn catch_up(
    tree: &mut StateTree,
    vault: VaultRef,
    row: &VaultRow,
    view: &dyn StateView,
) -> Result<u64, ReadFault> {
    let store = StoredState { view, vault };
    let mut keys = BTreeSet::new();
    let mut changed = 0;
    for height in row.tree_anchor.height + 1..=row.height {
        let body = stored_body(view, vault, height)?;
        add_changed_keys(&body, &mut keys)?;
        if keys.len() >= RECONCILE_KEYS_MAX || height == row.height {
            let batch: Vec<StateKey> = std::mem::take(&mut keys).into_iter().collect();
            tree.reconcile(&batch, &store)?;
            changed += batch.len() as u64;
        }
    }
    Ok(changed)
}

/// A vault's row in the store.
pub(crate) fn stored_vault_row(
    view: &dyn StateView,
    vault: VaultRef,
) -> Result<Option<VaultRow>, ReadFault> {
    let corrupt = |_| ReadFault::Corrupt { what: "a vault row is malformed" };
    let value = view.get(Family::Vaults, &vault_row_key(vault))?;
    value.map(|value| VaultRow::decode(&value).map_err(corrupt)).transpose()
}

/// The canonical bytes of a stored header.
pub(crate) fn stored_header_bytes(
    view: &dyn StateView,
    vault: VaultRef,
    height: u64,
) -> Result<[u8; HEADER_LEN], ReadFault> {
    let value = view.get(Family::Blocks, &block_header_key(vault, height))?;
    let missing = ReadFault::Corrupt { what: "a block header is missing or has another length" };
    value.and_then(|value| value.try_into().ok()).ok_or(missing)
}

/// A stored header.
pub(crate) fn stored_header(
    view: &dyn StateView,
    vault: VaultRef,
    height: u64,
) -> Result<BlockHeader, ReadFault> {
    let corrupt = |_| ReadFault::Corrupt { what: "a block header is malformed" };
    BlockHeader::decode(&stored_header_bytes(view, vault, height)?).map_err(corrupt)
}

/// A stored body.
pub(crate) fn stored_body(
    view: &dyn StateView,
    vault: VaultRef,
    height: u64,
) -> Result<Vec<u8>, ReadFault> {
    let value = view.get(Family::Blocks, &block_body_key(vault, height))?;
    value.ok_or(ReadFault::Corrupt { what: "a block body is missing" })
}

/// The transactions of a stored body.
pub(crate) fn stored_transactions(body: &[u8]) -> Result<Vec<Transaction>, ReadFault> {
    let corrupt = |_| ReadFault::Corrupt { what: "a block body is malformed" };
    let transactions = decode_body(body).map_err(corrupt)?;
    transactions.into_iter().map(|bytes| Transaction::decode(bytes).map_err(corrupt)).collect()
}

/// A vault's block log in the store. Level 0 is the headers' hashes.
pub(crate) struct StoredLog<'a> {
    pub view: &'a dyn StateView,
    pub vault: VaultRef,
}

impl LogNodes for StoredLog<'_> {
    fn node(&self, level: u8, index: u64) -> Result<Digest, ReadFault> {
        if level == 0 {
            return Ok(hash::leaf(&stored_header_bytes(self.view, self.vault, index)?));
        }
        let key = block_log_node_key(self.vault, LogNodeRow { level, index });
        let node = self.view.get(Family::Blocks, &key)?;
        let missing = ReadFault::Corrupt { what: "a block-log node is missing" };
        node.and_then(|bytes| Digest::from_slice(&bytes)).ok_or(missing)
    }
}

/// A vault's state rows and tree pages in the store.
pub(crate) struct StoredState<'a> {
    pub view: &'a dyn StateView,
    pub vault: VaultRef,
}

impl TreeStore for StoredState<'_> {
    fn page(&self, id: u64, height: u64) -> Result<Option<Vec<u8>>, ReadFault> {
        self.view.get(Family::Tree, &tree_page_key(self.vault, id, height))
    }

    fn scan(
        &self,
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ReadFault> {
        let first = latest_key(self.vault, from);
        let end = prefix_end(&self.vault.to_bytes());
        self.view.scan(Family::Latest, &first, &end, &mut |key, row| {
            // A row too short for a record is shown as it is: the tree refuses it by its length.
            visit(&key[VaultRef::LEN..], &row[..row.len().min(RECORD_LEN)])
        })
    }
}

/// The rows of a vault that has none.
struct NoRows;

impl TreeStore for NoRows {
    fn page(&self, _: u64, _: u64) -> Result<Option<Vec<u8>>, ReadFault> {
        Ok(None)
    }

    fn scan(&self, _: &[u8], _: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), ReadFault> {
        Ok(())
    }
}
