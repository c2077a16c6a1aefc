//! Views of a real database.

use ledger_shard_core::view::{MemoryRows, RowWrite};
use tempfile::TempDir;

use super::*;
use crate::store::StoreConfig;

fn row(key: &[u8], value: Option<&[u8]>) -> RowWrite {
    RowWrite { family: Family::Latest, key: key.to_vec(), value: value.map(<[u8]>::to_vec) }
}

fn new_store() -> (TempDir, Store) {
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path(), None, &StoreConfig::default()).unwrap();
    (directory, store)
}

fn scanned(view: &dyn StateView, from: &[u8], to: &[u8], stop_at: usize) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    view.scan(Family::Latest, from, to, &mut |key, value| {
        assert_eq!(key, value);
        found.push(key.to_vec());
        found.len() < stop_at
    })
    .unwrap();
    found
}

#[test]
fn a_snapshot_is_not_moved_by_later_writes() {
    let (_directory, store) = new_store();
    store.write(&[row(b"a", Some(b"1")), row(b"b", Some(b"1"))]).unwrap();
    let (snapshot, live) = (SnapshotView::new(&store), LiveView::new(&store));
    store.write(&[row(b"a", Some(b"2")), row(b"b", None), row(b"c", Some(b"2"))]).unwrap();
    let keys = [b"c".to_vec(), b"a".to_vec(), b"x".to_vec(), b"b".to_vec()];
    let get = |view: &dyn StateView| -> Vec<Option<Vec<u8>>> {
        let all = view.multi_get(Family::Latest, &keys).unwrap();
        let each = keys.iter().map(|key| view.get(Family::Latest, key).unwrap());
        assert_eq!(each.collect::<Vec<_>>(), all);
        all
    };
    let one = |text: &[u8]| Some(text.to_vec());
    assert_eq!(get(&snapshot), [None, one(b"1"), None, one(b"1")]);
    assert_eq!(get(&live), [one(b"2"), one(b"2"), None, None]);
    assert_eq!(live.get(Family::History, b"a").unwrap(), None, "families are apart");
}

#[test]
fn the_store_behaves_like_rows_in_memory() {
    let (_directory, store) = new_store();
    let mut memory = MemoryRows::default();
    let keys: [&[u8]; 7] = [b"", b"\x00", b"a", b"a\x00", b"ab", b"b", b"\xff\xff"];
    let mut batch: Vec<RowWrite> = keys.iter().map(|key| row(key, Some(key))).collect();
    batch.push(row(b"gone", Some(b"gone")));
    batch.push(row(b"gone", None));
    store.write(&batch).unwrap();
    memory.write(batch);
    let (snapshot, live) = (SnapshotView::new(&store), LiveView::new(&store));
    for from in keys {
        for to in keys {
            for stop_at in [1, 2, 100] {
                // Rows in memory refuse a range that ends before it begins; here it is empty.
                let expected =
                    if from <= to { scanned(&memory, from, to, stop_at) } else { Vec::new() };
                assert_eq!(scanned(&snapshot, from, to, stop_at), expected, "{from:?}..{to:?}");
                assert_eq!(scanned(&live, from, to, stop_at), expected, "{from:?}..{to:?}");
            }
        }
    }
    let last = |from: &[u8], to: &[u8]| last_key(&store, Family::Latest, from..to).unwrap();
    assert_eq!(last(b"a", b"b"), Some(b"ab".to_vec()));
    assert_eq!(last(b"b", b"a"), None);
    assert_eq!(last(b"c", b"d"), None);
}
