//! Writing the changed part of the tree as pages.
//!
//! A branch whose subtree has another level than its parent's is the root of a page, and so is one
//! for which its parent's page has no room. Clean pages are never read or written again because
//! something beside them changed.

use super::arena::{NO_PAGE, Node, NodeId, StoredPage};
use super::page::{self, Entry, EntryKind, PageWrite, TreeAnchor};
use super::{PAGE_BRANCHES_MAX, StateTree, bits, level};
use ledger_types::Digest;

/// A place of the in-order walk over a page.
enum Visit {
    /// A subtree and the bits that its keys share.
    Subtree { node: NodeId, hash: Digest, prefix_bits: u16 },
    /// The bit between two subtrees.
    Separator(u16),
}

/// A bucket among the entries of a page whose prefix is still to be found.
struct BucketEntry {
    entry: usize,
    node: NodeId,
    prefix_bits: u16,
}

impl StateTree {
    /// Writes every page that changed since the last flush and retires the versions they replace.
    /// The caller puts these writes and the anchor in one batch, together with or after the rows of
    /// the tree's state, which is that of block `height`.
    pub fn flush(&mut self, height: u64, mut emit: impl FnMut(PageWrite)) -> TreeAnchor {
        self.rehash();
        let mut pending = Vec::new();
        if let Node::Branch(root) = self.root.view() {
            let branch = &self.branches[root];
            let is_stored = branch.page != NO_PAGE && !branch.unflushed;
            if level(branch.leaf_count) == 0 {
                self.settle_bucket(root);
            } else if !is_stored {
                self.assign_page(root, height);
                pending.push(root);
            }
        }
        while let Some(page_root) = pending.pop() {
            self.choose_branches(page_root, height, &mut pending);
            let bytes = page::encode(&self.page_entries(page_root));
            let id = self.pages[self.branches[page_root].page].id;
            emit(PageWrite::Put { id, height, bytes });
        }
        for (id, height) in self.dead_pages.drain(..) {
            emit(PageWrite::Retire { id, height });
        }
        TreeAnchor {
            height,
            leaf_count: self.leaf_count,
            root: self.root_hash,
            root_page: self.root_page(),
            next_page_id: self.next_page_id,
        }
    }

    fn root_page(&self) -> Option<(u64, u64)> {
        let index = match self.root.view() {
            Node::Branch(root) if self.branches[root].page != NO_PAGE => self.branches[root].page,
            Node::Page(index) => index,
            _ => return None,
        };
        let page = self.pages[index];
        Some((page.id, page.height))
    }

    /// Makes the branch the root of a page that is being written at `height`.
    fn assign_page(&mut self, index: u32, height: u64) {
        let branch = &mut self.branches[index];
        let leaf_count = branch.leaf_count;
        if branch.page == NO_PAGE {
            let id = self.next_page_id;
            self.next_page_id += 1;
            branch.page = self.pages.insert(StoredPage { id, height, leaf_count });
            return;
        }
        let page = &mut self.pages[branch.page];
        if page.height != height {
            self.dead_pages.push((page.id, page.height));
        }
        page.height = height;
        page.leaf_count = leaf_count;
    }

    /// Decides which branches are in the page, breadth first so that a full page is cut at the
    /// bottom. Branches below that need a page of their own get one and are pending.
    fn choose_branches(&mut self, page_root: u32, height: u64, pending: &mut Vec<u32>) {
        let page_level = level(self.branches[page_root].leaf_count);
        let mut inside = vec![page_root];
        let mut next = 0;
        while next < inside.len() {
            let index = inside[next];
            next += 1;
            self.branches[index].unflushed = false;
            for node in self.branches[index].children {
                let Node::Branch(child_index) = node.view() else { continue };
                let child = &self.branches[child_index];
                let child_level = level(child.leaf_count);
                let is_stored = child.page != NO_PAGE && !child.unflushed;
                if child_level == 0 {
                    if child.unflushed {
                        self.settle_bucket(child_index);
                    }
                } else if is_stored {
                    continue;
                } else if child_level == page_level && inside.len() < PAGE_BRANCHES_MAX {
                    self.dissolve_page(child_index);
                    inside.push(child_index);
                } else {
                    self.assign_page(child_index, height);
                    pending.push(child_index);
                }
            }
        }
    }

    /// The page's unloaded subtrees in key order. Its own branches are those without a page of
    /// their own.
    fn page_entries(&self, page_root: u32) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut buckets: Vec<BucketEntry> = Vec::new();
        let mut separator = 0;
        let mut stack = Vec::new();
        self.visit_children(page_root, &mut stack);
        while let Some(visit) = stack.pop() {
            let (node, hash, prefix_bits) = match visit {
                Visit::Separator(bit) => {
                    separator = bit;
                    continue;
                }
                Visit::Subtree { node, hash, prefix_bits } => (node, hash, prefix_bits),
            };
            let leaf_count = self.count_of(node);
            let page = match node.view() {
                Node::Branch(index) => self.branches[index].page,
                Node::Page(index) => index,
                _ => NO_PAGE,
            };
            let kind = if page != NO_PAGE {
                let StoredPage { id, height, .. } = self.pages[page];
                EntryKind::Page { id, height }
            } else if level(leaf_count) == 0 {
                buckets.push(BucketEntry { entry: entries.len(), node, prefix_bits });
                EntryKind::Bucket { prefix: Box::default() }
            } else {
                let Node::Branch(index) = node.view() else {
                    unreachable!("an unloaded subtree is a page or a bucket");
                };
                self.visit_children(index, &mut stack);
                continue;
            };
            entries.push(Entry { separator, hash, leaf_count, kind });
        }
        self.go_down_to_keys(&mut buckets);
        for BucketEntry { entry, node, prefix_bits } in buckets {
            let prefix = bits::prefix(self.some_key(node), prefix_bits);
            entries[entry].kind = EntryKind::Bucket { prefix };
        }
        entries
    }

    /// Replaces each bucket by a node below it that has a key of its own. All of them go down one
    /// step before any goes the next: a processor then waits for the memory of many branches at
    /// once. One after the other, these walks were most of what a flush of a large tree costs.
    fn go_down_to_keys(&self, buckets: &mut [BucketEntry]) {
        let mut is_moving = true;
        while is_moving {
            is_moving = false;
            for bucket in &mut *buckets {
                if let Node::Branch(index) = bucket.node.view() {
                    bucket.node = self.towards_key(index);
                    is_moving = true;
                }
            }
        }
    }

    /// The child on the shorter way to a key, as far as it can be told from here.
    fn towards_key(&self, index: u32) -> NodeId {
        let [left, right] = self.branches[index].children;
        match (left.view(), right.view()) {
            (Node::Branch(_), Node::Leaf(_) | Node::Bucket(_)) => right,
            _ => left,
        }
    }

    fn visit_children(&self, index: u32, stack: &mut Vec<Visit>) {
        let branch = &self.branches[index];
        let prefix_bits = branch.bit + 1;
        let subtree = |side: usize| Visit::Subtree {
            node: branch.children[side],
            hash: branch.hashes[side],
            prefix_bits,
        };
        stack.push(subtree(1));
        stack.push(Visit::Separator(branch.bit));
        stack.push(subtree(0));
    }

    /// A byte string that has the bits which all keys of a bucket-sized subtree share.
    pub(super) fn some_key(&self, node: NodeId) -> &[u8] {
        let mut node = node;
        loop {
            match node.view() {
                Node::Branch(index) => node = self.towards_key(index),
                Node::Leaf(index) => return &self.leaves[index],
                Node::Bucket(index) => return &self.buckets[index].prefix,
                Node::Empty | Node::Page(_) => unreachable!("a small subtree holds no page"),
            }
        }
    }

    /// Clears the marks of a bucket-sized subtree; pages that it once was the root of are no more.
    fn settle_bucket(&mut self, index: u32) {
        let mut stack = vec![index];
        while let Some(index) = stack.pop() {
            if !self.branches[index].unflushed {
                continue;
            }
            self.branches[index].unflushed = false;
            self.dissolve_page(index);
            for node in self.branches[index].children {
                if let Node::Branch(child) = node.view() {
                    stack.push(child);
                }
            }
        }
    }
}
