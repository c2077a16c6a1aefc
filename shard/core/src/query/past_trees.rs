//! Trees of earlier heights that are kept for the next question, with one budget for all of them.
//!
//! Owns which stay. What goes is opened again when it is asked for. Must never hold more than its budget.

use std::collections::BTreeMap;

use ledger_types::VaultRef;

use super::PastTree;

/// A tree may take this part of the budget, so that one list does not push out everything else.
const SHARE: usize = 4;

struct Kept {
    tree: PastTree,
    used: u64,
    bytes: usize,
}

/// Past trees by vault and height. Its owner locks it: a tree is taken out, used without the lock, and put back.
pub struct PastTrees {
    trees: BTreeMap<(VaultRef, u64), Kept>,
    by_use: BTreeMap<u64, (VaultRef, u64)>,
    clock: u64,
    bytes: usize,
    bytes_max: usize,
}

impl PastTrees {
    /// None yet, and never more than `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> PastTrees {
        let (trees, by_use) = (BTreeMap::new(), BTreeMap::new());
        PastTrees { trees, by_use, clock: 0, bytes: 0, bytes_max }
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a tree out; `None` if it is not here.
    pub fn take(&mut self, vault: VaultRef, height: u64) -> Option<PastTree> {
        let kept = self.trees.remove(&(vault, height))?;
        self.by_use.remove(&kept.used);
        self.bytes -= kept.bytes;
        Some(kept.tree)
    }

    /// Keeps a tree as the one used last, and drops those unused for longest as the budget demands. One that is
    /// too large even without what it can read again is not kept.
    pub fn put(&mut self, mut tree: PastTree) {
        let place = (tree.vault(), tree.height());
        self.take(place.0, place.1);
        tree.evict(self.bytes_max / SHARE);
        let bytes = size_of::<Kept>() + tree.memory_bytes();
        if bytes > self.bytes_max {
            return;
        }
        while self.bytes + bytes > self.bytes_max {
            let (_, oldest) = self.by_use.pop_first().expect("what takes bytes is kept");
            let dropped = self.trees.remove(&oldest).expect("both maps name the same trees");
            self.bytes -= dropped.bytes;
        }
        self.clock += 1;
        self.bytes += bytes;
        self.by_use.insert(self.clock, place);
        self.trees.insert(place, Kept { tree, used: self.clock, bytes });
    }

    /// Drops a vault's trees, when its rows are replaced or it is gone.
    pub fn forget(&mut self, vault: VaultRef) {
        let range = (vault, 0)..=(vault, u64::MAX);
        let heights: Vec<u64> = self.trees.range(range).map(|((_, height), _)| *height).collect();
        for height in heights {
            self.take(vault, height);
        }
    }
}
