//! Rounds written to a real database and read back.

use std::sync::atomic::{AtomicUsize, Ordering};

use ledger_shard_core::effects::{BootRecord, HardState, Replica};
use ledger_shard_core::entry::EntryKind;
use ledger_shard_core::rows::decode_hard_state;
use ledger_shard_core::view::StateView;
use ledger_types::Incarnation;
use tempfile::TempDir;

use super::*;
use crate::store::StoreConfig;
use crate::view::LiveView;

struct Bench {
    _directory: TempDir,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    sink: LogSink,
}

fn bench() -> Bench {
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path(), None, &StoreConfig::default()).unwrap();
    let (store, metrics) = (Arc::new(store), Arc::new(Metrics::default()));
    let fatal = Fatal::new(|reason| panic!("{reason}"));
    let sink = LogSink::new(store.clone(), metrics.clone(), fatal);
    Bench { _directory: directory, store, metrics, sink }
}

fn entry(index: u64, term: u64, len: usize) -> LogEntry {
    LogEntry { index, term, kind: EntryKind::Normal, data: vec![index as u8; len] }
}

fn persist(group: u64, ready: u64, entries: Vec<LogEntry>) -> Persist {
    let hard_state = Some(HardState { term: 6, vote: 1, commit: 5 });
    Persist { group: GroupId(group), ready, hard_state, entries, delete: None, must_sync: true }
}

fn round(persist: Vec<Persist>) -> LogRound {
    LogRound { persist, ..LogRound::default() }
}

#[test]
fn one_sync_serves_every_group_of_every_waiting_round() {
    let bench = bench();
    let called = Arc::new(AtomicUsize::new(0));
    let seen = called.clone();
    let mut rounds = vec![
        round((1..=5).map(|group| persist(group, 1, vec![entry(6, 6, 10)])).collect()),
        round(vec![persist(1, 2, vec![entry(7, 6, 10)])]),
    ];
    let key = b"checkpoint/x".to_vec();
    rounds[1].rows = vec![RowWrite { family: Family::Meta, key, value: Some(vec![1]) }];
    rounds[1].completions.push(Box::new(move || {
        seen.fetch_add(1, Ordering::SeqCst);
    }));
    let mut inputs = Vec::new();
    bench.sink.persist(&mut rounds, &mut inputs);
    let answered: Vec<(u64, u64)> = inputs
        .iter()
        .map(|input| match input {
            Input::Persisted { group, ready } => (group.0, *ready),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(answered, [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (1, 2)]);
    assert_eq!(called.load(Ordering::SeqCst), 1);
    let metrics = bench.metrics.snapshot();
    assert_eq!((metrics.syncs, metrics.log_rounds, metrics.entries_persisted), (1, 1, 6));
    assert_eq!(metrics.groups_per_sync[2], 1, "five groups");
    assert_eq!(bench.store.meta(b"checkpoint/x").unwrap(), Some(vec![1]));
}

#[test]
fn a_commit_index_alone_is_written_without_a_sync() {
    let bench = bench();
    let mut commit = persist(1, 1, Vec::new());
    commit.must_sync = false;
    let mut inputs = Vec::new();
    bench.sink.persist(&mut vec![round(vec![commit])], &mut inputs);
    assert_eq!(inputs.len(), 1);
    assert_eq!(bench.metrics.snapshot().syncs, 0);
    let key = raft_hard_state_key(GroupId(1));
    let value = LiveView::new(&bench.store).get(Family::Raft, &key).unwrap().unwrap();
    assert_eq!(decode_hard_state(&value).unwrap().commit, 5);
}

#[test]
fn an_overwritten_suffix_is_gone_with_the_batch_that_overwrites_it() {
    let bench = bench();
    let old = (6..=12).map(|index| entry(index, 6, 3)).collect();
    bench.sink.persist(&mut vec![round(vec![persist(1, 1, old)])], &mut Vec::new());
    let mut new = persist(1, 2, vec![entry(9, 7, 3), entry(10, 7, 3)]);
    new.delete = Some((9, 12));
    bench.sink.persist(&mut vec![round(vec![new])], &mut Vec::new());
    let wanted = FetchLog { group: GroupId(1), low: 6, high: 100, max_bytes: u64::MAX };
    let terms: Vec<(u64, u64)> =
        fetch(&bench.store, wanted).unwrap().iter().map(|one| (one.index, one.term)).collect();
    assert_eq!(terms, [(6, 6), (7, 6), (8, 6), (9, 7), (10, 7)]);
}

#[test]
fn a_truncated_log_begins_where_it_says_after_a_restart_too() {
    let Bench { _directory: directory, store, metrics, sink } = bench();
    let (group, node) = (GroupId(1), ledger_types::NodeId(1));
    let here = Replica { incarnation: Incarnation(1), node };
    let record = BootRecord::new_group(group, here.incarnation, vec![here]);
    crate::boot::create_group(&store, &record, &[]).unwrap();
    let entries = (6..=40).map(|index| entry(index, 6, 20_000)).collect();
    let mut written = round(vec![persist(1, 1, entries)]);
    let row = ledger_shard_core::rows::GroupRow {
        applied_index: 30,
        applied_term: 6,
        conf_state: record.conf_state,
        replicas: record.replicas,
    };
    let (family, key) = (Family::Vaults, ledger_shard_core::rows::group_row_key(group));
    written.rows = vec![RowWrite { family, key, value: Some(row.encode()) }];
    let cut = |first, index| {
        let incarnation = here.incarnation;
        let truncations = vec![TruncateLog { group, incarnation, first, index, term: 6 }];
        LogRound { truncations, ..LogRound::default() }
    };
    assert!(!cut(6, 20).is_empty());
    sink.persist(&mut vec![written], &mut Vec::new());
    let syncs = metrics.snapshot().syncs;
    // Two rounds in one batch, and nothing to wait for.
    sink.persist(&mut vec![cut(6, 20), cut(21, 25)], &mut Vec::new());
    let after = metrics.snapshot();
    assert_eq!(after.syncs, syncs, "no sync of its own");
    assert_eq!((after.log_truncations, after.log_entries_truncated), (2, 20));
    drop((sink, store));
    let store = Store::open(directory.path(), None, &StoreConfig::default()).unwrap();
    let boot = crate::boot::load(&store, node).unwrap();
    assert_eq!((boot.sleeping[0].first_index, boot.sleeping[0].last_index), (26, 40));
    let record = crate::boot::load_group(&store, node, group).unwrap();
    assert_eq!((record.truncated, record.last_index), ((25, 6), 40));
    assert_eq!(record.term_runs, [(26, 6)]);
    let wanted = |low| FetchLog { group, low, high: 100, max_bytes: u64::MAX };
    assert_eq!(fetch(&store, wanted(26)).unwrap().len(), 15);
    assert_eq!(fetch(&store, wanted(25)).unwrap(), []);
    // The start wrote the log into files: entries 26..=30 are applied.
    let about = 50_000..200_000;
    assert!(about.contains(&record.log_bytes), "{} bytes", record.log_bytes);
}

#[test]
fn a_fetch_is_bounded_and_never_skips() {
    let bench = bench();
    let entries = [6, 7, 8, 10].map(|index| entry(index, 6, 100)).to_vec();
    bench.sink.persist(&mut vec![round(vec![persist(1, 1, entries)])], &mut Vec::new());
    let indexes = |low, high, max_bytes| -> Vec<u64> {
        let wanted = FetchLog { group: GroupId(1), low, high, max_bytes };
        match bench.sink.fetch(wanted) {
            Input::Fetched { group: GroupId(1), low: asked, entries } if asked == low => {
                entries.iter().map(|one| one.index).collect()
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(indexes(6, 9, u64::MAX), [6, 7, 8]);
    assert_eq!(indexes(6, 11, u64::MAX), [6, 7, 8], "stops at the hole");
    assert_eq!(indexes(6, 9, 1), [6], "at least one");
    assert_eq!(indexes(6, 9, 250), [6, 7]);
    assert_eq!(indexes(5, 9, u64::MAX), [0u64; 0], "nothing where the first is missing");
    assert_eq!(indexes(7, 8, u64::MAX), [7]);
}
