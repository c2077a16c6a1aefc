//! Bringing buckets and pages into memory, each checked against what its parent commits to.

use ledger_types::Digest;

use super::arena::{Branch, NO_PAGE, NodeId, StoredPage};
use super::assembly::{Assembly, EqualSeparators};
use super::page::{self, EntryKind};
use super::{BUCKET_LEAVES, Bucket, RowsAt, StateTree, TreeStore, bits};
use crate::hash;
use crate::read_fault::ReadFault;
use crate::record::RECORD_LEN;

/// A leaf as its row gives it.
struct RowLeaf {
    key: Box<[u8]>,
    hash: Digest,
}

/// A finished subtree.
#[derive(Clone, Copy)]
struct Subtree {
    node: NodeId,
    hash: Digest,
    leaf_count: u64,
}

impl From<EqualSeparators> for ReadFault {
    fn from(_: EqualSeparators) -> ReadFault {
        ReadFault::corrupt("two separators of a page are equal")
    }
}

fn join(tree: &mut StateTree, bit: u16, left: Subtree, right: Subtree) -> Subtree {
    let leaf_count = left.leaf_count.saturating_add(right.leaf_count);
    let branch = Branch {
        children: [left.node, right.node],
        leaf_count,
        page: NO_PAGE,
        used: tree.generation,
        bit,
        stale: 0,
        unflushed: false,
    };
    let index = tree.branches.insert(branch, [left.hash, right.hash]);
    let hash = hash::branch(bit, &left.hash, &right.hash);
    Subtree { node: NodeId::branch(index), hash, leaf_count }
}

impl StateTree {
    /// Loads the unloaded page at the end of the path and returns its root.
    pub(super) fn load_page(
        &mut self,
        page_index: u32,
        store: &dyn TreeStore,
    ) -> Result<NodeId, ReadFault> {
        let StoredPage { id, height, leaf_count } = self.pages[page_index];
        let bytes = store.page(id, height)?;
        let bytes = bytes.ok_or(ReadFault::corrupt("a page of the state tree is missing"))?;
        let entries = page::decode(&bytes)?;
        let mut assembly = Assembly::new();
        let separators: Vec<u16> = entries.iter().map(|entry| entry.separator).collect();
        for (number, entry) in entries.into_iter().enumerate() {
            let node = match entry.kind {
                EntryKind::Bucket { prefix } => {
                    // A subtree hangs off the lower of the two branches that part it from its
                    // neighbours.
                    let after = separators.get(number + 1).copied().unwrap_or(0);
                    let prefix_bits = entry.separator.max(after) + 1;
                    let leaf_count = entry.leaf_count as u16;
                    self.new_bucket(Bucket { prefix, prefix_bits, leaf_count })
                }
                EntryKind::Page { id, height } => {
                    let leaf_count = entry.leaf_count;
                    NodeId::page(self.pages.insert(StoredPage { id, height, leaf_count }))
                }
            };
            let subtree = Subtree { node, hash: entry.hash, leaf_count: entry.leaf_count };
            let join = |bit, left, right| join(self, bit, left, right);
            assembly.push(entry.separator, subtree, join)?;
        }
        let loaded = assembly.finish(|bit, left, right| join(self, bit, left, right));
        let loaded = loaded.expect("a decoded page has two entries or more");
        let (_, expected, _) = self.slot();
        if loaded.hash != expected || loaded.leaf_count != leaf_count {
            return Err(ReadFault::corrupt("a page of the state tree has another hash or count"));
        }
        let super::Node::Branch(root) = loaded.node.view() else {
            unreachable!("two entries make a branch");
        };
        if self.branches[root].bit < self.slot_bits() {
            return Err(ReadFault::corrupt("a page splits on a bit that is above it"));
        }
        self.branches[root].page = page_index;
        self.set_slot(loaded.node, expected, false);
        Ok(loaded.node)
    }

    /// Loads the unloaded bucket at the end of the path and returns its root. When the tree is
    /// catching up with the rows, the bucket may have grown or shrunk; if nothing is left of it,
    /// its place in the tree is removed and the result is the empty node.
    pub(super) fn load_bucket(
        &mut self,
        bucket_index: u32,
        store: &dyn TreeStore,
        rows: RowsAt,
    ) -> Result<NodeId, ReadFault> {
        let Bucket { prefix, prefix_bits, leaf_count } = self.free_bucket(bucket_index);
        let leaf_count = u64::from(leaf_count);
        let leaves = read_leaves(&prefix, prefix_bits, store, rows)?;
        let mut assembly = Assembly::new();
        let mut before: Option<u32> = None;
        for RowLeaf { key, hash } in leaves {
            let separator = match before {
                None => 0,
                Some(before) => bits::first_difference(&self.leaves[before], &key)
                    .ok_or(ReadFault::corrupt("a scan of state rows repeats a key"))?,
            };
            let node = self.new_leaf(key);
            let super::Node::Leaf(index) = node.view() else { unreachable!("it is a leaf") };
            before = Some(index);
            let subtree = Subtree { node, hash, leaf_count: 1 };
            assembly.push(separator, subtree, |bit, left, right| join(self, bit, left, right))?;
        }
        let (_, expected, _) = self.slot();
        let Some(loaded) = assembly.finish(|bit, left, right| join(self, bit, left, right)) else {
            if rows == RowsAt::TreeState {
                return Err(ReadFault::corrupt("the state rows of a bucket are missing"));
            }
            self.unhook();
            self.mark_path(-(leaf_count as i64));
            return Ok(NodeId::EMPTY);
        };
        self.set_slot(loaded.node, loaded.hash, false);
        if loaded.hash != expected || loaded.leaf_count != leaf_count {
            if rows == RowsAt::TreeState {
                return Err(ReadFault::corrupt("the state rows of a bucket have another hash"));
            }
            self.mark_path(loaded.leaf_count as i64 - leaf_count as i64);
        }
        Ok(loaded.node)
    }
}

/// Reads the rows whose keys have this bit prefix: keys and leaf hashes, in key order.
fn read_leaves(
    prefix: &[u8],
    prefix_bits: u16,
    store: &dyn TreeStore,
    rows: RowsAt,
) -> Result<Vec<RowLeaf>, ReadFault> {
    let mut leaves = Vec::new();
    let mut fault = None;
    store.scan(prefix, &mut |key, record| {
        if !bits::has_prefix(key, prefix, prefix_bits) {
            return false;
        }
        if record.len() != RECORD_LEN {
            fault = Some(ReadFault::corrupt("a state row's record has another length"));
            return false;
        }
        if rows == RowsAt::TreeState && leaves.len() as u64 == BUCKET_LEAVES {
            fault = Some(ReadFault::corrupt("a bucket has more state rows than it may"));
            return false;
        }
        let hash = hash::state_leaf(key, &hash::plain(record));
        leaves.push(RowLeaf { key: key.into(), hash });
        true
    })?;
    match fault {
        Some(fault) => Err(fault),
        None => Ok(leaves),
    }
}
