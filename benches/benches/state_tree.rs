//! What one changed key costs the state tree: CPU time, warm, and bytes of pages.
//!
//! One million keys of 30 to 60 bytes, batches of 100 random keys, hashing included.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ledger_proof::{PageWrite, ReadFault, Record, StateTree, TreeStore, hash};
use ledger_types::Digest;

const KEYS: u64 = 1_000_000;
const BATCH: u64 = 100;

/// Rows and pages in memory.
#[derive(Default)]
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

/// Spreads numbers so that neighbours in time are not neighbours in the tree.
fn scatter(number: u64) -> u64 {
    let mixed = (number ^ number >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ mixed >> 32
}

/// A relationship's key, 30 to 60 bytes long.
fn key(number: u64) -> Vec<u8> {
    let mixed = scatter(number);
    let document = "d".repeat(1 + (mixed % 30) as usize);
    format!("\x02{document}:{}\0viewer\0user:{}", mixed % 100_000, number).into_bytes()
}

fn record(height: u64) -> Record {
    Record {
        created_height: 1,
        modified_height: height,
        modified_tx: 0,
        expires_at: 0,
        previous_record_hash: Digest::ZERO,
        value_hash: hash::plain(b""),
    }
}

/// A warm tree of [`KEYS`] keys with its rows and flushed pages.
fn grown() -> (StateTree, Rows) {
    let (mut tree, mut rows) = (StateTree::empty(), Rows::default());
    let record = record(1);
    for start in (0..KEYS).step_by(10_000) {
        let changes: Vec<_> =
            (start..start + 10_000).map(|number| (key(number), Some(record.hash()))).collect();
        tree.apply(&changes, &rows).expect("memory does not fail");
        rows.records.extend(changes.into_iter().map(|(key, _)| (key, record.encode())));
    }
    flush(&mut tree, &mut rows, 1);
    (tree, rows)
}

/// Flushes and returns how many bytes of pages were written.
fn flush(tree: &mut StateTree, rows: &mut Rows, height: u64) -> usize {
    let mut written = 0;
    tree.flush(height, |write| match write {
        PageWrite::Put { id, height, bytes } => {
            written += bytes.len();
            rows.pages.insert((id, height), bytes);
        }
        PageWrite::Delete { id, height } => {
            rows.pages.remove(&(id, height));
        }
    });
    written
}

fn batch(number: u64, keys: u64) -> Vec<(Vec<u8>, Option<Digest>)> {
    let first = number * keys;
    (first..first + keys)
        .map(|number| (key(scatter(number + 7) % KEYS), Some(record(number).hash())))
        .collect()
}

#[allow(clippy::print_stdout, reason = "a benchmark reports to the terminal")]
fn report_sizes(tree: &mut StateTree, rows: &mut Rows) {
    let bytes = tree.memory_bytes();
    println!("memory: {} bytes per key", bytes / KEYS as usize);
    for (height, lag) in (2..).zip([100, 1_000, 10_000, 20_000, 50_000, 100_000]) {
        tree.apply(&batch(height * 100, lag), rows).expect("memory does not fail");
        let written = flush(tree, rows, height);
        println!(
            "pages: {} bytes per changed key, flushed every {lag} keys",
            written / lag as usize
        );
    }
}

fn state_tree(criterion: &mut Criterion) {
    let (mut tree, mut rows) = grown();
    report_sizes(&mut tree, &mut rows);
    let tree = RefCell::new(tree);
    let mut next = 10_000;
    let mut group = criterion.benchmark_group("state_tree");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("update 100 of 1M keys", |bencher| {
        bencher.iter_batched(
            || {
                next += 1;
                batch(next, BATCH)
            },
            |changes| {
                let mut tree = tree.borrow_mut();
                tree.apply(&changes, &rows).expect("memory does not fail");
                black_box(tree.root())
            },
            BatchSize::SmallInput,
        );
    });
    let mut fresh = KEYS;
    group.bench_function("insert and delete 100 of 1M keys", |bencher| {
        bencher.iter_batched(
            || {
                fresh += BATCH / 2;
                let inserted = (fresh..fresh + BATCH / 2).map(|n| (key(n), Some(record(n).hash())));
                let deleted = (fresh - BATCH / 2..fresh).map(|n| (key(n), None));
                inserted.chain(deleted).collect::<Vec<_>>()
            },
            |changes| {
                let mut tree = tree.borrow_mut();
                tree.apply(&changes, &rows).expect("memory does not fail");
                black_box(tree.root())
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
    let (mut tree, rows) = grown();
    let mut number = 0;
    criterion.bench_function("state_tree/prove one of 1M keys", |bencher| {
        bencher.iter(|| {
            number += 1;
            tree.prove(&key(scatter(number) % KEYS), &rows).expect("memory does not fail")
        });
    });
}

criterion_group!(benches, state_tree);
criterion_main!(benches);
