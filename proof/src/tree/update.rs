//! Changing the tree: batches of new record hashes, and catching up with rows after a crash.

use ledger_types::Digest;

use super::arena::{Branch, NO_PAGE, Node, NodeId};
use super::{PageWrite, RowsAt, StateTree, Step, TreeAnchor, TreeStore, bits};
use crate::hash;
use crate::read_fault::ReadFault;

/// Keys whose ways down are gone side by side: enough to hide the wait for memory, and so few that all they touch
/// stays in a processor's nearest caches.
const KEYS_SIDE_BY_SIDE: usize = 64;
/// Rows that a rebuild takes at a time.
const REBUILD_ROWS: usize = 4096;

impl StateTree {
    /// Sets (`Some`, the record's hash) or deletes (`None`) each key, in order. Deleting an absent
    /// key changes nothing. Rows that unloaded buckets are read from must show the state before
    /// these changes.
    pub fn apply<K: AsRef<[u8]>>(
        &mut self,
        changes: &[(K, Option<Digest>)],
        store: &dyn TreeStore,
    ) -> Result<(), ReadFault> {
        self.generation += 1;
        for changes in changes.chunks(KEYS_SIDE_BY_SIDE) {
            self.fetch(changes.iter().map(|(key, _)| key.as_ref()));
            for (key, record_hash) in changes {
                self.change(key.as_ref(), *record_hash, store, RowsAt::TreeState)?;
            }
        }
        Ok(())
    }

    /// Brings a tree that was opened at an older anchor up to the rows: each key that changed since
    /// then is set to the record that its row has now, or deleted. All keys changed since the
    /// anchor must be given, in any order and in as many calls as suit, before the root is used or
    /// anything else is applied.
    ///
    /// The rows may as well be those of an *earlier* height: given every key that changed in
    /// between, the tree goes back to it, which is how a past height is proved.
    pub fn reconcile<K: AsRef<[u8]>>(
        &mut self,
        keys: &[K],
        store: &dyn TreeStore,
    ) -> Result<(), ReadFault> {
        self.generation += 1;
        for key in keys {
            let key = key.as_ref();
            let record_hash = store.record(key)?.map(|record| hash::plain(&record));
            self.change(key, record_hash, store, RowsAt::Tip)?;
        }
        Ok(())
    }

    /// Builds the tree of all rows, whatever the pages say: after a snapshot, or to verify one.
    /// Memory stays near `memory_bytes`, for which pages are written on the way: `emit` must write
    /// them at once, so that `store` reads them back. The anchor counts only when all of it is done
    /// and the root was compared.
    pub fn rebuild(
        height: u64,
        memory_bytes: usize,
        store: &dyn TreeStore,
        mut emit: impl FnMut(PageWrite),
    ) -> Result<(StateTree, TreeAnchor), ReadFault> {
        let mut tree = StateTree::empty();
        let mut from = Vec::new();
        loop {
            let mut rows: Vec<(Box<[u8]>, Digest)> = Vec::new();
            store.scan(&from, &mut |key, record| {
                rows.push((key.into(), hash::plain(record)));
                rows.len() < REBUILD_ROWS
            })?;
            let Some((last, _)) = rows.last() else { break };
            from = [last, &[0][..]].concat();
            tree.generation += 1;
            for (key, record_hash) in rows {
                tree.change(&key, Some(record_hash), store, RowsAt::Tip)?;
            }
            if tree.memory_bytes() > memory_bytes {
                tree.flush(height, &mut emit);
                tree.evict(memory_bytes / 2);
            }
        }
        let anchor = tree.flush(height, emit);
        Ok((tree, anchor))
    }

    /// Brings what is loaded of the ways to these keys into the processor's caches, and changes nothing. All ways
    /// go down one step before any goes the next, so that the memory of many branches is waited for at once; one
    /// way after the other, that wait is most of what a change in a large tree costs.
    fn fetch<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) {
        let mut ways: Vec<(&[u8], NodeId)> = keys.map(|key| (key, self.root)).collect();
        if ways.len() < 2 {
            return;
        }
        let mut passed = Vec::with_capacity(ways.len());
        loop {
            passed.clear();
            for (key, node) in &mut ways {
                let Node::Branch(index) = node.view() else { continue };
                let branch = &self.branches[index];
                *node = branch.children[bits::side(key, branch.bit)];
                passed.push(index);
            }
            if passed.is_empty() {
                break;
            }
            self.branches.fetch_hashes(&passed);
        }
        self.fetch_keys(ways.iter().map(|(_, node)| *node));
    }

    fn change(
        &mut self,
        key: &[u8],
        record_hash: Option<Digest>,
        store: &dyn TreeStore,
        rows: RowsAt,
    ) -> Result<(), ReadFault> {
        assert!(key.len() <= ledger_types::limits::STATE_KEY_BYTES_MAX, "state keys are checked");
        let terminal = self.descend(key, store, rows)?;
        match record_hash {
            Some(record_hash) => self.put(key, hash::state_leaf(key, &record_hash), terminal),
            None => self.delete(key, terminal),
        }
        Ok(())
    }

    /// Follows the key's bits to the leaf where they end, loading what is in the way; `None` if the
    /// tree is empty. Leaves the way in `self.path`.
    pub(super) fn descend(
        &mut self,
        key: &[u8],
        store: &dyn TreeStore,
        rows: RowsAt,
    ) -> Result<Option<u32>, ReadFault> {
        self.path.clear();
        let mut node = self.root;
        loop {
            match node.view() {
                Node::Empty => return Ok(None),
                Node::Leaf(index) => return Ok(Some(index)),
                Node::Branch(index) => {
                    let branch = &mut self.branches[index];
                    branch.used = self.generation;
                    let side = bits::side(key, branch.bit);
                    node = branch.children[side];
                    self.path.push(Step { branch: index, side });
                }
                Node::Page(index) => node = self.load_page(index, store)?,
                Node::Bucket(index) => {
                    node = self.load_bucket(index, store, rows)?;
                    if node == NodeId::EMPTY {
                        // The bucket is gone and its parent with it: the way down is another.
                        self.path.clear();
                        node = self.root;
                    }
                }
            }
        }
    }

    fn put(&mut self, key: &[u8], leaf_hash: Digest, terminal: Option<u32>) {
        let Some(leaf_index) = terminal else {
            let leaf = self.new_leaf(key.into());
            self.set_slot(leaf, leaf_hash, false);
            self.mark_path(1);
            return;
        };
        let Some(bit) = bits::first_difference(&self.leaves[leaf_index], key) else {
            let (node, old_hash, _) = self.slot();
            if old_hash != leaf_hash {
                self.set_slot(node, leaf_hash, false);
                self.mark_path(0);
            }
            return;
        };
        while self.path.last().is_some_and(|step| self.branches[step.branch].bit > bit) {
            self.path.pop();
        }
        assert!(
            self.slot_bits() <= bit,
            "a key differs from the leaf it leads to at no bit of the way"
        );
        let (displaced, displaced_hash, displaced_stale) = self.slot();
        let leaf_count = self.count_of(displaced) + 1;
        let leaf = self.new_leaf(key.into());
        let side = bits::side(key, bit);
        let (mut children, mut hashes) = ([displaced; 2], [displaced_hash; 2]);
        children[side] = leaf;
        hashes[side] = leaf_hash;
        let branch = Branch {
            children,
            leaf_count,
            page: NO_PAGE,
            used: self.generation,
            bit,
            stale: u8::from(displaced_stale) << (1 - side),
            unflushed: true,
        };
        let branch = self.branches.insert(branch, hashes);
        self.set_slot(NodeId::branch(branch), Digest::ZERO, true);
        self.mark_path(1);
    }

    fn delete(&mut self, key: &[u8], terminal: Option<u32>) {
        let Some(leaf_index) = terminal else { return };
        if *self.leaves[leaf_index] != *key {
            return;
        }
        self.free_leaf(leaf_index);
        self.unhook();
        self.mark_path(-1);
    }

    /// Takes the node at the end of the path out of the tree; its sibling moves up to where their
    /// parent was.
    pub(super) fn unhook(&mut self) {
        let Some(step) = self.path.pop() else {
            self.set_slot(NodeId::EMPTY, hash::empty_root(), false);
            return;
        };
        self.dissolve_page(step.branch);
        let (parent, hashes) = self.branches.remove(step.branch);
        let side = 1 - step.side;
        let (sibling, stale) = (parent.children[side], parent.stale >> side & 1 == 1);
        self.set_slot(sibling, hashes[side], stale);
    }

    /// Notes along the path that the subtree at its end changed and has `change` more leaves.
    pub(super) fn mark_path(&mut self, change: i64) {
        let add =
            |count: u64| count.checked_add_signed(change).expect("counts cover what is removed");
        self.leaf_count = add(self.leaf_count);
        let Some((last, above)) = self.path.split_last() else { return };
        self.root_stale = true;
        for step in above {
            let branch = &mut self.branches[step.branch];
            branch.leaf_count = add(branch.leaf_count);
            branch.unflushed = true;
            branch.stale |= 1 << step.side;
        }
        let branch = &mut self.branches[last.branch];
        branch.leaf_count = add(branch.leaf_count);
        branch.unflushed = true;
    }
}
