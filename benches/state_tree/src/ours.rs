//! The ledger's tree as the node uses it: a row per key, pages written behind, a budget of memory.
//!
//! Rows and pages are kept in memory where the node has RocksDB, so that the figures are of the
//! tree alone. When pages are written and memory is given back follows
//! `shard/core/src/apply/cache.rs`.

use ledger_proof::{ListLimits, ListProof, PageWrite, StateTree, TreeAnchor};
use ledger_types::Digest;

use crate::cost::timed;
use crate::rows::Rows;
use crate::table::{Proofs, Updates};
use crate::workload::{Draw, key, record};

/// Default `tree_flush_blocks` of a node.
const FLUSH_BLOCKS: u64 = 256;
/// Default `tree_flush_bytes` of a node, and what it takes a changed key for.
const FLUSH_KEYS: u64 = 8 * 1024 * 1024 / 300;
/// Id and height, which make the key of a page within its vault.
const PAGE_KEY_BYTES: u64 = 16;
/// Keys per block while the tree is filled.
const FILL_BATCH: u64 = 10_000;

/// When pages are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flush {
    /// By a node's default settings.
    Behind,
    /// With every batch.
    EveryBatch,
}

/// A vault's tree, rows and pages.
pub(crate) struct Ours {
    tree: StateTree,
    rows: Rows,
    anchor: TreeAnchor,
    height: u64,
    keys_since_flush: u64,
    budget_bytes: usize,
}

impl Ours {
    /// The tree of `keys` keys, all of it in memory, its pages written.
    pub(crate) fn filled(keys: u64) -> Ours {
        let mut ours = Ours {
            tree: StateTree::empty(),
            rows: Rows::default(),
            anchor: TreeAnchor::empty(),
            height: 0,
            keys_since_flush: 0,
            budget_bytes: usize::MAX,
        };
        let mut numbers = (0..keys).peekable();
        while numbers.peek().is_some() {
            let batch = numbers.by_ref().take(FILL_BATCH as usize).collect();
            ours.block(batch, &[], &mut Updates::default());
        }
        ours.flush(&mut Updates::default());
        ours
    }

    /// Drops everything but rows and pages and goes on within `budget_bytes`. Returns how many
    /// bytes the allocator got back and how many the tree had said that it holds.
    pub(crate) fn limit(&mut self, budget_bytes: usize) -> (usize, usize) {
        self.flush(&mut Updates::default());
        let said = self.tree.memory_bytes();
        let before = crate::ALLOCATOR.current_usage();
        self.tree = StateTree::open(&self.anchor);
        self.budget_bytes = budget_bytes;
        (before - crate::ALLOCATOR.current_usage(), said)
    }

    /// Bytes of all pages.
    pub(crate) fn page_bytes(&self) -> usize {
        self.rows.pages.values().map(|page| page.len() + PAGE_KEY_BYTES as usize).sum()
    }

    /// Changes at least `keys` keys in batches and ends with a flush.
    pub(crate) fn update(
        &mut self,
        draw: &mut Draw,
        batch: u64,
        keys: u64,
        flush: Flush,
    ) -> Updates {
        self.change(keys, flush, || (draw.batch(batch), Vec::new()))
    }

    /// The same with keys that are not among the first `keys_there`: half of each batch is new, the
    /// other half are those that the batch before had added and that now go.
    pub(crate) fn turn_over(&mut self, keys_there: u64, batch: u64, keys: u64) -> Updates {
        let half = batch / 2;
        let mut next = keys_there;
        let mut added = Vec::new();
        self.change(keys, Flush::Behind, || {
            let gone = std::mem::replace(&mut added, (next..next + half).collect());
            next += half;
            (added.clone(), gone)
        })
    }

    /// Changes at least `keys` keys, batch by batch, and ends with a flush.
    fn change(
        &mut self,
        keys: u64,
        flush: Flush,
        mut next_batch: impl FnMut() -> (Vec<u64>, Vec<u64>),
    ) -> Updates {
        self.flush(&mut Updates::default());
        let mut cost = Updates { held_bytes_max: Some(0), ..Updates::default() };
        loop {
            let (set, deleted) = next_batch();
            self.block(set, &deleted, &mut cost);
            let blocks = self.height - self.anchor.height;
            let is_due = blocks >= FLUSH_BLOCKS || self.keys_since_flush >= FLUSH_KEYS;
            if is_due || flush == Flush::EveryBatch {
                self.flush(&mut cost);
            }
            let held = self.tree.memory_bytes();
            cost.held_bytes_max = cost.held_bytes_max.max(Some(held));
            self.trim(&mut cost);
            if cost.keys >= keys && self.keys_since_flush == 0 {
                return cost;
            }
        }
    }

    fn block(&mut self, set: Vec<u64>, deleted: &[u64], cost: &mut Updates) {
        self.height += 1;
        let records: Vec<_> =
            set.iter().map(|&number| (key(number), record(number, self.height))).collect();
        let deleted: Vec<_> = deleted.iter().map(|&number| key(number)).collect();
        let changes: Vec<(&[u8], Option<Digest>)> = records
            .iter()
            .map(|(key, record)| (&key[..], Some(record.hash())))
            .chain(deleted.iter().map(|key| (&key[..], None)))
            .collect();
        let changed = changes.len() as u64;
        timed(&mut cost.update, || {
            self.tree.apply(&changes, &self.rows).expect("memory does not fail");
            self.tree.root()
        });
        for (key, record) in records {
            self.rows.records.insert(key.into(), record.encode());
        }
        for key in &deleted {
            self.rows.records.remove(&key[..]);
        }
        cost.keys += changed;
        self.keys_since_flush += changed;
    }

    fn flush(&mut self, cost: &mut Updates) {
        let mut writes = Vec::new();
        self.anchor =
            timed(&mut cost.flush, || self.tree.flush(self.height, |write| writes.push(write)));
        for write in writes {
            match write {
                PageWrite::Put { id, height, bytes } => {
                    cost.written_bytes += bytes.len() as u64 + PAGE_KEY_BYTES;
                    self.rows.pages.insert((id, height), bytes);
                }
                PageWrite::Retire { id, height } => {
                    cost.written_bytes += PAGE_KEY_BYTES;
                    self.rows.pages.remove(&(id, height));
                }
            }
        }
        self.keys_since_flush = 0;
    }

    /// Over budget: half of it is given back, as a node does.
    fn trim(&mut self, cost: &mut Updates) {
        if self.tree.memory_bytes() <= self.budget_bytes {
            return;
        }
        if self.keys_since_flush > 0 {
            self.flush(cost);
        }
        timed(&mut cost.evict, || self.tree.evict(self.budget_bytes / 2));
        assert!(self.tree.memory_bytes() <= self.budget_bytes, "the budget holds after each batch");
    }

    /// Proofs of single keys that are there.
    pub(crate) fn prove_keys(&mut self, draw: &mut Draw, count: u64) -> Proofs {
        let root = self.tree.root();
        let mut cost = Proofs { count, ..Proofs::default() };
        for _ in 0..count {
            let key = key(draw.one());
            let proof = timed(&mut cost.make, || self.tree.prove(&key, &self.rows));
            let proof = proof.expect("memory does not fail");
            cost.bytes += proof.encode().len() as u64;
            timed(&mut cost.verify, || proof.verify(&root, &key)).expect("the proof holds");
            self.trim(&mut Updates::default());
        }
        cost
    }

    /// Pages of a list, `items` long, that begin somewhere among the keys.
    pub(crate) fn prove_lists(&mut self, draw: &mut Draw, items: usize, count: u64) -> Proofs {
        let root = self.tree.root();
        let limits = ListLimits { items, leaf_bytes: usize::MAX };
        let mut cost = Proofs { count, ..Proofs::default() };
        for _ in 0..count {
            let kept = key(draw.one());
            let proof = timed(&mut cost.make, || {
                self.tree.prove_list(b"\x01", Some(&kept), limits, &self.rows)
            });
            let proof = proof.expect("memory does not fail").expect("the kept key is there");
            cost.bytes += proof.encode().len() as u64;
            let ListProof::Page(page) = proof else { panic!("what begins with a key is a page") };
            timed(&mut cost.verify, || page.verify(&root, b"\x01")).expect("the proof holds");
        }
        cost
    }
}
