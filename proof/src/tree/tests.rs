//! Tests of the state tree against its recursive definition, over random histories with flushes,
//! evictions and crashes.

mod budget;
mod lists;

use std::collections::{BTreeMap, BTreeSet};

use ledger_types::Digest;
use proptest::prelude::*;

use super::*;
use crate::record::Record;

/// Rows and pages in memory, ordered as a store orders them.
#[derive(Clone, Default)]
struct Rows {
    records: BTreeMap<Vec<u8>, [u8; 93]>,
    pages: BTreeMap<(u64, u64), Vec<u8>>,
}

impl TreeStore for Rows {
    fn page(&self, id: u64, height: u64) -> Result<Option<Vec<u8>>, ReadFault> {
        Ok(self.pages.get(&(id, height)).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ReadFault> {
        for (key, record) in self.records.range(from.to_vec()..) {
            if !visit(key, record) {
                break;
            }
        }
        Ok(())
    }
}

impl Rows {
    fn write(&mut self, write: PageWrite) {
        match write {
            PageWrite::Put { id, height, bytes } => {
                self.pages.insert((id, height), bytes);
            }
            PageWrite::Retire { id, height } => {
                let deleted = self.pages.remove(&(id, height));
                assert!(deleted.is_some(), "page {id} at {height} is deleted once");
            }
        }
    }

    fn naive_leaves(&self) -> Vec<(&[u8], Digest)> {
        self.records
            .iter()
            .map(|(key, record)| (&key[..], hash::state_leaf(key, &hash::plain(record))))
            .collect()
    }

    /// The root by the recursive definition.
    fn naive_root(&self) -> Digest {
        naive(&self.naive_leaves())
    }
}

fn naive(leaves: &[(&[u8], Digest)]) -> Digest {
    match leaves {
        [] => hash::empty_root(),
        [(_, leaf)] => *leaf,
        [(first, _), .., (last, _)] => {
            let bit = bits::first_difference(first, last).expect("keys are distinct");
            let split = leaves.partition_point(|(key, _)| bits::side(key, bit) == 0);
            hash::branch(bit, &naive(&leaves[..split]), &naive(&leaves[split..]))
        }
    }
}

fn record(number: u64) -> Record {
    Record {
        created_height: number,
        modified_height: number,
        modified_tx: 0,
        expires_at: 0,
        previous_record_hash: Digest::ZERO,
        value_hash: hash::plain(&number.to_be_bytes()),
    }
}

/// A small generator, so that one proptest seed makes a long history.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// Keys of three kinds: random ones, runs that share all but their end, and each a prefix of the
/// next.
fn key(dice: &mut Dice) -> Vec<u8> {
    match dice.roll(10) {
        0..=6 => format!("\x01user:{:05}", dice.roll(4000)).into_bytes(),
        7..=8 => vec![b'a'; 1 + dice.roll(300) as usize],
        _ => {
            let mut key = vec![2; 1 + dice.roll(20) as usize];
            key.push(dice.roll(256) as u8);
            key
        }
    }
}

/// A vault's tree beside its rows, with what a replica keeps about both.
struct Replica {
    rows: Rows,
    tree: StateTree,
    anchor: TreeAnchor,
    height: u64,
    changed_since_anchor: BTreeSet<Vec<u8>>,
}

impl Replica {
    fn new() -> Replica {
        let rows = Rows::default();
        let (tree, anchor) = (StateTree::empty(), TreeAnchor::empty());
        Replica { rows, tree, anchor, height: 0, changed_since_anchor: BTreeSet::new() }
    }

    /// Applies one block and commits its rows.
    fn block(&mut self, changes: Vec<(Vec<u8>, Option<Record>)>) {
        self.round(vec![changes]);
    }

    /// Applies blocks whose rows are committed together, after the last.
    fn round(&mut self, blocks: Vec<Vec<(Vec<u8>, Option<Record>)>>) {
        for changes in &blocks {
            self.height += 1;
            let hashes: Vec<(&[u8], Option<Digest>)> = changes
                .iter()
                .map(|(key, record)| (&key[..], record.map(|record| record.hash())))
                .collect();
            self.tree.apply(&hashes, &self.rows).unwrap();
            self.tree.root();
        }
        for (key, record) in blocks.into_iter().flatten() {
            self.changed_since_anchor.insert(key.clone());
            match record {
                Some(record) => self.rows.records.insert(key, record.encode()),
                None => self.rows.records.remove(&key),
            };
        }
    }

    fn flush(&mut self) {
        let rows = &mut self.rows;
        self.anchor = self.tree.flush(self.height, |write| rows.write(write));
        assert_eq!(TreeAnchor::decode(&self.anchor.encode()).as_ref(), Ok(&self.anchor));
        self.changed_since_anchor.clear();
    }

    fn crash(&mut self) {
        self.tree = StateTree::open(&self.anchor);
        let keys: Vec<&Vec<u8>> = self.changed_since_anchor.iter().collect();
        for some in keys.chunks(7) {
            self.tree.reconcile(some, &self.rows).unwrap();
        }
    }

    fn check_root(&mut self) {
        assert_eq!(self.tree.root(), self.rows.naive_root());
        assert_eq!(self.tree.leaf_count(), self.rows.records.len() as u64);
    }

    fn check_proof(&mut self, key: &[u8]) {
        if self.rows.records.is_empty() {
            assert!(self.tree.prove(key, &self.rows).is_err());
            return;
        }
        let proof = self.tree.prove(key, &self.rows).unwrap();
        assert_eq!(KeyProof::decode(&proof.encode()).as_ref(), Ok(&proof));
        let expected = match self.rows.records.get(key) {
            Some(record) => Presence::Present(Record::decode(record).unwrap()),
            None => Presence::Absent,
        };
        assert_eq!(proof.verify(&self.tree.root(), key), Ok(expected));
    }

    /// Every page that the store holds is reached from the anchor, and the other way round.
    fn check_pages(&self) {
        let mut reached = BTreeSet::new();
        let mut waiting: Vec<(u64, u64)> = self.anchor.root_page.into_iter().collect();
        while let Some(place) = waiting.pop() {
            assert!(reached.insert(place), "a page has one parent");
            let summary = PageSummary::read(&self.rows.pages[&place]).unwrap();
            if Some(place) == self.anchor.root_page {
                let found = (summary.root, summary.leaf_count);
                assert_eq!(found, (self.anchor.root, self.anchor.leaf_count));
            }
            for page in summary.pages {
                let below = PageSummary::read(&self.rows.pages[&(page.id, page.height)]).unwrap();
                assert_eq!((below.root, below.leaf_count), (page.root, page.leaf_count));
                waiting.push((page.id, page.height));
            }
        }
        assert!(self.rows.pages.keys().eq(reached.iter()), "no page is left behind");
    }
}

fn run(seed: u64, steps: u64) {
    let mut dice = Dice(seed | 1);
    let mut replica = Replica::new();
    for step in 0..steps {
        match dice.roll(12) {
            0..=5 => {
                let deletes_of_ten = dice.roll(10);
                let mut blocks = Vec::new();
                for _ in 0..=dice.roll(3) {
                    let changes = (0..dice.roll(120)).map(|number| {
                        let is_delete = dice.roll(10) < deletes_of_ten;
                        let record = (!is_delete).then(|| record(step * 1000 + number));
                        (key(&mut dice), record)
                    });
                    blocks.push(changes.collect());
                }
                replica.round(blocks);
            }
            6..=7 => {
                replica.flush();
                replica.check_pages();
            }
            8 => replica.crash(),
            9 => {
                let target = replica.tree.memory_bytes() * dice.roll(10) as usize / 10;
                replica.tree.evict(target);
            }
            _ => {
                let key = key(&mut dice);
                replica.check_proof(&key);
            }
        }
        replica.check_root();
    }
    replica.crash();
    replica.check_root();
    replica.flush();
    replica.check_pages();
    let everything: Vec<_> = replica.rows.records.keys().map(|key| (key.clone(), None)).collect();
    replica.block(everything);
    replica.check_root();
    replica.flush();
    assert!(replica.rows.pages.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_history_has_the_root_of_the_definition(seed in any::<u64>()) {
        run(seed, 30);
    }
}

/// Enough keys for four levels of pages, then loss of nearly all of them.
#[test]
fn a_tree_of_many_pages_grows_and_shrinks() {
    let mut replica = Replica::new();
    let key = |number: u64| hash::plain(&number.to_be_bytes()).0[..12].to_vec();
    for block in 0..4u64 {
        let numbers = block * 20_000..(block + 1) * 20_000;
        replica.block(numbers.map(|number| (key(number), Some(record(number)))).collect());
        replica.check_root();
        replica.flush();
        replica.check_pages();
        assert_eq!(level(replica.tree.leaf_count()), if block == 3 { 4 } else { 3 });
        replica.tree.evict(1 << 20);
        assert!(replica.tree.memory_bytes() <= 1 << 20);
    }
    replica.block((0..50).map(|number| (key(number * 1500), None)).collect());
    replica.crash();
    replica.check_root();
    replica.check_proof(&key(7));
    replica.check_proof(&key(1500));
    replica.block((0..80_000).filter(|n| n % 800 != 1).map(|n| (key(n), None)).collect());
    replica.check_root();
    replica.flush();
    replica.check_pages();
    assert_eq!(replica.rows.records.len(), 100);
    replica.crash();
    replica.check_root();
}

/// Each key is a prefix of the next, so every branch has a single leaf on one side.
#[test]
fn the_deepest_tree_is_cut_into_bounded_pages() {
    let mut replica = Replica::new();
    let keys: Vec<Vec<u8>> = (1..=2048).map(|len| vec![0xff; len]).collect();
    replica.block(keys.iter().map(|key| (key.clone(), Some(record(1)))).collect());
    replica.flush();
    replica.check_pages();
    assert!(replica.rows.pages.len() >= 2048 / PAGE_BRANCHES_MAX);
    let largest = replica.rows.pages.values().map(Vec::len).max().unwrap();
    assert!(largest < 600_000, "{largest} bytes");
    replica.crash();
    replica.check_proof(&keys[2047]);
    let depth = replica.tree.prove(&keys[2047], &replica.rows).unwrap().path.len();
    assert_eq!(depth, 2047);
    replica.check_root();
}

/// A tree with flushed pages and nothing loaded.
fn stored_replica() -> Replica {
    let mut replica = Replica::new();
    replica.block((0..3000u64).map(|n| (n.to_be_bytes().to_vec(), Some(record(n)))).collect());
    replica.flush();
    replica.crash();
    replica
}

#[test]
fn every_changed_byte_of_a_page_is_noticed_or_means_nothing() {
    let replica = stored_replica();
    let root_page = replica.anchor.root_page.unwrap();
    let honest = replica.rows.pages[&root_page].clone();
    let root = replica.rows.naive_root();
    for offset in 0..honest.len() {
        let mut rows = replica.rows.clone();
        rows.pages.get_mut(&root_page).unwrap()[offset] ^= 0x10;
        let mut tree = StateTree::open(&replica.anchor);
        for number in (0..3000u64).step_by(37) {
            let key = number.to_be_bytes();
            match tree.prove(&key, &rows) {
                Ok(proof) => {
                    let expected = Presence::Present(record(number));
                    assert_eq!(proof.verify(&root, &key), Ok(expected), "offset {offset}");
                }
                Err(ReadFault::Corrupt { .. }) => break,
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn rows_that_contradict_the_tree_are_corrupt() {
    let key = 5u64.to_be_bytes().to_vec();
    let damages: [fn(&mut Rows, &Vec<u8>); 4] = [
        |rows, key| rows.records.get_mut(key).unwrap()[60] ^= 1,
        |rows, key| assert!(rows.records.remove(key).is_some()),
        |rows, key| {
            rows.records.insert([&key[..], &[1]].concat(), record(1).encode());
        },
        |rows, _| rows.records.clear(),
    ];
    for damage in damages {
        let mut replica = stored_replica();
        damage(&mut replica.rows, &key);
        let fault = replica.tree.prove(&key, &replica.rows).unwrap_err();
        assert!(matches!(fault, ReadFault::Corrupt { .. }), "{fault}");
        let mut replica = stored_replica();
        damage(&mut replica.rows, &key);
        let fault = replica.tree.apply(&[(&key, None)], &replica.rows).unwrap_err();
        assert!(matches!(fault, ReadFault::Corrupt { .. }), "{fault}");
    }
    let mut replica = stored_replica();
    replica.rows.pages.clear();
    assert!(replica.tree.prove(&key, &replica.rows).is_err());
}

/// A bucket that filled up after the anchor is split while catching up, far beyond its size.
#[test]
fn buckets_that_grew_or_emptied_since_the_anchor_are_caught_up() {
    let mut replica = stored_replica();
    let grown = (0..500u64)
        .map(|n| ([&7u64.to_be_bytes()[..], &n.to_be_bytes()].concat(), Some(record(n))));
    replica.block(grown.collect());
    replica.block((100..400u64).map(|n| (n.to_be_bytes().to_vec(), None)).collect());
    replica.crash();
    replica.check_root();
    replica.flush();
    replica.check_pages();
    replica.crash();
    replica.check_root();
    replica.check_proof(&7u64.to_be_bytes());
    replica.check_proof(&200u64.to_be_bytes());
}

/// The rows behind a cell, so that a rebuild can read pages that it has just written.
struct Shared(std::cell::RefCell<Rows>);

impl TreeStore for Shared {
    fn page(&self, id: u64, height: u64) -> Result<Option<Vec<u8>>, ReadFault> {
        self.0.borrow().page(id, height)
    }

    fn scan(
        &self,
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), ReadFault> {
        self.0.borrow().scan(from, visit)
    }
}

#[test]
fn a_rebuild_in_little_memory_has_the_root_and_leaves_only_its_pages() {
    let mut replica = Replica::new();
    let key = |number: u64| hash::plain(&number.to_be_bytes()).0[..12].to_vec();
    replica.block((0..20_000).map(|number| (key(number), Some(record(number)))).collect());
    let root = replica.tree.root();
    let shared = Shared(std::cell::RefCell::new(replica.rows));
    let budget = 600_000;
    let (mut tree, anchor) = StateTree::rebuild(1, budget, &shared, |write| {
        shared.0.borrow_mut().write(write);
    })
    .unwrap();
    assert_eq!((tree.root(), tree.leaf_count()), (root, 20_000));
    assert!(tree.memory_bytes() < 3 * budget, "{} bytes", tree.memory_bytes());
    let mut replica = Replica { rows: shared.0.into_inner(), tree, anchor, ..Replica::new() };
    replica.check_pages();
    replica.crash();
    replica.check_proof(&key(77));
}

#[test]
fn a_tree_goes_back_to_the_rows_of_an_earlier_height() {
    let mut replica = stored_replica();
    let past = Rows { pages: BTreeMap::new(), ..replica.rows.clone() };
    let (root, mut dice) = (past.naive_root(), Dice(5));
    for _ in 0..5 {
        let change = |dice: &mut Dice| {
            let key = dice.roll(4000).to_be_bytes().to_vec();
            (key, (dice.roll(3) > 0).then(|| record(dice.roll(1000))))
        };
        replica.block((0..100).map(|_| change(&mut dice)).collect());
    }
    let changed = replica.changed_since_anchor.clone();
    replica.flush();
    let mut tree = StateTree::open(&replica.anchor);
    let rows = Rows { records: past.records, pages: replica.rows.pages.clone() };
    tree.reconcile(&Vec::from_iter(changed), &rows).unwrap();
    assert_eq!((tree.root(), tree.leaf_count()), (root, 3000));
    let key = 7u64.to_be_bytes();
    let proof = tree.prove(&key, &rows).unwrap();
    assert_eq!(proof.verify(&root, &key), Ok(Presence::Present(record(7))));
}

#[test]
fn a_tree_can_move_to_another_thread() {
    fn assert_send<T: Send>() {}
    assert_send::<StateTree>();
}
