//! Giving memory back: parts of the tree that were not used for longest become stubs again.

use std::collections::BTreeMap;

use super::arena::{Arena, Branches, Bucket, NO_PAGE, Node, NodeId};
use super::{ALLOCATION_BYTES, BUCKET_LEAVES, StateTree, Step, bits};

/// A part of the tree that leaves memory as a whole.
#[derive(Clone, Copy)]
struct Unit {
    can_go: bool,
    used: u32,
}

impl StateTree {
    /// Drops what was used longest ago until about `target_bytes` remain: pages that are flushed,
    /// and buckets.
    ///
    /// The rows of the tree's current state must be committed: dropped buckets are read back from
    /// them. Changed pages stay until they are flushed, so the target may not be reached.
    pub fn evict(&mut self, target_bytes: usize) {
        let held = self.memory_bytes();
        if held <= target_bytes {
            return;
        }
        self.rehash();
        let Some(used_max) = self.eviction_horizon(held - target_bytes) else { return };
        self.evict_unused_since(used_max);
        if self.branches.is_sparse() || self.leaves.is_sparse() || self.buckets.is_sparse() {
            self.compact();
        }
    }

    /// The generation such that dropping everything last used at or before it frees `wanted` bytes;
    /// the newest one if nothing suffices, `None` if nothing can go.
    fn eviction_horizon(&self, wanted: usize) -> Option<u32> {
        let mut bytes_by_use: BTreeMap<u32, usize> = BTreeMap::new();
        let mut stack = vec![(self.root, Unit { can_go: false, used: 0 })];
        while let Some((node, above)) = stack.pop() {
            let Node::Branch(index) = node.view() else {
                if above.can_go {
                    *bytes_by_use.entry(above.used).or_default() += self.stub_bytes(node);
                }
                continue;
            };
            let branch = &self.branches[index];
            let is_page = branch.page != NO_PAGE;
            let is_bucket = branch.leaf_count <= BUCKET_LEAVES;
            let unit = match above {
                _ if is_page && !branch.unflushed => Unit { can_go: true, used: branch.used },
                _ if is_page => Unit { can_go: false, used: branch.used },
                _ if is_bucket => Unit { can_go: true, used: branch.used },
                inside => inside,
            };
            if unit.can_go {
                *bytes_by_use.entry(unit.used).or_default() += Branches::BYTES_EACH;
            }
            stack.extend(branch.children.map(|child| (child, unit)));
        }
        let mut freed = 0;
        let mut horizon = None;
        for (used, bytes) in bytes_by_use {
            if freed >= wanted {
                break;
            }
            freed += bytes;
            horizon = Some(used);
        }
        horizon
    }

    fn stub_bytes(&self, node: NodeId) -> usize {
        match node.view() {
            Node::Leaf(index) => {
                size_of::<Box<[u8]>>() + ALLOCATION_BYTES + self.leaves[index].len()
            }
            Node::Bucket(index) => {
                size_of::<Bucket>() + ALLOCATION_BYTES + self.buckets[index].prefix.len()
            }
            _ => size_of::<super::StoredPage>(),
        }
    }

    fn evict_unused_since(&mut self, used_max: u32) {
        let mut stack: Vec<Option<Step>> = vec![None];
        while let Some(place) = stack.pop() {
            self.path.clear();
            self.path.extend(place);
            let (node, hash, stale) = self.slot();
            let Node::Branch(index) = node.view() else { continue };
            assert!(!stale, "hashes are computed before eviction");
            let branch = &self.branches[index];
            let (page, leaf_count) = (branch.page, branch.leaf_count);
            let is_unused = branch.used <= used_max;
            if is_unused && page != NO_PAGE && !branch.unflushed {
                self.pages[page].leaf_count = leaf_count;
                self.branches[index].page = NO_PAGE;
                self.release_stored(node);
                self.set_slot(NodeId::page(page), hash, false);
            } else if is_unused && leaf_count <= BUCKET_LEAVES {
                let prefix_bits = self.slot_bits();
                let prefix = bits::prefix(self.some_key(node), prefix_bits);
                self.release_bucket(node);
                let leaf_count = leaf_count as u16;
                let bucket = self.new_bucket(Bucket { prefix, prefix_bits, leaf_count });
                self.set_slot(bucket, hash, false);
            } else {
                for side in [0, 1] {
                    stack.push(Some(Step { branch: index, side }));
                }
            }
        }
        self.path.clear();
    }

    /// Frees a subtree that is stored: its inner pages stay on disk.
    fn release_stored(&mut self, node: NodeId) {
        let mut stack = vec![node];
        while let Some(node) = stack.pop() {
            match node.view() {
                Node::Branch(index) => {
                    let (branch, _) = self.branches.remove(index);
                    assert!(!branch.unflushed, "changes below a page change the page");
                    if branch.page != NO_PAGE {
                        self.pages.remove(branch.page);
                    }
                    stack.extend(branch.children);
                }
                Node::Leaf(index) => self.free_leaf(index),
                Node::Bucket(index) => drop(self.free_bucket(index)),
                Node::Page(index) => drop(self.pages.remove(index)),
                Node::Empty => unreachable!("only the root can be empty"),
            }
        }
    }

    /// Frees a bucket-sized subtree. If a page once began in it, the next flush retires that page.
    fn release_bucket(&mut self, node: NodeId) {
        let mut stack = vec![node];
        while let Some(node) = stack.pop() {
            match node.view() {
                Node::Branch(index) => {
                    self.dissolve_page(index);
                    stack.extend(self.branches.remove(index).0.children);
                }
                Node::Leaf(index) => self.free_leaf(index),
                Node::Bucket(index) => drop(self.free_bucket(index)),
                Node::Empty | Node::Page(_) => unreachable!("a small subtree holds no page"),
            }
        }
    }

    /// Moves what is left into smaller arrays.
    fn compact(&mut self) {
        let mut branches = self.branches.take_all();
        let mut leaves = self.leaves.take_all();
        let mut buckets = self.buckets.take_all();
        let mut pages = self.pages.take_all();
        let mut places: Vec<(Option<Step>, NodeId)> = vec![(None, self.root)];
        while let Some((place, old)) = places.pop() {
            let new = match old.view() {
                Node::Empty => NodeId::EMPTY,
                Node::Leaf(index) => NodeId::leaf(self.leaves.insert(take(&mut leaves, index))),
                Node::Bucket(index) => {
                    NodeId::bucket(self.buckets.insert(take(&mut buckets, index)))
                }
                Node::Page(index) => NodeId::page(self.pages.insert(take(&mut pages, index))),
                Node::Branch(index) => {
                    let (mut branch, hashes) = branches.take(index);
                    if branch.page != NO_PAGE {
                        branch.page = self.pages.insert(take(&mut pages, branch.page));
                    }
                    let children = branch.children;
                    let branch = self.branches.insert(branch, hashes);
                    for (side, child) in children.into_iter().enumerate() {
                        places.push((Some(Step { branch, side }), child));
                    }
                    NodeId::branch(branch)
                }
            };
            match place {
                None => self.root = new,
                Some(step) => self.branches[step.branch].children[step.side] = new,
            }
        }
    }
}

fn take<T: Default>(arena: &mut Arena<T>, index: u32) -> T {
    std::mem::take(&mut arena[index])
}
