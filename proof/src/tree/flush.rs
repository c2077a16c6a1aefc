//! Writing the changed part of the tree as pages.
//!
//! A branch whose subtree has another level than its parent's is the root of a page, and so is one
//! for which its parent's page has no room. Clean pages are never read or written again because
//! something beside them changed.

use super::arena::{NO_PAGE, Node, NodeId, StoredPage};
use super::page::{PageEncoder, PageWrite, TreeAnchor};
use super::{PAGE_BRANCHES_MAX, StateTree, Step, bits, level};

/// A place of the in-order walk over a page.
enum Visit {
    /// The subtree on one side of a branch.
    Subtree(Step),
    /// The bit between two subtrees.
    Separator(u16),
}

/// A subtree that a page lists.
struct Listed {
    separator: u16,
    /// Where it hangs.
    place: Step,
    /// Its root, and for a bucket later a node below it that has a key of its own.
    node: NodeId,
    leaf_count: u64,
    /// Which stored page it is, or [`NO_PAGE`] for a bucket.
    page: u32,
}

/// Memory that is used again for every page of a flush.
#[derive(Default)]
struct Scratch {
    inside: Vec<u32>,
    unsettled: Vec<u32>,
    visits: Vec<Visit>,
    listed: Vec<Listed>,
    prefix: Vec<u8>,
    prefix_before: Vec<u8>,
}

impl StateTree {
    /// Writes every page that changed since the last flush and retires the versions they replace.
    /// The caller puts these writes and the anchor in one batch, together with or after the rows of
    /// the tree's state, which is that of block `height`.
    pub fn flush(&mut self, height: u64, mut emit: impl FnMut(PageWrite)) -> TreeAnchor {
        self.rehash();
        let mut scratch = Scratch::default();
        let mut pending = Vec::new();
        if let Node::Branch(root) = self.root.view() {
            let branch = &self.branches[root];
            let is_stored = branch.page != NO_PAGE && !branch.unflushed;
            if level(branch.leaf_count) == 0 {
                scratch.unsettled.push(root);
                self.settle_buckets(&mut scratch.unsettled);
            } else if !is_stored {
                self.assign_page(root, height);
                pending.push(root);
            }
        }
        while let Some(page_root) = pending.pop() {
            self.choose_branches(page_root, height, &mut pending, &mut scratch);
            let bytes = self.encode_page(page_root, &mut scratch);
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
    fn choose_branches(
        &mut self,
        page_root: u32,
        height: u64,
        pending: &mut Vec<u32>,
        scratch: &mut Scratch,
    ) {
        let page_level = level(self.branches[page_root].leaf_count);
        let Scratch { inside, unsettled, .. } = scratch;
        inside.clear();
        inside.push(page_root);
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
                        unsettled.push(child_index);
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
        self.branches.fetch_hashes(inside);
        self.settle_buckets(unsettled);
    }

    /// The page's bytes: its unloaded subtrees in key order. Its own branches are those without a page of their
    /// own.
    fn encode_page(&self, page_root: u32, scratch: &mut Scratch) -> Vec<u8> {
        let Scratch { visits, listed, prefix, prefix_before, .. } = scratch;
        self.list_subtrees(page_root, visits, listed);
        self.go_down_to_keys(listed);
        let mut encoder = PageEncoder::new(listed.len(), prefix_before);
        for &Listed { separator, place, node, leaf_count, page } in &*listed {
            let hash = &self.branches.hashes(place.branch)[place.side];
            if page != NO_PAGE {
                let page = StoredPage { leaf_count, ..self.pages[page] };
                encoder.page(separator, hash, &page);
            } else {
                let prefix_bits = self.branches[place.branch].bit + 1;
                bits::prefix_into(self.some_key(node), prefix_bits, prefix);
                encoder.bucket(separator, hash, leaf_count, prefix);
            }
        }
        encoder.finish()
    }

    fn list_subtrees(&self, page_root: u32, visits: &mut Vec<Visit>, listed: &mut Vec<Listed>) {
        listed.clear();
        let mut separator = 0;
        self.visit_children(page_root, visits);
        while let Some(visit) = visits.pop() {
            let place = match visit {
                Visit::Separator(bit) => {
                    separator = bit;
                    continue;
                }
                Visit::Subtree(place) => place,
            };
            let node = self.branches[place.branch].children[place.side];
            let leaf_count = self.count_of(node);
            let page = match node.view() {
                Node::Branch(index) => self.branches[index].page,
                Node::Page(index) => index,
                _ => NO_PAGE,
            };
            if page == NO_PAGE && level(leaf_count) > 0 {
                let Node::Branch(index) = node.view() else {
                    unreachable!("an unloaded subtree is a page or a bucket");
                };
                self.visit_children(index, visits);
                continue;
            }
            listed.push(Listed { separator, place, node, leaf_count, page });
        }
    }

    /// Replaces each bucket by a node below it that has a key of its own. All of them go down one
    /// step before any goes the next: a processor then waits for the memory of many branches at
    /// once. One after the other, these walks were most of what a flush of a large tree costs.
    fn go_down_to_keys(&self, listed: &mut [Listed]) {
        let mut is_moving = true;
        while is_moving {
            is_moving = false;
            for bucket in listed.iter_mut().filter(|entry| entry.page == NO_PAGE) {
                if let Node::Branch(index) = bucket.node.view() {
                    bucket.node = self.towards_key(index);
                    is_moving = true;
                }
            }
        }
        self.fetch_keys(listed.iter().map(|bucket| bucket.node));
    }

    /// The child on the shorter way to a key, as far as it can be told from here.
    fn towards_key(&self, index: u32) -> NodeId {
        let [left, right] = self.branches[index].children;
        match (left.view(), right.view()) {
            (Node::Branch(_), Node::Leaf(_) | Node::Bucket(_)) => right,
            _ => left,
        }
    }

    fn visit_children(&self, branch: u32, visits: &mut Vec<Visit>) {
        visits.push(Visit::Subtree(Step { branch, side: 1 }));
        visits.push(Visit::Separator(self.branches[branch].bit));
        visits.push(Visit::Subtree(Step { branch, side: 0 }));
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

    /// Clears the marks of bucket-sized subtrees, breadth first as above; pages that they once were the roots of are
    /// no more.
    fn settle_buckets(&mut self, unsettled: &mut Vec<u32>) {
        let mut next = 0;
        while let Some(&index) = unsettled.get(next) {
            next += 1;
            let branch = &mut self.branches[index];
            if !std::mem::take(&mut branch.unflushed) {
                continue;
            }
            for node in branch.children {
                if let Node::Branch(child) = node.view() {
                    unsettled.push(child);
                }
            }
            self.dissolve_page(index);
        }
        unsettled.clear();
    }
}
