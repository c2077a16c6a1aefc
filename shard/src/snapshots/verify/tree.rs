//! The stored state tree of a vault in a received snapshot: anchors, pages, and what was retired when.
//!
//! Owns that every row of the family belongs to a tree that an anchor leads to, and that nothing is named as
//! retired that a later tree still reads. Must never load leaves: those of the newest tree are looked up elsewhere,
//! and a proof at an earlier height compares them with its header when it is asked for.

use std::collections::BTreeSet;

use ledger_proof::{PageReference, PageSummary, ReadFault, TreeAnchor};
use ledger_shard_core::query;
use ledger_shard_core::rows::{
    RetiredPage, TreeRow, VaultRow, retired_page_key, split_tree_key, tree_anchor_range,
    tree_page_key,
};
use ledger_shard_core::view::{Family, StateView};
use ledger_types::VaultRef;

use super::super::error::{SnapshotError, VerifyError};
use super::super::staged_rows::StagedRows;
use super::vault_rows;

/// Rows of each kind in the tree family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Counts {
    anchors: u64,
    pages: u64,
    retired: u64,
}

/// Checks a vault's rows of the tree family; tells how many there are.
pub(super) fn check(
    rows: &StagedRows,
    vault: VaultRef,
    row: &VaultRow,
) -> Result<u64, SnapshotError> {
    let found = count(rows, vault)?;
    let mut walk = Walk { rows, vault, expected: Counts::default() };
    let mut before: Option<TreeAnchor> = None;
    let (from, end) = tree_anchor_range(vault, 0);
    let mut anchors = rows.range(Family::Tree, &from, &end);
    while let Some((key, value)) = anchors.next()? {
        let anchor = TreeAnchor::decode(value).map_err(|_| walk.wrong("an anchor is malformed"))?;
        let is_its_own = split_tree_key(key) == Some(TreeRow::Anchor { height: anchor.height });
        if !is_its_own || anchor.height >= row.tree_anchor.height {
            return Err(
                walk.wrong("an anchor has another height than its key, or is no earlier one")
            );
        }
        walk.expected.anchors += 1;
        walk.tree(before.as_ref(), &anchor)?;
        before = Some(anchor);
    }
    walk.tree(before.as_ref(), &row.tree_anchor)?;
    if found != walk.expected {
        let expected = walk.expected;
        let detail = format!("its trees have {expected:?}, but there are {found:?}");
        return Err(VerifyError::Tree { vault, detail }.into());
    }
    Ok(found.anchors + found.pages + found.retired)
}

fn count(rows: &StagedRows, vault: VaultRef) -> Result<Counts, SnapshotError> {
    let mut counts = Counts::default();
    let mut family = vault_rows(rows, Family::Tree, vault);
    while let Some((key, _)) = family.next()? {
        match split_tree_key(key) {
            Some(TreeRow::Anchor { .. }) => counts.anchors += 1,
            Some(TreeRow::Page { .. }) => counts.pages += 1,
            Some(TreeRow::Retired(_)) => counts.retired += 1,
            None => {
                let detail = "a row of its tree is none that is known".to_owned();
                return Err(VerifyError::Tree { vault, detail }.into());
            }
        }
    }
    Ok(counts)
}

/// Goes through the trees from the oldest to the newest. Reads each page when it was new and when it was retired,
/// so that memory depends on what one flush changed and not on how many there were.
struct Walk<'a> {
    rows: &'a StagedRows,
    vault: VaultRef,
    expected: Counts,
}

impl Walk<'_> {
    fn wrong(&self, detail: &str) -> SnapshotError {
        VerifyError::Tree { vault: self.vault, detail: detail.to_owned() }.into()
    }

    /// Checks the tree of an anchor, given that of the one before it.
    fn tree(
        &mut self,
        before: Option<&TreeAnchor>,
        anchor: &TreeAnchor,
    ) -> Result<(), SnapshotError> {
        let header = query::block_header(self.rows, self.vault, anchor.height);
        let header = header.map(|(header, _)| (header.state_root, header.state_keys));
        if header.ok() != Some((anchor.root, anchor.leaf_count)) {
            return Err(self.wrong("an anchor is not of the block at its height"));
        }
        // Pages that this tree has from the one before. What is below one of these was not changed either.
        let mut taken_over = BTreeSet::new();
        let mut waiting = Vec::from_iter(root_of(anchor));
        while let Some(page) = waiting.pop() {
            if before.is_some_and(|before| page.height <= before.height) {
                taken_over.insert((page.id, page.height));
                continue;
            }
            if page.height > anchor.height || (before.is_some() && page.height != anchor.height) {
                return Err(self.wrong("a page is of no flush that leads to it"));
            }
            self.expected.pages += 1;
            waiting.extend(self.read(page)?);
        }
        let Some(before) = before else { return Ok(()) };
        let mut waiting = Vec::from_iter(root_of(before));
        while let Some(page) = waiting.pop() {
            if taken_over.remove(&(page.id, page.height)) {
                continue;
            }
            let (retired_height, PageReference { id, height, .. }) = (anchor.height, page);
            let key = retired_page_key(self.vault, RetiredPage { retired_height, id, height });
            if self.rows.get(Family::Tree, &key)?.is_none_or(|value| !value.is_empty()) {
                return Err(self.wrong("a page is in no later tree and not named as retired"));
            }
            self.expected.retired += 1;
            waiting.extend(self.read(page)?);
        }
        match taken_over.is_empty() {
            true => Ok(()),
            false => Err(self.wrong("a page is older than its tree, but not of the one before")),
        }
    }

    /// Reads a page that must commit to what leads to it, and tells the pages below.
    fn read(&self, page: PageReference) -> Result<Vec<PageReference>, SnapshotError> {
        let bytes =
            self.rows.get(Family::Tree, &tree_page_key(self.vault, page.id, page.height))?;
        let bytes = bytes.ok_or_else(|| self.wrong("a page is missing"))?;
        let summary = PageSummary::read(&bytes);
        match summary {
            Ok(found) if (found.root, found.leaf_count) == (page.root, page.leaf_count) => {
                Ok(found.pages)
            }
            Ok(_) => Err(self.wrong("a page has another hash or count than what leads to it")),
            Err(ReadFault::Corrupt { what }) => Err(self.wrong(what)),
            Err(other) => Err(other.into()),
        }
    }
}

fn root_of(anchor: &TreeAnchor) -> Option<PageReference> {
    let TreeAnchor { root, leaf_count, .. } = *anchor;
    anchor.root_page.map(|(id, height)| PageReference { id, height, root, leaf_count })
}
