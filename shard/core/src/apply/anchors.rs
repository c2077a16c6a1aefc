//! The anchors of a vault's stored tree: one for each flush that is kept, the newest in the vault's row.
//!
//! Owns finding the anchors around a height. Must never write one.

use ledger_proof::{ReadFault, TreeAnchor};
use ledger_types::VaultRef;

use crate::rows::{TreeRow, VaultRow, split_tree_key, tree_anchor_range};
use crate::view::{Family, StateView};

/// How far below a height its anchor is looked for first, in blocks. By default a vault is flushed within as many.
const FIRST_STEP: u64 = 256;

/// A vault's anchors in a view.
pub(crate) struct Anchors<'a> {
    pub view: &'a dyn StateView,
    pub vault: VaultRef,
    /// The vault's row in this view.
    pub row: &'a VaultRow,
}

impl Anchors<'_> {
    /// The first anchor at or above a height.
    pub(crate) fn at_or_above(&self, height: u64) -> Result<Option<TreeAnchor>, ReadFault> {
        let (from, end) = tree_anchor_range(self.vault, height);
        let mut found = None;
        self.view.scan(Family::Tree, &from, &end, &mut |key, value| {
            found = Some(decode(key, value));
            false
        })?;
        let newest = &self.row.tree_anchor;
        Ok(found.transpose()?.or_else(|| (newest.height >= height).then(|| newest.clone())))
    }

    /// The last anchor at or below a height. Below all others is that of the empty tree: the state of genesis
    /// is a single key, and what blocks changed since is in their bodies.
    pub(crate) fn at_or_below(&self, height: u64) -> Result<TreeAnchor, ReadFault> {
        if self.row.tree_anchor.height <= height {
            return Ok(self.row.tree_anchor.clone());
        }
        // Rows are read in ascending order only: steps back until there is one, then halves of the step.
        let (mut step, mut low) = (FIRST_STEP, height);
        let mut found = loop {
            match self.first_within(low.saturating_sub(step), low)? {
                Some(anchor) => break anchor,
                None if low <= step => return Ok(TreeAnchor::empty()),
                None => (low, step) = (low - step, step.saturating_mul(2)),
            }
        };
        let mut high = low;
        while found.height < high {
            let middle = found.height + (high - found.height).div_ceil(2);
            match self.first_within(middle, high)? {
                Some(anchor) => found = anchor,
                None => high = middle - 1,
            }
        }
        Ok(found)
    }

    fn first_within(&self, from: u64, to: u64) -> Result<Option<TreeAnchor>, ReadFault> {
        Ok(self.at_or_above(from)?.filter(|anchor| anchor.height <= to))
    }
}

fn decode(key: &[u8], value: &[u8]) -> Result<TreeAnchor, ReadFault> {
    let corrupt = ReadFault::Corrupt { what: "an anchor of the state tree is malformed" };
    let anchor = TreeAnchor::decode(value).map_err(|_| corrupt.clone())?;
    match split_tree_key(key) {
        Some(TreeRow::Anchor { height }) if height == anchor.height => Ok(anchor),
        _ => Err(corrupt),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::apply::tests_harness::{Machine, vault};
    use crate::rows::tree_anchor_key;
    use crate::view::RowWrite;

    fn anchor(height: u64) -> TreeAnchor {
        TreeAnchor { height, leaf_count: 1, ..TreeAnchor::empty() }
    }

    proptest! {
        #[test]
        fn the_nearest_anchors_are_found(
            heights in prop::collection::btree_set(1..4000u64, 1..20),
            asked in prop::collection::vec(0..4200u64, 40),
        ) {
            let mut machine = Machine::new();
            let (newest, stored) = (*heights.last().unwrap(), heights.iter().rev().skip(1));
            machine.rows.write(stored.map(|&height| RowWrite {
                family: Family::Tree,
                key: tree_anchor_key(vault(), height),
                value: Some(anchor(height).encode()),
            }));
            let row = VaultRow { tree_anchor: anchor(newest), ..machine.vault_row(vault()) };
            let anchors = Anchors { view: &machine.rows, vault: vault(), row: &row };
            for height in asked.into_iter().chain(heights.iter().copied()) {
                let above = heights.range(height..).next().map(|height| anchor(*height));
                prop_assert_eq!(anchors.at_or_above(height), Ok(above));
                let below = heights.range(..=height).next_back().map(|height| anchor(*height));
                let below = below.unwrap_or(TreeAnchor::empty());
                prop_assert_eq!(anchors.at_or_below(height), Ok(below), "at {}", height);
            }
        }
    }

    #[test]
    fn an_anchor_under_another_height_is_corrupt() {
        let mut machine = Machine::new();
        let (family, key) = (Family::Tree, tree_anchor_key(vault(), 3));
        machine.rows.write([RowWrite { family, key, value: Some(anchor(4).encode()) }]);
        let row = VaultRow { tree_anchor: anchor(9), ..machine.vault_row(vault()) };
        let anchors = Anchors { view: &machine.rows, vault: vault(), row: &row };
        assert!(anchors.at_or_above(2).is_err() && anchors.at_or_below(5).is_err());
        assert_eq!(anchors.at_or_above(4), Ok(Some(anchor(9))));
    }
}
