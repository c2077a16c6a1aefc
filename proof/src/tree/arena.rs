//! The tree's nodes in memory: four arrays addressed by 32-bit ids, so that a node costs no
//! allocation of its own (a leaf's key excepted).

use std::ops::{Index, IndexMut};

use ledger_types::Digest;

/// Bits of an id that say which array it points into.
const KIND_SHIFT: u32 = 30;
const INDEX_MASK: u32 = (1 << KIND_SHIFT) - 1;

const KIND_BRANCH: u32 = 0;
const KIND_LEAF: u32 = 1;
const KIND_BUCKET: u32 = 2;
const KIND_PAGE: u32 = 3;

/// What a page field holds when the branch is not the root of a stored page.
pub(super) const NO_PAGE: u32 = u32::MAX;

/// A node's id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NodeId(u32);

/// A node's id, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Node {
    /// The tree has no leaves.
    Empty,
    /// Index of a loaded branch.
    Branch(u32),
    /// Index of a loaded leaf.
    Leaf(u32),
    /// Index of an unloaded bucket.
    Bucket(u32),
    /// Index of an unloaded page.
    Page(u32),
}

impl NodeId {
    /// The id that stands for an empty tree.
    pub(super) const EMPTY: NodeId = NodeId(u32::MAX);

    pub(super) fn branch(index: u32) -> NodeId {
        NodeId::of(KIND_BRANCH, index)
    }

    pub(super) fn leaf(index: u32) -> NodeId {
        NodeId::of(KIND_LEAF, index)
    }

    pub(super) fn bucket(index: u32) -> NodeId {
        NodeId::of(KIND_BUCKET, index)
    }

    pub(super) fn page(index: u32) -> NodeId {
        NodeId::of(KIND_PAGE, index)
    }

    #[inline]
    pub(super) fn view(self) -> Node {
        if self == NodeId::EMPTY {
            return Node::Empty;
        }
        let index = self.0 & INDEX_MASK;
        match self.0 >> KIND_SHIFT {
            KIND_BRANCH => Node::Branch(index),
            KIND_LEAF => Node::Leaf(index),
            KIND_BUCKET => Node::Bucket(index),
            _ => Node::Page(index),
        }
    }

    fn of(kind: u32, index: u32) -> NodeId {
        assert!(index < INDEX_MASK, "an arena holds fewer than 2^30 nodes");
        NodeId(kind << KIND_SHIFT | index)
    }
}

impl Default for NodeId {
    fn default() -> NodeId {
        NodeId::EMPTY
    }
}

/// A loaded branch, but for its children's hashes.
#[derive(Clone, Default)]
pub(super) struct Branch {
    pub(super) children: [NodeId; 2],
    /// Leaves below.
    pub(super) leaf_count: u64,
    /// The stored page of which this branch is the root, or [`NO_PAGE`].
    pub(super) page: u32,
    /// Generation of the last change or proof that passed here.
    pub(super) used: u32,
    /// The bit it splits on.
    pub(super) bit: u16,
    /// Bit `s` is set while the hash of child `s` waits to be computed again; the child is then a branch.
    pub(super) stale: u8,
    /// Something below changed since the last flush.
    pub(super) unflushed: bool,
}

/// An unloaded subtree of at most `BUCKET_LEAVES` leaves, which are read again from the state rows.
#[derive(Clone, Default)]
pub(super) struct Bucket {
    /// Bits that all its keys share and no other key of the rows does, as `bits::prefix` makes
    /// them.
    pub(super) prefix: Box<[u8]>,
    /// How many bits the prefix stands for: those up to and including the parent's when the bucket
    /// was made. They stay when a deletion moves the bucket up, because the rows of the deleted
    /// keys may still be there.
    pub(super) prefix_bits: u16,
    pub(super) leaf_count: u16,
}

/// A stored page, whether its branches are loaded or not.
#[derive(Clone, Copy, Default)]
pub(super) struct StoredPage {
    pub(super) id: u64,
    /// Height at which it was written; with the id, its key.
    pub(super) height: u64,
    /// Leaves below, when it was written or evicted.
    pub(super) leaf_count: u64,
}

/// A growing array with a list of free places.
#[derive(Default)]
pub(super) struct Arena<T> {
    items: Vec<T>,
    free: Vec<u32>,
}

impl<T: Default> Arena<T> {
    pub(super) fn insert(&mut self, item: T) -> u32 {
        if let Some(index) = self.free.pop() {
            self.items[index as usize] = item;
            return index;
        }
        let index = u32::try_from(self.items.len()).expect("an arena holds fewer than 2^30 nodes");
        self.items.push(item);
        index
    }

    pub(super) fn remove(&mut self, index: u32) -> T {
        self.free.push(index);
        std::mem::take(&mut self.items[index as usize])
    }

    /// Items that are in use.
    pub(super) fn len(&self) -> usize {
        self.items.len() - self.free.len()
    }

    /// Bytes that the items in use take. Room for growth and free places come on top of it, the
    /// latter up to a quarter before they are given back.
    pub(super) fn bytes(&self) -> usize {
        self.len() * size_of::<T>()
    }

    /// Whether more than a quarter of the places are free.
    pub(super) fn is_sparse(&self) -> bool {
        self.free.len() > self.items.len() / 4
    }

    /// Takes all items out and leaves room for as many.
    pub(super) fn take_all(&mut self) -> Arena<T> {
        let room = Arena { items: Vec::with_capacity(self.len()), free: Vec::new() };
        std::mem::replace(self, room)
    }
}

/// The hashes of a branch's two children, in one line of a processor's cache.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Hashes([Digest; 2]);

/// The loaded branches. The hashes lie apart from what leads the way: a walk down a large tree waits for memory at
/// nearly every branch, and two ways fit where one branch with its hashes would not. Each branch has the hashes of
/// both its children, so that neither rehashing it nor a proof through it touches the sibling's memory.
#[derive(Default)]
pub(super) struct Branches {
    ways: Arena<Branch>,
    /// At the same indexes.
    hashes: Arena<Hashes>,
}

impl Branches {
    pub(super) fn insert(&mut self, branch: Branch, hashes: [Digest; 2]) -> u32 {
        let index = self.ways.insert(branch);
        let beside = self.hashes.insert(Hashes(hashes));
        assert_eq!(index, beside, "both arrays give out the same places");
        index
    }

    pub(super) fn remove(&mut self, index: u32) -> (Branch, [Digest; 2]) {
        (self.ways.remove(index), self.hashes.remove(index).0)
    }

    /// Takes a branch and leaves its place as it is, for one who drops all places afterwards.
    pub(super) fn take(&mut self, index: u32) -> (Branch, [Digest; 2]) {
        (std::mem::take(&mut self.ways[index]), self.hashes[index].0)
    }

    /// The hashes of a branch's children.
    #[inline]
    pub(super) fn hashes(&self, index: u32) -> &[Digest; 2] {
        &self.hashes[index].0
    }

    #[inline]
    pub(super) fn set_hash(&mut self, index: u32, side: usize, hash: Digest) {
        self.hashes[index].0[side] = hash;
    }

    /// Has the processor read the hashes of these branches, all at once, before they are needed one by one.
    pub(super) fn fetch_hashes(&self, branches: &[u32]) {
        let bytes = branches.iter().map(|&index| self.hashes[index].0[0].0[0]);
        std::hint::black_box(bytes.fold(0, u8::wrapping_add));
    }

    /// Bytes that the branches in use take.
    pub(super) fn bytes(&self) -> usize {
        self.ways.bytes() + self.hashes.bytes()
    }

    /// Bytes of one branch.
    pub(super) const BYTES_EACH: usize = size_of::<Branch>() + size_of::<Hashes>();

    pub(super) fn is_sparse(&self) -> bool {
        self.ways.is_sparse()
    }

    pub(super) fn take_all(&mut self) -> Branches {
        Branches { ways: self.ways.take_all(), hashes: self.hashes.take_all() }
    }
}

impl Index<u32> for Branches {
    type Output = Branch;

    #[inline]
    fn index(&self, index: u32) -> &Branch {
        &self.ways[index]
    }
}

impl IndexMut<u32> for Branches {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut Branch {
        &mut self.ways[index]
    }
}

impl<T> Index<u32> for Arena<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: u32) -> &T {
        &self.items[index as usize]
    }
}

impl<T> IndexMut<u32> for Arena<T> {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.items[index as usize]
    }
}
