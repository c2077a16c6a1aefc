//! Groups on disk, whole and damaged.

use ledger_shard_core::effects::{HardState, Replica};
use ledger_shard_core::entry::{EntryKind, LogEntry};
use ledger_shard_core::rows::{
    GroupRow, LocalState, encode_hard_state, encode_raft_entry, raft_entry_key,
    raft_hard_state_key, raft_local_key,
};
use ledger_types::Incarnation;
use tempfile::TempDir;

use super::*;
use crate::store::StoreConfig;

const GROUP: GroupId = GroupId(3);
const NODE: NodeId = NodeId(1);

fn new_store() -> (TempDir, Store) {
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path(), None, &StoreConfig::default()).unwrap();
    (directory, store)
}

fn new_group(group: GroupId) -> BootRecord {
    let replicas = [1, 2, 3].map(|id| Replica { incarnation: Incarnation(id), node: NodeId(id) });
    BootRecord::new_group(group, Incarnation(1), replicas.to_vec())
}

fn entry(index: u64, term: u64) -> LogEntry {
    LogEntry { index, term, kind: EntryKind::Normal, data: index.to_be_bytes().to_vec() }
}

fn put(store: &Store, family: Family, key: Vec<u8>, value: Option<Vec<u8>>) {
    store.write(&[RowWrite { family, key, value }]).unwrap();
}

fn put_hard_state(store: &Store, term: u64, commit: u64) {
    let value = encode_hard_state(&HardState { term, vote: 0, commit });
    put(store, Family::Raft, raft_hard_state_key(GROUP), Some(value));
}

fn put_applied(store: &Store, applied_index: u64) {
    let record = new_group(GROUP);
    let (conf_state, replicas) = (record.conf_state, record.replicas);
    let row = GroupRow { applied_index, applied_term: 5, conf_state, replicas };
    put(store, Family::Vaults, group_row_key(GROUP), Some(row.encode()));
}

/// A group with entries 6..=40 in terms 6 (6..=9), 7 (10..=30) and 9 (31..=40), applied up to `applied`.
fn grown(store: &Store, applied: u64) -> Vec<LogEntry> {
    create_group(store, &new_group(GROUP), &[]).unwrap();
    let term = |index| match index {
        6..=9 => 6,
        10..=30 => 7,
        _ => 9,
    };
    let entries: Vec<LogEntry> = (6..=40).map(|index| entry(index, term(index))).collect();
    for one in &entries {
        let key = raft_entry_key(GROUP, one.index);
        put(store, Family::Raft, key, Some(encode_raft_entry(one)));
    }
    put_hard_state(store, 9, 12);
    put_applied(store, applied);
    entries
}

#[test]
fn a_new_group_is_read_as_it_was_made() {
    let (_directory, store) = new_store();
    let records = [GROUP, GroupId(0), GroupId(u64::MAX)].map(new_group);
    for record in &records {
        create_group(&store, record, &[]).unwrap();
    }
    let boot = load(&store, NODE).unwrap();
    let [first, zero, last] = records;
    // The directory's group runs from the start, the others wait to be named.
    assert_eq!(boot.records, [zero]);
    let sleeping: Vec<GroupId> = boot.sleeping.iter().map(|status| status.group).collect();
    assert_eq!(sleeping, [first.group, last.group]);
    for record in [first, last] {
        assert_eq!(load_group(&store, NODE, record.group).unwrap(), record);
    }
    assert_eq!(boot.orphans, []);
    let again = create_group(&store, &new_group(GROUP), &[]).unwrap_err();
    assert!(matches!(again, BootError::Exists { group: GROUP }), "{again}");
}

#[test]
fn a_log_is_read_with_its_terms_and_its_tail() {
    for applied in [5, 6, 9, 10, 25, 30, 31, 39, 40] {
        let (_directory, store) = new_store();
        let entries = grown(&store, applied);
        let record = load_group(&store, NODE, GROUP).unwrap();
        assert_eq!(record.term_runs, [(6, 6), (10, 7), (31, 9)], "applied {applied}");
        assert_eq!(record.hard_state.commit, applied.max(12), "raised to what was applied");
        assert_eq!((record.applied, record.last_index), (applied, 40));
        let above = usize::try_from(applied).unwrap() - 5;
        assert_eq!(record.entries, entries[above..]);
    }
}

#[test]
fn a_truncated_log_begins_after_its_truncation() {
    let (_directory, store) = new_store();
    let entries = grown(&store, 20);
    let local = LocalState { truncated_index: 15, truncated_term: 7, incarnation: Incarnation(1) };
    put(&store, Family::Raft, raft_local_key(GROUP), Some(local.encode()));
    for index in 6..=15 {
        put(&store, Family::Raft, raft_entry_key(GROUP, index), None);
    }
    let record = load_group(&store, NODE, GROUP).unwrap();
    assert_eq!(record.truncated, (15, 7));
    assert_eq!(record.term_runs, [(16, 7), (31, 9)]);
    assert_eq!(record.entries, entries[15..]);
}

#[test]
fn rows_that_contradict_each_other_stop_the_boot() {
    let refused = |what: &str, damage: &dyn Fn(&Store)| {
        let (_directory, store) = new_store();
        grown(&store, 20);
        damage(&store);
        let error = load_group(&store, NODE, GROUP).unwrap_err();
        assert!(
            matches!(error, BootError::Group(GroupRowsError::Corrupt { group: GROUP, .. })),
            "{what}: {error}"
        );
        assert!(error.to_string().contains(what), "{what}: {error}");
        load(&store, NODE)
    };
    // What needs no look into the log is found at the start, the rest when the group is opened.
    let at_start = |what: &str, damage: &dyn Fn(&Store)| {
        let error = refused(what, damage).unwrap_err();
        assert!(error.to_string().contains(what), "{what}: {error}");
    };
    let remove = |store: &Store, index| {
        put(store, Family::Raft, raft_entry_key(GROUP, index), None);
    };
    refused("entry 33 is missing", &|store| remove(store, 33)).unwrap();
    refused("entry 6 is missing", &|store| remove(store, 6)).unwrap();
    at_start("applied 41", &|store| put_applied(store, 41));
    at_start("applied 4", &|store| put_applied(store, 4));
    at_start("commit 41", &|store| put_hard_state(store, 9, 41));
    refused("terms go back", &|store| put_hard_state(store, 8, 12)).unwrap();
    at_start("a row of the raft family is missing", &|store| {
        put(store, Family::Raft, raft_hard_state_key(GROUP), None);
    });
    at_start("does not place replica 9", &|store| {
        let local =
            LocalState { truncated_index: 5, truncated_term: 5, incarnation: Incarnation(9) };
        put(store, Family::Raft, raft_local_key(GROUP), Some(local.encode()));
    });
    let (_directory, store) = new_store();
    grown(&store, 20);
    put(&store, Family::Raft, raft_local_key(GROUP), Some(vec![9]));
    assert!(matches!(
        load(&store, NODE).unwrap_err(),
        BootError::Group(GroupRowsError::Row { group: GROUP, .. })
    ));
}

#[test]
fn groups_without_state_are_reported_and_left_alone() {
    let (_directory, store) = new_store();
    create_group(&store, &new_group(GROUP), &[]).unwrap();
    for group in [GroupId(1), GroupId(9), GroupId(u64::MAX)] {
        put(&store, Family::Raft, raft_entry_key(group, 6), Some(vec![1]));
    }
    let boot = load(&store, NODE).unwrap();
    assert_eq!(boot.orphans, [GroupId(1), GroupId(9), GroupId(u64::MAX)]);
    assert_eq!(boot.records, []);
    let sleeping: Vec<GroupId> = boot.sleeping.iter().map(|status| status.group).collect();
    assert_eq!(sleeping, [GROUP]);
}

#[test]
fn a_sleeping_group_tells_where_it_stands() {
    let (_directory, store) = new_store();
    grown(&store, 20);
    let status = load(&store, NODE).unwrap().sleeping.remove(0);
    assert!(status.is_asleep && status.is_readable());
    assert_eq!((status.term, status.commit, status.applied), (9, 20, 20));
    assert_eq!((status.first_index, status.last_index), (6, 40));
    assert_eq!((status.voters, status.conf_state.voters), (vec![1, 2, 3], vec![1, 2, 3]));
    assert_eq!(status.incarnation, Incarnation(1));
}

#[test]
fn a_replica_that_joins_begins_with_nothing() {
    let (_directory, store) = new_store();
    let replicas = [1, 2].map(|id| Replica { incarnation: Incarnation(id), node: NodeId(id) });
    let record = BootRecord::added_replica(GROUP, Incarnation(1), replicas.to_vec());
    create_group(&store, &record, &[]).unwrap();
    assert_eq!(load_group(&store, NODE, GROUP).unwrap(), record);
    let status = load(&store, NODE).unwrap().sleeping.remove(0);
    assert!(!status.is_readable(), "nothing can be read before its first snapshot");
    assert_eq!((status.first_index, status.last_index, status.applied), (1, 0, 0));
}

#[test]
fn a_group_that_the_node_has_left_is_reported_and_left_alone() {
    let (_directory, store) = new_store();
    grown(&store, 20);
    let boot = load(&store, NodeId(7)).unwrap();
    assert_eq!((boot.removed, boot.sleeping, boot.orphans), (vec![GROUP], vec![], vec![]));
    let error = load_group(&store, NodeId(7), GROUP).unwrap_err();
    assert!(
        matches!(error, BootError::Group(GroupRowsError::Removed { group: GROUP, .. })),
        "{error}"
    );
}
