//! The state tree: a binary trie over a vault's state keys whose branches commit to the bit they
//! split on.
//!
//! Its shape and root depend only on the set of (key, record) pairs. In memory are the branches and
//! keys that recent work touched; the rest is *buckets* (up to [`BUCKET_LEAVES`] leaves, read again
//! from the state rows, never stored themselves) and *pages* (stored runs of branches above
//! buckets). Every loaded bucket and page is hashed and compared with what its parent commits to.
//!
//! Pages may lag behind the rows. The anchor written with them names their height; after a crash
//! the tree is opened at the anchor and [`StateTree::reconcile`]d with the keys that later blocks
//! changed. In the same way a tree is opened at any earlier height: at an anchor whose pages are still
//! kept, with rows as of that height.
//!
//! Must never do I/O of its own: rows and pages come through [`TreeStore`]. Page ids and page cuts
//! are local to a replica and appear in no hash.

mod arena;
mod assembly;
pub mod bits;
mod evict;
mod flush;
mod key_proof;
mod list_check;
mod list_proof;
mod list_prove;
mod load;
mod page;
#[cfg(test)]
mod tests;
mod update;

use ledger_types::Digest;

use crate::hash;
use crate::read_fault::ReadFault;
use crate::record::RECORD_LEN;
use arena::{Arena, Branches, Bucket, NO_PAGE, Node, NodeId, StoredPage};

pub use key_proof::{KeyProof, Presence, ProofError};
pub use list_check::{ListCheck, verify_list};
pub use list_proof::{
    LIST_LEAVES_MAX, ListError, ListItem, ListLeaf, ListProof, PageProof, PrefixProof, ProvedPage,
};
pub use list_prove::ListLimits;
pub use page::{PageReference, PageSummary, PageWrite, TreeAnchor};

/// Most leaves of a subtree that is left to the state rows.
pub const BUCKET_LEAVES: u64 = 16;
/// Each page level covers this many times the leaves of the one below.
const PAGE_FANOUT: u64 = 16;
/// Most branches in one page.
const PAGE_BRANCHES_MAX: usize = 256;
/// What one key allocation costs beside its bytes.
const ALLOCATION_BYTES: usize = 16;

/// The stored rows and pages of one vault.
pub trait TreeStore {
    /// Reads the page `id` as written at `height`; `None` if there is none.
    fn page(&self, id: u64, height: u64) -> Result<Option<Vec<u8>>, ReadFault>;

    /// Visits the vault's state rows from the first key at or after `from`, in key order, as (state
    /// key, 93-byte record), until `visit` returns false.
    ///
    /// While a tree applies changes, rows show the state *before* those changes: an unloaded bucket
    /// must read back as the leaves that its hash commits to.
    fn scan(
        &self,
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ReadFault>;

    /// The record in a key's row, if the key has one.
    fn record(&self, key: &[u8]) -> Result<Option<[u8; RECORD_LEN]>, ReadFault> {
        let mut found = None;
        self.scan(key, &mut |row_key, record| {
            if row_key == key {
                found = Some(<[u8; RECORD_LEN]>::try_from(record));
            }
            false
        })?;
        found.transpose().map_err(|_| ReadFault::corrupt("a state row's record has another length"))
    }
}

/// A branch and the side taken there.
#[derive(Clone, Copy)]
struct Step {
    branch: u32,
    side: usize,
}

/// What buckets are compared with when they are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RowsAt {
    /// The rows show the tree's own state: any difference is corruption.
    TreeState,
    /// The rows are ahead of the tree, which is catching up with them.
    Tip,
}

/// The state tree of one vault. After any [`ReadFault`] it is in no defined state and must be
/// dropped.
pub struct StateTree {
    branches: Branches,
    leaves: Arena<Box<[u8]>>,
    buckets: Arena<Bucket>,
    pages: Arena<StoredPage>,
    root: NodeId,
    root_hash: Digest,
    /// The root is a branch and `root_hash` waits to be computed again.
    root_stale: bool,
    leaf_count: u64,
    /// Stored versions (id, height) that the next flush retires.
    dead_pages: Vec<(u64, u64)>,
    next_page_id: u64,
    generation: u32,
    /// The way from the root to the place last worked on.
    path: Vec<Step>,
    /// Bytes that keys of leaves and prefixes of buckets take.
    key_bytes: usize,
}

impl StateTree {
    /// A tree without leaves and without stored pages.
    pub fn empty() -> StateTree {
        StateTree {
            branches: Branches::default(),
            leaves: Arena::default(),
            buckets: Arena::default(),
            pages: Arena::default(),
            root: NodeId::EMPTY,
            root_hash: hash::empty_root(),
            root_stale: false,
            leaf_count: 0,
            dead_pages: Vec::new(),
            next_page_id: 1,
            generation: 0,
            path: Vec::new(),
            key_bytes: 0,
        }
    }

    /// The tree as the anchor's flush left it, with nothing loaded.
    pub fn open(anchor: &TreeAnchor) -> StateTree {
        let mut tree = StateTree::empty();
        tree.next_page_id = anchor.next_page_id;
        tree.leaf_count = anchor.leaf_count;
        tree.root_hash = anchor.root;
        tree.root = match anchor.root_page {
            _ if anchor.leaf_count == 0 => NodeId::EMPTY,
            None => {
                let leaf_count = u16::try_from(anchor.leaf_count).expect("an anchor is checked");
                tree.new_bucket(Bucket { prefix: Box::default(), prefix_bits: 0, leaf_count })
            }
            Some((id, height)) => {
                let leaf_count = anchor.leaf_count;
                NodeId::page(tree.pages.insert(StoredPage { id, height, leaf_count }))
            }
        };
        tree
    }

    /// The root of the current state. Hashes what changed since it was last asked for.
    pub fn root(&mut self) -> Digest {
        self.rehash();
        self.root_hash
    }

    /// Leaves in the tree: a header's `state_keys`.
    pub fn leaf_count(&self) -> u64 {
        self.leaf_count
    }

    /// Bytes of memory that the loaded part of the tree takes.
    pub fn memory_bytes(&self) -> usize {
        self.branches.bytes()
            + self.leaves.bytes()
            + self.buckets.bytes()
            + self.pages.bytes()
            + self.key_bytes
            + (self.leaves.len() + self.buckets.len()) * ALLOCATION_BYTES
    }

    /// Computes waiting hashes bottom-up. A loop, because paths may be 18,432 branches long.
    fn rehash(&mut self) {
        if !self.root_stale {
            return;
        }
        let Node::Branch(root) = self.root.view() else {
            unreachable!("only a branch's hash waits");
        };
        let mut stack = vec![root];
        while let Some(&index) = stack.last() {
            let branch = &self.branches[index];
            if branch.stale == 0 {
                stack.pop();
                continue;
            }
            let side = branch.stale.trailing_zeros() as usize;
            let Node::Branch(child_index) = branch.children[side].view() else {
                unreachable!("only a branch's hash waits");
            };
            let child = &self.branches[child_index];
            if child.stale != 0 {
                stack.push(child_index);
                continue;
            }
            let child_hash = self.branch_hash(child_index);
            self.branches.set_hash(index, side, child_hash);
            self.branches[index].stale &= !(1 << side);
        }
        self.root_hash = self.branch_hash(root);
        self.root_stale = false;
    }

    fn branch_hash(&self, index: u32) -> Digest {
        let [left, right] = self.branches.hashes(index);
        hash::branch(self.branches[index].bit, left, right)
    }

    fn count_of(&self, node: NodeId) -> u64 {
        match node.view() {
            Node::Empty => 0,
            Node::Leaf(_) => 1,
            Node::Branch(index) => self.branches[index].leaf_count,
            Node::Bucket(index) => self.buckets[index].leaf_count.into(),
            Node::Page(index) => self.pages[index].leaf_count,
        }
    }

    /// The node, hash and waiting flag at the end of the current path.
    fn slot(&self) -> (NodeId, Digest, bool) {
        match self.path.last() {
            None => (self.root, self.root_hash, self.root_stale),
            Some(step) => {
                let branch = &self.branches[step.branch];
                let stale = branch.stale >> step.side & 1 == 1;
                (branch.children[step.side], self.branches.hashes(step.branch)[step.side], stale)
            }
        }
    }

    fn set_slot(&mut self, node: NodeId, hash: Digest, stale: bool) {
        match self.path.last() {
            None => {
                self.root = node;
                self.root_hash = hash;
                self.root_stale = stale;
            }
            Some(step) => {
                let branch = &mut self.branches[step.branch];
                branch.children[step.side] = node;
                branch.stale &= !(1 << step.side);
                branch.stale |= u8::from(stale) << step.side;
                self.branches.set_hash(step.branch, step.side, hash);
            }
        }
    }

    /// The first bit that children at the end of the current path may still split on.
    fn slot_bits(&self) -> u16 {
        self.path.last().map_or(0, |step| self.branches[step.branch].bit + 1)
    }

    /// Has the processor read the keys of those of these nodes that are leaves, all at once, before they are needed
    /// one by one.
    fn fetch_keys(&self, nodes: impl Iterator<Item = NodeId>) {
        let bytes = nodes.map(|node| match node.view() {
            Node::Leaf(index) => self.leaves[index].last().copied().unwrap_or(0),
            _ => 0,
        });
        std::hint::black_box(bytes.fold(0, u8::wrapping_add));
    }

    fn new_leaf(&mut self, key: Box<[u8]>) -> NodeId {
        self.key_bytes += key.len();
        NodeId::leaf(self.leaves.insert(key))
    }

    fn new_bucket(&mut self, bucket: Bucket) -> NodeId {
        self.key_bytes += bucket.prefix.len();
        NodeId::bucket(self.buckets.insert(bucket))
    }

    fn free_leaf(&mut self, index: u32) {
        let key = self.leaves.remove(index);
        self.key_bytes -= key.len();
    }

    fn free_bucket(&mut self, index: u32) -> Bucket {
        let bucket = self.buckets.remove(index);
        self.key_bytes -= bucket.prefix.len();
        bucket
    }

    /// Forgets the stored page of which this branch was the root; the next flush retires it.
    fn dissolve_page(&mut self, branch_index: u32) {
        let page_index = std::mem::replace(&mut self.branches[branch_index].page, NO_PAGE);
        if page_index != NO_PAGE {
            let page = self.pages.remove(page_index);
            self.dead_pages.push((page.id, page.height));
        }
    }
}

/// The page level of a subtree: the smallest `k` with `leaf_count <= 16 * 16^k`. Level 0 is a
/// bucket.
fn level(leaf_count: u64) -> u32 {
    let (mut level, mut capacity) = (0, BUCKET_LEAVES);
    while leaf_count > capacity {
        level += 1;
        capacity = capacity.saturating_mul(PAGE_FANOUT);
    }
    level
}
