//! Flushes of a vault's state tree, and what may be forgotten with them.
//!
//! Owns the order in which rows go that only heights below the vault's floor needed. Must never delete a row
//! that a read at or above the floor looks at, nor one that the vault needs to catch up after a crash.

use ledger_proof::ReadFault;
use ledger_types::VaultRef;

use super::anchors::Anchors;
use super::changed_keys::superseded_by;
use super::vault_state::{VaultState, stored_body, stored_vault_row};
use crate::rows::{
    RetiredPage, TreeRow, VaultRow, history_key, retired_page_range, split_tree_key,
    tree_anchor_key, tree_page_key,
};
use crate::view::{Family, RowWrite, StateView};

/// Rows that one flush deletes at most, or twice the changed keys that it writes if they are more: a vault
/// forgets at least as fast as it grows. Whatever one block or one flush left goes together and may be over it.
const DELETES_MIN: u64 = 1024;

/// Writes a vault's tree pages; then raises its floor to what its own rule and this node's `history_blocks` both
/// let go, as far as the rows that this frees can be deleted now. The floor never goes back. `view` is the store
/// with every earlier round written; the vault's row must go into the same batch.
pub(super) fn flush(
    vault: VaultRef,
    state: &mut VaultState,
    history_blocks: Option<u64>,
    view: &dyn StateView,
    rows: &mut Vec<RowWrite>,
) -> Result<(), ReadFault> {
    let budget = DELETES_MIN.max(state.keys_since_flush.saturating_mul(2));
    state.flush_tree(vault, rows);
    // The directory is small, and what trust was once put in stays provable.
    let history_blocks = heights_below_tip(history_blocks, state.row.retention_blocks);
    let history_blocks = history_blocks.filter(|_| vault != VaultRef::SYSTEM);
    let Some(history_blocks) = history_blocks else { return Ok(()) };
    // What this round wrote cannot be found in the view yet and waits for the next flush.
    let Some(stored) = stored_vault_row(view, vault)? else { return Ok(()) };
    let target = state.row.height.saturating_sub(history_blocks).min(stored.height);
    let mut pruning = Pruning { vault, view, rows, left: budget };
    state.row.history_floor = pruning.history(state.row.history_floor, target)?;
    pruning.left = budget;
    pruning.pages(&stored, state.row.history_floor)
}

/// How many heights below the tip stay readable: the fewer of what a node keeps of every vault and of what one was
/// made to keep, whose number counts the tip itself. `None` keeps all.
fn heights_below_tip(of_node: Option<u64>, retention_blocks: u64) -> Option<u64> {
    let of_vault = retention_blocks.checked_sub(1);
    of_node.into_iter().chain(of_vault).min()
}

struct Pruning<'a> {
    vault: VaultRef,
    view: &'a dyn StateView,
    rows: &'a mut Vec<RowWrite>,
    /// Rows that may still be deleted.
    left: u64,
}

impl Pruning<'_> {
    /// Deletes superseded records block by block; returns the floor that this makes. A record that block `h`
    /// superseded was last visible at `h - 1`. Their keys follow from the body, which is cheaper than an index
    /// with a row for each of them.
    fn history(&mut self, floor: u64, target: u64) -> Result<u64, ReadFault> {
        let mut floor = floor;
        while floor < target && self.left > 0 {
            floor += 1;
            let superseded = superseded_by(&stored_body(self.view, self.vault, floor)?)?;
            self.left = self.left.saturating_sub(superseded.len().max(1) as u64);
            for (key, tx) in superseded {
                let key = history_key(self.vault, key.as_bytes(), floor, tx);
                self.delete(Family::History, key);
            }
        }
        Ok(floor)
    }

    /// Deletes the oldest anchor, and the pages that the next one does without, as long as the next one serves
    /// the floor too. So the oldest anchor that is kept always has all its pages.
    fn pages(&mut self, stored: &VaultRow, floor: u64) -> Result<(), ReadFault> {
        let anchors = Anchors { view: self.view, vault: self.vault, row: stored };
        let Some(mut oldest) = anchors.at_or_above(0)? else { return Ok(()) };
        while self.left > 0 && oldest.height < floor {
            let Some(next) = anchors.at_or_above(oldest.height + 1)? else { break };
            if next.height > floor {
                break;
            }
            self.retired(next.height)?;
            self.delete(Family::Tree, tree_anchor_key(self.vault, oldest.height));
            oldest = next;
        }
        Ok(())
    }

    /// Deletes what the flush at a height retired.
    fn retired(&mut self, height: u64) -> Result<(), ReadFault> {
        let (from, end) = retired_page_range(self.vault, height);
        let mut keys = Vec::new();
        self.view.scan(Family::Tree, &from, &end, &mut |key, _| {
            keys.push(key.to_vec());
            true
        })?;
        self.left = self.left.saturating_sub(2 * keys.len() as u64 + 1);
        for key in keys {
            let Some(TreeRow::Retired(RetiredPage { id, height, .. })) = split_tree_key(&key)
            else {
                let what = "the key of a retired page is malformed";
                return Err(ReadFault::Corrupt { what });
            };
            self.delete(Family::Tree, tree_page_key(self.vault, id, height));
            self.delete(Family::Tree, key);
        }
        Ok(())
    }

    fn delete(&mut self, family: Family, key: Vec<u8>) {
        self.rows.push(RowWrite { family, key, value: None });
    }
}
