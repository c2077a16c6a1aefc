//! The vault states kept in memory between rounds, with one budget for all of them.
//!
//! Owns which vaults stay and which go. What goes is read back on the next touch, so a decision here is never
//! visible in rows that replicas compare. Must never drop a tree whose changes are in no page and would have
//! to be found again block by block, as long as a flush can be asked for instead.

use std::collections::BTreeMap;

use ledger_proof::ReadFault;
use ledger_types::VaultRef;

use super::flush::flush;
use super::round::vault_row;
use super::vault_state::VaultState;
use crate::view::{RowWrite, StateView};

/// Most vaults that one round flushes to make room.
const FLUSHES_PER_ROUND: usize = 64;
/// Most vaults that one round looks at to give memory back.
const TRIMS_PER_ROUND: usize = 256;
/// Trees smaller than this are kept or dropped as a whole, in bytes.
const PARTIAL_BYTES_MIN: usize = 64 * 1024;

struct Cached {
    state: Box<VaultState>,
    used: u64,
    bytes: usize,
}

/// Vault states by vault, and by when they were last used.
pub(crate) struct VaultCache {
    vaults: BTreeMap<VaultRef, Cached>,
    by_use: BTreeMap<u64, VaultRef>,
    clock: u64,
    bytes: usize,
    bytes_max: usize,
}

impl VaultCache {
    /// An empty cache of at most about `bytes_max` bytes.
    pub(crate) fn new(bytes_max: usize) -> VaultCache {
        let (vaults, by_use) = (BTreeMap::new(), BTreeMap::new());
        VaultCache { vaults, by_use, clock: 0, bytes: 0, bytes_max }
    }

    /// Bytes held.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a vault's state out for a round.
    pub(crate) fn take(&mut self, vault: VaultRef) -> Option<Box<VaultState>> {
        let cached = self.vaults.remove(&vault)?;
        self.by_use.remove(&cached.used);
        self.bytes -= cached.bytes;
        Some(cached.state)
    }

    /// Puts a vault's state in as the one used last.
    pub(crate) fn put(&mut self, vault: VaultRef, state: Box<VaultState>) {
        self.clock += 1;
        let (used, bytes) = (self.clock, state.memory_bytes());
        self.by_use.insert(used, vault);
        self.bytes += bytes;
        let before = self.vaults.insert(vault, Cached { state, used, bytes });
        assert!(before.is_none(), "a vault's state is in one place");
    }

    /// Over budget: writes the pages of the vaults unused for longest, so that [`VaultCache::trim`] can drop
    /// them once these rows are in the store.
    pub(crate) fn flush_for_room(
        &mut self,
        history_blocks: Option<u64>,
        view: &dyn StateView,
        rows: &mut Vec<RowWrite>,
    ) -> Result<(), ReadFault> {
        let excess = self.excess();
        let (mut reclaimable, mut flushes) = (0, 0);
        for vault in self.by_use.values() {
            if reclaimable >= excess || flushes == FLUSHES_PER_ROUND {
                break;
            }
            let cached = self.vaults.get_mut(vault).expect("both maps name the same vaults");
            reclaimable += cached.bytes;
            if cached.state.keys_since_flush > 0 {
                flush(*vault, &mut cached.state, history_blocks, view, rows)?;
                rows.push(vault_row(*vault, &cached.state));
                flushes += 1;
            }
        }
        Ok(())
    }

    /// Over budget: drops flushed vaults unused for longest, and parts of the tree of one that is larger than
    /// what there is to free. The store must hold every row of the cached states.
    pub(crate) fn trim(&mut self) {
        let mut excess = self.excess();
        let oldest_first: Vec<VaultRef> = self
            .by_use
            .values()
            .copied()
            .take(if excess > 0 { TRIMS_PER_ROUND } else { 0 })
            .collect();
        for vault in oldest_first {
            if excess == 0 {
                break;
            }
            let cached = self.vaults.get_mut(&vault).expect("both maps name the same vaults");
            let is_flushed = cached.state.keys_since_flush == 0;
            let before = cached.bytes;
            if is_flushed && (before <= excess || before < PARTIAL_BYTES_MIN) {
                self.take(vault);
                excess = excess.saturating_sub(before);
            } else if before >= PARTIAL_BYTES_MIN {
                cached.state.tree.evict(before.saturating_sub(excess));
                cached.bytes = cached.state.memory_bytes();
                self.bytes = self.bytes - before + cached.bytes;
                excess = excess.saturating_sub(before.saturating_sub(cached.bytes));
            }
        }
    }

    /// Bytes to give back: none within the budget; over it, half of it, because finding what to drop walks
    /// the whole tree and must not come with every round.
    fn excess(&self) -> usize {
        if self.bytes <= self.bytes_max { 0 } else { self.bytes - self.bytes_max / 2 }
    }
}
